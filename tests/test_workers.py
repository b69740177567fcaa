"""Blocks of runs trained in threads: the same bits as one after the other; errors come through; no run is lost."""

from __future__ import annotations

import threading

import pytest
import torch
from helpers import CPU, cpu_threads, grid

from common.config import StudyConfig
from common.experiment import Experiment
from common.learner import Learner
from common.networks import Actor, Critic
from common.normalisation import HiddenLayerNorm, RunningInputNorm
from common.workers import MOST_WORKERS, Workers

SMALL = {"agents": 12, "batch_size": 9, "episodes": 40, "eval_episodes": 2, "critic_hidden": (64, 32)}


class NormalisedActor(RunningInputNorm, Actor):
    """Statistics that are updated block by block."""


class NormalisedCritic(RunningInputNorm, HiddenLayerNorm, Critic):
    """Likewise."""


CASES = {
    "baseline": ({}, Experiment("baseline", "")),
    "clipped, soft target, two updates": (
        {"clip_norm": 0.5, "tau": 0.3, "updates_per_episode": 2},
        Experiment("baseline", ""),
    ),
    "sequential": ({"actor_update": "sequential"}, Experiment("baseline", "")),
    "statistics": ({}, Experiment("normalised", "", actor_class=NormalisedActor, critic_class=NormalisedCritic)),
    "actors stepped and played in blocks": ({"actor_hidden": (512, 256)}, Experiment("large", "")),
}


def numbers(threads: int, options: dict, experiment: Experiment, episodes: int) -> tuple[Learner, dict]:
    learner = Learner(
        StudyConfig(**SMALL, **options),
        grid(3, 4)[5:19],
        CPU,
        actor_class=experiment.actor_class,
        critic_class=experiment.critic_class,
        threads=threads,
    )
    found = {}
    for episode in range(episodes):
        if episode == episodes - 2:
            learner.keep([0, 2, 3, 9, 10, 11, 12])
        report = learner.train_episode(details=True)
        found[f"return {episode}"] = report.training_return
        if report.details is not None:
            found[f"slope {episode}"] = report.details.action_slope
            found[f"z {episode}"] = report.details.pre_activations
    found["evaluation"] = learner.evaluate().evaluation_return
    return learner, found | {name: value.clone() for name, value in learner.state().items()}


@pytest.mark.parametrize("case", CASES)
def test_threads_change_no_bit(case: str) -> None:
    with cpu_threads(1):
        alone, expected = numbers(1, *CASES[case], episodes=6)
        several, found = numbers(3, *CASES[case], episodes=6)
    assert len(alone.blocks) == 1 and len(several.blocks) == 3
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize("runs", [1, 3])
def test_runs_too_few_for_workers_have_the_same_bits_with_more_threads_each(runs: int) -> None:
    """Full size: a study resumed with few runs left gives each product more threads than before."""
    found = []
    for threads in (1, 2):
        with cpu_threads(threads):
            learner = Learner(StudyConfig(episodes=20), grid(42)[:runs], CPU, threads=threads)
            slopes = [learner.train_episode(details=True).details for _ in range(4)][-1].action_slope
            found.append({"slope": slopes} | learner.state())
    assert [name for name in found[0] if not torch.equal(found[0][name], found[1][name])] == []


def test_every_run_is_in_one_block() -> None:
    for count in (1, 2, 3, 7, 16, 30):
        learner = Learner(StudyConfig(**SMALL), grid(1, 2)[:count], CPU, threads=4)
        covered = [run for block in learner.blocks for run in range(block.runs.start, block.runs.stop)]
        assert covered == list(range(count))
        assert all(len(block.seed_of_run) == block.runs.stop - block.runs.start for block in learner.blocks)


def test_workers_work_at_once_and_keep_the_order() -> None:
    workers = Workers(threads=2, runs=8)
    meeting = threading.Barrier(2, timeout=20)  # passes only if both are there at the same time

    def job(number: int) -> tuple[int, int]:
        meeting.wait()
        return number, torch.get_num_threads()

    assert workers.map(job, [5, 7]) == [(5, 1), (7, 1)]


def test_errors_come_through() -> None:
    def job(number: int) -> int:
        raise ValueError(f"job {number}")

    for workers in (Workers(threads=1, runs=8), Workers(threads=2, runs=8)):
        with pytest.raises(ValueError, match="job 1"):
            workers.map(job, [1, 2])


def test_how_many_workers() -> None:
    assert [Workers(threads, 16).count for threads in (1, 2, 4, 64)] == [1, 2, 4, MOST_WORKERS]
    assert [Workers(4, runs).count for runs in (1, 2, 3, 4, 7, 8)] == [1, 1, 1, 2, 3, 4]
