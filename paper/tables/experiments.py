"""Tables of the changes: what each prevents and gains, the recipe with its parts and controls, the verdicts."""

from __future__ import annotations

import pandas as pd

from common.agents.remedies import LAST_FOUR, VALUES
from common.analysis.comparison_statistics import BASELINE, CELL, FEWEST, KEY, is_frozen
from common.analysis.statistics import t_test
from paper import load
from paper.load import NotRecorded, Recordings, StudyFiles, is_control, title
from paper.text import MISSING, interval, listed, number, of, rate, seeds_text, share, span, tabular
from paper.verdicts import CLAMPED, all_verdicts

SHOWN = ("scaled", "interior")  # presets beside each other in the table of remedies
RECIPE = "recipe"
DAGGER = "†"  # scores of several ages
SMALL_CHANGE = 0.1  # of a mean score, without one of the recipe's parts: smaller ones are told as a range
PARTS_HEADER = [
    "preset", "left out", "seeds", "median run", "the recipe's", "mean difference", "runs below", "drift",
]  # fmt: skip


def median_score(row: pd.Series, study: StudyFiles) -> str:
    """Mean over seeds of the median score over pairs, marked where the scores are of several ages."""
    return number(row.median_score) + ("" if study.one_age else DAGGER)


def few_seeds(study: StudyFiles) -> str:
    """Says so where a study has fewer seeds than the rest."""
    fewest = study.runs["seed"].nunique()
    return f" ({fewest} seed{'s' if fewest > 1 else ''})" if fewest < 3 else ""


def learns(row: pd.Series, study: StudyFiles) -> str:
    """Pairs that learn: by interval; of few seeds in each seed. Frozen actors do not.

    Without a control, or with scores that do not compare with its scores, at most those that are viable.
    """
    if is_frozen(study.name):
        return MISSING
    for count in (row.learning_cells, row.cells_above_both_in_every_seed) * study.one_age:
        if not pd.isna(count):
            return of(count, row.cells)
    return f"{'at most ' if row.viable_cells else ''}{of(row.viable_cells, row.cells)}"


def actors_add(row: pd.Series) -> str:
    """Mean score above frozen actors', with its interval over seeds where it has one."""
    return interval(row.actors_add, row.actors_add_low, row.actors_add_high, "+.2f")


def deaths(study: StudyFiles) -> tuple[str, str]:
    """Runs that died of the tanh, which some variants have not, and of a flat critic."""
    kinds = study.ends["kind"]
    return str((kinds == load.DERIVATIVE).sum()) if study.has_tanh else MISSING, str((kinds == load.FLAT).sum())


def cells_of(row: pd.Series, study: StudyFiles) -> list[str]:
    """What the table of remedies says of one study."""
    died = (MISSING if count == MISSING else share(int(count) / row.runs) for count in deaths(study))
    return [
        *died, share(row.runs_never_stopping / row.runs), number(row.untrained_score), median_score(row, study),
        of(row.viable_cells, row.cells).replace(" of ", "/"), share(row.improved_runs / row.runs),
    ]  # fmt: skip


def remedies(r: Recordings) -> str:
    """Single changes without options, beside the baseline."""
    there = dict.fromkeys(name for preset in SHOWN for name in r.names(preset))
    names = [name for name in there if "-" not in name and not is_control(name)]
    presets = [preset for preset in SHOWN if r.names(preset)]
    if not names:
        raise NotRecorded(f"{r.results}: nothing is recorded on {' or '.join(SHOWN)}")
    rows: list[list[str] | None] = []
    for name in sorted(names, key=lambda name: (name != BASELINE, name)):
        parts = []
        for preset in presets:
            study = r.get(preset, name)
            parts += cells_of(r.row(preset, name), study) if study else [MISSING] * 7
        fewest = min((s for p in presets if (s := r.get(p, name))), key=lambda s: len(s.seeds))
        rows.append([title(name) + few_seeds(fewest), *parts])
        if name == BASELINE:
            rows.append(None)
    places = [(2 + 7 * i, 8 + 7 * i) for i in range(len(presets))]
    header = [
        "".join(rf" & \multicolumn{{7}}{{c}}{{\texttt{{{preset}}}}}" for preset in presets),
        "".join(rf"\cmidrule(lr){{{low}-{high}}}" for low, high in places),
        "change" + " & tanh & critic & never & untr. & median & viable & imp." * len(presets),
    ]
    return tabular("l" + "rrrrrrr" * len(presets), header, rows)


def without_parts(r: Recordings, preset: str) -> list[tuple[str, StudyFiles, pd.DataFrame]]:
    """Part, study, and its runs beside the recipe's of the same seed and pair; the worst first.

    Of a pair of runs that both have a score: `normalised_score`, `normalised_score_whole` and their `difference`.
    """
    whole, mark = r.get(preset, RECIPE), f"{RECIPE}-without-"
    found = []
    for name in r.names(preset) if whole else ():
        if name.startswith(mark):
            study = r.need(preset, name)
            both = study.runs.merge(whole.runs, on=KEY, suffixes=("", "_whole"))
            both["difference"] = both["normalised_score"] - both["normalised_score_whole"]
            found.append((name.removeprefix(mark), study, both.dropna(subset="difference")))
    return sorted(found, key=lambda row: row[2]["difference"].mean())


