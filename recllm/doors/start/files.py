"""What a shop gives `recllm start`: answers, and files, known or plain."""

from __future__ import annotations

import os
import re
import zoneinfo
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from recllm.base.errors import IngestError, NothingToDo, UsageError
from recllm.base.policy import Policy
from recllm.base.schema import IngestReport, Purpose, Table
from recllm.base.words.sentences import LANGUAGES
from recllm.base.words.words import Words
from recllm.market.adcopy.channels import Sender
from recllm.market.audiences.contacts import CHANNEL_PURPOSE
from recllm.shop.ingest.column_names import is_special, normal
from recllm.shop.ingest.file_schema import find_columns
from recllm.shop.ingest.load import open_records
from recllm.shop.ingest.options import ColumnMap, IngestOptions, RejectRule, test_rules
from recllm.shop.ingest.read.source import likely_encoding, probe
from recllm.shop.ingest.read.workbook import read_apart
from recllm.shop.ingest.rearrange import rearranged
from recllm.shop.ingest.sources import (
    ConsentColumns,
    FileSource,
    Recognised,
    SourceWords,
    consent_map,
    nearest_kinds,
    recognise_file,
)
from recllm.shop.ingest.suggest import Suggestion, suggest_map
from recllm.shop.ingest.workspace_load import load_export, load_file
from recllm.shop.workspace.privacy import fold_address
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

    def channel(self, files: Sequence[ShopFile]) -> str:
        """Of the agreement named, else of the customers' ids."""
        agreements = [pair for file in files for pair in file.with_columns(self.contact).source.agreements.items()]
        purposes = {purpose for column, purpose in agreements if normal(column) in map(normal, self.contact)}
        ids = [name for file in files if file.people is not None for name in file.people.columns["user_id"]]
        agreed = (channel for channel, purpose in CHANNEL_PURPOSE.items() if purpose in purposes)
        return next(agreed, "sms_gsm" if any(map(_BY_PHONE.search, ids)) else "email")

    def settings(self, channel: Purpose) -> dict[str, Any]:
        """Settings of a workspace. channel: on which `ALL` may be written to."""
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
    """From options (basis, contact and sender), else from an earlier start, else by asking at a terminal. Raises
    `UsageError`, in the shop's language, with the options that are missing."""
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
    """Of "NAME; ADDRESS; LINK OR MAILBOX TO STOP". Raises `UsageError` for another form."""
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


