"""Figures that hold an experiment against the baseline, run by run: one per experiment, and one for all of them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from common.analysis.comparison_figure import FILLED, RING, _shares
from common.analysis.comparison_statistics import (
    BASELINE,
    CELL,
    KEY,
    in_order,
    only_finished,
    pair_runs,
)
from common.analysis.figures import NORMAL, SMALL, actor_colour
from common.analysis.statistics import t_test
from common.recording import schema
from common.recording.results import Study, learning_rate_text
from paper.figure_style import (
    compared,
    finish,
    headline,
    mark,
    not_recorded,
    page,
    place_stops,
    rate_handles,
    runs_of,
    signed_log_ticks,
    stopping_axis,
    stopping_lane,
    tidy,
)
from paper.tables_data import title as name_of

LINEAR = 1.0  # a difference axis is linear up to here where it is not linear throughout
LARGEST_LINEAR = 3.0  # difference up to which it is
APART = 0.19  # rows between a cell and its baseline's marks above and its own below
OPEN = {"facecolor": "none", "edgecolor": "0.45", "linewidth": 0.7}
SHARES = (
    ("final_saturation_ratio", "saturated\nat the end\n(share)"),
    ("final_wrong_side_saturation", "on the\nwrong side\n(share)"),
)


@dataclass(frozen=True)
class Pair:
    """An experiment and the baseline on one preset, only the runs that both have, and where each cell is drawn."""

    runs: pd.DataFrame
    baseline: pd.DataFrame
    differences: pd.DataFrame
    cells: list[tuple[float, float]]

    def rows(self, table: pd.DataFrame) -> pd.Series:
        """Row of each run: cells from the top by actor, then by critic rate."""
        return pd.Series([self.cells.index(cell) for cell in zip(table["actor_lr"], table["critic_lr"], strict=True)],
                         index=table.index, dtype=float)  # fmt: skip


def paired(study: Study, baseline: Study) -> Pair:
    """Runs of both studies whose seed and learning rates both have; final numbers of diverged runs are NaN."""
    own = only_finished(study.runs.join(appended_measures(study.saturation), on=KEY))
    base = only_finished(baseline.runs)
    differences = pair_runs(own, base)
    cells = sorted(set(differences[CELL].itertuples(index=False, name=None)))
    return Pair(own.merge(differences[KEY], on=KEY), base.merge(differences[KEY], on=KEY), differences, cells)


def appended_measures(saturation: pd.DataFrame) -> pd.DataFrame:
    """Per run, of what a variant appended to saturation.csv, the largest absolute value at the last logged episode.

    Columns like `norm_gain_offload_max` become one measure, here `norm gain`.
    """
    families: dict[str, list[str]] = {}
    for column in saturation.columns[len(schema.FILES[schema.SATURATION]) :]:
        if found := re.fullmatch(r"(.+?)(_offload|_compute|_power)?_(min|max)", column):
            families.setdefault(found[1].replace("_", " "), []).append(column)
    last = saturation.sort_values("episode").groupby(KEY).last()
    return pd.DataFrame({name: last[columns].abs().max(axis=1) for name, columns in families.items()}, index=last.index)


def experiment_against_baseline(studies: dict[str, tuple[Study, Study]]) -> Figure:
    """Per preset and cell: score difference, stopping, saturation with its side, and what the variant logs beside.

    `studies`: by preset, the experiment's study and the baseline's.
    """
    pairs = {preset: paired(*both) for preset, both in studies.items()}
    measures = list(dict.fromkeys(name for both in studies.values() for name in appended_measures(both[0].saturation)))
    heights = [0.4 + 0.108 * len(pair.cells) for pair in pairs.values()]
    widths = (1.6, 1.6, 1.0, 1.0, *(1.0 for _ in measures))
    figure, panels = page(
        1.2 + sum(heights), len(pairs), len(widths), sharey="row", width_ratios=widths, height_ratios=heights
    )
    for axes_row, (preset, pair) in zip(panels, pairs.items(), strict=True):
        _difference_panel(axes_row[0], pair)
        _stopping_panel(axes_row[1], pair)
        for axes, (column, _) in zip(axes_row[2:], SHARES, strict=False):
            _two_points(axes, pair, column)
            axes.set_xlim(-0.05, 1.05)
            axes.set_xticks([0, 0.5, 1], ["0", "½", "1"])
        for axes, measure in zip(axes_row[4:], measures, strict=True):
            _two_points(axes, pair, measure)
            _positive_axis(axes, pair.runs[measure])
        _cell_names(axes_row, pair, preset)
    titles = ["score above\nthe baseline's", "stopping episode\n(log)", *(title for _, title in SHARES)]
    titles += [f"largest\n|{name}|\n(log)" for name in measures]
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title, fontsize=SMALL)
    every = runs_of({preset: both[0] for preset, both in studies.items()})
    handles = [
        *rate_handles(every), mark("baseline, same seed", "o", "0.45", mfc="none", ms=4),
        mark("all cells: mean, 95% interval over seeds", "D", "black", linewidth=1.4),
    ]  # fmt: skip
    if every["status"].eq(schema.DIVERGED).any():
        handles.append(mark("diverged", "x", "0.3"))
    return finish(figure, headline("Every run beside the baseline's", every), handles, 4 if len(handles) > 6 else 3)


def mitigations(studies: dict[str, dict[str, Study]]) -> Figure:
    """All experiments: paired score difference over seeds, never stopping, improved, saturated; presets as rows."""
    every = pd.concat([runs_of(by_name) for by_name in studies.values()], ignore_index=True)
    names = in_order(every)
    height = 0.4 + 0.19 * len(names)
    figure, panels = page(0.9 + height * len(studies), len(studies), 4, sharex="col", width_ratios=(2.4, 1, 1, 1))
    for axes_row, (preset, by_name) in zip(panels, studies.items(), strict=True):
        runs = only_finished(runs_of(by_name))
        table = compared(by_name)
        rows = [-names.index(name) for name in table["experiment"]]
        never, improved = (table[what] / table["runs"] for what in ("runs_never_stopping", "improved_runs"))
        better = table["runs_better_than_baseline"] / table["paired_runs"]
        saturated, wrong = table["median_final_saturation"], table["median_final_wrong_side_saturation"]
        dead = table["dead_agents_share"]
        first = preset == next(iter(studies))
        titles = ("● never stop\n○ agents dead", "● beat own start\n○ beat baseline", "● saturated\n○ on wrong side")
        for axes, title, *marks in zip(
            axes_row[1:], titles, (never, improved, saturated), (dead, better, wrong), strict=True
        ):
            _shares(axes, rows, title if first else "", "", *zip(marks, (FILLED, RING), strict=True))
            axes.set_yticks([0 - place for place in range(len(names))], [])
        _mean_differences(axes_row[0], runs, names)
        axes_row[0].set_ylabel(preset, fontsize=NORMAL)
        for axes in axes_row:
            axes.set_ylim(0.5 - len(names), 0.5)
    _difference_axis(panels[0, 0], pd.concat([differences_of(runs_of(by_name)) for by_name in studies.values()]))
    panels[0, 0].set_title("score above the baseline's,\nmean of the cells", fontsize=SMALL, loc="left")
    beyond = f" ({panels[0, 0].get_xlabel()})" if panels[0, 0].get_xlabel() else ""
    panels[0, 0].set_xlabel("")
    for axes, unit in zip(panels[-1], (f"difference of normalised score{beyond}", *["share"] * 3), strict=True):
        axes.set_xlabel(unit, fontsize=SMALL)
    interval = mark("mean, 95% interval over seeds", "D", "black", linewidth=1.4)
    title = headline("Experiments against the baseline", every)
    finish(figure, title, [mark("one seed", "o", "0.55", ms=3.5), interval])
    for axes in panels.ravel():
        axes.tick_params(axis="y", length=0)
        axes.grid(False, axis="y")
    return figure


def differences_of(runs: pd.DataFrame) -> pd.Series:
    """Per seed and experiment, the mean over cells of the score above the baseline's run; the baseline is not in it."""
    finished = only_finished(runs)
    base = finished[finished["experiment"] == BASELINE]
    others = {name: own for name, own in finished.groupby("experiment") if name != BASELINE}
    means = {name: pair_runs(own, base).groupby("seed")["difference"].mean() for name, own in others.items()}
    return pd.concat(means, names=["experiment"]) if means else pd.Series(dtype=float)


