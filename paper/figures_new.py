"""Figures that the published study has no counterpart of: death and freeze, wrong side, cost landscape, scores."""

from __future__ import annotations

import math
from textwrap import fill

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from common.analysis.comparison_figure import _scores
from common.analysis.comparison_statistics import in_order, only_finished
from common.analysis.figures import NORMAL, SMALL, actor_colour
from common.environment.mec_env import LOWEST_SHARE, PRESETS, MecEnv, draw_world, tasks_from_draws
from common.environment.random_streams import stream
from common.recording.results import Study, learning_rate_text, learning_rates
from paper.figure_style import (
    compared,
    episode_axis,
    finish,
    headline,
    mark,
    not_recorded,
    page,
    pooled_lines,
    preset_titles,
    rate_handles,
    runs_of,
    signed_log_ticks,
)
from paper.tables_data import title as name_of

COASTING = 24 * math.log(2) / -math.log(0.9)  # steps: docs/algorithm.md#death-freeze-and-coasting
LAG_BIN = 10  # episodes
AGENTS, TASKS_EACH, SHOWN = 50, 40, 60  # the landscape: agents per seed, tasks per agent, tasks drawn
SHARES = np.linspace(LOWEST_SHARE, 1.0, 199)  # α tried: evenly, as the actor's output maps to it


def death_and_freeze(studies: dict[str, Study]) -> Figure:
    """Freeze over gradient death of every agent with the coasting law, and the distribution of the lag between."""
    figure, panels = page(4.9, 2, len(studies), sharex="row", sharey="row", height_ratios=(1.25, 1))
    longest = max(study.runs["total_episodes"].max() for study in studies.values())
    line = np.geomspace(2, longest, 200)
    lags = pd.concat([lag_of(study.stopping_episodes) for study in studies.values()]) // LAG_BIN
    bins = LAG_BIN * np.arange(lags.min(), lags.max() + 2)
    for (above, below), study in zip(panels.T, studies.values(), strict=True):
        agents = study.stopping_episodes
        both = agents.dropna(subset=["gradient_death_episode", "freeze_episode"])
        for actor_lr in reversed(learning_rates(agents)[0]):
            own = both[both["actor_lr"] == actor_lr]
            colour = actor_colour(actor_lr)
            above.scatter(
                own["gradient_death_episode"], own["freeze_episode"], s=5, color=colour, alpha=0.4, linewidth=0,
            )  # fmt: skip
            below.hist(lag_of(own), bins, histtype="step", color=colour, linewidth=1.1)
        above.plot(line, line + COASTING, color="black", linewidth=1, zorder=4)
        below.axvline(COASTING, color="black", linewidth=1, zorder=4)
        above.text(0.97, 0.04, unfinished_text(agents), transform=above.transAxes, ha="right", fontsize=SMALL)
        episode_axis(above, 2, longest)
        above.set_yscale("log")
        above.set_ylim(90, longest * 1.2)
        above.yaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
        above.yaxis.set_minor_locator(NullLocator())
        above.yaxis.set_major_formatter(FuncFormatter(lambda episode, _: f"{episode:.0f}"))
        above.set_xlabel("gradient death (episode, log)", fontsize=SMALL)
        below.set_yscale("log")
        below.yaxis.set_minor_locator(NullLocator())
        below.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:.0f}"))
        below.set_xlabel("freeze − death (episodes)", fontsize=SMALL)
    panels[0, 0].set_ylabel("freeze (episode, log)", fontsize=SMALL)
    panels[1, 0].set_ylabel(f"agents per {LAG_BIN} episodes\n(log)", fontsize=SMALL)
    preset_titles(panels[0], studies)
    runs = runs_of(studies)
    law = mark(f"death + {COASTING:.0f}: Adam coasting", None, "black", linewidth=1)
    title = headline("Gradient death and freeze, every agent", runs)
    return finish(figure, title, [*rate_handles(runs), law], 5)


