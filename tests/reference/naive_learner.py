"""The whole of CCM-MADRL in one file, slow and obvious: read it beside docs/environment.md and docs/algorithm.md.

One run, one module and one optimiser per agent, plain loops over agents, samples and critic rows. Nothing of the fast
engine is used but the random draws, which both sides must see, and an experiment's own parts: its networks, which are
modules for one agent and one critic anyway, and those rules of learning that it overrides. The rules of the baseline
are written out here. Tests hold the fast learner to this one, step by step.

The environment always computes in float64; `dtype` is the precision of networks and actions. Letters in shapes: N
agents, B batch, K rows of a sample, H heads of the critic.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from common.agents.algorithm import Algorithm
from common.agents.layout import Layer
from common.agents.networks import Actor, Critic
from common.agents.reports import RunKey
from common.config import StudyConfig
from common.environment.random_streams import episode_draws, stream
from common.experiment import Experiment

STEPS = 10
STORAGE, SERVER_UNITS, SERVER_HZ = 400.0, 8, 4e9
BANDWIDTH_HZ, KAPPA, DEADLINE_CAP = 40e6, 5e-27, 1.0
# power (dBm), initial energy (MJ), gain (dB), compute (GHz); then size, cycles per bit, deadline (s)
WORLD_RANGES = [(1.0, 24.0), (0.5, 3.2), (5.0, 14.0), (0.4, 1.5)]
TASK_RANGES = [(1.0, 50.0), (300.0, 737.5), (0.1, 0.9)]
# bits per unit of size, exponent of the frequency in the local energy
PRESETS = {"scaled": (8 * 1024**2, 2), "thesis": (8 * 1024, 1), "interior": (8 * 1024, 2)}

Weights = dict[str, torch.Tensor]


def naive_world(seed: int, agents: int) -> list[np.ndarray]:
    """What a seed fixes once per agent: power, initial energy, gain, compute, each (N,)."""
    unit = stream(seed, "world").random((4, agents))
    return [low + (high - low) * unit[i] for i, (low, high) in enumerate(WORLD_RANGES)]


def naive_state(world: list[np.ndarray], energy: np.ndarray, unit_tasks: np.ndarray) -> np.ndarray:
    """State (N, 7) in the order p, g, e, d, c, deadline, f, with fresh tasks from unit draws (N, 3)."""
    power, _, gain, compute = world
    tasks = [low + (high - low) * unit_tasks[:, i] for i, (low, high) in enumerate(TASK_RANGES)]
    return np.stack([power, gain, energy, *tasks, compute], axis=1)


def naive_queue(offloaded: list[int], arrival: list[float], processing: list[float]) -> dict[int, float]:
    """Finish time (s) of every offloaded agent at the server, double counting included (docs: "Server queue")."""
    order = sorted(offloaded, key=lambda agent: (arrival[agent], agent))
    units = [0.0] * SERVER_UNITS
    finish = {}
    for place, agent in enumerate(order):
        if place < SERVER_UNITS:
            finish[agent] = arrival[agent] + processing[agent]
        else:
            for earlier in order[:place]:
                units[units.index(min(units))] += processing[earlier]
            finish[agent] = max(arrival[agent], min(units)) + processing[agent]
        units[units.index(min(units))] = finish[agent]
    return finish


def naive_step(
    preset: str, state: np.ndarray, x: np.ndarray, alpha: np.ndarray, rho: np.ndarray, channels: int = 10
) -> tuple[float, np.ndarray, float, float]:
    """One environment step: (shared reward, next energy (N,) in MJ, share late, share below the reserve).

    state (N, 7); x, alpha, rho (N,): offloading flag, share of own compute, share of own transmit power.
    """
    unit, exponent = PRESETS[preset]
    agents = len(state)
    local_time, local_energy, radio_time, radio_energy, processing = [], [], [], [], []
    for i in range(agents):
        power, gain, _, size, cycles, _, compute = (float(value) for value in state[i])
        bits = size * unit
        frequency = compute * 1e9 * float(alpha[i])
        local_time.append(bits * cycles / frequency)
        local_energy.append(KAPPA * bits * cycles * frequency**exponent)
        watts = 10 ** ((power - 30) / 10) * float(rho[i])
        rate = BANDWIDTH_HZ / channels * math.log2(1 + watts * 10 ** (gain / 10))
        radio_time.append(bits / rate)
        radio_energy.append(watts * bits / rate)
        processing.append(bits * cycles / SERVER_HZ)
    finish = naive_queue([i for i in range(agents) if x[i] == 1], radio_time, processing)

    reward, next_energy, late, drained = 0.0, [], 0, 0
    for i in range(agents):
        battery, deadline = float(state[i, 2]), float(state[i, 5])
        spent = radio_energy[i] if i in finish else local_energy[i]
        duration = min(finish.get(i, local_time[i]), DEADLINE_CAP) / DEADLINE_CAP
        left = min(max(battery - spent * 1e-6 + 0.001 * 1e-6, 0.0), 3.2)
        if left <= 0:
            duration = 1.0
        lateness = max(duration - deadline / DEADLINE_CAP, 0.0)
        shortage = max(0.5 - left, 0.0) * 1e6
        reward -= 0.5 * spent + 0.5 * duration + 0.5 * shortage + 0.5 * lateness
        next_energy.append(left)
        late += lateness > 0
        drained += shortage > 0
    return reward, np.array(next_energy), late / agents, drained / agents


def naive_choose(
    proposes: Sequence[bool],
    size: np.ndarray,
    scores: Sequence[float],
    channels: int = 10,
    random_order: np.ndarray | None = None,
) -> np.ndarray:
    """Which agents may offload, (N,) of 0.0 and 1.0.

    scores (N,) ranks the proposers, best first; a `random_order` (N,) replaces the ranking by the first
    agents of that permutation, proposers or not. Both count only when the proposals exceed a limit.
    """
    proposers = [i for i in range(len(size)) if proposes[i]]
    chosen: list[int] = []
    if len(proposers) <= channels and sum(float(size[i]) for i in proposers) <= STORAGE:
        chosen = proposers
    elif random_order is not None:
        chosen = [int(i) for i in random_order[:channels]]
        while sum(float(size[i]) for i in chosen) > STORAGE:
            chosen.pop()
    else:
        used = 0.0
        for i in sorted(proposers, key=lambda i: -float(scores[i])):
            if len(chosen) < channels and used + float(size[i]) < STORAGE:
                chosen.append(i)
                used += float(size[i])
    return np.array([1.0 if i in chosen else 0.0 for i in range(len(size))])


@dataclass
class Transition:
    """One step as the replay keeps it: states (N, 7), noisy action (N, 3), accepted (N,).

    noise (N, 3) are the draws of target smoothing, where an experiment wants them.
    """

    state: np.ndarray
    action: np.ndarray
    accepted: np.ndarray
    reward: float
    next_state: np.ndarray
    done: bool
    noise: np.ndarray | None = None


class NaiveRun:
    """Environment, networks, optimisers and replay of one run; `episode(1)`, `episode(2)`, … train it."""

    def __init__(
        self,
        experiment: Experiment,
        config: StudyConfig,
        key: RunKey,
        start: tuple[list[Weights], Weights],
        dtype: torch.dtype = torch.float64,
    ) -> None:
        """`start`: parameters and buffers of every actor and of the critic."""
        self.config, self.seed, self.dtype = config, key.seed, dtype
        self.agents, self.gamma = config.agents, config.gamma
        make_actor, make_critic = experiment.actor or Actor, experiment.critic or Critic
        self.actors = [with_tensors(make_actor(config).to(dtype), own) for own in start[0]]
        self.critic = with_tensors(make_critic(config).to(dtype), start[1])
        self.target_actors = [copy.deepcopy(actor) for actor in self.actors]
        self.target_critic = copy.deepcopy(self.critic)
        self.algorithm = (experiment.algorithm or Algorithm)(config)
        self.run_state = {
            name: torch.tensor([start], dtype=torch.float64) for name, start in self.algorithm.run_state().items()
        }
        self.actor_optimizers = [
            self.optimizer("actor_optimizer", actor, key.actor_lr, config.beta1) for actor in self.actors
        ]
        self.critic_optimizer = self.optimizer("critic_optimizer", self.critic, key.critic_lr, config.critic_beta1)
        self.world = naive_world(self.seed, self.agents)
        self.replay: list[Transition] = []
        self.priorities, self.stored = np.zeros(0), 0
        self.updates = 0
        self.last_report: dict[str, Any] = {}

    def rule(self, name: str) -> Callable[..., Any] | None:
        """The experiment's rule of this name if it has one of its own; it is written for a batch of runs."""
        own = getattr(self.algorithm, name)
        return own if getattr(type(self.algorithm), name) is not getattr(Algorithm, name) else None

    def optimizer(self, name: str, module: nn.Module, rate: float, beta1: float) -> torch.optim.Optimizer:
        """Adam, or the experiment's own."""
        own = self.rule(name)
        if own:
            return OwnOptimizer(own, module, rate)
        betas = (beta1, self.config.beta2)
        return torch.optim.Adam(module.parameters(), lr=rate, betas=betas, eps=self.config.adam_eps)

    def tensor(self, values: Any) -> torch.Tensor:
        """Numbers in the precision of the networks."""
        return torch.as_tensor(np.asarray(values), dtype=self.dtype)

    # Acting

    def policy(self, actors: Sequence[Actor], state: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Pre-activation and action of every agent, without noise, (N, 3) each."""
        z = torch.stack([actors[i](self.tensor(state[i : i + 1]))[0] for i in range(self.agents)])
        return z, self.actors[0].squash(z)

    def noisy(self, z: torch.Tensor, action: torch.Tensor, noise: np.ndarray, epsilon: float) -> torch.Tensor:
        """What is played in training, (N, 3)."""
        own = self.rule("explore")
        if own:
            batch = (x[None, None] for x in (action, z, self.tensor(noise)))
            return own(*batch, self.tensor(epsilon))[0, 0]
        return torch.clamp(action + self.config.noise_scale * epsilon * self.tensor(noise), -1.0, 1.0)

    def q_row(self, critic: Critic, state: np.ndarray, actions: torch.Tensor, agent: int | None) -> torch.Tensor:
        """The critic's heads (H,) for all states, all actions (N, 3) and one agent's own pair; `None`: the zero row."""
        own = torch.zeros(1, 10, dtype=self.dtype)
        if agent is not None:
            own = torch.cat([self.tensor(state[agent]), actions[agent]])[None]
        return critic.values(critic.joint(self.tensor(state.reshape(1, -1)), actions.reshape(1, -1)), own)[0]

    def value(self, heads: torch.Tensor, target: bool = False) -> torch.Tensor:
        """One Q of the critic's heads (H,): the only one, unless the experiment says otherwise."""
        own = (self.rule("target_value") if target else None) or self.rule("value")
        return own(heads) if own else heads[0]

    def best_q(self, critic: Critic, state: np.ndarray, actions: torch.Tensor, target: bool = False) -> torch.Tensor:
        """Largest Q over the proposing agents (the first of equals), or of the zero row if there are none."""
        proposers: list[int | None] = [i for i in range(self.agents) if actions[i][0] >= 0]
        values = [self.value(self.q_row(critic, state, actions, i), target) for i in proposers or [None]]
        return values[int(np.argmax([q.item() for q in values]))]

    def decide(self, state: np.ndarray, action: np.ndarray, random_order: np.ndarray | None) -> np.ndarray:
        """Accepted agents (N,) for a joint action (N, 3), ranked by the online critic unless at random."""
        with torch.no_grad():
            rows = [self.q_row(self.critic, state, self.tensor(action), i) for i in range(self.agents)]
            scores = [float(self.value(row)) for row in rows]
        return naive_choose(action[:, 0] >= 0, state[:, 3], scores, self.config.channels, random_order)

    # An episode

    def episode(self, number: int) -> float:
        """Rollout, storing, training; `number` counts from 1. Gives the training return."""
        config = self.config
        sizes = (STEPS, self.agents, config.updates_per_episode, config.batch_size)
        draws = episode_draws(self.seed, number, *sizes, self.algorithm.target_noise)
        epsilon = 0.01 + 0.99 * math.exp(-number / 2000)
        state = naive_state(self.world, self.world[1], draws["tasks"][0])
        steps: list[Transition] = []
        for t in range(STEPS):
            with torch.no_grad():
                for i, actor in enumerate(self.actors):
                    actor.observe(self.tensor(state[i : i + 1]))
                action = self.noisy(*self.policy(self.actors, state), draws["noise"][t], epsilon).numpy()
                own = np.concatenate([state, action], axis=1)
                self.critic.observe(*(self.tensor(x) for x in (state.reshape(1, -1), action.reshape(1, -1), own)))
            self.share_observations()
            accepted = self.decide(state, action, draws["order"][t] if draws["coin"][t] < epsilon else None)
            alpha, rho = (0.01 + 0.99 * (action[:, column] + 1) / 2 for column in (1, 2))
            reward, energy, _, _ = naive_step(config.env, state, accepted, alpha, rho, config.channels)
            next_state = naive_state(self.world, energy, draws["tasks"][t + 1])
            noise = draws["stored_noise"][t] if self.algorithm.target_noise else None
            steps.append(Transition(state, action, accepted, reward, next_state, t == STEPS - 1, noise))
            state = next_state
        self.algorithm.observe_rewards(self.run_state, self.tensor([[step.reward for step in steps]]))
        for transition in steps:
            self.store(transition)
        for update in range(config.updates_per_episode if number >= 2 else 0):
            chosen, is_weight = self.sample(draws["replay"][update])
            noises = draws["target_noise"][update] if self.algorithm.target_noise else [None] * len(chosen)
            batch = [replace(self.replay[i], noise=noise) for i, noise in zip(chosen, noises, strict=True)]
            self.last_report = self.train_step(batch, is_weight)
            for i, td in zip(chosen, self.last_report["td_error_sq_sum"], strict=True):
                self.priorities[i] = (td + 0.01) ** config.replay_alpha
        return sum(transition.reward for transition in steps)

    # The replay

    def store(self, transition: Transition) -> None:
        """Put a transition into the next slot of the ring with the priority of its own TD errors."""
        with torch.no_grad():
            target = self.td_target(transition)
            td = sum(float((self.value(q) - target) ** 2) for q in self.accepted_rows(transition))
        self.put(transition, (td + 0.01) ** self.config.replay_alpha)

    def put(self, transition: Transition, priority: float) -> None:
        """Write a transition over the oldest one, or at the end while there is room."""
        if len(self.replay) < self.config.replay_capacity:
            self.replay.append(transition)
            self.priorities = np.append(self.priorities, priority)
        else:
            slot = self.stored % self.config.replay_capacity
            self.replay[slot], self.priorities[slot] = transition, priority
        self.stored += 1

    def sample(self, unit: np.ndarray) -> tuple[list[int], np.ndarray]:
        """Slots of a stratified draw from unit draws (B,), and their importance weights (B,)."""
        count, total = len(self.replay), float(np.sum(self.priorities))
        cumulative = np.cumsum(self.priorities)
        beta = min(1.0, 0.4 + 0.001 * self.updates)  # each draw was followed by one update
        chosen, weights = [], []
        for b in range(len(unit)):
            mass = (b + unit[b]) / len(unit) * total
            slot = next((i for i in range(count) if cumulative[i] > mass), count - 1)
            chosen.append(slot)
            weights.append((count * self.priorities[slot] / total) ** -beta)
        return chosen, np.array(weights) / max(weights)

    # Learning

    def td_target(self, transition: Transition) -> torch.Tensor:
        """y of one transition, from the target networks; just the reward when the episode ends there."""
        reward, next_value = self.tensor(transition.reward), self.tensor(0.0)
        if self.rule("reward"):
            reward = self.rule("reward")(self.run_state, reward[None, None])[0, 0]
        if not transition.done:
            with torch.no_grad():
                z, actions = self.policy(self.target_actors, transition.next_state)
                if self.rule("target_action"):
                    noise = None if transition.noise is None else self.tensor(transition.noise)[None, None]
                    actions = self.rule("target_action")(actions[None, None], z[None, None], noise)[0, 0]
                next_value = self.best_q(self.target_critic, transition.next_state, actions, target=True)
        if self.rule("td_target"):
            done = torch.tensor([[bool(transition.done)]])
            return self.rule("td_target")(reward[None, None], done, next_value[None, None])[0, 0]
        return reward if transition.done else reward + self.gamma * next_value

    def accepted_rows(self, transition: Transition) -> list[torch.Tensor]:
        """The online critic's heads (H,) of each accepted agent's row, or of the zero row if nobody was accepted."""
        rows: list[int | None] = [i for i in range(self.agents) if transition.accepted[i] == 1]
        actions = self.tensor(transition.action)
        return [self.q_row(self.critic, transition.state, actions, i) for i in rows or [None]]

    def train_step(self, batch: Sequence[Transition], is_weight: np.ndarray) -> dict[str, Any]:
        """Critic step, actor steps against the new critic, target update; the caller sets priorities."""
        self.updates += 1
        due = {kind: getattr(self.algorithm, f"{kind}_due")(self.updates) for kind in ("critic", "actor", "target")}
        report = self.critic_step(batch, is_weight, due["critic"])
        for i, actor in enumerate(self.actors):
            with torch.no_grad():
                actor.observe_batch(self.tensor(np.stack([transition.state[i] for transition in batch])))
        self.share_observations()
        if due["actor"]:
            report |= self.actor_step(batch, is_weight)
        if due["target"]:
            self.update_targets()
        return report

    def critic_step(self, batch: Sequence[Transition], is_weight: np.ndarray, due: bool = True) -> dict[str, Any]:
        """One step of the critic; td_error_sq_sum (B,), loss and unclipped gradient before it."""
        errors, td_error_sq_sum, rows_of, targets = [], [], [], []
        for transition, weight in zip(batch, is_weight, strict=True):
            target = self.td_target(transition)
            rows = self.accepted_rows(transition)
            for heads in rows:
                errors.append(sum((float(weight) * q - float(weight) * target) ** 2 for q in heads))
            td_error_sq_sum.append(sum(float((self.value(q.detach()) - target) ** 2) for q in rows))
            rows_of.append(rows)
            targets.append(target)
        loss = sum(errors) / len(errors)
        if self.rule("critic_loss"):
            heads = torch.nn.utils.rnn.pad_sequence([torch.stack(rows) for rows in rows_of], batch_first=True)
            valid = torch.arange(heads.shape[1]) < torch.tensor([len(rows) for rows in rows_of])[:, None]
            y, w = torch.stack(targets), self.tensor(is_weight)
            loss = self.rule("critic_loss")(heads[None], y[None], w[None], valid[None])[0]
        report = {"td_error_sq_sum": np.array(td_error_sq_sum), "critic_loss": loss.item()}
        if due:
            report["critic_gradient"] = self.step(self.critic, self.critic_optimizer, loss)
        return report

    def actor_loss(self, batch: Sequence[Transition], is_weight: np.ndarray, only: int | None = None) -> torch.Tensor:
        """Minus the weighted mean over the batch of the best Q under the present actors and critic.

        With `only`, the other agents' actions are constants, and a rule sees that agent's z and action alone.
        """
        z, seen, best = [], [], []
        for transition in batch:
            own_z, own = self.policy(self.actors, transition.state)
            judged = own
            if only is not None:
                chosen = torch.arange(self.agents) == only
                own = torch.where(chosen[:, None], own, own.detach())
                own_z, judged = own_z[only : only + 1], own[only : only + 1]
            z.append(own_z)
            seen.append(judged)
            best.append(self.best_q(self.critic, transition.state, self.guided(own, own_z, only)))
        q, w = torch.stack(best), self.tensor(is_weight)
        own = self.rule("actor_loss")
        if own:
            return own(torch.stack(z)[None], torch.stack(seen)[None], q[None], w[None])[0]
        return -sum(w[b] * q[b] for b in range(len(batch))) / len(batch)

    def guided(self, actions: torch.Tensor, z: torch.Tensor, only: int | None) -> torch.Tensor:
        """The same actions (N, 3), whose ∂Q/∂a on its way back passes the experiment's rule."""
        own = self.rule("action_gradient")
        if own is None:
            return actions
        place = slice(None) if only is None else slice(only, only + 1)
        passed, judged = actions * 1.0, actions.detach()[place][None, None]

        def change(slope: torch.Tensor) -> torch.Tensor:
            slope = slope.clone()
            slope[place] = -own(-slope[place][None, None], z.detach()[None, None], judged)[0, 0]
            return slope

        passed.register_hook(change)
        return passed

    def actor_step(self, batch: Sequence[Transition], is_weight: np.ndarray) -> dict[str, Any]:
        """One step of every actor; the loss before all of them and each actor's unclipped gradient."""
        joint_loss, found = self.actor_loss(batch, is_weight), []
        if self.config.actor_update == "joint":
            gradients = [gradient_of(joint_loss, actor, keep=True) for actor in self.actors]
            for actor, optimizer, own in zip(self.actors, self.actor_optimizers, gradients, strict=True):
                found.append(self.step(actor, optimizer, own))
        else:  # agents in turn, each against the actors already stepped
            for i, actor in enumerate(self.actors):
                found.append(self.step(actor, self.actor_optimizers[i], self.actor_loss(batch, is_weight, only=i)))
        return {"actor_loss": joint_loss.item(), "actor_gradients": found}

    def step(
        self, net: nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor | Sequence[torch.Tensor]
    ) -> Weights:
        """Step one network down a loss, or a gradient; clip it on its own where asked for. Gives the gradient."""
        gradient = gradient_of(loss, net) if isinstance(loss, torch.Tensor) else loss
        for parameter, values in zip(net.parameters(), gradient, strict=True):
            parameter.grad = values.clone()
        if self.config.clip_norm > 0:
            nn.utils.clip_grad_norm_(net.parameters(), self.config.clip_norm)
        optimizer.step()
        return {name: x.detach().clone() for (name, _), x in zip(net.named_parameters(), gradient, strict=True)}

    def pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Every online network with its target."""
        return [*zip(self.actors, self.target_actors, strict=True), (self.critic, self.target_critic)]

    def share_observations(self) -> None:
        """A target network uses what its online network has observed."""
        for online, target in self.pairs():
            for new, old in zip(online.buffers(), target.buffers(), strict=True):
                old.copy_(new)

    @torch.no_grad()
    def update_targets(self) -> None:
        """Soft update: move every target network the share τ of the way to its online network (1: exact copy)."""
        tau, own = self.config.tau, self.rule("update_target")
        for online, target in self.pairs():
            for new, old in zip(online.parameters(), target.parameters(), strict=True):
                if own:
                    own(new.reshape(1, 1, -1), old.view(1, 1, -1))
                else:
                    old.copy_(new if tau == 1 else tau * new + (1 - tau) * old)


class OwnOptimizer:
    """An experiment's optimiser, on one network: all of its parameters in one row, layer after layer."""

    def __init__(self, make: Callable[[dict[str, Layer]], Any], module: nn.Module, rate: float) -> None:
        self.parameters, self.rate, self.steps = list(module.parameters()), rate, 0
        layers: dict[str, Layer] = {}
        end = 0
        for name, parameter in module.named_parameters():
            layer = name.rpartition(".")[0] or name
            start = layers[layer].place.start if layer in layers else end
            end += parameter.numel()
            layers[layer] = Layer(slice(start, end), end - start)
        self.own = make(layers)
        self.moments = [self.row([torch.zeros_like(p) for p in self.parameters]) for _ in self.own.moments]

    def row(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """Tensors like the parameters as one row (1, P)."""
        return torch.cat([x.detach().reshape(-1) for x in tensors])[None].clone()

    @torch.no_grad()
    def step(self) -> None:
        """Subtract what the experiment's rule says."""
        self.steps += 1
        scales = self.own.scales(torch.tensor([self.rate], dtype=torch.float64), self.steps)
        weights, gradients = self.row(self.parameters), self.row([p.grad for p in self.parameters])
        scales = tuple(scales.to(weights.dtype)[:, None, :].unbind(-1))
        change = self.own.change(weights, gradients, tuple(self.moments), scales)[0]
        for parameter, part in zip(self.parameters, change.split([p.numel() for p in self.parameters]), strict=True):
            parameter -= part.view_as(parameter)


def with_tensors(module: nn.Module, tensors: Weights) -> nn.Module:
    """The module with these parameters and buffers."""
    module.load_state_dict(tensors)
    return module


def gradient_of(loss: torch.Tensor, net: nn.Module, keep: bool = False) -> Sequence[torch.Tensor]:
    """Gradient by the network's parameters, zeros for those that it does not use."""
    return torch.autograd.grad(loss, [*net.parameters()], retain_graph=keep, materialize_grads=True)
