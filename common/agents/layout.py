"""Where each tensor of one network lies in its flat row of numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

ALIGNMENT = 16  # numbers; keeps every layer of every network on a cache line, whatever the run's place

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Layer:
    """A module with parameters of its own: where they lie in a network's flat row, and how many they are."""

    place: slice
    numbers: int


class Layout:
    """Where each tensor of one network lies in its flat row of `size` numbers.

    Matrices lie transposed, as (inputs, outputs), so that products and their gradients need no transposed copies.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]]):
        """Lay tensors of these names and shapes out one after the other, each on an aligned offset."""
        self.shapes, self.offsets = shapes, {}
        self.layers: dict[str, Layer] = {}
        start = 0
        for name, shape in shapes.items():
            self.offsets[name] = start
            numbers = math.prod(shape)
            layer = name.rpartition(".")[0] or name
            before = self.layers.get(layer, Layer(slice(start, start), 0))
            start += -(-numbers // ALIGNMENT) * ALIGNMENT
            self.layers[layer] = Layer(slice(before.place.start, start), before.numbers + numbers)
        self.size = start

    def views(self, flat: Tensor) -> Tensors:
        """Tensors by name, views (G, *shape) of flat (R, M, size) with G = R·M."""
        rows = flat.flatten(0, 1)
        return {name: self._view(rows, name) for name in self.shapes}

    def _view(self, rows: Tensor, name: str) -> Tensor:
        shape = self.shapes[name]
        part = rows.narrow(1, self.offsets[name], math.prod(shape))
        return part.unflatten(1, shape[::-1]).mT if len(shape) == 2 else part.view(len(rows), *shape)

    def pack(self, tensors: Tensors, like: Tensor) -> Tensor:
        """Flat tensor shaped as `like` (R, M, size) from tensors (G, *shape) by name; padding is zero."""
        flat = torch.zeros_like(like)
        for name, view in self.views(flat).items():
            view.copy_(tensors[name])
        return flat

    def layer_norms(self, flat: Tensor) -> Tensor:
        """L2 norm of each layer's part of flat (R, M, size): float64 (R, M, layers).

        Double precision, so that squares of tiny float32 gradients do not vanish. Two stages of summation, so that
        their order does not depend on the number of runs.
        """
        squares = (flat[..., layer.place].double().square() for layer in self.layers.values())
        return torch.stack([x.unflatten(-1, (-1, ALIGNMENT)).sum(-1).sum(-1) for x in squares], dim=-1).sqrt()
