"""The only reader of a study's results folder: reads the CSV files, checks them, hands out data frames."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from common.recording import schema


class ResultsError(ValueError):
    """A results folder that cannot be used; the message is one line: file, what is wrong, what is allowed."""


@dataclass(frozen=True)
class Study:
    """Checked results of one study, one data frame per file, in the row order of the files.

    `seed`, `agent` and `episode` are int64, texts are str, all else is float64 with NaN for an empty cell.
    """

    folder: Path
    runs: pd.DataFrame
    stopping_episodes: pd.DataFrame
    gradient_norms: pd.DataFrame
    saturation: pd.DataFrame
    rewards: pd.DataFrame
    evaluations: pd.DataFrame
    reference_policies: pd.DataFrame

    @property
    def label(self) -> str:
        """Preset and experiment, as titles show them."""
        return study_label(self.runs)


@dataclass(frozen=True)
class StoppingCell:
    """Stopping episodes of one learning-rate pair over its seeds.

    `median` counts a seed that never stopped as later than any that did, so it is None when half of the seeds
    or more never stopped; seeds that diverged before stopping are not in it. `first` and `last` are the range
    of those that stopped.
    """

    seeds: int
    never: int
    diverged: int
    median: float | None
    first: float | None
    last: float | None


def load_study(folder: Path | str) -> Study:
    """Read and check every CSV file of one study, `<root>/<preset>/<experiment>`.

    Raises ResultsError with one line naming the file, what is wrong and what is allowed: a folder, file or
    column that is missing, a truncated file, a row of the wrong length, a cell that is no number, a key that
    is empty or there twice, and runs that are in runs.csv or in another file but not in both.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ResultsError(f"{folder}: no such folder; needed: a folder with {', '.join(schema.FILES)}")
    tables = {name: _read_table(folder / name) for name in schema.FILES}
    runs = tables[schema.RUNS]
    if runs.empty:
        raise ResultsError(f"{folder / schema.RUNS}: has no rows; needed: a row per run")
    for column in ("preset", "experiment"):
        values = sorted(runs[column].unique())
        if len(values) != 1:
            raise ResultsError(f"{folder / schema.RUNS}: {column} {' and '.join(values)}; allowed: one")
    for name, table in tables.items():
        _check_same_runs(folder / name, table, runs)
    return Study(folder, **{name.removesuffix(".csv"): table for name, table in tables.items()})


def find_studies(root: Path | str) -> list[Path]:
    """Folders `<root>/<preset>/<experiment>` that hold a runs.csv, sorted; not those that --fresh moved aside."""
    found = (path.parent for path in Path(root).glob(f"*/*/{schema.RUNS}"))
    return sorted(folder for folder in found if ".before-" not in folder.name)


def study_label(runs: pd.DataFrame) -> str:
    """Preset and experiment of the rows of runs.csv, as titles show them."""
    return f"{runs['preset'].iloc[0]} / {runs['experiment'].iloc[0]}"


def learning_rate_text(rate: float) -> str:
    """A learning rate as the project writes it: 1e-4, 3e-3, 1.5e-2."""
    mantissa, exponent = f"{rate:.6e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def learning_rates(table: pd.DataFrame) -> tuple[list[float], list[float]]:
    """Actor and critic learning rates of a table's runs, each ascending."""
    return sorted(table["actor_lr"].unique()), sorted(table["critic_lr"].unique())


def runs_of_pair(table: pd.DataFrame, actor_lr: float, critic_lr: float) -> pd.DataFrame:
    """Rows of a table that belong to one learning-rate pair, over all seeds."""
    return table[(table["actor_lr"] == actor_lr) & (table["critic_lr"] == critic_lr)]


def stopping_cell(runs: pd.DataFrame) -> StoppingCell:
    """Stopping episodes [episodes] over the seeds of one learning-rate pair, from its rows of runs.csv."""
    stopped = runs["stopping_episode"].dropna()
    diverged = int((runs["stopping_episode"].isna() & (runs["status"] == schema.DIVERGED)).sum())
    never = len(runs) - len(stopped) - diverged
    ordered = sorted(stopped) + [math.inf] * never
    half = len(ordered) // 2
    median = (ordered[half] + ordered[-half - 1]) / 2 if ordered else math.inf
    return StoppingCell(
        seeds=len(runs),
        never=never,
        diverged=diverged,
        median=median if math.isfinite(median) else None,
        first=min(stopped, default=None),
        last=max(stopped, default=None),
    )


