"""Puts the finished parts of a study together: the files of the same study trained in one piece, part by part."""

from __future__ import annotations

import filecmp
import functools
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.agents.reports import RunKey
from common.config import OneLineParser, leave
from common.recording import schema
from common.recording.results import ResultsError
from common.recording.store import (
    STUDY,
    ResultsStore,
    RunTable,
    StoreError,
    check_format,
    differences,
    write_atomically,
)
from common.study.folder import warn
from common.study.lock import FolderLock, LockError
from common.study.mirror import CHECKPOINT, POLICIES
from common.study.parts import PARTS, RUN_FIELDS, Part, split
from common.study.runner import show_study

STAGING = ".merging"  # what is merged stands here before it takes its place
TABLES = (*ResultsStore.RUN_FILES, schema.RUNS)


@dataclass(frozen=True)
class Described:
    """One part's folder, what its study.json says, and the runs it has finished."""

    part: Part
    folder: Path
    study: dict[str, Any]
    finished: list[RunKey]

    @property
    def keys(self) -> list[RunKey]:
        """All runs of the whole study."""
        pairs = itertools.product(*(self.study["configuration"][name] for name in RUN_FIELDS))
        return [RunKey(*pair) for pair in pairs]

    def differing(self, other: Described) -> list[str]:
        """Fields in which the studies differ, with both values."""
        mine, others = (
            {"experiment": it.study["experiment"], **it.study["configuration"], "part": None} for it in (self, other)
        )
        return differences(mine, others, f"in {other.folder}")


