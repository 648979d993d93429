"""Products as text: what the encoder reads, what a person reads, the price in words, and why a product is shown; and
customers as text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any

from recllm.base.errors import DataError, PromptError
from recllm.base.schema import HistoryLine, Profile, is_confidential
from recllm.text.injection import TITLE_CHARS, neutralise
from recllm.text.personal_data import EXACT_KINDS, without_personal_data
from recllm.text.templates import Prompts, clean, name_as_told

if TYPE_CHECKING:  # ad text reads this room too, and does without tables
    import polars as pl

CATEGORY_CHARS = 80
ATTRIBUTES = 6
"""Attributes of an item in its text, in order of their names."""
CODES = ("_id", " id", "_code", " code", "编号", "编码")
"""Attributes that end so are codes: they group items, and say nothing in words."""
ATTRIBUTE_CHARS = 60
DESCRIPTION_CHARS = 160
READ_CHARS = 8 * DESCRIPTION_CHARS
"""So much of a description, or of a name, is looked at."""

PRICE_GROUPS = 400
PRICED_ITEMS = 8


def item_texts(items: pl.DataFrame, locale: str = "en") -> list[str]:
    """One text per row of `items` (columns of `recllm.shop.data.dataset.ITEM_SCHEMA`), in order; never empty.

    A text depends on its own row alone: `items` may be any selection of rows, and equal rows get equal texts. An item
    without a title is called by its narrowest category. Personal data is cut out: a seller's phone or address says
    nothing of the item. Raises `DataError` for attributes that are not JSON.
    """
    template = Prompts.load().template("item", locale)

    @cache
    def text(
        title: str | None,
        path: tuple[str | None, ...],
        brand: str | None,
        attributes: str | None,
        description: str | None,
    ) -> str:
        name = item_name(title, path, locale)
        names = (name_as_told(category, CATEGORY_CHARS, locale) for category in reversed(path) if category)
        categories = dict.fromkeys(names)
        impersonal = without_personal_data(description[:READ_CHARS]) if description else ""
        return template.render(
            {
                "title": name,
                "category": [category for category in categories if category and category != name],
                "brand": neutralise(without_exact_data(brand), max_chars=CATEGORY_CHARS) if brand else "",
                "attributes": attribute_pairs(attributes, name),
                "description": neutralise(impersonal, max_chars=DESCRIPTION_CHARS),
            }
        )

    paths = [tuple(path or ()) for path in items["category"].to_list()]
    columns = [items[name].to_list() for name in ("title", "brand", "attributes", "description")]
    return [text(title, path, *row) for path, (title, *row) in zip(paths, zip(*columns, strict=True), strict=True)]


def item_names(items: pl.DataFrame, locale: str = "en") -> list[str]:
    """What to call each item when speaking to a person: its title, or else its narrowest category; harmless."""
    unnamed = Prompts.load().render("item.unnamed", locale)
    rows = zip(items["title"].to_list(), items["category"].to_list(), strict=True)
    return [item_name(title, path or (), locale) or unnamed for title, path in rows]


def without_exact_data(text: str) -> str:
    """The beginning, without personal data that has a shape of its own: titles name streets and people, as books do."""
    return without_personal_data(text[:READ_CHARS], EXACT_KINDS)


class ItemNames:
    """`item_names` of the rows of a catalogue; threads may share it."""

    def __init__(self, items: pl.DataFrame, locale: str = "en") -> None:
        self._items, self._locale = items.select("title", "category"), locale

    def of(self, rows: Sequence[int]) -> list[str]:
        """The name of each row."""
        return item_names(self._items[list(rows)], self._locale)

    def first(self, rows: Sequence[int]) -> list[int]:
        """Positions of the rows whose name none before them has."""
        first = {name: position for position, name in reversed(list(enumerate(self.of(rows))))}
        return sorted(first.values())


def item_name(title: str | None, path: Sequence[str | None], locale: str) -> str:
    names = (name_as_told(without_exact_data(text), TITLE_CHARS, locale) for text in (title, *reversed(path)) if text)
    return next(filter(None, names), "")


def attribute_pairs(text: str | None, title: str) -> list[tuple[str, str]]:
    """Names and values to tell; not what stands in the title already."""
    if not text:
        return []
    try:
        content: Any = json.loads(text)
    except ValueError as error:
        raise DataError(f"items.attributes: {text[:80]!r} is not JSON ({error}); give an object of strings") from error
    if not isinstance(content, dict):
        raise DataError(f"items.attributes: {text[:80]!r} is not a JSON object; give an object of strings")
    pairs = [
        (clean(str(name).replace("_", " "), ATTRIBUTE_CHARS), clean(without_exact_data(str(value)), ATTRIBUTE_CHARS))
        for name, value in sorted(content.items())
        if value is not None and not name.lower().endswith(CODES) and not is_confidential(name)
    ]
    return [(name, value) for name, value in pairs if name and value and value not in title][:ATTRIBUTES]


def price_texts(items: pl.DataFrame, locale: str = "en", *, n_last: int | None = None) -> list[str]:
    """The price of each item, or of the last `n_last`, against its kind, such as "low price for frozen pizza"; never
    empty.

    Below the first quartile of the group's prices is low, above the third is high. The group is the narrowest level of
    the category paths that has at most `PRICE_GROUPS` names, so distinct texts stay few (at most 3 per group, and 4);
    an item whose group has fewer than `PRICED_ITEMS` prices is compared with the whole catalogue, and no group is
    named. Prices of different currencies are not compared.
    """
    template = Prompts.load().template("price", locale)

    @cache
    def text(band: str | None, group: str | None) -> str:
        return template.render({"band": band, "group": name_as_told(group, CATEGORY_CHARS, locale) if group else None})

    bands = price_bands(items)
    return [text(band, group) for band, group in bands.tail(bands.height if n_last is None else n_last).iter_rows()]


def price_bands(items: pl.DataFrame) -> pl.DataFrame:
    """Columns band ("low", "mid", "high" or null) and group (its name, or null), one row per item."""
    import polars as pl

    price = pl.when(pl.col("price").is_finite() & (pl.col("price") > 0)).then("price")
    deepest = int(items["category"].list.len().max() or 0)  # type: ignore[arg-type]
    levels = (n for n in range(deepest, 0, -1) if items["category"].list.head(n).n_unique() <= PRICE_GROUPS)
    level = next(levels, 0)  # 0 for the whole catalogue
    path = pl.col("category").list.head(level)
    frame = items.select(price=price, currency=pl.col("currency"), path=pl.when(path.list.len() > 0).then(path))
    frame = frame.with_columns(
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
    return frame.select(band=band, group=group)


_NAMES = {"title", "category"}
"""Facts that are written as names; a brand and a person's own answers keep their spelling."""


