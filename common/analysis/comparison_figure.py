"""The picture of comparison.csv: experiments as rows, every run's score as a point, the shares beside it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from common.analysis.figures import NORMAL, SMALL, actor_colour
from common.recording import schema
from common.recording.results import learning_rate_text, learning_rates

WIDTH = 8.0  # inches
ROW = 0.56  # inches per experiment
LINEAR = 1.0  # the score axis is linear up to this absolute value
LOWEST_LINEAR = -2.0  # and all linear where no score is below this
TOP, LANES, MEDIAN = 0.36, 0.6, -0.36  # of one experiment, in rows: its highest point, height of points, median's line
FILLED = {"markerfacecolor": "0.15", "ms": 4.0}
UNTRAINED = {"marker": "|", "color": "0.35", "ms": 8, "mew": 1.3, "linewidth": 0}
RING = {"markerfacecolor": "none", "ms": 6.5}  # around a dot where both say the same


def comparison_figure(table: pd.DataFrame, runs: pd.DataFrame, preset: str) -> Figure:
    """Experiments of one preset from the top: `table` of comparison_tables, `runs` of only_finished.

    Left every run's normalised score, coloured by actor learning rate, with the mean of the seeds' medians and its
    interval; right the shares of cells that are viable and that learn, of runs that never stop, improved and beat the
    baseline, and the saturation.
    """
    heights = {name: -place for place, name in enumerate(table["experiment"])}
    rows = list(heights.values())
    figure = Figure(figsize=(WIDTH, 1.5 + ROW * len(table)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.03, wspace=0.03)
    panels = figure.subplots(1, 5, sharey=True, width_ratios=(3.4, 1, 1, 1, 1))
    _scores(panels[0], table, runs, heights)
    low, viable, high = (table[f"viable_cells{end}"].astype(float) / table["cells"] for end in ("_low", "", "_high"))
    panels[1].hlines(rows, low, high, color="0.5", linewidth=1.2)
    learns = table["learning_cells"] / table["cells"]
    _shares(panels[1], rows, "● viable\n○ learns", "share of cells", (viable, FILLED), (learns, RING))
    never, improved = (table[what] / table["runs"] for what in ("runs_never_stopping", "improved_runs"))
    better = table["runs_better_than_baseline"] / table["paired_runs"]
    saturated, wrong = table["median_final_saturation"], table["median_final_wrong_side_saturation"]
    _shares(panels[2], rows, "● never stops", "share of runs", (never, FILLED))
    _shares(panels[3], rows, "● beats its start\n○ beats baseline", "share of runs", (improved, FILLED), (better, RING))
    _shares(panels[4], rows, "● saturated\n○ wrong side", "median share", (saturated, FILLED), (wrong, RING))
    panels[0].set_yticks(rows, [_name(row) for row in table.itertuples()], fontsize=SMALL)
    panels[0].set_ylim(-len(table) + 0.5, 0.5)
    for axes in panels:
        for row in rows[1:]:
            axes.axhline(row + 0.5, color="0.8", linewidth=0.6, zorder=0)
        axes.grid(axis="x", color="0.92", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labelsize=SMALL)
        axes.spines[["top", "right", "left"]].set_visible(False)
    handles = _legend(runs, bool(table["median_score_low"].notna().any()))
    columns = len(handles) if len(handles) <= 6 else math.ceil(len(handles) / 2)
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, fontsize=SMALL, frameon=False, columnspacing=1.0,
        handletextpad=0.5, handlelength=1.4,
    )  # fmt: skip
    figure.suptitle(f"Experiments compared — {preset}", fontsize=NORMAL)
    return figure


def _name(row: Any) -> str:
    return f"{row.experiment}\n{row.runs} runs, {row.seeds} seed{'' if row.seeds == 1 else 's'}"


def _scores(axes: Axes, table: pd.DataFrame, runs: pd.DataFrame, heights: dict[str, int]) -> None:
    """A lane per actor learning rate, the smallest on top, critic rates a little apart in it; the median below."""
    actor_lrs, critic_lrs = learning_rates(runs)
    _score_axis(axes, pd.concat([runs["normalised_score"], table["median_score_low"]]))
    left, right = axes.get_xlim()
    for (name, actor_lr), lane in runs.groupby(["experiment", "actor_lr"]):
        apart = lane["critic_lr"].map(critic_lrs.index) / len(critic_lrs)
        y = heights[name] + TOP - LANES * (actor_lrs.index(actor_lr) + 0.7 * apart) / len(actor_lrs)
        colour, gone = actor_colour(actor_lr), lane["normalised_score"].isna()
        axes.scatter(lane["normalised_score"], y, s=9, color=colour, alpha=0.8, linewidth=0, zorder=3)
        axes.scatter([left] * gone.sum(), y[gone], s=14, color=colour, marker="x", linewidth=1, zorder=5, clip_on=False)
    for row in table.itertuples():
        y = heights[row.experiment] + MEDIAN
        axes.plot((row.median_score_low, row.median_score_high), (y, y), color="black", linewidth=1.4, zorder=6)
        axes.plot(row.median_score, y, "D", color="black", ms=4.5, mec="white", mew=0.7, zorder=7)
        axes.plot(row.untrained_score, y, **UNTRAINED, zorder=5)
        if row.median_score_high > right:
            axes.plot(right, y, ">", color="black", ms=4, zorder=6, clip_on=False)
    for score, name, line in ((0, "random", ":"), (1, "near-optimal", "-")):
        axes.axvline(score, color="0.35", linewidth=0.8, linestyle=line, zorder=1)
        axes.text(score, 1.01, name, transform=axes.get_xaxis_transform(), ha="right", va="bottom", fontsize=SMALL)


def _score_axis(axes: Axes, scores: pd.Series) -> None:
    """Scale, limits, ticks and label for these scores; the label names a scale that is not linear."""
    lowest, highest = min(-LINEAR, scores.min()), max(1.0, scores.max())  # NaN is neither smaller nor larger
    axes.set_xlabel("normalised score of every run", fontsize=SMALL)
    if lowest >= LOWEST_LINEAR:
        axes.set_xlim(lowest - 0.1, highest + 0.1)
        return
    decades = math.log10(-lowest)
    axes.set_xscale("symlog", linthresh=LINEAR, linscale=max(1.0, 0.45 * decades))  # near half the width is linear
    axes.set_xlim(lowest * 1.3, highest * 1.1)
    powers = range(0, math.floor(decades) + 1, max(1, math.ceil(decades / 4)))
    beyond = {-(10.0**power): f"$-10^{{{power}}}$" if power > 2 else f"−{10**power}" for power in reversed(powers)}
    axes.set_xticks([*beyond, -0.5, 0, 0.5, 1], [*beyond.values(), "−0.5", "0", "0.5", "1"])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(f"{axes.get_xlabel()}\n(linear from −1 to 1, logarithmic beyond)", fontsize=SMALL)


def _shares(axes: Axes, rows: list[int], title: str, unit: str, *marks: tuple[pd.Series, dict[str, Any]]) -> None:
    """Shares between 0 and 1, one mark per experiment and kind; `marks` are (shares, face); empty ones are left out."""
    for shares, face in marks:
        values = shares.astype("float64").to_numpy(na_value=np.nan)
        axes.plot(values, rows, "o", markeredgecolor="0.15", markeredgewidth=0.9, zorder=3, clip_on=False, **face)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["0", "½", "1"])
    axes.set_xlabel(unit, fontsize=SMALL)
    axes.set_title(title, fontsize=SMALL, loc="left")


def _legend(runs: pd.DataFrame, intervals: bool) -> list[Line2D]:
    marks = [(actor_colour(rate), "o", 0.0, f"actor lr {learning_rate_text(rate)}") for rate in learning_rates(runs)[0]]
    marks.append(("black", "D", 1.4 * intervals, "median" + ", 95% interval over seeds" * intervals))
    if (runs["status"] == schema.DIVERGED).any():
        marks.append(("0.3", "x", 0.0, "diverged"))
    handles = [Line2D([], [], color=colour, marker=m, lw=width, ms=4, label=text) for colour, m, width, text in marks]
    return [*handles, Line2D([], [], label="untrained", **UNTRAINED)]
