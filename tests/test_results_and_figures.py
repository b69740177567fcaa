"""Reader, figures and summary on synthetic studies: what they refuse, and what they show."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from common import figures, schema
from common.results import ResultsError, Study, find_studies, learning_rate_text, load_study, stopping_cell
from common.summary import study_summary

GRID = (1e-4, 1e-3, 1e-2, 1e-1)
LEVELS = {"scaled": (-38_500.0, -389.0), "thesis": (-100.0, -29.0), "interior": (-200.0, -71.0)}
AGENTS = 3


def write_study(
    root: Path,
    actor_lrs: tuple[float, ...] = (1e-3, 1e-1),
    critic_lrs: tuple[float, ...] = (1e-3, 1e-1),
    seeds: tuple[int, ...] = (42,),
    episodes: int = 400,
    preset: str = "scaled",
    stops: Callable[[int, float, float], int | None] = lambda seed, actor, critic: None,
    diverges: Callable[[int, float, float], int | None] = lambda seed, actor, critic: None,
) -> Path:
    """Write a plausible study to `root/preset/baseline`; `stops` and `diverges` give a run's episode or None.

    Gradients of a run with actor learning rate 1e-2 or more are exactly zero from episode 60 on.
    """
    tables: dict[str, list[list[object]]] = {name: [] for name in schema.FILES}
    random, greedy = LEVELS[preset]
    for seed in seeds:
        for policy, value in zip(schema.POLICIES, (random, greedy * 1.6, greedy * 1.05, greedy), strict=True):
            alpha = 0.01 if policy == "constant" else ""
            tables[schema.REFERENCE_POLICIES].append([seed, policy, alpha, value * (1 + seed / 1e4), 1, 0, 0])
        for actor_lr in actor_lrs:
            for critic_lr in critic_lrs:
                stop, diverged = stops(seed, actor_lr, critic_lr), diverges(seed, actor_lr, critic_lr)
                total = diverged or (min(stop + 100, episodes) if stop else episodes)
                key = [seed, actor_lr, critic_lr]
                noise = np.random.default_rng([seed, int(1 / actor_lr), int(1 / critic_lr)])
                last_return, largest = _write_run(tables, key, total, random, greedy, noise)
                status = (
                    schema.DIVERGED if diverged else schema.STOPPED_EARLY if total < episodes else schema.COMPLETED
                )
                score = "" if diverged else (last_return - random) / (greedy - random)
                tables[schema.RUNS].append([
                    *key, preset, "baseline", status, diverged or "", stop or "", total, 1, 1, 3, stop or "",
                    random, last_return, random, last_return, score, 0.99, 0.5, largest, 12.5,
                    "cpu", "3.11", "2.0", "2.0",
                ])
                for agent in range(AGENTS):
                    tables[schema.STOPPING_EPISODES].append([*key, agent, 3, stop or "", stop or ""])
    folder = root / preset / "baseline"
    folder.mkdir(parents=True)
    for name, rows in tables.items():
        with (folder / name).open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([schema.FILES[name], *rows])
    return folder


def _write_run(
    tables: dict[str, list[list[object]]], key: list[float], total: int, random: float, greedy: float,
    noise: np.random.Generator,
) -> tuple[float, float]:
    """Append the rows of one run's episodes; return its last evaluation return and its largest |z|."""
    actor_lr = key[1]
    value, largest = random, 1.0
    for episode in range(total + 1):
        progress = min(1.0, episode * math.sqrt(actor_lr) / 40) * (0.95 if actor_lr < 5e-3 else 0.35)
        value = -math.exp(math.log(-random) + progress * math.log(greedy / random)) * noise.uniform(0.95, 1.05)
        if episode % 50 == 0:
            tables[schema.EVALUATIONS].append([*key, episode, value, 0.9, 0.1, 4.2])
        if episode:
            tables[schema.REWARDS].append([*key, episode, value, 0.9, 0.1])
        if not (episode == 2 or episode and episode % 10 == 0):
            continue
        largest = 1 + episode ** min(1.8, 40 * actor_lr**0.4) * actor_lr * 300
        dead = actor_lr >= 1e-2 and episode >= 60
        actor = 0.0 if dead else 1e-2 * math.exp(-episode * actor_lr) * noise.lognormal(0, 0.7)
        critic = 1e5 * noise.lognormal(0, 0.8) * (key[2] ** -0.3)
        tables[schema.GRADIENT_NORMS].append([
            *key, episode, actor, critic, actor / critic, *[actor / 2] * 3, *[critic / 2] * 3, actor_lr,
            key[2], 0.3, actor, critic,
        ])
        ratio = 1 - math.exp(-episode * actor_lr / 2 - 0.002 * episode)
        wrong = "" if episode < 4 else 0.5 + 0.3 * math.sin(episode / 300 + key[2])
        tables[schema.SATURATION].append([
            *key, episode, ratio, ratio, ratio, ratio, wrong, 1 - ratio, 0, largest / 3, -largest, -largest / 2,
            -1, 0, 1, largest / 2, largest / 3,
        ])
    return value, largest


def edit(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text()))


def heatmap_texts(study: Study) -> list[str]:
    """Texts of the heatmap's cells, row by row from the smallest actor learning rate."""
    axes = figures.stopping_heatmap(study.runs).axes[0]
    return [text.get_text() for text in axes.texts]
