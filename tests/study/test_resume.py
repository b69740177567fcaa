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
)
from helpers import CPU, experiments
from training.variants import VARIANTS

from common.agents.reports import RunKey
from common.recording import store
from common.recording.store import ResultsStore
from common.study import mirror, shard
from common.study.checkpoint import Checkpoints
from common.study.generations import Generations
from common.study.interruption import EXIT_INTERRUPTED
from common.study.shard import Engine
from common.training.workers import worker_count

KILLS = int(os.environ.get("KILLS", 25))
SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "baseline" / "run_baseline_experiment.py"


def test_killed_at_random_moments(tmp_path: Path) -> None:
    """Started again until it ends, in a new folder when that is before all kills."""
    check_ends(tmp_path)
    start = time.monotonic()
    check_ends(tmp_path, "--fresh")
    longest = (time.monotonic() - start) / 4
    chance, killed, studies = random.Random(4), 0, 0
    while killed < KILLS:
        studies += 1
        folder = tmp_path / f"study-{studies}"
        attempt = Attempt(folder)
        while attempt.wait(chance.uniform(0, longest)) is None and killed < KILLS:
            attempt.kill()
            killed += attempt.code == -signal.SIGKILL
            check_whole(study_folder(folder))
            attempt = Attempt(folder)
        assert attempt.end() == 0, attempt.lines()
        check_ended(folder)
    print(f"{killed} kills of {studies} studies; all ended with the same bytes")


@pytest.mark.parametrize("name", [*experiments(), "rules"])
def test_every_experiment_goes_on_with_the_same_bits(name: str, tmp_path: Path) -> None:
    """Its buffers and what its algorithm remembers included."""
    keys = [RunKey(1, 1e-2, 1e-2), RunKey(2, 1e-3, 1e-2)]
    experiment = VARIANTS["rules"][0] if name == "rules" else experiments()[name]
    options = {"agents": 10, "batch_size": 8, "episodes": 10, "critic_hidden": (16, 8), **experiment.overrides}
    whole, resumed = (Engine(experiment, experiment.config(**options), keys, CPU, threads=1) for _ in range(2))
    checkpoints = Checkpoints(tmp_path, {"experiment": name, "configuration": {}}, {}, warn=print)
    for _ in range(3):
        whole.train_episode()
    checkpoints.save(whole.state(), whole.counters())
    resumed.load(*checkpoints.load())
    for engine in (whole, resumed):
        for _ in range(3):
            engine.train_episode()
    assert whole.counters() == resumed.counters() and whole.state().keys() == resumed.state().keys()
    for part, value in whole.state().items():
        assert torch.equal(resumed.state()[part], value), part


def nth(number: int, action: Callable[[], None]) -> Callable[[], None]:
    """Acts the `number`-th time it is called."""
    count = itertools.count(1)
    return lambda: action() if next(count) == number else None


def before_rename_to(ending: str, number: int) -> Fault:
    """Die when a file of this name is written for the `number`-th time: its new text lies beside it."""

    def fault() -> None:
        strike, replace = nth(number, die), os.replace

        def dying_replace(source: os.PathLike, target: os.PathLike) -> None:
            if Path(target).name.endswith(ending):
                strike()
            replace(source, target)

        store.os.replace = dying_replace

    return fault


def before_pruning() -> None:
    remove, strike = Generations.remove, nth(3, die)

    def dying_remove(self: Generations, keep: tuple[int, ...] = ()) -> None:
        strike()
        remove(self, keep)

    Generations.remove = dying_remove


def between_writing_and_checkpoint() -> None:
    write, strike = ResultsStore.write, nth(2, die)

    def dying_write(self: ResultsStore) -> None:
        write(self)
        strike()

    ResultsStore.write = dying_write


def while_clearing() -> None:
    remove = Generations.remove

    def dying_remove(self: Generations, keep: tuple[int, ...] = ()) -> None:
        if not keep:
            self.path(self.numbers()[0], ".json").unlink()
            die()
        remove(self, keep)

    Generations.remove = dying_remove


def before_the_last_clearing() -> None:
    remove, strike = Generations.remove, nth(2, die)

    def dying_remove(self: Generations, keep: tuple[int, ...] = ()) -> None:
        if not keep:
            strike()
        remove(self, keep)

    Generations.remove = dying_remove


def before_the_empty_folder_goes() -> None:
    strike, rmdir = nth(2, die), Path.rmdir

    def dying_rmdir(self: Path) -> None:
        if self.name == "checkpoint":
            strike()
        rmdir(self)

    Path.rmdir = dying_rmdir


