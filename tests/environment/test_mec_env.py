"""The environment against the naive one, on random cases of every preset, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference.naive_learner import naive_queue, naive_step

from common.environment.mec_env import MAX_ENERGY_MJ, PRESETS, MecEnv, share

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


@pytest.mark.parametrize("preset", PRESETS)
def test_queue_equals_the_naive_queue(preset: str) -> None:
    """Finish times alone, with arrivals of the size of the processing times, so that many tasks wait."""
    rng = np.random.default_rng(5)
    for offloads in [0, 1, 7, 8, 9, 10, 11, 12] * 10:
        state, flags, _, _ = random_case(rng, 14, offloads)
        processing = state[:, 3] * PRESETS[preset].bits_per_unit * state[:, 4] / 4e9
        arrival = rng.uniform(0.0, 1.5, 14) * processing.mean()
        expected = naive_queue(list(np.flatnonzero(flags)), list(arrival), list(processing))
        finish = MecEnv(preset, 12).server_finish(*map(torch.from_numpy, (state, flags > 0, arrival)))
        np.testing.assert_allclose(finish.numpy(), [expected.get(i, 0.0) for i in range(14)], rtol=RTOL, atol=0)


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


def test_share_maps_the_bounds() -> None:
    """-1 to 0.01, 1 to 1, and the middle to the middle; in float32 no more than 1."""
    shares = share(torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64))
    np.testing.assert_allclose(shares.numpy(), [0.01, 0.505, 1.0], rtol=1e-15)
    assert share(torch.tensor(1.0)) <= 1.0


def naive_reward(preset: str, state: np.ndarray, flags: np.ndarray, actions: np.ndarray) -> float:
    """Reward of the naive environment from outputs (N, 3) in [-1, 1]."""
    alpha, rho = (0.01 + 0.99 * (actions[:, k] + 1) / 2 for k in (1, 2))
    return naive_step(preset, state, flags, alpha, rho)[0]


@pytest.mark.parametrize("preset", PRESETS)
def test_reward_slope_equals_finite_differences(preset: str) -> None:
    """Of the naive environment, one output at a time, away from kinks (where both sides differ)."""
    rng = np.random.default_rng(3)
    step, checked, nonzero, queued = 1e-4, 0, 0, 0
    for trial in range(6):
        state, flags, _, _ = random_case(rng, 12, offloads=(10, 0, 9, 5, 10, 10)[trial])
        if trial == 0:  # strong radios and heavy tasks: the last two wait
            low, high = [22.0, 12.0, 0.6, 8.0, 600.0, 0.1, 0.4], [24.0, 14.0, 3.2, 12.0, 737.0, 0.9, 1.5]
            state = rng.uniform(low, high, (12, 7))
        state[:, 3] *= 8192 / PRESETS[preset].bits_per_unit  # or all would be at the longest delay on `scaled`
        actions = rng.uniform(-0.95, 0.95, (12, 3))
        slope = slope_of(preset, state, flags, actions)
        assert (slope[:, 0] == 0).all(), "who offloads is held fixed"
        assert (slope[flags > 0, 1] == 0).all() and (slope[flags == 0, 2] == 0).all()
        here = naive_reward(preset, state, flags, actions)
        for agent, output in np.ndindex(12, 3):
            sides = []
            for sign in (1.0, -1.0):
                moved = actions.copy()
                moved[agent, output] += sign * step
                sides.append(sign * (naive_reward(preset, state, flags, moved) - here) / step)
            if abs(sides[0] - sides[1]) > 1e-2 * max(map(abs, sides)) + 1e-6:
                continue
            np.testing.assert_allclose(slope[agent, output], np.mean(sides), rtol=1e-4, atol=1e-5)
            checked, nonzero = checked + 1, nonzero + (abs(slope[agent, output]) > 1e-3)
        alone = [slope_of(preset, state, flags * (np.arange(12) == i), actions)[i, 2] for i in range(12)]
        queued += (np.abs(slope[:, 2] - alone)[flags > 0] > 1e-6).sum()
    assert checked > 180 and nonzero > 40
    assert queued > 0, "nobody's power moved another's finish"


def slope_of(preset: str, state: np.ndarray, flags: np.ndarray, actions: np.ndarray) -> np.ndarray:
    tensors = [torch.from_numpy(values) for values in (state, flags > 0, actions)]
    with torch.no_grad():  # whoever asks, as measures are taken
        return MecEnv(preset, 10).reward_slope(*tensors).numpy()


def test_reward_slope_of_a_batch() -> None:
    """Samples do not touch each other, and single precision gives the same."""
    rng = np.random.default_rng(8)
    cases = [random_case(rng, 12, offloads) for offloads in (0, 3, 9, 10)]
    state, flags = (np.stack([case[k] for case in cases]).reshape(2, 2, 12, -1).squeeze() for k in (0, 1))
    actions = rng.uniform(-1, 1, (2, 2, 12, 3))
    slope = slope_of("interior", state, flags, actions)
    for place in np.ndindex(2, 2):
        np.testing.assert_allclose(slope[place], slope_of("interior", state[place], flags[place], actions[place]))
    single = slope_of("interior", *(x.astype(np.float32) for x in (state, flags, actions)))
    np.testing.assert_allclose(single, slope, rtol=1e-3, atol=1e-4)
