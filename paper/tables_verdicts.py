"""The claims of the published study (paper/data/published_claims.csv) and what the data say of each, by rule.

A verdict is `reproduced`, `partly` or `not`, or `not recorded` while the study that decides it is missing. The rules
are in the functions' docstrings; counts of pairs as `reproduces` says, ratios to within FACTOR.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pandas as pd

from common.analysis.comparison_statistics import BASELINE
from common.analysis.statistics import reproduces
from common.config import GRID
from paper.outcomes import CELLS, FACTOR, TOO_SLOW
from paper.tables_data import FAST, SEEDED, UNSEEDED, Recordings
from paper.tables_experiments import HIGHER, agreement, difference, effect, single
from paper.tables_experiments_numbers import stopping_shifts
from paper.tables_text import NOT_RECORDED, Numbers, camel, code, number, of, power, power_span, share, span, tabular

REPRODUCED, PARTLY, NOT = "reproduced", "partly", "not"
IN_RANGE = 0.9  # share of the ratios that must lie in the published range


@dataclass(frozen=True)
class Verdict:
    """One line of the table; `key` names its macro."""

    key: str
    claim: str
    published: str
    here: str
    verdict: str


def freeze(r: Recordings) -> Verdict:
    """Reproduced: every fast run on `scaled` stops, their median within both published ranges. Partly: most stop."""
    runs = _fast(r.baselines["scaled"].runs)
    stops = runs["stopping_episode"]
    ranges = [_fast(r.published_stops(source))["stopping_episode"] for source in (UNSEEDED, SEEDED)]
    inside = all(theirs.min() <= stops.median() <= theirs.max() for theirs in ranges)
    word = REPRODUCED if stops.notna().all() and inside else PARTLY if stops.notna().mean() > 0.5 else NOT
    return Verdict(
        "Freeze", "actor learning rates from \\defn{0.01} freeze all actors early",
        f"episodes {span(ranges[0])} (unseeded), {span(ranges[1])} (seeded)",
        f"{of(stops.notna().sum(), len(runs))} runs, episodes {span(stops)}", word,
    )  # fmt: skip


def heights(r: Recordings, seeded: bool) -> Verdict:
    """Reproduced: the largest |z| grows with the rate, each median within FACTOR of the published. Partly: it grows."""
    ours = r.baselines["scaled"].runs.groupby("actor_lr")["largest_abs_preactivation"].median()
    if seeded:
        rows = r.published_stops(SEEDED).set_index("actor_lr")
        theirs = rows[["last_min_preactivation", "last_max_preactivation"]].abs().max(axis=1).groupby(level=0).max()
    else:
        theirs = pd.Series({lr: r.claims.loc[f"preactivation_unseeded_{lr:g}", "high"] for lr in GRID})
    near = ((ours / theirs).between(1 / FACTOR, FACTOR)).all()
    word = NOT if not ours.is_monotonic_increasing else REPRODUCED if near else PARTLY
    return Verdict(
        f"Heights{'Seeded' if seeded else 'Unseeded'}",
        f"pre-activations explode with the actor learning rate ({'seeded' if seeded else 'unseeded'} run)",
        ", ".join(power(theirs[lr], 0) for lr in GRID), ", ".join(power(ours[lr], 0) for lr in GRID) + " (medians)",
        word,
    )  # fmt: skip


def ratio(r: Recordings) -> Verdict:
    """Reproduced: IN_RANGE of the non-zero ratios on `scaled` are in the published range. Partly: more than half."""
    low, high = r.claims.loc["gradient_ratio", ["low", "high"]]
    found = r.baselines["scaled"].norms["gradient_ratio"]
    inside = found[found > 0].between(low, high).mean()
    word = REPRODUCED if inside >= IN_RANGE else PARTLY if inside > 0.5 else NOT
    return Verdict(
        "Ratio", "actor gradients are far below the critic's: their ratio", power_span((low, high), 0),
        f"{share(inside)} of the ratios that are not zero are in that range", word,
    )  # fmt: skip


def run_on(r: Recordings) -> Verdict:
    """Reproduced: the published count of pairs that run on is inside the interval of ours."""
    row, there = r.compared["scaled"].loc[BASELINE], r.claims.loc["pairs_learning_later", "low"]
    here = CELLS * row.runs_never_stopping / row.runs
    word = _near(here, there)
    return Verdict(
        "RunOn", f"some of the {CELLS} pairs run to the last episode", of(int(there), CELLS),
        f"{number(here, '.1f')} of {CELLS} (mean over seeds)", word,
    )  # fmt: skip


def run_on_learn(r: Recordings) -> Verdict:
    """Reproduced: most runs that never stop improve, on all presets. Partly: a quarter of them."""
    runs = r.runs[r.runs["stopping_episode"].isna()]
    gained = runs["improved"].mean()
    word = REPRODUCED if gained > 0.5 else PARTLY if gained >= 0.25 else NOT
    return Verdict(
        "RunOnLearn", "the pairs that run on are those that learn", "implied",
        f"{of(int(runs['improved'].sum()), len(runs))} such runs beat their untrained policy (three presets)", word,
    )  # fmt: skip


def few_learn(r: Recordings) -> Verdict:
    """Reproduced: as many pairs improve on `thesis`, by interval over seeds, as far as a count can say."""
    row, there = r.compared["thesis"].loc[BASELINE], r.claims.loc["pairs_learning_thesis", "low"]
    return Verdict(
        "FewLearn", f"in the original setting few of the {CELLS} pairs learn", f"{of(int(there), CELLS)} over 10 runs",
        f"{of(row.improved_cells, CELLS)} ({code('thesis')})", _near(row.improved_cells, there),
    )  # fmt: skip


def large_actor(r: Recordings) -> Verdict:
    """Reproduced: it stops later, by at most FACTOR times the published, and scores no better. Partly: one of both."""
    claim, there = "a larger actor does not help, it stops later", r.claims.loc["large_actor_later"]
    published = f"{there['low']:.0f} to {there['high']:.0f} episodes later"
    study = r.studies.get(("large_actor", "scaled"))
    if study is None:
        return Verdict("LargeActor", claim, published, NOT_RECORDED, NOT_RECORDED)
    shift = stopping_shifts(r).median()
    row = r.compared["scaled"].loc["large_actor"]
    agree = int(0 < shift <= FACTOR * there["high"]) + int(effect(row) != HIGHER)
    here = f"median {number(shift, '+.1f')} episodes; score {difference(row)}"
    return Verdict("LargeActor", claim, published, here, (NOT, PARTLY, REPRODUCED)[agree])


def linear(r: Recordings) -> Verdict:
    """Reproduced: the largest |z| is above the baseline's by the published ratio, to within FACTOR. Partly: above."""
    claim, there = "linear hidden layers make the explosion worse", r.claims.loc["linear_preactivation", "low"]
    found = single(r, "linear_activation")
    if found is None:
        return Verdict("Linear", claim, f"{there:.0f} times", NOT_RECORDED, NOT_RECORDED)
    here = found.largest
    word = REPRODUCED if there / FACTOR <= here <= there * FACTOR else PARTLY if here > 1 else NOT
    return Verdict("Linear", claim, f"{there:.0f} times", f"{number(here, '.1f')} times (mean over seeds)", word)


