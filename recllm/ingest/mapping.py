"""Column maps: how one shop's file says what a table means. A map is a TOML file; see `maps/` for examples.

table = "events"                        # the table that it is for
keep = "most_common"                    # items or users out of a log: one row each, every field its commonest value
special = ["health"]                    # special-category columns that may be taken in as basics

[read]                                  # what IngestOptions may say too, which then wins:
tz = "UTC"                              #   encoding, delimiter, decimal, tz, ts_format, date_order, currency
[columns]
user_id = "household_id"                # or several names, the first that is there counts
[constants]
event = "purchase"
[joins]                                 # one text of several columns, empty ones left out; "otherwise" stands
                                        # in for the first column where that is empty
title = { columns = ["product_type", "package_size"], separator = " ", otherwise = ["product_category"] }
[paths]                                 # the category, widest name first
category = ["department", "product_category"]
[totals]                                # unit price = line total / quantity
price = { total = "sales_value", per = "quantity" }
[attributes]                            # items: name = "column"
size = "package_size"
[basics]                                # users: name = "column"
age = "age"
[values.event]                          # translations of single values, matched without case
alipay = "purchase"
[[reject]]                              # rows that are not meant: quarantined as E_MAP_REJECT, never held
column = "StockCode"                    # against the reject limit
in = ["POST", "DOT"]                    # or: matches = "^gift", or: empty = true
reason = "not a product"
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from recllm.errors import IngestError
from recllm.ingest.header import FIELDS
from recllm.schema import Table

READ_OPTIONS = ("encoding", "delimiter", "decimal", "tz", "ts_format", "date_order", "currency")


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    columns: tuple[str, ...]
    separator: str = " "
    otherwise: tuple[str, ...] = ()
    """What stands in for the first column in rows where it is empty: the first of these that is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """A unit price that is the `total` column divided by the `per` column."""

    total: str
    per: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectRule:
    """Rows to leave out: the column is empty, or one of `values`, or matched by `matches`."""

    column: str
    reason: str
    values: tuple[str, ...] = ()
    matches: str | None = None
    empty: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Map:
    """A column map; the module's docstring explains each part."""

    name: str = ""
    table: Table | None = None
    read: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)
    joins: Mapping[str, Join] = field(default_factory=dict)
    paths: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    totals: Mapping[str, Total] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)
    basics: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    reject: tuple[RejectRule, ...] = ()
    special: tuple[str, ...] = ()
    keep: str = "all"


def shipped_maps() -> list[str]:
    """Names of the maps that come with the package."""
    return sorted(p.name.removesuffix(".toml") for p in _folder().iterdir() if p.name.endswith(".toml"))


def load_map(name_or_path: str | Path) -> Map:
    """A shipped map by name, or a TOML file by path. Raises `IngestError` E_MAP."""
    shipped = shipped_maps()
    if str(name_or_path) in shipped:
        return parse_map((_folder() / f"{name_or_path}.toml").read_text("utf-8"), str(name_or_path))
    try:
        text = Path(name_or_path).read_text("utf-8")
    except (OSError, UnicodeDecodeError, ValueError):
        raise IngestError(
            "E_MAP", f"there is no map {str(name_or_path)!r}; shipped maps: {', '.join(shipped)}; or give a TOML file"
        ) from None
    return parse_map(text, str(name_or_path))


def parse_map(text: str, name: str) -> Map:
    """A map from TOML text. Every key has to be known. Raises `IngestError` E_MAP."""
    try:
        table = tomllib.loads(text)
        return _build(table, name)
    except (tomllib.TOMLDecodeError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise IngestError("E_MAP", f"map {name}: {error}") from error


def _folder() -> Any:
    return files("recllm.ingest") / "maps"


def _build(table: dict[str, Any], name: str) -> Map:
    unknown = set(table) - {f.name for f in fields(Map)} | ({"name"} & set(table))
    if unknown:
        raise ValueError(f"unknown part {', '.join(sorted(unknown))}")
    found = Map(
        name=name,
        table=Table(table["table"]) if "table" in table else None,
        read=_texts(table.get("read", {}), READ_OPTIONS),
        columns={f: _names(c) for f, c in table.get("columns", {}).items()},
        constants=_texts(table.get("constants", {})),
        joins={
            f: Join(
                columns=_names(j["columns"]),
                separator=j.get("separator", " "),
                otherwise=_names(j.get("otherwise", ())),
            )
            for f, j in _parts(table, "joins")
        },
        paths={f: _names(c) for f, c in _parts(table, "paths")},
        totals={f: Total(**_texts(t, ("total", "per"))) for f, t in _parts(table, "totals")},
        attributes=_texts(table.get("attributes", {})),
        basics=_texts(table.get("basics", {})),
        values={f: {k.casefold(): v for k, v in _texts(t).items()} for f, t in _parts(table, "values")},
        reject=tuple(_rule(r) for r in table.get("reject", [])),
        special=_names(table.get("special", [])),
        keep=table.get("keep", "all"),
    )
    _check(found)
    return found


def _check(found: Map) -> None:
    if found.keep not in {"all", "most_common"}:
        raise ValueError(f'keep is "all" or "most_common", not {found.keep!r}')
    if found.keep == "most_common" and found.table not in {Table.ITEMS, Table.USERS}:
        raise ValueError('keep = "most_common" is for items and users')
    if found.table is None:
        return
    known = set(FIELDS[found.table].all)
    for part in ("columns", "constants", "joins", "paths", "totals", "values"):
        strange = sorted(set(getattr(found, part)) - known)
        if strange:
            raise ValueError(f"[{part}] {', '.join(strange)} is no field of {found.table}; fields: {', '.join(known)}")


def _parts(table: dict[str, Any], key: str) -> list[tuple[str, Any]]:
    return list(table.get(key, {}).items())


def _texts(part: dict[str, Any], known: tuple[str, ...] | None = None) -> dict[str, str]:
    for key, value in part.items():
        if not isinstance(value, str):
            raise TypeError(f"{key} has to be a text, not {value!r}")
        if known is not None and key not in known:
            raise ValueError(f"unknown {key}; known: {', '.join(known)}")
    return dict(part)


def _names(part: Any) -> tuple[str, ...]:
    names = (part,) if isinstance(part, str) else tuple(part)
    if not all(isinstance(n, str) for n in names):
        raise TypeError(f"expected a column name or a list of them, not {part!r}")
    return names


def _rule(rule: dict[str, Any]) -> RejectRule:
    unknown = set(rule) - {"column", "in", "matches", "empty", "reason"}
    if unknown or "column" not in rule or not rule.keys() & {"in", "matches", "empty"}:
        raise ValueError("[[reject]] takes column, reason and one of in, matches, empty")
    if "matches" in rule:
        _check_pattern(rule["matches"])
    return RejectRule(
        column=rule["column"],
        reason=rule.get("reason", "left out by the map"),
        values=_names(rule.get("in", [])),
        matches=rule.get("matches"),
        empty=bool(rule.get("empty", False)),
    )


def _check_pattern(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"[[reject]] matches = {pattern!r} is not a pattern: {error}") from error