def _mean_differences(axes: Axes, runs: pd.DataFrame, names: list[str]) -> None:
    """A row per experiment: the seeds' mean differences as points, their mean and interval."""
    differences = differences_of(runs)
    there = set(runs["experiment"])
    for place, name in enumerate(names):
        if name in there and name != BASELINE:
            _mean_and_interval(axes, -place, differences[name], points=True)
        elif name != BASELINE:
            not_recorded(axes, -place)
    axes.axvline(0, color="0.35", linewidth=0.8, zorder=1)
    axes.set_yticks([-place for place in range(len(names))], [name_of(name) for name in names])


def _mean_and_interval(axes: Axes, y: float, values: pd.Series, points: bool = False) -> None:
    mean, low, high, _ = t_test(values.dropna())
    if points:
        axes.scatter(values, [y + 0.22] * len(values), s=11, color="0.55", linewidth=0, zorder=3)
    axes.plot((low, high), (y, y), color="black", linewidth=1.4, zorder=4)
    axes.plot(mean, y, "D", color="black", ms=4.5, mec="white", mew=0.7, zorder=5)


def _difference_panel(axes: Axes, pair: Pair) -> None:
    """Every run's score above its partner's, the mean of a cell's seeds as a bar, and all cells below."""
    seen = pair.differences.dropna(subset="difference")
    _difference_axis(axes, seen["difference"])
    rows = pair.rows(seen)
    axes.scatter(seen["difference"], rows, s=9, color=[actor_colour(a) for a in seen["actor_lr"]], lw=0, zorder=3)
    means = seen.groupby(rows)["difference"].mean()
    axes.scatter(means, means.index, marker="|", s=35, color="black", linewidth=0.9, zorder=4)
    _mean_and_interval(axes, len(pair.cells) + 0.3, seen.groupby("seed")["difference"].mean())
    gone = pair.differences[pair.differences["difference"].isna()]
    colours = [actor_colour(rate) for rate in gone["actor_lr"]]
    axes.scatter([0.02] * len(gone), pair.rows(gone), s=12, marker="x", color=colours, linewidth=0.9, clip_on=False,
                 transform=axes.get_yaxis_transform(), zorder=5)  # fmt: skip
    axes.axvline(0, color="0.35", linewidth=0.8, zorder=1)