@cache
def reason_kinds() -> tuple[str, ...]:
    """The kinds that `reason_text` knows, sorted."""
    names = {name for name, _ in Prompts.load().templates if name.startswith("explanation.")}
    return tuple(sorted(name.removeprefix("explanation.") for name in names))


def reason_text(kind: str, locale: str = "en", **facts: Any) -> str:
    """One sentence for a piece of evidence.

    kind and its facts: bought_before (title, times, interval_days or None, days_since), bought_similar (title,
    category or None), browsed_before (title, action, days_since), browsed_similar (title, action, category or None),
    category_favourite (category, share), brand_favourite (brand, share), price_fit (low, high), basics (name, value),
    goes_with (title, days_since or None, in_cart), neighbours (), popular (category or
    None), new_arrival (category or None), general (), withheld (). Times are in days, shares in [0, 1], actions a value
    of `recllm.base.schema.Action`. Raises `PromptError` for another kind, or other facts.
    """
    if kind not in reason_kinds():
        raise PromptError(f"no reason of kind {kind!r}; there are: {', '.join(reason_kinds())}")
    values = {}
    for name, value in facts.items():
        if isinstance(value, str) and name in _NAMES:
            value = name_as_told(value, TITLE_CHARS, locale)
        elif isinstance(value, str) and name == "name":
            value = clean(value.replace("_", " "), TITLE_CHARS)  # household_size
        elif isinstance(value, str):
            value = neutralise(value)
        values[name] = value
    return Prompts.load().template(f"explanation.{kind}", locale).render(values)


# --- a customer as text: I, B and H, one fact a line ------------------------------------------------------------------

MAX_LINES = 40
"""Lines of each history in a text: the heaviest."""
FAVOURITES = 5
"""Favourite categories, and brands, in a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserTexts:
    """The texts of I, B and H; "" for an empty part, which then has no vector either."""

    basics: str
    purchases: str
    browsing: str


def user_texts(profile: Profile, items: pl.DataFrame, locale: str = "en") -> UserTexts:
    """The three texts of one person. `items` are the dataset's; an unknown item gives no line."""
    ids = {line.item_id for line in (*profile.purchases, *profile.browsing)}
    rows = items.filter(items["item_id"].is_in(list(ids)))
    names = dict(zip(rows["item_id"].to_list(), item_names(rows, locale), strict=True))
    purchases = chain(favourite_lines(profile, locale), history_lines("purchases", profile.purchases, names))
    return UserTexts(
        basics=basics_text(profile.basics, locale),
        purchases=rendered_lines(purchases, locale),
        browsing=rendered_lines(history_lines("browsing", profile.browsing, names), locale),
    )


def basics_text(basics: Mapping[str, str], locale: str) -> str:
    """I alone: what a person said of himself or herself, without personal data: mail, phone, address, name."""
    lines: list[tuple[str, dict[str, object]]] = []
    for name, answer in basics.items():
        if value := neutralise(without_personal_data(answer[:READ_CHARS]), max_chars=ATTRIBUTE_CHARS):
            lines.append(("user_basics", {"name": clean(name.replace("_", " "), ATTRIBUTE_CHARS), "value": value}))
    return rendered_lines(lines, locale)


Lines = Iterable[tuple[str, dict[str, object]]]
"""(template, its values) of each line, the most telling first."""


def rendered_lines(lines: Lines, locale: str) -> str:
    prompts = Prompts.load()
    return "\n".join(prompts.template(name, locale).render(values) for name, values in lines)


def favourite_lines(profile: Profile, locale: str) -> Lines:
    categories = [
        name_as_told(share.name, CATEGORY_CHARS, locale) for share in profile.favourite_categories[:FAVOURITES]
    ]
    brands = [neutralise(s.name, max_chars=CATEGORY_CHARS) for s in profile.favourite_brands[:FAVOURITES]]
    for template, names in (("user_purchases.categories", categories), ("user_purchases.brands", brands)):
        if any(names):
            yield template, {"names": [name for name in names if name]}
    if profile.price_band is not None:
        yield "user_purchases.prices", dict(zip(("low", "middle", "high"), profile.price_band, strict=True))


def history_lines(sentence: str, lines: Sequence[HistoryLine], names: Mapping[str, str]) -> Lines:
    for line in lines[:MAX_LINES]:
        if line.item_id in names:
            values: dict[str, object] = {
                "item": names[line.item_id],
                "count": line.count,
                "days_since": line.days_since,
            }
            if sentence == "purchases":
                values["interval_days"] = line.interval_days
            else:
                values["action"] = line.action.value
            yield f"user_{sentence}.line", values
