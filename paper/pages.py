"""What was found, in Markdown: docs/findings.md, and the marked parts of README.md and of the experiments' pages."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from common.analysis.comparison_statistics import BASELINE, FROZEN, is_frozen
from common.monitor.diagnosis import VERDICTS
from experiments.monitor.study_summary import (
    ARM_ORDER,
    LIFTED,
    NORMALISED,
    SLOWER_CRITIC,
    ending,
    fast_elsewhere,
    limited_alone,
    summary,
    with_kind,
)
from paper import load, macros
from paper.answers import EXACT, answered, answers, only_smaller_rates
from paper.load import Recordings, experiment_names, fast, title
from paper.tables import experiments
from paper.tables.experiments import (
    CLAMPED,
    DAGGER,
    RECIPE,
    SHOWN,
    actors_add,
    few_seeds,
    learns,
    mean_above,
    median_score,
    over_clamped,
    part_text,
    without_parts,
)
from paper.tables.law import MEMORY, memory_studies, spread
from paper.text import (
    MISSING,
    interval,
    listed,
    markdown,
    number,
    of,
    rate,
    seeds_text,
    share,
    significant,
    span,
    stopping_range,
)  # fmt: skip
from paper.verdicts import COST_FILE, all_verdicts, comparable

NOTHING = "No results are recorded yet."
SENTENCE = "**In short:**"  # what experiments/make_notebooks.py looks for
CONTROL_ROW = (
    "its control, small rates instead of the limit: actors at most 1e−4, critic at most 1e−3 (so 4 of the 16 pairs "
    "become one, 12 another)"
)
RESULTS_HEADER = ["experiment", "runs that never stop", "pairs that learn", "median score", "above the baseline"]
HEADER = [
    "preset", "study", "seeds", "never stop", "died: tanh / critic", "saturated (wrong side)", "untrained",
    "median score", "drift", "learns in", "better than untrained", "against the baseline",
]  # fmt: skip


def pages(r: Recordings, root: Path = load.ROOT) -> dict[Path, str]:
    """README.md and the experiments' pages, their marked parts rewritten."""
    readme = root / "README.md"
    text = filled(readme, readme.read_text(), "finding", finding(r))
    found = {readme: filled(readme, text, "results", results(r))}
    for name in experiment_names():
        path = root / "experiments" / name / "README.md"
        if not path.exists():
            raise SystemExit(f"experiments/{name}/README.md: no such file; copy a neighbour's and rewrite it")
        found[path] = filled(path, path.read_text(), "found", page(r, name))
    path = root / "docs" / "monitor.md"
    parts = (monitor(r), agents_table(r), verdict_table(r))
    found[path] = filled(path, path.read_text(), "found", "\n\n".join(filter(None, parts)))
    return found


def filled(path: Path, text: str, name: str, part: str) -> str:
    """A page's text with the part between the marks of `name` replaced."""
    begin, end = f"<!-- {name}: written by paper/make.py -->", f"<!-- end of {name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"{path}: lacks the marks {begin} and {end}")
    return f"{before}{begin}\n\n{part}\n\n{end}{after}"


