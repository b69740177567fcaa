"""Counter-based random streams: every draw is a function of (seed, purpose, index) alone.

Nothing here is stateful, so a run's numbers cannot depend on the runs it shares a batch with, on the
device, or on how often it was interrupted. Two runs with one seed see the same world, tasks, noise and
initial weights whatever their learning rates are (a paired design; docs/algorithm.md, "Random streams").
"""

from __future__ import annotations

import functools
import hashlib

import numpy as np


@functools.lru_cache(maxsize=4096)
def _key(seed: int, purpose: str) -> tuple[int, int]:
    digest = hashlib.sha256(f"gradient-asymmetry/{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")


def stream(seed: int, purpose: str, index: int = 0) -> np.random.Generator:
    """Open the generator for one purpose of one seed; `index` (an episode, say) selects a block of 2^64 draws."""
    key = np.array(_key(seed, purpose), dtype=np.uint64)
    counter = np.array([0, 0, index, 0], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=key))


def task_draws(seed: int, episode: int, steps: int, agents: int, purpose: str = "tasks") -> np.ndarray:
    """Draw unit numbers for size, cycles and deadline at reset and after each step, (steps + 1, agents, 3)."""
    return stream(seed, purpose, episode).random((steps + 1, agents, 3))


def episode_draws(
    seed: int, episode: int, steps: int, agents: int, updates: int, batch_size: int, target_noise: bool = False
) -> dict[str, np.ndarray]:
    """Make every draw that training episode `episode` of `seed` uses, by name, float64.

    tasks (T+1, N, 3) in [0, 1); noise (T, N, 3) standard normal; coin (T,) in [0, 1); order (T, N) a permutation of the
    agents; replay (U, B) in [0, 1); where wanted standard normal target_noise (U, B, N, 3) and stored_noise (T, N, 3).
    """
    acceptance = stream(seed, "acceptance", episode)
    draws = {
        "tasks": task_draws(seed, episode, steps, agents),
        "noise": stream(seed, "exploration", episode).standard_normal((steps, agents, 3)),
        "coin": acceptance.random(steps),
        "order": np.argsort(acceptance.random((steps, agents)), axis=-1, kind="stable"),
        "replay": stream(seed, "replay", episode).random((updates, batch_size)),
    }
    if target_noise:
        target = stream(seed, "target noise", episode)
        draws["target_noise"] = target.standard_normal((updates, batch_size, agents, 3))
        draws["stored_noise"] = target.standard_normal((steps, agents, 3))
    return draws
