"""Process-wide settings: device, threads, memory allocator."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
from pathlib import Path

import numpy as np
import torch

from common.config import ConfigError

try:
    import resource
except ImportError:  # Windows
    resource = None

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3


def choose_device(name: str) -> torch.device:
    """The device called auto, cpu or cuda; ConfigError where there is no CUDA."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: PyTorch finds no CUDA device here; allowed: auto, cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def keep_freed_memory() -> None:
    """Ask glibc to reuse freed blocks instead of returning them to the kernel after every tensor.

    Without it each megabyte-sized temporary costs fresh page faults. Other C libraries are left alone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
    mallopt(M_TRIM_THRESHOLD, 2**30)
    mallopt(M_TOP_PAD, 64 * 2**20)


def set_threads(threads: int) -> int:
    """Use `threads` CPU threads (0: one per core this process may use); returns how many."""
    count = threads or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else threads or os.cpu_count()
    torch.set_num_threads(count)
    return count


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory used so far: resident on the CPU (0 where the system does not tell), allocated by PyTorch on CUDA."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def free_memory_bytes(device: torch.device) -> int:
    """Memory that is free on the device; on the CPU what the system says it can give."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 4 * 2**30


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
    """Commit of the code that runs, with "+changes" where files of common/ or experiments/ differ from it."""
    root = Path(__file__).resolve().parents[1]
    recorded = Path(__file__).with_name("COMMIT")  # in a packed zip
    if recorded.exists():
        return recorded.read_text().strip()

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changes = git("status", "--porcelain", "--", "common", "experiments")
        return git("rev-parse", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
