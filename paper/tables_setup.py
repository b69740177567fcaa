"""Tables of what was set and how long it took: options, constants of the environment, benchmark."""

from __future__ import annotations

import dataclasses
from typing import Any

import pandas as pd

from common.config import StudyConfig
from paper.tables_data import ROOT, Recordings, constants, title
from paper.tables_text import MISSING, NOT_RECORDED, Numbers, code, number, power, tabular

CASES = {
    "naive": "published, loops over samples",
    "loops": "published, one call per batch",
    "joint": "engine, joint updates",
    "sequential": "engine, sequential",
}


def plain(text: str) -> str:
    """Text of the code's help as LaTeX."""
    return text.replace("_", "\\_").replace("%", "\\%").replace("|", "$|$").replace("--", "-{}-")


def value_text(value: Any) -> str:
    """A default, a tuple as its members."""
    if isinstance(value, tuple):
        return ", ".join(value_text(v) for v in value)
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return power(value, 0) if 0 < value < 0.01 else f"{value:g}"
    return code(value) if isinstance(value, str) else number(value, "d")


def hyper_parameters() -> str:
    """Every option that decides the numbers of a run, with its default and its help text."""
    rows = []
    for spec in dataclasses.fields(StudyConfig):
        if spec.metadata["results"] and spec.name not in ("tf32", "dtype"):
            rows.append([code(spec.name), value_text(spec.default), plain(spec.metadata["help"])])
    replay, noise = constants("agents/replay.py"), constants("agents/inputs.py")
    priorities = f"$\\alpha = {replay['ALPHA']}$, offset {replay['PRIORITY_OFFSET']}"
    schedule = f"$\\beta$ from {replay['BETA_START']}, {replay['BETA_STEP']} more with each draw"
    rows.append(["prioritised replay", "", f"{priorities}, {schedule}"])
    span, floor = noise["EPSILON_SPAN"], noise["EPSILON_FLOOR"]
    decay = f"$\\varepsilon = {floor} + {span}\\exp(-\\mathrm{{episode}}/{noise['EPSILON_EPISODES']:.0f})$"
    rows.append(["exploration", "", f"Gaussian noise of scale {decay} on all outputs"])
    return tabular("@{}llp{0.47\\linewidth}@{}", ["option & default & meaning"], rows)


def environment() -> str:
    """Constants of the environment, from common/environment/mec_env.py."""
    c = constants("environment/mec_env.py")
    world = c["WORLD_RANGES"]
    low, high = c["TASK_LOW"], c["TASK_HIGH"]

    def uniform(ends: tuple[float, float]) -> str:
        return f"$\\mathcal{{U}}({ends[0]:g}, {ends[1]:g})$"

    rows = [
        ["transmit power $p$", uniform(world["power"]), "dBm", "once per seed"],
        ["initial energy $e_0$", uniform(world["energy"]), "MJ", "once per seed"],
        ["channel gain $g$", uniform(world["gain"]), "dB", "once per seed"],
        ["processor $f$", uniform(world["processor"]), "GHz", "once per seed"],
        ["task size $d$", uniform((low[0], high[0])), "MB or kB, by preset", "each step"],
        ["cycles $c$", uniform((low[1], high[1])), "per bit", "each step"],
        ["deadline $\\tau$", uniform((low[2], high[2])), "s", "each step"],
        ["bandwidth $W$", power(c["BANDWIDTH_HZ"], 0), "Hz", "over $K$ channels"],
        ["server $F_E$", power(c["SERVER_HZ"], 0), "Hz", f"each of {c['SERVER_UNITS']} units"],
        ["storage $S$", f"{c['STORAGE']:.0f}", "units of $d$", ""],
        ["$\\kappa$", power(c["KAPPA"], 0), "", "energy of computing"],
        ["longest delay $T_{\\max}$", f"{c['MAX_DELAY_S']:.0f}", "s", ""],
        ["energy reserve", f"{c['RESERVE_MJ']:g} of {c['MAX_ENERGY_MJ']:g}", "MJ", ""],
        ["harvest", f"{c['HARVEST_J']:g}", "J", "each step"],
        ["weights $\\lambda_E$, $\\lambda_T$", f"{c['ENERGY_WEIGHT']:g}, {c['DELAY_WEIGHT']:g}", "", ""],
        ["steps of an episode", str(c["STEPS"]), "", ""],
    ]
    return tabular("@{}llll@{}", ["quantity & value & unit & "], rows)


