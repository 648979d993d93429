"""The people of a campaign: who may get it by a rule, counted as it is typed, and who is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query
from fastapi.responses import Response

from recllm.base.errors import DataError, PolicyError, RecllmError, UsageError
from recllm.doors.console.campaign_fields import CampaignStep, typed_texts
from recllm.doors.console.campaign_pages import (
    AudienceCount,
    PageState,
    campaign_values,
    changed_fields,
    count_cell,
    excluded_table,
    left_out,
    problems_of_error,
    sentence,
    traits_table,
)
from recllm.doors.console.items import brands, categories
from recllm.doors.console.pages import PageRoute, TheForm, TheVisit, Visit, slow, text_of
from recllm.doors.console.rule_fields import TypedRule
from recllm.market.campaigns.drafts import campaign_of_fields
from recllm.market.campaigns.folder import CampaignFolder, read_plan
from recllm.market.campaigns.open_campaign import OpenCampaign
from recllm.market.campaigns.reach import count_reachable
from recllm.shop.workspace.keys import Scope

router = APIRouter(prefix="/campaigns", route_class=PageRoute)

OPENING = "everybody"
"""Subject of the job that reads all people for the first time."""


@router.get("/campaign/{campaign_id}/people")
def people_page(visit: TheVisit, campaign_id: str) -> Response:
    """Who gets it, and who is left out."""
    return show_people(visit, campaign_id, PageState())


def show_people(visit: Visit, campaign_id: str, state: PageState, *, status: int = 200) -> Response:
    values = campaign_values(visit, campaign_id, CampaignStep.PEOPLE, state)
    values |= people_values(visit, values, state)
    return visit.page("campaign_people.html.j2", section="campaigns", status=status, **values)


def people_values(visit: Visit, values: Mapping[str, Any], state: PageState) -> dict[str, Any]:
    text, campaign_id = values["texts_of_form"]["target.people"], values["campaign_id"]
    result = rule_values(visit, text, is_typed="target.people" in state.problems)
    result |= {"rule_path": f"/campaigns/campaign/{quote(campaign_id)}/rule", "swap_beside": False}
    result |= {"rule_locked": values["locked"], "saved_sentence": sentence(visit, values["file"].target.people)}
    result |= count_values(visit, state.count)
    campaign: OpenCampaign | None = values["campaign"]
    if campaign is None:
        return result
    plan, figures = campaign.plan, visit.figures
    channels = Counter(person.channel for person in plan.addressed)
    numbers = {name: n and figures.people(n, plan.campaign_id, name) for name, n in plan.excluded.items()}
    return result | {
        "people": figures.people(len(plan.addressed), plan.campaign_id, "addressed") or 0,
        "held_out": figures.people(len(plan.held_out), plan.campaign_id, "held out") or 0,
        "channels": {n: k for n, c in channels.most_common() if (k := figures.people(c, plan.campaign_id, n))},
        "excluded": excluded_table(visit, left_out(numbers)),
        "traits": traits_table(visit, plan.group),
        "overlaps": overlaps(visit, campaign),
    }


@router.post("/campaign/{campaign_id}/count")
@slow
def count(visit: TheVisit, form: TheForm, campaign_id: str) -> Response:
    """How many people the fields could reach, as they are typed; nothing is written."""
    visit.require(Scope.MARKETING)
    typed = typed_texts(form, CampaignStep.PEOPLE)
    audience = audience_count(visit, campaign_id, typed)
    if visit.is_part:
        values: dict[str, Any] = count_values(visit, audience) | {"swap_beside": False}
        return visit.page("campaign_count.html.j2", campaign_id=campaign_id, **values)
    return show_people(visit, campaign_id, PageState(typed=typed, count=audience))


@router.post("/campaign/{campaign_id}/rule")
@slow
def change_rule(
    visit: TheVisit, form: TheForm, campaign_id: str, act: Annotated[str, Query(max_length=60)] = ""
) -> Response:
    """The form with a condition or a group more or less; nothing is written."""
    visit.require(Scope.MARKETING)
    typed = typed_texts(form, CampaignStep.PEOPLE)
    typed["target.people"] = TypedRule.of_form(form).after(act, text_of(form, "people:add")).text
    audience = audience_count(visit, campaign_id, typed)
    state = PageState(typed=typed, count=audience)
    if not visit.is_part:
        return show_people(visit, campaign_id, state)
    values = campaign_values(visit, campaign_id, CampaignStep.PEOPLE, state)
    values |= people_values(visit, values, state) | {"swap_beside": True}
    return visit.page("campaign_rule_changed.html.j2", **values)


def count_values(visit: Visit, audience: AudienceCount | None) -> dict[str, Any]:
    """What the live count's part of the page needs."""
    reach = audience.reach if audience is not None else None
    excluded = [(reason, n) for reason, n in reach.excluded.items() if n is not None] if reach else []
    rules = list(reach.rule.items())[1:] if reach else []
    conditions = [(sentence(visit, rule), count_cell(visit, n, is_estimate=True)) for rule, n in rules]
    return {
        "count": audience,
        "count_excluded": excluded_table(visit, excluded, name="count-left-out", is_estimate=True)
        if excluded
        else None,
        "count_conditions": visit.table("count-conditions", conditions) if reach and reach.rule else None,
        "floor": visit.figures.floor,
        "sentence": lambda rule: sentence(visit, rule),
    }


def rule_values(visit: Visit, text: str, *, is_typed: bool) -> dict[str, Any]:
    """What the fields of a rule need. text: of `recllm.doors.console.rule_fields`."""
    return {
        "rule": TypedRule.of_text(text),
        "is_rule_typed": is_typed,
        "rule_names": [*categories(visit), *brands(visit)],
        "basics": visit.shop.everybody.basics(),
    }


def audience_count(visit: Visit, campaign_id: str, typed: Mapping[str, str]) -> AudienceCount:
    """Starts to read all people in the background where that was not done yet."""
    workspace, everybody, background = visit.workspace, visit.shop.everybody, visit.state.service.background
    try:
        file, _ = campaign_of_fields(changed_fields(visit, campaign_id, typed, CampaignStep.PEOPLE))
        if not everybody.is_open:
            if background.open_job(visit.shop.name, OPENING) is None:
                background.submit(visit.shop.name, OPENING, lambda _: everybody.recommender() and None)
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
