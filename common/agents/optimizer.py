"""Adam (kingma2015) on flat stacked parameters, with one learning rate per run."""

from __future__ import annotations

import torch
from torch import Tensor

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
CHUNK = 2**18  # numbers per pass on the CPU, so that Adam's dozen operations find them in cache


def adam_scales(learning_rates: Tensor, steps: int) -> tuple[Tensor, float]:
    """Bias-corrected step size of each run (R,), float64, and sqrt(1 - beta2^steps), for the `steps`-th step."""
    return learning_rates / (1.0 - BETA1**steps), (1.0 - BETA2**steps) ** 0.5


def adam_step(
    parameters: Tensor,
    gradients: Tensor,
    first: Tensor,
    second: Tensor,
    step_size: Tensor,
    correction: Tensor,
    exact: bool = True,
) -> Tensor:
    """One Adam step in place on parameters, first and second moments; all (R, M, P).

    step_size (R,) and correction () are `adam_scales` in the parameters' dtype. Returns the new
    parameters minus the old ones, (R, M, P): the weight change that really happened, zeros where rounding
    swallowed the step. With `exact` off it returns the step as it was meant (sign turned), which costs two passes
    less and is as good for seeing that the numbers are finite. `gradients` is overwritten.
    """
    if parameters.device.type != "cpu":
        return _step(parameters, gradients, first, second, step_size[:, None, None], correction, exact)
    change = gradients.flatten(1)
    for run, tensors in enumerate(zip(*(x.flatten(1) for x in (parameters, change, first, second)), strict=True)):
        for chunk in zip(*(x.split(CHUNK) for x in tensors), strict=True):
            chunk[1].copy_(_step(*chunk, step_size[run], correction, exact))
    return change.view_as(gradients)


def _step(
    parameters: Tensor,
    gradients: Tensor,
    first: Tensor,
    second: Tensor,
    step_size: Tensor,
    correction: Tensor,
    exact: bool,
) -> Tensor:
    first.lerp_(gradients, 1.0 - BETA1)
    second.mul_(BETA2).addcmul_(gradients, gradients, value=1.0 - BETA2)
    # Below the smallest normal number the root is lost beside EPSILON, and sqrt is slow on zeros.
    floored = torch.clamp(second, min=torch.finfo(second.dtype).tiny, out=gradients)
    denominator = floored.sqrt_().div_(correction).add_(EPSILON)
    step = torch.div(first, denominator, out=denominator).mul_(step_size)
    if not exact:
        parameters.sub_(step)
        return step
    updated = parameters - step
    change = torch.sub(updated, parameters, out=step)
    parameters.copy_(updated)
    return change
