"""A shop whose log grows: people of four tastes, each with favourites that they buy again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from shop_world import load_lines

from recllm.shop.data.dataset import DAY, Dataset
from recllm.shop.workspace.workspace import Workspace

START = 1_700_006_400  # a midnight (UTC)
KINDS = ("green tea", "steel hammer", "cotton shirt", "running shoe")
ITEMS_PER_KIND = 15
PEOPLE = 100
SCORER = {"horizon_days": 14, "n_windows": 3, "epochs": 2, "heads": 1, "hidden": [16], "projection": 8, "min_steps": 80}
SETTINGS = {"scorer": SCORER, "retraining": {"window_days": 14}}


def log(weeks: range, people: int = PEOPLE, seed: int = 0) -> pl.DataFrame:
    """What people bought in these weeks; a week's purchases do not depend on which others are asked for."""
    rows = []
    for user in range(people):
        kind = KINDS[user % len(KINDS)]
        liked = np.random.default_rng([seed, user]).choice(ITEMS_PER_KIND, 4, replace=False)
        for week in weeks:
            rng = np.random.default_rng([seed, user, week])
            tried = rng.integers(ITEMS_PER_KIND)
            for n in {*rng.choice(liked, 2, replace=False).tolist(), int(tried)}:
                at = START + (week * 7 + user % 7) * DAY + 3600
                rows.append((f"u{user:03}", f"{kind} {n}", "purchase", at, 2.0 + n))
    columns = ["user_id", "item_id", "event", "timestamp", "price"]
    events = pl.DataFrame(rows, schema=columns, orient="row")
    return events.with_columns(pl.from_epoch("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))


def items() -> pl.DataFrame:
    names = [f"{kind} {n}" for kind in KINDS for n in range(ITEMS_PER_KIND)]
    return pl.DataFrame({"item_id": names, "title": names, "category": [name.rsplit(" ", 1)[0] for name in names]})


def make_shop(root: Path, weeks: range, people: int = PEOPLE) -> None:
    """A workspace in `root` with these weeks, of people who agreed to everything.

    Its pseudonyms are always the same: their order is that of training, and one in many draws of a challenger is worse.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    (root / "key").write_text("5e" * 32 + "\n")
    (root / "key").chmod(0o600)
    with Workspace.create(root, consent_default=True, encoder="toy", currency="USD", **SETTINGS) as shop:
        load_lines(shop, "items", items())
    grow(root, log(weeks, people))


def mixed_up(past: Dataset, rng: np.random.Generator) -> Dataset:
    """The same log, each purchase of a random one of the items bought."""
    return replace(past, events=replace(past.events, item=rng.permutation(past.events.item)))


def tenth(past: Dataset, rng: np.random.Generator) -> Dataset:
    """The log of a tenth of the people."""
    keep = np.isin(past.events.user, rng.permutation(past.n_users)[: past.n_users // 10])
    return replace(past, events=past.events.select(keep))


def grow(root: Path, events: pl.DataFrame) -> None:
    with Workspace.open(root) as shop:
        load_lines(shop, "events", events)
