"""G8, G9, G10: nothing personal, nothing foul, nothing that leaks out of the machine."""

from __future__ import annotations

import re
from collections.abc import Iterator

from recllm.adcopy.lexicon import ROLE_TOKEN, families, limit, pattern, read, within
from recllm.adcopy.verify.case import Case, Violation

_IDENTIFIERS = (
    (pattern("people.email"), "an e-mail address"),
    (pattern("people.ip_address"), "an IP address"),
    (pattern("people.pseudonym"), "a person's pseudonym"),
)
_OBSERVED = pattern("people.observed")
_PHONE = pattern("people.phone")
_DIGITS = pattern("people.digits")
_IBAN = pattern("people.iban")
_CONTACT = pattern("people.contact")


def personal_data(case: Case) -> Iterator[Violation]:
    """G8: no e-mail, phone, card or identity number, and no word on what the shop knows of the person."""
    text = case.reading.folded
    for shape, what in _IDENTIFIERS:
        for match in shape.finditer(text):
            yield Violation(f"{match[0]!r} is {what}", match[0])
    for match in _OBSERVED.finditer(text):
        yield Violation(f"{match[0]!r} tells the person what the shop has seen of them", match[0])
    for match in _PHONE.finditer(text):
        if within("phone_digits", sum(c.isdigit() for c in match[0])):
            yield Violation(f"{match[0]!r} reads like a phone number", match[0])
    for match in _DIGITS.finditer(text):
        digits = re.sub(r"[ -]", "", match[0])
        if is_card(digits) or is_chinese_id(digits):
            yield Violation("holds a card or identity number", match[0])
    for match in _IBAN.finditer(text):
        if is_iban(match[0].replace(" ", "")):
            yield Violation("holds a bank account number", match[0])
    yield from _phrases("G8", case)


def is_card(digits: str) -> bool:
    """Luhn's check over 14 to 19 digits."""
    if not (digits.isdigit() and within("card_digits", len(digits))) or len(set(digits)) == 1:
        return False
    doubled = [int(d) * (2 if i % 2 else 1) for i, d in enumerate(reversed(digits))]
    return sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


def is_chinese_id(text: str) -> bool:
    """The 18-character identity number of GB 11643, by its check character."""
    if not re.fullmatch(r"\d{17}[\dx]", text):
        return False
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return "10x98765432"[sum(int(d) * w for d, w in zip(text, weights, strict=False)) % 11] == text[-1]


def is_iban(text: str) -> bool:
    """ISO 13616, by its remainder of 97."""
    if not (15 <= len(text) <= 34 and text.isalnum() and text.isascii()):
        return False
    return int("".join(str(int(c, 36)) for c in text[4:] + text[:4])) % 97 == 1


def clean_language(case: Case) -> Iterator[Violation]:
    """G9: no profanity, slur or violence, in English or Chinese."""
    yield from _phrases("G9", case)


def leaks(case: Case) -> Iterator[Violation]:
    """G10: no piece of the prompt, no role token, no talk of prompts, no address, handle or link."""
    for shape, what in ((ROLE_TOKEN, "belongs to a prompt"), (_CONTACT, "is an address, a handle or a contact")):
        for match in shape.finditer(case.reading.folded):
            yield Violation(f"{match[0]!r} {what}", match[0])
    yield from _phrases("G10", case)
    if case.prompt:
        size = limit("prompt_words")[case.language]
        prompted = grams(read(case.prompt).words, size)
        repeated = next((gram for gram in grams(read(case.own_words).words, size) if gram in prompted), None)
        if repeated:
            yield Violation("repeats the prompt", (" " if case.language == "en" else "").join(repeated))


def grams(words: tuple[str, ...], size: int) -> set[tuple[str, ...]]:
    return {words[i : i + size] for i in range(len(words) - size + 1)}


def _phrases(guarantee: str, case: Case) -> Iterator[Violation]:
    for family in families("language.toml"):
        if family.guarantee == guarantee:
            for phrase in family.find(case.reading):
                yield Violation(f"{phrase!r} {family.message or 'must not be said'}", phrase)
