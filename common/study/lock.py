"""One writer per results folder: a lock that ends with the process that holds it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path

import filelock

from common.recording.store import UNSUPPORTED

try:
    import fcntl
except ImportError:  # Windows, where nobody asks for it
    fcntl = None

NAME = ".lock"  # what is locked
HOLDER = ".lock.json"  # who holds it
FILES = (NAME, HOLDER)
YOUNG_SECONDS = 60.0  # a file of that age is not being written any more


class LockError(Exception):
    """The folder cannot be locked; the message is one line for the user."""


class FolderLock:
    """Context manager that holds `<folder>/.lock`, and says in `.lock.json` who does: pid, host, since.

    The lock of a killed process is free at once where the file system knows locks (flock on Linux). Elsewhere a marker
    file stands for it, which is stale when its process has ended on this host.
    """

    def __init__(self, folder: Path):
        """`folder` is made when the lock is taken."""
        self.folder = folder
        self._lock = filelock.FileLock(folder / NAME, timeout=0, thread_local=False)

    def __enter__(self) -> FolderLock:
        """Take the lock; LockError names the holder or the reason."""
        me = {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._acquire()
            except filelock.Timeout:
                if not self._left_over():
                    raise
                (self.folder / NAME).unlink(missing_ok=True)
                self._acquire()
            (self.folder / HOLDER).write_text(json.dumps(me))
        except filelock.Timeout:
            raise LockError(self._refusal()) from None
        except OSError as problem:
            raise LockError(f"{self.folder}: cannot be locked ({problem})") from None
        return self

    def __exit__(self, *_: object) -> None:
        """Give the lock back; the empty file that was locked stays, so that two never hold two files of its name."""
        with contextlib.suppress(OSError):
            (self.folder / HOLDER).unlink(missing_ok=True)
        self._lock.release()

    def _acquire(self) -> None:
        try:
            self._lock.acquire()
        except NotImplementedError:  # no flock here; older releases of filelock leave it to us
            self._lock = filelock.SoftFileLock(self.folder / NAME, timeout=0, thread_local=False)
            self._lock.acquire()

    def _left_over(self) -> bool:
        """Whether what is there was a lock elsewhere, where flock is known, and stands for nobody here, where it isn't.

        A marker file is empty only while its process writes it.
        """
        path = self.folder / NAME
        if path.stat().st_size or (self.folder / HOLDER).exists() or time.time() - path.stat().st_mtime < YOUNG_SECONDS:
            return False
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError as problem:
                return problem.errno in UNSUPPORTED
        return False

    def _refusal(self) -> str:
        try:
            holder = json.loads((self.folder / HOLDER).read_text())
            who = f"pid {holder['pid']} on host {holder['host']}, since {holder['since']}"
        except (OSError, ValueError, LookupError, TypeError):
            who = "just started"
        return (
            f"{self.folder}: another process writes here ({who}); allowed: one at a time, or another folder; if that "
            f"process has ended on another computer, remove {self.folder / NAME}"
        )
