"""What the text says in words, as conditions on the data; the tables are not written when one fails."""

from __future__ import annotations

import numpy as np
import pandas as pd

from common.analysis.comparison_statistics import BASELINE, pair_runs
from common.config import GRID
from paper.tables_data import DERIVATIVE, FAST, FLAT, SEEDED, UNSEEDED, Recordings, heights, pair
from paper.tables_law import coin_slope, flat_tanh


def contradicted(recordings: Recordings) -> list[str]:
    """Statements of the text that the data do not bear out."""
    return [text for text, holds in statements(recordings) if not holds]


def statements(r: Recordings) -> list[tuple[str, bool]]:
    """Sentences of sections/*.tex, shortened, and whether they hold."""
    return [*_stopping(r), *_deaths(r), *_ratios(r), *_scores(r)]


def _stopping(r: Recordings) -> list[tuple[str, bool]]:
    runs = r.runs
    fast, slow = runs[runs["actor_lr"] >= FAST], runs[runs["actor_lr"] < FAST]
    scaled = r.baselines["scaled"].runs
    same = all(
        pair(scaled, a, c)["stopping_episode"].notna().any() == pair(theirs, a, c)["stopping_episode"].notna().any()
        for theirs in (r.published_stops(UNSEEDED), r.published_stops(SEEDED))
        for a in GRID
        for c in GRID
    )
    agents = r.agents
    largest = agents[(agents["actor_lr"] == max(GRID)) & (agents["critic_lr"] == max(GRID))]
    smallest = [rows["stopping_episode"].min() for rows in (r.published_stops(UNSEEDED), r.published_stops(SEEDED))]
    return [
        ("every run with a large actor rate stops, on every preset", fast["stopping_episode"].notna().all()),
        ("the others stop late", slow["stopping_episode"].min() > fast["stopping_episode"].max()),
        ("on scaled the same pairs stop as in the published table", same),
        ("gradients of large actor rates die long before the freeze", _before(fast)),
        ("at 1e-1 gradients die after a single training step", (_deaths_at(r, 0.1).median() == 3)),
        ("the shortest lag is that of all agents at the largest rates", largest["lag"].nunique() == 1),
        (
            "the smallest stopping episode is the same, published and here",
            {*smallest, fast["stopping_episode"].min()} == {smallest[0]},
        ),
    ]


def _deaths(r: Recordings) -> list[tuple[str, bool]]:
    runs, agents = r.runs, r.agents
    fast, slow = runs[runs["actor_lr"] >= FAST], runs[runs["actor_lr"] < FAST]
    lags = agents.groupby("actor_lr")["lag"].median()
    dead = slow[slow["kind"].notna()]
    corner = dead[(dead["actor_lr"] == min(GRID)) & (dead["critic_lr"] == max(GRID)) & (dead["preset"] != "scaled")]
    logged = r.baselines["scaled"].saturation
    tenth = logged[(logged["episode"] == 10) & (logged["actor_lr"] >= FAST)][["z_min", "z_max"]].abs().max(axis=1)
    norms = [study.norms for study in r.baselines.values()]
    first_layer = np.mean(np.concatenate([(n.loc[n["mean_abs_dq_da"] == 0, "critic_fc1"] == 0) for n in norms]))
    found = [
        ("most fast runs die of the tanh derivative alone", (fast["kind"] == DERIVATIVE).mean() > 0.9),
        (
            "in the other fast runs the critic's slope is zero",
            (fast.loc[fast["kind"] != DERIVATIVE, "death_dq_da"] == 0).all(),
        ),
        ("every slow run that died or stopped died of a flat critic", (dead["kind"] == FLAT).all()),
        ("every slow run that stopped died", slow.loc[slow["stopping_episode"].notna(), "kind"].notna().all()),
        ("a flat critic's first layer has no gradient, nearly always", first_layer > 0.9),
        ("slow runs die only with critic rates from 1e-2", (dead["critic_lr"] >= 1e-2).all()),
        ("where the critic dies early the actors are not saturated", (corner["death_saturation"] < 0.05).all()),
        ("after a second death the coast is shorter", lags[lags.index < FAST].max() < lags[lags.index >= FAST].min()),
        ("critics move until the end", (runs["critic_update"] > 0).all()),
        ("by episode 10 the largest |z| is beyond a flat tanh", (tenth > flat_tanh()).all()),
    ]
    for preset in r.baselines:
        normed = r.studies.get(("layernorm", preset))
        if normed is not None:
            kinds = normed.ends["kind"].dropna()
            found.append((f"with LayerNorm every death on {preset} is the second", (kinds == FLAT).all()))
    clipped = r.studies.get(("gradient_clipping", "scaled"))
    if clipped is not None:
        stops = [s.runs.loc[s.runs["actor_lr"] < FAST, "stopping_episode"] for s in (clipped, r.baselines["scaled"])]
        found.append(("clipping leaves fewer slow runs that stop", stops[0].notna().sum() < stops[1].notna().sum()))
    large = r.studies.get(("large_actor", "scaled"))
    if large is not None:
        own = large.ends[large.ends["actor_lr"] == 1e-3]
        jump = heights(large.saturation, 10)[1e-3] > 2 * flat_tanh()
        found.append(("a large actor dies the first death at 1e-3, too", (own["kind"] == DERIVATIVE).all() and jump))
        top = large.runs.groupby("actor_lr")["largest_abs_preactivation"].median()
        claimed = pd.Series({lr: r.claims.loc[f"preactivation_unseeded_{lr:g}", "high"] for lr in GRID[1:]})
        near = (top.loc[GRID[1] :] / claimed).between(1 / 2, 2).all()
        found.append(("its largest |z| are near those of the unseeded run from 1e-3 on", near))
        stops = large.runs.loc[large.runs["actor_lr"] == 1e-3, "stopping_episode"]
        found.append(("nearly all its runs at 1e-3 stop", 0.9 < stops.notna().mean() < 1))
        found.append(("a large actor stops in more pairs", large.runs["stopping_episode"].notna().mean() > 0.75))
    linear = r.studies.get(("linear_activation", "scaled"))
    if linear is not None:
        ends = linear.ends[linear.ends["actor_lr"] < FAST]
        live = not ends["last_flat"].any() and ends["stopping_episode"].isna().all()
        found.append(("without ReLU no slow run stops and no critic is flat", live))
        quick = linear.ends[linear.ends["actor_lr"] >= FAST]
        found.append(("without ReLU the fast runs stop as before", quick["stopping_episode"].notna().all()))
        found.append(("without ReLU every death is the first", (linear.ends["kind"].dropna() == DERIVATIVE).all()))
    return found + _input_norm(r)


def _input_norm(r: Recordings) -> list[tuple[str, bool]]:
    study = r.studies.get(("input_norm", "scaled"))
    if study is None:
        return []
    row = r.compared["scaled"].loc["input_norm"]
    inner = r.studies.get(("input_norm", "interior"))
    found = []
    if inner is not None:
        scores = inner.runs.groupby(["actor_lr", "critic_lr"])["normalised_score"].mean()
        better, gains = inner.runs[inner.improved], _gains(r, "input_norm", "interior")
        learning = scores[scores > inner.constant_scores.min() * 0.9].reset_index()
        found = [
            ("with normalised inputs a pair on interior learns", len(learning) > 0),
            ("and runs there improve at the smallest actor rate only",
             set(better["actor_lr"]) == {min(GRID)}),
            ("up to 1e-2 its score there is above the baseline's", gains.loc[:FAST].min() > 0.1),
            ("the first jump of full normalisation is as short, and nothing improves there", _short_jump(r)),
            ("runs that improve there are not saturated", better["final_saturation_ratio"].max() < 0.1),
            ("some of its runs beat the best constant", inner.above_constant > 0),
            ("its median stays below random", inner.runs["normalised_score"].median() < 0),
        ]  # fmt: skip
        best = max((n for n in r.compared["scaled"].index if n != BASELINE),
                   key=lambda n: r.compared["scaled"].loc[n].paired_score_difference)  # fmt: skip
        found.append(("normalised inputs move the score on scaled most", best == "input_norm"))
    return [
        *found,
        ("with normalised inputs the median run on scaled still saturates", row.median_final_saturation > 0.75),
        ("mostly on the side that pays", row.median_final_wrong_side_saturation < 0.3),
        (
            "there a flat critic's first layer is alive",
            (study.norms.loc[study.norms["mean_abs_dq_da"] == 0, "critic_fc1"] > 0).all(),
        ),
        (
            "and critics are flat at the smallest rates",
            (study.norms.loc[study.norms["mean_abs_dq_da"] == 0, "critic_lr"] < FAST).all(),
        ),
        ("and some runs die the first death", (study.ends["kind"] == DERIVATIVE).any()),
    ]


def _gains(r: Recordings, name: str, preset: str) -> pd.Series:
    """Mean paired score difference to the baseline by actor rate."""
    pairs = pair_runs(r.studies[name, preset].runs, r.baselines[preset].runs)
    return pairs.groupby("actor_lr")["difference"].mean()


def _short_jump(r: Recordings) -> bool:
    full, plain = r.studies.get(("fullnorm", "interior")), r.studies["input_norm", "interior"]
    if full is None:
        return True
    fast = [heights(study.saturation, 10).loc[FAST:] for study in (full, plain)]
    return bool((fast[0] <= fast[1]).all()) and not full.improved.any()


def _ratios(r: Recordings) -> list[tuple[str, bool]]:
    found = []
    for preset, study in r.baselines.items():
        first = study.norms[study.norms["episode"] == study.norms["episode"].min()]
        by_critic = first.groupby("critic_lr")["gradient_ratio"].median()
        found.append((f"the first ratio on {preset} grows with the critic rate", by_critic.is_monotonic_increasing))
    return found


def _scores(r: Recordings) -> list[tuple[str, bool]]:
    runs = r.runs
    never, stopped = runs[runs["stopping_episode"].isna()], runs[runs["stopping_episode"].notna()]
    fast = runs[runs["actor_lr"] >= FAST]
    improved = runs[runs["improved"]]
    cells = [r.compared[preset].loc[BASELINE].improved_cells for preset in r.baselines]
    best = {p: s.ends.loc[s.runs["normalised_score"].idxmax()] for p, s in r.baselines.items()}
    saturated = runs.groupby("actor_lr")["final_saturation_ratio"].median()
    sides = fast.groupby("preset")["final_wrong_side_saturation"].mean()
    scores = {preset: rows["normalised_score"].median() for preset, rows in fast.groupby("preset")}
    both = [rows["normalised_score"].median() for rows in (never, stopped)]
    unlearned = [best[preset] for preset in ("thesis", "interior")]
    return [
        ("no run reaches the best constant", not any(study.above_constant for study in r.baselines.values())),
        ("runs improve on scaled only", set(improved["preset"]) <= {"scaled"}),
        ("nearly all runs are worse than untrained", runs["improved"].mean() < 0.1),
        ("in no pair is an improvement shown", not any(cells)),
        ("runs that never stop hardly improve", never["improved"].mean() < 0.1),
        ("most improved runs have a flat critic", (improved["kind"] == FLAT).mean() > 0.5),
        ("runs that never stop and those that do both end below random", max(both) < 0),
        ("the median run is below random on every preset", (_medians(runs) < 0).all()),
        ("the median run is saturated at every actor rate", (saturated > 0.9).all()),
        ("wrong sides are near a coin's", (sides - 0.5).abs().max() < 0.05),
        ("a coin scores as the fast runs on scaled", abs(scores["scaled"] - (1 - coin_slope() / 2)) < 0.1),
        ("the best runs are at the same pair", len({(b["actor_lr"], b["critic_lr"]) for b in best.values()}) == 1),
        ("on thesis and interior the best run's critic died early", all(b["first_flat"] <= 50 for b in unlearned)),
        ("and it is not saturated", all(b["final_saturation_ratio"] < 0.05 for b in unlearned)),
    ]


def _medians(runs: pd.DataFrame) -> pd.Series:
    return runs.groupby("preset")["normalised_score"].median()


def _before(fast: pd.DataFrame) -> bool:
    return bool((fast["median_freeze_episode"] - fast["median_death_episode"] > 100).all())


def _deaths_at(r: Recordings, actor_lr: float) -> pd.Series:
    return r.agents.loc[r.agents["actor_lr"] == actor_lr, "gradient_death_episode"]
