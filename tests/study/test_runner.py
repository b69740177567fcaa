"""From a shard to CSV: rows that do not depend on the grid around them, freezes, divergence."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from faults.resume_helpers import EXPERIMENT, csv_bytes, poison
from helpers import CPU, experiments

from common.agents.networks import Actor
from common.agents.reports import EpisodeReport, RunKey
from common.config import StudyConfig
from common.recording import schema
from common.recording.results import load_study
from common.study.checkpoint import CheckpointError
from common.study.runner import run_study
from common.study.shard import Engine, Shard

REFERENCES = {seed: {"random": -2.0, "greedy_offload": -1.0} for seed in (1, 2)}
SMALL = {"agents": 10, "batch_size": 16, "eval_episodes": 1, "eval_every": 10, "critic_hidden": (32, 16)}


def test_rows_do_not_depend_on_the_grid_around_a_run(tmp_path: Path) -> None:
    """Alone, in a grid of 16 and in a grid split in two: the same bytes (full-size networks, float32)."""

    def trained(name: str, **more: object) -> dict[str, bytes]:
        options = {"episodes": 6, "log_every": 2, "eval_every": 3, "eval_episodes": 2, **more}
        return csv_bytes(run_study(EXPERIMENT, StudyConfig(results_dir=str(tmp_path / name), **options)))

    def of_the_run(files: dict[str, bytes]) -> dict[str, list[bytes]]:
        return {name: re.findall(rb"^42,0\.1,0\.001,.*", data, re.MULTILINE) for name, data in files.items()}

    whole, alone = trained("whole"), trained("alone", actor_lrs=(0.1,), critic_lrs=(1e-3,))
    assert whole == trained("split", runs_per_shard=8)
    assert of_the_run(whole) == of_the_run(alone)
    assert [name for name, rows in of_the_run(alone).items() if not rows] == [schema.REFERENCE_POLICIES]


def test_seeds_can_be_added_later(tmp_path: Path) -> None:
    def trained(name: str, *seeds: int) -> dict[str, bytes]:
        options = {"episodes": 4, "actor_lrs": (1e-2,), "critic_lrs": (1e-2,), "log_every": 2, **SMALL}
        config = StudyConfig(results_dir=str(tmp_path / name), seeds=seeds, **options)
        return csv_bytes(run_study(EXPERIMENT, config))

    trained("later", 3, 1)
    assert trained("later", 2) == trained("together", 1, 2, 3)


def test_rows_are_of_episodes_in_which_actors_were_due(tmp_path: Path) -> None:
    """TD3's actors step in odd episodes."""
    options = {"episodes": 31, "actor_lrs": (1e-2,), "critic_lrs": (1e-2,), "seeds": (1,), **SMALL}
    folder = run_study(experiments()["td3"], StudyConfig(results_dir=str(tmp_path), **options))
    rows = load_study(folder).gradient_norms
    assert rows["episode"].tolist() == [*range(2, 21), 29]
    assert rows.loc[rows["actor_gradient_norm"].notna(), "episode"].tolist() == [*range(3, 21, 2), 29]


class Rows:
    """Keeps what a shard hands to its study."""

    def __init__(self) -> None:
        self.runs: dict[RunKey, dict] = {}
        self.tables: dict[RunKey, dict] = {}
        self.checkpoints = SimpleNamespace(clear=lambda: None)
        self.path = Path("study")

    def add_runs(self, runs: dict[RunKey, tuple[dict, dict]]) -> None:
        self.tables |= {key: tables for key, (tables, _) in runs.items()}
        self.runs |= {key: summary for key, (_, summary) in runs.items()}


def train(config: StudyConfig, keys: list[RunKey], after_episode: Callable[[Engine], None] = lambda _: None) -> Rows:
    """Train, and look at the engine after each episode."""
    rows = Rows()
    shard = Shard(EXPERIMENT, config, keys, CPU, rows, REFERENCES)
    train_episode = shard.engine.train_episode

    def watched(details: bool = False) -> EpisodeReport:
        report = train_episode(details)
        after_episode(shard.engine)
        return report

    shard.engine.train_episode = watched
    shard.train("test", SimpleNamespace(name=""))
    return rows


def test_divergence_ends_one_run_and_leaves_the_others_alone() -> None:
    config = StudyConfig(episodes=40, **SMALL)
    keys = [RunKey(1, 1e-2, 1e-2), RunKey(1, 1e-2, 1e-1), RunKey(2, 1e-2, 1e-2)]

    def damage(engine: Engine) -> None:
        if engine.episode == 13:
            poison(engine, keys[1])

    healthy, damaged = train(config, keys), train(config, keys, damage)
    row = damaged.runs[keys[1]]
    assert row["status"] == "diverged" and row["diverged_episode"] == 14 and row["total_episodes"] == 14
    assert row["final_evaluation_return"] is None and row["normalised_score"] is None
    for key in (keys[0], keys[2]):
        assert damaged.runs[key]["status"] == "completed"
        assert repr(damaged.tables[key]) == repr(healthy.tables[key])  # NaN stands for an empty cell


