"""TD3: twin critics, smoothed targets and delayed actors, the standard answer, keep the actors learning.

Differs from the baseline as TD3 does from DDPG (Fujimoto et al. 2018, arXiv 1802.09477): the TD target takes the
maximum over rows of the smaller of two critics, at target actions with noise of 0.2, clipped at 0.5, on all three
outputs, before it is decided who proposes; actors and targets are updated every second training step. Actors, master
and priorities use the first critic.
"""

import sys

sys.path.insert(1, sys.path[0] + "/../..")  # where common/ lies in the repository

import torch

from common.agents.algorithm import Algorithm
from common.agents.networks import Critic
from common.experiment import Experiment
from common.study.runner import main

NOISE, NOISE_CLIP, DELAY = 0.2, 0.5, 2


class TwinCritic(Critic):
    """Two critics in one module; their joint shares lie side by side."""

    def __init__(self, config):
        super().__init__(config)
        self.second = Critic(config)

    def joint(self, states, actions):
        return torch.cat((super().joint(states, actions), self.second.joint(states, actions)), dim=-1)

    def values(self, joint, personal):
        first, second = joint.chunk(2, dim=-1)
        return torch.cat((super().values(first, personal), self.second.values(second, personal)), dim=-1)


class TD3(Algorithm):
    """The rules of TD3; each head of the critic has its own loss already."""

    target_noise = True

    def target_action(self, actions, z, noise):
        return (actions + (NOISE * noise).clamp(-NOISE_CLIP, NOISE_CLIP)).clamp(-1.0, 1.0)

    def target_value(self, q):
        return q.amin(-1)

    def actor_due(self, update):
        return update % DELAY == 0

    target_due = actor_due


EXPERIMENT = Experiment(name="td3", description=__doc__, critic=TwinCritic, algorithm=TD3)

if __name__ == "__main__":
    main(EXPERIMENT)
