"""The coasting law beside the measurement: for the baseline's actor rates that freeze, and for other β₁."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd

from paper.coasting import DEFAULTS, FIRST_STEP, coasting_steps, initial_actors, shrink, simulated_lag
from paper.load import NotRecorded, Recordings, StudyFiles, fast
from paper.text import MISSING, number, rate, span, tabular

WINDOW = (20, 100)  # episodes between which the shrinkage of the steps is read
SHRINKAGE = shrink(*(episode - FIRST_STEP + 1 for episode in WINDOW))  # per step, by Adam's recursion
EARLY = 50  # episode before which an agent's gradient has died early
MEMORY = "adam_memory"


@dataclass(frozen=True)
class Law:
    """One actor rate: median death, shrinkage per step, lags and stopping episodes, simulated and measured."""

    actor_lr: float
    death: float
    shrinkage: float
    simulated: np.ndarray
    measured: pd.Series
    simulated_stops: np.ndarray
    stops: pd.Series
    gap: float  # largest distance of a pair's median lag from the simulated median


@cache
def laws(r: Recordings) -> tuple[Law, ...]:
    """One for each actor rate from FAST on, all recorded baselines together."""
    norms = pd.concat([s.norms.assign(preset=p) for p, s in r.need_baselines().items()], ignore_index=True)
    found = []
    for actor_lr in sorted(fast(r.runs)["actor_lr"].unique()):
        own = r.agents[r.agents["actor_lr"] == actor_lr]
        deaths = own["gradient_death_episode"].dropna()
        deaths = deaths[deaths < EARLY]
        if deaths.empty:
            continue
        simulated, freezes = simulated_lag(actor_lr, moving_share(r), deaths.to_numpy())
        of_runs = freezes[: len(freezes) // DEFAULTS.agents * DEFAULTS.agents].reshape(-1, DEFAULTS.agents).max(1)
        updates = norms[norms["actor_lr"] == actor_lr].pivot_table(
            index=["preset", "seed", "critic_lr"], columns="episode", values="actor_update_norm"
        )
        ends = [updates[e] if e in updates else pd.Series(np.nan, updates.index) for e in WINDOW]
        shrunk = (ends[1] / ends[0]) ** (1 / (WINDOW[1] - WINDOW[0]))
        gaps = (own.groupby("critic_lr")["lag"].median() - np.median(simulated)).abs()
        stops = r.runs.loc[r.runs["actor_lr"] == actor_lr, "stopping_episode"]
        found.append(Law(actor_lr, deaths.median(), shrunk.median(), simulated, own["lag"].dropna(), of_runs, stops,
                         gaps.max()))  # fmt: skip
    return tuple(found)


def moving_share(r: Recordings) -> float:
    """Share of an actor's weights that the first step moves: its norm over the rate is the root of their number."""
    first = pd.concat([study.first(study.norms) for study in r.need_baselines().values()])
    weights = initial_actors(np.random.default_rng(0), 1).size
    return float(((first["actor_update_norm"] / first["actor_lr"]) ** 2).median() / weights)


def law(r: Recordings) -> str:
    """Predicted and measured shrinkage, lag and stopping, by actor rate."""
    rows = [
        [
            rate(x.actor_lr), number(x.death, ".0f"), number(SHRINKAGE, ".4f"), number(x.shrinkage, ".4f"),
            spread(x.simulated), spread(x.measured), span(x.simulated_stops), span(x.stops),
        ]
        for x in laws(r)
    ]  # fmt: skip
    if not rows:
        raise NotRecorded("table law: no agent of a fast run died early")
    header = [
        r" & & \multicolumn{2}{c}{shrinkage per step} & \multicolumn{2}{c}{lag, freeze $-$ death}"
        r" & \multicolumn{2}{c}{stopping of a run}",
        r"\cmidrule(lr){3-4}\cmidrule(lr){5-6}\cmidrule(l){7-8}",
        "actor lr & death & law & measured & law & measured & law & measured",
    ]
    return tabular("crrrrrrr", header, rows)


def memory_studies(r: Recordings) -> list[tuple[float, StudyFiles]]:
    """Recorded studies on `scaled` with another β₁ of the actors, and the baseline, by β₁."""
    names = [name for name in r.names("scaled") if name.split("-")[0] == MEMORY]
    if not names:
        raise NotRecorded(f"{r.results / 'scaled' / MEMORY}: not recorded")
    studies = [r.need("scaled"), *(r.need("scaled", name) for name in names)]
    return sorted(((s.configuration["beta1"], s) for s in studies), key=lambda found: found[0])


def memory(r: Recordings) -> str:
    """Lag of freeze behind death by β₁ and actor rate: leading order, simulated, measured."""
    header = r"$\beta_1$ & actor lr & seeds & leading order & simulated & measured & agents frozen"
    return tabular("ccrrrrr", [header], memory_rows(r))


def memory_rows(r: Recordings) -> list[list[str]]:
    """A row for each recorded β₁ and each fast actor rate. Raises NotRecorded where it is the baseline's alone."""
    rows = []
    for beta1, study in memory_studies(r):
        for lr, own in fast(study.agents).groupby("actor_lr"):
            deaths, lag = own["gradient_death_episode"].dropna(), own["lag"].dropna()
            dead = deaths[deaths < EARLY].to_numpy()
            simulated = simulated_lag(lr, moving_share(r), dead, beta1)[0] if len(dead) else dead
            leading = number(coasting_steps(beta1), ".0f") if beta1 else MISSING
            lags, frozen = [leading, spread(simulated), spread(lag)], number(len(lag) / len(own), ".0%")
            rows.append([f"{beta1:g}", rate(lr), str(len(study.seeds)), *lags, frozen])
    return rows


def spread(lags: pd.Series | np.ndarray) -> str:
    """Median, and in brackets 5% to 95%."""
    if not len(lags):
        return MISSING
    middle, ends = number(float(np.median(lags)), ".0f"), span(np.percentile(lags, [5, 95]))
    return middle if middle == ends else f"{middle} ({ends})"
