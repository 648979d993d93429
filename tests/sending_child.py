"""Sends a campaign in a process of its own, which a test kills: FOLDER URL PER_MINUTE."""

from __future__ import annotations

import sys
from pathlib import Path

from test_sending import sent_to

from recllm.shop.workspace.workspace import Workspace

if __name__ == "__main__":
    with Workspace.open(Path(sys.argv[1]) / "shop") as shop:
        print("sending", flush=True)
        sent_to(shop, sys.argv[2], int(sys.argv[3]))
