"""What readers who know neither frames nor rules say of the ad texts of four shops.

    python eval/copy_readers.py sheet --shops SHOPS -o SHEETS     # sheet.en.md, sheet.zh.md and key.json
    python eval/copy_readers.py judge -o eval/results/copy-readers.json    # the last round, eval/copy_readers/

SHOPS keeps a workspace for each shop, made where it is missing: Complete Journey and Online Retail (till titles), and
two made shops (clean titles, eval/copy_shops.toml), one English and one Chinese. Campaigns of each shop are planned as
shops plan them; 30 customers are drawn, one text each, and texts of the public channels. They are shuffled with texts
of the copybook and printed unlabelled, each with its day and the facts that it may rest on, rounded as texts are.

A reader answers by the copybook's rubric with a JSON object: number of the text -> {"stamp": "send", "edit" or "never",
"question": 1 to 8 (the first "no"), "why": a few words}. Where readers differ, the harsher stamp counts.
"""

from __future__ import annotations

import argparse
import json
import random
import tomllib
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from copybook import CHANNELS, entries
from inputs import HERE, file_hash, finish, say, script_parser

from recllm.base.documents import json_text
from recllm.base.errors import DataError, NothingToDo
from recllm.doors.start.demo import run_demo
from recllm.market.adcopy.frames import wording_days
from recllm.market.campaigns.file import CampaignFile
from recllm.market.campaigns.folder import CampaignText
from recllm.market.campaigns.plan import plan_campaign
from recllm.recommend.recommender.shop_recommender import open_recommender
from recllm.recommend.recommender.train import train_workspace
from recllm.shop.data.dataset import utc
from recllm.shop.ingest.workspace_load import load_file
from recllm.shop.workspace.workspace import SETTINGS_FILE, Workspace, present

SHOPS: Mapping[str, Mapping[str, Any]] = tomllib.loads((HERE / "copy_shops.toml").read_text("utf-8")) | {
    "cj": {
        "name": "Cornerby Market",
        "currency": "USD",
        "locale": "en-US",
        "link": "cornerby.example",
        "coupon": {"type": "coupon", "value": 5, "code": "BASKET5", "min_spend": 40},
        "percent": None,
    },
    "retail": {
        "name": "Pettle Gifts",
        "currency": "GBP",
        "locale": "en-GB",
        "link": "pettle.example",
        "coupon": {"type": "coupon", "value": 10, "code": "PETTLE10", "min_spend": 80},
        "percent": None,
    },
}
TITLES = {"cj": "till", "retail": "till", "outdoor": "clean", "chinese": "clean"}
MAILINGS = {
    "due-email": (6, ["email"], {"occasion": "replenish"}, None),
    "due-push": (4, ["push"], {"occasion": "replenish"}, None),
    "due-sms": (3, ["sms_gsm"], {"occasion": "replenish"}, None),
    "cart": (2, ["email"], {"occasion": "abandoned"}, None),
    "away": (2, ["email"], {"occasion": "win_back"}, None),
    "picks": (4, ["email"], {"intent": "mixed", "most_items": 15}, None),
    "goes-with": (3, ["email"], {"intent": "cross_sell", "most_items": 15}, None),
    "coupon": (3, ["email", "banner"], {"intent": "mixed", "most_items": 10}, "coupon"),
    "percent": (3, ["email", "social", "xhs", "google_rsa"], {}, "percent"),
}
"""Campaign -> texts of customers on the sheet, channels, target, offer."""
N_COPYBOOK, DAYS, PEOPLE = 10, 400, 500
STAMPS = ("send", "edit", "never")


def open_shop(name: str, folder: Path, data: Path, seed: int) -> Workspace:
    """The shop's workspace with a trained model, made where there is none."""
    if not (folder / SETTINGS_FILE).exists():
        say("making the shop %s", name)
        if name == "cj":
            run_demo(folder)
        else:
            rng = np.random.default_rng(seed)
            items, events = read_retail(data) if name == "retail" else simulated(SHOPS[name], rng)
            settings = {key: SHOPS[name][key] for key in ("currency", "locale")}
            workspace = Workspace.create(folder, consent_default=True, timezone="UTC", **settings)
            for table, frame in (("items", items), ("events", events)):
                frame.write_parquet(file := folder / f"{table}.parquet")
                load_file(workspace, file, table)
                file.unlink()
            train_workspace(workspace, seed=seed)
    return Workspace.open(folder)


