"""Adaptive scaling: rescaling each pre-activation to the range it has shown keeps tanh from saturating.

Differs from the baseline in one thing: for every agent and output, the smallest and the largest z seen in training
so far are mapped to -2 and 2 before tanh. Saturation is measured on the scaled z, and saturation.csv logs the raw one
beside it. The published version clipped gradients too: --clip-norm 1.0.
"""

import sys

sys.path.insert(1, sys.path[0] + "/../..")  # where common/ lies in the repository

import torch

from common.agents.networks import Actor
from common.environment.mec_env import ACTION_SIZE
from common.experiment import Experiment
from common.study.runner import main

LIMIT, SMALLEST_HALF_RANGE = 2.0, 1e-6


class AdaptiveScalingActor(Actor):
    """The baseline's actor with its pre-activations rescaled; they pass as they are until the first were seen."""

    def __init__(self, config):
        super().__init__(config)
        self.register_buffer("low", torch.full((ACTION_SIZE,), torch.inf))
        self.register_buffer("high", torch.full((ACTION_SIZE,), -torch.inf))

    def observe(self, state):
        self.observe_batch(state)

    def observe_batch(self, states):
        z = super().forward(states)
        self.low.copy_(torch.minimum(self.low, z.amin(0)))
        self.high.copy_(torch.maximum(self.high, z.amax(0)))

    def forward(self, state):
        z = super().forward(state)
        half_range = ((self.high - self.low) / 2).clamp(min=SMALLEST_HALF_RANGE)
        return torch.where(self.high >= self.low, LIMIT * (z - (self.low + self.high) / 2) / half_range, z)

    def measures(self, states):
        return {"raw_z": super().forward(states), "half_range": (self.high - self.low) / 2}


EXPERIMENT = Experiment(name="adaptive_scaling", description=__doc__, actor=AdaptiveScalingActor)

if __name__ == "__main__":
    main(EXPERIMENT)
