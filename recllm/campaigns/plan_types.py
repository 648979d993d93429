"""What a plan consists of: people, texts and the facts that the texts were checked against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a text's claims rest on; when one of them changes, the text is withdrawn."""

    title: str
    price: str | None = None
    """Decimal text without trailing zeros."""
    list_price: str | None = None
    currency: str | None = None
    available: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """What a check says about a text. rule: the guarantee that it breaks, or pack and rule of a warning."""

    rule: str
    message: str
    span: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
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
    failures: tuple[Doubt, ...]
    warnings: tuple[Doubt, ...]
    facts: Facts
    people: int
    """Who would get it; 0 on a channel that is for everybody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """One person of a plan: addressed, or held out and known as if addressed."""

    user_id: str
    """A pseudonym."""
    held: bool
    probability: float
    item_id: str
    kind: str
    channel: str
    locale: str
    variant: int
    text_id: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """known people = len(addressed) + len(held) + the sum of `excluded`."""

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
    window_days: float
    model_version: str | None
    holdout: float
    excluded: Mapping[str, int]
    """Reason -> people who are not addressed, each under one reason."""
    expected_conversions: float
    cost: float | None
    """What all contacts cost, where a contact has a price."""
    items: tuple[str, ...]
    """All items of the campaign: taking any of them is a conversion."""
    converts: tuple[str, ...]
    """The actions that count as taking: purchases, or in a log with hardly any what the model learned from."""
    group: tuple[Mapping[str, Any], ...]
    """What sets the audience apart; see `recllm.audiences.group`."""
    notes: tuple[str, ...]
    texts: tuple[Text, ...]
    people: tuple[Person, ...]
    """Best first, those held out among them."""

    @property
    def addressed(self) -> tuple[Person, ...]:
        return tuple(p for p in self.people if not p.held)

    @property
    def held(self) -> tuple[Person, ...]:
        return tuple(p for p in self.people if p.held)
