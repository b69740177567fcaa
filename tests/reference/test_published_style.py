"""The benchmark's opponent is the published algorithm: batched by sample, it equals the naive reference."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from helpers import experiments, make_learner, start_of
from reference.naive_learner import NaiveRun

from common.agents.reports import RunKey

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from published_style import PublishedStyleRun


def test_same_training_as_the_naive_reference() -> None:
    key, options = RunKey(5, 1e-3, 1e-2), {"env": "thesis", "agents": 12, "batch_size": 8, "tau": 0.5}
    learner = make_learner([key], **options, actor_update="sequential", replay_capacity=20, dtype="float64")
    made = (experiments()["baseline"], learner.config, key)
    naive, batched = (kind(*made, start_of(learner, 0)) for kind in (NaiveRun, PublishedStyleRun))
    for episode in range(1, 5):
        np.testing.assert_allclose(batched.episode(episode), naive.episode(episode), rtol=1e-9)
    np.testing.assert_allclose(batched.priorities, naive.priorities, rtol=1e-7)
    for mine, its in zip([batched.critic, *batched.actors], [naive.critic, *naive.actors], strict=True):
        for name, x in its.state_dict().items():
            np.testing.assert_allclose(mine.state_dict()[name], x, rtol=1e-7, atol=1e-12)
