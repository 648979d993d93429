"""pgvector: the vectors in the shop's PostgreSQL, where the store's rows are (extra `postgres`).

Two tables of the store's schema: `item_vectors` with a graph over it (HNSW), and `item_vectors_about` with the
fingerprint. A condition behind a graph leaves fewer rows than its LIMIT, because the graph is left too early (pgvector
issues 719 and 721): scans go on until there are enough (`hnsw.iterative_scan`, pgvector 0.8), and a narrow filter is
answered without the graph.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import sqlalchemy as sa

from recllm.base.errors import MissingExtraError, ModelError
from recllm.learn.features.item_index.record import write_about
from recllm.learn.features.item_index.rows import Floats, Ints, ItemIndex, padded

TABLES = ("item_vectors", "item_vectors_about")
MAX_DIM = 2_000
"""Dimensions that a graph of pgvector takes."""
EXPANSION_SEARCH = 400
"""Candidates that are compared for a query; pgvector takes 1,000 at most."""
LEAST_VERSION = (0, 8)
BATCH = 5_000
"""Rows of one statement."""

_BY_GRAPH = """SELECT row_no, -(vector <#> CAST(:query AS vector)) AS product FROM item_vectors
ORDER BY vector <#> CAST(:query AS vector) LIMIT :n"""
_OF_ALL = """SELECT row_no, -(vector <#> CAST(:query AS vector)) AS product FROM item_vectors
ORDER BY product DESC, row_no LIMIT :n"""
_OF_SOME = """SELECT row_no, -(vector <#> CAST(:query AS vector)) AS product FROM item_vectors
WHERE row_no = ANY(:rows) ORDER BY product DESC, row_no LIMIT :n"""


class PostgresIndex(ItemIndex):
    """Vectors in two tables of a schema. Ids are read once, when it is opened."""

    kind = "pgvector"

    def __init__(self, engine: sa.Engine, dim: int, fingerprint: str, item_ids: pl.Series | None = None) -> None:
        super().__init__(dim, fingerprint, item_ids)
        self._engine = engine

    @classmethod
    def create(cls, url: str, dim: int, fingerprint: str) -> PostgresIndex:
        """Empty tables, in the place of earlier ones. Raises `ModelError` without pgvector 0.8 on the server."""
        if dim > MAX_DIM:
            raise ModelError(f"pgvector's graph takes {MAX_DIM} dimensions, not {dim}; use item_index.kind=faiss")
        engine = open_engine(url)
        with _explained(), engine.begin() as connection:
            _require_extension(connection)
            connection.exec_driver_sql("DROP TABLE IF EXISTS item_vectors, item_vectors_about")
            connection.exec_driver_sql(
                "CREATE TABLE item_vectors (row_no bigint PRIMARY KEY, item_id text NOT NULL, "
                f"vector vector({dim}) NOT NULL)"
            )
            connection.exec_driver_sql(
                "CREATE TABLE item_vectors_about (fingerprint text NOT NULL, n_rows bigint NOT NULL)"
            )
            _run(connection, "INSERT INTO item_vectors_about VALUES (:fingerprint, 0)", fingerprint=fingerprint)
        return cls(engine, dim, fingerprint)

    @classmethod
    def open(cls, url: str, dim: int, fingerprint: str) -> PostgresIndex:
        """Raises `ModelError` where the tables are missing, or were made of other vectors."""
        engine = open_engine(url)
        with _explained(), engine.connect() as connection:
            if not all(_run(connection, "SELECT to_regclass(:name)", name=n).scalar() for n in TABLES):
                raise ModelError("the database has no table item_vectors; build it again with: recllm refresh --index")
            _require_extension(connection)
            about = _run(connection, "SELECT fingerprint, n_rows FROM item_vectors_about").one()
            if about.fingerprint != fingerprint:
                raise ModelError(
                    "the table item_vectors holds vectors of another model or encoder; "
                    "build it again with: recllm refresh --index"
                )
            rows = _run(connection, "SELECT row_no, item_id FROM item_vectors").all()
        item_ids = np.full(about.n_rows, None, object)
        item_ids[[row.row_no for row in rows]] = [row.item_id for row in rows]
        return cls(engine, dim, fingerprint, pl.Series("item_id", item_ids.tolist(), dtype=pl.String))

    def _candidates(self, queries: Floats, n: int) -> Iterable[tuple[Ints, Floats]]:
        settings = {"hnsw.ef_search": min(max(n, EXPANSION_SEARCH), 1_000), "hnsw.iterative_scan": "strict_order"}
        settings["enable_seqscan"] = "off"  # the planner takes the graph for dearer than it is
        yield from self._answers(_BY_GRAPH, queries, settings, n=n)

    def _exact(self, queries: Floats, k: int, rows: Ints | None) -> tuple[Ints, Floats]:
        # an order that no graph has: all rows are compared
        statement, listed = (_OF_ALL, {}) if rows is None else (_OF_SOME, {"rows": rows.tolist()})
        return padded(self._answers(statement, queries, {}, n=k, **listed), k)

    def _answers(
        self, statement: str, queries: Floats, settings: dict[str, Any], **arguments: Any
    ) -> Iterator[tuple[Ints, Floats]]:
        with _explained(), self._engine.begin() as connection:
            for name, value in settings.items():
                _run(connection, "SELECT set_config(:name, :value, true)", name=name, value=str(value))
            for query in queries:
                rows = _run(connection, statement, query=_text(query), **arguments).all()
                numbers = np.array([row.row_no for row in rows], np.int64)
                yield numbers, np.array([row.product for row in rows], np.float32)

    def _put(self, rows: Ints, vectors: Floats, item_ids: list[str], n_rows: int) -> None:
        with _explained(), self._engine.begin() as connection:
            graph = _run(connection, "SELECT to_regclass(:name)", name="item_vectors_graph").scalar()
            for start in range(0, len(rows), BATCH):
                block = slice(start, start + BATCH)
                _run(connection, "DELETE FROM item_vectors WHERE row_no = ANY(:rows)", rows=rows[block].tolist())
                driver: Any = connection.connection
                statement = "COPY item_vectors (row_no, item_id, vector) FROM STDIN"
                with driver.cursor() as cursor, cursor.copy(statement) as copy:
                    for row, item_id, vector in zip(rows[block].tolist(), item_ids[block], vectors[block], strict=True):
                        copy.write_row((row, item_id, _text(vector)))
            _run(connection, "UPDATE item_vectors_about SET n_rows = :n_rows", n_rows=n_rows)
            if graph is None:  # made after the first rows, which takes a part of the time
                connection.exec_driver_sql(
                    "CREATE INDEX item_vectors_graph ON item_vectors USING hnsw (vector vector_ip_ops)"
                )

    def _remove(self, rows: Ints) -> None:
        with _explained(), self._engine.begin() as connection:
            _run(connection, "DELETE FROM item_vectors WHERE row_no = ANY(:rows)", rows=rows.tolist())

    def vectors_of(self, rows: Ints) -> Floats:
        vectors = np.zeros((len(rows), self.dim), np.float32)
        with _explained(), self._engine.connect() as connection:
            for start in range(0, len(rows), BATCH):
                block = rows[start : start + BATCH].tolist()
                statement = "SELECT row_no, CAST(vector AS text) AS numbers FROM item_vectors WHERE row_no = ANY(:rows)"
                texts = {row.row_no: row.numbers for row in _run(connection, statement, rows=block)}
                for position, row in enumerate(block, start):
                    if row in texts:
                        vectors[position] = np.fromstring(texts[row][1:-1], np.float32, sep=",")
        return vectors

    def set_fingerprint(self, fingerprint: str) -> None:
        """The vectors are those of another model or encoder from now on."""
        with _explained(), self._engine.begin() as connection:
            _run(connection, "UPDATE item_vectors_about SET fingerprint = :fingerprint", fingerprint=fingerprint)
        self.fingerprint = fingerprint

    def save(self, folder: Path) -> None:
        self.set_fingerprint(self.fingerprint)
        write_about(folder, {"kind": self.kind, "fingerprint": self.fingerprint, "dim": self.dim}, [])

    def close(self) -> None:
        self._engine.dispose()


def open_engine(url: str) -> sa.Engine:
    """An engine of a URL as `store` in the settings has it. Raises `MissingExtraError` without psycopg."""
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
    version = _run(connection, "SELECT extversion FROM pg_extension WHERE extname = 'vector'").scalar()
    if version is None:
        try:
            with connection.begin_nested():
                connection.exec_driver_sql("CREATE EXTENSION vector SCHEMA public")
        except sa.exc.DBAPIError as error:
            raise ModelError(
                "the database has no pgvector: install it on the server (Debian: postgresql-NN-pgvector), and let its "
                "administrator run: CREATE EXTENSION vector SCHEMA public"
            ) from error
        version = _run(connection, "SELECT extversion FROM pg_extension WHERE extname = 'vector'").scalar()
    numbers = tuple(int(block) for block in re.findall(r"\d+", str(version))[:2])
    if numbers < LEAST_VERSION:
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
