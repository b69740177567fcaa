"""The report page: what it is made of, which studies are taken, and what is refused. In a browser: see beside this."""

from __future__ import annotations

import base64
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic_study import GRID, edit, write_study

from common.analysis import report
from common.analysis.report import main, report_page, save_study_report, studies_in, thinned
from common.recording import schema
from common.recording.results import load_study


def data_of(page: bytes) -> dict[str, Any]:
    """What the page's script element `data` holds; in it nothing may end the element or open another."""
    return json.loads(re.search(r'<script [^>]*id="data">([^<]*)</script>', page.decode())[1])


def curve(study: dict[str, Any], column: str, run: int) -> pd.Series:
    """Values by episode of one run."""
    (own,) = (some for some in study["curves"] if column in some["columns"])
    values = np.frombuffer(base64.b64decode(own["numbers"]), "<f4")
    values = values.reshape(len(study["runs"]), len(own["columns"]), len(own["episodes"]))
    return pd.Series(values[run, own["columns"].index(column)], own["episodes"])


def test_curves_and_runs_are_those_of_the_files(tmp_path: Path) -> None:
    folder = write_study(
        tmp_path, seeds=(42, 43), stops=lambda seed, actor, critic: 160 if actor == 1e-1 and seed == 42 else None,
        diverges=lambda seed, actor, critic: 77 if actor == critic == 1e-1 and seed == 43 else None,
    )  # fmt: skip
    (shown,) = data_of(report_page([load_study(folder)]))["studies"]
    assert len(shown["runs"]) == 8 and not shown["thinned"]
    for file, columns in report.CURVES.items():
        table = pd.read_csv(folder / file).set_index(list(schema.RUN_KEY)).sort_index()
        for place, run in enumerate(shown["runs"]):
            own = table.loc[(run["seed"], run["actor"], run["critic"])].set_index("episode")
            for column in columns:
                np.testing.assert_allclose(curve(shown, column, place).reindex(own.index), own[column], rtol=1e-6)
    runs = pd.read_csv(folder / schema.RUNS).set_index(list(schema.RUN_KEY))
    for run in shown["runs"]:
        row = runs.loc[(run["seed"], run["actor"], run["critic"])]
        for column in ("normalised_score", "stopping_episode", "drift", "largest_abs_preactivation"):
            np.testing.assert_equal(np.float64(run["values"][column]), np.float64(row[column]))


def test_neither_tiny_numbers_nor_large_ones_change_their_kind(tmp_path: Path) -> None:
    folder = write_study(tmp_path, actor_lrs=(1e-3,), critic_lrs=(1e-3,), episodes=40)
    table = pd.read_csv(folder / schema.GRADIENT_NORMS)
    table["actor_gradient_norm"] = [1e-300, 0.0, 1e300, np.inf, 1.0]
    table.to_csv(folder / schema.GRADIENT_NORMS, index=False)
    (shown,) = data_of(report_page([load_study(folder)]))["studies"]
    tiny, zero, large, infinite, one = curve(shown, "actor_gradient_norm", 0)
    assert tiny > 0 and zero == 0 and np.isfinite(large) and np.isinf(infinite) and one == 1


def test_cells_say_how_many_agents_died_and_which_seeds_have_no_number(tmp_path: Path) -> None:
    folder = write_study(
        tmp_path, seeds=(42, 43, 44), actor_lrs=(1e-1,), critic_lrs=(1e-1,),
        stops=lambda seed, actor, critic: {42: 200, 43: 100}.get(seed),
        diverges=lambda seed, actor, critic: 60 if seed == 43 else None,
    )  # fmt: skip
    edit(folder / schema.STOPPING_EPISODES, lambda text: text.replace("42,0.1,0.1,0,3,", "42,0.1,0.1,0,,"))
    (shown,) = data_of(report_page([load_study(folder)]))["studies"]
    measures = shown["cells"][0]["measures"]
    assert measures["gradient_death_episode"] == [3.0, ["3", "89% of agents"]]
    assert measures["freeze_episode"] == [150.0, ["150", "67% of agents"]]
    assert measures["stopping_episode"] == [200.0, ["200", "(100–200)", "1/3 never"]]
    score, texts = measures["normalised_score"]
    known = pd.read_csv(folder / schema.RUNS)["normalised_score"].dropna()
    assert score == pytest.approx(known.mean()) and len(known) == 2 and texts[-1] == "1/3 none"


