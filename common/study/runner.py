"""One experiment from the command line to figures and summary: open the folder, train, record, close."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from common.agents.checks import check_parts
from common.agents.reports import RunKey
from common.analysis.figures import save_study_figures
from common.analysis.summary import study_summary
from common.config import ConfigError, StudyConfig, leave, parse_command_line
from common.environment.reference_policies import evaluate_references
from common.experiment import Experiment
from common.recording.results import ResultsError, load_study
from common.recording.store import StoreError
from common.recording.tensorboard import Board
from common.study.checkpoint import CheckpointError
from common.study.folder import StudyFolder, open_study, warn
from common.study.interruption import EXIT_INTERRUPTED, Interrupted, Interruption
from common.study.lock import LockError
from common.study.parts import Part, configuration, study_keys
from common.study.shard import Shard
from common.training import memory, runtime
from common.training.engine import runs_per_shard

RECORDED_MARK = "RECORDED.md"  # in a results root that holds the repository's committed results
OWN_RESULTS = "my_results"
REFUSALS = (ConfigError, StoreError, CheckpointError, LockError, ResultsError)


def main(experiment: Experiment, arguments: Sequence[str] | None = None) -> None:
    """Run an experiment from the command line; one line and an exit code where it cannot go on.

    Exit codes: 2 bad input; 1 the disk failed (training state is kept); 75 interrupted, state saved.
    """
    try:
        experiment.check()
        _check_script(experiment)
        config, said = parse_command_line(experiment, arguments)
        if not said.results_dir_given:
            config = own_results(config)
        part = None if said.part is None else Part.parse(said.part)
        run_study(experiment, config, quick=said.quick, fresh=said.fresh, part=part)
    except REFUSALS as problem:
        leave(f"error: {problem}", 2)
    except (MemoryError, RuntimeError) as problem:  # the CPU's allocator raises a plain RuntimeError
        if not isinstance(problem, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in str(problem):
            raise
        first = (str(problem).splitlines() or ["no more"])[0]
        leave(f"error: out of memory ({first}); finished runs are kept; allowed: fewer --runs-per-shard", 1)
    except OSError as problem:
        leave(f"error: {problem}; finished runs and the last checkpoint are kept, the same command goes on", 1)
    except Interrupted as problem:
        leave(f"interrupted by {problem}; the same command goes on from there", EXIT_INTERRUPTED)


def _check_script(experiment: Experiment) -> None:
    """ConfigError if the script is called like another experiment's, whose results it would take for its own."""
    script = Path(sys.argv[0])
    named = re.fullmatch(r"run_(\w+)_experiment", script.stem)
    if named and named[1] != experiment.name:
        raise ConfigError(f"{script.name}: its experiment has name={experiment.name!r}; allowed: {named[1]!r}")


def own_results(config: StudyConfig) -> StudyConfig:
    """Where no folder was named, keep away from a root that holds the repository's recorded results."""
    if not (Path(config.results_dir) / RECORDED_MARK).exists():
        return config
    print(f"{config.results_dir}/ holds the repository's recorded results; yours go to {OWN_RESULTS}/")
    return replace(config, results_dir=OWN_RESULTS)


def run_study(
    experiment: Experiment,
    config: StudyConfig,
    *,
    quick: bool = False,
    fresh: bool = False,
    part: Part | None = None,
) -> Path:
    """Train every run of the study, or of one part of it, that is not finished yet; returns the results folder.

    `fresh` moves what the folder holds aside first. Raises what `main` turns into exit codes.
    """
    keys = study_keys(config)
    keys = part.of(keys) if part else keys
    board = Board(config, experiment.name) if config.tensorboard else None
    device = runtime.choose_device(config.device)
    memory.keep_freed_memory()
    threads = runtime.set_threads(config.threads)
    torch.backends.cuda.matmul.allow_tf32 = config.tf32
    size = runs_per_shard(experiment, config, device)
    check_parts(experiment, config)  # which makes some of these networks, so there must be memory for them
    folder = study_folder(config, experiment, quick, part)
    opened = open_study(
        folder,
        experiment.name,
        configuration(config, part),
        {"commit": runtime.code_commit(), **runtime.versions(), "device": runtime.device_name(device)},
        defaults=experiment.config().result_fields(),
        mirror_folder=_mirror_folder(config, experiment, folder, quick, part),
        fresh=fresh,
    )
    with Interruption() as interruption, opened as study:
        missing = [key for key in keys if key not in study.store.finished()]
        print(
            f"{experiment.name} on {config.env}{f', part {part}' if part else ''}: {len(missing)} of {len(keys)} runs "
            f"to train, {config.episodes} episodes, {config.agents} agents, {runtime.device_name(device)}, "
            f"{threads} threads"
        )
        if not missing and study.provenance["commit"] not in [made.get("commit") for made in study.store.made_by]:
            warn("all runs were finished by other code than today's; --fresh trains them anew")
        if missing:
            _train(experiment, config, device, study, missing, size, interruption, board)
        else:
            study.drop_finished_checkpoint()
        study.drop_leftovers()
        if not part:
            show_study(folder)
    if part:
        print(f"part {part} is finished: {folder}; python -m common.merge {folder.parents[1]} puts the parts together")
    return folder


