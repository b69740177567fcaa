"""Columns of gradient_norms.csv and saturation.csv against NumPy, one run at a time; what saturated, stuck, … mean: see
tests/monitor/test_definitions.py."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from common.agents.reports import StepDetails
from common.environment.mec_env import MecEnv
from common.recording import schema
from common.recording.tracking import gradient_columns, saturation_columns

ENV = MecEnv("interior", channels=5)
LAYERS = (("fc1", "fc2", "fc3"), ("fc1", "fc2", "fc3"))


def details(runs: int = 1, agents: int = 2, batch: int = 4, **given: Any) -> StepDetails:
    """Random measures of one step, but for those that are given."""
    rng = np.random.default_rng(3)

    def tensor(*shape: int) -> Tensor:
        return torch.from_numpy(rng.normal(size=shape))

    fields: dict[str, Any] = {
        name: 3 * tensor(runs, batch, agents, 3) for name in ("pre_activations", "z_after", "dq_da")
    }
    fields |= {"actor_gradients": tensor(runs, agents, 3).abs(), "critic_gradients": tensor(runs, 3).abs()}
    for kind in ("clipped", "updates", "weight_norms"):
        fields |= {f"actor_{kind}": tensor(runs, agents).abs(), f"critic_{kind}": tensor(runs).abs()}
    low, high = [1, 5, 0.5, 1, 300, 0.1, 0.4], [24, 14, 3.2, 50, 737, 0.9, 1.5]
    fields["states"] = torch.from_numpy(rng.uniform(low, high, (runs, batch, agents, 7)))
    fields["extras"] = {"gain": tensor(runs, agents), "raw_z": tensor(runs, agents, batch, 3)}
    fields |= {"actions": fields["pre_activations"].tanh(), "offloads": fields["pre_activations"][..., 0] > 0}
    return StepDetails(**{**fields, **given})


def measured(of: StepDetails, env: MecEnv = ENV, due: Tensor | None = None) -> dict[str, list[float]]:
    """All columns of a step."""
    columns = gradient_columns(of, *LAYERS, due) | saturation_columns(of, env, due)
    return {name: values.tolist() for name, values in columns.items()}


def rms(x: np.ndarray | Tensor) -> float:
    return np.sqrt(np.mean(np.square(np.asarray(x))))


@pytest.mark.parametrize("preset", ["scaled", "interior"])
def test_columns_by_hand(preset: str) -> None:
    report, env = details(runs=2, agents=5, batch=4), MecEnv(preset, channels=5)
    found = measured(report, env)
    for run in range(2):
        gradients, critic = report.actor_gradients[run].numpy(), np.linalg.norm(report.critic_gradients[run])
        actor = rms(np.linalg.norm(gradients, axis=1))
        z, slope = report.pre_activations[run].numpy(), report.dq_da[run].numpy()
        a, late = np.tanh(z), np.abs(np.tanh(z)) > 0.99
        signs = np.abs(np.sign(slope).mean(0))  # of each agent's output over the batch
        expected = {
            "actor_gradient_norm": actor, "critic_gradient_norm": critic, "gradient_ratio": actor / critic,
            "actor_fc2": rms(gradients[:, 1]), "critic_fc3": report.critic_gradients[run, 2],
            "actor_update_norm": rms(report.actor_updates[run]), "critic_update_norm": report.critic_updates[run],
            "actor_relative_step": rms((report.actor_updates / report.actor_weight_norms)[run]),
            "critic_relative_step": (report.critic_updates / report.critic_weight_norms)[run],
            "actor_clipped_norm": rms(report.actor_clipped[run]), "critic_clipped_norm": report.critic_clipped[run],
            "mean_abs_dq_da": np.mean(np.abs(slope)), "saturation_ratio": np.mean(np.abs(a) > 0.9),
            "saturation_offload": np.mean(np.abs(a[..., 0]) > 0.9),
            "saturation_power": np.mean(np.abs(a[..., 2]) > 0.9), "tanh_derivative": np.mean(1 - a**2),
            "stuck_share": np.mean(late & (a * slope < 0)), "bang_bang_share": np.mean(late & (a * slope > 0)),
            "dq_da_sign_coherence": signs.mean(), "z_sd": z.std(), "z_q25": np.quantile(z, 0.25),
            "z_q99": np.quantile(z, 0.99), "z_min": z.min(),
            "z_step_rms": rms(np.sqrt(np.square(report.z_after[run].numpy() - z).mean((0, 2)))),
        }  # fmt: skip
        for name, values in report.extras.items():
            x = values[run].numpy()
            expected |= {f"{name}_mean": x.mean(), f"{name}_sd": x.std()}
            expected |= {f"{name}_min": x.min(), f"{name}_max": x.max()}
        wrong = []
        for b, i in np.argwhere(np.abs(a[..., 1]) > 0.9):
            high, low = (float(env.local_cost(report.states[run, b, i], torch.tensor(share))) for share in (1.0, 0.01))
            wrong.append(high > low if a[b, i, 1] > 0 else low > high)
        expected["wrong_side_saturation"] = np.mean(wrong)
        for name, value in expected.items():
            assert found[name][run] == pytest.approx(float(value)), name


def test_columns_are_those_of_the_files() -> None:
    """And after them those of what a variant measures."""
    found = list(measured(details()))
    own = *schema.FILES[schema.GRADIENT_NORMS][4:], *schema.FILES[schema.SATURATION][4:]
    assert sorted(found[:-8]) == sorted(own)
    assert found[-8:] == [f"{name}_{part}" for name in ("gain", "raw_z") for part in ("mean", "sd", "min", "max")]


@pytest.mark.parametrize(("sign", "cosine"), [(2.5, 1.0), (-1.0, -1.0)])
def test_alignment_is_that_of_the_rewards_own_slope(sign: float, cosine: float) -> None:
    """A critic that knows the slope up to its scale, and one that has it the wrong way round; offload has none."""
    report = details()
    slope = ENV.reward_slope(report.states, report.offloads, report.actions)
    found = measured(details(dq_da=sign * slope))
    for output in ("compute", "power"):
        assert found[f"dq_da_alignment_{output}"] == pytest.approx([cosine], rel=1e-4)


def test_what_does_not_exist_is_empty() -> None:
    """A derivative without tanh, a wrong side without saturation, an alignment without a slope of the reward."""
    ones = torch.ones(1, 4, 2, 3)
    found = measured(details(has_tanh=False, actions=0.5 * ones, offloads=ones[..., 0] > 0))
    empty = {name for name, values in found.items() if math.isnan(values[0])}
    assert empty == {
        "tanh_derivative", "zero_derivative_share", "wrong_side_saturation", "dq_da_alignment_compute",
    }  # fmt: skip


def test_actor_cells_of_agents_that_were_not_due() -> None:
    gradients = torch.tensor([[2.0, 4.0]] * 3).unsqueeze(2).expand(3, 2, 3)
    due = torch.tensor([[True, True], [True, False], [False, False]])
    found = measured(details(runs=3, actor_gradients=gradients), due=due)
    np.testing.assert_allclose(found["actor_fc1"], [math.sqrt(10), 2, math.nan])
    names = ("actor_gradient_norm", "gradient_ratio", "actor_update_norm", "actor_clipped_norm", "z_step_rms")
    assert all(np.isnan(found[name]).tolist() == [False, False, True] for name in names)
    assert all(np.isfinite(found[name]).all() for name in ("critic_gradient_norm", "critic_update_norm", "z_mean"))
