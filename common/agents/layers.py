"""Stacked layers: one tensor holds the same layer of many small networks.

Letters in shapes: G networks side by side (runs, or runs x agents), B samples, R runs, M networks of a run.
All parameters of a bank lie in one flat tensor, so that the optimiser, the freeze test, target copies and
checkpoints are single tensor operations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.environment.random_streams import stream

SAFE_ROWS = 16
ALIGNMENT = 16  # floats; keeps every layer of every network on a cache line, whatever the run's place


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter of one network: `<layer>.<name>`, its shape, and that it starts in centre + U(-bound, bound)."""

    name: str
    shape: tuple[int, ...]
    bound: float
    centre: float = 0.0

    @property
    def layer(self) -> str:
        """Name of the layer that the parameter belongs to."""
        return self.name.partition(".")[0]


def linear_specs(layer: str, inputs: int, outputs: int, bound: float | None = None) -> list[ParameterSpec]:
    """Weight (in, out) and bias (out,) of a linear layer; PyTorch's default bound 1/sqrt(in) unless given.

    The weight lies the other way round than in torch.nn.Linear, so that products and their gradients need no
    transposed copies.
    """
    bound = 1.0 / math.sqrt(inputs) if bound is None else bound
    return [
        ParameterSpec(f"{layer}.weight", (inputs, outputs), bound),
        ParameterSpec(f"{layer}.bias", (outputs,), bound),
    ]


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (G, B, in), weight (G, in, out), bias (G, out) -> (G, B, out)."""
    return stacked_product(x, weight, bias.unsqueeze(1))


def layer_norm_specs(layer: str, features: int) -> list[ParameterSpec]:
    """Gain (1 at the start) and bias (0) of a LayerNorm (ba2016) over `features`."""
    return [ParameterSpec(f"{layer}.gain", (features,), 0.0, 1.0), ParameterSpec(f"{layer}.bias", (features,), 0.0)]


def layer_norm(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """LayerNorm over the last dimension, eps 1e-5: x (G, B, features), gain and bias (G, features)."""
    normalised = torch.nn.functional.layer_norm(x, x.shape[-1:])
    return torch.addcmul(bias.unsqueeze(1), normalised, gain.unsqueeze(1))


def stacked_product(x: Tensor, weight: Tensor, base: Tensor | None = None) -> Tensor:
    """x @ weight (+ base) for G stacked networks, with the same bits for each network whatever G is.

    x (G, B, in), weight (G, in, out), base (G, B or 1, out). On the CPU a product that stands alone rounds
    differently than in a stack when it has few rows or several threads share it, so a lone one is stacked with its
    own copy; where no gradient follows, 16 rows are enough for the same bits.
    """
    if x.shape[0] > 1 or (x.shape[1] >= SAFE_ROWS and not (x.requires_grad or weight.requires_grad)):
        return torch.bmm(x, weight) if base is None else torch.baddbmm(base, x, weight)
    return stacked_product(*(None if t is None else t.expand(2, -1, -1) for t in (x, weight, base)))[:1]


def add_product(x: Tensor, weight: Tensor, base: Tensor) -> Tensor:
    """base + x @ weight, in place of base and without gradient; shapes and bits as of `stacked_product` and a sum.

    With few rows the product that adds rounds differently from the sum, so it is used from SAFE_ROWS on.
    """
    return base.baddbmm_(x, weight) if x.shape[1] >= SAFE_ROWS else base.add_(stacked_product(x, weight))


class ParameterLayout:
    """Where each parameter of one network lies in its flat row of `size` numbers."""

    def __init__(self, specs: Iterable[ParameterSpec]):
        """Lay the parameters out one after the other, each on an aligned offset."""
        self.specs = tuple(specs)
        self.offsets: dict[str, int] = {}
        self.gaps: list[tuple[int, int]] = []
        start = 0
        for spec in self.specs:
            self.offsets[spec.name] = start
            end = start + math.prod(spec.shape)
            start = -(-end // ALIGNMENT) * ALIGNMENT
            if end < start:
                self.gaps.append((end, start))
        self.size = start
        self.layers = tuple(dict.fromkeys(spec.layer for spec in self.specs))

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Parameters by name, views (G, *shape) of flat (R, M, size) with G = R·M."""
        rows = flat.flatten(0, 1)
        return {
            spec.name: rows.narrow(1, self.offsets[spec.name], math.prod(spec.shape)).unflatten(1, spec.shape)
            for spec in self.specs
        }

    def initial(self, network: str, seed: int, networks: int) -> Tensor:
        """Initial parameters of one run, float64 (networks, size).

        Each parameter has a stream of its own, so equal shapes start equal in every variant.
        """
        flat = torch.zeros(networks, self.size, dtype=torch.float64)
        views = self.views(flat.unsqueeze(0))
        for spec in self.specs:
            name, view = spec.name, views[spec.name]
            if not spec.bound:
                view.fill_(spec.centre)
                continue
            draws = stream(seed, f"initial {network} {name}").random((networks, *spec.shape))
            view.copy_(torch.from_numpy(spec.centre + spec.bound * (2.0 * draws - 1.0)))
        return flat

    def pack(self, values: dict[str, Tensor], like: Tensor) -> Tensor:
        """Flat tensor shaped as `like` (R, M, size) from values by name, (G, *shape) each; padding is zero."""
        flat = torch.empty_like(like)
        for start, end in self.gaps:
            flat[..., start:end] = 0.0
        for name, view in self.views(flat).items():
            view.copy_(values[name])
        return flat

    def layer_norms(self, flat: Tensor) -> Tensor:
        """L2 norm of each layer's part of flat (R, M, size): float64 (R, M, layers).

        Double precision, so that squares of tiny float32 gradients do not vanish.
        """
        squares = {layer: 0.0 for layer in self.layers}
        for spec in self.specs:
            part = flat.narrow(2, self.offsets[spec.name], math.prod(spec.shape)).double().square()
            # Two stages, so that the order of summation does not depend on the number of runs.
            squares[spec.layer] = squares[spec.layer] + part.unflatten(2, (spec.shape[0], -1)).sum(-1).sum(-1)
        return torch.stack([squares[layer] for layer in self.layers], dim=-1).sqrt()
