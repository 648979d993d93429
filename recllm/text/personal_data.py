"""Finds personal data in free text: e-mail, phones, numbers of cards and accounts, addresses, names.

    find_personal_data("Call Ann on +49 30 1234567")   # (Finding(kind=PHONE, start=12, end=26),)
    scrub("Call Ann on +49 30 1234567")                # ("Call Ann on [phone]", (Finding(...),))

What has a check digit or a shape of its own is found wherever it stands: e-mail, +49 numbers, cards (Luhn and the
prefix of an issuer), IBAN (remainder of 97), the Chinese identity number (GB 11643). Digits that could be an article
number, a size or a date need a word beside them that says what they are, and the nearest such word decides: "order
4155550132" is none, "call 4155550132" is one. Names are found after a salutation or a label only, addresses by a street
and a number. It is a net and no proof: what names a person in words of its own passes.

All patterns and word lists are data, in `data/personal_data.toml`. They read a text in time linear in its length.
"""

from __future__ import annotations

import itertools
import re
import tomllib
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, lru_cache
from importlib import resources
from ipaddress import AddressValueError, IPv6Address
from typing import Any


class PersonalDataKind(StrEnum):
    """What a finding is."""

    EMAIL = "email"
    HANDLE = "handle"
    """A name in a network, or a link that names a person or carries credentials."""
    IBAN = "iban"
    RESIDENT_ID = "resident_id"
    """The Chinese identity number, 18 characters."""
    CARD = "card"
    IP = "ip"
    PHONE = "phone"
    PLATE = "plate"
    """Of a car."""
    ADDRESS = "address"
    """Street and number, and what stands with them."""
    NAME = "name"


EXACT_KINDS = frozenset(PersonalDataKind) - {PersonalDataKind.ADDRESS, PersonalDataKind.NAME}
"""Those with a check digit or a shape of their own."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One piece of personal data: `text[start:end]`."""

    kind: PersonalDataKind
    start: int
    end: int


Span = tuple[int, int]


def find_personal_data(text: str) -> tuple[Finding, ...]:
    """All findings in order; no two overlap."""
    plain, offsets = _plain(text)
    is_taken = bytearray(len(plain))
    findings: list[Finding] = []
    for kind, spans_of in _FINDERS:
        for start, end in spans_of(plain):
            if start < end and not any(is_taken[start:end]):
                is_taken[start:end] = b"\1" * (end - start)
                first, last = (start, end - 1) if offsets is None else (offsets[start], offsets[end - 1])
                findings.append(Finding(kind, first, last + 1))
    return tuple(sorted(findings, key=lambda finding: finding.start))


def scrub(text: str, kinds: frozenset[PersonalDataKind] | None = None) -> tuple[str, tuple[Finding, ...]]:
    """(the text with `[email]`, `[phone]` and so on in place of findings, the findings). Idempotent.

    kinds: those that are replaced; all by default.
    """
    return _replaced(text, kinds, lambda finding: f"[{finding.kind}]")


@lru_cache(maxsize=1 << 12)  # the same products are shown again and again
def without_personal_data(text: str, kinds: frozenset[PersonalDataKind] | None = None) -> str:
    """The text with the findings cut out, for readers to whom a placeholder would mean something else."""
    cut, findings = _replaced(text, kinds, lambda finding: " ")
    return " ".join(_HOLLOW.sub(" ", cut).split()) if findings else text


@cache
def personal_data_hint() -> str:
    """A pattern without look around, for engines that search a whole column at once: a text that it does not match
    holds nothing that `find_personal_data` finds."""
    return _pattern("hint.text").pattern


def _replaced(
    text: str, kinds: frozenset[PersonalDataKind] | None, words: Callable[[Finding], str]
) -> tuple[str, tuple[Finding, ...]]:
    findings = tuple(f for f in find_personal_data(text) if kinds is None or f.kind in kinds)
    pieces: list[str] = []
    end = 0
    for finding in findings:
        pieces += (text[end : finding.start], words(finding))
        end = finding.end
    return "".join([*pieces, text[end:]]), findings


# --- data ----------------------------------------------------------------------------------------------------------


