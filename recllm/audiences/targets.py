"""What an audience is for: items, a category, or a text that stands for an item the shop does not have yet."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.data.dataset import Dataset
from recllm.encoder.batches import encode_unique
from recllm.errors import PolicyError, UsageError
from recllm.text.items import item_texts

if TYPE_CHECKING:
    from recllm.recommender.recommender import Recommender

TEXT_ITEM = "text of the campaign"
"""Id of the item that a text stands for; it is in no catalogue."""

PATH = " > "
SENSITIVE = "nobody is targeted for products of a sensitive category; see sensitive_categories in [policy]"


@dataclass(frozen=True, eq=False)
class Target:
    """The items whose taking counts. name: the campaign's, for the holdout and the answer. items: rows, ascending."""

    name: str
    items: NDArray[np.int64]
    notes: tuple[str, ...] = ()


def item_target(recommender: Recommender, item_ids: Sequence[str]) -> Target:
    """Raises `UsageError` for an unknown item or none, `PolicyError` when all are of a sensitive category."""
    wanted = list(dict.fromkeys(item_ids))
    if not wanted:
        raise UsageError("an audience needs at least one item, a category, a text or seeds")
    rows = recommender.dataset.item_rows(wanted)
    if (rows < 0).any():
        raise UsageError(f"no item {wanted[int(np.flatnonzero(rows < 0)[0])]!r} in the catalogue")
    return _without_sensitive(recommender, _called(wanted), rows)


def _called(item_ids: Sequence[str]) -> str:
    """A short name for a set of items, another for every other set."""
    if len(item_ids) <= 3:
        return ",".join(item_ids)
    digest = hashlib.sha256("\0".join(sorted(item_ids)).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{len(item_ids)} items {digest[:8]}"


def category_target(recommender: Recommender, category: str) -> Target:
    """The available items whose path begins with "a > b", or for a single name holds it, in any case.

    Raises `UsageError` when there is none, `PolicyError` when all are of a sensitive category.
    """
    rows = np.flatnonzero(in_category(recommender.dataset.items, category) & _available(recommender.dataset))
    if not len(rows):
        raise UsageError(f"no item on offer in the category {category!r}; write a name, or a path as 'a{PATH}b'")
    return _without_sensitive(recommender, category, rows)


def in_category(items: pl.DataFrame, category: str) -> NDArray[np.bool_]:
    """Boolean (n_items,)."""
    wanted = [part.strip().casefold() for part in category.split(PATH.strip())]
    path = items["category"].list.eval(pl.element().str.to_lowercase()).to_list()
    if len(wanted) == 1:
        return np.array([p is not None and wanted[0] in p for p in path], bool)
    return np.array([p is not None and p[: len(wanted)] == wanted for p in path], bool)


def text_target(recommender: Recommender, text: str, category: str | None = None) -> tuple[Recommender, Target]:
    """A recommender whose catalogue has one more item, which never sold and is called `text`, and that item.

    category: the item's path, "a > b > c"; that of the item nearest in text when None. Without a category the order of
    people would be worse than chance, as everything that is known of an item without sales is how its kind sells.
    Raises `UsageError` for an empty text, `PolicyError` for a sensitive one.
    """
    if not text.strip():
        raise UsageError("the text of an audience is empty")
    path, notes = _path_of(recommender, text, category)
    if recommender.policy.is_sensitive((*path, text)):
        raise PolicyError(SENSITIVE)
    items = recommender.dataset.items
    row = {"item_id": [TEXT_ITEM], "title": [text.strip()], "category": [path or None], "available": [True]}
    longer = pl.concat([items, pl.DataFrame(row, schema={name: items.schema[name] for name in row})], how="diagonal")
    vectors, _ = encode_unique(recommender.encoder, item_texts(longer[-1:], recommender.locale))
    made = recommender.with_items(replace(recommender.dataset, items=longer), vectors)
    level = "the text stands for an item that never sold: trust the order of people more than the probabilities"
    return made, Target(text.strip(), np.array([items.height]), (*notes, level))


def _path_of(recommender: Recommender, text: str, category: str | None) -> tuple[list[str], tuple[str, ...]]:
    """The category of a text, and what to say of it."""
    if category is not None:
        return [part.strip() for part in category.split(PATH.strip())], ()
    items = recommender.dataset.items
    known = np.flatnonzero(items["category"].list.len().fill_null(0).to_numpy() > 0)
    if not len(known):
        return [], ()
    vector, _ = encode_unique(recommender.encoder, [text], kind="query")
    nearest = known[int(np.argmax(recommender.item_vectors[known] @ vector[0]))]
    path = items["category"][int(nearest)].to_list()
    return path, (f"taken to be of the category {PATH.join(path)!r}, that of the nearest item",)


def _available(dataset: Dataset) -> NDArray[np.bool_]:
    return dataset.items["available"].to_numpy().astype(bool)


def _without_sensitive(recommender: Recommender, name: str, rows: NDArray[np.int64]) -> Target:
    found = recommender.dataset.items[rows.tolist()]
    paths = zip(found["category"].to_list(), found["title"].to_list(), strict=True)
    bad = np.array([recommender.policy.is_sensitive((*(path or ()), title or "")) for path, title in paths], bool)
    if bad.all():
        raise PolicyError(SENSITIVE)
    notes = (f"{int(bad.sum())} items of a sensitive category are left out",) if bad.any() else ()
    return Target(name, np.sort(rows[~bad]), notes)
