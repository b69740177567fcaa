"""The learner at full speed: runs side by side in worker processes, block by block, or as CUDA graphs.

At most three levels: a shard of runs (one engine), a worker's span of it, which plays together, and blocks of a span,
which train one after the other. With one worker and one block the numbers are the same: those of `Learner`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from common.agents.inputs import EpisodeInputs
from common.agents.learner import Learner, Part
from common.agents.networks import PERSONAL_SIZE, Actor, Critic
from common.agents.reports import EpisodeReport, RunKey
from common.config import ConfigError, StudyConfig
from common.environment.evaluation import Evaluation
from common.environment.mec_env import STEPS
from common.environment.records import joined
from common.experiment import Experiment
from common.training.episode_graph import Capture, EpisodeGraphs, capture_on_cuda
from common.training.memory import free_bytes, shared_zeros
from common.training.timer import PhaseTimer
from common.training.tuning import BLOCK_BYTES, CUDA_BLOCK_SHARE, MOST_RUNS_PER_SHARD, NUMBERS_AT_ONCE
from common.training.workers import Workers, worker_count


class Engine(Learner):
    """R runs of one study; every run's numbers are those it would have alone in a plain learner."""

    def __init__(
        self,
        experiment: Experiment,
        config: StudyConfig,
        keys: list[RunKey],
        device: torch.device,
        *,
        threads: int = 1,
        dense: bool | None = None,
        capture: Capture | None = None,
        warn: Callable[[str], None] = print,
    ):
        """Untrained runs `keys`, ordered by seed, on `threads` CPU threads.

        `warn` gets a line where episodes cannot be captured as CUDA graphs; `capture` and `dense` are for tests.
        """
        self.timer, self.threads, self.workers = PhaseTimer(), threads, Workers()
        super().__init__(
            experiment, config, keys, device,
            dense=dense, numbers_at_once=NUMBERS_AT_ONCE, zeros=shared_zeros, phase=self.timer.phase,
        )  # fmt: skip
        if capture is None and device.type == "cuda" and config.cuda_graph:
            capture = capture_on_cuda
        self.graphs = EpisodeGraphs(self._run, capture, warn, self.phase) if capture else None
        self._divide()

    def _divide(self) -> None:
        """Split the runs into spans of the workers and these into blocks."""
        runs, size = slice(0, len(self.keys)), self._block_size()
        self.workers.restart(worker_count(self.threads, runs.stop, self.device))
        self.spans = [self.part(own) for own in _split(runs, self.workers.count)]
        self.blocks: list[list[Part]] = []
        for span in self.spans:
            count = -(-(span.runs.stop - span.runs.start) // size)
            self.blocks.append([self.part(own) for own in _split(span.runs, count)])

    def wait(self) -> None:
        """Wait for what a GPU still has to do, as a phase of its own: it would count where the host next needs it."""
        if self.device.type == "cuda":
            with self.phase("GPU"):
                torch.cuda.synchronize(self.device)

    def close(self) -> None:
        """End the worker processes."""
        self.workers.restart(1)

    def _block_size(self) -> int:
        """Runs that train in one piece: as many as keep the actors in cache (CPU) or the critic's rows in memory."""
        config, item = self.config, self.actors.flat.element_size()
        if self.device.type == "cuda":
            rows = config.batch_size * (config.agents + 1) * sum(config.critic_hidden) * item
            return max(1, free_bytes(self.device) // CUDA_BLOCK_SHARE // rows)
        numbers = config.agents * max(config.batch_size * max(config.actor_hidden), self.actors.layout.size)
        return max(1, BLOCK_BYTES // (numbers * item))

    @property
    def layers(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the actor's and of the critic's layers."""
        return tuple(self.actors.layout.layers), tuple(self.critics.layout.layers)

    def run(self, inputs: EpisodeInputs, details: bool) -> EpisodeReport:
        """As `Learner.run`."""
        return (self.graphs or self._run)(inputs, details)

    def _run(self, inputs: EpisodeInputs, details: bool) -> EpisodeReport:
        spans = [(number, inputs, details) for number in range(len(self.spans))]
        return joined(self.workers.map(self._run_span, spans))

    def _run_span(self, number: int, inputs: EpisodeInputs, details: bool) -> EpisodeReport:
        span, reports = self.spans[number], []
        played, noisy = self.play(span, inputs)
        for block in self.blocks[number]:
            own = slice(block.runs.start - span.runs.start, block.runs.stop - span.runs.start)
            reports.append(self.learn(block, inputs, played.of(own), noisy[own], details))
        return joined(reports)

    def evaluate(self) -> Evaluation:
        """As `Learner.evaluate`."""
        return joined(self.workers.map(self._evaluate_span, [(number,) for number in range(len(self.spans))]))

    def _evaluate_span(self, number: int) -> Evaluation:
        return joined([super(Engine, self).evaluate(block) for block in self.blocks[number]])

    def policy(self, position: int) -> list[dict[str, Tensor]]:
        """The actors of one run, a state dict of the plain module for each agent, on the CPU."""
        tensors = self.actors.tensors(slice(position, position + 1))
        agents = range(self.config.agents)
        return [{name: x[agent].cpu().contiguous().clone() for name, x in tensors.items()} for agent in agents]

    def keep(self, positions: list[int]) -> None:
        """As `Learner.keep`."""
        super().keep(positions)
        self._divide()
        if self.graphs:
            self.graphs.reset()


def _split(runs: slice, count: int) -> list[slice]:
    """Consecutive runs in `count` parts of about the same size."""
    edges = [runs.start + (runs.stop - runs.start) * i // count for i in range(count + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def bytes_per_run(experiment: Experiment, config: StudyConfig) -> int:
    """Memory of one run: replay, and parameters with their moments, gradients and copies."""
    actor, critic = (experiment.actor or Actor)(config), (experiment.critic or Critic)(config)
    weights = [sum(x.numel() for x in network.parameters()) for network in (actor, critic)]
    transitions = min(config.replay_capacity, config.episodes * STEPS)
    numbers = transitions * config.agents * PERSONAL_SIZE * 1.1 + (weights[0] * config.agents + weights[1]) * 6
    return int(numbers) * (8 if config.dtype == "float64" else 4)


def runs_per_shard(experiment: Experiment, config: StudyConfig, device: torch.device) -> int:
    """Runs that train together: as asked, or as fit in half of the free memory; ConfigError if one fits in none."""
    needed, free = bytes_per_run(experiment, config), free_bytes(device)
    if needed > free:
        raise ConfigError(
            f"one run needs {needed / 2**30:.0f} GiB of memory, {free / 2**30:.1f} are free; allowed: less of "
            "--agents, --actor-hidden, --critic-hidden or --replay-capacity"
        )
    if config.runs_per_shard:
        return config.runs_per_shard
    fitting = free // (2 * needed)
    return max(1, min(MOST_RUNS_PER_SHARD[device.type], int(fitting)))
