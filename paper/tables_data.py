"""What the paper's tables are made from: the recorded studies and the published figures."""

from __future__ import annotations

import ast
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.analysis.comparison_statistics import BASELINE, KEY, comparison_tables
from common.config import GRID
from common.recording import schema
from common.recording.results import ResultsError, Study, load_study
from paper.pages import experiment_names

ROOT = Path(__file__).resolve().parents[1]
PRESETS = ("scaled", "thesis", "interior")
SEEDS = (42, 43, 44)
FAST = 1e-2  # actor learning rates from here on are those of which the published study says that they freeze
LR = list(schema.RUN_KEY[1:])
UNSEEDED, SEEDED = "paper table, unseeded run", "recorded seeded run"
DERIVATIVE, FLAT, BOTH, NEITHER = "tanh derivative zero", "critic flat", "both", "neither exactly"


class StudyFiles:
    """The rows of one study and what the tables derive from them, each when it is first asked for."""

    def __init__(self, study: Study):
        self.study = study

    @property
    def runs(self) -> pd.DataFrame:
        return self.study.runs

    @cached_property
    def agents(self) -> pd.DataFrame:
        """Rows of stopping_episodes.csv with the lag from gradient death to freeze."""
        rows = self.study.stopping_episodes
        return rows.assign(lag=rows["freeze_episode"] - rows["gradient_death_episode"])

    @property
    def norms(self) -> pd.DataFrame:
        return self.study.gradient_norms

    @property
    def saturation(self) -> pd.DataFrame:
        return self.study.saturation

    @property
    def policies(self) -> pd.DataFrame:
        return self.study.reference_policies

    @cached_property
    def references(self) -> pd.DataFrame:
        """Returns of the reference policies, a row per seed and a column per policy."""
        return self.policies.pivot(index="seed", columns="policy", values="evaluation_return")

    @cached_property
    def constant_shares(self) -> pd.Series:
        """The best constant share of compute, by seed."""
        rows = self.policies
        return rows.loc[rows["policy"] == "constant"].set_index("seed")["alpha"]

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Rows of evaluations.csv with the normalised score."""
        rows = self.study.evaluations
        return rows.assign(score=self.normalised(rows["seed"], rows["evaluation_return"]))

    @cached_property
    def training_returns(self) -> pd.Series:
        """Mean training return of each run, the published measure of merit, by run."""
        return self.study.rewards.groupby(KEY)["training_return"].mean()

    @cached_property
    def constant_scores(self) -> pd.Series:
        """Normalised score of the best constant policy, by seed."""
        return pd.Series(self.normalised(self.references.index, self.references["constant"]), self.references.index)

    @cached_property
    def untrained(self) -> pd.Series:
        """Normalised score of each run's untrained policy, in the order of `runs`."""
        return pd.Series(self.normalised(self.runs["seed"], self.runs["first_evaluation_return"]), self.runs.index)

    @property
    def improved(self) -> pd.Series:
        """Whether each run ended better than its own untrained policy."""
        return self.runs["final_evaluation_return"] > self.runs["first_evaluation_return"]

    @property
    def above_constant(self) -> int:
        """Runs that ended better than the best constant policy of their seed."""
        line = self.constant_scores[self.runs["seed"]].to_numpy()
        return int((self.runs["normalised_score"].to_numpy() > line).sum())

    def normalised(self, seeds: Any, returns: Any) -> np.ndarray:
        """Returns as scores between random (0) and near-optimal (1) of the same seed."""
        low, high = (self.references.loc[list(seeds), name].to_numpy() for name in ("random", "greedy_offload"))
        return (np.asarray(returns) - low) / (high - low)

    @cached_property
    def ends(self) -> pd.DataFrame:
        """One row per run: when its last agent's gradient died, and what was zero then.

        `kind` is read off the first logged episode from which the actors' gradient is zero until the run ends:
        the mean tanh derivative, the mean absolute derivative of Q by the actions, both, or neither exactly; empty
        when the gradient was not zero at the end.
        """
        columns = [*KEY, "episode", "tanh_derivative", "saturation_ratio", "wrong_side_saturation"]
        rows = self.norms.merge(self.saturation[columns], on=[*KEY, "episode"]).sort_values([*KEY, "episode"])
        found = []
        for key, run in rows.groupby(KEY):
            alive = run["actor_gradient_norm"].to_numpy() > 0
            flat = run["mean_abs_dq_da"] == 0
            last = run.iloc[-1]
            row = dict(zip(KEY, key, strict=True)) | {
                "last_tanh_derivative": last["tanh_derivative"],
                "last_flat": bool(flat.iloc[-1]),
                "first_flat": run["episode"][flat].min(),
                "critic_update": last["critic_update_norm"],
                "kind": None,
            }
            if not alive[-1]:
                death = run.iloc[int(np.flatnonzero(alive)[-1]) + 1]
                zero = (death["tanh_derivative"] == 0, death["mean_abs_dq_da"] == 0)
                kinds = {(True, False): DERIVATIVE, (False, True): FLAT, (True, True): BOTH, (False, False): NEITHER}
                row |= {"kind": kinds[zero], "death_derivative": death["tanh_derivative"]}
                row |= {"death_dq_da": death["mean_abs_dq_da"], "death_saturation": death["saturation_ratio"]}
            found.append(row)
        return self.runs.merge(pd.DataFrame(found), on=KEY, how="left")


