"""Figures of the baseline that are about stopping: where, when, agent by agent, and what it goes with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.analysis.comparison_statistics import KEY
from common.analysis.figures import NORMAL, SMALL, actor_colour, log_axis, stopping_heatmap
from common.recording.results import learning_rate_text, learning_rates
from paper import load
from paper.figures import style
from paper.load import Recordings, StudyFiles

Measure = Callable[[StudyFiles], pd.DataFrame]
BUBBLE = 0.04  # points² per episode
ACROSS = 5  # seeds side by side; more of them in further rows
BUBBLES_NAMED = (200, 500, 1000, 2000)
LIFE_EVENTS = (
    ("gradient_death_episode", "gradient died"),
    ("first_unchanged_episode", "had an unchanged step"),
    ("freeze_episode", "weights froze"),
)


def stopping(r: Recordings, preset: str = "scaled") -> Figure:
    """Stopping episode of every learning-rate pair: median and range over seeds."""
    study = r.need(preset)
    figure = stopping_heatmap(study.study.runs)
    figure.set_size_inches(style.WIDTH, 3.3)
    notes = f"median and range over seeds; never: not within {study.runs['total_episodes'].max():.0f} episodes"
    figure.suptitle(f"{style.headline('Stopping episode', [study])}\n{notes}", fontsize=NORMAL)
    return figure


def bubbles(r: Recordings) -> Figure:
    """Stopping episode of every run as the area of a bubble, seeds side by side, the published ones as rings."""
    studies = r.need_baselines()
    figure, panels = style.page(3.2, 1, len(studies), sharex=True, sharey=True)
    actor_lrs, critic_lrs = learning_rates(r.runs)
    for axes, (preset, study) in zip(panels[0], studies.items(), strict=True):
        ours = [study.runs[study.runs["seed"] == seed] for seed in study.seeds]
        theirs = [r.published_stops(source) for source in (load.UNSEEDED, load.SEEDED)] if preset == "scaled" else []
        for series, height in ((ours, 0.15 * bool(theirs)), (theirs, -0.3)):
            for place, runs in enumerate(series):
                row, rows = place // ACROSS, -(-len(series) // ACROSS)
                across = 0.9 * ((place % ACROSS + 0.5) / min(len(series), ACROSS) - 0.5)
                up = height + 0.24 * ((rows - 1) / 2 - row)
                _bubbles(axes, runs, learning_rates(r.runs), (across, up), hollow=series is theirs)
        style.rate_ticks(axes, r.runs)
        for rows, line in ((range(len(actor_lrs) - 1), axes.axhline), (range(len(critic_lrs) - 1), axes.axvline)):
            for place in rows:
                line(place + 0.5, color="0.8", linewidth=0.6, zorder=0)
    style.titles(panels[0], studies)
    panels[0, 0].set_ylabel("actor learning rate", fontsize=SMALL)
    rings = [style.mark("published", "o", "0.4", mfc="none", ms=5)] if "scaled" in studies else []
    sizes = [style.mark(f"episode {e}", "o", "0.4", ms=(BUBBLE * e) ** 0.5, mew=0) for e in BUBBLES_NAMED]
    text = style.headline("Stopping episode of every run", studies.values())
    text += "\nrings, on scaled: published, left the unseeded run, right the seeded one" * bool(rings)
    return style.finish(figure, text, [*sizes, style.mark("never", "x", "0.55", ms=5), *rings], cells=True)


def asymmetry_and_stopping(r: Recordings) -> Figure:
    """Gradient ratio of every run, at its first training step and while it was not zero, over its stopping episode."""
    rows = {"first_ratio": "ratio at the first\ntraining step", "median_ratio": "median ratio while\nit is not 0"}
    return _over_stopping(r, with_gradient_ratios, rows, "Gradient ratio (actor / critic) and stopping")


def saturation_and_stopping(r: Recordings) -> Figure:
    """Share of outputs that are not saturated, at episode 100 and at the end, over the stopping episode."""
    when = {"unsaturated_100": "episode 100", "unsaturated_end": "at the end"}
    rows = {column: f"share not saturated,\n{text}" for column, text in when.items()}
    return _over_stopping(r, with_unsaturated_shares, rows, "Saturation and stopping")


def agents_over_time(r: Recordings) -> Figure:
    """Share of a run's agents whose gradient had died, that had an unchanged step, that had frozen; a line per run."""
    study = r.need("scaled")
    _, critic_lrs = learning_rates(study.runs)
    figure, panels = style.page(4.6, len(LIFE_EVENTS), len(critic_lrs), sharex=True, sharey=True)
    last = study.runs.set_index(KEY)["total_episodes"]
    for axes_row, (event, label) in zip(panels, LIFE_EVENTS, strict=True):
        axes_row[0].set_ylabel(f"{label}\n(share of agents)", fontsize=SMALL)
        for key, agents in study.agents.groupby(KEY):
            axes, colour, end = axes_row[critic_lrs.index(key[2])], actor_colour(key[1]), float(last[key])
            x, y = shares_over_time(agents[event], end)
            axes.step(x, y, where="post", color=colour, linewidth=0.9, alpha=0.8)
            axes.plot(end, y[-1], "o", color=colour, ms=2.5, zorder=4)
    style.titles(panels[0], [f"critic lr {learning_rate_text(rate)}" for rate in critic_lrs])
    panels[0, 0].set_ylim(-0.04, 1.04)
    panels[0, 0].set_yticks([0, 0.5, 1])
    for axes in panels[-1]:
        style.episode_axis(axes, float(last.max()))
    handles = [*style.rate_handles(study.runs, line=True), style.mark("run ended", "o", "0.3", ms=3)]
    return style.finish(figure, style.headline("Agents over time, a line per run", [study]), handles)


