"""Tracking on reports made by hand: deaths, freezes, steps that were not due, divergence, what is measured."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from common.agents.reports import EpisodeReport, RunKey, StepDetails, StepReport
from common.environment.evaluation import Evaluation
from common.environment.mec_env import MecEnv
from common.recording import schema
from common.recording.tracking import PATIENCE, Tracker, gradient_columns, is_logged, saturation_columns

ENV = MecEnv("scaled", channels=1)
LAYERS = (("fc1", "fc2", "fc3"), ("fc1", "fc2", "fc3"))
REFERENCES = {"random": -200.0, "greedy_offload": -100.0}


def tracker(runs: int = 1, agents: int = 1, early_stop: bool = True) -> Tracker:
    keys = [RunKey(seed, 1e-2, 1e-2) for seed in range(runs)]
    return Tracker(keys, agents, ENV, LAYERS, torch.device("cpu"), early_stop)


def report(
    episode: int, step: str | list[list[str]] | None, finite: list[bool] | None = None, details: Any = None
) -> EpisodeReport:
    """A training episode whose step did to each agent, by run: `moved`, `coasted` (without a gradient), `stayed` (with
    one), `nothing` (no gradient, no change) or `not due`."""
    words = [[step]] if isinstance(step, str) else step
    runs = len(words) if words else 1
    zeros = torch.zeros(runs)
    if words is None:
        return EpisodeReport(episode, zeros, zeros, zeros)

    def where(*which: str) -> Tensor:
        return torch.tensor([[word in which for word in run] for run in words])

    made = StepReport(
        changed=where("moved", "coasted"), unchanged=where("stayed", "nothing"),
        gradient_alive=where("moved", "stayed"), finite=torch.tensor(finite or [True] * runs),
    )  # fmt: skip
    return EpisodeReport(episode, zeros, zeros, zeros, made, details)


def observed(words: list[str], **options: Any) -> Tracker:
    """One agent's life from episode 2 on; before that nothing is trained."""
    own = tracker(**options)
    own.observe(report(1, None))
    for episode, word in enumerate(words, start=2):
        own.observe(report(episode, word))
    return own


@pytest.mark.parametrize(
    ("words", "death", "unchanged", "freeze"),
    [
        (["moved"] * 5, None, None, None),
        (["moved", "coasted", "coasted", "nothing", "nothing"], 3, 5, 5),
        (["moved", "nothing", "moved", "coasted", "nothing"], 5, 3, 6),  # an unchanged step that did not last
        (["stayed", "stayed"], None, 2, 2),  # a gradient too small to move a weight
        (["nothing"] * 3, 2, 2, 2),
        (["not due"] * 4, None, None, None),
        # Every other step is due: death and freeze are at due steps, and what was not due is no sign of either.
        (["moved", "not due", "coasted", "not due", "nothing", "not due"], 4, 6, 6),
        (["moved", "not due", "moved", "not due"], None, None, None),
        (["nothing", "not due", "moved"], None, 2, None),
        (["coasted", "not due", "nothing"], 2, 4, 4),
    ],
)
def test_life_of_an_agent(words: list[str], death: int | None, unchanged: int | None, freeze: int | None) -> None:
    assert observed(words).agent_rows(0)[0][:4] == [0, death, unchanged, freeze]


def test_a_run_ends_when_its_last_agent_has_been_frozen_long_enough() -> None:
    own = tracker(agents=2)
    for episode in range(2, 10 + PATIENCE):
        own.observe(report(episode, [["nothing", "moved" if episode < 10 else "nothing"]]))
        assert own.finished(episode, 10_000) == ([0] if episode == 9 + PATIENCE else [])
    assert observed(["nothing"] * 300, early_stop=False).finished(301, 10_000) == []
    assert observed(["not due"] * 300).finished(301, 10_000) == []


def test_counters_end_with_the_divergence() -> None:
    """Nothing that the check of a diverged run finds later, in weights that are no numbers, is counted."""
    own = tracker(runs=2, agents=2)
    for episode in range(2, 5):
        own.observe(report(episode, [["moved", "nothing"]] * 2))
    own.observe(report(5, [["moved", "moved"]] * 2, finite=[False, True]))
    for episode in range(6, 9):
        own.observe(report(episode, [["nothing", "moved"]] * 2, finite=[False, True]))
    rows = [[row[:4] for row in own.agent_rows(run)] for run in range(2)]
    assert rows[0] == [[0, None, None, None], [1, 2, 2, 2]]
    assert rows[1] == [[0, 6, 6, 6], [1, None, 2, None]]
    assert own.diverged_at.tolist() == [5, 0] and own.finished(8, 10_000) == [0]


