"""SaturationMonitor in other people's loops: finds what is worked out by hand, and leaves the training alone."""

from __future__ import annotations

import copy
import csv
import gc
import io
import math
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monitor.loops import LOOPS, Critic, Expected, FunctionalActor, Loop, ddpg, maddpg, td3
from torch import nn

from common.monitor import MonitorError, SaturationMonitor, definitions, limit_steps


def watch(loop: Loop, **options: object) -> SaturationMonitor:
    return SaturationMonitor(
        loop.actor,
        loop.critic,
        actor_optimizer=loop.actor_optimizer,
        critic_optimizer=loop.critic_optimizer,
        **{"every": 1, **options},
    )


def seeded(make: Callable[[], Any], seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return make()


def outputs_of(expected: Expected) -> dict[str, float]:
    z, a, q = expected.z, expected.actions, expected.dq_da
    return {
        "saturation_ratio": definitions.saturation_ratio(a),
        "stuck_share": definitions.stuck_share(a, q),
        "bang_bang_share": definitions.bang_bang_share(a, q),
        "tanh_derivative": definitions.tanh_derivative(a),
        "zero_derivative_share": definitions.zero_derivative_share(a),
        "z_abs_median": definitions.z_abs_median(z),
        "z_abs_max": definitions.z_abs_max(z),
        "dq_da_abs_mean": definitions.dq_da_abs_mean(q),
        "dq_da_sign_coherence": definitions.dq_da_sign_coherence(q),
    }


def hooks_of(loop: Loop) -> int:
    """Hooks on the networks and optimisers of a loop and on all optimisers."""
    from torch.optim import optimizer as optim

    modules = [part for network in loop.networks for part in network.modules()]
    kept = [held for part in modules for held in (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks)]
    kept += [part._forward_hooks_always_called for part in modules]
    kept += [part._forward_hooks_with_kwargs for part in modules]
    for one in _optimizers(loop):
        kept += [one._optimizer_step_pre_hooks, one._optimizer_step_post_hooks]
    return sum(map(len, (*kept, optim._global_optimizer_pre_hooks, optim._global_optimizer_post_hooks)))


def _optimizers(loop: Loop) -> list[torch.optim.Optimizer]:
    both = (loop.actor_optimizer, loop.critic_optimizer)
    return [one for given in both for one in (given if isinstance(given, list) else [given])]


@pytest.mark.parametrize("name", LOOPS)
def test_finds_what_is_worked_out_by_hand(name: str) -> None:
    loop = seeded(LOOPS[name])
    with watch(loop) as monitor:
        loop.run(5)
    assert [row["update"] for row in monitor.history] == [1, 2, 3, 4, 5]
    for row, expected in zip(monitor.history, loop.expected, strict=True):
        for scalar, value in outputs_of(expected).items():
            assert row[scalar] == pytest.approx(float(value), rel=1e-5), scalar
        assert all(math.isfinite(value) for value in row.values()), row


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("name", [*LOOPS, "maddpg"])
def test_training_keeps_its_bits_and_no_hook_stays(name: str, every: int) -> None:
    make = {**LOOPS, "maddpg": maddpg}[name]
    plain = seeded(make)
    plain.run(7)
    loop = seeded(make)
    without = hooks_of(loop)
    monitor = watch(loop, every=every)
    with monitor:
        loop.run(7)
    assert hooks_of(loop) == without
    assert len(monitor.history) == len(range(0, 7, every))
    expected = plain.bits()
    found = loop.bits()
    assert len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_norms_and_the_move_of_z_are_those_of_the_step() -> None:
    loop = seeded(ddpg)
    with watch(loop, every=3) as monitor:
        loop.run(3)
        networks = {"actor": loop.actor, "critic": loop.critic}
        before = {name: [p.detach().clone() for p in network.parameters()] for name, network in networks.items()}
        seen: list[torch.Tensor] = []
        handle = loop.actor.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        critic_gradients: list[torch.Tensor] = []
        loop.critic_optimizer.register_step_pre_hook(
            lambda *_: critic_gradients.extend(p.grad.clone() for p in loop.critic.parameters())
        )
        loop.run(1)
        handle.remove()
    assert [row["update"] for row in monitor.history] == [1, 4]
    found = monitor.scalars()
    for name, network in networks.items():
        moved = [p.detach() - old for p, old in zip(network.parameters(), before[name], strict=True)]
        assert found[f"{name}_step_norm"] == pytest.approx(_norm(moved), rel=1e-5)
    assert found["actor_gradient_norm"] == pytest.approx(_norm([p.grad for p in loop.actor.parameters()]), rel=1e-5)
    assert found["critic_gradient_norm"] == pytest.approx(_norm(critic_gradients), rel=1e-5)
    with torch.no_grad():
        after = loop.actor.z(seen[-1])
    assert found["z_step_rms"] == pytest.approx(float((after - loop.expected[-1].z).square().mean().sqrt()), rel=1e-4)


def _norm(tensors: list[torch.Tensor]) -> float:
    return float(torch.cat([t.flatten() for t in tensors]).norm())


@pytest.mark.parametrize("joint", [False, True])
def test_several_actors_are_averaged(joint: bool) -> None:
    loop = seeded(lambda: maddpg(joint))
    with watch(loop) as monitor:
        loop.run(3)
    assert [row["update"] for row in monitor.history] == [1, 2, 3]
    for update, row in enumerate(monitor.history):
        both = [outputs_of(expected) for expected in loop.expected[2 * update : 2 * update + 2]]
        for scalar in both[0]:
            combine = max if scalar == "z_abs_max" else lambda pair: sum(pair) / 2
            assert row[scalar] == pytest.approx(float(combine([found[scalar] for found in both])), rel=1e-5), scalar


def test_optimisers_are_found_by_their_parameters() -> None:
    loop, given = seeded(ddpg), seeded(ddpg)
    torch.manual_seed(1)
    with SaturationMonitor(loop.actor, loop.critic, every=1) as monitor:
        loop.run(3)
    torch.manual_seed(1)
    with watch(given) as other:
        given.run(3)
    assert monitor.history == other.history


def test_without_a_critic_the_rest_is_measured() -> None:
    loop = seeded(ddpg)
    with SaturationMonitor(loop.actor, every=1) as monitor:
        loop.run(3)
    found = monitor.scalars()
    assert found["z_abs_max"] == pytest.approx(float(loop.expected[-1].z.abs().max()), rel=1e-5)
    assert found["actor_step_norm"] > 0
    assert math.isnan(found["dq_da_abs_mean"])
    assert monitor.diagnosis().verdict == "healthy"


def test_z_of_a_head() -> None:
    loop = seeded(ddpg)
    with watch(loop, head=loop.actor.fc_mu) as monitor:
        loop.run(2)
    assert monitor.scalars()["z_abs_median"] == pytest.approx(
        float(definitions.z_abs_median(loop.expected[-1].z)), rel=1e-5
    )


@pytest.mark.parametrize("limited_first", [False, True])
def test_step_norms_are_those_after_the_limit(limited_first: bool) -> None:
    loop = seeded(lambda: ddpg(lr=0.1))
    monitor = watch(loop)
    if not limited_first:
        monitor.attach()
    limit_steps(loop.actor_optimizer, 0.001)
    monitor.attach()
    before = [p.detach().clone() for p in loop.actor.parameters()]
    loop.run(1)
    monitor.detach()
    moved = [p.detach() - old for p, old in zip(loop.actor.parameters(), before, strict=True)]
    assert monitor.scalars()["actor_step_norm"] == pytest.approx(_norm(moved), rel=1e-5)


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


def test_an_exception_inside_with_leaves_nothing_behind() -> None:
    loop = seeded(ddpg)
    without = hooks_of(loop)
    with pytest.raises(KeyError), watch(loop) as monitor:
        loop.run(2)
        raise KeyError
    assert hooks_of(loop) == without
    assert len(monitor.history) == 2


def test_an_exception_in_a_forward_pass_is_survived() -> None:
    loop = seeded(ddpg)
    with watch(loop) as monitor:
        with pytest.raises(RuntimeError):
            loop.actor(torch.zeros(1, 99))
        loop.run(2)
    assert len(monitor.history) == 2


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
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert monitor.scalars()["z_abs_max"] == pytest.approx(float(copied.z(obs).abs().max()), rel=1e-5)


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
    def parts(loop: Loop) -> list:
        return [*loop.networks, loop.actor_optimizer, loop.critic_optimizer]

    loop = seeded(ddpg)
    with watch(loop):
        loop.run(3)
        saved = copy.deepcopy([part.state_dict() for part in parts(loop)])
        torch.manual_seed(5)
        loop.run(2)
    resumed = seeded(ddpg, seed=9)
    monitor = watch(resumed).attach()
    for part, state in zip(parts(resumed), saved, strict=True):
        part.load_state_dict(state)
    torch.manual_seed(5)
    resumed.run(2)
    monitor.detach()
    for expected, row in zip(loop.expected[-2:], monitor.history, strict=True):
        assert row["dq_da_abs_mean"] == pytest.approx(float(expected.dq_da.abs().mean()), rel=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(loop.bits(), resumed.bits(), strict=True))


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
        for scalar, value in outputs_of(expected).items():
            assert row[scalar] == pytest.approx(float(value), rel=1e-4), scalar
    assert all(torch.equal(a, b) for a, b in zip(loop.bits(), plain.bits(), strict=True))


def test_csv_has_a_row_for_each_measured_update(tmp_path: Path) -> None:
    loop = seeded(ddpg)
    with SaturationMonitor(loop.actor, every=2) as monitor:
        loop.run(5)
    monitor.write_csv(tmp_path / "saturation.csv")
    with (tmp_path / "saturation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["update"]) for row in rows] == [1, 3, 5]
    assert float(rows[-1]["tanh_derivative"]) == monitor.scalars()["tanh_derivative"]
    assert rows[-1]["dq_da_abs_mean"] == ""


class Without(FunctionalActor):
    """Hidden tanh units, but a linear output."""

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.fc_mu(torch.tanh(self.fc1(obs)))


def one_line(error: pytest.ExceptionInfo[MonitorError], argument: str) -> None:
    assert "\n" not in str(error.value)
    assert argument in str(error.value)


def test_an_actor_without_a_tanh() -> None:
    loop = seeded(lambda: ddpg(Without()))
    without = hooks_of(loop)
    monitor = watch(loop).attach()
    with pytest.raises(MonitorError) as error:
        loop.run(1)
    one_line(error, "head=")
    assert hooks_of(loop) == without
    loop.run(2)  # detached: who catches the error trains on without measurements
    assert monitor.history == []


def test_an_actor_without_a_tanh_that_has_a_head() -> None:
    loop = seeded(lambda: ddpg(Without()))
    with pytest.raises(MonitorError) as error, watch(loop, head=loop.actor.fc_mu):
        loop.run(1)
    one_line(error, "no tanh")
    assert "head=" not in str(error.value)


@pytest.mark.parametrize("critic", [False, True])
def test_a_head_that_is_not_on_the_way_to_the_action(critic: bool) -> None:
    class Aside(FunctionalActor if critic else Without):
        def forward(self, obs: torch.Tensor) -> torch.Tensor:
            if critic:
                self.aside(obs)
            return self.z(obs)

    actor = seeded(Aside)
    actor.aside = nn.Linear(5, 2)
    network, optimizer, obs = Critic(), torch.optim.Adam(actor.parameters()), torch.randn(4, 5)
    with (
        pytest.raises(MonitorError) as error,
        SaturationMonitor(actor, network if critic else None, head=actor.aside),
    ):
        action = actor(obs)
        (network(obs, action.tanh()) if critic else action).sum().backward()
        optimizer.step()
    one_line(error, "head")


class Ignorant(Critic):
    """Takes the action and does not use it."""

    def forward(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return super().forward(obs, torch.zeros_like(action))


@pytest.mark.parametrize("outside", [False, True])
def test_a_critic_that_ignores_the_action_is_flat(outside: bool) -> None:
    actor, critic = seeded(lambda: (FunctionalActor(), Ignorant()))
    optimizer, obs = torch.optim.Adam(actor.parameters()), torch.randn(4, 5)
    with SaturationMonitor(actor, critic, every=1) as monitor:
        for _ in range(3):
            optimizer.zero_grad()
            (-critic(obs, actor.z(obs).tanh() if outside else actor(obs)).mean()).backward()
            optimizer.step()
    assert [row["dq_da_abs_mean"] for row in monitor.history] == [0.0] * 3
    assert "critic is flat" in monitor.diagnosis().sentence


def test_of_several_outputs_the_one_that_depends_on_the_action_counts() -> None:
    class WithValue(Critic):
        def forward(self, obs: torch.Tensor, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return super().forward(obs, torch.zeros_like(action)), super().forward(obs, action)

    actor, critic = seeded(lambda: (FunctionalActor(), WithValue()))
    optimizer, obs = torch.optim.Adam(actor.parameters()), torch.randn(4, 5)
    with SaturationMonitor(actor, critic, every=1) as monitor:
        (-critic(obs, actor(obs))[1].mean()).backward()
        optimizer.step()
    assert monitor.scalars()["dq_da_abs_mean"] > 0


def test_a_detached_action_without_a_critic() -> None:
    actor, critic = seeded(lambda: (FunctionalActor(), Critic()))
    optimizer, obs = torch.optim.Adam(actor.parameters()), torch.randn(4, 5)
    with SaturationMonitor(actor, every=1) as monitor:
        for _ in range(3):
            (-critic(obs, actor(obs).detach()).mean()).backward()
            optimizer.step()
    found = monitor.diagnosis()
    assert found.verdict == "frozen"
    assert "detached" in found.advice[0]


def test_a_critic_that_never_sees_the_action() -> None:
    loop = seeded(ddpg)
    loop.critic = Critic()
    with pytest.raises(MonitorError) as error, SaturationMonitor(loop.actor, loop.critic):
        loop.run(1)
    one_line(error, "critic=")


def test_a_target_instead_of_the_actor() -> None:
    loop = seeded(ddpg)
    target = loop.networks[2]
    with pytest.raises(MonitorError) as error, SaturationMonitor(target, loop.critic):
        loop.run(1)
        torch.optim.Adam(target.parameters()).step()
    one_line(error, "actor=")


def test_a_detached_action() -> None:
    loop = seeded(td3)
    actor, critic, optimizer = loop.actor, loop.critic, loop.actor_optimizer
    obs = torch.randn(4, 5)
    with pytest.raises(MonitorError) as error, watch(loop):
        (-critic.first(obs, actor(obs).detach()).mean()).backward()
        optimizer.step()
    one_line(error, "detached")


@pytest.mark.parametrize("argument", ["actor_optimizer", "critic_optimizer"])
def test_an_optimiser_of_other_parameters(argument: str) -> None:
    loop = seeded(ddpg)
    other = torch.optim.Adam(FunctionalActor().parameters())
    with pytest.raises(MonitorError) as error:
        SaturationMonitor(loop.actor, loop.critic, **{argument: other})
    one_line(error, f"{argument}=")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"every": 0}, "every"),
        ({"head": nn.Linear(1, 1)}, "head="),
        ({"critic": "critic"}, "critic"),
        ({"actor_optimizer": 3}, "actor_optimizer"),
    ],
)
def test_other_bad_input(options: dict, named: str) -> None:
    with pytest.raises(MonitorError) as error:
        SaturationMonitor(FunctionalActor(), **options)
    one_line(error, named)


def test_an_actor_compiled_in_place_is_refused() -> None:
    actor = FunctionalActor()
    actor.compile()
    with pytest.raises(MonitorError) as error:
        SaturationMonitor(actor, Critic())
    one_line(error, "torch.compile(actor)")


def test_a_later_update_of_another_kind_does_not_end_the_training() -> None:
    loop = seeded(ddpg)
    with watch(loop) as monitor:
        loop.run(1)
        obs = torch.randn(4, 5)
        loop.actor(obs).square().mean().backward()  # behaviour cloning, without a critic
        loop.actor_optimizer.step()
        loop.run(1)
    assert [math.isnan(row["dq_da_abs_mean"]) for row in monitor.history] == [False, True, False]
