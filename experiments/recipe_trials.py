"""The trials that chose the recipe's last parts: why does a normalised, limited actor lose on `interior` what it had?

Each trial is the recipe with a few options, on seeds 0 and 1 (results are recorded on seeds 42 and up), at actor rate
0.1 and critic rates 1e-4 and 0.1: four runs of 2000 episodes, some three minutes on one core. Trains what is missing in
--runs and writes results/tuning/recipe_trials.csv, a row per trial and age.
"""

import sys

sys.path.insert(1, sys.path[0] + "/..")  # where common/ lies

import argparse
import subprocess
from pathlib import Path

import pandas as pd

from common.recording.results import Study, load_study, normalised_scores

ROOT = Path(__file__).resolve().parents[1]
TRIALS = {  # name -> preset, options
    "normalised and limited only": ("interior", "--without last_four"),
    "... critic's steps 0.003": ("interior", "--without last_four --critic-limit 0.003"),
    "small noise": ("interior", "--without recent_replay uniform_replay slow_targets"),
    "small noise, gamma 0": ("interior", "--without recent_replay uniform_replay slow_targets --gamma 0"),
    "small noise, slow targets": ("interior", "--without recent_replay uniform_replay"),
    "small noise, slow targets, recent replay": ("interior", "--without uniform_replay"),
    "all, noise 0.5": ("interior", "--noise-scale 0.5"),
    "all": ("interior", ""),
    "all but small noise": ("interior", "--without small_noise"),
    "all but slow targets": ("interior", "--without slow_targets"),
    "all but recent replay": ("interior", "--without recent_replay"),
    "all, actors' steps 0.003": ("interior", "--actor-limit 0.003"),
    "all on scaled": ("scaled", ""),
    "all on scaled, actors' steps 0.003": ("scaled", "--actor-limit 0.003"),
    "all on scaled, noise 0.5": ("scaled", "--noise-scale 0.5"),
}
AGES, WINDOW = (500, 1000, 1500, 2000), 250


def train(folder: Path, preset: str, options: str) -> Study:
    """The study of one trial, trained where it is not there yet."""
    grid = "--seeds 0 1 --actor-lrs 0.1 --critic-lrs 0.0001 0.1 --threads 1"
    script = ROOT / "experiments/recipe/run_recipe_experiment.py"
    said = f"--env {preset} {grid} {options}".split()
    done = subprocess.run([sys.executable, script, *said, "--results-dir", folder])
    if done.returncode:  # it has said why
        sys.exit(done.returncode)
    return load_study(folder / preset / "recipe")


def rows(study: Study) -> list[dict[str, float]]:
    """Scores at each age, and what the critic was worth in the episodes before it: means over the four runs."""
    own = study.evaluations
    own = own.assign(score=normalised_scores(own["evaluation_return"], own["seed"], study.reference_policies))
    found = []
    for age in AGES:
        scores = own[own.episode == age].score
        near = {"saturation": study.saturation, "norms": study.gradient_norms}
        near = {name: table[table.episode.between(age - WINDOW + 1, age)] for name, table in near.items()}
        found.append(
            {
                "episode": age,
                "median_score": scores.median(),
                "lowest_score": scores.min(),
                "dq_da_alignment_compute": near["saturation"].dq_da_alignment_compute.mean(),
                "mean_abs_dq_da": near["norms"].mean_abs_dq_da.median(),
                "z_sd": near["saturation"].z_sd.mean(),
                "dead_share_at_the_end": study.runs.dead_share.max(),  # of the worst of the four runs
            }
        )
    return found


def main() -> None:
    """Train the trials and write their table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", default=ROOT / "my_results/trials", type=Path, help="studies (%(default)s)")
    parser.add_argument("--out", default=ROOT / "results/tuning/recipe_trials.csv", type=Path, help="(%(default)s)")
    said = parser.parse_args()
    table = []
    for name, (preset, options) in TRIALS.items():
        study = train(said.runs / name.replace(" ", "_").strip("._"), preset, options)
        table += [{"trial": name, "preset": preset, "options": options, **row} for row in rows(study)]
    said.out.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(table).to_csv(said.out, index=False, float_format="%.4g", lineterminator="\n")
    print(pd.DataFrame(table).pivot(index=["trial", "preset"], columns="episode", values="median_score").to_string())


if __name__ == "__main__":
    main()
