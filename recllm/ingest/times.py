"""Times from text. Which format a file uses is settled once; every row then has to keep to it."""

from __future__ import annotations

import zoneinfo
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.errors import IngestError

Kind = Literal["iso", "dmy", "mdy", "epoch", "excel", "pattern"]

_EPOCH = r"^(\d{10}(\.\d*)?|\d{13}(\.0*)?|\d{16}(\.0*)?)$"
_ISO = r"^\d{4,6}[-/.年]\d{1,2}[-/.月]\d{1,2}"
_DAY_FIRST_OR_NOT = r"^(\d{1,2})[-/.](\d{1,2})[-/.]\d{4}(\D|$)"
_CLOCK = r"(?:[T\s,]+(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?\s*([AaPp])?\.?(?:[Mm]\.?)?)?"
_ZONE = r"\s*(Z|z|UTC|GMT|[+-]\d{2}:?\d{2}|[+-]\d{2})?$"
_ISO_PARTS = r"^(\d{4,6})[-/.年](\d{1,2})[-/.月](\d{1,2})日?" + _CLOCK + _ZONE
_SLASH_PARTS = r"^(\d{1,2})[-/.](\d{1,2})[-/.](\d{4})" + _CLOCK + _ZONE
_BARE_NUMBER = r"^\d+(\.\d+)?$"
"""In a file with dates: a day number of a spreadsheet, or another unit."""
_QUICK = "%Y-%m-%d %H:%M:%S%.f"
_US = 1_000_000
_EXCEL_DAY_0 = -25_569
"""Excel's day 0, 1899-12-30, in days from 1970-01-01."""
_FAR_YEARS = 100

