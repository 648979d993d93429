"""What the pages of a campaign share; and the page of the people, counted as the rule is typed."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query
from fastapi.responses import Response

from recllm.base.errors import ConflictError, DataError, PolicyError, RecllmError, UnknownIdError, UsageError
from recllm.base.stats.intervals import ConfidenceInterval
from recllm.base.words.sentences import language
from recllm.doors.console.campaign_fields import (
    FIELDS,
    RULE_FIELDS,
    RULE_NUMBERS,
    CampaignStep,
    TypedRule,
    WrongFieldsError,
    field_texts,
    fields_of_file,
    typed_texts,
    with_typed,
)
from recllm.doors.console.items import brands, categories
from recllm.doors.console.pages import ConsoleForm, PageRoute, TheForm, TheVisit, Visit, WordedError, slow
from recllm.doors.console.tables import ConsoleTable, TableCell
from recllm.doors.service.jobs import Job
from recllm.doors.service.marketing import order_plan
from recllm.market.adcopy.channels import channels
from recllm.market.audiences.people_rule import PeopleRule, rule_words
from recllm.market.campaigns.drafts import (
    CampaignStage,
    campaign_file,
    campaign_of_fields,
    file_path,
    open_by_id,
    revision_of,
    summary_of,
)
from recllm.market.campaigns.file import CampaignFile
from recllm.market.campaigns.folder import CampaignFolder, read_plan
from recllm.market.campaigns.open_campaign import OpenCampaign
from recllm.market.campaigns.plan import TimeFault, time_fault
from recllm.market.campaigns.reach import ReachCount, count_reachable
from recllm.market.campaigns.texts import festive_day
from recllm.market.occasions.calendar import SENSIBLE_DAYS
from recllm.shop.data.catalogue import on_offer
from recllm.shop.workspace.keys import Scope
from recllm.shop.workspace.workspace import present

router = APIRouter(prefix="/campaigns", route_class=PageRoute)

SENDER_PARTS: Mapping[str, tuple[str, ...]] = {"sender": ("name", "address"), "unsubscribe": ("opt_out",)}
"""What a message must carry -> what of the sender it states."""
UNKNOWN_NAME = re.compile(r"'(?P<name>[^']+)'.*did you mean '?(?P<near>[^'?]+)")
Problems = dict[str, str]
"""Path of a field -> what to do, in the visitor's language."""
STEP_OF: Mapping[str, CampaignStep] = {field.path: step for step, fields in FIELDS.items() for field in fields}


class FieldProblemsError(WordedError):
    """Fields that a person has to mend before anything is written."""

    def __init__(self, problems: Problems, english: str = "") -> None:
        super().__init__("\n".join(problems.values()))
        self.problems = problems
        self.english = english
        """What the engine said, for the engineer."""


def check_fields(visit: Visit, fields: Mapping[str, Any], step: CampaignStep | None = None) -> None:
    """Raises `FieldProblemsError` for all that is wrong, on the pages from the first one to `step`, or on all."""
    problems, english = sender_problems(visit, fields, step) | target_problems(visit, fields), ""
    try:
        file, _ = campaign_of_fields(fields)
        now = visit.now
        send = file.send or now
        # messages that would go out in the past, or while the offer does not run
        if fault := time_fault(file, send, now):
            times = {"now": now, "send": send, "start": file.offer and file.offer.start}
            at = {name: visit.words.moment(time) for name, time in times.items() if time}
            path = "offer.end" if fault[0] is TimeFault.OVER else "send"
            problems[path] = visit.say(f"campaigns.invalid.{fault[0]}", **at)
    except (DataError, UsageError) as error:
        english, of_engine = str(error), problems_of_error(visit, error)
        problems = {path: what for path, what in of_engine.items() if path or not problems} | problems
    if problems:
        raise FieldProblemsError(problems, english)


