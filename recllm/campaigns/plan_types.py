"""What a plan consists of: people, texts and the facts that the texts were checked against.

These are also the forms of the files in a campaign's folder, which are read strictly: an unknown or missing field is an
error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from pydantic import ConfigDict, Field, with_config

_file_form = with_config(ConfigDict(extra="forbid", validate_by_name=True))
"""Of dataclasses that are written to files: an unknown key is refused."""


@_file_form
@dataclass(frozen=True, slots=True, kw_only=True)
class TextFacts:
    """What a text's claims rest on; when one of them changes, the text is withdrawn."""

    title: str
    price: str | None = None
    """Decimal text without trailing zeros."""
    list_price: str | None = None
    currency: str | None = None
    available: bool = True


@_file_form
@dataclass(frozen=True, slots=True, kw_only=True)
class CheckNote:
    """What a check says about a text."""

    rule: str
    """The guarantee that the text breaks, or pack and rule of a warning."""
    message: str
    span: str = ""


@_file_form
@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignText:
    """One text for everybody of one item, kind of reason, channel and locale."""

    id: str
    item_id: str
    kind: str
    """A `ReasonKind`: nothing about a person can be read from it."""
    channel: str
    locale: str
    modelled: bool
    """For people who agreed to a generative model; the others get the shop's own lines."""
    variant: int
    text: str
    generator: str
    """Whose words they are: "template", or the model's name."""
    record: str
    """Id of the record that makes the text again."""
    failures: tuple[CheckNote, ...]
    warnings: tuple[CheckNote, ...]
    facts: TextFacts
    people: int
    """Who would get it; 0 on a channel that is for everybody."""


@_file_form
@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPerson:
    """One person of a plan with their text."""

    user_id: str
    """A pseudonym."""
    held_out: Annotated[bool, Field(alias="held")]
    """Drawn for the comparison: known as if addressed, and never contacted."""
    probability: float
    item_id: str
    kind: str
    channel: str
    locale: str
    variant: int
    text_id: str


@_file_form
@dataclass(frozen=True, kw_only=True)
class CampaignPlan:
    """Whom a campaign addresses with which texts. People of the shop = addressed + held out + sum of `excluded`."""

    campaign_id: str
    goal: str
    note: str
    digest: str
    """SHA-256 of the campaign's file."""
    as_of: str
    send: str
    offer: Mapping[str, Any] | None
    """type, value, start, end as JSON."""
    horizon_days: int
    window_days: int | float
    model_version: str | None
    holdout: float
    """Share that the draw holds out, in [0, 1)."""
    excluded: Mapping[str, int]
    """Reason -> people who are not addressed, each under one reason."""
    expected_conversions: float
    cost: float | None
    """What all contacts cost, where a contact has a price."""
    items: tuple[str, ...]
    """All items of the campaign: to take any of them is a conversion."""
    converts: tuple[str, ...]
    """The actions that convert: purchases, or in a log with hardly any what the model learned from."""
    group: tuple[Mapping[str, Any], ...]
    """What sets the audience apart; see `recllm.audiences.traits`."""
    notes: tuple[str, ...]
    texts: tuple[CampaignText, ...]
    people: tuple[PlannedPerson, ...]
    """Best first, those held out among them."""

    @property
    def addressed(self) -> tuple[PlannedPerson, ...]:
        return tuple(p for p in self.people if not p.held_out)

    @property
    def held_out(self) -> tuple[PlannedPerson, ...]:
        return tuple(p for p in self.people if p.held_out)


class TextStatus(StrEnum):
    DRAFT = "draft"
    APPROVED = "approved"
    EDITED = "edited"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"


@_file_form
@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One line of the log of decisions."""

    at: str
    by: str
    action: TextStatus
    text_id: str
    why: str = ""
    text: str = ""
    """The new wording of an edit, with what the checks said of it under which facts."""
    failures: tuple[CheckNote, ...] = ()
    warnings: tuple[CheckNote, ...] = ()
    facts: TextFacts | None = None


@_file_form
@dataclass(frozen=True, slots=True, kw_only=True)
class ExportEntry:
    """One line of the log of exports; people by pseudonym."""

    at: str
    send_from: str
    reached: tuple[str, ...]
    held_out: Annotated[tuple[str, ...], Field(alias="held")]
    texts: Mapping[str, str]
    """Person -> id of their text."""
    dropped: Mapping[str, int]
    """Reason -> people of the plan who were not reached."""
