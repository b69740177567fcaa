"""Table and figure of the monitor's study, from its runs.csv."""

import io
import math
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common.analysis.figures import actor_colour
from common.monitor.diagnosis import NO_SLOPE, NO_SLOPE_SHARE
from common.recording.store import write_atomically

GROUP = ["task", "algorithm", "learning_rate", "arm"]
LIFTED = {"Pendulum-v1": -300.0, "MountainCarContinuous-v0": 90.0}  # returns that count as solved
EVERY_STEP = "limit both and alpha"  # the arm with all steps of SAC, whose entropy coefficient has its own optimiser
SLOWER_CRITIC = "limit both, critic 0.001"
NORMALISED = ("normalised", "normalised, limit both")
ARM_ORDER = ("plain", "limit actor", "limit critic", "limit both", SLOWER_CRITIC, EVERY_STEP, *NORMALISED)
PANEL, COLUMNS = (2.4, 1.9), 3  # inches


def without_slope(runs: pd.DataFrame, when: str) -> pd.Series:
    """Whether a run's tanh had no slope left, by the monitor's limits, at the `end` or in the `middle` of training.

    A verdict does not say: an actor also freezes where its critic is flat or its hidden units are dead.
    """
    return (runs[f"tanh_derivative_{when}"] < NO_SLOPE) | (runs[f"zero_derivative_share_{when}"] > NO_SLOPE_SHARE)


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per task, algorithm, learning rate and arm, over seeds; differences are paired with the plain run's.

    A run whose weights did not stay finite has no return: it ranks below all others, and its difference is unknown.
    """
    runs = runs.assign(arm=pd.Categorical(runs["arm"], [a for a in ARM_ORDER if a in set(runs["arm"])], ordered=True))
    runs["diverged"] = runs["return_mean"].isna()
    runs["return_mean"] = runs["return_mean"].fillna(-math.inf)  # worse than any other
    plain = runs[runs["arm"] == "plain"].set_index(["task", "algorithm", "learning_rate", "seed"])["return_mean"]
    keys = pd.MultiIndex.from_frame(runs[["task", "algorithm", "learning_rate", "seed"]])
    before = plain.reindex(keys).to_numpy()
    runs["better"] = runs["return_mean"].to_numpy() > before
    runs["gain"] = (runs["return_mean"] - before).replace([-math.inf, math.inf], math.nan)
    runs["solved"] = runs["return_mean"] > runs["task"].map(LIFTED)
    rows = []
    for group, cell in runs.groupby(GROUP, observed=True):
        returns = cell["return_mean"]
        rows.append({
            **dict(zip(GROUP, group, strict=True)),
            "seeds": len(cell),
            "seeds_diverged": int(cell["diverged"].sum()),
            "return_median": returns.median(),
            "return_lowest": returns.min(),
            "return_highest": returns.max(),
            "untrained_median": cell["return_untrained"].median(),
            "gain_over_plain_median": cell["gain"].median(),
            "seeds_better_than_plain": int(cell["better"].sum()),
            "seeds_solved": int(cell["solved"].sum()) if group[0] in LIFTED else "",
            "without_slope_in_the_middle": int(without_slope(cell, "middle").sum()),
            "without_slope_at_end": int(without_slope(cell, "end").sum()),
            "all_units_dead_at_end": int(((cell["dead_actor_units"] == 1) & ~without_slope(cell, "end")).sum()),
            "verdict_end": " or ".join(cell["verdict_end"].mode()),
            "dead_actor_units_median": cell["dead_actor_units"].median(),
            "action_sd_median": cell["action_sd"].median(),
            "entropy_coefficient_median": cell["entropy_coefficient"].median(),
        })  # fmt: skip
    return pd.DataFrame(rows)


def with_kind(rows: pd.DataFrame) -> pd.DataFrame:
    """Runs, or rows of their summary, with a column `kind`: plain, limited (every optimiser there is) or neither."""
    limited = rows["arm"] == np.where(rows["algorithm"] == "SAC", EVERY_STEP, "limit both")
    return rows.assign(kind=np.select([rows["arm"] == "plain", limited], ["plain", "limited"], ""))


def fast_elsewhere(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of tasks other than Pendulum at the highest rate, 0.1."""
    return rows[(rows["task"] != "Pendulum-v1") & (rows["learning_rate"] == 0.1)]


