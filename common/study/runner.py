"""One experiment from the command line to figures and summary: seeds, shards, resuming."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path

import torch

from common.agents.reports import RunKey
from common.analysis.figures import save_study_figures
from common.analysis.summary import study_summary
from common.config import ConfigError, StudyConfig, parse_command_line, results_folder
from common.environment.mec_env import STEPS
from common.environment.reference_policies import evaluate_references
from common.experiment import Experiment
from common.recording import schema
from common.recording.results import ResultsError, load_study
from common.recording.store import STUDY, ResultsStore, RunTable, StoreError
from common.study.checkpoint import CheckpointError, Checkpoints
from common.study.interruption import EXIT_INTERRUPTED, Interrupted, Interruption
from common.study.lock import NAME as LOCK_NAME
from common.study.lock import FolderLock, LockError
from common.study.mirror import Mirror
from common.study.shard import ShardTrainer
from common.training import memory, runtime

MOST_RUNS_PER_SHARD = {"cpu": 48, "cuda": 320}
RECORDED_MARK = "RECORDED.md"  # in a results root that holds the repository's committed results
OWN_RESULTS = "my_results"
STATE_FORMAT = 1  # of what a checkpoint holds; raise it when an older one can no longer be continued
FLUSH_SECONDS = 60.0  # how long the end of a study waits for its mirror
LEAVING_SECONDS = 5.0  # how long an interrupted one does
REFUSALS = (ConfigError, StoreError, CheckpointError, LockError, ResultsError)


def main(experiment: Experiment, arguments: Sequence[str] | None = None) -> None:
    """Run an experiment from the command line; one line and an exit code where it cannot go on.

    Exit codes: 2 bad input; 1 the disk failed (training state is kept); 75 interrupted, state saved.
    """
    config, said = parse_command_line(
        experiment.description, dict(experiment.overrides), None if arguments is None else list(arguments)
    )
    try:
        if not said.results_dir_given:
            config = _own_results(config)
        run_study(experiment, config, quick=said.quick, fresh=said.fresh)
    except REFUSALS as problem:
        _leave(f"error: {problem}", 2)
    except OSError as problem:
        _leave(f"error: {problem}; finished runs and the last checkpoint are kept, the same command goes on", 1)
    except Interrupted as problem:
        _leave(f"interrupted by {problem}; the same command goes on from there", EXIT_INTERRUPTED)


def _leave(line: str, code: int) -> None:
    print(line, file=sys.stderr)
    raise SystemExit(code) from None


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr)


def _own_results(config: StudyConfig) -> StudyConfig:
    """Where no folder was named, keep away from a root that holds the repository's recorded results."""
    if not (Path(config.results_dir) / RECORDED_MARK).exists():
        return config
    print(f"{config.results_dir}/ holds the repository's recorded results; yours go to {OWN_RESULTS}/")
    return replace(config, results_dir=OWN_RESULTS)


def run_study(experiment: Experiment, config: StudyConfig, *, quick: bool = False, fresh: bool = False) -> Path:
    """Train every run of the study that is not finished yet; returns the results folder.

    `fresh` moves what the folder holds aside first. Raises what `main` turns into exit codes.
    """
    device = runtime.choose_device(config.device)
    memory.keep_freed_memory()
    threads = runtime.set_threads(config.threads)
    torch.backends.cuda.matmul.allow_tf32 = config.tf32
    folder = results_folder(config, experiment.name, quick)
    mirror = _mirror(config, experiment, folder, quick)
    with FolderLock(folder), Interruption() as interruption:
        if fresh:
            _move_aside(folder)
            if mirror and mirror.folder.exists():
                _move_aside(mirror.folder)
        elif mirror and mirror.restore_results(folder):
            print(f"finished runs restored from {mirror.folder}")
        store = ResultsStore(folder, experiment.name, config.result_fields())
        if mirror:
            _check_mirror(mirror, store)
        keys = [RunKey(*key) for key in itertools.product(sorted(config.seeds), config.actor_lrs, config.critic_lrs)]
        missing = [key for key in keys if key not in store.finished()]
        print(
            f"{experiment.name} on {config.env}: {len(missing)} of {len(keys)} runs to train, "
            f"{config.episodes} episodes, {config.agents} agents, {runtime.device_name(device)}, {threads} threads"
        )
        if missing:
            try:
                _train(experiment, config, device, store, missing, mirror, interruption)
            except Interrupted:
                if mirror:
                    mirror.flush(LEAVING_SECONDS)
                raise
        elif store.has_leftovers():
            store.write()
        study = load_study(folder)
        for path in save_study_figures(study):
            print(f"figure: {path}")
        if mirror:
            mirror.push_results(folder)
            if not mirror.flush(FLUSH_SECONDS):
                _warn(f"{mirror.folder}: the copies are not complete; the same command tries again")
    print(study_summary(study))
    print(f"results: {folder}")
    return folder


def _mirror(config: StudyConfig, experiment: Experiment, folder: Path, quick: bool) -> Mirror | None:
    """The study's mirror; ConfigError if it would be the results folder itself or holds another study's results."""
    if not config.mirror:
        return None
    there = results_folder(replace(config, results_dir=config.mirror), experiment.name, quick)
    if there.resolve() == folder.resolve():
        raise ConfigError(f"--mirror {config.mirror}: is the results folder itself; allowed: another folder")
    return Mirror(there, warn=_warn)


