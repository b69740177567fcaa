"""The fast learner against the naive one: the same weights, returns and priorities, episode after episode.

Two runs with seeds and learning rates of their own train in one learner; each must follow a naive run that starts from
the same weights and sees the same draws. Every experiment is followed like the baseline, also one written tomorrow:
both learners run its own modules and rules.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from helpers import experiments, make_learner, start_of
from reference.naive_learner import NaiveRun
from training.variants import DELAYED

from common.agents.bank import Bank
from common.agents.learner import Learner
from common.agents.reports import RunKey, StepDetails
from common.experiment import Experiment

KEYS = [RunKey(42, 1e-3, 1e-2), RunKey(43, 1e-2, 1e-3)]
AGENTS, BATCH, EPISODES = 12, 8, 21
SMALL = {"actor_hidden": (16, 8), "critic_hidden": (32, 16)}
LATE = 3000  # episodes before the first one: epsilon falls to 0.23, so that the master ranks more often than not


@dataclass(frozen=True)
class Case:
    """One way of training; `bias` is added to the first output's bias of every actor at the start."""

    actor_update: str
    tau: float
    dense: bool
    env: str
    channels: int
    bias: float = 0.0
    start: int = 0
    agents: int = AGENTS
    batch: int = BATCH
    episodes: int = EPISODES
    experiment: str = "baseline"
    options: dict[str, object] = dataclasses.field(default_factory=dict)


CASES = {
    "joint, full width": Case(
        "joint", 1.0, False, "scaled", 10, options={"actor_hidden": (64, 32), "critic_hidden": (512, 128)}
    ),
    "joint, dense, everybody proposes": Case("joint", 1.0, True, "thesis", 4, bias=4.0, start=LATE),
    "joint, soft target, few propose": Case("joint", 0.3, False, "interior", 4, bias=-1.0, start=LATE),
    "joint, soft target, dense, few propose": Case("joint", 0.3, True, "thesis", 10, bias=-1.0, start=LATE),
    "joint, clipped, two updates, ring of 50": Case(
        "joint", 1.0, False, "interior", 10, start=LATE,
        options={"clip_norm": 0.02, "updates_per_episode": 2, "replay_capacity": 50},
    ),
    "sequential, gamma 0.8": Case(
        "sequential", 1.0, False, "thesis", 10, start=LATE, options={"gamma": 0.8}
    ),
    "sequential, dense, few propose": Case("sequential", 1.0, True, "interior", 10, bias=-1.0, start=LATE),
    "sequential, soft target, everybody proposes": Case("sequential", 0.3, False, "scaled", 4, bias=4.0, start=LATE),
    "sequential, soft target, dense": Case("sequential", 0.3, True, "interior", 10),
    "joint, one agent, batch of one": Case("joint", 1.0, False, "interior", 1, start=LATE, agents=1, batch=1),
    "sequential, dense, one agent, batch of one": Case("sequential", 0.3, True, "thesis", 1, agents=1, batch=1),
}  # fmt: skip

SHORT = {"start": LATE, "agents": 5, "batch": 4, "episodes": 6}
VARIANTS = {
    **{f"{name}, joint": Case("joint", 1.0, False, "scaled", 3, experiment=name, **SHORT) for name in experiments()},
    **{
        f"{name}, joint, soft target, dense": Case("joint", 0.3, True, "interior", 2, experiment=name, **SHORT)
        for name in experiments()
    },
    **{
        f"{name}, sequential": Case("sequential", tau, dense, "thesis", 3, experiment=name, **SHORT)
        for name, tau, dense in (("fullnorm", 1.0, True), ("adaptive_scaling", 0.3, False), ("layernorm", 1.0, False))
    },
    "adaptive_scaling, two updates": Case(
        "joint", 1.0, False, "interior", 3, experiment="adaptive_scaling", **SHORT, options={"updates_per_episode": 2}
    ),
}


def fast_learner(case: Case, experiment: Experiment) -> Learner:
    learner = make_learner(
        KEYS, case.dense, experiment, env=case.env, agents=case.agents, channels=case.channels,
        batch_size=case.batch, tau=case.tau, actor_update=case.actor_update, dtype="float64", episodes=200,
        eval_episodes=1, **SMALL | case.options,
    )  # fmt: skip
    for target in (False, True)[: 1 if learner.actors.target is None else 2]:
        learner.actors.tensors(slice(None), target=target)["fc3.bias"][:, 0] += case.bias
    learner.episode = case.start
    return learner


def close(actual: object, expected: object, rtol: float, atol: float, what: str) -> None:
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol, err_msg=what)


