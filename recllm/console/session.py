"""Who looks: signed cookies of keys and of people, and forms that only the console's own pages can send.

A session is a cookie `<key id>.<end>.<signature>`, signed with a key that only the workspace has. The API key behind it
is looked up at each request, so that revoking it ends the session. That of somebody who signed in through the company's
directory is `oidc.<identity>.<end>.<signature>`; whether the settings let them in is looked up likewise. Where no shop
has keys or a directory, the service answers this machine alone, and whoever works on it is in.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from urllib.parse import unquote

from recllm.console.staff import StaffIdentity, StaffMember, staff_member
from recllm.errors import StoreError
from recllm.service.callers import Service
from recllm.service.live import LiveShop
from recllm.workspace.keys import ApiKey, Scope, authenticate, key_in_force, list_keys
from recllm.workspace.workspace import Workspace

logger = logging.getLogger(__name__)

SHOP_COOKIE = "recllm-shop"
"""Name of the shop that is looked at."""
FORM_COOKIE = "recllm-form"
"""A random text that the forms of this browser are bound to."""
STAFF_SESSION = "oidc"
"""What the cookie of a person's session begins with; no key has such an id."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Who looks, and at which shop."""

    shop: LiveShop
    visitor: ApiKey | StaffMember | None
    """None where the console is open to this machine."""
    session: str
    """The cookie's text; "" where the console is open."""
    shops: tuple[str, ...]
    """Names of all shops that this browser may look at."""

    def may(self, scope: Scope) -> bool:
        """Whether what the scope allows may be done."""
        return self.visitor is None or self.visitor.allows(scope)

    @property
    def name(self) -> str:
        """Who it is, for the history of what was done."""
        return "" if self.visitor is None else self.visitor.name

    @property
    def key_id(self) -> str | None:
        """Of the key that was signed in with; None for whoever needed none."""
        return self.visitor.key_id if isinstance(self.visitor, ApiKey) else None


def session_cookie(shop_name: str) -> str:
    """Name of the cookie of a shop's session: each shop has its own, and nothing in it says the shop's name."""
    return f"recllm-session-{hashlib.sha256(shop_name.encode()).hexdigest()[:12]}"


def identify_browser(service: Service, cookies: Mapping[str, str]) -> SignedIn | None:
    """Who looks; None for whoever has to sign in first.

    One shop's trouble is no other's: one whose keys cannot be read is closed. Raises `StoreError` where that is so for
    all of them.
    """
    shops, sessions = service.shops, {}
    is_open, problem, n_read = service.is_private, None, 0
    for name, shop in shops.items():
        try:
            is_open = is_open and shop.workspace.settings.oidc.issuer is None and not list_keys(shop.workspace)
            text = cookies.get(session_cookie(name), "")
            if text and (visitor := session_visitor(shop.workspace, text)):
                sessions[name] = (visitor, text)
            n_read += 1
        except StoreError as error:
            is_open, problem = False, error
            logger.warning("keys cannot be read: %s", error, extra={"shop": name})
    if problem is not None and not n_read:
        raise problem
    chosen_name = unquote(cookies.get(SHOP_COOKIE, ""))
    if is_open:
        return SignedIn(shops.get(chosen_name) or next(iter(shops.values())), None, "", tuple(shops))
    if not sessions:
        return None
    name = chosen_name if chosen_name in sessions else next(iter(sessions))
    return SignedIn(shops[name], *sessions[name], tuple(sessions))


def sign_in(service: Service, key_text: str) -> tuple[LiveShop, ApiKey] | None:
    """The shop and the key of a text that somebody typed; None when it is not the key of any shop here."""
    for shop in service.shops.values():
        try:
            if key := authenticate(shop.workspace, key_text):
                return shop, key
        except StoreError as error:
            logger.warning("keys cannot be read: %s", error, extra={"shop": shop.name})
    return None


def make_session(workspace: Workspace, key: ApiKey, end: int) -> str:
    """The text of a session's cookie; end: epoch seconds after which it is refused."""
    return f"{key.key_id}.{end}.{_signature(workspace, 'console session', f'{key.key_id}.{end}')}"


def make_staff_session(workspace: Workspace, identity: StaffIdentity, end: int) -> str:
    """The same for somebody of the company's directory."""
    body = base64.urlsafe_b64encode(json.dumps(asdict(identity), ensure_ascii=False).encode()).decode().rstrip("=")
    return f"{STAFF_SESSION}.{body}.{end}.{_signature(workspace, 'console session of staff', f'{body}.{end}')}"


def session_visitor(workspace: Workspace, text: str) -> ApiKey | StaffMember | None:
    """Who is behind a session's cookie, as far as it is in force and they may look."""
    return session_staff(workspace, text) if is_staff_session(text) else session_key(workspace, text)


def is_staff_session(text: str) -> bool:
    """Whether a cookie says that it is a person's session, which proves nothing."""
    return text.startswith(f"{STAFF_SESSION}.")


def session_staff(workspace: Workspace, text: str) -> StaffMember | None:
    """Whoever signed in with a session that is signed by this workspace and not over, if the settings of now let them
    look."""
    _, _, tail = text.partition(".")
    signed, _, signature = tail.rpartition(".")
    body, _, end = signed.rpartition(".")
    expected = _signature(workspace, "console session of staff", signed)
    is_genuine = is_staff_session(text) and hmac.compare_digest(signature.encode(), expected.encode())
    if not is_genuine or not end.isdigit() or int(end) < time.time():
        return None
    values = json.loads(base64.urlsafe_b64decode(f"{body}=="))
    identity = StaffIdentity(**values | {"groups": tuple(values["groups"])})
    member = staff_member(identity, workspace.settings.oidc)
    return member if member is not None and member.allows(Scope.CONSOLE) else None


def session_key(workspace: Workspace, text: str) -> ApiKey | None:
    """The key of a session that is signed by this workspace, not over, and whose key is in force and may look."""
    key_id, _, tail = text.partition(".")
    end, _, signature = tail.partition(".")
    expected = _signature(workspace, "console session", f"{key_id}.{end}")
    if not hmac.compare_digest(signature.encode(), expected.encode()) or not end.isdigit() or int(end) < time.time():
        return None
    key = key_in_force(workspace, key_id)
    return key if key is not None and key.allows(Scope.CONSOLE) else None


def new_form_cookie() -> str:
    return secrets.token_urlsafe(18)


def form_token(workspace: Workspace, form_cookie: str, session: str) -> str:
    """What every form carries: nobody can make it who has neither this workspace's key nor this browser's cookies."""
    return _signature(workspace, "console form", f"{form_cookie}\0{session}")


def same_token(token: str, expected: str) -> bool:
    """Compares in a time that does not depend on the texts."""
    return hmac.compare_digest(token.encode(errors="replace"), expected.encode())


def _signature(workspace: Workspace, use: str, text: str) -> str:
    return hmac.digest(workspace.signing_key(use), text.encode(errors="replace"), "sha256").hex()
