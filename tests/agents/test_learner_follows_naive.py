"""The fast learner against the naive one: the same weights, returns and priorities, episode after episode.

Two runs with seeds and learning rates of their own train in one learner; each must follow a naive run that
starts from the same weights and sees the same draws. Every experiment's networks are followed like the baseline's.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from agents.plain_networks import by_kind, plain_networks
from common.agents.stacked import StackedNetworks
from helpers import Weights, actor_weights, critic_weights, experiments, make_learner, variant
from reference.naive_learner import NaiveNetwork, NaiveRun, weights_of

from common.agents.learner import Learner
from common.agents.reports import RunKey, StepDetails

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


class CountingRun(NaiveRun):
    """A naive run that counts how often the master had to rank."""

    rankings = 0

    def decide(self, state: np.ndarray, action: np.ndarray, random_order: np.ndarray | None) -> np.ndarray:
        accepted = super().decide(state, action, random_order)
        self.rankings += random_order is None and accepted.sum() < (action[:, 0] >= 0).sum()
        return accepted


def all_options(case: Case) -> dict[str, object]:
    return SMALL | variant(case.experiment) | case.options


def fast_learner(case: Case) -> Learner:
    learner = make_learner(
        KEYS, case.dense, env=case.env, agents=case.agents, channels=case.channels, batch_size=case.batch, tau=case.tau,
        actor_update=case.actor_update, dtype="float64", episodes=200, eval_episodes=1, **all_options(case),
    )  # fmt: skip
    for target in (False, True):
        # Without a separate target both views are the same numbers, which must be moved once.
        if not target or learner.actors.target is not None:
            learner.actors.views(slice(None), target=target)["fc3.bias"][:, 0] += case.bias
    learner.episode = case.start
    return learner


def naive_runs(case: Case, learner: Learner) -> list[CountingRun]:
    runs, options = [], all_options(case)
    del options["actor_class"], options["critic_class"]
    actor_network, critic_network = plain_networks(case.experiment)
    for run, key in enumerate(KEYS):
        actors = actor_weights(learner, run)
        runs.append(
            CountingRun(
                preset=case.env, seed=key.seed, agents=case.agents, channels=case.channels, batch_size=case.batch,
                actor_lr=key.actor_lr, critic_lr=key.critic_lr, actor_update=case.actor_update, tau=case.tau,
                actor_weights=[{name: actors[name][i] for name in actors} for i in range(case.agents)],
                critic_weights=critic_weights(learner, run), actor_network=actor_network,
                critic_network=critic_network, **options,
            )
        )  # fmt: skip
    return runs


def close(actual: np.ndarray, expected: np.ndarray, rtol: float, atol: float, what: str) -> None:
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol, err_msg=what)


def close_weights(actual: Weights, expected: Weights, what: str) -> None:
    """Equal to 1e-7; weights are of size 1e-1 and steps of 1e-3 or 1e-2, so 1e-10 only excuses those near zero."""
    assert actual.keys() == expected.keys()
    for name in expected:
        close(actual[name], expected[name], 1e-7, 1e-10, f"{what} {name}")


def stacked(weights: list[Weights]) -> Weights:
    return {name: np.stack([w[name] for w in weights]) for name in weights[0]}


def compare_weights(learner: Learner, run: int, naive: NaiveRun) -> None:
    close_weights(actor_weights(learner, run), stacked(naive.actor_weights()), "actor")
    close_weights(critic_weights(learner, run), naive.critic_weights(), "critic")
    target = stacked([weights_of(actor) for actor in naive.target_actors])
    close_weights(actor_weights(learner, run, target=True), target, "target actor")
    close_weights(critic_weights(learner, run, target=True), weights_of(naive.target_critic), "target critic")


def compare_statistics(networks: StackedNetworks, run: int, naive: list[NaiveNetwork]) -> None:
    """What networks have observed, each against the buffers of a naive one."""
    for member, net in enumerate(naive):
        views = networks.views(slice(run, run + 1), slice(member, member + 1))
        mine = by_kind((spec.name, views[spec.name][0]) for spec in networks.network.statistics.specs)
        its = by_kind(net.named_buffers())
        assert mine.keys() == its.keys()
        for kind in its:
            close(mine[kind].numpy(), its[kind].numpy(), 1e-8, 1e-12, f"{kind} of {networks.network.name} {member}")


def compare_gradients(learner: Learner, details: StepDetails, run: int, naive: NaiveRun) -> None:
    """Gradient norms by layer before clipping, as logged, against those of the naive run's last step."""
    report = naive.last_reports[-1]
    gradients, critic = stacked(report["actor_gradients"]), report["critic_gradient"]
    for i, layer in enumerate(learner.actors.layout.layers):
        flat = [gradients[f"{layer}.{kind}"].reshape(naive.agents, -1) for kind in ("weight", "bias")]
        norms = np.linalg.norm(np.concatenate(flat, axis=1), axis=1)
        close(details.actor_gradients[run, :, i].numpy(), norms, 1e-6, 1e-15, f"gradient of actor layer {layer}")
    for i, layer in enumerate(learner.critics.layout.layers):
        norm = np.linalg.norm(np.concatenate([critic[f"{layer}.{kind}"].ravel() for kind in ("weight", "bias")]))
        close(details.critic_gradients[run, i].numpy(), norm, 1e-6, 0, f"gradient of critic layer {layer}")


