"""A shop of two rhythms, small enough to know every answer: even people buy twice a week, odd people stop for good."""

from __future__ import annotations

import numpy as np
import polars as pl

from recllm.market.propensity.coupons import Coupons
from recllm.shop.data.dataset import DAY, Dataset

START = 1_700_006_400  # a midnight (UTC)
DAYS = 200
ITEMS = 8


def shop(people: int = 120, seed: int = 0, stop: bool = True) -> Dataset:
    """Even people shop about every 3 days to the end. Odd ones shop about every 9 days and, with `stop`, each 28 days
    a part of them leaves: who has left never comes back."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(people):
        gap, end = (3, DAYS) if user % 2 == 0 else (9, rng.integers(40, DAYS + 60) if stop else DAYS)
        day = float(rng.integers(0, gap))
        while day < min(end, DAYS):
            item = int(rng.integers(0, ITEMS // 2)) + (user % 4 // 2) * (ITEMS // 2)
            rows.append((f"u{user:03}", f"i{item}", START + int(day * DAY) + 3600, 1.0, 5.0 + 5 * (user % 2)))
            day += gap * rng.uniform(0.6, 1.4)
    events = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "quantity", "price"], orient="row")
    names = [f"i{n}" for n in range(ITEMS)]
    category = [["food", "tea"] if n < ITEMS // 2 else ["home", "tools"] for n in range(ITEMS)]
    items = pl.DataFrame({"item_id": names, "title": [f"Thing {n}" for n in range(ITEMS)], "category": category})
    ids = [f"u{n:03}" for n in range(people)]
    users = pl.DataFrame({"user_id": ids, "age": ["young" if n < people // 2 else "old" for n in range(people)]})
    return Dataset.construct(events, users, items, as_of=START + DAYS * DAY)


def coupons(data: Dataset, campaigns: int = 5, seed: int = 0) -> Coupons:
    """Campaign c is mailed to everybody on day 50 + 28 c, for tea; every fourth person redeems nearly always."""
    rng = np.random.default_rng(seed)
    ids, sent, got = data.users["user_id"].to_list(), [], []
    for c in range(campaigns):
        at = START + (50 + 28 * c) * DAY
        sent += [(name, f"c{c}", at, "B", at + 21 * DAY) for name in ids]
        got += [(n, f"c{c}", at + 3 * DAY) for i, n in enumerate(ids) if rng.random() < (0.9 if i % 4 == 0 else 0.05)]
    mailings = pl.DataFrame(sent, schema=["user_id", "campaign_id", "timestamp", "kind", "end"], orient="row")
    redemptions = pl.DataFrame(got, schema=["user_id", "campaign_id", "timestamp"], orient="row")
    offered = [(f"c{c}", f"i{n}") for c in range(campaigns) for n in range(ITEMS // 2)]
    products = pl.DataFrame(offered, schema=["campaign_id", "item_id"], orient="row")
    return Coupons.construct(mailings, products, redemptions)
