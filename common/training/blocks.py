"""The runs of a learner in blocks, each computed in one piece."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from common.agents.reports import RunKey
from common.environment.mec_env import World


@dataclass(frozen=True)
class Block:
    """Consecutive runs: which, their worlds (r, N), and which seed each belongs to (r,).

    groups: (seed, runs) for every seed in it, runs counted within the block.
    """

    runs: slice
    world: World
    seed_of_run: Tensor
    groups: list[tuple[int, slice]]


def split_runs(keys: list[RunKey], count: int, worlds: World, within: slice | None = None) -> list[Block]:
    """The runs `within` (default all), ordered by seed, in `count` blocks of about the same size.

    worlds (S, N) in the order of the seeds of all `keys`.
    """
    seeds = list(dict.fromkeys(key.seed for key in keys))
    places = [seeds.index(key.seed) for key in keys]
    first, last = (within.start, within.stop) if within else (0, len(keys))
    edges = [first + (last - first) * i // count for i in range(count + 1)]
    return [_block(slice(a, b), places[a:b], worlds) for a, b in itertools.pairwise(edges)]


def _block(runs: slice, places: list[int], worlds: World) -> Block:
    starts = [places.index(place) for place in dict.fromkeys(places)]
    groups = [(places[a], slice(a, b)) for a, b in itertools.pairwise([*starts, len(places)])]
    seed_of_run = torch.tensor(places, device=worlds.power.device)
    world = World(**{name: value[seed_of_run] for name, value in vars(worlds).items()})
    return Block(runs, world, seed_of_run, groups)
