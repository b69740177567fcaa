"""The paper's tables: one function each, from the recordings to a LaTeX tabular."""

from collections.abc import Callable

from paper.load import Recordings
from paper.tables import baseline, experiments, law, setup

TABLES: dict[str, Callable[[Recordings], str]] = {
    function.__name__: function
    for function in (
        baseline.references, baseline.mechanism, baseline.cells, law.law, law.memory,
        experiments.remedies, experiments.recipe, experiments.parts, experiments.verdicts,
        setup.environment, setup.hyperparameters, setup.cost,
    )
}  # fmt: skip
