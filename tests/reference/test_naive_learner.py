"""The naive reference against the recorded numbers of the published implementation, and a short run."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from reference.naive_learner import WEIGHT_NAMES, NaiveRun, Transition, Weights, naive_choose, naive_queue, naive_step

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(os.environ.get("GOLDEN_DIR", ROOT / ".." / "shared" / "golden"))
RTOL = 1e-9


def golden(name: str) -> dict[str, np.ndarray]:
    """Arrays of one golden file; skips the test when the folder is absent."""
    if not GOLDEN.is_dir():
        pytest.skip(f"no golden folder at {GOLDEN}; set GOLDEN_DIR to run this")
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


def golden_run(arrays: dict[str, np.ndarray], actor_update: str) -> NaiveRun:
    """A run with the recorded networks, batch shape and learning rates."""
    batch_size, agents, _ = arrays["state"].shape
    return NaiveRun(
        preset="scaled", seed=0, agents=agents, channels=10, batch_size=batch_size, actor_update=actor_update,
        tau=1.0, gamma=float(arrays["gamma"]), actor_lr=float(arrays["actor_lr"]),
        critic_lr=float(arrays["critic_lr"]),
        actor_hidden=(arrays["before_actor_fc1.bias"].shape[-1], arrays["before_actor_fc2.bias"].shape[-1]),
        critic_hidden=(len(arrays["before_critic_fc1.bias"]), len(arrays["before_critic_fc2.bias"])),
        actor_weights=[{k: arrays[f"before_actor_{k}"][i] for k in WEIGHT_NAMES} for i in range(agents)],
        critic_weights={k: arrays[f"before_critic_{k}"] for k in WEIGHT_NAMES},
    )  # fmt: skip


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
def test_sequential_update(name: str) -> None:
    arrays = golden(name)
    run = golden_run(arrays, "sequential")
    report = run.train_step(golden_batch(arrays), arrays["is_weight"])
    np.testing.assert_allclose(report["td_error_sq_sum"], arrays["td_error_sq_sum"], rtol=RTOL)
    np.testing.assert_allclose(report["actor_loss"], arrays["joint_actor_loss_before"], rtol=RTOL)
    for key in WEIGHT_NAMES:
        np.testing.assert_allclose(run.critic_weights()[key], arrays[f"after_critic_{key}"], rtol=RTOL)
        actors = np.stack([weights[key] for weights in run.actor_weights()])
        np.testing.assert_allclose(actors, arrays[f"after_actor_{key}"], rtol=RTOL)


@pytest.mark.parametrize("name", ["update_mixed", "update_few_proposals"])
def test_joint_gradient(name: str) -> None:
    arrays = golden(name)
    run = golden_run(arrays, "joint")
    report = run.train_step(golden_batch(arrays), arrays["is_weight"])
    for key in WEIGHT_NAMES:
        gradient = np.stack([weights[key] for weights in report["actor_gradients"]])
        recorded = arrays[f"joint_actor_grad_{key}"]
        np.testing.assert_allclose(gradient, recorded, rtol=RTOL, atol=1e-12 * np.abs(recorded).max())


def small_weights(sizes: tuple[int, ...], rng: np.random.Generator) -> Weights:
    """Uniform weights of PyTorch's default scale for a network with these layer widths."""
    weights = {}
    for layer, (inputs, outputs) in enumerate(itertools.pairwise(sizes), start=1):
        bound = inputs**-0.5
        weights[f"fc{layer}.weight"] = rng.uniform(-bound, bound, (outputs, inputs))
        weights[f"fc{layer}.bias"] = rng.uniform(-bound, bound, outputs)
    return weights


@pytest.mark.parametrize("actor_update", ["joint", "sequential"])
def test_episodes_run_and_repeat(actor_update: str) -> None:
    """Three short episodes fill a small ring, train twice after the second, and repeat bit by bit."""
    results = []
    for _ in range(2):
        rng = np.random.default_rng(3)
        run = NaiveRun(
            preset="interior", seed=5, agents=12, channels=4, batch_size=4, updates_per_episode=2,
            actor_lr=1e-3, critic_lr=1e-2, actor_update=actor_update, tau=0.5, replay_capacity=25,
            clip_norm=1.0, actor_hidden=(8, 6), critic_hidden=(16, 8),
            actor_weights=[small_weights((7, 8, 6, 3), rng) for _ in range(12)],
            critic_weights=small_weights((130, 16, 8, 1), rng),
        )  # fmt: skip
        before = run.critic_weights()["fc1.weight"]
        returns = [run.episode(number) for number in (1, 2, 3)]
        assert np.isfinite(returns).all() and run.draws_made == 4 and run.stored == 30
        assert len(run.replay) == len(run.priorities) == 25 and (run.priorities > 0).all()
        assert [transition.done for transition in run.replay[:5]] == [False] * 4 + [True]
        assert max(transition.accepted.sum() for transition in run.replay) <= 4
        assert (run.critic_weights()["fc1.weight"] != before).any()
        results.append((returns, run.priorities, run.critic_weights()["fc3.bias"]))
    for first, second in zip(*results, strict=True):
        np.testing.assert_array_equal(first, second)
