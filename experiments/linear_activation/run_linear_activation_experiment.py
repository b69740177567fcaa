"""Linear activation: the one-sidedness of ReLU drives the pre-activations apart.

Differs from the baseline in one thing: the hidden layers of actor and critic have no ReLU, so both networks are linear
up to the actor's tanh. The published study enlarged the actor too: --actor-hidden 512 128.
"""

import sys

sys.path.insert(1, sys.path[0] + "/../..")  # where common/ lies in the repository

from common.agents.networks import Actor, Critic
from common.experiment import Experiment
from common.study.runner import main


class LinearActor(Actor):
    """The baseline's actor, linear up to its tanh."""

    def activation(self, x, layer):
        return x


class LinearCritic(Critic):
    """The baseline's critic, linear."""

    def activation(self, x, layer):
        return x


EXPERIMENT = Experiment(name="linear_activation", description=__doc__, actor=LinearActor, critic=LinearCritic)

if __name__ == "__main__":
    main(EXPERIMENT)
