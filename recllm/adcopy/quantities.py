"""Finds every quantity that a text states: numbers, amounts of money, discounts, shares and dates.

All spellings count: ASCII, Chinese numerals (三十, 二〇一七), 百分之二十, number words ("twenty"), "half price", and
折, which names what remains of a price: 八折 is 20 % off, 七五折 is 25 % off. Works on folded text, see
`recllm.adcopy.reading`. The patterns are linear: no nested repeats.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from functools import cache, lru_cache
from typing import Any

from recllm.adcopy.lexicon import table, word_class
from recllm.adcopy.money import CURRENCIES
from recllm.adcopy.reading import pattern


class Kind(StrEnum):
    NUMBER = "number"
    MONEY = "money"
    DISCOUNT = "discount"
    """Per cent off a price."""
    PERCENT = "percent"
    """Any other share."""
    DATE = "date"
    CODE = "code"
    """Letters and digits in one word, such as a model number."""
    MULTITUDE = "multitude"
    """A vague count: "thousands", "double"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    kind: Kind
    value: Decimal | None
    """None for codes, dates and multitudes."""
    unit: str = ""
    """A unit's key in data/numbers.toml; money as it is spelled; "month-day" or "year-month-day" for a date."""
    role: str = ""
    """Of money: "list" after "was", "off" beside "save", "threshold" after "满"; of a number: the word that follows."""
    span: str


@dataclass(frozen=True, slots=True)
class _Words:
    idioms: re.Pattern[str]
    multitudes: frozenset[str]
    units: dict[str, str]
    """Spelling -> key."""
    unit: re.Pattern[str]


