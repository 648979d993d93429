"""Times from text. The format is settled once per file, and holds for every row."""

from __future__ import annotations

import zoneinfo
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.arrays import Ints
from recllm.base.errors import IngestError
from recllm.base.policy import EARLIEST_YEAR, FUTURE_HOURS

TimeKind = Literal["iso", "dmy", "mdy", "named", "epoch", "excel", "pattern"]

_EPOCH = r"^(\d{10}(\.\d*)?|\d{13}(\.0*)?|\d{16}(\.0*)?)$"
_ISO = r"^\d{4,6}[-/.年]\d{1,2}[-/.月]\d{1,2}"
_DAY_FIRST_OR_NOT = r"^(\d{1,2})[-/.](\d{1,2})[-/.]\d{4}(\D|$)"
_CLOCK = r"(?:[T\s,]+(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?\s*([AaPp])?\.?(?:[Mm]\.?)?)?"
_ZONE = r"\s*(Z|z|UTC|GMT|[+-]\d{2}:?\d{2}|[+-]\d{2})?$"
_ISO_PARTS = r"^(\d{4,6})[-/.年](\d{1,2})[-/.月](\d{1,2})日?" + _CLOCK + _ZONE
_SLASH_PARTS = r"^(\d{1,2})[-/.](\d{1,2})[-/.](\d{4})" + _CLOCK + _ZONE
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_NAMED = rf"(?i)^(?:(\d{{1,2}})[-/. ]+)?({'|'.join(_MONTHS)})[a-z]*[-/., ]+(?:(\d{{1,2}})[-/., ]+)?(\d{{4}}|\d{{2}})"
"""May-01-24, 01-May-2024, May 1, 2024: the day is the first or the third group."""
_BARE_NUMBER = r"^\d+(\.\d+)?$"
"""In a file with dates: a day number of a spreadsheet, or another unit."""
_QUICK = "%Y-%m-%d %H:%M:%S%.f"
_SECOND = 1_000_000
_MINUTE = 60 * _SECOND
_EXCEL_DAY_0 = -25_569
"""Excel's day 0, 1899-12-30, in days from 1970-01-01."""
_FAR_YEARS = 100

OK, UNREADABLE, OUT_OF_RANGE, SKIPPED_HOUR, FUTURE = range(5)
ROW_ERRORS = {
    UNREADABLE: ("E_TIMESTAMP", "is not a time in the file's format"),
    OUT_OF_RANGE: (
        "E_TS_RANGE",
        "is before 1990 or absurdly far ahead (day numbers of a spreadsheet need --read ts_format=excel)",
    ),
    SKIPPED_HOUR: ("E_TS_GAP", "does not exist in the zone: the clock skips it"),
    FUTURE: ("E_FUTURE", "lies more than a day in the future"),
}
"""Code and message of each status that is not OK."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeFormat:
    """How a file writes times."""

    kind: TimeKind
    epoch_digits: int = 10
    """10 for seconds, 13 for milliseconds, 16 for microseconds."""
    pattern: str = ""
    tz: str | None = None
    """Zone of times without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedTimes:
    """Arrays with one entry per row."""

    at: Ints
    """Epoch microseconds; 0 where not OK."""
    offset: NDArray[np.int16]
    """Minutes east of UTC as written, `NO_OFFSET` for none."""
    status: NDArray[np.uint8]
    """`OK`, or why not."""
    n_ambiguous: int = 0
    """Local times that occur twice; the first was taken."""


NO_OFFSET = -9999


_RECENT_EPOCH = r"^1(\d{9}(\.\d*)?|\d{12}|\d{15})$"
"""From 2001 to 2033: other numbers of this length are rather phones or ids."""


def look_like_times(column: pl.Series) -> pl.Series:
    """Boolean (n,): whether each text has the form of a time; null for null."""
    return column.str.contains(_ISO_PARTS) | column.str.contains(_SLASH_PARTS) | column.str.contains(_RECENT_EPOCH)


