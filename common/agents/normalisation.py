"""Network variants that normalise: running statistics of the inputs, LayerNorm in the hidden layers.

Both are mixed into Actor or Critic: `class NormalisedActor(RunningInputNorm, Actor): ...`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.agents.layers import ParameterSpec, layer_norm, layer_norm_specs
from common.agents.networks import Parameters

MOMENTUM, VARIANCE_FLOOR = 0.99, 1e-5


class RunningInputNorm:
    """Inputs minus their running mean, divided by their running standard deviation, feature by feature.

    Mean and variance are exponential moving averages with momentum 0.99 that start at 0 and 1 and take in every step
    of the training episodes; eps 1e-5 is added to the variance. The variance is that of the exponentially weighted
    samples about their own mean, so that a step with a single sample counts (an actor has one state per step).
    """

    def statistic_specs(self) -> list[ParameterSpec]:
        specs = super().statistic_specs()
        for part, width in self.parts.items():
            specs += [
                ParameterSpec(f"{part}.mean", (width,), 0.0),
                ParameterSpec(f"{part}.variance", (width,), 0.0, 1.0),
            ]
        return specs

    def observe_step(self, p: Parameters, inputs: Parameters) -> None:
        super().observe_step(p, inputs)
        for part, x in inputs.items():
            mean, variance = p[f"{part}.mean"], p[f"{part}.variance"]
            new_mean = x.mean(1)
            within = (x - new_mean.unsqueeze(1)).square().mean(1)
            between = MOMENTUM * (new_mean - mean).square()
            mean.lerp_(new_mean, 1.0 - MOMENTUM)
            variance.lerp_(within + between, 1.0 - MOMENTUM)

    def input(self, x: Tensor, p: Parameters, part: str) -> Tensor:
        scale = torch.rsqrt(p[f"{part}.variance"] + VARIANCE_FLOOR)
        return (super().input(x, p, part) - p[f"{part}.mean"].unsqueeze(1)) * scale.unsqueeze(1)


class HiddenLayerNorm:
    """LayerNorm (ba2016), with gain and bias, after the activation of every hidden layer."""

    def specs(self) -> list[ParameterSpec]:
        specs = super().specs()
        for layer, width in enumerate(self.sizes[1:-1], start=1):
            specs += layer_norm_specs(f"norm{layer}", width)
        return specs

    def activation(self, hidden: Tensor, p: Parameters, layer: int) -> Tensor:
        return layer_norm(super().activation(hidden, p, layer), p[f"norm{layer}.gain"], p[f"norm{layer}.bias"])