@cache
def _table() -> Mapping[str, Any]:
    text = (resources.files("recllm.text") / "data" / "personal_data.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _data(name: str) -> Any:
    group, _, key = name.partition(".")
    return _table()[group][key]


@cache
def _pattern(name: str, **parts: str) -> re.Pattern[str]:
    return _compiled(_data(name), **parts)


def _compiled(text: str, **parts: str) -> re.Pattern[str]:
    for _ in range(3):  # a part may hold parts
        for part, value in {**_table()["parts"], **parts}.items():
            text = text.replace(f"{{{part}}}", value)
    return re.compile(re.sub(r"\n *", "", text))


@cache
def _words(name: str) -> frozenset[str]:
    """A list of words, or words as one text."""
    value = _data(name)
    return frozenset(value.split() if isinstance(value, str) else value)


_DIGIT, _DIGITS = re.compile(r"\d"), re.compile(r"\d(?:\D{0,4}\d){6}")
_COLON = re.compile(r"[:=]| is |[\"'] ?[,;]", re.IGNORECASE)
_HOLLOW = re.compile(r"[(\[（【<][\s,;:：，；/-]{0,8}[)\]）】>]")

# --- reading -------------------------------------------------------------------------------------------------------

_SIGNS: dict[int, str] = {ord(sign): "-" for sign in "‐‑‒–—―−－﹣"} | {
    0x3000: " ",
    0xA0: " ",
    0x2007: " ",
    0x202F: " ",
    0x2009: " ",
}
_TRADITIONAL = dict(
    zip(
        map(
            ord,
            "號樓棟區縣鄉鎮電話機聯絡繫貨車碼門單莊廈園熱線傳簽顧買陳張劉黃吳趙孫馬鄭謝許韓馮鄧蕭葉蔣蘇呂盧鍾鐘譚陸賈韋鄒閻龍賀龔萬錢嚴湯溫聖東廣蓋楊羅歐陽開戶帳賬銀證訂郵間層徑灣圍給請與處臺點貳叄陸經師醫媽爺觀龐遼雲貴寧豐凱齊顏霍闕蘭喬項駱麥",
        ),
        "号楼栋区县乡镇电话机联络系货车码门单庄厦园热线传签顾买陈张刘黄吴赵孙马郑谢许韩冯邓萧叶蒋苏吕卢钟钟谭陆贾韦邹阎龙贺龚万钱严汤温圣东广盖杨罗欧阳开户帐账银证订邮间层径湾围给请与处台点贰叁陆经师医妈爷观庞辽云贵宁丰凯齐颜霍阙兰乔项骆麦",
        strict=True,
    )
)
"""The patterns know simplified characters only."""
_SIGNS |= _TRADITIONAL
_UNSEEN = re.compile(
    "[\u00ad\u034f\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f\ufeff]"
)


class _Folding(dict[int, str]):
    """A character, and the plain one that it stands for: full-width, small and Arabic-Indic digits are digits."""

    def __missing__(self, code: int) -> str:
        sign = chr(code)
        plain = unicodedata.normalize("NFKC", sign) if unicodedata.category(sign) not in ("No", "Cs") else sign
        if (digit := unicodedata.decimal(plain, None) if len(plain) == 1 else None) is not None:
            plain = str(digit)
        self[code] = plain if len(plain) == 1 else sign
        return self[code]


_FOLDING = _Folding(_SIGNS)


def _plain(text: str) -> tuple[str, list[int] | None]:
    """(the text as the patterns read it, where each of its characters stands in `text`; None for just there)."""
    if text.isascii():
        return text, None
    plain = text.translate(_FOLDING)
    if not _UNSEEN.search(plain):
        return plain, None
    offsets = [at for at, sign in enumerate(plain) if not _UNSEEN.match(sign)]
    return "".join(plain[at] for at in offsets), offsets


def _is_labelled(text: str, start: int, label: str, *, reach: int = 28, against: str | None = None) -> bool:
    """True where a word of the pattern `label` stands before `start`, and none of `against` stands nearer."""
    before = text[max(0, start - reach) : start]
    last = max(((m.end(), -m.start()) for m in _pattern(label).finditer(before)), default=None)
    if last is None:
        return False
    rival = max(((m.end(), -m.start()) for m in _pattern(against).finditer(before)), default=None) if against else None
    return rival is None or last >= rival  # of two that end together the longer: "invoice number" is of an invoice


# --- e-mail, links and handles -------------------------------------------------------------------------------------


def _emails(text: str) -> Iterator[Span]:
    if "@" in text or "&" in text:
        for match in _pattern("email.plain").finditer(text):
            if match["top"].lower() not in _words("email.no_hosts"):
                yield match.span()
    for match in _pattern("email.spoken").finditer(text):
        last = match["local"].split()[-1].lower()
        is_labelled = _pattern("email.label").search(text[max(0, match.start() - 20) : match.start()]) is not None
        has_sign = re.search(r"[\d._+-]| dot | punkt | punto | point ", match["local"].lower()) is not None
        is_host_spelled = match["dot"] != "."
        if last not in _words("email.no_locals") and (is_labelled or has_sign or is_host_spelled):
            yield match.span()
    for name in ("email.spelled", "email.disguised", "email.local"):
        for match in _pattern(name).finditer(text):
            if match[0].split()[0].lower() not in _words("email.no_locals"):
                yield match.span()


def _links(text: str) -> Iterator[Span]:
    for match in _pattern("handle.link").finditer(text) if "/" in text else ():
        yield match.start(), match.start() + len(match[0].rstrip(".,;:!?"))


def _handles(text: str) -> Iterator[Span]:
    if "@" in text:
        for name in ("handle.at", "handle.at_han"):
            for match in _pattern(name).finditer(text):
                if name == "handle.at_han" or _is_mention(text, match.start(), match["name"]):
                    yield match.start("name") - (name == "handle.at"), match.end()
    for name in ("handle.owned", "handle.reddit"):
        yield from (match.span("name") for match in _pattern(name).finditer(text))
    for match in _pattern("handle.labelled").finditer(text):
        group = next(name for name in ("name", "name_zh", "number") if match[name])
        value = match[group].rstrip(".-")
        is_word = value.isalpha() and value.islower() and group == "name"
        if value.lower() not in _words("handle.no_handles") and not (is_word and match[0].lower().startswith("line")):
            yield match.start(group), match.start(group) + len(value)


def _is_mention(text: str, start: int, name: str) -> bool:
    """True for "@ann_s" and "@annsmith", False for "@Brighton Pier", but after a word such as "follow"."""
    if not name.isalpha():
        return True
    is_place = name.istitle() or name.isupper() or name in _words("handle.at_words")
    return not is_place or _pattern("handle.at_label").search(text[max(0, start - 24) : start]) is not None


# --- numbers with a checksum ---------------------------------------------------------------------------------------


_BETWEEN = " -./\n"
"""What numbers are grouped with, or broken at."""


def _ibans(text: str) -> Iterator[Span]:
    lengths = _iban_lengths()
    for match in _pattern("iban.start").finditer(text):
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
    return {entry[:2]: int(entry[2:]) for entry in _data("iban.lengths").split()}


def _resident_ids(text: str) -> Iterator[Span]:
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    for match in _pattern("resident_id.number").finditer(text):
        number = re.sub(r"[ ._/\n-]", "", match[0]).upper()
        if not _pattern("resident_id.born").match(number):
            continue
        check = "10X98765432"[sum(int(d) * w for d, w in zip(number, weights, strict=False)) % 11]
        if number[-1] == check and number[:2] in _words("resident_id.provinces"):
            yield match.span()


_TOLD = re.compile(r"\d{2,}[^\d]{0,3}(?=[^\W\d_]{2})")


def _cards(text: str) -> Iterator[Span]:
    if not _DIGITS.search(text):
        return
    for match in _pattern("card.number").finditer(text):
        before = text[max(0, match.start() - 28) : match.start()]
        # A number of an order that another word follows has been told: "for order 123, card 4111...".
        begin = match.start() - len(_TOLD.split(before)[-1])
        is_labelled = _is_labelled(text, match.start(), "card.label", against="phone.not_label")
        is_other = _is_labelled(text, match.start(), "phone.not_label", reach=match.start() - begin)
        is_other = is_other and _pattern("card.told").search(before) is None
        # The date of expiry may follow: "4111 1111 1111 1111 12/27".
        for end in [match.end(), *(gap.start() for gap in reversed(list(_GAP.finditer(text, *match.span()))))]:
            if _is_card(text[match.start() : end], is_labelled, is_other, is_whole=end == match.end()):
                yield match.start(), end
                break


_GAP = re.compile(r"[ ._/\n-]+")


def _is_card(number: str, is_labelled: bool, is_other: bool, *, is_whole: bool) -> bool:
    pieces = _GAP.split(number)
    digits, sizes = "".join(pieces), [len(piece) for piece in pieces]
    if len(digits) < 12 or len(set(digits)) == 1 or not _luhn(digits):
        return False
    is_issued = len(digits) in _card_lengths(digits)
    is_grouped = " ".join(map(str, sizes)) in _words("card.groups") or (
        is_issued and (set(sizes) == {1} or ((is_labelled or digits.startswith("62")) and len(sizes) < 7))
    )
    if not is_whole:
        return is_issued and not is_other and (len(sizes) == 1 or is_grouped) and len(digits) > 14
    if not (is_grouped or len(pieces) == 1 or (is_labelled and is_issued and len(pieces) < 4)):
        return False
    is_article_number = len(digits) in (13, 14) and not is_grouped
    return is_labelled or (is_issued and not is_other and not is_article_number)


def _card_lengths(digits: str) -> frozenset[int]:
    """How many digits cards that begin like this have; empty where no issuer's do."""
    return frozenset(
        length
        for issuer in _data("card.issuers")
        if issuer["from"] <= digits[: len(issuer["from"])] <= issuer["to"]
        for length in issuer["digits"]
    )


def _luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B."""
    doubled = [int(d) * (2 if index % 2 else 1) for index, d in enumerate(reversed(digits))]
    return sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


def _ip_addresses(text: str) -> Iterator[Span]:
    for match in _pattern("ip.v6").finditer(text) if ":" in text else ():
        # A colon before it may be that of a label.
        start = match.start() + (match[0].startswith(":") and not match[0].startswith("::"))
        address = text[start : match.end()]
        if not _is_ipv6(address):
            continue
        groups = [group for group in address.split(":") if group]
        before = text[max(0, match.start() - 24) : match.start()]
        if any(len(group) > 2 for group in groups) or address == "::1" or _pattern("ip.label").search(before):
            yield start, match.end()
    for match in _pattern("ip.v4").finditer(text):
        before = text[max(0, match.start() - 24) : match.start()]
        is_small = all(int(part) < 10 for part in match[0].split("."))
        label = max((match.end() for match in _pattern("ip.label").finditer(before)), default=0)
        version = _pattern("ip.version").search(before)
        is_version = _pattern("ip.version_after").search(text[match.end() : match.end() + 14]) is not None
        if label and (version is None or label > version.end() - len(version[0]) + 3):
            is_version = False
        elif version or is_small:
            is_version = True
        if not is_version:
            yield match.span()


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except AddressValueError:
        return False
    return True


# --- phones --------------------------------------------------------------------------------------------------------


def _phones(text: str) -> Iterator[Span]:
    yield from _phones_in_digits(text)
    yield from _phones_in_words(text)


def _phones_in_words(text: str) -> Iterator[Span]:
    """一三八零零…, "four one five ..."; those of a Chinese mobile number, others beside a label."""
    for name in ("phone.numerals", "phone.spelled"):
        for match in _pattern(name).finditer(text):
            is_other = _is_labelled(text, match.start(), "phone.not_label")
            is_phone = _is_labelled(
                text, match.start(), "phone.label", reach=12, against="phone.not_label"
            ) or _pattern("phone.soft_label").search(text[max(0, match.start() - 48) : match.start()])
            is_mobile = name == "phone.numerals" and match["mobile"] is not None
            is_in_words = not match[0].isascii() or name == "phone.spelled"
            if is_in_words and (is_phone or (is_mobile and not is_other and len(set(match[0])) > 3)):
                yield match.span()


def _phones_in_digits(text: str) -> Iterator[Span]:
    """The shape that begins first, and of several the first in the list; each number is judged by what is beside it."""
    if not _DIGITS.search(text):
        return
    for match in _phone_pattern().finditer(text):
        named = {name: value for name, value in match.groupdict().items() if value}
        number, end = _without_next_words(
            match["number"], match.end("number"), text, is_loose=not named.keys().isdisjoint(("any", "trunk"))
        )
        end = match.end() if end == match.end("number") else end
        start = match.start() + (match[0].startswith("(") and ")" not in text[match.start() : end])
        digits = re.sub(r"\D", "", number)
        before, after = text[max(0, match.start() - 12) : match.start()], text[end : end + 20]
        is_inch = after.startswith('"') and len(digits) < 9
        if _pattern("phone.price_before").search(before[-8:]):
            continue
        if _pattern("phone.unit_after").search(after[:12]) and (is_inch or not after.startswith('"')):
            continue
        if "plus" not in named and _pattern("phone.standard").search(before):
            continue
        touches_comma = re.search(r"\d,$", before) is not None or re.match(r",\d", after) is not None
        is_field = "plus" in named or "mobile" in named or re.fullmatch(r"\d{3}-\d{3}-\d{4}", number)
        if touches_comma and not is_field:
            continue
        if "plus" not in named and re.search(r"\d:$", before):  # 00:00-2024.06.18
            continue
        if _pattern("phone.date").search(number) or len(set(digits)) == 1:
            continue
        words_before = text[max(0, match.start() - 48) : match.start()]
        is_other = _is_of_a_thing(text, match.start(), 10 if "plus" in named else 28)
        is_phone = _is_labelled(
            text, match.start(), "phone.label", reach=_data("phone.label_reach"), against="phone.not_label"
        )
        is_phone = (
            is_phone
            or _pattern("phone.soft_label").search(words_before) is not None
            or ("mobile" in named and _pattern("phone.told").search(before) is not None)
            or (not is_other and _pattern("phone.label_after").search(after) is not None)
        )
        if before.endswith("=") and not is_phone and "plus" not in named:
            continue
        if not is_phone and not is_other:
            is_phone = _stands_alone(named, number, words_before[-24:], after) or (
                _is_callable(named, number)
                and _pattern("phone.context").search(words_before + " " + text[end : end + 32]) is not None
            )
        if is_phone and _is_number(named, digits, number):
            yield start, end


def _without_next_words(number: str, end: int, text: str, *, is_loose: bool) -> tuple[str, int]:
    """(the number, where it ends in `text`) without the groups that belong to what follows: "... 900877 30 min"."""
    while " " in number:
        n_digits = sum(map(str.isdigit, number))
        if (n_digits < 13 or not is_loose) and not _pattern("phone.next_words").match(text[end : end + 12]):
            break
        shorter = number.rpartition(" ")[0].rstrip(" .-/(")
        if sum(map(str.isdigit, shorter)) < (7 if n_digits < 16 else 12):
            break
        if number.startswith(("+", "(+", "00")) and n_digits < 16 and text[end : end + 1] != ":":
            break
        number, end = shorter, end - len(number) + len(shorter)
    return number, end


_CLAUSE = re.compile(r"[!?。;] ?|(?<=[a-z]{4})(?<!nr)\. |[,.、\n] ?(?=[^\W\d_]{2})")


def _is_of_a_thing(text: str, start: int, reach: int) -> bool:
    """True where a word for a number of orders or articles stands before, in the same clause."""
    begin = max(0, start - reach)
    clause = _CLAUSE.split(text[begin:start])[-1]
    return _is_labelled(text, start, "phone.not_label", reach=len(clause))


def _is_callable(named: Mapping[str, str], number: str) -> bool:
    """True for digits that are a phone's where somebody calls beside them."""
    digits = re.sub(r"\D", "", number)
    if "any" not in named:
        return "single" in named
    if number.isdigit():
        return _pattern("phone.plain_told").fullmatch(number) is not None and not _is_article_number(digits)
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
def _phone_pattern() -> re.Pattern[str]:
    shapes = "|".join(f"(?:{shape.removeprefix('?')})" for shape in _data("phone.shapes"))
    parts = (_data("phone.before"), f"(?P<number>{shapes})", _data("phone.extension"), _data("phone.after"))
    return _compiled("".join(parts))


def _stands_alone(named: Mapping[str, str], number: str, before: str, after: str) -> bool:
    """True for a number that reads like a phone without a label."""
    digits = re.sub(r"\D", "", number)
    if "any" in named:
        is_plain = number.isdigit() and len(digits) in (10, 11) and digits[0] != "1"
        is_mobile = _pattern("phone.plain").fullmatch(number) is not None
        return is_mobile or (is_plain and _pattern("phone.weak_label").search(before) is not None)
    if "single" in named:
        return re.match(r"0[1-9]\d{8,9}$", digits) is not None
    if "zeros" in named:
        abroad = digits.removeprefix("00").removeprefix("011")
        code = next((abroad[:n] for n in (1, 2, 3) if abroad[:n] in _words("phone.country_codes")), "")
        has_trunk = abroad[len(code) :].startswith("0") and "(0)" not in number
        return not has_trunk and not (named["zeros"].isdigit() and _is_article_number(digits))
    groups = re.findall(r"\d+", number)
    if "trunk" in named and not number.startswith("("):
        sizes = [len(group) for group in groups]
        steps = {int(b) - int(a) for a, b in itertools.pairwise(groups)}
        is_part = set(sizes) == {3} or sizes == [4, 4, 2] or (len(groups) > 2 and len(steps) == 1)
        return not is_part and re.match(r" [A-Z](?![A-Za-z])", after) is None
    if "pair" in named:
        return len({int(b) - int(a) for a, b in itertools.pairwise(groups)}) > 1
    return True


def _is_number(named: Mapping[str, str], digits: str, number: str) -> bool:
    """False for what has the shape of a number that nobody can have."""
    if "plus" in named or "zeros" in named:
        national = digits.removeprefix("00").removeprefix("011")
        code = next((national[:n] for n in (1, 2, 3) if national[:n] in _words("phone.country_codes")), None)
        if code is None or set(national[len(code) :]) == {"0"}:
            return False
        return 8 <= len(national) <= 16 and (code != "1" or (len(national) == 11 and national[1] in "23456789"))
    if "trunk" in named:
        groups = re.findall(r"\d+", number)
        if len(groups) > 2 and {len(group) for group in groups} == {2}:  # a draw of a lottery
            return False
        return 8 < len(digits) < 13 and not groups[0].startswith("00") and sum(len(g) == 2 for g in groups[1:]) < 5
    if "any" in named:
        mixes = "." in number and re.search(r"[ /()-]", number) is not None
        is_version = re.fullmatch(r"\d+(?:\.\d+)+", number) is not None and min(map(len, number.split("."))) < 2
        is_row = re.fullmatch(r"(?:\d{1,2}[ .]){3,}\d{1,2}", number) is not None and (
            "." in number or len(digits) not in (8, 10) or _is_row(number.split())
        )
        groups = re.findall(r"\d+", number)
        is_row |= len(groups) > 2 and all(group.endswith("0") for group in groups[1:])  # 10 000 000, 1200 1500 1800
        is_filled = digits.startswith("00") and len(digits) < 10
        return 7 <= len(digits) <= 15 and not mixes and not is_version and not is_row and not is_filled
    if "single" in named:
        return len(set(digits)) > 2 and not _is_row(digits)
    return True


def _is_article_number(digits: str) -> bool:
    """By the check digit of GTIN-8, -12, -13 and -14 (GS1)."""
    weighted = sum(int(d) * (3 if index % 2 else 1) for index, d in enumerate(reversed(digits)))
    return len(digits) in (8, 12, 13, 14) and weighted % 10 == 0


# --- plates --------------------------------------------------------------------------------------------------------


def _plates(text: str) -> Iterator[Span]:
    if not _DIGIT.search(text):
        return
    if not text.isascii():
        for match in _pattern("plate.cn").finditer(text):
            before = text[max(0, match.start() - 1) : match.start()]
            is_word = (
                match["province"] in "新云青宁" and re.match(_compiled("[{HAN}]"), before) and not match["dot"].strip()
            )
            is_labelled = "车牌" in text[max(0, match.start() - 12) : match.start()]
            n_digits = sum(sign.isdigit() for sign in match[0])
            is_count = re.match("[份张个件只元套册本名人]", text[match.end() : match.end() + 1]) is not None
            if n_digits >= 2 and (is_labelled or not (is_word or is_count)):
                yield match.span()
    yield from (match.span() for match in _pattern("plate.own").finditer(text))
    for match in _pattern("plate.other").finditer(text):
        if _pattern("plate.label").search(text[max(0, match.start() - 36) : match.start()]):
            yield match.span()


# --- postal addresses ----------------------------------------------------------------------------------------------


def _addresses(text: str) -> Iterator[Span]:
    if text.isascii() and not _DIGIT.search(text):
        return
    if not text.isascii():
        yield from _chinese_addresses(text)
    for name in ("box", "posted", "indian", "french", "southern", "dutch", "japanese", "german_small"):
        yield from (match.span() for match in _pattern(f"address.{name}").finditer(text))
    for match in _pattern("address.german").finditer(text):
        tail = _pattern("address.german_tail").match(text, match.end())
        yield match.start(), tail.end() if tail else match.end()
    for match in _pattern("address.german_weak").finditer(text):
        tail = _pattern("address.german_tail").match(text, match.end())
        if tail or _is_addressed(text, match.start()):
            yield match.start(), tail.end() if tail else match.end()
    for sort in ("strong", "weak"):
        for match in _pattern("address.english", SORT=_data(f"address.{sort}")).finditer(text):
            sure = _is_addressed(text, match.start()) or _has_postcode(text, match.end())
            if sure or (sort == "strong" and _is_street(text, match)):
                yield match.start(), _end_of_address(text, match.end())
        for match in _pattern("address.english_small", SORT=_data(f"address.{sort}")).finditer(text):
            is_told = sort == "strong" and _is_addressed(text, match.start())
            if is_told or (_has_postcode(text, match.end()) and not _names_goods(match["street"])):
                yield match.start(), _end_of_address(text, match.end())


def _is_addressed(text: str, start: int) -> bool:
    return _pattern("address.label").search(text[max(0, start - 36) : start]) is not None


def _has_postcode(text: str, end: int) -> bool:
    return _pattern("address.postcode").match(text[end : end + 80]) is not None


def _end_of_address(text: str, end: int) -> int:
    tail = _pattern("address.tail").match(text, end)
    return tail.end() if tail else end


def _is_street(text: str, match: re.Match[str]) -> bool:
    """True for "12 Baker Street" before a comma, a small letter or the end; "28 Inch Carbon Road Bike" is a thing."""
    name = " ".join(match[0].split()[1:]).lower()
    if _names_goods(match["street"]) or any(famous in name for famous in _data("address.famous")):
        return False
    after = text[match.end() : match.end() + 40]
    if _pattern("address.titled").match(after):
        return False
    return (
        re.match(r" ?(?:$|[,.;:)\n!?]| [a-z]| (?:N|S|E|W|NE|NW|SE|SW|Apt|Suite|Unit|Flat|#)\b)|[,.;:)\n!?]", after)
        is not None
    )


def _names_goods(street: str) -> bool:
    return not _words("address.goods").isdisjoint(street.lower().split())


_LEFT_OF_STREET = 40
"""Characters before a Chinese street that may belong to its address."""


def _chinese_addresses(text: str) -> Iterator[Span]:
    label_ends: list[int] = []
    label_tail = _pattern("address.chinese_label_tail")
    for match in _pattern("address.chinese_label").finditer(text):
        label_ends.append(match.end())
        tail = label_tail.match(text, match.end())
        if tail and re.search(r"\d|[省市区县镇乡村路街]", tail[0]) and _has_house(tail[0]):
            yield tail.start(), tail.end()
    for name in ("chinese", "chinese_village"):
        for match in _pattern(f"address.{name}").finditer(text):
            start = _left_of(text, match.start(), label_ends)
            regions = _pattern("address.chinese_regions").findall(text[start : match.end()])
            is_counted = re.search(r"\d", match[0]) is not None and match.start() - start >= 1
            is_enough = len(regions) > 1 or _near(label_ends, start) if name == "chinese_village" else True
            if is_enough and (is_counted or regions):
                continuation = _pattern("address.chinese_more").match(text[match.end() : match.end() + 60])
                yield start, match.end() + (continuation.end() if continuation else 0)
    for match in _pattern("address.chinese_house").finditer(text):
        start = _left_of(text, match.start(), label_ends)
        left = text[start : match.start()]
        regions = _pattern("address.chinese_regions").findall(left)
        settled = re.search(
            _data("address.chinese_settlement") + r"[ ]?(?:[一二三四五六七八九十\d]{1,2}(?:期|区)[ ]?)?$", left
        )
        if len(regions) > 1 or (settled and len(left) >= 3):
            yield start, match.end()


def _has_house(address: str) -> bool:
    """True where a text after the word for an address holds a number of a house, or two regions."""
    return (
        re.search(r"[\d一二三四五六七八九十][号弄栋幢楼室组座]|\d-\d", address) is not None
        or len(_pattern("address.chinese_regions").findall(address)) > 1
    )


def _left_of(text: str, at: int, label_ends: list[int]) -> int:
    """Where the Chinese address begins whose street stands at `at`."""
    start, earliest = at, max(0, at - _LEFT_OF_STREET)
    while start > earliest and (_is_han(text[start - 1]) or text[start - 1].isalnum()):
        start -= 1
    if index := bisect_right(label_ends, at):
        start = max(start, label_ends[index - 1])
    for stop in _pattern("address.chinese_stop").finditer(text, start, at):
        start = stop.end()
    return start


def _near(ends: list[int], start: int) -> bool:
    index = bisect_right(ends, start)
    return index > 0 and start - ends[index - 1] < 3


def _is_han(sign: str) -> bool:
    return "\u3400" <= sign <= "\u9fff" or "\uf900" <= sign <= "\ufaff"


# --- names ---------------------------------------------------------------------------------------------------------


def _names(text: str) -> Iterator[Span]:
    for match in _pattern("name.salutation").finditer(text):
        words = match["name"].replace("’", "'").lower().split()
        brands = _data("name.brands").get(match["title"].lower(), "")
        salutation = _pattern("name.spoken_before").search(text[max(0, match.start() - 24) : match.start()])
        if words[0].removesuffix("'s") in brands.split() and not (salutation and "ear" in salutation[0]):
            continue
        is_known = _has_known_name(words) and len(words) < 4
        after = text[match.end() : match.end() + 14]
        is_begun = re.search(r"(?:^|[.!?;\n] ?)$", text[max(0, match.start() - 2) : match.start()]) is not None
        if match["title"] in _TITLES_OF_PEOPLE and len(words) < 5:
            yield match.start(), match.start() + len(match[0].rstrip())
            continue
        if match["title"] == "M" and not is_known:
            continue
        begins = is_begun and match["title"] not in _TITLES_OF_BRANDS and re.match(r"[,.;:]? [a-z]|[,;:]| \d", after)
        if is_known or salutation or begins or re.search(_data("name.spoken_after"), after):
            yield match.start(), match.start() + len(match[0].rstrip())
    for name in ("name.label", "name.bare_label", "name.line_label"):
        if name == "name.label" and not _COLON.search(text):
            continue
        for match in _pattern(name).finditer(text):
            end = _end_of_name(match["name"], match["label"])
            if end:
                yield match.start("name"), match.start("name") + end
    yield from _loosely_labelled_names(text)
    for name in ("name.greeting", "name.closing"):
        for match in _pattern(name).finditer(text):
            words = [word.lower() for word in match["name"].split()]
            is_dear = name == "name.greeting" and match["label"].lower() not in ("hi", "hello", "hey", "hallo")
            is_signed = name == "name.closing" and not match[0].lower().startswith("love ")
            is_whole = len(words) > 1 and (is_dear or is_signed)
            if _words("name.no_names").isdisjoint(words) and len(words) < 4 and (is_whole or _has_known_name(words)):
                yield match.span("name")
    if not text.isascii():
        yield from _chinese_names(text)


def _end_of_name(name: str, label: str) -> int:
    """Length of the name at the beginning of what follows a label; 0 for none."""
    words = name.split(" ")
    size = next((n for n, word in enumerate(words) if word.lower().strip(".,") in _words("name.no_names")), len(words))
    words = words[:size]
    lowered = [word.lower().strip(".,") for word in words]
    is_known = _has_known_name(lowered)
    is_firm = " ".join(label.lower().split()).rstrip(".") in _words("name.firm_labels")
    if not words or not (is_known or name[0].isupper()):
        return 0
    has_names = len(words) > 1 and label.lower() not in ("name", "names", "owner", "nom", "nombre")
    return len(" ".join(words)) if is_known or is_firm or has_names else 0


def _loosely_labelled_names(text: str) -> Iterator[Span]:
    for match in _pattern("name.loose_label").finditer(text):
        words = [word.lower().strip(".,") for word in match["name"].split()]
        is_told = _pattern("name.loose_after").match(match["after"]) is not None
        is_known = not _words("name.given").isdisjoint(words[:-1])
        is_known &= not (match["name"].isupper() and len(words) > 2)  # CARDHOLDER HOLLY WREATH METAL
        is_message = match["label"].lower() in ("this is", "for:", "to:", "from:", "i'm", "im", "i am")
        if _words("name.no_names").isdisjoint(words) and (is_known or (is_told and not is_message)):
            yield match.span("name")
    if text.isascii():
        return
    for name in ("name.han_name", "name.han_sent"):
        for match in _pattern(name).finditer(text):
            value = match["name"]
            is_name = not any(value.startswith(w) or value.endswith(w) for w in _words("name.no_chinese_names"))
            if is_name and _surname(value) and (len(value) < 4 or "·" in value or _surname(value) == 2):
                yield match.span("name")


_TITLES_OF_PEOPLE = frozenset({"Herrn", "Frau", "Mme", "Mlle", "Sra", "Señora", "Signora", "Sig.ra"})
"""Goods are seldom called after these."""
_TITLES_OF_BRANDS = frozenset({"Dr", "DR", "Miss", "Sir", "Madam", "Madame", "Professor", "Prof", "Mx"})


def _has_known_name(words: Sequence[str]) -> bool:
    """True where one of the words, in small letters, is a common given or family name, with or without accents."""
    bare = (unicodedata.normalize("NFD", word).encode("ascii", "ignore").decode() for word in words)
    return not _known_names().isdisjoint(bare) or not _known_names().isdisjoint(words)


@cache
def _known_names() -> frozenset[str]:
    return _words("name.given") | _words("name.family")


def _chinese_names(text: str) -> Iterator[Span]:
    for match in _pattern("name.chinese_label").finditer(text):
        name, is_firm = match["name"], match["label"] in _words("name.firm_chinese_labels")
        if name.isascii():
            if match["colon"].strip() and _end_of_name(name, "recipient"):
                yield match.span("name")
            continue
        stop = _pattern("name.chinese_name_stop").search(name)
        size = len(name[: stop.start()] if stop else name)
        longest = 4 if name[:2] in _words("name.double_surnames") or "·" in name else 3
        has_colon = match["colon"].strip() not in ("", "为", "是")
        if size > longest and has_colon and is_firm and _surname(name):
            size = 3 if longest == 3 else 4
        is_name = not any(
            name[:size].startswith(word) or name[:size].endswith(word) for word in _words("name.no_chinese_names")
        )
        may_be = bool(_surname(name)) or (is_firm and (has_colon or "·" in name))
        if is_name and 2 <= size <= (12 if "·" in name else 4) and may_be and (is_firm or has_colon):
            yield match.start("name"), match.start("name") + size
    no_names = _words("name.no_honorific")
    for match in _pattern("name.honorific").finditer(text):
        for size in (3, 2, 4, 1):
            start = match.start() - size
            if start < 0 or not all(map(_is_han, text[start : match.start()])):
                continue
            if text[start : match.start()] in no_names:
                break
            surname = _surname(text[start : match.start()])
            is_whole = _pattern("name.honorific_before").search(text[max(0, start - 1) : start]) is not None
            if surname and size - surname <= 2 and is_whole:
                yield start, match.end()
                break


def _surname(name: str) -> int:
    """How many characters of a Chinese name are the surname; 0 where it begins with none."""
    if name[:2] in _words("name.double_surnames"):
        return 2
    return int(name[:1] in _surnames())


@cache
def _surnames() -> frozenset[str]:
    return frozenset(_data("name.surnames").strip())


_FINDERS: tuple[tuple[PersonalDataKind, Callable[[str], Iterator[Span]]], ...] = (
    (PersonalDataKind.HANDLE, _links),
    (PersonalDataKind.EMAIL, _emails),
    (PersonalDataKind.HANDLE, _handles),
    (PersonalDataKind.IBAN, _ibans),
    (PersonalDataKind.RESIDENT_ID, _resident_ids),
    (PersonalDataKind.CARD, _cards),
    (PersonalDataKind.IP, _ip_addresses),
    (PersonalDataKind.PHONE, _phones),
    (PersonalDataKind.PLATE, _plates),
    (PersonalDataKind.ADDRESS, _addresses),
    (PersonalDataKind.NAME, _names),
)
"""Where two would overlap, the first stands."""
