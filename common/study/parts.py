"""A study in N parts that need nothing of each other, so that each can train on a machine of its own."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.agents.reports import RunKey
from common.config import ConfigError, StudyConfig

PARTS = "parts"  # the folder, in the study's own, that holds one folder per part
RUN_FIELDS = ("seeds", "actor_lrs", "critic_lrs")  # options that say which runs a study has


@dataclass(frozen=True)
class Part:
    """The `number`-th of `count` parts, from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """A part from `K/N`; ConfigError unless 1 <= K <= N."""
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise ConfigError(f"--part {text}: allowed: K/N, the K-th of N parts, with K from 1 to N")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        """As `--part` takes it."""
        return f"{self.number}/{self.count}"

    def folder(self, study: Path) -> Path:
        """Where the part's results lie in the folder of its study."""
        return study / PARTS / f"{self.number}-of-{self.count}"

    def of(self, keys: Sequence[RunKey]) -> list[RunKey]:
        """The part's share of a study's runs, as `split` has it."""
        return split(keys, self.count)[self.number - 1]


def split(keys: Sequence[RunKey], count: int) -> list[list[RunKey]]:
    """Sorted runs in `count` parts: whole seeds, or stretches of one seed's pairs where parts outnumber the seeds.

    A part's runs follow each other, and are the same ones wherever this is computed. ConfigError if there are more
    parts than runs.
    """
    if count > len(keys):
        raise ConfigError(f"{count} parts of a study with {len(keys)} runs; allowed: up to as many parts as runs")
    by_seed = [list(runs) for _, runs in itertools.groupby(keys, key=lambda key: key.seed)]
    if count <= len(by_seed):
        return [list(itertools.chain(*seeds)) for seeds in _shares(by_seed, count)]
    counts = [len(parts) for parts in _shares(range(count), len(by_seed))]
    return [share for runs, own in zip(by_seed, counts, strict=True) for share in _shares(runs, own)]


def _shares(items: Sequence[Any], count: int) -> list[Sequence[Any]]:
    """Stretches of about the same length."""
    edges = [len(items) * place // count for place in range(count + 1)]
    return [items[a:b] for a, b in itertools.pairwise(edges)]


def study_keys(config: StudyConfig) -> list[RunKey]:
    """All runs of a study, sorted."""
    return sorted(RunKey(*key) for key in itertools.product(config.seeds, config.actor_lrs, config.critic_lrs))


def configuration(config: StudyConfig, part: Part | None) -> dict[str, Any]:
    """What results must have in common to lie in one folder: for a part also the study's runs, and which part it is."""
    fields = config.result_fields()
    if part:
        fields |= {name: sorted(getattr(config, name)) for name in RUN_FIELDS} | {"part": str(part)}
    return fields
