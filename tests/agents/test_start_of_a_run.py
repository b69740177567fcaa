"""What a run starts from: weights in their ranges, the same for every pair of learning rates of a seed."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import actor_weights, critic_weights, grid, make_learner

from common.agents.networks import Actor, Critic
from common.config import StudyConfig


def test_learning_rates_do_not_touch_what_a_seed_fixes() -> None:
    """A paired design: runs of one seed start alike and play the same first episode; another seed shares nothing."""
    learner = make_learner(grid(1, 2), agents=12, batch_size=8, episodes=10, actor_hidden=(8, 8), critic_hidden=(16, 8))
    for weights in (actor_weights, critic_weights):
        first, alike, other = (weights(learner, run) for run in (0, 15, 16))
        for name, values in first.items():
            np.testing.assert_array_equal(values, alike[name], err_msg=name)
            assert (values != other[name]).all(), name
    returns = learner.train_episode().training_return.tolist()
    assert len(set(returns[:16])) == 1 and len(set(returns[16:])) == 1 and returns[0] != returns[16]


@pytest.mark.parametrize("by_itself", [False, True])
def test_initial_weights_fill_their_ranges(by_itself: bool) -> None:
    """PyTorch's default bound 1/sqrt(inputs), 3e-3 for the last layers; and no two actors of a study start alike."""
    learner = make_learner(grid(1)[:1], agents=12, batch_size=8, episodes=10)
    actors, critic = actor_weights(learner, 0), critic_weights(learner, 0)
    if by_itself:
        modules = (network(StudyConfig(agents=12)) for network in (Actor, Critic))
        actors, critic = ({name: x.detach().numpy() for name, x in own.named_parameters()} for own in modules)
    parts = [critic[f"fc1.{part}"] for part in ("states", "actions", "personal")]
    assert [x.shape for x in parts] == [(512, 84), (512, 36), (512, 10)]
    for weights, inputs in ((actors, (7, 64)), (critic, (130, 512))):
        for name, values in weights.items():
            bound = {"fc1": inputs[0] ** -0.5, "fc2": inputs[1] ** -0.5, "fc3": 3e-3}[name[:3]]
            assert abs(values).max() <= bound * (1 + 1e-6), name
            if values.size > 100:
                assert values.max() > 0.9 * bound and values.min() < -0.9 * bound, name
            assert len(np.unique(values)) > 0.99 * values.size, name
    # Every part of the critic's first layer, though drawn by itself, has the bound of the whole.
    for part in parts:
        np.testing.assert_allclose(part.std(), (3 * 130) ** -0.5, rtol=0.05)
