"""What analyses a study reads it here: the CSV files of its folder, checked, as data frames."""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.recording import schema

# What makes pandas read every bit of a number; its default since 3.1.
EXACT = {} if tuple(map(int, pd.__version__.split(".")[:2])) >= (3, 1) else {"float_precision": "round_trip"}
SCORE_ENDS = ("random", "greedy_offload")  # policies whose returns are the scores 0 and 1


class ResultsError(ValueError):
    """A results folder that cannot be used; the message is one line: file, what is wrong, what is allowed."""


@dataclass(frozen=True)
class Study:
    """Checked results of one study, one data frame per file, in the row order of the files.

    `seed`, `agent` and `episode` are int64, texts are str, all else is float64 with NaN for an empty cell. A study
    that was recorded before a column existed has NaN there; the age of its scores is read off its evaluations.
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
    """Read and check every CSV file of one study, `<root>/<preset>/<experiment>`, long ones also as .csv.gz.

    Raises ResultsError with one line naming the file, what is wrong and what is allowed: a folder, file or
    column that is missing, a truncated file, a row of the wrong length, a cell that is no number, a key that
    is empty or there twice, and runs that are in runs.csv or in another file but not in both.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ResultsError(f"{folder}: no such folder; needed: a folder with {', '.join(schema.FILES)}")
    tables = {name: _read_table(folder, name) for name in schema.FILES}
    runs = tables[schema.RUNS]
    if runs.empty:
        raise ResultsError(f"{folder / schema.RUNS}: has no rows; needed: a row per run")
    for column in ("preset", "experiment"):
        values = sorted(runs[column].unique())
        if len(values) != 1:
            raise ResultsError(f"{folder / schema.RUNS}: {column} {' and '.join(values)}; allowed: one")
    for name, table in tables.items():
        _check_same_runs(folder / name, table, runs)
    if runs[list(schema.ADDED[schema.RUNS])].isna().all(axis=None):
        tables[schema.RUNS] = _with_scores(runs, tables[schema.EVALUATIONS], tables[schema.REFERENCE_POLICIES])
    return Study(folder, **{name.removesuffix(".csv"): table for name, table in tables.items()})


def find_studies(root: Path | str) -> list[Path]:
    """Folders `<root>/<preset>/<experiment>` that hold a runs.csv, sorted; not hidden or put aside by --fresh."""
    found = (path.parent for path in Path(root).glob(f"*/*/{schema.RUNS}"))
    return sorted(folder for folder in found if ".before-" not in folder.name and folder.name[0] != ".")


def study_label(runs: pd.DataFrame) -> str:
    """Preset and experiment of the rows of runs.csv, as titles show them."""
    return f"{runs['preset'].iloc[0]} / {runs['experiment'].iloc[0]}"


def learning_rate_text(rate: float) -> str:
    """A learning rate as the project writes it: 1e-4, 3e-3, 1.5e-2, 0."""
    if rate == 0:
        return "0"
    mantissa, exponent = f"{rate:.6e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def learning_rates(table: pd.DataFrame) -> tuple[list[float], list[float]]:
    """Actor and critic learning rates of a table's runs, each ascending."""
    return sorted(table["actor_lr"].unique()), sorted(table["critic_lr"].unique())


def normalised_scores(returns: pd.Series, seeds: pd.Series, references: pd.DataFrame) -> pd.Series:
    """Returns on the scale of their seed's reference policies: 0 random, 1 greedy_offload; NaN where one is missing.

    `references`: rows of reference_policies.csv of one study.
    """
    by_policy = references.pivot(index="policy", columns="seed", values="evaluation_return").reindex(SCORE_ENDS)
    low, high = (by_policy.loc[name].reindex(seeds).to_numpy() for name in SCORE_ENDS)
    return (returns - low) / (high - low)


def score_ages(runs: pd.DataFrame) -> str:
    """Episodes at which the scores of these rows of runs.csv were taken: `episode 2000`, `episodes 261 to 2000`."""
    ages = runs["score_episode"].dropna()
    if ages.nunique() < 2:
        return f"episode {ages.iloc[0]:.0f}" if len(ages) else "no episode"
    return f"episodes {ages.min():.0f} to {ages.max():.0f}"


