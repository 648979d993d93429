"""From a shop's export to the report of a campaign, by the commands and pages that a shop uses:

    python eval/walk.py -o eval/results/walk.json

Orders of the outdoor shop of copy_shops.toml go in as Shopify exports them. A campaign is drafted, a test message
arrives, and the sending is killed (SIGKILL) in the middle and taken up again. Customers click and unsubscribe, the
provider reports bounces, and the orders of the following month, which the campaign does not change, are loaded.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import polars as pl
from copy_readers import SHOPS, simulated
from inputs import finish, recllm, say, script_parser
from send import CAMPAIGN, Inbox, mail_server, send_and_kill
from service_world import server_process

from recllm.market.sending.gateway import Gateway, signed_headers
from recllm.market.sending.mail import Mail
from recllm.shop.workspace.privacy import KEY_VARIABLE

N_PEOPLE, N_SENT, MONTH = 2600, 500, timedelta(days=29)
"""Customers of the shop, and those that the campaign writes to: a check holds one of its texts."""
SMALL = ("scorer.n_windows=1", "scorer.epochs=1", "scorer.min_steps=100")
RESULTS = "/results/campaign/letter"


def write_orders(file: Path, orders: pl.DataFrame) -> str:
    """As Shopify exports orders; some customers accept no marketing. Returns the file's name."""
    columns = {"title": "Lineitem name", "price": "Lineitem price", "item_id": "Lineitem sku", "brand": "Vendor"}
    marketing = pl.when(pl.col("user_id").str.ends_with("7")).then(pl.lit("no")).otherwise(pl.lit("yes"))
    made = {
        "Name": pl.format("#{}-{}", pl.lit(file.stem), pl.struct("user_id", "timestamp").rank("dense")),
        "Email": pl.format("{}@home.example", "user_id"),
        "Created at": pl.col("timestamp").dt.strftime("%Y-%m-%d %H:%M:%S +0000"),
        "Accepts Marketing": marketing,
    }
    constants = {"Financial Status": "paid", "Currency": "GBP", "Lineitem quantity": "1"}
    orders = orders.with_columns(**made, **{name: pl.lit(text) for name, text in constants.items()}).rename(columns)
    orders.drop("user_id", "timestamp", "category").write_csv(file)
    return str(file)


def run(folder: Path, *command: str) -> str:
    say("recllm %s", " ".join(command))
    return recllm(*command, "-w", str(folder / "shop"))


def draft(folder: Path, orders: str, items: list[str]) -> str:
    """The file of a campaign whose texts a person approved."""
    run(folder, "init", "--consent-default", "granted", "--encoder", "toy", "--currency", "GBP", "--timezone", "UTC")
    run(folder, "ingest", orders)
    run(folder, "train", *(part for setting in SMALL for part in ("--set", setting)))
    file = folder / "shop" / "campaign-files" / "letter.toml"
    file.parent.mkdir()
    file.write_text(CAMPAIGN.format(target=f"items = {json.dumps(items)}", limits="size = 501\nholdout = 0.25"))
    run(folder, "campaign", "plan", str(file))
    run(folder, "campaign", "approve", str(file), "--by", "Ann", "--all")
    return str(file)


def send(folder: Path, file: str, orders: str, inbox: Inbox) -> dict[str, Any]:
    """A test message, then the campaign, whose sender is killed in the middle."""
    run(folder, "campaign", "send", file, "--test", "ana@leaf.example")
    command = ("campaign", "send", file, "--addresses", orders, "--json")
    n_tests = len(inbox.mails)
    send_and_kill([*command, "-w", str(folder / "shop")], inbox.mails, n_tests + N_SENT // 2)
    n_before, outcome = len(inbox.mails) - n_tests, json.loads(run(folder, *command))
    if unanswered := outcome["unanswered"]:  # a person looks into the server's log
        arrived = {mail["Message-ID"] for mail in inbox.mails}.intersection(unanswered)
        outcome = json.loads(run(folder, *command, "--unanswered", ",".join(arrived) or "again"))
    counts = {"test_messages": n_tests, "before_the_kill": n_before, "unanswered": len(unanswered)}
    del inbox.mails[:n_tests]
    n_people = len(inbox.received)
    return counts | {"received": len(inbox.mails), "doubles": len(inbox.mails) - n_people, "outcome": outcome}


def answer(client: httpx2.Client, secret: str, mails: list[EmailMessage]) -> None:
    """Four customers click, one of them twice, two unsubscribe by one click, and three addresses bounce."""
    for mail in [*mails[:4], mails[1]]:
        (path,) = re.findall(r"https://mail.example(/c/shop/\S+)", mail.get_body(("plain",)).get_content())  # type: ignore[union-attr]
        assert client.get(path).headers["location"] == "https://leaf.example"
    for mail in mails[4:6]:
        path = mail["List-Unsubscribe"].strip("<>").removeprefix("https://mail.example")
        client.post(path, data={"List-Unsubscribe": "One-Click"}).raise_for_status()
    for mail in mails[6:9]:
        name, at = mail["Message-ID"].strip("<>").partition("@")[0], datetime.now(UTC).isoformat()
        document = {"type": "message.bounced", "timestamp": at, "data": {"recllm_message_id": name}}
        report = Mail(user_id="", message_id=f"b.{name}", address="", content=json.dumps(document).encode())
        headers = signed_headers(Gateway.of("https://mail.example", secret), report)
        client.post("/webhooks/shop/mail", content=report.content, headers=headers).raise_for_status()


def results_page(client: httpx2.Client, language: str) -> str:
    """The text of the console's page."""
    page = client.get(f"/language/{language}?after={RESULTS}", follow_redirects=True).raise_for_status().text
    return " ".join(re.sub(r"<[^>]*>", " ", page[page.index("<main") :]).split())


def measure(seed: int) -> dict[str, Any]:
    items, events = simulated(SHOPS["outdoor"], np.random.default_rng(seed), N_PEOPLE)
    orders = events.filter(pl.col("event") == "purchase").drop("event").join(items, on="item_id")
    is_later, inbox = pl.col("timestamp") > orders["timestamp"].max() - MONTH, Inbox()
    again = [item for item, product in zip(items["item_id"], SHOPS["outdoor"]["products"], strict=True) if product[4]]
    with tempfile.TemporaryDirectory() as name, mail_server(inbox) as url:
        os.environ |= {KEY_VARIABLE: "the same customers each time", "RECLLM_SMTP": url}
        folder = Path(name)
        export = write_orders(folder / "orders_export_1.csv", orders.filter(~is_later))
        file = draft(folder, export, again)
        figures = send(folder, file, export, inbox)
        secret = run(folder, "webhooks", "--add", "mail").split()[0]
        with server_process(folder / "shop") as (client, _):
            answer(client, secret, inbox.mails)
            run(folder, "ingest", write_orders(folder / "orders_export_2.csv", orders.filter(is_later)))
            figures["report"] = json.loads(run(folder, "campaign", "report", file, "--json"))
            figures["pages"] = {language: results_page(client, language) for language in ("en", "zh")}
    return figures


if __name__ == "__main__":
    args = script_parser(__doc__, "seed").parse_args()
    finish(measure(args.seed) | {"protocol": "walk", "seed": args.seed}, args.output)
