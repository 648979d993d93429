"""Baselines in a shop small enough to know the answer, and their shared ranking against sorting."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import table

from recllm.base.errors import UsageError
from recllm.recommend.evaluation import baselines as b
from recllm.recommend.evaluation.baselines import purchase_matrix, rank_by, top_k
from recllm.recommend.evaluation.protocols import EvaluationQuery, RankedLists
from recllm.recommend.evaluation.systems import make_systems
from recllm.shop.data.dataset import DAY, Dataset

NOW = 100 * DAY

LOG = table("baselines", "person, item, days ago")

TITLES = table("baselines", "titles")
CATEGORY = {i: ["tools"] if i in ("screw", "nail", "drill") else ["food"] for i in TITLES}


SIMPLE = (b.random_order(), rank_by(b.popular), rank_by(b.personal_frequency), rank_by(b.user_knn, days=100))


@pytest.fixture
def shop() -> Dataset:
    user, item, ago = zip(*LOG, strict=True)
    events = pl.DataFrame({"user_id": user, "item_id": item, "timestamp": [NOW - a * DAY for a in ago]})
    items = pl.DataFrame({"item_id": list(TITLES), "title": list(TITLES.values()), "category": list(CATEGORY.values())})
    return Dataset.construct(events, items=items, as_of=NOW)


def ask(
    shop: Dataset, *people: str, k: int = 3, mask_seen: bool = False, items: list[str] | None = None
) -> EvaluationQuery:
    users = shop.user_rows(people)
    offered = np.sort(shop.item_rows(items or [i for i in TITLES if i != "cake"])).astype(np.int32)
    return EvaluationQuery(
        dataset=shop, fit_on=shop, users=users, fit_users=users, items=offered, k=k, mask_seen=mask_seen, slice="ALL"
    )


def names(shop: Dataset, lists: RankedLists) -> list[list[str]]:
    return [[shop.items["item_id"][int(i)] for i in row if i >= 0] for row in lists.items]


def test_popular_counts_people_not_lines(shop: Dataset) -> None:
    # milk, bread, tea, screw and nail each have two buyers; bread has the most lines
    ever = names(shop, rank_by(b.popular)(ask(shop, "ann", "eve", k=6)))
    assert ever[0] == ever[1]
    assert ever[0][-1] == "drill"
    recent = names(shop, rank_by(b.popular, days=10)(ask(shop, "eve", k=6)))[0]
    assert set(recent[:2]) == {"milk", "screw"}
    assert recent[-1] == "nail"


def test_personal_frequency_decays_and_then_follows_sales(shop: Dataset) -> None:
    assert names(shop, rank_by(b.personal_frequency, half_life_days=10)(ask(shop, "ann")))[0][:2] == ["milk", "bread"]
    assert names(shop, rank_by(b.personal_frequency, half_life_days=1000)(ask(shop, "ann")))[0][:2] == ["bread", "milk"]
    assert names(shop, rank_by(b.personal_frequency, half_life_days=10)(ask(shop, "eve", k=1)))[0] == ["tea"]


def test_masked_lists_hold_nothing_that_was_bought_and_may_be_short(shop: Dataset) -> None:
    for system in SIMPLE:
        bob, dan = names(shop, system(ask(shop, "bob", "dan", k=5, mask_seen=True)))
        assert set(bob) == {"screw", "nail", "drill"}
        assert set(dan) == {"milk", "bread", "tea"}


def test_neighbours_vote_without_the_person(shop: Dataset) -> None:
    # ann's nearest is bob, cat's is dan
    lists = names(shop, rank_by(b.user_knn, days=100, neighbours=1)(ask(shop, "ann", "cat", k=1, mask_seen=True)))
    assert lists == [["tea"], ["drill"]]


def test_a_stranger_is_served(shop: Dataset) -> None:
    stranger = Dataset.construct(
        pl.DataFrame({"user_id": ["zoe"], "item_id": ["nail"], "timestamp": [NOW - DAY]}), items=shop.items, as_of=NOW
    )
    question = EvaluationQuery(
        dataset=stranger, fit_on=shop, users=np.array([0]), fit_users=np.array([-1]), k=1, mask_seen=True, slice="ALL",
        items=np.arange(shop.n_items, dtype=np.int32),
    )  # fmt: skip
    assert names(shop, rank_by(b.user_knn, days=100, neighbours=2)(question)) == [["screw"]]


def test_zero_shot_ranks_by_the_mean_of_what_was_bought(shop: Dataset) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(shop.n_items, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    question = ask(shop, "bob", "cat", k=4)
    counts = purchase_matrix(shop, question.users, None).toarray()
    lists = b.zero_shot(vectors)(question).items
    for row, line in zip(lists, (counts @ vectors) @ vectors.T, strict=True):
        np.testing.assert_allclose(line[row], np.sort(line[question.items])[::-1][:4], atol=1e-6)


def test_random_depends_on_seed_and_person_only(shop: Dataset) -> None:
    both = b.random_order(3)(ask(shop, "ann", "bob")).items
    alone = b.random_order(3)(ask(shop, "bob")).items
    assert both[1].tolist() == alone[0].tolist()
    assert b.random_order(4)(ask(shop, "ann", "bob")).items.tolist() != both.tolist()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(0, 300), st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_top_k_is_a_stable_sort_with_ties(k: int, n: int, levels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (3, n)).astype(np.float32)
    scores[rng.random((3, n)) < 0.2] = -np.inf
    best = top_k(scores, k)
    for row, line in zip(best, scores, strict=True):
        expected = [i for i in np.argsort(-line, kind="stable") if line[i] > -np.inf][:k]
        assert row[row >= 0].tolist() == expected


def test_contenders_by_name(shop: Dataset) -> None:
    made = make_systems(["popular", "personal-frequency"], settings={"personal-frequency": {"half_life_days": 10}})
    assert names(shop, made["personal-frequency"].rank(ask(shop, "ann", k=1))) == [["milk"]]
    assert "COLD" not in (made["popular"].slices or ())
    with pytest.raises(UsageError, match="needs item vectors"):
        make_systems(["zero-shot"])
    with pytest.raises(UsageError, match="unknown system 'magic'"):
        make_systems(["magic"])
