"""Adam's memory: the freeze follows the gradient's death by as many steps as Adam's first moment needs to fade.

Differs from the baseline in one thing: beta1 of the actors' Adam is 0.5 instead of 0.9. To leading order the weights
coast for 24 ln 2 / -ln beta1 steps in float32: 24 for 0.5, 158 for 0.9, 1655 for 0.99 (--beta1 0, 0.9, 0.99).
"""

import sys

sys.path.insert(1, sys.path[0] + "/../..")  # where common/ lies in the repository

from common.experiment import Experiment
from common.study.runner import main

EXPERIMENT = Experiment(name="adam_memory", description=__doc__, overrides={"beta1": 0.5})

if __name__ == "__main__":
    main(EXPERIMENT)
