"""Memory of this process: what is shared with workers, what the allocator keeps, how much is used and free."""

from __future__ import annotations

import ctypes
import functools
import math
import mmap
import platform
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from common.training.tuning import KEPT_BYTES

try:
    import resource
except ImportError:  # Windows
    resource = None

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3


@functools.cache
def c_library() -> ctypes.CDLL:
    """The C library of this process; OSError or TypeError where there is none to load."""
    return ctypes.CDLL(None)


def keep_freed_memory() -> None:
    """Ask glibc to reuse freed blocks instead of returning them to the kernel after every tensor.

    Without it each megabyte-sized temporary costs fresh page faults. Other C libraries are left alone.
    """
    try:
        mallopt = c_library().mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
    mallopt(M_TRIM_THRESHOLD, 2**30)
    mallopt(M_TOP_PAD, 64 * 2**20)


def shared_zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros that processes forked later share with this one (on the CPU; elsewhere plain zeros)."""
    numbers = math.prod(shape)
    if device.type != "cpu" or not numbers:
        return torch.zeros(*shape, dtype=dtype, device=device)
    # Anonymous, not in /dev/shm, which is small in many containers; unmapped when the tensor is gone.
    return torch.frombuffer(mmap.mmap(-1, numbers * dtype.itemsize), dtype=dtype).view(*shape)


def peak_resident_bytes() -> int:
    """Most memory this process has held so far; 0 where the system does not tell."""
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def peak_bytes(device: torch.device) -> int:
    """Most memory used so far: resident on the CPU, allocated by PyTorch on CUDA."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_resident_bytes()


def free_bytes(device: torch.device) -> int:
    """Memory that is free on the device; on the CPU what the system says it can give."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 4 * 2**30
