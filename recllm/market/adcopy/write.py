"""From a request to an advertisement whose every claim was checked.

What may be said of the item is settled once, opening lines are gathered, a text is composed around each, and each text
is verified: `write_copy` is the whole way, in this order.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING

from babel.dates import format_skeleton

from recllm.base.errors import GenerationError
from recllm.base.schema import AdCopy, Check, CopyVerdict, Encoder, Generator
from recllm.market.adcopy.channels import channel_written_for, width
from recllm.market.adcopy.lexicon import HAN, fold, limit, pattern, table, word_class
from recllm.market.adcopy.names import is_size, name_and_size, written_out
from recllm.market.adcopy.opening_line import (
    NAME,
    OFFER,
    Wording,
    bare_prompt,
    brief,
    can_be_asked,
    dressed_line,
    line_faults,
    line_prompt,
    ranked,
    second_brief,
    shop_wordings,
)
from recllm.market.adcopy.quantities import QuantityKind, currency_of, format_money, quantities, rounded
from recllm.market.adcopy.request import CopyRequest, FactSheet, OfferType
from recllm.market.adcopy.verify import claims, form
from recllm.market.adcopy.verify.case import Case
from recllm.market.adcopy.verify.guarantees import likeness, review, variants_differ
from recllm.text.domains import without_domain
from recllm.text.templates import Prompts, quoted

if TYPE_CHECKING:  # writing without it does without arrays
    from recllm.learn.models.effect import EffectModel

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

    A generator with an attribute `languages` is asked in these languages only; one that is `tuned` is asked without
    examples. One that `takes_briefs`, as servers do, gets the item's facts and the voice; where none of its lines
    passes, the first one goes back once, with what is wrong with it. Raises `UsageError` for a channel that takes no
    text for a person.
    """
    channel_written_for(request.channel)
    rng = random.Random(f"{request.seed}:{request.item.item_id}")
    facts = sayable_facts(request)
    rejected: list[Rejected] = []
    if request.packs:
        facts, rejected = _lawful(facts, request)

    lines: list[tuple[Wording, str]] = []
    if generator is not None and can_be_asked(facts, request):
        best_first, rejections = _generated_lines(facts, request, generator, encoder)
        lines += [(dressed_line(line, facts, request, rng), generator.name) for line in best_first]
        rejected += rejections
    lines += [(wording, TEMPLATE) for wording in shop_wordings(facts, request, rng)]
    lines = lines if effect is None else _by_effect(lines, facts, request, effect)

    copies: dict[str | None, AdCopy] = {}
    waiting: list[AdCopy] = []  # held, or without room for the offer
    n_failed = 0
    for wording, source in lines:
        line = wording.line
        if len(copies) == request.variants:
            break
        if line and any(earlier and likeness(line, earlier) > limit("max_likeness") for earlier in copies):
            continue
        copy = _verified(wording, facts, request, [earlier.text for earlier in copies.values()])
        copy = replace(copy, generator=source)
        tells_offer = "offer" in copy.facts_used or not facts.offer_text or request.limits.title_only
        if not _stands(copy):
            n_failed += 1
            if n_failed > _MAX_FAILED and not copies:
                break  # what fails are the item's own words, with any line
            continue
        if tells_offer and (copy.verified or (source != TEMPLATE and not request.unattended)):
            copies[line] = copy
        else:
            waiting.append(copy)
    if not copies and waiting:
        copies = {None: next((copy for copy in waiting if copy.verified), waiting[0])}
    if not copies:  # a title like no other: the item goes by its category, or by a general name
        facts = without_title(facts, request)
        plainer = [(facts, wording) for wording in shop_wordings(facts, request, rng)[:_MAX_FAILED]]
        plainer.append((replace(facts, brand=None), Wording(line=None)))  # a short message may not write the brand
        texts: list[tuple[str | None, AdCopy]] = []
        for sheet, wording in plainer:
            texts.append((wording.line, _verified(wording, sheet, request)))
            if texts[-1][1].verified:
                break
        standing = [entry for entry in texts if _stands(entry[1])]
        line, copy = next((entry for entry in standing if entry[1].verified), (standing or texts)[0])
        copies = {line: copy}
    if effect is not None and len(copies) > 1:  # a sentence that one variant has was left out of the later ones
        written = list(copies.items())
        order = effect.order([copy.text for _, copy in written], str(request.line_kind), request.channel)
        copies = dict(sorted((written[i] for i in order), key=lambda entry: (entry[0] is None, not entry[1].verified)))
    return tuple(replace(copy, rejected=tuple(rejected)) for copy in copies.values())


