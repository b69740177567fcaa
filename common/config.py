"""Every default once, with its unit, its help text and its range; the command line is made from them."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from common.experiment import Experiment

GRID = (1e-4, 1e-3, 1e-2, 1e-1)


class ConfigError(ValueError):
    """A configuration value that is not allowed; the message is one line for the user."""


def option(
    default: Any,
    help: str,
    *,
    results: bool = True,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] | None = None,
    metavar: str | None = None,
    run_key: bool = False,
) -> Any:
    """A configuration field: its default, help text and range.

    `results` tells whether the numbers of a run depend on it. A tuple takes several values, also none where it is
    empty by default; `choices` are then names.
    """
    limits = {"minimum": minimum, "maximum": maximum, "above": above, "below": below}
    said = {**limits, "choices": choices, "metavar": metavar}
    known = {name: value for name, value in said.items() if value is not None}
    return field(default=default, metadata={"help": help, "results": results, "run_key": run_key, **known})


@dataclass(frozen=True)
class StudyConfig:
    """One study: a grid of learning rates times seeds, on one preset of the environment.

    Defaults are those of docs/algorithm.md; fields whose metadata says `results=False` change only how the numbers
    are computed or where they are written, not the numbers. An experiment's own options are fields of a subclass.
    """

    env: str = option("scaled", "preset of the environment", choices=("scaled", "thesis", "interior"))
    seeds: tuple[int, ...] = option(
        (42,), "one run per learning-rate pair and seed", minimum=0, maximum=2**63 - 1, run_key=True
    )
    actor_lrs: tuple[float, ...] = option(
        GRID, "actor learning rates of the grid; 0: actors stay as they start", minimum=0.0, run_key=True
    )
    critic_lrs: tuple[float, ...] = option(GRID, "critic learning rates of the grid", minimum=0.0, run_key=True)
    episodes: int = option(2000, "training episodes of a run, 10 steps each", minimum=1)
    agents: int = option(50, "device agents, one actor each (at least --channels)", minimum=1, maximum=10_000)
    channels: int = option(
        10, "radio channels K: most offloads the server accepts in one step (at most --agents)", minimum=1
    )
    actor_hidden: tuple[int, ...] = option((64, 32), "units of the actor's hidden layers", minimum=1, maximum=2**14)
    critic_hidden: tuple[int, ...] = option((512, 128), "units of the critic's hidden layers", minimum=1, maximum=2**14)
    output_bound: float = option(
        3e-3,
        "last layers of actor and critic start in U(-bound, bound); 0 means PyTorch's default, 1/sqrt(inputs)",
        minimum=0.0,
    )
    batch_size: int = option(64, "transitions in one training step", minimum=1, maximum=2**16)
    updates_per_episode: int = option(1, "training steps at the end of an episode, from the second on", minimum=1)
    actor_update: str = option(
        "joint",
        "joint: one loss, all actors step together; sequential: agents in turn, each against the actors "
        "already stepped (the published algorithm; much slower)",
        choices=("joint", "sequential"),
    )
    beta1: float = option(0.9, "Adam's beta1 of the actors", minimum=0.0, below=1.0)
    critic_beta1: float = option(0.9, "Adam's beta1 of the critic", minimum=0.0, below=1.0)
    beta2: float = option(0.999, "Adam's beta2 of actors and critic", minimum=0.0, below=1.0)
    adam_eps: float = option(1e-8, "Adam's eps of actors and critic", above=0.0)
    gamma: float = option(0.99, "discount factor", minimum=0.0, maximum=1.0)
    tau: float = option(
        1.0, "share of the network copied into its target after a training step", above=0.0, maximum=1.0
    )
    replay_capacity: int = option(10_000, "transitions the replay holds (a multiple of 10)", minimum=10)
    replay_alpha: float = option(
        0.6, "exponent of the priorities in the replay; 0: all transitions are alike", minimum=0.0, maximum=1.0
    )
    noise_scale: float = option(
        1.0, "scale of the exploration noise, in units of epsilon (1 at first, 0.37 in episode 2000)", minimum=0.0
    )
    clip_norm: float = option(
        0.0, "clip each network's gradient norm to this before its step; 0 means no clipping", minimum=0.0
    )
    early_stop: bool = option(
        False, "for exploring: end a run about 100 episodes after all its actors froze; its score is then younger"
    )
    log_every: int = option(
        10,
        "episodes between rows of gradient norms and saturation, from episode 20 on (before: every one); where the "
        "actors' step was not due, the last one before in which it was",
        minimum=1,
    )
    eval_every: int = option(50, "episodes between evaluations", minimum=1)
    eval_episodes: int = option(10, "fixed episodes of one evaluation", minimum=1, maximum=10_000)
    save_policy: bool = option(
        False, "keep each run's trained actors in policies/, as state dicts of plain modules", results=False
    )
    dtype: str = option("float32", "floating-point type of networks and environment", choices=("float32", "float64"))
    device: str = option("auto", "auto takes cuda where there is one", choices=("auto", "cpu", "cuda"), results=False)
    threads: int = option(
        0,
        "CPU threads, on Linux as worker processes with a part of the runs each; 0 means as many as there are cores",
        minimum=0,
        maximum=1024,
        results=False,
    )
    runs_per_shard: int = option(
        0, "runs trained together as one batch; 0 means as many as fit in memory", minimum=0, results=False
    )
    tf32: bool = option(False, "let CUDA round matrix products to TF32 (faster, other numbers; ignored on the CPU)")
    cuda_graph: bool = option(
        True, "run CUDA episodes as a captured graph instead of one kernel launch at a time", results=False
    )
    checkpoint_minutes: float = option(
        5.0, "minutes between checkpoints of the training state", above=0.0, results=False
    )
    mirror: str = option(
        "",
        "second folder (Google Drive, say) for copies of checkpoints and results",
        results=False,
        metavar="DIR",
    )
    tensorboard: str = option(
        "",
        "folder that gets the scalars of every run as it trains; needs the package tensorboard",
        results=False,
        metavar="DIR",
    )
    results_dir: str = option(
        "results",
        "folder that gets <preset>/<experiment>/*.csv; my_results where results holds the recorded studies",
        results=False,
        metavar="DIR",
    )

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            _check_field(spec, getattr(self, spec.name))
        if self.channels > self.agents:
            raise ConfigError(
                f"--channels {self.channels}: cannot accept more offloads than there are agents "
                f"(--agents {self.agents}); allowed: 1 to {self.agents}"
            )
        if self.replay_capacity % 10:
            raise ConfigError(f"--replay-capacity {self.replay_capacity}: allowed: multiples of 10")
        for name in ("seeds", "actor_lrs", "critic_lrs"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ConfigError(f"{_flag(name)}: {_shown(values)} names a value twice; allowed: each value once")

    def result_fields(self) -> dict[str, Any]:
        """Fields that decide the numbers of one run, without those that name the run itself."""
        return {
            spec.name: _plain(getattr(self, spec.name))
            for spec in dataclasses.fields(self)
            if spec.metadata["results"] and not spec.metadata["run_key"]
        }


QUICK = {
    "agents": 10,
    "episodes": 200,
    "batch_size": 16,
    "actor_lrs": (1e-3, 1e-1),
    "critic_lrs": (1e-3, 1e-1),
    "eval_episodes": 2,
}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _values(value: Any) -> tuple:
    return value if isinstance(value, tuple) else (value,)


def _shown(value: Any) -> str:
    return " ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in _values(value))


def _allowed(spec: dataclasses.Field) -> str:
    """The range of an option, for people; nothing where it has none."""
    meta = spec.metadata
    if "choices" in meta:
        return ", ".join(meta["choices"])
    words = {"above": "above {}", "minimum": "{} or more", "maximum": "up to {}", "below": "below {}"}
    return ", ".join(words[name].format(_shown(meta[name])) for name in words if name in meta)


def _check_field(spec: dataclasses.Field, value: Any) -> None:
    meta, kind = spec.metadata, _element_type(spec)
    if value == () and spec.default != ():
        raise ConfigError(f"{_flag(spec.name)}: needs at least one value")
    for v in _values(value):
        problem = None
        if isinstance(value, tuple) != isinstance(spec.default, tuple):
            problem = "a tuple of values" if isinstance(spec.default, tuple) else "one value"
        elif not isinstance(v, (float, int) if kind is float else kind):
            problem = f"of type {kind.__name__}"
        elif isinstance(v, float) and not math.isfinite(v):
            problem = "finite numbers"
        elif not (
            v in meta.get("choices", (v,))
            and ("above" not in meta or v > meta["above"])
            and ("minimum" not in meta or v >= meta["minimum"])
            and ("maximum" not in meta or v <= meta["maximum"])
            and ("below" not in meta or v < meta["below"])
        ):
            problem = _allowed(spec)
        if problem:
            raise ConfigError(f"{_flag(spec.name)} {v}: allowed: {problem}")


def leave(line: str, code: int) -> NoReturn:
    """Say this on standard error and end with this exit code."""
    print(line, file=sys.stderr)
    raise SystemExit(code) from None


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line, without the usage, and exits with code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see --help)\n")


def _element_type(spec: dataclasses.Field) -> type:
    return type(_values(spec.default)[0]) if spec.default != () else str


def _add_option(parser: argparse.ArgumentParser, spec: dataclasses.Field, default: Any) -> None:
    meta, flag = spec.metadata, _flag(spec.name)
    keywords: dict[str, Any] = {"type": _element_type(spec)}
    if isinstance(spec.default, bool):
        keywords = {"action": argparse.BooleanOptionalAction}
        default = flag if default else _flag(f"no_{spec.name}")
    elif "choices" in meta:
        keywords["metavar"] = "|".join(meta["choices"])
    else:
        keywords["metavar"] = meta.get("metavar", {int: "INT", float: "FLOAT", str: "TEXT"}[_element_type(spec)])
    if isinstance(spec.default, tuple):
        keywords["nargs"] = "+" if spec.default else "*"
    limits = f"{_allowed(spec)}; " if "choices" not in meta and _allowed(spec) else ""
    text = f"{meta['help']} ({limits}default: {_shown(default) or 'none'})".replace("%", "%%")
    parser.add_argument(flag, dest=spec.name, default=None, help=text, **keywords)


def parse_command_line(
    experiment: Experiment, arguments: Sequence[str] | None = None
) -> tuple[StudyConfig, argparse.Namespace]:
    """Configuration from the command line: options over the experiment's overrides over --quick over defaults.

    Returns the configuration and a namespace with what was said beside it (`quick`, `fresh`, `part`,
    `results_dir_given`).
    Exits with code 2 and one line on a bad option or value.
    """
    parser = OneLineParser(
        description=experiment.description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    for spec in dataclasses.fields(experiment.config):
        _add_option(parser, spec, experiment.overrides.get(spec.name, spec.default))
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a small study of under a minute that trains past the baseline's first freezes ("
        + ", ".join(f"{_flag(k)} {_shown(v)}" for k, v in QUICK.items())
        + "; results go to <results-dir>/quick)",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="move earlier results and checkpoints of this study aside and start over"
    )
    parser.add_argument(
        "--part",
        metavar="K/N",
        help="train only the K-th of N parts of the study, in <results-dir>/<preset>/<experiment>/parts/K-of-N; "
        "python -m common.merge puts them together",
    )
    said = vars(parser.parse_args(arguments))
    beside = {name: said.pop(name) for name in ("quick", "fresh", "part")}
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in said.items() if v is not None}
    try:
        config = experiment.config(**{**(QUICK if beside["quick"] else {}), **experiment.overrides, **given})
    except ConfigError as problem:
        parser.error(str(problem))
    return config, argparse.Namespace(**beside, results_dir_given="results_dir" in given)