class Recordings:
    """Every study there is, and the published figures. A study that is still being trained is not there yet."""

    def __init__(self, results: Path):
        self.results = results
        recorded = {folder.name for preset in PRESETS for folder in (results / preset).glob("*/")}
        self.experiments = [name for name in experiment_names() if name != BASELINE and name in recorded]
        self.studies = {
            (experiment, preset): study
            for preset in PRESETS
            for experiment in (BASELINE, *self.experiments)
            if (study := _whole(results / preset / experiment, SEEDS))
        }
        lacking = [preset for preset in PRESETS if (BASELINE, preset) not in self.studies]
        if lacking:
            raise SystemExit(f"{results}: no whole baseline on {', '.join(lacking)}; needed: all three presets")
        self.baselines = {preset: self.studies[BASELINE, preset] for preset in PRESETS}
        self.doubles = {
            name: study
            for name in self.experiments
            if (study := _whole(results / "double_changes" / "scaled" / name))
        }
        self.sequential = _whole(results / "sequential" / "scaled" / BASELINE)
        data = ROOT / "paper" / "data"
        self.published = pd.read_csv(data / "published_results.csv")
        self.claims = pd.read_csv(data / "published_claims.csv").set_index("claim")
        self.outcomes = pd.read_csv(data / "published_outcomes.csv").set_index("experiment")
        self.compared = {preset: self._comparison(preset) for preset in PRESETS}

    @cached_property
    def runs(self) -> pd.DataFrame:
        """Rows of runs.csv of the three baselines, with `improved`, `untrained` and the ends of their gradients."""
        parts = [s.ends.assign(improved=s.improved, untrained=s.untrained) for s in self.baselines.values()]
        return pd.concat(parts, ignore_index=True)

    @cached_property
    def agents(self) -> pd.DataFrame:
        """Rows of stopping_episodes.csv of the three baselines."""
        return pd.concat([s.agents.assign(preset=p) for p, s in self.baselines.items()], ignore_index=True)

    def published_stops(self, source: str, experiment: str = BASELINE) -> pd.DataFrame:
        """Published rows of one source and experiment."""
        return self.published[(self.published["source"] == source) & (self.published["experiment"] == experiment)]

    def recorded_on(self, preset: str) -> list[str]:
        """Experiments other than the baseline that are recorded on a preset."""
        return [name for name in self.experiments if (name, preset) in self.studies]

    def _comparison(self, preset: str) -> pd.DataFrame:
        names = [name for name in (BASELINE, *self.experiments) if (name, preset) in self.studies]
        frames = [[], [], []]
        for name in names:
            study = self.studies[name, preset]
            for parts, rows in zip(frames, (study.runs, study.agents, study.policies), strict=True):
                parts.append(rows.assign(experiment=name))
        table, _ = comparison_tables(*(pd.concat(parts, ignore_index=True) for parts in frames), fewest=2)
        return table.set_index("experiment").astype(object)


def heights(saturation: pd.DataFrame, episode: int) -> pd.Series:
    """Largest |z| at an episode, median over runs, by actor learning rate."""
    rows = saturation[saturation["episode"] == episode]
    return rows[["z_min", "z_max"]].abs().max(axis=1).groupby(rows["actor_lr"]).median()


def pair(table: pd.DataFrame, actor_lr: float, critic_lr: float) -> pd.DataFrame:
    """Rows of one learning-rate pair."""
    return table[(table["actor_lr"] == actor_lr) & (table["critic_lr"] == critic_lr)]


def title(experiment: str) -> str:
    """An experiment's name for people: the headline of its page."""
    if experiment == BASELINE:
        return "Baseline"
    return (ROOT / "experiments" / experiment / "README.md").read_text().splitlines()[0].removeprefix("# ")


def phrase(experiment: str) -> str:
    """The name within a sentence: small first letter, but for a proper name such as LayerNorm."""
    name = title(experiment)
    return name if any(letter.isupper() for letter in name.split()[0][1:]) else name[0].lower() + name[1:]


def constants(file: str) -> dict[str, Any]:
    """Constants at the top of a file of common/, without importing it and what it needs (PyTorch takes seconds)."""
    found: dict[str, Any] = {}
    for node in ast.parse((ROOT / "common" / file).read_text()).body:
        if isinstance(node, ast.Assign):
            try:
                value = ast.literal_eval(node.value)
            except ValueError:
                continue
            target = node.targets[0]
            names = [x.id for x in target.elts] if isinstance(target, ast.Tuple) else [target.id]
            found |= dict(zip(names, value if isinstance(target, ast.Tuple) else [value], strict=True))
    return found


def _whole(folder: Path, seeds: tuple[int, ...] | None = None) -> StudyFiles | None:
    """A study recorded to its end: every pair of the grid with every seed, and nobody training there; else None."""
    if not (folder / schema.RUNS).exists() or (folder / ".lock").exists() or (folder / "checkpoint").exists():
        return None
    try:
        study = load_study(folder)
    except ResultsError as problem:
        raise SystemExit(f"error: {problem}") from None
    keys = set(study.runs[KEY].itertuples(index=False, name=None))
    wanted = seeds or tuple({seed for seed, _, _ in keys})
    return StudyFiles(study) if keys == {(seed, a, c) for seed in wanted for a in GRID for c in GRID} else None
