"""One writer per results folder: a lock that ends with the process that holds it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows: the file itself is the lock
    fcntl = None

NAME = ".lock"
NO_FLOCK = (errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.ENOLCK)
SETTLE_SECONDS = 0.5  # longer than another process takes from finding a stale lock to replacing it
HOLDER_SECONDS = 1.0  # how long a holder may take to write who it is


class LockError(Exception):
    """The folder cannot be locked; the message is one line for the user."""


class FolderLock:
    """Context manager that holds `<folder>/.lock`, with who holds it as JSON: pid, host, started, since.

    flock(2) decides where the file system has it, so the lock of a killed process is free at once, whatever the file
    says. Elsewhere the file itself is the lock: it is stale when its process no longer runs on this host (a new process
    with the same pid is told apart by its start time), and another host's is never taken over. There, should two
    processes take over one stale lock, the last to write it has it, and both wait `SETTLE_SECONDS` to see who.

    The lock belongs to the file, not to the name: after the folder is moved, its old name can be locked again.
    """

    def __init__(self, folder: Path):
        """`folder` is made when the lock is taken."""
        self.folder, self.path = folder, folder / NAME
        self._descriptor: int | None = None  # with flock
        self._me: dict[str, Any] | None = None  # without

    def __enter__(self) -> FolderLock:
        """Take the lock; LockError names the holder or the reason."""
        me = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": process_start(os.getpid()),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if _has_flock(self.folder):
                self._take_flock(me)
            else:
                self._take_file(me)
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
            self._descriptor = self._me = None

    def _is_ours(self) -> bool:
        if self._descriptor is not None:
            return _same_file(self._descriptor, self.path)
        return self._me is not None and _read(self.path) == self._me

    def _take_flock(self, me: Mapping[str, Any]) -> None:
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                _flock(descriptor)
                # Between open and flock the holder may have ended and removed the file.
                if _same_file(descriptor, self.path):
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, json.dumps(me).encode(), 0)
                    self._descriptor = descriptor
                    return
            except BlockingIOError:
                self._refuse()
            finally:
                if self._descriptor is None:
                    os.close(descriptor)

    def _take_file(self, me: dict[str, Any]) -> None:
        """Lock by the file's existence."""
        try:
            with self.path.open("x") as file:
                json.dump(me, file)
        except FileExistsError:
            self._take_over(me)
        self._me = me

    def _take_over(self, me: dict[str, Any]) -> None:
        """Replace a stale lock file by ours; LockError if it is not stale or another process was faster."""
        holder = _read(self.path, HOLDER_SECONDS)
        if holder and (holder.get("host") != me["host"] or _runs(holder)):
            self._refuse()
        own = self.path.with_name(f"{NAME}.{me['pid']}")
        own.write_text(json.dumps(me))
        os.replace(own, self.path)
        time.sleep(SETTLE_SECONDS)
        if _read(self.path) != me:
            self._refuse()

    def _refuse(self) -> None:
        holder = _read(self.path, HOLDER_SECONDS) or {}
        pid, host, since = (holder.get(name, "unknown") for name in ("pid", "host", "since"))
        raise LockError(
            f"{self.folder}: another process writes here (pid {pid} on host {host}, since {since}); "
            "allowed: one at a time, or another folder"
        )


def process_start(pid: int) -> str | None:
    """When a process began, as text that no other process with this pid has; None if that cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # The name in parentheses may hold blanks; the fields after it begin with the third of proc(5).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "ended" if fields[0] in "ZX" else f"{boot} {fields[19]}"
    except (OSError, IndexError):
        pass
    try:
        shown = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return shown.stdout.strip() or None


def _runs(holder: Mapping[str, Any]) -> bool:
    """Whether the process that wrote this still runs on this host; yes where that cannot be told."""
    if os.name == "nt":
        return True  # os.kill would end it
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    started = process_start(holder["pid"])
    return started is None or started == holder.get("started")


def _has_flock(folder: Path) -> bool:
    """Whether the file system has flock; asked with a file that nobody else sees."""
    with tempfile.TemporaryFile(dir=folder) as probe:
        if fcntl is None:
            return False
        try:
            _flock(probe.fileno())
        except OSError as problem:
            if problem.errno in NO_FLOCK:
                return False
            raise
    return True


def _flock(descriptor: int) -> None:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _same_file(descriptor: int, path: Path) -> bool:
    """Whether `path` still names the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


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
