"""The figures that the text cites, each under the name of its LaTeX macro, as plain text.

A function that needs what is not recorded raises NotRecorded, and its macros are not there: the text that uses them
is left out (\\whenrecorded in main.tex). Only macros that the text uses are written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from common.agents.inputs import epsilon
from common.analysis.comparison_statistics import BASELINE, KEY, VIABLE
from common.config import GRID
from common.environment.mec_env import share as share_of
from common.recording.results import score_ages
from experiments.monitor.study_summary import (
    EVERY_STEP,
    LIFTED,
    SLOWER_CRITIC,
    ending,
    fast_elsewhere,
    limited_alone,
    summary,
    with_kind,
    without_slope,
)
from paper import coasting, load
from paper.answers import underflow
from paper.load import NotRecorded, Recordings, fast, heights, pair
from paper.tables.experiments import (
    RECIPE,
    actors_add,
    median_score,
    over_clamped,
    over_each_control,
    pairs_over_clamped,
    part_changes,
)
from paper.tables.law import SHRINKAGE, WINDOW, laws, memory_studies, moving_share
from paper.text import listed, number, of, rate, seeds_text, share, significant, span, stopping_range
from paper.verdicts import (
    NOT,
    OPEN,
    PARTLY,
    REPRODUCED,
    STOPPING,
    all_verdicts,
    come_back,
    first_ratio_decades,
    side_agreement,
)

Macros = Iterator[tuple[str, str]]
LITERATURE = {
    "td3": "TD3", "inverting_gradients": "inverted gradients", "pre_activation_penalty": "a penalty on $z$",
    "output_norm": "normalised outputs", "penultimate_norm": "normalised features before the output",
}  # fmt: skip
SET_BY, NEAR = 10, 0.025  # episode and distance in share within which a side counts as set


def macros(r: Recordings) -> dict[str, str]:
    """Every macro whose data are recorded."""
    found: dict[str, str] = {}
    for function in FUNCTIONS:
        try:
            for name, text in function(r):
                if name in found:
                    raise ValueError(f"macro {name} is defined twice")
                found[name] = text
        except NotRecorded as missing:
            r.absent.append(f"macros {function.__name__}: {missing}")
    return found


def design(r: Recordings) -> Macros:
    """Sizes of the baseline and times of the studies."""
    runs = r.runs
    yield "BaselineRuns", str(len(runs))
    by_preset = {preset: seeds_text(study.seeds) for preset, study in r.baselines.items()}
    others = [f"`{p}`: {text}" for p, text in by_preset.items() if text != next(iter(by_preset.values()))]
    yield "SeedList", next(iter(by_preset.values())) + (f" ({'; '.join(others)})" if others else "")
    studies = {(p, n): r.get(p, n).runs for p in r.compared for n in r.names(p)}
    cards = {key: sorted({*own["device"].dropna()} - {"cpu", ""}) for key, own in studies.items()}
    minutes = {key: own["wall_seconds"].sum() / 60 for key, own in studies.items() if not cards[key]}
    yield "StudyMinutes", span(minutes.values())
    here = [s.runs[~s.runs["device"].isin(set().union(*cards.values()))] for s in r.baselines.values()]
    three = [own["wall_seconds"].sum() / 60 * 3 / own["seed"].nunique() for own in here if len(own)]
    yield "BaselineMinutes", span(three)
    if any(cards.values()):
        yield "CardStudies", of(sum(map(bool, cards.values())), len(studies))
        yield "Cards", listed(sorted({name for names in cards.values() for name in names}))
    if runs["score_episode"].nunique() > 1:
        yield "MixedAges", score_ages(runs)
    yield "AlphaInterior", span(r.need("interior").constants["alpha"], ".2f")


def published(r: Recordings) -> Macros:
    """What the published study says."""
    low, high = r.claims.loc["gradient_ratio", ["low", "high"]]
    yield "PublishedRatio", f"{significant(low, 1)} to {significant(high, 1)}"
    for source, name in ((load.UNSEEDED, "Unseeded"), (load.SEEDED, "Seeded")):
        yield f"Published{name}Range", span(fast(r.published_stops(source))["stopping_episode"])
    returns = r.outcomes["best_return"]
    yield "PublishedReturnBaseline", number(returns[BASELINE], ",.0f")
    yield "PublishedReturnBest", number(returns.drop(BASELINE).max(), ",.0f")


def derived(_: Recordings) -> Macros:
    """What follows from float32, Adam and the environment alone."""
    yield "FlatTanh", number(coasting.flat_tanh(), ".1f")
    yield "LawSteps", number(coasting.coasting_steps(), ".0f")
    yield "LawDecade", number(coasting.steps_per_decade(), ".0f")
    yield "CoinSlope", number(coasting.coin_slope())
    yield "CoinScore", number(1 - coasting.coin_slope() / 2)
    end = epsilon(2000)
    yield "NoiseEnd", number(end)
    for name, scale in (("None", 0.0), ("End", end), ("Middle", 0.6), ("Start", 1.0)):
        best = coasting.best_output_under_noise("interior", scale)
        yield f"NoiseBest{name}", f"{number(best, '.1f')} ({number(share_of(best), '.2f')})"


def stopping(r: Recordings) -> Macros:
    """Which runs stop, and when."""
    quick, slow = fast(r.runs), fast(r.runs, False)
    yield "FastStopped", of(quick["stopped"].sum(), len(quick))
    yield "SlowNever", of(slow["never"].sum(), len(slow))
    runs = r.need("scaled").runs
    yield "FastStopRangeScaled", stopping_range(fast(runs)["stopping_episode"])
    largest = runs.groupby("actor_lr")["largest_abs_preactivation"].median()
    yield "HeightSlowest", significant(largest.iloc[0])
    yield "HeightFastest", significant(largest.iloc[-1])


def first_death(r: Recordings) -> Macros:
    """Gradient death of fast actors, and what leads to it."""
    agents, quick = r.agents, fast(r.runs)
    yield "DeathFast", number(r.median_deaths[1e-2], ".0f")
    yield "DeathFastest", number(r.median_deaths[1e-1], ".0f")
    early = fast(agents)["gradient_death_episode"] < 50
    yield "FastAgentsDead", of(early.sum(), len(early))
    alone = quick[quick["kind"] == load.DERIVATIVE]
    yield "FastDerivative", of(len(alone), len(quick))
    yield "FastDqDa", span(alone["death_dq_da"], 2)
    study = r.need("scaled")
    first = study.first(study.norms)
    first = first.assign(way=first["actor_update_norm"] / first["actor_lr"])
    by_rate = first.groupby("critic_lr")[["actor_gradient_norm", "way"]].median()
    for column, name in (("actor_gradient_norm", "FirstGradient"), ("way", "FirstUpdate")):
        yield f"{name}Low", significant(by_rate[column].min())
        yield f"{name}High", significant(by_rate[column].max())
    yield "HeightFirst", number(heights(study.saturation, study.saturation["episode"].min()).median(), ".1f")
    tenth = heights(study.saturation, 10)
    yield "HeightTenFastScaled", significant(tenth.get(1e-2, np.nan))
    yield "HeightTenFastestScaled", significant(tenth.get(1e-1, np.nan))


def second_death(r: Recordings) -> Macros:
    """Flat critics of slow actors."""
    slow = fast(r.runs, False)
    dead = slow[slow["kind"].notna()]
    yield "SlowDead", str(len(dead))
    yield "SlowDeadCriticRates", " and ".join(rate(lr) for lr in sorted(dead["critic_lr"].unique()))
    yield "SlowDeadFirstLayer", of(dead["first_layer_zero"].sum(), len(dead))
    was_flat = slow[slow["first_flat"].notna()]
    never = r.need("scaled").ends.query("actor_lr == 1e-3")
    never = never[never["first_flat"].isna()][KEY]
    alone = r.need("scaled").agents.merge(never, on=KEY)["gradient_death_episode"].notna()
    yield "SlowAlone", of(alone.sum(), len(alone))
    yield "Revived", of(was_flat["revived"].sum(), len(was_flat))
    yield "CriticMoves", of((r.runs["critic_update"] > 0).sum(), len(r.runs))
    for preset in ("thesis", "interior"):
        if preset in r.baselines:
            corner = pair(r.baselines[preset].ends, min(GRID), max(GRID))
            for column, name in (("first_flat", "FirstFlat"), ("flat_for_good", "FlatForGood")):
                yield f"{name}{preset.capitalize()}", f"{corner[column].median():.0f} ({span(corner[column])})"


def ratio(r: Recordings) -> Macros:
    """Gradient ratio, actor over critic."""
    low, high = r.claims.loc["gradient_ratio", ["low", "high"]]
    found = r.need("scaled").norms["gradient_ratio"]
    yield "RatioInRange", share(found[found > 0].between(low, high).mean())
    by_rate, by_preset = first_ratio_decades(r)
    yield "RatioDecadesRate", number(by_rate, ".1f")
    yield "RatioDecadesPreset", number(by_preset, ".1f")


def coast(r: Recordings) -> Macros:
    """Adam's coasting, simulated and measured."""
    found = {law.actor_lr: law for law in laws(r)}
    yield "ShrinkFrom", str(WINDOW[0])
    yield "ShrinkTo", str(WINDOW[1])
    yield "ShrinkPredicted", number(SHRINKAGE, ".4f")
    yield "MovingShare", share(moving_share(r))
    yield "LagGap", number(max((law.gap for law in found.values()), default=np.nan), ".0f")
    for actor_lr, word in ((1e-2, "Fast"), (1e-1, "Fastest")):
        if law := found.get(actor_lr):
            yield f"Shrink{word}", number(law.shrinkage, ".4f")
            yield f"LagPredicted{word}", number(float(np.median(law.simulated)), ".0f")
            yield f"LagMeasured{word}", number(law.measured.median(), ".0f")
            if word == "Fastest":
                yield "StopPredictedFastest", span(law.simulated_stops)


