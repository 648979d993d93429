"""Items and people's basics in the encoder's space.

    Item    = unit(Emb(category, title, brand, attributes, ...) + w * Emb(price in words)), w = PRICE_WEIGHT
    Emb(I)  = Emb(the person's basics as text)

Each distinct text is encoded once. For Emb(B) and Emb(H) see `recllm.shop.data.interactions.user_parts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Lock

import numpy as np
import polars as pl

from recllm.base.arrays import Floats, Values
from recllm.base.schema import ACTION_CODE, Action, Encoder
from recllm.shop.data.dataset import USER_COLUMN, Dataset
from recllm.text.encoder.batches import distinct, encode_once
from recllm.text.items import basics_text, item_texts, price_texts

PRICE_WEIGHT = 0.25
"""The price is one fact among many: at equal weight two dear things would be nearer than two things to wear."""


def item_vectors(encoder: Encoder, dataset: Dataset, locale: str = "en") -> Floats:
    """Unit vectors of all items, (n_items, dim).
    An item without a catalogue price takes the median price paid."""
    return DatedItemVectors(encoder, dataset, locale).latest


def new_item_vectors(encoder: Encoder, items: pl.DataFrame, n_new: int, locale: str = "en") -> Floats:
    """Unit vectors of the last `n_new` items, (n_new, dim); `items` is the whole catalogue, whose prices say what is
    dear."""
    vectors = encode_once(encoder, item_texts(items.tail(n_new), locale))
    priced = items["price"].tail(n_new).fill_null(np.nan).is_finite().to_numpy()
    if not priced.any():
        return vectors
    vectors[priced] += PRICE_WEIGHT * encode_once(encoder, price_texts(items, locale, n_last=n_new))[priced]
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


class DatedItemVectors:
    """Item vectors as they were at any time: those of a past time know only the prices paid before it.

    Catalogue prices hold at all times.
    """

    def __init__(self, encoder: Encoder, dataset: Dataset, locale: str = "en") -> None:
        self._encoder, self._dataset, self._locale = encoder, dataset, locale
        self._price_vectors: dict[str, Floats] = {}
        self._lock = Lock()  # windows of the past are prepared in threads
        self._unpriced = encode_once(encoder, item_texts(dataset.items, locale))
        self._latest_prices = _prices(dataset)
        self.latest: Floats = self._with_prices(self._latest_prices)
        """Unit rows of all items as of today, (n_items, dim)."""

    def before(self, time: int) -> Floats:
        """Unit rows (n_items, dim) as they were known just before `time` (epoch seconds)."""
        prices = _prices(self._dataset, before=time)
        return self.latest if np.array_equal(prices, self._latest_prices, equal_nan=True) else self._with_prices(prices)

    def _with_prices(self, prices: Values) -> Floats:
        priced = np.isfinite(prices)
        if not priced.any():
            return self._unpriced
        items = self._dataset.items.with_columns(price=pl.Series(prices, dtype=pl.Float64).fill_nan(None))
        texts, rows = distinct(price_texts(items, self._locale))
        with self._lock:
            if unread := [text for text in texts if text not in self._price_vectors]:
                self._price_vectors |= dict(zip(unread, self._encoder.encode(unread), strict=True))
        vectors = self._unpriced.copy()
        vectors[priced] += PRICE_WEIGHT * np.stack([self._price_vectors[text] for text in texts])[rows[priced]]
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def basics_vectors(encoder: Encoder, basics: Sequence[Mapping[str, str]], locale: str = "en") -> Floats:
    """Emb(I) of each person, (n, dim): unit rows, and a row of zeros where nothing is known.

    Equal basics are put into words once: that takes longest.
    """
    answers, row_of_user = distinct([tuple(person.items()) for person in basics])
    texts = [basics_text(dict(stated), locale) for stated in answers]
    vectors = np.zeros((len(texts), encoder.dim), np.float32)
    if stated_rows := [row for row, text in enumerate(texts) if text]:
        vectors[stated_rows] = encode_once(encoder, [texts[row] for row in stated_rows], kind="query")
    return vectors[row_of_user]


def basics_of(users: pl.DataFrame) -> list[dict[str, str]]:
    """Each person's basics as name -> value, nulls left out, in row order."""
    rows = users.drop(USER_COLUMN).to_dicts() if users.width > 1 else [{}] * users.height
    return [{name: str(value) for name, value in row.items() if value is not None} for row in rows]


def _prices(dataset: Dataset, before: int | None = None) -> Values:
    """Catalogue price, else the median unit price paid (before a time), else NaN; float64 (n_items,)."""
    counts = pl.DataFrame(schema={"item": pl.Int32, "price": pl.Float32, "len": pl.UInt32})
    for _, events in dataset.events.parts():
        paid = (events.action == ACTION_CODE[Action.PURCHASE]) & np.isfinite(events.price) & (events.price > 0)
        if before is not None:
            paid &= events.at < before
        lines = pl.DataFrame({"item": events.item[paid], "price": events.price[paid]}).group_by("item", "price").len()
        counts = pl.concat([counts, lines]).group_by("item", "price").agg(pl.col("len").sum())
    # of an even number of lines the median is the mean of the two in the middle
    upto, n = pl.col("len").cum_sum().over("item"), pl.col("len").sum().over("item")
    counts = counts.sort("item", "price").with_columns(upto=upto, n=n)
    low, high = (pl.col("price").filter(pl.col("upto") > (pl.col("n") - i) // 2).first() for i in (1, 0))
    median = counts.group_by("item").agg(((low + high) / 2).alias("price"))
    prices = np.full(dataset.n_items, np.nan)
    prices[median["item"].to_numpy()] = median["price"].to_numpy()
    listed = dataset.items["price"].fill_null(np.nan).to_numpy()
    return np.where(np.isfinite(listed), listed, prices)
