"""What the tests of zips and notebooks need: a repository of the files as they are, and the size of their studies."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from common.recording import schema

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = sorted(path.parent.name for path in ROOT.glob("experiments/*/run_*_experiment.py"))
PACKED = ("LICENSE", "common", "docs", "experiments", "package_zips.sh", "pyproject.toml", "requirements.txt")
DATE = "2024-02-29T12:34:56+00:00"

REDUCED = "--episodes 4 --agents 10 --batch-size 16 --eval-episodes 1 --actor-lrs 0.1 --critic-lrs 0.1 --threads 1"
OPTIONS = "--quick" if os.environ.get("FULL_QUICK") else f"--quick {REDUCED}"  # FULL_QUICK=1: the whole --quick studies


def environment(**more: str) -> dict[str, str]:
    """This process's environment with the user's git settings and PYTHONPATH out of the way."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith("GIT_")}
    return {**clean, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", **more}


def git(folder: Path, *words: str) -> str:
    """What a git command prints."""
    command = ["git", "-c", "user.name=A", "-c", "user.email=a@b", *words]
    dated = environment(GIT_AUTHOR_DATE=DATE, GIT_COMMITTER_DATE=DATE)
    done = subprocess.run(command, cwd=folder, env=dated, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def committed_copy(folder: Path) -> Path:
    """A repository in `folder` with one commit: the files of this one as they are now, committed or not."""
    folder.mkdir()
    for name in PACKED:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "results", ".*"))
        else:
            shutil.copy(source, target)
    git(folder, "init", "--quiet", "--initial-branch", "main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "As it is")
    return folder


def build(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run package_zips.sh there."""
    return subprocess.run(
        [repository / "package_zips.sh", *arguments], cwd="/", env=environment(), capture_output=True, text=True
    )


def assert_results(folder: Path) -> None:
    """Every CSV file is there and has rows."""
    for name in schema.FILES:
        assert len((folder / name).read_text().splitlines()) > 1, folder / name
