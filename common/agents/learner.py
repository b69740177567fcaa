"""CCM-MADRL learner for the R runs of one batch (docs/algorithm.md).

Plays, stores, trains and evaluates; returns reports of what happened and knows nothing of files, processes or blocks.
Shapes: R runs, r of them, S seeds, N agents, T steps, E evaluation episodes, U training steps per episode, B samples.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from common.agents.algorithm import Algorithm
from common.agents.bank import Bank, Zeros, plain_zeros
from common.agents.inputs import Due, EpisodeInputs, draw, on_device
from common.agents.networks import Actor, Critic
from common.agents.replay import Batch, Replay, importance_exponent
from common.agents.reports import EpisodeReport, RunKey, StepDetails, StepReport
from common.agents.update import Update, agents_first
from common.config import StudyConfig
from common.environment.evaluation import Evaluation, evaluation_tasks, summarise
from common.environment.mec_env import SIZE, STORAGE, MecEnv, World, draw_world, share
from common.environment.offloading import choose_offloads, exceeds_limits, offload_slots, proposes
from common.environment.rollout import Trajectory, play
from common.experiment import Experiment

UNLIMITED = 2**30  # unless an engine that knows the cache asks for less


@dataclass(frozen=True)
class Part:
    """Consecutive runs: which, their worlds (r, N), and which of the learner's seeds each belongs to (r,)."""

    runs: slice
    world: World
    seed_of_run: Tensor


