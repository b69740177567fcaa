"""What the paper's figures share: page, axes, lines of runs over time, marks of runs, reproducible files."""

from __future__ import annotations

import io
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

from common.analysis.figures import NORMAL, SMALL, actor_colour
from common.recording.results import learning_rate_text, learning_rates
from common.recording.store import write_atomically
from paper.load import StudyFiles, title
from paper.text import seeds_text

WIDTH = 6.5  # inches, the paper's text: figures are printed as large as they are drawn
PNG_DPI = 200
# Markers at the decades of the critic learning rate; other rates take the nearest.
CRITIC_MARKERS = {-4: "o", -3: "s", -2: "D", -1: "^"}
FILE_SETTINGS = {"pdf.fonttype": 42}  # embed TrueType fonts
NO_DATES = {"pdf": {"Creator": None, "Producer": None, "CreationDate": None}, "png": {"Software": None}}


def page(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure of the text's width with its axes (rows, columns); `options` as for `Figure.subplots`."""
    figure = Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.04))
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def finish(figure: Figure, text: str, handles: Iterable[Line2D] = (), columns: int = 6, cells: bool = False) -> Figure:
    """Small numbers, light grid or cells, no box, legend below, title above."""
    for axes in figure.axes:
        axes.tick_params(labelsize=SMALL, **{"length": 0} if cells else {})
        axes.spines[["top", "right"]].set_visible(False)
        if not cells:
            axes.grid(color="0.92", linewidth=0.6)
        axes.set_axisbelow(True)
    handles = list(handles)
    if handles:
        figure.legend(
            handles=handles, loc="outside lower center", ncols=min(columns, len(handles)), fontsize=SMALL,
            frameon=False, columnspacing=1.2, handletextpad=0.5, handlelength=1.5,
        )  # fmt: skip
    figure.suptitle(text, fontsize=NORMAL)
    return figure


def headline(text: str, studies: Iterable[StudyFiles]) -> str:
    """Title with what the figure rests on: experiment and preset where they are one, seeds, runs."""
    studies = list(studies)
    names, presets = ({s.name for s in studies}, {s.runs["preset"].iloc[0] for s in studies})
    parts = [title(name).lower() if name == "baseline" else title(name) for name in names if len(names) == 1]
    parts += [f"preset {preset}" for preset in presets if len(presets) == 1]
    seeds = {seeds_text(study.seeds): len(study.seeds) for study in studies}
    parts += [f"seed{'s' if count > 1 else ''} {seed}" for seed, count in seeds.items() if len(seeds) == 1]
    counts = sorted({len(study.runs) for study in studies})
    parts.append(f"{'–'.join(map(str, counts))} runs{' each' if len(studies) > 1 else ''}")
    return f"{text} — {'; '.join(parts)}"


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
    return [mark(f"critic lr {learning_rate_text(x)}", critic_marker(x), "0.35") for x in learning_rates(table)[1]]


def mark(label: str, marker: str | None, colour: Any, **look: Any) -> Line2D:
    """A legend entry that is a marker."""
    return Line2D([], [], **{"color": colour, "marker": marker, "linewidth": 0, "ms": 4, "label": label, **look})


def run_points(axes: Axes, runs: pd.DataFrame, x: str, y: str) -> None:
    """A point per row: colour by actor rate, marker by critic rate."""
    for (actor_lr, critic_lr), cell in runs.groupby(["actor_lr", "critic_lr"]):
        axes.scatter(
            cell[x], cell[y], s=16, color=actor_colour(actor_lr), marker=critic_marker(critic_lr), alpha=0.85,
            edgecolor="white", linewidth=0.3, zorder=3, clip_on=False,
        )  # fmt: skip


def episode_axis(axes: Axes, last: float) -> None:
    """A log axis of training episodes, from the first training step on, with plain numbers."""
    axes.set_xscale("log")
    axes.set_xlim(1.8, last * 1.1)
    axes.xaxis.set_major_locator(LogLocator(10, numticks=6))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda episode, _: f"{episode:.0f}"))
    axes.set_xlabel("training episode (log)", fontsize=SMALL)


def stopping_lane(runs: pd.DataFrame) -> float:
    """Middle of the lane `never` of a stopping axis: well beyond the longest run."""
    return 2.6 * float(runs["total_episodes"].max())


def place_stops(runs: pd.DataFrame, lane: float) -> pd.Series:
    """Stopping episodes of these runs; those without one (never, or diverged before) side by side in the lane."""
    pairs = runs.groupby(["actor_lr", "critic_lr"]).ngroup()
    return runs["stopping_episode"].fillna(lane * 1.3 ** (pairs / max(pairs.max(), 1) - 0.5))


def stopping_axis(panels: Iterable[Axes], lane: float, first: float) -> None:
    """A log x axis of stopping episodes with a lane `never` behind a dashed line."""
    ticks = [episode for episode in (10, 30, 100, 300, 1000) if first <= episode <= lane / 2.5]
    for axes in panels:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator([*ticks, lane]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda e, _: "never" if e > lane / 1.5 else f"{e:.0f}"))
        axes.axvline(lane / 1.65, color="0.5", linestyle=(0, (4, 3)), linewidth=0.7, zorder=1)
        axes.set_xlim(first * 0.9, lane * 1.35)


def score_axis(set_scale: Any, lowest: float) -> None:
    """Make a score axis linear from −1 to 1 and logarithmic beyond where scores are below −2, by its `set_scale`."""
    if lowest < -2:
        set_scale("symlog", linthresh=1.0, linscale=1.5)


def titles(panels: Iterable[Axes], names: Iterable[str]) -> None:
    """Names of panels, above them."""
    for axes, name in zip(panels, names, strict=True):
        axes.set_title(name, fontsize=NORMAL)


def rate_ticks(axes: Axes, runs: pd.DataFrame) -> None:
    """Cells of a grid: critic rates across, actor rates up."""
    actor_lrs, critic_lrs = learning_rates(runs)
    axes.set_xlim(-0.5, len(critic_lrs) - 0.5)
    axes.set_ylim(-0.5, len(actor_lrs) - 0.5)
    axes.set_xticks(range(len(critic_lrs)), [learning_rate_text(rate) for rate in critic_lrs])
    axes.set_yticks(range(len(actor_lrs)), [learning_rate_text(rate) for rate in actor_lrs])
    axes.set_xlabel("critic learning rate", fontsize=SMALL)


def save(figure: Figure, folder: Path, name: str, source: str) -> None:
    """Write `name`.pdf and `name`.png, the same bytes for the same figure; the PNG's text `Source` is `source`.

    Raises OSError.
    """
    with matplotlib.rc_context(FILE_SETTINGS):
        for kind, dates in NO_DATES.items():
            picture = io.BytesIO()
            metadata = {**dates, "Source": source} if kind == "png" else dates
            figure.savefig(picture, format=kind, dpi=PNG_DPI, metadata=metadata)
            write_atomically(folder / f"{name}.{kind}", picture.getvalue())
