"""The store: one contract, kept by each database that a store may lie in."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, inspect, text
from store_view import campaign_message, dump, events, items, put, view
from tables import table as cases_of
from waiting import at_once

from recllm.base.errors import ConflictError, DataError, StoreError, UnknownIdError, UsageError
from recllm.base.messages import MessageEvent, MessageEventKind
from recllm.base.schema import Table
from recllm.shop.store import postgres, readers, tables
from recllm.shop.store.connections import writing
from recllm.shop.store.database import Store
from recllm.shop.store.tables import SCHEMA_VERSION, SHOWN_FOR

with_copies = pytest.mark.parametrize("url", ["sqlite", "postgresql", "postgresql-copy"], indirect=True)
"""Also on a PostgreSQL to which the smallest frame goes the way of the large ones."""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.sqlite'}"
    if request.param == "postgresql-copy":
        monkeypatch.setattr(postgres, "MIN_COPY_ROWS", 1)
    return request.getfixturevalue("postgres_server").url()


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with closing(Store.open(url, create=True)) as opened:
        yield opened


def users(*ids: str, basics: str = "{}") -> pl.DataFrame:
    return pl.DataFrame({"user_id": ids, "basics": [basics] * len(ids)})


@with_copies
def test_events_come_back_as_they_went_in(store: Store) -> None:
    frame = events(
        [3, 1],
        tz_offset_minutes=pl.Series([480, None], dtype=pl.Int16),
        price=[1.25, None],
        basket_id=["b1", None],
        value=[None, 4.5],
        request_id=["r", None],
        position=pl.Series([2, None], dtype=pl.Int32),
        model_version=["m", None],
        propensity=[0.25, None],
        experiment=["e", None],
        variant=["v", None],
        campaign_id=["c", None],
        template=["t", None],
    ).with_columns(event=pl.Series(["shown", "rating"]), quantity=pl.Series([2.0, 0.5]))
    assert put(store, "events", frame).accepted == 2
    back = view(store).events().sort("timestamp")
    first, third = (datetime(1970, 1, 1, 0, 0, second, tzinfo=UTC) for second in (1, 3))
    assert back.rows() == [
        ("u1", "i1", "rating", first, 0.5, None, None, 4.5, *[None] * 8),
        ("u1", "i3", "shown", third, 2.0, 1.25, "b1", None, "r", 2, "m", 0.25, "e", "v", "c", "t"),
    ]
    assert back.schema["timestamp"] == pl.Datetime("us", "UTC")
    assert view(store).events(("price",)).columns == ["user_id", "item_id", "event", "timestamp", "price"]


def test_an_empty_store_reads_as_empty_frames_with_their_types(store: Store) -> None:
    assert view(store).events().schema["timestamp"] == pl.Datetime("us", "UTC")
    assert view(store).items().schema["category"] == pl.List(pl.String)
    assert set(view(store).counts().values()) == {0}


def test_the_last_event_is_told_without_reading_the_others(store: Store) -> None:
    assert view(store).last_event() is None
    put(store, "events", events([3, 1]))
    assert view(store).last_event() == datetime.fromtimestamp(3, UTC)
    put(store, "events", events([2]), "later")
    assert put(store, "events", events([1], [1], at=[9_000_000]), "conflict").conflicts == [0]
    put(store, "items", items(("i1", "Tea")), "items")
    assert view(store).last_event() == datetime.fromtimestamp(3, UTC)
    again = events([1, 3, 4, 5, 6], at=[1_000_000, 3_000_000, 7_000_000, 5_000_000, 6_000_000])
    assert put(store, "events", again, "some-new").duplicates == 2
    assert view(store).last_event() == datetime.fromtimestamp(7, UTC)


def test_what_pages_ask_is_told_without_reading_everything(store: Store) -> None:
    reader = view(store)
    assert (reader.first_shown(), reader.n_available_items(), reader.brands()) == (None, 0, [])
    put(store, "events", events([5, 2, 3]).with_columns(event=pl.Series(["shown", "purchase", "shown"])))
    assert reader.first_shown() == datetime.fromtimestamp(3, UTC)
    assert reader.n_available_items() == 0, "what only events tell of is not for sale"
    rows = items(("i2", "Tea"), ("i3", "Mug"), ("i9", "Pot")).with_columns(
        brand=pl.Series(["Zen", None, "Acme"]), available=pl.Series([True, True, False])
    )
    put(store, "items", rows, "items")
    assert reader.n_available_items() == 2 and reader.brands() == ["Acme", "Zen"]


def test_the_events_of_some_people(store: Store) -> None:
    for n in range(3):
        put(store, "events", events([30 - n, 10 + n], user=f"u{n}"), f"l{n}")
    with store.read() as reader:
        some = reader.events(("quantity",), user_ids=["u2", "u0", "nobody", "u2"])
        assert some.equals(reader.events(("quantity",)).filter(pl.col("user_id") != "u1"))
        since = datetime.fromtimestamp(11, UTC)
        assert sorted(reader.events((), since=since)["item_id"]) == ["i11", "i12", "i28", "i29", "i30"]
        assert reader.events((), user_ids=[]).height == reader.events((), user_ids=["nobody"]).height == 0
        assert reader.users(["u2", "nobody", "u0"])["user_id"].to_list() == ["u0", "u2"]


def test_a_conflicting_row_makes_no_person_and_no_product(store: Store) -> None:
    put(store, "events", events([1], [10], user="u1"), "a")
    before = dump(store)
    with store.load("events", load_id="b", source="test") as load:
        assert load.write(events([1], [11], user="ghost", item="ghost item")).conflicts == [0]
    assert dump(store) == before
    with store.load("events", load_id="c", source="test") as load:
        assert load.write(events([1], [11], user="ghost", item="ghost item")).conflicts == [0]
        assert load.write(events([2], [20], user="ghost", item="ghost item")).accepted == 1
    assert view(store).events(()).select("user_id", "item_id").rows() == [("u1", "i1"), ("ghost", "ghost item")]


@with_copies
def test_the_same_load_twice_changes_nothing(store: Store) -> None:
    frames = {
        "users": pl.DataFrame({"user_id": ["u1", "u2"], "basics": ['{"age":"3"}', "{}"]}),
        "items": items(("i1", "Tea"), ("i2", "Cup")),
        "events": events([1, 2, 3], [1, 2, 3]),
        "consent": pl.DataFrame({"user_id": ["u1"], "purpose": ["email"], "granted": [True], "at": [5]}),
    }
    for table, frame in frames.items():
        assert put(store, table, frame, f"{table}-1").accepted == frame.height
    before = dump(store)
    for table, frame in frames.items():
        written = put(store, table, frame, f"{table}-2")
        assert (written.accepted, written.duplicates, written.conflicts) == (0, frame.height, [])
    assert dump(store) == before


@with_copies
def test_people_and_products_are_replaced_by_later_rows(store: Store) -> None:
    """Also by those of one frame, in its order."""
    written = put(store, "items", items(("i1", "Tea"), ("i1", "Tea"), ("i2", "Cup"), ("i1", "Green tea")), "a")
    assert (written.accepted, written.duplicates) == (3, 1)
    assert view(store).items()["title"].to_list() == ["Green tea", "Cup"]
    rows = [("i1", "Tea"), ("i3", "Pot"), ("i1", "Mate"), ("i1", "Mate"), ("i2", "Mug"), ("i1", "Tea"), ("i3", "Pot")]
    written = put(store, "items", items(*rows), "b")
    assert (written.accepted, written.duplicates) == (5, 2)
    assert view(store).items()["title"].to_list() == ["Tea", "Mug", "Pot"]
    for load_id, basics in (("c", '{"a":"1"}'), ("d", '{"a":"2"}')):
        assert put(store, "users", users("u1", basics=basics), load_id).accepted == 1
        assert view(store).users().rows() == [("u1", basics)]


@with_copies
def test_item_details_survive(store: Store) -> None:
    until = pl.Series([1_700_000_000_000_000], dtype=pl.Int64)
    frame = pl.DataFrame(cases_of("store", "details of an item")).with_columns(available_until=until, stock_stated=True)
    put(store, "items", frame)
    expected = ("i1", "跑鞋", ["Sport", "Shoes"], "NA", "light", "1299.90", "CNY", False, '{"size":"42"}', False)
    expected = (*expected, datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC), True)
    assert view(store).items().rows() == [expected]


@with_copies
@pytest.mark.parametrize("n_rows", [1, 300])
def test_odd_texts_survive(store: Store, n_rows: int) -> None:
    """Whatever marks a column, a line or an empty field on the way to some database."""
    odd = ["\\N", "\\.", "a\tb", "c\nd", "e\r\nf", "\\", "\\x00", "'", '"', "%s", "%(title)s", "{}", "🎁 跑鞋", ""]
    odd += [" ", "NULL"]
    rows = [(f"{text}#{n}", text) for n in range(n_rows) for text in odd]
    assert put(store, "items", items(*rows)).accepted == len(rows)
    assert sorted(view(store).items().select("item_id", "title").rows()) == sorted(rows)
    frame = events(list(range(len(rows)))).with_columns(
        item_id=pl.Series([item_id for item_id, _ in rows]), basket_id=pl.Series([title for _, title in rows])
    )
    assert put(store, "events", frame, "events").accepted == len(rows)
    assert sorted(view(store).events(("basket_id",)).select("item_id", "basket_id").rows()) == sorted(rows)


def test_a_dry_run_counts_and_keeps_nothing(store: Store) -> None:
    put(store, "events", events([1, 2]), "a")
    before = dump(store)
    with store.load("events", load_id="b", source="test", dry_run=True) as load:
        assert load.write(events(list(range(300)))).accepted == 298
    assert dump(store) == before
    assert [load.load_id for load in view(store).loads()] == ["a"]
    assert put(store, "events", events([3]), "b").accepted == 1


def test_unknown_items_wait_for_the_catalogue(store: Store) -> None:
    reader = view(store)
    put(store, "events", events([1, 2]), "a")
    assert reader.items().select("item_id", "title", "pending").rows() == [("i1", None, True), ("i2", None, True)]
    assert reader.counts()["pending_items"] == 2
    put(store, "items", items(("i1", "Tea")), "b")
    assert reader.items().select("item_id", "title", "pending").rows() == [("i1", "Tea", False), ("i2", None, True)]
    put(store, "events", events([3], item="i1"), "c")
    assert reader.items()["title"].to_list() == ["Tea", None], "an event must not blank a known item"
    assert reader.items(["i2", "nothing", "i1", "i2"]).equals(reader.items())
    assert reader.items(["i2"])["item_id"].to_list() == ["i2"]


def test_consent_keeps_every_decision_and_orders_them(store: Store) -> None:
    columns = {"user_id": ["u1"] * 3, "purpose": ["email"] * 3, "granted": [True, False, True], "at": [5, 5, 4]}
    assert put(store, "consent", pl.DataFrame(columns)).accepted == 3
    assert view(store).consent()["granted"].to_list() == [True, True, False]
    assert view(store).consent("email", ["u1"])["granted"].to_list() == [True, True, False]
    assert view(store).consent("sms", ["u1"]).height == view(store).consent("email", ["u2"]).height == 0


def test_a_refusal_ends_grants_ahead_of_the_clock_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an older version wrote them, or before the clock was set back."""
    clock = 2_000_000_000_000_000
    monkeypatch.setattr("recllm.shop.store.tables.now", lambda: clock)

    def decide(*rows: tuple[str, str, bool, int | None]) -> None:
        columns = {"user_id": pl.String, "purpose": pl.String, "granted": pl.Boolean, "at": pl.Int64}
        put(store, "consent", pl.DataFrame(rows, columns, orient="row"), os.urandom(4).hex())

    ahead = [("u1", "email", True, clock - 1), ("u1", "email", True, clock - 2), ("u1", "sms", True, clock - 1)]
    decide(*ahead, ("u2", "email", True, clock - 1))
    clock -= 1_000
    decide(("u1", "email", False, None), ("u2", "sms", False, clock + 5_000), ("u3", "email", False, None))
    stored = view(store).consent()
    last = {(user, purpose): (granted, at) for user, purpose, granted, at in stored.iter_rows()}
    assert stored["granted"].sum() == 4
    now = datetime.fromtimestamp(clock / 1_000_000, UTC)
    assert last["u1", "email"] == last["u2", "sms"] == last["u3", "email"] == (False, now)
    assert last["u1", "sms"][0] and last["u2", "email"][0]


