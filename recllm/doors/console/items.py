"""Products: search, facts, how many buy them, what is like them, and the checked texts of every channel."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import quote

import numpy as np
import polars as pl
from fastapi import APIRouter, Query
from fastapi.responses import Response
from numpy.typing import NDArray

from recllm.doors.console.pages import ConsoleSection, PageRoute, TheVisit, Visit
from recllm.doors.console.tables import ConsoleTable, TableCell, TableRow
from recllm.learn.features.collaborative import LONG_WINDOW_DAYS, SHORT_WINDOW_DAYS, WINDOW_DAYS
from recllm.market.adcopy.ads import item_of
from recllm.recommend.recommender.recommender import Recommender
from recllm.recommend.recommender.search import similar_items
from recllm.shop.data.catalogue import known_rows
from recllm.text.items import item_names

router = APIRouter(prefix="/items", route_class=PageRoute)
SECTION = ConsoleSection("items", "/items", router, is_main=True)

Rows = NDArray[np.int64]
"""Rows of the catalogue."""

PAGE_ITEMS = 25
SIMILAR_ITEMS = 8
SIMILAR_DEPTH = 200
"""Nearest items among which `SIMILAR_ITEMS` of other names are looked for."""
STOP_WORDS = frozenset(["a", "an", "and", "at", "by", "for", "from", "in", "of", "on", "or", "the", "to", "with"])
NEAR_WORD = 0.75
"""Likeness, by `difflib`, from which a word is taken for another one."""
FILE_ITEMS = 1_000
"""Items of a file that are read at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemLine:
    """One item of a list."""

    item_id: str
    title: str
    category: str
    price: float | None
    available: bool
    currency: str | None
    buyers: int | None
    """People who bought it in the last four weeks; None where they are fewer than the policy's floor, and some."""