def wrong_side(studies: dict[str, Study]) -> Figure:
    """Share of saturated compute outputs that sit on the worse bound, over time and at the end of every run."""
    figure, panels = page(4.6, 2, len(studies), sharex="row", sharey=True)
    runs = runs_of(studies)
    for (above, below), study in zip(panels.T, studies.values(), strict=True):
        pooled_lines(above, study.saturation, "wrong_side_saturation")
        episode_axis(above, 2, runs["total_episodes"].max())
        above.set_xlabel("training episode (log)", fontsize=SMALL)
        _final_points(below, study.runs, "final_wrong_side_saturation")
        below.set_xlabel("actor learning rate", fontsize=SMALL)
        for axes in (above, below):
            axes.axhline(0.5, color="0.35", linestyle=":", linewidth=0.9, zorder=1)
            axes.set_ylim(-0.04, 1.04)
    panels[0, 0].set_ylabel("wrong-side saturation\n(share, over time)", fontsize=SMALL)
    panels[1, 0].set_ylabel("wrong-side saturation\n(share, at the end)", fontsize=SMALL)
    preset_titles(panels[0], studies)
    title = f"{headline('Saturated on the worse bound', runs)}\nthin or point: one run; thick: median while all run"
    handles = [
        *rate_handles(runs, line=True),
        mark("a coin's share", None, "0.35", linestyle=":", linewidth=0.9),
        mark("median of the runs", "_", "black", ms=9, mew=1.2),
        mark("ended early", "o", "0.3", ms=3),
    ]
    return finish(figure, title, handles, 4)


def landscape(seeds: tuple[int, ...] = (42, 43, 44)) -> Figure:
    """Cost of computing locally over α for a fixed sample of tasks, and where their cheapest α lies, by preset."""
    figure, panels = page(4.3, 2, len(PRESETS), sharex=True, sharey="row")
    state = task_sample(list(seeds))
    for (above, below), preset in zip(panels.T, PRESETS, strict=True):
        cost = local_costs(preset, state)
        above.plot(SHARES, relative(cost[:SHOWN]).T, color="0.45", linewidth=0.5, alpha=0.4)
        mean = cost.mean(axis=0, keepdims=True)
        above.plot(SHARES, relative(mean)[0], color="black", linewidth=1.8)
        above.plot(SHARES[mean.argmin()], 1.0, "o", color="black", ms=5, clip_on=False, zorder=5)
        above.set_yscale("log")
        above.yaxis.set_minor_formatter(NullFormatter())
        above.yaxis.set_major_formatter(FuncFormatter(lambda factor, _: f"{factor:g}"))
        _best_shares(below, cost)
        below.set_xlabel("α (share of own compute)", fontsize=SMALL)
    panels[0, 0].set_ylabel("cost of one task, as a multiple\nof the least possible (log)", fontsize=SMALL)
    panels[1, 0].set_ylabel("share of tasks whose\ncheapest α is there", fontsize=SMALL)
    preset_titles(panels[0], PRESETS)
    handles = [
        mark(f"one task ({SHOWN} drawn)", None, "0.45", linewidth=0.8),
        mark("mean cost of all tasks", None, "black", linewidth=1.8),
        mark("its cheapest α", "o", "black", ms=5),
        mark("cheapest at a bound", "s", "#882255", ms=6),
        mark("inside", "s", "0.6", ms=6),
    ]
    seeds_text = ", ".join(map(str, seeds))
    title = f"Cost of computing locally with a share α — {len(state):,} tasks, agents of seeds {seeds_text}"
    return finish(figure, title, handles, 5)


def scores(studies: dict[str, dict[str, Study]]) -> Figure:
    """Normalised score of every run, presets side by side, an experiment per row."""
    every = only_finished(pd.concat([runs_of(by_name) for by_name in studies.values()], ignore_index=True))
    names = in_order(every)
    heights = {name: -place for place, name in enumerate(names)}
    figure, panels = page(1.2 + 0.6 * len(names), 1, len(studies), sharey=True)
    for axes, (preset, by_name) in zip(panels[0], studies.items(), strict=True):
        runs = only_finished(runs_of(by_name))
        _scores(axes, compared(by_name), runs, heights)
        axes.set_title(f"{preset}\n", fontsize=NORMAL)
        _score_axis_in_print(axes)
        for name in (name for name in names if name not in by_name):
            not_recorded(axes, heights[name])
        for height in list(heights.values())[1:]:
            axes.axhline(height + 0.5, color="0.8", linewidth=0.6, zorder=0)
    panels[0, 0].set_yticks(list(heights.values()), [fill(name_of(name), 14) for name in names])
    panels[0, 0].set_ylim(0.5 - len(names), 0.5)
    handles = [*rate_handles(every), mark("median, 95% interval over seeds", "D", "black", linewidth=1.4)]
    handles.append(mark("untrained", "|", "0.35", ms=8))
    if every["normalised_score"].isna().any():
        handles.append(mark("diverged", "x", "0.3"))
    finish(figure, headline("Normalised score of every run", every), handles, 3 if len(handles) > 5 else 5)
    for axes in panels[0]:
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)
    return figure


def lag_of(agents: pd.DataFrame) -> pd.Series:
    """Episodes from gradient death to freeze, of the agents that have both."""
    return (agents["freeze_episode"] - agents["gradient_death_episode"]).dropna()


