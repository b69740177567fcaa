"""Figures of the baseline that are about stopping: where, when, agent by agent, and what it goes with."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.analysis.figures import NORMAL, SMALL, _log_axis, actor_colour, stopping_heatmap
from common.recording.results import Study, learning_rate_text, learning_rates
from paper.figure_style import (
    RUN,
    critic_handles,
    episode_axis,
    finish,
    fit,
    headline,
    mark,
    of_presets,
    page,
    place_stops,
    preset_titles,
    rate_handles,
    run_points,
    runs_of,
    stopping_axis,
    stopping_lane,
)

BUBBLE = 0.075  # points² per episode
BUBBLES_NAMED = (200, 500, 1000, 2000)
LIFE_EVENTS = (
    ("gradient_death_episode", "gradient died"),
    ("first_unchanged_episode", "had an unchanged step"),
    ("freeze_episode", "weights froze"),
)


def stopping_grid(study: Study) -> Figure:
    """Stopping episode of every learning-rate pair: median and range over seeds."""
    figure = stopping_heatmap(study.runs)
    notes = f"median and range over seeds; never: not within {study.runs['total_episodes'].max():.0f} episodes"
    return fit(figure, 3.3, f"{headline('Stopping episode', study.runs)}\n{notes}")


def stopping_bubbles(studies: dict[str, Study]) -> Figure:
    """Stopping episode of every run as the area of a bubble, a panel per preset, seeds side by side in a cell."""
    figure, panels = page(2.9, 1, len(studies), sharex=True, sharey=True)
    every = runs_of(studies)
    actor_lrs, critic_lrs = learning_rates(every)
    for axes, study in zip(panels[0], studies.values(), strict=True):
        seeds = sorted(study.runs["seed"].unique())
        for (actor_lr, critic_lr, seed), run in study.runs.groupby(["actor_lr", "critic_lr", "seed"]):
            across = (seeds.index(seed) + 0.5) / len(seeds) - 0.5
            x, y = critic_lrs.index(critic_lr) + 0.9 * across, actor_lrs.index(actor_lr)
            stop = run["stopping_episode"].iloc[0]
            if np.isnan(stop):
                axes.scatter(x, y, s=26, marker="x", color="0.55", linewidth=0.8)
            else:
                axes.scatter(x, y, s=BUBBLE * stop, color=actor_colour(actor_lr), linewidth=0)
        axes.set_xlim(-0.6, len(critic_lrs) - 0.4)
        axes.set_ylim(-0.6, len(actor_lrs) - 0.4)
        axes.set_xticks(range(len(critic_lrs)), [learning_rate_text(rate) for rate in critic_lrs])
        axes.set_yticks(range(len(actor_lrs)), [learning_rate_text(rate) for rate in actor_lrs])
        axes.set_xlabel("critic learning rate", fontsize=SMALL)
        for rows, line in ((range(len(actor_lrs) - 1), axes.axhline), (range(len(critic_lrs) - 1), axes.axvline)):
            for place in rows:
                line(place + 0.5, color="0.8", linewidth=0.6, zorder=0)
    preset_titles(panels[0], studies)
    panels[0, 0].set_ylabel("actor learning rate", fontsize=SMALL)
    sizes = [mark(f"episode {e}", "o", "0.4", ms=(BUBBLE * e) ** 0.5, mew=0) for e in BUBBLES_NAMED]
    finish(figure, headline("Stopping episode of every run", every), [*sizes, mark("never", "x", "0.55", ms=5)])
    for axes in panels[0]:
        axes.grid(False)
        axes.tick_params(length=0)
    return figure


def asymmetry_and_stopping(studies: dict[str, Study]) -> Figure:
    """Gradient ratio of every run, at its first training step and while it was not zero, over its stopping episode."""
    figure, panels = page(4.3, 2, len(studies), sharex=True, sharey="row")
    runs = of_presets({preset: with_gradient_ratios(study) for preset, study in studies.items()})
    rows = (
        ("first_ratio", "gradient ratio at the\nfirst training step (log)"),
        ("median_ratio", "median ratio of the logged\nsteps where it is not 0 (log)"),
    )
    for axes_row, (column, label) in zip(panels, rows, strict=True):
        _log_axis(axes_row, runs[column], label)
    _over_stopping(panels, runs, studies, [column for column, _ in rows])
    title = headline("Gradient ratio (actor / critic) and stopping", runs)
    return finish(figure, title, [*rate_handles(runs), *critic_handles(runs)], 4)


def saturation_and_stopping(studies: dict[str, Study]) -> Figure:
    """Share of outputs that are not saturated, at episode 100 and at the end, over the stopping episode."""
    figure, panels = page(4.3, 2, len(studies), sharex=True, sharey="row")
    runs = of_presets({preset: with_unsaturated_shares(study) for preset, study in studies.items()})
    rows = (
        ("unsaturated_100", "share of outputs not\nsaturated, episode 100 (log)"),
        ("unsaturated_end", "share of outputs not\nsaturated, at the end (log)"),
    )
    lanes = [_log_axis(axes_row, runs[column], label) for axes_row, (column, label) in zip(panels, rows, strict=True)]
    drawn = runs.assign(**{c: runs[c].mask(runs[c] == 0, lane) for (c, _), lane in zip(rows, lanes, strict=True)})
    _over_stopping(panels, drawn, studies, [column for column, _ in rows])
    title = headline("Saturation and stopping", runs)
    return finish(figure, title, [*rate_handles(runs), *critic_handles(runs)], 4)


def agents_over_time(study: Study) -> Figure:
    """Share of a run's agents whose gradient had died, that had an unchanged step, that had frozen; a line per run."""
    _, critic_lrs = learning_rates(study.runs)
    figure, panels = page(4.6, len(LIFE_EVENTS), len(critic_lrs), sharex=True, sharey=True)
    longest = float(study.runs["total_episodes"].max())
    last = study.runs.set_index(RUN)["total_episodes"]
    for axes_row, (event, label) in zip(panels, LIFE_EVENTS, strict=True):
        axes_row[0].set_ylabel(f"{label}\n(share of agents)", fontsize=SMALL)
        for key, agents in study.stopping_episodes.groupby(RUN):
            axes = axes_row[critic_lrs.index(key[2])]
            _steps(axes, agents[event], float(last[key]), actor_colour(key[1]))
    for axes, rate in zip(panels[0], critic_lrs, strict=True):
        axes.set_title(f"critic lr {learning_rate_text(rate)}", fontsize=NORMAL)
        axes.set_ylim(-0.04, 1.04)
        axes.set_yticks([0, 0.5, 1])
    for axes in panels[-1]:
        episode_axis(axes, 2, longest)
        axes.set_xlabel("training episode (log)", fontsize=SMALL)
    handles = [*rate_handles(study.runs, line=True), mark("run ended", "o", "0.3", ms=3)]
    return finish(figure, headline("Agents over time, a line per run", study.runs), handles)


