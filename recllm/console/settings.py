"""Settings: what holds and why, and the keys of the shop."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from recllm.console.pages import ConsoleSection, TheForm, TheVisit, Visit, WordedError, text_of
from recllm.console.tables import CellKind, ConsoleTable, TableCell, TableColumn, TableRow
from recllm.errors import PolicyError, UsageError
from recllm.jobs.setting_rows import setting_rows, setting_text
from recllm.workspace.keys import ApiKey, Scope, create_key, list_keys, revoke_key

router = APIRouter(prefix="/settings")
SECTION = ConsoleSection("settings", "/settings", router)


@router.get("")
async def index(visit: TheVisit) -> Response:
    """Every setting with its value and origin; the keys."""
    return await _page(visit)


@router.post("/keys")
async def make_key(visit: TheVisit, form: TheForm) -> Response:
    """Make a key and show it, this once."""
    visit.require(Scope.ADMIN)
    name, scopes = text_of(form, "name", 200), [scope for scope in form.getlist("scope") if isinstance(scope, str)]

    def write() -> str:
        if not list_keys(visit.workspace) and not {Scope.CONSOLE, Scope.ADMIN} <= set(scopes):
            raise WordedError(visit.say("settings.first_key"))
        key, text = create_key(visit.workspace, name, scopes)
        visit.remember("make_key", key=key.key_id, scopes=" ".join(sorted(key.scopes)))
        return text

    try:
        text = await visit.run(write)
    except UsageError as error:
        return await _page(visit, problem=visit.problem_text(error), typed=name, status=422)
    return await _page(visit, key_text=text)


@router.post("/keys/{key_id}/revoke")
async def revoke(visit: TheVisit, key_id: str) -> Response:
    """Refuse a key from now on, and end its sessions."""
    visit.require(Scope.ADMIN)

    def write() -> None:
        if visit.signed_in is not None and visit.signed_in.key_id == key_id:
            raise PolicyError(visit.say("settings.own_key"))
        revoke_key(visit.workspace, key_id)
        visit.remember("revoke_key", key=key_id)

    await visit.run(write)
    return visit.back("/settings#keys", "")


async def _page(
    visit: Visit, *, key_text: str | None = None, problem: str | None = None, typed: str = "", status: int = 200
) -> Response:
    def values() -> dict[str, Any]:
        rows = setting_rows(visit.workspace.root, {})
        groups = itertools.groupby(rows, lambda row: str(row["section"]))
        keys = list_keys(visit.workspace) if visit.may(Scope.ADMIN) else []
        return {
            "groups": [(name, settings_table(visit, name, list(group))) for name, group in groups],
            "keys": keys_table(visit, keys) if keys else None,
            "revocable": [key for key in keys if not key.revoked_at and not _is_own(visit, key)],
        }

    return visit.page(
        "settings.html.j2",
        status=status,
        section="settings",
        scopes=list(Scope),
        key_text=key_text,
        problem=problem,
        typed=typed,
        **await visit.run(values),
    )


def _is_own(visit: Visit, key: ApiKey) -> bool:
    """Whether it is the key that the visitor signed in with."""
    return visit.signed_in is not None and visit.signed_in.key_id == key.key_id


def keys_table(visit: Visit, keys: Sequence[ApiKey]) -> ConsoleTable:
    """Who may do what; no key itself."""

    def row(key: ApiKey) -> TableRow:
        scopes = sorted(key.scopes)
        words = visit.say("people.comma").join(visit.say(f"scope.{scope}") for scope in scopes)
        tag, tone = (visit.say("settings.yours"), "good") if _is_own(visit, key) else ("", "")
        if key.revoked_at:
            tag, tone = visit.say("settings.revoked"), "bad"
        return (
            TableCell(value=key.name, tag=tag, tone=tone, remark=key.key_id),
            key.key_id,
            TableCell(value=" ".join(scopes), text=words),
            key.created_at,
            key.revoked_at,
        )

    return ConsoleTable(
        name="keys",
        title=visit.say("settings.keys"),
        columns=(
            TableColumn(name="name", label=visit.say("settings.name")),
            TableColumn(name="key_id"),
            TableColumn(name="scopes", label=visit.say("settings.may")),
            TableColumn(name="created_at", label=visit.say("settings.since"), kind=CellKind.DAY),
            TableColumn(name="revoked_at", label=visit.say("settings.revoked_at"), kind=CellKind.DAY),
        ),
        rows=[row(key) for key in keys],
    )


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

    return ConsoleTable(
        name=f"settings-{section or 'shop'}",
        title=section or visit.say("settings.shop"),
        columns=(
            TableColumn(name="setting", label=visit.say("settings.setting")),
            TableColumn(name="value", label=visit.say("settings.value")),
            TableColumn(name="origin", label=visit.say("settings.origin")),
            TableColumn(name="default"),
            TableColumn(name="meaning", label=visit.say("settings.what"), is_english=True),
            TableColumn(name="range"),
        ),
        rows=[cells(row) for row in rows],
    )