def memory(r: Recordings) -> Macros:
    """Whether other β₁ are recorded."""
    yield "MemoryRows", str(len(memory_studies(r)))


def exact(r: Recordings) -> Macros:
    """Whether it is the underflow: the answer of docs/findings.md."""
    yield "UnderflowAnswer", underflow(r)


def sides(r: Recordings) -> Macros:
    """Sides of saturation, and what they are worth."""
    at_rate = r.runs.groupby("actor_lr")["final_saturation_ratio"].median()
    yield "SaturationByRate", span(at_rate, ".0%")
    settled = []
    for preset, study in r.baselines.items():
        yield f"WrongSide{preset.capitalize()}", share(study.runs["final_wrong_side_saturation"].median())
        logged = fast(study.saturation).set_index(KEY)
        early = logged.loc[logged["episode"] == SET_BY, "wrong_side_saturation"]
        final = study.runs.set_index(KEY)["final_wrong_side_saturation"].reindex(early.index)
        settled.append((early - final).abs() < NEAR)
    yield "SideSetTen", of(pd.concat(settled).sum(), len(pd.concat(settled)))
    scaled = r.need("scaled").runs.dropna(subset=["final_wrong_side_saturation", "normalised_score"])
    yield "MedianScoreFastScaled", number(fast(scaled)["normalised_score"].median())
    if scaled["normalised_score"].nunique() < 2:
        raise NotRecorded("scaled: too few runs with a side and a score")
    error = scaled["normalised_score"] - (1 - coasting.coin_slope() * scaled["final_wrong_side_saturation"])
    apart = scaled["normalised_score"] - scaled["normalised_score"].mean()
    yield "SideExplained", share(1 - (error**2).sum() / (apart**2).sum())
    yield "SideError", number(error.abs().median())