_AGREES = re.compile(
    r"newsletter|marketing|opt_?in|consent|subscri|mailing|werbung|einwillig|订阅|同意|营销|愿意|接收(?![人方地])|短信",
    re.I,
)
_ANSWER = r"^[01]$|[^\d.,\s+-]"  # other numbers count messages
_BY_PHONE = re.compile(r"sms|phone|mobile|短信|手机|电话", re.I)
_ADDRESSES = {
    Purpose.EMAIL: r"^[^@\s]+@[^@\s]+$",
    Purpose.SMS: r"^(?:\+|00?[1-9]|1[3-9]\d)[\d ()/-]{7,}$",
}
"""Channel -> what its addresses are like."""
_SIGNS = {Purpose.SMS: _BY_PHONE, Purpose.PUSH: re.compile(r"push|wechat|公众号|微信|站内|推送", re.I)}


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
    reading: IngestOptions = field(default_factory=IngestOptions)

    @property
    def name(self) -> str:
        return self.path.name + (f", {sheet}" if (sheet := self.reading.sheet) else "")

    @property
    def people(self) -> ColumnMap | None:
        """The map of its customers; None for a catalogue."""
        return self.source.users or people_of(self.source.events)

    @property
    def source(self) -> FileSource:
        return self.recognised.source

    def with_columns(self, names: Sequence[str]) -> ShopFile:
        """With these among its columns of agreement to be written to."""
        if self.people is None:
            return self
        consent = self.source.consent or ConsentColumns(columns={})
        purposes = {
            column: next((purpose for purpose, sign in _SIGNS.items() if sign.search(column)), Purpose.EMAIL)
            for column in self.columns
            if normal(column) in map(normal, names) and column not in consent.columns
        }
        columns = {**consent.columns, **purposes}
        addresses = {purpose: self.addresses(purpose) for purpose in columns.values()}
        consent = consent.model_copy(update={"columns": columns, "addresses": addresses})
        users = self.people if purposes else self.source.users
        source = self.source.model_copy(update={"consent": consent, "users": users})
        return replace(self, recognised=replace(self.recognised, source=source))

    def addresses(self, purpose: Purpose) -> tuple[str, ...]:
        """Columns with addresses of a channel; none if customers are known by one."""
        shape, cells = _ADDRESSES.get(purpose, r"\b\B"), [column.str.strip_chars() for column in self.sample]
        columns = tuple(c.name for c in cells if 2 * c.str.contains(shape).sum() > (c != "").sum())
        ids = self.people.columns["user_id"] if self.people else ()
        return () if {*ids} & {*columns} else columns

    def known_by(self, field: str, column: str) -> ShopFile:
        """By the ids of this column, for a file without a known kind."""
        if self.suggestion is None or self.suggestion.columns.get(field) == column:
            return self
        suggestion = replace(self.suggestion, columns={**self.suggestion.columns, field: column})
        return plain_file(self.path, suggestion, self.reading)

    def load(self, workspace: Workspace, answers: Answers) -> list[IngestReport]:
        """Reads all tables, with the consent of the answers; the report of each."""
        consent, reports = self.source.consent or ConsentColumns(columns={}), list[IngestReport]()
        contact = [name for name in answers.contact if normal(name) in map(normal, consent.columns)]
        read = self.reading.model_dump(include={"encoding", "sheet"})
        load = partial(load_file, workspace, self.path, Table.CONSENT, **read)
        if self.suggestion is not None and self.suggestion.table is Table.CONSENT:
            reports.append(load(mapping=self.suggestion.column_map()))
        if self.people is not None and normal(answers.basis) in map(normal, self.columns):
            for purpose in sorted(USE):
                of_basis = consent.model_copy(update={"columns": {answers.basis: purpose}})
                reports.append(load(mapping=consent_map(of_basis, self.people, answers.basis, with_yes=True)))
        return reports + load_export(workspace, self.path, recognised=self.recognised, consent_from=contact, **read)[1]


def plain_words(suggestion: Suggestion, words: Words) -> SourceWords:
    """What a file of no known kind is, and how it is read: "customer: customer_email"."""
    columns = dict(suggestion.columns)
    if suggestion.price_is_total:
        columns["price"] += f" / {columns['quantity']}"
    if suggestion.levels:
        columns["category"] = " > ".join(suggestion.levels)
    of_fields = [(words.say(f"field.{name}"), column) for name, column in columns.items()]
    of_basics = [(words.basic(name), column) for name, column in suggestion.basics.items()]
    lines = [f"{name}: {column}" for name, column in of_fields + of_basics]
    for column, read_as in suggestion.states.items():
        listed = {name: ", ".join(states) for name, states in read_as.items() if states}
        lines += [words.say(f"start.state.{name}", column=column, states=text) for name, text in listed.items()]
    title = words.say("start.plain_file", table=words.say(f"table.{suggestion.table}"))
    return SourceWords(title=title, caveats=tuple(lines))


def people_of(events: ColumnMap | None) -> ColumnMap | None:
    """Of a log with a column of their ids."""
    if events is None or "user_id" not in events.columns:
        return None
    columns = {"user_id": events.columns["user_id"]}
    reject = tuple(rule for rule in events.reject if rule.column in columns["user_id"])
    return ColumnMap(table=Table.USERS, keep="most_common", only_new=True, columns=columns, reject=reject)


def read_files(paths: Sequence[Path], words: Words) -> list[ShopFile]:
    """Files and sheets, products before orders. Raises `IngestError` for an unreadable one, and `UsageError` where
    columns do not say what it is, or orders lack its ids."""
    files: list[ShopFile] = []
    for path in paths:
        try:
            files.append(read_file(path, words, IngestOptions()))
        except IngestError as error:
            if error.code != "E_SHEET":
                raise
            sheets, _ = read_apart(path, None)
            files += [read_file(path, words, IngestOptions(sheet=sheet)) for sheet in sheets]
    logs = [file for file in files if Table.EVENTS in file.source.maps]
    others = [file for file in files if Table.EVENTS not in file.source.maps]
    if buyers := {user for log in logs for user in ids_by_map(log, log.source.maps[Table.EVENTS], "user_id")}:
        others = [known_as_buyers(file, buyers, words) for file in others]
    for n, file in enumerate(others):
        for m, log in enumerate(logs) if Table.ITEMS in file.source.maps else ():
            if file.suggestion or log.suggestion:
                others[n], logs[m] = joined_by_products(others[n], log)
    return others + logs


