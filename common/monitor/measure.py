"""What one measured update shows: an actor's outputs and the critic's slope there, and the norms of the optimisers."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node

from . import definitions
from .graph import KEPT_CALLS, Call, Edge, Replay, is_compiled, nearest_tanhs, run_again, tensors_in


class MonitorError(ValueError):
    """The monitor did not find what it measures; the message says what it looked for and which argument helps."""


@dataclass(eq=False)
class Seen:
    """The critic's slope at an actor's output, found in the actor's pass through the critic."""

    critic: int  # place in the list of critics
    call: Call  # of the actor
    output: int  # place of that output in the call's outputs
    slope: Tensor  # gradient of Q, summed over the batch, by that tanh's output or, where there is none, by the actor's
    action: Tensor | None  # what a tanh between this output and the critic returned; None: the tanh is in the actor


@dataclass(eq=False)
class Bounded:
    """An actor's outputs before its step: z, a = tanh z, ∂Q/∂a, all (batch, outputs)."""

    z: Tensor
    actions: Tensor
    clipped: Tensor | bool  # where z is clipped on its way to the tanh, so that no slope is left there either
    dq_da: Tensor | None
    tanhs: list[int]  # places in the pass of the tanh that z enters; empty: z is the head's or the call's output

    def scalars(self) -> dict[str, Tensor]:
        a, z, q = (t if t is None else _batched(t.detach()) for t in (self.actions, self.z, self.dq_da))
        sloped = a if self.clipped is False else a.masked_fill(self.clipped.reshape(a.shape), 1.0)
        found = {
            "saturation_ratio": definitions.saturation_ratio(a),
            "tanh_derivative": definitions.tanh_derivative(sloped),
            "zero_derivative_share": definitions.zero_derivative_share(sloped),
            "z_abs_median": definitions.z_abs_median(z),
            "z_abs_max": definitions.z_abs_max(z),
            "z_range": definitions.z_range(z),
        }
        if q is not None:
            found |= {
                "stuck_share": definitions.stuck_share(a, q),
                "bang_bang_share": definitions.bang_bang_share(a, q),
                "dq_da_abs_mean": definitions.dq_da_abs_mean(q),
                "dq_da_sign_coherence": definitions.dq_da_sign_coherence(q),
            }
        return found


