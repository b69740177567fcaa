"""The answers of docs/findings.md follow from their rules, on studies whose answer is plain."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from paper import answers, load
from paper.load import NotRecorded
from paper.pages import agents_table, monitor, parts_table, slope_elsewhere, verdict_table
from paper.tables.experiments import part_changes
from paper.verdicts import STATEMENTS


def study(**tables: list) -> SimpleNamespace:
    """Two runs of one fast pair; columns of `agents`, `runs`, `ends` and `saturation` by name."""
    rates = {"seed": [42, 43], "actor_lr": 0.1, "critic_lr": 0.1}
    columns = {
        "agents": {"gradient_death_episode": [3, 3], "freeze_episode": tables.get("frozen", [9, 9])},
        "runs": {
            "improved": tables.get("improved", [False, False]),
            "never": tables.get("never", [False, False]),
            "largest_abs_preactivation": [50.0, 60.0],
        },
        "ends": {"kind": tables.get("kind", [load.DERIVATIVE, load.DERIVATIVE])},
        "saturation": {
            "episode": 2000,
            "bang_bang_share": tables.get("agreed", [0.1, 0.1]),
            "wrong_side_saturation": tables.get("wrong", [0.5, 0.5]),
        },
    }
    own = {name: pd.DataFrame(rates | own) for name, own in columns.items()}
    return SimpleNamespace(**own, has_tanh=tables.get("has_tanh", True))


def recorded(**studies: SimpleNamespace) -> SimpleNamespace:
    """Recordings of these studies on `scaled`."""

    def need(preset: str, name: str = "baseline") -> SimpleNamespace:
        if preset == "scaled" and name in studies:
            return studies[name]
        raise NotRecorded(f"{name}: not recorded")

    return SimpleNamespace(
        results=Path("results"),
        need=need,
        get=lambda preset, name="baseline": studies.get(name) if preset == "scaled" else None,
        names=lambda preset: list(studies) if preset == "scaled" else [],
    )


@pytest.mark.parametrize(
    ("frozen", "improved", "said"),
    [
        ([None, 900], [True, True], "The rounding makes the freeze, and the loss of learning."),
        ([None, None], [True, False], "makes the freeze, and without the rounding these runs do not learn."),
        ([900, 900], [False, False], "They freeze with the exact derivative, too, and without the rounding"),
    ],
)
def test_underflow(frozen: list, improved: list, said: str) -> None:
    text = answers.underflow(recorded(baseline=study(), exact_derivative=study(frozen=frozen, improved=improved)))
    assert said in text and "In 1 of 2 runs with the exact derivative (2 seeds) abs(z) passes 52" in text
    assert "with the baseline 100% of the agents end with" in text


def test_single_remedies() -> None:
    flat = study(kind=[load.FLAT, None], never=[False, True], improved=[True, False])
    both = study(kind=[load.BOTH, None], never=[True, True], improved=[True, True])
    clipped = study(kind=[None, None], has_tanh=False)
    controls = {"clamped_rates": both, "recipe": both, "frozen_actors-with-recipe": both}
    text = answers.single_remedies(recorded(baseline=study(), flat=flat, both=both, clipped=clipped, **controls))
    assert text == (
        "On `scaled`, of 3 recorded changes: no run died the first death (a tanh without slope) with flat; "
        "no run stopped with both; "
        "most runs end better than untrained with both."
    )


def test_agreed_bounds() -> None:
    text = answers.agreed_bounds(recorded(baseline=study(agreed=[0.5, 0.6], wrong=[0.2, 0.5]), other=study()))
    assert "on `scaled` 1 of 2 such runs have more than 25%" in text and "(median: 35%)" in text


def test_only_smaller_rates() -> None:
    """Five seeds, two distinct controls; rates of 0.1 are held against 1e-4 for the actor and 1e-3 for the critic."""

    def scored(name: str, scores: dict[tuple[float, float], list[float]]) -> SimpleNamespace:
        rows = [(seed, *pair, x) for pair, own in scores.items() for seed, x in enumerate(own)]
        runs = pd.DataFrame(rows, columns=["seed", "actor_lr", "critic_lr", "normalised_score"])
        return SimpleNamespace(name=name, runs=runs)

    small, cut = (1e-4, 1e-4), (1e-4, 1e-3)
    recipe = scored("recipe", {small: [0.8] * 5, (0.1, 0.1): [0.5, 0.6, 0.7, 0.8, 0.9], cut: [0.7] * 5})
    clamped = scored("clamped_rates", {small: [0.9] * 5, cut: [0.6] * 5})
    # cut at 1e-3, by seed: the mean of (−0.1, 0, 0.1, 0.2, 0.3) and 0.1; t(4) 2.776 · 0.0791 / √5
    assert answers.only_smaller_rates(recorded(recipe=recipe, clamped_rates=clamped)) == (
        "The recipe's mean score beside that of small rates without its limit, each pair held against the one at which "
        "its rates are cut: on `scaled` above it in 2 of 3 pairs, by −0.10 [−0.10, −0.10] at a critic rate of 1e−4 and "
        "+0.10 [+0.00, +0.20] at 1e−3."
    )


def test_parts_of_the_recipe_are_held_against_the_same_seeds() -> None:
    def scored(name: str, scores: dict[int, float]) -> SimpleNamespace:
        runs = pd.DataFrame({"seed": scores.keys(), "normalised_score": scores.values()})
        same = {"actor_lr": 0.1, "critic_lr": 0.1, "final_evaluation_return": 0, "first_evaluation_return": 0}
        return SimpleNamespace(name=name, seeds=list(scores), runs=runs.assign(drift=0.1, **same))

    parts = [scored("recipe-without-a", {43: 0.8}), scored("recipe-without-b", {42: 0.1, 43: 0.9})]
    whole = scored("recipe", {42: 0.5, 43: 0.7})
    r = recorded(**{s.name: s for s in (whole, *parts)})
    rows = answers.parts_of_the_recipe(r).splitlines()[-2:]
    assert rows == [
        "| `scaled` | b | 42 and 43 | 0.50 | 0.60 | −0.10 | 1 of 2 | 0.10 |",
        "| `scaled` | a | 43 | 0.80 | 0.70 | +0.10 | 0 of 1 | 0.10 |",
    ]
    told = "on `scaled` (2 seeds) by −0.10 without `b`; on `scaled` (1 seed) by +0.10 without `a`"
    assert part_changes(r) == told
    assert parts_table(r).splitlines()[-2:] == ["| `b` | −0.10 (2 seeds) |", "| `a` | +0.10 (1 seed) |"]
    told = "−0.10 without `b` and +0.10 without `c`"
    r = recorded(**{s.name: s for s in (whole, parts[1], scored("recipe-without-c", {42: 0.6, 43: 0.8}))})
    assert part_changes(r) == f"on `scaled` (2 seeds) by {told}"
    r = recorded(**{s.name: s for s in (whole, scored("recipe-without-last_four", {42: 0.1, 43: 0.3}))})
    assert "by −0.40 without `small_noise`, `slow_targets`" in part_changes(r) and "together" in part_changes(r)
    small = [scored(f"recipe-without-{part}", {42: 0.5 + by, 43: 0.7}) for part, by in (("d", 0.1), ("e", -0.18))]
    r = recorded(**{s.name: s for s in (whole, parts[1], *small)})
    told = "−0.10 without `b` and −0.09 to +0.05 without `e` or `d`"
    assert part_changes(r) == f"on `scaled` (2 seeds) by {told}"


def test_what_is_not_recorded_is_said() -> None:
    text = answers.answers(recorded(baseline=study()))
    assert text.count("Not known yet: ") == 6 and text.count("**") == 2 * len(answers.QUESTIONS)


def test_the_monitors_sentence() -> None:
    """Three seeds of one algorithm: plain ones stay below -300 and end frozen, two of the limited ones do not."""
    columns = (("tanh_derivative", "healthy"), ("zero_derivative_share", "frozen"))
    arms = {"plain": [-1400, -1300, -1200], "limit both": [-100, -200, -500], "limit actor": [-100, -110, -120]}
    rows = [
        {"task": "Pendulum-v1", "algorithm": "TD3", "learning_rate": 0.1, "arm": arm, "seed": seed,
         "return_mean": value, "return_untrained": -1400,
         "verdict_middle": verdict, "verdict_end": verdict, "dead_actor_units": 0.5,
         **{f"{column}_{when}": float(verdict == worst) for when in ("middle", "end") for column, worst in columns},
         "action_sd": 0.0, "entropy_coefficient": float("nan")}
        for (arm, values), verdict in zip(arms.items(), ("frozen", "healthy", "healthy"), strict=True)
        for seed, value in enumerate(values)
    ]  # fmt: skip
    recorded = SimpleNamespace(monitor=pd.DataFrame(rows))
    text = monitor(recorded)
    assert "2 of 3 runs of TD3 are solved (end above −300)" in text and "(medians −200) and 0 of 3 plain ones" in text
    assert "(−1,300): 3 have a tanh without slope." in text
    assert "alone" not in text  # the critic's limit alone is not recorded
    assert "| Pendulum-v1 | 1e−1 | TD3 | −1,300, 0 of 3 | −110, 3 of 3 | −200, 2 of 3 |" in agents_table(recorded)
    assert "not recorded" in monitor(SimpleNamespace(monitor=None))
    assert slope_elsewhere(recorded) == ""
    cheetah = SimpleNamespace(monitor=recorded.monitor.assign(task="HalfCheetah-v5"))
    told = " On other tasks at 0.1, runs that end without slope are 3 of 3 plain and 0 of 3 limited ones on "
    told += "HalfCheetah-v5."
    assert slope_elsewhere(cheetah) == told
    usual = pd.concat([recorded.monitor, recorded.monitor.assign(learning_rate=0.01)])
    assert monitor(SimpleNamespace(monitor=usual)).endswith("At 0.01 it is 2 of 3 limited runs and 0 of 3 plain ones.")
    car = usual.assign(task="MountainCarContinuous-v0").query("arm != 'plain' or seed != 1 or learning_rate == 0.1")
    told = "At 0.01, runs of TD3 with every limit that end above the plain one of their seed are 2 of 3 on "
    told += "MountainCarContinuous-v0 (without slope at the end: 0 of 3, plain 2 of 2; solved: 0 of 3, plain 0 of 2)."
    assert monitor(SimpleNamespace(monitor=car)).endswith(told)
    two = {"plain": "normalised", "limit actor": "normalised, limit both"}
    more = recorded.monitor[recorded.monitor["arm"].isin(two)].replace({"arm": two})
    more = pd.concat([recorded.monitor, more]).assign(task="HalfCheetah-v5")
    told = "- Normalised observations at 0.1: on HalfCheetah-v5 3 of 3 runs end without slope (plain 3 of 3), and "
    told += "beside the limits of actor and critic 0 of 3 (without them 0 of 3), where the median goes from −200 "
    told += "to −110 (TD3)."
    assert monitor(SimpleNamespace(monitor=more)).endswith(told)
    fewer = SimpleNamespace(monitor=cheetah.monitor.query("arm != 'limit actor' or seed == 0"))
    assert "| HalfCheetah-v5 | 1e−1 | TD3 | −1,300 | −100, 1 seed | −200 |" in agents_table(fewer)
    cheetah.monitor["return_untrained"] = -100
    assert slope_elsewhere(cheetah).endswith("too, the median is no better than untrained for TD3 on HalfCheetah-v5.")
    rows = verdict_table(recorded).splitlines()[-2:]
    assert rows == ["| `frozen` | 0 of 3 | 0 of 3 |", "| `healthy` | 5 of 6 | 5 of 6 |"]
    recorded.monitor["dead_actor_units"] = 1.0
    recorded.monitor["zero_derivative_share_end"] = 0.0
    recorded.monitor["tanh_derivative_end"] = 0.5
    assert "0 have a tanh without slope, 3 all hidden units dead." in monitor(recorded)


@pytest.mark.parametrize(("critic", "sac", "hold"), [(-1000, -1000, (True, True)), (-200, -200, (False, False))])
def test_whose_limit_saves(critic: float, sac: float, hold: tuple[bool, bool]) -> None:
    """SAC, which has a third optimiser, is judged by itself."""
    common = {"task": "Pendulum-v1", "learning_rate": 0.1}
    returns = {
        "TD3": {"plain": -1400, "limit actor": -100, "limit critic": critic},
        "SAC": {"plain": -1400, "limit actor": sac, "limit critic": -1400},
    }
    rows = [(name, arm, value) for name, arms in returns.items() for arm, value in arms.items()]
    runs = pd.DataFrame([{"algorithm": x, "arm": arm, "return_mean": value, **common} for x, arm, value in rows])
    statements = (
        "the actor's limit saves fast agents of others with two optimisers, the critic's does not",
        "SAC at 0.1 needs more than one limit",
    )
    recorded = SimpleNamespace(need_monitor=lambda: runs)
    assert tuple(dict(STATEMENTS)[name](recorded) for name in statements) == hold
