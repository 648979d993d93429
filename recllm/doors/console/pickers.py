"""What pickers offer: categories, brands and products that are on sale."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recllm.base.errors import StoreError
from recllm.doors.console.items import matching_rows
from recllm.doors.console.pages import Visit
from recllm.shop.data.catalogue import on_offer
from recllm.text.items import item_names

MAX_CATEGORIES = 400
MAX_BRANDS = 100
FOUND_PRODUCTS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductCard:
    """A product that may be chosen."""

    item_id: str
    title: str
    category: str
    price: str
    """In words; "" where it is unknown."""
    available: bool


def categories(visit: Visit) -> list[str]:
    """Categories with items on offer, the largest first; none while the shop is being opened."""
    try:
        dataset = visit.shop.recommender().dataset
    except StoreError:
        return []
    offered = dataset.items.filter(on_offer(dataset.items, dataset.as_of))
    paths: Counter[str] = Counter()
    for path, n in offered["category"].drop_nulls().list.join(" > ").value_counts().iter_rows():
        parts = path.split(" > ")
        for depth in range(1, len(parts) + 1):
            paths[" > ".join(parts[:depth])] += n
    return [path for path, _ in paths.most_common(MAX_CATEGORIES) if path]


def brands(visit: Visit) -> list[str]:
    """The brands of most items; none while the shop is being opened."""
    try:
        items = visit.shop.recommender().dataset.items
    except StoreError:
        return []
    return [brand for brand, _ in Counter(filter(None, items["brand"])).most_common(MAX_BRANDS)]


def products(visit: Visit, selected: Sequence[str], words: str) -> tuple[list[ProductCard], list[ProductCard]]:
    """The chosen products, and those on sale that words find, without the chosen ones; by ids first."""
    try:
        recommender = visit.shop.recommender().in_language(visit.language)
    except StoreError:
        return [], []
    dataset = recommender.dataset
    matching = matching_rows(recommender, words)[0] if words.strip() else np.asarray(recommender.population.popular)
    offered = matching[on_offer(dataset.items, dataset.as_of)[matching]]
    chosen_rows = dataset.item_rows(selected)
    chosen_rows = chosen_rows[chosen_rows >= 0]
    rows = offered[~np.isin(offered, chosen_rows)][:FOUND_PRODUCTS].tolist()
    return _cards(visit, chosen_rows.tolist()), _cards(visit, rows)


def _cards(visit: Visit, rows: Sequence[int]) -> list[ProductCard]:
    dataset = visit.shop.recommender().dataset
    items = dataset.items[list(rows)]
    is_offered = on_offer(items, dataset.as_of)
    return [
        ProductCard(
            item_id=item["item_id"],
            title=name,
            category=" > ".join(item["category"] or ()),
            price="" if item["price"] is None else visit.words.money(item["price"], item["currency"]),
            available=bool(offered),
        )
        for item, name, offered in zip(
            items.iter_rows(named=True), item_names(items, visit.language), is_offered, strict=True
        )
    ]
