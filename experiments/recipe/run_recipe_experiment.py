"""The recipe: normalised inputs and rewards and limited steps learn at every pair of learning rates.

Differs from the baseline in the parts of one setting with the same constants everywhere: running normalisation of the
inputs (as input_norm --debiased) and of the rewards (as reward_norm), steps of at most 0.001 of a layer's weights for
the actors and 0.01 for the critic (as step_limit), and a critic that knows the slope it is asked for: exploration noise
of 0.3 epsilon, a replay of the last 2,000 transitions drawn alike, targets that follow by 0.01 a step. --without NAME
leaves a part out, --without last_four those of the critic's slope.
"""

import sys

sys.path.insert(1, sys.path[0] + "/../..")  # where common/ lies in the repository

from common.agents.remedies import RECIPE, RecipeConfig, recipe_actor, recipe_algorithm, recipe_critic
from common.experiment import Experiment
from common.study.runner import main

EXPERIMENT = Experiment(
    name="recipe",
    description=__doc__,
    overrides=RECIPE,
    actor=recipe_actor,
    critic=recipe_critic,
    algorithm=recipe_algorithm,
    config=RecipeConfig,
)

if __name__ == "__main__":
    main(EXPERIMENT)
