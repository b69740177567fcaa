"""Fixtures of several test modules.

Imports `common` before anything imports torch, because it sets what torch's thread pool reads when it loads.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import common  # noqa: F401


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny products without waiting for a second core, which may have other work."""
    from helpers import cpu_threads  # not above: it loads torch

    with cpu_threads(1):
        yield
