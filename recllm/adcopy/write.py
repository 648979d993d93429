"""From a request to an advertisement whose every claim was checked.

What may be said of the item is settled once, opening lines are gathered, a text is composed around each, and each text
is verified: `write_copy` is the whole way, in this order.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from babel.dates import format_skeleton

from recllm.adcopy.channels import width
from recllm.adcopy.lexicon import HAN, fold, limit, pattern, word_class
from recllm.adcopy.opening_line import (
    bare_prompt,
    can_be_asked,
    constraint_for,
    line_faults,
    line_prompt,
    ranked,
    shop_lines,
)
from recllm.adcopy.quantities import QuantityKind, currency_of, format_money, quantities
from recllm.adcopy.request import CopyRequest, FactSheet, OfferType
from recllm.adcopy.verify import claims, form
from recllm.adcopy.verify.case import Case
from recllm.adcopy.verify.guarantees import likeness, review, variants_differ
from recllm.errors import GenerationError, UsageError
from recllm.schema import AdCopy, Check, CopyVerdict, Encoder, Generator
from recllm.text.templates import Prompts, natural

if TYPE_CHECKING:  # writing without it does without arrays
    from recllm.models.effect import EffectModel

TEMPLATE = "template"
"""What `AdCopy.generator` says of the shop's own lines."""

Rejected = tuple[str, tuple[Check, ...]]
"""A line or text that was stopped, and the checks that it failed."""


def write_copy(
    request: CopyRequest,
    *,
    generator: Generator | None = None,
    encoder: Encoder | None = None,
    effect: EffectModel | None = None,
) -> tuple[AdCopy, ...]:
    """One advertisement, or up to `request.variants` that differ (G13), the most relevant to item and reason first.

    The same arguments give the same texts, at least one. The generator writes the opening line only; title, brand,
    price, offer and call are filled in by code. Of its lines those that pass every check come first, by their closeness
    to item and reason (by `encoder`, when given); then the shop's own for the kind of reason (`prompts/ad_lines`, and
    before them the voice's), then its general ones. A text that is too like an earlier one is tried with fewer facts,
    then left out. A line whose words nothing grounds stands with the verdict `person`; where the request is
    `unattended`, lines that pass are preferred to it. `AdCopy.generator` says whose line it is, `AdCopy.rejected` holds
    what was stopped and why.

    With `effect`, lines whose texts pass come first, then those that a person must judge, each ordered by what A/B
    tests taught of the whole text: a score never lets a text stand, nor overtake one with a better verdict.

    A generator with an attribute `languages` is asked in these languages only; one that `takes_constraints` is told
    what its lines may not hold, one that is `tuned` is asked without examples. Raises `UsageError` for a channel that
    takes no text for a person.
    """
    if request.limits.segment_only:
        raise UsageError(
            f"{request.channel} takes approved templates for a whole segment only; no text is written for a person"
        )
    rng = random.Random(f"{request.seed}:{request.item.item_id}")
    facts = sayable_facts(request)
    rejected: list[Rejected] = []
    if request.packs and facts.offer is not None:
        # A law may forbid to tell an offer, as one without proof of the former price: then the text leaves it out.
        silent = replace(facts, offer=None, offer_text=None)
        loud, quiet = (_verified(None, sheet, request) for sheet in (facts, silent))
        if len(_failures(quiet)) < len(_failures(loud)):
            rejected.append((loud.text, _failures(loud)))
            facts = silent

    lines: list[tuple[str | None, str]] = []
    if generator is not None and can_be_asked(facts, request):
        best_first, rejections = _generated_lines(facts, request, generator, encoder)
        lines += [(line, generator.name) for line in best_first]
        rejected += rejections
    lines += [(line, TEMPLATE) for line in shop_lines(request, rng)]
    lines = lines if effect is None else _by_effect(lines, facts, request, effect)

    copies: dict[str | None, AdCopy] = {}
    waiting: dict[str | None, AdCopy] = {}
    for line, source in lines:
        if len(copies) == request.variants:
            break
        if line and any(earlier and likeness(line, earlier) > limit("max_likeness") for earlier in copies):
            continue
        copy = _verified(line, facts, request, [earlier.text for earlier in copies.values()])
        if _stands(copy) and request.unattended and not copy.verified:
            waiting.setdefault(line, replace(copy, generator=source))
        elif _stands(copy):
            copies[line] = replace(copy, generator=source)
    copies = copies or dict(list(waiting.items())[:1])
    if not copies:  # a title like no other: the item goes by its category, or by a general name
        facts = without_title(facts, request)
        for line in shop_lines(request, rng):
            copies = {line: _verified(line, facts, request)}
            if _stands(copies[line]):
                break
    return tuple(replace(copy, rejected=tuple(rejected)) for copy in copies.values())


