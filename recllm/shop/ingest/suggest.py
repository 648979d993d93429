"""A map for a file of no known kind: which table it is, and which column fills which field, by names and by values.

Names come first: those that a field is known under, then very similar ones, where the values do not speak against it.
What is still open is told by values, each by a rule that can be said in a sentence. Where two columns could fill a
field none does, and columns that name specially protected data of people are never taken. Nothing is drawn by lot and
nothing is learned: equal files give equal maps.
"""

from __future__ import annotations

import difflib
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import polars as pl
import tomli_w

from recllm.base.errors import IngestError, NothingToDo
from recllm.base.policy import Policy
from recllm.base.schema import Purpose, Table
from recllm.shop.ingest.column_names import BASICS, FIELDS, REQUIRED, candidates, is_special, named_so, normal
from recllm.shop.ingest.file_schema import settle_schema
from recllm.shop.ingest.load import open_records, prepared
from recllm.shop.ingest.options import ColumnMap, IngestOptions, ReadOptions
from recllm.shop.ingest.parse.batch import FieldBatch, LoadState, PseudonymCache
from recllm.shop.ingest.parse.numbers import parse_numbers
from recllm.shop.ingest.parse.times import look_like_times
from recllm.shop.ingest.read.source import probe
from recllm.shop.ingest.tables import BUILDERS, EVENT_NAMES, NO, YES
from recllm.shop.workspace.privacy import Pseudonymiser

