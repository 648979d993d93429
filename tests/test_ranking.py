from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shop_world import START, history, shop, vectors

from recllm.base.errors import ModelError
from recllm.base.settings import CollaborativeSettings, ScorerTrainingSettings
from recllm.learn.features.candidates import OWN_HISTORY, CandidateCounts, explicit, served_by
from recllm.learn.features.collaborative import CollaborativeStatistics, ask
from recllm.learn.features.pair_features import FEATURE_NAMES, pair_features
from recllm.learn.models.scorer import ScorerConfig
from recllm.learn.models.scorer_network import ScorerNetwork
from recllm.learn.training.scorer import FittedScorer, fit_scorer
from recllm.recommend.recommender.ranking import ItemRanker, UserInputs
from recllm.shop.data.dataset import DAY, Dataset, Events
from recllm.shop.data.interactions import Pairs, merged_lines, within_limits

DATA = shop()
V = vectors(DATA)
EVERYBODY = np.arange(DATA.n_users)
NOW = DATA.as_of
ALL = UserInputs(DATA.events, NOW, EVERYBODY)
"""Everybody, with all that they did."""
QUICK = ScorerTrainingSettings(
    horizon_days=14, n_windows=3, epochs=3, hidden=(16,), projection=4, batch_size=8, min_steps=80
)


@pytest.fixture(scope="module")
def fitted() -> FittedScorer:
    return fit_scorer(DATA, V, None, QUICK)


@pytest.fixture(scope="module")
def crowd(fitted: FittedScorer) -> CollaborativeStatistics:
    return CollaborativeStatistics.fit(DATA, V, fitted.population)


@pytest.fixture(scope="module")
def ranker(fitted: FittedScorer, crowd: CollaborativeStatistics) -> ItemRanker:
    return ItemRanker(fitted.scorer, crowd)


def test_favourites_come_first_and_say_where_they_come_from(ranker: ItemRanker, fitted: FittedScorer) -> None:
    found = ranker.rank(ALL, 4)
    for u in EVERYBODY:
        mine = set(DATA.events.rows(np.array([u])).item.tolist())
        assert set(found.item[u].tolist()) == mine
        assert all(served_by(int(s)) == (OWN_HISTORY,) for s in found.sources[u])
    assert (np.diff(found.logit, axis=1) <= 0).all()
    weight = float(fitted.scorer.weights["cosine_weight"])
    np.testing.assert_allclose(found.logit, weight * found.cosine + found.mlp, atol=1e-4)
    assert ((found.probability > 0) & (found.probability < 1)).all()


def test_one_scoring_gives_the_lists_with_and_without_repeats(ranker: ItemRanker) -> None:
    both = ranker.rank_with_and_without_repeats(ALL, 6)
    for found, repeats in zip(both, (True, False), strict=True):
        alone = ranker.rank(ALL, 6, repeats=repeats)
        assert np.array_equal(found.item, alone.item)
        assert np.array_equal(found.sources, alone.sources)
        np.testing.assert_allclose(found.logit, alone.logit, atol=1e-4)


def test_the_size_of_the_blocks_changes_nothing(ranker: ItemRanker) -> None:
    whole = ranker.rank(ALL, 10)
    small = ranker.rank(ALL, 10, block=7)
    assert np.array_equal(whole.item, small.item)
    np.testing.assert_allclose(whole.logit, small.logit, atol=1e-4)


def test_lists_are_distinct_and_filled_to_k(
    ranker: ItemRanker, fitted: FittedScorer, crowd: CollaborativeStatistics
) -> None:
    allowed = np.arange(DATA.n_items) % 2 == 0
    tight = CandidateCounts(own_history=1, neighbours=1, item_item=0, category_trend=0, popular=1)
    found = ItemRanker(fitted.scorer, crowd, tight).rank(ALL, 12, allowed=allowed)
    for row in found.item:
        assert len(set(row.tolist())) == 12 and (row % 2 == 0).all()
    new = ranker.rank(ALL, 20, repeats=False)
    for u, row in enumerate(new.item):
        assert not set(DATA.events.rows(np.array([u])).item.tolist()) & set(row.tolist())
        assert (row >= 0).sum() == DATA.n_items - 4


