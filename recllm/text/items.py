"""Products as text: what the encoder reads, what a person reads, and the price in words."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from recllm.errors import DataError
from recllm.text.injection import TITLE_CHARS, neutralise
from recllm.text.templates import Prompts, Template
from recllm.text.words import natural

if TYPE_CHECKING:  # ad text reads this room too, and does without tables
    import polars as pl

CATEGORY_CHARS = 80
ATTRIBUTES = 6
"""So many attributes of an item are told, in order of their names."""
CODES = ("_id", " id", "_code", " code", "编号", "编码")
"""Attributes that end so are codes: they group items, and say nothing in words."""
ATTRIBUTE_CHARS = 60
DESCRIPTION_CHARS = 160

PRICE_GROUPS = 400
PRICED_ITEMS = 8


def item_texts(items: pl.DataFrame, locale: str = "en", *, prompts: Prompts | None = None) -> list[str]:
    """One text per row of `items` (columns of `recllm.data.dataset.ITEM_SCHEMA`), in order; never empty.

    A text depends on its own row alone, so equal rows get equal texts and the order of rows does not matter. An item
    without a title is called by its narrowest category. Raises `DataError` for attributes that are not JSON.
    """
    prompts = prompts or Prompts.load()
    template, clean = prompts.template("item", locale), cleaner(prompts)
    names, paths = items["title"].to_list(), items["category"].to_list()
    columns = (names, paths, *(items[c].to_list() for c in ("brand", "attributes", "description")))
    known: dict[tuple[object, ...], str] = {}
    texts = []
    for title, path, brand, attributes, description in zip(*columns, strict=True):
        row = (title, tuple(path or ()), brand, attributes, description)
        if row not in known:
            known[row] = _item_text(template, clean, *row)
        texts.append(known[row])
    return texts


def item_names(items: pl.DataFrame, locale: str = "en", *, prompts: Prompts | None = None) -> list[str]:
    """What to call each item when speaking to a person: its title, or else its narrowest category; harmless."""
    prompts = prompts or Prompts.load()
    clean = cleaner(prompts)
    unnamed = prompts.template("item.unnamed", locale).render({})
    rows = zip(items["title"].to_list(), items["category"].to_list(), strict=True)
    return [_name(clean, title, path or ()) or unnamed for title, path in rows]


def cleaner(prompts: Prompts) -> Callable[[str, int], str]:
    """A function (text, most characters) -> harmless running text, which remembers what it has seen."""
    short_forms = prompts.short_forms()

    @cache
    def clean(text: str, max_chars: int) -> str:
        return natural(neutralise(text, max_chars=max_chars), short_forms)

    return clean


def _name(clean: Callable[[str, int], str], title: str | None, path: Sequence[str | None]) -> str:
    for text in (title, *reversed(path)):
        name = clean(text, TITLE_CHARS) if text else ""
        if name:
            return name
    return ""


def _item_text(
    template: Template,
    clean: Callable[[str, int], str],
    title: str | None,
    path: tuple[str | None, ...],
    brand: str | None,
    attributes: str | None,
    description: str | None,
) -> str:
    name = _name(clean, title, path)
    told = [clean(c, CATEGORY_CHARS) for c in reversed(path) if c]
    values = {
        "title": name,
        "category": [c for c in dict.fromkeys(told) if c and c != name],
        "brand": neutralise(brand, max_chars=CATEGORY_CHARS) if brand else "",
        "attributes": _attributes(clean, attributes, name),
        "description": neutralise(description, max_chars=DESCRIPTION_CHARS) if description else "",
    }
    return template.render(values)


def _attributes(clean: Callable[[str, int], str], text: str | None, title: str) -> list[tuple[str, str]]:
    """Names and values to tell; not what stands in the title already."""
    if not text:
        return []
    try:
        found: Any = json.loads(text)
    except ValueError as error:
        raise DataError(f"items.attributes: {text[:80]!r} is not JSON ({error}); give an object of strings") from error
    if not isinstance(found, dict):
        raise DataError(f"items.attributes: {text[:80]!r} is not a JSON object; give an object of strings")
    pairs = [
        (clean(str(name).replace("_", " "), ATTRIBUTE_CHARS), clean(str(value), ATTRIBUTE_CHARS))
        for name, value in sorted(found.items())
        if value is not None and not name.lower().endswith(CODES)
    ]
    return [(name, value) for name, value in pairs if name and value and value not in title][:ATTRIBUTES]


# --- the price in words ---------------------------------------------------------------------------------------------


def price_texts(
    items: pl.DataFrame, locale: str = "en", *, prompts: Prompts | None = None, max_groups: int = PRICE_GROUPS
) -> list[str]:
    """The price of each item against its kind, such as "low price for frozen pizza"; never empty.

    Below the first quartile of the group's prices is low, above the third is high. The group is the narrowest level of
    the category paths that has at most `max_groups` names, so distinct texts stay few (at most 3 per group, and 4);
    an item whose group has fewer than `PRICED_ITEMS` prices is compared with the whole catalogue, and no group is
    named. Prices of different currencies are not compared.
    """
    prompts = prompts or Prompts.load()
    template, clean = prompts.template("price", locale), cleaner(prompts)
    known: dict[tuple[str | None, str | None], str] = {}
    texts = []
    for band, group in _price_bands(items, max_groups).iter_rows():
        if (band, group) not in known:
            name = clean(group, CATEGORY_CHARS) if group else None
            known[band, group] = template.render({"band": band, "group": name})
        texts.append(known[band, group])
    return texts


def _price_bands(items: pl.DataFrame, max_groups: int) -> pl.DataFrame:
    """Columns band ("low", "mid", "high" or null) and group (its name, or null), one row per item."""
    import polars as pl

    price = pl.when(pl.col("price").is_finite() & (pl.col("price") > 0)).then("price")
    level = _price_level(items["category"], max_groups)
    frame = items.select(price=price, currency=pl.col("currency"), path=_paths(level))
    inner = frame.with_columns(
        small=(pl.col("price").count().over("path", "currency") < PRICED_ITEMS) | pl.col("path").is_null()
    )
    low, high = (
        pl.when("small")
        .then(pl.col("price").quantile(q, "linear").over("currency"))
        .otherwise(pl.col("price").quantile(q, "linear").over("path", "currency"))
        for q in (0.25, 0.75)
    )
    band = (
        pl.when(pl.col("price").is_null())
        .then(None)
        .when(pl.col("price") < low)
        .then(pl.lit("low"))
        .when(pl.col("price") > high)
        .then(pl.lit("high"))
        .otherwise(pl.lit("mid"))
    )
    group = pl.when(pl.col("small") | pl.col("price").is_null()).then(None).otherwise(pl.col("path").list.last())
    return inner.select(band=band, group=group)


def _price_level(paths: pl.Series, max_groups: int) -> int:
    """How many names of a path make the group: as many as possible with at most `max_groups` groups; 0 for none."""
    deepest = int(paths.list.len().max() or 0)  # type: ignore[arg-type]
    levels = (n for n in range(deepest, 0, -1) if paths.list.head(n).n_unique() <= max_groups)
    return next(levels, 0)


def _paths(level: int) -> pl.Expr:
    import polars as pl

    path = pl.col("category").list.head(level)
    return pl.when(path.list.len() > 0).then(path)
