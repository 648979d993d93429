"""Exports known without a map, each a TOML file in `known/`; `source.toml` shows its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from recllm.base.documents import toml_table
from recllm.base.errors import IngestError, UsageError
from recllm.base.files import write_whole
from recllm.base.schema import Purpose, Table
from recllm.base.words.sentences import language
from recllm.shop.ingest.column_names import NOTES, normal
from recllm.shop.ingest.load import open_records
from recllm.shop.ingest.options import ColumnMap, IngestOptions, Names, RejectRule, _Part, test_rules
from recllm.shop.ingest.posted import Posted
from recllm.shop.ingest.read.source import SourceFile, find_decoding, probe, reads_as
from recllm.shop.ingest.tables import DENIED

ORDER = (Table.ITEMS, Table.USERS, Table.EVENTS)
OWN_KINDS = "file-kinds.json"
"""Of a workspace."""
_KNOWN = files("recllm.shop.ingest") / "known"


class ConsentColumns(_Part):
    columns: Mapping[str, Purpose] = {}
    timestamp: str | Mapping[str, str] | None = None
    nothing: Names = ()
    says: Mapping[str, Literal["yes", "no"]] = {}
    addresses: Mapping[Purpose, Names] = {}
    """Purpose -> columns of addresses; an agreement counts where one is filled."""

    def time_column(self, column: str) -> str | None:
        """The column with the time of another column's answer."""
        if column in self.says:
            return column
        return self.timestamp.get(column) if isinstance(self.timestamp, Mapping) else self.timestamp


class SourceWords(_Part):
    title: str
    caveats: tuple[str, ...] = ()
    gives_nothing: str | None = None


class FileSource(SourceWords):
    name: str
    signature: tuple[Names, ...]
    encodings: Names = ()
    languages: Mapping[str, Mapping[str, Names]] = {}
    """Language -> name of a column in the maps -> its names in that language."""
    zh: SourceWords | None = None
    consent: ConsentColumns | None = None
    posted: Posted = Posted()
    items: ColumnMap | None = None
    users: ColumnMap | None = None
    events: ColumnMap | None = None

    @property
    def maps(self) -> dict[Table, ColumnMap]:
        of_table = {table: getattr(self, table.value) for table in ORDER}
        return {table: column_map for table, column_map in of_table.items() if column_map is not None}

    @property
    def agreements(self) -> dict[str, Purpose]:
        consent = self.consent or ConsentColumns()
        return {name: purpose for name, purpose in consent.columns.items() if consent.says.get(name) != "no"}

    def words(self, locale: str) -> SourceWords:
        """Its texts in the language of a locale, else in English."""
        if self.zh is not None and language(locale) == "zh":
            return self.zh
        return SourceWords(title=self.title, caveats=self.caveats, gives_nothing=self.gives_nothing)

    def missing(self, columns: Sequence[str]) -> list[str]:
        """Names of the signature that are not among the columns."""
        present = {normal(column) for column in columns}
        return [names[0] for names in self.signature if present.isdisjoint(map(normal, names))]

    def telling(self, columns: Sequence[str]) -> list[str]:
        """The columns of a file that belong to the signature, under the file's names."""
        signature = {normal(name) for names in self.signature for name in names}
        renames = next((column_map.renames for column_map in self.maps.values()), {})
        return [column for column in columns if normal(renames.get(column, column)) in signature]

    def translations(self, columns: Sequence[str]) -> list[dict[str, str]]:
        """For each language: the file's columns -> their names in the maps."""
        by_normal = {normal(column): column for column in reversed(columns)}
        tables = []
        for names in self.languages.values():
            pairs = ((by_normal.get(normal(word)), name) for name, words in names.items() for word in words)
            tables.append({column: name for column, name in pairs if column is not None})
        return tables

    def of_file(self, columns: Sequence[str], renames: Mapping[str, str]) -> FileSource:
        """For a file with these columns. renames: the file's names -> those of the maps."""
        maps = {table.value: m.model_copy(update={"renames": renames}) for table, m in self.maps.items()}
        consent = self.consent
        if consent is not None:
            own_names = {name: column for column, name in renames.items()}
            of_consent = {own_names.get(name, name): purpose for name, purpose in consent.columns.items()}
            present = {name: purpose for name, purpose in of_consent.items() if normal(name) in map(normal, columns)}
            consent = consent.model_copy(update={"columns": present})
        return self.model_copy(update={**maps, "consent": consent})


_KINDS = TypeAdapter(list[FileSource])


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognised:
    """A kind that a file is, or almost is."""

    source: FileSource
    missing: tuple[str, ...] = ()
    """Names of its signature that the file lacks; empty where it is of this kind."""
    encoding: str | None = None
    """Of a file that is not UTF-8."""


@cache
def known_sources() -> Mapping[str, FileSource]:
    """By name, sorted."""
    sources = {}
    for file in sorted(_KNOWN.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".toml"):
            name = file.name.removesuffix(".toml")
            table: dict[str, Any] = dict(toml_table(file.read_text("utf-8")))
            for kind in set(table) & {*map(str, ORDER)}:
                table[kind] = {"table": kind, "optional": True, "doubled": "first", **table[kind]}
                if kind != Table.EVENTS and Table.EVENTS in table:  # a catalogue says more of a product than an order
                    table[kind] = {"keep": "most_common", "only_new": True, **table[kind]}
                if kind != Table.USERS:
                    table[kind]["reject"] = [*table[kind].get("reject", ()), *test_rules(NOTES)]
            sources[name] = FileSource(name=name, **table)
    return sources


def own_kinds(folder: Path) -> list[FileSource]:
    """Files that `recllm start` read by maps. Raises `UsageError` for a damaged list."""
    path = folder / OWN_KINDS
    try:
        return _KINDS.validate_json(path.read_bytes()) if path.exists() else []
    except ValueError:
        raise UsageError(f"{path} is damaged; remove it, and run recllm start again") from None


