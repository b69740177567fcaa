"""Adam (arXiv 1412.6980) on flat parameters; a variant overrides `change`, layer by layer if it likes."""

from __future__ import annotations

import torch
from torch import Tensor

from common.agents.layout import Layer


class Adam:
    """One optimiser for all networks of one kind, each with its own learning rate and moments."""

    moments = ("exp_avg", "exp_avg_sq")  # what it remembers of every parameter; zeros at the start

    def __init__(self, layers: dict[str, Layer], beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8):
        """`layers`: where each layer's parameters lie in a network's flat row."""
        self.layers, self.beta1, self.beta2, self.eps = layers, beta1, beta2, eps

    def scales(self, learning_rates: Tensor, steps: int) -> Tensor:
        """Of step t = `steps`: learning rate, learning rate / (1 − β₁^t) and √(1 − β₂^t) of each run, float64 (R, 3).

        A schedule of the learning rate belongs here.
        """
        rates = learning_rates / (1.0 - self.beta1**steps)
        return torch.stack((learning_rates, rates, torch.full_like(rates, (1.0 - self.beta2**steps) ** 0.5)), dim=1)

    def change(
        self, weights: Tensor, gradients: Tensor, moments: tuple[Tensor, ...], scales: tuple[Tensor, ...]
    ) -> Tensor:
        """What is subtracted from weights (…, P), from gradients and moments (…, P) and each of the scales, (…, 1).

        Updates the moments in place; may overwrite `gradients`, and may return it. Called several times a step, for a
        few networks each.
        """
        exp_avg, exp_avg_sq = moments
        _, step_size, correction = scales
        exp_avg.lerp_(gradients, 1.0 - self.beta1)
        exp_avg_sq.mul_(self.beta2).addcmul_(gradients, gradients, value=1.0 - self.beta2)
        # Numbers below the smallest normal one are slow, and so are roots of zeros; beside any but a tiny eps they are
        # lost. The first moment of a dead gradient would stay among them for ever.
        floor = torch.finfo(exp_avg_sq.dtype).tiny if self.eps > 1e-12 else 0.0
        torch.hardshrink(exp_avg, floor, out=exp_avg)
        floored = torch.clamp(exp_avg_sq, min=floor, out=gradients)
        denominator = floored.sqrt_().div_(correction).add_(self.eps)
        return torch.div(exp_avg, denominator, out=denominator).mul_(step_size)

    def step(
        self,
        weights: Tensor,
        gradients: Tensor,
        moments: tuple[Tensor, ...],
        scales: Tensor,
        exact: bool,
        members_at_once: int,
    ) -> Tensor:
        """Change weights (r, m, P) in place; gradients and moments alike, scales (r, k). See `Bank.step`.

        On the CPU a few networks at a time, whose numbers then stay in cache through a dozen passes.
        """
        if weights.device.type != "cpu":
            return self._step(weights, gradients, moments, tuple(scales[:, None, None].unbind(-1)), exact)
        for run, own in enumerate(scales.unbind()):
            rows = (weights[run], gradients[run], *(x[run] for x in moments))
            for w, g, *m in zip(*(x.split(members_at_once) for x in rows), strict=True):
                moved = self._step(w, g, tuple(m), tuple(own.unbind()), exact)
                if moved.data_ptr() != g.data_ptr():
                    g.copy_(moved)
        return gradients

    def _step(
        self, weights: Tensor, gradients: Tensor, moments: tuple[Tensor, ...], scales: tuple[Tensor, ...], exact: bool
    ) -> Tensor:
        change = self.change(weights, gradients, moments, scales)
        if not exact:
            weights.sub_(change)
            return change
        updated = weights - change
        spare = change if change.data_ptr() == gradients.data_ptr() else None  # not one of a variant's moments
        moved = torch.sub(updated, weights, out=spare)
        weights.copy_(updated)
        return moved
