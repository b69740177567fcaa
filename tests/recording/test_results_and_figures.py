"""Reader, figures and summary on synthetic studies: what they refuse, and what they show."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from common.analysis import figures
from common.analysis.summary import study_summary
from common.recording import schema
from common.recording.results import ResultsError, Study, find_studies, learning_rate_text, load_study, stopping_cell

GRID = (1e-4, 1e-3, 1e-2, 1e-1)
LEVELS = {"scaled": (-38_500.0, -389.0), "thesis": (-100.0, -29.0), "interior": (-200.0, -71.0)}
AGENTS = 3


def write_study(
    root: Path,
    actor_lrs: tuple[float, ...] = (1e-3, 1e-1),
    critic_lrs: tuple[float, ...] = (1e-3, 1e-1),
    seeds: tuple[int, ...] = (42,),
    episodes: int = 400,
    preset: str = "scaled",
    stops: Callable[[int, float, float], int | None] = lambda seed, actor, critic: None,
    diverges: Callable[[int, float, float], int | None] = lambda seed, actor, critic: None,
) -> Path:
    """Write a plausible study to `root/preset/baseline`; `stops` and `diverges` give a run's episode or None.

    Gradients of a run with actor learning rate 1e-2 or more are exactly zero from episode 60 on.
    """
    tables: dict[str, list[list[object]]] = {name: [] for name in schema.FILES}
    random, greedy = LEVELS[preset]
    for seed in seeds:
        for policy, value in zip(schema.POLICIES, (random, greedy * 1.6, greedy * 1.05, greedy), strict=True):
            alpha = 0.01 if policy == "constant" else ""
            row = [seed, policy, alpha, value * (1 + (seed - 42) / 1e4), 1, 0, 0]
            tables[schema.REFERENCE_POLICIES].append(row)
        for actor_lr in actor_lrs:
            for critic_lr in critic_lrs:
                stop, diverged = stops(seed, actor_lr, critic_lr), diverges(seed, actor_lr, critic_lr)
                total = diverged or (min(stop + 100, episodes) if stop else episodes)
                key = [seed, actor_lr, critic_lr]
                noise = np.random.default_rng([seed, int(1 / actor_lr), int(1 / critic_lr)])
                last_return, largest = _write_run(tables, key, total, random, greedy, noise)
                status = schema.STOPPED_EARLY if total < episodes else schema.COMPLETED
                status = schema.DIVERGED if diverged else status
                score = "" if diverged else (last_return - random) / (greedy - random)
                tables[schema.RUNS].append([
                    *key, preset, "baseline", status, diverged or "", stop or "", total, 1, 1, 3, stop or "",
                    random, last_return, random, last_return, score, 0.99, 0.5, largest, 12.5,
                    "cpu", "3.11", "2.0", "2.0",
                ])
                for agent in range(AGENTS):
                    tables[schema.STOPPING_EPISODES].append([*key, agent, 3, stop or "", stop or ""])
    folder = root / preset / "baseline"
    folder.mkdir(parents=True)
    for name, rows in tables.items():
        with (folder / name).open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([schema.FILES[name], *rows])
    return folder


def _write_run(
    tables: dict[str, list[list[object]]], key: list[float], total: int, random: float, greedy: float,
    noise: np.random.Generator,
) -> tuple[float, float]:
    """Append the rows of one run's episodes; return its last evaluation return and its largest |z|."""
    actor_lr = key[1]
    value, largest = random, 1.0
    for episode in range(total + 1):
        progress = min(1.0, episode * math.sqrt(actor_lr) / 40) * (0.95 if actor_lr < 5e-3 else 0.35)
        value = random * (greedy / random) ** progress * noise.uniform(0.95, 1.05)
        if episode % 50 == 0:
            tables[schema.EVALUATIONS].append([*key, episode, value, 0.9, 0.1, 4.2])
        if episode:
            tables[schema.REWARDS].append([*key, episode, value, 0.9, 0.1])
        if not (episode == 2 or (episode and episode % 10 == 0)):
            continue
        largest = 1 + episode ** min(1.8, 40 * actor_lr**0.4) * actor_lr * 300
        dead = actor_lr >= 1e-2 and episode >= 60
        actor = 0.0 if dead else 1e-2 * math.exp(-episode * actor_lr) * noise.lognormal(0, 0.7)
        critic = 1e5 * noise.lognormal(0, 0.8) * (key[2] ** -0.3)
        tables[schema.GRADIENT_NORMS].append([
            *key, episode, actor, critic, actor / critic, *[actor / 2] * 3, *[critic / 2] * 3, actor_lr,
            key[2], 0.3, actor, critic,
        ])
        ratio = 1 - math.exp(-episode * actor_lr / 2 - 0.002 * episode)
        wrong = "" if episode < 4 else 0.5 + 0.3 * math.sin(episode / 300 + key[2])
        tables[schema.SATURATION].append([
            *key, episode, *[ratio] * 4, wrong, 1 - ratio, 0, largest / 3, -largest, -largest / 2, -1, 0, 1,
            largest / 2, largest / 3,
        ])
    return value, largest


