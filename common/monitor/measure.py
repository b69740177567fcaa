"""What one measured update shows: an actor's outputs and the critic's slope there, and the norms of the optimisers."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node

from . import definitions
from .graph import KEPT_CALLS, Call, Edge, Replay, is_compiled, nearest_tanhs, run_again, search, tensors_in

PROBABILITY = 1e-3  # how close to 1 a critic's outputs of every sample add up, to be taken for probabilities
CLAMPS = ("Clamp", "Hardtanh")  # how nodes begin that let no gradient through beyond their bounds


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
    """An actor's outputs in one call before its step: z, a = tanh z, ∂Q/∂a, all of the shape of its action."""

    call: Call
    output: int  # place of the output in the call's outputs
    z: Tensor
    actions: Tensor
    dq_da: Tensor | None
    clipped: Tensor | None = None  # where z is clipped on its way to the tanh, so that no slope is left there either
    tanhs: list[int] = field(default_factory=list)  # places in the pass of the tanh that z enters; else see `moved`

    def moved(self, replay: Replay) -> Tensor:
        """z in a later pass: what enters the tanh, or the output of the head or, without one, of the call."""
        if self.tanhs:
            return torch.cat([replay.tanhs[i][0] for i in self.tanhs], -1)
        head = replay.heads[self.call]
        return replay.outputs[self.call][self.output] if head is None else head

    def sloped(self) -> Tensor:
        """The actions, with 1 where the clip leaves no slope."""
        return self.actions if self.clipped is None else self.actions.masked_fill(self.clipped, 1.0)


def together(found: list[Bounded], values: Iterable[Tensor]) -> Tensor:
    """(batch, outputs) of all: outputs of one call side by side, calls as further samples where they are as wide."""
    calls: dict[Call, list[Tensor]] = {}
    for bounded, value in zip(found, values, strict=True):
        calls.setdefault(bounded.call, []).append(value.detach().reshape(-1, value.shape[-1] if value.dim() > 1 else 1))
    rows = [torch.cat([one for one in own if len(one) == len(own[0])], -1) for own in calls.values()]
    return torch.cat([own for own in rows if own.shape[-1] == rows[0].shape[-1]])


def scalars_of(found: list[Bounded]) -> dict[str, Tensor]:
    """Everything that an actor's outputs and the critic's slope there say."""
    a, z, sloped = (
        together(found, values) for values in zip(*((it.actions, it.z, it.sloped()) for it in found), strict=True)
    )
    scalars = {
        "saturation_ratio": definitions.saturation_ratio(a),
        "tanh_derivative": definitions.tanh_derivative(sloped),
        "zero_derivative_share": definitions.zero_derivative_share(sloped),
        "z_abs_median": definitions.z_abs_median(z),
        "z_abs_max": definitions.z_abs_max(z),
        "z_range": definitions.z_range(z),
    }
    if all(it.dq_da is not None for it in found):
        q = together(found, [it.dq_da for it in found])
        scalars |= {
            "stuck_share": definitions.stuck_share(a, q),
            "bang_bang_share": definitions.bang_bang_share(a, q),
            "dq_da_abs_mean": definitions.dq_da_abs_mean(q),
            "dq_da_sign_coherence": definitions.dq_da_sign_coherence(q),
        }
    return scalars


