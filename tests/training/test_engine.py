"""The engine against the plain learner: whatever is set for speed, the same bits, report by report and at the end."""

from __future__ import annotations

import pytest
import torch
from helpers import CPU, experiments, grid, make_learner
from training.history import History
from training.variants import VARIANTS

from common.agents.reports import RunKey
from common.config import StudyConfig
from common.experiment import Experiment
from common.training import engine as engines
from common.training.engine import Engine, bytes_per_run, runs_per_shard
from common.training.workers import worker_count

SMALL = {"agents": 12, "batch_size": 9, "episodes": 40, "eval_episodes": 2, "critic_hidden": (64, 32)}
TWO_RUNS = 2 * 12 * 3200 * 4  # bytes of their actors' weights
SETTINGS = [
    # Threads, and a constant of the engine.
    (1, "BLOCK_BYTES", 2**40),  # one block
    (1, "BLOCK_BYTES", 1),  # a block a run
    (3, "BLOCK_BYTES", TWO_RUNS),  # workers, several blocks
    (1, "NUMBERS_AT_ONCE", 4000),  # pieces
]
CASES = {
    "clipped, soft target, two updates": ("baseline", {"clip_norm": 0.5, "tau": 0.3, "updates_per_episode": 2}),
    "sequential": ("baseline", {"actor_update": "sequential"}),
    **VARIANTS,
}
KEPT = [0, 2, 3, 9, 10, 11, 12]


def make_engine(
    keys: list[RunKey], threads: int, experiment: str | Experiment = "baseline", **options: object
) -> Engine:
    own = experiments()[experiment] if isinstance(experiment, str) else experiment
    return Engine(own, own.config(**{**own.overrides, **options}), keys, CPU, threads=threads)


def lived(trainer: object) -> History:
    """What happens in six episodes, the last two with fewer runs."""
    history = History().train(trainer, 4)
    trainer.keep(KEPT)
    return history.train(trainer, 2)


@pytest.mark.parametrize("case", CASES)
def test_same_bits_as_the_plain_learner(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In several processes, block by block and piece by piece; the plain learner has one of each."""
    experiment, own = CASES[case]
    options, keys = {**SMALL, **own}, grid(3, 4)[5:19]
    expected = lived(make_learner(keys, None, experiment, **options))
    for threads, constant, value in SETTINGS:
        with monkeypatch.context() as patch:
            patch.setattr(engines, constant, value)
            engine = make_engine(keys, threads, experiment, **options)
            lived(engine).check(keys, expected)
            assert len(engine.spans) == worker_count(threads, len(KEPT), CPU)


@pytest.mark.parametrize("runs", [1, 3])
def test_runs_too_few_for_workers_have_the_same_bits_with_more_threads_each(runs: int) -> None:
    """Full size: a study resumed with few runs left gives each product more threads than before."""
    histories = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        histories.append(History().train(make_engine(grid(42)[:runs], threads, episodes=20, eval_episodes=1), 4))
    histories[0].check(grid(42)[:runs], histories[1])


@pytest.mark.parametrize("runs", [1, 2, 3, 7, 16, 30])
@pytest.mark.parametrize(("block_bytes", "largest"), [(1, 1), (TWO_RUNS, 2), (2**40, 30)])
def test_every_run_is_in_one_block(runs: int, block_bytes: int, largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "BLOCK_BYTES", block_bytes)
    engine = make_engine(grid(1, 2)[:runs], 4, **SMALL)
    assert len(engine.spans) == len(engine.blocks) == worker_count(4, runs, CPU)
    for parts in (engine.spans, [block for own in engine.blocks for block in own]):
        assert [run for part in parts for run in range(part.runs.start, part.runs.stop)] == list(range(runs))
        assert all(len(part.seed_of_run) == part.runs.stop - part.runs.start for part in parts)
    sizes = [len(block.seed_of_run) for own in engine.blocks for block in own]
    assert max(sizes) == min(largest, max(len(span.seed_of_run) for span in engine.spans))


def test_runs_of_a_shard_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what is free, at least one; as many as asked for where that is said."""
    baseline, config = experiments()["baseline"], StudyConfig()
    one = bytes_per_run(baseline, config)
    state = make_engine(grid(1)[:2], 1, episodes=2000).state()
    held = sum(x[0].numel() * x.element_size() for name, x in state.items() if not name.startswith("replay."))
    assert held < one < 400e6
    for free, runs in ((10 * one, 5), (one, 1), (10_000 * one, 48)):
        monkeypatch.setattr(engines, "free_bytes", lambda device, free=free: free)
        assert runs_per_shard(baseline, config, CPU) == runs
    assert runs_per_shard(baseline, StudyConfig(runs_per_shard=7), CPU) == 7
