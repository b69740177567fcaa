"""Step limit: steps of a bounded relative length keep tanh alive at any learning rate.

Differs from the baseline in one thing: after Adam, a layer's change is scaled down to at most --actor-limit or
--critic-limit times max(norm of its weights, 1e-3 root of their number), weight and bias of a layer together.
"""

import sys

sys.path.insert(1, sys.path[0] + "/../..")  # where common/ lies in the repository

from common.agents.remedies import LimitedSteps, LimitedStepsConfig
from common.experiment import Experiment
from common.study.runner import main

EXPERIMENT = Experiment(name="step_limit", description=__doc__, algorithm=LimitedSteps, config=LimitedStepsConfig)

if __name__ == "__main__":
    main(EXPERIMENT)
