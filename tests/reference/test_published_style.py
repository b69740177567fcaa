"""The benchmark's opponent is the published algorithm: batched by sample, it equals the naive reference."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from helpers import actor_weights, critic_weights, make_learner
from reference.naive_learner import NaiveRun

from common.agents.reports import RunKey

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from published_style import PublishedStyleRun


def test_same_training_as_the_naive_reference() -> None:
    learner = make_learner([RunKey(5, 1e-3, 1e-2)], agents=12, dtype="float64")
    size = len(actor_weights(learner, 0)["fc1.weight"])
    actors = [{name: value[i] for name, value in actor_weights(learner, 0).items()} for i in range(size)]
    options = {"preset": "thesis", "seed": 5, "agents": 12, "channels": 10, "batch_size": 8, "actor_lr": 1e-3}
    options |= {"critic_lr": 1e-2, "actor_update": "sequential", "tau": 0.5, "replay_capacity": 20}
    runs = [
        kind(**options, actor_weights=actors, critic_weights=critic_weights(learner, 0))
        for kind in (NaiveRun, PublishedStyleRun)
    ]
    for episode in range(1, 5):
        naive, batched = (run.episode(episode) for run in runs)
        np.testing.assert_allclose(batched, naive, rtol=1e-9)
    np.testing.assert_allclose(runs[1].priorities, runs[0].priorities, rtol=1e-7)
    for name, weights in runs[0].critic_weights().items():
        np.testing.assert_allclose(runs[1].critic_weights()[name], weights, rtol=1e-7, atol=1e-12)
    for mine, theirs in zip(runs[1].actor_weights(), runs[0].actor_weights(), strict=True):
        for name, weights in theirs.items():
            np.testing.assert_allclose(mine[name], weights, rtol=1e-7, atol=1e-12)
