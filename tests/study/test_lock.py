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

import filelock
import pytest

from common.study import lock
from common.study.lock import FolderLock, LockError

Racer = tuple[multiprocessing.Process, Connection]
Start = Callable[[], Racer]


@pytest.fixture(params=["flock", "file"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With flock, and on a file system that has none."""
    if request.param == "file":
        monkeypatch.setattr(filelock, "FileLock", filelock.SoftFileLock)
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
    started: list[Racer] = []

    def begin() -> Racer:
        here, there = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(target=take_in_turns, args=(tmp_path, there))
        process.start()
        started.append((process, here))
        return started[-1]

    yield begin
    for process, _ in started:
        process.kill()
        process.join()


def answer(racer: Racer) -> str:
    """What it says to a message."""
    racer[1].send("")
    return racer[1].recv()


def refusal(folder: Path) -> str:
    with pytest.raises(LockError) as problem, FolderLock(folder):
        pass
    assert "\n" not in str(problem.value)
    return str(problem.value)


def race(folder: Path, racers: list[Racer]) -> None:
    """One gets in, the other does not."""
    for _, pipe in racers:
        pipe.send("")
    answers = [pipe.recv() for _, pipe in racers]
    assert answers.count("in") == 1, answers
    assert "another process writes here" in answers[1 - answers.index("in")]
    assert answer(racers[answers.index("in")]) == "out" and not (folder / lock.HOLDER).exists()


def test_one_of_two_racing_processes_gets_in(start: Start, tmp_path: Path) -> None:
    racers = [start(), start()]
    for _ in range(10):
        race(tmp_path, racers)


def test_the_holder_is_named_and_the_lock_of_a_killed_process_is_taken_over(start: Start, tmp_path: Path) -> None:
    holder, *racers = start(), start(), start()
    assert answer(holder) == "in"
    since = json.loads((tmp_path / lock.HOLDER).read_text())["since"]
    assert f"pid {holder[0].pid} on host {socket.gethostname()}, since {since}" in refusal(tmp_path)
    holder[0].kill()
    holder[0].join()
    assert (tmp_path / lock.HOLDER).exists()
    race(tmp_path, racers)


@pytest.mark.parametrize("left", ["", "young", "held"])
def test_an_empty_file_left_where_there_is_no_flock(left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copied from elsewhere it stands for nobody, unless it is just being written or says who holds it."""

    def none(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(filelock, "FileLock", filelock.SoftFileLock)
    monkeypatch.setattr(lock.fcntl, "flock", none)
    (tmp_path / lock.NAME).write_text("")
    if left != "young":
        os.utime(tmp_path / lock.NAME, (1e9, 1e9))
    if left == "held":
        (tmp_path / lock.HOLDER).write_text("{}")
    if left:
        assert str(tmp_path / lock.NAME) in refusal(tmp_path)
    else:
        with FolderLock(tmp_path):
            assert "another process writes here" in refusal(tmp_path)
