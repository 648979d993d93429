"""A file before it is loaded: its first rows, and a map where it is of no known kind.

Names come first, then similar ones, unless values contradict them; values decide what is still open. Columns of
specially protected data are never taken.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import polars as pl
import tomli_w

from recllm.base.errors import NothingToDo
from recllm.base.schema import VARIANT_IDS, VARIANT_PRICES, Purpose, Table
from recllm.shop.ingest.column_names import (
    BASICS,
    FIELDS,
    PACK,
    REQUIRED,
    STATE_COLUMNS,
    STATES,
    candidates,
    category_levels,
    columns_of,
    is_special,
    named_so,
    normal,
)
from recllm.shop.ingest.load import open_records
from recllm.shop.ingest.options import BLOCK_BYTES, ColumnMap, IngestOptions, LineTotal, ReadOptions, order_rules
from recllm.shop.ingest.parse.numbers import parse_numbers
from recllm.shop.ingest.parse.times import look_like_times
from recllm.shop.ingest.read.records import RecordReader, filled
from recllm.shop.ingest.read.source import probe
from recllm.shop.ingest.tables import ACTION_OF_NAME, NO, YES

PREVIEW_ROWS = 10
SAMPLE_ROWS = 5_000
_SURE = 0.95
"""Share of values from which on a rule holds."""
_SIMILAR = 0.85
"""Similarity of difflib from which on a name is taken for another."""
_NOT_MAPPED = frozenset({"attributes", "request_id", "position", "model_version", "event_id"})
"""Fields that values cannot reveal."""
_CONSENT_WORDS = ("granted", "denied", "subscribed", "unsubscribed")
_TOTAL = re.compile(r"\bsum|total|paid|金额|合计|总价|小计|实付|实收|montant|importe|totaal", re.I)
"""Names of the price of a line."""
_MONEY = r"[.,](\d\d|[1-9])\D*$|^\s*[$€£¥￥]|[$€£¥￥元]\s*$"
_READ_AS = {
    "returned": "are read as returns",
    "left_out": "are left out, as cancelled or not paid",
    "unclear": "count as purchases; if they are none, name them in a rule of [[reject]] or [[returns]]",
}
_NUMBER_WORDS = {"timestamp": "times", "price": "amounts of money", "quantity": "numbers", "value": "numbers"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePreview:
    """The head of a file."""

    columns: tuple[str, ...]
    rows: tuple[Mapping[str, str | None], ...]
    """The first rows by column; None where empty."""
    likely_rows: int
    """Estimated rows, by the length of the first ones."""

    def likely_table(self) -> Table:
        """With the best filled required fields; with a person and an item, a log."""

        def rank(table: Table) -> tuple[bool, bool, int, int]:
            fills = {name for name, column in proposed_columns(self.columns, table).items() if column is not None}
            required = fills.intersection(REQUIRED[table])
            is_log = table is Table.EVENTS and {"user_id", "item_id"} <= fills
            return is_log, len(required) == len(REQUIRED[table]), len(required), len(fills)

        return max((Table.CONSENT, Table.ITEMS, Table.USERS, Table.EVENTS), key=rank)


def preview_file(path: Path, options: IngestOptions | None = None) -> FilePreview:
    """The head of a file. Raises `IngestError` for an unreadable one."""
    reader = open_records(probe(path), options or IngestOptions(), ColumnMap())
    frame, n_first = head(reader, PREVIEW_ROWS)
    likely_rows = reader.n_rows or round(n_first * max(1.0, path.stat().st_size / BLOCK_BYTES))
    return FilePreview(columns=reader.columns, rows=tuple(frame.to_dicts()), likely_rows=likely_rows)


def head(reader: RecordReader, n_rows: int) -> tuple[pl.DataFrame, int]:
    """(first rows of a file, number of records in its first filled block)."""
    frames, n_first, n_missing = [pl.DataFrame(schema=dict.fromkeys(reader.columns, pl.String))], 0, n_rows
    for chunk in reader.chunks():
        frames.append(chunk.frame.head(n_missing))
        n_first, n_missing = n_first or chunk.n_records, n_missing - frames[-1].height
        if n_missing <= 0:
            break
    return pl.concat(frames), n_first


def proposed_columns(columns: Sequence[str], table: Table) -> dict[str, str | None]:
    """Field -> the column that a load takes without a map; None for none, or several."""
    by_normal = {normal(column): column for column in columns}
    named = {name: columns_of(name, by_normal) for name in FIELDS[table]}
    return {name: columns[0] if len(columns) == 1 else None for name, columns in named.items()}


def basic_columns(columns: Sequence[str], fills: Mapping[str, str | None]) -> dict[str, bool]:
    """Unprotected column that fills no field -> whether a load keeps it as a basic."""
    names = frozenset().union(*(candidates(name) for name in BASICS))
    spare = (column for column in columns if column not in fills.values() and not is_special(column))
    return {column: normal(column) in names for column in spare}


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnLook:
    """What the values of one column are like."""

    distinct: int
    length: float
    """Characters, at the median."""
    shares: Mapping[str, float]
    """Kind of values -> share of filled cells, in [0, 1]."""

    @classmethod
    def of(cls, cells: pl.Series, event_names: Iterable[str]) -> ColumnLook:
        """cells: the filled ones, at least one."""
        key = cells.str.to_lowercase().str.replace_all(r"[\s\-]+", "_")
        number = numbers_of(cells)
        times, is_number = look_like_times(cells), number.is_not_null()
        money = is_number & cells.str.contains(_MONEY) & ~times
        is_fraction = cells.str.contains(r"^[+-]?\d*[.,]\d+$")
        answers = [text.replace(" ", "_") for text in (*YES, *NO)]
        kinds = {
            "times": times,
            "mail addresses": cells.str.contains(r"^[^@\s]+@[^@\s]+\.[^@\s]+$"),
            "phone numbers": cells.str.contains(r"^(\+?86)?1[3-9]\d{9}$|^\+[1-9][\d ()-]{8,}$"),
            "amounts of money": money,
            "numbers": is_number,
            "yes or no": key.is_in([*answers, *_CONSENT_WORDS]),
            "states of sale": key.is_in([text for text in answers if len(text.encode()) > 5]),
            "texts of several words": cells.str.contains(r"\S\s+\S|\p{Han}{4}") & ~times & ~is_number,
            "words or ids": cells.str.contains(r"^\S{1,64}$") & ~times & ~money & ~is_fraction,
            "small numbers": cells.str.contains(r"^[+-]?\d{1,3}(\.0+)?$"),
            "ones": number == 1,
            "events": key.is_in([*event_names, *ACTION_OF_NAME]),
            "purposes": key.is_in([purpose.value for purpose in Purpose]),
        }
        length = float(median(cells.str.len_chars().to_list()))
        shares = {name: int(mask.fill_null(False).sum()) / len(cells) for name, mask in kinds.items()}
        return cls(distinct=cells.n_unique(), length=length, shares=shares)

    def mostly(self, kind: str) -> bool:
        return self.shares[kind] >= _SURE

    def __str__(self) -> str:
        """Kinds of values, commonest first, for a message."""
        shares = [f"{share:.0%} {name}" for name, share in list(self.shares.items())[:9] if share >= 0.05][:2]
        return f"{', '.join(shares) or 'nothing that is known'}; {self.distinct:,} different"


def numbers_of(cells: pl.Series) -> pl.Series:
    """Numbers, with the decimal sign that reads more of them."""
    by_point, by_comma = (parse_numbers(cells, decimal, money=True) for decimal in (".", ","))
    return by_comma if by_point.null_count() > by_comma.null_count() else by_point


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """A map, and why."""

    table: Table
    columns: Mapping[str, str]
    reasons: Mapping[str, str]
    """Field -> why, as the end of a sentence."""
    notes: tuple[str, ...] = ()
    """What a person has to check."""
    basics: Mapping[str, str] = field(default_factory=dict)
    read: ReadOptions = field(default_factory=ReadOptions)
    translations: tuple[str, ...] = ()
    """Unknown values of the event column."""
    price_is_total: bool = False
    """Whether the price's column holds the sum of a line."""
    states: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    """Column of orders' states -> "returned", "left_out" or "unclear" -> its first states."""
    levels: tuple[str, ...] = ()
    """Columns of the category, the widest first, where several hold it."""

    def column_map(self) -> ColumnMap:
        columns: dict[str, Any] = {name: (column,) for name, column in self.columns.items()}
        rules = order_rules(self.states, columns.get("user_id", ()))
        per = self.columns.get("quantity", "")
        if variant := columns.pop("variant", ()):
            fills = {VARIANT_IDS: "item_id", VARIANT_PRICES: "price"}
            named = {key: self.columns[name] for key, name in fills.items() if name in columns}
            rules["attributes"] = {"variant": variant[0], "variant_pack": "pack", **named}
            rules["composed"] = {"pack": {"columns": variant, "matches": PACK}}
            rules["keep"] = "names"
        totals = {"price": LineTotal(total=columns.pop("price")[0], per=per)} if self.price_is_total else {}
        return ColumnMap(
            table=self.table,
            read=self.read,
            columns=columns,
            totals=totals,
            paths={"category": self.levels} if self.levels else {},
            basics={name: (column,) for name, column in self.basics.items()},
            **rules,
        )

    def toml(self) -> str:
        """The map as a file, with the reasons as comments."""
        stated = self.column_map().model_dump(mode="json", exclude_defaults=True)
        for section in {"columns", "basics"} & {*stated}:
            stated[section] = {name: columns[0] for name, columns in stated[section].items()}
        lines = [f"# {note}" for note in self.notes]
        lines += [f"# {name} = {self.columns[name]}, because {why}" for name, why in self.reasons.items()]
        lines += ["", tomli_w.dumps(stated).strip()]
        if self.translations:
            lines += ["", "# say what these mean, and take the # away:", "# [values.event]"]
            lines += [f"# {tomli_w.dumps({text: 'purchase'}).strip()}" for text in self.translations]
        return "\n".join(lines).lstrip("\n") + "\n"


