"""The monitor's study goes on where it was interrupted, and its notebook runs from top to bottom."""

from __future__ import annotations

import csv
import importlib.util
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.study.lock import FolderLock
from experiments.monitor import run_monitor_study

pytest.importorskip("stable_baselines3", reason="needs the packages of requirements-monitor.txt")

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "experiments" / "monitor" / "run_monitor_study.py"
NOTEBOOK = ROOT / "experiments" / "monitor" / "saturation_monitor.ipynb"
SMALL = ("--algorithms", "TD3", "--tasks", "Pendulum-v1", "--learning-rates", "0.1", "--seeds", "1", "--steps", "150")


def study(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", SCRIPT, *SMALL, "--results-dir", folder, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def rows_after(folder: Path, *arms: str) -> list[dict[str, str]]:
    done = study(folder, "--arms", *arms, *arms)
    assert done.returncode == 0, done.stderr
    with (folder / "runs.csv").open() as file:
        return list(csv.DictReader(file))


def test_it_goes_on_and_repeats_no_run(tmp_path: Path) -> None:
    (first,) = rows_after(tmp_path, "plain")
    both = rows_after(tmp_path, "plain", "limit both")
    assert both[0] == first  # its seconds, too: it was not run again
    assert [row["arm"] for row in both] == ["plain", "limit both"]
    for name in ("summary.csv", "summary.md", "returns.png"):
        assert (tmp_path / name).stat().st_size > 0


@pytest.mark.parametrize(("task", "algorithm"), [("MountainCarContinuous-v0", "DDPG"), ("HalfCheetah-v5", "TD3")])
def test_other_tasks(monkeypatch: pytest.MonkeyPatch, task: str, algorithm: str) -> None:
    if task == "HalfCheetah-v5":
        pytest.importorskip("mujoco", reason="needs the packages of requirements-monitor.txt")
    monkeypatch.setattr(run_monitor_study, "EVALUATION_EPISODES", 1)
    job = run_monitor_study.Job(algorithm, task, 0.1, 0, "normalised, limit both", 150)
    row = run_monitor_study.run(job)
    assert row["task"] == task and row["actor_updates"] > 0 and math.isfinite(row["return_mean"])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--seeds", "0"), "--seeds"),
        (("--learning-rates", "0"), "--learning-rates"),
        (("--learning-rates", "inf"), "--learning-rates"),
        (("--arm", "plain"), "--arm"),
        (("--arms", "limit both and alpha"), "--arms"),  # which only SAC has
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, arguments: tuple[str, ...], named: str) -> None:
    done = study(tmp_path / "none", *arguments)
    assert done.returncode != 0
    assert len(done.stderr.splitlines()) == 1 and named in done.stderr
    assert not (tmp_path / "none").exists()


def test_recorded_runs_are_left_alone(capsys: pytest.CaptureFixture) -> None:
    """While the repository's results are there, a run without --results-dir goes elsewhere; a summary reads them."""
    assert run_monitor_study.options_from([]).results_dir == ROOT / "my_results" / "monitor"
    assert "yours go to" in capsys.readouterr().out
    assert run_monitor_study.options_from(["--summary"]).results_dir == ROOT / "results" / "monitor"


def test_ctrl_c_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", SCRIPT, *SMALL, "--steps", "100000", "--results-dir", tmp_path]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert "runs to do" in process.stdout.readline()
        time.sleep(5)
        os.killpg(process.pid, signal.SIGINT)
        _, lines = process.communicate()
    assert process.returncode == 75 and len(lines.splitlines()) == 1, lines


def test_a_file_of_another_version_is_left_alone(tmp_path: Path) -> None:
    file, written = tmp_path / "runs.csv", "algorithm,task\nTD3,Pendulum-v1\n"
    file.write_text(written)
    done = study(tmp_path)
    assert done.returncode != 0
    assert len(done.stderr.splitlines()) == 1
    assert file.read_text() == written


