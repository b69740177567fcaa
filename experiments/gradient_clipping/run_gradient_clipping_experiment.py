"""Gradient clipping: exploding gradients saturate the actors, so bounding them prevents it.

Differs from the baseline in one thing: the gradient norm of each network, every actor for itself, is clipped to 1.0
before its step.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(next(folder for folder in (HERE, *HERE.parents) if (folder / "common").is_dir())))

from common.experiment import Experiment  # noqa: E402
from common.study.runner import main  # noqa: E402

EXPERIMENT = Experiment(name="gradient_clipping", description=__doc__, overrides={"clip_norm": 1.0})

if __name__ == "__main__":
    main(EXPERIMENT)