def _by_effect(
    lines: Sequence[tuple[Wording, str]], facts: FactSheet, request: CopyRequest, effect: EffectModel
) -> list[tuple[Wording, str]]:
    """The lines whose texts stand, by verdict and then by score; a text without an opening line stays the last."""
    texts = [(_verified(wording, facts, request), wording, source) for wording, source in lines if wording.line]
    standing = [entry for entry in texts if _stands(entry[0])]
    order = effect.order([copy.text for copy, _, _ in standing], str(request.line_kind), request.channel)
    best_first = sorted((standing[i] for i in order), key=lambda entry: not entry[0].verified)
    last = [(wording, source) for wording, source in lines if not wording.line]
    return [*((wording, source) for _, wording, source in best_first), *last]


def _lawful(facts: FactSheet, request: CopyRequest) -> tuple[FactSheet, list[Rejected]]:
    """The facts without the offer, or the former price, where a law forbids to tell them, as an offer without proof of
    the former price; and the text that they were in."""
    rejected: list[Rejected] = []
    for silence in (("offer", "offer_text", "offer_headline", "pays_text"), ("list_price_text",)):
        silent = replace(facts, **dict.fromkeys(silence))  # type: ignore[arg-type]
        if silent == facts:
            continue
        loud, quiet = (_verified(Wording(line=None), sheet, request) for sheet in (facts, silent))
        if len(_failures(quiet)) < len(_failures(loud)):
            rejected.append((loud.text, _failures(loud)))
            facts = silent
    return facts, rejected


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
    takes_briefs = getattr(generator, "takes_briefs", False)
    examples = not getattr(generator, "tuned", False)
    prompt = (
        brief(facts, request)
        if takes_briefs
        else line_prompt(facts, request.line_kind, request.locale, examples=examples)
    )
    tokens = limit("line_tokens")[request.language]
    try:
        lines = generator.generate(prompt, n=request.n_candidates, max_tokens=tokens, seed=request.seed)
    except GenerationError as error:
        return [], [("", (Check(guarantee="G16", passed=False, message=str(error)),))]
    faults = {line: _faults(line, facts, request) for line in dict.fromkeys(lines)}
    if takes_briefs and (refused := _why_refused(faults, facts, request)):
        with suppress(GenerationError):  # the first answer is there
            mended = second_brief(prompt, *refused, request.locale)
            lines = generator.generate(mended, n=1, max_tokens=tokens, seed=request.seed)
            faults |= {line: _faults(line, facts, request) for line in lines}
    faultless = [line for line, checks in faults.items() if not checks]
    stopped = [(line, checks) for line, checks in faults.items() if checks]
    return ranked(faultless, facts, request, encoder), stopped


def _why_refused(
    faults: Mapping[str, tuple[Check, ...]], facts: FactSheet, request: CopyRequest
) -> tuple[str, list[str]] | None:
    """The first line and what is wrong with it, where no line passes; None where one does."""
    reasons: dict[str, list[str]] = {}
    for line, checks in faults.items():
        reasons[line] = [check.message for check in checks]
        if not checks:
            copy = _verified(Wording(line=line), facts, request)
            reasons[line] = [f"no fact speaks of: {', '.join(copy.ungrounded)}"] if copy.ungrounded else []
        if not reasons[line]:
            return None
    return next(iter(reasons.items()), None)