def _check_mirror(mirror: Mirror, store: ResultsStore) -> None:
    """StoreError if the mirror holds another configuration's results, or finished runs that this folder lacks."""
    try:
        study = json.loads((mirror.folder / STUDY).read_text())
        mirrored = set(RunTable(mirror.folder / schema.RUNS).lines)
    except (OSError, ValueError):
        return  # cannot be read just now; the copies of this study will replace it
    # A field that is younger than the mirror had its default then.
    study["configuration"] = {**StudyConfig().result_fields(), **study.get("configuration", {})}
    if any(study.get(name) != value for name, value in store.study.items()) or mirrored - store.finished():
        raise StoreError(
            f"{mirror.folder}: holds results that {store.folder} lacks; allowed: an empty results folder, which is "
            "then restored from the mirror, or another --mirror"
        )


def _move_aside(folder: Path) -> None:
    """Move all that the folder holds to a new folder beside it."""
    old = [path for path in folder.iterdir() if path.name != LOCK_NAME]
    if not old:
        return
    aside = folder.with_name(f"{folder.name}.before-{datetime.now():%Y%m%d-%H%M%S-%f}")
    aside.mkdir()
    for path in old:
        path.rename(aside / path.name)
    print(f"earlier results moved to {aside}")


def _references(config: StudyConfig, store: ResultsStore, seeds: list[int]) -> dict[int, dict[str, float]]:
    """Reference returns by seed and policy, also written to the folder."""
    found = evaluate_references(config, seeds)
    store.write_references([asdict(result) for result in found])
    returns: dict[int, dict[str, float]] = {seed: {} for seed in seeds}
    for result in found:
        returns[result.seed][result.policy] = result.evaluation_return
    return returns


def runs_per_shard(config: StudyConfig, device: torch.device, run_bytes: int) -> int:
    """How many runs train together: as asked, or as fit into half of the free memory."""
    if config.runs_per_shard:
        return config.runs_per_shard
    fitting = memory.free_bytes(device) // (2 * run_bytes)
    return max(1, min(MOST_RUNS_PER_SHARD[device.type], int(fitting)))


def bytes_per_run(experiment: Experiment, config: StudyConfig) -> int:
    """Memory of one run: replay, and parameters with their moments, gradients and copies."""
    actor = experiment.actor_class(config.actor_hidden).layout.size * config.agents
    critic = experiment.critic_class(config.agents, config.critic_hidden).layout.size
    transitions = min(config.replay_capacity, config.episodes * STEPS)
    numbers = transitions * config.agents * 11 + (actor + critic) * 6
    return numbers * (8 if config.dtype == "float64" else 4)


def _train(
    experiment: Experiment,
    config: StudyConfig,
    device: torch.device,
    store: ResultsStore,
    missing: list[RunKey],
    mirror: Mirror | None,
    interruption: Interruption,
) -> None:
    """Train the missing runs shard by shard, the one of the checkpoint first."""
    environment = {**runtime.versions(), "device": runtime.device_name(device)}
    checkpoints = Checkpoints(
        store.folder / "checkpoint",
        {"state_format": STATE_FORMAT, **store.study},
        environment,
        warn=_warn,
        mirror=mirror,
    )
    state = checkpoints.load()
    resumed = [RunKey(*key) for key in state[1]["runs"]] if state else []
    stray = [key for key in resumed if key not in missing and key not in store.finished()]
    if stray:
        raise CheckpointError(
            f"{checkpoints.folder}: holds a checkpoint of runs that were not asked for, {stray[0]} among them; "
            "allowed: the command that was interrupted, or --fresh"
        )
    store.describe({"commit": runtime.code_commit(), **environment})
    seeds = sorted({key.seed for key in missing} | {key.seed for key in store.finished()})
    references = _references(config, store, seeds)

    def trainer(keys: list[RunKey]) -> ShardTrainer:
        return ShardTrainer(experiment, config, keys, device, store, references, checkpoints=checkpoints, mirror=mirror)

    start, episodes, seconds, worker_bytes = time.perf_counter(), 0, Counter(), 0

    def train(shard: ShardTrainer, title: str) -> None:
        nonlocal episodes, worker_bytes
        episodes += shard.train(title, interruption)
        seconds.update(shard.timer.seconds)
        worker_bytes = max(worker_bytes, shard.learner.workers.peak_bytes)

    if state:
        shard = trainer(resumed)
        shard.load(*state)
        print(f"going on with {len(shard.tracker.records)} runs after episode {shard.learner.episode}")
        del state
        train(shard, "resumed")
        del shard  # its memory is for the next
        missing = [key for key in missing if key not in resumed]
    size = runs_per_shard(config, device, bytes_per_run(experiment, config))
    shards = [missing[a : a + size] for a in range(0, len(missing), size)]
    if shards:
        print(f"{len(shards)} shard(s) of up to {size} runs")
    for number, keys in enumerate(shards, start=1):
        train(trainer(keys), f"shard {number}/{len(shards)}")
    elapsed = time.perf_counter() - start
    total = sum(seconds.values())
    print(
        f"trained {episodes} run-episodes in {elapsed:.0f} s: {episodes / elapsed:.1f} run-episodes per second; "
        f"peak memory {(memory.peak_bytes(device) + worker_bytes) / 2**30:.2f} GiB\ntime by phase: "
        + ", ".join(f"{name} {spent / total:.0%}" for name, spent in seconds.most_common())
    )
