"""G6 to G12, G14: the text fits its channel and language, reads like a text, sounds like the brand, and holds nothing
personal, nothing foul, nothing that leaks out of the machine."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from recllm.market.adcopy.channels import is_gsm7
from recllm.market.adcopy.lexicon import (
    HAN_RUN,
    families,
    fold,
    limit,
    pattern,
    phrase_pattern,
    read,
    word_class,
    words,
)
from recllm.market.adcopy.verify.case import Case, Violation, matches, violations
from recllm.text.finders.numbers import luhn
from recllm.text.personal_data import PersonalDataKind

_BREAKS_OFF = (
    pattern("form.breaks_off", DANGLING="|".join(word_class("dangling"))),
    pattern("form.open_clause"),
    pattern("form.open_clause_zh"),
)
_CODE_OF_AMOUNT = re.compile(r"(?<![A-Za-z])[A-Z]{3} ?(?=\d)")  # 立减CHF 1.00: no edge of a word before it
FOREIGN = "texts are checked in English and Chinese, a person who reads this language decides"


def fits_channel(case: Case) -> Iterator[Violation]:
    """G6: each slot is within its limit by the channel's counter, in its characters, and no paragraph breaks off."""
    channel = case.request.limits
    if not case.text.strip():
        yield Violation("the text is empty")
    for slot, text in channel.split(case.text):
        if slot.counter == "sms" and case.language == "en" and not is_gsm7(text):
            outside = next(c for c in text if not is_gsm7(c))
            message = f"{outside!r} is outside of GSM 7 bit: with it a message holds 70 characters, without 160"
            yield Violation(message, outside, holds=True)
        length, longest = slot.length_and_limit(text)
        if length > longest:
            yield Violation(f"{slot.name} has {length} of {longest} allowed by {channel.name}", text)
        if not text.strip():
            yield Violation(f"{slot.name} is empty")
    for end in map(str.rstrip, case.text.split("\n\n")):  # a button follows in a paragraph of its own
        if any(shape.search(end) for shape in _BREAKS_OFF):
            yield Violation("breaks off", end[-20:], holds=True)
    for c in dict.fromkeys(case.text):
        invisible = c not in "\n\u200d" and unicodedata.category(c) in ("Cc", "Cf", "Co", "Cn", "Zl", "Zp")
        if c == "\ufffd":
            yield Violation("holds a broken character", c)
        elif invisible:
            yield Violation(f"holds the invisible character U+{ord(c):04X}", c)
        elif c in channel.forbidden or (is_emoji(c) and not channel.emoji):
            yield Violation(f"{c!r} is not allowed on {channel.name}", c)


def is_emoji(c: str) -> bool:
    return (unicodedata.category(c) == "So" and c not in "°©®™") or 0x1F000 <= ord(c) <= 0x1FAFF


def mandatory_parts(case: Case) -> Iterator[Violation]:
    """G7: the text ends with what its channel demands inside of it, such as the way to opt out.

    What code adds when a text leaves (`recllm.market.adcopy.channels.complete`) is not asked for here.
    """
    channel = case.request.limits
    if channel.closings and not case.text.rstrip(" 。.").endswith(channel.closings):
        yield Violation(f"{channel.name} ends with {' or '.join(channel.closings)}", case.text[-20:])


def personal_data(case: Case) -> Iterator[Violation]:
    """G8: no e-mail, phone, card or identity number, and no word on what the shop knows of the person."""
    text = case.reading.folded
    for name, remark in (
        ("people.email", "is an e-mail address"),
        ("people.ip_address", "is an IP address"),
        ("people.pseudonym", "is a person's pseudonym"),
    ):
        yield from violations(matches(pattern(name), text), remark)
    phones = (m for m in matches(pattern("people.phone"), text) if 7 <= sum(c.isdigit() for c in m) <= 15)
    yield from violations(phones, "reads like a phone number")
    for match in pattern("people.digits").finditer(text):  # a card's check digit is enough, of any issuer
        digits = re.sub(r"[ -]", "", match[0])
        if len(set(digits)) > 1 and luhn(digits):
            yield Violation("holds a card number", match[0])
    for kind, phrase in case.personal_data:
        if kind is not PersonalDataKind.HANDLE:
            yield Violation("holds what identifies or locates a person", phrase)
    observed = [*matches(pattern("people.observed"), text)]
    watching = next(family for family in families("language.toml") if family.id == "watching")
    for phrase in dict.fromkeys((*observed, *watching.find(case.reading))):
        is_purchase = fold(case.request.domain.words[case.language]["bought"]) in phrase  # 看过 of a film
        is_look = pattern("people.looked").search(phrase) and not is_purchase
        if is_look or not case.request.person.is_customer:
            yield Violation(f"{phrase!r} {watching.message}", phrase)
    yield from (v for v in _phrases("G8", case) if not v.message.endswith(watching.message))


