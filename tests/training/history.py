"""What each run of a learner or engine did, by key, and its comparison bit by bit."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from common.agents.learner import Learner
from common.agents.reports import RunKey
from common.environment.records import TensorRecord
from common.training.engine import Engine

Trainer = Learner | Engine


def named_tensors(record: TensorRecord, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a report and of the records in it."""
    for field, value in vars(record).items():
        if isinstance(value, Tensor):
            yield prefix + field, value
        elif isinstance(value, TensorRecord):
            yield from named_tensors(value, f"{prefix}{field}.")
        elif isinstance(value, dict):
            yield from ((f"{prefix}{field}.{name}", tensor) for name, tensor in value.items())


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Equal in every bit, so that NaN equals itself and 0 does not equal -0."""
    alike = (one.dtype, one.shape) == (other.dtype, other.shape)
    return alike and one.numpy().tobytes() == other.numpy().tobytes()


def copy_of(trainer: Trainer) -> dict[str, Tensor]:
    """Its state as it is now."""
    return {name: value.clone() for name, value in trainer.state().items()}


class History:
    """The reports of a trainer's episodes, and its state and an evaluation at the end, by run."""

    def __init__(self) -> None:
        self.numbers: dict[RunKey, dict[str, Tensor]] = {}

    def add(self, trainer: Trainer, tensors: Iterator[tuple[str, Tensor]]) -> None:
        """Note these tensors (R, …) under each run's key."""
        for name, value in tensors:
            for key, own in zip(trainer.keys, value, strict=True):
                numbers = self.numbers.setdefault(key, {})
                assert name not in numbers
                numbers[name] = own.detach().clone()

    def train(self, trainer: Trainer, episodes: int, details: bool = True) -> History:
        """Train so many episodes more, and evaluate."""
        for _ in range(episodes):
            report = trainer.train_episode(details)
            self.add(trainer, named_tensors(report, f"episode {report.episode}, "))
        self.add(trainer, ((f"episode {trainer.episode}, {name}", x) for name, x in trainer.state().items()))
        self.add(trainer, named_tensors(trainer.evaluate(), f"episode {trainer.episode}, evaluation."))
        return self

    def check(self, keys: list[RunKey], other: History, only_common: bool = False) -> None:
        """The runs `keys` did the same, bit by bit, in this history and in the other."""
        for key in keys:
            mine, its = self.numbers[key], other.numbers[key]
            names = [name for name in mine if name in its]
            assert only_common or mine.keys() == its.keys()
            different = [name for name in names if not same_bits(mine[name], its[name])]
            assert names and not different, f"{key}: {len(different)} of {len(names)} differ: {different[:5]}"
