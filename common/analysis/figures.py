"""One function per figure: data frames in, matplotlib Figure out; without pyplot and its global state."""

from __future__ import annotations

import io
import math
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator
from PIL import Image

from common.recording import schema
from common.recording.results import (
    Study,
    learning_rate_text,
    learning_rates,
    stopping_cell,
    stopping_texts,
    study_label,
)
from common.recording.store import write_atomically

DPI = 150
COLOURS = 128
SMALL, NORMAL = 7.5, 8.5
# Okabe-Ito colours at the decades of the actor learning rate; rates between them get the colours between.
RATE_COLOURS = {-5: "#000000", -4: "#0072B2", -3: "#56B4E9", -2: "#E69F00", -1: "#D55E00", 0: "#882255"}
REFERENCE_STYLES = {"random": ":", "constant": "-.", "local_oracle": "--", "greedy_offload": "-"}
BINNED = "thin: one run; thick: median of all seeds and of episodes within a factor 1.2"
STOPPING_RANGE = (100, 2000)  # of the colours, so that two studies look as alike as they are
NEVER_GREY, DIVERGED_GREY = "#E8E8E8", "#BDBDBD"
LARGEST_GAP = 2.5  # factor between logged episodes over which no line is drawn
KEY = list(schema.RUN_KEY)


def actor_colour(actor_lr: float) -> tuple[float, float, float]:
    """RGB colour of an actor learning rate, also of 0: fixed by its value, whatever else is in the figure."""
    decade = math.log10(actor_lr) if actor_lr else -math.inf
    channels = zip(*(to_rgb(code) for code in RATE_COLOURS.values()), strict=True)
    return tuple(float(np.interp(decade, list(RATE_COLOURS), channel)) for channel in channels)


def stopping_heatmap(runs: pd.DataFrame) -> Figure:
    """Stopping episode of every learning-rate pair, from the rows of runs.csv.

    Colour and first line of a cell: median over seeds, a seed that never stopped counting as later than any;
    second line: range of the seeds that stopped, and how many never did or diverged before.
    """
    actor_lrs, critic_lrs = learning_rates(runs)
    cells = {pair: stopping_cell(rows) for pair, rows in runs.groupby(["actor_lr", "critic_lr"])}
    medians = [cell.median for cell in cells.values() if cell.median is not None]
    norm = LogNorm(min([STOPPING_RANGE[0], *medians]), max([STOPPING_RANGE[1], *medians]))
    figure = _figure(max(4.2, 1.8 + 1.25 * len(critic_lrs)), max(2.8, 1.7 + 0.62 * len(actor_lrs)))
    axes = figure.add_subplot()
    for (actor_lr, critic_lr), cell in cells.items():
        x, y = critic_lrs.index(critic_lr), actor_lrs.index(actor_lr)
        face, ink = DIVERGED_GREY if cell.diverged == cell.seeds else NEVER_GREY, "black"
        if cell.median is not None:
            face, ink = colormaps["viridis"](norm(cell.median)), "white" if norm(cell.median) < 0.6 else "black"
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=face, edgecolor="white", linewidth=1.5))
        text = "\n".join(stopping_texts(cell))
        axes.text(x, y, text, ha="center", va="center", fontsize=SMALL, color=ink, linespacing=1.25)
    axes.set_xlim(-0.5, len(critic_lrs) - 0.5)
    axes.set_ylim(-0.5, len(actor_lrs) - 0.5)
    axes.set_xticks(range(len(critic_lrs)), map(learning_rate_text, critic_lrs))
    axes.set_yticks(range(len(actor_lrs)), map(learning_rate_text, actor_lrs))
    axes.tick_params(length=0, labelsize=SMALL)
    axes.set_xlabel("critic learning rate", fontsize=NORMAL)
    axes.set_ylabel("actor learning rate", fontsize=NORMAL)
    if medians:
        _colour_bar(figure, axes, norm)
    notes = ["median over seeds; in brackets the range of those that stopped"] if _seeds(runs) > 1 else []
    if any(cell.never for cell in cells.values()):
        notes.append(f"never: not within {runs['total_episodes'].max():.0f} episodes")
    _title(figure, "Stopping episode", study_label(runs), runs, "\n".join(notes))
    return figure


