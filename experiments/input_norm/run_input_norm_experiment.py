"""Input normalisation: unscaled inputs, cycles per bit up to 737 among them, saturate the actors.

Differs from the baseline in one thing: actor and critic normalise their inputs by running statistics (mean and variance
of every feature, momentum 0.99). The statistics are no weights: the freeze test does not see them.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(next(folder for folder in (HERE, *HERE.parents) if (folder / "common").is_dir())))

from common.agents.networks import Actor, Critic  # noqa: E402
from common.agents.normalisation import RunningInputNorm  # noqa: E402
from common.experiment import Experiment  # noqa: E402
from common.study.runner import main  # noqa: E402


class InputNormActor(RunningInputNorm, Actor):
    """The baseline's actor on normalised states."""


class InputNormCritic(RunningInputNorm, Critic):
    """The baseline's critic on normalised states and actions."""


EXPERIMENT = Experiment(
    name="input_norm", description=__doc__, actor_class=InputNormActor, critic_class=InputNormCritic
)

if __name__ == "__main__":
    main(EXPERIMENT)