def finding(r: Recordings) -> str:
    """The finding, a sentence or two for each question."""
    if "scaled" not in r.baselines:
        return NOTHING
    quick, slow = fast(r.runs), fast(r.runs, False)
    lags, died = fast(r.agents).groupby("actor_lr")["lag"].median(), slow["kind"].notna()
    tanh, flat = (quick["kind"] == load.DERIVATIVE).sum(), (slow["kind"] == load.FLAT).sum()
    moved, stops, paid = quick["stopped"], quick["stopping_episode"], r.runs["improved"]
    lines = [
        "**What kills actors:** steps that are too long for the scale of their inputs. "
        f"{first_death(r)}; in {of(tanh, len(quick))} runs tanh alone had no slope left. Of the {len(slow)} runs at "
        f"smaller rates {died.sum()} died, {'all' if flat == died.sum() else flat} with a critic that was flat in the "
        "actions.",
        f"**Why it looks like something else:** Adam's momentum moves the weights for {span(lags)} more episodes "
        f"(medians by rate), so that {of(moved.sum(), len(moved))} runs at 0.01 and 0.1 “stop”, but late: at episode "
        f"{stopping_range(stops)}; and a saturated output may be right, though only "
        f"{of(paid.sum(), len(paid))} baseline runs end better than untrained.",
        f"**What keeps them learning:** {what_helps(r)}",
    ]
    if r.monitor is not None:
        others = pendulum(r).removeprefix(SENTENCE).strip()
        of_others = "**In other people's agents** ([Stable-Baselines3](docs/monitor.md)):"
        lines.insert(2, f"{of_others} {others[0].lower()}{others[1:]}{slope_elsewhere(r)}")
    told = ["\n".join(f"- {line}" for line in lines)]
    if any(r.get(preset, RECIPE) for preset in load.PRESETS):
        told += [scores(r), parts_table(r)]
    return "\n\n".join(told).strip()


def first_death(r: Recordings) -> str:
    """From when on the median agent at large actor rates has no gradient."""
    when = " and ".join(number(r.median_deaths[actor_lr], ".0f") for actor_lr in (0.01, 0.1))
    return f"At actor learning rates of 0.01 and 0.1 the median agent's gradient is exactly zero from episode {when} on"


def sentence(r: Recordings, name: str) -> str:
    """What is recorded of an experiment, in the sentence with which its notebook ends, too."""
    own = {p: r.get(p, n) for p in SHOWN for n in reversed(r.names(p)) if n.split("-")[0] == name and r.get(p)}
    if not own:
        return f"{SENTENCE} This experiment is not recorded with the present code yet."
    if name in ANSWERS:
        return f"{SENTENCE} {answered(r, ANSWERS[name])}"
    if name == BASELINE:
        improved = of(r.runs["improved"].sum(), len(r.runs))
        return f"{SENTENCE} {first_death(r)}, and {improved} runs end better than untrained."
    parts = []
    for preset, study in own.items():
        said = []
        base = r.need(preset).runs
        same = base[base["seed"].isin(study.seeds)]
        for column, what in (("never", "never stop"), ("improved", "end better than untrained")):
            here, there = (of(x[column].sum(), len(x)) for x in (study.runs, same))
            said.append(f"{here} runs {what} (baseline, same seeds: {there})")
        if study.one_age:
            said.append(f"the median score is {number(r.row(preset, study.name).median_score)}")
        parts.append(f"on `{preset}`{few_seeds(study)} {listed(said)}")
    early = [f"`{preset}`" for preset, study in own.items() if not study.one_age]
    if early:
        parts.append(f"scores on {listed(early)} are not compared, because full runs are not recorded there yet")
    return f"{SENTENCE} {title(study.name)}: {'; '.join(parts)}."


def frozen(r: Recordings) -> str:
    """What the critic's ranking of offloads scores by itself."""
    told = []
    for name, what in ((FROZEN, "{} by itself"), (f"{FROZEN}-with-{RECIPE}", "with the rest of the recipe {}")):
        there = [preset for preset in load.PRESETS if r.get(preset, name)]
        scores = listed([f"{number(r.row(preset, name).median_score)} on `{preset}`" for preset in there])
        told += [what.format(scores)] if there else []
    return f"With actors that never move, the critic's ranking of who offloads scores {'; '.join(told)} (medians)."


def memory(r: Recordings) -> str:
    """How long weights coast by β₁, and whether that does runs any good."""
    lags, learned = [], {}
    for beta1, study in memory_studies(r):
        of_rates = fast(study.agents).groupby("actor_lr")["lag"].median()
        lags.append(f"{span(of_rates)} at {beta1:g}")
        learned[study.name] = r.row("scaled", study.name).viable_cells
    more = max(learned.values()) > learned[BASELINE]
    good = "pairs reach half of the possible score" if more else "no more pairs learn for it"
    return (
        "The freeze follows as Adam's memory fades: on `scaled`, actor rates from 0.01, weights coast on after their "
        f"gradient died for a median of so many episodes, by β₁: {listed(lags)}; {good}."
    )


