"""Figures and summary of synthetic studies: what they show."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image
from synthetic_study import GRID, write_study

from common.analysis import figures
from common.analysis.summary import study_summary
from common.recording import schema
from common.recording.results import Study, learning_rate_text, load_study


def three_seeds(root: Path) -> Study:
    """Actor 1e-1: stops at 161, 188, 232; one diverged with critic 1e-1. Actor 1e-3: two of three never."""
    at = {42: 188, 43: 161, 44: 232}

    def stops(seed: int, actor: float, critic: float) -> int | None:
        if actor == 1e-3:
            return {1e-3: None, 1e-1: 240 if seed == 44 else None}[critic]
        return None if critic == 1e-1 and seed == 43 else at[seed]

    def diverges(seed: int, actor: float, critic: float) -> int | None:
        return 131 if actor == critic == 1e-1 and seed == 43 else None

    return load_study(write_study(root, seeds=(42, 43, 44), stops=stops, diverges=diverges))


def test_heatmap_says_range_and_misses(tmp_path: Path) -> None:
    (axes, _) = figures.stopping_heatmap(three_seeds(tmp_path).runs).axes
    assert {text.get_position(): text.get_text() for text in axes.texts} == {  # by place of critic's and actor's rate
        (0, 0): "never", (1, 0): "2/3 never\n(240)", (0, 1): "188\n(161–232)", (1, 1): "210\n(188–232)\n1/3 diverged",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("preset", "seeds", "rates"),
    [("scaled", (42,), GRID), ("interior", (42, 43, 44), GRID), ("thesis", (42, 43), (1e-2,)),
     ("scaled", (42,), (1e-1,))],
)  # fmt: skip
def test_figures_build_and_say_what_they_show(
    tmp_path: Path, preset: str, seeds: tuple[int, ...], rates: tuple[float, ...]
) -> None:
    study = load_study(write_study(
        tmp_path, rates, rates, seeds, episodes=150, preset=preset,
        diverges=lambda seed, actor, critic: 40 if actor == critic == 1e-1 else None,
    ))  # fmt: skip
    built = [
        figures.stopping_heatmap(study.runs),
        figures.saturation_over_time(study.saturation, study.label),
        figures.gradient_norms_over_time(study.gradient_norms, study.label),
        figures.learning_curves(study.evaluations, study.reference_policies, study.label),
    ]
    for figure in built:
        figure.canvas.draw()
        title = figure.get_suptitle().replace("\n", " ")
        assert f"{preset} / baseline" in title and f"{len(seeds)} seed" in title
    texts = [text.get_text() for axes in built[3].axes for text in axes.texts]
    for policy in schema.POLICIES:
        assert any(text.startswith(policy) for text in texts)
    assert ("log" in built[3].axes[0].get_ylabel()) == (preset == "scaled")


def test_zeros_are_drawn_on_a_line_named_zero(tmp_path: Path) -> None:
    norms = load_study(write_study(tmp_path, (1e-2,), (1e-2,), episodes=150)).gradient_norms
    axes = figures.gradient_norms_over_time(norms).axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    zero = axes.get_yticks()[names.index("0")]
    assert "zeros on the dashed line" in axes.get_ylabel()
    positive = norms.loc[norms["actor_gradient_norm"] > 0, "actor_gradient_norm"]
    assert 0 < zero < positive.min()
    run = axes.lines[1] if len(axes.lines[0].get_xdata()) == 2 else axes.lines[0]
    assert (np.asarray(run.get_ydata()) == zero).sum() == (norms["actor_gradient_norm"] == 0).sum() > 0


def test_all_gradients_zero_or_not_finite(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path, episodes=60))
    for value in (0.0, math.nan, math.inf):
        norms = study.gradient_norms.assign(actor_gradient_norm=value, gradient_ratio=value)
        figures.gradient_norms_over_time(norms).canvas.draw()
        figures.saturation_over_time(study.saturation.assign(z_min=value, z_max=value)).canvas.draw()


def test_colour_belongs_to_the_learning_rate() -> None:
    colours = [figures.actor_colour(rate) for rate in (1e-5, 1e-4, 3e-4, *GRID[1:], 1.0)]
    assert len(set(colours)) == len(colours) and figures.actor_colour(0.0) == (0, 0, 0)  # frozen actors
    assert colours[1] == pytest.approx((0, 0x72 / 255, 0xB2 / 255))


def test_a_small_picture_has_the_lines_colours_exactly() -> None:
    """Of a picture of many other colours, which take nearly all of the few."""
    figure = Figure()
    axes = figure.subplots()
    axes.imshow(np.random.default_rng(0).random((90, 90, 3)))
    for rate in GRID:
        axes.plot([0, 80], [10, 10 + 1e3 * rate], color=figures.actor_colour(rate), linewidth=0.5, alpha=0.3)
        axes.axhline(-20 * math.log10(rate), color=figures.actor_colour(rate), linewidth=3)
    with Image.open(io.BytesIO(figures.small_png(figure))) as image:
        found = {colour for _, colour in image.convert("RGB").getcolors(2**20)}
    assert len(found) <= figures.COLOURS
    assert {tuple(round(255 * x) for x in figures.actor_colour(rate)) for rate in GRID} <= found


def test_saved_figures_lie_beside_the_files_and_outlive_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = load_study(write_study(tmp_path, episodes=20))
    paths = figures.save_study_figures(study)
    names = ("stopping_heatmap", "saturation_over_time", "gradient_norms_over_time", "learning_curves")
    assert paths == [study.folder / f"{name}.png" for name in names]
    monkeypatch.setattr("common.recording.store.os.replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        figures.save_study_figures(study)
    assert {path.name for path in study.folder.iterdir()} == {*schema.FILES, *(path.name for path in paths)}
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in paths)


def test_summary_of_three_seeds(tmp_path: Path) -> None:
    text = study_summary(three_seeds(tmp_path))
    assert max(map(len, text.splitlines())) <= 100
    rows = {line.split()[0]: line for line in reversed(text.splitlines()) if line.startswith("  1e")}
    assert "never" in rows["1e-3"] and "2/3 never" in rows["1e-3"]
    assert "188 (161–232)" in rows["1e-1"] and "210 (188–232) 1/3 diverged" in rows["1e-1"]
    assert all(fact in text for fact in ("12 runs", "4 learning-rate pairs", "42 43 44", "1/3 none", "400"))
    (diverged,) = [line for line in text.splitlines() if line.startswith("Diverged")]
    assert "1 of 12" in diverged and "131" in diverged
    assert "-38,503.8" in text  # the random policy, mean of three seeds


def test_summary_of_one_seed_has_no_ranges(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path, GRID, GRID, episodes=20, stops=lambda seed, actor, critic: 17))
    text = study_summary(study)
    assert "17" in text and "(17" not in text and "never" not in text and "Diverged" not in text
    assert f"{study.runs['normalised_score'].iloc[0]:.2f}" in text and max(map(len, text.splitlines())) <= 100


def test_summary_of_a_wide_grid_continues_below(tmp_path: Path) -> None:
    rates = tuple(10.0**-power for power in range(1, 12))
    text = study_summary(load_study(write_study(tmp_path, (1e-2,), rates, (1, 2), episodes=20)))
    assert max(map(len, text.splitlines())) <= 100
    assert all(f"critic {learning_rate_text(rate)}" in text for rate in rates)


def test_no_line_crosses_what_was_not_logged() -> None:
    """Episodes 2 and 10 are far apart; 10 and 20 are not."""
    x, y = figures.bridged(pd.Series([2, 10, 20, 30]), pd.Series([1.0, 2, 3, 4]))
    assert np.isnan(y).tolist() == [False, True, False, False, False]
    assert [float(v) for v in figures.alone(x, y)[0]] == [2]
    every = pd.Series(range(2, 21))
    assert not np.isnan(figures.bridged(every, every * 1.0)[1]).any()


def test_a_panel_whose_runs_all_ended_early_says_so() -> None:
    """Early is before the last episode of the whole figure, not of the panel."""
    ends = {1e-3: 100, 1e-1: 200}
    rows = [(1, 1e-2, critic_lr, at, -1.0 - at) for critic_lr, last in ends.items() for at in range(0, last + 1, 50)]
    evaluations = pd.DataFrame(rows, columns=[*schema.RUN_KEY, "episode", "evaluation_return"])
    figure = figures.learning_curves(evaluations, pd.DataFrame(columns=["policy", "evaluation_return"]))
    ended = [
        [line for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata()) == 1] for axes in figure.axes
    ]
    assert [[float(line.get_xdata()[0]) for line in lines] for lines in ended] == [[100.0], []]
