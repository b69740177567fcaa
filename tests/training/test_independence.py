"""A run's bits do not depend on its company: alone, in a full grid, in part of one, resumed, or evaluated.

Float32 on the CPU with a fixed number of threads, as the studies run. Equality is always of every bit.
"""

from __future__ import annotations

import pytest
import torch
from helpers import cpu_threads, grid, make_learner
from torch import Tensor
from training.history import History, copy_of, named_tensors, same_bits

from common.agents.algorithm import Algorithm
from common.agents.networks import Actor, Critic
from common.agents.reports import RunKey
from common.experiment import Experiment

FULL: dict[str, object] = {"episodes": 20}
ODD: dict[str, object] = {"agents": 13, "batch_size": 17, "episodes": 100, "eval_episodes": 2}
SMALL: dict[str, object] = {**ODD, "actor_hidden": (32, 16), "critic_hidden": (64, 32)}
SEQUENTIAL: dict[str, object] = {**SMALL, "actor_update": "sequential"}
SOFT: dict[str, object] = {**SMALL, "tau": 0.3, "clip_norm": 0.5, "updates_per_episode": 2, "env": "interior"}
# Widths that leave most matrices of a stack off the cache lines.
UNALIGNED: dict[str, object] = {**ODD, "actor_hidden": (21, 9), "critic_hidden": (37, 19)}


class SoftsignActor(Actor):
    """Elementwise, so it is run on stacked tensors as they are."""

    def activation(self, x: Tensor, layer: int) -> Tensor:
        return torch.nn.functional.softsign(x)


class SiluActor(Actor):
    """Likewise; PyTorch rounds the last few numbers of a tensor otherwise where its size is no multiple of 16."""

    def activation(self, x: Tensor, layer: int) -> Tensor:
        return torch.nn.functional.silu(x)


class RelativeActor(Actor):
    """Looks like an elementwise function, but each network has a mean of its own."""

    def activation(self, x: Tensor, layer: int) -> Tensor:
        return torch.relu(x - 0.1 * x.mean())


class TwoHeadedCritic(Critic):
    """Two values per row."""

    def __init__(self, config):
        super().__init__(config)
        self.second = torch.nn.Linear(self.sizes[-2], 1)

    def values(self, joint: Tensor, personal: Tensor) -> Tensor:
        x = self.activation(self.fc1.add(joint, "personal", personal), 1)
        for i in range(2, self.depth):
            x = self.activation(self.layer(i)(x), i)
        return torch.cat((self.layer(self.depth)(x), self.second(x)), dim=-1)


class Normalising(Algorithm):
    """Remembers the size of the rewards, draws noise for the target actions, follows a part of ∂Q/∂a."""

    target_noise = True

    def run_state(self) -> dict[str, float]:
        return {"size": 1.0}

    def observe_rewards(self, run_state: dict[str, Tensor], rewards: Tensor) -> None:
        run_state["size"].mul_(0.9).add_(rewards.abs().double().mean(1), alpha=0.1)

    def reward(self, run_state: dict[str, Tensor], rewards: Tensor) -> Tensor:
        return rewards / run_state["size"].unsqueeze(1)

    def target_action(self, actions: Tensor, z: Tensor, noise: Tensor | None) -> Tensor:
        return (actions + 0.1 * noise.clamp(-1.0, 1.0)).clamp(-1.0, 1.0)

    def value(self, q: Tensor) -> Tensor:
        return q.amin(-1)

    def action_gradient(self, dq_da: Tensor, z: Tensor, actions: Tensor) -> Tensor:
        return dq_da * torch.where(dq_da > 0, 1 - actions, 1 + actions) / 2

    def actor_due(self, update: int) -> bool:
        return update % 2 == 0


VARIANTS: dict[str, tuple[str | Experiment, dict[str, object]]] = {
    "fullnorm": ("fullnorm", {}),
    "adaptive_scaling": ("adaptive_scaling", {}),
    "layernorm": ("layernorm", {}),
    "input_norm": ("input_norm", {"debiased": True}),
    "softsign": (Experiment("softsign", "", actor=SoftsignActor), {}),
    "relative": (Experiment("relative", "", actor=RelativeActor), {}),
    "rules": (Experiment("rules", "", critic=TwoHeadedCritic, algorithm=Normalising), {}),
}
FULL_SIZE = {**VARIANTS, "silu": (Experiment("silu", "", actor=SiluActor), {})}
WITH_BUFFERS = {"fullnorm", "adaptive_scaling", "input_norm"}
variants = pytest.mark.parametrize("name", VARIANTS)


def history(
    keys: list[RunKey], episodes: int, options: dict[str, object], dense: bool | None = None, name: str = ""
) -> History:
    experiment, own = FULL_SIZE.get(name, ("baseline", {}))
    return History().train(make_learner(keys, dense, experiment, **{**options, **own}), episodes)


