"""The repository whose zips and notebooks are tried."""

from __future__ import annotations

from pathlib import Path

import pytest
from experiments.package_helpers import build, committed_copy


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose zips are built."""
    folder = committed_copy(tmp_path_factory.mktemp("packages") / "repository")
    done = build(folder)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return folder
