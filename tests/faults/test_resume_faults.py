"""Damaged files, full or failing disks, a second process, another configuration: one clear line and nothing lost."""

from __future__ import annotations

import errno
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults.resume_helpers import (
    SAVED_EVERY,
    Attempt,
    Fault,
    before_episode,
    check_ended,
    check_ends,
    check_refused,
    csv_bytes,
    die,
    expected,
    small_disk,
    study_folder,
    tree,
)

from common.agents.learner import Learner
from common.study import mirror
from common.study.interruption import EXIT_INTERRUPTED
from common.training import runtime

STOPPED_AT = 25  # episode of the second shard


def ask_to_stop() -> None:
    before_episode(STOPPED_AT, lambda _: os.kill(os.getpid(), signal.SIGTERM))


@functools.cache
def interrupted_study() -> tempfile.TemporaryDirectory:
    """A study that was stopped when half of its runs were finished, with two checkpoints."""
    folder = tempfile.TemporaryDirectory()
    attempt = Attempt(Path(folder.name), fault=ask_to_stop)
    assert attempt.end() == EXIT_INTERRUPTED, attempt.lines()
    assert len(generations(Path(folder.name))) == 2
    return folder


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(interrupted_study().name, tmp_path / "results"))


def generations(results: Path) -> list[Path]:
    """Data files of the checkpoints, oldest first."""
    return sorted((study_folder(results) / "checkpoint").glob("*.data"))


def saved_episode(data: Path) -> int:
    return json.loads(data.with_suffix(".json").read_text())["body"]["meta"]["episode"]


def truncate(data: Path) -> None:
    data.write_bytes(data.read_bytes()[:-7])


def flip_bit(data: Path) -> None:
    damaged = bytearray(data.read_bytes())
    damaged[len(damaged) // 2] ^= 16
    data.write_bytes(damaged)


def empty(data: Path) -> None:
    data.write_bytes(b"")


def cut_manifest(data: Path) -> None:
    truncate(data.with_suffix(".json"))


def remove_manifest(data: Path) -> None:
    data.with_suffix(".json").unlink()


@pytest.mark.parametrize("damage", [truncate, flip_bit, empty, Path.unlink, cut_manifest, remove_manifest])
def test_damaged_newest_checkpoint(damage: Callable[[Path], None], stopped: Path) -> None:
    before, newest = generations(stopped)
    episodes = saved_episode(before), saved_episode(newest)
    assert episodes == (STOPPED_AT - 1, STOPPED_AT) and episodes[0] % SAVED_EVERY == 0
    damage(newest)
    attempt = check_ends(stopped)
    assert f"going on with 2 runs after episode {episodes[0]}\n" in attempt.out
    # Data without a manifest is what a kill between the two leaves: no damage.
    warnings = 0 if damage is remove_manifest else 1
    assert len(attempt.lines()) == warnings
    assert all(f"warning: {newest.with_suffix('')}: damaged checkpoint" in line for line in attempt.lines())


def test_all_checkpoints_damaged(stopped: Path) -> None:
    for data in generations(stopped):
        flip_bit(data)
    attempt = check_ends(stopped)
    assert len(attempt.lines()) == 2 and "going on" not in attempt.out
    assert "2 of 4 runs to train" in attempt.out


@pytest.mark.parametrize("name", ["stopping_episodes.csv", "gradient_norms.csv", "evaluations.csv", "runs.csv"])
@pytest.mark.parametrize("damage", [truncate, empty])
def test_damaged_results_are_refused(name: str, damage: Callable[[Path], None], stopped: Path) -> None:
    damage(study_folder(stopped) / name)
    assert name in check_refused(stopped)


@pytest.mark.parametrize("text", [b"", b"seed,policy\n1,ran", b"\xff\xfe\n\x00garbage\n", b"seed\nxx,random\n"])
def test_damaged_reference_policies(text: bytes, stopped: Path) -> None:
    """They are computed again, or refused where a row cannot be told to be of this study."""
    damaged = study_folder(stopped) / "reference_policies.csv"
    damaged.write_bytes(text)
    attempt = Attempt(stopped)
    if attempt.end() == 0:
        check_ended(stopped)
    else:
        assert attempt.code == 2 and len(attempt.lines()) == 1 and damaged.name in attempt.lines()[0]
        damaged.unlink()
        check_ends(stopped)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    try:
        with small_disk(tmp_path / "disk", "32m") as folder:
            yield folder
    except OSError as problem:
        pytest.skip(f"cannot mount a tmpfs: {problem}")


def fill(folder: Path) -> None:
    """Use the last byte of the disk that holds this folder."""
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(2**12)):
                pass
        except OSError as problem:
            assert problem.errno == errno.ENOSPC