def _by_effect(
    lines: Sequence[tuple[str | None, str]], facts: FactSheet, request: CopyRequest, effect: EffectModel
) -> list[tuple[str | None, str]]:
    """The lines whose texts stand, by verdict and then by score; a text without an opening line stays the last."""
    texts = [(_verified(line, facts, request), line, source) for line, source in lines if line]
    standing = [entry for entry in texts if _stands(entry[0])]
    order = effect.order([copy.text for copy, _, _ in standing], str(request.line_kind), request.channel)
    best_first = sorted((standing[i] for i in order), key=lambda entry: not entry[0].verified)
    last = [(line, source) for line, source in lines if not line]
    return [*((line, source) for _, line, source in best_first), *last]


def is_sayable(line: str, facts: FactSheet, request: CopyRequest) -> bool:
    """True when a text with the opening line passes every check; a word that nothing grounds is a person's to judge."""
    return can_be_asked(facts, request) and not _faults(line, facts, request)


def _generated_lines(
    facts: FactSheet, request: CopyRequest, generator: Generator, encoder: Encoder | None
) -> tuple[list[str], list[Rejected]]:
    """(the generator's lines that may stand, each once and the best first; the others, or why there are none)."""
    languages = getattr(generator, "languages", None)
    if languages is not None and request.language not in languages:
        message = f"{generator.name} writes {', '.join(sorted(languages))} only"
        return [], [("", (Check(guarantee="G11", passed=False, message=message),))]
    prompt = line_prompt(facts, request.line_kind, request.locale, examples=not getattr(generator, "tuned", False))
    bound = getattr(generator, "takes_constraints", False)
    constraint = {"constraint": constraint_for(facts, request)} if bound else {}
    tokens = limit("line_tokens")[request.language]
    try:
        lines = generator.generate(prompt, n=request.n_candidates, max_tokens=tokens, seed=request.seed, **constraint)
    except GenerationError as error:
        return [], [("", (Check(guarantee="G16", passed=False, message=str(error)),))]
    faults = {line: _faults(line, facts, request) for line in dict.fromkeys(lines)}
    faultless = [line for line, checks in faults.items() if not checks]
    stopped = [(line, checks) for line, checks in faults.items() if checks]
    return ranked(faultless, facts, request, encoder), stopped


def _faults(line: str, facts: FactSheet, request: CopyRequest) -> tuple[Check, ...]:
    """What keeps a line from being an opening line, or else the checks that a text with it fails."""
    return line_faults(line, facts, request.language) or _failures(_verified(line, facts, request))


def _verified(line: str | None, facts: FactSheet, request: CopyRequest, texts: Sequence[str] = ()) -> AdCopy:
    """The richest text of a line that fits and differs from `texts`, or else the barest one, with its checks."""
    for composition in compositions(line, facts, request):
        text, fact_names = composition
        is_new = not any(variants_differ([*texts, text]))
        if is_new and request.limits.fits(text):
            break
    answer = review(text, request, facts=facts, prompt=bare_prompt(request.language))
    checks, verdict = answer.checks, answer.verdict
    if not is_new:
        checks = (*checks, Check(guarantee="G13", passed=False, message="is too like an earlier text", holds=True))
        verdict = CopyVerdict.PERSON if verdict is CopyVerdict.PASS else verdict
    values = {"title": facts.title, "brand": facts.brand, "price": facts.price_text}
    if offer := facts.offer:
        values["offer"] = f"{offer.type} {'' if offer.value is None else offer.value}".strip()
    return AdCopy(
        text=text,
        channel=request.channel,
        locale=request.locale,
        generator=TEMPLATE,
        verified=verdict is CopyVerdict.PASS,
        verdict=verdict,
        ungrounded=tuple(dict.fromkeys(w.word for w in answer.ungrounded)),
        checks=checks,
        facts_used={name: str(values[name]) for name in fact_names},
        template_version=request.template.version,
        item_id=facts.item_id,
    )


