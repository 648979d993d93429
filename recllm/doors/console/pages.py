"""What every page has: who visits, the words, the frame around it, and the history of what was done."""

from __future__ import annotations

import inspect
import json
import logging
import os
import re
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, partial, wraps
from inspect import iscoroutinefunction
from types import MappingProxyType
from typing import Annotated, Any
from urllib.parse import quote, urlencode, urlsplit

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

import recllm
from recllm.base.errors import (
    DataError,
    NothingToDo,
    PolicyError,
    RecllmError,
    StoreError,
    UnknownIdError,
    UsageError,
)
from recllm.base.files import PRIVATE, lock_file
from recllm.base.words.sentences import LANGUAGES
from recllm.base.words.words import Words
from recllm.doors.console.memory import FigureCache, PendingSignIn, RecentEntries
from recllm.doors.console.session import SignedIn
from recllm.doors.console.tables import (
    ConsoleTable,
    TableColumn,
    TableRow,
    cell_remark,
    cell_text,
    csv_lines,
    declared_tables,
    tables_of,
)
from recllm.doors.service.callers import RateLimit, Service
from recllm.doors.service.jobs import Background
from recllm.doors.service.live import LiveShop
from recllm.doors.service.oidc import OidcClient
from recllm.shop.data.dataset import utc
from recllm.shop.workspace.audit import AuditAction, audit
from recllm.shop.workspace.console_sessions import ConsoleSession
from recllm.shop.workspace.figures import FigureGate
from recllm.shop.workspace.keys import ApiKey, Scope
from recllm.shop.workspace.workspace import REPLAY_DAYS, Workspace, present

logger = logging.getLogger(__name__)
PSEUDONYM = re.compile(r"u1_[A-Z2-7]{26}")
SAFE_METHODS = ("GET", "HEAD")
FILE_FIELD = "csv"
"""Of an address: the name of the table of the page that is asked for as a file."""
PICTURE_FOLDER = "images"
"""Folder of a workspace with pictures of products."""
SHAPES = 6
"""Drawings of `icons.html.j2` that stand in for pictures of products, one by category."""
HISTORY_FILE = "console.jsonl"
"""Of a workspace: each action in the console, with its actor and time; without ids of people."""

AUDITED: Mapping[str, AuditAction] = {
    "consent": AuditAction.CONSENT_CHANGED,
    "download": AuditAction.FILE_DOWNLOADED,
    "end_session": AuditAction.SESSION_ENDED,
    "erase": AuditAction.ERASED,
    "export": AuditAction.PERSON_EXPORTED,
    "export_campaign": AuditAction.CAMPAIGN_EXPORTED,
    "feedback": AuditAction.FEEDBACK_RECORDED,
    "load": AuditAction.LOADED,
    "make_key": AuditAction.KEY_MADE,
    "promote": AuditAction.MODEL_PROMOTED,
    "restrict": AuditAction.RESTRICTED,
    "lift_restriction": AuditAction.RESTRICTION_LIFTED,
    "send_campaign": AuditAction.CAMPAIGN_SENT,
    "revoke_key": AuditAction.KEY_REVOKED,
    "stop_experiment": AuditAction.EXPERIMENT_STOPPED,
}
"""Actions in the history of the console -> actions in the audit log."""


class WordedError(UsageError):
    """A refusal whose message is in the visitor's language; the others of `recllm.base.errors` are in English."""


REFUSALS = (UsageError, DataError, PolicyError, NothingToDo)
"""Why a form is refused; its page comes back with what was typed."""


@dataclass(frozen=True, slots=True)
class ConsoleSection:
    """One entry of the navigation, with the pages under it."""

    name: str
    """Its words are at `nav.<name>`."""
    path: str
    router: APIRouter
    is_main: bool = False
    """Whether a phone shows it in its bar."""


@dataclass(frozen=True, slots=True, eq=False)
class ConsoleState:
    """What all visits of one console share."""

    service: Service
    sections: tuple[ConsoleSection, ...]
    sign_ins: RateLimit
    sign_in_failures: RateLimit
    """Of those that are logged, so that attempts without a key cannot fill a disk; the metrics count all."""
    providers: Mapping[str, OidcClient]
    """By `provider_id`; empty where people sign in with keys alone."""
    confirmations: RecentEntries[bool]
    """Sessions of which a provider was asked lately whether it still lets the person in."""
    pending: RecentEntries[PendingSignIn]
    """Sign-ins that have begun, by their state: each is finished once, in time, by its own browser."""
    loads: Background
    """A job's result is its `FileLoad`, from the beginning on."""
    sending: Background
    """Campaigns that are being sent, which may take hours; about the id of the campaign."""
    figures: FigureCache
    typed: RecentEntries[str]
    """Texts that the next pages show again, by session and subject."""


