"""SaturationMonitor in loops that are written in unusual ways: each found numbers, bits or verdicts wrong once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monitor.loops import (
    ACTIONS,
    SCALE,
    STATE,
    Critic,
    Expected,
    FunctionalActor,
    adam,
    batch,
    by_hand,
    compare,
    scaled,
    step,
)
from torch import Tensor, nn
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform
from torch.utils.checkpoint import checkpoint

from common.monitor import MonitorError, SaturationMonitor


class Recurrent(FunctionalActor):
    """Keeps its hidden state in an attribute, and how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.hidden, self.calls = nn.GRUCell(STATE, STATE), None, 0

    def z(self, obs: Tensor) -> Tensor:
        self.hidden = self.cell(obs, None if self.hidden is None else self.hidden.detach())
        self.calls += 1
        return super().z(self.hidden / self.calls)


class Noisy(FunctionalActor):
    """Draws with NumPy and writes to its observations."""

    def z(self, obs: Tensor) -> Tensor:
        return super().z(obs.mul_(0.9) + float(np.random.standard_normal()))


def trained(make: Callable[[], nn.Module], monitored: bool, update: Callable[[nn.Module, nn.Module, Any], None]) -> Any:
    """Weights after seven updates, with the same seed each time."""
    torch.manual_seed(0)
    np.random.seed(0)
    actor, critic = make(), Critic()
    optimizer, monitor = adam(actor), SaturationMonitor(actor, critic, every=2)
    if monitored:
        monitor.attach()
    for _ in range(7):
        update(actor, critic, optimizer)
    monitor.detach()
    assert len(monitor.history) == 4 * monitored
    return torch.nn.utils.parameters_to_vector(actor.parameters())


