"""The replay: what it keeps, how it draws, and how little memory it needs."""

from __future__ import annotations

import numpy as np
import torch
from helpers import CPU

from common.agents.replay import Batch, Replay, importance_exponent, priority
from common.config import StudyConfig
from common.environment.mec_env import STEPS

RUNS, AGENTS, SLOTS = 3, 4, 2

Episode = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def empty_replay(episodes: int, alpha: float = 0.6) -> Replay:
    config = StudyConfig(
        agents=AGENTS, channels=SLOTS, replay_capacity=episodes * STEPS, replay_alpha=alpha, dtype="float64"
    )
    return Replay(config, RUNS, CPU)


def random_episode(seed: int) -> Episode:
    """States, actions, slots, rewards and squared TD errors of one episode of every run."""
    rng = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=rng, dtype=torch.float64)

    slots = torch.randint(0, AGENTS + 1, (RUNS, STEPS, SLOTS), generator=rng)
    squares = uniform(RUNS, STEPS) ** 4 * 1000
    states, actions = uniform(RUNS, STEPS + 1, AGENTS, 7), uniform(RUNS, STEPS, AGENTS, 3)
    return states, actions, slots, uniform(RUNS, STEPS), squares


def fill(replay: Replay, episodes: range) -> list[Episode]:
    """Insert episodes 0, 1, … at the places where the learner puts them; gives what was inserted."""
    data = [random_episode(k) for k in episodes]
    for k, episode in zip(episodes, data, strict=True):
        replay.insert(slice(None), torch.tensor([k % replay.episodes]), *episode)
    return data


def check_stored(replay: Replay, place: int, episode: Episode, runs: list[int]) -> None:
    """Everything of one episode comes back, each next state being the state of the step after."""
    states, actions, slots, rewards, squares = (x[runs] for x in episode)
    indices = (place * STEPS + torch.arange(STEPS)).expand(len(runs), -1)
    fetched = replay.fetch(slice(0, len(runs)), indices)
    done = (torch.arange(STEPS) == STEPS - 1).expand(len(runs), -1)
    expected = Batch(states[:, :-1], actions, slots, rewards, states[:, 1:], done)
    assert all(torch.equal(x, vars(expected)[name]) for name, x in vars(fetched).items() if x is not None)
    expected = (squares + 0.01) ** 0.6
    torch.testing.assert_close(replay.priorities.gather(1, indices), expected, rtol=1e-14, atol=0)


def uniform_draws(seed: int, batch: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((RUNS, batch)))


def drawn_counts(replay: Replay, draws: torch.Tensor) -> torch.Tensor:
    """How often each slot was drawn, (R, slots)."""
    indices, _ = replay.sample(slice(None), draws, torch.tensor(0.4, dtype=torch.float64))
    return torch.zeros(replay.priorities.shape).scatter_add(1, indices, torch.ones(indices.shape))


def test_episodes_come_back_and_the_ring_wraps() -> None:
    replay = empty_replay(3)
    data = fill(replay, range(2))
    for place in (0, 1):
        check_stored(replay, place, data[place], [0, 1, 2])
    data += fill(replay, range(2, 5))
    for place, episode in enumerate((3, 4, 2)):
        check_stored(replay, place, data[episode], [0, 1, 2])


def test_fetch_takes_each_runs_own_indices() -> None:
    """Any order, repeated indices, and a block of runs that does not start at the first."""
    replay = empty_replay(3)
    data = fill(replay, range(3))
    indices = torch.tensor([[29, 0, 9, 9], [10, 19, 20, 5]])
    batch = replay.fetch(slice(1, 3), indices)
    for row, run in enumerate((1, 2)):
        for column, index in enumerate(indices[row].tolist()):
            episode, step = divmod(index, STEPS)
            assert torch.equal(batch.states[row, column], data[episode][0][run, step])
            assert torch.equal(batch.next_states[row, column], data[episode][0][run, step + 1])
            assert torch.equal(batch.slots[row, column], data[episode][2][run, step])
            assert batch.rewards[row, column] == data[episode][3][run, step]
            assert batch.done[row, column] == (step == STEPS - 1)


def test_no_state_is_stored_twice() -> None:
    """T + 1 states for T transitions: nowhere is there room for the next states once more."""
    episodes = 8
    replay = empty_replay(episodes)
    tensors = {name: value for name, value in vars(replay).items() if isinstance(value, torch.Tensor)}
    assert tensors.keys() == set(Replay.TENSORS)
    numbers_per_step = 3 * AGENTS + SLOTS + 2  # the reward and the priority
    expected = RUNS * episodes * ((STEPS + 1) * 7 * AGENTS + STEPS * numbers_per_step)
    assert sum(tensor.numel() for tensor in tensors.values()) == expected


def test_slots_are_drawn_as_often_as_their_priorities_say() -> None:
    """One stratified draw of B cannot be 2 off B·P; many small ones have the mean B·P."""
    replay = empty_replay(5)
    fill(replay, range(4))
    probability = replay.priorities / replay.priorities.sum(1, keepdim=True)
    assert probability.max() > 20 * probability[probability > 0].min()
    batch = 500
    counts = drawn_counts(replay, uniform_draws(0, batch))
    assert ((counts - batch * probability).abs() < 2).all()

    batch, trials = 8, 4000
    mean = sum(drawn_counts(replay, uniform_draws(k, batch)) for k in range(1, trials + 1)) / trials
    # A stratum holds a slot or not, so each of the up to two strata at its ends has a variance of at most 1/4.
    error = np.sqrt(0.5 / trials)
    assert ((mean - batch * probability).abs() < 5 * error).all()
    assert (mean[:, 40:] == 0).all(), "an empty slot was drawn"


