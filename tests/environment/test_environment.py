"""Environment and rollout against the naive ones, on random cases of every preset, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from reference.naive_learner import naive_queue, naive_state, naive_step, naive_world

from common.environment.mec_env import (
    MAX_ENERGY_MJ,
    PRESETS,
    SERVER_UNITS,
    STEPS,
    MecEnv,
    draw_world,
    share,
    tasks_from_draws,
)
from common.environment.random_streams import task_draws
from common.environment.rollout import play

CPU = torch.device("cpu")
RTOL = 1e-12
LOW = np.array([1.0, 5.0, 0.0, 1.0, 300.0, 0.1, 0.4])
HIGH = np.array([24.0, 14.0, 3.2, 50.0, 737.5, 0.9, 1.5])


def random_case(
    rng: np.random.Generator, agents: int, offloads: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """State (N, 7), flags, alpha and rho (N,), with some batteries empty, nearly empty and full."""
    state = rng.uniform(LOW, HIGH, (agents, 7))
    state[:, 2] = np.where(rng.random(agents) < 0.5, state[:, 2], rng.choice([0.0, 1e-9, 1e-4, 3.2], agents))
    flags = np.zeros(agents)
    flags[rng.permutation(agents)[:offloads]] = 1.0
    alpha, rho = rng.uniform(0.01, 1.0, (2, agents))
    return state, flags, alpha, rho


def fast_step(preset: str, channels: int, *case: np.ndarray) -> tuple[np.ndarray, ...]:
    """Reward, energy and shares as arrays, from arrays with any leading dimensions."""
    state, flags, alpha, rho = (torch.from_numpy(values) for values in case)
    outcome = MecEnv(preset, channels).step(state, flags > 0.5, alpha, rho)
    return tuple(x.numpy() for x in (outcome.reward, outcome.energy, outcome.late_share, outcome.drained_share))


def plain_queue(offloaded: list[int], arrival: list[float], processing: list[float]) -> dict[int, float]:
    """The queue without double counting: every task goes to the unit that is free first."""
    units, finish = [0.0] * SERVER_UNITS, {}
    for agent in sorted(offloaded, key=lambda agent: arrival[agent]):
        earliest = units.index(min(units))
        finish[agent] = units[earliest] = max(arrival[agent], units[earliest]) + processing[agent]
    return finish


@pytest.mark.parametrize(("agents", "channels"), [(1, 1), (5, 3), (9, 8), (12, 10), (50, 10), (16, 13)])
@pytest.mark.parametrize("preset", PRESETS)
def test_step_equals_the_naive_step(preset: str, agents: int, channels: int) -> None:
    """Random states and actions with 0, 1, … K offloads, so with and without a task that waits."""
    rng = np.random.default_rng(agents)
    empty = full = 0
    for trial in range(3 * (channels + 1)):
        case = random_case(rng, agents, offloads=trial % (channels + 1))
        actual, expected = fast_step(preset, channels, *case), naive_step(preset, *case, channels=channels)
        for value, reference in zip(actual, expected, strict=True):
            np.testing.assert_allclose(value, reference, rtol=RTOL, atol=0)
        assert (actual[1] >= 0).all() and (actual[1] <= MAX_ENERGY_MJ).all()
        empty += (actual[1] == 0).sum()
        full += (actual[1] == MAX_ENERGY_MJ).sum()
    if agents >= 12:
        assert empty > 0, "no battery was emptied"
        assert full > 0 or preset == "scaled", "no battery was filled to the brim"


def test_queue_counts_waiting_tasks_again() -> None:
    """Ten equal tasks that arrive (almost) at once and take 1 s: eight finish at 1, the next ones at 3 and 4."""
    env = MecEnv("scaled", 10)
    state = torch.zeros(12, 7, dtype=torch.float64)
    state[:, 3], state[:, 4] = 1.0, 4e9 / (8 * 1024**2)  # size and cycles for one second at the server
    offload = torch.arange(12) >= 2
    finish = env.server_finish(state, offload, torch.zeros(12, dtype=torch.float64))
    expected = torch.tensor([0.0] * 2 + [1.0] * 8 + [3.0, 4.0], dtype=torch.float64)
    torch.testing.assert_close(finish, expected, rtol=RTOL, atol=0)


@pytest.mark.parametrize("preset", PRESETS)
def test_queue_equals_the_naive_queue(preset: str) -> None:
    """Finish times alone, with arrivals of the size of the processing times, so that many tasks wait."""
    rng = np.random.default_rng(5)
    differs = 0
    for offloads in [0, 1, 7, 8, 9, 10, 11, 12] * 10:
        state, flags, _, _ = random_case(rng, 14, offloads)
        processing = state[:, 3] * PRESETS[preset].bits_per_unit * state[:, 4] / 4e9
        arrival = rng.uniform(0.0, 1.5, 14) * processing.mean()
        offloaded = [i for i in range(14) if flags[i]]
        finish = MecEnv(preset, 12).server_finish(*map(torch.from_numpy, (state, flags > 0, arrival)))
        expected = naive_queue(offloaded, list(arrival), list(processing))
        np.testing.assert_allclose(finish.numpy(), [expected.get(i, 0.0) for i in range(14)], rtol=RTOL, atol=0)
        differs += expected != plain_queue(offloaded, list(arrival), list(processing))
    assert differs > 20, "double counting hardly mattered"


def test_double_counting_changes_rewards_of_thesis() -> None:
    """Strong radios and heavy tasks: the first units are still busy when the ninth task arrives."""
    rng = np.random.default_rng(0)
    rewards, plain_rewards = [], []
    for _ in range(20):
        low = [22.0, 12.0, 0.6, 8.0, 600.0, 0.1, 0.4]
        state = rng.uniform(low, [24.0, 14.0, 3.2, 12.0, 737.0, 0.9, 1.5], (12, 7))
        flags, ones = np.r_[np.ones(10), np.zeros(2)], np.ones(12)
        reward, energy, _, _ = fast_step("thesis", 10, state, flags, ones, ones)
        expected = naive_step("thesis", state, flags, ones, ones)
        np.testing.assert_allclose(reward, expected[0], rtol=RTOL)

        env, tensor = MecEnv("thesis", 10), torch.from_numpy(state)
        radio_time, radio_energy = (x.numpy() for x in env.radio(tensor, torch.ones(12)))
        local_time, local_energy = (x.numpy() for x in env.local(tensor, torch.ones(12)))
        processing = state[:, 3] * 8 * 1024 * state[:, 4] / 4e9
        finish = plain_queue(list(range(10)), list(radio_time), list(processing))
        time = np.array([min(finish.get(i, local_time[i]), 1.0) for i in range(12)])
        spent = np.where(flags > 0, radio_energy, local_energy)
        late = np.maximum(time - state[:, 5], 0.0)
        plain_rewards.append(-0.5 * (spent + time + np.maximum(0.5 - energy, 0) * 1e6 + late).sum())
        rewards.append(float(reward))
    assert (np.array(rewards) < np.array(plain_rewards) - 1e-6).sum() >= 10


def test_nobody_offloads_by_hand() -> None:
    """One agent of `interior`: time, energy, battery, lateness and reserve as the equations give them."""
    power, gain, battery, size, cycles, deadline, processor, alpha = 10.0, 9.0, 0.4, 20.0, 500.0, 0.1, 1.0, 0.5
    state = np.array([[power, gain, battery, size, cycles, deadline, processor]])
    work, frequency = size * 8192 * cycles, processor * 1e9 * alpha
    time, used = work / frequency, 5e-27 * work * frequency**2
    left = battery - used * 1e-6 + 1e-9
    expected = -0.5 * (used + time + (0.5 - left) * 1e6 + (time - deadline))
    reward, energy, late, drained = fast_step("interior", 1, state, np.zeros(1), np.array([alpha]), np.ones(1))
    assert 0.1 < time < 1.0
    np.testing.assert_allclose([reward, energy[0]], [expected, left], rtol=RTOL)
    assert (late, drained) == (1.0, 1.0)


def test_an_empty_battery_costs_the_whole_time() -> None:
    """One agent of `scaled` with a fast processor and almost no energy: e = 0 and T = 1, whatever it computed."""
    state = np.array([[1.0, 5.0, 1e-7, 1.0, 300.0, 0.9, 1.5]])
    used = 5e-27 * 8 * 1024**2 * 300 * 1.5e9**2
    reward, energy, late, drained = fast_step("scaled", 1, state, np.zeros(1), np.ones(1), np.ones(1))
    assert used > 0.2 and energy[0] == 0.0 and (late, drained) == (1.0, 1.0)
    np.testing.assert_allclose(reward, -0.5 * (used + 1.0 + 0.5e6 + 0.1), rtol=RTOL)


def test_batteries_stay_in_their_bounds() -> None:
    env = MecEnv("thesis", 1)
    energy = torch.tensor([0.0, 3.2, 3.2, 1.0, 0.0], dtype=torch.float64)
    used = torch.tensor([0.0, 0.0, 1e9, 1000.0, 0.002], dtype=torch.float64)
    expected = torch.tensor([1e-9, 3.2, 0.0, 1.0 - 1e-3 + 1e-9, 0.0], dtype=torch.float64)
    torch.testing.assert_close(env.energy_after(energy, used), expected, rtol=RTOL, atol=0)


@pytest.mark.parametrize("preset", PRESETS)
def test_leading_dimensions_do_not_matter(preset: str) -> None:
    rng = np.random.default_rng(2)
    cases = [random_case(rng, 13, offloads) for offloads in (0, 1, 8, 9, 10, 10)]
    stacked = [np.stack(column).reshape(2, 3, *column[0].shape) for column in zip(*cases, strict=True)]
    together = fast_step(preset, 10, *stacked)
    for i, case in enumerate(cases):
        for value, alone in zip(together, fast_step(preset, 10, *case), strict=True):
            np.testing.assert_allclose(value[i // 3, i % 3], alone, rtol=1e-14, atol=0)


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
                stepped = fast_step(preset, channels, state, *action)
                np.testing.assert_allclose(fast, [stepped[0], *stepped[2:]], rtol=RTOL)
                state = naive_state(naive, energy, draws[run, episode, t + 1])
            np.testing.assert_allclose(trajectory.states[run, episode, STEPS].numpy(), state, rtol=RTOL)


def test_share_maps_the_bounds() -> None:
    """-1 to 0.01, 1 to 1, and the middle to the middle."""
    shares = share(torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64))
    np.testing.assert_allclose(shares.numpy(), [0.01, 0.505, 1.0], rtol=1e-15)
    assert share(torch.tensor(1.0)) <= 1.0 and math.isclose(share(torch.tensor(-1.0)).item(), 0.01, rel_tol=1e-6)
