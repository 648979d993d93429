"""What holds for a file as a whole: time format, decimal separator, currency, ids that all end in ".0".

Only as much of the file is read as the questions need; what later rows contradict is found again when they are parsed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import polars as pl

from recllm.errors import IngestError
from recllm.ingest.amounts import Decimal, DecimalEvidence, currencies, distinct_currencies
from recllm.ingest.chunk import Chunk, Reader
from recllm.ingest.ids import FLOAT_ID
from recllm.ingest.options import IngestOptions
from recllm.ingest.plan import TOTAL, Plan, fields_of
from recllm.ingest.times import TimeEvidence, TimeFormat, check_zone, declared_format
from recllm.schema import Table

ID_FIELDS = ("user_id", "item_id", "event_id", "basket_id", "request_id")
NUMBER_FIELDS = ("quantity", "price", "value", TOTAL)
MONEY_FIELDS = ("price", TOTAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The file's answers, with which every row is parsed."""

    decimal: Decimal
    times: TimeFormat | None
    """None where the table has no times."""
    float_ids: frozenset[str]
    currency: str | None
    """The money that prices are in: as said, the shop's own (events), or what the file names most."""


@dataclass(slots=True)
class _Survey:
    plan: Plan
    needs_times: bool
    needs_decimal: bool
    times: TimeEvidence = field(default_factory=TimeEvidence)
    numbers: DecimalEvidence = field(default_factory=DecimalEvidence)
    money: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    float_so_far: dict[str, bool] = field(default_factory=dict)
    rows: int = 0

    def add(self, fields: pl.DataFrame) -> None:
        self.rows += fields.height
        for column in ID_FIELDS:
            if column in fields.columns and self.float_so_far.get(column) is not False:
                self._add_ids(column, fields[column])
        if self.needs_times and "timestamp" in fields.columns:
            self.times.add(fields["timestamp"])
        for column in NUMBER_FIELDS:
            if column in fields.columns:
                if self.needs_decimal:
                    self.numbers.add(fields[column])
                if column in MONEY_FIELDS:
                    self.money += currencies(fields[column])
        if "currency" in fields.columns:
            upper = fields["currency"].drop_nulls().str.strip_chars().str.to_uppercase()
            self.codes.update(dict(upper.value_counts().iter_rows()))

    def _add_ids(self, column: str, ids: pl.Series) -> None:
        known = ids.drop_nulls().str.strip_chars()
        known = known.filter(known.str.contains(r"[^\s]"))
        if len(known):
            self.float_so_far[column] = bool(known.str.contains(FLOAT_ID).all())

    def settled(self) -> bool:
        return (
            self.rows > 0
            and not any(self.float_so_far.values())
            and (not self.needs_times or self.times.settled)
            and (not self.needs_decimal or self.numbers.settled)
        )


def survey(reader: Reader, plan: Plan, options: IngestOptions, name: str) -> Facts:
    """Settle the file's facts. `options` already carries what the map says. Raises `IngestError`."""
    check_zone(options.tz)
    declared = declared_format(options.ts_format, options.tz, options.date_order) if options.ts_format else None
    has_times = "timestamp" in plan.columns
    numbers = any(plan.has(f) for f in ("quantity", "price", "value"))
    found = _Survey(
        plan=plan,
        needs_times=has_times and declared is None,
        needs_decimal=numbers and options.decimal is None and reader.decimal is None,
    )
    for chunk in _nonempty(reader):
        found.add(fields_of(plan, chunk.frame))
        if found.settled():
            break
    times = declared or (found.times.decide(name, options.date_order, options.tz) if has_times else None)
    if options.ts_format == "epoch" and times and times.kind != "epoch":
        raise IngestError("E_TIMESTAMP", f"{name}: --ts-format epoch, but the times are not epoch numbers")
    fixed = options.decimal or reader.decimal
    return Facts(
        decimal=cast(Decimal, fixed) if fixed else found.numbers.decide(name, None),
        times=times,
        float_ids=frozenset(c for c, all_float in found.float_so_far.items() if all_float),
        currency=_currency(found, options, name),
    )


def _nonempty(reader: Reader) -> Iterator[Chunk]:
    return (chunk for chunk in reader.chunks() if chunk.frame.height)


def _currency(found: _Survey, options: IngestOptions, name: str) -> str | None:
    signs = distinct_currencies(found.money)
    if len(signs) > 1 and not found.codes:
        raise IngestError(
            "E_MIXED_CURRENCY",
            f"{name}: prices in {' and '.join(sorted(signs))} and no currency column; add one, or split the file",
        )
    if options.currency:
        return options.currency.upper()
    sign = next((s for s in signs if len(s) == 3), None)
    common = found.codes.most_common(1)[0][0] if found.codes else sign
    shop = options.shop_currency.upper() if options.shop_currency else None
    return (shop or common) if found.plan.table is Table.EVENTS else (common or shop)
