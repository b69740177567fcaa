"""How fast the engine trains, against this machine's own matrix-product rate and against the published algorithm.

    python benchmarks/bench_training.py [--device auto|cpu|cuda] [--runs 1 4 16 64 160] [--repeats 10]

Prints one table and writes benchmarks/results/<device>.csv. Each case runs in a process of its own, so that its
peak memory is its own. benchmarks/README.md tells how to read it.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from common.agents import update  # noqa: E402
from common.agents.bank import initial_tensors  # noqa: E402
from common.agents.inputs import epsilon  # noqa: E402
from common.agents.networks import Actor, Critic  # noqa: E402
from common.agents.reports import RunKey  # noqa: E402
from common.config import GRID, ConfigError, StudyConfig  # noqa: E402
from common.environment.mec_env import ACTION_SIZE, STATE_SIZE, STEPS  # noqa: E402
from common.experiment import Experiment  # noqa: E402
from common.recording.tracking import Tracker  # noqa: E402
from common.training import memory, runtime  # noqa: E402
from common.training.engine import Engine  # noqa: E402

BASELINE = Experiment("baseline", "")
WARM_UP = 12


class CaseFailed(Exception):
    """A case's process ended without figures."""


PHASES = ("draws", "rollout", "replay", "critic", "actor", "graph", "tracking")
COLUMNS = (
    "case", "runs", "seconds_per_episode", "fastest_process", "slowest_process", "run_episodes_per_second",
    "ratio_to_naive", "ratio_to_batched_loops",
    "counted_gflop", "executed_gflop", "share_of_peak_counted", "share_of_peak_executed", "peak_memory_gib",
    *(f"{phase}_ms" for phase in PHASES), "peak_gflop_per_second", "device", "threads", "torch_version",
)  # fmt: skip


def counted_flop(config: StudyConfig, episode: int, scored_rows: int | None = None) -> float:
    """Useful floating-point operations of one run's episode, from the shapes.

    The joint part of the critic's first layer once per sample; one row per agent where the maximum over
    agents is taken; gradients only through the stored rows and the arg-max rows. Where `scored_rows` is
    given it replaces the count of rows scored for a maximum (only proposers need it).
    """
    agents, batch, slots = config.agents, config.batch_size, config.channels
    first, second = config.critic_hidden
    widths = (STATE_SIZE, *config.actor_hidden, ACTION_SIZE)
    personal = STATE_SIZE + ACTION_SIZE

    def actors(samples: int) -> int:
        return 2 * samples * agents * sum(a * b for a, b in itertools.pairwise(widths))

    def joint(samples: float) -> float:
        return 2 * samples * agents * personal * first

    def rows(count: float) -> float:
        return 2 * count * (personal * first + first * second + second)

    ranked = STEPS * (1.0 - epsilon(episode))  # steps in which the master ranks
    scored = scored_rows if scored_rows is not None else agents * (2 * batch + STEPS + ranked)
    rollout = actors(STEPS) + joint(ranked)
    storing = actors(STEPS) + 2 * joint(STEPS) + rows(STEPS * slots)
    stored = batch * slots
    critic = actors(batch) + joint(batch) + 2 * (joint(batch) + rows(stored)) + 2 * stored * first * second
    slope = 2 * batch * (agents * ACTION_SIZE + personal) * first
    actor = 3 * actors(batch) + joint(batch) + 2 * rows(batch) + slope
    return rollout + storing + critic + actor + rows(scored)


def seconds(function: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Median wall seconds of one call."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def matrix_peak(device: torch.device) -> float:
    """Best float32 matrix-product rate of a few shapes [FLOP/s], with the same threads."""
    size = 8192 if device.type == "cuda" else 1024
    best = 0.0
    for m, k, n in ((size, size, size), (1024, 512, 128), (3200, 512, 128)):
        a, b = torch.randn(m, k, device=device), torch.randn(k, n, device=device)
        out = torch.empty(m, n, device=device)
        seconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), 5, device)
        best = max(best, 2 * m * k * n / seconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), 30, device))
    return best


