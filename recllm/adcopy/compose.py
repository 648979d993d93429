"""From facts to text: what a product is called in an advertisement, and the richest text of a channel that fits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal

from babel.dates import format_skeleton

from recllm.adcopy.channels import width
from recllm.adcopy.lexicon import HAN, fold, pattern, word_class
from recllm.adcopy.quantities import currency_of, format_money, quantities
from recllm.adcopy.request import CopyRequest, FactSheet, OfferType
from recllm.adcopy.verify.guarantees import hostile_spans, unproven_spans
from recllm.text.templates import Prompts
from recllm.text.words import natural

# --- what the product is called ------------------------------------------------------------------------------------

_MAX_ROUNDS = 12
_MIN_NAME = 12
"""Characters of the shortest spelling that is tried."""
_MIN_FIRST_PART = 8
"""A first part of less width is too little to go by."""
_PIECE = re.compile(rf"[{HAN}]|[^\s{HAN}]+")
_BREAK = re.compile(r"\s*(?:[,;|(（，；]|\s[-–/]\s)")
_HANGING = pattern("titles.hanging", DANGLING="|".join(word_class("dangling")))
_SHOUTS = pattern("titles.shouts")
_EMPTY_BRACKETS = pattern("titles.empty_brackets")
_NAMING = re.compile(rf"[^\W\d_]{{3,}}|[{HAN}]")
_RUN = re.compile(rf"[{HAN}]{{2,}}|[^\W\d_]{{3,}}")
_LETTER = re.compile(rf"[^\W\d_]|[{HAN}]")


def sayable_facts(request: CopyRequest) -> FactSheet:
    """The facts of a request under a title that may be shown.

    Promises and claims that sellers write into titles ("SALE", 包邮, "best") are cut out of it. A title that carries
    instructions, personal data or foul language is not used at all: the narrowest category that may be said stands in
    for it, or the general name of the prompts.
    """
    facts = request.facts()
    bare = replace(request, evidence={})  # a proof of the shop's is no proof of a seller's words

    def may_stand(text: str) -> bool:
        return not hostile_spans(text, facts, bare) and not unproven_spans(text, facts, bare)

    sheet = replace(
        facts,
        brand=facts.brand if facts.brand and may_stand(facts.brand) else None,
        category=tuple(name for name in (_cleaned(name, facts, bare) for name in facts.category) if name),
        attributes={name: value for name, value in facts.attributes.items() if may_stand(f"{name}: {value}")},
    )
    title = _cleaned(facts.title, facts, bare)
    sheet = replace(sheet, title=title) if title else without_title(sheet, request.locale)
    longest_first = (shortened(sheet.title, longest) for longest in range(len(sheet.title) - 1, _MIN_NAME - 1, -1))
    return replace(sheet, spellings=tuple(dict.fromkeys(longest_first)))


def without_title(facts: FactSheet, locale: str) -> FactSheet:
    """The sheet under its narrowest category, or under the general name of the prompts; and without attributes."""
    if facts.category:
        title, source = facts.category[-1], "items.category"
    else:
        title, source = Prompts.load().render("ad_lines.unnamed", locale), "general"
    return replace(facts, title=title, title_source=source, attributes={}, spellings=())


def _cleaned(name: str, facts: FactSheet, request: CopyRequest) -> str:
    """`name` as running text without what the facts do not bear out; empty when it is hostile or nothing is left."""
    short_forms = Prompts.load().short_forms()
    name = natural(name, short_forms)
    for _ in range(_MAX_ROUNDS):
        if hostile_spans(name, facts, request):
            return ""
        spans = unproven_spans(name, facts, request)
        if not spans:
            return tidy(name) if _LETTER.search(name) else ""
        name = natural(_without(name, spans), short_forms)
    return ""


def _without(name: str, spans: Iterable[str]) -> str:
    """Cuts folded spans out of a name; where they are dressed up, out of its folded form."""
    before = name
    for span in sorted(spans, key=len, reverse=True):
        shape = re.compile(re.escape(span.strip()), re.IGNORECASE)
        form = next((text for text in (name, fold(name)) if shape.search(text)), None)
        if form:  # otherwise it went with a longer span
            name = shape.sub(" ", form, count=1)
    return "" if name == before else tidy(name)


def tidy(name: str) -> str:
    """No empty brackets, exclamation marks, doubled spaces, or ends left hanging."""
    name = " ".join(_EMPTY_BRACKETS.sub(" ", _SHOUTS.sub(" ", name)).split())
    return _HANGING.sub("", name).lstrip(" ,;:/&+-|，；：、")


def shortened(title: str, longest: int) -> str:
    """The beginning of a title within `longest` characters; never empty.

    Whole words, at least one of which names something, and no number without its unit: "8 fl" is no "8 fl oz". The
    first part before a comma, bracket or dash is preferred to a longer cut; where none of this fits, one word of the
    title.
    """
    if len(title) <= longest:
        return title
    stated = set(quantities(fold(title)))
    names = (name for name in _cuts(title, longest) if set(quantities(fold(name))) <= stated)
    return next(names) or title[:longest]


def _cuts(title: str, longest: int) -> Iterator[str]:
    """Shorter names, best first; the last one is empty."""
    first = tidy(_BREAK.split(title, maxsplit=1)[0])
    if len(first) <= longest and width(first) >= _MIN_FIRST_PART and _NAMING.search(first):
        yield first
    cuts = [tidy(title[: m.end()]) for m in _PIECE.finditer(title) if m.end() <= longest]
    at_words = [name for name in reversed(cuts) if name and _LETTER.search(_PIECE.findall(name)[-1])]
    yield from (name for name in at_words if _NAMING.search(name))
    yield from (run[:longest] for run in _RUN.findall(title) if len(run) <= longest or not run.isascii())
    yield from at_words
    yield ""


# --- the text ------------------------------------------------------------------------------------------------------

_NAME_LENGTHS = (120, 60, 40, 28, 18)
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
class ComposedText:
    text: str
    facts_used: tuple[str, ...]
    """Names of the facts that the text states."""


def compose(line: str | None, facts: FactSheet, request: CopyRequest) -> ComposedText:
    """The richest text of the channel's template that fits; the barest one when none does.

    An offer is told only while it runs. `line` is the opening line, which is never cut or left out; the name leaves
    the body of a text only where a headline holds it.
    """
    for composed in compositions(line, facts, request):
        if request.limits.fits(composed.text):
            break
    return composed


def compositions(line: str | None, facts: FactSheet, request: CopyRequest) -> Iterator[ComposedText]:
    """The texts of a channel, from the richest to the barest, whether they fit or not."""
    headed = line is not None and len(request.limits.slots) > 1
    for length, drops in ((_NAME_LENGTHS[length], _DROPS[drops]) for length, drops in _STEPS):
        if headed or "name" not in drops:
            yield _filled(line, facts, request, length, drops)


def _filled(
    line: str | None, facts: FactSheet, request: CopyRequest, length: int, drops: tuple[str, ...]
) -> ComposedText:
    name = shortened(facts.title, length)
    brand = facts.brand if facts.brand and facts.brand.casefold() not in facts.title.casefold() else None
    pieces = {
        "name": name[:1].upper() + name[1:],
        "brand": brand,
        "price": _amount(facts.price, facts, request.locale),
        "offer": _offer(facts, request),
    }
    pieces = {key: None if key in drops else value for key, value in pieces.items()}
    prompts, channel = Prompts.load(), request.limits
    values = {
        "headline": _headline(facts.title, name, request),
        "hook": line,
        "facts": prompts.render("ad_text.facts", request.locale, **pieces),
        "call": "call" not in drops or None,
        "brand": pieces["brand"],
    }
    template = prompts.template(f"ad_text.{channel.name}", request.locale)
    text = prompts.render(
        template.name, request.locale, **{key: value for key, value in values.items() if key in template.variables}
    )
    stated = ("brand",) if channel.title_only else ("brand", "price", "offer")
    return ComposedText(text, ("title", *(key for key in stated if pieces[key])))


def _headline(title: str, name: str, request: CopyRequest) -> str:
    """The longest spelling that fits the first slot."""
    slot = request.limits.slots[0]
    spellings = (shortened(title, longest) for longest in range(min(len(name), slot.max), _MIN_NAME - 1, -1))
    headline = next((s for s in spellings if slot.fits(s)), name)
    return headline[:1].upper() + headline[1:]


def _amount(amount: Decimal | None, facts: FactSheet, locale: str) -> str | None:
    """None where the amount or its currency is not known."""
    if amount is None or facts.currency is None or not currency_of(facts.currency):
        return None
    return format_money(amount, facts.currency, locale)


def _offer(facts: FactSheet, request: CopyRequest) -> str | None:
    offer = facts.offer
    if offer is None or not offer.runs(request.now):
        return None
    if offer.type is OfferType.PERCENT and offer.value is not None:  # 20 % off is 8 折: what remains, in tenths
        value: str | None = f"{(offer.value if request.language == 'en' else (100 - offer.value) / 10).normalize():f}"
    else:
        value = _amount(offer.value, facts, request.locale)
    if value is None and offer.type is OfferType.AMOUNT:
        return None
    end = None
    if offer.end is not None:  # an end at midnight belongs to the day before
        day = offer.end - timedelta(microseconds=1)
        end = format_skeleton("MMMMd", day.date(), locale="en_GB" if request.language == "en" else "zh")
    return Prompts.load().render("ad_offer", request.locale, type=str(offer.type), value=value, end=end)
