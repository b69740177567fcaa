"""Spans of runs trained by workers: the same bits as in one process; errors and deaths come through; no run is lost."""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest
import torch
from helpers import CPU, cpu_threads, grid

from common.agents import training_step
from common.agents.learner import Learner
from common.agents.networks import Actor, Critic
from common.agents.normalisation import HiddenLayerNorm, RunningInputNorm
from common.config import StudyConfig
from common.experiment import Experiment
from common.training.memory import shared_zeros
from common.training.timer import PhaseTimer
from common.training.workers import Workers, worker_count

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
    "actors stepped run by run": ({"actor_hidden": (512, 256)}, Experiment("large", "")),
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
def test_workers_change_no_bit(case: str) -> None:
    with cpu_threads(1):
        alone, expected = numbers(1, *CASES[case], episodes=6)
        several, found = numbers(3, *CASES[case], episodes=6)
    assert len(alone.spans) == 1 and len(several.spans) == worker_count(3, 7, CPU)
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def test_actors_stepped_in_groups_have_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the pieces: all runs and agents at once, or some agents of one run at a time."""
    found = []
    for piece_bytes in (2**40, 100_000):
        monkeypatch.setattr(training_step, "PIECE_BYTES", piece_bytes)
        learner = Learner(StudyConfig(**SMALL), grid(3)[:5], CPU)
        pieces = learner.training_step._pieces(slice(1, 4), 12)
        reports = [learner.train_episode(details=True) for _ in range(4)]
        found.append({"z": reports[-1].details.pre_activations, "alive": reports[-1].step.gradient_alive})
        found[-1] |= {"norms": reports[-1].details.actor_gradients} | learner.state()
        if piece_bytes > 2**30:
            assert pieces == [[(slice(1, 4), slice(0, 12))]]
        else:
            assert [[run for run, _ in row] for row in pieces] == [[slice(i, i + 1)] * 2 for i in (1, 2, 3)]
            assert [group for _, group in pieces[0]] == [slice(0, 6), slice(6, 12)]
    assert [name for name in found[0] if not torch.equal(found[0][name], found[1][name])] == []


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
        assert len(learner.spans) == len(learner.blocks) == learner.workers.count
        for blocks in (learner.spans, [block for own in learner.blocks for block in own]):
            assert [run for block in blocks for run in range(block.runs.start, block.runs.stop)] == list(range(count))
            assert all(len(block.seed_of_run) == block.runs.stop - block.runs.start for block in blocks)


class Job:
    """What workers can be asked to do."""

    def __init__(self, together: int = 1):
        self.timer = PhaseTimer()
        self.meeting = multiprocessing.Barrier(together)
        self.seen = shared_zeros((4,), torch.float32, CPU)
        self.plain = 0

    def meet(self, number: int) -> tuple[int, int, torch.Tensor]:
        self.meeting.wait(timeout=20)  # passes only if all are there at the same time
        self.seen[number] += number
        self.timer.seconds["meeting"] = 6.0
        return number, os.getpid(), torch.full((2,), float(self.plain))

    def fail(self, number: int) -> int:
        raise ValueError(f"job {number}")

    def fail_unsendably(self, number: int) -> int:
        class Unsendable(Exception):
            pass

        raise Unsendable(number)

    def grow(self, mebibytes: int) -> None:
        bytearray(os.urandom(2**20)) * mebibytes

    def die(self, number: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def workers_of(count: int) -> Workers:
    workers = Workers()
    workers.restart(count)
    return workers


@pytest.mark.skipif(worker_count(2, 8, CPU) == 1, reason="workers need Linux and no graphics card")
class TestWorkers:
    """Real processes."""

    def test_they_work_at_once_share_tensors_and_keep_the_order(self) -> None:
        job, workers = Job(together=2), workers_of(2)
        for turn in (1, 2):
            replies = workers.map(job.meet, [(3,), (1,)])
            assert [number for number, _, _ in replies] == [3, 1]
            assert len({os.getpid(), *(pid for _, pid, _ in replies)}) == 3
            assert job.seen.tolist() == [0, turn, 0, 3 * turn]
            assert job.timer.seconds["meeting"] == 6.0 * turn  # side by side, so not the sum

    def test_a_restart_shows_them_the_object_as_it_is_now(self) -> None:
        job, workers = Job(), workers_of(2)
        assert [plain.tolist() for _, _, plain in workers.map(job.meet, [(0,)])] == [[0, 0]]
        job.plain = 5
        workers.restart(3)
        assert [plain.tolist() for _, _, plain in workers.map(job.meet, [(0,)])] == [[5, 5]]

    @pytest.mark.parametrize("count", [1, 2])
    def test_errors_come_through_and_later_calls_work(self, count: int) -> None:
        job, workers = Job(), workers_of(count)
        with pytest.raises(ValueError, match="job 1"):
            workers.map(job.fail, [(1,), (2,)][:count])
        assert workers.map(job.meet, [(2,)])[0][0] == 2

    def test_memory_that_they_add_is_counted(self) -> None:
        job, workers = Job(), workers_of(2)
        workers.map(job.grow, [(0,), (0,)])
        before = workers.peak_bytes
        workers.map(job.grow, [(100,), (150,)])
        assert workers.peak_bytes - before >= 200 * 2**20

    def test_an_error_that_cannot_be_sent_is_told(self) -> None:
        with pytest.raises(RuntimeError, match=r"in a worker process: Unsendable"):
            workers_of(2).map(Job().fail_unsendably, [(0,), (1,)])

    def test_an_error_names_its_line(self) -> None:
        with pytest.raises(ValueError, match="job 1") as caught:
            workers_of(2).map(Job().fail, [(1,), (2,)])
        assert "raise ValueError" in caught.value.__notes__[0]

    def test_a_killed_worker_is_one_clear_line(self) -> None:
        with pytest.raises(ChildProcessError, match="worker process was killed"):
            workers_of(2).map(Job().die, [(0,), (1,)])

    def test_so_is_one_that_was_killed_between_calls(self) -> None:
        job, workers = Job(), workers_of(2)
        (_, pid, _), _ = workers.map(job.meet, [(0,), (1,)])
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(ChildProcessError, match="worker process was killed"):
            workers.map(job.meet, [(0,), (1,)])

    def test_none_outlives_its_owner(self) -> None:
        workers = workers_of(2)
        pids = [pid for _, pid, _ in workers.map(Job().meet, [(0,), (1,)])]
        del workers
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


def test_how_many_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [worker_count(threads, 16, CPU) for threads in (1, 2, 4, 64)] == [1, 2, 4, 8]
    assert [worker_count(4, runs, CPU) for runs in (1, 2, 3, 4, 7, 8)] == [1, 1, 1, 2, 3, 4]
    assert worker_count(4, 16, torch.device("cuda")) == 1
    monkeypatch.setattr("sys.platform", "darwin")
    assert worker_count(4, 16, CPU) == 1
