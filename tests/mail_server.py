"""A mail server of the tests, which can refuse, put off and die."""

from __future__ import annotations

import email.policy
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from typing import Any

from aiosmtpd.controller import Controller


class Inbox:
    """Keeps what it takes. refused, later: addresses that it refuses, and takes at the second attempt; dies_at: the
    number of the message in whose body it hangs up, once."""

    def __init__(self, refused: tuple[str, ...] = (), later: tuple[str, ...] = (), dies_at: int = 0) -> None:
        self.mails: list[EmailMessage] = []
        self.refused, self.later, self.dies_at, self.n_bodies = refused, set(later), dies_at, 0

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:  # noqa: N802
        if address in self.refused:
            return f"550 5.1.1 <{address}>: no such user"
        if address in self.later:
            self.later.remove(address)
            return "451 4.7.1 greylisted, come back later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        self.n_bodies += 1
        if self.n_bodies == self.dies_at:
            server.transport.abort()
        else:
            self.mails.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        return "250 OK"

    @property
    def received(self) -> Counter[str]:
        """Address -> messages."""
        return Counter(str(mail["To"]) for mail in self.mails)


@contextmanager
def mail_server(inbox: Inbox) -> Iterator[str]:
    """The URL of a running server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    controller = Controller(inbox, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        yield f"smtp://127.0.0.1:{port}?from=news@leaf.example"
    finally:
        controller.stop()