def outcome(r: Recordings, name: str, claim: str) -> Verdict:
    """As the experiment's page says it (paper/outcomes.py)."""
    theirs, here = r.outcomes.loc[name], single(r, name)
    parts = [(theirs["cells_never_stopping"], "never stop"), (theirs["cells_better_than_baseline"], "better")]
    published = ", ".join(f"{value:.0f} of {CELLS} {what}" for value, what in parts if pd.notna(value))
    if here is None:
        return Verdict(camel(name), claim, published, NOT_RECORDED, NOT_RECORDED)
    text = f"{number(here.never, '.1f')} of {CELLS} never stop, {number(here.better, '.1f')} better ({code('scaled')})"
    return Verdict(camel(name), claim, published, text, agreement(r, name))


def too_slow(r: Recordings) -> Verdict:
    """Reproduced: full normalisation costs more than TOO_SLOW times the baseline."""
    claim, found = "full normalisation is too slow to run", single(r, "fullnorm")
    if found is None or pd.isna(found.cost):
        return Verdict("Fullnorm", claim, "cancelled", NOT_RECORDED, NOT_RECORDED)
    text = f"{number(found.cost)} times the baseline's time per episode"
    return Verdict("Fullnorm", claim, "cancelled", text, agreement(r, "fullnorm"))


def all_verdicts(r: Recordings) -> list[Verdict]:
    """Every claim, in the order of the table."""
    return [
        freeze(r),
        heights(r, seeded=False),
        heights(r, seeded=True),
        ratio(r),
        run_on(r),
        run_on_learn(r),
        few_learn(r),
        large_actor(r),
        linear(r),
        outcome(r, "layernorm", "LayerNorm before tanh keeps most pairs from stopping, and half do better"),
        outcome(r, "input_norm", "input normalisation never stops, but seldom does better"),
        outcome(r, "adaptive_scaling", "adaptive scaling never stops and mostly does better"),
        outcome(r, "gradient_clipping", "clipping keeps a few more pairs from stopping and seldom helps"),
        too_slow(r),
    ]


def table(found: list[Verdict]) -> str:
    """Claims with the published figure, the one here, and the verdict."""
    rows = [[v.claim, v.published, v.here, f"\\textbf{{{v.verdict}}}"] for v in found]
    columns = "@{}" + "".join(f">{{\\raggedright\\arraybackslash}}p{{{w}\\linewidth}}" for w in (0.3, 0.22, 0.27, 0.12))
    return tabular(columns + "@{}", ["claim & published & here & verdict"], rows)


def numbers(found: list[Verdict], macros: Numbers) -> None:
    """Each verdict as a macro, and how many of each there are."""
    macros.heading("verdicts by rule (paper/tables_verdicts.py)")
    for v in found:
        macros.add(f"Claim{v.key}", v.verdict)
        macros.add(f"Here{v.key}", v.here)
    counts = Counter(v.verdict for v in found)
    macros.add("ClaimsAll", len(found))
    for word, name in ((REPRODUCED, "Reproduced"), (PARTLY, "Partly"), (NOT, "Not")):
        macros.add(f"Claims{name}", counts[word])
    macros.add("ClaimsOpen", len(found) - counts[REPRODUCED] - counts[PARTLY] - counts[NOT])
    macros.add("VerdictFactor", f"{FACTOR:g}")
    macros.add("VerdictSlow", f"{TOO_SLOW:g}")
    macros.add("VerdictInRange", share(IN_RANGE))


def _fast(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["actor_lr"] >= FAST]


def _near(here: float, there: float) -> str:
    return REPRODUCED if reproduces(here, there, CELLS) else NOT
