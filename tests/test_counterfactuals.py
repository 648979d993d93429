"""Counterfactuals on a model whose truth is known, and on a small shop through the recommender."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest

from recllm.base.errors import UsageError
from recllm.recommend.recommender.histories import Histories, UserHistory
from recllm.recommend.recommender.leave_one_out import Evidence, counterfactual, lacking, units_of
from recllm.recommend.recommender.recommender import Recommender
from recllm.shop.data.dataset import Dataset
from recllm.text.encoder.toy import ToyEncoder

ITEMS = pl.DataFrame(
    {
        "item_id": ["tea", "mate", "mug", "hammer", "nails", "pills"],
        "title": ["Green tea", "Mate tea", "Tea mug", "Steel hammer", "Steel nails", "Mate tea pills"],
        "category": [["drinks"], ["drinks"], ["kitchen"], ["tools"], ["tools"], ["pharmacy"]],
    }
)
LOG = pl.DataFrame(
    {
        "user_id": ["ann", "ann", "ann", "ann", "bob"],
        "item_id": ["tea", "mug", "hammer", "pills", "nails"],
        "event": ["purchase", "purchase", "view", "purchase", "purchase"],
        "timestamp": [86_400 * day for day in (1, 2, 3, 4, 5)],
    }
)
SHOP = Dataset.construct(LOG, pl.DataFrame({"user_id": ["ann"], "age": ["35-44"]}), ITEMS)
ROW = dict(zip(SHOP.items["item_id"].to_list(), range(SHOP.n_items), strict=True))
ANN = UserHistory(SHOP.events.rows(SHOP.user_rows(["ann"])), {"age": "35-44"})
UNITS = units_of(ANN, SHOP.items["item_id"])
WEIGHT = {"tea": 5, "mug": 3, "pills": 2, "hammer": -1}


def worth() -> np.ndarray:
    named = {ROW[name]: value for name, value in WEIGHT.items()}
    return np.array([named.get(u.item, 1) for u in UNITS], np.float32)


def place_by_sum(least: float) -> object:
    """First place while the history's weights sum up to `least` at least; then as much lower as is missing."""

    def place(versions: Histories) -> np.ndarray:
        named = {ROW[name]: value for name, value in WEIGHT.items()}
        totals = np.array([1.0 if "age" in b else 0.0 for b in versions.basics])
        np.add.at(totals, versions.events.user, [named[int(i)] for i in versions.events.item])
        return np.where(totals >= least, 1, 1 + (least - totals)).astype(np.int64)

    return place


def names(units: Sequence[Evidence]) -> set[str]:
    ids = SHOP.items["item_id"].to_list()
    return {u.name or ids[u.item] for u in units}


def test_each_version_lacks_the_units_of_its_set() -> None:
    tea, seen, age = (
        next(u for u in UNITS if (u.item, u.name) == key)
        for key in ((ROW["tea"], ""), (ROW["hammer"], ""), (-1, "age"))
    )
    versions = lacking(ANN, [(), (tea, age), (seen, tea)])
    left = [{int(i) for i in versions.events.item[versions.events.user == v]} for v in range(3)]
    whole = {ROW[n] for n in ("tea", "mug", "hammer", "pills")}
    assert left == [whole, whole - {ROW["tea"]}, whole - {ROW["tea"], ROW["hammer"]}]
    assert versions.basics == [{"age": "35-44"}, {}, {"age": "35-44"}]


def test_one_piece_is_enough_where_one_is() -> None:
    found = counterfactual(ANN, UNITS, worth(), place_by_sum(9), k=2)
    assert found is not None
    assert (names(found.units), found.before, found.after) == ({"tea"}, 1, 5)


def test_pieces_that_were_not_needed_are_put_back() -> None:
    def only_mug(versions: Histories) -> np.ndarray:
        has = np.zeros(len(versions.basics), bool)
        has[np.unique(versions.events.user[versions.events.item == ROW["mug"]])] = True
        return np.where(has, 2, 40).astype(np.int64)

    found = counterfactual(ANN, UNITS, worth(), only_mug, k=5)
    assert found is not None
    assert (names(found.units), found.before, found.after) == ({"mug"}, 2, 40)


def test_nothing_is_said_where_nothing_helps_or_the_item_is_not_shown() -> None:
    stays = counterfactual(ANN, UNITS, worth(), lambda versions: np.ones(len(versions.basics), np.int64), k=5)
    absent = counterfactual(ANN, UNITS, worth(), lambda versions: np.full(len(versions.basics), 9), k=5)
    assert stays is None and absent is None


@pytest.fixture(scope="module")
def recommender() -> Recommender:
    return Recommender(SHOP, ToyEncoder())


def test_the_explained_place_is_the_slate_s(recommender: Recommender) -> None:
    slate = recommender.recommend("ann", k=6)[0]
    for item in slate.items:
        person, column = recommender.person("ann"), ROW[item.item_id]
        assert recommender.explainer().positions(column, 6)(lacking(person, [()])) == [item.rank]


def test_what_the_sentence_says_is_true(recommender: Recommender) -> None:
    found = recommender.explain("ann", "mug", k=3)
    assert found.counterfactual is not None and found.rank is not None
    titles = dict(zip(SHOP.items["title"].to_list(), SHOP.items["item_id"].to_list(), strict=True))
    ann = recommender.person("ann")
    gone = [u for u in UNITS if u.item >= 0 and u.item in {ROW[titles[t]] for t in found.without if t in titles}]
    after = recommender.explainer().positions(ROW["mug"], 3)(lacking(ann, [gone]))
    assert int(after[0]) == found.after and found.after > 3
    assert str(found.after) in found.counterfactual and str(found.rank) in found.counterfactual


def test_what_is_sensitive_is_counted_and_never_named(recommender: Recommender) -> None:
    found = recommender.explain("ann", "mate", k=4)
    assert found.withheld > 0
    told = " ".join([*(c.text for c in found.contributions), *found.without, found.counterfactual or ""])
    assert "pills" not in told.casefold() and not any("pills" in c.evidence_id for c in found.contributions)


def test_contributions_are_the_measured_ones_heaviest_first(recommender: Recommender) -> None:
    found = recommender.explain("ann", "mate", k=4)
    units, measured = recommender.explainer().evidence(recommender.person("ann"), np.array([ROW["mate"]]))
    deltas = {f"{u.kind}:{SHOP.items['item_id'][u.item]}": measured[n, 0] for n, u in enumerate(units) if u.item >= 0}
    assert [c.delta for c in found.contributions] == sorted((c.delta for c in found.contributions), reverse=True)
    assert all(c.delta == pytest.approx(deltas[c.evidence_id]) for c in found.contributions if c.evidence_id in deltas)
    assert found.contributions[0].evidence_id == "B:tea"


def test_strangers_and_unknown_items_are_refused(recommender: Recommender) -> None:
    with pytest.raises(UsageError, match="nothing to explain"):
        recommender.explain("zoe", "mate")
    with pytest.raises(UsageError):
        recommender.explain("ann", "no such item")