def saturation_over_time(saturation: pd.DataFrame, study: str = "") -> Figure:
    """Saturation ratio, wrong-side saturation and largest |z| over the episodes, a column per critic rate."""
    raw = "raw_" if "raw_z_min" in saturation.columns else ""  # where z is scaled to a fixed range: before that
    table = saturation.assign(largest_abs_z=saturation[[f"{raw}z_min", f"{raw}z_max"]].abs().max(axis=1))
    figure, panels = _panels(table, 3)
    shares = {
        "saturation_ratio": "saturation ratio\n(share of outputs)",
        "wrong_side_saturation": "wrong-side saturation\n(share of saturated\ncompute outputs)",
    }
    for axes_row, (column, label) in zip(panels, shares.items(), strict=False):
        axes_row[0].set_ylim(-0.04, 1.04)
        axes_row[0].set_ylabel(label, fontsize=SMALL)
        _draw(axes_row, table, column)
    label = f"largest |{raw.replace('_', ' ')}pre-activation|\n(log scale)"
    _draw(panels[2], table, "largest_abs_z", log_axis(panels[2], table["largest_abs_z"], label))
    _finish(figure, panels, table, "Saturation of the actors' outputs", study, BINNED)
    return figure


def gradient_norms_over_time(gradient_norms: pd.DataFrame, study: str = "") -> Figure:
    """Gradient norm of actors and critic and their ratio over the episodes, a column per critic rate."""
    figure, panels = _panels(gradient_norms, 3)
    rows = {
        "actor_gradient_norm": "actor gradient norm\n(RMS over agents, log)",
        "critic_gradient_norm": "critic gradient norm\n(before clipping, log)",
        "gradient_ratio": "gradient ratio\n(actor / critic, log)",
    }
    for axes_row, (column, label) in zip(panels, rows.items(), strict=True):
        _draw(axes_row, gradient_norms, column, log_axis(axes_row, gradient_norms[column], label))
    _finish(figure, panels, gradient_norms, "Gradient norms (L2)", study, BINNED)
    return figure


def learning_curves(evaluations: pd.DataFrame, reference_policies: pd.DataFrame, study: str = "") -> Figure:
    """Evaluation returns over the episodes with the reference policies as lines, a panel per critic rate.

    Returns that are all negative and span a decade are drawn as costs on a log axis that points down.
    """
    references = [
        (policy, float(rows["evaluation_return"].mean()))
        for policy in schema.POLICIES
        if len(rows := reference_policies[reference_policies["policy"] == policy])
    ]
    returns = [*evaluations["evaluation_return"], *(value for _, value in references)]
    count = max(len(learning_rates(evaluations)[1]), 1)
    across = min(count, 2)
    figure, panels = _panels(evaluations, math.ceil(count / across), across, height=1.75, right=1.15)
    sign = _return_axis(panels, [value for value in returns if math.isfinite(value)])
    curves = evaluations.assign(signed_return=sign * evaluations["evaluation_return"])
    _draw(panels.ravel(), curves, "signed_return", bins=0)
    for index, axes in enumerate(panels.ravel()[:count]):
        for policy, value in references:
            line = REFERENCE_STYLES[policy]
            axes.axhline(sign * value, color="0.25", linestyle=line, linewidth=0.9, zorder=1)
        if index % across == across - 1 or index == count - 1:
            _label_references(axes, references, sign)
    note = "thin: one seed; thick: median while all seeds run; references: mean over seeds"
    _finish(figure, panels, evaluations, "Learning curves", study, note if _seeds(evaluations) > 1 else "")
    return figure