def stopping_cell(runs: pd.DataFrame) -> StoppingCell:
    """Stopping episodes [episodes] over the seeds of one learning-rate pair, from its rows of runs.csv."""
    stopped = runs["stopping_episode"].dropna()
    diverged = int((runs["stopping_episode"].isna() & (runs["status"] == schema.DIVERGED)).sum())
    never = len(runs) - len(stopped) - diverged
    median = pd.Series([*stopped, *[math.inf] * never], dtype=float).median()
    known = median if math.isfinite(median) else None
    return StoppingCell(len(runs), never, diverged, known, min(stopped, default=None), max(stopped, default=None))


def stopping_texts(cell: StoppingCell) -> list[str]:
    """What there is to say of a cell: `188` or `never`; `188`, `(161–232)`; `2/3 never`, `(240)`."""
    misses = {"never": cell.never, "diverged": cell.diverged}
    words = [f"{count}/{cell.seeds} {what}" if count < cell.seeds else what for what, count in misses.items() if count]
    span = []
    if cell.first is not None and (cell.first < cell.last or cell.median is None):
        span = [f"({cell.first:.0f}" + (f"–{cell.last:.0f})" if cell.first < cell.last else ")")]
    return [f"{cell.median:.0f}", *span, *words] if cell.median is not None else words + span


def _read_table(folder: Path, name: str) -> pd.DataFrame:
    """One checked table: the columns of schema.FILES in their order, NaN in those that older files lack, then others.

    The checks run over whole columns; only a table that fails one is looked through cell by cell, for its line.
    """
    path, text = _read_text(folder, name)
    header = text[: text.index(b"\n")].decode().split(",")
    added = schema.ADDED.get(name, ())
    missing = [column for column in schema.FILES[name] if column not in header and column not in added]
    if missing:
        raise ResultsError(f"{path}: columns missing: {', '.join(missing)}; needed: see docs/csv_columns.md")
    repeated = sorted({column for column in header if header.count(column) > 1})
    if repeated:
        raise ResultsError(f"{path}: columns there twice: {', '.join(repeated)}; allowed: each once")
    _check_cell_counts(path, text)
    key = list(schema.ROW_KEYS[name])
    table = _parsed(path, text, header, key)
    for column, choices in schema.CHOICES.items():
        strange = table[column][~table[column].isin(choices)] if column in header else ()
        if len(strange):
            line, cell = strange.index[0] + 2, strange.iloc[0]
            raise ResultsError(f"{path}: line {line}: {column} {cell!r}; allowed: {', '.join(choices)}")
    twice = table[table.duplicated(key)]
    if len(twice):
        line, row = twice.index[0] + 2, _key_text(key, twice[key].astype(object).iloc[0])
        raise ResultsError(f"{path}: line {line}: second row for {row}; allowed: one row per {', '.join(key)}")
    appended = [column for column in header if column not in schema.FILES[name]]
    return table.reindex(columns=[*schema.FILES[name], *appended])


def _read_text(folder: Path, name: str) -> tuple[Path, bytes]:
    """The file that holds a table, compressed or not, and its text with a line end after every line."""
    path, packed = folder / name, folder / (name + schema.COMPRESSED)
    if name in schema.PACKED and packed.exists():
        if path.exists():
            raise ResultsError(f"{path}: there twice, also as {packed.name}; allowed: one of the two")
        path = packed
    try:
        text = path.read_bytes()
        text = gzip.decompress(text) if path == packed else text
        text.decode("utf-8")
    except FileNotFoundError:
        raise ResultsError(f"{path}: no such file; needed: {', '.join(schema.FILES)}") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as problem:
        raise ResultsError(f"{path}: cannot be read ({problem}); needed: a CSV file in UTF-8") from None
    text = text.replace(b"\r\n", b"\n")
    if not text:
        raise ResultsError(f"{path}: is empty; needed: at least a header line")
    if not text.endswith(b"\n"):
        last = text.count(b"\n") + 1
        raise ResultsError(f"{path}: line {last}: truncated, no line end; needed: a line end after every row")
    if b"\0" in text:
        line = text[: text.index(b"\0")].count(b"\n") + 1
        raise ResultsError(f"{path}: line {line}: holds a zero byte; needed: cells and commas")
    return path, text


def _check_cell_counts(path: Path, text: bytes) -> None:
    """Every line has as many cells as the header; no cell holds a comma, so their commas tell."""
    characters = np.frombuffer(text, dtype=np.uint8)
    ends = np.flatnonzero(characters == ord("\n"))
    commas = np.diff(np.searchsorted(np.flatnonzero(characters == ord(",")), ends), prepend=0)
    wrong = commas != commas[0]
    if wrong.any():
        where = int(wrong.argmax())
        empty = ends[where] == ends[where - 1] + 1
        found, allowed = 0 if empty else commas[where] + 1, commas[0] + 1
        raise ResultsError(f"{path}: line {where + 1}: {found} cells; allowed: {allowed} as in line 1")