def problems_of_error(visit: Visit, error: RecllmError) -> Problems:
    """An error of the engine, by field where it names one; under "" where it does not."""
    if isinstance(error, FieldProblemsError):
        return error.problems
    if isinstance(error, WrongFieldsError):
        return {path: visit.say(f"campaigns.wrong.{kind.value}") for path, kind in error.kinds.items()}
    if isinstance(error, WordedError):
        return {"": str(error)}
    if match := UNKNOWN_NAME.search(str(error)):
        return {"": visit.say("campaigns.missing.named", name=match["name"], near=match["near"])}
    problems = Problems()
    for key in (isinstance(error, DataError) and error.keys) or [""]:
        path = next((path for path in STEP_OF if key == path or key.startswith(f"{path}.")), "")
        path = "target.people" if key.startswith("target.people") else path
        word = f"campaigns.invalid.{path.replace('.', '_')}"
        problems[path] = visit.say(word if visit.words.has(word) else "campaigns.invalid.other")
    return problems


def sender_problems(visit: Visit, fields: Mapping[str, Any], step: CampaignStep | None) -> Problems:
    """What the channels need of the sender."""
    sender = fields.get("sender") or {}
    needed = [mark for name in fields.get("channels", ()) if name in channels() for mark in channels()[name].added]
    parts = dict.fromkeys(field for name in needed for field in SENDER_PARTS.get(name, ()))
    problems = {
        f"sender.{name}": visit.say(f"campaigns.missing.sender_{name}")
        for name in parts
        if not str(sender.get(name, "")).strip()
    }
    if step is CampaignStep.PEOPLE and problems:
        return {"channels": visit.say("campaigns.missing.sender")}
    return problems


def target_problems(visit: Visit, fields: Mapping[str, Any]) -> Problems:
    """Categories and products that are not on sale, with the nearest that are."""
    target, problems = fields.get("target") or {}, Problems()
    category, item_ids = target.get("category"), target.get("items")
    if category and not target.get("text") and (names := categories(visit)):
        path = " > ".join(step.strip() for step in str(category).split(">"))
        if not any(path.casefold() in (name.casefold(), name.rpartition(" > ")[2].casefold()) for name in names):
            similar = [name for name in names if path.casefold() in name.casefold()][:3]
            similar = similar or difflib.get_close_matches(path, names, 3)
            problems["target.category"] = visit.say("campaigns.missing.category", name=path) + (
                visit.say("campaigns.missing.near", names=visit.say("people.comma").join(similar)) if similar else ""
            )
    if isinstance(item_ids, list) and item_ids:
        items = visit.workspace.gate().catalogue(list(map(str, item_ids)))
        offered = set(items.filter(on_offer(items, present(visit.workspace)))["item_id"])
        if gone := [str(name) for name in item_ids if name not in offered]:
            listed = visit.say("people.comma").join(gone[:5])
            problems["target.items"] = visit.say("campaigns.missing.items", names=listed)
    return problems


def mended(fields: dict[str, Any], now: datetime) -> dict[str, Any]:
    """Fields of an offer that starts later: messages that had no time of their own go out when it starts."""
    start = (fields.get("offer") or {}).get("start")
    is_later = isinstance(start, datetime) and start.tzinfo is not None and start > now
    return fields | {"send": start} if is_later and not fields.get("send") else fields


def count_cell(visit: Visit, n: int | None, *, is_estimate: bool = False) -> TableCell:
    """A number of people; the page names the floor where it is below.
    None: no figure, or no budget."""
    floor = visit.figures.floor
    if n is None and not is_estimate:
        return TableCell(value=None, text=visit.say("items.untold", floor=floor))
    if n is None or 0 < n < floor:
        return TableCell(value=None, text=visit.say("home.fewer", floor=floor))
    return TableCell(value=n)


def excluded_table(
    visit: Visit, excluded: Mapping[str, int | None], *, name: str = "left-out", is_estimate: bool = False
) -> ConsoleTable:
    """excluded: reason -> people; the table begins with the largest."""
    rows = [
        (
            TableCell(value=reason, text=visit.words.label(f"left_out.{reason}", reason.replace("_", " "))),
            count_cell(visit, n, is_estimate=is_estimate),
        )
        for reason, n in sorted(excluded.items(), key=lambda pair: -(pair[1] or 0))
        if n != 0 or is_estimate
    ]
    return visit.table(name, rows, of="left-out")


