"""A coupon campaign on Complete Journey's real campaign tables:  python eval/campaign_coupon.py -o FOLDER

Campaign 17 of the data sent coupons for frozen foods to 202 households, good from 18 October to 19 November 2017. Here
a workspace and a model know nothing from 18 October on; from them the campaign is planned anew for as many people, with
the same products and dates. Then the log of the window is read, and the pages are written into FOLDER; the figures go
to eval/results/campaign-coupon.json.

What the report tells is what really happened to the people whom the plan would have reached. Nobody sent them these
texts, and who got the real coupons was not drawn by lot either, so no effect is claimed, of ours or of theirs. Complete
Journey is simulated from real shopping patterns, by its package's own word.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
from campaign_double11 import Clock, account, inputs_and_seconds
from inputs import RESULTS, default_encoder, finish, script_parser

from recllm.base.documents import plain
from recllm.base.files import write_whole
from recllm.base.schema import Encoder
from recllm.base.stats.intervals import share
from recllm.doors.report.campaign import preview_page, preview_png, report_page, report_png
from recllm.doors.start.demo import data_folder
from recllm.market.campaigns.export import export_campaign
from recllm.market.campaigns.file import CampaignFile, read_campaign
from recllm.market.campaigns.folder import CampaignPlan
from recllm.market.campaigns.open_campaign import open_campaign, preview_document
from recllm.market.campaigns.outcome import campaign_outcome
from recllm.market.campaigns.plan import plan_campaigns
from recllm.recommend.recommender.registry import current
from recllm.recommend.recommender.shop_recommender import open_recommender
from recllm.recommend.recommender.train import train_workspace
from recllm.shop.ingest.workspace_load import load_file
from recllm.shop.workspace.workspace import Workspace

CAMPAIGN, SEND = 17, 9
MAPS = "complete-journey"

TEMPLATE = """\
id = "coupon-{number}"
goal = "coupons for frozen foods, to the {size} households most likely to buy one"
note = "Campaign {number} of the Complete Journey tables, planned anew as of its start. Nobody was sent these texts, \
and the people were not drawn by lot: the report says what the planned people really did, and claims no effect."
channels = ["email", "push"]
locales = ["en"]
send = {start}T{send:02}:00:00+00:00
window_days = {days}

[target]
items = {items}
most_items = 12

[offer]
type = "coupon"
start = {start}T00:00:00+00:00
end = {end}T00:00:00+00:00

[limits]
size = {size}
holdout = 0
cost = 0.5

[words]
variants = 2
packs = ["us_ftc"]
auto = true

