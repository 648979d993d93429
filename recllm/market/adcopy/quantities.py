"""Finds every quantity that a text states: numbers, amounts of money, discounts, shares and dates.

All spellings count: ASCII, Chinese numerals (三十, 二〇一七), 百分之二十, number words ("twenty"), "half price", and
折, which names what remains of a price: 八折 is 20 % off, 七五折 is 25 % off. The text is folded, see
`recllm.market.adcopy.lexicon`. The patterns are linear: no nested repeats.

And the deadlines that it gives by their distance from the day of sending: "today only", 今天最后一天.

    deadlines(read("Today only!"))[0].ends_on(offer.end, now)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum
from fractions import Fraction
from functools import cache, lru_cache

from babel.dates import format_skeleton
from babel.numbers import format_currency, get_currency_precision, is_currency

from recllm.market.adcopy.lexicon import (
    Family,
    Reading,
    any_of,
    fold,
    folded_pattern,
    pattern,
    phrase_patterns,
    table,
    word_class,
)


class QuantityKind(StrEnum):
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
    kind: QuantityKind
    value: Decimal | None
    """None for codes, dates and multitudes."""
    unit: str = ""
    """A unit's key in data/numbers.toml; the sign or word of a currency; "month-day" or "year-month-day" for a date."""
    role: str = ""
    """Of money: "list" after "was", "off" next to "save" ("off again" where it comes
    back), "per" and a unit before one, "threshold" after "满"; of a number: the word that follows."""
    bound: str = ""
    """Of money: "under" after "less than", "over" where more is meant (七十多块), "about" after "about"; else exact."""
    span: str


LARGEST = 10**12
"""No price and no size is larger."""
EACH = "each"
"""The unit of a price for one of whatever there are several of."""


@dataclass(frozen=True, slots=True)
class Currency:
    """How amounts of a currency are written."""

    signs: Mapping[str, Sequence[str]]
    """Language -> what may stand before an amount, the usual sign first."""
    chinese_words: Sequence[str] = ()
    """What may stand after an amount in Chinese."""
    words: Sequence[str] = ()
    """Other words that name the currency next to an amount."""


_NUMBERS = table("numbers.toml")
CURRENCIES: Mapping[str, Currency] = {
    code: Currency({"en": (code,), "zh": (code,)}) for code in _NUMBERS["currencies"]["by_code"]
} | {
    code: Currency({"en": values["en"], "zh": values["zh"]}, values["after"], values["words"])
    for code, values in _NUMBERS["currencies"].items()
    if code != "by_code"
}
"""Those whose amounts are written, by code; of any other the price is left out."""


def currency_of(code: str | None) -> Currency | None:
    return CURRENCIES.get((code or "").upper())


_NUMERALS = _NUMBERS["numerals"]
_MONTHS = [month.lower() for month in word_class("months")]
UNITS = {spelling: key for key, spellings in _NUMBERS["units"].items() for spelling in spellings}
"""Spelling of a unit, folded -> its key."""
_MULTITUDES = frozenset(_NUMBERS["multitudes"])
_ENGLISH_SCALES = _NUMERALS["english_scales"]
_ENGLISH = {word: n for n, word in enumerate(word_class("small_numbers"))}
_ENGLISH |= {word: 10 * n for n, word in enumerate(word_class("tens"), 2)}
_DIGITS = {c: n for text in (_NUMERALS["digits"], _NUMERALS["formal_digits"]) for n, c in enumerate(text)}
_DIGITS |= _NUMERALS["other_digits"]
_POWERS, _MYRIADS = _NUMERALS["powers"], _NUMERALS["myriads"]

