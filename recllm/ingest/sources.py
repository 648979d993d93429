"""Exports of shop systems that are known without a map: what a file is, which tables it gives, and what it cannot tell.

A source is a TOML file in `known/`:

title = "Shopify: orders"
signature = ["Name", "Lineitem name"]   # columns that such a file always has; a list within it: one of these
caveats = ["..."]                       # what whoever loads it has to know
[consent]                               # taken in only where somebody says so
columns = { "Accepts Marketing" = "email" }
timestamp = "Created at"                # when it was given, or { column = "Created at" } for each of them; the time
                                        # of the load where there is none
values = { subscribed = "yes" }         # answers in other words, matched without case
nothing = ["never asked"]               # answers that say nothing
says = { "Unsubscribed at" = "no" }     # columns of times: what everybody agreed to or took back who has one; with
                                        # "no" those without a time did so at the load
[events]                                # the maps of the tables that it gives, see `recllm.ingest.options`
columns = { user_id = "Email" }
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from recllm.documents import toml_table
from recllm.errors import IngestError, UsageError
from recllm.ingest.column_names import normal
from recllm.ingest.load import open_records
from recllm.ingest.options import ColumnMap, IngestOptions, Names, ReadOptions, RejectRule, _Part
from recllm.ingest.read.source import probe
from recllm.policy import Policy
from recllm.schema import Purpose, Table

ORDER = (Table.ITEMS, Table.USERS, Table.EVENTS)
"""In which the tables of a file are loaded: products and people before what they did."""
_KNOWN = files("recllm.ingest") / "known"


class ConsentColumns(_Part):
    """Columns that say whether somebody agreed to something."""

    columns: Mapping[str, Purpose]
    timestamp: str | Mapping[str, str] | None = None
    values: Mapping[str, Literal["yes", "no"]] = {}
    nothing: Names = ()
    says: Mapping[str, Literal["yes", "no"]] = {}

    def time_column(self, column: str) -> str | None:
        """The column that says when the answer in another one was given."""
        if column in self.says:
            return column
        return self.timestamp.get(column) if isinstance(self.timestamp, Mapping) else self.timestamp


class FileSource(_Part):
    """One kind of export."""

    name: str
    title: str
    signature: tuple[Names, ...]
    """What such a file has: of each entry one of its names."""
    caveats: tuple[str, ...] = ()
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
    def encodings(self) -> frozenset[str]:
        """What such files are written in where they are not UTF-8."""
        return frozenset(m.read.encoding for m in self.maps.values() if m.read.encoding is not None)

    def missing(self, columns: Sequence[str]) -> list[str]:
        """Of the signature, what is not among the columns of a file."""
        present = {normal(column) for column in columns}
        return [names[0] for names in self.signature if present.isdisjoint(map(normal, names))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognised:
    """What a file was taken for."""

    source: FileSource
    alternatives: tuple[FileSource, ...] = ()
    """Other kinds that it could be as well, with fewer columns to tell them by."""


@cache
def known_sources() -> Mapping[str, FileSource]:
    """By name, sorted."""
    sources = {}
    for file in sorted(_KNOWN.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".toml"):
            name = file.name.removesuffix(".toml")
            table: dict[str, Any] = dict(toml_table(file.read_text("utf-8")))
            for part in set(table) & {*map(str, ORDER)}:
                table[part] = {"table": part, "optional": True, **table[part]}
                if part != Table.EVENTS and Table.EVENTS in table:  # an order says less of a product than a catalogue
                    table[part] = {"keep": "most_common", "only_new": True, **table[part]}
            try:
                sources[name] = FileSource(name=name, **table)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                raise IngestError("E_MAP", f"{file.name}: {'.'.join(map(str, first['loc']))} {first['msg']}") from error
    return sources


def consent_map(source: FileSource, column: str) -> ColumnMap:
    """The map of the consent table that one column gives. Raises `UsageError` for one that is no such column."""
    consent, people = source.consent, source.users or source.events
    names = {} if consent is None else {normal(name): name for name in consent.columns}
    if consent is None or people is None or normal(column) not in names:
        columns_of_consent = "" if consent is None else f"; it has {', '.join(consent.columns)}"
        raise UsageError(f"--consent-from {column!r}: {source.title} has no such column of consent{columns_of_consent}")
    name = names[normal(column)]
    constants, defaults = {"purpose": consent.columns[name].value}, {}
    columns: dict[str, Any] = {"user_id": people.columns["user_id"]}
    if name in consent.says:
        constants["granted"] = consent.says[name]
    else:
        columns["granted"] = (name,)
    now, at = datetime.now(UTC).isoformat(timespec="seconds"), consent.time_column(name)
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
            "columns": columns,
            "constants": constants,
            "defaults": defaults,
            "values": {"granted": {text.casefold(): answer for text, answer in consent.values.items()}},
            **{part: {} for part in ("joins", "totals", "paths", "attributes", "basics")},
            "returns": (),
            "reject": (
                *people.reject,
                *([] if consent.says.get(name) == "no" else [RejectRule.model_validate(silent)]),
            ),
        }
    )


def recognise_file(path: Path, policy: Policy, options: IngestOptions) -> Recognised:
    """By the header of a file. Raises `IngestError` as reading it does, and as `recognise` does."""
    names = {name for source in known_sources().values() for names in source.signature for name in names}
    header = ColumnMap(columns={"user_id": tuple(sorted(names))})  # so that an encoding can be told by them
    file = probe(path, policy)
    try:
        return recognise(open_records(file, options, header).columns, path.name)
    except IngestError as error:
        if error.code != "E_ENCODING":
            raise
        # one that a source says of its files, where the file turns out to be of that source
        for hint in sorted({hint for source in known_sources().values() for hint in source.encodings}):
            hinted = header.model_copy(update={"read": ReadOptions(encoding=hint)})
            try:
                recognised = recognise(open_records(file, options, hinted).columns, path.name)
            except IngestError:
                continue
            if hint in recognised.source.encodings:
                return recognised
        raise


def recognise(columns: Sequence[str], file: str) -> Recognised:
    """By the names of its columns: the kind of which most columns are there, all of its signature.

    Raises `IngestError` E_SOURCE for none, with the nearest three and what is missing for them.
    """
    fitting: list[tuple[int, str, FileSource, list[str]]] = []
    others: list[tuple[int, str, FileSource, list[str]]] = []
    for source in known_sources().values():
        missing = source.missing(columns)
        (others if missing else fitting).append((len(missing) or -len(source.signature), source.name, source, missing))
    if fitting:
        source, *further = [source for _, _, source, _ in sorted(fitting, key=lambda entry: entry[:2])]
        # one whose whole signature is in that of the first says less of the same
        alternatives = (kind for kind in further if not {*kind.signature} <= {*source.signature})
        return Recognised(source=source, alternatives=tuple(alternatives))
    others.sort(key=lambda entry: (len(entry[3]) / len(entry[2].signature), entry[1]))
    nearest = "; ".join(f"{source.title} (missing: {', '.join(missing[:5])})" for _, _, source, missing in others[:3])
    raise IngestError(
        "E_SOURCE",
        f"{file}: of no known kind. Nearest: {nearest}. Say what it is: --table events, items, users or consent, with "
        "--map FILE where its columns have other names",
    )
