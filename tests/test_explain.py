from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
from tables import table

from recllm.base.errors import UsageError
from recllm.base.policy import Policy
from recllm.learn.profiles.profile import build_profile
from recllm.recommend.recommender.histories import Histories, UserHistory
from recllm.recommend.recommender.leave_one_out import (
    Evidence,
    ReasonWriter,
    broad_categories,
    choose,
    counterfactual,
    deltas,
    heaviest_first,
    lacking,
    units_of,
)
from recllm.recommend.recommender.recommender import Recommender
from recllm.shop.data.dataset import Dataset
from recllm.shop.data.interactions import Pairs
from recllm.text.encoder.toy import ToyEncoder

ITEMS = pl.DataFrame(table("explain", "items"))
LOG = pl.DataFrame(table("explain", "log"))
DATA = Dataset.construct(LOG, pl.DataFrame({"user_id": ["ann"], "age": ["35-44"]}), ITEMS, as_of=86_400 * 20)
ROW = dict(zip(DATA.items["item_id"].to_list(), range(4), strict=True))
ANN = UserHistory(DATA.events, {"age": "35-44"})
ANN_UNITS = units_of(ANN, DATA.items["item_id"])

WORTH = {"tea": 3.0, "milk": 1.0, "mug": 0.5, "soap": 9.0}
AGE_WORTH = 0.25


def additive(versions: Histories, pairs: Pairs) -> np.ndarray:
    """A model whose truth is known: each item in the history adds its own worth, whatever is scored."""
    owner, value = versions.events.user, np.array([AGE_WORTH * ("age" in basics) for basics in versions.basics])
    for name, worth in WORTH.items():
        value += [worth * bool((versions.events.item[owner == v] == ROW[name]).any()) for v in range(len(value))]
    return np.repeat(value, np.diff(pairs.indptr)).astype(np.float32)


def test_units_are_the_lines_of_the_profile() -> None:
    lines = [(u.kind, DATA.items["item_id"][u.item] if u.item >= 0 else u.name) for u in ANN_UNITS]
    assert lines == [("B", "milk"), ("B", "soap"), ("B", "tea"), ("H", "mug"), ("I", "age")]  # rows: tea, mug, milk


def test_a_place_is_no_evidence_and_a_category_of_most_of_the_shop_no_reason() -> None:
    person = UserHistory(ANN.events, {"age": "35-44", "City": "Riga", "zip": "1010", "country": "LV"})
    assert [unit.name for unit in units_of(person, DATA.items["item_id"]) if unit.kind == "I"] == ["age"]
    buyers = np.array([{"tea": 6.0, "milk": 3.0, "mug": 1.0, "soap": 2.0}[item] for item in DATA.items["item_id"]])
    broad = broad_categories(DATA.items, buyers)
    assert broad == {("food",), ("food", "drinks")}
    column = np.array([1.0 if unit.item == ROW["milk"] else np.nan for unit in ANN_UNITS], np.float32)
    speaker = ReasonWriter(DATA.items, Policy(), broad=broad)
    (reason,) = speaker.reasons(ANN_UNITS, column, ROW["tea"], build_profile(DATA, 0), spread=10.0)
    assert "Oat milk" in reason.text and "drinks" not in reason.text


def test_deltas_are_the_known_truth() -> None:
    shown = np.array([ROW["milk"], ROW["tea"]])
    worth = deltas(ANN, ANN_UNITS, shown, np.ones((len(ANN_UNITS), 2), bool), additive)
    for unit, row in zip(ANN_UNITS, worth, strict=True):
        expected = AGE_WORTH if unit.kind == "I" else WORTH[DATA.items["item_id"][unit.item]]
        assert row == pytest.approx([expected, expected])


def test_what_was_not_tried_is_not_a_number() -> None:
    tried = np.zeros((len(ANN_UNITS), 1), bool)
    tried[0] = True
    worth = deltas(ANN, ANN_UNITS, np.array([0]), tried, additive)
    assert np.isfinite(worth[0, 0]) and np.isnan(worth[1:]).all()


