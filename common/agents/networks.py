"""Actor and critic as plain modules: an actor for one agent, a critic for one run (docs/algorithm.md, "Networks").

A variant subclasses one of them and overrides a method. Every parameter is a weight; what a network observes instead
of learning it (running means, say) is a buffer, updated in place in `observe` or `observe_batch`. The engine runs
hundreds of them side by side and hands each its own numbers, so nothing here has a dimension for runs or agents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.config import StudyConfig
from common.environment.mec_env import ACTION_SIZE, STATE_SIZE

PERSONAL_SIZE = STATE_SIZE + ACTION_SIZE


class StreamStart:
    """Mixed into a layer whose parameters start in U(-bound, bound), in a study from random streams of their own.

    A parameter that a variant gives other values in its constructor keeps these, as do all other layers.
    """

    def start_within(self, bound: float) -> None:
        """Let all parameters of this layer start in U(-bound, bound)."""
        self.start_bound = bound
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)
        self._started = {name: x.detach().clone() for name, x in self.named_parameters()}

    def from_streams(self) -> list[str]:
        """Names of the parameters that are as they were started."""
        started = self._started
        return [name for name, x in self.named_parameters() if name in started and torch.equal(x, started[name])]


class Linear(StreamStart, nn.Linear):
    """nn.Linear whose weight and bias start in U(-bound, bound); PyTorch's default 1/√inputs unless given.

    It also takes stacked weights (G, outputs, inputs) on x (G, B, inputs), which is what `Bank` makes use of.
    """

    def __init__(self, inputs: int, outputs: int, bound: float | None = None):
        super().__init__(inputs, outputs)
        self.start_within(bound or 1.0 / math.sqrt(inputs))

    def forward(self, x: Tensor) -> Tensor:
        """x (…, inputs) -> (…, outputs)."""
        if self.weight.ndim == 3:
            return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight.mT)
        if self.out_features > 1:
            return super().forward(x)
        # As product and sum: the bits of a product of width 1 depend on how many networks are stacked.
        return (x * self.weight[0]).sum(-1, keepdim=True) + self.bias


class SplitLinear(StreamStart, nn.Module):
    """A linear layer whose input comes in parts, each with columns of the weight of its own.

    So the critic's share for all states and actions is computed once per sample, not once per row, and a gradient
    with respect to the actions costs no more than that.
    """

    def __init__(self, outputs: int, **widths: int):
        super().__init__()
        for part, width in widths.items():
            self.register_parameter(part, nn.Parameter(torch.empty(outputs, width)))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.start_within(1.0 / math.sqrt(sum(widths.values())))

    def add(self, share: Tensor, part: str, x: Tensor) -> Tensor:
        """`share` (…, outputs) and what part x (…, width) gives, broadcast."""
        return nn.functional.linear(x, self._parameters[part]).add_(share)


class FullyConnected(nn.Module):
    """Layers fc1 … fcL; the last one is linear and starts in U(-output_bound, output_bound)."""

    def __init__(self, sizes: Sequence[int], output_bound: float):
        """Layer sizes from the input to the output."""
        super().__init__()
        self.sizes = tuple(sizes)
        self.depth = len(sizes) - 1
        for i in range(1, self.depth + 1):
            bound = output_bound if i == self.depth else None
            self.add_module(f"fc{i}", Linear(sizes[i - 1], sizes[i], bound))

    def activation(self, x: Tensor, layer: int) -> Tensor:
        """What follows hidden layer `layer` (1 …), (…, units)."""
        # In place only where nobody builds on it, who might need x again.
        return torch.relu_(x) if hasattr(type(self).activation, "in_place") else torch.relu(x)

    activation.in_place = True  # no attribute of an override, unless that says so, too

    def layer(self, i: int) -> nn.Module:
        """Layer fc<i>."""
        return self._modules[f"fc{i}"]


class Actor(FullyConnected):
    """Policy of one agent: state (…, 7) -> hidden layers -> pre-activation z (…, 3) -> tanh -> action."""

    has_tanh = True  # whether `squash` is tanh, whose derivative is then logged

    def __init__(self, config: StudyConfig):
        super().__init__((STATE_SIZE, *config.actor_hidden, ACTION_SIZE), config.output_bound)

    def forward(self, state: Tensor) -> Tensor:
        """Pre-activations z (…, 3) of states (…, 7): what enters tanh."""
        x = state
        for i in range(1, self.depth):
            x = self.activation(self.layer(i)(x), i)
        return self.layer(self.depth)(x)

    def squash(self, z: Tensor) -> Tensor:
        """Actions in [-1, 1] of pre-activations, elementwise; called for all agents at once."""
        return torch.tanh(z)

    def observe(self, state: Tensor) -> None:
        """Take in a step of a training episode, state (1, 7), before the agent acts on it; changes buffers only."""

    def observe_batch(self, states: Tensor) -> None:
        """Take in the states (B, 7) of a training step before it is made; changes buffers only."""

    def measures(self, states: Tensor) -> dict[str, Tensor]:
        """What a variant logs beside the rest, by name, any shape, at the states (B, 7) of a logged training step."""
        return {}


class Critic(FullyConnected):
    """Q(all states, all actions, s_i, a_i) of one run, in two methods: `joint` once per sample, `values` per row."""

    def __init__(self, config: StudyConfig):
        widths = {"states": config.agents * STATE_SIZE, "actions": config.agents * ACTION_SIZE}
        widths["personal"] = PERSONAL_SIZE
        super().__init__((sum(widths.values()), *config.critic_hidden, 1), config.output_bound)
        self.fc1 = SplitLinear(self.sizes[1], **widths)

    def joint(self, states: Tensor, actions: Tensor) -> Tensor:
        """First layer's share of all states (B, 7N) and all actions (B, 3N), bias included: (B, units)."""
        share = nn.functional.linear(states, self.fc1.states, self.fc1.bias)
        return self.fc1.add(share, "actions", actions)

    def values(self, joint: Tensor, personal: Tensor) -> Tensor:
        """Q (…, 1) of rows: the joint share of their sample (…, units) and their (s_i, a_i) (…, 10), broadcast."""
        x = self.activation(self.fc1.add(joint, "personal", personal), 1)
        for i in range(2, self.depth):
            x = self.activation(self.layer(i)(x), i)
        return self.layer(self.depth)(x)

    def observe(self, states: Tensor, actions: Tensor, personal: Tensor) -> None:
        """Take in a step of a training episode: states (1, 7N), noisy actions (1, 3N), personal inputs (N, 10)."""