def what_decides_the_side(r: Recordings) -> Macros:
    """Of fast runs, compute outputs that end on the untrained side, or on that of another run, a share each."""
    for name, value in side_agreement(r).items():
        yield f"Side{name}", share(value)


def scores(r: Recordings) -> Macros:
    """What the baseline learns."""
    yield "ImprovedAll", of(r.runs["improved"].sum(), len(r.runs))
    for preset, study in r.baselines.items():
        yield f"Improved{preset.capitalize()}", of(study.runs["improved"].sum(), len(study.runs))
    yield from _improved("", r.runs)
    study = r.need("interior")
    yield "UntrainedInterior", span(study.untrained, ".2f")
    yield "MedianScoreInterior", median_score(r.row("interior", BASELINE), study)


def _improved(name: str, runs: pd.DataFrame) -> Macros:
    never, others = runs[runs["never"]], runs[~runs["never"]]
    yield f"{name}NeverImproved", of(never["improved"].sum(), len(never))
    yield f"{name}StoppedImproved", of(others["improved"].sum(), len(others))


def clipping(r: Recordings) -> Macros:
    """Slow runs that stop with and without clipped gradients."""
    for name, label in (("gradient_clipping", "Clipping"), (BASELINE, "Baseline")):
        slow = fast(r.need("scaled", name).runs, False)
        yield f"SlowStopped{label}", of(slow["stopped"].sum(), len(slow))


