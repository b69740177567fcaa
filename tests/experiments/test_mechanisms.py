"""Each remedy does what it is named after, by hand-computed numbers or on a small learner."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from helpers import experiments, make_learner
from torch import Tensor, nn

from common.agents.algorithm import Algorithm
from common.agents.learner import Learner
from common.agents.reports import RunKey
from common.config import ConfigError

KEYS = [RunKey(1, 1e-1, 1e-1)]
SMALL = {"agents": 12, "batch_size": 8, "episodes": 20, "eval_episodes": 1}


def rules(name: str, **options: object) -> Algorithm:
    own = experiments()[name]
    return (own.algorithm or Algorithm)(own.config(**{**own.overrides, **options}))


def network(name: str, kind: str, **options: object) -> nn.Module:
    own = experiments()[name]
    torch.manual_seed(0)
    return getattr(own, kind)(own.config(**{**own.overrides, **SMALL, **options}))


def learner_of(name: str, keys: list[RunKey] = KEYS, **options: object) -> Learner:
    return make_learner(keys, experiment=name, **SMALL, **options)


def test_the_penalty_pulls_every_z_back_in_proportion() -> None:
    z = torch.tensor([[-8.0, 0.5, 3.0], [2.0, 0.0, -1.0]]).reshape(1, 2, 1, 3).requires_grad_()
    loss = rules("pre_activation_penalty", penalty=0.3).actor_loss(z, z.tanh(), torch.zeros(1, 2), torch.ones(1, 2))
    (slope,) = torch.autograd.grad(loss.sum(), [z])
    torch.testing.assert_close(slope, 0.3 * 2.0 * z.detach() / 6)  # a mean over 2 states and 3 outputs


def test_inverted_gradients_turn_at_the_bounds() -> None:
    z = torch.tensor([-1.5, -1.0, 0.0, 0.5, 1.0, 2.0])
    up, down = (rules("inverting_gradients").action_gradient(sign * torch.ones(6), z, z) for sign in (1.0, -1.0))
    torch.testing.assert_close(up, torch.tensor([1.25, 1.0, 0.5, 0.25, 0.0, -0.5]))
    torch.testing.assert_close(down, torch.tensor([0.25, 0.0, -0.5, -0.75, -1.0, -1.5]))
    actor = network("inverting_gradients", "actor")
    torch.testing.assert_close(actor.squash(z), torch.tensor([-1.0, -1.0, 0.0, 0.5, 1.0, 1.0]))
    inside = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(actor.squash(inside).sum(), [inside])
    assert (slope == 1).all(), "the clip lets the slope through"


@pytest.mark.parametrize("size", [1e-3, 5e3])
def test_the_output_norm_shrinks_large_outputs_only(size: float) -> None:
    actor = network("output_norm", "actor")
    with torch.no_grad():
        actor.fc3.weight.mul_(size)
        z = actor(torch.randn(20, 7, generator=torch.Generator().manual_seed(0)) * 100)
    means = z.abs().mean(-1)
    if size > 1:
        torch.testing.assert_close(means, torch.ones(20))
    else:
        assert (means < 0.5).all()


def test_the_penultimate_layer_has_length_one() -> None:
    seen: list[Tensor] = []
    actor, critic = (network("penultimate_norm", kind) for kind in ("actor", "critic"))
    for module in (actor, critic):
        module.fc3.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    actor(torch.rand(5, 7))
    critic.values(critic.joint(torch.rand(5, 12 * 7), torch.rand(5, 12 * 3)), torch.rand(5, 10))
    for hidden in seen:
        torch.testing.assert_close(hidden.norm(dim=-1), torch.ones(5))
    assert [hidden.shape[-1] for hidden in seen] == [32, 128]


def test_the_exact_derivative_outlives_the_usual_one() -> None:
    z = torch.tensor([0.0, 1.0, -12.0, -50.0, 60.0], requires_grad=True)
    exact, usual = (
        torch.autograd.grad(squash(z).sum(), [z])[0]
        for squash in (network("exact_derivative", "actor").squash, torch.tanh)
    )
    torch.testing.assert_close(exact[:2], usual[:2])
    assert usual[2] == 0 and float(exact[2]) == pytest.approx(4 * math.exp(-24), rel=1e-5)
    assert exact[3] > 0 and exact[4] == 0, "float32 ends near 51"
    torch.testing.assert_close(network("exact_derivative", "actor").squash(z), z.tanh())


@pytest.mark.parametrize("name", ["step_limit", "recipe", "clamped_rates"])
def test_no_layer_moves_more_than_its_limit(name: str) -> None:
    """Actors by 0.001 and critic by 0.01 of max(its norm, 1e-3·√numbers) a step, at a learning rate of 0.1."""
    learner, limited = learner_of(name), name != "clamped_rates"
    for _ in range(2):
        learner.train_episode()
    banks = {1e-3: learner.actors, 1e-2: learner.critics}
    before = {limit: bank.flat.clone() for limit, bank in banks.items()}
    learner.train_episode()
    for limit, bank in banks.items():
        for layer in bank.optimizer.layers.values():
            old = before[limit][..., layer.place]
            moved = (bank.flat[..., layer.place] - old).norm(dim=-1)
            allowed = limit * old.norm(dim=-1).clamp(min=1e-3 * layer.numbers**0.5)
            assert ((moved / allowed) <= 1.001).all() == limited
            if limited:
                assert (moved / allowed).max() > 0.999, "at this rate the limit binds"


def test_normalised_rewards_have_mean_zero_and_deviation_one() -> None:
    own = rules("reward_norm")
    memory = {name: torch.full((2,), start, dtype=torch.float64) for name, start in own.run_state().items()}
    rewards = torch.randn(2, 40, generator=torch.Generator().manual_seed(1)) * torch.tensor([[3.0], [100.0]]) - 7.0
    for episode in rewards.split(10, dim=1):
        own.observe_rewards(memory, episode)
    seen = own.reward(memory, rewards)
    torch.testing.assert_close(seen.mean(1), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.std(1, correction=0), torch.ones(2), atol=1e-5, rtol=0)


def test_td3_takes_the_smaller_head_smooths_its_targets_and_rests_every_other_step() -> None:
    own = rules("td3")
    q = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    assert own.value(q).tolist() == [1.0, 0.5] and own.target_value(q).tolist() == [-2.0, 0.5]
    smoothed = own.target_action(torch.tensor([0.0, 0.9, -0.2]), torch.zeros(3), torch.tensor([1.0, 9.0, -9.0]))
    torch.testing.assert_close(smoothed, torch.tensor([0.2, 1.0, -0.7]))
    learner = learner_of("td3")
    learner.train_episode()
    moved = []
    for _ in range(4):
        actors, critics = learner.actors.flat.clone(), learner.critics.flat.clone()
        learner.train_episode()
        moved.append(not torch.equal(actors, learner.actors.flat))
        assert not torch.equal(critics, learner.critics.flat)
    assert moved == [False, True, False, True] and learner.counters()["actor_steps"] == 2


@pytest.mark.parametrize("updates", [1, 3])
def test_whether_td3s_actors_step_last_in_an_episode_is_known_before(updates: int) -> None:
    learner = learner_of("td3", updates_per_episode=updates)
    learner.train_episode()
    last = [(learner.inputs().due[-1].actor, learner.train_episode())[0] for _ in range(4)]
    assert last == [learner.actor_due(episode) for episode in range(2, 6)] and len(set(last)) == 2


def test_only_the_critics_hidden_layers_are_normalised() -> None:
    critic = network("critic_layernorm", "critic")
    hidden = critic.activation(torch.randn(4, 512) * 30 + 5, 1)
    torch.testing.assert_close(hidden.mean(-1), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(hidden.std(-1, correction=0), torch.ones(4), atol=1e-3, rtol=0)
    assert experiments()["critic_layernorm"].actor is None


@pytest.mark.parametrize("options", [{}, {"with_recipe": True}])
def test_frozen_actors_keep_their_weights_while_the_critic_learns(options: dict[str, bool]) -> None:
    assert experiments()["frozen_actors"].overrides["actor_lrs"] == (0.0,)
    learner = learner_of("frozen_actors", [RunKey(1, 0.0, 1e-2)], **options)
    actors, critics = learner.actors.flat.clone(), learner.critics.flat.clone()
    for _ in range(4):
        report = learner.train_episode()
    assert torch.equal(learner.actors.flat, actors) and not torch.equal(learner.critics.flat, critics)
    assert report.step.unchanged.all()


def test_clamped_rates_are_the_recipe_but_for_the_limit() -> None:
    """That its steps are not limited any more is above; its rates are the largest that remain."""
    cls = experiments()["clamped_rates"].config
    recipe, clamped = (experiments()[name] for name in ("recipe", "clamped_rates"))
    own = {"without": ("step_limit",), "actor_lrs": (1e-4,), "critic_lrs": (1e-4, 1e-3)}
    described = {"name": clamped.name, "description": clamped.description}
    assert clamped == dataclasses.replace(recipe, **described, overrides=recipe.overrides | own, config=cls)
    assert issubclass(cls, recipe.config) and dataclasses.fields(cls) == dataclasses.fields(recipe.config)
    assert "reward_mean" in learner_of("clamped_rates").run_state
    assert cls().without == ("step_limit",) and cls(without=("small_noise",)).without == ("small_noise", "step_limit")


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("clamped_rates", {"actor_limit": 0.5}, "actor_limit"),
        ("recipe", {"without": ("step_limit",), "critic_limit": 0.5}, "critic_limit"),
        ("frozen_actors", {"without": ("input_norm",)}, "--with-recipe"),
    ],
)
def test_options_that_nothing_would_read_are_refused(name: str, options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        experiments()[name].config(**experiments()[name].overrides | options)
