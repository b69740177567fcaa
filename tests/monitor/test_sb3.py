"""SaturationCallback in Stable-Baselines3's own training: DDPG, TD3, SAC and gSDE."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from monitor.loops import Expected, by_hand, compare, same_bits

from common.monitor import MonitorError, limit_steps
from common.monitor.diagnosis import SCALARS

stable_baselines3 = pytest.importorskip("stable_baselines3", reason="needs the packages of requirements-monitor.txt")
gymnasium = pytest.importorskip("gymnasium", reason="needs the packages of requirements-monitor.txt")

from stable_baselines3 import DDPG, PPO, SAC, TD3  # noqa: E402
from stable_baselines3.common.base_class import BaseAlgorithm  # noqa: E402
from stable_baselines3.common.logger import KVWriter, Logger  # noqa: E402
from stable_baselines3.common.torch_layers import FlattenExtractor  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.optim import optimizer as optim  # noqa: E402

from common.monitor.sb3 import SaturationCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
STEPS = 160
DEAD = {"stuck_tanh", "coasting", "frozen"}


class LearnedExtractor(FlattenExtractor):
    """Features with weights, which actor and critic share."""

    def __init__(self, observation_space: gymnasium.Space) -> None:
        super().__init__(observation_space)
        self.layer = nn.Linear(self.features_dim, self.features_dim)

    def forward(self, observations: Tensor) -> Tensor:
        return torch.tanh(self.layer(super().forward(observations)))


SHARED = {"features_extractor_class": LearnedExtractor, "share_features_extractor": True}
MODELS: dict[str, tuple[type[BaseAlgorithm], dict, dict]] = {  # with options of the model and of its policy
    "DDPG": (DDPG, {}, {}),
    "TD3": (TD3, {}, {}),
    "SAC": (SAC, {}, {}),
    "gSDE": (SAC, {"use_sde": True}, {}),
    "TD3 shared": (TD3, {}, SHARED),
    "SAC shared": (SAC, {}, SHARED),
}


def make(name: str, **options: object) -> BaseAlgorithm:
    kind, own, policy = MODELS[name]
    return kind(
        "MlpPolicy", "Pendulum-v1", seed=0, learning_starts=50, batch_size=32, device="cpu",
        policy_kwargs={"net_arch": [16, 16], **policy}, **own, **options,
    )  # fmt: skip


def bits(model: BaseAlgorithm) -> list[Tensor]:
    return [t.clone() for t in model.policy.state_dict().values()] + [torch.get_rng_state()]


def hooks(model: BaseAlgorithm) -> int:
    held = [hooks for part in model.policy.modules() for hooks in (part._forward_hooks, part._forward_pre_hooks)]
    return sum(map(len, (*held, optim._global_optimizer_pre_hooks, optim._global_optimizer_post_hooks)))


class Rows(KVWriter):
    """Keeps what the logger writes."""

    def __init__(self) -> None:
        self.rows: list[dict] = []

    def write(self, key_values: dict, key_excluded: dict, step: int = 0) -> None:
        self.rows.append(dict(key_values))


@pytest.mark.parametrize("name", MODELS)
def test_every_scalar_is_measured_and_training_keeps_its_bits(name: str) -> None:
    plain = make(name)
    plain.learn(STEPS)
    expected = bits(plain)
    model, callback = make(name), SaturationCallback(every=10)
    without = hooks(model)
    model.learn(STEPS, callback=callback)
    assert hooks(model) == without
    assert same_bits(bits(model), expected)
    updates = [row["update"] for row in callback.monitor.history]
    assert updates == list(range(1, callback.monitor.updates + 1, 10))
    for row in callback.monitor.history:
        assert all(math.isfinite(value) for value in row.values()), row
    assert callback.monitor.history[0]["z_step_rms"] > 0
    assert callback.monitor.diagnosis().verdict not in DEAD


@pytest.mark.parametrize("name", ["DDPG", "TD3", "TD3 shared"])
def test_deterministic_actors_are_measured_right(name: str) -> None:
    """By hand where the actor's loss reads the batch."""
    model, callback = make(name), SaturationCallback(every=1)
    found: list[Expected] = []
    original = model.critic.q1_forward

    def q1_forward(obs: Tensor, actions: Tensor) -> Tensor:
        with torch.no_grad():
            features = model.actor.extract_features(obs, model.actor.features_extractor)
            z = model.actor.mu[:-1](features)
        with torch.enable_grad():
            found.append(by_hand(z, lambda a: model.critic.q_networks[0](torch.cat([features, a], 1))))
        return original(obs, actions)

    model.critic.q1_forward = q1_forward
    model.learn(STEPS, callback=callback)
    check(callback, found)


