"""People: one person's data, and what is recommended to them.

The shop's own id of a person comes in by a form only and becomes a pseudonym at once, which addresses and logs have.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException

from recllm.base.documents import json_text
from recllm.base.errors import RecllmError, UnknownIdError
from recllm.base.questions import PredictionKind
from recllm.base.schema import ACTIONS, Action, Occasion, Profile, Purpose, SlateStatus, Table
from recllm.base.words.sentences import LANGUAGES
from recllm.doors.console.home import suggestion_rows, suggestion_title, suggestion_words
from recllm.doors.console.pages import ConsoleSection, PageRoute, TheForm, TheVisit, Visit, slow
from recllm.doors.console.tables import TableCell, TableRow
from recllm.doors.privacy.erasure import erase_people
from recllm.doors.privacy.registry import export_person, restrict_person
from recllm.doors.service.jobs import ENDED, JobState, Progress
from recllm.market.occasions.calendar import CalendarDay
from recllm.market.occasions.suggest import SuggestedPerson
from recllm.market.propensity.examples import TO_COUNT
from recllm.market.propensity.prediction import PredictionRequest
from recllm.recommend.recommender.histories import UserHistory
from recllm.recommend.recommender.recommender import Recommender
from recllm.recommend.recommender.two_lists import SlateLists, slate_lists
from recllm.shop.data.dataset import utc
from recllm.shop.ingest.workspace_load import add_consent, add_events
from recllm.shop.workspace.audit import AuditAction, audit
from recllm.shop.workspace.keys import Scope
from recllm.shop.workspace.workspace import recording_time
from recllm.text.items import item_names

router = APIRouter(prefix="/people", route_class=PageRoute)
SECTION = ConsoleSection("people", "/people", router, is_main=True)

PROFILE_LINES = 12
LISTED_PEOPLE = 50
HISTORY_LINES = 25
FEEDBACK = {"dismiss": Action.DISMISS, "purchase": Action.PURCHASE}
PURPOSES = (
    Purpose.PERSONALISATION,
    Purpose.EMAIL,
    Purpose.PUSH,
    Purpose.SMS,
    Purpose.ANALYTICS,
    Purpose.MODEL_TRAINING,
    Purpose.LLM_LOCAL,
    Purpose.LLM_THIRD_PARTY,
)

KINDS = (PredictionKind.BUY, PredictionKind.NEXT_ORDER, PredictionKind.LEAVE, PredictionKind.VALUE)
"""Predictions in the order of the page; all within the horizon of a `PredictionRequest` that says none."""
PREDICTIONS_JOB = {language: f"predictions {language}" for language in LANGUAGES}
"""Language of the page and of the reasons -> what the job is about."""


@router.get("")
def index(visit: TheVisit) -> Response:
    return _index(visit)


def _index(visit: Visit, *, typed: str = "", problem: str | None = None, status: int = 200, **added: Any) -> Response:
    with visit.workspace.store().read() as reader:
        loads = reader.marks().load_no
    figures = visit.state.figures.latest(visit.shop)
    values = {
        "has_people": not loads.keys().isdisjoint((Table.USERS, Table.EVENTS, Table.CONSENT)),
        "typed": typed,
        "problem": problem,
        "certificate": None,
        "suggested": figures is not None and figures.suggestions is not None,
        "suggestions": suggestion_rows(visit, figures),
    }
    return visit.page("people.html.j2", status=status, section="people", **values | added)


@router.post("/search")
def search(visit: TheVisit, form: TheForm) -> Response:
    """From the shop's own id to the address of the person's page."""
    typed = form.text("user_id", 256).strip()
    if not typed:
        return _index(visit, problem="people.no_id", status=422)

    name = visit.workspace.pseudonymiser().one(typed)
    if not visit.workspace.gate().knows_each([name])[0]:
        return _index(visit, typed=typed, problem="people.unknown", status=404)
    visit.state.typed.put(typed, visit.browser, name)
    return RedirectResponse(f"/people/{name}", 303)


@router.get("/list/{kind}")
def people_list(
    visit: TheVisit, kind: Occasion | CalendarDay, page: Annotated[int, Query(ge=1, le=1_000_000)] = 1
) -> Response:
    """The people behind a suggestion, by pseudonym; none where they are fewer than the policy's floor."""
    figures = visit.state.figures.get(visit.shop)
    suggestions = None if figures is None else figures.suggestions
    line = next((line for line in suggestions or () if line.occasion is kind), None)
    people, is_small = line.people if line else (), line is None or len(line.people) < visit.figures.floor
    start, title = (page - 1) * LISTED_PEOPLE, suggestion_title(visit, line) if line else visit.say("nav.people")
    shown_people = people[start : start + LISTED_PEOPLE]
    items = visit.workspace.gate().catalogue(sorted({person.item_id for person in shown_people if person.item_id}))
    titles = dict(zip(items["item_id"], item_names(items, visit.language), strict=True))

    def row(person: SuggestedPerson) -> TableRow:
        pseudonym = TableCell(value=person.user_id, text=f"{person.user_id[3:15]}…", href=f"/people/{person.user_id}")
        item = TableCell(value=person.item_id, text=titles.get(person.item_id or ""))
        return pseudonym, item, person.days_since, person.usual_days, person.probability

    rows = [row(person) for person in shown_people]
    return visit.page(
        "people_list.html.j2",
        section="people",
        kind=kind,
        is_counted=suggestions is not None,
        table=None
        if is_small
        else visit.table(f"people-{kind}", rows, of="people", title=title, all_rows=lambda: map(row, people)),
        title=title,
        what=suggestion_words(visit, line, len(people)) if line else "",
        n_people=len(people),
        page=page,
        n_pages=-(-len(people) // LISTED_PEOPLE),
    )


@router.get("/{name}")
def person_page(
    visit: TheVisit,
    name: str,
    without: Annotated[list[str], Query()] = [],  # noqa: B006 - FastAPI copies it
    page: Annotated[int, Query(ge=1, le=10_000)] = 1,
) -> Response:
    """Everything about one person. without: evidence that is thought away, see `Recommender.lacking`."""
    values = person_values(visit, name, tuple(without[: PROFILE_LINES * 2]), page)
    if not visit.is_part:
        audit(visit.workspace, visit.actor, AuditAction.PERSON_SHOWN, subject=name)
    template = "person_slate.html.j2" if visit.is_part else "person.html.j2"
    return visit.page(template, section="people", **values)


@router.post("/{name}/predictions")
def predict(visit: TheVisit, name: str) -> Response:
    """Predict all people in the background, unless a job does it."""
    visit.require(Scope.MARKETING)
    background, shop, subject = visit.state.service.background, visit.shop, PREDICTIONS_JOB[visit.language]

    def learn(tell: Progress) -> dict[str, str]:
        """Kind -> why it cannot be predicted."""
        problems = {}
        for kind in KINDS:
            tell(kind.value)
            try:
                shop.everybody.prediction(PredictionRequest(kind=kind, locale=visit.language))
            except RecllmError as error:
                problems[kind.value] = str(error)
        return problems

    background.submit_alone(shop.name, subject, learn)
    return visit.back(f"/people/{name}#predictions")


@router.get("/{name}/predictions")
def predictions_part(visit: TheVisit, name: str) -> Response:
    if not visit.is_part:
        return visit.back(f"/people/{name}#predictions")

    visit.require_person(name)
    return visit.page("person_predictions.html.j2", section="people", **prediction_values(visit, name))


@router.post("/{name}/consent")
def decide(visit: TheVisit, form: TheForm, name: str) -> Response:
    visit.require(Scope.EVENTS)
    purpose = form.text("purpose")
    if purpose not in set(Purpose):
        raise HTTPException(404)
    granted = form.text("granted") == "yes"

    visit.require_person(name)
    add_consent(visit.workspace, [(name, Purpose(purpose), granted, None)], source="console", by_pseudonym=True)
    visit.remember("consent", subject=name, purpose=purpose, granted=granted)
    return visit.back(f"/people/{name}", "agreed" if granted else "refused")


@router.post("/{name}/feedback")
def feedback(visit: TheVisit, form: TheForm, name: str) -> Response:
    """Write down that the person does not want an item, or bought it; it counts in the next list."""
    visit.require(Scope.EVENTS)
    act, item_id = form.text("act"), form.text("item_id")
    if act not in FEEDBACK:
        raise HTTPException(404)

    visit.require_person(name)
    if not len(visit.workspace.gate().catalogue([item_id])):
        raise UnknownIdError(f"no item {item_id!r} in the catalogue")
    row = {
        "user_id": name,
        "item_id": item_id,
        "event": FEEDBACK[act].value,
        "timestamp": recording_time(visit.workspace),
        "request_id": form.text("request_id", 64) or None,
    }
    add_events(visit.workspace, [row], source="console", by_pseudonym=True)
    visit.remember("feedback", subject=name, action=act)
    return visit.back(f"/people/{name}", "dismissed" if act == "dismiss" else "bought")


@router.get("/{name}/export.json")
def export(visit: TheVisit, name: str) -> Response:
    visit.require(Scope.PRIVACY)
    visit.require_person(name)
    recommender = visit.shop.recommender() if visit.shop.ready else None
    predictions = visit.shop.everybody.held_predictions()
    document = export_person(visit.workspace, name, by_pseudonym=True, recommender=recommender, predictions=predictions)
    visit.remember("export", subject=name)
    text = json_text(document | {"user_id": visit.state.typed.get(visit.browser, name) or name})
    headers = {"Content-Disposition": 'attachment; filename="person.json"'}
    return Response(text.encode(errors="backslashreplace"), media_type="application/json", headers=headers)


@router.post("/{name}/restrict")
@slow
def restrict(visit: TheVisit, form: TheForm, name: str) -> Response:
    """Use the person's data for nothing from now on, or again as they agreed."""
    visit.require(Scope.PRIVACY)
    restricted = form.text("restricted") == "yes"
    visit.require_person(name)
    if restrict_person(visit.workspace, name, restricted=restricted):
        visit.remember("restrict" if restricted else "lift_restriction", subject=name)
        visit.shop.update()
    return visit.back(f"/people/{name}", "restricted" if restricted else "unrestricted")


@router.get("/{name}/erase")
def erase_page(visit: TheVisit, name: str) -> Response:
    visit.require(Scope.PRIVACY)
    visit.require_person(name)
    with visit.workspace.store().read() as reader:
        counts = {
            "events": reader.events((), user_ids=[name]).height,
            "consent": reader.consent(user_ids=[name]).height,
            "basics": len(json.loads(reader.users([name])["basics"][0])),
            "sessions": len(reader.joined_sessions(user_id=name)),
        }
    return visit.page(
        "person_erase.html.j2",
        section="people",
        name=name,
        shop_id=visit.state.typed.get(visit.browser, name),
        counts=counts,
    )


@router.post("/{name}/erase")
@slow
def erase(visit: TheVisit, name: str) -> Response:
    visit.require(Scope.PRIVACY)
    visit.require_person(name)
    certificate = erase_people(visit.workspace, [name], actor=visit.actor, by_pseudonym=True)
    visit.state.typed.forget(name)
    visit.remember("erase", certificate=certificate.certificate_id)
    visit.shop.update()
    return _index(visit, certificate=certificate)


def person_values(visit: Visit, name: str, without: Sequence[str], page: int) -> dict[str, Any]:
    """What the page of a person shows. Raises `UnknownIdError` for a stranger."""
    visit.require_person(name)
    gate = visit.workspace.gate()
    decisions = gate.decisions(name)
    values: dict[str, Any] = {
        "name": name,
        "shop_id": visit.state.typed.get(visit.browser, name),
        # of each purpose whether the data may be used now, and when the person decided it
        "consent": [
            {"purpose": p, "granted": gate.permits(name, p), "decided_at": decisions.get(p, (0, None))[1]}
            for p in PURPOSES
        ],
        "restricted_since": visit.workspace.store().restricted_since([name]).get(name),
        "without": without,
        "profile": None,
        "horizon_days": 0,
        **prediction_values(visit, name),
    }
    recommender = visit.shop.recommender().by_pseudonym().in_language(visit.language)
    lists = slate_lists(recommender, name, explain=not without)
    values |= {"lists": lists, "changed": None}
    values["categories"] = categories_of(recommender, lists)
    if recommender.model is not None:
        values["horizon_days"] = recommender.model.horizon_days
    if lists.status not in (SlateStatus.PERSONAL, SlateStatus.TEXT_ONLY):
        return values
    person = recommender.person(name)
    profile = person.profile(recommender.dataset, name)
    if without:
        changed = slate_lists(recommender.lacking(name, without), name)
        values["changed"] = changed
        values["categories"] |= categories_of(recommender, changed)
    entries = history_entries(visit, recommender, person)
    start = (page - 1) * HISTORY_LINES
    step_seconds = recommender.dataset.step_seconds

    def when(entry: Mapping[str, Any]) -> str:
        if step_seconds is None:
            return visit.words.day(entry["at"])
        seconds = (entries[0]["at"] - entry["at"]).total_seconds()
        return visit.say("people.steps_back", n=round(seconds) // step_seconds + 1)

    by_day = itertools.groupby(entries[start : start + HISTORY_LINES], key=when)
    return values | {
        "profile": profile,
        "favourites": [
            f"{share.name} {visit.words.percent(share.share)}"
            for share in profile.favourite_categories
            if not visit.workspace.policy.is_sensitive((share.name,))
        ],
        "lines": evidence_lines(visit, recommender, profile),
        "days": [(day, list(entries_of_day)) for day, entries_of_day in by_day],
        "page": page,
        "n_pages": -(-len(entries) // HISTORY_LINES),
        "n_entries": len(entries),
    }


def prediction_values(visit: Visit, name: str) -> dict[str, Any]:
    """The predictions on the page of a person; none without consent to personalisation."""
    if not visit.workspace.gate().permits(name, Purpose.PERSONALISATION):
        return {"name": name, "may_predict": False}
    job = visit.state.service.background.latest_job(visit.shop.name, PREDICTIONS_JOB[visit.language])
    problems: Mapping[str, str] = job.result if job is not None and job.state is JobState.DONE else {}
    figures = visit.state.figures.latest(visit.shop)
    if figures is not None and figures.people < TO_COUNT[0]:
        problems = dict.fromkeys(KINDS, f"{figures.people} customers; at least {TO_COUNT[0]} are needed")
    return {
        "name": name,
        "predictions": [prediction_line(visit, name, kind, problems.get(kind, "")) for kind in KINDS],
        "job": job,
        "is_computing": job is not None and job.state not in ENDED,
        "n_kinds": len(KINDS),
        "may_predict": True,
    }


def prediction_line(visit: Visit, name: str, kind: PredictionKind, problem: str) -> dict[str, Any]:
    """One kind of prediction for one person: answered, not computed, not asked (of people without a past, or who have
    been away for long) or impossible. problem: why it is impossible, for the engineer."""
    request = PredictionRequest(kind=kind, locale=visit.language)
    learned = visit.shop.everybody.learned_prediction(request)
    line = {"kind": kind, "horizon_days": request.horizon_days, "problem": problem, "as_of": None}
    if learned is None:
        return line | {"state": "impossible" if problem else "not_computed"}
    prediction, position = learned.prediction, learned.positions.get(name)
    if position is None:
        return line | {"state": "not_asked"}
    is_value, floor = kind is PredictionKind.VALUE, visit.workspace.policy.group_floor
    return line | {
        "state": "answered",
        "person": prediction.people[position],
        "average": None if len(prediction.people) < floor or kind is PredictionKind.NEXT_ORDER else learned.mean,
        "error": prediction.figures.get("mae" if is_value else "mae_days"),
        "as_of": prediction.as_of,
        "notes": prediction.notes,
    }


def categories_of(recommender: Recommender, lists: SlateLists) -> dict[str, str]:
    """Item -> its category, for its picture."""
    items = recommender.dataset.items[recommender.dataset.item_rows(sorted(lists.item_ids)).tolist()]
    return dict(zip(items["item_id"], items["category"].list.join(" > ").fill_null(""), strict=True))


def evidence_lines(visit: Visit, recommender: Recommender, profile: Profile) -> dict[str, list[dict[str, Any]]]:
    lines_of = {}
    for kind, lines in (("B", profile.purchases), ("H", profile.browsing)):
        rows = recommender.dataset.item_rows([line.item_id for line in lines])
        named = [(line, int(row)) for line, row in zip(lines, rows, strict=True) if not _sensitive(recommender, row)]
        named = named[:PROFILE_LINES]
        titles = item_names(recommender.dataset.items[[row for _, row in named]], visit.language)
        lines_of[kind] = [
            {"line": line, "evidence_id": f"{kind}:{line.item_id}", "title": title}
            for (line, _), title in zip(named, titles, strict=True)
        ]
    return lines_of


def history_entries(visit: Visit, recommender: Recommender, person: UserHistory) -> list[dict[str, Any]]:
    """Everything the person did, newest first; items of sensitive categories are not named."""
    events = person.events
    rows, positions = np.unique(events.item, return_inverse=True)
    names = item_names(recommender.dataset.items[rows.tolist()], visit.language)
    ids = recommender.dataset.items["item_id"].gather(rows.tolist()).to_list()
    withheld, entries = [_sensitive(recommender, row) for row in rows], []
    for n in np.argsort(-events.at, kind="stable"):
        item, price = int(positions[n]), float(events.price[n])
        entries.append(
            {
                "at": utc(int(events.at[n])),
                "action": ACTIONS[int(events.action[n])],
                "item_id": None if withheld[item] else ids[item],
                "title": visit.say("people.withheld") if withheld[item] else names[item],
                "quantity": float(events.quantity[n]),
                "price": None if np.isnan(price) else price,
            }
        )
    return entries


def _sensitive(recommender: Recommender, row: int) -> bool:
    items = recommender.dataset.items
    path = items["category"][int(row)]
    return recommender.policy.is_sensitive((*(path if path is not None else ()), items["title"][int(row)] or ""))
