"""Small training loops as people write them, each with the numbers that a monitor should find, worked out by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
    """Ends in nn.Tanh, after hidden tanh units, dropout and a running norm."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(STATE, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, ACTIONS), nn.Tanh()
        )

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


class MethodCritic(nn.Module):
    """Two networks in one, and an actor's loss that calls a method instead of forward."""

    def __init__(self) -> None:
        super().__init__()
        self.l1, self.l2, self.l3 = nn.Linear(STATE + ACTIONS, 16), nn.Linear(16, 16), nn.Linear(16, 1)
        self.l4, self.l5 = nn.Linear(STATE + ACTIONS, 16), nn.Linear(16, 1)

    def forward(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        pair = torch.cat([obs, action], 1)
        return self.first(obs, action), self.l5(F.relu(self.l4(pair)))

    def first(self, obs: Tensor, action: Tensor) -> Tensor:
        pair = torch.cat([obs, action], 1)
        return self.l3(torch.tanh(self.l2(torch.tanh(self.l1(pair)))))


@dataclass
class Expected:
    """What a monitor should find in one update; everything in the units of the tanh."""

    z: Tensor
    actions: Tensor
    dq_da: Tensor


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


def by_hand(z: Tensor, q_of_actions: Callable[[Tensor], Tensor], squash: Callable[[Tensor], Tensor]) -> Expected:
    """∂Q/∂a from a graph of its own that begins at the tanh's output."""
    a = z.detach().tanh().requires_grad_()
    (slope,) = torch.autograd.grad(q_of_actions(squash(a)).sum(), a)
    return Expected(z.detach(), a.detach(), slope)


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
    actor, critic = actor or FunctionalActor(), critic or Critic()
    plain, target, critic_target = actor, copy.deepcopy(actor), copy.deepcopy(critic)
    actor_optimizer = torch.optim.Adam(actor.parameters(), lr=lr)
    critic_optimizer = torch.optim.Adam([p for p in critic.parameters() if p.requires_grad], lr=lr)
    actor = before(actor)

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
        loss = F.mse_loss(critic(obs, action), y)
        critic_optimizer.zero_grad()
        loss.backward()
        critic_optimizer.step()
        with torch.no_grad():
            z = plain.z(obs)
        loop.expected.append(by_hand(z, lambda a: critic(obs, a), scaled))
        loss = -critic(obs, actor(obs) if policy is None else policy).mean()
        actor_optimizer.zero_grad()
        loss.backward()
        actor_optimizer.step()
        for new, old in ((plain, target), (critic, critic_target)):
            for source, kept in zip(new.parameters(), old.parameters(), strict=True):
                kept.data.mul_(0.9).add_(source.data, alpha=0.1)

    loop = Loop(actor, critic, actor_optimizer, critic_optimizer, update, [plain, critic, target, critic_target])
    return loop


def shared_encoder() -> Loop:
    """Actor and critic read one feature extractor, which the actor's optimiser trains."""
    encoder = nn.Linear(STATE, STATE)
    return ddpg(FunctionalActor(encoder), Critic(encoder))


def noisy_modules() -> Loop:
    """Dropout and batch norm in the actor, nn.Tanh modules inside and at the end; z is known from a hook only."""
    actor, critic = ModuleActor(), Critic()
    actor_optimizer = torch.optim.Adam(actor.parameters(), lr=1e-2)
    critic_optimizer = torch.optim.Adam(critic.parameters(), lr=1e-2)

    def update() -> None:
        obs, action, reward, _ = batch()
        loss = F.mse_loss(critic(obs, action), reward)
        critic_optimizer.zero_grad()
        loss.backward()
        critic_optimizer.step()
        seen: list[Tensor] = []
        handle = actor.body[-1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        policy = actor(obs)
        handle.remove()
        loop.expected.append(by_hand(seen[0], lambda a: critic(obs, a), lambda a: a))
        loss = -critic(obs, policy).mean()
        actor_optimizer.zero_grad()
        loss.backward()
        actor_optimizer.step()

    loop = Loop(actor, critic, actor_optimizer, critic_optimizer, update, [actor, critic])
    return loop


def td3() -> Loop:
    """Two critics in one module, the actor's loss calls a method of it, every second update of the critic."""
    actor, critic = FunctionalActor(), MethodCritic()
    actor_optimizer = torch.optim.Adam(actor.parameters(), lr=1e-2)
    critic_optimizer = torch.optim.Adam(critic.parameters(), lr=1e-2)

    def update() -> None:
        for _ in range(2):
            obs, action, reward, _ = batch()
            first, second = critic(obs, action)
            loss = F.mse_loss(first, reward) + F.mse_loss(second, reward)
            critic_optimizer.zero_grad()
            loss.backward()
            critic_optimizer.step()
        with torch.no_grad():
            z = actor.z(obs)
        loop.expected.append(by_hand(z, lambda a: critic.first(obs, a), scaled))
        loss = -critic.first(obs, actor(obs)).mean()
        actor_optimizer.zero_grad()
        loss.backward()
        actor_optimizer.step()

    loop = Loop(actor, critic, actor_optimizer, critic_optimizer, update, [actor, critic])
    return loop


def sac() -> Loop:
    """Two critics and their minimum, an entropy term, actions that are drawn."""
    actor, critics = GaussianActor(), [Critic(), Critic()]
    actor_optimizer = torch.optim.Adam(actor.parameters(), lr=1e-2)
    critic_optimizer = torch.optim.Adam([p for c in critics for p in c.parameters()], lr=1e-2)

    def update() -> None:
        obs, action, reward, next_obs = batch()
        with torch.no_grad():
            actor.get_action(next_obs)
        loss = sum(F.mse_loss(critic(obs, action), reward) for critic in critics)
        critic_optimizer.zero_grad()
        loss.backward()
        critic_optimizer.step()
        policy, log_prob, squashed, mean = actor.get_action(obs)
        found = by_hand(mean, lambda a: critics[0](obs, scaled(squashed.detach() + a - a.detach())), lambda a: a)
        loop.expected.append(Expected(found.z, squashed.detach(), found.dq_da))
        q = torch.min(*(critic(obs, policy) for critic in critics))
        loss = (0.2 * log_prob - q).mean()
        actor_optimizer.zero_grad()
        loss.backward()
        actor_optimizer.step()

    loop = Loop(actor, critics, actor_optimizer, critic_optimizer, update, [actor, *critics])
    return loop


def maddpg(joint: bool = False) -> Loop:
    """Two agents with critics of their own, each of which sees both agents' actions; joint: one loss, one optimiser."""
    actors = [FunctionalActor(), FunctionalActor()]
    critics = [Critic(actions=2 * ACTIONS, states=2 * STATE) for _ in range(1 if joint else 2)]
    trained = [[*actors[0].parameters(), *actors[1].parameters()]] if joint else [a.parameters() for a in actors]
    actor_optimizers = [torch.optim.Adam(parameters, lr=1e-2) for parameters in trained]
    critic_optimizers = [torch.optim.Adam(c.parameters(), lr=1e-2) for c in critics]

    def update() -> None:
        (obs, action, reward, _), (other_obs, other, _, _) = batch(), batch()
        both, stored = torch.cat([obs, other_obs], 1), [action, other]
        for critic, optimizer in zip(critics, critic_optimizers, strict=True):
            loss = F.mse_loss(critic(both, torch.cat(stored, 1)), reward)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for i, optimizer in enumerate(actor_optimizers):
            own = [actor(x) for actor, x in zip(actors, (obs, other_obs), strict=True)]
            taken = own if joint else [own[j] if j == i else stored[j] for j in range(2)]
            for j in range(2) if joint else [i]:
                with torch.no_grad():
                    z = actors[j].z((obs, other_obs)[j])
                rest = [t.detach() for t in taken]

                def q(a: Tensor, i: int = i, j: int = j, rest: list[Tensor] = rest) -> Tensor:
                    return critics[i](both, torch.cat([a if k == j else rest[k] for k in range(2)], 1))

                loop.expected.append(by_hand(z, q, scaled))
            loss = -critics[i](both, torch.cat(taken, 1)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    loop = Loop(actors, critics, actor_optimizers, critic_optimizers, update, [*actors, *critics])
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
