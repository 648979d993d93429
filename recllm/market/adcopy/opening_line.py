"""The words around the facts: the shop's own wordings, what a generator is asked for and kept from, which lines may
stand, and which comes first."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise

from recllm.base.schema import Check, Encoder, Occasion, ReasonKind
from recllm.market.adcopy.lexicon import HAN, families, fold, limit, pattern, read, table, word_class, words
from recllm.market.adcopy.names import OTHER_SHELF, shelf
from recllm.market.adcopy.request import CopyRequest, FactSheet
from recllm.text.plurals import stem
from recllm.text.templates import Prompts

_HAN_OR_WORD = re.compile(rf"[{HAN}]|[^\s{HAN}]+")
_LAST_TURN = "[user]\n"

# --- the shop's own wordings ---------------------------------------------------------------------------------------

NAME, OFFER = "[name]", "[offer]"
"""Where a headline of `prompts/ad_lines` takes the item's name, and the offer."""
STYLES = 3
"""Ways of `ad_text.facts` to put the same facts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """The words of a text without its facts."""

    line: str | None
    """The opening line; None for a text without one."""
    headlines: tuple[str, ...] = ()
    """Best first, with `NAME` and perhaps `OFFER` in them; the name alone comes after them."""
    shelf: str | None = None
    """A sentence for the kind of item."""
    call: str | None = None
    """The call to action."""
    style: int = 0
    """In [0, `STYLES`)."""


def shop_wordings(facts: FactSheet, request: CopyRequest, rng: random.Random) -> list[Wording]:
    """The brand's own lines, the shop's for occasion, intent and kind of reason, its general ones, none: each once.

    Lines of one group come in a random order, and so do the sentences and calls with them: who draws the same
    numbers gets the same wording.
    """
    groups: list[list[str]] = []
    named: list[str] = [*filter(None, (request.line_occasion, _intent(request)))]
    for name in (*named, request.line_kind, ReasonKind.GENERAL):
        lines = _lines(name, request.locale)
        rng.shuffle(lines)
        groups.append(lines)
    pairs: list[tuple[str, tuple[str, ...]]] = [(line, ()) for line in request.voice.lines]
    for text in (line for group in groups for line in group):
        headline, _, line = text.partition(" | ")
        pairs.append((line, (headline,)))
    offer_headlines = _lines("offer", request.locale) if facts.offer_text else []
    dressed = [_dressed(line, facts, request, rng, headlines, offer_headlines) for line, headlines in pairs]
    dressed.append(_dressed(None, facts, request, rng, (), []))
    first_of_each: dict[str | None, Wording] = {}
    for wording in dressed:
        first_of_each.setdefault(wording.line, wording)
    return list(first_of_each.values())


def dressed_line(line: str, facts: FactSheet, request: CopyRequest, rng: random.Random) -> Wording:
    """A generator's line with what the shop says around it."""
    return _dressed(line, facts, request, rng, (), [])


def _dressed(
    line: str | None,
    facts: FactSheet,
    request: CopyRequest,
    rng: random.Random,
    headlines: Sequence[str],
    offer_headlines: Sequence[str],
) -> Wording:
    is_plain = facts.is_sober or request.is_sensitive
    of_shelf = (
        OTHER_SHELF if is_plain or request.domain.titles != "goods" else shelf((facts.title, *reversed(facts.category)))
    )
    with_offer = [rng.choice(offer_headlines)] if offer_headlines and rng.random() < limit("offer_headlines") else []
    return Wording(
        line=line,
        headlines=(*with_offer, *headlines),
        shelf=rng.choice(_lines(f"shelf_{of_shelf}", request.locale)),
        call=rng.choice(_lines(f"call_{request.limits.call}", request.locale)),
        style=rng.randrange(STYLES),
    )


def _intent(request: CopyRequest) -> str | None:
    has_lines = request.intent in ("remind", "discover", "cross_sell", "win_back")
    return request.intent if has_lines and not request.is_sensitive else None


def _lines(name: str, locale: str) -> list[str]:
    return [line for line in Prompts.load().render(f"ad_lines.{name}", locale).splitlines() if line.strip()]


# --- what a generator is asked -------------------------------------------------------------------------------------


def line_prompt(facts: FactSheet, kind: ReasonKind, locale: str, *, examples: bool = True) -> str:
    """What the model is asked. It sees names and the kind of reason: no number, no person.

    Without `examples` it is the last turn alone, which is all that a model tuned on this shop's copy needs.
    """
    # A model that sees a size repeats it, and may not: numbers go, and the units after them.
    units = {spelling for spellings in table("numbers.toml")["units"].values() for spelling in spellings}
    names: list[str] = []
    after_number = False
    for piece in facts.title.split():
        is_numeric = any(c.isdigit() for c in piece)
        if not is_numeric and not (after_number and fold(piece).strip(",.") in units):
            names.append(piece)
        after_number = is_numeric
    category = facts.category[-1] if facts.category else None
    named = category and stem(category.casefold()) in stem(facts.title.casefold())
    prompt = Prompts.load().render(
        "ad_hook",
        locale,
        name=" ".join(names) or facts.title,
        category=None if named else category,
        reason=reason_words(kind, locale),
    )
    return prompt if examples else _LAST_TURN + prompt.rpartition(_LAST_TURN)[2]


def brief(facts: FactSheet, request: CopyRequest) -> str:
    """What a large model is asked: the item's facts but for its numbers, the reason, the occasion and the voice."""
    voice = request.voice
    return Prompts.load().render(
        "ad_brief",
        request.locale,
        name=request.name_and_size(facts.title)[0],
        brand=facts.brand,
        category=facts.category[-1] if facts.category else None,
        attributes=[(k, v) for k, v in facts.attributes.items() if not any(c.isdigit() for c in v)],
        reason=reason_words(request.line_kind, request.locale),
        occasion=occasion_words(request.line_occasion, request.locale) or None,
        address=voice.address,
        banned=list(voice.banned),
        required=list(voice.required),
        exclamation=voice.exclamation,
    )