_UNIT = folded_pattern(
    rf"[ -]?((?:{any_of({u for u in UNITS if u.isascii()})})(?![a-z0-9])"
    rf"|(?:{any_of({u for u in UNITS if not u.isascii()})}))"
)
_PHRASES = [p for p in table("neutral.en.toml")["phrases"] if p.split()[-1] not in _ENGLISH]
"""Without "for two", which may go on: "for two dollars"."""
_UNSTATING = [*_NUMBERS["idioms"], *_NUMBERS["english_idioms"], *_PHRASES]
_IDIOMS = folded_pattern(
    "|".join(
        rf"\b{re.escape(idiom)}\b" if idiom.isascii() else re.escape(idiom)
        for idiom in sorted(_UNSTATING, key=len, reverse=True)
    )
)
_MONTH, _FESTIVAL = pattern("quantities.month").pattern, any_of(_NUMBERS["festivals"])
_NUMERAL = pattern(
    "quantities.numeral",
    HAN_NUMERAL="".join([*_DIGITS, *_POWERS, *_MYRIADS]),
    NUMBER_WORD=any_of({*_ENGLISH, *_ENGLISH_SCALES}),
)
_CODES = "|".join([*(code.lower() for code in CURRENCIES), "rmb"])
_SIGNS = {s.casefold() for c in CURRENCIES.values() for signs in c.signs.values() for s in signs if not s.isalpha()}
_SIGN = pattern("quantities.sign_before", SIGN=any_of(_SIGNS), CODE=_CODES)
_MONEY_WORD = pattern("quantities.money_after", CODE=_CODES)
_NEXT_WORD = folded_pattern(r"[ -]?([a-z]+)")


@lru_cache(maxsize=4096)
def quantities(text: str) -> tuple[Quantity, ...]:
    """Every quantity in a text, in no particular order."""
    stated: list[Quantity] = []
    unblanked = fold(text)
    text = pattern("quantities.clock").sub(_blanks, _IDIOMS.sub(_blanks, unblanked))
    text = pattern("deadlines.days_left").sub(_blanks, text)
    for name, kind, read_match in _SHAPES:
        for match in pattern(name, MONTH=_MONTH, FESTIVAL=_FESTIVAL).finditer(text):
            if (read := read_match(match)) is not None:  # and blanked, so that later patterns do not see it again
                value, unit = (None, read) if isinstance(read, str) else (read, "")
                stated.append(Quantity(kind=kind, value=value, unit=unit, span=match[0]))
                text = text[: match.start()] + _blanks(match) + text[match.end() :]
    for unstating in (pattern("quantities.end_of_day"), pattern("quantities.festival")):
        text = unstating.sub(_blanks, text)
    for match in _NUMERAL.finditer(text):
        before, after = text[max(0, match.start() - 16) : match.start()], text[match.end() : match.end() + 16]
        value = _value(match)
        if value is not None and value > LARGEST:  # more digits than any fact has
            value = Decimal(-1)
        if value is None:
            stated.append(Quantity(kind=QuantityKind.NUMBER, value=None, span=match[0]))
            continue
        idiom = unblanked[match.start() - len(before) : match.start()]
        quantity = _in_context(value, match[0], before, after, idiom)
        # "one" and a lone Chinese numeral state a quantity only next to a unit, a currency, % or 折
        is_han, is_one = len(match["han"] or "") == 1, match["english"] == "one"
        is_bare = not quantity.unit or (is_one and quantity.unit in ("times", "person"))
        is_article = (is_han or is_one) and quantity.kind is QuantityKind.NUMBER and is_bare
        if not is_article or pattern("quantities.ordinal_before").search(before):
            stated.append(quantity)
    for match in pattern("quantities.vague").finditer(text):
        if match[0] in _MULTITUDES or not match[0].isascii():
            stated.append(Quantity(kind=QuantityKind.MULTITUDE, value=None, unit=match[0], span=match[0]))
    return tuple(stated)


def _blanks(match: re.Match[str]) -> str:
    return "\x00" * len(match[0])


