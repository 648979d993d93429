"""One load from file to store: the file stage, the row stage, and the report of both."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import polars as pl

from recllm.base.errors import IngestError, StoreError
from recllm.base.files import PRIVATE, sweep_drafts, whole_file
from recllm.base.policy import Policy
from recllm.base.schema import VARIANT_IDS, VARIANT_NAMES, IngestReport, Table
from recllm.base.words.sentences import sentences
from recllm.shop.ingest.column_names import REQUIRED
from recllm.shop.ingest.file_schema import FileSchema, settle_schema
from recllm.shop.ingest.options import ColumnMap, IngestOptions
from recllm.shop.ingest.parse.batch import FieldBatch, LoadState, MostCommon, PseudonymCache
from recllm.shop.ingest.read.delimited import open_delimited
from recllm.shop.ingest.read.parquet import open_parquet
from recllm.shop.ingest.read.records import BadRecord, Chunk, RecordReader, read_blocks
from recllm.shop.ingest.read.source import FileKind, SourceFile, find_decoding, probe
from recllm.shop.ingest.read.workbook import open_workbook
from recllm.shop.ingest.rearrange import rearranged
from recllm.shop.ingest.record import with_event_keys
from recllm.shop.ingest.tables import BUILDERS, DENIED, GRANTED, yes_or_no
from recllm.shop.store.database import Store
from recllm.shop.store.writers import Load
from recllm.shop.workspace.privacy import Pseudonymiser
from recllm.text.personal_data import scrub

_log = logging.getLogger(__name__)

_ERASED = "E_ERASED_SUBJECT"
"""Rows of erased people, of which only the number is kept."""
LEAST_TWINS = 5
"""Products from which on their titles show that the shop has them under other ids."""
_LEFT_OUT = frozenset({"E_MAP_REJECT", _ERASED})
"""Codes of rows that are no mistakes: they do not count towards the reject limit."""


def ingest_file(
    path: str | Path,
    table: Table | str,
    *,
    store: Store,
    pseudonymiser: Pseudonymiser,
    policy: Policy,
    mapping: ColumnMap | None = None,
    options: IngestOptions | None = None,
    quarantine_dir: str | Path | None = None,
    dry_run: bool = False,
    progress: Callable[[int], None] | None = None,
) -> IngestReport:
    """Loads one file into one table, as a whole or not at all.

    A bad row goes to `quarantine_dir`/<load_id>.jsonl. With `dry_run` the store stays unchanged. A file without rows
    gives read == 0 and W_NO_ROWS. `progress` is called with the rows read so far.

    Raises `IngestError` for a refused file or load (for E_REJECT_LIMIT the quarantine file stays), and `StoreError`
    when the store cannot take it.
    """
    started = time.monotonic()
    table = Table(table)
    column_map = mapping or ColumnMap()
    # the caller's options, else the map's, else the shop's; the map's encoding is only a hint
    of_map = column_map.read.model_dump(exclude={"encoding"}, exclude_none=True)
    of_caller = (options or IngestOptions()).model_dump(exclude_none=True)
    options = IngestOptions(**{**of_map, **of_caller})
    options = options.model_copy(update={"tz": options.tz or options.shop_tz or options.likely_tz})
    source = probe(path)
    reader = rearranged(open_records(source, options, column_map), column_map, source.path.name)
    schema = settle_schema(reader, table, options, column_map, source.path.name)
    reader = refusals_alone(reader, schema) if column_map.only_refusals else reader
    state = LoadState(
        file=source.path.name,
        schema=schema,
        options=options,
        policy=policy,
        pseudonyms=PseudonymCache(pseudonymiser),
        now=options.now or datetime.now(UTC),
    )
    load_id = f"{table}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
    with ExitStack() as draft:
        folder = None if quarantine_dir is None else Path(quarantine_dir)
        if folder is not None:
            sweep_drafts(folder)
        quarantine = QuarantineDraft(folder=folder, load_id=load_id, sha256=source.sha256, draft=draft, state=state)
        merged = None
        if column_map.keep != "all":
            stored = {} if column_map.keep == "most_common" else stored_products(store)
            merged = MostCommon(REQUIRED[table][0], column_map.keep, stored)
        known_ids = stored_ids(store, table) if column_map.only_new else frozenset()
        rows = RowStage(state=state, quarantine=quarantine, reader=reader, merged=merged, known_ids=known_ids)
        try:
            with store.load(table, load_id=load_id, source=state.file, sha256=source.sha256, dry_run=dry_run) as load:
                if table is Table.EVENTS and not load.has_times():
                    raise IngestError(
                        "E_ORDER_LOG",
                        f"{state.file}: the log of this workspace, of an earlier version, knows only an order; make "
                        "a workspace of its own for times: recllm init",
                    )
                rows.run(load, progress)
                if column_map.keep != "most_common" and options.namespace is None:
                    check_ids(rows.names, store, state.file)
                quarantine_file = quarantine.publish()
                load.counts({"read": rows.read, "quarantined": rows.codes.total()})
        except BaseException as error:
            code = error.code if isinstance(error, IngestError) else type(error).__name__
            if code != "E_REJECT_LIMIT":
                quarantine.withdraw()
            _log.warning("load failed", extra={"load_id": load_id, "table": str(table), "code": code})
            raise
    report = rows.report(load_id, quarantine_file, committed=not dry_run)
    logged = ("load_id", "table", "read", "accepted", "duplicates", "quarantined", "committed", "personal_data")
    seconds = round(time.monotonic() - started, 3)
    _log.info("load done", extra={"seconds": seconds, **{name: getattr(report, name) for name in logged}})
    return report


def stored_ids(store: Store, table: Table) -> frozenset[str]:
    """Items with a title, people with basics."""
    with store.read() as reader:
        if table is Table.ITEMS:
            return frozenset(reader.items().filter(pl.col("title").is_not_null())["item_id"])
        return frozenset(reader.users().filter(pl.col("basics") != "{}")["user_id"])


def stored_products(store: Store) -> dict[str, bool]:
    """Items, and whether a catalogue named their variants."""
    with store.read() as reader:
        has_variants = pl.col("attributes").str.contains(f'"{VARIANT_IDS}"|"{VARIANT_NAMES}"').fill_null(False)
        return dict(reader.items().select("item_id", has_variants).iter_rows())


def check_ids(rows: Sequence[pl.DataFrame], store: Store, file: str) -> None:
    """rows: item_id and title. Raises E_OTHER_IDS where the store has most, all by other ids."""
    names = pl.concat([pl.DataFrame(schema={"item_id": pl.String, "title": pl.String}), *rows])
    with store.read() as reader:
        stored = reader.items().select("item_id", "title")
    twins = names.join(stored.filter(pl.col("title").is_unique()), on="title")
    if 2 * twins.height > names.height >= LEAST_TWINS and names.join(stored, on="item_id").is_empty():
        title, new_id, old_id = twins.select("title", "item_id", "item_id_right").row(0)
        raise IngestError(
            "E_OTHER_IDS",
            f"{file}: the shop has {twins.height:,} of {names.height:,} products under other ids ({title!r}: {old_id}, "
            f"here {new_id}), and would have each twice; nothing was kept. Give them the ids that orders name, "
            "or read both files into a new folder: recllm start PRODUCTS ORDERS",
        )


def open_records(source: SourceFile, options: IngestOptions, column_map: ColumnMap) -> RecordReader:
    """Of a probed file. Raises `IngestError` for encoding, delimiter and header."""
    keeps_first = column_map.doubled == "first"
    if source.kind is FileKind.PARQUET:
        return open_parquet(source.path)
    if source.kind is FileKind.WORKBOOK:
        sheet = options.sheet or column_map.read.sheet
        return open_workbook(source.path, sheet, keeps_first=keeps_first)
    decoding = find_decoding(source, options, column_map)
    blocks = partial(read_blocks, source, decoding, options.block_bytes)
    has_quotes = (options.quotes or column_map.read.quotes) != "off"
    reader = open_delimited(blocks, source, options.delimiter, has_quotes=has_quotes, keeps_first=keeps_first)
    return replace(reader, warnings={**reader.warnings, **decoding.warnings})


def refusals_alone(reader: RecordReader, schema: FileSchema) -> RecordReader:
    """The rows that do not say yes and are not rejected; bad lines count in other tables."""

    def refusals(chunk: Chunk) -> Chunk:
        is_out = yes_or_no(chunk.frame[schema.columns["granted"]], GRANTED, DENIED).fill_null(False)
        for rule in schema.column_map.reject:
            is_out |= rule.holds(chunk.frame)
        return replace(chunk.with_rows((~is_out).arg_true().to_numpy(), chunk.frame.filter(~is_out)), bad=())

    return reader.mapped(refusals)


@dataclass(slots=True, kw_only=True)
class RowStage:
    state: LoadState
    quarantine: QuarantineDraft
    reader: RecordReader
    merged: MostCommon | None
    """Collects good rows that become one per id; None where they go to the store as they are."""
    known_ids: frozenset[str] = frozenset()
    """Ids of `merged` that stay unchanged in the store."""
    names: list[pl.DataFrame] = field(default_factory=list)
    """item_id and title of the rows of a catalogue."""
    read: int = 0
    accepted: int = 0
    duplicates: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    """Quarantined rows by code."""
    left_out: Counter[str] = field(default_factory=Counter)

    def run(self, load: Load, progress: Callable[[int], None] | None) -> None:
        """Raises `IngestError` E_REJECT_LIMIT."""
        policy, chunks = self.state.policy, iter(self.reader.chunks())
        with ThreadPoolExecutor(1, "parse") as pool:  # a chunk is parsed while the one before it is written
            upcoming = pool.submit(self._parsed, chunks)
            while (parsed := upcoming.result()) is not None:
                upcoming = pool.submit(self._parsed, chunks)
                self._write(*parsed, load)
                if progress is not None:
                    progress(self.read)
        if self.merged is not None:
            rows = self.merged.rows()
            if self.known_ids:
                rows = rows.filter(~rows[REQUIRED[self.state.schema.table][0]].is_in(list(self.known_ids)))
            if rows.height:
                self._keep_names(rows)
                result = load.write(rows)
                self.accepted += result.accepted
                self.codes[_ERASED] += len(result.erased)
            self.duplicates += self.read - self.codes.total() - self.accepted
        n_left_out = sum(self.codes[code] for code in _LEFT_OUT)
        n_meant, n_bad = self.read - n_left_out, self.codes.total() - n_left_out
        if n_bad > policy.reject_limit * n_meant:
            words = sentences("en", "console")
            counts = self.codes.most_common(4)
            codes = "; ".join(f"{code} {n:,}: {words.get(f'code.{code}', '')}" for code, n in counts)
            file, limit = self.quarantine.publish(), f"{policy.reject_limit:.0%}"
            why = f"{n_bad:,} of {n_meant:,} rows are bad, more than the limit of {limit} ({codes})"
            see = f"; see {file}" if file else ""
            raise IngestError("E_REJECT_LIMIT", f"{self.state.file}: {why}; nothing of it was kept{see}", file)

    def _keep_names(self, rows: pl.DataFrame) -> None:
        if self.state.schema.table is Table.ITEMS:
            self.names.append(rows.select("item_id", "title"))

    def _parsed(self, chunks: Iterator[Chunk]) -> tuple[FieldBatch, pl.DataFrame, bool] | None:
        """The next chunk, its good rows for the store, and whether no two events of the load can have one key, as the
        file has no ids of events; None after the last."""
        chunk = next(chunks, None)
        if chunk is None:
            return None
        schema, notes = self.state.schema, self.state.notes
        notes["W_BLANK_LINE"] += chunk.blank_lines
        batch = FieldBatch(chunk, self.state)
        for rule in schema.column_map.reject:
            batch.mark("", rule.holds(chunk.frame), "E_MAP_REJECT", rule.reason, column=rule.column)
        good = BUILDERS[schema.table](batch).filter(batch.good())
        are_distinct = False
        if self.merged is None and schema.table is Table.EVENTS:
            are_distinct = "event_id" not in good.columns or good["event_id"].null_count() == good.height
            good = with_event_keys(good, self.state.occurrences)
        return batch, good, are_distinct

    def _write(self, batch: FieldBatch, good: pl.DataFrame, are_distinct: bool, load: Load) -> None:
        if self.merged is not None:
            self.merged.add(good)
        elif good.height:
            self._keep_names(good)
            positions = np.flatnonzero(~batch.bad)
            result = load.write(good, are_distinct=are_distinct)
            self.accepted += result.accepted
            self.duplicates += result.duplicates
            if result.conflicts:
                conflicts = np.isin(np.arange(len(batch.bad)), positions[result.conflicts])
                message = "an event with this id and another content is known already"
                batch.mark("event_id", conflicts, "E_ID_CONFLICT", message)
            if result.erased:
                erased = np.isin(np.arange(len(batch.bad)), positions[result.erased])
                batch.mark("user_id", erased, _ERASED, "was erased; nothing of the row is kept", keep=False)
        chunk = batch.chunk
        bad = sorted([*chunk.bad, *batch.errors], key=lambda record: record.line_no)
        positions = chunk.positions(np.array([record.line_no for record in bad], np.int64))
        for record, position in zip(bad, positions.tolist(), strict=True):
            record_no = self.reader.header_records + self.read + 1 + position
            self.quarantine.add(record, record_no)
            self.codes[record.code] += 1
            self.left_out[record.message] += record.code == "E_MAP_REJECT"
        self.read += chunk.n_records

    def report(self, load_id: str, quarantine_file: str | None, *, committed: bool) -> IngestReport:
        state, schema = self.state, self.state.schema
        notes = state.notes + Counter(self.reader.warnings)
        notes["W_HEADER_ALIAS"] += schema.n_aliases
        notes["W_NO_ROWS"] += self.read == 0 and not schema.column_map.only_refusals
        return IngestReport(
            load_id=load_id,
            table=schema.table,
            read=self.read,
            accepted=self.accepted,
            duplicates=self.duplicates,
            quarantined=self.codes.total(),
            warnings={code: n for code, n in sorted(notes.items()) if n},
            quarantine_file=quarantine_file,
            read_columns=tuple(name for name in self.reader.columns if name not in schema.ignored),
            ignored_columns=schema.ignored,
            codes={code: n for code, n in sorted(self.codes.items()) if n},
            left_out={reason: n for reason, n in sorted(self.left_out.items()) if n},
            personal_data=dict(sorted(state.personal_data.items())),
            committed=committed,
        )


@dataclass(slots=True, kw_only=True)
class QuarantineDraft:
    """The file of refused rows of one load. It holds raw ids: only the owner may read it.

    Lines go to a hidden draft, which gets its name when the load is committed, or refused for too many bad rows; else
    it goes with `draft`, or at the next load. With no folder nothing is written. Ids are without the namespace.
    """

    folder: Path | None
    load_id: str
    sha256: str
    draft: ExitStack
    state: LoadState
    stream: IO[bytes] | None = None

    @property
    def path(self) -> Path:
        return (self.folder or Path()) / f"{self.load_id}.jsonl"

    def add(self, record: BadRecord, record_no: int) -> None:
        """record_no: number of the record in its file, from 1, a header included."""
        if self.folder is None:
            return
        line: dict[str, Any] = {"file": self.state.file, "sha256": self.sha256}
        if self.state.options.namespace is not None:
            line["namespace"] = self.state.options.namespace
        line |= {"line_no": record.line_no, "record_no": record_no} | asdict(record)
        if self.state.policy.mask_quarantine:
            line |= {name: line[name] and scrub(line[name])[0] for name in ("raw", "message", "user")}
            if record.fields is not None:
                line["fields"] = {name: cell and scrub(cell)[0] for name, cell in record.fields.items()}
        with self.explained():
            if self.stream is None:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self.stream = self.draft.enter_context(whole_file(self.path, mode=PRIVATE))
            self.stream.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")

    def publish(self) -> str | None:
        """Gives the file its name, durably. Returns its path, None when no row was refused."""
        if self.stream is None:
            return None
        with self.explained():
            self.draft.close()
        return str(self.path)

    def withdraw(self) -> None:
        if self.folder is not None:
            self.path.unlink(missing_ok=True)

    @contextmanager
    def explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"the quarantine {self.folder} cannot be written: {error.strerror or error}; nothing was kept"
            ) from error