def _faults(line: str, facts: FactSheet, request: CopyRequest) -> tuple[Check, ...]:
    """What keeps a line from being an opening line, or else the checks that a text with it fails."""
    return line_faults(line, facts, request.language) or _failures(_verified(Wording(line=line), facts, request))


def _verified(wording: Wording, facts: FactSheet, request: CopyRequest, texts: Sequence[str] = ()) -> AdCopy:
    """The richest text of a wording that fits and differs from `texts`, or else the barest one, with its checks."""
    for composition in compositions(wording, facts, request):
        text, fact_names = composition
        is_new = not any(variants_differ([*texts, text]))
        if is_new and request.limits.fits(text):
            break
    answer = review(text, request, facts=facts, prompt=bare_prompt(request.locale))
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
        locale=without_domain(request.locale),
        generator=TEMPLATE,
        verified=verdict is CopyVerdict.PASS,
        verdict=verdict,
        ungrounded=tuple(dict.fromkeys(w.word for w in answer.ungrounded)),
        checks=checks,
        facts_used={name: str(values[name]) for name in fact_names},
        template_version=request.template.version,
        item_id=facts.item_id,
        parts=request.limits.parts(text),
    )


def _stands(copy: AdCopy) -> bool:
    """True when a text may be handed on: to its reader where it passes, else to a person who judges its words."""
    return not _failures(copy)


def _failures(copy: AdCopy) -> tuple[Check, ...]:
    return tuple(check for check in copy.checks if not check.passed)


# --- what may be said, and how the product is called -----------------------------------------------------------------

_MAX_ROUNDS = 12
_MAX_FAILED = 3  # lines that are tried next to words of an item that fail
_MIN_NAME = 12
"""Characters of the shortest spelling that is tried."""
_MIN_FIRST_PART = 8
"""A first part of less width is too little to go by."""
_PIECE = re.compile(rf"[{HAN}]|[^\s{HAN}]+")
_BREAK = re.compile(r"(?<!\s)\s*(?:[,;|(（，；]|(?<=\s)[-–/]\s)")
_HANGING = pattern("titles.hanging", DANGLING="|".join(word_class("dangling")))
_NAMING = re.compile(rf"[^\W\d_]{{3,}}|[{HAN}]")
_RUN = re.compile(rf"[{HAN}]{{2,}}|[^\W\d_]{{3,}}")
_LETTER = re.compile(rf"[^\W\d_]|[{HAN}]")
_JOINT = re.compile(r"[-/&]")
"""Joins the words of a compound: Grain-Free, sinus/allergy."""


def sayable_facts(request: CopyRequest) -> FactSheet:
    """The facts of a request under a title that may be shown, with price and running offer as a text shows them.

    Promises and claims that sellers write into titles ("SALE", 包邮, "best") are cut out of it. A title that carries
    instructions, personal data or foul language is not used at all: the narrowest category that may be said stands in
    for it, or the general name of the prompts.
    """
    facts = request.facts()
    bare = replace(request, evidence={})  # a proof of the shop's is no proof of a seller's words
    categories = [_cleaned(name, facts, bare) for name in facts.category]
    is_lowered = facts.list_price is not None and facts.price is not None and facts.list_price > facts.price
    sheet = replace(
        facts,
        brand=facts.brand if facts.brand and _unsayable(facts.brand, facts, bare) == [] else None,
        category=tuple(filter(None, categories)),
        attributes={k: v for k, v in facts.attributes.items() if _unsayable(f"{k}: {v}", facts, bare) == []},
        price_text=_money(facts.price, facts, request.language),
        list_price_text=_money(facts.list_price, facts, request.language) if is_lowered else None,
    )
    sheet = replace(sheet, **_offer_texts(sheet, request))  # type: ignore[arg-type]
    title = _cleaned(facts.title, facts, bare)
    if title and request.domain.titles == "goods":
        title = _with_thing(title, sheet.category)
    sheet = replace(sheet, title=title) if title else without_title(sheet, request)
    name, _ = request.name_and_size(sheet.title)
    lengths = {*_NAME_LENGTHS, *range(_MIN_NAME, request.limits.slots[0].max + 1)}.intersection(range(len(name)))
    longest_first = (shortened(name, longest) for longest in sorted(lengths, reverse=True))
    return replace(sheet, spellings=tuple(dict.fromkeys((name, *longest_first))))


