"""Studies of a few runs whose every number is written by hand, in the recorded format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from synthetic_study import Tables, write_tables

from common.recording import schema

RETURNS = {"random": -100, "constant": -20, "local_oracle": -15, "greedy_offload": 0}  # a return R scores 1 + R / 100
LOGGED = (
    "episode", "actor", "critic", "ratio", "dq_da", "tanh", "largest_z", "wrong", "fc1", "actor_step", "critic_step",
)  # fmt: skip
ONE_LOG = [(2, 1, 1, 1, 1, 1, 1, "", 1, 1, 1)]
QUANTILES = {"z_q01": -1, "z_q25": -0.5, "z_q50": 0, "z_q75": 0.5, "z_q99": 0.5}  # as shares of the largest |z|


def write_study(
    folder: Path, runs: list[dict[str, Any]], preset: str, configuration: dict[str, Any] | None = None
) -> None:
    """Write `runs` as the study `folder`; what a run does not say is empty.

    A run: `key` (seed, actor_lr, critic_lr), `scores` {episode: score}, and optionally `stop`, `status`, `saturation`,
    `largest_z`, `seconds`, `agents` [(death, unchanged, freeze)], `logs` [values of LOGGED], `slopes` [cosine with the
    reward's slope, by log], `sides` [(first, last)].
    """
    tables: Tables = {name: [] for name in schema.FILES}
    for seed in sorted({run["key"][0] for run in runs}):
        tables[schema.REFERENCE_POLICIES] += [
            {"seed": seed, "policy": policy, "alpha": 0.5 if policy == "constant" else "", "evaluation_return": value}
            for policy, value in RETURNS.items()
        ]
    for run in runs:
        key = dict(zip(schema.RUN_KEY, run["key"], strict=True))
        logs = [dict(zip(LOGGED, row, strict=True)) for row in run.get("logs", ONE_LOG)]
        first, *_, last = run["scores"].items()
        best = max(run["scores"].values())
        status = run.get("status", schema.COMPLETED)
        final = {
            "score_episode": last[0], "final_evaluation_return": _return(last[1]), "normalised_score": last[1],
            "drift": round(best - last[1], 9),
        }  # fmt: skip
        tables[schema.RUNS].append({
            **key, "preset": preset, "experiment": folder.name.split("-")[0], "status": status,
            "stopping_episode": run.get("stop", ""), "total_episodes": last[0],
            "first_evaluation_return": _return(first[1]), "best_evaluation_return": _return(best), "best_score": best,
            "wall_seconds": run.get("seconds", 60), "largest_abs_preactivation": run.get("largest_z", 1),
            "final_saturation_ratio": run.get("saturation", 0), "final_wrong_side_saturation": logs[-1]["wrong"],
            **(final if status != schema.DIVERGED else {}),
        })  # fmt: skip
        for episode, score in run["scores"].items():
            tables[schema.EVALUATIONS].append({**key, "episode": episode, "evaluation_return": _return(score)})
        for agent, (death, unchanged, freeze) in enumerate(run.get("agents", [("", "", "")])):
            first_side, last_side = run["sides"][agent] if "sides" in run else ("", "")
            tables[schema.STOPPING_EPISODES].append({
                **key, "agent": agent, "gradient_death_episode": death, "first_unchanged_episode": unchanged,
                "freeze_episode": freeze, "first_side_compute": first_side, "last_side_compute": last_side,
            })  # fmt: skip
        for row, slope in zip(logs, run.get("slopes", [""] * len(logs)), strict=True):
            at, z = {**key, "episode": row["episode"]}, row["largest_z"]
            tables[schema.REWARDS].append({**at, "training_return": -1})
            tables[schema.GRADIENT_NORMS].append({
                **at, "actor_gradient_norm": row["actor"], "critic_gradient_norm": row["critic"],
                "gradient_ratio": row["ratio"], "mean_abs_dq_da": row["dq_da"], "critic_fc1": row["fc1"],
                **dict.fromkeys(("critic_fc2", "critic_fc3", "actor_fc1", "actor_fc2", "actor_fc3"), 1),
                "actor_update_norm": row["actor_step"], "critic_update_norm": row["critic_step"],
            })  # fmt: skip
            tables[schema.SATURATION].append({
                **at, "tanh_derivative": row["tanh"], "wrong_side_saturation": row["wrong"], "z_min": -z,
                "z_max": z / 2, "saturation_ratio": run.get("saturation", 0), "dq_da_alignment_compute": slope,
                **{name: x * z for name, x in QUANTILES.items()},
            })  # fmt: skip
    write_tables(folder, tables)
    (folder / "study.json").write_text(json.dumps({"configuration": configuration or {}}))


def _return(score: float) -> float:
    return round(100 * score - 100, 6)