def exact(r: Recordings) -> str:
    """Whether agents still freeze where the derivative of tanh is not rounded."""
    base, study = r.need("scaled"), r.need("scaled", EXACT)
    shares = [share(fast(s.agents)["freeze_episode"].notna().mean()) for s in (study, base)]
    improved = fast(study.runs)["improved"]
    return (
        f"On `scaled` with actor rates from 0.01, {shares[0]} of the agents freeze without the rounding of the "
        f"derivative (baseline: {shares[1]}), and {of(improved.sum(), len(improved))} runs end better than untrained."
    )


ANSWERS = {CLAMPED: only_smaller_rates, FROZEN: frozen, MEMORY: memory, EXACT: exact}  # of what asks something else


def monitor(r: Recordings) -> str:
    """The same of the study on other people's agents, all its tasks."""
    rows, told = agents_of_others(r), []
    if len(rows):
        told = [*(f"At 0.1 {said}." for said in macros.other_tasks(rows)), normalised(rows), smaller_rates(rows)]
    return "\n\n".join(filter(None, (pendulum(r), "\n".join(f"- {said}" for said in told if said))))


def pendulum(r: Recordings) -> str:
    """What limited steps do on Pendulum."""
    rows = agents_of_others(r)
    ends = rows.query("task == 'Pendulum-v1' and learning_rate == 0.1") if len(rows) else rows
    if not {"plain", "limited"} <= set(ends.get("kind", ())):
        return f"{SENTENCE} What limited steps do for these agents is not recorded with the present code yet."
    limited, plain = (ends[ends["kind"] == kind] for kind in ("limited", "plain"))
    said = f"{SENTENCE} On Pendulum-v1 at a learning rate of 0.1, {solved(limited)} runs of "
    said += f"{listed(limited['algorithm'])} are solved (end above −300) where every optimiser's steps are limited "
    said += f"(medians {span(limited['return_median'])}) and {solved(plain)} plain ones "
    said += f"({span(plain['return_median'], ',.0f')}): "
    said += f"{plain['without_slope_at_end'].sum()} have a tanh without slope"
    units = plain["all_units_dead_at_end"].sum()
    said += f", {units} all hidden units dead." if units else "."
    actor, critic = limited_alone(ends, third=False)
    if len(actor) and len(critic):
        said += f" The actor's limit alone suffices in {solved(actor)} ({listed(actor['algorithm'])}), "
        said += f"the critic's alone in {solved(critic)}."
    actor, critic = limited_alone(ends, third=True)
    if len(actor) and len(critic):
        said += f" SAC, whose entropy coefficient has a third optimiser: {solved(actor)} and {solved(critic)}."
    usual = rows.query("task == 'Pendulum-v1' and learning_rate < 0.1")
    told = []
    for small, own in usual.groupby("learning_rate"):
        limited, plain = (own[own["kind"] == kind] for kind in ("limited", "plain"))
        if len(limited) and len(plain):
            told.append(f"at {small:g} it is {solved(limited)} limited runs and {solved(plain)} plain ones")
    return f"{said} A{listed(told)[1:]}." if told else said