def edit(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text()))


def heatmap_texts(study: Study) -> list[str]:
    """Texts of the heatmap's cells, row by row from the smallest actor learning rate."""
    axes = figures.stopping_heatmap(study.runs).axes[0]
    return [text.get_text() for text in axes.texts]


def test_reads_what_was_written(tmp_path: Path) -> None:
    folder = write_study(tmp_path, seeds=(42, 43), stops=lambda _, actor, __: 190 if actor > 0.05 else None)
    study = load_study(folder)
    assert len(study.runs) == 8
    assert study.label == "scaled / baseline"
    assert list(study.runs.columns) == list(schema.FILES[schema.RUNS])
    assert study.runs["seed"].dtype == "int64" and study.rewards["episode"].dtype == "int64"
    assert study.runs["stopping_episode"].isna().sum() == 4
    assert set(study.runs["actor_lr"]) == {1e-3, 1e-1}  # bit for bit what was written
    assert find_studies(tmp_path) == [folder]
    assert find_studies(tmp_path / "absent") == []


def test_a_variant_may_append_columns(tmp_path: Path) -> None:
    folder = write_study(tmp_path, (1e-3,), (1e-3,), episodes=20)
    edit(folder / schema.SATURATION, lambda t: t.replace("\n", ",1.5\n").replace(",1.5", ",norm_gain", 1))
    assert (load_study(folder).saturation["norm_gain"] == 1.5).all()


def test_short_study_without_logged_episodes_is_allowed(tmp_path: Path) -> None:
    folder = write_study(tmp_path, (1e-3,), (1e-3,), episodes=1)
    study = load_study(folder)
    assert study.gradient_norms.empty
    assert len(figures.save_study_figures(study)) == 4


def test_a_run_that_diverged_before_the_first_logged_episode_is_allowed(tmp_path: Path) -> None:
    folder = write_study(tmp_path, diverges=lambda seed, actor, critic: 1 if actor == critic == 0.1 else None)
    assert len(load_study(folder).saturation.groupby(["actor_lr", "critic_lr"])) == 3


def drop_rows_of(text: str, start: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(start))


