"""Campaigns: the list, drafts, and the five pages of each.

A page's form is kept as a draft as soon as it is sent. A form names the revision that its page showed; if the campaign
was changed since, nothing is written, and the page comes back with what was typed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query
from fastapi.responses import Response

from recllm.base.errors import UnknownIdError
from recllm.base.schema import Occasion
from recllm.doors.console import campaign_messages, campaign_pages, campaign_review
from recllm.doors.console.campaign_fields import (
    FIELDS,
    CampaignStep,
    field_texts,
    fields_of_file,
    typed_texts,
    with_typed,
)
from recllm.doors.console.campaign_messages import MessageQuery, TheQuery, show_messages
from recllm.doors.console.campaign_pages import (
    FieldProblemsError,
    PageState,
    actor_name,
    campaign_values,
    changed_fields,
    check_fields,
    common_values,
    count_cell,
    mended,
    order,
    page_path,
    refused_state,
    show_people,
)
from recllm.doors.console.campaign_review import show_review
from recllm.doors.console.home import day_name, suggestion_rows
from recllm.doors.console.items import categories, products
from recllm.doors.console.pages import REFUSALS, ConsoleSection, PageRoute, TheForm, TheVisit, Visit
from recllm.doors.console.tables import ConsoleTable, TableCell, TableRow
from recllm.doors.service.jobs import ENDED, JobState
from recllm.doors.service.marketing import check_no_job
from recllm.market.adcopy.request import OfferType
from recllm.market.campaigns.drafts import (
    CampaignStage,
    CampaignSummary,
    campaign_file,
    change_campaign,
    create_campaign,
    file_path,
    list_campaigns,
    revision_of,
    summary_of,
)
from recllm.market.campaigns.open_campaign import OpenCampaign
from recllm.market.occasions.calendar import CalendarDay, ComingDay, days_of, is_sale, nearest_date
from recllm.market.occasions.suggest import BUYER_DAYS, send_time
from recllm.shop.workspace.keys import Scope

router = APIRouter(prefix="/campaigns", route_class=PageRoute)
SECTION = ConsoleSection("campaigns", "/campaigns", router, is_main=True)

SHOWN_ITEMS = 20


@router.get("")
def index(visit: TheVisit, stage: Annotated[CampaignStage | None, Query()] = None) -> Response:
    order = {CampaignStage.PLANNED: 0, CampaignStage.DRAFT: 1, CampaignStage.EXPORTED: 2}
    listed = sorted(list_campaigns(visit.workspace), key=lambda line: (order[line.stage], line.campaign_id))
    rows = [campaign_row(visit, line) for line in listed if stage in (None, line.stage)]
    return visit.page(
        "campaigns.html.j2",
        section="campaigns",
        table=visit.table("campaigns", rows) if listed else None,
        stage=stage,
        counts=Counter(line.stage for line in listed),
    )


STAGE_TONES = {CampaignStage.DRAFT: "warn", CampaignStage.PLANNED: "accent", CampaignStage.EXPORTED: "good"}


def campaign_row(visit: Visit, line: CampaignSummary) -> TableRow:
    is_here = line.revision is not None  # else it was planned by the command line
    where = "results/campaign" if line.stage is CampaignStage.EXPORTED else "campaigns/campaign"
    stage = TableCell(
        value=line.stage.value, text="", tag=visit.say(f"campaigns.stage.{line.stage}"), tone=STAGE_TONES[line.stage]
    )
    return (
        TableCell(
            value=line.goal or line.campaign_id,
            href=f"/{where}/{quote(line.campaign_id)}" if is_here else "",
            remark="" if is_here else visit.say("campaigns.elsewhere"),
        ),
        line.campaign_id,
        stage,
        *((line.addressed, line.held_out, line.texts) if line.texts else (None, None, None)),
        TableCell(text=visit.say(f"campaigns.next_of.{line.stage}") if is_here else ""),
    )


@router.get("/new")
def new_page(
    visit: TheVisit,
    occasion: Annotated[Occasion | CalendarDay | None, Query()] = None,
    item: Annotated[str, Query(max_length=256)] = "",
) -> Response:
    typed = occasion_texts(visit, occasion) if occasion else {}
    if isinstance(occasion, CalendarDay) and is_sale(occasion):
        typed["offer.type"] = OfferType.PERCENT.value
    return _new_page(visit, PageState(typed=typed), item)


def _new_page(visit: Visit, state: PageState, item: str = "") -> Response:
    empty = field_texts({}, visit.workspace.settings.timezone)
    sender = {f"sender.{name}": text for name, text in last_sender(visit).items()}
    values = {
        "campaign_id": None,
        "item": item,
        "texts_of_form": empty | sender | dict(state.typed),
        **occasion_values(visit, empty | sender),
        **common_values(visit, state, CampaignStep.OCCASION),
    }
    return visit.page("campaign_occasion.html.j2", section="campaigns", status=state.status, **values)


@router.post("")
def create(visit: TheVisit, form: TheForm) -> Response:
    visit.require(Scope.MARKETING)
    typed, item = typed_texts(form, CampaignStep.OCCASION), form.text("item", 256)

    try:
        base = {"target": {"items": [item]}} if item else day_fields(visit, typed["target.day"])
        fields = new_fields(visit, typed, base)
        check_fields(visit, fields)
        campaign_id = create_campaign(visit.workspace, fields, by=actor_name(visit))
    except REFUSALS as error:
        return _new_page(visit, refused_state(visit, error, typed), item)
    return visit.back(page_path(campaign_id, CampaignStep.PEOPLE), "campaign_saved")


@router.post("/draft")
def draft(visit: TheVisit, form: TheForm) -> Response:
    """A campaign of an occasion or a coming day, filled in, and planned where the sender is known. A day that is about
    an offer asks for it first."""
    visit.require(Scope.MARKETING)
    occasion = next((o for o in (*Occasion, *CalendarDay) if o == form.text("occasion")), None)
    if occasion is None:
        raise UnknownIdError("there is no such occasion; see Today")
    empty, form_page = field_texts({}, None), f"/campaigns/new?occasion={occasion.value}"
    if isinstance(occasion, CalendarDay) and is_sale(occasion):
        return visit.back(form_page, "offer_first")
    typed = {field.path: empty[field.path] for field in FIELDS[CampaignStep.OCCASION]} | occasion_texts(visit, occasion)
    typed |= {f"sender.{name}": text for name, text in last_sender(visit).items()}
    fields = new_fields(visit, typed, day_fields(visit, typed["target.day"]))
    try:
        check_fields(visit, fields)
    except FieldProblemsError:
        return visit.back(form_page, "sender_first")
    campaign_id = create_campaign(visit.workspace, fields, by=actor_name(visit))
    if isinstance(occasion, CalendarDay) and "items" not in fields["target"]:
        return visit.back(page_path(campaign_id, CampaignStep.PRODUCTS), "goods_first")
    if not visit.may(Scope.PEOPLE):
        return visit.back(page_path(campaign_id, CampaignStep.PEOPLE), "campaign_drafted")
    job = order(visit, campaign_id, revision_of(visit.workspace, campaign_id))
    return visit.back(page_path(campaign_id, CampaignStep.MESSAGES, job=job.job_id), "campaign_drafted")


def occasion_texts(visit: Visit, occasion: Occasion | CalendarDay) -> dict[str, str]:
    """The texts of the form of an occasion's campaign, which is named after it and the day."""
    if isinstance(occasion, Occasion):
        name, at = visit.say(f"suggestion.{occasion}.title"), visit.now
        return {"target.occasion": occasion.value, "goal": f"{name}, {visit.words.short_day(at)}"}
    on = nearest_date(occasion, visit.workspace.settings, visit.now.date())
    name = day_name(visit, occasion)
    return {"target.day": occasion.value, "goal": f"{name[:1].upper()}{name[1:]}, {visit.words.calendar_day(on)}"}


