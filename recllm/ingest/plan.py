"""A header and a map become a plan: which column, constant or combination fills each field of the table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile

import polars as pl

from recllm.errors import IngestError
from recllm.ingest.header import BASICS, FIELDS, candidates, is_special, nearest, normal
from recllm.ingest.mapping import Join, Map, RejectRule, Total
from recllm.schema import Table

TOTAL = "(line total)"
"""Name of the helper field that holds a line total until the unit price is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Column names are the file's own. `columns` holds plain fields; the rest is as in `Map`."""

    table: Table
    columns: Mapping[str, str]
    constants: Mapping[str, str]
    joins: Mapping[str, Join]
    paths: Mapping[str, tuple[str, ...]]
    totals: Mapping[str, Total]
    attributes: Mapping[str, str]
    basics: Mapping[str, str]
    values: Mapping[str, Mapping[str, str]]
    reject: tuple[RejectRule, ...]
    ignored: tuple[str, ...]
    aliases: int
    """Columns understood under another name."""
    keep: str

    def column_of(self, field: str) -> str:
        """How the file calls a field, for messages and the quarantine."""
        return self.columns.get(field, field)

    def has(self, field: str) -> bool:
        parts: tuple[Mapping[str, object], ...] = (self.columns, self.constants, self.joins, self.paths, self.totals)
        return any(field in part for part in parts)


class _Header:
    """Looks names up in a header by their normalised form."""

    def __init__(self, columns: tuple[str, ...], name: str) -> None:
        self.columns = columns
        self.name = name
        self.by_normal: dict[str, str] = {}
        for column in columns:
            twin = self.by_normal.setdefault(normal(column), column)
            if twin != column:
                raise IngestError("E_DUP_COLUMN", f"{name}: {twin!r} and {column!r} are the same name; remove one")

    def find(self, wanted: str) -> str | None:
        return self.by_normal.get(normal(wanted))

    def demand(self, wanted: str, field: str) -> str:
        found = self.find(wanted)
        if found is None:
            raise self.missing(wanted, field)
        return found

    def missing(self, wanted: str, field: str) -> IngestError:
        close = nearest(field, self.columns)
        hint = f"; did you mean {' or '.join(close)}? Say so with --map" if close else "; say which it is with --map"
        return IngestError(
            "E_MISSING_COLUMN", f"{self.name}: no column {wanted}; found {', '.join(self.columns[:30])}{hint}"
        )


def make_plan(columns: tuple[str, ...], table: Table, mapping: Map | None, name: str) -> Plan:
    """Raises `IngestError` for missing, doubled and special-category columns, or a map for another table."""
    mapping = mapping or Map()
    if mapping.table not in {None, table}:
        raise IngestError("E_MAP", f"map {mapping.name} is for {mapping.table}, not for {table}")
    header = _Header(columns, name)
    made = {*mapping.joins, *mapping.paths, *mapping.totals}
    plain, aliases = _plain_columns(header, table, mapping, made)
    joins = {
        f: replace(j, columns=_all(header, j.columns, f), otherwise=_all(header, j.otherwise, f))
        for f, j in mapping.joins.items()
    }
    paths = {f: _all(header, c, f) for f, c in mapping.paths.items()}
    totals = {
        f: Total(total=header.demand(t.total, f), per=header.demand(t.per, "quantity"))
        for f, t in mapping.totals.items()
    }
    basics, more = _basics(header, table, mapping, set(plain.values()))
    plan = Plan(
        table=table,
        columns=plain,
        constants=mapping.constants,
        joins=joins,
        paths=paths,
        totals=totals,
        attributes={a: header.demand(c, a) for a, c in mapping.attributes.items()},
        basics=basics,
        values=mapping.values,
        reject=tuple(_located(header, rule, mapping, plain) for rule in mapping.reject),
        ignored=(),
        aliases=aliases + more,
        keep=mapping.keep,
    )
    return _with_ignored(plan, columns)


def _plain_columns(header: _Header, table: Table, mapping: Map, made: set[str]) -> tuple[dict[str, str], int]:
    plain, aliases = {}, 0
    for field in FIELDS[table].all:
        if field in made or field in mapping.constants:
            continue
        named = mapping.columns.get(field, ())
        column = next((c for n in named if (c := header.find(n)) is not None), None)
        if column is None:
            column = _by_alias(header, field)
            aliases += column is not None and column != field
        if column is not None:
            plain[field] = column
        elif named or field in FIELDS[table].required:
            raise header.missing(" or ".join(named) or field, field)
    taken = Counter(c for c in plain.values())
    doubled = [c for c, n in taken.items() if n > 1]
    if doubled and not mapping.columns:
        raise IngestError("E_DUP_COLUMN", f"{header.name}: {doubled[0]!r} could mean two fields; say which with --map")
    return plain, aliases


def _by_alias(header: _Header, field: str) -> str | None:
    """The exact name if it is there, else the only column with another name of the field."""
    exact = header.find(field)
    if exact is not None:
        return exact
    names = candidates(field)
    found = [column for key, column in header.by_normal.items() if key in names]
    if len(found) > 1:
        raise IngestError(
            "E_DUP_COLUMN", f"{header.name}: {' and '.join(found)} could both be {field}; say which with --map"
        )
    return found[0] if found else None


