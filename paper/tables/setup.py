"""Tables of what was set and what it costs: constants of the environment, options, time of each experiment."""

from __future__ import annotations

import dataclasses
from typing import Any

import pandas as pd

from common.agents import inputs, replay
from common.config import StudyConfig
from common.environment import mec_env as world
from paper.load import Recordings, title
from paper.text import number, significant, tabular
from paper.verdicts import COST_FILE

UNSHOWN = ("tf32", "dtype", "early_stop", "log_every", "eval_every")


def environment(_: Recordings) -> str:
    """Constants of the environment."""
    ranges = world.WORLD_RANGES
    low, high = world.TASK_LOW, world.TASK_HIGH

    def uniform(name: str, ends: tuple[float, float], unit: str, when: str) -> list[str]:
        return [name, f"uniform, {ends[0]:g} to {ends[1]:g}", unit, when]

    rows = [
        uniform("transmit power $p$", ranges["power"], "dBm", "once per seed"),
        uniform("initial energy $e_0$", ranges["energy"], "MJ", "once per seed"),
        uniform("channel gain $g$", ranges["gain"], "dB", "once per seed"),
        uniform("processor $f$", ranges["processor"], "GHz", "once per seed"),
        uniform("task size $d$", (low[0], high[0]), "MB or kB, by preset", "each step"),
        uniform("cycles $c$", (low[1], high[1]), "per bit", "each step"),
        uniform(r"deadline $\tau$", (low[2], high[2]), "s", "each step"),
        ["bandwidth $W$", significant(world.BANDWIDTH_HZ), "Hz", "over $K$ channels"],
        ["server $F_E$", significant(world.SERVER_HZ), "Hz", f"each of {world.SERVER_UNITS} units"],
        ["storage $S$", f"{world.STORAGE:.0f}", "units of $d$", ""],
        [r"$\kappa$", significant(world.KAPPA), "", "energy of computing"],
        [r"longest delay $T_{\max}$", f"{world.MAX_DELAY_S:.0f}", "s", ""],
        ["energy reserve", f"{world.RESERVE_MJ:g} of {world.MAX_ENERGY_MJ:g}", "MJ", ""],
        ["harvest", f"{world.HARVEST_J:g}", "J", "each step"],
        [r"weights $\lambda_E$, $\lambda_T$", f"{world.ENERGY_WEIGHT:g}, {world.DELAY_WEIGHT:g}", "", ""],
        ["steps of an episode", str(world.STEPS), "", ""],
    ]
    return tabular("llll", ["quantity & value & unit & "], rows)


def hyperparameters(_: Recordings) -> str:
    """Every option that decides the numbers of a run, with its default and its help text."""
    rows = []
    for spec in dataclasses.fields(StudyConfig):
        if spec.metadata["results"] and spec.name not in UNSHOWN:
            rows.append([f"`{spec.name}`", _value(spec.default), spec.metadata["help"]])
    schedule = f"from {replay.BETA_START:g}, {replay.BETA_STEP:g} more with each draw"
    rows.append(["priorities", f"{replay.PRIORITY_OFFSET:g}", f"offset; importance weights' exponent {schedule}"])
    low, width, episodes = inputs.EPSILON_FLOOR, inputs.EPSILON_SPAN, inputs.EPSILON_EPISODES
    meaning = f"scale of Gaussian noise on all outputs; falls to {low:g}, by 1/e in {episodes:,.0f} episodes"
    rows.append(["exploration", f"{low + width:g}", meaning])
    return tabular(r"llp{0.55\linewidth}", ["option & default & meaning"], rows)


def cost(_: Recordings) -> str:
    """Time of each experiment over that of the baseline."""
    rows = [
        [title(x.experiment), number(x.seconds_per_episode, ".3f"), number(x.baseline_seconds_per_episode, ".3f"),
         number(x.ratio)]
        for x in pd.read_csv(COST_FILE).itertuples()
    ]  # fmt: skip
    return tabular("lrrr", ["experiment & seconds per episode & baseline, beside it & ratio"], rows)


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(_value(v) for v in value)
    if isinstance(value, str):
        return f"`{value}`"
    return significant(value, 1) if isinstance(value, float) and 0 < value < 1e-3 else f"{value:,g}"