def day_fields(visit: Visit, name: str) -> dict[str, Any]:
    """The fields that follow from a day of the calendar: its goods, its people, and when messages go out; none for
    no day."""
    if not name:
        return {}
    day, settings = CalendarDay(name), visit.workspace.settings
    figures, today = visit.state.figures.latest(visit.shop), visit.now.date()
    line = next((line for line in (figures and figures.suggestions) or () if line.occasion is day), None)
    target: dict[str, Any] = {"people": {"condition": "bought", "days": BUYER_DAYS}}
    if line is not None and line.item_ids:
        target["items"] = list(line.item_ids)
    send = send_time(visit.workspace, ComingDay(day=day, on=nearest_date(day, settings, today)))
    return {"target": target} | ({"send": send} if send else {})


def new_fields(visit: Visit, typed: Mapping[str, str], base: Mapping[str, Any] | None = None) -> dict[str, Any]:
    settings, fields = visit.workspace.settings, dict(base or {})
    fields |= {"id": free_id(visit, typed["goal"]), "channels": list(settings.occasions.channels)}
    if settings.locale.startswith("zh"):
        fields["locales"] = ["zh"]
    return mended(with_typed(fields, typed, CampaignStep.OCCASION, settings.timezone), visit.now)


def free_id(visit: Visit, goal: str) -> str:
    """An id that no campaign has, from the words of its goal."""
    stem = re.sub(r"[^a-z0-9]+", "-", goal.lower()).strip("-")[:40].strip("-") or "campaign"
    existing_ids = {line.campaign_id for line in list_campaigns(visit.workspace)}
    return next(name for n in range(1, 10_000) if (name := stem if n == 1 else f"{stem}-{n}") not in existing_ids)


