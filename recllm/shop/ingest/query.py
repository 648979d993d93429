"""Rows of a shop's database, loaded as files are.

The answer is copied to a file until it is loaded, since a load reads it several times.

A mark, the highest value of a column, says how far a query was read. The next run
starts there, and keys of events say which rows are known.
It moves when the load is committed: a run that was killed is repeated.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from recllm.base.errors import DataError, IngestError, MissingExtraError, StoreError, UsageError
from recllm.base.files import drafts_folder, sweep_drafts
from recllm.shop.ingest.column_names import candidates, normal
from recllm.shop.ingest.options import ColumnMap
from recllm.shop.ingest.read.records import unique_columns
from recllm.shop.workspace.workspace import UPLOADS, Workspace

BATCH_ROWS = 2_000
"""Rows in memory at a time."""
DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "mariadb": "pymysql"}
EXTRAS = {"psycopg": "postgres", "pymysql": "mysql"}
READ_ONLY = {
    "pysqlite": "PRAGMA query_only = ON",
    "psycopg": "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "pymysql": "SET SESSION TRANSACTION READ ONLY",
}
"""For all later transactions: a query may end its own."""
NUMBERS = (int, float, Decimal)
MARKS: Any = {kind.__name__: kind for kind in (*NUMBERS, str)}
MARKS |= {kind.__name__: kind.fromisoformat for kind in (date, datetime)}
"""Type of a mark -> how it is read back."""
CLOCK_ERROR = timedelta(days=1)
"""A time further ahead is a mistake, and no mark: it would hide all later rows."""
ISO_TIME = re.compile(r"\d{4}-\d\d-\d\d([T ][\d:.,+ Z-]*)?")

Rows = Sequence[Sequence[Any]]
Answer = tuple[Sequence[str], Iterator[Rows]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    url: sa.URL = field(repr=False)
    """May hold a password."""
    name: str
    text: str
    since: str | None = None
    loaded_as: tuple[str | None, ...] = ()
    """Table and map of the load."""

    @property
    def source(self) -> str:
        """Under which its mark is kept; holds no password."""
        url = self.url.set(password=None, query={})
        content = json.dumps([str(url), self.text, self.since, self.loaded_as])
        return f"query {hashlib.sha256(content.encode()).hexdigest()}"

    def since_mark(self, mark: Any, dialect: Any) -> str:
        """The query of the rows from the mark on, a number or a time."""
        # a comment at its end must not swallow what follows
        text = f"{self.text}\n"
        if mark is None or self.since is None:
            return text
        column = dialect.identifier_preparer.quote_identifier(self.since)
        literal = mark if isinstance(mark, NUMBERS) else f"'{mark}'"
        # rows without a value would never be seen
        where = f"WHERE {column} >= {literal} OR {column} IS NULL"
        return f"SELECT * FROM ({text}) recllm_rows {where}"  # noqa: S608

    def explained(self, error: BaseException) -> DataError:
        """The first line of a database's error, without a password."""
        lines = str(getattr(error, "orig", None) or error).splitlines()
        line = lines[0] if lines else type(error).__name__
        secrets = [self.url.password, *self.url.query.values()]
        for secret in map(str, filter(None, secrets)):
            line = line.replace(secret, "***").replace(quote(secret, safe=""), "***")
        return DataError(f"{self.name}: the database does not answer the query: {line}")