def test_state_is_whole() -> None:
    """A tracker that goes on from another's state ends like it."""
    words = ["moved", "coasted", "coasted", "nothing", "nothing"]
    whole = observed(words)
    half, rest = observed(words[:3]), tracker()
    half.collect()
    rest.load(*half.state())
    for episode, word in enumerate(words[3:], start=5):
        rest.observe(report(episode, word))
    assert rest.agent_rows(0)[0][:4] == whole.agent_rows(0)[0][:4]


def details(runs: int = 1, agents: int = 2, batch: int = 2, **fields: Tensor) -> StepDetails:
    """Measures of one step, all ones unless they are given."""
    usual: dict[str, Any] = {"extras": {}}
    usual |= {"actor_gradients": torch.ones(runs, agents, 3), "critic_gradients": torch.ones(runs, 3)}
    for kind in ("clipped", "updates", "weight_norms"):
        usual |= {f"actor_{kind}": torch.ones(runs, agents), f"critic_{kind}": torch.ones(runs)}
    usual |= {name: torch.ones(runs, batch, agents, 3) for name in ("pre_activations", "z_after", "dq_da")}
    usual |= {"states": torch.ones(runs, batch, agents, 7), "actions": usual["pre_activations"].tanh()}
    usual |= {"offloads": torch.ones(runs, batch, agents, dtype=torch.bool)}
    return StepDetails(**{**usual, **fields})


def measured(of: StepDetails, due: Tensor | None = None) -> dict[str, list[float]]:
    """All columns of a step."""
    columns = gradient_columns(of, *LAYERS, due) | saturation_columns(of, ENV, due)
    return {name: values.tolist() for name, values in columns.items()}


def test_stuck_is_not_bang_bang() -> None:
    """At its bound an output is stuck where the critic wants it back, right where the critic agrees."""
    actions = torch.tensor([[1.0, -1.0, 0.5], [0.995, 0.98, -0.999]]).view(1, 2, 1, 3)
    slope = torch.tensor([[-2.0, -3.0, -4.0], [0.0, -1.0, 5.0]]).view(1, 2, 1, 3)
    found = measured(details(agents=1, actions=actions, dq_da=slope))
    assert found["stuck_share"] == pytest.approx([2 / 6])  # 1.0 pulled down, -0.999 pulled up
    assert found["bang_bang_share"] == pytest.approx([1 / 6])  # -1.0 pulled down
    assert found["zero_derivative_share"] == pytest.approx([2 / 6])
    # Signs by output: (-1, 0), (-1, -1), (-1, +1).
    assert found["dq_da_sign_coherence"] == pytest.approx([(0.5 + 1 + 0) / 3])


@pytest.mark.parametrize(("sign", "cosine"), [(2.5, 1.0), (-1.0, -1.0)])
def test_alignment_is_that_of_the_rewards_own_slope(sign: float, cosine: float) -> None:
    """A critic that knows the slope up to its scale, and one that has it the wrong way round; offload has none."""
    made = torch.Generator().manual_seed(1)
    actions = 2 * torch.rand(1, 5, 2, 3, generator=made) - 1
    states = torch.rand(1, 5, 2, 7, generator=made) + torch.tensor([10.0, 8, 2, 20, 500, 0.1, 0.5])
    offloads = torch.tensor([True, False]).expand(1, 5, 2)
    slope = ENV.reward_slope(states, offloads, actions)
    found = measured(details(agents=2, states=states, actions=actions, offloads=offloads, dq_da=sign * slope))
    for output in ("compute", "power"):
        assert found[f"dq_da_alignment_{output}"] == pytest.approx([cosine], rel=1e-4)
    assert "dq_da_alignment_offload" not in found


def test_without_tanh_its_derivative_is_empty() -> None:
    found = measured(details(has_tanh=False))
    assert math.isnan(found["tanh_derivative"][0]) and math.isnan(found["zero_derivative_share"][0])


def test_columns_are_those_of_the_files() -> None:
    found = measured(details())
    empty = {name for name, values in found.items() if math.isnan(values[0])}
    # Nothing is saturated here, and all offload, so that no compute output has a slope of the reward.
    assert empty == {"wrong_side_saturation", "dq_da_alignment_compute"}
    assert {*found} == {
        name for file in (schema.GRADIENT_NORMS, schema.SATURATION) for name in schema.FILES[file]
    } - {*schema.RUN_KEY, "episode"}


