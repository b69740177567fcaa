"""SaturationMonitor: watches the training of a bounded actor from outside, one update in many."""

import csv
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from .diagnosis import SCALARS, Diagnosis, diagnose_each, report
from .graph import KEPT_CALLS, Call, Edge, Recorder, eager, edge, search
from .measure import Actor, MonitorError, Side, rms

Modules = nn.Module | Iterable[nn.Module]
Optimizers = torch.optim.Optimizer | Iterable[torch.optim.Optimizer]
Reached = dict[Edge, Node | None]  # an actor's outputs, and the tanh between each and the critic, if any
Role = tuple[Actor | None, Side, list[Tensor]]  # an actor, or None for the critics, and the weights that are stepped
TAKES_OVER = 4  # steps of another optimiser of the actor without one of the leader: that one has been replaced


class SaturationMonitor:
    """Measures what a tanh actor's outputs, its critic's slope and its optimisers' steps do, and says what is wrong.

    actor: the network, or a list or nn.ModuleList of networks (MADDPG); targets are not given. One that several agents
        share is one network, whose calls for one critic's call count together.
    critic: the network that the actor's loss calls with the action, alone or concatenated, or a list. ∂Q/∂a is read at
        the actor's own, where there are as many as actors and that one receives its action, else at the first one that
        does. Without it nothing is known of ∂Q/∂a.
    actor_optimizer, critic_optimizer: an optimiser or a list; found by their parameters where they are not given.
    head: the module whose output is the pre-activation z (a list for a list of actors); None finds the tanh itself.
    every: measures the first update and then one in `every`; an update is one step of the (first) actor's optimiser.

    Training keeps its bits. A measured update makes the actor's forward pass twice again and one more backward pass
    through the critic; other updates cost a look at which optimiser steps. `scalars` and `history` hold what
    docs/monitor.md lists, NaN where something could not be measured. Over a list of actors, shares and means are
    averaged, `z_abs_max` is the largest, and norms and `z_step_rms` are root mean squares; the diagnosis judges each.

    Raises MonitorError, a ValueError, with one line that names what is missing: here, or in the first update.
    """

    def __init__(
        self,
        actor: Modules,
        critic: Modules | None = None,
        actor_optimizer: Optimizers | None = None,
        critic_optimizer: Optimizers | None = None,
        head: Modules | None = None,
        every: int = 50,
    ) -> None:
        if isinstance(every, bool) or not isinstance(every, Integral) or every < 1:
            raise MonitorError(f"every is {every!r}: a whole number of actor updates from 1 on is needed")
        actors, critics = _listed(actor, nn.Module, "actor"), _listed(critic, nn.Module, "critic")
        heads = _listed(head, nn.Module, "head") or [None] * len(actors)
        if not actors:
            raise MonitorError("actor is empty: the network whose outputs enter a tanh is needed")
        if len(heads) != len(actors):
            raise MonitorError(f"head has {len(heads)} modules for {len(actors)} actors: one for each is needed")
        self.every = every
        self.updates = 0
        self.history: list[dict[str, float]] = []
        own, theirs = (
            _listed(given, torch.optim.Optimizer, name)
            for given, name in ((actor_optimizer, "actor_optimizer"), (critic_optimizer, "critic_optimizer"))
        )
        each = len(critics) == len(actors)  # a critic of its own
        self._actors = [
            Actor(network, own_head, own, place if each else 0)
            for place, (network, own_head) in enumerate(zip(actors, heads, strict=True))
        ]
        self._critics = critics
        self._critic_side = Side("critic", theirs, critics)
        self._check()

        self._recorders = [Recorder(actor.network, actor.called) for actor in self._actors]
        for place, network in enumerate(critics):
            self._recorders.append(Recorder(network, lambda call, place=place: self._critic_called(place, call)))
        self._critic_calls = 0
        self._reached: dict[Edge, dict[Actor, Reached]] = {}  # what each output of a critic's call depends on
        self._roles: WeakKeyDictionary[torch.optim.Optimizer, tuple[int, list[Role]]] = WeakKeyDictionary()
        self._stepping: WeakSet[torch.optim.Optimizer] = WeakSet()
        self._leader: torch.optim.Optimizer | None = own[0] if own else None
        self._replaced: WeakSet[torch.optim.Optimizer] = WeakSet()  # earlier leaders: they are waited for no longer
        self._without_leader: WeakKeyDictionary[torch.optim.Optimizer, int] = WeakKeyDictionary()
        self._watching = False  # from after the update before a measured one
        self._measuring = False  # from the leader's step on, until every actor has stepped
        self._handles: list[Any] = []
        self._unseen: tuple[str, str] | None = (
            "The monitor was never attached.", "call attach() before training, or train inside `with`",
        )  # fmt: skip

    def attach(self) -> "SaturationMonitor":
        """Begin to watch, or go on; does nothing where it watches already."""
        if not self._handles:
            self._unseen = None
            self._handles = [
                register_optimizer_step_pre_hook(self._before_step),
                # A global hook runs after those of the optimiser itself, so it sees what limit_steps leaves of a step.
                register_optimizer_step_post_hook(self._after_step),
            ]
            if self.updates % self.every == 0:
                try:
                    self._watch()
                except Exception as problem:  # a scripted module lets nobody hook its calls
                    self.detach()
                    raise MonitorError(f"the calls of actor= and critic= cannot be seen: {_line(problem)}") from problem
        return self

    def detach(self) -> None:
        """Stop watching: no hook is left, and what was measured stays readable."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._stop_watching()

    def __enter__(self) -> "SaturationMonitor":
        return self.attach()

    def __exit__(self, *_exception: object) -> None:
        self.detach()

    def scalars(self) -> dict[str, float]:
        """The latest measured update: name -> value; empty before the first."""
        return {name: self.history[-1][name] for name in SCALARS} if self.history else {}

    def write_csv(self, path: str | Path) -> None:
        """Write the history as CSV: a row for each measured update, an empty cell where nothing was measured."""
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["update", *SCALARS])
            writer.writeheader()
            for row in self.history:
                writer.writerow({name: "" if math.isnan(value) else value for name, value in row.items()})

    def diagnosis(self) -> Diagnosis:
        """The verdict on the measured updates so far, in plain words, with its evidence and what to try."""
        return self._judged()[0]

    def report(self) -> str:
        """Verdict, evidence, advice, the first and the latest scalars, for people."""
        return report(self.history, *self._judged())

    def _judged(self) -> tuple[Diagnosis, list[dict[str, float]]]:
        """The diagnosis, and the history that it is of."""
        each = [self.history] if len(self._actors) == 1 else [actor.history for actor in self._actors]
        found, judged = diagnose_each(each)
        if self._unseen and not self.history:
            found = replace(found, sentence=self._unseen[0], advice=self._unseen[1:])
        return found, judged

    def _check(self) -> None:
        for name, network in [("actor", it.network) for it in self._actors] + [("critic", it) for it in self._critics]:
            if any(getattr(part, "_compiled_call_impl", None) for part in network.modules()):
                raise MonitorError(
                    f"{name} was compiled in place, so its passes cannot be seen: train with compiled = "
                    f"torch.compile({name}) and give {name}=compiled"
                )
        for actor in self._actors:
            if actor.head is not None and actor.head not in set(eager(actor.network).modules()):
                raise MonitorError("head is no part of the actor: give head= a module inside it")
            if actor.side.given and not any(map(actor.side.of, actor.side.given)):
                raise MonitorError(
                    "actor_optimizer holds none of the actor's parameters: give actor_optimizer= the one made from "
                    "actor.parameters(), or leave it out"
                )
        if self._critic_side.given and not any(map(self._critic_side.of, self._critic_side.given)):
            raise MonitorError(
                "critic_optimizer holds none of the critic's parameters: give critic_optimizer= the one made from "
                "critic.parameters(), or leave it out"
            )

    def _watch(self) -> None:
        self._watching = True
        if any([side.look() for side in (*(actor.side for actor in self._actors), self._critic_side)]):
            self._roles.clear()
        for recorder in self._recorders:
            recorder.start()

    def _stop_watching(self) -> None:
        self._watching = self._measuring = False
        for recorder in self._recorders:
            recorder.stop()
        self._forget()

    def _forget(self) -> None:
        for kept in (*self._actors, self._critic_side):
            kept.forget()
        self._reached.clear()
        self._critic_calls = 0

    @contextmanager
    def _unrecorded(self) -> Iterator[None]:
        """Own passes are no passes of the training."""
        for recorder in self._recorders:
            recorder.paused = True
        try:
            yield
        finally:
            for recorder in self._recorders:
                recorder.paused = False

    def _critic_called(self, place: int, call: Call) -> None:
        self._critic_calls += 1
        outputs = {output: actor for actor in self._actors for output in actor.outputs()}
        starts = [start for start in map(edge, call.inputs()) if start is not None]
        found: dict[Actor, Reached] = {}
        for here, tanh in search(starts, lambda at: at in outputs or at in self._reached):
            for actor, reached in self._reached.get(here, {outputs.get(here): {here: tanh}}).items():
                nearer = found.get(actor, {})
                found[actor] = nearer | {at: between for at, between in reached.items() if at not in nearer}
        if not found:
            return
        self._reached.update(dict.fromkeys(call.made(), found))
        for oldest in [*self._reached][:-KEPT_CALLS]:
            del self._reached[oldest]
        for actor, reached in found.items():
            with self._measured_pass("the critic's slope"):
                actor.criticised(place, call, call.module is self._critics[place], reached)

    def _roles_of(self, optimizer: torch.optim.Optimizer) -> list[Role]:
        count = sum(len(group["params"]) for group in optimizer.param_groups)
        known = self._roles.get(optimizer)
        if known is None or known[0] != count:
            sides = [*((actor, actor.side) for actor in self._actors), (None, self._critic_side)]
            roles = [(actor, side, side.of(optimizer)) for actor, side in sides]
            known = self._roles[optimizer] = (count, [role for role in roles if role[2]])
        return known[1]

    def _before_step(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        if optimizer in self._stepping:  # a step that calls the step it extends
            return
        self._stepping.add(optimizer)
        roles = self._roles_of(optimizer)
        closed = any(callable(given) for given in (*args[1:], *kwargs.values()))
        actors = [actor for actor, _, _ in roles if actor is not None]
        if self._steps_critic_only(optimizer, actors):
            roles = [role for role in roles if role[0] is None]
        elif actors and self._leads(optimizer, actors):
            self._next_update()
        for actor, side, weights in roles:
            if actor is None and self._watching and not closed:
                side.before_step(optimizer, weights)
            elif actor is not None and self._measuring:
                first = not side.before and not side.steps  # of the optimisers that step this actor
                side.before_step(optimizer, weights)
                if first:
                    self._find_outputs(actor, closed)

    def _both(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether it holds weights of actor and critic: of a shared encoder, or all there are."""
        return len({actor is None for actor, _, _ in self._roles_of(optimizer)}) == 2

    def _steps_critic_only(self, optimizer: torch.optim.Optimizer, actors: list[Actor]) -> bool:
        """Of an optimiser that holds weights of both: whether no actor's pass led to this step."""
        if not actors or not self._both(optimizer):
            return False
        if self._leader is not None and optimizer is not self._leader:
            return True
        return self._watching and not any(actor.passed() for actor in actors)

    def _leads(self, optimizer: torch.optim.Optimizer, actors: list[Actor]) -> bool:
        """Whether this optimiser's steps are the updates; another one takes over where that one steps no more."""
        if self._leader is not None and optimizer is not self._leader and not self._both(self._leader):
            shares = any(theirs in actors for theirs, _, _ in self._roles_of(self._leader))
            self._without_leader[optimizer] = self._without_leader.get(optimizer, 0) + shares
            if self._without_leader[optimizer] < TAKES_OVER:
                return False
            self._replaced.add(self._leader)
        self._replaced.discard(optimizer)
        self._leader = optimizer
        self._without_leader.clear()
        return True

    def _next_update(self) -> None:
        if self._measuring:  # not every optimiser of the actors has stepped
            self._finish()
        self._measuring = self.updates % self.every == 0
        self.updates += 1
        if self.updates % self.every == 0:
            self._watch()

    def _find_outputs(self, actor: Actor, closed: bool) -> None:
        with self._measured_pass("the actor's outputs"):
            if closed:
                raise MonitorError(
                    "the actor's optimiser steps with a closure, so its passes come after the step began: call "
                    "loss.backward() and then step() without one"
                )
            if self._critics and not actor.seen and actor.calls:
                raise MonitorError(self._no_critic())
            actor.before_step()

    @contextmanager
    def _measured_pass(self, what: str) -> Iterator[None]:
        """Passes of our own. What goes wrong ends the first measured update, and leaves NaN in a later one."""
        try:
            with self._unrecorded():
                yield
        except Exception as problem:
            if not self.history:  # later on, an update of another kind is no reason to end a training
                self.detach()
                known = isinstance(problem, MonitorError)
                said = str(problem) if known else f"{what} could not be measured: {_line(problem)}"
                self._unseen = f"The monitor detached itself: {said}.", "mend that, and attach() again"
                if known:
                    raise
                raise MonitorError(said) from problem

    def _no_critic(self) -> str:
        looked_for = "the actor's action, with its gradient, at the critic's input before the actor's optimiser stepped"
        if not self._critic_calls:
            return (
                f"looked for {looked_for}, but the critic was not called (calls inside vmap are not seen): give "
                "critic= the one in the actor's loss; or are actor= and critic= swapped?"
            )
        return (
            f"looked for {looked_for}, but saw only calls of the critic without it ({self._critic_calls}): is the "
            "action detached, or actor= or critic= another network than the loss uses?"
        )

    def _after_step(self, optimizer: torch.optim.Optimizer, _args: tuple, _kwargs: dict) -> None:
        if optimizer not in self._stepping:
            return
        self._stepping.discard(optimizer)
        for actor, side, _ in self._roles_of(optimizer):
            if optimizer not in side.before:
                continue
            side.after_step(optimizer)
            if actor is not None and all(one in side.steps for one in self._steppers(actor)):
                self._find_move(actor)
        if self._measuring and all(actor.measured is not None for actor in self._actors):
            self._finish()

    def _steppers(self, actor: Actor) -> list[torch.optim.Optimizer]:
        """The optimisers that step this actor, as far as they are known."""
        known = actor.side.given or [*self._roles]
        return [
            one for one in known
            if one not in self._replaced and (one is self._leader or not self._both(one))
            and any(role[0] is actor for role in self._roles_of(one))
        ]  # fmt: skip

    def _find_move(self, actor: Actor) -> None:
        with self._measured_pass("how far z moved"):
            actor.after_step()

    def _finish(self) -> None:
        for actor in self._actors:
            if actor.measured is None and actor.side.steps:
                self._find_move(actor)
        found = [(actor.measured or {}) | actor.side.scalars() for actor in self._actors]
        rows = [{"update": self.updates, **dict.fromkeys(SCALARS, math.nan)} for _ in [*found, None]]
        for name in {name for measured in found for name in measured}:
            places = [place for place, measured in enumerate(found) if name in measured]
            values = torch.stack([found[place][name] for place in places])
            values = torch.cat([values, _over_actors(name, values)])  # one transfer from the device
            for place, value in zip([*places, -1], values.tolist(), strict=True):
                rows[place][name] = value
        of_critics = {name: float(value) for name, value in self._critic_side.scalars(self._leader).items()}
        for row, history in zip(rows, [*(actor.history for actor in self._actors), self.history], strict=True):
            history.append(row | of_critics)
        if self.updates % self.every == 0:  # the next update is measured, too
            self._measuring = False
            self._forget()
        else:
            self._stop_watching()


def _over_actors(name: str, values: Tensor) -> Tensor:
    """A scalar of several actors as one, of shape (1,)."""
    norm = name.endswith("_norm") or name == "z_step_rms"
    return (values.max() if name == "z_abs_max" else rms(values) if norm else values.mean()).reshape(1)


def _line(problem: Exception) -> str:
    """What another library said, in one line."""
    return f"{type(problem).__name__}: {' '.join(str(problem).split())}"[:300]


def _listed(given: Any, kind: type, name: str) -> list:
    """A list of one or several; raises where one is of another kind."""
    if given is None:
        return []
    if isinstance(given, nn.ModuleDict):
        given = given.values()
    alone = isinstance(given, kind) and not isinstance(given, nn.ModuleList)
    several = [given] if alone or not isinstance(given, Iterable) else list(given)
    for one in several:
        if not isinstance(one, kind):
            needed = "torch.nn.Module" if kind is nn.Module else "torch.optim.Optimizer"
            raise MonitorError(f"{name} is of type {type(one).__name__}: a {needed} is needed")
    return several
