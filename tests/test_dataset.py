from __future__ import annotations

import contextlib
import itertools
from datetime import UTC, datetime, timedelta, tzinfo
from functools import partial

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tables import table, wrongly_refused

from recllm.base.errors import DataError, UsageError
from recllm.base.schema import Action
from recllm.shop.data.catalogue import matching
from recllm.shop.data.dataset import Dataset, Events, utc

EVENTS = pl.DataFrame(table("dataset", "events"))


class NoZone(tzinfo):
    """A zone that does not know its offset: such a time is naive too."""

    def utcoffset(self, dt: datetime | None) -> timedelta | None:
        return None


def test_events_are_grouped_by_person_and_ascend_in_time() -> None:
    data = Dataset.construct(EVENTS)
    ann = int(data.user_rows(["ann"])[0])
    e = data.events
    run = slice(e.indptr[ann], e.indptr[ann + 1])
    assert e.at[run].tolist() == [10, 30, 50]
    assert data.items["item_id"].gather(e.item[run]).to_list() == ["milk", "tea", "tea"]
    assert len(set(e.basket[run].tolist())) == 3
    assert data.as_of == 51


def test_before_excludes_the_instant_itself_and_keeps_rows() -> None:
    data = Dataset.construct(EVENTS)
    cut = data.before(30)
    assert cut.events.at.tolist() and max(cut.events.at) < 30
    assert cut.users.equals(data.users) and cut.items.equals(data.items)


def test_between_is_half_open_and_of_one_kind() -> None:
    window = Dataset.construct(EVENTS).between(20, 50)
    assert window.at.tolist() == [30]
    assert Dataset.construct(EVENTS).between(20, 50, Action.VIEW).at.tolist() == [20]


def test_rows_may_repeat_people() -> None:
    data = Dataset.construct(EVENTS)
    ann, bob = data.user_rows(["ann", "bob"])
    picked = data.events.rows(np.array([bob, ann, bob]))
    assert np.diff(picked.indptr).tolist() == [1, 3, 1]


def test_item_rows_do_not_follow_the_id_or_the_reading_order() -> None:
    ids = [f"{n:05d}" for n in range(400)]
    frame = pl.DataFrame({"user_id": "u", "item_id": ids, "timestamp": 1})
    order = Dataset.construct(frame).items["item_id"].to_list()
    ascending = sum(a < b for a, b in itertools.pairwise(order)) / 399
    assert 0.4 < ascending < 0.6
    assert Dataset.construct(frame.reverse()).items["item_id"].to_list() == order


def test_with_items_renumbers() -> None:
    data = Dataset.construct(EVENTS)
    keep = (data.items["item_id"] == "milk").to_numpy()
    cut = data.with_items(keep)
    assert cut.n_items == 1 and cut.events.item.tolist() == [0]
    assert cut.n_users == data.n_users


BAD_EVENTS: dict[str, pl.DataFrame] = {
    "missing column timestamp": EVENTS.drop("timestamp"),
    "naive": EVENTS.with_columns(timestamp=pl.lit(datetime(2025, 1, 1))),
    "teleport": EVENTS.with_columns(event=pl.lit("teleport")),
    "events.timestamp: empty in 1 rows, first in row 1": EVENTS.with_columns(timestamp=pl.Series([30, None, 10, 50])),
    "events.timestamp: empty in 4 rows": EVENTS.with_columns(timestamp=pl.lit(None, pl.Datetime("us", "UTC"))),
    "events.user_id: empty in 1 rows, first in row 2": EVENTS.with_columns(user_id=pl.Series(["a", "b", None, "c"])),
    "events.item_id: empty in 1 rows": EVENTS.with_columns(item_id=pl.Series(["tea", "tea", "milk", None])),
    "events.user_id: Int64 instead of text": EVENTS.with_columns(user_id=pl.Series([1, 2, 1, 1])),
    "events.item_id: Int64 instead of text": EVENTS.with_columns(item_id=pl.Series([1, 2, 1, 1])),
    "events.quantity: nan in row 2": EVENTS.with_columns(quantity=pl.Series([1.0, None, float("nan"), 1.0])),
    "events.quantity: inf in row 0": EVENTS.with_columns(quantity=pl.Series([float("inf"), 1.0, 1.0, 1.0])),
    r"events.quantity: 1e\+300 in row 0": EVENTS.with_columns(quantity=pl.lit(1e300)),
    "events.quantity: 'two' in row 0": EVENTS.with_columns(quantity=pl.lit("two")),
    "events.price: inf in row 0": EVENTS.with_columns(price=pl.lit(float("inf"))),
}
BAD_TABLES: dict[str, dict[str, dict[str, list[object]]]] = {
    "users.user_id: Int64 instead of text": {"users": {"user_id": [7]}},
    "users.user_id: empty in 1 rows, first in row 1": {"users": {"user_id": ["ann", None]}},
    "items.item_id: Int64 instead of text": {"items": {"item_id": [7]}},
    "items.item_id: empty in 1 rows, first in row 0": {"items": {"item_id": [None, "tea"]}},
    "item_id repeats": {"items": {"item_id": ["tea", "tea"]}},
    "items.price: 'cheap' in row 0": {"items": {"item_id": ["tea"], "price": ["cheap"]}},
    "items.price: inf in row 0": {"items": {"item_id": ["tea"], "price": [float("inf")]}},
}


