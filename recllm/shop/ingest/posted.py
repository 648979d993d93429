"""How webhooks of a shop system say what its exports say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from recllm.base.errors import DataError
from recllm.base.schema import Table
from recllm.shop.ingest.options import Names, _Part

MAX_SECONDS = 2**33
"""Of a time in epoch seconds: the year 2242."""


class Posted(_Part):
    has: tuple[Names, ...] = ()
    """Keys that such a document has; of a list within it one."""
    tables: frozenset[Table] = frozenset()
    columns: Mapping[str, str] = {}
    """Column of the export -> keys that lead to its cell, joined by dots."""
    each: str | None = None
    """Key of a list, of which each entry is a row and stands in its place."""
    person: str | None = None
    """Column without which a row is about no person, and left out."""
    changed: str = ""
    """Key of the time of this state, where an older one must not follow a newer."""

    def fits(self, document: Any) -> bool:
        keys = document.keys() if isinstance(document, Mapping) else set()
        return bool(self.has) and not any(keys.isdisjoint(names) for names in self.has)

    def rows(self, document: Mapping[str, Any]) -> list[dict[str, Any]]:
        views, each = [document], self.each
        if each is not None:
            views = [{**document, each: entry} for entry in entries(document, each)]
        return [{column: value_at(view, path) for column, path in self.columns.items()} for view in views]


def value_at(document: Any, path: str) -> Any:
    """None where the path leads nowhere."""
    for key in path.split("."):
        document = document.get(key) if isinstance(document, Mapping) else None
    return document


def entries(document: Any, path: str) -> list[Any]:
    cell = value_at(document, path)
    return cell if isinstance(cell, list) else []


def document_of(body: bytes) -> Any:
    """Raises `DataError` for no JSON."""
    try:
        # a bad letter or endless number in an unused field must not spoil the others
        return json.loads(body.decode(errors="replace"), parse_int=short_integer)
    except (ValueError, RecursionError):
        raise DataError("the body is not JSON") from None


def short_integer(digits: str) -> int | None:
    """None for more digits than a time in any unit has; Python takes long for very many."""
    return int(digits) if len(digits) <= 20 else None


def moment_of(value: Any) -> datetime | None:
    """Of epoch seconds, or an ISO 8601 time with its zone; None for anything else."""
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC) if 0 < value < MAX_SECONDS else None
        at = datetime.fromisoformat(value) if isinstance(value, str) and len(value) < 64 else None
        return None if at is None or at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
