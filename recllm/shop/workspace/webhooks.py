"""Providers that report on messages, their secrets, and signatures.

An HMAC needs the secrets themselves. They are in `webhooks.json` next to the key file, and like it refused unless only
the owner may read it. A second secret under the same name is in force together with the first until that is removed, so
that a change loses nothing.

Standard Webhooks 1.0    HMAC-SHA256 over `id.timestamp.body`, base64 behind "v1,"; several are separated by blanks
Resend                   the same, in headers that begin with "svix"
SendGrid                 ECDSA on P-256 with SHA-256 over `timestamp` and body, DER in base64
Mailgun                  HMAC-SHA256 over `timestamp` and a token, in hex; it stands in the body, which it does not
                         cover
SES                      by Amazon SNS, see `sns`; the topic's ARN takes the place of a secret
Postmark                 no signature: a password in the address that it posts to
Shopify, WooCommerce     HMAC-SHA256 over the body in base64, of no time

Where the raw body is what was signed, nothing is parsed before its signature holds.
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
from recllm.shop.workspace.sns import confirm, signed_message
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
    RESEND = "resend"
    MAILGUN = "mailgun"
    """What is kept is its HTTP webhook signing key."""
    SES = "ses"
    """Amazon SES; what is kept is the ARN of the topic that it reports to."""
    POSTMARK = "postmark"
    """What is kept is a password."""
    SHOPIFY = "shopify"
    SHOPIFY_CONSENT = "shopify+consent"
    """Agreements count as well as refusals."""
    WOOCOMMERCE = "woocommerce"


SHARED = frozenset({WebhookScheme.STANDARD, WebhookScheme.POSTMARK, WebhookScheme.WOOCOMMERCE})
"""Their secret may be made here; the others make it themselves."""


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
    """As they are now; none without the file.
    Raises `StoreError` for a damaged file, or one that others may read."""
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

    text: its secret (`whsec_...`), or the key that the provider shows; None makes a secret. Raises `UsageError` for one
    that cannot be used, or a name of another kind of provider, `MissingExtraError` where a key needs
    `cryptography`.
    """
    if text is None and scheme not in SHARED:
        raise UsageError(
            f"{scheme} makes the key (SendGrid: a public key; SES: the topic's ARN), and its settings show it: give it "
            "with --secret-file"
        )
    if text is None:
        token = secrets.token_bytes(32)
        is_password = scheme is WebhookScheme.POSTMARK
        text = token.hex() if is_password else SECRET_PREFIX + base64.b64encode(token).decode()
    elif scheme is WebhookScheme.SENDGRID:
        public_key(text)
    elif scheme in SVIX_HEADERS:
        secret_bytes(text)
    elif len(text) < MIN_SECRET_BYTES or not text.isprintable():
        raise UsageError(f"a key of {scheme} has at least {MIN_SECRET_BYTES} printable characters; copy it again")
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
            raise UnknownIdError(f"no webhook {name!r}; see recllm webhooks")
        if fingerprint is not None:
            left = tuple(secret for secret in source.secrets if secret.fingerprint != fingerprint)
            if len(left) == len(source.secrets):
                raise UnknownIdError(f"{name!r} has no secret {fingerprint!r}; see recllm webhooks")
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


SVIX_HEADERS: Mapping[WebhookScheme, str] = {WebhookScheme.STANDARD: "webhook", WebhookScheme.RESEND: "svix"}
"""Schemes of Standard Webhooks -> with what the names of its headers begin."""
SHOP_HEADERS = {"shopify": "x-shopify-hmac-sha256", "woocommerce": "x-wc-webhook-signature"}
SENDGRID_TIMESTAMP = "x-twilio-email-event-webhook-timestamp"
SENDGRID_SIGNATURE = "x-twilio-email-event-webhook-signature"
RETRIES = timedelta(hours=9)
"""For so long are reports repeated with the time of the first attempt."""

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
    """What one of the source's secrets vouches for, at most `tolerance` before or after `now`; None otherwise.

    headers: by lower-case name. Raises `MissingExtraError` where SendGrid's needs `cryptography`.
    """
    if source.scheme is WebhookScheme.POSTMARK:
        kind, _, credentials = headers.get("authorization", "").partition(" ")
        password = from_base64(credentials if kind.lower() == "basic" else "").partition(b":")[2]
        holds = any([hmac.compare_digest(secret.text.encode(), password) for secret in source.secrets])
        return SignedCall(call_id=None, sent_at=now) if holds else None
    if (header := SHOP_HEADERS.get(source.scheme.partition("+")[0])) is not None:
        signature = from_base64(headers.get(header, ""))
        expected = [hmac.digest(secret.text.encode(), body, hashlib.sha256) for secret in source.secrets]
        holds = any([hmac.compare_digest(mac, signature) for mac in expected])
        return SignedCall(call_id=None, sent_at=now) if holds else None
    call_id = None
    if source.scheme is WebhookScheme.MAILGUN:
        timestamp, tolerance = mailgun_timestamp(source, body), RETRIES
        holds = bool(timestamp)
    elif source.scheme is WebhookScheme.SES:
        return sns_call(source, body, now)
    elif source.scheme is WebhookScheme.SENDGRID:
        timestamp, signature = headers.get(SENDGRID_TIMESTAMP, ""), from_base64(headers.get(SENDGRID_SIGNATURE, ""))
        holds = any(is_signed_by(secret, signature, timestamp.encode() + body) for secret in source.secrets)
    else:
        call_id, timestamp, signed = (
            headers.get(f"{SVIX_HEADERS[source.scheme]}-{name}", "") for name in ("id", "timestamp", "signature")
        )
        signatures = [from_base64(text[3:]) for text in signed.split(" ") if text.startswith("v1,")]
        content = f"{call_id}.{timestamp}.".encode() + body
        expected = [hmac.digest(secret_bytes(secret.text), content, hashlib.sha256) for secret in source.secrets]
        holds = any([hmac.compare_digest(mac, signature) for mac in expected for signature in signatures])
    if not holds or not _SECONDS.fullmatch(timestamp) or not _CALL_ID.fullmatch(call_id or "-"):
        return None
    sent_at = datetime.fromtimestamp(int(timestamp), UTC)
    return SignedCall(call_id=call_id, sent_at=sent_at) if abs(sent_at - now) <= tolerance else None


def sns_call(source: WebhookSource, body: bytes, now: datetime) -> SignedCall | None:
    """A message of one of the source's topics. A new subscription is confirmed."""
    message = signed_message(body, {secret.text for secret in source.secrets})
    if message is None:
        return None
    if message["Type"] != "Notification" and not confirm(message):
        return None
    sent_at = datetime.fromisoformat(message["Timestamp"])
    return SignedCall(call_id=message["MessageId"], sent_at=sent_at) if abs(sent_at - now) <= RETRIES else None


def mailgun_timestamp(source: WebhookSource, body: bytes) -> str:
    """The time in a body's signature; "" where none of the source's keys made it."""
    try:
        signed = json.loads(body)["signature"]
        timestamp, token, signature = (str(signed[name]) for name in ("timestamp", "token", "signature"))
        content, sent_mac = f"{timestamp}{token}".encode(), signature.encode()
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    macs = [hmac.new(secret.text.encode(), content, hashlib.sha256).hexdigest() for secret in source.secrets]
    return timestamp if any([hmac.compare_digest(mac.encode(), sent_mac) for mac in macs]) else ""


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
