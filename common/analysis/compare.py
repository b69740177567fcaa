"""Compare the experiments of each preset: prints a table, writes <results-dir>/<preset>/comparison.csv and .png.

Reads the CSV files of all studies <results-dir>/<preset>/<experiment>/ and nothing else. Columns and the picture are
explained in docs/csv_columns.md. Exit codes: 2 bad input (nothing is written then); 1 with --check, when a file is not
what would be written.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd

from common.analysis.comparison_figure import comparison_figure
from common.analysis.comparison_statistics import BASELINE, KEY, comparability_warnings, comparison_table, only_finished
from common.analysis.figures import DPI
from common.recording import schema
from common.recording.results import ResultsError, Study, find_studies, learning_rate_text, load_study
from common.recording.store import format_cell, write_atomically

TABLE, PICTURE = "comparison.csv", "comparison.png"
PNG_END = b"IEND\xaeB`\x82"


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare from the command line; one line and an exit code where that cannot be done."""
    parser = _Parser(prog="python -m common.compare", description=__doc__, allow_abbrev=False)
    parser.add_argument("--results-dir", default="results", metavar="DIR", help="folder of the studies (%(default)s)")
    parser.add_argument("--env", nargs="+", metavar="PRESET", help="presets to compare (default: all that are there)")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument(
        "--stopping-only",
        action="store_true",
        help="print only when runs stopped and what was saturated, write nothing: for studies whose scores are not of "
        "one age, because runs were stopped early or trained for other numbers of episodes",
    )
    modes.add_argument(
        "--check",
        action="store_true",
        help="write nothing; exit code 1 says which files do not follow from the studies. Of a picture it checks that "
        "it is whole and was drawn from these numbers, not its pixels, which differ between versions of matplotlib",
    )
    said = parser.parse_args(arguments)
    try:
        root = Path(said.results_dir)
        comparisons = [Comparison(root / preset, folders) for preset, folders in _folders(root, said.env).items()]
        if said.check:
            stale = [path for comparison in comparisons for path in comparison.stale()]
            if stale:
                _leave(f"out of date: {', '.join(map(str, stale))}; python -m common.compare writes them", 1)
            return
        if said.stopping_only:
            print("\n\n".join(comparison.text(stopping_only=True) for comparison in comparisons))
            return
        for comparison in comparisons:
            for line in comparison.warnings:
                print(f"warning: {line}", file=sys.stderr)
            comparison.write()
        print("\n\n".join(comparison.text() for comparison in comparisons))
    except ResultsError as problem:
        _leave(f"error: {problem}", 2)
    except OSError as problem:
        _leave(f"error: {problem}", 1)


class Comparison:
    """The studies of one preset side by side, and the two files that say so."""

    def __init__(self, folder: Path, studies: Iterable[Path]):
        """Read `studies`, folders in the preset's `folder`; ResultsError where one cannot be used."""
        self.folder, self.preset = folder, folder.name
        runs, agents, references = [], [], []
        for path in studies:
            study = _load(path)
            for tables, rows in (
                (runs, study.runs),
                (agents, study.stopping_episodes),
                (references, study.reference_policies),
            ):
                tables.append(rows.assign(experiment=path.name))
        self.runs = pd.concat(runs, ignore_index=True)
        worlds = pd.concat(references, ignore_index=True)
        self.table = comparison_table(self.runs, pd.concat(agents, ignore_index=True), worlds)
        lines = comparability_warnings(self.runs, worlds)
        self.warnings = [f"{self.preset}: {line}" for line in lines]

    def write(self) -> None:
        """Write table and picture into the preset's folder. Raises OSError."""
        write_atomically(self.folder / TABLE, self.csv())
        picture = io.BytesIO()
        figure = comparison_figure(self.table, only_finished(self.runs), self.preset)
        figure.savefig(picture, format="png", dpi=DPI, metadata={"Software": None, "Source": self.digest()})
        write_atomically(self.folder / PICTURE, picture.getvalue())

    def stale(self) -> list[Path]:
        """Which of the two files are missing or not what `write` would write. Raises OSError."""
        table, picture = (
            path.read_bytes() if path.exists() else b"" for path in (self.folder / TABLE, self.folder / PICTURE)
        )
        drawn = self.digest().encode() in picture and picture.endswith(PNG_END)
        return [self.folder / TABLE] * (table != self.csv()) + [self.folder / PICTURE] * (not drawn)

    def csv(self) -> bytes:
        """Bytes of comparison.csv, in the format of the store's files."""
        return csv_bytes(self.table)

    def digest(self) -> str:
        """Names the numbers that the picture shows; the picture carries it as its text `Source`."""
        points = self.runs[["experiment", *KEY, "status", "normalised_score"]].sort_values(["experiment", *KEY])
        return f"sha256 {hashlib.sha256(self.csv() + csv_bytes(points)).hexdigest()}"

    def text(self, stopping_only: bool = False) -> str:
        """The table for people, in three parts or only the first."""
        return comparison_text(self.table, self.preset, stopping_only)


def csv_bytes(table: pd.DataFrame) -> bytes:
    """A CSV file like the store's: empty cell for no number, up to 7 significant digits, a line end after every row."""
    rows = ([format_cell(None if pd.isna(x) else x) for x in row] for row in table.itertuples(index=False, name=None))
    return "".join(f"{','.join(cells)}\n" for cells in ([*table.columns], *rows)).encode()


