"""The one loader: recorded studies that are whole, the published figures, and what both lead to.

A study that is not recorded, is still being trained or lacks runs is not there: `Recordings.absent` says so in a line.
A damaged one is an error, so that nothing is made without it unnoticed.
"""

from __future__ import annotations

import json
import math
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.analysis.comparison_statistics import BASELINE, FROZEN, KEY, comparison_tables, only_finished, tables_of
from common.config import GRID, StudyConfig
from common.recording import schema
from common.recording.archive import IN_TRAINING
from common.recording.results import (
    SCORE_ENDS,
    ResultsError,
    Study,
    find_studies,
    load_study,
    normalised_scores,
    score_ages,
)
from common.recording.store import STUDY

ROOT = Path(__file__).resolve().parents[1]
PRESETS = ("scaled", "thesis", "interior")
FAST = 1e-2  # actor learning rates from here on are those of which the published study says that they freeze
UNSEEDED, SEEDED = "paper table, unseeded run", "recorded seeded run"
DERIVATIVE, FLAT, BOTH, NEITHER = "tanh derivative zero", "critic flat", "both", "neither exactly"


class NotRecorded(Exception):
    """Results that something is made from are not there; the message is one line."""


class StudyFiles:
    """One study's tables, and what they lead to, each when it is first asked for."""

    def __init__(self, study: Study):
        """Raises ResultsError where study.json cannot be read."""
        self.study, self.name = study, study.folder.name
        self.configuration = _configuration(study.folder / STUDY)
        self.norms, self.saturation = study.gradient_norms, study.saturation
        self.runs = only_finished(study.runs).assign(
            improved=study.runs["final_evaluation_return"] > study.runs["first_evaluation_return"],
            stopped=study.runs["stopping_episode"].notna(),
            never=study.runs["stopping_episode"].isna() & (study.runs["status"] != schema.DIVERGED),
        )

    @property
    def seeds(self) -> list[int]:
        return sorted(self.runs["seed"].unique())

    @property
    def one_age(self) -> bool:
        """Whether all scores are of one age, so that they compare."""
        return self.runs["score_episode"].nunique() == 1

    @property
    def has_tanh(self) -> bool:
        """Whether the actors' outputs are tanh, whose derivative can be what a run died of."""
        return bool(self.saturation["tanh_derivative"].notna().any())

    @property
    def age(self) -> str:
        return score_ages(self.runs)

    @cached_property
    def agents(self) -> pd.DataFrame:
        """Rows of stopping_episodes.csv with the lag from gradient death to freeze."""
        rows = self.study.stopping_episodes
        return rows.assign(lag=rows["freeze_episode"] - rows["gradient_death_episode"])

    @cached_property
    def references(self) -> pd.DataFrame:
        """Returns of the reference policies, a row per seed and a column per policy."""
        return self.study.reference_policies.pivot(index="seed", columns="policy", values="evaluation_return")

    @cached_property
    def constants(self) -> pd.DataFrame:
        """The best constant policy by seed: its share of compute `alpha`, and its `score`."""
        rows = self.study.reference_policies
        found = rows[rows["policy"] == "constant"].set_index("seed")[["alpha"]]
        return found.assign(score=self.scored(self.references["constant"], found.index))

    @cached_property
    def evaluations(self) -> pd.DataFrame:
        """Rows of evaluations.csv with the normalised `score`."""
        rows = self.study.evaluations
        return rows.assign(score=self.scored(rows["evaluation_return"], rows["seed"]))

    def scored(self, returns: pd.Series, seeds: pd.Series | pd.Index) -> pd.Series:
        """Returns as normalised scores."""
        return normalised_scores(returns, seeds, self.study.reference_policies)

    def scored_on_average(self, returns: pd.Series) -> pd.Series:
        """Returns of runs of other worlds as scores between the means of this study's reference policies."""
        low, high = self.references[list(SCORE_ENDS)].mean()
        return (returns - low) / (high - low)

    @property
    def untrained(self) -> pd.Series:
        """Normalised score of each run's untrained policy."""
        return self.scored(self.runs["first_evaluation_return"], self.runs["seed"])

    @property
    def above_constant(self) -> pd.Series:
        """By how much each run's score is above that of the best constant policy of its seed."""
        return self.runs["normalised_score"] - self.constants["score"].loc[self.runs["seed"]].to_numpy()

    def first(self, table: pd.DataFrame) -> pd.DataFrame:
        """Rows of a table at the first logged training step."""
        return table[table["episode"] == table["episode"].min()]

    @cached_property
    def ends(self) -> pd.DataFrame:
        """Rows of `runs` with when the critic was flat, and what was zero when the last agent's gradient died.

        `kind` is read off the first logged step from which the actors' gradient is zero until the run ends: the
        mean tanh derivative, the mean absolute derivative of Q by the actions, both, or neither exactly; empty when
        the gradient was not zero at the end. `first_layer_zero`: whether the critic's first layer had no gradient
        then. `first_flat` is the first logged episode with a flat critic, `flat_for_good` the first from which every
        one was, and `revived` whether a critic that had been flat was not at a later one.
        """
        logged = self.saturation[[*KEY, "episode", "tanh_derivative"]]
        rows = self.norms.merge(logged, on=[*KEY, "episode"]).sort_values([*KEY, "episode"])
        found = []
        for key, run in rows.groupby(KEY):
            flat = (run["mean_abs_dq_da"] == 0).to_numpy()
            episodes = run["episode"].to_numpy()
            good = _last_stretch(flat)
            row = dict(zip(KEY, key, strict=True)) | {
                "kind": None,
                "death_derivative": np.nan,
                "death_dq_da": np.nan,
                "first_layer_zero": False,
                "first_flat": episodes[flat].min() if flat.any() else np.nan,
                "flat_for_good": episodes[good] if good < len(run) else np.nan,
                "revived": bool(flat[:good].any()),
                "critic_update": run["critic_update_norm"].iloc[-1],
            }
            due = run[run["actor_gradient_norm"].notna()]  # rules such as TD3's skip steps
            dead = _last_stretch((due["actor_gradient_norm"] == 0).to_numpy())
            if dead < len(due):
                death = due.iloc[dead]
                zero = (death["tanh_derivative"] == 0, death["mean_abs_dq_da"] == 0)
                kinds = {(True, False): DERIVATIVE, (False, True): FLAT, (True, True): BOTH, (False, False): NEITHER}
                row |= {"kind": kinds[zero], "first_layer_zero": death["critic_fc1"] == 0}
                row |= {"death_derivative": death["tanh_derivative"], "death_dq_da": death["mean_abs_dq_da"]}
            found.append(row)
        return self.runs.merge(pd.DataFrame(found), on=KEY, how="left")


