"""What runs the parts of a study: processes here, Slurm through submitit, or Dask through distributed.

A backend starts commands and says which are still alive; whether a part is finished only its folder tells.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from common.config import ConfigError
from common.recording.store import write_atomically

ROOT = Path(__file__).resolve().parents[2]  # where `common` can be imported
ARRAY = 500  # jobs in one Slurm array: sites allow 1,001 unless they say otherwise
ENDED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT")
TIMEOUTS = 10_000  # times that Slurm may queue a part anew whose time was over

Commands = Mapping[str, list[str]]  # part -> its command


def _needed(package: str, backend: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ConfigError(
            f"--backend {backend}: needs the package {package}, as in requirements-cluster.txt: pip install {package}"
        ) from None


class Local:
    """Processes of this computer, `jobs` at a time."""

    poll_seconds = 0.5

    def __init__(self, said: argparse.Namespace, folder: Path):
        """`said.jobs` is how many."""
        self.jobs = said.jobs
        self.waiting: dict[str, list[str]] = {}
        self.running: dict[str, subprocess.Popen] = {}

    def start(self, commands: Commands) -> None:
        """Take these."""
        self.waiting.update(commands)

    def alive(self) -> set[str]:
        """Parts that run or wait; starts those for which there is room now."""
        self.running = {part: process for part, process in self.running.items() if process.poll() is None}
        while self.waiting and len(self.running) < self.jobs:
            part = next(iter(self.waiting))
            # In a session of its own: Ctrl-C reaches it through `stop` only, once.
            process = subprocess.Popen(self.waiting.pop(part), cwd=ROOT, start_new_session=True)
            self.running[part] = process
        return {*self.running, *self.waiting}

    def stop(self) -> str:
        """Let what still runs save its state; says what became of the parts."""
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            process.wait()
        return "what ran has saved its state"


class Slurm:
    """Jobs of a Slurm cluster, remembered in a file, so that nobody queues a part twice."""

    poll_seconds = 15.0

    def __init__(self, said: argparse.Namespace, folder: Path):
        """`folder` is shared by all nodes. ConfigError where there is no submitit or no Slurm."""
        odd = [pair for pair in said.sbatch if "=" not in pair]
        if odd:
            raise ConfigError(f"--sbatch {odd[0]}: allowed: NAME=VALUE")
        submitit = _needed("submitit", "slurm")
        self.refusal = submitit.core.utils.FailedJobError
        self.file = folder / "slurm_jobs.json"
        try:
            self.ids: dict[str, str] = json.loads(self.file.read_text()) if self.file.exists() else {}
        except ValueError:
            raise ConfigError(f"{self.file}: damaged; without it, jobs that are queued would be queued again") from None
        self.queued: set[str] = set()
        try:
            self.executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=TIMEOUTS)
        except RuntimeError as problem:
            raise ConfigError(f"--backend slurm: {problem}") from None
        asked = {
            "slurm_partition": said.partition,
            "timeout_min": said.minutes,
            "gpus_per_node": said.gpus,
            "cpus_per_task": said.cpus,
            "slurm_mem": said.memory,
            "slurm_array_parallelism": said.jobs,
            "slurm_additional_parameters": dict(pair.split("=", 1) for pair in said.sbatch),
        }
        self.executor.update_parameters(
            name=folder.parents[1].name,
            slurm_setup=[f"export PYTHONPATH={ROOT}"],
            **{name: value for name, value in asked.items() if value},
        )

    def start(self, commands: Commands) -> None:
        """Queue these, but for those that an earlier submitter has queued."""
        self._ask()
        left = [part for part in commands if self.ids.get(part) not in self.queued]
        for first in range(0, len(left), ARRAY):
            parts = left[first : first + ARRAY]
            try:
                with self.executor.batch():
                    jobs = [self.executor.submit(SlurmJob(commands[part])) for part in parts]
            except self.refusal as problem:
                raise ConfigError(f"--backend slurm: {' '.join(str(problem).split())}") from None
            self.ids |= {part: job.job_id for part, job in zip(parts, jobs, strict=True)}
            self.queued |= {job.job_id for job in jobs}
            write_atomically(self.file, json.dumps(self.ids).encode())

    def alive(self) -> set[str]:
        """Parts that run or wait."""
        self._ask()
        return {part for part, job in self.ids.items() if job in self.queued}

    def stop(self) -> str:
        """Leave the jobs to Slurm; says what becomes of the parts."""
        return "the jobs stay in Slurm's queue"

    def _ask(self) -> None:
        """Ask Slurm what is queued or runs; what it said before holds while it does not answer."""
        everything = "--states=all"  # a requeued job's, too
        command = ["squeue", "--me", "--noheader", "--array", everything, "--format=%i %T"]
        asked = subprocess.run(command, capture_output=True, text=True)
        if asked.returncode == 0:
            states = dict(line.split() for line in asked.stdout.splitlines())
            self.queued = {job for job, state in states.items() if state not in ENDED}


class SlurmJob:
    """One part's command in a Slurm job; submitit calls `checkpoint` when Slurm is about to end it."""

    def __init__(self, command: list[str]):
        """Not started yet."""
        self.command = command

    def __call__(self) -> int:
        """The command's exit code."""
        self.process = subprocess.Popen(self.command, cwd=ROOT)
        return self.process.wait()

    def checkpoint(self) -> object:
        """Let the part save its state; what Slurm shall queue again."""
        self.process.terminate()
        with contextlib.suppress(ChildProcessError):  # not `wait`, whose lock this thread may hold
            os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        return importlib.import_module("submitit").helpers.DelayedSubmission(SlurmJob(self.command))


class Dask:
    """Tasks of a Dask cluster, which starts those of a lost worker elsewhere."""

    poll_seconds = 1.0

    def __init__(self, said: argparse.Namespace, folder: Path):
        """The cluster of `said.scheduler`, or one of `said.jobs` workers here. ConfigError where there is none."""
        distributed = _needed("distributed", "dask")
        self.cluster = None
        if not said.scheduler:
            self.cluster = distributed.LocalCluster(
                n_workers=said.jobs, threads_per_worker=1, dashboard_address=None, memory_limit=None
            )
        try:
            self.client = distributed.Client(self.cluster or said.scheduler)
        except (OSError, ValueError) as problem:
            raise ConfigError(f"--scheduler {said.scheduler}: no Dask scheduler answers there ({problem})") from None

    def start(self, commands: Commands) -> None:
        """Submit these."""
        self.futures = {
            part: self.client.submit(subprocess.call, command, cwd=str(ROOT), pure=False)
            for part, command in commands.items()
        }

    def alive(self) -> set[str]:
        """Parts that run or wait."""
        return {part for part, future in self.futures.items() if not future.done()}

    def stop(self) -> str:
        """Drop what waits, and close a cluster of our own; says what becomes of the parts."""
        self.client.close()
        if self.cluster:
            self.cluster.close()
            return "what ran was ended"
        return "what runs on the cluster goes on"


BACKENDS = {"local": Local, "slurm": Slurm, "dask": Dask}
