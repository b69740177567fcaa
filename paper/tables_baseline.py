"""Tables of the baseline: where it stops, how, what it scores, and the published figures beside it."""

from __future__ import annotations

import pandas as pd

from common.config import GRID
from common.recording.results import stopping_cell
from paper.tables_data import (
    DERIVATIVE,
    FAST,
    FLAT,
    PRESETS,
    SEEDED,
    UNSEEDED,
    Recordings,
    StudyFiles,
    pair,
)
from paper.tables_text import (
    code,
    number,
    of,
    power,
    power_span,
    rate,
    share,
    span,
    tabular,
)

POLICIES = ("random", "constant", "local_oracle", "greedy_offload")


def stops_text(runs: pd.DataFrame) -> str:
    """Range of the stopping episodes of one pair over its seeds, and how many never stopped."""
    cell = stopping_cell(runs)
    if cell.first is None:
        return "never"
    return span(runs["stopping_episode"]) + (f" ({cell.never} never)" if cell.never else "")


def published_stop(rows: pd.DataFrame, actor_lr: float, critic_lr: float) -> str:
    """A published stopping episode."""
    cell = pair(rows, actor_lr, critic_lr)
    if cell.empty:
        return "--"
    value = cell["stopping_episode"].iloc[0]
    return "never" if pd.isna(value) else number(value, ".0f")


def stopping(recordings: Recordings) -> str:
    """Stopping episode and largest pre-activation of every pair, the published ones beside them."""
    theirs = [recordings.published_stops(source) for source in (UNSEEDED, SEEDED)]
    rows: list[list[str] | None] = []
    for actor_lr in GRID:
        for critic_lr in GRID:
            seeded = pair(theirs[1], actor_lr, critic_lr)
            height = seeded[["last_min_preactivation", "last_max_preactivation"]].abs().max(axis=1).max()
            ours = {p: pair(s.runs, actor_lr, critic_lr) for p, s in recordings.baselines.items()}
            rows.append(
                [
                    rate(actor_lr), rate(critic_lr), *(published_stop(rows_, actor_lr, critic_lr) for rows_ in theirs),
                    *(stops_text(runs) for runs in ours.values()),
                    power(height), power(ours["scaled"]["largest_abs_preactivation"].median()),
                ]
            )  # fmt: skip
        rows.append(None)
    header = [
        "\\multicolumn{2}{c}{learning rate} & \\multicolumn{2}{c}{published stop}"
        " & \\multicolumn{3}{c}{stop here, range of the seeds} & \\multicolumn{2}{c}{largest $|z|$}",
        "\\cmidrule(lr){1-2}\\cmidrule(lr){3-4}\\cmidrule(lr){5-7}\\cmidrule(l){8-9}",
        "actor & critic & unseeded & seeded & "
        + " & ".join(code(p) for p in PRESETS)
        + " & published & "
        + code("scaled"),
    ]
    return tabular("@{}ccrrrrrrr@{}", header, rows[:-1])


def presets(recordings: Recordings) -> str:
    """What happened on each preset over all pairs and seeds: a row per figure, a column per preset."""
    columns = []
    for study in recordings.baselines.values():
        runs, fast = study.runs, study.runs[study.runs["actor_lr"] >= FAST]
        early = study.agents[study.agents["actor_lr"] >= FAST]
        best = runs.loc[runs["normalised_score"].idxmax()]
        columns.append(
            [
                of(fast["stopping_episode"].notna().sum(), len(fast)),
                span(fast["stopping_episode"]),
                of(runs["stopping_episode"].isna().sum(), len(runs)),
                number(early["gradient_death_episode"].median(), ".0f"),
                number(early["lag"].median(), ".0f"),
                share(runs["final_saturation_ratio"].median()),
                share(runs["final_wrong_side_saturation"].median()),
                number(study.untrained.median()),
                number(runs["normalised_score"].median()),
                number(study.constant_scores.mean()),
                of(int(study.improved.sum()), len(runs)),
                of(study.above_constant, len(runs)),
                f"{number(best['normalised_score'])} ({rate(best['actor_lr'])}, {rate(best['critic_lr'])})",
            ]
        )
    names = (
        "runs stopped, actor lr $\\geq$ \\defn{0.01}",
        "\\quad stopping episode, range",
        "runs that never stop, whole grid",
        "gradient death, median episode (actor lr $\\geq$ \\defn{0.01})",
        "\\quad freeze $-$ death, median episodes",
        "final saturation, median run",
        "\\quad compute outputs on the wrong side",
        "score untrained, median",
        "score at the end, median run",
        "\\quad best constant policy",
        "runs better than untrained",
        "runs better than the best constant",
        "best run (its actor and critic lr)",
    )
    rows = [[name, *cells] for name, *cells in zip(names, *columns, strict=True)]
    return tabular("@{}lrrr@{}", [" & " + " & ".join(code(p) for p in PRESETS)], rows)


def death_and_freeze(recordings: Recordings) -> str:
    """When gradients died and weights froze, over agents, by preset and actor learning rate."""
    rows: list[list[str] | None] = []
    for preset, study in recordings.baselines.items():
        for actor_lr in GRID:
            own = study.agents[study.agents["actor_lr"] == actor_lr]
            death, freeze, lag = own["gradient_death_episode"], own["freeze_episode"], own["lag"]
            rows.append(
                [
                    code(preset), rate(actor_lr), share(death.notna().mean()), share((death < 50).mean()),
                    share(freeze.notna().mean()), *(number(x.median(), ".0f") for x in (death, freeze, lag)),
                    f"{number(lag.quantile(0.05), '.0f')} to {number(lag.quantile(0.95), '.0f')}",
                ]
            )  # fmt: skip
        rows.append(None)
    header = [
        " & & \\multicolumn{3}{c}{share of agents} & \\multicolumn{4}{c}{episode (of those it happened to)}",
        "\\cmidrule(lr){3-5}\\cmidrule(l){6-9}",
        "preset & actor lr & died & before \\defn{50} & froze & death & freeze & lag & lag, 5\\% to 95\\%",
    ]
    return tabular("@{}lcrrrrrrr@{}", header, rows[:-1])


