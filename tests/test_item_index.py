"""One contract for every kind of item index, and what a catalogue makes of it."""

from __future__ import annotations

import importlib.util
import logging
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from postgres_server import DATABASE, PASSWORD, ROLE

from recllm.base.errors import MissingExtraError, ModelError, UsageError
from recllm.learn.features.item_index import catalogue as rules
from recllm.learn.features.item_index.catalogue import ABOUT, CatalogueIndex, IndexPlace, vectors_fingerprint

KINDS = ("faiss", "pgvector", "qdrant")
MODULES = {"faiss": "faiss", "qdrant": "qdrant_client", "pgvector": "psycopg"}
DIM = 16
MADE_BY = vectors_fingerprint("encoder", "v1", "en")

Floats = NDArray[np.float32]


def unit(rows: NDArray[Any]) -> Floats:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), np.float32)


def some_vectors(n: int, seed: int = 0) -> Floats:
    """Unit vectors around a few themes, as texts of a shop have."""
    rng = np.random.default_rng(seed)
    themes = rng.normal(size=(8, DIM))
    return unit(themes[rng.integers(8, size=n)] + 0.6 * rng.normal(size=(n, DIM)))


class Indexes:
    """Builds and opens indexes of a kind; closes them at the end."""

    def __init__(self, kind: str, url: str | None, folder: Path) -> None:
        self.place = IndexPlace(
            kind=kind,  # type: ignore[arg-type]
            folder=folder,
            url=url,
            collection="items",
            fingerprint=MADE_BY,
            n_rows=0,
        )
        self._open = list[Any]()

    def build(self, vectors: Floats, fingerprint: str = MADE_BY) -> Any:
        shutil.rmtree(self.place.folder, ignore_errors=True)
        self.place.folder.mkdir()
        self.place = replace(self.place, n_rows=len(vectors), fingerprint=fingerprint)
        return self._keep(self.place.build(vectors, self.place.folder))

    def open(self, **changes: Any) -> Any:
        return self._keep(replace(self.place, **changes).open())

    def _keep(self, index: Any) -> Any:
        self._open.append(index)
        return index

    def close(self) -> None:
        while self._open:
            self._open.pop().close()


@pytest.fixture(params=KINDS)
def indexes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Indexes]:
    kind = str(request.param)
    if importlib.util.find_spec(MODULES[kind]) is None:
        pytest.skip(f"the extra of {kind} is not installed")
    url = request.getfixturevalue("pgvector_url") if kind == "pgvector" else None
    if kind == "qdrant":  # the client's own server in memory, which outlives the indexes
        import qdrant_client

        url, client = "memory", qdrant_client.QdrantClient(":memory:")
        patch = request.getfixturevalue("monkeypatch")
        patch.setattr(client, "close", lambda: None)
        patch.setattr("recllm.learn.features.item_index.qdrant.connect", lambda url: client)
    made = Indexes(kind, url, tmp_path / "index")
    yield made
    made.close()


@pytest.fixture(scope="session")
def pgvector(postgres_server: Any) -> Any:
    """A server that has the extension; it is made by its administrator, as a shop's would."""
    with postgres_server.admin(DATABASE) as connection:
        there = connection.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'").fetchone()
        if there is None:
            pytest.skip("the PostgreSQL server has no pgvector: apt-get install postgresql-NN-pgvector")
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector SCHEMA public")
    return postgres_server


@pytest.fixture
def pgvector_url(pgvector: Any) -> str:
    import psycopg

    url = str(pgvector.url())
    with psycopg.connect(
        host="127.0.0.1", port=pgvector.port, user=ROLE, password=PASSWORD, dbname=DATABASE, autocommit=True
    ) as connection:
        connection.execute("CREATE SCHEMA " + url.rsplit("schema=", 1)[1])
    return url


