"""Announcements to a shop's own systems: kept in the store when something happens, and sent in the background.

An announcement is a message of Standard Webhooks. Its id, and with it what a receiver counts, is the same in every
attempt. It goes where the operator said and nowhere else: certificates are checked, redirects are not followed, no
proxy is used, and the host's addresses are looked at before one of them is connected to.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx2

from recllm.base.errors import PolicyError
from recllm.base.messages import Announcement, AnnouncementStatus
from recllm.base.service_settings import WebhookSettings
from recllm.shop.workspace.webhooks import WebhookTarget, is_this_machine, read_webhooks, sign
from recllm.shop.workspace.workspace import Workspace

TIMEOUT_SECONDS = 10.0  # an attempt that has no answer by then counts as failed
RETRY_SECONDS = 5.0  # wait after the first failed attempt; each further one is four times as long
MAX_ATTEMPTS = 8  # then an announcement is given up; they take about eight hours

logger = logging.getLogger(__name__)

BACKOFF = 4
"""How many times as long each wait is as the one before."""
LEASE_SECONDS = 60.0
"""An attempt whose process died is made again so long after its timeout."""
_SPECIAL = """0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24
192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15 198.51.100.0/24
203.0.113.0/24 224.0.0.0/4 240.0.0.0/4 ::/96 ::ffff:0:0:0/96 64:ff9b:1::/48 100::/64 100:0:0:1::/64 2001::/23
2001:db8::/32 2620:4f:8000::/48 3fff::/20 5f00::/16 fc00::/7 fe80::/10 fec0::/10 ff00::/8"""
SPECIAL = tuple(map(ipaddress.ip_network, _SPECIAL.split()))
"""The registries of special addresses of IPv4 and IPv6 (IANA, RFC 6890), multicast, and what was once of that kind."""
EMBEDDING = tuple(map(ipaddress.ip_network, ("::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48")))
"""Networks of IPv6 whose last four bytes are an address of IPv4."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class SendAccount:
    """Account of the attempts of one round."""

    delivered: int
    postponed: int
    """They failed and will be made again."""
    failed: int
    """Given up."""


def announce(workspace: Workspace, kind: str, data: Mapping[str, Any]) -> int:
    """Keeps an announcement for each target; returns how many there are. Durable on return."""
    now, targets = datetime.now(UTC), read_webhooks(workspace).targets
    document = {"type": kind, "timestamp": now.isoformat(timespec="seconds"), "data": data}
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    queued = [
        Announcement(announcement_id=f"msg_{secrets.token_hex(16)}", target=name, type=kind, body=body, created_at=now)
        for name in targets
    ]
    if queued:
        workspace.store().queue_announcements(queued)
    return len(queued)


def send_due(workspace: Workspace, *, clock: datetime | None = None) -> SendAccount:
    """One attempt for each announcement that is due. clock: an aware time instead of that of this machine."""
    settings, store = workspace.settings.webhooks, workspace.store()
    now = clock or datetime.now(UTC)
    lease = timedelta(seconds=TIMEOUT_SECONDS + LEASE_SECONDS)
    counts = dict.fromkeys(AnnouncementStatus, 0)
    while claimed := store.claim_announcements(now, lease=lease, limit=1):
        (announcement,) = claimed
        target = read_webhooks(workspace).targets.get(announcement.target)
        status, outcome = AnnouncementStatus.FAILED, "the target was removed"
        if target is not None:
            status, outcome = _attempt(announcement, target, settings)
        next_at = None
        if status is AnnouncementStatus.QUEUED:
            next_at = now + timedelta(seconds=RETRY_SECONDS * BACKOFF ** (announcement.attempts - 1))
        store.settle_announcement(announcement.announcement_id, status, outcome, next_at=next_at)
        counts[status] += 1
        origin = target.origin if target else announcement.target
        logger.info("%s to %s: %s, %s", announcement.type, origin, status, outcome)
    return SendAccount(
        delivered=counts[AnnouncementStatus.DELIVERED],
        postponed=counts[AnnouncementStatus.QUEUED],
        failed=counts[AnnouncementStatus.FAILED],
    )


def _attempt(
    announcement: Announcement, target: WebhookTarget, settings: WebhookSettings
) -> tuple[AnnouncementStatus, str]:
    """(new status, answer or failure of the target); a target that answers 410 is not asked again."""
    try:
        code = _post(announcement, target, settings)
    except (PolicyError, httpx2.HTTPError, httpx2.InvalidURL, OSError, UnicodeError) as error:
        is_refused = isinstance(error, PolicyError)
        succeeded, is_last, outcome = False, False, str(error) if is_refused else type(error).__name__
    else:
        succeeded, is_last, outcome = 200 <= code < 300, code == HTTPStatus.GONE, str(code)
    if succeeded:
        return AnnouncementStatus.DELIVERED, outcome
    is_last = is_last or announcement.attempts >= MAX_ATTEMPTS
    return AnnouncementStatus.FAILED if is_last else AnnouncementStatus.QUEUED, outcome


def _post(announcement: Announcement, target: WebhookTarget, settings: WebhookSettings) -> int:
    """The status of the answer, of which nothing else is read.

    The request goes to an address that was looked at, under the name that the certificate has to bear: where the name
    leads a moment later changes nothing.
    """
    body = announcement.body.encode()
    parts = urlsplit(target.url)
    host, port = parts.hostname or "", parts.port or {"https": 443}.get(parts.scheme, 80)
    headers = {
        **sign(target.secrets, announcement.announcement_id, datetime.now(UTC), body),
        "Host": parts.netloc,
        "Content-Type": "application/json",
        "User-Agent": "recllm",
    }
    failure = httpx2.ConnectError("the host has no address")
    with httpx2.Client(trust_env=False, follow_redirects=False, timeout=TIMEOUT_SECONDS) as client:
        for address in addresses(host, port, allow_private=settings.private_targets):
            written = f"[{address}]" if address.version == 6 else str(address)
            url = urlunsplit((parts.scheme, f"{written}:{port}", parts.path or "/", parts.query, ""))
            extensions = {"sni_hostname": host}
            try:
                with client.stream("POST", url, content=body, headers=headers, extensions=extensions) as response:
                    return response.status_code
            except httpx2.ConnectError as error:  # a machine without IPv6 cannot reach the first of many hosts
                failure = error
    raise failure


def addresses(host: str, port: int, *, allow_private: bool) -> list[Address]:
    """Where a host is. Raises `PolicyError` where any of it may not be a target: a private network, this machine under
    another name, or nothing that can be reached from outside; `OSError` where the name is unknown."""
    resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    listed = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in resolved]
    is_here = is_this_machine(host)
    for address in listed:
        real = _embedded(address)
        if is_here:
            allowed = real.is_loopback
        else:
            allowed = not real.is_loopback and not real.is_multicast and not real.is_unspecified
            is_special = any(form in network for form in (address, real) for network in SPECIAL)
            allowed = allowed and (allow_private or not is_special)
        if not allowed:
            raise PolicyError("the host lies in a private network; webhooks.private_targets allows it")
    return listed


def _embedded(address: Address) -> Address:
    """The IPv4 address in an IPv6 one, where there is one."""
    if isinstance(address, ipaddress.IPv6Address) and not address.is_loopback:
        if inner := address.ipv4_mapped or address.sixtofour:
            return inner
        if any(address in network for network in EMBEDDING):
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address
