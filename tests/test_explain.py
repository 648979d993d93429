from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from recllm.base.policy import Policy
from recllm.learn.profiles.profile import build_profile
from recllm.recommend.recommender.histories import Histories, UserHistory
from recllm.recommend.recommender.leave_one_out import (
    ReasonWriter,
    broad_categories,
    choose,
    deltas,
    heaviest_first,
    units_of,
)
from recllm.shop.data.dataset import Dataset
from recllm.shop.data.interactions import Pairs

ITEMS = pl.DataFrame(
    {
        "item_id": ["tea", "mug", "milk", "soap"],
        "title": ["Green tea", "Blue mug", "Oat milk", "Olive soap"],
        "category": [["food", "drinks"], ["home", "kitchen"], ["food", "drinks"], ["home", "pharmacy"]],
    }
)
LOG = pl.DataFrame(
    {
        "user_id": ["ann"] * 5,
        "item_id": ["tea", "tea", "mug", "milk", "soap"],
        "event": ["purchase", "purchase", "view", "purchase", "purchase"],
        "timestamp": [0, 86_400 * 10, 86_400 * 11, 86_400 * 12, 86_400 * 13],
    }
)
DATA = Dataset.construct(LOG, pl.DataFrame({"user_id": ["ann"], "age": ["35-44"]}), ITEMS, as_of=86_400 * 20)
ROW = dict(zip(DATA.items["item_id"].to_list(), range(4), strict=True))
ANN = UserHistory(DATA.events, {"age": "35-44"})
UNITS = units_of(ANN, DATA.items["item_id"])

WORTH = {"tea": 3.0, "milk": 1.0, "mug": 0.5, "soap": 9.0}
AGE_WORTH = 0.25


def additive(versions: Histories, pairs: Pairs) -> np.ndarray:
    """A model whose truth is known: each item in the history adds its own worth, whatever is scored."""
    owner, value = versions.events.user, np.array([AGE_WORTH * ("age" in basics) for basics in versions.basics])
    for name, worth in WORTH.items():
        value += [worth * bool((versions.events.item[owner == v] == ROW[name]).any()) for v in range(len(value))]
    return np.repeat(value, np.diff(pairs.indptr)).astype(np.float32)


def test_units_are_the_lines_of_the_profile() -> None:
    lines = [(u.kind, DATA.items["item_id"][u.item] if u.item >= 0 else u.name) for u in UNITS]
    assert lines == [("B", "milk"), ("B", "soap"), ("B", "tea"), ("H", "mug"), ("I", "age")]  # rows: tea, mug, milk


def test_a_place_is_no_evidence_and_a_category_of_most_of_the_shop_no_reason() -> None:
    person = UserHistory(ANN.events, {"age": "35-44", "City": "Riga", "zip": "1010", "country": "LV"})
    assert [unit.name for unit in units_of(person, DATA.items["item_id"]) if unit.kind == "I"] == ["age"]
    buyers = np.array([{"tea": 6.0, "milk": 3.0, "mug": 1.0, "soap": 2.0}[item] for item in DATA.items["item_id"]])
    broad = broad_categories(DATA.items, buyers)
    assert broad == {("food",), ("food", "drinks")}
    column = np.array([1.0 if unit.item == ROW["milk"] else np.nan for unit in UNITS], np.float32)
    speaker = ReasonWriter(DATA.items, Policy(), broad=broad)
    (reason,) = speaker.reasons(UNITS, column, ROW["tea"], build_profile(DATA, 0), spread=10.0)
    assert "Oat milk" in reason.text and "drinks" not in reason.text


def test_deltas_are_the_known_truth() -> None:
    shown = np.array([ROW["milk"], ROW["tea"]])
    worth = deltas(ANN, UNITS, shown, np.ones((len(UNITS), 2), bool), additive)
    for unit, row in zip(UNITS, worth, strict=True):
        expected = AGE_WORTH if unit.kind == "I" else WORTH[DATA.items["item_id"][unit.item]]
        assert row == pytest.approx([expected, expected])


def test_what_was_not_tried_is_not_a_number() -> None:
    tried = np.zeros((len(UNITS), 1), bool)
    tried[0] = True
    worth = deltas(ANN, UNITS, np.array([0]), tried, additive)
    assert np.isfinite(worth[0, 0]) and np.isnan(worth[1:]).all()


def test_choice_prefers_the_item_itself_then_its_type_and_always_basics() -> None:
    vectors = np.eye(4, dtype=np.float32)
    types = np.array([0 if i in (ROW["tea"], ROW["milk"]) else 1 for i in range(4)])
    tried = choose(UNITS, np.array([ROW["tea"]]), vectors, types, tried=2)[:, 0]
    names = {u.name or DATA.items["item_id"][u.item] for u, t in zip(UNITS, tried, strict=True) if t}
    assert names == {"tea", "milk", "age"}


def speak(worth: dict[str, float], shown: str) -> list[tuple[str, str]]:
    column = np.array([worth.get(u.name or DATA.items["item_id"][u.item], np.nan) for u in UNITS], np.float32)
    speaker = ReasonWriter(DATA.items, Policy())
    told = speaker.reasons(UNITS, column, ROW[shown], build_profile(DATA, 0), spread=10.0)
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
