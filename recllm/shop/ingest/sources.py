"""Exports of shop systems that are known without a map: what a file is, which tables it gives, and what it cannot tell.

A source is a TOML file in `known/`:

title = "Shopify: orders"
signature = ["Name", "Lineitem name"]   # columns that such a file always has; a list within it: one of these
caveats = ["..."]                       # what whoever loads it has to know
encodings = ["cp1252"]                  # tried where a file is not UTF-8 and its header fits in one of them
gives_nothing = "..."                   # of a kind of which no table can be made: why, and which export can
[languages.de]                          # names of columns where the system speaks another language
Type = "Typ"                            # or a list, as in a signature
[consent]                               # a no is always taken in, a yes only where somebody says so
columns = { "Accepts Marketing" = "email" }
timestamp = "Created at"                # when it was given, or { column = "Created at" } for each of them; the time
                                        # of the load where there is none
nothing = ["never asked"]               # answers that say nothing
says = { "Unsubscribed at" = "no" }     # columns of times: what everybody agreed to or took back who has one; with
                                        # "no" everybody in the file did, those without a time at the load
[events]                                # the maps of the tables that it gives, see `recllm.shop.ingest.options`
columns = { user_id = "Email" }
[zh]                                    # title, caveats and gives_nothing for Chinese readers
title = "..."
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from recllm.base.documents import toml_table
from recllm.base.errors import IngestError, UsageError
from recllm.base.schema import Purpose, Table
from recllm.base.words.sentences import language
from recllm.shop.ingest.column_names import normal
from recllm.shop.ingest.load import open_records
from recllm.shop.ingest.options import ColumnMap, IngestOptions, Names, RejectRule, _Part
from recllm.shop.ingest.read.source import SourceFile, find_decoding, probe, reads_as

ORDER = (Table.ITEMS, Table.USERS, Table.EVENTS)
"""In which the tables of a file are loaded: products and people before what they did."""
_KNOWN = files("recllm.shop.ingest") / "known"


class ConsentColumns(_Part):
    """Columns that say whether somebody agreed to something."""

    columns: Mapping[str, Purpose]
    timestamp: str | Mapping[str, str] | None = None
    nothing: Names = ()
    says: Mapping[str, Literal["yes", "no"]] = {}

    def time_column(self, column: str) -> str | None:
        """The column that says when the answer in another one was given."""
        if column in self.says:
            return column
        return self.timestamp.get(column) if isinstance(self.timestamp, Mapping) else self.timestamp


class SourceWords(_Part):
    """What people are told of one kind of export."""

    title: str
    caveats: tuple[str, ...] = ()
    gives_nothing: str | None = None


class FileSource(_Part):
    """One kind of export."""

    name: str
    title: str
    signature: tuple[Names, ...]
    """What such a file has: of each entry one of its names."""
    caveats: tuple[str, ...] = ()
    encodings: Names = ()
    """What such files are written in where they are not UTF-8."""
    languages: Mapping[str, Mapping[str, Names]] = {}
    """Language -> name of a column in the maps -> its names in that language."""
    gives_nothing: str | None = None
    """Why no table can be made of it, where that is so."""
    zh: SourceWords | None = None
    """The same words in Chinese; `told` chooses."""
    consent: ConsentColumns | None = None
    items: ColumnMap | None = None
    users: ColumnMap | None = None
    events: ColumnMap | None = None

    @property
    def maps(self) -> dict[Table, ColumnMap]:
        """In the order in which they are loaded."""
        of_table = {table: getattr(self, table.value) for table in ORDER}
        return {table: column_map for table, column_map in of_table.items() if column_map is not None}

    @property
    def agreements(self) -> dict[str, Purpose]:
        """The columns in which people may agree to something, and to what."""
        consent = self.consent or ConsentColumns(columns={})
        return {name: purpose for name, purpose in consent.columns.items() if consent.says.get(name) != "no"}

    def told(self, locale: str) -> SourceWords:
        """Its title and caveats in the language of a locale; in English where there is no other."""
        if self.zh is not None and language(locale) == "zh":
            return self.zh
        return SourceWords(title=self.title, caveats=self.caveats, gives_nothing=self.gives_nothing)

    def missing(self, columns: Sequence[str]) -> list[str]:
        """Of the signature, what is not among the columns of a file."""
        present = {normal(column) for column in columns}
        return [names[0] for names in self.signature if present.isdisjoint(map(normal, names))]

    def telling(self, columns: Sequence[str]) -> list[str]:
        """The columns of a file of this kind by which it was told, as the file calls them."""
        signature = {normal(name) for names in self.signature for name in names}
        renames = next((column_map.renames for column_map in self.maps.values()), {})
        return [column for column in columns if normal(renames.get(column, column)) in signature]

    def translations(self, columns: Sequence[str]) -> list[dict[str, str]]:
        """Of each language that the source knows, the file's columns that it names -> their names in the maps."""
        by_normal = {normal(column): column for column in reversed(columns)}
        tables = []
        for names in self.languages.values():
            pairs = ((by_normal.get(normal(word)), name) for name, words in names.items() for word in words)
            tables.append({column: name for column, name in pairs if column is not None})
        return tables

    def of_file(self, columns: Sequence[str], renames: Mapping[str, str]) -> FileSource:
        """The source for a file with these columns, of which some have other names: the file's own -> those of the
        maps."""
        maps = {table.value: m.model_copy(update={"renames": renames}) for table, m in self.maps.items()}
        consent = self.consent
        if consent is not None:
            own_names = {name: column for column, name in renames.items()}
            of_consent = {own_names.get(name, name): purpose for name, purpose in consent.columns.items()}
            present = {name: purpose for name, purpose in of_consent.items() if normal(name) in map(normal, columns)}
            consent = consent.model_copy(update={"columns": present})
        return self.model_copy(update={**maps, "consent": consent})


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognised:
    """What a file was taken for."""

    source: FileSource
    alternatives: tuple[FileSource, ...] = ()
    """Other kinds that it could be as well, with fewer columns to tell them by."""
    encoding: str | None = None
    """What it is written in, where it is not UTF-8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NearKind:
    """A kind that a file almost is."""

    source: FileSource
    missing: tuple[str, ...]
    """Of its signature, what the file lacks; empty where it is of this kind."""


@cache
def known_sources() -> Mapping[str, FileSource]:
    """By name, sorted."""
    sources = {}
    for file in sorted(_KNOWN.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".toml"):
            name = file.name.removesuffix(".toml")
            table: dict[str, Any] = dict(toml_table(file.read_text("utf-8")))
            for part in set(table) & {*map(str, ORDER)}:
                table[part] = {"table": part, "optional": True, "doubled": "first", **table[part]}
                if part != Table.EVENTS and Table.EVENTS in table:  # an order says less of a product than a catalogue
                    table[part] = {"keep": "most_common", "only_new": True, **table[part]}
            try:
                sources[name] = FileSource(name=name, **table)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                raise IngestError("E_MAP", f"{file.name}: {'.'.join(map(str, first['loc']))} {first['msg']}") from error
    return sources


def consent_maps(source: FileSource, consent_from: Sequence[str] = ()) -> list[ColumnMap]:
    """The maps of the consent table, one for each column of consent: with who agreed for the columns of `consent_from`,
    and for the others with who refused alone. Raises `UsageError` for one that is no such column."""
    consent = source.consent or ConsentColumns(columns={})
    columns = {normal(name): name for name in consent.columns}
    for column in consent_from:
        if normal(column) not in columns:
            remedy = f"; it has {', '.join(columns.values())}" if columns else ""
            raise UsageError(f"--consent-from {column!r}: {source.title} has no such column of consent{remedy}")
    with_yes = {columns[normal(column)] for column in consent_from}
    names = (name for name in columns.values() if name in with_yes or consent.says.get(name) != "yes")
    return [_consent_map(consent, source.users or ColumnMap(), name, with_yes=name in with_yes) for name in names]


def _consent_map(consent: ConsentColumns, people: ColumnMap, column: str, *, with_yes: bool) -> ColumnMap:
    constants, defaults = {"purpose": consent.columns[column].value}, {}
    name = people.renames.get(column, column)
    columns: dict[str, Any] = {"user_id": people.columns["user_id"]}
    if name in consent.says:
        constants["granted"] = consent.says[name]
    else:
        columns["granted"] = (name,)
    now, at = datetime.now(UTC).isoformat(), consent.time_column(name)
    if at is None:
        constants["timestamp"] = now
    else:
        columns["timestamp"], defaults["timestamp"] = (at,), now
    silent = {"column": name, "empty": True, "in": consent.nothing, "reason": "nothing was said"}
    return people.model_copy(
        update={
            "table": Table.CONSENT,
            "keep": "all",
            "only_new": False,
            "only_refusals": "granted" in columns and not with_yes,
            "columns": columns,
            "constants": constants,
            "defaults": defaults,
            "values": {},
            **{part: {} for part in ("joins", "totals", "paths", "attributes", "basics")},
            "returns": (),
            "reject": (
                *people.reject,
                *([] if consent.says.get(name) == "no" else [RejectRule.model_validate(silent)]),
            ),
        }
    )


def recognise_file(path: Path, options: IngestOptions) -> Recognised:
    """By the header of a file. Raises `IngestError` as reading it does, as `recognise` does, and E_SOURCE for a kind of
    which nothing can be taken in."""
    sources = known_sources().values()
    names = {name for source in sources for names in source.signature for name in names}
    names |= {
        word for source in sources for table in source.languages.values() for words in table.values() for word in words
    }
    header = ColumnMap(columns={"user_id": tuple(sorted(names))}, doubled="first")  # by them an encoding can be told
    file = probe(path)
    try:
        records = open_records(file, options, header)
        recognised = recognise(records.columns, path.name)
        if "W_ENCODING" in records.warnings:  # a map of one table has fewer names to tell it by
            recognised = replace(recognised, encoding=find_decoding(file, options, header).encoding)
    except IngestError as error:
        if error.code != "E_ENCODING" or options.encoding is not None:
            raise
        recognised = _by_encoding(file, options, header, error)
    kind = recognised.source
    if kind.gives_nothing is not None:
        raise IngestError(
            "E_SOURCE", f"{path.name} is {kind.title}, of which nothing can be taken in: {kind.gives_nothing}"
        )
    return recognised


def _by_encoding(file: SourceFile, options: IngestOptions, header: ColumnMap, error: IngestError) -> Recognised:
    """The kind of a file that is not UTF-8, by an encoding that this kind is written in. Raises `error` where there is
    no such kind, and for a text that means nothing in that encoding."""
    for encoding in sorted({encoding for source in known_sources().values() for encoding in source.encodings}):
        if not reads_as(file.head.decode(encoding, errors="replace"), encoding):
            continue
        try:
            records = open_records(file, options.model_copy(update={"encoding": encoding}), header)
            recognised = recognise(records.columns, file.path.name)
        except IngestError:
            continue
        if encoding in recognised.source.encodings:
            return replace(recognised, encoding=encoding)
    raise error


def recognise(columns: Sequence[str], file: str) -> Recognised:
    """By the names of its columns: the kind of which most columns are there, all of its signature.

    Raises `IngestError` E_SOURCE for none, with the nearest three and what is missing for them.
    """
    kinds = _readings(columns)
    fitting = sorted((kind for kind in kinds if not kind.missing), key=lambda kind: -len(kind.source.signature))
    if fitting:
        source, *further = [kind.source for kind in fitting]
        # one whose whole signature is in that of the first says less of the same
        alternatives = (kind for kind in further if not {*kind.signature} <= {*source.signature})
        return Recognised(source=source, alternatives=tuple(alternatives))
    listed = "; ".join(f"{k.source.title} (missing: {', '.join(k.missing[:5])})" for k in nearest_kinds(columns))
    raise IngestError(
        "E_SOURCE",
        f"{file}: of no known kind. Nearest: {listed}. Say what it is: --table events, items, users or consent, with "
        "--map FILE where its columns have other names",
    )


def nearest_kinds(columns: Sequence[str], n: int = 3) -> list[NearKind]:
    """The kinds of whose signature the smallest share is missing among the columns, the nearest first."""
    return sorted(_readings(columns), key=lambda kind: len(kind.missing) / len(kind.source.signature))[:n]


def _readings(columns: Sequence[str]) -> list[NearKind]:
    """Each known kind, read in the language of which it lacks least, by name."""
    kinds = []
    for source in known_sources().values():
        readings: list[NearKind] = []
        for renames in ({}, *source.translations(columns)):
            missing = source.missing([renames.get(column, column) for column in columns])
            readings.append(NearKind(source=source.of_file(columns, renames), missing=tuple(missing)))
        kinds.append(min(readings, key=lambda kind: len(kind.missing)))
    return kinds
