"""Scalars for TensorBoard: those of the CSV files, once each; nothing is asked of who does not want them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.agents.reports import RunKey
from common.config import ConfigError, StudyConfig
from common.experiment import Experiment
from common.recording import schema
from common.recording.tensorboard import Board
from common.recording.tracking import RunRecord
from common.study.runner import main

SMALL = [
    *("--agents", "10", "--batch-size", "8", "--episodes", "23", "--eval-episodes", "1", "--eval-every", "10"),
    *("--actor-lrs", "0.1", "--critic-lrs", "0.1", "0.001", "--threads", "1", "--runs-per-shard", "1"),
]


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard shows of one run: values by name and step, which may be there once only."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder), {accumulator.SCALARS: 0}).Reload()
    found = {}
    for name in events.Tags()["scalars"]:
        values = events.Scalars(name)
        found[name] = {event.step: event.value for event in values}
        assert len(found[name]) == len(values), name
    return found


def test_scalars_are_those_of_the_csv_files(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    main(
        Experiment(name="some", description="Some."),
        [*SMALL, "--results-dir", str(tmp_path / "results"), "--tensorboard", str(tmp_path / "board")],
    )
    study = tmp_path / "results" / "scaled" / "some"
    for critic_lr in (0.1, 0.001):
        found = scalars(tmp_path / "board" / "scaled" / "some" / f"seed42_actor0.1_critic{critic_lr}")
        for file in (*schema.LONG, schema.EVALUATIONS):
            table = pd.read_csv(study / file)
            own = table[table["critic_lr"] == critic_lr].set_index("episode").drop(columns=list(schema.RUN_KEY))
            assert len(own)
            for column in own:
                shown = pd.Series(found.get(f"{file.removesuffix('.csv')}/{column}", {}), dtype=float)
                wanted = own[column].dropna()
                assert list(shown.index) == list(wanted.index), column
                assert np.allclose(shown, wanted, rtol=1e-6), column


def test_after_a_resume_each_value_is_there_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    config = StudyConfig(tensorboard=str(tmp_path))
    record = RunRecord(RunKey(42, 0.1, 0.1))
    for episode in range(1, 8):
        record.add(schema.REWARDS, [episode, float(episode), 0.5, float("nan")])
        if episode in (3, 5, 7):  # where a board is written, and then lost with its process
            board = Board(config, "some")
            board.write([record], {schema.REWARDS: schema.FILES[schema.REWARDS][3:]})
            board.close()
    (folder,) = (tmp_path / "scaled" / "some").iterdir()
    assert scalars(folder) == {
        "rewards/training_return": {episode: float(episode) for episode in range(1, 8)},
        "rewards/late_share": dict.fromkeys(range(1, 8), 0.5),
    }


def test_without_the_package_one_line_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    options = [*SMALL, "--results-dir", str(tmp_path / "results"), "--tensorboard", str(tmp_path / "board")]
    with pytest.raises(SystemExit) as left:
        main(Experiment(name="some", description="Some."), options)
    assert left.value.code == 2 and not list(tmp_path.iterdir())
    (line,) = capsys.readouterr().err.splitlines()
    assert "tensorboard" in line


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file"):
        Board(StudyConfig(tensorboard=str(tmp_path / "file")), "some")