def set_cell(text: str, line: int, column: int, value: str) -> str:
    lines = text.splitlines()
    cells = lines[line - 1].split(",")
    cells[column] = value
    lines[line - 1] = ",".join(cells)
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("runs", lambda t: t.replace("stopping_episode", "halt", 1), "columns missing: stopping_episode"),
        ("runs", lambda t: "", "is empty"),
        ("runs", lambda t: t.split("\n")[0] + "\n", "has no rows"),
        ("runs", lambda t: set_cell(t, 3, 5, "fine"), "line 3: status 'fine'; allowed: completed, "),
        ("runs", lambda t: set_cell(t, 3, 4, "other"), "experiment baseline and other; allowed: one"),
        ("runs", lambda t: drop_rows_of(t, "42,0.1,0.1,"), "actor_lr 1e-1, critic_lr 1e-1 is not in"),
        ("rewards", lambda t: t[:-5], "truncated"),
        ("rewards", lambda t: t.rsplit(",", 1)[0] + "\n", "6 cells; allowed: 7"),
        ("rewards", lambda t: t + "\n", "0 cells; allowed: 7"),
        ("rewards", lambda t: set_cell(t, 9, 4, "-1.2.3"), "line 9: training_return '-1.2.3'"),
        ("rewards", lambda t: set_cell(t, 9, 3, "2.5"), "line 9: episode '2.5'; allowed: a whole number"),
        ("rewards", lambda t: set_cell(t, 9, 1, ""), "line 9: actor_lr ''; allowed: a number"),
        ("rewards", lambda t: t + t.splitlines()[1] + "\n", "second row for seed 42, actor_lr 1e-3"),
        ("rewards", lambda t: drop_rows_of(t, "42,0.1,0.001,"), "critic_lr 1e-3 has no row but"),
        ("saturation", lambda t: drop_rows_of(t, "42,0.1,"), "has no row but is in runs.csv"),
        ("evaluations", lambda t: t.replace("42,", "43,"), "seed 43, actor_lr 1e-3, critic_lr 1e-3 is n"),
        ("reference_policies", lambda t: t.replace("42,", "43,"), "seed 42 has no row but is in runs.csv"),
        ("reference_policies", lambda t: t.replace("random", "chance"), "policy 'chance'; allowed: random"),
    ],
)
def test_reader_refuses(tmp_path: Path, name: str, change: Callable[[str], str], says: str) -> None:
    folder = write_study(tmp_path, episodes=20)
    load_study(folder)
    edit(folder / f"{name}.csv", change)
    with pytest.raises(ResultsError) as caught:
        load_study(folder)
    message = str(caught.value)
    assert says in message
    assert "\n" not in message
    assert f"{name}.csv" in message
    assert "allowed" in message or "needed" in message


def test_reader_refuses_missing_folder_and_file(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="no such folder"):
        load_study(tmp_path / "absent")
    folder = write_study(tmp_path, episodes=20)
    (folder / schema.EVALUATIONS).unlink()
    with pytest.raises(ResultsError, match=r"evaluations\.csv: no such file"):
        load_study(folder)


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
    texts = heatmap_texts(three_seeds(tmp_path))
    assert texts == ["never", "2 of 3 never\n(240)", "188\n(161–232)", "210\n(188–232)\n1 of 3 diverged"]


def test_heatmap_of_one_seed(tmp_path: Path) -> None:
    folder = write_study(
        tmp_path, stops=lambda seed, actor, critic: 190 if actor > 0.05 and critic < 0.05 else None,
        diverges=lambda seed, actor, critic: 77 if actor > 0.05 and critic > 0.05 else None,
    )
    assert heatmap_texts(load_study(folder)) == ["never", "never", "190", "diverged"]


def test_median_counts_never_as_later_than_any(tmp_path: Path) -> None:
    runs = load_study(write_study(tmp_path, (1e-1,), (1e-1,), (1, 2, 3, 4), episodes=20)).runs

    def median(*stops: float) -> float | None:
        return stopping_cell(runs.assign(stopping_episode=list(stops))).median

    assert median(161, 163, 170, 180) == 166.5
    assert median(161, 163, 170, math.nan) == 166.5
    assert median(161, 163, math.nan, math.nan) is None
    assert median(*[math.nan] * 4) is None