def _parsed(path: Path, text: bytes, header: list[str], key: list[str]) -> pd.DataFrame:
    """Columns as int64, float64 (NaN where empty) or str, every bit of a number as written.

    `nan` and `inf` are read as floats: a run that diverges has such numbers.
    """
    texts = [name for name in header if name in schema.TEXT_COLUMNS]
    wholes = [name for name in header if name in schema.INTEGER_COLUMNS]
    numbers = [name for name in header if name not in texts]
    types = dict.fromkeys(header, "float64") | dict.fromkeys(wholes, "int64") | dict.fromkeys(texts, str)
    try:
        with np.errstate(invalid="ignore"):  # of a number that is no whole one, which is an error below
            table = pd.read_csv(
                io.BytesIO(text), header=None, skiprows=1, names=header, index_col=False, dtype=types,
                na_values={name: ["", "nan"] for name in numbers}, keep_default_na=False, quoting=csv.QUOTE_NONE,
                skip_blank_lines=False, low_memory=False, **EXACT,
            )  # fmt: skip
    except (ValueError, TypeError, OverflowError) as problem:
        raise _wrong_cell(path, text, header, key, str(problem)) from None
    if not all(np.isfinite(table[name].to_numpy()).all() for name in key if name in numbers):
        raise _wrong_cell(path, text, header, key, "a key is not finite")
    return table.astype(dict.fromkeys(texts, object)) if texts else table


def _wrong_cell(path: Path, text: bytes, header: list[str], key: list[str], problem: str) -> ResultsError:
    """What to say of a table with a cell that is no number: its first one."""
    rows = [line.split(",") for line in text.decode().split("\n")[1:-1]]
    for place, name in enumerate(header):
        whole, in_key = name in schema.INTEGER_COLUMNS, name in key
        allowed = ("a whole number" if whole else "a number") + ("" if in_key else " or an empty cell")
        for line, row in enumerate(rows if name not in schema.TEXT_COLUMNS else (), start=2):
            try:
                value = (int if whole else float)(row[place]) if row[place] or in_key else 0.0
            except ValueError:
                value = math.nan if in_key else None
            if value is None or (in_key and not math.isfinite(value)):
                return ResultsError(f"{path}: line {line}: {name} {row[place]!r}; allowed: {allowed}")
    return ResultsError(f"{path}: cannot be read ({problem}); needed: numbers as docs/csv_columns.md has them")


def _with_scores(runs: pd.DataFrame, evaluations: pd.DataFrame, references: pd.DataFrame) -> pd.DataFrame:
    """Rows of a runs.csv without the age of its scores, which are read off the evaluations instead."""
    key = list(schema.RUN_KEY)
    finite = evaluations[np.isfinite(evaluations["evaluation_return"])]
    last = evaluations.groupby(key)["episode"].max().rename("score_episode")
    best = finite.groupby(key)["evaluation_return"].max().rename("best_evaluation_return")
    found = runs[key].join(last, on=key).join(best, on=key)
    best = normalised_scores(found["best_evaluation_return"], runs["seed"], references)
    return runs.assign(
        score_episode=found["score_episode"].where(runs["status"] != schema.DIVERGED).astype("float64"),
        best_evaluation_return=found["best_evaluation_return"],
        best_score=best,
        drift=best - normalised_scores(runs["final_evaluation_return"], runs["seed"], references),
    )


def _check_same_runs(path: Path, table: pd.DataFrame, runs: pd.DataFrame) -> None:
    """Every run of `table` is in runs.csv, and every run of runs.csv is in `table`.

    Long tables have rows of some episodes only, so a run that ended by the first of them (it diverged, or the study
    is that short) may have no rows there. Reference policies are per seed, also of seeds that have no finished run yet.
    """
    key = [column for column in schema.RUN_KEY if column in table.columns]
    long = path.name in schema.LONG
    expected = runs[runs["total_episodes"] > table["episode"].min()] if long else runs  # none where the table has none
    found, known, wanted = (
        set(rows[key].drop_duplicates().itertuples(index=False, name=None)) for rows in (table, runs, expected)
    )
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
