"""One run of environment and learner, written the slow and obvious way, to check the fast code against.

One `nn.Sequential` and one Adam per agent, and plain loops over agents, samples and critic rows. The only module
shared with the project is `common.environment.random_streams`, because both sides must see the same draws. The
environment always computes in float64; `dtype` is the precision of
networks and actions. Letters in shapes: N agents, B batch.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from common.environment.random_streams import episode_draws, stream

STEPS = 10
STORAGE, SERVER_UNITS, SERVER_HZ = 400.0, 8, 4e9
BANDWIDTH_HZ, KAPPA, DEADLINE_CAP = 40e6, 5e-27, 1.0
# power (dBm), initial energy (MJ), gain (dB), compute (GHz); then size, cycles per bit, deadline (s)
WORLD_RANGES = [(1.0, 24.0), (0.5, 3.2), (5.0, 14.0), (0.4, 1.5)]
TASK_RANGES = [(1.0, 50.0), (300.0, 737.5), (0.1, 0.9)]
# bits per unit of size, exponent of the frequency in the local energy
PRESETS = {"scaled": (8 * 1024**2, 2), "thesis": (8 * 1024, 1), "interior": (8 * 1024, 2)}

WEIGHT_NAMES = [f"fc{layer}.{kind}" for layer in (1, 2, 3) for kind in ("weight", "bias")]

Weights = dict[str, np.ndarray]


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
    """Finish time (s) of every offloaded agent at the server, double counting included (SYSTEM section 2)."""
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


class NaiveNetwork(nn.Sequential):
    """Layers in a row. What a variant's layers observe instead of learning it are their buffers."""

    def observe_step(self, *inputs: torch.Tensor) -> None:
        """One step of a training episode, before the network acts on it.

        inputs: of an actor its state (7,); of a critic the joint input (10N,) and all personal ones (N, 10).
        """

    def observe_batch(self, states: torch.Tensor) -> None:
        """What an actor is about to be trained on: states (B, 7)."""


def baseline_network(sizes: Sequence[int]) -> NaiveNetwork:
    """Two ReLU layers and a linear output; the caller applies an actor's tanh."""
    first, second, third = (nn.Linear(sizes[i], sizes[i + 1]) for i in range(3))
    return NaiveNetwork(OrderedDict(fc1=first, relu1=nn.ReLU(), fc2=second, relu2=nn.ReLU(), fc3=third))


