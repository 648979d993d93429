"""Words of items, and the order of what a query finds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest
from conftest import Command
from hypothesis import given
from hypothesis import strategies as st
from shop_world import shop as world
from tables import table
from waiting import until

from recllm.base.errors import ModelError, UsageError
from recllm.base.questions import SearchRequest
from recllm.base.schema import Slate
from recllm.doors.service.finder import RETRY_SECONDS, Finder, VectorState
from recllm.recommend.recommender.recommender import Recommender
from recllm.recommend.recommender.search import VECTORS_WEIGHT, search
from recllm.shop.data.dataset import Dataset
from recllm.text.encoder.toy import ToyEncoder
from recllm.text.word_index import WordIndex, terms_of

ITEMS = pl.DataFrame(table("search", "items"))


@pytest.mark.parametrize(("text", "terms"), table("search", "terms"))
def test_terms(text: str, terms: list[str]) -> None:
    assert terms_of(text) == terms


PLURALS = """
dress dresses, watch watches, box boxes, glass glasses, brush brushes, dish dishes, sandwich sandwiches, tomato
tomatoes, knife knives, shelf shelves, scarf scarves, leaf leaves, cookie cookies, movie movies, hoodie hoodies, berry
berries, pie pies, fly flies, shoe shoes, house houses, case cases, vase vases, bus buses, lens lenses, gas gases,
virus viruses, size sizes, quiz quizzes, axe axes, tie ties, toe toes, key keys, kiwi kiwis, sofa sofas, woman women,
child children, foot feet
"""
UNLIKE = """
natural nature, organic organs, effective effects, healing heals, recycled recyclable, tested tests, important
imports, safe save, care cars, caring cars, universal university, news new, cloth clothes, leave leaf, original
origins, glassy glasses
"""


def test_a_word_and_its_plural_are_one_term_and_nothing_else_is() -> None:
    apart = [pair for pair in PLURALS.split(",") if len(set(terms_of(pair))) != 1]
    joined = [pair for pair in UNLIKE.split(",") if len(set(terms_of(pair))) != 2]
    assert (apart, joined) == ([], [])
    for pair in PLURALS.split(","):
        singular, plural = pair.split()
        index = WordIndex.of(ITEMS.head(1).with_columns(title=pl.lit(f"Green {singular}")))
        assert index.scores(plural).any(), pair


def found(index: WordIndex, query: str, items: pl.DataFrame = ITEMS) -> set[str]:
    return {name for name, score in zip(items["item_id"], index.scores(query), strict=True) if score > 0}


def test_words_find_titles_categories_and_brands() -> None:
    index = WordIndex.of(ITEMS)
    assert found(index, "milk") == {"milk", "choc"}
    assert found(index, "CATS") == {"cat", "treat"}
    assert found(index, "television") == {"tv"}  # it has no title
    assert found(index, "whisk") == {"cat", "treat"}
    assert found(index, "绿茶") == {"cha"} and found(index, "茶叶") == {"cha"}
    assert found(index, "choco") == {"choc"}  # the beginning of a word that no item has as it is
    assert found(index, "xyz") == found(index, "!?") == found(index, "xy") == set()
    scores = dict(zip(ITEMS["item_id"], index.scores("cat food"), strict=True))
    assert scores["cat"] > scores["treat"] > 0


def test_a_rare_word_weighs_more_than_a_common_one() -> None:
    scores = dict(zip(ITEMS["item_id"], WordIndex.of(ITEMS).scores("milk chocolate"), strict=True))
    assert scores["choc"] > 2 * scores["milk"] > 0


words = st.lists(st.sampled_from(["milk", "cats", "food", "tea", "绿茶", "white"]), min_size=1, max_size=4).map(
    " ".join
)


@given(first=st.lists(words, max_size=6), then=st.lists(words, min_size=1, max_size=6), query=words)
def test_an_index_that_grew_is_one_made_anew(first: list[str], then: list[str], query: str) -> None:
    def catalogue(titles: list[str]) -> pl.DataFrame:
        columns: dict[str, Any] = {"title": titles, "category": [None] * len(titles), "brand": [None] * len(titles)}
        return pl.DataFrame(columns, schema={"title": pl.String, "category": pl.List(pl.String), "brand": pl.String})

    both = [*then, *first]  # in another order, and with all earlier texts, which an index does not forget
    grown = WordIndex.of(catalogue(first)).grown(catalogue(both))
    np.testing.assert_allclose(grown.scores(query), WordIndex.of(catalogue(both)).scores(query), rtol=1e-5)


@pytest.fixture(scope="module")
def recommender() -> Recommender:
    return Recommender(world(), ToyEncoder()).warm()


def ask(recommender: Recommender, query: str, *, vectors: bool = True, **options: Any) -> Slate:
    index = WordIndex.of(recommender.dataset.items)
    vector = recommender.encoder.encode([query], kind="query")[0] if vectors else None
    weight = options.pop("vectors_weight", VECTORS_WEIGHT)
    return search(recommender, index, SearchRequest(query=query, **options), vector, vectors_weight=weight)


def names(slate: Slate) -> list[str]:
    return [item.item_id for item in slate.items]


def test_a_person_decides_among_what_words_fit_alike(recommender: Recommender) -> None:
    slate = ask(recommender, "green tea", user="u00", k=12, vectors_weight=0.0)
    assert slate.status == "text_only" and "no trained model" in (slate.degraded_reason or "")
    by_score = recommender.recommend("u00", k=12, allow=names(slate), explain=False)[0]
    assert names(slate) == names(by_score) and {item.served_by for item in slate.items} == {("words", "vectors")}
    nobody = ask(recommender, "green tea", k=12, vectors_weight=0.0)
    buyers = recommender.population.stats.buyers_28[recommender.dataset.item_rows(names(nobody))]
    assert nobody.status == "unknown_user" and buyers.tolist() == sorted(buyers, reverse=True)


def test_an_exact_title_or_id_stands_first(recommender: Recommender) -> None:
    for query in ("GREEN TEA 3", " tea3 "):
        slate = ask(recommender, query, user="u01", k=5)
        assert names(slate)[0] == "tea3" and slate.items[0].served_by[0] == "exact"


def test_too_few_fit_and_words_alone_are_told(recommender: Recommender) -> None:
    slate = ask(recommender, "hammer", vectors=False, k=20)
    assert len(slate.items) == 12 and [note.kind for note in slate.notes] == ["few_fit", "words_only"]
    assert "only 12 of 20 items fit the query" in (slate.degraded_reason or "")
    assert ask(recommender, "zzz", vectors=False).items == ()
    assert not ask(recommender, "hammer", k=3).notes


def test_filters_hold_and_reasons_are_the_slates(recommender: Recommender) -> None:
    assert set(names(ask(recommender, "tea", where="price < 4", k=20))) == {"tea0", "tea1"}
    assert "tea0" not in names(ask(recommender, "tea", exclude=("tea0",), k=20))
    slate = ask(recommender, "tea", user="u00", k=2, explain=True)
    served = recommender.recommend("u00", k=2, allow=names(slate))[0]
    assert {i.item_id: i.reasons for i in slate.items} == {i.item_id: i.reasons for i in served.items}
    assert ask(recommender, "hammer", k=2, explain=True).items[0].reasons == ()


def test_of_one_name_only_the_best_is_shown() -> None:
    items = pl.DataFrame({"item_id": ["a", "b", "c"], "title": ["Tea", "Tea", "Tea mug"]})
    events = pl.DataFrame({"user_id": ["ann"], "item_id": ["b"], "timestamp": [1_700_000_000]})
    recommender = Recommender(Dataset.construct(events, items=items), ToyEncoder())
    assert names(ask(recommender, "tea")) == ["b", "c"]
    assert len(ask(recommender, "tea", user="ann", same_names=True).items) == 3


def test_a_wrong_request_says_so() -> None:
    with pytest.raises(UsageError, match="query is empty"):
        SearchRequest(query=" ")
    with pytest.raises(UsageError, match="k must be 1 or more, not 0"):
        SearchRequest(query="tea", k=0)


def test_search_by_command(run: Command, shop: Path) -> None:
    code, out, _ = run("search", "hammer", "-w", "shop", "--json")
    assert code == 0 and '"item_id": "hammer"' in out
    assert "Steel hammer" in run("search", "steel", "-u", "bob", "-w", "shop")[1]


def test_a_file_says_until_when_an_item_is_on_sale(run: Command, shop: Path) -> None:
    rows = [
        "tea,Green tea,3.20,2025-03-08",
        "milk,Oat milk,1.10,2025-03-09",
        "mug,Blue mug,7.00,2026-01-01T00:00:00+01:00",
        "hammer,Steel hammer,12.50,",
    ]
    text = "\n".join(["item_id,title,price,available_until", *rows])
    (shop.parent / "ends.csv").write_text(text)
    assert run("ingest", "ends.csv", "--table", "items", "--read", "tz=UTC", "-w", "shop")[0] == 0
    slate = run("recommend", "-u", "bob", "-k", "4", "-w", "shop", "--json")[1]  # on 2025-03-09
    assert '"item_id": "tea"' not in slate and '"item_id": "milk"' in slate and '"item_id": "mug"' in slate
    (shop.parent / "bad.csv").write_text("item_id,title,available_until\nx,X,soon\ny,Y,\n")
    out = run("ingest", "bad.csv", "--table", "items", "-w", "shop", "--json")[1]
    assert '"E_TIMESTAMP": 1' in out


class FailingEncoder(ToyEncoder):
    """Fails as often as it has errors left."""

    errors: ClassVar[list[Exception]] = []

    def encode(self, texts: Sequence[str], **options: Any) -> Any:
        if self.errors:
            raise self.errors.pop(0)
        return super().encode(texts, **options)


@pytest.mark.parametrize("error", [ModelError("not here"), OSError("no network"), RuntimeError("out of memory")])
def test_a_failed_encoder_is_tried_again_after_a_pause(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("recllm.doors.service.finder.time", clock)
    finder, encoder = Finder(), FailingEncoder()
    monkeypatch.setattr(FailingEncoder, "errors", [error, error])

    def state_after(seconds: float) -> VectorState:
        clock.now += seconds
        finder.warm(encoder)
        return until(lambda: finder.vectors is not VectorState.LOADING and finder.vectors)

    assert state_after(0) is VectorState.FAILED
    assert finder.vector(encoder, "tea") is None
    assert state_after(RETRY_SECONDS - 1) is VectorState.FAILED and len(encoder.errors) == 1
    assert state_after(2) is VectorState.FAILED and encoder.errors == []
    assert state_after(RETRY_SECONDS + 1) is VectorState.FAILED, "the second pause is longer"
    assert state_after(RETRY_SECONDS) is VectorState.READY
    vector = finder.vector(encoder, "tea")
    assert vector is not None and vector.shape == (encoder.dim,)
