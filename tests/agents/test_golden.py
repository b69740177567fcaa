"""The project's own environment, decision and learner against numbers of the published implementation."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from common.agents.training_step import StepScales, TrainingStep, Transitions, act
from helpers import linear_orientation

from common.agents.learner import Learner
from common.agents.optimizer import adam_scales
from common.agents.reports import RunKey
from common.config import StudyConfig
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


def golden_learner(agents: int, channels: int, **options: object) -> Learner:
    config = StudyConfig(
        agents=agents, channels=channels, episodes=1, dtype="float64", critic_lrs=(1.0,), actor_lrs=(1.0,), **options
    )
    return Learner(config, [RunKey(0, 1.0, 1.0)], torch.device("cpu"))


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("path", golden_files("selection*.npz"))
def test_selection(path: Path, dense: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The learner's own decision in evaluation mode, with the given scores in place of the critic's."""
    data = load(path)
    agents = data["state"].shape[1]
    learner = golden_learner(agents, min(10, agents))
    learner.dense = dense
    # Decisions are independent, so they go in as the E dimension of one run.
    monkeypatch.setattr(learner, "_scores", lambda runs, state, actions, wanted: data["q"].unsqueeze(0))
    offloads, _, _ = learner.decide(learner.spans[0], data["state"].unsqueeze(0), data["noisy_action"].unsqueeze(0))
    assert STORAGE == 400.0
    assert torch.equal(offloads[0], data["accepted"] > 0.5)


def load_weights(learner: Learner, data: dict[str, torch.Tensor]) -> None:
    agents = learner.config.agents
    for name, view in learner.actors.views(slice(0, 1)).items():
        golden = data[f"before_actor_{name}"]
        view.copy_(golden.mT if name.endswith(".weight") else golden)
    weight = data["before_critic_fc1.weight"]
    parts = dict(zip(("states", "actions", "personal"), weight.T.split([7 * agents, 3 * agents, 10]), strict=True))
    for name, view in learner.critics.views(slice(0, 1)).items():
        part = name.partition(".")[2]
        golden = parts[part] if part in parts else data[f"before_critic_{name}"]
        view.copy_(golden.T if part == "weight" else golden)


def check_weights(views: dict[str, torch.Tensor], data: dict[str, torch.Tensor], prefix: str) -> None:
    for name, view in linear_orientation(views).items():
        golden = data[f"{prefix}_{name}"]
        close(view if view.dim() == golden.dim() else view[0], golden)


def golden_update(path: Path, mode: str, dense: bool) -> tuple[dict, Learner, TrainingStep, Transitions, StepScales]:
    data = load(path)
    agents = data["state"].shape[1]
    accepted = data["accepted"] > 0.5
    channels = max(1, int(accepted.sum(1).max()))
    learner = golden_learner(agents, channels, actor_update=mode, gamma=float(data["gamma"]))
    learner.training_step.dense = dense
    load_weights(learner, data)
    indices = torch.where(accepted, torch.arange(agents), agents).sort(-1).values[:, :channels]
    batch = Transitions(
        *(data[name].unsqueeze(0) for name in ("state", "action")), indices.unsqueeze(0),
        *(data[name].unsqueeze(0) for name in ("reward", "next_state", "done")),
    )
    actor, correction = adam_scales(data["actor_lr"].reshape(1), 1)
    critic, _ = adam_scales(data["critic_lr"].reshape(1), 1)
    scales = StepScales(actor, critic, torch.tensor(correction, dtype=torch.float64))
    return data, learner, learner.training_step, batch, scales


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("path", golden_files("update_*.npz"))
def test_sequential_update(path: Path, dense: bool) -> None:
    """One published training step: critic, then agents in turn, Adam."""
    data, learner, step, batch, scales = golden_update(path, "sequential", dense)
    squares, _, _ = step(slice(0, 1), batch, data["is_weight"].unsqueeze(0), scales, details=True)
    close(squares[0], data["td_error_sq_sum"])
    check_weights(learner.actors.views(slice(0, 1)), data, "after_actor")
    check_weights(learner.critics.views(slice(0, 1)), data, "after_critic")


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("path", golden_files("update_*.npz"))
def test_joint_update(path: Path, dense: bool) -> None:
    """The joint mode's loss, actions and gradient at the before-actors and the after-critic."""
    data, learner, step, batch, scales = golden_update(path, "joint", dense)
    actions, _ = act(learner.actors.network, learner.actors.views(slice(0, 1)), batch.states)
    close(actions[0], data["actor_action_before"])
    assert torch.equal(proposes(actions)[0], data["proposes_before"].bool())

    weights = data["is_weight"].unsqueeze(0)
    before = learner.actors.flat.clone()
    squares, report, details = step(slice(0, 1), batch, weights, scales, details=True)
    close(squares[0], data["td_error_sq_sum"])
    check_weights(learner.critics.views(slice(0, 1)), data, "after_critic")

    # After one step from fresh moments Adam's first moment is (1 - beta1) times the gradient.
    gradients = linear_orientation(learner.actors.layout.views(learner.actors.first / 0.1))
    for parameter, gradient in gradients.items():
        expected = data[f"joint_actor_grad_{parameter}"]
        close(gradient, expected, atol=float(expected.abs().max()) * 1e-12)

    learner.actors.flat.copy_(before)
    loss = step._policy_loss(slice(0, 1), batch.states, actions, weights)
    close(loss[0], data["joint_actor_loss_before"])
    assert report.gradient_alive.any() and details.action_slope.item() > 0