def test_a_short_catalogue_pads_with_minus_one(ranker: ItemRanker) -> None:
    allowed = np.zeros(DATA.n_items, bool)
    allowed[[3, 5]] = True
    found = ranker.rank(ALL, 4, allowed=allowed)
    assert (np.sort(found.item, axis=1) == [-1, -1, 3, 5]).all()
    assert np.isnan(found.logit[:, 2:]).all() and not found.sources[:, 2:].any()
    nobody = ranker.rank(UserInputs(history(), NOW), 4)
    assert nobody.item.shape == (0, 4) and nobody.sources.dtype == np.uint16


def test_equal_scores_are_ordered_by_item_row(crowd: CollaborativeStatistics) -> None:

    flat = ScorerNetwork(ScorerConfig(dim=V.shape[1], features=FEATURE_NAMES, hidden=(4,)))
    for value in flat.parameters():
        value.data.zero_()
    found = ItemRanker(flat.frozen(), crowd).rank(UserInputs(history([]), NOW), 3, items=np.array([9, 2, 5]))
    assert found.item.tolist() == [[2, 5, 9]]


def test_banned_items_are_hidden_from_one_person_only(ranker: ItemRanker) -> None:
    first = ranker.rank(ALL, 1).item[:, 0]
    indptr = np.minimum(np.arange(DATA.n_users + 1), 1)
    again = ranker.rank(ALL, 1, banned=(indptr, first[:1])).item[:, 0]
    assert again[0] != first[0] and np.array_equal(again[1:], first[1:])
    listed = ranker.rank(ALL, 1, items=np.arange(24), banned=(indptr, first[:1]))
    assert first[0] not in listed.item[0] and np.array_equal(listed.item[1:, 0], first[1:])


def test_an_explicit_list_can_leave_out_what_was_taken(ranker: ItemRanker) -> None:
    found = ranker.rank(ALL, 24, items=np.arange(24), repeats=False)
    for u, row in enumerate(found.item):
        mine = set(DATA.events.rows(np.array([u])).item.tolist())
        assert set(row[row >= 0].tolist()) == set(range(24)) - mine


def test_pairs_score_as_they_do_in_a_ranking(ranker: ItemRanker) -> None:
    found = ranker.rank(ALL, 5)
    order = np.argsort(found.item, axis=1)
    items = np.take_along_axis(found.item, order, 1)
    pairs = Pairs(np.arange(DATA.n_users + 1) * 5, items.ravel())
    scored = ranker.score(ALL, pairs)
    np.testing.assert_allclose(scored.logit, np.take_along_axis(found.logit, order, 1).ravel(), atol=1e-4)
    np.testing.assert_allclose(scored.probability, np.take_along_axis(found.probability, order, 1).ravel(), atol=1e-4)


def test_leaving_a_line_out_is_the_same_as_never_having_had_it(ranker: ItemRanker) -> None:
    mine = DATA.events.rows(np.array([0]))
    best = int(ranker.rank(UserInputs(mine, NOW, np.array([0])), 1).item[0, 0])
    without = mine.select(mine.item != best)
    two = mine.rows(np.array([0, 0]))
    version = two.user
    virtual = two.select((version == 0) | (two.item != best))
    pair, pairs = Pairs(np.array([0, 1]), np.array([best], np.int32)), Pairs(np.array([0, 1, 2]), np.array([best] * 2))
    alone = ranker.score(UserInputs(without, NOW, np.array([0])), pair).logit
    both = ranker.score(UserInputs(virtual, NOW, np.array([0, 0])), pairs).logit
    np.testing.assert_allclose(both[1], alone[0], atol=1e-4)
    assert both[0] > both[1] + 0.5


def test_a_fresh_purchase_is_felt_without_training(ranker: ItemRanker) -> None:
    tool = int(DATA.item_rows(["tool0"])[0])
    pair = Pairs(np.array([0, 1]), np.array([tool], np.int32))
    before = ranker.score(UserInputs(history([]), NOW), pair).logit
    after = ranker.score(UserInputs(history([(tool, NOW - DAY)]), NOW), pair).logit
    assert after > before