def test_bad_frames_are_refused_in_words() -> None:
    def construct(tables: dict[str, dict[str, list[object]]]) -> Dataset:
        return Dataset.construct(EVENTS, **{name: pl.DataFrame(table) for name, table in tables.items()})

    cases = {words: partial(Dataset.construct, frame) for words, frame in BAD_EVENTS.items()}
    cases |= {words: partial(construct, tables) for words, tables in BAD_TABLES.items()}
    assert wrongly_refused(cases, DataError) == {}


@pytest.mark.parametrize("as_of", [datetime(2025, 1, 1), datetime(2025, 1, 1, tzinfo=NoZone())])
def test_a_naive_as_of_is_refused_wherever_the_machine_stands(as_of: datetime) -> None:
    with pytest.raises(UsageError, match="as_of: 2025-01-01 00:00:00 has no time zone"):
        Dataset.construct(EVENTS, as_of=as_of)


def test_what_is_unknown_may_be_nan_or_empty() -> None:
    events = EVENTS.with_columns(price=pl.Series([2.0, None, float("nan"), 1.0]), quantity=pl.Series([2, None, 1, 1]))
    data = Dataset.construct(events, items=pl.DataFrame({"item_id": ["tea", "milk"], "price": [float("nan"), 2.0]}))
    assert np.isnan(data.events.price).sum() == 2
    assert sorted(data.events.quantity.tolist()) == [1.0, 1.0, 1.0, 2.0]
    assert dict(data.items.select("item_id", "price").iter_rows()) == {"tea": None, "milk": 2.0}


def test_ids_may_be_categories() -> None:
    categories = EVENTS.with_columns(pl.col("user_id", "item_id").cast(pl.Categorical))
    assert Dataset.construct(categories).data_hash() == Dataset.construct(EVENTS).data_hash()


def test_events_put_together_keep_each_persons_own() -> None:
    events = Dataset.construct(EVENTS).events
    both = Events.concat([events, events.rows(np.array([1])), events.rows(np.array([], np.int64))])
    assert np.diff(both.indptr).tolist() == [*np.diff(events.indptr), np.diff(events.indptr)[1]]
    for part, rows in ((events, [0, 1]), (events.rows(np.array([1])), [2])):
        for name in ("item", "at", "action", "quantity", "price", "basket"):
            column = getattr(both.rows(np.array(rows)), name)
            np.testing.assert_array_equal(column, getattr(part, name))
            assert column.dtype == getattr(part, name).dtype
    with pytest.raises(UsageError, match="no events to put together"):
        Events.concat([])


def test_aware_times_become_epoch_seconds() -> None:
    at = datetime(2025, 3, 1, 12, tzinfo=UTC)
    data = Dataset.construct(pl.DataFrame({"user_id": ["a"], "item_id": ["x"], "timestamp": [at]}))
    assert utc(int(data.events.at[0])) == at


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.integers(0, 99)), min_size=1, max_size=40),
    st.integers(0, 100),
    st.randoms(use_true_random=False),
)
def test_reading_order_does_not_matter_and_no_cut_keeps_the_future(rows, as_of, rnd) -> None:  # type: ignore[no-untyped-def]
    def frame(r):  # type: ignore[no-untyped-def]
        return pl.DataFrame(r, schema=["user_id", "item_id", "timestamp"], orient="row")

    shuffled = rows[:]
    rnd.shuffle(shuffled)
    one, two = Dataset.construct(frame(rows)), Dataset.construct(frame(shuffled))
    assert one.data_hash() == two.data_hash()
    cut = one.before(as_of)
    assert (cut.events.at < as_of).all()
    assert len(cut.events) == sum(t < as_of for *_, t in rows)
    assert np.array_equal(cut.events.user, one.events.user[one.events.at < as_of])


