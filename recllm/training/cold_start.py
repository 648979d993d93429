"""What to offer to a user who has done nothing yet: how an item sells, and how it sells to users alike.

    log E[purchases of item i by user u] = w . (NEWCOMER_FEATURES) + b

a Poisson regression on users of past windows whose history is hidden. Little can be learned about a user without a
history, and the scorer's MLPs, which read dozens of features, did worse here than popularity.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recllm.features.pair_features import FEATURE_NAMES, NEWCOMER_FEATURES
from recllm.training.windows import Window


def cold_start_weights(windows: Sequence[Window], prior: float) -> NDArray[np.float64]:
    """Weights of `NEWCOMER_FEATURES` and, last, the constant, (n + 1,), from windows of users without a history.

    prior: pull of each weight towards popularity, the first weight to 1 and the others to 0. Popularity alone without
    any window.
    """
    start = np.zeros(len(NEWCOMER_FEATURES) + 1)
    start[0] = 1.0
    if not windows:
        return start
    columns = [FEATURE_NAMES.index(name) for name in NEWCOMER_FEATURES]
    x = np.concatenate([w.features[:, columns] for w in windows]).astype(np.float64)
    label = np.concatenate([w.label for w in windows]).astype(np.float64)
    return poisson(x, label, np.concatenate([w.correction for w in windows]).astype(np.float64), start, prior)


def poisson(
    x: NDArray[np.float64],
    label: NDArray[np.float64],
    log_weight: NDArray[np.float64],
    start: NDArray[np.float64],
    ridge: float,
) -> NDArray[np.float64]:
    """Weights and, last, the constant that minimise sum(exp(z + log_weight)) - sum(label z) + ridge towards `start`,
    z = x w + b; the constant is free. x (n, d), label and log_weight (n,), start (d + 1,)."""
    from scipy.optimize import minimize

    x = np.column_stack([x, np.ones(len(x))])
    pull = np.full(len(start), ridge)
    pull[-1] = 0.0

    def loss(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = x @ w
        expected = np.exp(np.minimum(z + log_weight, 50.0))
        value = expected.sum() - label @ z + pull @ (w - start) ** 2
        return float(value) / scale, (x.T @ (expected - label) + 2 * pull * (w - start)) / scale

    scale = max(float(label.sum()), 1.0)
    first = start.copy()
    first[-1] = np.log(scale) - np.log(np.exp(x[:, :-1] @ start[:-1] + log_weight).sum())
    return np.asarray(minimize(loss, first, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x)
