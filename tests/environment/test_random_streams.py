"""Random streams: functions of (seed, purpose, index) alone, the same for every pair of learning rates."""

from __future__ import annotations

import numpy as np

from common.environment.random_streams import episode_draws, stream, task_draws

SHAPE = {"steps": 10, "agents": 6, "updates": 2, "batch_size": 5}


def first(seed: int, purpose: str, index: int = 0) -> np.ndarray:
    return stream(seed, purpose, index).random(4)


def test_any_other_argument_gives_other_draws() -> None:
    """Seeds, purposes and indices that are easily mixed up when they are written one after the other."""
    keys = [(0, "tasks"), (1, "tasks"), (11, "tasks"), (1, "1/tasks"), (1, "world"), (1, "Tasks")]
    draws = np.stack([first(*key, index) for key in keys for index in (0, 1, 11, 2**40)])
    assert len(np.unique(draws)) == draws.size


def test_indices_never_overlap() -> None:
    """The draws of one index do not run into those of the next, however many there are."""
    long = [stream(3, "tasks", index).random(20_000) for index in (0, 1, 2)]
    assert len(np.unique(np.concatenate(long))) == 60_000


def test_first_numbers_are_these() -> None:
    """Written down, so that no change of the streams goes unnoticed: it would change every published number."""
    pinned = {
        (42, "world", 0): [0.1623273819744463, 0.7197668997673178, 0.9574261288272046],
        (42, "tasks", 1): [0.6860921013069821, 0.5321096290657561, 0.3914510969527669],
        (7, "initial actor fc1.weight", 0): [0.3020351005218904, 0.1751258555906925, 0.5279436252902188],
    }
    for key, expected in pinned.items():
        np.testing.assert_array_equal(first(*key)[:3], expected)
    draws = episode_draws(42, 3, **SHAPE)
    np.testing.assert_array_equal(draws["tasks"][0, 0], [0.4214127748924513, 0.5231802909154574, 0.5228288615552455])
    noise = [-1.017638045336685, 0.04307690653415037, -0.20233815899698107]
    np.testing.assert_allclose(draws["noise"][0, 0], noise, rtol=1e-14)
    np.testing.assert_array_equal(draws["coin"][:3], [0.8290170749868062, 0.1755139491758707, 0.9810783948296377])
    np.testing.assert_array_equal(draws["order"][0], [4, 5, 3, 1, 2, 0])
    places = [0.14036461501207786, 0.32097050376740344, 0.48210941949985553]
    np.testing.assert_array_equal(draws["replay"][0, :3], places)


def test_episode_draws() -> None:
    """Shapes, ranges, and other numbers in every episode and for every seed."""
    draws = episode_draws(4, 1, **SHAPE)
    shapes = {name: values.shape for name, values in draws.items()}
    assert shapes == {"tasks": (11, 6, 3), "noise": (10, 6, 3), "coin": (10,), "order": (10, 6), "replay": (2, 5)}
    smoothed = episode_draws(4, 1, **SHAPE, target_noise=True)
    assert smoothed["target_noise"].shape == (2, 5, 6, 3) and smoothed["stored_noise"].shape == (10, 6, 3)
    assert all(np.array_equal(smoothed[name], values) for name, values in draws.items())
    for name in ("tasks", "coin", "replay"):
        values = draws[name]
        assert (values >= 0).all() and (values < 1).all(), name
    assert (np.sort(draws["order"], axis=1) == np.arange(6)).all()
    np.testing.assert_array_equal(draws["tasks"], task_draws(4, 1, 10, 6))
    for other in (episode_draws(4, 2, **SHAPE), episode_draws(5, 1, **SHAPE)):
        for name, values in draws.items():
            assert not np.array_equal(values, other[name]), name
    unit = [draws["tasks"], draws["coin"], draws["replay"], stream(4, "world").random(30)]
    pooled = np.concatenate([values.ravel() for values in unit])
    assert len(np.unique(pooled)) == len(pooled), "two purposes share draws"


def test_batch_size_and_updates_touch_only_the_replay_draws() -> None:
    draws, other = (episode_draws(4, 1, **SHAPE | change) for change in ({}, {"updates": 3, "batch_size": 9}))
    for name in draws.keys() - {"replay"}:
        np.testing.assert_array_equal(draws[name], other[name], err_msg=name)
