"""Figures of the baseline that are about training: gradients, pre-activations and saturation."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullLocator

from common.analysis.figures import (
    BINNED,
    NEVER_GREY,
    NORMAL,
    SMALL,
    _draw,
    _finish,
    _log_axis,
    _panels,
    actor_colour,
    gradient_norms_over_time,
)
from common.recording.results import Study, learning_rate_text, learning_rates
from paper.figure_style import (
    RUN,
    critic_handles,
    darken_runs,
    episode_axis,
    finish,
    fit,
    headline,
    mark,
    of_presets,
    page,
    pooled_lines,
    rate_handles,
    run_points,
    runs_of,
)

SATURATED = float(np.arctanh(0.9))  # |z| from which an output counts as saturated
LATER = 100  # training episode of the second look at the norms
POOLED = "thin: one run; thick: median of an actor rate's runs, while all run"
GRADES = Normalize(0, 1.25)  # of the viridis colours of a share: none so light that white text fades


def asymmetry_over_time(study: Study) -> Figure:
    """Gradient norm of actors and critic and their ratio over the episodes, a column per critic rate."""
    figure = gradient_norms_over_time(study.gradient_norms)
    darken_runs(figure.axes)
    return fit(figure, 5.0, f"{headline('Gradient norms (L2)', study.runs)}\n{BINNED}")


def gradient_comparison(study: Study) -> Figure:
    """Norms of actor against critic, of gradients and of updates, at three moments of every run."""
    norms = study.gradient_norms
    moments = norms_at_moments(norms)
    figure, panels = page(4.5, 2, len(moments), sharex="row", sharey="row")
    rows = (
        ("gradient_norm", "gradient norm"),
        ("update_norm", "update norm"),
    )
    for axes_row, (column, label) in zip(panels, rows, strict=True):
        actor, critic = f"actor_{column}", f"critic_{column}"
        floor = _log_axis(axes_row, norms_of(moments, actor), f"actor {label}\n(RMS over agents, log)")
        for axes, table in zip(axes_row, moments.values(), strict=True):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(10, numticks=6))
            axes.xaxis.set_minor_locator(NullLocator())
            run_points(axes, table.assign(**{actor: table[actor].mask(table[actor] == 0, floor)}), critic, actor)
            axes.set_xlabel(f"critic {label} (log)", fontsize=SMALL)
        _equal_ratio_lines(axes_row)
    for axes, moment in zip(panels[0], moments, strict=True):
        axes.set_title(moment, fontsize=NORMAL)
    handles = [*rate_handles(norms), *critic_handles(norms)]
    return finish(figure, headline("Actor against critic, every run", study.runs), handles, 4)


def per_layer_gradients(study: Study) -> Figure:
    """Gradient norm of each layer of actors and critic over the episodes, every run."""
    norms = study.gradient_norms
    figure, panels = page(4.6, 2, 3, sharex=True, sharey="row")
    for axes_row, network in zip(panels, ("actor", "critic"), strict=True):
        columns = [f"{network}_fc{layer}" for layer in (1, 2, 3)]
        who = "actors, RMS over agents" if network == "actor" else "critic"
        floor = _log_axis(axes_row, norms[columns].stack(), f"{who} (log)")
        for axes, column, place in zip(axes_row, columns, ("first", "second", "output"), strict=True):
            pooled_lines(axes, norms, column, floor)
            axes.set_title(f"{network}, {place} layer", fontsize=NORMAL)
    return _over_episodes(figure, panels, study, "Gradient norm by layer")


def saturation_over_time(study: Study) -> Figure:
    """Saturation ratio, tanh derivative and |∂Q/∂a| over the episodes, a column per critic rate."""
    table = study.saturation.merge(study.gradient_norms[[*RUN, "episode", "mean_abs_dq_da"]], on=[*RUN, "episode"])
    figure, panels = _panels(table, 3)
    panels[0, 0].set_ylim(-0.04, 1.04)
    panels[0, 0].set_ylabel("saturation ratio\n(share of outputs)", fontsize=SMALL)
    _draw(panels[0], table, "saturation_ratio")
    rows = (("tanh_derivative", "1 − tanh² z (log)"), ("mean_abs_dq_da", "|∂Q/∂a| (log)"))
    for axes_row, (column, label) in zip(panels[1:], rows, strict=True):
        _draw(axes_row, table, column, _log_axis(axes_row, table[column], label))
    _finish(figure, panels, table, "", "", "")
    darken_runs(figure.axes)
    return fit(figure, 5.3, f"{headline('Saturation of the outputs', study.runs)}\n{BINNED}")


def preactivation_statistics(studies: dict[str, Study]) -> Figure:
    """Quantiles and extremes of the pre-activation over the episodes, presets by actor learning rates."""
    every = of_presets({preset: study.saturation for preset, study in studies.items()})
    actor_lrs = learning_rates(every)[0]
    figure, panels = page(4.9, len(studies), len(actor_lrs), sharex=True, sharey=True)
    for axes_row, (preset, study) in zip(panels, studies.items(), strict=True):
        axes_row[0].set_ylabel(f"{preset}\npre-activation z", fontsize=SMALL)
        for axes, actor_lr in zip(axes_row, actor_lrs, strict=True):
            _quantile_fan(axes, study.saturation[study.saturation["actor_lr"] == actor_lr], actor_colour(actor_lr))
    highest = max(every["z_max"].max(), -every["z_min"].min())
    decades = range(1, int(np.ceil(np.log10(highest))) + 1, 2)
    ticks = [-(10.0**d) for d in reversed(decades)] + [0.0] + [10.0**d for d in decades]
    names = [f"$-10^{{{d}}}$" for d in reversed(decades)] + ["0"] + [f"$10^{{{d}}}$" for d in decades]
    panels[0, 0].set_yscale("symlog", linthresh=2.0, linscale=0.8)
    panels[0, 0].set_yticks(ticks, names)
    panels[0, 0].yaxis.set_minor_locator(NullLocator())
    for axes, rate in zip(panels[0], actor_lrs, strict=True):
        axes.set_title(f"actor lr {learning_rate_text(rate)}", fontsize=NORMAL)
    for axes in panels[-1]:
        episode_axis(axes, 2, every["episode"].max())
        axes.set_xlabel("training episode (log)", fontsize=SMALL)
    handles = [
        mark("1%–99% quantiles", "s", "0.75", ms=6),
        mark("25%–75%", "s", "0.5", ms=6),
        mark("smallest and largest z, every run", None, "0.3", linewidth=0.6),
        mark("|tanh z| = 0.9", None, "black", linewidth=0.9, linestyle=":"),
    ]
    title = headline("Pre-activations; quantiles: medians over the runs", runs_of(studies))
    return finish(figure, f"{title}\n(linear between −2 and 2, logarithmic beyond)", handles)


def saturation_grid(study: Study) -> Figure:
    """Per learning-rate pair: saturation at the end, first logged episode above 90%, wrong side at the end."""
    runs = study.runs.join(first_saturated_episode(study.saturation), on=RUN)
    figure, panels = page(2.75, 1, 3, sharey=True)
    columns = (
        ("final_saturation_ratio", "saturated outputs at\nthe end (%)", 100),
        ("first_saturated_episode", "first logged episode with\nmore than 90% saturated", 1),
        ("final_wrong_side_saturation", "saturated compute outputs\non the wrong side (%)", 100),
    )
    for axes, (column, title, factor) in zip(panels[0], columns, strict=True):
        shade = GRADES if factor == 100 else lambda episode: np.log10(episode) / np.log10(2000) / 1.25
        _shaded_cells(axes, runs, column, factor, shade)
        axes.set_title(title, fontsize=SMALL)
    panels[0, 0].set_ylabel("actor learning rate", fontsize=SMALL)
    finish(figure, f"{headline('Saturation', runs)}\nmedian over seeds, below it the range")
    for axes in panels[0]:
        axes.grid(False)
        axes.tick_params(length=0)
    return figure


def norms_at_moments(norms: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """A row per run at its first logged step, at the last one up to episode LATER, and at its last one."""
    by_run = norms.sort_values("episode").groupby(RUN)
    until = norms[norms["episode"] <= LATER].sort_values("episode").groupby(RUN)
    return {
        f"episode {norms['episode'].min()}": by_run.first().reset_index(),
        f"episode {LATER}": until.last().reset_index(),
        "end of the run": by_run.last().reset_index(),
    }


def norms_of(moments: dict[str, pd.DataFrame], column: str) -> pd.Series:
    """One column of all moments."""
    return pd.concat([table[column] for table in moments.values()], ignore_index=True)


def first_saturated_episode(saturation: pd.DataFrame, above: float = 0.9) -> pd.Series:
    """Per run the first logged episode with a saturation ratio above a share; runs without one are not in it."""
    return saturation[saturation["saturation_ratio"] > above].groupby(RUN)["episode"].min().rename(
        "first_saturated_episode"
    )


def _over_episodes(figure: Figure, panels: np.ndarray, study: Study, title: str) -> Figure:
    for axes in panels[-1]:
        episode_axis(axes, 2, study.runs["total_episodes"].max())
        axes.set_xlabel("training episode (log)", fontsize=SMALL)
    handles = [*rate_handles(study.runs, line=True), mark("ended early", "o", "0.3", ms=3)]
    return finish(figure, f"{headline(title, study.runs)}\n{POOLED}", handles)


def _equal_ratio_lines(axes_row: np.ndarray) -> None:
    """Lines of equal actor / critic ratio, named beside the last panel; the limits stay as they are."""
    (left, right), (bottom, top) = axes_row[0].get_xlim(), axes_row[0].get_ylim()
    for ratio in (10.0**power for power in range(-15, 4, 3)):
        for axes in axes_row:
            axes.plot((left, right), (left * ratio, right * ratio), color="0.75", linewidth=0.7, zorder=1)
        if 100 * bottom < ratio * right < top:
            name = f"ratio\n{learning_rate_text(ratio)}"
            axes_row[-1].text(1.1 * right, right * ratio, name, va="center", fontsize=SMALL - 0.5, color="0.4")
    axes_row[0].set_xlim(left, right)
    axes_row[0].set_ylim(bottom, top)


def _quantile_fan(axes: Axes, rows: pd.DataFrame, colour: tuple[float, float, float]) -> None:
    """Bands between the runs' median quantiles, as far as all run, and the extremes of every run as lines."""
    runs = rows.groupby(RUN)
    together = rows[rows.groupby("episode")["episode"].transform("size") == runs.ngroups]
    middle = together.groupby("episode")[["z_q01", "z_q25", "z_q50", "z_q75", "z_q99"]].median()
    axes.fill_between(middle.index, middle["z_q01"], middle["z_q99"], color=colour, alpha=0.3, linewidth=0, zorder=2)
    axes.fill_between(middle.index, middle["z_q25"], middle["z_q75"], color=colour, alpha=0.55, linewidth=0, zorder=2)
    for _, run in runs:
        for column in ("z_min", "z_max"):
            axes.plot(run["episode"], run[column], color=colour, linewidth=0.5, alpha=0.6)
    for bound in (-SATURATED, SATURATED):
        axes.axhline(bound, color="black", linewidth=0.9, linestyle=":", zorder=3)


