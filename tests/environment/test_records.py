"""Records of tensors: parts, and parts joined again."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from common.environment.evaluation import summarise
from common.environment.records import TensorRecord, joined
from common.environment.rollout import Trajectory


@dataclass(frozen=True)
class Inner(TensorRecord):
    values: Tensor


@dataclass(frozen=True)
class Outer(TensorRecord):
    episode: int
    numbers: Tensor
    named: dict[str, Tensor]
    inner: Inner | None = None


def record(runs: int) -> Outer:
    numbers = torch.arange(3.0 * runs).view(runs, 3)
    return Outer(7, numbers, {"a": numbers + 100, "b": numbers[:, 0]}, Inner(numbers - 5))


@pytest.mark.parametrize("cuts", [[0, 5], [0, 1, 5], [0, 2, 3, 5]])
def test_parts_joined_give_the_whole(cuts: list[int]) -> None:
    whole = record(5)
    parts = [whole.of(slice(a, b)) for a, b in itertools.pairwise(cuts)]
    again = joined(parts)
    assert again.episode == 7
    assert torch.equal(again.numbers, whole.numbers) and torch.equal(again.inner.values, whole.inner.values)
    assert again.named.keys() == whole.named.keys()
    assert all(torch.equal(again.named[name], whole.named[name]) for name in whole.named)
    assert joined([Outer(7, torch.ones(1), {}), Outer(7, torch.ones(2), {})]).inner is None


def test_map_reaches_every_tensor() -> None:
    twice = record(2).map(lambda values: 2 * values)
    assert twice.episode == 7
    for value, plain in ((twice.numbers, record(2).numbers), (twice.named["b"], record(2).named["b"])):
        assert torch.equal(value, 2 * plain)
    assert torch.equal(twice.inner.values, 2 * record(2).inner.values)


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