def test_actor_cells_of_agents_that_were_not_due() -> None:
    gradients = torch.tensor([[2.0, 4.0]] * 3).unsqueeze(2).expand(3, 2, 3)
    some = details(runs=3, actor_gradients=gradients, z_after=torch.ones(3, 2, 2, 3))
    due = torch.tensor([[True, True], [True, False], [False, False]])
    found = measured(some, due)
    np.testing.assert_allclose(found["actor_fc1"], [math.sqrt(10), 2, math.nan])
    names = ("actor_gradient_norm", "gradient_ratio", "actor_update_norm", "actor_clipped_norm", "z_step_rms")
    assert all(np.isnan(found[name]).tolist() == [False, False, True] for name in names)
    assert all(np.isfinite(found[name]).all() for name in ("critic_gradient_norm", "critic_update_norm", "z_mean"))


def test_rows_of_a_logged_episode_without_an_actor_step() -> None:
    own = tracker(agents=2)
    own.observe(report(2, [["moved", "moved"]], details=details()))
    own.observe(report(3, [["not due", "not due"]], details=details()))
    own.collect()
    actor, critic = own.recorded(0, schema.GRADIENT_NORMS, "actor_update_norm", "critic_update_norm")
    assert actor[0] == 1 and math.isnan(actor[1]) and np.isfinite(critic).all()


def test_sides_at_the_first_step_and_at_the_end() -> None:
    """Mean sign of each output over the batch; the last one is of the last step before a divergence."""
    own = tracker(runs=2, agents=1)

    def at(episode: int, first: list[float], second: list[float], finite: list[bool]) -> None:
        actions = torch.tensor([first, second]).view(1, 2, 1, 3).expand(2, 2, 1, 3)
        own.observe(report(episode, [["moved"]] * 2, finite, details(2, 1, actions=actions)))

    at(2, [0.1, -0.2, 0.3], [0.5, -0.9, -0.3], [True, True])
    at(3, [-0.1, 0.2, 0.3], [-0.1, 0.2, 0.3], [True, True])
    at(4, [1.0, 1.0, -1.0], [1.0, 1.0, -1.0], [False, True])
    assert [own.agent_rows(run)[0][4:] for run in range(2)] == [[1, -1, 0, -1, 1, 1], [1, -1, 0, 1, 1, -1]]
    assert schema.FILES[schema.STOPPING_EPISODES][-6] == "first_side_offload"
    assert np.isnan(tracker().agent_rows(0)[0][4:]).all()


def evaluate(own: Tracker, episode: int, value: float) -> None:
    zero = torch.zeros(1)
    own.observe_evaluation(episode, Evaluation(torch.tensor([value]), zero, zero, zero))


@pytest.mark.parametrize(
    ("returns", "age", "best", "score", "drift"),
    [
        ([-180.0, -120.0, -150.0], 4, -120.0, 0.5, 0.3),
        ([-180.0, -150.0, -120.0], 4, -120.0, 0.8, 0.0),
        ([-180.0, -190.0, -210.0], 4, -180.0, -0.1, 0.3),  # the untrained policy was the best
    ],
)
def test_age_best_and_drift_of_a_score(returns: list[float], age: int, best: float, score: float, drift: float) -> None:
    own = observed(["moved"] * 3)
    for episode, value in zip((0, 2, 4), returns, strict=True):
        evaluate(own, episode, value)
    own.collect()
    row = own.summary(0, 4, REFERENCES)
    assert (row["score_episode"], row["best_evaluation_return"]) == (age, best)
    assert row["normalised_score"] == pytest.approx(score) and row["drift"] == pytest.approx(drift)
    assert row["best_score"] == pytest.approx(score + drift)


def test_a_diverged_run_has_no_score_but_a_best_evaluation() -> None:
    own = tracker()
    for episode, value in ((0, -180.0), (2, -150.0), (3, math.nan)):
        own.observe(report(episode, "moved", finite=[episode < 3])) if episode else None
        evaluate(own, episode, value)
    own.collect()
    row = own.summary(0, 9, REFERENCES)
    assert row["best_evaluation_return"] == -150 and row["best_score"] == pytest.approx(0.5)
    assert row["score_episode"] is None and row["drift"] is None and row["normalised_score"] is None
    assert row.keys() <= {*schema.FILES[schema.RUNS]}


def test_logged_episodes() -> None:
    logged = [episode for episode in range(1, 61) if is_logged(episode, 20)]
    assert logged == [*range(2, 21), 40, 60]
    assert all(is_logged(episode, 1) for episode in range(1, 30))
