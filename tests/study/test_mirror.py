"""The mirror: what arrives is whole, nothing live is touched, and no failure reaches the training."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from common.study import mirror
from common.study.mirror import Mirror

COPY = mirror._copy


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def waited() -> list[float]:
    """Seconds of the back-off, which the tests do not wait."""
    return []


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    return tmp_path / "drive"


@pytest.fixture
def copies(drive: Path, warnings: list[str], waited: list[float]) -> Mirror:
    return Mirror(drive, warn=warnings.append, sleep=waited.append)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    folder.mkdir()
    for name in ("study.json", "rewards.csv", "runs.csv", "curve.png", "notes.txt", ".runs.csv.x1"):
        (folder / name).write_text(f"{name} 1\n")
    return folder


def generation(folder: Path, number: int) -> tuple[list[Path], Path]:
    """Files of a checkpoint that tell which one it is."""
    folder.mkdir(exist_ok=True)
    data, manifest = (folder / f"checkpoint-{number:06d}{suffix}" for suffix in (".data", ".json"))
    data.write_bytes(b"%d" % number * 1000)
    manifest.write_bytes(b"manifest of %d" % number)
    return [data], manifest


def push(copies: Mirror, folder: Path, number: int) -> bool:
    return copies.push(*generation(folder, number)) and copies.flush(10)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} if folder.exists() else {}


def whole(*numbers: int, first: int) -> dict[str, bytes]:
    """The mirror's files after copies of these checkpoints, numbered from `first` there."""
    files = {}
    for place, number in enumerate(numbers, start=first):
        files[f"checkpoint-{place:06d}.data"] = b"%d" % number * 1000
        files[f"checkpoint-{place:06d}.json"] = b"manifest of %d" % number
    return files


class Faults:
    """Raises `number` in the next `times` copies, after half of the bytes have arrived."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int, only: str = ""):
        self.number, self.only, self.times, self.raised = number, only, 0, 0
        monkeypatch.setattr(mirror, "_copy", self)

    def __call__(self, source: object, target: Path) -> None:
        if self.times and target.name.endswith(self.only):
            self.times -= 1
            self.raised += 1
            target.parent.mkdir(parents=True, exist_ok=True)
            source.seek(0)
            target.with_name(target.name + ".partial").write_bytes(source.read()[:5])
            raise OSError(self.number, os.strerror(self.number), str(target))
        COPY(source, target)


def test_two_generations_are_kept_under_new_names(copies: Mirror, drive: Path, tmp_path: Path) -> None:
    local = tmp_path / "shard"
    for number in (5, 6, 7):
        assert push(copies, local, number)
    assert contents(drive / "shard") == whole(6, 7, first=2)
    assert [path.name for path in copies.newest("shard")] == ["checkpoint-000003.json", "checkpoint-000002.json"]
    assert copies.newest("other") == []
    again = Mirror(drive, warn=print)
    assert push(again, local, 1)
    assert contents(drive / "shard") == {**whole(7, first=3), **whole(1, first=4)}


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOTCONN, errno.ENOSPC])
@pytest.mark.parametrize("suffix", [".data", ".json"])
def test_a_passing_failure_is_retried_in_silence(
    copies: Mirror,
    drive: Path,
    tmp_path: Path,
    warnings: list[str],
    waited: list[float],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    suffix: str,
) -> None:
    faults = Faults(monkeypatch, number, suffix)
    faults.times = len(mirror.RETRY_DELAYS)
    assert push(copies, tmp_path / "shard", 1)
    assert faults.raised == len(mirror.RETRY_DELAYS) and waited == list(mirror.RETRY_DELAYS)
    assert warnings == [] and contents(drive / "shard") == whole(1, first=1)


@pytest.mark.parametrize("suffix", [".data", ".json"])
def test_a_lasting_failure_is_one_line_and_keeps_what_was_there(
    copies: Mirror,
    drive: Path,
    tmp_path: Path,
    warnings: list[str],
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
) -> None:
    local = tmp_path / "shard"
    faults = Faults(monkeypatch, errno.ENOTCONN, suffix)
    assert push(copies, local, 1) and push(copies, local, 2)
    faults.times = 1000
    for number in (3, 4, 5):
        assert not push(copies, local, number)
        assert contents(drive / "shard") == whole(1, 2, first=1)
    assert faults.raised >= 3 * (1 + len(mirror.RETRY_DELAYS))
    assert len(warnings) == 1 and "\n" not in warnings[0] and "endpoint is not connected" in warnings[0]
    faults.times = 0
    assert push(copies, local, 6)
    assert contents(drive / "shard") == whole(2, 6, first=2)
    faults.times = 1000
    assert not push(copies, local, 7)
    assert len(warnings) == 2  # another episode


def test_bytes_that_do_not_arrive_are_noticed(
    copies: Mirror, drive: Path, tmp_path: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = []

    def swallow(source: object, file: object, length: int) -> None:
        lost.append(len(source.read()) - 5)
        file.write(b"short")

    monkeypatch.setattr(mirror.shutil, "copyfileobj", swallow)
    assert not push(copies, tmp_path / "shard", 1)
    assert lost and "5 of 1000 bytes arrived" in warnings[0]
    assert contents(drive / "shard") == {}


class Slow:
    """Holds the copy of each file up until `go` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.began, self.go = threading.Event(), threading.Event()
        monkeypatch.setattr(mirror, "_copy", self)

    def __call__(self, source: object, target: Path) -> None:
        self.began.set()
        assert self.go.wait(10)
        COPY(source, target)


