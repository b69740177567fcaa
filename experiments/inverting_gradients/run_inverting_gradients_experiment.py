"""Inverting gradients: a clipped action whose slope turns round outside the bounds can always come back.

Differs from the baseline in one thing (Hausknecht and Stone 2016, arXiv 1511.04143): there is no tanh. The action is z,
clipped to [-1, 1], with the gradient passed straight through; dQ/da is scaled by (1 - z)/2 where it is positive and by
(1 + z)/2 where it is negative, so it changes its sign outside. The columns of tanh's derivative are empty.
"""

import sys

sys.path.insert(1, sys.path[0] + "/../..")  # where common/ lies in the repository

import torch

from common.agents.algorithm import Algorithm
from common.agents.networks import Actor
from common.experiment import Experiment
from common.study.runner import main


class ClippedActor(Actor):
    """The baseline's actor with clipped outputs."""

    has_tanh = False

    def squash(self, z):
        return z + (z.clamp(-1.0, 1.0) - z).detach()


class InvertingGradients(Algorithm):
    """The baseline's rules, and the scaled slope."""

    def action_gradient(self, dq_da, z, actions):
        return dq_da * torch.where(dq_da > 0, 1.0 - z, 1.0 + z) / 2.0


EXPERIMENT = Experiment(
    name="inverting_gradients", description=__doc__, actor=ClippedActor, algorithm=InvertingGradients
)

if __name__ == "__main__":
    main(EXPERIMENT)
