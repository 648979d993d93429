"""Every place where a workspace keeps something about people, in one list, and the files without people.

The only module of this room that imports rooms which learn, answer or speak: the others get the list as an argument.
The records of learning and serving stand here, those of other rooms next to the code that keeps them. Inferences about
a person are not stored: an export makes them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from recllm.base.documents import plain
from recllm.base.errors import ModelError, StoreError, UnknownIdError
from recllm.base.files import lock_file
from recllm.base.questions import RecommendRequest
from recllm.base.schema import Intent, Purpose
from recllm.doors.privacy.certificate import CERTIFICATE_FILES
from recllm.market.adcopy.request import VOICE_FILE
from recllm.market.campaigns.drafts import CAMPAIGNS
from recllm.market.campaigns.drafts import FILES as CAMPAIGN_FILES
from recllm.market.experiments.effect import variant_of
from recllm.market.experiments.slates import list_experiments
from recllm.market.occasions.day import MODEL_FILE
from recllm.market.propensity.effects import FOLDER as EFFECTS
from recllm.market.propensity.effects import effect_names, effects_of
from recllm.market.propensity.prediction import prediction_document
from recllm.recommend.recommender.people import person_profile
from recllm.recommend.recommender.registry import mark_tainted, remove_tainted, taints, versions_since
from recllm.recommend.recommender.shop_recommender import open_recommender, tainted_until
from recllm.recommend.recommender.shop_states import forget_in_states, remove_states
from recllm.shop.ingest.quarantine import QUARANTINE, UPLOADED
from recllm.shop.ingest.sources import OWN_KINDS
from recllm.shop.workspace import personal_records as records
from recllm.shop.workspace.console_sessions import SIGNED_IN
from recllm.shop.workspace.store_records import AUDIT_LOG, STORE, unnamed
from recllm.shop.workspace.workspace import NEXT_KEY, SETTINGS_FILE, SNAPSHOT, Workspace, present
from recllm.text.domains import FOLDER as DOMAINS
from recllm.text.encoder.cache import CACHE_FILE, QUERY_CACHE_FILE

OF_EARLIER_RELEASES = ("privacy_budget.jsonl", "effect", "vocabulary.json")
_PAGES = ("report.json", "report.html")
"""Of `recllm start`: slates, texts and a profile of some people, and the same for the eye."""
SLATE_ITEMS = 10
EARLIER_MODEL_FILE = "replenishment.safetensors"
"""Of an earlier version: no longer read."""


EXPORT_FORMAT = 3
"""Of the document of an export; it grows when a part changes its form."""


class InferenceStatus(StrEnum):
    """Whether anything is inferred of a person."""

    INFERRED = "inferred"
    NOT_AGREED = "not_agreed"
    NO_MODEL = "no_model"
    """None can be opened; `problem` says why."""


def mark_learned(workspace: Workspace, people: records.ErasedPeople) -> records.Removed:
    """Marks models and effects made after the first data of one of the people; needs their rows."""
    with workspace.store().read() as reader:
        loaded = reader.first_loaded(people.subjects).values()
    if not loaded:
        return records.Removed()
    first_load, loaded_at = min(number for number, _ in loaded), min(time for _, time in loaded)
    until, root = tainted_until(workspace, people.at), workspace.root
    learned = versions_since(workspace.models_dir, first_load, loaded_at)
    mark_tainted(workspace.models_dir, learned, at=people.at, use_until=until)
    marked = taints(workspace.models_dir)
    models = {version: marked[version].use_until for version in learned}
    if names := effect_names(workspace):
        mark_tainted(root / EFFECTS, names, at=people.at, use_until=until)
        of_effects = taints(root / EFFECTS)
        models |= {f"{EFFECTS}/{name}": of_effects[name].use_until for name in names}
    for file in (MODEL_FILE, EARLIER_MODEL_FILE):
        (root / file).unlink(missing_ok=True)  # it is learned again when occasions are asked for
    return records.Removed(models=models)


def remove_ended_models(workspace: Workspace, clock: datetime, dry_run: bool) -> records.Removed:
    removed = [] if dry_run else remove_tainted(workspace.models_dir, ended_by=clock)
    return records.Removed(files={"tainted_models": len(removed)})


def export_learned(workspace: Workspace, person: records.ExportedPerson) -> dict[str, Any]:
    with workspace.store().read() as reader:
        first_load = reader.first_loaded([person.name]).get(person.name)
    return {
        "experiments": {e.name: variant_of(e, person.name).name for e in list_experiments(workspace)},
        "models": [] if first_load is None else versions_since(workspace.models_dir, *first_load),
        "inferred": inferences(workspace, person),
    }


def inferences(workspace: Workspace, person: records.ExportedPerson) -> dict[str, Any]:
    """Profile in words, present recommendations, predictions and effects of treatments. Nothing without consent."""
    name = person.name
    inferred: dict[str, Any] = {"status": InferenceStatus.NOT_AGREED, "profile": None, "recommendations": {}}
    inferred |= {"predictions": [], "effects": {}}
    if not workspace.gate().permits(name, Purpose.PERSONALISATION):
        return inferred
    try:
        recommender = (person.recommender or open_recommender(workspace)).by_pseudonym()
    except ModelError as error:
        inferred |= {"status": InferenceStatus.NO_MODEL, "problem": str(error)}
    else:
        inferred["status"] = InferenceStatus.INFERRED
        for intent in (Intent.MIXED, Intent.REMIND, Intent.DISCOVER):
            slate = plain(recommender.recommend(RecommendRequest(users=(name,), k=SLATE_ITEMS, intent=intent))[0])
            inferred["recommendations"][intent.value] = unnamed(slate)
    _, texts = person_profile(workspace, name, workspace.settings.locale, by_pseudonym=True)
    inferred["profile"] = plain(texts)
    for prediction in person.predictions:
        of_person = tuple(predicted for predicted in prediction.people if predicted.user_id == name)
        document = prediction_document(replace(prediction, people=of_person))
        question = {field: document[field] for field in ("kind", "horizon_days", "as_of", "meaning")}
        inferred["predictions"] += [question | unnamed(predicted) for predicted in document["people"]]
    if effects := effect_names(workspace):
        people = workspace.gate().dataset(Purpose.PERSONALISATION).before(present(workspace))
        for effect in effects:
            try:
                learned = effects_of(workspace, effect, people)(people.user_rows([name]))
            except ModelError as error:  # it learned from an erased person and has expired
                inferred["effects"][effect] = {"problem": str(error)}
            else:
                figures = {field: float(getattr(learned, field)[0]) for field in ("effect", "low", "high")}
                inferred["effects"][effect] = figures
    return inferred


LEARNED = records.PersonalRecords(
    name="models",
    files=("models", EFFECTS, MODEL_FILE, EARLIER_MODEL_FILE),
    in_backup=True,
    leftovers=("models/.*", "models/versions/*.tmp", f"{EFFECTS}/.*"),
    forget=mark_learned,
    export=export_learned,
    outdated=remove_ended_models,
)


def restrict_person(workspace: Workspace, name: str, *, restricted: bool) -> bool:
    """Uses a person's data for nothing from now on, or again as they agreed; whether that changed anything. name: a
    pseudonym. Raises `UnknownIdError`."""
    changed = workspace.store().restrict(name, datetime.now(UTC) if restricted else None)
    if changed:
        forget_in_states(workspace)
    return changed


def forget_served(workspace: Workspace, people: records.ErasedPeople) -> records.Removed:
    forget_in_states(workspace)
    return records.Removed()


SERVED = records.PersonalRecords(
    name="serving",
    files=("serving",),
    entries="serving/*.*/people.safetensors",
    forget=forget_served,
    rename=lambda workspace, renamed: remove_states(workspace),  # a state is made again when needed
)
QUERY_VECTORS = records.PersonalRecords(
    name="vectors",
    files=(f"cache/vectors/{QUERY_CACHE_FILE}*",),
    entries=f"cache/vectors/{QUERY_CACHE_FILE}",
    forget=records.forget_files("cached_vectors", f"cache/vectors/{QUERY_CACHE_FILE}*"),
)
FINE_TUNING = records.PersonalRecords(
    name="fine_tuning",
    files=("cache/lora",),
    entries="cache/lora/*",
    days=lambda limits: limits.fine_tuning,
    # examples are rows of people; a run that is going on keeps its open file
    forget=records.forget_files("fine_tuning_examples", "cache/lora/*/examples/*.arrow"),
)
UNFINISHED = records.PersonalRecords(
    name="unfinished",
    files=("cache/unfinished",),
    entries="cache/unfinished/*",
    days=lambda limits: limits.fine_tuning,
    forget=records.forget_files("unfinished_measurements", "cache/unfinished/*"),
)


def forget_snapshot(workspace: Workspace, people: records.ErasedPeople) -> records.Removed:
    """Of a backup that was stopped; of one that is being written it goes with the backup."""
    with suppress(StoreError), lock_file(workspace.root / f"{SNAPSHOT}.lock", wait_seconds=0.0):
        shutil.rmtree(workspace.root / SNAPSHOT, ignore_errors=True)
    return records.Removed()


REGISTRY = records.RecordRegistry(
    # in the order of an erasure: what learned from people is marked as long as their rows say since when it did; files
    # go before rows, of which the sessions are read; what serves is made from rows
    records=(
        LEARNED,
        CAMPAIGNS,
        QUARANTINE,
        UPLOADED,
        records.PersonalRecords(
            name="pages",
            files=_PAGES,
            in_backup=True,
            entries=_PAGES[0],
            forget=records.forget_files("pages", "report.*"),
            rename=lambda shop, renamed: records.remove_files(shop, shop.root.glob("report.*"), "pages"),
        ),
        QUERY_VECTORS,
        FINE_TUNING,
        UNFINISHED,
        records.PersonalRecords(name="backup in progress", files=(SNAPSHOT,), forget=forget_snapshot),
        STORE,
        SERVED,
        AUDIT_LOG,
        CERTIFICATE_FILES,
        SIGNED_IN,
    ),
    impersonal=(
        records.PersonalRecords(
            name="copies",  # records of texts, which earlier releases kept
            files=("copies",),
            in_backup=True,
            entries="copies/*.json",
            days=lambda limits: limits.copies,
        ),
        records.PersonalRecords(
            name="what the shop set and wrote",
            files=(SETTINGS_FILE, VOICE_FILE, DOMAINS, CAMPAIGN_FILES, "images", "console.jsonl", *OF_EARLIER_RELEASES),
            in_backup=True,
            leftovers=(f"{CAMPAIGN_FILES}/.*.lock",),
        ),
        records.PersonalRecords(name="how its files are read", files=(OWN_KINDS,), in_backup=True),
        records.PersonalRecords(name="secrets and locks", files=("key", NEXT_KEY, "webhooks.json", ".lock", ".*.lock")),
        records.PersonalRecords(
            name="what is computed of items",
            files=(
                f"cache/vectors/{CACHE_FILE}*",
                "cache/vectors/*.json",
                "cache/*.json",
                "cache/generators",
                "cache/item-index",
            ),
        ),
    ),
)


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
    person = records.ExportedPerson(name, names, recommender, predictions)
    document: dict[str, Any] = {"format": EXPORT_FORMAT, "user_id": user_id, "pseudonym": name}
    for record in REGISTRY.records:
        document |= {} if record.export is None else record.export(workspace, person)
    gate = workspace.gate()
    document["processing"] = {
        "purposes": {purpose.value: gate.permits(name, purpose) for purpose in Purpose},
        "kept_days": workspace.settings.retention.model_dump(),  # None: until erased
    }
    return document