def with_weights(net: NaiveNetwork, weights: Weights, dtype: torch.dtype) -> NaiveNetwork:
    """The network with the given weights."""
    parameters = dict(net.to(dtype).named_parameters())
    if parameters.keys() != weights.keys():
        raise ValueError(f"weights are {sorted(weights)}; allowed are {sorted(parameters)}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.tensor(weights[name]))
    return net


def as_weights(tensors: Iterable[torch.Tensor], names: Iterable[str] = WEIGHT_NAMES) -> Weights:
    """Tensors in the order of `parameters()` as arrays with their names, fc1.weight ... fc3.bias by default."""
    return {name: tensor.detach().numpy().copy() for name, tensor in zip(names, tensors, strict=True)}


def weights_of(net: nn.Module) -> Weights:
    """A network's weights as arrays with their names."""
    return as_weights(net.parameters(), dict(net.named_parameters()))


@dataclass
class Transition:
    """One step as the replay keeps it: states (N, 7), noisy action (N, 3), accepted (N,)."""

    state: np.ndarray
    action: np.ndarray
    accepted: np.ndarray
    reward: float
    next_state: np.ndarray
    done: bool


class NaiveRun:
    """Environment, networks, optimisers and replay of one run; `episode(1)`, `episode(2)`, ... train it."""

    def __init__(
        self,
        *,
        preset: str,
        seed: int,
        agents: int,
        channels: int,
        batch_size: int,
        actor_lr: float,
        critic_lr: float,
        actor_update: str,
        tau: float,
        actor_weights: list[Weights],
        critic_weights: Weights,
        updates_per_episode: int = 1,
        gamma: float = 0.99,
        replay_capacity: int = 10_000,
        clip_norm: float = 0.0,
        actor_hidden: tuple[int, int] = (64, 32),
        critic_hidden: tuple[int, int] = (512, 128),
        dtype: torch.dtype = torch.float64,
        actor_network: Callable[[Sequence[int]], NaiveNetwork] = baseline_network,
        critic_network: Callable[[Sequence[int]], NaiveNetwork] = baseline_network,
    ) -> None:
        if actor_update not in ("joint", "sequential"):
            raise ValueError(f"actor_update is {actor_update!r}; allowed are 'joint' and 'sequential'")
        self.preset, self.seed, self.agents, self.channels = preset, seed, agents, channels
        self.batch_size, self.updates, self.actor_update = batch_size, updates_per_episode, actor_update
        self.tau, self.gamma, self.clip_norm, self.dtype = tau, gamma, clip_norm, dtype
        actor_sizes, critic_sizes = (7, *actor_hidden, 3), (10 * agents + 10, *critic_hidden, 1)
        self.actors = [with_weights(actor_network(actor_sizes), actor_weights[i], dtype) for i in range(agents)]
        self.critic = with_weights(critic_network(critic_sizes), critic_weights, dtype)
        self.target_actors = [copy.deepcopy(actor) for actor in self.actors]
        self.target_critic = copy.deepcopy(self.critic)
        self.actor_optimizers = [torch.optim.Adam(actor.parameters(), lr=actor_lr) for actor in self.actors]
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=critic_lr)
        self.world = naive_world(seed, agents)
        self.capacity, self.stored = replay_capacity, 0
        self.replay: list[Transition] = []
        self.priorities, self.draws_made = np.zeros(0), 0
        self.last_reports: list[dict[str, Any]] = []

    def actor_weights(self) -> list[Weights]:
        """Weights of every online actor."""
        return [weights_of(actor) for actor in self.actors]

    def critic_weights(self) -> Weights:
        """Weights of the online critic."""
        return weights_of(self.critic)

    def tensor(self, values: np.ndarray) -> torch.Tensor:
        """Numbers in the precision of the networks."""
        return torch.tensor(values, dtype=self.dtype)

    def policy(self, actors: Sequence[nn.Module], state: np.ndarray) -> list[torch.Tensor]:
        """Action (3,) of every agent, without noise, as a list of N tensors."""
        return [torch.tanh(actors[i](self.tensor(state[i]))) for i in range(self.agents)]

    def q_row(
        self, critic: nn.Module, state: np.ndarray, actions: Sequence[torch.Tensor], agent: int | None
    ) -> torch.Tensor:
        """Q (scalar) of all states, all actions and one agent's own pair; `None` is the zero row."""
        own = [torch.zeros(10, dtype=self.dtype)]
        if agent is not None:
            own = [self.tensor(state[agent]), actions[agent]]
        return critic(torch.cat([self.tensor(state.reshape(-1)), *actions, *own]))[0]

    def best_q(self, critic: nn.Module, state: np.ndarray, actions: Sequence[torch.Tensor]) -> torch.Tensor:
        """Largest Q over the proposing agents (the first of equals), or of the zero row if there are none."""
        proposers: list[int | None] = [i for i in range(self.agents) if actions[i][0] >= 0]
        values = [self.q_row(critic, state, actions, i) for i in proposers or [None]]
        return values[int(np.argmax([q.item() for q in values]))]

    def episode(self, number: int) -> float:
        """Rollout, storing, training; `number` counts from 1. Gives the training return."""
        draws = episode_draws(self.seed, number, STEPS, self.agents, self.updates, self.batch_size)
        epsilon = 0.01 + 0.99 * math.exp(-number / 2000)
        state = naive_state(self.world, self.world[1], draws.tasks[0])
        steps: list[Transition] = []
        for t in range(STEPS):
            for i, actor in enumerate(self.actors):
                actor.observe_step(self.tensor(state[i]))
            with torch.no_grad():
                quiet = torch.stack(self.policy(self.actors, state))
            action = torch.clamp(quiet + epsilon * self.tensor(draws.noise[t]), -1.0, 1.0).numpy()
            own = np.concatenate([state, action], axis=1)
            joint = np.concatenate([state.reshape(-1), action.reshape(-1)])
            self.critic.observe_step(self.tensor(joint), self.tensor(own))
            self.share_observations()
            accepted = self.decide(state, action, draws.order[t] if draws.coin[t] < epsilon else None)
            alpha, rho = (0.01 + 0.99 * (action[:, column] + 1) / 2 for column in (1, 2))
            reward, energy, _, _ = naive_step(self.preset, state, accepted, alpha, rho, self.channels)
            next_state = naive_state(self.world, energy, draws.tasks[t + 1])
            steps.append(Transition(state, action, accepted, reward, next_state, t == STEPS - 1))
            state = next_state
        for transition in steps:
            self.store(transition)
        self.last_reports = []
        if number >= 2:
            for update in range(self.updates):
                chosen, is_weight = self.sample(draws.replay[update])
                report = self.train_step([self.replay[i] for i in chosen], is_weight)
                for i, td in zip(chosen, report["td_error_sq_sum"], strict=True):
                    self.priorities[i] = (td + 0.01) ** 0.6
                self.last_reports.append(report | {"slots": chosen, "is_weight": is_weight})
        return sum(transition.reward for transition in steps)

    def decide(self, state: np.ndarray, action: np.ndarray, random_order: np.ndarray | None) -> np.ndarray:
        """Accepted agents (N,) for a joint action (N, 3), ranked by the online critic unless at random."""
        with torch.no_grad():
            actions = [self.tensor(row) for row in action]
            scores = [float(self.q_row(self.critic, state, actions, i)) for i in range(self.agents)]
        return naive_choose(action[:, 0] >= 0, state[:, 3], scores, self.channels, random_order)

    def store(self, transition: Transition) -> None:
        """Put a transition into the next slot of the ring with the priority of its own TD errors."""
        with torch.no_grad():
            target = self.td_target(transition)
            td = sum(float((q - target) ** 2) for q in self.accepted_rows(transition))
        self.put(transition, (td + 0.01) ** 0.6)

    def put(self, transition: Transition, priority: float) -> None:
        """Write a transition over the oldest one, or at the end while there is room."""
        if len(self.replay) < self.capacity:
            self.replay.append(transition)
            self.priorities = np.append(self.priorities, priority)
        else:
            slot = self.stored % self.capacity
            self.replay[slot], self.priorities[slot] = transition, priority
        self.stored += 1

    def sample(self, unit: np.ndarray) -> tuple[list[int], np.ndarray]:
        """Slots of a stratified draw from unit draws (B,), and their importance weights (B,)."""
        count, total = len(self.replay), float(np.sum(self.priorities))
        cumulative = np.cumsum(self.priorities)
        beta = min(1.0, 0.4 + 0.001 * self.draws_made)
        self.draws_made += 1
        chosen, weights = [], []
        for b in range(self.batch_size):
            mass = (b + unit[b]) / self.batch_size * total
            slot = next((i for i in range(count) if cumulative[i] > mass), count - 1)
            chosen.append(slot)
            weights.append((count * self.priorities[slot] / total) ** -beta)
        return chosen, np.array(weights) / max(weights)

    def td_target(self, transition: Transition) -> torch.Tensor:
        """y of one transition, from the target networks; just the reward when the episode ends there."""
        reward = torch.tensor(transition.reward, dtype=self.dtype)
        if transition.done:
            return reward
        with torch.no_grad():
            actions = self.policy(self.target_actors, transition.next_state)
            return reward + self.gamma * self.best_q(self.target_critic, transition.next_state, actions)

    def accepted_rows(self, transition: Transition) -> list[torch.Tensor]:
        """Online Q of each accepted agent's row, or of the zero row if nobody was accepted."""
        rows: list[int | None] = [i for i in range(self.agents) if transition.accepted[i] == 1]
        actions = [self.tensor(row) for row in transition.action]
        return [self.q_row(self.critic, transition.state, actions, i) for i in rows or [None]]

    def train_step(self, batch: Sequence[Transition], is_weight: np.ndarray) -> dict[str, Any]:
        """Critic step, actor steps against the new critic, target update; the caller sets priorities."""
        report = self.critic_step(batch, is_weight)
        for i, actor in enumerate(self.actors):
            actor.observe_batch(self.tensor(np.stack([transition.state[i] for transition in batch])))
        self.share_observations()
        report |= self.actor_step(batch, is_weight)
        self.update_targets()
        return report

    def critic_step(self, batch: Sequence[Transition], is_weight: np.ndarray) -> dict[str, Any]:
        """One Adam step of the critic; td_error_sq_sum (B,), loss and unclipped gradient before it."""
        errors, td_error_sq_sum = [], []
        for transition, weight in zip(batch, is_weight, strict=True):
            target = self.td_target(transition)
            rows = self.accepted_rows(transition)
            errors.extend((float(weight) * q - float(weight) * target) ** 2 for q in rows)
            td_error_sq_sum.append(sum(float((q.detach() - target) ** 2) for q in rows))
        loss = sum(errors) / len(errors)
        gradient = torch.autograd.grad(loss, [*self.critic.parameters()])
        self.step(self.critic, self.critic_optimizer, gradient)
        report = {"td_error_sq_sum": np.array(td_error_sq_sum), "critic_loss": loss.item()}
        return report | {"critic_gradient": as_weights(gradient, dict(self.critic.named_parameters()))}

    def actor_loss(self, batch: Sequence[Transition], is_weight: np.ndarray) -> torch.Tensor:
        """Minus the weighted mean over the batch of the best Q under the present actors and critic."""
        total = torch.zeros((), dtype=self.dtype)
        for transition, weight in zip(batch, is_weight, strict=True):
            actions = self.policy(self.actors, transition.state)
            total = total + float(weight) * self.best_q(self.critic, transition.state, actions)
        return -total / len(batch)

    def actor_step(self, batch: Sequence[Transition], is_weight: np.ndarray) -> dict[str, Any]:
        """One Adam step of every actor; the loss before all of them and each actor's unclipped gradient."""
        joint_loss = self.actor_loss(batch, is_weight)
        gradients = []
        if self.actor_update == "joint":
            for actor in self.actors:
                gradients.append(torch.autograd.grad(joint_loss, [*actor.parameters()], retain_graph=True))
        for i, actor in enumerate(self.actors):
            if self.actor_update == "sequential":
                loss = self.actor_loss(batch, is_weight)
                gradients.append(torch.autograd.grad(loss, [*actor.parameters()]))
            self.step(actor, self.actor_optimizers[i], gradients[i])
        names = [name for name, _ in self.actors[0].named_parameters()]
        return {"actor_loss": joint_loss.item(), "actor_gradients": [as_weights(g, names) for g in gradients]}

    def step(self, net: nn.Module, optimizer: torch.optim.Adam, gradient: Sequence[torch.Tensor]) -> None:
        """Clip one network's gradient on its own, where asked for, and let its Adam step."""
        for parameter, values in zip(net.parameters(), gradient, strict=True):
            parameter.grad = values.clone()
        if self.clip_norm > 0:
            nn.utils.clip_grad_norm_(net.parameters(), self.clip_norm)
        optimizer.step()

    def pairs(self) -> list[tuple[NaiveNetwork, NaiveNetwork]]:
        """Every online network with its target."""
        return [*zip(self.actors, self.target_actors, strict=True), (self.critic, self.target_critic)]

    def share_observations(self) -> None:
        """A target network uses what its online network has observed."""
        for online, target in self.pairs():
            for new, old in zip(online.buffers(), target.buffers(), strict=True):
                old.copy_(new)

    def update_targets(self) -> None:
        """Move every target network the share tau of the way to its online network (1: exact copy)."""
        with torch.no_grad():
            for online, target in self.pairs():
                for new, old in zip(online.parameters(), target.parameters(), strict=True):
                    old.copy_(new if self.tau == 1 else self.tau * new + (1 - self.tau) * old)
