"""Trains the runs of one shard together, saving its state as it goes."""

from __future__ import annotations

import sys
import time
from dataclasses import astuple
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from common.agents.reports import RunKey
from common.config import StudyConfig
from common.experiment import Experiment
from common.recording import schema
from common.recording.tensorboard import Board
from common.recording.tracking import CHECK_EVERY, Tracker, is_logged
from common.study.checkpoint import CheckpointError
from common.study.folder import StudyFolder
from common.study.interruption import Interrupted, Interruption
from common.training import runtime
from common.training.engine import Engine


class Shard:
    """Runs that train together until each is done, and whose rows go to the study's folder."""

    def __init__(
        self,
        experiment: Experiment,
        config: StudyConfig,
        keys: list[RunKey],
        device: torch.device,
        study: StudyFolder,
        references: dict[int, dict[str, float]],
        board: Board | None = None,
    ):
        """Untrained runs `keys`, ordered by seed; `references`: returns by seed and policy; `board` follows them."""
        self.experiment, self.config, self.device = experiment, config, device
        self.study, self.references, self.board = study, references, board
        self.engine = Engine(experiment, config, keys, device, threads=torch.get_num_threads(), warn=tqdm.write)
        self.tracker = Tracker(keys, config.agents, self.engine.env, self.engine.layers, device, config.early_stop)

    def load(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Go on from a checkpoint of these runs, leaving out those that are finished already.

        CheckpointError if it holds other tensors than today's code.
        """
        known = {**self.engine.state(), **self.tracker.state()[0]}
        problem = ", ".join(sorted(tensors.keys() ^ known.keys()))
        try:
            if not problem:
                self.engine.load(tensors, meta["counters"])
                self.tracker.load(tensors, meta["tracker"])
        except RuntimeError as misfit:  # a shape
            problem = str(misfit)
        if problem:
            raise CheckpointError(
                f"{self.study.path}: its checkpoint does not fit today's code ({problem}); allowed: the code that made "
                "it, or --fresh"
            )
        finished = self.study.store.finished()
        self._keep([i for i, record in enumerate(self.tracker.records) if record.key not in finished])

    def save(self) -> None:
        """Write a checkpoint that `load` goes on from; CheckpointError if it cannot be written."""
        self.tracker.collect()
        tracked, rows = self.tracker.state()
        keys = [astuple(record.key) for record in self.tracker.records]
        meta = {"runs": keys, "counters": self.engine.counters(), "tracker": rows}
        self.study.checkpoints.save({**self.engine.state(), **tracked}, meta)

    def train(self, title: str, interruption: Interruption) -> int:
        """Train to the end; returns the run-episodes done. Raises Interrupted once the state is saved."""
        episodes, done = self.config.episodes, 0
        total = len(self.tracker.records) * (episodes - self.engine.episode)
        with tqdm(total=total, desc=title, unit="ep", disable=None, smoothing=0.05) as bar:
            if self.engine.episode == 0:
                self.tracker.observe_evaluation(0, self.engine.evaluate())
            saved_at = time.monotonic()
            while self.tracker.records:
                done += len(self.tracker.records)
                self._episode()
                if self.engine.episode % CHECK_EVERY == 0 or self.engine.episode == episodes:
                    self._finish_runs()
                left = len(self.tracker.records) * (episodes - self.engine.episode)
                bar.update(total - left - bar.n)
                if interruption.name and self.tracker.records:
                    self._save_and_leave(interruption.name)
                if time.monotonic() - saved_at >= 60.0 * self.config.checkpoint_minutes and self.tracker.records:
                    self._save_or_warn()
                    saved_at = time.monotonic()
        self.study.checkpoints.clear()
        if self.board:
            self.board.close()
        return done

    def _episode(self) -> None:
        start = time.perf_counter()
        episode = self.engine.episode + 1
        logged = is_logged(episode, self.config.log_every, self.engine.actor_due)
        report = self.engine.train_episode(details=logged)
        if logged:
            self.engine.wait()
        with self.engine.timer.phase("tracking"):
            self.tracker.observe(report)
        if episode % self.config.eval_every == 0:
            self.tracker.observe_evaluation(episode, self.engine.evaluate())
        share = (time.perf_counter() - start) / len(self.tracker.records)
        for record in self.tracker.records:
            record.wall_seconds += share

    def _finish_runs(self) -> None:
        """Write the runs that are done and go on without them."""
        episode, timer = self.engine.episode, self.engine.timer
        with timer.phase("tracking"):
            self.tracker.collect()
            ended = self.tracker.finished(episode, self.config.episodes)
        if ended and episode % self.config.eval_every:
            self.tracker.observe_evaluation(episode, self.engine.evaluate(), ended)
            self.tracker.collect()
        if self.board:
            self.board.write(self.tracker.records, self.tracker.columns)
        if not ended:
            return
        with timer.phase("writing"):
            if self.config.save_policy:
                for i in ended:
                    self.study.save_policy(self.tracker.records[i].key, self.engine.policy(i))
            self.study.add_runs({self.tracker.records[i].key: self._rows(i) for i in ended})
            self._keep([i for i in range(len(self.tracker.records)) if i not in ended])

    def _keep(self, positions: list[int]) -> None:
        """Go on with only the runs at these positions."""
        if len(positions) == len(self.tracker.records):
            return
        self.tracker.keep(positions)
        if positions:
            self.engine.keep(positions)

    def _rows(self, position: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """All tables of a run, and its row of runs.csv."""
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
        return tables, summary

    def _save_or_warn(self) -> None:
        try:
            self.save()
        except CheckpointError as problem:
            tqdm.write(f"warning: {problem}; training goes on", file=sys.stderr)

    def _save_and_leave(self, signal_name: str) -> None:
        try:
            self.save()
        except CheckpointError as problem:
            raise Interrupted(f"{signal_name}: {problem}; what was saved before is kept") from None
        raise Interrupted(f"{signal_name}: state saved after episode {self.engine.episode}")
