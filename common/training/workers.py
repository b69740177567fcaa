"""Runs side by side on the CPU: forked processes, none of which waits for another's lock on Python."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import signal
import sys
import traceback
import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import torch

from common.training import memory
from common.training.tuning import LEAST_RUNS_PER_WORKER

# What ends a study in an orderly way: the parent saves its state, the workers leave it to the parent.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
KILL_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG


def worker_count(threads: int, runs: int, device: torch.device) -> int:
    """How many workers for `threads` CPU threads and `runs` runs; 1 means that all is done in this process.

    Workers need a fork that is safe after PyTorch was used: Linux, and no graphics card whose threads autograd started.
    """
    if device.type != "cpu" or sys.platform != "linux" or torch.cuda.is_available():
        return 1
    return max(1, min(threads, runs // LEAST_RUNS_PER_WORKER))


@dataclass(frozen=True)
class Worker:
    """A forked process and this side of the pipe to it."""

    pid: int
    parent: int  # the process that forked it
    connection: Connection


class Workers:
    """Runs a method of one object for several arguments at once, in processes that share the object's tensors.

    A worker sees the object as it was when the worker was forked, at the first call; what it writes to tensors made
    by `memory.shared_zeros` everybody sees. Other changes of the object need a `restart`. The object has a `timer`.
    Workers end with the thread that made the first call.
    """

    def __init__(self) -> None:
        """None yet: the method runs in this process."""
        self.peak_bytes = 0  # at most so much did the workers add; pages that the parent touched too count twice
        self._workers: list[Worker] = []
        weakref.finalize(self, _stop, self._workers)
        self.count = 1

    def restart(self, count: int) -> None:
        """Fork anew, `count` workers, at the next call; with one, the method runs in this process."""
        _stop(self._workers)
        self.count = count

    def map(self, method: Callable[..., Any], arguments: Sequence[tuple]) -> list[Any]:
        """`method(*a)` for each of `arguments`, at most `count`, in order.

        The first exception comes through; ChildProcessError if a worker died.
        """
        if self.count == 1:
            return [method(*own) for own in arguments]
        try:
            while len(self._workers) < self.count:
                self._workers.append(_forked(method.__self__, self._workers))
            busy = self._workers[: len(arguments)]
            for worker, own in zip(busy, arguments, strict=True):
                worker.connection.send_bytes(_packed((method.__name__, own)))
            replies = [pickle.loads(worker.connection.recv_bytes()) for worker in busy]
        except BaseException as problem:
            _stop(self._workers)  # answers that nobody read must not be taken for those of a later call
            if isinstance(problem, EOFError | ConnectionError):
                raise ChildProcessError("a worker process was killed (out of memory?)") from None
            raise
        for problem in (result for result, _, _ in replies if isinstance(result, Exception)):
            raise problem
        self.peak_bytes = max(self.peak_bytes, sum(grown for _, _, grown in replies))
        for _, seconds, _ in replies:
            for phase, taken in seconds.items():
                method.__self__.timer.seconds[phase] += taken / len(replies)  # side by side: a share of the wall time
        return [result for result, _, _ in replies]


class _Pickler(pickle.Pickler):
    """Tensors as plain copies of their numbers; multiprocessing would keep a file open for each."""

    def reducer_override(self, value: Any) -> Any:
        return (torch.from_numpy, (value.numpy(),)) if isinstance(value, torch.Tensor) else NotImplemented


def _packed(value: Any) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return stream.getvalue()


def _forked(owner: Any, siblings: list[Worker]) -> Worker:
    here, there = Pipe()
    parent = os.getpid()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside PyTorch's idle threads
        pid = os.fork()
    if pid:
        there.close()
        return Worker(pid, parent, here)
    try:
        for connection in (here, *(sibling.connection for sibling in siblings)):
            connection.close()
        _become_worker(parent, there.fileno())
        _serve(owner, there)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _become_worker(parent: int, pipe: int) -> None:
    """Die with the parent, leave signals to it, and let go of its files, a results folder's lock among them."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):
        memory.c_library().prctl(KILL_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor > 2 and descriptor != pipe:
            with contextlib.suppress(OSError):  # the listing's own
                os.close(descriptor)
    torch.set_num_threads(1)


def _serve(owner: Any, connection: Connection) -> None:
    at_start = memory.peak_resident_bytes()
    while True:
        try:
            name, arguments = pickle.loads(connection.recv_bytes())
        except (EOFError, ConnectionError):
            return
        owner.timer.seconds.clear()
        try:
            result = getattr(owner, name)(*arguments)
        except Exception as problem:
            problem.add_note(f"in a worker process:\n{traceback.format_exc()}")
            result = problem
        reply = (dict(owner.timer.seconds), memory.peak_resident_bytes() - at_start)
        connection.send_bytes(_packed((result, *reply)))


def _stop(workers: list[Worker]) -> None:
    """End the workers, which leave when their pipe closes, or at once in the middle of something."""
    for worker in workers:
        if worker.parent != os.getpid():
            continue  # inherited by a fork, and somebody else's
        worker.connection.close()
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(worker.pid, signal.SIGKILL)
            os.waitpid(worker.pid, 0)
    workers.clear()
