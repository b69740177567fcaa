"""What each constant of common/training/tuning.py is worth: seconds per episode of 16 runs with other values.

    python benchmarks/bench_constants.py [--processes 3]

Values of one constant take turns, each in a process of its own; prints a table and writes
benchmarks/results/constants_cpu.csv.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
WARM_UP, REPEATS = 8, 12
# Constant -> experiment that it matters to, and values: the one in use first, then without it, then others.
CASES = {
    "NUMBERS_AT_ONCE": ("large_actor", (2**18, 2**30)),
    "BLOCK_BYTES": ("baseline", (16 * 2**20, 2**40, 2**20)),
}
COLUMNS = ("constant", "value", "experiment", "seconds_per_episode", "ratio_to_the_one_in_use")


def case(constant: str, value: int) -> float:
    """Median seconds of an episode of 16 runs with the constant set to `value`, in this process."""
    import torch
    from helpers import experiments

    from common.agents.reports import RunKey
    from common.config import GRID
    from common.training import engine, memory, runtime

    memory.keep_freed_memory()
    threads = runtime.set_threads(0)
    setattr(engine, constant, value)
    experiment = experiments()[CASES[constant][0]]
    keys = [RunKey(42, actor, critic) for actor in GRID for critic in GRID]
    config = experiment.config(**experiment.overrides)
    runs = engine.Engine(experiment, config, keys, torch.device("cpu"), threads=threads)
    taken = []
    for _ in range(WARM_UP + REPEATS):
        start = time.perf_counter()
        runs.train_episode()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[WARM_UP:])


def main() -> None:
    """Measure every value and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=3, help="processes per value; the median counts (default: 3)")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(case(options.case[0], int(options.case[1])))
        return
    rows = []
    for constant, (experiment, values) in CASES.items():
        found: dict[int, list[float]] = {value: [] for value in values}
        for _ in range(options.processes):
            for value in values:
                command = [sys.executable, __file__, "--case", constant, str(value)]
                found[value].append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        medians = {value: statistics.median(taken) for value, taken in found.items()}
        for value, seconds in medians.items():
            rows.append((constant, value, experiment, f"{seconds:.4g}", f"{seconds / medians[values[0]]:.3f}"))
            print(*rows[-1], sep="  ", flush=True)
    path = Path(__file__).with_name("results") / "constants_cpu.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
