"""Campaigns: from a goal to people, texts, decisions, exports and results, on one page of steps each.

A step's form is kept as a draft as soon as it is sent. A form names the revision that its page showed; if the campaign
was changed since, nothing is written, and the page comes back with what was typed.
"""

from __future__ import annotations

import io
import logging
import re
import tempfile
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query
from fastapi.responses import Response
from markupsafe import Markup, escape
from starlette.datastructures import FormData

from recllm.base.charts import Bar, BarChart
from recllm.base.errors import (
    ConflictError,
    DataError,
    PolicyError,
    RecllmError,
    StoreError,
    UnknownIdError,
    UsageError,
)
from recllm.base.files import safe_id
from recllm.base.stats.intervals import expected_hits, smallest_difference
from recllm.doors.console.audience_tables import count_cell, excluded_table, traits_table
from recllm.doors.console.campaign_fields import (
    FIELDS,
    MAX_CHARACTERS,
    CampaignStep,
    WrongFieldError,
    field_texts,
    fields_of_file,
    typed_texts,
    with_typed,
)
from recllm.doors.console.pages import (
    ConsoleSection,
    FormRefusal,
    PageRoute,
    TheForm,
    TheVisit,
    Visit,
    WordedError,
    file_of,
    slow,
    text_of,
    texts_of,
)
from recllm.doors.console.rule_fields import CONDITION_KINDS, ENTRIES, changed_rule, node_of, rule_of_text
from recllm.doors.console.tables import ConsoleTable, TableCell, TableRow
from recllm.doors.service.jobs import ENDED, Job
from recllm.doors.service.marketing import order_plan
from recllm.market.adcopy.channels import channel_named
from recllm.market.audiences.audience import aim
from recllm.market.audiences.people_rule import MAX_DEPTH, PeopleRule, parse_rule
from recllm.market.audiences.rule_words import rule_words
from recllm.market.campaigns.drafts import (
    CampaignAct,
    CampaignStage,
    CampaignSummary,
    campaign_file,
    campaign_of_fields,
    change_campaign,
    create_campaign,
    file_path,
    history,
    list_campaigns,
    note,
    open_by_id,
    revision_of,
    stage_of,
)
from recllm.market.campaigns.folder import CampaignFolder, CampaignText, Decision, TextStatus, read_entries, read_plan
from recllm.market.campaigns.open_campaign import OpenCampaign, approve_texts, enter_edit, reject_texts
from recllm.market.campaigns.outcome import CampaignOutcome, SegmentFigures, campaign_outcome, conclusions
from recllm.market.campaigns.plan import ReachCount, count_reachable
from recllm.market.campaigns.texts import check_notes, copy_request, message
from recllm.shop.data.catalogue import on_offer
from recllm.shop.workspace.keys import Scope
from recllm.shop.workspace.workspace import Workspace

logger = logging.getLogger(__name__)

router = APIRouter(prefix="/campaigns", route_class=PageRoute)
SECTION = ConsoleSection("campaigns", "/campaigns", router)

PAGE_TEXTS = 12
"""Groups of texts on one page; a group holds those of one item, channel and reason."""
MAX_CATEGORIES = 400
"""Categories that are proposed while one types."""
MAX_BRANDS = 100
"""Brands that are proposed while one types."""
MAX_FILE_BYTES = 200_000
MAX_IDS_BYTES = 20_000_000
SHOWN_ITEMS = 20
DECIDER = "decider"
"""The last typed name of the person who decides, where sign-in is not needed; see `recllm.doors.console.memory`."""
DECISIONS: Mapping[str, str] = {"approve": "text_approved", "reject": "text_rejected", "edit": "text_edited"}
"""Decision about texts -> its notice."""
OPENING = "everybody"
"""Subject of the job that reads all people for the first time."""


# --- the list, and a new campaign ------------------------------------------------------------------------------------


@router.get("")
def index(visit: TheVisit) -> Response:
    """All campaigns with their stage."""
    listed = list_campaigns(visit.workspace)
    order = {CampaignStage.PLANNED: 0, CampaignStage.DRAFT: 1, CampaignStage.EXPORTED: 2}
    listed.sort(key=lambda line: (order[line.stage], line.campaign_id))
    rows = [campaign_row(visit, line) for line in listed]
    return visit.page("campaigns.html.j2", section="campaigns", table=visit.table("campaigns", rows) if rows else None)


STAGE_TONES = {CampaignStage.DRAFT: "warn", CampaignStage.PLANNED: "", CampaignStage.EXPORTED: "good"}


def campaign_row(visit: Visit, line: CampaignSummary) -> TableRow:
    is_here = line.revision is not None  # else it was planned by the command line
    href = f"/campaigns/campaign/{quote(line.campaign_id)}" if is_here else ""
    remark = "" if is_here else visit.say("campaigns.elsewhere")
    stage = line.stage
    return (
        TableCell(value=line.goal or line.campaign_id, href=href, remark=remark),
        line.campaign_id,
        TableCell(value=stage.value, text="", tag=visit.say(f"campaigns.stage.{stage}"), tone=STAGE_TONES[stage]),
        *((line.addressed, line.held_out, line.texts) if line.texts else (None, None, None)),
        TableCell(text=visit.say(f"campaigns.next_of.{stage}") if is_here else ""),
    )


@router.get("/new")
def new_page(visit: TheVisit) -> Response:
    return _new_page(visit, {})