@dataclass(slots=True)
class TimeEvidence:
    kinds: Counter[str] = field(default_factory=Counter)
    """"epoch", "iso", "named" (a month by its English name) and "slash"."""
    digits: Counter[int] = field(default_factory=Counter)
    day_first: int = 0
    month_first: int = 0

    def add(self, column: pl.Series) -> None:
        text = column.drop_nulls().str.strip_chars()
        epoch, iso = text.str.contains(_EPOCH), text.str.contains(_ISO)
        self.kinds["epoch"] += int(epoch.sum())
        self.kinds["iso"] += int(iso.sum())
        if epoch.any():
            digits = text.filter(epoch).str.extract(r"^(\d+)").str.len_chars()
            self.digits.update(dict(digits.value_counts().iter_rows()))
        named = text.str.contains(_NAMED)
        self.kinds["named"] += int(named.sum())
        slash = text.filter(~epoch & ~iso & ~named)
        if len(slash):
            parts = slash.str.extract_groups(_DAY_FIRST_OR_NOT)
            first, second = (parts.struct.field(n).cast(pl.Int32) for n in ("1", "2"))
            self.kinds["slash"] += int(first.is_not_null().sum())
            self.day_first += int(((first > 12) & (second <= 12)).sum())
            self.month_first += int(((second > 12) & (first <= 12)).sum())

    @property
    def settled(self) -> bool:
        """Whether later rows cannot change the decision (they may still contradict it)."""
        kind = self._commonest()
        return kind in {"iso", "epoch", "named"} or (kind == "slash" and bool(self.day_first or self.month_first))

    def decide(self, file: str, date_order: str | None, tz: str | None) -> TimeFormat:
        """Raises `IngestError` E_MIXED_EPOCH or E_AMBIGUOUS_DATE."""
        kind = self._commonest()
        if kind == "epoch":
            if len(self.digits) > 1:
                raise mixed_epoch(file, sorted(self.digits))
            return TimeFormat(kind="epoch", epoch_digits=next(iter(self.digits)), tz=tz)
        if kind != "slash":
            return TimeFormat(kind="named" if kind == "named" else "iso", tz=tz)
        if date_order is None and bool(self.day_first) == bool(self.month_first):
            raise ambiguous_date(file, contradictory=bool(self.day_first))
        day_first = date_order == "dmy" if date_order else bool(self.day_first)
        return TimeFormat(kind="dmy" if day_first else "mdy", tz=tz)

    def _commonest(self) -> str | None:
        return max(self.kinds, key=lambda kind: self.kinds[kind]) if self.kinds.total() else None


def mixed_epoch(file: str, digits: list[int]) -> IngestError:
    units = ", ".join(f"{d} digits ({ {10: 'seconds', 13: 'milliseconds', 16: 'microseconds'}[d] })" for d in digits)
    return IngestError("E_MIXED_EPOCH", f"{file}: epoch times of {units} in one file; bring them to one unit")


def ambiguous_date(file: str, *, contradictory: bool) -> IngestError:
    why = "some dates only read day first and some only month first" if contradictory else "no day is above 12"
    return IngestError(
        "E_AMBIGUOUS_DATE",
        f"{file}: dates like 03/04/2025 and {why}; say --read date_order=dmy or mdy, or write 2025-04-03",
    )


def declared_format(ts_format: str, tz: str | None) -> TimeFormat | None:
    """The caller's format; None for "epoch", whose unit only the file shows."""
    if ts_format == "epoch":
        return None
    if ts_format in {"iso", "excel"}:
        return TimeFormat(kind="iso" if ts_format == "iso" else "excel", tz=tz)
    if "%" not in ts_format:
        raise IngestError("E_TIMESTAMP", f"unknown time format {ts_format!r}; use iso, epoch, excel or e.g. %d.%m.%Y")
    return TimeFormat(kind="pattern", pattern=ts_format, tz=tz)


def check_zone(tz: str | None) -> None:
    """Raises `IngestError` E_NAIVE_TZ for a zone that does not exist."""
    try:
        zoneinfo.ZoneInfo(tz or "UTC")
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise IngestError("E_NAIVE_TZ", f"unknown time zone {tz!r}; use a name such as Europe/London or UTC") from None


