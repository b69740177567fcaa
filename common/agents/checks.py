"""One clear line, before anything is trained, for what is wrong with an experiment's own networks and rules."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.agents.algorithm import Algorithm
from common.agents.bank import Bank
from common.agents.layout import Layout
from common.agents.networks import PERSONAL_SIZE, Actor, Critic
from common.agents.optimizer import Adam
from common.config import ConfigError, StudyConfig
from common.environment.mec_env import ACTION_SIZE, STATE_SIZE
from common.experiment import Experiment

RUNS, SAMPLES, ROWS = 2, 3, 2  # of the made-up numbers that everything is tried on


def check_parts(experiment: Experiment, config: StudyConfig) -> None:
    """ConfigError where a method overrides nothing, fails, gives another shape, or keeps what the learner loses."""
    actor, critic = (experiment.actor or Actor)(config), (experiment.critic or Critic)(config)
    algorithm = (experiment.algorithm or Algorithm)(config)
    parts = ((actor, Actor), (critic, Critic), (algorithm, Algorithm))
    for own, base in parts:
        _check_names(type(own), base)
    for network in (actor, critic):
        _check_tensors(network)
    kept = [_attributes(own) for own, _ in parts]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # nothing here is worth a second one, and a forked process would wait for it for ever
    try:
        with torch.no_grad():
            z = _check_actor(actor, experiment, config)
            heads = _check_critic(critic, experiment, config)
            _check_rules(actor, algorithm, z, heads, config)
            for network, make in ((actor, algorithm.actor_optimizer), (critic, algorithm.critic_optimizer)):
                _check_optimizer(f"{type(algorithm).__name__}.{make.__name__}", make, network)
    finally:
        torch.set_num_threads(threads)
    for (own, _), before in zip(parts, kept, strict=True):
        instead = "registered buffers, changed in place" if isinstance(own, nn.Module) else "run_state"
        _check_kept(own, before, instead)


def _check_names(own: type, base: type) -> None:
    """What is nearly called like a name of the base's is a slip of the pen that would change nothing."""
    known = [name for name in dir(base) if not name.startswith("_")]
    for cls in own.__mro__[: own.__mro__.index(base)]:
        for name, value in vars(cls).items():
            near = difflib.get_close_matches(name, known, 1, cutoff=0.8 if callable(value) else 0.9)
            if near and name not in known and not name.startswith("_"):
                raise ConfigError(f"{cls.__name__}.{name}: overrides nothing; did you mean {near[0]}?")


def _check_tensors(network: Actor | Critic) -> None:
    """The engine keeps all parameters and buffers of a kind in one tensor, each once, and trains every parameter."""
    places: dict[int, str] = {}
    for named in (network.named_parameters, network.named_buffers):
        for name, x in named(remove_duplicate=False):
            problem = None
            if id(x) in places:
                problem = f"is {places[id(x)]} as well; allowed: a tensor of its own"
            elif isinstance(x, nn.Parameter) and not x.requires_grad:
                problem = "has requires_grad=False, but every parameter is trained; allowed: a buffer"
            elif name not in network.state_dict():
                problem = "is not persistent; allowed: buffers that are"
            elif not x.is_floating_point():
                problem = f"has {x.dtype}; allowed: a floating-point type"
            if problem:
                raise ConfigError(f"{type(network).__name__}.{name} {problem}")
            places[id(x)] = name


def _attributes(own: object) -> dict[str, Any]:
    """What an object, and each module in it, keeps, by name; of a tensor that is no buffer a copy."""
    parts = own.named_modules() if isinstance(own, nn.Module) else [("", own)]
    found = {}
    for path, part in parts:
        copied = {name: x.clone() if isinstance(x, Tensor) else x for name, x in vars(part).items()}
        for name, value in (copied | getattr(part, "_buffers", {})).items():
            found[f".{path}.{name}" if path else f".{name}"] = value
    return found


def _check_kept(own: object, before: dict[str, Any], instead: str) -> None:
    """The engine calls one object for all runs, in several processes, and saves nothing of it."""
    for name, value in _attributes(own).items():
        was = before.get(name)
        if was is not value and not (isinstance(was, Tensor) and isinstance(value, Tensor) and torch.equal(was, value)):
            raise ConfigError(f"{type(own).__name__}{name}: a method changes it, which is lost; allowed: {instead}")


def _random_state() -> tuple[bytes, str]:
    return torch.get_rng_state().numpy().tobytes(), str(np.random.get_state())


