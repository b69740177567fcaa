"""The results folder of one study: whole CSV files, each run's rows exactly once, in a fixed order.

A run is finished when it stands in runs.csv, which is written last; rows of other files whose run does not
stand there are left-overs of an interruption and are dropped. Rows are sorted by (seed, actor_lr,
critic_lr), so the bytes do not depend on which run ended first.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from common.agents.reports import RunKey
from common.recording import schema

STUDY = "study.json"
FORMAT = 2  # of results folders and checkpoints; raise it when what an older version left can no longer be continued
UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)  # what fsync answers where a file system has none


class StoreError(Exception):
    """The results folder cannot be used; the message is one line for the user."""


def format_cell(value: Any) -> str:
    """Text of one cell: empty for None and NaN, 7 significant digits for floats."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def csv_bytes(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> bytes:
    """A CSV file: a header, cells as `format_cell` has them, a line end after every row."""
    return "".join(f"{','.join(map(format_cell, row))}\n" for row in (columns, *rows)).encode()


def _parse_key(line: str, file: Path) -> RunKey:
    try:
        seed, actor_lr, critic_lr = line.split(",", 3)[:3]
        return RunKey(int(seed), float(actor_lr), float(critic_lr))
    except ValueError:
        raise StoreError(
            f"{file}: a row starts with {line[:40]!r}; allowed: seed,actor_lr,critic_lr,… "
            "(move the damaged file's folder aside and train again)"
        ) from None


def write_atomically(path: Path, data: bytes | Iterable[bytes | memoryview]) -> None:
    """Replace `path` by `data`, whole or in pieces, so that a reader, or a crash, sees the old file or the new one.

    The bytes, and then the rename, are on the disk when it returns. Raises OSError, also when bytes did not arrive.
    """
    partial = path.with_name(f".{path.name}.partial")  # what a killed process leaves is overwritten
    try:
        with partial.open("wb") as file:
            size = sum(file.write(piece) for piece in ([data] if isinstance(data, bytes) else data))
            file.flush()
            _sync(file.fileno())
        arrived = partial.stat().st_size
        if arrived != size:
            raise OSError(errno.EIO, f"{arrived} of {size} bytes arrived", str(path))
        os.replace(partial, path)
        if os.name != "nt":  # where a folder can be opened
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                _sync(folder)
            finally:
                os.close(folder)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as problem:
        if problem.errno not in UNSUPPORTED:
            raise


def differences(there: Mapping[str, Any], here: Mapping[str, Any], word: str = "asked") -> list[str]:
    """Fields that differ, each as `name old there, new asked`; None stands for a field that is not there."""
    names = dict.fromkeys((*there, *here))
    return [f"{n} {there.get(n)} there, {here.get(n)} {word}" for n in names if there.get(n) != here.get(n)]


def check_format(folder: Path, found: int, commit: str) -> None:
    """StoreError if the results or checkpoint in `folder`, made by the code of `commit`, have another format."""
    if found != FORMAT:
        age = "an older" if found < FORMAT else "a newer"
        raise StoreError(
            f"{folder}: made by {age} version of this code (format {found}, commit {commit}); allowed: that version, "
            "another folder, or --fresh, which moves it aside and starts over"
        )


