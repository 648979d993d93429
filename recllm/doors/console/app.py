"""The console's app: the pages' routers in one frame, sign-in before them, and the headers of every answer.

app = create_app(shops, settings)
mount_console(app)                  # the pages at "/"; the operations are under "/v1"
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from functools import partial
from urllib.parse import quote

import anyio.to_thread
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope

from recllm.base.errors import RecllmError
from recllm.base.words.sentences import LANGUAGES, language_of
from recllm.base.words.words import Words
from recllm.doors.console import (
    campaign_review,
    campaigns,
    data,
    home,
    items,
    models,
    people,
    privacy,
    results,
    settings,
    sign_in,
)
from recllm.doors.console.data import MOST_LOADS, sweep_uploads
from recllm.doors.console.memory import (
    CONFIRM_SECONDS,
    MAX_PENDING,
    MAX_TYPED,
    PENDING_SECONDS,
    TYPED_SECONDS,
    FigureCache,
    RecentEntries,
)
from recllm.doors.console.pages import (
    SAFE_METHODS,
    ConsoleSection,
    ConsoleState,
    TheForm,
    TheVisit,
    Visit,
    from_here,
    local_path,
)
from recllm.doors.console.session import (
    LANGUAGE_COOKIE,
    SHOP_COOKIE,
    YEAR,
    SignedIn,
    identify_browser,
    read_cookies,
    set_cookie,
)
from recllm.doors.console.sign_in import FAILURES_A_MINUTE, go_to_be_confirmed
from recllm.doors.service.callers import RateLimit, Service
from recllm.doors.service.jobs import Background
from recllm.doors.service.oidc import connect_provider, provider_id
from recllm.doors.service.refusals import DISK_REFUSALS, STATUS, UNKNOWN, OverloadError
from recllm.shop.workspace.console_sessions import end_outdated_sessions
from recllm.shop.workspace.keys import ApiKey, Scope

logger = logging.getLogger(__name__)

SECTIONS: tuple[ConsoleSection, ...] = tuple(
    pages.SECTION for pages in (home, campaigns, results, people, items, data, privacy, models, settings)
)
"""All pages, in the order of the navigation."""

OPEN_PATHS = ("/sign-in", "/language/", "/static/")
"""Paths that need no sign-in."""
WAITING_HEADER = "x-waiting"
"""Of a request that a page sends by itself while it waits, which is no use of a session."""
OPERATION_NAMES = frozenset({"v1", "webhooks", "livez", "readyz", "metrics", "openapi.json"})
"""First names of the service's paths, which are no pages."""
MAX_UPLOAD_BYTES = 2 << 30  # `recllm ingest` takes larger files
FILE_SECONDS = 3_600
"""How long a browser keeps a style or script."""

HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


def content_policy(nonce: str) -> str:
    """Only the console's own files load and run; of htmx only elements with the nonce act."""
    return (
        f"default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'self'; img-src 'self' data:; "
        "form-action 'self'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
        "require-trusted-types-for 'script'; trusted-types htmx"
    )


class ConsoleMiddleware:
    """Around every request of the console: who visits is settled before a byte of the body is read."""

    def __init__(self, app: ASGIApp, state: ConsoleState) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request, nonce, started = Request(scope, receive), secrets.token_urlsafe(16), False
        cookies, path = read_cookies(request), _path(scope)
        is_open = path.startswith(OPEN_PATHS)

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers["Content-Security-Policy"] = content_policy(nonce)
                is_file = path.startswith("/static/")
                headers["Cache-Control"] = f"public, max-age={FILE_SECONDS}" if is_file else "no-store"
            await send(message)

        problem, signed_in = None, None
        is_used = WAITING_HEADER not in request.headers and not is_open
        identify = partial(identify_browser, self._state.service, cookies, is_used=is_used)
        try:
            signed_in = await anyio.to_thread.run_sync(identify)
        except RecllmError as error:
            problem = error
        shop = signed_in.shop if signed_in else next(iter(self._state.service.shops.values()))
        settings, name = shop.workspace.settings, cookies.get(LANGUAGE_COOKIE, "")
        name = name if name in LANGUAGES else language_of(settings.locale)
        words = Words(name, settings.currency, settings.timezone)
        visit = Visit(request, self._state, cookies, signed_in, words, nonce)
        scope.setdefault("state", {}).update(visit=visit, actor=_actor(signed_in))
        answer = error_page(visit, problem) if problem is not None and not is_open else self._refusal(visit)
        if answer is None and not is_open:
            answer = await go_to_be_confirmed(visit)
        try:
            await (answer or self._app)(scope, receive, send_with_headers)
        except ClientDisconnect:  # in the middle of a form: no one reads the answer
            if not started:
                await error_page(visit, HTTPException(400))(scope, receive, send_with_headers)
        except Exception as error:
            logger.error("a page failed", exc_info=error, extra={"request_id": visit.request_id})
            if started:
                raise
            await error_page(visit, error)(scope, receive, send_with_headers)

    def _refusal(self, visit: Visit) -> Response | None:
        """An answer to requests of other sites, and to visitors who have to sign in first."""
        request = visit.request
        path = _path(request.scope)
        if not from_here(request) and request.method not in SAFE_METHODS:
            return error_page(visit, HTTPException(403, visit.say("error.form")))
        if visit.signed_in is None and not path.startswith(OPEN_PATHS):
            after = quote(path) if request.method in SAFE_METHODS else "/"
            return RedirectResponse(f"/sign-in?after={after}", 303)
        return None