def _with_thing(title: str, categories: Sequence[str]) -> str:
    """ "premium 56 oz" of the category ice cream -> "premium ice cream 56 oz"."""
    name, size = name_and_size(title)
    if fold(name) not in table("names.toml")["words"]["qualities"]:
        return title
    thing = next((category for category in reversed(categories) if fold(category) != fold(name)), "")
    return " ".join(filter(None, (name, pattern("titles.first_alternative").split(thing)[0].strip(), size)))


def without_title(facts: FactSheet, request: CopyRequest) -> FactSheet:
    """The sheet under its narrowest category, or under the general name of the prompts; and without attributes."""
    title = facts.category[-1] if facts.category else Prompts.load().render("ad_lines.unnamed", request.locale)
    return replace(facts, title=title, attributes={}, spellings=())


def _cleaned(name: str, facts: FactSheet, request: CopyRequest) -> str:
    """`name` as running text without what the facts do not bear out; empty when it is hostile, nothing is left, or what
    is left would name another thing."""
    if request.domain.titles != "goods":  # a name with a piece cut out is no name
        return name if _unsayable(name, facts, request) == [] else ""
    for _ in range(_MAX_ROUNDS):
        name = written_out(name)
        spans = _unsayable(name, facts, request)
        if spans is None:
            return ""
        if not spans:
            return tidy(name) if _LETTER.search(name) and not is_size(name) else ""
        before = name
        for span in sorted(spans, key=len, reverse=True):
            shape = re.compile(re.escape(span.strip()), re.IGNORECASE)
            # a span that is dressed up is cut out of the folded form; one in neither form went with a longer one
            form = next((text for text in (name, fold(name)) if shape.search(text)), None)
            if span.strip() == "free" and (denial := pattern("titles.free_of").search(name)):
                name = f"{name[: denial.start()]} {name[denial.end() :]}"
            elif form:
                name = _without(form, *shape.search(form).span())  # type: ignore[union-attr]
        name = "" if name == before else tidy(name)
    return ""


def _without(name: str, start: int, end: int) -> str:
    """A name without a piece and without the compound that it is a part of, "Grain-Free"; empty where the piece was one
    of two names: "cold and flu"."""
    while start > 0 and _JOINT.match(name[start - 1]):
        start -= 1
        while start > 0 and name[start - 1].isascii() and name[start - 1].isalnum():
            start -= 1
    while end < len(name) and _JOINT.match(name[end]):
        end += 1
        while end < len(name) and name[end].isascii() and name[end].isalnum():
            end += 1
    is_one_of_two = pattern("titles.joined").search(name[:start].rstrip()) is not None
    return "" if is_one_of_two else f"{name[:start]} {name[end:]}"


def _unsayable(name: str, facts: FactSheet, request: CopyRequest) -> list[str] | None:
    """The pieces of a seller's words that promise or claim something, or state a price; None for words that are not
    used at all, since they hold personal data, foul language or leaks."""
    case = Case(text=name, facts=facts, request=request)
    if any(any(check(case)) for check in (form.personal_data, form.clean_language, form.leaks)):
        return None
    violations = [] if request.domain.titles == "works" else [*claims.offers(case), *claims.proofs(case)]
    if request.domain.titles == "names":  # what a person may let pass is no matter in a name
        violations = [violation for violation in violations if not violation.holds]
    spans = [violation.span for violation in violations]
    return spans + [q.span for q in case.quantities if q.kind in (QuantityKind.MONEY, QuantityKind.DISCOUNT)]


