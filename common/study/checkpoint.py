"""Checkpoints on disk: whole, verified, never executed. Knows nothing of what the tensors mean.

The data file holds the tensors' bytes, one after another. The manifest, JSON, is written last: SHA-256 and size of the
data, each tensor's name, type and shape, the format, whose state it is (study), what made it (provenance), the
caller's `meta`, and the SHA-256 of all that.
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

from common.recording.store import FORMAT, check_format, differences, write_atomically
from common.study.generations import DATA, KEPT, MANIFEST, Generations
from common.study.mirror import CHUNK, Mirror

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float32, torch.float64, torch.bool, torch.uint8, torch.int16, torch.int32, torch.int64)
}

State = tuple[dict[str, Tensor], dict[str, Any]]  # tensors on the CPU, and meta


class CheckpointError(Exception):
    """A checkpoint cannot be written or must not be used; the message is one line for the user."""


class _Damaged(Exception):
    """Why one generation cannot be used."""


class Checkpoints:
    """The newest generations of one study's training state in one folder, and in its mirror."""

    def __init__(
        self,
        folder: Path,
        study: Mapping[str, Any],
        provenance: Mapping[str, Any],
        *,
        warn: Callable[[str], None],
        mirror: Mirror | None = None,
        defaults: Mapping[str, Any] | None = None,
    ):
        """Touches no file. `study`: `experiment` and `configuration`; `provenance`: commit, versions, device.

        Only a checkpoint of the same study and format is loaded, where `defaults` stand for options that it lacks;
        another provenance is a warning.
        """
        self.defaults = defaults or {}
        self.generations, self.mirror, self._warn = Generations(folder), mirror, warn
        self.study, self.provenance = json.loads(json.dumps([study, provenance]))
        self._damaged: set[Path] = set()  # manifests of generations that did not verify

    def save(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Write one more generation, then remove all but the newest two, then start mirroring it.

        tensors: of any shape, on any device, of a type in DTYPES, copied to the CPU one at a time; meta: what JSON can
        hold, floats come back bit for bit, tuples as lists. CheckpointError if the disk is full or fails; the earlier
        generations are then still there and nothing else is.
        """
        folder = self.generations.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            earlier, number = self.generations.numbers(), self.generations.next_number()
            manifest = self.generations.path(number, MANIFEST)
            try:
                data = _write_data(self.generations.path(number, DATA), tensors)
                body = {"format": FORMAT, "study": self.study, "provenance": self.provenance, "data": data}
                _write_manifest(manifest, {**body, "meta": meta})
            except BaseException:
                with contextlib.suppress(OSError):
                    self.generations.remove(keep=earlier)
                raise
        except OSError as problem:
            raise CheckpointError(f"{folder}: no checkpoint could be written ({problem})") from None
        with contextlib.suppress(OSError):  # the next save removes them
            whole = [old for old in earlier if self.generations.path(old, MANIFEST) not in self._damaged]
            self.generations.remove(keep=[number, *whole][:KEPT])
        if self.mirror:
            self.mirror.push(manifest)

    def load(self) -> State | None:
        """Tensors and meta of the newest generation that verifies; None if there is none.

        A damaged generation costs one warning and the one before is taken; the mirror's are taken when none is usable
        here. CheckpointError if the newest is of another study, StoreError if it is of another format, CheckpointError
        too if there is none here and the mirror cannot be read: starting over would in time replace what it holds.
        """
        folder = self.generations.folder
        try:
            found = self._newest_whole(self.generations, self.generations.numbers(), lambda operation: operation())
        except OSError as problem:
            raise CheckpointError(f"{folder}: cannot be read ({problem})") from None
        if found or not self.mirror:
            return found
        try:
            mirrored = self.mirror.retrying(self.mirror.generations.numbers)
        except OSError as problem:
            raise CheckpointError(
                f"{folder}: holds no checkpoint, and its mirror cannot be read ({problem}); "
                "allowed: a mirror that can be read, or none"
            ) from None
        found = self._newest_whole(self.mirror.generations, mirrored, self.mirror.retrying)
        if found:
            self._warn(f"{folder}: no usable checkpoint here, went on from the mirror's")
        return found

    def clear(self) -> None:
        """Remove all generations, here and then in the mirror; what cannot be removed here is a warning."""
        folder = self.generations.folder
        try:
            self.generations.remove()
            with contextlib.suppress(OSError):  # holds other files, or was never made
                folder.rmdir()
        except OSError as problem:
            self._warn(f"{folder}: old checkpoints could not be removed ({problem})")
        if self.mirror:
            self.mirror.clear()

    def _newest_whole(
        self, generations: Generations, numbers: list[int], attempt: Callable[[Callable[[], State]], State]
    ) -> State | None:
        """The first of these generations that verifies; `attempt` calls what reads files."""
        for number in numbers:
            manifest = generations.path(number, MANIFEST)
            try:
                return attempt(lambda manifest=manifest: self._read(manifest))
            except (_Damaged, OSError) as problem:
                self._warn(f"{manifest.with_suffix('')}: damaged checkpoint passed over ({problem})")
                self._damaged.add(manifest)
        return None

    def _read(self, manifest: Path) -> State:
        """One generation. Raises _Damaged, OSError, and what `load` raises."""
        body = _read_manifest(manifest)
        provenance = body.get("provenance", {})
        check_format(manifest.parent, body.get("format", 1), provenance.get("commit", "unknown"))
        differing = differences({**self.defaults, **_flat(body["study"])}, _flat(self.study))
        if differing:
            raise CheckpointError(
                f"{manifest.parent}: holds a checkpoint of another configuration ({'; '.join(differing)}); "
                "allowed: the same one, another folder, or --fresh"
            )
        tensors = _read_data(manifest.with_suffix(DATA), body["data"])
        differing = differences(provenance, self.provenance, "now")
        if differing:
            self._warn(f"{manifest.with_suffix('')}: made elsewhere ({'; '.join(differing)}); the last bits may differ")
        return tensors, body["meta"]


def _flat(study: Mapping[str, Any]) -> dict[str, Any]:
    return {"experiment": study["experiment"], **study["configuration"]}


def _pieces(tensor: Tensor) -> Iterator[memoryview]:
    """The bytes of a contiguous CPU tensor, not copied."""
    data = memoryview(tensor.reshape(-1).view(torch.uint8).numpy())
    return (data[start : start + CHUNK] for start in range(0, len(data), CHUNK))


def _write_data(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write the tensors' bytes and return their description for the manifest. Raises OSError."""
    digest, index = hashlib.sha256(), []

    def pieces() -> Iterator[memoryview]:
        for name, tensor in tensors.items():
            dtype = str(tensor.dtype).removeprefix("torch.")
            if dtype not in DTYPES:
                raise ValueError(f"tensor {name}: type {dtype}; allowed: {', '.join(DTYPES)}")
            index.append({"name": name, "dtype": dtype, "shape": list(tensor.shape)})
            for piece in _pieces(tensor.detach().cpu().contiguous()):
                digest.update(piece)
                yield piece

    write_atomically(path, pieces())
    return {"sha256": digest.hexdigest(), "size": path.stat().st_size, "tensors": index}


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
            for piece in _pieces(tensors[entry["name"]]):
                if file.readinto(piece) != len(piece):
                    raise _Damaged(f"{path.name} ends early")
                digest.update(piece)
    if digest.hexdigest() != description["sha256"]:
        raise _Damaged(f"{path.name}: SHA-256 {digest.hexdigest()[:8]}… instead of {description['sha256'][:8]}…")
    return tensors


def _write_manifest(path: Path, body: Mapping[str, Any]) -> None:
    text = json.dumps(body).encode()
    write_atomically(path, b'{"sha256": "%s", "body": %s}\n' % (hashlib.sha256(text).hexdigest().encode(), text))


def _read_manifest(path: Path) -> dict[str, Any]:
    """Body of a manifest. _Damaged unless it is byte for byte what was written; raises OSError."""
    match = re.fullmatch(rb'\{"sha256": "([0-9a-f]{64})", "body": (.*)\}\n', path.read_bytes(), re.DOTALL)
    if not match or hashlib.sha256(match[2]).hexdigest().encode() != match[1]:
        raise _Damaged(f"{path.name} is not as it was written")
    return json.loads(match[2])
