"""Experiments side by side: rows of their CSV files in, one row per experiment and per cell out; no files.

A cell is a pair of learning rates. The unit of every interval and test is the seed: the runs of one seed share agents,
tasks and initial weights, so what covers several cells is first brought to one number per seed. Columns and
definitions: docs/csv_columns.md, comparison.csv and comparison_cells.csv.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from common.analysis.statistics import CONFIDENCE, benjamini_hochberg, holm, t_test, wilson_interval
from common.recording import schema
from common.recording.results import SCORE_ENDS, Study, normalised_scores, score_ages, stopping_cell

BASELINE, FROZEN = "baseline", "frozen_actors"
LIKE = {"clamped_rates": "recipe"}  # experiments whose frozen actors are another's
FEWEST = 5  # seeds from which intervals and p-values are given; of fewer, seeds are counted
VIABLE = 0.5  # mean score over seeds from which a cell is worth its training
KEY = list(schema.RUN_KEY)
CELL = ["actor_lr", "critic_lr"]
TEXTS = ["experiment", "frozen_control"]


OF_A_FINISHED_RUN = [
    "final_evaluation_return", "normalised_score", "final_saturation_ratio", "final_wrong_side_saturation",
]  # fmt: skip
REFERENCE_TOLERANCE = 1e-3  # relative; processors round differently, other agents or tasks differ by percents


def in_order(runs: pd.DataFrame) -> list[str]:
    """Experiments of the rows: the baseline first, then by name."""
    return sorted(runs["experiment"].unique(), key=lambda name: (name != BASELINE, name))


def is_frozen(name: str) -> bool:
    """Whether the actors of a study are frozen by design: it is a control and has no partners in the baseline."""
    return name.split("-")[0] == FROZEN


def frozen_control(name: str, names: Iterable[str]) -> str | None:
    """The study of frozen actors that an experiment is held against: with the same change, else the plain one.

    An experiment `recipe`, also with options of its own (`recipe-without-…`), goes with `frozen_actors-with-recipe`, as
    does `clamped_rates`, which is the recipe but for how it keeps steps small.
    """
    family = LIKE.get(name, name.split("-")[0])
    wanted = [f"{FROZEN}-with-{name}", f"{FROZEN}-with-{family}", FROZEN]
    return None if is_frozen(name) else next((control for control in wanted if control in set(names)), None)


def only_finished(runs: pd.DataFrame) -> pd.DataFrame:
    """The same rows, final numbers NaN where the run diverged (they describe no policy) or they are not finite."""
    final = runs[OF_A_FINISHED_RUN].where(runs["status"] != schema.DIVERGED)
    return runs.assign(**final.where(np.isfinite(final)))


def pair_runs(runs: pd.DataFrame, baseline: pd.DataFrame) -> pd.DataFrame:
    """Of the runs whose key the baseline has: seed, actor_lr, critic_lr, and what each is above the baseline's run.

    `difference` is that of the normalised scores, `above_untrained` the final return above the partner's return before
    training; NaN where a run has none.
    """
    both = runs.merge(baseline, on=KEY, suffixes=("", "_base")).sort_values(KEY, ignore_index=True)
    return both[KEY].assign(
        difference=both["normalised_score"] - both["normalised_score_base"],
        above_untrained=both["final_evaluation_return"] - both["first_evaluation_return_base"],
    )


def tables_of(studies: Mapping[str, Study]) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """What comparison_tables takes, of the studies of one preset by name."""
    names = ("runs", "stopping_episodes", "reference_policies")
    return tuple(pd.concat([getattr(it, x).assign(experiment=name) for name, it in studies.items()]) for x in names)


def comparison_tables(
    runs: pd.DataFrame, agents: pd.DataFrame, references: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables comparison.csv, a row per experiment, and comparison_cells.csv, a row per experiment and cell.

    The baseline comes first, then they go by name. `runs`: rows of runs.csv of one preset; `agents`: of
    stopping_episodes.csv; `references`: of reference_policies.csv; all of all its experiments, told apart by a column
    `experiment`. The order of the rows does not matter.
    Counts and seeds are integers, all else but names is float64; each may be empty.
    """
    known = only_finished(runs).sort_values(["experiment", *KEY], ignore_index=True)
    of = {name: known[known["experiment"] == name] for name in in_order(known)}
    controls = {name: frozen_control(name, of) for name in of}
    partners = {name: of.get(BASELINE) if name != BASELINE and not is_frozen(name) else None for name in of}
    of = {name: _with_partners(own, partners[name], of.get(controls[name])) for name, own in of.items()}
    cells = _table([_cell(cell) for own in of.values() for _, cell in own.groupby(CELL)])
    _correct(cells, ("difference", "actors_add"), cells["experiment"])
    rows = []
    for name, own in of.items():
        own_cells = cells[cells["experiment"] == name]
        rows.append({
            "experiment": name, **_sizes(own, own_cells), "frozen_control": controls[name],
            **_only(controls[name] is not None, _actors(own, own_cells)),
            **_only(partners[name] is not None, _against(own, own_cells)),
            **_standstill(agents[agents["experiment"] == name]),
            **_scores(own, references[references["experiment"] == name]),
        })  # fmt: skip
    table = _table(rows)
    _correct(table, ("paired_score_difference", "actors_add"), pd.Series("all experiments", table.index))
    return table, cells


