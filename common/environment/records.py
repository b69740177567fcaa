"""Records of tensors whose first dimension is the runs: parts of them, and several joined into one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Self

import torch
from torch import Tensor


class TensorRecord:
    """A dataclass of tensors (or dicts of them, or records, or None) whose first dimension is the runs."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Return the same record with `function` applied to every tensor."""

        def mapped(value: object) -> object:
            if isinstance(value, TensorRecord):
                return value.map(function)
            if isinstance(value, dict):
                return {name: function(tensor) for name, tensor in value.items()}
            return function(value) if isinstance(value, Tensor) else value

        return type(self)(**{f.name: mapped(getattr(self, f.name)) for f in fields(self)})

    def of(self, runs: slice) -> Self:
        """Return the part that belongs to some runs only, as views."""
        return self.map(lambda tensor: tensor[runs])


def joined(records: list) -> object:
    """Join records of consecutive blocks of runs into one of all; what is no tensor is taken from the first."""
    if len(records) == 1:
        return records[0]

    def join(values: list) -> object:
        first = values[0]
        if isinstance(first, TensorRecord):
            return joined(values)
        if isinstance(first, dict):
            return {name: torch.cat([value[name] for value in values]) for name in first}
        return torch.cat(values) if isinstance(first, Tensor) else first

    return type(records[0])(**{f.name: join([getattr(r, f.name) for r in records]) for f in fields(records[0])})