def save_study_figures(study: Study) -> list[Path]:
    """Write the four figures as PNG beside the study's CSV files and return their paths.

    A picture that is there is whole. Raises OSError.
    """
    figures = {
        "stopping_heatmap": stopping_heatmap(study.runs),
        "saturation_over_time": saturation_over_time(study.saturation, study.label),
        "gradient_norms_over_time": gradient_norms_over_time(study.gradient_norms, study.label),
        "learning_curves": learning_curves(study.evaluations, study.reference_policies, study.label),
    }
    for name, figure in figures.items():
        write_atomically(study.folder / f"{name}.png", small_png(figure))
    return [study.folder / f"{name}.png" for name in figures]


def small_png(figure: Figure) -> bytes:
    """The figure as a PNG of at most COLOURS colours, a third of the bytes; those of its lines are exact."""
    drawn, picture = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    lines = {tuple(round(255 * x) for x in to_rgb(line.get_color())) for line in figure.findobj(Line2D)}
    exact = [(255, 255, 255), *sorted(lines)[: COLOURS // 2]]
    palette = Image.new("P", (1, 1))
    with Image.open(drawn) as image:
        image = image.convert("RGB")
        others = image.quantize(COLOURS - len(exact), dither=Image.Dither.NONE).getpalette()
        palette.putpalette([*(x for colour in exact for x in colour), *others])
        few = image.quantize(palette=palette, dither=Image.Dither.NONE)
    few.save(picture, format="png", optimize=True)
    return picture.getvalue()


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.08))
    FigureCanvasAgg(figure)
    return figure


def _panels(
    table: pd.DataFrame, rows: int, across: int | None = None, height: float = 1.35, right: float = 0.0
) -> tuple[Figure, np.ndarray]:
    """Figure and array of axes, shape (rows, columns); a column per critic rate unless `across` is given."""
    columns = across or max(len(learning_rates(table)[1]), 1)
    figure = _figure(0.9 + columns * max(1.6, min(3.4, 5.2 / columns)) + right, 1.3 + height * rows)
    share = "all" if across else "row"
    return figure, figure.subplots(rows, columns, sharex=True, sharey=share, squeeze=False)


def _draw(panels: np.ndarray, table: pd.DataFrame, column: str, zeros: float | None = None, bins: float = 1.2) -> None:
    """A panel per critic learning rate, as `run_lines` draws it."""
    last = table["episode"].max()
    for axes, critic_lr in zip(panels, learning_rates(table)[1], strict=False):
        run_lines(axes, table[table["critic_lr"] == critic_lr], column, zeros, bins, last)


def run_lines(
    axes: Axes,
    table: pd.DataFrame,
    column: str,
    zeros_at: float | None = None,
    bins: float = 1.2,
    last: float | None = None,
) -> None:
    """Every run as a thin line; thick the median of all runs of an actor rate, as far as all of them run.

    A run that ends before episode `last` (by default that of the table) ends in a point.

    With `bins` above 1 the median is also over logged episodes within that factor. Values of 0 are drawn at `zeros_at`
    where that is given. No line crosses a gap of more than LARGEST_GAP between logged episodes.
    """
    last = table["episode"].max() if last is None else last
    finite = table[np.isfinite(table[column])].sort_values("episode")
    shown = finite[column] if zeros_at is None else finite[column].where(finite[column] > 0, zeros_at)
    finite = finite.assign(shown=shown)
    for actor_lr, own in finite.groupby("actor_lr"):
        colour, runs = actor_colour(actor_lr), own.groupby(KEY)
        for _, run in runs:
            axes.plot(*bridged(run["episode"], run["shown"]), color=colour, linewidth=0.5, alpha=0.35)
            if run["episode"].iloc[-1] < last:
                axes.plot(run["episode"].iloc[-1], run["shown"].iloc[-1], "o", color=colour, ms=2.5, zorder=4)
        common = own[own.groupby("episode")["episode"].transform("size") == runs.ngroups]
        place = np.floor(np.log(common["episode"].clip(lower=1)) / math.log(bins)) if bins > 1 else common["episode"]
        median = common.groupby(place)[["episode", "shown"]].median()
        halo = [withStroke(linewidth=2.3, foreground="white")]
        line = bridged(median["episode"], median["shown"])
        axes.plot(*line, color=colour, linewidth=1.5, zorder=3, path_effects=halo)
        axes.plot(*alone(*line), "o", color=colour, ms=2.5, zorder=3)