def test_reports_and_states_are_complete() -> None:
    """The comparisons below do see weights, moments, replay, returns and details, and these do change."""
    keys = grid(1)[:2]
    numbers = History().train(make_learner(keys, **SMALL), 3).numbers[keys[0]]
    seen = {name.partition(", ")[2] for name in numbers if name.startswith("episode 3")}
    assert {
        "training_return", "step.changed", "step.gradient_alive", "actors.parameters", "actors.exp_avg",
        "actors.exp_avg_sq", "critics.parameters", "replay.priorities", "replay.states", "details.actor_gradients",
        "details.critic_updates", "details.dq_da", "details.pre_activations", "details.z_after",
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


@variants
@pytest.mark.parametrize(
    ("options", "episodes", "dense"),
    [(UNALIGNED, 6, False), (UNALIGNED, 4, True), (SEQUENTIAL, 4, False)],
    ids=["joint", "dense", "sequential"],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_variants_alone_in_a_grid_and_in_parts_of_it(
    name: str, options: dict[str, object], episodes: int, dense: bool, threads: int
) -> None:
    """What a variant observes, measures and remembers is as independent of the other runs as the weights."""
    keys = grid(1, 2)[::5]
    episodes = max(3, episodes // threads)
    with cpu_threads(threads):
        together = history(keys, episodes, options, dense, name)
        for part in (keys[:1], keys[2:5], keys[6:]):
            history(part, episodes, options, dense, name).check(part, together)
    numbers = together.numbers[keys[0]]
    assert (f"episode {episodes}, actors.buffers" in numbers) == (name in WITH_BUFFERS)
    assert (f"episode {episodes}, algorithm.size" in numbers) == (name == "rules")
    assert any("details.extras." in key for key in numbers) == (name in ("adaptive_scaling", "layernorm"))


@pytest.mark.parametrize("name", ["fullnorm", "adaptive_scaling", "layernorm", "silu"])
@pytest.mark.parametrize("threads", [1, 2])
def test_full_size_variant_alone_and_in_a_grid(name: str, threads: int) -> None:
    """50 agents, batch 64, hidden layers as in the studies."""
    keys = grid(42)[::4]
    with cpu_threads(threads):
        together = history(keys, 3, FULL, name=name)
        history(keys[2:3], 3, FULL, name=name).check(keys[2:3], together)


def test_which_networks_run_stacked() -> None:
    """Where it may be, a stack runs as it is; where it may not, whatever it looks like, by vmap."""
    for name, stacked in {"softsign": True, "silu": True, "relative": False, "layernorm": False}.items():
        experiment, own = FULL_SIZE[name]
        learner = make_learner(grid(1)[:2], None, experiment, **{**SMALL, **own})
        states = torch.zeros(26, 1, 7)
        assert learner.actors._stacks_by_itself("forward", (states,)) == stacked, name


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
@variants
def test_variants_thinned_and_resumed(name: str) -> None:
    """Buffers and what an algorithm remembers come along."""
    keys, (experiment, own) = grid(1, 2)[::4], VARIANTS[name]
    options = {**SOFT, **own, "updates_per_episode": 1}  # with steps that are not due on both sides of the cut
    undisturbed, thinned = (make_learner(keys, None, experiment, **options) for _ in range(2))
    for learner in (undisturbed, thinned):
        History().train(learner, 4)
    thinned.keep([1, 4, 7])
    resumed = make_learner(thinned.keys, None, experiment, **options)
    resumed.load(copy_of(thinned), thinned.counters())
    expected = History().train(undisturbed, 4)
    for learner in (thinned, resumed):
        History().train(learner, 4).check([keys[1], keys[4], keys[7]], expected)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("options", [SMALL, SOFT], ids=["joint", "soft and clipped"])
def test_a_resumed_learner_goes_on_as_if_nothing_had_happened(options: dict[str, object]) -> None:
    """A fresh learner that loads a state; the ring wraps before and after."""
    keys, options = grid(1, 2)[::3], {**options, "replay_capacity": 50}
    learner = make_learner(keys, **options)
    History().train(learner, 8)
    saved, counters = copy_of(learner), learner.counters()
    expected = History().train(learner, 8)

    resumed = make_learner(keys, **options)
    resumed.load(saved, counters)
    History().train(resumed, 8).check(keys, expected)
    for name, value in learner.state().items():
        assert not same_bits(value, saved[name]), f"{name} had nothing to change"


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
    before = copy_of(learner)
    first, second = learner.evaluate(), learner.evaluate()
    assert all(same_bits(value, before[name]) for name, value in learner.state().items())
    together, again = History(), History()
    together.add(learner, named_tensors(first))
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
    first, second = (learner.train_episode(details=True) for _ in range(2))
    assert first.step is None and first.details is None
    assert second.step.changed.all() and not torch.equal(learner.actors.flat, before)
