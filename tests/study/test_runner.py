"""From learner to CSV: rows that do not depend on the grid around them, freezes, divergence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import CPU

from common.agents.learner import Learner
from common.agents.reports import RunKey, StepDetails
from common.config import GRID, StudyConfig
from common.environment.mec_env import MecEnv
from common.experiment import Experiment
from common.recording.results import load_study
from common.recording.tracking import Tracker, gradient_columns, saturation_columns
from common.study.runner import run_study
from common.study.shard import ShardTrainer

EXPERIMENT = Experiment(name="baseline", description="A test.")
FILES = ("runs", "stopping_episodes", "gradient_norms", "saturation", "rewards", "evaluations")


def rows_by_run(folder: Path) -> dict[tuple[str, str], str]:
    """Text of every run's rows by (file, run key), without the wall time."""
    found: dict[tuple[str, str], str] = {}
    for name in FILES:
        header, *lines = (folder / f"{name}.csv").read_text().splitlines()
        cut = header.split(",").index("wall_seconds") if name == "runs" else None
        for line in lines:
            cells = line.split(",")
            if cut:
                del cells[cut]
            key = (name, ",".join(cells[:3]))
            found[key] = found.get(key, "") + ",".join(cells) + "\n"
    return found


def test_rows_do_not_depend_on_the_grid_around_a_run(tmp_path: Path) -> None:
    """Alone, in a grid of 16 and in a grid split in two: the same bytes (full-size networks, float32)."""
    options = {"episodes": 12, "log_every": 5, "eval_every": 6, "eval_episodes": 2}
    whole = run_study(EXPERIMENT, StudyConfig(results_dir=str(tmp_path / "whole"), **options))
    split = run_study(EXPERIMENT, StudyConfig(results_dir=str(tmp_path / "split"), runs_per_shard=8, **options))
    alone = run_study(
        EXPERIMENT, StudyConfig(results_dir=str(tmp_path / "alone"), actor_lrs=(0.1,), critic_lrs=(1e-3,), **options)
    )
    assert rows_by_run(whole) == rows_by_run(split)
    expected = {k: v for k, v in rows_by_run(whole).items() if k[1] == "42,0.1,0.001"}
    assert len(expected) == len(FILES) and rows_by_run(alone) == expected


def test_seeds_can_be_added_later(tmp_path: Path) -> None:
    options = {"agents": 10, "episodes": 4, "batch_size": 16, "actor_lrs": (1e-2,), "critic_lrs": (1e-2,)}
    options |= {"eval_episodes": 1, "log_every": 2}
    together = run_study(EXPERIMENT, StudyConfig(results_dir=str(tmp_path / "a"), seeds=(1, 2, 3), **options))
    later = StudyConfig(results_dir=str(tmp_path / "b"), seeds=(3, 1), **options)
    run_study(EXPERIMENT, later)
    folder = run_study(EXPERIMENT, StudyConfig(results_dir=str(tmp_path / "b"), seeds=(2,), **options))
    assert rows_by_run(folder) == rows_by_run(together)
    reference = "reference_policies.csv"
    assert (folder / reference).read_bytes() == (together / reference).read_bytes()


class Store:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.runs: dict[RunKey, dict] = {}
        self.tables: dict[RunKey, dict] = {}

    def add_run(self, key: RunKey, tables: dict, summary: dict) -> None:
        self.runs[key], self.tables[key] = summary, tables

    def write(self) -> None:
        pass


REFERENCES = {seed: {"random": -2.0, "greedy_offload": -1.0} for seed in (1, 2)}
SMALL = {"agents": 10, "batch_size": 16, "eval_episodes": 1, "eval_every": 10, "critic_hidden": (32, 16)}


