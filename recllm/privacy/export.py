"""Everything that a workspace has of one person, given and inferred, as one JSON document with nobody else in it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from recllm.campaigns.folder import CampaignPlan, ExportEntry, read_entries, read_plan
from recllm.campaigns.forget import campaign_folders
from recllm.documents import plain
from recllm.errors import ModelError, UnknownIdError
from recllm.experiments.split import variant_of
from recllm.jobs.effects import effect_names, effects_of
from recllm.jobs.experiments import list_experiments
from recllm.jobs.recommenders import open_recommender
from recllm.jobs.serve import person_profile
from recllm.privacy.erasure import quarantined_rows
from recllm.propensity.prediction import prediction_document
from recllm.recommender.registry import versions_since
from recllm.schema import Intent, Purpose, RecommendRequest
from recllm.workspace.audit import read_audit
from recllm.workspace.workspace import Workspace, present

if TYPE_CHECKING:
    from recllm.data.dataset import Dataset
    from recllm.propensity.prediction import Prediction
    from recllm.recommender.recommender import Recommender

FORMAT = 3
"""Of the document; it grows when a part changes its form."""

SLATE_ITEMS = 10
NOBODY_STORED = "nobody with this id is known; check the id"


class InferenceStatus(StrEnum):
    """Whether anything is inferred of a person."""

    INFERRED = "inferred"
    NOT_AGREED = "not_agreed"
    NO_MODEL = "no_model"
    """None can be opened; `problem` says why."""


def export_person(
    workspace: Workspace,
    user_id: str,
    *,
    by_pseudonym: bool = False,
    recommender: Recommender | None = None,
    predictions: Iterable[Prediction] = (),
) -> dict[str, Any]:
    """What the person gave, what was done with it and what was inferred; no consent is asked, as it is theirs.

    by_pseudonym: the id is the pseudonym already. recommender: the workspace's, where one is open. predictions: of
    everybody, by pseudonym; none is stored, so those that are in memory, or made now by `everyday_predictions`. They
    are read only where the person agreed to personalisation. Staff, other people and the shop's own figures are left
    out. Raises `UnknownIdError` for somebody who is not known.
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
            _unnamed(plain(message))
            | {"events": [{"event": event.kind.value, "at": plain(event.at)} for event in events]}
            for message, events in messages
        ],
        "campaigns": _campaigns(workspace, name),
        "experiments": {
            stored.experiment.name: variant_of(stored.experiment, name) for stored in list_experiments(workspace)
        },
        "models": [] if first_load is None else versions_since(workspace.models_dir, *first_load),
        "processing": _processing(workspace, name),
        "inferred": _inferred(workspace, name, recommender, predictions),
        "accesses": [
            {"at": plain(entry.at), "action": entry.action.value}
            for entry in read_audit(workspace, subjects=_names_over_time(workspace, user_id, name, by_pseudonym))
        ],
    }


def _unnamed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Whose it is stands once, at the top."""
    return {field: value for field, value in document.items() if field != "user_id"}


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
                exported_at = [entry.at for entry in exports if name in entry.reached]
                text = {"text": texts.get(person.text_id), "exported_at": exported_at}
                planned = {"campaign_id": plan.campaign_id, "planned_as_of": plan.as_of}
                lines.append(planned | _unnamed(plain(person)) | text)
    return lines


def _processing(workspace: Workspace, name: str) -> dict[str, Any]:
    """What the person's data may be used for now, and for how many days each kind of it is kept; None: until erased."""
    gate = workspace.gate()
    return {
        "purposes": {purpose.value: gate.permits(name, purpose) for purpose in Purpose},
        "kept_days": workspace.settings.retention.model_dump(),
    }


def _inferred(
    workspace: Workspace, name: str, recommender: Recommender | None, predictions: Iterable[Prediction]
) -> dict[str, Any]:
    """The profile in words, what would be recommended now with scores and reasons, what the person is predicted to do,
    and how trials say that a treatment moves them. Nothing is inferred of whoever did not agree."""
    inferred: dict[str, Any] = {"status": InferenceStatus.NOT_AGREED, "profile": None, "recommendations": {}}
    inferred |= {"predictions": [], "effects": {}}
    if not workspace.gate().permits(name, Purpose.PERSONALISATION):
        return inferred
    try:
        recommender = (recommender or open_recommender(workspace)).by_pseudonym()
    except ModelError as error:
        inferred |= {"status": InferenceStatus.NO_MODEL, "problem": str(error)}
    else:
        inferred["status"] = InferenceStatus.INFERRED
        for intent in (Intent.MIXED, Intent.REMIND, Intent.DISCOVER):
            slate = plain(recommender.recommend(RecommendRequest(users=(name,), k=SLATE_ITEMS, intent=intent))[0])
            inferred["recommendations"][intent.value] = _unnamed(slate)
    _, texts = person_profile(workspace, name, workspace.settings.locale, by_pseudonym=True)
    inferred["profile"] = plain(texts)
    for prediction in predictions:
        of_person = tuple(person for person in prediction.people if person.user_id == name)
        document = prediction_document(replace(prediction, people=of_person))
        question = {field: document[field] for field in ("kind", "horizon_days", "as_of", "meaning")}
        inferred["predictions"] += [question | _unnamed(person) for person in document["people"]]
    if effects := effect_names(workspace):
        agreed = workspace.gate().dataset(Purpose.PERSONALISATION)
        people = agreed.before(present(workspace))
        inferred["effects"] = {effect: _effect(workspace, effect, people, name) for effect in effects}
    return inferred


def _effect(workspace: Workspace, effect: str, people: Dataset, name: str) -> dict[str, Any]:
    try:
        of_person = effects_of(workspace, effect, people)(people.user_rows([name]))
    except ModelError as error:  # it learned from somebody who was erased, and its time is over
        return {"problem": str(error)}
    return {field: float(getattr(of_person, field)[0]) for field in ("effect", "low", "high")}
