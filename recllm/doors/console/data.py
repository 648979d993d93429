"""Data: loads, rows that were set aside and why, and a file's way in.

An upload lies in a folder of its own, for its owner only. It is gone when it was loaded, after a day, or if it broke
off.
"""

from __future__ import annotations

import itertools
import json
import re
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Query
from fastapi.responses import Response
from starlette.datastructures import UploadFile

from recllm.base.errors import IngestError, UnknownIdError, UsageError
from recllm.base.files import PRIVATE, whole_file
from recllm.base.schema import IngestReport, Table
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
from recllm.doors.service.jobs import ENDED, Job, Progress
from recllm.shop.ingest.column_names import FIELDS, REQUIRED
from recllm.shop.ingest.options import ColumnMap, IngestOptions
from recllm.shop.ingest.sources import nearest_kinds, own_kinds, recognise_file
from recllm.shop.ingest.suggest import FilePreview, basic_columns, preview_file, proposed_columns
from recllm.shop.ingest.workspace_load import export_maps, load_file
from recllm.shop.workspace.keys import Scope
from recllm.shop.workspace.workspace import UPLOADS, Workspace

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
DAY_SECONDS = 24 * 3_600
BLOCK_BYTES = 1 << 20
MOST_LOADS = 50
"""Loads that may wait."""
LOAD = "load"
"""What the jobs are about."""


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
            return map(row, reader.loads(None, without_sources=PROGRAM_SOURCES).to_dicts())

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
    """Field -> text; one field of the whole row where its cells did not fit the columns."""
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
    visit.require(Scope.EVENTS)
    file = form.get("file")
    if not isinstance(file, UploadFile) or not file.filename:
        raise WordedError(visit.say("data.no_file"))
    uploaded = receive_upload(visit.workspace, file.file, file.filename)
    table = form.text("table")
    query = f"?table={table}" if table in set(Table) else ""
    return visit.back(f"{UPLOAD_PATH}/{uploaded.parent.name}{query}")


@router.get("/upload/{upload_id}")
def columns_page(visit: TheVisit, upload_id: str, table: str = "") -> Response:
    visit.require(Scope.EVENTS)
    if table not in set(Table) and (export := export_values(visit, upload_id)) is not None:
        return visit.page("export.html.j2", section="data", problem=None, **export)
    values = upload_values(visit, upload_id, table, {})
    return visit.page("upload.html.j2", section="data", problem=None, **values)


@router.post("/upload/{upload_id}/load")
def load(visit: TheVisit, form: TheForm, upload_id: str) -> Response:
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
        recognised = recognise_file(file, IngestOptions(), own_kinds(visit.workspace.root))
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
    """Begin to check or load an upload. Raises `UsageError` while another load runs."""
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
    state = {"job": job, "is_over": job.state in ENDED, "load": job.result}
    return visit.page(template, section="data", quarantine_name=quarantine_name, **state)


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
        recognised = recognise_file(file, IngestOptions(), own_kinds(visit.workspace.root))
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
    """What the page of the columns shows. selected: field -> the chosen column."""
    file = find_upload(visit.workspace, upload_id)
    values: dict[str, Any] = {"upload": file, "refused": None, "timezone": visit.workspace.settings.timezone}
    try:
        preview = preview_file(file)
    except IngestError as error:
        return values | {"refused": error}
    taken_for = Table(table) if table in set(Table) else preview.likely_table()
    nearest = nearest_kinds(preview.columns, of_shop=own_kinds(visit.workspace.root))
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
        # its own kind, a kind that gives nothing, and the nearest ones with what is missing
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


