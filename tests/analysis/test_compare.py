"""Comparison of experiments: hand-computed studies, pairing, divergence, and what the command line refuses."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic_study import Tables, explained, write_tables

from common.analysis.compare import CELLS, PICTURE, TABLE, Comparison, comparison_text, main
from common.analysis.comparison_figure import comparison_figure
from common.analysis.comparison_statistics import CELL, frozen_control, only_finished
from common.analysis.figures import actor_colour
from common.recording import schema

RATES = (1e-4, 1e-3, 1e-2, 1e-1)
T4 = 2.7764451051977987  # 97.5% quantile of Student's t with 4 degrees of freedom, in printed tables 2.776
RANDOM, GREEDY = -300.0, -100.0

Key = tuple[int, float, float]


def run(score: float | None, gain: float = 0.0, stop: int | None = None, **other: Any) -> dict[str, Any]:
    """One run: normalised score (None: diverged), gain over its untrained policy in units of return, and the rest."""
    return {"score": score, "gain": gain, "stop": stop, "agents": ((None, None),), **other}


def write_study(
    root: Path,
    name: str,
    runs: Mapping[Key, Mapping[str, Any]],
    preset: str = "scaled",
    episodes: int = 100,
    greedy: float = GREEDY,
) -> Path:
    """Write the runs as `root/preset/name`; `agents` of a run are (death, freeze) pairs."""
    tables: Tables = {file: [] for file in schema.FILES}
    for seed in sorted({key[0] for key in runs}):
        for policy, value in zip(schema.POLICIES, (RANDOM, -150.0, -120.0, greedy), strict=True):
            tables[schema.REFERENCE_POLICIES].append({"seed": seed, "policy": policy, "evaluation_return": value})
    for key, spec in sorted(runs.items()):
        own = dict(zip(schema.RUN_KEY, key, strict=True))
        score = spec["score"]
        final = None if score is None else RANDOM + score * (GREEDY - RANDOM)
        row = {
            **own, "preset": preset, "experiment": name, "status": "diverged" if score is None else "completed",
            "diverged_episode": 3 if score is None else None, "stopping_episode": spec["stop"],
            "total_episodes": episodes, "score_episode": None if score is None else episodes,
            "first_evaluation_return": -250.0 if final is None else final - spec["gain"],
            "final_evaluation_return": final, "normalised_score": score, "final_saturation_ratio": 0.5,
            "final_wrong_side_saturation": 0.25,
        }  # fmt: skip
        extra = {column: value for column, value in spec.items() if column in row}
        tables[schema.RUNS].append({**row, **extra})
        for agent, (death, freeze) in enumerate(spec["agents"]):
            line = {"agent": agent, "gradient_death_episode": death, "freeze_episode": freeze}
            tables[schema.STOPPING_EPISODES].append({**own, **line})
        tables[schema.REWARDS].append({**own, "episode": 1})
        tables[schema.EVALUATIONS].append({**own, "episode": 0})
    return write_tables(root / preset / name, tables)


def compared(*folders: Path) -> Comparison:
    return Comparison(folders[0].parent, folders)


def rows_of(*folders: Path) -> dict[str, dict[str, Any]]:
    """Rows of the comparison by experiment."""
    return compared(*folders).table.set_index("experiment").to_dict("index")


def cells_of(*folders: Path) -> dict[tuple[str, float, float], dict[str, Any]]:
    """Rows of the cells by experiment and rates."""
    return compared(*folders).cells.set_index(["experiment", *CELL]).to_dict("index")


def empty(row: Mapping[str, Any]) -> set[str]:
    return {name for name, value in row.items() if pd.isna(value)}


def small(scores: Sequence[Sequence[float | None]], **other: Any) -> dict[Key, dict[str, Any]]:
    """Seeds 1, 2, … (outer) with actor learning rates 1e-4, 1e-3, … (inner) and one critic learning rate."""
    return {
        (seed, RATES[place], 1e-2): run(score, **other)
        for seed, line in enumerate(scores, start=1)
        for place, score in enumerate(line)
    }


def varied(shift: float, **other: Any) -> dict[Key, dict[str, Any]]:
    """Three seeds of four actor learning rates with scores around `shift` that differ by cell and seed."""
    return small([[shift + 0.3 * math.sin(seed + 3 * place) for place in range(4)] for seed in range(3)], **other)


# Statistics


A, B = (1e-4, 1e-2), (1e-3, 1e-2)


def p_of(mean: float, error: float) -> float:
    """Two-sided p-value of Student's t with 4 degrees of freedom, in closed form."""
    square = (mean / error) ** 2 / 4
    root = math.sqrt(square / (1 + square))
    return 1 - root * (3 - root**2) / 2


