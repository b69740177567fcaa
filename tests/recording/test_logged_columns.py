"""Columns of gradient_norms.csv and saturation.csv against NumPy, one run at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.agents.reports import StepDetails
from common.environment.mec_env import MecEnv
from common.recording.tracking import gradient_columns, saturation_columns


def details(rng: np.random.Generator, runs: int = 2, agents: int = 5, batch: int = 4) -> StepDetails:
    def tensor(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=shape))

    z, z_after, slope = (3 * tensor(runs, batch, agents, 3) for _ in range(3))
    state = torch.from_numpy(
        rng.uniform([1, 5, 0.5, 1, 300, 0.1, 0.4], [24, 14, 3.2, 50, 737, 0.9, 1.5], (runs, batch, agents, 7))
    )
    norms = [tensor(*shape).abs() for shape in ((runs, agents, 3), (runs, 3), *[(runs, agents), (runs,)] * 3)]
    extras = {"gain": tensor(runs, agents), "raw_z": tensor(runs, agents, batch, 3)}
    return StepDetails(*norms, state, z.tanh(), z, z_after, slope, z[..., 0] > 0, extras)


@pytest.mark.parametrize("preset", ["scaled", "interior"])
def test_logged_columns_by_hand(preset: str) -> None:
    report = details(np.random.default_rng(3))
    env = MecEnv(preset, channels=5)
    gradients = gradient_columns(report, ("fc1", "fc2", "fc3"), ("fc1", "fc2", "fc3"))
    saturation = saturation_columns(report, env)
    for run in range(2):
        per_agent = [np.linalg.norm(report.actor_gradients[run, i]) for i in range(5)]
        actor = np.sqrt(np.mean(np.square(per_agent)))
        critic = np.linalg.norm(report.critic_gradients[run])
        assert float(gradients["actor_gradient_norm"][run]) == pytest.approx(actor)
        assert float(gradients["gradient_ratio"][run]) == pytest.approx(actor / critic)
        relative = (report.actor_updates / report.actor_weight_norms)[run].numpy()
        assert float(gradients["actor_relative_step"][run]) == pytest.approx(np.sqrt(np.mean(np.square(relative))))
        assert float(gradients["mean_abs_dq_da"][run]) == pytest.approx(np.mean(np.abs(report.dq_da[run].numpy())))
        z = report.pre_activations[run].numpy()
        steps = np.square(report.z_after[run].numpy() - z).mean((0, 2))
        assert float(saturation["z_step_rms"][run]) == pytest.approx(np.sqrt(np.mean(steps)))
        a = np.tanh(z)
        assert float(saturation["saturation_ratio"][run]) == pytest.approx(np.mean(np.abs(a) > 0.9))
        assert float(saturation["saturation_power"][run]) == pytest.approx(np.mean(np.abs(a[..., 2]) > 0.9))
        assert float(saturation["tanh_derivative"][run]) == pytest.approx(np.mean(1 - a**2))
        assert float(saturation["z_sd"][run]) == pytest.approx(z.std())
        assert float(saturation["z_q25"][run]) == pytest.approx(np.quantile(z, 0.25))
        wrong = total = 0
        for b, i in np.argwhere(np.abs(a[..., 1]) > 0.9):
            state = report.states[run, b, i]
            high, low = (float(env.local_cost(state, torch.tensor(share))) for share in (1.0, 0.01))
            total += 1
            wrong += (high > low) if a[b, i, 1] > 0 else (low > high)
        assert float(saturation["wrong_side_saturation"][run]) == pytest.approx(wrong / total)
        for name, values in report.extras.items():
            x = values[run].numpy()
            by_hand = {"mean": x.mean(), "sd": x.std(), "min": x.min(), "max": x.max()}
            for figure, expected in by_hand.items():
                assert float(saturation[f"{name}_{figure}"][run]) == pytest.approx(expected)
    assert list(saturation)[-8:] == [f"{n}_{figure}" for n in ("gain", "raw_z") for figure in by_hand]
