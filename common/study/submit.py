"""Trains a study in parts side by side: hands the missing ones to a scheduler, watches their folders, merges them."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.config import ConfigError, OneLineParser, StudyConfig, leave, parse_command_line
from common.experiment import Experiment
from common.recording.store import finished_runs
from common.study.backends import BACKENDS, ROOT, Dask, Local, Slurm
from common.study.interruption import EXIT_INTERRUPTED, Interrupted, Interruption
from common.study.lock import FolderLock
from common.study.merge import merge
from common.study.parts import PARTS, Part, configuration, split, study_keys
from common.study.runner import REFUSALS, own_results, show_study, study_folder

LOGS = "logs"  # the folder of the parts' logs
OWN_OPTIONS = {"dask": ("scheduler",), "slurm": ("partition", "minutes", "gpus", "cpus", "memory", "sbatch")}
LAST_LINES = 5  # of a failed part's log that are shown


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and merge what the command line names; one line and an exit code where that is not done.

    Exit codes: 2 bad input; 1 parts failed, or the disk; 75 interrupted.
    """
    try:
        said, options = _parser().parse_known_args(arguments)
        study = _study(said, options)
        with Interruption() as interruption, FolderLock(study.folder / PARTS):
            train_parts(study, said, interruption)
            merge(study.folder)
            show_study(study.folder)
    except REFUSALS as problem:
        leave(f"error: {problem}", 2)
    except (OSError, PartsFailed) as problem:
        leave(f"error: {problem}; finished parts are kept, the same command does what is missing", 1)
    except Interrupted as problem:
        leave(f"interrupted by {problem}; the same command goes on from there", EXIT_INTERRUPTED)


class PartsFailed(Exception):
    """Parts ended without having finished their runs; the message is one line."""


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="python -m common.submit",
        usage="%(prog)s EXPERIMENT [its options] --parts N [--backend local|slurm|dask] [options below]",
        description=__doc__,
        epilog="The same command goes on where it ended; Slurm's jobs go on without it.",
        allow_abbrev=False,
    )
    parser.add_argument("experiment", metavar="EXPERIMENT", help="its name, or its script")
    parser.add_argument("--parts", type=int, required=True, metavar="N", help="parts that the study is split into")
    parser.add_argument("--backend", choices=BACKENDS, default="local", help="what runs them (default: local)")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="INT", help="parts that run at a time, or Dask workers here (default: 1)"
    )
    parser.add_argument("--scheduler", default="", metavar="ADDRESS", help="Dask: the cluster's; none: a cluster here")
    parser.add_argument("--partition", default="", metavar="NAME", help="Slurm: the partition")
    parser.add_argument("--minutes", type=int, default=0, metavar="INT", help="Slurm: time of a job, then queued again")
    parser.add_argument("--gpus", type=int, default=0, metavar="INT", help="Slurm: graphics cards of a job")
    parser.add_argument("--cpus", type=int, default=0, metavar="INT", help="Slurm: cores of a job")
    parser.add_argument("--memory", default="", metavar="SIZE", help="Slurm: memory of a job, 8G say")
    parser.add_argument(
        "--sbatch", nargs="+", default=[], metavar="NAME=VALUE", help="Slurm: further options of sbatch, account=me say"
    )
    return parser


@dataclass(frozen=True)
class PartedStudy:
    """A study, its folder, and what trains one part of it."""

    experiment: Experiment
    config: StudyConfig
    folder: Path
    parts: dict[str, Part]
    command: tuple[str, ...]

    def finished(self, part: Part) -> int:
        """Finished runs of a part; StoreError if its folder holds another study."""
        study = {"experiment": self.experiment.name, "configuration": configuration(self.config, part)}
        return len(finished_runs(part.folder(self.folder), study, self.experiment.config().result_fields()))