def last_sender(visit: Visit) -> dict[str, str]:
    """The sender of the latest campaign that has one, so that it is typed once."""
    for path in sorted((visit.workspace.root / "campaign-files").glob("*.toml"), key=lambda p: -p.stat().st_mtime):
        sender = fields_of_file(path.read_bytes()).get("sender")
        if isinstance(sender, dict) and sender.get("name"):
            return {name: str(sender.get(name, "")) for name in ("name", "address", "opt_out")}
    return {}


@router.get("/campaign/{campaign_id}")
def campaign_page(visit: TheVisit, campaign_id: str) -> Response:
    """The page that waits for a person."""
    stage = summary_of(visit.workspace, campaign_id).stage
    if stage is CampaignStage.EXPORTED:
        return visit.back(f"/results/campaign/{quote(campaign_id)}")
    step = CampaignStep.PEOPLE if stage is CampaignStage.DRAFT else CampaignStep.MESSAGES
    return visit.back(page_path(campaign_id, step))


@router.get("/campaign/{campaign_id}/{step}")
def step_of_campaign(visit: TheVisit, campaign_id: str, step: CampaignStep, query: TheQuery) -> Response:
    """One of the five pages. query: of the messages."""
    return step_page(visit, campaign_id, step, PageState(), query)


def step_page(
    visit: Visit, campaign_id: str, step: CampaignStep, state: PageState, query: MessageQuery | None = None
) -> Response:
    """One of a campaign's pages with what is typed.
    Raises `UnknownIdError` for an unknown campaign."""
    if step is CampaignStep.PEOPLE:
        return show_people(visit, campaign_id, state)
    if step is CampaignStep.MESSAGES:
        return show_messages(visit, campaign_id, state, query)
    if step is CampaignStep.REVIEW:
        return show_review(visit, campaign_id, state)
    values = campaign_values(visit, campaign_id, step, state)
    if step is CampaignStep.OCCASION:
        values |= occasion_values(visit, values["texts_of_form"])
    else:
        selected, listed = products(visit, values["texts_of_form"]["target.items"].splitlines(), state.words)
        values |= {"chosen": selected, "listed": listed, "categories": categories(visit), "words": state.words}
        values["planned_items"] = items_table(visit, values["campaign"]) if values["campaign"] else None
    return visit.page(f"campaign_{step}.html.j2", section="campaigns", status=state.status, **values)


def occasion_values(visit: Visit, texts: Mapping[str, str]) -> dict[str, Any]:
    figures, settings = visit.state.figures.latest(visit.shop), visit.workspace.settings
    today, picked = visit.now.date(), texts["target.day"]
    known_days = {*days_of(settings), *map(CalendarDay, filter(None, [picked]))}
    dated = sorted((nearest_date(day, settings, today), day) for day in known_days)
    return {
        "suggestions": {row["occasion"]: row for row in suggestion_rows(visit, figures)},
        "is_sender_known": bool(texts["sender.name"]),
        "days": {
            day.value: f"{day_name(visit, day)} ({visit.words.calendar_day(on)})"
            for on, day in dated
            if on >= today or day == picked  # a past one only where the campaign has it
        },
    }


def items_table(visit: Visit, campaign: OpenCampaign) -> ConsoleTable:
    counts = Counter(person.item_id for person in campaign.plan.addressed)
    items, plan_id = campaign.catalogue.items, campaign.plan.campaign_id

    def row(name: str, n: int) -> TableRow:
        title, path = (items[name].title, " > ".join(items[name].category)) if name in items else (name, "")
        people = visit.figures.people(n, plan_id, name)
        return TableCell(value=title, picture=(name, path)), name, count_cell(visit, people, is_estimate=True)

    rows = [row(name, n) for name, n in counts.most_common()]
    return visit.table("items", rows[:SHOWN_ITEMS], of="planned-items", all_rows=lambda: rows)


