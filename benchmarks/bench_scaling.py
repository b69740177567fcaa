"""How a study's cost grows with agents, batch, runs and seeds, on one core, and what merging a thousand parts costs.

    python benchmarks/bench_scaling.py [--episodes 8] [--parts 1000]

Each size has a forked process of its own. Writes benchmarks/results/scaling.csv (the measurements),
scaling_exponents.csv (slopes of straight lines through their logarithms, beside those expected) and merging.csv.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from common.agents.reports import RunKey  # noqa: E402
from common.config import GRID, StudyConfig  # noqa: E402
from common.environment.mec_env import STEPS  # noqa: E402
from common.experiment import Experiment  # noqa: E402
from common.recording import schema  # noqa: E402
from common.recording.store import FORMAT  # noqa: E402
from common.study.merge import merge  # noqa: E402
from common.study.parts import Part, configuration, study_keys  # noqa: E402
from common.study.runner import show_study  # noqa: E402
from common.training import memory, runtime  # noqa: E402
from common.training.engine import Engine  # noqa: E402

CPU = torch.device("cpu")
WARM_UP = 4  # episodes; the first does not train
PAIRS = [*itertools.product(GRID, GRID)]
SIZES = {"agents": (25, 50, 100, 200), "batch_size": (16, 32, 64, 128), "runs": (1, 4, 16), "seeds": (1, 4, 16)}
# What grows by which power of what: docs/scaling.md says why.
EXPECTED = {
    "seconds_per_episode": {"agents": 1, "batch_size": 1, "runs": 1, "seeds": 1},
    "checkpoint_bytes": {"agents": 1, "batch_size": 0, "runs": 1, "seeds": 1},
    "peak_bytes": {"agents": 1, "batch_size": 0, "runs": 1, "seeds": 1},
}
ROWS = {schema.STOPPING_EPISODES: 50, schema.EVALUATIONS: 41, schema.REWARDS: 2000} | dict.fromkeys(
    (schema.GRADIENT_NORMS, schema.SATURATION), 217
)  # of one run with the default options, by file


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=8, help="measured episodes of a size (default: 8)")
    parser.add_argument("--parts", type=int, default=1000, help="parts of one run to merge (default: 1000)")
    options = parser.parse_args()
    memory.keep_freed_memory()
    torch.set_num_threads(1)
    rows = []
    for varied, sizes in SIZES.items():
        for size in sizes:
            rows.append({"varied": varied, "size": size, **in_a_process(train, varied, size, options.episodes)})
            print(rows[-1], flush=True)
    _write("scaling", rows)
    _write("scaling_exponents", [_fitted(rows, quantity, varied) for quantity in EXPECTED for varied in SIZES])
    _write("merging", [in_a_process(merge_parts, options.parts)])


def in_a_process(measure: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What `measure` returns in a fork of this process."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=lambda: there.send(measure(*arguments)))
    process.start()
    there.close()
    found = here.recv()
    process.join()
    return found


def train(varied: str, size: int, episodes: int) -> dict[str, Any]:
    """Seconds and bytes of four runs of a seed, but for what is varied; the bytes are those of a full replay."""
    count, seeds = {"runs": (size, 1), "seeds": (1, size)}.get(varied, (4, 1))
    keys = [RunKey(seed, *pair) for seed in range(seeds) for pair in PAIRS[:count]]
    config = StudyConfig(**({varied: size} if varied in ("agents", "batch_size") else {}))
    before = memory.peak_resident_bytes()
    engine = Engine(Experiment("benchmark", ""), config, keys, CPU)
    taken = []
    for _ in range(WARM_UP + episodes):
        start = time.perf_counter()
        engine.train_episode()
        taken.append(time.perf_counter() - start)
    peak, used = memory.peak_resident_bytes() - before, _bytes(engine)
    engine.episode = config.replay_capacity // STEPS
    return {
        "agents": config.agents, "batch_size": config.batch_size, "all_runs": len(keys),
        "seconds_per_episode": f"{statistics.median(taken[WARM_UP:]):.4g}",
        "checkpoint_bytes": _bytes(engine),
        "peak_bytes": peak - used + _bytes(engine),
        **runtime.versions(),
    }  # fmt: skip


def _bytes(engine: Engine) -> int:
    return sum(x.numel() * x.element_size() for x in engine.state().values())


def _fitted(rows: list[dict[str, Any]], quantity: str, varied: str) -> dict[str, Any]:
    points = [(row["size"], float(row[quantity])) for row in rows if row["varied"] == varied]
    slope = np.polyfit(*np.log(np.array(points)).T, 1)[0]
    expected = EXPECTED[quantity][varied]
    return {"quantity": quantity, "grows_with": varied, "fitted": f"{slope:.2f}", "expected": expected}


def merge_parts(count: int) -> dict[str, Any]:
    """Merge so many parts of one run each, whose files have the size of real ones; then draw and summarise."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root, "scaled", "benchmark")
        written = _write_parts(folder, count)
        before, start = memory.peak_resident_bytes(), time.perf_counter()
        merge(folder)
        merged, merging = time.perf_counter(), memory.peak_resident_bytes()
        with open(os.devnull, "w") as nowhere:
            sys.stdout = nowhere
            show_study(folder)
        return {
            "parts": count, "megabytes": round(written / 1e6), "merge_seconds": f"{merged - start:.3g}",
            "merge_peak_mib": (merging - before) >> 20,
            "figures_and_summary_seconds": f"{time.perf_counter() - merged:.3g}",
            "whole_process_peak_mib": memory.peak_resident_bytes() >> 20,
        }  # fmt: skip


def _write_parts(folder: Path, count: int) -> int:
    """The parts of a study with one pair and `count` seeds; returns their bytes."""
    config = dataclasses.replace(StudyConfig(), seeds=tuple(range(count)), actor_lrs=(0.01,), critic_lrs=(0.01,))
    made_by = [{"commit": "a benchmark", **runtime.versions(), "device": "cpu"}]
    values = {"preset": "scaled", "experiment": "benchmark", "status": "completed", "total_episodes": "2000"}
    size = 0
    for number, key in enumerate(study_keys(config), start=1):
        part = Part(number, count)
        at = part.folder(folder)
        at.mkdir(parents=True)
        described = {"format": FORMAT, "experiment": "benchmark", "configuration": configuration(config, part)}
        texts = {"study.json": json.dumps({**described, "made_by": made_by})}
        for name, columns in schema.FILES.items():
            own = columns[len(schema.RUN_KEY) + (name in ROWS) :]
            cells = ",".join(values.get(column, "123.4567") for column in own)
            start = f"{key.seed},0.01,0.01,"
            lines = [f"{start}{row},{cells}" for row in range(ROWS[name])] if name in ROWS else [start + cells]
            if name == schema.REFERENCE_POLICIES:
                lines = [f"{key.seed},{policy},,-{5 + place},1,0,0" for place, policy in enumerate(schema.POLICIES)]
            texts[name] = "\n".join([",".join(columns), *lines, ""])
        for name, text in texts.items():
            size += (at / name).write_text(text)
    return size


def _write(name: str, rows: list[dict[str, Any]]) -> None:
    with (ROOT / "benchmarks" / "results" / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