@pytest.mark.parametrize(("seed", "filled", "runs"), [(1, 5, 4), (2, 21, 2)], ids=["no run yet", "two runs finished"])
def test_full_disk(seed: int, filled: int, runs: int, disk: Path) -> None:
    """Checkpoints fail with a warning each, then a finished run cannot be written: exit code 1."""
    attempt = Attempt(disk, fault=lambda: before_episode(filled, lambda _: fill(disk), seed))
    assert attempt.end() == 1
    last = attempt.lines()[-1]
    assert last.startswith("error: ") and "No space left on device" in last and "the same command goes on" in last
    warnings = [line for line in (attempt.out + "\n".join(attempt.lines())).splitlines() if "warning: " in line]
    assert warnings and all("No space left on device" in line and "training goes on" in line for line in warnings)
    assert all("Traceback" not in line for line in attempt.lines())
    (disk / "filler").unlink()
    attempt = check_ends(disk)
    assert f"{runs} of 4 runs to train" in attempt.out and f"after episode {filled - 1}\n" in attempt.out


def test_disk_full_for_a_while(disk: Path) -> None:
    def fault() -> None:
        before_episode(5, lambda _: fill(disk))
        before_episode(25, lambda _: (disk / "filler").unlink())

    attempt = Attempt(disk, fault=fault)
    assert attempt.end() == 0, attempt.lines()
    assert "No space left on device" in attempt.out + "".join(attempt.lines())
    check_ended(disk)


def test_full_before_the_start(disk: Path) -> None:
    fill(disk)
    attempt = Attempt(disk)
    assert attempt.end() in (1, 2)
    assert len(attempt.lines()) == 1 and "No space left on device" in attempt.lines()[0]
    (disk / "filler").unlink()
    check_ends(disk)


def test_read_only_folder(disk: Path) -> None:
    assert Attempt(disk, fault=ask_to_stop).end() == EXIT_INTERRUPTED
    remount = ["mount", "-o", "remount,ro", str(disk)]
    subprocess.run(remount, check=True)
    with pytest.raises(OSError, match="Read-only"):
        (disk / "probe").touch()
    assert "Read-only file system" in check_refused(disk)
    subprocess.run([*remount[:2], "remount,rw", str(disk)], check=True)
    check_ends(disk)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOTCONN])
def test_failing_mirror(number: int, tmp_path: Path) -> None:
    """From the second shard on."""
    drive, struck = tmp_path / "drive", tmp_path / "struck"

    def break_mirror(_: Learner) -> None:
        def failing(source: object, target: Path) -> None:
            struck.touch()
            raise OSError(number, os.strerror(number), str(target))

        mirror._copy = failing

    attempt = Attempt(tmp_path, "--mirror", str(drive), fault=lambda: before_episode(5, break_mirror))
    assert attempt.end() == 0, attempt.lines()
    check_ended(tmp_path)
    assert struck.exists()
    # Before it failed it may have been too slow for checkpoints that come this fast.
    lines = [line for line in attempt.lines() if "copying a checkpoint outlasts" not in line]
    assert [line.count(os.strerror(number)) for line in lines] == [1, 0], lines
    assert "the mirror cannot be written" in lines[0] and "not complete" in lines[1]
    # It works again: the same command completes it.
    assert check_ends(tmp_path, "--mirror", str(drive)).lines() == []
    assert csv_bytes(study_folder(drive)) == expected()


def copy_at_once() -> None:
    """Let each checkpoint reach the mirror before training goes on."""
    push = mirror.Mirror.push

    def push_and_wait(self: mirror.Mirror, files: list[Path], manifest: Path) -> bool:
        return push(self, files, manifest) and self.flush(60)

    mirror.Mirror.push = push_and_wait


def kill_with_mirror() -> None:
    copy_at_once()
    before_episode(STOPPED_AT, die)