def ids_by_map(file: ShopFile, column_map: ColumnMap, field: str) -> set[str]:
    """Whom or what the rows name, as a load reads them."""
    reader = rearranged(open_records(probe(file.path), file.reading, column_map), column_map, file.name)
    schema = find_columns(reader.columns, column_map.table or Table.USERS, column_map, file.name)
    return {text for chunk in reader.chunks() for text in ids_in(schema.fields(chunk.frame)[field])}


def ids_in(cells: pl.Series) -> set[str]:
    return {fold_address(text) for text in cells.str.strip_chars().str.strip_suffix(".0").unique() if text}


def known_as_buyers(file: ShopFile, buyers: Set[str], words: Words) -> ShopFile:
    """By the ids of the orders: by others consent would count for strangers. Raises `UsageError`."""
    suggestion = file.suggestion
    of_people = suggestion.column_map() if suggestion and suggestion.table is Table.CONSENT else file.people
    if of_people is None or not (ids := ids_by_map(file, of_people, "user_id")):
        return file
    (column, *_), n_needed = of_people.columns["user_id"], 1.0
    if suggestion is not None:
        plain = {user for user in buyers if len(user) > 4 or not user.isdigit()}  # no counts
        ids_of = {name: ids_in(file.sample[name]) for name in file.columns if not is_special(name)}
        shared = {name: len(texts & plain) for name, texts in ids_of.items()}
        best = max(shared, key=lambda name: shared[name])
        n, n_cells = len(ids_of[best]), file.sample[best].count()
        if 2 * n > n_cells and shared[best] > max(2 * shared[column], 0.5 * min(n, len(buyers))):
            return file.known_by("user_id", best)
        n_needed = 0.1 * min(len(ids), len(buyers))
    are_addresses = all(2 * sum("@" in user for user in users) > len(users) for users in (ids, buyers))
    if len(ids & buyers) < n_needed and not are_addresses:
        raise UsageError(words.say("start.strangers", file=file.name, column=column))
    return file


def joined_by_products(products: ShopFile, log: ShopFile) -> tuple[ShopFile, ShopFile]:
    """Both by the columns with most ids in common, if those called so have few."""

    def ids_of(file: ShopFile, table: Table) -> dict[str, set[str]]:
        if file.suggestion is None:
            return {"": ids_by_map(file, file.source.maps[table], "item_id")}
        columns = {name: c for name, c in file.suggestion.columns.items() if name not in ("item_id", "title")}
        free = [name for name in file.columns if name not in columns.values()]
        return {name: {id_ for id_ in ids_in(file.sample[name]) if len(id_) > 2} for name in free}

    items, sales = ids_of(products, Table.ITEMS), ids_of(log, Table.EVENTS)
    items = {name: ids for name, ids in items.items() if not name or len(ids) > 0.9 * len(products.sample)}
    shared: dict[tuple[str, ...], int] = {(i, s): len(items[i] & sales[s]) for i in items for s in sales}
    by_name = tuple(file.suggestion.columns["item_id"] if file.suggestion else "" for file in (products, log))
    best = max(shared, key=lambda pair: shared[pair], default=by_name)
    if shared.get(best, 0) > max(2 * shared.get(by_name, 0), 0.5 * len(sales[best[1]]), 1):
        return products.known_by("item_id", best[0]), log.known_by("item_id", best[1])
    return products, log


def read_file(path: Path, words: Words, options: IngestOptions) -> ShopFile:
    try:
        recognised = recognise_file(path, options)
    except IngestError as error:
        if error.code == "E_ENCODING" and options.encoding is None and (encoding := likely_encoding(probe(path))):
            return read_file(path, words, options.model_copy(update={"encoding": encoding}))
        if error.code != "E_SOURCE":
            raise
        columns = open_records(probe(path), options, ColumnMap()).columns
        if not nearest_kinds(columns, 1)[0].missing:  # known, and nothing can be made of it
            raise
        try:
            suggestion = suggest_map(path, options)
        except NothingToDo as problem:
            name = options.sheet or path.name
            raise UsageError(words.say("start.unclear_file", file=name, why=problem)) from error
        return plain_file(path, suggestion, options)
    return opened(path, recognised, options)


