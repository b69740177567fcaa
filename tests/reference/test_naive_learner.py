"""The naive reference against the recorded numbers of the published implementation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from agents.test_golden import RTOL, Tensors, golden, golden_options, golden_weights
from helpers import experiments
from reference.naive_learner import NaiveRun, Transition, naive_choose, naive_queue, naive_step
from torch import nn

from common.agents.reports import RunKey
from common.config import StudyConfig


def close(actual: object, expected: torch.Tensor, atol: float = 0.0) -> None:
    np.testing.assert_allclose(actual, expected, rtol=RTOL, atol=atol)


@pytest.mark.parametrize("preset", ["scaled", "thesis"])
def test_environment_steps(preset: str) -> None:
    data = {name: x.numpy() for name, x in golden(f"env_{preset}").items()}
    for t, state in enumerate(data["state"]):
        reward, energy, late, drained = naive_step(preset, state, *data["action"][t].T)
        close(reward, data["reward"][t])
        close(energy, data["next_state"][t, :, 2])
        close(late, data["late_fraction"][t])
        close(drained, data["energy_penalised_fraction"][t])


def test_queue_counts_waiting_tasks_again() -> None:
    """By hand: ten equal tasks of 1 s at time 0. No recorded step has a task that waits, so this pins it."""
    finish = naive_queue(list(range(10)), [0.0] * 10, [1.0] * 10)
    assert finish == {**dict.fromkeys(range(8), 1.0), 8: 3.0, 9: 4.0}


def test_selection() -> None:
    data = {name: x.numpy() for name, x in golden("selection").items()}
    for t, accepted in enumerate(data["accepted"]):
        proposes, size = data["noisy_action"][t, :, 0] >= 0, data["state"][t, :, 3]
        np.testing.assert_array_equal(naive_choose(proposes, size, data["q"][t]), accepted)


def train_step(data: Tensors, actor_update: str) -> tuple[NaiveRun, dict[str, object]]:
    """A run after the recorded training step, and its report."""
    options = golden_options(data)
    config = StudyConfig(**options, actor_update=actor_update, channels=min(10, options["agents"]))
    actors, critic = golden_weights(data, "before")
    start = [{name: x[i] for name, x in actors.items()} for i in range(config.agents)], critic
    run = NaiveRun(
        experiments()["baseline"], config, RunKey(0, float(data["actor_lr"]), float(data["critic_lr"])), start
    )
    columns = [data[name].numpy() for name in ("state", "action", "accepted", "reward", "next_state", "done")]
    batch = [Transition(*row) for row in zip(*columns, strict=True)]
    return run, run.train_step(batch, data["is_weight"].numpy())


@pytest.mark.parametrize("name", ["update_mixed", "update_few_proposals"])
def test_update(name: str) -> None:
    """The published step, in turn, and the gradient of the joint loss before it."""
    data = golden(name)
    run, report = train_step(data, "sequential")
    close(report["td_error_sq_sum"], data["td_error_sq_sum"])
    close(report["actor_loss"], data["joint_actor_loss_before"])
    actors, critic = golden_weights(data, "after")
    check([run.critic], {key: x[None] for key, x in critic.items()})
    check(run.actors, actors)
    _, report = train_step(data, "joint")
    for i, gradient in enumerate(report["actor_gradients"]):
        for key, x in gradient.items():
            recorded = data[f"joint_actor_grad_{key}"]
            close(x, recorded[i], atol=1e-12 * recorded.abs().max().item())


def check(networks: list[nn.Module], expected: Tensors) -> None:
    for i, network in enumerate(networks):
        assert network.state_dict().keys() == expected.keys()
        for key, x in network.state_dict().items():
            close(x, expected[key][i])
