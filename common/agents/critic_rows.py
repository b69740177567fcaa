"""Critic rows (docs/algorithm.md): every agent's personal input, the values of chosen rows, the best of each sample.

The rows of a sample are its N agents and, at index N, the zero row (s_i = a_i = 0), which stands in where nobody
proposes or nobody was accepted.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from common.agents.bank import Bank
from common.agents.layout import Tensors

Value = Callable[[Tensor], Tensor]  # the critic's heads (…, H) -> one Q (…)


def personal_inputs(states: Tensor, actions: Tensor) -> Tensor:
    """(s_i, a_i) of every agent and the zero row, (R, B, N + 1, 10)."""
    return torch.nn.functional.pad(torch.cat((states, actions), dim=-1), (0, 0, 0, 1))


def candidate_rows(proposes: Tensor) -> Tensor:
    """Rows over which a sample takes its maximum, (R, B, N + 1) bool: the proposers, or the zero row."""
    return torch.cat((proposes, ~proposes.any(-1, keepdim=True)), dim=-1)


def take_rows(personal: Tensor, rows: Tensor) -> Tensor:
    """Personal inputs (R, B, K, 10) of rows (R, B, K) out of (R, B, N + 1, 10)."""
    return personal.gather(2, rows.unsqueeze(-1).expand(*rows.shape, personal.shape[-1]))


def joint_share(critics: Bank, p: Tensors, states: Tensor, actions: Tensor) -> Tensor:
    """The first layer's share of all states (R, B, N, 7) and all actions (R, B, N, 3), (R, B, units)."""
    return critics.call("joint", p, states.flatten(2), actions.flatten(2))


@torch.no_grad()
def row_values(
    critics: Bank, p: Tensors, joint: Tensor, personal: Tensor, wanted: Tensor, value: Value, dense: bool
) -> Tensor:
    """Q of the wanted rows, -inf elsewhere: (R, B, N + 1). Records no gradient.

    joint (R, B, units), personal (R, B, N + 1, 10), wanted (R, B, N + 1) bool. `dense` computes all rows, with shapes
    that do not depend on the data (what a GPU needs); otherwise only the wanted ones, run by run.
    """
    if dense:
        values = value(critics.call("values", p, joint.unsqueeze(2), personal))
        return torch.where(wanted, values, -torch.inf)
    values = torch.full(wanted.shape, -torch.inf, dtype=personal.dtype)
    rows = wanted.shape[2]
    for run in range(len(wanted)):
        own = {name: x[run] for name, x in p.items()}
        own_personal, own_values = personal[run].flatten(0, 1), values[run].view(-1)
        chosen = wanted[run].view(-1).nonzero().squeeze(1)
        samples = torch.div(chosen, rows, rounding_mode="floor")
        inputs = joint[run].index_select(0, samples), own_personal.index_select(0, chosen)
        own_values[chosen] = value(critics.call_one("values", own, *inputs))
    return values
