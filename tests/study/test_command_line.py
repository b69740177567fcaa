"""Bad input: one line that names the thing and what is allowed, exit code 2, nothing written or changed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from faults.resume_helpers import EXPERIMENT, tree
from torch import Tensor

from common.agents.algorithm import Algorithm
from common.agents.networks import Actor, Critic
from common.config import StudyConfig, option
from common.experiment import Experiment
from common.study.runner import main

TINY = ["--agents", "10", "--episodes", "2", "--batch-size", "16", "--eval-episodes", "1"]
TINY += ["--actor-lrs", "0.01", "--critic-lrs", "0.01"]


def refused(capsys: pytest.CaptureFixture, arguments: list[str], experiment: Experiment = EXPERIMENT) -> str:
    with pytest.raises(SystemExit) as stop:
        main(experiment, arguments)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--actr-lrs", "0.1"], "--actr-lrs"),
        (["--actor-lr", "0.1"], "--actor-lr"),  # no guessing of abbreviations
        (["--actor-lrs", "-0.1"], "--actor-lrs -0.1"),
        (["--critic-lrs", "nan"], "--critic-lrs nan"),
        (["--critic-lrs", "inf"], "--critic-lrs inf"),
        (["--beta1", "1"], "--beta1 1"),
        (["--adam-eps", "0"], "--adam-eps 0"),
        (["--tau", "1.5"], "--tau 1.5"),
        (["--actor-lrs", "0.1", "0.1"], "--actor-lrs"),
        (["--episodes", "0"], "--episodes 0"),
        (["--episodes", "many"], "--episodes"),
        (["--channels", "51"], "--channels 51"),
        (["--env", "mars"], "--env mars"),
        (["--replay-capacity", "1005"], "--replay-capacity 1005"),
        (["--critic-hidden", "0"], "--critic-hidden 0"),
        (["--actor-hidden", "100000000000"], "--actor-hidden 100000000000"),
        (["--agents", "10000", "--actor-hidden", "16000", "16000"], "one run needs"),
        (["--part", ""], "--part"),
        (["--device", "cuda"], "--device cuda"),
    ],
)
def test_bad_option(arguments: list[str], named: str, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    line = refused(capsys, [*arguments, "--results-dir", str(tmp_path)])
    assert named in line and ("allowed" in line or "invalid" in line or "unrecognized" in line)
    assert not list(tmp_path.iterdir())


@dataclass(frozen=True)
class OwnConfig(StudyConfig):
    """With options of its own."""

    penalty: float = option(0.125, "how much large |z| cost", minimum=0.0, below=2.5)
    gentle: bool = option(False, "begin gently")


OWN = Experiment("own", "A test.", {"penalty": 0.25}, config=OwnConfig)


def test_an_experiments_own_options(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    """They stand in --help with the experiment's default, have a range, and are part of what a study is."""
    with pytest.raises(SystemExit) as stop:
        main(OWN, ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    assert "--penalty FLOAT how much large |z| cost (0 or more, below 2.5; default: 0.25)" in text
    assert "--gentle, --no-gentle begin gently" in text
    arguments = [*TINY, "--results-dir", str(tmp_path)]
    for value in ("-1", "2.5"):
        line = refused(capsys, [*arguments, "--penalty", value], OWN)
        assert f"--penalty {float(value)}: allowed: 0 or more, below 2.5" in line
    assert "--penalty" in refused(capsys, [*arguments, "--penalty", "1"])  # the baseline has no such option
    main(OWN, [*arguments, "--gentle"])
    before = tree(tmp_path)
    assert "penalty 0.25 there, 0.5 asked" in refused(capsys, [*arguments, "--gentle", "--penalty", "0.5"], OWN)
    assert "gentle True there, False asked" in refused(capsys, arguments, OWN)
    assert tree(tmp_path) == before
    # An older study lacks the option: it had the option's own default then, and goes on.
    path = tmp_path / "scaled" / "own" / "study.json"
    path.write_text(path.read_text().replace('    "penalty": 0.25,\n', ""))
    assert "penalty 0.125 there, 0.25 asked" in refused(capsys, [*arguments, "--gentle"], OWN)
    main(OWN, [*arguments, "--gentle", "--penalty", "0.125"])


@dataclass(frozen=True)
class HidingConfig(StudyConfig):
    gamma: float = option(0.5, "another gamma")


@dataclass(frozen=True)
class HidingMethodConfig(StudyConfig):
    result_fields: float = option(0.5, "a name that is taken")


@dataclass(frozen=True)
class HidingFlagConfig(StudyConfig):
    no_early_stop: float = option(0.5, "a name that is taken")


class ForgottenConfig(StudyConfig):
    """Without its decorator, so that the option would be none, and true whatever it says."""

    gentle: bool = option(False, "begin gently")


class WideActor(Actor):
    def forward(self, state: Tensor) -> Tensor:
        return torch.cat((super().forward(state), state[..., :1]), dim=-1)


class RankingCritic(Critic):
    def values(self, joint: Tensor, personal: Tensor) -> Tensor:
        return super().values(joint, personal)[..., 0]


class NarrowActor(Actor):
    def forward(self, state: Tensor) -> Tensor:
        return super().forward(state[..., 1:])


class BranchingActor(Actor):
    """That decides by a value, which many networks at once cannot."""

    def forward(self, state: Tensor) -> Tensor:
        return super().forward(state if state.sum() > 0 else -state)


class Misspelt(Algorithm):
    def actors_loss(self, z: Tensor, actions: Tensor, q: Tensor, weights: Tensor) -> Tensor:
        return super().actor_loss(z, actions, q, weights)


class LossPerAgent(Algorithm):
    def actor_loss(self, z: Tensor, actions: Tensor, q: Tensor, weights: Tensor) -> Tensor:
        return z.square().mean((1, 3))


class TensorState(Algorithm):
    def run_state(self) -> dict[str, Tensor]:
        return {"largest": torch.zeros(3)}


MISTAKEN: dict[str, tuple[Experiment, tuple[str, ...]]] = {
    # What the one line names.
    "hides a method": (Experiment("mistaken", "", config=HidingMethodConfig), ("result_fields", "mistaken")),
    "hides a flag": (Experiment("mistaken", "", config=HidingFlagConfig), ("no_early_stop", "mistaken")),
    "one value for several": (Experiment("mistaken", "", {"actor_hidden": 64}), ("--actor-hidden", "tuple")),
    "hides an option": (Experiment("mistaken", "", config=HidingConfig), ("gamma", "mistaken")),
    "forgets to decorate": (Experiment("mistaken", "", config=ForgottenConfig), ("gentle", "@dataclass")),
    "overrides no option": (Experiment("mistaken", "", {"gama": 0.5}), ("gama", "mistaken")),
    "overrides with a text": (Experiment("mistaken", "", {"gamma": "0.5"}), ("--gamma 0.5", "of type float")),
    "actor too wide": (Experiment("mistaken", "", actor=WideActor), ("WideActor", "(3, 4)", "(3, 3)")),
    "critic without heads": (Experiment("mistaken", "", critic=RankingCritic), ("RankingCritic", "(3, 2)")),
    "actor that fails": (Experiment("mistaken", "", actor=NarrowActor), ("NarrowActor", "(3, 7)")),
    "actor that branches": (Experiment("mistaken", "", actor=BranchingActor), ("BranchingActor", "several networks")),
    "misspelt rule": (Experiment("mistaken", "", algorithm=Misspelt), ("Misspelt.actors_loss", "actor_loss")),
    "loss of another shape": (Experiment("mistaken", "", algorithm=LossPerAgent), ("actor_loss", "(2, 10)", "(2,)")),
    "state that is no number": (Experiment("mistaken", "", algorithm=TensorState), ("TensorState.run_state", "number")),
    "name of a folder": (Experiment("mis/taken", ""), ("mis/taken", "letters")),
    "name of a variant": (Experiment("mis-taken", ""), ("mis-taken", "letters")),
}


@pytest.mark.parametrize("what", MISTAKEN)
def test_mistaken_experiment(what: str, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    experiment, named = MISTAKEN[what]
    line = refused(capsys, [*TINY, "--results-dir", str(tmp_path)], experiment)
    assert all(name in line for name in named), line
    assert not list(tmp_path.rglob("*")), "nothing is written"


def test_a_script_of_another_name_is_refused(
    capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would take the other experiment's results for its own."""
    monkeypatch.setattr(sys, "argv", ["experiments/copied/run_copied_experiment.py"])
    line = refused(capsys, [*TINY, "--results-dir", str(tmp_path)])
    assert "run_copied_experiment.py" in line and "'baseline'" in line
    assert not list(tmp_path.rglob("*"))


def test_unusable_folder(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    file = tmp_path / "results"
    file.write_text("not a folder")
    assert str(file) in refused(capsys, [*TINY, "--results-dir", str(file)])


def test_finished_runs_are_not_trained_again(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    """And rows that an interruption left of a run that is not asked for any more do not matter."""
    folder = tmp_path / "scaled" / "baseline"
    main(EXPERIMENT, [*TINY, "--results-dir", str(tmp_path)])
    assert (folder / "stopping_heatmap.png").exists()
    files = [folder / "study.json", *folder.glob("*.csv")]
    before = [path.read_bytes() for path in files]
    with (folder / "evaluations.csv").open("a") as file:
        file.write("43,0.01,0.01,0,-1,0,0,0\n")
    main(EXPERIMENT, [*TINY, "--results-dir", str(tmp_path)])
    assert "0 of 1 runs to train" in capsys.readouterr().out
    assert [path.read_bytes() for path in files] == before


def test_recorded_results_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "RECORDED.md").write_text("recorded\n")
    main(EXPERIMENT, TINY)
    assert [p.name for p in (tmp_path / "results").iterdir()] == ["RECORDED.md"]
    assert (tmp_path / "my_results" / "scaled" / "baseline" / "runs.csv").exists()


def test_runs_from_anywhere(tmp_path: Path) -> None:
    """The only study that is started from another folder and writes into its own."""
    script = Path(__file__).resolve().parents[2] / "experiments" / "baseline" / "run_baseline_experiment.py"
    done = subprocess.run([sys.executable, str(script), *TINY], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no progress bar where there is no terminal
    assert (tmp_path / "results" / "scaled" / "baseline" / "stopping_heatmap.png").exists()
