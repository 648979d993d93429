"""What a shop gives `recllm start`: answers about consent and sender, asked once, and files, known or plain with a
suggested map."""

from __future__ import annotations

import os
import re
import zoneinfo
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from recllm.base.errors import IngestError, NothingToDo, UsageError
from recllm.base.policy import Policy
from recllm.base.schema import IngestReport, Purpose, Table
from recllm.base.words.words import Words
from recllm.market.adcopy.channels import Sender
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

INTEREST = "interest"
"""A basis: the shop's own interest. All customers count but those who objected."""
ALL, NONE = "all", "none"
"""Who may be written to: all who have not refused, or no customers."""
USE = frozenset({Purpose.ANALYTICS, Purpose.PERSONALISATION, Purpose.MODEL_TRAINING, Purpose.LLM_LOCAL})
"""What a basis allows."""
CONTACT = frozenset({Purpose.EMAIL, Purpose.SMS, Purpose.PUSH})


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """The answers that a run of `recllm start` rests on."""

    basis: str
    """`INTEREST`, or a column of consent."""
    contact: tuple[str, ...]
    """Columns of customers' agreement to be written to, or `ALL`, or `NONE`."""
    sender: Sender | None = None
    """Who writes; None where no customers may be written to."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the files that the answers name."""
        named = (self.basis, *self.contact)
        return tuple(dict.fromkeys(name for name in named if name not in (INTEREST, ALL, NONE)))

    def settings(self, channel: Purpose) -> dict[str, Any]:
        """The settings of a workspace that follow. channel: on which customers are written to where `ALL` may be."""
        by_interest, to_all = self.basis == INTEREST, self.contact == (ALL,)
        of_use = frozenset() if by_interest else USE
        explicit = Policy().explicit_purposes | of_use | (CONTACT - {channel} if to_all else CONTACT)
        return {"consent_default": by_interest or to_all, "policy": Policy(explicit_purposes=explicit)}


def answers_of(
    options: Mapping[str, Any],
    before: Mapping[str, Any] | None,
    columns: Sequence[str],
    words: Words,
    *,
    at_terminal: bool,
) -> Answers:
    """The answers, from options, else from those of an earlier start, else by asking at a terminal.

    options: basis, contact and sender as options say them, without those that are not stated. before: the document of
    earlier answers. columns: of consent in the files, to choose from. Raises `UsageError`, in the shop's language,
    with the options that are missing.
    """
    values = {**(before or {}), **options}
    if at_terminal:
        values |= asked(values, columns, words)
    missing = [name for name in ("basis", "contact") if not values.get(name)]
    contact = tuple(values.get("contact") or ())
    if contact != (NONE,) and not values.get("sender"):
        missing.append("sender")
    if missing:
        listed = ", ".join(f"“{column}”" for column in columns) or words.say("start.ask.no_columns")
        lines = [words.say("start.ask.missing", columns=listed), *(words.say(f"start.ask.give_{n}") for n in missing)]
        raise UsageError("\n  ".join(lines))
    if {ALL, NONE} & set(contact) and len(contact) > 1:
        raise UsageError(words.say("start.ask.give_contact"))
    return Answers(basis=values["basis"], contact=contact, sender=sender_of(values.get("sender"), words))


def sender_of(stated: str | Mapping[str, str] | None, words: Words) -> Sender | None:
    """The sender in "NAME; ADDRESS; LINK OR MAILBOX TO STOP". Raises `UsageError` for a text of another form."""
    if stated is None or isinstance(stated, Mapping):
        return None if stated is None else Sender(**stated)
    cells = [cell.strip() for cell in stated.replace("；", ";").split(";")]
    if len(cells) != 3 or not all(cells):
        raise UsageError(words.say("start.ask.give_sender"))
    return Sender(name=cells[0], address=cells[1], opt_out=cells[2])


def asked(values: Mapping[str, Any], columns: Sequence[str], words: Words) -> Iterator[tuple[str, Any]]:
    """The answers that are missing, asked one after the other."""
    import typer

    def choose(question: str, labels: Sequence[str]) -> int:
        lines = (f"  {n}  {label}" for n, label in enumerate(labels, 1))
        typer.echo("\n".join([words.say(f"start.ask.{question}"), *lines]), err=True)
        while True:
            text = typer.prompt(words.say("start.ask.number"), err=True).strip()
            if text.isdecimal() and 1 <= int(text) <= len(labels):
                return int(text) - 1

    if not values.get("basis"):
        labels = [words.say("start.ask.interest"), *(words.say("start.ask.consent", column=c) for c in columns)]
        yield "basis", [INTEREST, *columns][choose("basis", labels)]
    contact = values.get("contact")
    if not contact:
        others = [words.say("start.ask.all"), words.say("start.ask.none")]
        labels = [*(words.say("start.ask.agreed", column=column) for column in columns), *others]
        contact = ([*columns, ALL, NONE][choose("contact", labels)],)
        yield "contact", contact
    if not values.get("sender") and tuple(contact) != (NONE,):
        yield "sender", typer.prompt(words.say("start.ask.sender"), err=True)


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
    of_machine = os.environ.get("TZ", "") or str(Path("/etc/localtime").resolve()).rpartition("zoneinfo/")[2]
    of_machine = of_machine if of_machine in zoneinfo.available_timezones() else "UTC"
    settings = {"currency": currency, "timezone": next(zones, None) or of_machine}
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