OK, UNREADABLE, OUT_OF_RANGE, SKIPPED_HOUR, FUTURE = range(5)
CODES = {UNREADABLE: "E_TIMESTAMP", OUT_OF_RANGE: "E_TS_RANGE", SKIPPED_HOUR: "E_TS_GAP", FUTURE: "E_FUTURE"}
MESSAGES = {
    UNREADABLE: "is not a time in the file's format",
    OUT_OF_RANGE: "is before 1990 or absurdly far ahead (day numbers of a spreadsheet need --ts-format excel)",
    SKIPPED_HOUR: "does not exist in the zone: the clock skips it",
    FUTURE: "lies more than a day in the future",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeFormat:
    """How a file writes times. `epoch_digits`: 10, 13 or 16. `tz`: the zone of times without one."""

    kind: Kind
    epoch_digits: int = 10
    pattern: str = ""
    tz: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """at: int64 (n,), epoch microseconds, 0 where not OK. offset: int16 (n,), minutes east of UTC as written; -9999
    for none. status: uint8 (n,), `OK` or why not. twice: local times that occur twice."""

    at: NDArray[np.int64]
    offset: NDArray[np.int16]
    status: NDArray[np.uint8]
    twice: int = 0


NO_OFFSET = -9999


@dataclass(slots=True)
class TimeEvidence:
    """What a file's times look like."""

    kinds: Counter[str] = field(default_factory=Counter)
    digits: Counter[int] = field(default_factory=Counter)
    day_first: int = 0
    month_first: int = 0

    def add(self, column: pl.Series) -> None:
        text = column.drop_nulls().str.strip_chars()
        epoch = text.str.contains(_EPOCH)
        iso = text.str.contains(_ISO)
        self.kinds["epoch"] += int(epoch.sum())
        self.kinds["iso"] += int(iso.sum())
        if epoch.any():
            whole = text.filter(epoch).str.extract(r"^(\d+)").str.len_chars()
            self.digits.update(dict(whole.value_counts().iter_rows()))
        rest = text.filter(~epoch & ~iso)
        if rest.is_empty():
            return
        parts = rest.str.extract_groups(_DAY_FIRST_OR_NOT)
        first, second = (parts.struct.field(n).cast(pl.Int32) for n in ("1", "2"))
        self.kinds["slash"] += int(first.is_not_null().sum())
        self.day_first += int(((first > 12) & (second <= 12)).sum())
        self.month_first += int(((second > 12) & (first <= 12)).sum())

    @property
    def settled(self) -> bool:
        """Nothing that later rows say can change the decision (they may still contradict it)."""
        kind = self._commonest()
        return kind in {"iso", "epoch"} or (kind == "slash" and bool(self.day_first or self.month_first))

    def decide(self, name: str, date_order: str | None, tz: str | None) -> TimeFormat:
        """Raises `IngestError` E_MIXED_EPOCH or E_AMBIGUOUS_DATE."""
        kind = self._commonest()
        if kind == "epoch":
            return TimeFormat(kind="epoch", epoch_digits=self._epoch_digits(name), tz=tz)
        if kind == "slash":
            return TimeFormat(kind=self._order(name, date_order), tz=tz)
        return TimeFormat(kind="iso", tz=tz)

    def _commonest(self) -> str | None:
        return max(self.kinds, key=lambda k: self.kinds[k]) if sum(self.kinds.values()) else None

    def _epoch_digits(self, name: str) -> int:
        if len(self.digits) > 1:
            raise mixed_epoch(name, sorted(self.digits))
        return next(iter(self.digits))

    def _order(self, name: str, date_order: str | None) -> Literal["dmy", "mdy"]:
        if date_order in {"dmy", "mdy"}:
            return "dmy" if date_order == "dmy" else "mdy"
        if bool(self.day_first) == bool(self.month_first):
            raise ambiguous_date(name, bool(self.day_first))
        return "dmy" if self.day_first else "mdy"


def mixed_epoch(name: str, digits: list[int]) -> IngestError:
    units = ", ".join(f"{d} digits ({ {10: 'seconds', 13: 'milliseconds', 16: 'microseconds'}[d] })" for d in digits)
    return IngestError("E_MIXED_EPOCH", f"{name}: epoch times of {units} in one file; bring them to one unit")


def ambiguous_date(name: str, contradictory: bool) -> IngestError:
    why = "some dates only read day first and some only month first" if contradictory else "no day is above 12"
    return IngestError(
        "E_AMBIGUOUS_DATE", f"{name}: dates like 03/04/2025 and {why}; say --date-order dmy or mdy, or write 2025-04-03"
    )


def declared_format(ts_format: str, tz: str | None, date_order: str | None) -> TimeFormat | None:
    """The format that the caller names; None when it only can be settled by the file (epoch's unit, slash order)."""
    if ts_format == "iso":
        return TimeFormat(kind="iso", tz=tz)
    if ts_format == "excel":
        return TimeFormat(kind="excel", tz=tz)
    if ts_format == "epoch":
        return None
    if "%" not in ts_format:
        raise IngestError("E_TIMESTAMP", f"unknown time format {ts_format!r}; use iso, epoch, excel or e.g. %d.%m.%Y")
    return TimeFormat(kind="pattern", pattern=ts_format, tz=tz)


def check_zone(tz: str | None) -> str | None:
    """The zone's name, when there is such a zone. Raises `IngestError` E_NAIVE_TZ."""
    if tz is None:
        return None
    try:
        zoneinfo.ZoneInfo(tz)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise IngestError("E_NAIVE_TZ", f"unknown time zone {tz!r}; use a name such as Europe/London or UTC") from None
    return tz


def parse_times(
    column: pl.Series, how: TimeFormat, *, name: str, now: datetime, future_hours: int = 24, earliest_year: int = 1990
) -> Times:
    """Raises `IngestError` where a row contradicts what was settled for the file (E_MIXED_EPOCH, E_AMBIGUOUS_DATE)
    or has no zone and none was given (E_NAIVE_TZ)."""
    text = column.str.strip_chars()
    if how.kind == "epoch":
        found = _epoch(text, how, name)
    elif how.kind == "excel":
        found = _localised(_excel(text), how, name)
    elif how.kind == "pattern":
        found = _pattern(text, how, name)
    else:
        found = _calendar(text, how, name)
    return _ranged(found, now, future_hours, earliest_year)


def _ranged(found: Times, now: datetime, future_hours: int, earliest_year: int) -> Times:
    first = int(datetime(earliest_year, 1, 1, tzinfo=UTC).timestamp()) * _US
    limit = int((now + timedelta(hours=future_hours)).timestamp() * _US)
    far = limit + _FAR_YEARS * 366 * 86_400 * _US
    good = found.status == OK
    status = found.status.copy()
    status[good & (found.at > limit)] = FUTURE
    status[good & ((found.at < first) | (found.at > far))] = OUT_OF_RANGE
    return Times(at=found.at, offset=found.offset, status=status, twice=found.twice)


def _epoch(text: pl.Series, how: TimeFormat, name: str) -> Times:
    whole = text.str.extract(r"^(\d+)(?:\.\d*)?$")
    digits = whole.str.len_chars().fill_null(0).to_numpy()
    other = {10, 13, 16} - {how.epoch_digits}
    if np.isin(digits, list(other)).any():
        raise mixed_epoch(name, sorted({how.epoch_digits, *(int(d) for d in np.unique(digits) if d in other)}))
    unit = _US // 10 ** (how.epoch_digits - 10)
    number = whole.cast(pl.Int64, strict=False)
    fits = digits == how.epoch_digits
    at = np.where(fits, number.fill_null(0).to_numpy() * unit, 0)
    status = np.where(fits, OK, np.where(digits > 0, OUT_OF_RANGE, UNREADABLE)).astype(np.uint8)
    return Times(at=at, offset=np.full(len(text), NO_OFFSET, np.int16), status=status)


def _excel(text: pl.Series) -> _Local:
    days = text.cast(pl.Float64, strict=False).fill_nan(None)
    days = days.set(~days.is_between(1, 200_000).fill_null(False), None)
    at = ((days + _EXCEL_DAY_0) * 86_400).round(0) * _US
    return _Local(
        at=at.fill_null(0).cast(pl.Int64).to_numpy(),
        status=np.where(days.is_null(), UNREADABLE, OK).astype(np.uint8),
        zone=pl.repeat(None, len(text), dtype=pl.String, eager=True),
    )


def _pattern(text: pl.Series, how: TimeFormat, name: str) -> Times:
    pattern = how.pattern
    if "%H" not in pattern and "%I" not in pattern:
        text, pattern = text + " 00:00:00", pattern + " %H:%M:%S"
    try:
        parsed = text.str.strptime(pl.Datetime("us"), pattern, strict=False)
    except pl.exceptions.PolarsError as error:
        raise IngestError("E_TIMESTAMP", f"{name}: the time format {how.pattern!r} cannot be used: {error}") from error
    if parsed.dtype == pl.Datetime("us"):
        status = np.where(parsed.is_null(), UNREADABLE, OK).astype(np.uint8)
        zone = pl.repeat(None, len(text), dtype=pl.String, eager=True)
        return _localised(_Local(at=_micros(parsed), status=status, zone=zone), how, name)
    at = _micros(parsed.dt.convert_time_zone("UTC").dt.replace_time_zone(None))
    status = np.where(parsed.is_null(), UNREADABLE, OK).astype(np.uint8)
    return Times(at=at, offset=np.full(len(text), NO_OFFSET, np.int16), status=status)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Local:
    """Clock times as written, int64 microseconds, with the zone's text where there is one."""

    at: NDArray[np.int64]
    status: NDArray[np.uint8]
    zone: pl.Series


def _calendar(text: pl.Series, how: TimeFormat, name: str) -> Times:
    """The commonest spelling at once, all others by their parts."""
    if how.kind != "iso":
        return _localised(_by_parts(text, how, name), how, name)
    quick = text.str.to_datetime(_QUICK, time_unit="us", strict=False)
    at = _micros(quick)
    status = np.full(len(text), OK, np.uint8)
    zone = pl.repeat(None, len(text), dtype=pl.String, eager=True)
    rows = quick.is_null().arg_true()
    if len(rows):
        slow = _by_parts(text.gather(rows), how, name)
        at[rows], status[rows] = slow.at, slow.status
        zone = zone.scatter(rows, slow.zone)
    return _localised(_Local(at=at, status=status, zone=zone), how, name)


def _by_parts(text: pl.Series, how: TimeFormat, name: str) -> _Local:
    parts = text.str.extract_groups(_ISO_PARTS if how.kind == "iso" else _SLASH_PARTS).struct.unnest()
    numbers = [parts[n].cast(pl.Int64, strict=False).fill_null(0).to_numpy() for n in ("1", "2", "3", "4", "5", "6")]
    a, b, c, hour, minute, second = numbers
    year, month, day = {"iso": (a, b, c), "dmy": (c, b, a), "mdy": (c, a, b)}[how.kind]
    found = parts["1"].is_not_null().to_numpy()
    if how.kind != "iso" and (found & (month > 12) & (day <= 12)).any():
        raise ambiguous_date(name, True)
    half = parts["8"].str.to_lowercase()
    afternoon, morning = ((half == mark).fill_null(False).to_numpy() for mark in ("p", "a"))
    hour = np.where(afternoon & (hour < 12), hour + 12, hour)
    hour = np.where(morning & (hour == 12), 0, hour)
    micro = parts["7"].str.pad_end(9, "0").str.slice(0, 6).cast(pl.Int64, strict=False).fill_null(0).to_numpy()
    sane = found & (month >= 1) & (month <= 12) & (day >= 1) & (hour < 24) & (minute < 60) & (second < 60)
    days, exists = _days(np.where(sane, year, 1970), np.where(sane, month, 1), np.where(sane, day, 1))
    status = np.where(sane & exists, OK, UNREADABLE).astype(np.uint8)
    status[sane & (year > 9999)] = OUT_OF_RANGE
    status[text.str.contains(_BARE_NUMBER).fill_null(False).to_numpy()] = OUT_OF_RANGE
    seconds = ((days * 24 + hour) * 60 + minute) * 60 + second
    return _Local(at=np.where(status == OK, seconds * _US + micro, 0), status=status, zone=parts["9"])


def _days(
    year: NDArray[np.int64], month: NDArray[np.int64], day: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(days from 1970-01-01, whether the date exists)."""
    months = (year - 1970) * 12 + month - 1
    start = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    following = (months + 1).astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    return start + day - 1, start + day - 1 < following


def _localised(local: _Local, how: TimeFormat, name: str) -> Times:
    """From clock time to UTC, by the written offset or else by the file's zone."""
    offset = np.full(len(local.at), NO_OFFSET, np.int16)
    has_zone = local.zone.is_not_null().to_numpy()
    if has_zone.any():
        offset[has_zone] = _offset_minutes(local.zone.filter(pl.Series(has_zone)))
    naive = ~has_zone & (local.status == OK)
    at, status, twice = local.at.copy(), local.status.copy(), 0
    status[has_zone & (np.abs(offset) > 16 * 60)] = UNREADABLE
    at[has_zone] -= offset[has_zone].astype(np.int64) * 60 * _US
    if not naive.any():
        return Times(at=at, offset=offset, status=status)
    if how.tz is None:
        raise IngestError(
            "E_NAIVE_TZ",
            f"{name}: times without a zone; say which one they are in, e.g. --tz Europe/London or --tz UTC",
        )
    utc, gone, twice = _to_utc(at[naive], how.tz)
    rows = np.flatnonzero(naive)
    offset[rows] = ((at[rows] - utc) // (60 * _US)).astype(np.int16)
    at[rows] = utc
    status[rows[gone]] = SKIPPED_HOUR
    return Times(at=at, offset=offset, status=status, twice=twice)


def _to_utc(at: NDArray[np.int64], tz: str) -> tuple[NDArray[np.int64], NDArray[np.bool_], int]:
    """(UTC, where the clock time does not exist, how many exist twice; of two the earlier is meant)."""
    if tz == "UTC":
        return at, np.zeros(len(at), bool), 0
    clock = pl.Series(at).cast(pl.Datetime("us"))
    early, late = (
        clock.dt.replace_time_zone(tz, non_existent="null", ambiguous=which) for which in ("earliest", "latest")
    )
    gone = early.is_null().to_numpy()
    utc = early.dt.epoch("us").fill_null(0).to_numpy()
    return utc, gone, int((early != late).sum())


def _offset_minutes(zone: pl.Series) -> NDArray[np.int16]:
    parts = zone.str.extract_groups(r"^([+-])(\d{2}):?(\d{2})?$").struct.unnest()
    hours, minutes = (parts[n].cast(pl.Int16).fill_null(0).to_numpy() for n in ("2", "3"))
    sign = np.where((parts["1"] == "-").fill_null(False), -1, 1)
    found: NDArray[np.int16] = (sign * (hours * 60 + minutes)).astype(np.int16)
    return found


def _micros(column: pl.Series) -> NDArray[np.int64]:
    return column.dt.epoch("us").fill_null(0).to_numpy().copy()
