"""What the host gives to an episode: random draws of every seed, and scalars that depend on the episode alone.

Shapes: R runs, S seeds, N agents, T steps, E evaluation episodes, U training steps per episode, B samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.agents.optimizer import adam_scales
from common.agents.replay import importance_exponent
from common.config import StudyConfig
from common.environment.mec_env import STEPS, tasks_from_draws
from common.environment.random_streams import episode_draws

EPSILON_FLOOR, EPSILON_SPAN, EPSILON_EPISODES = 0.01, 0.99, 2000.0


def epsilon(episode: int) -> float:
    """Scale of the exploration noise and chance of a random acceptance in training episode 1, 2, …"""
    return EPSILON_FLOOR + EPSILON_SPAN * math.exp(-episode / EPSILON_EPISODES)


@dataclass(frozen=True)
class EpisodeInputs:
    """Everything the host gives to one training episode, as tensors on the learner's device.

    By seed: tasks (S, T+1, N, 3), noise (S, T, N, 3) already scaled, explore (S, T) bool, order (S, T, N),
    replay draws (U, S, B). Then beta (U,), Adam's step sizes (U, R) and correction (U,), and the replay's
    ring position (1,).
    """

    tasks: Tensor
    noise: Tensor
    explore: Tensor
    order: Tensor
    replay: Tensor
    beta: Tensor
    actor_steps: Tensor
    critic_steps: Tensor
    correction: Tensor
    position: Tensor


def draw_inputs(
    config: StudyConfig,
    seeds: list[int],
    rates: tuple[Tensor, Tensor],
    episode: int,
    updates: int,
    position: int,
    device: torch.device,
) -> EpisodeInputs:
    """Inputs of training episode `episode` after `updates` training steps; rates: the actors' and critics', (R,) each.

    position: the episode's place in the replay's ring.
    """
    count = config.updates_per_episode
    draws = [episode_draws(seed, episode, STEPS, config.agents, count, config.batch_size) for seed in seeds]
    tasks, noise, coin, order, replay = (
        np.stack([getattr(own, name) for own in draws]) for name in ("tasks", "noise", "coin", "order", "replay")
    )
    scale = epsilon(episode)
    steps = [updates + 1 + u for u in range(count)]
    actor, critic = ([adam_scales(own, step) for step in steps] for own in rates)

    own_dtype = getattr(torch, config.dtype)

    def placed(values: np.ndarray, dtype: torch.dtype = own_dtype) -> Tensor:
        return on_device(values, dtype, device)

    return EpisodeInputs(
        tasks=placed(tasks_from_draws(tasks)),
        noise=placed(scale * noise),
        explore=placed(coin < scale),
        order=placed(order),
        replay=placed(replay.swapaxes(0, 1), torch.float64),
        beta=placed(np.array([importance_exponent(step - 1) for step in steps]), torch.float64),
        actor_steps=placed(np.stack([step for step, _ in actor])),
        critic_steps=placed(np.stack([step for step, _ in critic])),
        correction=placed(np.array([correction for _, correction in actor])),
        position=placed(np.array([position])),
    )


def on_device(values: np.ndarray, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Host numbers on the device, floats as `dtype`."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    tensor = tensor.to(dtype if tensor.is_floating_point() else tensor.dtype)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor
