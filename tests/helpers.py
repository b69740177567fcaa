"""What several test modules need: experiments, small learners, and one run's weights as named arrays."""

from __future__ import annotations

import functools
import importlib.util
import itertools
from pathlib import Path

import numpy as np
import torch

from common.agents.learner import Learner
from common.agents.reports import RunKey
from common.experiment import Experiment

CPU = torch.device("cpu")
EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
RATES = (1e-4, 1e-3, 1e-2, 1e-1)

Weights = dict[str, np.ndarray]


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


def make_learner(
    keys: list[RunKey], dense: bool | None = None, experiment: str | Experiment = "baseline", **options: object
) -> Learner:
    """A plain learner of `keys` on the CPU; `options` are fields of the experiment's configuration."""
    own = experiments()[experiment] if isinstance(experiment, str) else experiment
    return Learner(own, own.config(**{**own.overrides, **options}), keys, CPU, dense=dense)


def grid(*seeds: int) -> list[RunKey]:
    """The 16 learning-rate pairs of each seed, ordered by seed."""
    return [RunKey(*key) for key in itertools.product(sorted(seeds), RATES, RATES)]


def actor_weights(learner: Learner, run: int) -> Weights:
    """Weights (N, …) of one run's actors by parameter name."""
    tensors = learner.actors.tensors(slice(run, run + 1))
    return {name: tensors[name].numpy().copy() for name in learner.actors.layout.shapes}


def critic_weights(learner: Learner, run: int) -> Weights:
    """Weights of one run's critic by parameter name."""
    tensors = learner.critics.tensors(slice(run, run + 1))
    return {name: tensors[name][0].numpy().copy() for name in learner.critics.layout.shapes}


def start_of(learner: Learner, run: int) -> tuple[list[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """Tensors of every actor and of the critic of one run, as a naive run starts from them."""
    actors, critic = (bank.tensors(slice(run, run + 1)) for bank in (learner.actors, learner.critics))
    alone = [{name: x[i].clone() for name, x in actors.items()} for i in range(learner.config.agents)]
    return alone, {name: x[0].clone() for name, x in critic.items()}
