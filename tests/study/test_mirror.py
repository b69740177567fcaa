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


class Copied:
    """A study, its mirror, and what happened between them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        """Copies of files whose name ends in `ending` fail, the next `failures` of them."""
        self.study, self.drive = folder / "study", folder / "drive"
        self.warnings, self.waited, self.written = [], [], []
        self.ending, self.failures = "", 0
        self.mirror = Mirror(self.drive, warn=self.warnings.append)
        monkeypatch.setattr(mirror, "write_atomically", self._write)
        monkeypatch.setattr(mirror.time, "sleep", self.waited.append)
        (self.study / "checkpoint").mkdir(parents=True)
        (self.study / "policies").mkdir()
        for name in ("study.json", "rewards.csv", "runs.csv", "curve.png", "notes.txt", ".lock.json"):
            (self.study / name).write_text(f"{name} 1\n")

    def _write(self, path: Path, data: object) -> None:
        if self.failures and path.name.endswith(self.ending):
            self.failures -= 1
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN), str(path))
        self.written.append(path.name)
        WRITE(path, data)

    def save(self, number: int) -> Path:
        """The manifest of a checkpoint whose files tell which one it is."""
        manifest = self.study / f"checkpoint/checkpoint-{number:06d}.json"
        manifest.with_suffix(".data").write_bytes(b"%d" % number * 1000)
        manifest.write_bytes(b"manifest of %d" % number)
        return manifest

    def push(self, number: int) -> bool:
        """Whether a checkpoint arrives."""
        self.mirror.push(self.save(number))
        return self.mirror.flush(10)

    def push_results(self) -> bool:
        """Whether they arrive."""
        self.mirror.push_results(self.study)
        return self.mirror.flush(10)

    def checkpoints(self) -> dict[str, bytes]:
        """What the mirror has of them."""
        return {path.name: path.read_bytes() for path in self.drive.glob("checkpoint/*")}


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Copied:
    return Copied(tmp_path, monkeypatch)


def whole(generations: dict[int, int]) -> dict[str, bytes]:
    """The mirror's checkpoints: of its own numbers, those of the study that they are copies of."""
    data = {f"checkpoint-{own:06d}.data": b"%d" % number * 1000 for own, number in generations.items()}
    return data | {f"checkpoint-{own:06d}.json": b"manifest of %d" % number for own, number in generations.items()}


def test_two_generations_are_kept_under_new_names(copied: Copied) -> None:
    for number in (5, 6, 7):
        assert copied.push(number)
    assert copied.checkpoints() == whole({2: 6, 3: 7})
    copied.mirror = Mirror(copied.drive, warn=print)
    assert copied.push(1)
    assert copied.checkpoints() == whole({3: 7, 4: 1})


@pytest.mark.parametrize("suffix", [".data", ".json"])
def test_failures(copied: Copied, suffix: str) -> None:
    """A passing one is retried in silence, a lasting one is one line and keeps what was there."""
    copied.ending, copied.failures = suffix, len(mirror.RETRY_DELAYS)
    assert copied.push(1) and copied.waited == list(mirror.RETRY_DELAYS)
    assert copied.push(2) and copied.warnings == []
    copied.failures = 1000
    for number in (3, 4, 5):
        assert not copied.push(number)
        assert copied.checkpoints() == whole({1: 1, 2: 2})
    assert len(copied.warnings) == 1 and "endpoint is not connected" in copied.warnings[0]
    copied.failures = 0
    assert copied.push(6) and copied.checkpoints() == whole({2: 2, 3: 6})
    copied.failures = 1000
    assert not copied.push(7) and len(copied.warnings) == 2  # another episode


