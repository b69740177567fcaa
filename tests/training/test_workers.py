"""Worker processes: they work at once, share tensors, and errors and deaths come through."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal

import pytest
import torch
from helpers import CPU

from common.training.memory import shared_zeros
from common.training.timer import PhaseTimer
from common.training.workers import Workers, worker_count


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

    def grow(self, mebibytes: int) -> None:
        mmap.mmap(-1, mebibytes * 2**20).write(bytes(mebibytes * 2**20))  # malloc may hold as much already

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
        with pytest.raises(ValueError, match="job 1") as caught:
            workers.map(job.fail, [(1,), (2,)][:count])
        assert count == 1 or "raise ValueError" in caught.value.__notes__[0], "it names its line"
        assert workers.map(job.meet, [(2,)])[0][0] == 2

    def test_memory_that_they_add_is_counted(self) -> None:
        job, workers = Job(), workers_of(2)
        workers.map(job.grow, [(1,), (1,)])
        before = workers.peak_bytes
        workers.map(job.grow, [(100,), (150,)])
        assert workers.peak_bytes - before >= 200 * 2**20

    def test_a_killed_worker_is_one_clear_line(self) -> None:
        """Also one that was killed between two calls."""
        job, workers = Job(), workers_of(2)
        with pytest.raises(ChildProcessError, match="worker process was killed"):
            workers.map(job.die, [(0,), (1,)])
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
    assert [worker_count(threads, 16, CPU) for threads in (1, 2, 4, 64)] == [1, 2, 4, 8]
    assert [worker_count(4, runs, CPU) for runs in (1, 2, 3, 4, 7, 8)] == [1, 1, 1, 2, 3, 4]
    assert worker_count(4, 16, torch.device("cuda")) == 1
    monkeypatch.setattr("sys.platform", "darwin")
    assert worker_count(4, 16, CPU) == 1
