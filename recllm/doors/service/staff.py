"""People of a company's own directory: who is let in to the console, and what they may do there.

Settings decide that at each request, so that a domain, subject or group that is removed from them counts as soon as the
service has read them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recllm.base.service_settings import OidcSettings, group_grant
from recllm.shop.workspace.keys import Scope

MAX_EMAIL = 254
"""Characters of an email address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StaffIdentity:
    """Claims of a person that this shop's settings use."""

    issuer: str
    client_id: str
    subject: str
    email: str
    """"" where there is none, or the provider does not say that it is verified."""
    groups: tuple[str, ...]
    """Those alone that make a difference here, sorted."""


@dataclass(frozen=True, slots=True)
class StaffMember:
    """A person who is let in."""

    identity: StaffIdentity
    name: str
    """By which the history names them."""
    scopes: frozenset[Scope]

    def allows(self, scope: Scope) -> bool:
        return scope in self.scopes


def groups_in_use(settings: OidcSettings) -> frozenset[str]:
    """Groups that make a difference."""
    return frozenset(settings.allowed_groups) | {group for group, _ in map(group_grant, settings.group_scopes)}


def staff_identity(claims: Mapping[str, Any], settings: OidcSettings) -> StaffIdentity:
    """From claims whose token was verified."""
    email, groups = claims.get("email"), claims.get(settings.groups_claim)
    is_verified = (
        claims.get("email_verified") is True
        and isinstance(email, str)
        and len(email) <= MAX_EMAIL
        and re.fullmatch(r"[^@\s]+@[^@\s]+", email) is not None
        and email.isprintable()  # nothing that could be taken for another address
    )
    names = groups if isinstance(groups, list) else [groups]
    return StaffIdentity(
        issuer=settings.issuer or "",
        client_id=settings.client_id,
        subject=claims["sub"],
        email=str(email) if is_verified else "",
        groups=tuple(sorted(groups_in_use(settings) & {name for name in names if isinstance(name, str)})),
    )


def staff_member(identity: StaffIdentity, settings: OidcSettings) -> StaffMember | None:
    """The person with their scopes; None where these settings do not let them in, and of another provider."""
    if settings.issuer is None or (identity.issuer, identity.client_id) != (settings.issuer, settings.client_id):
        return None
    is_allowed = (
        identity.subject in settings.allowed_subjects
        or (identity.email and identity.email.rpartition("@")[2].lower() in settings.allowed_domains)
        or not set(settings.allowed_groups).isdisjoint(identity.groups)
    )
    if not is_allowed:
        return None
    grants = map(group_grant, settings.group_scopes)
    scopes = frozenset[str](settings.base_scopes).union(*(names for group, names in grants if group in identity.groups))
    name = identity.email if settings.history_name == "email" and identity.email else identity.subject
    return StaffMember(identity, name, frozenset(map(Scope, scopes)))
