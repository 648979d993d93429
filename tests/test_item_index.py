"""The item index, and what a catalogue makes of it."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command
from numpy.typing import NDArray
from shop_world import load_lines

from recllm.base.errors import MissingExtraError, ModelError, NotFittedError, NothingToDo
from recllm.base.questions import SearchRequest
from recllm.learn.features.item_index import catalogue as rules
from recllm.learn.features.item_index.catalogue import ABOUT, CatalogueIndex, IndexPlace, vectors_fingerprint
from recllm.learn.features.item_index.faiss_lists import LISTS, FaissIndex
from recllm.recommend.recommender.registry import rollback
from recllm.recommend.recommender.search import search_workspace, similar_items
from recllm.recommend.recommender.shop_index import build_index
from recllm.recommend.recommender.shop_recommender import open_recommender, refresh
from recllm.shop.workspace.workspace import Workspace, overridden

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
    """Builds and opens indexes; closes them at the end."""

    def __init__(self, folder: Path) -> None:
        self.place = IndexPlace(kind="faiss", folder=folder, fingerprint=MADE_BY, n_rows=0)
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


@pytest.fixture
def indexes(tmp_path: Path) -> Iterator[Indexes]:
    pytest.importorskip("faiss")
    made = Indexes(tmp_path / "index")
    yield made
    made.close()


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
    vectors = some_vectors(60)
    indexes.build(vectors)
    for other in (("encoder 2", "v1", "en"), ("encoder", "v2", "en"), ("encoder", "v1", "zh")):
        with pytest.raises(ModelError, match="another model or encoder; build it again with: recllm refresh --index"):
            indexes.open(fingerprint=vectors_fingerprint(*other))
    with pytest.raises(ModelError, match="there is no item index"):
        indexes.open(folder=tmp_path / "nothing")
    indexes.build(-vectors, vectors_fingerprint("encoder", "v2", "en"))
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


def test_a_failed_server_is_asked_again(
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


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'recllm\[faiss\]'"):
        Indexes(tmp_path / "index").build(some_vectors(3))


FAISS = {"item_index": {"kind": "faiss"}}


@pytest.fixture
def folder(service_shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shop, whose small catalogue is asked of the graph."""
    pytest.importorskip("faiss")
    monkeypatch.setattr(rules, "EXACT_ITEMS", 0)
    return Path(shutil.copytree(service_shop, tmp_path / "shop"))


@pytest.fixture
def shop(folder: Path) -> Iterator[Workspace]:
    with overridden(FAISS), Workspace.open(folder) as opened:
        yield opened