def test_every_stratum_gives_one_sample() -> None:
    """With equal priorities and a batch as large as the replay every transition comes exactly once."""
    replay = empty_replay(2)
    for k in range(2):
        replay.insert(slice(None), torch.tensor([k]), *random_episode(k)[:4], torch.ones(RUNS, STEPS))
    indices, weights = replay.sample(slice(None), uniform_draws(3, 20) * 0.98 + 0.01, torch.tensor(0.7))
    assert torch.equal(indices, torch.arange(20).expand(RUNS, -1))
    torch.testing.assert_close(weights, torch.ones_like(weights), rtol=1e-12, atol=0)


def test_the_ends_of_the_range_stay_inside() -> None:
    """A draw of 0 takes the first slot, one just below 1 the last filled one."""
    replay = empty_replay(3)
    fill(replay, range(2))
    for draw, edge in ((0.0, 0), (np.nextafter(1.0, 0.0), 19)):
        indices, _ = replay.sample(slice(None), torch.full((RUNS, 1), draw, dtype=torch.float64), torch.tensor(0.4))
        assert (indices == edge).all()


def test_weights_undo_the_priorities() -> None:
    """(n·P)^-beta, divided by the largest of the batch; with beta = 0 there is nothing to undo."""
    replay = empty_replay(5)
    fill(replay, range(3))
    for beta in (0.4, 0.75, 1.0):
        indices, weights = replay.sample(slice(None), uniform_draws(1, 16), torch.tensor(beta, dtype=torch.float64))
        probability = (replay.priorities / replay.priorities.sum(1, keepdim=True)).gather(1, indices)
        expected = (30 * probability) ** -beta
        expected = expected / expected.amax(1, keepdim=True)
        torch.testing.assert_close(weights, expected, rtol=1e-12, atol=0)
        assert weights.dtype == torch.float64 and (weights.amax(1) == 1).all()
    _, weights = replay.sample(slice(None), uniform_draws(1, 16), torch.tensor(0.0, dtype=torch.float64))
    assert (weights == 1).all()


def test_importance_exponent_grows_to_one() -> None:
    values = [importance_exponent(draws) for draws in (0, 1, 100, 600, 601, 5000)]
    np.testing.assert_allclose(values, [0.4, 0.401, 0.5, 1.0, 1.0, 1.0], rtol=1e-12)


def test_priorities() -> None:
    """(sum + 0.01)^0.6 in double precision, from float32 as well."""
    squares = torch.tensor([0.0, 0.99, 31.99])
    assert priority(squares, 0.6).dtype == torch.float64
    np.testing.assert_allclose(priority(squares, 0.6).numpy(), [0.01**0.6, 1.0, 8.0], rtol=1e-6)


def test_without_an_exponent_all_transitions_are_alike() -> None:
    replay = empty_replay(2, alpha=0.0)
    fill(replay, range(2))
    replay.update_priorities(slice(None), torch.tensor([[3, 17]] * RUNS), torch.tensor([[0.0, 1e6]] * RUNS))
    assert (replay.priorities == 1).all()
    indices, weights = replay.sample(slice(None), uniform_draws(1, 2 * STEPS), torch.tensor(1.0, dtype=torch.float64))
    assert (weights == 1).all() and torch.equal(indices[0], torch.arange(2 * STEPS))


def test_update_priorities_reaches_its_slots_only() -> None:
    replay = empty_replay(2)
    fill(replay, range(2))
    expected = replay.priorities.clone()
    indices = torch.tensor([[3, 17], [0, 4]])
    squares = torch.tensor([[0.0, 1e6], [5.0, 2.0]], dtype=torch.float64)
    replay.update_priorities(slice(1, 3), indices, squares)
    for row, run in enumerate((1, 2)):
        expected[run, indices[row]] = (squares[row] + 0.01) ** 0.6
    torch.testing.assert_close(replay.priorities, expected, rtol=1e-14, atol=0)
    counts = drawn_counts(replay, uniform_draws(2, 100))
    assert counts[1, 17] > 85 > 50 > counts[0, 17] and counts[1, 3] == 0


def test_the_last_of_several_errors_of_a_transition_counts() -> None:
    replay = empty_replay(1)
    indices, squares = torch.tensor([[1, 1, 4, 4, 4, 9]] * RUNS), torch.arange(6.0).expand(RUNS, -1)
    replay.update_priorities(slice(None), indices, squares)
    assert torch.equal(replay.priorities[:, [1, 4, 9]], priority(squares[:, [1, 4, 5]], 0.6))


def test_keep_leaves_the_other_runs_as_they_were() -> None:
    """Before the ring is full and after it wrapped; the next episode then goes where it belongs."""
    for filled in (2, 5):
        replay = empty_replay(3)
        data = fill(replay, range(filled))
        before = {name: getattr(replay, name).clone() for name in Replay.TENSORS}
        replay.keep(torch.tensor([0, 2]), filled)
        for name, value in before.items():
            assert torch.equal(getattr(replay, name), value[[0, 2]]), name
        check_stored(replay, (filled - 1) % 3, data[-1], [0, 2])
        following = random_episode(filled)
        replay.insert(slice(None), torch.tensor([filled % 3]), *(x[[0, 2]] for x in following))
        check_stored(replay, filled % 3, following, [0, 2])
        check_stored(replay, (filled - 1) % 3, data[-1], [0, 2])
