"""Variants of networks and rules that several tests run, beside the experiments that exist."""

from __future__ import annotations

import torch
from torch import Tensor

from common.agents.algorithm import Algorithm
from common.agents.networks import Actor, Critic
from common.experiment import Experiment


class SiluActor(Actor):
    """Elementwise, but not as independent: PyTorch rounds the last numbers of a tensor otherwise, up to 15 of them."""

    def activation(self, x: Tensor, layer: int) -> Tensor:
        return torch.nn.functional.silu(x)


class RelativeActor(Actor):
    """Looks like an elementwise function, but each network has a mean of its own."""

    def activation(self, x: Tensor, layer: int) -> Tensor:
        return torch.relu(x - 0.1 * x.mean())


class TwoHeadedCritic(Critic):
    """Two values per row."""

    def __init__(self, config):
        super().__init__(config)
        self.second = torch.nn.Linear(self.sizes[-2], 1)

    def values(self, joint: Tensor, personal: Tensor) -> Tensor:
        x = self.activation(self.fc1.add(joint, "personal", personal), 1)
        for i in range(2, self.depth):
            x = self.activation(self.layer(i)(x), i)
        return torch.cat((self.layer(self.depth)(x), self.second(x)), dim=-1)


class Normalising(Algorithm):
    """Remembers the size of the rewards, draws noise for the target actions, follows a part of ∂Q/∂a."""

    target_noise = True

    def run_state(self) -> dict[str, float]:
        return {"size": 1.0}

    def observe_rewards(self, run_state: dict[str, Tensor], rewards: Tensor) -> None:
        run_state["size"].mul_(0.9).add_(rewards.abs().double().mean(1), alpha=0.1)

    def reward(self, run_state: dict[str, Tensor], rewards: Tensor) -> Tensor:
        return rewards / run_state["size"].unsqueeze(1)

    def target_action(self, actions: Tensor, z: Tensor, noise: Tensor | None) -> Tensor:
        return (actions + 0.1 * noise.clamp(-1.0, 1.0)).clamp(-1.0, 1.0)

    def value(self, q: Tensor) -> Tensor:
        return q.amin(-1)

    def action_gradient(self, dq_da: Tensor, z: Tensor, actions: Tensor) -> Tensor:
        return dq_da * torch.where(dq_da > 0, 1 - actions, 1 + actions) / 2

    def actor_due(self, update: int) -> bool:
        return update % 2 == 0


class Delayed(Algorithm):
    """Critics step in training steps 1, 2, 4, 5, …, actors in 2, 4, …, targets in 4, 8, …"""

    def critic_due(self, update: int) -> bool:
        return update % 3 != 0

    def actor_due(self, update: int) -> bool:
        return update % 2 == 0

    def target_due(self, update: int) -> bool:
        return update % 4 == 0


# Name -> experiment, and options of its own.
VARIANTS: dict[str, tuple[str | Experiment, dict[str, object]]] = {
    "baseline": ("baseline", {}),
    "fullnorm": ("fullnorm", {}),
    "adaptive_scaling": ("adaptive_scaling", {}),
    "layernorm": ("layernorm", {}),
    "input_norm": ("input_norm", {"debiased": True}),
    "relative": (Experiment("relative", "", actor=RelativeActor), {}),
    "rules": (Experiment("rules", "", critic=TwoHeadedCritic, algorithm=Normalising), {}),
}
SILU = Experiment("silu", "", actor=SiluActor)
DELAYED = Experiment("delayed", "", algorithm=Delayed)
