"""How somebody gets in and out: with a key that is typed, or through the company's directory.

A browser comes back from a provider with no cookie of the console but one, since the others are not sent on a way that
another site began. So the page of a success goes on by itself, as a page of this site, and only then are they sent.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import quote, unquote

import anyio.to_thread
from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException

from recllm.console.oidc import OidcClient, SignInError, SignInProblem, connect_provider, provider_id
from recllm.console.pages import YEAR, TheForm, TheVisit, Visit, from_here, local_path, set_cookie, text_of
from recllm.console.pending import PENDING_SECONDS, PendingSignIn
from recllm.console.session import (
    FORM_COOKIE,
    SHOP_COOKIE,
    is_staff_session,
    make_session,
    make_staff_session,
    new_form_cookie,
    session_cookie,
    sign_in,
)
from recllm.console.staff import StaffIdentity, StaffMember, groups_in_use, staff_identity, staff_member
from recllm.errors import StoreError
from recllm.service.capacity import OverloadError
from recllm.service.live import LiveShop
from recllm.settings import OIDC_RETURN_PATH
from recllm.workspace.keys import Scope

logger = logging.getLogger(__name__)
router = APIRouter()

PENDING_COOKIE = "recllm-oidc"
"""Binds a sign-in through a provider to the browser that began it."""
MAX_SESSION = 3_800
"""Characters of a session's cookie, of which browsers keep four thousand with its name."""
STATUS_OF_PROBLEM: Mapping[SignInProblem, HTTPStatus] = {
    SignInProblem.UNREACHABLE: HTTPStatus.BAD_GATEWAY,
    SignInProblem.NOT_SET_UP: HTTPStatus.BAD_GATEWAY,
    SignInProblem.DECLINED: HTTPStatus.UNAUTHORIZED,
    SignInProblem.STALE: HTTPStatus.BAD_REQUEST,
    SignInProblem.NOT_GENUINE: HTTPStatus.UNAUTHORIZED,
    SignInProblem.NOT_ALLOWED: HTTPStatus.FORBIDDEN,
    SignInProblem.NO_SCOPE: HTTPStatus.FORBIDDEN,
}


def connect_providers(shops: Mapping[str, LiveShop]) -> dict[str, OidcClient]:
    """The providers of all shops by `provider_id`; shops with the same settings share one.

    Raises `UsageError` for settings that are not complete, `MissingExtraError` without the libraries.
    """
    all_settings = [shop.workspace.settings.oidc for shop in shops.values()]
    return {provider_id(settings): connect_provider(settings) for settings in all_settings if settings.issuer}


@router.get("/sign-in")
async def sign_in_page(visit: TheVisit, after: str = "/") -> Response:
    """Where a key is typed or a provider is chosen; whoever is in already may add the key of a further shop."""
    if visit.signed_in is not None and visit.signed_in.visitor is None:  # this machine: there is nothing to sign in to
        return RedirectResponse(local_path(after), 303)
    return _page(visit, local_path(after))


@router.post("/sign-in")
async def sign_in_with_key(visit: TheVisit, form: TheForm) -> Response:
    after = local_path(text_of(form, "after"))
    try:
        visit.state.sign_ins.count(_address(visit))
    except OverloadError:
        return _page(visit, after, "sign_in.too_many", 429)
    text = text_of(form, "key").strip()
    entry = await anyio.to_thread.run_sync(sign_in, visit.state.service, text)
    if entry is None or not entry[1].allows(Scope.CONSOLE):
        problem = "sign_in.wrong" if entry is None else "sign_in.no_scope"
        return _page(visit, after, problem, 401 if entry is None else 403)
    shop, key = entry
    seconds = _session_seconds(shop)
    session = make_session(shop.workspace, key, int(time.time()) + seconds)
    answer = RedirectResponse(after, 303)
    set_cookie(answer, visit.request, session_cookie(shop.name), session, max_age=seconds)
    set_cookie(answer, visit.request, SHOP_COOKIE, quote(shop.name), max_age=YEAR)
    set_cookie(answer, visit.request, FORM_COOKIE, new_form_cookie())
    return answer


@router.get(OIDC_RETURN_PATH)
async def sign_in_returned(visit: TheVisit) -> Response:
    """The way back from a provider: who it was, and which shops let them in."""
    request = visit.request
    if not request.query_params:  # a page of a failure was loaded anew, in another language perhaps
        return RedirectResponse("/sign-in", 303)
    query = {name: value[:4_096] for name, value in request.query_params.items()}
    provider, after = "", "/"
    try:
        try:
            pending = visit.state.pending.take(query.get("state", ""), request.cookies.get(PENDING_COOKIE, ""))
        except SignInError:
            visit.state.sign_ins.count(_address(visit))  # one that was begun was counted at its begin
            raise
        visit, after, provider = visit.speaking(pending.language), pending.after, pending.provider
        shops = [s for s in visit.state.service.shops.values() if provider_id(s.workspace.settings.oidc) == provider]
        claim_names = sorted({name for shop in shops for name in _claims_in_use(shop)})
        claims = await visit.state.providers[provider].finish(pending.request, query, claim_names)
        identities = [(shop, staff_identity(claims, shop.workspace.settings.oidc)) for shop in shops]
        sessions = await anyio.to_thread.run_sync(_sessions, identities)
    except OverloadError:
        answer = _page(visit, after, "sign_in.too_many", 429)
    except SignInError as error:
        answer = _refusal(visit, after, error, provider)
    else:
        names = {shop.name for shop, _ in sessions}
        answer = visit.page("signed_in.html.j2", after=after)
        for shop, session in sessions:
            set_cookie(answer, request, session_cookie(shop.name), session, max_age=_session_seconds(shop))
        shop_name = pending.shop if pending.shop in names else sessions[0][0].name
        set_cookie(answer, request, SHOP_COOKIE, quote(shop_name), max_age=YEAR)
        set_cookie(answer, request, FORM_COOKIE, new_form_cookie())
    answer.delete_cookie(PENDING_COOKIE, path=OIDC_RETURN_PATH, httponly=True, samesite="lax")
    return answer


