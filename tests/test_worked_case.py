"""The textbook case, end to end with real weights.

User A bought electronics, clothing and food within a month: User_A = Emb(electronics) + Emb(clothing) + Emb(food), so
what A is offered comes from these three and not from the rest of the shop. Which of the three is first is up to the
encoder while all weigh about the same; after one more look at electronics, electronics is.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from recllm.base.errors import ModelError
from recllm.base.schema import Action
from recllm.market.adcopy.ads import write_ads
from recllm.recommend.recommender.shop_recommender import open_recommender
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
    viewed = data.with_event(int(rows[0][0]), int(rows[1][0]), data.as_of, Action.VIEW)
    keener = recommender.with_people(viewed, recommender.population.pool).recommend("A", k=1, repeats=False)
    assert keener[0].items[0].item_id == "headphones"
    (ad,) = write_ads(shop, recommender, ["A"], channel="email").texts
    assert ad.verified and all(c.passed for c in ad.checks)