def main() -> None:
    """Merge what the command line names; one line and an exit code where that cannot be done."""
    parser = OneLineParser(prog="python -m common.merge", description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", type=Path, help=f"the study's folder, <preset>/<experiment>, that holds {PARTS}/")
    parser.add_argument("--no-figures", action="store_true", help="write the CSV files only, which takes less memory")
    said = parser.parse_args()
    try:
        merge(said.folder)
        if not said.no_figures:
            show_study(said.folder)
    except (StoreError, LockError, ResultsError) as problem:
        leave(f"error: {problem}", 2)
    except OSError as problem:
        leave(f"error: {problem}; the parts are as they were, the same command tries again", 1)


def merge(folder: Path) -> None:
    """Write the study whose parts lie in `folder`/parts into `folder`; parts are only read.

    Nothing is written unless every run is finished and the parts agree (StoreError), nor over anything but an earlier
    merge of the same parts; it takes its place when all of it is on the disk. Raises LockError and OSError, too.
    """
    _table.cache_clear()  # files may have changed
    parts = describe(folder)
    owners = _owners(parts)
    with FolderLock(folder):
        staging = folder / STAGING
        shutil.rmtree(staging, ignore_errors=True)  # of a merge that was killed
        try:
            staging.mkdir()
            _write(staging, parts, owners)
            _take_place(staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    print(f"{len(owners)} runs of {len(parts)} parts merged: {folder}")


def describe(folder: Path) -> list[Described]:
    """The parts in a study's folder, which must be of one study; StoreError names what is wrong. Raises OSError."""
    if not (folder / PARTS).is_dir():
        raise StoreError(f"{folder / PARTS}: no such folder; needed: the folder of a study that holds its parts")
    parts = []
    for path in (folder / PARTS).iterdir():
        named = re.fullmatch(r"(\d+)-of-(\d+)", path.name)
        if named and (path / STUDY).exists():
            parts.append(_described(path, Part(int(named[1]), int(named[2]))))
    if not parts:
        raise StoreError(f"{folder / PARTS}: holds no part; needed: folders K-of-N, as --part K/N makes them")
    parts.sort(key=lambda it: (it.part.count, it.part.number))
    for it in parts:
        differing = parts[0].differing(it)
        if differing:
            raise StoreError(
                f"{parts[0].folder}: is part of another study ({'; '.join(differing)}); allowed: parts of one study, "
                "the others moved out of this folder"
            )
    made = [made for it in parts for made in it.study["made_by"]]
    differing = [text for it in made if it != made[0] for text in differences(made[0], it, "elsewhere")]
    if differing:
        warn(f"{folder}: the parts were made by different code or machines ({differing[0]}); the last bits may differ")
    return parts


def _described(path: Path, part: Part) -> Described:
    try:
        study = json.loads((path / STUDY).read_text())
        study["experiment"]
        found, commit, there = study["format"], study["made_by"][-1]["commit"], study["configuration"]["part"]
        for name in RUN_FIELDS:
            iter(study["configuration"][name])
    except (ValueError, LookupError, TypeError):
        raise StoreError(
            f"{path / STUDY}: not a readable description of a part; allowed: the part's folder moved out of here and "
            "trained again"
        ) from None
    check_format(path, found, commit)
    if there != str(part):
        raise StoreError(f"{path}: holds part {there}; allowed: part {part}")
    return Described(part, path, study, sorted(_table(path / schema.RUNS).lines))


@functools.lru_cache(maxsize=2)
def _table(path: Path) -> RunTable:
    """A part's file, read once for runs that follow each other; StoreError where it is cut off."""
    return RunTable(path)


def _owners(parts: list[Described]) -> dict[RunKey, Described]:
    """Every run of the study, sorted, and the first part that holds it; StoreError if one is in none, or in two."""
    owners: dict[RunKey, Described] = {}
    for it in parts:
        for key in it.finished:
            other = owners.setdefault(key, it)
            if other is not it:
                _check_same(key, other, it)
    missing = [key for key in parts[0].keys if key not in owners]
    if missing:
        there, count = {it.part for it in parts}, parts[0].part.count
        for number, share in enumerate(split(parts[0].keys, count), start=1):
            part = Part(number, count)
            for key in set(share).intersection(missing):
                print(f"not finished: {key} of part {part}, which is {'unfinished' if part in there else 'missing'}")
        raise StoreError(
            f"{parts[0].folder.parent}: {len(missing)} of {len(parts[0].keys)} runs are not finished; needed: all, "
            "trained by the command of their part"
        )
    return dict(sorted(owners.items()))


def _check_same(key: RunKey, one: Described, two: Described) -> None:
    """StoreError if two parts differ in the rows of a run that both hold, the wall time apart."""
    for name in TABLES:
        mine, others = (_table(it.folder / name) for it in (one, two))
        columns = mine.header.split(",")
        rows, other_rows = ([line.split(",") for line in table.lines.get(key, [])] for table in (mine, others))
        cells = [pair for both in zip(rows, other_rows, strict=False) for pair in zip(columns, *both, strict=False)]
        differing = {column for column, cell, other in cells if cell != other} - {"wall_seconds"}
        if differing or len(rows) != len(other_rows) or mine.header != others.header:
            raise StoreError(
                f"{two.folder / name}: {key} differs from that in {one.folder} "
                f"({', '.join(sorted(differing)) or 'number of rows or columns'}); allowed: each run once, or twice "
                "the same"
            )


def _write(staging: Path, parts: list[Described], owners: dict[RunKey, Described]) -> None:
    """Write all files of the merged study."""
    study = parts[0].study
    fields = {name: value for name, value in study["configuration"].items() if name not in (*RUN_FIELDS, "part")}
    store = ResultsStore(staging, study["experiment"], fields, defaults={})
    for provenance in (made for it in parts for made in it.study["made_by"]):
        if provenance not in store.made_by:
            store.describe(provenance)
    for name in TABLES:
        write_atomically(staging / name, _pieces(name, parts, owners))
    write_atomically(staging / schema.REFERENCE_POLICIES, _references(parts))
    for source in (path for it in reversed(parts) for path in (it.folder / POLICIES).glob("*.pt")):
        (staging / POLICIES).mkdir(exist_ok=True)
        write_atomically(staging / POLICIES / source.name, source.read_bytes())


def _pieces(name: str, parts: list[Described], owners: dict[RunKey, Described]) -> Iterator[bytes]:
    """A table's text, one part at a time."""
    tables = (_table(it.folder / name) for it in parts)
    header = next((table.header for table in tables if table.lines), ",".join(schema.FILES[name]))
    yield f"{header}\n".encode()
    for it, keys in itertools.groupby(owners, key=owners.__getitem__):
        table = _table(it.folder / name)
        if table.lines and table.header != header:
            raise StoreError(f"{table.path}: has columns {table.header!r}, other parts {header!r}")
        for key in keys:
            lines = table.lines.get(key, [])
            if not lines and (name in ResultsStore.NEEDED or not table.header):
                raise StoreError(f"{table.path}: has no rows of {key}, which {schema.RUNS} lists as finished")
            yield "".join(f"{line}\n" for line in lines).encode()


def _references(parts: list[Described]) -> bytes:
    """The text of reference_policies.csv; StoreError if a part's is not whole or two differ."""
    header, found = ",".join(schema.FILES[schema.REFERENCE_POLICIES]), {}
    for it in parts:
        path = it.folder / schema.REFERENCE_POLICIES
        first, *lines = path.read_text(errors="replace").split("\n")
        seeds = {key.seed: [line for line in lines if line.startswith(f"{key.seed},")] for key in it.finished}
        lengths = {len(own) for own in seeds.values()}
        whole = first == header and lines[-1:] == [""] and lengths <= {len(schema.POLICIES)}
        if not whole or any(found.get(seed, own) != own for seed, own in seeds.items()):
            problem = "differs from that of another part" if whole else "is not whole"
            raise StoreError(f"{path}: {problem}; allowed: the file as it was written, and the same for each seed")
        found |= seeds
    return "\n".join([header, *(line for seed in sorted(found) for line in found[seed]), ""]).encode()


def _take_place(staging: Path, folder: Path) -> None:
    """Move what is merged into the study's folder, runs.csv last; StoreError if something else is there."""
    staged = sorted((path for path in staging.rglob("*") if path.is_file()), key=lambda path: path.name == schema.RUNS)
    targets = [folder / path.relative_to(staging) for path in staged]
    strange = [folder / CHECKPOINT, *(folder / (name + schema.COMPRESSED) for name in schema.PACKED)]
    taken = [path for path in strange if path.exists()]
    taken += [to for path, to in zip(staged, targets, strict=True) if to.exists() and not filecmp.cmp(path, to, False)]
    if taken:
        raise StoreError(
            f"{taken[0]}: is of a study that is not the merge of {folder / PARTS}; allowed: a folder that holds "
            "nothing else than parts, or their earlier merge"
        )
    for path, to in zip(staged, targets, strict=True):
        to.parent.mkdir(exist_ok=True)
        os.replace(path, to)
