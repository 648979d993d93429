"""Numbers with a check digit: accounts, the Chinese identity number, cards."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache

from recllm.text.finders.patterns import Span, entry, has_label, n_digits, pattern, word_set
from recllm.text.finders.spelled import spelled_numbers

_BETWEEN = " -._/\n"
"""What numbers are grouped with, or broken at."""


def ibans(text: str) -> Iterator[Span]:
    lengths = _iban_lengths()
    for match in pattern("iban.start").finditer(text) if n_digits(text) > 9 else ():
        length, signs, at = lengths.get(match[0][:2].upper(), 0), "", match.start()
        while len(signs) < length and at < len(text):
            if text[at].isascii() and text[at].isalnum():
                signs += text[at]
            elif text[at] not in _BETWEEN or (text[at - 1] in _BETWEEN and text[at - 2] in _BETWEEN):
                break
            at += 1
        is_whole = at == len(text) or not (text[at].isascii() and text[at].isalnum())
        if length and len(signs) == length and is_whole:
            rearranged = "".join(str(int(sign, 36)) for sign in signs[4:] + signs[:4])
            if int(rearranged) % 97 == 1:
                yield match.start(), at


@cache
def _iban_lengths() -> dict[str, int]:
    return {country[:2]: int(country[2:]) for country in entry("iban.lengths").split()}


def resident_ids(text: str) -> Iterator[Span]:
    for start, end, number in spelled_numbers(text):
        if len(number) == 18 and _is_resident_id(number):
            yield start, end
    for match in pattern("resident_id.number").finditer(text) if n_digits(text) > 16 else ():
        if _is_resident_id(re.sub(r"[ ._/\n-]", "", match[0]).upper()):
            yield match.span()


def _is_resident_id(number: str) -> bool:
    if not pattern("resident_id.born").match(number):
        return False
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    check = "10X98765432"[sum(int(d) * w for d, w in zip(number, weights, strict=False)) % 11]
    return number[-1] == check and number[:2] in word_set("resident_id.provinces")


_TOLD = re.compile(r"\d{2,}[^\d]{0,3}(?=[^\W\d_]{2})")


def cards(text: str) -> Iterator[Span]:
    for start, end, digits in spelled_numbers(text):
        if len(digits) in _card_lengths(digits) and luhn(digits):
            yield start, end
    if n_digits(text) < 12:
        return
    for match in pattern("card.number").finditer(text):
        before = text[max(0, match.start() - 28) : match.start()]
        # A number of an order that another word follows has been told: "for order 123, card 4111...".
        begin = match.start() - len(_TOLD.split(before)[-1])
        is_labelled = has_label(text, match.start(), "card.label", against="phone.not_label")
        is_other = has_label(text, match.start(), "phone.not_label", reach=match.start() - begin)
        is_other = is_other and pattern("card.told").search(before) is None
        if not is_labelled and text[match.end() : match.end() + 1].isalpha() and text[match.end()].isascii():
            continue
        beside = before + " " + text[match.end() : match.end() + 28]
        is_told = not is_other and pattern("card.context").search(beside) is not None
        # The date of expiry may follow: "4111 1111 1111 1111 12/27".
        pieces = list(_PIECE.finditer(match[0]))
        for n in range(len(pieces), 0, -1):
            parts = [piece[0] for piece in pieces[:n]]
            if _is_card(parts, is_labelled, is_other, is_told, is_whole=n == len(pieces)):
                yield match.start(), match.start() + pieces[n - 1].end()
                break


_PIECE = re.compile(r"[^ ._/·\n-]+")


def _is_card(pieces: Sequence[str], is_labelled: bool, is_other: bool, is_told: bool, *, is_whole: bool) -> bool:
    digits, sizes = "".join(pieces), [len(piece) for piece in pieces]
    if len(digits) < 12 or len(set(digits)) == 1 or not luhn(digits):
        return False
    is_issued = len(digits) in _card_lengths(digits)
    is_grouped = " ".join(map(str, sizes)) in word_set("card.groups") or (
        is_issued
        and (
            set(sizes) == {1}
            or all(n % 4 == 0 for n in sizes)
            or ((is_labelled or is_told or digits.startswith("62")) and len(sizes) < 7)
        )
    )
    if not is_whole:
        return is_issued and not is_other and (len(sizes) == 1 or is_grouped) and len(digits) > 14
    if not (is_grouped or len(pieces) == 1 or (is_labelled and is_issued and len(pieces) < 4)):
        return False
    is_article = is_article_number(digits) and not is_grouped
    return is_labelled or (is_issued and not is_other and not is_article)


def _card_lengths(digits: str) -> frozenset[int]:
    """How many digits cards that begin like this have; empty where no issuer's do."""
    return frozenset(
        length
        for issuer in entry("card.issuers")
        if issuer["from"] <= digits[: len(issuer["from"])] <= issuer["to"]
        for length in issuer["digits"]
    )


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B."""
    doubled = [int(d) * (2 if index % 2 else 1) for index, d in enumerate(reversed(digits))]
    return sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


def is_article_number(digits: str) -> bool:
    """By the check digit of GTIN-8, -12, -13 and -14 (GS1)."""
    weighted = sum(int(d) * (3 if index % 2 else 1) for index, d in enumerate(reversed(digits)))
    return len(digits) in (8, 12, 13, 14) and weighted % 10 == 0