def opened(path: Path, recognised: Recognised, options: IngestOptions) -> ShopFile:
    """A file with its first rows."""
    options = options.model_copy(update={"encoding": recognised.encoding})
    reader = open_records(probe(path), options, ColumnMap(doubled="first"))
    sample = next((chunk.frame for chunk in reader.chunks() if chunk.frame.height), pl.DataFrame())
    return ShopFile(path=path, recognised=recognised, columns=reader.columns, sample=sample, reading=options)


def plain_file(path: Path, suggestion: Suggestion, options: IngestOptions) -> ShopFile:
    """A log that names its products gives the catalogue too."""
    maps: dict[str, Any] = {}
    columns = open_records(probe(path), options, ColumnMap(doubled="first")).columns
    tests = test_rules(columns)
    if suggestion.table is not Table.CONSENT:
        column_map = suggestion.column_map()
        update: dict[str, Any] = {"reject": (*column_map.reject, *tests)}
        maps[suggestion.table.value] = column_map.model_copy(update=update)
    if suggestion.table is Table.EVENTS:
        try:
            products = suggest_map(path, options, table=Table.ITEMS).column_map()
        except NothingToDo:
            pass
        else:
            fills = {n: c for n, c in products.columns.items() if n != "price" or not suggestion.price_is_total}
            fills["item_id"] = (suggestion.columns["item_id"],)
            pieces = suggestion.columns.get("quantity")
            returns = (RejectRule.model_validate({"column": pieces, "matches": "^-"}),) if pieces else ()
            update = {"columns": fills, "reject": (*returns, *tests), "attributes": {}, "composed": {}}
            maps["items"] = products.model_copy(update={**update, "keep": "most_common", "only_new": True})
    english, chinese = (plain_words(suggestion, Words(language)) for language in LANGUAGES)
    maps |= {**dict(english), "zh": chinese, "signature": tuple((name,) for name in columns)}
    source = FileSource(name="plain", **maps)
    file = replace(opened(path, Recognised(source=source, encoding=options.encoding), options), suggestion=suggestion)
    if suggestion.table is Table.CONSENT:
        return file
    filled = {*suggestion.columns.values(), *suggestion.basics.values()}
    named_so = [name for name in file.columns if _AGREES.search(name) and name not in filled]
    return file.with_columns([name for name in named_so if file.sample[name].str.contains(_ANSWER).any()])


def columns_of_consent(files: Sequence[ShopFile]) -> list[str]:
    """The columns of agreement to be written to, those of orders last."""
    return list(dict.fromkeys(column for file in files for column in file.source.agreements))


def shop_settings(files: Sequence[ShopFile]) -> Mapping[str, str]:
    """Of the shop, as far as its files say; else the zone of this machine."""
    logs = [file.source.events for file in files if file.source.events is not None]
    currency = next(filter(None, map(file_currency, files)), None)
    zones = (zone for events in logs for zone in (events.read.tz, events.read.likely_tz) if zone)
    of_machine = os.environ.get("TZ", "") or str(Path("/etc/localtime").resolve()).rpartition("zoneinfo/")[2]
    of_machine = of_machine if of_machine in zoneinfo.available_timezones() else "UTC"
    is_chinese = currency == "CNY" or any(map(is_chinese_catalogue, files))
    zone = next(zones, None) or of_machine
    zone = "Asia/Shanghai" if is_chinese and zone.endswith("UTC") else zone
    settings = {"currency": currency, "timezone": zone, "locale": "zh" if is_chinese else None}
    return {name: text for name, text in settings.items() if text}


def is_chinese_catalogue(file: ShopFile) -> bool:
    names = file.source.items.columns.get("title", ()) if file.source.items else ()
    titles = [text for name in names if name in file.columns for text in file.sample[name].drop_nulls()]
    chinese = [title for title in titles if re.fullmatch(r"[^ぁ-ヾ]*[一-鿿][^ぁ-ヾ]*", title)]
    return 2 * len(chinese) > len(titles)


def file_currency(file: ShopFile) -> str | None:
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