[sender]
name = "Example Grocer"
address = "1 Market Street, Springfield"
opt_out = "https://example.com/unsubscribe"
"""


def main() -> None:
    parser = script_parser(__doc__, "cache", "seed")
    parser.set_defaults(output=Path("coupon"))  # a new folder for the workspace and the pages
    parser.add_argument("--campaign", type=int, default=CAMPAIGN)
    parser.add_argument("--result", type=Path, default=RESULTS / "campaign-coupon.json")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    clock, source = Clock(), data_folder()
    start, end, households = real_campaign(source, args.campaign)
    shop = workspace(args.output, source, start)
    clock.lap("workspace")
    encoder = default_encoder(args)
    model = current(shop.models_dir) or trained(shop, encoder, args.seed)
    clock.lap("model")
    items = coupon_items(source, shop, args.campaign)
    campaign = written(args.output, args.campaign, start, end, items, len(households))
    recommender = open_recommender(shop, encoder=encoder, everybody=True)
    (plan,) = plan_campaigns(shop, [campaign], recommender=recommender, replace=True)
    clock.lap("plan")
    running_campaign = open_campaign(shop, campaign)
    write_whole(args.output / "coupon-preview.html", preview_page(preview_document(running_campaign)))
    preview_png(preview_document(running_campaign), args.output / "coupon-preview.png")
    done = export_campaign(running_campaign, args.output / "export")
    clock.lap("preview and export")
    before = account(plan, running_campaign, done)
    transactions(shop, args.output / "window-log.parquet", source, start, end + timedelta(days=2))
    clock.lap("reading what happened")
    outcome = campaign_outcome(open_campaign(shop, campaign, recheck=False))
    write_whole(args.output / "coupon-report.html", report_page(outcome, currency="USD"))
    report_png(outcome, args.output / "coupon-report.png")
    clock.lap("report")
    record = {
        **before,
        "real_campaign": {"id": args.campaign, "start": str(start.date()), "end": str(end.date())},
        "coupon_items": len(items),
        "bought_in_window": bought(source, shop, plan, items, households, (start, end)),
        "claim": "none: neither audience was drawn by lot, and nobody was sent the planned texts",
        "report": plain(outcome),
        "model": model,
        **inputs_and_seconds(source, args.seed, clock),
    }
    finish(record, args.result)


def real_campaign(source: Path, number: int) -> tuple[datetime, datetime, list[str]]:
    """First day, last day, and the households that got its coupons."""
    description = pl.read_parquet(source / "campaign_descriptions.parquet").row(
        by_predicate=pl.col("campaign_id") == number, named=True
    )
    sent = pl.read_parquet(source / "campaigns.parquet").filter(pl.col("campaign_id") == number)
    households = sent["household_id"].cast(pl.String).unique().sort().to_list()
    return description["start_date"], description["end_date"], households


def workspace(folder: Path, source: Path, start: datetime) -> Workspace:
    """A shop that grants every consent, with nothing from `start` on. A run that was stopped before it read the window
    goes on with its workspace and model."""
    if list(folder.glob("window-*")):
        raise SystemExit(
            f"{folder} holds a finished run, whose log reaches past the campaign's start; give a new folder"
        )
    shop = Workspace.create(folder / "shop", exist_ok=True, consent_default=True, currency="USD", timezone="UTC")
    load_file(shop, source / "products.parquet", "items", mapping=f"{MAPS}-products")
    load_file(shop, source / "demographics.parquet", "users", mapping=f"{MAPS}-demographics")
    transactions(shop, folder / "past.parquet", source, datetime(2017, 1, 1), start)
    return shop


def trained(shop: Workspace, encoder: Encoder, seed: int) -> str:
    return train_workspace(shop, encoder=encoder, n_windows=2, seed=seed).model_version


def transactions(shop: Workspace, part: Path, source: Path, start: datetime, end: datetime) -> None:
    """Reads the lines with start <= time < end, by way of the file `part`."""
    at = pl.col("transaction_timestamp")
    pl.scan_parquet(source / "transactions.parquet").filter((at >= start) & (at < end)).sink_parquet(part)
    load_file(shop, part, "events", mapping=f"{MAPS}-transactions")


def coupon_items(source: Path, shop: Workspace, number: int) -> list[str]:
    """The products that the campaign's coupons are good for, as far as they are on offer."""
    coupons = pl.read_parquet(source / "coupons.parquet").filter(pl.col("campaign_id") == number)
    ids = coupons["product_id"].cast(pl.String).unique().sort()
    on_offer = shop.store().items().filter(pl.col("available") & ~pl.col("pending"))["item_id"]
    return ids.filter(ids.is_in(on_offer.implode())).to_list()


def written(folder: Path, number: int, start: datetime, end: datetime, items: list[str], size: int) -> CampaignFile:
    """The campaign's file. Its last day counts."""
    after, file = end + timedelta(days=1), folder / f"coupon-{number}.toml"
    listed = "[" + ", ".join(f'"{item}"' for item in items) + "]"
    values = {"number": number, "send": SEND, "size": size, "items": listed, "days": (after - start).days - SEND / 24}
    file.write_text(TEMPLATE.format(start=start.date(), end=after.date(), **values), encoding="utf-8")
    return read_campaign(file)


def bought(
    source: Path,
    shop: Workspace,
    plan: CampaignPlan,
    items: list[str],
    households: list[str],
    window: tuple[datetime, datetime],
) -> dict[str, Any]:
    """Who bought one of the plan's items, and any of the coupons' products, in the window: share with interval."""
    log = pl.read_parquet(source / "transactions.parquet")
    everybody = set(log["household_id"].cast(pl.String).unique())
    at = pl.col("transaction_timestamp")
    log = log.filter((at >= window[0]) & (at < window[1] + timedelta(days=1)))
    log = log.select(pl.col("household_id", "product_id").cast(pl.String))
    names = dict(zip(shop.pseudonymiser().many(sorted(everybody)), sorted(everybody), strict=True))
    planned, sent = {names[p.user_id] for p in plan.addressed}, set(households)
    parts = {
        "planned": planned,
        "really sent coupons": sent,
        "planned and really sent": planned & sent,
        "neither": everybody - planned - sent,
    }
    what = {"an item of the plan": plan.items, "any product of the coupons": items}
    buyers = {
        name: set(log.filter(pl.col("product_id").is_in(list(ids)))["household_id"]) for name, ids in what.items()
    }
    return {
        part: {"people": len(who)} | {name: plain(share(len(who & took), len(who))) for name, took in buyers.items()}
        for part, who in parts.items()
    }


if __name__ == "__main__":
    main()