def parse_times(column: pl.Series, form: TimeFormat, *, file: str, now: datetime) -> ParsedTimes:
    """Raises `IngestError` where a row contradicts what was settled for the file (E_MIXED_EPOCH, E_AMBIGUOUS_DATE)
    or has no zone and none was given (E_NAIVE_TZ)."""
    text = column.str.strip_chars()
    if form.kind == "epoch":
        times = epoch_times(text, form, file)
    elif form.kind == "pattern":
        times = pattern_times(text, form, file)
    elif form.kind == "excel":
        days = text.cast(pl.Float64, strict=False).fill_nan(None)
        days = days.set(~days.is_between(1, 200_000).fill_null(False), None)
        seconds = ((days + _EXCEL_DAY_0) * 86_400).round(0)
        clock = (seconds * _SECOND).cast(pl.Int64).cast(pl.Datetime("us"))
        times = to_utc(without_zone(clock), form, file)
    elif form.kind == "iso":
        # the commonest spelling at once, all others by their parts
        quick = text.str.to_datetime(_QUICK, time_unit="us", strict=False)
        written = without_zone(quick)
        rows = quick.is_null().arg_true()
        if len(rows):
            slow = _by_parts(text.gather(rows), form, file)
            written.at[rows], written.offset[rows], written.status[rows] = slow.at, slow.offset, slow.status
        times = to_utc(written, form, file)
    else:
        times = to_utc(_by_parts(text, form, file), form, file)

    first = int(datetime(EARLIEST_YEAR, 1, 1, tzinfo=UTC).timestamp()) * _SECOND
    last = int((now + timedelta(hours=FUTURE_HOURS)).timestamp() * _SECOND)
    absurd = last + _FAR_YEARS * 366 * 86_400 * _SECOND
    good, status = times.status == OK, times.status.copy()
    status[good & (times.at > last)] = FUTURE
    status[good & ((times.at < first) | (times.at > absurd))] = OUT_OF_RANGE
    return replace(times, status=status)


def epoch_times(text: pl.Series, form: TimeFormat, file: str) -> ParsedTimes:
    number = text.str.extract(r"^(\d+)(?:\.\d*)?$")
    digits = number.str.len_chars().fill_null(0).to_numpy()
    other_units = {10, 13, 16} - {form.epoch_digits}
    if np.isin(digits, list(other_units)).any():
        raise mixed_epoch(file, sorted({form.epoch_digits, *(int(d) for d in np.unique(digits) if d in other_units)}))
    unit = _SECOND // 10 ** (form.epoch_digits - 10)
    fits = digits == form.epoch_digits
    return ParsedTimes(
        at=np.where(fits, number.cast(pl.Int64, strict=False).fill_null(0).to_numpy() * unit, 0),
        offset=np.full(len(text), NO_OFFSET, np.int16),
        status=np.where(fits, OK, np.where(digits > 0, OUT_OF_RANGE, UNREADABLE)).astype(np.uint8),
    )


def without_zone(clock: pl.Series) -> ParsedTimes:
    """clock: naive times, null where unreadable."""
    return ParsedTimes(
        at=_microseconds(clock),
        offset=np.full(len(clock), NO_OFFSET, np.int16),
        status=np.where(clock.is_null(), UNREADABLE, OK).astype(np.uint8),
    )


def pattern_times(text: pl.Series, form: TimeFormat, file: str) -> ParsedTimes:
    pattern = form.pattern
    if "%H" not in pattern and "%I" not in pattern:
        text, pattern = text + " 00:00:00", pattern + " %H:%M:%S"
    try:
        times = text.str.strptime(pl.Datetime("us"), pattern, strict=False)
    except pl.exceptions.PolarsError as error:
        raise IngestError("E_TIMESTAMP", f"{file}: the time format {form.pattern!r} cannot be used: {error}") from error
    if times.dtype == pl.Datetime("us"):
        return to_utc(without_zone(times), form, file)
    return without_zone(times.dt.convert_time_zone("UTC").dt.replace_time_zone(None))


