"""pgvector: the vectors in the shop's PostgreSQL, where the store's rows are (extra `postgres`).

Two tables of the store's schema: `item_vectors` with a graph over it (HNSW), and `item_vectors_about` with the
fingerprint of what made them. An index takes the place of an earlier one in one transaction.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from recllm.base.arrays import Floats, Ints
from recllm.base.errors import MissingExtraError, ModelError
from recllm.learn.features.item_index.catalogue import REMEDY, IndexPlace

MAX_DIM = 2_000
"""Dimensions that a graph of pgvector takes."""
EXPANSION_SEARCH = 400
"""Candidates that are compared for a query; pgvector takes 1,000 at most."""
LEAST_VERSION = (0, 8)
"""Which goes on through the graph until there are as many as its LIMIT asks for."""
SEARCH_SETTINGS = {
    "hnsw.iterative_scan": "strict_order",
    "enable_seqscan": "off",  # the planner takes the graph for dearer than it is
}
BY_GRAPH = "SELECT row_no FROM item_vectors ORDER BY vector <#> CAST(:query AS vector) LIMIT :n"


class PostgresIndex:
    """Vectors in two tables of a schema."""

    def __init__(self, engine: sa.Engine, fingerprint: str) -> None:
        self._engine, self._fingerprint = engine, fingerprint

    @classmethod
    def build(cls, where: IndexPlace, vectors: Floats, folder: Path) -> PostgresIndex:
        """Raises `ModelError` without pgvector 0.8 on the server."""
        dim, fingerprint = vectors.shape[1], where.fingerprint
        if dim > MAX_DIM:
            raise ModelError(f"pgvector's graph takes {MAX_DIM} dimensions, not {dim}; use item_index.kind=faiss")
        engine = open_engine(where.server())
        with _explained(), engine.begin() as connection:
            _require_extension(connection)
            for statement in (
                "DROP TABLE IF EXISTS item_vectors, item_vectors_about",
                f"CREATE TABLE item_vectors (row_no bigint PRIMARY KEY, vector vector({dim}) NOT NULL)",
                "CREATE TABLE item_vectors_about (fingerprint text NOT NULL)",
            ):
                connection.exec_driver_sql(statement)
            _run(connection, "INSERT INTO item_vectors_about VALUES (:fingerprint)", fingerprint=fingerprint)
            driver: Any = connection.connection
            with driver.cursor() as cursor, cursor.copy("COPY item_vectors (row_no, vector) FROM STDIN") as copy:
                for row, vector in enumerate(vectors):
                    copy.write_row((row, _text(vector)))
            # made after the rows, which takes a part of the time
            connection.exec_driver_sql(
                "CREATE INDEX item_vectors_graph ON item_vectors USING hnsw (vector vector_ip_ops)"
            )
        return cls(engine, fingerprint)

    @classmethod
    def open(cls, where: IndexPlace) -> PostgresIndex:
        """Raises `ModelError` where the tables are missing, or were made of other vectors."""
        index = cls(open_engine(where.server()), where.fingerprint)
        with _explained(), index._engine.begin() as connection:
            index._check(connection)
        return index

    def candidates(self, queries: Floats, n: int) -> Iterable[Ints]:
        settings = SEARCH_SETTINGS | {"hnsw.ef_search": str(min(max(n, EXPANSION_SEARCH), 1_000))}
        with _explained(), self._engine.begin() as connection:
            self._check(connection)
            for name, value in settings.items():
                _run(connection, "SELECT set_config(:name, :value, true)", name=name, value=value)
            for query in queries:
                rows = _run(connection, BY_GRAPH, query=_text(query), n=n).scalars().all()
                yield np.array(rows, np.int64)

    def _check(self, connection: sa.Connection) -> None:
        exists = _run(connection, "SELECT to_regclass('item_vectors_about')").scalar()
        stored = _run(connection, "SELECT fingerprint FROM item_vectors_about").scalar() if exists else None
        if stored != self._fingerprint:
            raise ModelError(f"the database has no item index of this model and encoder; {REMEDY}")

    def close(self) -> None:
        self._engine.dispose()


def open_engine(url: str) -> sa.Engine:
    """An engine of a URL as `store` in the settings has it.
    Raises `MissingExtraError` without psycopg."""
    address = sa.make_url(url)
    query = dict(address.query)
    schema = query.pop("schema", "recllm")
    if not (isinstance(schema, str) and re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", schema)):
        raise ModelError(f"the schema {schema!r} is not a name such as shop_1; use a to z, digits and '_'")
    query["options"] = f"{query.get('options', '')} -csearch_path={schema},public".strip()
    query = {"connect_timeout": "10", **query, "client_encoding": "utf8"}
    try:
        return sa.create_engine(
            address.set(drivername="postgresql+psycopg", query=query), pool_pre_ping=True, hide_parameters=True
        )
    except ImportError as error:
        raise MissingExtraError("psycopg", "postgres") from error


def _require_extension(connection: sa.Connection) -> None:
    stated = "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
    version = _run(connection, stated).scalar()
    if version is None:
        try:
            with connection.begin_nested():
                connection.exec_driver_sql("CREATE EXTENSION vector SCHEMA public")
        except sa.exc.DBAPIError as error:
            raise ModelError(
                "the database has no pgvector: install it on the server (Debian: postgresql-NN-pgvector), and let its "
                "administrator run: CREATE EXTENSION vector SCHEMA public"
            ) from error
        version = _run(connection, stated).scalar()
    if tuple(int(block) for block in re.findall(r"\d+", str(version))[:2]) < LEAST_VERSION:
        raise ModelError(
            f"pgvector {version} leaves filters short; 0.8 or newer is needed: ALTER EXTENSION vector UPDATE"
        )


def _run(connection: sa.Connection, statement: str, **arguments: Any) -> sa.CursorResult[Any]:
    return connection.execute(sa.text(statement), arguments)


def _text(vector: Floats) -> str:
    """As pgvector reads it; nine digits are a float32 exactly."""
    return "[" + ",".join(f"{value:.9g}" for value in vector.tolist()) + "]"


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except sa.exc.DBAPIError as error:
        cause = " ".join(str(error.orig).split())[:200]
        raise ModelError(
            f"the item index in PostgreSQL cannot be used: {cause}; check its server and its rights"
        ) from error
