"""What follows without training: how long Adam coasts in float32, when a tanh is flat, what a coin scores."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pandas as pd

from common.config import GRID, StudyConfig
from paper.tables_data import FAST, Recordings, constants
from paper.tables_text import RATE_WORDS, Numbers, number, of, rate, span, tabular

DEFAULTS = StudyConfig()
BETA1, BETA2, EPSILON = DEFAULTS.beta1, DEFAULTS.beta2, DEFAULTS.adam_eps
MANTISSA = 24  # bits of a float32, the leading one included
AGENTS = 300  # simulated per learning rate
EARLY = 50  # episode before which an agent's gradient has died early
STEPS = 420  # training steps simulated
FIRST_STEP = constants("recording/tracking.py")["FIRST_TRAINED_EPISODE"]  # the episode of the first training step


def coasting_steps() -> float:
    """Steps until a step as large as the weight is below half a unit in its last place."""
    return MANTISSA * math.log(2) / -math.log(BETA1)


def steps_per_decade() -> float:
    """Steps by which a weight ten times smaller coasts longer."""
    return math.log(10) / -math.log(BETA1)


def flat_tanh() -> float:
    """|z| from which 1 - tanh(z)^2 is zero in float32: tanh rounds to 1 when 2 exp(-2z) < 2^-(24 + 1)."""
    return (MANTISSA + 2) * math.log(2) / 2


def coin_slope() -> float:
    """By how much the score falls with the share of agents on the wrong bound, on `scaled`.

    The return there is energy, local energy grows with the square of alpha, and the best is (nearly) no energy: an
    agent at alpha = 1 costs 1, one at random alpha costs the mean of the squares, so that random scores 0.
    """
    low = constants("environment/mec_env.py")["LOWEST_SHARE"]
    return 3 * (1 - low) / (1 - low**3)


def shrink(first: int, last: int) -> float:
    """Mean factor per step by which Adam's step shrinks between two training steps after the gradient died."""
    bias = math.sqrt((1 - BETA2**last) / (1 - BETA2**first)) * (1 - BETA1**first) / (1 - BETA1**last)
    return BETA1 / math.sqrt(BETA2) * bias ** (1 / (last - first))


def initial_actors(generator: np.random.Generator, agents: int) -> np.ndarray:
    """Weights of baseline actors before training (agents, weights), initialised as in docs/algorithm.md#networks."""
    config, sizes = StudyConfig(), constants("environment/mec_env.py")
    widths = (sizes["STATE_SIZE"], *config.actor_hidden, sizes["ACTION_SIZE"])
    parts = []
    for inputs, outputs in pairwise(widths):
        last = len(parts) == len(widths) - 2
        bound = config.output_bound if last else inputs**-0.5
        parts.append(generator.uniform(-bound, bound, (agents, inputs * outputs + outputs)))
    return np.concatenate(parts, axis=1)


