"""Each experiment differs from the baseline in what it declares and in nothing else (shared/EXPERIMENTS.md).

Experiments are found, not listed: a new folder gets every test here but that of the published differences. That the
networks compute what they should is in test_network_variants.py.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from agents.plain_networks import PLAIN
from common.agents.stacked import StackedNetworks
from helpers import EXPERIMENTS, experiments, make_learner, variant

from common.agents.learner import Learner
from common.agents.networks import Actor, Critic, Network
from common.agents.reports import RunKey, StepDetails
from common.config import StudyConfig, parse_command_line
from common.environment.mec_env import STEPS
from common.experiment import Experiment
from common.recording.tracking import gradient_columns, saturation_columns

pytestmark = pytest.mark.usefixtures("one_thread")

KEYS = [RunKey(1, 1e-2, 1e-2), RunKey(2, 1e-1, 1e-3)]
EPISODES = 3
SMALL = {"agents": 12, "batch_size": 8, "episodes": 20, "eval_episodes": 2}
HOOKS = {
    "specs", "input", "activation", "statistic_specs", "observe_step", "pre_activation", "observe_batch", "measures"
}  # fmt: skip
every_experiment = pytest.mark.parametrize("name", experiments())


@dataclass(frozen=True)
class Difference:
    """An experiment's overrides, the hooks its networks override, and what they have that the baseline's lack."""

    overrides: dict[str, object] = field(default_factory=dict)
    actor_hooks: set[str] = field(default_factory=set)
    critic_hooks: set[str] = field(default_factory=set)
    actor_weights: dict[str, int] = field(default_factory=dict)
    critic_weights: dict[str, int] = field(default_factory=dict)
    actor_statistics: dict[str, int] = field(default_factory=dict)
    critic_statistics: dict[str, int] = field(default_factory=dict)


def statistics(**widths: int) -> dict[str, int]:
    return {f"{part}.{kind}": width for part, width in widths.items() for kind in ("mean", "variance")}


def norms(**widths: int) -> dict[str, int]:
    return {f"{layer}.{kind}": width for layer, width in widths.items() for kind in ("gain", "bias")}


RUNNING_NORM = {"input", "statistic_specs", "observe_step"}
INPUT_NORM = Difference(
    actor_hooks=RUNNING_NORM,
    critic_hooks=RUNNING_NORM,
    actor_statistics=statistics(states=7),
    critic_statistics=statistics(states=12 * 7, actions=12 * 3, personal=10),
)
PUBLISHED = {
    "baseline": Difference(),
    "large_actor": Difference({"actor_hidden": (512, 128)}),
    "layernorm": Difference(actor_hooks={"specs", "pre_activation", "measures"}, actor_weights=norms(norm=3)),
    "linear_activation": Difference(actor_hooks={"activation"}, critic_hooks={"activation"}),
    "fullnorm": dataclasses.replace(
        INPUT_NORM,
        actor_hooks=RUNNING_NORM | {"specs", "activation"},
        critic_hooks=RUNNING_NORM | {"specs", "activation"},
        actor_weights=norms(norm1=64, norm2=32),
        critic_weights=norms(norm1=512, norm2=128),
    ),
    "gradient_clipping": Difference({"clip_norm": 1.0}),
    "input_norm": INPUT_NORM,
    "adaptive_scaling": Difference(
        actor_hooks={"statistic_specs", "observe_batch", "observe_step", "pre_activation", "measures"},
        actor_statistics={"range.low": 3, "range.high": 3},
    ),
}


def learner_of(name: str, keys: list[RunKey] = KEYS, **options: object) -> Learner:
    return make_learner(keys, **SMALL | variant(name) | options)


def trained(name: str, episodes: int = EPISODES, **options: object) -> tuple[Learner, StepDetails]:
    """A learner after some episodes, and what the last one's training step looked like."""
    learner = learner_of(name, **options)
    reports = [learner.train_episode(details=True) for _ in range(episodes)]
    return learner, reports[-1].details


def configuration(experiment: Experiment) -> dict[str, object]:
    """What the experiment's script runs with when it is given no option."""
    config, _ = parse_command_line(experiment.description, dict(experiment.overrides), [])
    return dataclasses.asdict(config)


def overridden(network: type[Network], base: type[Network]) -> set[str]:
    """What the classes that stand before `base` define, but for what every class has."""
    own = {"__doc__", "__module__", "__dict__", "__weakref__", "__firstlineno__", "__static_attributes__"}
    return {name for one in network.__mro__ if not issubclass(base, one) for name in vars(one)} - own


def shapes(stack: StackedNetworks) -> dict[str, tuple[int, ...]]:
    return {spec.name: spec.shape for spec in stack.layout.specs}


def widths(stack: StackedNetworks) -> dict[str, int]:
    return {spec.name: spec.shape[0] for spec in stack.network.statistics.specs if len(spec.shape) == 1}


