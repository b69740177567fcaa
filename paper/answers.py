"""Six questions, answered from the recorded studies by rules in the docstrings."""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd

from common.analysis.comparison_statistics import BASELINE, KEY
from paper import load
from paper.load import NotRecorded, Recordings, StudyFiles, fast, is_control, title
from paper.tables.experiments import (
    CLAMPED,
    PARTS_HEADER,
    RECIPE,
    few_seeds,
    over_clamped,
    over_each_control,
    pairs_over_clamped,
    part_rows,
)
from paper.tables.law import memory_rows
from paper.text import listed, markdown, number, of, share

EXACT = "exact_derivative"
EXACTLY_ZERO = 75 * math.log(2)  # |z| from which e^(−2|z|), and so the exact derivative, is zero in float32
AGREES = 0.5  # share of outputs at a bound which the critic wants there, from which a run counts as bang-bang
WRONG = 0.25  # share of saturated compute outputs on the worse bound from which on the agreement is misplaced


def answers(r: Recordings) -> str:
    """Every question with its answer, or with what is not recorded."""
    return "\n\n".join(f"**{question}** {answered(r, answer)}" for question, answer in QUESTIONS.items())


def answered(r: Recordings, answer: Callable[[Recordings], str]) -> str:
    """An answer, or what is not recorded of its data."""
    try:
        return answer(r)
    except NotRecorded as missing:
        return f"Not known yet: {str(missing).replace(f'{r.results.parent}/', '')}."


def underflow(r: Recordings) -> str:
    """The rounding makes the freeze where at most half as many fast agents freeze with the exact derivative.

    It makes the loss of learning where most runs end better than untrained with it.
    """
    studies = {"the baseline": r.need("scaled"), "the exact derivative": r.need("scaled", EXACT)}
    studies |= {f"it and {title(n).partition(', ')[2]}": r.get("scaled", n) for n in r.names("scaled")
                if n.startswith(f"{EXACT}-")}  # fmt: skip
    told, frozen, paid = [], [], []
    for name, study in studies.items():
        agents, improved = fast(study.agents), fast(study.runs)["improved"]
        frozen.append(agents["freeze_episode"].notna().mean())
        paid.append(improved.mean())
        told.append(
            f"with {name} {share(agents['gradient_death_episode'].notna().mean())} of the agents end with a gradient "
            f"of exactly zero, {share(frozen[-1])} freeze, and {of(improved.sum(), len(improved))} runs end better "
            "than untrained"
        )
    base, exact = frozen[:2]
    freeze = "The rounding makes the freeze" if exact <= base / 2 else "They freeze with the exact derivative, too"
    learning = "and the loss of learning" if paid[1] > 0.5 else "and without the rounding these runs do not learn"
    beyond = fast(studies["the exact derivative"].runs)["largest_abs_preactivation"] > EXACTLY_ZERO
    return (
        f"`scaled`, actor rates from 0.01: {'; '.join(told)}. {freeze}, {learning}. In {of(beyond.sum(), len(beyond))} "
        f"runs with the exact derivative{few_seeds(studies['the exact derivative'])} abs(z) passes "
        f"{number(EXACTLY_ZERO, '.0f')}, where float32 has nothing left of it either."
    )


def recursion(r: Recordings) -> str:
    """Predicted lags beside measured ones."""
    header = ["β₁", "actor rate", "seeds", "leading order", "simulated", "measured", "agents frozen"]
    said = "Lag of freeze behind death on `scaled`, median and 5% to 95%, of the agents that froze before the end:"
    return f"{said}\n\n{markdown(header, memory_rows(r))}"


def single_remedies(r: Recordings) -> str:
    """Prevents the first death: no run died of a flat tanh. The freeze: all runs go on. Improves: most end better."""
    parts = []
    for preset in load.PRESETS:
        there = {n: r.get(preset, n) for n in r.names(preset) if not is_control(n) and n.split("-")[0] != RECIPE}
        there.pop(BASELINE, None)
        if not there:
            continue
        marks: dict[tuple[str, str], Callable[[StudyFiles], bool]] = {
            (
                "no run died the first death (a tanh without slope) with",
                "with every change a run died the first death",
            ): lambda s: s.has_tanh and not s.ends["kind"].isin((load.DERIVATIVE, load.BOTH)).any(),
            ("no run stopped with", "with every change a run stopped"): lambda s: bool(s.runs["never"].all()),
            ("most runs end better than untrained with", "no change makes most runs end better than untrained"): (
                lambda s: s.runs["improved"].mean() > 0.5
            ),
        }
        told = []
        for (what, otherwise), holds in marks.items():
            names = [title(name) for name, study in there.items() if holds(study)]
            told.append(f"{what} {listed(names)}" if names else otherwise)
        parts.append(f"On `{preset}`, of {len(there)} recorded changes: {'; '.join(told)}.")
    if not parts:
        raise NotRecorded(f"{r.results}: no single change is recorded")
    return " ".join(parts)


def only_smaller_rates(r: Recordings) -> str:
    """The recipe beside the clamped run that stands for each pair of rates, by preset."""
    tables = {preset: over_clamped(r, preset) for preset in load.PRESETS}
    parts = [
        f"on `{preset}` above it in {pairs_over_clamped(above)} pairs, by {over_each_control(above)}"
        for preset, above in tables.items()
        if above is not None
    ]
    if not parts:
        raise NotRecorded(f"{r.results}: {RECIPE} and {CLAMPED} are not recorded on the same preset")
    return (
        "The recipe's mean score beside that of small rates without its limit, each pair held against the one at which "
        f"its rates are cut: {'; '.join(parts)}."
    )


def parts_of_the_recipe(r: Recordings) -> str:
    """Each recorded recipe without one of its parts beside the recipe's runs of the same seeds and pairs."""
    return f"Beside the recipe's runs of the same seeds and pairs:\n\n{markdown(PARTS_HEADER, part_rows(r))}"


def agreed_bounds(r: Recordings) -> str:
    """Share of saturated compute outputs on the worse bound, at the end, in runs where the critic agrees."""
    parts = []
    for preset in load.PRESETS:
        tables = (r.get(preset, n).saturation for n in r.names(preset))
        last = (table.sort_values("episode").groupby(KEY).tail(1) for table in tables)
        wrong = [rows.loc[rows["bang_bang_share"] >= AGREES, "wrong_side_saturation"] for rows in last]
        wrong = pd.concat([pd.Series(dtype=float), *(found for found in wrong if len(found))])
        if len(wrong):
            parts.append(
                f"on `{preset}` {of((wrong > WRONG).sum(), len(wrong))} such runs have more than {share(WRONG)} of "
                f"their saturated compute outputs on the worse bound (median: {share(wrong.median())})"
            )
    if not parts:
        raise NotRecorded(f"{r.results}: no run with a bang-bang share of {AGREES} or more is recorded")
    return f"Runs that end with at least half of their outputs at a bound where the critic wants them: {listed(parts)}."


QUESTIONS = {
    "Underflow or optimiser?": underflow,
    "Does the freeze follow Adam's recursion for other β₁?": recursion,
    "Which single remedy prevents the first death, which the freeze, which improves returns?": single_remedies,
    "Is the recipe only a smaller learning rate?": only_smaller_rates,
    "Which part of the recipe is needed where?": parts_of_the_recipe,
    "Is a bound that the critic agrees with the right one?": agreed_bounds,
}