def train(config: StudyConfig, keys: list[RunKey], damage: tuple[int, int] | None = None) -> Store:
    """Train; `damage` = (episode, position) puts a NaN into that run's critic after that episode."""
    store = Store()
    trainer = ShardTrainer(EXPERIMENT, config, keys, CPU, store, REFERENCES)
    if damage:
        plain = trainer.learner.train_episode

        def damaged(details: bool = False):
            report = plain(details)
            if report.episode == damage[0]:
                trainer.learner.critics.flat[damage[1], 0, 0] = torch.nan
            return report

        trainer.learner.train_episode = damaged
    trainer.train("test")
    return store


def test_divergence_ends_one_run_and_leaves_the_others_alone() -> None:
    config = StudyConfig(episodes=40, **SMALL)
    keys = [RunKey(1, 1e-2, 1e-2), RunKey(1, 1e-2, 1e-1), RunKey(2, 1e-2, 1e-2)]
    healthy, damaged = train(config, keys), train(config, keys, damage=(13, 1))
    row = damaged.runs[keys[1]]
    assert row["status"] == "diverged" and row["diverged_episode"] == 14 and row["total_episodes"] == 14
    assert row["final_evaluation_return"] is None and row["normalised_score"] is None
    for key in (keys[0], keys[2]):
        assert damaged.runs[key]["status"] == "completed"
        assert repr(damaged.tables[key]) == repr(healthy.tables[key])  # NaN stands for an empty cell


def test_freeze_death_and_early_stop_against_recorded_weights() -> None:
    """The tracker's episodes against plain bookkeeping over every agent's weights and gradients."""
    config = StudyConfig(episodes=400, **SMALL)
    keys = [RunKey(1, 1e-1, 1e-1), RunKey(1, 1e-4, 1e-3)]
    learner = Learner(config, keys[:1], CPU)
    previous, changed, alive = learner.actors.flat.clone(), [], []
    moments = learner.actors.first.clone()
    store = train(config, keys)
    total = store.runs[keys[0]]["total_episodes"]
    for _ in range(total):
        learner.train_episode()
        changed.append((learner.actors.flat != previous).any(-1)[0].numpy())
        # A gradient was zero exactly where Adam's first moment only shrank.
        alive.append((learner.actors.first != torch.lerp(moments, torch.zeros(()), 0.1)).any(-1)[0].numpy())
        previous, moments = learner.actors.flat.clone(), learner.actors.first.clone()
    changed, alive = np.array(changed), np.array(alive)
    columns, rows = store.tables[keys[0]]["stopping_episodes.csv"]
    assert columns[:4] == ("agent", "gradient_death_episode", "first_unchanged_episode", "freeze_episode")
    for agent, death, unchanged, freeze, *_ in rows:
        assert unchanged == np.flatnonzero(~changed[1:, agent])[0] + 2
        assert freeze == np.flatnonzero(changed[:, agent])[-1] + 2
        assert death == np.flatnonzero(alive[:, agent])[-1] + 2
    row = store.runs[keys[0]]
    freezes = [row[3] for row in rows]
    assert row["status"] == "stopped early" and row["stopping_episode"] == max(r[2] for r in rows)
    assert 100 <= total - max(freezes) + 1 <= 110 and row["frozen_share"] == 1.0
    assert 140 < np.median(np.subtract(freezes, [row[1] for row in rows])) < 175  # the coasting law
    assert store.runs[keys[1]]["status"] == "completed"


def test_no_early_stop_trains_to_the_end() -> None:
    config = StudyConfig(episodes=330, early_stop=False, **SMALL)
    row = train(config, [RunKey(1, 1e-1, 1e-1)]).runs[RunKey(1, 1e-1, 1e-1)]
    assert row["stopping_episode"] is not None and row["total_episodes"] == 330 and row["status"] == "completed"


