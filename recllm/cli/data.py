"""Commands that bring data in and show what is there."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from recllm.cli.options import DEFAULT_WORKSPACE, Json, WorkspaceDir
from recllm.cli.output import emit_json, note, say
from recllm.documents import plain
from recllm.errors import NothingToDo
from recllm.settings import sections

if TYPE_CHECKING:
    from recllm.schema import IngestReport

File = Annotated[Path, typer.Argument(help="CSV, TSV, JSONL or Parquet; text files may be gzipped.")]
TableName = Annotated[str, typer.Option("--table", help="users, items, events or consent.")]
Map = Annotated[str | None, typer.Option("--map", help="A column map: a TOML file, or the name of a shipped one.")]

_WRITTEN, _ROWS = "How the file is written", "What becomes of odd rows"


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """How a file is to be read: fields of `recllm.ingest.options.IngestOptions`."""

    encoding: Annotated[
        str | None, typer.Option(help="Encoding when it is not UTF-8, e.g. gb18030.", rich_help_panel=_WRITTEN)
    ] = None
    delimiter: Annotated[
        str | None, typer.Option(help="Field separator; sniffed otherwise.", rich_help_panel=_WRITTEN)
    ] = None
    decimal: Annotated[Literal[".", ","] | None, typer.Option(help="Decimal mark.", rich_help_panel=_WRITTEN)] = None
    tz: Annotated[str | None, typer.Option(help="Zone of times that carry none.", rich_help_panel=_WRITTEN)] = None
    ts_format: Annotated[
        str | None, typer.Option(help="iso, epoch, excel or a strptime pattern.", rich_help_panel=_WRITTEN)
    ] = None
    date_order: Annotated[
        Literal["dmy", "mdy"] | None, typer.Option(help="How 03/04/2025 is meant.", rich_help_panel=_WRITTEN)
    ] = None
    currency: Annotated[
        str | None, typer.Option(help="ISO code of every price in the file.", rich_help_panel=_WRITTEN)
    ] = None
    on_bad_bytes: Annotated[
        Literal["fail", "quarantine"], typer.Option(help="Rows with bytes of no text.", rich_help_panel=_ROWS)
    ] = "fail"
    anonymous: Annotated[
        Literal["quarantine", "keep"], typer.Option(help="Events without a person.", rich_help_panel=_ROWS)
    ] = "quarantine"
    returns: Annotated[
        Literal["on", "off"],
        typer.Option(help="on reads a negative quantity as a return; off quarantines it.", rich_help_panel=_ROWS),
    ] = "on"


def register(app: typer.Typer) -> None:
    app.command()(init)
    app.command()(ingest)
    app.command()(validate)
    app.command()(describe)


def init(
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    consent_default: Annotated[
        Literal["granted", "denied"], typer.Option(help="What holds for people who said nothing.")
    ] = "denied",
    currency: Annotated[str | None, typer.Option(help="ISO code of the catalogue's prices, e.g. USD.")] = None,
    timezone: Annotated[str | None, typer.Option(help="Zone of times that carry none, e.g. Europe/London.")] = None,
    locale: Annotated[str, typer.Option(help="Language of texts: en or zh.")] = "en",
    encoder: Annotated[str | None, typer.Option(help="Hub id or folder of a BERT-family encoder.")] = None,
    json: Json = False,
) -> None:
    """Make a workspace: settings, an empty store and the key of the pseudonyms."""
    from recllm.workspace.workspace import Workspace

    options = {"currency": currency, "timezone": timezone, "encoder": encoder}
    shop = Workspace.create(
        workspace,
        consent_default=consent_default == "granted",
        locale=locale,
        **{k: v for k, v in options.items() if v is not None},  # type: ignore[arg-type]
    )
    if json:
        settings = {name: value for name, value in plain(shop.settings).items() if name not in sections()}
        emit_json({"workspace": str(shop.root), "settings": settings | {"policy": {}} | shop.settings.table()})
    else:
        say(f"made {shop.root}; people who said nothing count as {consent_default}")


def ingest(
    file: File,
    table: TableName,
    reading: FileOptions,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    map: Map = None,
    json: Json = False,
) -> None:
    """Read a file into the store: every row accepted, counted as a duplicate, or quarantined with its reason."""
    _load(file, table, workspace, map, reading, json, dry_run=False)


def validate(
    file: File,
    table: TableName,
    reading: FileOptions,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    map: Map = None,
    json: Json = False,
) -> None:
    """The same as ingest, with nothing kept in the store."""
    _load(file, table, workspace, map, reading, json, dry_run=True)


def _load(
    file: Path, table: str, workspace: Path, map: str | None, reading: FileOptions, json: bool, *, dry_run: bool
) -> None:
    from tqdm import tqdm

    from recllm.jobs.load import load_file
    from recllm.workspace.workspace import Workspace

    with Workspace.open(workspace) as shop, tqdm(unit=" rows", desc=file.name, disable=None) as bar:
        report = load_file(
            shop,
            file,
            table,
            mapping=map,
            dry_run=dry_run,
            progress=lambda rows: bar.update(rows - bar.n) and None,
            **asdict(reading),
        )
    if json:
        emit_json(report)
    else:
        _print_report(report, file)
    if not report.read:
        raise NothingToDo(f"{file.name} has a header and no rows")


def _print_report(report: IngestReport, file: Path) -> None:
    verb = "kept" if report.committed else "would be kept"
    say(
        f"{file.name}: {report.read:,} rows read, {report.accepted:,} {verb}, "
        f"{report.duplicates:,} duplicates, {report.quarantined:,} quarantined"
    )
    say(*(f"  {code} {count:,}" for code, count in {**report.codes, **report.warnings}.items()))
    if report.ignored_columns:
        say(f"  columns not used: {', '.join(report.ignored_columns)}")
    if report.quarantine_file:
        note(f"quarantined rows: {report.quarantine_file}")


def describe(workspace: WorkspaceDir = DEFAULT_WORKSPACE, json: Json = False) -> None:
    """What the workspace holds: counts, time span, gaps, categories, text lengths, languages."""
    from recllm.jobs.load import describe_workspace
    from recllm.workspace.workspace import Workspace

    with Workspace.open(workspace) as shop:
        description = describe_workspace(shop)
    if json:
        emit_json(description)
    else:
        _print_tree(plain(description))


def _print_tree(value: dict[str, Any], indent: int = 0) -> None:
    for name, inner in value.items():
        if isinstance(inner, dict):
            say(f"{'  ' * indent}{name}")
            _print_tree(inner, indent + 1)
        else:
            text = ", ".join(map(str, inner)) if isinstance(inner, list) else inner
            say(f"{'  ' * indent}{name}: {text:,}" if isinstance(text, int) else f"{'  ' * indent}{name}: {text}")
