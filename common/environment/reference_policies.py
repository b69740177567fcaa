"""Policies that need no learning, played on the learners' evaluation episodes: what a return is worth.

Definitions: docs/environment.md, "Reference policies". Computed in float64 on the CPU. In shapes: R seeds,
E evaluation episodes, N agents, G grid points.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from common.config import StudyConfig
from common.environment.evaluation import Evaluation, evaluation_tasks, summarise
from common.environment.mec_env import ACTION_SIZE, LOWEST_SHARE, SIZE, STEPS, STORAGE, MecEnv, World, draw_world, share
from common.environment.offloading import choose_offloads, proposes
from common.environment.random_streams import stream
from common.environment.records import joined
from common.environment.rollout import Policy, play

LOCAL_GRID, RADIO_GRID, CONSTANT_GRID = 200, 50, 100  # shares that are tried, evenly spaced in their logarithm
CONSTANTS_AT_ONCE = 10  # constant policies played as one batch; bounds the memory of a study with many seeds


@dataclass(frozen=True)
class ReferenceResult:
    """One policy on one seed's world; `alpha` is the share that the constant policy uses, else None."""

    seed: int
    policy: str
    alpha: float | None
    evaluation_return: float
    late_share: float
    drained_share: float
    offloads_per_step: float


def share_grid(points: int) -> Tensor:
    """Space `points` shares from 0.01 to 1 evenly in their logarithm, float64 (points,)."""
    return torch.from_numpy(np.geomspace(LOWEST_SHARE, 1.0, points))


def best_local_share(env: MecEnv, state: Tensor) -> tuple[Tensor, Tensor]:
    """Find each task's share alpha of least one-step cost without offloading, and that cost, both (…, N)."""
    grid = share_grid(LOCAL_GRID)
    lowest, index = env.local_cost(state, _each(grid, state)).min(0)
    return grid[index], lowest


def best_radio_share(env: MecEnv, state: Tensor) -> Tensor:
    """Find each task's share rho of least one-step cost of offloading to an idle server, (…, N)."""
    grid = share_grid(RADIO_GRID)
    arrival, energy = env.radio(state, _each(grid, state))
    return grid[env.agent_costs(state, arrival + env.server_work(state), energy)[0].argmin(0)]


def _each(grid: Tensor, state: Tensor) -> Tensor:
    """Give every task every share of the grid (G,): (G, …, 1) for state (…, N, 7)."""
    return grid.view(-1, *[1] * (state.dim() - 1))


def greedy_offloads(env: MecEnv, state: Tensor, alpha: Tensor, rho: Tensor) -> Tensor:
    """Offload up to K tasks, each time the one that lowers the total cost most, with the real queue; (…, N) bool.

    Starts from nobody and stops where no further offload within storage S gains anything.
    """
    agents = state.shape[-2]
    local_delay, local_energy = env.local(state, alpha)
    arrival, radio_energy = env.radio(state, rho)

    def total_cost(offload: Tensor) -> Tensor:
        trials = state.unsqueeze(-3).expand(*offload.shape, state.shape[-1])
        finish = env.server_finish(trials, offload, arrival.unsqueeze(-2).expand_as(offload))
        delay = torch.where(offload, finish, local_delay.unsqueeze(-2))
        energy = torch.where(offload, radio_energy.unsqueeze(-2), local_energy.unsqueeze(-2))
        return env.agent_costs(trials, delay, energy)[0].sum(-1)

    offload = torch.zeros_like(state[..., SIZE], dtype=torch.bool)
    cost = total_cost(offload.unsqueeze(-2)).squeeze(-1)
    one_more = torch.eye(agents, dtype=torch.bool)
    for _ in range(env.channels):
        trials = offload.unsqueeze(-2) | one_more
        size = (trials * state[..., SIZE].unsqueeze(-2)).sum(-1)
        costs = torch.where((size <= STORAGE) & ~offload, total_cost(trials), torch.inf)
        lowest, index = costs.min(-1)
        better = lowest < cost
        if not better.any():
            break
        chosen = torch.nn.functional.one_hot(index, agents).bool()
        offload = torch.where(better.unsqueeze(-1), offload | chosen, offload)
        cost = torch.where(better, lowest, cost)
    return offload