def details(rng: np.random.Generator, runs: int = 2, agents: int = 5, batch: int = 4) -> StepDetails:
    tensor = lambda *shape: torch.from_numpy(rng.normal(size=shape))  # noqa: E731
    z = 3 * tensor(runs, batch, agents, 3)
    state = torch.from_numpy(
        rng.uniform([1, 5, 0.5, 1, 300, 0.1, 0.4], [24, 14, 3.2, 50, 737, 0.9, 1.5], (runs, batch, agents, 7))
    )
    norms = [tensor(runs, agents, 3).abs(), tensor(runs, 3).abs(), tensor(runs, agents).abs(), tensor(runs).abs()]
    updates = [tensor(runs, agents).abs(), tensor(runs).abs(), tensor(runs).abs()]
    extras = {"gain": tensor(runs, agents), "raw_z": tensor(runs, agents, batch, 3)}
    return StepDetails(*norms, *updates, state, z.tanh(), z, extras)


@pytest.mark.parametrize("preset", ["scaled", "interior"])
def test_logged_columns_by_hand(preset: str) -> None:
    report = details(np.random.default_rng(3))
    env = MecEnv(preset, channels=5)
    gradients = gradient_columns(report, ("fc1", "fc2", "fc3"), ("fc1", "fc2", "fc3"))
    saturation = saturation_columns(report, env)
    for run in range(2):
        per_agent = [np.linalg.norm(report.actor_gradients[run, i]) for i in range(5)]
        actor = np.sqrt(np.mean(np.square(per_agent)))
        critic = np.linalg.norm(report.critic_gradients[run])
        assert float(gradients["actor_gradient_norm"][run]) == pytest.approx(actor)
        assert float(gradients["gradient_ratio"][run]) == pytest.approx(actor / critic)
        z = report.pre_activations[run].numpy()
        a = np.tanh(z)
        assert float(saturation["saturation_ratio"][run]) == pytest.approx(np.mean(np.abs(a) > 0.9))
        assert float(saturation["saturation_power"][run]) == pytest.approx(np.mean(np.abs(a[..., 2]) > 0.9))
        assert float(saturation["tanh_derivative"][run]) == pytest.approx(np.mean(1 - a**2))
        assert float(saturation["z_sd"][run]) == pytest.approx(z.std())
        assert float(saturation["z_q25"][run]) == pytest.approx(np.quantile(z, 0.25))
        wrong = total = 0
        for b, i in np.argwhere(np.abs(a[..., 1]) > 0.9):
            state = report.states[run, b, i]
            high, low = (float(env.local_cost(state, torch.tensor(share))) for share in (1.0, 0.01))
            total += 1
            wrong += (high > low) if a[b, i, 1] > 0 else (low > high)
        assert float(saturation["wrong_side_saturation"][run]) == pytest.approx(wrong / total)
        for name, values in report.extras.items():
            x = values[run].numpy()
            by_hand = {"mean": x.mean(), "sd": x.std(), "min": x.min(), "max": x.max()}
            for figure, expected in by_hand.items():
                assert float(saturation[f"{name}_{figure}"][run]) == pytest.approx(expected)
    assert list(saturation)[-8:] == [f"{n}_{figure}" for n in ("gain", "raw_z") for figure in by_hand]


def test_tracker_without_training_steps() -> None:
    config = StudyConfig(episodes=1, **SMALL)
    store = train(config, [RunKey(1, 1e-2, 1e-2)])
    row = store.runs[RunKey(1, 1e-2, 1e-2)]
    assert row["stopping_episode"] is None and row["final_saturation_ratio"] is None
    assert isinstance(Tracker([], 3, MecEnv("scaled", 3), ((), ()), CPU, True).records, list)


def test_written_study_reads_back(tmp_path: Path) -> None:
    config = StudyConfig(episodes=6, actor_lrs=GRID[:2], critic_lrs=GRID[:1], results_dir=str(tmp_path), **SMALL)
    study = load_study(run_study(EXPERIMENT, config))
    assert len(study.runs) == 2 and study.runs.status.eq("completed").all()
    assert study.rewards.groupby(["actor_lr"]).size().eq(6).all()
    assert list(study.evaluations.episode.unique()) == [0, 6]
    assert pd.api.types.is_numeric_dtype(study.gradient_norms.actor_gradient_norm)
