"""The loop over seeds and shards of one experiment, from the command line to figures and summary."""

from __future__ import annotations

import itertools
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from common import runtime, schema
from common.config import ConfigError, StudyConfig, parse_command_line, results_folder
from common.episode_graph import EpisodeGraphs, capture_on_cuda
from common.figures import save_study_figures
from common.learner import Learner
from common.mec_env import STEPS
from common.networks import Actor, Critic
from common.phases import PhaseTimer
from common.reference_policies import evaluate_references
from common.reports import RunKey
from common.results import load_study
from common.store import ResultsStore, StoreError
from common.summary import study_summary
from common.tracking import CHECK_EVERY, FIRST_TRAINED_EPISODE, Tracker

MOST_RUNS_PER_SHARD = {"cpu": 48, "cuda": 320}
RECORDED_MARK = "RECORDED.md"  # in a results root that holds the repository's committed results
OWN_RESULTS = "my_results"


@dataclass(frozen=True)
class Experiment:
    """One experiment: the baseline plus what is named here, and nothing else."""

    name: str
    description: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    actor_class: type[Actor] = Actor
    critic_class: type[Critic] = Critic


def main(experiment: Experiment, arguments: Sequence[str] | None = None) -> None:
    """Run an experiment from the command line; exits with code 2 and one line on bad input."""
    config, said = parse_command_line(
        experiment.description, dict(experiment.overrides), None if arguments is None else list(arguments)
    )
    try:
        if not said.results_dir_given:
            config = _own_results(config)
        run_study(experiment, config, quick=said.quick)
    except (ConfigError, StoreError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(2) from None


def _own_results(config: StudyConfig) -> StudyConfig:
    """Where no folder was named, keep away from a root that holds the repository's recorded results."""
    if not (Path(config.results_dir) / RECORDED_MARK).exists():
        return config
    print(f"{config.results_dir}/ holds the repository's recorded results; yours go to {OWN_RESULTS}/")
    return replace(config, results_dir=OWN_RESULTS)


def run_study(experiment: Experiment, config: StudyConfig, quick: bool = False) -> Path:
    """Train every run of the study that is not finished yet; returns the results folder."""
    device = runtime.choose_device(config.device)
    runtime.keep_freed_memory()
    threads = runtime.set_threads(config.threads)
    torch.backends.cuda.matmul.allow_tf32 = config.tf32
    store = ResultsStore(results_folder(config, experiment.name, quick), experiment.name, config.result_fields())
    keys = [RunKey(*key) for key in itertools.product(sorted(config.seeds), config.actor_lrs, config.critic_lrs)]
    missing = [key for key in keys if key not in store.finished()]
    print(
        f"{experiment.name} on {config.env}: {len(missing)} of {len(keys)} runs to train, "
        f"{config.episodes} episodes, {config.agents} agents, {runtime.device_name(device)}, {threads} threads"
    )
    if missing:
        store.describe({"commit": runtime.code_commit(), **runtime.versions(), "device": runtime.device_name(device)})
        references = _references(config, store, sorted({key.seed for key in keys} | {k.seed for k in store.finished()}))
        _train(experiment, config, device, store, missing, references)
    study = load_study(store.folder)
    for path in save_study_figures(study):
        print(f"figure: {path}")
    print(study_summary(study))
    print(f"results: {store.folder}")
    return store.folder


def _references(config: StudyConfig, store: ResultsStore, seeds: list[int]) -> dict[int, dict[str, float]]:
    """Reference returns by seed and policy, also written to the folder."""
    found = evaluate_references(config, seeds)
    store.write_references([asdict(result) for result in found])
    returns: dict[int, dict[str, float]] = {seed: {} for seed in seeds}
    for result in found:
        returns[result.seed][result.policy] = result.evaluation_return
    return returns


def runs_per_shard(config: StudyConfig, device: torch.device, learner_bytes: int) -> int:
    """How many runs train together: as asked, or as fit into half of the free memory."""
    if config.runs_per_shard:
        return config.runs_per_shard
    fitting = runtime.free_memory_bytes(device) // (2 * learner_bytes)
    return max(1, min(MOST_RUNS_PER_SHARD[device.type], int(fitting)))


def run_bytes(experiment: Experiment, config: StudyConfig) -> int:
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
    keys: list[RunKey],
    references: dict[int, dict[str, float]],
) -> None:
    size = runs_per_shard(config, device, run_bytes(experiment, config))
    shards = [keys[a : a + size] for a in range(0, len(keys), size)]
    print(f"{len(shards)} shard(s) of up to {size} runs")
    start, episodes, seconds = time.perf_counter(), 0, Counter()
    for number, shard in enumerate(shards, start=1):
        trainer = ShardTrainer(experiment, config, shard, device, store, references)
        episodes += trainer.train(f"shard {number}/{len(shards)}")
        seconds.update(trainer.timer.seconds)
    elapsed = time.perf_counter() - start
    total = sum(seconds.values())
    print(
        f"trained {episodes} run-episodes in {elapsed:.0f} s: {episodes / elapsed:.1f} run-episodes per second; "
        f"peak memory {runtime.peak_memory_bytes(device) / 2**30:.2f} GiB\ntime by phase: "
        + ", ".join(f"{name} {spent / total:.0%}" for name, spent in seconds.most_common())
    )


