"""From an older store to this one: numbered steps, all of them in one transaction.

`STEPS[n]` turns version n into n + 1. A new store is made from `tables` at once and never walks the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlalchemy import Connection, func, insert, inspect, select, text, update

from recllm.errors import StoreError
from recllm.store.tables import SCHEMA_VERSION, events, events_by_user, loads, meta, metadata

Step = Callable[[Connection], None]


def _read_people_by_key(connection: Connection) -> None:
    """Version 2: an index of the events by person, and the end of the log beside the loads."""
    connection.execute(text("ALTER TABLE loads ADD COLUMN last_at BIGINT"))
    newest = select(func.max(loads.c.load_no)).scalar_subquery()
    last_at = select(func.max(events.c.at)).scalar_subquery()
    connection.execute(update(loads).where(loads.c.load_no == newest).values(last_at=last_at))
    events_by_user.create(connection)


STEPS: Mapping[int, Step] = {1: _read_people_by_key}


def version(connection: Connection) -> int | None:
    """Schema version of the store; None in a database without tables. `StoreError` for somebody else's database."""
    names = inspect(connection).get_table_names()
    if not names:
        return None
    number = None
    if meta.name in names:
        number = connection.scalar(select(meta.c.value).where(meta.c.name == "schema_version"))
    if number is None or not number.isdigit():
        raise StoreError(f"{_where(connection)} belongs to another program; give the path of a store or a new path")
    return int(number)


def migrate(connection: Connection, *, steps: Mapping[int, Step] = STEPS, target: int = SCHEMA_VERSION) -> None:
    """Brings the store to `target`, and makes all tables where there are none.

    Raises `StoreError`, changing nothing, for a newer store or a missing step.
    """
    start = version(connection)
    if start is None:
        metadata.create_all(connection)
        connection.execute(insert(meta).values(name="schema_version", value=str(SCHEMA_VERSION)))
        return
    if start > target:
        raise StoreError(
            f"{_where(connection)} has schema version {start}, this recllm knows {target}; install a newer recllm"
        )
    for number in range(start, target):
        if number not in steps:
            raise StoreError(
                f"{_where(connection)} has schema version {number}, which this recllm cannot bring to {target}; "
                "load the files into a new workspace"
            )
        steps[number](connection)
    if start < target:
        connection.execute(update(meta).where(meta.c.name == "schema_version").values(value=str(target)))


def _where(connection: Connection) -> str:
    return f"the store {connection.engine.url.database}"
