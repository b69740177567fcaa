"""The paper's figures on small synthetic studies: which are made, what is said of the others, what they show."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from synthetic_study import edit, write_study

from common.analysis.figures import actor_colour
from common.recording import schema
from common.recording.results import Study, load_study
from paper import figures_mitigations, figures_new, figures_returns, figures_stopping, figures_training, make_figures
from paper.figure_data import NotRecorded, Recordings
from paper.figure_style import WIDTH, critic_marker, headline, place_stops, rate_handles, stopping_lane

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = ROOT / "experiments"
SEEDS = (42, 43)
CHEAP = "fig1_stopping_heatmap"


def stops(_seed: int, actor_lr: float, _critic_lr: float) -> int | None:
    return 60 if actor_lr > 0.05 else None


def diverges(seed: int, actor_lr: float, critic_lr: float) -> int | None:
    return 30 if (seed, actor_lr, critic_lr) == (42, 1e-1, 1e-1) else None


def write_experiment(root: Path, preset: str, name: str, seeds: tuple[int, ...] = SEEDS, **options: object) -> Path:
    """A study of another experiment than the baseline, beside it."""
    written = write_study(root.with_name(f"{root.name}-{preset}-{name}"), preset=preset, seeds=seeds, **options)
    edit(written / schema.RUNS, lambda text: text.replace(",baseline,", f",{name},"))
    folder = root / preset / name
    written.rename(folder)
    return folder


def append_columns(path: Path, values: dict[str, float]) -> None:
    """Append columns of constants, as a variant of the networks does."""
    head, *rows = path.read_text().splitlines()
    cells = "".join(f",{value}" for value in values.values())
    path.write_text("\n".join([",".join([head, *values]), *(row + cells for row in rows)]) + "\n")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Baselines on all presets, LayerNorm on one with a diverged run; a large actor in the making, and no more."""
    root = tmp_path_factory.mktemp("recorded") / "results"
    for preset in ("scaled", "thesis", "interior"):
        write_study(root, seeds=SEEDS, episodes=120, preset=preset, stops=stops)
    normed = write_experiment(root, "scaled", "layernorm", episodes=120, diverges=diverges)
    gains = {f"norm_gain_{output}_{what}": 1.5 for output in ("offload", "power") for what in ("mean", "min", "max")}
    append_columns(normed / schema.SATURATION, {**gains, "norm_bias_power_min": -4.0, "norm_bias_power_max": 0.0})
    write_experiment(root, "interior", "large_actor", seeds=(42,), episodes=120)
    (root / "interior" / "input_norm").mkdir()
    return root


@pytest.fixture(scope="module")
def baseline(results: Path) -> Study:
    return load_study(results / "scaled" / "baseline")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """What `main` would have written, by name."""
    made: dict[str, Figure] = {}
    monkeypatch.setattr(make_figures, "save", lambda figure, _folder, name: made.update({name: figure}))
    return made


def run(*arguments: object) -> int:
    """Exit code of the command line."""
    with pytest.raises(SystemExit) as ended:
        make_figures.main([str(word) for word in arguments])
    return int(ended.value.code or 0)


