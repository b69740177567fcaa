"""What is measured at a bounded output: the one place that says what saturated, stuck, bang-bang and coherent mean.

Every function takes tensors of one shape and `dim`, the batch dimension. Dimensions before `dim` are kept, all
others are averaged (or the median or maximum is taken over them): a stack of runs (R, B, N, A) with `dim=1` gives
(R,), one policy's batch (B, A) with `dim=0` gives a number (a tensor of shape ()). A single output of a stack is
`actions[..., i]`, with the same `dim`. The results are float64 (float32 where the device has no float64).

`actions` are a = tanh z in [−1, 1] and without noise, `dq_da` is ∂Q/∂a at these actions, `z` the pre-activations.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

SATURATED = 0.9  # |a| above this is saturated: 1 − a² < 0.19
AT_BOUND = 0.99  # |a| above this is at the bound: 1 − a² < 0.02, where the side that the critic wants matters
SMALLEST_RMS = 1e-3  # a step limit counts weights as at least this large each, so that those that start at 0 can move


def saturation_ratio(actions: Tensor, dim: int = 0) -> Tensor:
    """Share of outputs with |a| > 0.9."""
    return _mean(actions.abs() > SATURATED, dim)


def stuck_share(actions: Tensor, dq_da: Tensor, dim: int = 0) -> Tensor:
    """Share of outputs at a bound (|a| > 0.99) that the critic wants back: a·∂Q/∂a < 0."""
    return _mean((actions.abs() > AT_BOUND) & (actions * dq_da < 0), dim)


def bang_bang_share(actions: Tensor, dq_da: Tensor, dim: int = 0) -> Tensor:
    """Share of outputs at a bound (|a| > 0.99) that the critic wants there: a·∂Q/∂a > 0."""
    return _mean((actions.abs() > AT_BOUND) & (actions * dq_da > 0), dim)


def tanh_derivative(actions: Tensor, dim: int = 0) -> Tensor:
    """Mean of 1 − a², the slope that is left for the actor's gradient."""
    return _mean(1.0 - wide(actions).square(), dim)


def zero_derivative_share(actions: Tensor, dim: int = 0) -> Tensor:
    """Share of outputs with 1 − a² exactly 0 in the dtype of `actions`: no gradient comes through these."""
    return _mean(1.0 - actions.square() == 0, dim)


def z_abs_median(z: Tensor, dim: int = 0) -> Tensor:
    """Median of |z|, of an even number of values the lower of the two in the middle."""
    return wide(z).abs().flatten(dim).median(dim).values


def z_abs_max(z: Tensor, dim: int = 0) -> Tensor:
    """Largest |z|."""
    return wide(z).abs().flatten(dim).amax(dim)


def z_range(z: Tensor, dim: int = 0) -> Tensor:
    """Largest minus smallest z over the batch, of the output where that is most; NaN in a batch of one."""
    apart = wide(z).amax(dim) - wide(z).amin(dim)
    if z.shape[dim] == 1:
        apart.fill_(torch.nan)
    return apart.flatten(dim).amax(dim) if apart.dim() > dim else apart


def dq_da_abs_mean(dq_da: Tensor, dim: int = 0) -> Tensor:
    """Mean of |∂Q/∂a|."""
    return _mean(dq_da.abs(), dim)


def dq_da_sign_coherence(dq_da: Tensor, dim: int = 0) -> Tensor:
    """|mean over the batch of sign ∂Q/∂a| per output, averaged over all outputs that share `dim`.

    1: the critic pushes each output one way whatever the state. 0: as often up as down, or no slope at all.
    """
    coherence = wide(dq_da).sign().mean(dim).abs()
    return coherence.flatten(dim).mean(dim) if coherence.dim() > dim else coherence


def step_factor(step_norm: Tensor, weight_norm: Tensor, count: int | Tensor, relative: float) -> Tensor:
    """Factor that shortens a step of `count` weights to at most `relative` of their norm; 1 where it is short enough.

    `weight_norm` is that before the step; it counts as at least 1e-3·√count. Both norms have the same shape, any, and
    so has `count` where it is a tensor.
    """
    longest = relative * weight_norm.clamp(min=SMALLEST_RMS * count**0.5)
    return (longest / step_norm).clamp(max=1.0)


def l2_norm(tensors: Sequence[Tensor]) -> Tensor:
    """L2 norm of all tensors together, 0 only where every value is 0; some may be sparse or of half precision."""
    dense = [t.coalesce().values() if t.is_sparse else t for t in tensors]
    dense = [t for t in dense if t.numel()]
    if not dense:
        return torch.zeros(())
    largest = l2_norms(dense, float("inf")).amax()
    return torch.maximum(l2_norms(dense).square().sum().sqrt(), largest)  # squares below 1e-38 are 0 in float32


def l2_norms(tensors: Sequence[Tensor], order: float = 2.0) -> Tensor:
    """(len(tensors),): norm of each tensor, on the first one's device; 0 where the squares are too small for float32.

    `order` inf gives the largest absolute value of each.
    """
    norms = torch._foreach_norm([t if t.dtype.itemsize >= 4 else t.float() for t in tensors], order)
    return wide(torch.stack([norm.to(norms[0].device) for norm in norms]))


def _mean(values: Tensor, dim: int) -> Tensor:
    return wide(values).flatten(dim).mean(dim)


def wide(values: Tensor) -> Tensor:
    """float64, or float32 where the device has no float64."""
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)