def benchmark() -> str:
    """Seconds per episode of the engine and of the published algorithm, from benchmarks/results/cpu.csv."""
    rows = []
    for row in pd.read_csv(ROOT / "benchmarks" / "results" / "cpu.csv").itertuples():
        spread = MISSING if pd.isna(row.fastest_process) else f"{row.fastest_process:.3g}--{row.slowest_process:.3g}"
        rows.append(
            [
                CASES.get(row.case, row.case), str(row.runs), f"{row.seconds_per_episode:.3g}", spread,
                f"{row.run_episodes_per_second:.3g}", f"{row.ratio_to_batched_loops:.3g}",
                number(row.ratio_to_naive, ",.0f"), f"{row.peak_memory_gib:.2f}",
            ]
        )  # fmt: skip
    header = [
        " & & \\multicolumn{2}{c}{seconds per episode} & run-episodes & \\multicolumn{2}{c}{times as many as} & memory",
        "\\cmidrule(lr){3-4}\\cmidrule(lr){6-7}",
        "case & runs & median & processes & per second & loops & naive & GiB",
    ]
    return tabular("@{}lrrrrrrr@{}", header, rows)


def cost(recordings: Recordings) -> str:
    """Time of each experiment over that of the baseline, from benchmarks/results/experiments_cpu.csv."""
    measured = pd.read_csv(ROOT / "benchmarks" / "results" / "experiments_cpu.csv").set_index("experiment")
    rows = []
    for name in recordings.experiments:
        if name not in measured.index:
            rows.append([title(name), f"\\multicolumn{{3}}{{c}}{{{NOT_RECORDED}}}"])
            continue
        row = measured.loc[name]
        seconds = (f"{row.seconds_per_episode:.3f}", f"{row.baseline_seconds_per_episode:.3f}")
        rows.append([title(name), *seconds, f"{row.ratio:.2f}"])
    return tabular("@{}lrrr@{}", ["experiment & seconds per episode & baseline, beside it & ratio"], rows)


def tables(recordings: Recordings) -> dict[str, str]:
    """Tables of the set-up, by file name."""
    return {
        "hyperparameters": hyper_parameters(),
        "environment": environment(),
        "benchmark": benchmark(),
        "cost": cost(recordings),
    }


def numbers(macros: Numbers) -> None:
    """Figures of the benchmark that the text cites."""
    macros.heading("benchmark: benchmarks/results/*.csv")
    rows = pd.read_csv(ROOT / "benchmarks" / "results" / "cpu.csv")
    whole = rows[(rows["case"] == "joint") & (rows["runs"] == 16)].iloc[0]
    macros.add("BenchSeconds", f"{whole.seconds_per_episode:.2f}")
    macros.add("BenchRatioLoops", f"{whole.ratio_to_batched_loops:.0f}")
    macros.add("BenchRatioNaive", number(whole.ratio_to_naive, ",.0f"))
    macros.add("BenchThreads", int(whole.threads))
    one_by_one = rows[(rows["case"] == "sequential") & (rows["runs"] == 16)].iloc[0]
    macros.add("BenchRatioSequential", f"{one_by_one.ratio_to_batched_loops:.0f}")
    macros.add("BenchSequentialSlower", f"{one_by_one.seconds_per_episode / whole.seconds_per_episode:.0f}")
    measured = pd.read_csv(ROOT / "benchmarks" / "results" / "experiments_cpu.csv").set_index("experiment")
    others = measured["ratio"].drop(["baseline", "large_actor"], errors="ignore")
    macros.add("CostRange", f"{others.min():.2f}--{others.max():.2f}")
    macros.add("CostLargeActor", f"{measured['ratio'].get('large_actor', float('nan')):.1f}")
