"""What a person may ask of a shop: everything that is stored of them, and that it goes; and items that leave for good.

Gone at once: rows of the store, all tables in one transaction, and the person in the serving state beside it. Not gone:
models that were trained with them before (they hold no row of anybody), quarantined rows of files, plans and logs of
campaigns (pseudonyms), backups. On PostgreSQL the freed pages are overwritten by its next vacuum.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl

from recllm.documents import plain
from recllm.errors import UnknownIdError
from recllm.jobs.recommenders import forget_in_states
from recllm.schema import Purpose, Table
from recllm.workspace.workspace import Workspace

NOBODY_STORED = "nobody with this id is known; check the id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """What was deleted of one person."""

    rows: Mapping[str, int]
    """Table -> rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionJoin:
    """What became of an anonymous session whose person is known now."""

    joined: bool
    """False where the person refused personalisation: nothing says whose session it was, and it has refused too."""
    events: int
    """Events that became the person's by this call."""


def export_person(workspace: Workspace, user_id: str, *, by_pseudonym: bool = False) -> dict[str, Any]:
    """Everything that the store has of one person, as JSON has it; no consent is asked, as it is theirs.

    by_pseudonym: the id is the pseudonym already. Raises `UnknownIdError` for somebody who is not known.
    """
    name = user_id if by_pseudonym else workspace.pseudonymiser().one(user_id)
    with workspace.store().read() as reader:
        users = reader.users([name])
        if not len(users):
            raise UnknownIdError(NOBODY_STORED)
        consent = reader.consent(user_ids=[name]).drop("user_id").to_dicts()
        events = reader.events(user_ids=[name]).drop("user_id").to_dicts()
        sessions = sorted(reader.joined_sessions(user_id=name))
    messages = workspace.store().messages_of(name)
    return {
        "user_id": user_id,
        "pseudonym": name,
        "basics": json.loads(users["basics"][0]),
        "consent": consent,
        "events": [{field: value for field, value in event.items() if value is not None} for event in events],
        "sessions": sessions,
        "messages": [
            {field: value for field, value in plain(message).items() if field != "user_id"}
            | {"events": [{"event": event.kind.value, "at": plain(event.at)} for event in events]}
            for message, events in messages
        ],
    }


def erase_person(workspace: Workspace, user_id: str, *, by_pseudonym: bool = False) -> Erasure:
    """Deletes everything that the store and the serving state have of one person.

    by_pseudonym: the id is the pseudonym already. Raises `UnknownIdError` for somebody who is not known, so a second
    time too.
    """
    name, store = user_id if by_pseudonym else workspace.pseudonymiser().one(user_id), workspace.store()
    try:
        with store.load(Table.CONSENT, load_id=uuid.uuid4().hex, source="erasure") as load:
            rows = load.erase_user(name)
    finally:  # of an unknown person, too: an erasure that was killed may have left what follows undone
        store.truncate_log()
        forget_in_states(workspace)
    return Erasure(rows=rows)


def remove_item(workspace: Workspace, item_id: str) -> None:
    """Takes an item off the catalogue: it is never recommended, found or explained again, until it is loaded anew.

    Events about it stay. Raises `UnknownIdError` for an item that the catalogue does not have.
    """
    with workspace.store().load(Table.ITEMS, load_id=uuid.uuid4().hex, source="removal") as load:
        load.remove_item(item_id)


def join_session(workspace: Workspace, session_id: str, user_id: str) -> SessionJoin:
    """Makes the events of an anonymous session, so far and from now on, those of a person.

    Again for the same person it changes nothing. Raises `ConflictError` for a session that belongs to another person.
    """
    from recllm.ingest.record import record_rows

    session, person = workspace.session_pseudonymiser().one(session_id), workspace.pseudonymiser().one(user_id)
    with workspace.store().read() as reader:
        owner = reader.joined_sessions([session]).get(session)
    if owner is None and not workspace.gate().permits(person, Purpose.PERSONALISATION):
        decision = {"user_id": session, "purpose": Purpose.PERSONALISATION.value, "granted": False}
        rows = pl.DataFrame([decision | {"at": int(datetime.now(UTC).timestamp() * 1_000_000)}])
        record_rows(rows, Table.CONSENT, workspace.store(), source="session")
        return SessionJoin(joined=False, events=0)
    with workspace.store().load(Table.EVENTS, load_id=uuid.uuid4().hex, source="session") as load:
        n_events = load.join_session(session, person)
    return SessionJoin(joined=True, events=n_events)


def session_pseudonyms(workspace: Workspace, session_ids: Sequence[str]) -> list[str]:
    """Pseudonyms of sessions; of one that was joined to a person, the person's."""
    names = workspace.session_pseudonymiser().many(session_ids)
    with workspace.store().read() as reader:
        person = reader.joined_sessions(names)
    return [person.get(name, name) for name in names]
