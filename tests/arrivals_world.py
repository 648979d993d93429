"""A shop with new arrivals each week and people of two tastes, who like to try what they have not had."""

from __future__ import annotations

import numpy as np
import polars as pl

from recllm.shop.data.dataset import DAY, Dataset

START = 1_700_000_000


def arrivals(people: int = 40, weeks: int = 16, seed: int = 0) -> Dataset:
    """Even people buy milk things and odd people shoes: each week one of the last weeks' arrivals of their kind."""
    rng = np.random.default_rng(seed)
    kinds = {"milk": "milk", "shoe": "red running shoes"}
    items = [
        (f"{kind}{week}-{n}", f"{text} {week}{'ab'[n]}", [kind])
        for kind, text in kinds.items()
        for week in range(weeks)
        for n in range(2)
    ]
    rows = []
    for user in range(people):
        kind = ("milk", "shoe")[user % 2]
        for week in range(weeks):
            came = max(0, week - int(rng.integers(3)))
            rows.append((f"u{user:02}", f"{kind}{came}-{rng.integers(2)}", START + (week * 7 + user % 7) * DAY))
    events = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    return Dataset.construct(events, items=pl.DataFrame(items, schema=["item_id", "title", "category"], orient="row"))
