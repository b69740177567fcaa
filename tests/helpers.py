"""What several test modules need: small learners, and one run's weights as named arrays."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from common.config import StudyConfig
from common.learner import Learner
from common.reports import RunKey

CPU = torch.device("cpu")
RATES = (1e-4, 1e-3, 1e-2, 1e-1)

Weights = dict[str, np.ndarray]


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """PyTorch with so many CPU threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make_learner(keys: list[RunKey], dense: bool | None = None, **options: object) -> Learner:
    """A learner of `keys` on the CPU; `options` are fields of StudyConfig."""
    return Learner(StudyConfig(**options), keys, CPU, dense=dense)


def grid(*seeds: int) -> list[RunKey]:
    """The 16 learning-rate pairs of each seed, ordered by seed."""
    return [RunKey(*key) for key in itertools.product(sorted(seeds), RATES, RATES)]


def actor_weights(learner: Learner, run: int, target: bool = False) -> Weights:
    """Weights (N, …) of one run's actors as fc1.weight … fc3.bias."""
    return _weights(learner.actors.views(slice(run, run + 1), target=target))


def critic_weights(learner: Learner, run: int, target: bool = False) -> Weights:
    """Weights of one run's critic in torch.nn.Linear's orientation, the three parts of fc1 put together again."""
    views = learner.critics.views(slice(run, run + 1), target=target)
    return {name: value[0] for name, value in _weights(views).items()}


def _weights(views: dict[str, torch.Tensor]) -> Weights:
    return {name: view.detach().numpy().copy() for name, view in linear_orientation(views).items()}


def linear_orientation(views: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The project's parameters as torch.nn.Linear has them: weights (G, out, in), fc1 of the critic whole."""
    whole = dict(views)
    if "fc1.personal" in whole:
        whole["fc1.weight"] = torch.cat([whole.pop(f"fc1.{part}") for part in ("states", "actions", "personal")], dim=1)
    return {name: value.mT if name.endswith(".weight") else value for name, value in whole.items()}
