"""Baseline: tanh actors saturate and freeze early, depending on their learning rate, while the critic learns on.

Differs from the specification in nothing: 50 agents, actor and critic learning rates 1e-4 to 1e-1 each
(16 runs per seed), 2000 episodes.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(next(folder for folder in (HERE, *HERE.parents) if (folder / "common").is_dir())))

from common.experiment import Experiment  # noqa: E402
from common.study.runner import main  # noqa: E402

EXPERIMENT = Experiment(name="baseline", description=__doc__)

if __name__ == "__main__":
    main(EXPERIMENT)
