"""A person as text: I, B and H, one fact a line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from recllm.base.schema import HistoryLine, Profile
from recllm.text.injection import neutralise
from recllm.text.items import ATTRIBUTE_CHARS, CATEGORY_CHARS, READ_CHARS, item_names
from recllm.text.personal_data import without_personal_data
from recllm.text.templates import Prompts, clean, name_as_told

if TYPE_CHECKING:
    import polars as pl

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
    purchases = chain(_favourites(profile, locale), _history("purchases", profile.purchases, names))
    return UserTexts(
        basics=basics_text(profile.basics, locale),
        purchases=_text(purchases, locale),
        browsing=_text(_history("browsing", profile.browsing, names), locale),
    )


def basics_text(basics: Mapping[str, str], locale: str) -> str:
    """I alone: what a person said of himself or herself, without personal data: mail, phone, address, name."""
    lines: list[tuple[str, dict[str, object]]] = []
    for name, answer in basics.items():
        if value := neutralise(without_personal_data(answer[:READ_CHARS]), max_chars=ATTRIBUTE_CHARS):
            lines.append(("user_basics", {"name": clean(name.replace("_", " "), ATTRIBUTE_CHARS), "value": value}))
    return _text(lines, locale)


Lines = Iterable[tuple[str, dict[str, object]]]
"""(template, its values) of each line, the most telling first."""


def _text(lines: Lines, locale: str) -> str:
    prompts = Prompts.load()
    return "\n".join(prompts.template(name, locale).render(values) for name, values in lines)


def _favourites(profile: Profile, locale: str) -> Lines:
    categories = [
        name_as_told(share.name, CATEGORY_CHARS, locale) for share in profile.favourite_categories[:FAVOURITES]
    ]
    brands = [neutralise(s.name, max_chars=CATEGORY_CHARS) for s in profile.favourite_brands[:FAVOURITES]]
    for template, names in (("user_purchases.categories", categories), ("user_purchases.brands", brands)):
        if any(names):
            yield template, {"names": [name for name in names if name]}
    if profile.price_band is not None:
        yield "user_purchases.prices", dict(zip(("low", "middle", "high"), profile.price_band, strict=True))


def _history(sentence: str, lines: Sequence[HistoryLine], names: Mapping[str, str]) -> Lines:
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
