"""Policies that need no learning, played on the learners' evaluation episodes: what a return is worth.

Evaluated in float64 on the CPU. In shapes: R seeds, E evaluation episodes, N agents, G grid points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.config import StudyConfig
from common.environment.evaluation import Evaluation, evaluation_tasks, summarise
from common.environment.mec_env import ACTION_SIZE, LOWEST_SHARE, SIZE, STEPS, STORAGE, MecEnv, draw_world, share
from common.environment.offloading import choose_offloads, proposes
from common.environment.random_streams import stream
from common.environment.rollout import Policy, play

GRID_POINTS = 200  # shares tried per task, spaced evenly in their logarithm from 0.01 to 1


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


def share_grid(points: int = GRID_POINTS) -> Tensor:
    """Shares from 0.01 to 1, float64 (points,)."""
    return torch.from_numpy(np.geomspace(LOWEST_SHARE, 1.0, points))


def best_local_share(env: MecEnv, state: Tensor) -> tuple[Tensor, Tensor]:
    """Per task the share alpha of least one-step cost without offloading, and that cost, both (…, N)."""
    grid = share_grid()
    costs = torch.stack([env.local_cost(state, torch.full_like(state[..., SIZE], float(a))) for a in grid], dim=-1)
    lowest, index = costs.min(-1)
    return grid[index], lowest


def best_radio_share(env: MecEnv, state: Tensor) -> Tensor:
    """Per task the share rho of least one-step cost of offloading to an idle server, (…, N)."""
    grid = share_grid(50)
    alone = torch.ones_like(state[..., SIZE], dtype=torch.bool)
    costs = []
    for value in grid:
        arrival, energy = env.radio(state, torch.full_like(state[..., SIZE], float(value)))
        # Each agent for itself: one offloaded task per "server", so there is no queue.
        finish = env.server_finish(state.unsqueeze(-2), alone.unsqueeze(-1), arrival.unsqueeze(-1)).squeeze(-1)
        costs.append(env.agent_costs(state, finish, energy)[0])
    return grid[torch.stack(costs, dim=-1).min(-1).indices]


def greedy_offloads(env: MecEnv, state: Tensor, alpha: Tensor, rho: Tensor) -> Tensor:
    """Offloads (…, N) bool: up to K times the one that lowers the total cost most, with the real queue.

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
    """All reference policies on these seeds' worlds and the fixed evaluation episodes."""
    env = MecEnv(config.env, config.channels)
    world = draw_world(seeds, config.agents, torch.float64, torch.device("cpu"))
    tasks = torch.from_numpy(evaluation_tasks(config.eval_episodes, config.agents))
    tasks = tasks.expand(len(seeds), *tasks.shape)

    def evaluate(policy: Policy) -> Evaluation:
        return summarise(play(env, world, tasks, policy))

    alphas, constant = _best_constant(env, config, evaluate)
    found = {
        "random": evaluate(_random_policy(config, seeds)),
        "constant": constant,
        "local_oracle": evaluate(lambda state, t: _without_offloads(state, best_local_share(env, state)[0])),
        "greedy_offload": evaluate(lambda state, t: _greedy(env, state)),
    }
    return [
        ReferenceResult(
            seed,
            name,
            float(alphas[i]) if name == "constant" else None,
            *(
                float(getattr(result, field)[i])
                for field in ("evaluation_return", "late_share", "drained_share", "offloads_per_step")
            ),
        )
        for i, seed in enumerate(seeds)
        for name, result in found.items()
    ]


def _without_offloads(state: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.zeros_like(alpha, dtype=torch.bool), alpha, torch.ones_like(alpha)


def _greedy(env: MecEnv, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    alpha, rho = best_local_share(env, state)[0], best_radio_share(env, state)
    return greedy_offloads(env, state, alpha, rho), alpha, rho


def _random_policy(config: StudyConfig, seeds: list[int]) -> Policy:
    """Outputs uniform in [-1, 1]; over the limits, agents are accepted at random."""
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


def _best_constant(env: MecEnv, config: StudyConfig, evaluate) -> tuple[Tensor, Evaluation]:
    """Per seed the single share alpha (R,) of the best return without offloading, and its evaluation (R,)."""
    grid = share_grid(100)
    tried = [
        evaluate(lambda state, t, a=float(a): _without_offloads(state, torch.full_like(state[..., SIZE], a)))
        for a in grid
    ]
    returns = torch.stack([e.evaluation_return for e in tried])
    best = returns.argmax(0)
    pick = {
        name: torch.stack([getattr(tried[int(g)], name)[i] for i, g in enumerate(best)])
        for name in ("evaluation_return", "late_share", "drained_share", "offloads_per_step")
    }
    return grid[best], Evaluation(**pick)