@lru_cache(maxsize=1 << 12)  # of a title, every beginning is tried
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
    at_words = [name for end, name in _cuts(title) if end <= longest]
    names = [first] if len(first) <= longest and width(first) >= _MIN_FIRST_PART and _NAMING.search(first) else []
    names += [name for name in at_words if _NAMING.search(name)]
    names += [run[:longest] for run in _RUN.findall(title) if len(run) <= longest or not run.isascii()]
    stated = set(quantities(title))
    return next((name for name in (*names, *at_words) if stated.issuperset(quantities(name))), title[:longest])


@lru_cache(maxsize=1 << 8)
def _cuts(title: str) -> tuple[tuple[int, str], ...]:
    """(where it is cut, the beginning) at each word that may end a name, the longest first."""
    cuts = [(match.end(), tidy(title[: match.end()])) for match in _PIECE.finditer(title)]
    return tuple((end, name) for end, name in reversed(cuts) if name and _LETTER.search(_PIECE.findall(name)[-1]))


def _money(amount: Decimal | None, facts: FactSheet, language: str) -> str | None:
    """None where the amount or its currency is not known."""
    if amount is None or facts.currency is None or not currency_of(facts.currency):
        return None
    return format_money(amount, facts.currency, language)


def _offer_texts(facts: FactSheet, request: CopyRequest) -> dict[str, str | None]:
    """The running offer as a sentence with its last day and the price after it, and as a headline shows it."""
    offer = facts.offer
    if offer is None or not offer.runs(request.now) or offer.type not in request.domain.offers:
        return {}
    if offer.type is OfferType.PERCENT and offer.value is not None:  # 20 % off is 8 折: what remains, in tenths
        value: str | None = f"{(offer.value if request.language == 'en' else (100 - offer.value) / 10).normalize():f}"
    else:
        value = _money(offer.value, facts, request.language)
    if value is None and offer.type is OfferType.AMOUNT:
        return {}
    end = None
    if offer.end is not None:  # an end at midnight belongs to the day before
        day = offer.end - timedelta(microseconds=1)
        end = format_skeleton("MMMMd", day.date(), locale="en_GB" if request.language == "en" else "zh")
    left = claims.reduced_price(Case(text="", facts=facts, request=request))
    pays = _money(left and rounded(left, facts.currency or ""), facts, request.language)
    prompts, values = Prompts.load(), {"type": str(offer.type), "value": value}
    return {
        "offer_text": prompts.render("ad_offer", request.locale, **values, end=end),
        "pays_text": prompts.render("ad_offer.pays", request.locale, pays=pays) if pays else None,
        "offer_headline": prompts.render("ad_offer.short", request.locale, **values),
    }


# --- the text ------------------------------------------------------------------------------------------------------

_NAME_LENGTHS = (120, 60, 40, 28, 18)
_DROPS = (
    (),
    ("shelf",),
    ("shelf", "call"),
    ("shelf", "call", "size"),
    ("shelf", "call", "size", "list_price"),
    ("shelf", "call", "size", "list_price", "brand"),
    ("shelf", "call", "size", "list_price", "brand", "pays"),
    ("shelf", "call", "size", "list_price", "brand", "pays", "price"),
    ("shelf", "call", "size", "list_price", "brand", "pays", "price", "offer"),
)
_STEPS = (
    *((0, drop) for drop in range(7)),
    *((length, drop) for length in range(1, 5) for drop in (2, 6)),
    *((length, drop) for drop in (7, 8) for length in (0, 3, 4)),
)
"""(name length, drops) from the richest text to the barest."""


