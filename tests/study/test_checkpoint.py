"""Checkpoints: what is saved comes back bit for bit, and no fault of disk or process loses the last whole one."""

from __future__ import annotations

import errno
import math
import multiprocessing
import os
import pickle
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from helpers import make_learner, variant

from common.agents.reports import RunKey
from common.study import checkpoint, mirror
from common.study.checkpoint import CheckpointError, Checkpoints
from common.study.mirror import Mirror

IDENTITY = {"config": {"agents": 50, "actor_hidden": (64, 32)}, "runs": [[42, 0.001, 0.1]], "version": 1}
ENVIRONMENT = {"torch_version": "2.13.0", "device": "cpu"}
Names = list[str]


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def checkpoints(folder: Path, warnings: list[str]) -> Checkpoints:
    return Checkpoints(folder, IDENTITY, ENVIRONMENT, warn=warnings.append)


def state(number: int) -> dict[str, torch.Tensor]:
    """A state that tells which save it is of."""
    return {"weights": torch.full((3, 100), float(number)), "updates": torch.tensor(number)}


def save(checkpoints: Checkpoints, *numbers: int) -> None:
    for number in numbers:
        checkpoints.save(state(number), {"episode": number})


def loaded_number(checkpoints: Checkpoints) -> int | None:
    """Which save is loaded; its parts must be of one save."""
    found = checkpoints.load()
    if found is None:
        return None
    tensors, meta = found
    assert set(tensors) == {"weights", "updates"}
    assert tensors["weights"].shape == (3, 100) and (tensors["weights"] == meta["episode"]).all()
    assert int(tensors["updates"]) == meta["episode"]
    return meta["episode"]


def names(folder: Path) -> Names:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def generation(*numbers: int) -> Names:
    return [f"checkpoint-{number:06d}.{kind}" for number in numbers for kind in ("data", "json")]


def flip_bit(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


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
    checkpoints.save(tensors, {})
    found, _ = checkpoints.load()
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        assert found[name].numpy().tobytes() == tensor.detach().numpy().tobytes(), name


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ["fullnorm", "adaptive_scaling"])
def test_observed_statistics_come_back(checkpoints: Checkpoints, name: str) -> None:
    """A variant's learner that goes on from a checkpoint has the bits of one that was never interrupted."""
    options = {"agents": 10, "batch_size": 8, "episodes": 10, "critic_hidden": (16, 8), **variant(name)}
    learner, untrained = (make_learner([RunKey(1, 1e-2, 1e-2)], **options) for _ in range(2))
    for _ in range(3):
        learner.train_episode()
    checkpoints.save(learner.state(), {"episode": learner.episode, "updates": learner.updates})
    for _ in range(3):
        learner.train_episode()

    tensors, meta = checkpoints.load()
    expected = {"actors.statistics", "critics.statistics"} if name == "fullnorm" else {"actors.statistics"}
    assert {key for key in tensors if "statistics" in key} == expected
    resumed = make_learner([RunKey(1, 1e-2, 1e-2)], **options)
    resumed.load(tensors, meta["episode"], meta["updates"])
    for key in expected:
        assert torch.equal(resumed.state()[key], tensors[key]) and not torch.equal(untrained.state()[key], tensors[key])
    for _ in range(3):
        resumed.train_episode()
    for key, value in learner.state().items():
        assert torch.equal(resumed.state()[key], value), key


def test_meta_floats_come_back_bit_for_bit(checkpoints: Checkpoints) -> None:
    floats = [0.1, -0.0, 5e-324, 1.7976931348623157e308, math.nan, math.inf, -math.inf, 1 / 3]
    meta = {"rows": {"rewards.csv": [[1, *floats]]}, "none": None, "text": "β\n"}
    checkpoints.save({}, meta)
    _, found = checkpoints.load()
    row = found["rows"]["rewards.csv"][0]
    assert row[0] == 1 and isinstance(row[0], int)
    assert [struct.pack("d", x) for x in row[1:]] == [struct.pack("d", x) for x in floats]
    assert found["none"] is None and found["text"] == meta["text"]


def test_unknown_tensor_type_is_named_and_leaves_nothing(checkpoints: Checkpoints, folder: Path) -> None:
    with pytest.raises(ValueError, match="tensor half: type float16"):
        checkpoints.save({"half": torch.zeros(2, dtype=torch.float16)}, {})
    assert names(folder) == []


