"""Links of messages that lead through the service, which counts the click and leads on: SERVICE/c/SHOP/TOKEN.

The token is the message's id and the link, encrypted and authenticated by AES-GCM under a key of the workspace. It
names no one, leads nowhere else, and still leads there after the customer was erased.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING

from recllm.base.errors import MissingExtraError
from recllm.shop.workspace.workspace import Workspace

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

CLICK_PATH = "/c"
NONCE_BYTES = 16
MAX_TOKEN = 4_000
"""Characters."""
PREFETCH_HEADERS = ("purpose", "sec-purpose", "x-purpose", "x-moz")
PREFETCH_WORDS = ("prefetch", "prerender", "preview")


def click_token(workspace: Workspace, message_id: str, link: str) -> str:
    """For the path of an address, another one each time. Raises `MissingExtraError`."""
    nonce, content = secrets.token_bytes(16), f"{message_id}\n{link}".encode()
    sealed = nonce + cipher_of(workspace.signing_key("click")).encrypt(nonce, content, None)
    return base64.urlsafe_b64encode(sealed).decode().rstrip("=")


def read_token(workspace: Workspace, token: str) -> tuple[str, str] | None:
    """The message's id and the link; None where no key of the workspace made the token."""
    from cryptography.exceptions import InvalidTag

    try:
        sealed = base64.b64decode(token[:MAX_TOKEN] + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except ValueError:
        return None
    for key in workspace.signing_keys("click"):  # links in sent messages outlive a rotation of the key
        try:
            content = cipher_of(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], None)
        except (InvalidTag, ValueError):
            continue
        message_id, _, link = content.decode().partition("\n")
        return message_id, link
    return None


def cipher_of(key: bytes) -> AESGCM:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ModuleNotFoundError as error:
        raise MissingExtraError("cryptography", "send") from error
    return AESGCM(key)


def is_prefetch(headers: Mapping[str, str]) -> bool:
    """Whether a program asks before a person does. headers: by lower-case name."""
    purposes = " ".join(headers.get(name, "") for name in PREFETCH_HEADERS).lower()
    return any(word in purposes for word in PREFETCH_WORDS)