def _by_parts(text: pl.Series, form: TimeFormat, file: str) -> ParsedTimes:
    """Clock times as written, with the offset where one is written."""
    if form.kind == "named":
        text = with_numbered_months(text)
    parts = text.str.extract_groups(_SLASH_PARTS if form.kind in {"dmy", "mdy"} else _ISO_PARTS).struct.unnest()
    matched = parts["1"].is_not_null().to_numpy()
    a, b, c, hour, minute, second = (
        parts[n].cast(pl.Int64, strict=False).fill_null(0).to_numpy() for n in ("1", "2", "3", "4", "5", "6")
    )
    year, month, day = {"dmy": (c, b, a), "mdy": (c, a, b)}.get(form.kind, (a, b, c))
    if form.kind in {"dmy", "mdy"} and (matched & (month > 12) & (day <= 12)).any():
        raise ambiguous_date(file, contradictory=True)
    half = parts["8"].str.to_lowercase()
    afternoon, morning = ((half == mark).fill_null(False).to_numpy() for mark in ("p", "a"))
    hour = np.where(afternoon & (hour < 12), hour + 12, hour)
    hour = np.where(morning & (hour == 12), 0, hour)
    microsecond = parts["7"].str.pad_end(9, "0").str.slice(0, 6).cast(pl.Int64, strict=False).fill_null(0).to_numpy()

    sane = matched & (month >= 1) & (month <= 12) & (day >= 1) & (hour < 24) & (minute < 60) & (second < 60)
    months = np.where(sane, (year - 1970) * 12 + month - 1, 0)  # from 1970-01 on
    first, following = ((months + n).astype("datetime64[M]").astype("datetime64[D]").astype(np.int64) for n in (0, 1))
    days = first + np.where(sane, day, 1) - 1
    status = np.where(sane & (days < following), OK, UNREADABLE).astype(np.uint8)
    status[sane & (year > 9999)] = OUT_OF_RANGE
    status[text.str.contains(_BARE_NUMBER).fill_null(False).to_numpy()] = OUT_OF_RANGE
    seconds = ((days * 24 + hour) * 60 + minute) * 60 + second
    at = np.where(status == OK, seconds * _SECOND + microsecond, 0)

    zone = parts["9"].str.extract_groups(r"^([+-])(\d{2}):?(\d{2})?$").struct.unnest()
    hours, minutes = (zone[n].cast(pl.Int16).fill_null(0).to_numpy() for n in ("2", "3"))
    west = (zone["1"] == "-").fill_null(False).to_numpy()
    offset = np.where(west, -1, 1) * (hours * 60 + minutes)
    status[np.abs(offset) > 16 * 60] = UNREADABLE
    has_zone = parts["9"].is_not_null().to_numpy()  # "Z" and its kin are an offset of 0
    return ParsedTimes(at=at, offset=np.where(has_zone, offset, NO_OFFSET).astype(np.int16), status=status)


def with_numbered_months(text: pl.Series) -> pl.Series:
    """ISO dates for those with English months; years of two digits are of this century."""
    parts = text.str.extract_groups(_NAMED).struct.unnest()
    numbers = {name: f"{number:02}" for number, name in enumerate(_MONTHS, 1)}
    month = parts["2"].str.to_lowercase().replace_strict(numbers, default=None, return_dtype=pl.String)
    day = parts["1"].zip_with(parts["3"].is_null(), parts["3"].set(parts["1"].is_not_null(), None))
    year = ("20" + parts["4"]).str.slice(-4)
    return year + "-" + month + "-" + day + text.str.replace(_NAMED, "")


def to_utc(clock: ParsedTimes, form: TimeFormat, file: str) -> ParsedTimes:
    """From clock time to UTC, by the written offset or else by the file's zone."""
    at, offset, status = clock.at, clock.offset, clock.status
    has_zone = offset != NO_OFFSET
    at[has_zone] -= offset[has_zone].astype(np.int64) * _MINUTE
    naive = np.flatnonzero(~has_zone & (status == OK))
    if not len(naive):
        return clock
    if form.tz is None:
        raise IngestError(
            "E_NAIVE_TZ",
            f"{file}: times without a zone; say which one they are in, e.g. --read tz=Europe/London, or once "
            "for all files of the shop: recllm init --timezone, or timezone in workspace.toml",
        )
    local, n_ambiguous = pl.Series(at[naive]).cast(pl.Datetime("us")), 0
    early = local.dt.replace_time_zone(form.tz, non_existent="null", ambiguous="earliest")
    if form.tz != "UTC":
        late = local.dt.replace_time_zone(form.tz, non_existent="null", ambiguous="latest")
        n_ambiguous = int((early != late).sum())
    utc = _microseconds(early)
    offset[naive] = ((at[naive] - utc) // _MINUTE).astype(np.int16)
    at[naive] = utc
    status[naive[early.is_null().to_numpy()]] = SKIPPED_HOUR
    return ParsedTimes(at=at, offset=offset, status=status, n_ambiguous=n_ambiguous)


def _microseconds(times: pl.Series) -> Ints:
    return times.dt.epoch("us").fill_null(0).to_numpy().copy()