def grid_keys(runs: int) -> list[RunKey]:
    """The first `runs` runs of the grid over as many seeds as it takes."""
    grid = list(itertools.product(GRID, GRID))
    return sorted(RunKey(42 + i // len(grid), *grid[i % len(grid)]) for i in range(runs))


def engine_case(runs: int, mode: str, device: torch.device, repeats: int, cuda_graph: bool) -> dict[str, float]:
    """Steady-state figures of the engine with `runs` runs."""
    config = StudyConfig(actor_update=mode, cuda_graph=cuda_graph)
    engine = Engine(BASELINE, config, grid_keys(runs), device, threads=torch.get_num_threads())
    for name in engine.replay.TENSORS:  # touch every page, so that memory is that of a full replay
        getattr(engine.replay, name).zero_()
    for _ in range(WARM_UP if mode == "joint" else 2):
        engine.train_episode()
    tracker = Tracker(engine.keys, config.agents, engine.env, engine.layers, device, early_stop=True)

    def episode() -> None:
        logged = (engine.episode + 1) % config.log_every == 0
        report = engine.train_episode(details=logged)
        with engine.timer.phase("tracking"):
            tracker.observe(report)

    engine.timer.seconds.clear()
    taken = seconds(episode, repeats, device)
    spent = dict(engine.timer.seconds)
    memory_used = memory.peak_bytes(device) + engine.workers.peak_bytes
    counted = runs * counted_flop(config, engine.episode)
    executed = counted
    if not engine.dense and mode == "joint":
        executed = runs * counted_flop(config, engine.episode, scored_rows(engine, 3) / runs)
    return {
        "runs": runs,
        "seconds_per_episode": taken,
        "run_episodes_per_second": runs / taken,
        "counted_gflop": counted / 1e9 if mode == "joint" else float("nan"),
        "executed_gflop": executed / 1e9 if mode == "joint" else float("nan"),
        "peak_memory_gib": memory_used / 2**30,
        **{f"{phase}_ms": 1e3 * spent.get(phase, 0.0) / repeats for phase in PHASES},
    }


def scored_rows(engine: Engine, episodes: int) -> float:
    """Rows of all runs that are scored for a maximum or a ranking, per episode, over the next `episodes`."""
    counts = []
    original = update.row_values

    def counting(*arguments: object) -> torch.Tensor:
        counts.append(int(arguments[4].sum()))  # the wanted rows
        return original(*arguments)

    update.row_values = counting
    engine.workers.restart(1)  # in this process, where the rows are counted
    for _ in range(episodes):
        engine.train_episode()
    return sum(counts) / episodes


def published_case(kind: str) -> dict[str, float]:
    """Seconds per episode of the published algorithm, float32, one run at full size.

    naive: the reference learner of the tests, plain loops over agents, samples and rows; loops: the same with whole
    batches in one call.
    """
    from published_style import NaiveRun, PublishedStyleRun

    config, key = StudyConfig(actor_update="sequential"), RunKey(42, 1e-3, 1e-3)
    actors = initial_tensors(lambda: Actor(config), "actor", key.seed, config.agents)
    critic = initial_tensors(lambda: Critic(config), "critic", key.seed, 1)
    start = [{name: x[i] for name, x in actors.items()} for i in range(config.agents)]
    run = (NaiveRun if kind == "naive" else PublishedStyleRun)(
        BASELINE, config, key, (start, {name: x[0] for name, x in critic.items()}), torch.float32
    )
    episodes = itertools.count(1)
    for _ in range(1 if kind == "naive" else 2):
        run.episode(next(episodes))
    taken = seconds(lambda: run.episode(next(episodes)), 1 if kind == "naive" else 5, torch.device("cpu"))
    peak = memory.peak_bytes(torch.device("cpu")) / 2**30
    return {"runs": 1, "seconds_per_episode": taken, "run_episodes_per_second": 1 / taken, "peak_memory_gib": peak}


def run_case(case: str, options: argparse.Namespace) -> dict[str, float]:
    """One case in this process."""
    device = runtime.choose_device(options.device)
    memory.keep_freed_memory()
    threads = runtime.set_threads(options.threads)
    kind, _, runs = case.partition(":")
    if kind == "peak":
        return {"peak": matrix_peak(device), "threads": threads, "device": runtime.device_name(device)}
    if kind in ("naive", "loops"):
        return published_case(kind)
    repeats = options.repeats if kind == "joint" else 3
    return engine_case(int(runs), kind, device, repeats, not options.no_cuda_graph)


def in_own_process(case: str) -> dict[str, float]:
    """The case's figures, measured in a fresh process."""
    command = [sys.executable, __file__, "--case", case, *sys.argv[1:]]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["killed, out of memory perhaps"])[-1]
        raise CaseFailed(f"case {case}: exit code {done.returncode}, {reason}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Run all cases and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 means all (default: 0)")
    parser.add_argument("--runs", type=int, nargs="+", default=[1, 4, 16, 64, 160], help="runs of the joint cases")
    parser.add_argument("--repeats", type=int, default=10, help="episodes measured; the median counts (default: 10)")
    parser.add_argument("--processes", type=int, default=3, help="processes per case; the median counts (default: 3)")
    parser.add_argument("--no-cuda-graph", action="store_true", help="launch CUDA kernels one by one")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(run_case(options.case, options)))
        return
    try:
        runtime.choose_device(options.device)
    except ConfigError as problem:
        parser.error(str(problem))
    peak = in_own_process("peak")
    rows = [{"case": kind, **in_own_process(kind)} for kind in ("naive", "loops")]
    naive, loops = (row["run_episodes_per_second"] for row in rows)
    for case in (*(f"joint:{runs}" for runs in options.runs), "sequential:16"):
        try:
            found = [in_own_process(case) for _ in range(options.processes)]
        except CaseFailed as problem:
            print(problem, file=sys.stderr)
            continue
        found.sort(key=lambda figures: figures["seconds_per_episode"])
        figures = found[len(found) // 2]
        figures["fastest_process"] = found[0]["seconds_per_episode"]
        figures["slowest_process"] = found[-1]["seconds_per_episode"]
        for kind in ("counted", "executed"):
            rate = figures[f"{kind}_gflop"] * 1e9 / figures["seconds_per_episode"]
            figures[f"share_of_peak_{kind}"] = rate / peak["peak"]
        rows.append({"case": case.partition(":")[0], **figures})
    for row in rows:
        row["ratio_to_naive"] = row["run_episodes_per_second"] / naive
        row["ratio_to_batched_loops"] = row["run_episodes_per_second"] / loops
        row |= {"peak_gflop_per_second": peak["peak"] / 1e9, "device": peak["device"], "threads": peak["threads"]}
        row["torch_version"] = torch.__version__
    report(rows)


def report(rows: list[dict]) -> None:
    """Print the table and write it as CSV."""
    print(
        f"{rows[0]['device']}, {rows[0]['threads']} threads, matrix product {rows[0]['peak_gflop_per_second']:.0f} "
        "GFLOP/s\ncase        runs  s/episode  (fastest … slowest)  run-ep/s  x naive  x loops  of peak: counted  "
        "executed  memory GiB"
    )
    for row in rows:
        ends = [row[name] for name in ("fastest_process", "slowest_process") if name in row]
        spread = "({:.4f} … {:.4f})".format(*ends) if ends else ""
        counted, executed = (
            f"{row.get(f'share_of_peak_{kind}', float('nan')):.0%}" for kind in ("counted", "executed")
        )
        print(
            f"{row['case']:11s} {row['runs']:4d}  {row['seconds_per_episode']:9.4f}  {spread:>21s}"
            f"{row['run_episodes_per_second']:8.2f}  {row['ratio_to_naive']:7.1f}  "
            f"{row['ratio_to_batched_loops']:7.1f}  {counted:>16s}  {executed:>8s}  "
            f"{row['peak_memory_gib']:10.2f}"
        )
    print("ms per episode by phase (joint):")
    for row in rows:
        if row["case"] == "joint":
            phases = ", ".join(f"{p} {row[f'{p}_ms']:.1f}" for p in PHASES if row[f"{p}_ms"])
            print(f"  {row['runs']:4d} runs: {phases}")
    path = Path(__file__).with_name("results") / f"{rows[0]['device'].replace(' ', '_')}.csv"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