def test_every_folder_has_its_script_and_every_script_is_found(tmp_path: Path) -> None:
    folders = {path.name for path in EXPERIMENTS.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == experiments().keys() and experiments().keys() >= PUBLISHED.keys()
    script = tmp_path / "another" / "run_another_experiment.py"
    script.parent.mkdir()
    baseline = (EXPERIMENTS / "baseline" / "run_baseline_experiment.py").read_text()
    script.write_text(baseline.replace('name="baseline"', 'name="another", overrides={"gamma": 0.9}').replace(
        "HERE = Path(__file__)", f"HERE = Path({str(EXPERIMENTS)!r})"
    ))  # fmt: skip
    assert configuration(experiments(tmp_path)["another"])["gamma"] == 0.9


@every_experiment
def test_is_small_and_says_what_it_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = experiments()[name]
    assert experiment.name == name
    script = EXPERIMENTS / name / f"run_{name}_experiment.py"
    assert len(script.read_text().splitlines()) <= 60
    hypothesis, difference, *_ = experiment.description.split("\n\n")
    assert re.fullmatch(r"[A-Z][\w ]+: [^.]{30,}\.", hypothesis), "title and hypothesis, in one sentence"
    assert difference.startswith("Differs from the ")
    with pytest.raises(SystemExit):
        parse_command_line(experiment.description, dict(experiment.overrides), ["--help"])
    assert experiment.description in capsys.readouterr().out


@every_experiment
def test_configuration_is_the_baselines_but_for_the_overrides(name: str) -> None:
    experiment, baseline = experiments()[name], experiments()["baseline"]
    plain = configuration(baseline)
    assert not baseline.overrides and plain == dataclasses.asdict(StudyConfig())
    different = {key: value for key, value in configuration(experiment).items() if value != plain[key]}
    assert different == dict(experiment.overrides)
    networks = [(experiment.actor_class, Actor), (experiment.critic_class, Critic)]
    hooks = [overridden(network, base) for network, base in networks]
    assert all(found <= HOOKS for found in hooks), "a variant overrides hooks, nothing else"
    assert bool(different or any(hooks)) == (name != "baseline")


def test_every_published_network_is_written_out_for_the_other_tests() -> None:
    own = {n for n, found in experiments().items() if (found.actor_class, found.critic_class) != (Actor, Critic)}
    assert own & PUBLISHED.keys() <= PLAIN.keys() <= own


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_difference(name: str) -> None:
    """Exactly the difference of the table: overrides, hooks, weights and statistics."""
    experiment, declared = experiments()[name], PUBLISHED[name]
    assert dict(experiment.overrides) == declared.overrides
    assert overridden(experiment.actor_class, Actor) == declared.actor_hooks
    assert overridden(experiment.critic_class, Critic) == declared.critic_hooks
    learner = learner_of(name)
    plain = learner_of("baseline", **experiment.overrides)
    for mine, its, weights, observed in (
        (learner.actors, plain.actors, declared.actor_weights, declared.actor_statistics),
        (learner.critics, plain.critics, declared.critic_weights, declared.critic_statistics),
    ):
        assert shapes(mine) == shapes(its) | {key: (width,) for key, width in weights.items()}
        assert widths(mine) == observed and len(observed) == len(mine.network.statistics.specs)
        views = mine.views(slice(None))
        for key in weights:
            assert (views[key] == (1.0 if key.endswith("gain") else 0.0)).all(), "LayerNorm starts as torch's does"


@every_experiment
def test_same_initial_weights_as_the_baseline(name: str) -> None:
    """Bit for bit, for every parameter of equal name and shape; at the studies' layer sizes."""
    learner, baseline = learner_of(name), learner_of("baseline")
    for mine, its in ((learner.actors, baseline.actors), (learner.critics, baseline.critics)):
        views, plain = mine.views(slice(None)), its.views(slice(None))
        equal = [key for key, shape in shapes(its).items() if shapes(mine).get(key) == shape]
        assert equal == list(shapes(its)) or ("actor_hidden" in variant(name) and mine is learner.actors)
        assert equal and all(torch.equal(views[key], plain[key]) for key in equal)


@every_experiment
def test_same_world_tasks_and_noise_as_the_baseline(name: str) -> None:
    """What the host draws, and of the states that were played everything but the battery after the first step."""
    learner, baseline = learner_of(name), learner_of("baseline")
    for episode in (1, 2, 20):
        mine, its = vars(learner.inputs(episode)), vars(baseline.inputs(episode))
        for key in ("tasks", "noise", "explore", "order", "replay", "beta"):
            assert torch.equal(mine[key], its[key]), key
    assert torch.equal(learner.evaluation_tasks, baseline.evaluation_tasks)
    for _ in range(EPISODES):
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
def test_z_is_what_enters_tanh(name: str, actor_update: str) -> None:
    _, details = trained(name, actor_update=actor_update, critic_hidden=(16, 8))
    assert (details.actions != 0).any() and torch.equal(details.pre_activations.tanh(), details.actions)


@every_experiment
def test_frozen_weights_count_as_unchanged_whatever_is_observed(name: str) -> None:
    """A critic that is flat and stays so: no gradient, no step, while states and z go on being observed."""
    keys = [RunKey(1, 1e-1, 1e-60)]  # the critic's step is 0 in float32
    learner, control = learner_of(name, keys), learner_of(name, keys)
    learner.critics.views(slice(None))["fc3.weight"].zero_()
    stacks = [stack for stack in (learner.actors, learner.critics) if stack.statistics is not None]
    for stack in stacks:
        assert not {spec.name for spec in stack.network.statistics.specs} & shapes(stack).keys()
    for episode in range(1, 6):
        observed = [stack.statistics.clone() for stack in stacks]
        weights = learner.actors.flat.clone()
        step, moving = learner.train_episode().step, control.train_episode().step
        assert all((now.statistics != before).any() for now, before in zip(stacks, observed, strict=True))
        assert torch.equal(learner.actors.flat, weights)
        if episode > 1:
            assert step.unchanged.all() and not step.changed.any() and not step.gradient_alive.any()
            assert moving.changed.all() and not moving.unchanged.any()


@every_experiment
@pytest.mark.parametrize("dense", [False, True])
def test_evaluating_changes_nothing(name: str, dense: bool) -> None:
    learner = make_learner(KEYS, dense, **SMALL | variant(name) | {"critic_hidden": (16, 8)})
    for _ in range(EPISODES):
        before = {key: value.clone() for key, value in learner.state().items()}
        assert ("actors.statistics" in before) == bool(learner.actors.network.statistics.specs)
        assert ("critics.statistics" in before) == bool(learner.critics.network.statistics.specs)
        learner.evaluate()
        assert all(torch.equal(value, before[key]) for key, value in learner.state().items())
        learner.train_episode()


@every_experiment
def test_appended_columns_are_explained(name: str) -> None:
    """Each column that a variant appends to gradient_norms.csv and saturation.csv stands in docs/csv_columns.md."""
    (plain, baseline), (learner, details) = (trained(key, episodes=2) for key in ("baseline", name))
    explained = (EXPERIMENTS.parent / "docs" / "csv_columns.md").read_text()
    for found, known in (
        (gradient_columns(details, learner.actors.layout.layers, learner.critics.layout.layers),
         gradient_columns(baseline, plain.actors.layout.layers, plain.critics.layout.layers)),
        (saturation_columns(details, learner.env), saturation_columns(baseline, plain.env)),
    ):  # fmt: skip
        assert found.keys() >= known.keys()
        for column in found.keys() - known.keys():
            assert all(value.isfinite() for value in found[column]), column
            stem = re.sub(r"_(mean|sd|min|max)$", "", column)
            assert f"`{column}`" in explained or f"`{stem}`" in explained, column


def test_layernorm_bounds_z_until_gain_and_bias_are_learned() -> None:
    """With gain 1 and bias 0, |z| is at most sqrt 2, whatever the weights; and large weights come close to it."""
    learner, first = trained("layernorm", episodes=2)
    assert first.pre_activations.abs().max() <= 2**0.5 + 1e-6
    views = learner.actors.views(slice(None))
    assert (views["norm.gain"] != 1).any() and (views["norm.bias"] != 0).any()
    for offset, output in enumerate(("offload", "compute", "power")):
        assert (first.extras[f"norm_gain_{output}"] == 1).all() and (first.extras[f"norm_bias_{output}"] == 0).all()
        later = learner.actors.network.measures(views, torch.zeros(len(KEYS) * 12, 1, 7))
        assert torch.equal(later[f"norm_gain_{output}"], views["norm.gain"][:, offset])
        assert torch.equal(later[f"norm_bias_{output}"], views["norm.bias"][:, offset])

    views["norm.gain"].fill_(1.0)
    views["norm.bias"].zero_()
    states = torch.rand(len(views["norm.gain"]), 200, 7, generator=torch.Generator().manual_seed(1))
    for scale in (1e-3, 1.0, 1e3, 1e6):
        views["fc3.weight"].mul_(scale)
        _, z = learner.actors.network(views, states)
        assert z.abs().max() <= 2**0.5 + 1e-6
    assert z.abs().max() > 1.41


def test_adaptive_scaling_keeps_what_it_has_seen_within_2() -> None:
    """At the training step every z of the batch lies within its range, which only widens."""
    learner = learner_of("adaptive_scaling", dtype="float64", critic_hidden=(16, 8))
    views = learner.actors.views(slice(None))
    low, high = (views[f"range.{end}"].unflatten(0, (len(KEYS), -1)) for end in ("low", "high"))  # (R, N, 3)
    before, widened = (low.clone(), high.clone()), 0
    for episode in range(1, 13):
        details = learner.train_episode(details=True).details
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
    (_, z), (_, plain) = (x.actors.network(x.actors.views(slice(None)), states) for x in (learner, baseline))
    assert torch.equal(z, plain)
    learner.train_episode()
    _, z = learner.actors.network(learner.actors.views(slice(None)), states)
    assert (z != plain).any(-1).any(-1).all(), "every actor scales once it has played"
