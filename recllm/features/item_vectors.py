"""Items and people's basics in the encoder's space.

    Item    = unit(Emb(category, title, brand, attributes, ...) + w * Emb(price in words)), w = PRICE_WEIGHT
    Emb(I)  = Emb(the person's basics as text)

Each distinct text is encoded once. Emb(B) and Emb(H) need no text of their own: they are sums over the vectors of the
items bought and browsed (`recllm.data.interactions.user_parts`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.data.dataset import USER_COLUMN, Dataset, utc
from recllm.encoder.batches import encode_unique
from recllm.schema import ACTION_CODE, Action, Encoder, Profile
from recllm.text.items import item_texts, price_texts
from recllm.text.templates import Prompts
from recllm.text.users import profile_texts

if TYPE_CHECKING:
    from recllm.schema import FloatArray

PRICE_WEIGHT = 0.25
"""The price is one fact among many: at equal weight two dear things would be nearer than two things to wear."""


def item_vectors(
    encoder: Encoder, dataset: Dataset, locale: str = "en", *, prompts: Prompts | None = None
) -> FloatArray:
    """Unit vectors of all items, (n_items, dim). An item without a catalogue price takes the median price paid."""
    prices = _known_prices(dataset)
    items = dataset.items.with_columns(price=pl.Series(prices, dtype=pl.Float64).fill_nan(None))
    rows = _encode(encoder, item_texts(items, locale, prompts=prompts))
    priced = np.isfinite(prices)
    if priced.any():
        rows[priced] += PRICE_WEIGHT * _encode(encoder, price_texts(items, locale, prompts=prompts))[priced]
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def basics_vectors(
    encoder: Encoder, basics: Sequence[Mapping[str, str]], locale: str = "en", *, prompts: Prompts | None = None
) -> FloatArray:
    """Emb(I) of each person, (n, dim): unit rows, and a row of zeros where nothing is known."""
    people = [Profile(user_id="", as_of=utc(0), basics=b, purchases=(), browsing=()) for b in basics]
    no_items = pl.DataFrame(schema={"item_id": pl.String, "title": pl.String, "category": pl.List(pl.String)})
    told = [t.basics for t in profile_texts(people, no_items, locale, prompts=prompts)]
    out = np.zeros((len(told), encoder.dim), np.float32)
    known = [row for row, text in enumerate(told) if text]
    if known:
        vectors, inverse = encode_unique(encoder, [told[row] for row in known], kind="query")
        out[known] = vectors[inverse]
    return out


def basics_of(users: pl.DataFrame) -> list[dict[str, str]]:
    """Each person's basics as name -> value, nulls left out, in row order."""
    rows = users.drop(USER_COLUMN).to_dicts() if users.width > 1 else [{}] * users.height
    return [{name: str(value) for name, value in row.items() if value is not None} for row in rows]


def _encode(encoder: Encoder, texts: Sequence[str]) -> FloatArray:
    vectors, inverse = encode_unique(encoder, texts)
    return vectors[inverse]


def _known_prices(dataset: Dataset) -> NDArray[np.float64]:
    """Catalogue price, else the median unit price paid, else NaN; float64 (n_items,)."""
    e = dataset.events
    paid = (e.action == ACTION_CODE[Action.PURCHASE]) & np.isfinite(e.price) & (e.price > 0)
    median = pl.DataFrame({"item": e.item[paid], "price": e.price[paid]}).group_by("item").median()
    prices = np.full(dataset.n_items, np.nan)
    prices[median["item"].to_numpy()] = median["price"].to_numpy()
    listed = dataset.items["price"].fill_null(np.nan).to_numpy()
    return np.where(np.isfinite(listed), listed, prices)