def read_query(
    address: str | None,
    file: Path | None,
    since: str | None = None,
    table: str | None = None,
    mapping: str | None = None,
) -> Query:
    """address: a URL, or env:NAME for one with a password. table, mapping: of the load.

    Raises `UsageError` for no URL, and a `since` of people: a mark would keep one.
    """
    from recllm.shop.ingest.options import load_map

    if address is None or file is None:
        raise UsageError("--sql URL and --query FILE go together")
    variable = address.removeprefix("env:")
    if variable != address:
        address = os.environ.get(variable, "")
    text = file.read_text("utf-8-sig", errors="replace").strip().rstrip(";")
    try:
        url = sa.make_url(re.sub("^postgres(?=:)", "postgresql", address))
    except (sa.exc.ArgumentError, ValueError):
        example = "postgresql://me@db.example/shop"
        hidden = "env:VARIABLE for one with a password, special letters as %xx"
        raise UsageError(f"--sql takes a URL such as {example}, or {hidden}") from None
    people = ColumnMap() if mapping is None else load_map(mapping)
    names = map(normal, people.columns.get("user_id", ()))
    if since is not None and normal(since) in {*candidates("user_id"), *names}:
        raise UsageError(f"--since {since} names people; give a column of times or numbers")
    name = re.sub(r"[^\w-]+", "-", file.stem) or "query"
    return Query(url=url, name=name, text=text, since=since, loaded_as=(table, mapping))


@contextmanager
def query_rows(workspace: Workspace, query: Query, *, dry_run: bool = False) -> Iterator[Path]:
    """A file of the rows since the last load of the query; of all without `since`.

    The mark moves when the block ends without an error, but for a `dry_run`.
    Raises `DataError` for what the database refuses, `UsageError` for no column of marks,
    `MissingExtraError` without its driver, `StoreError` where the rows cannot be kept.
    """
    folder, store = workspace.root / UPLOADS, workspace.store()
    mark = Mark()
    mark.read(store.read_mark(query.source))
    sweep_drafts(folder)
    with drafts_folder(folder) as drafts:
        path = drafts / query.name
        try:
            with answered(query, mark.value) as (columns, batches):
                unique_columns(columns, query.name, keeps_first=False)
                if query.since is not None:
                    batches = mark.raised(query.since, columns, batches)
                write_rows(path, columns, batches)
        except OSError as error:
            reason = f"{query.name}: no rows can be kept in {folder}: {error.strerror or error}"
            raise StoreError(reason) from error
        yield path
    if mark.value is not None and not dry_run:
        store.keep_mark(query.source, mark.text())


@dataclass(slots=True)
class Mark:
    value: Any = None
    """The highest of a column so far."""

    def read(self, text: str | None) -> None:
        if text is not None:
            kind, value = json.loads(text)
            self.value = MARKS[kind](value)

    def text(self) -> str:
        return json.dumps([type(self.value).__name__, str(self.value)])

    def raised(self, since: str, columns: Sequence[str], batches: Iterable[Rows]) -> Iterator[Rows]:
        """The batches; they raise the mark, but for times ahead of the clock."""
        if since not in columns:
            names = ", ".join(columns)
            raise UsageError(f"--since {since}: no such column; the query has {names}")
        position = columns.index(since)
        latest = (datetime.now(UTC) + CLOCK_ERROR).date().isoformat()
        for rows in batches:
            values = [row[position] for row in rows if row[position] is not None]
            past = [v for v in values if isinstance(v, NUMBERS) or str(v)[:10] <= latest]
            before = [] if self.value is None else [self.value]
            texts = [value for value in values if isinstance(value, str)]
            kinds = {type(value).__name__ for value in values}
            try:
                if not all(map(ISO_TIME.fullmatch, texts)) or not kinds <= MARKS.keys():
                    raise TypeError
                self.value = max([*before, *past], default=None)
            except TypeError:
                needed = "of times (as texts ISO 8601) or of numbers"
                raise UsageError(f"--since {since} is no column {needed}") from None
            yield rows


@contextmanager
def answered(query: Query, mark: Any) -> Iterator[Answer]:
    """Names of columns and batches of rows, from the mark on where there is one."""
    if query.url.get_backend_name() == "duckdb":
        with duckdb_answer(query, mark) as answer:
            yield answer
        return
    engine = open_database(query)
    options = {"stream_results": True, "yield_per": BATCH_ROWS, "no_parameters": True}
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(READ_ONLY[engine.driver])
            connection.commit()
            statement = query.since_mark(mark, engine.dialect)
            result = connection.exec_driver_sql(statement, execution_options=options)
            with closing(result):
                if not result.returns_rows:
                    raise UsageError(f"{query.name} is not one SELECT")
                yield list(result.keys()), iter(result.partitions())
    except (sa.exc.SQLAlchemyError, engine.dialect.loaded_dbapi.Error) as error:
        raise query.explained(error) from None
    finally:
        engine.dispose()