@router.get("")
def search(
    visit: TheVisit,
    q: Annotated[str, Query(max_length=200)] = "",
    page: Annotated[int, Query(ge=1, le=100_000)] = 1,
) -> Response:
    """Items by words of their title, id, brand or category; without words the ones that sell best."""
    recommender = visit.shop.recommender().in_language(visit.language)
    rows, words = matching_rows(recommender, q)
    return visit.page(
        "items.html.j2",
        section="items",
        q=q,
        page=page,
        path=f"/items?q={quote(q)}" if q else "/items",
        meant="" if words == q.lower().split() else " ".join(words),
        table=items_table(visit, recommender, rows, (page - 1) * PAGE_ITEMS),
        n_items=len(rows),
        n_pages=-(-len(rows) // PAGE_ITEMS),
    )


@router.get("/item/{item_id:path}")
def item_page(visit: TheVisit, item_id: str) -> Response:
    """One item."""
    recommender = visit.shop.recommender().in_language(visit.language)
    dataset = recommender.dataset
    row = int(known_rows(dataset, [item_id])[0])
    item = item_of(dataset.items.row(row, named=True))
    (line,) = item_lines(visit, recommender, np.array([row]))
    return visit.page(
        "item.html.j2",
        section="items",
        item=item,
        line=line,
        similar=other_names(similar_items(recommender, item_id, SIMILAR_DEPTH), line.title)[:SIMILAR_ITEMS],
        sensitive=visit.workspace.policy.is_sensitive((*item.category, item.title)),
        buyers=buyers_by_window(visit, recommender, row),
    )


def other_names(neighbours: list[tuple[str, str, float]], title: str) -> list[tuple[str, str, float]]:
    """The first item of each name but this one."""
    first = {near_title: (near_id, near_title, cosine) for near_id, near_title, cosine in reversed(neighbours)}
    return [entry for entry in neighbours if entry[1] != title and first[entry[1]] == entry]


def matching_rows(recommender: Recommender, query: str) -> tuple[Rows, list[str]]:
    """Rows of the items that hold all of the words, else of those that hold the rarest of them, best selling first; and
    the words that were looked for: one that no item has becomes the nearest that there is, or is left out."""
    order = np.asarray(recommender.population.popular, np.int64)
    items = recommender.dataset.items
    fields = [pl.col("item_id"), pl.col("title"), pl.col("brand"), pl.col("category").list.join(" ")]
    texts = items.select(text=pl.concat_str(fields, separator=" ", ignore_nulls=True).str.to_lowercase())["text"]
    holding: dict[str, NDArray[np.bool_]] = {}
    known_words: set[str] = set()
    words = query.lower().split()
    for word in [word for word in words if word not in STOP_WORDS] or words:
        holds = texts.str.contains(word, literal=True).fill_null(False).to_numpy()
        if not holds.any():
            known_words = known_words or set(texts.str.extract_all(r"\w{3,}").explode().drop_nulls())
            word = next(iter(difflib.get_close_matches(word, known_words, 1, NEAR_WORD)), "")
            holds = texts.str.contains(word, literal=True).fill_null(False).to_numpy()
        if word:
            holding[word] = holds
    if not holding:
        return (order[:0] if query.strip() else order), []
    rarity = {word: np.log(len(texts) / holds.sum()) + 1e-9 for word, holds in holding.items()}
    score = sum(rarity[word] * holds for word, holds in holding.items())
    assert isinstance(score, np.ndarray)  # noqa: S101 - of at least one word
    best = order[score[order] >= score.max() - 1e-12]
    return best, list(holding)


def item_lines(visit: Visit, recommender: Recommender, rows: Rows) -> list[ItemLine]:
    items = recommender.dataset.items[rows.tolist()]
    buyers = recommender.population.stats.buyers_28[rows]
    figures = visit.figures
    names = item_names(items, visit.language)
    return [
        ItemLine(
            item_id=item["item_id"],
            title=names[n],
            category=" › ".join(item["category"] or ()),
            price=item["price"],
            currency=item["currency"],
            available=bool(item["available"]),
            buyers=int(buyers[n]) and figures.people(int(buyers[n]), "buyers", item["item_id"]),
        )
        for n, item in enumerate(items.iter_rows(named=True))
    ]


def items_table(visit: Visit, recommender: Recommender, rows: Rows, start: int) -> ConsoleTable:
    """`PAGE_ITEMS` items from `start` on; the file has all of the rows."""
    floor = visit.say("items.few", floor=visit.workspace.policy.group_floor)

    def row(line: ItemLine) -> TableRow:
        off_sale = "" if line.available else visit.say("items.no")
        href = f"/items/item/{quote(line.item_id)}"
        title = TableCell(
            value=line.title, href=href, tag=off_sale, tone="warn", remark=line.item_id, picture=line.category
        )
        price = None if line.price is None else visit.words.money(line.price, line.currency)
        return (
            *(title, line.item_id, line.category, TableCell(value=line.price, text=price), line.currency),
            *(line.available, TableCell(value=line.buyers, text=floor if line.buyers is None else None)),
        )

    def all_rows() -> Iterator[TableRow]:
        for first in range(0, len(rows), FILE_ITEMS):
            yield from map(row, item_lines(visit, recommender, rows[first : first + FILE_ITEMS]))

    page = item_lines(visit, recommender, rows[start : start + PAGE_ITEMS])
    return visit.table("items", [row(line) for line in page], all_rows=all_rows)


def buyers_by_window(visit: Visit, recommender: Recommender, row: int) -> list[tuple[int, int | None]]:
    """Days, and customers who bought in them; None below the policy's floor."""
    stats, figures = recommender.population.stats, visit.figures
    counts = (
        (SHORT_WINDOW_DAYS, stats.buyers_7),
        (WINDOW_DAYS, stats.buyers_28),
        (LONG_WINDOW_DAYS, stats.buyers_91),
    )
    return [(int(days), figures.people(int(of_items[row]), "buyers", days, row)) for days, of_items in counts]
