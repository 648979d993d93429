"""Amounts of money as text. Decimals and grouping are Babel's; signs and words are those of `data/numbers.toml`, since
they decide what the checks accept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from babel.numbers import format_currency, get_currency_precision, is_currency

from recllm.adcopy.lexicon import table
from recllm.text.templates import language


@dataclass(frozen=True, slots=True)
class Currency:
    """How amounts of a currency are written."""

    signs: Mapping[str, tuple[str, ...]]
    """Language -> what may stand before an amount, the usual sign first."""
    words: tuple[str, ...] = ()
    """What may stand after an amount in Chinese."""
    spoken: tuple[str, ...] = ()
    """Other words that name the currency beside an amount."""


def _currencies() -> dict[str, Currency]:
    entries = dict(table("numbers.toml")["currencies"])
    found = {code: Currency({"en": (code,), "zh": (code,)}) for code in entries.pop("by_code")}
    for code, values in entries.items():
        signs = {name: tuple(values[name]) for name in ("en", "zh")}
        found[code] = Currency(signs, tuple(values["after"]), tuple(values["spoken"]))
    return found


CURRENCIES: Mapping[str, Currency] = _currencies()
"""Those whose amounts are written, by code; of any other the price is left out."""


def currency_of(code: str | None) -> Currency | None:
    return CURRENCIES.get((code or "").upper())


def format_money(amount: Decimal, code: str, locale: str) -> str:
    """US dollars are "$3.99" in English and "US$3.99" in Chinese, francs "CHF 3.99". The currency is one of ours."""
    sign = CURRENCIES[code.upper()].signs[language(locale)][0]
    number = format_currency(rounded(amount, code), code.upper(), "#,##0.00", locale=language(locale))
    return f"{sign} {number}" if sign.isalpha() else sign + number


def renderings(amount: Decimal, code: str, locale: str) -> frozenset[str]:
    """Every accepted spelling of an amount in a locale, in small letters and without spaces."""
    currency = currency_of(code) or Currency({"en": (), "zh": ()})
    value, decimals = rounded(amount, code), _decimals(code)
    numbers = {f"{value:.{decimals}f}", f"{value:,.{decimals}f}"}
    if value == value.to_integral_value():
        numbers |= {f"{value:.0f}", f"{value:,.0f}"}
    words = currency.words if language(locale) == "zh" else ()
    before = {f"{sign}{number}" for sign in (*currency.signs[language(locale)], code) for number in numbers}
    after = {f"{number}{word}" for word in (*words, code) for number in numbers}
    return frozenset(text.casefold() for text in before | after)


def rounded(amount: Decimal, code: str) -> Decimal:
    """The amount as the currency's decimals can say it, halves away from zero."""
    return amount.quantize(Decimal(1).scaleb(-_decimals(code)), rounding=ROUND_HALF_UP)


def _decimals(code: str) -> int:
    return get_currency_precision(code.upper()) if is_currency(code.upper()) else 2
