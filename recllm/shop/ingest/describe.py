"""Figures of a store: counts, spans, gaps, categories. No raw ids."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import polars as pl

from recllm.shop.data.dataset import DAY
from recllm.shop.store.database import Store

_TOP_CATEGORIES = 10


def describe(store: Store) -> dict[str, Any]:
    """The store's tables, JSON-ready."""
    with store.read() as reader:
        events, items, users, consent = reader.events(), reader.items(), reader.users(), reader.consent()
        order = reader.order_log()
    catalogue = items.filter(~pl.col("pending"))
    titles = catalogue["title"].drop_nulls()
    departments = catalogue["category"].list.first().drop_nulls()
    basics = Counter(name for text in users["basics"] for name in json.loads(text))
    decisions = consent.group_by("purpose").agg(granted=pl.col("granted").sum(), denied=(~pl.col("granted")).sum())
    return {
        "events": {
            "rows": events.height,
            "users": events["user_id"].n_unique(),
            "items": events["item_id"].n_unique(),
            # in a log without times no day is real
            "first": _iso(events["timestamp"].min()) if order is None else None,
            "last": _iso(events["timestamp"].max()) if order is None else None,
            **({} if order is None else {"step_days": order.step_seconds // DAY}),
            "kinds": dict(events["event"].value_counts(sort=True).iter_rows()),
            "events_per_user": _spread(events["user_id"].value_counts()["count"]),
            "price": _spread(events["price"]),
            "empty": events.null_count().row(0, named=True),
        },
        "items": {
            "rows": items.height,
            "only_in_events": items.height - catalogue.height,
            "top_categories": dict(departments.value_counts(sort=True).head(_TOP_CATEGORIES).iter_rows()),
            "title_length": _spread(titles.str.len_chars()),
            "distinct_titles": titles.n_unique(),
            "empty": catalogue.null_count().row(0, named=True),
        },
        "users": {"rows": users.height, "basics": dict(basics.most_common())},
        "consent": {
            "rows": consent.height,
            "purposes": {purpose: {"granted": yes, "denied": no} for purpose, yes, no in decisions.iter_rows()},
        },
    }


def _iso(at: Any) -> str | None:
    return None if at is None else str(at.isoformat())


def _spread(numbers: pl.Series) -> dict[str, float] | None:
    """Minimum, maximum and quantiles; None without a number."""
    numbers = numbers.drop_nulls()
    if numbers.is_empty():
        return None
    quantiles = {"min": 0.0, "p25": 0.25, "median": 0.5, "p75": 0.75, "p99": 0.99, "max": 1.0}
    return {name: round(float(numbers.quantile(q, "nearest") or 0.0), 6) for name, q in quantiles.items()}
