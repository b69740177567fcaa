"""The project's own environment, decision and learner, and the naive ones, against the published implementation."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import experiments, make_learner
from reference.naive_learner import NaiveRun, Transition, naive_choose, naive_queue, naive_step

from common.agents.inputs import Due
from common.agents.learner import Learner
from common.agents.replay import Batch
from common.agents.reports import RunKey
from common.config import StudyConfig
from common.environment.mec_env import STORAGE, MecEnv
from common.environment.offloading import proposes

GOLDEN = Path(os.environ.get("GOLDEN_DIR", Path(__file__).resolve().parents[3] / "shared" / "golden"))
RTOL = 1e-9
RUN = slice(0, 1)

Tensors = dict[str, torch.Tensor]


def golden(name: str) -> Tensors:
    """Tensors of one golden file; skips the test when the folder is absent."""
    if not GOLDEN.is_dir():
        pytest.skip(f"no golden folder at {GOLDEN}; set GOLDEN_DIR to run this")
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(np.asarray(x)) for key, x in arrays.items()}


def golden_weights(data: Tensors, when: str) -> tuple[Tensors, Tensors]:
    """Recorded weights of actors (N, …) and critic by the project's names: the critic's fc1 in three parts."""
    starts = [f"{when}_{network}_" for network in ("actor", "critic")]
    actors, critic = ({key.removeprefix(own): x for key, x in data.items() if key.startswith(own)} for own in starts)
    agents = data["state"].shape[1]
    parts = critic.pop("fc1.weight").split([7 * agents, 3 * agents, 10], dim=1)
    return actors, critic | dict(zip(("fc1.states", "fc1.actions", "fc1.personal"), parts, strict=True))


def golden_options(data: Tensors) -> dict[str, object]:
    """The configuration of a recorded update."""
    hidden = {
        f"{network}_hidden": tuple(data[f"before_{network}_fc{i}.bias"].shape[-1] for i in (1, 2))
        for network in ("actor", "critic")
    }
    batch_size, agents, _ = data["state"].shape
    return {"agents": agents, "batch_size": batch_size, "gamma": float(data["gamma"]), **hidden}


def close(actual: object, expected: object, atol: float = 1e-12) -> None:
    np.testing.assert_allclose(actual, expected, rtol=RTOL, atol=atol)


@pytest.mark.parametrize("preset", ["scaled", "thesis"])
def test_environment_steps(preset: str) -> None:
    data = golden(f"env_{preset}")
    state, action = data["state"], data["action"]
    recorded = (data["reward"], data["next_state"][..., 2], data["late_fraction"], data["energy_penalised_fraction"])
    fast = MecEnv(preset, channels=10).step(state, action[..., 0] > 0.5, action[..., 1], action[..., 2])
    for own, expected in zip((fast.reward, fast.energy, fast.late_share, fast.drained_share), recorded, strict=True):
        close(own, expected, atol=0.0)
    for t in range(len(state)):
        naive = naive_step(preset, state[t].numpy(), *action[t].numpy().T)
        for own, expected in zip(naive, recorded, strict=True):
            close(own, expected[t], atol=0.0)


def test_queue_counts_waiting_tasks_again() -> None:
    """By hand: ten equal tasks of 1 s at time 0. No recorded step has a task that waits, so this pins it."""
    finish = naive_queue(list(range(10)), [0.0] * 10, [1.0] * 10)
    assert finish == {**dict.fromkeys(range(8), 1.0), 8: 3.0, 9: 4.0}


def golden_key(data: Tensors) -> RunKey:
    return RunKey(0, *(float(data.get(name, 1.0)) for name in ("actor_lr", "critic_lr")))


def golden_learner(data: Tensors, dense: bool, **options: object) -> Learner:
    return make_learner([golden_key(data)], dense, episodes=1, dtype="float64", **options)


@pytest.mark.parametrize("dense", [False, True])
def test_selection(dense: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The learner's own decision in evaluation mode, with the given scores in place of the critic's."""
    data = golden("selection")
    agents = data["state"].shape[1]
    learner = golden_learner(data, dense, agents=agents, channels=min(10, agents))
    # Decisions are independent, so they go in as the E dimension of one run.
    monkeypatch.setattr(learner.update, "scores", lambda runs, state, actions, wanted: data["q"].unsqueeze(0))
    offloads, _, _ = learner.decide(learner.everything, data["state"].unsqueeze(0), data["noisy_action"].unsqueeze(0))
    assert STORAGE == 400.0
    assert torch.equal(offloads[0], data["accepted"] > 0.5)


