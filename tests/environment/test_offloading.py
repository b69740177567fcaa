"""The master's choice of offloads against the naive one, on random cases and on the limits themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from reference.naive_learner import naive_choose

from common.environment.mec_env import STORAGE
from common.environment.offloading import choose_offloads, exceeds_limits, offload_slots, proposes

Case = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def random_cases(count: int, agents: int, share: float, low: int, high: int) -> Case:
    """Proposals, sizes, scores and orders (count, N); whole sizes, so that sums meet the storage exactly."""
    rng = np.random.default_rng([agents, int(100 * share), high])
    proposes = rng.random((count, agents)) < share
    sizes = rng.integers(low, high, (count, agents), endpoint=True).astype(float)
    order = np.argsort(rng.random((count, agents)), axis=1)
    return proposes, sizes, rng.normal(size=(count, agents)), order


def choose(case: Case, channels: int, explore: np.ndarray | None = None) -> np.ndarray:
    proposes, sizes, scores, order = map(torch.from_numpy, case)
    flags = None if explore is None else torch.from_numpy(explore)
    return choose_offloads(proposes, sizes, scores, channels, STORAGE, flags, order).numpy()


@pytest.mark.parametrize(("low", "high"), [(1, 50), (35, 50), (40, 40), (1, 2)])
@pytest.mark.parametrize(("agents", "channels", "share"), [(50, 10, 0.5), (50, 10, 0.15), (14, 10, 0.8), (12, 4, 0.4)])
def test_choice_equals_the_naive_choice(agents: int, channels: int, share: float, low: int, high: int) -> None:
    """Half of the cases exploring, so by rank and at random, with and without proposals that fit."""
    cases = random_cases(300, agents, share, low, high)
    proposes, sizes, _, order = cases
    explore = np.arange(300) % 2 == 0
    chosen = choose(cases, channels, explore)
    for i in range(300):
        arguments = [column[i] for column in cases[:3]]
        expected = naive_choose(*arguments, channels, order[i] if explore[i] else None)
        np.testing.assert_array_equal(chosen[i], expected > 0.5, err_msg=f"case {i}")
    assert (chosen.sum(1) <= channels).all()
    assert ((sizes * chosen).sum(1) <= STORAGE).all()
    assert (chosen <= proposes)[~explore].all(), "a ranking accepts proposers only"
    np.testing.assert_array_equal(choose(cases, channels)[~explore], chosen[~explore])
    if share > 0.2:
        over = exceeds_limits(*map(torch.from_numpy, (proposes, sizes)), channels, STORAGE).numpy()
        assert (chosen & ~proposes)[explore & over].any(), "a random choice takes agents that did not propose"
    if low == 35 and channels == 10 and share > 0.2:
        assert (chosen.sum(1) < channels)[~explore].any(), "the storage never was the limit"


@pytest.mark.parametrize(
    ("sizes", "ranked", "drawn"),
    [
        # K proposals, and a sum of exactly S, do not exceed the limits.
        ([40.0] * 10, range(10), range(10)),
        ([1.0] * 10, range(10), range(10)),
        # A ranked agent needs size + d < S; a drawn one is dropped only when the sum is more than S.
        ([40.0] * 11, range(9), range(10)),
        # 380 + 30 is too much: the ranking passes over the third and still takes the fourth, dropping skips nobody.
        ([190.0, 190.0, 30.0, 15.0, 10.0], (0, 1, 3), (0, 1)),
    ],
)
def test_limits_by_hand(sizes: list[float], ranked: Sequence[int], drawn: Sequence[int]) -> None:
    """Everybody proposes; ranked and drawn in order of their numbers."""
    count = len(sizes)
    case = np.ones((1, count), bool), np.array([sizes]), -np.arange(count)[None] * 1.0, np.arange(count)[None]
    assert np.flatnonzero(choose(case, 10)).tolist() == list(ranked)
    assert np.flatnonzero(choose(case, 10, np.array([True]))).tolist() == list(drawn)


def test_offload_slots() -> None:
    """Ascending agents, then N in the empty slots."""
    accepted = torch.tensor([[[False] * 5, [False, True, False, True, False]], [[True, False, False, True, True]] * 2])
    expected = [[[5, 5, 5], [1, 3, 5]], [[0, 3, 4]] * 2]
    assert offload_slots(accepted, 3).tolist() == expected
    assert offload_slots(torch.tensor([True, True]), 2).tolist() == [0, 1]


def test_proposing_starts_at_the_middle_of_the_range() -> None:
    """The first output alone decides, and 0 proposes."""
    first = torch.tensor([-1.0, -1e-30, -0.0, 0.0, 1e-30, 1.0])
    actions = torch.stack([first, -first, torch.ones(6)], dim=-1)
    assert proposes(actions).tolist() == [False, False, True, True, True, True]
