"""Numbered files in one folder: `checkpoint-000007.data` and `checkpoint-000007.json`, the manifest, written last.

A generation without its manifest does not exist for readers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

DATA, MANIFEST = ".data", ".json"
KEPT = 2  # generations
NAME = re.compile(r"\.?checkpoint-(\d+)\.")  # also of partial files, which a killed process leaves


class Generations:
    """The generations of one folder. All methods but `path` raise OSError if the folder cannot be read or changed."""

    def __init__(self, folder: Path):
        """Touches no file."""
        self.folder = folder

    def path(self, number: int, suffix: str) -> Path:
        """File of one generation."""
        return self.folder / f"checkpoint-{number:06d}{suffix}"

    def files(self) -> dict[int, list[Path]]:
        """All files by number, whole generations or not, each manifest first; none if there is no folder."""
        found: dict[int, list[Path]] = {}
        try:
            paths = sorted(self.folder.iterdir(), key=lambda path: (path.suffix != MANIFEST, path.name))
        except FileNotFoundError:
            return found
        for path in paths:
            if match := NAME.match(path.name):
                found.setdefault(int(match[1]), []).append(path)
        return found

    def numbers(self) -> list[int]:
        """Numbers of the generations that have a manifest, newest first."""
        files = self.files()
        return [number for number in sorted(files, reverse=True) if files[number][0].suffix == MANIFEST]

    def next_number(self) -> int:
        """A number that no file has, above all others."""
        return max(self.files(), default=0) + 1

    def remove(self, keep: Iterable[int] = ()) -> None:
        """Remove all that does not belong to the generations in `keep`, manifests before their data."""
        kept = set(keep)
        for number, paths in self.files().items():
            for path in paths:
                if number not in kept or path.suffix not in (DATA, MANIFEST):
                    path.unlink(missing_ok=True)
