"""Scalars of runs for TensorBoard while they train (--tensorboard DIR); nothing else needs the package tensorboard."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from common.agents.reports import RunKey
from common.config import ConfigError, StudyConfig
from common.recording.tracking import RunRecord

FLUSH_SECONDS = 10


class Board:
    """Event files of the runs of one study, in <DIR>/<preset>/<experiment>/seed42_actor0.001_critic0.01."""

    def __init__(self, config: StudyConfig, experiment: str):
        """ConfigError where the package is missing or the folder cannot be made."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ConfigError("--tensorboard: needs a package that is not there; pip install tensorboard") from None
        self.folder, self._new_writer = Path(config.tensorboard) / config.env / experiment, SummaryWriter
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise ConfigError(f"--tensorboard {config.tensorboard}: cannot be used ({problem})") from None
        self._writers: dict[RunKey, object] = {}
        self._written: dict[tuple[RunKey, str], int] = {}  # rows of a run's table

    def write(self, records: Iterable[RunRecord], columns: Mapping[str, tuple[str, ...]]) -> None:
        """Write what is new in the rows of these runs, as `<table>/<column>` over the episodes.

        `columns`: names of each table's cells, the episode first. After a resume all of a run's rows are written
        again, in a file that tells TensorBoard to forget the one before.
        """
        for record in records:
            if record.key not in self._writers:
                name = f"seed{record.key.seed}_actor{record.key.actor_lr!r}_critic{record.key.critic_lr!r}"
                folder = str(self.folder / name)
                self._writers[record.key] = self._new_writer(folder, purge_step=0, flush_secs=FLUSH_SECONDS)
            for table, rows in record.tables.items():
                names = [f"{table.removesuffix('.csv')}/{column}" for column in columns[table][1:]]
                for episode, *values in rows[self._written.get((record.key, table), 0) :]:
                    for name, value in zip(names, values, strict=True):
                        if not math.isnan(value):
                            self._writers[record.key].add_scalar(name, value, int(episode))
                self._written[record.key, table] = len(rows)

    def close(self) -> None:
        """Put on the disk what waits, and end these runs."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