def test_damaged_rows_and_other_steps_are_refused(tmp_path: Path) -> None:
    rows_after(tmp_path, "plain")
    file = tmp_path / "runs.csv"
    whole = file.read_text()
    row = whole.splitlines()[1]
    for text in (whole[:-30], whole + row + "\n", whole + row[: row.index("plain")] + "\n", whole + row + ",9\n"):
        file.write_text(text)
        done = study(tmp_path, "--arms", "plain")
        assert done.returncode != 0 and len(done.stderr.splitlines()) == 1 and "line" in done.stderr
        assert file.read_text() == text
    file.write_text(whole)
    done = study(tmp_path, "--arms", "plain", "--steps", "160")
    assert done.returncode != 0 and "--steps" in done.stderr and file.read_text() == whole


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with FolderLock(tmp_path):
        done = study(tmp_path, "--arms", "plain")
    assert done.returncode != 0 and len(done.stderr.splitlines()) == 1 and not (tmp_path / "runs.csv").exists()


def test_the_notebook_runs(tmp_path: Path) -> None:
    if not all(importlib.util.find_spec(name) for name in ("nbclient", "ipykernel", "matplotlib")):
        pytest.skip("needs nbclient, ipykernel and matplotlib")
    import nbformat
    from nbclient import NotebookClient

    shutil.copytree(ROOT / "common" / "monitor", tmp_path / "saturation_monitor")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = {cell.id: cell for cell in notebook.cells}
    assert cells["break"].source.count("STEPS = 8000") == 1
    cells["break"].source = cells["break"].source.replace("STEPS = 8000", "STEPS = 300")
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env={**os.environ, "PYTHONPATH": str(tmp_path), "IPYTHONDIR": str(tmp_path / ".ipython")})
    assert any("image/png" in output.get("data", {}) for output in cells["picture"].outputs)
    assert "return" in "".join(output.text for output in cells["return"].outputs if output.output_type == "stream")


def test_weights_that_become_nan_are_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SAC draws from a distribution that refuses NaN: the run is recorded without a return and ranks last."""
    import pandas as pd
    from stable_baselines3.common.buffers import ReplayBuffer

    from experiments.monitor.study_summary import figure_of, summary, write_summary

    def broken(self: ReplayBuffer, batch_size: int, env: object = None) -> object:
        sample = whole(self, batch_size, env=env)
        return sample._replace(rewards=sample.rewards * math.nan)

    whole = ReplayBuffer.sample
    monkeypatch.setattr(run_monitor_study, "EVALUATION_EPISODES", 1)
    good = run_monitor_study.run(run_monitor_study.Job("SAC", "Pendulum-v1", 0.1, 0, "plain", 150))
    monkeypatch.setattr(ReplayBuffer, "sample", broken)
    lost = [
        run_monitor_study.run(run_monitor_study.Job(algorithm, "Pendulum-v1", 0.1, 1, "plain", 150))
        for algorithm in ("SAC", "TD3")
    ]
    assert math.isfinite(good["return_mean"]) and all(math.isnan(row["return_mean"]) for row in lost)
    file = tmp_path / "runs.csv"
    run_monitor_study.write(file, [good, *lost])
    assert len(run_monitor_study.read(file)) == 3  # such a row is whole
    table = summary(pd.read_csv(file)).set_index("algorithm")
    assert table.loc["SAC", ["seeds", "seeds_diverged"]].tolist() == [2, 1]
    assert table.loc["SAC", "return_lowest"] == -math.inf < table.loc["SAC", "return_highest"]
    assert table.loc["TD3", "return_median"] == -math.inf
    write_summary(file, tmp_path)
    assert "| diverged (diverged to diverged), 1 diverged |" in (tmp_path / "summary.md").read_text()
    assert "NaN" in " ".join(text.get_text() for text in figure_of(pd.read_csv(file)).legends[0].get_texts())