@dataclass(frozen=True, slots=True, kw_only=True)
class AudienceCount:
    """How many people a campaign could address with the fields as they are typed."""

    opening: bool = False
    """Whether all people are being read for the first time."""
    problems: Mapping[str, str] = field(default_factory=dict)
    """As of `PageState`."""
    reach: ReachCount | None = None
    size: int | None = None
    """People that the limits allow; None for no limit."""
    share: float = 0.0
    """Of the people drawn that is held out."""

    @property
    def addressed(self) -> int:
        """About how many are written to, where each is worth it."""
        reachable = (self.reach.reachable if self.reach else None) or 0
        open_to = round(reachable * (1 - self.share))
        return open_to if self.size is None else min(self.size, open_to)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageState:
    """What a campaign's page shows besides the campaign."""

    typed: Mapping[str, str] = field(default_factory=dict)
    """Path -> text that is typed and not saved."""
    problems: Mapping[str, str] = field(default_factory=dict)
    """Path of a field -> what to do; "" for what is of no field."""
    english: str = ""
    """What the engine said, for the engineer."""
    conflict: bool = False
    """Whether another person changed the campaign meanwhile."""
    count: AudienceCount | None = None
    words: str = ""
    """By which products are looked for."""
    status: int = 200


def page_path(campaign_id: str, step: CampaignStep, **query: str) -> str:
    fields = "&".join(f"{name}={quote(text)}" for name, text in query.items())
    return f"/campaigns/campaign/{quote(campaign_id)}/{step}" + (f"?{fields}" if fields else "")


def campaign_values(
    visit: Visit,
    campaign_id: str,
    step: CampaignStep,
    state: PageState,
) -> dict[str, Any]:
    workspace = visit.workspace
    file, stage = campaign_file(workspace, campaign_id), summary_of(workspace, campaign_id).stage
    saved = field_texts(fields_of_file(file_path(workspace, campaign_id).read_bytes()), workspace.settings.timezone)
    campaign = None
    if stage is not CampaignStage.DRAFT:
        campaign = open_by_id(workspace, campaign_id, recheck=stage is CampaignStage.PLANNED)
    return {
        "campaign_id": campaign_id,
        "file": file,
        "stage": stage,
        "saved": saved,
        "texts_of_form": {**saved, **state.typed},
        "campaign": campaign,
        "plan": campaign.plan if campaign else None,
        "has_old_plan": (workspace.root / "campaigns" / campaign_id / "plan.json").exists(),
        "revision": revision_of(workspace, campaign_id),
        **common_values(visit, state, step),
        "silent": named_products(visit, campaign.plan.silent_items) if campaign else {},
        "day_warning": day_warning(visit, file, campaign.moment if campaign else file.send),
        "locked": stage is CampaignStage.EXPORTED or not visit.may(Scope.MARKETING),
    }


def named_products(visit: Visit, item_ids: Iterable[str]) -> dict[str, str]:
    """Id -> title and id, of those that the catalogue has."""
    items = visit.workspace.gate().catalogue(sorted(item_ids))
    return {item_id: f"{title} ({item_id})" for item_id, title in items.select("item_id", "title").iter_rows()}


def day_warning(visit: Visit, file: CampaignFile, moment: datetime | None) -> str:
    """Why messages that go out at a moment make no sense for the campaign's day of the calendar; "" where they do.
    moment: None for the present."""
    settings = visit.workspace.settings
    day = festive_day(settings, file, moment or visit.now)
    if day is None or 0 <= day.days_left <= SENSIBLE_DAYS:
        return ""
    names = {"name": day.names[language(visit.language)], "days": abs(day.days_left)}
    return visit.say("campaigns.day_far" if day.days_left > 0 else "campaigns.day_past", **names)


