"""Reward normalisation: the scale of Q is what makes the critic's slope, and the actors' steps, too steep.

Differs from the baseline in one thing: the learner sees (r - mean)/sd, with mean and sd of all training rewards of its
run so far. Raw rewards are stored, and evaluation and CSV files keep them.
"""

import sys

sys.path.insert(1, sys.path[0] + "/../..")  # where common/ lies in the repository

from common.agents.remedies import NormalisedReward
from common.experiment import Experiment
from common.study.runner import main

EXPERIMENT = Experiment(name="reward_norm", description=__doc__, algorithm=NormalisedReward)

if __name__ == "__main__":
    main(EXPERIMENT)
