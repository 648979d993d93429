"""An export that says who did what leads in four commands from an empty folder to a model and a campaign."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import Command
from exports import LargeExport, first_export, large_export

from recllm.base.schema import Action, Table
from recllm.market.campaigns.folder import CampaignFolder, CampaignPlan, read_plan
from recllm.shop.workspace.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Shop:
    """A shop of which one export is all there is."""

    target: str
    """What the campaign is for, as its file says it."""
    currency: str = "USD"
    timezone: str = "UTC"
    locale: str = "en"


SHOPS = {
    "ga4-events": Shop(target='category = "Hats"'),
    "matomo-visits": Shop(target='items = ["T2"]', currency="EUR", timezone="Europe/Berlin"),
    "shopify-orders": Shop(target='items = ["TP-1"]'),
    "taobao-orders": Shop(target='items = ["青花瓷茶壶家用"]', currency="CNY", timezone="Asia/Shanghai", locale="zh"),
}
"""Events, visits, and orders in two languages and several currencies. `test_sources` reads every kind of export."""


@pytest.mark.parametrize("source", SHOPS)
def test_one_export_becomes_a_campaign_in_four_commands(source: str, run: Command, tmp_path: Path) -> None:
    shop, export = SHOPS[source], large_export(source)
    (tmp_path / export.file_name).write_bytes(export.content)
    init(run, shop)
    loaded = in_json(run, "ingest", export.file_name)
    assert loaded["source"] == source
    accepted = {report["table"]: report["accepted"] for report in loaded["reports"] if report["table"] != "consent"}
    assert accepted == {table.value: n for table, n in export.accepted.items() if table is not Table.CONSENT}
    plan = trained_and_planned(run, shop.target, tmp_path)
    assert {text.locale for text in plan.texts} == {shop.locale}
    assert_addresses_those_who_like_it(plan, export)


def test_products_come_as_a_second_file_and_people_leave_by_their_own_ids(run: Command, tmp_path: Path) -> None:
    shop = Shop(target='category = "Shop > Tea"')
    init(run, shop)
    orders = large_export("woocommerce-orders")
    for export in (first_export("woocommerce-products"), orders):
        (tmp_path / export.file_name).write_bytes(export.content)
        in_json(run, "ingest", export.file_name)
    plan = trained_and_planned(run, shop.target, tmp_path)
    assert_addresses_those_who_like_it(plan, orders)
    succeeds(run, "campaign", "approve", "campaign.toml", "--by", "Ann", "--all")
    assert "--ids FILE" in succeeds(run, "campaign", "export", "campaign.toml", "-o", "by-pseudonym")
    addresses = orders.bought.keys()
    (tmp_path / "addresses.txt").write_text("\n".join(addresses))
    told = succeeds(run, "campaign", "export", "campaign.toml", "-o", "by-address", "--ids", "addresses.txt")
    assert "--ids FILE" not in told
    rows = list(csv.DictReader((tmp_path / "by-address" / "spring-email.csv").open(encoding="utf-8", newline="")))
    assert len(rows) == 50 and {row["user_id"] for row in rows} <= addresses


def init(run: Command, shop: Shop) -> None:
    options = ("--encoder", "toy", "--currency", shop.currency, "--timezone", shop.timezone, "--locale", shop.locale)
    succeeds(run, "init", "--consent-default", "granted", *options)


def succeeds(run: Command, *command: str) -> str:
    """What it prints, notes behind it."""
    code, out, notes = run(*command, "-w", "shop")
    assert code == 0, notes
    return out + notes


def in_json(run: Command, *command: str) -> Any:
    code, out, problem = run(*command, "--json", "-w", "shop")
    assert code == 0, problem
    return json.loads(out)


def trained_and_planned(run: Command, target: str, folder: Path) -> CampaignPlan:
    """The plan of a campaign, by the model that was trained for it."""
    small = ("scorer.min_steps=40", "scorer.heads=2")
    options = [part for setting in small for part in ("--set", setting)]
    trained = in_json(run, "train", "--set", "scorer.n_windows=1", "--set", "scorer.epochs=1", *options)
    (folder / "campaign.toml").write_text(CAMPAIGN.format(target=target), encoding="utf-8")
    told = succeeds(run, "campaign", "plan", "campaign.toml")
    plan = read_plan(CampaignFolder.of(Path("shop"), "spring"))
    assert plan.model_version == trained["model_version"]
    buys = plan.converts == (Action.PURCHASE,)
    assert told.startswith(f"spring: {len(plan.addressed)} people, 0 held out")
    assert f"expected to {'buy' if buys else 'convert'} within 28 days" in told
    assert ("a conversion is any of" in told) is not buys
    return plan


CAMPAIGN = """\
id = "spring"
channels = ["email"]
[target]
{target}
[offer]
type = "free_shipping"
[limits]
size = 50
holdout = 0
[sender]
name = "Leaf & Iron"
address = "1 Market Street"
opt_out = "https://example.com/stop"
"""


def assert_addresses_those_who_like_it(plan: CampaignPlan, export: LargeExport) -> None:
    """Nearly all whom a plan addresses like the kind of goods that it is for; of all people half do."""
    items_of = export.bought
    target = set(plan.items)
    kind = {item for items in items_of.values() if items & target for item in items}
    others = {item for items in items_of.values() if not items & kind for item in items}
    assert len(kind) >= 3 and len(others) >= 3 and kind.isdisjoint(others)
    with Workspace.open("shop") as workspace:
        names = dict(zip(workspace.pseudonymiser().many(list(items_of)), items_of.values(), strict=True))
    likes_it = [bool(names[person.user_id] & kind) for person in plan.addressed]
    assert len(likes_it) == 50 and sum(likes_it) >= 45
    assert {person.item_id for person in plan.addressed} <= target