def smaller_rates(rows: pd.DataFrame) -> str:
    """On tasks other than Pendulum below 0.1: seeds whose run with every limit ends above the plain one."""
    told, named = [], set()
    others = rows[(rows["task"] != "Pendulum-v1") & (rows["learning_rate"] < 0.1)]
    for task, own in others.groupby("task"):
        cell = ["algorithm", "learning_rate"]
        plain, limited = (own[own["kind"] == kind].set_index(cell) for kind in ("plain", "limited"))
        both = plain.index.intersection(limited.index)
        if len(both):
            plain, limited = plain.loc[both], limited.loc[both]
            named |= {str(name) for name, _ in both}
            said = f"{of(limited['seeds_better_than_plain'].sum(), limited['seeds'].sum())} on {task}"
            said += f" (without slope at the end: {lost(limited)}, plain {lost(plain)}"
            told.append(said + (f"; solved: {solved(limited)}, plain {solved(plain)})" if task in LIFTED else ")"))
    if not told:
        return ""
    rates = listed([f"{x:g}" for x in sorted(others["learning_rate"].unique())])
    runs = f"runs of {listed(sorted(named))} with every limit"
    return f"At {rates}, {runs} that end above the plain one of their seed are {listed(told)}."


def normalised(rows: pd.DataFrame) -> str:
    """At 0.1 on tasks other than Pendulum: what normalised observations do, alone and beside two limits."""
    told = []
    for task, own in fast_elsewhere(rows).groupby("task"):
        arms = {arm: cells.set_index("algorithm") for arm, cells in own.groupby("arm", observed=True)}
        if not {"plain", "limit both", *NORMALISED} <= set(arms):
            continue
        plain, limited, alone, beside = (lost(arms[arm]) for arm in ("plain", "limit both", *NORMALISED))
        before, after = (arms[arm]["return_median"] for arm in ("limit both", NORMALISED[1]))
        medians = [f"{ending(before[name])} to {ending(after[name])} ({name})" for name in after.index]
        told.append(
            f"on {task} {alone} runs end without slope (plain {plain}), and beside the limits of actor and critic "
            f"{beside} (without them {limited}), where the median goes from {listed(medians)}"
        )
    return f"Normalised observations at 0.1: {'; '.join(told)}." if told else ""


def slope_elsewhere(r: Recordings) -> str:
    """On the other tasks: how many runs end without slope, and where slope is not yet learning."""
    rows = agents_of_others(r)
    told, idle = [], []
    for task, own in fast_elsewhere(rows).groupby("task"):
        plain, limited = (own[own["kind"] == kind] for kind in ("plain", "limited"))
        if not (len(plain) and len(limited)):
            continue
        told.append(f"{lost(plain)} plain and {lost(limited)} limited ones on {task}")
        mark, as_what = limited["untrained_median"], "no better than untrained"
        if task in LIFTED:
            mark, as_what = LIFTED[task], f"below {number(LIFTED[task], '.0f')} (solved)"
        slower = own[own["arm"] == SLOWER_CRITIC].set_index("algorithm")["return_median"]
        poor = [
            f"{x} ({ending(slower[x])} with its critic limited to 0.001)" if x in slower.index else x
            for x in limited.loc[limited["return_median"] <= mark, "algorithm"]
        ]
        idle += [f"{as_what} for {listed(poor)} on {task}"] if len(poor) else []
    if not told:
        return ""
    said = f" On other tasks at 0.1, runs that end without slope are {listed(told)}."
    if idle:
        said += f" Slope is not yet learning: with limited steps, too, the median is {'; '.join(idle)}."
    return said


def agents_of_others(r: Recordings) -> pd.DataFrame:
    """Summary rows of the study on other people's agents, with their kind."""
    if r.monitor is None:
        return pd.DataFrame()
    return with_kind(summary(r.monitor))


def solved(rows: pd.DataFrame) -> str:
    """How many runs of these rows ended above the return that counts as solved."""
    return of(rows["seeds_solved"].sum(), rows["seeds"].sum())


def lost(rows: pd.DataFrame) -> str:
    """How many runs of these rows ended without slope."""
    return of(rows["without_slope_at_end"].sum(), rows["seeds"].sum())


