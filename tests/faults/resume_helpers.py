"""One small study in processes of its own, to be killed, refused or starved, and the bytes it must end with.

The processes are forked from this one, so that PyTorch is loaded once and a kill costs milliseconds. They use one
thread and the CPU. Faults are functions that the new process calls before the study starts; what they replace there
is untouched here.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import functools
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from common.agents.reports import RunKey
from common.config import parse_command_line
from common.environment.reference_policies import ReferenceResult, evaluate_references
from common.experiment import Experiment
from common.study import lock, mirror, runner, shard
from common.study.shard import Engine

EXPERIMENT = Experiment(name="baseline", description="A test.")
EPISODES = 30
ARGUMENTS = (
    f"--agents 10 --batch-size 16 --episodes {EPISODES} --actor-lrs 0.01 0.1 --critic-lrs 0.01 --seeds 1 2 "
    "--runs-per-shard 2 --log-every 5 --eval-every 10 --eval-episodes 1 --actor-hidden 16 8 --critic-hidden 32 16 "
    "--checkpoint-minutes 0.06 --threads 1 --device cpu"
).split()
DIVERGING = RunKey(1, 0.1, 0.01)  # gets a NaN before the episode below, so its shard goes on without it
DIVERGES_AT = 15
PATIENCE = 100.0  # seconds; a process that takes longer hangs: it prints where and ends

Fault = Callable[[], None]


class Attempt:
    """One process that runs the study's command; what it prints is kept."""

    def __init__(self, results: Path, *arguments: str, fault: Fault | None = None):
        """Start it; `results` is the --results-dir, `arguments` come after the study's."""
        self._printed = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115  (without names to remove twice)
        references()
        command = [*ARGUMENTS, "--results-dir", str(results), *arguments]
        self.process = multiprocessing.get_context("fork").Process(target=self._run, args=(command, fault))
        self.process.start()

    def wait(self, seconds: float | None = None) -> int | None:
        """Exit code, negative for a signal; None if it goes on for longer than `seconds`."""
        self.process.join(seconds)
        return self.process.exitcode

    def kill(self) -> int:
        """Send SIGKILL; its exit code tells whether it ended by itself just before."""
        self.process.kill()
        return self.wait()

    @property
    def out(self) -> str:
        """What it has printed."""
        return self._read(0)

    def lines(self) -> list[str]:
        """Its standard error."""
        return self._read(1).splitlines()

    def _read(self, number: int) -> str:
        file = self._printed[number].fileno()
        return os.pread(file, os.fstat(file).st_size, 0).decode()  # the position is shared with the process that writes

    def _run(self, command: list[str], fault: Fault | None) -> None:
        for number, file in enumerate(self._printed, start=1):
            os.dup2(file.fileno(), number)
        sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        self._prepare()
        if fault:
            fault()
        runner.main(EXPERIMENT, command)

    def _prepare(self) -> None:
        """Let an episode seem to take a second (every fourth is saved); skip what takes long; let one run diverge."""
        seconds = itertools.count()
        shard.time = SimpleNamespace(monotonic=lambda: next(seconds), perf_counter=time.perf_counter)
        runner.evaluate_references = lambda config, seeds: [found for found in references() if found.seed in seeds]
        runner.save_study_figures = lambda study: []
        sys.modules["common.analysis.report"] = SimpleNamespace(save_study_report=lambda study: "none")
        runner.runtime.code_commit = lambda: "a test"
        mirror.RETRY_DELAYS = (0.01,)
        before_episode(DIVERGES_AT, poison, seed=DIVERGING.seed)


def before_episode(episode: int, action: Callable[[Engine], None], seed: int = 2) -> None:
    """A fault's building block: act before this episode of the shard that holds this seed."""
    train_episode = Engine.train_episode

    def train(engine: Engine, *arguments: object, **options: object) -> object:
        if engine.episode == episode - 1 and engine.keys[0].seed == seed:
            action(engine)
        return train_episode(engine, *arguments, **options)

    Engine.train_episode = train


