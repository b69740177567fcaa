"""Writes what was found into experiments/*/README.md and the experiments' table of README.md, from the CSV files.

    python paper/make_pages.py [--check]

With --check nothing is written; exit code 1 names the pages that do not follow from the files. Only the text between
the two marks is this script's; the rest of a page is written by hand and cites no measured figure.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.compare import Comparison  # noqa: E402
from common.comparison_statistics import BASELINE  # noqa: E402
from common.results import find_studies  # noqa: E402
from paper.pages import filled, write_or_check  # noqa: E402
from paper.pages import table as markdown  # noqa: E402

PRESETS = ("scaled", "interior", "thesis")
BEGIN, END = "<!-- found: written by paper/make_pages.py -->", "<!-- end of found -->"
CELLS = 16
NEAR = 2  # cells by which a count may miss the published one and still be called the same
FACTOR = 3.0  # by which a published ratio may be missed likewise
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


def tables() -> dict[str, pd.DataFrame]:
    """The comparison of each preset, by experiment."""
    found = {}
    for preset in PRESETS:
        folders = [folder for folder in find_studies(ROOT / "results") if folder.parent == ROOT / "results" / preset]
        found[preset] = Comparison(ROOT / "results" / preset, folders).table.set_index("experiment").astype(object)
    return found


def by_preset(name: str, compared: dict[str, pd.DataFrame]) -> str:
    """The experiment's figures on every preset, the baseline's beside them."""
    rows = []
    for preset, table in compared.items():
        if name not in table.index:
            continue
        for label in dict.fromkeys((name, BASELINE)):
            row = table.loc[label]
            rows.append(
                [
                    f"`{preset}`", label.replace("_", " "), of(row.runs_never_stopping, row.runs),
                    f"{number(row.dead_agents_share, '.0%')}, episode {number(row.median_death_episode, '.0f')}",
                    f"{number(row.frozen_agents_share, '.0%')}, episode {number(row.median_freeze_episode, '.0f')}",
                    number(row.median_final_saturation, ".0%"), number(row.median_final_wrong_side_saturation, ".0%"),
                    of(row.improved_runs, row.runs), interval(row, "median_score"), number(row.best_score, ".2f"),
                    "" if label == BASELINE else of(row.runs_better_than_baseline, row.paired_runs),
                    "" if label == BASELINE else interval(row, "paired_score_difference"),
                ]
            )  # fmt: skip
    header = ["preset", "experiment", "runs that never stop", "agents whose gradient died, median episode"]
    header += ["agents whose weights froze, median episode", "final saturation", "… on the wrong side"]
    header += ["runs better than untrained", "score, mean over seeds of the median", "best score"]
    return markdown([*header, "runs better than the baseline's", "mean score above the baseline's"], rows)


def one_line(name: str, compared: dict[str, pd.DataFrame]) -> str:
    """What the experiment shows beside the baseline, by rule: how often runs never stop, and the paired scores."""
    there = {preset: table for preset, table in compared.items() if name in table.index}
    if not there:
        return "not recorded yet"
    never = {preset: table.loc[name].runs_never_stopping for preset, table in there.items()}
    counts = ", ".join(f"{count} of {there[preset].loc[name].runs} on `{preset}`" for preset, count in never.items())
    improved = ", ".join(f"{table.loc[name].improved_runs} on `{preset}`" for preset, table in there.items())
    text = f"Never stops: {counts}"
    if name != BASELINE:
        base = [str(table.loc[BASELINE].runs_never_stopping) for table in there.values()]
        verdicts = [f"{effect(table.loc[name])} on `{preset}`" for preset, table in there.items()]
        text += f" (baseline {', '.join(base)}). Score against the baseline: {'; '.join(verdicts)}"
    return f"{text}. Beats its own untrained policy: {improved}."


def effect(row: pd.Series) -> str:
    """Whether the paired scores differ from the baseline's, by the interval over seeds."""
    word = "no difference shown"
    if row.paired_score_difference_low > 0:
        word = "**higher**"
    elif row.paired_score_difference_high < 0:
        word = "**lower**"
    return f"{word}, {interval(row, 'paired_score_difference')}"


def verdicts(name: str, published: pd.Series, table: pd.DataFrame) -> tuple[str, str]:
    """Whether `scaled` agrees with the published figures: yes, partly or no, and why."""
    row = table.loc[name]
    claims = []
    if pd.notna(published.cells_never_stopping):
        there, here = published.cells_never_stopping, CELLS * row.runs_never_stopping / row.runs
        text = f"{there:.0f} of {CELLS} pairs never stopped there, {here:.1f} of {CELLS} here (mean over seeds)"
        claims.append((abs(here - there) <= NEAR, text))
    if pd.notna(published.cells_better_than_baseline):
        there, here = published.cells_better_than_baseline, CELLS * row.runs_better_than_baseline / row.paired_runs
        text = (
            f"{there:.0f} of {CELLS} pairs had a better mean return than the baseline's there, {here:.1f} of {CELLS} a "
            "better final evaluation here (mean over seeds)"
        )
        claims.append(((here > CELLS / 2) == (there > CELLS / 2), text))
    if pd.notna(published.largest_preactivation_over_baseline):
        there, here = published.largest_preactivation_over_baseline, explosion(name)
        text = (
            f"the largest pre-activation was {there:.0f} times the baseline's there, {here:.2g} times here (over seeds)"
        )
        claims += [(here > 1, text), (there / FACTOR <= here <= there * FACTOR, "")]
    if not claims:
        return "nothing to compare", "no outcome was published"
    agree = sum(same for same, _ in claims)
    word = "yes" if agree == len(claims) else ("partly" if agree else "no")
    return word, "; ".join(text for _, text in claims if text)


