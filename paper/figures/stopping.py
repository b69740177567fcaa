"""Figures of the baseline that are about stopping: where, when, agent by agent, and what it goes with."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from common.analysis.comparison_statistics import KEY
from common.analysis.figures import NORMAL, SMALL, actor_colour, stopping_heatmap
from common.recording.results import learning_rate_text, learning_rates
from paper.figures import style
from paper.load import Recordings, StudyFiles

BUBBLE = 0.075  # points² per episode
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
    """Stopping episode of every run as the area of a bubble, a panel per preset, seeds side by side in a cell."""
    studies = r.need_baselines()
    figure, panels = style.page(2.9, 1, len(studies), sharex=True, sharey=True)
    actor_lrs, critic_lrs = learning_rates(r.runs)
    for axes, study in zip(panels[0], studies.values(), strict=True):
        for (actor_lr, critic_lr, seed), run in study.runs.groupby(["actor_lr", "critic_lr", "seed"]):
            across = (study.seeds.index(seed) + 0.5) / len(study.seeds) - 0.5
            x, y = critic_lrs.index(critic_lr) + 0.9 * across, actor_lrs.index(actor_lr)
            stop = run["stopping_episode"].iloc[0]
            if np.isnan(stop):
                axes.scatter(x, y, s=26, marker="x", color="0.55", linewidth=0.8)
            else:
                axes.scatter(x, y, s=BUBBLE * stop, color=actor_colour(actor_lr), linewidth=0)
        style.rate_ticks(axes, r.runs)
        for rows, line in ((range(len(actor_lrs) - 1), axes.axhline), (range(len(critic_lrs) - 1), axes.axvline)):
            for place in rows:
                line(place + 0.5, color="0.8", linewidth=0.6, zorder=0)
    style.preset_titles(panels[0], studies)
    panels[0, 0].set_ylabel("actor learning rate", fontsize=SMALL)
    sizes = [style.mark(f"episode {e}", "o", "0.4", ms=(BUBBLE * e) ** 0.5, mew=0) for e in BUBBLES_NAMED]
    text = style.headline("Stopping episode of every run", studies.values())
    style.finish(figure, text, [*sizes, style.mark("never", "x", "0.55", ms=5)])
    for axes in panels[0]:
        axes.grid(False)
        axes.tick_params(length=0)
    return figure


def asymmetry_and_stopping(r: Recordings) -> Figure:
    """Gradient ratio of every run, at its first training step and while it was not zero, over its stopping episode."""
    tables = {preset: with_gradient_ratios(study) for preset, study in r.need_baselines().items()}
    rows = {
        "first_ratio": "ratio at the first\ntraining step (log)",
        "median_ratio": "median ratio while\nit is not 0 (log)",
    }
    return _over_stopping(r, tables, rows, "Gradient ratio (actor / critic) and stopping")


def saturation_and_stopping(r: Recordings) -> Figure:
    """Share of outputs that are not saturated, at episode 100 and at the end, over the stopping episode."""
    tables = {preset: with_unsaturated_shares(study) for preset, study in r.need_baselines().items()}
    rows = {
        "unsaturated_100": "share not saturated,\nepisode 100 (log)",
        "unsaturated_end": "share not saturated,\nat the end (log)",
    }
    return _over_stopping(r, tables, rows, "Saturation and stopping")


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
    for axes, rate in zip(panels[0], critic_lrs, strict=True):
        axes.set_title(f"critic lr {learning_rate_text(rate)}", fontsize=NORMAL)
        axes.set_ylim(-0.04, 1.04)
        axes.set_yticks([0, 0.5, 1])
    for axes in panels[-1]:
        style.episode_axis(axes, 2, float(last.max()))
        axes.set_xlabel("training episode (log)", fontsize=SMALL)
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


def with_unsaturated_shares(study: StudyFiles, episode: int = 100) -> pd.DataFrame:
    """Rows of runs.csv with `unsaturated_100`, of the last logged episode up to `episode`, and `unsaturated_end`."""
    early = study.saturation[study.saturation["episode"] <= episode].sort_values("episode")
    share = 1 - early.groupby(KEY)["saturation_ratio"].last()
    runs = study.runs.join(share.round(9).rename("unsaturated_100"), on=KEY)
    return runs.assign(unsaturated_end=(1 - runs["final_saturation_ratio"]).round(9))


def _over_stopping(r: Recordings, tables: dict[str, pd.DataFrame], rows: dict[str, str], text: str) -> Figure:
    """A row of panels per column, a panel per preset: every run's value over its stopping episode."""
    figure, panels = style.page(4.0, len(rows), len(tables), sharex=True, sharey="row")
    runs = pd.concat(tables.values(), ignore_index=True)
    lane = style.stopping_lane(runs)
    runs = runs.assign(stop=style.place_stops(runs, lane))
    for axes_row, (column, label) in zip(panels, rows.items(), strict=True):
        zeros = style.log_axis(axes_row, runs[column], label)
        shown = runs.assign(**{column: runs[column].mask(runs[column] == 0, zeros)})
        for axes, preset in zip(axes_row, tables, strict=True):
            style.run_points(axes, shown[shown["preset"] == preset], "stop", column)
    style.stopping_axis(panels.ravel(), lane, min(100.0, runs["stopping_episode"].min()))
    for axes in panels[-1]:
        axes.set_xlabel("stopping episode (log)", fontsize=SMALL)
    style.preset_titles(panels[0], tables)
    text = style.headline(text, r.baselines.values())
    return style.finish(figure, text, [*style.rate_handles(runs), *style.critic_handles(runs)], 4)
