"""Draws the paper's figures from the recorded CSV files alone; trains nothing.

Each figure is written as <name>.pdf and <name>.png. The same files give the same bytes with the same library versions.
Exit codes: 1 when a figure could not be made, for which one line says why; 2 when a name is not one of the figures'.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from matplotlib.figure import Figure  # noqa: E402

from common.recording.results import Study  # noqa: E402
from paper import figures_mitigations, figures_new, figures_returns, figures_stopping, figures_training  # noqa: E402
from paper.figure_data import NotRecorded, Recordings  # noqa: E402
from paper.figure_style import save  # noqa: E402


@dataclass(frozen=True)
class Entry:
    """A figure of the paper: what it shows, and how it is drawn; NotRecorded where results for it are missing."""

    about: str
    draw: Callable[[], Figure]


def figures(recorded: Recordings) -> dict[str, Entry]:
    """Every figure by name, in the order of the paper; the experiments' are those that are planned or recorded."""

    def entry(function: Callable[..., Figure], *studies: Callable[[], object]) -> Entry:
        return Entry((function.__doc__ or "").splitlines()[0], lambda: function(*(study() for study in studies)))

    def one(function: Callable[[Study], Figure], preset: str = "scaled") -> Entry:
        return entry(function, lambda: recorded.study(preset))

    def each(function: Callable[[dict[str, Study]], Figure]) -> Entry:
        return entry(function, recorded.baselines)

    def experiment(name: str) -> Entry:
        return entry(figures_mitigations.experiment_against_baseline, lambda: recorded.beside_baseline(name))

    return {
        "fig0_thesis_stopping": one(figures_stopping.stopping_grid, "thesis"),
        "fig1_stopping_heatmap": one(figures_stopping.stopping_grid),
        "fig2_stopping_bubble": each(figures_stopping.stopping_bubbles),
        "fig3_asymmetry_over_time": one(figures_training.asymmetry_over_time),
        "fig4_gradient_comparison": one(figures_training.gradient_comparison),
        "fig5_per_layer_gradients": one(figures_training.per_layer_gradients),
        "fig6_asymmetry_vs_stopping": each(figures_stopping.asymmetry_and_stopping),
        "fig7_saturation_over_time": one(figures_training.saturation_over_time),
        "fig8_preactivation_stats": each(figures_training.preactivation_statistics),
        "fig9_saturation_heatmap": one(figures_training.saturation_grid),
        "fig10_saturation_vs_stopping": each(figures_stopping.saturation_and_stopping),
        "fig11_learning_curves": each(figures_returns.learning_curves),
        "fig12_reward_comparison": each(figures_returns.reward_comparison),
        "fig13_per_agent_stopping": one(figures_stopping.agents_over_time),
        **{f"fig_{name}": experiment(name) for name in recorded.experiments},
        "fig_mitigations": entry(figures_mitigations.mitigations, lambda: recorded.by_experiment(least=2)),
        "fig_death_and_freeze": each(figures_new.death_and_freeze),
        "fig_wrong_side": each(figures_new.wrong_side),
        "fig_landscape": entry(figures_new.landscape),
        "fig_scores": entry(figures_new.scores, lambda: recorded.by_experiment(least=1)),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw from the command line; one line and an exit code where that cannot be done."""
    parser = _Parser(
        prog="python paper/make_figures.py",
        description=__doc__,
        epilog=_listed(figures(Recordings(ROOT / "results", ROOT / "experiments"))),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="figures to draw (default: all)")
    parser.add_argument("--results-dir", default=ROOT / "results", type=Path, metavar="DIR", help="(%(default)s)")
    parser.add_argument(
        "--figures-dir", default=ROOT / "paper" / "figures", type=Path, metavar="DIR", help="(%(default)s)"
    )
    said = parser.parse_args(arguments)
    recorded = Recordings(said.results_dir, ROOT / "experiments")
    table = figures(recorded)
    if unknown := [name for name in said.names if name not in table]:
        parser.error(f"no figure {', '.join(unknown)}; allowed: {', '.join(table)}")
    missing = 0
    try:
        said.figures_dir.mkdir(parents=True, exist_ok=True)
        for name in dict.fromkeys(said.names or table):
            begun = time.perf_counter()
            try:
                save(table[name].draw(), said.figures_dir, name)
            except NotRecorded as reason:
                missing += 1
                print(f"{name}: not made: {reason}", file=sys.stderr)
            else:
                print(f"{name}: made in {time.perf_counter() - begun:.1f} s", flush=True)
    except OSError as problem:
        parser.exit(1, f"error: {problem}\n")
    for line in recorded.left_out():
        print(f"left out: {line}", file=sys.stderr)
    raise SystemExit(1 if missing else 0)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:  # one line instead of usage + line
        self.exit(2, f"error: {message} (see --help)\n")


def _listed(table: dict[str, Entry]) -> str:
    return "\n".join(["figures:", *(f"  {name:28}  {entry.about}" for name, entry in table.items())])


if __name__ == "__main__":
    main()