def large_actor(r: Recordings) -> Macros:
    """First deaths of large actors at a rate where most baseline runs go on."""
    ends = pd.concat([r.need(preset, "large_actor").ends for preset in ("scaled", "interior")])
    own = ends[ends["actor_lr"] == 1e-3]
    yield "LargeActorSlowFirst", of((own["kind"] == load.DERIVATIVE).sum(), len(own))


def input_norm(r: Recordings) -> Macros:
    """Normalised inputs: the first jump, and who improves."""
    scaled, interior = (r.need(preset, "input_norm") for preset in ("scaled", "interior"))
    yield from _improved("Input", scaled.runs)
    for preset, study in (("scaled", scaled), ("interior", interior)):
        row = r.row(preset, "input_norm")
        yield f"ImprovedInputNorm{preset.capitalize()}", of(study.runs["improved"].sum(), len(study.runs))
        yield f"ViableInputNorm{preset.capitalize()}", of(row.viable_cells, row.cells)
    fastest = pd.concat([study.ends for study in (scaled, interior)]).query("actor_lr == 0.1")
    yield "InputNormFastestDied", of((fastest["kind"] == load.DERIVATIVE).sum(), len(fastest))
    above = interior.above_constant
    if above.max() > 0:
        varies = span(interior.constants["score"], ".2f")
        told = f"{of((above > 0).sum(), len(above))} runs end above the best constant action"
        yield "AboveConstantInputNorm", f"{told}, by at most {number(above.max())}; its score is {varies}, by seed"
    else:
        below = number(-above.max())
        yield "AboveConstantInputNorm", f"no run ends above the best constant action; the best is {below} below"
    full = r.need("interior", "fullnorm")
    yield "ImprovedFullnormInterior", of(full.runs["improved"].sum(), len(full.runs))
    for study, name in ((r.need("interior"), ""), (interior, "InputNorm"), (full, "Fullnorm")):
        yield f"HeightTenFast{name}Interior", significant(heights(study.saturation, 10)[1e-2])


def published_remedies(r: Recordings) -> Macros:
    """What the literature's remedies reach on `interior`, the best median first, and whose runs die the first death."""
    studies = {name: r.need("interior", name) for name in LITERATURE}
    rows = {name: r.row("interior", name) for name in LITERATURE}
    best_first = sorted(LITERATURE, key=lambda name: -rows[name].median_score)
    told = [f"{LITERATURE[n]} {number(rows[n].median_score)} ({rows[n].viable_cells})" for n in best_first]
    yield "OthersInterior", listed(told)
    seeds = {seed for study in studies.values() for seed in study.seeds}
    yield "OthersSeeds", f"seed{'s' * (len(seeds) > 1)} {seeds_text(seeds)}"
    dead = {n: (studies[n].ends["kind"] == load.DERIVATIVE).sum() for n in best_first}
    yield "OthersFirst", listed([f"{LITERATURE[n]} ({of(k, len(studies[n].runs))} runs)" for n, k in dead.items() if k])
    for (highest, last), label in zip(come_back(r).values(), ("Inverted", "Penalty"), strict=True):
        good = last[last["normalised_score"] >= VIABLE]
        yield f"{label}Highest", significant(highest.max())
        yield f"{label}Last", significant(highest.iloc[-1])
        yield f"{label}Slope", number(last["dq_da_alignment_compute"].median())
        yield f"{label}Flat", of(last["flat"].sum(), len(last))
        yield f"{label}GoodFlat", of(good["flat"].sum(), len(good))


