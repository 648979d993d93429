"""Sums for one user, of a few columns, or of all: whatever way is cheapest, they are those of the whole product."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.sparse import random as random_sparse
from shop_world import shop, vectors

from recllm.learn.features import group_features
from recllm.learn.features.collaborative import CollaborativeStatistics, ask
from recllm.learn.features.group_features import group_columns
from recllm.shop.data.catalogue import GROUPINGS
from recllm.shop.data.interactions import FEW_COLUMNS, Pairs, WeightedSums


def sparse(n_rows: int, n_columns: int, seed: int) -> csr_matrix:
    drawn = random_sparse(n_rows, n_columns, density=0.05, random_state=seed, dtype=np.float32)
    return csr_matrix(drawn)


@pytest.mark.parametrize("n_users", [1, 2, 7])
@pytest.mark.parametrize("n_columns", [40, 4 * FEW_COLUMNS])
def test_sums_are_those_of_the_whole_product(n_users: int, n_columns: int) -> None:
    weights, rows = sparse(n_users, 200, 1), sparse(200, n_columns, 2)
    expected = (weights.toarray() @ rows.toarray()).astype(np.float32)
    each = np.arange(n_columns, dtype=np.int32)
    pairs = Pairs(np.arange(n_users + 1) * n_columns, np.tile(each, n_users))
    column = pairs.item.copy()
    column[::5] = -1
    sums = WeightedSums(weights, rows)
    np.testing.assert_allclose(
        sums.at(column, pairs), np.where(column >= 0, expected[pairs.user, pairs.item], 0), rtol=1e-6
    )
    for user in range(n_users):
        columns, values = sums.of(user)
        listed = np.zeros(n_columns, np.float32)
        listed[columns] = values
        np.testing.assert_allclose(listed, expected[user], rtol=1e-6)


def test_nobody_and_nothing_have_no_sums() -> None:
    nothing = WeightedSums(sparse(3, 5, 0) * 0, sparse(5, 9, 1))
    pairs = Pairs(np.array([0, 1, 2, 3]), np.array([4, 5, 6], np.int32))
    assert nothing.at(pairs.item, pairs).tolist() == [0, 0, 0]
    assert not len(nothing.at(pairs.item[:0], Pairs(np.zeros(4, np.int64), pairs.item[:0])))


def test_one_account_of_several_groupings_tells_what_each_alone_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    data = shop()
    crowd = CollaborativeStatistics.fit(data, vectors(data))
    users = ask(crowd, data.events, data.as_of, user_rows=np.arange(data.n_users))
    each = np.arange(data.n_items, dtype=np.int32)
    pairs = Pairs(np.arange(data.n_users + 1) * data.n_items, np.tile(each, data.n_users))
    together = group_columns(users, pairs)
    monkeypatch.setattr(group_features, "SHARED_EVENTS", 1)
    assert len({id(account) for account in group_features.dealings(users, GROUPINGS, each).values()}) == len(GROUPINGS)
    for name, column in group_columns(users, pairs).items():
        np.testing.assert_array_equal(column, together[name], err_msg=name)
