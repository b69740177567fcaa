"""Baseline: tanh actors saturate and freeze early, depending on their learning rate, while the critic learns on.

Differs from the published setting in nothing: 50 agents, actor and critic learning rates 1e-4 to 1e-1 each
(16 runs per seed), 2000 episodes.
"""

import sys

sys.path.insert(1, sys.path[0] + "/../..")  # where common/ lies in the repository

from common.experiment import Experiment
from common.study.runner import main

EXPERIMENT = Experiment(name="baseline", description=__doc__)

if __name__ == "__main__":
    main(EXPERIMENT)
