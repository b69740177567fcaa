"""A run's bits do not depend on its company: alone, in a full grid, in part of one, resumed, or evaluated.

Float32 on the CPU with a fixed number of threads, as the studies run. Equality is always of every bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from helpers import cpu_threads, grid, make_learner, variant

from common.agents.learner import Learner
from common.agents.reports import EpisodeReport, RunKey
from common.environment.records import TensorRecord

FULL: dict[str, object] = {"episodes": 20}
ODD: dict[str, object] = {"agents": 13, "batch_size": 17, "episodes": 100, "eval_episodes": 2}
SMALL: dict[str, object] = {**ODD, "actor_hidden": (32, 16), "critic_hidden": (64, 32)}
SEQUENTIAL: dict[str, object] = {**SMALL, "actor_update": "sequential"}
SOFT: dict[str, object] = {**SMALL, "tau": 0.3, "clip_norm": 0.5, "updates_per_episode": 2, "env": "interior"}
# Widths that leave most matrices of a stack off the cache lines.
UNALIGNED: dict[str, object] = {**ODD, "actor_hidden": (21, 9), "critic_hidden": (37, 19)}
VARIANTS = ("fullnorm", "adaptive_scaling", "layernorm")


def named_tensors(record: TensorRecord, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a report and of the records in it; none may be missing."""
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if isinstance(value, torch.Tensor):
            yield prefix + field.name, value
        elif isinstance(value, TensorRecord):
            yield from named_tensors(value, f"{prefix}{field.name}.")
        elif isinstance(value, dict):
            yield from ((f"{prefix}{field.name}.{name}", tensor) for name, tensor in value.items())


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal in every bit, so that NaN equals itself and 0 does not equal -0."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    if one.is_floating_point():
        one, other = (x.contiguous().view(bits[x.element_size()]) for x in (one, other))
    return torch.equal(one, other)