class Actor:
    """One actor network and what the update that is measured now has shown of it."""

    def __init__(self, network: nn.Module, head: nn.Module | None) -> None:
        self.network = network
        self.head = head
        self.parameters = set(network.parameters())
        self.forget()

    def forget(self) -> None:
        """Drop what the last measured update left."""
        self.calls: list[Call] = []
        self.seen: Seen | None = None
        self.measured: dict[str, Tensor] | None = None
        self._bounded: Bounded | None = None
        self._call: Call | None = None  # that `_bounded` was found in

    def called(self, call: Call) -> None:
        """Keep a call of the network, or of a part of it, that carries a gradient."""
        self.calls = [*self.calls[1 - KEPT_CALLS :], call]

    def outputs(self) -> dict[Edge, tuple[Call, int]]:
        """What the recorded calls returned, by its place in the graph."""
        return {made: (call, place) for call in self.calls for made, place in call.made().items()}

    def criticised(self, critic: int, critic_call: Call, whole: bool, here: Edge, tanh: Node | None) -> None:
        """Take ∂Q/∂a where a critic's call depends on this actor, by its output `here`.

        whole: the call is that of the whole critic, so its output is Q; else Q is an output with one value per sample.
        The first critic of the list counts; a later pass of the actor replaces an earlier one.
        """
        call, place = self.outputs().get(here, (None, 0))
        known = self.seen is not None and (self.seen.call, self.seen.output) == (call, place)
        if call is None or (known and self.seen.critic <= critic):  # None: so many calls ago that it was not kept
            return
        output = call.outputs[place]
        outputs = critic_call.outputs
        if is_compiled(critic_call.module):  # compiled code lets nobody go backward twice
            outputs = tensors_in(run_again(critic_call, critic_call.args, critic_call.kwargs))
        outputs = [outputs[i] for i in critic_call.made().values()]
        batches = {output.shape[0], output.numel() // output.shape[-1]}
        values = [t for t in outputs if t.numel() in batches]
        if not values and whole:  # several numbers per sample, such as quantiles: their mean
            values = [outputs[0] * (output.shape[0] / outputs[0].numel())]
        if not values:
            return
        target = GradientEdge(*(here if tanh is None else (tanh, 0)))
        slopes = (torch.autograd.grad(q.sum(), target, retain_graph=True, allow_unused=True)[0] for q in values)
        action = None if tanh is None else tanh._saved_result.detach()
        flat = torch.zeros_like(output if action is None else action)  # where no output depends on the action
        slope = next((found for found in slopes if found is not None), flat)
        self.seen = Seen(critic, call, place, slope, action)

    def before_step(self) -> None:
        """Find z, a and ∂Q/∂a by making the actor's pass again.

        Raises MonitorError, one line, where that pass or its tanh cannot be found.
        """
        if self.seen is None and not self.calls:
            raise MonitorError(
                "the actor was not called with gradients before its optimiser's step: give actor= the module that the "
                "actor's loss calls (not its target; of a compiled one, what torch.compile returned)"
            )
        with torch.enable_grad():
            call = self.calls[-1] if self.seen is None else self.seen.call
            replay = Replay(call, self.calls, self.head)
            places = range(len(replay.outputs)) if self.seen is None else [self.seen.output]
            if self.seen is not None and self.seen.action is not None:
                found = self._tanh_outside(replay)
            else:
                found = next(filter(None, (self._tanh_inside(replay, place) for place in places)), None)
        if found is None:
            advice = "" if replay.head is not None else "; if it has one, give head= the module whose output enters it"
            raise MonitorError(
                "no tanh was found between the actor's layers and its action, and an actor without one cannot be "
                f"measured{advice}"
            )
        if found.z.shape != found.actions.shape:
            raise MonitorError(
                f"z has the shape {tuple(found.z.shape)} and the action {tuple(found.actions.shape)}: give head= the "
                "module whose output enters the tanh (the mean's, of a Gaussian policy; an nn.Identity will do)"
            )
        self._call, self._bounded = call, found

    def _tanh_outside(self, replay: Replay) -> Bounded:
        output = replay.outputs[self.seen.output]
        z, clipped = output, False
        if replay.head is not None and replay.head is not output:
            z = replay.head
            (inner,) = torch.autograd.grad(output.sum(), z, allow_unused=True)
            if inner is None:
                raise MonitorError("the action does not depend on head: give the module whose output enters the tanh")
            clipped = inner == 0
        return Bounded(z, self.seen.action, clipped, self.seen.slope, [])

    def _tanh_inside(self, replay: Replay, place: int) -> Bounded | None:
        output = replay.outputs[place]
        nodes = nearest_tanhs(output)
        found = [i for i, (_, result) in enumerate(replay.tanhs) if result.grad_fn in nodes]
        if not found:
            if replay.head is None or self.seen is not None:
                return None
            return Bounded(replay.head, replay.head.tanh(), False, None, [])  # the tanh comes after the actor
        given, results = zip(*(replay.tanhs[i] for i in found), strict=True)
        slopes = None
        if self.seen is not None:
            slopes = torch.cat(torch.autograd.grad(output, results, self.seen.slope.reshape(output.shape)), -1)
        if replay.head is not None:
            return Bounded(replay.head, torch.cat(results, -1), False, slopes, [])
        return Bounded(torch.cat(given, -1), torch.cat(results, -1), False, slopes, found)

    @torch.no_grad()
    def after_step(self) -> None:
        """Find out how far the step moved z, and put all scalars together."""
        if self._bounded is None:
            self.measured = {}
            return
        replay = Replay(self._call, self.calls, self.head)
        if self._bounded.tanhs:
            z = torch.cat([replay.tanhs[i][0] for i in self._bounded.tanhs], -1)
        else:
            z = replay.outputs[self.seen.output] if replay.head is None else replay.head
        self.measured = self._bounded.scalars()
        if replay.complete:
            self.measured["z_step_rms"] = rms(definitions.wide(z) - definitions.wide(self._bounded.z.detach()))


@dataclass(eq=False)
class Side:
    """The actors' or the critics' parameters and the norms of the optimisers that step them."""

    name: str
    given: list[torch.optim.Optimizer]
    parameters: set[Tensor]
    before: dict[torch.optim.Optimizer, dict[Tensor, Tensor]] = field(default_factory=dict)
    gradients: dict[torch.optim.Optimizer, Tensor] = field(default_factory=dict)
    steps: dict[torch.optim.Optimizer, Tensor] = field(default_factory=dict)

    def of(self, optimizer: torch.optim.Optimizer) -> list[Tensor]:
        """Those of the optimiser's parameters that belong to this side; none where the side has other optimisers."""
        if self.given and optimizer not in self.given:
            return []
        return [p for group in optimizer.param_groups for p in group["params"] if p in self.parameters]

    @torch.no_grad()
    def before_step(self, optimizer: torch.optim.Optimizer, weights: list[Tensor]) -> None:
        """Take the gradients that the optimiser sees and keep the weights."""
        self.gradients[optimizer] = definitions.l2_norm([w.grad for w in weights if w.grad is not None])
        self.before[optimizer] = {w: w.detach().clone() for w in weights}

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Take how far the optimiser moved the weights."""
        before = self.before.pop(optimizer)
        self.steps[optimizer] = definitions.l2_norm(torch._foreach_sub([*before], [*before.values()]))

    def scalars(self) -> dict[str, Tensor]:
        """Norms, root mean square over the optimisers."""
        norms = {f"{self.name}_gradient_norm": self.gradients, f"{self.name}_step_norm": self.steps}
        return {name: rms(torch.stack([*values.values()])) for name, values in norms.items() if values}

    def forget(self) -> None:
        """Drop what the last measured update left."""
        for kept in (self.before, self.gradients, self.steps):
            kept.clear()


def _batched(values: Tensor) -> Tensor:
    """(batch, outputs), also of (batch,) or (time, batch, outputs)."""
    return values.reshape(-1, values.shape[-1] if values.dim() > 1 else 1)


def rms(values: Tensor) -> Tensor:
    """Root mean square."""
    return values.square().mean().sqrt()