def test_items_that_never_sold_can_be_ranked_by_their_text_and_kind(ranker: ItemRanker) -> None:
    items = DATA.items.vstack(
        DATA.items[:2].with_columns(
            pl.Series("item_id", ["tea-new", "tool-new"]),
            pl.Series("category", [["food", "tea"], ["home", "tools"]]),
            pl.Series("brand", ["Leaf", "Iron"]),
        )
    )
    data = replace(DATA, items=items)
    v = np.concatenate([V, V[[int(DATA.item_rows([n])[0]) for n in ("tea0", "tool0")]]])
    tea = np.array([int(u[1:]) % 2 == 0 for u in data.users["user_id"]])
    for seed in (0, 1):
        fitted = fit_scorer(data, v, None, QUICK.model_copy(update={"seed": seed}))
        assert not fitted.scorer.config.learned_arrivals
        crowd = CollaborativeStatistics.fit(data, v, fitted.population)
        everybody = UserInputs(data.events, NOW, EVERYBODY)
        found = ItemRanker(fitted.scorer, crowd).rank(everybody, 2, items=np.array([24, 25]))
        assert (found.item[:, 0] == np.where(tea, 24, 25)).mean() > 0.9
        blind = ItemRanker(
            fitted.scorer, CollaborativeStatistics.fit(data, np.ones_like(v) / v.shape[1] ** 0.5, fitted.population)
        )
        found = blind.rank(everybody, 2, items=np.array([24, 25]))
        assert (found.item[:, 0] == np.where(tea, 24, 25)).mean() > 0.9, "by what they bought of its kind"


def test_a_model_of_other_features_is_refused(crowd: CollaborativeStatistics) -> None:
    other = ScorerNetwork(ScorerConfig(dim=V.shape[1], features=("one",), hidden=(4,))).frozen()
    with pytest.raises(ModelError, match="train again"):
        ItemRanker(other, crowd).rank(UserInputs(DATA.events, NOW), 3)


def test_a_bare_log_trains_and_ranks() -> None:
    bare: Dataset = shop(bare=True)
    learned = fit_scorer(bare, vectors(bare), None, QUICK)
    crowd = CollaborativeStatistics.fit(bare, vectors(bare), learned.population)
    found = ItemRanker(learned.scorer, crowd, learned.candidates).rank(
        UserInputs(bare.events, bare.as_of, EVERYBODY), 4
    )
    mine = set(bare.events.rows(np.array([0])).item.tolist())
    assert len(mine & set(found.item[0].tolist())) >= 3


LIMITS = CollaborativeSettings(person_day_events=5, person_item_day_events=2)
COUNTED = ("buyers_7", "buyers_28", "buyers_91", "buyers_ever")


def with_accounts(dataset: Dataset, *runs: list[tuple[int, int]]) -> Dataset:
    """Further people behind those of the dataset, each a list of (item row, time)."""
    ids = pl.DataFrame({"user_id": [f"fake{n}" for n in range(len(runs))]})
    users = pl.concat([dataset.users.select("user_id"), ids])
    return replace(dataset, users=users, events=Events.concat([dataset.events, history(*runs)]))


def statistics(dataset: Dataset, **settings: object) -> CollaborativeStatistics:
    return CollaborativeStatistics.fit(dataset, vectors(dataset), CollaborativeSettings(**settings))