class ShardTrainer:
    """Trains the runs of one shard together until each is done, and hands their rows to the store."""

    def __init__(
        self,
        experiment: Experiment,
        config: StudyConfig,
        keys: list[RunKey],
        device: torch.device,
        store: ResultsStore,
        references: dict[int, dict[str, float]],
    ):
        """Untrained runs `keys`, ordered by seed; `references`: returns by seed and policy."""
        self.experiment, self.config, self.device = experiment, config, device
        self.store, self.references = store, references
        self.timer = PhaseTimer()
        self.learner = Learner(
            config,
            keys,
            device,
            actor_class=experiment.actor_class,
            critic_class=experiment.critic_class,
            timer=self.timer,
        )
        layers = (self.learner.actors.layout.layers, self.learner.critics.layout.layers)
        self.graphs = None
        if device.type == "cuda" and config.cuda_graph:
            self.graphs = EpisodeGraphs(self.learner, capture_on_cuda, tqdm.write)
        self.tracker = Tracker(keys, config.agents, self.learner.env, layers, device, config.early_stop)

    def train(self, title: str) -> int:
        """Train to the end; returns the run-episodes done."""
        episodes, runs = self.config.episodes, len(self.learner.keys)
        done = 0
        bar = tqdm(total=runs * episodes, desc=title, unit="ep", disable=None, smoothing=0.05)
        self.tracker.observe_evaluation(0, self.learner.evaluate())
        while self.tracker.records:
            start = time.perf_counter()
            active = len(self.tracker.records)
            self._episode()
            done += active
            share = (time.perf_counter() - start) / active
            for record in self.tracker.records:
                record.wall_seconds += share
            bar.update(active)
            if self._at_check():
                ended = self._finish_runs()
                bar.update(ended * (episodes - self.learner.episode))
        bar.close()
        return done

    def _at_check(self) -> bool:
        return self.learner.episode % CHECK_EVERY == 0 or self.learner.episode == self.config.episodes

    def _episode(self) -> None:
        episode = self.learner.episode + 1
        logged = episode % self.config.log_every == 0 or episode == FIRST_TRAINED_EPISODE
        report = (self.graphs or self.learner).train_episode(details=logged)
        with self.timer.phase("tracking"):
            self.tracker.observe(report)
        if episode % self.config.eval_every == 0:
            self.tracker.observe_evaluation(episode, self.learner.evaluate())

    def _finish_runs(self) -> int:
        """Write the runs that are done and drop them from learner and tracker; returns how many."""
        episode = self.learner.episode
        with self.timer.phase("tracking"):
            self.tracker.collect()
            ended = self.tracker.finished(episode, self.config.episodes)
        if not ended:
            return 0
        if episode % self.config.eval_every:
            self.tracker.observe_evaluation(episode, self.learner.evaluate(), ended)
        with self.timer.phase("writing"):
            for position in ended:
                self._store_run(position)
            self.store.write()
            staying = [i for i in range(len(self.tracker.records)) if i not in ended]
            self.tracker.keep(staying)
            if staying:
                self.learner.keep(staying)
            if self.graphs:
                self.graphs.reset()
        return len(ended)

    def _store_run(self, position: int) -> None:
        record = self.tracker.records[position]
        tables = {name: (self.tracker.columns[name], rows) for name, rows in record.tables.items()}
        agents = self.tracker.agent_rows(position)
        tables[schema.STOPPING_EPISODES] = (schema.FILES[schema.STOPPING_EPISODES][3:], agents)
        summary = {
            "preset": self.config.env,
            "experiment": self.experiment.name,
            **self.tracker.summary(position, self.config.episodes, self.references[record.key.seed]),
            "device": runtime.device_name(self.device),
            **runtime.versions(),
        }
        self.store.add_run(record.key, tables, summary)
