"""Why the recipe plays with little noise: the best constant output on `interior` depends on the noise."""

from __future__ import annotations

import numpy as np
import torch

from common.environment.mec_env import STEPS, MecEnv, draw_world, share, tasks_from_draws
from common.environment.rollout import play

SEEDS, EPISODES, OUTPUTS = [0, 1, 2], 20, np.linspace(-1, 1, 21)


def best_output(noise: float) -> float:
    """The compute output, the same for all, that gets the best mean return on `interior` with noise of this scale."""
    env, world = MecEnv("interior", 10), draw_world(SEEDS, 50, torch.float32, torch.device("cpu"))
    draws = np.random.default_rng(0).random((1, EPISODES, STEPS + 1, 50, 3))
    tasks = torch.tensor(tasks_from_draws(draws), dtype=torch.float32).expand(len(SEEDS), -1, -1, -1, -1)
    normal = torch.randn((STEPS, *tasks.shape[:2], 50), generator=torch.Generator().manual_seed(0))

    def mean_return(output: float) -> float:
        def policy(state: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            alpha = share((output + noise * normal[t]).clamp(-1, 1))
            return torch.zeros_like(alpha, dtype=torch.bool), alpha, alpha

        return float(play(env, world, tasks, policy).rewards.sum(-1).mean())

    return float(OUTPUTS[np.argmax([mean_return(output) for output in OUTPUTS])])


def test_noise_moves_the_best_output_towards_the_bound() -> None:
    found = [best_output(noise) for noise in (0.0, 0.3 * 0.37, 0.37, 0.6, 1.0)]
    np.testing.assert_allclose(found, [0.1, 0.1, 0.2, 0.5, 1.0], atol=0.11)
    assert found == sorted(found)
