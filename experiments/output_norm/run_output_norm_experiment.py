"""Output normalisation: pre-activations kept at a mean size of one keep tanh in its linear range.

Differs from the baseline in one thing (Wang et al. 2020, arXiv 1910.02208): z is divided by the mean of |z| over the
three outputs where that is above 1. z is measured after it.
"""

import sys

sys.path.insert(1, sys.path[0] + "/../..")  # where common/ lies in the repository

from common.agents.networks import Actor
from common.experiment import Experiment
from common.study.runner import main


class OutputNormActor(Actor):
    """The baseline's actor with normalised outputs."""

    def forward(self, state):
        z = super().forward(state)
        return z / z.abs().mean(-1, keepdim=True).clamp(min=1.0)


EXPERIMENT = Experiment(name="output_norm", description=__doc__, actor=OutputNormActor)

if __name__ == "__main__":
    main(EXPERIMENT)
