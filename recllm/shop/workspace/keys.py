"""API keys: who may call the service of a workspace, and for what.

A key is `rk_<key id>_<secret>`. The store keeps the id, the scopes and a SHA-256 of the secret, which has 256 random
bits. A key is shown once, when it is made. A publishable key, `pk_...`, stands in the shop's pages for all to read: it
has origins and no scope; see `recllm.doors.service.pages`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from recllm.base.errors import UnknownIdError, UsageError
from recllm.shop.workspace.workspace import Workspace

_KEY = re.compile(r"[rp]k_(?P<key_id>[0-9a-f]{12})_(?P<secret>[A-Za-z0-9_-]{43})")
_ORIGIN = re.compile(r"(https://[a-z0-9.-]+|http://(localhost|127\.0\.0\.1))(:(?!(443|80)$)[0-9]{2,5})?")
"""As a browser names the site of a page: without a path, and without the usual port."""


class Scope(StrEnum):
    """What a key may be used for."""

    RECOMMEND = "recommend"
    """Ask for slates, explanations and similar items, and search."""
    EVENTS = "events"
    """Send events, items and people, join sessions, take items off the catalogue."""
    MARKETING = "marketing"
    """Ask for figures of groups, have texts checked, draft and decide campaigns, run experiments."""
    PEOPLE = "people"
    """With marketing: see who single customers are, in lists, predictions, personal texts, plans and exports."""
    PRIVACY = "privacy"
    """Read everything that is stored of a person, and erase it."""
    METRICS = "metrics"
    """Read the service's own figures."""
    CONSOLE = "console"
    """Sign in to the console and look; what is done there needs the scope of what is done."""
    ADMIN = "admin"
    """In the console: let another model serve, make keys and revoke them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    key_id: str
    name: str
    """Who uses it, in the shop's own words."""
    scopes: frozenset[Scope]
    created_at: datetime
    origins: frozenset[str] = frozenset()
    """Sites whose pages may use the key, exactly as browsers name them; a publishable key has some, others none."""
    revoked_at: datetime | None = None

    def allows(self, scope: Scope) -> bool:
        """Whether it is in force and has the scope."""
        return self.revoked_at is None and scope in self.scopes


def create_key(workspace: Workspace, name: str, scopes: Iterable[Scope | str]) -> tuple[ApiKey, str]:
    """A new key and its text, which is not kept. scopes: or origins, of a publishable key. Raises `UsageError` for no
    name, an unknown scope, or scopes of a publishable key."""
    if not name.strip() or len(name) > 100 or not name.isprintable():
        raise UsageError("a key needs a name of 1 to 100 characters, that of its user, e.g. --name web-shop")
    names = frozenset(map(str, scopes))
    origins = frozenset(filter(_ORIGIN.fullmatch, names))
    try:
        granted = frozenset(Scope(scope) for scope in names - origins)
    except ValueError as error:
        raise UsageError(f"{error}; scopes are {', '.join(Scope)}, or an origin like https://shop.example") from None
    if bool(granted) is bool(origins):
        raise UsageError(f"a key needs a scope: {', '.join(Scope)}; or origins alone, which make it publishable")
    secret = secrets.token_urlsafe(32)
    now = datetime.now(UTC).replace(microsecond=0)
    key = ApiKey(key_id=secrets.token_hex(6), name=name.strip(), scopes=granted, created_at=now, origins=origins)
    workspace.store().add_api_key(
        key_id=key.key_id, name=key.name, scopes=" ".join(sorted(names)), sha256=_sha256(secret), created_at=now
    )
    return key, f"{'p' if origins else 'r'}k_{key.key_id}_{secret}"


def list_keys(workspace: Workspace) -> list[ApiKey]:
    """All keys, the oldest first, revoked ones too."""
    return [_key(row) for row in workspace.store().api_keys()]


def is_unlocked(workspace: Workspace) -> bool:
    """Whether no key was made, and no directory is set, which closes a shop as a key does."""
    return workspace.settings.oidc.issuer is None and not list_keys(workspace)


def revoke_key(workspace: Workspace, key_id: str) -> None:
    """The key is refused from now on.
    Raises `UnknownIdError` for an unknown one; a revoked one stays revoked."""
    if not workspace.store().revoke_api_key(key_id, datetime.now(UTC).replace(microsecond=0)):
        raise UnknownIdError(f"no key {key_id!r}; see recllm keys")


def authenticate(workspace: Workspace, text: str) -> ApiKey | None:
    """The key of a presented text, read at each call; None for an unknown or revoked one. Secrets are compared in
    constant time."""
    parts = _KEY.fullmatch(text)
    rows = workspace.store().api_keys(parts["key_id"]) if parts else []
    expected = rows[0]["sha256"] if rows else "0" * 64
    same = hmac.compare_digest(_sha256(parts["secret"] if parts else ""), expected)
    key = _key(rows[0]) if rows and same else None
    return None if key is None or key.revoked_at is not None else key


def key_in_force(workspace: Workspace, key_id: str) -> ApiKey | None:
    """The key of an id, read at each call; None for an unknown or revoked one. Unlike `authenticate` it needs no secret
    and proves no identity."""
    rows = workspace.store().api_keys(key_id)
    key = _key(rows[0]) if rows else None
    return None if key is None or key.revoked_at is not None else key


def _key(row: Mapping[str, Any]) -> ApiKey:
    origins = frozenset(filter(_ORIGIN.fullmatch, row["scopes"].split()))
    scopes = frozenset(Scope(scope) for scope in row["scopes"].split() if scope not in origins)
    times = {name: row[name] for name in ("created_at", "revoked_at")}
    return ApiKey(key_id=row["key_id"], name=row["name"], scopes=scopes, origins=origins, **times)


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
