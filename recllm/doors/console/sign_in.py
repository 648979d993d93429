"""Sign-in and sign-out: with a typed key, or through the company's directory.

A browser comes back from a provider with no cookie of the console but one, since the others are not sent on a way that
another site began. So the page of a success loads the next one itself, and only then they are sent.

A sign-in begins a new session and ends the one before. The session of a person is confirmed from time to time: a page
leads by way of the provider, so that people who were removed there are out.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from http import HTTPStatus
from urllib.parse import quote, unquote

import anyio.to_thread
from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException

from recllm.base.errors import StoreError
from recllm.base.service_settings import OIDC_RETURN_PATH
from recllm.doors.console.memory import PENDING_SECONDS, PendingSignIn
from recllm.doors.console.pages import TheForm, TheVisit, Visit, from_here, local_path
from recllm.doors.console.session import (
    PENDING_COOKIE,
    SHOP_COOKIE,
    YEAR,
    drop_cookie,
    has_to_be_confirmed,
    is_session_of,
    session_cookie,
    set_cookie,
    sign_in,
)
from recllm.doors.service.live import LiveShop
from recllm.doors.service.oidc import (
    SignInError,
    SignInProblem,
    StaffIdentity,
    StaffMember,
    groups_in_use,
    provider_id,
    staff_identity,
    staff_member,
)
from recllm.doors.service.refusals import OverloadError
from recllm.shop.workspace.audit import AuditAction, audit
from recllm.shop.workspace.console_sessions import ConsoleSession, begin_session, end_session, find_session
from recllm.shop.workspace.keys import ApiKey, Scope
from recllm.shop.workspace.workspace import Workspace

logger = logging.getLogger(__name__)
router = APIRouter()

FAILURES_A_MINUTE = 60
"""That are logged."""
CLEAR_SITE_DATA = '"cache", "storage"'
"""Data that a browser removes at sign-out. "cookies" would be those of the whole domain, with other programs of the
company: the console's own are removed by name."""
STATUS_OF_PROBLEM: Mapping[SignInProblem, HTTPStatus] = {
    SignInProblem.UNREACHABLE: HTTPStatus.BAD_GATEWAY,
    SignInProblem.NOT_SET_UP: HTTPStatus.BAD_GATEWAY,
    SignInProblem.DECLINED: HTTPStatus.UNAUTHORIZED,
    SignInProblem.STALE: HTTPStatus.BAD_REQUEST,
    SignInProblem.NOT_GENUINE: HTTPStatus.UNAUTHORIZED,
    SignInProblem.NOT_ALLOWED: HTTPStatus.FORBIDDEN,
    SignInProblem.NO_SCOPE: HTTPStatus.FORBIDDEN,
}
REFUSALS = (SignInProblem.DECLINED, SignInProblem.NOT_ALLOWED, SignInProblem.NO_SCOPE)
"""After which the sessions are over that the person had in this browser."""


@router.get("/sign-in")
async def sign_in_page(visit: TheVisit, after: str = "/") -> Response:
    """The page to type a key or choose a provider; signed-in visitors may add the key of another shop."""
    if visit.signed_in is not None and visit.signed_in.visitor is None:  # this machine: there is nothing to sign in to
        return RedirectResponse(local_path(after), 303)
    return _page(visit, local_path(after))


@router.post("/sign-in")
async def sign_in_with_key(visit: TheVisit, form: TheForm) -> Response:
    after = local_path(form.text("after"))
    try:
        visit.state.sign_ins.count(_address(visit))
    except OverloadError:
        return _too_many(visit, after, "a key")
    text = form.text("key").strip()
    entry = await anyio.to_thread.run_sync(sign_in, visit.state.service, text)
    if entry is None:
        _log_failure(visit, "a key", "it is not the key of any shop here, or was revoked")
        return _page(visit, after, "sign_in.wrong", 401)
    shop, key = entry
    if not key.allows(Scope.CONSOLE):
        _log_failure(visit, "a key", "it lacks the scope console", key=key.key_id)
        return _page(visit, after, "sign_in.no_scope", 403)
    session, token = await anyio.to_thread.run_sync(_exchange_session, visit, shop, key)
    _log_success(visit, "a key", shop, session)
    answer = RedirectResponse(after, 303)
    _keep_session(answer, visit, shop, token)
    set_cookie(answer, visit.request, SHOP_COOKIE, quote(shop.name), max_age=YEAR)
    return answer


