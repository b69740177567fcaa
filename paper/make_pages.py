"""Writes what was found into experiments/*/README.md and the experiments' table of README.md, from the CSV files.

    python paper/make_pages.py [--check]

With --check nothing is written; exit code 1 names the pages that do not follow from the files. Only the text between
the two marks is this script's; the rest of a page is written by hand and cites no measured figure.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.analysis.compare import Comparison  # noqa: E402
from common.analysis.comparison_statistics import BASELINE, KEY, only_finished  # noqa: E402
from common.recording.results import ResultsError, find_studies, load_study  # noqa: E402
from paper.outcomes import CELLS, FACTOR, TOO_SLOW, Outcome, outcome, second_change, verdict  # noqa: E402
from paper.pages import arguments, experiment_names, filled, write_or_check  # noqa: E402
from paper.pages import table as markdown  # noqa: E402

PRESETS = ("scaled", "interior", "thesis")
BEGIN, END = "<!-- found: written by paper/make_pages.py -->", "<!-- end of found -->"
DOUBLES = ROOT / "results" / "double_changes" / "scaled"
SEQUENTIAL = ROOT / "results" / "sequential" / "scaled" / BASELINE
SAME_COST = 0.1  # share by which times of the same work differ from measurement to measurement


def number(value: float, form: str) -> str:
    """Formatted, or a dash where there is no number."""
    return "–" if pd.isna(value) else format(value, form)


def interval(row: pd.Series, name: str, form: str = "+.2f") -> str:
    """Mean or median with its 95% interval over seeds."""
    low, high = (number(row[f"{name}_{end}"], form) for end in ("low", "high"))
    return f"{number(row[name], form)} [{low}, {high}]"


def of(count: float, whole: float) -> str:
    """`3 of 48`."""
    return "–" if pd.isna(count) else f"{count} of {whole}"


def compare_presets() -> dict[str, Comparison]:
    """The comparison of each preset."""
    found: dict[str, list[Path]] = {preset: [] for preset in PRESETS}
    for folder in find_studies(ROOT / "results"):
        if folder.parent.parent == ROOT / "results" and folder.parent.name in found:
            found[folder.parent.name].append(folder)
    return {preset: Comparison(ROOT / "results" / preset, some, fewest=2) for preset, some in found.items() if some}


class Pages:
    """What the pages say, from the comparisons, the double changes and the published outcomes."""

    def __init__(self, names: list[str]):
        self.names = names
        comparisons = compare_presets()
        self.compared = {p: c.table.set_index("experiment").astype(object) for p, c in comparisons.items()}
        self.runs = {preset: only_finished(comparison.runs) for preset, comparison in comparisons.items()}
        published = pd.read_csv(ROOT / "paper" / "data" / "published_outcomes.csv").set_index("experiment")
        self.published = published.reindex(published.index.union(names)).fillna({"claim": "none"})
        self.doubles = {name: self._double(name) for name in names}

    def texts(self) -> dict[Path, str]:
        """The found part of every page."""
        pages = {ROOT / "experiments" / name / "README.md": self.page(name) for name in self.names}
        return {**pages, ROOT / "README.md": self.overview()}

    def page(self, name: str) -> str:
        """The found part of one experiment's page."""
        there = {preset: table.loc[name] for preset, table in self.compared.items() if name in table.index}
        if not there:
            return f"No results are recorded yet.\n\n{cost(name)}"
        sizes = ", ".join(f"`{p}` ({row.runs} runs: {row.cells} pairs × {row.seeds} seeds)" for p, row in there.items())
        text = (
            f"Recorded: {sizes}. Scores are normalised (0 random, 1 near-optimal), intervals 95% over seeds and not "
            "corrected for their number; every column is explained in `docs/csv_columns.md` under `comparison.csv`.\n\n"
            + self.by_preset(name)
        )
        if "scaled" in there:
            word, why = verdict(self.published.loc[name], self.outcome_of(name))
            text += f"\n\nPublished: {self.published.loc[name].claim}. Agrees on `scaled`: **{word}** ({why})."
        if double := self.doubles[name]:
            options, (word, why), seeds = double
            text += (
                f"\n\nWith `{options}`, as a published version had it (`scaled`, {seeds}): agrees **{word}** ({why})."
            )
        if name == BASELINE and (SEQUENTIAL / "runs.csv").exists():
            text += f"\n\n{self.update_order()}"
        return f"{text}\n\n{cost(name)}"

    def update_order(self) -> str:
        """How the published order of actor updates stops beside the joint one, same seed and rates."""
        runs, joint = load_study(SEQUENTIAL).runs, self.runs["scaled"]
        both = runs.merge(joint[joint["experiment"] == BASELINE], on=KEY, suffixes=("", "_joint"))
        fast = both[both["actor_lr"] >= 0.01]
        stops, shift = fast["stopping_episode"], fast["stopping_episode"] - fast["stopping_episode_joint"]
        return (
            "With the published order of actor updates, `--actor-update sequential` (`scaled`, seed "
            f"{', '.join(map(str, sorted(runs['seed'].unique())))}, the first {runs['total_episodes'].max():.0f} "
            f"episodes), {of(stops.notna().sum(), len(fast))} runs with actor learning rates from 0.01 stop, at "
            f"episode {stops.min():.0f} to {stops.max():.0f}: {shift.median():+.0f} episodes in the median against the "
            f"joint runs of the same seed and rates ({shift.min():+.0f} to {shift.max():+.0f})."
        )

    def outcome_of(self, name: str) -> Outcome:
        """The single change on `scaled`."""
        runs = self.runs["scaled"]
        return outcome(name, *(runs[runs["experiment"] == which] for which in (name, BASELINE)))

    def _double(self, name: str) -> tuple[str, tuple[str, str], str] | None:
        """Options of the published double change, its verdict and its seeds; None where it is not recorded."""
        if not (DOUBLES / name / "runs.csv").exists():
            return None
        runs, base = load_study(DOUBLES / name).runs, self.runs["scaled"]
        found = outcome(name, runs, base[base["experiment"] == BASELINE])
        changed = second_change(DOUBLES / name, ROOT / "results" / "scaled" / name)
        seeds = sorted(runs["seed"].unique())
        text = f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}"
        return options(changed), verdict(self.published.loc[name], found), text

    def by_preset(self, name: str) -> str:
        """The experiment's figures on every preset, the baseline's beside them."""
        rows = []
        for preset, table in self.compared.items():
            if name not in table.index:
                continue
            for label in dict.fromkeys((name, BASELINE)):
                row = table.loc[label]
                paired = label != BASELINE
                rows.append(
                    [
                        f"`{preset}`", label.replace("_", " "), of(row.runs_never_stopping, row.runs),
                        f"{number(row.dead_agents_share, '.0%')}, episode {number(row.median_death_episode, '.0f')}",
                        f"{number(row.frozen_agents_share, '.0%')}, episode {number(row.median_freeze_episode, '.0f')}",
                        number(row.median_final_saturation, ".0%"),
                        number(row.median_final_wrong_side_saturation, ".0%"),
                        number(row.untrained_score, ".2f"), interval(row, "median_score", ".2f"),
                        number(row.best_score, ".2f"), of(row.improved_runs, row.runs),
                        of(row.runs_better_than_untrained_baseline, row.paired_runs) if paired else "",
                        of(row.runs_better_than_baseline, row.paired_runs) if paired else "",
                        "" if not paired else f"{number(row.cells_better_than_baseline, 'd')} / "
                        f"{number(row.cells_worse_than_baseline, 'd')}",
                        interval(row, "paired_score_difference") if paired else "",
                    ]
                )  # fmt: skip
        header = ["preset", "experiment", "runs that never stop", "agents whose gradient died, median episode"]
        header += ["agents whose weights froze, median episode", "final saturation", "… on the wrong side"]
        header += ["score untrained", "score, mean over seeds of the median", "best score"]
        header += ["runs better than their own untrained policy", "… than the baseline's untrained policy"]
        header += ["runs better than the baseline's", "pairs of rates shown better / worse"]
        return markdown([*header, "mean score above the baseline's"], rows)

    def one_line(self, name: str) -> str:
        """What the experiment shows, by rule: how often runs never stop, the score, and that beside the baseline's."""
        there = {preset: table for preset, table in self.compared.items() if name in table.index}
        if not there:
            return "not recorded yet"
        never = ", ".join(
            f"{of(table.loc[name].runs_never_stopping, table.loc[name].runs)} on `{preset}`"
            for preset, table in there.items()
        )
        parts = []
        for preset, table in there.items():
            row = table.loc[name]
            text = f"{interval(row, 'median_score', '.2f')} on `{preset}` (untrained "
            text += number(row.untrained_score, ".2f")
            parts.append(text + (")" if name == BASELINE else f"; against the baseline: {effect(row)})"))
        base = "" if name == BASELINE else f" (baseline {', '.join(_never(table) for table in there.values())})"
        return f"Never stops: {never}{base}. Median score: {'; '.join(parts)}."

    def overview(self) -> str:
        """The experiments' table of the main page."""
        rows = []
        for name in self.names:
            word = "–"
            if name in self.compared["scaled"].index:
                word = verdict(self.published.loc[name], self.outcome_of(name))[0]
            if double := self.doubles[name]:
                word += f"; with `{double[0]}`, as a published version had it: {double[1][0]}"
            link = f"[{name}](experiments/{name}/README.md)"
            rows.append([link, self.one_line(name), self.published.loc[name].claim, word])
        header = ["experiment", "found here", "published claim", "agrees (`scaled`)"]
        return f"{markdown(header, rows)}\n\n{self.largest()}\n\n{self.rules()}"

    def largest(self) -> str:
        """Per preset the largest mean gain and the best pair of rates."""
        gains = []
        for preset, table in self.compared.items():
            others = table.drop(index=BASELINE)
            if others.empty:
                continue
            best = others.loc[others.paired_score_difference.astype(float).idxmax()]
            below = ", still below random" if best.median_score_high < 0 else ""
            gains.append(
                f"`{preset}`: {best.name}, {interval(best, 'paired_score_difference')} (its median score: "
                f"{interval(best, 'median_score', '.2f')}{below}); best pair of rates, chosen afterwards: "
                f"{self.top_pair(preset)}"
            )
        return f"**Largest mean gain over the baseline, and largest score.** {'. '.join(gains)}."

    def rules(self) -> str:
        """How “agrees” is decided, and how many intervals stand in the table."""
        tested = sum(len(table) - 1 for table in self.compared.values())
        return (
            f"“Agrees” compares with the published figures: the published count of pairs that never stop is inside "
            f"the 95% interval of the one here (Wilson, of {CELLS}; none only where none was), pairs that do better "
            f"are a minority, a majority or (by the same interval) half as there, a ratio within a factor of "
            f"{FACTOR:.0f}, “too slow” when above {TOO_SLOW:g} times the baseline's time. "
            "Some published versions changed two things (see their pages); where that is recorded, too, both verdicts "
            "are given. "
            "“Higher” and “lower” mean that the whole interval is on that side of 0; these are "
            f"{tested} intervals of three seeds each, not corrected for their number: about {0.025 * tested:.1f} "
            "“higher” would be expected by chance. A score is good when it is near 1, and useless below that of the "
            "untrained policy, however much higher than the baseline's."
        )

    def top_pair(self, preset: str) -> str:
        """The experiment and pair of rates with the highest mean score over seeds, that mean and the range."""
        scores = self.runs[preset].groupby(["experiment", "actor_lr", "critic_lr"])["normalised_score"]
        name, actor, critic = scores.mean().idxmax()
        own = scores.get_group((name, actor, critic))
        rates = f"actor 1e{math.log10(actor):.0f}, critic 1e{math.log10(critic):.0f}"
        return f"{name}, {own.mean():.2f} ({own.min():.2f} to {own.max():.2f}; {rates})"