def five_seeds(root: Path, seeds: Sequence[int] = range(1, 6)) -> list[Path]:
    """A baseline, frozen actors, and another experiment with cells A and B; five seeds of each, or fewer."""
    scores = {A: (0.6, 0.7, 0.8, 0.9, 1.0), B: (0.2, 0.3, 0.4, 0.3, 0.3)}
    gains = {A: (11, 12, 13, 14, 15), B: (-1, 1, 1, 1, 1)}
    agents = {(1, *A): ((2, 40), (4, 50), (None, None)), (1, *B): ((8, None), (None, None), (None, None))}
    other = {
        (seed, *cell): run(scores[cell][seed - 1], gains[cell][seed - 1], stop=50 if (seed, cell) == (1, A) else None,
                           **({"agents": agents[seed, *cell]} if seed == 1 else {}))
        for seed in seeds for cell in (A, B)
    }  # fmt: skip
    for seed, saturation, wrong in ((1, 0.9, 0.25), (2, 0.7, None), (3, 0.8, 0.75)):
        other[seed, *A] |= {"final_saturation_ratio": saturation, "final_wrong_side_saturation": wrong}
    return [
        write_study(root, "baseline", small([[0.2, 0.3]] * len(seeds), gain=20.0)),
        write_study(root, "frozen_actors", {(seed, 0.0, 1e-2): run(0.5, 1.0) for seed in seeds}),
        write_study(root, "other", other),
    ]


def test_row_by_hand(tmp_path: Path) -> None:
    """Each number of one row of comparison.csv.

    Above the baseline: A 0.4 0.5 0.6 0.7 0.8, B -0.1 0 0.1 0 0; over the cells of a seed 0.15 0.25 0.35 0.35 0.4, whose
    standard deviation is 0.1. Above frozen actors it is 0.25 less; the medians of two cells spread likewise.
    """
    row = rows_of(*five_seeds(tmp_path))["other"]
    error = 0.1 / math.sqrt(5)
    expected = {
        "runs": 10, "seeds": 5, "cells": 2, "longest_run_episodes": 100, "score_episode": 100, "diverged_runs": 0,
        "runs_never_stopping": 9, "cells_never_stopping": 1, "improved_runs": 9, "cells_with_intervals": 2,
        "improved_cells": 1, "cells_improved_in_every_seed": 1,  # B: 0.6 ± 2.78·0.4
        "viable_cells": 1, "viable_cells_low": pytest.approx(0.189, abs=1e-3),
        "viable_cells_high": pytest.approx(1.811, abs=1e-3), "search_cost": 1.5, "frozen_control": "frozen_actors",
        "learning_cells": 1, "learning_cells_low": pytest.approx(0.189, abs=1e-3),
        "learning_cells_high": pytest.approx(1.811, abs=1e-3), "cells_above_both_in_every_seed": 1,
        "actors_add": 0.05, "actors_add_low": 0.05 - T4 * error, "actors_add_high": 0.05 + T4 * error,
        # The baseline's actors take away 0.25 in each seed: p is 0, so this is the larger of two.
        "actors_add_p": p_of(0.05, error), "actors_add_holm": p_of(0.05, error), "actors_add_bh": p_of(0.05, error),
        "paired_runs": 10, "paired_runs_without_score": 0, "runs_better_than_baseline": 6,
        "runs_better_than_untrained_baseline": 9,  # above 0.1 and 0.2; the first of B is 0.2
        "cells_better_than_baseline": 1, "cells_worse_than_baseline": 0, "cells_better_in_every_seed": 1,
        "cells_worse_in_every_seed": 0, "cells_different_holm": 1, "cells_different_bh": 1,
        "seeds_better_than_baseline": 5, "paired_score_difference": 0.3,
        "paired_score_difference_low": 0.3 - T4 * error, "paired_score_difference_high": 0.3 + T4 * error,
        **{f"paired_score_difference_{end}": p_of(0.3, error) for end in ("p", "holm", "bh")},  # the only experiment
        "dead_agents_share": 3 / 14, "median_death_episode": 4, "frozen_agents_share": 2 / 14,
        "median_freeze_episode": 45, "median_final_saturation": 0.5, "median_final_wrong_side_saturation": 0.25,
        "untrained_score": (0.8 - 13 / 200 + 0.3 - 0.6 / 200) / 2, "median_score": 0.55,
        "median_score_low": 0.55 - T4 * error, "median_score_high": 0.55 + T4 * error, "best_score": 1.0,
        "best_score_seed": 5, "best_score_actor_lr": 1e-4, "best_score_critic_lr": 1e-2,
    }  # fmt: skip
    assert set(expected) == set(row)
    for name, value in expected.items():
        assert row[name] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value), name


