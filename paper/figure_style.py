"""What the paper's figures share: page, lane for runs that never stop, marks of runs, reproducible files.

Colours, sizes and the drawing of runs over time are those of `common.analysis.figures`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from common.analysis.comparison_statistics import comparison_tables
from common.analysis.figures import NORMAL, SMALL, _draw, actor_colour
from common.recording import schema
from common.recording.results import Study, learning_rate_text, learning_rates
from paper.tables_data import phrase

WIDTH = 6.5  # inches, the paper's text: figures are printed as large as they are drawn
PNG_DPI = 200
RUN = list(schema.RUN_KEY)
# Markers at the decades of the critic learning rate; other rates take the nearest.
CRITIC_MARKERS = {-4: "o", -3: "s", -2: "D", -1: "^"}
FILE_SETTINGS = {"pdf.fonttype": 42}  # embed TrueType fonts
NO_DATES = {"pdf": {"Creator": None, "Producer": None, "CreationDate": None}, "png": {"Software": None}}


def page(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure of the text's width with its axes (rows, columns); `options` as for `Figure.subplots`."""
    figure = Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.04))
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def fit(figure: Figure, height: float, title: str) -> Figure:
    """A figure of `common.analysis.figures` at the text's width, under the paper's title."""
    figure.set_size_inches(WIDTH, height)
    figure.suptitle(title, fontsize=NORMAL)
    return figure


def finish(figure: Figure, title: str, handles: Iterable[Line2D] = (), columns: int = 6) -> Figure:
    """Small ticks, light grid, legend below, title above."""
    for axes in figure.axes:
        tidy(axes)
    handles = list(handles)
    if handles:
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=min(columns, len(handles)),
            fontsize=SMALL,
            frameon=False,
            columnspacing=1.2,
            handletextpad=0.5,
            handlelength=1.5,
        )
    figure.suptitle(title, fontsize=NORMAL)
    return figure


def tidy(axes: Axes) -> None:
    """Light grid behind the data, no box, small numbers."""
    axes.tick_params(labelsize=SMALL)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)


def headline(title: str, runs: pd.DataFrame) -> str:
    """Title with what the figure rests on: experiments, presets, seeds and runs of these rows of runs.csv."""
    presets, experiments = (list(dict.fromkeys(runs[name])) for name in ("preset", "experiment"))
    parts = [phrase(experiments[0])] if len(experiments) == 1 else []
    parts += [f"preset {presets[0]}"] if len(presets) == 1 else []
    seeds = sorted(runs["seed"].unique())
    parts.append(f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}")
    counts = sorted(set(runs.groupby(["preset", "experiment"]).size()))
    parts.append(f"{'–'.join(map(str, counts))} runs{' each' if len(presets) * len(experiments) > 1 else ''}")
    return f"{title} — {'; '.join(parts)}"


def rate_handles(table: pd.DataFrame, line: bool = False) -> list[Line2D]:
    """Legend entries of the actor learning rates, as lines or as points."""
    look: dict[str, Any] = {"linewidth": 2} if line else {"linewidth": 0, "marker": "o", "ms": 4}
    return [
        Line2D([], [], color=actor_colour(rate), label=f"actor lr {learning_rate_text(rate)}", **look)
        for rate in learning_rates(table)[0]
    ]


def critic_marker(critic_lr: float) -> str:
    """Marker of a critic learning rate, whatever else is in the figure."""
    return CRITIC_MARKERS[min(CRITIC_MARKERS, key=lambda decade: abs(decade - np.log10(critic_lr)))]


def critic_handles(table: pd.DataFrame) -> list[Line2D]:
    """Legend entries of the critic learning rates."""
    return [
        mark(f"critic lr {learning_rate_text(rate)}", critic_marker(rate), "0.35") for rate in learning_rates(table)[1]
    ]


def mark(label: str, marker: str, colour: Any, **look: Any) -> Line2D:
    """A legend entry that is a marker."""
    return Line2D([], [], **{"color": colour, "marker": marker, "linewidth": 0, "ms": 4, "label": label, **look})


def run_points(axes: Axes, runs: pd.DataFrame, x: str, y: str, size: float = 16) -> None:
    """A point per row: colour by actor rate, marker by critic rate."""
    for (actor_lr, critic_lr), cell in runs.groupby(["actor_lr", "critic_lr"]):
        axes.scatter(
            cell[x], cell[y], s=size, color=actor_colour(actor_lr), marker=critic_marker(critic_lr), alpha=0.85,
            edgecolor="white", linewidth=0.3, zorder=3, clip_on=False,
        )  # fmt: skip


