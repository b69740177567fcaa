"""Stacked actors and critics (SYSTEM section 3). A variant overrides a hook, never a loop.

A network object holds no numbers: parameters and statistics come in as one dict `p` of views {name: (G, *shape)}.
Statistics are numbers that training observes instead of learning them (running means, say): they are saved with
the parameters, but have no gradient and are no weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from common.agents.layers import ParameterLayout, ParameterSpec, add_product, linear, linear_specs, stacked_product
from common.environment.mec_env import ACTION_SIZE, STATE_SIZE

OUTPUT_BOUND = 3e-3  # last layer of actor and critic: U(-3e-3, 3e-3); 0: as every other layer
PERSONAL_SIZE = STATE_SIZE + ACTION_SIZE

Parameters = dict[str, Tensor]


class Network:
    """What actor and critic share: fully connected layers fc1 … fcL and their layout."""

    name: str
    parts: dict[str, int]  # its inputs and their widths

    def __init__(self, sizes: Sequence[int], output_bound: float):
        """Layer sizes from the input to the output."""
        self.sizes, self.output_bound = tuple(sizes), output_bound
        self.depth = len(self.sizes) - 1
        self.layout = ParameterLayout(self.specs())
        self.statistics = ParameterLayout(self.statistic_specs())

    def specs(self) -> list[ParameterSpec]:
        """Parameters of one network, in order."""
        specs = []
        for i, (inputs, outputs) in enumerate(zip(self.sizes, self.sizes[1:], strict=False), start=1):
            bound = self.output_bound if i == self.depth and self.output_bound else None
            specs += linear_specs(f"fc{i}", inputs, outputs, bound)
        return specs

    def input(self, x: Tensor, p: Parameters, part: str) -> Tensor:
        """What the first layer sees of input x (G, B, features); part: states, or the critic's actions or personal."""
        return x

    def activation(self, hidden: Tensor, p: Parameters, layer: int) -> Tensor:
        """What follows hidden layer `layer` (1 …); may overwrite its input where no gradient is recorded."""
        return hidden.relu() if hidden.requires_grad else hidden.relu_()

    def statistic_specs(self) -> list[ParameterSpec]:
        """Statistics of one network."""
        return []

    def observe_step(self, p: Parameters, inputs: Parameters) -> None:
        """Update the statistics in p, in place, from one step of a training episode, before the network acts on it.

        inputs: part -> (G, samples, features). Evaluation episodes and training steps are not observed.
        """


class Actor(Network):
    """One policy per agent: state (7) -> hidden layers -> pre-activation z (3) -> tanh."""

    name = "actor"

    def __init__(self, hidden: Sequence[int], output_bound: float = OUTPUT_BOUND):
        """`hidden`: sizes of the hidden layers."""
        self.parts = {"states": STATE_SIZE}
        super().__init__((STATE_SIZE, *hidden, ACTION_SIZE), output_bound)

    def pre_activation(self, z: Tensor, p: Parameters) -> Tensor:
        """What enters tanh, from the last layer's output z (G, B, 3)."""
        return z

    def observe_batch(self, p: Parameters, states: Tensor) -> None:
        """Update the statistics in p, in place, from the states (G, B, 7) of a training step, before the actors act."""

    def measures(self, p: Parameters, states: Tensor) -> Parameters:
        """What a variant logs beside the rest, by name, (G, …) each, at the states (G, B, 7) of a training step."""
        return {}

    def output(self, p: Parameters, states: Tensor) -> Tensor:
        """The last layer's output (G, B, 3) from states (G, B, 7)."""
        hidden = self.input(states, p, "states")
        for i in range(1, self.depth):
            hidden = self.activation(linear(hidden, p[f"fc{i}.weight"], p[f"fc{i}.bias"]), p, i)
        return linear(hidden, p[f"fc{self.depth}.weight"], p[f"fc{self.depth}.bias"])

    def __call__(self, p: Parameters, states: Tensor) -> tuple[Tensor, Tensor]:
        """Action in [-1, 1] and pre-activation z, both (G, B, 3), from states (G, B, 7)."""
        z = self.pre_activation(self.output(p, states), p)
        return z.tanh(), z


class Critic(Network):
    """Q(all states, all actions, s_i, a_i) of one run; the joint part of fc1 is computed once per sample.

    fc1's weight lies in three parts, for all states, all actions and the personal input, so that a gradient
    with respect to the actions alone costs no more than that.
    """

    name = "critic"

    def __init__(self, agents: int, hidden: Sequence[int], output_bound: float = OUTPUT_BOUND):
        """For `agents` agents; `hidden`: sizes of the two hidden layers."""
        self.parts = {"states": agents * STATE_SIZE, "actions": agents * ACTION_SIZE, "personal": PERSONAL_SIZE}
        super().__init__((sum(self.parts.values()), *hidden, 1), output_bound)

    def specs(self) -> list[ParameterSpec]:
        """As everywhere, but fc1.weight in the rows of its three inputs; their bound is that of the whole."""
        weight, *rest = super().specs()
        parts = [
            replace(weight, name=f"fc1.{part}", shape=(inputs, self.sizes[1])) for part, inputs in self.parts.items()
        ]
        return [*parts, *rest]

    def joint_part(self, p: Parameters, states: Tensor, actions: Tensor) -> Tensor:
        """fc1 of all states (G, B, 7N) and all actions (G, B, 3N), bias included: (G, B, hidden)."""
        states, actions = self.input(states, p, "states"), self.input(actions, p, "actions")
        return stacked_product(actions, p["fc1.actions"], linear(states, p["fc1.states"], p["fc1.bias"]))

    def values(self, p: Parameters, joint_part: Tensor, personal: Tensor) -> Tensor:
        """Q of K rows per sample, (G, B·K), from joint part (G, B, hidden) and personal inputs (G, B·K, 10).

        Where no gradient is recorded and K is 1, the joint part is overwritten.
        """
        personal = self.input(personal, p, "personal")
        if joint_part.shape[1] == personal.shape[1] and not torch.is_grad_enabled():
            hidden = add_product(personal, p["fc1.personal"], joint_part)
        else:
            by_sample = stacked_product(personal, p["fc1.personal"]).unflatten(1, (joint_part.shape[1], -1))
            if by_sample.requires_grad:  # a change in place would make the backward pass copy
                hidden = (by_sample + joint_part.unsqueeze(2)).flatten(1, 2)
            else:
                hidden = by_sample.add_(joint_part.unsqueeze(2)).flatten(1, 2)
        hidden = self.activation(hidden, p, 1)
        hidden = self.activation(linear(hidden, p["fc2.weight"], p["fc2.bias"]), p, 2)
        # A product of width 1 as product and sum: its bits do not depend on how many runs are stacked.
        return (hidden * p["fc3.weight"].mT).sum(-1) + p["fc3.bias"]
