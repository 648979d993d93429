"""A small shop for the console: two tastes, a person with an odd id, and items with hostile titles."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from tables import table

from recllm.base.policy import Policy
from recllm.base.schema import Purpose
from recllm.base.service_settings import ServiceSettings
from recllm.base.settings import ScorerTrainingSettings
from recllm.recommend.recommender.recommender import Recommender
from recllm.recommend.recommender.shop_recommender import publish_recommender
from recllm.shop.ingest.workspace_load import load_file
from recllm.shop.workspace.workspace import Workspace
from recllm.text.encoder.toy import ToyEncoder

LAST_DAY = datetime(2025, 6, 1, 12, tzinfo=UTC)
PEOPLE = 24
SHOP_ID = "Zürich-4711"
"""The shop's own id of a person, odd enough to be found wherever it might leak."""

HOSTILE = table("console_world", "hostile")
"""Titles that would do something if they were not text."""


def build_shop(folder: Path) -> Path:
    """A shop whose even people buy tea and whose odd people buy tools; its last 40 teas have hostile titles.

    Two versions of a model are published.
    """
    rng = np.random.default_rng(1)
    items = [(f"tea-{n}", f"Green tea {n}", "food > tea", 2.0 + n) for n in range(10)]
    items += [(f"tools-{n}", f"Steel hammer {n}", "home > tools", 2.0 + n) for n in range(10)]
    items += [(f"bad-{n}", title, "food > tea", 3.0) for n, title in enumerate(HOSTILE)]
    events = []
    for user in range(PEOPLE):
        name = SHOP_ID if user == 0 else f"u{user:02}"
        liked, kind = rng.choice(10, 4, replace=False), ("tea", "tools")[user % 2]
        for visit in range(14):
            at = LAST_DAY - timedelta(days=7 * visit + user % 7)
            for n in rng.choice(liked, 2, replace=False):
                events.append((name, f"{kind}-{n}", "purchase", at.isoformat(), 2.0 + n))
    events += [(SHOP_ID, f"bad-{n}", "purchase", LAST_DAY.isoformat(), 3.0) for n in range(len(HOSTILE))]
    events.append((SHOP_ID, "tea-1", "view", LAST_DAY.isoformat(), None))
    pl.DataFrame(items, schema=["item_id", "title", "category", "price"], orient="row").write_csv(folder / "items.csv")
    columns = ["user_id", "item_id", "event", "timestamp", "price"]
    pl.DataFrame(events, schema=columns, orient="row").write_csv(folder / "events.csv")
    (folder / "users.csv").write_text(f"user_id,age,city\n{SHOP_ID},35-44,<b>Bern</b>\nu01,18-24,Basel\n", "utf-8")
    settings: dict[str, Any] = {"consent_default": True, "currency": "EUR", "timezone": "UTC", "encoder": "toy"}
    settings |= {"service": ServiceSettings(watch_seconds=0.05), "policy": Policy(group_floor=3, small_shop=0)}
    with Workspace.create(folder / "shop", **settings) as shop:
        for table in ("items", "events", "users"):
            load_file(shop, folder / f"{table}.csv", table)
        data = shop.gate().dataset(Purpose.MODEL_TRAINING)
        model = Recommender(data, ToyEncoder()).fit(ScorerTrainingSettings(n_windows=2, epochs=1, min_steps=20)).model
        assert model is not None
        for _ in range(2):  # two versions, so that one can be chosen
            publish_recommender(shop, model, ToyEncoder())
    return folder / "shop"