class Actor:
    """One actor network and what the update that is measured now has shown of it."""

    def __init__(
        self, network: nn.Module, head: nn.Module | None, optimizers: list[torch.optim.Optimizer], critic: int
    ) -> None:
        self.network = network
        self.head = head
        self.critic = critic  # place of its own in the list of critics
        self.side = Side("actor", optimizers, [network])
        self.history: list[dict[str, float]] = []
        self.forget()

    def forget(self) -> None:
        """Drop what the last measured update left."""
        self.calls: list[Call] = []
        self.seen: list[Seen] = []
        self.measured: dict[str, Tensor] | None = None
        self._bounded: list[Bounded] = []
        self.side.forget()

    def called(self, call: Call) -> None:
        """Keep a call of the network, or of a part of it, that carries a gradient."""
        self.calls = [*self.calls[1 - KEPT_CALLS :], call]

    def outputs(self) -> dict[Edge, tuple[Call, int]]:
        """What the recorded calls returned, by its place in the graph."""
        return {made: (call, place) for call in self.calls for made, place in call.made().items()}

    def passed(self) -> bool:
        """Whether the actor itself was called, or its critic with its action: not only an encoder that both share."""
        return bool(self.seen) or any(call.module is self.network for call in self.calls)

    def criticised(self, critic: int, critic_call: Call, whole: bool, reached: dict[Edge, Node | None]) -> None:
        """Take ∂Q/∂a where a critic's call depends on this actor, by these outputs and the tanh behind each.

        whole: the call is that of the whole critic, so its output is Q; else Q is an output with one value per sample.
        The actor's own critic counts, or else the first of the list; a later pass of the actor replaces an earlier one.
        """
        if any(self._rank(seen.critic) < self._rank(critic) for seen in self.seen):
            return
        ours = self.outputs()
        bounded = _actions({here: tanh for here, tanh in reached.items() if here in ours}, ours)
        known = {(seen.call, seen.output) for seen in self.seen if seen.critic == critic}
        if not bounded or any(ours[here] in known for here in bounded):  # empty: so many calls ago that none was kept
            return
        places = [ours[here] for here in bounded]
        outputs = critic_call.outputs
        if is_compiled(critic_call.module):  # compiled code lets nobody go backward twice
            outputs = tensors_in(run_again(critic_call, critic_call.args, critic_call.kwargs))
        outputs = [outputs[i] for i in critic_call.made().values()]
        shapes = {call: call.outputs[place].shape for call, place in places}
        rows = {shape[0] for shape in shapes.values()} | {shape[:-1].numel() for shape in shapes.values()}
        rows.add(sum(shape[:-1].numel() for shape in shapes.values()))  # calls of one actor, stacked
        values = [t for t in outputs if t.numel() in rows]
        if not values and whole:  # several numbers per sample, such as quantiles: their mean
            numbers = outputs[0].detach()
            if bool((numbers >= 0).all() and ((numbers.sum(-1) - 1).abs() < PROBABILITY).all()):
                raise MonitorError(
                    "the critic returns probabilities, whose mean is no Q: give critic= a module that the actor's loss "
                    "calls and that returns Q, their sum weighted by the atoms"
                )
            values = [outputs[0] * (next(iter(shapes.values()))[0] / outputs[0].numel())]
        if not values:
            return
        targets = [GradientEdge(*(here if tanh is None else (tanh, 0))) for here, tanh in bounded.items()]
        with kept_gradients([*critic_call.inputs(), *(call.outputs[place] for call, place in places)]):
            slopes = _first_gradients(values, targets)
        self.seen = []
        for (call, place), tanh, slope in zip(places, bounded.values(), slopes, strict=True):
            action = None if tanh is None else tanh._saved_result.detach()
            output = call.outputs[place] if action is None else action
            self.seen.append(Seen(critic, call, place, torch.zeros_like(output) if slope is None else slope, action))

    def _rank(self, critic: int) -> tuple[bool, int]:
        return critic != self.critic, critic

    def before_step(self) -> None:
        """Find z, a and ∂Q/∂a by making the actor's pass again.

        Raises MonitorError, one line, where that pass or its tanh cannot be found.
        """
        if not self.calls:
            raise MonitorError(
                "the actor was not called with gradients before its optimiser's step, or returned no tensor with one: "
                "give actor= the module that the actor's loss calls (not its target; of a compiled one, what "
                "torch.compile returned)"
            )
        with torch.enable_grad():
            calls = dict.fromkeys(seen.call for seen in self.seen) or self.calls[-1:]
            replay = Replay(calls, self.calls, self.head)
            if self.seen:
                found = [self._tanh_inside(replay, s) if s.action is None else _outside(replay, s) for s in self.seen]
                found = [one for one in found if one is not None]
            else:
                (call,) = calls
                made = (self._tanh_unseen(replay, call, place) for place in range(len(replay.outputs[call])))
                found = [*filter(None, made)][:1]
        if not found:
            named = any(head is not None for head in replay.heads.values())
            advice = "" if named else "; if it has one, give head= the module whose output enters it"
            raise MonitorError(
                "no tanh was found between the actor's layers and its action, and an actor without one cannot be "
                f"measured{advice}"
            )
        for one in found:
            if one.z.shape != one.actions.shape:
                raise MonitorError(
                    f"z has the shape {tuple(one.z.shape)} and the action {tuple(one.actions.shape)}: give head= the "
                    "module whose output enters the tanh (the mean's, of a Gaussian policy; an nn.Identity will do)"
                )
        self._bounded = found

    def _tanh_inside(self, replay: Replay, seen: Seen) -> Bounded | None:
        output, head = replay.outputs[seen.call][seen.output], replay.heads[seen.call]
        places, given, results = _tanhs(replay, output)
        if not places:
            return None
        slopes = torch.cat(torch.autograd.grad(output, results, seen.slope.reshape(output.shape), True), -1)
        z, places = (torch.cat(given, -1), places) if head is None else (head, [])
        return Bounded(seen.call, seen.output, z, torch.cat(results, -1), slopes, _clipped(given), places)

    def _tanh_unseen(self, replay: Replay, call: Call, place: int) -> Bounded | None:
        """Without a critic: the tanh inside, or one after the actor where a head says what enters it."""
        head, (places, given, results) = replay.heads[call], _tanhs(replay, replay.outputs[call][place])
        if head is not None:
            a = torch.cat(results, -1) if places else head.tanh()
            return Bounded(call, place, head, a, None, _clipped(given) if places else None)
        if not places:
            return None
        return Bounded(call, place, torch.cat(given, -1), torch.cat(results, -1), None, _clipped(given), places)

    @torch.no_grad()
    def after_step(self) -> None:
        """Find out how far the step moved z, and put all scalars together."""
        self.measured = {}
        if not self._bounded:
            return
        found, self.measured = self._bounded, scalars_of(self._bounded)
        replay = Replay(dict.fromkeys(it.call for it in found), self.calls, self.head)
        if replay.complete:
            before, after = together(found, (it.z for it in found)), together(found, (it.moved(replay) for it in found))
            self.measured["z_step_rms"] = rms(definitions.wide(after) - definitions.wide(before))


