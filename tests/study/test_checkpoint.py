"""Checkpoints: what is saved comes back bit for bit, and no damage or failing disk loses the last whole one.

Kills, full disks and other configurations: test_resume.py and tests/faults/, with whole studies.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from common.recording import store
from common.study import mirror
from common.study.checkpoint import CheckpointError, Checkpoints
from common.study.mirror import CHUNK, Mirror

STUDY = {"experiment": "baseline", "configuration": {"agents": 50, "actor_hidden": (64, 32)}}
PROVENANCE = {"torch_version": "2.13.0", "device": "cpu"}


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint"


@pytest.fixture
def checkpoints(folder: Path, warnings: list[str]) -> Checkpoints:
    return Checkpoints(folder, STUDY, PROVENANCE, warn=warnings.append)


def save(checkpoints: Checkpoints, *numbers: int) -> None:
    """States that tell which save they are of."""
    for number in numbers:
        checkpoints.save({"weights": torch.full((3, 100), float(number))}, {"episode": number})


def loaded_number(checkpoints: Checkpoints) -> int | None:
    """Which save is loaded; its parts must be of one save."""
    found = checkpoints.load()
    if found is None:
        return None
    tensors, meta = found
    assert torch.equal(tensors["weights"], torch.full((3, 100), float(meta["episode"])))
    return meta["episode"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def generation(*numbers: int) -> list[str]:
    return [f"checkpoint-{number:06d}.{kind}" for number in numbers for kind in ("data", "json")]


def test_every_type_comes_back_bit_for_bit(checkpoints: Checkpoints) -> None:
    tensors = {
        "float32": torch.tensor([[1.5, math.nan], [-0.0, math.inf]]),
        "float64, not contiguous": torch.rand(5, 7, dtype=torch.float64).mT,
        "read and written in pieces": torch.arange(CHUNK // 2 + 1, dtype=torch.int32),
        "int16": torch.arange(-3, 3, dtype=torch.int16),
        "int64": torch.tensor(2**62),
        "uint8": torch.arange(256, dtype=torch.uint8),
        "bool": torch.tensor([True, False, True]),
        "empty": torch.zeros(0, 4),
        "parameter": torch.nn.Parameter(torch.rand(3)),
    }
    meta = {"rows": [[1, 0.1, -0.0, 5e-324, 1.7976931348623157e308, math.nan, -math.inf]], "none": None, "text": "β\n"}
    checkpoints.save(tensors, meta)
    found, found_meta = checkpoints.load()
    assert list(found) == list(tensors) and repr(found_meta) == repr(meta)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        assert found[name].numpy().tobytes() == tensor.detach().numpy().tobytes(), name


def test_unknown_tensor_type_is_named_and_leaves_nothing(checkpoints: Checkpoints, folder: Path) -> None:
    with pytest.raises(ValueError, match="tensor half: type float16"):
        checkpoints.save({"half": torch.zeros(2, dtype=torch.float16)}, {})
    assert names(folder) == []


def test_the_newest_two_generations_are_kept(checkpoints: Checkpoints, folder: Path, warnings: list[str]) -> None:
    assert checkpoints.load() is None and names(folder) == []
    save(checkpoints, 1, 2, 3, 4)
    assert names(folder) == generation(3, 4)
    assert loaded_number(checkpoints) == 4 and warnings == []
    checkpoints.clear()
    assert not folder.exists() and checkpoints.load() is None
    checkpoints.clear()


def test_an_option_that_an_older_checkpoint_lacks(folder: Path, checkpoints: Checkpoints) -> None:
    """Had its default then; with another value now the checkpoint is of another study."""
    save(checkpoints, 1)
    fitting, other = (
        Checkpoints(folder, {**STUDY, "configuration": {**STUDY["configuration"], "younger": value}}, PROVENANCE,
                    warn=print, defaults={"younger": 0.5})
        for value in (0.5, 1.0)
    )  # fmt: skip
    assert loaded_number(fitting) == 1
    with pytest.raises(CheckpointError, match=r"younger 0\.5 there, 1\.0 asked"):
        other.load()


def rewritten(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(change(path.read_bytes()))


DAMAGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "truncated": (".data", rewritten(lambda data: data[:-1])),
    "a bit flipped": (".data", rewritten(lambda data: data[:777] + bytes([data[777] ^ 1]) + data[778:])),
    "empty": (".data", rewritten(lambda data: b"")),
    "deleted": (".data", Path.unlink),
    "manifest with a bit flipped": (".json", rewritten(lambda data: data.replace(b'"episode": 2', b'"episode": 3'))),
    "manifest truncated": (".json", rewritten(lambda data: data[:-1])),
    "manifest empty": (".json", rewritten(lambda data: b"")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_newest_falls_back_to_the_one_before(
    checkpoints: Checkpoints, folder: Path, warnings: list[str], damage: str
) -> None:
    save(checkpoints, 1, 2)
    suffix, strike = DAMAGES[damage]
    strike(folder / f"checkpoint-000002{suffix}")
    assert loaded_number(checkpoints) == 1
    assert len(warnings) == 1 and "\n" not in warnings[0] and "checkpoint-000002" in warnings[0]
    # The damaged one must not push out the good one.
    save(checkpoints, 3)
    assert names(folder) == generation(1, 3)
    assert loaded_number(checkpoints) == 3


@pytest.mark.parametrize("suffix", [".data", ".json"])
def test_failing_disk_keeps_the_earlier_generations(
    checkpoints: Checkpoints, folder: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    replace = os.replace

    def failing(source: Path, target: Path) -> None:
        if target.suffix == suffix:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        replace(source, target)

    save(checkpoints, 1, 2)
    with monkeypatch.context() as patch, pytest.raises(CheckpointError, match="Input/output error"):
        patch.setattr(store.os, "replace", failing)
        save(checkpoints, 3)
    assert names(folder) == generation(1, 2)
    assert loaded_number(checkpoints) == 2
    save(checkpoints, 4)
    assert loaded_number(checkpoints) == 4


def test_nothing_here_and_an_unreadable_mirror_is_refused(
    folder: Path, tmp_path: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror.time, "sleep", lambda _: None)
    copies = Mirror(tmp_path / "drive", warn=warnings.append)
    checkpoints = Checkpoints(folder, STUDY, PROVENANCE, warn=warnings.append, mirror=copies)
    save(checkpoints, 1)
    assert copies.flush(10)
    unreachable = Mock(side_effect=OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN)))
    with monkeypatch.context() as patch:
        patch.setattr(copies.generations, "numbers", unreachable)
        assert loaded_number(checkpoints) == 1 and not unreachable.called  # while there is one here
        (folder / "checkpoint-000001.json").unlink()
        with pytest.raises(CheckpointError, match="endpoint is not connected"):
            checkpoints.load()
        assert unreachable.call_count == 1 + len(mirror.RETRY_DELAYS)
    assert loaded_number(checkpoints) == 1 and len(warnings) == 1  # from the mirror
