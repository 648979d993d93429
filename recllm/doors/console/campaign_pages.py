"""What the pages of a campaign share: the campaign with what is typed, why a form was refused, and who acts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from urllib.parse import quote

from starlette.datastructures import FormData

from recllm.base.errors import UsageError
from recllm.base.words.sentences import language
from recllm.doors.console.campaign_checks import STEP_OF, FieldProblemsError, mended, problems_of_error
from recllm.doors.console.campaign_fields import FIELDS, CampaignStep, field_texts, fields_of_file, with_typed
from recllm.doors.console.pages import FormRefusal, Visit, text_of
from recllm.doors.console.rule_fields import TypedRule
from recllm.doors.console.tables import ConsoleTable, TableRow
from recllm.doors.service.jobs import Job
from recllm.doors.service.marketing import order_plan
from recllm.market.audiences.people_rule import PeopleRule, parse_rule, rule_words
from recllm.market.campaigns.drafts import (
    CampaignStage,
    campaign_file,
    file_path,
    open_by_id,
    revision_of,
    stage_of,
)
from recllm.market.campaigns.file import CampaignFile
from recllm.market.campaigns.folder import CampaignFolder
from recllm.market.campaigns.plan import ReachCount
from recllm.market.campaigns.texts import festive_day
from recllm.market.occasions.calendar import SENSIBLE_DAYS
from recllm.shop.data.dataset import utc
from recllm.shop.workspace.keys import Scope
from recllm.shop.workspace.workspace import present


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


def page_path(campaign_id: str, step: CampaignStep, **query: str) -> str:
    fields = "&".join(f"{name}={quote(text)}" for name, text in query.items())
    return f"/campaigns/campaign/{quote(campaign_id)}/{step}" + (f"?{fields}" if fields else "")


def campaign_values(visit: Visit, campaign_id: str, step: CampaignStep, state: PageState) -> dict[str, Any]:
    """What every page of a campaign shows."""
    workspace = visit.workspace
    file, stage = campaign_file(workspace, campaign_id), stage_of(workspace, campaign_id)
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
        "conflicts": conflict_table(visit, state, saved),
        **common_values(visit, state, step),
        "day_warning": day_warning(visit, file, campaign.moment if campaign else file.send),
        "locked": stage is CampaignStage.EXPORTED or not visit.may(Scope.MARKETING),
    }


def day_warning(visit: Visit, file: CampaignFile, moment: datetime | None) -> str:
    """Why messages that go out at a moment make no sense for the campaign's day of the calendar; "" where they do.
    moment: None for the present."""
    settings = visit.workspace.settings
    day = festive_day(settings, file, moment or utc(present(visit.workspace)))
    if day is None or 0 <= day.days_left <= SENSIBLE_DAYS:
        return ""
    names = {"name": day.names[language(visit.language)], "days": abs(day.days_left)}
    return visit.say("campaigns.day_far" if day.days_left > 0 else "campaigns.day_past", **names)


def common_values(visit: Visit, state: PageState, step: CampaignStep) -> dict[str, Any]:
    return {
        "day_warning": "",
        "step": step,
        "steps": list(CampaignStep),
        "step_of": STEP_OF,
        "state": state,
        "fields": {declared.path: declared for of_step in FIELDS.values() for declared in of_step},
        "zone": visit.workspace.settings.timezone or "UTC",
        "floor": visit.figures.floor,
        "locked": not visit.may(Scope.MARKETING),
    }


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


def sentence(visit: Visit, rule: PeopleRule | None) -> str:
    """A rule over people in the visitor's language; "" for none."""
    if rule is None:
        return ""
    return rule_words(rule, visit.workspace.locale(visit.language), visit.workspace.settings.currency)


def rule_sentence(visit: Visit, text: str) -> str:
    """What fields of a rule say in the visitor's language; "" while it is no rule yet. text: of `rule_fields`."""
    try:
        document = TypedRule.of_text(text).document()
    except UsageError:
        return ""
    return sentence(visit, parse_rule(document)) if document is not None else ""


def changed_fields(visit: Visit, campaign_id: str, typed: Mapping[str, str], step: CampaignStep) -> dict[str, Any]:
    """The campaign's fields with what was typed on a page. Raises `UnknownIdError` for an unknown campaign."""
    campaign_file(visit.workspace, campaign_id)
    fields = fields_of_file(file_path(visit.workspace, campaign_id).read_bytes())
    changed = with_typed(fields, typed, step, visit.workspace.settings.timezone)
    return mended(changed, utc(present(visit.workspace)))


def refused_state(visit: Visit, refusal: FormRefusal, state: PageState) -> PageState:
    """The page's state with why a form was refused."""
    if refusal.is_conflict:
        return replace(state, conflict=True)
    error = refusal.error
    english = error.english if isinstance(error, FieldProblemsError) else str(error)
    return replace(state, problems=problems_of_error(visit, error), english=english)


def order(visit: Visit, campaign_id: str, revision: str) -> Job:
    """Have the people chosen and the messages written in the background."""
    has_plan = CampaignFolder.of(visit.workspace.root, campaign_id).plan.exists()
    return order_plan(
        visit.state.service, visit.shop, campaign_id, by=actor_name(visit), revision=revision, replace=has_plan
    )


def actor_name(visit: Visit, form: FormData | None = None) -> str:
    """Who acts, for the history: the key's name; without sign-in the typed name, or this machine."""
    if visit.signed_in and visit.signed_in.name:
        return visit.signed_in.name
    return "this machine" if form is None else text_of(form, "by", 80).strip()