def evaluate_references(config: StudyConfig, seeds: list[int]) -> list[ReferenceResult]:
    """Play all reference policies on these seeds' worlds and the fixed evaluation episodes."""
    env = MecEnv(config.env, config.channels)
    world = draw_world(seeds, config.agents, torch.float64, torch.device("cpu"))
    tasks = torch.from_numpy(evaluation_tasks(config.eval_episodes, config.agents))
    tasks = tasks.expand(len(seeds), *tasks.shape)

    def evaluate(policy: Policy) -> Evaluation:
        return summarise(play(env, world, tasks, policy))

    alphas, constant = best_constant(env, world, tasks)
    found = {
        "random": evaluate(_random_policy(config, seeds)),
        "constant": constant,
        "local_oracle": evaluate(lambda state, t: _without_offloads(best_local_share(env, state)[0])),
        "greedy_offload": evaluate(lambda state, t: _greedy(env, state)),
    }
    return [
        ReferenceResult(
            seed,
            name,
            float(alphas[i]) if name == "constant" else None,
            **{f.name: float(getattr(result, f.name)[i]) for f in fields(Evaluation)},
        )
        for i, seed in enumerate(seeds)
        for name, result in found.items()
    ]


def best_constant(env: MecEnv, world: World, tasks: Tensor) -> tuple[Tensor, Evaluation]:
    """Find each seed's single share alpha (R,) of the best return without offloading, and its evaluation.

    world: fields (R, N); tasks (R, E, T+1, N, 3).
    """
    grid = share_grid(CONSTANT_GRID)
    tried = joined([_constants(env, world, tasks, shares) for shares in grid.split(CONSTANTS_AT_ONCE)])
    best = tried.evaluation_return.argmax(0)
    return grid[best], tried.map(lambda values: values.gather(0, best[None])[0])


def _constants(env: MecEnv, world: World, tasks: Tensor, shares: Tensor) -> Evaluation:
    """Evaluate the constant policies of these shares (G,) on every seed, (G, R), as so many more worlds."""
    count, seeds = len(shares), len(tasks)
    alpha = shares.repeat_interleave(seeds).view(-1, 1, 1)

    def policy(state: Tensor, t: int) -> tuple[Tensor, Tensor, Tensor]:
        return _without_offloads(alpha.expand_as(state[..., SIZE]))

    worlds = world.map(lambda values: values.repeat(count, 1))
    played = play(env, worlds, tasks.repeat(count, 1, 1, 1, 1), policy)
    return summarise(played).map(lambda values: values.unflatten(0, (count, seeds)))


def _without_offloads(alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.zeros_like(alpha, dtype=torch.bool), alpha, torch.ones_like(alpha)


def _greedy(env: MecEnv, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    alpha, rho = best_local_share(env, state)[0], best_radio_share(env, state)
    return greedy_offloads(env, state, alpha, rho), alpha, rho


def _random_policy(config: StudyConfig, seeds: list[int]) -> Policy:
    """Act uniformly in [-1, 1]; over the limits, agents are accepted at random."""
    shape = (config.eval_episodes, STEPS, config.agents)
    streams = [stream(seed, "random policy") for seed in seeds]
    outputs = torch.from_numpy(np.stack([s.uniform(-1.0, 1.0, (*shape, ACTION_SIZE)) for s in streams]))
    order = torch.from_numpy(np.stack([np.argsort(s.random(shape), axis=-1) for s in streams]))

    def policy(state: Tensor, t: int) -> tuple[Tensor, Tensor, Tensor]:
        actions, sizes = outputs[:, :, t], state[..., SIZE]
        always = torch.ones(sizes.shape[:-1], dtype=torch.bool)
        offload = choose_offloads(
            proposes(actions), sizes, torch.zeros_like(sizes), config.channels, STORAGE, always, order[:, :, t]
        )
        return offload, share(actions[..., 1]), share(actions[..., 2])

    return policy
