"""The files of a start: exports of known kinds, and plain files by a suggested map; and what they say of the shop."""

from __future__ import annotations

import os
import re
import zoneinfo
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from recllm.base.errors import IngestError, NothingToDo, UsageError
from recllm.base.schema import IngestReport, Purpose, Table
from recllm.base.words.words import Words
from recllm.doors.start.answers import USE, Answers
from recllm.shop.ingest.column_names import normal
from recllm.shop.ingest.load import open_records
from recllm.shop.ingest.options import ColumnMap, IngestOptions
from recllm.shop.ingest.read.source import probe
from recllm.shop.ingest.sources import (
    ConsentColumns,
    FileSource,
    Recognised,
    consent_maps,
    nearest_kinds,
    recognise_file,
)
from recllm.shop.ingest.suggest import Suggestion, suggest_map
from recllm.shop.ingest.workspace_load import load_export, load_file
from recllm.shop.workspace.workspace import Workspace

_AGREES = re.compile(r"newsletter|marketing|opt_?in|consent|subscri|mailing|werbung|einwillig|订阅|同意|营销", re.I)
_BY_PHONE = re.compile(r"sms|phone|mobile|短信|手机|电话", re.I)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShopFile:
    """One file, and how its tables are read."""

    path: Path
    recognised: Recognised
    suggestion: Suggestion | None = None
    """Of a file of no known kind."""
    columns: tuple[str, ...] = ()
    sample: pl.DataFrame = field(default_factory=pl.DataFrame)
    """The first rows, as text."""

    @property
    def source(self) -> FileSource:
        return self.recognised.source

    @property
    def known_by_phone(self) -> bool:
        """Whether customers are known by their numbers."""
        names = (name for column_map in self.source.maps.values() for name in column_map.columns.get("user_id", ()))
        return any(_BY_PHONE.search(name) for name in names)

    def with_columns(self, names: Sequence[str]) -> ShopFile:
        """The file with these among its columns of agreement to be written to, where it has them."""
        consent = self.source.consent or ConsentColumns(columns={})
        purposes = {
            column: Purpose.SMS if _BY_PHONE.search(column) else Purpose.EMAIL
            for column in self.columns
            if normal(column) in map(normal, names) and column not in consent.columns
        }
        consent = consent.model_copy(update={"columns": {**consent.columns, **purposes}})
        users = self.source.users or people_of(self.source.events)
        source = self.source.model_copy(update={"consent": consent, "users": users if purposes else self.source.users})
        return replace(self, recognised=replace(self.recognised, source=source))

    def load(self, workspace: Workspace, answers: Answers) -> list[IngestReport]:
        """Reads all tables, with the consent that the answers name; the report of each."""
        consent, reports = self.source.consent or ConsentColumns(columns={}), list[IngestReport]()
        contact = [name for name in answers.contact if normal(name) in map(normal, consent.columns)]
        if self.suggestion is not None and self.suggestion.table is Table.CONSENT:
            reports.append(load_file(workspace, self.path, Table.CONSENT, mapping=self.suggestion.column_map()))
        if normal(answers.basis) in map(normal, self.columns):
            users = self.source.users or people_of(self.source.events)
            for purpose in sorted(USE):
                of_basis = consent.model_copy(update={"columns": {answers.basis: purpose}})
                source = self.source.model_copy(update={"consent": of_basis, "users": users})
                (column_map,) = consent_maps(source, [answers.basis])
                encoding = self.recognised.encoding
                reports.append(load_file(workspace, self.path, Table.CONSENT, mapping=column_map, encoding=encoding))
        reports += load_export(workspace, self.path, recognised=self.recognised, consent_from=contact)[1]
        return reports

    def map_words(self, words: Words) -> list[str]:
        """The suggested map: "customer: customer_email"."""
        if self.suggestion is None:
            return []
        of_fields = [(words.say(f"field.{name}"), column) for name, column in self.suggestion.columns.items()]
        of_basics = [(words.basic(name), column) for name, column in self.suggestion.basics.items()]
        return [f"{name}: {column}" for name, column in of_fields + of_basics]


def people_of(events: ColumnMap | None) -> ColumnMap | None:
    """The map of the people of a log."""
    if events is None:
        return None
    columns = {"user_id": events.columns["user_id"]}
    return ColumnMap(table=Table.USERS, keep="most_common", only_new=True, columns=columns)


