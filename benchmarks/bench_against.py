"""Speed of this checkout against another one (an earlier commit, say), by their own command lines, taking turns.

    git worktree add ../before COMMIT
    python benchmarks/bench_against.py ../before [--experiments baseline fullnorm large_actor] [--episodes 200]

Both train the same 16 runs; what counts is the rate that a study prints at its end. Prints the ratio of the medians and
writes benchmarks/results/against_cpu.csv.
"""

from __future__ import annotations

import argparse
import csv
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("experiment", "other_commit", "other_seconds_per_episode", "seconds_per_episode", "ratio")


def seconds_per_episode(checkout: Path, experiment: str, episodes: int) -> float:
    """Of 16 runs, from the line that a study prints at its end."""
    script = checkout / "experiments" / experiment / f"run_{experiment}_experiment.py"
    with tempfile.TemporaryDirectory() as folder:
        options = ["--episodes", str(episodes), "--eval-every", str(episodes), "--results-dir", folder]
        done = subprocess.run([sys.executable, script, *options], capture_output=True, text=True, check=True)
    return 16 / float(re.search(r"([\d.]+) run-episodes per second", done.stdout)[1])


def main() -> None:
    """Measure in turns and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="folder of the other checkout")
    parser.add_argument("--experiments", nargs="+", default=["baseline", "fullnorm", "large_actor"])
    parser.add_argument("--episodes", type=int, default=200, help="of each study, where all runs train on (default: 200)")
    parser.add_argument("--turns", type=int, default=3, help="studies of each; the median counts (default: 3)")
    options = parser.parse_args()
    asked = ["git", "-C", options.other, "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    rows = []
    for experiment in options.experiments:
        taken: dict[Path, list[float]] = {options.other: [], ROOT: []}
        for _ in range(options.turns):
            for checkout in taken:
                taken[checkout].append(seconds_per_episode(checkout, experiment, options.episodes))
        other, mine = (statistics.median(x) for x in taken.values())
        rows.append((experiment, commit, f"{other:.4g}", f"{mine:.4g}", f"{mine / other:.3f}"))
        print(*rows[-1], sep="  ", flush=True)
    path = Path(__file__).with_name("results") / "against_cpu.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