@router.get(OIDC_RETURN_PATH)
async def sign_in_returned(visit: TheVisit) -> Response:
    """The way back from a provider: who it was, and which shops let them in."""
    request = visit.request
    if not request.query_params:  # a page of a failure was loaded again, in another language perhaps
        return RedirectResponse("/sign-in", 303)
    query = {name: value[:4_096] for name, value in request.query_params.items()}
    provider, after, pending = "", "/", None
    try:
        try:
            pending = pending_sign_in(visit, query.get("state", ""))
        except SignInError:
            visit.state.sign_ins.count(_address(visit))  # one that was begun was counted at its begin
            raise
        visit = replace(visit, words=replace(visit.words, language=pending.language))
        after, provider = pending.after, pending.provider
        shops = [s for s in visit.state.service.shops.values() if provider_id(s.workspace.settings.oidc) == provider]
        claim_names = sorted({name for shop in shops for name in _claims_in_use(shop)})
        claims = await visit.state.providers[provider].finish(pending.request, query, claim_names)
        identities = [(shop, staff_identity(claims, shop.workspace.settings.oidc)) for shop in shops]
        is_theirs = (is_session_of(session, identities[0][1]) for session in pending.sessions.values())
        if pending.is_confirmation and not any(is_theirs):
            raise SignInError(SignInProblem.DECLINED, "another person is signed in there than here")
        sessions = await anyio.to_thread.run_sync(_sessions, identities, pending)
    except OverloadError:
        answer = _too_many(visit, after, "a provider")
    except SignInError as error:
        if pending is not None and error.problem in REFUSALS:
            await anyio.to_thread.run_sync(_end_sessions_of_staff, visit, pending)
        answer = _refusal(visit, after, error, provider)
    else:
        names = {shop.name for shop, _, _ in sessions}
        answer = visit.page("signed_in.html.j2", after=after)
        for shop, session, token in sessions:
            way = visit.state.providers[provider].issuer
            _log_success(visit, way, shop, session)
            _keep_session(answer, visit, shop, token)
        shop_name = pending.shop if pending.shop in names else sessions[0][0].name
        set_cookie(answer, request, SHOP_COOKIE, quote(shop_name), max_age=YEAR)
    drop_cookie(answer, request, PENDING_COOKIE)
    return answer


def pending_sign_in(visit: Visit, state: str) -> PendingSignIn:
    """The sign-in of a state, once. Raises `SignInError` for one that is unknown, over or another browser's."""
    pending = visit.state.pending.take(state)
    if pending is None:
        raise SignInError(SignInProblem.STALE, "its state is unknown: it was finished before, or took too long")
    browser = visit.cookies.get(PENDING_COOKIE, "")
    if not secrets.compare_digest(browser.encode(errors="replace"), pending.browser.encode()):
        cause = "the browser's cookie is missing: was it begun under another host than oidc.redirect_uri names?"
        raise SignInError(SignInProblem.STALE, cause)
    return pending


@router.get(OIDC_RETURN_PATH + "/{provider}")
async def go_to_provider(visit: TheVisit, provider: str, after: str = "/") -> Response:
    """To a provider. A link and no form: the content policy lets no form lead, or be led, elsewhere."""
    after = local_path(after)
    if provider not in visit.state.providers:
        raise HTTPException(404)
    if not from_here(visit.request):  # another site cannot send visitors away
        return RedirectResponse(f"/sign-in?after={quote(after)}", 303)
    try:
        return await _begin_at_provider(visit, provider, after)
    except OverloadError:
        return _too_many(visit, after, "a provider")
    except SignInError as error:
        return _refusal(visit, after, error, provider)


