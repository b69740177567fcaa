"""Process-wide settings and facts: device, threads, versions."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from pathlib import Path

import numpy as np
import torch

from common.config import ConfigError


def choose_device(name: str) -> torch.device:
    """The device called auto, cpu or cuda; ConfigError where there is no CUDA."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: PyTorch finds no CUDA device here; allowed: auto, cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def set_threads(threads: int) -> int:
    """Use `threads` CPU threads (0: one per core this process may use); returns how many."""
    count = threads or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else threads or os.cpu_count()
    torch.set_num_threads(count)
    return count


def device_name(device: torch.device) -> str:
    """Name for tables: cpu, or the graphics card's name without commas."""
    return torch.cuda.get_device_name(device).replace(",", " ") if device.type == "cuda" else "cpu"


def versions() -> dict[str, str]:
    """Versions that may change the last bits of a result."""
    return {
        "python_version": platform.python_version(),
        "torch_version": torch.__version__,
        "numpy_version": np.__version__,
    }


def code_commit() -> str:
    """Commit of the code that runs, and "+" with a hash of what differs from it in common/ and experiments/."""
    root = Path(__file__).resolve().parents[2]
    recorded = root / "common" / "COMMIT"  # in a packed zip
    if recorded.exists():
        return recorded.read_text().strip()

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changes = git("diff", "HEAD", "--", "common/", "experiments/*.py")
        # -z: names as they are, and a NUL behind each
        added = git("ls-files", "-z", "--others", "--exclude-standard", "--", "common/", "experiments/*.py")
        for path in added.split("\0")[:-1]:
            changes += path + (root / path).read_text(errors="replace")
        return git("rev-parse", "HEAD") + (f"+{hashlib.sha256(changes.encode()).hexdigest()[:8]}" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
