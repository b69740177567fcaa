"""One training step of a block of runs: critic, then actors against the updated critic (SYSTEM section 3).

Shapes: r runs of the block, N agents, B samples, K offload slots; G = r for the critic, r·N for the actors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from common.agents.candidates import best_rows, candidate_rows, joint_part, personal_inputs, take_rows
from common.agents.networks import Actor, Parameters
from common.agents.reports import StepDetails, StepReport
from common.agents.stacked import StackedNetworks
from common.environment.offloading import proposes
from common.environment.records import TensorRecord, joined
from common.training.timer import PhaseTimer

PIECE_BYTES = 8 * 2**20  # weights of the actors that are stepped in one piece on the CPU
CRITIC_BYTES = 4 * 2**20  # hidden units of the critics that are stepped in one piece on the CPU
LEAST_CRITICS = 2  # the products of a lone one are computed twice (layers.stacked_product)


@dataclass(frozen=True)
class Transitions(TensorRecord):
    """B transitions of r runs: states (r, B, N, 7), actions (r, B, N, 3), slots (r, B, K), the rest (r, B)."""

    states: Tensor
    actions: Tensor
    slots: Tensor
    rewards: Tensor
    next_states: Tensor
    done: Tensor


@dataclass(frozen=True)
class StepScales:
    """Adam's bias-corrected step sizes (R,) and correction () of the present step."""

    actor: Tensor
    critic: Tensor
    correction: Tensor


def agents_first(states: Tensor) -> Tensor:
    """What each actor sees, (r·N, B, 7), of states (r, B, N, 7)."""
    return states.transpose(1, 2).flatten(0, 1)


def act(actor: Actor, p: Parameters, states: Tensor) -> tuple[Tensor, Tensor]:
    """Actions and pre-activations (r, B, N, 3) of all agents from states (r, B, N, 7); p holds (r·N, …)."""
    runs, agents = states.shape[0], states.shape[2]
    action, z = actor(p, agents_first(states))
    if action.requires_grad:
        # A lone run's gradient would arrive as a strided view, and its products would round differently.
        action.register_hook(torch.Tensor.contiguous)
    return tuple(x.unflatten(0, (runs, agents)).transpose(1, 2) for x in (action, z))