async def go_to_be_confirmed(visit: Visit) -> Response | None:
    """To the provider and back, where a confirmation is due; None where it is not, or can wait."""
    request, session = visit.request, visit.session
    if session is None or request.method != "GET" or visit.is_part or visit.wants_file:
        return None
    provider = provider_id(visit.workspace.settings.oidc)
    if provider not in visit.state.providers or not has_to_be_confirmed(visit.workspace, session):
        return None
    if visit.state.confirmations.get(session.session_id):
        return None
    visit.state.confirmations.put(True, session.session_id)
    after = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    try:
        return await _begin_at_provider(visit, provider, local_path(after), is_confirmation=True)
    except OverloadError:
        return None
    except SignInError as error:
        _log_failure(visit, visit.state.providers[provider].issuer, str(error), problem=error.problem.value)
        return None


async def _begin_at_provider(visit: Visit, provider: str, after: str, *, is_confirmation: bool = False) -> Response:
    """Raises `OverloadError` and `SignInError`."""
    visit.state.sign_ins.count(_address(visit))
    sessions = visit.signed_in.sessions if visit.signed_in else {}
    persons = [session.person for session in sessions.values() if session.person is not None]
    client = visit.state.providers[provider]
    # a signed-in visitor who comes by the button wants to prove who they are
    asks_again = not is_confirmation and any(person.get("issuer") == client.issuer for person in persons)
    address, begun = await client.begin(visit.words.tag, asks_again=asks_again)
    sign_in_begun = PendingSignIn(
        request=begun,
        provider=provider,
        browser=secrets.token_urlsafe(32),
        after=after,
        language=visit.language,
        shop=unquote(visit.cookies.get(SHOP_COOKIE, "")),
        sessions=sessions,
        is_confirmation=is_confirmation,
    )
    visit.state.pending.put(sign_in_begun, begun.state)
    answer = RedirectResponse(address, 303)
    # a strict cookie would not come back from another site
    browser = sign_in_begun.browser
    set_cookie(answer, visit.request, PENDING_COOKIE, browser, max_age=PENDING_SECONDS, samesite="lax")
    return answer


@router.post("/sign-out")
async def sign_out(visit: TheVisit) -> Response:
    """End the session of the shop that is looked at; of a person those of all shops."""
    answer, names = RedirectResponse("/sign-in", 303), {visit.shop.name}
    if visit.signed_in is not None and isinstance(visit.signed_in.visitor, StaffMember):
        names |= {name for name, session in visit.signed_in.sessions.items() if session.person is not None}
    shops = [visit.state.service.shops[name] for name in names]
    for shop in shops:
        await anyio.to_thread.run_sync(_end_session_before, visit, shop)
        drop_cookie(answer, visit.request, session_cookie(shop.name))
    visit.state.typed.forget(visit.browser)
    answer.headers["Clear-Site-Data"] = CLEAR_SITE_DATA
    return answer


def _page(visit: Visit, after: str, problem: str | None = None, status: int = 200) -> Response:
    """problem: path of a sentence with the reason."""
    providers = [(name, client.title) for name, client in visit.state.providers.items()]
    return visit.page("sign_in.html.j2", status=status, after=after, problem=problem, providers=providers)


def _too_many(visit: Visit, after: str, way: str) -> Response:
    _log_failure(visit, way, "more tries than console.sign_ins_per_minute")
    return _page(visit, after, "sign_in.too_many", 429)


def _refusal(visit: Visit, after: str, error: SignInError, provider: str) -> Response:
    client = visit.state.providers.get(provider)
    _log_failure(visit, client.issuer if client else "a provider", str(error), problem=error.problem.value)
    return _page(visit, after, f"sign_in.{error.problem.value}", STATUS_OF_PROBLEM[error.problem])


def _log_failure(visit: Visit, way: str, cause: str, **facts: str) -> None:
    """cause: without secrets and personal data."""
    try:
        visit.state.sign_in_failures.count("")
    except OverloadError:
        return
    extra = {"outcome": "failed", "request_id": visit.request_id, "address": _address(visit), **facts}
    logger.warning("sign-in through %s: %s", way, cause, extra=extra)


def _log_success(visit: Visit, way: str, shop: LiveShop, session: ConsoleSession) -> None:
    """The audit log names the person. way: "a key", or a provider."""
    facts = {"shop": shop.name, "session": session.session_id[:8], "request_id": visit.request_id}
    logger.info("sign-in through %s: succeeded", way, extra={"outcome": "succeeded", **facts})


