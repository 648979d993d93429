"""What is offered to people who have done nothing yet."""

from __future__ import annotations

import numpy as np

from recllm.learn.training.scorer import cold_start_weights, poisson


def test_without_anybody_to_learn_from_newcomers_get_what_sells() -> None:
    weights = cold_start_weights([], 1.0)
    assert weights[0] == 1 and not weights[1:].any()


def test_rates_are_found_again_from_counts_and_from_a_weighed_sample_of_them() -> None:
    rng, true = np.random.default_rng(0), np.array([0.8, -0.5, -3.0])
    x = rng.normal(size=(200_000, 2))
    label = (rng.random(len(x)) < np.exp(x @ true[:2] + true[2])).astype(np.float64)
    start = np.array([1.0, 0.0, 0.0])
    assert np.allclose(poisson(x, label, np.zeros(len(x)), start, 1.0), true, atol=0.05)
    kept = (label > 0) | (rng.random(len(x)) < 0.1)  # one negative of ten, which stands for ten
    weight = np.where(label > 0, 0.0, np.log(10.0))[kept]
    assert np.allclose(poisson(x[kept], label[kept], weight, start, 1.0), true, atol=0.05)


def test_too_little_to_learn_from_leaves_popularity() -> None:
    x, label = np.array([[2.0, 1.0], [1.0, 0.0]]), np.array([1.0, 0.0])
    weights = poisson(x, label, np.zeros(2), np.array([1.0, 0.0, 0.0]), 1.0)
    assert abs(weights[0] - 1) < 0.3 and abs(weights[1]) < 0.3
