"""The saturation monitor and limit_steps on other people's agents: Stable-Baselines3's DDPG, TD3 and SAC.

    python experiments/monitor/run_monitor_study.py --processes 2

One run per algorithm, task, learning rate, seed and arm; `runs.csv` in the results folder has a row for each that is
done, and whoever starts the script again goes on with the others. The table and the figure are written at the end, and
from whatever is there with --summary. Arms differ in one thing each: which optimisers' steps are limited, and whether
observations are normalised (SB3's VecNormalize), which is tried where observations are not of one size.
"""

import argparse
import csv
import io
import itertools
import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from common.config import OneLineParser, leave
from common.recording.store import write_atomically
from common.study.interruption import EXIT_INTERRUPTED
from common.study.lock import FolderLock, LockError
from common.study.runner import OWN_RESULTS, RECORDED_MARK

RESULTS = ROOT / "results" / "monitor"
ALGORITHMS = ("DDPG", "TD3", "SAC")
RATES = (1e-3, 1e-2, 1e-1)
LIMITS = {"actor": 0.001, "critic": 0.01, "alpha": 0.01}  # alpha: SAC's entropy coefficient has an optimiser, too
EVALUATION_EPISODES = 20
EVALUATION_SEED = 10_000  # far from the training seeds
HIDDEN = [64, 64]
MEASURED_SHARE = 50  # one actor update in so many


@dataclass(frozen=True)
class Task:
    steps: int
    seeds: int
    normalise: bool  # whether the arms with normalised observations are run
    noise: float = 0.0  # sd of Ornstein–Uhlenbeck noise for DDPG and TD3, without which a sparse reward is never seen


TASKS = {
    "Pendulum-v1": Task(10_000, 10, normalise=False),
    "MountainCarContinuous-v0": Task(10_000, 10, normalise=True, noise=0.5),
    "HalfCheetah-v5": Task(30_000, 5, normalise=True),
}


@dataclass(frozen=True)
class Arm:
    limited: tuple[str, ...]
    normalised: bool = False
    critic: float = LIMITS["critic"]


ARMS = {
    "plain": Arm(()),
    "limit actor": Arm(("actor",)),
    "limit critic": Arm(("critic",)),
    "limit both": Arm(("actor", "critic")),
    "limit both, critic 0.001": Arm(("actor", "critic"), critic=0.001),
    "limit both and alpha": Arm(("actor", "critic", "alpha")),
    "normalised": Arm((), normalised=True),
    "normalised, limit both": Arm(("actor", "critic"), normalised=True),
}

KEY = ("algorithm", "task", "learning_rate", "seed", "arm")
DIAGNOSED = ("saturation_ratio", "stuck_share", "bang_bang_share", "tanh_derivative", "zero_derivative_share",
             "z_abs_median", "z_abs_max", "dq_da_abs_mean", "dq_da_sign_coherence")  # fmt: skip
