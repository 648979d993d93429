"""What marketing and search ask of the service."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, BaseModel, Field, StringConstraints, model_validator

from recllm.base.questions import PredictionQuestion
from recllm.doors.service.requests import (
    Condition,
    Id,
    Ids,
    Locale,
    PersonRequest,
    ServiceRequest,
    SessionId,
    Text,
    UserId,
    VisitorRequest,
    one_of,
)
from recllm.market.audiences.request import AudienceQuestion
from recllm.market.campaigns.drafts import CampaignSummary

MAX_LISTED_IDS = 100_000

ManyIds = Annotated[tuple[Id, ...], Field(max_length=MAX_LISTED_IDS)]
KnownIds = Annotated[
    ManyIds,
    Field(description="Ids of the shop, which replace their pseudonyms in the answer; the store keeps none."),
]
Limit = Annotated[int, Field(ge=0, le=100_000, description="People listed in the answer at most; all are counted.")]
CampaignId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Revision = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
"""The revision that the caller has read; another one is refused with 409."""


class SearchQuery(VisitorRequest, json_schema_extra={"examples": [{"query": "green tea", "user_id": "4711", "k": 5}]}):
    """What a visitor looks for."""

    query: Annotated[str, StringConstraints(max_length=500, pattern=r"\S")]
    """What to look for."""


_RULE_EXAMPLE: dict[str, Any] = {
    "all": [
        {"condition": "bought", "category": "coffee", "days": 90},
        {"not": {"condition": "reached", "days": 14}},
    ]
}


class AudienceQuery(
    ServiceRequest,
    AudienceQuestion,
    json_schema_extra={
        "examples": [
            {"items": ["tea-3"], "size": 500, "channel": "email", "limit": 100},
            {"items": ["tea-3"], "people": _RULE_EXAMPLE},
        ]
    },
):
    """For what to reach whom: one of items, where, category, text and seeds; a text may come with a category."""

    items: Ids | None = None
    """People who are likely to buy at least one of them."""
    where: Condition | None = None
    """The items that meet a condition, e.g. "brand = 'Acme' AND price < 50"."""
    seeds: ManyIds | None = None
    """People; those who are like them are found."""
    size: Annotated[int, Field(ge=0, le=10_000_000)] | None = None
    """People addressed at most."""
    suppressed: ManyIds = ()
    """Never contact these people."""
    explain_first: Annotated[int, Field(ge=0, le=1_000)] = 20
    """Number of people, from the first on, who get reasons."""
    limit: Limit = 1_000
    ids: KnownIds = ()

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


class PredictionQuery(
    ServiceRequest,
    PredictionQuestion,
    json_schema_extra={"examples": [{"kind": "leave", "horizon_days": 28, "limit": 100}]},
):
    """What people will do. It is learned at the first time of asking, which takes a while, and kept."""

    horizon_days: Annotated[int, Field(ge=1, le=730)] = 28
    """Days to look ahead."""
    items: Ids = ()
    """Only purchases of these count."""
    category: Text | None = None
    """Only purchases of it count."""
    active_days: Annotated[int, Field(ge=1, le=3_650)] | None = None
    """leave: who bought within this many days is active."""
    coupons: CouponsIn | None = None
    """redeem: needed there."""
    coupon_campaign: Id | None = None
    """redeem: the campaign that is predicted; the latest when left out."""
    locale: Locale = None
    limit: Limit = 1_000
    ids: KnownIds = ()


_FIELDS_EXAMPLE: dict[str, Any] = {
    "id": "spring",
    "goal": "tea for those who will drink it",
    "channels": ["email"],
    "target": {"items": ["tea-3"], "people": _RULE_EXAMPLE},
    "limits": {"size": 500},
    "sender": {"name": "Hearth", "address": "12 Mill Lane, York", "opt_out": "https://shop.example/stop"},
}


class NewCampaign(ServiceRequest, json_schema_extra={"examples": [{"campaign": _FIELDS_EXAMPLE}]}):
    """A campaign in the fields of a campaign's file, tables as objects, times and amounts also as texts."""

    campaign: dict[str, Any]


class ChangedCampaign(
    ServiceRequest, json_schema_extra={"examples": [{"revision": "0123456789abcdef", "campaign": _FIELDS_EXAMPLE}]}
):
    """Other fields for a campaign that was not exported yet."""

    revision: Revision
    campaign: dict[str, Any]


class OccasionsQuery(ServiceRequest, json_schema_extra={"examples": [{"on": "2026-03-01", "limit": 100}]}):
    """Whom to write to on a day."""

    on: date | None = None
    """The day; today when left out. An earlier one is answered as on its morning."""
    limit: Limit = 1_000
    explain: bool = True
    """Whether each person gets the reasons."""
    locale: Locale = None
    ids: KnownIds = ()


class PlanOrder(ServiceRequest, json_schema_extra={"examples": [{"revision": "0123456789abcdef"}]}):
    """Have a campaign planned: people, items, texts."""

    revision: Revision
    replace: bool = False
    """Whether an earlier plan goes, with what was decided about its texts."""


class TextDecision(
    ServiceRequest,
    json_schema_extra={"examples": [{"revision": "0123456789abcdef", "decision": "approve", "text_ids": ["t1"]}]},
):
    """What is decided about texts of a campaign; who decides is the key's name."""

    revision: Revision
    decision: Literal["approve", "edit", "reject"]
    text_ids: Annotated[list[Id], Field(min_length=1, max_length=1_000)]
    """Of the campaign's texts; one for an edit. All or none."""
    text: Annotated[str, StringConstraints(max_length=5_000, pattern=r"\S")] | None = None
    """edit: the new wording, which is checked at once and waits for approval."""
    why: Annotated[str, StringConstraints(max_length=1_000)] = ""
    """reject: the reason."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.decision == "edit") != (self.text is not None):
            raise ValueError("an edit has a text, and nothing else has one")
        if self.decision == "edit" and len(self.text_ids) != 1:
            raise ValueError("an edit is of one text")
        return self


class ExportOrder(ServiceRequest, json_schema_extra={"examples": [{"revision": "0123456789abcdef", "ids": ["4711"]}]}):
    """Have what was approved written out, and logged as sent."""

    revision: Revision
    ids: KnownIds = ()


class SessionJoinRequest(ServiceRequest, json_schema_extra={"examples": [{"session_id": "v-93", "user_id": "4711"}]}):
    """An anonymous visitor who turned out to be a person, by signing in for instance."""

    session_id: SessionId
    user_id: UserId


class RestrictionRequest(PersonRequest, json_schema_extra={"examples": [{"user_id": "4711", "restricted": True}]}):
    """Whether a person's data are to be used for nothing."""

    restricted: bool


class CampaignList(BaseModel):
    """All campaigns of the shop."""

    campaigns: list[CampaignSummary]


class CampaignRevision(BaseModel):
    """A campaign, and what the next change of it has to name."""

    campaign_id: str
    revision: str
