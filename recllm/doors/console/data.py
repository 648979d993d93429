"""Data: loads, rows that were set aside and why, and a file's way in."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response
from starlette.datastructures import UploadFile

from recllm.base.errors import IngestError, UnknownIdError, UsageError
from recllm.base.schema import Table
from recllm.doors.console.loads import (
    LOAD,
    FileLoad,
    find_upload,
    quarantine_name,
    receive_upload,
    remove_upload,
)
from recllm.doors.console.pages import (
    REFUSALS,
    ConsoleForm,
    ConsoleSection,
    PageRoute,
    TheForm,
    TheVisit,
    Visit,
    WordedError,
)
from recllm.doors.console.tables import ConsoleTable, TableCell, TableRow
from recllm.doors.service.jobs import ENDED, Job
from recllm.shop.ingest.column_names import FIELDS, REQUIRED
from recllm.shop.ingest.options import ColumnMap, IngestOptions
from recllm.shop.ingest.sources import nearest_kinds, recognise_file
from recllm.shop.ingest.suggest import FilePreview, basic_columns, preview_file, proposed_columns
from recllm.shop.ingest.workspace_load import export_maps
from recllm.shop.workspace.keys import Scope

router = APIRouter(prefix="/data", route_class=PageRoute)
SECTION = ConsoleSection("data", "/data", router)

UPLOAD_PATH = "/data/upload"
LOADS = 25
QUARANTINE_ROWS = 50
TELLING_COLUMNS = 8
"""Columns that are named as the proof of an export's kind."""
MISSING_COLUMNS = 5
"""Missing columns of a kind that are named."""
SHOWN_CHARACTERS = 120
"""Of a field of a row that was set aside; the file has all of it."""
PROGRAM_SOURCES = ("served", "service", "console", "feedback")
"""Loads that no file made: they are counted, not listed."""
RARE_FIELDS = frozenset({"event_id", "currency", "value", "request_id", "position", "model_version", "attributes"})
"""Fields that few files have; they come last."""
QUARANTINE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,80}")


@router.get("")
def index(visit: TheVisit) -> Response:
    """What the shop has, the latest loads, what was set aside, and the form for a file."""
    with visit.workspace.store().read() as reader:
        counts = reader.counts()
        loads = reader.loads(LOADS, without_sources=PROGRAM_SOURCES).to_dicts()

    def row(load: Mapping[str, Any]) -> TableRow:
        of_load = json.loads(load["counts"])
        numbers = (of_load.get(name, 0) for name in ("read", "accepted", "duplicates", "quarantined"))
        return load["committed_at"], load["table_name"], load["source"], *numbers

    def all_rows() -> Iterator[TableRow]:
        with visit.workspace.store().read() as reader:
            everything = reader.loads(None, without_sources=PROGRAM_SOURCES).to_dicts()
        return map(row, everything)

    return visit.page(
        "data.html.j2",
        section="data",
        counts=counts,
        loads=visit.table("loads", [row(load) for load in loads], all_rows=all_rows) if loads else None,
        quarantine=quarantine_files(visit),
        running=visit.state.loads.open_job(visit.shop.name, LOAD),
    )