def common_values(visit: Visit, state: PageState, step: CampaignStep) -> dict[str, Any]:
    return {
        "day_warning": "",
        "silent": {},
        "step": step,
        "steps": list(CampaignStep),
        "step_of": STEP_OF,
        "state": state,
        "fields": {declared.path: declared for of_step in FIELDS.values() for declared in of_step},
        "zone": visit.workspace.settings.timezone or "UTC",
        "floor": visit.figures.floor,
        "locked": not visit.may(Scope.MARKETING),
    }


def sentence(visit: Visit, rule: PeopleRule | None) -> str:
    """A rule over people in the visitor's language; "" for none."""
    if rule is None:
        return ""
    return rule_words(rule, visit.workspace.locale(visit.language), visit.workspace.settings.currency)


def changed_fields(
    visit: Visit,
    campaign_id: str,
    typed: Mapping[str, str],
    step: CampaignStep,
) -> dict[str, Any]:
    """The campaign's fields with what was typed on a page.
    Raises `UnknownIdError` for an unknown campaign."""
    campaign_file(visit.workspace, campaign_id)
    fields = fields_of_file(file_path(visit.workspace, campaign_id).read_bytes())
    changed = with_typed(fields, typed, step, visit.workspace.settings.timezone)
    return mended(changed, visit.now)


def refused_state(visit: Visit, error: RecllmError, typed: Mapping[str, str] = MappingProxyType({})) -> PageState:
    """Why a form was refused, with what was typed into it.
    Raises an `UnknownIdError`: then there is no page."""
    if isinstance(error, UnknownIdError):
        raise error
    if isinstance(error, ConflictError):  # another person changed the same thing meanwhile
        return PageState(typed=typed, conflict=True, status=409)
    english = error.english if isinstance(error, FieldProblemsError) else str(error)
    status = 403 if isinstance(error, PolicyError) else 422
    return PageState(typed=typed, problems=problems_of_error(visit, error), english=english, status=status)


def order(visit: Visit, campaign_id: str, revision: str) -> Job:
    """Have the people chosen and the messages written in the background."""
    has_plan = CampaignFolder.of(visit.workspace.root, campaign_id).plan.exists()
    return order_plan(
        visit.state.service, visit.shop, campaign_id, by=actor_name(visit), revision=revision, replace=has_plan
    )


def actor_name(visit: Visit, form: ConsoleForm | None = None) -> str:
    """Who acts, for the history: the key's name; without sign-in the typed name, or this machine."""
    if visit.signed_in and visit.signed_in.name:
        return visit.signed_in.name
    return "this machine" if form is None else form.text("by", 80).strip()


def show_people(visit: Visit, campaign_id: str, state: PageState) -> Response:
    values = campaign_values(visit, campaign_id, CampaignStep.PEOPLE, state)
    values |= people_values(visit, values, state)
    return visit.page("campaign_people.html.j2", section="campaigns", status=state.status, **values)


def people_values(visit: Visit, values: Mapping[str, Any], state: PageState) -> dict[str, Any]:
    result = count_values(visit, state.count) | {
        "rule": TypedRule.of_text(values["texts_of_form"]["target.people"]),
        "rule_fields": RULE_FIELDS,
        "rule_numbers": RULE_NUMBERS,
        "is_rule_typed": "target.people" in state.problems,
        "rule_names": [*categories(visit), *brands(visit)],
        "basics": visit.shop.everybody.basics(),
        "saved_sentence": sentence(visit, values["file"].target.people),
    }
    campaign: OpenCampaign | None = values["campaign"]
    if campaign is None:
        return result
    plan, figures = campaign.plan, visit.figures
    channels = Counter(person.channel for person in plan.addressed)
    traits = [
        (
            TableCell(value=trait["name"], text=visit.words.basic(trait["name"])),
            *(trait["share"], trait["share_of_rest"]),
            ConfidenceInterval(trait["lift"], trait["low"], trait["high"]),
        )
        for trait in plan.group
    ]
    numbers = {name: n and figures.people(n, plan.campaign_id, name) for name, n in plan.excluded.items()}
    return result | {
        "people": figures.people(len(plan.addressed), plan.campaign_id, "addressed") or 0,
        "held_out": figures.people(len(plan.held_out), plan.campaign_id, "held out") or 0,
        "channels": {n: k for n, c in channels.most_common() if (k := figures.people(c, plan.campaign_id, n))},
        "excluded": excluded_table(visit, numbers),
        "traits": visit.table("traits", traits) if traits else None,
        "overlaps": overlaps(visit, campaign),
    }


