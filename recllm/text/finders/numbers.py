"""Numbers with a check digit: accounts, the Chinese identity number, cards; and phone numbers."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

from recllm.text.finders.patterns import (
    A_LETTER,
    SEVEN_DIGITS,
    Span,
    columns,
    compiled,
    entry,
    has_label,
    has_words,
    n_digits,
    pattern,
    text_after,
    text_before,
    word_set,
)

_BETWEEN = " -._/\n"
"""What numbers are grouped with, or broken at."""


def ibans(text: str) -> Iterator[Span]:
    lengths = iban_lengths()
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
def iban_lengths() -> dict[str, int]:
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
        sizes = [n for n in range(len(signs), 0, -1) if may_be_card("".join(signs[:n]), is_whole=n == len(signs))]
        if not sizes:
            continue
        before = text_before(match, 28)
        # A number of an order that another word follows is complete: "for order 123, card 4111...".
        begin = match.start() - len(_TOLD.split(before)[-1])
        is_labelled = has_label(text, match.start(), "card.label", against="phone.not_label")
        is_other = has_label(text, match.start(), "phone.not_label", reach=match.start() - begin)
        is_other = is_other and not has_words("card.told", before)
        if not is_labelled and text_after(match, 1).isalpha() and text[match.end()].isascii():
            continue
        around = before + " " + text_after(match, 28)
        is_told = not is_other and has_words("card.context", around)
        for n in sizes:
            if is_card(signs[:n], is_labelled, is_other, is_told, is_whole=n == len(signs)):
                yield match.start(), match.start() + pieces[n - 1].end()
                break


_PIECE = re.compile(r"[^ ._/·\n-]+")


def may_be_card(digits: str, *, is_whole: bool) -> bool:
    """False for what no word makes a card of: no check digit, or a part of a number that no issuer has."""
    is_enough = len(digits) > 11 if is_whole else len(digits) > 14 and len(digits) in card_lengths(digits[:4])
    return is_enough and len(set(digits)) > 1 and luhn(digits)


def is_card(pieces: Sequence[str], is_labelled: bool, is_other: bool, is_told: bool, *, is_whole: bool) -> bool:
    digits, sizes = "".join(pieces), [len(piece) for piece in pieces]
    is_issued = len(digits) in card_lengths(digits[:4])
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
def card_lengths(digits: str) -> frozenset[int]:
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


def phones(text: str) -> Iterator[Span]:
    """The shape that begins first, and of several the first in the list; each number is judged by its surroundings."""
    if not SEVEN_DIGITS.search(text):
        return
    heads = columns(text)
    for match in phone_pattern().finditer(text):
        named = {name: value for name, value in match.groupdict().items() if value}
        number, end = without_next_words(
            match["number"], match.end("number"), text, is_loose=not named.keys().isdisjoint(("any", "trunk"))
        )
        end = match.end() if end == match.end("number") else end
        start = match.start() + (match[0].startswith("(") and ")" not in text[match.start() : end])
        digits = _NO_DIGIT.sub("", number)
        if len(set(digits)) == 1 or not _is_number(named, digits, number) or pattern("phone.date").search(number):
            continue
        before, after = text_before(match, 12), text[end : end + 40]
        is_inch = after.startswith('"') and len(digits) < 9
        if pattern("phone.price_before").search(before[-8:]):
            continue
        if pattern("phone.unit_after").search(after[:12]) and (is_inch or not after.startswith('"')):
            continue
        if "plus" not in named and has_words("phone.standard", before):
            continue
        touches_comma = (after[:1] == "," and after[1:2].isdigit()) or (before[-1:] == "," and before[-2:-1].isdigit())
        is_field = "plus" in named or "mobile" in named or _FIELD.fullmatch(number)
        is_in_column = heads is not None and pattern("phone.label").search(heads.label(match.start())) is not None
        if touches_comma and not is_field and not is_in_column:
            continue
        if "plus" not in named and before[-1:] == ":" and before[-2:-1].isdigit():  # 00:00-2024.06.18
            continue
        words_before = text_before(match, 48)
        has_letters = A_LETTER.search(words_before) is not None or A_LETTER.search(after) is not None
        # a word for a number of orders or articles, in the same clause
        clause = _CLAUSE.split(text[max(0, match.start() - (10 if "plus" in named else 28)) : match.start()])[-1]
        is_other = has_letters and has_label(text, match.start(), "phone.not_label", reach=len(clause))
        is_phone = has_letters and (
            has_label(text, match.start(), "phone.label", reach=entry("phone.label_reach"), against="phone.not_label")
            or has_words("phone.soft_label", words_before)
            or ("mobile" in named and has_words("phone.told", before))
            or (not is_other and has_words("phone.label_after", after))
        )
        if before.endswith("=") and not is_phone and "plus" not in named:
            continue
        if not is_phone and not is_other:
            is_phone = stands_alone(named, number, words_before[-24:], after) or (
                has_letters
                and is_callable(named, number)
                and has_words("phone.context", words_before + " " + text[end : end + 32])
            )
        is_other = has_letters and not is_in_column and has_words("phone.not_label_after", after)
        if (is_phone or is_in_column) and not is_other:
            yield start, end


def without_next_words(number: str, end: int, text: str, *, is_loose: bool) -> tuple[str, int]:
    """(the number, where it ends in `text`) without the groups that belong to what follows: "... 900877 30 min"."""
    while " " in number:
        n_digits = sum(map(str.isdigit, number))
        if (n_digits < 13 or not is_loose) and not pattern("phone.next_words").match(text[end : end + 12]):
            break
        shorter = number.rpartition(" ")[0].rstrip(" .-/(")
        if sum(map(str.isdigit, shorter)) < (7 if n_digits < 16 else 12):
            break
        if number.startswith(("+", "(+", "00")) and n_digits < 16 and text[end : end + 1] != ":":
            break
        number, end = shorter, end - len(number) + len(shorter)
    return number, end


_NO_DIGIT, _FIELD = re.compile(r"\D"), re.compile(r"\d{3}-\d{3}-\d{4}")
_CLAUSE = re.compile(r"[!?。;] ?|(?<=[a-z]{4})(?<!nr)\. |[,.、\n] ?(?=[^\W\d_]{2})")


def is_callable(named: Mapping[str, str], number: str) -> bool:
    """True for digits that are a phone's next to a word of calling."""
    digits = _NO_DIGIT.sub("", number)
    if "any" not in named:
        return "single" in named
    if number.isdigit():
        return pattern("phone.plain_told").fullmatch(number) is not None and not is_article_number(digits)
    groups, gaps = re.findall(r"\d+", number), set(re.findall(r"\D+", number))
    return (
        8 <= len(digits) <= 12
        and len(gaps) < 3
        and "." not in gaps
        and min(map(len, groups)) > 1
        and not _is_row(groups)
    )


