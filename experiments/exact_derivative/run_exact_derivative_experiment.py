"""Exact derivative: tanh's derivative underflows in float32, and that alone stops the actors.

Differs from the baseline in one thing: the backward pass of tanh is 4e^(-2|z|)/(1 + e^(-2|z|))^2, which in float32 is
not zero until |z| = 51, instead of 1 - tanh(z)^2, which is from |z| = 9 on; the forward pass is the same. Beyond |z| =
10 such a gradient is below Adam's eps: the second arm, --adam-eps 1e-30, tells underflow and optimiser apart.
"""

import sys

sys.path.insert(1, sys.path[0] + "/../..")  # where common/ lies in the repository

import torch

from common.agents.networks import Actor
from common.experiment import Experiment
from common.study.runner import main


class ExactTanh(torch.autograd.Function):
    """tanh with a derivative that does not underflow before the exponential does."""

    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return z.tanh()

    @staticmethod
    def backward(ctx, slope):
        (z,) = ctx.saved_tensors
        small = torch.exp(-2.0 * z.abs())
        return slope * (4.0 * small / (1.0 + small).square())


class ExactDerivativeActor(Actor):
    """The baseline's actor with the exact derivative of tanh."""

    def squash(self, z):
        return ExactTanh.apply(z)


EXPERIMENT = Experiment(name="exact_derivative", description=__doc__, actor=ExactDerivativeActor)

if __name__ == "__main__":
    main(EXPERIMENT)
