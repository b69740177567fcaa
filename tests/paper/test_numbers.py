"""What the paper's numbers rest on: formats, the loader, laws against brute force, rules that can fail."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from written_by_hand import write_study

from common.environment.mec_env import MecEnv, share
from common.recording.results import ResultsError
from paper import coasting
from paper.load import BOTH, DERIVATIVE, FLAT, Recordings
from paper.pages import against_baseline, sentence
from paper.tables.experiments import learns, median_score
from paper.text import interval, latex, listed, number, rate, seeds_text, significant, span
from paper.verdicts import NOT, PARTLY, REPRODUCED, better_pairs, large_actor, outcome

KEYS = [(1, actor, critic) for actor in (1e-2, 1e-1) for critic in (1e-4, 1e-1)]


@pytest.mark.parametrize(("value", "text"), [
    (210.4, "210"), (0.5849, "0.58"), (66_812, "67,000"), (99.6, "100"), (1.25e-7, "1.2e−7"), (1e-4, "1e−4"),
    (-0.054, "−0.054"), (0, "0"), (1_234_567, "1.2e6"), (math.nan, "–"), (9.96, "10"), (0.001, "0.0010"),
])  # fmt: skip
def test_two_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text


def test_texts() -> None:
    assert span([212, 398], 2) == "210–400"  # not 2.1e+02–4e+02
    assert span([-0.4, 0.1], ".1f") == "−0.4 to 0.1" and span([3, 3]) == "3" and span([math.nan]) == "–"
    assert number(-0.001) == "0.00" and number(-0.39) == "−0.39" and rate(1e-2) == "1e−2" and rate(0) == "0"
    assert interval(0.5, math.nan, math.nan) == "0.50" and interval(0.5, 0.4, 0.6) == "0.50 [0.40, 0.60]"
    assert listed([1, 2, 3]) == "1, 2 and 3" and listed([]) == "none"
    assert seeds_text([42, 43, 44]) == "42, 43 and 44" and seeds_text(range(42, 52)) == "42 to 51"


@pytest.mark.parametrize(("plain", "written"), [
    ("1.2e−7", r"\ensuremath{1.2\times 10^{-7}}"), ("1e−4", r"\ensuremath{10^{-4}}"), ("44%", r"44\%"),
    ("−29,325", r"\ensuremath{-29{,}325}"), ("`input_norm` --x", r"\texttt{input\_norm} -{}-x"),
    ("$a_1$ a_1", r"$a_1$ a\_1"), ("+0.20 [−0.1, 0.5]", r"\ensuremath{+0.20} [\ensuremath{-0.1}, 0.5]"),
    ("**yes** 1–2", r"\textbf{yes} 1--2"),
])  # fmt: skip
def test_latex(plain: str, written: str) -> None:
    assert latex(plain) == written


def log(episode: int, actor: float, slope: float, tanh: float, first_layer: float = 1) -> tuple:
    return (episode, actor, 1, actor, slope, tanh, 1, 0.5, first_layer, 1, 1)


@pytest.mark.parametrize(
    ("logs", "said"),
    [
        # The logged gradient is zero throughout.
        ([log(2, 0, 0.1, 0), log(10, 0, 0.1, 0)], {"kind": DERIVATIVE, "first_flat": None}),
        # The first flat log is not the last death.
        (
            [log(2, 1, 0, 0.5), log(10, 1, 1, 0.5), log(20, 0, 0, 0.5, 0), log(30, 0, 0, 0.5)],
            {"kind": FLAT, "first_flat": 2, "flat_for_good": 20, "revived": True, "first_layer_zero": True},
        ),
        # A flat critic whose first layer lives.
        ([log(2, 1, 1, 0.5), log(10, 0, 0, 0.5, 1)], {"kind": FLAT, "first_layer_zero": False, "revived": False}),
        ([log(2, 0, 0, 0), log(10, 1, 1, 0.5)], {"kind": None}),  # not dead at the end
        ([log(2, 1, 1, 1), log(10, 0, 0, 0)], {"kind": BOTH}),
        # A step that was not due, before and after the death.
        ([log(2, 1, 1, 1), log(3, math.nan, 1, 1), log(10, 0, 1, 0), log(20, math.nan, 1, 0)], {"kind": DERIVATIVE}),
    ],
)
def test_what_a_run_died_of(tmp_path: Path, logs: list[tuple], said: dict[str, Any]) -> None:
    run = {"key": (1, 1e-3, 1e-1), "scores": {0: 0.4, 100: 0.2}, "logs": logs}
    row = record(tmp_path, baseline=[run]).need("scaled").ends.iloc[0]
    assert {name: None if pd.isna(row[name]) else row[name] for name in said} == said


def runs_with(scores: list[float], last: int = 100, stops: list[Any] | None = None) -> list[dict[str, Any]]:
    """Four fast runs with these scores at an episode."""
    return [
        {"key": key, "scores": {0: 0.4, last: score}, "stop": stop}
        for key, score, stop in zip(KEYS, scores, stops or [200] * 4, strict=True)
    ]


def record(root: Path, **studies: list[dict[str, Any]]) -> Recordings:
    """Studies on `scaled`, by experiment."""
    for name, runs in studies.items():
        write_study(root / "scaled" / name, runs, "scaled")
    return Recordings(root)


def test_a_diverged_run_neither_stopped_nor_goes_on(tmp_path: Path) -> None:
    """One rule for `never stops`, in the loader and in the comparison."""
    runs = runs_with([0.5] * 4, stops=[""] * 4)
    runs[0]["status"] = "diverged"
    r = record(tmp_path, baseline=runs)
    assert r.need("scaled").runs["never"].sum() == r.row("scaled", "baseline").runs_never_stopping == 3


def test_studies_that_are_not_whole_are_named(tmp_path: Path) -> None:
    whole = runs_with([0.5] * 4)
    record(tmp_path, baseline=whole, layernorm=whole[:3], td3=whole)
    (tmp_path / "scaled" / "td3" / "checkpoint").mkdir()
    r = Recordings(tmp_path)
    assert r.names("scaled") == ["baseline"]
    told = "\n".join(r.absent)
    assert "layernorm: not whole, 3 of 4 runs" in told and "td3: still being trained" in told and "thesis" in told


@pytest.mark.parametrize(("name", "text"), [("evaluations.csv", "seed,"), ("study.json", "{")])
def test_a_damaged_study_is_an_error(name: str, text: str, tmp_path: Path) -> None:
    """Left out, it would take figures and numbers with it."""
    record(tmp_path, baseline=runs_with([0.5] * 4))
    (tmp_path / "scaled" / "baseline" / name).write_text(text)
    with pytest.raises(ResultsError, match=name):
        Recordings(tmp_path)


def test_scores_of_several_ages_are_marked_and_not_compared(tmp_path: Path) -> None:
    name, good = "gradient_clipping", runs_with([0.5] * 4)
    r = record(tmp_path / "a", baseline=runs_with([0.1] * 4), gradient_clipping=good[:3] + runs_with([0.5] * 4, 50)[3:])
    assert better_pairs(r, name) is None and against_baseline(r, "scaled", name) == "–"
    assert median_score(r.row("scaled", name), r.need("scaled", name)).endswith("†")
    still = [{"key": (1, 0, critic_lr), "scores": {0: 0.4, 100: 0.2}} for critic_lr in {key[2] for key in KEYS}]
    for root, runs, said in (("c", good, "4 of 4"), ("d", good[:3] + runs_with([0.5] * 4, 50)[3:], "at most 4 of 4")):
        other = record(tmp_path / root, frozen_actors=still, gradient_clipping=runs)
        assert learns(other.row("scaled", name), other.need("scaled", name)) == said
    assert "scores not compared" in outcome(r, name).here
    assert better_pairs(record(tmp_path / "b", baseline=runs_with([0.1] * 4), gradient_clipping=good), name) == 16


@pytest.mark.parametrize(("stops", "word"), [
    ([210, 220, 205, 190], REPRODUCED),  # later by 10, 20, 5, -10: three of four within 5 to 28
    ([210, 260, 300, 190], PARTLY),  # one within, three later
    ([210, 260, 180, 190], NOT),  # two of four later is what a coin gives
])  # fmt: skip
def test_the_large_actors_claim_can_fail(tmp_path: Path, stops: list[int], word: str) -> None:
    r = record(tmp_path, baseline=runs_with([0.1] * 4), large_actor=runs_with([0.1] * 4, stops=stops))
    assert large_actor(r).verdict == word


def test_a_claim_is_judged_on_the_published_double_change(tmp_path: Path) -> None:
    """8 of 16 never stopped: as in the double change, not as in the single one."""
    studies = {"baseline": runs_with([0.1] * 4), "gradient_clipping": runs_with([0.05, 0.05, 0.05, 0.2])}
    assert outcome(record(tmp_path, **studies), "gradient_clipping").verdict == PARTLY
    double = runs_with([0.1] * 4, stops=[200, 200, "", ""])
    write_study(tmp_path / "double_changes" / "scaled" / "gradient_clipping", double, "scaled")
    found = outcome(Recordings(tmp_path), "gradient_clipping")
    assert found.verdict == REPRODUCED and "double change" in found.here


def test_the_sentence_of_a_page_says_what_is_comparable(tmp_path: Path) -> None:
    better, good = runs_with([0.5] * 4, stops=[200, "", "", ""]), runs_with([0.5] * 4)
    mixed = good[:3] + runs_with([0.5] * 4, 50)[3:]
    r = record(tmp_path, baseline=runs_with([0.1] * 4), layernorm=better, input_norm=mixed)
    told = sentence(r, "layernorm")
    base = "(baseline, same seeds: 0 of 4)"
    assert f"3 of 4 runs never stop {base}, 4 of 4 runs end better than untrained {base}" in told
    assert "median score is 0.50" in told and "(1 seed)" in told
    assert "not compared" in sentence(r, "input_norm") and "median score" not in sentence(r, "input_norm")
    assert "not recorded" in sentence(r, "td3") and "0 of 4 runs end better" in sentence(r, "baseline")


def test_pieces_of_the_loader(tmp_path: Path) -> None:
    found = record(tmp_path, baseline=runs_with([0.1, 0.2, 0.3, 0.9])).need("scaled")
    assert found.constants["score"].tolist() == [0.8] and found.constants["alpha"].tolist() == [0.5]
    np.testing.assert_allclose(found.above_constant, [-0.7, -0.6, -0.5, 0.1])
    assert found.age == "episode 100" and found.one_age


def test_shrinkage_is_that_of_adams_recursion() -> None:
    """One live gradient and none after: the step is m̂ / √v̂."""
    m, v, steps = 0.0, 0.0, []
    for t in range(1, 100):
        gradient = 1.0 if t == 1 else 0.0
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        steps.append((m / (1 - 0.9**t)) / math.sqrt(v / (1 - 0.999**t)))
    assert coasting.shrink(19, 99) == pytest.approx((steps[98] / steps[18]) ** (1 / 80), rel=1e-12)


@pytest.mark.parametrize("beta1", [0.5, 0.9])
def test_simulated_lag_is_that_of_torchs_adam(beta1: float) -> None:
    """One step with a gradient and none after, on the weights of a fresh actor: the last step that moved one."""
    lag, freeze = coasting.simulated_lag(0.1, 1.0, np.array([3]), beta1)
    generator = np.random.default_rng(5)
    weights = torch.tensor(coasting.initial_actors(generator, 1)[0], dtype=torch.float32, requires_grad=True)
    adam = torch.optim.Adam([weights], lr=0.1, betas=(beta1, 0.999), eps=1e-8)
    signs, last = torch.tensor(generator.choice([-1.0, 1.0], len(weights)), dtype=torch.float32), 0
    for step in range(1, 300):
        before = weights.detach().clone()
        weights.grad = signs * (step == 1)
        adam.step()
        last = step if not torch.equal(before, weights) else last
    assert abs(np.median(lag) - (last + 2 - 3)) <= 4  # step t ends episode t + 1; the freeze is the next
    assert (freeze - lag == 3).all()


def test_flat_tanh_in_float32() -> None:
    z = torch.tensor([coasting.flat_tanh() - 0.1, coasting.flat_tanh() + 0.1], dtype=torch.float32)
    slopes = 1 - torch.tanh(z) ** 2
    assert slopes[0] > 0 and slopes[1] == 0


def test_a_coins_score_on_scaled() -> None:
    """Half of the agents at either bound, against uniformly random shares, in the environment itself."""
    shares = np.array([0.01, 1.0, *np.linspace(0.01, 1, 101)])
    best, worst, *others = coasting.local_costs("scaled", coasting.task_sample(), shares).mean(0)
    score = (np.mean(others) - (best + worst) / 2) / (np.mean(others) - best)
    assert score == pytest.approx(1 - coasting.coin_slope() / 2, abs=0.03)


@pytest.mark.parametrize("scale", [0.0, 0.37, 0.6, 1.0])
def test_best_output_under_noise_by_brute_force(scale: float) -> None:
    """Play a few outputs with drawn noise in the environment, each task and draw by itself."""
    generator, env, state = torch.Generator().manual_seed(1), MecEnv("interior", 10), coasting.task_sample()[::5]
    tried = torch.linspace(-1, 1, 21, dtype=torch.float64)
    drawn = torch.randn((60, len(state)), generator=generator, dtype=torch.float64)
    costs = [env.local_cost(state, share((a + scale * drawn).clamp(-1, 1))).mean().item() for a in tried]
    assert abs(coasting.best_output_under_noise("interior", scale) - tried[int(np.argmin(costs))]) <= 0.1
