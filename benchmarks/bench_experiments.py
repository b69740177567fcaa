"""What each experiment costs: seconds per episode of 16 runs, beside the baseline's, in one process.

    python benchmarks/bench_experiments.py [NAME ...]

Episodes 7 to 30 of the experiment and of the baseline take turns, so that both see the same machine; medians. Writes
benchmarks/results/experiments_<device>.csv, which the experiments' pages quote (paper/pages.py).
"""

from __future__ import annotations

import argparse
import csv
import itertools
import statistics
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from helpers import experiments  # noqa: E402

from common.agents.reports import RunKey  # noqa: E402
from common.config import GRID  # noqa: E402
from common.experiment import Experiment  # noqa: E402
from common.training import memory, runtime  # noqa: E402
from common.training.engine import Engine  # noqa: E402

COLUMNS = ("experiment", "seconds_per_episode", "baseline_seconds_per_episode", "ratio", "runs", "device", "threads")
WARM_UP, EPISODES = 6, 24


def warmed_up(which: Experiment, device: torch.device) -> Engine:
    """An engine of 16 runs after some episodes."""
    keys = [RunKey(42, *pair) for pair in itertools.product(GRID, GRID)]
    engine = Engine(which, which.config(**which.overrides), keys, device, threads=torch.get_num_threads())
    for _ in range(WARM_UP):
        engine.train_episode()
    return engine


def timed(engine: Engine, device: torch.device) -> float:
    """Seconds of one episode."""
    start = time.perf_counter()
    engine.train_episode()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Measure the named experiments, or all, and write the table."""
    found = experiments()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"experiments (default: all): {', '.join(found)}")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    said = parser.parse_args()
    if unknown := set(said.names) - set(found):
        parser.error(f"{', '.join(sorted(unknown))}: no such experiment; allowed: {', '.join(found)}")
    device = runtime.choose_device(said.device)
    memory.keep_freed_memory()
    threads = runtime.set_threads(0)
    path = Path(__file__).with_name("results") / f"experiments_{runtime.device_name(device).replace(' ', '_')}.csv"
    rows = {row["experiment"]: row for row in csv.DictReader(path.open())} if path.exists() else {}
    for name in said.names or found:
        engine, reference = warmed_up(found[name], device), warmed_up(found["baseline"], device)
        own, base = [], []
        for _ in range(EPISODES // 2):
            for which, times in ((engine, own), (reference, base), (reference, base), (engine, own)):
                times.append(timed(which, device))
        own, base = statistics.median(own), statistics.median(base)
        values = (name, f"{own:.4f}", f"{base:.4f}", f"{own / base:.2f}", 16, runtime.device_name(device), threads)
        rows[name] = dict(zip(COLUMNS, values, strict=True))
        print(f"{name:20s} {own:.3f} s per episode of 16 runs, {own / base:.2f} × the baseline's {base:.3f} s")
        del engine, reference
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[name] for name in sorted(rows))
    print(f"written: {path}")


if __name__ == "__main__":
    main()
