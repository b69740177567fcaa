"""Figures of what kills actors and why it looks like something else; most have no published counterpart."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from common.analysis.comparison_statistics import BASELINE, KEY
from common.analysis.figures import SMALL, actor_colour, bridged, log_axis, run_lines
from common.recording.results import learning_rate_text, learning_rates
from paper.coasting import coasting_steps
from paper.figures import style
from paper.figures.stopping import shares_over_time
from paper.load import NotRecorded, Recordings, StudyFiles, title

LAG_BIN, LAG_SHOWN = 10, 300  # episodes
EARLY = 200  # last episode of the figure of the first death
ALIGNED = (BASELINE, "input_norm", "step_limit", "recipe-without-last_four", "recipe")


def death(r: Recordings) -> Figure:
    """Share of agents dead by each episode, and both factors of the gradient at logged ones, a column per preset."""
    studies = r.need_baselines()
    figure, panels = style.page(3.9, 3, len(studies), sharex=True, sharey="row")
    rows = (("tanh_derivative", "1 − tanh² z\n(log)"), ("mean_abs_dq_da", "|∂Q/∂a|\n(log)"))
    slopes = [*KEY, "episode", "mean_abs_dq_da"]
    tables = {preset: s.saturation.merge(s.norms[slopes], on=slopes[:-1]) for preset, s in studies.items()}
    every = pd.concat(tables.values(), ignore_index=True)
    zeros = [log_axis(row, every[column], label, "") for row, (column, label) in zip(panels[1:], rows, strict=True)]
    for axes_column, (preset, study) in zip(panels.T, studies.items(), strict=True):
        for actor_lr, agents in study.agents.groupby("actor_lr"):
            x, y = shares_over_time(agents["gradient_death_episode"], EARLY)
            axes_column[0].step(x, y, where="post", color=actor_colour(actor_lr), linewidth=1.4)
            own = tables[preset].query("actor_lr == @actor_lr and episode <= @EARLY")
            for axes, (column, _), zero in zip(axes_column[1:], rows, zeros, strict=True):
                _median_and_middle_half(axes, own, column, zero, actor_colour(actor_lr))
        style.episode_axis(axes_column[-1], EARLY)
        axes_column[-1].set_xlim(1.8, EARLY)
        axes_column[-1].xaxis.set_major_locator(FixedLocator([2, 3, 5, 10, 20, 50, 100]))
        axes_column[-1].xaxis.set_minor_locator(NullLocator())
    panels[0, 0].set_ylabel("agents whose\ngradient has died", fontsize=SMALL)
    panels[0, 0].set_ylim(-0.04, 1.04)
    style.titles(panels[0], studies)
    text = style.headline("The first death", studies.values())
    text += "\npoints: logged episodes; zeros on the dashed line"
    return style.finish(figure, text, style.rate_handles(r.runs, line=True))


def death_and_freeze(r: Recordings) -> Figure:
    """Freeze over gradient death of every agent with the coasting law, and the distribution of the lag between."""
    studies, law = r.need_baselines(), coasting_steps()
    figure, panels = style.page(3.5, 2, len(studies), sharex="row", sharey="row", height_ratios=(1.25, 1))
    longest = r.runs["total_episodes"].max()
    line = np.geomspace(2, longest, 200)
    bins = np.arange(-LAG_SHOWN, LAG_SHOWN + 1, LAG_BIN)
    for (above, below), study in zip(panels.T, studies.values(), strict=True):
        for actor_lr in reversed(learning_rates(study.runs)[0]):
            own = study.agents[study.agents["actor_lr"] == actor_lr].dropna(subset="lag")
            x, y, colour = own["gradient_death_episode"], own["freeze_episode"], actor_colour(actor_lr)
            above.scatter(x, y, s=5, color=colour, alpha=0.4, linewidth=0)
            below.hist(own["lag"].clip(bins[0], bins[-1]), bins, histtype="step", color=colour, linewidth=1.1)
        above.plot(line, line + law, color="black", linewidth=1, zorder=4)
        below.axvline(law, color="black", linewidth=1, zorder=4)
        above.text(0.03, 0.97, unfinished_text(study.agents), transform=above.transAxes, va="top", fontsize=SMALL)
        style.episode_axis(above, longest)
        for axes in (above, below):
            axes.set_yscale("log")
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
        above.set_ylim(90, longest * 1.2)
        above.yaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
        above.set_xlabel("gradient death (episode, log)", fontsize=SMALL)
        below.set_xlabel("freeze − death (episodes)", fontsize=SMALL)
    panels[0, 0].set_ylabel("freeze (episode, log)", fontsize=SMALL)
    panels[1, 0].set_ylabel(f"agents per {LAG_BIN} episodes\n(log)", fontsize=SMALL)
    style.titles(panels[0], studies)
    handles = [*style.rate_handles(r.runs), style.mark(f"death + {law:.0f}: Adam coasting", None, "black", linewidth=1)]
    text = style.headline("Gradient death and freeze, every agent", studies.values())
    return style.finish(figure, f"{text}\nlags beyond ±{LAG_SHOWN} are in the outermost bins", handles, 5)


def wrong_side(r: Recordings) -> Figure:
    """Share of saturated compute outputs that sit on the worse bound, over time and at the end of every run."""
    studies = r.need_baselines()
    figure, panels = style.page(3.3, 2, len(studies), sharex="row", sharey=True)
    for (above, below), study in zip(panels.T, studies.values(), strict=True):
        run_lines(above, study.saturation, "wrong_side_saturation")
        style.episode_axis(above, r.runs["total_episodes"].max())
        _final_points(below, study, "final_wrong_side_saturation")
        below.set_xlabel("actor learning rate", fontsize=SMALL)
        for axes in (above, below):
            axes.axhline(0.5, color="0.35", linestyle=":", linewidth=0.9, zorder=1)
            axes.set_ylim(-0.04, 1.04)
    panels[0, 0].set_ylabel("wrong-side saturation\n(share, over time)", fontsize=SMALL)
    panels[1, 0].set_ylabel("wrong-side saturation\n(share, at the end)", fontsize=SMALL)
    style.titles(panels[0], studies)
    text = style.headline("Saturated on the worse bound", studies.values())
    text += "\nthin: a run, up to a point where no output is saturated any more; thick: median while all have one"
    handles = [
        *style.rate_handles(r.runs, line=True),
        style.mark("a coin's share", None, "0.35", linestyle=":", linewidth=0.9),
        style.mark("median of the runs", "_", "black", ms=9, mew=1.2),
    ]  # fmt: skip
    return style.finish(figure, text, handles)


def alignment(r: Recordings) -> Figure:
    """Cosine between the critic's slope and the reward's in the compute output over the episodes, by study."""
    column = "dq_da_alignment_compute"
    there = {
        preset: studies
        for preset in r.compared
        if (studies := [s for n in ALIGNED if (s := r.get(preset, n)) and s.saturation[column].notna().any()])
    }
    if not there:
        raise NotRecorded(f"{r.results}: {column} is not recorded in {', '.join(ALIGNED)} on any preset")
    names = [name for name in ALIGNED if any(s.name == name for studies in there.values() for s in studies)]
    figure, panels = style.page(1.8, 1, len(there), sharey=True)
    colours = {name: colormaps["plasma"](0.85 * i / max(len(names) - 1, 1)) for i, name in enumerate(names)}
    for axes, studies in zip(panels[0], there.values(), strict=True):
        for study in studies:
            by_episode = study.saturation.groupby("episode")[column]
            for share, look in ((0.5, {"linewidth": 1.5}), (0.25, {"linewidth": 0.6}), (0.75, {"linewidth": 0.6})):
                values = by_episode.quantile(share)
                axes.plot(values.index, values, color=colours[study.name], **look)
        axes.axhline(0, color="0.35", linewidth=0.8, zorder=1)
        style.episode_axis(axes, 2000)
    panels[0, 0].set_ylabel("cosine,\ncompute output", fontsize=SMALL)
    style.titles(panels[0], there)
    handles = [style.mark(title(name), None, colour, linewidth=1.5) for name, colour in colours.items()]
    return style.finish(figure, "Is the critic's slope the reward's? Median and middle half of the runs", handles)


def unfinished_text(agents: pd.DataFrame) -> str:
    """How many agents are not among the points of death against freeze, and why."""
    dead, frozen = (agents[name].notna() for name in ("gradient_death_episode", "freeze_episode"))
    counts = {"never died": ~dead & ~frozen, "died, not frozen": dead & ~frozen, "froze, not dead": ~dead & frozen}
    lines = [f"{count.sum()} {what}" for what, count in counts.items() if count.any()]
    return "\n".join([f"of {len(agents):,} agents", *lines])


def _median_and_middle_half(axes: Axes, rows: pd.DataFrame, column: str, zero: float, colour: tuple) -> None:
    """At every logged episode the median over runs as a point, on a line where logs are close, and the middle half."""
    by_episode = rows.assign(shown=rows[column].where(rows[column] > 0, zero)).groupby("episode")["shown"]
    low, middle, high = (by_episode.quantile(q, interpolation="nearest") for q in (0.25, 0.5, 0.75))
    axes.plot(*bridged(middle.index.to_series(), middle), color=colour, linewidth=1.2, zorder=3)
    axes.plot(middle.index, middle, "o", color=colour, ms=2.2, zorder=3)
    axes.vlines(middle.index, low, high, color=colour, linewidth=0.7, alpha=0.6, zorder=2)


def _final_points(axes: Axes, study: StudyFiles, column: str) -> None:
    """A lane per actor rate, critic rates side by side in it, every run a point, the median a line."""
    runs, (actor_lrs, critic_lrs) = study.runs, learning_rates(study.runs)
    for place, actor_lr in enumerate(actor_lrs):
        own = runs[runs["actor_lr"] == actor_lr]
        order = own["critic_lr"].map(critic_lrs.index) * len(study.seeds) + own["seed"].map(study.seeds.index)
        x = place + 0.7 * ((order + 0.5) / (len(critic_lrs) * len(study.seeds)) - 0.5)
        axes.scatter(x, own[column], s=9, color=actor_colour(actor_lr), linewidth=0, zorder=3)
        axes.plot((place - 0.4, place + 0.4), [own[column].median()] * 2, color="black", linewidth=1.2, zorder=2)
    axes.set_xticks(range(len(actor_lrs)), [*map(learning_rate_text, actor_lrs)])