logs = st.lists(
    st.lists(
        st.tuples(
            st.integers(0, 3), st.integers(0, 3 * DAY // 3600).map(lambda hour: START // DAY * DAY + hour * 3600)
        ),
        max_size=25,
    ).map(lambda run: sorted(run, key=lambda event: (event[1], event[0]))),
    min_size=1,
    max_size=4,
)


def counts(events: Events, *columns: np.ndarray) -> int:
    """The largest number of events that have the same values in all columns."""
    return max(np.unique(np.stack(columns), axis=1, return_counts=True)[1].tolist(), default=0) if len(events) else 0


@given(logs)
def test_no_day_of_a_person_counts_more_than_the_limits(runs: list[list[tuple[int, int]]]) -> None:
    events = merged_lines(history(*runs, price=1.0))
    within = within_limits(events, LIMITS)
    assert counts(within, within.user, within.at // DAY) <= LIMITS.person_day_events
    assert counts(within, within.user, within.at // DAY, within.item) <= LIMITS.person_item_day_events
    again = within_limits(within, LIMITS)
    assert [column.tolist() for column in again.columns()] == [column.tolist() for column in within.columns()]
    # whoever stays within them loses nothing, whatever others do
    for user in range(len(runs)):
        own = events.rows(np.array([user]))
        day = own.at // DAY
        if counts(own, day) <= LIMITS.person_day_events and counts(own, day, own.item) <= LIMITS.person_item_day_events:
            assert within.rows(np.array([user])).at.tolist() == own.at.tolist()


def test_the_earliest_of_a_day_count_and_lines_of_one_time_are_one() -> None:
    noon = START // DAY * DAY + 12 * 3600
    lines = [(0, noon)] * 4 + [(0, noon + 60), (0, noon + 120), (1, noon + 180)]
    within = within_limits(history(lines), LIMITS)
    assert list(zip(within.item.tolist(), (within.at - noon).tolist(), strict=True)) == [(0, 0)] * 4 + [
        (0, 60),
        (1, 180),
    ]
    many = [(item, noon + item) for item in range(9)]
    assert within_limits(history(many), LIMITS).item.tolist() == [0, 1, 2, 3, 4]
    assert not len(within_limits(history([]), LIMITS))


def test_a_flood_of_one_account_counts_as_one_buyer() -> None:
    honest = shop()
    target = int(honest.item_rows(["tool0"])[0])
    at = honest.as_of - 2 * DAY
    once = statistics(with_accounts(honest, [(target, at)]))
    flooded = statistics(with_accounts(honest, [(target, at + n) for n in range(2_000)]))
    for name in COUNTED:
        np.testing.assert_array_equal(getattr(once.stats, name), getattr(flooded.stats, name))
    # in the log of a group's sales it counts as often as the limits of a day let it
    few = statistics(with_accounts(honest, [(target, at + n) for n in range(3)]))
    sales = [population.group_statistics["type"].buyers_56[target] for population in (once, few, flooded)]
    assert sales[0] < sales[1] == pytest.approx(sales[2])


def test_an_honest_log_is_counted_as_without_limits() -> None:
    honest = shop()
    limited = statistics(honest)
    unlimited = statistics(honest, person_day_events=10**6, person_item_day_events=10**6)
    for name in COUNTED:
        np.testing.assert_array_equal(getattr(limited.stats, name), getattr(unlimited.stats, name))
    assert (limited.item_item != unlimited.item_item).nnz == 0 and (limited.profiles != unlimited.profiles).nnz == 0


N_HONEST, N_GOODS = 60, 31


def bandwagon() -> Dataset:
    """60 people with ten of 30 goods each, and 3 accounts with all 30, so that they resemble everybody, and another."""
    rng, items = np.random.default_rng(0), pl.DataFrame({"item_id": [f"i{n}" for n in range(N_GOODS)]})
    runs = [
        [(int(i), START + n * DAY) for n, i in enumerate(rng.permutation(N_GOODS - 1)[:10])] for _ in range(N_HONEST)
    ]
    fakes = [[(i, START + i * 3600) for i in range(N_GOODS)]] * 3
    users = pl.DataFrame({"user_id": [f"u{n:02}" for n in range(N_HONEST + 3)]})
    empty = pl.DataFrame(schema={"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64})
    dataset = Dataset.construct(empty, users, items, as_of=START + 11 * DAY)
    return replace(dataset, events=history(*runs, *fakes))


def test_accounts_that_resemble_everybody_speak_no_louder_than_one_person_each() -> None:
    attacked, target, rows = bandwagon(), N_GOODS - 1, np.arange(N_HONEST)
    bounded = statistics(attacked, neighbours=8)
    unbounded = statistics(attacked, neighbours=8, neighbour_influence=1e9)
    is_fake = bounded.pool >= N_HONEST
    assert unbounded.influence == pytest.approx(1, abs=1e-5)
    assert bounded.influence[is_fake].max() < bounded.influence[~is_fake].min()
    shares = []
    for population in (unbounded, bounded):
        batch = ask(population, attacked.events.rows(rows), attacked.as_of, user_rows=rows)
        weight_of = np.asarray(batch.neighbour_weights.sum(axis=0)).ravel()
        shares.append(weight_of[is_fake].sum() / N_HONEST)
        says = pair_features(batch, explicit(N_HONEST, np.array([target])))[:, FEATURE_NAMES.index("neighbours_recent")]
        assert np.expm1(says).mean() / 100 == pytest.approx(shares[-1], rel=1e-3)
    equal = 3 / (N_HONEST + 3)
    assert shares[0] > 5 * equal and shares[1] < 1.5 * equal


def test_the_most_active_accounts_do_not_fill_the_pool_of_neighbours() -> None:
    """200 people with two purchases each, and 10 accounts with 20: half of the people could be drawn."""
    rng = np.random.default_rng(0)
    runs = [[(int(i), START + n * DAY) for n, i in enumerate(rng.integers(0, 9, 2))] for _ in range(200)]
    fakes = [[(n % 9, START + n * DAY) for n in range(20)]] * 10
    users = pl.DataFrame({"user_id": [f"u{n:03}" for n in range(210)]})
    empty = pl.DataFrame(schema={"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64})
    items = pl.DataFrame({"item_id": [f"i{n}" for n in range(9)]})
    dataset = replace(Dataset.construct(empty, users, items, as_of=START + 30 * DAY), events=history(*runs, *fakes))
    pool = statistics(dataset, neighbour_pool=20).pool
    assert len(pool) == len(set(pool.tolist())) == 20 and (pool >= 200).sum() <= 6
    assert (statistics(dataset, neighbour_pool=150).pool >= 200).sum() == 10  # most of the shop is in it anyway


def test_nobody_is_shown_less_of_their_own_history() -> None:
    """The limits bound the crowd; who bought an item 50 times a day has it in their own features 50 times."""
    honest = shop()
    target = int(honest.item_rows(["tea0"])[0])
    greedy = with_accounts(honest, [(target, honest.as_of - DAY + n) for n in range(50)])
    population, row = statistics(greedy), np.array([honest.n_users])
    batch = ask(population, greedy.events.rows(row), greedy.as_of, user_rows=row)
    times = pair_features(batch, explicit(1, np.array([target])))[0, FEATURE_NAMES.index("times")]
    assert times == pytest.approx(np.log(51))


def hub_world() -> tuple[Dataset, np.ndarray, UserInputs]:
    """Two tastes far apart, and an item whose text lies between them, near to everything."""
    rng = np.random.default_rng(0)
    n, dim = 30, 16
    common = np.eye(dim)[0]
    taste = np.where(np.arange(n)[:, None] % 2 == 0, np.eye(dim)[1], np.eye(dim)[2])
    rows = 1.2 * common + 0.4 * taste + 0.6 * rng.normal(size=(n, dim)) / np.sqrt(dim) * 2
    rows[-1] = 1.2 * common + 0.2 * (np.eye(dim)[1] + np.eye(dim)[2])
    items = pl.DataFrame({"item_id": [f"i{k:02}" for k in range(n)], "title": [f"thing {k}" for k in range(n)]})
    runs = [[(int(i), START + k * DAY)] for k, i in enumerate(rng.integers(0, n - 1, 20))]
    empty = pl.DataFrame(schema={"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64})
    dataset = Dataset.construct(empty, items=items, as_of=START + 40 * DAY)
    unit_rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    # rows of a dataset stand in the order of a hash
    number = dataset.items["item_id"].str.slice(1).cast(pl.Int64).to_numpy()
    row_of = np.argsort(number)
    events = history(*[[(int(row_of[item]), at) for item, at in run] for run in runs])
    return dataset, unit_rows[number].astype(np.float32), UserInputs(events, dataset.as_of)


def test_a_text_near_to_everything_does_not_enter_every_list() -> None:
    dataset, item_vectors, users = hub_world()
    hub = int(dataset.item_rows(["i29"])[0])

    def share(centring: float) -> float:
        settings = CollaborativeSettings(text_centring=centring)
        population = CollaborativeStatistics.fit(dataset, item_vectors, settings)
        lists = ItemRanker(None, population).rank(users, 5, repeats=False)
        return float((lists.item == hub).any(axis=1).mean())

    assert share(0.0) > 0.6 and share(1.0) < 0.2


def test_without_a_history_no_text_is_preferred() -> None:
    dataset, item_vectors, _ = hub_world()
    population = CollaborativeStatistics.fit(dataset, item_vectors)
    nobody = UserInputs(history([]), dataset.as_of)
    logit = ItemRanker(None, population).score(nobody, explicit(1, np.arange(dataset.n_items))).logit
    assert len(np.unique(logit)) == 1