def read_retail(data: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Items and events of Online Retail."""
    folder = data / "online_retail_uci"
    columns = ("user_id", "item_id", "timestamp", "event", "quantity", "price")
    events = pl.read_parquet(folder / "interactions.parquet", columns=list(columns))
    return pl.read_parquet(folder / "items.parquet").select("item_id", "title", "price"), events


def simulated(
    shop: Mapping[str, Any], rng: np.random.Generator, n_people: int = PEOPLE
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Items and a year's events of a made shop: some goods are bought in a rhythm of the customer's own, durables once,
    often with what goes with them; some customers stay away, some leave a cart."""
    products, end = shop["products"], datetime(2025, 11, 20, 18, tzinfo=UTC)
    items = pl.DataFrame(
        [
            {"item_id": f"p{n}", "title": title, "brand": brand, "category": category, "price": float(price)}
            for n, (title, brand, category, price, *_) in enumerate(products, 1)
        ]
    )
    rows: list[tuple[str, str, str, datetime]] = []
    once = [n for n, product in enumerate(products) if not product[4]]
    again = [n for n, product in enumerate(products) if product[4]]
    for user in range(n_people):
        first = float(rng.uniform(20, DAYS))
        last = float(rng.choice([0, 0, 0, 0, 60]))
        trips: dict[int, set[int]] = defaultdict(set)
        for n in rng.choice(again, int(rng.integers(1, 5)), replace=False):
            rhythm, day = products[n][4] * float(rng.lognormal(0, 0.2)), first
            while day > last:
                trips[round(day)].add(int(n))
                day -= max(rhythm * float(rng.lognormal(0, 0.15)), 2)
        for n in rng.choice(once, int(rng.integers(0, 5)), replace=False):
            day = float(rng.uniform(last, max(first, last + 1)))
            trips[round(day)].add(int(n))
            goes_with = [m for m, product in enumerate(products) if product[5] == n + 1]
            if goes_with and rng.random() < 0.7:
                trips[round(day)].add(int(rng.choice(goes_with)))
        for day, goods in trips.items():
            at = end - timedelta(days=day, hours=float(rng.uniform(0, 9)))
            rows += [(f"u{user}", f"p{n + 1}", "purchase", at) for n in sorted(goods)]
        if rng.random() < 0.15 and trips:
            n = int(rng.integers(len(products)))
            at = end - timedelta(days=float(rng.uniform(0.2, 3)))
            rows += [(f"u{user}", f"p{n + 1}", event, at) for event in ("view", "cart")]
    names = ("user_id", "item_id", "event", "timestamp")
    return items, pl.DataFrame(
        rows, schema=dict(zip(names, (*[pl.String] * 3, pl.Datetime("us", "UTC")), strict=True)), orient="row"
    )


@dataclass(frozen=True)
class SheetText:
    """A text as a reader sees it."""

    source: str
    """shop and campaign, or the copybook's id."""
    channel: str
    day: str
    text: str
    facts: str


def campaign_of(shop: Mapping[str, Any], name: str, workspace: Workspace, prices: Mapping[str, str]) -> CampaignFile:
    """A mailing of `MAILINGS` for the shop. prices: of the items, which they had for 30 days."""
    _, channels, target, offer = MAILINGS[name]
    campaign = {
        "id": name,
        "channels": channels,
        "locales": [shop["locale"]],
        "target": dict(target),
        "limits": {"size": 80, "holdout": 0.0},
        "sender": {"name": shop["name"], "address": "1 High Street", "opt_out": f"https://{shop['link']}/stop"},
        "words": {"link": shop["link"], "auto": True},
        "digest": "",
        "source": workspace.root / name,
    }
    if offer:
        end = utc(present(workspace)).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=10)
        campaign["offer"] = dict(shop[offer]) | {"end": end}
        if category := campaign["offer"].pop("category", None):
            campaign["target"] = {"category": category}
            campaign["offer"]["scope"] = category.split(" > ")[-1].lower()
            campaign["words"]["evidence"] = {"lowest_30d": prices}
    return CampaignFile.model_validate(campaign, context={"folder": workspace.root})