class History:
    """What each run of a learner did, by key: the reports of its episodes, and its state at the end."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.numbers: dict[RunKey, dict[str, torch.Tensor]] = {}

    def add(self, learner: Learner, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
        for name, value in tensors:
            for run, key in enumerate(learner.keys):
                numbers = self.numbers.setdefault(key, {})
                assert name not in numbers
                numbers[name] = value[run].clone()

    def train(self, learner: Learner, episodes: int, evaluate: bool = False, details: bool = True) -> History:
        """Train so many episodes more, with the state at their end."""
        for _ in range(episodes):
            report = learner.train_episode(details)
            self.add(learner, named_tensors(report, f"episode {report.episode}, "))
            if evaluate:
                learner.evaluate()
        self.add(learner, ((f"episode {learner.episode}, {name}", x) for name, x in learner.state().items()))
        return self

    def check(self, keys: list[RunKey], other: History, only_common: bool = False) -> None:
        """The runs `keys` did the same, bit by bit, in this history and in the other."""
        for key in keys:
            mine, its = self.numbers[key], other.numbers[key]
            names = [name for name in mine if name in its]
            assert only_common or mine.keys() == its.keys()
            different = [name for name in names if not same_bits(mine[name], its[name])]
            assert names and not different, f"{key}: {len(different)} of {len(names)} differ: {different[:5]}"


def history(keys: list[RunKey], episodes: int, options: dict[str, object], dense: bool | None = None) -> History:
    return History().train(make_learner(keys, dense, **options), episodes)


def test_reports_and_states_are_complete() -> None:
    """The comparisons below do see weights, moments, replay, returns and details, and these do change."""
    keys = grid(1)[:2]
    learner = make_learner(keys, **SMALL)
    numbers = History().train(learner, 3).numbers[keys[0]]
    seen = {name.partition(", ")[2] for name in numbers if name.startswith("episode 3")}
    assert {
        "training_return", "step.changed", "step.gradient_alive", "actors.flat", "actors.first", "actors.second",
        "critics.flat", "replay.priorities", "replay.states", "details.actor_gradients", "details.critic_updates",
        "details.action_slope", "details.pre_activations",
    } <= seen  # fmt: skip
    assert all(value.isfinite().all() for value in numbers.values())
    assert numbers["episode 3, step.changed"].all()
    with pytest.raises(AssertionError, match="differ"):
        other = History().train(make_learner([RunKey(1, 1e-4, 5e-4)], **SMALL), 3)
        other.numbers[keys[0]] = other.numbers.pop(RunKey(1, 1e-4, 5e-4))
        other.check(keys[:1], History().train(make_learner(keys[:1], **SMALL), 3))


@pytest.mark.parametrize(("threads", "episodes"), [(1, 6), (2, 3)])
def test_full_size_alone_in_a_grid_and_in_parts_of_it(threads: int, episodes: int) -> None:
    """50 agents, batch 64, hidden layers as in the studies."""
    keys = grid(42)
    with cpu_threads(threads):
        together = history(keys, episodes, FULL)
        for part in (keys[:5], keys[5:], keys[:1], keys[15:]):
            history(part, episodes, FULL).check(part, together)


@pytest.mark.parametrize(
    ("options", "episodes"),
    [
        (ODD, 30), (SMALL, 30), (SEQUENTIAL, 8), (SOFT, 30), (UNALIGNED, 10),
        ({**UNALIGNED, "actor_update": "sequential"}, 4),
    ],
    ids=["full width", "joint", "sequential", "soft and clipped", "unaligned", "unaligned, sequential"],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_odd_size_alone_in_a_grid_and_in_parts_of_it(
    options: dict[str, object], episodes: int, threads: int
) -> None:
    """13 agents, batch 17, two seeds: the parts cut through a seed."""
    keys = grid(1, 2)[::3]
    episodes = max(3, episodes // threads**2)
    with cpu_threads(threads):
        together = history(keys, episodes, options)
        for part in (keys[:4], keys[4:], keys[:1], keys[6:7], keys[10:]):
            history(part, episodes, options).check(part, together)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(
    ("options", "episodes", "dense"),
    [(UNALIGNED, 6, False), (UNALIGNED, 4, True), (SEQUENTIAL, 4, False)],
    ids=["joint", "dense", "sequential"],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_variants_alone_in_a_grid_and_in_parts_of_it(
    name: str, options: dict[str, object], episodes: int, dense: bool, threads: int
) -> None:
    """What a variant observes, and its measures, are as independent of the other runs as the weights."""
    keys, options = grid(1, 2)[::5], {**options, **variant(name)}
    with cpu_threads(threads):
        together = history(keys, episodes // threads, options, dense)
        for part in (keys[:1], keys[2:5], keys[6:]):
            history(part, episodes // threads, options, dense).check(part, together)
    numbers = together.numbers[keys[0]]
    assert (f"episode {episodes // threads}, actors.statistics" in numbers) == (name != "layernorm")
    assert any("details.extras." in key for key in numbers) == (name != "fullnorm")


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("threads", [1, 2])
def test_full_size_variant_alone_and_in_a_grid(name: str, threads: int) -> None:
    """50 agents, batch 64, hidden layers as in the studies."""
    keys, options = grid(42)[::4], {**FULL, **variant(name)}
    with cpu_threads(threads):
        together = history(keys, 3, options)
        history(keys[2:3], 3, options).check(keys[2:3], together)


@pytest.mark.usefixtures("one_thread")
def test_dense_rows_alone_and_in_a_grid() -> None:
    """The way of computing that a GPU uses, with all rows, is as independent on the CPU."""
    keys = grid(1)[::2]
    together = history(keys, 12, SMALL, dense=True)
    for part in (keys[:3], keys[3:], keys[6:7]):
        history(part, 12, SMALL, dense=True).check(part, together)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("options", "episodes"), [(SMALL, 15), (SEQUENTIAL, 4), (SOFT, 15)], ids=["joint", "sequential", "soft and clipped"]
)
def test_dropping_runs_leaves_the_others_alone(options: dict[str, object], episodes: int) -> None:
    """Twice, the second time all runs of a seed; the ring of 5 episodes wraps in between."""
    keys, options = grid(1, 2), {**options, "replay_capacity": 50}
    undisturbed, thinned = (History() for _ in range(2))
    learner = make_learner(keys, **options)
    for _ in range(3):
        undisturbed.train(learner, episodes)

    learner = make_learner(keys, **options)
    thinned.train(learner, episodes)
    learner.keep([0, 3, 4, 10, 15, 16, 30])
    thinned.train(learner, episodes)
    learner.keep([5, 6])
    assert learner.keys == [keys[16], keys[30]]
    thinned.train(learner, episodes)
    thinned.check(learner.keys, undisturbed)
    thinned.check(keys, undisturbed, only_common=True)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", VARIANTS)
def test_dropping_runs_leaves_the_others_alone_in_variants(name: str) -> None:
    keys, options = grid(1, 2)[::4], {**SOFT, **variant(name)}
    undisturbed, thinned = (History() for _ in range(2))
    learners = [make_learner(keys, **options) for _ in range(2)]
    for record, learner in zip((undisturbed, thinned), learners, strict=True):
        record.train(learner, 4)
    learners[1].keep([1, 4, 7])
    for record, learner in zip((undisturbed, thinned), learners, strict=True):
        record.train(learner, 4)
    thinned.check([keys[1], keys[4], keys[7]], undisturbed)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("options", [SMALL, SOFT], ids=["joint", "soft and clipped"])
def test_a_resumed_learner_goes_on_as_if_nothing_had_happened(options: dict[str, object]) -> None:
    """A fresh learner that loads a state; the ring wraps before and after."""
    keys, options = grid(1, 2)[::3], {**options, "replay_capacity": 50}
    learner = make_learner(keys, **options)
    History().train(learner, 8)
    saved = {name: value.clone() for name, value in learner.state().items()}
    episode, updates = learner.episode, learner.updates
    expected = History().train(learner, 8)

    resumed = make_learner(keys, **options)
    resumed.load(saved, episode, updates)
    History().train(resumed, 8).check(keys, expected)
    for name, value in learner.state().items():
        assert not same_bits(value, saved[name]), f"{name} had nothing to change"


@pytest.mark.usefixtures("one_thread")
def test_a_part_of_a_learner_resumes_alone() -> None:
    """A state cut down to some runs resumes in a learner of those, as a shard of another size does."""
    keys = grid(3)
    learner = make_learner(keys, **SMALL)
    History().train(learner, 6)
    resumed = make_learner(keys[4:9], **SMALL)
    part = {name: value[4:9].clone() for name, value in learner.state().items()}
    resumed.load(part, learner.episode, learner.updates)
    History().train(resumed, 6).check(keys[4:9], History().train(learner, 6))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("dense", [False, True])
def test_evaluating_and_logging_change_nothing(dense: bool) -> None:
    keys, episodes = grid(1, 2)[::5], 12
    plain = History().train(make_learner(keys, dense, **SOFT), episodes, details=False)
    evaluated = History().train(make_learner(keys, dense, **SOFT), episodes, evaluate=True, details=False)
    evaluated.check(keys, plain)
    logged = History().train(make_learner(keys, dense, **SOFT), episodes, evaluate=True, details=True)
    logged.check(keys, plain, only_common=True)
    assert plain.numbers[keys[0]].keys() < logged.numbers[keys[0]].keys()


@pytest.mark.usefixtures("one_thread")
def test_evaluations_are_independent_too() -> None:
    """Also of when they happen: twice in a row gives the same, and the state stays as it was."""
    keys = grid(1, 2)
    learner = make_learner(keys, **SMALL)
    History().train(learner, 5)
    before = {name: value.clone() for name, value in learner.state().items()}
    first, second = learner.evaluate(), learner.evaluate()
    assert all(same_bits(value, before[name]) for name, value in learner.state().items())
    together = History()
    together.add(learner, named_tensors(first))
    again = History()
    again.add(learner, named_tensors(second))
    again.check(keys, together)
    for part in (keys[:1], keys[10:20]):
        other, alone = make_learner(part, **SMALL), History()
        History().train(other, 5)
        alone.add(other, named_tensors(other.evaluate()))
        alone.check(part, together)


def test_a_report_without_training_has_no_step() -> None:
    """Training starts with the second episode."""
    learner = make_learner(grid(1)[:1], **SMALL)
    before = learner.actors.flat.clone()
    reports: list[EpisodeReport] = [learner.train_episode(details=True)]
    assert reports[0].step is None and torch.equal(learner.actors.flat, before)
    reports.append(learner.train_episode(details=True))
    assert reports[1].step is not None and not torch.equal(learner.actors.flat, before)