def _stands(copy: AdCopy) -> bool:
    """True when a text may be handed on: to its reader where it passes, else to a person who judges its words."""
    return not _failures(copy)


def _failures(copy: AdCopy) -> tuple[Check, ...]:
    return tuple(check for check in copy.checks if not check.passed)


# --- what may be said, and how the product is called -----------------------------------------------------------------

_MAX_ROUNDS = 12
_MIN_NAME = 12
"""Characters of the shortest spelling that is tried."""
_MIN_FIRST_PART = 8
"""A first part of less width is too little to go by."""
_PIECE = re.compile(rf"[{HAN}]|[^\s{HAN}]+")
_BREAK = re.compile(r"\s*(?:[,;|(（，；]|\s[-–/]\s)")
_HANGING = pattern("titles.hanging", DANGLING="|".join(word_class("dangling")))
_NAMING = re.compile(rf"[^\W\d_]{{3,}}|[{HAN}]")
_RUN = re.compile(rf"[{HAN}]{{2,}}|[^\W\d_]{{3,}}")
_LETTER = re.compile(rf"[^\W\d_]|[{HAN}]")


def sayable_facts(request: CopyRequest) -> FactSheet:
    """The facts of a request under a title that may be shown, with price and running offer as a text tells them.

    Promises and claims that sellers write into titles ("SALE", 包邮, "best") are cut out of it. A title that carries
    instructions, personal data or foul language is not used at all: the narrowest category that may be said stands in
    for it, or the general name of the prompts.
    """
    facts = request.facts()
    bare = replace(request, evidence={})  # a proof of the shop's is no proof of a seller's words
    categories = [_cleaned(name, facts, bare) for name in facts.category]
    sheet = replace(
        facts,
        brand=facts.brand if facts.brand and _unsayable(facts.brand, facts, bare) == [] else None,
        category=tuple(filter(None, categories)),
        attributes={k: v for k, v in facts.attributes.items() if _unsayable(f"{k}: {v}", facts, bare) == []},
        price_text=_money(facts.price, facts, request.language),
        offer_text=_offer_text(facts, request),
    )
    title = _cleaned(facts.title, facts, bare)
    sheet = replace(sheet, title=title) if title else without_title(sheet, request)
    longest_first = (shortened(sheet.title, longest) for longest in range(len(sheet.title) - 1, _MIN_NAME - 1, -1))
    return replace(sheet, spellings=tuple(dict.fromkeys(longest_first)))


def without_title(facts: FactSheet, request: CopyRequest) -> FactSheet:
    """The sheet under its narrowest category, or under the general name of the prompts; and without attributes."""
    title = facts.category[-1] if facts.category else Prompts.load().render("ad_lines.unnamed", request.locale)
    return replace(facts, title=title, attributes={}, spellings=())


def _cleaned(name: str, facts: FactSheet, request: CopyRequest) -> str:
    """`name` as running text without what the facts do not bear out; empty when it is hostile or nothing is left."""
    for _ in range(_MAX_ROUNDS):
        name = natural(name, Prompts.load().short_forms)
        spans = _unsayable(name, facts, request)
        if spans is None:
            return ""
        if not spans:
            return tidy(name) if _LETTER.search(name) else ""
        before = name
        for span in sorted(spans, key=len, reverse=True):
            shape = re.compile(re.escape(span.strip()), re.IGNORECASE)
            # a span that is dressed up is cut out of the folded form; one in neither form went with a longer one
            form = next((text for text in (name, fold(name)) if shape.search(text)), None)
            if form:
                name = shape.sub(" ", form, count=1)
        name = "" if name == before else tidy(name)
    return ""


def _unsayable(name: str, facts: FactSheet, request: CopyRequest) -> list[str] | None:
    """The pieces of a seller's words that promise or claim something, or state a price; None for words that are not
    used at all, since they hold personal data, foul language or leaks."""
    case = Case(text=name, facts=facts, request=request)
    if any(any(check(case)) for check in (form.personal_data, form.clean_language, form.leaks)):
        return None
    spans = [violation.span for check in (claims.offers, claims.proofs) for violation in check(case)]
    return spans + [q.span for q in case.quantities if q.kind in (QuantityKind.MONEY, QuantityKind.DISCOUNT)]