def test_bytes_that_do_not_arrive_are_noticed(copied: Copied, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(path: Path, **options: object) -> object:
        return SimpleNamespace(st_size=5) if path.suffix == ".partial" else stat(path, **options)

    stat = Path.stat
    monkeypatch.setattr(Path, "stat", short)
    assert not copied.push(1)
    assert "5 of 1000 bytes arrived" in copied.warnings[0] and copied.checkpoints() == {}


def test_nobody_waits_for_a_copy_and_only_the_newest_checkpoint_waits(
    copied: Copied, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go = threading.Event(), threading.Event()

    def slow(path: Path, data: object) -> None:
        began.set()
        assert go.wait(10)
        copied._write(path, data)

    monkeypatch.setattr(mirror, "write_atomically", slow)
    copied.mirror.push(copied.save(1))
    assert began.wait(10)
    for number in (2, 3):
        copied.mirror.push(copied.save(number))
    assert not copied.mirror.flush(0.01)
    for path in copied.study.glob("checkpoint/*[12].*"):  # removed here while it is being copied
        path.unlink()
    go.set()
    assert copied.mirror.flush(10)
    assert copied.checkpoints() == whole({1: 1, 2: 3}) and len(copied.written) == 4
    manifest = copied.save(4)
    manifest.unlink()  # before its copy begins
    copied.mirror.push(manifest)
    assert copied.mirror.flush(10) and len(copied.written) == 4 and copied.warnings == []


def test_results_come_whole_and_runs_csv_last(copied: Copied) -> None:
    """Policies, which never change, come once; a reader keeps the old file whole."""
    (copied.study / "policies" / "1.pt").write_text("1.pt 1\n")
    assert copied.push_results()
    # The owner, here and there, then all but notes.txt and .lock.json.
    assert copied.written[:2] == [mirror.OWNER, mirror.OWNER] and copied.written[-1] == "runs.csv"
    assert sorted(copied.written[2:]) == ["1.pt", "curve.png", "rewards.csv", "runs.csv", "study.json"]
    with (copied.drive / "rewards.csv").open() as reader:
        (copied.study / "rewards.csv").write_text("longer\n")
        (copied.study / "policies" / "2.pt").write_text("2.pt 1\n")
        assert copied.push_results() and reader.read() == "rewards.csv 1\n"
    assert [name for name in copied.written if name.endswith(".pt")] == ["1.pt", "2.pt"]
    assert copied.mirror.read_results() == {
        "policies/1.pt": b"1.pt 1\n",
        "policies/2.pt": b"2.pt 1\n",
        "rewards.csv": b"longer\n",
        "runs.csv": b"runs.csv 1\n",
        "study.json": b"study.json 1\n",
    }


def test_another_study_takes_the_mirror_over(copied: Copied, tmp_path: Path) -> None:
    """From then on the first leaves it alone, with one warning."""
    assert copied.push_results()
    other = tmp_path / "other"
    other.mkdir()
    (other / "runs.csv").write_text("other")
    second = Mirror(copied.drive, warn=print)
    second.push_results(other)
    assert second.flush(10) and mirror.read_owner(other) == second.owner() != mirror.read_owner(copied.study)
    assert not copied.push_results() and not copied.push(1) and copied.checkpoints() == {}
    assert (copied.drive / "runs.csv").read_text() == "other"
    assert len(copied.warnings) == 1 and "another study" in copied.warnings[0]


def test_results_are_taken_at_the_call_and_come_before_what_follows(copied: Copied) -> None:
    """A mirror that has a checkpoint, or has removed one, must have the rows of the runs that it lacks."""
    assert copied.push(1)
    copied.ending, copied.failures = "runs.csv", 1000
    assert not copied.push_results()
    (copied.study / "runs.csv").write_text("lists a run whose rows were not there at the call\n")
    assert not copied.push(2)
    copied.mirror.clear()
    assert not copied.push(3)
    assert copied.checkpoints() == whole({1: 1}) and not (copied.drive / "runs.csv").exists()
    copied.failures = 0
    assert copied.mirror.flush(10)
    assert (copied.drive / "runs.csv").read_text() == "runs.csv 1\n"
    assert copied.checkpoints() == whole({1: 3})
    copied.mirror.clear()
    assert copied.mirror.flush(10) and not (copied.drive / "checkpoint").exists()