def unfinished_text(agents: pd.DataFrame) -> str:
    """How many agents are not among the points of death against freeze, and why."""
    dead, frozen = (agents[name].notna() for name in ("gradient_death_episode", "freeze_episode"))
    counts = {"never died": ~dead & ~frozen, "died, not frozen": dead & ~frozen, "froze, not dead": ~dead & frozen}
    lines = [f"{count.sum()} {what}" for what, count in counts.items() if count.any()]
    return "\n".join([f"of {len(agents):,} agents", *lines])


def task_sample(seeds: list[int]) -> torch.Tensor:
    """States (tasks, 7) of a fixed sample: the agents of these seeds at reset, TASKS_EACH tasks of each."""
    world = draw_world(seeds, AGENTS, torch.float64, torch.device("cpu"))
    tasks = tasks_from_draws(stream(0, "landscape figure").random((TASKS_EACH, len(seeds), AGENTS, 3)))
    of_agent = [x.expand(TASKS_EACH, -1, -1) for x in (world.power, world.gain, world.energy, world.processor)]
    power, gain, energy, processor = of_agent
    size, cycles, deadline = torch.from_numpy(tasks).unbind(-1)
    return torch.stack([power, gain, energy, size, cycles, deadline, processor], dim=-1).reshape(-1, 7)


def local_costs(preset: str, state: torch.Tensor) -> np.ndarray:
    """One-step cost (tasks, SHARES) of computing these tasks locally."""
    env = MecEnv(preset, channels=10)
    return torch.stack([env.local_cost(state, torch.full(state.shape[:-1], a)) for a in SHARES], dim=-1).numpy()


def relative(cost: np.ndarray) -> np.ndarray:
    """Costs (…, SHARES) as multiples of the least of their row."""
    return cost / cost.min(axis=-1, keepdims=True)


def _best_shares(axes: Axes, cost: np.ndarray) -> None:
    """Histogram of the cheapest α; tasks whose cheapest is a bound are bars of their own, named with their share."""
    best = SHARES[cost.argmin(axis=1)]
    inside = best[(best > SHARES[0]) & (best < SHARES[-1])]
    axes.hist(inside, np.linspace(0, 1, 21), weights=np.full(len(inside), 1 / len(best)), color="0.6")
    for bound, side in ((SHARES[0], "left"), (SHARES[-1], "right")):
        share = float((best == bound).mean())
        axes.bar(bound, share, 0.03, color="#882255", zorder=3)
        axes.text(bound, share + 0.02, f"{share:.0%}", ha=side, va="bottom", fontsize=SMALL, color="#882255")
    upper = float((cost[:, -1] < cost[:, 0]).mean())
    axes.text(
        0.5, 0.75, f"of the two bounds,\nα = 1 is cheaper\nfor {upper:.0%}", transform=axes.transAxes, ha="center",
        va="top", fontsize=SMALL,
    )  # fmt: skip
    axes.set_xlim(-0.04, 1.04)
    axes.set_ylim(0, 1.12)


def _score_axis_in_print(axes: Axes) -> None:
    """Label, ticks and names of the references so that they fit a third of the page."""
    axes.set_xlabel("normalised score", fontsize=SMALL)
    for text in axes.texts:
        text.set_horizontalalignment("right")
    if axes.get_xscale() == "symlog":
        signed_log_ticks(axes, max(-axes.get_xlim()[0], 10.0) / 2)
        axes.set_xlabel("normalised score\n(log beyond ±1)", fontsize=SMALL)
        for text in axes.texts:
            text.set_horizontalalignment("right" if text.get_text() == "random" else "left")


def _final_points(axes: Axes, runs: pd.DataFrame, column: str) -> None:
    """A lane per actor rate, critic rates side by side in it, every run a point, the median a line."""
    actor_lrs, critic_lrs = learning_rates(runs)
    seeds = sorted(runs["seed"].unique())
    for place, actor_lr in enumerate(actor_lrs):
        own = runs[runs["actor_lr"] == actor_lr]
        order = own["critic_lr"].map(critic_lrs.index) * len(seeds) + own["seed"].map(seeds.index)
        x = place + 0.7 * ((order + 0.5) / (len(critic_lrs) * len(seeds)) - 0.5)
        axes.scatter(x, own[column], s=9, color=actor_colour(actor_lr), linewidth=0, zorder=3)
        axes.plot((place - 0.4, place + 0.4), [own[column].median()] * 2, color="black", linewidth=1.2, zorder=2)
    axes.set_xticks(range(len(actor_lrs)), [learning_rate_text(rate) for rate in actor_lrs])
