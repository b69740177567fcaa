"""The reader on synthetic studies: what it reads and what it refuses, in one line."""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_study import edit, explained, write_study

from common.analysis import figures
from common.recording import schema
from common.recording.results import (
    ResultsError,
    find_studies,
    learning_rate_text,
    load_study,
    normalised_scores,
    stopping_cell,
    stopping_texts,
)


def test_reads_what_was_written(tmp_path: Path) -> None:
    folder = write_study(tmp_path, seeds=(42, 43), stops=lambda _, actor, __: 190 if actor > 0.05 else None)
    study = load_study(folder)
    assert len(study.runs) == 8
    assert study.label == "scaled / baseline"
    assert list(study.runs.columns) == list(schema.FILES[schema.RUNS])
    assert study.runs["seed"].dtype == "int64" and study.rewards["episode"].dtype == "int64"
    assert study.runs["stopping_episode"].isna().sum() == 4
    assert set(study.runs["actor_lr"]) == {1e-3, 1e-1}  # bit for bit what was written
    assert find_studies(tmp_path) == [folder]
    assert find_studies(tmp_path / "absent") == []


def test_a_variant_may_append_columns(tmp_path: Path) -> None:
    folder = write_study(tmp_path, (1e-3,), (1e-3,), episodes=20)
    edit(folder / schema.SATURATION, lambda t: t.replace("\n", ",1.5\n").replace(",1.5", ",norm_gain", 1))
    assert (load_study(folder).saturation["norm_gain"] == 1.5).all()


def test_runs_without_a_logged_episode_are_allowed(tmp_path: Path) -> None:
    """Where the study is that short, or a run diverged before the first of them."""
    short = load_study(write_study(tmp_path / "short", (1e-3,), (1e-3,), episodes=1))
    assert short.gradient_norms.empty and len(figures.save_study_figures(short)) == 4
    broken = write_study(tmp_path, diverges=lambda seed, actor, critic: 1 if actor == critic == 0.1 else None)
    assert len(load_study(broken).saturation.groupby(["actor_lr", "critic_lr"])) == 3


def refused(folder: Path) -> str:
    """The one line with which the reader refuses a study."""
    with pytest.raises(ResultsError) as caught:
        load_study(folder)
    message = str(caught.value)
    assert "\n" not in message and ("allowed" in message or "needed" in message)
    return message


def drop_rows_of(text: str, start: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(start))


def set_cell(text: str, line: int, column: str, value: str) -> str:
    lines = text.splitlines()
    cells = lines[line - 1].split(",")
    cells[lines[0].split(",").index(column)] = value
    lines[line - 1] = ",".join(cells)
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("name", "change", "facts"),
    [
        ("runs", lambda t: t.replace("stopping_episode", "halt", 1), ["stopping_episode"]),
        ("runs", lambda t: "", ["empty"]),
        ("runs", lambda t: t.split("\n")[0] + "\n", ["rows"]),
        ("runs", lambda t: set_cell(t, 3, "status", "fine"), ["line 3", "status", "'fine'", "completed"]),
        ("runs", lambda t: set_cell(t, 3, "experiment", "other"), ["experiment", "baseline", "other"]),
        ("runs", lambda t: drop_rows_of(t, "42,0.1,0.1,"), ["actor_lr 1e-1", "critic_lr 1e-1"]),
        ("rewards", lambda t: t[:-5], ["line 81", "truncated"]),
        ("rewards", lambda t: t.rsplit(",", 1)[0] + "\n", ["line 81", "6", "7"]),
        ("rewards", lambda t: t + "\n", ["line 82", "0", "7"]),
        ("rewards", lambda t: set_cell(t, 9, "training_return", "-1.2.3"), ["line 9", "training_return", "'-1.2.3'"]),
        ("rewards", lambda t: set_cell(t, 9, "episode", "2.5"), ["line 9", "episode", "'2.5'", "whole"]),
        ("rewards", lambda t: set_cell(t, 9, "actor_lr", ""), ["line 9", "actor_lr", "''"]),
        ("rewards", lambda t: set_cell(t, 9, "late_share", '"1"'), ["line 9", "late_share"]),
        ("rewards", lambda t: set_cell(t, 9, "late_share", "\0\0"), ["line 9"]),
        ("rewards", lambda t: t.replace("\n", ",1\n").replace(",1\n", ",episode\n", 1), ["episode", "twice"]),
        ("rewards", lambda t: t + t.splitlines()[1] + "\n", ["line 82", "seed 42", "actor_lr 1e-3", "episode 1"]),
        ("saturation", lambda t: drop_rows_of(t, "42,0.1,0.001,"), ["actor_lr 1e-1", "critic_lr 1e-3", schema.RUNS]),
        ("evaluations", lambda t: t.replace("42,", "43,"), ["seed 43", schema.RUNS]),
        ("reference_policies", lambda t: t.replace("42,", "43,"), ["seed 42", schema.RUNS]),
        ("reference_policies", lambda t: t.replace("random", "chance"), ["line 2", "'chance'", "random"]),
    ],
)
def test_reader_refuses(tmp_path: Path, name: str, change: Callable[[str], str], facts: list[str]) -> None:
    folder = write_study(tmp_path, episodes=20)
    load_study(folder)
    edit(folder / f"{name}.csv", change)
    message = refused(folder)
    assert str(folder) in message and f"{name}.csv" in message
    assert all(fact in message for fact in facts), message


