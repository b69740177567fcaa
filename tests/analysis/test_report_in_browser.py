"""The report page in Chromium, headless: what a reader sees, chooses and reads off, and the mechanism in JavaScript."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from synthetic_study import edit, write_study

from common.agents.layout import Layer
from common.agents.optimizer import Adam
from common.agents.remedies import LimitedAdam
from common.analysis.comparison_statistics import CELL, pair_runs
from common.analysis.report import ASSETS, report_page
from common.analysis.statistics import t_test
from common.recording import schema
from common.recording.results import load_study

selenium = pytest.importorskip("selenium", reason="needs selenium")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium and its driver")

Open = Callable[..., webdriver.Chrome]


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: webdriver.Chrome, tmp_path: Path) -> Iterator[Open]:
    """Opens a page of the studies in these folders; complains in the end of errors in the console and of requests."""

    def opened(*folders: Path, width: int = 1280, scheme: str = "light") -> webdriver.Chrome:
        file = tmp_path / "page.html"
        file.write_bytes(report_page([load_study(folder) for folder in folders]))
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.get(file.as_uri())
        return browser

    for kind in ("browser", "performance"):
        browser.get_log(kind)
    yield opened
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}, asked


def number(text: str) -> float:
    return float(text.replace("−", "-").replace("–", "nan").replace("∞", "inf").removeprefix("× "))


def choose(browser: webdriver.Chrome, name: str, value: str) -> None:
    Select(browser.find_element(By.ID, name)).select_by_value(value)


def cell(browser: webdriver.Chrome, row: int, column: int, table: int = 0) -> Any:
    grid = browser.find_elements(By.CSS_SELECTOR, "table.grid")[table]
    return grid.find_element(By.CSS_SELECTOR, f'[data-row="{row}"][data-column="{column}"]')


def type_episode(browser: webdriver.Chrome, episode: int) -> None:
    field = browser.find_element(By.ID, "episode-number")
    field.clear()
    field.send_keys(str(episode))


def readout(browser: webdriver.Chrome) -> dict[str, list[str]]:
    """Texts of the table of numbers by row."""
    rows = '[...document.querySelectorAll("#readout tbody tr")]'
    script = f"return {rows}.map((row) => [...row.children].map((cell) => cell.textContent))"
    return {name: texts for name, *texts in browser.execute_script(script)}


def behind(browser: webdriver.Chrome, picture: int) -> pd.DataFrame:
    """The table behind a picture."""
    script = (
        'const details = document.querySelectorAll("#panels figure")[arguments[0]].querySelector("details");'
        "details.open = true; return new Promise((done) => setTimeout(() => done("
        '[...details.querySelectorAll("tr")].map((r) => [...r.children].map((c) => c.textContent))), 50))'
    )
    head, *rows = browser.execute_script(script, picture)
    return pd.DataFrame([[number(text) for text in row] for row in rows], columns=head).set_index(head[0])


def rows_of(folder: Path, file: str, seed: int, actor: float, critic: float) -> pd.DataFrame:
    table = pd.read_csv(folder / file).set_index(list(schema.RUN_KEY)).sort_index()
    return table.loc[(seed, actor, critic)].set_index("episode")


def test_numbers_are_those_of_the_files(page: Open, tmp_path: Path) -> None:
    folder = write_study(tmp_path, seeds=(42, 43))
    browser = page(folder)
    cell(browser, 1, 0).click()
    wanted = {
        0: ("evaluation return", schema.EVALUATIONS, "evaluation_return"), 1: ("z 99%", schema.SATURATION, "z_q99"),
        2: ("1 − tanh² z", schema.SATURATION, "tanh_derivative"),
        4: ("alignment, compute", schema.SATURATION, "dq_da_alignment_compute"),
        5: ("critic gradient", schema.GRADIENT_NORMS, "critic_gradient_norm"),
        7: ("stuck", schema.SATURATION, "stuck_share"),
    }  # fmt: skip
    for picture, (name, file, column) in wanted.items():
        shown = behind(browser, picture)
        own = {seed: rows_of(folder, file, seed, 1e-1, 1e-3)[column] for seed in (42, 43)}
        middle = (own[42] + own[43]) / 2
        np.testing.assert_allclose(shown[f"{name}, median of seeds"].loc[middle.index], middle, rtol=1e-3)
        if picture != 1:  # of z the seeds are chosen one by one
            np.testing.assert_allclose(shown[f"{name}, seed 43"].loc[own[43].index], own[43], rtol=1e-3)
    choose(browser, "seed", "43")
    wanted = rows_of(folder, schema.SATURATION, 43, 1e-1, 1e-3)["z_q99"]
    np.testing.assert_allclose(behind(browser, 1)["z 99%"], wanted, rtol=1e-3)
    choose(browser, "seed", "all")
    type_episode(browser, 61)
    found = readout(browser)
    assert found["logged episode"] == ["60", "60"]
    for place, seed in enumerate((42, 43)):
        gradient, saturation = (
            rows_of(folder, file, seed, 1e-1, 1e-3).loc[60] for file in (schema.GRADIENT_NORMS, schema.SATURATION)
        )
        assert number(found["actor gradient"][place]) == gradient["actor_gradient_norm"] == 0
        assert number(found["critic step"][place]) == pytest.approx(gradient["critic_update_norm"], rel=1e-3)
        assert number(found["z smallest"][place]) == pytest.approx(saturation["z_min"], rel=1e-3)
    score = pd.read_csv(folder / schema.RUNS).set_index(list(schema.RUN_KEY)).loc[(43, 1e-1, 1e-3), "normalised_score"]
    assert number(found["score"][1]) == pytest.approx(score, rel=1e-3)


def test_choices_change_what_is_shown(page: Open, tmp_path: Path) -> None:
    folder = write_study(tmp_path, seeds=(42, 43), stops=lambda seed, actor, critic: 188 if actor == 1e-1 else None)
    browser = page(folder)
    text = lambda name: browser.find_element(By.ID, name).text  # noqa: E731
    seen = {}
    for option in Select(browser.find_element(By.ID, "measure")).options:
        option.click()
        seen[option.text] = (cell(browser, 1, 1).text, text("measure-words"))
    assert len({words for _, words in seen.values()}) == len(seen)
    assert seen["stopping episode"][0].startswith("188")
    assert seen["drift"][0] != seen["score"][0]
    before = text("cell-title"), text("readout")
    cell(browser, 1, 1).click()
    assert text("cell-title") != before[0] and text("readout") != before[1]
    assert cell(browser, 1, 1).get_attribute("aria-pressed") == "true"
    path = 'return document.querySelector("#panels path.line").getAttribute("d")'
    drawn = [browser.execute_script(path)]
    choose(browser, "axis", "linear")
    drawn.append(browser.execute_script(path))
    choose(browser, "seed", "42")
    drawn.append(browser.execute_script(path))
    assert len(set(drawn)) == 3 and len(readout(browser)["score"]) == 1
    marks = browser.find_elements(By.CSS_SELECTOR, "#panels figure:first-child .mark-name")
    texts = [mark.get_property("textContent") for mark in marks]
    assert texts == ["deathdeath: 3 (3 to 3)", "freezefreeze: 188 (188 to 188)"]


def test_hovering_tells_seeds_and_numbers_and_moves_all_cursors(page: Open, tmp_path: Path) -> None:
    folder = write_study(tmp_path, seeds=(42, 43))
    browser = page(folder)
    picture = browser.find_elements(By.CSS_SELECTOR, "#panels svg[role=img]")[2]
    webdriver.ActionChains(browser).scroll_to_element(picture).move_to_element(picture).perform()
    tip = browser.find_element(By.CSS_SELECTOR, ".tip:not([hidden])").text
    assert "seed 42" in tip and "seed 43" in tip
    episode = int(tip.splitlines()[0].split()[1])
    assert browser.find_element(By.ID, "episode-number").get_attribute("value") == str(episode)
    wanted = rows_of(folder, schema.SATURATION, 43, 1e-3, 1e-3).loc[episode, "tanh_derivative"]
    (line,) = (line for line in tip.splitlines() if "seed 43" in line)
    assert number(line.split()[-1]) == pytest.approx(wanted, rel=1e-3)
    places = {line.get_attribute("x1") for line in browser.find_elements(By.CSS_SELECTOR, "#panels .cursor")}
    assert len(places) == 1


def test_two_studies_side_by_side_with_their_paired_difference(page: Open, tmp_path: Path) -> None:
    seeds = (42, 43, 44, 45, 46)
    base = write_study(tmp_path / "a", seeds=seeds, episodes=60)
    other = write_study(
        tmp_path / "b", seeds=seeds, episodes=60, diverges=lambda s, a, c: 30 if (s, a, c) == (42, 1e-1, 1e-1) else None
    )
    table = pd.read_csv(other / schema.RUNS)
    table["normalised_score"] += 0.25 + 0.1 * (table["seed"] - 42) * (table["actor_lr"] == 1e-3)
    table.to_csv(other / schema.RUNS, index=False)
    edit(other / schema.RUNS, lambda text: text.replace("baseline", "other"))
    browser = page(base, other)
    choose(browser, "a", "1")
    choose(browser, "b", "0")
    assert len(browser.find_elements(By.CSS_SELECTOR, "table.grid")) == 3
    pairs = pair_runs(load_study(other).runs, load_study(base).runs)
    for (actor, critic), own in pairs.groupby(CELL)["difference"]:
        lines = cell(browser, int(actor == 1e-1), int(critic == 1e-1), 2).text.splitlines()
        mean = number(lines[0].removeprefix("▶ "))
        if own.isna().any():
            assert "4/5" in lines[-1] and math.isnan(mean)
            continue
        wanted = t_test(own)
        assert mean == pytest.approx(wanted[0], rel=5e-3) and lines[-1].endswith(f"{(own > 0).sum()}/5")
        ends = [number(text) for text in lines[1].strip("()").split(" to ")]
        assert ends == pytest.approx(wanted[1:3], rel=5e-3, abs=2e-3)
    assert len(browser.find_elements(By.CSS_SELECTOR, "#panels figure")) == 16
    assert len(readout(browser)["score"]) == 10


def test_everything_can_be_reached_and_chosen_by_keyboard(page: Open, tmp_path: Path) -> None:
    browser = page(write_study(tmp_path, episodes=60))
    reached = set()
    for _ in range(60):
        webdriver.ActionChains(browser).send_keys(Keys.TAB).perform()
        at = browser.switch_to.active_element
        reached.add(at.get_attribute("id") or at.get_attribute("data-row") or at.tag_name)
    wanted = {"a", "b", "measure", "seed", "axis", "episode", "episode-number", "summary", "0", "1"}
    wanted |= {f"set-{name}" for name in ("rate", "scale", "beta1", "type", "limit")}
    assert wanted <= reached
    browser.execute_script("arguments[0].focus()", cell(browser, 0, 0))
    webdriver.ActionChains(browser).send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ENTER).perform()
    assert cell(browser, 1, 1).get_attribute("aria-pressed") == "true"
    assert browser.switch_to.active_element == cell(browser, 1, 1)
    episode = browser.find_element(By.ID, "episode")
    was = int(episode.get_attribute("value"))
    episode.send_keys(Keys.ARROW_RIGHT)
    assert int(browser.find_element(By.ID, "episode-number").get_attribute("value")) == was + 1


def test_odd_names_are_shown_and_not_executed(page: Open, tmp_path: Path) -> None:
    name = "</script><script>window.executed=1</script><img src=x onerror=window.executed=1>\u2028'\"&amp;"
    folder = write_study(tmp_path, episodes=60)
    edit(folder / schema.RUNS, lambda text: text.replace("baseline", name))
    browser = page(folder)
    assert browser.execute_script("return window.executed") is None
    caption = browser.execute_script('return document.querySelector(".grid caption").textContent')
    assert caption == f"A: scaled / {name}" and browser.find_elements(By.TAG_NAME, "img") == []


@pytest.mark.parametrize(
    ("actors", "critics", "seeds"), [((1e-2,), (1e-2,), (7,)), ((1e-2,), tuple(10.0**-k for k in range(7)), (42,))]
)
def test_any_grid(
    actors: tuple[float, ...], critics: tuple[float, ...], seeds: tuple[int, ...], page: Open, tmp_path: Path
) -> None:
    browser = page(write_study(tmp_path, actors, critics, seeds, episodes=60))
    assert len(browser.find_elements(By.CSS_SELECTOR, ".grid button")) == len(critics)
    cell(browser, 0, len(critics) - 1).click()
    assert number(readout(browser)["score"][0]) < 1


def test_what_a_study_lacks_is_said(page: Open, tmp_path: Path) -> None:
    """Recorded by older code, still running, with a run that diverged at once; beside it one that is whole."""
    folder = write_study(
        tmp_path, lacking=schema.ADDED, episodes=60,
        diverges=lambda seed, actor, critic: 1 if actor == critic == 1e-1 else None,
    )  # fmt: skip
    for name in schema.FILES:
        edit(folder / name, lambda text: re.sub(r"^42,0\.001,0\.1,.*\n", "", text, flags=re.MULTILINE))
    whole = write_study(tmp_path / "whole", episodes=60)
    browser = page(folder, whole)
    notes = browser.find_element(By.ID, "notes").text
    assert "3 of 4" in notes and "1 of 3 runs diverged" in notes and "stuck_share" in notes
    assert cell(browser, 0, 1).text == "no run"
    choose(browser, "measure", "stuck_share")
    assert cell(browser, 0, 0).text.endswith("not recorded")
    for row, column in ((0, 1), (1, 1), (1, 0)):
        cell(browser, row, column).click()
    assert readout(browser)["stuck"] == ["not recorded"]
    cell(browser, 1, 1).click()
    assert readout(browser)["status"] == ["diverged in 1"] and readout(browser)["score"] == ["–"]
    choose(browser, "b", "1")
    cell(browser, 0, 1).click()
    assert len(readout(browser)["score"]) == 1  # of the whole one


@pytest.mark.parametrize("width", [390, 1280])
def test_both_colour_schemes_and_a_phone(width: int, page: Open, tmp_path: Path) -> None:
    folder = write_study(tmp_path, seeds=(42, 43, 44), episodes=60)
    other = write_study(tmp_path / "other", episodes=60)
    papers = []
    for scheme in ("light", "dark"):
        browser = page(folder, other, width=width, scheme=scheme)
        choose(browser, "b", "1")
        papers.append(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
        across = browser.execute_script("const e = document.documentElement; return [e.scrollWidth, e.clientWidth]")
        assert across[0] <= across[1], across
    assert papers[0] != papers[1]


def test_whether_it_is_the_tanh_or_the_critic(page: Open, tmp_path: Path) -> None:
    folder = write_study(tmp_path, actor_lrs=(1e-1,), critic_lrs=(1e-3, 1e-1), episodes=60)
    table = pd.read_csv(folder / schema.GRADIENT_NORMS)
    flat = (table["critic_lr"] == 1e-1) & (table["episode"] > 2)
    table.loc[flat, ["mean_abs_dq_da", "actor_gradient_norm"]] = 0.0
    table.to_csv(folder / schema.GRADIENT_NORMS, index=False)
    table = pd.read_csv(folder / schema.SATURATION)
    table["tanh_derivative"] = np.where((table["critic_lr"] == 1e-3) & (table["episode"] > 30), 1e-9, 0.5)
    table.to_csv(folder / schema.SATURATION, index=False)
    browser = page(folder)
    found = {}
    for column in (0, 1):
        cell(browser, 0, column).click()
        for episode in (2, 5, 60):
            type_episode(browser, episode)
            found[column, episode] = readout(browser)["what has fallen: the tanh or the critic?"][0]
    assert "tanh" in found[0, 60] and "critic" not in found[0, 60]
    assert "critic" in found[1, 60] and "tanh" not in found[1, 60]
    assert found[0, 2] == found[1, 2] and "tanh" not in found[0, 2]
    assert found[0, 5] == found[1, 5] != found[0, 2] and "10" in found[0, 5], "logged are 2, 10, …"


def engine(rate: float, scale: float, beta1: float, type: str, limit: float) -> dict[str, Any]:
    """What `simulate` gives, from the engine's optimiser: 16 weights and a bias, 200 steps."""
    dtype = getattr(torch, type)
    layers = {"fc3": Layer(slice(0, 17), 17)}
    adam = LimitedAdam(layers, limit, beta1, 0.999, 1e-8) if limit else Adam(layers, beta1=beta1)
    inputs = torch.tensor([38 * scale] * 16 + [1.0], dtype=dtype)
    weights = torch.full((17,), 1e-3, dtype=dtype)
    moments = (torch.zeros_like(weights), torch.zeros_like(weights))
    path: dict[str, Any] = {"z": [], "slope": [], "weight": [], "change": [float("nan")], "death": None, "freeze": None}
    for step in range(1, 202):
        z = (weights * inputs).sum().requires_grad_()
        action = torch.tanh(z)
        (slope,) = torch.autograd.grad(action, z)
        for name, value in (("z", z), ("slope", slope), ("weight", weights[0])):
            path[name].append(value.item())
        if step == 201:
            return path
        scales = adam.scales(torch.tensor([rate], dtype=torch.float64), step)[0].to(dtype)
        gradients = -slope * inputs
        path["death"] = (path["death"] or step) if not gradients.any() else None
        before = weights.clone()
        weights = weights - adam.change(weights, gradients, moments, tuple(scales))
        path["freeze"] = (path["freeze"] or step) if torch.equal(before, weights) else None
        path["change"].append((weights - before)[0].abs().item())
    return path


