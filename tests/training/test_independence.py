"""A run's bits do not depend on its company: alone, in a full grid, in part of one, resumed, or evaluated.

Float32 on the CPU with a fixed number of threads, as the studies run. Equality is always of every bit.
"""

from __future__ import annotations

import pytest
import torch
from helpers import grid, make_learner
from torch import Tensor
from training.history import History, copy_of
from training.variants import SILU, VARIANTS

from common.agents.networks import Actor
from common.agents.reports import RunKey
from common.experiment import Experiment

Options = dict[str, object]

FULL: Options = {"episodes": 20, "eval_episodes": 1}
ODD: Options = {"agents": 13, "batch_size": 17, "episodes": 100, "eval_episodes": 2}
SMALL: Options = {**ODD, "actor_hidden": (32, 16), "critic_hidden": (64, 32)}
SEQUENTIAL: Options = {**SMALL, "actor_update": "sequential"}
SOFT: Options = {**SMALL, "tau": 0.3, "clip_norm": 0.5, "updates_per_episode": 2, "env": "interior"}
# Widths that leave most matrices of a stack off the cache lines.
UNALIGNED: Options = {**ODD, "actor_hidden": (21, 9), "critic_hidden": (37, 19)}
WITH_BUFFERS = {"fullnorm", "adaptive_scaling", "input_norm"}
variants = pytest.mark.parametrize("name", VARIANTS)


def check_independent(
    keys: list[RunKey],
    parts: list[list[RunKey]],
    episodes: int,
    options: Options,
    experiment: str | Experiment = "baseline",
    dense: bool | None = None,
) -> History:
    """The runs of every part do alone what they do together."""
    together = History().train(make_learner(keys, dense, experiment, **options), episodes)
    for part in parts:
        History().train(make_learner(part, dense, experiment, **options), episodes).check(part, together)
    return together


def test_reports_and_states_are_complete() -> None:
    """The comparisons below do see weights, moments, replay, returns and details; training starts in episode 2."""
    keys = grid(1)[:2]
    numbers = History().train(make_learner(keys, **SMALL), 3).numbers[keys[0]]
    first, last = ({name[11:] for name in numbers if name.startswith(f"episode {e}")} for e in (1, 3))
    assert first == {"training_return", "late_share", "drained_share"}
    assert {
        "training_return", "step.changed", "actors.parameters", "actors.exp_avg", "critics.exp_avg_sq",
        "replay.priorities", "replay.states", "details.critic_updates", "details.dq_da", "details.z_after",
        "evaluation.evaluation_return", *first,
    } <= last  # fmt: skip
    assert all(value.isfinite().all() for value in numbers.values())
    assert numbers["episode 2, step.changed"].all() and numbers["episode 3, step.changed"].all()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("experiment", ["baseline", "fullnorm", "adaptive_scaling", "layernorm", SILU])
def test_full_size_alone_and_in_a_grid(experiment: str | Experiment, threads: int) -> None:
    """50 agents, batch 64, hidden layers as in the studies."""
    torch.set_num_threads(threads)
    keys = grid(42) if experiment == "baseline" else grid(42)[::4]
    check_independent(keys, [keys[:1], keys[2:]], 3, FULL, experiment)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("options", "episodes"), [(ODD, 12), (SMALL, 15), (SEQUENTIAL, 5), (SOFT, 15)])
def test_odd_size_alone_in_a_grid_and_in_parts_of_it(options: Options, episodes: int, threads: int) -> None:
    """13 agents, batch 17, two seeds: the parts cut through a seed."""
    torch.set_num_threads(threads)
    keys = grid(1, 2)[::3]
    parts = [keys[:4], keys[4:], keys[:1], keys[6:7], keys[10:]]
    check_independent(keys, parts, max(3, episodes // threads**2), options)


@variants
@pytest.mark.parametrize(("mode", "dense"), [("joint", False), ("joint", True), ("sequential", False)])
def test_variants_alone_in_a_grid_and_in_parts_of_it(name: str, mode: str, dense: bool) -> None:
    """What a variant observes, measures and remembers is as independent of the other runs as the weights."""
    keys, (experiment, own) = grid(1, 2)[::5], VARIANTS[name]
    parts, options = [keys[:1], keys[2:5], keys[6:]], {**UNALIGNED, "actor_update": mode, **own}
    numbers = check_independent(keys, parts, 4, options, experiment, dense).numbers[keys[0]]
    assert ("episode 4, actors.buffers" in numbers) == (name in WITH_BUFFERS)
    assert ("episode 4, algorithm.size" in numbers) == (name == "rules")
    assert any("details.extras." in key for key in numbers) == (name in ("adaptive_scaling", "layernorm"))


class MeanNormActor(Actor):
    """Divides by a mean over its samples, once that is large: nothing that may see other networks' numbers."""

    def forward(self, state: Tensor) -> Tensor:
        z = super().forward(state)
        return z / z.abs().mean().clamp(min=1e6)


def test_which_networks_run_stacked() -> None:
    """Where it may be, a stack runs as it is; where it may not, whatever it looks like, by vmap."""
    mean_norm = Experiment("mean_norm", "", actor=MeanNormActor)
    made = ("baseline", "linear_activation", VARIANTS["relative"][0], "layernorm", mean_norm)
    banks = [make_learner(grid(1)[:2], None, experiment, **SMALL).actors for experiment in made]
    stacked = [bank._stacks_by_itself("forward", (torch.zeros(26, 1, 7),)) for bank in banks]
    assert stacked == [True, True, False, False, False]


@variants
@pytest.mark.parametrize("options", [SMALL, SOFT], ids=["joint", "soft and clipped"])
def test_thinned_and_resumed(name: str, options: Options) -> None:
    """Dropping runs twice, the second time all of a seed, and going on from a state leave the others as they are.

    The ring of 3 episodes wraps in between; a step that is due every other time is made on both sides of the cuts.
    """
    keys, (experiment, own) = grid(1, 2)[::4], VARIANTS[name]
    options = {**options, **own, "replay_capacity": 30}
    undisturbed, thinned = History(), History()
    plain, learner = (make_learner(keys, None, experiment, **options) for _ in range(2))
    for kept in ([0, 3, 4, 7], [2, 3], [1]):
        undisturbed.train(plain, 3)
        thinned.train(learner, 3)
        learner.keep(kept)
        state, counters = copy_of(learner), learner.counters()
        learner = make_learner(learner.keys, None, experiment, **options)
        learner.load(state, counters)
    assert learner.keys == [keys[7]]
    thinned.check(learner.keys, undisturbed)
    thinned.check(keys, undisturbed, only_common=True)


@pytest.mark.parametrize("dense", [False, True])
def test_logging_changes_nothing(dense: bool) -> None:
    """Nor does evaluating: tests/experiments/test_experiments.py."""
    keys = grid(1, 2)[::5]
    plain, logged = (History().train(make_learner(keys, dense, **SOFT), 8, details) for details in (False, True))
    logged.check(keys, plain, only_common=True)
    assert plain.numbers[keys[0]].keys() < logged.numbers[keys[0]].keys()
