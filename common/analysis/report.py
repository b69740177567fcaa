"""Write one self-contained HTML page to explore studies with: grids of cells, their runs over time, the mechanism.

FOLDER is a study (<results-dir>/<preset>/<experiment>), a preset or a results folder. Read are the CSV files and
nothing else. What the page shows, and why it needs no library: docs/report.md. Exit codes: 2 bad input (nothing is
written then); 1 the page could not be written.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t

from common.analysis.comparison_statistics import BASELINE, CELL, FEWEST, KEY, REFERENCE_TOLERANCE, only_finished
from common.analysis.statistics import CONFIDENCE
from common.config import OneLineParser, leave
from common.recording import schema
from common.recording.results import (
    ResultsError,
    Study,
    find_studies,
    learning_rate_text,
    learning_rates,
    load_study,
    score_ages,
    stopping_cell,
    stopping_texts,
)
from common.recording.store import write_atomically

NAME = "report.html"
ASSETS = Path(__file__).with_name("report_page")
DOCS = Path(__file__).resolve().parents[2] / "docs" / "csv_columns.md"
CURVE_BYTES = (4_000_000, 17_000_000)  # of the curves of a page with one study, and with several
FLOAT32 = np.finfo(np.float32)


@dataclass(frozen=True)
class Measure:
    """What colours a grid: a column, how it is drawn, and what of a cell's seeds the colour is."""

    column: str
    title: str
    scale: str  # score, share or log
    over: str  # mean or median: over seeds; agents: median over the agents of all seeds
    file: str = schema.RUNS