class Learner:
    """R runs of one study, trained as one batch; every run's numbers are those it would have alone."""

    def __init__(
        self,
        experiment: Experiment,
        config: StudyConfig,
        keys: list[RunKey],
        device: torch.device,
        *,
        dense: bool | None = None,
        numbers_at_once: int = UNLIMITED,
        zeros: Zeros = plain_zeros,
        phase: Callable[[str], AbstractContextManager[None]] = lambda name: nullcontext(),
    ):
        """Untrained runs `keys`, which must be ordered by seed.

        `dense` computes every critic row, all runs stacked, with shapes that do not depend on the data (default: on
        CUDA only); otherwise only rows that count. The optimisers change `numbers_at_once` weights of a run at a time.
        `zeros` gives the memory of all state; `phase` is entered around each part of the work, named.
        """
        self.config, self.device, self.dtype = config, device, getattr(torch, config.dtype)
        self.dense = device.type == "cuda" if dense is None else dense
        self.phase, self.zeros = phase, zeros
        self.env = MecEnv(config.env, config.channels)
        self.keys = list(keys)
        self.episode = self.updates = self.critic_steps = self.actor_steps = 0  # done so far
        self.algorithm = (experiment.algorithm or Algorithm)(config)
        rules = [getattr(type(self.algorithm), name) for name in ("target_due", "update_target")]
        separate = config.tau < 1.0 or rules != [Algorithm.target_due, Algorithm.update_target]
        made = {"dtype": self.dtype, "device": device, "zeros": zeros, "separate_target": separate}
        made["numbers_at_once"] = numbers_at_once
        seeds = [key.seed for key in keys]
        actor, critic = experiment.actor or Actor, experiment.critic or Critic
        self.actors = Bank(
            lambda: actor(config), "actor", seeds, config.agents,
            optimizer=self.algorithm.actor_optimizer, one_by_one=False, **made,
        )  # fmt: skip
        self.critics = Bank(
            lambda: critic(config), "critic", seeds, 1,
            optimizer=self.algorithm.critic_optimizer, one_by_one=not self.dense, **made,
        )  # fmt: skip
        self.run_state: dict[str, Tensor] = {}
        for name, start in self.algorithm.run_state().items():
            self.run_state[name] = zeros((len(keys),), torch.float64, device).fill_(start)
        self.update = Update(config, self.actors, self.critics, self.algorithm, self.run_state, self.dense)
        self.replay = Replay(config, len(keys), device, zeros)
        self.evaluation_tasks = on_device(evaluation_tasks(config.eval_episodes, config.agents), self.dtype, device)
        self._index_runs()

    def _index_runs(self) -> None:
        """Everything that depends on which runs are present."""
        seeds = [key.seed for key in self.keys]
        if seeds != sorted(seeds):
            raise ValueError("runs must be ordered by seed")
        self.seeds = list(dict.fromkeys(seeds))
        self.actor_lrs = torch.tensor([key.actor_lr for key in self.keys], dtype=torch.float64)
        self.critic_lrs = torch.tensor([key.critic_lr for key in self.keys], dtype=torch.float64)
        self.worlds = draw_world(self.seeds, self.config.agents, self.dtype, self.device)
        self.everything = self.part(slice(0, len(seeds)))

    def part(self, runs: slice) -> Part:
        """Consecutive runs, with what belongs to them."""
        seed_of_run = torch.tensor([self.seeds.index(key.seed) for key in self.keys[runs]], device=self.device)
        return Part(runs, self.worlds.map(lambda x: x[seed_of_run]), seed_of_run)

    def due(self) -> tuple[Due, ...]:
        """Which updates the training steps of the next episode make; none in the first episode."""
        updates = range(self.updates + 1, self.updates + 1 + self.config.updates_per_episode) if self.episode else ()
        rule = self.algorithm
        return tuple(Due(rule.critic_due(u), rule.actor_due(u), rule.target_due(u)) for u in updates)

    def actor_due(self, episode: int) -> bool:
        """Whether the last training step of an episode, from the second on, steps the actors."""
        return self.algorithm.actor_due((episode - 1) * self.config.updates_per_episode)

    def inputs(self) -> EpisodeInputs:
        """The host's part of the next training episode: random draws and the optimisers' scalars."""
        drawn = draw(self.config, self.seeds, self.episode + 1, self.algorithm.target_noise)
        due, count = self.due(), self.config.updates_per_episode

        def scales(bank: Bank, rates: Tensor, done: int, flags: list[bool]) -> Tensor:
            made = np.cumsum(flags or [True] * count) + done
            return torch.stack([bank.optimizer.scales(rates, max(1, int(step))) for step in made])

        critic = scales(self.critics, self.critic_lrs, self.critic_steps, [own.critic for own in due])
        actor = scales(self.actors, self.actor_lrs, self.actor_steps, [own.actor for own in due])
        beta = np.array([importance_exponent(self.updates + u) for u in range(count)])

        def placed(values: np.ndarray, dtype: torch.dtype = self.dtype) -> Tensor:
            return on_device(values, dtype, self.device)

        return EpisodeInputs(
            **{name: placed(x, torch.float64 if name == "replay" else self.dtype) for name, x in drawn.items()},
            beta=placed(beta, torch.float64),
            actor_scales=placed(actor.numpy()),
            critic_scales=placed(critic.numpy()),
            position=placed(np.array([self.episode % self.replay.episodes])),
            due=due,
        )

    def train_episode(self, details: bool = False) -> EpisodeReport:
        """Play the next episode, store it and, from the second on, train; `details` asks for StepDetails."""
        with self.phase("draws"):
            inputs = self.inputs()
        report = self.run(inputs, details)
        self.episode += 1
        self.updates += len(inputs.due)
        self.critic_steps += sum(own.critic for own in inputs.due)
        self.actor_steps += sum(own.actor for own in inputs.due)
        return replace(report, episode=self.episode)

    def run(self, inputs: EpisodeInputs, details: bool) -> EpisodeReport:
        """The episode that `inputs` describe, as tensor operations only; its number is left open."""
        return self.learn(self.everything, inputs, *self.play(self.everything, inputs), details)

    def play(self, part: Part, inputs: EpisodeInputs) -> tuple[Trajectory, Tensor]:
        """One noisy episode of every run of a part, and its noisy actions (r, T, N, 3)."""
        noisy_actions = []
        p = self.actors.tensors(part.runs)
        noise = inputs.noise[part.seed_of_run].unsqueeze(1)

        def policy(state: Tensor, t: int) -> tuple[Tensor, Tensor, Tensor]:
            self.actors.observe("observe", part.runs, agents_first(state))
            z, actions = self.update.act(p, state)
            actions = self.algorithm.explore(actions, z, noise[:, :, t], inputs.epsilon)
            noisy_actions.append(actions)
            personal = torch.cat((state, actions), dim=-1).flatten(1, 2)
            self.critics.observe("observe", part.runs, state.flatten(2), actions.flatten(2), personal)
            explore, order = (x[:, t][part.seed_of_run].unsqueeze(1) for x in (inputs.explore, inputs.order))
            return self.decide(part, state, actions, explore, order)

        with self.phase("rollout"), torch.no_grad():
            trajectory = play(self.env, part.world, inputs.tasks[part.seed_of_run].unsqueeze(1), policy)
            return trajectory, torch.cat(noisy_actions, dim=1)

    def learn(
        self, part: Part, inputs: EpisodeInputs, played: Trajectory, noisy: Tensor, details: bool
    ) -> EpisodeReport:
        """Store what a part of the runs played, and train on the replay."""
        self._store(part, inputs, played, noisy)
        steps, measured = None, None
        for update, due in enumerate(inputs.due):
            steps_now, measured = self._train(part, inputs, update, due, details and update == len(inputs.due) - 1)
            steps = steps_now if steps is None else steps.and_then(steps_now)
        return EpisodeReport(
            0,
            played.rewards[:, 0].sum(-1),
            played.late_share[:, 0].mean(-1),
            played.drained_share[:, 0].mean(-1),
            steps,
            measured,
        )

    def decide(
        self, part: Part, state: Tensor, actions: Tensor, explore: Tensor | None = None, order: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Offloads (r, E, N) bool, alpha and rho (r, E, N) from state (r, E, N, 7) and actions (r, E, N, 3).

        explore (r, E) bool and order (r, E, N): see `choose_offloads`.
        """
        proposed, sizes, limits = proposes(actions), state[..., SIZE], (self.config.channels, STORAGE)
        ranked = proposed
        if not self.dense:  # only those that the master has to rank
            ranked = proposed & exceeds_limits(proposed, sizes, *limits).unsqueeze(-1)
            ranked = ranked if explore is None else ranked & ~explore.unsqueeze(-1)
        scores = self.update.scores(part.runs, state, actions, ranked) if self.dense or ranked.any() else None
        offloads = choose_offloads(proposed, sizes, scores, *limits, explore, order)
        return offloads, share(actions[..., 1]), share(actions[..., 2])

    def _store(self, part: Part, inputs: EpisodeInputs, trajectory: Trajectory, noisy: Tensor) -> None:
        """Put the episode into the replay, each transition with its own TD errors under the present networks."""
        with self.phase("replay"):
            states, rewards = trajectory.states[:, 0], trajectory.rewards[:, 0]
            self.algorithm.observe_rewards(self.update.remembered(part.runs), rewards)
            slots = offload_slots(trajectory.offloads[:, 0], self.config.channels)
            done = torch.zeros_like(rewards, dtype=torch.bool)
            done[:, -1] = True
            noise = None if inputs.stored_noise is None else inputs.stored_noise[part.seed_of_run]
            transitions = Batch(states[:, :-1], noisy, slots, rewards, states[:, 1:], done, noise)
            squares = self.update.td_squares(part.runs, transitions)
            self.replay.insert(part.runs, inputs.position, states, noisy, slots, rewards, squares)

    def _train(
        self, part: Part, inputs: EpisodeInputs, update: int, due: Due, details: bool
    ) -> tuple[StepReport, StepDetails | None]:
        """One training step of a part: its report and, if asked for, its details."""
        runs = part.runs
        with self.phase("replay"), torch.no_grad():
            draws = inputs.replay[update][part.seed_of_run]
            noise = None if inputs.target_noise is None else inputs.target_noise[update][part.seed_of_run]
            indices, weights = self.replay.sample(runs, draws, inputs.beta[update])
            batch = self.replay.fetch(runs, indices, noise)
        scales, weights = (inputs.critic_scales[update], inputs.actor_scales[update]), weights.to(self.dtype)
        squares, report, logged = self.update(runs, batch, weights, scales, due, details, self.phase)
        self.replay.update_priorities(runs, indices, squares)
        if not details:
            return report, None
        offloads, _, _ = self.decide(part, batch.states, logged["actions"])
        return report, StepDetails(**logged, offloads=offloads, has_tanh=self.actors.module.has_tanh)

    def evaluate(self, part: Part | None = None) -> Evaluation:
        """Play the fixed evaluation episodes without noise or random acceptance; changes nothing."""
        part = part or self.everything
        p = self.actors.tensors(part.runs)

        def policy(state: Tensor, t: int) -> tuple[Tensor, Tensor, Tensor]:
            return self.decide(part, state, self.update.act(p, state)[1])

        with self.phase("evaluation"), torch.no_grad():
            tasks = self.evaluation_tasks.expand(len(part.seed_of_run), *self.evaluation_tasks.shape)
            return summarise(play(self.env, part.world, tasks, policy))

    def keep(self, positions: list[int]) -> None:
        """Drop all runs but those at these positions; the numbers of the others do not change."""
        self.keys = [self.keys[i] for i in positions]
        runs = torch.tensor(positions, dtype=torch.int64, device=self.device)
        self.actors.keep(runs)
        self.critics.keep(runs)
        self.replay.keep(runs, self.episode)
        for name, x in self.run_state.items():
            kept = x.index_select(0, runs)
            self.run_state[name] = self.zeros(tuple(kept.shape), kept.dtype, kept.device).copy_(kept)
        self._index_runs()

    def state(self) -> dict[str, Tensor]:
        """Every tensor that later episodes depend on, by name, as views; with `counters` all there is."""
        parts = {"actors": self.actors.state(), "critics": self.critics.state(), "algorithm": self.run_state}
        parts["replay"] = self.replay.filled(self.episode)
        return {f"{part}.{name}": value for part, tensors in parts.items() for name, value in tensors.items()}

    COUNTERS = ("episode", "updates", "critic_steps", "actor_steps")

    def counters(self) -> dict[str, int]:
        """Episodes and training steps done."""
        return {name: getattr(self, name) for name in self.COUNTERS}

    def load(self, state: dict[str, Tensor], counters: dict[str, int]) -> None:
        """Go on from `state` and `counters` of a learner of the same runs."""
        for name in self.COUNTERS:
            setattr(self, name, counters[name])
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
