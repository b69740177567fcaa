"""Tables of the baseline: returns, what was zero at death, and every pair of rates beside the published one."""

from __future__ import annotations

import pandas as pd

from common.recording import schema
from common.recording.results import stopping_cell
from paper import load
from paper.load import Recordings, fast, pair
from paper.text import MISSING, number, rate, significant, span, tabular


def references(r: Recordings) -> str:
    """Mean returns of the reference policies, and the learners beside them."""
    rows = []
    for preset, study in r.need_baselines().items():
        runs = study.runs
        means = (study.references[name].mean() for name in schema.POLICIES)
        learned = (runs["first_evaluation_return"].median(), *runs["final_evaluation_return"].agg(["median", "max"]))
        rows.append([f"`{preset}`", *(number(value, ",.0f") for value in (*means, *learned))])
    header = [
        r" & \multicolumn{4}{c}{reference policies} & \multicolumn{3}{c}{learners}",
        r"\cmidrule(lr){2-5}\cmidrule(l){6-8}",
        "preset & random & best constant & local oracle & greedy offload & untrained & median run & best run",
    ]
    return tabular("lrrrrrrr", header, rows)


def mechanism(r: Recordings) -> str:
    """What was zero when the last gradient of a run died, by preset, for slow and fast actor rates."""
    rows: list[list[str] | None] = []
    for preset, study in r.need_baselines().items():
        for label, is_fast in (("≤ 0.001", False), ("≥ 0.01", True)):
            own = fast(study.ends, is_fast)
            dead = own[own["kind"].notna()]
            counts = [(dead["kind"] == kind).sum() for kind in (load.DERIVATIVE, load.FLAT)]
            zero = (dead[column] if len(dead) else () for column in ("death_derivative", "death_dq_da"))
            rows.append([
                f"`{preset}`", label, str(len(own)), str(len(own) - len(dead)), *map(str, counts),
                str(len(dead) - sum(counts)), *(span(values, 2) for values in zero),
            ])  # fmt: skip
        rows.append(None)
    header = [
        r" & & & & \multicolumn{3}{c}{gradient died, zero was} & \multicolumn{2}{c}{then, range of runs}",
        r"\cmidrule(lr){5-7}\cmidrule(l){8-9}",
        r"preset & actor lr & runs & alive & \dtanh{} & \dqda{} & other & mean \dtanh{} & mean $|\dqda{}|$",
    ]
    return tabular("lcrrrrrrr", header, rows[:-1])


def cells(r: Recordings) -> str:
    """Every pair of rates as a table."""
    rows: list[list[str] | None] = []
    for row in cell_rows(r):
        rows += [None] * bool(rows and rows[-1][0] != row[0]) + [row]
    names, count = " & ".join(rf"\texttt{{{preset}}}" for preset in r.baselines), len(r.baselines)
    header = [
        r"\multicolumn{2}{c}{learning rate} & \multicolumn{2}{c}{published stop} & "
        rf"\multicolumn{{{count}}}{{c}}{{stop here (seeds that never do)}} & largest & "
        rf"\multicolumn{{{count}}}{{c}}{{mean score}}",
        r"\cmidrule(lr){1-2}\cmidrule(lr){3-4}"
        rf"\cmidrule(lr){{5-{4 + count}}}\cmidrule(l){{{6 + count}-{5 + 2 * count}}}",
        f"actor & critic & unseeded & seeded & {names} & $|z|$ & {names}",
    ]
    return tabular("cc" + "r" * (3 + 2 * count), header, rows)


def cell_rows(r: Recordings) -> list[list[str]]:
    """Per pair of rates: both published stops, the stops here by preset, the median largest |z|, mean scores."""
    theirs, studies = [r.published_stops(source) for source in (load.UNSEEDED, load.SEEDED)], r.need_baselines()
    rows = []
    for (actor_lr, critic_lr), everywhere in r.runs.groupby(["actor_lr", "critic_lr"]):
        ours = [pair(study.runs, actor_lr, critic_lr) for study in studies.values()]
        rows.append([
            rate(actor_lr), rate(critic_lr), *(published_stop(pair(x, actor_lr, critic_lr)) for x in theirs),
            *map(stops_text, ours), significant(everywhere["largest_abs_preactivation"].median()),
            *(number(runs["normalised_score"].mean()) for runs in ours),
        ])  # fmt: skip
    return rows


def stops_text(runs: pd.DataFrame) -> str:
    """Range of the stopping episodes of one pair over its seeds, and how many never stopped."""
    cell = stopping_cell(runs)
    if cell.first is None:
        return "never" if cell.never else MISSING
    return span(runs["stopping_episode"]) + (f" ({cell.never})" if cell.never else "")


def published_stop(rows: pd.DataFrame) -> str:
    """A published stopping episode."""
    stops = rows["stopping_episode"]
    return MISSING if rows.empty else "never" if stops.isna().all() else span(stops)