def test_cells_by_hand(tmp_path: Path) -> None:
    cells = cells_of(*five_seeds(tmp_path))
    error, p = math.sqrt(0.025 / 5), p_of(0.6, math.sqrt(0.025 / 5))  # of 0.6 … 1.0
    expected = {
        "seeds": 5, "diverged_runs": 0, "runs_never_stopping": 4, "viable": 1, "learns": 1, "score": 0.8,
        "score_low": 0.8 - T4 * error, "score_high": 0.8 + T4 * error, "seeds_improved": 5, "gain": 13.0,
        "gain_low": 13 - T4 * math.sqrt(0.5), "gain_high": 13 + T4 * math.sqrt(0.5), "seeds_above_both": 5,
        "actors_add": 0.3, "actors_add_low": 0.3 - T4 * error, "actors_add_high": 0.3 + T4 * error,
        "actors_add_p": p_of(0.3, error), "paired_seeds": 5, "seeds_better_than_baseline": 5,
        "seeds_worse_than_baseline": 0, "difference": 0.6, "difference_low": 0.6 - T4 * error,
        "difference_high": 0.6 + T4 * error, "difference_p": p, "difference_holm": 2 * p, "difference_bh": 2 * p,
    }  # fmt: skip
    row = cells["other", *A]
    added = p_of(0.2, math.sqrt(0.005 / 5))  # of -0.3 -0.2 -0.1 -0.2 -0.2 in B, the larger t of the two
    expected |= {"actors_add_holm": max(2 * added, p_of(0.3, error)), "actors_add_bh": p_of(0.3, error)}
    assert set(expected) == set(row)
    assert row == {name: pytest.approx(value, rel=1e-9) for name, value in expected.items()}
    row = cells["other", *B]
    assert [row[name] for name in ("viable", "learns", "seeds_above_both", "seeds_improved")] == [0, 0, 0, 4]
    assert [row[f"seeds_{how}_than_baseline"] for how in ("better", "worse")] == [1, 1]
    assert row["difference_p"] == row["difference_holm"] == pytest.approx(1)
    assert row["actors_add"] == pytest.approx(-0.2)
    assert pd.isna(cells["frozen_actors", 0.0, 1e-2]["actors_add"])  # the control has none


def test_below_five_seeds_seeds_are_counted(tmp_path: Path) -> None:
    folders = five_seeds(tmp_path, range(1, 5))
    row, cell = rows_of(*folders)["other"], cells_of(*folders)["other", *A]
    tests = {name for name in row if name.endswith(("_low", "_high", "_p", "_holm", "_bh")) and "viable" not in name}
    assert empty(row) == tests | {
        "improved_cells", "learning_cells", "cells_better_than_baseline", "cells_worse_than_baseline"
    }  # fmt: skip
    assert row["cells_with_intervals"] == 0 and row["paired_score_difference"] == pytest.approx(1.1 / 4)
    assert row["cells_above_both_in_every_seed"] == row["cells_better_in_every_seed"] == row["viable_cells"] == 1
    assert row["seeds_better_than_baseline"] == 4 and row["cells_improved_in_every_seed"] == 1
    assert cell["viable"] == 1 and cell["seeds_above_both"] == 4 and {"learns", "score_low"} <= empty(cell)


