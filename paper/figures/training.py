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

from common.analysis.comparison_statistics import KEY
from common.analysis.figures import (
    NEVER_GREY,
    NORMAL,
    SMALL,
    actor_colour,
    gradient_norms_over_time,
    log_axis,
    run_lines,
)
from common.recording.results import learning_rate_text, learning_rates
from paper.figures import style
from paper.load import Recordings, StudyFiles
from paper.text import span

SATURATED = float(np.arctanh(0.9))  # |z| from which an output counts as saturated
LATER = 100  # training episode of the second look at the norms
THIN_THICK = "thin: one run; thick: median over runs and episodes within a factor 1.2; zeros on the dashed line"
GRADES = Normalize(0, 1.25)  # of the viridis colours of a share: none so light that white text fades


def asymmetry_over_time(r: Recordings) -> Figure:
    """Gradient norm of actors and critic and their ratio over the episodes, a column per critic rate."""
    study = r.need("scaled")
    figure = gradient_norms_over_time(study.norms, study.study.label)
    figure.set_size_inches(style.WIDTH, 5.4)
    return figure


def saturation_over_time(r: Recordings) -> Figure:
    """Saturation ratio, tanh derivative and |∂Q/∂a| over the episodes, a column per critic rate."""
    study = r.need("scaled")
    table = study.saturation.merge(study.norms[[*KEY, "episode", "mean_abs_dq_da"]], on=[*KEY, "episode"])
    rows = {
        "saturation_ratio": "saturated\n(share)",
        "tanh_derivative": "1 − tanh² z (log)",
        "mean_abs_dq_da": "|∂Q/∂a| (log)",
    }
    return _by_critic_rate(study, table, rows, "Saturation of the outputs")


def _by_critic_rate(study: StudyFiles, table: pd.DataFrame, rows: dict[str, str], text: str) -> Figure:
    """Columns of a table over the episodes, a column of panels per critic rate; shares linear, all else log."""
    critic_lrs = learning_rates(table)[1]
    figure, panels = style.page(4.1, len(rows), len(critic_lrs), sharex=True, sharey="row")
    for axes_row, (column, label) in zip(panels, rows.items(), strict=True):
        zeros = None
        if column.endswith("ratio") and column.startswith("saturation"):
            axes_row[0].set_ylim(-0.04, 1.04)
            axes_row[0].set_ylabel(label, fontsize=SMALL)
        else:
            zeros = log_axis(axes_row, table[column], label, "")
        for axes, critic_lr in zip(axes_row, critic_lrs, strict=True):
            run_lines(axes, table[table["critic_lr"] == critic_lr], column, zeros)
    style.titles(panels[0], [f"critic lr {learning_rate_text(rate)}" for rate in critic_lrs])
    return _over_episodes(figure, panels, study, text)


def gradient_comparison(r: Recordings) -> Figure:
    """Norms of actor against critic, of gradients and of updates, at three moments of every run."""
    study = r.need("scaled")
    moments = norms_at_moments(study.norms)
    figure, panels = style.page(4.1, 2, len(moments), sharex="row", sharey="row")
    for axes_row, what in zip(panels, ("gradient", "update"), strict=True):
        actor, critic = f"actor_{what}_norm", f"critic_{what}_norm"
        every = pd.concat([table[actor] for table in moments.values()], ignore_index=True)
        zeros = log_axis(axes_row, every, f"actor {what} norm\n(RMS over agents, log)", "")
        for axes, table in zip(axes_row, moments.values(), strict=True):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(10, numticks=6))
            axes.xaxis.set_minor_locator(NullLocator())
            style.run_points(axes, table.assign(**{actor: table[actor].mask(table[actor] == 0, zeros)}), critic, actor)
            axes.set_xlabel(f"critic {what} norm (log)", fontsize=SMALL)
        _equal_ratio_lines(axes_row)
    style.titles(panels[0], moments)
    handles = [*style.rate_handles(study.norms), *style.critic_handles(study.norms)]
    return style.finish(figure, style.headline("Actor against critic, every run", [study]), handles, 4)


def per_layer_gradients(r: Recordings) -> Figure:
    """Gradient norm of each layer of actors and critic over the episodes, every run."""
    study = r.need("scaled")
    figure, panels = style.page(4.0, 2, 3, sharex=True, sharey="row")
    for axes_row, network in zip(panels, ("actor", "critic"), strict=True):
        columns = [f"{network}_fc{layer}" for layer in (1, 2, 3)]
        who = "actors,\nRMS over agents" if network == "actor" else "critic"
        zeros = log_axis(axes_row, study.norms[columns].stack(), f"{who}\n(log)", "")
        for axes, column, place in zip(axes_row, columns, ("first", "second", "output"), strict=True):
            run_lines(axes, study.norms, column, zeros)
            axes.set_title(f"{network}, {place} layer", fontsize=NORMAL)
    return _over_episodes(figure, panels, study, "Gradient norm by layer")


