"""The experiments beside the baseline: comparison tables, published outcomes, and sentences that follow by rule."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from common.comparison_statistics import BASELINE, pair_runs
from common.config import GRID, StudyConfig
from common.schema import DIVERGED
from paper.make_pages import verdicts
from paper.tables_data import DERIVATIVE, FAST, FLAT, PRESETS, Recordings, StudyFiles, pair, title
from paper.tables_text import (
    MISSING,
    NOT_RECORDED,
    code,
    interval,
    listed,
    number,
    of,
    rate,
    share,
    tabular,
)

HIGHER, LOWER, NO_DIFFERENCE = "higher", "lower", "no difference shown"
CELLS = len(GRID) ** 2
WORDS = {"yes": "reproduced", "partly": "partly", "no": "not"}


def effect(row: pd.Series) -> str:
    """Whether the paired scores differ from the baseline's, by the interval over seeds."""
    if row.paired_score_difference_low > 0:
        return HIGHER
    return LOWER if row.paired_score_difference_high < 0 else NO_DIFFERENCE


def difference(row: pd.Series) -> str:
    """Paired score difference with its interval."""
    names = (f"paired_score_difference{end}" for end in ("", "_low", "_high"))
    return interval(*(row[name] for name in names))


def median_score(row: pd.Series) -> str:
    """Mean over seeds of the median score, with its interval."""
    return interval(row.median_score, row.median_score_low, row.median_score_high, ".2f")


def comparison(recordings: Recordings, preset: str) -> str:
    """All experiments of one preset beside its baseline."""
    table, rows = recordings.compared[preset], []
    for name in (BASELINE, *recordings.experiments):
        if name not in table.index:
            rows.append([title(name), f"\\multicolumn{{9}}{{c}}{{{NOT_RECORDED}}}"])
            continue
        row = table.loc[name]
        rows.append(
            [
                title(name), of(row.runs_never_stopping, row.runs), share(row.median_final_saturation),
                share(row.median_final_wrong_side_saturation), of(row.improved_runs, row.runs),
                number(recordings.studies[name, preset].untrained.median()), number(row.best_score), median_score(row),
                MISSING if name == BASELINE else of(row.runs_better_than_baseline, row.paired_runs),
                MISSING if name == BASELINE else difference(row),
            ]
        )  # fmt: skip
        if name == BASELINE:
            rows.append(None)
    header = [
        " & never & \\multicolumn{2}{c}{saturated} & & \\multicolumn{3}{c}{score} & "
        "\\multicolumn{2}{c}{against the baseline}",
        "\\cmidrule(lr){3-4}\\cmidrule(lr){6-8}\\cmidrule(l){9-10}",
        "experiment & stop & all & wrong & improved & untr. & best & median [95\\%] & better & difference [95\\%]",
    ]
    return tabular("@{}lrrrrrrrrr@{}", header, rows)


def standstill(recordings: Recordings) -> str:
    """Death and freeze in every recorded study, and what was zero when the gradients died."""
    rows: list[list[str] | None] = []
    for preset in PRESETS:
        table = recordings.compared[preset]
        for name in (BASELINE, *recordings.experiments):
            if name not in table.index:
                rows.append([code(preset), title(name), f"\\multicolumn{{6}}{{c}}{{{NOT_RECORDED}}}"])
                continue
            row, ends = table.loc[name], recordings.studies[name, preset].ends
            dead = ends["kind"].dropna()
            counts = [int((dead == kind).sum()) for kind in (DERIVATIVE, FLAT)]
            rows.append(
                [
                    code(preset), title(name),
                    f"{share(row.dead_agents_share)}, {number(row.median_death_episode, '.0f')}",
                    f"{share(row.frozen_agents_share)}, {number(row.median_freeze_episode, '.0f')}",
                    str(len(ends) - len(dead)), *(str(count) for count in counts), str(len(dead) - sum(counts)),
                ]
            )  # fmt: skip
        rows.append(None)
    header = [
        " & & \\multicolumn{2}{c}{agents: share, median episode} & \\multicolumn{4}{c}{runs by what was zero at death}",
        "\\cmidrule(lr){3-4}\\cmidrule(l){5-8}",
        "preset & experiment & died & froze & alive & $1-\\tanh^2 z$ & $\\partial Q/\\partial a$ & other",
    ]
    return tabular("@{}llrrrrrr@{}", header, rows[:-1])


def cell_table(recordings: Recordings, preset: str, what: str) -> str:
    """Per pair of learning rates: mean score, or number of seeds that never stop, of every experiment."""
    names = [BASELINE, *recordings.experiments]
    rows: list[list[str] | None] = []
    for actor_lr in GRID:
        for critic_lr in GRID:
            texts = []
            for name in names:
                study = recordings.studies.get((name, preset))
                texts.append(MISSING if study is None else _cell(pair(study.runs, actor_lr, critic_lr), what))
            rows.append([rate(actor_lr), rate(critic_lr), *texts])
        rows.append(None)
    turned = " & ".join(f"\\rotatebox{{60}}{{{title(name)}}}" for name in names)
    return tabular("@{}cc" + "r" * len(names) + "@{}", [f"actor lr & critic lr & {turned}"], rows[:-1])


