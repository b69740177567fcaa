"""Signals that end a study in an orderly way."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from common.training.workers import SIGNALS

EXIT_INTERRUPTED = 75  # the state was saved; the same command goes on from it


class Interrupted(Exception):
    """A signal ended the command; what it trained was saved first."""


class Interruption:
    """Context manager that notes the first SIGINT, SIGTERM or SIGUSR1 in `name`; a second one acts as usual."""

    def __enter__(self) -> Interruption:
        """Listen, if this is the main thread."""
        self.name = ""
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening."""
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        self._restore()
