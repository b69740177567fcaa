"""One training step: the critic, then the actors against the updated critic (docs/algorithm.md, "Updates").

Shapes: r runs, N agents, B samples, K offload slots, H heads of the critic, P numbers of a network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from types import MappingProxyType

import torch
from torch import Tensor

from common.agents.algorithm import Algorithm
from common.agents.bank import Bank
from common.agents.critic_rows import candidate_rows, joint_share, personal_inputs, row_values, take_rows
from common.agents.inputs import Due
from common.agents.layout import Tensors
from common.agents.networks import Actor
from common.agents.replay import Batch
from common.agents.reports import StepReport
from common.config import StudyConfig
from common.environment.offloading import proposes


def agents_first(states: Tensor) -> Tensor:
    """What each actor sees, (r·N, B, 7), of states (r, B, N, 7)."""
    return states.transpose(1, 2).flatten(0, 1)


class Update:
    """The training step of some runs; holds the networks and no other state."""

    def __init__(
        self, config: StudyConfig, actors: Bank, critics: Bank, algorithm: Algorithm, run_state: Tensors, dense: bool
    ):
        """run_state (R,) each: what the algorithm remembers; dense: see `critic_rows.row_values`."""
        self.actors, self.critics, self.algorithm, self.run_state = actors, critics, algorithm, run_state
        self.clip_norm, self.sequential, self.dense = config.clip_norm, config.actor_update == "sequential", dense

    def act(self, p: Tensors, states: Tensor) -> tuple[Tensor, Tensor]:
        """Pre-activations z and actions (r, B, n, 3) of n agents from states (r, B, n, 7); p holds (r·n, …)."""
        z = self.actors.call("forward", p, agents_first(states))
        if z.requires_grad:
            # A lone run's gradient would arrive as a strided view, and its products would round differently.
            z.register_hook(torch.Tensor.contiguous)
        z = z.unflatten(0, (states.shape[0], -1)).transpose(1, 2)
        return z, self.actors.module.squash(z)

    def remembered(self, runs: slice) -> Mapping[str, Tensor]:
        """What the algorithm remembers of `runs`, as views: to be changed in place, and only so."""
        return MappingProxyType({name: x[runs] for name, x in self.run_state.items()})

    def _values(self, p: Tensors, states: Tensor, actions: Tensor, wanted: Tensor, target: bool = False) -> Tensor:
        """Q of the wanted rows (r, B, N + 1), -inf elsewhere, without gradient."""
        value = self.algorithm.target_value if target else self.algorithm.value
        joint = joint_share(self.critics, p, states, actions)
        return row_values(self.critics, p, joint, personal_inputs(states, actions), wanted, value, self.dense)

    @torch.no_grad()
    def scores(self, runs: slice, states: Tensor, actions: Tensor, wanted: Tensor) -> Tensor:
        """The master's score Q(s, a, s_i, a_i) of every wanted agent (r, B, N) of `runs`, -inf elsewhere."""
        rows = torch.nn.functional.pad(wanted, (0, 1))
        return self._values(self.critics.tensors(runs), states, actions, rows)[..., :-1]

    @torch.no_grad()
    def td_target(self, runs: slice, batch: Batch) -> Tensor:
        """y (r, B): the reward and the discounted best value over the agents that propose in the next state."""
        z, actions = self.act(self.actors.tensors(runs, target=True), batch.next_states)
        actions = self.algorithm.target_action(actions, z, batch.target_noise)
        wanted = candidate_rows(proposes(actions))
        if not self.dense:
            wanted &= ~batch.done.unsqueeze(-1)
        p = self.critics.tensors(runs, target=True)
        best = self._values(p, batch.next_states, actions, wanted, target=True).amax(-1)
        best = best.masked_fill(batch.done, 0.0)
        seen = self.algorithm.reward(self.remembered(runs), batch.rewards)
        return self.algorithm.td_target(seen.to(best.dtype), batch.done, best)

    def stored_rows(self, p: Tensors, batch: Batch) -> tuple[Tensor, Tensor]:
        """Q of each sample's accepted agents, or of its zero row, (r, B, K, H), and which slots are rows (r, B, K)."""
        valid = batch.slots < batch.states.shape[2]
        valid[..., 0] = True
        personal = take_rows(personal_inputs(batch.states, batch.actions), batch.slots)
        joint = joint_share(self.critics, p, batch.states, batch.actions)
        return self.critics.call("values", p, joint.unsqueeze(2), personal), valid

    def _td_squares(self, q: Tensor, y: Tensor, valid: Tensor) -> Tensor:
        return torch.where(valid, (self.algorithm.value(q) - y.unsqueeze(-1)).square(), 0.0).sum(-1)

    @torch.no_grad()
    def td_squares(self, runs: slice, batch: Batch) -> Tensor:
        """Sum over a sample's rows of (Q − y)² under the current networks, (r, B)."""
        q, valid = self.stored_rows(self.critics.tensors(runs), batch)
        return self._td_squares(q, self.td_target(runs, batch), valid)

    def critic_step(
        self, runs: slice, batch: Batch, weights: Tensor, scales: Tensor, due: bool, details: bool
    ) -> tuple[Tensor, Tensor, Tensors]:
        """Step the critics of `runs`, where due, with importance weights (r, B) and optimiser scales (R, k).

        Returns the squared TD errors (r, B) before the step, whether all is finite (r,), and what is logged.
        """
        y = self.td_target(runs, batch)
        if not self.critics.one_by_one:
            return self._critic_step(runs, batch, y, weights, scales, due, details)
        parts = []
        for i in range(runs.stop - runs.start):  # a run's rows stay in cache from its forward to its backward pass
            run, own = slice(runs.start + i, runs.start + i + 1), slice(i, i + 1)
            parts.append(self._critic_step(run, batch.of(own), y[own], weights[own], scales, due, details))
        squares, finite, measured = zip(*parts, strict=True)
        logged = {name: torch.cat([own[name] for own in measured]) for name in measured[0]}
        return torch.cat(squares), torch.cat(finite), logged

    def _critic_step(
        self, runs: slice, batch: Batch, y: Tensor, weights: Tensor, scales: Tensor, due: bool, details: bool
    ) -> tuple[Tensor, Tensor, Tensors]:
        leaves, p = self.critics.leaves(runs)
        q, valid = self.stored_rows(p, batch)
        loss = self.algorithm.critic_loss(q, y, weights, valid)
        with torch.no_grad():
            squares = self._td_squares(q, y, valid)
            finite = torch.isfinite(loss) & torch.isfinite(squares).all(1)
        if not due:
            return squares, finite, self._not_due(self.critics, runs, "critic") if details else {}
        gradients = gradient_of(loss, *leaves.values())
        named = dict(zip(leaves, gradients, strict=True))
        _, change, logged = self._step(self.critics, runs, slice(None), named, scales, details, exact=details)
        logged = {f"critic_{name}": x.squeeze(1) for name, x in logged.items()}
        return squares, finite & torch.isfinite(change.sum((1, 2))), logged

    def actor_step(
        self, runs: slice, states: Tensor, weights: Tensor, scales: Tensor, due: bool, details: bool
    ) -> tuple[StepReport, dict[str, Tensor | Tensors]]:
        """Step the actors of `runs`, where due, at states (r, B, N, 7): report, and what is logged."""
        if not due and not details:
            return self._nothing_changed(states), {}
        logged: dict[str, Tensor | Tensors] = {}
        if details:
            with torch.no_grad():
                z, actions = self.act(self.actors.tensors(runs), states)
                logged = {"states": states, "actions": actions, "pre_activations": z}
                logged["extras"] = self._measures(runs, states)
        if not due:
            own = actions.detach().requires_grad_()
            _, seen, q = self._actor_loss(runs, states, z, own, None, slice(None), weights)
            (dq_da,) = gradient_of(q, seen)
            idle = self._not_due(self.actors, runs, "actor")
            no_step = torch.full_like(z, torch.nan)
            return self._nothing_changed(states), {**logged, **idle, "z_after": no_step, "dq_da": dq_da}
        report, measured = self._step_actors(runs, states, weights, scales, details)
        if details:
            with torch.no_grad():
                logged["z_after"] = self.act(self.actors.tensors(runs), states)[0]
        return report, {**logged, **measured}

    def _step_actors(
        self, runs: slice, states: Tensor, weights: Tensor, scales: Tensor, details: bool
    ) -> tuple[StepReport, Tensors]:
        """All actors together, from the same joint policy, or in turn, each against the actors already stepped."""
        turns, others = [slice(None)], None
        if self.sequential:
            turns = [slice(agent, agent + 1) for agent in range(states.shape[2])]
            with torch.no_grad():
                others = self.act(self.actors.tensors(runs), states)[1].clone()
        parts = []
        for turn in turns:
            leaves, p = self.actors.leaves(runs, turn)
            z, own = self.act(p, states[:, :, turn])
            loss, seen, q = self._actor_loss(runs, states, z, own, others, turn, weights)
            slope = gradient_of(q, seen, keep=True)[0] if details else None
            named = dict(zip(leaves, gradient_of(loss, *leaves.values()), strict=True))
            top, change, logged = self._step(self.actors, runs, turn, named, scales, details, exact=True)
            moved = largest(change)
            finite = torch.isfinite(loss.detach()).unsqueeze(1) & torch.isfinite(top + moved)
            part = {"changed": moved != 0, "alive": top != 0, "finite": finite}
            part |= {f"actor_{name}": x for name, x in logged.items()} | ({"dq_da": slope} if details else {})
            parts.append(part)
            if self.sequential:
                with torch.no_grad():
                    others[:, :, turn] = self.act(self.actors.tensors(runs, turn), states[:, :, turn])[1]
        found = parts[0]
        if self.sequential:
            found = {name: torch.cat([part[name] for part in parts], dim=2 if name == "dq_da" else 1) for name in found}
        changed, alive, finite = (found.pop(name) for name in ("changed", "alive", "finite"))
        return StepReport(changed, ~changed, alive, finite.all(1)), found

    def _actor_loss(
        self, runs: slice, states: Tensor, z: Tensor, own: Tensor, others: Tensor | None, turn: slice, weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss of each run (r,), what the critic saw of the `own` actions, and its Q (r, B).

        `own` (r, B, N, 3) are all actions or, where `others` (r, B, N, 3) is given, those whose `turn` it is.
        """
        followed = own.view_as(own)
        # The loss falls where Q rises: what arrives is -∂Q/∂a, with the sample's weight.
        followed.register_hook(lambda slope: -self.algorithm.action_gradient(-slope, z.detach(), own.detach()))
        seen = followed.view_as(followed)  # its own gradient is the critic's, whatever the rule makes of it
        policy = seen
        if others is not None:
            policy = torch.cat((others[:, :, : turn.start], seen, others[:, :, turn.stop :]), dim=2)
        p = self.critics.tensors(runs)
        personal = personal_inputs(states, policy)
        joint = joint_share(self.critics, p, states, policy)
        wanted = candidate_rows(proposes(policy.detach()))
        value = self.algorithm.value
        scored = row_values(self.critics, p, joint.detach(), personal.detach(), wanted, value, self.dense)
        best = take_rows(personal, scored.argmax(-1, keepdim=True))
        q = value(self.critics.call("values", p, joint.unsqueeze(2), best)).squeeze(2)
        return self.algorithm.actor_loss(z, own, q, weights), seen, q

    @torch.no_grad()
    def _step(
        self, bank: Bank, runs: slice, members: slice, gradients: Tensors, scales: Tensor, details: bool, exact: bool
    ) -> tuple[Tensor | None, Tensor, Tensors]:
        """Clip, step, measure: the actors' largest gradient (r, m), weight change (r, m, P), norms (r, m) to log."""
        flat = bank.layout.pack(gradients, bank.flat[runs, members])
        top = largest(flat) if bank is self.actors else None
        logged: Tensors = {}
        if details or self.clip_norm:
            norms = bank.layout.layer_norms(flat)
            total = total_norm(norms)
            factor = (self.clip_norm / (total + 1e-6)).clamp(max=1.0) if self.clip_norm else torch.ones_like(total)
            if self.clip_norm:
                flat.mul_(factor.to(flat.dtype).unsqueeze(-1))
            logged = {"gradients": norms, "clipped": total * factor}
        if details:
            logged["weight_norms"] = total_norm(bank.layout.layer_norms(bank.flat[runs, members]))
        change = bank.step(runs, members, flat, scales, exact=exact)
        if details:
            logged["updates"] = total_norm(bank.layout.layer_norms(change))
        return top, change, logged if details else {}

    def _not_due(self, bank: Bank, runs: slice, name: str) -> Tensors:
        """What is logged of a step that was not made: weight norms, and NaN."""
        norms = bank.layout.layer_norms(bank.flat[runs])
        weights = total_norm(norms)
        nothing = torch.full_like(weights, torch.nan)
        found = {"gradients": torch.full_like(norms, torch.nan), "clipped": nothing, "updates": nothing}
        found["weight_norms"] = weights
        return {f"{name}_{kind}": x if bank is self.actors else x.squeeze(1) for kind, x in found.items()}

    def _nothing_changed(self, states: Tensor) -> StepReport:
        runs, agents = states.shape[0], states.shape[2]
        none = torch.zeros((runs, agents), dtype=torch.bool, device=states.device)
        return StepReport(none, none, none, torch.ones(runs, dtype=torch.bool, device=states.device))

    def _measures(self, runs: slice, states: Tensor) -> Tensors:
        """The actor variant's own measures of the batch, (r, N, …) each, before the step."""
        if type(self.actors.module).measures is Actor.measures:
            return {}
        found = self.actors.call("measures", self.actors.tensors(runs), agents_first(states))
        return {name: value.unflatten(0, (states.shape[0], -1)).clone() for name, value in found.items()}

    def __call__(
        self,
        runs: slice,
        batch: Batch,
        weights: Tensor,
        scales: tuple[Tensor, Tensor],
        due: Due,
        details: bool,
        phase: Callable[[str], AbstractContextManager[None]],
    ) -> tuple[Tensor, StepReport, dict[str, Tensor | Tensors]]:
        """One training step of `runs` with importance weights (r, B) and the scales of critic and actor optimiser.

        Returns the squared TD errors (r, B) before the step, the report and, if asked for, fields of StepDetails.
        """
        with phase("critic"):
            squares, finite, critic = self.critic_step(runs, batch, weights, scales[0], due.critic, details)
        with phase("actor"):
            self.actors.observe("observe_batch", runs, agents_first(batch.states))
            report, actor = self.actor_step(runs, batch.states, weights, scales[1], due.actor, details)
            for bank in (self.actors, self.critics) if due.target else ():
                if bank.target is not None:
                    self.algorithm.update_target(bank.flat[runs], bank.target[runs])
        return squares, replace(report, finite=report.finite & finite), {**critic, **actor}


def gradient_of(values: Tensor, *inputs: Tensor, keep: bool = False) -> tuple[Tensor, ...]:
    """Of the sum of values, zeros for inputs that none depends on; `keep` what is needed for another."""
    return torch.autograd.grad(values.sum(), inputs, retain_graph=keep, materialize_grads=True)


def largest(numbers: Tensor) -> Tensor:
    """Largest absolute value of each network's numbers (r, m, P) -> (r, m); NaN where there is one."""
    return torch.maximum(numbers.amax(-1), -numbers.amin(-1))  # faster than aminmax, and than abs with its copy


def total_norm(layer_norms: Tensor) -> Tensor:
    """L2 norm over the layers, (…, L) -> (…)."""
    return layer_norms.square().sum(-1).sqrt()
