"""Penultimate normalisation: features of unit length before the last layer keep the outputs small.

Differs from the baseline in one thing (Bjorck et al. 2022, arXiv 2110.11222): the last hidden layer of actor and
critic is divided by its own L2 norm.
"""

import sys

sys.path.insert(1, sys.path[0] + "/../..")  # where common/ lies in the repository

from torch.nn.functional import normalize

from common.agents.networks import Actor, Critic
from common.experiment import Experiment
from common.study.runner import main


class UnitFeatures:
    """Mixed into actor and critic: the last hidden layer has length 1."""

    def activation(self, x, layer):
        x = super().activation(x, layer)
        return normalize(x, dim=-1) if layer == self.depth - 1 else x


class UnitFeaturesActor(UnitFeatures, Actor):
    """The baseline's actor with unit features."""


class UnitFeaturesCritic(UnitFeatures, Critic):
    """The baseline's critic with unit features."""


EXPERIMENT = Experiment(
    name="penultimate_norm", description=__doc__, actor=UnitFeaturesActor, critic=UnitFeaturesCritic
)

if __name__ == "__main__":
    main(EXPERIMENT)
