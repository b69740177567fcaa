"""What several test modules need: experiments, small learners, and one run's weights as named arrays."""

from __future__ import annotations

import functools
import importlib.util
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from common.agents.stacked import StackedNetworks

from common.agents.learner import Learner
from common.agents.networks import Actor, Critic
from common.agents.reports import RunKey
from common.config import StudyConfig
from common.experiment import Experiment

CPU = torch.device("cpu")
EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
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


@functools.cache
def experiments(folder: Path = EXPERIMENTS) -> dict[str, Experiment]:
    """Every experiment that has its script in a folder of its own, by the folder's name."""
    found = {}
    for script in sorted(folder.glob("*/run_*_experiment.py")):
        spec = importlib.util.spec_from_file_location(script.stem, script)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found[script.parent.name] = module.EXPERIMENT
    return found


def variant(name: str) -> dict[str, object]:
    """What `make_learner` needs for the experiment of this name."""
    experiment = experiments()[name]
    return {
        "actor_class": experiment.actor_class, "critic_class": experiment.critic_class, **experiment.overrides
    }  # fmt: skip


def make_learner(
    keys: list[RunKey],
    dense: bool | None = None,
    actor_class: type[Actor] = Actor,
    critic_class: type[Critic] = Critic,
    **options: object,
) -> Learner:
    """A learner of `keys` on the CPU; `options` are fields of StudyConfig."""
    return Learner(
        StudyConfig(**options), keys, CPU, actor_class=actor_class, critic_class=critic_class, dense=dense
    )


def grid(*seeds: int) -> list[RunKey]:
    """The 16 learning-rate pairs of each seed, ordered by seed."""
    return [RunKey(*key) for key in itertools.product(sorted(seeds), RATES, RATES)]


def actor_weights(learner: Learner, run: int, target: bool = False) -> Weights:
    """Weights (N, …) of one run's actors as fc1.weight … fc3.bias."""
    return _weights(learner.actors, run, target)


def critic_weights(learner: Learner, run: int, target: bool = False) -> Weights:
    """Weights of one run's critic in torch.nn.Linear's orientation, the three parts of fc1 put together again."""
    return {name: value[0] for name, value in _weights(learner.critics, run, target).items()}


def _weights(networks: StackedNetworks, run: int, target: bool) -> Weights:
    views = networks.views(slice(run, run + 1), target=target)
    learned = {spec.name: views[spec.name] for spec in networks.layout.specs}
    return {name: view.detach().numpy().copy() for name, view in linear_orientation(learned).items()}


def linear_orientation(views: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The project's parameters as torch.nn has them: weights (G, out, in), the critic's fc1 whole, gains as weights."""
    whole = dict(views)
    if "fc1.personal" in whole:
        whole["fc1.weight"] = torch.cat([whole.pop(f"fc1.{part}") for part in ("states", "actions", "personal")], dim=1)
    turned = {name: value.mT if name.endswith(".weight") else value for name, value in whole.items()}
    return {name.replace(".gain", ".weight"): value for name, value in turned.items()}
