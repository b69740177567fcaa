"""Pre-activation penalty: a loss on large pre-activations keeps tanh alive, as in the code of the MADDPG authors.

Differs from the baseline in one thing: the actors' loss has --penalty times the mean of z^2 over batch and outputs, per
agent, summed over agents.
"""

import sys

sys.path.insert(1, sys.path[0] + "/../..")  # where common/ lies in the repository

from dataclasses import dataclass

from common.agents.algorithm import Algorithm
from common.config import StudyConfig, option
from common.experiment import Experiment
from common.study.runner import main


@dataclass(frozen=True)
class Config(StudyConfig):
    penalty: float = option(1e-3, "weight of the mean squared pre-activation in the actors' loss", minimum=0.0)


class Penalty(Algorithm):
    """The baseline's rules, and the penalty."""

    def actor_loss(self, z, actions, q, weights):
        return super().actor_loss(z, actions, q, weights) + self.config.penalty * z.square().mean((1, 3)).sum(-1)


EXPERIMENT = Experiment(name="pre_activation_penalty", description=__doc__, algorithm=Penalty, config=Config)

if __name__ == "__main__":
    main(EXPERIMENT)
