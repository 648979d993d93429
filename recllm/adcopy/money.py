"""Prices as text: symbol, place and decimals by currency and locale, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal


@dataclass(frozen=True, slots=True)
class Currency:
    """`signs` are what may stand before an amount, `words` what may stand after it, per language."""

    code: str
    decimals: int
    signs: Mapping[str, tuple[str, ...]]
    words: Mapping[str, tuple[str, ...]]


def _currency(code: str, en: str, zh: str, *, decimals: int = 2, words: tuple[str, ...] = ()) -> Currency:
    signs = {"en": tuple(en.split()), "zh": tuple(zh.split())}
    return Currency(code, decimals, signs, {"en": (), "zh": words})


_BY_CODE = "CHF SEK NOK DKK PLN CZK HUF RON TRY RUB BRL MXN ARS ZAR AED SAR ILS THB MYR IDR PHP TWD NZD"
"""Written with their code, which everybody can read."""

CURRENCIES: Mapping[str, Currency] = {
    c.code: c
    for c in (
        _currency("USD", "$ US$", "US$ $", words=("美元",)),
        _currency("CAD", "CA$ C$ $", "CA$ 加元", words=("加元",)),
        _currency("AUD", "A$ AU$ $", "AU$ A$", words=("澳元",)),
        _currency("HKD", "HK$", "HK$", words=("港元", "港币")),
        _currency("SGD", "S$", "S$", words=("新元",)),
        _currency("EUR", "€", "€", words=("欧元",)),
        _currency("GBP", "£", "£", words=("英镑",)),
        _currency("CNY", "¥ CN¥ RMB", "¥", words=("元", "块", "块钱")),
        _currency("JPY", "¥ JP¥", "JP¥", decimals=0, words=("日元",)),
        _currency("KRW", "₩", "₩", decimals=0, words=("韩元",)),
        _currency("INR", "₹", "₹", words=("卢比",)),
        *(_currency(code, code, code) for code in _BY_CODE.split()),
        *(_currency(code, code, code, decimals=0) for code in ("VND", "CLP", "ISK")),
    )
}
"""The first sign of a language is the one that code writes. A price in another currency is not told."""


def is_known(currency: str | None) -> bool:
    return currency is not None and currency.upper() in CURRENCIES


def format_money(amount: Decimal, currency: str, locale: str) -> str:
    """US dollars are "$3.99" in English and "US$3.99" in Chinese, francs "CHF 3.99". The currency must be known."""
    known = CURRENCIES[currency.upper()]
    number = f"{rounded(amount, known.decimals):,.{known.decimals}f}"
    sign = known.signs[language(locale)][0]
    return f"{sign} {number}" if sign.isalpha() else sign + number


def renderings(amount: Decimal, currency: str, locale: str) -> frozenset[str]:
    """Every accepted spelling of an amount in a locale, in small letters and without spaces."""
    known = CURRENCIES.get(currency.upper())
    signs = (*(known.signs[language(locale)] if known else ()), currency.upper())
    words = (*(known.words[language(locale)] if known else ()), currency.upper())
    numbers = _numbers(amount, known.decimals if known else 2)
    before = {f"{sign}{n}" for sign in signs for n in numbers}
    after = {f"{n}{word}" for word in words for n in numbers}
    return frozenset(text.casefold() for text in before | after)


def rounded(amount: Decimal, decimals: int) -> Decimal:
    return amount.quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_HALF_UP)


def same_amount(stated: Decimal, amount: Decimal, currency: str) -> bool:
    """True when a stated amount is the amount as the currency's decimals can say it."""
    known = CURRENCIES.get(currency.upper())
    return stated == rounded(amount, known.decimals if known else 2)


def language(locale: str) -> str:
    """ "zh-Hans-CN" -> "zh"; anything else is written as English is."""
    return "zh" if locale.replace("_", "-").split("-")[0].lower() == "zh" else "en"


def _numbers(amount: Decimal, decimals: int) -> set[str]:
    value = rounded(amount, decimals)
    whole = value == value.to_integral_value()
    plain = {f"{value:.{decimals}f}", f"{value:,.{decimals}f}"}
    if whole:
        plain |= {f"{value:.0f}", f"{value:,.0f}"}
    return plain