def show_study(folder: Path) -> None:
    """Put figures and report into a finished study's folder, print its summary. Raises ResultsError and OSError."""
    from common.analysis.report import save_study_report  # not above: with it comes scipy, which takes a second

    results = load_study(folder)
    for path in save_study_figures(results):
        print(f"figure: {path}")
    print(f"report: {save_study_report(results)}")
    print(study_summary(results))
    print(f"results: {folder}")


def study_folder(config: StudyConfig, experiment: Experiment, quick: bool, part: Part | None = None) -> Path:
    """Where the results of a study, or of one part of it, lie: <results-dir>[/quick]/<preset>/<experiment>."""
    folder = Path(config.results_dir, *(("quick",) if quick else ()), config.env, experiment.name)
    return part.folder(folder) if part else folder


def _mirror_folder(
    config: StudyConfig, experiment: Experiment, folder: Path, quick: bool, part: Part | None
) -> Path | None:
    """Where the study's copies go; ConfigError if that is the results folder itself."""
    if not config.mirror:
        return None
    there = study_folder(replace(config, results_dir=config.mirror), experiment, quick, part)
    if there.resolve() == folder.resolve():
        raise ConfigError(f"--mirror {config.mirror}: is the results folder itself; allowed: another folder")
    return there


def _train(
    experiment: Experiment,
    config: StudyConfig,
    device: torch.device,
    study: StudyFolder,
    missing: list[RunKey],
    size: int,
    interruption: Interruption,
    board: Board | None,
) -> None:
    """Train the missing runs in shards of up to `size`, the one of the checkpoint first."""
    state = study.checkpoints.load()
    resumed = [RunKey(*key) for key in state[1]["runs"]] if state else []
    stray = [key for key in resumed if key not in missing and key not in study.store.finished()]
    if stray:
        raise CheckpointError(
            f"{study.path}: holds a checkpoint of runs that were not asked for, {stray[0]} among them; "
            "allowed: the command that was interrupted, or --fresh"
        )
    references = _references(config, study, sorted({key.seed for key in {*missing, *study.store.finished()}}))
    untouched = [key for key in missing if key not in resumed]
    shards = [untouched[a : a + size] for a in range(0, len(untouched), size)]
    plan = [(f"shard {number}/{len(shards)}", keys) for number, keys in enumerate(shards, start=1)]
    if shards:
        print(f"{len(shards)} shard(s) of up to {size} runs")
    start, episodes, seconds, worker_bytes = time.perf_counter(), 0, Counter(), 0
    for title, keys in [("resumed", resumed), *plan] if state else plan:
        shard = Shard(experiment, config, keys, device, study, references, board)
        with contextlib.closing(shard.engine):
            if state:
                shard.load(*state)
                state = None  # its memory is for training
                print(f"going on with {len(shard.tracker.records)} runs after episode {shard.engine.episode}")
            episodes += shard.train(title, interruption)
        seconds.update(shard.engine.timer.seconds)
        worker_bytes = max(worker_bytes, shard.engine.workers.peak_bytes)
        del shard  # before the next takes as much memory
    elapsed = time.perf_counter() - start
    total = sum(seconds.values())
    print(
        f"trained {episodes} run-episodes in {elapsed:.0f} s: {episodes / elapsed:.1f} run-episodes per second; "
        f"peak memory {(memory.peak_bytes(device) + worker_bytes) / 2**30:.2f} GiB\ntime by phase: "
        + ", ".join(f"{name} {spent / total:.0%}" for name, spent in seconds.most_common())
    )


def _references(config: StudyConfig, study: StudyFolder, seeds: list[int]) -> dict[int, dict[str, float]]:
    """Reference returns by seed and policy, also written to the folder."""
    found = evaluate_references(config, seeds)
    study.begin([asdict(result) for result in found])
    returns: dict[int, dict[str, float]] = {seed: {} for seed in seeds}
    for result in found:
        returns[result.seed][result.policy] = result.evaluation_return
    return returns
