"""What the learner reports: plain records of tensors, without files or formats.

Letters in shapes: R runs, N agents, B samples, L layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, order=True)
class RunKey:
    """What names a run within a study."""

    seed: int
    actor_lr: float
    critic_lr: float


class TensorRecord:
    """A dataclass of tensors (or dicts of them, or None) whose first dimension is the runs."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The same record with `function` applied to every tensor."""

        def mapped(value: object) -> object:
            if isinstance(value, TensorRecord):
                return value.map(function)
            if isinstance(value, dict):
                return {name: function(tensor) for name, tensor in value.items()}
            return function(value) if isinstance(value, Tensor) else value

        return type(self)(**{f.name: mapped(getattr(self, f.name)) for f in fields(self)})


def joined(records: list) -> object:
    """One record of all runs from records of consecutive blocks of runs; what is no tensor is alike in all."""

    if len(records) == 1:
        return records[0]

    def join(values: list) -> object:
        first = values[0]
        if isinstance(first, TensorRecord):
            return joined(values)
        if isinstance(first, dict):
            return {name: torch.cat([value[name] for value in values]) for name in first}
        return torch.cat(values) if isinstance(first, Tensor) else first

    return type(records[0])(**{f.name: join([getattr(r, f.name) for r in records]) for f in fields(records[0])})


@dataclass(frozen=True)
class StepDetails(TensorRecord):
    """What only logged episodes report, of their last training step; norms are float64.

    Gradients are L2 norms before clipping by layer, the clipped ones totals after it (the same without
    clipping); updates are L2 norms of the weight change; action_slope is mean |dQ/da|; states, noise-free
    actions and pre-activations are those of the batch, before the step; extras are the actor variant's measures.
    dq_da is dQ/da of each sample's Q in the actor loss, without importance weight; z_after are the pre-activations
    of the same states after the step; weight norms are L2 norms before the step. These may be None.
    """

    actor_gradients: Tensor  # (R, N, L)
    critic_gradients: Tensor  # (R, L)
    actor_clipped: Tensor  # (R, N)
    critic_clipped: Tensor  # (R,)
    actor_updates: Tensor  # (R, N)
    critic_updates: Tensor  # (R,)
    action_slope: Tensor  # (R,)
    states: Tensor  # (R, B, N, 7)
    actions: Tensor  # (R, B, N, 3)
    pre_activations: Tensor  # (R, B, N, 3)
    extras: dict[str, Tensor]  # (R, N, …) each
    dq_da: Tensor | None = None  # (R, B, N, 3)
    z_after: Tensor | None = None  # (R, B, N, 3)
    actor_weight_norms: Tensor | None = None  # (R, N)
    critic_weight_norms: Tensor | None = None  # (R,)


@dataclass(frozen=True)
class StepReport(TensorRecord):
    """The training steps of one episode.

    changed (R, N): some step changed a weight of the agent; unchanged (R, N): some step changed none; a step that was
    not due did neither. gradient_alive (R, N): some step's gradient was not exactly zero; finite (R,): every loss
    and gradient was a number, and so is every weight.
    """

    changed: Tensor
    unchanged: Tensor
    gradient_alive: Tensor
    finite: Tensor

    def and_then(self, later: StepReport) -> StepReport:
        """Both steps as one."""
        return StepReport(
            self.changed | later.changed,
            self.unchanged | later.unchanged,
            self.gradient_alive | later.gradient_alive,
            self.finite & later.finite,
        )


@dataclass(frozen=True)
class EpisodeReport(TensorRecord):
    """One training episode: return and shares (R,); `step` is None where no training step was made."""

    episode: int
    training_return: Tensor
    late_share: Tensor
    drained_share: Tensor
    step: StepReport | None = None
    details: StepDetails | None = None


@dataclass(frozen=True)
class Evaluation(TensorRecord):
    """Means over the evaluation episodes, each (R,)."""

    evaluation_return: Tensor
    late_share: Tensor
    drained_share: Tensor
    offloads_per_step: Tensor