@router.post("/campaign/{campaign_id}/count")
@slow
def count(
    visit: TheVisit,
    form: TheForm,
    campaign_id: str,
    act: Annotated[str, Query(max_length=60)] = "",
) -> Response:
    """How many people the fields could reach, as they are typed; nothing is written. act: see `TypedRule.after`."""
    visit.require(Scope.MARKETING)
    typed = typed_texts(form, CampaignStep.PEOPLE)
    if act:
        typed["target.people"] = TypedRule.of_form(form).after(act, form.text("people:add")).text
    state = PageState(typed=typed, count=audience_count(visit, campaign_id, typed))
    if not visit.is_part:
        return show_people(visit, campaign_id, state)
    if not act:
        return visit.page("campaign_count.html.j2", campaign_id=campaign_id, **count_values(visit, state.count))
    values = campaign_values(visit, campaign_id, CampaignStep.PEOPLE, state)
    return visit.page("campaign_rule_changed.html.j2", **values | people_values(visit, values, state))


def count_values(visit: Visit, audience: AudienceCount | None) -> dict[str, Any]:
    reach = audience.reach if audience is not None else None
    excluded = {reason: n for reason, n in reach.excluded.items() if n is not None} if reach else {}
    rules = list(reach.rule.items())[1:] if reach else []
    conditions = [(sentence(visit, rule), count_cell(visit, n, is_estimate=True)) for rule, n in rules]
    return {
        "count": audience,
        "swap_beside": False,
        "count_excluded": excluded_table(visit, excluded, name="count-left-out", is_estimate=True)
        if excluded
        else None,
        "count_conditions": visit.table("count-conditions", conditions) if reach and reach.rule else None,
        "floor": visit.figures.floor,
        "sentence": lambda rule: sentence(visit, rule),
    }


def audience_count(visit: Visit, campaign_id: str, typed: Mapping[str, str]) -> AudienceCount:
    """Starts to read all people in the background where that was not done yet."""
    workspace, everybody, background = visit.workspace, visit.shop.everybody, visit.state.service.background
    try:
        file, _ = campaign_of_fields(changed_fields(visit, campaign_id, typed, CampaignStep.PEOPLE))
        if not everybody.is_open:
            background.submit_alone(visit.shop.name, "everybody", lambda _: everybody.recommender() and None)
            return AudienceCount(opening=True)
        reach = count_reachable(workspace, everybody.recommender(), file, visit.figures)
    except (UsageError, DataError, PolicyError) as error:
        return AudienceCount(problems=problems_of_error(visit, error))
    return AudienceCount(reach=reach, size=file.limits.cut.max_contacts, share=file.limits.holdout)


def overlaps(visit: Visit, campaign: OpenCampaign) -> list[tuple[str, int]]:
    """Other campaigns that wait to be sent, with about how many people both address, from the policy's floor on."""
    addressed_ids, common = {person.user_id for person in campaign.plan.addressed}, {}
    for folder in sorted((visit.workspace.root / "campaigns").glob("*/plan.json")):
        name = folder.parent.name
        if name.startswith(".") or name == campaign.plan.campaign_id or (folder.parent / "exports.jsonl").exists():
            continue
        try:
            plan = read_plan(CampaignFolder.of(visit.workspace.root, name))
        except RecllmError:  # its own page says that the plan is damaged
            continue
        if names := addressed_ids & {person.user_id for person in plan.addressed}:
            common[name] = len(names)
    sizes = visit.figures.sizes(("overlap", campaign.plan.campaign_id), common)
    return [(name, n) for name, n in sizes.people.items() if n is not None]