@router.get(OIDC_RETURN_PATH + "/{provider}")
async def go_to_provider(visit: TheVisit, provider: str, after: str = "/") -> Response:
    """To a provider. A link and no form: the content policy lets no form lead, or be led, elsewhere."""
    request, after = visit.request, local_path(after)
    client = visit.state.providers.get(provider)
    if client is None:
        raise HTTPException(404)
    if not from_here(request):  # nobody is sent away by another site
        return RedirectResponse(f"/sign-in?after={quote(after)}", 303)
    try:
        visit.state.sign_ins.count(_address(visit))
        address, begun = await client.begin(visit.words.tag)
    except OverloadError:
        return _page(visit, after, "sign_in.too_many", 429)
    except SignInError as error:
        return _refusal(visit, after, error, provider)
    sign_in_begun = PendingSignIn(
        request=begun,
        provider=provider,
        browser=secrets.token_urlsafe(32),
        after=after,
        language=visit.language,
        shop=unquote(request.cookies.get(SHOP_COOKIE, "")),
    )
    visit.state.pending.add(sign_in_begun)
    answer = RedirectResponse(address, 303)
    answer.set_cookie(
        PENDING_COOKIE,
        sign_in_begun.browser,
        max_age=PENDING_SECONDS,
        path=OIDC_RETURN_PATH,
        httponly=True,
        samesite="lax",  # a strict one would not come back from another site
        secure=request.url.scheme == "https",
    )
    return answer


@router.post("/sign-out")
async def sign_out(visit: TheVisit) -> Response:
    """End the session of the shop that is looked at; a person's in all shops that they were signed in to at once."""
    answer, names = RedirectResponse("/sign-in", 303), {visit.shop.name}
    if visit.signed_in is not None and isinstance(visit.signed_in.visitor, StaffMember):
        cookies = visit.request.cookies
        names |= {name for name in visit.signed_in.shops if is_staff_session(cookies[session_cookie(name)])}
    for name in names:
        answer.delete_cookie(session_cookie(name), httponly=True, samesite="strict")
    return answer


def _page(visit: Visit, after: str, problem: str | None = None, status: int = 200) -> Response:
    """problem: path of a sentence that says why nobody is in yet."""
    providers = [(name, client.title) for name, client in visit.state.providers.items()]
    return visit.page("sign_in.html.j2", status=status, after=after, problem=problem, providers=providers)


def _refusal(visit: Visit, after: str, error: SignInError, provider: str) -> Response:
    client = visit.state.providers.get(provider)
    facts = {"request_id": getattr(visit.request.state, "request_id", ""), "problem": error.problem.value}
    logger.warning("sign-in through %s: %s", client.issuer if client else "a provider", error, extra=facts)
    return _page(visit, after, f"sign_in.{error.problem.value}", STATUS_OF_PROBLEM[error.problem])


def _sessions(identities: list[tuple[LiveShop, StaffIdentity]]) -> list[tuple[LiveShop, str]]:
    """Shops that somebody may look at, with the session of each. Raises `SignInError` where there is none.

    One shop's trouble is no other's: one whose key cannot be read is left out, and raises `StoreError` if it is alone.
    """
    members = [(shop, staff_member(identity, shop.workspace.settings.oidc)) for shop, identity in identities]
    admitted = [(shop, member) for shop, member in members if member is not None]
    if not admitted:
        raise SignInError(SignInProblem.NOT_ALLOWED, "no allowed domain with a verified address, subject or group fits")
    looking = [(shop, member) for shop, member in admitted if member.allows(Scope.CONSOLE)]
    if not looking:
        raise SignInError(SignInProblem.NO_SCOPE, "neither oidc.base_scopes nor a group gives the scope console")
    sessions: list[tuple[LiveShop, str]] = []
    problem: StoreError | None = None
    for shop, member in looking:
        try:
            end = int(time.time()) + _session_seconds(shop)
            sessions.append((shop, make_staff_session(shop.workspace, member.identity, end)))
        except StoreError as error:
            problem = error
            logger.warning("no session can be signed: %s", error, extra={"shop": shop.name})
    if problem is not None and not sessions:
        raise problem
    if any(len(session) > MAX_SESSION for _, session in sessions):
        raise SignInError(SignInProblem.NOT_SET_UP, "too many groups of the settings for one cookie")
    return sessions


def _claims_in_use(shop: LiveShop) -> set[str]:
    settings = shop.workspace.settings.oidc
    uses_email = bool(settings.allowed_domains) or settings.history_name == "email"
    return ({"email"} if uses_email else set()) | ({settings.groups_claim} if groups_in_use(settings) else set())


def _session_seconds(shop: LiveShop) -> int:
    return round(shop.workspace.settings.console.session_hours * 3_600)


def _address(visit: Visit) -> str:
    return visit.request.client.host if visit.request.client else ""