def agents_table(r: Recordings) -> str:
    """Median return and solved runs of other people's agents: a row per task, algorithm and rate, a column per arm."""
    rows = agents_of_others(r)
    if not len(rows):
        return ""
    arms = [arm for arm in ARM_ORDER if arm in set(rows["arm"])]
    lines, most = [], rows.groupby("task")["seeds"].max()
    for (task, rate_of, algorithm), own in rows.groupby(["task", "learning_rate", "algorithm"]):
        own = own.set_index("arm")
        lines.append([str(task), rate(rate_of), str(algorithm), *(agents_cell(own, arm, most[task]) for arm in arms)])
    marks = listed([f"{number(value, '.0f')} on {task}" for task, value in LIFTED.items() if task in set(rows["task"])])
    told = f"Median return over seeds, and how many of them end above {marks}, by what is limited:"
    return f"{told}\n\n{markdown(['task', 'learning rate', 'algorithm', *arms], lines)}"


def verdict_table(r: Recordings) -> str:
    """Of the runs on Pendulum with each verdict, halfway and at the end, how many end above what counts as solved."""
    if r.monitor is None:
        return ""
    runs = r.monitor.query("task == 'Pendulum-v1'")
    above = runs["return_mean"] > LIFTED["Pendulum-v1"]
    columns = [above.groupby(runs[f"verdict_{when}"]).agg(["sum", "size"]) for when in ("middle", "end")]
    names = [name for name in (*VERDICTS, "healthy") if any(name in column.index for column in columns)]
    rows = [[f"`{name}`", *(of(*c.loc[name]) if name in c.index else MISSING for c in columns)] for name in names]
    told = "How far to trust a verdict: of all runs on Pendulum that have it, those that end above −300:"
    return f"{told}\n\n{markdown(['verdict', 'halfway', 'at the end'], rows)}"


def agents_cell(own: pd.DataFrame, arm: str, most: int) -> str:
    """`−114, 10 of 10` of one arm: median return and, where the task has such a mark, solved runs.

    Without a mark the number of seeds is told where it is not the task's usual one, `most`.
    """
    if arm not in own.index:
        return MISSING
    row = own.loc[arm]
    said = ending(row.return_median)
    if row.seeds_solved != "":
        said += f", {of(row.seeds_solved, row.seeds)}"
    elif row.seeds < most:
        said += f", {row.seeds} seed{'s' if row.seeds > 1 else ''}"
    return f"{said}, {row.seeds_diverged} diverged" if row.seeds_diverged else said


def what_helps(r: Recordings) -> str:
    """The recipe in a sentence, where it is recorded."""
    there = [preset for preset in load.PRESETS if r.get(preset, RECIPE)]
    if not there:
        return "the recipe is not recorded yet."
    rows = {preset: r.row(preset, RECIPE) for preset in there}
    reached: dict[str, list[str]] = {}
    for preset, row in rows.items():
        reached.setdefault(of(row.viable_cells, row.cells), []).append(f"`{preset}`")
    told = "the recipe, one setting for every pair of learning rates, reaches half of the possible score at "
    told += listed([f"{pairs} pairs on {listed(presets)}" for pairs, presets in reached.items()])
    beside: dict[str, list[str]] = {}
    for preset in there:
        above = over_clamped(r, preset)
        if above is not None:
            _, low, high = mean_above(above)
            word = "worse" if low > 0 else "better" if high < 0 else "alike"
            beside.setdefault(word, []).append(f"`{preset}`")
    if beside:
        said = listed([f"{word} on {listed(presets)}" for word, presets in beside.items()])
        told += f". Small rates instead of the limit do {said}; the limit spares the search for them"
    frozen = {preset: r.row(preset, f"{FROZEN}-with-{RECIPE}") for preset in there}
    easy = [f"`{p}`" for p, row in frozen.items() if row is not None and row.viable_cells == row.cells]
    if easy:
        told += f". On {listed(easy)} actors that never move reach that, too: see below what moving adds"
    constants = [f"`{p}`" for p, x in rows.items() if r.get(p, RECIPE).constants["score"].mean() > x.median_score]
    if constants:
        told += f". On {listed(constants)} the best constant action beats it"
    return f"{told}."


