"""A limit on how far one optimiser step moves a tensor: Adam's step does not know how large the weights are."""

from collections.abc import Iterable
from numbers import Real

import torch
from torch import Tensor, nn

from .definitions import l2_norms, step_factor, wide


def limit_steps(
    optimizer: torch.optim.Optimizer, relative: float = 0.001, modules: nn.Module | Iterable[nn.Module] | None = None
) -> "StepLimit":
    """Limit every later step of `optimizer`: none moves a tensor by more than `relative` of its norm.

    The norm is that before the step, and at least 1e-3·√(number of weights), so that tensors that start at zero can
    move. With `modules` (a network, or several) the weight and the bias of one layer count together; other tensors of
    the optimiser count for themselves. A step that is short enough keeps its bits. The optimiser's moments stay as
    they are. Of two limits on one optimiser both hold, so the smaller one counts.

    Returns a handle; its `remove()` ends the limit. Copies of the optimiser, and what is loaded from a file, have none.
    Raises TypeError where an argument is of another kind, ValueError where `relative` is not above 0 or `modules` hold
    none of the optimiser's parameters.
    """
    return StepLimit(optimizer, relative, modules)


class StepLimit:
    """A limit that `limit_steps` has put on an optimiser."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, relative: float, modules: nn.Module | Iterable[nn.Module] | None
    ) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(
                f"optimizer is of type {type(optimizer).__name__}: limit_steps needs a torch.optim.Optimizer, one per "
                "call (of Stable-Baselines3 model.actor.optimizer and model.critic.optimizer)"
            )
        if not isinstance(relative, Real):
            raise TypeError(f"relative is of type {type(relative).__name__}: a number above 0 is needed, such as 0.001")
        if not relative > 0:
            raise ValueError(f"relative is {relative}: a share above 0 of the weights' norm is needed, such as 0.001")
        self.relative = relative
        self._layer_of = _layers(modules)
        if modules is not None and not any(p in self._layer_of for g in optimizer.param_groups for p in g["params"]):
            raise ValueError("modules hold none of the optimiser's parameters: give the network that it trains")
        self._kinds: list[tuple] = []
        self._weights: list[Tensor] = []
        self._before: list[Tensor] = []
        self._handles = [
            optimizer.register_step_pre_hook(self._keep_weights),
            optimizer.register_step_post_hook(self._shorten_steps),
        ]

    def remove(self) -> None:
        """End the limit; a second call does nothing."""
        for handle in self._handles:
            handle.remove()
        self._kinds, self._weights, self._before = [], [], []

    @torch.no_grad()
    def _keep_weights(self, optimizer: torch.optim.Optimizer, _args: tuple, _kwargs: dict) -> None:
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        kinds = [(id(p), p.shape, p.dtype, p.device) for p in weights]
        if self._kinds != kinds:  # else the copies of the last step are overwritten
            self._kinds, self._weights, self._before = kinds, weights, [torch.empty_like(p) for p in weights]
            places: dict[object, int] = {}
            place = [places.setdefault(self._layer_of.get(p, p), len(places)) for p in weights]
            self._place = torch.tensor(place, device=weights[0].device)
            numbers = wide(torch.tensor([p.numel() for p in weights], device=weights[0].device))
            self._count = numbers.new_zeros(len(places)).index_add_(0, self._place, numbers)
        torch._foreach_copy_(self._before, weights)

    @torch.no_grad()
    def _shorten_steps(self, _optimizer: torch.optim.Optimizer, _args: tuple, _kwargs: dict) -> None:
        steps = torch._foreach_sub(self._weights, self._before)
        squares = l2_norms([*steps, *self._before]).square().view(2, -1)
        step_norm, norm = squares.new_zeros(2, len(self._count)).index_add_(1, self._place, squares).sqrt()
        factor = step_factor(step_norm, norm, self._count, self.relative)[self._place]
        factors = [one.to(w) for one, w in zip(factor.unbind(), self._weights, strict=True)]
        torch._foreach_lerp_(self._before, self._weights, factors)  # a factor of 1 keeps every bit
        torch._foreach_copy_(self._weights, self._before)


def _layers(modules: nn.Module | Iterable[nn.Module] | None) -> dict[Tensor, nn.Module]:
    alone = modules is None or isinstance(modules, nn.Module) or not isinstance(modules, Iterable)
    roots = [] if modules is None else [modules] if alone else list(modules)
    for root in roots:
        if not isinstance(root, nn.Module):
            raise TypeError(f"modules has one of type {type(root).__name__}: limit_steps needs torch.nn modules there")
    return {p: layer for root in roots for layer in root.modules() for p in layer.parameters(recurse=False)}
