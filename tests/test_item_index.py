"""One contract for every kind of item index."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from recllm.base.errors import MissingExtraError, ModelError, UsageError
from recllm.learn.features.item_index import rows as row_rules
from recllm.learn.features.item_index.opening import new_index, open_index
from recllm.learn.features.item_index.record import ABOUT, vectors_fingerprint
from recllm.learn.features.item_index.rows import ExactIndex, ItemIndex

KINDS = ("exact", "faiss", "pgvector", "qdrant")
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
    """Makes and opens indexes of a kind; closes them at the end."""

    def __init__(self, kind: str, url: str | None) -> None:
        self.kind, self.url, self._open = kind, url, list[ItemIndex]()

    def new(self, dim: int = DIM, fingerprint: str = MADE_BY) -> Any:
        self.close()
        return self._keep(new_index(self.kind, dim, fingerprint, url=self.url))  # type: ignore[arg-type]

    def open(self, folder: Path, fingerprint: str | None = MADE_BY) -> Any:
        self.close()
        return self._keep(open_index(folder, fingerprint, url=self.url))

    def filled(self, n: int, seed: int = 0) -> tuple[Any, Floats]:
        index, vectors = self.new(), some_vectors(n, seed)
        index.upsert([f"i{row}" for row in range(n)], vectors)
        return index, vectors

    def _keep(self, index: ItemIndex) -> ItemIndex:
        self._open.append(index)
        return index

    def close(self) -> None:
        while self._open:
            self._open.pop().close()


@pytest.fixture(params=KINDS)
def indexes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Indexes]:
    kind = str(request.param)
    if kind in MODULES and importlib.util.find_spec(MODULES[kind]) is None:
        pytest.skip(f"the extra of {kind} is not installed")
    url = request.getfixturevalue("pgvector_url") if kind == "pgvector" else None
    if kind == "qdrant":  # the client's own server in memory, which outlives the indexes
        import qdrant_client

        url, client = "memory", qdrant_client.QdrantClient(":memory:")
        patch = request.getfixturevalue("monkeypatch")
        patch.setattr(client, "close", lambda: None)
        patch.setattr("recllm.learn.features.item_index.qdrant.connect", lambda url: client)
    made = Indexes(kind, url)
    yield made
    made.close()


@pytest.fixture(scope="session")
def pgvector(postgres_server: Any) -> Any:
    """A server that has the extension; it is made by its administrator, as a shop's would."""
    from postgres_server import DATABASE

    with postgres_server.admin(DATABASE) as connection:
        there = connection.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'").fetchone()
        if there is None:
            pytest.skip("the PostgreSQL server has no pgvector: apt-get install postgresql-NN-pgvector")
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector SCHEMA public")
    return postgres_server


@pytest.fixture
def pgvector_url(pgvector: Any) -> str:
    import psycopg
    from postgres_server import DATABASE, PASSWORD, ROLE

    url = str(pgvector.url())
    with psycopg.connect(
        host="127.0.0.1", port=pgvector.port, user=ROLE, password=PASSWORD, dbname=DATABASE, autocommit=True
    ) as connection:
        connection.execute("CREATE SCHEMA " + url.rsplit("schema=", 1)[1])
    return url


