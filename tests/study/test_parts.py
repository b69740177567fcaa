"""A study in parts: the same runs wherever they are computed, and merged the bytes of the study in one piece."""

from __future__ import annotations

import functools
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.resume_helpers import (
    Attempt,
    csv_bytes,
    fill,
    small_disk,
    stop_before,
    study_folder,
    tree,
)

from common.agents.reports import RunKey
from common.config import ConfigError
from common.recording.store import StoreError
from common.study import merge
from common.study.interruption import EXIT_INTERRUPTED
from common.study.lock import FolderLock, LockError
from common.study.parts import Part, split

PAIRS = ["--actor-lrs", "0.1", "0.01", "--critic-lrs", "0.1", "0.01"]  # eight runs with both seeds


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 11, 12])
def test_split(count: int) -> None:
    """Every run once, in order; whole seeds until parts outnumber them, and never two seeds in a part from then on."""
    keys = sorted(RunKey(*key) for key in itertools.product((5, 6, 9), (0.1, 0.01), (0.1, 0.01)))
    parts = split(keys, count)
    assert [key for part in parts for key in part] == keys and len(parts) == count and all(parts)
    assert [Part(number, count).of(keys) for number in range(1, count + 1)] == parts
    seeds = [{key.seed for key in part} for part in parts]
    if count <= 3:
        assert sum(map(len, seeds)) == 3
    else:
        assert all(len(own) == 1 for own in seeds)
        sizes = [len(part) for part in parts]
        assert max(sizes) <= min(sizes) + 2


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "-1/3", "1/3/5", "one/3"])
def test_no_such_part(text: str) -> None:
    with pytest.raises(ConfigError, match=f"--part {text}: allowed: "):
        Part.parse(text)


def train(results: Path, *arguments: str) -> None:
    attempt = Attempt(results, *PAIRS, *arguments)
    assert attempt.wait() == 0, attempt.lines()


@functools.cache
def in_one_piece() -> tempfile.TemporaryDirectory:
    folder = tempfile.TemporaryDirectory()
    train(Path(folder.name), "--save-policy")
    return folder


@functools.cache
def in_three_parts() -> tempfile.TemporaryDirectory:
    folder = tempfile.TemporaryDirectory()
    for number in (1, 2, 3):
        train(Path(folder.name), "--part", f"{number}/3")
    return folder


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """The folder of a study whose three parts are finished."""
    return study_folder(Path(shutil.copytree(in_three_parts().name, tmp_path / "results")))


def check_same_as_in_one_piece(folder: Path) -> None:
    """The CSV files, and what else both have."""
    whole = study_folder(Path(in_one_piece().name))
    assert csv_bytes(folder) == csv_bytes(whole)
    assert (folder / "study.json").read_bytes() == (whole / "study.json").read_bytes()
    assert not list(folder.glob(".merging"))


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_merged_as_in_one_piece(count: int, tmp_path: Path) -> None:
    """Policies and study.json, too; once more changes nothing, and no part is changed."""
    for number in range(1, count + 1):
        train(tmp_path, "--part", f"{number}/{count}", "--save-policy")
    folder = study_folder(tmp_path)
    parts = tree(folder / "parts")
    for _ in range(2):
        merge.merge(folder)
        merged, whole = tree(folder), tree(study_folder(Path(in_one_piece().name)))
        assert {name for name in merged if name[:6] != "parts/"} == whole.keys() and len(whole) == 7 + 1 + 8
        assert [name for name in whole if merged[name] != whole[name]] in ([], ["runs.csv"])  # wall_seconds
        check_same_as_in_one_piece(folder)
        assert tree(folder / "parts") == parts


def test_a_part_goes_on_from_its_own_checkpoint_and_mirror(tmp_path: Path) -> None:
    drive = tmp_path / "drive"
    options = [*PAIRS, "--mirror", str(drive), "--part", "2/3"]
    attempt = Attempt(tmp_path, *options, fault=stop_before(9))
    assert attempt.wait() == EXIT_INTERRUPTED, attempt.lines()
    here, there = (study_folder(root) / "parts" / "2-of-3" for root in (tmp_path, drive))
    assert list((here / "checkpoint").iterdir()) and list((there / "checkpoint").iterdir())
    shutil.rmtree(study_folder(tmp_path))
    again = Attempt(tmp_path, *options)
    assert again.wait() == 0 and "after episode 9\n" in again.out
    assert csv_bytes(there) == csv_bytes(here)


def refusal(folder: Path) -> str:
    """Why nothing is merged: one line, and nothing is changed."""
    before = tree(folder)
    with pytest.raises(StoreError) as problem:
        merge.merge(folder)
    assert "\n" not in str(problem.value) and tree(folder) == before
    return str(problem.value)


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


