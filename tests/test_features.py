from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.sparse import random as random_sparse
from shop_world import START, history, shop, vectors

from recllm.base.schema import Action
from recllm.learn.features.candidates import Candidates, explicit
from recllm.learn.features.collaborative import CollaborativeStatistics, ask
from recllm.learn.features.pair_features import FEATURE_NAMES, pair_features
from recllm.shop.data.dataset import DAY, Dataset
from recllm.shop.data.interactions import (
    FEW_COLUMNS,
    Pairs,
    Tally,
    WeightedSums,
    decay,
    matrix,
    merged_lines,
    unit,
    user_parts,
    visits,
)

DATA = shop()
CROWD = CollaborativeStatistics.fit(DATA, vectors(DATA))
NOW = DATA.as_of


def feature(values: np.ndarray, name: str) -> np.ndarray:
    return values[:, FEATURE_NAMES.index(name)]


def features_of(events, items: list[int], crowd: CollaborativeStatistics = CROWD, **kwargs) -> np.ndarray:  # type: ignore[no-untyped-def]
    asked = ask(crowd, events, NOW, **kwargs)
    return pair_features(asked, explicit(asked.n, np.array(items)))


def row(name: str) -> int:
    return int(DATA.item_rows([name])[0])


def test_a_persons_own_dealings_are_counted_by_hand() -> None:
    item, other = row("tea0"), row("tea1")
    run = [(item, NOW - 30 * DAY), (other, NOW - 20 * DAY), (item, NOW - 10 * DAY)]
    values = features_of(history(run), [item])
    assert feature(values, "times")[0] == pytest.approx(np.log(3))
    assert feature(values, "days_since")[0] == pytest.approx(np.log(11))
    assert feature(values, "days_since_first")[0] == pytest.approx(np.log(31))
    assert feature(values, "interval")[0] == pytest.approx(np.log(21))
    assert feature(values, "overdue")[0] == pytest.approx(np.log(10.5 / 20.5))
    assert feature(values, "count_10")[0] == pytest.approx(np.log1p(0.5 + 0.125))
    assert feature(values, "visits_since")[0] == 0
    assert feature(values, "visit_rate")[0] == pytest.approx(2 / 3)
    assert feature(values, "type_loyalty")[0] == pytest.approx(
        (2 ** (-30 / 120) + 2 ** (-10 / 120)) / (2 ** (-30 / 120) + 2 ** (-20 / 120) + 2 ** (-10 / 120)), rel=1e-5
    )
    assert feature(values, "type_items")[0] == pytest.approx(np.log(3))


def test_an_item_never_taken_has_the_documented_neutral_values() -> None:
    values = features_of(history([(row("tea0"), NOW - DAY)]), [row("tool3")])
    for name in ("times", "count_120", "overdue", "interval", "type_affinity", "brand_affinity", "views", "carted"):
        assert feature(values, name)[0] == 0, name
    for name in ("days_since", "days_since_first", "type_days_since", "days_since_view"):
        assert feature(values, name)[0] == pytest.approx(np.log1p(730.0)), name


def test_people_alike_speak_for_an_item_and_nobody_is_their_own_neighbour() -> None:
    even = int(DATA.user_rows(["u00"])[0])
    everything = np.arange(DATA.n_items)
    tea = np.array([i.startswith("tea") for i in DATA.items["item_id"]])[np.sort(everything)]
    values = features_of(DATA.events.rows(np.array([even])), list(everything), user_rows=np.array([even]))
    near = feature(values, "neighbours_recent")
    assert near[tea].max() > 0 and near[~tea].max() == 0
    only_me = DATA.events.rows(np.array([even]))
    alone = Dataset(DATA.users[[even]], DATA.items, only_me, NOW)
    crowd = CollaborativeStatistics.fit(alone, vectors(DATA))
    excluded = features_of(only_me, list(everything), crowd, user_rows=np.array([0]))
    included = features_of(only_me, list(everything), crowd, user_rows=np.array([-1]))
    assert feature(excluded, "neighbours_recent").max() == 0 < feature(included, "neighbours_recent").max()


