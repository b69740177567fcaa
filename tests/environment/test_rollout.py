"""Whole episodes against the environment step by step, the fast one and the naive one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference.naive_learner import naive_state, naive_step, naive_world

from common.environment.evaluation import summarise
from common.environment.mec_env import PRESETS, STEPS, MecEnv, draw_world, tasks_from_draws
from common.environment.random_streams import task_draws
from common.environment.rollout import Trajectory, play

CPU = torch.device("cpu")
RTOL = 1e-12


@pytest.mark.parametrize("preset", PRESETS)
def test_playing_equals_stepping(preset: str) -> None:
    """`play` against the environment and the naive one step by step, for 2 seeds and 3 episodes at once."""
    seeds, agents, episodes, channels = [3, 8], 12, 3, 10
    draws = np.stack([[task_draws(seed, k, STEPS, agents) for k in range(episodes)] for seed in seeds])
    env, world = MecEnv(preset, channels), draw_world(seeds, agents, torch.float64, CPU)
    generator = torch.Generator().manual_seed(0)
    shape = (STEPS, len(seeds), episodes, agents)
    order = torch.rand(shape, generator=generator, dtype=torch.float64).argsort(-1)
    count = torch.randint(0, channels + 1, shape[:-1], generator=generator).unsqueeze(-1)
    flags = order < count
    alpha, rho = 0.01 + 0.99 * torch.rand((2, *shape), generator=generator, dtype=torch.float64)
    seen = []

    def policy(state: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        seen.append(state.clone())
        # Depends on the state, so that a policy which saw a wrong battery would act differently.
        return flags[t] & (state[..., 2] > 0), alpha[t], rho[t]

    tasks = torch.from_numpy(tasks_from_draws(draws))
    trajectory = play(env, world, tasks, policy)
    assert torch.equal(torch.stack(seen, dim=2), trajectory.states[:, :, :-1])
    played = (trajectory.rewards, trajectory.late_share, trajectory.drained_share)
    for run, seed in enumerate(seeds):
        naive = naive_world(seed, agents)
        for episode in range(episodes):
            state = naive_state(naive, naive[1], draws[run, episode, 0])
            for t in range(STEPS):
                action = [x[t, run, episode].numpy() for x in (flags, alpha, rho)]
                action[0] = action[0] * (state[:, 2] > 0) * 1.0
                np.testing.assert_allclose(trajectory.states[run, episode, t].numpy(), state, rtol=RTOL)
                assert (trajectory.offloads[run, episode, t].numpy() == action[0]).all()
                fast = [x[run, episode, t] for x in played]
                reward, energy, late, drained = naive_step(preset, state, *action, channels=channels)
                np.testing.assert_allclose(fast, [reward, late, drained], rtol=RTOL)
                state = naive_state(naive, energy, draws[run, episode, t + 1])
            np.testing.assert_allclose(trajectory.states[run, episode, STEPS].numpy(), state, rtol=RTOL)


def test_summary_of_a_trajectory() -> None:
    """Return: sum over steps, mean over episodes; everything else a mean over both."""
    generator = torch.Generator().manual_seed(1)
    rewards, late, drained = torch.rand((3, 2, 4, 10), generator=generator, dtype=torch.float64)
    offloads = torch.rand((2, 4, 10, 6), generator=generator) < 0.3
    found = summarise(Trajectory(torch.empty(2, 4, 11, 6, 7), offloads, rewards, late, drained))
    for run in range(2):
        expected = (rewards[run].sum() / 4, late[run].mean(), drained[run].mean(), offloads[run].double().sum() / 40)
        actual = (found.evaluation_return, found.late_share, found.drained_share, found.offloads_per_step)
        for value, reference in zip(actual, expected, strict=True):
            torch.testing.assert_close(value[run], reference, rtol=1e-12, atol=0)
