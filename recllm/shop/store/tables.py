"""The tables of the store, as SQLAlchemy Core metadata, and how an older store becomes one of these.

People and items have small integer keys, so that an event row stays short; nothing outside this package sees them.
`events.at` is epoch microseconds in UTC. `items.price` is the decimal as text, because a float would change it.
References are not declared as foreign keys: both ends are written in one transaction by one function, and checking
1.4 million rows again would cost a third of the speed of a load.

An older store is brought to `SCHEMA_VERSION` by `STEPS`, in one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from recllm.base.errors import StoreError
from recllm.shop.store import postgres

SCHEMA_VERSION = 14
IN_KEYS = 1_000
"""Keys of one IN list: a statement has a limited number of parameters."""

metadata = sa.MetaData()

# SQLite numbers rows by itself only for a column of exactly the type INTEGER
_Key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

# ids are bytes, not words: on PostgreSQL, too, they are ordered as on SQLite, whatever the language of the server
_Id = sa.String().with_variant(sa.String(collation="C"), "postgresql")

meta = sa.Table(
    "meta", metadata, sa.Column("name", _Id, primary_key=True), sa.Column("value", sa.String, nullable=False)
)

loads = sa.Table(
    "loads",
    metadata,
    sa.Column("load_no", _Key, primary_key=True),
    sa.Column("load_id", _Id, nullable=False, unique=True),
    sa.Column("table_name", sa.String, nullable=False),
    sa.Column("source", sa.String, nullable=False),
    sa.Column("sha256", sa.String),
    sa.Column("counts", sa.Text, nullable=False),
    sa.Column("committed_at", sa.BigInteger, nullable=False),
    # the latest `events.at` among what the load added: the end of the log without a look at the events
    sa.Column("last_at", sa.BigInteger),
)

loads_by_table = sa.Index("loads_by_table", loads.c.table_name, loads.c.load_no)
loads_by_last_at = sa.Index("loads_by_last_at", loads.c.last_at)
"""A service reads the newest loads and the end of the log at each answer, and each batch of events is a load."""

users = sa.Table(
    "users",
    metadata,
    sa.Column("user_key", _Key, primary_key=True),
    sa.Column("user_id", _Id, nullable=False, unique=True),
    sa.Column("basics", sa.Text, nullable=False),
)

items = sa.Table(
    "items",
    metadata,
    sa.Column("item_key", _Key, primary_key=True),
    sa.Column("item_id", _Id, nullable=False, unique=True),
    *(sa.Column(name, sa.Text) for name in ("title", "category", "brand", "description")),
    *(sa.Column(name, sa.String) for name in ("price", "currency")),
    sa.Column("available", sa.Boolean, nullable=False),
    sa.Column("attributes", sa.Text),
    sa.Column("pending", sa.Boolean, nullable=False),
    sa.Column("available_until", sa.BigInteger),  # epoch microseconds; null for no end
    # of the last load of items that changed it
    sa.Column("load_no", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("stock_stated", sa.Boolean),  # whether `available` is the shop's own word; null for no
)
items_by_load = sa.Index("items_by_load", items.c.load_no)
"""For what changed since a service read the catalogue."""

item_states = sa.Table(
    "item_states",
    metadata,
    sa.Column("item_key", sa.BigInteger, nullable=False),
    sa.Column("load_no", sa.BigInteger, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),  # epoch microseconds
    sa.Column("price", sa.String),
    sa.Column("currency", sa.String),
    sa.Column("available", sa.Boolean, nullable=False),
    sa.PrimaryKeyConstraint("item_key", "load_no"),
)
"""Prices and availability, as of each load of items that changed one of the two."""

SHOWN_FOR = ("experiment", "variant", "campaign_id", "template")

events = sa.Table(
    "events",
    metadata,
    sa.Column("event_no", _Key, primary_key=True),
    sa.Column("event_key", sa.LargeBinary(16), nullable=False),
    sa.Column("payload_hash", sa.BigInteger, nullable=False),
    sa.Column("user_key", sa.BigInteger, nullable=False),
    sa.Column("item_key", sa.BigInteger, nullable=False),
    sa.Column("action", sa.SmallInteger, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("tz_offset_minutes", sa.SmallInteger),
    sa.Column("quantity", sa.Double, nullable=False),
    sa.Column("price", sa.Double),
    sa.Column("basket_id", sa.String),
    sa.Column("value", sa.Double),
    sa.Column("request_id", sa.String),
    sa.Column("position", sa.Integer),
    sa.Column("model_version", sa.String),
    sa.Column("load_no", sa.BigInteger, nullable=False),
    # of a showing: its probability, and what it was for
    sa.Column("propensity", sa.Double),
    *(sa.Column(name, sa.String) for name in SHOWN_FOR),
)

events_by_key = sa.Index("events_by_key", events.c.event_key, unique=True)
"""Keeps events once. Older stores have a constraint instead, which cannot be dropped for a first load."""

events_by_user = sa.Index(
    "events_by_user",
    *(events.c[n] for n in ("user_key", "event_no", "item_key", "action", "at", "quantity", "price", "basket_id")),
)
"""A person's events are read by key, in the order of writing, from the index alone, where they are adjacent."""