def parts_table(r: Recordings) -> str:
    """What leaving out one part does to the recipe's mean score, a row each; nothing where none is recorded."""
    cells: dict[str, dict[str, str]] = {}
    for preset in load.PRESETS:
        for part, study, both in without_parts(r, preset):
            change = number(both["difference"].mean(), "+.2f")
            cells.setdefault(part_text(part), {})[preset] = f"{change}{few_seeds(study)}"
    there = [preset for preset in load.PRESETS if any(preset in row for row in cells.values())]
    if not there:
        return ""
    rows = [[part, *(row.get(preset, MISSING) for preset in there)] for part, row in cells.items()]
    told = "Which parts matter: the mean score without one of them, minus the recipe's (same seeds and pairs):"
    return f"{told}\n\n{markdown(['without', *(f'`{preset}`' for preset in there)], rows)}"


def scores(r: Recordings) -> str:
    """Median scores of the recipe beside what it is to beat, a row each."""
    there = [preset for preset in load.PRESETS if r.get(preset, RECIPE)]
    rows = {
        "the recipe": [median_of(r, preset, RECIPE) for preset in there],
        CONTROL_ROW: [clamped_median(r, p) for p in there],
        "the recipe with actors that never move": [median_of(r, p, f"{FROZEN}-with-{RECIPE}") for p in there],
        "what the recipe's actors add to that, mean": [actors_add(r.row(p, RECIPE)) for p in there],
        "best constant action": [span(r.get(preset, RECIPE).constants["score"], ".2f") for preset in there],
        "baseline": [median_of(r, preset, BASELINE) for preset in there],
    }
    slow = {p: number(_by_seed(fast(s.runs, False), "normalised_score")) for p, s in r.baselines.items()}
    mixed = {preset: "" if study.one_age else DAGGER for preset, study in r.baselines.items()}
    rows["baseline, actor rates below 0.01"] = [slow[p] + mixed[p] if p in slow else MISSING for p in there]
    table = markdown(["", *(f"`{preset}`" for preset in there)], [[name, *cells] for name, cells in rows.items()])
    told = f"Median scores (0: random actions, 1: a greedy oracle):\n\n{table}"
    if any(mixed.values()):
        told += f"\n\n{DAGGER} Some runs were stopped early, so scores are of several ages."
    return told


def _by_seed(runs: pd.DataFrame, column: str) -> float:
    """As a study's median score: mean over seeds of the median over pairs."""
    return runs.groupby("seed")[column].median().mean()


def clamped_median(r: Recordings, preset: str) -> str:
    """The median score of clamped rates where each of the recipe's pairs has the run that stands for it."""
    found = over_clamped(r, preset)
    return MISSING if found is None else number(_by_seed(found, "clamped")) + few_seeds(r.get(preset, CLAMPED))


def median_of(r: Recordings, preset: str, name: str) -> str:
    """A study's median score, with its number of seeds where these are few."""
    study = r.get(preset, name)
    return median_score(r.row(preset, name), study) + few_seeds(study) if study else MISSING


def against_baseline(r: Recordings, preset: str, name: str) -> str:
    """Mean score above the baseline's with its interval, or with how many seeds are better."""
    row, study = r.row(preset, name), r.get(preset, name)
    base = r.baselines.get(preset)
    if base is None or name == BASELINE or pd.isna(row.paired_runs) or not comparable(study, base):
        return MISSING
    if pd.isna(row.paired_score_difference_low):
        better = of(row.seeds_better_than_baseline, len({*study.seeds} & {*base.seeds}))
        return f"{number(row.paired_score_difference, '+.2f')} ({better} seeds better)"
    ends = (row[f"paired_score_difference{end}"] for end in ("", "_low", "_high"))
    return interval(*ends, "+.2f")