def _difference_axis(axes: Axes, differences: pd.Series) -> None:
    """Linear, or where differences are large linear near 0 and logarithmic beyond, and then the label says so."""
    largest = float(differences.abs().max()) if len(differences) else 0.0
    if not largest > LARGEST_LINEAR:
        return
    axes.set_xscale("symlog", linthresh=LINEAR, linscale=1.0)
    signed_log_ticks(axes, largest)
    axes.set_xlabel("log beyond ±1", fontsize=SMALL)


def _stopping_panel(axes: Axes, pair: Pair) -> None:
    """Stopping episodes of both, those that never stop in a lane, diverged runs there as crosses."""
    both = pd.concat([pair.runs, pair.baseline])
    lane = stopping_lane(both)
    for runs, down, look in ((pair.baseline, -APART, OPEN), (pair.runs, APART, {"linewidth": 0})):
        stops = runs.assign(stop=place_stops(runs, lane), row=pair.rows(runs) + down)
        gone = stops["stopping_episode"].isna() & (stops["status"] == schema.DIVERGED)
        there, colours = stops[~gone], [actor_colour(rate) for rate in stops["actor_lr"][~gone]]
        axes.scatter(there["stop"], there["row"], s=8, zorder=3, **({"color": colours} | look))
        axes.scatter([lane] * gone.sum(), stops["row"][gone], s=12, marker="x", color="0.3", linewidth=0.9, zorder=4)
    first = min(100.0, both["stopping_episode"].min() * 0.9)
    stopping_axis([axes], lane, first if math.isfinite(first) else 100.0, narrow=True)


def _two_points(axes: Axes, pair: Pair, column: str) -> None:
    """A column of both studies, the baseline's (where it has it) as rings above the cell's own points."""
    for runs, down, look in ((pair.baseline, -APART, OPEN), (pair.runs, APART, {"linewidth": 0})):
        if column in runs:
            colours = [actor_colour(rate) for rate in runs["actor_lr"]]
            axes.scatter(runs[column], pair.rows(runs) + down, s=8, zorder=3, **({"color": colours} | look))


def _positive_axis(axes: Axes, values: pd.Series) -> None:
    """A log axis of few decades for these values."""
    if (values > 0).any():
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(10, numticks=3))
        axes.xaxis.set_minor_locator(NullLocator())


def _cell_names(axes_row: np.ndarray, pair: Pair, preset: str) -> None:
    """Critic rates as ticks, actor rates over them in their colour, groups apart, the preset's name at the left."""
    names = [learning_rate_text(critic_lr) for _, critic_lr in pair.cells]
    axes_row[0].set_yticks([*range(len(names)), len(names) + 0.3], [*names, "all cells"])
    axes_row[0].set_ylim(len(names) + 0.8, -0.6)
    axes_row[0].set_ylabel(f"{preset} — actor lr, critic lr", fontsize=SMALL)
    for actor_lr in dict.fromkeys(actor for actor, _ in pair.cells):
        own = [row for row, (actor, _) in enumerate(pair.cells) if actor == actor_lr]
        axes_row[0].annotate(
            learning_rate_text(actor_lr), (0, np.mean(own)), (-31, 0), xycoords=axes_row[0].get_yaxis_transform(),
            textcoords="offset points", rotation=90, ha="center", va="center", fontsize=SMALL,
            color=actor_colour(actor_lr),
        )  # fmt: skip
        for axes in axes_row:
            axes.axhline(own[-1] + 0.5, color="0.75", linewidth=0.6, zorder=0)
    for axes in axes_row:
        tidy(axes)
        axes.tick_params(axis="y", length=0)