def test_choice_prefers_the_item_itself_then_its_type_and_always_basics() -> None:
    vectors = np.eye(4, dtype=np.float32)
    types = np.array([0 if i in (ROW["tea"], ROW["milk"]) else 1 for i in range(4)])
    tried = choose(ANN_UNITS, np.array([ROW["tea"]]), vectors, types, tried=2)[:, 0]
    names = {u.name or DATA.items["item_id"][u.item] for u, t in zip(ANN_UNITS, tried, strict=True) if t}
    assert names == {"tea", "milk", "age"}


def speak(worth: dict[str, float], shown: str) -> list[tuple[str, str]]:
    column = np.array([worth.get(u.name or DATA.items["item_id"][u.item], np.nan) for u in ANN_UNITS], np.float32)
    speaker = ReasonWriter(DATA.items, Policy())
    told = speaker.reasons(ANN_UNITS, column, ROW[shown], build_profile(DATA, 0), spread=10.0)
    return [(r.evidence_id, r.text) for r in told]


def test_reasons_are_ranked_and_name_the_evidence() -> None:
    told = speak({"tea": 3.0, "milk": 1.0, "mug": 0.2}, "tea")
    assert [t[0] for t in told] == ["B:tea", "B:milk"]
    assert "Green tea" in told[0][1] and "10 days" in told[0][1]
    assert "Oat milk" in told[1][1] and "drinks" in told[1][1]


def test_equal_deltas_are_in_the_order_of_their_units_whatever_rounding_makes_of_them() -> None:
    almost = 1 + np.array([0, np.nan, -2e-5, 2, 2e-5, -3e-4], np.float32)
    assert heaviest_first(almost).tolist() == [3, 0, 2, 4, 5, 1] and not len(heaviest_first(almost[:0]))
    assert [t[0] for t in speak({"tea": 3.00001, "milk": 3.0}, "tea")] == ["B:milk", "B:tea"]


def test_nothing_clear_is_said_so() -> None:
    assert [t[0] for t in speak({"tea": 0.4, "milk": -5.0}, "mug")] == ["general"]


def test_only_sensitive_evidence_is_said_to_be_withheld() -> None:
    ((kind, text),) = speak({"soap": 9.0, "tea": 0.1}, "mug")
    assert kind == "withheld" and "soap" not in text.lower()


def test_sensitive_evidence_is_never_named() -> None:
    told = speak({"soap": 9.0, "tea": 2.0}, "mug")
    assert [t[0] for t in told] == ["B:tea"]
    assert not any("soap" in t[1].lower() or "pharmacy" in t[1].lower() for t in told)


SHOP_ITEMS = pl.DataFrame(
    {
        "item_id": ["tea", "mate", "mug", "hammer", "nails", "pills"],
        "title": ["Green tea", "Mate tea", "Tea mug", "Steel hammer", "Steel nails", "Mate tea pills"],
        "category": [["drinks"], ["drinks"], ["kitchen"], ["tools"], ["tools"], ["pharmacy"]],
    }
)
SHOP_LOG = pl.DataFrame(
    {
        "user_id": ["ann", "ann", "ann", "ann", "bob"],
        "item_id": ["tea", "mug", "hammer", "pills", "nails"],
        "event": ["purchase", "purchase", "view", "purchase", "purchase"],
        "timestamp": [86_400 * day for day in (1, 2, 3, 4, 5)],
    }
)
SHOP = Dataset.construct(SHOP_LOG, pl.DataFrame({"user_id": ["ann"], "age": ["35-44"]}), SHOP_ITEMS)
SHOP_ROW = dict(zip(SHOP.items["item_id"].to_list(), range(SHOP.n_items), strict=True))
SHOPPER = UserHistory(SHOP.events.rows(SHOP.user_rows(["ann"])), {"age": "35-44"})
UNITS = units_of(SHOPPER, SHOP.items["item_id"])
WEIGHT = {"tea": 5, "mug": 3, "pills": 2, "hammer": -1}


def worth() -> np.ndarray:
    named = {SHOP_ROW[name]: value for name, value in WEIGHT.items()}
    return np.array([named.get(u.item, 1) for u in UNITS], np.float32)