def test_freeze_death_and_early_stop_against_recorded_weights() -> None:
    """The tracker's episodes against plain bookkeeping over every agent's weights and Adam's first moments."""
    config = StudyConfig(episodes=400, early_stop=True, **SMALL)
    keys = [RunKey(1, 1e-1, 1e-1), RunKey(1, 1e-4, 1e-3)]
    weights, moments = [], []

    def note(engine: Engine) -> None:
        if engine.keys[0] == keys[0]:
            weights.append(engine.state()["actors.parameters"][0].clone())
            moments.append(engine.state()["actors.exp_avg"][0].clone())

    rows = train(config, keys, note)
    # Position 0 of what follows is episode 2, the first that trains.
    changed = np.array([(new != old).any(-1).numpy() for old, new in itertools.pairwise(weights)])
    # A gradient was zero exactly where Adam's first moment only shrank.
    shrunk = [torch.lerp(old, torch.zeros(()), 0.1) for old in moments[:-1]]
    alive = np.array([(new != old).any(-1).numpy() for old, new in zip(shrunk, moments[1:], strict=True)])
    columns, agents = rows.tables[keys[0]]["stopping_episodes.csv"]
    assert columns[:4] == ("agent", "gradient_death_episode", "first_unchanged_episode", "freeze_episode")
    for agent, death, unchanged, freeze, *_ in agents:
        assert unchanged == np.flatnonzero(~changed[:, agent])[0] + 2
        assert freeze == np.flatnonzero(changed[:, agent])[-1] + 3
        assert death == np.flatnonzero(alive[:, agent])[-1] + 3
    row = rows.runs[keys[0]]
    freezes = [row[3] for row in agents]
    assert row["total_episodes"] == len(weights)
    assert row["status"] == "stopped early" and row["stopping_episode"] == max(r[2] for r in agents)
    assert 100 <= len(weights) - max(freezes) + 1 <= 110 and row["frozen_share"] == 1.0
    assert 140 < np.median(np.subtract(freezes, [row[1] for row in agents])) < 175  # the coasting law
    assert rows.runs[keys[1]]["status"] == "completed"


def test_a_checkpoint_of_other_tensors_is_one_line() -> None:
    shard = Shard(EXPERIMENT, StudyConfig(episodes=4, **SMALL), [RunKey(1, 1e-2, 1e-2)], CPU, Rows(), REFERENCES)
    tensors = {**shard.engine.state(), **shard.tracker.state()[0]}
    name = "actors.parameters"
    lacking = {other: tensor for other, tensor in tensors.items() if other != name}
    for spoilt, named in (
        (lacking, name),
        ({**tensors, "actors.scale": torch.zeros(1)}, "actors.scale"),
        ({**tensors, name: tensors[name][..., 1:]}, "size"),
    ):
        with pytest.raises(CheckpointError, match=f"study: .*{named}.*--fresh"):
            shard.load(spoilt, {"counters": shard.engine.counters(), "tracker": shard.tracker.state()[1]})


def test_workers_end_with_an_exception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    monkeypatch.setattr(Engine, "close", lambda engine: closed.append(engine))
    monkeypatch.setattr(Engine, "train_episode", lambda engine, details: 1 / 0)
    config = StudyConfig(actor_lrs=(1e-2,), critic_lrs=(1e-2,), results_dir=str(tmp_path), **SMALL)
    with pytest.raises(ZeroDivisionError):
        run_study(EXPERIMENT, config)
    assert len(closed) == 1


def test_no_early_stop_trains_to_the_end() -> None:
    config = StudyConfig(episodes=330, **SMALL)
    row = train(config, [RunKey(1, 1e-1, 1e-1)]).runs[RunKey(1, 1e-1, 1e-1)]
    assert row["stopping_episode"] is not None and row["total_episodes"] == 330 and row["status"] == "completed"


def test_a_run_too_short_to_train() -> None:
    row = train(StudyConfig(episodes=1, **SMALL), [RunKey(1, 1e-2, 1e-2)]).runs[RunKey(1, 1e-2, 1e-2)]
    assert row["stopping_episode"] is None and row["final_saturation_ratio"] is None


def test_written_study_reads_back(tmp_path: Path) -> None:
    """With networks of another depth: layers that they do not have stay empty, further ones are appended."""
    options = {**SMALL, "actor_hidden": (8,), "critic_hidden": (16, 8, 4), "episodes": 6}
    config = StudyConfig(actor_lrs=(1e-2, 1e-3), critic_lrs=(1e-2,), results_dir=str(tmp_path), **options)
    study = load_study(run_study(EXPERIMENT, config))
    assert study.runs.status.tolist() == ["completed", "completed"]
    assert study.rewards.groupby("actor_lr").episode.apply(list).tolist() == [list(range(1, 7))] * 2
    assert study.evaluations.episode.tolist() == [0, 6, 0, 6]
    norms = study.gradient_norms
    assert norms.actor_fc3.isna().all() and (norms[["actor_fc2", "critic_fc3", "critic_fc4"]] > 0).all(axis=None)


def test_saved_policies_are_those_of_plain_actors(tmp_path: Path) -> None:
    """A run's own file; each agent's state dict, in a plain module, acts as the engine's does."""
    options = {**SMALL, "episodes": 4, "actor_lrs": (1e-2, 1e-3), "critic_lrs": (1e-2,), "save_policy": True}
    config = StudyConfig(results_dir=str(tmp_path), **options)
    folder = run_study(EXPERIMENT, config) / "policies"
    name = "seed42_actor0.01_critic0.01.pt"
    assert {path.name for path in folder.iterdir()} == {name, "seed42_actor0.001_critic0.01.pt"}
    engine = Engine(EXPERIMENT, config, [RunKey(42, 1e-2, 1e-2)], CPU)
    for _ in range(4):
        engine.train_episode()
    states = torch.rand(3, 7) * 100  # of every agent
    _, expected = engine.update.act(engine.actors.tensors(slice(0, 1)), states[None, :, None].expand(1, 3, 10, 7))
    policies = torch.load(folder / name, weights_only=True)
    assert len(policies) == 10
    actor = Actor(config)
    for agent, state_dict in enumerate(policies):
        actor.load_state_dict(state_dict)
        with torch.no_grad():
            torch.testing.assert_close(actor.squash(actor(states)), expected[0, :, agent])