def limited_alone(rows: pd.DataFrame, third: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows with only the actor's limit, and only the critic's: of SAC, with its third optimiser, or of the others."""
    own = rows[(rows["algorithm"] == "SAC") == third]
    return own[own["arm"] == "limit actor"], own[own["arm"] == "limit critic"]


def figure_of(runs: pd.DataFrame) -> Figure:
    """Returns by arm: a dot per seed, filled where the tanh kept its slope, a bar at the median; colours are rates."""
    shown = list(dict.fromkeys(zip(runs["task"], runs["algorithm"], strict=True)))
    rates = sorted(runs["learning_rate"].unique())
    columns = min(COLUMNS, len(shown))
    height = math.ceil(len(shown) / columns)
    figure = Figure((PANEL[0] * columns + 0.6, PANEL[1] * height + 1.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = [*figure.subplots(height, columns, squeeze=False).flat]
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    for panel, (task, algorithm) in zip(panels, shown, strict=False):
        own = runs[(runs["task"] == task) & (runs["algorithm"] == algorithm)]
        arms = [arm for arm in ARM_ORDER if arm in set(own["arm"])]
        for place, arm in enumerate(arms):
            for step, rate in enumerate(rates):
                cell = own[(own["arm"] == arm) & (own["learning_rate"] == rate)]
                if cell.empty:
                    continue
                x, colour = place + (step - (len(rates) - 1) / 2) * 0.25, actor_colour(rate)
                dead = without_slope(cell, "end")
                seeds = cell["seed"] - cell["seed"].mean()
                beside = x + 0.14 * seeds / max(1, np.ptp(cell["seed"]))
                for rows, face in ((cell[~dead], colour), (cell[dead], "white")):
                    at = beside[rows.index], rows["return_mean"]
                    panel.scatter(*at, s=9, facecolor=face, edgecolor=colour, lw=0.7)
                lost = beside[cell.index[cell["return_mean"].isna()]]
                panel.plot(lost, np.zeros(len(lost)), "x", ms=4, color=colour, transform=panel.get_xaxis_transform())
                median = cell["return_mean"].fillna(-math.inf).median()
                if math.isfinite(median):
                    panel.plot([x - 0.1, x + 0.1], [median, median], color=colour, lw=2, solid_capstyle="butt")
        if task in LIFTED:
            panel.axhline(LIFTED[task], color="0.4", lw=0.7, ls=(0, (4, 3)), zorder=0)
        angle = 35 if len(arms) < 6 else 60  # else names of two lines overlap
        slanted = {"rotation": angle, "ha": "right", "rotation_mode": "anchor"} if len(arms) > 3 else {}
        names = [arm.replace(" and", "\nand").replace(", ", ",\n") for arm in arms]
        panel.set_xticks(range(len(arms)), names, fontsize=7, **slanted)
        panel.set_xlim(-0.5, len(arms) - 0.5)
        panel.tick_params(axis="y", labelsize=7)
        panel.grid(axis="y", color="0.92", lw=0.6)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_title(f"{algorithm}, {task}", fontsize=8)
    figure.supylabel("return per episode", fontsize=8)
    handles = [
        Line2D([], [], color=actor_colour(rate), lw=2, label=f"learning rate {rate:g}, median") for rate in rates
    ]
    for face, label in (("0.3", "a seed"), ("white", "… without slope at the end")):
        handles.append(Line2D([], [], color="0.3", marker="o", ms=4, mfc=face, lw=0, label=label))
    if runs["return_mean"].isna().any():
        handles.append(Line2D([], [], color="0.3", marker="x", ms=4, lw=0, label="… whose weights became NaN"))
    if set(runs["task"]) & set(LIFTED):
        handles.append(Line2D([], [], color="0.4", lw=0.7, ls=(0, (4, 3)), label="counts as solved above"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    return figure


def write_summary(runs_csv: Path, folder: Path) -> list[Path]:
    """Write summary.csv, summary.md and returns.png beside the runs; returns their paths."""
    runs = pd.read_csv(runs_csv)
    table = summary(runs)
    picture = io.BytesIO()
    figure_of(runs).savefig(picture, dpi=200, metadata={"Software": None})
    texts = {"summary.csv": table.to_csv(index=False, float_format="%.4g"), "summary.md": _markdown(table)}
    made = {folder / name: text.encode() for name, text in texts.items()} | {folder / "returns.png": picture.getvalue()}
    for path, data in made.items():
        write_atomically(path, data)
    return list(made)


def ending(value: float) -> str:
    """A return, or that there is none."""
    return f"{round(value):,}".replace("-", "−") if math.isfinite(value) else "diverged"


def _markdown(table: pd.DataFrame) -> str:
    lines = [
        "# limit_steps on Stable-Baselines3's agents",
        "",
        "Written by `experiments/monitor/run_monitor_study.py` from `runs.csv`: returns of the deterministic policy "
        "over 20 episodes, median over seeds (lowest to highest), beside that of the untrained policy. The gain is the "
        "median of the differences of the same seed. A run is called diverged where its weights did not stay finite: "
        "it has no return, ranks below all others, and its seed is left out of the gain.",
        "",
        "| task | algorithm | learning rate | arm | seeds | untrained | return | gain over plain | solved "
        "| no slope in the middle | … at the end | most frequent verdict at the end | dead hidden units of the actor |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in table.itertuples():
        spread = f"{ending(row.return_median)} ({ending(row.return_lowest)} to {ending(row.return_highest)})"
        if row.seeds_diverged:
            spread += f", {row.seeds_diverged} diverged"
        known = row.arm != "plain" and not pd.isna(row.gain_over_plain_median)
        verdicts = row.verdict_end.replace(" or ", "` or `")
        gain = f"{row.gain_over_plain_median:+.0f}".replace("-", "−") if known else ""
        lines.append(
            f"| {row.task} | {row.algorithm} | {row.learning_rate:g} | {row.arm} | {row.seeds} "
            f"| {ending(row.untrained_median)} | {spread} | {gain} | {row.seeds_solved} "
            f"| {row.without_slope_in_the_middle} | {row.without_slope_at_end} | `{verdicts}` "
            f"| {row.dead_actor_units_median:.0%} |"
        )
    return "\n".join(lines) + "\n"