def test_all_that_can_be_made_are_and_the_others_get_one_line_each(
    results: Path, drawn: dict[str, Figure], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--results-dir", results, "--figures-dir", tmp_path) == 1
    lines = capsys.readouterr().err.splitlines()
    names = list(make_figures.figures(Recordings(results, EXPERIMENTS)))
    missing = [name for name in names if name not in drawn]
    assert missing == [f"fig_{n}" for n in Recordings(results, EXPERIMENTS).experiments if n != "layernorm"]
    assert [line.partition(":")[0] for line in lines] == [*missing, "left out"]
    assert "interior/large_actor: not whole, 4 of the baseline's 8 runs are there" in lines[-1]
    assert {f"fig{n}" for n in range(14)} <= {name.partition("_")[0] for name in drawn}
    for name, figure in drawn.items():
        assert figure.get_figwidth() == WIDTH and figure.get_figheight() < 9, name
        texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
        assert min(text.get_fontsize() for text in texts) >= 7, name


def test_by_name_without_a_preset(
    results: Path, drawn: dict[str, Figure], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "results"
    (root / "scaled").mkdir(parents=True)
    (root / "scaled" / "baseline").symlink_to(results / "scaled" / "baseline")
    assert run("fig0_thesis_stopping", CHEAP, "fig2_stopping_bubble", "fig_mitigations", "--results-dir", root) == 1
    assert list(drawn) == [CHEAP]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all("not made" in line for line in lines)
    assert str(root / "thesis" / "baseline") in lines[0]
    assert run(CHEAP, "--results-dir", root) == 0


def test_a_name_that_is_none(drawn: dict[str, Figure], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(CHEAP, "fig99") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "fig99" in error and CHEAP in error and not drawn
    assert run("--help") == 0
    assert "  fig_death_and_freeze  " in capsys.readouterr().out


def test_same_bytes_in_another_process(results: Path, tmp_path: Path) -> None:
    """Another hash seed and, on the clock, another time."""
    script = [sys.executable, str(ROOT / "paper" / "make_figures.py"), CHEAP, "--results-dir", str(results)]
    environment = {**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"}
    subprocess.run([*script, "--figures-dir", str(tmp_path / "a")], check=True, env=environment, capture_output=True)
    assert run(CHEAP, "--results-dir", results, "--figures-dir", tmp_path / "b") == 0
    for kind in ("pdf", "png"):
        first, second = ((tmp_path / folder / f"{CHEAP}.{kind}").read_bytes() for folder in ("a", "b"))
        assert first == second
    pdf = (tmp_path / "a" / f"{CHEAP}.pdf").read_bytes()
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf and b"CreationDate" not in pdf
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [f"{CHEAP}.pdf", f"{CHEAP}.png"]


def test_only_whole_studies_count(results: Path) -> None:
    recorded = Recordings(results, EXPERIMENTS)
    assert set(recorded.beside_baseline("layernorm")) == {"scaled"}
    assert {preset: list(found) for preset, found in recorded.by_experiment(least=1).items()} == {
        "scaled": ["baseline", "layernorm"], "thesis": ["baseline"], "interior": ["baseline"]
    }  # fmt: skip
    with pytest.raises(NotRecorded, match="input_norm"):
        recorded.beside_baseline("input_norm")
    assert recorded.study("scaled") is recorded.study("scaled")


def test_experiment_is_paired_by_cell_and_seed(results: Path, baseline: Study) -> None:
    normed = load_study(results / "scaled" / "layernorm")
    pair = figures_mitigations.paired(normed, baseline)
    assert len(pair.cells) == 4 and pair.cells == sorted(pair.cells)
    assert len(pair.differences) == 8 and pair.differences["difference"].isna().sum() == 1
    assert list(pair.rows(pair.differences).groupby(pair.differences["actor_lr"]).max()) == [1, 3]
    means = figures_mitigations.differences_of(pd.concat([baseline.runs, normed.runs]))
    expected = pair.differences.groupby("seed")["difference"].mean()
    np.testing.assert_allclose(means["layernorm"].loc[expected.index], expected)


def test_measures_that_a_variant_appended(results: Path, baseline: Study) -> None:
    measures = figures_mitigations.appended_measures(load_study(results / "scaled" / "layernorm").saturation)
    assert list(measures.columns) == ["norm gain", "norm bias"]
    assert (measures["norm gain"] == 1.5).all() and (measures["norm bias"] == 4.0).all()
    assert figures_mitigations.appended_measures(baseline.saturation).columns.empty


def frame(**columns: list[float]) -> pd.DataFrame:
    """Rows of one run."""
    return pd.DataFrame({"seed": 1, "actor_lr": 1e-3, "critic_lr": 1e-2, **columns})


def test_moments_of_a_run() -> None:
    norms = frame(episode=[2, 90, 110, 400], actor_gradient_norm=[4.0, 3.0, 2.0, 0.0])
    moments = figures_training.norms_at_moments(norms)
    assert list(moments) == ["episode 2", "episode 100", "end of the run"]
    assert [table["actor_gradient_norm"].item() for table in moments.values()] == [4.0, 3.0, 0.0]


def test_first_saturated_episode() -> None:
    saturation = frame(episode=[2, 10, 20], saturation_ratio=[0.2, 0.9, 0.95])
    assert figures_training.first_saturated_episode(saturation).item() == 20
    assert figures_training.first_saturated_episode(saturation.head(2)).empty


def test_ratios_and_shares_of_a_run(baseline: Study) -> None:
    ratios = figures_stopping.with_gradient_ratios(baseline)
    norms = baseline.gradient_norms
    one = norms[(norms["seed"] == 42) & (norms["actor_lr"] == 0.1) & (norms["critic_lr"] == 0.1)]
    own = ratios.set_index(["seed", "actor_lr", "critic_lr"]).loc[(42, 0.1, 0.1)]
    assert own["first_ratio"] == one["gradient_ratio"].iloc[0]
    assert own["median_ratio"] == one["gradient_ratio"][one["gradient_ratio"] > 0].median()
    assert (one["gradient_ratio"] == 0).any()  # which the median leaves out
    shares = figures_stopping.with_unsaturated_shares(baseline)
    assert shares["unsaturated_end"].round(6).eq(0.01).all()
    assert shares["unsaturated_100"].between(0, 1).all() and shares["unsaturated_100"].nunique() == 2


def test_scores_and_return_at_stopping(baseline: Study) -> None:
    scores = figures_returns.with_scores(baseline)
    last = scores.groupby(["seed", "actor_lr", "critic_lr"])["score"].last()
    runs = baseline.runs.set_index(["seed", "actor_lr", "critic_lr"])
    np.testing.assert_allclose(last, runs["normalised_score"].loc[last.index], atol=0.2)  # its own references
    assert 0.9 < figures_returns.constant_score(baseline.reference_policies) < 1
    found = figures_returns.return_at_stopping(baseline)
    rows = baseline.evaluations.query("episode == 100 and actor_lr == 0.1")
    assert sorted(found) == sorted(rows["evaluation_return"]) and len(found) == 4


def test_agents_without_death_or_freeze() -> None:
    agents = pd.DataFrame(
        {"gradient_death_episode": [3.0, 3.0, np.nan], "freeze_episode": [161.0, np.nan, np.nan]}
    )
    assert figures_new.unfinished_text(agents) == "of 3 agents\n1 never died\n1 died, not frozen"
    assert list(figures_new.lag_of(agents)) == [158.0]
    assert abs(figures_new.COASTING - 157.9) < 0.1


def test_where_the_cheapest_share_lies() -> None:
    """As docs/environment.md#presets says: the lower bound, the upper bound, and inside for most tasks."""
    state = figures_new.task_sample([42])
    cheapest = {p: figures_new.SHARES[figures_new.local_costs(p, state).argmin(axis=1)] for p in figures_new.PRESETS}
    assert (cheapest["scaled"] == 0.01).mean() > 0.99 and (cheapest["thesis"] == 1).mean() > 0.99
    assert ((cheapest["interior"] > 0.01) & (cheapest["interior"] < 1)).mean() > 0.9
    assert (figures_new.relative(np.array([[2.0, 4.0]])) == [[1.0, 2.0]]).all()


def test_marks_and_titles(baseline: Study) -> None:
    assert [critic_marker(rate) for rate in (1e-4, 9e-4, 1e-2, 1.0)] == ["o", "s", "D", "^"]
    assert [handle.get_color() for handle in rate_handles(baseline.runs)] == [actor_colour(1e-3), actor_colour(1e-1)]
    assert headline("Stops", baseline.runs) == "Stops — baseline; preset scaled; seeds 42, 43; 8 runs"
    both = pd.concat([baseline.runs, baseline.runs.assign(preset="thesis")])
    assert headline("Stops", both) == "Stops — baseline; seeds 42, 43; 8 runs each"
    lane = stopping_lane(baseline.runs)
    placed = place_stops(baseline.runs, lane)
    stopped = baseline.runs["stopping_episode"].notna()
    assert (placed[stopped] == 60).all() and (placed[~stopped] > 1.5 * baseline.runs["total_episodes"].max()).all()