def suggest_map(path: Path, options: IngestOptions | None = None, *, table: Table | None = None) -> Suggestion:
    """For the given or likely table. Raises `NothingToDo`, with what columns hold, where none fits, and `IngestError`
    for an unreadable file."""
    options = options or IngestOptions()
    sample, _ = head(open_records(probe(path), options, ColumnMap()), SAMPLE_ROWS)
    frame = sample.select(map(filled, sample.columns))
    if not frame.height:
        raise NothingToDo(f"{path.name} has a header and no rows")
    cells = {column: frame[column].drop_nulls() for column in frame.columns}
    looks = {column: ColumnLook.of(filled, options.event_names) for column, filled in cells.items() if len(filled)}
    usable = {column: look for column, look in looks.items() if not is_special(column)}
    doubts: dict[str, None] = {}
    for attempt in [table] if table is not None else [Table.CONSENT, Table.EVENTS, Table.ITEMS, Table.USERS]:
        finder = _ColumnFinder(frame, usable, attempt)
        if all(name in finder.fills for name in REQUIRED[attempt]):
            return suggestion_of(finder, looks, options)
        doubts |= dict.fromkeys(finder.doubts)
    lines = "".join(f"\n  {column}: {look}" for column, look in looks.items())
    missing = "table it is" if table is None else f"columns {table} takes from it"
    raise NothingToDo(
        f"{path.name}: unclear which {missing}; write a map by hand (see recllm/shop/ingest/maps/). What its columns "
        f"hold:{lines}" + "".join(f"\n{doubt}" for doubt in doubts)
    )


