"""The visitor of a browser: sessions of keys and of people, and cookies.

A session is a file of the workspace and a random token in a cookie; see `workspace.console_sessions`. The API
key behind it is looked up at each request, so that revoking it ends the session; so are the settings that let a person
of the company's directory in. Where no shop has keys or a directory, only this machine is answered, without sign-in.

A cookie holds a choice or a random text, and no personal data. Over https their names begin with `__Host-`; others
are not read.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import unquote

from fastapi import Request
from fastapi.responses import Response

from recllm.base.errors import StoreError
from recllm.doors.service.callers import Service
from recllm.doors.service.live import LiveShop
from recllm.doors.service.oidc import StaffIdentity, StaffMember, staff_member
from recllm.shop.workspace.console_sessions import ConsoleSession, find_session
from recllm.shop.workspace.keys import ApiKey, Scope, authenticate, is_unlocked, key_in_force
from recllm.shop.workspace.workspace import Workspace

logger = logging.getLogger(__name__)

SHOP_COOKIE = "recllm-shop"
"""Name of the shop that is looked at."""
LANGUAGE_COOKIE = "recllm-language"
PENDING_COOKIE = "recllm-oidc"
"""Binds a sign-in through a provider to the browser that began it."""
HOST_PREFIX = "__Host-"
YEAR = 365 * 24 * 3_600
"""Seconds that a choice is remembered by the browser."""

FRESH_SECONDS = 600
"""Time after a sign-in in which the visitor may end other sessions; later they sign in again."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Who looks, and at which shop."""

    shop: LiveShop
    visitor: ApiKey | StaffMember | None
    """None where the console is open to this machine."""
    shops: tuple[str, ...]
    """Names of all shops that this browser may look at."""
    sessions: Mapping[str, ConsoleSession]
    """Name of a shop -> this browser's session there; empty where the console is open."""

    @property
    def session(self) -> ConsoleSession | None:
        """At the shop that is looked at."""
        return self.sessions.get(self.shop.name)

    def may(self, scope: Scope) -> bool:
        return self.visitor is None or self.visitor.allows(scope)

    @property
    def name(self) -> str:
        """Who it is, for the history of what was done."""
        return "" if self.visitor is None else self.visitor.name


def session_cookie(shop_name: str) -> str:
    """Name of the cookie of a shop's session, which does not say the shop's name."""
    return f"recllm-session-{hashlib.sha256(shop_name.encode()).hexdigest()[:12]}"


def identify_browser(service: Service, cookies: Mapping[str, str], *, is_used: bool) -> SignedIn | None:
    """The visitor; None where sign-in is needed first. is_used: whether the request keeps the sessions of this browser
    from being idle.

    One shop's trouble is no other's: one whose keys cannot be read is closed. Raises `StoreError` where that is so for
    all of them.
    """
    shops = service.shops
    visitors: dict[str, ApiKey | StaffMember] = {}
    sessions: dict[str, ConsoleSession] = {}
    is_open, problem, n_read = service.is_private, None, 0
    for name, shop in shops.items():
        try:
            is_open = is_open and is_unlocked(shop.workspace)
            token = cookies.get(session_cookie(name), "")
            session = find_session(shop.workspace, token, is_used=is_used) if token else None
            if session is not None and (visitor := session_visitor(shop.workspace, session)):
                visitors[name], sessions[name] = visitor, session
            n_read += 1
        except StoreError as error:
            is_open, problem = False, error
            logger.warning("keys cannot be read: %s", error, extra={"shop": name})
    if problem is not None and not n_read:
        raise problem
    chosen_name = unquote(cookies.get(SHOP_COOKIE, ""))
    if is_open:
        return SignedIn(shops.get(chosen_name) or next(iter(shops.values())), None, tuple(shops), {})
    if not sessions:
        return None
    name = chosen_name if chosen_name in sessions else next(iter(sessions))
    return SignedIn(shops[name], visitors[name], tuple(sessions), sessions)


def sign_in(service: Service, key_text: str) -> tuple[LiveShop, ApiKey] | None:
    """The shop and the key of a typed text; None when it is the key of no shop here."""
    for shop in service.shops.values():
        try:
            if key := authenticate(shop.workspace, key_text):
                return shop, key
        except StoreError as error:
            logger.warning("keys cannot be read: %s", error, extra={"shop": shop.name})
    return None


def session_visitor(workspace: Workspace, session: ConsoleSession) -> ApiKey | StaffMember | None:
    """Key or person of a session; None where they may not look, or were not confirmed for too long."""
    visitor: ApiKey | StaffMember | None
    if session.person is None:
        visitor = key_in_force(workspace, session.key_id or "")
    elif has_to_be_confirmed(workspace, session, periods=2):
        return None
    else:
        try:
            identity = StaffIdentity(**{**session.person, "groups": tuple(session.person["groups"])})
        except (KeyError, TypeError):  # of another version of this program: the person signs in again
            return None
        visitor = staff_member(identity, workspace.settings.oidc)
    return visitor if visitor is not None and visitor.allows(Scope.CONSOLE) else None


def has_to_be_confirmed(workspace: Workspace, session: ConsoleSession, *, periods: int = 1) -> bool:
    """Whether the directory did not confirm this person within these `oidc.confirm_minutes`."""
    seconds = periods * workspace.settings.oidc.confirm_minutes * 60
    return session.person is not None and time.time() > session.proven_at + seconds


def is_same_visitor(session: ConsoleSession, another: ConsoleSession) -> bool:
    """Whether two sessions are of one key, or of one subject of an issuer."""
    if session.person is None or another.person is None:
        return session.key_id is not None and session.key_id == another.key_id
    return _subject(session.person) == _subject(another.person)


def is_session_of(session: ConsoleSession, identity: StaffIdentity) -> bool:
    return session.person is not None and _subject(session.person) == (identity.issuer, identity.subject)


def _subject(person: Mapping[str, Any]) -> tuple[str, str]:
    return str(person.get("issuer")), str(person.get("subject"))


def read_cookies(request: Request) -> dict[str, str]:
    """The console's cookies by their plain names; over https those alone that came with the prefix."""
    if request.url.scheme != "https":
        return dict(request.cookies)
    prefixed = {name: value for name, value in request.cookies.items() if name.startswith(HOST_PREFIX)}
    return {name.removeprefix(HOST_PREFIX): value for name, value in prefixed.items()}


def set_cookie(
    answer: Response,
    request: Request,
    name: str,
    value: str,
    *,
    max_age: int | None = None,
    samesite: Literal["lax", "strict"] = "strict",
) -> None:
    """A cookie that no script reads and no other site sends; over https never without it."""
    is_https = request.url.scheme == "https"
    written = f"{HOST_PREFIX}{name}" if is_https else name
    answer.set_cookie(written, value, max_age=max_age, httponly=True, samesite=samesite, secure=is_https)


def drop_cookie(answer: Response, request: Request, name: str) -> None:
    set_cookie(answer, request, name, "", max_age=0)