def _configuration(path: Path) -> dict[str, Any]:
    """What a study.json says of the configuration, over the defaults."""
    try:
        return StudyConfig().result_fields() | (json.loads(path.read_text())["configuration"] if path.exists() else {})
    except (ValueError, LookupError, TypeError):
        raise ResultsError(f"{path}: not a readable study description") from None


class Recordings:
    """Every whole study under `results`, and the published figures in `data`. Raises ResultsError."""

    def __init__(self, results: Path = ROOT / "results", data: Path = ROOT / "paper" / "data"):
        self.results, self.absent = results, []
        self._studies: dict[tuple[str, str], StudyFiles] = {}
        for folder in find_studies(results):
            if folder.parent.name in PRESETS and (study := self._read(folder)):
                self._studies[folder.parent.name, folder.name] = study
        self.baselines = {p: self._studies[p, BASELINE] for p in PRESETS if (p, BASELINE) in self._studies}
        self.absent += [f"{results / p / BASELINE}: not recorded" for p in PRESETS if p not in self.baselines]
        self.doubles = {
            folder.name: study
            for folder in sorted((results / "double_changes" / "scaled").glob("*/"))
            if (study := self._read(folder))
        }
        self.sequential = self._read(results / "sequential" / "scaled" / BASELINE)
        monitor = results / "monitor" / "runs.csv"
        self.monitor = pd.read_csv(monitor) if monitor.exists() else None
        self.published = pd.read_csv(data / "published_results.csv")
        self.claims = pd.read_csv(data / "published_claims.csv").set_index("claim")
        self.outcomes = pd.read_csv(data / "published_outcomes.csv").set_index("experiment")

    def get(self, preset: str, name: str = BASELINE) -> StudyFiles | None:
        """A study, by preset and folder."""
        return self._studies.get((preset, name))

    def need(self, preset: str, name: str = BASELINE) -> StudyFiles:
        """A study that something cannot be made without. Raises NotRecorded."""
        if study := self.get(preset, name):
            return study
        raise NotRecorded(f"{self.results / preset / name}: not recorded")

    def need_monitor(self) -> pd.DataFrame:
        """Rows of the study on other people's agents. Raises NotRecorded."""
        if self.monitor is None:
            raise NotRecorded(f"{self.results / 'monitor' / 'runs.csv'}: not recorded")
        return self.monitor

    def need_baselines(self) -> dict[str, StudyFiles]:
        """The baselines by preset. Raises NotRecorded where there is none."""
        if not self.baselines:
            raise NotRecorded(f"{self.results}: no baseline is recorded")
        return self.baselines

    def names(self, preset: str) -> list[str]:
        """Folders that are recorded on a preset: the baseline first, then by name."""
        there = [name for where, name in self._studies if where == preset]
        return sorted(there, key=lambda name: (name != BASELINE, name))

    @cached_property
    def runs(self) -> pd.DataFrame:
        """Rows of the baselines' `ends`, with their preset."""
        return pd.concat([study.ends for study in self.need_baselines().values()], ignore_index=True)

    @cached_property
    def agents(self) -> pd.DataFrame:
        """Rows of the baselines' stopping_episodes.csv, with their preset."""
        tables = [study.agents.assign(preset=preset) for preset, study in self.need_baselines().items()]
        return pd.concat(tables, ignore_index=True)

    @property
    def median_deaths(self) -> pd.Series:
        """By actor learning rate, the episode of gradient death of the baselines' median agent."""
        return self.agents.groupby("actor_lr")["gradient_death_episode"].median().reindex(GRID)

    @cached_property
    def compared(self) -> dict[str, pd.DataFrame]:
        """comparison.csv of each preset, by experiment: definitions in docs/csv_columns.md."""
        found = {}
        for preset in PRESETS:
            studies = {name: self._studies[preset, name].study for name in self.names(preset)}
            if studies:
                found[preset] = comparison_tables(*tables_of(studies))[0].set_index("experiment").astype(object)
        return found

    def row(self, preset: str, name: str) -> pd.Series | None:
        """A study's row of `compared`."""
        table = self.compared.get(preset)
        return table.loc[name] if table is not None and name in table.index else None

    def published_stops(self, source: str) -> pd.DataFrame:
        """Published rows of the baseline, of one source."""
        return self.published[(self.published["source"] == source) & (self.published["experiment"] == BASELINE)]

    def _read(self, folder: Path) -> StudyFiles | None:
        if not (folder / schema.RUNS).is_file():
            return None
        if any((folder / name).exists() for name in IN_TRAINING):
            self.absent.append(f"{folder}: still being trained")
            return None
        study = load_study(folder)
        wanted = math.prod(study.runs[name].nunique() for name in KEY)
        if len(study.runs) < wanted:
            self.absent.append(f"{folder}: not whole, {len(study.runs)} of {wanted} runs are there")
            return None
        return StudyFiles(study)