def shop_texts(name: str, workspace: Workspace, rng: random.Random) -> list[SheetText]:
    """The texts of 30 customers, as `MAILINGS` says, and of public channels; short messages as they leave."""
    shop, recommender = SHOPS[name], open_recommender(workspace, everybody=True)
    catalogue = workspace.gate().catalogue()
    priced = catalogue.filter(pl.col("price").is_not_null()).select("item_id", pl.col("price").cast(pl.String))
    prices = {item_id: f"{price} {shop['currency']}" for item_id, price in priced.iter_rows()}
    sheet: list[SheetText] = []
    day = utc(present(workspace)).date().isoformat()
    taken: set[str] = set()
    for mailing, (n, _, _, offer) in MAILINGS.items():
        if offer and not shop[offer]:
            continue
        file = campaign_of(shop, mailing, workspace, prices)
        try:
            plan = plan_campaign(workspace, file, replace=True, recommender=recommender)
        except (NothingToDo, DataError) as problem:
            say("%s: %s: %s", name, mailing, problem)
            continue
        texts = {text.id: text for text in plan.texts}
        people = rng.sample(plan.addressed, len(plan.addressed))
        drawn = [person for person in people if person.user_id not in taken][:n]
        taken |= {person.user_id for person in drawn}
        chosen = [texts[person.text_id] for person in drawn]
        for channel in file.public_channels:
            of_channel = [text for text in plan.texts if text.channel == channel]
            chosen += rng.sample(of_channel, min(1, len(of_channel)))
        for t in chosen:
            words = file.message(t.text, t.channel, t.locale, "template") if t.channel.startswith("sms") else t.text
            sheet.append(SheetText(f"{name}/{mailing}", t.channel, day, words, facts_line(t, plan.offer)))
    return sheet


def facts_line(text: CampaignText, offer: Mapping[str, Any] | None) -> str:
    """What the text may rest on, for the reader."""
    facts, person = text.facts, text.person
    lines = [facts.title, f"{facts.price} {facts.currency}" if facts.price else ""]
    lines += [f"before {facts.list_price}" if facts.list_price else ""]
    lines += [f"bought {person.times_bought} times" if person.times_bought else ""]
    lines += [f"about every {days_between(person.every_days)} days" if person.every_days else ""]
    lines += [f"last bought {days_between(person.last.days)} days ago" if person.last else ""]
    lines += [f"{person.waited:.1f} of the usual gap have passed" if person.waited else ""]
    lines += [f"recommended because of {person.because.title}, which the customer bought" if person.because else ""]
    lines += ["in the cart" if person.in_cart else ""]
    lines += [f"often bought with {person.with_item.title}, which the customer bought" if person.with_item else ""]
    lines += [f"no order for {days_between(person.away.days)} days" if person.away else ""]
    lines += [f"bought in this category {person.category_bought} times" if person.category_bought else ""]
    lines += ["offer: " + ", ".join(f"{k} {v}" for k, v in offer.items() if v) if offer else ""]
    return "; ".join(filter(None, lines))


def days_between(days: float) -> str:
    """The days that are one to a text, which names times roughly."""
    n = bisect_right(edges := wording_days(), days)
    return f"{edges[n - 1]:.0f} to {edges[min(n, len(edges) - 1)]:.0f}"


def copybook_texts(language: str, rng: random.Random) -> list[SheetText]:
    rows = [row for row in entries("copybook", language) if row.get("decision", "send") == "send"]
    sheet = []
    for row in rng.sample(rows, N_COPYBOOK):
        parts = [value if isinstance(value, str) else "\n".join(value) for value in row["text"].values()]
        facts = {
            name: value for name, value in row["facts"].items() if name not in ("today", "sender", "opt_out", "link")
        }
        text = SheetText(
            source=row["id"],
            channel=CHANNELS.get(row["channel"], row["channel"]),
            day=row["facts"].get("today", ""),
            text="\n".join(parts),
            facts=json.dumps(facts, ensure_ascii=False),
        )
        sheet.append(text)
    return sheet


