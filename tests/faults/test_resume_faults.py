"""Damaged files, full or failing disks, a second process, another configuration: one clear line and nothing lost."""

from __future__ import annotations

import errno
import functools
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults.resume_helpers import (
    Attempt,
    before_episode,
    check_ended,
    check_ends,
    check_refused,
    csv_bytes,
    expected,
    fill,
    small_disk,
    stop_before,
    study_folder,
    tree,
)

from common.study import checkpoint, mirror
from common.study.interruption import EXIT_INTERRUPTED
from common.training import runtime

STOPPED_AT = 25  # episode of the second shard


def ask_to_stop() -> None:
    """Each checkpoint reaches the mirror before training goes on."""
    push = mirror.Mirror.push

    def push_and_wait(self: mirror.Mirror, manifest: Path) -> None:
        push(self, manifest)
        assert self.flush(60)

    mirror.Mirror.push = push_and_wait
    stop_before(STOPPED_AT)()


@functools.cache
def interrupted_study() -> tempfile.TemporaryDirectory:
    """A study with a mirror that was stopped when half of its runs were finished, with two checkpoints."""
    folder = tempfile.TemporaryDirectory()
    attempt = Attempt(Path(folder.name), "--mirror", f"{folder.name}/drive", fault=ask_to_stop)
    assert attempt.wait() == EXIT_INTERRUPTED, attempt.lines()
    for results in (Path(folder.name), Path(folder.name, "drive")):
        assert [saved_episode(data) for data in generations(results)] == [STOPPED_AT - 1, STOPPED_AT]
    return folder


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A copy of it; its mirror is the folder drive in it."""
    return Path(shutil.copytree(interrupted_study().name, tmp_path / "results"))


def generations(results: Path) -> list[Path]:
    """Data files of the checkpoints, oldest first."""
    return sorted((study_folder(results) / "checkpoint").glob("*.data"))


def saved_episode(data: Path) -> int:
    return json.loads(data.with_suffix(".json").read_text())["body"]["meta"]["counters"]["episode"]


def flip_bit(path: Path) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 16
    path.write_bytes(damaged)


@pytest.mark.parametrize("damaged", ["newest", "all"])  # other damages: test_checkpoint.py
def test_damaged_checkpoints(damaged: str, stopped: Path) -> None:
    paths = generations(stopped)[-1 if damaged == "newest" else 0 :]
    for data in paths:
        flip_bit(data)
    attempt = check_ends(stopped)
    assert len(attempt.lines()) == len(paths) and "2 of 4 runs to train" in attempt.out
    assert (f"after episode {STOPPED_AT - 1}\n" in attempt.out) == (damaged == "newest")


RESULTS_DAMAGED = [
    ("study.json", lambda text: text[:-7]),
    ("evaluations.csv", lambda text: text[:-2]),  # in the middle of a number
    ("runs.csv", lambda text: text[:-2]),
    ("runs.csv", lambda text: ""),
    ("gradient_norms.csv", lambda text: ""),
    ("stopping_episodes.csv", lambda text: text.splitlines(keepends=True)[0]),  # without the rows of a finished run
]


@pytest.mark.parametrize(("name", "damaged"), RESULTS_DAMAGED)
def test_damaged_results_are_refused(name: str, damaged: Callable[[str], str], stopped: Path) -> None:
    path = study_folder(stopped) / name
    path.write_text(damaged(path.read_text()))
    assert name in check_refused(stopped)


def test_damaged_reference_policies(stopped: Path) -> None:
    (study_folder(stopped) / "reference_policies.csv").write_bytes(b"\xff\xfe\n\x00garbage\n")
    check_ends(stopped)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "32m") as folder:
        yield folder


@pytest.mark.parametrize(("seed", "filled", "runs"), [(1, 5, 4), (2, 21, 2)], ids=["no run yet", "two runs finished"])
def test_full_disk(seed: int, filled: int, runs: int, disk: Path) -> None:
    """Checkpoints fail with a warning each, then a finished run cannot be written: exit code 1."""
    attempt = Attempt(disk, fault=lambda: before_episode(filled, lambda _: fill(disk), seed))
    assert attempt.wait() == 1
    *warnings, last = attempt.lines()
    assert last.startswith("error: ") and "No space left on device" in last
    assert warnings and all("No space left on device" in line and "warning: " in line for line in warnings)
    (disk / "filler").unlink()
    attempt = check_ends(disk)
    assert f"{runs} of 4 runs to train" in attempt.out and f"after episode {filled - 1}\n" in attempt.out


def test_disk_full_for_a_while(disk: Path) -> None:
    def fault() -> None:
        before_episode(5, lambda _: fill(disk))
        before_episode(25, lambda _: (disk / "filler").unlink())

    attempt = check_ends(disk, fault=fault)
    assert "No space left on device" in "".join(attempt.lines())


def test_full_before_the_start(disk: Path) -> None:
    fill(disk)
    attempt = Attempt(disk)
    assert attempt.wait() in (1, 2)
    assert len(attempt.lines()) == 1 and "No space left on device" in attempt.lines()[0]
    (disk / "filler").unlink()
    check_ends(disk)


def test_read_only_folder(disk: Path) -> None:
    assert Attempt(disk, fault=ask_to_stop).wait() == EXIT_INTERRUPTED
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert "Read-only file system" in check_refused(disk)


def test_failing_mirror(tmp_path: Path) -> None:
    """From the second shard on."""
    drive = tmp_path / "drive"

    def break_mirror(_: object) -> None:
        def failing(path: Path, data: object) -> None:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN), str(path))

        mirror.write_atomically = failing

    attempt = check_ends(tmp_path, "--mirror", str(drive), fault=lambda: before_episode(5, break_mirror))
    broken, incomplete = attempt.lines()
    assert os.strerror(errno.ENOTCONN) in broken and "not complete" in incomplete
    # It works again: the same command completes it.
    assert check_ends(tmp_path, "--mirror", str(drive)).lines() == []
    assert csv_bytes(study_folder(drive)) == expected()


@pytest.mark.parametrize("lost", ["all", "newest damaged there too", "checkpoints"])
def test_restored_from_the_mirror(lost: str, stopped: Path) -> None:
    drive = stopped / "drive"
    shutil.rmtree(study_folder(stopped) / ("checkpoint" if lost == "checkpoints" else ""))
    mirrored = generations(drive)
    if lost == "newest damaged there too":
        flip_bit(mirrored.pop())
    episode = saved_episode(mirrored[-1])
    attempt = check_ends(stopped, "--mirror", str(drive))
    assert "2 of 4 runs to train" in attempt.out
    assert f"going on with 2 runs after episode {episode}\n" in attempt.out
    assert ("finished runs restored" in attempt.out) == (lost != "checkpoints")
    assert csv_bytes(study_folder(drive)) == expected() and not generations(drive)


@pytest.mark.parametrize("lost", ["nothing", "all"])
@pytest.mark.parametrize(("name", "damage"), [("study.json", "truncated"), ("runs.csv", "unreadable")])
def test_mirror_that_cannot_be_read_is_refused(lost: str, name: str, damage: str, stopped: Path) -> None:
    """What it holds is not known then, so it must not be replaced."""
    path = study_folder(stopped / "drive") / name
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-7])
    else:
        path.unlink()
        path.mkdir()
    if lost == "all":
        shutil.rmtree(study_folder(stopped))
    line = check_refused(stopped, "--mirror", str(stopped / "drive"))
    assert str(path.parent) in line and (damage == "truncated" or "Is a directory" in line)


def test_mirror_that_must_not_be_replaced(stopped: Path) -> None:
    drive, other = stopped / "drive", Path(shutil.copytree(stopped, stopped.with_name("other")))
    before = tree(stopped)
    (study_folder(other) / mirror.OWNER).write_text("another")
    # Of another folder, though of the same configuration and runs: two would take turns in it.
    assert str(study_folder(drive)) in check_refused(other, "--mirror", str(drive))
    assert "gamma 0.99 there, 0.5 asked" in check_refused(other / "new", "--gamma", "0.5", "--mirror", str(drive))
    assert "--mirror" in check_refused(stopped, "--mirror", str(stopped))
    assert tree(stopped) == before
    runs = study_folder(stopped) / "runs.csv"
    runs.write_text("".join(runs.read_text().splitlines(keepends=True)[:-1]))
    assert f"results that {study_folder(stopped)} lacks" in check_refused(stopped, "--mirror", str(drive))


def before_formats(manifest: Path) -> None:
    """Rewrite a manifest as the first version of this code did."""
    body = checkpoint._read_manifest(manifest)
    old = {"identity": body["study"], "environment": body["provenance"], "data": body["data"], "meta": body["meta"]}
    checkpoint._write_manifest(manifest, old)


@pytest.mark.parametrize("lost", ["nothing", "the folder", "all but the mirror's checkpoint"])
def test_an_older_version_is_refused(lost: str, stopped: Path) -> None:
    drive = stopped / "drive"
    for study in (study_folder(stopped) / "study.json", study_folder(drive) / "study.json"):
        described = json.loads(study.read_text())
        del described["format"]
        study.write_text(json.dumps(described))
    for data in (*generations(stopped), *generations(drive)):
        before_formats(data.with_suffix(".json"))
    if lost != "nothing":
        shutil.rmtree(study_folder(stopped))
    if lost.startswith("all"):
        for path in study_folder(drive).glob("*.*"):
            path.unlink()
    line = check_refused(stopped, "--mirror", str(drive))
    assert "older version" in line and "--fresh" in line
    assert ("commit a test" in line) == (not lost.startswith("all"))  # study.json names it
    check_ends(stopped, "--mirror", str(drive), "--fresh")


def test_second_process_while_one_trains(tmp_path: Path) -> None:
    held, go = tmp_path / "held", tmp_path / "go"

    def wait(_: object) -> None:
        held.touch()
        while not go.exists():
            time.sleep(0.01)

    first = Attempt(tmp_path, fault=lambda: before_episode(5, wait, seed=1))
    while not held.exists():
        assert first.wait(0.01) is None, first.lines()
    for options in ([], ["--fresh"]):
        assert f"pid {first.process.pid} on host {socket.gethostname()}, since 2" in check_refused(tmp_path, *options)
    go.touch()
    assert first.wait() == 0 and first.lines() == []
    check_ended(tmp_path)


def test_fresh_moves_everything_aside(stopped: Path) -> None:
    drive = stopped / "drive"
    before = [tree(study_folder(root)) for root in (stopped, drive)]
    assert all({"runs.csv", "study.json", "checkpoint/checkpoint-000007.data"} <= files.keys() for files in before)
    attempt = check_ends(stopped, "--mirror", str(drive), "--fresh")
    assert "4 of 4 runs to train" in attempt.out and "going on" not in attempt.out
    for root, files in zip((stopped, drive), before, strict=True):
        (aside,) = [path for path in study_folder(root).parent.iterdir() if path.name != "baseline"]
        assert tree(aside) == files and str(aside) in attempt.out
    assert csv_bytes(study_folder(drive)) == expected()


@pytest.mark.parametrize("lost", ["nothing", "all but the checkpoint"])
def test_another_configuration_is_refused(lost: str, stopped: Path) -> None:
    if lost != "nothing":
        for path in study_folder(stopped).glob("*.*"):
            path.unlink()
    line = check_refused(stopped, "--gamma", "0.5")
    assert "gamma 0.99 there, 0.5 asked" in line and "tau" not in line and str(study_folder(stopped)) in line


def test_runs_that_were_not_asked_for_are_refused(stopped: Path) -> None:
    line = check_refused(stopped, "--seeds", "1", "3")
    assert "seed=2" in line and "--fresh" in line


def test_another_computer_is_a_warning(stopped: Path) -> None:
    def fault() -> None:
        versions = runtime.versions()
        runtime.versions = lambda: {**versions, "torch_version": "1.0"}

    attempt = Attempt(stopped, fault=fault)
    assert attempt.wait() == 0
    (line,) = attempt.lines()
    assert "torch_version" in line and "1.0 now" in line and "commit" not in line
