"""From measured updates to one sentence: what is wrong with an actor, by which numbers, and what to try first.

`diagnose` returns the first verdict of VERDICTS that applies; docs/monitor.md says why the thresholds are as they are.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, takewhile
from statistics import fmean, median

SCALARS = (
    "saturation_ratio",
    "stuck_share",
    "bang_bang_share",
    "tanh_derivative",
    "zero_derivative_share",
    "z_abs_median",
    "z_abs_max",
    "z_range",
    "dq_da_abs_mean",
    "dq_da_sign_coherence",
    "actor_gradient_norm",
    "actor_step_norm",
    "critic_gradient_norm",
    "critic_step_norm",
    "z_step_rms",
)

ENOUGH = 3  # measured updates before anything is said
RECENT = 5  # the last measured updates that the evidence is averaged over
STILL = 2  # measured updates in a row without any step: frozen
SHRINKING = 0.95  # the last step of a coast is below this share of its first; a limited or rounded step stays as it is
NO_SLOPE = 1e-3  # mean 1 − tanh² below this: the typical |z| is above 4.1
NO_SLOPE_SHARE = 0.95  # of outputs with 1 − tanh² exactly 0: a mean above NO_SLOPE is that of a few samples only
CRITIC_AGREES = 0.75  # bang-bang share from which on a policy without slope is where the critic wants it
FLAT = 1e-8  # |∂Q/∂a| below Adam's eps: what comes through moves no weight
FLAT_SHARE = 1e-4  # of the highest median |∂Q/∂a| over RECENT in a row: the critic had an opinion and lost it
MOSTLY = 0.5  # bang-bang share from which on a policy with slope counts as bang-bang
LARGE_Z = 4.0  # median |z| from which on growth is an explosion: half of the outputs have 1 − tanh² < 0.0014
CONSTANT = 1e-5  # z that varies by less over the states of a batch, relative to |z| above 1, is one number and rounding
GROWTH = 2.0  # of the median |z| within the last RECENT measured updates


@dataclass(frozen=True)
class Diagnosis:
    """A verdict (docs/monitor.md has the table), one sentence for people, the numbers it rests on, what to try first.

    `evidence` has four numbers by name, means of recent measured updates; with `not_enough_data` how many there are.
    """

    verdict: str
    sentence: str
    evidence: dict[str, float]
    advice: tuple[str, ...]


History = Sequence[dict[str, float]]

NORMALISE = "normalise the observations (VecNormalize, NormalizeObservation or a running mean and variance)"
LIMIT = (
    "limit the steps: limit_steps(actor_optimizer, 0.001) and limit_steps(critic_optimizer, 0.01), for SAC the entropy "
    "coefficient's, too"
)
SLOWER = "lower the actor's learning rate by 10"
AGAIN = "start again from new weights (no gradient moves these any more)"
COMPARE = (
    "compare the return with that of the best constant action (docs/monitor.md has the code): where yours is better, "
    "nothing is wrong"
)
SLOWER_CRITIC = "lower the critic's learning rate by 10"


def diagnose(history: History) -> Diagnosis:
    """Return the first verdict that applies to the measured updates, oldest first, of one training."""
    for applies, make in VERDICTS.values():
        if applies(history):
            return make(history)
    return _healthy(history)


def diagnose_each(histories: Sequence[History]) -> tuple[Diagnosis, History]:
    """The first verdict that applies to any of several actors, each judged by itself, and that actor's history.

    The sentence says how many actors it holds for; the evidence is of the first of these. A verdict needs enough data
    of one actor only.
    """
    found = [diagnose(history) for history in histories]
    known = [one for one in found if one.verdict != "not_enough_data"] or found
    worst = min((one.verdict for one in known), key=[*VERDICTS, "healthy"].index)
    places = [place for place, one in enumerate(found) if one.verdict == worst]
    first = found[places[0]]
    if len(found) > 1 and worst != "healthy":
        which = "all" if len(places) == len(found) else ", ".join(map(str, places))
        sentence = f"{len(places)} of {len(found)} actors ({which}), the first of them: {first.sentence}"
        first = replace(first, sentence=sentence)
    return first, histories[places[0]]


def report(history: History, found: Diagnosis | None = None, judged: History | None = None) -> str:
    """Verdict, sentence, evidence, advice and the first and latest scalars as lines of text.

    `found` is the verdict where it is not that of this history, and `judged` the history that it is of.
    """
    found, judged = found or diagnose(history), judged or history
    lines = [f"{found.verdict}: {found.sentence}"]
    if len(history) >= ENOUGH:
        rested_on = (found.verdict in ("frozen", "coasting") and _dead(judged)) or judged
        lines.append(f"  mean of the last {min(RECENT, len(rested_on))} measured updates:")
    lines += [f"  {name} {_number(value)}" for name, value in found.evidence.items()]
    lines += [f"  {place}. {what}" for place, what in enumerate(found.advice, 1)]
    if history:
        first, last = history[0], history[-1]
        lines.append(f"{'':<24}{'first':>12}{'latest':>12}")
        lines.append(f"{'update':<24}{first['update']:>12}{last['update']:>12}")
        lines += [f"{name:<24}{_number(first[name]):>12}{_number(last[name]):>12}" for name in SCALARS]
    return "\n".join(lines)


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3g}"


def _recent(history: History, name: str) -> float:
    """Mean over the last measured updates; NaN where none has it."""
    values = [row[name] for row in history[-RECENT:] if not math.isnan(row[name])]
    return fmean(values) if values else math.nan


def _evidence(history: History, *names: str) -> dict[str, float]:
    return {name: _recent(history, name) for name in names}


def _not_enough_data(history: History) -> bool:
    return len(history) < ENOUGH or math.isnan(_recent(history, "saturation_ratio"))


def _make_not_enough_data(history: History) -> Diagnosis:
    if len(history) >= ENOUGH:
        sentence = "The last measured updates did not show the actor's outputs: its pass or its tanh was not found."
        advice = "are these updates of another kind (imitation, say), or made through another network than actor=?"
    elif history:
        sentence = f"Only {len(history)} of the {ENOUGH} measured updates that a verdict needs were seen."
        advice = "train on, or measure more often with a smaller every="
    else:
        sentence = "No optimiser step on this actor's weights was seen."
        advice = (
            "is actor= the trained network (no copy or target), is actor_optimizer= the one that steps it, has "
            "learning begun?"
        )
    return Diagnosis("not_enough_data", sentence, {"measured_updates": len(history)}, (advice,))


def _frozen(history: History) -> bool:
    return all(row["actor_step_norm"] == 0 for row in history[-STILL:])


def _dead(history: History) -> History:
    """The last measured updates whose gradient was exactly 0, oldest first."""
    return [*takewhile(lambda row: row["actor_gradient_norm"] == 0, reversed(history))][::-1]


def _make_frozen(history: History) -> Diagnosis:
    dead = _dead(history)
    where, advice = _lost(history, dead or history)
    if dead:
        cause = f"its gradient is exactly 0: {where}"
    elif advice is not _UNREACHED:
        cause = f"its gradient is next to nothing: {where}"
    else:
        cause = "although its gradient is not 0: the steps are below rounding"
        advice = ("look at the actor's learning rate: is it 0, or too small?",)
    ever = any(row["actor_step_norm"] != 0 for row in history)
    still = "do not move any more" if ever else "did not move in any measured update"
    return Diagnosis(
        "frozen",
        f"The actor's weights {still}, {cause}.",
        _evidence(dead or history, *_OF_A_DEATH),
        advice,
    )


def _coasting(history: History) -> bool:
    steps = [row["actor_step_norm"] for row in _dead(history)]
    shrinking = all(after < before for before, after in pairwise(steps))
    return len(steps) >= 2 and shrinking and steps[-1] < SHRINKING * steps[0]


def _make_coasting(history: History) -> Diagnosis:
    dead = _dead(history)
    where, advice = _lost(history, dead)
    return Diagnosis(
        "coasting",
        "The actor's gradient is exactly 0 and its weights only roll on with the optimiser's momentum, until they "
        f"freeze: {where}.",
        _evidence(dead, *_OF_A_DEATH),
        advice,
    )


def _flat(history: History, recent: History | None = None) -> bool:
    """Whether the slope is lost in the `recent` measured updates, by default the last ones of the history."""
    slope = _recent(recent or history, "dq_da_abs_mean")
    known = [row["dq_da_abs_mean"] for row in history if not math.isnan(row["dq_da_abs_mean"])]
    windows = (known[start : start + RECENT] for start in range(max(1, len(known) - RECENT + 1)))
    return slope <= FLAT or (bool(known) and slope < FLAT_SHARE * max(map(median, windows)))


def _no_gradient_passes(history: History) -> bool:
    return _recent(history, "zero_derivative_share") > NO_SLOPE_SHARE


def _without_slope(history: History) -> bool:
    return _recent(history, "tanh_derivative") < NO_SLOPE or _no_gradient_passes(history)


def _lost(history: History, since: History) -> tuple[str, tuple[str, ...]]:
    """Where a gradient is lost, and what to try: read off the updates since it is, however few these are."""
    if _without_slope(since):
        flat = ", and the critic is flat there, too" if _flat(history, since) else ""
        return f"its tanh outputs have no slope left{flat}", _STUCK
    if _flat(history, since):
        return "the critic is flat at its actions", _of_flat(history)
    return "its tanh outputs have slope, but its loss does not reach its weights", _UNREACHED


_OF_A_DEATH = ("actor_gradient_norm", "actor_step_norm", "tanh_derivative", "dq_da_abs_mean")
_STUCK = (AGAIN + ", and", LIMIT, NORMALISE, SLOWER)
_UNREACHED = ("look at the actor's loss: is the action detached, or computed under no_grad?",
              "give critic= if it is not given: it may be flat")  # fmt: skip
_UNUSED = "look at the critic: does it use the action? Its slope was exactly 0 from the first measured update on"
_FLAT = (SLOWER_CRITIC, "limit the critic's steps: limit_steps(critic_optimizer, 0.01)", NORMALISE,
         "look at the reward: is it the same whatever the actor does?")  # fmt: skip


def _of_flat(history: History) -> tuple[str, ...]:
    """What to try with a flat critic; first whether it has ever seen the action."""
    return (_UNUSED, *_FLAT) if all(row["dq_da_abs_mean"] == 0 for row in history) else _FLAT


def _stuck_tanh(history: History) -> bool:
    return _without_slope(history) and not _recent(history, "bang_bang_share") >= CRITIC_AGREES


def _make_stuck_tanh(history: History) -> Diagnosis:
    stuck, agrees = _recent(history, "stuck_share"), _recent(history, "bang_bang_share")
    if math.isnan(stuck):
        critic = "whether the critic wants them back is not known without critic="
    elif _flat(history):
        critic = "and the critic is flat there as well"
    else:
        critic = f"the critic wants {stuck:.0%} back and {agrees:.0%} there"
    ratio, zero = _recent(history, "saturation_ratio"), _recent(history, "zero_derivative_share")
    where = f" at {zero:.0%}" if _no_gradient_passes(history) else ""
    return Diagnosis(
        "stuck_tanh",
        f"The actor is stuck at its bounds: {ratio:.0%} of its outputs are saturated, no slope is left{where}, "
        f"{critic}.",
        _evidence(history, "tanh_derivative", "zero_derivative_share", "stuck_share", "dq_da_abs_mean"),
        _STUCK,
    )


def _make_flat_critic(history: History) -> Diagnosis:
    return Diagnosis(
        "flat_critic",
        "The critic is flat at the actor's actions: the tanh has slope, but no gradient arrives at it.",
        _evidence(history, "dq_da_abs_mean", "tanh_derivative", "critic_gradient_norm", "critic_step_norm"),
        _of_flat(history),
    )


def _finite(history: History) -> bool:
    last = history[-1]
    unmeasured = math.isnan(last["saturation_ratio"])  # a share, which NaN in the weights does not make NaN
    norms = (last["actor_step_norm"], last["actor_gradient_norm"])
    return all(math.isfinite(norm) or (unmeasured and math.isnan(norm)) for norm in norms)


def _exploding(history: History) -> bool:
    z = [row["z_abs_median"] for row in history[-RECENT:]]
    return not _finite(history) or (z[-1] > LARGE_Z and z[-1] >= GROWTH * z[0])


def _make_exploding(history: History) -> Diagnosis:
    z = [_number(row["z_abs_median"]) for row in history[-RECENT:]]
    grown = f"its pre-activations grow on (median |z| from {z[0]} to {z[-1]} in the last {len(z)} measured updates)"
    return Diagnosis(
        "exploding",
        f"The actor explodes: {grown if _finite(history) else 'its gradients or weights are not finite any more'}.",
        _evidence(history, "z_abs_median", "z_abs_max", "z_step_rms", "tanh_derivative"),
        (LIMIT, NORMALISE, SLOWER),
    )


def _bang_bang(history: History) -> bool:
    return _recent(history, "bang_bang_share") >= MOSTLY


def _make_bang_bang(history: History) -> Diagnosis:
    final, zero = _no_gradient_passes(history), _recent(history, "zero_derivative_share")
    cannot = f", but the actor can no longer change there: {zero:.0%} of its outputs have no slope" if final else ""
    return Diagnosis(
        "bang_bang",
        f"The actor is at its bounds and the critic agrees ({_recent(history, 'bang_bang_share'):.0%} of the outputs): "
        f"this may be right{cannot}.",
        _evidence(history, "bang_bang_share", "stuck_share", "tanh_derivative", "zero_derivative_share"),
        (COMPARE, *(_STUCK if final else ())),
    )


def _constant(history: History) -> bool:
    return _recent(history, "z_range") < CONSTANT * max(1.0, _recent(history, "z_abs_median"))


def _make_constant(history: History) -> Diagnosis:
    return Diagnosis(
        "constant",
        "The actor gives one action in every state: its tanh has slope and its weights move, but what reaches its last "
        "layer does not depend on the state. Its hidden units are dead, or its observations all alike.",
        _evidence(history, "z_range", "z_abs_median", "tanh_derivative", "actor_step_norm"),
        ("start again from new weights: dead units have no gradient, and", LIMIT, NORMALISE, SLOWER),
    )


def _healthy(history: History) -> Diagnosis:
    slope, advice = f"the tanh has slope ({_number(_recent(history, 'tanh_derivative'))})", ()
    sentence = f"Nothing wrong shows here: {slope} and the actor's weights move. Whether it learns, its returns say."
    shares = {
        "have none": _recent(history, "zero_derivative_share"),
        "are at a bound that the critic wants them to leave": _recent(history, "stuck_share"),
    }
    where = next((what for what, share in shares.items() if share >= MOSTLY), None)
    if where is not None:
        sentence = f"On average {slope} and the actor's weights move, but {shares[where]:.0%} of its outputs {where}."
        advice = ("look again: where that share does not fall, start again from new weights, and", LIMIT)
    return Diagnosis(
        "healthy",
        sentence,
        _evidence(history, "tanh_derivative", "saturation_ratio", "dq_da_abs_mean", "actor_step_norm"),
        advice,
    )


VERDICTS: dict[str, tuple[Callable[[History], bool], Callable[[History], Diagnosis]]] = {
    "not_enough_data": (_not_enough_data, _make_not_enough_data),
    "frozen": (_frozen, _make_frozen),
    "coasting": (_coasting, _make_coasting),
    "stuck_tanh": (_stuck_tanh, _make_stuck_tanh),
    "flat_critic": (_flat, _make_flat_critic),
    "exploding": (_exploding, _make_exploding),
    "bang_bang": (_bang_bang, _make_bang_bang),
    "constant": (_constant, _make_constant),
}
