"""Names of columns: the fields of each table, other names, and columns not taken in."""

from __future__ import annotations

import difflib
import re
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping
from importlib import resources
from itertools import chain, takewhile
from typing import Any

from recllm.base.schema import Table

REQUIRED: Mapping[Table, tuple[str, ...]] = {
    Table.EVENTS: ("user_id", "item_id", "timestamp"),
    Table.ITEMS: ("item_id", "title"),
    Table.USERS: ("user_id",),
    Table.CONSENT: ("user_id", "purpose", "granted", "timestamp"),
}

FIELDS: Mapping[Table, tuple[str, ...]] = {
    **REQUIRED,
    Table.EVENTS: (
        *REQUIRED[Table.EVENTS], "event_id", "event", "quantity", "price", "currency", "basket_id", "value",
        "request_id", "position", "model_version",
    ),
    Table.ITEMS: (
        *REQUIRED[Table.ITEMS], "category", "brand", "description", "price", "currency", "available", "stock",
        "attributes", "available_until",
    ),
}  # fmt: skip

_TABLE = tomllib.loads((resources.files("recllm.shop.ingest") / "column_names.toml").read_text(encoding="utf-8"))
BASICS: Mapping[str, tuple[str, ...]] = {name: tuple(others) for name, others in _TABLE["basics"].items()}
"""Facts about a person that are kept without a map, under these names."""
VALUES: Mapping[str, Any] = _TABLE["values"]
"""Words in cells: yes, no, granted, denied, and event, by action."""
TEST: str = _TABLE["test"]
"""Pattern of cells of `NOTES` that call an order or a product a test."""
PACK: str = _TABLE["pack"]
STATES: Mapping[str, str] = {
    name: rf"(?i)^\s*(?:{'|'.join(map(re.escape, words))})\s*$".replace("\\ ", "[ _-]?")
    for name, words in _TABLE["order_states"].items()
    if name != "columns"
}
"""Patterns of orders' states: `returned`, `left_out` (cancelled or not paid), `bought`."""


def normal(name: str) -> str:
    """Without case, width, spaces and punctuation: "User Id" and "ＵＳＥＲ-ID" are equal."""
    return re.sub(r"[\s_\-./#:()\[\]'\"]+", "", unicodedata.normalize("NFKC", name).casefold())


def is_special(name: str) -> bool:
    """True for what the law protects specially; refused unless the map declares it."""
    return normal(name) in _SPECIAL


def candidates(field: str) -> frozenset[str]:
    """The normalised names of a field or basic."""
    names = (field, *_TABLE["aliases"].get(field, ()), *BASICS.get(field, ()))
    return frozenset(map(normal, names))


def columns_of(field: str, by_normal: Mapping[str, str]) -> list[str]:
    """The column with the field's own name, else those of `named_so`."""
    exact = by_normal.get(normal(field))
    return named_so(field, by_normal) if exact is None else [exact]


def named_so(field: str, by_normal: Mapping[str, str]) -> list[str]:
    """The columns with a shop's name of the field, or else another business's."""
    for names in (candidates(field), outside_shops(field)):
        if columns := [column for name, column in by_normal.items() if name in names]:
            return columns
    return []


def category_levels(by_normal: Mapping[str, str]) -> tuple[str, ...]:
    """The columns of a category's path, the widest first; none where one column holds it."""
    lists = _TABLE["category_levels"]
    levels = ([by_normal[key] for key in map(normal, names) if key in by_normal] for names in lists)
    path = tuple(columns[0] for columns in takewhile(bool, levels))
    return path if path[1:] or not columns_of("category", by_normal) else ()


def outside_shops(field: str) -> frozenset[str]:
    """The normalised names of a field in media, news, education and tills."""
    return frozenset(map(normal, _TABLE["outside_shops"].get(field, ())))


def known_count(names: Iterable[str]) -> int:
    """Number of header names that some table knows."""
    return sum(normal(name) in _KNOWN for name in names)


def nearest(field: str, columns: Iterable[str]) -> list[str]:
    """Up to three columns that may have been meant."""
    by_normal = {normal(column): column for column in columns}
    names = sorted(candidates(field) | outside_shops(field), key=lambda name: (name != normal(field), name))
    close = chain.from_iterable(difflib.get_close_matches(name, by_normal, n=3, cutoff=0.6) for name in names)
    return [by_normal[name] for name in dict.fromkeys(close)][:3]


STATE_COLUMNS = frozenset(map(normal, _TABLE["order_states"]["columns"]))
NOTES = frozenset(map(normal, _TABLE["notes"]))
_SPECIAL = frozenset(map(normal, _TABLE["special_categories"]))
_KNOWN = frozenset(n for field in (*_TABLE["aliases"], *BASICS) for n in candidates(field) | outside_shops(field))
