"""Texts that leave by HTTP, through a gateway of the shop's own: SMS, WhatsApp, 企业微信, an app.

One POST for each message, signed like Standard Webhooks, whose `webhook-id` is the same however often it is sent. The
guide's "Messages" has the contract: what the body says, and what an answer means.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import uuid4

from recllm.base.errors import DeliveryError, UsageError
from recllm.base.messages import CampaignMessage
from recllm.base.service_settings import PLAIN_HTTP_HOSTS
from recllm.market.adcopy.channels import channel_named
from recllm.market.campaigns.folder import CampaignText
from recllm.market.campaigns.open_campaign import OpenCampaign
from recllm.market.sending.mail import Mail, link_of, unsubscribe_url
from recllm.market.sending.outbox import MessageState, Outbox
from recllm.shop.workspace.webhooks import secret_bytes

if TYPE_CHECKING:
    from httpx2 import AsyncClient

GATEWAY_VARIABLE, SECRET_VARIABLE = "RECLLM_GATEWAY", "RECLLM_GATEWAY_SECRET"
"""Environment variables with the gateway's URL, and the secret that it knows."""
TIMEOUT_SECONDS, CONNECT_SECONDS = 30.0, 10.0
"""For a whole answer, and for a connection to begin with."""
IDLE_SECONDS = 2.0
"""Servers close connections that are idle for longer."""
MAX_ANSWER_BYTES = 64 << 10
CLOSED = frozenset({401, 403, 404, 405})
"""Answers of a gateway that takes nothing from here, as are redirects: none of them is followed."""
LATER = frozenset({429, 503})


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """Takes texts from here by POST."""

    url: str
    secret: bytes = field(repr=False)

    @classmethod
    def of(cls, url: str, secret: str) -> Gateway:
        """From an https address, or http on this machine, and `whsec_...`.
        Raises `UsageError`, which repeats neither."""
        try:
            parts = urlsplit(url)
            is_plain_allowed = parts.hostname in PLAIN_HTTP_HOSTS and parts.port is not None
        except ValueError:
            parts, is_plain_allowed = urlsplit(""), False
        is_safe = parts.scheme == "https" or (parts.scheme == "http" and is_plain_allowed)
        if not is_safe or not parts.hostname or parts.username or parts.password:
            raise UsageError(f"give {GATEWAY_VARIABLE} an address such as https://gateway.shop.example/messages")
        if not secret:
            raise UsageError(f"give {SECRET_VARIABLE} the secret that the gateway checks signatures with, whsec_...")
        return cls(url=url, secret=secret_bytes(secret))

    def __str__(self) -> str:
        return f"the gateway {urlsplit(self.url).netloc}"


def text_of(
    campaign: OpenCampaign,
    text: CampaignText,
    wording: str,
    address: str,
    message: CampaignMessage | None,
) -> Mail:
    """A text as the body of a POST. wording: the approved one. message: None for a test."""
    file, facts, channel = campaign.file, campaign.facts(text), channel_named(text.channel)
    message_id = message.message_id if message else f"test-{uuid4().hex}"
    finished = file.message(wording, text.channel, text.locale, text.generator)
    data = {
        "recllm_message_id": message_id,
        "channel": text.channel,
        "to": address,
        "locale": text.locale,
        **{slot.name: words for slot, words in channel.split(finished)},
        "link": link_of(campaign, message.message_id if message else None),
        "unsubscribe": unsubscribe_url(campaign, message_id) if message else file.sender.opt_out,
        # for services that send approved templates alone
        "text_id": text.id,
        "variables": {"shop": file.sender.name, "title": facts.title, "price": facts.price, "currency": facts.currency},
    }
    document = {"type": "message.send", "timestamp": datetime.now(UTC).isoformat(timespec="seconds"), "data": data}
    content = json.dumps(document, ensure_ascii=False).encode()
    return Mail(user_id=message.user_id if message else "", message_id=message_id, address=address, content=content)


def signed_headers(gateway: Gateway, mail: Mail) -> dict[str, str]:
    """Of Standard Webhooks 1.0, at this moment."""
    timestamp = str(int(time.time()))
    content = f"{mail.message_id}.{timestamp}.".encode() + mail.content
    signature = base64.b64encode(hmac.digest(gateway.secret, content, hashlib.sha256)).decode()
    return {
        "webhook-id": mail.message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{signature}",
        "content-type": "application/json",
        "accept-encoding": "identity",
        "user-agent": "recllm",
    }


async def post_texts(gateway: Gateway, queue: deque[Mail], outbox: Outbox, turn: Callable[[], Awaitable[bool]]) -> None:
    """As `send_mails`. Raises `ConnectionError` where the gateway cannot be reached, or leaves a message without an
    answer, `DeliveryError` where it takes nothing."""
    import httpx2

    timeout = httpx2.Timeout(TIMEOUT_SECONDS, connect=CONNECT_SECONDS)
    limits = httpx2.Limits(keepalive_expiry=IDLE_SECONDS)
    async with httpx2.AsyncClient(trust_env=False, follow_redirects=False, timeout=timeout, limits=limits) as client:
        while await turn():
            mail = queue.popleft()
            if not outbox.record([mail.user_id], MessageState.LEAVING):
                continue  # erased, or under another pseudonym since
            try:
                status = await posted(client, gateway, mail)
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                outbox.record([mail.user_id], MessageState.DEFERRED)
                queue.appendleft(mail)  # not a word of it has left
                raise ConnectionError(type(error).__name__) from None
            if (state := state_of(status)) is MessageState.LEAVING:
                raise ConnectionError(f"it answered {status}" if status else "it did not answer")
            outbox.record([mail.user_id], state, str(status))
            if is_closed(status):
                raise DeliveryError(f"{gateway} takes nothing: it answered {status}; look into its log")


async def post_test(gateway: Gateway, mail: Mail) -> None:
    """Raises `DeliveryError` where the gateway does not take it."""
    import httpx2

    async with httpx2.AsyncClient(trust_env=False, follow_redirects=False, timeout=CONNECT_SECONDS) as client:
        try:
            status = await posted(client, gateway, mail)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise DeliveryError(f"{gateway} cannot be reached: {type(error).__name__}") from None
    if state_of(status) is not MessageState.SENT:
        raise DeliveryError(f"{gateway} did not take the test message: {status or 'no answer'}; look into its log")


async def posted(client: AsyncClient, gateway: Gateway, mail: Mail) -> int:
    """The status of the answer; 0 without one. Raises httpx2's `ConnectError` or `ConnectTimeout`."""
    import httpx2

    status, headers = 0, signed_headers(gateway, mail)
    try:
        async with (
            asyncio.timeout(TIMEOUT_SECONDS),
            client.stream("POST", gateway.url, content=mail.content, headers=headers) as response,
        ):
            status, n_bytes = response.status_code, 0
            async for chunk in response.aiter_raw():  # so that the connection can be used again
                n_bytes += len(chunk)
                if n_bytes > MAX_ANSWER_BYTES:
                    break
    except (httpx2.ConnectError, httpx2.ConnectTimeout):
        raise
    except (httpx2.HTTPError, TimeoutError):
        pass
    return status


def state_of(status: int) -> MessageState:
    """What an answer says of its message; `LEAVING` where it may have left."""
    if 200 <= status < 300:
        return MessageState.SENT
    if status in LATER or is_closed(status):
        return MessageState.DEFERRED
    return MessageState.REFUSED if 400 <= status < 500 else MessageState.LEAVING


def is_closed(status: int) -> bool:
    return status in CLOSED or 300 <= status < 400
