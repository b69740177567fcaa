"""Input normalisation: unscaled inputs, cycles per bit up to 737 among them, saturate the actors.

Differs from the baseline in one thing: actor and critic normalise their inputs by running statistics (mean and variance
of every feature, momentum 0.99). The statistics are no weights: the freeze test does not see them.
"""

import sys

sys.path.insert(1, sys.path[0] + "/../..")  # where common/ lies in the repository

from dataclasses import dataclass

from common.agents.networks import Actor, Critic
from common.agents.normalisation import NormalisedInputs, NormalisedState
from common.config import StudyConfig, option
from common.experiment import Experiment
from common.study.runner import main


@dataclass(frozen=True)
class Config(StudyConfig):
    debiased: bool = option(False, "take the statistics over what was seen, without their start at mean 0, variance 1")


class InputNormActor(NormalisedState, Actor):
    """The baseline's actor on normalised states."""


class InputNormCritic(NormalisedInputs, Critic):
    """The baseline's critic on normalised states and actions."""


EXPERIMENT = Experiment(
    name="input_norm", description=__doc__, actor=InputNormActor, critic=InputNormCritic, config=Config
)

if __name__ == "__main__":
    main(EXPERIMENT)
