"""What the host gives to an episode: random draws of every seed, and scalars that depend on the episode alone.

Shapes: R runs, S seeds, N agents, T steps, U training steps per episode, B samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from common.config import StudyConfig
from common.environment.mec_env import STEPS, tasks_from_draws
from common.environment.random_streams import episode_draws

EPSILON_FLOOR, EPSILON_SPAN, EPSILON_EPISODES = 0.01, 0.99, 2000.0


def epsilon(episode: int) -> float:
    """Scale of the exploration noise and chance of a random acceptance in training episode 1, 2, …"""
    return EPSILON_FLOOR + EPSILON_SPAN * math.exp(-episode / EPSILON_EPISODES)


@dataclass(frozen=True)
class Due:
    """Which updates one training step makes."""

    critic: bool
    actor: bool
    target: bool


@dataclass(frozen=True)
class EpisodeInputs:
    """Everything the host gives to one training episode, as tensors on the learner's device.

    By seed: tasks (S, T+1, N, 3), noise (S, T, N, 3) standard normal, explore (S, T) bool, order (S, T, N), replay
    draws (U, S, B), and, where the algorithm wants it, standard normal target_noise (U, S, B, N, 3) and
    stored_noise (S, T, N, 3). Then epsilon (), beta (U,), the optimisers' scales (U, R, k), the replay's ring position
    (1,), and which updates are due in each of the U training steps (none in the first episode).
    """

    tasks: Tensor
    noise: Tensor
    explore: Tensor
    order: Tensor
    replay: Tensor
    epsilon: Tensor
    beta: Tensor
    actor_scales: Tensor
    critic_scales: Tensor
    position: Tensor
    due: tuple[Due, ...]
    target_noise: Tensor | None = None
    stored_noise: Tensor | None = None

    def take(self, other: EpisodeInputs) -> None:
        """Copy another episode's tensors into these."""
        for field in fields(self):
            mine = getattr(self, field.name)
            if isinstance(mine, Tensor):
                mine.copy_(getattr(other, field.name))


def draw(config: StudyConfig, seeds: list[int], episode: int, target_noise: bool) -> dict[str, np.ndarray]:
    """The fields of EpisodeInputs that are drawn, of training episode `episode`."""
    sizes = (STEPS, config.agents, config.updates_per_episode, config.batch_size)
    draws = [episode_draws(seed, episode, *sizes, target_noise) for seed in seeds]
    found = {name: np.stack([own[name] for own in draws]) for name in draws[0]}
    found |= {name: found[name].swapaxes(0, 1) for name in ("replay", "target_noise") if name in found}
    scale = epsilon(episode)
    found |= {"tasks": tasks_from_draws(found["tasks"]), "explore": found.pop("coin") < scale}
    return found | {"epsilon": np.array(scale)}


def on_device(values: np.ndarray, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Host numbers on the device, floats as `dtype`."""
    tensor = torch.from_numpy(np.ascontiguousarray(values).reshape(values.shape))
    tensor = tensor.to(dtype if tensor.is_floating_point() else tensor.dtype)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor
