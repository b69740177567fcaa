"""What the data say of each published claim, by rule, and whether the sentences of the text hold.

A claim is judged on the configuration it was made for: where the published version changed two things at once, that
is the double change (results/double_changes). Double changes were stopped early, so they are judged by stopping only;
scores are judged on the single change, and only where all of them are of one age. The rules are in the docstrings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from common.analysis.comparison_statistics import BASELINE, KEY, VIABLE, pair_runs
from common.analysis.statistics import reproduces
from common.config import GRID
from experiments.monitor.study_summary import LIFTED, limited_alone
from paper import load
from paper.coasting import flat_tanh
from paper.load import NotRecorded, Recordings, StudyFiles, fast
from paper.text import number, of, share, significant, span, stopping_range

REPRODUCED, PARTLY, NOT, OPEN = "reproduced", "partly", "not reproduced", "not recorded"
STOPPING = "stopping reproduced"  # where the claim is about scores, too, which were not judged
CELLS = len(GRID) ** 2
FACTOR = 3.0  # by which a published ratio or height may be missed
TOO_SLOW = 2.0  # times the baseline's time per episode above which an experiment counts as too slow
IN_RANGE = 0.9  # share of the ratios that must lie in the published range
MOST = 2 / 3  # share of single runs that must do as published
CLAMPED = "clamped_rates"
COST_FILE = load.ROOT / "benchmarks" / "results" / "experiments_cpu.csv"


@dataclass(frozen=True)
class Verdict:
    """One line of the table, in plain text; `key` is what the pages and the text call it by."""

    key: str
    claim: str
    published: str
    here: str
    verdict: str


def all_verdicts(r: Recordings) -> list[Verdict]:
    """Every claim that can be judged, in the order of the table: those of the baseline need the baseline."""
    found = []
    if "scaled" in r.baselines:
        found += [freeze(r), heights(r, seeded=False), heights(r, seeded=True), ratio(r), run_on(r), run_on_learn(r)]
    if "thesis" in r.baselines:
        found.append(few_learn(r))
    if "scaled" in r.baselines:
        found += [large_actor(r), linear(r), outcome(r, "layernorm"), outcome(r, "input_norm")]
        found += [outcome(r, "adaptive_scaling"), outcome(r, "gradient_clipping")]
    return [*found, too_slow()]


def freeze(r: Recordings) -> Verdict:
    """Reproduced: every fast run on `scaled` stops, their median within both published ranges. Partly: most stop."""
    runs = fast(r.baselines["scaled"].runs)
    stops = runs["stopping_episode"]
    ranges = [fast(r.published_stops(source))["stopping_episode"] for source in (load.UNSEEDED, load.SEEDED)]
    inside = all(theirs.min() <= stops.median() <= theirs.max() for theirs in ranges)
    word = REPRODUCED if stops.notna().all() and inside else PARTLY if stops.notna().mean() > 0.5 else NOT
    published = f"episodes {span(ranges[0])} (unseeded), {span(ranges[1])} (seeded)"
    here = f"{of(stops.notna().sum(), len(runs))} runs, episodes {stopping_range(stops)}"
    return Verdict("freeze", "actor learning rates from 0.01 freeze all actors early", published, here, word)


def heights(r: Recordings, seeded: bool) -> Verdict:
    """Reproduced: the largest |z| grows with the rate, each median within FACTOR of the published. Partly: it grows."""
    ours = r.baselines["scaled"].runs.groupby("actor_lr")["largest_abs_preactivation"].median()
    theirs = published_heights(r, seeded).reindex(ours.index)
    near = (ours / theirs).between(1 / FACTOR, FACTOR).all()
    word = NOT if not ours.is_monotonic_increasing else REPRODUCED if near else PARTLY
    texts = [", ".join(significant(x, 2) for x in series) for series in (theirs, ours)]
    which = "seeded" if seeded else "unseeded"
    claim = f"pre-activations explode with the actor learning rate ({which} run)"
    return Verdict(f"heights_{which}", claim, texts[0], f"{texts[1]} (medians)", word)


def published_heights(r: Recordings, seeded: bool) -> pd.Series:
    """Published largest |z| by actor learning rate."""
    if not seeded:
        return pd.Series({lr: r.claims.loc[f"preactivation_unseeded_{lr:g}", "high"] for lr in GRID})
    rows = r.published_stops(load.SEEDED).set_index("actor_lr")[["last_min_preactivation", "last_max_preactivation"]]
    return rows.abs().max(axis=1).groupby(level=0).max()


def ratio(r: Recordings) -> Verdict:
    """Reproduced: IN_RANGE of the non-zero ratios on `scaled` are in the published range. Partly: more than half."""
    low, high = r.claims.loc["gradient_ratio", ["low", "high"]]
    found = r.baselines["scaled"].norms["gradient_ratio"]
    inside = found[found > 0].between(low, high).mean()
    word = REPRODUCED if inside >= IN_RANGE else PARTLY if inside > 0.5 else NOT
    claim = "actor gradients are smaller than the critic's by 4 to 8 orders of magnitude"
    published = f"{significant(low, 1)} to {significant(high, 1)}"
    here = f"{share(inside)} of the ratios that are not zero are in that range"
    return Verdict("ratio", claim, published, here, word)


def run_on(r: Recordings) -> Verdict:
    """Reproduced: the published count of pairs that run on is inside the interval of ours."""
    runs, there = r.baselines["scaled"].runs, r.claims.loc["pairs_learning_later", "low"]
    here = CELLS * runs["never"].mean()
    word = REPRODUCED if reproduces(here, there, CELLS) else NOT
    claim = f"some of the {CELLS} pairs run to the last episode"
    return Verdict("run_on", claim, of(there, CELLS), f"{number(here, '.1f')} of {CELLS} (mean over seeds)", word)


def run_on_learn(r: Recordings) -> Verdict:
    """Reproduced: most baseline runs on `scaled` that never stop end better than untrained. Partly: a quarter."""
    runs = r.baselines["scaled"].runs
    never = runs[runs["never"]]
    gained = never["improved"].mean()
    word = REPRODUCED if gained > 0.5 else PARTLY if gained >= 0.25 else NOT
    here = f"{of(never['improved'].sum(), len(never))} such runs beat their untrained policy"
    return Verdict("run_on_learn", "the pairs that run on are those that learn", "implied", here, word)


def few_learn(r: Recordings) -> Verdict:
    """Reproduced: as many pairs of `thesis` improve, by interval or in every seed, as a count can say."""
    row, there = r.compared["thesis"].loc[BASELINE], r.claims.loc["pairs_learning_thesis", "low"]
    here, how = row.improved_cells, "by interval"
    if pd.isna(here):
        here, how = row.cells_improved_in_every_seed, "in every seed"
    word = REPRODUCED if reproduces(here, there, row.cells) else NOT
    claim = f"in the original setting few of the {CELLS} pairs learn"
    text = f"{of(here, row.cells)} ({how}; `thesis`)"
    return Verdict("few_learn", claim, f"{of(there, CELLS)} over 10 runs", text, word)


def large_actor(r: Recordings) -> Verdict:
    """Reproduced: MOST single runs stop later by as many episodes as published. Partly: MOST stop later at all."""
    there = r.claims.loc["large_actor_later"]
    claim = "a larger actor stops a little later"
    published = f"{there['low']:.0f} to {there['high']:.0f} episodes later"
    shift = stopping_shifts(r, "large_actor")
    if shift is None:
        return Verdict("large_actor", claim, published, OPEN, OPEN)
    inside = shift.between(there["low"], there["high"])
    word = REPRODUCED if inside.mean() >= MOST else PARTLY if (shift > 0).mean() >= MOST else NOT
    here = (
        f"{of(inside.sum(), len(shift))} runs do, {of((shift > 0).sum(), len(shift))} stop later: {span(shift, '+.0f')}"
    )
    return Verdict("large_actor", claim, published, here, word)


def stopping_shifts(r: Recordings, name: str) -> pd.Series | None:
    """Episodes by which a study's fast runs on `scaled` stop later than the baseline's of the same seed and rates."""
    study = r.get("scaled", name)
    if study is None:
        return None
    both = fast(study.runs).merge(r.baselines["scaled"].runs, on=KEY, suffixes=("", "_base"))
    return both["stopping_episode"] - both["stopping_episode_base"]


def linear(r: Recordings) -> Verdict:
    """Reproduced: the largest |z| is above the baseline's by the published ratio, to within FACTOR. Partly: above."""
    claim, there = "linear hidden layers make the explosion worse", r.claims.loc["linear_preactivation", "low"]
    study, which = faithful(r, "linear_activation")
    if study is None:
        return Verdict("linear_activation", claim, f"{there:.0f} times", OPEN, OPEN)
    here = height_ratio(study, r.baselines["scaled"])
    word = REPRODUCED if there / FACTOR <= here <= there * FACTOR else PARTLY if here > 1 else NOT
    return Verdict("linear_activation", claim, f"{there:.0f} times", f"{significant(here)} times ({which})", word)


def height_ratio(study: StudyFiles, baseline: StudyFiles) -> float:
    """Largest |z| of a grid over the baseline's, mean over the seeds that both have."""
    own, base = (s.runs.groupby("seed")["largest_abs_preactivation"].max() for s in (study, baseline))
    return float((own / base).dropna().mean())


def outcome(r: Recordings, name: str) -> Verdict:
    """Reproduced: as many pairs never stop as published, as a count can say, and a majority or minority does better.

    Partly: one of both. How many do better is judged where scores are of one age; else the verdict is of stopping only.
    """
    theirs, (study, which) = r.outcomes.loc[name], faithful(r, name)
    counts = {"never stop": theirs["cells_never_stopping"], "score better": theirs["cells_better_than_baseline"]}
    published = ", ".join(f"{value:.0f} of {CELLS} {what}" for what, value in counts.items())
    if study is None:
        return Verdict(name, theirs["claim"], published, OPEN, OPEN)
    here = CELLS * float(study.runs["never"].mean())
    judged = [reproduces(here, counts["never stop"], CELLS)]
    better = better_pairs(r, name)
    unjudged = "; scores not compared" if better is None else ""
    text = f"{number(here, '.1f')} of {CELLS} never stop ({which}{unjudged})"
    if better is not None:
        text += f", {number(better, '.1f')} better" + " (single change)" * (study is not r.get("scaled", name))
        judged.append(same_side(counts["score better"], better))
    whole = REPRODUCED if better is not None else STOPPING
    word = (NOT, PARTLY, whole)[0 if not any(judged) else 1 + all(judged)]
    return Verdict(name, theirs["claim"], published, text, word)


def better_pairs(r: Recordings, name: str) -> float | None:
    """Pairs of rates on `scaled` that score higher than the baseline's, mean over seeds; None where ages differ."""
    study, base = r.get("scaled", name), r.baselines["scaled"]
    if study is None or not comparable(study, base):
        return None
    return CELLS * float((pair_runs(study.runs, base.runs)["difference"] > 0).mean())


def comparable(study: StudyFiles, other: StudyFiles) -> bool:
    """Whether the scores of two studies are all of one age."""
    return pd.concat([study.runs["score_episode"], other.runs["score_episode"]]).nunique() == 1


def faithful(r: Recordings, name: str) -> tuple[StudyFiles | None, str]:
    """The study on `scaled` that changes what the published version changed, and what to call it."""
    if study := r.doubles.get(name):
        return study, "published double change"
    return r.get("scaled", name), "single change"


def same_side(there: float, here: float) -> bool:
    """Whether counts of pairs are on the same side of half; a published half must be inside the count's interval."""
    half = CELLS / 2
    return reproduces(here, there, CELLS) if there == half else (here > half) == (there > half)


def too_slow() -> Verdict:
    """Reproduced: full normalisation costs more than TOO_SLOW times the baseline."""
    here = cost_ratio("fullnorm")
    word = OPEN if pd.isna(here) else REPRODUCED if here > TOO_SLOW else NOT
    text = f"{number(here)} times the baseline's time per episode"
    return Verdict("fullnorm", "full normalisation is too slow to run", "cancelled", text, word)


def cost_ratio(name: str) -> float:
    """Time per episode over the baseline's, from the benchmark's file; NaN where it is not measured."""
    return float(pd.read_csv(COST_FILE).set_index("experiment")["ratio"].get(name, float("nan")))


def _baselines(r: Recordings) -> list[StudyFiles]:
    return list(r.need_baselines().values())


def _beyond(r: Recordings) -> bool:
    rows = fast(r.need("scaled").saturation)
    return bool((rows.loc[rows["episode"] == 10, ["z_min", "z_max"]].abs().max(axis=1) > flat_tanh()).all())


def _slow_deaths_are_flat(r: Recordings) -> bool:
    slow = fast(r.runs, False)
    dead = slow["kind"].notna()
    return bool((slow.loc[dead, "kind"] == load.FLAT).all() and dead[slow["stopped"]].all())


def _first_layer(r: Recordings) -> float:
    slow = fast(r.runs, False)
    return slow.loc[slow["kind"].notna(), "first_layer_zero"].mean()


def _coasts(r: Recordings) -> bool:
    ends = r.runs.loc[r.runs["kind"] == load.FLAT, [*KEY, "preset"]]
    second = fast(r.agents.merge(ends, on=[*KEY, "preset"]), False)
    return bool(second["lag"].median() < fast(r.agents)["lag"].median())


def first_ratio_decades(r: Recordings) -> tuple[float, float]:
    """Decades by which the first gradient ratio moves with the critic's rate, and with the preset, in the mean."""
    first = pd.concat([s.first(s.norms).assign(preset=p) for p, s in r.need_baselines().items()])
    logs = first.assign(log=np.log10(first["gradient_ratio"])).pivot_table("log", "critic_lr", "preset", "median")
    spread = [np.ptp(logs.to_numpy(), axis=axis).mean() for axis in (0, 1)]
    return float(spread[0]), float(spread[1])


def _coin(r: Recordings) -> bool:
    sides = fast(r.runs).groupby("preset")["final_wrong_side_saturation"].mean()
    return bool((sides - 0.5).abs().max() < 0.05)


def side_agreement(r: Recordings) -> dict[str, float]:
    """Share of agents of fast runs whose compute output ends on the same side as another's of the same seed.

    KeptSmall, KeptLarge: as untrained, at critic rates below FAST and from it on. Actors: as with the other fast actor
    rate. Presets: as on the other of `scaled` and `interior`. Critics: at the largest critic rate as at the smallest;
    CriticsLarge: as at the one before it.
    """
    rows = pd.concat([fast(r.need(preset).agents).assign(preset=preset) for preset in ("scaled", "interior")])
    names = ["preset", "actor_lr", "critic_lr", "seed", "agent"]
    sides = np.sign(rows.set_index(names)[["first_side_compute", "last_side_compute"]]).dropna()
    rates = [set(sides.index.unique(name)) for name in ("actor_lr", "critic_lr")]
    if sides.empty or not {*GRID[-2:]} <= rates[0] or not {*GRID} <= rates[1]:
        raise NotRecorded(f"{r.results}: no baselines of the whole grid that say on which side outputs begin")
    kept, large = (sides["first_side_compute"] == sides["last_side_compute"]), sides.index.get_level_values("critic_lr")

    def agree(name: str, low: Any, high: Any) -> float:
        both = sides["last_side_compute"].unstack(name)[[low, high]].dropna()
        return float((both[low] == both[high]).mean())

    return {
        "KeptSmall": float(kept[large < load.FAST].mean()),
        "KeptLarge": float(kept[large >= load.FAST].mean()),
        "Actors": agree("actor_lr", *GRID[-2:]),
        "Presets": agree("preset", "scaled", "interior"),
        "Critics": agree("critic_lr", GRID[0], GRID[-1]),
        "CriticsLarge": agree("critic_lr", *GRID[-2:]),
    }


def _side_of_the_critic(r: Recordings) -> bool:
    agreed = side_agreement(r)
    same = min(agreed[name] for name in ("Actors", "Presets", "CriticsLarge"))
    near_chance = abs(agreed["KeptSmall"] - 0.5) < 0.1
    return same > 0.9 and near_chance and agreed["KeptLarge"] < 0.3 and agreed["Critics"] < 0.6