SAMPLE_ROWS = 5_000
"""So many rows from the top are looked at."""
SHOWN_ROWS = 10
_SURE = 0.95
"""Share of values from which on a rule holds."""
_SIMILAR = 0.85
"""Similarity, as difflib measures it, from which on a name is taken for another."""
_GROUPS = 5
"""Orders of several rows that it takes to see what the rows of an order share."""
_NOT_MAPPED = frozenset({"attributes", "request_id", "position", "model_version", "event_id", "order"})
"""Fields that no value tells."""
_MAIL = r"^[^@\s]+@[^@\s]+\.[^@\s]+$"
_MONEY = r"[.,](\d\d|[1-9])\D*$|^\s*[$€£¥￥]|[$€£¥￥元]\s*$"
_WORDS = r"\S\s+\S|\p{Han}{4}"
_NUMBER_WORDS = {"timestamp": "times", "price": "amounts of money", "quantity": "numbers", "value": "numbers"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnLook:
    """What the values of one column are like: shares of its cells that hold anything, each in [0, 1]."""

    filled: float
    """Share of the rows in which it holds anything."""
    distinct: int
    times: float
    numbers: float
    money: float
    """Numbers with a fraction of one or two digits, or with a sign of a currency."""
    counts: float
    """Whole numbers below 1,000."""
    ones: float
    mails: float
    ids: float
    """Words without a space, of 64 characters at most, and no time, amount of money or fraction."""
    words: float
    """Texts of several words."""
    actions: float
    purposes: float
    answers: float
    """Yes or no, in one of its spellings."""
    length: float
    """Characters, at the median."""

    def words_for_people(self) -> str:
        """The kinds of values, the commonest first, for a message."""
        kinds = {
            "times": self.times,
            "mail addresses": self.mails,
            "amounts of money": self.money,
            "numbers": self.numbers,
            "yes or no": self.answers,
            "texts of several words": self.words,
            "words or ids": self.ids,
        }
        parts = [f"{share:.0%} {name}" for name, share in kinds.items() if share >= 0.05][:2]
        return f"{', '.join(parts) or 'nothing that is known'}; {self.distinct:,} different"


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """A map, and why."""

    table: Table
    columns: Mapping[str, str]
    """Field -> column of the file."""
    reasons: Mapping[str, str]
    """Field -> why, as the end of a sentence."""
    notes: tuple[str, ...] = ()
    """What whoever uses the map has to look at."""
    basics: Mapping[str, str] = field(default_factory=dict)
    read: ReadOptions = field(default_factory=ReadOptions)
    translations: tuple[str, ...] = ()
    """Values of the column of events that name no known one."""

    def column_map(self) -> ColumnMap:
        return ColumnMap(
            table=self.table,
            read=self.read,
            columns={name: (column,) for name, column in self.columns.items()},
            basics={name: (column,) for name, column in self.basics.items()},
        )

    def toml(self) -> str:
        """The map as a file, with the reasons as comments."""
        lines = [f"# {note}" for note in self.notes]
        lines += ["", f'table = "{self.table}"']
        parts: dict[str, Mapping[str, Any]] = {
            "read": self.read.model_dump(exclude_none=True),
            "columns": self.columns,
            "basics": self.basics,
        }
        for part, entries in parts.items():
            lines += ["", f"[{part}]"] if entries else []
            for name, text in entries.items():
                why = f"  # because {self.reasons[name]}" if name in self.reasons else ""
                lines.append(tomli_w.dumps({name: text}).strip() + why)
        if self.translations:
            lines += ["", "# say what these mean, and take the # away:", "# [values.event]"]
            lines += [f"# {tomli_w.dumps({text: 'purchase'}).strip()}" for text in self.translations]
        return "\n".join(lines).lstrip("\n") + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedRows:
    """The first rows as the store would take them."""

    rows: tuple[Mapping[str, Any], ...]
    """With the ids of people as the file has them, where the store has pseudonyms."""
    problems: tuple[str, ...]
    """Of the first rows that would be refused, or of the whole file."""


def suggest_map(
    path: Path, policy: Policy, options: IngestOptions | None = None, *, table: Table | None = None
) -> Suggestion:
    """A map for the file, of the table that it seems to be, or of the one that is said.

    Raises `NothingToDo` where nothing can be said of it, with what its columns hold; `IngestError` for a file that
    cannot be read at all.
    """
    options = options or IngestOptions()
    frame = _sample(path, policy, options)
    if not frame.height:
        raise NothingToDo(f"{path.name} has a header and no rows")
    looks = {column: _look(frame[column], options.event_names) for column in frame.columns}
    usable = {column: look for column, look in looks.items() if look.filled and not is_special(column)}
    finder = _ColumnFinder(frame, usable)
    tables = [table] if table is not None else [Table.CONSENT, Table.EVENTS, Table.ITEMS, Table.USERS]
    doubts: list[str] = []
    for attempt in tables:
        fills = finder.fills(attempt)
        if all(name in fills for name in REQUIRED[attempt]):
            return _suggestion(attempt, fills, finder, looks, options)
        doubts += (doubt for doubt in finder.doubts if doubt not in doubts)
    lines = "".join(f"\n  {column}: {look.words_for_people()}" for column, look in looks.items())
    unclear = "table it is" if table is None else f"columns {table} takes from it"
    raise NothingToDo(
        f"{path.name}: nothing tells which {unclear}; write a map by hand (see ingest/maps/). What its columns "
        f"hold:{lines}" + "".join(f"\n{doubt}" for doubt in doubts)
    )


def mapped_rows(path: Path, policy: Policy, options: IngestOptions, suggestion: Suggestion) -> MappedRows:
    """The first rows, built as a load builds them."""
    column_map = suggestion.column_map()
    problems: list[str] = []
    options = options.model_copy(update={"tz": options.tz or options.shop_tz})
    for tz in (options.tz, "UTC"):
        try:
            rows, refused = _built(path, policy, options.model_copy(update={"tz": tz}), column_map)
            return MappedRows(rows=rows, problems=(*problems, *refused))
        except IngestError as error:
            problems.append(f"{error}")
            if error.code != "E_NAIVE_TZ":
                break
            problems.append("until then the times are shown as if they were in UTC")
    return MappedRows(rows=(), problems=tuple(problems))


def _built(
    path: Path, policy: Policy, options: IngestOptions, column_map: ColumnMap
) -> tuple[tuple[Mapping[str, Any], ...], list[str]]:
    table = column_map.table or Table.EVENTS
    reader = prepared(open_records(probe(path, policy), options, column_map), column_map, path.name)
    state = LoadState(
        file=path.name,
        schema=settle_schema(reader, table, options, column_map, path.name),
        options=options,
        policy=policy,
        pseudonyms=PseudonymCache(Pseudonymiser(secrets.token_bytes(32))),
        now=options.now or datetime.now(UTC),
    )
    chunk = next((chunk for chunk in reader.chunks() if chunk.frame.height), None)
    if chunk is None:
        return (), []
    head = slice(0, SHOWN_ROWS)
    chunk = replace(
        chunk, frame=chunk.frame[head], line_no=chunk.line_no[head], byte_offset=chunk.byte_offset[head], bad=()
    )
    batch = FieldBatch(chunk, state)
    frame = BUILDERS[table](batch)
    if "user_id" in frame.columns:
        frame = frame.with_columns(batch.ids("user_id").alias("user_id"))
    if "at" in frame.columns:
        moment = pl.from_epoch("at", time_unit="us").dt.strftime("%Y-%m-%dT%H:%M:%SZ")
        frame = frame.with_columns(moment.alias("at")).rename({"at": "timestamp"})
    rows = frame.filter(batch.good()).drop("tz_offset_minutes", strict=False)
    refused = [f"line {bad.line_no} would be refused: {bad.column}: {bad.message}" for bad in batch.errors]
    return tuple(rows.iter_rows(named=True)), refused


def _sample(path: Path, policy: Policy, options: IngestOptions) -> pl.DataFrame:
    reader = open_records(probe(path, policy), options, ColumnMap())
    frames, rows = [pl.DataFrame(schema=dict.fromkeys(reader.columns, pl.String))], 0
    for chunk in reader.chunks():
        frames.append(chunk.frame.head(SAMPLE_ROWS - rows))
        rows += frames[-1].height
        if rows >= SAMPLE_ROWS:
            break
    frame = pl.concat(frames).with_columns(pl.all().str.strip_chars())
    return frame.with_columns(pl.when(pl.all() != "").then(pl.all()))


def _share(mask: pl.Series) -> float:
    """Of the rows, those where the mask holds; 0 where there are none."""
    return int(mask.fill_null(False).sum()) / max(len(mask), 1)


def _look(column: pl.Series, event_names: Iterable[str]) -> ColumnLook:
    cells = column.drop_nulls()

    def words(names: Sequence[str]) -> float:
        return _share(key.is_in(list(names)))

    key = cells.str.to_lowercase().str.replace_all(r"[\s\-]+", "_")
    numbers = [parse_numbers(cells, decimal, money=True) for decimal in (".", ",")]
    number = numbers[int(_share(numbers[1].is_not_null()) > _share(numbers[0].is_not_null()))]
    is_count = cells.str.contains(r"^[+-]?\d{1,3}(\.0+)?$")
    times, money = look_like_times(cells), number.is_not_null() & cells.str.contains(_MONEY)
    is_fraction = cells.str.contains(r"^[+-]?\d*[.,]\d+$")
    is_id = cells.str.contains(r"^\S{1,64}$") & ~times & ~money & ~is_fraction
    return ColumnLook(
        filled=len(cells) / max(len(column), 1),
        distinct=cells.n_unique(),
        times=_share(times),
        numbers=_share(number.is_not_null()),
        money=_share(money & ~times),
        counts=_share(is_count),
        ones=_share(number == 1),
        mails=_share(cells.str.contains(_MAIL)),
        ids=_share(is_id),
        words=_share(cells.str.contains(_WORDS) & ~times & number.is_null()),
        actions=words([*event_names, *(name for names in EVENT_NAMES.values() for name in names)]),
        purposes=words([purpose.value for purpose in Purpose]),
        answers=words(
            [text.replace(" ", "_") for text in (*YES, *NO, "granted", "denied", "subscribed", "unsubscribed")]
        ),
        length=float(median(cells.str.len_chars().to_list() or [0])),
    )


_Fit = Callable[[ColumnLook], bool]
_FITS: Mapping[str, _Fit] = {
    "timestamp": lambda look: look.times >= _SURE,
    "price": lambda look: look.numbers >= _SURE,
    "quantity": lambda look: look.numbers >= _SURE,
    "value": lambda look: look.numbers >= _SURE,
    "currency": lambda look: look.ids >= _SURE and look.length == 3,
    "granted": lambda look: look.answers >= _SURE,
    "purpose": lambda look: look.purposes >= _SURE,
    "available": lambda look: look.answers >= _SURE,
    "user_id": lambda look: look.times < 0.5,
    "item_id": lambda look: look.times < 0.5,
}
"""What the values of a column must be like before its name is believed."""


def _anything(_: ColumnLook) -> bool:
    return True


class _ColumnFinder:
    """Fields to columns, of one file."""

    def __init__(self, frame: pl.DataFrame, looks: Mapping[str, ColumnLook]) -> None:
        self.frame, self.looks = frame, looks
        self.reasons: dict[str, str] = {}
        self.doubts: list[str] = []

    def fills(self, table: Table) -> dict[str, str]:
        """Field -> column. The reasons and doubts are of the last table that was asked for."""
        self.reasons, self.doubts = {}, []
        fills: dict[str, str] = {}
        self._by_names(table, fills)
        {
            Table.EVENTS: self._log_by_values,
            Table.ITEMS: self._items_by_values,
            Table.USERS: self._people_by_values,
            Table.CONSENT: self._consent_by_values,
        }[table](fills)
        return {name: fills[name] for name in FIELDS[table] if name in fills}

    def _take(self, fills: dict[str, str], name: str, column: str, reason: str) -> None:
        fills[name], self.reasons[name] = column, reason

    def _open(self, fills: Mapping[str, str], fits: _Fit) -> list[str]:
        """Columns that fill nothing yet and have such values, in the order of the file."""
        return [column for column, look in self.looks.items() if column not in fills.values() and fits(look)]

    def _by_names(self, table: Table, fills: dict[str, str]) -> None:
        names = {normal(column): column for column in self.looks}
        for name in (f for f in FIELDS[table] if f not in _NOT_MAPPED):
            fits = _FITS.get(name, _anything)
            aliases = named_so(name, names)
            aliases.sort(key=lambda column: normal(column) != normal(name))
            columns = [c for c in aliases if c not in fills.values()]
            if columns and not fits(self.looks[columns[0]]):
                kind = _NUMBER_WORDS.get(name, "such values")
                self.doubts.append(f"{columns[0]} is called like {name}, but does not hold {kind}")
            columns = [column for column in columns if fits(self.looks[column])]
            if columns:
                addition = f" ({', '.join(columns[1:])} could be it too)" if columns[1:] else ""
                self._take(fills, name, columns[0], f"it is called so{addition}")
        for name in (f for f in FIELDS[table] if f not in _NOT_MAPPED and f not in fills):
            fits, free = _FITS.get(name, _anything), {n: c for n, c in names.items() if c not in fills.values()}
            matches = {
                free[key]: alias
                for alias in sorted(candidates(name))
                for key in difflib.get_close_matches(alias, [*free], n=1, cutoff=_SIMILAR)
                if len(alias) > 3 and fits(self.looks[free[key]])
            }
            if len(matches) == 1:
                column, alias = next(iter(matches.items()))
                self._take(fills, name, column, f"its name is nearly {alias}")

    def _log_by_values(self, fills: dict[str, str]) -> None:
        self._times(fills)
        if "timestamp" not in fills:
            return
        if "event" not in fills and (
            columns := self._open(fills, lambda look: look.actions >= 0.5 and look.distinct <= 12)
        ):
            self._take(fills, "event", columns[0], "most of its values name what was done")
        self._mails(fills)
        self._quantity_and_price(fills)
        self._people_orders_and_products(fills)

    def _times(self, fills: dict[str, str]) -> None:
        columns = self._open(fills, _FITS["timestamp"])
        if "timestamp" not in fills and columns:
            addition = f", and it is the first such column ({', '.join(columns[1:])} too)" if columns[1:] else ""
            self._take(fills, "timestamp", columns[0], f"its values are times{addition}")

    def _mails(self, fills: dict[str, str]) -> None:
        columns = self._open(fills, lambda look: look.mails >= _SURE)
        if "user_id" not in fills and columns:
            self._take(fills, "user_id", columns[0], "its values are mail addresses")

    def _quantity_and_price(self, fills: dict[str, str]) -> None:
        if "quantity" not in fills:
            columns = self._open(fills, lambda look: look.counts >= _SURE and look.ones >= 0.3 and look.distinct > 1)
            if len(columns) == 1:
                self._take(fills, "quantity", columns[0], "its values are small whole numbers, very often 1")
        if "price" in fills:
            return
        columns = self._open(fills, lambda look: look.numbers >= _SURE and look.money >= 0.5)
        unit = [c for c in columns if any(self._is_total(total, c, fills.get("quantity")) for total in columns)]
        if len(unit) == 1:
            self._take(fills, "price", unit[0], "another amount is this one times the quantity")
        elif len(columns) == 1:
            self._take(fills, "price", columns[0], "its values are amounts of money")
        elif columns:
            self.doubts.append(f"which of {', '.join(columns)} is the price of one piece cannot be told")

    def _is_total(self, total: str, price: str, quantity: str | None) -> bool:
        """Whether one amount is the other times the quantity, and not always the same."""
        if quantity is None or total == price:
            return False
        line_total, unit, pieces = (
            parse_numbers(self.frame[c].fill_null(""), ".", money=True) for c in (total, price, quantity)
        )
        several = pieces.abs() > 1
        equal = (line_total.abs() - unit.abs() * pieces.abs()).abs() < 0.011
        return bool(several.sum()) and _share(equal) >= _SURE

    def _people_orders_and_products(self, fills: dict[str, str]) -> None:
        """Who, what and which order, by what the rows share: one order has one time and one person."""
        ids = self._open(fills, lambda look: look.ids >= _SURE and look.distinct > 2)
        if "basket_id" not in fills:
            orders = [c for c in ids if self._decides(c, fills["timestamp"])]
            by_count = sorted(orders, key=lambda c: -self.looks[c].distinct)
            owner = fills.get("user_id")
            people = [owner] if owner else [c for c in ids if c not in by_count[:1]]
            if by_count and any(self._decides(by_count[0], c) and not self._decides(c, by_count[0]) for c in people):
                self._take(fills, "basket_id", by_count[0], "rows with the same value have one time and one person")
                ids.remove(by_count[0])
        order = fills.get("basket_id", fills["timestamp"])
        if "user_id" not in fills:
            people = [c for c in ids if self._decides(order, c)]
            if len(people) == 1 and len(ids) > 1:
                of_one = "order" if "basket_id" in fills else "time"
                self._take(fills, "user_id", people[0], f"rows of one {of_one} always have one value of it")
                ids.remove(people[0])
        texts = self._open(fills, lambda look: look.words >= 0.3 and look.distinct > 2 and look.mails < 0.5)
        if "item_id" not in fills:
            known_by = [*texts, *([fills["price"]] if "price" in fills else [])]
            told_by = {c: next((t for t in known_by if self._decides(c, t)), None) for c in ids}
            items = [c for c in ids if told_by[c] is not None]
            if len(items) == 1 and ("user_id" in fills or len(ids) == 2):
                self._take(fills, "item_id", items[0], f"each of its values has one value of {told_by[items[0]]}")
                ids.remove(items[0])
            elif "user_id" in fills and len(ids) == 1:
                self._take(fills, "item_id", ids[0], "it is the only other column of ids")
                ids.remove(ids[0])
        if "item_id" in fills and "user_id" not in fills and len(ids) == 1:
            self._take(fills, "user_id", ids[0], "it is the only other column of ids")
            ids.remove(ids[0])
        if "item_id" in fills and (titles := [c for c in texts if self._decides(fills["item_id"], c)]):
            self.doubts.append(
                f"{titles[0]} seems to hold the titles of products: a second map takes them out of the same file, with "
                f'table = "items" and keep = "most_common"'
            )
        if ids and not {"user_id", "item_id"} <= {*fills}:
            self.doubts.append(f"which of {', '.join(ids)} is the person and which the product cannot be told")

    def _decides(self, key: str, value: str) -> bool:
        """Whether rows with one `key` have one `value`, judged by the keys that several rows have."""
        groups = (
            self.frame.filter(pl.col(key).is_not_null())
            .group_by(key)
            .agg(pl.len().alias("rows"), pl.col(value).n_unique().alias("values"))
            .filter(pl.col("rows") > 1)
        )
        return groups.height >= _GROUPS and _share(groups["values"] == 1) >= _SURE

    def _items_by_values(self, fills: dict[str, str]) -> None:
        """Only of a file with amounts of money and without people: a list of people has ids and names as well."""
        n = self.frame.height
        amounts = self._open(fills, lambda look: look.numbers >= _SURE and look.money >= 0.5)
        if "price" not in fills and len(amounts) == 1:
            self._take(fills, "price", amounts[0], "its values are amounts of money")
        has_people = any(look.mails >= _SURE or normal(c) in candidates("user_id") for c, look in self.looks.items())
        if "item_id" not in fills and "price" in fills and not has_people:
            columns = self._open(fills, lambda look: look.ids >= _SURE and look.distinct == n)
            if len(columns) == 1:
                self._take(fills, "item_id", columns[0], "its values are ids, and each row has one of its own")
            elif columns:
                self.doubts.append(f"which of {', '.join(columns)} is the id of the product cannot be told")
        texts = self._open(fills, lambda look: look.words >= 0.3 and look.mails < 0.5)
        texts.sort(key=lambda column: self.looks[column].length)
        titles = [column for column in texts if self.looks[column].distinct > 0.5 * n]
        if "title" not in fills and "item_id" in fills and titles:
            addition = ", the shorter ones of the file" if titles[1:] else ""
            self._take(fills, "title", titles[0], f"its values are texts, of nearly each row another{addition}")
        texts = [column for column in texts if column not in fills.values() and self.looks[column].length >= 60]
        if "description" not in fills and texts:
            self._take(fills, "description", texts[-1], "its values are long texts")

    def _people_by_values(self, fills: dict[str, str]) -> None:
        self._mails(fills)

    def _consent_by_values(self, fills: dict[str, str]) -> None:
        for name in ("purpose", "granted"):
            columns = self._open(fills, _FITS[name])
            if name not in fills and len(columns) == 1:
                words = "purposes" if name == "purpose" else "yes or no"
                self._take(fills, name, columns[0], f"its values are {words}")
        self._times(fills)
        self._mails(fills)
        ids = self._open(fills, lambda look: look.ids >= _SURE and look.distinct > 2)
        if "user_id" not in fills and len(ids) == 1:
            self._take(fills, "user_id", ids[0], "it is the only column of ids")


def _suggestion(
    table: Table,
    fills: Mapping[str, str],
    finder: _ColumnFinder,
    looks: Mapping[str, ColumnLook],
    options: IngestOptions,
) -> Suggestion:
    notes = [*finder.doubts]
    basics: dict[str, str] = {}
    if table is Table.USERS:
        names = {normal(column): column for column in finder.looks if column not in fills.values()}
        for basic in BASICS:
            columns = [column for key, column in names.items() if key in candidates(basic)]
            if len(columns) == 1:
                basics[basic] = columns[0]
    if special := [column for column in looks if is_special(column)]:
        addition = (
            "; a file of people with them is refused until they are removed or declared" if table is Table.USERS else ""
        )
        notes.append(f"left out, since the law protects them specially: {', '.join(special)}{addition}")
    translations: list[str] = []
    if table is Table.EVENTS and "event" not in fills:
        notes.append("no column says what was done: every row counts as a purchase")
    elif table is Table.EVENTS:
        actions = {*options.event_names, *(name for names in EVENT_NAMES.values() for name in names)}
        values = finder.frame[fills["event"]].drop_nulls().unique().sort().to_list()
        translations = [text for text in values if text.casefold() not in actions][:12]
        if translations:
            values_in_words = ", ".join(translations)
            notes.append(
                f"rows with these in {fills['event']} are refused until the map translates them: {values_in_words}"
            )
    columns_in_use = {*fills.values(), *basics.values(), *special}
    if spare := [column for column in looks if column not in columns_in_use]:
        notes.append(f"fills nothing: {', '.join(spare)}")
    read = {name: value for name, value in options.model_dump().items() if name in ReadOptions.model_fields and value}
    return Suggestion(
        table=table,
        columns=dict(fills),
        reasons={name: finder.reasons[name] for name in fills if name in finder.reasons},
        notes=tuple(notes),
        basics=basics,
        read=ReadOptions(**read),
        translations=tuple(translations),
    )