@pytest.fixture
def graph_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small catalogues are asked of the kind itself, and not gone through one by one."""
    monkeypatch.setattr(rules, "EXACT_ITEMS", 0)


def best(vectors: Floats, query: Floats, k: int, allowed: NDArray[np.bool_]) -> list[int]:
    """Rows of the k highest products of allowed items, the plain way."""
    return np.argsort(np.where(allowed, -(vectors @ query), np.inf), kind="stable")[:k].tolist()


def test_candidates_hold_the_nearest_items(indexes: Indexes) -> None:
    """Also of a query of any length, and of items whose vectors are equal."""
    vectors = np.concatenate([some_vectors(400), np.repeat(unit(np.eye(DIM)[:1]), 12, axis=0)])
    index, everything = indexes.build(vectors), np.ones(412, bool)
    queries = np.concatenate([vectors[:20], some_vectors(20, seed=5), (3 * vectors[11] - vectors[12])[None]])
    recalls = []
    for query, rows in zip(queries, index.candidates(queries, 40), strict=True):
        assert len(set(rows.tolist())) == len(rows) <= 412 and len(rows) >= 20
        recalls.append(np.isin(best(vectors, query, 10, everything), rows).mean())
    assert np.mean(recalls) >= 0.95
    (twins,) = index.candidates(vectors[-1:], 30)
    assert set(range(400, 412)) <= set(twins.tolist())
    (all_rows,) = index.candidates(vectors[:1], 500)
    assert set(all_rows.tolist()) <= set(range(412)) and len(all_rows) >= 400
    reopened = [set(rows.tolist()) for rows in indexes.open().candidates(queries, 40)]
    assert reopened == [set(rows.tolist()) for rows in index.candidates(queries, 40)]


def test_a_filter_never_leaves_fewer_than_there_are(indexes: Indexes, graph_for_all: None) -> None:
    """Where a graph or lists do not reach, all items are to be compared."""
    vectors = some_vectors(600)
    index = indexes.build(vectors)
    for n_allowed in (0, 1, 4, 30, 300, 599, 600):
        order = np.argsort(vectors @ vectors[3])  # those farthest from the query
        allowed = np.zeros(600, bool)
        allowed[order[:n_allowed]] = True
        near = CatalogueIndex(lambda: index, 600).nearest(vectors[3:4], 10, allowed)
        if near is not None:
            assert allowed[near[0]].all() and len(near[0]) >= min(10, n_allowed)
            nearest = best(vectors, vectors[3], min(5, n_allowed), allowed)
            assert np.isin(nearest, near[0]).sum() >= 0.8 * len(nearest)


def test_items_behind_those_of_the_index_are_always_among_them(graph_for_all: None) -> None:
    class Two:
        def candidates(self, queries: Floats, n: int) -> Iterable[NDArray[np.int64]]:
            return [np.array([1, 0, 5])] * len(queries)  # 5: of an index that has grown since

        def close(self) -> None: ...

    index, query = CatalogueIndex(Two, 2), np.ones((2, 3), np.float32)
    near = index.nearest(query, 2, np.ones(4, bool))
    assert near is not None and [sorted(rows.tolist()) for rows in near] == [[0, 1, 2, 3]] * 2
    near = index.nearest(query, 2, np.array([False, True, True, False]))
    assert near is not None and sorted(near[0].tolist()) == [1, 2]
    assert index.nearest(np.zeros((1, 3), np.float32), 2, np.ones(4, bool)) is None, "nothing is near to nothing"


def test_an_index_of_something_else_is_refused(indexes: Indexes, tmp_path: Path) -> None:
    """Also by a process that has it open, when its server holds another one."""
    vectors = some_vectors(60)
    earlier = indexes.build(vectors)
    for other in (("encoder 2", "v1", "en"), ("encoder", "v2", "en"), ("encoder", "v1", "zh")):
        with pytest.raises(ModelError, match="another model or encoder; build it again with: recllm refresh --index"):
            indexes.open(fingerprint=vectors_fingerprint(*other))
    with pytest.raises(ModelError, match="there is no item index"):
        indexes.open(folder=tmp_path / "nothing")
    indexes.build(-vectors, vectors_fingerprint("encoder", "v2", "en"))
    if indexes.place.kind != "faiss":
        with pytest.raises(ModelError):
            list(earlier.candidates(vectors[:1], 5))
    (rows,) = indexes.open().candidates(-vectors[:1], 5)
    assert 0 in rows


def test_a_file_that_is_missing_or_cut_is_refused(indexes: Indexes, tmp_path: Path) -> None:
    indexes.build(some_vectors(60))
    indexes.close()
    names = sorted(path.name for path in indexes.place.folder.iterdir())
    assert ABOUT in names
    for name in names:
        for damage in ("missing", "cut", "changed"):
            broken = tmp_path / "broken"
            shutil.rmtree(broken, ignore_errors=True)
            shutil.copytree(indexes.place.folder, broken)
            content = (broken / name).read_bytes()
            if damage == "missing":
                (broken / name).unlink()
            elif damage == "cut":
                (broken / name).write_bytes(content[: len(content) // 2])
            elif name != ABOUT:
                (broken / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            else:
                (broken / name).write_bytes(content.replace(b'"format": 2', b'"format": 99'))
            with pytest.raises(ModelError, match="recllm refresh --index"):
                indexes.open(folder=broken)


def test_a_server_that_fails_is_asked_again_later(
    graph_for_all: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing:
        fails = True

        def candidates(self, queries: Floats, n: int) -> Iterable[NDArray[np.int64]]:
            if self.fails:
                raise ModelError("the server is down")
            return [np.array([1])]

        def close(self) -> None: ...

    index, clock = Failing(), [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    served, query, everything = CatalogueIndex(lambda: index, 2), np.ones((1, 2), np.float32), np.ones(2, bool)
    with caplog.at_level(logging.WARNING, "recllm"):
        assert served.nearest(query, 1, everything) is None
    assert "all items are compared: the server is down" in caplog.text
    index.fails = False
    assert served.nearest(query, 1, everything) is None, "not at once"
    clock[0] += rules.RETRY_SECONDS
    near = served.nearest(query, 1, everything)
    assert near is not None and near[0].tolist() == [1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_extra_is_named(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == MODULES[kind]]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, MODULES[kind], None)
    extra = "postgres" if kind == "pgvector" else kind
    indexes = Indexes(kind, "postgresql://nobody@127.0.0.1:1/none", tmp_path / "index")
    with pytest.raises(MissingExtraError, match=rf"pip install 'recllm\[{extra}\]'"):
        indexes.build(some_vectors(3))


@pytest.mark.parametrize("kind", ["pgvector", "qdrant"])
def test_a_server_that_is_not_there_is_one_clear_error(kind: str, tmp_path: Path) -> None:
    pytest.importorskip(MODULES[kind])
    with pytest.raises(UsageError, match="needs a server; set"):
        Indexes(kind, None, tmp_path / "index").build(some_vectors(3))
    url = "postgresql://nobody@127.0.0.1:1/none" if kind == "pgvector" else "http://127.0.0.1:1"
    with pytest.raises(ModelError, match=r"cannot be used: .*check its server"):
        Indexes(kind, url, tmp_path / "index").build(some_vectors(3))


def test_a_collection_in_a_folder_outlives_its_process(tmp_path: Path) -> None:
    """And takes the place of earlier ones, those of older recllm among them."""
    client = pytest.importorskip("qdrant_client").QdrantClient(path=str(tmp_path / "qdrant"))
    vectors = client_vectors(client)
    client.close()
    indexes = Indexes("qdrant", str(tmp_path / "qdrant"), tmp_path / "index")
    indexes.build(vectors)
    with pytest.raises(ModelError, match="already accessed"):
        indexes.open()
    indexes.close()
    indexes.build(-vectors, vectors_fingerprint("encoder", "v2", "en"))
    indexes.close()
    opened = indexes.open()
    names = {described.name for described in opened._client.get_collections().collections}
    assert len(names) == 2 and "items-of-another-shop" in names
    assert [rows.tolist() for rows in opened.candidates(-vectors, 1)] == [[0], [1]]
    opened.close()


def client_vectors(client: Any) -> Floats:
    """Two vectors, after collections of an older recllm and of another workspace were made."""
    from qdrant_client import models

    for name in ("items", "items-of-another-shop"):
        config = models.VectorParams(size=DIM, distance=models.Distance.DOT)
        client.create_collection(name, vectors_config=config)
    return some_vectors(2)
