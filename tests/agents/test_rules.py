"""What a variant can get wrong quietly: updates that are not due, Adam's options, what it is given twice."""

from __future__ import annotations

import pytest
import torch
from helpers import make_learner
from torch import Tensor
from training.variants import DELAYED

from common.agents.algorithm import Algorithm
from common.agents.networks import Actor, Critic
from common.agents.optimizer import Adam
from common.agents.remedies import RECIPE, VALUES, RecipeConfig
from common.agents.reports import RunKey
from common.config import ConfigError, StudyConfig
from common.experiment import Experiment

KEYS = [RunKey(1, 1e-4, 1e-2), RunKey(2, 1e-3, 1e-3)]
SMALL = {"agents": 10, "batch_size": 8, "episodes": 30, "eval_episodes": 1, "critic_hidden": (16, 8)}


def test_the_recipe_without_a_part_has_the_usual_value() -> None:
    usual, every = StudyConfig(), RecipeConfig(**RECIPE)
    for part, (name, value) in VALUES.items():
        without = RecipeConfig(**RECIPE, without=(part,))
        assert (getattr(every, name), getattr(without, name)) == (value, getattr(usual, name))
        others = [other for other in RECIPE if other != name]
        assert all(getattr(without, other) == RECIPE[other] for other in others)
    none = RecipeConfig(**RECIPE, without=("last_four",))
    assert all(getattr(none, name) == getattr(usual, name) for name, _ in VALUES.values())
    with pytest.raises(ConfigError, match=r"tau is 0.5"):
        RecipeConfig(tau=0.5, without=("slow_targets",))


@pytest.mark.parametrize("mode", ["joint", "sequential"])
def test_a_step_that_is_not_due_changes_nothing_and_is_no_unchanged_step(mode: str) -> None:
    """How the steps that are due go on: test_learner_follows_naive.py."""
    learner = make_learner(KEYS, experiment=DELAYED, actor_update=mode, **SMALL)
    banks = {"critic": learner.critics, "actor": learner.actors}
    learner.train_episode()
    for update in range(1, 9):
        before = {name: (bank.flat.clone(), bank.moments["exp_avg"].clone()) for name, bank in banks.items()}
        target = learner.actors.target.clone()
        report = learner.train_episode(details=True)
        due = {"critic": update % 3 != 0, "actor": update % 2 == 0}
        for name, bank in banks.items():
            weights, exp_avg = before[name]
            assert torch.equal(bank.flat, weights) != due[name]
            assert torch.equal(bank.moments["exp_avg"], exp_avg) != due[name]
            for kind in ("gradients", "clipped", "updates"):
                cells = getattr(report.details, f"{name}_{kind}")
                assert (cells.isfinite() if due[name] else cells.isnan()).all(), (update, name, kind)
            assert getattr(report.details, f"{name}_weight_norms").isfinite().all()
        assert torch.equal(learner.actors.target, target) == (update % 4 != 0)
        for flag in (report.step.changed, report.step.gradient_alive):
            assert flag.all() if due["actor"] else not flag.any()
        assert not report.step.unchanged.any() and report.step.finite.all()
        assert report.details.dq_da.isfinite().all() and report.details.dq_da.any()
        assert (report.details.z_after.isfinite() if due["actor"] else report.details.z_after.isnan()).all()
        assert not torch.equal(report.details.z_after, report.details.pre_activations)


@pytest.mark.parametrize(
    ("beta1", "beta2", "eps", "scale"),
    [(0.9, 0.999, 1e-8, 1.0), (0.0, 0.99, 1e-3, 1.0), (0.5, 0.0, 1e-20, 1.0), (0.9, 0.999, 1e-300, 1e-165)],
)
def test_adam_is_torchs(beta1: float, beta2: float, eps: float, scale: float) -> None:
    """Weights (R, M, P) in two pieces, each run with its own learning rate; also where squares are too small to be."""
    random, rates = torch.Generator().manual_seed(0), torch.tensor([1e-1, 1e-3], dtype=torch.float64)
    weights = torch.rand((2, 3, 5), generator=random, dtype=torch.float64)
    moments = tuple(torch.zeros_like(weights) for _ in range(2))
    its = [torch.nn.Parameter(own.clone()) for own in weights]
    groups = [{"params": [own], "lr": float(rate)} for own, rate in zip(its, rates, strict=True)]
    reference, own = torch.optim.Adam(groups, betas=(beta1, beta2), eps=eps), Adam({}, beta1, beta2, eps)
    for step in range(1, 6):
        gradients = torch.randn(weights.shape, generator=random, dtype=torch.float64) * 10.0 ** (-2 * step) * scale
        for parameter, gradient in zip(its, gradients, strict=True):
            parameter.grad = gradient.clone()
        reference.step()
        before = weights.clone()
        moved = own.step(weights, gradients.clone(), moments, own.scales(rates, step), True, 2)
        torch.testing.assert_close(weights, torch.stack([x.data for x in its]), rtol=1e-12, atol=1e-14)
        assert torch.equal(moved, weights - before)


