from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from shop_world import history, shop, vectors

from recllm.base.errors import ModelError
from recllm.base.settings import ScorerTrainingSettings
from recllm.learn.features.candidates import OWN_HISTORY, CandidateCounts, served_by
from recllm.learn.features.collaborative import CollaborativeStatistics
from recllm.learn.features.pair_features import FEATURE_NAMES
from recllm.learn.models.scorer import ScorerConfig
from recllm.learn.models.scorer_network import ScorerNetwork
from recllm.learn.training.scorer import FittedScorer, fit_scorer
from recllm.recommend.recommender.ranking import ItemRanker, UserInputs
from recllm.shop.data.dataset import DAY, Dataset
from recllm.shop.data.interactions import Pairs

DATA = shop()
V = vectors(DATA)
EVERYBODY = np.arange(DATA.n_users)
NOW = DATA.as_of
QUICK = ScorerTrainingSettings(
    horizon_days=14, n_windows=3, epochs=3, hidden=(16,), projection=4, batch_size=8, min_steps=80
)


@pytest.fixture(scope="module")
def fitted() -> FittedScorer:
    return fit_scorer(DATA, V, None, QUICK)


@pytest.fixture(scope="module")
def crowd(fitted: FittedScorer) -> CollaborativeStatistics:
    return CollaborativeStatistics.fit(DATA, V, fitted.population)


def test_favourites_come_first_and_say_where_they_come_from(
    fitted: FittedScorer, crowd: CollaborativeStatistics
) -> None:
    found = ItemRanker(fitted.scorer, crowd).rank(UserInputs(DATA.events, NOW, EVERYBODY), 4)
    for u in EVERYBODY:
        mine = set(DATA.events.rows(np.array([u])).item.tolist())
        assert set(found.item[u].tolist()) == mine
        assert all(served_by(int(s)) == (OWN_HISTORY,) for s in found.sources[u])
    assert (np.diff(found.logit, axis=1) <= 0).all()
    weight = float(fitted.scorer.weights["cosine_weight"])
    np.testing.assert_allclose(found.logit, weight * found.cosine + found.mlp, atol=1e-4)
    assert ((found.probability > 0) & (found.probability < 1)).all()


def test_one_scoring_gives_the_lists_with_and_without_repeats(
    fitted: FittedScorer, crowd: CollaborativeStatistics
) -> None:
    both = ItemRanker(fitted.scorer, crowd).rank_with_and_without_repeats(UserInputs(DATA.events, NOW, EVERYBODY), 6)
    for found, repeats in zip(both, (True, False), strict=True):
        alone = ItemRanker(fitted.scorer, crowd).rank(UserInputs(DATA.events, NOW, EVERYBODY), 6, repeats=repeats)
        assert np.array_equal(found.item, alone.item)
        assert np.array_equal(found.sources, alone.sources)
        np.testing.assert_allclose(found.logit, alone.logit, atol=1e-4)


def test_the_size_of_the_blocks_changes_nothing(fitted: FittedScorer, crowd: CollaborativeStatistics) -> None:
    whole = ItemRanker(fitted.scorer, crowd).rank(UserInputs(DATA.events, NOW, EVERYBODY), 10)
    small = ItemRanker(fitted.scorer, crowd).rank(UserInputs(DATA.events, NOW, EVERYBODY), 10, block=7)
    assert np.array_equal(whole.item, small.item)
    np.testing.assert_allclose(whole.logit, small.logit, atol=1e-4)


def test_lists_are_distinct_filtered_and_filled_back_to_k(fitted: FittedScorer, crowd: CollaborativeStatistics) -> None:
    allowed = np.arange(DATA.n_items) % 2 == 0
    tight = CandidateCounts(own_history=1, neighbours=1, item_item=0, category_trend=0, popular=1)
    found = ItemRanker(fitted.scorer, crowd, tight).rank(UserInputs(DATA.events, NOW, EVERYBODY), 12, allowed=allowed)
    for row in found.item:
        assert len(set(row.tolist())) == 12 and (row % 2 == 0).all()
    new = ItemRanker(fitted.scorer, crowd).rank(UserInputs(DATA.events, NOW, EVERYBODY), 20, repeats=False)
    for u, row in enumerate(new.item):
        assert not set(DATA.events.rows(np.array([u])).item.tolist()) & set(row.tolist())
        assert (row >= 0).sum() == DATA.n_items - 4


def test_a_short_catalogue_pads_with_minus_one(fitted: FittedScorer, crowd: CollaborativeStatistics) -> None:
    allowed = np.zeros(DATA.n_items, bool)
    allowed[[3, 5]] = True
    found = ItemRanker(fitted.scorer, crowd).rank(UserInputs(DATA.events, NOW, EVERYBODY), 4, allowed=allowed)
    assert (np.sort(found.item, axis=1) == [-1, -1, 3, 5]).all()
    assert np.isnan(found.logit[:, 2:]).all() and not found.sources[:, 2:].any()
    nobody = ItemRanker(fitted.scorer, crowd).rank(UserInputs(history(), NOW), 4)
    assert nobody.item.shape == (0, 4) and nobody.sources.dtype == np.uint16


def test_equal_scores_are_ordered_by_item_row(crowd: CollaborativeStatistics) -> None:

    flat = ScorerNetwork(ScorerConfig(dim=V.shape[1], features=FEATURE_NAMES, hidden=(4,)))
    for value in flat.parameters():
        value.data.zero_()
    found = ItemRanker(flat.frozen(), crowd).rank(UserInputs(history([]), NOW), 3, items=np.array([9, 2, 5]))
    assert found.item.tolist() == [[2, 5, 9]]