def _tried(what: str, function: Callable[..., Any], *inputs: Any) -> Any:
    before = _random_state()
    try:
        output = function(*inputs)
    except Exception as problem:
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs if isinstance(x, Tensor))
        reason = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise ConfigError(f"{what} fails on inputs of shape {shapes}: {reason}") from problem
    if before != _random_state():
        raise ConfigError(f"{what} draws random numbers; allowed: those that a rule is given, which the seed fixes")
    return output


def _expect(what: str, output: Any, *shape: int) -> None:
    found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if found != shape:
        raise ConfigError(f"{what} gives {found}; allowed: a tensor of shape {shape}")


def _calls(network: Actor | Critic, make: Callable[[Any], Actor | Critic], config: StudyConfig) -> Callable[..., Any]:
    """What calls a method of the network by itself, and then of two at once, as the engine does."""
    bank = Bank(
        lambda: make(config), "checks", [0, 1], 1, optimizer=Adam, separate_target=False, one_by_one=False,
        dtype=torch.float32, device=torch.device("cpu"),
    )  # fmt: skip
    two = slice(0, 2)

    def call(method: str, *inputs: Tensor) -> Any:
        what = f"{type(network).__name__}.{method}"
        learned = method in ("forward", "joint", "values")
        buffers = {name: x.clone() for name, x in network.named_buffers()}
        with torch.set_grad_enabled(learned):
            found = _tried(what, getattr(network, method), *inputs)
        if learned:
            for name, x in network.named_buffers():
                if not torch.equal(x, buffers[name]):
                    raise ConfigError(f"{what} changes the buffer {name}; allowed: in observe and observe_batch")
            if isinstance(found, Tensor):
                if not found.requires_grad:
                    raise ConfigError(f"{what} gives no gradient; allowed: what depends on the weights, not detached")
                found = found.detach()

        def stacked(*x: Tensor) -> None:
            if found is None:  # it observes
                bank.observe(method, two, *x)
            elif not isinstance(found, dict) or found:  # the baseline measures nothing
                bank.call(method, bank.tensors(two), *x)

        _tried(f"{what}, for several networks at once,", stacked, *(x.expand(2, *x.shape) for x in inputs))
        return found

    return call


def _check_alone(problem: str, among_others: Tensor, alone: Tensor) -> None:
    """Which rows share a call differs from call to call, so none may depend on the others."""
    if not torch.allclose(among_others, alone, rtol=1e-3, atol=1e-5, equal_nan=True):
        raise ConfigError(f"{problem}; allowed: each from its own inputs, so no statistics of a batch")


def _check_actor(actor: Actor, experiment: Experiment, config: StudyConfig) -> int:
    """Numbers in z."""
    name, call = type(actor).__name__, _calls(actor, experiment.actor or Actor, config)
    for samples in (SAMPLES, 1):  # an agent learns from a batch, and acts on one state
        states = torch.rand(samples, STATE_SIZE)
        call("observe", states[:1])
        call("observe_batch", states)
        call("measures", states)
        z = call("forward", states)
        actions = _tried(f"{name}.squash", actor.squash, z)
        _expect(f"{name}.squash of what {name}.forward gives", actions, samples, ACTION_SIZE)
        if not actions.isfinite().all():
            raise ConfigError(f"{name}.forward of {samples} states gives {z.tolist()}; allowed: finite numbers")
        _check_alone(f"{name}.forward mixes states", z[:1], actor.forward(states[:1]))
    for x in (*actor.parameters(), *actor.buffers()):
        x.add_(1.0)
    if not torch.equal(actor.squash(z), actions):
        raise ConfigError(f"{name}.squash uses tensors of its network, but is called once for all; allowed: in forward")
    return z.shape[-1]


def _check_critic(critic: Critic, experiment: Experiment, config: StudyConfig) -> int:
    """Heads of the critic."""
    name, call = type(critic).__name__, _calls(critic, experiment.critic or Critic, config)
    for samples in (SAMPLES, 1):
        joint = torch.rand(samples, config.agents * STATE_SIZE), torch.rand(samples, config.agents * ACTION_SIZE)
        rows = call("joint", *joint).unsqueeze(1), torch.rand(samples, ROWS, PERSONAL_SIZE)
        q = call("values", *rows)
        heads = q.shape[-1] if q.ndim == 3 else 1
        _expect(f"{name}.values of {samples} samples with {ROWS} rows each", q, samples, ROWS, heads)
        _check_alone(f"{name}.joint mixes samples", rows[0][:1, 0], critic.joint(*(x[:1] for x in joint)))
        _check_alone(f"{name}.values mixes rows", q[:1, :1], critic.values(rows[0][:1], rows[1][:1, :1]))
    call("observe", *joint, torch.rand(config.agents, PERSONAL_SIZE))
    return heads


