"""A study that is killed or asked to stop, at any moment, ends with the same bytes after the same command."""

from __future__ import annotations

import itertools
import os
import random
import select
import signal
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
    csv_bytes,
    die,
    stop_before,
    study_folder,
)
from helpers import CPU, experiments
from training.variants import VARIANTS

from common.agents.reports import RunKey
from common.study import shard
from common.study.checkpoint import Checkpoints
from common.study.generations import Generations
from common.study.interruption import EXIT_INTERRUPTED
from common.study.shard import Engine
from common.training.workers import worker_count

KILLS = int(os.environ.get("KILLS", 25))


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
            killed += attempt.kill() == -signal.SIGKILL
            attempt = Attempt(folder)
        assert attempt.wait() == 0, attempt.lines()
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


def at(number: int, owner: object, name: str, ending: str = "") -> Fault:
    """Die at the `number`-th call of a function; of those whose last argument is a path that ends so, if one is."""

    def fault() -> None:
        function, count = getattr(owner, name), itertools.count(1)

        def dying(*arguments: object, **options: object) -> object:
            if str(arguments[-1]).endswith(ending) and next(count) == number:
                die()
            return function(*arguments, **options)

        setattr(owner, name, dying)

    return fault


MOMENTS: dict[str, tuple[Fault, str]] = {
    # Moment -> fault, and a file that shows that it happened there.
    "data written, not renamed": (at(1, os, "replace", "3.data"), "checkpoint/.checkpoint-000003.data.partial"),
    "data there, manifest not": (at(1, os, "replace", "3.json"), "checkpoint/.checkpoint-000003.json.partial"),
    "three generations": (at(3, Generations, "remove"), "checkpoint/checkpoint-000003.json"),
    "between two CSV files": (at(2, os, "replace", "saturation.csv"), ".saturation.csv.*"),
    "before runs.csv": (at(2, os, "replace", "runs.csv"), ".runs.csv.*"),
    "finished run in an older checkpoint": (at(1, Checkpoints, "clear"), "checkpoint/checkpoint-*.json"),
    "finished shard's checkpoint half removed": (at(1, Path, "unlink", "6.data"), "checkpoint/checkpoint-000007.json"),
    "all runs finished, the checkpoint there": (at(2, Checkpoints, "clear"), "checkpoint/checkpoint-*.json"),
    "all runs finished, its folder there": (at(2, Path, "rmdir", "checkpoint"), "checkpoint"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_this_moment(moment: str, tmp_path: Path) -> None:
    fault, trace = MOMENTS[moment]
    assert Attempt(tmp_path, fault=fault).wait() == -signal.SIGKILL
    assert list(study_folder(tmp_path).glob(trace))
    out = check_ends(tmp_path).out
    assert moment != "finished run in an older checkpoint" or "going on with 0 runs" in out  # it is not trained again


@pytest.mark.parametrize(
    "name", ["checkpoint/checkpoint-000002.data", "checkpoint/checkpoint-000001.json", "rewards.csv", "runs.csv"]
)
def test_killed_while_mirroring(name: str, tmp_path: Path) -> None:
    drive = tmp_path / "drive"
    target = study_folder(drive) / name
    assert Attempt(tmp_path, "--mirror", str(drive), fault=at(1, os, "replace", str(target))).wait() == -signal.SIGKILL
    assert target.with_name(f".{target.name}.partial").exists()
    check_ends(tmp_path, "--mirror", str(drive))
    assert csv_bytes(study_folder(drive)) == csv_bytes(study_folder(tmp_path))
    assert not list(drive.rglob("*.partial")) and not list(drive.rglob("checkpoint*"))


def ended(pid: int) -> bool:
    """Whether a process, whoever waits for it, ends within a few seconds."""
    try:
        return select.select([os.pidfd_open(pid)], [], [], 5.0)[0] != []
    except ProcessLookupError:
        return True


STRUCK: dict[str, tuple[Callable[[list[int]], None], int, str]] = {
    # What is struck -> how, given the workers' pids; the study's exit code; what its last line says.
    "study": (die, -signal.SIGKILL, ""),
    "worker": (lambda pids: (os.kill(pids[1], signal.SIGKILL), ended(pids[1])), 1, "error: a worker process was"),
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
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
        (tmp_path / "pids").write_text(children)
        strike([int(pid) for pid in children.split()])

    attempt = Attempt(tmp_path, "--runs-per-shard", "4", fault=fault)
    assert attempt.wait() == code
    assert len(attempt.lines()) <= 1 and "".join(attempt.lines()).startswith(said)
    assert [ended(int(pid)) for pid in (tmp_path / "pids").read_text().split()] == [True, True]
    check_ends(tmp_path, "--runs-per-shard", "4")


@pytest.mark.parametrize(("name", "seed", "episode"), [("SIGTERM", 1, 25), ("SIGINT", 2, 1), ("SIGUSR1", 2, 1)])
def test_asked_to_stop(name: str, seed: int, episode: int, tmp_path: Path) -> None:
    """In a shard that has lost a run already, and in the first episode of another."""
    attempt = Attempt(tmp_path, fault=stop_before(episode, signal.Signals[name], seed))
    assert attempt.wait() == EXIT_INTERRUPTED == 75
    (line,) = attempt.lines()
    assert line.startswith(f"interrupted by {name}: state saved after episode {episode};")
    assert f"going on with {seed} runs after episode {episode}\n" in check_ends(tmp_path).out


def test_asked_to_stop_at_the_end_of_a_study(tmp_path: Path) -> None:
    """Nothing is left to save then."""
    assert check_ends(tmp_path, fault=stop_before(EPISODES)).lines() == []