def _first_gradients(values: list[Tensor], targets: list[GradientEdge]) -> list[Tensor | None]:
    """Per target the gradient of the first value, summed, that depends on it; None where none does."""
    slopes: list[Tensor | None] = [None] * len(targets)
    for value in values:
        missing = [i for i, slope in enumerate(slopes) if slope is None]
        if not missing:
            break
        wanted = [targets[i] for i in missing]
        found = torch.autograd.grad(value.sum(), wanted, retain_graph=True, allow_unused=True)
        for i, slope in zip(missing, found, strict=True):
            slopes[i] = slope
    return slopes


def _actions(reached: dict[Edge, Node | None], ours: dict[Edge, tuple[Call, int]]) -> dict[Edge, Node | None]:
    """Which of an actor's outputs that a critic depends on are its actions; `reached` has the nearest first.

    None that another one is made of (features). Where a tanh outside the actor bounds an output, none without; and one
    per tanh, the nearest, or of one call's outputs the first: the mean of a Gaussian, not its scale.
    """
    behind = {
        at for node, _ in reached
        for at, _ in search([(n, i) for n, i in node.next_functions if n is not None], reached.__contains__)
    }  # fmt: skip
    outside: dict[Node, Edge] = {}
    for here, tanh in reached.items():
        if tanh is not None and here not in behind:
            call, place = ours[outside.setdefault(tanh, here)]
            if call is ours[here][0] and place > ours[here][1]:
                outside[tanh] = here
    return {at: tanh for tanh, at in outside.items()} or {at: None for at in reached if at not in behind}


def _outside(replay: Replay, seen: Seen) -> Bounded:
    """z is the actor's output, or its head's, and the tanh comes after it."""
    output, head = replay.outputs[seen.call][seen.output], replay.heads[seen.call]
    if head is None or head is output:
        return Bounded(seen.call, seen.output, output, seen.action, seen.slope)
    (inner,) = torch.autograd.grad(output.sum(), head, retain_graph=True, allow_unused=True)
    if inner is None:
        raise MonitorError("the action does not depend on head: give the module whose output enters the tanh")
    return Bounded(seen.call, seen.output, head, seen.action, seen.slope, inner == 0)


