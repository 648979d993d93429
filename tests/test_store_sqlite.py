"""What only a store in SQLite can have wrong: its file, its folder, its disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import event as sa_event
from store_view import dump, events, put, view

from recllm.base.errors import StoreError
from recllm.shop.store.connections import writing
from recllm.shop.store.database import Store


def test_every_connection_is_durable(store: Store) -> None:
    """kill -9 cannot tell FULL from NORMAL; a power cut can."""

    def pragmas(connection) -> tuple[object, ...]:
        ask = connection.exec_driver_sql
        return tuple(ask(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous", "cache_size"))

    expected = ("wal", 2, -64 * 1024)
    with store._engine.connect() as one, store._engine.connect() as two, writing(store._engine) as three:
        assert pragmas(one) == pragmas(two) == pragmas(three) == expected
    store.close()
    with store._engine.connect() as after:
        assert pragmas(after) == expected


def test_a_missing_store_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no store at .*recllm init"):
        Store.open(tmp_path / "none.sqlite")
    assert not (tmp_path / "none.sqlite").exists()
    with pytest.raises(StoreError, match="does not exist"):
        Store.open(tmp_path / "no" / "store.sqlite", create=True)
    for bad in ("what://is:this:thing", "nosuch://host/db", "://"):
        with pytest.raises(StoreError, match="is not a file path nor a URL"):
            Store.open(bad)


def test_a_read_only_store_reads_and_refuses_to_write(store: Store) -> None:
    put(store, "events", events([1]), "a")
    readonly = Store.open(f"sqlite:///file:{store._engine.url.database}?mode=ro&uri=true")
    before = dump(store)
    assert view(readonly).events().height == 1
    with pytest.raises(StoreError, match="read-only; make the file"):
        put(readonly, "events", events([2]), "b")
    assert dump(store) == before


def test_a_full_disk_in_the_middle_of_a_load(store: Store) -> None:
    put(store, "events", events(list(range(100))), "a")
    before = dump(store)
    store.close()

    def limit(connection, _record) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count={pages + 40}")

    sa_event.listen(store._engine, "connect", limit)
    written = 0
    full = pytest.raises(StoreError, match="disk is full; nothing of this change was kept")
    with full, store.load("events", load_id="b", source="test") as load:
        for start in range(1_000, 50_000, 500):
            written += load.write(events(list(range(start, start + 500)))).accepted
    assert written > 0, "the disk has to fill in the middle, not at once"
    assert dump(store) == before
    assert [r.load_id for r in view(store).loads()] == ["a"]
    sa_event.remove(store._engine, "connect", limit)
    store.close()
    assert put(store, "events", events(list(range(1_000, 3_000))), "b").accepted == 2_000


def indexes(store: Store) -> set[str]:
    with store.read() as reader:
        rows = reader._connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'index'")
        return {name for (name,) in rows}


def test_a_first_load_without_repeats_makes_its_indexes_at_the_end(store: Store) -> None:
    before = indexes(store)
    with store.load("events", load_id="first", source="a.csv") as load:
        assert load.write(events(keys=[3, 1, 2]), are_distinct=True).accepted == 3
        assert not {"events_by_key", "events_by_user"} & {
            name for (name,) in load._connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'index'")
        }
    assert indexes(store) == before and {"events_by_key", "events_by_user"} <= before
    with store.load("events", load_id="second", source="a.csv") as load:
        result = load.write(events(keys=[2, 4, 1]), are_distinct=True)
    assert (result.accepted, result.duplicates) == (1, 2)


def test_a_load_that_turns_out_to_have_ids_looks_for_repeats_from_then_on(store: Store) -> None:
    with store.load("events", load_id="first", source="a.csv") as load:
        assert load.write(events(keys=[1, 2]), are_distinct=True).accepted == 2
        result = load.write(events(keys=[2, 3, 3]))
    assert (result.accepted, result.duplicates) == (1, 2)
    assert {"events_by_key", "events_by_user"} <= indexes(store)