def second_brief(first: str, line: str, faults: Sequence[str], locale: str) -> str:
    """`first` with a line that was refused and why, and the request for another one."""
    return f"{first}\n{Prompts.load().render('ad_brief.again', locale, line=line, faults=list(faults))}"


@lru_cache(maxsize=64)
def reason_words(kind: ReasonKind, locale: str) -> str:
    """A kind of reason as a model gets it."""
    return Prompts.load().render("ad_lines.reason", locale, kind=str(kind))


@lru_cache(maxsize=64)
def occasion_words(occasion: Occasion | None, locale: str) -> str:
    """An occasion as a model gets it; empty for none."""
    return Prompts.load().render("ad_lines.occasion", locale, occasion=occasion and str(occasion))


@cache
def bare_prompt(locale: str) -> str:
    """What a model is asked, without the item: none of it may come back."""
    return Prompts.load().render("ad_hook", locale, name="", category=None, reason="")


def can_be_asked(facts: FactSheet, request: CopyRequest) -> bool:
    """False where no model is asked for a line: sensitive or hostile items, titles, and medicines and the like, about
    which a text must not be playful."""
    if not request.domain.generated_lines:
        return False
    return not (request.is_sensitive or request.is_hostile or request.limits.title_only or facts.is_sober)


# --- which lines may stand -----------------------------------------------------------------------------------------


def line_faults(line: str, facts: FactSheet, language: str) -> tuple[Check, ...]:
    """What keeps a line from being an opening line, before its text is checked as a whole."""
    faults: list[Check] = []

    def fault(guarantee: str, message: str, span: str) -> None:
        faults.append(Check(guarantee=guarantee, passed=False, message=message, span=span))

    if character := pattern("opening_line.facts_only").search(line):
        fault("G6", "the line holds a character that only facts may hold", character[0])
    if not line.endswith(tuple(limit("line_ends")[language])):
        fault("G6", "the line does not end as a sentence", line[-20:])
    elif pattern("opening_line.unfinished").search(line):
        fault("G6", "the line ends in the middle of a thought", line[-20:])
    elif pattern("opening_line.second_sentence").search(line):
        fault("G6", "the line is more than one sentence", line)
    size, (shortest, longest) = len(_HAN_OR_WORD.findall(line)), limit("line_words")[language]
    if not shortest <= size <= longest:
        fault("G6", f"the line has {size} words, not {shortest} to {longest}", line)
    if line[:1].islower():
        fault("G6", "the line begins in the middle", line[:20])
    for family in families("language.toml"):
        if family.guarantee == "G14":
            for phrase in family.find(read(line)):
                fault("G14", f"{phrase!r} {family.message}", phrase)
    if voices := set(words(line)) & set(word_class("other_voices")):
        fault("G14", "the line does not speak to the reader", min(voices))
    shared, content = _content(line) & _content(_names(facts)), _content(line)
    if not shared:  # a word of the item's title or categories; two neighbouring characters in Chinese
        fault("G5", "the line is not about the product", line)
    elif content == shared:
        fault("G12", "the line says no more than the name", line)
    return tuple(faults)


def _names(facts: FactSheet) -> str:
    return " ".join(dict.fromkeys((facts.title, *facts.category)))


def _content(text: str) -> set[str]:
    """Stems of the Latin words that say something, and pairs of Chinese characters."""
    tokens = words(text)
    latin = {stem(w) for w in tokens if len(w) > 2 and w.isascii() and w.isalpha() and w not in word_class("function")}
    return latin | {a + b for a, b in pairwise(tokens) if not (a.isascii() or b.isascii())}


# --- which line comes first ----------------------------------------------------------------------------------------


def ranked(lines: Sequence[str], facts: FactSheet, request: CopyRequest, encoder: Encoder | None) -> list[str]:
    """The lines, best first: close to the item and to the words of the reason, no echo of the prompt's examples, no
    word said twice, and early in `lines`, where a generator puts the ones that it holds likeliest."""
    reason = reason_words(request.line_kind, request.locale)
    to_item = _closeness(lines, _names(facts), facts.title, encoder)
    to_reason = _closeness(lines, reason, reason, encoder)
    example_pairs = set(pairwise(words(bare_prompt(request.locale))))
    scores: dict[str, float] = {}
    weights = limit("line_weights")
    for rank, line in enumerate(lines):
        pairs = set(pairwise(words(line)))
        echo = len(pairs & example_pairs) / len(pairs) if pairs else 0.0
        beginnings = [w[:5] for w in words(line) if len(w) > 4]  # "flavored" and "flavor" are one word here
        repeats = len(beginnings) - len(set(beginnings))
        scores[line] = (
            to_item[line]
            + weights["reason"] * to_reason[line]
            - weights["echo"] * echo
            - weights["repeat"] * repeats
            - weights["rank"] * rank
        )
    return sorted(lines, key=lambda line: -scores[line])


def _closeness(lines: Sequence[str], names: str, title: str, encoder: Encoder | None) -> dict[str, float]:
    """Cosine to `names` with an encoder, else the share of the title's words that a line holds."""
    if encoder is not None and lines:
        item, *vectors = encoder.encode([names, *lines])  # each (dim,), unit
        return {line: float(vector @ item) for line, vector in zip(lines, vectors, strict=True)}
    expected = _content(title) or _content(names)
    return {line: len(_content(line) & expected) / max(1, len(expected)) for line in lines}
