"""Every verdict on constructed histories, just on and just off each threshold."""

from __future__ import annotations

import math

import pytest

from common.monitor import diagnosis
from common.monitor.diagnosis import ENOUGH, SCALARS, diagnose, report

HEALTHY = dict.fromkeys(SCALARS, 0.1) | {"zero_derivative_share": 0.0, "z_abs_median": 1.0, "dq_da_abs_mean": 1.0}
DEAD = {"saturation_ratio": 1.0, "tanh_derivative": 0.0, "zero_derivative_share": 1.0, "z_abs_median": 50.0}
UNSEEN = dict.fromkeys(("stuck_share", "bang_bang_share", "dq_da_abs_mean", "dq_da_sign_coherence"), math.nan)


def history(rows: int = 10, **changed: float | list[float]) -> list[dict[str, float]]:
    """Healthy rows with some scalars changed: a number in all of them, a list in the last ones."""
    made = [{"update": 1 + 50 * i, **HEALTHY} for i in range(rows)]
    for name, values in changed.items():
        values = values if isinstance(values, list) else [values] * rows
        for row, value in zip(made[-len(values) :], values, strict=True):
            row[name] = value
    return made


def verdict(**changed: float | list[float]) -> str:
    return diagnose(history(**changed)).verdict


def test_healthy() -> None:
    assert verdict() == "healthy"
    assert diagnose(history()).advice == ()


@pytest.mark.parametrize("rows", range(ENOUGH + 1))
def test_not_enough_data(rows: int) -> None:
    found = diagnose(history(rows))
    assert (found.verdict == "not_enough_data") == (rows < ENOUGH)
    assert any("actor=" in what for what in found.advice) == (rows == 0)  # nothing seen points at the actor


def test_constant() -> None:
    for size in (0.5, 40.0):  # of z
        least = diagnosis.CONSTANT * max(1.0, size)
        assert verdict(z_range=0.99 * least, z_abs_median=size) == "constant"
        assert verdict(z_range=1.01 * least, z_abs_median=size) == "healthy"
    assert verdict(z_range=math.nan) == "healthy"  # batches of one state
    assert verdict(z_range=0.0, bang_bang_share=0.9) == "bang_bang"  # that may be right
    assert "new weights" in diagnose(history(z_range=0.0)).advice[0]


def test_a_critic_that_never_had_a_slope_may_not_use_the_action() -> None:
    still = {"actor_step_norm": 0.0, "actor_gradient_norm": 0.0}
    for others in ({}, still):
        for slope, never in ((0.0, True), ([0.0] * 9, False)):
            found = diagnose(history(dq_da_abs_mean=slope, **others))
            assert found.verdict == ("frozen" if others else "flat_critic")
            assert ("use the action" in found.advice[0]) == never


def test_whether_it_ever_moved_is_said() -> None:
    assert "did not move in any" in diagnose(history(actor_step_norm=0.0)).sentence
    assert "do not move any more" in diagnose(history(actor_step_norm=[0.0] * 9)).sentence


def test_frozen() -> None:
    assert verdict(actor_step_norm=[0.0, 0.0]) == "frozen"
    assert verdict(actor_step_norm=[0.0, 1e-12]) != "frozen"
    assert verdict(actor_step_norm=[1e-12, 0.0]) != "frozen"  # one update without a step proves nothing
    assert verdict(**DEAD, actor_step_norm=0.0, actor_gradient_norm=0.0) == "frozen"


def test_coasting() -> None:
    def of(last_step: float, gradient: float = 0.0) -> str:
        return verdict(actor_gradient_norm=[0.0, gradient, 0.0], actor_step_norm=[1.0, 0.99, last_step])

    assert of(0.01) == "coasting"
    assert of(0.01, gradient=1e-30) != "coasting"
    assert of(diagnosis.SHRINKING * 0.999) == "coasting"
    assert of(diagnosis.SHRINKING * 1.001) != "coasting"
    assert verdict(actor_gradient_norm=[0.0] * 3, actor_step_norm=[1.0, 0.1, 0.11]) != "coasting"
    assert verdict(**DEAD, actor_gradient_norm=[0.0] * 2, actor_step_norm=[0.1, 0.001]) == "coasting"  # not its cause


def test_frozen_without_a_dead_gradient_points_at_the_learning_rate() -> None:
    moving, dead = (diagnose(history(actor_step_norm=0.0, actor_gradient_norm=norm)) for norm in (0.1, 0.0))
    assert "rate" in moving.advice[0]
    assert moving.advice != dead.advice