def effect(row: pd.Series) -> str:
    """Whether the paired scores differ from the baseline's, by the interval over seeds."""
    word = "no difference shown"
    if row.paired_score_difference_low > 0:
        word = "**higher**"
    elif row.paired_score_difference_high < 0:
        word = "**lower**"
    return f"{word}, {interval(row, 'paired_score_difference')}"


def options(changed: dict[str, Any]) -> str:
    """Fields of a configuration as they are said on the command line."""
    texts = {k: " ".join(map(str, v)) if isinstance(v, list) else f"{v:g}" for k, v in changed.items()}
    return " ".join(f"--{key.replace('_', '-')} {text}" for key, text in texts.items())


def cost(name: str) -> str:
    """Time per episode beside the baseline's, from the benchmark's file."""
    rows = pd.read_csv(ROOT / "benchmarks" / "results" / "experiments_cpu.csv").set_index("experiment")
    if name not in rows.index:
        return "Cost: not measured yet (`benchmarks/bench_experiments.py` of the repository)."
    row, source = rows.loc[name], "`benchmarks/bench_experiments.py` of the repository"
    taken = f"Cost: {row.seconds_per_episode:.2f} s per episode of {row.runs} runs on {row.threads} CPU threads"
    if name == BASELINE:
        return f"{taken} ({source})."
    if abs(row.ratio - 1) <= SAME_COST:
        return f"{taken}, no measurable difference from the baseline's ({source})."
    return (
        f"Cost: {row.ratio:.1f} × the baseline's time per episode ({row.seconds_per_episode:.2f} s against "
        f"{row.baseline_seconds_per_episode:.2f} s for {row.runs} runs on {row.threads} CPU threads, {source})."
    )


def main() -> None:
    """Write all pages, or check them."""
    said = arguments(__doc__)
    names = sorted(experiment_names(), key=lambda name: (name != BASELINE, name))
    for name in names:
        if not (ROOT / "experiments" / name / "README.md").exists():
            raise SystemExit(f"experiments/{name}/README.md: no such file; copy a neighbour's and rewrite it")
    try:
        texts = Pages(names).texts()
    except ResultsError as problem:
        raise SystemExit(f"error: {problem}") from None
    write_or_check({path: filled(path, BEGIN, END, text) for path, text in texts.items()}, said.check)


def _never(table: pd.DataFrame) -> str:
    return str(table.loc[BASELINE].runs_never_stopping)


if __name__ == "__main__":
    main()