def open_database(query: Query) -> sa.Engine:
    """Raises `UsageError` for another kind of database, `MissingExtraError`."""
    backend = query.url.get_backend_name()
    common: Any = {"poolclass": sa.pool.NullPool, "hide_parameters": True}
    if backend == "sqlite":
        path = Path(query.url.database or "").absolute()
        connect = partial(sqlite3.connect, f"{path.as_uri()}?mode=ro", uri=True)
        return sa.create_engine("sqlite://", creator=connect, **common)
    if backend not in DRIVERS:
        others = ", ".join(("sqlite", *DRIVERS, "duckdb"))
        raise UsageError(f"--sql {backend}://...: takes {others}")
    driver = DRIVERS[backend]
    url = query.url.set(drivername=f"{backend}+{driver}")
    try:
        return sa.create_engine(url, **common)
    except ImportError as error:
        raise MissingExtraError(driver, EXTRAS[driver]) from error


@contextmanager
def duckdb_answer(query: Query, mark: Any) -> Iterator[Answer]:
    """`duckdb://` is for a query that names Parquet files, `duckdb:///FILE` for tables.

    Nothing is installed from elsewhere. The keys of S3 are those of the environment.
    """
    try:
        import duckdb
    except ModuleNotFoundError as error:
        raise MissingExtraError("duckdb", "duckdb") from error
    dialect = sa.engine.default.DefaultDialect()
    file = query.url.database
    extensions = ("autoinstall_known_extensions", "autoload_known_extensions")
    options: Any = dict.fromkeys(extensions, "false")
    try:
        with closing(duckdb.connect(file or ":memory:", bool(file), options)) as connection:
            commands = connection.extract_statements(query.text)
            if [command.type for command in commands] != [duckdb.StatementType.SELECT]:
                raise UsageError(f"{query.name} is not one SELECT")
            if re.search("s3a?://", query.text, re.IGNORECASE):
                from fsspec.implementations.arrow import ArrowFSWrapper
                from pyarrow.fs import S3FileSystem

                # DuckDB's own extension is not on the package index
                files = S3FileSystem(endpoint_override=os.environ.get("AWS_ENDPOINT_URL"))
                connection.register_filesystem(ArrowFSWrapper(files))
            cursor = connection.execute(query.since_mark(mark, dialect))
            columns = [column[0] for column in cursor.description]
            yield columns, iter(lambda: cursor.fetchmany(BATCH_ROWS), [])
    except duckdb.Error as error:
        raise query.explained(error) from None


def write_rows(path: Path, columns: Sequence[str], batches: Iterable[Rows]) -> None:
    """A Parquet file of texts. Raises `IngestError` E_NESTED for lists and bytes."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    schema = pa.schema([(column, pa.string()) for column in columns])
    # as large as its texts: what a packed file may hold is bounded by its size
    plain: Any = {"compression": "none", "use_dictionary": False}
    with ParquetWriter(path, schema, write_statistics=False, **plain) as writer:
        for rows in batches:
            texts = [
                [cell_text(cell, name) for cell in cells]
                for name, cells in zip(columns, zip(*rows, strict=True), strict=True)
            ]
            writer.write_table(pa.table(texts, schema=schema))


def cell_text(value: Any, column: str) -> str | None:
    """As files write it; a JSON document stays one."""
    if value is None:
        return None
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, bytes | bytearray | memoryview | list | tuple | set):
        remedy = "let the query make plain values of them"
        raise IngestError("E_NESTED", f"{column} holds lists or bytes; {remedy}")
    return str(value)