@pytest.mark.parametrize("name", ["SAC", "gSDE"])
def test_stochastic_actors_are_measured_where_the_critic_saw_them(name: str) -> None:
    model, callback = make(name), SaturationCallback(every=1)
    found: list[Expected] = []
    original = model.critic.forward

    def forward(obs: Tensor, actions: Tensor) -> tuple[Tensor, ...]:
        if actions.requires_grad:
            with torch.no_grad():
                latent = model.actor.latent_pi(obs)
                z = F.linear(latent, *model.actor.mu[0].parameters()) if name == "gSDE" else model.actor.mu(latent)
            own = actions.detach().requires_grad_()
            (slope,) = torch.autograd.grad(original(obs, own)[0].sum(), own)
            found.append(Expected(z, actions.detach(), slope))
        return original(obs, actions)

    model.critic.forward = forward
    model.learn(STEPS, callback=callback)
    check(callback, found)


def check(callback: SaturationCallback, found: list[Expected]) -> None:
    assert len(found) == len(callback.monitor.history) > 20
    for row, expected in zip(callback.monitor.history, found, strict=True):
        compare(row, expected.scalars(), rel=1e-4)


def test_a_clipped_mean_counts_as_without_slope() -> None:
    """Under gSDE the mean passes Hardtanh(−2, 2): 1 − tanh² is alive there, but no gradient comes through."""
    model, callback = make("gSDE"), SaturationCallback(every=1)
    with torch.no_grad():
        model.actor.mu[0].bias.fill_(30.0)
    model.learn(70, callback=callback)
    first = callback.monitor.history[0]
    assert first["z_abs_median"] > 20
    assert first["zero_derivative_share"] == 1.0


def test_scalars_go_to_the_logger() -> None:
    writer, model, callback = Rows(), make("TD3"), SaturationCallback(every=10)
    model.set_logger(Logger(folder=None, output_formats=[writer]))
    model.learn(450, log_interval=1, callback=callback)
    rows = [row for row in writer.rows if "saturation/tanh_derivative" in row]
    assert rows
    assert {f"saturation/{name}" for name in SCALARS} <= set(rows[-1])
    values = {row["tanh_derivative"] for row in callback.monitor.history}
    assert all(row["saturation/tanh_derivative"] in values for row in rows)


def test_learning_goes_on_after_a_checkpoint(tmp_path: Path) -> None:
    model, callback = make("TD3"), SaturationCallback(every=10)
    model.learn(STEPS, callback=callback)
    model.save(tmp_path / "model.zip")
    before = [row["update"] for row in callback.monitor.history]
    resumed = TD3.load(tmp_path / "model.zip", env=model.get_env())
    resumed.learning_starts = 0
    resumed.learn(100, callback=callback, reset_num_timesteps=False)
    updates = [row["update"] for row in callback.monitor.history]
    assert updates[: len(before)] == before
    assert len(updates) > len(before)
    assert updates == sorted(set(updates))
    again = make("TD3")
    again.learn(STEPS, callback=callback)  # another training is another history
    assert [row["update"] for row in callback.monitor.history] == before


@pytest.mark.parametrize("another", [None, SaturationCallback(every=10)])
def test_an_exception_in_learn_is_mended_by_the_next_learn(another: SaturationCallback | None) -> None:
    class Stop(stable_baselines3.common.callbacks.BaseCallback):
        def _on_step(self) -> bool:
            if self.n_calls == 100:
                raise KeyboardInterrupt
            return True

    model, callback = make("TD3"), SaturationCallback(every=10)
    without = hooks(model)
    with pytest.raises(KeyboardInterrupt):
        model.learn(STEPS, callback=[callback, Stop()])
    model.learn(STEPS, callback=another if another else callback)
    assert hooks(model) == without


@pytest.mark.parametrize("limited", [False, True])
def test_a_large_learning_rate_is_diagnosed_and_limited_steps_keep_the_slope(limited: bool) -> None:
    model, callback = make("TD3", learning_rate=0.1), SaturationCallback(every=10)
    if limited:
        limit_steps(model.actor.optimizer, 0.001)
        limit_steps(model.critic.optimizer, 0.01)
    model.learn(300, callback=callback)
    assert (callback.monitor.diagnosis().verdict in DEAD) == (not limited)


def test_a_model_without_a_tanh_actor() -> None:
    model = PPO("MlpPolicy", "Pendulum-v1", n_steps=16, batch_size=16, device="cpu")
    with pytest.raises(MonitorError, match=r"\APPO.*\Z"):  # one line
        model.learn(16, callback=SaturationCallback())
