"""Commands that bring data in and show what is there."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recllm.cli.options import DEFAULT_WORKSPACE, Json, WorkspaceDir
from recllm.cli.output import emit_json, note, say
from recllm.documents import plain
from recllm.errors import NothingToDo, UsageError

if TYPE_CHECKING:
    from recllm.schema import IngestReport

Kind = Annotated[str, typer.Option("--table", help="users, items, events or consent.")]
Map = Annotated[str | None, typer.Option("--map", help="A column map: a TOML file, or the name of a shipped one.")]
File = Annotated[Path, typer.Argument(help="CSV, TSV, JSONL or Parquet; text files may be gzipped.")]
Encoding = Annotated[str | None, typer.Option(help="Encoding when it is not UTF-8, e.g. gb18030.")]
Delimiter = Annotated[str | None, typer.Option(help="Field separator; sniffed otherwise.")]
Decimal = Annotated[str | None, typer.Option(help="Decimal mark: . or ,")]
Zone = Annotated[str | None, typer.Option(help="Zone of times that carry none.")]
TimeFormat = Annotated[str | None, typer.Option(help="iso, epoch, excel or a strptime pattern.")]
DateOrder = Annotated[str | None, typer.Option(help="dmy or mdy: how 03/04/2025 is meant.")]
Currency = Annotated[str | None, typer.Option(help="ISO code of every price in the file.")]
BadBytes = Annotated[str, typer.Option(help="fail or quarantine.")]
Anonymous = Annotated[str, typer.Option(help="Events without a person: quarantine or keep.")]
Returns = Annotated[str, typer.Option(help="on reads a negative quantity as a return; off quarantines it.")]


def register(app: typer.Typer) -> None:
    app.command()(init)
    app.command()(ingest)
    app.command()(validate)
    app.command()(describe)


def init(
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    consent_default: Annotated[
        str, typer.Option(help="What holds for people who said nothing: granted or denied.")
    ] = "denied",
    currency: Annotated[str | None, typer.Option(help="ISO code of the catalogue's prices, e.g. USD.")] = None,
    timezone: Annotated[str | None, typer.Option(help="Zone of times that carry none, e.g. Europe/London.")] = None,
    locale: Annotated[str, typer.Option(help="Language of texts: en or zh.")] = "en",
    encoder: Annotated[str | None, typer.Option(help="Hub id or folder of a BERT-family encoder.")] = None,
    json: Json = False,
) -> None:
    """Make a workspace: settings, an empty store and the key of the pseudonyms."""
    from recllm.workspace.workspace import Workspace

    if consent_default not in {"granted", "denied"}:
        raise UsageError(f"--consent-default is granted or denied, not {consent_default!r}")
    chosen = {"currency": currency, "timezone": timezone, "encoder": encoder}
    made = Workspace.create(
        workspace,
        consent_default=consent_default == "granted",
        locale=locale,
        **{k: v for k, v in chosen.items() if v is not None},  # type: ignore[arg-type]
    )
    if json:
        emit_json({"workspace": str(made.root), "settings": plain(made.settings)})
    else:
        say(f"made {made.root}; people who said nothing count as {consent_default}")


def ingest(
    file: File,
    table: Kind,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    map: Map = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    decimal: Decimal = None,
    tz: Zone = None,
    ts_format: TimeFormat = None,
    date_order: DateOrder = None,
    currency: Currency = None,
    on_bad_bytes: BadBytes = "fail",
    anonymous: Anonymous = "quarantine",
    returns: Returns = "on",
    json: Json = False,
) -> None:
    """Read a file into the store: every row accepted, counted as a duplicate, or quarantined with its reason."""
    said = locals()
    _load(file, table, workspace, map, _options(said), dry_run=False, json=json)


def validate(
    file: File,
    table: Kind,
    workspace: WorkspaceDir = DEFAULT_WORKSPACE,
    map: Map = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    decimal: Decimal = None,
    tz: Zone = None,
    ts_format: TimeFormat = None,
    date_order: DateOrder = None,
    currency: Currency = None,
    on_bad_bytes: BadBytes = "fail",
    anonymous: Anonymous = "quarantine",
    returns: Returns = "on",
    json: Json = False,
) -> None:
    """The same as ingest, with nothing kept in the store."""
    said = locals()
    _load(file, table, workspace, map, _options(said), dry_run=True, json=json)


def _options(said: dict[str, Any]) -> dict[str, Any]:
    from recllm.ingest.options import IngestOptions

    allowed: dict[str, set[str | None]] = {
        "decimal": {".", ",", None},
        "date_order": {"dmy", "mdy", None},
        "on_bad_bytes": {"fail", "quarantine"},
        "anonymous": {"quarantine", "keep"},
        "returns": {"on", "off"},
    }
    for name, values in allowed.items():
        if said[name] not in values:
            words = " or ".join(sorted(v for v in values if v))
            raise UsageError(f"--{name.replace('_', '-')} is {words}, not {said[name]!r}")
    return {f.name: said[f.name] for f in fields(IngestOptions) if f.name in said}


def _load(
    file: Path, table: str, workspace: Path, map: str | None, options: dict[str, Any], *, dry_run: bool, json: bool
) -> None:
    from tqdm import tqdm

    from recllm.jobs.load import load_file
    from recllm.workspace.workspace import Workspace

    with Workspace.open(workspace) as opened, tqdm(unit=" rows", desc=file.name, disable=None) as bar:
        report = load_file(
            opened,
            file,
            table,
            mapping=map,
            dry_run=dry_run,
            progress=lambda rows: bar.update(rows - bar.n) and None,
            **options,
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

    with Workspace.open(workspace) as opened:
        found = describe_workspace(opened)
    if json:
        emit_json(found)
    else:
        _print_tree(plain(found))


def _print_tree(value: dict[str, Any], indent: int = 0) -> None:
    for name, inner in value.items():
        if isinstance(inner, dict):
            say(f"{'  ' * indent}{name}")
            _print_tree(inner, indent + 1)
        else:
            text = ", ".join(map(str, inner)) if isinstance(inner, list) else inner
            say(f"{'  ' * indent}{name}: {text:,}" if isinstance(text, int) else f"{'  ' * indent}{name}: {text}")