@dataclass(frozen=True, slots=True, eq=False)
class Visit:
    """One request: who asks, of which shop, in which language."""

    request: Request
    state: ConsoleState
    cookies: Mapping[str, str]
    """Of the console, by `recllm.doors.console.session.read_cookies`."""
    signed_in: SignedIn | None
    words: Words
    nonce: str
    """What scripts and htmx attributes of this answer carry, so that nothing that slipped into a page runs."""

    @property
    def shop(self) -> LiveShop:
        """Raises `HTTPException` without sign-in, to which the middleware leads before."""
        if self.signed_in is None:
            raise HTTPException(401)
        return self.signed_in.shop

    @property
    def workspace(self) -> Workspace:
        return self.shop.workspace

    @property
    def language(self) -> str:
        return self.words.language

    @property
    def now(self) -> datetime:
        """The shop's present, UTC."""
        return utc(present(self.workspace))

    @property
    def idle_seconds(self) -> float:
        """After so long without a request the session is over."""
        return self.workspace.settings.console.idle_minutes * 60

    @property
    def request_id(self) -> str:
        """By which the log names this request."""
        return getattr(self.request.state, "request_id", "")

    @property
    def session(self) -> ConsoleSession | None:
        """This browser's, at the shop that is looked at."""
        return self.signed_in.session if self.signed_in else None

    @property
    def browser(self) -> str:
        """Id of the session that typed texts are kept for; one for all browsers where the console is open."""
        return self.session.session_id if self.session else ""

    @property
    def has_pictures(self) -> bool:
        return (self.workspace.root / PICTURE_FOLDER).is_dir()

    @property
    def is_part(self) -> bool:
        """Whether htmx asks for a part of a page."""
        return "hx-request" in self.request.headers

    def say(self, path: str, /, **values: object) -> str:
        return self.words.say(path, **values)

    def problem_text(self, error: RecllmError) -> str:
        """The kind of the problem in the visitor's language, and the message, in English unless it is worded."""
        if isinstance(error, WordedError):
            return str(error)
        kinds = (kind.__name__ for kind in type(error).__mro__)
        words = next(self.say(path) for kind in kinds if self.words.has(path := f"problem.{kind}"))
        return self.say("problem.line", kind=words, message=str(error))

    def may(self, scope: str) -> bool:
        return self.signed_in is not None and self.signed_in.may(Scope(scope))

    def require(self, *scopes: Scope) -> None:
        """Raises `HTTPException` where the caller's key lacks a scope."""
        for scope in scopes:
            if not self.may(scope):
                raise HTTPException(403, self.say("error.scope", scope=scope.value))

    def require_person(self, name: str) -> None:
        """Raises `UnknownIdError` for a name that is no pseudonym of a person of this shop."""
        if not PSEUDONYM.fullmatch(name) or not self.workspace.gate().knows_each([name])[0]:
            raise UnknownIdError("this address belongs to no customer of this shop")

    def page(self, template: str, *, status: int = 200, section: str = "", **values: Any) -> Response:
        """A page from a template, or a table of it as a file. section: its entry of the navigation."""
        if not self.wants_file or status != 200:
            return HTMLResponse(self.render(template, section=section, **values), status)
        table = next((table for table in tables_of(values) if table.name == self._file_name), None)
        if table is None:
            raise HTTPException(404)
        if any(column.scope is not None and self.may(column.scope) for column in table.columns):
            self.remember("download", file=table.name)  # ids of people leave
        headers = {"Content-Disposition": f'attachment; filename="{table.name}.csv"'}
        lines = csv_lines(table, self.may)
        return StreamingResponse(lines, media_type="text/csv; charset=utf-8", headers=headers)

    def render(self, template: str, **values: Any) -> str:
        words, notice = self.words, f"notice.{self.request.query_params.get('notice', '')}"
        page = environment().get_template(template)
        return page.render(
            visit=self,
            say=words.say,
            number=words.number,
            percent=words.percent,
            money=words.money,
            moment=words.moment,
            day=words.day,
            cell_text=cell_text,
            cell_remark=cell_remark,
            languages=LANGUAGES,
            version=recllm.__version__,
            # by its key, so that a link can make the console say nothing of its own
            notice=notice if words.has(notice) else None,
            **values,
        )

    @property
    def _file_name(self) -> str:
        return self.request.query_params.get(FILE_FIELD, "")

    @property
    def wants_file(self) -> bool:
        """Whether a table is asked for, and no page."""
        return self.request.method == "GET" and bool(self._file_name)

    def file_address(self, table: ConsoleTable) -> str:
        """Where a table of this page is answered as a file; "" where the page answers a form and has no address."""
        if self.request.method != "GET":
            return ""
        left_out = ("page", "notice", FILE_FIELD)
        fields = [(name, text) for name, text in self.request.query_params.multi_items() if name not in left_out]
        return f"{quote(self.request.url.path)}?{urlencode([*fields, (FILE_FIELD, table.name)])}"

    def back(self, path: str, notice: str = "") -> Response:
        """To a page after something was done; notice: a key under `notice`."""
        joint = "&" if "?" in path else "?"
        return RedirectResponse(f"{path}{joint}notice={notice}" if notice else path, 303)

    def table(
        self,
        name: str,
        rows: Sequence[TableRow],
        *,
        of: str = "",
        title: str = "",
        headings: Mapping[str, str] = MappingProxyType({}),
        fields: Sequence[str] = (),
        without: Collection[str] = (),
        all_rows: Callable[[], Iterable[TableRow]] | None = None,
    ) -> ConsoleTable:
        """A table of a page. of: its table in `tables.toml`, where `name` is another one. headings: name of a column ->
        heading in place of the declared one. fields: text columns behind the declared ones. without: columns that are
        left out."""
        title_path, declared = declared_tables()[of or name]
        columns = tuple(
            replace(column, label=headings.get(column.name) or (self.say(column.label) if column.label else ""))
            for column in declared
            if column.name not in without
        )
        columns += tuple(TableColumn(name=field, label=field or "–") for field in fields)
        title = title or self.say(title_path)
        return ConsoleTable(name=name, title=title, columns=columns, rows=rows, all_rows=all_rows)

    @property
    def actor(self) -> str:
        """Who acts, for the audit log."""
        visitor = None if self.signed_in is None else self.signed_in.visitor
        if isinstance(visitor, ApiKey):
            return f"key:{visitor.key_id}"
        return f"console:{'this machine' if visitor is None else visitor.name}"

    @property
    def figures(self) -> FigureGate:
        """What the visitor may learn of groups of customers."""
        sees_people = self.may(Scope.PRIVACY) or self.may(Scope.PEOPLE)
        return FigureGate(self.workspace, None if sees_people else self.actor)

    def remember(self, act: str, *, subject: str | None = None, **facts: object) -> None:
        """Write an action to the shop's history and the audit log; facts hold no id of a person."""
        audit(self.workspace, self.actor, AUDITED[act], subject=subject, **facts)
        assert self.signed_in is not None  # noqa: S101 - all actions need sign-in
        line = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "by": self.signed_in.name, "act": act, **facts}
        path = self.workspace.root / HISTORY_FILE
        with lock_file(path.with_name(f".{HISTORY_FILE}.lock")):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")

    def clock(self) -> Mapping[str, Any]:
        """The shop's present, and whether the log is replayed; empty while the store cannot be read."""
        if self.signed_in is None:
            return {}
        try:
            at = self.now
        except StoreError:
            return {}
        return {"at": at, "replayed": (datetime.now(UTC) - at).days >= REPLAY_DAYS}


