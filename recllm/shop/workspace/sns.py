"""Amazon SNS, by which SES reports: messages signed with RSA by a certificate of Amazon's own hosts.

https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html. Certificates are fetched from those
hosts alone, without redirects, and kept. A subscription is confirmed in the same way.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from recllm.base.errors import MissingExtraError

HOST = re.compile(r"sns\.[a-z0-9-]{1,40}\.amazonaws\.com(?:\.cn)?")
CERTIFICATE = re.compile(rf"https://{HOST.pattern}/SimpleNotificationService-[0-9a-f]{{32}}\.pem")
"""Addresses of certificates: others on these hosts can answer what a stranger wrote."""
MAX_BYTES = 64 << 10
TIMEOUT_SECONDS = 5.0
SIGNED = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
}


def signed_message(body: bytes, topics: Collection[str]) -> Mapping[str, str] | None:
    """The message of a body of one of the topics, where its signature holds; None otherwise.
    Raises `MissingExtraError`."""
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
        from cryptography.hazmat.primitives.hashes import SHA1, SHA256
        from cryptography.x509 import load_pem_x509_certificate
    except ModuleNotFoundError as error:
        raise MissingExtraError("cryptography", "serve") from error
    try:
        message: dict[str, Any] = json.loads(body)
        if message["TopicArn"] not in topics or not CERTIFICATE.fullmatch(message["SigningCertURL"]):
            return None
        names = [name for name in SIGNED[message["Type"]] if name in message]
        content = "".join(f"{name}\n{message[name]}\n" for name in names).encode()
        algorithm = {"1": SHA1(), "2": SHA256()}[message["SignatureVersion"]]  # noqa: S303 - what Amazon signs by default
        certificate = certificate_of(message["SigningCertURL"])
        key = load_pem_x509_certificate(certificate).public_key()
        if not isinstance(key, RSAPublicKey):
            return None
        key.verify(base64.b64decode(message["Signature"]), content, PKCS1v15(), algorithm)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, InvalidSignature):
        return None
    return message


def confirm(message: Mapping[str, str]) -> bool:
    """Confirms the subscription of a signed message; False where Amazon does not answer."""
    try:
        return bool(fetched(message["SubscribeURL"]))
    except LookupError:
        return False


@lru_cache(maxsize=16)
def certificate_of(url: str) -> bytes:
    return fetched(url)


def fetched(url: str) -> bytes:
    """What an address of Amazon SNS answers.
    Raises `LookupError` for another address, or without an answer."""
    import httpx2

    parts = urlsplit(url)
    if parts.scheme != "https" or not HOST.fullmatch(parts.netloc):
        raise LookupError("this is no address of Amazon SNS")
    try:
        with (
            httpx2.Client(trust_env=False, follow_redirects=False, timeout=TIMEOUT_SECONDS) as client,
            client.stream("GET", url) as response,
        ):
            content = next(response.iter_bytes(MAX_BYTES), b"")
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        raise LookupError("Amazon SNS does not answer") from error
    if response.status_code != httpx2.codes.OK or len(content) == MAX_BYTES:
        raise LookupError("Amazon SNS answers something else")
    return content
