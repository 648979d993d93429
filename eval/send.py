"""Sends a campaign to 50,000 customers through a mail server of this machine, and kills the sender 20 times:

    python eval/send.py -o eval/results/send.json

The server is aiosmtpd in this process, and the sender another one. The server's log then answers for the messages that
got no answer, as the log of a shop's server would: those that it took are not sent again.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from email import message_from_bytes
from pathlib import Path
from typing import Any

import polars as pl
from inputs import HERE, finish, of_child, recllm, say, script_parser
from serve import memory

sys.path.insert(0, str(HERE.parent / "tests"))

from mail_server import Inbox, mail_server
from service_world import build_shop

from recllm.market.campaigns.file import read_campaign
from recllm.market.campaigns.folder import CampaignFolder, TextStatus, publish
from recllm.market.campaigns.open_campaign import decide, open_campaign
from recllm.market.campaigns.plan import plan_campaign
from recllm.shop.ingest.workspace_load import load_file
from recllm.shop.workspace.workspace import Workspace

CAMPAIGN = """\
id = "letter"
channels = ["email"]
[target]
{target}
[limits]
{limits}
quiet = []
[words]
link = "leaf.example"
[sender]
name = "Leaf"
address = "1 Market Street"
opt_out = "https://mail.example/unsubscribe/shop"
"""


def make_shop(folder: Path, n_people: int) -> None:
    """A workspace with the customers, and an approved campaign for all of them: the plan for one of the tests' shop."""
    file = folder / "letter.toml"
    file.write_text(CAMPAIGN.format(target='category = "food > tea"', limits="size = 10"))
    users = pl.DataFrame({"user_id": [f"c{n}" for n in range(n_people)]})
    users.with_columns(email=pl.col("user_id") + "@home.example").write_csv(folder / "customers.csv")
    users.with_columns(country=pl.lit("GB")).write_csv(folder / "users.csv")
    with Workspace.open(build_shop(folder, n_models=1)) as shop:
        load_file(shop, folder / "users.csv", "users")
        plan = plan_campaign(shop, read_campaign(file))
        person, pseudonyms = plan.addressed[0], shop.pseudonymiser().many(users["user_id"].to_list())
        people = tuple(replace(person, user_id=user_id) for user_id in pseudonyms)
        publish(CampaignFolder.of(shop.root, "letter"), replace(plan, people=people), replace=True)
        campaign = open_campaign(shop, read_campaign(file))
        decide(campaign, TextStatus.APPROVED, [person.text_id], by="the benchmark", at=datetime.now(UTC))


class Log(Inbox):
    """Keeps the Message-ID of each message that the server takes."""

    def __init__(self) -> None:
        super().__init__()
        self.message_ids: list[str] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        self.message_ids.append(message_from_bytes(envelope.content)["Message-ID"])
        return "250 OK"


def send_and_kill(command: Sequence[str], messages: Sequence[object], n: int) -> float:
    """Runs a command of recllm that sends, and returns its largest memory in MiB. It is killed (SIGKILL) when there are
    more than n messages."""
    peak = 0.0
    sender = subprocess.Popen([sys.executable, "-m", "recllm", *command], stdout=subprocess.DEVNULL, env=of_child())
    while sender.poll() is None:
        if len(messages) > n:
            sender.kill()
        peak = max(peak, memory(str(sender.pid)))
        time.sleep(0.01)
    return peak


def measure(n_people: int, n_kills: int, seed: int) -> dict[str, Any]:
    rng, log, seconds, peaks = random.Random(seed), Log(), 0.0, list[float]()
    with tempfile.TemporaryDirectory() as name, mail_server(log) as os.environ["RECLLM_SMTP"]:
        folder = Path(name)
        make_shop(folder, n_people)
        say("a shop of %d customers", n_people)
        command = ["campaign", "send", f"{folder / 'letter.toml'}", "-w", f"{folder / 'shop'}", "--json"]
        command += ["--addresses", f"{folder / 'customers.csv'}", "--per-minute", "1000000"]
        for kill in range(n_kills + 1):
            more = rng.randrange(n_people // (n_kills + 1)) if kill < n_kills else n_people
            began = time.monotonic()
            peaks.append(send_and_kill(command, log.message_ids, len(log.message_ids) + more))
            seconds += time.monotonic() - began
            say("run %d: %d messages are there", kill + 1, len(log.message_ids))
        unanswered = json.loads(recllm(*command))["unanswered"]
    messages = Counter(log.message_ids)
    n_again = sum(name not in messages for name in unanswered)
    return {
        "messages": n_people,
        "kills": n_kills,
        "doubles": messages.total() - len(messages),
        "lost": n_people - len(messages) - n_again,
        "unanswered": len(unanswered),
        "unanswered_not_taken": n_again,
        "per_second": round(n_people / seconds),
        "peak_mib": round(max(peaks)),
    }


def main() -> None:
    parser = script_parser(__doc__, "seed")
    parser.add_argument("--people", type=int, default=50_000)
    parser.add_argument("--kills", type=int, default=20)
    args = parser.parse_args()
    finish(measure(args.people, args.kills, args.seed), args.output)


if __name__ == "__main__":
    main()
