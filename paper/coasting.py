"""What follows without training: how long Adam coasts, when a tanh is flat, what a coin scores, what noise rewards."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch

from common.config import StudyConfig
from common.environment import mec_env
from common.environment.mec_env import LOWEST_SHARE, MecEnv, draw_world, tasks_from_draws
from common.environment.random_streams import stream

DEFAULTS = StudyConfig()
BETA1, BETA2, EPSILON = DEFAULTS.beta1, DEFAULTS.beta2, DEFAULTS.adam_eps
MANTISSA = 24  # bits of a float32, the leading one included
FIRST_STEP = 2  # episode of the first training step: docs/csv_columns.md, Conventions
SIMULATED = 150  # agents
LONGEST = 4000  # steps simulated at most
TASKS_EACH = 40  # of an agent, in a sample of tasks
OUTPUTS = np.linspace(-1, 1, 401)  # constant outputs of the actor that are tried
NOISE = np.linspace(-5, 5, 2001)  # standard normal deviates, and their weights
NOISE_WEIGHTS = np.exp(-(NOISE**2) / 2) / np.exp(-(NOISE**2) / 2).sum()


def coasting_steps(beta1: float = BETA1) -> float:
    """Steps until a step as large as the weight is below half a unit in its last place, to leading order."""
    return MANTISSA * math.log(2) / -math.log(beta1)


def steps_per_decade() -> float:
    """Steps by which a weight ten times smaller coasts longer."""
    return math.log(10) / -math.log(BETA1)


def flat_tanh() -> float:
    """|z| from which 1 − tanh² z is zero in float32: tanh rounds to 1 when 2 exp(−2z) < 2^−(24 + 1)."""
    return (MANTISSA + 2) * math.log(2) / 2


def coin_slope() -> float:
    """By how much the score falls with the share of agents on the wrong bound, on `scaled`.

    The return there is energy, local energy grows with the square of α, and the best is (nearly) no energy: an agent at
    α = 1 costs 1, one at random α costs the mean of the squares, so that random scores 0.
    """
    return 3 * (1 - LOWEST_SHARE) / (1 - LOWEST_SHARE**3)


def shrink(first: int, last: int) -> float:
    """Mean factor per step by which Adam's step shrinks between two training steps after the gradient died."""
    bias = math.sqrt((1 - BETA2**last) / (1 - BETA2**first)) * (1 - BETA1**first) / (1 - BETA1**last)
    return BETA1 / math.sqrt(BETA2) * bias ** (1 / (last - first))


def initial_actors(generator: np.random.Generator, agents: int) -> np.ndarray:
    """Weights of baseline actors before training (agents, weights), initialised as in docs/algorithm.md#networks."""
    widths = (mec_env.STATE_SIZE, *DEFAULTS.actor_hidden, mec_env.ACTION_SIZE)
    parts = []
    for inputs, outputs in pairwise(widths):
        last = len(parts) == len(widths) - 2
        bound = DEFAULTS.output_bound if last else inputs**-0.5
        parts.append(generator.uniform(-bound, bound, (agents, inputs * outputs + outputs)))
    return np.concatenate(parts, axis=1)


def simulated_lag(
    actor_lr: float, moving: float, deaths: np.ndarray, beta1: float = BETA1
) -> tuple[np.ndarray, np.ndarray]:
    """Lag from gradient death to freeze, and the freeze episode, of actors that only coast.

    Each actor draws its episode of death from `deaths`; until then its moving weights (a share `moving` of all) have
    gradients of one sign each, whose size Adam does not see; from then on none. float32 throughout.
    """
    single = np.float32
    generator = np.random.default_rng(0)
    weights = initial_actors(generator, SIMULATED)
    signs = generator.choice([-1.0, 1.0], weights.shape)
    chosen = generator.random(weights.shape) < moving
    death = generator.choice(deaths, SIMULATED).astype(int)
    starts = np.concatenate([[0], np.cumsum(chosen.sum(1))[:-1]])  # of each actor in the flat arrays
    ends = np.repeat(death, chosen.sum(1))
    weights, signs = weights[chosen].astype(single), signs[chosen].astype(single)
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    last = np.zeros(SIMULATED, dtype=int)
    for step in range(1, LONGEST + 1):
        episode = step + FIRST_STEP - 1
        gradient = np.where(episode < ends, signs, single(0)) if episode < death.max() else single(0)
        first += (gradient - first) * single(1 - beta1)
        second *= single(BETA2)
        second += gradient * gradient * single(1 - BETA2)
        root = np.sqrt(second)
        root /= single(math.sqrt(1 - BETA2**step))
        root += single(EPSILON)
        updated = weights - first / root * single(actor_lr / (1 - beta1**step))
        changed = np.logical_or.reduceat(updated != weights, starts)
        last[changed] = episode
        weights = updated
        if episode >= death.max() and not changed.any():
            break
    return last + 1 - death, last + 1


def task_sample() -> torch.Tensor:
    """States (tasks, 7) of a fixed sample: the agents of seeds 42, 43 and 44 at reset, TASKS_EACH tasks of each."""
    seeds = [42, 43, 44]
    world = draw_world(seeds, DEFAULTS.agents, torch.float64, torch.device("cpu"))
    draws = stream(0, "landscape figure").random((TASKS_EACH, len(seeds), DEFAULTS.agents, 3))
    of_agent = [x.expand(TASKS_EACH, -1, -1) for x in (world.power, world.gain, world.energy, world.processor)]
    power, gain, energy, processor = of_agent
    size, cycles, deadline = torch.from_numpy(tasks_from_draws(draws)).unbind(-1)
    return torch.stack([power, gain, energy, size, cycles, deadline, processor], dim=-1).reshape(-1, mec_env.STATE_SIZE)


def local_costs(preset: str, state: torch.Tensor, shares: np.ndarray) -> np.ndarray:
    """One-step cost (tasks, shares) of computing these tasks locally with each share of the processor."""
    env = MecEnv(preset, channels=DEFAULTS.channels)
    return torch.stack([env.local_cost(state, torch.full(state.shape[:-1], a)) for a in shares], dim=-1).numpy()


def best_output_under_noise(preset: str, scale: float) -> float:
    """The constant compute output in [−1, 1] that costs least on average when exploration noise is added to it.

    The played output is clip(a + ε ξ, −1, 1) with ξ standard normal, as in training (docs/algorithm.md#exploration);
    nobody offloads.
    """
    costs = local_costs(preset, task_sample(), mec_env.share(torch.from_numpy(OUTPUTS)).numpy()).mean(axis=0)
    played = np.clip(OUTPUTS[:, None] + scale * NOISE, -1, 1)
    return float(OUTPUTS[(np.interp(played, OUTPUTS, costs) @ NOISE_WEIGHTS).argmin()])
