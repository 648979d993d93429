"""Everything that a workspace has of one person, given and inferred, as one JSON document with nobody else in it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from recllm.campaigns.folder import CampaignPlan, ExportEntry, read_entries, read_plan
from recllm.campaigns.forget import campaign_folders
from recllm.documents import plain
from recllm.errors import ModelError, RecllmError, UnknownIdError
from recllm.experiments.split import variant_of
from recllm.jobs.experiments import list_experiments
from recllm.jobs.recommenders import open_recommender
from recllm.privacy.erasure import quarantined_rows
from recllm.recommender.registry import versions_since
from recllm.schema import RecommendRequest
from recllm.workspace.audit import read_audit
from recllm.workspace.workspace import Workspace

if TYPE_CHECKING:
    from recllm.recommender.recommender import Recommender

FORMAT = 2
"""Of the document; it grows when a part changes its form."""

SLATE_ITEMS = 10
NOBODY_STORED = "nobody with this id is known; check the id"


def export_person(
    workspace: Workspace, user_id: str, *, by_pseudonym: bool = False, recommender: Recommender | None = None
) -> dict[str, Any]:
    """What the person gave, what was done with it and what was inferred; no consent is asked, as it is theirs.

    by_pseudonym: the id is the pseudonym already. recommender: the workspace's, where one is open. Staff, other people
    and the shop's own figures are left out. Raises `UnknownIdError` for somebody who is not known.
    """
    name = user_id if by_pseudonym else workspace.pseudonymiser().one(user_id)
    with workspace.store().read() as reader:
        users = reader.users([name])
        if not len(users):
            raise UnknownIdError(NOBODY_STORED)
        consent = reader.consent(user_ids=[name]).drop("user_id").to_dicts()
        events = reader.events(user_ids=[name]).drop("user_id").to_dicts()
        sessions = sorted(reader.joined_sessions(user_id=name))
        first_load = reader.first_loaded([name]).get(name)
    messages = workspace.store().messages_of(name)
    refused = quarantined_rows(workspace, frozenset({name, *sessions}), with_unread=False)
    return {
        "format": FORMAT,
        "user_id": user_id,
        "pseudonym": name,
        "basics": json.loads(users["basics"][0]),
        "consent": consent,
        "restricted_since": plain(workspace.store().restricted_since([name]).get(name)),
        "events": [{field: value for field, value in event.items() if value is not None} for event in events],
        "sessions": sessions,
        "refused_rows": [json.loads(line) for lines in refused.values() for line in lines],
        "messages": [
            {field: value for field, value in plain(message).items() if field != "user_id"}
            | {"events": [{"event": event.kind.value, "at": plain(event.at)} for event in events]}
            for message, events in messages
        ],
        "campaigns": _campaigns(workspace, name),
        "experiments": {
            stored.experiment.name: variant_of(stored.experiment, name) for stored in list_experiments(workspace)
        },
        "models": [] if first_load is None else versions_since(workspace.models_dir, *first_load),
        "inferred": _inferred(workspace, name, recommender),
        "accesses": [
            {"at": plain(entry.at), "action": entry.action.value}
            for entry in read_audit(workspace, subjects=_names_over_time(workspace, user_id, name, by_pseudonym))
        ],
    }


def _names_over_time(workspace: Workspace, user_id: str, name: str, by_pseudonym: bool) -> frozenset[str]:
    """What the audit log calls the person: under each key, where the person's own id is known."""
    return frozenset({name} if by_pseudonym else workspace.pseudonymiser().each(user_id))


def _campaigns(workspace: Workspace, name: str) -> list[dict[str, Any]]:
    """Each campaign that planned for the person: what for, with which text, and when it left."""
    lines = []
    for folder in campaign_folders(workspace.root):
        plan: CampaignPlan = read_plan(folder)
        texts = {text.id: text.text for text in plan.texts}
        with folder.locked():
            exports = read_entries(folder.exports, ExportEntry)
        for person in plan.people:
            if person.user_id == name:
                fields = {field: value for field, value in plain(person).items() if field != "user_id"}
                exported_at = [entry.at for entry in exports if name in entry.reached]
                text = {"text": texts.get(person.text_id), "exported_at": exported_at}
                lines.append({"campaign_id": plan.campaign_id, "planned_as_of": plan.as_of, **fields, **text})
    return lines


def _inferred(workspace: Workspace, name: str, recommender: Recommender | None) -> dict[str, Any]:
    """The profile in words, and what would be recommended now, with scores and reasons."""
    try:
        recommender = (recommender or open_recommender(workspace)).by_pseudonym()
        slate = recommender.recommend(RecommendRequest(users=(name,), k=SLATE_ITEMS, explain=True))[0]
        _, texts = recommender.profile(name)
    except ModelError as error:
        return {"problem": str(error)}
    except RecllmError:  # without consent nothing is inferred
        return {"profile": None, "recommendations": None, "status": "nothing is inferred of this person"}
    return {"profile": plain(texts), "recommendations": {**plain(slate), "user_id": name}}
