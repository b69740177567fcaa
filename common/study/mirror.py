"""A copy of a study in a folder that may fail at any time (Google Drive over FUSE), made while training goes on.

Layout: `<mirror>/<group>/checkpoint-000007.data` and `.json` (the manifest), and `<mirror>/*.csv`, `*.json`, `*.png`.
Every file is written under a name that ends in `.partial`, closed, its size checked, and then renamed, so nothing a
reader may have open is overwritten or appended to. Checkpoints always get a new name, the manifest last. Result
files keep their name: the rename puts the new file in place of the old one in one step. runs.csv comes last, from
bytes taken together with the others', so it never lists a run whose rows are not there; waiting result files are
copied before a checkpoint is, so the mirror's checkpoint never lacks a finished run that its CSV files lack too.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO, TypeVar

from common.recording import schema

MANIFEST = ".json"
PARTIAL = ".partial"
KEPT = 2  # generations
RESULT_SUFFIXES = (".csv", ".json", ".png")
LAST_RESULT = schema.RUNS
RETRY_DELAYS = (0.5, 2.0, 8.0)  # seconds
CHUNK = 2**22  # bytes
UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)

Result = TypeVar("Result")


def generation_path(folder: Path, number: int, suffix: str) -> Path:
    """File of one generation."""
    return folder / f"checkpoint-{number:06d}{suffix}"


def generation_number(path: Path) -> int | None:
    """Number in a generation's file name; None for any other file."""
    match = re.match(r"checkpoint-(\d+)\.", path.name)
    return int(match[1]) if match else None


def generation_files(folder: Path) -> dict[int, list[Path]]:
    """All files by generation, manifest first, whole or not; empty if there is no folder. Raises OSError."""
    files: dict[int, list[Path]] = {}
    try:
        paths = sorted(folder.iterdir(), key=lambda path: (path.suffix != MANIFEST, path.name))
    except FileNotFoundError:
        return files
    for path in paths:
        number = generation_number(path)
        if number is not None:
            files.setdefault(number, []).append(path)
    return files


def manifests(folder: Path) -> list[Path]:
    """Manifests, newest first. Raises OSError."""
    files = generation_files(folder)
    return [files[number][0] for number in sorted(files, reverse=True) if files[number][0].suffix == MANIFEST]


def next_generation(folder: Path) -> int:
    """A number that no file there has, above all others. Raises OSError."""
    return max(generation_files(folder), default=0) + 1


def remove_generations(folder: Path, keep: Iterable[int] = ()) -> None:
    """Remove all generations but those in `keep`, manifests before their data. Raises OSError."""
    kept = set(keep)
    for number, paths in generation_files(folder).items():
        for path in paths:
            if number not in kept or path.suffix == PARTIAL:
                path.unlink(missing_ok=True)