def test_a_push_in_progress_is_not_waited_for_and_the_next_is_skipped(
    copies: Mirror, drive: Path, tmp_path: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, local = Slow(monkeypatch), tmp_path / "shard"
    assert copies.push(*generation(local, 1))
    assert slow.began.wait(10)
    for number in (2, 3):
        assert not copies.push(*generation(local, number))
    assert not copies.flush(0.01)
    for path in local.glob("*1.*"):  # removed here while it is being copied
        path.unlink()
    slow.go.set()
    assert copies.flush(10)
    assert contents(drive / "shard") == whole(1, first=1)
    assert len(warnings) == 1 and "some are not mirrored" in warnings[0]


def test_a_checkpoint_removed_before_its_copy_is_no_failure(
    copies: Mirror, drive: Path, tmp_path: Path, warnings: list[str]
) -> None:
    files, manifest = generation(tmp_path / "shard", 1)
    manifest.unlink()
    assert copies.push(files, manifest) and copies.flush(10)
    assert not drive.exists() and warnings == []


def test_results_are_copied_when_they_change_with_runs_csv_last(
    copies: Mirror, drive: Path, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []

    def note(source: object, target: Path) -> None:
        order.append(target.name)
        COPY(source, target)

    monkeypatch.setattr(mirror, "_copy", note)
    copies.push_results(study)
    assert copies.flush(10)
    assert order == ["curve.png", "rewards.csv", "study.json", "runs.csv"]
    assert contents(drive) == {name: (study / name).read_bytes() for name in order}
    copies.push_results(study)
    assert copies.flush(10) and len(order) == 4
    reader = (drive / "rewards.csv").open("rb")
    for name in ("runs.csv", "rewards.csv"):
        (study / name).write_text(f"{name}, longer\n")
    copies.push_results(study)
    assert copies.flush(10) and order[4:] == ["rewards.csv", "runs.csv"]
    assert reader.read() == b"rewards.csv 1\n"  # a reader keeps the old file whole
    assert (drive / "rewards.csv").read_text() == "rewards.csv, longer\n"


def test_results_are_taken_at_the_call_and_never_dropped(
    copies: Mirror, drive: Path, study: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults(monkeypatch, errno.EIO)
    faults.times = 1000
    copies.push_results(study)
    assert not copies.flush(10)
    assert faults.raised and len(warnings) == 1 and "runs.csv" not in contents(drive)
    (study / "runs.csv").write_text("lists a run whose rows were not there at the call\n")
    # The checkpoint waits for the results: a mirror that has it must have the rows of the runs it lacks.
    assert not push(copies, study / "shard", 1)
    assert contents(drive / "shard") == {}
    faults.times = 0
    assert copies.flush(10)
    assert (drive / "runs.csv").read_text() == "runs.csv 1\n"
    assert contents(drive / "shard") == whole(1, first=1)


def test_results_are_restored_where_runs_csv_is_missing(
    copies: Mirror, study: Path, tmp_path: Path, waited: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = tmp_path / "lost"
    assert copies.restore_results(lost) == [] and not lost.exists()
    copies.push_results(study)
    assert copies.flush(10)
    faults = Faults(monkeypatch, errno.EIO, "runs.csv")
    faults.times = 1
    with pytest.raises(OSError, match="Input/output error"):  # of the local disk: no retry
        copies.restore_results(lost)
    assert faults.raised == 1 and waited == []
    assert [path.name for path in copies.restore_results(lost)] == ["rewards.csv", "study.json", "runs.csv"]
    assert all((lost / name).read_bytes() == (study / name).read_bytes() for name in ("rewards.csv", "runs.csv"))
    (lost / "runs.csv").write_text("newer\n")
    assert copies.restore_results(lost) == []
    assert (lost / "runs.csv").read_text() == "newer\n"


def test_clear_comes_after_the_results_and_before_the_next_checkpoint(
    copies: Mirror, drive: Path, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert push(copies, tmp_path / "first", 1)
    faults = Faults(monkeypatch, errno.EIO, "runs.csv")
    faults.times = 1000
    copies.push_results(study)
    copies.clear("first")
    assert copies.push(*generation(tmp_path / "second", 2))
    assert not copies.flush(10)
    assert contents(drive / "first") == whole(1, first=1) and not (drive / "second").exists()
    faults.times = 0
    assert copies.flush(10)
    assert (drive / "runs.csv").exists() and not (drive / "first").exists()
    assert contents(drive / "second") == whole(2, first=1)


def push_and_die(drive: Path, local: Path, dies: Callable[[Path], bool]) -> None:
    def fatal(source: object, target: Path) -> None:
        if dies(target):
            target.with_name(target.name + ".partial").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        COPY(source, target)

    mirror._copy = fatal
    push(Mirror(drive, warn=print), local, 2)


@pytest.mark.parametrize("suffix", [".data", ".json"])
def test_killed_during_a_copy(copies: Mirror, drive: Path, tmp_path: Path, suffix: str) -> None:
    local = tmp_path / "shard"
    assert push(copies, local, 1)
    arguments = (drive, local, lambda target: target.suffix == suffix)
    process = multiprocessing.get_context("fork").Process(target=push_and_die, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert f"checkpoint-000002{suffix}.partial" in contents(drive / "shard")
    assert [path.name for path in copies.newest("shard")] == ["checkpoint-000001.json"]
    assert push(copies, local, 3)
    assert contents(drive / "shard") == {**whole(1, first=1), **whole(3, first=3)}
