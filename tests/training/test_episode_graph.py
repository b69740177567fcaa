"""Replaying captured episodes: the bookkeeping on any device, agreement with the CPU where there is CUDA."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers import CPU, experiments, grid, make_learner
from training.history import Trainer, copy_of, named_tensors
from training.variants import VARIANTS

from common.agents.reports import EpisodeReport, RunKey
from common.config import StudyConfig
from common.experiment import Experiment
from common.training.engine import Engine

SMALL = {"agents": 12, "batch_size": 16, "critic_hidden": (64, 32), "episodes": 30, "dtype": "float64"}
KEYS = [RunKey(1, 1e-3, 1e-2), RunKey(1, 1e-2, 1e-2), RunKey(2, 1e-3, 1e-3)]

Run = Callable[[], EpisodeReport]


class RecordedEpisode:
    """Stands in for a CUDA graph: outputs live in fixed places, and replaying recomputes them there."""

    def __init__(self) -> None:
        self.captures = 0
        self.engine: Engine | None = None

    def __call__(self, function: Run) -> tuple[EpisodeReport, Callable[[], None]]:
        self.captures += 1
        before = copy_of(self.engine)
        outputs = function().map(torch.zeros_like)  # of the right shapes
        for name, value in self.engine.state().items():  # capturing must not train
            value.copy_(before[name])

        def replay() -> None:
            for (_, place), (_, value) in zip(named_tensors(outputs), named_tensors(function()), strict=True):
                place.copy_(value)

        return outputs, replay


def make_engine(capture: Callable, experiment: Experiment, warn: Callable[[str], None]) -> Engine:
    return Engine(experiment, StudyConfig(**SMALL), KEYS, CPU, dense=True, capture=capture, warn=warn)


def check_returns(plain: Trainer, replayed: Trainer, episodes: int) -> None:
    """Both train so many episodes, every fifth with details, and report the same."""
    reports = [[own.train_episode(details=e % 5 == 0) for e in range(episodes)] for own in (plain, replayed)]
    for expected, actual in zip(*reports, strict=True):  # only now: a replay must not change an earlier report
        assert expected.episode == actual.episode and (expected.details is None) == (actual.details is None)
        assert torch.equal(expected.training_return, actual.training_return)


@pytest.mark.parametrize(("name", "kinds"), [("baseline", 2), ("rules", 4)])
def test_replayed_episodes_train_the_same_weights(name: str, kinds: int) -> None:
    """One graph for each kind of episode: with details or without, and by which updates are due."""
    experiment, capture = experiments().get(name) or VARIANTS[name][0], RecordedEpisode()
    plain, replayed = make_learner(KEYS, True, experiment, **SMALL), make_engine(capture, experiment, pytest.fail)
    capture.engine = replayed
    check_returns(plain, replayed, 20)
    assert capture.captures == kinds
    for trainer in (plain, replayed):
        trainer.keep([0, 2])
    check_returns(plain, replayed, 12)
    assert capture.captures == 2 * kinds  # the tensors are others now
    assert all(torch.equal(value, replayed.state()[name]) for name, value in plain.state().items())
    assert plain.counters() == replayed.counters()


def test_falls_back_and_says_so_once() -> None:
    def impossible(function: Run) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    said: list[str] = []
    replayed = make_engine(impossible, experiments()["baseline"], said.append)
    check_returns(make_learner(KEYS, dense=True, **SMALL), replayed, 8)
    assert len(said) == 1 and "not permitted" in said[0] and "\n" not in said[0]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("name", ["baseline", "fullnorm", "adaptive_scaling"])
@pytest.mark.parametrize("mode", ["joint", "sequential"])
def test_cuda_follows_the_cpu(graph: bool, name: str, mode: str) -> None:
    keys, options = grid(1, 2)[:4] + grid(1, 2)[16:20], {"actor_update": mode, **SMALL}
    cpu, own = make_learner(keys, None, name, **options), experiments()[name]
    config = own.config(**{**own.overrides, **options, "cuda_graph": graph})
    cuda = Engine(own, config, keys, torch.device("cuda"), warn=pytest.fail)
    for _ in range(15):
        expected, actual = cpu.train_episode(), cuda.train_episode()
        torch.testing.assert_close(actual.training_return.cpu(), expected.training_return, rtol=1e-9, atol=0)
    torch.testing.assert_close(cuda.actors.flat.cpu(), cpu.actors.flat, rtol=1e-6, atol=1e-10)