_SCALES = {"dozen": 12, "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_ENGLISH = {word: n for n, word in enumerate(word_class("small_numbers"))}
_ENGLISH |= {word: 10 * n for n, word in enumerate(word_class("tens"), 2)}
_DIGIT = {c: i for i, c in enumerate("〇一二三四五六七八九")} | {"零": 0, "两": 2}
_DIGIT |= {c: i for i, c in enumerate("壹贰叁肆伍陆柒捌玖", 1)}
_POWER = {"十": 10, "百": 100, "千": 1000, "拾": 10, "佰": 100, "仟": 1000}
_MYRIAD = {"万": 10**4, "亿": 10**8}
_HAN_NUMERAL = "〇零一二两三四五六七八九十百千万亿壹贰叁肆伍陆柒捌玖拾佰仟"

_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\b"
)
_DATES = (
    pattern(r"(?<!\d)(?P<y>\d{4})[-/.](?P<m>\d{1,2})[-/.](?P<d>\d{1,2})(?!\d)"),
    pattern(r"(?:(?P<y>\d{4})年)?(?<!\d)(?P<m>\d{1,2})月(?P<d>\d{1,2})[日号]?"),
    pattern(rf"(?<!\d)(?P<d>\d{{1,2}})(?:st|nd|rd|th)?(?: of)? (?P<mon>{_MONTH})(?:,? (?P<y>\d{{4}})(?!\d))?"),
    pattern(rf"\b(?P<mon>{_MONTH})\.? (?P<d>\d{{1,2}})(?:st|nd|rd|th)?(?!\d)(?:,? (?P<y>\d{{4}})(?!\d))?"),
)
_NUMBER_WORD = "|".join(sorted([*_ENGLISH, *_SCALES], key=len, reverse=True))
_NUMERAL = pattern(
    r"(?P<fraction>\d{1,6}[ -]\d{1,4}/\d{1,4}|\d{1,6}/\d{1,6})(?![\d/])"
    r"|(?P<ascii>\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)|\d+(?:\.\d+)?|(?<![\w.])\.\d+)(?P<scale>[万亿千百]|k\b)?"
    rf"|(?P<han>[{_HAN_NUMERAL}]+(?:点[{_HAN_NUMERAL}]+)?)"
    rf"|(?P<english>\b(?:{_NUMBER_WORD})(?:(?:[ -]| and )(?:{_NUMBER_WORD}))*\b)"
)
_CODE = pattern(r"(?<![a-z0-9.])(?:[a-z]{1,20}-?\d|\d{1,12}[a-z])[a-z0-9-]*")
_HALF_PRICE = pattern(r"\bhalf[ -](?:the )?(?:price|off)\b|\bat half\b|半价|对折|半折|减半|一半的?价格?")
_HUNDRED_PERCENT = pattern(r"百分之?百")
_VAGUE = pattern(r"[几数][十百千万亿]+|上[百千万亿]+|半(?:斤|公斤|升|米|年|月|小时|打|箱|价|天)|[a-z]+")
_TENTHS = pattern(r"(?P<tenths>[一二两三四五六七八九])成(?![功人长为就熟品分都衣套员立语交本果双])")
_CODES = "|".join(code.lower() for code in CURRENCIES) + "|rmb"
_SIGNS = {
    sign.casefold() for c in CURRENCIES.values() for sign in (*c.signs["en"], *c.signs["zh"]) if not sign.isalpha()
}
_SIGN = pattern(rf"(?:{'|'.join(re.escape(s) for s in sorted(_SIGNS, key=len, reverse=True))}|\b(?:{_CODES})) ?$")
_MONEY_WORD = pattern(
    r" ?(?:块钱|人民币|美元|美金|欧元|英镑|日元|韩元|港元|港币|加元|澳元|新元|卢比|元|块(?!装)|¢|€|£|\$|¥"
    rf"|(?:{_CODES}|euros?|yuan|yen|dollars?|bucks?|cents?|pence|quid)\b)"
)
_PERCENT = pattern(r" ?(?:%|percent\b|per ?cent\b|pct\b|个百分点)")
_ZHE = pattern(r" ?折(?!叠|痕|页|扇|射|边|返|腾|皱|纸|合)")
_OFF_AFTER = pattern(
    r" ?-?(?:off|discount|reduction|less|cheaper|savings?|rebate|cash ?back|优惠|折扣|直?降|立减|减|返)"
)
_OFF_BEFORE = pattern(
    r"(?:\bsav(?:e|es|ing)(?: up to)?|\bdiscount of|\boff|\bup to|立减|直降|省|减|降|优惠|返|便宜)[ :]?$"
)
_LIST_BEFORE = pattern(
    r"(?:\bwas|\bwere|\brrp|\bmsrp|\blist price(?: of)?|\bregular(?:ly)?|\boriginally|\binstead of|\bdown from|\bbefore"
    r"|原价|市场价|吊牌价|专柜价|划线价|指导价)[ :：]?$"
)
_THRESHOLD_BEFORE = pattern(r"(?:满|\bspend|\borders (?:over|above)|\bover)[ :]?$")
_HUNDREDTHS_BEFORE = pattern(r"百分之$")
_ORDINAL_BEFORE = pattern(r"第$")
_ORDINAL_AFTER = pattern(r"(?:st|nd|rd|th)\b")
_NEXT_WORD = pattern(r"[ -]?([a-z]+)")


@lru_cache(maxsize=4096)
def quantities(folded: str) -> tuple[Quantity, ...]:
    """Every quantity in a folded text, in no particular order."""
    found: list[Quantity] = []
    text = _take(_words().idioms, folded, found, None)
    text = _take(_HALF_PRICE, text, found, lambda m: Quantity(kind=Kind.DISCOUNT, value=Decimal(50), span=m[0]))
    text = _take(_HUNDRED_PERCENT, text, found, lambda m: Quantity(kind=Kind.PERCENT, value=Decimal(100), span=m[0]))
    text = _take(_TENTHS, text, found, _tenths)
    for form in _DATES:
        text = _take(form, text, found, _date)
    text = _take(_CODE, text, found, _code)
    found.extend(_numerals(text))
    found.extend(_multitudes(text))
    return tuple(found)


