"""Sends a campaign in a process of its own, which a test kills: FOLDER URL PER_MINUTE."""

from __future__ import annotations

import sys
from pathlib import Path

from test_sending import addresses_of, opened

from recllm.market.sending.mail import MailServer
from recllm.market.sending.send import send_campaign
from recllm.shop.workspace.workspace import Workspace

if __name__ == "__main__":
    with Workspace.open(Path(sys.argv[1]) / "shop") as shop:
        print("sending", flush=True)
        send_campaign(opened(shop), MailServer.of(sys.argv[2]), addresses_of(shop), per_minute=int(sys.argv[3]))