def clean_language(case: Case) -> Iterator[Violation]:
    """G9: no profanity, slur or violence, in English or Chinese."""
    yield from _phrases("G9", case)


def leaks(case: Case) -> Iterator[Violation]:
    """G10: no piece of the prompt, no role token, no talk of prompts, no address, handle or link."""
    for name, remark in (
        ("reading.role_token", "belongs to a prompt"),
        ("people.contact", "is an address, a handle or a contact"),
    ):
        links = fold(case.request.link)
        yield from violations((m for m in matches(pattern(name), case.reading.folded) if m not in links), remark)
    for kind, phrase in case.personal_data:
        if kind is PersonalDataKind.HANDLE:
            yield Violation("is an address, a handle or a contact", phrase)
    yield from violations(matches(pattern("reading.placeholder"), case.own_words), "was never filled in, or is mark-up")
    yield from _phrases("G10", case)


def _phrases(guarantee: str, case: Case) -> Iterator[Violation]:
    for family in families("language.toml"):
        if family.guarantee == guarantee:
            yield from violations(family.find(case.reading), family.message, holds=family.holds)


def right_language(case: Case) -> Iterator[Violation]:
    """G11: the words without the product's own are in the locale's script and language."""
    text = case.own_words
    letters = sum(c.isalpha() for c in text)
    han = "".join(HAN_RUN.findall(text))
    if case.language == "zh":
        if letters and len(han) < limit("min_han_share") * letters:
            yield Violation(f"{len(han)} of {letters} letters are Chinese: {FOREIGN}", holds=True)
    elif han:
        yield Violation(f"holds Chinese characters: {FOREIGN}", han[:20], holds=True)


def well_formed(case: Case) -> Iterator[Violation]:
    """G12: no loops, no shouting: repeated words and characters, capitals, exclamation marks, emoji."""
    text = case.own_words
    if run := pattern("form.repeated_character").search(text) or pattern("form.blanks").search(case.text):
        yield Violation("repeats characters", run[0][:20], holds=True)

    def loops(line: str) -> bool:
        tokens = words(line)
        return bool(len(tokens) >= limit("loop_words") and len(set(tokens)) <= limit("least_distinct") * len(tokens))

    is_name = any(map(loops, (case.facts.title, *case.slots.values())))
    for line in filter(loops, (text if is_name else case.text).split("\n")):  # parts may say one thing in turn
        yield Violation("repeats itself", line[:40], holds=True)
    for disguised in matches(pattern("form.disguised"), case.text):
        if not any(disguised in text for text in (*case.item_texts, case.request.item.title)):
            yield Violation(f"{disguised!r} only looks like letters or digits: write them plainly", disguised)
            break
    if salad := pattern("form.word_salad").search(case.text):
        yield Violation("puts words together that do not belong together", salad[0][:40], holds=True)
    letters = [c for c in _CODE_OF_AMOUNT.sub("", text) if c.isalpha() and c.isascii()]
    capitals = sum(c.isupper() for c in letters)
    if len(letters) > limit("capitals_from_letters") and capitals > limit("max_capitals") * len(letters):
        yield Violation("is written in capitals", holds=True)
    if sum(text.count(c) for c in "!！") > limit("max_exclamation_marks"):
        yield Violation("has more than one exclamation mark", holds=True)
    if sum(is_emoji(c) for c in text) > limit("max_emoji"):
        yield Violation("has more than two emoji", holds=True)


def in_voice(case: Case) -> Iterator[Violation]:
    """G14: the brand's own words and none that it avoids, its form of address, emoji and exclamation marks."""
    voice, text = case.request.voice, case.reading.squashed
    if shape := phrase_pattern(voice.banned):
        yield from (
            Violation(f"the brand does not say {p!r}", p, holds=True) for p in dict.fromkeys(shape.findall(text))
        )
    if shape := phrase_pattern(case.request.domain.never[case.language]):
        elsewhere = dict.fromkeys(shape.findall(read(case.own_words).squashed))
        yield from (Violation(f"{p!r} is said of other things than these", p, holds=True) for p in elsewhere)
    for word in voice.required:
        shape = phrase_pattern([word])
        if shape and not shape.search(text):
            yield Violation(f"the brand always says {word!r}", holds=True)
    unused = {"您": "你", "你": "您"}.get(voice.address or "")
    if unused and unused in case.text:
        yield Violation(f"the brand says {voice.address}, not {unused}", unused, holds=True)
    if not voice.emoji and (emoji := next((c for c in case.text if is_emoji(c)), None)):
        yield Violation("the brand uses no emoji", emoji, holds=True)
    if not voice.exclamation and (mark := next((c for c in case.text if c in "!！"), None)):
        yield Violation("the brand uses no exclamation marks", mark, holds=True)
