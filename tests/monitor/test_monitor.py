"""SaturationMonitor in other people's loops: finds what is worked out by hand, and leaves the training alone."""

from __future__ import annotations

import copy
import csv
import gc
import io
import math
import re
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monitor.loops import (
    ACTIONS,
    LOOPS,
    STATE,
    Critic,
    FunctionalActor,
    Loop,
    adam,
    compare,
    ddpg,
    maddpg,
    same_bits,
    step,
    td3,
    z_of,
)  # fmt: skip
from torch import Tensor, nn
from torch.optim import optimizer as optim

from common.monitor import MonitorError, SaturationMonitor, limit_steps


def watch(loop: Loop, **options: object) -> SaturationMonitor:
    optimizers = {"actor_optimizer": loop.actor_optimizer, "critic_optimizer": loop.critic_optimizer}
    return SaturationMonitor(loop.actor, loop.critic, **{"every": 1, **optimizers, **options})


def seeded(make: Callable[[], Any], seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return make()


def measured(
    actor: nn.Module, loss: Callable[[Tensor], Tensor], critic: nn.Module | None = None, **options: object
) -> SaturationMonitor:
    """The monitor after three updates of the actor by a loss of the observations."""
    optimizer, obs = torch.optim.Adam(actor.parameters()), torch.randn(4, 5)
    with SaturationMonitor(actor, critic, every=1, **options) as monitor:
        for _ in range(3):
            step(optimizer, loss(obs))
    return monitor


def weights_of(network: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in network.parameters()]


def norm(tensors: list[Tensor]) -> float:
    return float(torch.cat([t.flatten() for t in tensors]).norm())


def moved(network: nn.Module, before: list[Tensor]) -> float:
    return norm([new - old for new, old in zip(weights_of(network), before, strict=True)])


def hooks_of(loop: Loop) -> int:
    """Hooks on the networks and optimisers of a loop and on all optimisers."""
    owners = [part for network in loop.networks for part in network.modules()]
    for optimizers in (loop.actor_optimizer, loop.critic_optimizer):
        owners += optimizers if isinstance(optimizers, list) else [optimizers]
    held = [kept for owner in owners for name, kept in vars(owner).items() if "hook" in name and isinstance(kept, dict)]
    return sum(map(len, (*held, optim._global_optimizer_pre_hooks, optim._global_optimizer_post_hooks)))


def refused(word: str) -> Any:
    """Expects a MonitorError of one line that names this."""
    return pytest.raises(MonitorError, match=rf"\A.*{re.escape(word)}.*\Z")


@pytest.mark.parametrize("name", LOOPS)
def test_finds_what_is_worked_out_by_hand(name: str) -> None:
    loop = seeded(LOOPS[name])
    with watch(loop) as monitor:
        loop.run(5)
    assert [row["update"] for row in monitor.history] == [1, 2, 3, 4, 5]
    for row, expected in zip(monitor.history, loop.expected, strict=True):
        compare(row, expected.scalars())
        assert all(math.isfinite(value) for value in row.values()), row


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("name", [*LOOPS, "maddpg"])
def test_training_keeps_its_bits_and_no_hook_stays(name: str, every: int) -> None:
    make = {**LOOPS, "maddpg": maddpg}[name]
    plain = seeded(make)
    plain.run(7)
    loop = seeded(make)
    without = hooks_of(loop)
    with watch(loop, every=every) as monitor:
        loop.run(7)
    assert hooks_of(loop) == without
    assert len(monitor.history) == len(range(0, 7, every))
    assert same_bits(loop.bits(), plain.bits())


def test_norms_and_the_move_of_z_are_those_of_the_step() -> None:
    loop = seeded(ddpg)
    observations: list[Tensor] = []
    gradients: list[Tensor] = []
    with watch(loop, every=3) as monitor:
        loop.run(3)
        actor_before, critic_before = weights_of(loop.actor), weights_of(loop.critic)
        handle = loop.actor.register_forward_pre_hook(lambda _, args: observations.append(args[0]))
        loop.critic_optimizer.register_step_pre_hook(
            lambda *_: gradients.extend(p.grad.clone() for p in loop.critic.parameters())
        )
        loop.run(1)
        handle.remove()
    assert [row["update"] for row in monitor.history] == [1, 4]
    z_step = (z_of(loop.actor, observations[-1]) - loop.expected[-1].z).square().mean().sqrt()
    compare(monitor.scalars(), {
        "actor_step_norm": moved(loop.actor, actor_before),
        "critic_step_norm": moved(loop.critic, critic_before),
        "actor_gradient_norm": norm([p.grad for p in loop.actor.parameters()]),
        "critic_gradient_norm": norm(gradients),
    })  # fmt: skip
    compare(monitor.scalars(), {"z_step_rms": float(z_step)}, rel=1e-4)


def test_z_moves_by_what_every_part_of_the_actor_learned() -> None:
    """Parts that are called one after the other, past `forward`: both calls are made again after the step."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(STATE, 8), nn.ReLU())
    actor, critic = nn.Sequential(body, nn.Sequential(nn.Linear(8, ACTIONS), nn.Tanh())), Critic()
    optimizer, obs = adam(actor), torch.randn(16, STATE)
    with SaturationMonitor(actor, critic, optimizer, adam(critic), every=1) as monitor:
        before = actor[1][0](body(obs)).detach()
        step(optimizer, -critic(obs, actor[1](body(obs))).mean())
    z_step = (actor[1][0](body(obs)).detach() - before).square().mean().sqrt()
    compare(monitor.scalars(), {"z_step_rms": float(z_step)}, rel=1e-4)


def test_an_actor_whose_hidden_units_are_dead_is_constant() -> None:
    loop = seeded(ddpg)
    loop.actor.fc1.bias.data.fill_(-1e6)
    with watch(loop, every=1) as monitor:
        loop.run(5)
    assert monitor.scalars()["z_range"] == 0 < monitor.scalars()["actor_step_norm"]
    assert monitor.diagnosis().verdict == "constant"


@pytest.mark.parametrize("joint", [False, True])
def test_several_actors_are_averaged(joint: bool) -> None:
    loop = seeded(lambda: maddpg(joint))
    with watch(loop) as monitor:
        loop.run(3)
    assert [row["update"] for row in monitor.history] == [1, 2, 3]
    for update, row in enumerate(monitor.history):
        one, other = (expected.scalars() for expected in loop.expected[2 * update : 2 * update + 2])
        averaged = {scalar: (one[scalar] + other[scalar]) / 2 for scalar in one}
        compare(row, averaged | {"z_abs_max": max(one["z_abs_max"], other["z_abs_max"])})


def test_optimisers_are_found_by_their_parameters() -> None:
    loop, given = seeded(ddpg), seeded(ddpg)
    torch.manual_seed(1)
    with SaturationMonitor(loop.actor, loop.critic, every=1) as monitor:
        loop.run(3)
    torch.manual_seed(1)
    with watch(given) as other:
        given.run(3)
    assert monitor.history == other.history


def test_without_a_critic_the_rest_is_measured_and_its_cells_are_empty(tmp_path: Path) -> None:
    loop = seeded(ddpg)
    with SaturationMonitor(loop.actor, every=2) as monitor:
        loop.run(5)
    found = monitor.scalars()
    compare(found, {"z_abs_max": float(loop.expected[-1].z.abs().max())})
    assert found["actor_step_norm"] > 0
    assert math.isnan(found["dq_da_abs_mean"])
    assert monitor.diagnosis().verdict == "healthy"
    monitor.write_csv(tmp_path / "saturation.csv")
    with (tmp_path / "saturation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["update"]) for row in rows] == [1, 3, 5]
    assert float(rows[-1]["tanh_derivative"]) == found["tanh_derivative"]
    assert rows[-1]["dq_da_abs_mean"] == ""


def test_z_of_a_head() -> None:
    loop = seeded(ddpg)
    with watch(loop, head=loop.actor.fc_mu) as monitor:
        loop.run(2)
    compare(monitor.scalars(), loop.expected[-1].scalars())


@pytest.mark.parametrize("limited_first", [False, True])
def test_step_norms_are_those_after_the_limit(limited_first: bool) -> None:
    loop = seeded(lambda: ddpg(lr=0.1))
    monitor = watch(loop)
    if not limited_first:
        monitor.attach()
    limit_steps(loop.actor_optimizer, 0.001)
    monitor.attach()
    before = weights_of(loop.actor)
    loop.run(1)
    monitor.detach()
    compare(monitor.scalars(), {"actor_step_norm": moved(loop.actor, before)})


def test_attach_twice_and_detach_in_the_middle() -> None:
    loop = seeded(ddpg)
    without = hooks_of(loop)
    monitor = watch(loop, every=2)
    monitor.attach()
    attached = hooks_of(loop)
    monitor.attach()
    assert hooks_of(loop) == attached
    loop.run(3)
    monitor.detach()
    monitor.detach()
    assert hooks_of(loop) == without
    loop.run(5)  # not counted
    assert [row["update"] for row in monitor.history] == [1, 3]
    with monitor:
        loop.run(2)
    assert [row["update"] for row in monitor.history] == [1, 3, 5]
    assert hooks_of(loop) == without


def test_an_exception_in_a_forward_pass_is_survived() -> None:
    loop = seeded(ddpg)
    without = hooks_of(loop)
    with pytest.raises(KeyError), watch(loop) as monitor:
        with pytest.raises(RuntimeError):
            loop.actor(torch.zeros(1, 99))
        loop.run(2)
        raise KeyError  # and one that ends the training leaves nothing behind
    assert len(monitor.history) == 2
    assert hooks_of(loop) == without


def test_two_monitors_measure_the_same() -> None:
    loop = seeded(ddpg)
    with watch(loop) as one, watch(loop) as other:
        loop.run(3)
    assert one.history == other.history


def test_copies_made_meanwhile_are_not_measured() -> None:
    actor = seeded(FunctionalActor)
    optimizer = torch.optim.Adam(actor.parameters())
    with SaturationMonitor(actor, every=1) as monitor:
        copied, saved = copy.deepcopy(actor), io.BytesIO()
        torch.save(actor, saved)
        saved.seek(0)
        loaded = torch.load(saved, weights_only=False)
        obs = torch.randn(4, 5)
        loss = actor(obs).mean()
        for other in (copied, loaded):
            other(100 * obs)
        step(optimizer, loss)
    compare(monitor.scalars(), {"z_abs_max": float(z_of(copied, obs).abs().max())})


def test_no_batch_is_kept_after_a_measured_update() -> None:
    loop = seeded(ddpg)
    batches: list[weakref.ref] = []
    handle = loop.actor.register_forward_pre_hook(lambda _, args: batches.append(weakref.ref(args[0])))
    with watch(loop, every=5):
        loop.run(2)
        gc.collect()
        assert not any(ref() is not None for ref in batches)
        loop.run(4)  # in the middle of the next measured update
    handle.remove()
    gc.collect()
    assert not any(ref() is not None for ref in batches)


def test_a_resumed_training_is_measured_alike() -> None:
    loop, resumed = seeded(ddpg), seeded(ddpg, seed=9)
    loop.run(3)
    with watch(resumed) as monitor:
        for own, saved in zip(
            [*resumed.networks, resumed.actor_optimizer, resumed.critic_optimizer],
            [*loop.networks, loop.actor_optimizer, loop.critic_optimizer],
            strict=True,
        ):
            own.load_state_dict(copy.deepcopy(saved.state_dict()))
        for one in (loop, resumed):
            torch.manual_seed(5)
            one.run(2)
    for row, expected in zip(monitor.history, loop.expected[-2:], strict=True):
        compare(row, expected.scalars())
    assert same_bits(resumed.bits(), loop.bits())


def test_a_compiled_actor_is_measured_and_keeps_its_bits() -> None:
    def compiled() -> Loop:
        torch.compiler.reset()
        return ddpg(before=lambda actor: torch.compile(actor, backend="aot_eager"))

    plain = seeded(compiled)
    plain.run(4)
    loop = seeded(compiled)
    with watch(loop) as monitor:
        loop.run(4)
    for row, expected in zip(monitor.history, loop.expected, strict=True):
        compare(row, expected.scalars(), rel=1e-4)
    assert same_bits(loop.bits(), plain.bits())


class Without(FunctionalActor):
    """Hidden tanh units, but a linear output."""

    def forward(self, obs: Tensor) -> Tensor:
        return self.fc_mu(torch.tanh(self.fc1(obs)))


def test_an_actor_without_a_tanh() -> None:
    loop = seeded(lambda: ddpg(Without()))
    without = hooks_of(loop)
    monitor = watch(loop)
    assert "never attached" in monitor.report()
    monitor.attach()
    assert "No optimiser step" in monitor.report()
    with refused("head="):
        loop.run(1)
    assert hooks_of(loop) == without
    assert "detached itself" in monitor.report() and "head=" in monitor.report()
    loop.run(2)  # detached: who catches the error trains on without measurements
    assert monitor.history == []
    with refused("no tanh") as error, watch(loop, head=loop.actor.fc_mu):
        loop.run(1)
    assert "head=" not in str(error.value)  # which is given


@pytest.mark.parametrize("critic", [False, True])
def test_a_head_that_is_not_on_the_way_to_the_action(critic: bool) -> None:
    class Aside(FunctionalActor if critic else Without):
        def forward(self, obs: Tensor) -> Tensor:
            if critic:
                self.aside(obs)
            return self.z(obs)

    actor, network = seeded(Aside), Critic()
    actor.aside = nn.Linear(5, 2)
    with refused("head"):
        if critic:
            measured(actor, lambda obs: network(obs, actor(obs).tanh()).sum(), network, head=actor.aside)
        else:
            measured(actor, lambda obs: actor(obs).sum(), head=actor.aside)


class Ignorant(Critic):
    """Takes the action and does not use it."""

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        return super().forward(obs, torch.zeros_like(action))


@pytest.mark.parametrize("outside", [False, True])
def test_a_critic_that_ignores_the_action_is_flat(outside: bool) -> None:
    actor, critic = seeded(lambda: (FunctionalActor(), Ignorant()))
    policy = (lambda obs: actor.z(obs).tanh()) if outside else actor
    monitor = measured(actor, lambda obs: -critic(obs, policy(obs)).mean(), critic)
    assert [row["dq_da_abs_mean"] for row in monitor.history] == [0.0] * 3
    assert "critic is flat" in monitor.diagnosis().sentence


def test_of_several_outputs_the_one_that_depends_on_the_action_counts() -> None:
    class WithValue(Critic):
        def forward(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
            return super().forward(obs, torch.zeros_like(action)), super().forward(obs, action)

    actor, critic = seeded(lambda: (FunctionalActor(), WithValue()))
    monitor = measured(actor, lambda obs: -critic(obs, actor(obs))[1].mean(), critic)
    assert monitor.scalars()["dq_da_abs_mean"] > 0


def test_a_detached_action_without_a_critic() -> None:
    actor, critic = seeded(lambda: (FunctionalActor(), Critic()))
    found = measured(actor, lambda obs: -critic(obs, actor(obs).detach()).mean()).diagnosis()
    assert found.verdict == "frozen"
    assert "detached" in found.advice[0]


def test_a_critic_that_never_sees_the_action() -> None:
    loop = seeded(ddpg)
    with refused("critic="), SaturationMonitor(loop.actor, Critic()):
        loop.run(1)


def test_a_target_instead_of_the_actor() -> None:
    loop = seeded(ddpg)
    target = loop.networks[2]
    with refused("actor="), SaturationMonitor(target, loop.critic):
        loop.run(1)
        torch.optim.Adam(target.parameters()).step()


def test_a_detached_action() -> None:
    loop = seeded(td3)
    with refused("detached"), watch(loop):
        obs = torch.randn(4, 5)
        step(loop.actor_optimizer, -loop.critic.first(obs, loop.actor(obs).detach()).mean())


OTHERS = torch.optim.Adam(nn.Linear(1, 1).parameters())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"every": 0}, "every"),
        ({"head": nn.Linear(1, 1)}, "head="),
        ({"critic": "critic"}, "critic"),
        ({"actor_optimizer": 3}, "actor_optimizer"),
        ({"actor_optimizer": OTHERS}, "actor_optimizer="),
        ({"critic_optimizer": OTHERS}, "critic_optimizer="),
    ],
)
def test_bad_input(options: dict, named: str) -> None:
    with refused(named):
        SaturationMonitor(FunctionalActor(), **{"critic": Critic(), **options})


def test_an_actor_compiled_in_place_is_refused() -> None:
    actor = FunctionalActor()
    actor.compile()
    with refused("torch.compile(actor)"):
        SaturationMonitor(actor, Critic())


def test_a_later_update_of_another_kind_does_not_end_the_training() -> None:
    loop = seeded(ddpg)
    with watch(loop) as monitor:
        loop.run(1)
        obs = torch.randn(4, 5)
        step(loop.actor_optimizer, loop.actor(obs).square().mean())  # behaviour cloning, without a critic
        loop.run(1)
    assert [math.isnan(row["dq_da_abs_mean"]) for row in monitor.history] == [False, True, False]
