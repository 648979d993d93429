"""What `recllm serve` sends: announcements of a shop, by a thread of its own, so that no answer waits for them."""

from __future__ import annotations

import logging
from threading import Event, Thread

from recllm.base.errors import RecllmError
from recllm.doors.service.live import LiveShop
from recllm.market.jobs.announce import TIMEOUT_SECONDS, send_due

SEND_SECONDS = 2.0  # how often it is looked for announcements that are due

logger = logging.getLogger(__name__)


class AnnouncementSender:
    """Sends the announcements of one shop that are due, from `start` to `close`."""

    def __init__(self, shop: LiveShop) -> None:
        self._shop = shop
        self._closing = Event()
        self._thread = Thread(target=self._send, name=f"send {shop.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the thread after its attempt; one that hangs is left: another process makes it again."""
        self._closing.set()
        self._thread.join(TIMEOUT_SECONDS)

    def _send(self) -> None:
        problem = ""
        while not self._closing.wait(SEND_SECONDS):
            try:
                send_due(self._shop.workspace)
                problem = ""
            except RecllmError as error:
                if str(error) != problem:  # once, and not at every look
                    logger.warning("announcements cannot be sent: %s", error, extra={"shop": self._shop.name})
                problem = str(error)
            except Exception:  # whatever it is, the next round tries again
                logger.exception("announcements were not sent", extra={"shop": self._shop.name})
