"""What one study keeps on disk: opened once, filled by the training, closed once."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.agents.reports import RunKey
from common.recording import schema
from common.recording.store import ResultsStore, StoreError, finished_runs, write_atomically
from common.study import lock
from common.study.checkpoint import Checkpoints
from common.study.interruption import Interrupted
from common.study.lock import FolderLock
from common.study.mirror import CHECKPOINT, POLICIES, Mirror, read_owner
from common.study.parts import PARTS

FLUSH_SECONDS = 60.0  # how long the end of a study waits for its mirror
LEAVING_SECONDS = 5.0  # how long an interrupted one does


def warn(line: str) -> None:
    """Tell the user of something that does not end the study."""
    print(f"warning: {line}", file=sys.stderr)


class StudyFolder:
    """Results (`store`), training state (`checkpoints`) and their mirror."""

    def __init__(self, store: ResultsStore, provenance: Mapping[str, Any], mirror: Mirror | None):
        """`provenance`: commit, versions and device of what trains now."""
        self.store, self.provenance, self.mirror = store, provenance, mirror
        self.path = store.folder
        self.checkpoints = Checkpoints(
            self.path / CHECKPOINT, store.study, provenance, warn=warn, mirror=mirror, defaults=store.defaults
        )

    def begin(self, references: list[Mapping[str, Any]]) -> None:
        """Write what does not depend on training: study.json, and reference_policies.csv with these rows."""
        self.store.describe(self.provenance)
        self.store.write_references(references)
        self._mirror_results()

    def add_runs(self, runs: Mapping[RunKey, tuple[Mapping[str, Any], Mapping[str, Any]]]) -> None:
        """Write the rows of finished runs: tables and row of runs.csv, as `ResultsStore.add_run` takes them."""
        for key, (tables, summary) in runs.items():
            self.store.add_run(key, tables, summary)
        self.store.write()
        self._mirror_results()

    def save_policy(self, key: RunKey, actors: list[dict[str, Tensor]]) -> None:
        """Write a run's trained actors: a list of state dicts, one an agent (docs/csv_columns.md, "Policies")."""
        stream = io.BytesIO()
        torch.save(actors, stream)
        folder = self.path / POLICIES
        folder.mkdir(exist_ok=True)
        name = f"seed{key.seed}_actor{key.actor_lr!r}_critic{key.critic_lr!r}.pt"
        write_atomically(folder / name, stream.getvalue())

    def drop_leftovers(self) -> None:
        """Remove rows of runs that an interruption kept from being finished and that are not asked for."""
        if self.store.has_leftovers():
            self.store.write()

    def drop_finished_checkpoint(self) -> None:
        """Remove a checkpoint of finished runs only, which a kill between writing these and removing it leaves."""
        if not (self.path / CHECKPOINT).exists():
            return
        state = self.checkpoints.load()
        if state is None or {RunKey(*key) for key in state[1]["runs"]} <= self.store.finished():
            self.checkpoints.clear()

    def _mirror_results(self) -> None:
        if self.mirror:
            self.mirror.push_results(self.path)


@contextlib.contextmanager
def open_study(
    folder: Path,
    experiment: str,
    configuration: Mapping[str, Any],
    provenance: Mapping[str, Any],
    *,
    defaults: Mapping[str, Any],
    mirror_folder: Path | None,
    fresh: bool,
) -> Iterator[StudyFolder]:
    """Lock the folder, check it and its mirror, restore what only the mirror has; wait for the mirror at the end.

    `defaults`: of options that older results lack. `fresh` moves what both hold aside first. LockError if another
    process writes there; StoreError if one of them holds something else, or the mirror something that the folder lacks,
    or cannot be read. Raises OSError.
    """
    mirror = Mirror(mirror_folder, warn=warn) if mirror_folder else None
    with FolderLock(folder):
        if fresh and mirror:
            _move_aside(mirror.folder)
        if fresh:
            _move_aside(folder)
        store = ResultsStore(folder, experiment, configuration, defaults)
        if mirror and _restored(store, mirror):
            print(f"finished runs restored from {mirror.folder}")
            store = ResultsStore(folder, experiment, configuration, defaults)
        study = StudyFolder(store, provenance, mirror)
        try:
            yield study
        except Interrupted:
            if mirror:
                mirror.flush(LEAVING_SECONDS)
            raise
        if mirror:
            mirror.push_results(folder)
            if not mirror.flush(FLUSH_SECONDS):
                warn(f"{mirror.folder}: the copies are not complete; the same command tries again")


def _restored(store: ResultsStore, mirror: Mirror) -> bool:
    """Copy the mirror's results to a folder that has none; False if there are none to copy.

    StoreError if the mirror cannot be read, or holds what would be lost when this study is copied there.
    """
    try:
        mirrored = mirror.retrying(lambda: finished_runs(mirror.folder, store.study, store.defaults))
        owner = mirror.retrying(mirror.owner)
        found = mirror.read_results() if mirrored and not store.finished() else {}
    except (OSError, UnicodeDecodeError) as problem:
        raise StoreError(
            f"{mirror.folder}: the mirror cannot be read ({problem}); allowed: one that can be read, or none"
        ) from None
    here = store.finished() or (store.folder / CHECKPOINT).exists()
    if here and owner not in ("", read_owner(store.folder)):
        raise StoreError(
            f"{mirror.folder}: is the mirror of other results than {store.folder}; allowed: another --mirror"
        )
    if not found and mirrored - store.finished():
        raise StoreError(
            f"{mirror.folder}: holds results that {store.folder} lacks; allowed: an empty results folder, which is "
            "then restored from the mirror, or another --mirror"
        )
    for name in sorted(found, key=lambda name: name == schema.RUNS):
        (store.folder / name).parent.mkdir(exist_ok=True)
        write_atomically(store.folder / name, found[name])
    return bool(found)


def _move_aside(folder: Path) -> None:
    """Move all that the folder holds to a new folder beside it, but for its parts, which may be training."""
    try:
        old = [path for path in folder.iterdir() if path.name not in (*lock.FILES, PARTS)]
    except FileNotFoundError:
        return
    if not old:
        return
    folder = folder.resolve()  # beside a linked folder's own place, on the same file system
    aside = folder.with_name(f"{folder.name}.before-{datetime.now():%Y%m%d-%H%M%S-%f}")
    aside.mkdir()
    for path in old:
        path.rename(aside / path.name)
    print(f"earlier results moved to {aside}")