@pytest.mark.parametrize(
    ("preset", "seeds", "rates"),
    [("scaled", (42,), GRID), ("interior", (42, 43, 44), GRID), ("thesis", (42, 43), (1e-2,)),
     ("scaled", (42,), (1e-1,))],
)
def test_figures_build_and_say_what_they_show(
    tmp_path: Path, preset: str, seeds: tuple[int, ...], rates: tuple[float, ...]
) -> None:
    study = load_study(write_study(
        tmp_path, rates, rates, seeds, episodes=150, preset=preset,
        diverges=lambda seed, actor, critic: 40 if actor == critic == 1e-1 else None,
    ))
    built: list[Figure] = [
        figures.stopping_heatmap(study.runs),
        figures.saturation_over_time(study.saturation, study.label),
        figures.gradient_norms_over_time(study.gradient_norms, study.label),
        figures.learning_curves(study.evaluations, study.reference_policies, study.label),
    ]
    for figure in built:
        figure.canvas.draw()
        title = figure.get_suptitle()
        assert f"{preset} / baseline" in title.replace("\n", " ")
        assert f"{len(seeds)} seed" in title.replace("\n", " ")
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
    assert len(set(colours)) == len(colours)
    assert colours[1] == pytest.approx((0, 0x72 / 255, 0xB2 / 255))


def test_saved_figures_lie_beside_the_files(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path, episodes=60))
    paths = figures.save_study_figures(study)
    names = ("stopping_heatmap", "saturation_over_time", "gradient_norms_over_time", "learning_curves")
    assert [path.name for path in paths] == [f"{name}.png" for name in names]
    assert all(path.parent == study.folder and path.read_bytes()[:4] == b"\x89PNG" for path in paths)
    assert {path.name for path in study.folder.iterdir()} == {*schema.FILES, *(path.name for path in paths)}


def test_failed_figure_keeps_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = load_study(write_study(tmp_path, episodes=20))
    old = figures.save_study_figures(study)[0].read_bytes()

    def fail(self: Figure, path: Path, **_: object) -> None:
        Path(path).write_bytes(b"half a picture")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        figures.save_study_figures(study)
    assert (study.folder / "stopping_heatmap.png").read_bytes() == old
    assert not list(study.folder.glob(".*"))


def test_summary_of_three_seeds(tmp_path: Path) -> None:
    text = study_summary(three_seeds(tmp_path))
    assert max(map(len, text.splitlines())) <= 100
    rows = {line.split()[0]: line for line in reversed(text.splitlines()) if line.startswith("  1e")}
    assert "never" in rows["1e-3"] and "2/3 never" in rows["1e-3"]
    assert "188 (161–232)" in rows["1e-1"] and "210, 1/3 diverged" in rows["1e-1"]
    assert "12 runs, 4 learning-rate pairs, seeds 42 43 44" in text
    assert "Diverged: 1 of 12 runs, the first in episode 131" in text
    assert "1/3 none" in text
    assert "random -38,503.8" in " ".join(text.split())  # mean of three seeds


def test_summary_of_one_seed_has_no_ranges(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path, GRID, GRID, episodes=20, stops=lambda seed, actor, critic: 17))
    text = study_summary(study)
    assert "17" in text and "(17" not in text and "never" not in text and "Diverged" not in text
    score = study.runs["normalised_score"].iloc[0]
    assert f"{score:.2f}" in text
    assert max(map(len, text.splitlines())) <= 100


def test_summary_of_a_wide_grid_continues_below(tmp_path: Path) -> None:
    rates = tuple(10.0**-power for power in range(1, 12))
    text = study_summary(load_study(write_study(tmp_path, (1e-2,), rates, (1, 2), episodes=20)))
    assert max(map(len, text.splitlines())) <= 100
    assert all(f"critic {learning_rate_text(rate)}" in text for rate in rates)


def test_learning_rates_are_written_as_powers() -> None:
    assert [learning_rate_text(rate) for rate in (1e-4, 3e-3, 0.1, 0.015, 1.0)] == [
        "1e-4", "3e-3", "1e-1", "1.5e-2", "1e0"
    ]
