"""Gradient clipping: exploding gradients saturate the actors, so bounding them prevents it.

Differs from the baseline in one thing: the gradient norm of each network, every actor for itself, is clipped to 1.0
before its step.
"""

import sys

sys.path.insert(1, sys.path[0] + "/../..")  # where common/ lies in the repository

from common.experiment import Experiment
from common.study.runner import main

EXPERIMENT = Experiment(name="gradient_clipping", description=__doc__, overrides={"clip_norm": 1.0})

if __name__ == "__main__":
    main(EXPERIMENT)
