"""Figures and sentences about the experiments, by rule: `not recorded` where there is no study."""

from __future__ import annotations

from typing import Any

import pandas as pd

from common.analysis.comparison_statistics import BASELINE, KEY
from paper.outcomes import outcome
from paper.tables_data import (
    BOTH,
    DERIVATIVE,
    FAST,
    FLAT,
    NEITHER,
    PRESETS,
    Recordings,
    StudyFiles,
    heights,
    phrase,
)
from paper.tables_experiments import (
    HIGHER,
    LOWER,
    NO_DIFFERENCE,
    agreement,
    difference,
    double,
    effect,
    median_score,
    single,
)
from paper.tables_text import (
    NOT_RECORDED,
    RATE_WORDS,
    Numbers,
    camel,
    code,
    listed,
    number,
    of,
    power,
    rate,
    share,
    span,
)

SAME_START = 0.1  # scores of untrained policies that differ by more are named
HIGH_SCORE = 0.9  # from here on the text calls a run near-optimal


def numbers(recordings: Recordings, macros: Numbers) -> None:
    """Figures and sentences of every experiment; `not recorded` where there is no study."""
    for name in recordings.experiments:
        macros.heading(f"{name}: comparison_tables of common/analysis/comparison_statistics.py")
        for preset in PRESETS:
            _experiment_numbers(recordings, macros, name, preset)
        macros.add(f"Published{camel(name)}", recordings.outcomes["claim"].get(name, "nothing"))
        macros.add(f"Agreement{camel(name)}", agreement(recordings, name))
        macros.add(f"Sentence{camel(name)}", sentence(recordings, name))
    _summary_numbers(recordings, macros)
    _sequential_numbers(recordings, macros)


def sentence(recordings: Recordings, name: str) -> str:
    """What an experiment shows on every preset where it is recorded."""
    parts = []
    for preset in PRESETS:
        table = recordings.compared[preset]
        if name not in table.index:
            continue
        row, base = table.loc[name], table.loc[BASELINE]
        start, plain = row.untrained_score, base.untrained_score
        moved = abs(start - plain) > SAME_START
        other = f", which starts at {number(start)} instead of {number(plain)}" if moved else ""
        parts.append(
            f"On {code(preset)} {of(row.runs_never_stopping, row.runs)} runs never stop (baseline: "
            f"{base.runs_never_stopping}), and the score differs from the baseline's by {difference(row)}: "
            f"{effect(row)}. Runs that end better than their untrained policy{other}: {row.improved_runs} "
            f"(baseline: {base.improved_runs})."
        )
    return " ".join(parts) if parts else "No results are recorded yet."


def _experiment_numbers(recordings: Recordings, macros: Numbers, name: str, preset: str) -> None:
    end, table = camel(name) + preset.capitalize(), recordings.compared[preset]
    row: Any = table.loc[name] if name in table.index else None
    texts = {
        "Diff": difference, "Verdict": effect, "Score": median_score,
        "Never": lambda r: of(r.runs_never_stopping, r.runs), "Improved": lambda r: of(r.improved_runs, r.runs),
        "Better": lambda r: of(r.runs_better_than_baseline, r.paired_runs), "Best": lambda r: number(r.best_score),
        "Saturation": lambda r: share(r.median_final_saturation),
        "Wrong": lambda r: share(r.median_final_wrong_side_saturation),
    }  # fmt: skip
    for what, text in texts.items():
        macros.add(what + end, NOT_RECORDED if row is None else text(row))
    study = recordings.studies.get((name, preset))
    above = NOT_RECORDED if study is None else of(study.above_constant, len(study.runs))
    macros.add(f"AboveConstant{end}", above)
    pair, scores = (NOT_RECORDED, NOT_RECORDED) if study is None else top_pair(study.runs)
    macros.add(f"TopPair{end}", pair)
    macros.add(f"TopScore{end}", scores)
    slow = None if study is None else study.ends[study.ends["actor_lr"] < FAST]
    kinds = None if study is None else study.ends["kind"]
    for what, kind in (("FirstDeath", (DERIVATIVE,)), ("SecondDeath", (FLAT,)), ("OtherDeath", (BOTH, NEITHER))):
        count = NOT_RECORDED if kinds is None else of(int(kinds.isin(kind).sum()), int(kinds.notna().sum()))
        macros.add(what + end, count)
    _mechanism_numbers(study, macros, end)
    returns = [s.training_returns for s in (study, recordings.baselines[preset]) if s is not None]
    better = NOT_RECORDED if study is None else of(int((returns[0] > returns[1]).sum()), len(returns[0]))
    macros.add(f"BetterTraining{end}", better)
    macros.add(f"SlowStopped{end}", NOT_RECORDED if slow is None else _stopped(slow))
    macros.add(f"SlowFlat{end}", NOT_RECORDED if slow is None else of(int(slow["last_flat"].sum()), len(slow)))


