"""LayerNorm: normalising what enters tanh keeps it in tanh's linear range.

Differs from the baseline in one thing: each actor has a LayerNorm over its 3 pre-activations, with a learned gain and
bias, before tanh. z is measured after the norm. With gain 1 and bias 0 no |z| exceeds the square root of 2, so any
saturation comes from gain and bias, which saturation.csv logs per output.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(next(folder for folder in (HERE, *HERE.parents) if (folder / "common").is_dir())))

from common.agents.layers import layer_norm, layer_norm_specs  # noqa: E402
from common.agents.networks import Actor  # noqa: E402
from common.environment.mec_env import ACTION_SIZE  # noqa: E402
from common.experiment import Experiment  # noqa: E402
from common.study.runner import main  # noqa: E402

OUTPUTS = ("offload", "compute", "power")


class LayerNormActor(Actor):
    """The baseline's actor with a LayerNorm before tanh."""

    def specs(self):
        return [*super().specs(), *layer_norm_specs("norm", ACTION_SIZE)]

    def pre_activation(self, z, p):
        return layer_norm(z, p["norm.gain"], p["norm.bias"])

    def measures(self, p, states):
        learned = {"norm_gain": p["norm.gain"], "norm_bias": p["norm.bias"]}
        return {f"{name}_{output}": x[:, i] for name, x in learned.items() for i, output in enumerate(OUTPUTS)}


EXPERIMENT = Experiment(name="layernorm", description=__doc__, actor_class=LayerNormActor)

if __name__ == "__main__":
    main(EXPERIMENT)
