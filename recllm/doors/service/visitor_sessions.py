"""Joins of anonymous sessions to people, and removal of items."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from recllm.base.schema import Purpose, Table
from recllm.shop.ingest.workspace_load import add_consent
from recllm.shop.workspace.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionJoin:
    joined: bool
    """False if the person refused personalisation, which then holds for the session too, or was erased."""
    events: int
    """Events moved to the person by this call."""


def remove_item(workspace: Workspace, item_id: str) -> None:
    """Takes an item off the catalogue until it is loaded again; its events stay. Raises `UnknownIdError` for an unknown
    item."""
    with workspace.store().load(Table.ITEMS, load_id=uuid.uuid4().hex, source="removal") as load:
        load.remove_item(item_id)


def join_session(workspace: Workspace, session_id: str, user_id: str) -> SessionJoin:
    """Makes the present and later events of an anonymous session those of a person; may be repeated.

    Raises `ConflictError` for a session that belongs to another person.
    """
    session, person = workspace.session_pseudonymiser().one(session_id), workspace.pseudonymiser().one(user_id)
    if workspace.store().tombstones([session, person]):
        return SessionJoin(joined=False, events=0)
    with workspace.store().read() as reader:
        owner = reader.joined_sessions([session]).get(session)
    if owner is None and not workspace.gate().permits(person, Purpose.PERSONALISATION):
        refusal = (session, Purpose.PERSONALISATION, False, None)
        add_consent(workspace, [refusal], source="session", by_pseudonym=True)
        return SessionJoin(joined=False, events=0)
    with workspace.store().load(Table.EVENTS, load_id=uuid.uuid4().hex, source="session") as load:
        n_events = load.join_session(session, person)
    return SessionJoin(joined=True, events=n_events)


def session_pseudonyms(workspace: Workspace, session_ids: Sequence[str]) -> list[str]:
    """Pseudonyms of sessions, or of the people to whom they were joined."""
    names = workspace.session_pseudonymiser().many(session_ids)
    with workspace.store().read() as reader:
        person = reader.joined_sessions(names)
    return [person.get(name, name) for name in names]