def comparison_text(table: pd.DataFrame, preset: str, stopping_only: bool = False) -> str:
    """Three aligned tables, about 100 columns wide, a row per experiment; `–` where there is no number.

    With `stopping_only` just the first, which has no scores.
    """
    rows = list(table.itertuples())
    head = f"{preset}: {len(rows)} experiment{'' if len(rows) == 1 else 's'}"
    stopping = _aligned(
        ("", "runs,", "cells,", "dead", "death", "frozen", "freeze", "final", "… on the"),
        ("experiment", "no stop", "no stop", "agents", "episode", "agents", "episode", "saturation", "wrong side"),
        [
            [
                row.experiment, f"{row.runs_never_stopping}/{row.runs}", f"{row.cells_never_stopping}/{row.cells}",
                _percent(row.dead_agents_share), _number(row.median_death_episode, ".0f"),
                _percent(row.frozen_agents_share), _number(row.median_freeze_episode, ".0f"),
                _percent(row.median_final_saturation), _percent(row.median_final_wrong_side_saturation),
            ]
            for row in rows
        ],
    )  # fmt: skip
    if stopping_only:
        return f"{head}\n\n{stopping}"
    learning = _aligned(
        ("", "", "diverged", "improved", "improved", "untrained", "median", "95% interval", "best", "its actor,"),
        ("experiment", "seeds", "runs", "runs", "cells", "score", "score", "over seeds", "score", "critic lr"),
        [
            [
                row.experiment, f"{row.seeds}", f"{row.diverged_runs}", f"{row.improved_runs}/{row.runs}",
                _of(row.improved_cells, row.cells_with_two_seeds), _number(row.untrained_score),
                _number(row.median_score), _interval(row.median_score_low, row.median_score_high),
                _number(row.best_score), _where(row),
            ]
            for row in rows
        ],
    )  # fmt: skip
    others = [row for row in rows if pd.notna(row.paired_runs)]
    against = _aligned(
        ("against the baseline,", "better", "beat its", "cells", "cells", "score", "95% interval", "pairs without"),
        ("same cell and seed", "runs", "untrained", "better", "worse", "above it", "over seeds", "score"),
        [
            [
                row.experiment, _of(row.runs_better_than_baseline, row.paired_runs),
                _of(row.runs_better_than_untrained_baseline, row.paired_runs),
                _number(row.cells_better_than_baseline, "d"), _number(row.cells_worse_than_baseline, "d"),
                _number(row.paired_score_difference, "+.2f"),
                _interval(row.paired_score_difference_low, row.paired_score_difference_high),
                f"{row.paired_runs_without_score}",
            ]
            for row in others
        ],
    )  # fmt: skip
    head += "; scores: 0 random, 1 near-optimal"
    return "\n\n".join([head, stopping, learning, *([against] if others else [])])


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:  # one line instead of usage + line
        self.exit(2, f"error: {message} (see --help)\n")


def _leave(line: str, code: int) -> NoReturn:
    print(line, file=sys.stderr)
    raise SystemExit(code) from None


def _folders(root: Path, presets: Sequence[str] | None) -> dict[str, list[Path]]:
    """Folders of the studies by preset, of those asked for or all; ResultsError where there is none."""
    if not root.is_dir():
        raise ResultsError(f"{root}: no such folder; needed: one with <preset>/<experiment>/{schema.RUNS}")
    found: dict[str, list[Path]] = {}
    for folder in find_studies(root):
        found.setdefault(folder.parent.name, []).append(folder)
    if not found:
        raise ResultsError(f"{root}: holds no studies; needed: <preset>/<experiment>/{schema.RUNS}")
    for preset in presets or ():
        if preset not in found:
            raise ResultsError(f"{root}: holds no studies of preset {preset!r}; allowed: {', '.join(found)}")
    return {preset: found[preset] for preset in found if not presets or preset in presets}


def _load(folder: Path) -> Study:
    """A study, checked to be of its folder's preset, and the baseline to be one; else ResultsError."""
    study = load_study(folder)
    preset, experiment = study.runs["preset"].iloc[0], study.runs["experiment"].iloc[0]
    if preset != folder.parent.name:
        raise ResultsError(f"{folder}: holds runs of preset {preset}; allowed here: {folder.parent.name}")
    if folder.name == BASELINE and experiment != BASELINE:
        raise ResultsError(f"{folder}: holds runs of experiment {experiment}; allowed here: {BASELINE}")
    return study


def _aligned(over: Sequence[str], under: Sequence[str], rows: list[list[str]]) -> str:
    """Two header lines and rows as columns: the first to the left, the others to the right."""
    lines = [list(over), list(under), *rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(under))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(text.rjust(w) for text, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )


def _percent(share: float) -> str:
    return _number(share, ".0%")


def _number(value: Any, form: str = ".2f") -> str:
    if pd.isna(value):
        return "–"
    return format(value, form if abs(value) < 1000 or not form.endswith("2f") else form.replace("2f", "1e"))


def _interval(low: float, high: float) -> str:
    return "–" if pd.isna(low) else f"{_number(low)} … {_number(high)}"


def _of(count: Any, whole: int) -> str:
    return "–" if pd.isna(count) else f"{count}/{whole}"


def _where(row: Any) -> str:
    """Cell of the best score."""
    if pd.isna(row.best_score):
        return "–"
    return ", ".join(learning_rate_text(rate) for rate in (row.best_score_actor_lr, row.best_score_critic_lr))