def outcomes(recordings: Recordings) -> str:
    """Published outcome of each experiment beside the single change and the published double change."""
    rows = []
    for name in (BASELINE, *recordings.experiments):
        there = recordings.outcomes.loc[name] if name in recordings.outcomes.index else None
        columns = [[], []]
        for place, what in enumerate(("cells_never_stopping", "cells_better_than_baseline")):
            columns[place].append(MISSING if there is None else number(there[what], ".0f"))
        single, double = _single(recordings, name), _double(recordings, name)
        for place in range(2):
            columns[place] += [single[place], double[place]]
        words = (_second_change(recordings, name), agreement(recordings, name))
        rows.append([title(name), *columns[0], *columns[1], *words])
    header = [
        " & \\multicolumn{3}{c}{pairs that never stop} & \\multicolumn{3}{c}{better than baseline} & second & ",
        "\\cmidrule(lr){2-4}\\cmidrule(lr){5-7}",
        "experiment & publ. & single & double & publ. & single & double & change & verdict",
    ]
    return tabular("@{}lrrrrrrll@{}", header, rows)


def agreement(recordings: Recordings, name: str) -> str:
    """Whether the single change on `scaled` agrees with the published outcome: reproduced, partly, not, or open."""
    if name not in recordings.compared["scaled"].index:
        return NOT_RECORDED
    if name not in recordings.outcomes.index:
        return "no claim"
    word, _ = verdicts(name, recordings.outcomes.loc[name], recordings.compared["scaled"])
    return WORDS.get(word, "no claim")


def sequential(recordings: Recordings) -> str:
    """Joint against sequential actor updates, same seed: stopping and median death of every fast pair."""
    rows: list[list[str] | None] = []
    if recordings.sequential is None:
        rows.append([f"\\multicolumn{{6}}{{c}}{{{NOT_RECORDED}}}"])
    else:
        seeds = recordings.sequential.runs["seed"].unique()
        joint = recordings.baselines["scaled"].runs
        joint = joint[joint["seed"].isin(seeds)]
        for actor_lr in (lr for lr in GRID if lr >= FAST):
            for critic_lr in GRID:
                both = [pair(runs, actor_lr, critic_lr) for runs in (joint, recordings.sequential.runs)]
                rows.append(
                    [
                        rate(actor_lr), rate(critic_lr),
                        *(number(x["stopping_episode"].iloc[0], ".0f") for x in both),
                        *(number(x["median_death_episode"].iloc[0], ".0f") for x in both),
                    ]
                )  # fmt: skip
    header = [
        " & & \\multicolumn{2}{c}{stopping episode} & \\multicolumn{2}{c}{median gradient death}",
        "\\cmidrule(lr){3-4}\\cmidrule(l){5-6}",
        "actor lr & critic lr & joint & sequential & joint & sequential",
    ]
    return tabular("@{}ccrrrr@{}", header, rows)


def tables(recordings: Recordings) -> dict[str, str]:
    """All tables of the experiments, by file name."""
    found = {
        "standstill": standstill(recordings),
        "outcomes": outcomes(recordings),
        "sequential": sequential(recordings),
    }
    for preset in PRESETS:
        found[f"comparison_{preset}"] = comparison(recordings, preset)
        found[f"scores_{preset}"] = cell_table(recordings, preset, "score")
        found[f"never_{preset}"] = cell_table(recordings, preset, "never")
    return found


def _cell(runs: pd.DataFrame, what: str) -> str:
    if what == "score":
        return number(runs["normalised_score"].mean())
    return str(int(_never(runs).sum()))


def _never(runs: pd.DataFrame) -> pd.Series:
    """Runs that did not stop; one that diverged was not observed long enough."""
    return runs["stopping_episode"].isna() & (runs["status"] != DIVERGED)


def _single(recordings: Recordings, name: str) -> tuple[str, str]:
    table = recordings.compared["scaled"]
    if name not in table.index:
        return MISSING, MISSING
    row = table.loc[name]
    better = MISSING if name == BASELINE else number(CELLS * row.runs_better_than_baseline / row.paired_runs, ".1f")
    return number(CELLS * row.runs_never_stopping / row.runs, ".1f"), better


def _double(recordings: Recordings, name: str) -> tuple[str, str]:
    study = recordings.doubles.get(name)
    if study is None:
        return MISSING, MISSING
    pairs = pair_runs(study.runs, recordings.baselines["scaled"].runs)
    never = _never(study.runs).mean()
    return number(CELLS * never, ".0f"), number(CELLS * (pairs["difference"] > 0).mean(), ".0f")


def _second_change(recordings: Recordings, name: str) -> str:
    """What the double change changes beside the single one, from the two configurations."""
    study = recordings.doubles.get(name)
    if study is None:
        return MISSING
    defaults = StudyConfig().result_fields()
    two = [_configuration(s) for s in (study, recordings.studies.get((name, "scaled"))) if s is not None]
    one, other = {**defaults, **two[0]}, {**defaults, **two[-1]}
    changed = [key for key in one if one[key] != other[key] and key not in ("episodes", "results_dir")]
    return listed([f"{code(key)} {one[key]}" for key in changed], MISSING)


def _configuration(study: StudyFiles) -> dict[str, Any]:
    return json.loads((study.folder / "study.json").read_text())["configuration"]