def test_a_budget_thins_curves_but_not_their_start_and_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = load_study(write_study(tmp_path, actor_lrs=GRID, critic_lrs=GRID))
    whole = report_page([study])
    monkeypatch.setattr(report, "CURVE_BYTES", (30_000, 30_000))
    (shown,) = data_of(report_page([study]))["studies"]
    assert shown["thinned"] and report_page([study]) == report_page([study])
    assert sum(len(own["numbers"]) for own in shown["curves"]) < 36_000 < len(whole)
    logged = sorted(set(study.saturation["episode"]))
    for own in shown["curves"][1:]:
        assert own["episodes"][:3] == logged[:3] and own["episodes"][-1] == logged[-1] == 400


@pytest.mark.parametrize("most", [1, 19, 30, 50, 217])
def test_thinned(most: int) -> None:
    episodes = np.array([*range(2, 20), *range(20, 2001, 10)])
    found = thinned(episodes, most)
    assert list(found[:19]) == list(range(2, 21)) and found[-1] == 2000
    assert len(found) <= max(most, 20) and set(found) <= set(episodes)
    assert len(set(np.diff(found[20:]))) <= 1


def test_studies_are_found_by_study_preset_and_root(tmp_path: Path) -> None:
    scaled, interior = (write_study(tmp_path, episodes=20, preset=preset) for preset in ("scaled", "interior"))
    other = scaled.with_name("other")
    for copy in (other, scaled.with_name("other.before-20250101")):
        shutil.copytree(scaled, copy)
    assert studies_in(scaled) == [scaled]
    assert studies_in(scaled.parent) == [scaled, other]
    assert studies_in(tmp_path) == [interior, scaled, other]


def test_several_studies_of_one_name_are_told_apart(tmp_path: Path) -> None:
    first = write_study(tmp_path / "a", episodes=20)
    second = write_study(tmp_path / "b", episodes=20)
    out = tmp_path / "page.html"
    main([str(first), str(second), str(first), "--out", str(out)])
    labels = [study["label"] for study in data_of(out.read_bytes())["studies"]]
    assert len(set(labels)) == len(labels) == 2


def test_a_page_beside_the_files(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path, episodes=20))
    path = save_study_report(study)
    assert path.parent == study.folder and path.read_bytes() == report_page([study])


@pytest.mark.parametrize("damage", ["truncated", "nothing there", "no folder", "no place for the page"])
def test_refused_in_one_line_and_nothing_written(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = write_study(tmp_path, episodes=20), tmp_path / "page.html"
    out.write_text("as it was")
    asked = {"no folder": folder / "nowhere"}.get(damage, folder)
    wanted = tmp_path / "nowhere" / "page.html" if damage == "no place for the page" else out
    if damage == "truncated":
        edit(folder / schema.SATURATION, lambda text: text[:-30])
    elif damage == "nothing there":
        (folder / schema.RUNS).unlink()
    with pytest.raises(SystemExit) as left:
        main([str(asked), "--out", str(wanted)])
    (line,) = capsys.readouterr().err.splitlines()
    assert left.value.code == (2 if wanted == out else 1)
    assert str(asked if wanted == out else wanted.parent) in line and out.read_text() == "as it was"


def test_nothing_in_the_data_ends_or_opens_an_element(tmp_path: Path) -> None:
    name = "</script><!--<script>alert(1)\u2028</script>"
    folder = write_study(tmp_path, episodes=20)
    edit(folder / schema.RUNS, lambda text: text.replace("baseline", name))
    assert data_of(report_page([load_study(folder)]))["studies"][0]["label"] == f"scaled / {name}"


def test_every_shown_column_is_explained(tmp_path: Path) -> None:
    words = data_of(report_page([load_study(write_study(tmp_path, episodes=20))]))["words"]
    for column in [measure.column for measure in report.MEASURES] + [c for own in report.CURVES.values() for c in own]:
        assert words[column], column
