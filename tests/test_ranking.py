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


def test_lists_are_distinct_filtered_and_filled_back_to_k(
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
