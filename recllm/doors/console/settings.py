"""Settings: what holds and why, the keys of the shop, and who is signed in."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response

from recllm.base.errors import PolicyError, UnknownIdError, UsageError
from recllm.doors.console.pages import ConsoleSection, PageRoute, TheForm, TheVisit, Visit
from recllm.doors.console.session import FRESH_SECONDS, is_same_visitor, session_visitor
from recllm.doors.console.tables import ConsoleTable, TableCell, TableRow
from recllm.doors.service.oidc import StaffMember
from recllm.doors.service.setting_rows import setting_rows, setting_text
from recllm.shop.workspace.console_sessions import ConsoleSession, end_session, list_sessions
from recllm.shop.workspace.keys import ApiKey, Scope, create_key, list_keys, revoke_key

router = APIRouter(prefix="/settings", route_class=PageRoute)
SECTION = ConsoleSection("settings", "/settings", router)

SIGN_IN_AGAIN = "/sign-in?after=/settings"


@router.get("")
def index(visit: TheVisit) -> Response:
    return _page(visit)


@router.post("/keys")
def make_key(visit: TheVisit, form: TheForm) -> Response:
    """Make a key and show it, this once."""
    visit.require(Scope.ADMIN)
    name, scopes = form.text("name", 200), form.texts("scope")

    if not list_keys(visit.workspace) and not {Scope.CONSOLE, Scope.ADMIN} <= set(scopes):
        return _page(visit, problem=visit.say("settings.first_key"), typed=name, status=422)
    try:
        key, text = create_key(visit.workspace, name, scopes)
    except UsageError as error:
        return _page(visit, problem=visit.problem_text(error), typed=name, status=422)
    visit.remember("make_key", key=key.key_id, scopes=" ".join(sorted(key.scopes | key.origins)))
    return _page(visit, key_text=text)


@router.post("/keys/{key_id}/revoke")
def revoke(visit: TheVisit, key_id: str) -> Response:
    """Refuse a key from now on, and end its sessions."""
    visit.require(Scope.ADMIN)
    if visit.actor == f"key:{key_id}":
        raise PolicyError(visit.say("settings.own_key"))
    revoke_key(visit.workspace, key_id)
    visit.remember("revoke_key", key=key_id)
    return visit.back("/settings#keys", "")


@router.post("/sessions/{session_id}/end")
@router.post("/sessions/end")
def end_sessions(visit: TheVisit, session_id: str = "") -> Response:
    """One's own session in another browser, for an administrator any; without an id all of one's own but this.

    This browser's own is ended by signing out. Only for visitors who signed in just now, so that a finder of an open
    browser locks no one out. Raises `UnknownIdError` where there is none to end."""
    if not _may_end(visit):
        return RedirectResponse(SIGN_IN_AGAIN, 303)

    meant = [
        (session, visitor)
        for session, visitor in _sessions(visit)
        if (session.session_id == session_id if session_id else _is_mine(visit, session))
        and session.session_id != visit.browser
    ]
    if not meant:
        raise UnknownIdError("there is no such session any more")
    for session, visitor in meant:
        if end_session(visit.workspace, session.session_id):
            visit.remember("end_session", session=session.session_id[:8], of=visitor.name)
    return visit.back("/settings#sessions")


def _may_end(visit: Visit) -> bool:
    """Whether the visitor signed in lately; a confirmation by the directory does not count."""
    return visit.session is not None and time.time() <= visit.session.begun_at + FRESH_SECONDS


def _sessions(visit: Visit) -> list[tuple[ConsoleSession, ApiKey | StaffMember]]:
    """Those that the visitor may see and end: their own, and for an administrator all."""
    return [
        (session, visitor)
        for session in list_sessions(visit.workspace)
        if (visit.may(Scope.ADMIN) or _is_mine(visit, session))
        and (visitor := session_visitor(visit.workspace, session)) is not None
    ]


def _is_mine(visit: Visit, session: ConsoleSession) -> bool:
    """Whether it is of the key, or of the person, that the visitor signed in as."""
    return visit.session is not None and is_same_visitor(visit.session, session)


def _page(
    visit: Visit, *, key_text: str | None = None, problem: str | None = None, typed: str = "", status: int = 200
) -> Response:
    groups = itertools.groupby(setting_rows(visit.workspace.root, {}), lambda row: str(row["section"]))
    keys = list_keys(visit.workspace) if visit.may(Scope.ADMIN) else []
    sessions = _sessions(visit)
    others = [(session, visitor) for session, visitor in sessions if session.session_id != visit.browser]
    return visit.page(
        "settings.html.j2",
        status=status,
        section="settings",
        scopes=list(Scope),
        key_text=key_text,
        problem=problem,
        typed=typed,
        groups=[(name, settings_table(visit, name, list(group))) for name, group in groups],
        keys=keys_table(visit, keys) if keys else None,
        revocable=[key for key in keys if not key.revoked_at and visit.actor != f"key:{key.key_id}"],
        sessions=sessions_table(visit, sessions) if sessions else None,
        endable=[(s.session_id, visitor.name, _moment(s.begun_at)) for s, visitor in others],
        has_others=any(_is_mine(visit, session) for session, _ in others),
        may_end=_may_end(visit),
        sign_in_again=SIGN_IN_AGAIN,
    )


def keys_table(visit: Visit, keys: Sequence[ApiKey]) -> ConsoleTable:
    def row(key: ApiKey) -> TableRow:
        scopes = sorted(key.scopes)
        words = visit.say("people.comma").join([*(visit.say(f"scope.{s}") for s in scopes), *sorted(key.origins)])
        tag, tone = (visit.say("settings.yours"), "good") if visit.actor == f"key:{key.key_id}" else ("", "")
        if key.revoked_at:
            tag, tone = visit.say("settings.revoked"), "bad"
        return (
            TableCell(value=key.name, tag=tag, tone=tone, remark=key.key_id),
            key.key_id,
            TableCell(value=" ".join(scopes), text=words),
            key.created_at,
            key.revoked_at,
        )

    return visit.table("keys", [row(key) for key in keys])


def sessions_table(visit: Visit, sessions: Sequence[tuple[ConsoleSession, ApiKey | StaffMember]]) -> ConsoleTable:
    def row(session: ConsoleSession, visitor: ApiKey | StaffMember) -> TableRow:
        way = "directory" if isinstance(visitor, StaffMember) else "key"
        is_this = session.session_id == visit.browser
        return (
            TableCell(value=visitor.name, tag=visit.say("settings.this_browser") if is_this else "", tone="good"),
            way,
            *map(_moment, (session.begun_at, session.used_at, session.end)),
        )

    return visit.table("sessions", [row(session, visitor) for session, visitor in sessions])


def _moment(epoch_seconds: float) -> datetime:
    return datetime.fromtimestamp(epoch_seconds, UTC).replace(microsecond=0)


def settings_table(visit: Visit, section: str, rows: Sequence[Mapping[str, Any]]) -> ConsoleTable:
    """The settings of one section of `workspace.toml`. rows: of `setting_rows`."""

    def cells(row: Mapping[str, Any]) -> TableRow:
        origin, default = row["from"], setting_text(row["default"])
        is_default = origin == "default"
        return (
            row["name"],
            setting_text(row["value"]),
            TableCell(
                value=origin,
                text=visit.say("settings.default") if is_default else origin,
                remark="" if is_default else visit.say("settings.default_is", value=default),
            ),
            default,
            TableCell(value=row["doc"], remark=f"[{row['range']}]"),
            row["range"],
        )

    name = section or "shop"
    title = visit.say(f"settings.section.{name}") + (f" [{section}]" if section else "")
    return visit.table(f"settings-{name}", [cells(row) for row in rows], of="settings", title=title)