@router.post("/campaign/{campaign_id}/save/{step}")
def save(visit: TheVisit, form: TheForm, campaign_id: str, step: CampaignStep) -> Response:
    """Keep a page's form. A plan that was made has to be made again."""
    visit.require(Scope.MARKETING)
    typed, is_planned = typed_texts(form, step), form.text("then") == "plan"
    if is_planned:
        visit.require(Scope.PEOPLE)
    try:
        changed = changed_fields(visit, campaign_id, typed, step)
        check_fields(visit, changed, step)
        check_no_job(visit.state.service, visit.shop, campaign_id)
        revision, by = form.text("revision"), actor_name(visit)
        change_campaign(visit.workspace, campaign_id, changed, revision=revision, by=by)
        job = order(visit, campaign_id, revision_of(visit.workspace, campaign_id)) if is_planned else None
    except REFUSALS as error:
        return step_page(visit, campaign_id, step, refused_state(visit, error, typed))
    if job is not None:
        return visit.back(page_path(campaign_id, CampaignStep.MESSAGES, job=job.job_id))
    steps = list(CampaignStep)
    stays = step in (CampaignStep.MESSAGES, CampaignStep.REVIEW)
    after = step if stays else steps[steps.index(step) + 1]
    return visit.back(page_path(campaign_id, after), "campaign_saved")


@router.post("/campaign/{campaign_id}/products/find")
def find_products(visit: TheVisit, form: TheForm, campaign_id: str) -> Response:
    """The page of the products with those that words find; nothing is written."""
    visit.require(Scope.MARKETING)
    typed = typed_texts(form, CampaignStep.PRODUCTS)
    state = PageState(typed=typed, words=form.text("words", 200))
    return step_page(visit, campaign_id, CampaignStep.PRODUCTS, state)


@router.post("/campaign/{campaign_id}/plan")
def plan(visit: TheVisit, form: TheForm, campaign_id: str) -> Response:
    """Choose the people and write the messages, in the background."""
    visit.require(Scope.MARKETING, Scope.PEOPLE)
    campaign_file(visit.workspace, campaign_id)

    try:
        check_fields(visit, fields_of_file(file_path(visit.workspace, campaign_id).read_bytes()))
        job = order(visit, campaign_id, form.text("revision"))
    except REFUSALS as error:
        return step_page(visit, campaign_id, CampaignStep.MESSAGES, refused_state(visit, error))
    return visit.back(page_path(campaign_id, CampaignStep.MESSAGES, job=job.job_id))


@router.get("/campaign/{campaign_id}/plan/{job_id}")
def plan_state(visit: TheVisit, campaign_id: str, job_id: str) -> Response:
    job = visit.state.service.background.job(visit.shop.name, job_id)
    if not visit.is_part:
        return visit.back(page_path(campaign_id, CampaignStep.MESSAGES, job=job_id))
    response = visit.page("campaign_job.html.j2", campaign_id=campaign_id, job=job, unproven={})
    if job.state in ENDED:  # the whole page: with the messages, or why there are none and what to do
        query = {} if job.state is JobState.DONE else {"job": job_id}
        response.headers["HX-Redirect"] = page_path(campaign_id, CampaignStep.MESSAGES, **query)
    return response


@router.post("/campaign/{campaign_id}/plan/{job_id}/cancel")
def cancel_plan(visit: TheVisit, campaign_id: str, job_id: str) -> Response:
    """End a plan before its next step; nothing of it is kept."""
    visit.require(Scope.MARKETING)
    background = visit.state.service.background
    if background.job(visit.shop.name, job_id).about == campaign_id:
        background.cancel(visit.shop.name, job_id)
    return visit.back(page_path(campaign_id, CampaignStep.MESSAGES, job=job_id))


@router.post("/campaign/{campaign_id}/clone")
def clone(visit: TheVisit, campaign_id: str) -> Response:
    """A new draft with the same fields, but for the times, which would be past."""
    visit.require(Scope.MARKETING)
    campaign_file(visit.workspace, campaign_id)
    fields = fields_of_file(file_path(visit.workspace, campaign_id).read_bytes())
    fields.pop("send", None)
    if isinstance(fields.get("offer"), dict):
        fields["offer"] = {name: value for name, value in fields["offer"].items() if name not in ("start", "end")}
    fields["id"] = free_id(visit, re.sub(r"-\d+$", "", campaign_id))
    new_id = create_campaign(visit.workspace, fields, by=actor_name(visit))
    return visit.back(page_path(new_id, CampaignStep.OCCASION), "campaign_cloned")


for pages in (campaign_pages, campaign_messages, campaign_review):
    router.routes.extend(pages.router.routes)
