"""Plays episodes under any policy: learners, their evaluations and the reference policies alike.

Only the battery links one step to the next, and the server's queue does not touch the battery. So the steps
advance only the energies, and rewards, queue and penalties of the whole episode follow in one piece.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.environment.mec_env import STATE_SIZE, STEPS, MecEnv, World
from common.environment.records import TensorRecord

# state (R, E, N, 7), step -> (offload (R, E, N) bool, alpha (R, E, N), rho (R, E, N))
Policy = Callable[[Tensor, int], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Trajectory(TensorRecord):
    """E episodes of R runs: states (R, E, T+1, N, 7), offloads (R, E, T, N) bool, the rest (R, E, T)."""

    states: Tensor
    offloads: Tensor
    rewards: Tensor
    late_share: Tensor
    drained_share: Tensor


def play(env: MecEnv, world: World, tasks: Tensor, policy: Policy) -> Trajectory:
    """Play the episodes whose tasks are given, (R, E, T+1, N, 3), in these worlds (fields (R, N))."""
    runs, episodes, _, agents, _ = tasks.shape
    states = torch.empty((runs, episodes, STEPS + 1, agents, STATE_SIZE), dtype=tasks.dtype, device=tasks.device)
    fixed = torch.stack((world.power, world.gain, world.energy), dim=-1)
    states[..., 0:3] = fixed[:, None, None]
    states[..., 3:6] = tasks
    states[..., 6] = world.processor[:, None, None]
    choices = []
    for t in range(STEPS):
        state = states[:, :, t]
        offload, alpha, rho = policy(state, t)
        states[:, :, t + 1, :, 2] = env.energy_after(state[..., 2], env.used_energy(state, offload, alpha, rho))
        choices.append((offload, alpha, rho))
    offloads, alphas, rhos = (torch.stack(column, dim=2) for column in zip(*choices, strict=True))
    outcome = env.step(states[:, :, :-1], offloads, alphas, rhos)
    return Trajectory(states, offloads, outcome.reward, outcome.late_share, outcome.drained_share)