def test_the_newest_two_generations_are_kept(checkpoints: Checkpoints, folder: Path, warnings: list[str]) -> None:
    assert checkpoints.load() is None and names(folder) == []
    save(checkpoints, 1, 2, 3, 4)
    assert names(folder) == generation(3, 4)
    assert loaded_number(checkpoints) == 4 and warnings == []


def test_clear_removes_all_generations(checkpoints: Checkpoints, folder: Path) -> None:
    save(checkpoints, 1, 2)
    assert names(folder)
    checkpoints.clear()
    assert not folder.exists() and checkpoints.load() is None
    checkpoints.clear()


def truncate(data: Path) -> None:
    data.write_bytes(data.read_bytes()[:-1])
    assert data.stat().st_size > 0


def flip_data_bit(data: Path) -> None:
    size = data.stat().st_size
    flip_bit(data, 777)
    assert data.stat().st_size == size


def empty(data: Path) -> None:
    data.write_bytes(b"")


def remove(data: Path) -> None:
    data.unlink()


def flip_meta_bit(data: Path) -> None:
    manifest = data.with_suffix(".json")
    at = manifest.read_bytes().index(b'"episode": 2') + len(b'"episode": ')
    flip_bit(manifest, at)
    assert b'"episode": 3' in manifest.read_bytes()  # still JSON, with another number


def truncate_manifest(data: Path) -> None:
    truncate(data.with_suffix(".json"))


def empty_manifest(data: Path) -> None:
    empty(data.with_suffix(".json"))


FAULTS = {
    truncate: "has 1207 bytes instead of 1208",
    flip_data_bit: "SHA-256",
    empty: "has 0 bytes instead of 1208",
    remove: "checkpoint-000002.data is missing",
    flip_meta_bit: "checkpoint-000002.json is not as it was written",
    truncate_manifest: "checkpoint-000002.json is not as it was written",
    empty_manifest: "checkpoint-000002.json is not as it was written",
}


