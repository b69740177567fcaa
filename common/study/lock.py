"""One writer per results folder: a lock that ends with the process that holds it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NAME = ".lock"
NO_FLOCK = (errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.ENOLCK)
SETTLE_SECONDS = 0.5  # longer than another process takes from reading the file to replacing it
HOLDER_SECONDS = 1.0  # how long a holder may take to write who it is


class LockError(Exception):
    """The folder cannot be locked; the message is one line for the user."""


class FolderLock:
    """Context manager that holds `<folder>/.lock`, with who holds it as JSON: pid, host, since.

    flock(2) decides where the file system has it, so the lock of a killed process is free at once, whatever the file
    says. Elsewhere the file's text decides: who stands there has the lock as long as its process runs, or for ever if
    that is on another host; of two that replace a stale text at once the last has the lock, and both wait
    `SETTLE_SECONDS` to see who.

    The lock belongs to the file, not to the name: after the folder is moved, its old name can be locked again.
    """

    def __init__(self, folder: Path):
        """`folder` is made when the lock is taken."""
        self.folder, self.path = folder, folder / NAME
        self._me = {"pid": os.getpid(), "host": socket.gethostname()}
        self._descriptor: int | None = None  # with flock

    def __enter__(self) -> FolderLock:
        """Take the lock; LockError names the holder or the reason."""
        self._me["since"] = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (fcntl and self._take_flock()):
                self._take_file()
        except OSError as problem:
            raise LockError(f"{self.folder}: cannot be locked ({problem})") from None
        return self

    def __exit__(self, *_: object) -> None:
        """Give the lock back and remove its file, if that is still ours."""
        try:
            with contextlib.suppress(OSError):  # a file that stays is stale
                if self._is_ours():
                    self.path.unlink()
        finally:
            if self._descriptor is not None:
                os.close(self._descriptor)
            self._descriptor = None

    def _is_ours(self) -> bool:
        if self._descriptor is None:
            return _read(self.path) == self._me
        try:
            return os.path.samestat(os.fstat(self._descriptor), self.path.stat())
        except FileNotFoundError:
            return False

    def _take_flock(self) -> bool:
        """False where the file system has no flock."""
        while True:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                _flock(self._descriptor)
                # Between open and flock the holder may have ended and removed the file.
                if self._is_ours():
                    os.ftruncate(self._descriptor, 0)
                    os.pwrite(self._descriptor, json.dumps(self._me).encode(), 0)
                    return True
            except BlockingIOError:
                self._close()
                self._refuse()
            except OSError as problem:
                self._close()
                if problem.errno in NO_FLOCK:
                    return False
                raise
            self._close()

    def _close(self) -> None:
        os.close(self._descriptor)
        self._descriptor = None

    def _take_file(self) -> None:
        holder = _read(self.path)
        if holder and (holder.get("host") != self._me["host"] or _runs(holder["pid"])):
            self._refuse(f"; if that process has ended, remove {self.path}")
        own = self.path.with_name(f"{NAME}.{self._me['pid']}")
        own.write_text(json.dumps(self._me))
        os.replace(own, self.path)
        time.sleep(SETTLE_SECONDS)
        if not self._is_ours():
            self._refuse()

    def _refuse(self, advice: str = "") -> None:
        holder = _read(self.path, HOLDER_SECONDS) or {}
        pid, host, since = (holder.get(name, "unknown") for name in ("pid", "host", "since"))
        raise LockError(
            f"{self.folder}: another process writes here (pid {pid} on host {host}, since {since}); "
            f"allowed: one at a time, or another folder{advice}"
        )


def _flock(descriptor: int) -> None:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _runs(pid: int) -> bool:
    """Whether a process runs on this host; yes where that cannot be told."""
    if os.name == "nt":
        return True  # os.kill would end it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True


def _read(path: Path, patience: float = 0.0) -> dict[str, Any] | None:
    """Who holds the lock, waiting up to `patience` seconds for a whole file; None if it cannot be read."""
    end = time.monotonic() + patience
    while True:
        try:
            found = json.loads(path.read_bytes())
            if isinstance(found, dict) and isinstance(found.get("pid"), int):
                return found
        except (OSError, ValueError):
            pass
        if time.monotonic() >= end:
            return None
        time.sleep(0.01)
