"""Prioritised replay (arXiv 1511.05952), stacked over runs, stored by whole episodes.

An episode of T transitions keeps T + 1 states, so no next state is stored twice. All runs of a shard are in
the same episode, so one position serves them all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from common.agents.bank import Zeros, plain_zeros
from common.config import StudyConfig
from common.environment.mec_env import ACTION_SIZE, STATE_SIZE, STEPS
from common.environment.records import TensorRecord

PRIORITY_OFFSET = 0.01
BETA_START, BETA_STEP = 0.4, 0.001


def importance_exponent(draws: int) -> float:
    """beta of the (draws + 1)-th draw: 0.4, then 0.001 more with each, up to 1."""
    return min(1.0, BETA_START + BETA_STEP * draws)


@dataclass(frozen=True)
class Batch(TensorRecord):
    """B transitions of r runs: states (r, B, N, 7), actions (r, B, N, 3), slots (r, B, K), the rest (r, B).

    target_noise (r, B, N, 3), where the algorithm wants it.
    """

    states: Tensor
    actions: Tensor
    slots: Tensor
    rewards: Tensor
    next_states: Tensor
    done: Tensor
    target_noise: Tensor | None = None


class Replay:
    """Ring of `episodes` episodes of T transitions for R runs."""

    def __init__(self, config: StudyConfig, runs: int, device: torch.device, zeros: Zeros = plain_zeros):
        """Empty replay in memory from `zeros`."""
        self.agents, self.zeros, dtype = config.agents, zeros, getattr(torch, config.dtype)
        self.alpha = config.replay_alpha
        self.episodes = min(config.replay_capacity // STEPS, config.episodes)
        steps = self.episodes * STEPS
        self.states = zeros((runs, self.episodes * (STEPS + 1), self.agents * STATE_SIZE), dtype, device)
        self.actions = zeros((runs, steps, self.agents * ACTION_SIZE), dtype, device)
        self.slots = zeros((runs, steps, config.channels), torch.int16, device)
        self.rewards = zeros((runs, steps), dtype, device)
        self.priorities = zeros((runs, steps), torch.float64, device)

    TENSORS = ("states", "actions", "slots", "rewards", "priorities")

    def insert(
        self,
        runs: slice,
        position: Tensor,
        states: Tensor,
        actions: Tensor,
        slots: Tensor,
        rewards: Tensor,
        td_squares: Tensor,
    ) -> None:
        """Store one episode of `runs` at ring position `position` (a 1-element tensor).

        states (r, T+1, N, 7), actions (r, T, N, 3), slots (r, T, K), rewards and td_squares (r, T).
        """
        rows = position * STEPS + torch.arange(STEPS, device=position.device)
        state_rows = position * (STEPS + 1) + torch.arange(STEPS + 1, device=position.device)
        self.states[runs].index_copy_(1, state_rows, states.flatten(2))
        self.actions[runs].index_copy_(1, rows, actions.flatten(2))
        self.slots[runs].index_copy_(1, rows, slots.to(torch.int16))
        self.rewards[runs].index_copy_(1, rows, rewards)
        self.priorities[runs].index_copy_(1, rows, priority(td_squares, self.alpha))

    def sample(self, runs: slice, draws: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        """Stratified sample: indices (r, B) and importance weights (r, B) of `runs` from draws (r, B) in [0, 1).

        Weights (n·P)^-beta divided by their maximum, which is where n cancels; float64.
        """
        priorities = self.priorities[runs]
        cumulative = priorities.cumsum(1)
        segments = torch.arange(draws.shape[1], device=draws.device, dtype=torch.float64)
        mass = (segments + draws) / draws.shape[1] * cumulative[:, -1:]
        last = ((priorities > 0).sum(1, keepdim=True) - 1).clamp(min=0)
        indices = torch.minimum(torch.searchsorted(cumulative, mass, right=True), last)
        logs = priorities.gather(1, indices).log()
        return indices, torch.exp((logs.amin(1, keepdim=True) - logs) * beta)

    def fetch(self, runs: slice, indices: Tensor, target_noise: Tensor | None = None) -> Batch:
        """Transitions `indices` (r, B) of `runs`."""
        row = torch.arange(indices.shape[0], device=indices.device).unsqueeze(1)
        state_rows = indices + torch.div(indices, STEPS, rounding_mode="floor")
        states = self.states[runs]
        return Batch(
            states[row, state_rows].unflatten(2, (self.agents, -1)),
            self.actions[runs][row, indices].unflatten(2, (self.agents, -1)),
            self.slots[runs][row, indices].long(),
            self.rewards[runs][row, indices],
            states[row, state_rows + 1].unflatten(2, (self.agents, -1)),
            indices % STEPS == STEPS - 1,
            target_noise,
        )

    def update_priorities(self, runs: slice, indices: Tensor, td_squares: Tensor) -> None:
        """New priorities of transitions `indices` (r, B), ascending, of `runs` from their squared TD errors (r, B).

        Of a transition that was drawn several times the last one counts: their errors differ where target noise does,
        and in the last bits, and CUDA writes them in any order.
        """
        last = torch.searchsorted(indices, indices, right=True) - 1
        self.priorities[runs].scatter_(1, indices, priority(td_squares.gather(1, last), self.alpha))

    def filled(self, episodes: int) -> dict[str, Tensor]:
        """The part of every tensor that the first `episodes` episodes have filled, as views."""
        share = min(episodes, self.episodes)
        tensors = {name: getattr(self, name) for name in self.TENSORS}
        return {name: value[:, : value.shape[1] // self.episodes * share] for name, value in tensors.items()}

    def keep(self, runs: Tensor, episodes: int) -> None:
        """Keep only these runs, copying no more than what `episodes` episodes have filled."""
        for name, filled in self.filled(episodes).items():
            old = getattr(self, name)
            new = self.zeros((len(runs), *old.shape[1:]), old.dtype, old.device)
            new[:, : filled.shape[1]] = filled.index_select(0, runs)
            setattr(self, name, new)


def priority(td_squares: Tensor, alpha: float) -> Tensor:
    """(sum of squared TD errors + 0.01)^alpha in float64; exp and log, whose bits are the same in any batch."""
    return torch.exp(alpha * torch.log(td_squares.double() + PRIORITY_OFFSET))