def recipe(r: Recordings) -> Macros:
    """The recipe and its controls, on every preset where it is recorded."""
    there = [preset for preset in r.compared if RECIPE in r.names(preset)]
    if not {"scaled", "interior"} <= set(there):
        raise NotRecorded(f"{r.results}: {RECIPE} is not recorded on scaled and interior")
    for preset in ("scaled", "interior"):
        row, study, name = r.row(preset, RECIPE), r.get(preset, RECIPE), preset.capitalize()
        yield f"RecipeViable{name}", of(row.viable_cells, row.cells)
        yield f"RecipeMedian{name}", median_score(row, study)
        yield f"RecipeAdd{name}", actors_add(row)
        slope = study.saturation.groupby("episode")["dq_da_alignment_compute"].median()
        yield f"RecipeSlopePeak{name}", number(slope.max())
        yield f"RecipeSlopeEnd{name}", number(slope.iloc[-1])
        if preset == "interior":
            yield "RecipeDriftInterior", number(study.runs["drift"].median())
            yield "RecipeAge", study.age
            names = {"ActorLimit": "actor_limit", "CriticLimit": "critic_limit", "RecipeNoise": "noise_scale"}
            for macro, option in (names | {"RecipeReplay": "replay_capacity", "RecipeTau": "tau"}).items():
                yield macro, f"{study.configuration.get(option, np.nan):,g}"
        above = over_clamped(r, preset)
        if above is not None:
            yield f"RecipeOverClamped{name}", pairs_over_clamped(above)
            yield f"RecipeOverControls{name}", over_each_control(above)


def parts_of_the_recipe(r: Recordings) -> Macros:
    """What leaving out one part does."""
    yield "PartChanges", part_changes(r)


def monitor(r: Recordings) -> Macros:
    """The study on other people's agents."""
    study = r.need_monitor()
    runs = with_kind(study).query("task == 'Pendulum-v1' and learning_rate == 0.1")
    td3, sac = (runs[runs["algorithm"] == name].set_index("arm") for name in ("TD3", "SAC"))
    if not {"plain", "limit both"} <= set(td3.index):
        raise NotRecorded(f"{r.results / 'monitor' / 'runs.csv'}: lacks TD3 on Pendulum at 0.1")
    yield "MonitorRuns", str(len(study))
    yield "MonitorAlgorithms", listed(study["algorithm"].unique())
    yield "MonitorTasks", listed(f"`{task}`" for task in study["task"].unique())
    yield "MonitorPlain", number(td3.loc[["plain"], "return_mean"].median(), ",.0f")
    yield "MonitorLimited", number(td3.loc[["limit both"], "return_mean"].median(), ",.0f")

    def solved(own: pd.DataFrame) -> str:
        return of((own["return_mean"] > LIFTED["Pendulum-v1"]).sum(), len(own))

    others = "; ".join(other_tasks(with_kind(summary(study))))
    if others:
        yield "MonitorOthers", others
    for kind, name in (("plain", "MonitorSolvedPlain"), ("limited", "MonitorSolved")):
        yield name, solved(runs[runs["kind"] == kind])
    actor, critic = limited_alone(runs, third=False)
    if len(actor) and len(critic):
        yield "MonitorAlone", listed(actor["algorithm"].unique())
        yield "MonitorSolvedActor", solved(actor)
        yield "MonitorSolvedCritic", solved(critic)
    actor, critic = limited_alone(runs, third=True)
    if len(actor) and len(critic):
        yield "MonitorSacAlone", f"{solved(actor)} and {solved(critic)}"
    dead = without_slope(td3.loc[["plain"]], "end")
    yield "MonitorDead", of(dead.sum(), len(dead))
    if {"plain", "limit both"} <= set(sac.index):
        for arm, name in (("plain", "Plain"), ("limit both", "Both"), (EVERY_STEP, "All")):
            if arm in sac.index:
                yield f"MonitorSac{name}", number(sac.loc[[arm], "return_mean"].median(), ",.0f")
        yield "MonitorSacDeadPlain", share(sac.loc[["plain"], "dead_actor_units"].median())
        yield "MonitorSacDeadBoth", share(sac.loc[["limit both"], "dead_actor_units"].median())
        yield "MonitorSacAlpha", significant(sac.loc[["limit both"], "entropy_coefficient"].max())