def heights(saturation: pd.DataFrame, episode: int) -> pd.Series:
    """Largest |z| at an episode, median over runs, by actor learning rate."""
    rows = saturation[saturation["episode"] == episode]
    return rows[["z_min", "z_max"]].abs().max(axis=1).groupby(rows["actor_lr"]).median()


def pair(table: pd.DataFrame, actor_lr: float, critic_lr: float) -> pd.DataFrame:
    """Rows of one learning-rate pair."""
    return table[(table["actor_lr"] == actor_lr) & (table["critic_lr"] == critic_lr)]


def fast(table: pd.DataFrame, is_fast: bool = True) -> pd.DataFrame:
    """Rows with actor learning rates from FAST on, or those below."""
    return table[(table["actor_lr"] >= FAST) == is_fast]


def experiment_names() -> list[str]:
    """Folders of experiments: the baseline first, then by name."""
    found = [p.name for p in (ROOT / "experiments").iterdir() if (p / f"run_{p.name}_experiment.py").exists()]
    return sorted(found, key=lambda name: (name != BASELINE, name))


def title(name: str) -> str:
    """A study's name for people: the headline of its experiment's page, with its options."""
    experiment, _, options = name.partition("-")
    page = ROOT / "experiments" / experiment / "README.md"
    head = page.read_text().splitlines()[0].removeprefix("# ") if page.exists() else experiment.replace("_", " ")
    return f"{head}, {re.sub(r'(?<![0-9]e)-|_', ' ', options)}" if options else head


def is_control(name: str) -> bool:
    """Whether a study is a control of others rather than a change that is to help."""
    return name.split("-")[0] in (FROZEN, "clamped_rates")


def _last_stretch(flags: np.ndarray) -> int:
    """Place of the first flag from which all are set; the number of flags where the last one is not."""
    unset = np.flatnonzero(~flags)
    return int(unset[-1]) + 1 if len(unset) else 0