@dataclass(slots=True, eq=False, kw_only=True)
class FileLoad:
    """What a job loads; the job changes it while pages read it."""

    workspace: Workspace
    upload: Path
    """In a folder of its own, whose name is the upload's id."""
    maps: Sequence[tuple[Table, ColumnMap]]
    """What it goes into, in this order; several of an export that was recognised."""
    options: Mapping[str, Any]
    """How the file is written: of `load_file`."""
    likely_rows: int
    """About how many rows the file has; each table reads all of them."""
    dry_run: bool
    is_export: bool = False
    """Whether its kind was recognised, so that its columns were not chosen."""
    began: float = field(default_factory=time.monotonic)
    """By the monotonic clock, seconds."""
    rows: int = 0
    """Read so far, of the table that is being loaded."""
    reports: list[IngestReport] = field(default_factory=list)
    """Of the tables that are done: of a load that ended early, what stays."""
    error: IngestError | None = None
    """Why the file was refused; None for other failures, which the job says."""

    @property
    def tables(self) -> tuple[Table, ...]:
        return tuple(table for table, _ in self.maps)

    @property
    def problem(self) -> str:
        """The message of the error without a path of this machine; "" for none."""
        if self.error is None:
            return ""
        return self.error.message.removesuffix(f"; see {self.error.quarantine_file}")

    @property
    def share(self) -> float:
        """About how much is read, in [0, 0.99]."""
        share_of_table = min(1.0, self.rows / max(self.likely_rows, 1))
        return min(0.99, (len(self.reports) + share_of_table) / len(self.tables))

    @property
    def again(self) -> str:
        """The address where it can be tried again."""
        table = "" if self.is_export else f"?table={self.tables[0]}"
        return f"/data/upload/{self.upload.parent.name}{table}"

    @property
    def seconds_left(self) -> float | None:
        """About how long it still takes; None at the beginning."""
        passed = time.monotonic() - self.began
        return None if self.share < 0.02 else passed * (1 - self.share) / self.share

    def run(self, tell: Progress) -> FileLoad:
        """Load table after table; returns itself. Raises what `load_file` does."""

        def progress(rows: int) -> None:
            self.rows = rows
            tell("")  # where a job that is cancelled ends

        common: dict[str, Any] = {"dry_run": self.dry_run, "progress": progress, **self.options}
        try:
            for table, column_map in self.maps:
                self.rows = 0
                self.reports.append(load_file(self.workspace, self.upload, table, mapping=column_map, **common))
        except IngestError as error:
            self.error = error
            raise
        if not self.dry_run:
            remove_upload(self.workspace, self.upload.parent.name)
        return self


def receive_upload(workspace: Workspace, stream: BinaryIO, name: str) -> Path:
    """Copy a stream to the uploads, whole or not at all. Raises `UsageError` for an empty one."""
    sweep_uploads(workspace)
    folder = workspace.folder(UPLOADS)
    folder.mkdir(mode=0o700, exist_ok=True)
    upload_id = secrets.token_urlsafe(9).replace("-", "x").replace("_", "y")
    # the file's own name as far as it is safe in a path, in any script
    safe = re.sub(r"[^\w.-]+", "_", name.replace("\\", "/").rsplit("/", 1)[-1])[-60:].lstrip("._-")
    safe, draft = safe or "upload.csv", folder / f"{upload_id}.tmp"
    draft.mkdir(mode=0o700)
    try:
        with whole_file(draft / safe, mode=PRIVATE) as target:
            shutil.copyfileobj(stream, target, BLOCK_BYTES)
        if not (draft / safe).stat().st_size:
            raise UsageError("the file is empty; choose another one")
        draft.rename(folder / upload_id)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return find_upload(workspace, upload_id)


def find_upload(workspace: Workspace, upload_id: str) -> Path:
    """Raises `UnknownIdError` for one that never was, or is gone."""
    is_id = re.fullmatch(r"[A-Za-z0-9]{12}", upload_id) is not None
    files = (workspace.root / UPLOADS / upload_id).glob("*") if is_id else ()
    path = next((file for file in files if file.name != "upload.json"), None)  # of an earlier version
    if path is None:
        raise UnknownIdError("this upload is gone: it was loaded, or is older than a day; upload the file again")
    return path


def remove_upload(workspace: Workspace, upload_id: str) -> None:
    shutil.rmtree(find_upload(workspace, upload_id).parent, ignore_errors=True)


def sweep_uploads(workspace: Workspace) -> None:
    """Remove broken uploads, and those of a day ago. Raises `StoreError` for a link."""
    for folder in workspace.folder(UPLOADS).glob("*"):
        if time.time() - folder.stat().st_mtime > DAY_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def quarantine_name(source: IngestReport | IngestError) -> str:
    """Name of the list of rows that a load set aside; "" where there are none."""
    return Path(source.quarantine_file).stem if source.quarantine_file else ""