def shares_over_time(events: pd.Series, end: float) -> tuple[np.ndarray, np.ndarray]:
    """Episodes, and the share of agents that had the event by each of them, up to the run's end."""
    happened = np.sort(events[events <= end].to_numpy())
    shares = np.arange(1, len(happened) + 1) / len(events)
    return (
        np.concatenate([[1.0], happened, [end]]),
        np.concatenate([[0.0], shares, shares[-1:] if len(shares) else [0.0]]),
    )


def with_gradient_ratios(study: StudyFiles) -> pd.DataFrame:
    """Rows of runs.csv with `first_ratio`, of the first logged step, and `median_ratio`, of those above 0."""
    norms = study.norms.sort_values("episode")
    alive = norms[norms["gradient_ratio"] > 0]
    found = {
        "first_ratio": norms.groupby(KEY)["gradient_ratio"].first(),
        "median_ratio": alive.groupby(KEY)["gradient_ratio"].median(),
    }
    return study.runs.join(pd.DataFrame(found), on=KEY)


def with_unsaturated_shares(study: StudyFiles) -> pd.DataFrame:
    """Rows of runs.csv with `unsaturated_100`, of the last logged episode up to 100, and `unsaturated_end`."""
    early = study.saturation[study.saturation["episode"] <= 100].sort_values("episode")
    share = 1 - early.groupby(KEY)["saturation_ratio"].last()
    runs = study.runs.join(share.round(9).rename("unsaturated_100"), on=KEY)
    return runs.assign(unsaturated_end=(1 - runs["final_saturation_ratio"]).round(9))


def _bubbles(axes: Axes, runs: pd.DataFrame, rates: tuple, offset: tuple[float, float], hollow: bool) -> None:
    """Stopping episodes of a run per cell, `offset` from the cell's middle; a cross where it never stopped."""
    actor_lrs, critic_lrs = rates
    for run in runs[runs["actor_lr"].isin(actor_lrs) & runs["critic_lr"].isin(critic_lrs)].itertuples():
        x, y = critic_lrs.index(run.critic_lr) + offset[0], actor_lrs.index(run.actor_lr) + offset[1]
        look = {"s": 9, "marker": "x", "color": "0.55", "linewidth": 0.8}
        if not np.isnan(run.stopping_episode):
            colour = actor_colour(run.actor_lr)
            look = {"s": BUBBLE * run.stopping_episode, "edgecolor": colour, "linewidth": 0.9 * hollow}
            look["facecolor"] = "none" if hollow else colour
        axes.scatter(x, y, **look)


def _over_stopping(r: Recordings, measure: Measure, rows: dict[str, str], text: str) -> Figure:
    """Every run's values over its stopping episode: a row of panels per column that is measured, a panel per preset."""
    tables = {preset: measure(study) for preset, study in r.need_baselines().items()}
    figure, panels = style.page(4.0, len(rows), len(tables), sharex=True, sharey="row")
    runs = pd.concat(tables.values(), ignore_index=True)
    lane = style.stopping_lane(runs)
    runs = runs.assign(stop=style.place_stops(runs, lane))
    for axes_row, (column, label) in zip(panels, rows.items(), strict=True):
        zeros = log_axis(axes_row, runs[column], f"{label} (log)", "")
        shown = runs.assign(**{column: runs[column].mask(runs[column] == 0, zeros)})
        for axes, preset in zip(axes_row, tables, strict=True):
            style.run_points(axes, shown[shown["preset"] == preset], "stop", column)
    style.stopping_axis(panels.ravel(), lane, min(100.0, runs["stopping_episode"].min()))
    for axes in panels[-1]:
        axes.set_xlabel("stopping episode (log)", fontsize=SMALL)
    style.titles(panels[0], tables)
    text = style.headline(text, r.baselines.values())
    return style.finish(figure, text, [*style.rate_handles(runs), *style.critic_handles(runs)], 4)
