"""Runs side by side on the CPU: one thread per block of runs scales better than many threads per small product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

MOST_WORKERS = 4  # beyond, Python's lock costs more than another worker gains
LEAST_RUNS = 2  # of one worker

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """Maps a function over blocks of runs in threads that share the process's CPU threads."""

    def __init__(self, threads: int, runs: int):
        """For `threads` CPU threads in all and `runs` runs; with a single worker everything is done by the caller."""
        self.count = max(1, min(threads, runs // LEAST_RUNS, MOST_WORKERS))
        self.pool = None
        if self.count > 1:
            each = threads // self.count
            self.pool = ThreadPoolExecutor(self.count, initializer=torch.set_num_threads, initargs=(each,))

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """`function` of every item, in order; the first exception comes through."""
        return list((self.pool.map if self.pool else map)(function, items))
