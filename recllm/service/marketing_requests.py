"""What marketing and search ask of the service, as pydantic models: ranges, units and examples of every field."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from recllm.audiences.people_rule import RuleField
from recllm.campaigns.drafts import CampaignSummary
from recllm.propensity.prediction import PredictionKind
from recllm.schema import Intent, Objective
from recllm.service.requests import (
    Condition,
    Id,
    Ids,
    Locale,
    PersonRequest,
    ServiceRequest,
    SessionId,
    Text,
    UserId,
    one_of,
)

MAX_LISTED_IDS = 100_000

ManyIds = Annotated[list[Id], Field(max_length=MAX_LISTED_IDS)]
KnownIds = Annotated[
    ManyIds,
    Field(description="Ids of the shop that stand for their pseudonyms in the answer; the store keeps none."),
]
Limit = Annotated[int, Field(ge=0, le=100_000, description="People listed in the answer at most; all are counted.")]
Money = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Days = Annotated[float, Field(gt=0, le=36_500, allow_inf_nan=False)]
CampaignId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Revision = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
"""What whoever writes has read; another one is refused with 409."""


class SearchQuery(ServiceRequest):
    """What somebody looks for."""

    query: Annotated[str, StringConstraints(max_length=500, pattern=r"\S")]
    user_id: UserId | None = None
    """Who looks; the order is theirs if they agreed to personalisation."""
    session_id: SessionId | None = None
    """Instead of it: an anonymous visitor."""
    k: Annotated[int, Field(ge=1, le=100)] = 10
    where: Condition | None = None
    """A condition on the catalogue, e.g. "price < 50 AND brand = 'Acme'"."""
    exclude: Ids = Field(default_factory=list)
    """Never these items."""
    basket: Ids = Field(default_factory=list)
    """Items in the cart now."""
    explain: bool = False
    """Whether each item of a personal answer gets its reasons."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"query": "green tea", "user_id": "4711", "k": 5}]})

    @model_validator(mode="after")
    def _one_visitor(self) -> Self:
        return one_of(self, "user_id", "session_id", needed=False)


_RULE_EXAMPLE: dict[str, Any] = {
    "all": [
        {"condition": "bought", "category": "coffee", "days": 90},
        {"not": {"condition": "reached", "days": 14}},
    ]
}


class AudienceQuery(ServiceRequest):
    """For what to reach whom: one of items, where, category, text and seeds; a text may come with a category."""

    items: Ids | None = None
    """Whoever is likely to buy at least one of them."""
    where: Condition | None = None
    """The items that meet a condition, e.g. "brand = 'Acme' AND price < 50"."""
    category: Text | None = None
    """A name, or a path "food > tea"."""
    text: Text | None = None
    """What the shop does not sell yet."""
    seeds: ManyIds | None = None
    """People; those who are like them are found."""
    campaign: Text | None = None
    """Names the draw of the holdout; the target's own name when left out."""
    channel: Literal["email", "push", "sms_gsm"] | None = None
    """Only people who agreed to it."""
    intent: Intent = Intent.MIXED
    """What an item is to a person: whatever is likely, new, bought before, going with a purchase, or missed."""
    objective: Objective = Objective.PROBABILITY
    """Who comes first: by the chance, by what it is above that of people in general, by margin or by uplift."""
    effects: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] | None = None
    """uplift: the name of the effects that a trial told."""
    sure: bool = False
    """uplift: only people whose effect is shown to be above 0."""
    size: Annotated[int, Field(ge=0, le=10_000_000)] | None = None
    """People addressed at most."""
    budget: Money | None = None
    """Spent at `cost` per contact."""
    cost: Money | None = None
    margin: Money | None = None
    """What a conversion brings; then only who is worth the cost."""
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share that is kept out for comparison."""
    salt: Annotated[str, StringConstraints(max_length=100)] = ""
    suppressed: ManyIds = Field(default_factory=list)
    """Never contact these people."""
    bought_days: Days | None = None
    """Leave out who bought one of the items within so many days."""
    returned: bool = True
    """Leave out who returned one of the items."""
    frequency_cap: Annotated[int, Field(ge=1, le=1_000)] | None = None
    """Leave out who was shown something so often in `frequency_days`."""
    frequency_days: Days = 7.0
    adult_age: Annotated[int, Field(ge=0, le=150)] = 18
    people: RuleField | None = None
    """Only people who meet this rule: conditions under all, any and not."""
    explain_first: Annotated[int, Field(ge=0, le=1_000)] = 20
    """Reasons for the first so many people."""
    limit: Limit = 1_000
    ids: KnownIds = Field(default_factory=list)

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"items": ["tea-3"], "size": 500, "channel": "email", "limit": 100},
                {"items": ["tea-3"], "people": _RULE_EXAMPLE},
            ]
        }
    )

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if self.text is not None and self.category is not None:
            return one_of(self, "items", "where", "text", "seeds")
        return one_of(self, "items", "where", "category", "text", "seeds")


class MailingIn(ServiceRequest):
    """One person who was sent one coupon campaign."""

    user_id: UserId
    campaign_id: Id
    timestamp: AwareDatetime
    end: AwareDatetime | None = None
    """The last moment to redeem."""
    kind: Text | None = None


class CouponItemIn(ServiceRequest):
    """One item on which a coupon of a campaign counts."""

    campaign_id: Id
    item_id: Id
    coupon_id: Id | None = None


class RedemptionIn(ServiceRequest):
    """One coupon that was redeemed."""

    user_id: UserId
    campaign_id: Id
    timestamp: AwareDatetime


class CouponsIn(ServiceRequest):
    """Coupon campaigns so far."""

    mailings: Annotated[list[MailingIn], Field(min_length=1)]
    products: list[CouponItemIn]
    redemptions: list[RedemptionIn]


class PredictionQuery(ServiceRequest):
    """What people will do. It is learned at the first time of asking, which takes a while, and kept."""

    kind: PredictionKind
    horizon_days: Annotated[int, Field(ge=1, le=730)] = 28
    items: Ids = Field(default_factory=list)
    """Only purchases of these count."""
    category: Text | None = None
    """Only purchases of it count."""
    active_days: Annotated[int, Field(ge=1, le=3_650)] | None = None
    """leave: who bought within so many days is active."""
    coupons: CouponsIn | None = None
    """redeem: needed there."""
    coupon_campaign: Id | None = None
    """redeem: the campaign that is predicted; the latest when left out."""
    basics: bool = False
    """Whether what people told of themselves is used."""
    explain: bool = True
    locale: Locale = None
    limit: Limit = 1_000
    ids: KnownIds = Field(default_factory=list)

    model_config = ConfigDict(json_schema_extra={"examples": [{"kind": "leave", "horizon_days": 28, "limit": 100}]})


_FIELDS_EXAMPLE: dict[str, Any] = {
    "id": "spring",
    "goal": "tea for those who will drink it",
    "channels": ["email"],
    "target": {"items": ["tea-3"], "people": _RULE_EXAMPLE},
    "limits": {"size": 500},
    "sender": {"name": "Hearth", "address": "12 Mill Lane, York", "opt_out": "https://shop.example/stop"},
}


class NewCampaign(ServiceRequest):
    """A campaign in the fields of a campaign's file, tables as objects, times and amounts also as texts."""

    campaign: dict[str, Any]

    model_config = ConfigDict(json_schema_extra={"examples": [{"campaign": _FIELDS_EXAMPLE}]})