_Fit = Callable[[ColumnLook], bool]


def _is(kind: str) -> _Fit:
    return lambda look: look.mostly(kind)


def is_amount(look: ColumnLook) -> bool:
    return look.mostly("numbers") and look.shares["amounts of money"] >= 0.5


_FITS: Mapping[str, _Fit] = {
    "timestamp": _is("times"),
    **dict.fromkeys(("price", "quantity", "value"), _is("numbers")),
    "currency": lambda look: look.mostly("words or ids") and look.length == 3,
    "granted": _is("yes or no"),
    "title": lambda look: not look.mostly("numbers"),
    "available": lambda look: look.mostly("yes or no") or look.mostly("numbers"),
    "stock": lambda look: look.distinct > 1 and (look.mostly("numbers") or look.mostly("yes or no")),
    "purpose": _is("purposes"),
    **dict.fromkeys(("user_id", "item_id"), lambda look: look.shares["times"] < 0.5),
}
"""What the values of a column must be like before its name is believed."""

_MAILS = ("user_id", _is("mail addresses"), "its values are mail addresses")
_PHONES = ("user_id", _is("phone numbers"), "its values are phone numbers")
_TIMES = ("timestamp", _FITS["timestamp"], "its values are times")
_BY_VALUES: Mapping[Table, Sequence[tuple[str, _Fit, str]]] = {
    Table.EVENTS: (
        _TIMES,
        ("event", lambda o: o.shares["events"] >= 0.5 and o.distinct <= 12, "most of its values name what was done"),
        _MAILS,
        _PHONES,
        (
            "quantity",
            lambda look: look.mostly("small numbers") and look.shares["ones"] >= 0.3 and look.distinct > 1,
            "its values are small whole numbers, very often 1",
        ),
    ),
    Table.ITEMS: (("price", is_amount, "its values are amounts of money"),),
    Table.USERS: (_MAILS, _PHONES),
    Table.CONSENT: (
        ("purpose", _FITS["purpose"], "its values are purposes"),
        ("granted", _FITS["granted"], "its values are yes or no"),
        _TIMES,
        _MAILS,
        _PHONES,
        ("user_id", lambda o: o.mostly("words or ids") and o.distinct > 2, "it is the first column of ids"),
    ),
}
"""Fields, what their values are like, and why the first such column is taken."""


