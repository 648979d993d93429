"""The opening line: what a model is asked for, which of its lines may stand, and which is taken."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import pairwise

from recllm.adcopy.facts import FactSheet
from recllm.adcopy.lexicon import families, table, word_class
from recllm.adcopy.money import language
from recllm.adcopy.reading import HAN, fold, read, words
from recllm.adcopy.verify.case import stem
from recllm.schema import Check, Encoder, Reason, ReasonKind
from recllm.text.templates import Prompts

MAX_TOKENS = {"en": 22, "zh": 60}
"""Enough for the longest line; small vocabularies spell a Chinese character with up to three tokens."""
_FORBIDDEN = re.compile(r"[\d%‰$£€¥₩₹\"“”„«»「」『』\n<>{}\[\]|\\/@#]|https?:|www\.")
_LENGTH = {"en": (4, 16), "zh": (5, 30)}
"""Fewest and most words of a line; characters in Chinese."""
_ENDING = {"en": ".!?", "zh": "。！？!?"}
_UNFINISHED = re.compile(
    r"\b(?:an?|the|your|our|their|its|my|every|and|or|but|of|than|if|because)[.!?]$", re.IGNORECASE
)
_INNER_END = re.compile(r"[.!?](?=\s+[A-Z])|[。！？](?=.)")
_LAST_TURN = "[user]\n"
_HAN_OR_WORD = re.compile(rf"[{HAN}]|[^\s{HAN}]+")


def reason_kind(reason: Reason | None, item_id: str, *, sensitive: bool) -> ReasonKind:
    """From the evidence of a reason; GENERAL where there is none, it does not count, or the item is sensitive."""
    if reason is None or sensitive or reason.delta <= 0:
        return ReasonKind.GENERAL
    source, _, evidence = reason.evidence_id.partition(":")
    if source == "B":
        return ReasonKind.KNOWN if evidence == item_id else ReasonKind.TOGETHER
    return {"H": ReasonKind.INTEREST, "I": ReasonKind.PICKED}.get(source, ReasonKind.GENERAL)


def own_lines(kind: ReasonKind, locale: str, prompts: Prompts, rng: random.Random) -> list[str]:
    """The shop's own lines for a kind in a random order."""
    lines = [line for line in prompts.render(f"ad_lines.{kind}", locale).splitlines() if line.strip()]
    rng.shuffle(lines)
    return lines


def hook_prompt(facts: FactSheet, kind: ReasonKind, locale: str, prompts: Prompts, *, examples: bool = True) -> str:
    """What the model is asked. It sees names and the kind of reason: no number, no person.

    Without `examples` it is the last turn alone, which is all that a model tuned on this shop's copy needs.
    """
    category = facts.category[-1] if facts.category else None
    named = category and stem(category.casefold()) in stem(facts.title.casefold())
    whole = prompts.render(
        "ad_hook",
        locale,
        name=_without_numbers(facts.title),
        category=None if named else category,
        reason=reason_words(kind, locale, prompts),
    )
    return whole if examples else _LAST_TURN + whole.rpartition(_LAST_TURN)[2]


def reason_words(kind: ReasonKind, locale: str, prompts: Prompts) -> str:
    """A kind of reason as the model is told it."""
    return prompts.render("ad_lines.reason", locale, kind=str(kind))


def bare_prompt(locale: str, prompts: Prompts) -> str:
    """The prompt without an item: what must not come back."""
    return prompts.render("ad_hook", locale, name="", category=None, reason="")


def _without_numbers(title: str) -> str:
    """A model that sees a size repeats it, and may not: numbers go, and the units after them."""
    units = {spelling for spellings in table("numbers.toml")["units"].values() for spelling in spellings}
    kept: list[str] = []
    after_number = False
    for piece in title.split():
        numeric = any(c.isdigit() for c in piece)
        if not numeric and not (after_number and fold(piece).strip(",.") in units):
            kept.append(piece)
        after_number = numeric
    return " ".join(kept) or title


def sober(facts: FactSheet) -> bool:
    """True for medicines and the like, about which nobody should be playful."""
    names = {stem(word) for text in (facts.title, *facts.category) for word in words(text)}
    han = "".join(fold(text) for text in (facts.title, *facts.category) if not text.isascii())
    return bool(names & set(word_class("sober"))) or any(w in han for w in word_class("sober") if not w.isascii())


