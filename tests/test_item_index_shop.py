"""The item index in a shop: built, brought up to date, used by search and candidates, and done without."""

from __future__ import annotations

import ast
import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import Command

from recllm.base.errors import ModelError, NotFittedError, NothingToDo
from recllm.base.questions import SearchRequest
from recllm.learn.features.item_index import catalogue as catalogue_rules
from recllm.learn.features.item_index import rows as row_rules
from recllm.learn.features.item_index.catalogue import CatalogueIndex
from recllm.learn.features.item_index.opening import open_index
from recllm.learn.features.item_index.rows import ExactIndex, ItemIndex, NearestItems
from recllm.recommend.recommender.registry import rollback
from recllm.recommend.recommender.search import search_workspace
from recllm.recommend.recommender.shop_index import build_index, index_folder
from recllm.recommend.recommender.shop_recommender import open_recommender, refresh
from recllm.recommend.recommender.similar import similar_items
from recllm.shop.ingest.workspace_load import load_file
from recllm.shop.workspace.workspace import Workspace, overridden

FAISS = {"item_index": {"kind": "faiss"}}
pytest.importorskip("faiss")


@pytest.fixture
def folder(service_shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shop, whose small catalogue is asked of the graph."""
    monkeypatch.setattr(row_rules, "EXACT_ITEMS", 0)
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
    assert (report.items, report.added, report.changed, report.removed) == (20, 20, 0, 0)
    assert report.recall == 1.0 and report.mib > 0
    exact = answers(folder, {})
    asked: list[int] = []
    search = row_rules.ItemIndex.search
    monkeypatch.setattr(row_rules.ItemIndex, "search", lambda *a, **o: asked.append(1) or search(*a, **o))
    assert answers(folder, FAISS) == exact
    assert len(asked) >= 4, "the index was asked by search, by similar items and by the candidates"
    assert any("text_nearest" in sources for _, sources in exact["recommended"])
    assert exact["filtered"], "a condition leaves some"
    assert not (folder / "cache" / "item-index" / "exact").exists()


def test_without_an_index_all_items_are_compared_and_it_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    exact = answers(folder, {})
    with caplog.at_level(logging.WARNING, "recllm"):
        assert answers(folder, FAISS) == exact
    assert any("all items are compared" in line and "recllm refresh --index" in line for line in caplog.messages)


def test_an_index_of_another_version_is_refused(shop: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    build_index(shop)
    rollback(shop.models_dir)
    recommender = open_recommender(shop)
    with caplog.at_level(logging.WARNING, "recllm"):
        assert recommender.index is not None and recommender.index.nearest(recommender.item_vectors[:1], 3) is None
    assert "another model or encoder" in caplog.text
    report = build_index(shop)
    assert (report.added, report.removed) == (0, 0), "its items are the same"
    again = open_recommender(shop).index
    assert again is not None and again.nearest(recommender.item_vectors[:1], 3) is not None


def test_it_follows_the_catalogue_and_a_new_version(shop: Workspace, tmp_path: Path) -> None:
    build_index(shop)
    before = open_index(index_folder(shop, "faiss"), None).fingerprint
    rows = [("tea-0", "Anvil of iron", "home > tools", 44.0), ("late", "Green tea 99", "food > tea", 4.0)]
    pl.DataFrame(rows, schema=["item_id", "title", "category", "price"], orient="row").write_csv(tmp_path / "more.csv")
    load_file(shop, tmp_path / "more.csv", "items")
    recommender = open_recommender(shop)
    assert recommender.index is not None
    new_row = int(recommender.dataset.item_rows(["late"])[0])
    near = recommender.index.nearest(recommender.item_vectors[new_row][None], 3)
    assert near is not None and new_row in near[0], "an item that the index does not have is always among them"
    refresh(shop)
    after = open_index(index_folder(shop, "faiss"), None)
    assert after.fingerprint != before, "a version that begins to serve brings its index along"
    assert "late" in after.item_ids.to_list() and len(after) == 21
    report = build_index(shop)
    assert (report.added, report.changed, report.removed, report.recall) == (0, 0, 0, 1.0)


def test_what_is_gone_leaves_the_index(shop: Workspace) -> None:
    build_index(shop)
    folder = index_folder(shop, "faiss")
    index = open_index(folder, None)
    vector = index.vectors_of(np.array([0]))
    index.upsert(["withdrawn", "tea-1"], np.concatenate([vector, -vector]))
    shutil.rmtree(folder)
    folder.mkdir()
    index.save(folder)
    report = build_index(shop)
    assert (report.added, report.changed, report.removed) == (0, 1, 1)
    opened = open_index(folder, None)
    assert len(opened) == 20 and "withdrawn" not in opened.item_ids.to_list()


def test_a_damaged_index_is_built_anew(shop: Workspace) -> None:
    build_index(shop)
    folder = index_folder(shop, "faiss")
    (folder / "vectors.npy").write_bytes(b"")
    (folder.parent / ".faiss.1.new").mkdir()
    with pytest.raises(ModelError, match="bytes instead of"):
        open_index(folder, None)
    assert build_index(shop).added == 20
    assert {path.name for path in folder.parent.iterdir()} == {"faiss", ".lock"}, "nothing of a killed build stays"


def test_a_server_that_fails_is_asked_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        item_ids = pl.Series(["a", "b"])
        fails = True

        def search(self, queries: Any, k: int, allowed: Any = None) -> NearestItems:
            if self.fails:
                raise ModelError("the server is down")
            return NearestItems(np.zeros((1, 1), np.int64), np.zeros((1, 1), np.float32))

    index: Any = Failing()
    served, query = CatalogueIndex(lambda: index, pl.Series(["b", "a"])), np.ones((1, 2), np.float32)
    assert served.nearest(query, 1) is None
    index.fails = False
    assert served.nearest(query, 1) is None, "not at once"
    monkeypatch.setattr(catalogue_rules, "RETRY_SECONDS", 0.0)
    served._retry_at = 0.0
    near = served.nearest(query, 1)
    assert near is not None and near[0].tolist() == [1], "rows are those of the catalogue"


def test_rows_are_those_of_the_catalogue() -> None:
    """The index has another order, an item that the catalogue lacks, and lacks one itself."""
    index: ItemIndex = ExactIndex(2, "x")
    vectors = np.array([[1, 0], [0, 1], [0.6, 0.8], [0.8, 0.6]], np.float32)
    index.upsert(["gone", "b", "c", "a"], vectors)
    served = CatalogueIndex(lambda: index, pl.Series(["a", "b", "c", "new"]))

    def near(k: int, allowed: list[bool] | None = None) -> list[int]:
        rows = served.nearest(vectors[:1], k, None if allowed is None else np.array(allowed))
        assert rows is not None
        return rows[0].tolist()

    assert near(2) == [0, 2, 3] and near(9) == [0, 2, 1, 3]
    assert near(2, [False, True, True, False]) == [2, 1] and near(2, [False] * 3 + [True]) == [3]


def test_the_command(run: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    code, out, _ = run("refresh", "--index", "-w", "shop", "--set", "item_index.kind=faiss")
    assert code == 0 and "finds 100.0 % of the 100 nearest" in out and "below [item_index]" in out
    code, out, _ = run("refresh", "--index", "-w", "shop", "--set", "item_index.kind=faiss", "--json")
    assert code == 0 and '"kind": "faiss"' in out
    code, _, err = run("refresh", "--index", "-w", "shop")
    assert code == 3 and "exact compares all items" in err and "--set item_index.kind=faiss" in err, (
        "the guide's advice"
    )
    code, _, err = run("refresh", "--index", "-w", "shop", "--set", "item_index.kind=annoy")
    assert code == 2 and "annoy" in err and "faiss" in err
    code, _, err = run("refresh", "--index", "-w", "shop", "--set", "item_index.kind=pgvector")
    assert code == 2 and "needs a server; set store" in err
    code, out, _ = run("search", "green tea", "-w", "shop", "--set", "item_index.kind=faiss")
    assert code == 0 and "Green tea" in out


def test_exact_and_a_shop_without_a_model_have_none(folder: Path, tmp_path: Path) -> None:
    with Workspace.open(folder) as shop, pytest.raises(NothingToDo, match=r"item_index\.kind=faiss"):
        build_index(shop)
    with Workspace.create(tmp_path / "new", encoder="toy") as shop, pytest.raises(NotFittedError, match="recllm train"):
        build_index(shop, "faiss")


def test_nothing_but_the_catalogue_goes_into_an_index() -> None:
    """One place fills indexes, with the items of a published catalogue; the package of the index knows no person."""
    package = Path(row_rules.__file__).resolve().parents[3]
    filling = set()
    for path in package.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if isinstance(call.func, ast.Attribute) and call.func.attr in ("upsert", "_put"):
                filling.add(path.relative_to(package).as_posix())
        if path.parent.name == "item_index":
            modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
            rooms = {name.split(".")[2] for name in modules if name.startswith("recllm.")}
            assert rooms <= {"documents", "errors", "features", "files", "settings"}, path
            assert all("item_index" in name for name in modules if name.startswith("recllm.learn.features.")), path
    own = {name for name in filling if name.startswith("learn/features/item_index/")}
    assert filling - own == {"recommend/recommender/shop_index.py"}
    source = (package / "recommend" / "recommender" / "shop_index.py").read_text(encoding="utf-8")
    assert "gate(" not in source and "people" not in source.lower() and "users" not in source.lower()
