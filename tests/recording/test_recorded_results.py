"""What the committed results must show (docs/algorithm.md#measures), read from their CSV files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import CPU, experiments

from common.agents.learner import Learner
from common.agents.reports import RunKey
from common.config import GRID, StudyConfig
from common.experiment import Experiment
from common.recording import schema
from common.recording.results import Study, find_studies, load_study
from common.recording.tracking import gradient_columns

RESULTS = Path(__file__).resolve().parents[2] / "results"
PRESETS = ("scaled", "thesis", "interior")
FOLDERS = [folder for place in (".", "double_changes", "sequential") for folder in find_studies(RESULTS / place)]
COASTING = 24 * np.log(2) / -np.log(0.9)  # about 158 steps from a zero gradient to a step below half an ulp


@pytest.fixture(scope="module", params=PRESETS)
def study(request: pytest.FixtureRequest) -> Study:
    return load_study(RESULTS / request.param / "baseline")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(RESULTS)))
def test_whole_grid(folder: Path) -> None:
    """Every recorded study is whole: all pairs of its grid, 50 agents, seeds from 42 on."""
    study = load_study(folder)
    name = study.runs["experiment"].iloc[0]
    own = experiments()[name].overrides
    pairs = [(a, c) for a in own.get("actor_lrs", GRID) for c in own.get("critic_lrs", GRID)]
    seeds = range(42, 42 + study.runs.seed.nunique())
    assert folder.parent.parent != RESULTS or len(seeds) >= 3
    expected = {(s, *pair) for s in seeds for pair in pairs}
    assert set(study.runs[["seed", "actor_lr", "critic_lr"]].itertuples(index=False, name=None)) == expected
    assert (study.stopping_episodes.groupby(["seed", "actor_lr", "critic_lr"]).size() == 50).all()
    assert study.runs.status.isin(("completed", "stopped early")).all() and not (folder / "checkpoint").exists()


def test_size_of_what_is_recorded() -> None:
    assert sum(path.stat().st_size for path in RESULTS.rglob("*") if path.is_file()) <= 150e6
    assert not [path for name in schema.PACKED for path in RESULTS.rglob(name)]  # but compressed


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
    in_range = fast.stopping_episode.between(150, 330)
    assert len(fast) == 80 and fast.stopping_episode.notna().all() and in_range.sum() >= 79  # one late agent of one run
    assert in_range[fast.seed <= 44].sum() == 24
    largest = fast.set_index("actor_lr").largest_abs_preactivation
    assert largest[0.1].between(1e4, 1e6).all() and largest[0.01].between(1e2, 1e4).all()
    agents = study.stopping_episodes
    assert (agents[agents.actor_lr >= 0.01].gradient_death_episode < 50).mean() > 0.95


def test_present_code_trains_the_recorded_runs(study: Study) -> None:
    """The first gradients and steps of all 16 pairs of seed 43: relative deviation, median over the pairs.

    Other processors round differently, and ten episodes amplify that, so not to the bit; 1e-6 on those tried. Another
    rule of learning deviates by more than 0.1.
    """
    keys = [RunKey(43, a, c) for a in GRID for c in GRID]
    learner = Learner(Experiment("baseline", ""), StudyConfig(env=study.runs.preset.iloc[0]), keys, CPU)
    recorded = study.gradient_norms[(study.gradient_norms.seed == 43) & (study.gradient_norms.episode <= 10)]
    recorded = recorded.sort_values(["actor_lr", "critic_lr"]).set_index("episode")
    layers = (tuple(learner.actors.layout.layers), tuple(learner.critics.layout.layers))
    found = {}
    for episode in range(1, 11):
        report = learner.train_episode(details=episode in recorded.index)
        if episode in recorded.index:
            columns = gradient_columns(report.details, *layers)
            for name in ("actor_gradient_norm", "critic_gradient_norm", "mean_abs_dq_da", "actor_update_norm"):
                here, there = columns[name].numpy(), recorded.loc[episode, name].to_numpy()
                larger = np.maximum(np.abs(here), np.abs(there))
                found[episode, name] = np.median(np.abs(here - there) / np.where(larger == 0, 1, larger))
    assert {2, 10} <= {episode for episode, _ in found} and max(found.values()) < 1e-3, found


def test_comparisons_follow_from_the_files() -> None:
    command = [sys.executable, "-m", "common.compare", "--check"]
    done = subprocess.run(command, cwd=RESULTS.parent, capture_output=True, text=True)
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
