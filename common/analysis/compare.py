"""Compare the experiments of each preset: prints tables, writes comparison.csv, …_cells.csv and .png.

Reads the CSV files of all studies <results-dir>/<preset>/<experiment>/ and nothing else; writes into
<results-dir>/<preset>/. Columns and the picture are explained in docs/csv_columns.md. Exit codes: 2 bad input (nothing
is written then); 1 where a file cannot be written, or with --check is not what would be.
"""

from __future__ import annotations

import hashlib
import io
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from common.analysis.comparison_figure import comparison_figure
from common.analysis.comparison_statistics import (
    BASELINE,
    FEWEST,
    KEY,
    comparability_warnings,
    comparison_tables,
    only_finished,
    tables_of,
)
from common.analysis.figures import DPI
from common.config import OneLineParser, leave
from common.recording import schema
from common.recording.results import ResultsError, find_studies, learning_rate_text, load_study
from common.recording.store import csv_bytes, write_atomically

TABLE, CELLS, PICTURE = FILES = "comparison.csv", "comparison_cells.csv", "comparison.png"
PNG_END = b"IEND\xaeB`\x82"


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare from the command line; one line and an exit code where that cannot be done."""
    parser = OneLineParser(prog="python -m common.compare", description=__doc__, allow_abbrev=False)
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
                leave(f"out of date: {', '.join(map(str, stale))}; python -m common.compare writes them", 1)
            return
        for comparison in comparisons if not said.stopping_only else ():
            for line in comparison.warnings:
                print(f"warning: {line}", file=sys.stderr)
            comparison.write()
        print("\n\n".join(comparison_text(c.table, c.preset, said.stopping_only) for c in comparisons))
    except ResultsError as problem:
        leave(f"error: {problem}", 2)
    except OSError as problem:
        leave(f"error: {problem}", 1)


class Comparison:
    """The studies of one preset side by side, and the files that say so."""

    def __init__(self, folder: Path, studies: Iterable[Path]):
        """Read `studies`, folders in the preset's `folder`; ResultsError where one cannot be used."""
        self.folder, self.preset = folder, folder.name
        read = {path: load_study(path) for path in studies}
        for path, study in read.items():
            preset, experiment = study.runs.iloc[0][["preset", "experiment"]]
            if preset != self.preset:
                raise ResultsError(f"{path}: holds runs of preset {preset}; allowed here: {self.preset}")
            if path.name == BASELINE != experiment:
                raise ResultsError(f"{path}: holds runs of experiment {experiment}; allowed here: {BASELINE}")
        self.runs, agents, references = tables_of({path.name: study for path, study in read.items()})
        self.table, self.cells = comparison_tables(self.runs, agents, references)
        self.warnings = [f"{self.preset}: {line}" for line in comparability_warnings(self.runs, references)]

    def write(self) -> None:
        """Write tables and picture into the preset's folder. Raises OSError."""
        picture = io.BytesIO()
        figure = comparison_figure(self.table, only_finished(self.runs), self.preset)
        figure.savefig(picture, format="png", dpi=DPI, metadata={"Software": None, "Source": self.digest()})
        for name, data in {**self.texts(), PICTURE: picture.getvalue()}.items():
            write_atomically(self.folder / name, data)

    def stale(self) -> list[Path]:
        """Which of the files are missing or not what `write` would write. Raises OSError."""
        there = {path: path.read_bytes() if path.exists() else b"" for path in map(self.folder.joinpath, FILES)}
        good = {self.folder / name: text for name, text in self.texts().items()}
        *_, (picture, drawn) = there.items()
        if self.digest().encode() in drawn and drawn.endswith(PNG_END):
            good[picture] = drawn
        return [path for path, data in there.items() if good.get(path) != data]

    def texts(self) -> dict[str, bytes]:
        """The two tables, in the format of the store's files."""
        return {TABLE: _csv(self.table), CELLS: _csv(self.cells)}

    def digest(self) -> str:
        """Names the numbers that the picture shows; the picture carries it as its text `Source`."""
        points = self.runs[["experiment", *KEY, "status", "normalised_score"]].sort_values(["experiment", *KEY])
        return f"sha256 {hashlib.sha256(_csv(self.table) + _csv(points)).hexdigest()}"