def other_tasks(rows: pd.DataFrame) -> list[str]:
    """Of a summary with its kinds: what limited steps do at 0.1 on tasks other than Pendulum, where it is recorded."""
    told = []
    for task, own in fast_elsewhere(rows).groupby("task"):
        shown = ["return_median", "without_slope_at_end", "seeds"]
        both = own[own["kind"] != ""].pivot(index="algorithm", columns="kind", values=shown).dropna()
        if both.shape[1] < 2 * len(shown) or both.empty:
            continue
        slower = own[own["arm"] == SLOWER_CRITIC].set_index("algorithm")["return_median"]
        notes = {name: f", {ending(x)} with its critic limited to 0.001" for name, x in slower.items()}
        medians = [
            f"{ending(row['return_median', 'plain'])} to {ending(row['return_median', 'limited'])} "
            f"({name}{notes.get(name, '')})"
            for name, row in both.iterrows()
        ]
        dead, limited = (
            of(both["without_slope_at_end", kind].sum(), both["seeds", kind].sum()) for kind in ("plain", "limited")
        )
        said = f"on {task} the median goes from {listed(medians)}; "
        said += f"untrained it is {ending(own['untrained_median'].median())}; "
        said += f"{dead} plain runs end without slope, {limited} limited"
        if task in LIFTED:
            above = of(own["seeds_solved"].astype(int).sum(), own["seeds"].sum())
            said += f", and {above} runs of all arms end above {number(LIFTED[task], '.0f')}"
        told.append(said)
    return told


def sequential(r: Recordings) -> Macros:
    """How the published order of updates stops beside the joint one."""
    if r.sequential is None:
        raise NotRecorded(f"{r.results / 'sequential'}: not recorded")
    quick = fast(r.sequential.runs)
    both = quick.merge(r.need("scaled").runs, on=KEY, suffixes=("", "_joint"))
    shift = both["stopping_episode"] - both["stopping_episode_joint"]
    yield "SequentialStopped", of(quick["stopped"].sum(), len(quick))
    yield "SequentialRange", span(quick["stopping_episode"])
    yield "SequentialShift", number(shift.median(), "+.0f")


def verdicts(r: Recordings) -> Macros:
    """How many claims are judged how."""
    counts = Counter(verdict.verdict for verdict in all_verdicts(r))
    yield "ClaimsAll", str(counts.total())
    for word, name in ((REPRODUCED, "Reproduced"), (PARTLY, "Partly"), (NOT, "Not")):
        yield f"Claims{name}", str(counts[word])
    for word, name in ((STOPPING, "Stopping"), (OPEN, "Open")):
        if counts[word]:
            yield f"Claims{name}", str(counts[word])


FUNCTIONS: tuple[Callable[[Recordings], Macros], ...] = (
    design, published, derived, stopping, first_death, second_death, ratio, coast, memory, exact, sides,
    what_decides_the_side, scores, clipping, large_actor, input_norm, published_remedies,
    recipe, parts_of_the_recipe, monitor, sequential, verdicts,
)  # fmt: skip
