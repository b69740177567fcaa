"""A study that is killed or asked to stop, at any moment, ends with the same bytes after the same command."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from faults.resume_helpers import (
    EPISODES,
    Attempt,
    Fault,
    before_episode,
    check_ended,
    check_ends,
    check_whole,
    csv_bytes,
    die,
    study_folder,
    survive,
)

import common.agents.learner as learner_module
from common.agents.learner import Learner
from common.recording import store
from common.recording.store import ResultsStore
from common.study import checkpoint, mirror
from common.study.interruption import EXIT_INTERRUPTED
from common.training.workers import worker_count

KILLS = 25
SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "baseline" / "run_baseline_experiment.py"


def test_killed_at_random_moments(tmp_path: Path) -> None:
    phases, attempts, studies = survive(tmp_path, KILLS, random.Random(4))
    assert phases.total() == KILLS and attempts == KILLS + studies
    assert len(phases) > 1, phases


def nth(number: int, action: Callable[[], None]) -> Callable[[], None]:
    """Acts the `number`-th time it is called."""
    count = itertools.count(1)
    return lambda: action() if next(count) == number else None


def at_save(stage: str) -> Fault:
    def fault() -> None:
        strike = nth(3, die)
        checkpoint._stage = lambda reached: strike() if reached == stage else None

    return fault


def at_file(name: str) -> Fault:
    """Die when the file is written for the second time: its new text lies beside it, the old one is in place."""

    def fault() -> None:
        strike, replace = nth(2, die), os.replace

        def dying_replace(source: os.PathLike, target: os.PathLike) -> None:
            if Path(target).name == name:
                strike()
            replace(source, target)

        store.os.replace = dying_replace

    return fault


def between_writing_and_checkpoint() -> None:
    write, strike = ResultsStore.write, nth(2, die)

    def dying_write(self: ResultsStore) -> None:
        write(self)
        strike()

    ResultsStore.write = dying_write


def while_clearing() -> None:
    remove = checkpoint.remove_generations

    def dying_remove(folder: Path, keep: tuple[int, ...] = ()) -> None:
        if not keep:
            checkpoint.manifests(folder)[0].unlink()
            die()
        remove(folder, keep)

    checkpoint.remove_generations = dying_remove


MOMENTS: dict[str, tuple[Fault, str]] = {
    # Moment -> fault, and a file that shows that it happened there.
    "data written, not renamed": (at_save("before data rename"), "checkpoint/checkpoint-*.data.partial"),
    "data there, manifest not": (at_save("before manifest rename"), "checkpoint/checkpoint-*.json.partial"),
    "three generations": (at_save("before pruning"), "checkpoint/checkpoint-000003.json"),
    "between two CSV files": (at_file("saturation.csv"), ".saturation.csv.*"),
    "before runs.csv": (at_file("runs.csv"), ".runs.csv.*"),
    "finished run in an older checkpoint": (between_writing_and_checkpoint, "checkpoint/checkpoint-*.json"),
    "finished shard's checkpoint half removed": (while_clearing, "checkpoint/checkpoint-*.data"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_this_moment(moment: str, tmp_path: Path) -> None:
    fault, trace = MOMENTS[moment]
    assert Attempt(tmp_path, fault=fault).end() == -signal.SIGKILL
    assert list(study_folder(tmp_path).glob(trace))
    check_whole(study_folder(tmp_path))
    check_ends(tmp_path)


STRUCK: dict[str, tuple[Callable[[list[int]], None], int, str]] = {
    # What is struck -> how, given the workers' pids; the study's exit code; what its last line says.
    "study": (die, -signal.SIGKILL, ""),
    "worker": (lambda pids: (os.kill(pids[1], signal.SIGKILL), alive(str(pids[1]))), 1, "error: a worker process was"),
    "all, by Ctrl-C": (
        lambda pids: [os.kill(pid, signal.SIGINT) for pid in (*pids, os.getpid())],
        EXIT_INTERRUPTED,
        "interrupted by SIGINT: state saved",
    ),
}


@pytest.mark.skipif(worker_count(2, 4, torch.device("cpu")) == 1, reason="workers need Linux and no graphics card")
@pytest.mark.parametrize("struck", STRUCK)
def test_study_with_workers(struck: str, tmp_path: Path) -> None:
    strike, code, said = STRUCK[struck]

    def fault() -> None:
        # By --threads the study itself would use two, which OpenMP does not survive in a fork of this process.
        learner_module.worker_count = lambda _, runs, device: worker_count(2, runs, device)
        before_episode(12, act, seed=1)

    def act(learner: Learner) -> None:
        pids = [worker.pid for worker in learner.workers._workers]
        (tmp_path / "pids").write_text(" ".join(map(str, pids)))
        strike(pids)

    attempt = Attempt(tmp_path, "--runs-per-shard", "4", fault=fault)
    assert attempt.end() == code
    assert len(attempt.lines()) <= 1 and "".join(attempt.lines()).startswith(said)
    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) == 2 and not [pid for pid in pids if alive(pid)]
    check_ends(tmp_path, "--runs-per-shard", "4")


def alive(pid: str) -> bool:
    """Whether a process runs, or will in a moment no longer."""
    for _ in range(100):
        try:
            state = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state in "ZX":
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize("name", [".data", "checkpoint-000001.json", "rewards.csv", "runs.csv"])
def test_killed_while_mirroring(name: str, tmp_path: Path) -> None:
    def fault() -> None:
        copy = mirror._copy

        def dying_copy(source: object, target: Path) -> None:
            if target.name.endswith(name):
                source.seek(0)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.with_name(target.name + ".partial").write_bytes(source.read()[:100])
                die()
            copy(source, target)

        mirror._copy = dying_copy

    drive = tmp_path / "drive"
    assert Attempt(tmp_path, "--mirror", str(drive), fault=fault).end() == -signal.SIGKILL
    assert [path.name for path in drive.rglob("*.partial") if path.name.endswith(f"{name}.partial")]
    check_ends(tmp_path, "--mirror", str(drive))
    assert csv_bytes(study_folder(drive)) == csv_bytes(study_folder(tmp_path))
    assert not list(drive.rglob("*.partial")) and not list(drive.rglob("checkpoint*"))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
@pytest.mark.parametrize(("seed", "episode"), [(1, 25), (2, 1)])
def test_asked_to_stop(name: str, seed: int, episode: int, tmp_path: Path) -> None:
    """In a shard that has lost a run already, and in the first episode of another."""

    def fault() -> None:
        before_episode(episode, lambda _: os.kill(os.getpid(), signal.Signals[name]), seed)

    attempt = Attempt(tmp_path, fault=fault)
    assert attempt.end() == EXIT_INTERRUPTED == 75
    saved = f"interrupted by {name}: state saved after episode {episode}; the same command goes on from there"
    assert attempt.lines() == [saved]
    runs = 1 if seed == 1 else 2
    assert f"going on with {runs} runs after episode {episode}\n" in check_ends(tmp_path).out


def test_asked_to_stop_at_the_end_of_a_study(tmp_path: Path) -> None:
    """Nothing is left to save then."""
    attempt = Attempt(tmp_path, fault=lambda: before_episode(EPISODES, lambda _: os.kill(os.getpid(), signal.SIGTERM)))
    assert attempt.end() == 0 and attempt.lines() == []
    check_ended(tmp_path)


def test_stopped_again_and_again(tmp_path: Path) -> None:
    """Each attempt gets seven episodes further."""
    stops = 0

    def stop_soon() -> None:
        train_episode, strike = Learner.train_episode, nth(7, lambda: os.kill(os.getpid(), signal.SIGUSR1))

        def train(learner: Learner, *arguments: object, **options: object) -> object:
            strike()
            return train_episode(learner, *arguments, **options)

        Learner.train_episode = train

    while (attempt := Attempt(tmp_path, fault=stop_soon)).end() == EXIT_INTERRUPTED:
        stops += 1
    assert attempt.code == 0 and stops >= 8
    check_ended(tmp_path)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_full_size_stops_within_ten_seconds(name: str, tmp_path: Path) -> None:
    """16 runs with networks, replay and batch as in the studies, while they train, with all threads."""
    command = [sys.executable, str(SCRIPT), "--checkpoint-minutes", "0.02", "--results-dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            while not list(study_folder(tmp_path).glob("checkpoint/*.json")):
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.05)
            start = time.monotonic()
            process.send_signal(signal.Signals[name])
            assert process.wait(60) == EXIT_INTERRUPTED
            assert time.monotonic() - start < 10
            assert f"interrupted by {name}: state saved after episode" in process.stderr.read()
        finally:
            process.kill()
    size = sum(path.stat().st_size for path in study_folder(tmp_path).glob("checkpoint/*"))
    assert 1e8 < size < 1.5e9
