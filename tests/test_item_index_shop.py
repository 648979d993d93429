"""The item index in a shop: built, brought up to date, used by search and candidates, and done without."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command
from shop_world import load_lines

from recllm.base.errors import NotFittedError, NothingToDo
from recllm.base.questions import SearchRequest
from recllm.learn.features.item_index import catalogue as rules
from recllm.learn.features.item_index.faiss_lists import LISTS, FaissIndex
from recllm.recommend.recommender.registry import rollback
from recllm.recommend.recommender.search import search_workspace, similar_items
from recllm.recommend.recommender.shop_index import build_index
from recllm.recommend.recommender.shop_recommender import open_recommender, refresh
from recllm.shop.workspace.workspace import Workspace, overridden

FAISS = {"item_index": {"kind": "faiss"}}
pytest.importorskip("faiss")


@pytest.fixture
def folder(service_shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shop, whose small catalogue is asked of the graph."""
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
    code, _, err = run("refresh", "--index", "-w", "shop", "--set", "item_index.kind=pgvector")
    assert code == 2 and "needs a server; set store" in err
    code, out, _ = run("search", "green tea", "-w", "shop", "--set", "item_index.kind=faiss")
    assert code == 0 and "Green tea" in out


def test_exact_and_a_shop_without_a_model_have_none(folder: Path, tmp_path: Path) -> None:
    with Workspace.open(folder) as shop, pytest.raises(NothingToDo, match=r"item_index\.kind=faiss"):
        build_index(shop)
    with Workspace.create(tmp_path / "new", encoder="toy") as shop, pytest.raises(NotFittedError, match="recllm train"):
        build_index(shop, "faiss")
