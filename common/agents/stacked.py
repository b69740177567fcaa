"""Parameters of one kind of network for all runs of a shard, with their optimiser state and target copy."""

from __future__ import annotations

from torch import Tensor

from common.agents.networks import Actor, Critic, Parameters
from common.agents.optimizer import adam_step
from common.training.memory import shared, shared_zeros


class StackedNetworks:
    """M networks of each of R runs in one flat tensor (R, M, P)."""

    def __init__(self, network: Actor | Critic, flat: Tensor, statistics: Tensor, separate_target: bool):
        """Start at `flat` and `statistics` (R, M, S); with tau = 1 the target is the network itself, without a copy."""
        self.network, self.layout = network, network.layout
        self.flat = shared(flat)
        self.first, self.second = (shared_zeros(flat.shape, flat.dtype, flat.device) for _ in range(2))
        self.target = shared(flat) if separate_target else None
        self.statistics = shared(statistics) if statistics.numel() else None  # one set, for the target too

    def views(self, runs: slice, members: slice = slice(None), target: bool = False) -> Parameters:
        """Parameters and statistics of networks `members` of `runs`, (r·m, …) each; of all members without a copy."""
        flat = self.target if target and self.target is not None else self.flat
        return self._views(flat, runs, members) | self._statistics(runs, members)

    def leaves(self, runs: slice, members: slice = slice(None)) -> tuple[Parameters, Parameters]:
        """Their parameters as leaves of a gradient computation, and these with the statistics."""
        views = self._views(self.flat, runs, members)
        leaves = {name: view.detach().requires_grad_() for name, view in views.items()}
        return leaves, leaves | self._statistics(runs, members)

    def _views(self, flat: Tensor, runs: slice, members: slice) -> Parameters:
        # `.data` for a version count of its own: some agents are stepped before the backward pass of others.
        return self.layout.views(flat.data[runs, members])

    def _statistics(self, runs: slice, members: slice) -> Parameters:
        return {} if self.statistics is None else self.network.statistics.views(self.statistics[runs, members])

    def step(
        self,
        runs: slice,
        members: slice,
        gradients: Tensor,
        step_size: Tensor,
        correction: Tensor,
        exact: bool = True,
    ) -> Tensor:
        """Adam on networks `members` of `runs`, step_size (R,); returns their weight change (r, m, P)."""
        part = (runs, members)
        return adam_step(
            self.flat[part], gradients, self.first[part], self.second[part], step_size[runs], correction, exact
        )

    def follow(self, runs: slice, tau: float) -> None:
        """target := tau·online + (1 − tau)·target."""
        if self.target is not None:
            self.target[runs].mul_(1.0 - tau).add_(self.flat[runs], alpha=tau)

    def state(self) -> dict[str, Tensor]:
        """Every tensor that training changes."""
        tensors = {name: getattr(self, name) for name in ("flat", "first", "second", "target", "statistics")}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    def keep(self, runs: Tensor) -> None:
        """Keep only these runs."""
        for name, value in self.state().items():
            setattr(self, name, shared(value.index_select(0, runs)))
