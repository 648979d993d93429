"""Signatures of webhooks: Standard Webhooks both ways, SendGrid's Event Webhook inwards.

Standard Webhooks 1.0    HMAC-SHA256 over `id.timestamp.body`, base64 behind "v1,"; several are separated by blanks
SendGrid                 ECDSA on P-256 with SHA-256 over `timestamp` and body, DER in base64

The raw body is what was signed: nothing is parsed before its signature holds.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from recllm.shop.workspace.webhooks import WebhookScheme, WebhookSecret, WebhookSource, public_key, secret_bytes

ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
SENDGRID_TIMESTAMP = "x-twilio-email-event-webhook-timestamp"
SENDGRID_SIGNATURE = "x-twilio-email-event-webhook-signature"

_SECONDS = re.compile(r"[0-9]{1,11}")
_CALL_ID = re.compile(r"[!-~]{1,200}")
"""Printable ASCII, which any database takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedCall:
    """What the headers of a request say that its signature vouches for."""

    call_id: str | None
    """The same in every attempt; SendGrid has none."""
    sent_at: datetime
    """UTC."""


def sign(secrets: Sequence[WebhookSecret], call_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """The headers of Standard Webhooks, with a signature by each secret."""
    timestamp = str(int(at.timestamp()))
    signatures = (base64.b64encode(_hmac(secret, call_id, timestamp, body)).decode() for secret in secrets)
    return {ID: call_id, TIMESTAMP: timestamp, SIGNATURE: " ".join(f"v1,{signature}" for signature in signatures)}


def verify(
    source: WebhookSource, headers: Mapping[str, str], body: bytes, *, now: datetime, tolerance: timedelta
) -> SignedCall | None:
    """What was signed by one of the source's secrets, at most `tolerance` before or after `now`; None otherwise.

    headers: by lower-case name. Raises `MissingExtraError` where SendGrid's needs `cryptography`.
    """
    is_standard = source.scheme is WebhookScheme.STANDARD
    timestamp = headers.get(TIMESTAMP if is_standard else SENDGRID_TIMESTAMP, "")
    if not _SECONDS.fullmatch(timestamp):
        return None
    if abs(int(timestamp) - now.timestamp()) > tolerance.total_seconds():
        return None
    call_id = headers.get(ID, "") if is_standard else None
    if call_id is not None and not _CALL_ID.fullmatch(call_id):
        return None
    if call_id is not None:
        signatures = [_decoded(text[3:]) for text in headers.get(SIGNATURE, "").split(" ") if text.startswith("v1,")]
        expected = [_hmac(secret, call_id, timestamp, body) for secret in source.secrets]
        holds = any([hmac.compare_digest(mac, signature) for mac in expected for signature in signatures])
    else:
        signature = _decoded(headers.get(SENDGRID_SIGNATURE, ""))
        holds = any(_is_signed_by(secret, signature, timestamp.encode() + body) for secret in source.secrets)
    return SignedCall(call_id=call_id, sent_at=datetime.fromtimestamp(int(timestamp), UTC)) if holds else None


def _hmac(secret: WebhookSecret, call_id: str, timestamp: str, body: bytes) -> bytes:
    return hmac.digest(secret_bytes(secret.text), f"{call_id}.{timestamp}.".encode() + body, hashlib.sha256)


def _is_signed_by(secret: WebhookSecret, signature: bytes, content: bytes) -> bool:
    key = public_key(secret.text)
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        key.verify(signature, content, ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


def _decoded(text: str) -> bytes:
    """No bytes for what is not base64: they sign nothing."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