def _study(said: argparse.Namespace, options: list[str]) -> PartedStudy:
    """What the command line names; ConfigError if there is no such thing."""
    script = _script(said.experiment)
    spec = importlib.util.spec_from_file_location(script.stem, script)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(script.parent))  # as where it runs by itself
    sys.modules[spec.name] = module  # where dataclasses look for their annotations
    spec.loader.exec_module(module)
    experiment = getattr(module, "EXPERIMENT", None)
    if not isinstance(experiment, Experiment):
        raise ConfigError(f"{script}: defines no EXPERIMENT; allowed: a script like docs/add_an_experiment.md's")
    experiment.check()
    hidden = {field.name for field in dataclasses.fields(experiment.config)} & set(vars(said))
    if hidden:
        raise ConfigError(f"experiment {experiment.name}: its option {min(hidden)} has a name of common.submit's")
    config, its = parse_command_line(experiment, options)
    if its.fresh or its.part is not None:
        raise ConfigError(
            f"--{'fresh' if its.fresh else 'part'}: not with common.submit; allowed: the experiment's other options "
            f"(to start over, move the folder {PARTS} aside)"
        )
    for name in ("parts", "jobs", "minutes", "gpus", "cpus"):
        least = 1 if name in ("parts", "jobs") else 0
        if getattr(said, name) < least:
            raise ConfigError(f"--{name} {getattr(said, name)}: allowed: {least} or more")
    for backend, names in OWN_OPTIONS.items():
        given = [name for name in names if getattr(said, name)]
        if given and said.backend != backend:
            raise ConfigError(f"--{given[0]}: allowed: with --backend {backend}, not {said.backend}")
    config = config if its.results_dir_given else own_results(config)
    folders = {name: _absolute(getattr(config, name)) for name in ("results_dir", "mirror", "tensorboard")}
    config = replace(config, **folders)
    command = [str(script), *options]
    for name, place in folders.items():
        command += [f"--{name.replace('_', '-')}", place] if place else []
    numbers = range(1, len(split(study_keys(config), said.parts)) + 1)
    parts = {f"{number}-of-{said.parts}": Part(number, said.parts) for number in numbers}
    return PartedStudy(experiment, config, study_folder(config, experiment, its.quick), parts, tuple(command))


def _absolute(folder: str) -> str:
    """The same folder wherever a part is started; nothing stays nothing."""
    return folder and str(Path(folder).resolve())


def _script(name: str) -> Path:
    """An experiment's script: a file, or by name as the repository or a zip has it."""
    file = f"run_{name}_experiment.py"
    found = [path for path in (Path(name), ROOT / "experiments" / name / file, ROOT / file) if path.is_file()]
    if not found or found[0].suffix != ".py":
        raise ConfigError(f"{name}: no such experiment; allowed: a folder of experiments/, or a script")
    return found[0].resolve()


def train_parts(study: PartedStudy, said: argparse.Namespace, interruption: Interruption) -> None:
    """Train the parts that are not finished; returns when all are. Raises PartsFailed and Interrupted.

    Whether a part is finished is read off its folder, before it is started and while it trains.
    """
    shares = split(study_keys(study.config), said.parts)
    sizes = {name: len(runs) for name, runs in zip(study.parts, shares, strict=True)}
    done = {name: study.finished(part) for name, part in study.parts.items()}
    missing = [name for name in sizes if done[name] < sizes[name]]
    if not missing:
        return
    logs = {name: study.folder / PARTS / LOGS / f"{name}.log" for name in sizes}
    (study.folder / PARTS / LOGS).mkdir(exist_ok=True)
    backend: Local | Slurm | Dask = BACKENDS[said.backend](said, study.folder / PARTS / LOGS)
    starting = [sys.executable, "-m", "common.study.job"]
    failed, told = [], ""
    try:
        backend.start(
            {name: [*starting, str(logs[name]), *study.command, "--part", str(study.parts[name])] for name in missing}
        )
        while not interruption.name:
            alive = backend.alive()  # asked first: what ends a moment later is looked at in the next round
            done |= {name: study.finished(study.parts[name]) for name in missing}
            missing = [name for name in missing if done[name] < sizes[name]]
            failed = [name for name in missing if name not in alive]
            line = f"{len(sizes) - len(missing)} of {len(sizes)} parts finished"
            line += f", {len(failed)} failed" if failed else ""
            line += f"; {sum(done.values())} of {sum(sizes.values())} runs"
            if line != told:
                print(line, flush=True)
            told = line
            if not alive:
                break
            waited = time.monotonic() + backend.poll_seconds
            while time.monotonic() < waited and not interruption.name:
                time.sleep(0.1)
    finally:
        left = backend.stop()
    for name in failed:
        print(f"part {name} failed; the end of {logs[name]}:\n{_last_lines(logs[name])}", file=sys.stderr)
    if interruption.name and missing:
        raise Interrupted(f"{interruption.name}: {left}")
    if missing:
        raise PartsFailed(f"{study.folder}: {len(failed)} of {len(sizes)} parts failed")


def _last_lines(log: Path) -> str:
    """The end of a log, or that there is none."""
    try:
        return "\n".join(f"  {line}" for line in log.read_text(errors="replace").splitlines()[-LAST_LINES:])
    except OSError as problem:
        return f"  {problem}"