class Mirror:
    """Copies checkpoints and results in a thread of its own; failures never reach the training.

    A failing operation is repeated after each of `delays` seconds, then the round is given up with one warning; further
    failures stay silent until a round has succeeded. What could not be copied is tried again at the next call.
    `warn` is called from that thread.
    """

    def __init__(
        self,
        folder: Path,
        *,
        warn: Callable[[str], None],
        sleep: Callable[[float], None] = time.sleep,
        delays: tuple[float, ...] = RETRY_DELAYS,
    ):
        """`folder` is made at the first copy."""
        self.folder, self._warn, self._sleep, self._delays = folder, warn, sleep, delays
        self._state = threading.Condition()  # guards all that follows
        self._results: dict[str, bytes] = {}  # waiting, in the order of copying
        self._seen: dict[str, tuple[int, int]] = {}  # modification time and size of what was copied or waits
        self._clearing: list[str] = []
        self._checkpoint: tuple[str, list[Path]] | None = None  # waiting or being copied; manifest last
        self._copying = self._working = self._failing = self._late = False

    def push(self, files: list[Path], manifest: Path) -> bool:
        """Copy a checkpoint: `files`, which differ in suffix, then `manifest`, into the group named like its folder.

        Returns at once; False if an earlier checkpoint is still being copied, then this one is skipped.
        One that only waits is replaced by this one.
        """
        with self._state:
            if not self._copying:
                self._checkpoint = (manifest.parent.name, [*files, manifest])
                self._start()
                return True
            first, self._late = not self._late, True
        if first:
            self._warn(f"{self.folder}: copying a checkpoint outlasts the time between two; some are not mirrored")
        return False

    def push_results(self, folder: Path) -> None:
        """Copy the CSV, JSON and PNG files of `folder` that changed; never skipped.

        They are read here, so call it from the thread that writes them, and before the `push` or `clear` that follows
        the runs they hold.
        """
        with self._state:
            try:
                self._take_results(folder)
            except OSError as problem:
                self._warn(f"{folder}: results are not mirrored ({problem})")
            self._start()

    def clear(self, group: str) -> None:
        """Remove the checkpoints of a group, after the results that wait have been copied."""
        with self._state:
            if self._checkpoint and self._checkpoint[0] == group and not self._copying:
                self._checkpoint = None
            if group not in self._clearing:
                self._clearing.append(group)
            self._start()

    def flush(self, timeout: float) -> bool:
        """Try to copy all that waits, for up to `timeout` seconds; True if nothing waits any more."""
        with self._state:
            self._start()
            self._state.wait_for(lambda: not self._working, timeout)
            return not self._working and self._next_step() is None

    def newest(self, group: str) -> list[Path]:
        """Manifests of a group, newest first; their data lies beside them. Raises OSError after the retries."""
        return self.retrying(lambda: manifests(self.folder / group))

    def restore_results(self, folder: Path) -> list[Path]:
        """Copy the mirrored CSV and JSON files to `folder` if runs.csv is there but not here; returns the new files.

        Without runs.csv no run is finished, so whatever else is in `folder` holds nothing to keep. Raises OSError.
        """
        if (folder / LAST_RESULT).exists():
            return []
        mirrored = self.retrying(lambda: _result_files(self.folder))
        sources = [path for path in mirrored if path.suffix != ".png"]
        if not sources or sources[-1].name != LAST_RESULT:
            return []
        for path in sources:
            data = self.retrying(path.read_bytes)
            _copy(io.BytesIO(data), folder / path.name)
        return [folder / path.name for path in sources]

    def retrying(self, operation: Callable[[], Result]) -> Result:
        """Result of `operation`, repeated after each delay while it raises OSError; the last error is raised."""
        for delay in self._delays:
            try:
                return operation()
            except OSError:
                self._sleep(delay)
        return operation()

    def _take_results(self, folder: Path) -> None:
        """Put changed files among those that wait, runs.csv at the end."""
        found, seen = {}, {}
        for path in _result_files(folder):
            status = path.stat()
            seen[path.name] = (status.st_mtime_ns, status.st_size)
            if self._seen.get(path.name) != seen[path.name]:
                found[path.name] = path.read_bytes()
        self._seen.update(seen)
        waiting = {**self._results, **found}
        self._results = {name: waiting[name] for name in sorted(waiting, key=_copying_order)}

    def _start(self) -> None:
        if not self._working and self._next_step() is not None:
            self._working = True
            threading.Thread(target=self._work, name="mirror", daemon=True).start()

    def _next_step(self) -> Callable[[], None] | None:
        """What to do next: results, then groups to clear, then the checkpoint."""
        if self._results:
            return self._copy_result
        if self._clearing:
            return self._clear_group
        return self._copy_checkpoint if self._checkpoint else None

    def _work(self) -> None:
        while True:
            with self._state:
                step = self._next_step()
                if step is None:
                    self._failing = self._late = False
                    self._stop()
                    return
                self._copying = step == self._copy_checkpoint
            try:
                step()
            except OSError as problem:
                with self._state:
                    first, self._failing = not self._failing, True
                    self._stop()
                if first:
                    self._warn(f"{self.folder}: the mirror cannot be written ({problem}); training goes on without it")
                return
            except BaseException:
                with self._state:
                    self._stop()
                raise

    def _stop(self) -> None:
        self._copying = self._working = False
        self._state.notify_all()

    def _copy_result(self) -> None:
        with self._state:
            name, data = next(iter(self._results.items()))
        self.retrying(lambda: _copy(io.BytesIO(data), self.folder / name))
        with self._state:
            if self._results[name] is data:
                del self._results[name]

    def _clear_group(self) -> None:
        with self._state:
            group = self._clearing[0]
        folder = self.folder / group
        self.retrying(lambda: remove_generations(folder))
        with contextlib.suppress(OSError):
            folder.rmdir()
        with self._state:
            self._clearing.remove(group)

    def _copy_checkpoint(self) -> None:
        with self._state:
            group, paths = self._checkpoint
        with contextlib.ExitStack() as opened, contextlib.suppress(_Gone):
            self._copy_generation(self.folder / group, [opened.enter_context(_open(path)) for path in paths])
        with self._state:
            self._checkpoint, self._copying = None, False

    def _copy_generation(self, folder: Path, sources: list[BinaryIO]) -> None:
        """Copy open files, the manifest last; they may be unlinked meanwhile."""
        number = self.retrying(lambda: next_generation(folder))
        earlier = [generation_number(path) for path in self.retrying(lambda: manifests(folder))]
        try:
            for source in sources:
                target = generation_path(folder, number, Path(source.name).suffix)
                self.retrying(lambda source=source, target=target: _copy(source, target))
        except OSError:
            with contextlib.suppress(OSError):
                remove_generations(folder, keep=earlier)
            raise
        with contextlib.suppress(OSError):  # the next checkpoint's copy removes them
            remove_generations(folder, keep=[number, *earlier][:KEPT])


class _Gone(Exception):
    """A checkpoint was removed here before its copy began."""


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise _Gone from None


def _copying_order(name: str) -> tuple[bool, str]:
    return name == LAST_RESULT, name


def _result_files(folder: Path) -> list[Path]:
    """Whole result files in the order of copying; none if there is no folder. Raises OSError."""
    try:
        names = [path.name for path in folder.iterdir() if path.suffix in RESULT_SUFFIXES and path.name[0] != "."]
    except FileNotFoundError:
        return []
    return [folder / name for name in sorted(names, key=_copying_order)]


def _copy(source: BinaryIO, target: Path) -> None:
    """Copy all of `source` to `target` by way of a partial file. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + PARTIAL)
    partial.unlink(missing_ok=True)
    source.seek(0)
    with partial.open("xb") as file:
        shutil.copyfileobj(source, file, CHUNK)
        file.flush()
        try:
            os.fsync(file.fileno())
        except OSError as problem:
            if problem.errno not in UNSUPPORTED:
                raise
    size, arrived = source.tell(), partial.stat().st_size
    if arrived != size:
        raise OSError(errno.EIO, f"{arrived} of {size} bytes arrived", str(target))
    os.replace(partial, target)