def test_banned_items_are_hidden_from_one_person_only(fitted: FittedScorer, crowd: CollaborativeStatistics) -> None:
    first = ItemRanker(fitted.scorer, crowd).rank(UserInputs(DATA.events, NOW, EVERYBODY), 1).item[:, 0]
    indptr = np.minimum(np.arange(DATA.n_users + 1), 1)
    again = (
        ItemRanker(fitted.scorer, crowd)
        .rank(UserInputs(DATA.events, NOW, EVERYBODY), 1, banned=(indptr, first[:1]))
        .item[:, 0]
    )
    assert again[0] != first[0] and np.array_equal(again[1:], first[1:])
    listed = ItemRanker(fitted.scorer, crowd).rank(
        UserInputs(DATA.events, NOW, EVERYBODY), 1, items=np.arange(24), banned=(indptr, first[:1])
    )
    assert first[0] not in listed.item[0] and np.array_equal(listed.item[1:, 0], first[1:])


def test_an_explicit_list_can_leave_out_what_was_taken(fitted: FittedScorer, crowd: CollaborativeStatistics) -> None:
    found = ItemRanker(fitted.scorer, crowd).rank(
        UserInputs(DATA.events, NOW, EVERYBODY), 24, items=np.arange(24), repeats=False
    )
    for u, row in enumerate(found.item):
        mine = set(DATA.events.rows(np.array([u])).item.tolist())
        assert set(row[row >= 0].tolist()) == set(range(24)) - mine


def test_pairs_score_as_they_do_in_a_ranking(fitted: FittedScorer, crowd: CollaborativeStatistics) -> None:
    found = ItemRanker(fitted.scorer, crowd).rank(UserInputs(DATA.events, NOW, EVERYBODY), 5)
    order = np.argsort(found.item, axis=1)
    items = np.take_along_axis(found.item, order, 1)
    pairs = Pairs(np.arange(DATA.n_users + 1) * 5, items.ravel())
    scored = ItemRanker(fitted.scorer, crowd).score(UserInputs(DATA.events, NOW, EVERYBODY), pairs)
    np.testing.assert_allclose(scored.logit, np.take_along_axis(found.logit, order, 1).ravel(), atol=1e-4)
    np.testing.assert_allclose(scored.probability, np.take_along_axis(found.probability, order, 1).ravel(), atol=1e-4)


def test_leaving_a_line_out_is_the_same_as_never_having_had_it(
    fitted: FittedScorer, crowd: CollaborativeStatistics
) -> None:
    mine = DATA.events.rows(np.array([0]))
    best = int(ItemRanker(fitted.scorer, crowd).rank(UserInputs(mine, NOW, np.array([0])), 1).item[0, 0])
    without = mine.select(mine.item != best)
    two = mine.rows(np.array([0, 0]))
    version = two.user
    virtual = two.select((version == 0) | (two.item != best))
    pair, pairs = Pairs(np.array([0, 1]), np.array([best], np.int32)), Pairs(np.array([0, 1, 2]), np.array([best] * 2))
    alone = ItemRanker(fitted.scorer, crowd).score(UserInputs(without, NOW, np.array([0])), pair).logit
    both = ItemRanker(fitted.scorer, crowd).score(UserInputs(virtual, NOW, np.array([0, 0])), pairs).logit
    np.testing.assert_allclose(both[1], alone[0], atol=1e-4)
    assert both[0] > both[1] + 0.5


def test_a_fresh_purchase_is_felt_without_training(fitted: FittedScorer, crowd: CollaborativeStatistics) -> None:
    tool = int(DATA.item_rows(["tool0"])[0])
    pair = Pairs(np.array([0, 1]), np.array([tool], np.int32))
    before = ItemRanker(fitted.scorer, crowd).score(UserInputs(history([]), NOW), pair).logit
    after = ItemRanker(fitted.scorer, crowd).score(UserInputs(history([(tool, NOW - DAY)]), NOW), pair).logit
    assert after > before


def test_items_that_never_sold_can_be_ranked_by_their_text_and_kind() -> None:
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
        found = ItemRanker(fitted.scorer, crowd).rank(
            UserInputs(data.events, NOW, EVERYBODY), 2, items=np.array([24, 25])
        )
        assert (found.item[:, 0] == np.where(tea, 24, 25)).mean() > 0.9


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


def test_a_weight_on_popularity_changes_the_order_and_no_score(
    fitted: FittedScorer, crowd: CollaborativeStatistics
) -> None:
    plain = ItemRanker(fitted.scorer, crowd).rank(UserInputs(DATA.events, NOW, EVERYBODY), DATA.n_items)
    weighed = ItemRanker(fitted.scorer, crowd).rank(
        UserInputs(DATA.events, NOW, EVERYBODY), DATA.n_items, popularity_weight=1.0
    )
    assert not np.array_equal(plain.item, weighed.item)
    for name in ("logit", "probability"):
        sorted_by_item = [np.take_along_axis(getattr(r, name), np.argsort(r.item), 1) for r in (plain, weighed)]
        np.testing.assert_array_equal(*sorted_by_item)
    lowered = weighed.logit - np.log1p(crowd.stats.buyers_ever)[weighed.item]
    assert (np.diff(lowered, axis=1) <= 1e-5).all()