def _check_rules(actor: Actor, algorithm: Algorithm, z_size: int, heads: int, config: StudyConfig) -> None:
    name, agents = type(algorithm).__name__, config.agents
    z, q = torch.randn(RUNS, SAMPLES, agents, z_size), torch.rand(RUNS, SAMPLES, ROWS, heads)
    actions, noise = actor.squash(z), torch.randn(RUNS, SAMPLES, agents, ACTION_SIZE)
    samples = torch.rand(RUNS, SAMPLES)
    done, valid = torch.zeros(RUNS, SAMPLES, dtype=torch.bool), torch.ones(RUNS, SAMPLES, ROWS, dtype=torch.bool)
    start = _tried(f"{name}.run_state", algorithm.run_state)
    if not isinstance(start, dict) or not all(isinstance(x, float | int) for x in start.values()):
        raise ConfigError(f"{name}.run_state gives {start}; allowed: a dict of a number for each name")
    state = MappingProxyType({key: torch.full((RUNS,), float(x), dtype=torch.float64) for key, x in start.items()})
    _tried(f"{name}.observe_rewards", algorithm.observe_rewards, state, samples)
    smoothing = noise if algorithm.target_noise else None
    per_action, per_sample, per_run = actions.shape, samples.shape, (RUNS,)
    for rule, inputs, shape in (
        ("reward", (state, samples), per_sample),
        ("explore", (actions, z, noise, torch.tensor(0.5)), per_action),
        ("target_action", (actions, z, smoothing), per_action),
        ("value", (q,), q.shape[:-1]),
        ("target_value", (q,), q.shape[:-1]),
        ("td_target", (samples, done, samples), per_sample),
        ("critic_loss", (q, samples, samples, valid), per_run),
        ("actor_loss", (z, actions, samples, samples), per_run),
        ("action_gradient", (noise, z, actions), per_action),
    ):
        before = {key: x.clone() for key, x in state.items()}
        output = _tried(f"{name}.{rule}", getattr(algorithm, rule), *inputs)
        _expect(f"{name}.{rule}", output, *shape)
        if not output.isfinite().all():
            raise ConfigError(f"{name}.{rule} gives inf or nan for ordinary numbers; allowed: finite numbers")
        if any(not torch.equal(x, before[key]) for key, x in state.items()):
            raise ConfigError(f"{name}.{rule} changes run_state; allowed: in observe_rewards")
        others = _tried(f"{name}.{rule}", getattr(algorithm, rule), *map(_second_run_changed, inputs))
        if not torch.equal(output[0], others[0]):
            raise ConfigError(f"{name}.{rule} mixes runs; allowed: each run's numbers from its own, along dimension 0")

    for rule in ("critic_due", "actor_due", "target_due"):
        _tried(f"{name}.{rule}", getattr(algorithm, rule), 1)


def _check_optimizer(what: str, make: Callable[..., Adam], network: Actor | Critic) -> None:
    layout = Layout({name: tuple(x.shape) for name, x in network.named_parameters()})
    own = _tried(what, make, layout.layers)
    name, kept = type(own).__name__, _attributes(own)
    if not isinstance(own, Adam):
        raise ConfigError(f"{what} gives {name}; allowed: a subclass of common.agents.optimizer.Adam")
    _check_names(type(own), Adam)
    scales = _tried(f"{name}.scales", own.scales, torch.full((RUNS,), 1e-3, dtype=torch.float64), 1)
    columns = scales.shape[1] if isinstance(scales, Tensor) and scales.ndim == 2 else 1
    _expect(f"{name}.scales", scales, RUNS, columns)  # of any number of columns
    weights, gradients = torch.rand(2, RUNS, layout.size)

    def change(runs: slice) -> Tensor:
        moments = tuple(torch.zeros(len(weights[runs]), layout.size) for _ in own.moments)
        inputs = weights[runs].clone(), gradients[runs].clone(), moments
        return _tried(f"{name}.change", own.change, *inputs, tuple(scales[runs].float()[..., None].unbind(1)))

    both = change(slice(None))
    _expect(f"{name}.change", both, RUNS, layout.size)
    _check_kept(own, kept, "the moments that it names")
    _check_alone(f"{name}.change mixes networks", both[:1], change(slice(1)))


def _second_run_changed(given: Any) -> Any:
    """The same made-up numbers, but for those of the second run."""
    if not isinstance(given, Tensor) or given.ndim == 0 or given.dtype == torch.bool:
        return given
    return torch.cat([given[:1], 0.5 * given[1:]])