def make_sheets(args: argparse.Namespace) -> None:
    rng = random.Random(args.seed)
    of_language: dict[str, list[SheetText]] = {language: copybook_texts(language, rng) for language in ("en", "zh")}
    for name in sorted(SHOPS):
        texts = shop_texts(name, open_shop(name, args.shops / name, args.data, args.seed), rng)
        of_language["zh" if SHOPS[name]["locale"].startswith("zh") else "en"] += texts
    args.output.mkdir(parents=True, exist_ok=True)
    key: dict[str, Any] = {"seed": args.seed, "sheets": {}}
    for language, texts in of_language.items():
        rng.shuffle(texts)
        pages = [
            f"{n}. [{t.channel}, {t.day}] {' / '.join(t.text.splitlines())}\n   Facts: {t.facts}\n"
            for n, t in enumerate(texts, 1)
        ]
        sheet = args.output / f"sheet.{language}.md"
        sheet.write_text("\n".join(pages), "utf-8")
        sources = {str(n): [t.source, t.channel] for n, t in enumerate(texts, 1)}
        key["sheets"][language] = {"sha256": file_hash(sheet), "texts": sources}
    (args.output / "key.json").write_text(json_text(key, indent=1), "utf-8")


def judge(args: argparse.Namespace) -> dict[str, Any]:
    """Shares by kind of title, channel and shop. Verdict files are called NAME.LANGUAGE.json."""
    key = json.loads((args.round / "key.json").read_text("utf-8"))
    stamps: dict[str, Counter[str]] = defaultdict(Counter)
    questions: Counter[int] = Counter()
    same = pairs = n_readers = 0
    for language, sheet in key["sheets"].items():
        verdicts = [json.loads(file.read_text("utf-8")) for file in sorted(args.round.glob(f"*.{language}.json"))]
        n_readers += len(verdicts)
        for number, (source, channel) in sheet["texts"].items():
            answers = [verdict[number] for verdict in verdicts]
            harsher = max(answers, key=lambda answer: STAMPS.index(answer["stamp"]))
            pairs += len(list(combinations(answers, 2)))
            same += sum(a["stamp"] == b["stamp"] for a, b in combinations(answers, 2))
            shop = source.split("/")[0]
            groups = [TITLES[shop], shop, f"{TITLES[shop]} {channel}"] if shop in TITLES else ["copybook"]
            for group in groups:
                stamps[group][harsher["stamp"]] += 1
            if shop in TITLES and harsher["stamp"] == "never":
                questions[int(harsher.get("question") or 0)] += 1
    share = {
        group: {s: counts[s] / counts.total() for s in STAMPS} | {"texts": counts.total()}
        for group, counts in stamps.items()
    }
    return {
        "send_clean": share["clean"]["send"],
        "never_clean": share["clean"]["never"],
        "send_till": share["till"]["send"],
        "never_till": share["till"]["never"],
        "texts": sum(share[kind]["texts"] for kind in ("clean", "till")),
        "readers": n_readers,
        "agreement": same / pairs if pairs else None,
        "never_by_question": dict(sorted(questions.items())),
        "groups": share,
        "sheets": {language: sheet["sha256"] for language, sheet in key["sheets"].items()},
        "seed": key["seed"],
    }


def main() -> None:
    parser = script_parser(__doc__, "seed", "data")
    parser.add_argument("step", choices=("sheet", "judge"))
    parser.add_argument("--shops", type=Path, help="folder of the shops' workspaces")
    parser.add_argument("--round", type=Path, default=HERE / "copy_readers", help="key.json and NAME.LANGUAGE.json")
    args = parser.parse_args()
    if args.step == "sheet":
        make_sheets(args)
    else:
        finish(judge(args), args.output)


if __name__ == "__main__":
    main()