class _ColumnFinder:
    """Columns for a table's fields: `fills`, with reasons and doubts."""

    def __init__(self, frame: pl.DataFrame, looks: Mapping[str, ColumnLook], table: Table) -> None:
        self.frame, self.looks, self.table = frame, looks, table
        self.reasons: dict[str, str] = {}
        self.doubts: list[str] = []
        self._columns: dict[str, str] = {}
        self.states = order_states(frame, looks) if table is Table.EVENTS else {}
        self.names = {normal(column): column for column in looks}
        self.levels = category_levels(self.names) if table is Table.ITEMS else ()
        has_variants = table is Table.ITEMS and not named_so("attributes", self.names)
        self.fields = (*FIELDS[table], "variant") if has_variants else FIELDS[table]
        if table is Table.ITEMS and (columns := self._open(_is("states of sale"))):
            self._take("available", columns[0], "its values say what is on sale")
        self._by_names()
        for name, fits, reason in _BY_VALUES[table]:
            if name not in self._columns and (columns := self._open(fits)):
                others = f", and it is the first such column ({', '.join(columns[1:])} too)" if columns[1:] else ""
                self._take(name, columns[0], reason + others)
        if table is Table.EVENTS and "timestamp" in self._columns:
            self._people_and_products()
        elif table is Table.ITEMS:
            self._products()
        self.price_is_total = {"item_id", "quantity", "price"} <= {*self._columns} and self._are_totals()
        self.fills = {name: self._columns[name] for name in self.fields if name in self._columns}

    def _take(self, name: str, column: str, reason: str) -> None:
        self._columns[name], self.reasons[name] = column, reason

    def _open(self, fits: _Fit) -> list[str]:
        """Columns that fill nothing yet and hold such values, in order."""
        filling = {*self._columns.values(), *self.states, *self.levels}
        return [column for column, look in self.looks.items() if column not in filling and fits(look)]

    def _by_names(self) -> None:
        names, built = self.names, ("category",) if self.levels else ()
        without = {*_NOT_MAPPED, *self._columns, *built}
        fields = [name for name in self.fields if name not in without]
        for name in fields:
            fits = _FITS.get(name, bool)
            aliases = sorted(named_so(name, names), key=lambda column: normal(column) != normal(name))
            columns = [column for column in aliases if column not in self._columns.values()]
            if columns and not fits(self.looks[columns[0]]):
                kind = _NUMBER_WORDS.get(name, "such values")
                self.doubts.append(f"{columns[0]} is called like {name}, but does not hold {kind}")
            columns = [column for column in columns if fits(self.looks[column])]
            if columns:
                addition = f" ({', '.join(columns[1:])} could be it too)" if columns[1:] else ""
                self._take(name, columns[0], f"it is called so{addition}")
        for name in (name for name in fields if name not in self._columns):
            free = {key: column for key, column in names.items() if column not in self._columns.values()}
            matches = {
                free[key]: alias
                for alias in sorted(candidates(name))
                for key in difflib.get_close_matches(alias, [*free], n=1, cutoff=_SIMILAR)
                if len(alias) > 3 and _FITS.get(name, bool)(self.looks[free[key]])
            }
            if len(matches) == 1:
                column, alias = next(iter(matches.items()))
                self._take(name, column, f"its name is nearly {alias}")

    def _people_and_products(self) -> None:
        """The only amounts are the price; the only other ids go with those that are known."""
        fills = self._columns
        if "price" not in fills and len(amounts := self._open(is_amount)) == 1:
            self._take("price", amounts[0], "its values are amounts of money")
        ids = self._open(lambda look: look.mostly("words or ids") and look.distinct > 2)
        for name, partner in (("item_id", "user_id"), ("user_id", "item_id")):
            if name not in fills and partner in fills and len(ids) == 1:
                self._take(name, ids.pop(), "it is the only other column of ids")
        if ids and not {"user_id", "item_id"} <= {*fills}:
            self.doubts.append(f"unclear which of {', '.join(ids)} is the person and which the product")

    def _are_totals(self) -> bool:
        """Whether prices grow with the pieces; by the name where no rows show it."""
        price, n = (numbers_of(self.frame[self._columns[name]]).abs() for name in ("price", "quantity"))
        rows = pl.DataFrame({"item": self.frame[self._columns["item_id"]], "price": price, "n": n})
        of_one = pl.col("price").filter(pl.col("n") == 1).median().over("item")
        grow = rows.with_columns(grows=pl.col("price") > of_one * pl.col("n").sqrt()).filter(pl.col("n") > 1)
        votes = grow["grows"].drop_nulls()
        return 2 * int(votes.sum()) > len(votes) if len(votes) else bool(_TOTAL.search(self._columns["price"]))

    def _products(self) -> None:
        """Only where amounts and no people are: lists of people have ids and names, too."""
        n, fills = self.frame.height, self._columns
        if any(o.mostly("mail addresses") or o.mostly("phone numbers") for o in self.looks.values()):
            return
        if named_so("user_id", self.names):
            return
        ids = self._open(lambda look: look.mostly("words or ids") and look.distinct == n)
        if "item_id" not in fills and "price" in fills and ids:
            self._take("item_id", ids[0], "its values are ids, and each row has one of its own")
        texts = self._open(lambda o: o.shares["texts of several words"] >= 0.3 and o.shares["mail addresses"] < 0.5)
        texts.sort(key=lambda column: self.looks[column].length)
        titles = [column for column in texts if self.looks[column].distinct > 0.5 * n]
        if "title" not in fills and "item_id" in fills and titles:
            self._take("title", titles[0], "its values are texts, of nearly each row another")
        texts = [c for c in texts if c not in fills.values() and self.looks[c].length >= 60]
        if "description" not in fills and texts:
            self._take("description", texts[-1], "its values are long texts")


