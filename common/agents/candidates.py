"""Critic rows: every agent's personal input, the values of chosen rows, and the best proposer of each sample.

The rows of a sample are its N agents and, at index N, the zero row (s_i = a_i = 0), which stands in where
nobody proposes or nobody was accepted.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.agents.networks import Critic, Parameters

# Rows per product on the CPU: a chunk's hidden layer (512 wide, 2 MiB) stays in cache from one use to the next.
CHUNK_ROWS = 1024


def critic_inputs(states: Tensor, actions: Tensor) -> dict[str, Tensor]:
    """What a critic sees of states (R, B, N, 7) and actions (R, B, N, 3), by part, the N personal inputs as samples."""
    own = torch.cat((states, actions), dim=-1).flatten(1, 2)
    return {"states": states.flatten(2), "actions": actions.flatten(2), "personal": own}


def joint_part(critic: Critic, p: Parameters, states: Tensor, actions: Tensor) -> Tensor:
    """The critic's first layer for the joint input of each sample, (R, B, hidden).

    states (R, B, N, 7) and actions (R, B, N, 3) of all agents.
    """
    return critic.joint_part(p, states.flatten(2), actions.flatten(2))


def personal_inputs(states: Tensor, actions: Tensor) -> Tensor:
    """(s_i, a_i) of every agent and the zero row, (R, B, N + 1, 10)."""
    return torch.nn.functional.pad(torch.cat((states, actions), dim=-1), (0, 0, 0, 1))


def candidate_rows(proposes: Tensor) -> Tensor:
    """Rows over which a sample takes its maximum, (R, B, N + 1) bool: the proposers, or the zero row."""
    return torch.cat((proposes, ~proposes.any(-1, keepdim=True)), dim=-1)


def take_rows(personal: Tensor, rows: Tensor) -> Tensor:
    """Personal inputs (R, B, K, 10) of rows (R, B, K) out of (R, B, N + 1, 10)."""
    return personal.gather(2, rows.unsqueeze(-1).expand(*rows.shape, personal.shape[-1]))


def row_values(critic: Critic, p: Parameters, joint: Tensor, personal: Tensor, wanted: Tensor, dense: bool) -> Tensor:
    """Q of the wanted rows, -inf elsewhere: (R, B, N + 1).

    joint (R, B, hidden) from `joint_part`, personal (R, B, N + 1, 10), wanted (R, B, N + 1) bool. `dense`
    computes every row with shapes that do not depend on the data (what a GPU needs); otherwise only the wanted
    rows are computed, in chunks that stay in cache, one run after the other. No gradient is recorded.
    """
    with torch.no_grad():
        if dense:
            values = critic.values(p, joint, personal.flatten(1, 2)).view(wanted.shape)
            return torch.where(wanted, values, -torch.inf)
        return _wanted_row_values(critic, p, joint, personal, wanted)


def _wanted_row_values(critic: Critic, p: Parameters, joint: Tensor, personal: Tensor, wanted: Tensor) -> Tensor:
    runs, _, rows_per_sample = wanted.shape
    values = torch.full(wanted.shape, -torch.inf, dtype=personal.dtype)
    found = wanted.flatten(1).nonzero()
    counts = torch.bincount(found[:, 0], minlength=runs).tolist()
    for run, rows in enumerate(found[:, 1].split(counts)):
        if not len(rows):
            continue
        own = {name: value[run : run + 1] for name, value in p.items()}
        own_personal, own_values = personal[run].flatten(0, 1), values[run].view(-1)
        samples = torch.div(rows, rows_per_sample, rounding_mode="floor")
        for chunk, sample in zip(rows.split(CHUNK_ROWS), samples.split(CHUNK_ROWS), strict=True):
            own_values[chunk] = critic.values(
                own,
                joint[run].index_select(0, sample).unsqueeze(0),
                own_personal.index_select(0, chunk).unsqueeze(0),
            )[0]
    return values


def best_rows(
    critic: Critic, p: Parameters, joint: Tensor, personal: Tensor, wanted: Tensor, dense: bool
) -> tuple[Tensor, Tensor]:
    """Largest value over the wanted rows of each sample and its row, both (R, B); ties go to the first."""
    return row_values(critic, p, joint, personal, wanted, dense).max(-1)