def stop_before(episode: int, number: int = signal.SIGTERM, seed: int = 2) -> Fault:
    """Ask to stop, with this signal, at that moment."""
    return lambda: before_episode(episode, lambda _: os.kill(os.getpid(), number), seed)


def poison(engine: Engine, key: RunKey = DIVERGING) -> None:
    """Put NaN into one run's critic."""
    if key in engine.keys:
        state = {name: tensor.clone() for name, tensor in engine.state().items()}
        for name, tensor in state.items():
            if name.startswith("critics.") and tensor.is_floating_point():
                tensor[engine.keys.index(key)] = torch.nan
        engine.load(state, engine.counters())


def die(*_: object) -> None:
    """What a power cut does to this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def study_folder(results: Path) -> Path:
    """Where the study's files lie."""
    return results / "scaled" / "baseline"


def csv_bytes(folder: Path) -> dict[str, bytes]:
    """The bytes of the CSV files, without what is in the column wall_seconds."""
    found = {}
    for path in sorted(folder.glob("*.csv")):
        rows = [line.split(b",") for line in path.read_bytes().split(b"\n")]
        if b"wall_seconds" in rows[0]:
            column = rows[0].index(b"wall_seconds")
            for row in rows[1:-1]:
                assert float(row[column]) > 0
                row[column] = b""
        found[path.name] = b"\n".join(b",".join(row) for row in rows)
    return found


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder, but for those of the lock."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in lock.FILES)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@functools.cache
def references() -> list[ReferenceResult]:
    """The study's reference policies, which take as long as its training; evaluated once.

    With them all that PyTorch loads at a first backward pass is loaded before processes are forked.
    """
    x = torch.ones(1, requires_grad=True)
    torch.autograd.grad(x.tanh(), x, torch.ones(1))
    config, _ = parse_command_line(EXPERIMENT, ARGUMENTS)
    return evaluate_references(config, list(config.seeds))


@functools.cache
def expected() -> dict[str, bytes]:
    """What every study must end with: the CSV files of one that nothing disturbed."""
    with tempfile.TemporaryDirectory() as results:
        attempt = Attempt(Path(results))
        assert attempt.wait() == 0 and attempt.lines() == [], attempt.lines()
        found = csv_bytes(study_folder(Path(results)))
    rows = found["runs.csv"].decode().splitlines()[1:]
    assert [",diverged," in row for row in rows] == [False, True, False, False] and len(found) == 7
    return found


def check_ended(results: Path) -> None:
    """The study ended with the expected bytes and left nothing behind."""
    folder = study_folder(results)
    found = csv_bytes(folder)
    assert found.keys() == expected().keys()
    for name, data in expected().items():
        assert found[name] == data, f"{name} differs"
    left = {path.name for path in folder.iterdir() if path.suffix != ".csv"} - {lock.NAME, mirror.OWNER}
    assert left == {"study.json"}, left


def check_ends(results: Path, *arguments: str, fault: Fault | None = None) -> Attempt:
    """The same command goes on and ends with the expected bytes."""
    attempt = Attempt(results, *arguments, fault=fault)
    assert attempt.wait() == 0, attempt.lines()
    check_ended(results)
    return attempt


def check_refused(results: Path, *arguments: str, fault: Fault | None = None) -> str:
    """One line, exit code 2, nothing changed; the line."""
    before = tree(results)
    attempt = Attempt(results, *arguments, fault=fault)
    assert attempt.wait() == 2, attempt.lines()
    (line,) = attempt.lines()
    assert tree(results) == before
    return line


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of this size; the test is skipped if it cannot be made."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path, spare: int = 0) -> Path:
    """Use the disk that holds this folder to its last byte, but for about `spare` bytes; the file that does."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(2**12)):
                pass
        except OSError as problem:
            assert problem.errno == errno.ENOSPC
        file.truncate(file.tell() - spare)
    return filler
