"""CCM-MADRL learner for the R runs of a shard side by side (SYSTEM section 3).

Plays, stores, trains and evaluates; returns reports of what happened and knows nothing of files. Shapes:
R runs, S seeds, N agents, T steps, E evaluation episodes, U training steps per episode, B samples.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from common.agents.candidates import critic_inputs, joint_part, personal_inputs, row_values
from common.agents.episode_inputs import EpisodeInputs, draw_inputs, on_device
from common.agents.layers import ParameterLayout
from common.agents.networks import Actor, Critic
from common.agents.replay import Replay
from common.agents.reports import EpisodeReport, RunKey, StepDetails, StepReport
from common.agents.stacked import StackedNetworks
from common.agents.training_step import StepScales, TrainingStep, Transitions, act, agents_first
from common.config import StudyConfig
from common.environment.evaluation import Evaluation, evaluation_tasks, summarise
from common.environment.mec_env import (
    ACTION_SIZE,
    SIZE,
    STATE_SIZE,
    STEPS,
    STORAGE,
    MecEnv,
    draw_world,
    share,
)
from common.environment.offloading import (
    accept_at_random,
    choose_offloads,
    exceeds_limits,
    offload_slots,
    proposes,
    rank_and_accept,
)
from common.environment.records import joined
from common.environment.rollout import Trajectory, play
from common.training.blocks import Block, split_runs
from common.training.memory import KEPT_BYTES, free_bytes
from common.training.timer import PhaseTimer
from common.training.workers import LEAST_RUNS, Workers, worker_count

CACHE_BYTES = 16 * 2**20  # hidden units of one block of runs on the CPU


class Learner:
    """R runs of one study, trained as one batch; every run's numbers are those it would have alone."""

    def __init__(
        self,
        config: StudyConfig,
        keys: list[RunKey],
        device: torch.device,
        *,
        actor_class: type[Actor] = Actor,
        critic_class: type[Critic] = Critic,
        dense: bool | None = None,
        timer: PhaseTimer | None = None,
        threads: int = 1,
    ):
        """Untrained runs `keys`, which must be ordered by seed; `dense` defaults to true on CUDA only.

        With several `threads` on the CPU, spans of runs are computed side by side; the numbers stay the same.
        """
        self.config, self.device, self.dtype = config, device, getattr(torch, config.dtype)
        self.dense = device.type == "cuda" if dense is None else dense
        self.timer = timer or PhaseTimer()
        self.threads, self.workers = threads, Workers()
        self.env = MecEnv(config.env, config.channels)
        self.keys = list(keys)
        self.episode = 0  # training episodes done
        self.updates = 0  # training steps done
        actor = actor_class(config.actor_hidden, config.output_bound)
        critic = critic_class(config.agents, config.critic_hidden, config.output_bound)
        self.actors = self._stacked(actor, config.agents)
        self.critics = self._stacked(critic, 1)
        self.training_step = TrainingStep(
            self.actors,
            self.critics,
            gamma=config.gamma,
            tau=config.tau,
            clip_norm=config.clip_norm,
            sequential=config.actor_update == "sequential",
            dense=self.dense,
            timer=self.timer,
        )
        self.replay = Replay(
            len(keys),
            min(config.replay_capacity // STEPS, config.episodes),
            STEPS,
            config.agents,
            (STATE_SIZE, ACTION_SIZE),
            config.channels,
            self.dtype,
            device,
        )
        self.evaluation_tasks = on_device(evaluation_tasks(config.eval_episodes, config.agents), self.dtype, device)
        self._index_runs()

    def _stacked(self, network: Actor | Critic, members: int) -> StackedNetworks:
        """Untrained networks of all runs, `members` each; runs of one seed start alike."""

        def initial(layout: ParameterLayout) -> Tensor:
            by_seed = {key.seed: None for key in self.keys}
            for seed in by_seed:
                by_seed[seed] = layout.initial(network.name, seed, members).to(self.device, self.dtype)
            return torch.stack([by_seed[key.seed] for key in self.keys])

        return StackedNetworks(network, initial(network.layout), initial(network.statistics), self.config.tau < 1.0)

    def _index_runs(self) -> None:
        """Everything that depends on which runs are present."""
        seeds = [key.seed for key in self.keys]
        if seeds != sorted(seeds):
            raise ValueError("runs must be ordered by seed")
        self.seeds = list(dict.fromkeys(seeds))
        self.actor_lrs = torch.tensor([key.actor_lr for key in self.keys], dtype=torch.float64)
        self.critic_lrs = torch.tensor([key.critic_lr for key in self.keys], dtype=torch.float64)
        worlds = draw_world(self.seeds, self.config.agents, self.dtype, self.device)
        # Each worker has a span of runs, which play together and then train block by block.
        self.workers.restart(worker_count(self.threads, len(seeds), self.device))
        self.spans = split_runs(self.keys, self.workers.count, worlds)
        size = self._block_size()
        self.blocks = [
            split_runs(self.keys, -(-len(span.seed_of_run) // size), worlds, span.runs) for span in self.spans
        ]

    def _block_size(self) -> int:
        """Runs that train in one piece: as many as keep the working set in cache (CPU) or memory (CUDA)."""
        config = self.config
        rows = (config.agents + 1) if self.dense else config.channels
        hidden_bytes = config.batch_size * rows * sum(config.critic_hidden) * (8 if config.dtype == "float64" else 4)
        if self.device.type == "cuda":
            return max(1, free_bytes(self.device) // 8 // hidden_bytes)
        numbers = config.agents * max(config.batch_size * max(config.actor_hidden), self.actors.layout.size)
        actor_bytes = numbers * self.actors.flat.element_size()
        return max(LEAST_RUNS, min(CACHE_BYTES // hidden_bytes, KEPT_BYTES // actor_bytes))

    def inputs(self, episode: int) -> EpisodeInputs:
        """The host's part of training episode `episode`: random draws and Adam's scalars."""
        position = (episode - 1) % self.replay.episodes
        rates = (self.actor_lrs, self.critic_lrs)
        return draw_inputs(self.config, self.seeds, rates, episode, self.updates, position, self.device)

    def train_episode(self, details: bool = False) -> EpisodeReport:
        """Play the next episode, store it and, from the second on, train; `details` asks for StepDetails."""
        with self.timer.phase("draws"):
            inputs = self.inputs(self.episode + 1)
        report = self.run_episode(inputs, self.episode >= 1, details)
        self.advance()
        return report

    def advance(self) -> None:
        """Count an episode that `run_episode` has done."""
        self.episode += 1
        if self.episode > 1:
            self.updates += self.config.updates_per_episode

    def run_episode(self, inputs: EpisodeInputs, train: bool, details: bool) -> EpisodeReport:
        """The episode that `inputs` describe, as tensor operations only (what a CUDA graph captures)."""
        spans = range(len(self.spans))
        report = joined(self.workers.map(self._run_span, [(span, inputs, train, details) for span in spans]))
        return replace(report, episode=self.episode + 1)

    def _run_span(self, number: int, inputs: EpisodeInputs, train: bool, details: bool) -> EpisodeReport:
        """The episode of one span of runs; its number is left to the caller."""
        span = self.spans[number]
        played, noisy = self._play_training(span, inputs)
        reports = []
        for block in self.blocks[number]:
            own = slice(block.runs.start - span.runs.start, block.runs.stop - span.runs.start)
            reports.append(self._learn(block, inputs, played.of(own), noisy[own], train, details))
        return joined(reports)

    def _learn(
        self, block: Block, inputs: EpisodeInputs, played: Trajectory, noisy: Tensor, train: bool, details: bool
    ) -> EpisodeReport:
        """Store what a block of runs played and train on it."""
        self._store(block.runs, inputs, played, noisy)
        steps, measured = None, None
        for update in range(self.config.updates_per_episode if train else 0):
            steps_now, measured = self._train(block, inputs, update, details)
            steps = steps_now if steps is None else steps.and_then(steps_now)
        return EpisodeReport(
            0,
            played.rewards[:, 0].sum(-1),
            played.late_share[:, 0].mean(-1),
            played.drained_share[:, 0].mean(-1),
            steps,
            measured,
        )

    def _play_training(self, block: Block, inputs: EpisodeInputs) -> tuple[Trajectory, Tensor]:
        """One noisy episode of every run, and its noisy actions (r, T, N, 3)."""
        noisy_actions = []
        actors, critics, runs = self.actors, self.critics, block.runs
        p, critic_p = actors.views(runs), critics.views(runs)
        noise = inputs.noise[block.seed_of_run].unsqueeze(1)

        def policy(state: Tensor, t: int) -> tuple[Tensor, Tensor, Tensor]:
            actors.network.observe_step(p, {"states": agents_first(state)})
            actions = (act(actors.network, p, state)[0] + noise[:, :, t]).clamp(-1.0, 1.0)
            noisy_actions.append(actions)
            critics.network.observe_step(critic_p, critic_inputs(state, actions))
            return self.decide(block, state, actions, inputs.explore[:, t], inputs.order[:, t])

        with self.timer.phase("rollout"), torch.no_grad():
            trajectory = play(self.env, block.world, inputs.tasks[block.seed_of_run].unsqueeze(1), policy)
            return trajectory, torch.cat(noisy_actions, dim=1)

    def decide(
        self, block: Block, state: Tensor, actions: Tensor, explore: Tensor | None = None, order: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Offloads (r, E, N) bool, alpha and rho (r, E, N) from state (r, E, N, 7) and actions (r, E, N, 3).

        explore (S,) bool and order (S, N): where the proposals exceed the limits and `explore` is true for
        the run's seed, agents are accepted at random instead of by the critic's ranking.
        """
        proposed, sizes = proposes(actions), state[..., SIZE]
        limits = (self.config.channels, STORAGE)
        shares = share(actions[..., 1]), share(actions[..., 2])
        if self.dense:
            scores = self._scores(block.runs, state, actions, proposed)
            if explore is None:
                return choose_offloads(proposed, sizes, scores, *limits), *shares
            flags, orders = explore[block.seed_of_run, None], order[block.seed_of_run, None]
            return choose_offloads(proposed, sizes, scores, *limits, flags, orders), *shares
        over = exceeds_limits(proposed, sizes, *limits)
        accepted = proposed.clone()
        for seed, own in block.groups:
            need = over[own].unsqueeze(-1)
            if explore is not None and explore[seed]:
                chosen = accept_at_random(order[seed].expand_as(sizes[own]), sizes[own], *limits)
            elif need.any():
                ranked = proposed[own] & need
                runs = slice(block.runs.start + own.start, block.runs.start + own.stop)
                scores = self._scores(runs, state[own], actions[own], ranked)
                chosen = rank_and_accept(ranked, sizes[own], scores, *limits)
            else:
                continue
            accepted[own] = torch.where(need, chosen, proposed[own])
        return accepted, *shares

    def _scores(self, runs: slice, state: Tensor, actions: Tensor, wanted: Tensor) -> Tensor:
        """The master's score Q(s, a, s_i, a_i) of every wanted agent of `runs`, (r, E, N)."""
        critic, p = self.critics.network, self.critics.views(runs)
        joint = joint_part(critic, p, state, actions)
        rows = torch.nn.functional.pad(wanted, (0, 1))
        return row_values(critic, p, joint, personal_inputs(state, actions), rows, self.dense)[..., :-1]

    def _store(self, runs: slice, inputs: EpisodeInputs, trajectory: Trajectory, noisy: Tensor) -> None:
        """Put the episode into the replay, each transition with its own TD errors under the present networks."""
        with self.timer.phase("replay"):
            states, rewards = trajectory.states[:, 0], trajectory.rewards[:, 0]
            slots = offload_slots(trajectory.offloads[:, 0], self.config.channels)
            done = torch.zeros_like(rewards, dtype=torch.bool)
            done[:, -1] = True
            transitions = Transitions(states[:, :-1], noisy, slots, rewards, states[:, 1:], done)
            squares = self.training_step.td_squares(runs, transitions)
            self.replay.insert(runs, inputs.position, states.flatten(2), noisy.flatten(2), slots, rewards, squares)

    def _train(
        self, block: Block, inputs: EpisodeInputs, update: int, details: bool
    ) -> tuple[StepReport, StepDetails | None]:
        """One training step of a block: its report and, if asked for, its details."""
        agents, runs = self.config.agents, block.runs
        with self.timer.phase("replay"), torch.no_grad():
            draws = inputs.replay[update][block.seed_of_run]
            indices, weights = self.replay.sample(runs, draws, inputs.beta[update])
            states, actions, slots, rewards, next_states, done = self.replay.fetch(runs, indices)
            data = Transitions(
                states.unflatten(2, (agents, -1)),
                actions.unflatten(2, (agents, -1)),
                slots,
                rewards,
                next_states.unflatten(2, (agents, -1)),
                done,
            )
        scales = StepScales(inputs.actor_steps[update], inputs.critic_steps[update], inputs.correction[update])
        squares, report, detail = self.training_step(runs, data, weights.to(self.dtype), scales, details)
        self.replay.update_priorities(runs, indices, squares)
        return report, detail

    def evaluate(self) -> Evaluation:
        """Play the fixed evaluation episodes without noise or random acceptance; changes nothing."""
        with self.timer.phase("evaluation"):
            return joined(self.workers.map(self._evaluate_span, [(span,) for span in range(len(self.spans))]))

    def _evaluate_span(self, number: int) -> Evaluation:
        return joined([self._block_evaluation(block) for block in self.blocks[number]])

    def _block_evaluation(self, block: Block) -> Evaluation:
        p = self.actors.views(block.runs)

        def policy(state: Tensor, t: int) -> tuple[Tensor, Tensor, Tensor]:
            return self.decide(block, state, act(self.actors.network, p, state)[0])

        with torch.no_grad():
            tasks = self.evaluation_tasks.expand(len(block.seed_of_run), *self.evaluation_tasks.shape)
            return summarise(play(self.env, block.world, tasks, policy))

    def keep(self, positions: list[int]) -> None:
        """Drop all runs but those at these positions; the numbers of the others do not change."""
        self.keys = [self.keys[i] for i in positions]
        runs = torch.tensor(positions, dtype=torch.int64, device=self.device)
        self.actors.keep(runs)
        self.critics.keep(runs)
        self.replay.keep(runs, self.episode)
        self._index_runs()

    def state(self) -> dict[str, Tensor]:
        """Every tensor that later episodes depend on, by name, as views; with `episode` and `updates` all there is."""
        parts = {"actors": self.actors.state(), "critics": self.critics.state()}
        parts["replay"] = self.replay.filled(self.episode)
        return {f"{part}.{name}": value for part, tensors in parts.items() for name, value in tensors.items()}

    def load(self, state: dict[str, Tensor], episode: int, updates: int) -> None:
        """Go on from `state` of a learner of the same runs after `episode` episodes and `updates` training steps."""
        self.episode, self.updates = episode, updates
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
