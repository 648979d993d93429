"""One load from file to store: the file stage, the row stage, and the account of both."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recllm.errors import IngestError, UsageError
from recllm.ingest.blocks import read_blocks
from recllm.ingest.catalogue import build_items
from recllm.ingest.chunk import Chunk, Reader
from recllm.ingest.columnar import open_parquet
from recllm.ingest.context import Context, Pseudonyms
from recllm.ingest.delimited import DELIMITERS, open_delimited
from recllm.ingest.encoding import decide
from recllm.ingest.events import build_events, finish_events
from recllm.ingest.faults import Faults
from recllm.ingest.header import known_count
from recllm.ingest.jsonlines import open_jsonl
from recllm.ingest.mapping import Map
from recllm.ingest.merge import MostCommon
from recllm.ingest.options import IngestOptions
from recllm.ingest.people import build_consent, build_users
from recllm.ingest.plan import Plan, fields_of, make_plan
from recllm.ingest.quarantine import Quarantine
from recllm.ingest.source import Kind, Source, probe
from recllm.ingest.survey import survey
from recllm.ingest.target import Sink, open_sink
from recllm.policy import Policy
from recllm.schema import IngestReport, Table
from recllm.store.database import Store

Progress = Callable[[int], None]
"""Called with the number of rows read so far."""

_BUILD: dict[Table, Callable[[pl.DataFrame, Context, Faults], pl.DataFrame]] = {
    Table.EVENTS: build_events,
    Table.ITEMS: build_items,
    Table.USERS: build_users,
    Table.CONSENT: build_consent,
}
_KEY = {Table.ITEMS: "item_id", Table.USERS: "user_id"}


def ingest_file(
    path: str | Path,
    table: Table | str,
    *,
    store: Store | None,
    pseudonymiser: Pseudonyms,
    policy: Policy,
    mapping: Map | None = None,
    options: IngestOptions | None = None,
    quarantine_dir: str | Path | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> IngestReport:
    """Load one file into one table, as a whole or not at all.

    A bad row goes to `quarantine_dir`/<load_id>.jsonl with its place, code and message. With `dry_run` everything is
    done and counted in the same way and the store stays as it was; then `store` may be None. A file with a header and
    no rows gives a report with read == 0 and W_NO_ROWS.

    Raises `IngestError` when the file or the load is refused (then nothing of it is kept; for E_REJECT_LIMIT the
    quarantine file stays and is named), `StoreError` when the store cannot take it.
    """
    if store is None and not dry_run:
        raise UsageError("ingest needs a store; without one only dry_run is possible")
    table = Table(table)
    options = _with_map(options or IngestOptions(), mapping)
    source = probe(path, policy)
    reader = open_reader(source, options, mapping)
    plan = make_plan(reader.columns, table, mapping, source.path.name)
    ctx = Context(
        name=source.path.name,
        plan=plan,
        facts=survey(reader, plan, options, source.path.name),
        options=options,
        policy=policy,
        pseudonyms=pseudonymiser,
        now=options.now or datetime.now(UTC),
    )
    load_id = f"{table}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
    folder = Path(quarantine_dir) if quarantine_dir is not None else None
    with Quarantine(folder, load_id, source.path.name, source.sha256) as quarantine:
        run = _Run(ctx=ctx, quarantine=quarantine, progress=progress)
        try:
            sink = open_sink(
                store, table, load_id=load_id, source=source.path.name, sha256=source.sha256, dry_run=dry_run
            )
            with sink as load:
                run.all_chunks(reader, load)
                kept = quarantine.keep()
                load.counts(run.numbers())
        except BaseException as error:
            if not (isinstance(error, IngestError) and error.code == "E_REJECT_LIMIT"):
                quarantine.withdraw()
            raise
    return run.report(load_id, reader, kept, committed=not dry_run)


def open_reader(source: Source, options: IngestOptions, mapping: Map | None = None) -> Reader:
    """The reader for a probed file. Raises `IngestError` for encoding, delimiter and header."""
    if source.kind is Kind.PARQUET:
        return open_parquet(source.path)
    hint = mapping.read.get("encoding") if mapping else None
    decoding = decide(source, options, hint, lambda line: _header_known(line, mapping))
    name = source.path.name

    def blocks() -> Any:
        return read_blocks(source, decoding, options.block_bytes)

    if source.kind is Kind.JSONL:
        return open_jsonl(blocks, name, decoding.warnings, source.policy)
    return open_delimited(blocks, name, options.delimiter, decoding.warnings, source.policy)


def _header_known(line: str, mapping: Map | None) -> bool:
    """Whether a first line has at least two names that mean something here."""
    named = {n.casefold() for names in (mapping.columns.values() if mapping else ()) for n in names}
    for delimiter in DELIMITERS:
        cells = [cell.strip().strip('"') for cell in line.split(delimiter)]
        if known_count(cells) + sum(cell.casefold() in named for cell in cells) >= 2:
            return True
    return '"' in line and line.lstrip().startswith("{") and known_count(line.split('"')) >= 2


def _with_map(options: IngestOptions, mapping: Map | None) -> IngestOptions:
    """What the caller said, else what the map says, else the shop's own. The map's encoding is only a hint."""
    said: dict[str, Any] = {k: v for k, v in (mapping.read if mapping else {}).items() if k != "encoding"}
    options = replace(options, **{k: v for k, v in said.items() if getattr(options, k) is None})
    return replace(options, tz=options.tz or options.shop_tz)


@dataclass(slots=True, kw_only=True)
class _Run:
    """The row stage of one load and its counts."""

    ctx: Context
    quarantine: Quarantine
    progress: Progress | None
    read: int = 0
    accepted: int = 0
    duplicates: int = 0
    held_against: int = 0
    head_bad: int = 0
    codes: Counter[str] = field(default_factory=Counter)

    def all_chunks(self, reader: Reader, load: Sink) -> None:
        """Raises `IngestError` E_REJECT_LIMIT as soon as it is clear."""
        key = _KEY.get(self.ctx.plan.table, "")
        merged = MostCommon(key) if self.ctx.plan.keep == "most_common" else None
        for chunk in reader.chunks():
            self._one_chunk(chunk, load, merged)
            if self.progress is not None:
                self.progress(self.read)
            self._check_head()
        if merged is not None:
            self._write_merged(merged, load)
        self._check_all()

    def _one_chunk(self, chunk: Chunk, load: Sink, merged: MostCommon | None) -> None:
        ctx = self.ctx
        self.read += chunk.n_records
        ctx.notes.update(chunk.notes)
        faults = Faults.none_of(chunk.frame.height)
        _apply_reject_rules(ctx.plan, chunk.frame, faults)
        rows = _BUILD[ctx.plan.table](fields_of(ctx.plan, chunk.frame), ctx, faults)
        positions = np.flatnonzero(~faults.bad)
        good = rows.filter(faults.good())
        if merged is not None:
            merged.add(good)
        elif good.height:
            self._write(finish_events(good, ctx) if ctx.plan.table is Table.EVENTS else good, positions, load, faults)
        self._set_aside(chunk, faults)

    def _write(self, rows: pl.DataFrame, positions: Any, load: Sink, faults: Faults) -> None:
        written = load.write(rows)
        self.accepted += written.accepted
        self.duplicates += written.duplicates
        if written.conflicts:
            mask = np.zeros(len(faults.bad), bool)
            mask[positions[written.conflicts]] = True
            name = self.ctx.plan.column_of("event_id")
            faults.mark(mask, name, "E_ID_CONFLICT", "an event with this id and another content is known already")

    def _write_merged(self, merged: MostCommon, load: Sink) -> None:
        rows = merged.rows()
        good = self.read - self.codes.total()
        if rows.height:
            written = load.write(rows)
            self.accepted += written.accepted
        self.duplicates += good - self.accepted

    def _set_aside(self, chunk: Chunk, faults: Faults) -> None:
        entries = [(b.place, b.column, b.code, b.message, b.raw, False) for b in chunk.broken]
        for row, why in faults.why.items():
            entry = (chunk.place(row), why.column, why.code, why.message, chunk.raw(row), row in faults.exempt)
            entries.append(entry)
        for place, column, code, message, raw, exempt in sorted(entries, key=lambda e: e[0].record_no):
            self.quarantine.add(place, column, code, message, raw)
            self.codes[code] += 1
            self.held_against += not exempt
            self.head_bad += not exempt and place.record_no <= self.ctx.policy.reject_head_rows + 1

    def _check_head(self) -> None:
        rows = self.ctx.policy.reject_head_rows
        if self.read >= rows > 0 and self.head_bad > self.ctx.policy.reject_head_limit * rows:
            raise self._refused(f"{self.head_bad:,} of the first {rows:,} rows are bad")

    def _check_all(self) -> None:
        exempt = self.codes.total() - self.held_against
        meant = self.read - exempt
        if self.held_against > self.ctx.policy.reject_limit * meant:
            limit = f"{self.ctx.policy.reject_limit:.0%}"
            raise self._refused(f"{self.held_against:,} of {meant:,} rows are bad, more than the limit of {limit}")

    def _refused(self, why: str) -> IngestError:
        codes = ", ".join(f"{code} {count:,}" for code, count in self.codes.most_common(4))
        kept = self.quarantine.keep()
        where = f"; see {kept}" if kept else ""
        return IngestError("E_REJECT_LIMIT", f"{self.ctx.name}: {why} ({codes}); nothing of it was kept{where}")

    def numbers(self) -> dict[str, int]:
        """For the store's record of the load."""
        return {"read": self.read, "quarantined": self.codes.total()}

    def report(self, load_id: str, reader: Reader, kept: str | None, *, committed: bool) -> IngestReport:
        notes = self.ctx.notes + Counter(reader.warnings)
        notes["W_HEADER_ALIAS"] += self.ctx.plan.aliases
        notes["W_NO_ROWS"] += self.read == 0
        notes["W_NEAR_ID"] += self.ctx.users.near() + self.ctx.items.near()
        notes["W_PRICE_OUTLIER"] += self.ctx.prices.outliers()
        if self.ctx.plan.table is Table.EVENTS:
            notes["W_HEAVY_USER"] += self.ctx.users.heavy(self.ctx.policy.heavy_user_share)
        return IngestReport(
            load_id=load_id,
            table=self.ctx.plan.table,
            read=self.read,
            accepted=self.accepted,
            duplicates=self.duplicates,
            quarantined=self.codes.total(),
            warnings={code: n for code, n in sorted(notes.items()) if n},
            quarantine_file=kept,
            ignored_columns=self.ctx.plan.ignored,
            codes=dict(sorted(self.codes.items())),
            committed=committed,
        )


def _apply_reject_rules(plan: Plan, frame: pl.DataFrame, faults: Faults) -> None:
    for rule in plan.reject:
        column = frame[rule.column].str.strip_chars()
        mask = pl.repeat(False, frame.height, eager=True)
        if rule.empty:
            mask = mask | column.is_null() | (column == "").fill_null(False)
        if rule.values:
            mask = mask | column.is_in(list(rule.values)).fill_null(False)
        if rule.matches:
            mask = mask | column.str.contains(rule.matches).fill_null(False)
        faults.mark(mask, rule.column, "E_MAP_REJECT", rule.reason, exempt=True)
