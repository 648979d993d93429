"""Providers that report on messages, their secrets, and signatures.

An HMAC needs the secrets themselves. They are in `webhooks.json` next to the key file, and like it refused unless only
the owner may read it. A second secret under the same name is in force together with the first until that is removed, so
that a change loses nothing.

Standard Webhooks 1.0    HMAC-SHA256 over `id.timestamp.body`, base64 behind "v1,"; several are separated by blanks
SendGrid                 ECDSA on P-256 with SHA-256 over `timestamp` and body, DER in base64

The raw body is what was signed: nothing is parsed before its signature holds.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from pydantic import AwareDatetime, ConfigDict, TypeAdapter, ValidationError, with_config

from recllm.base.documents import plain
from recllm.base.errors import MissingExtraError, StoreError, UnknownIdError, UsageError
from recllm.base.files import PRIVATE, lock_file, safe_id, write_whole
from recllm.shop.workspace.workspace import Workspace

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

SECRET_PREFIX = "whsec_"  # noqa: S105 - how every secret of Standard Webhooks begins
MIN_SECRET_BYTES = 24
MAX_SECRET_BYTES = 64


class WebhookScheme(StrEnum):
    """How a provider signs."""

    STANDARD = "standard"
    """Standard Webhooks: HMAC-SHA256 with a shared secret."""
    SENDGRID = "sendgrid"
    """SendGrid's Event Webhook: ECDSA on P-256; what is kept is a public key."""


_file_form = with_config(ConfigDict(extra="forbid"))


@_file_form
@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSecret:
    """A shared secret, or a public key in base64."""

    text: str = field(repr=False)
    created_at: AwareDatetime

    @property
    def fingerprint(self) -> str:
        """Eight hex digits that name it and reveal nothing."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:8]


@_file_form
@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSource:
    """A provider that reports on messages, to POST /webhooks/SHOP/NAME."""

    name: str
    scheme: WebhookScheme
    secrets: tuple[WebhookSecret, ...]
    """All in force, the oldest first."""


@with_config(ConfigDict(extra="ignore"))  # older files name targets of announcements too
@dataclass(frozen=True, slots=True)
class Webhooks:
    sources: Mapping[str, WebhookSource] = field(default_factory=dict)


def read_webhooks(workspace: Workspace) -> Webhooks:
    """As they are now; none without the file. Raises `StoreError` for a damaged file, or one that others may read."""
    path = workspace.webhooks_path
    try:
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise StoreError(f"other people may read the secrets in {path}; run: chmod 600 {path}")
        return _FORM.validate_json(path.read_bytes())
    except FileNotFoundError:
        return Webhooks()
    except ValidationError:  # its message would repeat what the file holds
        raise StoreError(f"{path} is damaged; put back a backup, or remove it and add the webhooks again") from None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}; check its owner and mode") from error


_FORM = TypeAdapter(Webhooks)


def add_source(
    workspace: Workspace, name: str, scheme: WebhookScheme, text: str | None = None
) -> tuple[WebhookSource, WebhookSecret]:
    """Adds a secret of a provider to those that the name has already.

    text: its secret (`whsec_...`) or, for SendGrid, its public key; None makes a secret. Raises `UsageError` for one
    that cannot be used, or a name of another kind of provider, `MissingExtraError` where a key needs
    `cryptography`.
    """
    if text is None and scheme is WebhookScheme.SENDGRID:
        raise UsageError(
            "SendGrid makes the key: give its public key with --secret-file; its Event Webhook settings show it"
        )
    if text is None:
        text = SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()
    elif scheme is WebhookScheme.STANDARD:
        secret_bytes(text)
    else:
        public_key(text)
    secret = WebhookSecret(text=text, created_at=datetime.now(UTC).replace(microsecond=0))
    safe_id(name, "the name of a webhook")
    with lock_file(workspace.root / ".webhooks.lock"):
        hooks = read_webhooks(workspace)
        old = hooks.sources.get(name)
        if old is not None and old.scheme is not scheme:
            raise UsageError(f"{name!r} is a provider of the kind {old.scheme}; take another name")
        before = old.secrets if old else ()
        is_known = any(earlier.text == secret.text for earlier in before)
        source = WebhookSource(name=name, scheme=scheme, secrets=before if is_known else (*before, secret))
        hooks = Webhooks({**hooks.sources, name: source})
        write_whole(workspace.webhooks_path, json.dumps(plain(hooks), indent=1) + "\n", mode=PRIVATE)
    return source, secret


def remove_webhook(workspace: Workspace, name: str, fingerprint: str | None = None) -> None:
    """Removes a provider, or one of several secrets of it.

    Raises `UnknownIdError` where there is none, `UsageError` for the last secret of a name.
    """
    with lock_file(workspace.root / ".webhooks.lock"):
        sources = dict(read_webhooks(workspace).sources)
        source = sources.pop(name, None)
        if source is None:
            raise UnknownIdError(f"no webhook {name!r}; see recllm webhooks list")
        if fingerprint is not None:
            left = tuple(secret for secret in source.secrets if secret.fingerprint != fingerprint)
            if len(left) == len(source.secrets):
                raise UnknownIdError(f"{name!r} has no secret {fingerprint!r}; see recllm webhooks list")
            if not left:
                raise UsageError(f"{fingerprint} is the only secret of {name!r}; remove all of it without --secret")
            sources[name] = replace(source, secrets=left)
        hooks = Webhooks(sources)
        write_whole(workspace.webhooks_path, json.dumps(plain(hooks), indent=1) + "\n", mode=PRIVATE)


def secret_bytes(text: str) -> bytes:
    """Of a `whsec_...`. Raises `UsageError`, which does not repeat it, for one of another form or length."""
    key = from_base64(text.removeprefix(SECRET_PREFIX))
    if not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise UsageError(
            f"a secret is {SECRET_PREFIX} and {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes in base64; copy it again"
        )
    return key


def public_key(text: str) -> EllipticCurvePublicKey:
    """Of SendGrid's base64. Raises `UsageError` for another kind of key, `MissingExtraError` without `cryptography`."""
    try:
        from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
        from cryptography.hazmat.primitives.serialization import load_der_public_key
    except ModuleNotFoundError as error:
        raise MissingExtraError("cryptography", "serve") from error
    try:
        key = load_der_public_key(base64.b64decode(text, validate=True))
    except Exception:  # whatever the parser of foreign bytes raises, it is no such key
        key = None
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise UsageError("that is no public key of SendGrid: base64 of a P-256 key; copy it again")
    return key


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
        signatures = [from_base64(text[3:]) for text in headers.get(SIGNATURE, "").split(" ") if text.startswith("v1,")]
        content = f"{call_id}.{timestamp}.".encode() + body
        expected = [hmac.digest(secret_bytes(secret.text), content, hashlib.sha256) for secret in source.secrets]
        holds = any([hmac.compare_digest(mac, signature) for mac in expected for signature in signatures])
    else:
        signature = from_base64(headers.get(SENDGRID_SIGNATURE, ""))
        holds = any(is_signed_by(secret, signature, timestamp.encode() + body) for secret in source.secrets)
    return SignedCall(call_id=call_id, sent_at=datetime.fromtimestamp(int(timestamp), UTC)) if holds else None


def is_signed_by(secret: WebhookSecret, signature: bytes, content: bytes) -> bool:
    key = public_key(secret.text)
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        key.verify(signature, content, ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


def from_base64(text: str) -> bytes:
    """No bytes for what is not base64: they sign nothing."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