def compare_networks(bank: Bank, run: int, online: list[torch.nn.Module], target: list[torch.nn.Module]) -> None:
    """Weights, and what was observed; weights are of size 1e-1, so the absolute bound only excuses those near zero."""
    for naive, is_target in ((online, False), (target, True)):
        mine = bank.tensors(slice(run, run + 1), target=is_target)
        for member, net in enumerate(naive):
            its = net.state_dict()
            assert mine.keys() == its.keys()
            for name, x in its.items():
                close(mine[name][member], x, 1e-7, 1e-10, f"{name} of {type(net).__name__} {member}")


def layer_norms(gradient: dict[str, torch.Tensor]) -> np.ndarray:
    """L2 norms of the layers' gradients, in order."""
    layers: dict[str, list[torch.Tensor]] = {}
    for name, x in gradient.items():
        layers.setdefault(name.rpartition(".")[0] or name, []).append(x.reshape(-1))
    return np.array([torch.cat(parts).norm().item() for parts in layers.values()])


@pytest.mark.parametrize("name", [*CASES, *VARIANTS])
def test_follows_the_naive_learner(name: str) -> None:
    case = (CASES | VARIANTS)[name]
    follow(case, experiments()[case.experiment], name in CASES)


@pytest.mark.parametrize("mode", ["joint", "sequential"])
def test_follows_where_steps_are_not_due(mode: str) -> None:
    """Adam corrects for the steps that were made, not for those that might have been."""
    follow(Case(mode, 0.3, False, "interior", 3, **SHORT), DELAYED)


def follow(case: Case, experiment: Experiment, rich: bool = False) -> None:
    """Train both side by side; `rich` asks for the situations that the case is there for."""
    learner = fast_learner(case, experiment)
    naive = [NaiveRun(experiment, learner.config, key, start_of(learner, run)) for run, key in enumerate(KEYS)]
    initial = {name: x.clone() for name, x in learner.actors.tensors(slice(None)).items()}
    logged: list[StepDetails] = []
    for episode in range(case.start + 1, case.start + case.episodes + 1):
        report = learner.train_episode(details=True)
        logged += [report.details] if report.details else []
        for run, reference in enumerate(naive):
            expected = reference.episode(episode)
            close(report.training_return[run], expected, 1e-9, 0, f"return of run {run}, episode {episode}")
            compare_networks(learner.actors, run, reference.actors, reference.target_actors)
            compare_networks(learner.critics, run, [reference.critic], [reference.target_critic])
            for kind, x in reference.run_state.items():
                close(learner.run_state[kind][run], x[0], 1e-9, 0, kind)
            stored = learner.replay.priorities[run]
            close(stored[stored > 0], reference.priorities, 1e-6, 0, "priorities")
            # Gradients before clipping, as logged, of steps that were due.
            its = reference.last_report
            for agent, gradient in enumerate(its.get("actor_gradients", ())):
                mine = report.details.actor_gradients[run, agent]
                close(mine, layer_norms(gradient), 1e-6, 1e-15, f"gradient of actor {agent}")
            if "critic_gradient" in its:
                close(
                    report.details.critic_gradients[run], layer_norms(its["critic_gradient"]), 1e-6, 0, "of the critic"
                )

    for name in learner.actors.layout.shapes:
        moved = learner.actors.tensors(slice(None))[name] != initial[name]
        assert moved.flatten(1).any(1).all(), f"{name} never changed"
    if rich:
        data_has_what_its_case_says(case, logged, naive)


def data_has_what_its_case_says(case: Case, logged: list[StepDetails], naive: list[NaiveRun]) -> None:
    """The situations that a case is there for did occur."""
    proposed = torch.stack([details.actions[..., 0] >= 0 for details in logged])
    empty_rows = [sum(not transition.accepted.any() for transition in run.replay) for run in naive]
    if case.bias < 0:
        assert proposed.any() and not proposed.any(-1).all() and min(empty_rows) > 0
    if case.bias > 0:
        assert proposed.all(-1).any() and max(empty_rows) == 0 and case.channels < case.agents, "the master ranks"
    for kind in ("critic", "actor"):
        pairs = [(getattr(own, f"{kind}_clipped"), getattr(own, f"{kind}_gradients").norm(dim=-1)) for own in logged]
        assert any((after < 0.999 * before).any() for after, before in pairs) == ("clip_norm" in case.options), kind
    if "replay_capacity" in case.options:
        assert all(run.stored > len(run.replay) == 50 for run in naive)