def part_rows(r: Recordings) -> list[list[str]]:
    """Cells of PARTS_HEADER for each recorded recipe without one of its parts."""
    rows = []
    for preset in load.PRESETS:
        for part, study, both in without_parts(r, preset):
            medians = (number(both[name].median()) for name in ("normalised_score", "normalised_score_whole"))
            rows.append([
                f"`{preset}`", part, seeds_text(study.seeds), *medians, number(both["difference"].mean(), "+.2f"),
                of((both["difference"] < 0).sum(), len(both)), number(study.runs["drift"].median()),
            ])  # fmt: skip
    if not rows:
        raise NotRecorded(f"{r.results}: no recipe without one of its parts is recorded")
    return rows


def part_text(part: str) -> str:
    """A part of the recipe in a sentence."""
    return f"{listed([f'`{name}`' for name in VALUES])} together" if part == LAST_FOUR else f"`{part}`"


def part_changes(r: Recordings) -> str:
    """What leaving out one part does to the mean score, by preset."""
    told = []
    for preset in load.PRESETS:
        groups: dict[str, list[tuple[float, str]]] = {}
        for part, study, both in without_parts(r, preset):
            groups.setdefault(few_seeds(study), []).append((round(both["difference"].mean(), 2), part_text(part)))
        for seeds, changes in groups.items():
            alone = part_text(LAST_FOUR)  # four names among single ones would read as such
            told_by_itself = [(x, part) for x, part in changes if abs(x) >= SMALL_CHANGE or part == alone]
            said = [f"{number(x, '+.2f')} without {part}" for x, part in told_by_itself]
            small = {part: x for x, part in changes if (x, part) not in told_by_itself}
            if small:
                said.append(f"{span(small.values(), '+.2f')} without {listed(list(small)).replace(' and ', ' or ')}")
            told.append(f"on `{preset}`{seeds} by {listed(said)}")
    if not told:
        raise NotRecorded(f"{r.results}: no recipe without one of its parts is recorded")
    return "; ".join(told)


def parts(r: Recordings) -> str:
    """The recipe without one of its parts, beside the recipe's runs of the same seeds and pairs."""
    return tabular("lllrrrrr", [" & ".join(PARTS_HEADER)], part_rows(r))


def recipe(r: Recordings) -> str:
    """The recipe and its controls, on every preset where the recipe is recorded."""
    rows: list[list[str] | None] = []
    for preset in r.compared:
        names = [n for n in r.names(preset) if n == RECIPE or is_control(n)]
        if RECIPE not in names:
            continue
        for name in sorted(names, key=lambda n: (n != RECIPE, n)):
            row, study = r.row(preset, name), r.get(preset, name)
            rows.append([
                f"`{preset}`", title(name), str(row.seeds), study.age.partition(" ")[2], median_score(row, study),
                of(row.viable_cells, row.cells), learns(row, study), number(study.runs["best_score"].median()),
                actors_add(row),
            ])  # fmt: skip
        rows.append(None)
    if not rows:
        raise NotRecorded(f"{r.results}: {RECIPE} is not recorded on any preset")
    header = ["preset & study & seeds & age & median & viable & learn & best & actors add"]
    return tabular("llrrrrrrr", header, rows[:-1])


def over_clamped(r: Recordings, preset: str) -> pd.DataFrame | None:
    """Each of the recipe's seeds and pairs beside the `clamped` score that stands for it; by how much it is `above`.

    Clamped rates train only distinct pairs: the partner of a pair has its rates cut at the largest that were trained.
    `rate` is that of the partner's critic.
    """
    study, control = r.get(preset, RECIPE), r.get(preset, CLAMPED)
    if not (study and control):
        return None
    largest = control.runs[CELL].max()
    own = study.runs.assign(**{f"{name}_cut": study.runs[name].clip(upper=largest[name]) for name in CELL})
    theirs = control.runs[["seed", *CELL, "normalised_score"]].rename(columns={name: f"{name}_cut" for name in CELL})
    both = own.merge(theirs, on=["seed", *(f"{name}_cut" for name in CELL)], suffixes=("", "_clamped"))
    both["above"] = both["normalised_score"] - both["normalised_score_clamped"]
    both = both.rename(columns={"normalised_score_clamped": "clamped", "critic_lr_cut": "rate"})
    return both[["seed", *CELL, "clamped", "above", "rate"]]


def pairs_over_clamped(above: pd.DataFrame) -> str:
    """In how many pairs the recipe's mean score is above that of the pair's clamped run."""
    means = above.groupby(CELL)["above"].mean()
    return of((means > 0).sum(), len(means))


def mean_above(above: pd.DataFrame) -> tuple[float, float, float]:
    """Mean difference and the ends of its interval over seeds; all of a seed's pairs count alike."""
    return t_test(above.groupby("seed")["above"].mean(), FEWEST)[:3]


def over_each_control(above: pd.DataFrame) -> str:
    """Mean difference to each distinct clamped run, with its interval."""
    told = []
    for lr, own in above.groupby("rate"):
        told.append(f"{interval(*mean_above(own), '+.2f')} at {'a critic rate of ' * (not told)}{rate(lr)}")
    return listed(told)


def verdicts(r: Recordings) -> str:
    """Claims with the published figure, the one here, and the verdict."""
    rows = [[v.claim, v.published, v.here, f"**{v.verdict}**"] for v in all_verdicts(r)]
    widths = "".join(rf">{{\raggedright\arraybackslash}}p{{{w}\linewidth}}" for w in (0.28, 0.2, 0.33, 0.11))
    return tabular(widths, ["claim & published & here & verdict"], rows)
