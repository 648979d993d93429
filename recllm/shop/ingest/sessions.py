"""Anonymous sessions: who they belong to, and what their visitors decided."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence

import polars as pl

from recllm.base.schema import Purpose, Table
from recllm.shop.workspace.workspace import Workspace


def session_pseudonyms(workspace: Workspace, session_ids: Sequence[str]) -> list[str]:
    """Of sessions, or of the people to whom they were joined."""
    names = workspace.session_pseudonymiser().many(session_ids)
    with workspace.store().read() as reader:
        person = reader.joined_sessions(names)
    return [person.get(name, name) for name in names]


def record_decision(workspace: Workspace, name: str, purposes: Collection[Purpose], *, granted: bool) -> None:
    """What a session's visitor decided; a refusal deletes all rows of the session, in the same transaction.

    name: pseudonym of the session. The refusal itself is kept: requests that are still on their way stay refused.
    """
    decisions = pl.DataFrame(
        {
            "user_id": name,
            "purpose": sorted(purposes),
            "granted": granted,
            "at": None,
        },
        schema_overrides={"purpose": pl.String, "at": pl.Int64},
    )
    # after a load of consent, services look for customers who withdrew; no agreement of a session is worth that
    table = Table.EVENTS if granted else Table.CONSENT
    with workspace.store().load(table, load_id=uuid.uuid4().hex, source="service") as load:
        if not granted:
            load.erase_users([name])
        load.write(decisions, table=Table.CONSENT)
