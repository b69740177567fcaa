"""What the committed results must show (docs/algorithm.md#measures), read from their CSV files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from common.agents.learner import Learner
from common.agents.reports import RunKey
from common.config import GRID, StudyConfig
from common.recording.results import Study, find_studies, load_study

RESULTS = Path(__file__).resolve().parents[2] / "results"
PRESETS = ("scaled", "thesis", "interior")
FOLDERS = [folder for place in (".", "double_changes", "sequential") for folder in find_studies(RESULTS / place)]
COASTING = 24 * np.log(2) / -np.log(0.9)  # about 158 steps from a zero gradient to a step below half an ulp


@pytest.fixture(scope="module", params=PRESETS)
def study(request: pytest.FixtureRequest) -> Study:
    return load_study(RESULTS / request.param / "baseline")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(RESULTS)))
def test_whole_grid(folder: Path) -> None:
    """Every recorded study is whole: 16 pairs, 50 agents, three seeds or, of an option that is not the default, one."""
    study = load_study(folder)
    seeds = (42, 43, 44) if folder.parent.name in PRESETS and folder.parent.parent == RESULTS else (42,)
    expected = {(s, a, c) for s in seeds for a in GRID for c in GRID}
    assert set(study.runs[["seed", "actor_lr", "critic_lr"]].itertuples(index=False, name=None)) == expected
    assert (study.stopping_episodes.groupby(["seed", "actor_lr", "critic_lr"]).size() == 50).all()
    assert study.runs.status.isin(("completed", "stopped early")).all() and not (folder / "checkpoint").exists()


def test_size_of_the_files(study: Study) -> None:
    assert sum(path.stat().st_size for path in study.folder.glob("*.csv")) <= 3 * 3e6


def test_coasting_law(study: Study) -> None:
    """Weights freeze when Adam's coasting ends, at the earliest about 158 steps after the gradient died.

    158 steps take a step as large as the weight below half a unit in its last place. A smaller weight has finer units
    and coasts longer, ln(ratio) / -ln 0.9 steps, and an agent is frozen when its last weight is: with actor learning
    rate 0.1 the weights that still move have grown with the steps, with 0.01 some lie near zero, which adds some 45.
    """
    agents = study.stopping_episodes[study.stopping_episodes.actor_lr >= 0.01]
    lag = agents.freeze_episode - agents.gradient_death_episode
    assert lag.notna().mean() > 0.99
    assert lag.between(COASTING - 10, COASTING + 115).mean() > 0.97
    fastest = lag[(agents.actor_lr == 0.1) & (agents.critic_lr == 0.1)]
    assert abs(fastest.median() - COASTING) < 5
    medians = lag.groupby(agents.actor_lr).median()
    assert COASTING - 5 < medians[0.1] < medians[0.01] < COASTING + 60


def test_published_stopping_table_is_reproduced() -> None:
    study = load_study(RESULTS / "scaled" / "baseline")
    fast = study.runs[study.runs.actor_lr >= 0.01]
    assert len(fast) == 24 and fast.stopping_episode.between(150, 330).all()
    largest = fast.set_index("actor_lr").largest_abs_preactivation
    assert largest[0.1].between(1e4, 1e6).all() and largest[0.01].between(1e2, 1e4).all()
    agents = study.stopping_episodes
    assert (agents[agents.actor_lr >= 0.01].gradient_death_episode < 50).mean() > 0.95


def test_present_code_trains_the_recorded_runs(study: Study) -> None:
    """The first episodes, all 16 pairs of seed 43; other processors may round differently, so not to the bit."""
    preset = study.runs.preset.iloc[0]
    keys = [RunKey(43, a, c) for a in GRID for c in GRID]
    learner = Learner(StudyConfig(env=preset), keys, torch.device("cpu"))
    for episode in range(1, 7):
        returns = learner.train_episode().training_return.numpy()
        recorded = study.rewards[(study.rewards.seed == 43) & (study.rewards.episode == episode)]
        recorded = recorded.sort_values(["actor_lr", "critic_lr"]).training_return
        # Before the first training step nothing has amplified a rounding yet.
        np.testing.assert_allclose(returns, recorded, rtol=1e-5 if episode <= 2 else 0.05)


@pytest.mark.parametrize("maker", [["paper/make_findings.py"], ["paper/make_pages.py"], ["-m", "common.compare"]])
def test_texts_follow_from_the_files(maker: list[str]) -> None:
    done = subprocess.run([sys.executable, *maker, "--check"], cwd=RESULTS.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_normalised_score_and_stopping_episode_follow_from_the_other_files(study: Study) -> None:
    references = study.reference_policies.pivot(index="seed", columns="policy", values="evaluation_return")
    last = study.evaluations.sort_values("episode").groupby(["seed", "actor_lr", "critic_lr"]).evaluation_return.last()
    stops = study.stopping_episodes.groupby(["seed", "actor_lr", "critic_lr"]).first_unchanged_episode
    for run in study.runs.itertuples():
        key = (run.seed, run.actor_lr, run.critic_lr)
        reference = references.loc[run.seed]
        score = (last[key] - reference.random) / (reference.greedy_offload - reference.random)
        assert run.normalised_score == pytest.approx(score, rel=1e-4, abs=1e-6)
        everybody = stops.get_group(key).notna().all()
        assert np.isnan(run.stopping_episode) != everybody
        if everybody:
            assert run.stopping_episode == stops.get_group(key).max()
