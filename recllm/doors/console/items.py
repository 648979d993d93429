"""Products: search, facts, buyers, similar ones, pictures; pickers; and the search over everything.

Pictures are files of the folder `images`, named after the product or by its attribute `image`. Nothing is fetched:
`https://shop.example/tent.jpg?v=2` stands for `images/tent.jpg`. A file is read, and answered as a small picture of its
own, so that no browser gets a byte of the file itself.
"""

from __future__ import annotations

import difflib
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated
from urllib.parse import quote, unquote

import numpy as np
import polars as pl
from fastapi import APIRouter, Query
from fastapi.responses import RedirectResponse, Response
from numpy.typing import NDArray

from recllm.base.errors import StoreError, UnknownIdError
from recllm.base.schema import IMAGE
from recllm.doors.console.pages import PICTURE_FOLDER, ConsoleSection, PageRoute, TheForm, TheVisit, Visit
from recllm.doors.console.tables import ConsoleTable, TableCell, TableRow
from recllm.learn.features.collaborative import LONG_WINDOW_DAYS, SHORT_WINDOW_DAYS, WINDOW_DAYS
from recllm.market.adcopy.ads import item_of
from recllm.market.campaigns.drafts import list_campaigns
from recllm.recommend.recommender.recommender import Recommender
from recllm.recommend.recommender.search import similar_items
from recllm.shop.data.catalogue import known_rows, on_offer
from recllm.text.items import item_names

router = APIRouter(prefix="/items", route_class=PageRoute)
search_router = APIRouter(route_class=PageRoute)
"""One search over customers, products and campaigns. What is typed may be a customer's id: no address has it."""
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
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
FORMATS = ("JPEG", "PNG", "WEBP")
PICTURE_SIZE = 480
"""Width and height at most, in pixels."""
MAX_BYTES, MAX_PIXELS = 30_000_000, 60_000_000
"""Of a file; a larger one is not read."""
KEPT_PICTURES = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemLine:
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
    recommender = visit.shop.recommender().in_language(visit.language)
    dataset = recommender.dataset
    row = int(known_rows(dataset, [item_id])[0])
    item = item_of(dataset.items.row(row, named=True))
    (line,) = item_lines(visit, recommender, np.array([row]))
    first_of_name: dict[str, tuple[str, str, float]] = {}
    for near_id, title, cosine in similar_items(recommender, item_id, SIMILAR_DEPTH):
        if title != line.title:
            first_of_name.setdefault(title, (near_id, title, cosine))
    stats = recommender.population.stats
    windows = ((SHORT_WINDOW_DAYS, stats.buyers_7), (WINDOW_DAYS, stats.buyers_28), (LONG_WINDOW_DAYS, stats.buyers_91))
    return visit.page(
        "item.html.j2",
        section="items",
        item=item,
        line=line,
        similar=list(first_of_name.values())[:SIMILAR_ITEMS],
        sensitive=visit.workspace.policy.is_sensitive((*item.category, item.title)),
        buyers=[(int(days), visit.figures.people(int(n[row]), "buyers", days, row)) for days, n in windows],
    )


@router.get("/picture/{item_id:path}")
def picture_of(visit: TheVisit, item_id: str) -> Response:
    """The picture of a product, else the drawing of its category.
    Raises `UnknownIdError` for no product."""
    items = visit.workspace.gate().catalogue([item_id])
    if items.is_empty():
        raise UnknownIdError(f"there is no product {item_id[:80]!r}")
    file = picture_file(visit.workspace.root / PICTURE_FOLDER, item_id, items["attributes"][0])
    if content := file and small_picture(file):
        return Response(content, media_type="image/webp")
    drawing = visit.render("picture.html.j2", category=" > ".join(items["category"].to_list()[0] or ()))
    return Response(drawing.strip(), media_type="image/svg+xml")


def picture_file(folder: Path, item_id: str, attributes: str | None) -> Path | None:
    """The file of a product; None without one. attributes: a JSON object, whose `image` is an address or a name."""
    address = str(json.loads(attributes or "{}").get(IMAGE, "")).replace("\n", ",").partition(",")[0].strip()
    name = unquote(re.sub(r"[?#].*", "", address) if "://" in address else address).rpartition("/")[2]
    for file_name in (name, *(f"{item_id}{suffix}" for suffix in SUFFIXES)):
        is_plain = file_name.lower().endswith(SUFFIXES) and len(file_name.encode(errors="replace")) <= 255
        if is_plain and not set(file_name) & set("/\\:\0"):
            path = folder / file_name
            if path.is_file() and not path.is_symlink():
                return path
    return None


def small_picture(path: Path) -> bytes | None:
    """A WebP of at most `PICTURE_SIZE` pixels a side; None for a file that is no picture, or too large."""
    state = path.stat()
    return _small_picture(path, state.st_mtime_ns) if state.st_size <= MAX_BYTES else None