@pytest.mark.parametrize(("fault", "reason"), FAULTS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_damaged_newest_falls_back_to_the_one_before(
    checkpoints: Checkpoints, folder: Path, warnings: list[str], fault: Callable[[Path], None], reason: str
) -> None:
    save(checkpoints, 1, 2)
    fault(folder / "checkpoint-000002.data")
    assert loaded_number(checkpoints) == 1
    assert len(warnings) == 1 and "\n" not in warnings[0]
    assert "checkpoint-000002: damaged" in warnings[0] and reason in warnings[0]
    # The damaged one must not push out the good one.
    save(checkpoints, 3)
    assert names(folder) == generation(1, 3)
    assert loaded_number(checkpoints) == 3


def test_all_damaged_is_nothing_with_a_warning_each(
    checkpoints: Checkpoints, folder: Path, warnings: list[str]
) -> None:
    save(checkpoints, 1, 2)
    for number in (1, 2):
        empty(folder / f"checkpoint-{number:06d}.data")
    assert checkpoints.load() is None
    assert [line.split(":")[0].split("/")[-1] for line in warnings] == ["checkpoint-000002", "checkpoint-000001"]


def test_data_without_manifest_is_ignored(checkpoints: Checkpoints, folder: Path, warnings: list[str]) -> None:
    save(checkpoints, 1, 2)
    (folder / "checkpoint-000002.json").unlink()
    assert names(folder) == [*generation(1), "checkpoint-000002.data"]
    assert loaded_number(checkpoints) == 1 and warnings == []
    save(checkpoints, 3)
    assert names(folder) == generation(1, 3)


class Bomb:
    """What pickle would execute."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch exploded",)


def test_pickled_code_is_never_executed(
    checkpoints: Checkpoints, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    exploding = pickle.dumps(Bomb())
    save(checkpoints, 1, 2)
    (folder / "checkpoint-000002.data").write_bytes(exploding)
    (folder / "checkpoint-000001.json").write_bytes(exploding)
    assert checkpoints.load() is None
    assert not (tmp_path / "exploded").exists()
    pickle.loads(exploding)
    assert (tmp_path / "exploded").exists()


KILLED_AT = {
    # stage: (what lies there after the kill, which save is loaded)
    "before data rename": ([*generation(1, 2), "checkpoint-000003.data.partial"], 2),
    "before manifest rename": ([*generation(1, 2), "checkpoint-000003.data", "checkpoint-000003.json.partial"], 2),
    "before pruning": (generation(1, 2, 3), 3),
}


def save_and_die(checkpoints: Checkpoints, stage: str) -> None:
    def die(reached: str) -> None:
        if reached == stage:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint._stage = die
    save(checkpoints, 3)


@pytest.mark.parametrize(("stage", "left", "number"), [(k, *v) for k, v in KILLED_AT.items()])
def test_killed_during_a_save(
    checkpoints: Checkpoints, folder: Path, warnings: list[str], stage: str, left: Names, number: int
) -> None:
    save(checkpoints, 1, 2)
    process = multiprocessing.get_context("fork").Process(target=save_and_die, args=(checkpoints, stage))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert names(folder) == left
    assert loaded_number(checkpoints) == number and warnings == []
    save(checkpoints, 4)
    assert len(names(folder)) == 4 and loaded_number(checkpoints) == 4


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as problem:
        pytest.skip(f"cannot mount a tmpfs: {problem}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_full_disk_keeps_the_earlier_generations(small_disk: Path, warnings: list[str]) -> None:
    folder = small_disk / "state"
    checkpoints = Checkpoints(folder, IDENTITY, ENVIRONMENT, warn=warnings.append)
    save(checkpoints, 1, 2)
    with pytest.raises(CheckpointError, match=r"no checkpoint could be written.*No space left on device") as refusal:
        checkpoints.save({"weights": torch.zeros(2**16)}, {"episode": 3})
    assert "\n" not in str(refusal.value)
    assert names(folder) == generation(1, 2)
    # Data that just fits, so that it is the manifest that fills the disk.
    with pytest.raises(CheckpointError, match="No space left on device"):
        checkpoints.save({"weights": torch.zeros(24 * 1024, dtype=torch.uint8)}, {"rows": ["x" * 30_000]})
    assert names(folder) == generation(1, 2)
    assert loaded_number(checkpoints) == 2
    save(checkpoints, 4)
    assert loaded_number(checkpoints) == 4 and warnings == []


@pytest.mark.parametrize("stage", ["before data rename", "before manifest rename"])
def test_failing_disk_keeps_the_earlier_generations(
    checkpoints: Checkpoints, folder: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def fail(reached: str) -> None:
        if reached == stage:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    save(checkpoints, 1, 2)
    with monkeypatch.context() as patch, pytest.raises(CheckpointError, match="Input/output error"):
        patch.setattr(checkpoint, "_stage", fail)
        save(checkpoints, 3)
    assert names(folder) == generation(1, 2)
    assert loaded_number(checkpoints) == 2


def test_other_identity_is_refused_in_one_line_that_names_the_fields(
    checkpoints: Checkpoints, folder: Path, warnings: list[str]
) -> None:
    save(checkpoints, 1)
    other = {"config": {"agents": 12, "actor_hidden": (64, 32), "tau": 0.5}, "runs": [[43, 0.001, 0.1]], "version": 1}
    with pytest.raises(CheckpointError) as refusal:
        Checkpoints(folder, other, ENVIRONMENT, warn=warnings.append).load()
    line = str(refusal.value)
    assert "\n" not in line and warnings == []
    assert "config.agents 50 there, 12 asked" in line
    assert "config.tau nothing there, 0.5 asked" in line
    assert "runs [[42, 0.001, 0.1]] there, [[43, 0.001, 0.1]] asked" in line
    assert "actor_hidden" not in line and "version" not in line
    assert loaded_number(checkpoints) == 1


def test_long_values_are_shown_where_they_differ(folder: Path, warnings: list[str]) -> None:
    seeds = list(range(1000))
    save(Checkpoints(folder, {"seeds": seeds}, {}, warn=warnings.append), 1)
    with pytest.raises(CheckpointError) as refusal:
        Checkpoints(folder, {"seeds": [*seeds[:500], 7, *seeds[501:]]}, {}, warn=warnings.append).load()
    line = str(refusal.value)
    assert "499, 500, 501" in line and "499, 7, 501" in line and len(line) < 400


def test_other_format_is_refused(checkpoints: Checkpoints, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(checkpoints, 1)
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    with pytest.raises(CheckpointError, match="checkpoint_format 1 there, 2 asked"):
        Checkpoints(folder, IDENTITY, ENVIRONMENT, warn=print).load()


def test_other_environment_is_a_warning(checkpoints: Checkpoints, folder: Path, warnings: list[str]) -> None:
    save(checkpoints, 1)
    now = Checkpoints(folder, IDENTITY, {**ENVIRONMENT, "device": "NVIDIA H200"}, warn=warnings.append)
    assert loaded_number(now) == 1
    assert len(warnings) == 1 and "\n" not in warnings[0]
    assert 'device "cpu" there, "NVIDIA H200" now' in warnings[0] and "last bits may differ" in warnings[0]
    assert "torch_version" not in warnings[0]


class Mirrored:
    """Checkpoints with a mirror that waits for nothing."""

    def __init__(self, folder: Path, drive: Path, warnings: list[str]):
        self.mirror = Mirror(drive, warn=warnings.append, sleep=lambda _: None)
        self.checkpoints = Checkpoints(folder, IDENTITY, ENVIRONMENT, warn=warnings.append, mirror=self.mirror)

    def save(self, *numbers: int) -> None:
        for number in numbers:
            save(self.checkpoints, number)
            assert self.mirror.flush(10)


@pytest.fixture
def mirrored(folder: Path, tmp_path: Path, warnings: list[str]) -> Mirrored:
    return Mirrored(folder, tmp_path / "drive", warnings)


def test_missing_here_is_restored_from_the_mirror(
    mirrored: Mirrored, folder: Path, tmp_path: Path, warnings: list[str]
) -> None:
    mirrored.save(1, 2, 3)
    for path in folder.iterdir():
        path.unlink()
    assert names(folder) == []
    assert loaded_number(mirrored.checkpoints) == 3
    assert len(warnings) == 1 and "from the mirror" in warnings[0]
    # Numbers begin anew here, and go on in the mirror.
    mirrored.save(4)
    assert names(folder) == generation(1) and names(tmp_path / "drive" / "state") == generation(3, 4)
    assert loaded_number(mirrored.checkpoints) == 4


def test_damaged_here_and_in_the_mirror_is_restored_from_its_older_one(
    mirrored: Mirrored, folder: Path, tmp_path: Path, warnings: list[str]
) -> None:
    mirrored.save(1, 2)
    for data in (*folder.glob("*.data"), tmp_path / "drive/state/checkpoint-000002.data"):
        flip_bit(data, 5)
    assert loaded_number(mirrored.checkpoints) == 1
    assert len(warnings) == 4 and sum("SHA-256" in line for line in warnings) == 3


def test_mirror_of_another_configuration_is_refused(mirrored: Mirrored, folder: Path, warnings: list[str]) -> None:
    mirrored.save(1)
    (folder / "checkpoint-000001.json").unlink()
    other = Checkpoints(folder, {"version": 2}, ENVIRONMENT, warn=warnings.append, mirror=mirrored.mirror)
    with pytest.raises(CheckpointError, match=r"drive/state: holds a checkpoint of another.*version 1 there, 2 asked"):
        other.load()


def test_nothing_here_and_an_unreadable_mirror_is_refused(
    mirrored: Mirrored, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirrored.save(1)
    attempts = []

    def unreachable(path: Path) -> list[Path]:
        attempts.append(path)
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    monkeypatch.setattr(mirror, "manifests", unreachable)
    assert loaded_number(mirrored.checkpoints) == 1 and not attempts  # not asked while there is one here
    (folder / "checkpoint-000001.json").unlink()
    with pytest.raises(CheckpointError, match=r"mirror cannot be read.*endpoint is not connected"):
        mirrored.checkpoints.load()
    assert len(attempts) == 1 + len(mirror.RETRY_DELAYS)


def test_clear_reaches_the_mirror(mirrored: Mirrored, tmp_path: Path) -> None:
    mirrored.save(1, 2)
    assert names(tmp_path / "drive" / "state") == generation(1, 2)
    mirrored.checkpoints.clear()
    assert mirrored.mirror.flush(10)
    assert not (tmp_path / "drive" / "state").exists()
    assert mirrored.checkpoints.load() is None
