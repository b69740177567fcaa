"""What SaturationMonitor costs: training of SB3's TD3 with its default networks, with and without, taking turns.

    python benchmarks/bench_monitor.py [--limit]

Two models with the same seed train the same number of steps in turns (who goes first alternates), one of them with
SaturationCallback(every=50). Both make the same numbers, so the times differ by the monitor alone. Processor time is
what counts where the machine has other work; wall time is written, too. Writes results/monitor.csv, a row per turn.
With --limit the second one's steps are limited instead, and the file is results/limit_steps.csv.
"""

import argparse
import csv
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")  # before torch loads: threads that wait cost processor time

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import torch  # noqa: E402
from stable_baselines3 import TD3  # noqa: E402

from common.monitor import limit_steps  # noqa: E402
from common.monitor.sb3 import SaturationCallback  # noqa: E402

COLUMNS = ("turn", "plain_cpu_seconds", "with_cpu_seconds", "cpu_ratio", "plain_seconds", "with_seconds", "ratio",
           "load_average")  # fmt: skip


def timed(model: TD3, steps: int, callback: SaturationCallback | None, seed: int) -> tuple[float, float]:
    """Processor and wall seconds of so many training steps, from random numbers that both models share."""
    model.set_random_seed(seed)
    wall, processor = time.perf_counter(), time.process_time()
    model.learn(steps, callback=callback, reset_num_timesteps=False)
    return time.process_time() - processor, time.perf_counter() - wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=60, help="of each of the two (default: 60)")
    parser.add_argument("--steps", type=int, default=200, help="environment steps per turn (default: 200)")
    parser.add_argument("--every", type=int, default=50, help="measures one actor update in so many (default: 50)")
    parser.add_argument("--limit", action="store_true", help="measure limit_steps of actor and critic instead")
    parser.add_argument("--output", type=Path, help="default: results/monitor.csv, or results/limit_steps.csv")
    options = parser.parse_args()
    if min(options.turns, options.steps, options.every) < 1:
        parser.error("--turns, --steps and --every are whole numbers from 1 on")
    torch.set_num_threads(1)
    output = options.output or HERE / "results" / ("limit_steps.csv" if options.limit else "monitor.csv")
    models = {name: TD3("MlpPolicy", "Pendulum-v1", seed=0, device="cpu") for name in ("plain", "with")}
    callbacks = {"plain": None, "with": None if options.limit else SaturationCallback(options.every)}
    if options.limit:
        limit_steps(models["with"].actor.optimizer, 0.001)
        limit_steps(models["with"].critic.optimizer, 0.01)
    for name, model in models.items():  # collect what learning starts from, load what is loaded late
        timed(model, 100 + options.steps, callbacks[name], seed=0)
    rows = []
    for turn in range(options.turns):
        order = sorted(models, reverse=turn % 2 == 0)
        taken = {name: timed(models[name], options.steps, callbacks[name], seed=1 + turn) for name in order}
        (plain_cpu, plain), (with_cpu, with_it) = taken["plain"], taken["with"]
        values = (plain_cpu, with_cpu, with_cpu / plain_cpu, plain, with_it, with_it / plain, os.getloadavg()[0])
        rows.append(dict(zip(COLUMNS, (turn, *(round(value, 4) for value in values)), strict=True)))
    with output.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    for name, label in (("cpu_ratio", "processor time"), ("ratio", "wall time")):
        ratios = sorted(row[name] for row in rows)
        low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
        both = [sum(row[f"{kind}_{name.replace('ratio', 'seconds')}"] for row in rows) for kind in ("with", "plain")]
        print(
            f"{label} with over without: {both[0] / both[1]:.3f} in all, {statistics.median(ratios):.3f} in the median "
            f"turn (quartiles {low:.3f}, {high:.3f})"
        )
    if not options.limit:
        weights = [model.policy.state_dict().values() for model in models.values()]
        same = all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
        measured = len(callbacks["with"].monitor.history)
        print(f"{measured} measured updates; weights {'have the same bits' if same else 'DIFFER'}")
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
