"""The project's own environment, decision and learner against numbers of the published implementation."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import make_learner

from common.agents.inputs import Due
from common.agents.learner import Learner
from common.agents.replay import Batch
from common.agents.reports import RunKey
from common.environment.mec_env import STORAGE, MecEnv
from common.environment.offloading import proposes

GOLDEN = Path(os.environ.get("GOLDEN_DIR", Path(__file__).resolve().parents[3] / "shared" / "golden"))
RTOL = 1e-9


def golden_files(pattern: str) -> list:
    files = sorted(GOLDEN.glob(pattern)) if GOLDEN.is_dir() else []
    skip = pytest.mark.skip(reason=f"no {pattern} in {GOLDEN} (set GOLDEN_DIR)")
    return [pytest.param(f, id=f.stem) for f in files] or [pytest.param(None, marks=skip)]


def load(path: Path) -> dict[str, torch.Tensor]:
    with np.load(path) as arrays:
        return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays}


def close(actual: torch.Tensor, expected: torch.Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(actual.double(), expected.double(), rtol=RTOL, atol=atol)


@pytest.mark.parametrize("path", golden_files("env_*.npz"))
def test_environment_steps(path: Path) -> None:
    data = load(path)
    env = MecEnv(path.stem.removeprefix("env_"), channels=10)
    action = data["action"]
    outcome = env.step(data["state"], action[..., 0] > 0.5, action[..., 1], action[..., 2])
    close(outcome.reward, data["reward"])
    close(outcome.energy, data["next_state"][..., 2])
    close(outcome.late_share, data["late_fraction"])
    close(outcome.drained_share, data["energy_penalised_fraction"])


def golden_learner(agents: int, channels: int, dense: bool, **options: object) -> Learner:
    keys, whole = [RunKey(0, 1.0, 1.0)], {"agents": agents, "channels": channels, "episodes": 1, "dtype": "float64"}
    return make_learner(keys, dense, **whole, **options)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("path", golden_files("selection*.npz"))
def test_selection(path: Path, dense: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The learner's own decision in evaluation mode, with the given scores in place of the critic's."""
    data = load(path)
    agents = data["state"].shape[1]
    learner = golden_learner(agents, min(10, agents), dense)
    # Decisions are independent, so they go in as the E dimension of one run.
    monkeypatch.setattr(learner.update, "scores", lambda runs, state, actions, wanted: data["q"].unsqueeze(0))
    offloads, _, _ = learner.decide(learner.everything, data["state"].unsqueeze(0), data["noisy_action"].unsqueeze(0))
    assert STORAGE == 400.0
    assert torch.equal(offloads[0], data["accepted"] > 0.5)


def golden_tensors(data: dict[str, torch.Tensor], kind: str, agents: int) -> dict[str, dict[str, torch.Tensor]]:
    """Recorded weights of actors (N, …) and critic (1, …) by the project's names: the critic's fc1 in three parts."""
    actor = {name.removeprefix(f"{kind}_actor_"): x for name, x in data.items() if name.startswith(f"{kind}_actor_")}
    whole = f"{kind}_critic_"
    critic = {name.removeprefix(whole): x.unsqueeze(0) for name, x in data.items() if name.startswith(whole)}
    if critic:
        parts = critic.pop("fc1.weight").split([7 * agents, 3 * agents, 10], dim=2)
        critic |= dict(zip(("fc1.states", "fc1.actions", "fc1.personal"), parts, strict=True))
    return {"actor": actor, "critic": critic}


def check_weights(learner: Learner, data: dict[str, torch.Tensor], network: str) -> None:
    bank = learner.actors if network == "actor" else learner.critics
    golden = golden_tensors(data, "after", learner.config.agents)[network]
    mine = bank.tensors(slice(0, 1))
    assert mine.keys() == golden.keys()
    for name, x in mine.items():
        close(x, golden[name])


def golden_update(path: Path, mode: str, dense: bool) -> tuple[dict, Learner, Batch, tuple[torch.Tensor, torch.Tensor]]:
    data = load(path)
    agents = data["state"].shape[1]
    accepted = data["accepted"] > 0.5
    channels = max(1, int(accepted.sum(1).max()))
    hidden = {
        f"{network}_hidden": tuple(data[f"before_{network}_fc{i}.bias"].shape[-1] for i in (1, 2))
        for network in ("actor", "critic")
    }
    learner = golden_learner(agents, channels, dense, actor_update=mode, gamma=float(data["gamma"]), **hidden)
    before = golden_tensors(data, "before", agents)
    for bank, own in ((learner.actors, before["actor"]), (learner.critics, before["critic"])):
        for name, x in bank.tensors(slice(0, 1)).items():
            x.copy_(own[name])
    indices = torch.where(accepted, torch.arange(agents), agents).sort(-1).values[:, :channels]
    batch = Batch(
        *(data[name].unsqueeze(0) for name in ("state", "action")), indices.unsqueeze(0),
        *(data[name].unsqueeze(0) for name in ("reward", "next_state", "done")),
    )  # fmt: skip
    banks = (learner.critics, "critic_lr"), (learner.actors, "actor_lr")
    return data, learner, batch, tuple(bank.optimizer.scales(data[rate].reshape(1), 1) for bank, rate in banks)


def train(learner: Learner, batch: Batch, data: dict[str, torch.Tensor], scales: tuple) -> tuple:
    whole = (slice(0, 1), batch, data["is_weight"].unsqueeze(0), scales, Due(True, True, True), True)
    return learner.update(*whole, lambda phase: nullcontext())


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("path", golden_files("update_*.npz"))
def test_sequential_update(path: Path, dense: bool) -> None:
    """One published training step: critic, then agents in turn, Adam."""
    data, learner, batch, scales = golden_update(path, "sequential", dense)
    squares, _, _ = train(learner, batch, data, scales)
    close(squares[0], data["td_error_sq_sum"])
    check_weights(learner, data, "actor")
    check_weights(learner, data, "critic")


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("path", golden_files("update_*.npz"))
def test_joint_update(path: Path, dense: bool) -> None:
    """The joint mode's loss, actions and gradient at the before-actors and the after-critic."""
    data, learner, batch, scales = golden_update(path, "joint", dense)
    z, actions = learner.update.act(learner.actors.tensors(slice(0, 1)), batch.states)
    close(actions[0], data["actor_action_before"])
    assert torch.equal(proposes(actions)[0], data["proposes_before"].bool())

    squares, report, details = train(learner, batch, data, scales)
    close(squares[0], data["td_error_sq_sum"])
    check_weights(learner, data, "critic")

    # After one step from fresh moments Adam's first moment is (1 - beta1) times the gradient.
    gradients = learner.actors.layout.views(learner.actors.moments["exp_avg"] / 0.1)
    for parameter, gradient in gradients.items():
        expected = data[f"joint_actor_grad_{parameter}"]
        close(gradient, expected, atol=float(expected.abs().max()) * 1e-12)

    own = actions.detach().requires_grad_()
    weights = data["is_weight"].unsqueeze(0)
    loss, _, _ = learner.update._actor_loss(slice(0, 1), batch.states, z, own, None, slice(None), weights)
    close(loss[0], data["joint_actor_loss_before"])
    assert report.gradient_alive.any() and (details["dq_da"] != 0).any()
