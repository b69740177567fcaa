"""Every experiment's actor and critic against torch.nn modules: outputs, gradients and statistics, in float64.

Networks of R runs are stacked in one call; each must equal a module of its own. Small sizes, random weights.
"""

from __future__ import annotations

import pytest
import torch
from agents.plain_networks import by_kind, plain_networks
from common.agents.candidates import critic_inputs
from common.agents.training_step import act, agents_first
from helpers import experiments, linear_orientation
from reference.naive_learner import NaiveNetwork
from torch import Tensor

from common.agents.networks import Actor, Critic
from common.environment.mec_env import ACTION_SIZE, STATE_SIZE

pytestmark = pytest.mark.usefixtures("one_thread")

RUNS, AGENTS, SAMPLES, ROWS, STEPS = 2, 3, 5, 4, 4
ACTOR_HIDDEN, CRITIC_HIDDEN = (9, 6), (11, 8)
OBSERVED = [pytest.param(0, id="nothing seen"), pytest.param(STEPS, id="after some steps")]


def close(actual: Tensor, expected: Tensor, what: str = "") -> None:
    torch.testing.assert_close(actual.detach(), expected.detach(), rtol=1e-9, atol=1e-11, msg=lambda m: f"{what}: {m}")


class Stacked:
    """Networks of all runs: their weights as one leaf, and their statistics."""

    def __init__(self, network: Actor | Critic, members: int, rng: torch.Generator):
        """Random weights, also where training starts at 0 or 1; statistics as training starts with them."""
        self.network = network
        initial = [torch.stack([layout.initial("test", seed, members) for seed in range(RUNS)])
                   for layout in (network.layout, network.statistics)]  # fmt: skip
        self.flat = initial[0] + 0.3 * torch.randn(initial[0].shape, generator=rng, dtype=torch.float64)
        self.flat.requires_grad_()
        self.statistics = initial[1]

    @property
    def p(self) -> dict[str, Tensor]:
        """Weights and statistics by name."""
        return self.network.layout.views(self.flat) | self.network.statistics.views(self.statistics)

    def copy_into(self, modules: list[NaiveNetwork]) -> None:
        """Give every module the weights of its network."""
        with torch.no_grad():
            weights = linear_orientation(self.network.layout.views(self.flat))
            for i, module in enumerate(modules):
                parameters = dict(module.named_parameters())
                assert parameters.keys() == weights.keys(), "no module is written out for these layers"
                for name, parameter in parameters.items():
                    parameter.copy_(weights[name][i])

    def compare(self, modules: list[NaiveNetwork]) -> None:
        """Gradients, where there are any, and statistics are those of the modules."""
        statistics = self.network.statistics.views(self.statistics)
        for i, module in enumerate(modules):
            mine, its = by_kind((k, v[i]) for k, v in statistics.items()), by_kind(module.named_buffers())
            assert mine.keys() == its.keys()
            for kind in mine:
                close(mine[kind], its[kind], kind)
        if self.flat.grad is not None:
            gradients = linear_orientation(self.network.layout.views(self.flat.grad))
            for i, module in enumerate(modules):
                for name, parameter in module.named_parameters():
                    close(gradients[name][i], parameter.grad, f"gradient of {name}")


def random_states(rng: torch.Generator, *shape: int) -> Tensor:
    """Numbers of about the size of states."""
    scale = torch.tensor([12.0, 10.0, 1.0, 25.0, 500.0, 0.5, 1.0], dtype=torch.float64)
    return scale * torch.rand((*shape, STATE_SIZE), generator=rng, dtype=torch.float64)


def random_actions(rng: torch.Generator, *shape: int) -> Tensor:
    return 2.0 * torch.rand((*shape, ACTION_SIZE), generator=rng, dtype=torch.float64) - 1.0


@pytest.mark.parametrize("steps", OBSERVED)
@pytest.mark.parametrize("name", experiments())
def test_actor(name: str, steps: int) -> None:
    """Action, z, and the gradient of a random function of both with respect to weights and states."""
    rng = torch.Generator().manual_seed(1)
    stacked = Stacked(experiments()[name].actor_class(ACTOR_HIDDEN), AGENTS, rng)
    sizes = (STATE_SIZE, *ACTOR_HIDDEN, ACTION_SIZE)
    modules = [plain_networks(name)[0](sizes).double() for _ in range(RUNS * AGENTS)]
    stacked.copy_into(modules)
    with torch.no_grad():
        for _ in range(steps):
            state = agents_first(random_states(rng, RUNS, 1, AGENTS))
            stacked.network.observe_step(stacked.p, {"states": state})
            batch = agents_first(random_states(rng, RUNS, SAMPLES, AGENTS))
            stacked.network.observe_batch(stacked.p, batch)
            for i, module in enumerate(modules):
                module.observe_step(state[i, 0])
                module.observe_batch(batch[i])

    states = random_states(rng, RUNS, SAMPLES, AGENTS).requires_grad_()
    slopes = [torch.randn(RUNS, SAMPLES, AGENTS, ACTION_SIZE, generator=rng, dtype=torch.float64) for _ in range(2)]
    action, z = act(stacked.network, stacked.p, states)
    (slopes[0] * action + slopes[1] * z).sum().backward()
    plain_states = states.detach().clone().requires_grad_()
    for i, module in enumerate(modules):
        run, agent = divmod(i, AGENTS)
        plain_z = module(plain_states[run, :, agent])
        close(z[run, :, agent], plain_z, "z")
        close(action[run, :, agent], plain_z.tanh(), "action")
        (slopes[0][run, :, agent] * plain_z.tanh() + slopes[1][run, :, agent] * plain_z).sum().backward()
    close(states.grad, plain_states.grad, "gradient of the states")
    stacked.compare(modules)