def top_pair(preset: str, compared: pd.DataFrame) -> str:
    """The experiment and pair of rates with the highest mean score over seeds, that mean and the range."""
    best = None
    for name in compared.index:
        runs = pd.read_csv(ROOT / "results" / preset / name / "runs.csv")
        for (actor, critic), scores in runs.groupby(["actor_lr", "critic_lr"]).normalised_score:
            if best is None or scores.mean() > best[0].mean():
                best = (scores, name, f"actor 1e{math.log10(actor):.0f}, critic 1e{math.log10(critic):.0f}")
    scores, name, rates = best
    return f"{name}, {scores.mean():.2f} ({scores.min():.2f} to {scores.max():.2f}; {rates})"


def explosion(name: str) -> float:
    """Largest pre-activation of the whole grid on `scaled` over the baseline's, mean over seeds."""
    own, base = (
        pd.read_csv(ROOT / "results" / "scaled" / folder / "runs.csv").groupby("seed").largest_abs_preactivation.max()
        for folder in (name, BASELINE)
    )
    return float((own / base).mean())


def cost(name: str) -> str:
    """Time per episode beside the baseline's, from the benchmark's file."""
    rows = pd.read_csv(ROOT / "benchmarks" / "results" / "experiments_cpu.csv").set_index("experiment")
    if name not in rows.index:
        return "Cost: not measured yet (`benchmarks/bench_experiments.py`)."
    row = rows.loc[name]
    taken = f"Cost: {row.seconds_per_episode:.2f} s per episode of {row.runs} runs on {row.threads} CPU threads"
    if name == BASELINE:
        return f"{taken} (`benchmarks/bench_experiments.py`)."
    if abs(row.ratio - 1) <= SAME_COST:
        return f"{taken}, no measurable difference from the baseline's (`benchmarks/bench_experiments.py`)."
    return (
        f"Cost: {row.ratio:.1f} × the baseline's time per episode ({row.seconds_per_episode:.2f} s against "
        f"{row.baseline_seconds_per_episode:.2f} s for {row.runs} runs on {row.threads} CPU threads, "
        "`benchmarks/bench_experiments.py`)."
    )


def page(name: str, compared: dict[str, pd.DataFrame], published: pd.DataFrame) -> str:
    """The found part of one experiment's page."""
    there = [preset for preset in PRESETS if name in compared[preset].index]
    if not there:
        return f"No results are recorded yet.\n\n{cost(name)}"
    seeds = int(compared[there[0]].loc[name].seeds)
    text = (
        f"Recorded: {', '.join(f'`{p}`' for p in there)}, 16 learning-rate pairs × {seeds} seeds each. Scores are "
        "normalised (0 random, 1 near-optimal), intervals 95% over seeds; every column is explained in "
        "`docs/csv_columns.md` under `comparison.csv`.\n\n" + by_preset(name, compared)
    )
    if "scaled" in there:
        word, why = verdicts(name, published.loc[name], compared["scaled"])
        text += f"\n\nPublished: {published.loc[name].claim}. Agrees on `scaled`: **{word}** ({why})."
    return f"{text}\n\n{cost(name)}"


def overview(names: list[str], compared: dict[str, pd.DataFrame], published: pd.DataFrame) -> str:
    """The experiments' table of the main page."""
    rows = []
    for name in names:
        found = one_line(name, compared)
        word = verdicts(name, published.loc[name], compared["scaled"])[0] if name in compared["scaled"].index else "–"
        rows.append([f"[{name}](experiments/{name}/README.md)", found, published.loc[name].claim, word])
    gains = []
    for preset, table in compared.items():
        others = table.drop(index=BASELINE)
        if not others.empty:
            best = others.paired_score_difference.astype(float).idxmax()
            mean = f"{best}, {interval(others.loc[best], 'paired_score_difference')} above the baseline"
            gains.append(
                f"`{preset}`: on average over the grid {mean}; at one pair of rates {top_pair(preset, others)}"
            )
    most = f"**Largest scores.** {'. '.join(gains)}." if gains else ""
    rule = (
        f"“Agrees” compares counts of learning-rate pairs with the published ones: never stopping within {NEAR} of "
        f"{CELLS}, better than the baseline in the same majority, a ratio within a factor of {FACTOR:.0f}."
    )
    return (
        markdown(["experiment", "found here", "published claim", "agrees (`scaled`)"], rows) + f"\n\n{most}\n\n{rule}"
    )


def main() -> None:
    """Write all pages, or check them."""
    names = sorted((p.name for p in (ROOT / "experiments").iterdir() if p.is_dir()), key=lambda n: (n != BASELINE, n))
    published = pd.read_csv(ROOT / "paper" / "data" / "published_outcomes.csv").set_index("experiment")
    published = published.reindex(published.index.union(names)).fillna({"claim": "none"})
    compared = tables()
    texts = {ROOT / "experiments" / name / "README.md": page(name, compared, published) for name in names}
    texts[ROOT / "README.md"] = overview(names, compared, published)
    texts = {path: filled(path, BEGIN, END, text) for path, text in texts.items()}
    write_or_check(texts, "--check" in sys.argv[1:])


if __name__ == "__main__":
    main()
