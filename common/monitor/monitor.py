"""SaturationMonitor: watches the training of a bounded actor from outside, one update in many."""

import csv
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from .diagnosis import SCALARS, Diagnosis, diagnose, report
from .graph import Call, Edge, Recorder, eager, edge, search, tensors_in
from .measure import Actor, MonitorError, Side, rms

Modules = nn.Module | Iterable[nn.Module]
Optimizers = torch.optim.Optimizer | Iterable[torch.optim.Optimizer]
Watched = tuple[Edge, Node | None]  # an actor's output, and the tanh between it and the critic


class SaturationMonitor:
    """Measures what a tanh actor's outputs, its critic's slope and its optimisers' steps do, and says what is wrong.

    actor: the network, or a list of networks (MADDPG); targets are not given.
    critic: the network that the actor's loss calls with the action, alone or concatenated, or a list, of which the
        first that receives an actor's action counts. Without it nothing is known of ∂Q/∂a.
    actor_optimizer, critic_optimizer: an optimiser or a list; found by their parameters where they are not given.
    head: the module whose output is the pre-activation z (a list for a list of actors); None finds the tanh itself.
    every: measures the first update and then one in `every`; an update is one step of the (first) actor's optimiser.

    Training keeps its bits. A measured update makes the actor's forward pass twice again and one more backward pass
    through the critic; other updates cost a look at which optimiser steps. `scalars` and `history` hold what
    docs/monitor.md lists, NaN where something could not be measured. Over a list of actors, shares and means are
    averaged, `z_abs_max` is the largest, and norms and `z_step_rms` are root mean squares.

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
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
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
        self._actors = [Actor(network, own_head) for network, own_head in zip(actors, heads, strict=True)]
        self._critics = critics
        optimizers = [
            _listed(given, torch.optim.Optimizer, name)
            for given, name in ((actor_optimizer, "actor_optimizer"), (critic_optimizer, "critic_optimizer"))
        ]
        self._actor_side = Side("actor", optimizers[0], {p for network in actors for p in network.parameters()})
        self._critic_side = Side("critic", optimizers[1], {p for network in critics for p in network.parameters()})
        self._check()

        self._recorders = [Recorder(actor.network, actor.called) for actor in self._actors]
        for place, network in enumerate(critics):
            self._recorders.append(Recorder(network, lambda call, place=place: self._critic_called(place, call)))
        self._critic_calls = 0
        self._reached: dict[Edge, dict[Actor, Watched]] = {}  # what each output of a critic's call depends on
        self._roles: WeakKeyDictionary[torch.optim.Optimizer, list[tuple[Side, list[Tensor]]]] = WeakKeyDictionary()
        self._leader: torch.optim.Optimizer | None = optimizers[0][0] if optimizers[0] else None
        self._watching = False  # from after the update before a measured one
        self._measuring = False  # from the leader's step on, until every actor has stepped
        self._handles: list[Any] = []

    def attach(self) -> "SaturationMonitor":
        """Begin to watch, or go on; does nothing where it watches already."""
        if not self._handles:
            self._handles = [
                register_optimizer_step_pre_hook(self._before_step),
                # A global hook runs after those of the optimiser itself, so it sees what limit_steps leaves of a step.
                register_optimizer_step_post_hook(self._after_step),
            ]
            if self.updates % self.every == 0:
                self._watch()
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
        return diagnose(self.history)

    def report(self) -> str:
        """Verdict, evidence, advice, the first and the latest scalars, for people."""
        return report(self.history)

    def _check(self) -> None:
        stepped = {p for optimizer in self._actor_side.given for p in self._actor_side.of(optimizer)}
        for actor in self._actors:
            if any(getattr(part, "_compiled_call_impl", None) for part in actor.network.modules()):
                raise MonitorError(
                    "actor was compiled in place, so its passes cannot be seen: train with compiled = "
                    "torch.compile(actor) and give actor=compiled"
                )
            if actor.head is not None and actor.head not in set(eager(actor.network).modules()):
                raise MonitorError("head is no part of the actor: give head= a module inside it")
            if self._actor_side.given and not actor.parameters & stepped:
                raise MonitorError(
                    "actor_optimizer holds none of the actor's parameters: give actor_optimizer= the one made from "
                    "actor.parameters(), or leave it out"
                )
        if self._critic_side.given and not any(self._critic_side.of(one) for one in self._critic_side.given):
            raise MonitorError(
                "critic_optimizer holds none of the critic's parameters: give critic_optimizer= the one made from "
                "critic.parameters(), or leave it out"
            )

    def _watch(self) -> None:
        self._watching = True
        for recorder in self._recorders:
            recorder.start()

    def _stop_watching(self) -> None:
        self._watching = self._measuring = False
        for recorder in self._recorders:
            recorder.stop()
        self._forget()

    def _forget(self) -> None:
        for kept in (*self._actors, self._actor_side, self._critic_side):
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
        starts = [start for start in map(edge, tensors_in((call.args, call.kwargs))) if start is not None]
        found: dict[Actor, Watched] = {}
        for here, tanh in search(starts, lambda at: at in outputs or at in self._reached):
            for actor, watched in self._reached.get(here, {outputs.get(here): (here, tanh)}).items():
                found.setdefault(actor, watched)
        if not found:
            return
        self._reached.update(dict.fromkeys(call.made(), found))
        with self._unrecorded():
            for actor, (here, tanh) in found.items():
                actor.criticised(place, call, call.module is self._critics[place], here, tanh)

    def _sides(self, optimizer: torch.optim.Optimizer) -> list[tuple[Side, list[Tensor]]]:
        if optimizer not in self._roles:
            held = [(side, side.of(optimizer)) for side in (self._actor_side, self._critic_side)]
            self._roles[optimizer] = [(side, weights) for side, weights in held if weights]
        return self._roles[optimizer]

    def _before_step(self, optimizer: torch.optim.Optimizer, _args: tuple, _kwargs: dict) -> None:
        for side, weights in self._sides(optimizer):
            if side is self._critic_side:
                if self._watching:
                    side.before_step(optimizer, weights)
                continue
            self._leader = self._leader or optimizer
            if optimizer is self._leader:
                self._next_update()
            if self._measuring:
                side.before_step(optimizer, weights)
                for actor in self._stepped_by(weights):
                    self._find_outputs(actor)

    def _next_update(self) -> None:
        if self._measuring:  # an actor of the list did not step
            self._finish()
        self._measuring = self.updates % self.every == 0
        self.updates += 1
        if self.updates % self.every == 0:
            self._watch()

    def _stepped_by(self, weights: list[Tensor]) -> list[Actor]:
        if len(self._actors) == 1:
            return self._actors
        return [actor for actor in self._actors if any(w in actor.parameters for w in weights)]

    def _find_outputs(self, actor: Actor) -> None:
        try:
            if self._critics and actor.seen is None and actor.calls:
                raise MonitorError(self._no_critic())
            with self._unrecorded():
                actor.before_step()
        except MonitorError:
            if not self.history:  # later on, an update of another kind is no reason to end a training
                self.detach()
                raise

    def _no_critic(self) -> str:
        looked_for = "the actor's action, with its gradient, at the critic's input before the actor's optimiser stepped"
        if not self._critic_calls:
            return (
                f"looked for {looked_for}, but the critic was not called (calls inside vmap are not seen): give "
                "critic= the one in the actor's loss"
            )
        return (
            f"looked for {looked_for}: the critic was called {self._critic_calls} times without it; is the action "
            "detached, or actor= or critic= another network than the loss uses?"
        )

    def _after_step(self, optimizer: torch.optim.Optimizer, _args: tuple, _kwargs: dict) -> None:
        for side, weights in self._sides(optimizer):
            if optimizer not in side.before:
                continue
            side.after_step(optimizer)
            if side is self._actor_side:
                with self._unrecorded():
                    for actor in self._stepped_by(weights):
                        actor.after_step()
                if all(actor.measured is not None for actor in self._actors):
                    self._finish()

    def _finish(self) -> None:
        found = [actor.measured for actor in self._actors if actor.measured]
        values = {name: float("nan") for name in SCALARS}
        for name in {name for measured in found for name in measured}:
            over_actors = torch.stack([measured[name] for measured in found if name in measured])
            combined = {"z_abs_max": torch.max, "z_step_rms": rms}.get(name, torch.mean)(over_actors)
            values[name] = float(combined)
        for side in (self._actor_side, self._critic_side):
            values |= {name: float(value) for name, value in side.scalars().items()}
        self.history.append({"update": self.updates, **values})
        if self.updates % self.every == 0:  # the next update is measured, too
            self._measuring = False
            self._forget()
        else:
            self._stop_watching()


def _listed(given: Any, kind: type, name: str) -> list:
    """A list of one or several; raises where one is of another kind."""
    if given is None:
        return []
    several = [given] if isinstance(given, kind) else list(given) if isinstance(given, Iterable) else [given]
    for one in several:
        if not isinstance(one, kind):
            raise MonitorError(f"{name} is a {type(one).__name__}: a {kind.__module__}.{kind.__name__} is needed")
    return several
