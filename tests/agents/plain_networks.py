"""Actor and critic of every experiment, written out with torch.nn, to check the stacked networks against.

Built only from the layers of torch.nn and the two modules below, nothing of the project's. An actor's last
layer gives the pre-activation z, whose tanh the caller takes. Statistics are buffers. N agents, B samples.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import pytest
import torch
from helpers import experiments
from reference.naive_learner import NaiveNetwork, baseline_network
from torch import nn

from common.agents.networks import Actor, Critic


class RunningNorm(nn.Module):
    """Every feature minus its running mean, over the root of its running variance + 1e-5."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("variance", torch.ones(features))

    def observe(self, samples: torch.Tensor) -> None:
        """Take in samples (n, features) with momentum 0.99."""
        mean, variance = samples.mean(0), samples.var(0, correction=0)
        spread = 0.99 * (self.variance + 0.01 * (mean - self.mean) ** 2) + 0.01 * variance
        self.mean, self.variance = 0.99 * self.mean + 0.01 * mean, spread

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / torch.sqrt(self.variance + 1e-5)


class CriticInputNorm(nn.Module):
    """The joint input and the personal one (the last 10 features), each with statistics of its own."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.joint, self.personal = RunningNorm(features - 10), RunningNorm(10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.joint(x[..., :-10]), self.personal(x[..., -10:])], dim=-1)


class RangeScaling(nn.Module):
    """Maps the smallest and the largest number seen to -2 and 2; the identity before any was seen."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.full((3,), torch.inf))
        self.register_buffer("high", torch.full((3,), -torch.inf))

    def observe(self, z: torch.Tensor) -> None:
        """Widen the range by z (B, 3)."""
        self.low = torch.stack([self.low, *z]).min(0).values
        self.high = torch.stack([self.high, *z]).max(0).values

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        if self.low[0] > self.high[0]:
            return z
        half_range = torch.clamp((self.high - self.low) / 2, min=1e-6)
        return 2 * (z - (self.low + self.high) / 2) / half_range


class InputNormActor(NaiveNetwork):
    """`input` observes the state of every step."""

    def observe_step(self, state: torch.Tensor) -> None:
        self.input.observe(state[None])


class InputNormCritic(NaiveNetwork):
    """`input` observes the one joint input and the N personal inputs of every step."""

    def observe_step(self, joint: torch.Tensor, personal: torch.Tensor) -> None:
        self.input.joint.observe(joint[None])
        self.input.personal.observe(personal)


class ScalingActor(NaiveNetwork):
    """`scaling` observes z at every step, and at every batch that the actor is trained on."""

    def observe_step(self, state: torch.Tensor) -> None:
        self.observe_batch(state[None])

    @torch.no_grad()
    def observe_batch(self, states: torch.Tensor) -> None:
        z = self.fc3(self.relu2(self.fc2(self.relu1(self.fc1(states)))))
        self.scaling.observe(z)


def layer_norm(features: int) -> nn.LayerNorm:
    """LayerNorm with gain and bias."""
    return nn.LayerNorm(features, eps=1e-5)


def named_layers(sizes: Sequence[int]) -> dict[str, nn.Module]:
    """The baseline's layers."""
    return dict(baseline_network(sizes).named_children())


def normalised_layers(sizes: Sequence[int]) -> dict[str, nn.Module]:
    """The baseline's layers with a LayerNorm after each ReLU."""
    plain = named_layers(sizes)
    return {
        "fc1": plain["fc1"], "relu1": nn.ReLU(), "norm1": layer_norm(sizes[1]),
        "fc2": plain["fc2"], "relu2": nn.ReLU(), "norm2": layer_norm(sizes[2]), "fc3": plain["fc3"],
    }  # fmt: skip


def linear_network(sizes: Sequence[int]) -> NaiveNetwork:
    fc1, fc2, fc3 = (nn.Linear(sizes[i], sizes[i + 1]) for i in range(3))
    return NaiveNetwork(OrderedDict(fc1=fc1, fc2=fc2, fc3=fc3))


def layer_norm_actor(sizes: Sequence[int]) -> NaiveNetwork:
    return NaiveNetwork(OrderedDict(**named_layers(sizes), norm=layer_norm(3)))


def input_norm_actor(sizes: Sequence[int]) -> NaiveNetwork:
    return InputNormActor(OrderedDict(input=RunningNorm(7), **named_layers(sizes)))


def input_norm_critic(sizes: Sequence[int]) -> NaiveNetwork:
    return InputNormCritic(OrderedDict(input=CriticInputNorm(sizes[0]), **named_layers(sizes)))


def full_norm_actor(sizes: Sequence[int]) -> NaiveNetwork:
    return InputNormActor(OrderedDict(input=RunningNorm(7), **normalised_layers(sizes)))


def full_norm_critic(sizes: Sequence[int]) -> NaiveNetwork:
    return InputNormCritic(OrderedDict(input=CriticInputNorm(sizes[0]), **normalised_layers(sizes)))


def scaling_actor(sizes: Sequence[int]) -> NaiveNetwork:
    return ScalingActor(OrderedDict(**named_layers(sizes), scaling=RangeScaling()))


Factory = Callable[[Sequence[int]], NaiveNetwork]

# Experiment -> its actor and its critic. One that is not here has the baseline's networks.
PLAIN: dict[str, tuple[Factory, Factory]] = {
    "linear_activation": (linear_network, linear_network),
    "layernorm": (layer_norm_actor, baseline_network),
    "input_norm": (input_norm_actor, input_norm_critic),
    "fullnorm": (full_norm_actor, full_norm_critic),
    "adaptive_scaling": (scaling_actor, baseline_network),
}


def plain_networks(experiment: str) -> tuple[Factory, Factory]:
    """What makes actor and critic of an experiment from their layer sizes; skips the test of one not written out."""
    own = experiments()[experiment]
    if experiment not in PLAIN and (own.actor_class, own.critic_class) != (Actor, Critic):
        pytest.skip(f"the networks of {experiment} are not written out in tests/plain_networks.py")
    return PLAIN.get(experiment, (baseline_network, baseline_network))


def by_kind(statistics: Iterable[tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Statistics of one network by the last part of their names (mean, variance, low, high), in one row each."""
    found: dict[str, list[torch.Tensor]] = {}
    for name, value in statistics:
        found.setdefault(name.rpartition(".")[2], []).append(value)
    return {kind: torch.cat(values) for kind, values in found.items()}