@pytest.mark.parametrize("lost", ["all", "newest damaged there too", "checkpoints"])
def test_restored_from_the_mirror(lost: str, tmp_path: Path) -> None:
    drive = tmp_path / "drive"
    options = ["--mirror", str(drive)]
    assert Attempt(tmp_path, *options, fault=kill_with_mirror).end() == -signal.SIGKILL
    shutil.rmtree(study_folder(tmp_path) / ("checkpoint" if lost == "checkpoints" else ""))
    mirrored = generations(drive)
    assert len(mirrored) == 2
    if lost == "newest damaged there too":
        flip_bit(mirrored.pop())
    episode = saved_episode(mirrored[-1])
    attempt = check_ends(tmp_path, *options)
    assert "2 of 4 runs to train" in attempt.out
    assert f"going on with 2 runs after episode {episode}\n" in attempt.out
    assert ("finished runs restored" in attempt.out) == (lost != "checkpoints")
    assert any("went on from the mirror's" in line for line in attempt.lines())
    assert csv_bytes(study_folder(drive)) == expected()


def hold(flag: Path) -> Fault:
    """Wait in an early episode until there is this file."""

    def wait(_: Learner) -> None:
        flag.with_name("held").touch()
        while not flag.exists():
            time.sleep(0.01)

    return lambda: before_episode(5, wait, seed=1)


def check_refused_by(holder: Attempt, other: Attempt) -> None:
    assert other.end() == 2
    assert len(other.lines()) == 1
    assert f"pid {holder.pid} on host {socket.gethostname()}, since 2" in other.lines()[0]


def test_second_process_while_one_trains(tmp_path: Path) -> None:
    go = tmp_path / "go"
    first = Attempt(tmp_path, fault=hold(go))
    while not (tmp_path / "held").exists():
        assert first.wait(0.01) is None, first.lines()
    check_refused_by(first, Attempt(tmp_path))
    check_refused_by(first, Attempt(tmp_path, "--fresh"))
    go.touch()
    assert first.end() == 0 and first.lines() == []
    check_ended(tmp_path)


def test_two_processes_that_start_together(tmp_path: Path) -> None:
    go = tmp_path / "go"
    both = [Attempt(tmp_path, fault=hold(go)) for _ in range(2)]
    while all(attempt.wait(0.01) is None for attempt in both):
        pass
    both.sort(key=lambda attempt: attempt.code is not None)
    check_refused_by(*both)
    go.touch()
    assert both[0].end() == 0 and both[0].lines() == []
    check_ended(tmp_path)


@pytest.mark.parametrize("finished", [False, True])
def test_fresh_moves_everything_aside(finished: bool, tmp_path: Path) -> None:
    drive = tmp_path / "drive"
    fault = None if finished else kill_with_mirror
    Attempt(tmp_path, "--mirror", str(drive), fault=fault).end()
    before = [tree(study_folder(root)) for root in (tmp_path, drive)]
    for files in before:
        files.pop(".lock", None)  # of the killed process
        assert {"runs.csv", "study.json"} <= files.keys()
        assert finished or any(name.startswith("checkpoint/") for name in files)
    attempt = check_ends(tmp_path, "--mirror", str(drive), "--fresh")
    assert "4 of 4 runs to train" in attempt.out and "going on" not in attempt.out
    for root, files in zip((tmp_path, drive), before, strict=True):
        aside = [path for path in study_folder(root).parent.iterdir() if path.name != "baseline"]
        assert len(aside) == 1 and tree(aside[0]) == files
        assert f"earlier results moved to {aside[0]}" in attempt.out
    assert csv_bytes(study_folder(drive)) == expected()


def test_another_configuration_is_refused(stopped: Path) -> None:
    line = check_refused(stopped, "--gamma", "0.5")
    assert "gamma 0.99 there, 0.5 asked" in line and str(study_folder(stopped)) in line
    # Only the checkpoint is left to tell.
    for path in study_folder(stopped).iterdir():
        if path.name != "checkpoint":
            path.unlink()
    line = check_refused(stopped, "--gamma", "0.5")
    assert "configuration.gamma 0.99 there, 0.5 asked" in line and str(study_folder(stopped)) in line
    check_ends(stopped)


def test_runs_that_were_not_asked_for_are_refused(stopped: Path) -> None:
    line = check_refused(stopped, "--seeds", "1", "3")
    assert "seed=2" in line and "--fresh" in line
    check_ends(stopped)


def test_another_computer_is_a_warning(stopped: Path) -> None:
    def fault() -> None:
        versions = runtime.versions()
        runtime.versions = lambda: {**versions, "torch_version": "1.0"}

    attempt = Attempt(stopped, fault=fault)
    assert attempt.end() == 0
    assert len(attempt.lines()) == 1
    assert "torch_version" in attempt.lines()[0] and '"1.0" now' in attempt.lines()[0]
