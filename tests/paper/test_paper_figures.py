"""The paper's figures and command on small synthetic studies: what is made, what is said of the rest, same bytes."""

from __future__ import annotations

import shutil
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
from paper import make
from paper.figures import FIGURES, mechanism, stopping, style, training
from paper.load import NotRecorded, Recordings

ROOT = Path(__file__).resolve().parents[2]
LATER = {"fig_recipe", "fig_parts", "fig_monitor"}  # their studies are not among these


def stops(_seed: int, actor_lr: float, _critic_lr: float) -> int | None:
    return 60 if actor_lr > 0.05 else None


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recorded") / "results"
    for preset in ("scaled", "thesis", "interior"):
        write_study(root, seeds=(42, 43), episodes=120, preset=preset, stops=stops)
    return root


@pytest.fixture(scope="module")
def recorded(results: Path) -> Recordings:
    return Recordings(results)


@pytest.mark.parametrize("name", FIGURES)
def test_each_figure_fits_the_page_or_says_what_is_missing(recorded: Recordings, name: str) -> None:
    if name in LATER:
        with pytest.raises(NotRecorded, match="not recorded"):
            FIGURES[name](recorded)
        return
    figure = FIGURES[name](recorded)
    assert figure.get_figwidth() == style.WIDTH and figure.get_figheight() < 9
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    assert min(text.get_fontsize() for text in texts) >= 7


def test_the_recipes_figure_once_it_is_recorded(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results, tmp_path / "results")
    folder = tmp_path / "results" / "interior" / "recipe"
    shutil.copytree(folder.with_name("baseline"), folder)
    edit(folder / schema.RUNS, lambda text: text.replace(",baseline,", ",recipe,"))
    figure = FIGURES["fig_recipe"](Recordings(tmp_path / "results"))
    assert [axes.get_title() for axes in figure.axes] == ["interior"]
    shutil.copytree(folder, folder.with_name("recipe-without-step_limit"))
    (panel,) = FIGURES["fig_parts"](Recordings(tmp_path / "results")).axes
    assert [tick.get_text() for tick in panel.get_yticklabels()] == ["The recipe", "without step limit"]


def test_deaths_of_every_episode_are_resolved() -> None:
    x, y = stopping.shares_over_time(pd.Series([3, 3, 7, np.nan, 500]), end=200)
    assert list(zip(x, y, strict=True)) == [(1, 0), (3, 0.2), (3, 0.4), (7, 0.6), (200, 0.6)]


def test_a_pictures_checksum_is_that_of_its_numbers(recorded: Recordings, results: Path, tmp_path: Path) -> None:
    first, again = (make.drawn(FIGURES["fig2_stopping_bubble"](recorded)) for _ in range(2))
    assert first == again
    shutil.copytree(results, tmp_path / "results")
    edit(tmp_path / "results" / "scaled" / "baseline" / schema.RUNS, lambda text: text.replace(",60,", ",61,"))
    assert make.drawn(FIGURES["fig2_stopping_bubble"](Recordings(tmp_path / "results"))) != first


@pytest.mark.parametrize("changed", ["legend", "tick", "colour", "face"])
def test_a_pictures_checksum_is_that_of_its_words_and_colours(changed: str) -> None:
    def checksum(**other: str) -> str:
        figure = Figure()
        axes = figure.subplots()
        axes.plot([0, 1], [1, 2], color=other.get("colour", "red"), label=other.get("legend", "a rate"))
        axes.scatter([1], [2], color=other.get("face", "red"))
        axes.set_yticks([0], [other.get("tick", "The recipe")])
        figure.legend()
        return make.drawn(figure)

    assert checksum() == checksum() != checksum(**{changed: "blue"})


def test_same_bytes_without_dates(recorded: Recordings, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        style.save(FIGURES["fig1_stopping_heatmap"](recorded), tmp_path / folder, "x", "sum")
    for kind in ("pdf", "png"):
        first, second = ((tmp_path / folder / f"x.{kind}").read_bytes() for folder in ("a", "b"))
        assert first == second
    pdf = (tmp_path / "a" / "x.pdf").read_bytes()
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf and b"CreationDate" not in pdf
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["x.pdf", "x.png"]


def test_check_names_what_other_results_would_change(results: Path) -> None:
    script = [sys.executable, str(ROOT / "paper" / "make.py"), "findings", "--check", "--results-dir", str(results)]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 1 and "docs/findings.md" in done.stderr and "Traceback" not in done.stderr


def frame(**columns: list[float]) -> pd.DataFrame:
    """Rows of one run."""
    return pd.DataFrame({"seed": 1, "actor_lr": 1e-3, "critic_lr": 1e-2, **columns})


def test_moments_of_a_run() -> None:
    moments = training.norms_at_moments(frame(episode=[2, 90, 110, 400], actor_gradient_norm=[4.0, 3.0, 2.0, 0.0]))
    assert list(moments) == ["episode 2", "episode 100", "end of the run"]
    assert [table["actor_gradient_norm"].item() for table in moments.values()] == [4.0, 3.0, 0.0]


def test_first_saturated_episode() -> None:
    saturation = frame(episode=[2, 10, 20], saturation_ratio=[0.2, 0.9, 0.95])
    assert training.first_saturated_episode(saturation).item() == 20
    assert training.first_saturated_episode(saturation.head(2)).empty


def test_ratios_and_shares_of_a_run(recorded: Recordings) -> None:
    study = recorded.need("scaled")
    ratios = stopping.with_gradient_ratios(study).set_index(["seed", "actor_lr", "critic_lr"]).loc[(42, 0.1, 0.1)]
    one = study.norms[(study.norms[["seed", "actor_lr", "critic_lr"]] == [42, 0.1, 0.1]).all(axis=1)]
    assert ratios["first_ratio"] == one["gradient_ratio"].iloc[0]
    assert ratios["median_ratio"] == one["gradient_ratio"][one["gradient_ratio"] > 0].median()
    assert stopping.with_unsaturated_shares(study)["unsaturated_end"].round(6).eq(0.01).all()


def test_marks_and_titles(recorded: Recordings) -> None:
    study = recorded.need("scaled")
    assert [style.critic_marker(rate) for rate in (1e-4, 9e-4, 1e-2, 1.0)] == ["o", "s", "D", "^"]
    assert [x.get_color() for x in style.rate_handles(study.runs)] == [actor_colour(1e-3), actor_colour(1e-1)]
    assert style.headline("Stops", [study]) == "Stops — baseline; preset scaled; seeds 42 and 43; 8 runs"
    assert style.headline("Stops", recorded.baselines.values()) == "Stops — baseline; seeds 42 and 43; 8 runs each"
    lane = style.stopping_lane(study.runs)
    placed = style.place_stops(study.runs, lane)
    stopped = study.runs["stopped"]
    assert (placed[stopped] == 60).all() and (placed[~stopped] > 1.5 * study.runs["total_episodes"].max()).all()


def test_agents_without_death_or_freeze() -> None:
    agents = pd.DataFrame({"gradient_death_episode": [3.0, 3.0, np.nan], "freeze_episode": [161.0, np.nan, np.nan]})
    assert mechanism.unfinished_text(agents) == "of 3 agents\n1 never died\n1 died, not frozen"