@pytest.mark.parametrize(("expected", "steps"), [("frozen", [0.0, 0.0]), ("coasting", [0.1, 0.01])])
@pytest.mark.parametrize(
    ("more", "advice"), [(UNSEEN, "detached"), ({"dq_da_abs_mean": 0.0}, "critic"), (UNSEEN | DEAD, "start again")]
)
def test_a_gradient_of_0_points_at_where_it_is_lost(expected: str, steps: list, more: dict, advice: str) -> None:
    found = diagnose(history(actor_gradient_norm=[0.0, 0.0], actor_step_norm=steps, **more))
    assert found.verdict == expected
    assert advice in found.advice[0]


@pytest.mark.parametrize(("expected", "steps"), [("frozen", [0.0, 0.0]), ("coasting", [0.1, 0.01])])
def test_a_death_is_read_off_the_updates_since_then(expected: str, steps: list) -> None:
    """Four live updates, whose mean slope is large, and two dead ones."""
    lost = {name: [value] * 2 for name, value in DEAD.items()}
    rows = history(6, actor_gradient_norm=[0.0, 0.0], actor_step_norm=steps, **lost)
    found = diagnose(rows)
    assert found.verdict == expected and "no slope left" in found.sentence and "start again" in found.advice[0]
    assert found.evidence["tanh_derivative"] == DEAD["tanh_derivative"]
    assert "mean of the last 2 measured updates" in report(rows)


def test_stuck_tanh() -> None:
    assert verdict(tanh_derivative=diagnosis.NO_SLOPE * 0.99) == "stuck_tanh"
    assert verdict(tanh_derivative=diagnosis.NO_SLOPE * 1.01) != "stuck_tanh"
    assert verdict(**DEAD, stuck_share=1.0, bang_bang_share=0.0) == "stuck_tanh"
    assert verdict(**DEAD, bang_bang_share=diagnosis.CRITIC_AGREES * 0.99) == "stuck_tanh"
    assert verdict(**DEAD, bang_bang_share=diagnosis.CRITIC_AGREES) == "bang_bang"


def test_a_mean_slope_of_a_few_outputs_is_none() -> None:
    """2 of 128 outputs carry the whole mean of 1 − a²."""
    few = {"saturation_ratio": 1.0, "tanh_derivative": 0.006, "z_abs_median": 50.0}
    dead = diagnose(history(**few, zero_derivative_share=126 / 128))
    assert dead.verdict == "stuck_tanh"
    assert "98%" in dead.sentence
    assert verdict(**few, zero_derivative_share=diagnosis.NO_SLOPE_SHARE * 1.001) == "stuck_tanh"
    assert verdict(**few, zero_derivative_share=diagnosis.NO_SLOPE_SHARE) == "healthy"
    assert verdict(zero_derivative_share=[0.9, 0.9, 1.0, 1.0, 1.0]) == "stuck_tanh"  # 0.96 in the mean
    assert verdict(zero_derivative_share=[0.7, 1.0, 1.0, 1.0, 1.0]) == "healthy"  # 0.94 in the mean


def test_stuck_tanh_says_what_the_critic_wants() -> None:
    wanted = diagnose(history(**DEAD, stuck_share=0.9, bang_bang_share=0.1)).sentence
    flat = diagnose(history(**DEAD, stuck_share=0.0, bang_bang_share=0.0, dq_da_abs_mean=0.0)).sentence
    unknown = diagnose(history(**DEAD, **UNSEEN)).sentence
    assert "wants 90% back" in wanted
    assert "flat" in flat
    assert "flat" not in wanted
    assert "critic=" in unknown


def test_flat_critic() -> None:
    lost = diagnosis.FLAT_SHARE * HEALTHY["dq_da_abs_mean"]
    assert verdict(dq_da_abs_mean=diagnosis.FLAT) == "flat_critic"
    assert verdict(dq_da_abs_mean=diagnosis.FLAT * 1.01) == "healthy"  # small from the start on: the rewards' scale
    assert verdict(dq_da_abs_mean=[lost * 0.99] * diagnosis.RECENT, rows=20) == "flat_critic"
    assert verdict(dq_da_abs_mean=[lost * 1.01] * diagnosis.RECENT, rows=20) == "healthy"
    assert verdict(**DEAD, bang_bang_share=0.0, dq_da_abs_mean=0.0) == "stuck_tanh"  # the tanh is dead as well


def test_exploding() -> None:
    above, below = diagnosis.LARGE_Z * 1.01, diagnosis.LARGE_Z * 0.99
    assert verdict(z_abs_median=[above / diagnosis.GROWTH, 2.0, 2.0, 2.0, above]) == "exploding"
    assert verdict(z_abs_median=[below / diagnosis.GROWTH, 2.0, 2.0, 2.0, below]) == "healthy"
    assert verdict(z_abs_median=[above / diagnosis.GROWTH * 1.01, 2.0, 2.0, 2.0, above]) == "healthy"
    assert verdict(z_abs_median=100.0) == "healthy"  # large, but it stays
    for value in (math.nan, math.inf):
        # a share of NaN is 0; a row without it is one in which nothing was measured
        assert verdict(**{name: [value] for name in SCALARS if name != "saturation_ratio"}) == "exploding"
    assert verdict(**{name: [math.nan] for name in SCALARS}) == "healthy"


