"""The tables of the store, as SQLAlchemy Core metadata.

People and items have small integer keys, so that an event row stays short; nothing outside this package sees them.
`events.at` is epoch microseconds in UTC. `items.price` is the decimal as text, because a float would change it.
References are not declared as foreign keys: both ends are written in one transaction by one function, and checking
1.4 million rows again would cost a third of the speed of a load.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
)

SCHEMA_VERSION = 2

metadata = MetaData()

# SQLite numbers rows by itself only for a column of exactly the type INTEGER
_Key = BigInteger().with_variant(Integer(), "sqlite")

meta = Table("meta", metadata, Column("name", String, primary_key=True), Column("value", String, nullable=False))

loads = Table(
    "loads",
    metadata,
    Column("load_no", _Key, primary_key=True),
    Column("load_id", String, nullable=False, unique=True),
    Column("table_name", String, nullable=False),
    Column("source", String, nullable=False),
    Column("sha256", String),
    Column("counts", Text, nullable=False),
    Column("committed_at", BigInteger, nullable=False),
    # the latest `events.at` among what the load added: the end of the log without a look at the events
    Column("last_at", BigInteger),
)

users = Table(
    "users",
    metadata,
    Column("user_key", _Key, primary_key=True),
    Column("user_id", String, nullable=False, unique=True),
    Column("basics", Text, nullable=False),
)

items = Table(
    "items",
    metadata,
    Column("item_key", _Key, primary_key=True),
    Column("item_id", String, nullable=False, unique=True),
    Column("title", Text),
    Column("category", Text),
    Column("brand", Text),
    Column("description", Text),
    Column("price", String),
    Column("currency", String),
    Column("available", Boolean, nullable=False),
    Column("attributes", Text),
    Column("pending", Boolean, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("event_no", _Key, primary_key=True),
    Column("event_key", LargeBinary(16), nullable=False, unique=True),
    Column("payload_hash", BigInteger, nullable=False),
    Column("user_key", BigInteger, nullable=False),
    Column("item_key", BigInteger, nullable=False),
    Column("action", SmallInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("tz_offset_minutes", SmallInteger),
    Column("quantity", Double, nullable=False),
    Column("price", Double),
    Column("basket_id", String),
    Column("value", Double),
    Column("request_id", String),
    Column("position", Integer),
    Column("model_version", String),
    Column("load_no", BigInteger, nullable=False),
)

events_by_user = Index("events_by_user", events.c.user_key)
"""A person's events are read by key, in the order of writing."""

consent = Table(
    "consent",
    metadata,
    Column("user_key", BigInteger, nullable=False),
    Column("purpose", String, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("granted", Boolean, nullable=False),
    # `granted` is part of the key: a yes and a no of the same instant are both kept, and the no wins when read
    PrimaryKeyConstraint("user_key", "purpose", "at", "granted"),
)
