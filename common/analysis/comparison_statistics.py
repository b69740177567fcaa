"""Experiments side by side: rows of their CSV files in, one row per experiment out; no files.

The unit of every interval is the seed: the runs of one seed share agents, tasks and initial weights, so the cells
(pairs of learning rates) of a seed are first brought to one number. Columns: docs/csv_columns.md, comparison.csv.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t

from common.recording import schema
from common.recording.results import score_ages, stopping_cell

BASELINE = "baseline"
CONFIDENCE = 0.95
KEY = list(schema.RUN_KEY)
CELL = ["actor_lr", "critic_lr"]
# Of comparison.csv, in order. Counts are whole numbers or empty, all others but the first are floats or empty.
COLUMNS = (
    "experiment",
    "runs",
    "seeds",
    "cells",
    "longest_run_episodes",
    "diverged_runs",
    "runs_never_stopping",
    "cells_never_stopping",
    "improved_runs",
    "improved_cells",
    "cells_with_two_seeds",
    "paired_runs",
    "paired_runs_without_score",
    "runs_better_than_baseline",
    "runs_better_than_untrained_baseline",
    "cells_better_than_baseline",
    "cells_worse_than_baseline",
    "paired_score_difference",
    "paired_score_difference_low",
    "paired_score_difference_high",
    "dead_agents_share",
    "median_death_episode",
    "frozen_agents_share",
    "median_freeze_episode",
    "median_final_saturation",
    "median_final_wrong_side_saturation",
    "untrained_score",
    "median_score",
    "median_score_low",
    "median_score_high",
    "best_score",
    "best_score_seed",
    "best_score_actor_lr",
    "best_score_critic_lr",
)
COUNTS = (*COLUMNS[1:17], "best_score_seed")
PAIRED = COLUMNS[11:20]  # empty for the baseline itself and where there is no baseline
OF_A_FINISHED_RUN = (
    "final_evaluation_return",
    "normalised_score",
    "final_saturation_ratio",
    "final_wrong_side_saturation",
)
REFERENCE_TOLERANCE = 1e-3  # relative; processors round differently, other agents or tasks differ by percents


def in_order(runs: pd.DataFrame) -> list[str]:
    """Experiments of the rows: the baseline first, then by name."""
    return sorted(runs["experiment"].unique(), key=lambda name: (name != BASELINE, name))


def comparison_table(runs: pd.DataFrame, agents: pd.DataFrame, references: pd.DataFrame) -> pd.DataFrame:
    """One row per experiment with the columns COLUMNS, the baseline first, then by name.

    `runs`: rows of runs.csv of one preset; `agents`: of stopping_episodes.csv; `references`: of
    reference_policies.csv; all of all its experiments, told apart by a column `experiment`. The order of the rows does
    not matter. Definitions: docs/algorithm.md#scores and docs/csv_columns.md, comparison.csv.
    """
    known = only_finished(runs).sort_values(["experiment", *KEY], ignore_index=True)
    baseline = known[known["experiment"] == BASELINE]
    rows = []
    for name in in_order(known):
        own = known[known["experiment"] == name]
        paired = {} if name == BASELINE or baseline.empty else _against(own, baseline)
        worlds = references[references["experiment"] == name]
        row = {"experiment": name, **_progress(own), **paired, **_scores(own)}
        row["untrained_score"] = _untrained(own, worlds)
        rows.append({**row, **_standstill(agents[agents["experiment"] == name]), **_saturation(own)})
    table = pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)
    types = {name: "Int64" if name in COUNTS else "float64" for name in COLUMNS if name != "experiment"}
    return table.astype(types)


def only_finished(runs: pd.DataFrame) -> pd.DataFrame:
    """The same rows, final numbers NaN where the run diverged (they describe no policy) or they are not finite."""
    final = runs[list(OF_A_FINISHED_RUN)].where(runs["status"] != schema.DIVERGED)
    return runs.assign(**final.where(np.isfinite(final)))


def t_interval(values: Iterable[float]) -> tuple[float, float, float]:
    """Mean of independent values with the ends of its 95% interval, Student's t with n − 1 degrees of freedom.

    The ends are NaN for fewer than two values, the mean is for none.
    """
    numbers = np.asarray(list(values), dtype=float)
    mean = float(numbers.mean()) if len(numbers) else math.nan
    if len(numbers) < 2:
        return mean, math.nan, math.nan
    half = float(t.ppf((1 + CONFIDENCE) / 2, len(numbers) - 1) * numbers.std(ddof=1)) / math.sqrt(len(numbers))
    return mean, mean - half, mean + half


def pair_runs(runs: pd.DataFrame, baseline: pd.DataFrame) -> pd.DataFrame:
    """Rows seed, actor_lr, critic_lr, difference: normalised score above the baseline's run of the same key.

    Only keys that both have; the difference is NaN where either run has no score.
    """
    both = runs[[*KEY, "normalised_score"]].merge(baseline[[*KEY, "normalised_score"]], on=KEY, suffixes=("", "_base"))
    difference = both["normalised_score"] - both["normalised_score_base"]
    return both[KEY].assign(difference=difference).sort_values(KEY, ignore_index=True)


def comparability_warnings(runs: pd.DataFrame, references: pd.DataFrame) -> list[str]:
    """A line where scores are not of one age, and one for each experiment that is not whole or not like the baseline.

    `runs` as for `comparison_table`; `references`: rows of reference_policies.csv with a column `experiment`.
    """
    names = in_order(runs)
    of = {name: runs[runs["experiment"] == name] for name in names}
    worlds = references[references["policy"].isin(("random", "greedy_offload"))]
    world_of = {name: worlds[worlds["experiment"] == name] for name in names}
    lines = [] if BASELINE in of else [f"no study {BASELINE}: the columns that compare with it stay empty"]
    for name, own in of.items():
        parts = []
        whole = own["seed"].nunique() * len(own[CELL].drop_duplicates())
        if len(own) < whole:
            parts.append(f"{len(own)} of {whole} runs are there (cells × seeds)")
        if BASELINE in of and name != BASELINE:
            parts += _unlike(own, of[BASELINE], world_of[name], world_of[BASELINE])
        if parts:
            lines.append(f"{name}: {'; '.join(parts)}")
    return lines + _different_ages(of)


def _different_ages(runs: dict[str, pd.DataFrame]) -> list[str]:
    """A line that names the ages of the scores and whose they are, unless all scores have one. `runs` by experiment."""
    if pd.concat(runs.values())["score_episode"].nunique() < 2:
        return []
    whose: dict[str, list[str]] = {}
    for name, own in runs.items():
        whose.setdefault(score_ages(own), []).append(name)
    ages = ", ".join(f"{age} ({', '.join(names)})" for age, names in whose.items())
    return [f"scores are not of one age and do not compare: {ages}; --stopping-only compares without them"]


def _progress(runs: pd.DataFrame) -> dict[str, Any]:
    """Sizes, stopping, and improvement over the untrained policy. A diverged run neither goes on nor improves."""
    gain = runs["final_evaluation_return"] - runs["first_evaluation_return"]
    cells = [(stopping_cell(cell), gain[cell.index]) for _, cell in runs.groupby(CELL)]
    several = [gains for _, gains in cells if len(gains) > 1]
    return {
        "runs": len(runs),
        "seeds": runs["seed"].nunique(),
        "cells": len(cells),
        "longest_run_episodes": int(runs["total_episodes"].max()),
        "diverged_runs": int((runs["status"] == schema.DIVERGED).sum()),
        "runs_never_stopping": sum(stops.never for stops, _ in cells),
        "cells_never_stopping": sum(stops.never == stops.seeds for stops, _ in cells),
        "improved_runs": int((gain > 0).sum()),
        "improved_cells": sum(t_interval(gains)[1] > 0 for gains in several) if several else None,
        "cells_with_two_seeds": len(several),
    }


def _against(runs: pd.DataFrame, baseline: pd.DataFrame) -> dict[str, Any]:
    pairs = pair_runs(runs, baseline)
    scored = pairs.dropna(subset="difference")
    seed_means = scored.groupby("seed")["difference"].mean()
    both = runs.merge(baseline[[*KEY, "first_evaluation_return"]], on=KEY, suffixes=("", "_base"))
    above = both["final_evaluation_return"] > both["first_evaluation_return_base"]
    cells = [cell["difference"] for _, cell in pairs.groupby(CELL) if len(cell) > 1]
    ends = [t_interval(cell)[1:] for cell in cells]  # NaN where a run has no score: neither better nor worse
    shown = (sum(low > 0 for low, _ in ends), sum(high < 0 for _, high in ends)) if cells else (None, None)
    counts = (len(pairs), len(pairs) - len(scored), int((pairs["difference"] > 0).sum()), int(above.sum()), *shown)
    return dict(zip(PAIRED, (*counts, *t_interval(seed_means)), strict=True))


def _untrained(runs: pd.DataFrame, references: pd.DataFrame) -> float:
    """Normalised score of the untrained policies: mean over the runs of each seed, then over seeds."""
    worlds = references.pivot(index="seed", columns="policy", values="evaluation_return")
    low, high = (worlds[name].reindex(runs["seed"]).to_numpy() for name in ("random", "greedy_offload"))
    scores = (runs["first_evaluation_return"] - low) / (high - low)
    return float(scores.groupby(runs["seed"]).mean().mean())


def _scores(runs: pd.DataFrame) -> dict[str, Any]:
    """Median over the cells of each seed, a run without score below any other, and the best run."""
    scores = runs["normalised_score"]
    medians = scores.fillna(-math.inf).groupby(runs["seed"]).median()
    middle = t_interval(medians) if np.isfinite(medians).all() else (math.nan,) * 3
    found = dict(zip(("median_score", "median_score_low", "median_score_high"), middle, strict=True))
    if scores.notna().any():
        best = runs.loc[scores.idxmax()]
        found |= {"best_score": best["normalised_score"], **{f"best_score_{name}": best[name] for name in KEY}}
    return found


def _standstill(agents: pd.DataFrame) -> dict[str, float]:
    death, freeze = agents["gradient_death_episode"], agents["freeze_episode"]
    return {
        "dead_agents_share": death.notna().mean(),
        "median_death_episode": death.median(),
        "frozen_agents_share": freeze.notna().mean(),
        "median_freeze_episode": freeze.median(),
    }


def _saturation(runs: pd.DataFrame) -> dict[str, float]:
    return {
        "median_final_saturation": runs["final_saturation_ratio"].median(),
        "median_final_wrong_side_saturation": runs["final_wrong_side_saturation"].median(),
    }


def _unlike(own: pd.DataFrame, baseline: pd.DataFrame, own_world: pd.DataFrame, world: pd.DataFrame) -> list[str]:
    """What, beside the experiment's difference, sets its runs apart from the baseline's."""
    parts = []
    keys, base_keys = (set(rows[KEY].itertuples(index=False, name=None)) for rows in (own, baseline))
    if keys != base_keys:
        text = f"only {len(keys & base_keys)} pairs of runs to compare"
        if lacking := base_keys - keys:
            text += f", {len(lacking)} of the baseline's {len(base_keys)} runs are not here"
        if alone := keys - base_keys:
            text += f", {len(alone)} of the {len(keys)} here are not in the baseline"
        parts.append(text)
    lengths = [set(rows.loc[rows["status"] == schema.COMPLETED, "total_episodes"]) for rows in (own, baseline)]
    if all(lengths) and lengths[0] != lengths[1]:
        texts = [" and ".join(f"{length:.0f}" for length in sorted(some)) for some in lengths]
        parts.append(f"trained {texts[0]} episodes, the baseline {texts[1]}")
    both = own_world.merge(world, on=["seed", "policy"], suffixes=("", "_base"))
    returns, base_returns = both["evaluation_return"], both["evaluation_return_base"]
    if ((returns - base_returns).abs() > REFERENCE_TOLERANCE * base_returns.abs()).any():
        parts.append("its reference policies do other than the baseline's: other agents or tasks, scores do not pair")
    return parts
