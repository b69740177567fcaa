"""Checkpoints: what is saved comes back bit for bit, and no damage or failing disk loses the last whole one.

Kills, full disks and other configurations: test_resume.py and tests/faults/, with whole studies.
"""

from __future__ import annotations

import errno
import math
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from common.recording import store
from common.study import mirror
from common.study.checkpoint import CheckpointError, Checkpoints
from common.study.mirror import Mirror

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
        "float64": torch.rand(5, 7, dtype=torch.float64).mT,
        "int16": torch.arange(-3, 3, dtype=torch.int16),
        "int64": torch.tensor(2**62),
        "uint8": torch.arange(256, dtype=torch.uint8),
        "bool": torch.tensor([True, False, True]),
        "empty": torch.zeros(0, 4),
        "parameter": torch.nn.Parameter(torch.rand(3)),
    }
    assert not tensors["float64"].is_contiguous()
    floats = [0.1, -0.0, 5e-324, 1.7976931348623157e308, math.nan, math.inf, -math.inf, 1 / 3]
    checkpoints.save(tensors, {"rows": {"rewards.csv": [[1, *floats]]}, "none": None, "text": "β\n"})
    found, meta = checkpoints.load()
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        assert found[name].numpy().tobytes() == tensor.detach().numpy().tobytes(), name
    count, *row = meta["rows"]["rewards.csv"][0]
    assert count == 1 and [struct.pack("d", x) for x in row] == [struct.pack("d", x) for x in floats]
    assert meta["none"] is None and meta["text"] == "β\n"


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
    for value, fits in ((0.5, True), (1.0, False)):
        younger = {**STUDY, "configuration": {**STUDY["configuration"], "younger": value}}
        newer = Checkpoints(folder, younger, PROVENANCE, warn=print, defaults={"younger": 0.5})
        if fits:
            assert loaded_number(newer) == 1
        else:
            with pytest.raises(CheckpointError, match=r"younger 0\.5 there, 1\.0 asked"):
                newer.load()


def truncate(data: Path) -> None:
    data.write_bytes(data.read_bytes()[:-1])


def flip_bit(path: Path, at: int = 777) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def flip_meta_bit(data: Path) -> None:
    manifest = data.with_suffix(".json")
    flip_bit(manifest, manifest.read_bytes().index(b'"episode": 2') + len(b'"episode": '))
    assert b'"episode": 3' in manifest.read_bytes()  # still JSON, with another number


DAMAGES: dict[str, Callable[[Path], None]] = {
    "truncated": truncate,
    "a bit flipped": flip_bit,
    "empty": lambda data: data.write_bytes(b""),
    "deleted": Path.unlink,
    "manifest with a bit flipped": flip_meta_bit,
    "manifest truncated": lambda data: truncate(data.with_suffix(".json")),
    "manifest empty": lambda data: data.with_suffix(".json").write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_newest_falls_back_to_the_one_before(
    checkpoints: Checkpoints, folder: Path, warnings: list[str], damage: str
) -> None:
    save(checkpoints, 1, 2)
    DAMAGES[damage](folder / "checkpoint-000002.data")
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


def test_nothing_here_and_an_unreadable_mirror_is_refused(
    folder: Path, tmp_path: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror.time, "sleep", lambda _: None)
    copies = Mirror(tmp_path / "drive", warn=warnings.append)
    checkpoints = Checkpoints(folder, STUDY, PROVENANCE, warn=warnings.append, mirror=copies)
    save(checkpoints, 1)
    assert copies.flush(10)
    attempts = []

    def unreachable() -> list[int]:
        attempts.append(1)
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    with monkeypatch.context() as patch:
        patch.setattr(copies.generations, "numbers", unreachable)
        assert loaded_number(checkpoints) == 1 and not attempts  # not asked while there is one here
        (folder / "checkpoint-000001.json").unlink()
        with pytest.raises(CheckpointError, match="endpoint is not connected"):
            checkpoints.load()
        assert len(attempts) == 1 + len(mirror.RETRY_DELAYS)
    assert loaded_number(checkpoints) == 1 and len(warnings) == 1  # from the mirror
