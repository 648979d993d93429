"""PostgreSQL as the store: a schema of a database, `recllm` unless the URL says `?schema=NAME`; many rows at once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import polars as pl
import sqlalchemy as sa

from recllm.base.errors import MissingExtraError, StoreError

_SCHEMA_NAME = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,62}")

MIN_COPY_ROWS = 200
"""From this number of rows on COPY is used, which takes a third of the time and needs a temporary table."""

_KEEPALIVES: Mapping[str, int] = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
"""Seconds, and tries, until each side gives up a dead machine; the server then frees the lock of its load."""

_USER_TIMEOUT = 60_000
"""Milliseconds until each side gives up unacknowledged data, where keep-alives do not help: the default is a quarter of
an hour."""

_DURABLE = "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'"

_NOT_PERMITTED = "42501"

_LOST = "lost its connection; what was not committed is not there; repeat it: rows that are there count as duplicates"
REMEDIES: dict[str | tuple[str, ...], str] = {
    ("08001", "57P03"): "cannot be reached ({cause}); check that its server runs, and the host and port of the URL",
    "55P03": "is locked by another process; wait until that one is done, then try again",
    "25006": "is read-only: a standby server, or a user that may only read; give the URL of the primary server",
    "42501": "does not allow this to its user ({cause}); grant it, or let the user own the schema",
    "53100": "cannot grow: the server's disk is full; nothing of this change was kept, free some space and repeat it",
    "53300": "has no connection left: the server's max_connections are in use; wait, then try again",
    (
        "XX001",
        "XX002",
        "58030",
    ): "is damaged or its disk is, says its server; put a backup in its place, or load the files into a new schema",
    "3D000": "names a database that does not exist; make it with: createdb",
    "28": "refuses the user or the password; check the user of the URL, and PGPASSWORD, ~/.pgpass or RECLLM_STORE_URL",
    ("57P01", "57P02", "08", "25P03"): _LOST,
}
_CONNECTING = re.compile(r"connection failed|connection timeout|failed to resolve|\[Errno")
_STATES_AT_THE_DOOR: Mapping[str, str] = {
    r"password|authentication|pg_hba|role .* does not exist": "28",
    r"database .* does not exist": "3D000",
    r"too many clients|remaining connection slots": "53300",
}


def open_engine(url: sa.URL, busy_seconds: float) -> sa.Engine:
    """An engine whose reading transactions see one moment and whose writing ones are durable and one at a time.

    Raises `StoreError` for a wrong name of a schema, `MissingExtraError` without psycopg.
    """
    query = dict(url.query)
    schema = query.pop("schema", "recllm")
    if not (isinstance(schema, str) and _SCHEMA_NAME.fullmatch(schema)):
        raise StoreError(f"the schema {schema!r} is not a name such as shop_1; use a to z, digits and '_'")
    options = [f"-ctcp_{name}={value}" for name, value in _KEEPALIVES.items()]
    user_timeout = str(query.get("tcp_user_timeout", _USER_TIMEOUT))
    options.append(f"-ctcp_user_timeout={user_timeout}")
    query["options"] = " ".join([str(query.get("options", "")), f"-csearch_path={schema}", *options])
    limits = {"connect_timeout": "10", **{n: str(v) for n, v in _KEEPALIVES.items()}, "tcp_user_timeout": user_timeout}
    query = {**limits, **query, "client_encoding": "utf8"}
    try:
        engine = sa.create_engine(
            url.set(drivername="postgresql+psycopg", password=str(query.pop("password", "")) or None, query=query),
            isolation_level="REPEATABLE READ",
            pool_pre_ping=True,  # a connection from before a restart of the server is replaced
            hide_parameters=True,
            execution_options={"recllm_schema": schema, "recllm_wait_ms": max(1, round(busy_seconds * 1_000))},
        )
    except ImportError as error:
        raise MissingExtraError("psycopg", "postgres") from error
    sa.event.listen(engine, "begin", _begin)
    return engine


def _begin(connection: sa.Connection) -> None:
    options = connection.get_execution_options()
    if options.get("recllm_writes", False):
        # a moment fixed before the wait would not show what the load before this one committed
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {options['recllm_wait_ms']}")
        connection.exec_driver_sql(_DURABLE)
        name = f"recllm store {options['recllm_schema']}"
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (name,))


def make_schema(connection: sa.Connection) -> None:
    """Makes the schema of the store where there is none.
    Raises `StoreError` when the database is not in UTF-8."""
    schema = connection.get_execution_options()["recllm_schema"]
    if (encoding := connection.scalar(sa.text("SHOW server_encoding"))) != "UTF8":
        raise StoreError(f"the database is in {encoding}; make one with: createdb --encoding=UTF8 --template=template0")
    # asked for first: to name a schema that exists takes no right to make one
    if not sa.inspect(connection).has_schema(schema):
        connection.execute(sa.schema.CreateSchema(schema))


@cache
def staging_table(table: sa.Table) -> sa.Table:
    columns = [sa.Column("row_no", sa.BigInteger, sa.Identity()), *(sa.Column(c.name, c.type) for c in table.columns)]
    options: Any = {"schema": "pg_temp", "prefixes": ["TEMPORARY"], "postgresql_on_commit": "DROP"}
    return sa.Table(f"staged_{table.name}", sa.MetaData(), *columns, **options)


def stage(connection: sa.Connection, table: sa.Table, frame: pl.DataFrame) -> sa.Select[Any]:
    """Copies rows of `table` to a temporary table, in the place of earlier ones.
    Returns a query of them, in order."""
    staged = staging_table(table)  # one for a whole load: each that is made, and dropped, takes locks until its end
    connection.execute(sa.schema.CreateTable(staged, if_not_exists=True))
    connection.exec_driver_sql(f"TRUNCATE {staged.fullname}")
    driver: Any = connection.connection
    statement = f"COPY {staged.fullname} ({', '.join(frame.columns)}) FROM STDIN"
    with driver.cursor() as cursor, cursor.copy(statement) as copy:
        for row in zip(*(frame[name].to_list() for name in frame.columns), strict=True):
            copy.write_row(row)
    return sa.select(*(staged.c[name] for name in frame.columns)).order_by(staged.c.row_no)


def go_on_numbering(connection: sa.Connection, table: sa.Table, key: sa.Column[Any]) -> None:
    """The next number of a key behind the highest one, where the server numbers it."""
    sequence = connection.scalar(sa.select(sa.func.pg_get_serial_sequence(table.name, key.name)))
    if sequence is not None:
        highest = connection.scalar(sa.select(sa.func.max(key)))
        if highest is not None:
            connection.execute(sa.select(sa.func.setval(sequence, highest)))


def purge(engine: sa.Engine, table_names: Sequence[str]) -> dict[str, bool]:
    """Makes deleted rows of tables unreadable in the server's files: step -> whether the user of the URL may do it.

    DELETE alone leaves them: as dead rows until a vacuum rewrites the table ("vacuum"), as examples in the planner's
    statistics ("statistics"), and in the write-ahead log, whose old segments are kept for reuse with what they hold
    ("log_emptied": each is written over; takes the rights of pg_checkpoint and pg_monitor, and pg_switch_wal). Copies
    that an archive, a standby or a backup of the server holds are out of reach: they end when those end.
    """
    steps = {"vacuum": True, "statistics": True, "log_emptied": True}
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:

        def run(step: str, statement: str) -> Any:
            """The first value of a statement's answer; where it is not permitted, the step was not done."""
            try:
                cursor = connection.exec_driver_sql(statement)
                return cursor.scalar() if cursor.returns_rows else None
            except sa.exc.DBAPIError as error:
                if state_of(error) != _NOT_PERMITTED:
                    raise
                steps[step] = False
                return None

        for step, names in (("vacuum", table_names), ("statistics", ["pg_catalog.pg_statistic"])):
            for name in names:
                # a vacuum of another user's table is skipped with a warning
                owned = f"SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = '{name}'::regclass"  # noqa: S608 - our tables
                if run(step, owned):
                    run(step, f"VACUUM (FULL, ANALYZE) {name}")
                else:
                    steps[step] = False

        def next_segment() -> None:
            # a switch fills the rest of a segment with zeros, and does nothing where nothing was written to it
            run("log_emptied", "SELECT pg_logical_emit_message(false, 'recllm', 'purge')")
            run("log_emptied", "SELECT pg_switch_wal()")

        next_segment()  # the segment that is written to now is done with, too, at the checkpoint
        run("log_emptied", "CHECKPOINT")
        for _ in range(int(run("log_emptied", "SELECT count(*) FROM pg_ls_waldir()") or 0) + 1):
            next_segment()
        run("log_emptied", "CHECKPOINT")
    return steps


def state_of(error: BaseException) -> str:
    """The SQLSTATE of an error. Where a connection was refused or lost the driver knows none: that of its kind."""
    cause = getattr(error, "orig", None) or error
    state = getattr(cause, "sqlstate", "")
    if state is not None or type(cause).__name__ != "OperationalError":
        return state or ""
    if not _CONNECTING.match(str(cause)):
        return "08006"
    return next((state for words, state in _STATES_AT_THE_DOOR.items() if re.search(words, str(cause))), "08001")
