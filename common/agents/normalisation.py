"""Running normalisation of inputs, as modules and mixed into actor and critic."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.agents.networks import PERSONAL_SIZE
from common.config import StudyConfig
from common.environment.mec_env import ACTION_SIZE, STATE_SIZE

MOMENTUM, VARIANCE_FLOOR = 0.99, 1e-5


class RunningNorm(nn.Module):
    """Every feature minus its running mean, over the root of its running variance + 1e-5.

    Exponential moving averages with momentum 0.99 over environment steps, which start at mean 0 and variance 1. The
    variance is that of the exponentially weighted samples about their own mean, so a step with a single sample counts.
    `debiased` forgets the start, as Adam's bias correction does: the averages are over what was seen, nothing else.
    """

    def __init__(self, features: int, debiased: bool = False):
        super().__init__()
        self.debiased = debiased
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("variance", torch.ones(features))
        if debiased:
            self.register_buffer("weight_left", torch.ones(1))  # of the start: MOMENTUM ** steps

    def observe(self, samples: Tensor) -> None:
        """Take in one step's samples (n, features)."""
        keep = MOMENTUM
        if self.debiased:
            # The new step's share is (1 - m) / (1 - m^t): 1 at the first step, the plain average's in the end.
            self.weight_left.mul_(MOMENTUM)
            keep = (1.0 - (1.0 - MOMENTUM) / (1.0 - self.weight_left)).clamp(min=0.0)  # rounded below 0 at first
        new = samples.mean(0)
        within = (samples - new).square().mean(0)
        between = keep * (new - self.mean).square()
        self.variance.mul_(keep).add_((1.0 - keep) * (within + between))
        self.mean.mul_(keep).add_((1.0 - keep) * new)

    def forward(self, x: Tensor) -> Tensor:
        """x (…, features), normalised."""
        return (x - self.mean) * torch.rsqrt(self.variance + VARIANCE_FLOOR)


class NormalisedState:
    """Mixed into Actor: running normalisation of its state."""

    def __init__(self, config: StudyConfig):
        super().__init__(config)
        self.states = RunningNorm(STATE_SIZE, getattr(config, "debiased", False))

    def observe(self, state: Tensor) -> None:
        self.states.observe(state)
        super().observe(state)

    def forward(self, state: Tensor) -> Tensor:
        return super().forward(self.states(state))


class NormalisedInputs:
    """Mixed into Critic: running normalisation of all states, all actions and the personal inputs."""

    def __init__(self, config: StudyConfig):
        super().__init__(config)
        debiased = getattr(config, "debiased", False)
        self.states = RunningNorm(config.agents * STATE_SIZE, debiased)
        self.actions = RunningNorm(config.agents * ACTION_SIZE, debiased)
        self.personal = RunningNorm(PERSONAL_SIZE, debiased)

    def observe(self, states: Tensor, actions: Tensor, personal: Tensor) -> None:
        self.states.observe(states)
        self.actions.observe(actions)
        self.personal.observe(personal)
        super().observe(states, actions, personal)

    def joint(self, states: Tensor, actions: Tensor) -> Tensor:
        return super().joint(self.states(states), self.actions(actions))

    def values(self, joint: Tensor, personal: Tensor) -> Tensor:
        return super().values(joint, self.personal(personal))


class HiddenLayerNorm:
    """Mixed into Actor or Critic: LayerNorm (arXiv 1607.06450), with gain and bias, after each hidden activation."""

    def __init__(self, config: StudyConfig):
        super().__init__(config)
        for i, width in enumerate(self.sizes[1:-1], start=1):
            self.add_module(f"norm{i}", nn.LayerNorm(width))

    def activation(self, x: Tensor, layer: int) -> Tensor:
        return self._modules[f"norm{layer}"](super().activation(x, layer))

    activation.in_place = True  # x is not needed again
