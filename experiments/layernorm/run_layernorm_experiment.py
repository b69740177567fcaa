"""LayerNorm: normalising what enters tanh keeps it in tanh's linear range.

Differs from the baseline in one thing: each actor has a LayerNorm over its 3 pre-activations, with a learned gain and
bias, before tanh. z is measured after the norm. With gain 1 and bias 0 no |z| exceeds the square root of 2, so any
saturation comes from gain and bias, which saturation.csv logs per output.
"""

import sys

sys.path.insert(1, sys.path[0] + "/../..")  # where common/ lies in the repository

from torch import nn

from common.agents.networks import Actor
from common.environment.mec_env import ACTION_SIZE, OUTPUTS
from common.experiment import Experiment
from common.study.runner import main


class LayerNormActor(Actor):
    """The baseline's actor with a LayerNorm before tanh."""

    def __init__(self, config):
        super().__init__(config)
        self.norm = nn.LayerNorm(ACTION_SIZE)

    def forward(self, state):
        return self.norm(super().forward(state))

    def measures(self, states):
        learned = {"norm_gain": self.norm.weight, "norm_bias": self.norm.bias}
        return {f"{name}_{output}": x[i] for name, x in learned.items() for i, output in enumerate(OUTPUTS)}


EXPERIMENT = Experiment(name="layernorm", description=__doc__, actor=LayerNormActor)

if __name__ == "__main__":
    main(EXPERIMENT)
