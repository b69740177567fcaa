"""A copy of a study in a folder that may fail at any time (Google Drive over FUSE), made while training goes on.

Layout as in the results folder: `*.csv`, `*.json`, `*.png`, `*.html` and `policies/`, and `checkpoint/` with generation
numbers of its own. A name in `.mirror`, the same in both folders, tells whose copy it is: no study writes into
another's.
Every file is written beside its place and renamed, so nothing a reader may have open is overwritten. What waits is
copied in an order that leaves a mirror to go on from at every moment: result files, runs.csv after the others and from
bytes taken together with theirs, so that it never lists a run whose rows are not there; then the checkpoint, so that
it never lacks a finished run that the CSV files lack too.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from common.recording import schema
from common.recording.store import write_atomically
from common.study.generations import DATA, KEPT, MANIFEST, Generations

CHECKPOINT = "checkpoint"  # the folder of generations; also the name of what waits to be copied there
CLEARING = "clearing"
POLICIES = "policies"
OWNER = ".mirror"
MADE_AGAIN = (".png", ".html")  # from the others, at the end of each study
RESULT_SUFFIXES = (".csv", ".json", *MADE_AGAIN)
RETRY_DELAYS = (0.5, 2.0, 8.0)  # seconds
CHUNK = 2**22  # bytes

Result = TypeVar("Result")


class Mirror:
    """Copies results and checkpoints in a thread of its own; failures never reach the training.

    A failing operation is repeated after each of RETRY_DELAYS, then the round is given up with one warning; further
    failures stay silent until a round has succeeded. What could not be copied is tried again at the next call.
    `warn` is called from that thread.
    """

    def __init__(self, folder: Path, *, warn: Callable[[str], None]):
        """`folder` is made at the first copy."""
        self.folder, self._warn = folder, warn
        self._owner, self._claimed = "", True
        self._policies: set[str] = set()  # that were handed over; they never change
        self.generations = Generations(folder / CHECKPOINT)
        self._state = threading.Condition()  # guards all that follows
        self._waiting: dict[str, Callable[[], None]] = {}  # by file name, CLEARING or CHECKPOINT
        self._working = self._failing = False

    def owner(self) -> str:
        """Name of the study whose copy lies here; nothing if there is none. Raises OSError."""
        return read_owner(self.folder)

    def push_results(self, folder: Path) -> None:
        """Copy the CSV, JSON, PNG and HTML files of `folder` and its policies; at the first time, make this its mirror.

        They are read here, so call it from the thread that writes them, and before the `push` or `clear` that follows
        the runs they hold.
        """
        try:
            if not self._owner:
                self._owner, self._claimed = read_owner(folder) or secrets.token_hex(8), False
                write_atomically(folder / OWNER, self._owner.encode())
            files = {path.name: path.read_bytes() for path in _result_files(folder)}
            policies = {f"{POLICIES}/{path.name}": path for path in (folder / POLICIES).glob("*.pt")}
            files |= {name: path.read_bytes() for name, path in policies.items() if name not in self._policies}
        except OSError as problem:
            self._warn(f"{folder}: results are not mirrored ({problem})")
            return
        self._policies |= policies.keys()
        with self._state:
            for name, data in files.items():
                self._waiting[name] = lambda name=name, data=data: self._write(self.folder / name, data)
            self._start()

    def push(self, manifest: Path) -> None:
        """Copy a checkpoint, its data first; a checkpoint that still waits is left out."""
        with self._state:
            self._waiting[CHECKPOINT] = lambda: self._copy_generation(manifest)
            self._start()

    def clear(self) -> None:
        """Remove the checkpoints, whose originals are gone, after the results that wait have been copied."""
        with self._state:
            self._waiting[CLEARING] = self._remove_generations
            self._start()

    def flush(self, timeout: float) -> bool:
        """Try to copy all that waits, for up to `timeout` seconds; True if nothing waits any more."""
        with self._state:
            self._start()
            self._state.wait_for(lambda: not self._working, timeout)
            return not self._waiting

    def read_results(self) -> dict[str, bytes]:
        """CSV and JSON files and policies by name, runs.csv last. Raises OSError after the retries."""
        paths = self.retrying(lambda: [*(self.folder / POLICIES).glob("*.pt"), *_result_files(self.folder)])
        wanted = [path for path in paths if path.suffix not in MADE_AGAIN]
        return {str(path.relative_to(self.folder)): self.retrying(path.read_bytes) for path in wanted}

    def retrying(self, operation: Callable[[], Result]) -> Result:
        """Result of `operation`, repeated after each delay while it raises OSError; the last error is raised."""
        for delay in RETRY_DELAYS:
            try:
                return operation()
            except OSError:
                time.sleep(delay)
        return operation()

    def _start(self) -> None:
        if self._waiting and not self._working:
            self._working = True
            threading.Thread(target=self._work, name="mirror", daemon=True).start()

    def _work(self) -> None:
        """Copy until nothing waits or the mirror fails."""
        problem: OSError | None = None
        while True:
            with self._state:
                if problem or not self._waiting:
                    first, self._failing = not self._failing, problem is not None
                    self._working = False
                    self._state.notify_all()
                    break
                name = min(self._waiting, key=_order)
                operation = self._waiting[name]
            try:
                self.retrying(functools.partial(self._copy, operation))
            except OSError as failure:
                problem = failure
                continue
            with self._state:
                if self._waiting.get(name) is operation:  # nothing newer has come meanwhile
                    del self._waiting[name]
        if problem and first:
            self._warn(f"{self.folder}: the mirror cannot be written ({problem}); training goes on without it")

    def _copy(self, operation: Callable[[], None]) -> None:
        """Do what waits, unless another study has made this its mirror meanwhile."""
        if not self._claimed:
            self._write(self.folder / OWNER, self._owner.encode())
            self._claimed = True
        elif self.owner() != self._owner:
            raise OSError(errno.EBUSY, "another study has taken it over")
        operation()

    def _write(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)

    def _remove_generations(self) -> None:
        self.generations.remove()
        with contextlib.suppress(OSError):  # never made, or holds other files
            self.generations.folder.rmdir()

    def _copy_generation(self, manifest: Path) -> None:
        """Copy a generation under the next number here; it may be removed there meanwhile."""
        with contextlib.ExitStack() as opened:
            try:
                sources = [opened.enter_context(path.open("rb")) for path in (manifest.with_suffix(DATA), manifest)]
            except FileNotFoundError:
                return  # removed before its copy began
            self.generations.folder.mkdir(parents=True, exist_ok=True)
            earlier, number = self.generations.numbers(), self.generations.next_number()
            try:
                for source, suffix in zip(sources, (DATA, MANIFEST), strict=True):
                    pieces = iter(lambda source=source: source.read(CHUNK), b"")
                    write_atomically(self.generations.path(number, suffix), pieces)
            except OSError:
                with contextlib.suppress(OSError):
                    self.generations.remove(keep=earlier)
                raise
        with contextlib.suppress(OSError):  # the next checkpoint's copy removes them
            self.generations.remove(keep=[number, *earlier][:KEPT])


def read_owner(folder: Path) -> str:
    """Name that tells whose results these are, or copies of them; nothing if nobody claimed any. Raises OSError."""
    try:
        return (folder / OWNER).read_text()
    except FileNotFoundError:
        return ""


def _order(name: str) -> tuple[bool, ...]:
    """Sorts what waits: results with runs.csv at the end, then the removal of checkpoints, then the checkpoint."""
    return name == CHECKPOINT, name == CLEARING, name == schema.RUNS


def _result_files(folder: Path) -> list[Path]:
    """Whole result files, runs.csv last; none if there is no folder. Raises OSError."""
    try:
        paths = [path for path in folder.iterdir() if path.suffix in RESULT_SUFFIXES and path.name[0] != "."]
    except FileNotFoundError:
        return []
    return sorted(paths, key=lambda path: (_order(path.name), path.name))
