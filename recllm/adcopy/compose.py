"""Puts an opening line and facts together for a channel, leaving out what does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from recllm.adcopy.channels import Channel
from recllm.adcopy.facts import FactSheet, Offer, OfferType
from recllm.adcopy.frame import Frame
from recllm.adcopy.lexicon import word_class
from recllm.adcopy.money import format_money, is_known, language
from recllm.adcopy.titles import shortened

_NAME_LENGTHS = (120, 60, 40, 28, 18)
_SHORTEST = 12
_DROPS = (
    (),
    ("call",),
    ("call", "brand"),
    ("call", "brand", "name"),
    ("call", "brand", "price"),
    ("call", "brand", "price", "offer"),
)
_STEPS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2), (0, 3), (3, 2), (3, 4), (4, 4), (3, 5), (4, 5))
"""(name length, drops) from the richest text to the barest."""


@dataclass(frozen=True, slots=True)
class Draft:
    text: str
    used: tuple[str, ...]
    """The facts that the text states."""


def names(title: str) -> tuple[str, ...]:
    """The shorter spellings of a title, longest first, each once."""
    return tuple(dict.fromkeys(shortened(title, limit) for limit in range(len(title) - 1, _SHORTEST - 1, -1)))


def compose(hook: str | None, facts: FactSheet, frame: Frame) -> Draft:
    """The richest text of the channel's template that fits; the barest one when none does.

    An offer is told only while it runs. `hook` is never cut or left out; the name leaves the body of a text only where
    a headline holds it.
    """
    found = next(drafts(hook, facts, frame), None)
    return found or _draft(hook, facts, frame, *_steps(hook, frame)[-1])


def drafts(hook: str | None, facts: FactSheet, frame: Frame) -> Iterator[Draft]:
    """The texts that fit, from the richest to the barest."""
    for length, drops in _steps(hook, frame):
        draft = _draft(hook, facts, frame, length, drops)
        if fits(draft.text, frame.channel):
            yield draft


def _steps(hook: str | None, frame: Frame) -> list[tuple[int, tuple[str, ...]]]:
    """(name length, what is dropped)."""
    headed = hook is not None and len(frame.channel.parts) > 1
    steps = [(_NAME_LENGTHS[length], _DROPS[drops]) for length, drops in _STEPS]
    return [step for step in steps if headed or "name" not in step[1]]


def fits(text: str, channel: Channel) -> bool:
    return all(piece.strip() and part.fits(piece) for part, piece in channel.split(text))


def _draft(hook: str | None, facts: FactSheet, frame: Frame, length: int, drops: tuple[str, ...]) -> Draft:
    name = _capital(shortened(facts.title, length))
    pieces = {
        "name": name,
        "brand": _brand(facts),
        "price": _amount(facts.price, facts.currency, frame.locale),
        "offer": _offer(facts, frame),
    }
    pieces = {key: None if key in drops else value for key, value in pieces.items()}
    values = {
        "headline": _headline(facts.title, name, frame.channel),
        "hook": hook,
        "facts": frame.prompts.render("ad_text.facts", frame.locale, **pieces),
        "call": "call" not in drops or None,
        "brand": pieces["brand"],
    }
    template = frame.prompts.template(f"ad_text.{frame.channel.name}", frame.locale)
    wanted = {key: value for key, value in values.items() if key in template.variables}
    text = frame.prompts.render(template.name, frame.locale, **wanted)
    told = ("brand",) if frame.channel.title_only else ("brand", "price", "offer")
    return Draft(text, ("title", *(key for key in told if pieces[key])))


def _headline(title: str, name: str, channel: Channel) -> str:
    """The longest spelling that fits the first part."""
    part = channel.parts[0]
    spellings = (shortened(title, limit) for limit in range(min(len(name), part.max), _SHORTEST - 1, -1))
    return next((_capital(s) for s in spellings if part.fits(s)), name)


def _capital(name: str) -> str:
    return name[:1].upper() + name[1:]


def _brand(facts: FactSheet) -> str | None:
    """The brand, unless the title already holds it."""
    return facts.brand if facts.brand and facts.brand.casefold() not in facts.title.casefold() else None


def _amount(amount: Decimal | None, currency: str | None, locale: str) -> str | None:
    """None where the amount or its currency is not known."""
    if amount is None or currency is None or not is_known(currency):
        return None
    return format_money(amount, currency, locale)


def _offer(facts: FactSheet, frame: Frame) -> str | None:
    offer = facts.offer
    if offer is None or not offer.runs(frame.now):
        return None
    value = _offer_value(offer, facts, frame.locale)
    if value is None and offer.type in (OfferType.PERCENT, OfferType.AMOUNT):
        return None
    end = _last_day(offer, frame.locale)
    return frame.prompts.render("ad_offer", frame.locale, type=str(offer.type), value=value, end=end)


def _offer_value(offer: Offer, facts: FactSheet, locale: str) -> str | None:
    if offer.value is None:
        return None
    if offer.type is OfferType.PERCENT:
        return _plain(offer.value) if language(locale) == "en" else _plain((100 - offer.value) / 10)
    return _amount(offer.value, facts.currency, locale)


def _plain(value: Decimal) -> str:
    return f"{value.normalize():f}"


def _last_day(offer: Offer, locale: str) -> str | None:
    """The last whole day of an offer: an end at midnight belongs to the day before."""
    if offer.end is None:
        return None
    day = offer.end - timedelta(microseconds=1)
    return (
        f"{day.day} {word_class('months')[day.month - 1]}" if language(locale) == "en" else f"{day.month}月{day.day}日"
    )