def _shaded_cells(axes: Axes, runs: pd.DataFrame, column: str, factor: float, shade: Callable[[float], float]) -> None:
    """A cell per learning-rate pair: median over seeds, and its range in the second line where there is one."""
    actor_lrs, critic_lrs = learning_rates(runs)
    for (actor_lr, critic_lr), cell in runs.groupby(["actor_lr", "critic_lr"]):
        x, y = critic_lrs.index(critic_lr), actor_lrs.index(actor_lr)
        there = cell[column].dropna()
        grade = shade(there.median()) if len(there) else math.nan
        colour = colormaps["viridis"](grade) if len(there) else NEVER_GREY
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="white", linewidth=1))
        ink = "white" if grade < 0.55 else "black"
        axes.text(x, y, _cell_text(there * factor), ha="center", va="center", fontsize=SMALL - 0.5, color=ink)
    axes.set_xlim(-0.5, len(critic_lrs) - 0.5)
    axes.set_ylim(-0.5, len(actor_lrs) - 0.5)
    axes.set_xticks(range(len(critic_lrs)), [learning_rate_text(rate) for rate in critic_lrs])
    axes.set_yticks(range(len(actor_lrs)), [learning_rate_text(rate) for rate in actor_lrs])
    axes.set_xlabel("critic learning rate", fontsize=SMALL)


def _cell_text(values: pd.Series) -> str:
    """Median and, in a second line, range: `98`, `95–100`; `–` where no run has a value."""
    if values.empty:
        return "–"
    low, high = f"{values.min():.0f}", f"{values.max():.0f}"
    return f"{values.median():.0f}" + (f"\n{low}–{high}" if low != high else "")
