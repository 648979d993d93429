"""Items: search, facts, who buys them, what is like them, and the checked texts of every channel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote

import numpy as np
import polars as pl
from fastapi import APIRouter, Query
from fastapi.responses import Response
from numpy.typing import NDArray

from recllm.base.charts import Bar, BarChart
from recllm.base.errors import NotFittedError, PolicyError, RecllmError
from recllm.base.schema import AdCopy, Item
from recllm.doors.console.audience_tables import checks_table, excluded_table, traits_table
from recllm.doors.console.pages import ConsoleSection, PageRoute, TheVisit, Visit, slow
from recllm.doors.console.tables import ConsoleTable, TableCell, TableRow
from recllm.learn.features.collaborative import LONG_WINDOW_DAYS, SHORT_WINDOW_DAYS, WINDOW_DAYS
from recllm.market.adcopy.ads import item_of
from recllm.market.adcopy.channels import channels
from recllm.market.adcopy.request import CopyRequest
from recllm.market.adcopy.vocabulary import approved_words, vocabulary_file
from recllm.market.adcopy.write import write_copy
from recllm.market.audiences.audience import aim
from recllm.market.audiences.contacts import find_audience
from recllm.market.audiences.request import AudienceLimits, AudienceRequest
from recllm.recommend.recommender.recommender import Recommender
from recllm.recommend.recommender.search import similar_items
from recllm.shop.data.catalogue import known_rows
from recllm.shop.data.dataset import utc
from recllm.text.items import item_names

router = APIRouter(prefix="/items", route_class=PageRoute)
SECTION = ConsoleSection("items", "/items", router)

Rows = NDArray[np.int64]
"""Rows of the catalogue."""

PAGE_ITEMS = 25
SIMILAR_ITEMS = 8
SIMILAR_DEPTH = 200
"""Nearest items among which `SIMILAR_ITEMS` of other names are looked for."""
AUDIENCE_SIZE = 500
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
    """Items whose title, id, brand or category holds the words; without words the ones that sell best."""
    recommender = visit.shop.recommender().in_language(visit.language)
    rows = matching_rows(recommender, q)
    return visit.page(
        "items.html.j2",
        section="items",
        q=q,
        page=page,
        path=f"/items?q={quote(q)}" if q else "/items",
        table=items_table(visit, recommender, rows, (page - 1) * PAGE_ITEMS),
        n_items=len(rows),
        n_pages=-(-len(rows) // PAGE_ITEMS),
    )


@router.get("/people/{item_id:path}")
@slow
def audience_page(visit: TheVisit, item_id: str) -> Response:
    """Who would buy an item: how many, how surely, and what sets them apart; never who."""
    recommender = visit.shop.recommender().in_language(visit.language)
    row = int(known_rows(recommender.dataset, [item_id])[0])
    title = item_names(recommender.dataset.items[[row]], visit.language)[0]
    values: dict[str, Any] = {"item_id": item_id, "title": title, "audience": None, "problem": None, "details": ""}
    try:
        audience = find_audience(
            visit.workspace,
            visit.shop.everybody.recommender(),
            AudienceRequest(items=(item_id,), limits=AudienceLimits(size=AUDIENCE_SIZE, holdout=0), explain=False),
            visit.figures,
        )
        actions = [visit.say(f"action.{action}") for action in audience.converts]
        values |= {
            "audience": audience,
            "aim": aim(audience.converts),
            "actions": " / ".join(actions),
            "traits": traits_table(visit, audience.group),
            "excluded": excluded_table(visit, list(audience.excluded.items())),
        }
    except NotFittedError:
        values["problem"] = "items.no_model"
    except PolicyError as error:
        values |= {"problem": "items.not_said", "details": visit.problem_text(error)}
    return visit.page("item_people.html.j2", section="items", **values)


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
        texts=[
            (channel, text, why, None if text is None else checks_table(visit, channel, text))
            for channel, text, why in channel_texts(visit, recommender, item)
        ],
        sensitive=visit.workspace.policy.is_sensitive((*item.category, item.title)),
        sales=sales_chart(visit, recommender, row),
    )


def other_names(neighbours: list[tuple[str, str, float]], title: str) -> list[tuple[str, str, float]]:
    """The first item of each name but this one."""
    first = {near_title: (near_id, near_title, cosine) for near_id, near_title, cosine in reversed(neighbours)}
    return [entry for entry in neighbours if entry[1] != title and first[entry[1]] == entry]


def matching_rows(recommender: Recommender, words: str) -> Rows:
    """Rows of the items that hold all of the words, best selling first."""
    order = recommender.population.popular
    items = recommender.dataset.items
    fields = [pl.col("item_id"), pl.col("title"), pl.col("brand"), pl.col("category").list.join(" ")]
    text = pl.concat_str(fields, separator=" ", ignore_nulls=True).str.to_lowercase()
    conditions = [text.str.contains(word, literal=True) for word in words.lower().split()]
    if not conditions:
        return np.asarray(order, np.int64)
    holds = items.select(pl.all_horizontal(conditions)).to_series().fill_null(False).to_numpy()
    return np.asarray(order[holds[order]], np.int64)


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
        title = TableCell(value=line.title, href=href, tag=off_sale, tone="warn", remark=line.item_id)
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


def sales_chart(visit: Visit, recommender: Recommender, row: int) -> Mapping[str, Any] | None:
    """Buyers of late and at the usual level, as a picture and a table; None where one of them is under the floor."""
    stats, figures = recommender.population.stats, visit.figures
    counts = {
        SHORT_WINDOW_DAYS: stats.buyers_7[row],
        WINDOW_DAYS: stats.buyers_28[row],
        LONG_WINDOW_DAYS: stats.buyers_91[row],
    }
    reported = {days: figures.people(int(n), "buyers", days, row) for days, n in counts.items()}
    rows = [(visit.say("items.window", days=int(days)), days, n) for days, n in reported.items() if n is not None]
    if len(rows) < len(reported):
        return None
    bars = [Bar(label, n, visit.words.number(n), strong=days == WINDOW_DAYS) for label, days, n in rows]
    title = visit.say("items.buyers")
    return visit.picture(BarChart(title=title, bars=bars, width=560), visit.table("buyers", rows), title)


def channel_texts(visit: Visit, recommender: Recommender, item: Item) -> list[tuple[str, AdCopy | None, str]]:
    """For each channel its name, the shop's own text about the item, and why there is none."""
    texts: list[tuple[str, AdCopy | None, str]] = []
    vocabulary = approved_words(vocabulary_file(visit.workspace.root))
    for channel in (name for name, limits in channels().items() if not limits.segment_only):
        request = CopyRequest(
            item=item,
            channel=channel,
            now=utc(recommender.dataset.as_of),
            locale=visit.workspace.locale(visit.language),
            known_brands=recommender.brands,
            policy=visit.workspace.policy,
            vocabulary=vocabulary,
        )
        try:
            texts.append((channel, write_copy(request)[0], ""))
        except RecllmError as error:
            texts.append((channel, None, visit.problem_text(error)))
    return texts
