"""Commands that bring data in and show what is there: of the shop, and of single people."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from recllm.base.documents import guarded, plain
from recllm.base.errors import IngestError, NothingToDo, UsageError
from recllm.base.settings import Settings, sections
from recllm.doors.cli.options import (
    Answer,
    Options,
    Shop,
    WorkspaceDir,
    document_lines,
    open_shop,
    read_ids,
    read_pairs,
    write_audit,
)

File = Annotated[Path | None, typer.Argument(help="CSV, TSV, Parquet or .xlsx; text files may be gzipped.")]
Sql = Annotated[str | None, typer.Option(metavar="URL", help="A database, or env:NAME for its URL.")]
QueryFile = Annotated[Path | None, typer.Option("--query", exists=True, dir_okay=False, help="Of --sql: a SELECT.")]
Since = Annotated[str | None, typer.Option(help="Of --sql: a column that grows, for new rows alone.")]
TableName = Annotated[
    str | None,
    typer.Option("--table", help="users, items, events or consent; exports of known shop systems need none."),
]
Map = Annotated[str | None, typer.Option("--map", help="A column map: a TOML file, or the name of a shipped one.")]

Read = Annotated[
    list[str] | None,
    typer.Option(
        "--read",
        metavar="NAME=VALUE",
        help="How the file is written, as [read] of a column map: encoding, delimiter, quotes, decimal, tz, ts_format, "
        "date_order, currency, sheet; or namespace. May be repeated.",
    ),
]


def init(
    settings: Annotated[
        Settings, Options(("currency", "timezone", "locale", "domain", "encoder", "store"), others=False)
    ],
    *,
    workspace: WorkspaceDir,
    consent_default: Annotated[
        Literal["granted", "denied"] | None, typer.Option(help="Consent of customers without a decision.")
    ] = "denied",
) -> Answer:
    """Make a workspace: settings, an empty store and the key of the pseudonyms."""
    from recllm.shop.workspace.workspace import Workspace

    shop = Workspace.create(workspace, consent_default=consent_default == "granted", **settings.explicit())
    settings_of_shop = {name: value for name, value in plain(shop.settings).items() if name not in sections()}
    document = {"workspace": str(shop.root), "settings": settings_of_shop | {"policy": {}} | shop.settings.table()}
    return Answer(document, [f"made {shop.root}; consent without a decision counts as {consent_default}"])


def ingest(
    file: File,
    workspace: WorkspaceDir,
    map: Map,
    read: Read,
    sql: Sql,
    query: QueryFile,
    since: Since,
    table: TableName = None,
    consent_from: Annotated[
        list[str] | None,
        typer.Option(help="Consent column of a known export: also take in agreements; may be repeated."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the file, and keep nothing of it.")] = False,
    suggest: Annotated[
        bool, typer.Option("--suggest", help="Propose a column map, written to --map, and read nothing.")
    ] = False,
) -> Answer:
    """Read a file into the store: every row accepted, counted as a duplicate, or quarantined with its reason.

    Without --table the file says itself what it is, by its columns: an export of Shopify, for example."""
    from recllm.shop.ingest.options import read_options
    from recllm.shop.ingest.query import query_rows, read_query

    reading: dict[str, Any] = dict(read_options(read_pairs(read, "--read")))
    if (file is None) == ((sql, query, since) == (None, None, None)) or (suggest and file is None):
        raise UsageError("give a file, or --sql with --query; --suggest takes a file")
    if suggest and file is not None:
        return suggestion_for(file, reading, table, None if map is None else Path(map), workspace)
    if map is not None and table is None:
        raise UsageError("--map says how columns are called; say with --table which table the file is")
    if table is not None and consent_from:
        raise UsageError("--consent-from is for exports of known shop systems; leave --table out")
    reading["dry_run"] = dry_run
    if file is None:
        source = read_query(sql, query, since, table, map)
        with open_shop(workspace) as shop, query_rows(shop, source, dry_run=dry_run) as rows:
            return load(shop, rows, table, map, consent_from or (), **reading)
    with open_shop(workspace) as shop:
        return load(shop, file, table, map, consent_from or (), **reading)


def load(
    shop: Shop, file: Path, table: str | None, map: str | None, consent_from: Sequence[str], **reading: Any
) -> Answer:
    """Reads a file, and says what was kept. reading: `dry_run`, and how it is written."""
    from tqdm import tqdm

    from recllm.shop.ingest.workspace_load import load_export, load_file

    lines: list[str] = []
    with tqdm(unit=" rows", desc=file.name, disable=None) as bar:
        reading["progress"] = lambda rows: bar.update(rows - bar.n) and None
        if table is not None:
            reports = [load_file(shop, file, table, mapping=map, **reading)]
            document: Any = reports[0]
        else:
            recognised, reports = load_export(shop, file, consent_from=consent_from, **reading)
            source = recognised.source
            kind_words = source.words(shop.settings.locale)
            signature = ", ".join(names[0] for names in source.signature[:5])
            lines += [f"{file.name} is {kind_words.title}: it has {signature} ..."]
            if recognised.encoding is not None:
                lines.append(f"  it is not UTF-8 and was read as {recognised.encoding}")
            lines += [f"  {caveat}" for caveat in kind_words.caveats]
            if source.agreements and not consent_from:
                options = " ".join(f'--consent-from "{column}"' for column in source.agreements)
                lines.append(f"  refusals are always taken in; for agreements, too: {options}")
            document = {"source": source.name, "caveats": kind_words.caveats, "reports": reports}
    for report in reports:
        if report.committed:
            write_audit(shop, "loaded", table=report.table, load=report.load_id, rows=report.accepted)
        lines += document_lines(plain(report))
    is_empty = not any(report.read for report in reports)
    problem = NothingToDo(f"{file.name} has a header and no rows") if is_empty else None
    return Answer(document, lines, problem=problem)


def describe(shop: Shop, user: str | None, ids: Path | None, locale: str | None) -> Answer:
    from recllm.recommend.recommender.people import person_profile
    from recllm.shop.ingest.describe import describe as describe_store

    if user is not None:
        person, texts = person_profile(shop, user, locale or shop.settings.locale)
        write_audit(shop, "person_shown", subject=shop.pseudonymiser().one(user))
        lines = []
        for name, of_name in (("I", texts.basics), ("B", texts.purchases), ("H", texts.browsing)):
            lines += [f"{name}:", *(f"  {line}" for line in (of_name or "nothing known").splitlines())]
        return Answer({**plain(person), "user_id": user, "texts": plain(texts)}, lines)
    if ids is None:
        return Answer(describe_store(shop.store()))
    user_ids, text = read_ids(ids), io.StringIO()
    pairs = list(zip(user_ids, shop.pseudonymiser().many(user_ids), strict=True))
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["user_id", "pseudonym"])
    writer.writerows((guarded(user_id), name) for user_id, name in pairs)
    document = [{"user_id": user_id, "pseudonym": name} for user_id, name in pairs]
    return Answer(document, [text.getvalue().removesuffix("\n")])


def suggestion_for(
    file: Path, reading: Mapping[str, str], table: str | None, write: Path | None, workspace: Path
) -> Answer:
    """A map, and why. write: a new file for it. workspace: its domain names the events."""
    from recllm.base.schema import Table
    from recllm.shop.ingest.options import IngestOptions
    from recllm.shop.ingest.sources import recognise_file
    from recllm.shop.ingest.suggest import suggest_map
    from recllm.text.domains import SHOP
    from recllm.text.templates import Prompts

    if table is not None and table not in set(Table):
        raise UsageError(f"--table is one of {', '.join(Table)}, not {table!r}")
    event_names = Prompts.load().domain(SHOP).events
    if (workspace / "workspace.toml").is_file():
        with open_shop(workspace) as shop:
            event_names = shop.domain.events
    options = IngestOptions(**reading, event_names=event_names)
    if table is None:
        try:
            source = recognise_file(file, options).source
        except IngestError as error:
            if error.code != "E_SOURCE":
                raise
        else:
            lines = [f"{file.name} is {source.title}; recllm ingest {file.name} takes it without a map"]
            return Answer({"source": source.name}, lines)
    suggestion = suggest_map(file, options, table=None if table is None else Table(table))
    text = suggestion.toml()
    if write is not None:
        try:
            with write.open("x", encoding="utf-8") as stream:
                stream.write(text)
        except FileExistsError:
            raise UsageError(f"{write} is there already; name another file, or remove it") from None
    names = ("table", "columns", "basics", "reasons", "notes")
    document = {name: getattr(suggestion, name) for name in names}
    if write is None:
        return Answer(document | {"map": text}, [*document_lines(plain(document)), "", text.rstrip()])
    remark = f"wrote {write}; load with: recllm ingest {file.name} --table {suggestion.table} --map {write}"
    return Answer(document | {"map": text}, document_lines(plain(document)), [remark])
