"""What to write: one frozen request that is checked when it is made and passed on down to the verifier.

request = CopyRequest(item=item, channel="push", now=now, locale="en", reason_kind=ReasonKind.KNOWN)
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass

from recllm.adcopy.channels import Channel, channel_named
from recllm.adcopy.facts import FactSheet, Offer
from recllm.adcopy.packs import Pack
from recllm.adcopy.parsing import FilledText, parse
from recllm.errors import DataError, UsageError
from recllm.policy import Policy
from recllm.schema import Item, Reason, ReasonKind
from recllm.text.templates import LOCALES, language

Words = Annotated[tuple[FilledText, ...], Field(description="a list of words")]
Flag = Annotated[bool, Field(description="true or false", strict=True)]


@checked_dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Voice:
    """How a brand speaks; the defaults bind nobody. As TOML:

    banned = ["cheap", "guys"]
    address = "您"
    exclamation = false
    """

    banned: Words = ()
    """Stand in no text: whole words in Latin script, anywhere in Chinese; "*" stands for up to 20 letters."""
    required: Words = ()
    """Stand in every text."""
    lines: Words = ()
    """Opening lines in the brand's own words, taken before the shop's general ones where no model writes the line. Each
    is checked as any other; with `required` words, some should hold them."""
    address: Annotated[Literal["您", "你"] | None, Field(description="您 or 你")] = None
    """您 or 你 in Chinese texts: the other one is not used. None for either."""
    emoji: Flag = True
    exclamation: Flag = True


def load_voice(file: Path) -> Voice:
    """Reads a voice from TOML. Raises `DataError` with the file and the field that is wrong."""
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: no brand voice, since it is not TOML: {error}") from error
    return parse(Voice, values, owner="a voice", prefix=f"{file}: ")


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyRequest:
    """Everything that decides a text but the generator. Raises `UsageError` for a value that cannot be."""

    item: Item
    channel: str
    """A name of data/channels.toml."""
    now: datetime
    """An aware time; decides whether the offer runs."""
    locale: str = "en"
    """Language and perhaps region, such as en, en-GB or zh."""
    reason_kind: ReasonKind = ReasonKind.GENERAL
    """Told as a neutral kind ("goes with what you like"), never as what the person did."""
    n_candidates: int = 8
    """Opening lines that a generator is asked for."""
    seed: int = 0
    known_brands: frozenset[str] = frozenset()
    """The catalogue's brands: none but the item's own may be named."""
    offer: Offer | None = None
    list_price: Decimal | None = None
    evidence: Mapping[str, str] = field(default_factory=dict)
    """Proofs that the shop has, by the key of the claim in data/claims.toml or of the rule that asks for them, for
    instance {"certification": "EU 2018/848, no. 123"}."""
    policy: Policy = field(default_factory=Policy)
    """For items of its sensitive categories no reason is told and no model asked."""
    packs: tuple[Pack, ...] = ()
    """The laws where the text goes. An offer that they forbid is left out."""
    voice: Voice = field(default_factory=Voice)
    """The brand's."""
    variants: int = 1
    """Most texts that differ."""

    def __post_init__(self) -> None:
        channel_named(self.channel)
        checked_locale(self.locale)
        if self.now.tzinfo is None:
            raise UsageError(f"now is {self.now}, which has no time zone; give an aware time")
        for name in ("n_candidates", "variants"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; ask for at least 1")
        object.__setattr__(self, "known_brands", frozenset(self.known_brands))

    @property
    def language(self) -> str:
        """ "en" or "zh"."""
        return language(self.locale)

    @property
    def limits(self) -> Channel:
        """The slots and limits of the channel."""
        return channel_named(self.channel)

    @property
    def is_sensitive(self) -> bool:
        return self.policy.is_sensitive((*self.item.category, self.item.title))

    def facts(self) -> FactSheet:
        """What the catalogue says about the item, made harmless."""
        return FactSheet.of(self.item, offer=self.offer, list_price=self.list_price)


def checked_locale(locale: str) -> str:
    """The locale, when texts can be written in its language; raises `UsageError` otherwise."""
    if language(locale) not in LOCALES:
        raise UsageError(f"unknown locale {locale!r}; texts are written in: {', '.join(LOCALES)}")
    return locale


def reason_kind(reason: Reason | None, item_id: str, *, sensitive: bool) -> ReasonKind:
    """From the evidence of a reason; GENERAL where there is none, it does not count, or the item is sensitive."""
    if reason is None or sensitive or reason.delta <= 0:
        return ReasonKind.GENERAL
    source, _, evidence = reason.evidence_id.partition(":")
    if source == "B":
        return ReasonKind.KNOWN if evidence == item_id else ReasonKind.TOGETHER
    return {"H": ReasonKind.INTEREST, "I": ReasonKind.PICKED}.get(source, ReasonKind.GENERAL)