def _mechanism_numbers(study: StudyFiles | None, macros: Numbers, end: str) -> None:
    """The first jump of z, the critic's first layer while it is flat, and how saturated the runs are that learn."""
    for lr in (1e-2, 1e-1):
        height = NOT_RECORDED if study is None else power(heights(study.saturation, 10)[lr])
        macros.add(f"HeightTen{RATE_WORDS[lr]}{end}", height)
    flat = None if study is None else study.norms.loc[study.norms["mean_abs_dq_da"] == 0, "critic_fc1"]
    macros.add(f"FlatFirstLayer{end}", NOT_RECORDED if flat is None else share((flat == 0).mean()))
    saturated = [] if study is None else [study.runs["final_saturation_ratio"]]
    chosen = {"Improved": study.improved, "High": study.runs["normalised_score"] > HIGH_SCORE} if study else {}
    for label in ("Improved", "High"):
        values = saturated[0][chosen[label]] if chosen else None
        macros.add(f"Saturation{label}{end}", NOT_RECORDED if values is None else span(values, ".0%"))
        macros.add(f"MedianSaturation{label}{end}", NOT_RECORDED if values is None else share(values.median()))
        macros.add(f"{label}Count{end}", NOT_RECORDED if values is None else len(values))


def top_pair(runs: pd.DataFrame) -> tuple[str, str]:
    """The pair of rates whose mean score over seeds is highest, and that mean with the range over seeds."""
    scores = runs.groupby(["actor_lr", "critic_lr"])["normalised_score"]
    actor, critic = scores.mean().idxmax()
    own = scores.get_group((actor, critic))
    return f"({rate(actor)}, {rate(critic)})", f"{number(own.mean())} ({span(own, '.2f')})"


def stopping_shifts(recordings: Recordings) -> pd.Series:
    """Episodes by which large actors stop later than the baseline's on `scaled`, by actor rate that freezes those."""
    both = recordings.studies["large_actor", "scaled"].runs.merge(recordings.baselines["scaled"].runs, on=KEY)
    both = both[both["actor_lr"] >= FAST].set_index("actor_lr")
    return both["stopping_episode_x"] - both["stopping_episode_y"]


def _summary_numbers(recordings: Recordings, macros: Numbers) -> None:
    macros.heading("all changes together")
    intervals, above, total, dead, flat = 0, 0, 0, 0, 0
    for preset in PRESETS:
        table, names, end = recordings.compared[preset], recordings.recorded_on(preset), preset.capitalize()
        words = {name: effect(table.loc[name]) for name in names}
        for word, label in ((HIGHER, "Higher"), (LOWER, "Lower"), (NO_DIFFERENCE, "NoDifference")):
            found = [name for name in names if words[name] == word]
            macros.add(f"{label}{end}", listed([phrase(name) for name in found]))
            macros.add(f"{label}Count{end}", len(found))
        macros.add(f"Recorded{end}", f"{len(names)} of {len(recordings.experiments)}")
        base = table.loc[BASELINE]
        more = [n for n in names if table.loc[n].runs_never_stopping > base.runs_never_stopping]
        macros.add(f"NeverMore{end}", listed([phrase(n) for n in more]))
        macros.add(f"NeverMoreNotHigher{end}", listed([phrase(n) for n in more if words[n] != HIGHER]))
        for label, line in (("Random", 0.0), ("Untrained", base.untrained_score)):
            found = [phrase(n) for n in names if table.loc[n].median_score > line]
            macros.add(f"MedianAbove{label}{end}", listed(found))
        best = max(names, key=lambda n: table.loc[n].paired_score_difference, default=None)
        macros.add(f"LargestDiff{end}", NOT_RECORDED if best is None else difference(table.loc[best]))
        macros.add(f"LargestDiffName{end}", NOT_RECORDED if best is None else phrase(best))
        improved = max([BASELINE, *names], key=lambda n: table.loc[n].improved_runs)
        macros.add(f"MostImproved{end}", of(table.loc[improved].improved_runs, table.loc[improved].runs))
        macros.add(f"MostImprovedName{end}", phrase(improved))
        for kind, label in ((DERIVATIVE, "First"), (FLAT, "Second")):
            spared = [n for n in names if not (recordings.studies[n, preset].ends["kind"] == kind).any()]
            macros.add(f"No{label}Death{end}", listed([phrase(n) for n in spared]))
        intervals += len(names)
        studies = [recordings.studies[name, preset] for name in names]
        above += sum(study.above_constant for study in studies)
        total += sum(len(study.runs) for study in studies)
        others = [recordings.studies[name, preset] for name in names if name != "large_actor"]
        slow = [study.ends.loc[study.ends["actor_lr"] < FAST, "kind"].dropna() for study in others]
        dead, flat = dead + sum(map(len, slow)), flat + sum(int((kinds == FLAT).sum()) for kinds in slow)
    macros.add("IntervalsTested", intervals)
    macros.add("IntervalsByChance", number(0.05 * intervals, ".1f"))
    macros.add("MitigationsAboveConstant", of(above, total))
    inner = [recordings.studies[name, "interior"] for name in recordings.recorded_on("interior")]
    count = of(sum(study.above_constant for study in inner), sum(len(study.runs) for study in inner))
    macros.add("MitigationsAboveConstantInterior", count)
    published = recordings.outcomes.loc["input_norm", "cells_better_than_baseline"]
    macros.add("PublishedBetterInputNorm", f"{published:.0f}")
    macros.add("MitigationRuns", total)
    macros.add("OtherSlowFlat", of(flat, dead))
    normed = [study.ends["kind"].dropna() for (name, _), study in recordings.studies.items() if name == "layernorm"]
    large = [recordings.studies[name, p] for name, p in recordings.studies if name == "large_actor"]
    wide = pd.concat([s.ends for s in large]) if large else pd.DataFrame(columns=["actor_lr", "kind"])
    own = wide.loc[wide["actor_lr"] == 1e-3, "kind"]
    shifts = stopping_shifts(recordings) if ("large_actor", "scaled") in recordings.studies else None
    macros.add("LargeActorShift", NOT_RECORDED if shifts is None else number(shifts.median(), "+.1f"))
    macros.add("LargeActorShiftRange", NOT_RECORDED if shifts is None else span(shifts, "+.0f"))
    for lr in (1e-2, 1e-1):
        text = NOT_RECORDED if shifts is None else number(shifts.loc[lr].median(), "+.0f")
        macros.add(f"LargeActorShift{RATE_WORDS[lr]}", text)
    macros.add("LargeActorSlowFirst", of(int((own == DERIVATIVE).sum()), len(own)))
    scaled = recordings.studies.get(("large_actor", "scaled"))
    for name, study in (("", recordings.baselines["scaled"]), ("LargeActor", scaled)):
        value = NOT_RECORDED if study is None else power(heights(study.saturation, 10)[1e-3])
        macros.add(f"HeightTenSlow{name}Scaled", value)
    top = None if scaled is None else scaled.runs.groupby("actor_lr")["largest_abs_preactivation"].median()
    for lr, word in RATE_WORDS.items():
        macros.add(f"Height{word}LargeActor", NOT_RECORDED if top is None else power(top[lr]))
    macros.add("LayernormDead", sum(map(len, normed)))