MEASURES = (
    Measure("normalised_score", "score", "score", "mean"),
    Measure("stopping_episode", "stopping episode", "log", "median"),
    Measure("gradient_death_episode", "gradient death (episode)", "log", "agents", schema.STOPPING_EPISODES),
    Measure("freeze_episode", "freeze (episode)", "log", "agents", schema.STOPPING_EPISODES),
    Measure("final_saturation_ratio", "saturation at the end", "share", "median"),
    Measure("final_wrong_side_saturation", "wrong side at the end", "share", "median"),
    Measure("stuck_share", "stuck share at the end", "share", "median", schema.SATURATION),
    Measure("largest_abs_preactivation", "largest |z|", "log", "median"),
    Measure("drift", "drift", "score", "mean"),
)
OF_AGENTS = {"gradient_death_episode": "median_death_episode", "freeze_episode": "median_freeze_episode"}  # of a run
CURVES = {
    schema.EVALUATIONS: ("evaluation_return",),
    schema.SATURATION: (
        "z_min", "z_q01", "z_q25", "z_q50", "z_q75", "z_q99", "z_max", "tanh_derivative", "saturation_ratio",
        "wrong_side_saturation", "stuck_share", "dq_da_alignment_compute", "dq_da_alignment_power",
    ),
    schema.GRADIENT_NORMS: (
        "mean_abs_dq_da", "actor_gradient_norm", "critic_gradient_norm", "actor_update_norm", "critic_update_norm",
    ),
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a report from the command line; one line and an exit code where that cannot be done."""
    parser = OneLineParser(prog="python -m common.report", description=__doc__, allow_abbrev=False)
    parser.add_argument("folders", nargs="*", default=["results"], metavar="FOLDER", help="what to show (results)")
    parser.add_argument("--out", default=NAME, metavar="FILE", help="the page (%(default)s)")
    said = parser.parse_args(arguments)
    try:
        folders = list(dict.fromkeys(found for folder in said.folders for found in studies_in(Path(folder))))
        page = report_page([load_study(folder) for folder in folders])
        write_atomically(Path(said.out), page)
    except ResultsError as problem:
        leave(f"error: {problem}", 2)
    except OSError as problem:
        leave(f"error: {problem}", 1)
    print(f"{said.out}: {len(folders)} {'study' if len(folders) == 1 else 'studies'}, {len(page) / 1e6:.1f} MB")


def studies_in(folder: Path) -> list[Path]:
    """Folders of the studies that `folder` is or holds, sorted; ResultsError where there is none."""
    if (folder / schema.RUNS).exists():
        return [folder]
    whole = folder.resolve()
    found = find_studies(folder) or [path for path in find_studies(whole.parent) if path.parent == whole]
    if not found:
        problem = "holds no studies" if folder.is_dir() else "no such folder"
        raise ResultsError(f"{folder}: {problem}; needed: a study, or <preset>/<experiment>/{schema.RUNS} in it")
    return found


def save_study_report(study: Study) -> Path:
    """Write the page of one study beside its CSV files. Raises OSError."""
    path = study.folder / NAME
    write_atomically(path, report_page([study]))
    return path


def report_page(studies: Sequence[Study]) -> bytes:
    """The page that shows these studies, one file of HTML that needs no other; of a preset the baseline first."""
    studies = sorted(studies, key=lambda study: (study.runs["preset"].iloc[0], study.folder.name != BASELINE))
    numbers = sum(_logged(study) for study in studies)
    share = CURVE_BYTES[len(studies) > 1] / max(numbers * 16 / 3, 1)  # a number takes 4 bytes, 16/3 in base64
    labels = [study.label for study in studies]
    tails = [Path(*study.folder.parts[-3:]) for study in studies]
    shown = [name if labels.count(name) == 1 else f"{name} ({tail})" for name, tail in zip(labels, tails, strict=True)]
    most = max(study.runs["seed"].nunique() for study in studies)
    data = {
        "studies": [{"label": label, **_study(study, share)} for label, study in zip(shown, studies, strict=True)],
        "measures": [asdict(m) | {"run": OF_AGENTS.get(m.column, m.column)} for m in MEASURES],
        "words": _explanations(),
        "fewest": FEWEST,
        "t": {n: float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) for n in range(FEWEST, most + 1)},
        "tolerance": REFERENCE_TOLERANCE,
        "policies": schema.POLICIES,
    }
    # All signs beyond ASCII are escaped by default; without a < nothing in the data ends or opens an element.
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    parts = {"style": "page.css", "mechanism": "mechanism.js", "chart": "chart.js", "page": "page.js"}
    page = (ASSETS / "page.html").read_text(encoding="utf-8")
    for name, file in parts.items():
        page = page.replace(f"@{name}@", (ASSETS / file).read_text(encoding="utf-8"))
    return page.replace("@data@", text).encode()


def _logged(study: Study) -> int:
    """Numbers in the curves of all runs, before thinning."""
    episodes = {name: _table(study, name)["episode"].nunique() for name in CURVES}
    return len(study.runs) * sum(episodes[name] * len(columns) for name, columns in CURVES.items())


def _table(study: Study, name: str) -> pd.DataFrame:
    return getattr(study, name.removesuffix(".csv"))


def _study(study: Study, share: float) -> dict[str, Any]:
    """All that the page knows of one study; of its curves this share of the episodes, if it is below 1."""
    runs = only_finished(study.runs).sort_values(KEY, ignore_index=True)
    last = study.saturation.sort_values("episode").groupby(KEY)["stuck_share"].last()
    runs = runs.join(last, on=KEY)
    agents = study.stopping_episodes
    actor_lrs, critic_lrs = learning_rates(runs)
    missing = _lacking(study)
    curves = [_curves(_table(study, name), runs, columns, share) for name, columns in CURVES.items()]
    return {
        "preset": runs["preset"].iloc[0],
        "actor_lrs": [[rate, learning_rate_text(rate)] for rate in actor_lrs],
        "critic_lrs": [[rate, learning_rate_text(rate)] for rate in critic_lrs],
        "seeds": sorted(map(int, runs["seed"].unique())),
        "expected": int(runs["seed"].nunique()) * len(actor_lrs) * len(critic_lrs),
        "ages": score_ages(runs),
        "longest": int(runs["total_episodes"].max()),
        "missing": missing,
        "references": {
            policy: {int(row.seed): _number(row.evaluation_return) for row in rows.itertuples()}
            for policy, rows in study.reference_policies.groupby("policy")
        },
        "runs": _runs(runs, agents),
        "cells": _cells(runs, agents, missing),
        "thinned": any(own["thinned"] for own in curves),
        "curves": curves,
    }


def _lacking(study: Study) -> list[str]:
    """Columns that the page shows and that are younger than the study."""
    shown = {measure.column for measure in MEASURES}.union(*CURVES.values())
    added = [(name, column) for name, columns in schema.ADDED.items() for column in columns if column in shown]
    return [column for name, column in added if _table(study, name)[column].isna().all()]


def _runs(runs: pd.DataFrame, agents: pd.DataFrame) -> list[dict[str, Any]]:
    """A dict per run: key, status, the numbers that measures are made of, and when its agents died and froze."""
    columns = [OF_AGENTS.get(measure.column, measure.column) for measure in MEASURES]
    episodes = {name: agents.groupby(KEY)[name].agg(["size", "count", "min", "max"]) for name in OF_AGENTS}
    found = []
    for row in runs.to_dict("records"):
        key = tuple(row[name] for name in KEY)
        found.append({
            "seed": int(row["seed"]), "actor": row["actor_lr"], "critic": row["critic_lr"], "status": row["status"],
            "episodes": int(row["total_episodes"]), "diverged": _number(row["diverged_episode"]),
            "values": {column: _number(row[column]) for column in columns},
            **{name: [_number(x) for x in table.loc[key]] for name, table in episodes.items()},
        })  # fmt: skip
    return found


def _cells(runs: pd.DataFrame, agents: pd.DataFrame, missing: list[str]) -> list[dict[str, Any]]:
    """Of each pair of learning rates, by column: what colours it (or None) and the lines of text that are in it."""
    own_agents = dict(list(agents.groupby(CELL)))
    cells = []
    for pair, cell in runs.groupby(CELL):
        shown = {}
        for measure in MEASURES:
            if measure.column in missing:
                shown[measure.column] = None, ["not recorded"]
            elif measure.column == "stopping_episode":
                stopping = stopping_cell(cell)
                shown[measure.column] = stopping.median, stopping_texts(stopping)
            elif measure.over == "agents":
                shown[measure.column] = _agents_text(own_agents[pair][measure.column])
            else:
                shown[measure.column] = _spread_text(cell[measure.column], measure)
        measures = {name: [_number(value), lines] for name, (value, lines) in shown.items()}
        cells.append({"actor": pair[0], "critic": pair[1], "measures": measures})
    return cells


def _agents_text(episodes: pd.Series) -> tuple[float | None, list[str]]:
    """Median over the agents that have an episode, and how many those are."""
    share = f"{episodes.notna().mean():.0%} of agents"
    return (episodes.median(), [f"{episodes.median():.0f}", share]) if episodes.notna().any() else (None, ["none"])


def _spread_text(values: pd.Series, measure: Measure) -> tuple[float | None, list[str]]:
    """Mean or median over the seeds that have a value, the range of these, and how many have none."""
    known = values.dropna()
    if known.empty:
        return None, ["none"]
    centre = getattr(known, measure.over)()
    text = {"share": "{:.1%}", "score": "{:.2f}", "log": "{:.3g}"}[measure.scale]
    ends = [text.format(x) if abs(x) < 1000 else f"{x:.1e}" for x in (centre, known.min(), known.max())]
    ends = [f"−{end[1:]}" if end.startswith("-") else end for end in ends]
    lines = ends[:1] + [f"({ends[1]} to {ends[2]})"] * (len(known) > 1)
    return centre, lines + [f"{len(values) - len(known)}/{len(values)} none"] * (len(known) < len(values))


def _curves(table: pd.DataFrame, runs: pd.DataFrame, columns: tuple[str, ...], share: float) -> dict[str, Any]:
    """Columns of one file: float32 in base64, runs × columns × episodes, NaN where there is no row."""
    there = [column for column in columns if table[column].notna().any()]
    logged = np.sort(table["episode"].unique())
    episodes = thinned(logged, math.floor(share * len(logged))) if share < 1 else logged
    wide = table.set_index([*KEY, "episode"])[there].unstack("episode")
    wide = wide.reindex(
        index=pd.MultiIndex.from_frame(runs[KEY]), columns=pd.MultiIndex.from_product([there, episodes])
    )
    numbers = wide.to_numpy(np.float64)
    # Neither may a number that is too small for float32 become 0, which says something else, nor a large one infinite.
    small = np.where(numbers == 0, 0.0, np.copysign(np.maximum(np.abs(numbers), FLOAT32.smallest_subnormal), numbers))
    single = np.where(np.isfinite(small), np.clip(small, FLOAT32.min, FLOAT32.max), small).astype("<f4")
    return {
        "columns": there,
        "episodes": episodes.tolist(),
        "thinned": len(episodes) < len(logged),
        "numbers": base64.b64encode(single.tobytes()).decode(),
    }


def thinned(episodes: np.ndarray, most: int) -> np.ndarray:
    """Of sorted episodes the first ones (up to 20), the last, and of the others every k-th, about `most` in all."""
    early = episodes[episodes <= schema.ALWAYS_LOGGED]
    later = episodes[len(early) :]
    step = math.ceil(len(later) / max(most - len(early), 1))
    return np.concatenate([early, later[::-1][::step][::-1]]) if len(later) else early


def _explanations() -> dict[str, str]:
    """Unit and meaning of each column, from docs/csv_columns.md; none where that page is not there."""
    if not DOCS.exists():
        return {}
    rows = re.findall(r"^\| (`[^|]*`) \| ([^|]*) \| (.*) \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    found = {}
    for names, unit, meaning in rows:
        plain = re.sub(r"[`*]|\\(?=\|)|(?<=\])\([^)]*\)", "", meaning)
        for name in re.findall(r"`([^`]*)`", names):
            found.setdefault(name, f"[{unit}] {plain}" if unit not in ("–", "-") else plain)
    return found


def _number(value: Any) -> float | str | None:
    """A number as JSON can hold it: NaN and None as null, infinity as a text that JavaScript's Number reads."""
    if value is None or math.isnan(value):
        return None
    return float(value) if math.isfinite(value) else f"{'-' if value < 0 else ''}Infinity"
