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
        events, items, users, consent = reader.events(()), reader.items(), reader.users(), reader.consent()
        step_seconds = reader.step_seconds()
    at = events.select(first=pl.col("timestamp").min(), last=pl.col("timestamp").max())
    first, last = at.row(0) if step_seconds is None else (None, None)  # in a log without times no day is real
    catalogue = items.filter(~pl.col("pending"))
    departments = catalogue["category"].list.first().drop_nulls()
    basics = Counter(name for text in users["basics"] for name in json.loads(text))
    decisions = consent.group_by("purpose").agg(granted=pl.col("granted").sum(), denied=(~pl.col("granted")).sum())
    return {
        "events": {
            "rows": events.height,
            "users": events["user_id"].n_unique(),
            "items": events["item_id"].n_unique(),
            "first": first and first.isoformat(),
            "last": last and last.isoformat(),
            **({} if step_seconds is None else {"step_days": step_seconds // DAY}),
            "kinds": dict(events["event"].value_counts(sort=True).iter_rows()),
        },
        "items": {
            "rows": items.height,
            "only_in_events": items.height - catalogue.height,
            "top_categories": dict(departments.value_counts(sort=True).head(_TOP_CATEGORIES).iter_rows()),
        },
        "users": {"rows": users.height, "basics": dict(basics.most_common())},
        "consent": {
            "rows": consent.height,
            "purposes": {purpose: {"granted": yes, "denied": no} for purpose, yes, no in decisions.iter_rows()},
        },
    }
