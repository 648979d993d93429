"""Operations about a person's rights, anonymous sessions, and items that leave the catalogue."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response

from recllm.base.errors import NothingToDo, UnknownIdError
from recllm.base.schema import Purpose, Table
from recllm.doors.privacy.certificate import ErasureCertificate
from recllm.doors.privacy.erasure import erase_people
from recllm.doors.privacy.export import export_person
from recllm.doors.service.callers import ERRORS, MayErase, MaySend, operation
from recllm.doors.service.marketing_requests import RestrictionRequest, SessionJoinRequest
from recllm.doors.service.requests import Id, JsonRoute, PersonRequest
from recllm.recommend.recommender.shop_states import forget_in_states
from recllm.shop.ingest.workspace_load import add_consent
from recllm.shop.workspace.audit import AuditAction, AuditCheck, AuditEntry, read_audit, verify_audit
from recllm.shop.workspace.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Restriction:
    """Whether a person's data may be used."""

    restricted_since: datetime | None
    """UTC; None where they are used as the person agreed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionJoin:
    joined: bool
    """False if the person refused personalisation, which then holds for the session too, or was erased."""
    events: int
    """Events moved to the person by this call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLog:
    check: AuditCheck
    entries: tuple[AuditEntry, ...]


router = APIRouter(responses=ERRORS, route_class=JsonRoute)


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


@operation(router, "POST", "/v1/sessions/join", "events", answer=SessionJoin)
def session_join(body: SessionJoinRequest, caller: MaySend) -> SessionJoin:
    """An anonymous session's events become those of a person, whose next answer knows them.

    Again for the same person it changes nothing; a session of another person is a conflict. Where the person refused
    personalisation nothing is joined: the session's events stay unjoined, and the session counts as having refused.
    """
    return join_session(caller.shop.workspace, body.session_id, body.user_id)


@operation(router, "POST", "/v1/users/erase", "privacy", answer=ErasureCertificate, marketing=True)
def user_erase(body: PersonRequest, caller: MayErase) -> ErasureCertificate:
    """Everything about a person goes, from rows to campaigns and refused rows, and a tombstone keeps them out: nothing
    that is sent about them later is kept. An unknown person is a 404, with a tombstone all the same.

    The signed certificate says what was deleted, which models learned from the person and until when they are replaced,
    and what is left to others: files of exports that left.
    """
    try:
        certificate = erase_people(caller.shop.workspace, [body.user_id], actor=caller.actor)
    except NothingToDo as error:
        raise UnknownIdError(str(error)) from error
    caller.shop.update()
    return certificate


@operation(router, "POST", "/v1/users/export", "privacy", marketing=True)
def user_export(body: PersonRequest, caller: MayErase) -> dict[str, Any]:
    """Everything of one person, given and inferred: basics, decisions, events, messages, campaigns, profile,
    recommendations with reasons, predictions that are in memory, models that learned from them, for what and how long
    it is kept, and when their data were looked at."""
    recommender = caller.shop.recommender() if caller.shop.ready else None
    predictions, workspace = caller.shop.everybody.held_predictions(), caller.shop.workspace
    document = export_person(workspace, body.user_id, recommender=recommender, predictions=predictions)
    caller.audit(AuditAction.PERSON_EXPORTED, subject=document["pseudonym"])
    return document


@operation(router, "POST", "/v1/users/restrict", "privacy", answer=Restriction, marketing=True)
def user_restrict(body: RestrictionRequest, caller: MayErase) -> Restriction:
    """A person's data are kept and used for nothing, whatever they agreed to; or used again, as they agreed."""
    workspace = caller.shop.workspace
    name = workspace.pseudonymiser().one(body.user_id)
    if workspace.store().restrict(name, datetime.now(UTC) if body.restricted else None):
        forget_in_states(workspace)
        action = AuditAction.RESTRICTED if body.restricted else AuditAction.RESTRICTION_LIFTED
        caller.audit(action, subject=name)
        caller.shop.update()
    return Restriction(restricted_since=workspace.store().restricted_since([name]).get(name))


@operation(router, "GET", "/v1/audit", "privacy", answer=AuditLog, marketing=True)
def audit_log(
    caller: MayErase,
    after: Annotated[int, Query(ge=0, le=2**53, description="Entries behind this number.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
) -> AuditLog:
    """Who did what to whose data, oldest first, and whether the whole log is as it was written."""
    workspace = caller.shop.workspace
    return AuditLog(check=verify_audit(workspace), entries=tuple(read_audit(workspace, after=after)[:limit]))


@operation(router, "DELETE", "/v1/items/{item_id:path}", "events", status=204)
def item_remove(item_id: Id, caller: MaySend) -> Response:
    """An item leaves the catalogue: it is never recommended, found or explained again, until it is sent once more.

    Events about it stay readable.
    """
    store = caller.shop.workspace.store()
    with store.load(Table.ITEMS, load_id=uuid.uuid4().hex, source="removal") as load:
        load.remove_item(item_id)
    caller.shop.update()
    return Response()