def order_states(frame: pl.DataFrame, looks: Mapping[str, ColumnLook]) -> dict[str, dict[str, list[str]]]:
    """`Suggestion.states`, without columns that rather say what was done."""
    states = {}
    for column in looks:
        if normal(column) in STATE_COLUMNS:
            values = frame[column].drop_nulls().unique().sort()
            read_as = {name: values.filter(values.str.contains(pattern)).to_list() for name, pattern in STATES.items()}
            read_as["unclear"] = values.filter(~values.is_in([*chain(*read_as.values())])).to_list()[:12]
            if read_as["unclear"] != values.to_list() or looks[column].shares["events"] < 0.5:
                states[column] = {name: read_as[name] for name in _READ_AS}
    return states


def suggestion_of(finder: _ColumnFinder, looks: Mapping[str, ColumnLook], options: IngestOptions) -> Suggestion:
    table, fills, notes = finder.table, finder.fills, [*finder.doubts]
    basics: dict[str, str] = {}
    if table is Table.USERS:
        names = {normal(column): column for column in finder.looks if column not in fills.values()}
        called_so = {basic: [names[key] for key in names if key in candidates(basic)] for basic in BASICS}
        basics = {basic: columns[0] for basic, columns in called_so.items() if len(columns) == 1}
    if special := [column for column in looks if is_special(column)]:
        addition = (
            "; a file of people with them is refused until they are removed or declared" if table is Table.USERS else ""
        )
        notes.append(f"left out, since the law protects them specially: {', '.join(special)}{addition}")
    translations: list[str] = []
    if table is Table.EVENTS and "event" not in fills and not finder.states:
        notes.append("no column says what was done: every row counts as a purchase")
    elif table is Table.EVENTS and "event" in fills:
        actions = {*options.event_names, *ACTION_OF_NAME}
        values = finder.frame[fills["event"]].drop_nulls().unique().sort().to_list()
        translations = [text for text in values if text.casefold() not in actions][:12]
        if translations:
            listed = ", ".join(translations)
            notes.append(f"rows with these in {fills['event']} are refused until the map translates them: {listed}")
    for column, read_as in finder.states.items():
        notes += [f"rows with these in {column} {_READ_AS[name]}: {', '.join(v)}" for name, v in read_as.items() if v]
    filling = {*fills.values(), *basics.values(), *special, *finder.states, *finder.levels}
    if spare := [column for column in looks if column not in filling]:
        notes.append(f"fills nothing: {', '.join(spare)}")
    return Suggestion(
        table=table,
        columns=fills,
        reasons={name: reason for name, reason in finder.reasons.items() if name in fills},
        notes=tuple(notes),
        basics=basics,
        read=ReadOptions(**options.model_dump(include={*ReadOptions.model_fields}, exclude_none=True)),
        translations=tuple(translations),
        price_is_total=finder.price_is_total,
        states=finder.states,
        levels=finder.levels,
    )
