"""Tracking on reports made by hand: deaths, freezes, steps that were not due, divergence, scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from recording.test_logged_columns import ENV, LAYERS, details
from torch import Tensor

from common.agents.reports import EpisodeReport, RunKey, StepReport
from common.environment.evaluation import Evaluation
from common.recording import schema
from common.recording.tracking import PATIENCE, Tracker, is_logged

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
    half, rest = observed(words[:4]), tracker()
    half.collect()
    rest.load(*half.state())
    for episode, word in enumerate(words[4:], start=6):
        rest.observe(report(episode, word))
    assert rest.agent_rows(0)[0][:4] == whole.agent_rows(0)[0][:4]


def test_rows_of_a_logged_episode_without_an_actor_step() -> None:
    own = tracker(agents=2)
    own.observe(report(2, [["moved", "moved"]], details=details()))
    own.observe(report(3, [["not due", "not due"]], details=details()))
    own.collect()
    actor, critic = own.recorded(0, schema.GRADIENT_NORMS, "actor_update_norm", "critic_update_norm")
    assert np.isnan(actor).tolist() == [False, True] and np.isfinite(critic).all()


def test_sides_at_the_first_step_and_at_the_end() -> None:
    """Mean sign of each output over the batch; the last one is of the last step before a divergence."""
    own = tracker(runs=2, agents=1)

    def at(episode: int, first: list[float], second: list[float], finite: list[bool]) -> None:
        actions = torch.tensor([first, second], dtype=torch.float64).view(1, 2, 1, 3).expand(2, 2, 1, 3)
        own.observe(report(episode, [["moved"]] * 2, finite, details(2, 1, 2, actions=actions)))

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
    def logged(log_every: int, actor_due: Callable[[int], bool]) -> list[int]:
        return [episode for episode in range(1, 61) if is_logged(episode, log_every, actor_due)]

    first = list(range(2, 21))
    assert logged(25, lambda episode: True) == logged(25, lambda episode: False) == [*first, 25, 50]
    assert logged(10, lambda episode: episode % 2 == 1) == [*first, 29, 39, 49, 59]
    assert logged(1, lambda episode: True) == list(range(2, 61))