def history(workspace: Workspace, limit: int) -> list[dict[str, Any]]:
    """The latest acts of `Visit.remember`, newest first."""
    path = workspace.root / HISTORY_FILE
    lines = path.read_text("utf-8").splitlines()[-limit:] if path.exists() else []
    return [json.loads(line) for line in reversed(lines) if line.endswith("}")]


def _visit(request: Request) -> Visit:
    visit: Visit = request.state.visit
    return visit


TheVisit = Annotated[Visit, Depends(_visit)]
Page = Callable[..., Response]


class PageRoute(APIRoute):
    """A page whose function runs in a worker, when one is free. Raises `OverloadError`."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint if iscoroutinefunction(endpoint) else _in_worker(endpoint), **options)


def slow(page: Page) -> Page:
    """Marks a page that takes seconds: it has the worker of marketing."""
    page.is_slow = True  # type: ignore[attr-defined]
    return page


def _in_worker(page: Page) -> Callable[..., Any]:
    @wraps(page)
    async def run(visit: Visit, **values: Any) -> Response:
        service = visit.state.service
        capacity = service.marketing if getattr(page, "is_slow", False) else service.capacity
        return await capacity.run(partial(page, visit, **values))

    run.__signature__ = inspect.signature(page, eval_str=True)  # type: ignore[attr-defined]
    return run


class ConsoleForm(FormData):
    def text(self, name: str, limit: int = 1_000) -> str:
        """A field as text, at most `limit` characters; "" where it is missing or a file."""
        value = self.get(name, "")
        return value[:limit] if isinstance(value, str) else ""

    def texts(self, name: str) -> list[str]:
        """All values of a field that may come several times."""
        return [value for value in self.getlist(name) if isinstance(value, str)]

    def file(self, name: str, limit: int) -> bytes:
        """An uploaded file, one byte more than `limit` at most; empty without one."""
        file = self.get(name)
        return file.file.read(limit + 1) if isinstance(file, UploadFile) and file.filename else b""


async def _form(request: Request) -> ConsoleForm:
    return ConsoleForm(await request.form())


TheForm = Annotated[ConsoleForm, Depends(_form)]


def local_path(text: str) -> str:
    """A path of this console that a visitor came with; "/" for anything that leads elsewhere."""
    is_local = text.startswith("/") and not text.startswith("//") and "\\" not in text and text.isprintable()
    return text if is_local else "/"


def from_here(request: Request) -> bool:
    """Whether the browser says that this site sends the request.
    It may say nothing of one that changes nothing."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is None and origin is None:
        return request.method in SAFE_METHODS
    return site in (None, "same-origin") and (origin is None or urlsplit(origin).netloc == request.headers.get("host"))


@cache
def environment() -> Environment:
    """Templates of this room: every value is escaped, a missing one is an error."""
    templates = Environment(
        loader=PackageLoader("recllm.doors.console", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals["shape_of"] = lambda category: zlib.crc32(category.encode()) % SHAPES
    return templates
