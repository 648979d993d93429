"""G6, G11, G12: the text fits its channel, is in its language and reads like a text."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator

from recllm.adcopy.lexicon import word_class
from recllm.adcopy.reading import HAN, words
from recllm.adcopy.verify.case import Case, Fault

_RUN = re.compile(r"(\S)\1{3,}")
_LOOP = re.compile(r"(\S{2,8}?)\1{2,}")
_BLANKS = re.compile(r"[^\S\n]{4,}|\n{4,}")
_TWICE = re.compile(r"\b([a-z]{2,30}) \1\b", re.IGNORECASE)
_DANGLING = re.compile(
    rf"(?:[,;:，；：、\-–—&/(（]|\b(?:{'|'.join(word_class('dangling'))}))$",
    re.IGNORECASE,
)
_CLAUSE_OPEN = re.compile(
    r"\b(?:when|while|if|because|until|before|after|which|where|who|whose|unless|than)"
    r"(?: (?:you|we|it|they|i|he|she))?$",
    re.IGNORECASE,
)
_LEFT_OPEN = re.compile(
    "(?:和|与|或|而且|并且|不仅|虽然|所以|还有|然后|于是|不过|只要|除非|的|在|让|把|被|而|但|但是|因为|如果|跟|以及|对|向|从|是|很|更|给)$"
)
"""Chinese words that no line ends with."""
_SENTENCE_END = re.compile(r"[.!?\n]")
_HAN = re.compile(f"[{HAN}]")
_OTHER_SCRIPTS = re.compile(
    "[\u0370-\u03ff\u0400-\u04ff\u0590-\u05ff\u0600-\u06ff\u0900-\u097f\u0e00-\u0e7f\u3040-\u30ff\uac00-\ud7af]"
)
_MAX_CAPITALS = 0.3
_MAX_EMOJI = 2


def fits_channel(case: Case) -> Iterator[Fault]:
    """G6: each part is within its limit by the channel's counter, in its characters, and no part breaks off."""
    if not case.text.strip():
        yield Fault("the text is empty")
    for part, text in case.channel.split(case.text):
        length, limit = part.room(text)
        if length > limit:
            yield Fault(f"{part.name} has {length} of {limit} allowed by {case.channel.name}", text)
        if not text.strip():
            yield Fault(f"{part.name} is empty")
        end = text.rstrip()
        if any(shape.search(end) for shape in (_DANGLING, _CLAUSE_OPEN, _LEFT_OPEN)):
            yield Fault(f"{part.name} breaks off", end[-20:])
    yield from _forbidden_characters(case)


def _forbidden_characters(case: Case) -> Iterator[Fault]:
    for c in dict.fromkeys(case.text):
        hidden = c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Co", "Cn", "Zl", "Zp") and c != "\u200d"
        if c == "\ufffd":
            yield Fault("holds a broken character", c)
        elif hidden:
            yield Fault(f"holds the invisible character U+{ord(c):04X}", c)
        elif c in case.channel.forbidden or (is_emoji(c) and not case.channel.emoji):
            yield Fault(f"{c!r} is not allowed on {case.channel.name}", c)


def is_emoji(c: str) -> bool:
    return (unicodedata.category(c) == "So" and c not in "°©®™") or 0x1F000 <= ord(c) <= 0x1FAFF


def right_language(case: Case) -> Iterator[Fault]:
    """G11: the words beside the product's own are in the locale's script and language."""
    text = case.own_words
    letters = [c for c in text if c.isalpha()]
    if other := _OTHER_SCRIPTS.search(text):
        yield Fault(f"{other[0]!r} is of another script", other[0])
    han = len(_HAN.findall(text))
    if case.language == "zh":
        if letters and han < 0.5 * len(letters):
            yield Fault(f"{han} of {len(letters)} letters are Chinese")
    elif han:
        yield Fault("holds Chinese characters", "".join(_HAN.findall(text))[:20])
    elif any(is_foreign(sentence) for sentence in _SENTENCE_END.split(text)):
        yield Fault("is not English")


def is_foreign(text: str) -> bool:
    """True when at least two different function words of other languages outnumber the English ones."""
    found = set(words(text))
    foreign, english = (len(found & set(word_class(name))) for name in ("foreign", "english"))
    return foreign >= 2 and foreign > english


def well_formed(case: Case) -> Iterator[Fault]:
    """G12: no loops, no shouting: repeated words and characters, capitals, exclamation marks, emoji."""
    own = case.own_words
    if run := _RUN.search(own) or _LOOP.search(case.text) or _BLANKS.search(case.text):
        yield Fault("repeats characters", run[0][:20])
    most = Counter(_trigrams(own)).most_common(1)
    if most and most[0][1] > 2:
        yield Fault("repeats itself", " ".join(most[0][0]))
    if repeated := _TWICE.search(own):
        yield Fault("repeats a word", repeated[0][:40])
    letters = [c for c in own if c.isalpha() and c.isascii()]
    if len(letters) > 8 and sum(c.isupper() for c in letters) > _MAX_CAPITALS * len(letters):
        yield Fault("is written in capitals")
    if sum(case.text.count(c) for c in "!！") > 1:
        yield Fault("has more than one exclamation mark")
    if sum(is_emoji(c) for c in case.text) > _MAX_EMOJI:
        yield Fault("has more than two emoji")


def _trigrams(text: str) -> Iterator[tuple[str, ...]]:
    tokens = words(text)
    return (tokens[i : i + 3] for i in range(len(tokens) - 2))