def _new_page(visit: Visit, typed: Mapping[str, str], *, problem: str = "", status: int = 200) -> Response:
    values = {"categories": categories(visit), "senders": last_sender(visit)}
    values |= {"typed": typed, "problem": problem, "fields": FIELDS}
    return visit.page("campaign_new.html.j2", section="campaigns", status=status, **values)


NEW_FIELDS = (
    "goal",
    "target.category",
    "target.items",
    "target.text",
    "sender.name",
    "sender.address",
    "sender.opt_out",
)


@router.post("")
def create(visit: TheVisit, form: TheForm) -> Response:
    """Keep a new campaign as a draft, from the form or from a campaign's file."""
    visit.require(Scope.MARKETING)
    typed, content = _typed_of_new(form), file_of(form, "file", MAX_FILE_BYTES)

    def write() -> str:
        if len(content) > MAX_FILE_BYTES:
            raise WordedError(visit.say("campaigns.file_too_large"))
        fields = fields_of_file(content) if content else _fields_of_new(visit, typed)
        return create_campaign(visit.workspace, fields, by=_name(visit), at=datetime.now(UTC))

    done = visit.attempt(write)
    if isinstance(done, FormRefusal):
        return _new_page(visit, typed, problem=problem_text(visit, done.error), status=done.status)
    return visit.back(f"/campaigns/campaign/{quote(done)}?step=who", "campaign_saved")


def _typed_of_new(form: FormData) -> dict[str, str]:
    typed = {name: text_of(form, name, MAX_CHARACTERS).replace("\r\n", "\n").strip() for name in (*NEW_FIELDS, "id")}
    return typed | {"channels": "\n".join(texts_of(form, "channels"))}