def mechanism(recordings: Recordings) -> str:
    """What was zero when the last gradient of a run died, by preset and actor learning rate."""
    rows: list[list[str] | None] = []
    for preset, study in recordings.baselines.items():
        for label, own in _halves(study.ends):
            dead = own[own["kind"].notna()]
            other = ~dead["kind"].isin([DERIVATIVE, FLAT])
            rows.append(
                [
                    code(preset), label, str(len(own)), str(int(own["kind"].isna().sum())),
                    *(str(int((dead["kind"] == kind).sum())) for kind in (DERIVATIVE, FLAT)), str(int(other.sum())),
                    power_span(dead["death_derivative"]) if len(dead) else "--",
                    power(dead["death_dq_da"].median()) if len(dead) else "--",
                ]
            )  # fmt: skip
        rows.append(None)
    header = [
        " & & & & \\multicolumn{3}{c}{gradient died, zero was} & \\multicolumn{2}{c}{then}",
        "\\cmidrule(lr){5-7}\\cmidrule(l){8-9}",
        "preset & actor lr & runs & alive & $1-\\tanh^2 z$ & $\\partial Q/\\partial a$ & both"
        " & mean $1-\\tanh^2 z$ & median $|\\partial Q/\\partial a|$",
    ]
    return tabular("@{}lcrrrrrrr@{}", header, rows[:-1])


def ratio(recordings: Recordings) -> str:
    """Actor over critic gradient norm at the first training step, by critic rate, and while it is not zero."""
    rows: list[list[str] | None] = []
    low, high = recordings.claims.loc["gradient_ratio", ["low", "high"]]
    for preset, study in recordings.baselines.items():
        for critic_lr in GRID:
            own = study.norms[study.norms["critic_lr"] == critic_lr]
            first = own[own["episode"] == own["episode"].min()]
            alive = own.loc[own["gradient_ratio"] > 0, "gradient_ratio"]
            rows.append(
                [
                    code(preset), rate(critic_lr), power(first["actor_gradient_norm"].median()),
                    power(first["critic_gradient_norm"].median()), power(first["gradient_ratio"].median()),
                    f"{power(alive.quantile(0.05))} to {power(alive.quantile(0.95))}",
                    share(alive.between(low, high).mean()),
                ]
            )  # fmt: skip
        rows.append(None)
    header = [
        " & & \\multicolumn{3}{c}{first training step, median} & \\multicolumn{2}{c}{while not zero}",
        "\\cmidrule(lr){3-5}\\cmidrule(l){6-7}",
        "preset & critic lr & actor norm & critic norm & ratio & ratio, 5\\% to 95\\% & as published",
    ]
    return tabular("@{}lcrrrrr@{}", header, rows[:-1])


def references(recordings: Recordings) -> str:
    """Mean returns of the reference policies, and the learners beside them."""
    rows = []
    for preset, study in recordings.baselines.items():
        runs = study.runs
        means = (study.references[name].mean() for name in POLICIES)
        learned = (runs["first_evaluation_return"].median(), *runs["final_evaluation_return"].agg(["median", "max"]))
        rows.append([code(preset), *(number(value, ",.0f") for value in (*means, *learned))])
    header = [
        " & \\multicolumn{4}{c}{reference policies} & \\multicolumn{3}{c}{learners}",
        "\\cmidrule(lr){2-5}\\cmidrule(l){6-8}",
        "preset & random & best constant & local oracle & greedy offload & untrained & median run & best run",
    ]
    return tabular("@{}lrrrrrrr@{}", header, rows)


def cells(study: StudyFiles) -> str:
    """Every learning-rate pair of one preset: range over seeds of what runs.csv says."""
    rows: list[list[str] | None] = []
    for actor_lr in GRID:
        for critic_lr in GRID:
            own = pair(study.runs, actor_lr, critic_lr)
            gain = own["final_evaluation_return"] > own["first_evaluation_return"]
            rows.append(
                [
                    rate(actor_lr), rate(critic_lr), stops_text(own), span(own["median_death_episode"]),
                    power(own["largest_abs_preactivation"].median()), span(own["final_saturation_ratio"], ".0%"),
                    span(own["final_wrong_side_saturation"], ".0%"), span(own["normalised_score"], ".2f"),
                    of(int(gain.sum()), len(own)),
                ]
            )  # fmt: skip
        rows.append(None)
    header = [
        "actor lr & critic lr & stop & death & largest $|z|$ & saturation & wrong side & score & improved",
    ]
    return tabular("@{}ccrrrrrrr@{}", header, rows[:-1])


def tables(recordings: Recordings) -> dict[str, str]:
    """All tables of the baseline, by file name."""
    found = {
        "stopping": stopping(recordings),
        "presets": presets(recordings),
        "death": death_and_freeze(recordings),
        "mechanism": mechanism(recordings),
        "ratio": ratio(recordings),
        "references": references(recordings),
    }
    return found | {f"cells_{preset}": cells(study) for preset, study in recordings.baselines.items()}


def _halves(ends: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Runs below and from the actor learning rate that is said to freeze."""
    slow = ends["actor_lr"] < FAST
    return [("$\\leq$ \\defn{0.001}", ends[slow]), ("$\\geq$ \\defn{0.01}", ends[~slow])]