def _take(shape: re.Pattern[str], text: str, found: list[Quantity], make: Any) -> str:
    """Collects what a pattern finds and blanks it, so that later patterns do not see it again."""

    def blank(match: re.Match[str]) -> str:
        quantity = make(match) if make else None
        if make and quantity is None:
            return match[0]
        if quantity is not None:
            found.append(quantity)
        return "\x00" * len(match[0])

    return shape.sub(blank, text)


def _tenths(match: re.Match[str]) -> Quantity:
    """两成 is 20 %, said of what is taken off."""
    return Quantity(kind=Kind.DISCOUNT, value=Decimal(10 * _DIGIT[match["tenths"]]), span=match[0])


def _date(match: re.Match[str]) -> Quantity | None:
    groups = match.groupdict()
    month = _month(groups["mon"]) if groups.get("mon") else int(groups["m"])
    day, year = int(groups["d"]), groups.get("y")
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    unit = f"{year}-{month:02d}-{day:02d}" if year else f"{month:02d}-{day:02d}"
    return Quantity(kind=Kind.DATE, value=None, unit=unit, span=match[0])


def _month(name: str) -> int:
    return next(i for i, month in enumerate(word_class("months"), 1) if month.lower().startswith(name[:3]))


def _code(match: re.Match[str]) -> Quantity | None:
    """A model number such as "3d" or "dw8308"; "usd5" and "16oz" are none: they are read as amounts."""
    text = match[0]
    letters, amount = re.match(r"[a-z]+", text), re.fullmatch(r"\d+([a-z]+)", text)
    if letters and _SIGN.search(letters[0]):
        return None
    if amount and (amount[1] in _words().units or amount[1] in word_class("glued")):
        return None
    return Quantity(kind=Kind.CODE, value=None, unit=text, span=text)


def _numerals(text: str) -> Iterator[Quantity]:
    for match in _NUMERAL.finditer(text):
        before, after = text[max(0, match.start() - 16) : match.start()], text[match.end() : match.end() + 16]
        value = _value(match)
        if value is None:
            yield Quantity(kind=Kind.NUMBER, value=None, span=match[0])
            continue
        quantity = _in_context(value, match[0], before, after)
        if not _is_article(match, quantity, before):
            yield quantity


def _in_context(value: Decimal, numeral: str, before: str, after: str) -> Quantity:
    """What a number means, by the words around it."""
    if zhe := _ZHE.match(after):
        off = (10 - value) * 10 if value <= 10 else 100 - value
        return Quantity(kind=Kind.DISCOUNT, value=off, span=numeral + zhe[0])
    percent = _PERCENT.match(after)
    if percent or _HUNDREDTHS_BEFORE.search(before):
        rest = after[percent.end() :] if percent else after
        before = _HUNDREDTHS_BEFORE.sub("", before)
        reduced = bool(_OFF_AFTER.match(rest) or _OFF_BEFORE.search(before))
        span = numeral + (percent[0] if percent else "")
        return Quantity(kind=Kind.DISCOUNT if reduced else Kind.PERCENT, value=value, span=span)
    sign, word = _SIGN.search(before), _MONEY_WORD.match(after)
    if sign or word:
        outside = before[: sign.start()] if sign else before
        rest = after[word.end() :] if word else after
        span = (sign[0] if sign else "") + numeral + (word[0] if word else "")
        return Quantity(kind=Kind.MONEY, value=value, unit=span, role=_role(outside, rest), span=span)
    if _ORDINAL_AFTER.match(after):
        return Quantity(kind=Kind.NUMBER, value=value, unit="ordinal", span=numeral)
    unit = _words().unit.match(after)
    if unit:
        return Quantity(kind=Kind.NUMBER, value=value, unit=_words().units[unit[1]], span=numeral + unit[0])
    following = _NEXT_WORD.match(after)
    return Quantity(kind=Kind.NUMBER, value=value, role=following[1] if following else "", span=numeral)


