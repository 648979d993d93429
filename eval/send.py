"""Sends a campaign to 50,000 customers through a mail server of this machine, and kills the sender 20 times:

    python eval/send.py -o eval/results/send.json

The server is aiosmtpd in a process of its own; it writes down each message that it took. Its log then answers for the
messages that got no answer, as the log of a shop's server would: those that it took are not sent again.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from email import message_from_bytes
from pathlib import Path
from typing import Any

import polars as pl
from aiosmtpd.smtp import SMTP
from inputs import finish, say, script_parser

from recllm.market.adcopy.ads import item_of
from recllm.market.adcopy.write import TEMPLATE
from recllm.market.campaigns.file import CampaignFile, read_campaign
from recllm.market.campaigns.folder import (
    CampaignFolder,
    CampaignPlan,
    CampaignText,
    PlannedPerson,
    TextStatus,
    publish,
)
from recllm.market.campaigns.open_campaign import decide, open_campaign
from recllm.market.campaigns.texts import facts_of
from recllm.market.sending.addresses import read_addresses
from recllm.market.sending.mail import MailServer
from recllm.market.sending.outbox import MessageState
from recllm.market.sending.send import SendOutcome, send_campaign
from recllm.shop.ingest.workspace_load import load_file
from recllm.shop.workspace.workspace import Workspace

CAMPAIGN = """\
id = "letter"
channels = ["email"]
[target]
items = ["tea"]
[limits]
quiet = []
[words]
link = "leaf.example"
[sender]
name = "Leaf"
address = "1 Market Street"
opt_out = "https://mail.example/unsubscribe/shop"
"""
TEXT = "Green tea again?\nYou know it.\nTime for more?\nGreen tea is here for your next order.\n\nOrder again"


def make_shop(folder: Path, n_people: int) -> None:
    """A workspace with the customers, and an approved campaign for all of them."""
    file = folder / "letter.toml"
    file.write_text(CAMPAIGN)
    users = pl.DataFrame({"user_id": [f"u{n}" for n in range(n_people)]})
    users.with_columns(email=pl.col("user_id") + "@home.example").write_csv(folder / "customers.csv")
    items = pl.DataFrame({"item_id": ["tea"], "title": ["Green tea"], "category": ["Food > Tea"], "price": [4.0]})
    shop = Workspace.create(folder / "shop", consent_default=True, currency="USD")
    for table, frame in (("users", users.with_columns(country=pl.lit("GB"))), ("items", items)):
        frame.write_csv(folder / f"{table}.csv")
        load_file(shop, folder / f"{table}.csv", table)
    with shop.store().read() as reader:
        item = item_of(reader.items(["tea"]).row(0, named=True))
    campaign = read_campaign(file)
    publish(CampaignFolder.of(shop.root, "letter"), plan_of(shop, campaign, users, item), replace=False)
    decide(open_campaign(shop, campaign), TextStatus.APPROVED, ["t1"], by="the benchmark", at=datetime.now(UTC))
    shop.close()


def plan_of(shop: Workspace, campaign: CampaignFile, users: pl.DataFrame, item: Any) -> CampaignPlan:
    now = datetime.now(UTC).isoformat()
    text = CampaignText(
        id="t1", item_id="tea", kind="popular", channel="email", locale="en", modelled=False, variant=0, text=TEXT,
        generator=TEMPLATE, failures=(), warnings=(), facts=facts_of(item, campaign), people=users.height,
    )  # fmt: skip
    people = tuple(
        PlannedPerson(
            user_id=user_id, held_out=False, probability=0.1, item_id="tea", kind="popular", channel="email",
            locale="en", variant=0, text_id="t1",
        )
        for user_id in shop.pseudonymiser().many(users["user_id"].to_list())
    )  # fmt: skip
    return CampaignPlan(
        campaign_id="letter", goal="", note="", digest=campaign.digest, as_of=now, send=now, offer=None,
        horizon_days=28, window_days=28, model_version=None, holdout=0.0, excluded={}, expected_conversions=0.0,
        cost=None, items=("tea",), converts=("purchase",), group=(), notes=(), texts=(text,), people=people,
    )  # fmt: skip


class Log:
    """Writes the Message-ID of each message that the server takes."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("a", buffering=1)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        self._file.write(message_from_bytes(envelope.content)["Message-ID"] + "\n")
        return "250 OK"


async def serve(file: Path, port: int) -> None:
    log = Log(file)
    server = await asyncio.get_running_loop().create_server(lambda: SMTP(log), "127.0.0.1", port)
    await server.serve_forever()


def send(folder: Path, port: int, unanswered: MessageState | None = None) -> SendOutcome:
    with Workspace.open(folder / "shop") as shop:
        campaign, addresses = (
            open_campaign(shop, read_campaign(folder / "letter.toml")),
            read_addresses(shop, folder / "customers.csv"),
        )
        server = MailServer.of(f"smtp://127.0.0.1:{port}?from=news@leaf.example")
        return send_campaign(campaign, server, addresses, per_minute=10**6, unanswered=unanswered)


def measure(n_people: int, n_kills: int, seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name, socket.socket() as free:
        folder, log = Path(name), Path(name) / "server.log"
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        make_shop(folder, n_people)
        say("a shop of %d customers", n_people)
        here = [sys.executable, __file__]
        server = subprocess.Popen([*here, "--serve", str(log), str(port)])
        began, seconds, n_unanswered, n_again = time.monotonic(), 0.0, 0, 0
        try:
            for kill in range(n_kills + 1):
                received = count_of(log)
                stop_at = received + rng.randrange(n_people // (n_kills + 1)) if kill < n_kills else None
                began = time.monotonic()
                sender = subprocess.Popen([*here, "--send", str(folder), str(port)], stdout=subprocess.DEVNULL)
                while sender.poll() is None:
                    if stop_at is not None and count_of(log) > stop_at:
                        sender.send_signal(signal.SIGKILL)
                        break
                    time.sleep(0.02)
                sender.wait()
                seconds += time.monotonic() - began
                say("run %d: %d messages are there", kill + 1, count_of(log))
            peak_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
            outcome = send(folder, port)
            taken = set(log.read_text().split())
            n_unanswered, n_again = len(outcome.unanswered), sum(i not in taken for i in outcome.unanswered)
        finally:
            server.kill()
            server.wait()
        messages = Counter(log.read_text().split())
    return {
        "messages": n_people,
        "kills": n_kills,
        "doubles": sum(messages.values()) - len(messages),
        "lost": n_people - len(messages) - n_again,
        "unanswered": n_unanswered,
        "unanswered_not_taken": n_again,
        "per_second": round(n_people / seconds),
        "peak_mib": peak_mib,
    }


def count_of(log: Path) -> int:
    return log.read_bytes().count(b"\n") if log.exists() else 0


def main() -> None:
    parser = script_parser(__doc__, "seed")
    parser.add_argument("--people", type=int, default=50_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--send", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        asyncio.run(serve(Path(args.serve[0]), int(args.serve[1])))
    elif args.send:
        send(Path(args.send[0]), int(args.send[1]))
    else:
        finish(measure(args.people, args.kills, args.seed), args.output)


if __name__ == "__main__":
    main()
