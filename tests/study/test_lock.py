"""The lock of a results folder: one process gets in, and a killed one leaves no lock behind."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from common.study import lock
from common.study.lock import FolderLock, LockError

Racer = tuple[multiprocessing.Process, Connection]
Start = Callable[[], Racer]


@pytest.fixture(params=["flock", "file"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With flock, and on a file system that has none."""

    def without_flock(descriptor: int) -> None:
        raise OSError(errno.ENOTSUP, "no flock here")

    if request.param == "file":
        monkeypatch.setattr(lock, "_flock", without_flock)
        monkeypatch.setattr(lock, "SETTLE_SECONDS", 0.1)
    return request.param


def take_in_turns(folder: Path, pipe: Connection) -> None:
    """Take the lock at a message, give it back at the next."""
    while True:
        pipe.recv()
        try:
            with FolderLock(folder):
                pipe.send("in")
                pipe.recv()
            pipe.send("out")
        except LockError as problem:
            pipe.send(str(problem))


@pytest.fixture
def start(tmp_path: Path, kind: str) -> Iterator[Start]:
    """Starts a process that takes the lock when it is told to."""
    started = []

    def begin() -> Racer:
        here, there = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(target=take_in_turns, args=(tmp_path, there))
        process.start()
        started.append(process)
        return process, here

    yield begin
    for process in started:
        process.kill()
        process.join()


def answer(racer: Racer, message: str = "") -> str:
    """What it says to a message."""
    racer[1].send(message)
    return racer[1].recv()


def refusal(folder: Path) -> str:
    with pytest.raises(LockError) as problem, FolderLock(folder):
        pass
    assert "\n" not in str(problem.value)
    return str(problem.value)


def test_the_second_gets_one_line_that_names_the_holder(start: Start, tmp_path: Path) -> None:
    holder = start()
    assert answer(holder) == "in"
    since = json.loads((tmp_path / lock.NAME).read_text())["since"]
    assert f"pid {holder[0].pid} on host {socket.gethostname()}, since {since}" in refusal(tmp_path)
    assert answer(holder) == "out" and list(tmp_path.iterdir()) == []


def race(racers: list[Racer]) -> None:
    """One gets in; the other names it."""
    for _, pipe in racers:
        pipe.send("")
    answers = [pipe.recv() for _, pipe in racers]
    assert answers.count("in") == 1, answers
    winner = racers[answers.index("in")]
    assert f"pid {winner[0].pid} on host" in answers[1 - answers.index("in")]
    assert answer(winner) == "out"


def test_one_of_two_racing_processes_gets_in(start: Start) -> None:
    racers = [start(), start()]
    for _ in range(10):
        race(racers)


def test_the_lock_of_a_killed_process_is_taken_over(start: Start, tmp_path: Path) -> None:
    killed, *racers = start(), start(), start()
    assert answer(killed) == "in"
    killed[0].kill()
    killed[0].join()
    assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == killed[0].pid
    race(racers)


def test_whose_lock_file_it_is(kind: str, tmp_path: Path) -> None:
    """Without flock another host's is never taken over, nor that of a process that runs; with flock all are."""
    path, me = tmp_path / lock.NAME, {"pid": os.getpid(), "host": socket.gethostname(), "since": "then"}
    path.write_text("")  # killed between making the file and writing who it is
    with FolderLock(tmp_path):
        pass
    for who in ({**me, "host": "elsewhere", "pid": 1}, me):
        path.write_text(json.dumps(who))
        if kind == "flock":
            with FolderLock(tmp_path):
                pass
        else:
            line = refusal(tmp_path)
            assert f"pid {who['pid']} on host {who['host']}, since then" in line and str(path) in line


def test_a_folder_that_cannot_be_locked_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file" / "study") in refusal(tmp_path / "file" / "study")


@pytest.mark.parametrize("kind", ["flock"], indirect=True)
def test_a_file_removed_between_opening_and_locking_is_not_taken_for_the_lock(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, removed = lock._flock, []

    def late(descriptor: int) -> None:
        if not removed:
            (tmp_path / lock.NAME).unlink()  # as its holder does at the end
            removed.append(descriptor)
        flock(descriptor)

    monkeypatch.setattr(lock, "_flock", late)
    with FolderLock(tmp_path):
        assert f"pid {os.getpid()} on" in refusal(tmp_path)
