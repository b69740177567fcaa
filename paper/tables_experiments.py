"""The experiments beside the baseline: comparison tables, published outcomes, and sentences that follow by rule."""

from __future__ import annotations

import pandas as pd

from common.analysis.comparison_statistics import BASELINE
from common.config import GRID
from paper.outcomes import Outcome, never_stopping, outcome, second_change, verdict
from paper.tables_data import DERIVATIVE, FAST, FLAT, PRESETS, Recordings, pair, title
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
    for name in (BASELINE, *recordings.recorded_on(preset)):
        row = table.loc[name]
        rows.append(
            [
                title(name), of(row.runs_never_stopping, row.runs), share(row.median_final_saturation),
                share(row.median_final_wrong_side_saturation), of(row.improved_runs, row.runs),
                number(row.untrained_score), number(row.best_score), median_score(row),
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
        for name in (BASELINE, *recordings.recorded_on(preset)):
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
    names = [BASELINE, *recordings.recorded_on(preset)]
    rows: list[list[str] | None] = []
    for actor_lr in GRID:
        for critic_lr in GRID:
            runs = [pair(recordings.studies[name, preset].runs, actor_lr, critic_lr) for name in names]
            texts = [_cell(own, what) for own in runs]
            rows.append([rate(actor_lr), rate(critic_lr), *texts])
        rows.append(None)
    turned = " & ".join(f"\\rotatebox{{60}}{{{title(name)}}}" for name in names)
    return tabular("@{}cc" + "r" * len(names) + "@{}", [f"actor lr & critic lr & {turned}"], rows[:-1])


def outcomes(recordings: Recordings) -> str:
    """Published outcome of each experiment beside the single change and the published double change."""
    rows = []
    for name in (BASELINE, *recordings.experiments):
        there = recordings.outcomes.loc[name] if name in recordings.outcomes.index else None
        found = [single(recordings, name), double(recordings, name)]
        columns = []
        for what, field in (("cells_never_stopping", "never"), ("cells_better_than_baseline", "better")):
            columns.append(MISSING if there is None else number(there[what], ".0f"))
            for one, form in zip(found, (".1f", ".0f"), strict=True):
                columns.append(MISSING if one is None else number(getattr(one, field), form))
        words = [WORDS.get(verdict(there, x)[0], MISSING) if there is not None and x else MISSING for x in found]
        rows.append([title(name), *columns, _second_change(recordings, name), *words])
    header = [
        " & \\multicolumn{3}{c}{pairs that never stop} & \\multicolumn{3}{c}{better than baseline} & second & "
        "\\multicolumn{2}{c}{verdict}",
        "\\cmidrule(lr){2-4}\\cmidrule(lr){5-7}\\cmidrule(l){9-10}",
        "experiment & publ. & single & double & publ. & single & double & change & single & double",
    ]
    return tabular("@{}lrrrrrrlll@{}", header, rows)


def single(recordings: Recordings, name: str) -> Outcome | None:
    """Outcome of the single change on `scaled`, None where it is not recorded."""
    study = recordings.studies.get((name, "scaled"))
    return None if study is None else outcome(name, study.runs, recordings.baselines["scaled"].runs)


def double(recordings: Recordings, name: str) -> Outcome | None:
    """Outcome of the published double change on `scaled`, None where it is not recorded."""
    study = recordings.doubles.get(name)
    return None if study is None else outcome(name, study.runs, recordings.baselines["scaled"].runs)


def agreement(recordings: Recordings, name: str) -> str:
    """Whether the single change on `scaled` agrees with the published outcome: reproduced, partly, not, or open."""
    found = single(recordings, name)
    if found is None:
        return NOT_RECORDED
    if name not in recordings.outcomes.index:
        return "no claim"
    return WORDS.get(verdict(recordings.outcomes.loc[name], found)[0], "no claim")


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
    return str(int(never_stopping(runs).sum()))


def _second_change(recordings: Recordings, name: str) -> str:
    """What the double change changes beside the single one, from the two configurations."""
    study, other = recordings.doubles.get(name), recordings.studies.get((name, "scaled"))
    if study is None or other is None:
        return MISSING
    changed = second_change(study.study.folder, other.study.folder)
    return listed([f"{code(key)} {value}" for key, value in changed.items()], MISSING)