def hook_faults(hook: str, facts: FactSheet, locale: str) -> tuple[Check, ...]:
    """What keeps a line from being a hook, before its text is checked as a whole."""
    lang = language(locale)
    fewest, most = _LENGTH[lang]
    size = len(_HAN_OR_WORD.findall(hook))
    faults = []
    if found := _FORBIDDEN.search(hook):
        faults.append(_fault("G6", "the line holds a character that only facts may hold", found[0]))
    if not hook.endswith(tuple(_ENDING[lang])):
        faults.append(_fault("G6", "the line does not end as a sentence", hook[-20:]))
    elif _UNFINISHED.search(hook):
        faults.append(_fault("G6", "the line ends in the middle of a thought", hook[-20:]))
    elif _INNER_END.search(hook):
        faults.append(_fault("G6", "the line is more than one sentence", hook))
    if not fewest <= size <= most:
        faults.append(_fault("G6", f"the line has {size} words, not {fewest} to {most}", hook))
    if hook[:1].islower():
        faults.append(_fault("G6", "the line begins in the middle", hook[:20]))
    for family in families("language.toml"):
        if family.guarantee == "G14":
            faults += [_fault("G14", f"{phrase!r} {family.message}", phrase) for phrase in family.find(read(hook))]
    if voices := set(words(hook)) & set(word_class("other_voices")):
        faults.append(_fault("G14", "the line does not speak to the reader", min(voices)))
    if not about(hook, facts):
        faults.append(_fault("G5", "the line is not about the product", hook))
    elif _content(hook) <= _content(_names(facts)):
        faults.append(_fault("G12", "the line says no more than the name", hook))
    return tuple(faults)


def about(hook: str, facts: FactSheet) -> bool:
    """True when the line shares a word with the item's title or categories; two neighbouring characters in Chinese."""
    return bool(_content(hook) & _content(_names(facts)))


def _names(facts: FactSheet) -> str:
    return " ".join(dict.fromkeys((facts.title, *facts.category)))


def _content(text: str) -> set[str]:
    tokens = words(text)
    latin = {stem(w) for w in tokens if len(w) > 2 and w.isascii() and w.isalpha() and w not in word_class("function")}
    pairs = {a + b for a, b in pairwise(tokens) if not (a.isascii() or b.isascii())}
    return latin | pairs


def _fault(guarantee: str, message: str, span: str) -> Check:
    return Check(guarantee=guarantee, passed=False, message=message, span=span)


def ranked(
    hooks: Sequence[str], facts: FactSheet, examples: str, encoder: Encoder | None, *, why: str = ""
) -> list[str]:
    """The lines, best first: close to the item and to the reason (`why`), no echo of the prompt's examples, no word
    said twice, and early in `hooks`, where a generator puts the ones that it holds likeliest. The weights were set by
    reading."""
    closeness = _closeness(hooks, _names(facts), facts.title, encoder)
    to_reason = _closeness(hooks, why, why, encoder)
    worth = {
        hook: closeness[hook]
        + 0.2 * to_reason[hook]
        - 0.5 * _likeness(hook, examples)
        - 0.3 * _said_twice(hook)
        - 0.05 * place
        for place, hook in enumerate(hooks)
    }
    return sorted(hooks, key=lambda hook: -worth[hook])


def _closeness(hooks: Sequence[str], names: str, title: str, encoder: Encoder | None) -> dict[str, float]:
    """Cosine to `names` with an encoder, else the share of the title's words that a line holds."""
    if encoder is not None and hooks:
        item, *rest = encoder.encode([names, *hooks])  # each (dim,), unit
        return {hook: float(vector @ item) for hook, vector in zip(hooks, rest, strict=True)}
    wanted = _content(title) or _content(names)
    return {hook: len(_content(hook) & wanted) / max(1, len(wanted)) for hook in hooks}


def _said_twice(hook: str) -> int:
    """How often a longer word comes back; "flavored" and "flavor" are one word here."""
    beginnings = [w[:5] for w in words(hook) if len(w) > 4]
    return len(beginnings) - len(set(beginnings))


def _likeness(text: str, other: str) -> float:
    """The share of the text's word pairs that stand in the other text."""
    mine, theirs = (set(pairwise(w)) for w in (words(text), words(other)))
    return len(mine & theirs) / len(mine) if mine else 0.0