class TrainingStep:
    """The update rules; holds the networks, the run-independent constants and no other state."""

    def __init__(
        self,
        actors: StackedNetworks,
        critics: StackedNetworks,
        *,
        gamma: float,
        tau: float,
        clip_norm: float,
        sequential: bool,
        dense: bool,
        timer: PhaseTimer,
    ):
        """`dense`: see candidates.row_values; `sequential`: the published order of actor updates."""
        self.actors, self.critics = actors, critics
        self.gamma, self.tau, self.clip_norm = gamma, tau, clip_norm
        self.sequential, self.dense, self.timer = sequential, dense, timer

    def td_targets(self, runs: slice, data: Transitions) -> Tensor:
        """y = r + gamma·(1 − done)·max over proposing agents of Q'(s', mu'(s'), s'_i, mu'_i), (r, B)."""
        with torch.no_grad():
            actions = act(self.actors.network, self.actors.views(runs, target=True), data.next_states)[0]
            wanted = candidate_rows(proposes(actions))
            if not self.dense:
                wanted &= ~data.done.unsqueeze(-1)
            critic, p = self.critics.network, self.critics.views(runs, target=True)
            best, _ = best_rows(
                critic,
                p,
                joint_part(critic, p, data.next_states, actions),
                personal_inputs(data.next_states, actions),
                wanted,
                self.dense,
            )
            return torch.where(data.done, data.rewards, data.rewards + self.gamma * best)

    def stored_rows(self, p: Parameters, data: Transitions) -> tuple[Tensor, Tensor]:
        """Q of each sample's accepted agents, or of its zero row, (r, B, K), and which slots are rows."""
        agents, slots = data.states.shape[2], data.slots.shape[2]
        valid = data.slots < agents
        valid[..., 0] = True
        personal = take_rows(personal_inputs(data.states, data.actions), data.slots)
        critic = self.critics.network
        joint = joint_part(critic, p, data.states, data.actions)
        return critic.values(p, joint, personal.flatten(1, 2)).unflatten(1, (-1, slots)), valid

    def td_squares(self, runs: slice, data: Transitions) -> Tensor:
        """Sum over a sample's rows of (Q − y)^2 under the current networks, (r, B)."""
        with torch.no_grad():
            values, valid = self.stored_rows(self.critics.views(runs), data)
            errors = values - self.td_targets(runs, data).unsqueeze(-1)
            return torch.where(valid, errors.square(), 0.0).sum(-1)

    def __call__(
        self, runs: slice, data: Transitions, weights: Tensor, scales: StepScales, details: bool
    ) -> tuple[Tensor, StepReport, StepDetails | None]:
        """One training step of `runs` with importance weights (r, B).

        Returns the squared TD errors (r, B) before the step, the report and, if asked for, the details.
        """
        with self.timer.phase("critic"):
            td_squares, critic_finite, critic_details = self._critic_steps(runs, data, weights, scales, details)
        with self.timer.phase("actor"):
            self.actors.network.observe_batch(self.actors.views(runs), agents_first(data.states))
            step = self._sequential_actor_step if self.sequential else self._joint_actor_step
            report, actor_details = step(runs, data.states, weights, scales, details)
            self.actors.follow(runs, self.tau)
            self.critics.follow(runs, self.tau)
        report = StepReport(report.changed, report.unchanged, report.gradient_alive, report.finite & critic_finite)
        return td_squares, report, StepDetails(**critic_details, **actor_details) if details else None

    def _clip(self, layout_norms: Tensor, gradients: Tensor) -> Tensor:
        """Scale gradients (r, m, P) in place to the norm limit; returns each network's norm after it (r, m)."""
        norms = total_norm(layout_norms)
        factor = (self.clip_norm / (norms + 1e-6)).clamp(max=1.0)
        gradients.mul_(factor.to(gradients.dtype).unsqueeze(-1))
        return norms * factor

    def _measured(
        self, networks: StackedNetworks, gradients: Tensor, details: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Layer norms (r, m, L) and norm after clipping (r, m) of gradients, which are clipped in place."""
        if not details and not self.clip_norm:
            return None, None
        norms = networks.layout.layer_norms(gradients)
        clipped = self._clip(norms, gradients) if self.clip_norm else total_norm(norms)
        return norms, clipped

    def _critic_steps(
        self, runs: slice, data: Transitions, weights: Tensor, scales: StepScales, details: bool
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """`_critic_step` of all runs; on the CPU of a few at a time, so that hidden layers stay in cache."""
        count = runs.stop - runs.start
        hidden_bytes = data.slots[0].numel() * sum(self.critics.network.sizes[1:-1]) * weights.element_size()
        pieces = 1 if self.dense else max(1, count // max(LEAST_CRITICS, CRITIC_BYTES // hidden_bytes))
        parts = []
        for i in range(pieces):
            own = slice(count * i // pieces, count * (i + 1) // pieces)
            piece = slice(runs.start + own.start, runs.start + own.stop)
            parts.append(self._critic_step(piece, data.of(own), weights[own], scales, details))
        squares, finite, measured = zip(*parts, strict=True)
        joint = {name: torch.cat([found[name] for found in measured]) for name in measured[0]}
        return torch.cat(squares), torch.cat(finite), joint

    def _critic_step(
        self, runs: slice, data: Transitions, weights: Tensor, scales: StepScales, details: bool
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        targets = self.td_targets(runs, data).unsqueeze(-1)
        leaves, p = self.critics.leaves(runs)
        values, valid = self.stored_rows(p, data)
        weighted = weights.unsqueeze(-1) * (values - targets)
        loss = torch.where(valid, weighted.square(), 0.0).sum((1, 2)) / valid.sum((1, 2))
        gradients = torch.autograd.grad(loss.sum(), list(leaves.values()))
        flat = self.critics.layout.pack(dict(zip(leaves, gradients, strict=True)), self.critics.flat[runs])
        with torch.no_grad():
            td_squares = torch.where(valid, (values - targets).square(), 0.0).sum(-1)
            finite = torch.isfinite(loss)
            norms, clipped = self._measured(self.critics, flat, details)
            change = self.critics.step(runs, slice(None), flat, scales.critic, scales.correction, exact=details)
            finite &= torch.isfinite(change.sum((1, 2)))
            if not details:
                return td_squares, finite, {}
            return (
                td_squares,
                finite,
                {
                    "critic_gradients": norms[:, 0],
                    "critic_clipped": clipped[:, 0],
                    "critic_updates": total_norm(self.critics.layout.layer_norms(change))[:, 0],
                },
            )

    def _policy_loss(self, runs: slice, states: Tensor, actions: Tensor, weights: Tensor) -> Tensor:
        """−mean_b w_b·max over proposing agents of Q(s, a, s_j, a_j), (r,); the gradient goes through `actions`."""
        critic, p = self.critics.network, self.critics.views(runs)
        joint = joint_part(critic, p, states, actions)
        personal = personal_inputs(states, actions)
        wanted = candidate_rows(proposes(actions.detach()))
        _, rows = best_rows(critic, p, joint.detach(), personal.detach(), wanted, self.dense)
        values = critic.values(p, joint, take_rows(personal, rows.unsqueeze(-1)).squeeze(2))
        return -(weights * values).mean(1)

    def _actor_update(
        self,
        runs: slice,
        members: slice,
        gradients: Parameters,
        loss: Tensor,
        scales: StepScales,
        details: bool,
    ) -> tuple[StepReport, dict[str, Tensor]]:
        """Step actors `members` down the `gradients` of `loss` (r,)."""
        flat = self.actors.layout.pack(gradients, self.actors.flat[runs, members])
        with torch.no_grad():
            top = largest(flat)
            norms, clipped = self._measured(self.actors, flat, details)
            change = self.actors.step(runs, members, flat, scales.actor, scales.correction)
            moved = largest(change)
            changed = moved != 0
            finite = torch.isfinite(loss) & torch.isfinite(top + moved).all(-1)
            report = StepReport(changed, ~changed, top != 0, finite)
            measured = (
                {}
                if not details
                else {
                    "actor_gradients": norms,
                    "actor_clipped": clipped,
                    "actor_updates": total_norm(self.actors.layout.layer_norms(change)),
                }
            )
        return report, measured

    def _pieces(self, runs: slice, agents: int) -> list[list[tuple[slice, slice]]]:
        """Runs and agents that are stepped in one piece: all, unless their weights are too many for the cache.

        Then a piece has agents of one run, whose weights lie side by side; the inner lists make up all agents.
        """
        own = self.actors.flat[runs]
        if self.dense or own.numel() * own.element_size() <= PIECE_BYTES:
            return [[(runs, slice(0, agents))]]
        count = min(agents, -(-own[0].numel() * own.element_size() // PIECE_BYTES))
        groups = [slice(agents * i // count, agents * (i + 1) // count) for i in range(count)]
        return [[(slice(run, run + 1), group) for group in groups] for run in range(runs.start, runs.stop)]

    def _joint_actor_step(
        self, runs: slice, states: Tensor, weights: Tensor, scales: StepScales, details: bool
    ) -> tuple[StepReport, dict[str, Tensor]]:
        """One loss, every actor's gradient from the same joint policy, all stepped together."""
        extras = self._measures(runs, states) if details else {}
        pieces = self._pieces(runs, states.shape[2])

        def of(whole: Tensor, run: slice) -> Tensor:
            return whole[run.start - runs.start : run.stop - runs.start]

        def passed(run: slice, group: slice) -> tuple[Parameters, Tensor, Tensor]:
            leaves, p = self.actors.leaves(run, group)
            return leaves, *act(self.actors.network, p, of(states, run)[:, :, group])

        passes = [[passed(*piece) for piece in row] for row in pieces]

        def all_of(which: int) -> Tensor:
            return torch.cat([torch.cat([done[which].detach() for done in row], dim=2) for row in passes])

        actions, z = all_of(1).requires_grad_(), all_of(2) if details else None
        loss = self._policy_loss(runs, states, actions, weights)
        (slope,) = torch.autograd.grad(loss.sum(), [actions])
        rows = []
        for row in pieces:
            done, parts = passes.pop(0), []
            for run, group in row:
                leaves, own, _ = done.pop(0)  # each pass is forgotten when it is done
                gradients = torch.autograd.grad(own, list(leaves.values()), of(slope, run)[:, :, group])
                named = dict(zip(leaves, gradients, strict=True))
                parts.append(self._actor_update(run, group, named, of(loss.detach(), run), scales, details))
            rows.append(members_joined(parts))
        report = joined([report for report, _ in rows])
        measured = {name: torch.cat([own[name] for _, own in rows]) for name in rows[0][1]}
        if details:
            measured |= batch_details(states, actions, z, slope, weights, extras)
        return report, measured

    def _sequential_actor_step(
        self, runs: slice, states: Tensor, weights: Tensor, scales: StepScales, details: bool
    ) -> tuple[StepReport, dict[str, Tensor]]:
        """Agents 0 … N−1 in turn, each against the actors already stepped."""
        with torch.no_grad():
            actions, z = act(self.actors.network, self.actors.views(runs), states)
            extras = self._measures(runs, states) if details else {}
        before, slopes, parts = actions, [], []
        for agent in range(states.shape[2]):
            one = slice(agent, agent + 1)
            leaves, p = self.actors.leaves(runs, one)
            own, _ = act(self.actors.network, p, states[:, :, one])
            policy = torch.cat((actions[:, :, :agent], own, actions[:, :, agent + 1 :]), dim=2)
            loss = self._policy_loss(runs, states, policy, weights)
            *gradients, slope = torch.autograd.grad(loss.sum(), [*leaves.values(), own])
            named = dict(zip(leaves, gradients, strict=True))
            parts.append(self._actor_update(runs, one, named, loss.detach(), scales, details))
            with torch.no_grad():
                moved = act(self.actors.network, self.actors.views(runs, one), states[:, :, one])[0]
                actions = torch.cat((actions[:, :, :agent], moved, actions[:, :, agent + 1 :]), dim=2)
            slopes.append(slope)
        report, measured = members_joined(parts)
        if details:
            measured |= batch_details(states, before, z, torch.cat(slopes, dim=2), weights, extras)
        return report, measured

    def _measures(self, runs: slice, states: Tensor) -> dict[str, Tensor]:
        """The actor variant's own measures of the batch, (r, N, …) each, before the step."""
        with torch.no_grad():
            found = self.actors.network.measures(self.actors.views(runs), agents_first(states))
            return {name: value.unflatten(0, (states.shape[0], -1)).clone() for name, value in found.items()}


def members_joined(parts: list[tuple[StepReport, dict[str, Tensor]]]) -> tuple[StepReport, dict[str, Tensor]]:
    """One report, and one set of measures, of all agents from those of consecutive agents."""
    reports, measures = zip(*parts, strict=True)
    report = StepReport(
        *(torch.cat([getattr(r, name) for r in reports], dim=1) for name in ("changed", "unchanged", "gradient_alive")),
        torch.stack([r.finite for r in reports]).all(0),
    )
    return report, {name: torch.cat([m[name] for m in measures], dim=1) for name in measures[0]}


def largest(numbers: Tensor) -> Tensor:
    """Largest absolute value of each network's numbers (r, m, P) -> (r, m); NaN where there is one."""
    return torch.maximum(numbers.amax(-1), -numbers.amin(-1))  # faster than aminmax, and than abs with its copy


def total_norm(layer_norms: Tensor) -> Tensor:
    """L2 norm over the layers, (…, L) -> (…)."""
    return layer_norms.square().sum(-1).sqrt()


def batch_details(
    states: Tensor, actions: Tensor, z: Tensor, slope: Tensor, weights: Tensor, extras: dict[str, Tensor]
) -> dict[str, Tensor | dict[str, Tensor]]:
    """The batch as the actors saw it, and mean |dQ/da| from d loss / da = −(w/B)·dQ/da, both (r, B, N, 3)."""
    slope_per_sample = slope.detach().double().abs().sum((2, 3)) * (slope.shape[1] / weights.double())
    count = slope.shape[1] * slope.shape[2] * slope.shape[3]
    return {
        "action_slope": slope_per_sample.sum(1) / count,
        "states": states,
        "actions": actions.detach(),
        "pre_activations": z.detach(),
        "extras": extras,
    }
