"""Each experiment differs from the baseline in what it declares and in nothing else.

Experiments are found, not listed: a new folder gets every test here but that of the published differences. That the
networks compute what they should is in tests/agents/test_learner_follows_naive.py.
"""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from helpers import EXPERIMENTS, experiments, make_learner
from torch import Tensor

from common.agents.learner import Learner
from common.agents.normalisation import MOMENTUM, RunningNorm
from common.agents.reports import RunKey, StepDetails
from common.config import StudyConfig, parse_command_line
from common.environment.mec_env import STEPS
from common.experiment import Experiment
from common.recording.tracking import gradient_columns, saturation_columns

KEYS = [RunKey(1, 1e-2, 1e-2), RunKey(2, 1e-1, 1e-3)]
EPISODES = 3
SMALL = {"agents": 12, "batch_size": 8, "episodes": 20, "eval_episodes": 2}
EVERYTHING = slice(None)
every_experiment = pytest.mark.parametrize("name", experiments())


def each(*kinds: str, **widths: int) -> dict[str, int]:
    return {f"{part}.{kind}": width for part, width in widths.items() for kind in kinds}


NORM, STATISTICS = ("weight", "bias"), ("mean", "variance")
INPUTS = {
    "actor buffers": each(*STATISTICS, states=7),
    "critic buffers": each(*STATISTICS, states=12 * 7, actions=12 * 3, personal=10),
}
# Experiment -> its overrides, its own options, and what its networks have that the baseline's lack, by width.
PUBLISHED: dict[str, dict[str, object]] = {
    "baseline": {},
    "large_actor": {"overrides": {"actor_hidden": (512, 128)}},
    "layernorm": {"actor weights": each(*NORM, norm=3)},
    "linear_activation": {},
    "fullnorm": {
        "actor weights": each(*NORM, norm1=64, norm2=32), "critic weights": each(*NORM, norm1=512, norm2=128), **INPUTS
    },
    "gradient_clipping": {"overrides": {"clip_norm": 1.0}},
    "input_norm": {"options": {"debiased"}, **INPUTS},
    "adaptive_scaling": {"actor buffers": {"low": 3, "high": 3}},
    "adam_memory": {"overrides": {"beta1": 0.5}},
}  # fmt: skip


def learner_of(name: str, keys: list[RunKey] = KEYS, dense: bool | None = None, **options: object) -> Learner:
    return make_learner(keys, dense, name, **SMALL, **options)


def details_after(episodes: int, learner: Learner) -> StepDetails:
    """What the training step looks like in the last of so many episodes more."""
    return [learner.train_episode(details=True) for _ in range(episodes)][-1].details


def configuration(experiment: Experiment) -> dict[str, object]:
    """What the experiment's script runs with when it is given no option."""
    config, _ = parse_command_line(experiment, [])
    return dataclasses.asdict(config)