def test_a_load_is_recorded_with_its_counts(store: Store) -> None:
    with store.load("events", load_id="jan", source="jan.csv", sha256="ab" * 32) as load:
        load.write(events([1, 1]))
        load.write(events([2]))
        load.counts({"read": 4, "quarantined": 1})
    (record,) = view(store).loads()
    assert (record.load_id, record.table_name, record.source, record.sha256) == ("jan", "events", "jan.csv", "ab" * 32)
    counts = {"accepted": 2, "duplicates": 1, "conflicts": 0, "read": 4, "quarantined": 1}
    assert json.loads(record.counts) == counts
    assert abs(datetime.now(UTC).timestamp() - record.committed_at / 1_000_000) < 60


def test_an_exception_leaves_nothing_of_a_load(store: Store) -> None:
    put(store, "events", events([1]), "a")
    before = dump(store)
    with pytest.raises(ZeroDivisionError), store.load("events", load_id="b", source="test") as load:
        _ = load.write(events([2, 3])).accepted / 0
    assert dump(store) == before
    assert [r.load_id for r in view(store).loads()] == ["a"]


def test_load_ids_are_safe_and_used_once(store: Store) -> None:
    put(store, "events", events([1]), "a")
    with pytest.raises(StoreError, match="taken"):
        put(store, "events", events([2]), "a")
    for bad in ("../x", "", "a b", ".", "..", "x" * 65, "a/b", "a\n"):
        with pytest.raises(UsageError, match="safe name"):
            put(store, "events", events([2]), bad)
    assert view(store).counts()["events"] == 1


