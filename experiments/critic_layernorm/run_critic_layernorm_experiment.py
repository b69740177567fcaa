"""Critic LayerNorm: a smoother critic gives the actors a slope that they can follow.

Differs from the baseline in one thing: the critic has a LayerNorm after each hidden ReLU.
"""

import sys

sys.path.insert(1, sys.path[0] + "/../..")  # where common/ lies in the repository

from common.agents.networks import Critic
from common.agents.normalisation import HiddenLayerNorm
from common.experiment import Experiment
from common.study.runner import main


class LayerNormCritic(HiddenLayerNorm, Critic):
    """The baseline's critic with LayerNorm."""


EXPERIMENT = Experiment(name="critic_layernorm", description=__doc__, critic=LayerNormCritic)

if __name__ == "__main__":
    main(EXPERIMENT)
