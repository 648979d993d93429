"""What lies in a store, or in a file before it is loaded: counts, spans, gaps, categories, languages. No raw ids."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from recllm.ingest.load import open_reader
from recllm.ingest.options import IngestOptions
from recllm.ingest.source import probe
from recllm.policy import Policy
from recllm.store.database import Store

_SCRIPTS: tuple[tuple[str, str], ...] = (
    ("japanese", r"[\u3040-\u30ff]"),
    ("korean", r"[\uac00-\ud7af]"),
    ("chinese", r"[\u4e00-\u9fff]"),
    ("cyrillic", r"[\u0400-\u04ff]"),
    ("arabic", r"[\u0600-\u06ff]"),
    ("greek", r"[\u0370-\u03ff]"),
    ("thai", r"[\u0e00-\u0e7f]"),
    ("latin", r"[A-Za-z]"),
)
_TOP = 10


def describe(
    source: Store | str | Path, options: IngestOptions | None = None, policy: Policy | None = None
) -> dict[str, Any]:
    """A store's tables, or a file's columns as text. JSON-ready. Raises `IngestError` for an unreadable file."""
    return (
        _store(source) if isinstance(source, Store) else _file(source, options or IngestOptions(), policy or Policy())
    )


def languages(texts: Iterable[str]) -> dict[str, float]:
    """Share of the texts, in [0, 1], by the first script found in this order: Japanese, Korean, Chinese, Cyrillic, ...

    The script says the language family only: "latin" may be English, French or many others.
    """
    found = Counter(_script(text) for text in texts)
    total = found.total()
    return {name: round(count / total, 4) for name, count in found.most_common()}


def _script(text: str) -> str:
    return next((name for name, pattern in _SCRIPTS if re.search(pattern, text)), "none")


def _store(store: Store) -> dict[str, Any]:
    with store.read() as reader:
        events, items, users = reader.events(), reader.items(), reader.users()
    return {"events": _events(events), "items": _items(items), "users": _users(users), "consent": _consent(store)}


def _events(events: pl.DataFrame) -> dict[str, Any]:
    per_user = events["user_id"].value_counts()["count"]
    return {
        "rows": events.height,
        "users": events["user_id"].n_unique(),
        "items": events["item_id"].n_unique(),
        "first": _iso(events["timestamp"].min()),
        "last": _iso(events["timestamp"].max()),
        "kinds": dict(events["event"].value_counts(sort=True).iter_rows()),
        "events_per_user": _spread(per_user),
        "price": _spread(events["price"]),
        "empty": _empty(events),
    }


def _items(items: pl.DataFrame) -> dict[str, Any]:
    known = items.filter(~pl.col("pending"))
    category = known["category"]
    wide = category.list.first() if isinstance(category.dtype, pl.List) else category
    titles = known["title"].drop_nulls()
    return {
        "rows": items.height,
        "only_in_events": items.height - known.height,
        "top_categories": dict(wide.drop_nulls().value_counts(sort=True).head(_TOP).iter_rows()),
        "title_length": _spread(titles.str.len_chars()),
        "distinct_titles": titles.n_unique(),
        "languages": languages(titles),
        "empty": _empty(known),
    }


def _users(users: pl.DataFrame) -> dict[str, Any]:
    names = Counter(name for text in users["basics"] for name in json.loads(text))
    return {"rows": users.height, "basics": dict(names.most_common())}


def _consent(store: Store) -> dict[str, Any]:
    consent = store.consent()
    said = consent.group_by("purpose").agg(granted=pl.col("granted").sum(), denied=(~pl.col("granted")).sum())
    return {
        "rows": consent.height,
        "purposes": {row["purpose"]: {k: row[k] for k in ("granted", "denied")} for row in said.to_dicts()},
    }


def _file(path: str | Path, options: IngestOptions, policy: Policy) -> dict[str, Any]:
    probed = probe(path, policy)
    reader = open_reader(probed, options)
    rows = broken = 0
    empty: Counter[str] = Counter()
    longest: Counter[str] = Counter()
    for chunk in reader.chunks():
        rows += chunk.n_records
        broken += len(chunk.broken)
        for name in reader.columns:
            column = chunk.frame[name]
            empty[name] += column.null_count()
            longest[name] = max(longest[name], *column.str.len_chars().drop_nulls().top_k(1).to_list(), 0)
    return {
        "file": probed.path.name,
        "kind": str(probed.kind),
        "bytes": probed.size,
        "sha256": probed.sha256,
        "rows": rows,
        "broken": broken,
        "warnings": dict(reader.warnings),
        "columns": {n: {"empty": empty[n], "longest": longest[n]} for n in reader.columns},
    }


def _empty(frame: pl.DataFrame) -> dict[str, int]:
    return {name: frame[name].null_count() for name in frame.columns}


def _spread(numbers: pl.Series) -> dict[str, float] | None:
    known = numbers.drop_nulls()
    if known.is_empty():
        return None
    quantiles = {"min": 0.0, "p25": 0.25, "median": 0.5, "p75": 0.75, "p99": 0.99, "max": 1.0}
    return {name: round(float(known.quantile(q, "nearest") or 0.0), 6) for name, q in quantiles.items()}


def _iso(value: Any) -> str | None:
    return value.isoformat() if isinstance(value, datetime) else None