def _exchange_session(visit: Visit, shop: LiveShop, key: ApiKey) -> tuple[ConsoleSession, str]:
    session, token = begin_session(shop.workspace, key_id=key.key_id)
    _end_session_before(visit, shop)
    _audit(shop.workspace, f"key:{key.key_id}", session, "key")
    return session, token


def _end_session_before(visit: Visit, shop: LiveShop) -> None:
    before = find_session(shop.workspace, visit.cookies.get(session_cookie(shop.name), ""), is_used=False)
    if before is not None:
        end_session(shop.workspace, before.session_id)


def _end_sessions_of_staff(visit: Visit, pending: PendingSignIn) -> None:
    for name, session in pending.sessions.items():
        workspace = visit.state.service.shops[name].workspace
        if session.person is not None and provider_id(workspace.settings.oidc) == pending.provider:
            end_session(workspace, session.session_id)


def _keep_session(answer: Response, visit: Visit, shop: LiveShop, token: str) -> None:
    seconds = round(shop.workspace.settings.console.session_hours * 3_600)
    set_cookie(answer, visit.request, session_cookie(shop.name), token, max_age=seconds)


def _sessions(
    identities: Sequence[tuple[LiveShop, StaffIdentity]], pending: PendingSignIn
) -> list[tuple[LiveShop, ConsoleSession, str]]:
    """Shops that the person may look at, with the new session of each and its token; those of before are over. Raises
    `SignInError` where there is none.

    One shop's trouble is no other's: one whose key cannot be read is left out, and raises `StoreError` if it is alone.
    """
    members = [(shop, staff_member(identity, shop.workspace.settings.oidc)) for shop, identity in identities]
    admitted = [(shop, member) for shop, member in members if member is not None]
    if not admitted:
        raise SignInError(SignInProblem.NOT_ALLOWED, "no allowed domain with a verified address, subject or group fits")
    looking = {shop.name: member for shop, member in admitted if member.allows(Scope.CONSOLE)}
    if not looking:
        raise SignInError(SignInProblem.NO_SCOPE, "neither oidc.base_scopes nor a group gives the scope console")
    sessions: list[tuple[LiveShop, ConsoleSession, str]] = []
    problem: StoreError | None = None
    for shop, _ in identities:
        before = pending.sessions.get(shop.name)
        try:
            if shop.name in looking:
                member = looking[shop.name]
                # the session until now goes on if it is the same person's
                goes_on = pending.is_confirmation and before is not None and is_session_of(before, member.identity)
                person, confirmed = asdict(member.identity), before if goes_on else None
                session, token = begin_session(shop.workspace, person=person, confirmed=confirmed)
                sessions.append((shop, session, token))
                if not session.is_confirmed:  # an address may change its owner; a subject never does
                    actor, subject = f"console:{member.name}", member.identity.subject
                    _audit(shop.workspace, actor, session, "directory", issuer=member.identity.issuer, person=subject)
            if before is not None and (shop.name in looking or before.person is not None):
                end_session(shop.workspace, before.session_id)
        except StoreError as error:
            problem = error
            logger.warning("no session can be kept: %s", error, extra={"shop": shop.name})
    if problem is not None and not sessions:
        raise problem
    return sessions


def _audit(workspace: Workspace, actor: str, session: ConsoleSession, way: str, **facts: str) -> None:
    """A load that holds the store for longer does not prevent a sign-in: the log has it in any case."""
    try:
        audit(workspace, actor, AuditAction.SIGNED_IN, way=way, session=session.session_id[:8], **facts)
    except StoreError as error:
        logger.warning("a sign-in is missing in the audit log: %s", error)


def _claims_in_use(shop: LiveShop) -> set[str]:
    settings = shop.workspace.settings.oidc
    uses_email = bool(settings.allowed_domains) or settings.history_name == "email"
    return ({"email"} if uses_email else set()) | ({settings.groups_claim} if groups_in_use(settings) else set())


def _address(visit: Visit) -> str:
    return visit.request.client.host if visit.request.client else ""
