"""Full normalisation: normalising everywhere but at the output stabilises actor and critic.

Differs from the baseline in one thing: actor and critic normalise their inputs by running statistics, and have a
LayerNorm after each hidden ReLU. Nothing stands before tanh or at the critic's output.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(next(folder for folder in (HERE, *HERE.parents) if (folder / "common").is_dir())))

from common.agents.networks import Actor, Critic  # noqa: E402
from common.agents.normalisation import HiddenLayerNorm, RunningInputNorm  # noqa: E402
from common.experiment import Experiment  # noqa: E402
from common.study.runner import main  # noqa: E402


class NormalisedActor(RunningInputNorm, HiddenLayerNorm, Actor):
    """The baseline's actor, normalised."""


class NormalisedCritic(RunningInputNorm, HiddenLayerNorm, Critic):
    """The baseline's critic, normalised."""


EXPERIMENT = Experiment(
    name="fullnorm", description=__doc__, actor_class=NormalisedActor, critic_class=NormalisedCritic
)

if __name__ == "__main__":
    main(EXPERIMENT)
