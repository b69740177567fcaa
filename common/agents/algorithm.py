"""The rules of learning (docs/algorithm.md), each a method that an experiment can override.

Written for a batch of runs: R runs, B samples, N agents, K rows of a sample, H heads of the critic (1 in the baseline).
`run_state` is a dict of what the algorithm remembers of each run, (R,) each; it is saved in checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.agents.layout import Layer
from common.agents.optimizer import Adam
from common.config import StudyConfig


class Algorithm:
    """CCM-MADRL (arXiv 2402.11653): deterministic actors, one critic that ranks agents, hard target copies."""

    target_noise = False  # whether `target_action` wants standard normal draws

    def __init__(self, config: StudyConfig):
        self.config = config

    def run_state(self) -> dict[str, float]:
        """What the algorithm remembers of each run, by name, with its start; float64."""
        return {}

    def observe_rewards(self, run_state: dict[str, Tensor], rewards: Tensor) -> None:
        """Take in an episode's raw rewards (R, T), before they are stored; updates `run_state` in place."""

    def reward(self, run_state: dict[str, Tensor], rewards: Tensor) -> Tensor:
        """What the learner sees of raw rewards (R, B), whenever a TD target is formed."""
        return rewards

    def explore(self, actions: Tensor, z: Tensor, noise: Tensor, epsilon: Tensor) -> Tensor:
        """Actions (R, E, N, 3) played in training, in [-1, 1], from standard normal noise and its scale ε, ()."""
        return (actions + self.config.noise_scale * epsilon * noise).clamp(-1.0, 1.0)

    def target_action(self, actions: Tensor, z: Tensor, noise: Tensor | None) -> Tensor:
        """Actions (R, B, N, 3) of the target actors at the next states, before it is decided who proposes."""
        return actions

    def value(self, q: Tensor) -> Tensor:
        """Q (…) that actor loss, master and priority use, of the critic's heads (…, H)."""
        return q[..., 0]

    def target_value(self, q: Tensor) -> Tensor:
        """Q (…) that the TD target uses, of the target critic's heads (…, H)."""
        return self.value(q)

    def td_target(self, rewards: Tensor, done: Tensor, next_value: Tensor) -> Tensor:
        """y = r + γ·Q', all (R, B); next_value is 0 where an episode is done."""
        return rewards + self.config.gamma * next_value

    def critic_loss(self, q: Tensor, y: Tensor, weights: Tensor, valid: Tensor) -> Tensor:
        """Loss of each run (R,): mean over the valid rows of (w·Q − w·y)², summed over heads.

        q (R, B, K, H), TD targets y and importance weights w (R, B), valid (R, B, K) bool.
        """
        errors = weights[..., None, None] * (q - y[..., None, None])
        return torch.where(valid[..., None], errors.square(), 0.0).sum((1, 2, 3)) / valid.sum((1, 2))

    def actor_loss(self, z: Tensor, actions: Tensor, q: Tensor, weights: Tensor) -> Tensor:
        """Loss of each run (R,): −mean_b w_b·Q_b, from pre-activations and actions (R, B, N, 3), q and w (R, B).

        Agents in turn (sequential updates) see their own z and actions only, (R, B, 1, 3).
        """
        return -(weights * q).mean(1)

    def action_gradient(self, dq_da: Tensor, z: Tensor, actions: Tensor) -> Tensor:
        """What the actors follow of ∂Q/∂a (R, B, N, 3), which carries a positive weight per sample."""
        return dq_da

    def critic_due(self, update: int) -> bool:
        """Whether the critic steps in training step `update` (1 …)."""
        return True

    def actor_due(self, update: int) -> bool:
        """Whether the actors do."""
        return True

    def target_due(self, update: int) -> bool:
        """Whether the targets follow."""
        return True

    def update_target(self, online: Tensor, target: Tensor) -> None:
        """Soft update of all parameters (R, M, P), in place: target := τ·online + (1 − τ)·target."""
        tau = self.config.tau
        target.mul_(1.0 - tau).add_(online, alpha=tau)

    def actor_optimizer(self, layers: dict[str, Layer]) -> Adam:
        """Optimiser of the actors, whose layers are given."""
        return Adam(layers, self.config.beta1, self.config.beta2, self.config.adam_eps)

    def critic_optimizer(self, layers: dict[str, Layer]) -> Adam:
        """Optimiser of the critics."""
        return Adam(layers, self.config.critic_beta1, self.config.beta2, self.config.adam_eps)
