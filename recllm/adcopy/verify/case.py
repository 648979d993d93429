"""What one text is checked against, and the small pieces that the checks share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from recllm.adcopy.channels import Channel
from recllm.adcopy.facts import FactSheet, Offer
from recllm.adcopy.lexicon import table
from recllm.adcopy.money import language
from recllm.adcopy.packs import Pack
from recllm.adcopy.quantities import Quantity, quantities
from recllm.adcopy.reading import Reading, fold, read
from recllm.adcopy.voice import Voice


@dataclass(frozen=True, kw_only=True)
class Case:
    """A text with everything that decides whether it may be said."""

    text: str
    facts: FactSheet
    channel: Channel
    locale: str
    now: datetime
    known_brands: frozenset[str] = frozenset()
    evidence: Mapping[str, str] = field(default_factory=dict)
    prompt: str = ""
    """What the model was given, without the item's facts: none of it may come back."""
    packs: tuple[Pack, ...] = ()
    voice: Voice = field(default_factory=Voice)

    @cached_property
    def reading(self) -> Reading:
        return read(self.text)

    @cached_property
    def quantities(self) -> tuple[Quantity, ...]:
        """Line by line: a line's last number and the next line's first are two."""
        return tuple(q for line in self.text.split("\n") for q in quantities(read(line).folded))

    @property
    def language(self) -> str:
        return language(self.locale)

    @property
    def offer(self) -> Offer | None:
        """The offer, if it runs now."""
        offer = self.facts.offer
        return offer if offer is not None and offer.runs(self.now) else None

    @cached_property
    def own_words(self) -> str:
        """The text without the item's own texts: what somebody chose to say about it."""
        facts = sorted(
            {f for f in (*self.facts.texts, *self.facts.shown) if len(f) > 1 or not f.isascii()}, key=len, reverse=True
        )
        return (
            re.sub("|".join(re.escape(f) for f in facts), " ", self.text, flags=re.IGNORECASE) if facts else self.text
        )


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a check failed, and the piece of the text that shows it."""

    message: str
    span: str = ""


def stated_by_facts(phrase: str, facts: FactSheet) -> bool:
    """True when the item's facts hold the phrase, singular and plural alike."""
    if _denied(phrase, facts):
        return False
    if fold(phrase) in facts.folded and not phrase.isascii():
        return True
    wanted, stems = [stem(w) for w in read(phrase).words], {stem(w) for w in facts.words}
    return bool(wanted) and all(word in stems for word in wanted)


def used_with(phrase: str, facts: FactSheet) -> bool:
    """True when the item is a thing that goes with the phrase without being made of it: coffee, and a mug."""
    names = [read(text) for text in (facts.title, *facts.category)]
    for use in table("uses.toml")["use"]:
        held = any(t in n.words if t.isascii() else t in n.folded for t in use["things"] for n in names)
        if held and stem(phrase) in {stem(word.rstrip("*")) for word in use["words"]}:
            return True
    return False


def _denied(phrase: str, facts: FactSheet) -> bool:
    """True when the facts name the thing only to say that it is not there: "non chocolate", "sugar-free", 无糖."""
    word = re.escape(fold(phrase))
    return bool(re.search(rf"\b(?:non|no|without)[ -]?{word}|{word}[ -]free\b|(?:无|不含|零){word}", facts.folded))


def stem(word: str) -> str:
    """ "berries" -> "berry", "beans" -> "bean"."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