def test_naive_selection() -> None:
    data = {name: x.numpy() for name, x in golden("selection").items()}
    for t, accepted in enumerate(data["accepted"]):
        proposes, size = data["noisy_action"][t, :, 0] >= 0, data["state"][t, :, 3]
        np.testing.assert_array_equal(naive_choose(proposes, size, data["q"][t]), accepted)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("mode", ["joint", "sequential"])
@pytest.mark.parametrize("name", ["update_mixed", "update_few_proposals"])
def test_update(name: str, mode: str, dense: bool) -> None:
    """One published training step: critic, then agents in turn, Adam; or the joint loss and its gradient before it."""
    data = golden(name)
    agents, accepted = data["state"].shape[1], data["accepted"] > 0.5
    channels = max(1, int(accepted.sum(1).max()))
    learner = golden_learner(data, dense, channels=channels, actor_update=mode, **golden_options(data))
    actors, critic = golden_weights(data, "before")
    for bank, before in ((learner.actors, actors), (learner.critics, critic)):
        for key, x in bank.tensors(RUN).items():
            x.copy_(before[key])
    slots = torch.where(accepted, torch.arange(agents), agents).sort(-1).values[:, :channels]
    recorded = (data["state"], data["action"], slots, data["reward"], data["next_state"], data["done"])
    batch, weights = Batch(*(x.unsqueeze(0) for x in recorded)), data["is_weight"].unsqueeze(0)
    z, actions = learner.update.act(learner.actors.tensors(RUN), batch.states)
    close(actions[0], data["actor_action_before"])
    assert torch.equal(proposes(actions)[0], data["proposes_before"].bool())

    inputs = ((learner.critics, learner.critic_lrs), (learner.actors, learner.actor_lrs))
    scales = tuple(bank.optimizer.scales(rates, 1) for bank, rates in inputs)
    squares, report, details = learner.update(
        RUN, batch, weights, scales, Due(True, True, True), True, lambda phase: nullcontext()
    )
    close(squares[0], data["td_error_sq_sum"])
    assert report.gradient_alive.any() and (details["dq_da"] != 0).any()
    actors, critic = golden_weights(data, "after")
    check(learner.critics.tensors(RUN), {key: x.unsqueeze(0) for key, x in critic.items()})
    if mode == "sequential":
        check(learner.actors.tensors(RUN), actors)
        return

    # After one step from fresh moments Adam's first moment is (1 - beta1) times the gradient.
    for key, gradient in learner.actors.layout.views(learner.actors.moments["exp_avg"] / 0.1).items():
        expected = data[f"joint_actor_grad_{key}"]
        close(gradient, expected, atol=float(expected.abs().max()) * 1e-12)
    own = actions.detach().requires_grad_()
    loss, _, _ = learner.update._actor_loss(RUN, batch.states, z, own, None, slice(None), weights)
    close(loss[0].detach(), data["joint_actor_loss_before"])


def check(mine: Tensors, expected: Tensors, atol: float = 1e-12) -> None:
    assert mine.keys() == expected.keys()
    for key, x in mine.items():
        close(x, expected[key], atol)


def naive_train_step(data: Tensors, actor_update: str) -> tuple[NaiveRun, dict[str, object]]:
    """A run after the recorded training step, and its report."""
    options = golden_options(data)
    config = StudyConfig(**options, actor_update=actor_update, channels=min(10, options["agents"]))
    actors, critic = golden_weights(data, "before")
    start = [{name: x[i] for name, x in actors.items()} for i in range(config.agents)], critic
    run = NaiveRun(experiments()["baseline"], config, golden_key(data), start)
    columns = [data[name].numpy() for name in ("state", "action", "accepted", "reward", "next_state", "done")]
    batch = [Transition(*row) for row in zip(*columns, strict=True)]
    return run, run.train_step(batch, data["is_weight"].numpy())


@pytest.mark.parametrize("name", ["update_mixed", "update_few_proposals"])
def test_naive_update(name: str) -> None:
    """The published step, in turn, and the gradient of the joint loss before it."""
    data = golden(name)
    run, report = naive_train_step(data, "sequential")
    close(report["td_error_sq_sum"], data["td_error_sq_sum"], atol=0.0)
    close(report["actor_loss"], data["joint_actor_loss_before"], atol=0.0)
    actors, critic = golden_weights(data, "after")
    check(run.critic.state_dict(), critic, atol=0.0)
    for i, actor in enumerate(run.actors):
        check(actor.state_dict(), {key: x[i] for key, x in actors.items()}, atol=0.0)
    _, report = naive_train_step(data, "joint")
    for i, gradient in enumerate(report["actor_gradients"]):
        for key, x in gradient.items():
            recorded = data[f"joint_actor_grad_{key}"]
            close(x, recorded[i], atol=1e-12 * recorded.abs().max().item())
