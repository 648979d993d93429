"""Everything that a workspace has of one person, given and inferred, as one JSON document."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from recllm.base.errors import UnknownIdError
from recllm.base.schema import Purpose
from recllm.doors.privacy.registry import REGISTRY
from recllm.shop.workspace.personal_records import ExportedPerson
from recllm.shop.workspace.workspace import Workspace

FORMAT = 3
"""Of the document; it grows when a part changes its form."""


def export_person(
    workspace: Workspace,
    user_id: str,
    *,
    by_pseudonym: bool = False,
    recommender: Any = None,
    predictions: Iterable[Any] = (),
) -> dict[str, Any]:
    """What the person gave, what was done with it and what was inferred; no consent is needed, as it is theirs.

    by_pseudonym: the id is the pseudonym. recommender: the workspace's `Recommender`, where one is open. predictions:
    `Prediction` of all people, by pseudonym, as none is stored; read only where the person agreed to personalisation.
    Staff, other people and the shop's own figures are left out. Raises `UnknownIdError` for an unknown person.
    """
    name = user_id if by_pseudonym else workspace.pseudonymiser().one(user_id)
    with workspace.store().read() as reader:
        if not len(reader.users([name])):
            raise UnknownIdError("unknown user; check the id")
    names = frozenset({name} if by_pseudonym else workspace.pseudonymiser().each(user_id))
    person = ExportedPerson(name, names, recommender, predictions)
    document: dict[str, Any] = {"format": FORMAT, "user_id": user_id, "pseudonym": name}
    for record in REGISTRY.records:
        document |= {} if record.export is None else record.export(workspace, person)
    gate = workspace.gate()
    document["processing"] = {
        "purposes": {purpose.value: gate.permits(name, purpose) for purpose in Purpose},
        "kept_days": workspace.settings.retention.model_dump(),  # None: until erased
    }
    return document