def compositions(wording: Wording, facts: FactSheet, request: CopyRequest) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(text, names of the facts that it states) of a channel's template, from the richest to the barest text, whether
    they fit or not.

    An offer is stated only while it runs. The opening line is never cut or left out. A headline names the item, and
    then nothing after it does; but what is called by a whole sentence, as articles are, is named below a headline that
    is too short for it: half a sentence is another one.
    """
    prompts, channel, locale, template = Prompts.load(), request.limits, request.locale, request.template
    brand = facts.brand if facts.brand and facts.brand.casefold() not in facts.title.casefold() else None
    whole_name, size = (facts.title, "") if channel.title_only else request.name_and_size(facts.title)
    headline = _headline(wording, whole_name, facts, request)
    is_headed = len(channel.slots) > 1 and (request.domain.titles == "goods" or fold(whole_name) in fold(headline))
    marks = request.domain.words[request.language]["name_quotes"]
    for length, drops in ((_NAME_LENGTHS[length], _DROPS[drops]) for length, drops in _STEPS):
        name = shortened(whole_name, length)
        if name != whole_name and request.domain.titles != "goods":
            name = name.rstrip(" .,:;!?。，：；！？") + ("..." if request.language == "en" else "…")
        pieces = {
            "name": None if is_headed else _as_beginning(name),
            "size": size,
            "brand": brand,
            "price": facts.price_text,
            "list_price": facts.list_price_text,
            "offer": facts.offer_text,
            "pays": facts.pays_text,
        }
        pieces = {key: None if key in drops else value or None for key, value in pieces.items()}
        sentence = prompts.render("ad_text.facts", locale, **pieces, style=wording.style)
        if marks and facts.title in facts.category:  # the title cannot be shown, and a kind of item is no title
            sentence = sentence.replace(quoted(_as_beginning(name), marks), _as_beginning(name))
        values = {
            "headline": headline,
            "hook": wording.line,
            "shelf": None if "shelf" in drops and sentence else wording.shelf,
            "facts": sentence,
            "call": None if "call" in drops else wording.call,
            "brand": pieces["brand"],
        }
        values = {key: value for key, value in values.items() if key in template.variables}
        stated = ("brand",) if channel.title_only else ("brand", "price", "offer")
        text = prompts.render(template.name, locale, **values)
        is_in_headline = facts.offer_headline is not None and facts.offer_headline in headline
        yield text, ("title", *(key for key in stated if pieces[key] or (key == "offer" and is_in_headline)))


def _headline(wording: Wording, name: str, facts: FactSheet, request: CopyRequest) -> str:
    """The first of the wording's headlines that fits with the whole name in it, else the longest spelling of the name
    that fits; where titles are no goods', the whole name or none."""
    slot, facts_only, is_of_goods = request.limits.slots[0], request.limits.title_only, request.domain.titles == "goods"
    is_kind = not is_of_goods and facts.title in facts.category  # instead of a title that cannot be shown
    for shape in () if facts_only or is_kind else wording.headlines:
        shape = shape.replace(f"《{NAME}》", quoted(name, "《》"))
        before = shape.partition(NAME)[0].rstrip()
        spelling = _as_beginning(name) if not before or before.endswith(tuple(limit("line_ends")["en"])) else name
        in_sentence = is_of_goods and not shape.endswith((f": {NAME}", f"：{NAME}"))
        filled = shape.replace(NAME, quoted(spelling, "") if in_sentence else spelling)
        filled = _as_beginning(filled.replace(OFFER, facts.offer_headline or ""))
        if slot.fits(filled) and not (OFFER in shape and facts.offer_headline is None):
            return filled
    if not (is_of_goods or facts_only or slot.fits(_as_beginning(name))):
        return _as_beginning(Prompts.load().render("ad_lines.unnamed", request.locale))
    spellings = (shortened(name, n) for n in range(min(len(name), slot.max), _MIN_NAME - 1, -1))
    return _as_beginning(next((spelling for spelling in spellings if slot.fits(spelling)), shortened(name, slot.max)))


def _as_beginning(name: str) -> str:
    """With a capital, but for a name that is written without one: iPhone."""
    return name if name[1:2].isupper() else name[:1].upper() + name[1:]