def quarantine_files(visit: Visit) -> list[dict[str, Any]]:
    """Lists of refused rows by name, with table and time of their load, newest first."""
    files = []
    for path in visit.workspace.quarantine_dir.glob("*.jsonl"):
        table, _, tail = path.stem.partition("-")
        if table in set(Table):
            at = datetime.strptime(tail[:15], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
            files.append({"name": path.stem, "table": table, "at": at})
    return sorted(files, key=lambda file: file["at"], reverse=True)


@router.get("/quarantine/{name}")
def quarantine_page(visit: TheVisit, name: str, page: Annotated[int, Query(ge=1, le=1_000_000)] = 1) -> Response:
    visit.require(Scope.EVENTS)
    path = visit.workspace.quarantine_dir / f"{name}.jsonl"
    if not QUARANTINE_NAME.fullmatch(name) or not path.is_file():
        raise UnknownIdError("there is no such list of rows that were set aside")
    codes = Counter(row["code"] for row in quarantine_rows(path))
    fields = list(dict.fromkeys(field for row in quarantine_rows(path) for field in row_fields(row)))

    def cells(row: Mapping[str, Any]) -> TableRow:
        code, texts = row["code"], row_fields(row)
        return (
            *(int(row["line_no"]), row["column"] or None),
            TableCell(value=code, text=visit.words.label(f"code.{code}", code), remark=row["message"]),
            row["message"],
            *(_shortened(texts.get(field)) for field in fields),
        )

    def all_rows() -> Iterator[TableRow]:  # the file has all, to be corrected and loaded
        return map(cells, quarantine_rows(path))

    rows = list(itertools.islice(all_rows(), (page - 1) * QUARANTINE_ROWS, page * QUARANTINE_ROWS))
    return visit.page(
        "quarantine.html.j2",
        section="data",
        name=name,
        page=page,
        codes=codes.most_common(),
        table=visit.table(name, rows, of="quarantine", fields=fields, all_rows=all_rows),
        n_pages=-(-codes.total() // QUARANTINE_ROWS),
    )


def _shortened(text: str | None) -> TableCell:
    if text is None:
        return TableCell()
    return TableCell(value=text, text=text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…")


def row_fields(row: Mapping[str, Any]) -> dict[str, str]:
    """Field -> text of a row that was set aside; one field of all of it where its cells did not fit the columns."""
    parsed = row.get("fields")
    if parsed is None:
        with suppress(ValueError):
            parsed = json.loads(row["raw"])
    if isinstance(parsed, dict):
        return {str(name): "" if value is None else str(value) for name, value in parsed.items()}
    return {"row": str(row["raw"])}


def quarantine_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)


@router.post("/upload")
def upload(visit: TheVisit, form: TheForm) -> Response:
    """Take a file; the next page shows what it was taken for."""
    visit.require(Scope.EVENTS)
    file = form.get("file")
    if not isinstance(file, UploadFile) or not file.filename:
        raise WordedError(visit.say("data.no_file"))
    name = file.filename
    uploaded = receive_upload(visit.workspace, file.file, name)
    table = form.text("table")
    query = f"?table={table}" if table in set(Table) else ""
    return visit.back(f"{UPLOAD_PATH}/{uploaded.parent.name}{query}")


@router.get("/upload/{upload_id}")
def columns_page(visit: TheVisit, upload_id: str, table: str = "") -> Response:
    """An export of a known system with its tables; else the columns that fill the fields. With the first rows."""
    visit.require(Scope.EVENTS)
    if table not in set(Table):
        export = export_values(visit, upload_id)
        if export is not None:
            return visit.page("export.html.j2", section="data", problem=None, **export)
    values = upload_values(visit, upload_id, table, {})
    return visit.page("upload.html.j2", section="data", problem=None, **values)


@router.post("/upload/{upload_id}/load")
def load(visit: TheVisit, form: TheForm, upload_id: str) -> Response:
    """Check a file, or load it, with the columns that were chosen."""
    visit.require(Scope.EVENTS)
    table = Table(form.text("table")) if form.text("table") in set(Table) else Table.EVENTS

    file = find_upload(visit.workspace, upload_id)
    try:
        preview = preview_file(file)
        selected = {f: name for f, name in _selected(form) if f in FIELDS[table] and name in preview.columns}
        if missing := [field for field in REQUIRED[table] if field not in selected]:
            raise UsageError(f"choose a column for {', '.join(missing)}")
        basics = {name: (name,) for name in form.texts("basic") if name in preview.columns}
        columns = {field: (column,) for field, column in selected.items()}
        maps = [(table, ColumnMap(table=table, columns=columns, basics=basics))]
        job = start_load(visit, form, file, preview, maps, IngestOptions(**written_as(form)))
    except REFUSALS as error:
        problem = visit.problem_text(error)
        values = upload_values(visit, upload_id, table.value, dict(_selected(form)))
        return visit.page("upload.html.j2", status=422, section="data", problem=problem, **values)
    return visit.back(f"/data/load/{job.job_id}")


@router.post("/upload/{upload_id}/export")
def load_as_export(visit: TheVisit, form: TheForm, upload_id: str) -> Response:
    """Check or load an export of a known kind; consent only out of the chosen columns."""
    visit.require(Scope.EVENTS)
    consent_from, tz = tuple(form.texts("consent")), form.text("tz").strip()

    file = find_upload(visit.workspace, upload_id)
    try:
        recognised = recognise_file(file, IngestOptions())
        options = IngestOptions(**written_as(form), encoding=recognised.encoding)
        preview = preview_file(file, options)
        maps = export_maps(recognised.source, consent_from)
        job = start_load(visit, form, file, preview, maps, options, is_export=True)
    except REFUSALS as error:
        problem, values = visit.problem_text(error), export_values(visit, upload_id, consent_from, tz)
        if values is None:
            return visit.back(f"{UPLOAD_PATH}/{upload_id}")
        return visit.page("export.html.j2", status=422, section="data", problem=problem, **values)
    return visit.back(f"/data/load/{job.job_id}")


def written_as(form: ConsoleForm) -> dict[str, str]:
    """What was said of how a file is written: fields of `IngestOptions`."""
    options = {"tz": form.text("tz").strip(), "date_order": form.text("date_order")}
    return {name: text for name, text in options.items() if text}


def start_load(
    visit: Visit,
    form: ConsoleForm,
    file: Path,
    preview: FilePreview,
    maps: Sequence[tuple[Table, ColumnMap]],
    options: IngestOptions,
    *,
    is_export: bool = False,
) -> Job:
    """Begin to check or load an upload.
    Raises `UsageError` while another load of the shop runs."""
    load = FileLoad(
        workspace=visit.workspace,
        upload=file,
        maps=maps,
        options=options.model_dump(include={"tz", "date_order", "encoding"}, exclude_none=True),
        likely_rows=preview.likely_rows,
        dry_run=form.text("act") == "check",
        is_export=is_export,
    )
    job = visit.state.loads.submit_alone(visit.shop.name, LOAD, load.run, load)
    if job is None:
        raise UsageError("another file is being loaded; wait until it is done, or cancel it")
    if not load.dry_run:
        visit.remember("load", table=", ".join(dict.fromkeys(load.tables)), file=file.name)
    return job


@router.post("/upload/{upload_id}/discard")
def discard(visit: TheVisit, upload_id: str) -> Response:
    visit.require(Scope.EVENTS)
    remove_upload(visit.workspace, upload_id)
    return visit.back("/data", "discarded")


@router.get("/load/{load_id}")
def load_page(visit: TheVisit, load_id: str) -> Response:
    job = visit.state.loads.job(visit.shop.name, load_id)
    template = "load_state.html.j2" if visit.is_part else "load.html.j2"
    values: dict[str, Any] = {
        "job": job,
        "is_over": job.state in ENDED,
        "load": job.result,
        "quarantine_name": quarantine_name,
    }
    return visit.page(template, section="data", **values)


@router.post("/load/{load_id}/cancel")
def cancel(visit: TheVisit, load_id: str) -> Response:
    """End a load at its next block of rows; nothing of it is kept."""
    visit.require(Scope.EVENTS)
    visit.state.loads.cancel(visit.shop.name, load_id)
    return visit.back(f"/data/load/{load_id}")


def export_values(
    visit: Visit, upload_id: str, consent_from: Sequence[str] = (), tz: str = ""
) -> dict[str, Any] | None:
    """What the page of an export shows; None for a file of no known kind."""
    file = find_upload(visit.workspace, upload_id)
    try:
        recognised = recognise_file(file, IngestOptions())
        options = IngestOptions(encoding=recognised.encoding)
        preview = preview_file(file, options)
    except IngestError:
        return None
    source, language = recognised.source, visit.language
    return {
        "upload": file,
        "kind": source.words(language),
        "encoding": recognised.encoding,
        "telling": source.telling(preview.columns)[:TELLING_COLUMNS],
        "tables": list(source.maps),
        "consent": list(source.agreements.items()),
        "choice": {"consent_from": consent_from, "tz": tz},
        "is_timed": Table.EVENTS in source.maps or source.consent is not None,
        "timezone": visit.workspace.settings.timezone,
        "likely_rows": preview.likely_rows,
        "first_rows": first_rows_table(visit, preview.columns, preview.rows),
    }


def upload_values(visit: Visit, upload_id: str, table: str, selected: Mapping[str, str]) -> dict[str, Any]:
    """What the page of the columns shows. selected: field -> column, where columns were chosen."""
    file = find_upload(visit.workspace, upload_id)
    values: dict[str, Any] = {"upload": file, "refused": None, "timezone": visit.workspace.settings.timezone}
    try:
        preview = preview_file(file)
    except IngestError as error:
        return values | {"refused": error}
    taken_for = Table(table) if table in set(Table) else preview.likely_table()
    nearest = nearest_kinds(preview.columns)
    kinds = [kind.source.words(visit.language) for kind in nearest if not kind.missing]
    fills = proposed_columns(preview.columns, taken_for)
    return values | {
        "table": taken_for,
        "by_itself": taken_for is preview.likely_table(),
        "columns": preview.columns,
        "rows": preview.rows,
        "first_rows": first_rows_table(visit, preview.columns, preview.rows),
        "likely_rows": preview.likely_rows,
        "is_sure": all(fills[field] is not None for field in REQUIRED[taken_for]),
        "fields": [
            (field, fills[field], selected.get(field, fills[field] or ""), field in REQUIRED[taken_for])
            for field in FIELDS[taken_for]
        ],
        "rare_fields": RARE_FIELDS,
        "basics": basic_columns(preview.columns, fills) if taken_for is Table.USERS else {},
        # the file's own kind, a kind that cannot be loaded, and the nearest ones with their missing columns
        "export_kind": next((kind for kind in kinds if kind.gives_nothing is None), None),
        "useless_kind": next((kind for kind in kinds if kind.gives_nothing is not None), None),
        "nearest": [
            (kind.source.words(visit.language).title, kind.missing[:MISSING_COLUMNS])
            for kind in nearest
            if kind.missing and len(kind.missing) < len(kind.source.signature)
        ],
    }


def first_rows_table(visit: Visit, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> ConsoleTable:
    cells = [tuple(_shortened(row[name] or None) for name in columns) for row in rows]
    return visit.table("first-rows", cells, fields=columns)


def _selected(form: ConsoleForm) -> Iterator[tuple[str, str]]:
    for name, value in form.multi_items():
        if name.startswith("field_") and isinstance(value, str) and value:
            yield name.removeprefix("field_"), value