def bridged(episodes: pd.Series, values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Points of a line with a break wherever nothing is logged over a factor of LARGEST_GAP."""
    x, y = episodes.to_numpy(dtype=float), values.to_numpy(dtype=float)
    breaks = np.flatnonzero((x[1:] > LARGEST_GAP * x[:-1]) & (x[:-1] > 0)) + 1
    return np.insert(x, breaks, np.nan), np.insert(y, breaks, np.nan)


def alone(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points of a line that have a break on either side, which a line does not show."""
    gaps = np.isnan(np.concatenate([[np.nan], y, [np.nan]]))
    single = gaps[:-2] & gaps[2:] & ~gaps[1:-1]
    return x[single], y[single]


def log_axis(axes_row: np.ndarray, values: pd.Series, label: str, note: str = "\nzeros on the dashed line") -> float:
    """Make a row's y axis logarithmic with at most six decades named; return where zeros are to be drawn.

    Where there are zeros, that is a dashed line below the smallest value, with the tick `0`; `note` says so.
    """
    axes = axes_row[0]
    positive = values[np.isfinite(values) & (values > 0)]
    has_zeros = bool((values == 0).any())
    low = math.floor(math.log10(positive.min())) if len(positive) else 0
    high = max(math.ceil(math.log10(positive.max())) if len(positive) else 1, low + 1)
    step = math.ceil((high - low + 1) / 5)
    decades = list(range(low, high + 1, step))
    gap = max(1.0, 0.12 * (high - low))
    floor = 10.0 ** (low - gap)
    axes.set_yscale("log")
    ticks, names = [10.0**decade for decade in decades], [f"$10^{{{decade}}}$" for decade in decades]
    axes.set_yticks([floor, *ticks] if has_zeros else ticks, ["0", *names] if has_zeros else names)
    axes.yaxis.set_minor_locator(NullLocator())
    margin = 10 ** (0.05 * (high - low + gap))
    axes.set_ylim((floor if has_zeros else 10.0**low) / margin, 10.0**high * margin)
    if has_zeros:
        for panel in axes_row:
            panel.axhline(floor, color="0.5", linestyle=(0, (4, 3)), linewidth=0.7, zorder=1)
    axes.set_ylabel(label + note * has_zeros, fontsize=SMALL)
    return floor


def _return_axis(panels: np.ndarray, returns: list[float]) -> int:
    """Scale, limits and label of the y axes for these returns; -1 where they are drawn as costs, else 1."""
    as_cost = bool(returns) and max(returns) < 0 and min(returns) < 10 * max(returns)
    low, high = min(returns, default=0.0), max(returns, default=1.0)
    axes = panels[0, 0]
    if as_cost:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda cost, _: f"−{cost:,.0f}"))
        margin = (low / high) ** 0.06
        axes.set_ylim(-low * margin, -high / margin)
    else:
        margin = 0.06 * (high - low) or 1.0
        axes.set_ylim(low - margin, high + margin)
    for left in panels[:, 0]:
        left.set_ylabel(f"evaluation return\nper episode{' (log scale)' if as_cost else ''}", fontsize=SMALL)
    return -1 if as_cost else 1


