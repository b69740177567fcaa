"""The text a study prints at its end: stopping episodes, normalised scores, references, divergence."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

import pandas as pd

from common.recording import schema
from common.recording.results import Study, learning_rate_text, score_ages, stopping_cell, stopping_texts

WIDTH = 100


def study_summary(study: Study) -> str:
    """Aligned tables of at most 100 columns: one row per actor, one column per critic learning rate."""
    runs = study.runs
    seeds = sorted(runs["seed"].unique())
    pairs = runs[["actor_lr", "critic_lr"]].drop_duplicates()
    notes = [f"median over {len(seeds)} seeds and range"] * (len(seeds) > 1)
    if (runs["stopping_episode"].isna() & (runs["status"] != schema.DIVERGED)).any():
        notes.append(f"never: not within {runs['total_episodes'].max():.0f} episodes")
    note = f" ({'; '.join(notes)})" if notes else ""
    over_seeds = f", mean over {len(seeds)} seeds and range" if len(seeds) > 1 else ""
    policies, worlds = study.reference_policies, study.reference_policies["seed"].nunique()
    references = policies.groupby("policy")["evaluation_return"].mean().reindex(schema.POLICIES).dropna()
    paragraphs = [
        f"{study.label}: {_count(len(runs), 'run')}, {_count(len(pairs), 'learning-rate pair')}, "
        f"{'seeds' if len(seeds) > 1 else 'seed'} {' '.join(map(str, seeds))}",
        f"Stopping episode{note}\n" + _grid(runs, lambda cell: " ".join(stopping_texts(stopping_cell(cell)))),
        f"Normalised score at {score_ages(runs)} (0: random, 1: greedy_offload{over_seeds})\n"
        + _grid(runs, score_text),
        f"Reference returns{f' (mean over {worlds} seeds)' if worlds > 1 else ''}: "
        + ", ".join(f"{policy} {value:,.1f}" for policy, value in references.items()),
    ]
    diverged = runs[runs["status"] == schema.DIVERGED]
    if len(diverged):
        since = diverged["diverged_episode"].min()
        first = "" if pd.isna(since) else f", the first in episode {since:.0f}"
        paragraphs.append(f"Diverged: {len(diverged)} of {_count(len(runs), 'run')}{first}")
    fill = textwrap.TextWrapper(WIDTH, subsequent_indent="  ", break_on_hyphens=False).fill
    return "\n\n".join(text if "\n" in text else fill(text) for text in paragraphs)


def score_text(runs: pd.DataFrame) -> str:
    """Normalised scores of one learning-rate pair: `0.42`, `0.42 (0.31..0.50; 1/3 none)`, `none`."""
    scores = runs["normalised_score"].dropna()
    if scores.empty:
        return "none"
    mean, low, high = (f"{x:.2f}" if abs(x) < 1000 else f"{x:.1e}" for x in (scores.mean(), scores.min(), scores.max()))
    missing = f"; {len(runs) - len(scores)}/{len(runs)} none" if len(scores) < len(runs) else ""
    return f"{mean} ({low}..{high}{missing})" if len(runs) > 1 else mean


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _grid(runs: pd.DataFrame, text_of: Callable[[pd.DataFrame], str]) -> str:
    """The grid as aligned columns, continued below where the critic learning rates do not fit abreast."""
    cells = pd.Series({pair: text_of(cell) for pair, cell in runs.groupby(["actor_lr", "critic_lr"])})
    grid = cells.unstack(fill_value="no run").rename(index=learning_rate_text, columns=learning_rate_text)
    grid = grid.add_prefix("critic ").rename_axis(index=None, columns="actor lr")
    return textwrap.indent(grid.to_string(line_width=WIDTH - 2), "  ")
