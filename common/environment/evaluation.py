"""Evaluation: the episodes that every policy is judged on, and what is reported of them.

Shapes: R runs, E evaluation episodes, T steps, N agents.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from common.environment.mec_env import STEPS, tasks_from_draws
from common.environment.random_streams import task_draws
from common.environment.records import TensorRecord
from common.environment.rollout import Trajectory

EVALUATION_SEED = 10_000  # evaluation episode k has the tasks of this seed and index k, for every run


def evaluation_tasks(episodes: int, agents: int) -> np.ndarray:
    """Draw the tasks of the fixed evaluation episodes, float64 (E, T+1, N, 3)."""
    draws = [task_draws(EVALUATION_SEED, k, STEPS, agents, "evaluation tasks") for k in range(episodes)]
    return tasks_from_draws(np.stack(draws))


@dataclass(frozen=True)
class Evaluation(TensorRecord):
    """Means over the evaluation episodes, each (R,)."""

    evaluation_return: Tensor
    late_share: Tensor
    drained_share: Tensor
    offloads_per_step: Tensor


def summarise(trajectory: Trajectory) -> Evaluation:
    """Take the means over the episodes of a trajectory."""
    offloads = trajectory.offloads.to(trajectory.rewards.dtype).sum(-1)
    return Evaluation(
        trajectory.rewards.sum(-1).mean(-1),
        trajectory.late_share.mean(-1).mean(-1),
        trajectory.drained_share.mean(-1).mean(-1),
        offloads.mean(-1).mean(-1),
    )
