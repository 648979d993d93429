"""A shop of two tastes, small enough to know every answer: even people buy tea, odd people buy tools."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recllm.base.schema import ACTION_CODE, Action, IngestReport
from recllm.shop.data.dataset import DAY, Dataset, Events
from recllm.shop.ingest.workspace_load import load_file
from recllm.shop.workspace.workspace import Workspace

START = 1_700_000_000


def shop(
    people: int = 40,
    visits: int = 14,
    seed: int = 0,
    kind: str = "purchase",
    bare: bool = False,
    users: pl.DataFrame | None = None,
) -> Dataset:
    """Each person has four favourites of one kind and buys two of them weekly. `bare`: no items table, no prices."""
    rng = np.random.default_rng(seed)
    items = [(f"tea{i}", f"Green tea {i}", ["food", "tea"], "Leaf", 2.0 + i) for i in range(12)]
    items += [(f"tool{i}", f"Hammer {i}", ["home", "tools"], "Iron", 20.0 + i) for i in range(12)]
    rows = []
    for user in range(people):
        name = "tea" if user % 2 == 0 else "tool"
        liked = rng.choice(12, 4, replace=False)
        for visit in range(visits):
            for i in rng.choice(liked, 2, replace=False):
                at = START + (visit * 7 + user % 7) * DAY
                rows.append((f"u{user:02}", f"{name}{i}", at, kind, 1.0, (2.0 if name == "tea" else 20.0) + i))
    columns = ["user_id", "item_id", "timestamp", "event", "quantity", "price"]
    events = pl.DataFrame(rows, schema=columns, orient="row")
    if bare:
        return Dataset.construct(events.drop("price", "quantity"))
    catalogue = pl.DataFrame(items, schema=["item_id", "title", "category", "brand", "price"], orient="row")
    return Dataset.construct(events, users, catalogue)


def vectors(dataset: Dataset, dim: int = 8) -> np.ndarray:
    """Unit vectors: items of one kind lie close together."""
    rng = np.random.default_rng(1)
    rows = 0.3 * rng.normal(size=(dataset.n_items, dim))
    tool = dataset.items["item_id"].str.starts_with("tool").to_numpy()
    rows[:, 0] += np.where(tool, 1, -1)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def history(*runs: list[tuple[int, int]], action: Action = Action.PURCHASE, price: float = np.nan) -> Events:
    """Events of several people, each a list of (item row, time in epoch seconds) in time order."""
    flat = [pair for run in runs for pair in run]
    indptr = np.cumsum([0, *(len(run) for run in runs)]).astype(np.int64)
    n = len(flat)
    return Events(
        indptr,
        np.array([i for i, _ in flat], np.int32),
        np.array([t for _, t in flat], np.int64),
        np.full(n, ACTION_CODE[action], np.uint8),
        np.ones(n, np.float32),
        np.full(n, price, np.float32),
        np.full(n, -1, np.int32),
    )


def log_of(data: Dataset) -> pl.DataFrame:
    """Who bought what and when."""
    users, items = data.users["user_id"].gather(data.events.user), data.items["item_id"].gather(data.events.item)
    return pl.DataFrame({"user_id": users, "item_id": items, "timestamp": data.events.at})


def item_lines(data: Dataset) -> list[str]:
    """The lines of a CSV of the items."""
    rows = data.items.to_dicts()
    prices = ["" if r.get("price") is None else r["price"] for r in rows]
    lines = [
        f"{r['item_id']},{r['title']},{' > '.join(r['category'])},{r.get('brand') or ''},{price}"
        for r, price in zip(rows, prices, strict=True)
    ]
    return ["item_id,title,category,brand,price", *lines]


def purchase_lines(data: Dataset, users: Sequence[str]) -> list[str]:
    """The lines of a CSV of the purchases, under the users' ids."""
    e, items, lines = data.events, data.items["item_id"], ["user_id,item_id,event,timestamp,quantity,price"]
    for user, item, at, price in zip(e.user, e.item, e.at, e.price, strict=True):
        lines.append(f"{users[int(user)]},{items[int(item)]},purchase,{int(at)},1,{float(price):.2f}")
    return lines


Rows = Iterable[str] | pl.DataFrame
"""The lines of a CSV, or what a CSV is written of."""


def loaded(folder: Path, tables: Mapping[str, Rows], **settings: Any) -> Path:
    """A workspace `shop` in the folder. tables: table -> the rows of a CSV, which is written beside it and loaded."""
    with Workspace.create(folder / "shop", **{"consent_default": True, "encoder": "toy"} | settings) as opened:
        for table, rows in tables.items():
            report = load_lines(opened, table, rows)
            assert report.accepted and not report.quarantined, report
    return folder / "shop"


def load_lines(workspace: Workspace, table: str, rows: Rows) -> IngestReport:
    """What a load of a CSV of these rows says; the file stands beside the workspace."""
    file = workspace.root.parent / f"{table}.csv"
    file.write_text(rows.write_csv() if isinstance(rows, pl.DataFrame) else "\n".join(rows) + "\n", "utf-8")
    return load_file(workspace, file, table)


def add_settings(folder: Path, text: str) -> None:
    """At the end of what a workspace's file says."""
    with (folder / "workspace.toml").open("a", encoding="utf-8") as file:
        file.write(f"\n{text}\n")


QUICKLY = {"n_windows": 1, "epochs": 1, "min_steps": 40, "heads": 1}
"""Settings of `train` where it is enough that people with one taste get its items."""


def train(folder: Path, **settings: Any) -> Path:
    """The same workspace with a small model."""
    from recllm.recommend.recommender.train import train_workspace

    with Workspace.open(folder) as opened:
        train_workspace(opened, **{"n_windows": 2, "epochs": 2, "min_steps": 100} | settings)
    return folder


ITEMS_CSV = """item_id,title,category,brand,price,currency
tea,Green tea,food > drinks,Leaf,3.20,USD
milk,Oat milk,food > drinks,Oaty,1.10,USD
mug,Blue mug,home > kitchen,Clay,7.00,USD
hammer,Steel hammer,home > tools,Acme,12.50,USD
"""
EVENTS_CSV = """user_id,item_id,event,timestamp,quantity,price
ann,tea,purchase,2025-02-01T10:00:00Z,1,3.20
ann,milk,purchase,2025-03-08T10:00:00Z,2,1.10
ann,mug,view,2025-03-08T11:00:00Z,1,
bob,hammer,purchase,2025-03-09T10:00:00Z,1,12.50
,tea,purchase,2025-03-09T10:00:00Z,1,3.20
"""


def with_event(data: Dataset, user: int, item: int, at: int, action: Action) -> Dataset:
    """With one more event of a known person on a known item; `as_of` moves past it if needed."""
    e = data.events
    start, end = e.indptr[user], e.indptr[user + 1]
    position = start + np.searchsorted(e.at[start:end], at, side="right")
    values = (item, at, ACTION_CODE[action], 1.0, np.nan, -1)
    columns = (np.insert(column, position, value) for column, value in zip(e.columns(), values, strict=True))
    events = Events(e.indptr + (np.arange(len(e.indptr)) > user), *columns)
    return replace(data, events=events, as_of=max(data.as_of, at + 1))
