"""Numbers with a check digit: accounts, the Chinese identity number, cards."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache

from recllm.text.finders.patterns import Span, entry, has_label, has_words, n_digits, pattern, word_set

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
    for match in pattern("resident_id.number").finditer(text) if n_digits(text) > 16 else ():
        number = re.sub(r"[ ._/\n-]", "", match[0]).upper()
        if pattern("resident_id.born").match(number) and number[:2] in word_set("resident_id.provinces"):
            weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
            if number[-1] == "10X98765432"[sum(int(d) * w for d, w in zip(number, weights, strict=False)) % 11]:
                yield match.span()


_TOLD = re.compile(r"\d{2,}[^\d]{0,3}(?=[^\W\d_]{2})")


def cards(text: str) -> Iterator[Span]:
    if n_digits(text) < 12:
        return
    for match in pattern("card.number").finditer(text):
        pieces = list(_PIECE.finditer(match[0]))
        # The date of expiry may follow: "4111 1111 1111 1111 12/27".
        signs = [piece[0] for piece in pieces]
        sizes = [n for n in range(len(signs), 0, -1) if _may_be_card("".join(signs[:n]), is_whole=n == len(signs))]
        if not sizes:
            continue
        before = text[max(0, match.start() - 28) : match.start()]
        # A number of an order that another word follows is complete: "for order 123, card 4111...".
        begin = match.start() - len(_TOLD.split(before)[-1])
        is_labelled = has_label(text, match.start(), "card.label", against="phone.not_label")
        is_other = has_label(text, match.start(), "phone.not_label", reach=match.start() - begin)
        is_other = is_other and not has_words("card.told", before)
        if not is_labelled and text[match.end() : match.end() + 1].isalpha() and text[match.end()].isascii():
            continue
        around = before + " " + text[match.end() : match.end() + 28]
        is_told = not is_other and has_words("card.context", around)
        for n in sizes:
            if _is_card(signs[:n], is_labelled, is_other, is_told, is_whole=n == len(signs)):
                yield match.start(), match.start() + pieces[n - 1].end()
                break


_PIECE = re.compile(r"[^ ._/·\n-]+")


def _may_be_card(digits: str, *, is_whole: bool) -> bool:
    """False for what no word makes a card of: no check digit, or a part of a number that no issuer has."""
    is_enough = len(digits) > 11 if is_whole else len(digits) > 14 and len(digits) in _card_lengths(digits[:4])
    return is_enough and len(set(digits)) > 1 and luhn(digits)


def _is_card(pieces: Sequence[str], is_labelled: bool, is_other: bool, is_told: bool, *, is_whole: bool) -> bool:
    digits, sizes = "".join(pieces), [len(piece) for piece in pieces]
    is_issued = len(digits) in _card_lengths(digits[:4])
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


@cache
def _card_lengths(digits: str) -> frozenset[int]:
    """How many digits cards have that begin with these four; empty where no issuer's do."""
    return frozenset(
        length
        for issuer in entry("card.issuers")
        if issuer["from"] <= digits[: len(issuer["from"])] <= issuer["to"]
        for length in issuer["digits"]
    )


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B."""
    return (sum(map(int, digits[::-2])) + sum(map(int, digits[-2::-2].translate(_DOUBLED)))) % 10 == 0


_DOUBLED = str.maketrans("0123456789", "0246813579")
"""A digit -> the sum of the digits of its double."""


def is_article_number(digits: str) -> bool:
    """By the check digit of GTIN-8, -12, -13 and -14 (GS1)."""
    n_digits = len(digits)
    return n_digits in (8, 12, 13, 14) and (sum(map(int, digits[::-2])) + 3 * sum(map(int, digits[-2::-2]))) % 10 == 0