def preactivation_statistics(r: Recordings) -> Figure:
    """Quantiles and extremes of the pre-activation over the episodes, presets by actor learning rates."""
    studies = r.need_baselines()
    actor_lrs = learning_rates(r.runs)[0]
    figure, panels = style.page(1.3 + 0.92 * len(studies), len(studies), len(actor_lrs), sharex=True, sharey=True)
    highest = 1.0
    for axes_row, (preset, study) in zip(panels, studies.items(), strict=True):
        axes_row[0].set_ylabel(f"{preset}\nz", fontsize=SMALL)
        highest = max(highest, study.saturation["z_max"].max(), -study.saturation["z_min"].min())
        for axes, actor_lr in zip(axes_row, actor_lrs, strict=True):
            _quantile_fan(axes, study.saturation[study.saturation["actor_lr"] == actor_lr], actor_colour(actor_lr))
    decades = range(1, math.ceil(math.log10(highest)) + 1, 2)
    ticks = [-(10.0**d) for d in reversed(decades)] + [0.0] + [10.0**d for d in decades]
    names = [f"$-10^{{{d}}}$" for d in reversed(decades)] + ["0"] + [f"$10^{{{d}}}$" for d in decades]
    panels[0, 0].set_yscale("symlog", linthresh=2.0, linscale=0.8)
    panels[0, 0].set_yticks(ticks, names)
    panels[0, 0].yaxis.set_minor_locator(NullLocator())
    style.titles(panels[0], [f"actor lr {learning_rate_text(rate)}" for rate in actor_lrs])
    for axes in panels[-1]:
        style.episode_axis(axes, r.runs["total_episodes"].max())
    handles = [
        style.mark("1%–99% quantiles", "s", "0.75", ms=6), style.mark("25%–75%", "s", "0.5", ms=6),
        style.mark("smallest and largest z, every run", None, "0.3", linewidth=0.6),
        style.mark("|tanh z| = 0.9", None, "black", linewidth=0.9, linestyle=":"),
    ]  # fmt: skip
    text = style.headline("Pre-activations; quantiles: medians over the runs", studies.values())
    return style.finish(figure, f"{text}\n(linear between −2 and 2, logarithmic beyond)", handles)


def saturation_grid(r: Recordings) -> Figure:
    """Per learning-rate pair: saturation at the end, first logged episode above 90%, wrong side at the end."""
    study = r.need("scaled")
    runs = study.runs.join(first_saturated_episode(study.saturation), on=KEY)
    figure, panels = style.page(2.75, 1, 3, sharey=True)
    columns = (
        ("final_saturation_ratio", "saturated outputs at\nthe end (%)", 100),
        ("first_saturated_episode", "first logged episode with\nmore than 90% saturated", 1),
        ("final_wrong_side_saturation", "saturated compute outputs\non the wrong side (%)", 100),
    )
    for axes, (column, label, factor) in zip(panels[0], columns, strict=True):
        shade = GRADES if factor == 100 else lambda episode: np.log10(episode) / np.log10(2000) / 1.25
        _shaded_cells(axes, runs, column, factor, shade)
        axes.set_title(label, fontsize=SMALL)
    panels[0, 0].set_ylabel("actor learning rate", fontsize=SMALL)
    text = f"{style.headline('Saturation', [study])}\nmedian over seeds, below it the range"
    return style.finish(figure, text, cells=True)


def norms_at_moments(norms: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """A row per run at its first logged step, at the last one up to episode LATER, and at its last one."""
    by_run = norms.sort_values("episode").groupby(KEY)
    until = norms[norms["episode"] <= LATER].sort_values("episode").groupby(KEY)
    return {
        f"episode {norms['episode'].min()}": by_run.first().reset_index(),
        f"episode {LATER}": until.last().reset_index(),
        "end of the run": by_run.last().reset_index(),
    }


def first_saturated_episode(saturation: pd.DataFrame) -> pd.Series:
    """Per run the first logged episode with a saturation ratio above 0.9; runs without one are not in it."""
    found = saturation[saturation["saturation_ratio"] > 0.9].groupby(KEY)["episode"].min()
    return found.rename("first_saturated_episode")


def _over_episodes(figure: Figure, panels: np.ndarray, study: StudyFiles, text: str) -> Figure:
    longest = study.runs["total_episodes"].max()
    for axes in panels[-1]:
        style.episode_axis(axes, longest)
    handles = style.rate_handles(study.runs, line=True)
    if (study.runs["total_episodes"] < longest).any():
        handles.append(style.mark("ended early", "o", "0.3", ms=3))
    return style.finish(figure, f"{style.headline(text, [study])}\n{THIN_THICK}", handles)


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
    runs = rows.groupby(KEY)
    together = rows[rows.groupby("episode")["episode"].transform("size") == runs.ngroups]
    middle = together.groupby("episode")[["z_q01", "z_q25", "z_q75", "z_q99"]].median()
    for low, high, alpha in (("z_q01", "z_q99", 0.3), ("z_q25", "z_q75", 0.55)):
        axes.fill_between(middle.index, middle[low], middle[high], color=colour, alpha=alpha, linewidth=0, zorder=2)
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
        text = span([there.median() * factor]) + (f"\n{span(there * factor)}" if there.nunique() > 1 else "")
        ink = "white" if grade < 0.55 else "black"
        axes.text(x, y, text, ha="center", va="center", fontsize=SMALL - 0.5, color=ink)
    style.rate_ticks(axes, runs)