def _clipped(given: list[Tensor]) -> Tensor | None:
    """Where what enters the tanh comes out of a clamp without a slope; None where there is no clamp."""
    clamps = [t.grad_fn if t.grad_fn is not None and t.grad_fn.name().startswith(CLAMPS) else None for t in given]
    if not any(clamps):
        return None
    where = [
        torch.zeros_like(t, dtype=torch.bool) if clamp is None
        else torch.autograd.grad(t.sum(), GradientEdge(*clamp.next_functions[0]), retain_graph=True)[0] == 0
        for t, clamp in zip(given, clamps, strict=True)
    ]  # fmt: skip
    return torch.cat(where, -1)


def _tanhs(replay: Replay, output: Tensor) -> tuple[list[int], list[Tensor], list[Tensor]]:
    """Of the tanh that made this output: their places in the pass, what they received and what they returned."""
    nodes = nearest_tanhs(output)
    places = [i for i, (_, result) in enumerate(replay.tanhs) if result.grad_fn in nodes]
    return places, [replay.tanhs[i][0] for i in places], [replay.tanhs[i][1] for i in places]


@contextmanager
def kept_gradients(tensors: Iterable[Tensor]) -> Iterator[None]:
    """A backward pass of our own within adds nothing to tensors with `retain_grad`."""
    kept = [(t, t.grad if t.grad is None else t.grad.clone()) for t in tensors if t.retains_grad]
    try:
        yield
    finally:
        for tensor, gradient in kept:
            tensor.grad = gradient


@dataclass(eq=False)
class Side:
    """An actor's or the critics' parameters and the norms of the optimisers that step them."""

    name: str
    given: list[torch.optim.Optimizer]
    networks: list[nn.Module]
    parameters: set[Tensor] = field(init=False, default_factory=set)
    before: dict[torch.optim.Optimizer, dict[Tensor, Tensor]] = field(default_factory=dict)
    gradients: dict[torch.optim.Optimizer, Tensor] = field(default_factory=dict)
    steps: dict[torch.optim.Optimizer, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.look()

    def look(self) -> bool:
        """Find the networks' parameters; whether there are others than before: layers can be replaced."""
        known, self.parameters = self.parameters, {p for network in self.networks for p in network.parameters()}
        return known != self.parameters

    def of(self, optimizer: torch.optim.Optimizer) -> list[Tensor]:
        """Those of the optimiser's parameters that belong to this side; none where the side has other optimisers."""
        if self.given and optimizer not in self.given:
            return []
        return [p for group in optimizer.param_groups for p in group["params"] if p in self.parameters]

    @torch.no_grad()
    def before_step(self, optimizer: torch.optim.Optimizer, weights: list[Tensor]) -> None:
        """Take the gradients that the optimiser sees and keep the weights."""
        norm = definitions.l2_norm([w.grad for w in weights if w.grad is not None])
        scale = getattr(optimizer, "grad_scale", None)  # of a GradScaler, which a fused optimiser applies itself
        self.gradients[optimizer] = norm if scale is None else norm / scale.to(norm)
        self.before[optimizer] = {w: w.detach().clone() for w in weights}

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Take how far the optimiser moved the weights."""
        before = self.before.pop(optimizer)
        self.steps[optimizer] = definitions.l2_norm(torch._foreach_sub([*before], [*before.values()]))

    def scalars(self, leader: torch.optim.Optimizer | None = None) -> dict[str, Tensor]:
        """Norms: of an actor over its optimisers, of critics the root mean square over theirs.

        An optimiser of the actor that holds weights of the critic as well, of an encoder say, counts for the critic
        only where no other one steps it: give it as `leader`.
        """
        norms = {f"{self.name}_gradient_norm": self.gradients, f"{self.name}_step_norm": self.steps}
        combine = rms if self.name == "critic" else torch.linalg.vector_norm
        own = {
            name: [norm for optimizer, norm in values.items() if optimizer is not leader] or [*values.values()]
            for name, values in norms.items()
        }
        return {name: combine(torch.stack(values)) for name, values in own.items() if values}

    def forget(self) -> None:
        """Drop what the last measured update left."""
        for kept in (self.before, self.gradients, self.steps):
            kept.clear()


def rms(values: Tensor) -> Tensor:
    """Root mean square."""
    return values.square().mean().sqrt()
