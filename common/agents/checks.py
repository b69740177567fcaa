"""One clear line, before anything is trained, for what is wrong with an experiment's own networks and rules."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from common.agents.algorithm import Algorithm
from common.agents.networks import PERSONAL_SIZE, Actor, Critic
from common.config import ConfigError, StudyConfig
from common.environment.mec_env import ACTION_SIZE, STATE_SIZE
from common.experiment import Experiment

RUNS, SAMPLES, ROWS = 2, 3, 2  # of the made-up numbers that everything is tried on


def check_parts(experiment: Experiment, config: StudyConfig) -> None:
    """ConfigError where a method overrides nothing, fails, or gives another shape than the learner needs."""
    actor, critic = (experiment.actor or Actor)(config), (experiment.critic or Critic)(config)
    algorithm = (experiment.algorithm or Algorithm)(config)
    for own, base in ((actor, Actor), (critic, Critic), (algorithm, Algorithm)):
        _check_names(type(own), base)
    with torch.no_grad():
        z, heads = _check_networks(actor, critic, config)
        _check_rules(actor, algorithm, z, heads, config)


def _check_names(own: type, base: type) -> None:
    """A method that is nearly called like one of the base's is a slip of the pen that would change nothing."""
    known = [name for name in dir(base) if not name.startswith("_")]
    for cls in own.__mro__[: own.__mro__.index(base)]:
        for name, value in vars(cls).items():
            near = difflib.get_close_matches(name, known, 1, cutoff=0.8) if callable(value) else []
            if near and name not in known:
                raise ConfigError(f"{cls.__name__}.{name}: overrides nothing; did you mean {near[0]}?")


def _tried(what: str, function: Callable[..., Any], *inputs: Any) -> Any:
    try:
        return function(*inputs)
    except Exception as problem:
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs if isinstance(x, Tensor))
        reason = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise ConfigError(f"{what} fails on inputs of shape {shapes}: {reason}") from problem


def _expect(what: str, output: Any, *shape: int) -> None:
    found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if found != shape:
        raise ConfigError(f"{what} gives {found}; allowed: a tensor of shape {shape}")


def _check_networks(actor: Actor, critic: Critic, config: StudyConfig) -> tuple[int, int]:
    """Numbers in z, and heads of the critic."""
    agents, a, c = config.agents, type(actor).__name__, type(critic).__name__
    states = torch.rand(SAMPLES, STATE_SIZE)
    z = _tried(f"{a}.forward", actor, states)
    _expect(f"{a}.squash of what {a}.forward gives", _tried(f"{a}.squash", actor.squash, z), SAMPLES, ACTION_SIZE)

    def stacked(tensors: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(actor, tensors, (x,))

    two = {name: torch.stack((x, x)) for name, x in actor.state_dict().items()}
    _tried(f"{a}.forward, for several networks at once,", torch.func.vmap(stacked), two, torch.stack((states, states)))
    joint = (torch.rand(SAMPLES, agents * STATE_SIZE), torch.rand(SAMPLES, agents * ACTION_SIZE))
    share = _tried(f"{c}.joint", critic.joint, *joint).unsqueeze(1)
    q = _tried(f"{c}.values", critic.values, share, torch.rand(SAMPLES, ROWS, PERSONAL_SIZE))
    heads = q.shape[-1] if q.ndim == 3 else 1
    _expect(f"{c}.values of {SAMPLES} samples with {ROWS} rows each", q, SAMPLES, ROWS, heads)
    return z.shape[-1], q.shape[-1]


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
        _expect(f"{name}.{rule}", _tried(f"{name}.{rule}", getattr(algorithm, rule), *inputs), *shape)
