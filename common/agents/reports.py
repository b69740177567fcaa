"""What the learner reports: plain records of tensors, without files or formats.

Letters in shapes: R runs, N agents, B samples, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from common.environment.records import TensorRecord


@dataclass(frozen=True, order=True)
class RunKey:
    """What names a run within a study."""

    seed: int
    actor_lr: float
    critic_lr: float


@dataclass(frozen=True)
class StepDetails(TensorRecord):
    """What only logged episodes report, of their last training step; norms are float64.

    Gradients are L2 norms by layer before clipping, the clipped ones totals after it (the same without clipping);
    updates are L2 norms of the weight change, weight norms those before it. All these, and z_after, are NaN where a
    network's step was not due. States, noise-free actions and pre-activations are those of the batch, before the step;
    z_after are the pre-activations after it; dq_da is the slope of the Q in the actor loss; offloads are what the
    master accepts of these actions; extras are the actor variant's measures.
    """

    actor_gradients: Tensor  # (R, N, L)
    critic_gradients: Tensor  # (R, L)
    actor_clipped: Tensor  # (R, N)
    critic_clipped: Tensor  # (R,)
    actor_updates: Tensor  # (R, N)
    critic_updates: Tensor  # (R,)
    actor_weight_norms: Tensor  # (R, N)
    critic_weight_norms: Tensor  # (R,)
    states: Tensor  # (R, B, N, 7)
    actions: Tensor  # (R, B, N, 3)
    pre_activations: Tensor  # (R, B, N, 3)
    z_after: Tensor  # (R, B, N, 3)
    dq_da: Tensor  # (R, B, N, 3)
    offloads: Tensor  # (R, B, N) bool
    extras: dict[str, Tensor]  # (R, N, …) each
    has_tanh: bool = True  # whether the actions are the tanh of the pre-activations


@dataclass(frozen=True)
class StepReport(TensorRecord):
    """The training steps of one episode.

    changed (R, N): some step changed a weight of the agent; unchanged (R, N): some step changed none;
    gradient_alive (R, N): some step's gradient was not exactly zero; all three are false where no step of the actors
    was due. finite (R,): every loss and gradient was a number, and so is every weight.
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