class ConsoleMount(Mount):
    """The console at "/" for every path but the service's, where a wrong path or verb gets a JSON error."""

    def matches(self, scope: AsgiScope) -> tuple[Match, AsgiScope]:
        if scope["type"] == "http" and _path(scope).lstrip("/").partition("/")[0] in OPERATION_NAMES:
            return Match.NONE, {}
        return super().matches(scope)


def mount_console(app: FastAPI) -> None:
    """Put the console at "/" of a service: `recllm.doors.service.app.create_app`.

    Raises `UsageError` for settings of sign-in that are not complete, `MissingExtraError` without an extra they need.
    """
    service: Service = app.state.service
    limits = next(iter(service.shops.values())).workspace.settings.console
    sending = Background(MOST_LOADS)
    sending.start()
    directories = [shop.workspace.settings.oidc for shop in service.shops.values()]
    state = ConsoleState(
        service,
        SECTIONS,
        RateLimit(limits.sign_ins_per_minute),
        RateLimit(FAILURES_A_MINUTE),
        {provider_id(settings): connect_provider(settings) for settings in directories if settings.issuer},
        RecentEntries(CONFIRM_SECONDS, MAX_PENDING),
        RecentEntries(PENDING_SECONDS, MAX_PENDING),
        Background(MOST_LOADS),
        sending,
        FigureCache(),
        RecentEntries(TYPED_SECONDS, MAX_TYPED),
    )
    state.loads.start()
    service.body_limits.update({data.UPLOAD_PATH: MAX_UPLOAD_BYTES, campaign_review.SEND_PATH: MAX_UPLOAD_BYTES})
    for shop in service.shops.values():
        sweep_uploads(shop.workspace)
        end_outdated_sessions(shop.workspace)
    console = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    console.mount("/static", StaticFiles(packages=[("recllm.doors.console", "static")]), name="static")
    console.include_router(sign_in.router)
    console.include_router(frame_router)
    console.include_router(items.search_router)
    for section in SECTIONS:
        console.include_router(section.router)
    console.add_middleware(ConsoleMiddleware, state=state)
    for kind in (RecllmError, HTTPException, RequestValidationError):
        console.add_exception_handler(kind, _refused)
    app.router.routes.append(ConsoleMount("/", console, name="console"))


def _actor(signed_in: SignedIn | None) -> str:
    """Who it is, for the log of refusals, which names no person."""
    if signed_in is None:
        return UNKNOWN
    if isinstance(signed_in.visitor, ApiKey):
        return f"key:{signed_in.visitor.key_id}"
    return "console:this machine" if signed_in.session is None else f"session:{signed_in.session.session_id[:8]}"


async def _refused(request: Request, error: Exception) -> Response:
    return error_page(request.state.visit, error)


def error_page(visit: Visit, error: Exception) -> Response:
    """The problem in words with its remedy; details for administrators."""
    details, title, status = "", "error.failed", 500
    if isinstance(error, OverloadError):
        title, status = "error.busy", error.status
    elif isinstance(error, HTTPException):
        status = error.status_code
        title = {404: "error.missing", 403: "error.refused", 413: "error.too_large"}.get(status, "error.failed")
        details = str(error.detail) if status == 403 else ""
    elif isinstance(error, RequestValidationError):
        title, status = "error.missing", 404
    elif isinstance(error, RecllmError):
        status = next(int(status) for kind, status in STATUS if isinstance(error, kind))
        is_opening = visit.signed_in is not None and not visit.shop.ready and visit.shop.problem is None
        title = "error.opening" if is_opening else "error.missing" if status == 404 else "error.failed"
        if not is_opening and (status < 500 or visit.may(Scope.ADMIN)):  # it may name files of this machine
            details = visit.problem_text(error)
        if status >= 500:
            logger.warning("refused: %s", error, extra={"request_id": visit.request_id})
    elif isinstance(error, OSError) and error.errno in DISK_REFUSALS:
        status = 503
    request_id = visit.request_id
    return visit.page("error.html.j2", status=status, title=title, details=details, request_id=request_id)


def _path(scope: AsgiScope) -> str:
    """The path below the one under which the app is reached."""
    return str(scope["path"]).removeprefix(scope.get("root_path", "")) or "/"


frame_router = APIRouter()


@frame_router.post("/shop")
async def other_shop(visit: TheVisit, form: TheForm) -> Response:
    name, answer = form.text("shop"), RedirectResponse("/", 303)
    if visit.signed_in is None or name not in visit.signed_in.shops:
        raise HTTPException(404)
    set_cookie(answer, visit.request, SHOP_COOKIE, quote(name), max_age=YEAR)
    return answer


@frame_router.get("/language/{name}")
async def choose_language(visit: TheVisit, name: str, after: str = "/") -> Response:
    """Go on in another language, which the browser keeps."""
    if name not in LANGUAGES:
        raise HTTPException(404)
    answer = RedirectResponse(local_path(after), 303)
    set_cookie(answer, visit.request, LANGUAGE_COOKIE, name, max_age=YEAR)
    return answer
