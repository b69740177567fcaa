"""Clamped rates: the recipe is only a smaller learning rate.

Differs from the recipe in one thing: instead of limited steps, the learning rates are clamped from above, at 1e-4 for
the actors and 1e-3 for the critic. Only the pairs that remain distinct are trained.
"""

import sys

sys.path.insert(1, sys.path[0] + "/../..")  # where common/ lies in the repository

from dataclasses import dataclass

from common.agents.remedies import RECIPE, RecipeConfig, recipe_actor, recipe_algorithm, recipe_critic
from common.experiment import Experiment
from common.study.runner import main


@dataclass(frozen=True)
class Config(RecipeConfig):
    def __post_init__(self) -> None:
        if "step_limit" not in self.without:  # whatever else is left out
            object.__setattr__(self, "without", (*self.without, "step_limit"))
        super().__post_init__()


EXPERIMENT = Experiment(
    name="clamped_rates",
    description=__doc__,
    overrides=RECIPE | {"without": ("step_limit",), "actor_lrs": (1e-4,), "critic_lrs": (1e-4, 1e-3)},
    actor=recipe_actor,
    critic=recipe_critic,
    algorithm=recipe_algorithm,
    config=Config,
)

if __name__ == "__main__":
    main(EXPERIMENT)
