"""The opening line: what a generator is asked for and kept from, which lines may stand, and which comes first."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import pairwise

from recllm.adcopy.lexicon import HAN, families, fold, limit, pattern, read, stem, table, word_class, words
from recllm.adcopy.request import CopyRequest, FactSheet
from recllm.generator.constraint import Constraint
from recllm.schema import Check, Encoder, ReasonKind
from recllm.text.templates import Prompts

_HAN_OR_WORD = re.compile(rf"[{HAN}]|[^\s{HAN}]+")
_CAPITAL_NAME = re.compile(r"[A-Z][A-Za-z'-]+")
_LAST_TURN = "[user]\n"

# --- the shop's own lines ------------------------------------------------------------------------------------------


def shop_lines(request: CopyRequest, rng: random.Random) -> list[str | None]:
    """The brand's own lines, the shop's for the kind of reason and its general ones in a random order, none: each
    once."""
    by_kind: list[str] = []
    for kind in (request.line_kind, ReasonKind.GENERAL):
        text = Prompts.load().render(f"ad_lines.{kind}", request.locale)
        lines = [line for line in text.splitlines() if line.strip()]
        rng.shuffle(lines)
        by_kind += lines
    return list(dict.fromkeys((*request.voice.lines, *by_kind, None)))


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


@lru_cache(maxsize=64)
def reason_words(kind: ReasonKind, locale: str) -> str:
    """A kind of reason as a model is told it."""
    return Prompts.load().render("ad_lines.reason", locale, kind=str(kind))


@cache
def bare_prompt(language: str) -> str:
    """What a model is asked, without the item: none of it may come back."""
    return Prompts.load().render("ad_hook", language, name="", category=None, reason="")


def can_be_asked(facts: FactSheet, request: CopyRequest) -> bool:
    """False where no model is asked for a line: sensitive or hostile items, titles, and medicines and the like, about
    which nobody should be playful."""
    return not (request.is_sensitive or request.is_hostile or request.limits.title_only or facts.is_sober)


def constraint_for(facts: FactSheet, request: CopyRequest) -> Constraint:
    """What a generator is kept from writing at all, where it can be: the words that the brand's voice avoids, other
    brands than the item's, and number words, unless the item's own texts hold them. Allowed with a capital: the names
    of its title.

    A generator that is not bound by it loses nothing but lines: the verifier stops them. The words of claims would cost
    more time at each token than the lines that they save.
    """
    item_text = fold(" ".join(facts.texts))
    numbers = word_class("number_words") if request.language == "en" else ()
    forbidden = (*map(fold, request.voice.banned), *_brand_names(request.known_brands), *numbers)
    free = (w for w in forbidden if w not in (facts.words if w.isascii() and " " not in w else item_text))
    names = _CAPITAL_NAME.findall(" ".join((facts.title, facts.brand or "")))
    return Constraint.of(request.language, free, names)


@lru_cache(maxsize=8)
def _brand_names(known_brands: frozenset[str]) -> tuple[str, ...]:
    """Folded, without the ones that are also plain words: those are names with a capital only, which a line has not."""
    brands = table("brands.toml")
    names = (fold(name) for name in (*sorted(known_brands), *brands["famous"]))
    return tuple(name for name in names if len(name) > 1 and name not in brands["plain_words"])


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
    example_pairs = set(pairwise(words(bare_prompt(request.language))))
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
