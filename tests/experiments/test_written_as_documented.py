"""The complete files of docs/add_an_experiment.md: they train as scripts, and follow the slow learner step by step."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from agents.test_learner_follows_naive import LATE, Case, follow
from helpers import EXPERIMENTS, experiments, make_learner

from common.agents.reports import RunKey

PAGE = EXPERIMENTS.parent / "docs" / "add_an_experiment.md"
FILES = dict(re.findall(r"<!-- file: (\w+) -->\n```python\n(.*?)```\n", PAGE.read_text(), re.DOTALL))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A folder like experiments/, beside the project's common/."""
    (tmp_path / "common").symlink_to(EXPERIMENTS.parent / "common")
    for name, text in FILES.items():
        folder = tmp_path / "experiments" / name
        folder.mkdir(parents=True)
        (folder / f"run_{name}_experiment.py").write_text(text)
    return tmp_path / "experiments"


def test_the_page_has_files() -> None:
    assert len(FILES) == 4


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("dense", [False, True])
def test_follows_the_slow_learner(name: str, dense: bool, written: Path) -> None:
    case = Case("joint", 1.0, dense, "interior", 3, start=LATE, agents=5, batch=4, episodes=6)
    follow(case, experiments(written)[name])


def test_trust_ratio_moves_each_layer_by_the_learning_rate(written: Path) -> None:
    own = experiments(written)["trust_ratio"]
    learner = make_learner([RunKey(1, 0.01, 0.01)], experiment=own, agents=10, batch_size=8, episodes=6)
    weights = learner.actors.tensors(slice(None))
    for _ in range(2):
        before = {name: x.clone() for name, x in weights.items()}
        learner.train_episode()
    for layer in ("fc1", "fc2", "fc3"):
        step, norm = (
            torch.cat([x[f"{layer}.{kind}"].flatten(1) for kind in ("weight", "bias")], dim=1).norm(dim=1)
            for x in ({name: x - before[name] for name, x in weights.items()}, before)
        )
        torch.testing.assert_close(step, 0.01 * norm, rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", FILES)
def test_trains_as_a_script(name: str, written: Path, tmp_path: Path) -> None:
    options = "--agents 10 --episodes 6 --batch-size 8 --actor-lrs 0.01 --critic-lrs 0.01 --eval-episodes 1"
    script = written / name / f"run_{name}_experiment.py"
    done = subprocess.run(
        [sys.executable, script, *options.split(), "--results-dir", tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert pd.read_csv(tmp_path / "scaled" / name / "runs.csv").status.tolist() == ["completed"]
