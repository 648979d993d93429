"""Metrics against `ranx` on random lists, and against sums that can be followed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from recllm.base.errors import UsageError
from recllm.base.stats import probabilities, ranking
from recllm.base.stats.ranking import Truth

N_ITEMS = 12


def _truth(*items: list[int]) -> Truth:
    user = np.repeat(np.arange(len(items)), [len(i) for i in items])
    return Truth.from_pairs(user, np.array([i for row in items for i in row], dtype=int), len(items))


def _lists(*rows: list[int]) -> np.ndarray:
    width = max(len(r) for r in rows)
    return np.array([r + [-1] * (width - len(r)) for r in rows], dtype=np.int32)


def _ranx(name: str, lists: np.ndarray, truth: Truth, k: int) -> np.ndarray:
    """Per-person values of ranx; rankings become strictly falling scores, so nothing is left to its tie-breaking."""
    import numba

    numba.config.DISABLE_JIT = True  # compiling takes a minute and these lists are tiny
    from ranx import Qrels, Run, evaluate

    qrels, run = {}, {}
    for u in range(len(lists)):
        mine = truth.item[truth.indptr[u] : truth.indptr[u + 1]]
        if len(mine):
            qrels[f"q{u:03}"] = {f"d{i}": 1 for i in mine}
            shown = [i for i in lists[u] if i >= 0]
            run[f"q{u:03}"] = {f"d{i}": 1 / (1 + r) for r, i in enumerate(shown)} or {"nothing": 1.0}
    values = evaluate(Qrels(qrels), Run(run), f"{name}@{k}", return_mean=False)
    out = np.full(len(lists), np.nan)
    out[truth.sizes > 0] = values
    return out


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, Truth, int]:
    """Short and empty lists, empty and long truths, any k up to beyond the list."""
    n = draw(st.integers(1, 6))
    items = st.lists(st.integers(0, N_ITEMS - 1), unique=True, max_size=N_ITEMS)
    rows = [draw(items) for _ in range(n)]
    truth = [draw(items) for _ in range(n - 1)] + [draw(items.filter(len))]
    return _lists(*rows), _truth(*truth), draw(st.integers(1, N_ITEMS + 5))


@settings(max_examples=30, deadline=None)
@given(cases())
def test_agrees_with_ranx(case: tuple[np.ndarray, Truth, int]) -> None:
    lists, truth, k = case
    cut = truth.sizes / np.minimum(np.maximum(truth.sizes, 1), k)  # ranx divides by |truth|, ours by min(|truth|, k)
    np.testing.assert_allclose(ranking.ndcg(lists, truth, k), _ranx("ndcg", lists, truth, k), atol=1e-9)
    np.testing.assert_allclose(ranking.hit_rate(lists, truth, k), _ranx("hit_rate", lists, truth, k), atol=1e-9)
    np.testing.assert_allclose(ranking.precision(lists, truth, k), _ranx("precision", lists, truth, k), atol=1e-9)
    np.testing.assert_allclose(ranking.reciprocal_rank(lists, truth, k), _ranx("mrr", lists, truth, k), atol=1e-9)
    np.testing.assert_allclose(ranking.recall(lists, truth, k), _ranx("recall", lists, truth, k) * cut, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(cases())
def test_bounds_and_a_perfect_list(case: tuple[np.ndarray, Truth, int]) -> None:
    lists, truth, k = case
    names = (
        ranking.ndcg, ranking.recall, ranking.precision, ranking.hit_rate, ranking.reciprocal_rank,
    )  # fmt: skip
    for metric in names:
        values = metric(lists, truth, k)
        assert np.isnan(values[truth.sizes == 0]).all()
        known = values[truth.sizes > 0]
        assert ((known >= 0) & (known <= 1 + 1e-12)).all()
    width = max(1, truth.sizes.max())
    perfect = np.full((len(lists), width), -1, np.int32)
    for u in range(len(lists)):
        mine = truth.item[truth.indptr[u] : truth.indptr[u + 1]]
        perfect[u, : len(mine)] = mine
    for metric in (ranking.ndcg, ranking.recall):
        np.testing.assert_allclose(metric(perfect, truth, k)[truth.sizes > 0], 1.0)


def test_a_list_that_repeats_an_item_is_refused() -> None:
    with pytest.raises(UsageError, match="row 1 names an item twice"):
        ranking.ndcg(_lists([1, 2], [3, 3]), _truth([1], [3]), 2)
    with pytest.raises(UsageError, match="k is 0"):
        ranking.recall(_lists([1]), _truth([1]), 0)
    with pytest.raises(UsageError, match="2 people"):
        ranking.recall(_lists([1]), _truth([1], [2]), 1)


def test_a_repeat_beyond_k_does_not_matter() -> None:
    assert ranking.hit_rate(_lists([1, 2, 2]), _truth([1]), 2) == 1


def test_coverage() -> None:
    assert ranking.coverage(_lists([0, 1], [0]), 4, 2) == 0.5
    assert ranking.coverage(_lists([0, 1], [0]), 4, 1) == 0.25


def test_truth_joins_repeated_pairs_and_can_be_cut() -> None:
    user, item = np.array([1, 0, 1, 1]), np.array([4, 2, 4, 0])
    truth = Truth.from_pairs(user, item, 3)
    assert truth.indptr.tolist() == [0, 1, 3, 3]
    assert truth.item.tolist() == [2, 0, 4]
    cut = truth.rows(np.array([2, 1]))
    assert cut.indptr.tolist() == [0, 0, 2]
    assert cut.item.tolist() == [0, 4]


def test_calibration_error_by_hand() -> None:
    """Two bins: at .2 a half is true, at .8 three of four are."""
    p = np.array([0.2] * 4 + [0.8] * 4)
    y = np.array([1, 1, 0, 0, 1, 1, 1, 0], dtype=bool)
    assert probabilities.calibration_error(p, y, bins=2) == pytest.approx((0.3 + 0.05) / 2)
    assert probabilities.calibration_error(p, y, bins=15) == pytest.approx((0.3 + 0.05) / 2)  # equal ones share a bin
    with pytest.raises(UsageError):
        probabilities.calibration_error(p, y[:2])


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 200), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_calibration_error_against_sorting_into_equal_bins(size: int, bins: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    p = rng.random(size * bins)
    y = rng.random(size * bins) < p**2
    order = np.argsort(p)
    gaps = [abs(p[part].mean() - y[part].mean()) for part in np.split(order, bins)]
    assert probabilities.calibration_error(p, y, bins=bins) == pytest.approx(np.mean(gaps))


def test_gini_of_equal_and_of_unequal_showing() -> None:
    assert ranking.gini(np.array([[0, 1], [2, 3]], np.int32), 4, 2) == pytest.approx(0)
    assert ranking.gini(np.array([[0], [0], [0], [0]], np.int32), 4, 1) == pytest.approx(3 / 4)
    assert ranking.gini(np.array([[0, 1], [0, -1]], np.int32), 2, 2) == pytest.approx(1 / 6)
    assert np.isnan(ranking.gini(np.array([[-1]], np.int32), 2, 1))


def test_accuracy_at_a_threshold() -> None:
    p, y = np.array([0.9, 0.4, 0.6]), np.array([True, False, False])
    assert probabilities.accuracy(p, y) == pytest.approx(2 / 3)
    assert probabilities.accuracy(p, y, threshold=0.7) == 1.0
    with pytest.raises(UsageError):
        probabilities.accuracy(p, y[:2])


def test_probabilities_against_the_libraries() -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.normal(-1, 2, 3_000), rng.integers(1, 5, 3_000).astype(np.float64)
    label = rng.random(len(x)) < expit(0.7 * x + 0.4)
    np.testing.assert_allclose(probabilities.sigmoid(x), expit(x), rtol=1e-12)
    np.testing.assert_allclose(probabilities.log_odds(expit(x)), x, rtol=1e-9)
    model = LogisticRegression(C=np.inf, tol=1e-10).fit(x[:, None], label, weight)
    line = probabilities.logistic_line(x, label, weight)
    np.testing.assert_allclose(line, [model.coef_[0, 0], model.intercept_[0]], rtol=1e-4)
    np.testing.assert_allclose(probabilities.logistic_line(x, label, strength=(1e9, 1e9)), [1, 0], atol=1e-3)
    assert probabilities.auc(x, label) == pytest.approx((x[label][:, None] > x[~label]).mean())