def _read_table(path: Path) -> pd.DataFrame:
    header, rows, lines = _read_cells(path)
    missing = [column for column in schema.FILES[path.name] if column not in header]
    if missing:
        raise ResultsError(f"{path}: columns missing: {', '.join(missing)}; needed: see docs/csv_columns.md")
    repeated = sorted({column for column in header if header.count(column) > 1})
    if repeated:
        raise ResultsError(f"{path}: columns there twice: {', '.join(repeated)}; allowed: each once")
    columns = zip(*rows, strict=True) if rows else [()] * len(header)
    key = schema.ROW_KEYS[path.name]
    cells_of = dict(zip(header, columns, strict=True))
    table = pd.DataFrame({name: _column(path, name, cells_of[name], lines, name in key) for name in header})
    twice = table.duplicated(list(key))
    if twice.any():
        where = int(twice.to_numpy().argmax())
        row = _key_text(key, [table[name][where] for name in key])
        raise ResultsError(f"{path}: line {lines[where]}: second row for {row}; allowed: one row per {', '.join(key)}")
    return table


def _read_cells(path: Path) -> tuple[list[str], list[list[str]], list[int]]:
    """Header, rows of cells as texts, and the line number of each row; every row as long as the header."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ResultsError(f"{path}: no such file; needed: {', '.join(schema.FILES)}") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise ResultsError(f"{path}: cannot be read ({problem}); needed: a CSV file in UTF-8") from None
    if not text:
        raise ResultsError(f"{path}: is empty; needed: at least a header line")
    if not text.endswith("\n"):
        last = text.count("\n") + 1
        raise ResultsError(f"{path}: line {last}: truncated, no line end; needed: a line end after every row")
    reader = csv.reader(io.StringIO(text), strict=True)
    rows, lines = [], []
    try:
        header = next(reader)
        for row in reader:
            if len(row) != len(header):
                raise ResultsError(
                    f"{path}: line {reader.line_num}: {len(row)} cells; allowed: {len(header)} as in line 1"
                )
            rows.append(row)
            lines.append(reader.line_num)
    except csv.Error as problem:
        raise ResultsError(f"{path}: line {reader.line_num}: {problem}; needed: cells and commas") from None
    return header, rows, lines


def _column(path: Path, name: str, cells: tuple[str, ...], lines: list[int], in_key: bool) -> pd.Series:
    """One column as int64, float64 (NaN where empty) or str; float() keeps every bit of what was written.

    `nan` and `inf` are read as floats: a run that diverges has such numbers.
    """
    if name in schema.TEXT_COLUMNS:
        choices = schema.CHOICES.get(name)
        for line, cell in zip(lines, cells, strict=True):
            if choices and cell not in choices:
                raise ResultsError(f"{path}: line {line}: {name} {cell!r}; allowed: {', '.join(choices)}")
        return pd.Series(cells, dtype=object)
    needs = "a whole number" if name in schema.INTEGER_COLUMNS else "a number"
    convert = int if name in schema.INTEGER_COLUMNS else float
    values = []
    for line, cell in zip(lines, cells, strict=True):
        try:
            value = convert(cell) if cell or in_key else math.nan
            if in_key and not math.isfinite(value):
                raise ValueError(cell)
        except ValueError:
            allowed = needs if in_key else f"{needs} or an empty cell"
            raise ResultsError(f"{path}: line {line}: {name} {cell!r}; allowed: {allowed}") from None
        values.append(value)
    return pd.Series(values, dtype="int64" if name in schema.INTEGER_COLUMNS else "float64")


def _check_same_runs(path: Path, table: pd.DataFrame, runs: pd.DataFrame) -> None:
    """Every run of `table` is in runs.csv, and every run of runs.csv is in `table`.

    Gradient norms and saturation are logged every few episodes, so a run that ended by the first logged
    episode (it diverged, or the study is that short) may have no rows there. Reference policies are per seed,
    also of seeds that have no finished run yet.
    """
    key = [column for column in schema.RUN_KEY if column in table.columns]
    expected = runs
    if path.name in (schema.GRADIENT_NORMS, schema.SATURATION):
        first_logged = table["episode"].min() if len(table) else math.inf
        expected = runs[runs["total_episodes"] > first_logged]
    found = set(table[key].itertuples(index=False, name=None))
    known = set(runs[key].itertuples(index=False, name=None))
    wanted = set(expected[key].itertuples(index=False, name=None))
    strangers = set() if path.name == schema.REFERENCE_POLICIES else found - known  # they are written beforehand
    for keys, problem in (
        (strangers, f"is not in {schema.RUNS}; allowed: the runs there"),
        (wanted - found, f"has no row but is in {schema.RUNS}; needed: rows for every run"),
    ):
        if keys:
            raise ResultsError(f"{path}: {_key_text(key, min(keys))} {problem} ({len(keys)} in all)")


def _key_text(names: Sequence[str], values: Sequence[Any]) -> str:
    pairs = zip(names, values, strict=True)
    return ", ".join(f"{name} {learning_rate_text(x) if name.endswith('_lr') else x}" for name, x in pairs)