ITEMS = pl.DataFrame(
    {
        "item_id": ["tea", "milk", "salt"],
        "title": ["Green tea", None, "Salz ☕"],
        "category": [["food", "tea"], None, []],
    }
)
USERS = pl.DataFrame({"user_id": ["bob", "ann", "cat"], "age": ["35-44", None, "18-24"]})


def test_the_hash_of_the_data_is_the_same_on_every_machine_and_version() -> None:
    """The figure itself: run records and run folders carry it for years."""
    assert Dataset.construct(EVENTS, USERS, ITEMS).data_hash() == "267a0ab50f476455"


def test_the_hash_knows_every_column_and_no_order() -> None:
    data = Dataset.construct(EVENTS, USERS, ITEMS)
    assert Dataset.construct(EVENTS.reverse(), USERS.reverse(), ITEMS.reverse()).data_hash() == data.data_hash()
    changed = [
        EVENTS.with_columns(basket_id=pl.lit("b1")),
        EVENTS.with_columns(price=pl.col("price") + 1),
        EVENTS.with_columns(quantity=pl.lit(2.0)),
        EVENTS.with_columns(timestamp=pl.col("timestamp") + 1),
        EVENTS.with_columns(event=pl.lit("purchase")),
        EVENTS.with_columns(item_id=pl.lit("salt")),
    ]
    others = [Dataset.construct(events, USERS, ITEMS) for events in changed]
    others += [
        Dataset.construct(EVENTS, USERS.with_columns(age=pl.lit("35-44")), ITEMS),
        Dataset.construct(EVENTS, USERS, ITEMS.with_columns(title=pl.lit("Salt"))),
        Dataset.construct(EVENTS, USERS, ITEMS.with_columns(category=pl.lit(["food, tea"]))),
    ]
    assert len({data.data_hash(), *(other.data_hash() for other in others)}) == 1 + len(others)


def test_the_hash_of_a_part_of_the_log_is_that_of_the_part_alone() -> None:
    """Baskets are numbered over the whole log; what counts is which lines they join."""
    whole = Dataset.construct(EVENTS, USERS, ITEMS).before(50)
    alone = Dataset.construct(EVENTS.filter(pl.col("timestamp") < 50), USERS, ITEMS, as_of=50)
    later = EVENTS.with_columns(basket_id="z" + pl.col("basket_id"))
    assert whole.data_hash() == alone.data_hash() == Dataset.construct(later, USERS, ITEMS).before(50).data_hash()


def test_lines_of_one_moment_may_be_read_in_any_order() -> None:
    lines = pl.DataFrame(
        {"user_id": "ann", "item_id": "tea", "timestamp": 1, "quantity": [1.0, 2.0], "price": [3.0, 2.0],
         "basket_id": ["b", "a"]}
    )  # fmt: skip
    assert Dataset.construct(lines).data_hash() == Dataset.construct(lines.reverse()).data_hash()


CATALOGUE = pl.DataFrame(table("dataset", "catalogue"))

PIECES = ["price", "title", "(", ")", "<", "=", "'a'", "3", "AND", "OR", "NOT", "LIKE", "IN", ",", "IS", "NULL"]


@pytest.mark.parametrize(("where", "expected"), table("dataset", "a condition means what SQL means"))
def test_a_condition_means_what_sql_means(where: str, expected: str) -> None:
    """Of an unknown price nothing is said, and patterns are those of SQL."""
    assert "".join(CATALOGUE.filter(pl.Series(matching(CATALOGUE, where)))["item_id"]) == expected


@pytest.mark.parametrize("where", [*table("dataset", "anything else is refused"), "(" * 900 + "price < 5" + ")" * 900])
def test_anything_else_is_refused(where: str) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        matching(CATALOGUE, where)


@given(st.text(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join))
def test_whatever_is_sent_is_a_condition_or_refused(where: str) -> None:
    with contextlib.suppress(UsageError):
        assert matching(CATALOGUE, where).shape == (3,)