def pooled_lines(axes: Axes, table: pd.DataFrame, column: str, zeros_at: float | None = None) -> None:
    """Every run as a thin line, thick the median of all runs of an actor rate, as far as all of them run.

    For `common.analysis.figures`, the runs of one actor rate, whatever their critic rate, are the seeds of one cell.
    """
    pooled = table.assign(seed=table.groupby(RUN).ngroup(), critic_lr=1.0)
    _draw(np.array([axes]), pooled, column, zeros_at)
    darken_runs([axes])


def darken_runs(panels: Iterable[Axes], alpha: float = 0.35) -> None:
    """Make the thin lines of `common.analysis.figures` strong enough for print."""
    for axes in panels:
        for line in axes.lines:
            if line.get_alpha() is not None and line.get_linewidth() < 0.6:
                line.set_alpha(alpha)


def episode_axis(axes: Axes, low: float = 1, high: float = 2000) -> None:
    """A log axis of training episodes with plain numbers."""
    axes.set_xscale("log")
    axes.set_xlim(low * 0.9, high * 1.1)
    axes.xaxis.set_major_locator(LogLocator(10, numticks=6))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda episode, _: f"{episode:.0f}"))


def stopping_lane(runs: pd.DataFrame) -> float:
    """Middle of the lane `never` of a stopping axis: well beyond the longest run."""
    return 2.6 * float(runs["total_episodes"].max())


def place_stops(runs: pd.DataFrame, lane: float) -> pd.Series:
    """Stopping episodes of these runs; those without one (never, or diverged before) side by side in the lane."""
    pairs = runs.groupby(["actor_lr", "critic_lr"]).ngroup()
    apart = pairs / max(pairs.max(), 1) - 0.5
    return runs["stopping_episode"].fillna(lane * 1.3**apart)


def stopping_axis(panels: Iterable[Axes], lane: float, first: float = 100, narrow: bool = False) -> None:
    """A log x axis of stopping episodes with a lane `never` behind a dashed line; few ticks where it is narrow."""
    steps = (1, 10, 30, 100, 300, 1000) if narrow else (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
    ticks = [episode for episode in steps if first <= episode <= lane / 2.5]
    for axes in panels:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator([*ticks, lane]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda e, _: "never" if e > lane / 1.5 else f"{e:.0f}"))
        axes.axvline(lane / 1.65, color="0.5", linestyle=(0, (4, 3)), linewidth=0.7, zorder=1)
        axes.set_xlim(first * 0.9, lane * 1.35)


def signed_log_ticks(axes: Axes, largest: float) -> None:
    """Few ticks on a symlog x axis that is linear between −1 and 1: 0 and powers of 10 of both signs."""
    decades = math.ceil(math.log10(largest))
    ticks = [10.0**decade for decade in range(0, decades + 1, max(1, math.ceil(decades / 2)))]
    axes.set_xticks([*(-tick for tick in reversed(ticks)), 0, *ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))


def not_recorded(axes: Axes, height: float) -> None:
    """Says so in the row of an experiment."""
    axes.text(
        0.5, height, "not recorded", ha="center", va="center", fontsize=SMALL, color="0.5", zorder=5,
        transform=axes.get_yaxis_transform(), bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )  # fmt: skip


def preset_titles(panels: Iterable[Axes], presets: Iterable[str]) -> None:
    """The presets' names over their panels."""
    for axes, preset in zip(panels, presets, strict=True):
        axes.set_title(preset, fontsize=NORMAL)


def of_presets(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The presets' rows in one table, told apart by a column `preset`."""
    return pd.concat([table.assign(preset=preset) for preset, table in tables.items()], ignore_index=True)


def runs_of(studies: dict[str, Study]) -> pd.DataFrame:
    """Rows of runs.csv of these presets' studies, in one table."""
    return pd.concat([study.runs for study in studies.values()], ignore_index=True)


def compared(studies: dict[str, Study]) -> pd.DataFrame:
    """The comparison of these experiments' studies of one preset."""
    names = ("runs", "stopping_episodes", "reference_policies")
    tables = (pd.concat([getattr(s, name).assign(experiment=e) for e, s in studies.items()]) for name in names)
    return comparison_tables(*tables, fewest=2)[0]


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write `name`.pdf and `name`.png, each under another name first; the same bytes for the same figure.

    Raises OSError.
    """
    with matplotlib.rc_context(FILE_SETTINGS):
        for kind, metadata in NO_DATES.items():
            path = folder / f"{name}.{kind}"
            partial = path.with_name(f".{name}.{os.getpid()}.tmp")
            try:
                figure.savefig(partial, format=kind, dpi=PNG_DPI, metadata=metadata)
                os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)