def _is_row(groups: Sequence[str]) -> bool:
    """True for sizes and the like in a row: 36 38 40 42."""
    return len({int(b) - int(a) for a, b in itertools.pairwise(groups)}) == 1


@cache
def phone_pattern() -> re.Pattern[str]:
    shapes = "|".join(f"(?:{shape.removeprefix('?')})" for shape in entry("phone.shapes"))
    parts = (entry("phone.before"), f"(?P<number>{shapes})", entry("phone.extension"), entry("phone.after"))
    return compiled("".join(parts))


def stands_alone(named: Mapping[str, str], number: str, before: str, after: str) -> bool:
    """True for a number that reads like a phone without a label."""
    digits = _NO_DIGIT.sub("", number)
    if "any" in named:
        is_plain = number.isdigit() and len(digits) in (10, 11) and digits[0] != "1"
        is_mobile = pattern("phone.plain").fullmatch(number) is not None
        return is_mobile or (is_plain and pattern("phone.weak_label").search(before) is not None)
    if "single" in named:
        return re.match(r"0[1-9]\d{8,9}$", digits) is not None
    if "zeros" in named:
        abroad = digits.removeprefix("00").removeprefix("011")
        code = next((abroad[:n] for n in (1, 2, 3) if abroad[:n] in word_set("phone.country_codes")), "")
        has_trunk = abroad[len(code) :].startswith("0") and "(0)" not in number
        return not has_trunk and not (named["zeros"].isdigit() and is_article_number(digits))
    groups = re.findall(r"\d+", number)
    if "trunk" in named and not number.startswith("("):
        sizes = [len(group) for group in groups]
        is_part = set(sizes) == {3} or sizes == [4, 4, 2] or (len(groups) > 2 and _is_row(groups))
        return not is_part and re.match(r" [A-Z](?![A-Za-z])", after) is None
    if "pair" in named:
        return len(groups) > 1 and not _is_row(groups)
    return True


def _is_number(named: Mapping[str, str], digits: str, number: str) -> bool:
    """False for what has the shape of a number that does not exist."""
    if "plus" in named or "zeros" in named:
        national = digits.removeprefix("00").removeprefix("011")
        code = next((national[:n] for n in (1, 2, 3) if national[:n] in word_set("phone.country_codes")), None)
        if code is None or set(national[len(code) :]) == {"0"}:
            return False
        return 8 <= len(national) <= 16 and (code != "1" or (len(national) == 11 and national[1] in "23456789"))
    if "trunk" in named:
        groups = re.findall(r"\d+", number)
        sizes = [len(group) for group in groups]
        is_lottery = len(groups) > 2 and set(sizes) == {2} and len(set(re.findall(r"\D+", number))) == 1
        return not is_lottery and 8 < len(digits) < 13 and groups[0][:2] != "00" and sizes[1:].count(2) < 5
    if "any" in named:
        if not 7 <= len(digits) <= 15 or (digits.startswith("00") and len(digits) < 10):
            return False
        mixes = "." in number and re.search(r"[ /()-]", number) is not None
        is_version = re.fullmatch(r"\d+(?:\.\d+)+", number) is not None and min(map(len, number.split("."))) < 2
        is_row = re.fullmatch(r"(?:\d{1,2}[ .]){3,}\d{1,2}", number) is not None and (
            "." in number or len(digits) not in (8, 10) or _is_row(number.split())
        )
        groups = re.findall(r"\d+", number)
        is_row |= len(groups) > 2 and all(group.endswith("0") for group in groups[1:])  # 10 000 000, 1200 1500 1800
        return not mixes and not is_version and not is_row
    if "single" in named:
        return len(set(digits)) > 2 and not _is_row(digits)
    return True