def test_bang_bang() -> None:
    assert verdict(bang_bang_share=diagnosis.MOSTLY) == "bang_bang"
    assert verdict(bang_bang_share=diagnosis.MOSTLY * 0.99) == "healthy"
    mobile, final = (diagnose(history(bang_bang_share=0.8, **more)) for more in ({}, DEAD))
    assert mobile.verdict == final.verdict == "bang_bang"
    assert "no longer change" in final.sentence
    assert "no longer change" not in mobile.sentence
    assert final.advice[0] == mobile.advice[0]
    assert "start again" in final.advice[1]
    assert len(mobile.advice) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"rows": 0},
        {"actor_step_norm": 0.0},
        {"actor_gradient_norm": [0.0, 0.0], "actor_step_norm": [0.1, 0.001]},
        DEAD,
        {"dq_da_abs_mean": 0.0},
        {"z_abs_median": [1.0, 2.0, 4.0, 8.0, 16.0]},
        {"bang_bang_share": 0.9},
        dict.fromkeys(SCALARS, math.nan),
    ],
)
def test_one_sentence_numbers_and_advice(changed: dict) -> None:
    rows = history(**changed)
    found, text = diagnose(rows), report(rows)
    assert "\n" not in found.sentence and found.sentence.endswith(".") and found.sentence in text
    assert found.verdict in {"not_enough_data", "healthy"} or len(found.evidence) == 4
    assert found.advice or found.verdict == "healthy"
    assert all(what in text for what in found.advice)


def test_the_report_names_its_columns() -> None:
    lines = [line.split() for line in report(history(4)).splitlines()]
    assert ["first", "latest"] in lines
    assert ["update", "1", "151"] in lines
    assert "mean of the last 4 " in report(history(4))
    assert "mean of" not in report(history(ENOUGH - 1))


def test_a_frozen_actor_whose_slope_is_next_to_nothing() -> None:
    """Its gradient is not exactly 0, but too small to move a weight: the tanh is named, not the learning rate."""
    found = diagnose(history(actor_step_norm=0.0, actor_gradient_norm=1e-7, tanh_derivative=4.8e-7))
    assert found.verdict == "frozen" and "no slope left" in found.sentence and "new weights" in found.advice[0]
    usual = diagnose(history(actor_step_norm=0.0))
    assert usual.verdict == "frozen" and "learning rate" in usual.advice[0]


@pytest.mark.parametrize("rows", [25, 41, 100])
def test_a_critic_stays_flat_however_long_it_is(rows: int) -> None:
    assert verdict_of([1.0] * 20 + [1e-6] * (rows - 20)) == "flat_critic"
    assert verdict_of([1.0] * (rows - 2) + [1e-6] * 2) == "healthy"  # a dip
    assert verdict_of([1e6] * 2 + [1.0] * (rows - 2)) == "healthy"  # a short peak is no opinion to lose


def verdict_of(slopes: list[float]) -> str:
    return diagnose(history(len(slopes), dq_da_abs_mean=slopes)).verdict


@pytest.mark.parametrize(
    ("changed", "said"), [({"stuck_share": 1.0}, "leave"), ({"zero_derivative_share": 0.6}, "60%")]
)
def test_a_healthy_mean_does_not_hide_most_outputs(changed: dict[str, float], said: str) -> None:
    found = diagnose(history(**changed))
    assert found.verdict == "healthy" and said in found.sentence and found.advice


def test_without_a_measured_pass_nothing_is_said() -> None:
    unseen = {name: [math.nan] * diagnosis.RECENT for name in SCALARS if not name.endswith("_norm")}
    found = diagnose(history(**unseen))
    assert found.verdict == "not_enough_data" and "not found" in found.sentence and found.advice


def test_of_several_actors_the_first_verdict_that_applies_to_one() -> None:
    healthy, flat, stuck = history(), history(dq_da_abs_mean=0.0), history(**DEAD)
    found, of = diagnosis.diagnose_each([healthy, flat, stuck, flat])
    assert found.verdict == "stuck_tanh" and found.sentence.startswith("1 of 4 actors (2)") and of is stuck
    found, of = diagnosis.diagnose_each([flat, flat])
    assert found.sentence.startswith("2 of 2 actors (all)") and of is flat
    assert diagnosis.diagnose_each([healthy, healthy, history(1)])[0] == diagnose(healthy)
    assert diagnosis.diagnose_each([history(1), history(1)])[0].verdict == "not_enough_data"
