"""The notebooks are what make_notebooks.py writes, and run from top to bottom, as on Colab but without a network."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from html import unescape
from pathlib import Path

import nbformat
import pytest
from experiments.package_helpers import EXPERIMENTS, OPTIONS, ROOT, assert_results, environment, git
from nbclient import NotebookClient

from common.recording import schema
from common.study.mirror import OWNER

STUB = ROOT / "tests" / "colab_stub"
OPTIONS_LINE = 'OPTIONS = "--env scaled --seeds 42"'


def generator(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = repository / "experiments" / "make_notebooks.py"
    return subprocess.run([sys.executable, script, *arguments], cwd="/", capture_output=True, text=True)


def run_notebook(name: str, folder: Path, repository: Path) -> dict[str, nbformat.NotebookNode]:
    """Cells by id after all have run in `folder`; only the options differ from the committed notebook's."""
    notebook = nbformat.read(ROOT / "experiments" / name / f"{name}.ipynb", as_version=4)
    cells = {cell.id: cell for cell in notebook.cells}
    assert cells["run"].source.count(OPTIONS_LINE) == 1
    cells["run"].source = cells["run"].source.replace(OPTIONS_LINE, f'OPTIONS = "{OPTIONS}"')
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cloned_instead = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{repository.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": project["urls"]["Repository"],
    }
    client = NotebookClient(notebook, timeout=900, startup_timeout=300, resources={"metadata": {"path": str(folder)}})
    client.execute(env=environment(PYTHONPATH=str(STUB), IPYTHONDIR=str(folder / ".ipython"), **cloned_instead))
    return cells


def text(cell: nbformat.NotebookNode) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


@pytest.fixture
def copied(repository: Path, tmp_path: Path) -> Path:
    """The parts of the repository that the generator reads and writes."""
    return shutil.copytree(repository, tmp_path / "copy", ignore=shutil.ignore_patterns("common", "dist"))


def test_notebooks_are_what_the_generator_writes(copied: Path) -> None:
    done = generator(ROOT, "--check")
    assert done.returncode == 0, done.stdout
    changed, missing = (copied / "experiments" / name / f"{name}.ipynb" for name in EXPERIMENTS[:2])
    written = [changed.read_bytes(), missing.read_bytes()]
    changed.write_text(changed.read_text().replace('"--env scaled', '"--env thesis'))
    missing.unlink()
    done = generator(copied, "--check")
    assert done.returncode == 1 and len(done.stdout.splitlines()) == 2
    assert str(changed) in done.stdout and str(missing) in done.stdout and not missing.exists()
    assert generator(copied).returncode == 0 and generator(copied, "--check").returncode == 0
    assert [changed.read_bytes(), missing.read_bytes()] == written


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_valid_and_without_outputs(name: str) -> None:
    content = json.loads((ROOT / "experiments" / name / f"{name}.ipynb").read_text())
    nbformat.validate(content)
    cells = {cell["id"]: cell for cell in content["cells"]}
    assert list(cells) == ["title", "gpu", "drive", "code", "run", "show", "report", "download", "picture", "finding"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in list(cells.values())[1:-1])


def test_the_finding_is_the_readmes(copied: Path) -> None:
    """It follows the README; where that has none, one line says so."""
    name, found = EXPERIMENTS[0], "**In short:** "
    readme, notebook = (copied / "experiments" / name / file for file in ("README.md", f"{name}.ipynb"))
    written = readme.read_text(encoding="utf-8")
    readme.write_text(written.replace(found, f"{found}This is new. "), encoding="utf-8")
    assert generator(copied).returncode == 0
    assert f"{found}This is new. " in "".join(json.loads(notebook.read_text(encoding="utf-8"))["cells"][-1]["source"])
    readme.write_text(written.replace(found, ""), encoding="utf-8")
    done = generator(copied, "--check")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and str(readme) in done.stderr


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_runs_from_top_to_bottom(name: str, repository: Path, tmp_path: Path) -> None:
    """With the experiment's zip uploaded; for one of them again on a new runtime, with Drive and without the zip."""
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    shutil.copy(repository / "dist" / f"{name}_experiment.zip", runtime)
    cells = run_notebook(name, runtime, repository)
    mirrored = runtime / "drive" / "MyDrive" / "gradient-asymmetry"
    folder, mirror = (root / "quick" / "scaled" / name for root in (runtime / "results", mirrored))
    assert_results(folder)
    made_by = json.loads((folder / "study.json").read_text())["made_by"]
    assert [made["commit"] for made in made_by] == [git(repository, "rev-parse", "HEAD")]
    copied = {path.name: path.read_bytes() for path in mirror.iterdir() if path.name != OWNER}
    assert copied == result_files(folder)
    assert "100%|" in text(cells["run"]) and "warning" not in text(cells["run"]).lower()
    assert text(cells["show"]).startswith(f"scaled / {name}: ")
    pictures = [output for output in cells["show"].outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == len(list(folder.glob("*.png"))) > 0
    (page,) = [output.data["text/html"] for output in cells["report"].outputs]
    assert unescape(page.split('srcdoc="')[1].split('"')[0]) == (folder / "report.html").read_text(encoding="utf-8")
    (picture,) = [output for output in cells["picture"].outputs if "image/png" in output.get("data", {})]
    assert picture.data["image/png"] in [shown.data["image/png"] for shown in pictures]
    archive = runtime / "results" / f"{name}_results.zip"
    assert (runtime / "downloads.txt").read_text() == f"{archive}\n"
    with zipfile.ZipFile(archive) as packed:
        assert {Path(path).name for path in packed.namelist()} == set(result_files(folder))
        assert f"quick/scaled/{name}/{schema.RUNS}" in packed.namelist()
    if name == EXPERIMENTS[0]:
        second = tmp_path / "second runtime"
        (second / "drive").parent.mkdir()
        (runtime / "drive").rename(second / "drive")
        cells = run_notebook(name, second, repository)
        assert str(second / "gradient-asymmetry") in text(cells["code"])
        assert "finished runs restored from" in text(cells["run"]) and ": 0 of " in text(cells["run"])
        tables = {file: data for file, data in result_files(folder).items() if file.endswith((".csv", ".json"))}
        assert tables.items() <= result_files(second / "results" / "quick" / "scaled" / name).items()


def result_files(folder: Path) -> dict[str, bytes]:
    shown = (".csv", ".json", ".png", ".html")
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in shown}