def test_a_seed_without_frozen_actors_leaves_their_count_open(tmp_path: Path) -> None:
    baseline, _, other = five_seeds(tmp_path, range(1, 5))
    fewer = write_study(tmp_path / "fewer", "frozen_actors", {(seed, 0.0, 1e-2): run(0.5, 1.0) for seed in (1, 2)})
    row, cell = rows_of(baseline, fewer, other)["other"], cells_of(baseline, fewer, other)["other", *A]
    assert "cells_above_both_in_every_seed" in empty(row) and cell["seeds_above_both"] == 2


def test_control_has_the_same_change() -> None:
    controls = ("frozen_actors", "frozen_actors-with-recipe")
    names = ("baseline", "recipe", "recipe-without-step_limit", "clamped_rates", *controls)
    plain, changed = controls
    assert [frozen_control(name, names) for name in names] == [plain, changed, changed, changed, None, None]
    assert frozen_control("clamped_rates", names[:-1]) == plain
    assert frozen_control("recipe", names[:2]) is None


def test_without_frozen_actors_their_columns_are_empty(tmp_path: Path) -> None:
    baseline, _, other = five_seeds(tmp_path)
    row, cell = rows_of(baseline, other)["other"], cells_of(baseline, other)["other", *A]
    assert {"frozen_control", "learning_cells", "cells_above_both_in_every_seed", "actors_add"} <= empty(row)
    assert {"learns", "seeds_above_both", "actors_add"} <= empty(cell) and cell["viable"] == 1
    assert row["paired_score_difference"] == pytest.approx(0.3)


def test_frozen_actors_of_other_seeds_or_rates_are_no_control(tmp_path: Path) -> None:
    score = {(seed, *A): run(0.9) for seed in range(1, 7)} | {(seed, 1e-4, 1e-1): run(0.9) for seed in range(1, 7)}
    frozen = {(seed, 0.0, 1e-2): run(0.1 * seed) for seed in range(1, 6)}
    cells = cells_of(write_study(tmp_path, "other", score), write_study(tmp_path, "frozen_actors", frozen))
    assert cells["other", *A]["actors_add"] == pytest.approx(0.6) and cells["other", *A]["learns"] == 1
    assert pd.isna(cells["other", 1e-4, 1e-1]["actors_add"]) and pd.isna(cells["other", 1e-4, 1e-1]["learns"])


def test_a_cell_with_a_diverged_run_is_neither_viable_nor_learning(tmp_path: Path) -> None:
    baseline, frozen, _ = five_seeds(tmp_path)
    runs = small([[0.9, 0.9]] * 5, gain=1.0)
    runs[3, *A] = run(None)
    row = rows_of(baseline, frozen, write_study(tmp_path, "broken", runs))["broken"]
    assert [row[name] for name in ("viable_cells", "learning_cells", "cells_better_than_baseline")] == [1, 1, 1]
    assert [row[name] for name in ("cells_with_intervals", "improved_cells", "cells_better_in_every_seed")] == [1, 1, 1]