@pytest.mark.parametrize("steps", OBSERVED)
@pytest.mark.parametrize("name", experiments())
def test_critic(name: str, steps: int) -> None:
    """Q of several rows per sample, and its gradient with respect to weights, states, actions and personal inputs."""
    rng = torch.Generator().manual_seed(2)
    stacked = Stacked(experiments()[name].critic_class(AGENTS, CRITIC_HIDDEN), 1, rng)
    sizes = ((STATE_SIZE + ACTION_SIZE) * (AGENTS + 1), *CRITIC_HIDDEN, 1)
    modules = [plain_networks(name)[1](sizes).double() for _ in range(RUNS)]
    stacked.copy_into(modules)
    with torch.no_grad():
        for _ in range(steps):
            state, action = random_states(rng, RUNS, 1, AGENTS), random_actions(rng, RUNS, 1, AGENTS)
            stacked.network.observe_step(stacked.p, critic_inputs(state, action))
            for run, module in enumerate(modules):
                joint = torch.cat((state[run].flatten(), action[run].flatten()))
                module.observe_step(joint, torch.cat((state[run, 0], action[run, 0]), dim=1))

    states, actions = (f(rng, RUNS, SAMPLES, AGENTS).flatten(2) for f in (random_states, random_actions))
    personal = torch.cat([f(rng, RUNS, SAMPLES * ROWS) for f in (random_states, random_actions)], dim=2)
    personal[:, ::ROWS] = 0.0  # the zero row, normalised like any other
    inputs = [x.requires_grad_() for x in (states, actions, personal)]
    slopes = torch.randn(RUNS, SAMPLES * ROWS, generator=rng, dtype=torch.float64)
    values = stacked.network.values(stacked.p, stacked.network.joint_part(stacked.p, states, actions), personal)
    (slopes * values).sum().backward()
    with torch.no_grad():  # without a gradient it may compute in another way
        again = stacked.network.values(stacked.p, stacked.network.joint_part(stacked.p, states, actions), personal)
    close(again, values, "Q without gradient")

    plain_inputs = [x.detach().clone().requires_grad_() for x in inputs]
    for run, module in enumerate(modules):
        joint = torch.cat([x[run].repeat_interleave(ROWS, dim=0) for x in plain_inputs[:2]], dim=1)
        plain_values = module(torch.cat((joint, plain_inputs[2][run]), dim=1))[:, 0]
        close(values[run], plain_values, "Q")
        (slopes[run] * plain_values).sum().backward()
    for x, plain, what in zip(inputs, plain_inputs, ("states", "actions", "personal inputs"), strict=True):
        close(x.grad, plain.grad, f"gradient of the {what}")
    stacked.compare(modules)


def test_statistics_by_hand() -> None:
    """Running mean and variance of three steps, in numbers: the modules above are right, too."""
    module = plain_networks("input_norm")[0]((STATE_SIZE, *ACTOR_HIDDEN, ACTION_SIZE)).double()
    for value in (100.0, 0.0, 50.0):
        module.observe_step(torch.full((STATE_SIZE,), value, dtype=torch.float64))
    mean, variance = 0.0, 1.0
    for value in (100.0, 0.0, 50.0):
        # The weighted samples about their new mean: the old ones have moved away from it, the new one lies beside it.
        new_mean = mean + 0.01 * (value - mean)
        variance = 0.99 * (variance + (mean - new_mean) ** 2) + 0.01 * (value - new_mean) ** 2
        mean = new_mean
    assert module.input.mean.tolist() == pytest.approx([mean] * STATE_SIZE)
    assert module.input.variance.tolist() == pytest.approx([variance] * STATE_SIZE)
    normalised = module.input(torch.full((STATE_SIZE,), 7.0, dtype=torch.float64))
    assert normalised.tolist() == pytest.approx([(7.0 - mean) / (variance + 1e-5) ** 0.5] * STATE_SIZE)
