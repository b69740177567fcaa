"""The text a study prints at its end: stopping episodes, normalised scores, references, divergence."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

import pandas as pd

from common.recording import schema
from common.recording.results import (
    Study,
    learning_rate_text,
    learning_rates,
    runs_of_pair,
    score_ages,
    stopping_cell,
)

WIDTH = 100


def study_summary(study: Study) -> str:
    """Aligned tables of at most 100 columns: one row per actor, one column per critic learning rate."""
    runs = study.runs
    seeds = sorted(runs["seed"].unique())
    pairs = len(runs[["actor_lr", "critic_lr"]].drop_duplicates())
    stopping_notes = [f"median over {len(seeds)} seeds and range"] * (len(seeds) > 1)
    if (runs["stopping_episode"].isna() & (runs["status"] != schema.DIVERGED)).any():
        stopping_notes.append(f"never: not within {runs['total_episodes'].max():.0f} episodes")
    stopping_note = f" ({'; '.join(stopping_notes)})" if stopping_notes else ""
    mean_over_seeds = f", mean over {len(seeds)} seeds and range" if len(seeds) > 1 else ""
    paragraphs = [
        _wrapped(
            f"{study.label}: {_count(len(runs), 'run')}, {_count(pairs, 'learning-rate pair')}, "
            f"{'seeds' if len(seeds) > 1 else 'seed'} {' '.join(str(seed) for seed in seeds)}"
        ),
        f"Stopping episode{stopping_note}\n" + _grid(runs, stopping_text),
        f"Normalised score at {score_ages(runs)} (0: random, 1: greedy_offload{mean_over_seeds})\n"
        + _grid(runs, score_text),
        _wrapped(_reference_line(study.reference_policies)),
    ]
    diverged = runs[runs["status"] == schema.DIVERGED]
    if len(diverged):
        episodes = diverged["diverged_episode"].dropna()
        since = f", the first in episode {episodes.min():.0f}" if len(episodes) else ""
        paragraphs.append(f"Diverged: {len(diverged)} of {_count(len(runs), 'run')}{since}")
    return "\n\n".join(paragraphs)


def stopping_text(runs: pd.DataFrame) -> str:
    """Stopping episodes of one learning-rate pair: `188`, `188 (161–232)`, `never`, `2/3 never`."""
    cell = stopping_cell(runs)
    misses = [f"{count}/{cell.seeds} {what}" for count, what in _misses(cell.never, cell.diverged) if count]
    if cell.first is None and len(misses) == 1:
        return misses[0].split(" ", 1)[1]
    if misses:
        stopped = [f"{cell.median:.0f}"] if cell.median is not None else []
        return ", ".join(stopped + misses)
    return f"{cell.median:.0f}" + (f" ({cell.first:.0f}–{cell.last:.0f})" if cell.seeds > 1 else "")


def score_text(runs: pd.DataFrame) -> str:
    """Normalised scores of one learning-rate pair: `0.42`, `0.42 (0.31..0.50; 1/3 none)`, `none`."""
    scores = runs["normalised_score"].dropna()
    if scores.empty:
        return "none"
    text = _score(scores.mean())
    if len(runs) == 1:
        return text
    missing = f"; {len(runs) - len(scores)}/{len(runs)} none" if len(scores) < len(runs) else ""
    return f"{text} ({_score(scores.min())}..{_score(scores.max())}{missing})"


def _misses(never: int, diverged: int) -> tuple[tuple[int, str], ...]:
    return (never, "never"), (diverged, "diverged")


def _score(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 1000 else f"{value:.1e}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _grid(runs: pd.DataFrame, text_of: Callable[[pd.DataFrame], str]) -> str:
    """The grid as aligned columns, continued below where the critic learning rates do not fit abreast."""
    actor_lrs, critic_lrs = learning_rates(runs)
    stub = ["actor lr"] + [learning_rate_text(rate) for rate in actor_lrs]
    blocks: list[list[str]] = []
    for critic_lr in critic_lrs:
        cells = [f"critic {learning_rate_text(critic_lr)}"]
        for actor_lr in actor_lrs:
            pair = runs_of_pair(runs, actor_lr, critic_lr)
            cells.append(text_of(pair) if len(pair) else "no run")
        width = max(map(len, cells))
        if not blocks or len(blocks[-1][0]) + 2 + width > WIDTH:
            blocks.append([f"  {text:<8}" for text in stub])
        blocks[-1] = [f"{line}  {cell:>{width}}" for line, cell in zip(blocks[-1], cells, strict=True)]
    return "\n\n".join("\n".join(block) for block in blocks)


def _reference_line(reference_policies: pd.DataFrame) -> str:
    seeds = reference_policies["seed"].nunique()
    parts = []
    for policy in schema.POLICIES:
        rows = reference_policies[reference_policies["policy"] == policy]
        if len(rows):
            parts.append(f"{policy} {rows['evaluation_return'].mean():,.1f}")
    return f"Reference returns{f' (mean over {seeds} seeds)' if seeds > 1 else ''}: " + ", ".join(parts)