SPOILT: dict[str, tuple[Callable[[Path], None], str]] = {
    # How part 2 is changed, and what the line names, or the list of missing runs before it.
    "another configuration": (lambda part: change(part / "study.json", '"gamma": 0.99', '"gamma": 0.5'), "gamma"),
    "other seeds": (lambda part: change(part / "study.json", "      2\n", "      3\n"), "seeds"),
    "another format": (lambda part: change(part / "study.json", '"format": 2', '"format": 1'), "older version"),
    "another part's folder": (lambda part: part.rename(part.with_name("5-of-8")), "2/3"),
    "description cut off": (lambda part: change(part / "study.json", '"made_by"', ""), "study.json"),
    "runs cut off": (lambda part: change(part / "runs.csv", "\n", ""), "runs.csv"),
    "rows cut off": (lambda part: os.truncate(part / "rewards.csv", 999), "rewards.csv"),
    "no rows": (lambda part: change(part / "evaluations.csv", "\n2,0.01,0.1", "\n2,0.01,0.3"), "evaluations.csv"),
    "no table": (lambda part: (part / "saturation.csv").unlink(), "saturation.csv"),
    "no text": (lambda part: (part / "rewards.csv").write_bytes(b"\xff"), "rewards.csv"),
    "no experiment": (lambda part: change(part / "study.json", '"experiment"', '"name"'), "study.json"),
    "references cut off": (lambda part: change(part / "reference_policies.csv", "2,random", "3,random"), "reference"),
    "not there": (shutil.rmtree, "of part 2/3, which is missing"),
    "unfinished": (lambda part: (part / "runs.csv").unlink(), "of part 2/3, which is unfinished"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_parts_that_are_not_merged(what: str, study: Path, capsys: pytest.CaptureFixture) -> None:
    spoil, named = SPOILT[what]
    spoil(study / "parts" / "2-of-3")
    line = refusal(study)
    assert named in capsys.readouterr().out + line


def test_other_code_is_one_warning(study: Path, capsys: pytest.CaptureFixture) -> None:
    change(study / "parts" / "2-of-3" / "study.json", '"a test"', '"another"')
    merge.merge(study)
    (line,) = capsys.readouterr().err.splitlines()
    assert "commit a test" in line and "another" in line
    made_by = json.loads((study / "study.json").read_text())["made_by"]
    assert [made["commit"] for made in made_by] == ["a test", "another"]


def test_the_same_run_in_two_parts(study: Path) -> None:
    """Is taken once where both are the same, the wall time apart, and refused where they differ."""
    train(study.parents[1], "--part", "2/2")
    merge.merge(study)
    check_same_as_in_one_piece(study)
    rewards = study / "parts" / "2-of-2" / "rewards.csv"
    lines = rewards.read_text().splitlines()
    cells = lines[-1].split(",")
    cells[4] = "1"
    rewards.write_text("\n".join([*lines[:-1], ",".join(cells), ""]))
    line = refusal(study)
    assert "training_return" in line and "seed=2" in line and "3-of-3" in line and str(rewards.parent) in line


def test_a_study_that_is_there_is_kept(study: Path) -> None:
    """Unless it is an earlier merge of the same parts, or what a merge that was killed has left."""
    shutil.copytree(study_folder(Path(in_one_piece().name)), study, dirs_exist_ok=True)
    assert "not the merge" in refusal(study)
    for path in study.glob("*.*"):
        path.unlink()
    (study / "checkpoint").mkdir()
    assert "checkpoint" in refusal(study)
    (study / "checkpoint").rmdir()
    shutil.rmtree(study / "policies")
    merge.merge(study)
    for name in ("runs.csv", "rewards.csv"):
        (study / name).unlink()
    (study / ".merging").mkdir()
    (study / ".merging" / "runs.csv").write_text("seed")
    merge.merge(study)
    check_same_as_in_one_piece(study)


def test_two_mergers_at_once(study: Path) -> None:
    with FolderLock(study), pytest.raises(LockError, match=f"pid {os.getpid()}"):
        merge.merge(study)


def test_a_full_disk_while_merging(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        folder = study_folder(Path(shutil.copytree(in_three_parts().name, disk / "results")))
        filler = fill(disk, spare=20_000)
        before = tree(folder)
        with pytest.raises(OSError, match="No space left on device"):
            merge.merge(folder)
        assert tree(folder) == before
        filler.unlink()
        merge.merge(folder)
        check_same_as_in_one_piece(folder)
