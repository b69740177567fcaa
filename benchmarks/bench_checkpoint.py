"""What a checkpoint of a full-size shard costs: seconds, bytes, and its share of training time at the default interval.

    python benchmarks/bench_checkpoint.py [--runs 16] [--folder DIR]

Writes benchmarks/results/checkpoint_<runs>_runs.csv. The replay is full, as after 1000 episodes.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import torch  # noqa: E402
from bench_training import grid_keys  # noqa: E402

from common.config import StudyConfig  # noqa: E402
from common.experiment import Experiment  # noqa: E402
from common.study.checkpoint import Checkpoints  # noqa: E402
from common.study.shard import Shard  # noqa: E402


def main() -> None:
    """Save three times and load once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=16, help="runs of the shard (default: 16)")
    parser.add_argument("--folder", help="where to write; the disk matters (default: the system's temporary folder)")
    options = parser.parse_args()
    config = StudyConfig()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        study = {"experiment": "benchmark", "configuration": {}}
        checkpoints = Checkpoints(Path(folder) / "checkpoint", study, {}, warn=print)
        shard = Shard(
            Experiment("benchmark", ""), config, grid_keys(options.runs), torch.device("cpu"),
            SimpleNamespace(checkpoints=checkpoints), {},
        )  # fmt: skip
        for _ in range(3):
            shard.tracker.observe(shard.engine.train_episode())
        shard.engine.episode = config.replay_capacity // 10  # all of the replay counts as filled
        saves = []
        for _ in range(3):
            start = time.perf_counter()
            shard.save()
            saves.append(time.perf_counter() - start)
        size = sum(path.stat().st_size for path in (Path(folder) / "checkpoint").iterdir())
        start = time.perf_counter()
        checkpoints.load()
        load = time.perf_counter() - start
    row = {
        "runs": options.runs,
        "save_seconds": f"{statistics.median(saves):.3g}",
        "load_and_verify_seconds": f"{load:.3g}",
        "gigabytes_of_two_generations": f"{size / 1e9:.3g}",
        "share_of_default_interval": f"{statistics.median(saves) / (60 * config.checkpoint_minutes):.3g}",
    }
    for name, value in row.items():
        print(f"{name}: {value}")
    path = ROOT / "benchmarks" / "results" / f"checkpoint_{options.runs}_runs.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