consent = sa.Table(
    "consent",
    metadata,
    sa.Column("user_key", sa.BigInteger, nullable=False),
    sa.Column("purpose", _Id, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("granted", sa.Boolean, nullable=False),
    # `granted` is part of the key: a yes and a no of the same instant are both kept, and the no wins when read
    sa.PrimaryKeyConstraint("user_key", "purpose", "at", "granted"),
)

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("session_id", _Id, primary_key=True),
    sa.Column("user_key", sa.BigInteger, nullable=False, index=True),
    sa.Column("joined_at", sa.BigInteger, nullable=False),  # epoch microseconds
)
"""Anonymous sessions that were joined to a person. Until then a session is a row of `users`."""

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("key_id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("scopes", sa.String, nullable=False),  # separated by blanks
    sa.Column("sha256", sa.String, nullable=False),  # of the secret
    sa.Column("created_at", sa.BigInteger, nullable=False),  # epoch microseconds, as is the next
    sa.Column("revoked_at", sa.BigInteger),
)

messages = sa.Table(
    "messages",
    metadata,
    sa.Column("message_no", _Key, primary_key=True),
    sa.Column("message_id", _Id, nullable=False, unique=True),
    sa.Column("user_key", sa.BigInteger, nullable=False),
    sa.Column("campaign_id", _Id, nullable=False),
    sa.Column("channel", _Id, nullable=False),
    sa.Column("text_id", sa.String, nullable=False),
    sa.Column("variant", sa.Integer, nullable=False),
    sa.Column("item_id", sa.String),  # null where the text is not about an item of the catalogue
    sa.Column("request_id", sa.String, nullable=False),
    sa.Column("exported_at", sa.BigInteger, nullable=False),  # epoch microseconds of the first export
)
messages_by_campaign = sa.Index("messages_by_campaign", messages.c.campaign_id)

message_events = sa.Table(
    "message_events",
    metadata,
    sa.Column("source", _Id, nullable=False),  # the provider's name in this shop
    sa.Column("event_id", _Id, nullable=False),  # the provider's own: it counts once
    sa.Column("message_no", sa.BigInteger, nullable=False),
    sa.Column("kind", _Id, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),  # epoch microseconds, as is the next
    sa.Column("received_at", sa.BigInteger, nullable=False),
    sa.PrimaryKeyConstraint("source", "event_id"),
)
message_events_by_message = sa.Index("message_events_by_message", message_events.c.message_no)

experiments = sa.Table(
    "experiments",
    metadata,
    sa.Column("name", _Id, primary_key=True),
    sa.Column("document", sa.Text, nullable=False),
    # grows with each change, which names the revision that it read
    sa.Column("revision", sa.Integer, nullable=False),
)

explored_slates = sa.Table(
    "explored_slates",
    metadata,
    sa.Column("request_id", _Id, primary_key=True),
    # candidates: a JSON list of item ids, best first
    sa.Column("ranked", sa.Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),  # epoch microseconds
)

