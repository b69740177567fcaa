"""What each run of a learner or engine did, by key, and its comparison bit by bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from common.agents.learner import Learner
from common.agents.reports import RunKey
from common.environment.records import TensorRecord
from common.training.engine import Engine

Trainer = Learner | Engine


def named_tensors(record: TensorRecord, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a report and of the records in it."""
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if isinstance(value, Tensor):
            yield prefix + field.name, value
        elif isinstance(value, TensorRecord):
            yield from named_tensors(value, f"{prefix}{field.name}.")
        elif isinstance(value, dict):
            yield from ((f"{prefix}{field.name}.{name}", tensor) for name, tensor in value.items())


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Equal in every bit, so that NaN equals itself and 0 does not equal -0."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    if one.is_floating_point():
        one, other = (x.contiguous().view(bits[x.element_size()]) for x in (one, other))
    return torch.equal(one, other)


def copy_of(trainer: Trainer) -> dict[str, Tensor]:
    """Its state as it is now."""
    return {name: value.clone() for name, value in trainer.state().items()}


class History:
    """The reports of a trainer's episodes and its state at the end, by run."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.numbers: dict[RunKey, dict[str, Tensor]] = {}

    def add(self, trainer: Trainer, tensors: Iterator[tuple[str, Tensor]]) -> None:
        """Note these tensors (R, …) under each run's key."""
        for name, value in tensors:
            for run, key in enumerate(trainer.keys):
                numbers = self.numbers.setdefault(key, {})
                assert name not in numbers
                numbers[name] = value[run].clone()

    def train(self, trainer: Trainer, episodes: int, evaluate: bool = False, details: bool = True) -> History:
        """Train so many episodes more, with the state at their end."""
        for _ in range(episodes):
            report = trainer.train_episode(details)
            self.add(trainer, named_tensors(report, f"episode {report.episode}, "))
            if evaluate:
                trainer.evaluate()
        self.add(trainer, ((f"episode {trainer.episode}, {name}", x) for name, x in trainer.state().items()))
        return self

    def check(self, keys: list[RunKey], other: History, only_common: bool = False) -> None:
        """The runs `keys` did the same, bit by bit, in this history and in the other."""
        for key in keys:
            mine, its = self.numbers[key], other.numbers[key]
            names = [name for name in mine if name in its]
            assert only_common or mine.keys() == its.keys()
            different = [name for name in names if not same_bits(mine[name], its[name])]
            assert names and not different, f"{key}: {len(different)} of {len(names)} differ: {different[:5]}"