def comparability_warnings(runs: pd.DataFrame, references: pd.DataFrame) -> list[str]:
    """What keeps studies from being compared: a line for each that is not whole or not like the baseline, and for ages.

    `runs` and `references` as for `comparison_tables`.
    """
    of, world_of = (
        {name: rows[rows["experiment"] == name] for name in in_order(runs)}
        for rows in (runs, references[references["policy"].isin(SCORE_ENDS)])
    )
    lines = [] if BASELINE in of else [f"no study {BASELINE}: the columns that compare with it stay empty"]
    if FROZEN not in of:
        lines.append(f"no study {FROZEN}: what the actors add, and so which cells learn, stays empty")
    for name, own in of.items():
        parts = []
        whole = own["seed"].nunique() * len(own[CELL].drop_duplicates())
        if len(own) < whole:
            parts.append(f"{len(own)} of {whole} runs are there (cells × seeds)")
        if BASELINE in of and name != BASELINE:
            parts += _unlike(own, of[BASELINE], world_of[name], world_of[BASELINE])
        if parts:
            lines.append(f"{name}: {'; '.join(parts)}")
    whose: dict[str, list[str]] = {}
    for name, own in of.items():
        whose.setdefault(score_ages(own), []).append(name)
    if runs["score_episode"].nunique() > 1:
        ages = ", ".join(f"{age} ({', '.join(names)})" for age, names in whose.items())
        lines.append(f"scores are not of one age and do not compare: {ages}; --stopping-only compares without them")
    return lines


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The rows, with integers where a column has nothing else."""
    table = pd.DataFrame(rows, dtype=object)
    for name in table.columns.difference(TEXTS):
        known = table[name].dropna()
        whole = len(known) and all(isinstance(value, (int, np.integer)) for value in known)
        table[name] = table[name].astype("Int64" if whole else "float64")
    return table


def _correct(table: pd.DataFrame, tested: tuple[str, ...], family: pd.Series) -> None:
    """Fill in the corrected p-values of each of the tests; rows of one `family` are corrected together."""
    for name in tested:
        p = table[f"{name}_p"].groupby(family)
        table[f"{name}_holm"], table[f"{name}_bh"] = p.transform(holm), p.transform(benjamini_hochberg)


def _only(whether: bool, columns: dict[str, Any]) -> dict[str, Any]:
    """The columns, empty where there is nothing to compare with."""
    return columns if whether else dict.fromkeys(columns)


def _with_partners(own: pd.DataFrame, baseline: pd.DataFrame | None, control: pd.DataFrame | None) -> pd.DataFrame:
    """Runs with what they are above their partners, and whether they have any: `paired`, `controlled`."""
    nobody = own.iloc[:0]
    pairs = pair_runs(own, nobody if baseline is None else baseline).assign(paired=True)
    world = ["seed", "critic_lr"]
    frozen = (nobody if control is None else control)[[*world, "normalised_score"]]
    frozen = frozen.rename(columns={"normalised_score": "frozen"}).drop_duplicates(world).assign(controlled=True)
    found = own.merge(pairs, on=KEY, how="left").merge(frozen, on=world, how="left")
    return found.assign(
        paired=found["paired"].notna(),
        controlled=found["controlled"].notna(),
        gain=found["final_evaluation_return"] - found["first_evaluation_return"],
        actors_add=found["normalised_score"] - found["frozen"],
    )


def _named(name: str, tested: Sequence[float]) -> dict[str, float | None]:
    """Columns of a mean and its interval; with its p-value also of the corrections, which need the whole family."""
    names = (name, *(f"{name}_{end}" for end in ("low", "high", "p", "holm", "bh")))
    return dict(zip(names, [*tested, None, None] if len(tested) == 4 else tested, strict=False))


def _cell(runs: pd.DataFrame) -> dict[str, Any]:
    """The row of one cell; a run without a score makes what is averaged empty and is neither better nor worse."""
    pairs, controlled, score = runs[runs["paired"]], runs[runs["controlled"]], runs["normalised_score"]
    mean, added = t_test(score, FEWEST), t_test(controlled["actors_add"], FEWEST)
    viable = mean[0] >= VIABLE
    return {
        **runs.iloc[0][["experiment", *CELL]],
        "seeds": len(runs),
        "diverged_runs": (runs["status"] == schema.DIVERGED).sum(),
        "runs_never_stopping": stopping_cell(runs).never,
        "viable": int(viable),
        "learns": int(viable and added[1] > 0) if len(controlled) >= FEWEST else None,
        **_named("score", mean[:3]),
        "seeds_improved": (runs["gain"] > 0).sum(),
        **_named("gain", t_test(runs["gain"], FEWEST)[:3]),
        **_only(len(controlled) > 0, {
            "seeds_above_both": ((score >= VIABLE) & (runs["actors_add"] > 0)).sum(),
            **_named("actors_add", added),
        }),
        **_only(len(pairs) > 0, {
            "paired_seeds": len(pairs),
            "seeds_better_than_baseline": (pairs["difference"] > 0).sum(),
            "seeds_worse_than_baseline": (pairs["difference"] < 0).sum(),
            **_named("difference", t_test(pairs["difference"], FEWEST)),
        }),
    }  # fmt: skip


def _sizes(runs: pd.DataFrame, cells: pd.DataFrame) -> dict[str, Any]:
    """Sizes, stopping, improvement over the untrained policy, viable cells."""
    viable, ages = int(cells["viable"].sum()), runs["score_episode"].dropna().unique()
    intervals = int(cells["gain_low"].notna().sum())
    return {
        "runs": len(runs),
        "seeds": runs["seed"].nunique(),
        "cells": len(cells),
        "longest_run_episodes": int(runs["total_episodes"].max()),
        "score_episode": int(ages[0]) if len(ages) == 1 else None,
        "diverged_runs": cells["diverged_runs"].sum(),
        "runs_never_stopping": cells["runs_never_stopping"].sum(),
        "cells_never_stopping": (cells["runs_never_stopping"] == cells["seeds"]).sum(),
        "improved_runs": cells["seeds_improved"].sum(),
        "cells_with_intervals": intervals,
        "improved_cells": (cells["gain_low"] > 0).sum() if intervals else None,
        "cells_improved_in_every_seed": (cells["seeds_improved"] == cells["seeds"]).sum(),
        **_named("viable_cells", (viable, *wilson_interval(viable, len(cells)))),
        "search_cost": (len(cells) + 1) / (viable + 1) if viable else None,
    }


def _by_seed(runs: pd.DataFrame, column: str) -> pd.Series:
    """Mean over the cells of each seed, of the runs that have a number."""
    return runs.dropna(subset=column).groupby("seed")[column].mean()


def _actors(runs: pd.DataFrame, cells: pd.DataFrame) -> dict[str, Any]:
    """What the pairs of an experiment's and the frozen actors' runs say."""
    known, learning = cells["learns"].notna().any(), int(cells["learns"].sum())
    every = (cells["seeds_above_both"] == cells["seeds"]).sum() if runs["controlled"].all() else None
    return {
        **_named("learning_cells", (learning, *wilson_interval(learning, len(cells))) if known else (None,) * 3),
        "cells_above_both_in_every_seed": every,
        **_named("actors_add", t_test(_by_seed(runs, "actors_add"), FEWEST)),
    }


def _against(runs: pd.DataFrame, cells: pd.DataFrame) -> dict[str, Any]:
    """What the pairs of an experiment's and the baseline's runs say."""
    pairs, tested = runs[runs["paired"]], cells["difference_p"].notna().any()
    by_seed = _by_seed(pairs, "difference")
    different = {f"cells_different_{by}": (cells[f"difference_{by}"] < 1 - CONFIDENCE).sum() for by in ("holm", "bh")}
    return {
        "paired_runs": len(pairs),
        "paired_runs_without_score": pairs["difference"].isna().sum(),
        "runs_better_than_baseline": (pairs["difference"] > 0).sum(),
        "runs_better_than_untrained_baseline": (pairs["above_untrained"] > 0).sum(),
        "cells_better_than_baseline": (cells["difference_low"] > 0).sum() if tested else None,
        "cells_worse_than_baseline": (cells["difference_high"] < 0).sum() if tested else None,
        "cells_better_in_every_seed": (cells["seeds_better_than_baseline"] == cells["paired_seeds"]).sum(),
        "cells_worse_in_every_seed": (cells["seeds_worse_than_baseline"] == cells["paired_seeds"]).sum(),
        **_only(tested, different),
        "seeds_better_than_baseline": (by_seed > 0).sum(),
        **_named("paired_score_difference", t_test(by_seed, FEWEST)),
    }


def _scores(runs: pd.DataFrame, references: pd.DataFrame) -> dict[str, Any]:
    """Final saturation; score before training, the mean over a seed's runs and then over seeds; median; the best run.

    The median is over the cells of each seed, a run without score below any other, and then the mean of these.
    """
    scores, seeds = runs["normalised_score"], runs["seed"]
    untrained = normalised_scores(runs["first_evaluation_return"], seeds, references)
    medians = scores.fillna(-math.inf).groupby(seeds).median()
    best = runs.loc[scores.idxmax()] if scores.notna().any() else {}
    return {
        "median_final_saturation": runs["final_saturation_ratio"].median(),
        "median_final_wrong_side_saturation": runs["final_wrong_side_saturation"].median(),
        "untrained_score": untrained.groupby(seeds).mean().mean(),
        **_named("median_score", t_test(medians if np.isfinite(medians).all() else (), FEWEST)[:3]),
        "best_score": best.get("normalised_score"),
        **{f"best_score_{name}": best.get(name) for name in KEY},
    }


def _standstill(agents: pd.DataFrame) -> dict[str, float]:
    death, freeze = agents["gradient_death_episode"], agents["freeze_episode"]
    return {
        "dead_agents_share": death.notna().mean(),
        "median_death_episode": death.median(),
        "frozen_agents_share": freeze.notna().mean(),
        "median_freeze_episode": freeze.median(),
    }


def _unlike(own: pd.DataFrame, baseline: pd.DataFrame, own_world: pd.DataFrame, world: pd.DataFrame) -> list[str]:
    """What, beside the experiment's difference, sets its runs apart from the baseline's."""
    parts = []
    keys, base_keys = (set(rows[KEY].itertuples(index=False, name=None)) for rows in (own, baseline))
    if keys != base_keys and not is_frozen(own["experiment"].iloc[0]):
        pairs = f"only {len(keys & base_keys)} pairs of runs to compare"
        parts.append(f"{pairs}, of the baseline's {len(base_keys)} runs and {len(keys)} here")
    lengths = [set(rows.loc[rows["status"] == schema.COMPLETED, "total_episodes"]) for rows in (own, baseline)]
    if all(lengths) and lengths[0] != lengths[1]:
        texts = [" and ".join(f"{length:.0f}" for length in sorted(some)) for some in lengths]
        parts.append(f"trained {texts[0]} episodes, the baseline {texts[1]}")
    both = own_world.merge(world, on=["seed", "policy"], suffixes=("", "_base"))
    if not np.allclose(both["evaluation_return"], both["evaluation_return_base"], rtol=REFERENCE_TOLERANCE, atol=0):
        parts.append("its reference policies do other than the baseline's: other agents or tasks, scores do not pair")
    return parts
