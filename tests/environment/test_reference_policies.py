"""Reference policies against the naive environment: the choices they make, and the returns they are given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference.naive_learner import naive_choose, naive_state, naive_step, naive_world

from common.config import StudyConfig
from common.environment.evaluation import evaluation_tasks
from common.environment.mec_env import PRESETS, STEPS, MecEnv
from common.environment.random_streams import stream, task_draws
from common.environment.reference_policies import (
    ReferenceResult,
    best_local_share,
    best_radio_share,
    evaluate_references,
    greedy_offloads,
    share_grid,
)
from common.recording.schema import POLICIES

SMALL = {"agents": 5, "channels": 3, "eval_episodes": 2}
SHARES = np.geomspace(0.01, 1.0, 200)


def tasks_of(seed: int, agents: int, count: int) -> np.ndarray:
    """States (count, N, 7) of one seed's agents at full battery."""
    world = naive_world(seed, agents)
    return np.stack([naive_state(world, world[1], task_draws(seed, k, 0, agents)[0]) for k in range(count)])


def local_costs(preset: str, agent: np.ndarray) -> np.ndarray:
    """Cost of one agent's task (7,) for each of SHARES, computed locally."""
    nobody = np.zeros(1)
    return np.array([-naive_step(preset, agent[None], nobody, np.array([a]), np.ones(1))[0] for a in SHARES])


def naive_play(config: StudyConfig, seed: int, policy) -> tuple[float, float, float, float]:
    """Mean return, shares late and drained, and offloads per step, of the evaluation episodes.

    policy (episode, step, state) -> flags, alpha, rho, each (N,).
    """
    world = naive_world(seed, config.agents)
    rows = []
    for k in range(config.eval_episodes):
        unit = task_draws(10_000, k, STEPS, config.agents, "evaluation tasks")
        energy = world[1]
        for t in range(STEPS):
            state = naive_state(world, energy, unit[t])
            action = policy(k, t, state)
            reward, energy, late, drained = naive_step(config.env, state, *action, channels=config.channels)
            rows.append((reward, late, drained, action[0].sum()))
    reward, late, drained, offloads = np.mean(rows, axis=0)
    return reward * STEPS, late, drained, offloads


def numbers(result: ReferenceResult) -> tuple[float, float, float, float]:
    return result.evaluation_return, result.late_share, result.drained_share, result.offloads_per_step


@pytest.mark.parametrize("preset", PRESETS)
def test_best_local_share(preset: str) -> None:
    """No share of the grid is cheaper; on the bound where the preset has its optimum there, else mostly inside."""
    states = tasks_of(3, 6, 4)
    shares, costs = (x.numpy() for x in best_local_share(MecEnv(preset, 3), torch.from_numpy(states)))
    for place in np.ndindex(4, 6):
        tried = local_costs(preset, states[place])
        np.testing.assert_allclose(costs[place], tried.min(), rtol=1e-12)
        np.testing.assert_allclose(tried[np.abs(SHARES - shares[place]).argmin()], tried.min(), rtol=1e-12)
    inside = ((shares > 0.0101) & (shares < 0.999)).mean()
    assert {"scaled": (shares < 0.0101).all(), "thesis": (shares > 0.999).all(), "interior": inside > 0.8}[preset]


def test_best_radio_share_is_the_cheapest_at_an_idle_server() -> None:
    states = tasks_of(4, 6, 2)
    chosen = best_radio_share(MecEnv("interior", 3), torch.from_numpy(states)).numpy()
    grid = share_grid(50).numpy()
    for place in np.ndindex(2, 6):
        agent, one = states[place][None], np.ones(1)
        costs = [-naive_step("interior", agent, one, one, np.array([rho]), channels=3)[0] for rho in grid]
        assert costs[np.abs(grid - chosen[place]).argmin()] == pytest.approx(min(costs), rel=1e-12)