def _sequential_numbers(recordings: Recordings, macros: Numbers) -> None:
    macros.heading("published update order, and published double changes")
    macros.add("SentenceSequential", sequential_sentence(recordings))
    found = double(recordings, "linear_activation")
    wide = single(recordings, "large_actor")
    macros.add("LargeActorExplosion", NOT_RECORDED if wide is None else number(wide.largest, ".0f"))
    over_large = NOT_RECORDED
    if found and ("large_actor", "scaled") in recordings.studies:
        large = recordings.studies["large_actor", "scaled"].runs
        over_large = number(
            outcome("linear_activation", recordings.doubles["linear_activation"].runs, large).largest, ".1f"
        )
    macros.add("LinearDoubleOverLarge", over_large)
    macros.add("LinearDouble", NOT_RECORDED if found is None else number(found.largest, ".0f"))
    macros.add("SentenceDoubles", doubles_sentence(recordings))


def sequential_sentence(recordings: Recordings) -> str:
    """How a run of the grid with sequential updates stops beside the joint one of the same seed."""
    study = recordings.sequential
    if study is None:
        return "A sequential run of the grid is not recorded yet."
    fast = study.runs[study.runs["actor_lr"] >= FAST]
    both = fast.merge(recordings.baselines["scaled"].runs, on=["seed", "actor_lr", "critic_lr"])
    shift = both["stopping_episode_x"] - both["stopping_episode_y"]
    stops, last = fast["stopping_episode"], study.runs["total_episodes"].max()
    rest = study.runs[study.runs["actor_lr"] < FAST].merge(
        recordings.baselines["scaled"].runs, on=["seed", "actor_lr", "critic_lr"]
    )
    slow, beside = (of(int((rest[f"stopping_episode_{end}"] <= last).sum()), len(rest)) for end in ("x", "y"))
    return (
        f"In a sequential run of the grid (seed {listed([str(seed) for seed in study.runs['seed'].unique()])}, "
        f"{study.runs['total_episodes'].max()} episodes at most) {of(stops.notna().sum(), len(fast))} runs with actor "
        f"rates from 0.01 stop, at episode {span(stops)}; against the joint runs of the same seed and rates that is a "
        f"shift of {number(shift.median(), '+.0f')} episodes in the median ({span(shift, '+.0f')}). With smaller rates "
        f"{slow} of the sequential runs and {beside} of the joint ones have stopped by then."
    )


def doubles_sentence(recordings: Recordings) -> str:
    """Which of the published double changes are repeated."""
    names = [phrase(name) for name in recordings.doubles]
    return f"They are those of {listed(names)}." if names else "None is recorded yet."


def _stopped(runs: pd.DataFrame) -> str:
    return of(runs["stopping_episode"].notna().sum(), len(runs))
