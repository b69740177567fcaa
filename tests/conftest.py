"""Fixtures of all test modules.

Imports `common` before anything imports torch, because it sets what torch's thread pool reads when it loads.
"""

from __future__ import annotations

import pytest

import common  # noqa: F401


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch starts with one thread, and a study in this process finds one core.

    Two would wait for each other where a core has other work, and a forked process would wait for the second for ever.
    """
    import torch

    torch.set_num_threads(1)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0}, raising=False)


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """What a test draws without a seed of its own is the same whatever ran before it."""
    import numpy as np
    import torch

    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(autouse=True)
def no_graphics_card(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there is a GPU, tests that are not marked cuda train on the CPU, in this process and in others."""
    if request.node.get_closest_marker("cuda") is None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