def tidy(name: str) -> str:
    """No empty brackets, exclamation marks, doubled spaces, or ends left hanging."""
    name = pattern("titles.empty_brackets").sub(" ", pattern("titles.shouts").sub(" ", name))
    return _HANGING.sub("", " ".join(name.split())).lstrip(" ,;:/&+-|，；：、")


def shortened(title: str, longest: int) -> str:
    """The beginning of a title within `longest` characters; never empty.

    Whole words, at least one of which names something, and no number without its unit: "8 fl" is no "8 fl oz". The
    first part before a comma, bracket or dash is preferred to a longer cut; where none of this fits, one word of the
    title.
    """
    if len(title) <= longest:
        return title
    first = tidy(_BREAK.split(title, maxsplit=1)[0])
    cuts = [tidy(title[: m.end()]) for m in _PIECE.finditer(title) if m.end() <= longest]
    at_words = [name for name in reversed(cuts) if name and _LETTER.search(_PIECE.findall(name)[-1])]
    names = [first] if len(first) <= longest and width(first) >= _MIN_FIRST_PART and _NAMING.search(first) else []
    names += [name for name in at_words if _NAMING.search(name)]
    names += [run[:longest] for run in _RUN.findall(title) if len(run) <= longest or not run.isascii()]
    stated = set(quantities(title))
    return next((name for name in (*names, *at_words) if stated.issuperset(quantities(name))), title[:longest])


def _money(amount: Decimal | None, facts: FactSheet, language: str) -> str | None:
    """None where the amount or its currency is not known."""
    if amount is None or facts.currency is None or not currency_of(facts.currency):
        return None
    return format_money(amount, facts.currency, language)


def _offer_text(facts: FactSheet, request: CopyRequest) -> str | None:
    offer = facts.offer
    if offer is None or not offer.runs(request.now):
        return None
    if offer.type is OfferType.PERCENT and offer.value is not None:  # 20 % off is 8 折: what remains, in tenths
        value: str | None = f"{(offer.value if request.language == 'en' else (100 - offer.value) / 10).normalize():f}"
    else:
        value = _money(offer.value, facts, request.language)
    if value is None and offer.type is OfferType.AMOUNT:
        return None
    end = None
    if offer.end is not None:  # an end at midnight belongs to the day before
        day = offer.end - timedelta(microseconds=1)
        end = format_skeleton("MMMMd", day.date(), locale="en_GB" if request.language == "en" else "zh")
    return Prompts.load().render("ad_offer", request.locale, type=str(offer.type), value=value, end=end)


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


def compositions(line: str | None, facts: FactSheet, request: CopyRequest) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(text, names of the facts that it states) of a channel's template, from the richest to the barest text, whether
    they fit or not.

    An offer is told only while it runs. `line` is the opening line, which is never cut or left out; the name leaves
    the body of a text only where a headline holds it.
    """
    prompts, channel, locale, template = Prompts.load(), request.limits, request.locale, request.template
    slot = channel.slots[0]
    headed = line is not None and len(channel.slots) > 1
    brand = facts.brand if facts.brand and facts.brand.casefold() not in facts.title.casefold() else None
    for length, drops in ((_NAME_LENGTHS[length], _DROPS[drops]) for length, drops in _STEPS):
        if "name" in drops and not headed:
            continue
        name = shortened(facts.title, length)
        spellings = (shortened(facts.title, n) for n in range(min(len(name), slot.max), _MIN_NAME - 1, -1))
        headline = next((spelling for spelling in spellings if slot.fits(spelling)), name)
        pieces = {
            "name": _as_beginning(name),
            "brand": brand,
            "price": facts.price_text,
            "offer": facts.offer_text,
        }
        pieces = {key: None if key in drops else value for key, value in pieces.items()}
        values = {
            "headline": _as_beginning(headline),
            "hook": line,
            "facts": prompts.render("ad_text.facts", locale, **pieces),
            "call": "call" not in drops or None,
            "brand": pieces["brand"],
        }
        values = {key: value for key, value in values.items() if key in template.variables}
        stated = ("brand",) if channel.title_only else ("brand", "price", "offer")
        text = prompts.render(template.name, locale, **values)
        yield text, ("title", *(key for key in stated if pieces[key]))


def _as_beginning(name: str) -> str:
    """With a capital, but for a name that is written without one: iPhone."""
    return name if name[1:2].isupper() else name[:1].upper() + name[1:]
