"""package_zips.sh: the same commit gives the same bytes. That a zip is all its experiment needs: test_notebooks.py."""

from __future__ import annotations

import zipfile
from datetime import datetime
from pathlib import Path

from experiments.package_helpers import DATE, EXPERIMENTS, build, git


def zips(repository: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((repository / "dist").iterdir())}


def test_contents(repository: Path) -> None:
    assert sorted(zips(repository)) == [f"{name}_experiment.zip" for name in EXPERIMENTS]
    shared = {"LICENSE", "requirements.txt", "common/COMMIT"}
    code = [path for path in (repository / "common").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    shared |= {str(path.relative_to(repository)) for path in code}
    shared |= {str(path.relative_to(repository)) for path in (repository / "docs").rglob("*.md")}
    commit = git(repository, "rev-parse", "HEAD")
    date = datetime.fromisoformat(DATE).timetuple()[:6]
    for name in EXPERIMENTS:
        own = {f"run_{name}_experiment.py", f"{name}.ipynb"}
        own |= {"README.md"} & {path.name for path in (repository / "experiments" / name).iterdir()}
        with zipfile.ZipFile(repository / "dist" / f"{name}_experiment.zip") as archive:
            assert archive.namelist() == sorted(f"{name}_experiment/{path}" for path in shared | own)
            assert archive.read(f"{name}_experiment/common/COMMIT").decode().strip() == commit
            assert {entry.date_time for entry in archive.infolist()} == {date}
            assert {entry.external_attr >> 16 for entry in archive.infolist()} == {0o100644}


def test_same_commit_same_bytes(repository: Path, tmp_path: Path) -> None:
    """In another folder, with caches, results and uncommitted changes around, which are not packed."""
    other = tmp_path / "other folder"
    git(tmp_path, "clone", "--quiet", str(repository), str(other))
    experiment = other / "experiments" / "baseline"
    for litter in ("__pycache__/run.pyc", "results/scaled/baseline/runs.csv", "notes.txt"):
        (experiment / litter).parent.mkdir(exist_ok=True, parents=True)
        (experiment / litter).write_text("litter")
    (other / "common" / "config.py").write_text("changed")
    done = build(other)
    assert done.returncode == 0
    assert done.stderr.startswith("warning: not committed, so not packed: common/config.py"), done.stderr
    assert zips(other) == zips(repository)


def test_named_experiments_and_new_ones(repository: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    git(tmp_path, "clone", "--quiet", str(repository), str(other))
    assert build(other, "layernorm").returncode == 0
    assert list(zips(other)) == ["layernorm_experiment.zip"]
    new = other / "experiments" / "ninth" / "run_ninth_experiment.py"
    new.parent.mkdir()
    new.write_text('"""Ninth: a test."""\n')
    refused = build(other, "ninth")
    assert refused.returncode == 2
    assert "ninth: no committed experiment" in refused.stderr and "layernorm" in refused.stderr
    git(other, "add", "--all")
    git(other, "commit", "--quiet", "--message", "Ninth")
    assert build(other).returncode == 0
    assert set(zips(other)) == {*zips(repository), "ninth_experiment.zip"}
