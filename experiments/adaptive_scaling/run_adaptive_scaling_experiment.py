"""Adaptive scaling: rescaling each pre-activation to the range it has shown keeps tanh from saturating.

Differs from the baseline in one thing: for every agent and output, the smallest and the largest z seen in training
so far are mapped to -2 and 2 before tanh. Saturation is measured on the scaled z, and saturation.csv logs the raw one
beside it. The published version clipped gradients too: --clip-norm 1.0.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(next(folder for folder in (HERE, *HERE.parents) if (folder / "common").is_dir())))

import torch  # noqa: E402

from common.agents.layers import ParameterSpec  # noqa: E402
from common.agents.networks import Actor  # noqa: E402
from common.environment.mec_env import ACTION_SIZE  # noqa: E402
from common.experiment import Experiment  # noqa: E402
from common.study.runner import main  # noqa: E402

LIMIT, SMALLEST_HALF_RANGE = 2.0, 1e-6


class AdaptiveScalingActor(Actor):
    """The baseline's actor with its pre-activations rescaled; they pass as they are until the first were seen."""

    def statistic_specs(self):
        bounds = {"range.low": torch.inf, "range.high": -torch.inf}
        return [ParameterSpec(name, (ACTION_SIZE,), 0.0, start) for name, start in bounds.items()]

    def observe_batch(self, p, states):
        with torch.no_grad():
            z = self.output(p, states)
        torch.minimum(p["range.low"], z.amin(1), out=p["range.low"])
        torch.maximum(p["range.high"], z.amax(1), out=p["range.high"])

    def observe_step(self, p, inputs):
        self.observe_batch(p, inputs["states"])

    def pre_activation(self, z, p):
        low, high = p["range.low"].unsqueeze(1), p["range.high"].unsqueeze(1)
        half = ((high - low) / 2).clamp(min=SMALLEST_HALF_RANGE)
        return torch.where(high >= low, LIMIT * (z - (low + high) / 2) / half, z)

    def measures(self, p, states):
        return {"raw_z": self.output(p, states), "half_range": (p["range.high"] - p["range.low"]) / 2}


EXPERIMENT = Experiment(name="adaptive_scaling", description=__doc__, actor_class=AdaptiveScalingActor)

if __name__ == "__main__":
    main(EXPERIMENT)