def check_study(folder: Path, study: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What made the results in `folder` (study.json's `made_by`); nothing if there are none.

    `defaults` are the options' values where the experiment names none. StoreError if the results are not those of
    `study`, its `experiment` and `configuration`, or of another version of this code. Raises OSError.
    """
    for long in (folder / (name + schema.COMPRESSED) for name in schema.PACKED):
        if long.exists():
            raise StoreError(f"{long}: a study in its recorded form is not trained on; allowed: another folder")
    path = folder / STUDY
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        if (folder / schema.RUNS).exists():
            raise StoreError(f"{folder}: holds {schema.RUNS} but no {STUDY}; allowed: another folder") from None
        return []
    try:
        there = json.loads(text)
        made_by = list(there["made_by"])
        # A field that is younger than the file had its default then.
        old = {"experiment": there["experiment"], **defaults, **there["configuration"]}
        found = int(there.get("format", 1)), str(made_by[-1]["commit"])
    except (ValueError, LookupError, TypeError, AttributeError):
        raise StoreError(f"{path}: not a readable study description; allowed: another folder") from None
    check_format(folder, *found)
    differing = differences(old, {"experiment": study["experiment"], **study["configuration"]})
    if differing:
        raise StoreError(
            f"{folder}: holds results of another configuration ({'; '.join(differing)}); "
            "allowed: the same one, another folder, or --fresh, which moves it aside and starts over"
        )
    return made_by


def finished_runs(folder: Path, study: Mapping[str, Any], defaults: Mapping[str, Any]) -> set[RunKey]:
    """Runs of `study` whose rows are all in `folder`; takes and raises what `check_study` does."""
    check_study(folder, study, defaults)
    return set(RunTable(folder / schema.RUNS).lines)


class RunTable:
    """Lines of one CSV file by run, as text, so that rewriting the file never changes an old row."""

    def __init__(self, path: Path):
        """Read the file if it is there."""
        self.path, self.header = path, ""
        self.lines: dict[RunKey, list[str]] = {}
        try:
            text = path.read_text()
        except FileNotFoundError:
            return
        except UnicodeDecodeError as problem:
            raise StoreError(f"{path}: cannot be read ({problem}); allowed: the file as it was written") from None
        if text and not text.endswith("\n"):
            raise StoreError(f"{path}: the last line is cut off; move {path.parent} aside and train again")
        self.header, *lines = text.splitlines() or [""]
        expected = ",".join(schema.FILES[path.name])
        if not self.header.startswith(expected):
            raise StoreError(f"{path}: unexpected header {self.header[:60]!r}; allowed: {expected[:60]!r}…")
        for line in lines:
            if line.count(",") != self.header.count(","):
                raise StoreError(f"{path}: a row has another number of cells than the header: {line[:60]!r}")
            self.lines.setdefault(_parse_key(line, path), []).append(line)

    def put(self, key: RunKey, columns: tuple[str, ...], rows: Iterable[Iterable[Any]]) -> None:
        """Set the rows of a run; `columns` name their cells, missing columns stay empty."""
        fixed = schema.FILES[self.path.name]
        order = fixed + tuple(name for name in columns if name not in fixed)
        header = ",".join(order)
        if self.header and self.header != header:
            raise StoreError(f"{self.path}: has columns {self.header!r}, the new rows {header!r}")
        self.header = header
        names = dict(zip(schema.RUN_KEY, (str(key.seed), repr(key.actor_lr), repr(key.critic_lr)), strict=True))
        cells = (names | dict(zip(columns, row, strict=True)) for row in rows)
        self.lines[key] = [",".join(format_cell(row.get(name)) for name in order) for row in cells]

    def write(self, finished: Iterable[RunKey]) -> None:
        """Write the rows of the finished runs, in order."""
        body = [line for key in sorted(finished) for line in self.lines.get(key, [])]
        header = self.header or ",".join(schema.FILES[self.path.name])
        write_atomically(self.path, "\n".join([header, *body, ""]).encode())


class ResultsStore:
    """One folder with one configuration's results."""

    RUN_FILES = tuple(name for name in schema.FILES if name not in (schema.RUNS, schema.REFERENCE_POLICIES))
    NEEDED = (schema.REWARDS, schema.EVALUATIONS, schema.STOPPING_EPISODES)  # with rows of every run

    def __init__(self, folder: Path, experiment: str, configuration: Mapping[str, Any], defaults: Mapping[str, Any]):
        """Open or prepare the folder; StoreError if it holds other results or cannot be written.

        `defaults`: of options that older results lack.
        """
        self.folder, self.defaults = folder, defaults
        self.study = {"experiment": experiment, "configuration": dict(configuration)}
        try:
            self.made_by = check_study(folder, self.study, self.defaults)  # what has trained runs here
            self.tables = {name: RunTable(folder / name) for name in (*self.RUN_FILES, schema.RUNS)}
            self._check_runs()
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as problem:
            raise StoreError(f"{folder}: cannot be used as a results folder ({problem})") from None

    def _check_runs(self) -> None:
        """Every finished run has rows in the NEEDED files, and the others are there."""
        for name, table in self.tables.items():
            lost = self.finished() - set(table.lines) if name in self.NEEDED or not table.header else ()
            if lost:
                raise StoreError(
                    f"{self.folder / name}: has no rows of {min(lost)}, which {schema.RUNS} lists as finished; "
                    "restore the file, or start over with --fresh"
                )

    def has_leftovers(self) -> bool:
        """Whether a file holds rows of runs that are not finished; `write` removes them."""
        return any(set(table.lines) - self.finished() for table in self.tables.values())

    def finished(self) -> set[RunKey]:
        """Runs whose rows are all there."""
        return set(self.tables[schema.RUNS].lines)

    def describe(self, provenance: Mapping[str, Any]) -> None:
        """Write study.json: what was run, and by what; earlier provenance that differs is kept."""
        if provenance not in self.made_by:
            self.made_by.append(dict(provenance))
        text = json.dumps({"format": FORMAT, **self.study, "made_by": self.made_by}, indent=2) + "\n"
        write_atomically(self.folder / STUDY, text.encode())

    def add_run(
        self, key: RunKey, tables: Mapping[str, tuple[tuple[str, ...], list]], summary: Mapping[str, Any]
    ) -> None:
        """Take in a finished run: file name -> (columns, rows), and its row of runs.csv; `write` makes it last."""
        for name in self.RUN_FILES:
            columns, rows = tables.get(name, ((), []))
            if rows:
                self.tables[name].put(key, columns, rows)
        self.tables[schema.RUNS].put(key, tuple(summary), [tuple(summary.values())])

    def write(self) -> None:
        """Write all files, runs.csv last."""
        finished = self.finished()
        for table in self.tables.values():
            table.write(finished)

    def write_references(self, rows: list[Mapping[str, Any]]) -> None:
        """Write reference_policies.csv with these rows, in order."""
        path = self.folder / schema.REFERENCE_POLICIES
        columns = schema.FILES[schema.REFERENCE_POLICIES]
        write_atomically(path, csv_bytes(columns, ([row[name] for name in columns] for row in rows)))
