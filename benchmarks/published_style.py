"""The published algorithm as it is usually written: one network object per agent, loops over agents.

Numerically the naive reference of tests/reference/naive_learner.py (a test compares them), but with one critic call per
batch instead of one per row, so that the speed ratio of the benchmark is against code people really run. Every
critic row carries its whole joint input, as in the published implementation. In shapes: N agents, B samples.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from reference.naive_learner import NaiveRun, Transition, naive_choose  # noqa: E402


class PublishedStyleRun(NaiveRun):
    """One run; `episode(1)`, `episode(2)`, … train it."""

    def batch_policy(self, actors: Sequence[nn.Module], states: Tensor) -> Tensor:
        """Actions (B, N, 3) from states (B, N, 7), one actor after the other."""
        return torch.stack([torch.tanh(actor(states[:, i])) for i, actor in enumerate(actors)], dim=1)

    def all_rows(self, critic: nn.Module, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Q of every agent's row (B, N) and of the zero row (B,)."""
        size = states.shape[1]
        joint = torch.cat((states.flatten(1), actions.flatten(1)), dim=1)
        own = torch.cat((states, actions), dim=2)
        rows = torch.cat((joint.unsqueeze(1).expand(-1, size, -1), own), dim=2)
        zero = torch.cat((joint, torch.zeros(len(joint), own.shape[2], dtype=self.dtype)), dim=1)
        return self.whole_rows(critic, rows), self.whole_rows(critic, zero)

    @staticmethod
    def whole_rows(critic: nn.Module, rows: Tensor) -> Tensor:
        """Q (…) of whole critic rows (…, 10 N + 10), as one plain network computes it."""
        first = critic.fc1
        weight = torch.cat((first.states, first.actions, first.personal), dim=1)
        hidden = torch.relu(critic.fc2(torch.relu(nn.functional.linear(rows, weight, first.bias))))
        return critic.fc3(hidden)[..., 0]

    def best_of_batch(self, critic: nn.Module, states: Tensor, actions: Tensor) -> Tensor:
        """Largest Q over the proposing agents, or of the zero row if there are none, (B,)."""
        values, zero = self.all_rows(critic, states, actions)
        proposes = actions[..., 0].detach() >= 0
        best = torch.where(proposes, values, -torch.inf).max(1).values
        return torch.where(proposes.any(1), best, zero)

    def stack(self, batch: Sequence[Transition], name: str) -> Tensor:
        """One field of all transitions as a tensor."""
        return self.tensor(np.stack([getattr(transition, name) for transition in batch]))

    def decide(self, state: np.ndarray, action: np.ndarray, random_order: np.ndarray | None) -> np.ndarray:
        """As the naive run, with one critic call for all agents."""
        with torch.no_grad():
            scores = self.all_rows(self.critic, self.tensor(state[None]), self.tensor(action[None]))[0][0].tolist()
        return naive_choose(action[:, 0] >= 0, state[:, 3], scores, self.config.channels, random_order)

    def batch_errors(self, batch: Sequence[Transition]) -> tuple[Tensor, Tensor, Tensor]:
        """Values of all rows (B, N + 1), which of them count, and TD targets (B, 1)."""
        with torch.no_grad():
            next_states = self.stack(batch, "next_state")
            policy = self.batch_policy(self.target_actors, next_states)
            best = self.best_of_batch(self.target_critic, next_states, policy)
            done = self.stack(batch, "done")
            target = self.stack(batch, "reward") + self.gamma * (1 - done) * best
        accepted = self.stack(batch, "accepted") > 0.5
        values, zero = self.all_rows(self.critic, self.stack(batch, "state"), self.stack(batch, "action"))
        rows = torch.cat((accepted, ~accepted.any(1, keepdim=True)), dim=1)
        return torch.cat((values, zero.unsqueeze(1)), dim=1), rows, target.unsqueeze(1)

    def store(self, transition: Transition) -> None:
        """As the naive run, with one critic call per transition."""
        with torch.no_grad():
            values, rows, target = self.batch_errors([transition])
            self.put(transition, (float(((values - target).square() * rows).sum()) + 0.01) ** 0.6)

    def critic_step(self, batch: Sequence[Transition], is_weight: np.ndarray, due: bool = True) -> dict[str, Any]:
        """As the naive run, on the whole batch at once."""
        values, rows, target = self.batch_errors(batch)
        errors = torch.where(rows, values - target, 0.0)
        weighted = self.tensor(is_weight).unsqueeze(1) * errors
        loss = weighted.square().sum() / rows.sum()
        gradient = self.step(self.critic, self.critic_optimizer, loss)
        report = {"td_error_sq_sum": errors.detach().square().sum(1).numpy(), "critic_loss": loss.item()}
        return report | {"critic_gradient": gradient}

    def actor_step(self, batch: Sequence[Transition], is_weight: np.ndarray) -> dict[str, Any]:
        """Agents in turn, each against the actors already stepped, every row of the batch scored again."""
        states, weights = self.stack(batch, "state"), self.tensor(is_weight)
        with torch.no_grad():
            actions = self.batch_policy(self.actors, states)
        losses, gradients = [], []
        for i, actor in enumerate(self.actors):
            policy = actions.clone()
            policy[:, i] = torch.tanh(actor(states[:, i]))
            loss = -(weights * self.best_of_batch(self.critic, states, policy)).mean()
            gradients.append(self.step(actor, self.actor_optimizers[i], loss))
            with torch.no_grad():
                actions[:, i] = torch.tanh(actor(states[:, i]))
            losses.append(loss.item())
        return {"actor_loss": losses[0], "actor_gradients": gradients}
