"""Numbers from text: separators, currency signs, full-width digits; one decimal sign per file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import polars as pl

from recllm.base.errors import IngestError
from recllm.shop.ingest.column_names import VALUES

Decimal = Literal[".", ","]

_CURRENCY_TOKENS: Mapping[str, str] = VALUES["currency"]
"""Sign or code -> currency. "$", "¥" and "kr" are shared by several."""

_SHARED = {"$": {"USD", "AUD", "CAD", "HKD", "MXN"}, "¥": {"CNY", "JPY"}, "kr": {"SEK", "NOK", "DKK"}}
_BY_LENGTH = sorted(_CURRENCY_TOKENS, key=len, reverse=True)
_TOKEN = "(?i)(" + "|".join(t.replace("$", r"\$").replace(".", r"\.") for t in _BY_LENGTH) + ")"
_LOWER = {t.lower(): money for t, money in _CURRENCY_TOKENS.items()}
_SPACES = r"[\s'’\u00a0\u202f\u2009]"


def parse_numbers(column: pl.Series, decimal: Decimal, *, money: bool = False) -> pl.Series:
    """Float64, null for no finite number. `money` allows currency signs around it."""
    if decimal == ".":
        quick = column.cast(pl.Float64, strict=False)
    else:
        plain = column.str.contains(r"^[+-]?\d+(,\d+)?$")
        text = column.str.replace(",", ".", literal=True).set(~plain, None)
        quick = text.cast(pl.Float64, strict=False)
    quick = quick.set(~quick.is_finite(), None)
    slow = quick.is_null() & column.is_not_null()
    if not slow.any():
        return quick.alias(column.name)
    # signs of money, spaces, full-width digits or separators of thousands
    rows = slow.arg_true()
    text = undressed(column.gather(rows), money)
    group = "," if decimal == "." else "."
    point = "\\" + decimal
    valid = text.str.contains(
        rf"^[+-]?(\d{{1,3}}(\{group}\d{{3}})+|\d+)({point}\d*)?([eE][+-]?\d{{1,3}})?$|^[+-]?{point}\d+$"
    )
    text = text.str.replace_all(group, "", literal=True).str.replace(decimal, ".", literal=True)
    numbers = text.set(~valid, None).cast(pl.Float64, strict=False)
    return quick.scatter(rows, numbers.set(~numbers.is_finite(), None)).alias(column.name)


def undressed(column: pl.Series, money: bool) -> pl.Series:
    """Half-width, without spaces between digits and, for money, without the currency."""
    text = column.str.normalize("NFKC").str.strip_chars()
    if money:
        text = text.str.replace(_TOKEN, "")
        text = text.str.replace(r"^([+-]?)\s+", "$1").str.strip_chars()
    return text.str.replace_all(rf"(\d){_SPACES}(\d)", "$1$2").str.replace_all(rf"(\d){_SPACES}(\d)", "$1$2")


def currencies(column: pl.Series) -> Counter[str]:
    """Number of times that a column of prices names each currency."""
    dressed = column.filter(column.str.contains(r"[^0-9.,+\-\seE]").fill_null(False))
    if dressed.is_empty():
        return Counter()
    tokens = dressed.str.normalize("NFKC").str.extract(_TOKEN).drop_nulls()
    moneys = tokens.str.to_lowercase().replace_strict(_LOWER, return_dtype=pl.String)
    return Counter(dict(moneys.value_counts().iter_rows()))


def distinct_currencies(counts: Counter[str]) -> set[str]:
    """The different currencies: "$" and "USD" are one, "$" and "EUR" are two."""
    return {money for money in counts if not _SHARED.get(money, set()) & set(counts)}


@dataclass(slots=True)
class DecimalEvidence:
    counts: Counter[str] = field(default_factory=Counter)
    """Numbers that only fit "." and that only fit ","."""
    unclear: str = ""
    """An example of the numbers that fit both readings, such as 1.299."""

    def add(self, column: pl.Series) -> None:
        text = column.filter(column.str.contains(r"[.,．，]").fill_null(False))
        if text.is_empty():
            return
        text = undressed(text, money=True)
        for sign, mark, group in ((".", r"\.", ","), (",", ",", r"\.")):
            unclear = text.str.contains(rf"^[+-]?[1-9]\d{{0,2}}{mark}\d{{3}}$").fill_null(False)
            # the decimal sign occurs once and last, after groups of three digits
            clear = text.str.contains(rf"^[+-]?(\d{{1,3}}({group}\d{{3}})+|\d*){mark}\d*([eE][+-]?\d+)?$")
            grouped = text.str.contains(rf"^[+-]?\d{{1,3}}({group}\d{{3}}){{2,}}$")
            self.counts[sign] += int(((clear & ~unclear) | grouped).sum())
            if unclear.any():
                self.unclear = self.unclear or str(text.filter(unclear)[0])

    @property
    def settled(self) -> bool:
        return bool(self.counts["."]) != bool(self.counts[","])

    def decide(self, file: str) -> Decimal:
        """The separator; a few odd rows are left to the row stage.
        Raises `IngestError` E_NUMBER_FORMAT."""
        point, comma = self.counts["."], self.counts[","]
        if point or comma:
            if min(point, comma) > 0.05 * (point + comma):
                raise IngestError(
                    "E_NUMBER_FORMAT",
                    f"{file}: {point:,} numbers with a decimal point and {comma:,} with a decimal comma; "
                    "make them alike, or say --read decimal=",
                )
            return "." if point > comma else ","
        if self.unclear:
            raise IngestError(
                "E_NUMBER_FORMAT",
                f"{file}: {self.unclear} may be thousands or a fraction; say --read decimal=. or --read decimal=,",
            )
        return "."
