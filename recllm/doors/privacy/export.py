"""Everything that a workspace has of one person, given and inferred, as one JSON document with nobody else in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from recllm.base.errors import UnknownIdError
from recllm.base.schema import Purpose
from recllm.doors.privacy.registry import REGISTRY
from recllm.shop.workspace.personal_records import ExportedPerson, RecordRegistry
from recllm.shop.workspace.workspace import Workspace

FORMAT = 3
"""Of the document; it grows when a part changes its form."""

NOBODY_STORED = "nobody with this id is known; check the id"


def export_person(
    workspace: Workspace,
    user_id: str,
    *,
    by_pseudonym: bool = False,
    recommender: Any = None,
    predictions: Iterable[Any] = (),
    registry: RecordRegistry = REGISTRY,
) -> dict[str, Any]:
    """What the person gave, what was done with it and what was inferred; no consent is asked, as it is theirs.

    by_pseudonym: the id is the pseudonym already. recommender: the workspace's `Recommender`, where one is open.
    predictions: each a `Prediction` of everybody, by pseudonym; none is stored, so those that are in memory, or made
    now by `everyday_predictions`. They are read only where the person agreed to personalisation. Staff, other people
    and the shop's own figures are left out. Raises `UnknownIdError` for somebody who is not known.
    """
    name = user_id if by_pseudonym else workspace.pseudonymiser().one(user_id)
    with workspace.store().read() as reader:
        if not len(reader.users([name])):
            raise UnknownIdError(NOBODY_STORED)
    names = frozenset({name} if by_pseudonym else workspace.pseudonymiser().each(user_id))
    person = ExportedPerson(name, names, recommender, predictions)
    document: dict[str, Any] = {"format": FORMAT, "user_id": user_id, "pseudonym": name}
    for record in registry.records:
        document |= {} if record.export is None else record.export(workspace, person)
    return document | {"processing": _processing(workspace, name)}


def _processing(workspace: Workspace, name: str) -> dict[str, Any]:
    """What the person's data may be used for now, and for how many days each kind of it is kept; None: until erased."""
    gate = workspace.gate()
    return {
        "purposes": {purpose.value: gate.permits(name, purpose) for purpose in Purpose},
        "kept_days": workspace.settings.retention.model_dump(),
    }
