"""The naive reference against the recorded numbers of the published implementation, and a short run."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import experiments
from reference.naive_learner import NaiveRun, Transition, naive_choose, naive_queue, naive_step

from common.agents.reports import RunKey
from common.config import StudyConfig

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(os.environ.get("GOLDEN_DIR", ROOT / ".." / "shared" / "golden"))
RTOL = 1e-9
WEIGHT_NAMES = [f"fc{layer}.{kind}" for layer in (1, 2, 3) for kind in ("weight", "bias")]


def golden(name: str) -> dict[str, np.ndarray]:
    """Arrays of one golden file; skips the test when the folder is absent."""
    if not GOLDEN.is_dir():
        pytest.skip(f"no golden folder at {GOLDEN}; set GOLDEN_DIR to run this")
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


def golden_run(arrays: dict[str, np.ndarray], actor_update: str) -> NaiveRun:
    """A run with the recorded networks, batch shape and learning rates."""
    batch_size, agents, _ = arrays["state"].shape
    config = StudyConfig(
        agents=agents, batch_size=batch_size, actor_update=actor_update, gamma=float(arrays["gamma"]),
        channels=min(10, agents), actor_hidden=tuple(arrays[f"before_actor_fc{i}.bias"].shape[-1] for i in (1, 2)),
        critic_hidden=tuple(len(arrays[f"before_critic_fc{i}.bias"]) for i in (1, 2)),
    )  # fmt: skip
    actors = [{k: torch.tensor(arrays[f"before_actor_{k}"][i]) for k in WEIGHT_NAMES} for i in range(agents)]
    critic = {k: torch.tensor(arrays[f"before_critic_{k}"]) for k in WEIGHT_NAMES}
    parts = critic.pop("fc1.weight").split([7 * agents, 3 * agents, 10], dim=1)
    critic |= dict(zip(("fc1.states", "fc1.actions", "fc1.personal"), parts, strict=True))
    key = RunKey(0, float(arrays["actor_lr"]), float(arrays["critic_lr"]))
    return NaiveRun(experiments()["baseline"], config, key, (actors, critic))


def critic_weights(run: NaiveRun) -> dict[str, np.ndarray]:
    """The critic's weights, its fc1 whole as recorded."""
    weights = {name: x.numpy() for name, x in run.critic.state_dict().items()}
    parts = [weights.pop(f"fc1.{part}") for part in ("states", "actions", "personal")]
    return weights | {"fc1.weight": np.concatenate(parts, axis=1)}


def golden_batch(arrays: dict[str, np.ndarray]) -> list[Transition]:
    """The recorded batch as transitions."""
    names = ("state", "action", "accepted", "reward", "next_state", "done")
    return [Transition(*row) for row in zip(*(arrays[name] for name in names), strict=True)]


@pytest.mark.parametrize("preset", ["scaled", "thesis"])
def test_environment_steps(preset: str) -> None:
    arrays = golden(f"env_{preset}")
    for t, state in enumerate(arrays["state"]):
        reward, energy, late, drained = naive_step(preset, state, *arrays["action"][t].T)
        np.testing.assert_allclose(reward, arrays["reward"][t], rtol=RTOL)
        np.testing.assert_allclose(energy, arrays["next_state"][t, :, 2], rtol=RTOL)
        np.testing.assert_allclose(late, arrays["late_fraction"][t], rtol=RTOL)
        np.testing.assert_allclose(drained, arrays["energy_penalised_fraction"][t], rtol=RTOL)


def test_queue_counts_waiting_tasks_again() -> None:
    """By hand: ten equal tasks of 1 s at time 0. No recorded step has a task that waits, so this pins it."""
    finish = naive_queue(list(range(10)), [0.0] * 10, [1.0] * 10)
    assert finish == {**dict.fromkeys(range(8), 1.0), 8: 3.0, 9: 4.0}


def test_selection() -> None:
    arrays = golden("selection")
    for t, accepted in enumerate(arrays["accepted"]):
        proposes, size = arrays["noisy_action"][t, :, 0] >= 0, arrays["state"][t, :, 3]
        np.testing.assert_array_equal(naive_choose(proposes, size, arrays["q"][t]), accepted)


@pytest.mark.parametrize("name", ["update_mixed", "update_few_proposals"])
def test_update(name: str) -> None:
    """The published step, in turn, and the gradient of the joint loss before it."""
    arrays = golden(name)
    run = golden_run(arrays, "sequential")
    report = run.train_step(golden_batch(arrays), arrays["is_weight"])
    np.testing.assert_allclose(report["td_error_sq_sum"], arrays["td_error_sq_sum"], rtol=RTOL)
    np.testing.assert_allclose(report["actor_loss"], arrays["joint_actor_loss_before"], rtol=RTOL)
    for key in WEIGHT_NAMES:
        np.testing.assert_allclose(critic_weights(run)[key], arrays[f"after_critic_{key}"], rtol=RTOL)
        actors = np.stack([actor.state_dict()[key].numpy() for actor in run.actors])
        np.testing.assert_allclose(actors, arrays[f"after_actor_{key}"], rtol=RTOL)

    report = golden_run(arrays, "joint").train_step(golden_batch(arrays), arrays["is_weight"])
    for key in WEIGHT_NAMES:
        gradient = np.stack([weights[key].numpy() for weights in report["actor_gradients"]])
        recorded = arrays[f"joint_actor_grad_{key}"]
        np.testing.assert_allclose(gradient, recorded, rtol=RTOL, atol=1e-12 * np.abs(recorded).max())