def _gap(studies: list[StudyFiles]) -> float:
    """Share of improved runs among those that never stop, above that among the others."""
    runs = pd.concat([study.runs for study in studies])
    return runs.loc[runs["never"], "improved"].mean() - runs.loc[~runs["never"], "improved"].mean()


def _below(r: Recordings, *names: str) -> bool:
    return all(r.need("interior", name) and r.row("interior", name).median_score < 0 for name in names)


def _no_deaths(r: Recordings, name: str, kind: str) -> bool:
    studies = [s for p in r.baselines if (s := r.get(p, name))]
    return bool(all((study.ends["kind"] != kind).all() for study in studies))


def come_back(r: Recordings) -> dict[str, tuple[pd.Series, pd.DataFrame]]:
    """Inverted gradients and the penalty on `interior`: the largest |z| by episode at the largest actor rate, median
    over runs, and the last log of every run with its `normalised_score` and whether its critic is `flat`."""
    found = {}
    for name in ("inverting_gradients", "pre_activation_penalty"):
        study = r.need("interior", name)
        quick = study.saturation[study.saturation["actor_lr"] == GRID[-1]]
        heights = quick[["z_min", "z_max"]].abs().max(axis=1).groupby(quick["episode"]).median()
        last = study.saturation.merge(study.norms[[*KEY, "episode", "mean_abs_dq_da"]], on=[*KEY, "episode"])
        last = last.sort_values("episode").groupby(KEY).tail(1)
        last = last.merge(study.runs[[*KEY, "normalised_score"]], on=KEY)
        found[name] = heights, last.assign(flat=last["mean_abs_dq_da"] == 0)
    return found


def _brought_back(r: Recordings) -> bool:
    found = come_back(r).values()
    return all(heights.iloc[-1] < heights.max() / 10 for heights, _ in found) and all(
        last["dq_da_alignment_compute"].median() < 0 and last.loc[last["normalised_score"] >= VIABLE, "flat"].all()
        for _, last in found
    )


def _published_above(r: Recordings) -> bool:
    study = r.need("scaled")
    theirs = load.pair(r.published_stops(load.SEEDED), 1e-4, 1e-2)["last50_mean_return"]
    ours = study.evaluations.query("critic_lr == 1e-2")["score"].max()
    return bool(study.scored_on_average(theirs).max() > ours)


def _alike(r: Recordings) -> bool:
    rows = r.need_monitor().query("task == 'Pendulum-v1' and learning_rate == 0.001")
    medians = rows.pivot_table("return_mean", "algorithm", "arm", "median")
    if not {"plain", "limit both"} <= set(medians):
        raise NotRecorded("monitor: not recorded at 0.001")
    return bool(((medians["plain"] - medians["limit both"]).abs() < 30).all())


def _actors_limit(r: Recordings) -> bool:
    actor, critic = _solved_alone(r, third=False)
    return actor > 0.8 and critic < 0.2


def _more_than_one_limit(r: Recordings) -> bool:
    return max(_solved_alone(r, third=True)) < 0.5


def _solved_alone(r: Recordings, third: bool) -> tuple[float, float]:
    """Shares of runs on Pendulum at 0.1 that are solved with the actor's and with the critic's limit alone."""
    runs = r.need_monitor().query("task == 'Pendulum-v1' and learning_rate == 0.1")
    actor, critic = limited_alone(runs, third)
    if not (len(actor) and len(critic)):
        raise NotRecorded("monitor: no limit alone is recorded at 0.1")
    return tuple((own["return_mean"] > LIFTED["Pendulum-v1"]).mean() for own in (actor, critic))


def _row(r: Recordings, preset: str, name: str) -> pd.Series:
    return r.row(preset, r.need(preset, name).name)


def _all_viable(r: Recordings, name: str) -> bool:
    row = _row(r, "interior", name)
    return row.viable_cells == row.cells


def _above_the_recipe(r: Recordings, preset: str, name: str) -> float:
    return _row(r, preset, name).median_score - _row(r, preset, "recipe").median_score


def _needed(r: Recordings, *parts: str) -> bool:
    return all(_above_the_recipe(r, "interior", f"recipe-without-{part}") < -0.5 for part in parts)


