"""Trains the runs of one shard together, saving its state as it goes."""

from __future__ import annotations

import sys
import time
from dataclasses import astuple
from typing import Any

import torch
from tqdm import tqdm

from common.agents.learner import Learner
from common.agents.reports import RunKey
from common.config import StudyConfig
from common.experiment import Experiment
from common.recording import schema
from common.recording.store import ResultsStore
from common.recording.tracking import CHECK_EVERY, FIRST_TRAINED_EPISODE, Tracker
from common.study.checkpoint import CheckpointError, Checkpoints
from common.study.interruption import Interrupted, Interruption
from common.study.mirror import Mirror
from common.training import runtime
from common.training.episode_graph import EpisodeGraphs, capture_on_cuda
from common.training.timer import PhaseTimer


class ShardTrainer:
    """Trains its runs until each is done, and hands their rows to the store."""

    def __init__(
        self,
        experiment: Experiment,
        config: StudyConfig,
        keys: list[RunKey],
        device: torch.device,
        store: ResultsStore,
        references: dict[int, dict[str, float]],
        *,
        checkpoints: Checkpoints | None = None,
        mirror: Mirror | None = None,
    ):
        """Untrained runs `keys`, ordered by seed; `references`: returns by seed and policy."""
        self.experiment, self.config, self.device = experiment, config, device
        self.store, self.references = store, references
        self.checkpoints, self.mirror = checkpoints, mirror
        self.timer = PhaseTimer()
        self.learner = Learner(
            config,
            keys,
            device,
            actor_class=experiment.actor_class,
            critic_class=experiment.critic_class,
            timer=self.timer,
            threads=torch.get_num_threads(),
        )
        self.graphs = None
        if device.type == "cuda" and config.cuda_graph:
            self.graphs = EpisodeGraphs(self.learner, capture_on_cuda, tqdm.write)
        layers = (self.learner.actors.layout.layers, self.learner.critics.layout.layers)
        self.tracker = Tracker(keys, config.agents, self.learner.env, layers, device, config.early_stop)

    def train(self, title: str, interruption: Interruption | None = None) -> int:
        """Train to the end; returns the run-episodes done. Raises Interrupted once the state is saved."""
        episodes, first, done = self.config.episodes, self.learner.episode, 0
        runs = len(self.tracker.records)
        bar = tqdm(total=runs * (episodes - first), desc=title, unit="ep", disable=None, smoothing=0.05)
        if first == 0:
            self.tracker.observe_evaluation(0, self.learner.evaluate())
        saved_at = time.monotonic()
        while self.tracker.records:
            start = time.perf_counter()
            active = len(self.tracker.records)
            self._episode()
            done += active
            share = (time.perf_counter() - start) / active
            for record in self.tracker.records:
                record.wall_seconds += share
            bar.update(active)
            if self.learner.episode % CHECK_EVERY == 0 or self.learner.episode == episodes:
                ended = self._finish_runs()
                bar.update(ended * (episodes - self.learner.episode))
            if interruption is not None and interruption.name and self.tracker.records:
                bar.close()
                self._save_and_leave(interruption.name)
            if time.monotonic() - saved_at >= 60.0 * self.config.checkpoint_minutes and self.tracker.records:
                self._save_or_warn()
                saved_at = time.monotonic()
        bar.close()
        if self.checkpoints:
            self.checkpoints.clear()
        return done

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
            self.tracker.collect()
        with self.timer.phase("writing"):
            for position in ended:
                self._store_run(position)
            self.store.write()
            if self.mirror:
                self.mirror.push_results(self.store.folder)
            self._keep([i for i in range(len(self.tracker.records)) if i not in ended])
        return len(ended)

    def _keep(self, positions: list[int]) -> None:
        """Go on with only the runs at these positions."""
        self.tracker.keep(positions)
        if positions:
            self.learner.keep(positions)
        if self.graphs:
            self.graphs.reset()

    def _store_run(self, position: int) -> None:
        record = self.tracker.records[position]
        tables = {name: (self.tracker.columns[name], rows) for name, rows in record.tables.items()}
        agents = self.tracker.agent_rows(position)
        tables[schema.STOPPING_EPISODES] = (schema.FILES[schema.STOPPING_EPISODES][len(schema.RUN_KEY) :], agents)
        summary = {
            "preset": self.config.env,
            "experiment": self.experiment.name,
            **self.tracker.summary(position, self.config.episodes, self.references[record.key.seed]),
            "device": runtime.device_name(self.device),
            **runtime.versions(),
        }
        self.store.add_run(record.key, tables, summary)

    def save(self) -> None:
        """Write a checkpoint; CheckpointError if that is not possible."""
        with self.timer.phase("checkpoint"):
            self.tracker.collect()
            counters, rows = self.tracker.state()
            meta = {
                "runs": [astuple(record.key) for record in self.tracker.records],
                "episode": self.learner.episode,
                "updates": self.learner.updates,
                "tracker": rows,
            }
            self.checkpoints.save({**self.learner.state(), **counters}, meta)

    def load(self, tensors: dict[str, torch.Tensor], meta: dict[str, Any]) -> None:
        """Go on from a checkpoint of these runs, leaving out those that the store has already."""
        self.learner.load(tensors, meta["episode"], meta["updates"])
        self.tracker.load(tensors, meta["tracker"])
        finished = self.store.finished()
        if any(record.key in finished for record in self.tracker.records):
            self._keep([i for i, record in enumerate(self.tracker.records) if record.key not in finished])

    def _save_or_warn(self) -> None:
        try:
            if self.checkpoints:
                self.save()
        except CheckpointError as problem:
            tqdm.write(f"warning: {problem}; training goes on", file=sys.stderr)

    def _save_and_leave(self, signal_name: str) -> None:
        if self.checkpoints is None:
            raise Interrupted(f"{signal_name}: nothing was saved")
        try:
            self.save()
        except CheckpointError as problem:
            raise Interrupted(f"{signal_name}: {problem}; what was saved before is kept") from None
        raise Interrupted(f"{signal_name}: state saved after episode {self.learner.episode}")