def _label_references(axes: Axes, references: list[tuple[str, float]], sign: int) -> None:
    """Name the reference lines beside the right edge, top down, moved apart where they lie close."""
    to_fraction = axes.transScale + axes.transLimits
    gap = 0.115
    place = 1.0 + gap
    for policy, value in sorted(references, key=lambda reference: -reference[1]):
        height = float(to_fraction.transform((1.0, sign * value))[1])
        place = min(height, place - gap)
        axes.annotate(
            f"{policy} {value:,.0f}".replace("-", "−"),
            xy=(1.0, sign * value),
            xycoords=axes.get_yaxis_transform(),
            xytext=(1.05, place),
            textcoords="axes fraction",
            va="center",
            fontsize=SMALL - 1,
            arrowprops={"arrowstyle": "-", "lw": 0.5, "color": "0.5", "shrinkB": 0, "relpos": (0, 0.5)},
        )


def _colour_bar(figure: Figure, axes: Axes, norm: LogNorm) -> None:
    bar = figure.colorbar(ScalarMappable(norm, "viridis"), ax=axes, pad=0.02)
    bar.minorticks_off()
    round_numbers = (1, 10, 100, 200, 500, 1000, 2000, 5000, 10_000)
    bar.set_ticks([episode for episode in round_numbers if norm.vmin <= episode <= norm.vmax])
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda episode, _: f"{episode:.0f}"))
    bar.ax.tick_params(labelsize=SMALL)
    bar.set_label("stopping episode (log scale)", fontsize=SMALL)


def _finish(figure: Figure, panels: np.ndarray, table: pd.DataFrame, title: str, study: str, note: str) -> None:
    """Panel titles, episode axes, legend and title; a log episode axis where there is no episode 0."""
    actor_lrs, critic_lrs = learning_rates(table)
    flat = panels.ravel()
    by_panel = panels.shape[1] != max(len(critic_lrs), 1) or panels.shape[0] == 1
    for index, axes in enumerate(flat):
        axes.tick_params(labelsize=SMALL)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.92", linewidth=0.6)
        axes.set_axisbelow(True)
        if by_panel and index >= max(len(critic_lrs), 1):
            axes.set_visible(False)
            flat[index - panels.shape[1]].tick_params(labelbottom=True)
        elif index < len(critic_lrs):
            axes.set_title(f"critic lr {learning_rate_text(critic_lrs[index])}", fontsize=NORMAL)
    first, last = (table["episode"].min(), table["episode"].max()) if len(table) else (0, 1)
    log_episodes = first > 0 and last >= 100 * first
    if log_episodes:
        flat[0].set_xscale("log")
        flat[0].xaxis.set_minor_formatter(NullFormatter())
        flat[0].xaxis.set_major_formatter(FuncFormatter(lambda episode, _: f"{episode:.0f}"))
    for axes in panels[-1]:
        axes.set_xlabel("training episode" + (" (log)" if log_episodes else ""), fontsize=SMALL)
    handles = [
        Line2D([], [], color=actor_colour(rate), linewidth=2, label=f"actor lr {learning_rate_text(rate)}")
        for rate in actor_lrs
    ]
    if len(table) and (table.groupby(KEY)["episode"].max() < last).any():
        handles.append(Line2D([], [], color="0.3", marker="o", ms=3, linewidth=0, label="ended early"))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=SMALL, frameon=False)
    _title(figure, title, study, table, note if len(table) else "no rows")


def _seeds(table: pd.DataFrame) -> int:
    return table["seed"].nunique()


def _title(figure: Figure, title: str, study: str, table: pd.DataFrame, note: str) -> None:
    width = figure.get_size_inches()[0]
    seeds = f"{_seeds(table)} seed{'' if _seeds(table) == 1 else 's'}"
    head = " — ".join(part for part in (title, study, seeds) if part)
    lines = [line for part in (head, *note.split("\n")) for line in textwrap.wrap(part, int(14.5 * width))]
    figure.suptitle("\n".join(lines), fontsize=NORMAL)