def place_by_sum(least: float) -> object:
    """First place while the history's weights sum up to `least` at least; then as much lower as is missing."""

    def place(versions: Histories) -> np.ndarray:
        named = {SHOP_ROW[name]: value for name, value in WEIGHT.items()}
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
        for key in ((SHOP_ROW["tea"], ""), (SHOP_ROW["hammer"], ""), (-1, "age"))
    )
    versions = lacking(SHOPPER, [(), (tea, age), (seen, tea)])
    left = [{int(i) for i in versions.events.item[versions.events.user == v]} for v in range(3)]
    whole = {SHOP_ROW[n] for n in ("tea", "mug", "hammer", "pills")}
    assert left == [whole, whole - {SHOP_ROW["tea"]}, whole - {SHOP_ROW["tea"], SHOP_ROW["hammer"]}]
    assert versions.basics == [{"age": "35-44"}, {}, {"age": "35-44"}]


def test_one_piece_is_enough_where_one_is() -> None:
    found = counterfactual(SHOPPER, UNITS, worth(), place_by_sum(9), k=2)
    assert found is not None
    assert (names(found.units), found.before, found.after) == ({"tea"}, 1, 5)


def test_pieces_that_were_not_needed_are_put_back() -> None:
    def only_mug(versions: Histories) -> np.ndarray:
        has = np.zeros(len(versions.basics), bool)
        has[np.unique(versions.events.user[versions.events.item == SHOP_ROW["mug"]])] = True
        return np.where(has, 2, 40).astype(np.int64)

    found = counterfactual(SHOPPER, UNITS, worth(), only_mug, k=5)
    assert found is not None
    assert (names(found.units), found.before, found.after) == ({"mug"}, 2, 40)


def test_nothing_is_said_where_nothing_helps_or_the_item_is_not_shown() -> None:
    stays = counterfactual(SHOPPER, UNITS, worth(), lambda versions: np.ones(len(versions.basics), np.int64), k=5)
    absent = counterfactual(SHOPPER, UNITS, worth(), lambda versions: np.full(len(versions.basics), 9), k=5)
    assert stays is None and absent is None


@pytest.fixture(scope="module")
def recommender() -> Recommender:
    return Recommender(SHOP, ToyEncoder())


def test_the_explained_place_is_the_slate_s(recommender: Recommender) -> None:
    slate = recommender.recommend("ann", k=6)[0]
    for item in slate.items:
        person, column = recommender.person("ann"), SHOP_ROW[item.item_id]
        assert recommender.explainer().positions(column, 6)(lacking(person, [()])) == [item.rank]


def test_what_the_sentence_says_is_true(recommender: Recommender) -> None:
    found = recommender.explain("ann", "mug", k=3)
    assert found.counterfactual is not None and found.rank is not None
    titles = dict(zip(SHOP.items["title"].to_list(), SHOP.items["item_id"].to_list(), strict=True))
    ann = recommender.person("ann")
    gone = [u for u in UNITS if u.item >= 0 and u.item in {SHOP_ROW[titles[t]] for t in found.without if t in titles}]
    after = recommender.explainer().positions(SHOP_ROW["mug"], 3)(lacking(ann, [gone]))
    assert int(after[0]) == found.after and found.after > 3
    assert str(found.after) in found.counterfactual and str(found.rank) in found.counterfactual


def test_what_is_sensitive_is_counted_and_never_named(recommender: Recommender) -> None:
    found = recommender.explain("ann", "mate", k=4)
    assert found.withheld > 0
    told = " ".join([*(c.text for c in found.contributions), *found.without, found.counterfactual or ""])
    assert "pills" not in told.casefold() and not any("pills" in c.evidence_id for c in found.contributions)


def test_contributions_are_the_measured_ones_heaviest_first(recommender: Recommender) -> None:
    found = recommender.explain("ann", "mate", k=4)
    units, measured = recommender.explainer().evidence(recommender.person("ann"), np.array([SHOP_ROW["mate"]]))
    deltas = {f"{u.kind}:{SHOP.items['item_id'][u.item]}": measured[n, 0] for n, u in enumerate(units) if u.item >= 0}
    assert [c.delta for c in found.contributions] == sorted((c.delta for c in found.contributions), reverse=True)
    assert all(c.delta == pytest.approx(deltas[c.evidence_id]) for c in found.contributions if c.evidence_id in deltas)
    assert found.contributions[0].evidence_id == "B:tea"


def test_strangers_and_unknown_items_are_refused(recommender: Recommender) -> None:
    with pytest.raises(UsageError, match="nothing to explain"):
        recommender.explain("zoe", "mate")
    with pytest.raises(UsageError):
        recommender.explain("ann", "no such item")
