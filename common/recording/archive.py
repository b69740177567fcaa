"""Turn finished studies into the form in which they are recorded: python -m common.recording.archive FOLDER [FOLDER …]

Tables with more than a row per run become .csv.gz (the same rows give the same bytes), rewards.csv keeps every tenth
episode, and nothing else changes. `common.recording.results.load_study` reads both forms; a study in this form cannot
be trained on.
Exit code 2: a folder cannot be used; it is left as it was, and so are those named after it.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Sequence
from pathlib import Path

from common.config import OneLineParser, leave
from common.recording import schema
from common.recording.results import ResultsError, load_study
from common.recording.store import write_atomically

REWARDS_EVERY = 10  # episodes
IN_TRAINING = (".lock.json", "checkpoint")  # what a study holds that is not finished


def archive(folder: Path) -> None:
    """Rewrite the tables of a finished study in place.

    A table is removed only when its compressed form is whole, so the command can be interrupted and repeated. Raises
    ResultsError where the folder holds no finished study, OSError where it cannot be written.
    """
    for name in IN_TRAINING:
        if (folder / name).exists():
            raise ResultsError(f"{folder / name}: the study is still being trained; allowed: a finished one")
    packed = {path: Path(f"{path}{schema.COMPRESSED}") for name in schema.PACKED if (path := folder / name).exists()}
    for plain, path in packed.items():
        if path.exists():  # of an interrupted call, or of somebody else
            if path.read_bytes() != _compressed(plain):
                raise ResultsError(f"{path}: differs from {plain.name}; needed: one of them, so remove the wrong one")
            path.unlink()
    load_study(folder)
    for plain, path in packed.items():
        write_atomically(path, _compressed(plain))
        plain.unlink()


def _compressed(plain: Path) -> bytes:
    """The recorded form of a table; ResultsError where its rows cannot be read."""
    text = plain.read_bytes()
    if plain.name == schema.REWARDS:
        try:
            header, *rows = text.splitlines(keepends=True)
            place = header.rstrip().split(b",").index(b"episode")
            text = header + b"".join(row for row in rows if int(row.split(b",", place + 1)[place]) % REWARDS_EVERY == 0)
        except (ValueError, IndexError):
            raise ResultsError(f"{plain}: holds no table with episodes") from None
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0) as file:  # the same bytes at any time
        file.write(text)
    return buffer.getvalue()


def main(arguments: Sequence[str] | None = None) -> None:
    """Archive from the command line; one line and exit code 2 where a folder cannot be used."""
    parser = OneLineParser(prog="python -m common.recording.archive", description=__doc__, allow_abbrev=False)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="folder <preset>/<experiment>")
    for folder in parser.parse_args(arguments).folders:
        try:
            archive(folder)
        except (ResultsError, OSError) as problem:
            leave(f"error: {problem}", 2)
        print(f"recorded form: {folder}")


if __name__ == "__main__":
    main()
