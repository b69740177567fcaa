"""Ready-made rules for experiments: normalised rewards, steps limited relative to a layer's weights, the recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from common.agents.algorithm import Algorithm
from common.agents.layout import Layer
from common.agents.networks import Actor, Critic
from common.agents.normalisation import NormalisedInputs, NormalisedState
from common.agents.optimizer import Adam
from common.config import ConfigError, StudyConfig, option
from common.monitor.definitions import step_factor

VALUES = {  # parts of the recipe that are only another value of an option
    "small_noise": ("noise_scale", 0.3),
    "slow_targets": ("tau", 0.01),
    "recent_replay": ("replay_capacity", 2000),
    "uniform_replay": ("replay_alpha", 0.0),
}
RECIPE: dict[str, Any] = dict(VALUES.values())
PARTS = ("input_norm", "reward_norm", "step_limit", *VALUES)
LAST_FOUR = "last_four"  # all of VALUES

LEAST_VARIANCE = 1e-8


class NormalisedReward(Algorithm):
    """The learner sees (r − mean)/sd of all training rewards of its run so far, with their present values."""

    def run_state(self) -> dict[str, float]:
        return {**super().run_state(), "reward_count": 0.0, "reward_mean": 0.0, "reward_squares": 0.0}

    def observe_rewards(self, run_state: dict[str, Tensor], rewards: Tensor) -> None:
        super().observe_rewards(run_state, rewards)
        count, mean, squares = (run_state[f"reward_{name}"] for name in ("count", "mean", "squares"))
        new = rewards.double()
        steps = new.shape[1]
        apart = new.mean(1) - mean
        squares += (new - new.mean(1, keepdim=True)).square().sum(1) + apart.square() * count * steps / (count + steps)
        mean += apart * steps / (count + steps)
        count += steps

    def reward(self, run_state: dict[str, Tensor], rewards: Tensor) -> Tensor:
        count, mean, squares = (run_state[f"reward_{name}"] for name in ("count", "mean", "squares"))
        sd = (squares / count.clamp(min=1.0)).clamp(min=LEAST_VARIANCE).sqrt()
        return ((super().reward(run_state, rewards).double() - mean[:, None]) / sd[:, None]).to(rewards.dtype)


@dataclass(frozen=True)
class LimitedStepsConfig(StudyConfig):
    """The options of LimitedSteps."""

    actor_limit: float = option(1e-3, "largest relative change of a layer of the actors in a step", above=0.0)
    critic_limit: float = option(1e-2, "largest relative change of a layer of the critic in a step", above=0.0)


class LimitedAdam(Adam):
    """Adam whose step changes no layer by more than `relative` of max(its weights' norm, 1e-3·√numbers).

    Weight and bias of a layer count together. The same rule as `limit_steps` of the monitor.
    """

    def __init__(self, layers: dict[str, Layer], relative: float, beta1: float, beta2: float, eps: float):
        super().__init__(layers, beta1, beta2, eps)
        self.relative = relative

    def change(
        self, weights: Tensor, gradients: Tensor, moments: tuple[Tensor, ...], scales: tuple[Tensor, ...]
    ) -> Tensor:
        change = super().change(weights, gradients, moments, scales)
        for layer in self.layers.values():
            step, weight = (x[..., layer.place] for x in (change, weights))
            norms = (x.norm(dim=-1, keepdim=True) for x in (step, weight))
            step.mul_(step_factor(*norms, layer.numbers, self.relative))
        return change


class LimitedSteps(Algorithm):
    """Actors and critic with LimitedAdam, by the options actor_limit and critic_limit of the configuration."""

    def actor_optimizer(self, layers: dict[str, Layer]) -> Adam:
        return LimitedAdam(layers, self.config.actor_limit, self.config.beta1, self.config.beta2, self.config.adam_eps)

    def critic_optimizer(self, layers: dict[str, Layer]) -> Adam:
        rates = (self.config.critic_beta1, self.config.beta2, self.config.adam_eps)
        return LimitedAdam(layers, self.config.critic_limit, *rates)


@dataclass(frozen=True)
class RecipeConfig(LimitedStepsConfig):
    """The options of the recipe."""

    without: tuple[str, ...] = option(
        (), f"parts of the recipe to leave out; {LAST_FOUR}: {', '.join(VALUES)}", choices=(*PARTS, LAST_FOUR)
    )
    debiased: bool = option(True, "running means and variances of the inputs that forget their start")

    def __post_init__(self) -> None:
        for part, (name, value) in VALUES.items():
            if {part, LAST_FOUR} & {*self.without}:
                usual = getattr(StudyConfig, name)
                if getattr(self, name) not in (value, usual):
                    raise ConfigError(f"--without {part}: {name} is {getattr(self, name)}; allowed: one of the two")
                object.__setattr__(self, name, usual)
        for name in ("actor_limit", "critic_limit"):
            if "step_limit" in self.without and getattr(self, name) != getattr(LimitedStepsConfig, name):
                raise ConfigError(f"--without step_limit: nothing reads {name}; allowed: its default")
        super().__post_init__()


class RecipeActor(NormalisedState, Actor):
    """The actor of the recipe."""


class RecipeCritic(NormalisedInputs, Critic):
    """The critic of the recipe."""


def recipe_actor(config: RecipeConfig) -> Actor:
    """Actor of the recipe, as far as the configuration leaves its parts in."""
    return (Actor if "input_norm" in config.without else RecipeActor)(config)


def recipe_critic(config: RecipeConfig) -> Critic:
    """Critic of the recipe."""
    return (Critic if "input_norm" in config.without else RecipeCritic)(config)


def recipe_algorithm(config: RecipeConfig) -> Algorithm:
    """Rules of the recipe."""
    rules = {"step_limit": LimitedSteps, "reward_norm": NormalisedReward}
    kept = [own for part, own in rules.items() if part not in config.without]
    return type("RecipeAlgorithm", (*kept, Algorithm), {})(config)
