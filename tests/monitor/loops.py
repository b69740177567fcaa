"""Small training loops as people write them, each with the numbers that a monitor should find, worked out by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.monitor import definitions

STATE, ACTIONS, BATCH = 5, 2, 16
LOW, HIGH = -3.0, 1.0  # bounds that are not those of tanh
SCALE, BIAS = (HIGH - LOW) / 2, (HIGH + LOW) / 2


class FunctionalActor(nn.Module):
    """CleanRL's: no module for the tanh, actions scaled to the bounds."""

    def __init__(self, encoder: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder = encoder or nn.Identity()
        self.fc1 = nn.Linear(STATE, 8)
        self.fc_mu = nn.Linear(8, ACTIONS)

    def z(self, obs: Tensor) -> Tensor:
        return self.fc_mu(F.relu(self.fc1(self.encoder(obs))))

    def forward(self, obs: Tensor) -> Tensor:
        return torch.tanh(self.z(obs)) * SCALE + BIAS


class HalvedActor(FunctionalActor):
    """What enters the tanh is the output of no module."""

    def z(self, obs: Tensor) -> Tensor:
        return super().z(obs) / 2


class ModuleActor(nn.Module):
    """Ends in nn.Tanh, after hidden tanh units, dropout and a running norm; `z` is what entered that tanh last."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(STATE, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, ACTIONS), nn.Tanh()
        )
        self.body[-1].register_forward_pre_hook(self._keep)

    def _keep(self, _module: nn.Module, args: tuple[Tensor]) -> None:
        self.z = args[0].detach()

    def forward(self, obs: Tensor) -> Tensor:
        return self.body(obs)


class GaussianActor(nn.Module):
    """CleanRL's SAC actor: forward returns mean and log-sd (itself made by a tanh), get_action draws."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(STATE, 8)
        self.fc_mean = nn.Linear(8, ACTIONS)
        self.fc_logstd = nn.Linear(8, ACTIONS)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        hidden = F.relu(self.fc1(obs))
        return self.fc_mean(hidden), torch.tanh(self.fc_logstd(hidden)) * 2 - 2

    def get_action(self, obs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, log_std = self(obs)
        normal = torch.distributions.Normal(mean, log_std.exp())
        drawn = normal.rsample()
        squashed = torch.tanh(drawn)
        log_prob = (normal.log_prob(drawn) - torch.log(1 - squashed**2 + 1e-6)).sum(1, keepdim=True)
        return squashed * SCALE + BIAS, log_prob, squashed, mean


class Critic(nn.Module):
    def __init__(self, encoder: nn.Module | None = None, actions: int = ACTIONS, states: int = STATE) -> None:
        super().__init__()
        self.encoder = encoder or nn.Identity()
        self.fc1 = nn.Linear(states + actions, 16)
        self.fc2 = nn.Linear(16, 1)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        return self.fc2(torch.tanh(self.fc1(torch.cat([self.encoder(obs), action], 1))))


class MethodCritic(Critic):
    """Two networks in one, and an actor's loss that calls a method, and so only parts of it, instead of forward."""

    def __init__(self) -> None:
        super().__init__()
        self.second = Critic()

    def forward(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        return self.first(obs, action), self.second(obs, action)

    def first(self, obs: Tensor, action: Tensor) -> Tensor:
        return super().forward(obs, action)


@dataclass
class Expected:
    """What a monitor should find in one update; everything in the units of the tanh."""

    z: Tensor
    actions: Tensor
    dq_da: Tensor

    def scalars(self) -> dict[str, float]:
        z, a, q = self.z, self.actions, self.dq_da
        found = {
            "saturation_ratio": definitions.saturation_ratio(a),
            "stuck_share": definitions.stuck_share(a, q),
            "bang_bang_share": definitions.bang_bang_share(a, q),
            "tanh_derivative": definitions.tanh_derivative(a),
            "zero_derivative_share": definitions.zero_derivative_share(a),
            "z_abs_median": definitions.z_abs_median(z),
            "z_abs_max": definitions.z_abs_max(z),
            "z_range": definitions.z_range(z),
            "dq_da_abs_mean": definitions.dq_da_abs_mean(q),
            "dq_da_sign_coherence": definitions.dq_da_sign_coherence(q),
        }
        return {scalar: float(value) for scalar, value in found.items()}


@dataclass
class Loop:
    """A training that one can go on with, update by update."""

    actor: nn.Module | list[nn.Module]
    critic: nn.Module | list[nn.Module]
    actor_optimizer: torch.optim.Optimizer | list[torch.optim.Optimizer]
    critic_optimizer: torch.optim.Optimizer | list[torch.optim.Optimizer]
    update: Callable[[], None]
    networks: list[nn.Module]  # all, targets included
    expected: list[Expected] = field(default_factory=list)

    def run(self, updates: int) -> None:
        for _ in range(updates):
            self.update()

    def bits(self) -> list[Tensor]:
        """Everything that a monitor must leave alone: weights, buffers, gradients and the random numbers."""
        tensors = [t for network in self.networks for t in network.state_dict().values()]
        tensors += [p.grad for network in self.networks for p in network.parameters() if p.grad is not None]
        return [t.clone() for t in tensors] + [torch.get_rng_state()]


def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    obs = torch.randn(BATCH, STATE)
    action = torch.rand(BATCH, ACTIONS) * (HIGH - LOW) + LOW
    reward = -(action - obs[:, :ACTIONS]).square().sum(1, keepdim=True)
    return obs, action, reward, torch.randn(BATCH, STATE)


def compare(row: dict[str, float], expected: dict[str, float], rel: float = 1e-5) -> None:
    assert {scalar: row[scalar] for scalar in expected} == pytest.approx(expected, rel=rel)


def same_bits(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def adam(*networks: nn.Module, lr: float = 1e-2) -> torch.optim.Optimizer:
    return torch.optim.Adam([p for network in networks for p in network.parameters()], lr=lr)


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@torch.no_grad()
def z_of(actor: FunctionalActor, obs: Tensor) -> Tensor:
    return actor.z(obs)


def by_hand(z: Tensor, q_of_actions: Callable[[Tensor], Tensor]) -> Expected:
    """∂Q/∂a from a graph of its own that begins at the tanh's output."""
    a = z.tanh().requires_grad_()
    (slope,) = torch.autograd.grad(q_of_actions(a).sum(), a)
    return Expected(z, a.detach(), slope)


def scaled(a: Tensor) -> Tensor:
    return a * SCALE + BIAS


def ddpg(
    actor: FunctionalActor | None = None,
    critic: Critic | None = None,
    reuse: str = "",
    lr: float = 1e-2,
    before: Callable[[nn.Module], nn.Module] = lambda network: network,
) -> Loop:
    """Functional tanh and other bounds. reuse: the actor itself makes the target pass, 'no_grad' or 'detach'."""
    plain, critic = actor or FunctionalActor(), critic or Critic()
    target, critic_target = copy.deepcopy(plain), copy.deepcopy(critic)
    actor = before(plain)

    def next_action(obs: Tensor) -> Tensor:
        if reuse == "detach":
            return actor(obs).detach()
        with torch.no_grad():
            return (actor if reuse else target)(obs)

    def update() -> None:
        obs, action, reward, next_obs = batch()
        with torch.no_grad():
            actor(obs[:1])  # a rollout
        policy = actor(obs) if reuse else None  # made before the target pass
        y = reward + 0.9 * critic_target(next_obs, next_action(next_obs)).detach()
        step(loop.critic_optimizer, F.mse_loss(critic(obs, action), y))
        loop.expected.append(by_hand(z_of(plain, obs), lambda a: critic(obs, scaled(a))))
        step(loop.actor_optimizer, -critic(obs, actor(obs) if policy is None else policy).mean())
        for new, old in ((plain, target), (critic, critic_target)):
            for source, kept in zip(new.parameters(), old.parameters(), strict=True):
                kept.data.mul_(0.9).add_(source.data, alpha=0.1)

    optimizers = adam(plain, lr=lr), adam(critic, lr=lr)
    loop = Loop(actor, critic, *optimizers, update, [plain, critic, target, critic_target])
    return loop


def shared_encoder() -> Loop:
    """Actor and critic read one feature extractor, which the actor's optimiser trains."""
    encoder = nn.Linear(STATE, STATE)
    return ddpg(FunctionalActor(encoder), Critic(encoder))


def noisy_modules() -> Loop:
    """Dropout and batch norm in the actor, nn.Tanh modules inside and at the end; z is known from a hook only."""
    actor, critic = ModuleActor(), Critic()

    def update() -> None:
        obs, action, reward, _ = batch()
        step(loop.critic_optimizer, F.mse_loss(critic(obs, action), reward))
        policy = actor(obs)
        loop.expected.append(by_hand(actor.z, lambda a: critic(obs, a)))
        step(loop.actor_optimizer, -critic(obs, policy).mean())

    loop = Loop(actor, critic, adam(actor), adam(critic), update, [actor, critic])
    return loop


def td3() -> Loop:
    """Two critics in one module, the actor's loss calls a method of it, every second update of the critic."""
    actor, critic = FunctionalActor(), MethodCritic()

    def update() -> None:
        for _ in range(2):
            obs, action, reward, _ = batch()
            step(loop.critic_optimizer, sum(F.mse_loss(q, reward) for q in critic(obs, action)))
        loop.expected.append(by_hand(z_of(actor, obs), lambda a: critic.first(obs, scaled(a))))
        step(loop.actor_optimizer, -critic.first(obs, actor(obs)).mean())

    loop = Loop(actor, critic, adam(actor), adam(critic), update, [actor, critic])
    return loop


def sac() -> Loop:
    """Two critics and their minimum, an entropy term, actions that are drawn."""
    actor, critics = GaussianActor(), [Critic(), Critic()]

    def update() -> None:
        obs, action, reward, next_obs = batch()
        with torch.no_grad():
            actor.get_action(next_obs)
        step(loop.critic_optimizer, sum(F.mse_loss(critic(obs, action), reward) for critic in critics))
        policy, log_prob, squashed, mean = actor.get_action(obs)
        drawn = by_hand(torch.atanh(squashed.detach()), lambda a: critics[0](obs, scaled(a)))
        loop.expected.append(Expected(mean.detach(), squashed.detach(), drawn.dq_da))
        q = torch.min(*(critic(obs, policy) for critic in critics))
        step(loop.actor_optimizer, (0.2 * log_prob - q).mean())

    loop = Loop(actor, critics, adam(actor), adam(*critics), update, [actor, *critics])
    return loop


def maddpg(joint: bool = False) -> Loop:
    """Two agents with critics of their own, each of which sees both agents' actions; joint: one loss, one optimiser."""
    actors = [FunctionalActor(), FunctionalActor()]
    critics = [Critic(actions=2 * ACTIONS, states=2 * STATE) for _ in range(1 if joint else 2)]

    def update() -> None:
        (obs, action, reward, _), (other_obs, other_action, _, _) = batch(), batch()
        observations, stored, both = [obs, other_obs], [action, other_action], torch.cat([obs, other_obs], 1)
        for critic, optimizer in zip(critics, loop.critic_optimizer, strict=True):
            step(optimizer, F.mse_loss(critic(both, torch.cat(stored, 1)), reward))
        for i, (critic, optimizer) in enumerate(zip(critics, loop.actor_optimizer, strict=True)):
            own = [actor(x) for actor, x in zip(actors, observations, strict=True)]
            taken = own if joint else [own[j] if j == i else stored[j] for j in range(2)]
            for j in range(2) if joint else [i]:

                def q(a: Tensor, critic: nn.Module = critic, j: int = j, taken: list[Tensor] = taken) -> Tensor:
                    return critic(both, torch.cat([scaled(a) if k == j else taken[k].detach() for k in range(2)], 1))

                loop.expected.append(by_hand(z_of(actors[j], observations[j]), q))
            step(optimizer, -critic(both, torch.cat(taken, 1)).mean())

    actor_optimizers = [adam(*actors)] if joint else [adam(actor) for actor in actors]
    loop = Loop(actors, critics, actor_optimizers, [adam(c) for c in critics], update, [*actors, *critics])
    return loop


LOOPS: dict[str, Callable[[], Loop]] = {
    "functional tanh, other bounds": ddpg,
    "tanh of no module's output": lambda: ddpg(HalvedActor()),
    "module reused for target passes": lambda: ddpg(reuse="no_grad"),
    "module reused with gradients": lambda: ddpg(reuse="detach"),
    "shared feature extractor": shared_encoder,
    "dropout and batch norm": noisy_modules,
    "two critics, loss calls a method": td3,
    "two critics and their minimum": sac,
}