def read_files(paths: Sequence[Path], words: Words) -> list[ShopFile]:
    """What each file is, products before orders. Raises `IngestError` for a file that cannot be read, and `UsageError`
    for one that is of no known kind and has no columns to map."""
    return sorted((read_file(path, words) for path in paths), key=lambda file: Table.EVENTS in file.source.maps)


def read_file(path: Path, words: Words) -> ShopFile:
    options, suggestion = IngestOptions(), None
    try:
        recognised = recognise_file(path, options)
    except IngestError as error:
        if error.code != "E_SOURCE":
            raise
        reader = open_records(probe(path), options, ColumnMap())
        if not nearest_kinds(reader.columns, 1)[0].missing:  # known, and nothing can be made of it
            raise
        try:
            suggestion = suggest_map(path, options)
        except NothingToDo as problem:
            raise UsageError(words.say("start.unclear_file", file=path.name, why=problem)) from error
        recognised = Recognised(source=plain_source(path, suggestion, reader.columns, words))
    options = options.model_copy(update={"encoding": recognised.encoding})
    reader = open_records(probe(path), options, ColumnMap(doubled="first"))
    sample = next((chunk.frame for chunk in reader.chunks() if chunk.frame.height), pl.DataFrame())
    file = ShopFile(
        path=path, recognised=recognised, suggestion=suggestion, columns=tuple(reader.columns), sample=sample
    )
    if suggestion is None or suggestion.table is Table.CONSENT:
        return file
    filled = {*suggestion.columns.values(), *suggestion.basics.values()}
    return file.with_columns([name for name in file.columns if _AGREES.search(name) and name not in filled])


def plain_source(path: Path, suggestion: Suggestion, columns: Sequence[str], words: Words) -> FileSource:
    """A plain file as a kind of its own; a log that names its products gives the catalogue too."""
    maps: dict[str, Any] = {}
    if suggestion.table is not Table.CONSENT:
        maps[suggestion.table.value] = suggestion.column_map()
    if suggestion.table is Table.EVENTS:
        try:
            products = suggest_map(path, table=Table.ITEMS).column_map()
        except NothingToDo:
            pass
        else:
            maps["items"] = products.model_copy(update={"keep": "most_common", "only_new": True})
    table = words.say(f"table.{suggestion.table}")
    return FileSource(name="plain", title=words.say("start.plain_file", table=table), signature=(), **maps)


def columns_of_consent(files: Sequence[ShopFile]) -> list[str]:
    """The columns of all files that say who agreed to be written to, those of customers' files before those of
    orders."""
    return list(dict.fromkeys(column for file in files for column in file.source.agreements))


def shop_settings(files: Sequence[ShopFile]) -> Mapping[str, str]:
    """Currency, timezone and locale of the shop, as far as its files say them; else the zone of this machine."""
    logs = [file.source.events for file in files if file.source.events is not None]
    currency = next(filter(None, map(file_currency, files)), None)
    zones = (zone for events in logs for zone in (events.read.tz, events.read.likely_tz) if zone)
    settings = {"currency": currency, "timezone": next(zones, None) or machine_zone()}
    return {name: text for name, text in settings.items() if text} | ({"locale": "zh"} if currency == "CNY" else {})


def file_currency(file: ShopFile) -> str | None:
    """The commonest currency of a file of orders."""
    events = file.source.events
    if events is None or (stated := events.constants.get("currency")):
        return None if events is None else stated
    names = {normal(events.renames.get(column, column)): column for column in file.sample.columns}
    columns = [names[normal(name)] for name in events.columns.get("currency", ()) if normal(name) in names]
    for column in columns:
        codes = file.sample[column].drop_nulls().str.strip_chars().str.to_uppercase()
        codes = codes.filter(codes.str.contains(r"^[A-Z]{3}$"))
        if len(codes):
            return str(codes.mode().sort()[0])
    return None


def machine_zone() -> str:
    """The IANA name of this machine's zone; UTC where it says none."""
    name = os.environ.get("TZ", "") or str(Path("/etc/localtime").resolve()).rpartition("zoneinfo/")[2]
    return name if name in zoneinfo.available_timezones() else "UTC"
