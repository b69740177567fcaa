"""The figures of the baseline that the text cites, each under the name of its macro."""

from __future__ import annotations

import numpy as np
import pandas as pd

from common.analysis.comparison_statistics import BASELINE, KEY
from common.config import GRID
from paper.tables_baseline import POLICIES
from paper.tables_data import (
    BOTH,
    DERIVATIVE,
    FAST,
    FLAT,
    PRESETS,
    SEEDED,
    SEEDS,
    UNSEEDED,
    Recordings,
    StudyFiles,
    heights,
)
from paper.tables_law import coin_slope
from paper.tables_text import RATE_WORDS, Numbers, camel, listed, number, of, power, power_span, rate, share, span

CAPITAL = {preset: preset.capitalize() for preset in PRESETS}


def numbers(recordings: Recordings, macros: Numbers) -> None:
    """Every figure of the baseline that the text cites."""
    runs, agents = recordings.runs, recordings.agents
    fast, slow = runs[runs["actor_lr"] >= FAST], runs[runs["actor_lr"] < FAST]
    macros.heading("design")
    macros.add("SeedList", listed([str(seed) for seed in SEEDS]))
    macros.add("NSeeds", len(SEEDS))
    macros.add("NCells", len(GRID) ** 2)
    macros.add("RunsPerPreset", len(runs) // len(PRESETS))
    macros.add("BaselineRuns", len(runs))
    macros.add("Agents", agents["agent"].nunique())
    macros.add("HoursAll", number(runs["wall_seconds"].sum() / 3600, ".1f"))
    macros.add("StudyMinutes", span(runs.groupby("preset")["wall_seconds"].sum() / 60))
    _stopping_numbers(recordings, macros, fast, slow)
    _death_numbers(recordings, macros, fast, slow, agents)
    _first_step_numbers(recordings.baselines["scaled"], macros)
    _ratio_numbers(recordings, macros)
    _score_numbers(recordings, macros, fast, slow)


def _stopping_numbers(recordings: Recordings, macros: Numbers, fast: pd.DataFrame, slow: pd.DataFrame) -> None:
    macros.heading("stopping: stopping_episode and largest_abs_preactivation of runs.csv")
    macros.add("FastStopped", of(fast["stopping_episode"].notna().sum(), len(fast)))
    macros.add("FastStopRange", span(fast["stopping_episode"]))
    macros.add("SlowNever", of(slow["stopping_episode"].isna().sum(), len(slow)))
    macros.add("SlowStopped", of(slow["stopping_episode"].notna().sum(), len(slow)))
    macros.add("SlowStopRange", span(slow["stopping_episode"]))
    for source, name in ((UNSEEDED, "Unseeded"), (SEEDED, "Seeded")):
        rows = recordings.published_stops(source)
        macros.add(f"Published{name}Range", span(rows.loc[rows["actor_lr"] >= FAST, "stopping_episode"]))
        macros.add(f"Published{name}SlowRange", span(rows.loc[rows["actor_lr"] < FAST, "stopping_episode"]))
    for preset, study in recordings.baselines.items():
        own = study.runs[study.runs["actor_lr"] >= FAST]
        macros.add(f"FastStopped{CAPITAL[preset]}", of(own["stopping_episode"].notna().sum(), len(own)))
        macros.add(f"FastStopRange{CAPITAL[preset]}", span(own["stopping_episode"]))
    claimed = recordings.claims["high"]
    macros.add("PublishedUnseededHeight", power(claimed[f"preactivation_unseeded_{max(GRID):g}"], 0))
    seeded = recordings.published_stops(SEEDED)
    for lr, word in RATE_WORDS.items():
        z = recordings.baselines["scaled"].runs.query("actor_lr == @lr")["largest_abs_preactivation"]
        macros.add(f"Height{word}", power_span(z))
        rows = seeded.loc[seeded["actor_lr"] == lr, ["last_min_preactivation", "last_max_preactivation"]]
        macros.add(f"PublishedHeight{word}", power(rows.abs().max().max()))


def _death_numbers(
    recordings: Recordings, macros: Numbers, fast: pd.DataFrame, slow: pd.DataFrame, agents: pd.DataFrame
) -> None:
    macros.heading("gradient death and its two causes: stopping_episodes.csv, gradient_norms.csv, saturation.csv")
    quick = agents[agents["actor_lr"] >= FAST]
    for lr in (1e-2, 1e-1):
        own = agents.loc[agents["actor_lr"] == lr, "gradient_death_episode"]
        macros.add(f"Death{RATE_WORDS[lr]}", number(own.median(), ".0f"))
        macros.add(f"DeathUpper{RATE_WORDS[lr]}", number(own.quantile(0.95), ".0f"))
    for preset, study in recordings.baselines.items():
        tenth = heights(study.saturation, 10)
        for lr in (1e-2, 1e-1):
            macros.add(f"HeightTen{RATE_WORDS[lr]}{CAPITAL[preset]}", number(tenth[lr], ",.0f"))
    macros.add("FastAgentsDead", of((quick["gradient_death_episode"] < 50).sum(), len(quick)))
    for preset in PRESETS:
        own = slow[slow["preset"] == preset]
        macros.add(f"SlowStoppedBaseline{CAPITAL[preset]}", of(own["stopping_episode"].notna().sum(), len(own)))
    dead = slow[slow["kind"].notna()]
    second = agents.merge(dead.loc[dead["kind"] == FLAT, [*KEY, "preset"]], on=[*KEY, "preset"])
    for lr in (1e-4, 1e-3):
        lag = second.loc[second["actor_lr"] == lr, "lag"]
        macros.add(f"LagMeasured{RATE_WORDS[lr]}", number(lag.median(), ".0f"))
    stopped = slow[slow["stopping_episode"].notna()]
    macros.add("FastDerivative", of((fast["kind"] == DERIVATIVE).sum(), len(fast)))
    macros.add("FastOther", int((fast["kind"] != DERIVATIVE).sum()))
    macros.add("FastBoth", int((fast["kind"] == BOTH).sum()))
    macros.add("FastFlat", int((fast["kind"] == FLAT).sum()))
    macros.add("FastDqDa", power_span(fast.loc[fast["kind"] == DERIVATIVE, "death_dq_da"]))
    macros.add("SlowDead", of(len(dead), len(slow)))
    macros.add("SlowDeadFlat", of((dead["kind"] == FLAT).sum(), len(dead)))
    macros.add("SlowStoppedFlat", of((stopped["kind"] == FLAT).sum(), len(stopped)))
    macros.add("SlowDeadDerivative", power_span(dead["death_derivative"]))
    macros.add("SlowDeadCriticRates", listed([rate(lr) for lr in sorted(dead["critic_lr"].unique())]))
    slopes = [
        study.norms.groupby(KEY)["mean_abs_dq_da"].min().rename("slope").reset_index().assign(preset=preset)
        for preset, study in recordings.baselines.items()
    ]
    gone = agents[(agents["actor_lr"] < FAST) & agents["gradient_death_episode"].notna()]
    gone = gone.merge(pd.concat(slopes), on=[*KEY, "preset"])
    early = gone[gone["slope"] > 0]
    macros.add("SlowAgentsDead", len(gone))
    macros.add("SlowAgentsLiveCritic", of(len(early), len(gone)))
    macros.add("SlowAgentsLiveRates", listed([rate(lr) for lr in sorted(early["actor_lr"].unique())]))
    macros.add("SlowAgentsLiveDeath", number(early["gradient_death_episode"].median(), ".0f"))
    norms = pd.concat([study.norms for study in recordings.baselines.values()])
    flat = norms[norms["mean_abs_dq_da"] == 0]
    macros.add("FlatFirstLayerZero", share((flat["critic_fc1"] == 0).mean()))
    off = flat[flat["critic_fc1"] == 0]
    macros.add("FlatSecondLayerAlive", share((off["critic_fc2"] > 0).mean()))
    macros.add("CriticMoves", of((pd.concat([fast, slow])["critic_update"] > 0).sum(), len(fast) + len(slow)))
    corner = dead[(dead["actor_lr"] == min(GRID)) & (dead["critic_lr"] == max(GRID))]
    for preset in PRESETS:
        own = corner[corner["preset"] == preset]
        macros.add(f"CornerFlat{CAPITAL[preset]}", span(own["first_flat"]))
        macros.add(f"CornerScore{CAPITAL[preset]}", span(own["normalised_score"], ".2f"))
        macros.add(f"CornerUntrained{CAPITAL[preset]}", span(own["untrained"], ".2f"))
        macros.add(f"CornerSaturation{CAPITAL[preset]}", span(own["death_saturation"], ".0%"))
        macros.add(f"CornerRuns{CAPITAL[preset]}", len(own))


def _first_step_numbers(study: StudyFiles, macros: Numbers) -> None:
    """What the first training steps do to gradients, steps and pre-activations, on one preset."""
    macros.heading("first training steps on scaled: gradient_norms.csv, saturation.csv")
    episode = study.norms["episode"].min()
    first = study.norms[study.norms["episode"] == episode]
    first = first.assign(way=first["actor_update_norm"] / first["actor_lr"])
    by_critic = first.groupby("critic_lr")[["actor_gradient_norm", "way"]].median()
    for column, name in (("actor_gradient_norm", "FirstGradient"), ("way", "FirstUpdate")):
        macros.add(f"{name}Low", power(by_critic[column].min()))
        macros.add(f"{name}High", number(by_critic[column].max(), ",.0f" if column != "way" else ".0f"))
    macros.add("HeightFirst", number(heights(study.saturation, episode).median(), ".1f"))


def _ratio_numbers(recordings: Recordings, macros: Numbers) -> None:
    macros.heading("gradient ratio: gradient_norms.csv")
    low, high = recordings.claims.loc["gradient_ratio", ["low", "high"]]
    macros.add("PublishedRatio", power_span((low, high), 0))
    for preset, study in recordings.baselines.items():
        norms, name = study.norms, CAPITAL[preset]
        first = norms[norms["episode"] == norms["episode"].min()]
        by_critic = first.groupby("critic_lr")["gradient_ratio"].median()
        alive = norms.loc[norms["gradient_ratio"] > 0, "gradient_ratio"]
        macros.add(f"RatioFirst{name}", power(first["gradient_ratio"].median()))
        macros.add(f"RatioFirstSlowest{name}", power(by_critic[min(GRID)]))
        macros.add(f"RatioFirstFastest{name}", power(by_critic[max(GRID)]))
        macros.add(f"RatioDecades{name}", number(np.log10(by_critic[max(GRID)] / by_critic[min(GRID)]), ".1f"))
        macros.add(f"RatioInRange{name}", share(alive.between(low, high).mean()))
        macros.add(f"RatioBelow{name}", share((alive < low).mean()))
        macros.add(f"RatioAbove{name}", share((alive > high).mean()))


def _score_numbers(recordings: Recordings, macros: Numbers, fast: pd.DataFrame, slow: pd.DataFrame) -> None:
    macros.heading("scores, sides and saturation: runs.csv, evaluations.csv, reference_policies.csv")
    for preset, study in recordings.baselines.items():
        runs, name, row = study.runs, CAPITAL[preset], recordings.compared[preset].loc[BASELINE]
        best = study.ends.loc[runs["normalised_score"].idxmax()]
        quick = runs[runs["actor_lr"] >= FAST]
        macros.add(f"Improved{name}", of(int(study.improved.sum()), len(runs)))
        macros.add(f"ImprovedCells{name}", of(row.improved_cells, row.cells_with_intervals))
        macros.add(f"AboveConstant{name}", of(study.above_constant, len(runs)))
        macros.add(f"MedianScore{name}", number(runs["normalised_score"].median()))
        macros.add(f"Alpha{name}", span(study.constant_shares, ".2f"))
        macros.add(f"Untrained{name}", span(study.untrained, ".2f"))
        macros.add(f"ConstantScore{name}", span(study.constant_scores, ".2f"))
        macros.add(f"WrongSide{name}", share(runs["final_wrong_side_saturation"].median()))
        macros.add(f"WrongFast{name}", share(quick["final_wrong_side_saturation"].mean()))
        macros.add(f"MedianScoreFast{name}", number(quick["normalised_score"].median()))
        macros.add(f"Saturation{name}", share(runs["final_saturation_ratio"].median()))
        macros.add(f"BestScore{name}", number(best["normalised_score"]))
        macros.add(f"BestPair{name}", f"({rate(best['actor_lr'])}, {rate(best['critic_lr'])})")
        macros.add(f"BestFlat{name}", number(best["first_flat"], ".0f"))
        macros.add(f"BestSaturation{name}", share(best["final_saturation_ratio"]))
        known = runs[["normalised_score", "final_wrong_side_saturation"]].dropna()
        macros.add(f"SideCorrelation{name}", number(known.rank().corr().iloc[0, 1]))
        for policy in POLICIES:
            macros.add(f"Return{camel(policy)}{name}", number(study.references[policy].mean(), ",.0f"))
        macros.add(f"ReturnBest{name}", number(runs["final_evaluation_return"].max(), ",.0f"))
        macros.add(f"ReturnMedian{name}", number(runs["final_evaluation_return"].median(), ",.0f"))
    never = slow[slow["stopping_episode"].isna()]
    stopped = pd.concat([fast, slow[slow["stopping_episode"].notna()]])
    macros.add("NeverImproved", of(int(never["improved"].sum()), len(never)))
    for label, rows in (("Never", never), ("Stopped", stopped)):
        own = rows.loc[rows["preset"] == "scaled", "improved"]
        macros.add(f"{label}ImprovedScaled", of(int(own.sum()), len(own)))
    macros.add("NeverScore", number(never["normalised_score"].median()))
    macros.add("StoppedImproved", of(int(stopped["improved"].sum()), len(stopped)))
    macros.add("StoppedScore", number(stopped["normalised_score"].median()))
    everything = pd.concat([never, stopped])
    macros.add("ImprovedAll", of(int(everything["improved"].sum()), len(everything)))
    macros.add("AboveConstantAll", of(sum(s.above_constant for s in recordings.baselines.values()), len(everything)))
    improved = everything[everything["improved"]]
    macros.add("ImprovedCount", len(improved))
    macros.add("ImprovedFlat", int((improved["kind"] == FLAT).sum()))
    macros.add("SaturationByRate", span(everything.groupby("actor_lr")["final_saturation_ratio"].median(), ".0%"))
    _side_numbers(recordings, macros, fast)
    scores = pd.concat([study.scores.assign(preset=preset) for preset, study in recordings.baselines.items()])
    quick = scores[scores["actor_lr"] >= FAST].pivot_table(index=["preset", *KEY], columns="episode", values="score")
    episodes = sorted(quick.columns)
    macros.add("DropEpisode", episodes[1])
    macros.add("DropRuns", of((quick[episodes[1]] < quick[0]).sum(), len(quick)))
    macros.add("DropMedian", number((quick[0] - quick[episodes[1]]).median()))
    later = max(e for e in episodes if quick[e].notna().all())
    macros.add("LaterEpisode", later)
    macros.add("LaterChange", number((quick[later] - quick[episodes[1]]).abs().median()))


def _side_numbers(recordings: Recordings, macros: Numbers, fast: pd.DataFrame) -> None:
    """How well the share of agents on the wrong bound alone tells the score on `scaled`, without a fitted number."""
    runs = recordings.baselines["scaled"].runs.dropna(subset="final_wrong_side_saturation")
    error = runs["normalised_score"] - (1 - coin_slope() * runs["final_wrong_side_saturation"])
    spread = runs["normalised_score"] - runs["normalised_score"].mean()
    macros.add("SideExplained", share(1 - (error**2).sum() / (spread**2).sum()))
    macros.add("SideError", number(error.abs().median()))
    spread = 2 * 0.5 / np.sqrt(recordings.agents["agent"].nunique())
    macros.add("CoinSpread", share(spread))
    inside = (fast["final_wrong_side_saturation"] - 0.5).abs() <= spread
    macros.add("CoinRuns", of(int(inside.sum()), len(fast)))
    high = fast.loc[(fast["preset"] == "scaled") & (fast["critic_lr"] >= 1e-2), "final_wrong_side_saturation"]
    macros.add("WrongFastCriticHigh", share(high.mean()))
    macros.add("WrongFastCriticHighHalf", of(int((high <= 0.5).sum()), len(high)))
    found = []
    for study in recordings.baselines.values():
        rows = study.saturation[study.saturation["actor_lr"] >= FAST]
        sides = rows.pivot_table(index=KEY, columns="episode", values="wrong_side_saturation")
        final = study.runs.set_index(KEY)["final_wrong_side_saturation"].reindex(sides.index)
        found.append(sides.sub(final, axis=0).abs())
    away = pd.concat(found)
    macros.add("SideSetTen", of(int((away[10] < 0.025).sum()), len(away)))
