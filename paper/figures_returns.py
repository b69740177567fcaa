"""Figures of the baseline that are about returns: learning curves, and returns beside the reference policies."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.analysis.figures import (
    NORMAL,
    REFERENCE_STYLES,
    SMALL,
    _draw,
    _label_references,
    _return_axis,
    actor_colour,
)
from common.recording import schema
from common.recording.results import Study, learning_rate_text, learning_rates
from paper.figure_style import RUN, finish, headline, mark, of_presets, page, rate_handles, runs_of


def learning_curves(studies: dict[str, Study]) -> Figure:
    """Normalised score of every evaluation over the episodes, presets by critic learning rates."""
    scored = {preset: with_scores(study) for preset, study in studies.items()}
    every = of_presets(scored)
    critic_lrs = learning_rates(every)[1]
    figure, panels = page(5.0, len(studies), len(critic_lrs), sharex=True, sharey=True)
    for axes_row, (preset, table) in zip(panels, scored.items(), strict=True):
        axes_row[0].set_ylabel(f"{preset}\nnormalised score", fontsize=SMALL)
        _draw(axes_row, table, "score", bins=False)
        constant = constant_score(studies[preset].reference_policies)
        for axes in axes_row:
            for score, line in ((0.0, REFERENCE_STYLES["random"]), (constant, "-."), (1.0, "-")):
                axes.axhline(score, color="0.25", linestyle=line, linewidth=0.9, zorder=1)
    for axes, rate in zip(panels[0], critic_lrs, strict=True):
        axes.set_title(f"critic lr {learning_rate_text(rate)}", fontsize=NORMAL)
    for axes in panels[-1]:
        axes.set_xlabel("training episode", fontsize=SMALL)
    lines = [
        mark(f"{policy.replace('_', ' ')}", None, "0.25", linewidth=0.9, linestyle=REFERENCE_STYLES[policy])
        for policy in ("random", "constant", "greedy_offload")
    ]
    handles = [*rate_handles(every, line=True), mark("ended early", "o", "0.3", ms=3), *lines]
    title = headline("Evaluations", runs_of(studies))
    return finish(figure, f"{title}\nthin: one run; thick: median of the seeds while all run", handles, 4)


def reward_comparison(studies: dict[str, Study]) -> Figure:
    """Evaluation return of every run untrained, at stopping and at the end, with the reference policies."""
    figure, panels = page(6.0, len(studies), 1, sharex=True)
    for axes, (preset, study) in zip(panels[:, 0], studies.items(), strict=True):
        runs = study.runs.join(return_at_stopping(study), on=RUN)
        references = [
            (policy, float(study.reference_policies.query("policy == @policy")["evaluation_return"].mean()))
            for policy in schema.POLICIES
        ]
        columns = ("first_evaluation_return", "stopping_return", "final_evaluation_return")
        values = runs[list(columns)].stack()
        sign = _return_axis(np.array([[axes]]), [*values[np.isfinite(values)], *(value for _, value in references)])
        axes.set_ylabel(f"{preset}\n{axes.get_ylabel()}", fontsize=SMALL)
        for policy, value in references:
            axes.axhline(sign * value, color="0.25", linestyle=REFERENCE_STYLES[policy], linewidth=0.9, zorder=1)
        _label_references(axes, references, sign)
        for text in axes.texts:
            text.set(text=text.get_text().replace("_", " "), fontsize=SMALL - 0.5)
        _returns_of_cells(axes, runs, columns, sign)
    handles = [
        mark("untrained", "_", "0.45", ms=6),
        mark("at stopping (evaluation next after it)", "o", "0.3", mfc="none", ms=5.5),
        mark("at the end", "o", "0.3", ms=3),
    ]
    every = runs_of(studies)
    title = headline("Evaluation returns; in a column the seeds side by side", every)
    figure = finish(figure, title, [*rate_handles(every), *handles], 4)
    panels[-1, 0].set_xlabel("critic learning rate", fontsize=SMALL)
    return figure


def with_scores(study: Study) -> pd.DataFrame:
    """Rows of evaluations.csv with `score`, the normalised score by the references of their seed."""
    scale = returns_by_policy(study.reference_policies)
    table = study.evaluations.join(scale, on="seed")
    gain = table["evaluation_return"] - table["random"]
    return table.assign(score=gain / (table["greedy_offload"] - table["random"]))


def constant_score(references: pd.DataFrame) -> float:
    """Normalised score of the best constant policy, mean over seeds."""
    scale = returns_by_policy(references)
    return float(((scale["constant"] - scale["random"]) / (scale["greedy_offload"] - scale["random"])).mean())


def returns_by_policy(references: pd.DataFrame) -> pd.DataFrame:
    """Evaluation return of the reference policies, a row per seed and a column per policy."""
    return references.pivot(index="seed", columns="policy", values="evaluation_return")


def return_at_stopping(study: Study) -> pd.Series:
    """Per run that stopped, the return of the first evaluation at or after its stopping episode."""
    stops = study.evaluations.merge(study.runs[[*RUN, "stopping_episode"]], on=RUN)
    after = stops[stops["episode"] >= stops["stopping_episode"]].sort_values("episode")
    return after.groupby(RUN)["evaluation_return"].first().rename("stopping_return")


def _returns_of_cells(axes: Axes, runs: pd.DataFrame, columns: tuple[str, str, str], sign: int) -> None:
    """A column per learning-rate pair, actor rates in groups, seeds side by side; three marks per run."""
    actor_lrs, critic_lrs = learning_rates(runs)
    seeds = sorted(runs["seed"].unique())
    place = runs["actor_lr"].map(actor_lrs.index) * (len(critic_lrs) + 0.6) + runs["critic_lr"].map(critic_lrs.index)
    x = place + 0.75 * ((runs["seed"].map(seeds.index) + 0.5) / len(seeds) - 0.5)
    colours = [actor_colour(rate) for rate in runs["actor_lr"]]
    untrained, stopped, end = (sign * runs[column] for column in columns)
    axes.vlines(x, untrained, end, color=colours, linewidth=0.6, alpha=0.6, zorder=2)
    axes.scatter(x, untrained, marker="_", s=22, color="0.45", linewidth=1, zorder=3)
    axes.scatter(x, end, s=8, color=colours, zorder=4)
    axes.scatter(x, stopped, s=26, facecolor="none", edgecolor=colours, linewidth=0.9, zorder=4)
    named = runs.assign(place=place).drop_duplicates("place")
    axes.set_xticks(named["place"], [learning_rate_text(rate) for rate in named["critic_lr"]], rotation=90)
    axes.set_xlim(place.min() - 0.7, place.max() + 0.7)