def keep_kinds(folder: Path, kinds: Sequence[FileSource]) -> None:
    """For later files with all columns of one; of equal columns the latest counts."""
    of_columns = {kind.signature: kind for kind in (*own_kinds(folder), *kinds)}
    dump = _KINDS.dump_json([*of_columns.values()], by_alias=True, exclude_defaults=True)
    write_whole(folder / OWN_KINDS, dump)


def own_map(folder: Path, path: Path, table: Table, options: IngestOptions) -> ColumnMap:
    """Of one of `own_kinds` with the file's columns, else an empty one."""
    kinds = [kind for kind in own_kinds(folder) if table in kind.maps]
    columns = open_records(probe(path), options, ColumnMap()).columns if kinds else ()
    return next((kind.maps[table] for kind in kinds if not kind.missing(columns)), ColumnMap())


def consent_maps(source: FileSource, consent_from: Sequence[str] = ()) -> list[ColumnMap]:
    """Of all decisions in `consent_from`, and refusals in other columns. Raises `UsageError` for no such column."""
    consent = source.consent or ConsentColumns()
    columns = {normal(name): name for name in consent.columns}
    for column in consent_from:
        if normal(column) not in columns:
            remedy = f"; it has {', '.join(columns.values())}" if columns else ""
            raise UsageError(f"--consent-from {column!r}: {source.title} has no such column of consent{remedy}")
    with_yes = {columns[normal(column)] for column in consent_from}
    names = (name for name in columns.values() if name in with_yes or consent.says.get(name) != "yes")
    return [consent_map(consent, source.users or ColumnMap(), name, with_yes=name in with_yes) for name in names]


def consent_map(consent: ConsentColumns, people: ColumnMap, column: str, *, with_yes: bool) -> ColumnMap:
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
    reject = list(people.reject)
    if consent.says.get(name) != "no":
        silent = {"column": name, "empty": True, "in": consent.nothing, "reason": "nothing was said"}
        reject.append(RejectRule.model_validate(silent))
    if addresses := consent.addresses.get(consent.columns[column]):  # a refusal needs none
        refusals = [form(word) for word in DENIED for form in (str, str.upper, str.title, str.capitalize)]
        agrees = {"column": name, "not_in": refusals, "unless": addresses, "reason": "no address"}
        reject.append(RejectRule.model_validate(agrees))
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
            **{key: {} for key in ("joins", "totals", "paths", "attributes", "basics")},
            "returns": (),
            "reject": tuple(reject),
        }
    )


def recognise_file(path: Path, options: IngestOptions, of_shop: Sequence[FileSource] = ()) -> Recognised:
    """By the header. of_shop: `own_kinds`.
    Raises `IngestError` as reading and `recognise` do, and E_SOURCE for a kind without tables."""
    sources = [*of_shop, *known_sources().values()]
    names = {name for source in sources for names in source.signature for name in names}
    names |= {
        word for source in sources for table in source.languages.values() for words in table.values() for word in words
    }
    header = ColumnMap(columns={"user_id": tuple(sorted(names))}, doubled="first")  # names that prove an encoding
    file = probe(path)
    try:
        records = open_records(file, options, header)
        recognised = recognise(records.columns, path.name, of_shop)
        if "W_ENCODING" in records.warnings:  # a map of one table has fewer names
            recognised = replace(recognised, encoding=find_decoding(file, options, header).encoding)
    except IngestError as error:
        if error.code != "E_ENCODING" or options.encoding is not None:
            raise
        recognised = recognise_by_encoding(file, options, header, error)
    kind = recognised.source
    if kind.gives_nothing is not None:
        raise IngestError(
            "E_SOURCE", f"{path.name} is {kind.title}, of which nothing can be taken in: {kind.gives_nothing}"
        )
    return recognised


def recognise_by_encoding(
    file: SourceFile, options: IngestOptions, header: ColumnMap, error: IngestError
) -> Recognised:
    """By an encoding of the kind. Raises `error` where the text is plausible in none."""
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


def recognise(columns: Sequence[str], file: str, of_shop: Sequence[FileSource] = ()) -> Recognised:
    """The one with the longest signature. Raises E_SOURCE for none, with the three nearest."""
    if fitting := [kind for kind in best_readings(columns, of_shop) if not kind.missing]:
        return max(fitting, key=lambda kind: len(kind.source.signature))
    listed = "; ".join(f"{k.source.title} (missing: {', '.join(k.missing[:5])})" for k in nearest_kinds(columns))
    raise IngestError(
        "E_SOURCE",
        f"{file}: of no known kind. Nearest: {listed}. Say what it is: --table events, items, users or consent, with "
        "--map FILE where its columns have other names",
    )


def nearest_kinds(columns: Sequence[str], n: int = 3, of_shop: Sequence[FileSource] = ()) -> list[Recognised]:
    """The kinds with the smallest missing share of their signature, the nearest first."""
    return sorted(best_readings(columns, of_shop), key=lambda kind: len(kind.missing) / len(kind.source.signature))[:n]


def best_readings(columns: Sequence[str], of_shop: Sequence[FileSource] = ()) -> list[Recognised]:
    """Each kind, in the language with the fewest missing columns."""
    kinds = []
    for source in (*of_shop, *known_sources().values()):
        readings: list[Recognised] = []
        for renames in ({}, *source.translations(columns)):
            missing = source.missing([renames.get(column, column) for column in columns])
            readings.append(Recognised(source=source.of_file(columns, renames), missing=tuple(missing)))
        kinds.append(min(readings, key=lambda kind: len(kind.missing)))
    return kinds
