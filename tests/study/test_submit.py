"""A study submitted in parts: killed, interrupted or failing, the same command ends with the bytes of one piece."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults.resume_helpers import ARGUMENTS, csv_bytes, study_folder, tree

from common.study import lock
from common.study.submit import main

ROOT = Path(__file__).resolve().parents[2]
STUDY = [*ARGUMENTS, "--episodes", "100", "--checkpoint-minutes", "0.002"]
# In a process of its own, which ends with its standard input: its threads would not survive the forks of other tests.
CLUSTER = """
import sys, distributed
cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
print(cluster.scheduler_address, *(worker.pid for worker in cluster.workers.values()), flush=True)
sys.stdin.read()
"""
PATIENCE = 200.0  # seconds; a process that takes longer hangs


@functools.cache
def in_one_piece() -> dict[str, bytes]:
    """CSV files of the study trained by its script."""
    with tempfile.TemporaryDirectory() as results:
        script = ROOT / "experiments" / "baseline" / "run_baseline_experiment.py"
        subprocess.run([sys.executable, script, *STUDY, "--results-dir", results], check=True, capture_output=True)
        return csv_bytes(study_folder(Path(results)))


@contextmanager
def submitted(results: Path, *options: str) -> Iterator[subprocess.Popen]:
    """The command that submits the study, in a process."""
    command = [sys.executable, "-m", "common.submit", "baseline", *STUDY, "--results-dir", str(results), *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen) -> tuple[int, str, list[str]]:
    """Exit code, what it printed, and the lines of its standard error."""
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err.splitlines()


def wait_for_checkpoint(part: Path, process: subprocess.Popen) -> None:
    end = time.monotonic() + PATIENCE
    while not list(part.glob("checkpoint/*.json")):
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.02)


def trainer_of(part: Path) -> int:
    """The process that trains a part."""
    return json.loads((part / lock.HOLDER).read_text())["pid"]


def test_processes(tmp_path: Path) -> None:
    """Interrupted, with a second submitter beside it, with a part that fails; each time the same command."""
    options = ("--parts", "3", "--jobs", "2")
    folder = study_folder(tmp_path)
    parts = folder / "parts"
    damaged = parts / "2-of-3" / "rewards.csv"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("seed")
    with submitted(tmp_path, *options) as first:
        wait_for_checkpoint(parts / "1-of-3", first)
        trainer = trainer_of(parts / "1-of-3")
        os.kill(trainer, signal.SIGSTOP)  # it must not finish meanwhile
        with submitted(tmp_path, *options) as second:
            code, _, (line,) = ended(second)
        assert code == 2 and f"pid {first.pid} on host" in line
        first.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        os.kill(trainer, signal.SIGCONT)
        code, _, lines = ended(first)
        assert code == 75 and "interrupted by SIGTERM" in lines[-1]
    with submitted(tmp_path, *options) as again:
        code, out, lines = ended(again)
    assert code == 1 and not (folder / "runs.csv").exists()
    assert out.splitlines()[-1] == "2 of 3 parts finished, 1 failed; 3 of 4 runs"
    assert "2-of-3" in lines[0] and "rewards.csv" in lines[1] and "1 of 3 parts" in lines[-1]
    log = (parts / "logs" / "1-of-3.log").read_text()
    assert "interrupted by SIGTERM: state saved" in log and "going on with" in log
    damaged.unlink()
    finished = {number: tree(parts / f"{number}-of-3") for number in (1, 3)}
    with submitted(tmp_path, *options) as last:
        assert ended(last)[0] == 0
    assert csv_bytes(folder) == in_one_piece()
    assert finished == {number: tree(parts / f"{number}-of-3") for number in (1, 3)}
    assert (parts / "logs" / "1-of-3.log").read_text() == log  # it was not started once more


def parent_of(pid: int) -> int:
    return int(re.search(r"^PPid:\s*(\d+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[1])


@pytest.mark.skipif(sys.platform != "linux", reason="a part dies with its worker on Linux only")
@pytest.mark.skipif(not importlib.util.find_spec("distributed"), reason="requirements-cluster.txt is not installed")
def test_dask_loses_a_worker(tmp_path: Path) -> None:
    """Killed in the middle of a part, which the other worker goes on with."""
    part = study_folder(tmp_path) / "parts" / "1-of-2"
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as cluster:
        address, *workers = cluster.stdout.readline().split()
        with submitted(tmp_path, *f"--parts 2 --backend dask --scheduler {address}".split()) as process:
            wait_for_checkpoint(part, process)
            worker = parent_of(trainer_of(part))
            assert str(worker) in workers
            os.kill(worker, signal.SIGKILL)
            code, _, lines = ended(process)
    assert code == 0, lines
    assert csv_bytes(study_folder(tmp_path)) == in_one_piece()
    log = (part.parent / "logs" / "1-of-2.log").read_text()
    assert "going on with" in log and "is finished" in log


LATER = """
from __future__ import annotations
from dataclasses import dataclass
from common.config import StudyConfig, option
from common.experiment import Experiment

@dataclass(frozen=True)
class Config(StudyConfig):
    gentle: bool = option(False, "annotations that dataclasses look up later")

EXPERIMENT = Experiment("own", "A test.", config=Config)
"""
REFUSED = {
    "nobody": ([], "nobody"),
    "parts": (["--parts", "5"], "5 parts"),
    "no experiment": ([], "EXPERIMENT"),
    "no parts": (["--parts", "0"], "--parts 0"),
    "no jobs": (["--jobs", "0"], "--jobs 0"),
    "part": (["--part", "1/2"], "--part"),
    "fresh": (["--fresh"], "--fresh"),
    "option": (["--gama", "1"], "--gama"),
    "another script's option": (["--gama", "1"], "--gama"),
    "no Slurm package": (["--backend", "slurm"], "requirements-cluster.txt"),
    "another backend's": (["--partition", "gpu"], "--partition"),
    "negative": (["--backend", "slurm", "--minutes", "-5"], "--minutes -5"),
    "no value": (["--backend", "slurm", "--sbatch", "account"], "--sbatch account"),
    "no Dask package": (["--backend", "dask"], "requirements-cluster.txt"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    options, named = REFUSED[what]
    for package in ("submitit", "distributed"):
        monkeypatch.setitem(sys.modules, package, None)
    own = tmp_path / "run_own_experiment.py"
    own.write_text(LATER)
    others = {
        "nobody": "nobody",
        "no experiment": ROOT / "experiments" / "make_zips.py",
        "another script's option": own,
    }
    name = str(others.get(what, "baseline"))
    with pytest.raises(SystemExit) as stop:
        main([name, *STUDY, "--results-dir", str(tmp_path), "--parts", "2", *options])
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and len(lines) == 1 and named in lines[0], lines