def _viable_of_the_recipe(r: Recordings) -> set[int]:
    return {_row(r, preset, "recipe").viable_cells for preset in ("scaled", "interior")}


def _slope_lost_late(r: Recordings) -> bool:
    studies = [r.need(preset, "recipe") for preset in ("scaled", "interior")]
    slopes = [s.saturation.groupby("episode")["dq_da_alignment_compute"].median() for s in studies]
    return all(x.iloc[-1] < x.max() / 2 for x in slopes) and all(s.runs["drift"].median() < 0.1 for s in studies)


# What the text says in words, and on which data it rests.
STATEMENTS: tuple[tuple[str, Callable[[Recordings], bool]], ...] = (
    ("every run with a large actor rate stops", lambda r: fast(r.runs)["stopped"].all()),
    ("the median agent at 0.1 dies after one training step", lambda r: r.median_deaths[0.1] == 3),
    ("by episode 10 the largest |z| of fast runs on scaled is beyond a flat tanh", _beyond),
    ("most fast runs die of the derivative alone", lambda r: (fast(r.runs)["kind"] == load.DERIVATIVE).mean() > 0.9),
    ("every slow run that died or stopped died of a flat critic", _slow_deaths_are_flat),
    ("most flat critics at a slow death, but not all, have a dead first layer", lambda r: 0.5 < _first_layer(r) < 1),
    ("flat critics revive: the second death is intermittent", lambda r: fast(r.runs, False)["revived"].sum() > 3),
    ("after a second death the coast is shorter", _coasts),
    ("the first ratio moves with the critic's rate more than by preset", lambda r: np.diff(first_ratio_decades(r)) < 0),
    ("no baseline run reaches the best constant", lambda r: all((s.above_constant < 0).all() for s in _baselines(r))),
    ("fewer than one baseline run in ten ends better than untrained", lambda r: r.runs["improved"].mean() < 0.1),
    ("wrong sides of fast runs are near a coin's", _coin),
    ("the side is that of the seed and the critic's rate, whatever the reward", _side_of_the_critic),
    ("stopping does not separate good from bad baseline runs", lambda r: abs(_gap(_baselines(r))) < 0.2),
    ("with normalised inputs on scaled it does", lambda r: _gap([r.need("scaled", "input_norm")]) > 0.5),
    ("with LayerNorm no run dies the first death", lambda r: _no_deaths(r, "layernorm", load.DERIVATIVE)),
    ("two remedies bring outputs back; what slope is left misleads, who scores has none", _brought_back),
    ("without ReLU no run dies the second death", lambda r: _no_deaths(r, "linear_activation", load.FLAT)),
    ("both leave the median score on interior below random", lambda r: _below(r, "layernorm", "linear_activation")),
    ("most baseline runs at 1e-3 go on", lambda r: r.runs.query("actor_lr == 1e-3")["never"].mean() > 0.5),
    ("one published return is above all of ours at its critic's rate", _published_above),
    ("the recipe's critic loses the slope late, the scores stay", _slope_lost_late),
    ("at 0.001 limited and plain agents of others do alike", _alike),
    ("the actor's limit saves fast agents of others with two optimisers, the critic's does not", _actors_limit),
    ("SAC at 0.1 needs more than one limit", _more_than_one_limit),
    ("still actors of the recipe are viable on interior", lambda r: _all_viable(r, "frozen_actors-with-recipe")),
    ("on interior clamped runs end no better than still actors", lambda r: _row(r, "interior", CLAMPED).actors_add < 0),
    ("on scaled clamped rates end above the recipe", lambda r: _above_the_recipe(r, "scaled", CLAMPED) > 0),
    ("on interior the recipe needs limits and normalised inputs", lambda r: _needed(r, "step_limit", "input_norm")),
    ("as many pairs of the recipe are viable on interior as on scaled", lambda r: len(_viable_of_the_recipe(r)) == 1),
)  # fmt: skip


def contradicted(r: Recordings) -> list[str]:
    """Statements of the text that the recorded data do not bear out; what needs more data is not judged."""
    found = []
    for text, holds in STATEMENTS:
        try:
            if not holds(r):
                found.append(text)
        except NotRecorded:
            continue
    return found