def stored_priorities(learner: Learner, run: int) -> np.ndarray:
    return learner.replay.priorities[run][learner.replay.priorities[run] > 0].numpy()


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", [*CASES, *VARIANTS])
def test_follows_the_naive_learner(name: str) -> None:
    case = (CASES | VARIANTS)[name]
    learner = fast_learner(case)
    naive = naive_runs(case, learner)
    initial = [actor_weights(learner, run) for run in range(len(KEYS))]
    proposed, clipped = [], []
    for episode in range(case.start + 1, case.start + case.episodes + 1):
        report = learner.train_episode(details=True)
        for run, reference in enumerate(naive):
            expected = reference.episode(episode)
            close(report.training_return[run].item(), expected, 1e-9, 0, f"return of run {run}, episode {episode}")
            compare_weights(learner, run, reference)
            compare_statistics(learner.actors, run, reference.actors)
            compare_statistics(learner.critics, run, [reference.critic])
            close(stored_priorities(learner, run), reference.priorities, 1e-6, 0, "priorities")
            if report.details is not None:
                compare_gradients(learner, report.details, run, reference)
        if report.details is not None:
            proposed.append(report.details.actions[..., 0] >= 0)
            clipped.append([
                (report.details.critic_clipped < 0.999 * report.details.critic_gradients.norm(dim=-1)).any().item(),
                (report.details.actor_clipped < 0.999 * report.details.actor_gradients.norm(dim=-1)).any().item(),
            ])

    for run, before in enumerate(initial):
        for parameter, values in actor_weights(learner, run).items():
            assert (values != before[parameter]).reshape(case.agents, -1).any(1).all(), f"{parameter} never changed"
    if name in CASES:
        data_has_what_its_case_says(case, torch.stack(proposed), np.array(clipped), naive)


def data_has_what_its_case_says(
    case: Case, proposed: torch.Tensor, clipped: np.ndarray, naive: list[CountingRun]
) -> None:
    """The situations that a case is there for did occur; proposed (episodes, R, B, N), clipped (episodes, 2)."""
    anybody = proposed.any(-1)
    empty_rows = [sum(not transition.accepted.any() for transition in run.replay) for run in naive]
    if case.bias < 0:
        assert (~anybody).any() and anybody.any()
        assert min(empty_rows) > 0
    if case.bias > 0:
        assert proposed.all(-1).any() and max(empty_rows) == 0
        assert min(run.rankings for run in naive) > 20
    assert (clipped.any(0) == ("clip_norm" in case.options)).all(), "clipping of critic and actors"
    if "replay_capacity" in case.options:
        assert all(run.stored > len(run.replay) == 50 for run in naive)