MOMENTS: dict[str, tuple[Fault, str]] = {
    # Moment -> fault, and a file that shows that it happened there.
    "data written, not renamed": (before_rename_to("3.data", 1), "checkpoint/.checkpoint-000003.data.partial"),
    "data there, manifest not": (before_rename_to("3.json", 1), "checkpoint/.checkpoint-000003.json.partial"),
    "three generations": (before_pruning, "checkpoint/checkpoint-000003.json"),
    "between two CSV files": (before_rename_to("saturation.csv", 2), ".saturation.csv.*"),
    "before runs.csv": (before_rename_to("runs.csv", 2), ".runs.csv.*"),
    "finished run in an older checkpoint": (between_writing_and_checkpoint, "checkpoint/checkpoint-*.json"),
    "finished shard's checkpoint half removed": (while_clearing, "checkpoint/checkpoint-*.data"),
    "all runs finished, the checkpoint there": (before_the_last_clearing, "checkpoint/checkpoint-*.json"),
    "all runs finished, its folder there": (before_the_empty_folder_goes, "checkpoint"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_this_moment(moment: str, tmp_path: Path) -> None:
    fault, trace = MOMENTS[moment]
    assert Attempt(tmp_path, fault=fault).end() == -signal.SIGKILL
    assert list(study_folder(tmp_path).glob(trace))
    check_whole(study_folder(tmp_path))
    out = check_ends(tmp_path).out
    assert moment != "finished run in an older checkpoint" or "going on with 0 runs" in out  # it is not trained again


@pytest.mark.parametrize("name", ["2.data", "1.json", "rewards.csv", "runs.csv"])
def test_killed_while_mirroring(name: str, tmp_path: Path) -> None:
    def fault() -> None:
        write = mirror.write_atomically

        def dying_write(path: Path, data: object) -> None:
            if path.name.endswith(name):
                path.with_name(f".{path.name}.partial").write_bytes(b"half")
                die()
            write(path, data)

        mirror.write_atomically = dying_write

    drive = tmp_path / "drive"
    assert Attempt(tmp_path, "--mirror", str(drive), fault=fault).end() == -signal.SIGKILL
    assert [path.name for path in drive.rglob(".*.partial") if path.name.endswith(f"{name}.partial")]
    check_ends(tmp_path, "--mirror", str(drive))
    assert csv_bytes(study_folder(drive)) == csv_bytes(study_folder(tmp_path))
    assert not list(drive.rglob("*.partial")) and not list(drive.rglob("checkpoint*"))


def children() -> list[int]:
    """Processes that this one has started."""
    return list(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))


STRUCK: dict[str, tuple[Callable[[list[int]], None], int, str]] = {
    # What is struck -> how, given the workers' pids; the study's exit code; what its last line says.
    "study": (die, -signal.SIGKILL, ""),
    "worker": (lambda pids: (os.kill(pids[1], signal.SIGKILL), alive(pids[1])), 1, "error: a worker process was"),
    "all, by Ctrl-C": (
        lambda pids: [os.kill(pid, signal.SIGINT) for pid in (*pids, os.getpid())],
        EXIT_INTERRUPTED,
        "interrupted by SIGINT: state saved",
    ),
}


@pytest.mark.skipif(worker_count(2, 4, CPU) == 1, reason="workers need Linux and no graphics card")
@pytest.mark.parametrize("struck", STRUCK)
def test_study_with_workers(struck: str, tmp_path: Path) -> None:
    strike, code, said = STRUCK[struck]

    def fault() -> None:
        before_episode(12, act, seed=1)
        # By --threads the study itself would use two, which OpenMP does not survive in a fork of this process.
        engine = shard.Engine
        shard.Engine = lambda *arguments, **options: engine(*arguments, **{**options, "threads": 2})

    def act(_: Engine) -> None:
        (tmp_path / "pids").write_text(" ".join(map(str, children())))
        strike(children())

    attempt = Attempt(tmp_path, "--runs-per-shard", "4", fault=fault)
    assert attempt.end() == code
    assert len(attempt.lines()) <= 1 and "".join(attempt.lines()).startswith(said)
    pids = list(map(int, (tmp_path / "pids").read_text().split()))
    assert len(pids) == 2 and not [pid for pid in pids if alive(pid)]
    check_ends(tmp_path, "--runs-per-shard", "4")


def alive(pid: int) -> bool:
    """Whether a process runs, or will in a moment no longer."""
    for _ in range(100):
        try:
            state = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state in "ZX":
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize(("name", "seed", "episode"), [("SIGTERM", 1, 25), ("SIGINT", 2, 1), ("SIGUSR1", 2, 1)])
def test_asked_to_stop(name: str, seed: int, episode: int, tmp_path: Path) -> None:
    """In a shard that has lost a run already, and in the first episode of another."""

    def fault() -> None:
        before_episode(episode, lambda _: os.kill(os.getpid(), signal.Signals[name]), seed)

    attempt = Attempt(tmp_path, fault=fault)
    assert attempt.end() == EXIT_INTERRUPTED == 75
    (line,) = attempt.lines()
    assert line.startswith(f"interrupted by {name}: state saved after episode {episode};")
    assert f"going on with {seed} runs after episode {episode}\n" in check_ends(tmp_path).out


def test_asked_to_stop_at_the_end_of_a_study(tmp_path: Path) -> None:
    """Nothing is left to save then."""
    attempt = Attempt(tmp_path, fault=lambda: before_episode(EPISODES, lambda _: os.kill(os.getpid(), signal.SIGTERM)))
    assert attempt.end() == 0 and attempt.lines() == []
    check_ended(tmp_path)


def test_full_size_stops_soon(tmp_path: Path) -> None:
    """16 runs with networks, replay and batch as in the studies, while they train, with all threads.

    It takes a second or two; a minute is for machines with other work.
    """
    command = [sys.executable, str(SCRIPT), "--checkpoint-minutes", "0.02", "--results-dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            while not list(study_folder(tmp_path).glob("checkpoint/*.json")):
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == EXIT_INTERRUPTED
        finally:
            process.kill()
    assert sum(path.stat().st_size for path in study_folder(tmp_path).glob("checkpoint/*")) > 1e8