# A cell of which no seed stops, one of which one does, and one of which all do; in the last one a run diverges, and
# nobody knows what it would have done.
STOPS = {
    **small([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, None]]),
    **{(2, 1e-3, 1e-2): run(0.0, stop=7), (1, 1e-2, 1e-2): run(0.0, stop=9), (2, 1e-2, 1e-2): run(0.0, stop=8)},
}
BROKEN = small([[0.2, None, 0.4, 0.5], [0.1, -0.3, None, 0.6]], gain=1.0)
# A diverged run has no final numbers, whatever its row says.
BROKEN[1, 1e-3, 1e-2] |= {"normalised_score": 99.0, "final_evaluation_return": 99.0, "final_saturation_ratio": 0.0}
SCORES = small([[0.1, 0.2], [0.3, 0.4]])
# Runs of the baseline, runs of another experiment, and what the other's row says of them; NaN: empty.
ROWS: dict[str, tuple[dict[Key, Any], dict[Key, Any], dict[str, float]]] = {
    "stops": (SCORES, STOPS, {"runs_never_stopping": 4, "cells_never_stopping": 1}),
    # A seed with three pairs and one with a single pair count the same; pooled the difference would be 1.7 / 7.
    "seeds are averaged before the interval": (
        small([[0, 0, 0]] * 5), small([[0.1, 0.1, 0.1], [0.5], [0.1], [0.5], [0.3]]),
        {"paired_runs": 7, "paired_score_difference": 0.3, "median_score": 0.3, "untrained_score": 0.3,
         "paired_score_difference_low": 0.3 - T4 * 0.2 / math.sqrt(5)},
    ),
    "only common runs are paired": (
        {(1, *B): run(0.1), (1, 1e-3, 1e-1): run(-9.0), (2, *B): run(0.2), (3, *B): run(-9.0)},
        {(1, *B): run(0.4), (2, *B): run(0.1), (7, *B): run(9.0), (2, 1e-2, 1e-3): run(9.0)},
        {"paired_runs": 2, "runs_better_than_baseline": 1, "runs": 4, "paired_score_difference": (0.3 - 0.1) / 2},
    ),
    "nothing to pair": (
        {(1, *A): run(0.1)}, {(2, *A): run(0.2), (1, *B): run(0.3)},
        {"paired_runs": 0, "runs_better_than_baseline": 0, "paired_score_difference": math.nan, "median_score": 0.25},
    ),
    # Medians are between the 2nd and the 3rd of −inf 0.2 0.4 0.5 and −inf −0.3 0.1 0.6.
    "diverged runs are not better": (
        small([[0.0, 0.0, 0.0, None], [0.0, 0.0, 0.0, 0.0]]), BROKEN,
        {"runs": 8, "diverged_runs": 2, "improved_runs": 6, "paired_runs": 8, "paired_runs_without_score": 3,
         "runs_better_than_baseline": 4, "median_score": (0.3 - 0.1) / 2, "best_score": 0.6,
         "paired_score_difference": ((0.2 + 0.4) / 2 + (0.1 - 0.3 + 0.6) / 3) / 2, "median_final_saturation": 0.5},
    ),
    "equal is neither better nor improved": (
        SCORES, SCORES,
        {"runs_better_than_baseline": 0, "improved_runs": 0, "seeds_better_than_baseline": 0,
         "cells_better_in_every_seed": 0, "cells_improved_in_every_seed": 0, "paired_score_difference": 0},
    ),
    "half of a seed diverged": (
        SCORES, small([[0.2, None], [0.1, 0.3]]),
        {"median_score": math.nan, "median_score_low": math.nan, "best_score": 0.3},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ROWS)
def test_some_cells_of_a_row(tmp_path: Path, case: str) -> None:
    baseline, other, expected = ROWS[case]
    row = rows_of(write_study(tmp_path, "baseline", baseline), write_study(tmp_path, "other", other))["other"]
    found = {name: math.nan if pd.isna(row[name]) else row[name] for name in expected}
    assert found == pytest.approx(expected, nan_ok=True)


def test_all_runs_diverged(tmp_path: Path) -> None:
    both = compared(write_study(tmp_path, "baseline", small([[None, None]] * 2)))
    row = both.table.iloc[0]
    counts = ("diverged_runs", "improved_runs", "viable_cells", "runs_never_stopping", "cells_never_stopping")
    assert [row[name] for name in counts] == [4, 0, 0, 0, 0]
    assert {"best_score", "best_score_seed", "median_score", "median_final_saturation"} <= empty(row)
    comparison_figure(both.table, only_finished(both.runs), "scaled").canvas.draw()
    text = comparison_text(both.table, "scaled")
    assert "–" in text and "nan" not in text.lower() and "NA" not in text


def test_seeds_are_not_shown_as_a_part_of_more_than_were_paired(tmp_path: Path) -> None:
    baseline, other = small([[0.1]] * 2), small([[0.2]] * 3)
    table = compared(write_study(tmp_path, "baseline", baseline), write_study(tmp_path, "other", other)).table
    (line,) = [line for line in comparison_text(table, "scaled").splitlines() if "+0.10" in line]
    assert line.startswith("other") and "2/2" in line and "/3" not in line


def test_baseline_first_then_by_name_and_paired_only_with_a_partner(tmp_path: Path) -> None:
    zebra, baseline, other = (
        write_study(tmp_path, name, small([[0.1], [0.2]])) for name in ("zebra", "baseline", "another")
    )
    rows = rows_of(zebra, baseline, other)
    assert list(rows) == ["baseline", "another", "zebra"]
    names = list(rows["zebra"])
    paired = {*names[names.index("paired_runs") : names.index("dead_agents_share")]}
    for row in (rows["baseline"], rows_of(zebra)["zebra"]):
        assert paired <= empty(row) and row["median_score"] == pytest.approx(0.15)
    assert not {"paired_runs", "paired_score_difference"} & empty(rows["another"])


def test_order_of_the_rows_does_not_matter(tmp_path: Path) -> None:
    folders = [write_study(tmp_path, name, varied(shift)) for name, shift in (("baseline", 0.0), ("other", 0.1))]
    expected = compared(*folders).texts()
    for path in tmp_path.rglob("*.csv"):
        head, *rows = path.read_text().splitlines(keepends=True)
        path.write_text("".join([head, *rows[::-2], *rows[len(rows) % 2 :: 2]]))
    assert compared(*folders[::-1]).texts() == expected


# The file


def test_bytes_of_the_file(tmp_path: Path) -> None:
    seed = 2**62 + 1  # not a number that a float can hold
    write_study(tmp_path, "baseline", {(seed, 1e-4, 1e-1): run(1 / 3), (seed, 1e-3, 1e-1): run(-2e9)})
    main(["--results-dir", str(tmp_path)])
    header, line, end = (tmp_path / "scaled" / TABLE).read_bytes().decode().split("\n")
    cells = dict(zip(header.split(","), line.split(","), strict=True))
    assert end == "" and cells["runs"] == "2"
    assert cells["best_score"] == "0.3333333" and cells["median_score"] == "-1e+09" and cells["paired_runs"] == ""
    assert cells["best_score_seed"] == str(seed) and cells["best_score_actor_lr"] == "0.0001"


@pytest.mark.parametrize("file", [TABLE, CELLS])
def test_every_column_is_explained(tmp_path: Path, file: str) -> None:
    header = compared(write_study(tmp_path, "baseline", small([[0.1]]))).texts()[file].decode().splitlines()[0]
    assert sorted(explained(file)) == sorted(header.split(","))


# The picture


def test_picture_shows_every_run(tmp_path: Path) -> None:
    runs = varied(-0.2, stop=50) | {(1, *A): run(None), (2, *B): run(None)}
    both = compared(write_study(tmp_path, "baseline", varied(0.0)), write_study(tmp_path, "other", runs))
    table, rows = both.table, only_finished(both.runs)
    figure = comparison_figure(table, rows, "scaled")
    figure.canvas.draw()
    score, _, stopping, learning, _ = figure.axes
    points = [c for c in score.collections if c.get_sizes()[0] == 9]
    crosses = [c for c in score.collections if c.get_sizes()[0] == 14]
    drawn = np.concatenate([np.ma.filled(c.get_offsets(), np.nan) for c in points])
    drawn = drawn[np.isfinite(drawn[:, 0])]
    assert sorted(drawn[:, 0]) == pytest.approx(sorted(rows["normalised_score"].dropna()))
    assert (np.round(drawn[:, 1]) == 0).sum() == 12 and (np.round(drawn[:, 1]) == -1).sum() == 10
    assert sum(len(c.get_offsets()) for c in crosses) == 2
    colours = [tuple(c.get_facecolor()[0][:3]) for c in points]
    assert colours == [pytest.approx(actor_colour(rate)) for rate in (*RATES, *RATES)]  # two experiments
    assert [label.get_text().split("\n")[0] for label in score.get_yticklabels()] == ["baseline", "other"]
    assert list(stopping.lines[0].get_xdata()) == [1.0, 0.0]
    better = learning.lines[1].get_xdata()
    assert np.isnan(better[0]) and better[1] == pytest.approx(table["runs_better_than_baseline"][1] / 12)
    assert "diverged" in [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize(("lowest", "scale"), [(-1.9, "linear"), (-2.1, "symlog"), (-4e5, "symlog")])
def test_axis_of_the_scores(tmp_path: Path, lowest: float, scale: str) -> None:
    one = compared(write_study(tmp_path, "baseline", small([[0.3, 0.1, lowest]])))
    axes = comparison_figure(one.table, one.runs, "scaled").axes[0]
    assert axes.get_xscale() == scale and ("logarithmic" in axes.get_xlabel()) == (scale == "symlog")
    assert axes.get_xlim()[0] < lowest and axes.get_xlim()[1] > 1 and len(axes.get_xticks()) <= 10


# The command line


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def refused(capsys: pytest.CaptureFixture, arguments: Sequence[str], code: int = 2) -> str:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == code
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.strip().splitlines()) == 1, said.err
    return said.err


def test_writes_the_same_bytes_again(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for root in (tmp_path / "a", tmp_path / "b"):
        write_study(root, "baseline", varied(0.0))
        write_study(root, "other", varied(-3.0))
        write_study(root, "frozen_actors", {(seed, 0.0, 1e-2): run(0.2) for seed in (1, 2, 3)})
        main(["--results-dir", str(root)])
        said = capsys.readouterr()
        assert said.err == "" and "0/12" in said.out and "-3.00" in said.out
        assert max(map(len, said.out.splitlines())) <= 100
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    studies = {"baseline", "frozen_actors", "other"}
    assert {path.name for path in (tmp_path / "a" / "scaled").iterdir()} == {*studies, TABLE, CELLS, PICTURE}


def test_check(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    study = write_study(tmp_path, "baseline", small([[0.3, 0.1, 0.2]] * 2))
    arguments = ["--results-dir", str(tmp_path), "--check"]
    files = _, cells, picture = [tmp_path / "scaled" / name for name in (TABLE, CELLS, PICTURE)]
    line = refused(capsys, arguments, code=1)
    assert all(str(path) in line and not path.exists() for path in files)  # it writes nothing
    main(arguments[:2])
    capsys.readouterr()
    main(arguments)
    assert capsys.readouterr() == ("", "")
    for path in files:
        good = path.read_bytes()
        path.write_bytes(good[:-20] if path == picture else good.replace(b"0.2", b"0.3", 1))
        line = refused(capsys, arguments, code=1)
        assert [str(each) in line for each in files] == [path == each for each in files]
        path.write_bytes(good)
    main(arguments)
    # Two scores change places: the table is the same, but a point of the picture has another colour.
    for scores, differing in (([0.3, 0.2, 0.1], [cells, picture]), ([0.3, 0.2, 0.4], files)):
        shutil.rmtree(study)
        write_study(tmp_path, "baseline", small([scores] * 2))
        line = refused(capsys, arguments, code=1)
        assert [path for path in files if str(path) in line] == differing


def test_presets_are_kept_apart(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for preset, score in (("scaled", 0.1), ("interior", 0.2), ("thesis", 0.3)):
        write_study(tmp_path, "baseline", small([[score]]), preset=preset)
    main(["--results-dir", str(tmp_path), "--env", "thesis", "interior"])
    out = capsys.readouterr().out
    assert "thesis: 1 experiment;" in out and "interior: 1 experiment;" in out and "scaled" not in out
    assert not (tmp_path / "scaled" / TABLE).exists()
    assert pd.read_csv(tmp_path / "thesis" / TABLE)["best_score"].tolist() == [0.3]


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = ["--results-dir", str(tmp_path)]
    assert "absent: no such folder" in refused(capsys, ["--results-dir", str(tmp_path / "absent")])
    assert "holds no studies" in refused(capsys, folder)
    interior = write_study(tmp_path, "baseline", small([[0.1]]), preset="interior")
    other = write_study(tmp_path, "other", small([[0.1]]))
    assert "preset 'mars'; allowed: interior, scaled" in refused(capsys, [*folder, "--env", "mars"])
    assert "--quik" in refused(capsys, [*folder, "--quik"])
    path = other / schema.REWARDS
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    before = contents(tmp_path)
    for arguments in (folder, [*folder, "--check"]):
        line = refused(capsys, arguments)
        assert str(path) in line and "truncated" in line
    assert contents(tmp_path) == before
    path.write_bytes(whole)
    for study, problem in ((interior, "preset interior; allowed here: scaled"), (other, "experiment other; allowed")):
        shutil.copytree(study, tmp_path / "scaled" / "baseline")
        assert problem in refused(capsys, folder)
        shutil.rmtree(tmp_path / "scaled" / "baseline")


def test_study_in_progress_is_compared_on_its_pairs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_study(tmp_path, "baseline", varied(0.0))
    done = {key: spec for key, spec in varied(0.5).items() if key not in ((3, *A), (3, *B))}
    folder = write_study(tmp_path, "other", done)
    (folder / ".lock.json").write_text("{}")
    (folder / "checkpoint").mkdir()
    for aside in ("other.before-20260101-000000-000000", ".other.new"):
        shutil.copytree(folder, folder.with_name(aside))
    folder.with_name("just_begun").mkdir()
    main(["--results-dir", str(tmp_path)])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "no study" not in line]
    assert line.startswith("warning: ")
    for fact in ("other", "10 of 12", "only 10 pairs", "baseline's 12"):
        assert fact in line
    table = pd.read_csv(tmp_path / "scaled" / TABLE)
    assert table["experiment"].tolist() == ["baseline", "other"] and table["paired_runs"][1] == 10
    assert table["paired_score_difference"][1] == pytest.approx(0.5)


def test_warnings(tmp_path: Path) -> None:
    three = small([[0.1], [0.2], [0.3]])
    baseline = write_study(tmp_path, "baseline", three)
    frozen = write_study(tmp_path, "frozen_actors", {(seed, 0.0, 1e-2): run(0.1) for seed in (1, 2, 3)})
    same = write_study(tmp_path, "same", three)
    more = write_study(tmp_path, "more", small([[0.1, 0.2], [0.2, 0.2], [0.3, 0.4]]))
    world = write_study(tmp_path, "world", three, greedy=GREEDY * 1.01)
    assert compared(baseline, frozen, same).warnings == []
    (line,) = compared(frozen, same).warnings
    assert "no study baseline" in line
    (line,) = compared(baseline, same).warnings
    assert "no study frozen_actors" in line
    line, other = compared(baseline, frozen, more, world).warnings
    assert "more" in line and "only 3 pairs" in line and "6 here" in line
    assert "world" in other and "reference policies" in other


def test_scores_of_different_ages_are_named_in_one_line(tmp_path: Path) -> None:
    runs = small([[0.1], [0.2]])
    baseline = write_study(tmp_path, "baseline", runs)
    also = write_study(tmp_path, "also", runs | {(1, 1e-4, 1e-1): run(None)})  # diverged: no score, no age
    early = write_study(tmp_path, "early", runs | {(1, *A): run(0.7, score_episode=60)})
    longer = write_study(tmp_path, "longer", runs, episodes=200)
    assert not [line for line in compared(baseline, also).warnings if "age" in line]
    (line,) = [line for line in compared(baseline, early, longer).warnings if "age" in line]
    for fact in ("scaled", "early", "60 to 100", "longer", "200", "baseline", "--stopping-only"):
        assert fact in line


def test_stopping_only_shows_no_score_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_study(tmp_path, "baseline", small([[0.123], [0.123]], stop=50))
    write_study(tmp_path, "early", small([[0.456], [0.456]]), episodes=200)
    before = contents(tmp_path)
    main(["--results-dir", str(tmp_path), "--stopping-only"])
    said = capsys.readouterr()
    assert contents(tmp_path) == before and not said.err
    assert "early" in said.out and "2/2" in said.out
    assert "score" not in said.out and "0.12" not in said.out and "0.46" not in said.out
