"""Runs side by side on the CPU: forked processes, none of which waits for another's lock on Python."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import pickle
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
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


class Workers:
    """Runs a method of one object for several arguments at once, in processes that share the object's tensors.

    A worker sees the object as it was at the first call after a `restart`; what it writes to tensors made by
    `memory.shared_zeros` everybody sees. The object has a `timer`. Workers end with the thread that made that call.
    """

    def __init__(self) -> None:
        """None yet: the method runs in this process."""
        self.count = 1
        self.peak_bytes = 0  # at most so much did the workers add; pages that the parent touched too count twice
        self._pool: ProcessPoolExecutor | None = None

    def restart(self, count: int) -> None:
        """Fork anew, `count` workers, at the next call; with one, the method runs in this process."""
        if self._pool:
            self._pool.shutdown()
        self._pool, self.count = None, count

    def map(self, method: Callable[..., Any], arguments: Sequence[tuple]) -> list[Any]:
        """`method(*a)` for each of `arguments`, in order.

        The first exception comes through; ChildProcessError if a worker died.
        """
        if self.count == 1:
            return [method(*own) for own in arguments]
        owner = method.__self__
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside PyTorch's idle threads
                if self._pool is None:  # a forked process has what it is given as it is, not pickled
                    context, given = multiprocessing.get_context("fork"), (owner, os.getpid())
                    self._pool = ProcessPoolExecutor(self.count, context, _become_worker, given)
                calls = [self._pool.submit(_work, _packed((method.__name__, own))) for own in arguments]
            replies = [pickle.loads(call.result()) for call in calls]
        except BrokenProcessPool:
            self.restart(self.count)
            raise ChildProcessError("a worker process was killed (out of memory?)") from None
        self.peak_bytes = max(self.peak_bytes, sum(grown for _, _, grown in replies))
        for _, seconds, _ in replies:
            for phase, taken in seconds.items():
                owner.timer.seconds[phase] += taken / len(replies)  # side by side: a share of the wall time
        return [result for result, _, _ in replies]


class _Pickler(pickle.Pickler):
    """Tensors as plain copies of their numbers; multiprocessing would keep a file open for each."""

    def reducer_override(self, value: Any) -> Any:
        return (torch.from_numpy, (value.numpy(),)) if isinstance(value, torch.Tensor) else NotImplemented


def _packed(value: Any) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return stream.getvalue()


_owner: Any = None  # in a worker: whose methods it runs
_at_start = 0  # in a worker: its memory when it was forked


def _become_worker(owner: Any, parent: int) -> None:
    """Die with the parent, leave signals to it, and compute in one thread."""
    global _owner, _at_start
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):
        memory.c_library().prctl(KILL_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
    torch.set_num_threads(1)
    _owner, _at_start = owner, memory.peak_resident_bytes()


def _work(message: bytes) -> bytes:
    name, arguments = pickle.loads(message)
    _owner.timer.seconds.clear()
    result = getattr(_owner, name)(*arguments)
    return _packed((result, dict(_owner.timer.seconds), memory.peak_resident_bytes() - _at_start))