def _fields_of_new(visit: Visit, typed: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a new campaign; its id follows from the goal where none is typed."""
    zone, fields = visit.workspace.settings.timezone, dict[str, Any]()
    for step in (CampaignStep.GOAL, CampaignStep.WHO, CampaignStep.WHAT):
        before = field_texts(fields, zone)
        fields = with_typed(fields, {f.path: typed.get(f.path, before[f.path]) for f in FIELDS[step]}, step, zone)
    fields["id"] = typed["id"] or free_id(visit, typed["goal"])
    if visit.workspace.settings.locale.startswith("zh"):
        fields["locales"] = ["zh"]
    return fields


def free_id(visit: Visit, goal: str) -> str:
    """An id that no campaign has, from the words of its goal."""
    stem = re.sub(r"[^a-z0-9]+", "-", goal.lower()).strip("-")[:40].strip("-") or "campaign"
    existing_ids = {line.campaign_id for line in list_campaigns(visit.workspace)}
    return next(name for n in range(1, 10_000) if (name := stem if n == 1 else f"{stem}-{n}") not in existing_ids)


def categories(visit: Visit) -> list[str]:
    """Categories with items on offer, the largest first; none while the shop is being opened."""
    try:
        dataset = visit.shop.recommender().dataset
    except StoreError:
        return []
    offered = dataset.items.filter(on_offer(dataset.items, dataset.as_of))
    paths: Counter[str] = Counter()
    for path, n in offered["category"].drop_nulls().list.join(" > ").value_counts().iter_rows():
        parts = path.split(" > ")
        for depth in range(1, len(parts) + 1):
            paths[" > ".join(parts[:depth])] += n
    return [path for path, _ in paths.most_common(MAX_CATEGORIES) if path]


def brands(visit: Visit) -> list[str]:
    """The brands of most items; none while the shop is being opened."""
    try:
        items = visit.shop.recommender().dataset.items
    except StoreError:
        return []
    counts = Counter(brand for brand in items["brand"] if brand)
    return [brand for brand, _ in counts.most_common(MAX_BRANDS)]


def last_sender(visit: Visit) -> Mapping[str, str]:
    """The sender of the latest campaign that has one, so that it is typed once."""
    for path in sorted((visit.workspace.root / "campaign-files").glob("*.toml"), key=lambda p: -p.stat().st_mtime):
        sender = fields_of_file(path.read_bytes()).get("sender")
        if isinstance(sender, dict) and sender.get("name"):
            return {name: str(sender.get(name, "")) for name in ("name", "address", "opt_out")}
    return {"name": "", "address": "", "opt_out": ""}


# --- one campaign ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PageState:
    """What a campaign's page shows besides the campaign."""

    step: str = ""
    """The open step; "" for the next one."""
    typed: Mapping[str, str] = field(default_factory=dict)
    """Path -> text that is typed and not saved."""
    problem: str = ""
    conflict: bool = False
    """Whether another person changed the campaign meanwhile."""
    count: AudienceCount | None = None
    wording: str = ""
    """Of the text `text_id`, typed and not saved."""
    text_id: str = ""
    verdict: WordingVerdict | None = None
    job: Job | None = None
    page: int = 1


@router.get("/campaign/{campaign_id}")
def campaign_page(
    visit: TheVisit,
    campaign_id: str,
    step: Annotated[str, Query(max_length=20)] = "",
    job: Annotated[str, Query(max_length=40)] = "",
    page: Annotated[int, Query(ge=1, le=100_000)] = 1,
) -> Response:
    """One campaign with all its steps."""
    background = visit.state.service.background
    latest = background.open_job(visit.shop.name, campaign_id)
    if latest is None and job:
        try:
            latest = background.job(visit.shop.name, job)
        except UnknownIdError:
            latest = None
    return _page(visit, campaign_id, PageState(step=step, job=latest, page=page))


def _page(visit: Visit, campaign_id: str, state: PageState, *, status: int = 200) -> Response:
    job = state.job or visit.state.service.background.open_job(visit.shop.name, campaign_id)
    state = replace(state, job=job)
    values = campaign_values(visit, campaign_id, state)
    values |= {"fields": FIELDS, "state": state, "decider": _typed_name(visit)}
    return visit.page("campaign.html.j2", status=status, section="campaigns", **values)


def campaign_values(visit: Visit, campaign_id: str, state: PageState) -> dict[str, Any]:
    """Everything that a campaign's page says. Raises `UnknownIdError` for an unknown one."""
    workspace = visit.workspace
    file, stage = campaign_file(workspace, campaign_id), stage_of(workspace, campaign_id)
    fields = fields_of_file(file_path(workspace, campaign_id).read_bytes())
    saved = field_texts(fields, workspace.settings.timezone)
    values: dict[str, Any] = {
        "campaign_id": campaign_id,
        "file": file,
        "stage": stage,
        "saved": saved,
        "texts_of_form": {**saved, **state.typed},
        "zone": workspace.settings.timezone or "UTC",
        "acts": act_lines(history(workspace, campaign_id)),
        "floor": visit.figures.floor,
        "categories": categories(visit) if stage is not CampaignStage.EXPORTED else [],
        "has_old_plan": (workspace.root / "campaigns" / campaign_id / "plan.json").exists(),
        "plan": None,
        "outcome": None,
    }
    values |= rule_values(visit, values["texts_of_form"]["target.people"], is_typed="target.people" in state.typed)
    values |= {
        "rule_path": f"/campaigns/campaign/{quote(campaign_id)}/rule",
        "rule_locked": stage is CampaignStage.EXPORTED or not visit.may(Scope.MARKETING),
        "saved_sentence": sentence(visit, file.target.people),
        "swap_beside": False,
    }
    if stage is not CampaignStage.DRAFT:
        campaign = open_by_id(workspace, campaign_id, recheck=stage is CampaignStage.PLANNED)
        values |= plan_values(visit, campaign, state)
        if stage is CampaignStage.EXPORTED:
            values["outcome"] = outcome_values(visit, campaign)
    values |= {
        "revision": revision_of(workspace, campaign_id),
        "conflicts": conflict_table(visit, state, saved),
        "count_excluded": count_excluded(visit, state.count),
        "count_conditions": count_conditions(visit, state.count),
    }
    values["next_step"] = state.step or next_step(stage, values)
    return values


def conflict_table(visit: Visit, state: PageState, saved: Mapping[str, str]) -> ConsoleTable | None:
    """The saved and the typed text of each field where they differ; None without a conflict."""
    paths = [path for path, text in state.typed.items() if path in saved and text != saved[path]]
    if not state.conflict or not paths:
        return None

    def row(path: str) -> TableRow:
        label, texts = visit.say(f"campaigns.field.{path.replace('.', '_')}"), (saved[path], state.typed[path])
        if path == "target.people":
            texts = (rule_sentence(visit, texts[0]), rule_sentence(visit, texts[1]))
        return label, texts[0] or None, texts[1] or None

    return visit.table("conflict", [row(path) for path in paths])


def next_step(stage: CampaignStage, values: Mapping[str, Any]) -> str:
    """The step that waits for a person."""
    if stage is not CampaignStage.PLANNED:
        return "who" if stage is CampaignStage.DRAFT else "results"
    return "words" if values["waiting"] else "review"


def plan_values(visit: Visit, campaign: OpenCampaign, state: PageState) -> dict[str, Any]:
    """Of a campaign with a plan: its people, items and texts with their verdicts."""
    plan, states = campaign.plan, campaign.states
    addressed = plan.addressed
    groups = text_groups(campaign, states)
    start = (state.page - 1) * PAGE_TEXTS
    statuses = Counter(decision.action for decision in states.values())
    waiting = [name for name, d in states.items() if d.action in (TextStatus.DRAFT, TextStatus.EDITED)]
    passing = [name for name in waiting if not states[name].failures and not states[name].warnings]
    channels, figures = Counter(person.channel for person in addressed), visit.figures
    buyers = expected_hits([person.probability for person in addressed])
    return {
        "plan": plan,
        "people": figures.people(len(addressed), plan.campaign_id, "addressed") or 0,
        "held_out": figures.people(len(plan.held_out), plan.campaign_id, "held out") or 0,
        "channels": {
            n: people for n, k in channels.most_common() if (people := figures.people(k, plan.campaign_id, n))
        },
        "items": items_table(visit, campaign),
        "excluded": excluded_table(
            visit,
            left_out({name: n and figures.people(n, plan.campaign_id, name) for name, n in plan.excluded.items()}),
        ),
        "traits": traits_table(visit, plan.group),
        "statuses": {status.value: n for status, n in statuses.items()},
        "waiting": waiting,
        "passing": passing,
        "groups": groups[start : start + PAGE_TEXTS],
        "n_pages": -(-len(groups) // PAGE_TEXTS),
        "aim": aim(plan.converts),
        "buyers": buyers,
        "smallest": smallest_difference(buyers.value / max(1, len(addressed)), len(addressed), len(plan.held_out)),
        "window": campaign.window,
        "overlaps": overlaps(visit, campaign),
    }


def items_table(visit: Visit, campaign: OpenCampaign) -> ConsoleTable:
    """The items that most people get; the file has all of them."""
    counts = Counter(person.item_id for person in campaign.plan.addressed)
    titles = {name: item.title for name, item in campaign.catalogue.items.items()}
    figures, plan_id = visit.figures, campaign.plan.campaign_id
    reported = {name: figures.people(n, plan_id, name) for name, n in counts.most_common()}
    rows = [(titles.get(name, name), name, count_cell(visit, n, is_estimate=True)) for name, n in reported.items()]
    return visit.table("items", rows[:SHOWN_ITEMS], of="planned-items", all_rows=lambda: rows)


def left_out(excluded: Mapping[str, int | None]) -> list[tuple[str, int | None]]:
    """Reason and people, the largest first, and those without a figure last."""
    return sorted(((reason, n) for reason, n in excluded.items() if n != 0), key=lambda pair: -(pair[1] or 0))


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


def waiting_work(workspace: Workspace) -> dict[str, int]:
    """Campaigns that were planned and not exported, and their texts without a decision."""
    n_campaigns = n_texts = 0
    for path in (workspace.root / "campaigns").glob("*/plan.json"):
        folder = CampaignFolder.at(path.parent)
        if path.parent.name.startswith(".") or folder.exports.exists():
            continue
        n_campaigns += 1
        try:
            actions = {text.id: TextStatus.DRAFT for text in read_plan(folder).texts}
            actions |= {decision.text_id: decision.action for decision in read_entries(folder.decisions, Decision)}
        except RecllmError:  # its own page says what is damaged
            continue
        n_texts += sum(action in (TextStatus.DRAFT, TextStatus.EDITED) for action in actions.values())
    return {"campaigns": n_campaigns, "texts": n_texts}


# --- steps are saved -------------------------------------------------------------------------------------------------


@router.post("/campaign/{campaign_id}/save/{step}")
def save(visit: TheVisit, form: TheForm, campaign_id: str, step: CampaignStep) -> Response:
    """Keep a step's form. A plan that was made has to be made again."""
    visit.require(Scope.MARKETING)
    typed, workspace = typed_texts(form, step), visit.workspace

    def write() -> None:
        fields = fields_of_file(_file_bytes(visit, campaign_id))
        changed = with_typed(fields, typed, step, workspace.settings.timezone)
        if visit.state.service.background.open_job(visit.shop.name, campaign_id) is not None:
            raise ConflictError(visit.say("campaigns.is_planned_now"))
        change_campaign(
            workspace, campaign_id, changed, revision=text_of(form, "revision"), by=_name(visit), at=datetime.now(UTC)
        )

    done = visit.attempt(write)
    if isinstance(done, FormRefusal):
        return _failed(visit, campaign_id, done, PageState(step=step.value, typed=typed))
    steps = list(CampaignStep)
    after = steps[min(steps.index(step) + 1, len(steps) - 1)]
    return visit.back(f"/campaigns/campaign/{quote(campaign_id)}?step={after.value}", "campaign_saved")


def _file_bytes(visit: Visit, campaign_id: str) -> bytes:
    campaign_file(visit.workspace, campaign_id)  # is one
    return file_path(visit.workspace, campaign_id).read_bytes()


def _failed(visit: Visit, campaign_id: str, refusal: FormRefusal, state: PageState) -> Response:
    """The page again with what was typed and why it was refused."""
    problem = "" if refusal.is_conflict else problem_text(visit, refusal.error)
    state = replace(state, problem=problem, conflict=refusal.is_conflict)
    return _page(visit, campaign_id, state, status=refusal.status)


def problem_text(visit: Visit, error: RecllmError) -> str:
    """The problem, in the visitor's language where it is a field."""
    if isinstance(error, WrongFieldError):
        label = visit.say(f"campaigns.field.{error.path.replace('.', '_')}")
        return visit.say(f"campaigns.wrong.{error.kind.value}", field=label)
    return visit.problem_text(error, re.sub(r"(^|\n)campaign\.toml(, line \d+)?: ", r"\1", str(error)))


# --- who: the live count ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class AudienceCount:
    """How many people a campaign could address with the fields as they are typed."""

    opening: bool = False
    """Whether all people are being read for the first time."""
    problem: str = ""
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


@router.post("/campaign/{campaign_id}/count")
@slow
def count(visit: TheVisit, form: TheForm, campaign_id: str) -> Response:
    """How many people the fields could reach, as they are typed; nothing is written."""
    visit.require(Scope.MARKETING)
    typed = typed_texts(form, CampaignStep.WHO)
    audience = audience_count(visit, campaign_id, typed)
    if visit.is_part:
        values: dict[str, Any] = count_values(visit, audience) | {"swap_beside": False}
        return visit.page("campaign_count.html.j2", campaign_id=campaign_id, **values)
    return _page(visit, campaign_id, PageState(step="who", typed=typed, count=audience))


@router.post("/campaign/{campaign_id}/rule")
@slow
def change_rule(
    visit: TheVisit, form: TheForm, campaign_id: str, act: Annotated[str, Query(max_length=60)] = ""
) -> Response:
    """The form with a condition or a group more or less; nothing is written."""
    visit.require(Scope.MARKETING)
    typed, group = typed_texts(form, CampaignStep.WHO), act.partition(":")[2]
    typed["target.people"] = changed_rule(typed["target.people"], act, text_of(form, f"add:{group}"))
    audience = audience_count(visit, campaign_id, typed)
    state = PageState(step="who", typed=typed, count=audience)
    if not visit.is_part:
        return _page(visit, campaign_id, state)
    values = campaign_values(visit, campaign_id, state)
    values |= count_values(visit, audience) | {"swap_beside": True}
    return visit.page("campaign_rule_changed.html.j2", state=state, **values)


def count_values(visit: Visit, audience: AudienceCount) -> dict[str, Any]:
    """What the live count's part of the page needs."""
    return {
        "count": audience,
        "count_excluded": count_excluded(visit, audience),
        "count_conditions": count_conditions(visit, audience),
        "floor": visit.figures.floor,
        "sentence": lambda rule: sentence(visit, rule),
    }


def count_conditions(visit: Visit, count: AudienceCount | None) -> ConsoleTable | None:
    """How many people meet each condition of a rule alone; None without a rule."""
    counts = count.reach.rule if count is not None and count.reach is not None else {}
    rows = [(sentence(visit, rule), count_cell(visit, n, is_estimate=True)) for rule, n in list(counts.items())[1:]]
    return visit.table("count-conditions", rows) if counts else None


def rule_values(visit: Visit, text: str, *, is_typed: bool) -> dict[str, Any]:
    """What the fields of a rule need. text: of `recllm.doors.console.rule_fields`."""
    basics = visit.shop.everybody.basics()
    return {
        "rule_root": node_of(text),
        "rule_entries": ENTRIES,
        "rule_kinds": CONDITION_KINDS,
        "rule_depth": MAX_DEPTH - 2,
        "is_rule_typed": is_typed,
        "rule_names": [*categories(visit), *brands(visit)],
        "basics": basics,
        "sentence": lambda rule: sentence(visit, rule),
    }


def sentence(visit: Visit, rule: PeopleRule | None) -> str:
    """A rule over people in the visitor's language; "" for none."""
    if rule is None:
        return ""
    return rule_words(rule, visit.workspace.locale(visit.language), visit.workspace.settings.currency)


def rule_sentence(visit: Visit, text: str) -> str:
    """What fields of a rule say in the visitor's language; "" while it is no rule yet. text: of `rule_fields`."""
    try:
        document = rule_of_text(text)
    except UsageError:
        return ""
    return sentence(visit, parse_rule(document)) if document is not None else ""


def count_excluded(visit: Visit, count: AudienceCount | None) -> ConsoleTable | None:
    """How many people each reason leaves out of a live count, where it has a figure; None where none has."""
    excluded = count.reach.excluded if count is not None and count.reach is not None else {}
    reported = [(reason, n) for reason, n in excluded.items() if n is not None]
    return excluded_table(visit, reported, name="count-left-out", is_estimate=True) if reported else None


def audience_count(visit: Visit, campaign_id: str, typed: Mapping[str, str]) -> AudienceCount:
    """Starts to read all people in the background where that was not done yet."""
    workspace, everybody, background = visit.workspace, visit.shop.everybody, visit.state.service.background
    fields = fields_of_file(_file_bytes(visit, campaign_id))
    try:
        file, _ = campaign_of_fields(with_typed(fields, typed, CampaignStep.WHO, workspace.settings.timezone))
        if not everybody.is_open:
            if background.open_job(visit.shop.name, OPENING) is None:
                background.submit(visit.shop.name, OPENING, lambda _: everybody.recommender() and None)
            return AudienceCount(opening=True)
        reach = count_reachable(workspace, everybody.recommender(), file, visit.figures)
    except (UsageError, DataError, PolicyError) as error:
        return AudienceCount(problem=problem_text(visit, error))
    return AudienceCount(reach=reach, size=file.limits.cut.max_contacts, share=file.limits.holdout)


# --- the plan --------------------------------------------------------------------------------------------------------


@router.post("/campaign/{campaign_id}/plan")
def plan(visit: TheVisit, form: TheForm, campaign_id: str) -> Response:
    """Choose the people and write the texts, in the background."""
    visit.require(Scope.MARKETING)
    visit.require(Scope.PEOPLE)

    def ordered() -> Job:
        how: dict[str, Any] = {"revision": text_of(form, "revision"), "replace": text_of(form, "again") == "yes"}
        return order_plan(visit.state.service, visit.shop, campaign_id, by=_name(visit), **how)

    job = visit.attempt(ordered)
    if isinstance(job, FormRefusal):
        return _failed(visit, campaign_id, job, PageState())
    return visit.back(f"/campaigns/campaign/{quote(campaign_id)}?job={job.job_id}")


@router.get("/campaign/{campaign_id}/plan/{job_id}")
def plan_state(visit: TheVisit, campaign_id: str, job_id: str) -> Response:
    """How far a plan is."""
    job = visit.state.service.background.job(visit.shop.name, job_id)
    if not visit.is_part:
        return visit.back(f"/campaigns/campaign/{quote(campaign_id)}?job={job_id}")
    return visit.page("campaign_job.html.j2", campaign_id=campaign_id, job=job, is_over=job.state in ENDED)


@router.post("/campaign/{campaign_id}/plan/{job_id}/cancel")
def cancel_plan(visit: TheVisit, campaign_id: str, job_id: str) -> Response:
    """End a plan before its next step; nothing of it is kept."""
    visit.require(Scope.MARKETING)
    background = visit.state.service.background
    if background.job(visit.shop.name, job_id).about == campaign_id:
        background.cancel(visit.shop.name, job_id)
    return visit.back(f"/campaigns/campaign/{quote(campaign_id)}?job={job_id}")


# --- texts -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class WordingVerdict:
    """What the checks say of a wording."""

    failures: Sequence[Any]
    warnings: Sequence[Any]
    slots: Sequence[tuple[str, Markup]]
    """Name and words of each part of the message as it would leave; what the checks mean is marked."""

    @property
    def tone(self) -> str:
        """good passes, warn is held for a person, bad is blocked."""
        return "bad" if self.failures else "warn" if self.warnings else "good"


def text_groups(campaign: OpenCampaign, states: Mapping[str, Decision]) -> list[dict[str, Any]]:
    """Texts by item, reason, channel and language; those that wait for a decision first, then the widest read."""
    grouped: dict[tuple[str, str, str, str, bool], list[dict[str, Any]]] = {}
    for text in campaign.plan.texts:
        state = states[text.id]
        verdict = verdict_of(campaign, text, state.text, state.failures, state.warnings)
        key = (text.item_id, text.kind, text.channel, text.locale, text.modelled)
        grouped.setdefault(key, []).append({"text": text, "state": state, "verdict": verdict})
    groups = []
    for (item_id, kind, channel, locale, _), cards in grouped.items():
        item, people = campaign.catalogue.items.get(item_id), sum(card["text"].people for card in cards)
        title = item.title if item else cards[0]["text"].facts.title
        named = {"title": title, "kind": kind, "channel": channel, "locale": locale}
        groups.append(named | {"people": people, "cards": cards})
    decided = (TextStatus.APPROVED, TextStatus.REJECTED)
    return sorted(groups, key=lambda g: (all(c["state"].action in decided for c in g["cards"]), -g["people"]))


def verdict_of(
    campaign: OpenCampaign, text: CampaignText, wording: str, failures: Sequence[Any], warnings: Sequence[Any]
) -> WordingVerdict:
    sent_message = message(campaign.file, wording, text.channel, text.locale, text.generator)
    marks = [(note.span, "bad") for note in failures if note.span] + [
        (note.span, "warn") for note in warnings if note.span
    ]
    slots = [(slot.name, marked(words, marks)) for slot, words in channel_named(text.channel).split(sent_message)]
    return WordingVerdict(failures=failures, warnings=warnings, slots=slots)


def marked(words: str, marks: Sequence[tuple[str, str]]) -> Markup:
    """Escaped words with each span marked by its tone; the longest of overlapping spans counts."""
    tones = {span.casefold(): tone for span, tone in reversed(marks) if span.strip()}
    if not tones:
        return escape(words)
    spans = sorted(tones, key=len, reverse=True)
    parts = re.split("(" + "|".join(map(re.escape, spans)) + ")", words, flags=re.IGNORECASE)
    return Markup("").join(
        Markup('<mark class="{}">{}</mark>').format(tones[piece.casefold()], piece)
        if piece.casefold() in tones
        else escape(piece)
        for piece in parts
    )


@router.post("/campaign/{campaign_id}/check/{text_id}")
def check(visit: TheVisit, form: TheForm, campaign_id: str, text_id: str) -> Response:
    """What the checks say of a wording; nothing is written."""
    visit.require(Scope.MARKETING)
    wording = text_of(form, "text", 5_000).replace("\r\n", "\n")
    campaign = open_by_id(visit.workspace, campaign_id, recheck=False)
    text = next((text for text in campaign.plan.texts if text.id == text_id), None)
    if text is None or text.item_id not in campaign.catalogue.items:
        raise UnknownIdError("there is no such text, or its item is gone")
    request = copy_request(campaign.file, campaign.catalogue, text, campaign.moment)
    failures, warnings = check_notes(wording, request, campaign.file, text.generator)
    verdict = verdict_of(campaign, text, wording, failures, warnings)
    if visit.is_part:
        return visit.page("campaign_verdict.html.j2", verdict=verdict, channel=text.channel, text_id=text_id)
    state = PageState(step="words", text_id=text_id, wording=wording, verdict=verdict, page=_page_number(form))
    return _page(visit, campaign_id, state)


@router.post("/campaign/{campaign_id}/decide")
def decide(visit: TheVisit, form: TheForm, campaign_id: str) -> Response:
    """Approve, edit or reject texts, by the name of the person who decides."""
    visit.require(Scope.MARKETING)
    act, wording, page = text_of(form, "act"), text_of(form, "text", 5_000).replace("\r\n", "\n"), _page_number(form)
    text_ids, by = texts_of(form, "text_id"), _name(visit, form)

    def write() -> None:
        if not by:
            raise WordedError(visit.say("campaigns.no_name"))
        if not text_ids or act not in DECISIONS:
            raise WordedError(visit.say("campaigns.no_text"))
        campaign = open_by_id(visit.workspace, campaign_id)
        common: dict[str, Any] = {"by": by, "at": datetime.now(UTC), "revision": text_of(form, "revision")}
        if act == "edit":
            if not wording.strip():
                raise WordedError(visit.say("campaigns.no_wording"))
            enter_edit(campaign, text_ids[0], wording, **common)
        elif act == "approve":
            approve_texts(campaign, text_ids, **common)
        else:
            reject_texts(campaign, text_ids, why=text_of(form, "why"), **common)

    done = visit.attempt(write)
    if isinstance(done, FormRefusal):
        edited = text_ids[0] if act == "edit" and text_ids else ""
        state = PageState(step="words", page=page, text_id=edited, wording=wording if edited else "")
        answer = _failed(visit, campaign_id, done, state)
    else:
        where = f"/campaigns/campaign/{quote(campaign_id)}?step=words" + (f"&page={page}" if page > 1 else "")
        answer = visit.back(where, DECISIONS[act])
    _remember_name(visit, by)
    return answer


@router.post("/name")
def remember_name(visit: TheVisit, form: TheForm, campaign: Annotated[str, Query(max_length=64)]) -> Response:
    """Remember the name of the person who decides in this browser, where sign-in is not needed."""
    _remember_name(visit, text_of(form, "by", 80).strip())
    return visit.back(f"/campaigns/campaign/{quote(campaign)}?step=words")


def _page_number(form: FormData) -> int:
    text = text_of(form, "page")
    return max(1, int(text)) if text.isdecimal() and len(text) < 6 else 1


def _name(visit: Visit, form: FormData | None = None) -> str:
    """Who acts, for the history: the key's name; without sign-in the typed name, or this machine."""
    if visit.signed_in and visit.signed_in.name:
        return visit.signed_in.name
    return "this machine" if form is None else text_of(form, "by", 80).strip()


def _typed_name(visit: Visit) -> str | None:
    """The text of the name's field; None where the key has the name."""
    if visit.signed_in and visit.signed_in.name:
        return None
    return visit.state.typed.recall(visit.form_token, DECIDER)


def _remember_name(visit: Visit, by: str) -> None:
    if by and _typed_name(visit) is not None:
        visit.state.typed.remember(visit.form_token, DECIDER, by)


# --- what leaves -----------------------------------------------------------------------------------------------------


@router.get("/campaign/{campaign_id}/export")
def export_page(visit: TheVisit, campaign_id: str) -> Response:
    """What an export would do now."""
    return _export_page(visit, campaign_id)


def _export_page(visit: Visit, campaign_id: str, refusal: FormRefusal | None = None) -> Response:
    from recllm.market.campaigns.export import export_forecast

    status = 200 if refusal is None else refusal.status
    campaign = open_by_id(visit.workspace, campaign_id)
    cost, forecast = campaign.file.limits.cost, export_forecast(campaign)
    return visit.page(
        "campaign_export.html.j2",
        status=status,
        section="campaigns",
        campaign_id=campaign_id,
        goal=campaign.file.goal,
        forecast=forecast,
        dropped=excluded_table(visit, left_out(forecast.dropped)) if forecast.dropped else None,
        window=campaign.window,
        cost=None if cost is None else cost * forecast.reached,
        revision=campaign.revision,
        was_exported=campaign.folder.exports.exists(),
        share=campaign.plan.holdout,
        floor=visit.figures.floor,
        conflict=refusal is not None and refusal.is_conflict,
        problem="" if refusal is None else problem_text(visit, refusal.error),
    )


@router.post("/campaign/{campaign_id}/export")
@slow
def export(visit: TheVisit, form: TheForm, campaign_id: str) -> Response:
    """Write the lists of one campaign and hand them over as one archive; logged as sent. Nothing of it stays here."""
    visit.require(Scope.MARKETING)
    visit.require(Scope.PEOPLE)
    from recllm.market.campaigns.export import export_campaign

    content = file_of(form, "ids", MAX_IDS_BYTES)

    def written() -> bytes:
        campaign, ids, archive = open_by_id(visit.workspace, campaign_id), _shops_ids(visit, content), io.BytesIO()
        with tempfile.TemporaryDirectory() as folder:
            done = export_campaign(campaign, Path(folder), ids=ids, revision=text_of(form, "revision"))
            with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as files:
                for name in done.files:
                    files.write(name, Path(name).name)
        counts = {"reached": done.reached, "held_out": done.held_out}
        note(visit.workspace, campaign_id, CampaignAct.EXPORTED, by=_name(visit), at=datetime.now(UTC), **counts)
        visit.remember("export_campaign", subject=None, file=campaign_id, **counts)
        return archive.getvalue()

    archive = visit.attempt(written)
    if isinstance(archive, FormRefusal):
        return _export_page(visit, campaign_id, archive)
    name = f"{safe_id(campaign_id, 'a campaign')}.zip"
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}"}
    return Response(archive, media_type="application/zip", headers=headers)


def _shops_ids(visit: Visit, content: bytes) -> dict[str, str]:
    """Pseudonym -> the shop's own id, of a file with one id a line. Raises `UsageError` for another file."""
    if len(content) > MAX_IDS_BYTES:
        raise WordedError(visit.say("campaigns.file_too_large"))
    try:
        ids = [line.strip() for line in content.decode("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise WordedError(visit.say("campaigns.ids_not_text")) from error
    return dict(zip(visit.workspace.pseudonymiser().many(ids), ids, strict=True))


# --- afterwards ------------------------------------------------------------------------------------------------------


def outcome_values(visit: Visit, campaign: OpenCampaign) -> dict[str, Any] | None:
    """What an exported campaign brought: sentences, figures and a picture."""
    figures, question = visit.figures, ("campaign", campaign.plan.campaign_id)
    outcome = visit.shop.once_a_day(figures, question, lambda: campaign_outcome(campaign, figures))
    words = conclusions(outcome, visit.figures.floor, visit.language)
    variants = [segment for segment in outcome.segments if segment.by == "variant"]
    others = [s for s in outcome.segments if s.by in ("channel", "likelihood", "category", "reason")]
    return {
        "figures": outcome,
        "aim": aim(outcome.converts),
        "conclusion": words[0],
        "remarks": words[1:],
        "chart": rates_chart(visit, outcome),
        "variants": segments_table(visit, "variants", variants, outcome) if variants else None,
        "segments": segments_table(visit, "segments", others, outcome) if others else None,
        "dropped": excluded_table(visit, left_out(outcome.dropped), name="dropped") if outcome.dropped else None,
        "days_left": max(0, (outcome.end - max(outcome.until, outcome.start)).days),
    }


def segments_table(
    visit: Visit, name: str, segments: Sequence[SegmentFigures], outcome: CampaignOutcome
) -> ConsoleTable:
    """Parts of the people, each with those held out where enough of these are."""

    def label(segment: SegmentFigures) -> str:
        by = segment.by
        if by == "variant" and segment.name.isdecimal():
            return visit.say("campaigns.variant_n", n=int(segment.name))
        paths = (f"channel.{segment.name}", f"campaigns.part.{segment.name}")
        name = next((visit.say(path) for path in paths if visit.words.has(path)), segment.name)
        return name if by == "variant" else f"{visit.say(f'campaigns.by.{by}')}{visit.say('campaigns.colon')}{name}"

    is_compared = any(segment.effect for segment in segments)

    def row(segment: SegmentFigures) -> TableRow:
        effect, reached, held_out = segment.effect, segment.reached, segment.held_out
        ends = [visit.words.number(100 * end, 1) for end in (effect.value, effect.low, effect.high)] if effect else []
        difference = TableCell(value=effect, text="{} ({} – {})".format(*ends) if ends else None)
        compared = (held_out.rate if held_out else None, difference) if is_compared else ()
        return TableCell(value=segment.name, text=label(segment)), segment.by, reached.people, reached.rate, *compared

    aimed = f"campaigns.aim.{aim(outcome.converts)}"
    headings = {"bought_share": visit.say(f"{aimed}.share"), "held_out_share": visit.say(f"{aimed}.share_held_out")}
    return visit.table(
        name,
        [row(segment) for segment in segments],
        of="segments",
        title=visit.say(f"campaigns.outcome.{name}"),
        headings=headings,
        without=() if is_compared else ("held_out_share", "difference"),
    )


def rates_chart(visit: Visit, outcome: CampaignOutcome) -> Mapping[str, Any] | None:
    """Shares that converted, of those written to and of those held out, with intervals; None without both."""
    if outcome.sent is None or outcome.held_out is None:
        return None
    bars, rows = [], []
    for word, figures, strong in (("sent", outcome.sent, True), ("held_out", outcome.held_out, False)):
        rate, label = figures.rate, visit.say(f"campaigns.outcome.{word}")
        percent = visit.words.percent(rate.value, 1)
        bars.append(Bar(label, rate.value, percent, strong=strong, low=rate.low, high=rate.high))
        rows.append((label, figures.people, rate, figures.revenue_per_person))
    aimed = f"campaigns.aim.{aim(outcome.converts)}"
    title, headings = visit.say(f"{aimed}.chart"), {"bought_share": visit.say(f"{aimed}.share")}
    table = visit.table("bought", rows, title=title, headings=headings)
    return visit.picture(BarChart(title=title, bars=bars, width=560), table, title)


@router.post("/campaign/{campaign_id}/clone")
def clone(visit: TheVisit, campaign_id: str) -> Response:
    """A new draft with the same fields, but for the times, which would be past."""
    visit.require(Scope.MARKETING)
    fields = fields_of_file(_file_bytes(visit, campaign_id))
    fields.pop("send", None)
    if isinstance(fields.get("offer"), dict):
        fields["offer"] = {name: value for name, value in fields["offer"].items() if name not in ("start", "end")}
    fields["id"] = free_id(visit, re.sub(r"-\d+$", "", campaign_id))
    new_id = create_campaign(visit.workspace, fields, by=_name(visit), at=datetime.now(UTC))
    return visit.back(f"/campaigns/campaign/{quote(new_id)}", "campaign_cloned")


def act_lines(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A campaign's history, newest first: what one person did to many texts at one time is one line.

    lines: oldest first, of `recllm.market.campaigns.drafts.history`.
    """
    columns = ("at", "by", "action", "why")
    acts: list[dict[str, Any]] = []
    for line in reversed(lines):
        act: dict[str, Any] = {name: line.get(name, "") for name in columns}
        text_ids = [line["text_id"]] if line.get("text_id") else []
        if acts and text_ids and acts[-1]["text_ids"] and all(acts[-1][name] == act[name] for name in columns):
            acts[-1]["text_ids"] += text_ids
            continue
        counts = {name: n for name, n in line.items() if name not in (*columns, "text_id")}
        acts.append(act | {"text_ids": text_ids, "counts": counts})
    return acts
