"""Frozen actors: what the critic's ranking of offloads learns by itself, without the actors.

Differs from the baseline in one thing: the actors' learning rate is 0, so there are four runs a seed, one for each
rate of the critic. With --with-recipe the rest is as in the recipe.
"""

import sys

sys.path.insert(1, sys.path[0] + "/../..")  # where common/ lies in the repository

from dataclasses import dataclass

from common.agents.algorithm import Algorithm
from common.agents.networks import Actor, Critic
from common.agents.remedies import RECIPE, RecipeConfig, recipe_actor, recipe_algorithm, recipe_critic
from common.config import ConfigError, StudyConfig, option
from common.experiment import Experiment
from common.study.runner import main


@dataclass(frozen=True)
class Config(RecipeConfig):
    with_recipe: bool = option(
        False,
        "the parts and values of the recipe, for the critic and what the actors see; its values replace those that are "
        "the baseline's, given or not: --without leaves a part out",
    )

    def __post_init__(self) -> None:
        if self.without and not self.with_recipe:
            raise ConfigError("--without: allowed: with --with-recipe")
        for name, value in RECIPE.items():
            if self.with_recipe and getattr(self, name) == getattr(StudyConfig, name):
                object.__setattr__(self, name, value)
        super().__post_init__()


EXPERIMENT = Experiment(
    name="frozen_actors",
    description=__doc__,
    overrides={"actor_lrs": (0.0,)},
    actor=lambda config: (recipe_actor if config.with_recipe else Actor)(config),
    critic=lambda config: (recipe_critic if config.with_recipe else Critic)(config),
    algorithm=lambda config: (recipe_algorithm if config.with_recipe else Algorithm)(config),
    config=Config,
)

if __name__ == "__main__":
    main(EXPERIMENT)
