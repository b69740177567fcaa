"""`pip install .` installs one package, and a copied folder is the same package."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
USE = """
import sys, torch
from saturation_monitor import SaturationMonitor, limit_steps
actor = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Tanh())
optimizer = torch.optim.Adam(actor.parameters(), lr=0.1)
limit_steps(optimizer, relative=0.001)
with SaturationMonitor(actor, every=1) as monitor:
    for _ in range(3):
        optimizer.zero_grad()
        actor(torch.randn(8, 3)).sum().backward()
        optimizer.step()
print(monitor.report())
others = {name.split(".")[0] for name in sys.modules} & {"common", "pandas", "matplotlib", "stable_baselines3"}
sys.exit(f"imported {others}" if others else 0)
"""


def use(folder: Path) -> None:
    """Train with the package that lies in `folder`, away from the repository."""
    command = [sys.executable, "-c", USE]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": "."})
    assert done.returncode == 0, done.stderr
    assert "tanh_derivative" in done.stdout


def test_a_copied_folder_works(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "common" / "monitor", tmp_path / "saturation_monitor")
    use(tmp_path)


def test_pip_installs_one_package(tmp_path: Path) -> None:
    if not all(importlib.util.find_spec(name) for name in ("pip", "setuptools")):
        pytest.skip("needs pip and setuptools")
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(ROOT / "common", source / "common")
    for file in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / file, source)
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--target", target, source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    installed = {path.name for path in target.iterdir() if not path.name.endswith(".dist-info")}
    assert installed == {"saturation_monitor"}
    use(target)
