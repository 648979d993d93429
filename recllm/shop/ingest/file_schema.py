"""The schema of a file, settled before its rows are loaded: the column of each field, and the formats of values.

No more is read than that needs; parsing finds later rows that contradict it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from dataclasses import field as _field
from itertools import chain, takewhile
from typing import TypeVar

import polars as pl

from recllm.base.errors import IngestError
from recllm.base.schema import IMAGE, Table
from recllm.shop.ingest.column_names import (
    BASICS,
    FIELDS,
    REQUIRED,
    STATE_COLUMNS,
    candidates,
    category_levels,
    columns_of,
    is_special,
    named_so,
    nearest,
    normal,
)
from recllm.shop.ingest.options import (
    ColumnMap,
    ColumnPath,
    ComposedColumn,
    IngestOptions,
    JoinedColumns,
    LineTotal,
    RowRule,
    WrittenPath,
    order_rules,
)
from recllm.shop.ingest.parse.numbers import Decimal, DecimalEvidence, currencies, distinct_currencies
from recllm.shop.ingest.parse.times import TimeEvidence, TimeFormat, check_zone, declared_format
from recllm.shop.ingest.read.records import RecordReader, filled

_Rule = TypeVar("_Rule", bound=RowRule)

LINE_TOTAL = "(line total)"
"""Name of the helper field that holds a line total until the unit price is known."""
FLOAT_ID = r"^\d+\.0$"

_ID_FIELDS = ("user_id", "item_id", "event_id", "basket_id", "request_id")
_MONEY_FIELDS = ("price", LINE_TOTAL)
_NUMBER_FIELDS = ("quantity", "value", *_MONEY_FIELDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSchema:
    """The column of each field, by the file's own name, and the formats of values."""

    table: Table
    columns: Mapping[str, str]
    column_map: ColumnMap
    """The map, with the file's own names of columns."""
    basics: Mapping[str, str]
    ignored: tuple[str, ...] = ()
    n_aliases: int = 0
    """Columns understood under another name."""
    decimal: Decimal = "."
    times: TimeFormat | None = None
    """None where the table has no times."""
    float_ids: frozenset[str] = frozenset()
    """Fields whose ids all end in ".0"."""
    currency: str | None = None
    """Of prices: as stated, the shop's own (events), or the file's most common one."""
    is_foreign: bool = False
    """Whether the signs at prices of events name another currency than `currency`."""

    def column_of(self, field: str) -> str:
        return self.columns.get(field, field)

    def fields(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Fields as text, one row per row of `frame`; unfilled ones are left out."""
        columns = [pl.col(column).alias(field) for field, column in self.columns.items()]
        built = self.column_map
        columns += [pl.lit(text, dtype=pl.String).alias(field) for field, text in built.constants.items()]
        columns += [joined_columns(join).alias(field) for field, join in built.joins.items()]
        columns += [pl.col(total.total).alias(LINE_TOTAL) for total in built.totals.values()]
        fields = frame.select(columns)
        for name, default in built.defaults.items():
            cell = filled(name) if name in fields.columns else pl.lit(None, pl.String)
            fields = fields.with_columns(cell.fill_null(pl.lit(default)).alias(name))
        for name, meanings in built.values.items():
            if name in fields.columns:
                key = pl.col(name).str.strip_chars().str.to_lowercase()
                meaning = key.replace_strict(
                    list(meanings), list(meanings.values()), default=None, return_dtype=pl.String
                )
                fields = fields.with_columns(pl.coalesce(meaning, pl.col(name)).alias(name))
        texts = [json_lists(frame, field, names) for field, names in built.paths.items()]
        if built.attributes:
            texts.append(json_objects(frame, built.attributes, "attributes"))
        if self.table is Table.USERS:
            texts.append(json_objects(frame, self.basics, "basics"))
        return fields.with_columns(texts) if texts else fields


class Header:
    """The columns of a file by their normalised names, and their use so far."""

    def __init__(self, columns: tuple[str, ...], file: str, *, optional: bool) -> None:
        """optional: whether parts of a map without their columns are left out, and no errors."""
        self.columns = columns
        self.file = file
        self.optional = optional
        self.used: set[str] = set()
        self.n_aliases = 0
        self.by_normal: dict[str, str] = {}
        for column in columns:
            twin = self.by_normal.setdefault(normal(column), column)
            if twin != column:
                raise IngestError("E_DUP_COLUMN", f"{file}: {twin!r} and {column!r} are the same name; remove one")

    def find(self, name: str) -> str | None:
        return self.by_normal.get(normal(name))

    def require(self, name: str, field: str) -> str:
        column = self.find(name)
        if column is None:
            raise self.missing(name, field)
        self.used.add(column)
        return column

    def require_all(self, names: Iterable[str], field: str) -> tuple[str, ...]:
        """Those of an optional map that are there."""
        return tuple(self.require(name, field) for name in names if self.has(name))

    def use_sources(self, composed: Mapping[str, ComposedColumn]) -> None:
        """Marks what the used ones of these columns are made of."""
        for name, rule in reversed(tuple(composed.items())):  # one may be made of those before it
            if self.find(name) in self.used:
                self.used.update(filter(None, map(self.find, rule.columns)))

    def has(self, *names: str | None) -> bool:
        """False where a part of an optional map has to be left out."""
        return not self.optional or all(name is None or self.find(name) is not None for name in names)

    def missing(self, name: str, field: str) -> IngestError:
        close = nearest(field, self.columns)
        hint = f"; did you mean {' or '.join(close)}? Say so with --map" if close else "; say which it is with --map"
        return IngestError(
            "E_MISSING_COLUMN", f"{self.file}: no column {name}; found {', '.join(self.columns[:30])}{hint}"
        )

    def by_alias(self, field: str) -> str | None:
        """The column with the field's own name, else the only one with another name of it."""
        columns = columns_of(field, self.by_normal)
        if len(columns) > 1:
            raise IngestError(
                "E_DUP_COLUMN", f"{self.file}: {' and '.join(columns)} could both be {field}; say which with --map"
            )
        return columns[0] if columns else None


def find_columns(columns: tuple[str, ...], table: Table, column_map: ColumnMap, file: str) -> FileSchema:
    """Raises `IngestError` for missing, doubled and special columns, or a map for another table."""
    if column_map.table not in {None, table}:
        raise IngestError("E_MAP", f"the map is for {column_map.table}, not for {table}")
    header = Header(columns, file, optional=column_map.optional)
    totals = {
        field: LineTotal(total=header.require(total.total, field), per=header.require(total.per, "quantity"))
        for field, total in column_map.totals.items()
        if header.has(total.total, total.per)
    }
    attributes = {name: header.require(c, name) for name, c in column_map.attributes.items() if header.has(c)}
    pictures = named_so(IMAGE, header.by_normal) if table is Table.ITEMS and not header.find("attributes") else []
    if pictures and IMAGE not in attributes and "attributes" not in column_map.columns:
        attributes[IMAGE] = header.require(pictures[0], IMAGE)
    resolved = {
        "joins": present_joins(header, table, column_map),
        "totals": totals,
        "paths": category_paths(header, table, column_map),
        "attributes": attributes,
    }
    column_map = column_map.model_copy(update=resolved)
    plain = plain_columns(header, table, column_map)
    basics = columns_of_basics(header, column_map, set(plain.values())) if table is Table.USERS else {}
    rules = {
        kind: tuple(
            with_column(header, rule, column_map, plain)
            for rule in getattr(column_map, kind)
            if header.has(rule.column, rule.equals)
        )
        for kind in ("reject", "returns")
    }
    header.use_sources(column_map.composed)
    return FileSchema(
        table=table,
        columns=plain,
        column_map=column_map.model_copy(update=rules),
        basics=basics,
        ignored=tuple(column for column in columns if column not in header.used),
        n_aliases=header.n_aliases,
    )


def present_joins(header: Header, table: Table, column_map: ColumnMap) -> dict[str, JoinedColumns]:
    joins = {}
    for field, join in column_map.joins.items():
        lists = [header.require_all(names, field) for names in (join.columns, join.otherwise, join.instead)]
        for n in (1, 2):
            if not lists[0]:
                lists[0], lists[n] = lists[n][:1], lists[n][1:]
        if lists[0]:
            joins[field] = join.model_copy(update=dict(zip(("columns", "otherwise", "instead"), lists, strict=True)))
        elif field in REQUIRED[table]:
            raise header.missing(" or ".join((*join.columns, *join.otherwise, *join.instead)), field)
    return joins


def category_paths(header: Header, table: Table, column_map: ColumnMap) -> dict[str, ColumnPath]:
    paths, stated = dict[str, ColumnPath](), dict(column_map.paths)
    if table is Table.ITEMS and "category" not in {*column_map.columns, *column_map.built_fields}:
        stated["category"] = () if header.optional else category_levels(header.by_normal)
    for field, path in stated.items():
        if not isinstance(path, WrittenPath):
            paths |= {field: names} if (names := header.require_all(path, field)) else {}
        elif header.has(path.column):
            paths[field] = path.model_copy(update={"column": header.require(path.column, field)})
    return paths


def plain_columns(header: Header, table: Table, column_map: ColumnMap) -> dict[str, str]:
    plain: dict[str, str] = {}
    mapped = {*column_map.columns, *column_map.built_fields}
    for field in FIELDS[table]:
        if field in column_map.built_fields:
            continue
        if field == "stock" and "available" in mapped and field not in mapped:
            continue
        names = column_map.columns.get(field, ())
        column = next((c for name in names if (c := header.find(name)) is not None), None)
        if column is None and header.optional and field not in REQUIRED[table]:
            names = ()
        if column is None:
            column = header.by_alias(field)
            header.n_aliases += column is not None and column != field
        if column is not None:
            plain[field] = column
        elif field not in column_map.defaults and (names or field in REQUIRED[table]):
            raise header.missing(" or ".join(names) or field, field)
    doubled = [column for column, count in Counter(plain.values()).items() if count > 1]
    if doubled and not column_map.columns:
        raise IngestError("E_DUP_COLUMN", f"{header.file}: {doubled[0]!r} could mean two fields; say which with --map")
    header.used.update(plain.values())
    return plain


def columns_of_basics(header: Header, column_map: ColumnMap, plain: set[str]) -> dict[str, str]:
    declared = {normal(name) for name in column_map.special}
    special = [column for column in header.columns if is_special(column) and normal(column) not in declared]
    if special:
        raise IngestError(
            "E_SPECIAL_CATEGORY",
            f"{header.file}: {', '.join(special)} holds specially protected personal data; remove the column, or "
            'declare it in the map (special = ["..."]) when there is a legal basis',
        )
    basics = {
        name: next(filter(None, map(header.find, names)), None)
        or header.by_alias(name)
        or header.require(names[0], name)
        for name, names in column_map.basics.items()
        if any(map(header.has, names))
    }
    for name in BASICS:
        column = None if name in basics else header.by_alias(name)
        if column is not None and column not in plain and column not in basics.values():
            basics[name] = column
            header.n_aliases += column != name
    for name in column_map.special:
        if (column := header.find(name)) is not None:
            basics.setdefault(name, column)
    header.used.update(basics.values())
    return basics


def with_column(header: Header, rule: _Rule, column_map: ColumnMap, plain: Mapping[str, str]) -> _Rule:
    """The rule with the file's name of its column; the map may name it otherwise, or its field."""
    column, key = header.find(rule.column), normal(rule.column)
    if column is None:
        fields = (field for field, names in column_map.columns.items() if key in {normal(name) for name in names})
        column = next((plain[field] for field in fields if field in plain), None)
    if column is None:
        fields = (field for field in chain.from_iterable(FIELDS.values()) if key in candidates(field))
        column = next((c for field in fields if (c := header.by_alias(field)) is not None), None)
    if column is None:
        raise header.missing(rule.column, rule.column)
    header.used.add(column)
    equals = None if rule.equals is None else header.require(rule.equals, rule.column)
    unless = header.require_all(rule.unless, rule.column)
    return rule.model_copy(update={"column": column, "equals": equals, "unless": unless})


def joined_columns(join: JoinedColumns) -> pl.Expr:
    first, *following = join.columns
    lead = pl.coalesce(map(filled, (first, *join.otherwise)))
    joined = pl.concat_str([lead, *map(filled, following)], separator=join.separator, ignore_nulls=True)
    return pl.coalesce([*map(filled, join.instead), joined])


def json_lists(frame: pl.DataFrame, field: str, path: ColumnPath) -> pl.Series:
    """JSON lists, the widest name first; that of several columns ends at an empty one."""
    columns = (path.column,) if isinstance(path, WrittenPath) else path
    rows = frame.select(pl.col(column).str.strip_chars() for column in columns).rows()
    if isinstance(path, WrittenPath):
        paths = {row: path.names(row[0] or "") for row in set(rows)}
    else:
        paths = {row: list(takewhile(bool, row)) for row in set(rows)}
    texts = {row: json.dumps(names, ensure_ascii=False) if names else None for row, names in paths.items()}
    return pl.Series(field, [texts[row] for row in rows], dtype=pl.String)


def json_objects(frame: pl.DataFrame, columns: Mapping[str, str], field: str) -> pl.Series:
    """A JSON object of each row: name -> text of its column, without empty ones."""
    names = sorted(columns)
    if not names:
        return pl.Series(field, ["{}"] * frame.height, dtype=pl.String)
    rows = frame.select(pl.col(columns[name]).str.strip_chars().alias(name) for name in names).iter_rows()
    objects = ({name: text for name, text in zip(names, row, strict=True) if text} for row in rows)
    return pl.Series(field, [json.dumps(o, ensure_ascii=False) for o in objects], dtype=pl.String)


@dataclass(slots=True)
class ReadingEvidence:
    times: TimeEvidence | None
    """None where the format is known; likewise the decimals."""
    decimals: DecimalEvidence | None
    money: Counter[str] = _field(default_factory=Counter)
    """Currency signs at prices."""
    currency_codes: Counter[str] = _field(default_factory=Counter)
    float_ids: dict[str, bool] = _field(default_factory=dict)
    n_rows: int = 0

    def add(self, fields: pl.DataFrame) -> None:
        self.n_rows += fields.height
        for name in _ID_FIELDS:
            if name in fields.columns and self.float_ids.get(name) is not False:
                ids = fields[name].drop_nulls().str.strip_chars()
                ids = ids.filter(ids != "")
                if len(ids):
                    self.float_ids[name] = bool(ids.str.contains(FLOAT_ID).all())
        if self.times and "timestamp" in fields.columns:
            self.times.add(fields["timestamp"])
        for name in _NUMBER_FIELDS:
            if name in fields.columns and self.decimals:
                self.decimals.add(fields[name])
            if name in fields.columns and name in _MONEY_FIELDS:
                self.money += currencies(fields[name])
        if "currency" in fields.columns:
            codes = fields["currency"].drop_nulls().str.strip_chars().str.to_uppercase()
            self.currency_codes.update(dict(codes.value_counts().iter_rows()))

    def settled(self) -> bool:
        return (
            self.n_rows > 0
            and not any(self.float_ids.values())
            and all(evidence is None or evidence.settled for evidence in (self.times, self.decimals))
        )


def settle_schema(
    reader: RecordReader, table: Table, options: IngestOptions, column_map: ColumnMap, file: str
) -> FileSchema:
    """`options` include those of the map. Raises `IngestError`."""
    if table is Table.EVENTS and not (column_map.reject or column_map.returns):
        fills = {*chain.from_iterable(column_map.columns.values())}
        others = [name for name in reader.columns if name not in fills]
        states = [name for name in others if normal(name) in STATE_COLUMNS]
        column_map = column_map.model_copy(update=order_rules(states))
    schema = find_columns(reader.columns, table, column_map, file)
    check_zone(options.tz)
    declared = declared_format(options.ts_format, options.tz) if options.ts_format else None
    decimal = options.decimal or reader.decimal
    filled = {*schema.columns, *column_map.built_fields, *column_map.defaults}
    has_numbers = not filled.isdisjoint(("quantity", "price", "value"))
    evidence = ReadingEvidence(
        times=TimeEvidence() if "timestamp" in filled and declared is None else None,
        decimals=DecimalEvidence() if has_numbers and decimal is None else None,
    )
    for chunk in reader.chunks():
        if chunk.frame.height:
            evidence.add(schema.fields(chunk.frame))
        if evidence.settled():
            break
    times = evidence.times.decide(file, options.date_order, options.tz) if evidence.times else declared
    if options.ts_format == "epoch" and times and times.kind != "epoch":
        raise IngestError("E_TIMESTAMP", f"{file}: --read ts_format=epoch, but the times are not epoch numbers")
    currency = file_currency(evidence, table, options, file)
    signs = {sign for sign in distinct_currencies(evidence.money) if len(sign) == 3}
    is_said = options.currency is not None or bool(evidence.currency_codes)
    return replace(
        schema,
        is_foreign=table is Table.EVENTS and not is_said and bool(signs) and signs != {currency},
        decimal=evidence.decimals.decide(file) if evidence.decimals else decimal or ".",
        times=times,
        float_ids=frozenset(name for name, all_float in evidence.float_ids.items() if all_float),
        currency=currency,
    )


def file_currency(
    evidence: ReadingEvidence,
    table: Table,
    options: IngestOptions,
    file: str,
) -> str | None:
    signs = distinct_currencies(evidence.money)
    if len(signs) > 1 and not evidence.currency_codes:
        raise IngestError(
            "E_MIXED_CURRENCY",
            f"{file}: prices in {' and '.join(sorted(signs))} and no currency column; add one, or split the file",
        )
    if options.currency:
        return options.currency.upper()
    if codes := evidence.currency_codes:
        # of equally common ones the first by name, so that the result is the same again
        commonest: str | None = min(codes, key=lambda code: (-codes[code], code))
    else:
        commonest = next((sign for sign in signs if len(sign) == 3), None)
    shop = options.shop_currency.upper() if options.shop_currency else None
    return (shop or commonest) if table is Table.EVENTS else (commonest or shop)