def _date(match: re.Match[str]) -> str | None:
    groups = match.groupdict()
    if name := groups.get("mon"):
        month = next(n for n, word in enumerate(_MONTHS, 1) if word.startswith(name[:3]))
    else:
        month = int(groups["m"])
    day, year = int(groups["d"]), groups.get("y")
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    return f"{year}-{month:02d}-{day:02d}" if year else f"{month:02d}-{day:02d}"


def _model_number(match: re.Match[str]) -> str | None:
    """A model number such as "3d" or "dw8308"; "usd5" and "16oz" are none: they are read as amounts."""
    text = match[0]
    letters, amount = re.match(r"[a-z]+", text), re.fullmatch(r"\d+([a-z]+)", text)
    if letters and _SIGN.search(letters[0]):
        return None
    is_pence = amount is not None and amount[1] == "p" and len(text) < 4
    return None if amount and (is_pence or amount[1] in UNITS or amount[1] in word_class("glued")) else text


_ENGLISH_PARTS = {"third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "tenth": 10}


def _fraction_off(match: re.Match[str], *, left: bool = False) -> Decimal | None:
    """A reduction by a fraction in words, or where `left` to what is left of the price."""
    named = {name.removesuffix("_after"): text for name, text in match.groupdict().items() if text}
    top, bottom = named["top"], named["bottom"]
    if top.isascii():
        parts = Fraction(_ENGLISH.get(top, 1), _ENGLISH_PARTS[bottom])
    else:
        parts = Fraction(han_integer(top), han_integer(bottom))
    share = 100 * (1 - parts if left else parts)
    return Decimal(share.numerator) / Decimal(share.denominator) if 0 < share < 100 else None


def _first_group(match: re.Match[str]) -> str:
    return str(next(filter(None, match.groups())))


_SHAPES: tuple[tuple[str, QuantityKind, Callable[[re.Match[str]], str | Decimal | None]], ...] = (
    ("quantities.fraction_off", QuantityKind.DISCOUNT, _fraction_off),
    ("quantities.fraction_left", QuantityKind.DISCOUNT, lambda m: _fraction_off(m, left=True)),
    ("quantities.fraction_off_zh", QuantityKind.DISCOUNT, _fraction_off),
    ("quantities.fraction_left_zh", QuantityKind.DISCOUNT, lambda m: _fraction_off(m, left=True)),
    ("quantities.half_price", QuantityKind.DISCOUNT, lambda m: Decimal(50)),
    ("quantities.hundred_percent", QuantityKind.PERCENT, lambda m: Decimal(100)),
    # 两成 is 20 % that is taken off
    ("quantities.tenths", QuantityKind.DISCOUNT, lambda m: Decimal(10 * _DIGITS[m["tenths"]])),
    ("quantities.date_numbers", QuantityKind.DATE, _date),
    ("quantities.date_zh", QuantityKind.DATE, _date),
    ("quantities.date_day_first", QuantityKind.DATE, _date),
    ("quantities.date_month_first", QuantityKind.DATE, _date),
    ("quantities.day_of_month", QuantityKind.DATE, lambda m: f"-{int(_first_group(m)):02d}"),
    # of a festival that a deadline names
    ("quantities.festival_date", QuantityKind.DATE, lambda m: _NUMBERS["festivals"][_first_group(m)]),
    ("quantities.code", QuantityKind.CODE, _model_number),
)
"""What is looked for before plain numbers, in this order: a pattern, and the value or the unit of a match, if any."""


def _in_context(value: Decimal, numeral: str, before: str, after: str, idioms_before: str) -> Quantity:
    """What a number means, by the words around it; `idioms_before` is `before` with its idioms, such as 一片."""
    if zhe := pattern("quantities.zhe").match(after):
        off = (10 - value) * 10 if value <= 10 else 100 - value
        return Quantity(kind=QuantityKind.DISCOUNT, value=off, span=numeral + zhe[0])
    off_before, off_after = pattern("quantities.off_before"), pattern("quantities.off_after")
    percent, hundredths = pattern("quantities.percent").match(after), pattern("quantities.hundredths_before")
    if percent or hundredths.search(before):
        following = after[percent.end() :] if percent else after
        reduced = bool(off_after.match(following) or off_before.search(hundredths.sub("", before)))
        span = numeral + (percent[0] if percent else "")
        return Quantity(kind=QuantityKind.DISCOUNT if reduced else QuantityKind.PERCENT, value=value, span=span)
    sign, word = _SIGN.search(before), _MONEY_WORD.match(after)
    if word and word[0] == "p" and not (numeral.isdigit() and len(numeral) < 3):
        word = None  # 70p, and no 1080p
    if word and len(numeral) == 1 and not numeral.isascii() and pattern("quantities.piece_after").match(after):
        word = None  # 一块地垫, two pieces of something
    if sign or word:
        span = (sign[0] if sign else "") + numeral + (word[0] if word else "")
        before, after = before[: sign.start()] if sign else before, after[word.end() :] if word else after
        yuan = {"块": Decimal(1), "毛": Decimal("0.1")}.get(word[0].strip().removesuffix("钱")) if word else None
        value *= yuan or 1  # 六毛
        if yuan and word and not word[0].endswith("钱") and (tenth := pattern("quantities.tenth_after").match(after)):
            value += yuan * Decimal(_DIGITS.get(tenth["tenth"], tenth["tenth"])) / 10  # 两块五
            span, after = span + tenth[0], after[tenth.end() :]
        bound = "over" if word and word["more"] else ""
        for name, shape in (("under", "quantities.under_before"), ("about", "quantities.about_before")):
            if less := pattern(shape).search(before):
                bound, before = name, before[: less.start()]
        if pattern("quantities.about_after").match(after):
            bound = "about"
        each_before, each_after = pattern("quantities.each_before"), pattern("quantities.each_after")
        if pattern("quantities.list_before").search(before) or pattern("quantities.list_after").match(after):
            role = "list"
        elif off_before.search(before) or off_after.match(after):
            is_again = pattern("quantities.off_again").match(after)
            role = "off again" if is_again or pattern("quantities.off_again_before").search(before) else "off"
        else:
            role = "threshold" if pattern("quantities.threshold_before").search(before) else ""
        if not role and (each := each_before.search(idioms_before[: len(before)]) or each_after.match(after)):
            role = f"per {each['unit'] or each['unit_zh'] or EACH}"
        if word and word[0].strip() in ("cent", "cents", "pence", "p") and not sign:
            value /= 100
        spelled = "".join(match[0] for match in (sign, word) if match).replace(" ", "")
        unit = "元" if yuan else spelled.removeprefix("多").removeprefix("来")
        return Quantity(kind=QuantityKind.MONEY, value=value, unit=unit, role=role, bound=bound, span=span)
    bare = pattern("quantities.bare_money_before").search(idioms_before)
    is_cut = pattern("quantities.bare_money_cut").match(after)
    is_price_alone = is_cut or (bare and pattern("quantities.clause_end").match(after))  # 89降到59, 省24
    if numeral[0].isdigit() and is_price_alone:
        if is_cut or pattern("quantities.list_before").search(before):
            role = "list"
        else:
            role = "off" if off_before.search(before) else f"per {EACH}" if bare and bare["one"] else ""
        return Quantity(kind=QuantityKind.MONEY, value=value, role=role, span=numeral)
    unit, role, span = "", "", numeral
    others = pattern("quantities.same_unit").match(after)  # 12、15、18厘米
    shared = _UNIT.match(after[others.end() :]) if others else None
    unit_match = _UNIT.match(after)
    is_year = len(numeral) == 4 and numeral.startswith(("19", "20"))
    is_place = numeral.isalpha() or is_year  # "one in the wash", "2027 in"
    if pattern("quantities.ordinal_after").match(after):
        unit = "ordinal"
    elif shared:
        unit = UNITS[shared[1]]
    elif unit_match and not (unit_match[1] == "in" and is_place):
        unit, span = UNITS[unit_match[1]], numeral + unit_match[0]
    elif pattern("quantities.pack_before").search(before) or pattern("quantities.pack_after").match(after):
        unit = "ct"
    elif pattern("quantities.age_before").search(before):
        unit = "year"
    elif next_word := _NEXT_WORD.match(after):
        role = next_word[1]
    return Quantity(kind=QuantityKind.NUMBER, value=value, unit=unit, role=role, span=span)


def _value(match: re.Match[str]) -> Decimal | None:
    """The number that a numeral states; None for a fraction of nothing."""
    if text := match["fraction"]:
        integer, _, fraction = text.replace("-", " ").rpartition(" ")
        top, bottom = fraction.split("/")
        return int(integer or 0) + Decimal(top) / Decimal(bottom) if int(bottom) else None
    if text := match["ascii"]:
        return Decimal(text.replace(",", "")) * (_NUMERALS["scales"][match["scale"]] if match["scale"] else 1)
    if text := match["han"]:
        integer, _, decimals = text.partition("点")
        value = Decimal(han_integer(integer))
        if decimals and all(c in _DIGITS for c in decimals):
            value += Decimal("0." + "".join(str(_DIGITS[c]) for c in decimals))
        return value
    total, section = 0, 0
    for word in re.split(r"[ -]", match["english"]):
        if word in _ENGLISH:
            section += _ENGLISH[word]
        elif word in ("dozen", "hundred"):
            section = (section or 1) * _ENGLISH_SCALES[word]
        elif word in _ENGLISH_SCALES:
            total, section = total + (section or 1) * _ENGLISH_SCALES[word], 0
    return Decimal(total + section)


def han_integer(text: str) -> int:
    """ "三百二十" -> 320, "二〇一七" -> 2017, "七五" -> 75."""
    if all(c in _DIGITS for c in text):
        return int("".join(str(_DIGITS[c]) for c in text) or "0")
    total, section, digit = 0, 0, 0
    for c in text:
        if c in _DIGITS:
            digit = _DIGITS[c]
        elif c in _POWERS:
            section, digit = section + (digit or 1) * _POWERS[c], 0
        else:
            total, section, digit = (total + section + digit or 1) * _MYRIADS[c], 0, 0
    return total + section + digit


def format_money(amount: Decimal, code: str, language: str) -> str:
    """US dollars are "$3.99" in English and "US$3.99" in Chinese, francs "CHF 3.99". The currency is one of ours."""
    sign = CURRENCIES[code.upper()].signs[language][0]
    number = format_currency(rounded(amount, code), code.upper(), "#,##0.00", locale=language)
    return f"{sign} {number}" if sign.isalpha() else sign + number


def renderings(amount: Decimal, code: str, language: str) -> frozenset[str]:
    """Every accepted spelling of an amount in a language, in small letters and without spaces."""
    currency = currency_of(code) or Currency({"en": (), "zh": ()})
    value, decimals = rounded(amount, code), _decimals(code)
    numbers = {f"{value:.{decimals}f}", f"{value:,.{decimals}f}"}
    if value == value.to_integral_value():
        numbers |= {f"{value:.0f}", f"{value:,.0f}"}
    elif language == "zh" and value * 10 == (value * 10).to_integral_value():  # 45.9元
        numbers |= {f"{value:.1f}", f"{value:,.1f}"}
    words = currency.chinese_words if language == "zh" else ()
    before = {f"{sign}{number}" for sign in (*currency.signs[language], code) for number in numbers}
    after = {f"{number}{word}" for word in (*words, code) for number in numbers}
    return frozenset(text.casefold() for text in before | after)


def rounded(amount: Decimal, code: str) -> Decimal:
    """The amount as the currency's decimals can say it, halves away from zero."""
    return amount.quantize(Decimal(1).scaleb(-_decimals(code)), rounding=ROUND_HALF_UP)


def _decimals(code: str) -> int:
    return get_currency_precision(code.upper()) if is_currency(code.upper()) else 2


WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_DAYS_LEFT = "days_left"


@dataclass(frozen=True, slots=True)
class Deadline:
    """One phrase that sets a deadline."""

    span: str
    """As folded."""
    day: str
    """Which last day makes it true: "today", "tomorrow", "weekend", "week", "month", a weekday or "days_left"."""
    strong: bool
    """True where the phrase sets a deadline whatever stands around it."""
    days_left: int = 0
    """Days of "days_left", the day of sending among them or not: both are said."""

    def ends_on(self, end: datetime, now: datetime) -> bool:
        """True when an offer that ends before `end` has its last day where the phrase puts it, seen from `now`."""
        last = last_day(end)
        today = now.astimezone(end.tzinfo).date()
        days = (last - today).days
        if days < 0:
            return False
        if self.day in WEEKDAYS:
            weeks = 2 if pattern("deadlines.next_week").search(self.span) else 1
            return days < 7 * weeks and WEEKDAYS[last.weekday()] == self.day
        if self.day == _DAYS_LEFT:
            return self.days_left - 1 <= days <= self.days_left
        same_week = last.isocalendar()[:2] == today.isocalendar()[:2]
        return {
            "today": days == 0,
            "tomorrow": days == 1,
            "weekend": same_week and last.weekday() >= WEEKDAYS.index("saturday"),
            "week": same_week,
            "month": (last.year, last.month) == (today.year, today.month),
        }[self.day]


def last_day(end: datetime) -> date:
    """The last day of an offer: one that ends at midnight ends on the day before."""
    return (end - timedelta(microseconds=1)).date()


def day_in_words(day: date, locale: str, skeleton: str = "MMMMd") -> str:
    """ "30 November" of GB and en, "November 30" of US, "11月30日" of zh. skeleton: parts, by Unicode's letters."""
    return str(format_skeleton(skeleton, day, locale={"US": "en_US", "zh": "zh"}.get(locale, "en_GB")))


def deadlines(reading: Reading) -> Sequence[Deadline]:
    """Every deadline of a text; a phrase inside of a longer strong one is left out: 最后一天 of 明天最后一天."""
    strong = [Deadline(span, day, True) for day, family, _ in _families() for span in family.find(reading)]
    weak = [Deadline(span, day, False) for day, _, family in _families() for span in family.find(reading)]
    for match in pattern("deadlines.days_left").finditer(reading.folded):
        text = _first_group(match)
        number = _ENGLISH[text] if text in _ENGLISH else int(text) if text.isascii() else han_integer(text)
        strong.append(Deadline(match[0], _DAYS_LEFT, True, number))
    return [d for d in (*strong, *weak) if not any(d.span in s.span and d.span != s.span for s in strong)]


@cache
def _families() -> Sequence[tuple[str, Family, Family]]:
    """(last day, strong phrases, weak ones)."""
    entries, of_weekdays = list(table("deadlines.toml")["deadline"]), table("deadlines.toml")["weekdays"]
    for day, names in of_weekdays["names"].items():
        # each phrase with each name of its language, {DAY} with the long ones
        named = {
            strength: [
                phrase.format(day=name, DAY=name)
                for phrase in of_weekdays[strength]
                for name in names
                if name.isascii() is phrase.isascii() and ("{DAY}" not in phrase or name in WEEKDAYS)
            ]
            for strength in ("strong", "weak")
        }
        entries.append({"ends": day, **named})

    def family(day: str, phrases: Sequence[str]) -> Family:
        return Family(id=day, shapes=phrase_patterns(phrases), exceptions=pattern("quantities.weekdays"))

    return [(e["ends"], family(e["ends"], e["strong"]), family(e["ends"], e["weak"])) for e in entries]