@pytest.mark.parametrize("type", ["float32", "float64"])
@pytest.mark.parametrize(
    ("rate", "scale", "beta1", "limit"),
    [(1e-2, 1, 0.9, 0), (1e-2, 0.1, 0.9, 0), (1e-1, 1, 0.5, 0), (1e-3, 10, 0.0, 0), (1e-4, 1, 0.9, 0),
     (3e-2, 0.3, 0.99, 0), (1e-2, 1, 0.9, 1e-3), (1e-1, 10, 0.9, 1e-1)],
)  # fmt: skip
def test_the_mechanism_follows_the_engines_adam(
    rate: float, scale: float, beta1: float, limit: float, type: str, browser: webdriver.Chrome
) -> None:
    settings = {"rate": rate, "scale": scale, "beta1": beta1, "type": type, "limit": limit}
    code = (ASSETS / "mechanism.js").read_text(encoding="utf-8")
    found = browser.execute_script(f"{code}\nreturn simulate(arguments[0])", settings)
    wanted = engine(**settings)
    for name in ("z", "weight"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5 if type == "float32" else 1e-9, err_msg=name)
    # Near its end 1 − tanh² z has few bits left: one in the last place of tanh z is all of it.
    unit = 2.0 ** (-22 if type == "float32" else -51)
    np.testing.assert_allclose(found["slope"], wanted["slope"], rtol=1e-4, atol=unit)
    for name in ("death", "freeze"):
        assert (found[name] is None) == (wanted[name] is None), (name, found[name], wanted[name])
        assert found[name] is None or abs(found[name] - wanted[name]) <= 1, name


def test_smaller_inputs_postpone_the_death_and_the_page_says_so(page: Open, tmp_path: Path) -> None:
    browser = page(write_study(tmp_path, actor_lrs=(1e-2,), critic_lrs=(1e-2,), episodes=20))
    texts = {}
    for scale in ("1", "0.1", "0.001"):
        choose(browser, "set-scale", scale)
        texts[scale] = browser.find_element(By.ID, "story").text
        run = browser.execute_script("return simulate(settings)")
        assert (f"From step {run['death']} on" in texts[scale]) == (run["death"] is not None)
    assert len(set(texts.values())) == 3
