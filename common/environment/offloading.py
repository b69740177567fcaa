"""The server-constrained choice of offloads (docs/algorithm.md, "Decision"): pure functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor

PROPOSE_THRESHOLD = 0.0  # an agent proposes to offload when its first output is at least this


def proposes(actions: Tensor) -> Tensor:
    """Tell which agents propose to offload, (…, N) bool, from actions (…, N, 3)."""
    return actions[..., 0] >= PROPOSE_THRESHOLD


def exceeds_limits(proposes: Tensor, sizes: Tensor, channels: int, storage: float) -> Tensor:
    """Tell where the proposals are more than `channels` or their sizes sum to more than `storage`.

    proposes (…, N) bool, sizes (…, N) in the preset's unit; returns (…,) bool.
    """
    return (proposes.sum(-1) > channels) | ((sizes * proposes).sum(-1) > storage)


def rank_and_accept(proposes: Tensor, sizes: Tensor, scores: Tensor, channels: int, storage: float) -> Tensor:
    """Accept proposers best score first while they fit; one that does not fit is passed over.

    proposes, sizes, scores (…, N), finite; returns accepted (…, N) bool. The total only grows, so one that does
    not fit never will: taking the best that still fits, `channels` times, equals walking down the ranking.
    """
    total = torch.zeros_like(sizes[..., :1])
    accepted = torch.zeros_like(proposes)
    for _ in range(channels):
        fits = proposes & ~accepted & (total + sizes < storage)
        best = torch.where(fits, scores, -torch.inf).argmax(-1, keepdim=True)
        taken = fits.gather(-1, best)
        accepted = accepted.scatter(-1, best, accepted.gather(-1, best) | taken)
        total = total + sizes.gather(-1, best) * taken
    return accepted


def accept_at_random(order: Tensor, sizes: Tensor, channels: int, storage: float) -> Tensor:
    """Accept the first `channels` agents of `order`, dropping the last until the sizes sum to <= storage.

    order (…, N) a permutation of ALL agents (proposing or not); returns accepted (…, N) bool.
    """
    drawn = order[..., :channels]
    fits = sizes.gather(-1, drawn).cumsum(-1) <= storage
    return torch.zeros_like(sizes, dtype=torch.bool).scatter(-1, drawn, fits)


def choose_offloads(
    proposes: Tensor,
    sizes: Tensor,
    scores: Tensor | None,
    channels: int,
    storage: float,
    explore: Tensor | None = None,
    order: Tensor | None = None,
) -> Tensor:
    """Choose who offloads: all proposers if they fit, else the drawn ones or the best-ranked ones.

    proposes (…, N) bool; sizes (…, N); scores (…, N), read only for proposers where a ranking is needed, None where
    it nowhere is; explore (…,) bool and order (…, N): where the limits are exceeded and `explore` is true, agents are
    accepted at random. Returns accepted (…, N) bool.
    """
    over = exceeds_limits(proposes, sizes, channels, storage).unsqueeze(-1)
    chosen = proposes if scores is None else rank_and_accept(proposes, sizes, scores, channels, storage)
    if explore is not None:
        drawn = accept_at_random(order, sizes, channels, storage)
        chosen = torch.where(explore.unsqueeze(-1), drawn, chosen)
    return torch.where(over, chosen, proposes)


def offload_slots(accepted: Tensor, channels: int) -> Tensor:
    """List the accepted agents, ascending, in `channels` slots; empty slots hold N. (…, channels) int64."""
    agents = accepted.shape[-1]
    indices = torch.arange(agents, device=accepted.device).expand(accepted.shape)
    return torch.where(accepted, indices, agents).sort(dim=-1).values[..., :channels]