def _basics(header: _Header, table: Table, mapping: Map, taken: set[str]) -> tuple[dict[str, str], int]:
    if table is not Table.USERS:
        return {}, 0
    special = [c for c in header.columns if is_special(c) and normal(c) not in {normal(s) for s in mapping.special}]
    if special:
        raise IngestError(
            "E_SPECIAL_CATEGORY",
            f"{header.name}: {', '.join(special)} holds specially protected personal data; remove the column, or "
            'declare it in the map (special = ["..."]) when there is a legal basis',
        )
    basics = {
        name: header.find(column) or _by_alias(header, name) or header.demand(column, name)
        for name, column in mapping.basics.items()
    }
    aliases = 0
    for name in BASICS:
        if name in basics:
            continue
        column = _by_alias(header, name)
        if column is not None and column not in taken and column not in basics.values():
            basics[name] = column
            aliases += column != name
    for name in mapping.special:
        if (column := header.find(name)) is not None:
            basics.setdefault(name, column)
    return basics, aliases


def _all(header: _Header, names: Iterable[str], field: str) -> tuple[str, ...]:
    return tuple(header.demand(n, field) for n in names)


def _located(header: _Header, rule: RejectRule, mapping: Map, plain: Mapping[str, str]) -> RejectRule:
    """A rule names its column as the map does; in a file with other names it is the field that the column fills."""
    column = header.find(rule.column)
    if column is None:
        key = normal(rule.column)
        fields = (f for f, names in mapping.columns.items() if key in {normal(n) for n in names})
        column = next((plain[f] for f in fields if f in plain), None)
    if column is None:
        known = (f for table in FIELDS.values() for f in table.all if normal(rule.column) in candidates(f))
        column = next((c for f in known if (c := _by_alias(header, f)) is not None), None)
    if column is None:
        raise header.missing(rule.column, rule.column)
    return replace(rule, column=column)


def _with_ignored(plan: Plan, columns: tuple[str, ...]) -> Plan:
    used = {*plan.columns.values(), *plan.attributes.values(), *plan.basics.values()}
    used |= {c for j in plan.joins.values() for c in (*j.columns, *j.otherwise)}
    used |= {c for path in plan.paths.values() for c in path}
    used |= {c for total in plan.totals.values() for c in (total.total, total.per)} | {r.column for r in plan.reject}
    ignored = tuple(c for c in columns if c not in used)
    return replace(plan, ignored=ignored)


def fields_of(plan: Plan, frame: pl.DataFrame) -> pl.DataFrame:
    """The table's fields as text, one row per row of `frame`; fields that the plan does not fill are left out."""
    columns = [pl.col(column).alias(field) for field, column in plan.columns.items()]
    columns += [pl.lit(v, dtype=pl.String).alias(f) for f, v in plan.constants.items()]
    columns += [_joined(join).alias(field) for field, join in plan.joins.items()]
    columns += [pl.col(t.total).alias(TOTAL) for t in plan.totals.values()]
    found = frame.select(columns)
    for field, translation in plan.values.items():
        if field in found.columns:
            found = found.with_columns(_translated(field, translation))
    extra = [_path(frame, f, c) for f, c in plan.paths.items()]
    if plan.attributes:
        extra.append(_json_objects(frame, plan.attributes, "attributes"))
    if plan.table is Table.USERS:
        extra.append(_json_objects(frame, plan.basics, "basics"))
    return found.with_columns(extra) if extra else found


def _translated(field: str, translation: Mapping[str, str]) -> pl.Expr:
    key = pl.col(field).str.strip_chars().str.to_lowercase()
    return pl.coalesce(
        key.replace_strict(list(translation), list(translation.values()), default=None, return_dtype=pl.String),
        pl.col(field),
    ).alias(field)


def _joined(join: Join) -> pl.Expr:
    parts = {c: pl.col(c).str.strip_chars() for c in (*join.columns, *join.otherwise)}
    told = {c: pl.when(part != "").then(part) for c, part in parts.items()}
    first, *others = join.columns
    lead = pl.coalesce([told[c] for c in (first, *join.otherwise)])
    return pl.concat_str([lead, *(told[c] for c in others)], separator=join.separator, ignore_nulls=True)


def _path(frame: pl.DataFrame, field: str, columns: tuple[str, ...]) -> pl.Series:
    """A JSON list from the widest name on; it ends at the first empty one, since a gap would shift all that follow."""
    rows = frame.select(pl.col(c).str.strip_chars() for c in columns).iter_rows()
    cache: dict[tuple[str | None, ...], str | None] = {}
    paths = []
    for row in rows:
        if row not in cache:
            parts = list(takewhile(bool, row))
            cache[row] = json.dumps(parts, ensure_ascii=False) if parts else None
        paths.append(cache[row])
    return pl.Series(field, paths, dtype=pl.String)


def _json_objects(frame: pl.DataFrame, names: Mapping[str, str], field: str) -> pl.Series:
    ordered = sorted(names)
    rows = frame.select(pl.col(names[n]).str.strip_chars() for n in ordered).iter_rows() if ordered else iter(())
    texts = (
        [json.dumps({n: v for n, v in zip(ordered, row, strict=True) if v}, ensure_ascii=False) for row in rows]
        if ordered
        else ["{}"] * frame.height
    )
    return pl.Series(field, texts, dtype=pl.String)