def test_browsing_is_seen_until_the_item_is_bought() -> None:
    item = row("tool1")
    carted = history([(item, NOW - 3 * DAY)], action=Action.CART)
    values = features_of(carted, [item])
    assert feature(values, "carted")[0] == 1 and feature(values, "views")[0] > 0 and feature(values, "times")[0] == 0
    bought = history([(item, NOW - 3 * DAY), (item, NOW - DAY)], action=Action.CART)
    bought.action[1] = 0
    values = features_of(bought, [item])
    assert feature(values, "carted")[0] == 0 and feature(values, "times")[0] == pytest.approx(np.log(2))


def test_a_log_without_items_table_prices_or_categories_still_gives_finite_features() -> None:
    bare = shop(bare=True)
    crowd = CollaborativeStatistics.fit(bare, vectors(bare))
    asked = ask(crowd, bare.events, bare.as_of)
    values = pair_features(asked, explicit(asked.n, np.arange(bare.n_items)))
    assert values.shape == (bare.n_users * bare.n_items, len(FEATURE_NAMES))
    assert np.isfinite(values).all()
    for name in ("price", "price_gap", "price_gap_type", "type_affinity", "brand_affinity", "type_share"):
        assert not feature(values, name).any(), name


def test_nobody_and_nothing_give_empty_features() -> None:
    asked = ask(CROWD, history(), NOW)
    assert pair_features(asked, explicit(0, np.array([1]))).shape == (0, len(FEATURE_NAMES))
    blank = features_of(history([]), [0, 1])
    assert blank.shape == (2, len(FEATURE_NAMES)) and np.isfinite(blank).all()


lines = st.lists(st.tuples(st.integers(0, DATA.n_items - 1), st.integers(1, 90)), max_size=12)


@settings(max_examples=25, deadline=None)
@given(lines, st.integers(0, 60), st.integers(0, DATA.n_items - 1))
def test_nothing_at_or_after_the_time_can_enter(run: list[tuple[int, int]], later: int, item: int) -> None:
    past = sorted(((i, NOW - d * DAY) for i, d in run), key=lambda pair: pair[1])
    future = [*past, (item, NOW + later * DAY)]
    everything = list(range(DATA.n_items))
    assert np.array_equal(features_of(history(past), everything), features_of(history(future), everything))