def results(r: Recordings) -> str:
    """The README's tables: a row per recorded experiment without options, and which are not recorded."""
    names = experiment_names()
    there = [name for name in names if any(r.get(preset, name) for preset in SHOWN)]
    if not there:
        return NOTHING
    first = [BASELINE, RECIPE, CLAMPED]
    there.sort(key=lambda name: (first.index(name) if name in first else len(first), name))
    note = (
        "Scores: 0 is random, 1 near-optimal; median over the pairs of rates, mean over seeds. A pair *learns* when "
        "its score is at least 0.5 and above that of actors that never move (with five seeds or more by the 95% "
        "interval, with fewer in each seed). *Above the baseline* is the mean over the same seeds and pairs, so not "
        "the difference of the medians. Weights that never stop may still learn nothing. Clamped rates has two pairs, "
        "which stand for 4 and 12 of the recipe's, here each counts once; frozen actors, whose rate is 0, are a "
        "control as well. `thesis`: [docs/findings.md](docs/findings.md)."
    )
    if any(not s.one_age for p in SHOWN for name in there if (s := r.get(p, name))):
        note += f" {DAGGER} scores of several ages, because runs were stopped early: not compared with the baseline."
    parts = [note]
    for preset in SHOWN:
        rows = [results_row(r, preset, study) for name in there if (study := r.get(preset, name))]
        if rows:
            parts += [f"On `{preset}`:", markdown(RESULTS_HEADER, rows)]
    absent = [f"[{title(name)}](experiments/{name}/README.md)" for name in names if name not in there]
    return "\n\n".join([*parts, *([f"Not recorded yet: {listed(absent)}."] if absent else [])])


def results_row(r: Recordings, preset: str, study: load.StudyFiles) -> list[str]:
    """Cells of RESULTS_HEADER."""
    row, name = r.row(preset, study.name), study.name
    return [
        f"[{title(name)}](experiments/{name}/README.md)", go_on(row), learns(row, study),
        median_score(row, study), against_baseline(r, preset, name),
    ]  # fmt: skip


def go_on(row: pd.Series) -> str:
    """Runs that never stop, of actors that ever move."""
    return MISSING if is_frozen(row.name) else of(row.runs_never_stopping, row.runs)


def page(r: Recordings, name: str) -> str:
    """The found part of one experiment's page: what it shows on every preset, with its options and the baseline."""
    rows, ages = [], set()
    for preset in load.PRESETS:
        own = [n for n in r.names(preset) if n.split("-")[0] == name]
        ages |= {r.get(preset, n).age for n in own}
        rows += [page_row(r, preset, n) for n in dict.fromkeys([*own, BASELINE] if own and r.get(preset) else own)]
    if not rows:
        return f"{sentence(r, name)}\n\n{cost(name)}"
    parts = [sentence(r, name), markdown(HEADER, rows)]
    mixed = f" {DAGGER} Scores of several ages, not compared." if any(DAGGER in "".join(row) for row in rows) else ""
    parts.append(
        f"Scores were taken at {listed(sorted(ages))}; 0 is random, 1 near-optimal. Columns and definitions: "
        f"`docs/csv_columns.md`, comparison.csv. Died: runs whose last gradient died, by what was zero then.{mixed}"
    )
    claims = [v for v in all_verdicts(r) if v.key == name or (name == BASELINE and v.key not in experiment_names())]
    parts += [f"Published: {v.claim}: {v.published}. Here: {v.here}. **{v.verdict.capitalize()}.**" for v in claims]
    if name == BASELINE and r.sequential is not None:
        parts.append(sequential(r))
    return "\n\n".join([*parts, cost(name)])


def page_row(r: Recordings, preset: str, name: str) -> list[str]:
    """One study's row of an experiment's page."""
    row, study = r.row(preset, name), r.get(preset, name)
    wrong = share(row.median_final_wrong_side_saturation)
    return [
        f"`{preset}`", title(name), seeds_text(study.seeds), go_on(row),
        " / ".join(experiments.deaths(study)),
        f"{share(row.median_final_saturation)} ({wrong})",
        number(row.untrained_score), median_score(row, study), number(study.runs["drift"].median()), learns(row, study),
        of(study.runs["improved"].sum(), row.runs), against_baseline(r, preset, name),
    ]  # fmt: skip


