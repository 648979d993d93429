"""What an audience is for: items, a category, the catalogue, or a text that stands for an item the shop does not have
yet."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.errors import PolicyError, UsageError
from recllm.shop.data.catalogue import (
    CATEGORY_SEPARATOR,
    SENSITIVE_TARGET,
    catalogue_rows,
    in_category,
    on_offer,
    sensitive_items,
)
from recllm.text.encoder.batches import encode_once
from recllm.text.items import item_texts

if TYPE_CHECKING:
    from recllm.recommend.recommender.recommender import Recommender

TEXT_ITEM = "text of the campaign"
"""Id of the item that a text stands for; it is in no catalogue."""


@dataclass(frozen=True, eq=False)
class AudienceTarget:
    """The items whose purchase counts."""

    name: str
    """The campaign's, where the caller gives it none."""
    items: NDArray[np.int64]
    """Rows of the catalogue, ascending."""
    notes: tuple[str, ...] = ()
    is_personal: bool = False
    """A customer's probability is that of the item that suits them best, else of at least one item."""


def audience_target(
    recommender: Recommender, items: Sequence[str] | None = None, category: str | None = None, text: str | None = None
) -> tuple[Recommender, AudienceTarget]:
    """The target of one of the three, a text possibly with its category, or of the whole catalogue, and the recommender
    that knows its items.

    Raises `UsageError` for an unknown item or a category without any, `PolicyError` when all are of a sensitive one.
    """
    if text is not None:
        return text_target(recommender, text, category)
    catalogue = recommender.dataset.items
    if items is None and category is None:
        rows = np.flatnonzero(recommender.dataset.item_index.on_offer(recommender.dataset.as_of))
    elif category is not None:
        rows = np.flatnonzero(in_category(catalogue, category) & on_offer(catalogue, recommender.dataset.as_of))
        if not len(rows):
            raise UsageError(f"no item on offer in the category {category!r}; write a name, or a path as 'a > b'")
    else:
        rows = catalogue_rows(recommender.dataset, list(dict.fromkeys(items or ())))
    sensitive = sensitive_items(catalogue[rows.tolist()], recommender.policy)
    if sensitive.all():
        raise PolicyError(SENSITIVE_TARGET)
    notes = (f"{int(sensitive.sum())} items of a sensitive category are left out",) if sensitive.any() else ()
    return recommender, AudienceTarget(target_name(items, category), np.sort(rows[~sensitive]), notes)


def target_name(items: Sequence[str] | None, category: str | None) -> str:
    """What a target without a text is called: a category's name, the ids of items, or for more than three their number
    and a hash of them, so that every set has its own name."""
    if category is not None:
        return category
    if items is None:
        return "catalogue"
    ids = list(dict.fromkeys(items))
    digest = hashlib.sha256("\0".join(sorted(ids)).encode("utf-8", "surrogatepass")).hexdigest()
    return ",".join(ids) if len(ids) <= 3 else f"{len(ids)} items {digest[:8]}"


def text_target(recommender: Recommender, text: str, category: str | None = None) -> tuple[Recommender, AudienceTarget]:
    """A recommender whose catalogue has one more item, which never sold and is called `text`, and that item.

    category: the item's path, "a > b > c"; that of the item nearest in text when None. Without a category the order of
    people would be worse than chance, as everything that is known of an item without sales is how its kind sells.
    Raises `PolicyError` for a sensitive text or category.
    """
    items, notes = recommender.dataset.items, []
    path = [] if category is None else [name.strip() for name in category.split(CATEGORY_SEPARATOR.strip())]
    categorised = np.flatnonzero(items["category"].list.len().fill_null(0).to_numpy() > 0)
    if category is None and len(categorised):
        vectors = encode_once(recommender.encoder, [text], kind="query")
        nearest = categorised[int(np.argmax(recommender.item_vectors[categorised] @ vectors[0]))]
        path = items["category"][int(nearest)].to_list()
        notes.append(f"taken to be of the category {CATEGORY_SEPARATOR.join(path)!r}, that of the nearest item")
    if recommender.policy.is_sensitive((*path, text)):
        raise PolicyError(SENSITIVE_TARGET)
    row = {"item_id": [TEXT_ITEM], "title": [text.strip()], "category": [path or None], "available": [True]}
    item = pl.DataFrame(row, schema={name: items.schema[name] for name in row})
    extended = pl.concat([items, item], how="diagonal")
    vectors = encode_once(recommender.encoder, item_texts(extended[-1:], recommender.text_locale))
    notes.append("the text stands for an item that never sold: trust the order of people more than the probabilities")
    target = AudienceTarget(text.strip(), np.array([items.height]), tuple(notes))
    return recommender.with_items(replace(recommender.dataset, items=extended), vectors), target