class ChangedCampaign(ServiceRequest):
    """Other fields for a campaign that was not exported yet."""

    revision: Revision
    campaign: dict[str, Any]

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"revision": "0123456789abcdef", "campaign": _FIELDS_EXAMPLE}]}
    )


class OccasionsQuery(ServiceRequest):
    """Whom to write to on a day."""

    on: date | None = None
    """The day; today when left out. An earlier one is told as its morning would have."""
    limit: Limit = 1_000
    explain: bool = True
    """Whether each person gets the reasons."""
    locale: Locale = None
    ids: KnownIds = Field(default_factory=list)

    model_config = ConfigDict(json_schema_extra={"examples": [{"on": "2026-03-01", "limit": 100}]})


class PlanOrder(ServiceRequest):
    """Have a campaign planned: people, items, texts."""

    revision: Revision
    replace: bool = False
    """Whether an earlier plan goes, with what was decided about its texts."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"revision": "0123456789abcdef"}]})


class TextDecision(ServiceRequest):
    """What is decided about texts of a campaign; who decides is the key's name."""

    revision: Revision
    decision: Literal["approve", "edit", "reject"]
    text_ids: Annotated[list[Id], Field(min_length=1, max_length=1_000)]
    """Of the campaign's texts; one for an edit. All or none."""
    text: Annotated[str, StringConstraints(max_length=5_000, pattern=r"\S")] | None = None
    """edit: the new wording, which is checked at once and waits for approval."""
    why: Annotated[str, StringConstraints(max_length=1_000)] = ""
    """reject: the reason."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"revision": "0123456789abcdef", "decision": "approve", "text_ids": ["t1"]}]}
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.decision == "edit") != (self.text is not None):
            raise ValueError("an edit has a text, and nothing else has one")
        if self.decision == "edit" and len(self.text_ids) != 1:
            raise ValueError("an edit is of one text")
        return self


class ExportOrder(ServiceRequest):
    """Have what was approved written out, and logged as sent."""

    revision: Revision
    ids: KnownIds = Field(default_factory=list)

    model_config = ConfigDict(json_schema_extra={"examples": [{"revision": "0123456789abcdef", "ids": ["4711"]}]})


class SessionJoinRequest(ServiceRequest):
    """An anonymous visitor who turned out to be a person, by signing in for instance."""

    session_id: SessionId
    user_id: UserId

    model_config = ConfigDict(json_schema_extra={"examples": [{"session_id": "v-93", "user_id": "4711"}]})


class RestrictionRequest(PersonRequest):
    """Whether a person's data are to be used for nothing."""

    restricted: bool

    model_config = ConfigDict(json_schema_extra={"examples": [{"user_id": "4711", "restricted": True}]})


# --- answers ---------------------------------------------------------------------------------------------------------


class CampaignList(BaseModel):
    """All campaigns of the shop."""

    campaigns: list[CampaignSummary]


class CampaignRevision(BaseModel):
    """A campaign, and what the next change of it has to name."""

    campaign_id: str
    revision: str