def simulated_lag(actor_lr: float, moving: float, deaths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lag from gradient death to freeze, and the freeze episode, of actors that only coast.

    Each actor draws its episode of death from `deaths`; until then its moving weights (a share `moving` of all) have
    gradients of one sign each, whose size Adam does not see; from then on none. float32 throughout.
    """
    single = np.float32
    generator = np.random.default_rng(0)
    weights = initial_actors(generator, AGENTS)
    signs = generator.choice([-1.0, 1.0], weights.shape)
    chosen = generator.random(weights.shape) < moving
    death = generator.choice(deaths, AGENTS).astype(int)
    starts = np.concatenate([[0], np.cumsum(chosen.sum(1))[:-1]])  # of each actor in the flat arrays
    ends = np.repeat(death, chosen.sum(1))
    weights, signs = weights[chosen].astype(single), signs[chosen].astype(single)
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    last = np.zeros(AGENTS, dtype=int)
    for step in range(1, STEPS + 1):
        episode = step + FIRST_STEP - 1
        gradient = np.where(episode < ends, signs, single(0)) if episode < death.max() else single(0)
        first += (gradient - first) * single(1 - BETA1)
        second *= single(BETA2)
        second += gradient * gradient * single(1 - BETA2)
        root = np.sqrt(second)
        root /= single(math.sqrt(1 - BETA2**step))
        root += single(EPSILON)
        updated = weights - first / root * single(actor_lr / (1 - BETA1**step))
        changed = np.logical_or.reduceat(updated != weights, starts)
        last[changed] = episode
        weights = updated
        if episode >= death.max() and not changed.any():
            break
    return last + 1 - death, last + 1


def law(recordings: Recordings, numbers: Numbers) -> dict[str, str]:
    """The table of predicted and measured coasting, and the derived constants."""
    numbers.heading("derived: coasting of Adam, flat tanh, scores on the bounds (paper/tables_law.py)")
    numbers.add("LawSteps", number(coasting_steps(), ".0f"))
    numbers.add("LawDecade", number(steps_per_decade(), ".0f"))
    numbers.add("FlatTanh", number(flat_tanh(), ".1f"))
    numbers.add("CoinSlope", number(coin_slope(), ".2f"))
    numbers.add("CoinScore", number(1 - coin_slope() / 2, ".2f"))
    rates = [lr for lr in StudyConfig().actor_lrs if lr >= FAST]
    parameters = initial_actors(np.random.default_rng(0), 1).size
    numbers.add("ActorWeights", number(parameters, ",.0f"))
    norms = pd.concat([s.norms for s in recordings.baselines.values()], ignore_index=True)
    steps = norms[norms["episode"] == FIRST_STEP]
    moving = float(((steps["actor_update_norm"] / steps["actor_lr"]) ** 2).median() / parameters)
    numbers.add("MovingShare", number(moving, ".0%"))
    window = (20, 100)
    numbers.add("ShrinkFrom", window[0])
    numbers.add("ShrinkTo", window[1])
    numbers.add("ShrinkPredicted", number(shrink(*(episode - FIRST_STEP + 1 for episode in window)), ".4f"))
    rows, gaps = [], []
    for lr in rates:
        word = RATE_WORDS[lr]
        own = recordings.agents[recordings.agents["actor_lr"] == lr]
        measured, deaths = own["lag"].dropna(), own["gradient_death_episode"].dropna()
        deaths = deaths[deaths < EARLY]
        lag, freeze = simulated_lag(lr, moving, deaths.to_numpy())
        updates = norms[norms["actor_lr"] == lr].pivot_table(
            index=["seed", "critic_lr"], columns="episode", values="actor_update_norm", aggfunc="median"
        )
        measured_shrink = float(((updates[window[1]] / updates[window[0]]) ** (1 / (window[1] - window[0]))).median())
        gaps += [abs(float(np.median(lag)) - median) for median in own.groupby("critic_lr")["lag"].median()]
        numbers.add(f"Shrink{word}", number(measured_shrink, ".4f"))
        numbers.add(f"LagPredicted{word}", number(float(np.median(lag)), ".0f"))
        numbers.add(f"LagMeasured{word}", number(measured.median(), ".0f"))
        numbers.add(f"LagPredictedSpread{word}", span(np.percentile(lag, [5, 95])))
        numbers.add(f"LagMeasuredSpread{word}", span(measured.quantile([0.05, 0.95])))
        stops = recordings.runs.loc[recordings.runs["actor_lr"] == lr, "stopping_episode"]
        config = StudyConfig()
        last = freeze[: len(freeze) // config.agents * config.agents].reshape(-1, config.agents).max(1)
        numbers.add(f"StopPredicted{word}", span(last))
        rows.append(
            [
                rate(lr), number(deaths.median(), ".0f"), number(shrink(19, 99), ".4f"), number(measured_shrink, ".4f"),
                f"{number(float(np.median(lag)), '.0f')} ({span(np.percentile(lag, [5, 95]))})",
                f"{number(measured.median(), '.0f')} ({span(measured.quantile([0.05, 0.95]))})",
                span(last), span(stops),
            ]
        )  # fmt: skip
    numbers.add("LagGap", number(max(gaps), ".0f"))
    fastest = recordings.agents[recordings.agents["actor_lr"] == max(GRID)]
    large, small = fastest[fastest["critic_lr"] == max(GRID)], fastest[fastest["critic_lr"] < FAST]
    numbers.add("LagExact", of((large["lag"] == float(np.median(lag))).sum(), len(large)))
    numbers.add("LagSmallCritic", number(small["lag"].median(), ".0f"))
    header = [
        " & & \\multicolumn{2}{c}{shrinkage per step} & \\multicolumn{2}{c}{lag, freeze $-$ death}"
        " & \\multicolumn{2}{c}{stopping of a run}",
        "\\cmidrule(lr){3-4}\\cmidrule(lr){5-6}\\cmidrule(lr){7-8}",
        "actor lr & death & law & measured & law & measured & law & measured",
    ]
    return {"law": tabular("crrrrrrr", header, rows)}