def with_gradient_ratios(study: Study) -> pd.DataFrame:
    """Rows of runs.csv with `first_ratio`, of the first logged step, and `median_ratio`, of those above 0."""
    norms = study.gradient_norms.sort_values("episode").groupby(RUN)
    alive = study.gradient_norms[study.gradient_norms["gradient_ratio"] > 0].groupby(RUN)
    found = pd.DataFrame(
        {"first_ratio": norms["gradient_ratio"].first(), "median_ratio": alive["gradient_ratio"].median()}
    )
    return study.runs.join(found, on=RUN)


def with_unsaturated_shares(study: Study, episode: int = 100) -> pd.DataFrame:
    """Rows of runs.csv with `unsaturated_100`, of the last logged episode up to `episode`, and `unsaturated_end`."""
    early = study.saturation[study.saturation["episode"] <= episode].sort_values("episode")
    share = 1 - early.groupby(RUN)["saturation_ratio"].last()
    runs = study.runs.join(share.round(9).rename("unsaturated_100"), on=RUN)
    return runs.assign(unsaturated_end=(1 - runs["final_saturation_ratio"]).round(9))


def _over_stopping(panels: np.ndarray, runs: pd.DataFrame, presets: dict[str, Study], columns: list[str]) -> None:
    """A row of panels per column, a panel per preset: every run's value over its stopping episode."""
    lane = stopping_lane(runs)
    runs = runs.assign(stop=place_stops(runs, lane))
    for axes_row, column in zip(panels, columns, strict=True):
        for axes, preset in zip(axes_row, presets, strict=True):
            run_points(axes, runs[runs["preset"] == preset], "stop", column)
    stopping_axis(panels.ravel(), lane, narrow=True)
    for axes in panels[-1]:
        axes.set_xlabel("stopping episode (log)", fontsize=SMALL)
    preset_titles(panels[0], presets)


def _steps(axes: Axes, events: pd.Series, end: float, colour: tuple[float, float, float]) -> None:
    """Share of agents that had the event by each episode, up to the run's end."""
    happened = np.sort(events.dropna().to_numpy())
    shares = np.arange(1, len(happened) + 1) / len(events)
    x = np.concatenate([[1.0], happened, [end]])
    y = np.concatenate([[0.0], shares, [shares[-1] if len(shares) else 0.0]])
    axes.step(x, y, where="post", color=colour, linewidth=0.9, alpha=0.8)
    axes.plot(end, y[-1], "o", color=colour, ms=2.5, zorder=4)