def plain_update(actor: nn.Module, critic: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    obs, *_ = batch()
    step(optimizer, -critic(obs, actor(obs)).mean())


def inverted_update(actor: nn.Module, critic: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Reads ∂Q/∂a from the action itself, as gradients are inverted."""
    obs, *_ = batch()
    action = actor(obs)
    action.retain_grad()
    (-critic(obs, action).mean()).backward(retain_graph=True)
    slope = action.grad.clone()
    optimizer.zero_grad()
    action.backward(slope * torch.where(slope > 0, 0.1, 1.0))
    optimizer.step()


@pytest.mark.parametrize(
    ("make", "update"),
    [(Recurrent, plain_update), (Noisy, plain_update), (FunctionalActor, inverted_update)],
    ids=["hidden state in an attribute", "NumPy noise, written observations", "retain_grad on the action"],
)
def test_training_keeps_its_bits(make: Callable[[], nn.Module], update: Any) -> None:
    assert torch.equal(trained(make, True, update), trained(make, False, update))


def watched(actor: Any, critic: Any, update: Callable[[], None], updates: int = 4, **options: Any) -> SaturationMonitor:
    with SaturationMonitor(actor, critic, **{"every": 1, **options}) as monitor:
        for _ in range(updates):
            update()
    return monitor


def dead_after(actors: list[FunctionalActor], places: tuple[int, ...]) -> None:
    for place in places:
        nn.init.constant_(actors[place].fc_mu.bias, 50.0)


@pytest.mark.parametrize("several", [list, nn.ModuleList], ids=["list", "ModuleList"])
def test_of_several_actors_each_is_judged(several: Any) -> None:
    actors, critic = [FunctionalActor() for _ in range(3)], Critic(actions=3 * ACTIONS)
    dead_after(actors, (1, 2))
    optimizers = [adam(actor) for actor in actors]

    def update() -> None:
        obs, *_ = batch()
        loss = -critic(obs, torch.cat([actor(obs) for actor in actors], 1)).mean()
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()

    monitor = watched(several(actors), critic, update)
    found = monitor.diagnosis()
    assert found.verdict == "frozen" and found.sentence.startswith("2 of 3 actors (1, 2)")
    assert monitor.report().startswith("frozen: 2 of 3 actors")
    assert monitor.scalars()["zero_derivative_share"] == pytest.approx(2 / 3)
    assert found.evidence["tanh_derivative"] == 0.0  # of one that it holds for


def test_a_shared_actor_counts_for_all_its_agents() -> None:
    """Three calls of one network for one call of the critic."""
    actor, critic, expected = FunctionalActor(), Critic(actions=3 * ACTIONS), []
    optimizer = adam(actor)

    def update() -> None:
        observations = [batch()[0] for _ in range(3)]
        with torch.no_grad():
            z = [actor.z(obs) for obs in observations]

        def q(a: Tensor) -> Tensor:
            return critic(observations[0], torch.cat([scaled(own) for own in a.chunk(3)], 1))

        expected.append(by_hand(torch.cat(z), q))
        step(optimizer, -critic(observations[0], torch.cat([actor(obs) for obs in observations], 1)).mean())

    monitor = watched(actor, critic, update)
    for row, own in zip(monitor.history, expected, strict=True):
        compare(row, own.scalars())


def test_a_recurrent_loop_counts_all_its_steps() -> None:
    """Five calls, whose stacked actions the critic sees as one sequence."""
    actor, critic, expected = FunctionalActor(), Critic(), []
    optimizer = adam(actor)

    def update() -> None:
        obs = torch.stack([batch()[0] for _ in range(5)])
        with torch.no_grad():
            z = actor.z(obs)
        flat = obs.flatten(0, 1)
        expected.append(by_hand(z.flatten(0, 1), lambda a: critic(flat, scaled(a))))
        actions = torch.stack([actor(one) for one in obs])
        step(optimizer, -critic(flat, actions.flatten(0, 1)).mean())

    for row, own in zip(watched(actor, critic, update).history, expected, strict=True):
        compare(row, own.scalars())


class TwoHeads(FunctionalActor):
    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(STATE, 1)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tanh(self.z(obs)), torch.tanh(self.second(obs))


def test_an_actor_of_two_outputs_is_measured_whole() -> None:
    actor, critic = TwoHeads(), Critic(actions=ACTIONS + 1)
    nn.init.constant_(actor.second.bias, 50.0)
    optimizer = adam(actor)

    def update() -> None:
        obs, *_ = batch()
        step(optimizer, -critic(obs, torch.cat(actor(obs), 1)).mean())

    scalars = watched(actor, critic, update).scalars()
    assert scalars["zero_derivative_share"] == pytest.approx(1 / (ACTIONS + 1)) and scalars["z_abs_max"] > 40


class Squashed(FunctionalActor):
    """Returns a distribution; the mean is clamped, so that the scale is nearer to the action."""

    def forward(self, obs: Tensor) -> TransformedDistribution:
        mean = self.z(obs)
        scale = torch.exp(self.fc_mu(F.relu(self.fc1(obs)))) * 0.1
        return TransformedDistribution(Independent(Normal(mean, scale), 1), [TanhTransform(cache_size=1)])


@dataclass
class Output:
    mean: Tensor
    scale: Tensor


class Structured(FunctionalActor):
    def forward(self, obs: Tensor) -> Output:
        return Output(self.z(obs), torch.full((1, ACTIONS), 0.1))


@pytest.mark.parametrize(
    ("actor", "act"),
    [
        (Squashed(), lambda made: made.rsample()),
        (Structured(), lambda made: torch.tanh(made.scale * torch.randn(ACTIONS) + made.mean.clamp(-3, 3))),
    ],
    ids=["distribution", "dataclass"],
)
def test_what_an_actor_returns_is_looked_into(actor: FunctionalActor, act: Callable[[Any], Tensor]) -> None:
    critic, optimizer, expected = Critic(), adam(actor), []

    def update() -> None:
        obs, *_ = batch()
        action = act(actor(obs))
        with torch.no_grad():
            z = actor.z(obs)
        slope = by_hand(torch.atanh(action.detach().clamp(-0.999999, 0.999999)), lambda a: critic(obs, a)).dq_da
        expected.append(Expected(z, action.detach(), slope))
        step(optimizer, -critic(obs, action).mean())

    for row, own in zip(watched(actor, critic, update).history, expected, strict=True):
        compare(row, own.scalars(), rel=1e-3)


def test_another_tanh_on_the_way_is_not_taken_for_the_actors() -> None:
    """One inside a model of the environment after the action, and one that ends the actor's encoder."""
    actor, critic, expected = FunctionalActor(nn.Sequential(nn.Linear(STATE, STATE), nn.Tanh())), Critic(), []
    model = nn.Sequential(nn.Linear(ACTIONS, 4), nn.Tanh(), nn.Linear(4, ACTIONS))
    optimizer = adam(actor)

    def update() -> None:
        obs, *_ = batch()
        features = actor.encoder(obs)
        action = torch.tanh(actor.fc_mu(F.relu(actor.fc1(features))))
        with torch.no_grad():
            z = actor.z(obs)
        expected.append(by_hand(z, lambda a: critic(features.detach(), model(a))))
        step(optimizer, -critic(features, model(action)).mean())

    for row, own in zip(watched(actor, critic, update).history, expected, strict=True):
        compare(row, own.scalars())


class Extended(torch.optim.Adam):
    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


def test_a_step_that_extends_a_step_is_one_update() -> None:
    actor, critic = FunctionalActor(), Critic()
    adam(critic)  # torch hooks the step of a class when its first optimiser is made
    optimizer = Extended(actor.parameters(), lr=1e-2)
    monitor = watched(actor, critic, lambda: plain_update(actor, critic, optimizer))
    assert monitor.updates == 4
    assert all(row["saturation_ratio"] >= 0 and row["actor_step_norm"] > 0 for row in monitor.history)


def test_an_optimiser_made_anew_is_followed() -> None:
    actor, critic = FunctionalActor(), Critic()
    old = adam(actor)
    with SaturationMonitor(actor, critic, every=1) as monitor:
        plain_update(actor, critic, old)
        new = adam(actor)
        for _ in range(10):
            plain_update(actor, critic, new)
    assert monitor.updates >= 8 and monitor.history[-1]["z_step_rms"] > 0


def test_two_optimisers_that_take_turns_are_both_followed() -> None:
    actor, critic = FunctionalActor(), Critic()
    turns = adam(actor), adam(actor)
    with SaturationMonitor(actor, critic, every=1) as monitor:
        for phase in range(4):
            for _ in range(10):
                plain_update(actor, critic, turns[phase % 2])
    assert monitor.updates == len(monitor.history) == 40 - 3 * 3  # of each turn but the first three steps are late


@pytest.mark.parametrize("how", ["two optimisers", "a group added later"])
def test_all_weights_that_are_stepped_count(how: str) -> None:
    actor, critic = FunctionalActor(), Critic()
    body, head = torch.optim.SGD(actor.fc1.parameters(), lr=0.1), torch.optim.SGD(actor.fc_mu.parameters(), lr=0.01)
    with SaturationMonitor(actor, critic, [body, head] if how == "two optimisers" else None, every=1) as monitor:
        if how != "two optimisers":
            plain_update(actor, critic, body)
            body.add_param_group({"params": [*actor.fc_mu.parameters()], "lr": 0.01})
        obs, *_ = batch()
        before = torch.nn.utils.parameters_to_vector(actor.parameters()).detach()
        with torch.no_grad():
            z = actor.z(obs)
        actor.zero_grad()
        (-critic(obs, actor(obs)).mean()).backward()
        gradient = torch.cat([p.grad.flatten() for p in actor.parameters()])
        for optimizer in (body, head) if how == "two optimisers" else (body,):
            optimizer.step()
        with torch.no_grad():
            moved = (actor.z(obs) - z).square().mean().sqrt()
    after = torch.nn.utils.parameters_to_vector(actor.parameters()).detach()
    found = [monitor.scalars()[name] for name in ("actor_gradient_norm", "actor_step_norm", "z_step_rms")]
    assert found == pytest.approx([float(x) for x in (gradient.norm(), (after - before).norm(), moved)], rel=1e-3)


def test_layers_replaced_meanwhile_count() -> None:
    actor, critic = FunctionalActor(), Critic()
    with SaturationMonitor(actor, critic, every=1) as monitor:
        plain_update(actor, critic, adam(actor))
        actor.fc_mu = nn.Linear(8, ACTIONS)
        optimizer = torch.optim.SGD(actor.parameters(), lr=0.1)
        for _ in range(6):
            plain_update(actor, critic, optimizer)
    gradient = torch.cat([p.grad.flatten() for p in actor.parameters()])
    assert monitor.scalars()["actor_gradient_norm"] == pytest.approx(float(gradient.norm()))
    assert monitor.scalars()["actor_step_norm"] == pytest.approx(0.1 * float(gradient.norm()), rel=1e-3)


@pytest.mark.parametrize("clamp", [lambda z: z.clamp(-2, 2), nn.Hardtanh(-2, 2)])
@pytest.mark.parametrize("head", [True, False])
def test_what_a_clamp_holds_has_no_slope(clamp: Callable[[Tensor], Tensor], head: bool) -> None:
    class Clamped(FunctionalActor):
        def forward(self, obs: Tensor) -> Tensor:
            return torch.tanh(clamp(self.z(obs)))

    actor, critic = Clamped(), Critic()
    with torch.no_grad():
        actor.fc_mu.bias[0] = 30.0
    with SaturationMonitor(actor, critic, head=actor.fc_mu if head else None, every=1) as monitor:
        plain_update(actor, critic, adam(actor))
    found = monitor.scalars()
    assert found["zero_derivative_share"] == 0.5 and found["saturation_ratio"] >= 0.5
    assert (found["z_abs_max"] > 20) == head


class Slope(nn.Module):
    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, _obs: Tensor, actions: Tensor) -> Tensor:
        return self.slope * actions.sum(1, keepdim=True)


def test_every_agent_is_read_at_its_own_critic() -> None:
    """Though one pass through both critics serves both losses: the second agent's critic wants its action back."""
    actors, critics = [FunctionalActor(), FunctionalActor()], [Slope(1.0), Slope(-1.0)]
    for actor in actors:
        nn.init.constant_(actor.fc_mu.bias, 4.0)
        nn.init.zeros_(actor.fc_mu.weight)
    optimizers = [adam(actor) for actor in actors]
    with SaturationMonitor(actors, critics, every=1) as monitor:
        for _ in range(3):
            obs, *_ = batch()
            joint = torch.cat([actor(obs) for actor in actors], 1)
            losses = [-critic(obs, joint).mean() for critic in critics]
            for actor, loss in zip(actors, losses, strict=True):
                gradients = torch.autograd.grad(loss, [*actor.parameters()], retain_graph=True)
                for p, gradient in zip(actor.parameters(), gradients, strict=True):
                    p.grad = gradient
            for optimizer in optimizers:
                optimizer.step()
    assert monitor.scalars()["stuck_share"] == monitor.scalars()["bang_bang_share"] == 0.5


def test_passes_made_again_for_every_agent_leave_each_its_own_critic() -> None:
    actors = [FunctionalActor() for _ in range(3)]
    critics = [Slope(0.1), Slope(0.2), Slope(0.3)]
    optimizers = [adam(actor) for actor in actors]

    def update() -> None:
        obs, *_ = batch()
        for optimizer in optimizers:
            optimizer.zero_grad()
        sum(-critic(obs, torch.cat([actor(obs) for actor in actors], 1)).mean() for critic in critics).backward()
        for optimizer in optimizers:
            optimizer.step()

    monitor = watched(actors, critics, update)
    found = [row["dq_da_abs_mean"] for row in monitor.history]
    assert found == pytest.approx([0.2 * SCALE] * 4)  # not the last critic's 0.3


@pytest.mark.parametrize("trains", ["the critic's", "both"])
def test_an_encoder_in_actor_and_critic_needs_no_optimisers_named(trains: str) -> None:
    """What each optimiser saw counts for its own side, though each may hold weights of both networks."""
    encoder = nn.Linear(STATE, STATE)
    actor, critic = FunctionalActor(encoder), Critic(encoder)
    of_critic = adam(critic)
    heads = [p for layer in (actor.fc1, actor.fc_mu) for p in layer.parameters()]
    of_actor = torch.optim.Adam(heads if trains == "the critic's" else actor.parameters())
    seen: dict[str, float] = {}

    def norm_in(optimizer: torch.optim.Optimizer) -> float:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        return float(torch.cat([gradient.flatten() for gradient in gradients]).norm())

    def update() -> None:
        obs, action, reward, _ = batch()
        step(of_critic, F.mse_loss(critic(obs, action), reward))
        seen["critic_gradient_norm"] = norm_in(of_critic)
        plain_update(actor, critic, of_actor)
        seen["actor_gradient_norm"] = norm_in(of_actor)

    monitor = watched(actor, critic, update)
    assert monitor.updates == len(monitor.history) == 4
    assert {name: monitor.scalars()[name] for name in seen} == pytest.approx(seen)


def test_a_critic_of_probabilities_is_refused() -> None:
    class Categorical(Critic):
        def forward(self, obs: Tensor, action: Tensor) -> Tensor:
            atoms = torch.linspace(-1, 1, 11)
            return (super().forward(obs, action) * atoms).softmax(-1)

    actor, critic = FunctionalActor(), Categorical()
    atoms, optimizer = torch.linspace(-1, 1, 11), adam(actor)
    obs, *_ = batch()
    with pytest.raises(MonitorError, match="returns probabilities") as refused, SaturationMonitor(actor, critic):
        step(optimizer, -(critic(obs, actor(obs)) * atoms).sum(1).mean())
    assert "critic=" in str(refused.value) and "\n" not in str(refused.value)


def test_one_optimiser_for_actor_and_critic_steps_for_one_of_them_at_a_time() -> None:
    actor, critic = FunctionalActor(), Critic()
    optimizer = adam(actor, critic)

    def update() -> None:
        obs, action, reward, _ = batch()
        step(optimizer, F.mse_loss(critic(obs, action), reward))
        plain_update(actor, critic, optimizer)

    monitor = watched(actor, critic, update)
    assert monitor.updates == len(monitor.history) == 4 and monitor.diagnosis().verdict == "healthy"


def test_a_thread_that_acts_does_not_disturb() -> None:
    actor, critic = FunctionalActor(), Critic()
    optimizer, over = adam(actor), threading.Event()

    def act() -> None:
        while not over.is_set():
            with torch.no_grad():
                actor(torch.randn(1, STATE))

    acting = threading.Thread(target=act)
    acting.start()
    try:
        monitor = watched(actor, critic, lambda: plain_update(actor, critic, optimizer), updates=20)
    finally:
        over.set()
        acting.join()
    assert all(row["saturation_ratio"] >= 0 for row in monitor.history)


def test_a_critic_with_a_compiled_part() -> None:
    torch.compiler.reset()
    actor, critic = FunctionalActor(), Critic()
    obs, *_ = batch()
    expected = by_hand(actor.z(obs).detach(), lambda a: critic(obs, scaled(a)))
    critic.fc1 = torch.compile(critic.fc1, backend="aot_eager")
    optimizer = adam(actor)
    monitor = watched(actor, critic, lambda: step(optimizer, -critic(obs, actor(obs)).mean()), updates=1)
    compare(monitor.history[0], expected.scalars())


class Checkpointed(Critic):
    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        return checkpoint(super().forward, obs, action, use_reentrant=True)


def test_what_another_library_refuses_is_one_line_and_leaves_no_hook() -> None:
    from torch.optim import optimizer as optim

    hooks = (optim._global_optimizer_pre_hooks, optim._global_optimizer_post_hooks)
    actor, critic = FunctionalActor(), Checkpointed()
    before = [len(one) for one in hooks]
    with pytest.raises(MonitorError, match=r"\Athe critic's slope could not be measured: .*\Z"):
        watched(actor, critic, lambda: plain_update(actor, critic, adam(actor)))
    scripted = torch.jit.script(nn.Sequential(nn.Linear(STATE, ACTIONS), nn.Tanh()))
    with pytest.raises(MonitorError, match=r"\Athe calls of actor= and critic= cannot be seen: .*\Z"):
        SaturationMonitor(scripted, Critic()).attach()
    assert [len(one) for one in hooks] == before


def test_a_step_with_a_closure_is_refused() -> None:
    actor, critic = FunctionalActor(), Critic()
    optimizer = adam(actor)

    def loss() -> Tensor:
        optimizer.zero_grad()
        obs, *_ = batch()
        value = -critic(obs, actor(obs)).mean()
        value.backward()
        return value

    with pytest.raises(MonitorError, match="closure"):
        watched(actor, critic, lambda: optimizer.step(loss))


def test_a_critic_compiled_in_place_is_refused() -> None:
    critic = Critic()
    critic.compile()
    with pytest.raises(MonitorError, match=r"torch.compile\(critic\)"):
        SaturationMonitor(FunctionalActor(), critic)
