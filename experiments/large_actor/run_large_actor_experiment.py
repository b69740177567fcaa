"""Large actor: more actor capacity keeps the actors from saturating.

Differs from the baseline in the actor's hidden layers only: 512 and 128 units instead of 64 and 32. The published
study once used 1024 and 256: --actor-hidden 1024 256.
"""

import sys

sys.path.insert(1, sys.path[0] + "/../..")  # where common/ lies in the repository

from common.experiment import Experiment
from common.study.runner import main

EXPERIMENT = Experiment(name="large_actor", description=__doc__, overrides={"actor_hidden": (512, 128)})

if __name__ == "__main__":
    main(EXPERIMENT)