@every_experiment
def test_it_differs_from_the_baseline_in_what_it_declares(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    experiment, plain = experiments()[name], dataclasses.asdict(StudyConfig())
    experiment.check()
    assert experiment.name == name and configuration(experiments()["baseline"]) == plain
    different = {key: value for key, value in configuration(experiment).items() if value != plain.get(key)}
    own = {spec.name: spec.default for spec in dataclasses.fields(experiment.config) if spec.name not in plain}
    assert different == {**own, **experiment.overrides}
    classes = (experiment.actor, experiment.critic, experiment.algorithm)
    assert any((different, *classes)) == (name != "baseline")
    with pytest.raises(SystemExit):
        parse_command_line(experiment, ["--help"])
    assert experiment.description in capsys.readouterr().out


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_difference(name: str) -> None:
    """Exactly the difference of the table: overrides, options, weights and buffers."""
    experiment, declared = experiments()[name], PUBLISHED[name]
    assert experiment.overrides == declared.get("overrides", {}) and experiment.algorithm is None
    options = {spec.name for spec in dataclasses.fields(experiment.config)}
    assert options == {spec.name for spec in dataclasses.fields(StudyConfig)} | declared.get("options", set())
    learner, plain = learner_of(name), learner_of("baseline", **experiment.overrides)
    for kind in ("actor", "critic"):
        mine, its = (getattr(x, f"{kind}s") for x in (learner, plain))
        weights = declared.get(f"{kind} weights", {})
        assert mine.layout.shapes == its.layout.shapes | {key: (width,) for key, width in weights.items()}
        found = {key: shape[0] for key, shape in mine.buffer_layout.shapes.items()}
        assert found == declared.get(f"{kind} buffers", {})
        tensors = mine.tensors(EVERYTHING)
        for key in weights:
            assert (tensors[key] == (1.0 if key.endswith("weight") else 0.0)).all(), "LayerNorm starts as torch's does"


@every_experiment
def test_same_initial_weights_as_the_baseline(name: str) -> None:
    """Bit for bit, for every parameter of equal name and shape; at the studies' layer sizes."""
    learner, baseline = learner_of(name), learner_of("baseline")
    for mine, its in ((learner.actors, baseline.actors), (learner.critics, baseline.critics)):
        tensors, plain = mine.tensors(EVERYTHING), its.tensors(EVERYTHING)
        equal = [key for key, shape in its.layout.shapes.items() if mine.layout.shapes.get(key) == shape]
        other_sizes = "actor_hidden" in experiments()[name].overrides and mine is learner.actors
        assert equal == list(its.layout.shapes) or other_sizes
        assert equal and all(torch.equal(tensors[key], plain[key]) for key in equal)


@every_experiment
def test_same_world_tasks_and_noise_as_the_baseline(name: str) -> None:
    """What the host draws, and of the states that were played everything but the battery after the first step."""
    learner, baseline = learner_of(name), learner_of("baseline")
    assert torch.equal(learner.evaluation_tasks, baseline.evaluation_tasks)
    for _ in range(EPISODES):
        mine, its = vars(learner.inputs()), vars(baseline.inputs())
        for key in ("tasks", "noise", "explore", "order", "replay", "beta"):
            assert torch.equal(mine[key], its[key]), key
        learner.train_episode()
        baseline.train_episode()
    mine, its = (x.replay.states[:, : EPISODES * (STEPS + 1)].unflatten(2, (-1, 7)) for x in (learner, baseline))
    assert (mine > 0).any(-1).all(), "every row was played"
    battery = 2
    others = [feature for feature in range(7) if feature != battery]
    assert torch.equal(mine[..., others], its[..., others])
    assert torch.equal(mine[:, :: STEPS + 1, :, battery], its[:, :: STEPS + 1, :, battery])


@every_experiment
@pytest.mark.parametrize("actor_update", ["joint", "sequential"])
def test_z_is_what_enters_the_squash(name: str, actor_update: str) -> None:
    learner = learner_of(name, actor_update=actor_update, critic_hidden=(16, 8))
    details = details_after(EPISODES, learner)
    squashed = learner.actors.module.squash(details.pre_activations)
    assert (details.actions != 0).any() and torch.equal(squashed, details.actions)


@every_experiment
def test_frozen_weights_count_as_unchanged_whatever_is_observed(name: str) -> None:
    """Actors whose learning rate is 0: no step changes them, while states and z go on being observed."""
    learner, control = learner_of(name, [RunKey(1, 0.0, 1e-2)]), learner_of(name, [RunKey(1, 1e-1, 1e-2)])
    banks = [bank for bank in (learner.actors, learner.critics) if bank.buffers is not None]
    for episode in range(1, 6):
        observed, weights = [bank.buffers.clone() for bank in banks], learner.actors.flat.clone()
        step, moving = learner.train_episode().step, control.train_episode().step
        assert all((bank.buffers != before).any() for bank, before in zip(banks, observed, strict=True))
        assert torch.equal(learner.actors.flat, weights)
        if episode > 1:
            due = control.algorithm.actor_due(episode - 1)
            assert not step.changed.any() and (step.unchanged == due).all()
            assert (moving.changed == due).all() and not moving.unchanged.any()


@every_experiment
@pytest.mark.parametrize("dense", [False, True])
def test_evaluating_changes_nothing(name: str, dense: bool) -> None:
    learner = learner_of(name, dense=dense, critic_hidden=(16, 8))
    for _ in range(EPISODES):
        before = {key: value.clone() for key, value in learner.state().items()}
        learner.evaluate()
        assert all(torch.equal(value, before[key]) for key, value in learner.state().items())
        learner.train_episode()


@every_experiment
def test_appended_columns_are_explained(name: str) -> None:
    """Each column that a variant appends to gradient_norms.csv and saturation.csv stands in docs/csv_columns.md."""

    def columns(own: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        learner = learner_of(own)
        details = details_after(2, learner)
        layers = (tuple(bank.layout.layers) for bank in (learner.actors, learner.critics))
        return gradient_columns(details, *layers), saturation_columns(details, learner.env)

    explained = (EXPERIMENTS.parent / "docs" / "csv_columns.md").read_text()
    for found, known in zip(columns(name), columns("baseline"), strict=True):
        assert found.keys() >= known.keys()
        for column in found.keys() - known.keys():
            assert found[column].isfinite().all(), column
            stem = re.sub(r"_(mean|sd|min|max)$", "", column)
            assert f"`{column}`" in explained or f"`{stem}`" in explained, column


def test_layernorm_bounds_z_until_gain_and_bias_are_learned() -> None:
    """With gain 1 and bias 0, |z| is at most sqrt 2, whatever the weights."""
    learner = learner_of("layernorm")
    tensors = learner.actors.tensors(EVERYTHING)
    tensors["fc3.weight"].mul_(1e3)
    first = details_after(2, learner)
    assert 1.41 < first.pre_activations.abs().max() <= 2**0.5 + 1e-6
    learned = {"gain": tensors["norm.weight"].clone(), "bias": tensors["norm.bias"].clone()}
    assert (learned["gain"] != 1).any() and (learned["bias"] != 0).any()
    later = details_after(1, learner)
    for i, output in enumerate(("offload", "compute", "power")):
        for kind, start in (("gain", 1), ("bias", 0)):
            assert (first.extras[f"norm_{kind}_{output}"] == start).all()
            assert torch.equal(later.extras[f"norm_{kind}_{output}"].flatten(), learned[kind][:, i])


def test_adaptive_scaling_keeps_what_it_has_seen_within_2() -> None:
    """At the training step every z of the batch lies within its range, which only widens."""
    learner = learner_of("adaptive_scaling", dtype="float64", critic_hidden=(16, 8))
    buffers = learner.actors.tensors(EVERYTHING)
    low, high = (buffers[end].unflatten(0, (len(KEYS), -1)) for end in ("low", "high"))  # (R, N, 3)
    before, widened = (low.clone(), high.clone()), 0
    for episode in range(1, 13):
        details = details_after(1, learner)
        assert (low <= before[0]).all() and (high >= before[1]).all() and (low <= high).all()
        widened += bool((low < before[0]).any() and (high > before[1]).any())
        before = low.clone(), high.clone()
        if episode == 1:
            continue
        assert details.pre_activations.abs().max() <= 2 + 1e-9
        half_range = (high - low) / 2
        torch.testing.assert_close(details.extras["half_range"], half_range)
        from_centre = details.extras["raw_z"] - ((high + low) / 2).unsqueeze(2)  # (R, N, B, 3)
        scaled = 2 * from_centre / half_range.unsqueeze(2).clamp(min=1e-6)
        torch.testing.assert_close(details.pre_activations.transpose(1, 2), scaled)
    assert widened > 6 and details.pre_activations.abs().max() > 1.5


def test_adaptive_scaling_passes_z_as_it_is_until_it_has_seen_some() -> None:
    learner, baseline = learner_of("adaptive_scaling"), learner_of("baseline")
    for key, value in vars(baseline.evaluate()).items():
        assert torch.equal(getattr(learner.evaluate(), key), value), key
    states = torch.rand(len(KEYS) * 12, 5, 7, generator=torch.Generator().manual_seed(1)) * 100

    def z_of(own: Learner) -> Tensor:
        """(R·N, 5, 3)"""
        return own.actors.call("forward", own.actors.tensors(EVERYTHING), states)

    plain = z_of(baseline)
    torch.testing.assert_close(z_of(learner), plain)  # some processors round products of another batch differently
    learner.train_episode()
    assert (z_of(learner) != plain).any(-1).any(-1).all(), "every actor scales once it has played"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("debiased", [False, True])
def test_running_statistics_by_hand(debiased: bool, dtype: torch.dtype) -> None:
    """Exponentially weighted mean and variance of all samples; the plain form has mean 0, variance 1 before them."""
    random = torch.Generator().manual_seed(3)
    steps = [300 + 437 * torch.rand(n, 4, generator=random, dtype=dtype) for n in (1, 5, 1, 2, 7)]
    norm = RunningNorm(4, debiased).to(dtype)
    for count, samples in enumerate(steps, start=1):
        norm.observe(samples)
        weights = [(1 - MOMENTUM) * MOMENTUM ** (count - k) for k in range(1, count + 1)]
        start = 0.0 if debiased else MOMENTUM**count
        total = sum(weights) + start
        seen = [(w / total, x) for w, x in zip(weights, steps, strict=False)]
        mean = sum(w * x.mean(0) for w, x in seen)
        variance = sum(w * (x - mean).square().mean(0) for w, x in seen) + start / total * (1 + mean.square())
        torch.testing.assert_close(norm.mean, mean)
        torch.testing.assert_close(norm.variance, variance, rtol=1e-5, atol=1e-6)
        assert norm(samples).isfinite().all()
    torch.testing.assert_close(norm(samples), (samples - mean) / (variance + 1e-5).sqrt(), rtol=1e-4, atol=1e-5)
