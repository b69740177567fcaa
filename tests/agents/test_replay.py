"""The replay: what it keeps, how it draws, and how little memory it needs.

That each run gets its own transitions, in any block of runs: test_learner_follows_naive.py, training/test_engine.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import CPU

from common.agents.replay import Replay, importance_exponent, priority
from common.config import StudyConfig
from common.environment.mec_env import STEPS

RUNS, AGENTS, SLOTS = 3, 4, 2

Episode = list[torch.Tensor]


def random_episode(number: int) -> Episode:
    """States, actions, slots, rewards and squared TD errors of one episode of every run."""
    rng = np.random.default_rng(number)
    slots = rng.integers(0, AGENTS, (RUNS, STEPS, SLOTS), endpoint=True)
    states, actions = rng.random((RUNS, STEPS + 1, AGENTS, 7)), rng.random((RUNS, STEPS, AGENTS, 3))
    arrays = (states, actions, slots, rng.random((RUNS, STEPS)), 1000 * rng.random((RUNS, STEPS)) ** 4)
    return [torch.from_numpy(x) for x in arrays]


def replay_of(episodes: int, ring: int = 5, alpha: float = 0.6) -> Replay:
    """A replay for `ring` episodes after the first so many."""
    sizes = {"agents": AGENTS, "channels": SLOTS, "replay_capacity": ring * STEPS}
    replay = Replay(StudyConfig(**sizes, replay_alpha=alpha, dtype="float64"), RUNS, CPU)
    for number in range(episodes):
        replay.insert(slice(None), torch.tensor([number % ring]), *random_episode(number))
    return replay


def sample(replay: Replay, draws: np.ndarray | list[float], beta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices and weights (R, B) from draws (B,), the same for every run."""
    draws = torch.as_tensor(draws, dtype=torch.float64).expand(RUNS, -1)
    return replay.sample(slice(None), draws, torch.tensor(beta, dtype=torch.float64))


@pytest.mark.parametrize("episodes", [2, 5])
def test_episodes_come_back_and_so_they_do_when_runs_are_dropped(episodes: int) -> None:
    """Before the ring of 3 is full and after it wrapped; what follows then goes where it belongs."""
    replay = replay_of(episodes, ring=3)
    check_stored(replay, episodes, [0, 1, 2])
    kept = [0, 2]
    replay.keep(torch.tensor(kept), episodes)
    check_stored(replay, episodes, kept)
    following = [x[kept] for x in random_episode(episodes)]
    replay.insert(slice(None), torch.tensor([episodes % 3]), *following)
    check_stored(replay, episodes + 1, kept)


def check_stored(replay: Replay, episodes: int, runs: list[int]) -> None:
    """The last 3 of so many episodes are there, each next state being the state of the step after."""
    for number in range(max(0, episodes - 3), episodes):
        states, actions, slots, rewards, squares = (x[runs] for x in random_episode(number))
        indices = (number % 3 * STEPS + torch.arange(STEPS)).expand(len(runs), -1)
        batch = replay.fetch(slice(0, len(runs)), indices)
        assert torch.equal(batch.states, states[:, :-1]) and torch.equal(batch.next_states, states[:, 1:])
        assert torch.equal(batch.actions, actions) and torch.equal(batch.slots, slots)
        assert torch.equal(batch.rewards, rewards)
        assert batch.done.tolist() == [[False] * (STEPS - 1) + [True]] * len(runs)
        torch.testing.assert_close(replay.priorities.gather(1, indices), (squares + 0.01) ** 0.6, rtol=1e-14, atol=0)


def test_no_state_is_stored_twice() -> None:
    """T + 1 states for T transitions: nowhere is there room for the next states once more."""
    tensors = {name: x for name, x in vars(replay_of(0, ring=8)).items() if isinstance(x, torch.Tensor)}
    assert tensors.keys() == set(Replay.TENSORS)
    numbers_per_step = 3 * AGENTS + SLOTS + 2  # the reward and the priority
    expected = RUNS * 8 * ((STEPS + 1) * 7 * AGENTS + STEPS * numbers_per_step)
    assert sum(x.numel() for x in tensors.values()) == expected


def test_slots_are_drawn_as_often_as_their_priorities_say() -> None:
    """One stratified draw of B cannot be 2 off B·P."""
    replay, batch = replay_of(4), 500
    probability = replay.priorities / replay.priorities.sum(1, keepdim=True)
    assert probability.max() > 20 * probability[probability > 0].min()
    indices, _ = sample(replay, np.random.default_rng(0).random(batch), 0.4)
    counts = torch.zeros_like(probability).scatter_add(1, indices, torch.ones(indices.shape, dtype=torch.float64))
    assert ((counts - batch * probability).abs() < 2).all()
    assert (counts[:, 40:] == 0).all(), "an empty slot was drawn"


def test_without_an_exponent_all_transitions_are_alike() -> None:
    """So a batch as large as the replay has every transition once: each stratum gives one sample."""
    replay = replay_of(2, alpha=0.0)
    replay.update_priorities(slice(None), torch.tensor([[3, 17]] * RUNS), torch.tensor([[0.0, 1e6]] * RUNS))
    indices, weights = sample(replay, np.random.default_rng(3).random(20), 1.0)
    assert indices.tolist() == [[*range(20)]] * RUNS and (weights == 1).all()


def test_the_ends_of_the_range_stay_inside() -> None:
    """A draw of 0 takes the first slot, one just below 1, which a sum rounds up, the last filled one."""
    for draw, place, edge in ((0.0, 0, 0), (np.nextafter(1.0, 0.0), -1, 19)):
        indices, _ = sample(replay_of(2), [draw] * 64, 0.4)
        assert (indices[:, place] == edge).all()


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_weights_undo_the_priorities(beta: float) -> None:
    """(n·P)^-beta, divided by the largest of the batch; with beta = 0 there is nothing to undo."""
    replay = replay_of(3)
    indices, weights = sample(replay, np.random.default_rng(1).random(16), beta)
    probability = (replay.priorities / replay.priorities.sum(1, keepdim=True)).gather(1, indices)
    expected = (30 * probability) ** -beta
    torch.testing.assert_close(weights, expected / expected.amax(1, keepdim=True), rtol=1e-12, atol=0)
    assert weights.dtype == torch.float64 and (weights.amax(1) == 1).all()


def test_importance_exponent_grows_to_one() -> None:
    values = [importance_exponent(draws) for draws in (0, 1, 100, 600, 601, 5000)]
    np.testing.assert_allclose(values, [0.4, 0.401, 0.5, 1.0, 1.0, 1.0], rtol=1e-12)


def test_priorities() -> None:
    """(sum + 0.01)^0.6 in double precision, from float32 as well."""
    found = priority(torch.tensor([0.0, 0.99, 31.99]), 0.6)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, [0.01**0.6, 1.0, 8.0], rtol=1e-6)


def test_new_priorities_reach_their_slots_only() -> None:
    """Of a transition that was drawn several times the last error counts."""
    replay = replay_of(2)
    expected = replay.priorities.clone()
    indices, squares = torch.tensor([[3, 17, 17], [0, 0, 4]]), torch.tensor([[0.0, 5.0, 1e6], [7.0, 5.0, 2.0]])
    replay.update_priorities(slice(1, 3), indices, squares)
    expected[1, [3, 17]] = (torch.tensor([0.0, 1e6], dtype=torch.float64) + 0.01) ** 0.6
    expected[2, [0, 4]] = (torch.tensor([5.0, 2.0], dtype=torch.float64) + 0.01) ** 0.6
    torch.testing.assert_close(replay.priorities, expected, rtol=1e-14, atol=0)
