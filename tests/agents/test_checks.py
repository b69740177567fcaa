"""What an experiment's own networks and rules may do, and what is refused in one line before training.

More of what is refused, as a command line shows it: tests/study/test_command_line.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import make_learner
from torch import Tensor, nn

from common.agents.algorithm import Algorithm
from common.agents.checks import check_parts
from common.agents.learner import Learner
from common.agents.networks import Actor, Critic
from common.agents.optimizer import Adam
from common.agents.reports import RunKey
from common.config import ConfigError, StudyConfig
from common.experiment import Experiment

KEYS = [RunKey(1, 1e-3, 1e-3), RunKey(2, 1e-3, 1e-3)]
SMALL = {"agents": 10, "batch_size": 8, "episodes": 30, "critic_hidden": (16, 8)}


def learner_with(actor_update: str = "joint", **parts: object) -> Learner:
    return make_learner(KEYS, experiment=Experiment("own", "", **parts), actor_update=actor_update, **SMALL)


class ReboundActor(Actor):
    def __init__(self, config: StudyConfig):
        super().__init__(config)
        self.register_buffer("low", torch.zeros(3))

    def observe(self, state: Tensor) -> None:
        self.low = torch.minimum(self.low, super().forward(state).amin(0))


class DropoutCritic(Critic):
    def activation(self, x: Tensor, layer: int) -> Tensor:
        return nn.functional.dropout(super().activation(x, layer))


class StandardisingActor(Actor):
    def forward(self, state: Tensor) -> Tensor:
        z = super().forward(state)
        return (z - z.mean(0)) / z.std(0, correction=0)


class LearnedSquashActor(Actor):
    def __init__(self, config: StudyConfig):
        super().__init__(config)
        self.slope = nn.Parameter(torch.ones(3))

    def squash(self, z: Tensor) -> Tensor:
        return torch.tanh(self.slope * z)


class RememberingRule(Algorithm):
    largest = 1.0

    def reward(self, run_state: dict, rewards: Tensor) -> Tensor:
        self.largest = torch.maximum(torch.as_tensor(self.largest), rewards.abs().amax())
        return rewards / self.largest


class MixingRule(Algorithm):
    """With a sum that should be over the batch of each run, and is over all runs."""

    def actor_loss(self, z: Tensor, actions: Tensor, q: Tensor, weights: Tensor) -> Tensor:
        return super().actor_loss(z, actions, q, weights) + z.square().sum()


class DetachedActor(Actor):
    def forward(self, state: Tensor) -> Tensor:
        return super().forward(state).detach()


class LargestStateActor(Actor):
    """Observes into a tensor that is no buffer, so that every agent of every run would share it."""

    def __init__(self, config: StudyConfig):
        super().__init__(config)
        self.seen = torch.zeros(7)

    def observe(self, state: Tensor) -> None:
        self.seen.copy_(torch.maximum(self.seen, state[0]))


class CountingActor(Actor):
    def __init__(self, config: StudyConfig):
        super().__init__(config)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, state: Tensor) -> Tensor:
        self.calls.add_(1.0)
        return super().forward(state)


class BatchNormCritic(Critic):
    def joint(self, states: Tensor, actions: Tensor) -> Tensor:
        x = super().joint(states, actions)
        return (x - x.mean(0)) / (x.std(0, correction=0) + 1.0)


class NumpyDropoutCritic(Critic):
    def joint(self, states: Tensor, actions: Tensor) -> Tensor:
        return super().joint(states, actions) * float(np.random.rand() > 0.1)


class DividingRule(Algorithm):
    def critic_loss(self, q: Tensor, y: Tensor, weights: Tensor, valid: Tensor) -> Tensor:
        return super().critic_loss(q, y, weights, valid) * torch.nan


class ShrinkingRule(Algorithm):
    def run_state(self) -> dict[str, float]:
        return {"scale": 1.0}

    def reward(self, run_state: dict, rewards: Tensor) -> Tensor:
        return rewards * run_state["scale"].mul_(0.9)[:, None]


class AlternatingRule(Algorithm):
    calls = 0

    def actor_due(self, update: int) -> bool:
        self.calls += 1
        return self.calls % 2 == 0


class NoisyTargets(Algorithm):
    target_noises = True


class SlippedAdam(Adam):
    def chnage(self, *given: object) -> Tensor:
        return super().change(*given)


class AveragingAdam(Adam):
    def change(self, *given: object) -> Tensor:
        return super().change(*given).mean(-1, keepdim=True)


class FlatAdam(Adam):
    def scales(self, learning_rates: Tensor, steps: int) -> Tensor:
        return learning_rates


class CountingAdam(Adam):
    steps = 0

    def change(self, *given: object) -> Tensor:
        self.steps += 1
        return super().change(*given) / self.steps


class CommonNormAdam(Adam):
    def change(self, *given: object) -> Tensor:
        change = super().change(*given)
        return change / change.norm()


def with_optimizer(own: type[Adam]) -> type[Algorithm]:
    return type("Own", (Algorithm,), {"actor_optimizer": lambda self, layers: own(layers)})


def refusal(**parts: object) -> str:
    with pytest.raises(ConfigError) as caught:
        check_parts(Experiment("mistaken", "", **parts), StudyConfig(**SMALL))
    line = str(caught.value)
    assert ("allowed" in line or "did you mean" in line) and "\n" not in line
    return line


@pytest.mark.parametrize(
    ("part", "own", "named"),
    [
        ("actor", ReboundActor, "ReboundActor.low"),
        ("critic", DropoutCritic, "DropoutCritic.values draws"),
        ("actor", StandardisingActor, "StandardisingActor.forward mixes states"),
        ("actor", DetachedActor, "DetachedActor.forward gives no gradient"),
        ("actor", LargestStateActor, "LargestStateActor.seen"),
        ("actor", CountingActor, "CountingActor.forward changes the buffer calls"),
        ("critic", BatchNormCritic, "BatchNormCritic.joint mixes samples"),
        ("critic", NumpyDropoutCritic, "NumpyDropoutCritic.joint draws"),
        ("actor", LearnedSquashActor, "LearnedSquashActor.squash"),
        ("algorithm", RememberingRule, "RememberingRule.largest"),
        ("algorithm", MixingRule, "MixingRule.actor_loss mixes runs"),
        ("algorithm", DividingRule, "DividingRule.critic_loss gives inf or nan"),
        ("algorithm", ShrinkingRule, "ShrinkingRule.reward changes run_state"),
        ("algorithm", AlternatingRule, "AlternatingRule.calls"),
        ("algorithm", NoisyTargets, "did you mean target_noise?"),
        ("algorithm", with_optimizer(SlippedAdam), "SlippedAdam.chnage"),
        ("algorithm", with_optimizer(AveragingAdam), "AveragingAdam.change gives"),
        ("algorithm", with_optimizer(CountingAdam), "CountingAdam.steps"),
        ("algorithm", with_optimizer(FlatAdam), "FlatAdam.scales gives (2,)"),
        ("algorithm", with_optimizer(CommonNormAdam), "CommonNormAdam.change mixes networks"),
    ],
)
def test_refused(part: str, own: type, named: str) -> None:
    assert named in refusal(**{part: own})


WRONG_TENSORS = {
    # What the line says -> what is done to an actor.
    "Actor.fc1.weight has requires_grad=False": lambda actor: actor.fc1.requires_grad_(False),
    "Actor.fc3.bias is fc2.bias as well": lambda actor: setattr(actor.fc3, "bias", actor.fc2.bias),
    "Actor.seen has torch.bool": lambda actor: actor.register_buffer("seen", torch.tensor(True)),
    "Actor.seen is not persistent": lambda actor: actor.register_buffer("seen", torch.ones(1), persistent=False),
}


@pytest.mark.parametrize("named", WRONG_TENSORS)
def test_tensors_that_the_engine_cannot_keep(named: str) -> None:
    def made(config: StudyConfig) -> Actor:
        actor = Actor(config)
        WRONG_TENSORS[named](actor)
        return actor

    assert named in refusal(actor=made)


class OwnStartActor(Actor):
    """A start of its own, by every usual way of writing it; `bound` means nothing to anybody else."""

    def __init__(self, config: StudyConfig):
        super().__init__(config)
        nn.init.zeros_(self.fc1.bias)
        self.fc2.weight.data.mul_(0.5)
        self.fc3.weight = nn.Parameter(torch.full_like(self.fc3.weight, 0.25))
        self.gain = nn.LayerNorm(3)
        self.gain.bound = 5.0
        self.head = nn.Linear(3, 3)
        self.head.weight.data.copy_(torch.eye(3))


def test_a_start_of_its_own_is_kept() -> None:
    own, plain = (learner_with(actor=actor).actors.tensors(slice(None)) for actor in (OwnStartActor, None))
    assert (own["fc1.bias"] == 0).all() and (own["fc3.weight"] == 0.25).all()
    assert (own["gain.weight"] == 1).all() and (own["head.weight"] == torch.eye(3)).all()
    assert own["fc2.weight"].abs().max() <= 0.5 / 8 and len(own["fc2.weight"].unique()) > 10_000
    for name in ("fc1.weight", "fc2.bias", "fc3.bias"):
        assert torch.equal(own[name], plain[name]), name


class UnusedActor(Actor):
    def __init__(self, config: StudyConfig):
        super().__init__(config)
        self.unused = nn.Linear(4, 4)


class UnusedCritic(Critic):
    def __init__(self, config: StudyConfig):
        super().__init__(config)
        self.unused = nn.Parameter(torch.ones(3))


@pytest.mark.parametrize("mode", ["joint", "sequential"])
def test_a_parameter_that_nobody_uses_stands_still(mode: str) -> None:
    parts = {"actor": UnusedActor, "critic": UnusedCritic}
    check_parts(Experiment("unused", "", **parts), StudyConfig(**SMALL))
    learner = learner_with(actor_update=mode, **parts)
    before = learner.actors.tensors(slice(None))["unused.weight"].clone()
    for _ in range(2):
        report = learner.train_episode(details=True)
    assert torch.equal(learner.actors.tensors(slice(None))["unused.weight"], before)
    assert (learner.critics.tensors(slice(None))["unused"] == 1).all() and report.step.changed.all()


class Untouched(Algorithm):
    """No step is due, and the loss is 0 whatever the errors are."""

    def critic_loss(self, q: Tensor, y: Tensor, weights: Tensor, valid: Tensor) -> Tensor:
        return 0.0 * q.nan_to_num(0.0, 0.0, 0.0).sum((1, 2, 3))

    def critic_due(self, update: int) -> bool:
        return False

    actor_due = critic_due


def test_a_run_whose_errors_are_no_numbers_has_diverged() -> None:
    learner = learner_with(algorithm=Untouched)
    for _ in range(2):
        report = learner.train_episode()
    assert report.step.finite.all()
    learner.critics.tensors(slice(1, 2))["fc3.bias"].fill_(torch.nan)
    assert learner.train_episode().step.finite.tolist() == [True, False]