@pytest.fixture
def graph_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small catalogues are asked of the kind itself, and not gone through one by one."""
    monkeypatch.setattr(row_rules, "EXACT_ITEMS", 0)


def best(vectors: Floats, query: Floats, k: int, allowed: NDArray[np.bool_] | None = None) -> list[float]:
    """The k highest products, the plain way."""
    products = vectors @ query
    return sorted(products[slice(None) if allowed is None else allowed].tolist(), reverse=True)[:k]


def recall(index: Any, vectors: Floats, queries: Floats, k: int) -> float:
    """Share of the k highest products that were returned; equal ones count as the same."""
    found = index.search(queries, k).cosine
    return float(np.mean([(found[n] >= best(vectors, query, k)[-1] - 1e-5).mean() for n, query in enumerate(queries)]))


def test_it_finds_what_was_added(indexes: Indexes, graph_for_all: None) -> None:
    index, vectors = indexes.filled(400)
    assert len(index) == 400 and index.item_ids.to_list() == [f"i{row}" for row in range(400)]
    near = index.search(vectors[:50], 5)
    assert near.rows.shape == near.cosine.shape == (50, 5)
    assert near.rows[:, 0].tolist() == list(range(50)) and np.allclose(near.cosine[:, 0], 1, atol=1e-5)
    assert (np.diff(near.cosine, axis=1) <= 1e-6).all(), "best first"
    assert recall(index, vectors, some_vectors(20, seed=5), 10) >= 0.95
    single = index.search(vectors[7], 1)
    assert single.rows.tolist() == [[7]]


def test_the_product_is_told_as_it_is(indexes: Indexes, graph_for_all: None) -> None:
    """Of a query of any length: whoever takes something off the query may compare the products."""
    index, vectors = indexes.filled(200)
    query = 3 * vectors[11] - vectors[12]
    near = index.search(query, 6)
    np.testing.assert_allclose(near.cosine[0], vectors[near.rows[0]] @ query, atol=1e-4)
    np.testing.assert_allclose(near.cosine[0], best(vectors, query, 6), atol=1e-4)
    nothing = index.search(np.zeros(DIM, np.float32), 3)
    assert (nothing.rows >= 0).all() and np.allclose(nothing.cosine, 0)


@pytest.mark.parametrize("n_allowed", [1, 4, 60, 390])
def test_a_filter_never_leaves_fewer_than_there_are(indexes: Indexes, graph_for_all: None, n_allowed: int) -> None:
    index, vectors = indexes.filled(400)
    mask = np.zeros(400, bool)
    mask[np.random.default_rng(1).choice(400, n_allowed, replace=False)] = True
    ids = [f"i{row}" for row in np.flatnonzero(mask)]
    for query in some_vectors(4, seed=9):
        by_mask, by_ids = index.search(query, 10, mask), index.search(query, 10, [*ids, "unknown"])
        count = min(10, n_allowed)
        for near in (by_mask, by_ids):
            assert (near.rows[0, :count] >= 0).all() and (near.rows[0, count:] == -1).all()
            assert np.isnan(near.cosine[0, count:]).all() and mask[near.rows[0, :count]].all()
        wanted = best(vectors, query, count, mask)
        assert np.mean(by_mask.cosine[0, :count] >= wanted[-1] - 1e-5) >= 0.9


def test_a_filter_far_from_the_query_is_filled_too(indexes: Indexes, graph_for_all: None) -> None:
    """What a graph or lists would never reach from there: the 30 farthest of 600, which are 5 %."""
    index, vectors = indexes.filled(600)
    query = vectors[3]
    farthest = np.argsort(vectors @ query)[:30]
    mask = np.zeros(600, bool)
    mask[farthest] = True
    near = index.search(query, 30, mask)
    assert set(near.rows[0].tolist()) == set(farthest.tolist())
    nothing = index.search(query, 5, np.zeros(600, bool))
    assert (nothing.rows == -1).all() and np.isnan(nothing.cosine).all()
    assert (index.search(query, 5, []).rows == -1).all()


def test_an_update_moves_an_item_and_keeps_its_row(indexes: Indexes, graph_for_all: None) -> None:
    index, vectors = indexes.filled(200)
    moved = unit(-vectors[:1])
    index.upsert(["i0", "new"], np.concatenate([moved, vectors[:1]]))
    assert len(index) == 201 and index.item_ids.to_list()[-1] == "new"
    assert index.search(vectors[0], 1).rows.tolist() == [[200]]
    assert index.search(moved[0], 1).rows.tolist() == [[0]]
    np.testing.assert_allclose(index.vectors_of(np.array([0, 200])), [moved[0], vectors[0]], atol=1e-6)
    index.upsert(["i0", "i0"], np.concatenate([moved, vectors[:1]]))
    assert len(index) == 201
    assert np.allclose(index.search(vectors[0], 2).cosine, 1, atol=1e-5), (
        "of an id that comes twice the last one counts"
    )


def test_what_is_deleted_is_not_found(indexes: Indexes, graph_for_all: None) -> None:
    index, vectors = indexes.filled(200)
    assert index.delete(["i5", "i6", "unknown"]) == 2 and index.delete(["i5"]) == 0
    assert len(index) == 198 and index.item_ids[5] is None and index.item_ids[7] == "i7"
    everything = index.search(vectors[5], 200).rows[0]
    assert not {5, 6} & set(everything.tolist()) and (everything >= 0).sum() == 198
    assert (index.search(vectors[5], 3, ["i5"]).rows == -1).all()
    index.upsert(["i5"], vectors[5:6])
    assert index.item_ids[200] == "i5" and index.search(vectors[5], 1).rows.tolist() == [[200]]
    assert index.delete([f"i{row}" for row in range(200)]) == 199 and len(index) == 0
    assert (index.search(vectors[5], 3).rows == -1).all()


def test_a_saved_index_answers_as_before_and_can_be_changed(
    indexes: Indexes, graph_for_all: None, tmp_path: Path
) -> None:
    index, vectors = indexes.filled(300)
    index.delete(["i1"])
    queries = some_vectors(10, seed=3)
    before = index.search(queries, 8)
    folder = tmp_path / "index"
    folder.mkdir()
    index.save(folder)
    opened = indexes.open(folder)
    assert opened.kind == indexes.kind and len(opened) == 299 and opened.fingerprint == MADE_BY
    assert opened.item_ids[1] is None
    np.testing.assert_array_equal(opened.search(queries, 8).rows, before.rows)
    opened.upsert(["i2", "late"], unit(-vectors[2:4]))
    opened.delete(["i4"])
    assert opened.search(-vectors[3], 1).rows.tolist() == [[300]]
    again = tmp_path / "again"
    again.mkdir()
    opened.save(again)
    reopened = indexes.open(again)
    assert len(reopened) == 299 and reopened.item_ids.to_list()[-1] == "late"
    assert reopened.search(-vectors[3], 1).rows.tolist() == [[300]]


def test_vectors_of_something_else_are_refused(indexes: Indexes, tmp_path: Path) -> None:
    index, _ = indexes.filled(20)
    folder = tmp_path / "index"
    folder.mkdir()
    index.save(folder)
    for other in (("encoder 2", "v1", "en"), ("encoder", "v2", "en"), ("encoder", "v1", "zh")):
        with pytest.raises(ModelError, match="another model or encoder; build it again with: recllm refresh --index"):
            indexes.open(folder, vectors_fingerprint(*other))
    assert len(indexes.open(folder, None)) == 20, "whoever brings it up to date opens it all the same"


def test_a_file_that_is_missing_or_cut_is_refused(indexes: Indexes, tmp_path: Path) -> None:
    index, _ = indexes.filled(60)
    folder = tmp_path / "index"
    folder.mkdir()
    index.save(folder)
    indexes.close()
    with pytest.raises(ModelError, match="there is no item index"):
        open_index(tmp_path / "nothing", MADE_BY, url=indexes.url)
    names = sorted(path.name for path in folder.iterdir())
    assert ABOUT in names
    for name in names:
        for what in ("missing", "cut", "changed"):
            broken = tmp_path / "broken"
            shutil.rmtree(broken, ignore_errors=True)
            shutil.copytree(folder, broken)
            content = (broken / name).read_bytes()
            if what == "missing":
                (broken / name).unlink()
            elif what == "cut":
                (broken / name).write_bytes(content[: len(content) // 2])
            elif name != ABOUT:
                (broken / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            else:
                (broken / name).write_text(json.dumps(json.loads(content) | {"format": 99}))
            with pytest.raises(ModelError, match="recllm refresh --index"):
                open_index(broken, MADE_BY, url=indexes.url)


def test_an_empty_index_finds_nothing(indexes: Indexes, graph_for_all: None, tmp_path: Path) -> None:
    index = indexes.new()
    index.upsert([], np.zeros((0, DIM), np.float32))
    assert len(index) == 0 and not len(index.item_ids) and index.delete(["x"]) == 0
    near = index.search(some_vectors(2), 3)
    assert near.rows.shape == (2, 3) and (near.rows == -1).all() and np.isnan(near.cosine).all()
    assert index.search(np.zeros((0, DIM), np.float32), 3).rows.shape == (0, 3)
    (tmp_path / "index").mkdir()
    index.save(tmp_path / "index")
    opened = indexes.open(tmp_path / "index")
    opened.upsert(["a"], some_vectors(1))
    assert opened.search(some_vectors(1)[0], 1).rows.tolist() == [[0]]


def test_more_than_there_are(indexes: Indexes, graph_for_all: None) -> None:
    index, vectors = indexes.filled(7)
    near = index.search(vectors[:2], 50)
    assert near.rows.shape == (2, 50) and (near.rows[:, 7:] == -1).all()
    assert [sorted(row) for row in near.rows[:, :7].tolist()] == [list(range(7))] * 2


def test_equal_vectors_are_different_items(indexes: Indexes, graph_for_all: None) -> None:
    """Products whose texts are the same: all are found, in the order of their rows, and one can go alone."""
    index = indexes.new()
    index.upsert([f"twin{n}" for n in range(30)] + ["other"], np.repeat(unit(np.eye(DIM)[:2]), [30, 1], axis=0))
    near = index.search(unit(np.eye(DIM)[0]), 30)
    assert near.rows[0].tolist() == list(range(30)) and np.allclose(near.cosine, 1, atol=1e-6)
    index.delete(["twin3"])
    assert index.search(unit(np.eye(DIM)[0]), 30).rows[0].tolist() == [*range(3), *range(4, 30), 30]


def test_what_cannot_be_right_is_refused(indexes: Indexes) -> None:
    index, vectors = indexes.filled(10)
    for call, says in (
        (lambda: index.search(vectors[0], 0), "ask for 1 item"),
        (lambda: index.search(vectors[:, :5], 3), "16 dimensions"),
        (lambda: index.search(np.full(DIM, np.nan, np.float32), 3), "not finite"),
        (lambda: index.search(vectors[0], 3, np.ones(9, bool)), "10 rows"),
        (lambda: index.upsert(["a"], vectors[:2]), "2 vectors for 1 item"),
        (lambda: index.upsert(["a"], 2 * vectors[:1]), "unit vectors"),
        (lambda: index.upsert([""], vectors[:1]), "id is empty"),
        (lambda: index.upsert(["a"], np.ones((1, 3), np.float32)), "16 dimensions"),
    ):
        with pytest.raises(UsageError, match=says):
            call()
    assert len(index) == 10


@pytest.mark.parametrize("kind", sorted(MODULES))
def test_a_missing_extra_is_named(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [name for name in sys.modules if name.split(".")[0] == MODULES[kind]]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, MODULES[kind], None)
    extra = "postgres" if kind == "pgvector" else kind
    with pytest.raises(MissingExtraError, match=rf"pip install 'recllm\[{extra}\]'"):
        new_index(kind, DIM, MADE_BY, url="postgresql://nobody@127.0.0.1:1/none")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["pgvector", "qdrant"])
def test_a_server_that_is_not_there_is_one_clear_error(kind: str) -> None:
    pytest.importorskip(MODULES[kind])
    with pytest.raises(UsageError, match="needs a server; set"):
        new_index(kind, DIM, MADE_BY)  # type: ignore[arg-type]
    url = "postgresql://nobody@127.0.0.1:1/none" if kind == "pgvector" else "http://127.0.0.1:1"
    with pytest.raises(ModelError, match=r"cannot be used: .*check its server"):
        new_index(kind, DIM, MADE_BY, url=url)  # type: ignore[arg-type]


def test_a_collection_in_a_folder_outlives_its_process(tmp_path: Path) -> None:
    pytest.importorskip("qdrant_client")
    index = new_index("qdrant", DIM, MADE_BY, url=str(tmp_path / "qdrant"))
    index.upsert(["a", "b"], some_vectors(2))
    (tmp_path / "index").mkdir()
    index.save(tmp_path / "index")
    with pytest.raises(ModelError, match="already accessed"):
        open_index(tmp_path / "index", MADE_BY, url=str(tmp_path / "qdrant"))
    index.close()
    opened = open_index(tmp_path / "index", MADE_BY, url=str(tmp_path / "qdrant"))
    assert opened.search(some_vectors(2), 1).rows.tolist() == [[0], [1]]
    opened.close()


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    index = ExactIndex(DIM, MADE_BY)
    vectors, queries = some_vectors(500), some_vectors(9, seed=2)
    index.upsert([f"i{row}" for row in range(500)], vectors)
    whole = index.search(queries, 20)
    monkeypatch.setattr(row_rules, "BLOCK", 7)
    monkeypatch.setattr(row_rules, "QUERIES", 2)
    np.testing.assert_array_equal(index.search(queries, 20).rows, whole.rows)
    np.testing.assert_array_equal(whole.rows, np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :20])