@lru_cache(maxsize=KEPT_PICTURES)
def _small_picture(path: Path, _changed_at: int) -> bytes | None:
    from PIL import Image, ImageOps

    written = io.BytesIO()
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                return None
            image.draft("RGB", (PICTURE_SIZE, PICTURE_SIZE))  # JPEG: decoded at a fraction of its size
            image.thumbnail((PICTURE_SIZE, PICTURE_SIZE))  # before it is turned, which copies it
            upright = ImageOps.exif_transpose(image)
            mode = "RGBA" if upright.has_transparency_data else "RGB"
            upright.convert(mode).save(written, "WEBP", quality=80)
    except Exception:  # formats and EXIF of a shop's own files fail in many ways
        return None
    return written.getvalue()


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


def item_lines(visit: Visit, recommender: Recommender, rows: Rows, *, with_buyers: bool = True) -> list[ItemLine]:
    """with_buyers: whether their numbers are asked for, which counts into the visitor's budget."""
    dataset, figures = recommender.dataset, visit.figures
    items, buyers = dataset.items[rows.tolist()], recommender.population.stats.buyers_28[rows]
    names, is_offered = item_names(items, visit.language), on_offer(items, dataset.as_of)
    return [
        ItemLine(
            item_id=item["item_id"],
            title=names[n],
            category=" > ".join(item["category"] or ()),
            price=item["price"],
            currency=item["currency"],
            available=bool(is_offered[n]),
            buyers=figures.people(int(buyers[n]), "buyers", item["item_id"]) if with_buyers and buyers[n] else 0,
        )
        for n, item in enumerate(items.iter_rows(named=True))
    ]


def items_table(visit: Visit, recommender: Recommender, rows: Rows, start: int) -> ConsoleTable:
    """`PAGE_ITEMS` items from `start` on; the file has all of the rows."""
    floor = visit.say("home.fewer", floor=visit.workspace.policy.group_floor)

    def row(line: ItemLine) -> TableRow:
        off_sale = "" if line.available else visit.say("items.no")
        href = f"/items/item/{quote(line.item_id)}"
        picture = line.item_id, line.category
        title = TableCell(value=line.title, href=href, tag=off_sale, tone="warn", remark=line.item_id, picture=picture)
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


MAX_CATEGORIES = 400
MAX_BRANDS = 100
FOUND_PRODUCTS = 12


def opened(visit: Visit) -> Recommender | None:
    """None while the shop is being opened."""
    try:
        return visit.shop.recommender().in_language(visit.language)
    except StoreError:
        return None


def categories(visit: Visit) -> list[str]:
    """Categories with items on offer, the largest first; none while the shop is being opened."""
    if (recommender := opened(visit)) is None:
        return []
    dataset = recommender.dataset
    offered = dataset.items.filter(on_offer(dataset.items, dataset.as_of))
    paths: Counter[str] = Counter()
    for path, n in offered["category"].drop_nulls().list.join(" > ").value_counts().iter_rows():
        parts = path.split(" > ")
        for depth in range(1, len(parts) + 1):
            paths[" > ".join(parts[:depth])] += n
    return [path for path, _ in paths.most_common(MAX_CATEGORIES) if path]


def brands(visit: Visit) -> list[str]:
    """The brands of most items; none while the shop is being opened."""
    if (recommender := opened(visit)) is None:
        return []
    return [brand for brand, _ in Counter(filter(None, recommender.dataset.items["brand"])).most_common(MAX_BRANDS)]


def products(visit: Visit, selected: Sequence[str], words: str) -> tuple[list[ItemLine], list[ItemLine]]:
    """The chosen products, and those on sale that words find, without the chosen ones; by ids first."""
    if (recommender := opened(visit)) is None:
        return [], []
    dataset = recommender.dataset
    matching = matching_rows(recommender, words)[0] if words.strip() else np.asarray(recommender.population.popular)
    offered = matching[on_offer(dataset.items, dataset.as_of)[matching]]
    chosen_rows = dataset.item_rows(selected)
    chosen_rows = chosen_rows[chosen_rows >= 0]
    rows = offered[~np.isin(offered, chosen_rows)][:FOUND_PRODUCTS]
    cards = [item_lines(visit, recommender, of, with_buyers=False) for of in (chosen_rows, rows)]
    return cards[0], cards[1]


@search_router.post("/search")
def search_everything(visit: TheVisit, form: TheForm) -> Response:
    words = form.text("find", 256).strip()
    if not words:
        return visit.back("/")
    name = visit.workspace.pseudonymiser().one(words)
    if visit.workspace.gate().knows_each([name])[0]:
        visit.state.typed.put(words, visit.browser, name)
        return RedirectResponse(f"/people/{name}", 303)
    if (recommender := opened(visit)) is None:
        return visit.page("search.html.j2", words=words, table=None, campaigns=[], status=503)
    if recommender.dataset.item_rows([words])[0] >= 0:
        return RedirectResponse(f"/items/item/{quote(words)}", 303)
    rows, wording = matching_rows(recommender, words)[0][:PAGE_ITEMS], words.casefold()
    campaigns = [
        line for line in list_campaigns(visit.workspace) if wording in f"{line.goal} {line.campaign_id}".casefold()
    ]
    return visit.page(
        "search.html.j2",
        words=words,
        table=items_table(visit, recommender, rows, 0) if len(rows) else None,
        campaigns=campaigns,
    )