def test_reader_refuses_missing_folder_and_file(tmp_path: Path) -> None:
    assert "absent" in refused(tmp_path / "absent")
    folder = write_study(tmp_path, episodes=20)
    (folder / schema.EVALUATIONS).unlink()
    assert str(folder / schema.EVALUATIONS) in refused(folder)


def test_every_bit_of_a_number_is_read(tmp_path: Path) -> None:
    folder = write_study(tmp_path, (1e-3,), (1e-3,), episodes=20)
    cells = ["1.234567e-38", "-9.87654e+30", "0.1", "5e-324", "inf", "nan", ""]
    for line, cell in enumerate(cells, start=2):
        edit(folder / schema.REWARDS, lambda t, line=line, cell=cell: set_cell(t, line, "training_return", cell))
    read = load_study(folder).rewards["training_return"][: len(cells)]
    np.testing.assert_array_equal(read, [float(cell or "nan") for cell in cells])


def test_line_ends_of_another_system(tmp_path: Path) -> None:
    folder = write_study(tmp_path, (1e-3,), (1e-3,), episodes=20)
    whole, path = load_study(folder).rewards, folder / schema.REWARDS
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    pd.testing.assert_frame_equal(load_study(folder).rewards, whole)


def test_a_long_table_may_be_compressed(tmp_path: Path) -> None:
    folder = write_study(tmp_path, episodes=20)
    plain = load_study(folder)
    for name in schema.PACKED:
        packed = folder / f"{name}.gz"
        packed.write_bytes(gzip.compress((folder / name).read_bytes()))
        assert packed.name in refused(folder)  # which of the two holds?
        (folder / name).unlink()
    study = load_study(folder)
    for name in (name.removesuffix(".csv") for name in schema.PACKED):
        pd.testing.assert_frame_equal(getattr(study, name), getattr(plain, name))
    for damaged in (packed.read_bytes()[:-9], b"seed,actor_lr\n"):
        packed.write_bytes(damaged)
        assert str(packed) in refused(folder)


def test_columns_that_older_files_lack(tmp_path: Path) -> None:
    """The age of a score, the best evaluation and the drift follow from the evaluations, all else is empty."""
    options = {"seeds": (42, 43), "diverges": lambda seed, actor, critic: 120 if actor == critic == 0.1 else None}
    new = load_study(write_study(tmp_path / "new", **options))
    old = load_study(write_study(tmp_path / "old", **options, lacking=schema.ADDED))
    assert list(old.runs.columns) == list(schema.FILES[schema.RUNS])
    assert old.saturation["stuck_share"].isna().all() and old.gradient_norms["actor_relative_step"].isna().all()
    assert old.stopping_episodes["last_side_power"].isna().all()
    np.testing.assert_array_equal(old.runs["score_episode"], [400, 400, 400, math.nan] * 2)
    # Like the references of seed 42; those of seed 43 are a little apart.
    ages = list(schema.ADDED[schema.RUNS])
    pd.testing.assert_frame_equal(old.runs[ages][:4], new.runs[ages][:4])
    assert old.runs["drift"].dropna().ge(0).all()


def test_scores_are_on_the_scale_of_their_seed() -> None:
    references = pd.DataFrame({
        "seed": [1, 1, 2, 2, 3], "policy": ["random", "greedy_offload"] * 2 + ["random"],
        "evaluation_return": [-3.0, -1.0, -10.0, -5.0, -4.0],
    })  # fmt: skip
    scores = normalised_scores(pd.Series([-5.0, -2.0, -2.0, -6.0]), pd.Series([2, 1, 3, 2]), references)
    np.testing.assert_allclose(scores, [1.0, 0.5, math.nan, 0.8])


@pytest.mark.parametrize(
    ("stops", "median", "texts"),
    [
        ([161, 163, 170, 180], 166.5, ["166", "(161–180)"]),
        ([161, 163, 170, None], 166.5, ["166", "(161–170)", "1/4 never"]),  # never is later than any
        ([161, 161, 161, None], 161, ["161", "1/4 never"]),
        ([161, 163, None, None], None, ["2/4 never", "(161–163)"]),
        ([None] * 4, None, ["never"]),
        ([161], 161, ["161"]),
        (["diverged"], None, ["diverged"]),
        (["diverged", 161, None], None, ["1/3 never", "1/3 diverged", "(161)"]),
        (["diverged", 161, 163], 162, ["162", "(161–163)", "1/3 diverged"]),
    ],
)
def test_what_is_said_of_a_cell(stops: list[int | str | None], median: float | None, texts: list[str]) -> None:
    runs = pd.DataFrame({
        "stopping_episode": [at if isinstance(at, int) else math.nan for at in stops],
        "status": [at if at == schema.DIVERGED else schema.COMPLETED for at in stops],
    })  # fmt: skip
    cell = stopping_cell(runs)
    assert cell.median == median and stopping_texts(cell) == texts


@pytest.mark.parametrize("file", schema.FILES)
def test_every_column_is_explained(file: str) -> None:
    assert set(schema.FILES[file]) - set(schema.RUN_KEY) <= {*explained(file)}


def test_learning_rates_are_written_as_powers() -> None:
    rates = {1e-4: "1e-4", 3e-3: "3e-3", 0.1: "1e-1", 0.015: "1.5e-2", 1.0: "1e0"}
    assert {rate: learning_rate_text(rate) for rate in rates} == rates