def answers(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What a shop says where items are found by their vectors."""
    with overridden(settings), Workspace.open(folder) as shop:
        recommender = open_recommender(shop)
        recommender = replace_short_histories(recommender)
        request = SearchRequest(query="green tea", k=6)
        narrower = request.model_copy(update={"where": "price > 10 AND price < 12"})
        return {
            "search": [item.item_id for item in search_workspace(shop, request).items],
            "filtered": [item.item_id for item in search_workspace(shop, narrower).items],
            "similar": [item_id for item_id, _, _ in similar_items(recommender, "tea-3", 5)],
            "recommended": [
                (item.item_id, item.served_by)
                for item in recommender.recommend(["u01", "nobody"], k=8, basket=("tools-3",), explain=False)[0].items
            ],
        }


def replace_short_histories(recommender: Any) -> Any:
    """All histories count as short, so that texts propose items to everybody."""
    candidates = replace(recommender.model.candidates, short_history=100, text_nearest=6)
    return recommender._copy(model=replace(recommender.model, candidates=candidates))


def test_a_shop_answers_the_same_by_its_index(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Workspace.open(folder) as shop:
        report = build_index(shop, "faiss")
    assert report.items == 20 and report.mib > 0
    exact = answers(folder, {})
    asked: list[int] = []
    candidates = FaissIndex.candidates
    monkeypatch.setattr(FaissIndex, "candidates", lambda *a, **o: asked.append(1) or candidates(*a, **o))
    assert answers(folder, FAISS) == exact
    assert len(asked) >= 3, "the index was asked by search, by similar items and by the candidates"
    assert any("text_nearest" in sources for _, sources in exact["recommended"])
    assert exact["filtered"], "a condition leaves some"
    assert not (folder / "cache" / "item-index" / "exact").exists()


def test_without_an_index_all_items_are_compared_and_it_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    exact = answers(folder, {})
    with caplog.at_level(logging.WARNING, "recllm"):
        assert answers(folder, FAISS) == exact
    assert any("all items are compared" in line and "recllm refresh --index" in line for line in caplog.messages)


def proposed(recommender: Any, row: int) -> list[int] | None:
    """Rows of all items that the index proposes for one of them."""
    everything = [True] * len(recommender.item_vectors)
    near = recommender.index.nearest(recommender.item_vectors[row][None], 3, np.array(everything))
    return None if near is None else near[0].tolist()


def test_an_index_of_another_version_is_refused(shop: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    build_index(shop)
    rollback(shop.models_dir)
    with caplog.at_level(logging.WARNING, "recllm"):
        assert proposed(open_recommender(shop), 0) is None
    assert "another model or encoder" in caplog.text
    build_index(shop)
    assert 0 in (proposed(open_recommender(shop), 0) or [])


def test_it_follows_the_catalogue_and_a_new_version(shop: Workspace) -> None:
    build_index(shop)
    rows = ["tea-0,Anvil of iron,home > tools,44.0", "late,Green tea 99,food > tea,4.0"]
    load_lines(shop, "items", ["item_id,title,category,price", *rows])
    recommender = open_recommender(shop)
    new_row = int(recommender.dataset.item_rows(["late"])[0])
    assert new_row in (proposed(recommender, 0) or []), "an item that the index does not have is always among them"
    refresh(shop)
    brought_along = open_recommender(shop)
    row = int(brought_along.dataset.item_rows(["late"])[0])
    assert row in (proposed(brought_along, row) or []), "a version that begins to serve brings its index along"
    assert build_index(shop).items == 21


def test_a_damaged_index_is_built_from_nothing(shop: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    build_index(shop)
    folder = shop.cache_dir / "item-index" / "faiss"
    (folder / LISTS).write_bytes(b"")
    (folder.parent / ".faiss.1.new").mkdir()
    with caplog.at_level(logging.WARNING, "recllm"):
        (folder / rules.ABOUT).touch()  # another file than one that this process has open
        assert proposed(open_recommender(shop), 0) is None
    assert "missing or was changed" in caplog.text
    assert build_index(shop).items == 20 and proposed(open_recommender(shop), 0)
    assert {path.name for path in folder.parent.iterdir()} == {"faiss", ".lock"}, "nothing of a killed build stays"


def test_the_command(run: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    code, _, err = run("refresh", "--index", "-w", "shop", "--set", "item_index.kind=faiss")
    assert code == 0 and "below [item_index]" in err
    code, out, _ = run("refresh", "--index", "-w", "shop", "--set", "item_index.kind=faiss", "--json")
    assert code == 0 and '"kind": "faiss"' in out
    code, _, err = run("refresh", "--index", "-w", "shop")
    assert code == 3 and "exact compares all items" in err and "--set item_index.kind=faiss" in err, (
        "the guide's advice"
    )
    code, _, err = run("refresh", "--index", "-w", "shop", "--set", "item_index.kind=annoy")
    assert code == 2 and "annoy" in err and "faiss" in err
    code, out, _ = run("search", "green tea", "-w", "shop", "--set", "item_index.kind=faiss")
    assert code == 0 and "Green tea" in out


def test_exact_and_a_shop_without_a_model_have_none(folder: Path, tmp_path: Path) -> None:
    with Workspace.open(folder) as shop, pytest.raises(NothingToDo, match=r"item_index\.kind=faiss"):
        build_index(shop)
    with Workspace.create(tmp_path / "new", encoder="toy") as shop, pytest.raises(NotFittedError, match="recllm train"):
        build_index(shop, "faiss")
