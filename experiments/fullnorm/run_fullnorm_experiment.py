"""Full normalisation: normalising everywhere but at the output stabilises actor and critic.

Differs from the baseline in one thing: actor and critic normalise their inputs by running statistics, and have a
LayerNorm after each hidden ReLU. Nothing stands before tanh or at the critic's output.
"""

import sys

sys.path.insert(1, sys.path[0] + "/../..")  # where common/ lies in the repository

from common.agents.networks import Actor, Critic
from common.agents.normalisation import HiddenLayerNorm, NormalisedInputs, NormalisedState
from common.experiment import Experiment
from common.study.runner import main


class NormalisedActor(NormalisedState, HiddenLayerNorm, Actor):
    """The baseline's actor, normalised."""


class NormalisedCritic(NormalisedInputs, HiddenLayerNorm, Critic):
    """The baseline's critic, normalised."""


EXPERIMENT = Experiment(name="fullnorm", description=__doc__, actor=NormalisedActor, critic=NormalisedCritic)

if __name__ == "__main__":
    main(EXPERIMENT)
