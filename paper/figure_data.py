"""The recorded studies that the paper's figures are drawn from: found under results/, read once, whole ones only."""

from __future__ import annotations

from pathlib import Path

from common.analysis.comparison_statistics import BASELINE, KEY
from common.environment.mec_env import PRESETS
from common.recording import schema
from common.recording.results import ResultsError, Study, find_studies, load_study


class NotRecorded(Exception):
    """What a figure needs is not there, or not all of it; the message is one line."""


class Recordings:
    """Studies `<root>/<preset>/<experiment>`, each read when it is first asked for."""

    def __init__(self, root: Path, experiments: Path):
        """Recordings under `root`; `experiments` is the folder whose subfolders name what should be recorded."""
        self.root = root
        planned = {script.parent.name for script in experiments.glob("*/run_*_experiment.py")}
        there = {folder.name for folder in find_studies(root) if folder.parent.name in PRESETS}
        self.experiments = sorted((planned | there) - {BASELINE})
        self._known: dict[tuple[str, str], Study | NotRecorded] = {}

    def study(self, preset: str, experiment: str = BASELINE) -> Study:
        """A study with all runs of the baseline's grid and seeds; NotRecorded where it is missing or not whole."""
        key = (preset, experiment)
        if key not in self._known:
            try:
                self._known[key] = self._read(preset, experiment)
            except NotRecorded as reason:
                self._known[key] = reason
        found = self._known[key]
        if isinstance(found, NotRecorded):
            raise found
        return found

    def baselines(self) -> dict[str, Study]:
        """The baseline of every preset; NotRecorded where one is missing."""
        return {preset: self.study(preset) for preset in PRESETS}

    def beside_baseline(self, experiment: str) -> dict[str, tuple[Study, Study]]:
        """By preset, the experiment and the baseline, where both are recorded; NotRecorded where that is nowhere."""
        pairs = {}
        for preset in PRESETS:
            try:
                pairs[preset] = (self.study(preset, experiment), self.study(preset))
            except NotRecorded:
                continue
        if not pairs:
            raise NotRecorded(f"{self.root}/*/{experiment}: no whole study beside a baseline, on any preset")
        return pairs

    def by_experiment(self, least: int) -> dict[str, dict[str, Study]]:
        """By preset, all whole studies by experiment, the baseline first; presets with at least `least` of them."""
        found: dict[str, dict[str, Study]] = {}
        for preset in PRESETS:
            studies = {BASELINE: self.study(preset)}
            for experiment in self.experiments:
                try:
                    studies[experiment] = self.study(preset, experiment)
                except NotRecorded:
                    continue
            if len(studies) >= least:
                found[preset] = studies
        if not found:
            raise NotRecorded(f"{self.root}: no experiment is recorded beside the baseline, on any preset")
        return found

    def left_out(self) -> list[str]:
        """Why studies that were asked for and have a folder with runs could not be used, one line each."""
        there = {(folder.parent.name, folder.name) for folder in find_studies(self.root)}
        return [str(found) for key, found in self._known.items() if isinstance(found, NotRecorded) and key in there]

    def _read(self, preset: str, experiment: str) -> Study:
        folder = self.root / preset / experiment
        if not (folder / schema.RUNS).is_file():
            raise NotRecorded(f"{folder}: not recorded")
        try:
            study = load_study(folder)
        except ResultsError as problem:
            raise NotRecorded(str(problem)) from None
        if experiment != BASELINE:
            wanted, own = (set(s.runs[KEY].itertuples(index=False, name=None)) for s in (self.study(preset), study))
            if wanted - own:
                there = f"{len(wanted & own)} of the baseline's {len(wanted)} runs are there"
                raise NotRecorded(f"{folder}: not whole, {there}")
        return study