def comparison_text(table: pd.DataFrame, preset: str, stopping_only: bool = False) -> str:
    """Aligned tables of at most 100 columns, a row per experiment; `–` where there is no number.

    With `stopping_only` just the first, which has no scores.
    """
    head = f"{preset}: {len(table)} experiment{'' if len(table) == 1 else 's'}"
    stopping = _aligned(table, {
        ("runs,", "no stop"): lambda row: _of(row.runs_never_stopping, row.runs),
        ("cells,", "no stop"): lambda row: _of(row.cells_never_stopping, row.cells),
        ("dead", "agents"): lambda row: _number(row.dead_agents_share, ".0%"),
        ("death", "episode"): lambda row: _number(row.median_death_episode, ".0f"),
        ("frozen", "agents"): lambda row: _number(row.frozen_agents_share, ".0%"),
        ("freeze", "episode"): lambda row: _number(row.median_freeze_episode, ".0f"),
        ("final", "saturation"): lambda row: _number(row.median_final_saturation, ".0%"),
        ("… on the", "wrong side"): lambda row: _number(row.median_final_wrong_side_saturation, ".0%"),
    })  # fmt: skip
    if stopping_only:
        return f"{head}\n\n{stopping}"
    learning = _aligned(table, {
        ("", "seeds"): lambda row: f"{row.seeds}",
        ("diverged", "runs"): lambda row: f"{row.diverged_runs}",
        ("improved", "runs"): lambda row: _of(row.improved_runs, row.runs),
        ("… cells,", "each seed"): lambda row: _of(row.cells_improved_in_every_seed, row.cells),
        ("untrained", "score"): lambda row: _number(row.untrained_score),
        ("median", "score"): lambda row: _number(row.median_score),
        ("95% interval", "over seeds"): lambda row: _interval(row.median_score_low, row.median_score_high),
        ("best", "score"): lambda row: _number(row.best_score),
        ("its actor,", "critic lr"): lambda row: _rates(row.best_score_actor_lr, row.best_score_critic_lr),
    })  # fmt: skip
    viable = "Viable pairs of learning rates\n" + _aligned(table, {
        ("mean", "≥ 0.5"): lambda row: _of(row.viable_cells, row.cells),
        ("95%", "of a count"): lambda row: _interval(row.viable_cells_low, row.viable_cells_high, ".1f"),
        ("tries", "for one"): lambda row: _number(row.search_cost, ".1f"),
        ("", "learn"): lambda row: _of(row.learning_cells, row.cells),
        ("both marks,", "each seed"): lambda row: _of(row.cells_above_both_in_every_seed, row.cells),
        ("actors", "add"): lambda row: _number(row.actors_add, "+.2f"),
        ("95% interval", "over seeds"): lambda row: _interval(row.actors_add_low, row.actors_add_high),
    })  # fmt: skip
    against = "Against the baseline, same seed and rates\n" + _aligned(table[table["paired_runs"].notna()], {
        ("better", "runs"): lambda row: _of(row.runs_better_than_baseline, row.paired_runs),
        ("beat its", "start"): lambda row: _of(row.runs_better_than_untrained_baseline, row.paired_runs),
        ("cells, each seed", "better/worse"): lambda row: (
            f"{row.cells_better_in_every_seed}/{row.cells_worse_in_every_seed}"),
        ("score", "above it"): lambda row: _number(row.paired_score_difference, "+.2f"),
        ("seeds", "better"): lambda row: f"{row.seeds_better_than_baseline}",  # the pairs may be of fewer seeds
        ("95% interval", "over seeds"): lambda row: (
            _interval(row.paired_score_difference_low, row.paired_score_difference_high)),
        ("p after", "Holm"): lambda row: _number(row.paired_score_difference_holm, ".2g"),
        ("without", "score"): lambda row: f"{row.paired_runs_without_score}",
    })  # fmt: skip
    few = (table["seeds"] < FEWEST).any()
    note = f"; intervals and p-values from {FEWEST} seeds on" if few else ""
    parts = [f"{head}; scores: 0 random, 1 near-optimal{note}", stopping, learning, viable]
    return "\n\n".join(parts + [against] * bool(table["paired_runs"].notna().any()))


def _csv(table: pd.DataFrame) -> bytes:
    return csv_bytes(table.columns, table.astype(object).where(table.notna(), None).itertuples(index=False, name=None))


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


def _aligned(table: pd.DataFrame, columns: dict[tuple[str, str], Any]) -> str:
    """A line per experiment with the texts of these columns, under headers of two lines."""
    shown = pd.DataFrame({name: [text(row) for row in table.itertuples()] for name, text in columns.items()})
    return shown.set_axis(table["experiment"].rename(None)).to_string(sparsify=False)


def _number(value: Any, form: str = ".2f") -> str:
    if pd.isna(value):
        return "–"
    return format(value, form if abs(value) < 1000 or not form.endswith("2f") else form.replace("2f", "1e"))


def _interval(low: float, high: float, form: str = ".2f") -> str:
    return "–" if pd.isna(low) else f"{_number(low, form)} … {_number(high, form)}"


def _of(count: Any, whole: int) -> str:
    return "–" if pd.isna(count) else f"{count}/{whole}"


def _rates(actor_lr: float, critic_lr: float) -> str:
    return "–" if pd.isna(actor_lr) else f"{learning_rate_text(actor_lr)}, {learning_rate_text(critic_lr)}"
