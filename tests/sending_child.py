"""Sends a campaign in a process of its own, which a test kills: FOLDER URL PER_MINUTE."""

from __future__ import annotations

import sys
from base64 import b64encode
from collections.abc import Collection
from pathlib import Path

from recllm.market.campaigns.file import read_campaign
from recllm.market.campaigns.open_campaign import OpenCampaign, open_campaign
from recllm.market.sending.addresses import read_addresses
from recllm.market.sending.gateway import Gateway
from recllm.market.sending.mail import MailServer
from recllm.market.sending.outbox import MessageState
from recllm.market.sending.send import SendOutcome, send_campaign
from recllm.shop.workspace.workspace import Workspace

SECRET = f"whsec_{b64encode(bytes(range(24))).decode()}"


def opened(shop: Workspace, name: str = "letter") -> OpenCampaign:
    return open_campaign(shop, read_campaign(shop.root.parent / f"{name}.toml"))


def addresses_of(shop: Workspace, channel: str = "email") -> dict[str, str]:
    return read_addresses(shop, shop.root.parent / "customers.csv", channel)


def sent_to(
    shop: Workspace, url: str, per_minute: int = 60_000, unanswered: MessageState | Collection[str] | None = None
) -> SendOutcome:
    """The letter by a mail server, the text by a gateway."""
    name, channel, server = "letter", "email", MailServer.of(url) if url.startswith("smtp") else Gateway.of(url, SECRET)
    if isinstance(server, Gateway):
        name, channel = "texting", "sms_gsm"
    addresses = addresses_of(shop, channel)
    return send_campaign(opened(shop, name), {channel: server}, addresses, per_minute=per_minute, unanswered=unanswered)


if __name__ == "__main__":
    with Workspace.open(Path(sys.argv[1]) / "shop") as shop:
        sent_to(shop, sys.argv[2], int(sys.argv[3]))
