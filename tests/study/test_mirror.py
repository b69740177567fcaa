"""The mirror: what arrives is whole, nothing live is touched, and no failure reaches the training."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.study import mirror
from common.study.mirror import Mirror

WRITE = mirror.write_atomically


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds of the back-off, which the tests do not wait."""
    seconds: list[float] = []
    monkeypatch.setattr(mirror.time, "sleep", seconds.append)
    return seconds


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    return tmp_path / "drive"


@pytest.fixture
def copies(drive: Path, warnings: list[str], waited: list[float]) -> Mirror:
    return Mirror(drive, warn=warnings.append)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    folder.mkdir()
    for name in ("study.json", "rewards.csv", "runs.csv", "curve.png", "notes.txt", ".runs.csv.partial"):
        (folder / name).write_text(f"{name} 1\n")
    return folder


def checkpoint(study: Path, number: int) -> Path:
    """The manifest of a checkpoint whose files tell which one it is."""
    folder = study / "checkpoint"
    folder.mkdir(exist_ok=True)
    (folder / f"checkpoint-{number:06d}.data").write_bytes(b"%d" % number * 1000)
    manifest = folder / f"checkpoint-{number:06d}.json"
    manifest.write_bytes(b"manifest of %d" % number)
    return manifest


def push(copies: Mirror, study: Path, number: int) -> bool:
    copies.push(checkpoint(study, number))
    return copies.flush(10)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} if folder.exists() else {}


def whole(*numbers: int, first: int) -> dict[str, bytes]:
    """The mirror's checkpoints after copies of these, numbered from `first` there."""
    files = {}
    for place, number in enumerate(numbers, start=first):
        files[f"checkpoint-{place:06d}.data"] = b"%d" % number * 1000
        files[f"checkpoint-{place:06d}.json"] = b"manifest of %d" % number
    return files


class Faults:
    """Raises ENOTCONN in the next `times` copies of files with this ending."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ending: str = "", times: int = 0):
        self.ending, self.times, self.raised = ending, times, 0
        monkeypatch.setattr(mirror, "write_atomically", self)

    def __call__(self, path: Path, data: object) -> None:
        if self.times and path.name.endswith(self.ending):
            self.times -= 1
            self.raised += 1
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN), str(path))
        WRITE(path, data)


def test_two_generations_are_kept_under_new_names(copies: Mirror, drive: Path, study: Path) -> None:
    for number in (5, 6, 7):
        assert push(copies, study, number)
    assert contents(drive / "checkpoint") == whole(6, 7, first=2)
    assert push(Mirror(drive, warn=print), study, 1)
    assert contents(drive / "checkpoint") == {**whole(7, first=3), **whole(1, first=4)}


@pytest.mark.parametrize("suffix", [".data", ".json"])
def test_failures(
    copies: Mirror,
    drive: Path,
    study: Path,
    warnings: list[str],
    waited: list[float],
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
) -> None:
    """A passing one is retried in silence, a lasting one is one line and keeps what was there."""
    faults = Faults(monkeypatch, suffix, len(mirror.RETRY_DELAYS))
    assert push(copies, study, 1)
    assert faults.raised == len(mirror.RETRY_DELAYS) and waited == list(mirror.RETRY_DELAYS)
    assert push(copies, study, 2) and warnings == []
    assert contents(drive / "checkpoint") == whole(1, 2, first=1)
    faults.times = 1000
    for number in (3, 4, 5):
        assert not push(copies, study, number)
        assert contents(drive / "checkpoint") == whole(1, 2, first=1)
    assert len(warnings) == 1 and "\n" not in warnings[0] and "endpoint is not connected" in warnings[0]
    faults.times = 0
    assert push(copies, study, 6)
    assert contents(drive / "checkpoint") == whole(2, 6, first=2)
    faults.times = 1000
    assert not push(copies, study, 7)
    assert len(warnings) == 2  # another episode


def test_bytes_that_do_not_arrive_are_noticed(
    copies: Mirror, drive: Path, study: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = Path.stat

    def short(path: Path, **options: object) -> object:
        return SimpleNamespace(st_size=5) if path.suffix == ".partial" else stat(path, **options)

    monkeypatch.setattr(Path, "stat", short)
    assert not push(copies, study, 1)
    assert "5 of 1000 bytes arrived" in warnings[0] and contents(drive / "checkpoint") == {}


def test_nobody_waits_for_a_copy_and_only_the_newest_checkpoint_waits(
    copies: Mirror, drive: Path, study: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go, written = threading.Event(), threading.Event(), []

    def slow(path: Path, data: object) -> None:
        began.set()
        assert go.wait(10)
        written.append(path.name)
        WRITE(path, data)

    monkeypatch.setattr(mirror, "write_atomically", slow)
    copies.push(checkpoint(study, 1))
    assert began.wait(10)
    for number in (2, 3):
        copies.push(checkpoint(study, number))
    assert not copies.flush(0.01)
    for path in study.glob("checkpoint/*[12].*"):  # removed here while it is being copied
        path.unlink()
    go.set()
    assert copies.flush(10)
    assert contents(drive / "checkpoint") == whole(1, 3, first=1) and len(written) == 4
    manifest = checkpoint(study, 4)
    manifest.unlink()  # before its copy begins
    copies.push(manifest)
    assert copies.flush(10) and len(written) == 4 and warnings == []


def test_results_come_whole_and_runs_csv_last(
    copies: Mirror, drive: Path, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []

    def note(path: Path, data: object) -> None:
        order.append(path.name)
        WRITE(path, data)

    monkeypatch.setattr(mirror, "write_atomically", note)
    copies.push_results(study)
    assert copies.flush(10)
    assert sorted(order) == ["curve.png", "rewards.csv", "runs.csv", "study.json"] and order[-1] == "runs.csv"
    assert contents(drive) == {name: (study / name).read_bytes() for name in order}
    reader = (drive / "rewards.csv").open("rb")
    (study / "rewards.csv").write_text("longer\n")
    copies.push_results(study)
    assert copies.flush(10) and (drive / "rewards.csv").read_text() == "longer\n"
    assert reader.read() == b"rewards.csv 1\n"  # a reader keeps the old file whole
    reader.close()


def test_results_are_taken_at_the_call_and_come_before_what_follows(
    copies: Mirror, drive: Path, study: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mirror that has a checkpoint, or has removed one, must have the rows of the runs that it lacks."""
    assert push(copies, study, 1)
    faults = Faults(monkeypatch, "runs.csv", 1000)
    copies.push_results(study)
    assert not copies.flush(10)
    (study / "runs.csv").write_text("lists a run whose rows were not there at the call\n")
    assert not push(copies, study, 2)
    assert contents(drive / "checkpoint") == whole(1, first=1)
    copies.clear()  # of 1, and of 2, which waits
    assert not push(copies, study, 3)
    assert faults.raised and len(warnings) == 1
    assert contents(drive / "checkpoint") == whole(1, first=1) and "runs.csv" not in contents(drive)
    faults.times = 0
    assert copies.flush(10)
    assert (drive / "runs.csv").read_text() == "runs.csv 1\n"
    assert contents(drive / "checkpoint") == whole(3, first=1)
    copies.clear()
    assert copies.flush(10) and not (drive / "checkpoint").exists()
