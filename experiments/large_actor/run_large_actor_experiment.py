"""Large actor: more actor capacity keeps the actors from saturating.

Differs from the baseline in the actor's hidden layers only: 512 and 128 units instead of 64 and 32. The published
study once used 1024 and 256: --actor-hidden 1024 256.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(next(folder for folder in (HERE, *HERE.parents) if (folder / "common").is_dir())))

from common.experiment import Experiment  # noqa: E402
from common.study.runner import main  # noqa: E402

EXPERIMENT = Experiment(name="large_actor", description=__doc__, overrides={"actor_hidden": (512, 128)})

if __name__ == "__main__":
    main(EXPERIMENT)