tombstones = sa.Table(
    "tombstones",
    metadata,
    # a pseudonym of a person or session, of whom nothing is kept any more
    sa.Column("user_id", _Id, primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False),  # epoch microseconds
)
"""People who were erased."""

restrictions = sa.Table(
    "restrictions",
    metadata,
    sa.Column("user_key", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", sa.BigInteger, nullable=False),  # epoch microseconds
)
"""People whose data are kept and used for nothing, at their request or before an erasure."""

first_loads = sa.Table(
    "first_loads",
    metadata,
    sa.Column("user_key", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("load_no", sa.BigInteger, nullable=False),
)
"""The load with the first events of people of whom events were deleted by age: models trained since learned from
them."""

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("entry_no", _Key, primary_key=True, autoincrement=False),  # without gaps, from 1
    sa.Column("entry", sa.Text, nullable=False),  # canonical JSON
    sa.Column("hash", sa.String, nullable=False),  # over the hash of the entry before and this one
)

group_sizes = sa.Table(
    "group_sizes",
    metadata,
    sa.Column("size_no", _Key, primary_key=True),
    sa.Column("caller", _Id, nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False),  # keyed, of the question
    sa.Column("at", sa.BigInteger, nullable=False),  # epoch microseconds
    sa.Column("cost", sa.Double, nullable=False),
    sa.Column("people", sa.BigInteger),  # as it was answered
)
group_sizes_by_caller = sa.Index("group_sizes_by_caller", group_sizes.c.caller, group_sizes.c.digest)
"""Sizes of groups answered to callers: see `recllm.shop.workspace.figures`."""


def microseconds(at: datetime) -> int:
    """Since the epoch."""
    return round(at.timestamp() * 1_000_000)


def now() -> int:
    """The clock in epoch microseconds."""
    return microseconds(datetime.now(UTC))


def moment(at: int) -> datetime:
    """Of epoch microseconds, in UTC."""
    return datetime.fromtimestamp(at / 1_000_000, UTC)


def among(column: sa.ColumnElement[Any], values: Iterable[Any]) -> Iterator[sa.ColumnElement[bool]]:
    """Conditions that together say that a column has one of some values, each short enough for one statement."""
    distinct = sorted(set(values))
    for start in range(0, len(distinct), IN_KEYS):
        yield column.in_(distinct[start : start + IN_KEYS])


def of_users(table: sa.Table, *columns: Any) -> Any:
    """A query of the person's pseudonym and of columns, of the rows of a table with keys of people."""
    return sa.select(users.c.user_id, *columns).join_from(table, users, users.c.user_key == table.c.user_key)


def insert_of(connection: sa.Connection) -> Any:
    """The `insert` of the database's dialect, which knows conflicts."""
    return postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert


def record_item_states(connection: sa.Connection, load_no: int | None = None) -> None:
    """Adds the state of the items that a load changed, all items when None, where it differs from their last one."""
    earlier = item_states.alias()
    newest = sa.select(sa.func.max(earlier.c.load_no)).where(earlier.c.item_key == items.c.item_key).scalar_subquery()
    unchanged = [item_states.c[name].is_not_distinct_from(items.c[name]) for name in ("price", "currency", "available")]
    same = sa.select(item_states.c.item_key).where(
        item_states.c.item_key == items.c.item_key, item_states.c.load_no == newest, *unchanged
    )
    columns = (items.c.item_key, items.c.load_no, sa.literal(now()), items.c.price, items.c.currency, items.c.available)
    states = sa.select(*columns).where(~same.exists(), ~items.c.pending | ~items.c.available)
    if load_no is not None:
        states = states.where(items.c.load_no == load_no)
    connection.execute(sa.insert(item_states).from_select(item_states.c.keys(), states))


Step = str | sa.Table | sa.Index | Callable[[sa.Connection], None]
"""One change of an older store: a statement, what is created, or a function."""

STEPS: Mapping[int, Sequence[Step]] = {
    1: (
        "ALTER TABLE loads ADD COLUMN last_at BIGINT",
        "UPDATE loads SET last_at = (SELECT max(at) FROM events) WHERE load_no = (SELECT max(load_no) FROM loads)",
        events_by_user,
    ),
    2: (api_keys, loads_by_table, loads_by_last_at),
    3: (
        "ALTER TABLE events ADD COLUMN propensity DOUBLE PRECISION",
        *(f"ALTER TABLE events ADD COLUMN {name} VARCHAR" for name in SHOWN_FOR),
        experiments,
        explored_slates,
    ),
    4: (messages, message_events),
    5: ("ALTER TABLE items ADD COLUMN available_until BIGINT", sessions),
    6: ("DROP INDEX events_by_user", events_by_user),  # it has all columns of a history now
    7: (
        "ALTER TABLE items ADD COLUMN load_no BIGINT DEFAULT 0 NOT NULL",
        # the last load of items may have changed any of them
        "UPDATE items SET load_no = coalesce((SELECT max(load_no) FROM loads WHERE table_name = 'items'), 0)",
        items_by_load,
    ),
    8: (item_states, record_item_states),
    9: (tombstones, restrictions, audit),
    10: (first_loads,),
    11: (
        # lists of customers need a scope of their own, which keys for marketing had
        "UPDATE api_keys SET scopes = scopes || ' people' WHERE scopes LIKE '%marketing%'",
        "DROP TABLE IF EXISTS releases",
        "DROP TABLE IF EXISTS release_people",
        group_sizes,
    ),
    12: ("DROP TABLE IF EXISTS outbox",),  # announcements of exports to other systems
    13: ("ALTER TABLE items ADD COLUMN stock_stated BOOLEAN",),
}
"""Version -> what makes a store of it one of the next version."""


def version(connection: sa.Connection) -> int | None:
    """Schema version of the store; None in a database without tables. `StoreError` for another program's database."""
    names = sa.inspect(connection).get_table_names()
    if not names:
        return None
    number = None
    if meta.name in names:
        number = connection.scalar(sa.select(meta.c.value).where(meta.c.name == "schema_version"))
    if number is None or not number.isdigit():
        store = f"the store {connection.engine.url.database}"
        raise StoreError(f"{store} belongs to another program; give the path of a store or a new path")
    return int(number)


def key_fingerprint(connection: sa.Connection) -> str | None:
    """Of the store's pseudonym key; None for a store without one."""
    return connection.scalar(sa.select(meta.c.value).where(meta.c.name == "key_fingerprint"))


def migrate(connection: sa.Connection, key_fingerprint: str | None = None) -> None:
    """Brings the store to `SCHEMA_VERSION`. Where there are no tables they are made, for the key of `key_fingerprint`.

    Raises `StoreError`, changing nothing, for a newer store or a missing step.
    """
    start = version(connection)
    if start is None:
        if connection.dialect.name == "postgresql":
            postgres.make_schema(connection)
        metadata.create_all(connection)
        rows = {"schema_version": str(SCHEMA_VERSION), "key_fingerprint": key_fingerprint}
        connection.execute(sa.insert(meta), [{"name": n, "value": v} for n, v in rows.items() if v is not None])
        return
    store = f"the store {connection.engine.url.database}"
    if start > SCHEMA_VERSION:
        raise StoreError(
            f"{store} has schema version {start}, this recllm knows {SCHEMA_VERSION}; install a newer recllm"
        )
    for number in range(start, SCHEMA_VERSION):
        if number not in STEPS:
            raise StoreError(
                f"{store} has schema version {number}, which this recllm cannot bring to {SCHEMA_VERSION}; "
                "load the files into a new workspace"
            )
        for step in STEPS[number]:
            if isinstance(step, str):
                connection.execute(sa.text(step))
            elif isinstance(step, sa.Table | sa.Index):
                step.create(connection)
            else:
                step(connection)
    connection.execute(sa.update(meta).where(meta.c.name == "schema_version").values(value=str(SCHEMA_VERSION)))
