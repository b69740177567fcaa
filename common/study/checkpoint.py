"""Checkpoints on disk: whole, verified, never executed. Knows nothing of what the tensors mean.

A generation is `checkpoint-000007.data`, the tensors' bytes one after another, and `checkpoint-000007.json`, the
manifest, written last: SHA-256 and size of the data, each tensor's name, type and shape, whose state it is (identity,
environment), and the caller's `meta`. The manifest also carries the SHA-256 of itself. A generation without its
manifest does not exist.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.study.mirror import (
    CHUNK,
    KEPT,
    MANIFEST,
    PARTIAL,
    Mirror,
    generation_number,
    generation_path,
    manifests,
    next_generation,
    remove_generations,
)

DATA = ".data"
FORMAT = 1  # of the two files
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float32, torch.float64, torch.bool, torch.uint8, torch.int16, torch.int32, torch.int64)
}
SHOWN = 60  # characters of a value in a message


class CheckpointError(Exception):
    """A checkpoint cannot be written or must not be used; the message is one line for the user."""


class _Damaged(Exception):
    """Why one generation cannot be used."""


class Checkpoints:
    """The newest generations of one state in one folder, and in the mirror's group named like the folder."""

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        environment: Mapping[str, Any],
        *,
        warn: Callable[[str], None],
        mirror: Mirror | None = None,
    ):
        """Touches no file. `identity` and `environment` are (nested) mappings that JSON can hold.

        Only a checkpoint with the same identity is loaded; another environment is a warning.
        """
        self.folder, self.mirror, self._warn = folder, mirror, warn
        self.identity = _as_json({"checkpoint_format": FORMAT, **identity})
        self.environment = _as_json(environment)
        self._damaged: set[Path] = set()  # manifests of generations that did not verify

    def save(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Write one more generation, then remove all but the newest two, then start mirroring it.

        tensors: of any shape, on any device, of a type in DTYPES, copied to the CPU one at a time; meta: what JSON can
        hold, floats come back bit for bit, tuples as lists. CheckpointError if the disk is full or fails; the earlier
        generations are then still there and nothing else is.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            number = next_generation(self.folder)
            self._write_generation(number, tensors, meta)
        except OSError as problem:
            raise CheckpointError(f"{self.folder}: no checkpoint could be written ({problem})") from None
        _stage("before pruning")
        with contextlib.suppress(OSError):  # the next save removes them
            whole = [generation_number(path) for path in manifests(self.folder) if path not in self._damaged]
            remove_generations(self.folder, keep=whole[:KEPT])
        if self.mirror is not None:
            self.mirror.push([generation_path(self.folder, number, DATA)], self._manifest(number))

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors (on the CPU) and meta of the newest generation that verifies; None if there is none.

        A damaged generation costs one warning and the one before is taken; the mirror's are taken when none is usable
        here. CheckpointError if the newest has another identity (the differing fields are named), or if there is none
        here and the mirror cannot be read: starting over would in time replace what it holds.
        """
        try:
            local = manifests(self.folder)
        except OSError as problem:
            raise CheckpointError(f"{self.folder}: cannot be read ({problem})") from None
        found = self._first_whole(local, _once)
        if found is not None or self.mirror is None:
            return found
        try:
            mirrored = self.mirror.newest(self.folder.name)
        except OSError as problem:
            raise CheckpointError(
                f"{self.folder}: holds no checkpoint, and its mirror cannot be read ({problem}); "
                "allowed: a mirror that can be read, or none"
            ) from None
        found = self._first_whole(mirrored, self.mirror.retrying)
        if found is not None:
            self._warn(f"{self.folder}: no usable checkpoint here, went on from the mirror's")
        return found

    def clear(self) -> None:
        """Remove all generations, here and then in the mirror; what cannot be removed here is a warning."""
        try:
            remove_generations(self.folder)
            with contextlib.suppress(OSError):  # holds other files, or was never made
                self.folder.rmdir()
        except OSError as problem:
            self._warn(f"{self.folder}: old checkpoints could not be removed ({problem})")
        if self.mirror is not None:
            self.mirror.clear(self.folder.name)

    def _manifest(self, number: int) -> Path:
        return generation_path(self.folder, number, MANIFEST)

    def _write_generation(self, number: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        data, manifest = generation_path(self.folder, number, DATA), self._manifest(number)
        try:
            description = _write_data(_partial(data), tensors)
            _stage("before data rename")
            os.replace(_partial(data), data)
            _sync_folder(self.folder)
            body = {"identity": self.identity, "environment": self.environment, "data": description, "meta": meta}
            _write_manifest(_partial(manifest), body)
            _stage("before manifest rename")
            os.replace(_partial(manifest), manifest)
        except BaseException:
            for path in (manifest, _partial(manifest), data, _partial(data)):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
            raise
        _sync_folder(self.folder)

    def _first_whole(
        self, candidates: list[Path], attempt: Callable[[Callable[[], Any]], Any]
    ) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The first candidate that verifies; `attempt` runs what reads files."""
        for manifest in candidates:
            try:
                body = attempt(lambda manifest=manifest: _read_manifest(manifest))
                self._check_identity(manifest, body["identity"])
                description = body["data"]
                data = manifest.with_suffix(DATA)
                tensors = attempt(lambda data=data, description=description: _read_data(data, description))
            except (_Damaged, OSError) as problem:
                self._warn(f"{manifest.with_suffix('')}: damaged checkpoint passed over ({problem})")
                self._damaged.add(manifest)
                continue
            self._compare_environment(manifest, body["environment"])
            return tensors, body["meta"]
        return None

    def _check_identity(self, manifest: Path, there: dict[str, Any]) -> None:
        differing = _differences(there, self.identity)
        if differing:
            raise CheckpointError(
                f"{manifest.parent}: holds a checkpoint of another configuration ({'; '.join(differing)}); "
                "allowed: the same one, or another folder"
            )

    def _compare_environment(self, manifest: Path, there: dict[str, Any]) -> None:
        differing = _differences(there, self.environment, "now")
        if differing:
            self._warn(f"{manifest.with_suffix('')}: made elsewhere ({'; '.join(differing)}); the last bits may differ")


def _stage(name: str) -> None:
    """A moment of a save, for tests that end the process there."""


def _once(operation: Callable[[], Any]) -> Any:
    return operation()


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(values))