def test_a_frame_that_breaks_the_contract_is_refused(store: Store) -> None:
    good = events([1])
    for frame, message in [
        (good.drop("at"), "missing column at"),
        (good.with_columns(at=pl.lit("2020")), r"events.at: String instead of Int64"),
        (good.with_columns(user_id=pl.lit(None, dtype=pl.String)), "events.user_id: empty in 1 rows"),
        (good.with_columns(event=pl.lit("bought")), "unknown action 'bought'"),
    ]:
        with pytest.raises(DataError, match=message):
            put(store, "events", frame)
    assert set(view(store).counts().values()) == {0}


def test_many_ids_take_several_lookups(store: Store) -> None:
    """More people and items than one IN list holds, half of them known already."""
    n = 2_500
    frame = events(list(range(n))).with_columns(user_id=pl.Series([f"u{k}" for k in range(n)]))
    put(store, "events", frame[: n // 2], "a")
    written = put(store, "events", frame, "b")
    assert (written.accepted, written.duplicates) == (n - n // 2, n // 2)
    pairs = view(store).events(()).select("user_id", "item_id")
    assert pairs.sort("item_id").equals(frame.select("user_id", "item_id").sort("item_id"))


batches = st.lists(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2)), max_size=8), min_size=1, max_size=5)


@with_copies
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=batches, data=st.data())
def test_accounts_match_a_dictionary(
    store: Store, batches: list[list[tuple[int, int]]], data: st.DataObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """accepted, duplicates and conflicts of any sequence of frames, in one load or many, equal a simple model's, and
    no conflict overwrites what is there; also where a load forgets the keys that it looked up."""
    monkeypatch.setattr("recllm.shop.store.statements._RING_LIMIT", data.draw(st.sampled_from([3, 10_000])))
    prefix = view(store).counts()["loads"] + 1  # a key space of its own for each example
    known: dict[int, int] = {}
    one_load = data.draw(st.booleans())

    def check(write, batch: list[tuple[int, int]]) -> None:
        conflicts, accepted = [], 0
        for row, (key, payload) in enumerate(batch):
            accepted += key not in known
            if known.setdefault(key, payload) != payload:
                conflicts.append(row)
        written = write(events([prefix * 100 + k for k, _ in batch], [p for _, p in batch]))
        assert (written.accepted, written.conflicts) == (accepted, conflicts)
        assert written.accepted + written.duplicates + len(written.conflicts) == len(batch)

    if one_load:
        with store.load("events", load_id=f"l{prefix}", source="test") as load:
            for batch in batches:
                check(load.write, batch)
    else:
        for n, batch in enumerate(batches):
            check(lambda frame, n=n: put(store, "events", frame, f"l{prefix}-{n}"), batch)
    for batch in batches:  # replay: nothing new
        assert put(store, "events", events([prefix * 100 + k for k, _ in batch]), os.urandom(8).hex()).accepted == 0
    with store._engine.connect() as connection:
        rows = connection.execute(text("SELECT event_key, payload_hash FROM events")).all()
    stored = {int.from_bytes(key, "big") - prefix * 100: payload for key, payload in rows}
    assert {key: payload for key, payload in stored.items() if 0 <= key < 100} == known


def moment(second: float) -> datetime:
    return datetime.fromtimestamp(1_700_000_000 + second, UTC)


def told(event_id: str, number: int, kind: str, second: float = 1) -> MessageEvent:
    return MessageEvent(event_id=event_id, message_id=f"m{number}", kind=MessageEventKind(kind), at=moment(second))


def test_messages_come_back_as_they_went_in(store: Store) -> None:
    put(store, "events", events([1]))
    sent = [campaign_message(1), campaign_message(2, item_id=None), campaign_message(3, user="nobody")]
    store.add_messages(sent)
    store.add_messages([])
    later = replace(sent[0], exported_at=moment(99), channel="push")
    store.add_messages([later])  # as it left first
    assert store.messages(["m1", "m2", "m3", "m4", "m1"]) == {"m1": sent[0], "m2": sent[1]}
    assert store.messages([]) == {}
    many = [campaign_message(number) for number in range(10, 1_500)]
    store.add_messages(many)
    assert len(store.messages(m.message_id for m in many)) == len(many)


def test_what_became_of_messages_counts_once_per_provider_and_id(store: Store) -> None:
    put(store, "events", events([1]))
    store.add_messages([campaign_message(1), campaign_message(2, channel="push")])
    batch = [told("a", 1, "delivered"), told("b", 2, "opened"), told("c", 9, "opened"), told("a", 1, "bounced")]
    assert store.add_message_events("mail", batch, moment(5)) == 2
    assert store.add_message_events("mail", batch, moment(6)) == 0
    assert store.add_message_events("grid", batch[:1], moment(6)) == 1
    assert store.known_message_events("mail", ["a", "b", "c"]) == {"a", "b"}
    assert store.known_message_events("grid", ["a", "b"]) == {"a"} and store.known_message_events("x", ["a"]) == set()
    assert store.campaign_message_events("spring") == {
        ("u1", "email", MessageEventKind.DELIVERED),
        ("u1", "push", MessageEventKind.OPENED),
    }
    assert store.campaign_message_events("autumn") == set()


KINDS = st.sampled_from(["delivered", "opened", "clicked", "bounced", "blocked", "deferred", "unsubscribed"])


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(reports=st.lists(st.tuples(KINDS, st.integers(0, 5), st.booleans()), max_size=12), data=st.data())
def test_an_address_has_trouble_after_its_last_bounce(store: Store, reports: list[Any], data: st.DataObject) -> None:
    """Whatever the order in which it is told; of one instant the bounce counts."""
    user = uuid.uuid4().hex
    put(store, "users", users(user), user)
    store.add_messages([campaign_message(n, user, message_id=name) for n, name in enumerate((user, f"{user}2"), 1)])
    batch = [
        replace(told(f"{user}{n}", 1, kind, second), message_id=user if first else f"{user}2")
        for n, (kind, second, first) in enumerate(reports)
    ]
    for report in data.draw(st.permutations(batch)):
        assert store.add_message_events("mail", [report], moment(9)) == 1
    bounces = [report.at for report in batch if report.kind == "bounced"]
    arrivals = [report.at for report in batch if report.kind in ("delivered", "opened", "clicked")]
    trouble = bool(bounces) and (not arrivals or max(bounces) >= max(arrivals))
    assert store.bounced_at("email").get(user) == (max(bounces) if trouble else None)
    assert user not in store.bounced_at("push")


def test_nothing_of_an_erased_persons_messages_stays(store: Store) -> None:
    put(store, "users", users("u1", "u2"))
    store.add_messages([campaign_message(1), campaign_message(2, user="u2"), campaign_message(3)])
    reports = [told("a", 1, "bounced"), told("b", 2, "opened"), told("c", 3, "opened", 2), told("d", 3, "delivered")]
    assert store.add_message_events("mail", reports, moment(5)) == 4
    sent = store.messages_of("u1")
    assert [(m.message_id, [e.event_id for e in seen]) for m, seen in sent] == [("m1", ["a"]), ("m3", ["d", "c"])]
    with store.load("consent", load_id="gone", source="erasure") as load:
        rows = load.erase_users(["u1"])
    assert (rows["messages"], rows["message_events"], rows["users"]) == (2, 3, 1)
    assert store.messages_of("u1") == [] and set(store.messages(["m1", "m2", "m3"])) == {"m2"}
    assert store.known_message_events("mail", "abcd") == {"b"} and store.bounced_at("email") == {}
    put(store, "users", users("u3"), "new")  # keys may be given again
    assert store.messages_of("u3") == []


def states(store: Store) -> list[tuple[str, str | None, bool]]:
    return list(view(store).item_states().select("item_id", "price", "available").iter_rows())


def test_a_state_is_kept_where_a_price_or_the_stock_changed(store: Store) -> None:
    def load(name: str, **columns: list) -> None:
        frame = items(("i1", "Tea"), ("i2", "Mug"))
        put(store, "items", frame.with_columns(**{n: pl.Series(v) for n, v in columns.items()}), name)

    load("a", price=["5", "8"])
    load("b", price=["5", "8"], brand=["Leaf", None])  # neither
    load("c", price=["4", "8"])
    load("d", price=["4", "8"], available=[True, False])
    load("e", price=["5", "8"], available=[True, True])
    expected = [("i1", "5", True), ("i2", "8", True), ("i1", "4", True)]
    assert states(store) == [*expected, ("i2", "8", False), *expected[:2]]
    at = view(store).item_states()["at"]
    assert at.is_sorted() and (datetime.now(UTC) - at[0]).total_seconds() < 600


def test_what_only_events_know_has_no_state(store: Store) -> None:
    put(store, "events", events([5, 2]))
    assert states(store) == []
    put(store, "items", items(("i1", "Tea")), "items")
    with store.load("items", load_id="gone", source="test") as load:
        load.remove_item("i1")
    assert [available for *_, available in states(store)] == [True, False]


def test_a_newer_store_is_refused_and_untouched(store: Store, url: str) -> None:
    put(store, "items", items(("i1", "Tea")))
    with writing(store._engine) as connection:
        connection.execute(text("UPDATE meta SET value = '99' WHERE name = 'schema_version'"))
    before = dump(store)
    for create in (False, True):
        with pytest.raises(StoreError, match=r"schema version 99.*install a newer recllm"):
            Store.open(url, create=create)
    assert dump(store) == before


def test_an_older_store_walks_the_steps_in_one_transaction(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def colour(connection) -> None:
        connection.execute(text("ALTER TABLE items ADD COLUMN colour TEXT"))

    def fail(connection) -> None:
        connection.execute(text("ALTER TABLE items ADD COLUMN weight TEXT"))
        raise RuntimeError("power cut")

    put(store, "items", items(("i1", "Tea")))
    now = SCHEMA_VERSION

    def state() -> tuple[int | None, set[str]]:
        """The version, and the new columns that are there."""
        with store._engine.connect() as connection:
            columns = {column["name"] for column in inspect(connection).get_columns("items")}
            return tables.version(connection), columns & {"colour", "weight"}

    monkeypatch.setattr(tables, "SCHEMA_VERSION", now + 2)
    monkeypatch.setattr(tables, "STEPS", {now: (colour,), now + 1: (fail,)})
    with pytest.raises(RuntimeError), writing(store._engine) as connection:
        tables.migrate(connection)
    assert state() == (now, set())
    monkeypatch.setattr(tables, "STEPS", {now: (colour,)})
    with pytest.raises(StoreError, match=f"cannot bring to {now + 2}"), writing(store._engine) as connection:
        tables.migrate(connection)
    assert state() == (now, set())
    monkeypatch.setattr(tables, "SCHEMA_VERSION", now + 1)
    with writing(store._engine) as connection:
        tables.migrate(connection)
    assert state() == (now + 1, {"colour"})
    with store._engine.connect() as connection:
        assert connection.execute(text("SELECT item_id, title, colour FROM items")).all() == [("i1", "Tea", None)]


def indexes(store: Store) -> set[str | None]:
    """Of the events, without those that keep keys apart."""
    with store._engine.connect() as connection:
        return {index["name"] for index in inspect(connection).get_indexes("events") if not index["unique"]}


def make_version_7(connection: Connection) -> None:
    for table in ("item_states", "tombstones", "restrictions", "first_loads", "audit", "group_sizes"):
        connection.execute(text(f"DROP TABLE {table}"))
    connection.execute(text("DROP INDEX items_by_load"))
    for column in ("load_no", "stock_stated"):
        connection.execute(text(f"ALTER TABLE items DROP COLUMN {column}"))
    connection.execute(text("UPDATE meta SET value = '7' WHERE name = 'schema_version'"))


def make_version_1(store: Store) -> None:
    with writing(store._engine) as connection:
        make_version_7(connection)
        for index in ("events_by_user", "loads_by_table", "loads_by_last_at"):
            connection.execute(text(f"DROP INDEX {index}"))
        for table in ("api_keys", "experiments", "explored_slates", "messages", "message_events", "sessions"):
            connection.execute(text(f"DROP TABLE {table}"))
        for column in ("propensity", *SHOWN_FOR):
            connection.execute(text(f"ALTER TABLE events DROP COLUMN {column}"))
        connection.execute(text("ALTER TABLE loads DROP COLUMN last_at"))
        connection.execute(text("ALTER TABLE items DROP COLUMN available_until"))
        connection.execute(text("UPDATE meta SET value = '1' WHERE name = 'schema_version'"))


def test_a_store_of_version_1_is_brought_up_to_date(store: Store, url: str) -> None:
    put(store, "events", events([5, 2]))
    put(store, "items", items(("i1", "Tea")), "items")
    with writing(store._engine) as connection:  # of what version 1 has, nobody knows when it changed
        connection.execute(text("UPDATE items SET load_no = (SELECT max(load_no) FROM loads)"))
    before = dump(store)
    make_version_1(store)
    store.close()
    opened = Store.open(url)
    assert dump(opened) == before
    with opened.read() as reader:
        assert reader.last_event() == datetime.fromtimestamp(5, UTC)
    assert indexes(opened) == {"events_by_user"} and states(opened) == [("i1", None, True)], "of the present"
    with opened._engine.connect() as connection:
        of_loads = {index["name"] for index in inspect(connection).get_indexes("loads")}
        (index,) = [i for i in inspect(connection).get_indexes("events") if i["name"] == "events_by_user"]
    needed = {column.name for column in readers._HISTORY.selected_columns} - {"item_id"}
    needed |= {"user_key", "event_no", "item_key"}
    assert needed == set(index["column_names"]), "a history needs the index alone"
    assert index["column_names"][:2] == ["user_key", "event_no"]
    assert {"loads_by_table", "loads_by_last_at"} <= of_loads and opened.api_keys() == []
    assert put(opened, "events", events([7]), "new").accepted == 1
    with opened.read() as reader:
        assert reader.last_event() == datetime.fromtimestamp(7, UTC)
    opened.close()


def test_a_first_load_leaves_the_index_of_people(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.load("events", load_id="a", source="test") as load:
        _ = load.write(events([1])).accepted / 0
    for n in range(3):
        assert indexes(store) == {"events_by_user"}
        put(store, "events", events([n]), f"l{n}")
    assert indexes(store) == {"events_by_user"}


@pytest.mark.parametrize("start", ["nothing", "version 1"])
def test_of_many_starters_one_makes_or_migrates_the_store(url: str, start: str) -> None:
    if start == "version 1":
        with closing(Store.open(url, create=True)) as older:
            put(older, "events", events([1]))
            make_version_1(older)

    def open_store() -> int | None:
        with closing(Store.open(url, create=start == "nothing")) as opened, opened._engine.connect() as connection:
            return tables.version(connection)

    assert at_once(*[open_store] * 5) == [SCHEMA_VERSION] * 5


def test_an_empty_database_is_no_store_until_created(url: str, tmp_path: Path) -> None:
    (tmp_path / "store.sqlite").touch()
    with pytest.raises(StoreError, match="no tables; make one with: recllm init"):
        Store.open(url)
    Store.open(url, create=True).close()
    Store.open(url).close()


def test_somebody_elses_database_is_refused(store: Store, url: str) -> None:
    with writing(store._engine) as connection:
        tables.metadata.drop_all(connection)
        connection.execute(text("CREATE TABLE meta (name TEXT, value TEXT)"))
    for create in (False, True):
        with pytest.raises(StoreError, match="another program"):
            Store.open(url, create=create)


def test_a_store_serves_one_pseudonym_key(url: str) -> None:
    """Two shops in one place would mix their people."""
    Store.open(url, create=True, key_fingerprint="a").close()
    for _ in range(2):
        with pytest.raises(StoreError, match="belongs to another workspace") as caught:
            Store.open(url, create=True, key_fingerprint="b")
        assert "\n" not in str(caught.value)
    Store.open(url, key_fingerprint="a").close()


def test_a_locked_store_gives_up_with_one_line(store: Store, url: str) -> None:
    impatient = Store.open(url, busy_seconds=0.05)
    before = dump(store)
    with store.load("events", load_id="slow", source="test") as load:
        load.write(events([1]))
        with pytest.raises(StoreError, match="locked by another process") as caught:
            put(impatient, "events", events([2]), "other")
        assert "\n" not in str(caught.value)
        assert dump(impatient) == before, "readers go on"
    assert put(impatient, "events", events([2]), "other").accepted == 1
    impatient.close()


def test_a_reader_keeps_its_moment_while_a_load_is_committed(store: Store) -> None:
    """Of a first load too, for which the index of people may be built anew."""
    with store.read() as empty:
        assert empty.counts()["events"] == 0
        with store.load("events", load_id="a", source="test") as load:
            load.write(events(list(range(500))))
            assert (empty.events().height, view(store).events(()).height) == (0, 0)
            assert view(store).events((), user_ids=["u1"]).height == 0
        with store.read() as later:
            assert later.events(()).height == later.events((), user_ids=["u1"]).height == 500
            put(store, "events", events([1_000]), "b")
            put(store, "users", users("u1", basics='{"a":"1"}'), "c")
            assert (later.counts()["events"], later.users()["basics"].to_list()) == (500, ["{}"])
        assert (empty.events().height, empty.counts()["users"], empty.last_event()) == (0, 0, None)
    assert view(store).counts()["events"] == 501


def consent(user: str, purpose: str = "email") -> pl.DataFrame:
    return pl.DataFrame({"user_id": [user], "purpose": [purpose], "granted": [True], "at": [1]})


def test_an_erased_person_has_no_row_left_and_others_keep_theirs(store: Store) -> None:
    shown = ["shown", "purchase", "click"]
    put(store, "events", events([1, 2, 3], request_id=["r1", None, "r2"], event=shown), "a")
    put(store, "events", events([4, 5], user="u2", request_id=["r2", None], event=shown[:2]), "b")
    put(store, "consent", pl.concat([consent("u1"), consent("u2")]), "c")
    store.add_explored_slates({"r1": ("i1",), "r2": ("i4",)}, datetime(2025, 1, 1, tzinfo=UTC))
    with store.load("events", load_id="d", source="test") as load:
        assert load.join_session("s1_x", "u1") == 0
    before = view(store).marks().load_no["consent"]
    with store.load("consent", load_id="e", source="erasure") as load:
        rows = load.erase_users(["u1"])
    # and the products that nobody else's events tell of
    gone = {"events": 3, "consent": 1, "sessions": 1, "users": 1, "explored_slates": 1, "items": 3}
    assert {table: n for table, n in rows.items() if n} == gone
    assert all(store.purge().values()) is store.is_file  # the user of the server's tests may not empty its log
    assert view(store).events()["user_id"].to_list() == ["u2", "u2"]
    assert view(store).users()["user_id"].to_list() == view(store).consent()["user_id"].to_list() == ["u2"]
    assert view(store).joined_sessions() == {} and view(store).marks().load_no["consent"] > before
    with store.load("consent", load_id="f", source="erasure") as load:
        assert not any(load.erase_users(["u1"]).values())


def test_a_session_joins_one_person_with_all_its_events(store: Store) -> None:
    put(store, "events", events([1, 2], user="s1_x"), "a")
    put(store, "events", events([3]), "b")
    newest = view(store).marks().event_no
    with store.load("events", load_id="c", source="test") as load:
        assert load.join_session("s1_x", "u1") == 2
    moved = view(store).events(after_event=newest)
    assert view(store).loads()[-1].last_at == 2_000_000, "of what was written anew"
    assert moved["user_id"].to_list() == ["u1", "u1"] and moved["item_id"].to_list() == ["i1", "i2"]
    assert view(store).events().height == 3 and view(store).users()["user_id"].to_list() == ["u1"]
    assert view(store).joined_sessions(["s1_x", "s1_y"]) == view(store).joined_sessions(user_id="u1") == {"s1_x": "u1"}
    again = put(store, "events", events([2, 4], user="s1_x"), "d")
    assert (again.accepted, again.duplicates) == (1, 1) and view(store).events(user_ids=["u1"]).height == 4
    with store.load("events", load_id="e", source="test") as load:
        assert load.join_session("s1_x", "u1") == 0
    with pytest.raises(ConflictError), store.load("events", load_id="f", source="test") as load:
        load.join_session("s1_x", "u2")
    assert view(store).users()["user_id"].to_list() == ["u1"]  # nobody came in by the refusal
    assert view(store).counts()["users"] == 1
    put(store, "events", events([9], user="s1_y"), "g")
    assert view(store).counts()["users"] == 1  # a session is no person


def test_the_items_that_changed_since_a_load(store: Store, url: str) -> None:
    def changed(store: Store, after_load: int) -> list[str]:
        return view(store).items(after_load=after_load)["item_id"].to_list()

    def newest(store: Store) -> int:
        return view(store).marks().load_no[Table.ITEMS]

    put(store, "items", items(("i1", "Tea"), ("i2", "Mug"), ("i3", "Pot")), "a")
    first = newest(store)
    assert changed(store, 0) == ["i1", "i2", "i3"] and changed(store, first) == []
    put(store, "items", items(("i1", "Tea"), ("i2", "Blue mug"), ("i4", "Cup")), "b")
    assert changed(store, first) == ["i2", "i4"]  # what was said again is no change
    second = newest(store)
    with store.load("items", load_id="c", source="removal") as load:
        load.remove_item("i3")
    assert changed(store, second) == ["i3"] and changed(store, first) == ["i2", "i3", "i4"]
    with writing(store._engine) as connection:
        make_version_7(connection)
    store.close()
    with closing(Store.open(url)) as opened:  # which load changed what is not known any more: each may be new
        assert changed(opened, second) == ["i1", "i2", "i3", "i4"] and changed(opened, newest(opened)) == []


def test_an_item_that_leaves_is_known_from_events_alone(store: Store) -> None:
    put(store, "items", items(("i1", "Tea"), ("i2", "Mug")), "a")
    put(store, "events", events([1]), "b")
    with store.load("items", load_id="c", source="removal") as load:
        load.remove_item("i1")
    row = view(store).items(["i1"]).to_dicts()[0]
    assert (row["title"], row["available"], row["pending"]) == (None, False, True)
    assert view(store).events()["item_id"].to_list() == ["i1"]
    for name in ("i1", "i3"):
        with pytest.raises(UnknownIdError), store.load("items", load_id="d", source="removal") as load:
            load.remove_item(name)
    put(store, "items", items(("i1", "Tea again")), "e")
    assert view(store).items(["i1"])["pending"].to_list() == [False]