@pytest.mark.parametrize(("eps", "left"), [(1e-8, False), (1e-20, True)])
def test_a_dead_gradients_moment_goes_to_zero_where_that_changes_no_weight(eps: float, left: bool) -> None:
    """In float32, against torch's, whose first moment stays at the smallest numbers there are."""
    random, rate = torch.Generator().manual_seed(0), torch.tensor([1e-1])
    weights = torch.rand((1, 1, 1000), generator=random)
    moments = tuple(torch.zeros_like(weights) for _ in range(2))
    its = torch.nn.Parameter(weights.clone())
    reference, own = torch.optim.Adam([its], lr=1e-1, eps=eps, foreach=False), Adam({}, eps=eps)
    for step in range(1, 1201):
        gradients = torch.randn(weights.shape, generator=random) * (step < 6)
        its.grad = gradients.clone()
        before = its.data.clone()
        reference.step()
        moved = own.step(weights, gradients, moments, own.scales(rate.double(), step).float(), True, 1)
        if step > 400:
            assert torch.equal(its.data, before) and not moved.any()
    assert reference.state[its]["exp_avg"].any() and bool(moments[0].any()) == left


def test_adams_options_reach_their_networks() -> None:
    """And with beta1 = 0 an actor stands still as soon as its gradient is zero, instead of coasting on."""
    options = {"beta1": 0.0, "critic_beta1": 0.5, "beta2": 0.9, "adam_eps": 1e-4, **SMALL}
    keys = [RunKey(1, 1e-2, 0.0)]
    still, coasting = make_learner(keys, **options), make_learner(keys, **{**options, "beta1": 0.9})
    found = [(bank.optimizer.beta1, bank.optimizer.beta2, bank.optimizer.eps) for bank in (still.actors, still.critics)]
    assert found == [(0.0, 0.9, 1e-4), (0.5, 0.9, 1e-4)]
    for learner in (still, coasting):
        for _ in range(3):
            learner.train_episode()
        learner.critics.tensors(slice(None))["fc3.weight"].zero_()
    step, other = still.train_episode().step, coasting.train_episode().step
    assert not step.gradient_alive.any() and step.unchanged.all() and not step.changed.any()
    assert not other.gradient_alive.any() and other.changed.all()


class Velocity(Adam):
    """Heavy-ball momentum: what it subtracts is its own memory."""

    moments = ("velocity",)

    def change(self, weights: Tensor, gradients: Tensor, moments: tuple, scales: tuple) -> Tensor:
        return moments[0].mul_(0.9).add_(gradients * scales[0])


class Momentum(Algorithm):
    def actor_optimizer(self, layers: dict) -> Adam:
        return Velocity(layers)

    critic_optimizer = actor_optimizer


def test_logging_changes_nothing_of_an_optimiser_that_gives_its_memory() -> None:
    experiment = Experiment("momentum", "", algorithm=Momentum)
    states = []
    for details in (False, True):
        learner = make_learner([RunKey(1, 1e-5, 1e-7)], experiment=experiment, env="interior", **SMALL)
        for _ in range(8):
            learner.train_episode(details)
        states.append({name: x.clone() for name, x in learner.state().items()})
    assert states[0]["critics.parameters"].isfinite().all() and (states[0]["critics.velocity"] != 0).any()
    assert all(torch.equal(x, states[1][name]) for name, x in states[0].items())


class TwiceCritic(Critic):
    """The baseline's critic, asked twice for the same rows; its hidden layers add to what they are given."""

    def values(self, joint: Tensor, personal: Tensor) -> Tensor:
        return torch.minimum(super().values(joint, personal), super().values(joint, personal))


def test_a_variant_may_use_what_it_is_given_again() -> None:
    """Neither the joint share nor a hidden layer's input is overwritten where somebody builds on it."""
    made = (Experiment("twice", "", critic=critic) for critic in (None, TwiceCritic))
    plain, twice = (make_learner(KEYS, experiment=own, **SMALL) for own in made)
    for _ in range(6):
        expected, found = plain.train_episode(), twice.train_episode()
        torch.testing.assert_close(found.training_return, expected.training_return)

    class AddingActor(Actor):
        def activation(self, x: Tensor, layer: int) -> Tensor:
            return x + super().activation(x, layer)

    x = torch.tensor([-1.0, 2.0])
    assert AddingActor(plain.config).activation(x, 1).tolist() == [-1.0, 4.0]
