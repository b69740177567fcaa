"""A plausible study, written without training anything: for tests of what reads one."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from common.recording import schema

GRID = (1e-4, 1e-3, 1e-2, 1e-1)
LEVELS = {"scaled": (-38_500.0, -389.0), "thesis": (-100.0, -29.0), "interior": (-200.0, -71.0)}
AGENTS = 3

Tables = dict[str, list[dict[str, Any]]]


def write_study(
    root: Path,
    actor_lrs: tuple[float, ...] = (1e-3, 1e-1),
    critic_lrs: tuple[float, ...] = (1e-3, 1e-1),
    seeds: tuple[int, ...] = (42,),
    episodes: int = 400,
    preset: str = "scaled",
    stops: Callable[[int, float, float], int | None] = lambda seed, actor, critic: None,
    diverges: Callable[[int, float, float], int | None] = lambda seed, actor, critic: None,
    lacking: dict[str, tuple[str, ...]] | None = None,
) -> Path:
    """Write a study to `root/preset/baseline`; `stops` and `diverges` give a run's episode or None.

    Gradients of a run with actor learning rate 1e-2 or more are exactly zero from episode 60 on. `lacking` are columns
    that are left out, by file.
    """
    tables: Tables = {name: [] for name in schema.FILES}
    random, greedy = LEVELS[preset]
    for seed in seeds:
        for policy, value in zip(schema.POLICIES, (random, greedy * 1.6, greedy * 1.05, greedy), strict=True):
            tables[schema.REFERENCE_POLICIES].append({
                "seed": seed, "policy": policy, "alpha": 0.01 if policy == "constant" else "",
                "evaluation_return": value * (1 + (seed - 42) / 1e4), "late_share": 1, "drained_share": 0,
                "offloads_per_step": 0,
            })  # fmt: skip
        for actor_lr in actor_lrs:
            for critic_lr in critic_lrs:
                stop, diverged = stops(seed, actor_lr, critic_lr), diverges(seed, actor_lr, critic_lr)
                total = diverged or (min(stop + 100, episodes) if stop else episodes)
                key = {"seed": seed, "actor_lr": actor_lr, "critic_lr": critic_lr}
                noise = np.random.default_rng([seed, int(1 / actor_lr), int(1 / critic_lr)])
                returns, largest = _write_run(tables, key, total, random, greedy, noise)
                last, best = returns[-1], max(returns)
                status = schema.STOPPED_EARLY if total < episodes else schema.COMPLETED
                final = {} if diverged else {
                    "score_episode": total // 50 * 50, "final_evaluation_return": last,
                    "normalised_score": (last - random) / (greedy - random),
                    "drift": (best - last) / (greedy - random),
                }  # fmt: skip
                tables[schema.RUNS].append({
                    **key, "preset": preset, "experiment": "baseline",
                    "status": schema.DIVERGED if diverged else status, "diverged_episode": diverged,
                    "stopping_episode": stop, "total_episodes": total, "frozen_share": 1, "dead_share": 1,
                    "median_death_episode": 3, "median_freeze_episode": stop, "first_100_mean_return": random,
                    "last_100_mean_return": last, "first_evaluation_return": returns[0],
                    "best_evaluation_return": best, "best_score": (best - random) / (greedy - random),
                    "final_saturation_ratio": 0.99, "final_wrong_side_saturation": 0.5,
                    "largest_abs_preactivation": largest, "wall_seconds": 12.5, "device": "cpu", **final,
                    "python_version": "3.11", "torch_version": "2.0", "numpy_version": "2.0",
                })  # fmt: skip
                for agent in range(AGENTS):
                    tables[schema.STOPPING_EPISODES].append({
                        **key, "agent": agent, "gradient_death_episode": 3, "first_unchanged_episode": stop,
                        "freeze_episode": stop, "first_side_offload": 0.1, "last_side_offload": 1,
                    })  # fmt: skip
    return write_tables(root / preset / "baseline", tables, lacking or {})


def write_tables(folder: Path, tables: Tables, lacking: Mapping[str, Sequence[str]] = MappingProxyType({})) -> Path:
    """Write a study's files; cells that a row doesn't name are empty, `lacking` columns left out, by file."""
    folder.mkdir(parents=True)
    for name, rows in tables.items():
        columns = [column for column in schema.FILES[name] if column not in lacking.get(name, ())]
        with (folder / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
    return folder


def _write_run(
    tables: Tables, key: dict[str, float], total: int, random: float, greedy: float, noise: np.random.Generator
) -> tuple[list[float], float]:
    """Append the rows of one run's episodes; return its evaluation returns and its largest |z|."""
    actor_lr, critic_lr = key["actor_lr"], key["critic_lr"]
    largest, returns = 1.0, []
    for episode in range(total + 1):
        at = {**key, "episode": episode}
        progress = min(1.0, episode * math.sqrt(actor_lr) / 40) * (0.95 if actor_lr < 5e-3 else 0.35)
        value = random * (greedy / random) ** progress * noise.uniform(0.95, 1.05)
        shares = {"late_share": 0.9, "drained_share": 0.1}
        if episode % 50 == 0:
            returns.append(value)
            tables[schema.EVALUATIONS].append({**at, "evaluation_return": value, **shares, "offloads_per_step": 4.2})
        if episode:
            tables[schema.REWARDS].append({**at, "training_return": value, **shares})
        if not (episode == 2 or (episode and episode % 10 == 0)):
            continue
        largest = 1 + episode ** min(1.8, 40 * actor_lr**0.4) * actor_lr * 300
        dead = actor_lr >= 1e-2 and episode >= 60
        actor = 0.0 if dead else 1e-2 * math.exp(-episode * actor_lr) * noise.lognormal(0, 0.7)
        critic = 1e5 * noise.lognormal(0, 0.8) * (critic_lr**-0.3)
        tables[schema.GRADIENT_NORMS].append({
            **at, "actor_gradient_norm": actor, "critic_gradient_norm": critic, "gradient_ratio": actor / critic,
            **{f"actor_fc{i}": actor / 2 for i in (1, 2, 3)}, **{f"critic_fc{i}": critic / 2 for i in (1, 2, 3)},
            "actor_update_norm": actor_lr, "critic_update_norm": critic_lr, "actor_relative_step": actor_lr / 9,
            "critic_relative_step": critic_lr / 9, "mean_abs_dq_da": 0.3, "actor_clipped_norm": actor,
            "critic_clipped_norm": critic,
        })  # fmt: skip
        ratio = 1 - math.exp(-episode * actor_lr / 2 - 0.002 * episode)
        quantiles = zip((1, 25, 50, 75, 99), (-largest / 2, -1, 0, 1, largest / 2), strict=True)
        tables[schema.SATURATION].append({
            **at, "saturation_ratio": ratio,
            **{f"saturation_{name}": ratio for name in ("offload", "compute", "power")},
            "wrong_side_saturation": "" if episode < 4 else 0.5 + 0.3 * math.sin(episode / 300 + critic_lr),
            "stuck_share": ratio / 2, "bang_bang_share": ratio / 3, "tanh_derivative": 1 - ratio,
            "zero_derivative_share": ratio / 4, "dq_da_sign_coherence": 0.9, "dq_da_alignment_compute": 0.5 - ratio,
            "dq_da_alignment_power": 0.1, "z_step_rms": actor_lr, "z_mean": 0,
            "z_sd": largest / 3, "z_min": -largest, "z_max": largest / 3,
            **{f"z_q{percent:02d}": z for percent, z in quantiles},
        })  # fmt: skip
    return returns, largest


def edit(path: Path, change: Callable[[str], str]) -> None:
    """Rewrite a file's text."""
    path.write_text(change(path.read_text()))


def explained(file: str) -> list[str]:
    """Columns that docs/csv_columns.md explains in the section of a file."""
    text = (Path(__file__).resolve().parents[1] / "docs" / "csv_columns.md").read_text()
    section = text.partition(f"\n## {file}")[2].partition("\n## ")[0]
    return [name for row in re.findall(r"^\| (`.*?) \|", section, re.M) for name in re.findall(r"`(\w+)`", row)]
