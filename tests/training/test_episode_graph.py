"""Replaying captured episodes: the bookkeeping on any device, agreement with the CPU where there is CUDA."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers import CPU, grid, make_learner

from common.agents.learner import Learner
from common.agents.reports import EpisodeReport, RunKey
from common.config import StudyConfig
from common.training.episode_graph import EpisodeGraphs, capture_on_cuda

SMALL = {"agents": 12, "batch_size": 16, "critic_hidden": (64, 32), "episodes": 30, "dtype": "float64"}
KEYS = [RunKey(1, 1e-3, 1e-2), RunKey(1, 1e-2, 1e-2), RunKey(2, 1e-3, 1e-3)]


class RecordedEpisode:
    """Stands in for a CUDA graph: outputs live in fixed places, and replaying recomputes them there."""

    def __init__(self) -> None:
        self.captures = 0

    def __call__(self, function: Callable[[], EpisodeReport]) -> tuple[EpisodeReport, Callable[[], None]]:
        self.captures += 1
        places: list[torch.Tensor] = []
        filled: list[torch.Tensor] = []

        def run() -> None:
            filled.clear()
            function().map(lambda t: filled.append(t) or t)
            for place, value in zip(places, filled, strict=True):
                place.copy_(value)

        # Learn the shapes of the outputs on a copy, because capturing must not train.
        outputs = shapes_of(function)
        outputs.map(lambda t: places.append(t) or t)
        return outputs, run


def shapes_of(function: Callable[[], EpisodeReport]) -> EpisodeReport:
    learner = function.__closure__[-1].cell_contents.learner
    saved = {name: tensor.clone() for name, tensor in learner.state().items()}
    outputs = function().map(torch.zeros_like)
    learner.load(saved, learner.episode, learner.updates)
    return outputs


def returns(player: EpisodeGraphs | Learner, episodes: int, details_every: int = 5) -> list[torch.Tensor]:
    reports = [player.train_episode(details=e % details_every == 0) for e in range(episodes)]
    assert [r.episode for r in reports] == list(range(reports[0].episode, reports[0].episode + episodes))
    assert all((r.details is not None) == (e % details_every == 0) for e, r in enumerate(reports) if r.step)
    return [r.training_return for r in reports]


def test_replayed_episodes_train_the_same_weights() -> None:
    plain, replayed = (make_learner(KEYS, dense=True, **SMALL) for _ in range(2))
    capture = RecordedEpisode()
    graphs = EpisodeGraphs(replayed, capture, pytest.fail)
    expected, actual = returns(plain, 20), returns(graphs, 20)
    assert capture.captures == 2  # with and without details
    assert all(torch.equal(a, b) for a, b in zip(expected, actual, strict=True))
    assert torch.equal(plain.actors.flat, replayed.actors.flat)

    for learner in (plain, replayed):
        learner.keep([0, 2])
    graphs.reset()
    expected, actual = returns(plain, 6), returns(graphs, 6)
    assert capture.captures == 4
    assert all(torch.equal(a, b) for a, b in zip(expected, actual, strict=True))


def test_falls_back_and_says_so_once() -> None:
    def impossible(function: Callable[[], EpisodeReport]) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    plain, learner = (make_learner(KEYS, dense=True, **SMALL) for _ in range(2))
    said: list[str] = []
    expected = returns(plain, 8)
    actual = returns(EpisodeGraphs(learner, impossible, said.append), 8)
    assert all(torch.equal(a, b) for a, b in zip(expected, actual, strict=True))
    assert len(said) == 1 and "launch by launch" in said[0] and "\n" not in said[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("mode", ["joint", "sequential"])
def test_cuda_follows_the_cpu(graph: bool, mode: str) -> None:
    config = StudyConfig(actor_update=mode, **SMALL)
    keys = grid(1, 2)[:4] + grid(1, 2)[16:20]
    cpu, cuda = Learner(config, keys, CPU), Learner(config, keys, torch.device("cuda"))
    player = EpisodeGraphs(cuda, capture_on_cuda, pytest.fail) if graph else cuda
    for _ in range(15):
        expected, actual = cpu.train_episode(), player.train_episode()
        torch.testing.assert_close(actual.training_return.cpu(), expected.training_return, rtol=1e-9, atol=0)
    torch.testing.assert_close(cuda.actors.flat.cpu(), cpu.actors.flat, rtol=1e-6, atol=1e-10)
