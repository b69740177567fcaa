"""Where the time goes: wall seconds by phase, for summaries and the benchmark."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class PhaseTimer:
    """Adds up wall time by phase name; on CUDA the clock is the host's: where the host waits."""

    def __init__(self) -> None:
        """All phases at zero."""
        self.seconds: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()
        self._threads = 1

    @contextmanager
    def at_once(self, threads: int) -> Iterator[None]:
        """Within it so many threads count phases at the same time; each counts for its share of the wall time."""
        self._threads = threads
        try:
            yield
        finally:
            self._threads = 1

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of the enclosed block as `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            taken = time.perf_counter() - start
            with self._lock:
                self.seconds[name] += taken / self._threads

    def shares(self) -> dict[str, float]:
        """Share of the counted time by phase, summing to 1."""
        total = sum(self.seconds.values()) or 1.0
        return {name: seconds / total for name, seconds in self.seconds.items()}
