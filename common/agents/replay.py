"""Prioritised replay (arXiv 1511.05952), stacked over runs, stored by whole episodes.

An episode of T transitions keeps T + 1 states, so no next state is stored twice. All runs of a shard are in
the same episode, so one position serves them all.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.agents.bank import Zeros, plain_zeros

ALPHA = 0.6
PRIORITY_OFFSET = 0.01
BETA_START, BETA_STEP = 0.4, 0.001


def importance_exponent(draws: int) -> float:
    """beta of the (draws + 1)-th draw: 0.4, then 0.001 more with each, up to 1."""
    return min(1.0, BETA_START + BETA_STEP * draws)


class Replay:
    """Ring of `episodes` episodes of `steps` transitions for R runs."""

    def __init__(
        self,
        runs: int,
        episodes: int,
        steps: int,
        agents: int,
        sizes: tuple[int, int],
        slots: int,
        dtype: torch.dtype,
        device: torch.device,
        zeros: Zeros = plain_zeros,
    ):
        """Empty replay in memory from `zeros`; `sizes` are the widths of one agent's state and action."""
        state_size, action_size = (agents * size for size in sizes)
        self.steps, self.episodes, self.zeros = steps, episodes, zeros
        self.states = zeros((runs, episodes * (steps + 1), state_size), dtype, device)
        self.actions = zeros((runs, episodes * steps, action_size), dtype, device)
        self.slots = zeros((runs, episodes * steps, slots), torch.int16, device)
        self.rewards = zeros((runs, episodes * steps), dtype, device)
        self.priorities = zeros((runs, episodes * steps), torch.float64, device)

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

        states (r, T+1, 7N), actions (r, T, 3N), slots (r, T, K), rewards and td_squares (r, T).
        """
        steps = torch.arange(self.steps, device=position.device)
        rows = position * self.steps + steps
        state_rows = position * (self.steps + 1) + torch.arange(self.steps + 1, device=position.device)
        self.states[runs].index_copy_(1, state_rows, states)
        self.actions[runs].index_copy_(1, rows, actions)
        self.slots[runs].index_copy_(1, rows, slots.to(torch.int16))
        self.rewards[runs].index_copy_(1, rows, rewards)
        self.priorities[runs].index_copy_(1, rows, priority(td_squares))

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

    def fetch(self, runs: slice, indices: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """States, actions, slots, rewards, next states and done of transitions `indices` (r, B) of `runs`."""
        row = torch.arange(indices.shape[0], device=indices.device).unsqueeze(1)
        step = indices % self.steps
        state_rows = indices + torch.div(indices, self.steps, rounding_mode="floor")
        states = self.states[runs]
        return (
            states[row, state_rows],
            self.actions[runs][row, indices],
            self.slots[runs][row, indices].long(),
            self.rewards[runs][row, indices],
            states[row, state_rows + 1],
            step == self.steps - 1,
        )

    def update_priorities(self, runs: slice, indices: Tensor, td_squares: Tensor) -> None:
        """New priorities of transitions `indices` (r, B), ascending, of `runs` from their squared TD errors (r, B).

        Of a transition that was drawn several times the last one counts: their errors differ where target noise does,
        and in the last bits, and CUDA writes them in any order.
        """
        last = torch.searchsorted(indices, indices, right=True) - 1
        self.priorities[runs].scatter_(1, indices, priority(td_squares.gather(1, last)))

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


def priority(td_squares: Tensor) -> Tensor:
    """(sum of squared TD errors + 0.01)^0.6 in float64; exp and log, whose bits are the same in any batch."""
    return torch.exp(ALPHA * torch.log(td_squares.double() + PRIORITY_OFFSET))
