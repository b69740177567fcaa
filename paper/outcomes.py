"""An experiment's outcome on `scaled` in the terms of the published table, and whether the two agree, by rule."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from common.analysis.comparison_statistics import BASELINE, only_finished, pair_runs
from common.analysis.statistics import reproduces
from common.config import GRID, StudyConfig
from common.recording.schema import DIVERGED

ROOT = Path(__file__).resolve().parents[1]
CELLS = len(GRID) ** 2
FACTOR = 3.0  # by which a published ratio may be missed likewise
TOO_SLOW = 2.0  # times the baseline's time per episode above which an experiment counts as too slow


@dataclass(frozen=True)
class Outcome:
    """What the published table has a column for; counts are pairs of learning rates, means over seeds."""

    never: float  # pairs that never stop
    better: float  # pairs that score higher at the end than the baseline's run of the same seed and rates; NaN: itself
    largest: float  # largest pre-activation of the grid over the baseline's
    cost: float  # time per episode over the baseline's; NaN: not measured


def outcome(name: str, runs: pd.DataFrame, baseline: pd.DataFrame) -> Outcome:
    """From rows of runs.csv of an experiment and of the baseline."""
    pairs = pair_runs(only_finished(runs), only_finished(baseline))
    own, base = (rows.groupby("seed")["largest_abs_preactivation"].max() for rows in (runs, baseline))
    itself = runs["experiment"].iloc[0] == BASELINE
    better = float("nan") if itself else CELLS * float((pairs["difference"] > 0).mean())
    never = CELLS * float(never_stopping(runs).mean())
    return Outcome(never, better, float((own / base).dropna().mean()), cost_ratio(name))


def never_stopping(runs: pd.DataFrame) -> pd.Series:
    """Runs that did not stop; one that diverged was not observed long enough."""
    return runs["stopping_episode"].isna() & (runs["status"] != DIVERGED)


def cost_ratio(name: str) -> float:
    """Time per episode over the baseline's, from the benchmark's file; NaN where it is not measured."""
    rows = pd.read_csv(ROOT / "benchmarks" / "results" / "experiments_cpu.csv").set_index("experiment")
    return float(rows["ratio"].get(name, float("nan")))


def second_change(double: Path, single: Path) -> dict[str, Any]:
    """Fields of the configuration in which two studies of an experiment differ, with the value of `double`."""
    one, other = (
        StudyConfig().result_fields() | json.loads((folder / "study.json").read_text())["configuration"]
        for folder in (double, single)
    )
    return {key: one[key] for key in one if one[key] != other[key] and key not in ("episodes", "seeds", "results_dir")}


def same_majority(there: float, here: float) -> bool:
    """Whether counts of pairs are on the same side of half; a published half must be inside the count's interval."""
    half = CELLS / 2
    return reproduces(here, there, CELLS) if there == half else (here > half) == (there > half)


def verdict(published: pd.Series, here: Outcome) -> tuple[str, str]:
    """Whether an outcome agrees with the published one: yes, partly, no or `nothing to compare`, and why."""
    claims = []
    if pd.notna(published.cells_never_stopping):
        there = published.cells_never_stopping
        text = f"{there:.0f} of {CELLS} pairs never stopped there, {here.never:.1f} here"
        claims.append((reproduces(here.never, there, CELLS), text))
    if pd.notna(published.cells_better_than_baseline):
        there = published.cells_better_than_baseline
        text = (
            f"{there:.0f} of {CELLS} pairs had a better mean return than the baseline's there, {here.better:.1f} a "
            "better final evaluation here"
        )
        claims.append((same_majority(there, here.better), text))
    if pd.notna(published.largest_preactivation_over_baseline):
        there = published.largest_preactivation_over_baseline
        text = f"the largest pre-activation was {there:.0f} times the baseline's there, {here.largest:.2g} times here"
        claims.append((there / FACTOR <= here.largest <= there * FACTOR, text))
    if pd.notna(published.too_slow):
        claims.append((here.cost > TOO_SLOW, f"it costs {here.cost:.2f} times the baseline's time per episode here"))
    if not claims:
        return "nothing to compare", "no outcome was published"
    agree = sum(same for same, _ in claims)
    word = "yes" if agree == len(claims) else ("partly" if agree else "no")
    return word, "; ".join(text for _, text in claims)
