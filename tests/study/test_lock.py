"""The lock of a results folder: one process gets in, and a killed one leaves no lock behind."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.study import lock
from common.study.lock import FolderLock, LockError

ROOT = Path(__file__).parents[2]
HOLDER = """
import errno, sys
from pathlib import Path
from common.study import lock

def without_flock(descriptor):
    raise OSError(errno.ENOTSUP, "no flock here")

folder, kind = Path(sys.argv[1]), sys.argv[2]
if kind == "file":
    lock._flock = without_flock
print("ready", flush=True)
while sys.stdin.readline():
    try:
        with lock.FolderLock(folder):
            print("in", flush=True)
            sys.stdin.readline()
        print("out", flush=True)
    except lock.LockError as problem:
        print(problem, flush=True)
"""

Start = Callable[[], subprocess.Popen]


@pytest.fixture(params=["flock", "file"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With flock, and on a file system that has none."""

    def without_flock(descriptor: int) -> None:
        raise OSError(errno.ENOTSUP, "no flock here")

    if request.param == "file":
        monkeypatch.setattr(lock, "_flock", without_flock)
    return request.param


@pytest.fixture
def start(tmp_path: Path, kind: str) -> Iterator[Start]:
    """Start a process that says "ready", and takes the lock at a line it is sent, gives it back at the next."""
    started = []

    def begin() -> subprocess.Popen:
        command = [sys.executable, "-c", HOLDER, str(tmp_path), kind]
        process = subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def send_line(process: subprocess.Popen) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


def answer(process: subprocess.Popen) -> str:
    return process.stdout.readline().rstrip("\n")


def refusal(folder: Path) -> str:
    with pytest.raises(LockError) as problem, FolderLock(folder):
        pass
    return str(problem.value)


def test_the_second_gets_one_line_that_names_the_holder(start: Start, tmp_path: Path) -> None:
    holder = start()
    send_line(holder)
    assert answer(holder) == "in"
    since = json.loads((tmp_path / lock.NAME).read_text())["since"]
    line = refusal(tmp_path)
    assert f"pid {holder.pid} on host {socket.gethostname()}, since {since}" in line and "\n" not in line
    send_line(holder)
    assert answer(holder) == "out"
    assert list(tmp_path.iterdir()) == []
    with FolderLock(tmp_path):
        assert f"pid {os.getpid()} on" in refusal(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_one_of_two_racing_processes_gets_in(start: Start) -> None:
    racers = [start(), start()]
    for _ in range(10):
        for racer in racers:
            send_line(racer)
        answers = [answer(racer) for racer in racers]
        assert answers.count("in") == 1, answers
        winner, loser = racers if answers[0] == "in" else racers[::-1]
        assert f"pid {winner.pid} on host" in answers[racers.index(loser)]
        send_line(winner)
        assert answer(winner) == "out"


def test_the_lock_of_a_killed_process_is_taken_over(start: Start, tmp_path: Path) -> None:
    killed = start()
    send_line(killed)
    assert answer(killed) == "in"
    assert f"pid {killed.pid} on" in refusal(tmp_path)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert killed.returncode == -signal.SIGKILL
    assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == killed.pid
    with FolderLock(tmp_path):
        assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == os.getpid()
        assert f"pid {os.getpid()} on" in refusal(tmp_path)


def test_two_processes_that_take_over_one_stale_lock(start: Start, tmp_path: Path) -> None:
    killed = start()
    send_line(killed)
    assert answer(killed) == "in"
    racers = [start(), start()]
    killed.kill()
    killed.wait()
    assert (tmp_path / lock.NAME).exists()
    for racer in racers:
        send_line(racer)
    answers = [answer(racer) for racer in racers]
    assert answers.count("in") == 1, answers


def leave_lock(folder: Path, **changes: object) -> None:
    """A lock file of this very process, but for `changes`."""
    who = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started": lock.process_start(os.getpid()),
        "since": "then",
    }
    (folder / lock.NAME).write_text(json.dumps({**who, **changes}))


@pytest.mark.parametrize("kind", ["file"], indirect=True)
def test_without_flock_pid_start_time_and_host_decide(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(lock, "HOLDER_SECONDS", 0.05)
    leave_lock(tmp_path)
    assert f"pid {os.getpid()} on" in refusal(tmp_path)
    leave_lock(tmp_path, host="elsewhere", pid=1)
    assert "pid 1 on host elsewhere, since then" in refusal(tmp_path)
    leave_lock(tmp_path, started="another process had this pid")
    with FolderLock(tmp_path):
        pass
    (tmp_path / lock.NAME).write_text("")  # killed between making the file and writing who it is
    with FolderLock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["flock"], indirect=True)
def test_with_flock_the_files_text_does_not_matter(kind: str, tmp_path: Path) -> None:
    leave_lock(tmp_path, host="elsewhere")
    with FolderLock(tmp_path):
        pass


def test_a_folder_moved_away_keeps_its_file(kind: str, tmp_path: Path) -> None:
    old, aside = tmp_path / "study", tmp_path / "aside"
    with FolderLock(old):
        old.rename(aside)
        with FolderLock(old):
            assert (old / lock.NAME).exists()
        assert (aside / lock.NAME).exists()


def test_a_folder_that_cannot_be_locked_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = refusal(tmp_path / "file" / "study")
    assert "cannot be locked" in line and "\n" not in line


def test_an_ended_process_that_nobody_waited_for_does_not_run() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    holder = {"pid": process.pid, "started": lock.process_start(process.pid)}
    assert lock._runs(holder)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not lock._runs(holder)
    process.communicate()
    assert not lock._runs(holder)


@pytest.mark.parametrize("kind", ["flock"], indirect=True)
def test_a_file_removed_between_opening_and_locking_is_not_taken_for_the_lock(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, removed = lock._flock, []

    def late(descriptor: int) -> None:
        if (tmp_path / lock.NAME).exists() and not removed:
            (tmp_path / lock.NAME).unlink()  # as its holder does at the end
            removed.append(descriptor)
        flock(descriptor)

    monkeypatch.setattr(lock, "_flock", late)
    with FolderLock(tmp_path):
        assert removed
        assert f"pid {os.getpid()} on" in refusal(tmp_path)


@pytest.mark.parametrize("kind", ["file"], indirect=True)
def test_without_flock_the_last_to_take_over_has_it(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settled = []

    def other_takes_over(seconds: float) -> None:
        settled.append(seconds)
        leave_lock(tmp_path, pid=1)

    leave_lock(tmp_path, started="another process had this pid")
    monkeypatch.setattr(lock.time, "sleep", other_takes_over)
    assert "pid 1 on host" in refusal(tmp_path)
    assert settled == [lock.SETTLE_SECONDS]
    assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == 1