def _role(before: str, after: str) -> str:
    if _LIST_BEFORE.search(before):
        return "list"
    if _OFF_BEFORE.search(before) or _OFF_AFTER.match(after):
        return "off"
    return "threshold" if _THRESHOLD_BEFORE.search(before) else ""


def _is_article(match: re.Match[str], quantity: Quantity, before: str) -> bool:
    """ "one" and a lone Chinese numeral state a quantity only beside a unit, a currency, % or 折."""
    lone_han = match["han"] is not None and len(match["han"]) == 1
    lone_one = match["english"] == "one"
    if not (lone_han or lone_one) or quantity.kind is not Kind.NUMBER or _ORDINAL_BEFORE.search(before):
        return False
    return not quantity.unit or (lone_one and quantity.unit in ("times", "person"))


def _multitudes(text: str) -> Iterator[Quantity]:
    vague = _words().multitudes
    for match in _VAGUE.finditer(text):
        if match[0] in vague or not match[0].isascii():
            yield Quantity(kind=Kind.MULTITUDE, value=None, unit=match[0], span=match[0])


def _value(match: re.Match[str]) -> Decimal | None:
    if match["fraction"]:
        return _fraction(match["fraction"])
    if match["ascii"]:
        scale = {"万": 10**4, "亿": 10**8, "千": 1000, "百": 100, "k": 1000}.get(match["scale"] or "", 1)
        return _decimal(match["ascii"].replace(",", "")) * scale
    if match["han"]:
        return _han(match["han"])
    return Decimal(_english(match["english"]))


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:  # more digits than any fact has
        return Decimal(-1)


def _fraction(text: str) -> Decimal | None:
    whole, _, part = text.replace("-", " ").rpartition(" ")
    top, bottom = part.split("/")
    return int(whole or 0) + Decimal(top) / Decimal(bottom) if int(bottom) else None


def _han(text: str) -> Decimal | None:
    whole, _, decimals = text.partition("点")
    value = Decimal(_han_integer(whole))
    if decimals and all(c in _DIGIT for c in decimals):
        value += Decimal("0." + "".join(str(_DIGIT[c]) for c in decimals))
    return value


def _han_integer(text: str) -> int:
    """ "三百二十" -> 320, "二〇一七" -> 2017, "七五" -> 75."""
    if all(c in _DIGIT for c in text):
        return int("".join(str(_DIGIT[c]) for c in text) or "0")
    total, section, digit = 0, 0, 0
    for c in text:
        if c in _DIGIT:
            digit = _DIGIT[c]
        elif c in _POWER:
            section, digit = section + (digit or 1) * _POWER[c], 0
        else:
            total, section, digit = (total + section + digit or 1) * _MYRIAD[c], 0, 0
    return total + section + digit


def _english(text: str) -> int:
    total, section = 0, 0
    for word in re.split(r"[ -]", text):
        if word in _ENGLISH:
            section += _ENGLISH[word]
        elif word in ("dozen", "hundred"):
            section = (section or 1) * _SCALES[word]
        elif word in _SCALES:
            total, section = total + (section or 1) * _SCALES[word], 0
    return total + section


@cache
def _words() -> _Words:
    data = table("numbers.toml")
    units = {spelling: key for key, spellings in data["units"].items() for spelling in spellings}
    idioms = sorted([*data["idioms"], *data["english_idioms"]], key=len, reverse=True)
    latin = "|".join(re.escape(u) for u in sorted((u for u in units if u.isascii()), key=len, reverse=True))
    other = "|".join(re.escape(u) for u in sorted((u for u in units if not u.isascii()), key=len, reverse=True))
    return _Words(
        idioms=pattern("|".join(rf"\b{re.escape(i)}\b" if i.isascii() else re.escape(i) for i in idioms)),
        multitudes=frozenset(data["multitudes"]),
        units=units,
        unit=pattern(rf"[ -]?((?:{latin})(?![a-z0-9])|(?:{other}))"),
    )