COLUMNS = (
    *KEY, "steps", "return_untrained", "return_mean", "return_sd", "actor_updates", "verdict_middle", "verdict_end",
    *(f"{name}_{when}" for when in ("middle", "end") for name in DIAGNOSED),
    "dead_actor_units", "action_sd", "entropy_coefficient", "train_seconds", "stable_baselines3", "gymnasium", "torch",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    algorithm: str
    task: str
    learning_rate: float
    seed: int
    arm: str
    steps: int

    @property
    def key(self) -> tuple[str, ...]:
        return (self.algorithm, self.task, f"{self.learning_rate:g}", str(self.seed), self.arm)


def jobs(options: argparse.Namespace) -> Iterator[Job]:
    """All runs, seed by seed, so that what is there after a while is a study with fewer seeds."""
    most = max(TASKS[task].seeds for task in options.tasks) if options.seeds is None else options.seeds
    for seed in range(most):
        for task, algorithm, rate, arm in itertools.product(
            options.tasks, options.algorithms, options.learning_rates, options.arms
        ):
            enough = options.seeds is None and seed >= TASKS[task].seeds
            pointless = ARMS[arm].normalised and not TASKS[task].normalise
            impossible = "alpha" in ARMS[arm].limited and algorithm != "SAC"
            pointless |= ARMS[arm].critic < LIMITS["critic"] and algorithm != "DDPG"  # the others have two critics
            if not (enough or pointless or impossible):
                yield Job(algorithm, task, rate, seed, arm, options.steps or TASKS[task].steps)


def run(job: Job) -> dict[str, Any]:
    """Train and evaluate one agent; returns its row."""
    import gymnasium
    import numpy as np
    import stable_baselines3
    import torch
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
    from stable_baselines3.common.vec_env import VecNormalize

    from common.monitor import limit_steps
    from common.monitor.diagnosis import diagnose
    from common.monitor.sb3 import SaturationCallback

    torch.set_num_threads(1)
    task, arm = TASKS[job.task], ARMS[job.arm]
    training, evaluation = (make_vec_env(job.task, seed=seed) for seed in (job.seed, EVALUATION_SEED))
    if arm.normalised:
        training = VecNormalize(training, norm_reward=False)
        evaluation = VecNormalize(evaluation, training=False, norm_reward=False)
        evaluation.obs_rms = training.obs_rms  # the same object: the training's statistics
    own = {}
    if task.noise and job.algorithm != "SAC":
        size = training.action_space.shape[0]
        own["action_noise"] = OrnsteinUhlenbeckActionNoise(np.zeros(size), np.full(size, task.noise))
    model = getattr(stable_baselines3, job.algorithm)(
        "MlpPolicy", training, learning_rate=job.learning_rate, seed=job.seed, device="cpu",
        policy_kwargs={"net_arch": HIDDEN}, **own,
    )  # fmt: skip
    for side in arm.limited:
        optimizer = model.ent_coef_optimizer if side == "alpha" else getattr(model, side).optimizer
        limit_steps(optimizer, arm.critic if side == "critic" else LIMITS[side])
    untrained, _ = evaluate(model, evaluation)
    callback, started = SaturationCallback(every=MEASURED_SHARE), time.perf_counter()
    returns = sd = dead = action_sd = math.nan  # of a run whose weights did not stay finite
    try:
        model.learn(job.steps, callback=callback)
    except ValueError:  # SAC draws from a distribution, which takes no NaN
        if finite(model):
            raise
        callback.monitor.detach()  # training did not get to its end, where the callback does it
    seconds = time.perf_counter() - started
    if finite(model):
        returns, sd = evaluate(model, evaluation)
        dead, action_sd = outputs(model)
    history = callback.monitor.history
    middle = history[: (len(history) + 1) // 2]
    return {
        **dict(zip(KEY, job.key, strict=True)),
        "steps": job.steps,
        "return_untrained": untrained,
        "return_mean": returns,
        "return_sd": sd,
        "actor_updates": callback.monitor.updates,
        "verdict_middle": diagnose(middle).verdict,
        "verdict_end": diagnose(history).verdict,
        **{
            f"{name}_{when}": rows[-1][name] if rows else ""
            for when, rows in (("middle", middle), ("end", history))
            for name in DIAGNOSED
        },
        "dead_actor_units": dead,
        "action_sd": action_sd,
        "entropy_coefficient": model.log_ent_coef.exp().item() if job.algorithm == "SAC" else "",
        "train_seconds": round(seconds, 1),
        "stable_baselines3": stable_baselines3.__version__,
        "gymnasium": gymnasium.__version__,
        "torch": torch.__version__,
    }


def finite(model: Any) -> bool:
    """Whether all weights of the actor are finite numbers."""
    return all(bool(weights.isfinite().all()) for weights in model.actor.parameters())


def evaluate(model: Any, env: Any) -> tuple[float, float]:
    """Mean and sd of the returns of the deterministic policy, the same first states for every run."""
    from stable_baselines3.common.evaluation import evaluate_policy

    env.seed(EVALUATION_SEED)
    mean, sd = evaluate_policy(model, env, EVALUATION_EPISODES, warn=False)
    return float(mean), float(sd)


def outputs(model: Any) -> tuple[float, float]:
    """Over states of the replay: share of the actor's last hidden units that are 0 in all of them, and the actions' sd.

    With every unit dead the actor does the same whatever the state, and no slope of the tanh would help.
    """
    import torch

    last = [part for part in model.actor.modules() if isinstance(part, torch.nn.ReLU)][-1]
    seen: list[torch.Tensor] = []
    handle = last.register_forward_hook(lambda _module, _args, output: seen.append(output))
    with torch.no_grad():
        states = model.replay_buffer.sample(256, env=model._vec_normalize_env).observations
        actions = model.policy._predict(states, deterministic=True)
    handle.remove()
    return float((seen[0] <= 0).all(0).float().mean()), float(actions.std(0).mean())


def read(path: Path) -> list[dict[str, str]]:
    """Rows of `runs.csv`; none where there is no file. Raises SystemExit, one line, where it is damaged."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    reader = csv.DictReader(text.splitlines())
    if tuple(reader.fieldnames or ()) != COLUMNS:
        sys.exit(f"{path} has other columns than this version writes: move it away, or give another --results-dir")
    rows, seen = [], set()
    for row in reader:
        key = tuple(row[name] for name in KEY)
        whole = None not in row and None not in row.values() and row["arm"] in ARMS and row["return_mean"] != ""
        if not whole or key in seen or not text.endswith("\n"):
            what = "two rows of one run" if whole and key in seen else "a row that is not whole"
            sys.exit(f"{path}: line {reader.line_num}: {what}; remove it, or give another --results-dir")
        seen.add(key)
        rows.append(row)
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Replace the file as a whole, so that no interruption leaves half a row."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def options_from(arguments: list[str] | None) -> argparse.Namespace:
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=ALGORITHMS)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=tuple(TASKS))
    parser.add_argument("--learning-rates", nargs="+", type=float, default=RATES, help="of actor and critic alike")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=tuple(ARMS))
    parser.add_argument("--seeds", type=int, help="seeds from 0 on (default: 10, on MuJoCo 5)")
    parser.add_argument("--steps", type=int, help="environment steps (default: 10,000, on MuJoCo 30,000)")
    parser.add_argument("--processes", type=int, default=1, help="runs at a time, one core each (default: 1)")
    parser.add_argument(
        "--results-dir", type=Path, help="(default: results/monitor; my_results/monitor where that holds recorded runs)"
    )
    parser.add_argument("--summary", action="store_true", help="train nothing; table and figure from what is there")
    options = parser.parse_args(arguments)
    for name in ("seeds", "steps", "processes"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name} is {value}: a whole number from 1 on is needed")
    if not all(0 < rate < math.inf for rate in options.learning_rates):
        parser.error(f"--learning-rates are {options.learning_rates}: finite numbers above 0 are needed")
    if not any(True for _ in jobs(options)):
        parser.error("--arms: none of these has runs of these --algorithms on these --tasks")
    if options.results_dir is None:
        options.results_dir = RESULTS
        if not options.summary and (RESULTS.parent / RECORDED_MARK).exists():
            options.results_dir = ROOT / OWN_RESULTS / RESULTS.name
            print(f"{RESULTS} holds the repository's recorded runs; yours go to {options.results_dir}")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Run the study from the command line: one line and exit code 1 where its folder cannot be used, 75 on Ctrl-C."""
    options = options_from(arguments)
    try:
        with FolderLock(options.results_dir):
            study(options)
    except (LockError, OSError) as problem:
        sys.exit(f"error: {problem}")
    except KeyboardInterrupt:
        leave("interrupted; the same command goes on with the runs that are not done", EXIT_INTERRUPTED)


def study(options: argparse.Namespace) -> None:
    """Make the runs that are missing, then table and figure."""
    path = options.results_dir / "runs.csv"
    rows = read(path)
    done = {tuple(row[name] for name in (*KEY, "steps")) for row in rows}
    asked = {} if options.summary else {job.key: job for job in jobs(options)}  # each once
    waiting = [job for job in asked.values() if (*job.key, str(job.steps)) not in done]
    others = {key[:-1] for key in done}
    if any(job.key in others for job in waiting):
        sys.exit(f"error: {path} has runs of other --steps: give another --results-dir")
    if waiting:
        os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")  # before the workers load torch
        print(f"{len(waiting)} runs to do, {len(rows)} done", flush=True)
        deaf = signal.SIGINT, signal.SIG_IGN  # Ctrl-C is for this process, which ends the others
        listening = signal.signal(*deaf)  # not while they start: they inherit it
        pool = multiprocessing.get_context("spawn").Pool(options.processes, signal.signal, deaf, maxtasksperchild=20)
        signal.signal(signal.SIGINT, listening)
        with pool:
            for row in pool.imap_unordered(run, waiting):
                rows.append(row)
                write(path, rows)
                shown = " ".join(str(row[name]) for name in KEY)
                print(f"{shown}: return {row['return_mean']:.0f}, {row['verdict_end']}", flush=True)
    if not rows:
        sys.exit(f"error: {path} has no runs yet: leave --summary out")
    from experiments.monitor.study_summary import write_summary

    for made in write_summary(path, options.results_dir):
        print(made)


if __name__ == "__main__":
    main()
