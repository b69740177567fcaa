"""Linear activation: the one-sidedness of ReLU drives the pre-activations apart.

Differs from the baseline in one thing: the hidden layers of actor and critic have no ReLU, so both networks are linear
up to the actor's tanh. The published study enlarged the actor too: --actor-hidden 512 128.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(next(folder for folder in (HERE, *HERE.parents) if (folder / "common").is_dir())))

from common.agents.networks import Actor, Critic  # noqa: E402
from common.experiment import Experiment  # noqa: E402
from common.study.runner import main  # noqa: E402


class WithoutRelu:
    """Hidden layers whose outputs are passed on as they are."""

    def activation(self, hidden, p, layer):
        return hidden


class LinearActor(WithoutRelu, Actor):
    """The baseline's actor, linear up to its tanh."""


class LinearCritic(WithoutRelu, Critic):
    """The baseline's critic, linear."""


EXPERIMENT = Experiment(
    name="linear_activation", description=__doc__, actor_class=LinearActor, critic_class=LinearCritic
)

if __name__ == "__main__":
    main(EXPERIMENT)