def sequential(r: Recordings) -> str:
    """How the published order of actor updates stops beside the joint one."""
    stopped, episodes, shift = (text for _, text in macros.sequential(r))
    return (
        f"With the published order of updates, `--actor-update sequential` (`scaled`), {stopped} runs with actor rates "
        f"from 0.01 stop, at episode {episodes}: {shift} in the median against joint runs of the same seed and rates."
    )


def cost(name: str) -> str:
    """Time per episode beside the baseline's, from the benchmark's file."""
    rows = pd.read_csv(COST_FILE).set_index("experiment")
    if name not in rows.index:
        return "Cost: not measured yet (`benchmarks/bench_experiments.py` of the repository)."
    row = rows.loc[name]
    taken = f"Cost: {row.seconds_per_episode:.2f} s per episode of {row.runs} runs on {row.threads} CPU threads"
    if name == BASELINE:
        return f"{taken}."
    return f"{taken}, {row.ratio:.1f} times the baseline's."


def findings(r: Recordings, root: Path = load.ROOT) -> dict[Path, str]:
    """docs/findings.md: the numbers behind the README and the paper."""
    parts = [
        "# Findings in figures\n\nWritten by `python paper/make.py findings` from the CSV files under `results/` and "
        "`paper/data/`. What is not recorded is not here. Definitions: [csv_columns.md](csv_columns.md).",
        f"## In short\n\n{finding(r).replace('](docs/', '](')}",
        f"## Questions and answers\n\n{answers(r)}",
    ]
    if r.baselines:
        parts += [
            f"## Death and freeze of agents, baseline, by actor learning rate\n\n{deaths(r)}",
            f"## Gradient ratio, actor / critic, baseline\n\n{ratios(r)}",
        ]
    claims = [[v.claim, v.published, v.here, f"**{v.verdict}**"] for v in all_verdicts(r)]
    parts.append(f"## Published claims\n\n{markdown(['claim', 'published', 'here', 'verdict'], claims)}")
    for preset in r.compared:
        rows = [page_row(r, preset, name)[1:] for name in r.names(preset)]
        parts.append(f"## Every study on `{preset}`\n\n{markdown(HEADER[1:], rows)}")
    if any(not study.one_age for study in r.baselines.values()):
        parts.append(f"{DAGGER} The study's scores are of several ages, because runs were stopped early.")
    return {root / "docs" / "findings.md": "\n\n".join(parts) + "\n"}


def deaths(r: Recordings) -> str:
    """When gradients died and weights froze, over agents."""
    rows = []
    for (preset, actor_lr), own in r.agents.groupby(["preset", "actor_lr"], sort=False):
        death, freeze = own["gradient_death_episode"], own["freeze_episode"]
        rows.append([
            f"`{preset}`", rate(actor_lr), share(death.notna().mean()), share((death < 50).mean()),
            share(freeze.notna().mean()), number(death.median(), ".0f"), number(freeze.median(), ".0f"),
            spread(own["lag"].dropna()),
        ])  # fmt: skip
    header = ["preset", "actor lr", "agents whose gradient died", "… before episode 50", "agents frozen"]
    told = "Medians: death of the agents whose gradient died, freeze of those that froze, lag of those with both."
    return f"{told}\n\n{markdown([*header, 'median death', 'median freeze', 'lag: median (5%–95%)'], rows)}"


def ratios(r: Recordings) -> str:
    """Ratio at the first training step and while it is not zero, by critic rate."""
    rows = []
    for preset, study in r.baselines.items():
        for critic_lr, own in study.norms.groupby("critic_lr"):
            first, alive = study.first(own)["gradient_ratio"], own.loc[own["gradient_ratio"] > 0, "gradient_ratio"]
            spread_of = span(alive.quantile([0.05, 0.95]), 2)
            rows.append([f"`{preset}`", rate(critic_lr), significant(first.median()), spread_of])
    return markdown(["preset", "critic lr", "first training step, median", "while not zero, 5%–95%"], rows)
