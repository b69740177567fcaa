"""Figures of scores: over time, beside the reference policies, of the recipe and its controls, of other agents."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.analysis.comparison_statistics import BASELINE, KEY
from common.analysis.figures import SMALL, actor_colour, run_lines
from common.recording.results import learning_rate_text, learning_rates
from experiments.monitor.study_summary import figure_of
from paper import load
from paper.figures import style
from paper.load import NotRecorded, Recordings, StudyFiles, is_control, title
from paper.tables.experiments import RECIPE, without_parts

LINES = {"random": ":", "best constant": "-.", "near-optimal": "-"}


def learning_curves(r: Recordings) -> Figure:
    """Normalised score of every evaluation over the episodes, presets by critic learning rates."""
    studies = r.need_baselines()
    critic_lrs = learning_rates(r.runs)[1]
    figure, panels = style.page(1.4 + 0.9 * len(studies), len(studies), len(critic_lrs), sharex=True, sharey=True)
    for axes_row, (preset, study) in zip(panels, studies.items(), strict=True):
        axes_row[0].set_ylabel(f"{preset}\nscore", fontsize=SMALL)
        for axes, critic_lr in zip(axes_row, critic_lrs, strict=True):
            run_lines(axes, study.evaluations[study.evaluations["critic_lr"] == critic_lr], "score", bins=0)
            _reference_lines(axes.axhline, study)
            if preset == "scaled":
                _published_returns(axes, r, study, critic_lr)
    style.titles(panels[0], [f"critic lr {learning_rate_text(rate)}" for rate in critic_lrs])
    for axes in panels[-1]:
        axes.set_xlabel("training episode", fontsize=SMALL)
    early = (r.runs["total_episodes"] < r.runs["total_episodes"].max()).any()
    ended = [style.mark("ended early", "o", "0.3", ms=3)] if early else []
    handles = [*style.rate_handles(r.runs, line=True), *ended, *_line_handles()]
    if "scaled" in studies:
        handles.append(style.mark("published, in training", "P", "0.3", ms=5, mec="white", mew=0.5))
    text = f"{style.headline('Evaluations', studies.values())}\nthin: one run; thick: median over runs while all run"
    return style.finish(figure, text, handles, 5)


def reward_comparison(r: Recordings) -> Figure:
    """Score of every run untrained, at stopping and at the end, with the reference policies."""
    studies = r.need_baselines()
    figure, panels = style.page(0.9 + 1.7 * len(studies), len(studies), 1, sharex=True)
    for axes, (preset, study) in zip(panels[:, 0], studies.items(), strict=True):
        axes.set_ylabel(f"{preset}\nnormalised score", fontsize=SMALL)
        _reference_lines(axes.axhline, study)
        _scores_of_cells(axes, study)
    panels[-1, 0].set_xlabel("critic learning rate", fontsize=SMALL)
    handles = [
        *style.rate_handles(r.runs), style.mark("untrained", "_", "0.45", ms=6),
        style.mark("at stopping (evaluation next after it)", "o", "0.3", mfc="none", ms=5.5),
        style.mark("at the end", "o", "0.3", ms=3), *_line_handles(),
    ]  # fmt: skip
    text = style.headline("Scores; in a column the seeds side by side", studies.values())
    return style.finish(figure, text, handles, 4)


def score_at_stopping(study: StudyFiles) -> pd.Series:
    """Per run that stopped, the score of the first evaluation at or after its stopping episode."""
    stops = study.evaluations.merge(study.runs[[*KEY, "stopping_episode"]], on=KEY)
    after = stops[stops["episode"] >= stops["stopping_episode"]].sort_values("episode")
    return after.groupby(KEY)["score"].first().rename("stopping_score")


def recipe(r: Recordings) -> Figure:
    """Score of every run of baseline, recipe and controls, a panel per preset, a lane per actor rate."""
    presets = [preset for preset in r.compared if RECIPE in r.names(preset)]
    there = dict.fromkeys(name for preset in presets for name in r.names(preset))
    names = [n for n in (BASELINE, "input_norm", "step_limit", RECIPE) if n in there]
    return _scores(r, presets, names + sorted(name for name in there if is_control(name)))


def parts(r: Recordings) -> Figure:
    """The same of the recipe and what is left of it without one of its parts, the worst on the first preset first."""
    without = {preset: [study.name for _, study, _ in without_parts(r, preset)] for preset in r.compared}
    presets = [preset for preset, names in without.items() if names]
    return _scores(r, presets, [RECIPE, *dict.fromkeys(name for names in without.values() for name in names)])


def _scores(r: Recordings, presets: list[str], names: list[str]) -> Figure:
    if not presets:
        raise NotRecorded(f"{r.results}: {RECIPE} is not recorded on any preset")
    figure, panels = style.page(1.0 + 0.23 * len(names), 1, len(presets), sharey=True)
    studies = []
    for axes, preset in zip(panels[0], presets, strict=True):
        own = {name: study for name in names if (study := r.get(preset, name))}
        studies += own.values()
        style.score_axis(axes.set_xscale, min(study.runs["normalised_score"].min() for study in own.values()))
        if axes.get_xscale() == "linear":
            axes.locator_params(axis="x", nbins=5)
        _reference_lines(axes.axvline, next(iter(own.values())))
        for name, study in own.items():
            actor_lrs = learning_rates(study.runs)[0]
            lane = (study.runs["actor_lr"].map(actor_lrs.index) + 0.5) / len(actor_lrs)
            y = -names.index(name) + 0.3 - 0.6 * lane
            colours = [actor_colour(rate) for rate in study.runs["actor_lr"]]
            axes.scatter(study.runs["normalised_score"], y, s=8, color=colours, alpha=0.8, linewidth=0, zorder=3)
            axes.plot(study.runs["normalised_score"].median(), -names.index(name), "|", color="black", ms=14, zorder=4)
        axes.set_xlabel("normalised score", fontsize=SMALL)
    style.titles(panels[0], presets)
    labels = [title(name).removeprefix(f"{title(RECIPE)}, ") for name in names]
    panels[0, 0].set_yticks([-place for place in range(len(names))], labels)
    panels[0, 0].set_ylim(0.6 - len(names), 0.6)
    rates = pd.concat([study.runs for study in studies])
    handles = [*style.rate_handles(rates), style.mark("median run", "|", "black", ms=9), *_line_handles()]
    return style.finish(figure, "Score of every run", handles, 4)


def monitor(r: Recordings) -> Figure:
    """Returns of other people's agents on Pendulum: the figure of their study, at the paper's width."""
    figure = figure_of(r.need_monitor().query("task == 'Pendulum-v1'"))
    figure.set_size_inches(style.WIDTH, 0.7 * figure.get_figheight())
    return figure


def _reference_lines(draw, study: StudyFiles) -> None:
    """Scores of random actions, of the best constant and of the greedy oracle; `draw` is axhline or axvline."""
    for value, dashes in zip((0.0, study.constants["score"].mean(), 1.0), LINES.values(), strict=True):
        draw(value, color="0.25", linestyle=dashes, linewidth=0.9, zorder=1)


def _published_returns(axes: Axes, r: Recordings, study: StudyFiles, critic_lr: float) -> None:
    """Scores of the published seeded run: its mean return in its last 50 training episodes, at their middle."""
    runs = r.published_stops(load.SEEDED).query("critic_lr == @critic_lr")
    x, y = runs["total_episodes"] - 25, study.scored_on_average(runs["last50_mean_return"])
    colours = runs["actor_lr"].map(actor_colour)
    axes.scatter(x, y, marker="P", s=28, color=colours, edgecolor="white", linewidth=0.5, zorder=5)


def _line_handles() -> list:
    return [style.mark(name, None, "0.25", linewidth=0.9, linestyle=dashes) for name, dashes in LINES.items()]


def _scores_of_cells(axes, study: StudyFiles) -> None:
    """A column per learning-rate pair, actor rates in groups, seeds side by side; three marks per run."""
    runs = study.runs.assign(untrained=study.untrained).join(score_at_stopping(study), on=KEY)
    actor_lrs, critic_lrs = learning_rates(runs)
    place = runs["actor_lr"].map(actor_lrs.index) * (len(critic_lrs) + 0.6) + runs["critic_lr"].map(critic_lrs.index)
    x = place + 0.75 * ((runs["seed"].map(study.seeds.index) + 0.5) / len(study.seeds) - 0.5)
    colours = [actor_colour(rate) for rate in runs["actor_lr"]]
    end = runs["normalised_score"]
    style.score_axis(axes.set_yscale, float(np.nanmin(end)))
    axes.vlines(x, runs["untrained"], end, color=colours, linewidth=0.6, alpha=0.6, zorder=2)
    axes.scatter(x, runs["untrained"], marker="_", s=22, color="0.45", linewidth=1, zorder=3)
    axes.scatter(x, end, s=8, color=colours, zorder=4)
    axes.scatter(x, runs["stopping_score"], s=26, facecolor="none", edgecolor=colours, linewidth=0.9, zorder=4)
    named = runs.assign(place=place).drop_duplicates("place")
    axes.set_xticks(named["place"], [learning_rate_text(rate) for rate in named["critic_lr"]], rotation=90)
    axes.set_xlim(place.min() - 0.7, place.max() + 0.7)