@pytest.mark.parametrize("preset", ["thesis", "interior"])
@pytest.mark.parametrize(("agents", "channels", "size"), [(5, 3, 1.0), (12, 10, 1.0), (12, 10, 4.0)])
def test_greedy_offloads_equal_the_naive_ones(preset: str, agents: int, channels: int, size: float) -> None:
    """One more offload at a time, with the whole naive environment's reward; with large tasks the storage binds."""
    states = tasks_of(6, agents, 3)
    states[..., 3] = np.clip(states[..., 3] * size, 1.0, 100.0)
    tensor, env = torch.from_numpy(states), MecEnv(preset, channels)
    alpha, rho = best_local_share(env, tensor)[0], best_radio_share(env, tensor)
    chosen = greedy_offloads(env, tensor, alpha, rho).numpy()
    for k, state in enumerate(states):
        shares = alpha[k].numpy(), rho[k].numpy()
        flags = np.zeros(agents)
        best = naive_step(preset, state, flags, *shares, channels=channels)[0]
        for _ in range(channels):
            tried = {}
            for i in np.flatnonzero(flags == 0):
                more = flags + (np.arange(agents) == i)
                if (more * state[:, 3]).sum() <= 400.0:
                    tried[i] = naive_step(preset, state, more, *shares, channels=channels)[0]
            if not tried or max(tried.values()) <= best:
                break
            agent = max(tried, key=tried.get)
            flags, best = flags + (np.arange(agents) == agent), tried[agent]
        np.testing.assert_array_equal(chosen[k], flags > 0.5)
    assert chosen.any()
    assert size == 1.0 or (chosen * states[..., 3]).sum(-1).max() > 300.0


@pytest.mark.parametrize("preset", PRESETS)
def test_returns_equal_naive_episodes(preset: str) -> None:
    """The constant policy with its share, which no other share of its grid beats, and the random policy."""
    config = StudyConfig(env=preset, **SMALL)
    random, constant, *_ = evaluate_references(config, [7])
    nobody, ones = np.zeros(5), np.ones(5)
    grid = np.geomspace(0.01, 1.0, 100)
    returns = [naive_play(config, 7, lambda k, t, s, a=a: (nobody, a * ones, ones))[0] for a in grid[::9]]
    expected = naive_play(config, 7, lambda k, t, s: (nobody, constant.alpha * ones, ones))
    np.testing.assert_allclose(numbers(constant), expected, rtol=1e-12)
    assert constant.evaluation_return >= max(returns) - 1e-9 and np.abs(grid - constant.alpha).min() < 1e-12

    draws = stream(7, "random policy")
    actions = draws.uniform(-1.0, 1.0, (2, STEPS, 5, 3))
    orders = np.argsort(draws.random((2, STEPS, 5)), axis=-1)

    def at_random(k: int, t: int, state: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        own = actions[k, t]
        flags = naive_choose(own[:, 0] >= 0, state[:, 3], np.zeros(5), 3, orders[k, t])
        return flags, 0.01 + 0.99 * (own[:, 1] + 1) / 2, 0.01 + 0.99 * (own[:, 2] + 1) / 2

    np.testing.assert_allclose(numbers(random), naive_play(config, 7, at_random), rtol=1e-12)


@pytest.mark.parametrize("preset", PRESETS)
def test_policies_are_ordered(preset: str) -> None:
    """Each knows more than the one before; only `scaled` leaves nothing to gain."""
    config = StudyConfig(env=preset, agents=16, channels=10, eval_episodes=3)
    found = evaluate_references(config, [1, 2])
    assert [(one.seed, one.policy) for one in found] == [(seed, policy) for seed in (1, 2) for policy in POLICIES]
    for policies in (found[:4], found[4:]):
        returns, offloads = [one.evaluation_return for one in policies], [one.offloads_per_step for one in policies]
        assert returns[0] < returns[1] <= returns[2] + 1e-9 and returns[2] <= returns[3] + 1e-9
        assert offloads[0] > 4 and offloads[1:3] == [0, 0]
        assert [one.alpha is None for one in policies] == [True, False, True, True]
        if preset == "scaled":
            assert policies[1].alpha == pytest.approx(0.01) and offloads[3] == 0
        else:
            assert returns[3] > returns[2] and 0 < offloads[3] <= 10
    assert evaluate_references(config, [2]) == found[4:], "seeds are played for themselves"


def test_evaluation_tasks_are_fixed() -> None:
    """The same for every study, whatever the number of episodes, and not those of training."""
    tasks = evaluation_tasks(3, 4)
    assert tasks.shape == (3, STEPS + 1, 4, 3)
    np.testing.assert_array_equal(tasks[:2], evaluation_tasks(2, 4))
    assert len(np.unique(tasks)) == tasks.size
    np.testing.assert_allclose(tasks[0, 0, 0, 0], 1 + 49 * stream(10_000, "evaluation tasks", 0).random(), rtol=1e-15)
    assert not np.isin(task_draws(10_000, 0, STEPS, 4), (tasks[..., 0] - 1) / 49).any()