@settings(max_examples=25, deadline=None)
@given(lines, lines)
def test_a_score_is_alike_alone_or_in_company(first: list[tuple[int, int]], second: list[tuple[int, int]]) -> None:
    def timed(run: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return sorted(((i, NOW - d * DAY) for i, d in run), key=lambda pair: (pair[1], pair[0]))

    items = list(range(0, DATA.n_items, 3))
    both = features_of(history(timed(first), timed(second)), items)
    alone = np.concatenate([features_of(history(timed(run)), items) for run in (first, second)])
    np.testing.assert_allclose(both, alone, atol=1e-5)


def test_the_crowd_is_counted_by_hand() -> None:
    items, n = DATA.items["item_id"].to_list(), DATA.n_items
    e = DATA.events
    for item in (0, 5, n - 1):
        mine = e.item == item
        late = mine & (e.at >= NOW - 28 * DAY)
        assert CROWD.stats.buyers_ever[item] == len(set(e.user[mine])), items[item]
        assert CROWD.stats.buyers_28[item] == len(set(e.user[late]))
        lately = set(e.user[e.at >= NOW - 28 * DAY])
        first = set(e.user[late]) - set(e.user[mine & ~late])
        had = len(set(e.user[mine & ~late])) / len(set(e.user))
        assert CROWD.stats.buying_rate[item] == pytest.approx(len(set(e.user[late])) / len(lately))
        assert CROWD.stats.first_buying_rate[item] == pytest.approx(len(first) / (len(lately) * (1 - had) + 1))
        if mine.any():
            assert CROWD.stats.days_since_sold[item] == pytest.approx((NOW - e.at[mine].max()) / DAY)


def test_tallies_find_what_occurs_and_point_to_the_default_otherwise() -> None:
    tally = Tally.of(np.array([0, 0, 2]), np.array([3, 3, 1]), 5)
    assert tally.total().tolist() == [2, 1]
    assert tally.largest(np.array([7, 9, 4])).tolist() == [9, 4]
    assert tally.smallest(np.array([7, 9, 4])).tolist() == [7, 4]
    assert tally.find(np.array([0, 2, 1, 0]), np.array([3, 1, 3, -1])).tolist() == [0, 1, 2, 2]


def test_lines_of_one_item_in_one_basket_are_one_occasion() -> None:
    e = merged_lines(history([(1, START), (1, START), (2, START), (1, START + DAY)]))
    assert e.item.tolist() == [1, 2, 1] and e.quantity.tolist() == [2, 1, 1] and e.indptr.tolist() == [0, 3]
    ordinal, trips = visits(e)
    assert ordinal.tolist() == [0, 0, 1] and trips.tolist() == [2]


def test_the_users_vector_is_the_decayed_sum_of_their_items_and_basics() -> None:
    v = unit(np.random.default_rng(0).normal(size=(3, 4)))
    e = history([(0, NOW - 60 * DAY), (1, NOW)], [])
    basics = unit(np.array([[1.0, 0, 0, 0], [0, 1.0, 0, 0]]))
    parts = user_parts(v, e, NOW, basics)
    np.testing.assert_allclose(parts.purchases[0], unit((0.5 * v[0] + v[1])[None])[0], atol=1e-6)
    np.testing.assert_allclose(parts.user[0], unit((basics[0] + parts.purchases[0])[None])[0], atol=1e-6)
    np.testing.assert_allclose(parts.user[1], basics[1], atol=1e-6)
    assert not user_parts(v, e, NOW).user[1].any()


def test_counting_leaves_the_events_as_they_were() -> None:
    e = history([(3, START), (1, START + DAY), (3, START + 2 * DAY)])
    matrix(e, 5, decay(e.at, START + 3 * DAY, 10))
    assert e.item.tolist() == [3, 1, 3]


def test_pairs_in_any_number_per_person_keep_their_order() -> None:
    asked = ask(CROWD, DATA.events.rows(np.array([0, 1])), NOW)
    pairs = Candidates(np.array([0, 1, 3]), np.array([4, 2, 7], np.int32), np.zeros(3, np.uint16))
    wide = pair_features(asked, explicit(2, np.arange(DATA.n_items)))
    np.testing.assert_allclose(pair_features(asked, pairs), wide[[4, DATA.n_items + 2, DATA.n_items + 7]], atol=1e-6)


def test_purchases_of_long_ago_leave_every_feature_finite() -> None:
    """A weight that is decayed to nothing may not become 0 / 0."""
    long_ago = NOW - 120_000 * DAY
    with np.errstate(all="raise", under="ignore"):
        values = features_of(history([(row("tea0"), long_ago)]), [row("tea0"), row("tea1"), row("tool3")])
    assert np.isfinite(values).all() and feature(values, "text_set").tolist() == [0, 0, 0]


@pytest.mark.parametrize("n_keys", [5, 100_000])
def test_a_tally_by_table_is_that_by_sorting(n_keys: int) -> None:
    rng = np.random.default_rng(0)
    user, key = rng.integers(4, size=60), rng.integers(5, size=60) * (n_keys // 5)
    tally = Tally.of(user, key, n_keys)
    keys, group = np.unique(user * n_keys + key, return_inverse=True)
    assert np.array_equal(tally.keys, keys) and np.array_equal(tally.group, group)
    sought_user, sought_key = rng.integers(6, size=80), rng.integers(-1, 5, size=80) * (n_keys // 5)
    sought_key = np.maximum(sought_key, -1)
    row = {(int(k) // n_keys, int(k) % n_keys): number for number, k in enumerate(keys)}
    expected = [row.get((int(u), int(k)), len(keys)) for u, k in zip(sought_user, sought_key, strict=True)]
    assert tally.find(sought_user, sought_key).tolist() == expected


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