def _partial(path: Path) -> Path:
    return path.with_name(path.name + PARTIAL)


def _bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, not copied."""
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())


def _chunks(data: memoryview) -> Iterator[memoryview]:
    return (data[start : start + CHUNK] for start in range(0, len(data), CHUNK))


def _write_data(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write the tensors' bytes to disk and return their description for the manifest. Raises OSError."""
    digest, size, index = hashlib.sha256(), 0, []
    with path.open("wb") as file:
        for name, tensor in tensors.items():
            dtype = str(tensor.dtype).removeprefix("torch.")
            if dtype not in DTYPES:
                raise ValueError(f"tensor {name}: type {dtype}; allowed: {', '.join(DTYPES)}")
            index.append({"name": name, "dtype": dtype, "shape": list(tensor.shape)})
            data = _bytes_of(tensor.detach().cpu().contiguous())
            size += len(data)
            for chunk in _chunks(data):
                file.write(chunk)
                digest.update(chunk)
        file.flush()
        os.fsync(file.fileno())
    written = path.stat().st_size
    if written != size:
        raise OSError(f"{path.name} has {written} of {size} bytes")
    return {"sha256": digest.hexdigest(), "size": size, "tensors": index}


def _read_data(path: Path, description: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors of a data file. _Damaged if it is not as described; raises OSError."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise _Damaged(f"{path.name} is missing") from None
    size = sum(math.prod(entry["shape"]) * DTYPES[entry["dtype"]].itemsize for entry in description["tensors"])
    digest, tensors = hashlib.sha256(), {}
    with file:
        there = os.fstat(file.fileno()).st_size
        if not there == description["size"] == size:
            raise _Damaged(f"{path.name} has {there} bytes instead of {description['size']}")
        for entry in description["tensors"]:
            tensors[entry["name"]] = torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]])
            for chunk in _chunks(_bytes_of(tensors[entry["name"]])):
                if file.readinto(chunk) != len(chunk):
                    raise _Damaged(f"{path.name} ends early")
                digest.update(chunk)
    if digest.hexdigest() != description["sha256"]:
        raise _Damaged(f"{path.name}: SHA-256 {digest.hexdigest()[:8]}… instead of {description['sha256'][:8]}…")
    return tensors


def _write_manifest(path: Path, body: Mapping[str, Any]) -> None:
    text = json.dumps(body).encode()
    with path.open("wb") as file:
        file.write(b'{"sha256": "%s", "body": %s}\n' % (hashlib.sha256(text).hexdigest().encode(), text))
        file.flush()
        os.fsync(file.fileno())


def _read_manifest(path: Path) -> dict[str, Any]:
    """Body of a manifest. _Damaged unless it is byte for byte what was written; raises OSError."""
    match = re.fullmatch(rb'\{"sha256": "([0-9a-f]{64})", "body": (.*)\}\n', path.read_bytes(), re.DOTALL)
    if not match or hashlib.sha256(match[2]).hexdigest().encode() != match[1]:
        raise _Damaged(f"{path.name} is not as it was written")
    return json.loads(match[2])


def _sync_folder(folder: Path) -> None:
    """Make the renames in a folder durable, where folders can be opened for that."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Values as JSON text by dotted name."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        nested = isinstance(value, Mapping) and value
        flat |= _flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": json.dumps(value)}
    return flat


def _differences(there: Mapping[str, Any], here: Mapping[str, Any], word: str = "asked") -> list[str]:
    """Fields that differ, each as `name old there, new asked`."""
    old, new = _flat(there), _flat(here)
    found = []
    for name in dict.fromkeys((*old, *new)):
        values = old.get(name, "nothing"), new.get(name, "nothing")
        if values[0] != values[1]:
            a, b = _from_difference(*values)
            found.append(f"{name} {a} there, {b} {word}")
    return found


def _from_difference(*values: str) -> tuple[str, ...]:
    """Texts, the long ones cut to the part around the first character that differs."""
    differing = (i for i, characters in enumerate(zip(*values, strict=False)) if len(set(characters)) > 1)
    start = max(0, next(differing, min(map(len, values))) - SHOWN // 3)
    return tuple(
        value if len(value) <= SHOWN else ("…" if start else "") + value[start : start + SHOWN] + "…"
        for value in values
    )
