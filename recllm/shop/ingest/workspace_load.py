"""Data into a workspace: files, events, users, items, consent, recommendations."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from recllm.base.errors import UsageError
from recllm.base.schema import VARIANT_IDS, VARIANT_NAMES, Action, IngestReport, Item, Purpose, Slate, Table
from recllm.shop.ingest.record import EVENT_TYPES, record_events, record_rows
from recllm.shop.store.tables import SHOWN_FOR, microseconds
from recllm.shop.store.writers import COLUMNS
from recllm.shop.workspace.workspace import Workspace

if TYPE_CHECKING:
    from recllm.base.policy import Policy
    from recllm.shop.ingest.options import ColumnMap
    from recllm.shop.ingest.sources import FileSource, Recognised

JUST_BEFORE = timedelta(microseconds=1)
"""A slate is shown this long before its present, which then counts it and stays."""
FEEDBACK_SCHEMA = {
    name: EVENT_TYPES[name]
    for name in (
        *("user_id", "item_id", "event", "timestamp", "request_id", "position", "model_version", "propensity"),
        *SHOWN_FOR,
    )
}


def load_file(
    workspace: Workspace,
    file: Path,
    table: str,
    *,
    mapping: str | ColumnMap | None = None,
    policy: Policy | None = None,
    dry_run: bool = False,
    progress: Callable[[int], None] | None = None,
    **options: Any,
) -> IngestReport:
    """Reads one file. mapping: a column map, its name or path; else as `recllm start` read such a file. options: of
    `IngestOptions`. These and the policy default to the settings. Raises `UsageError` for an unknown table, and
    `IngestError` for a refused file or load."""
    from recllm.shop.ingest.load import ingest_file
    from recllm.shop.ingest.options import IngestOptions, load_map
    from recllm.shop.ingest.sources import own_map

    if table not in set(Table):
        raise UsageError(f"--table is one of {', '.join(Table)}, not {table!r}")
    mapping = mapping or own_map(workspace.root, file, Table(table), IngestOptions(**options))
    column_map = load_map(mapping) if isinstance(mapping, str) else mapping
    if table == Table.EVENTS or (table == Table.ITEMS and column_map.only_new):  # of a log, which names variants
        products = {**products_of_variants(workspace), **column_map.values.get("item_id", {})}
        column_map = column_map.model_copy(update={"values": {**column_map.values, "item_id": products}})
    values: dict[str, Any] = {"shop_tz": workspace.settings.timezone, "shop_currency": workspace.settings.currency}
    values["event_names"] = workspace.domain.events
    values |= {name: value for name, value in options.items() if value is not None}
    return ingest_file(
        file,
        table,
        store=workspace.store(),
        pseudonymiser=workspace.pseudonymiser(),
        policy=policy or workspace.policy,
        mapping=column_map,
        options=IngestOptions(**values),
        quarantine_dir=workspace.quarantine_dir,
        dry_run=dry_run,
        progress=progress,
    )


def products_of_variants(workspace: Workspace) -> dict[str, str]:
    """The product of each variant, by the variant's id and name in lower case."""
    with workspace.store().read() as reader:
        items = reader.items()
    items = items.filter(pl.col("attributes").str.contains(f'"{VARIANT_IDS}"|"{VARIANT_NAMES}"'))
    products: dict[str, str] = {}
    for item_id, text in items.select("item_id", "attributes").iter_rows():
        attributes = json.loads(text)
        names = (attributes.get(name, "").split("\n") for name in (VARIANT_NAMES, VARIANT_IDS))
        products |= {name.casefold(): item_id for name in chain(*names) if name}
    return products


def load_export(
    workspace: Workspace,
    file: Path,
    *,
    recognised: Recognised | None = None,
    consent_from: Sequence[str] = (),
    dry_run: bool = False,
    progress: Callable[[int], None] | None = None,
    **options: Any,
) -> tuple[Recognised, list[IngestReport]]:
    """Reads an export of a known shop system, or such as `recllm start` read, into its tables.

    consent_from: columns of which agreements are taken in; refusals always are. If a table is refused those before it
    stay. Raises `IngestError` for a file of no known kind, `UsageError` for a column that is not of consent.
    """
    from recllm.shop.ingest.options import IngestOptions
    from recllm.shop.ingest.sources import own_kinds, recognise_file

    reading = IngestOptions(**{name: value for name, value in options.items() if value is not None})
    recognised = recognised or recognise_file(file, reading, own_kinds(workspace.root))
    options = {**options, "encoding": reading.encoding or recognised.encoding}
    load = partial(load_file, workspace, file, dry_run=dry_run, progress=progress, **options)
    maps = export_maps(recognised.source, consent_from)
    return recognised, [load(table=table, mapping=column_map) for table, column_map in maps]


def export_maps(source: FileSource, consent_from: Sequence[str] = ()) -> list[tuple[Table, ColumnMap]]:
    """Events last. Raises `UsageError` for a column that is not of consent."""
    from recllm.shop.ingest.sources import consent_maps

    of_consent = [(Table.CONSENT, column_map) for column_map in consent_maps(source, consent_from)]
    return sorted([*source.maps.items(), *of_consent], key=lambda pair: pair[0] is Table.EVENTS)


def add_events(
    workspace: Workspace, rows: Sequence[Mapping[str, Any]], *, source: str, by_pseudonym: bool = False
) -> Any:
    """Appends events by the shop's own ids, or pseudonyms; durable on return. rows: as for `record_events`, all with
    the same names; one with a `session_id` and no `user_id` is of that session, or its person. source: their origin."""
    frame = pl.DataFrame(list(rows), schema={name: EVENT_TYPES[name] for name in rows[0]})
    if "session_id" in frame.columns and "user_id" not in frame.columns:
        frame = frame.with_columns(user_id=pl.lit(None, pl.String))
    if not by_pseudonym and "user_id" in frame.columns:
        people = workspace.pseudonymiser().many(frame["user_id"].fill_null("").to_list())
        frame = frame.with_columns(user_id=pl.when(pl.col("user_id").is_not_null()).then(pl.Series(people)))
    if "session_id" in frame.columns:
        sessions = workspace.session_pseudonymiser().many(frame["session_id"].fill_null("").to_list())
        of_session = pl.when(pl.col("session_id").is_not_null()).then(pl.Series(sessions))
        frame = frame.with_columns(user_id=pl.coalesce("user_id", of_session)).drop("session_id")
    return record_events(frame, workspace.store(), source=source)


def add_users(workspace: Workspace, basics: Mapping[str, Mapping[str, str]], *, source: str) -> Any:
    """Inserts or replaces basics of people: the shop's own id -> name -> value."""
    texts = [json.dumps(stated, ensure_ascii=False, sort_keys=True) for stated in basics.values()]
    rows = pl.DataFrame({"user_id": workspace.pseudonymiser().many(list(basics)), "basics": texts})
    return record_rows(rows, Table.USERS, workspace.store(), source=source)


def add_consent(
    workspace: Workspace,
    decisions: Sequence[tuple[str, Purpose, bool, datetime | None]],
    *,
    source: str,
    by_pseudonym: bool = False,
) -> Any:
    """Appends decisions: id (own, or pseudonym), purpose, granted, when (None for now)."""
    user_ids, purposes, granted, times = (list(column) for column in zip(*decisions, strict=True))
    rows = pl.DataFrame(
        {
            "user_id": user_ids if by_pseudonym else workspace.pseudonymiser().many(user_ids),
            "purpose": [purpose.value for purpose in purposes],
            "granted": granted,
            "at": [time and microseconds(time) for time in times],
        },
        schema_overrides={"at": pl.Int64},
    )
    return record_rows(rows, Table.CONSENT, workspace.store(), source=source)


def add_items(workspace: Workspace, items: Sequence[Item], *, source: str) -> Any:
    """Inserts or replaces items, without invisible characters in their texts."""
    from recllm.shop.ingest.parse.batch import UNSEEN_IN_TEXT

    currency = workspace.settings.currency
    rows = pl.DataFrame(
        [
            {
                **{name: getattr(item, name) for name in ("item_id", "title", "brand", "description", "available")},
                "stock_stated": item.stock_stated,
                "category": json.dumps(item.category, ensure_ascii=False) if item.category else None,
                "price": None if item.price is None else str(item.price),
                "currency": item.currency or currency,
                "attributes": json.dumps(dict(item.attributes), ensure_ascii=False),
                "available_until": item.available_until and microseconds(item.available_until),
            }
            for item in items
        ],
        schema={name.removesuffix("?"): dtype for name, dtype in COLUMNS[Table.ITEMS].items()},
    )
    texts = pl.col("title", "category", "brand", "description").str.replace_all(UNSEEN_IN_TEXT, "")
    return record_rows(rows.with_columns(texts), Table.ITEMS, workspace.store(), source=source)


def shown_events(slates: Iterable[Slate]) -> pl.DataFrame:
    """One `shown` event per recommendation, `FEEDBACK_SCHEMA`; ids are those of the slates."""
    of_slate = ("user_id", "request_id", "model_version", "experiment", "variant")
    rows = [
        {name: getattr(slate, name) for name in of_slate}
        | {"item_id": item.item_id, "position": item.rank, "propensity": item.propensity}
        | {"event": Action.SHOWN.value, "timestamp": slate.as_of}
        for slate in slates
        for item in slate.items
    ]
    return pl.DataFrame(rows, schema=FEEDBACK_SCHEMA)


def record_shown(workspace: Workspace, slates: Sequence[Slate], *, names: Sequence[str] | None = None) -> int:
    """Records slates as shown, of people with consent to analytics; returns the number of events.

    The time is just before the slate's present, and never ahead of the clock, so that the present does not move. Each
    slate counts once. names: pseudonyms of customers or sessions; None where they follow from customers' ids.
    """
    if names is None:
        names = workspace.pseudonymiser().many([s.user_id for s in slates])
    permitted = workspace.gate().permits_each(names, Purpose.ANALYTICS)
    pairs = [(s, n) for s, n, yes in zip(slates, names, permitted, strict=True) if yes and s.items]
    if not pairs:
        return 0
    alias = {s.user_id: n for s, n in pairs}
    frame = shown_events([s for s, _ in pairs]).with_columns(
        pl.col("user_id").replace_strict(alias),
        timestamp=pl.min_horizontal(pl.col("timestamp") - JUST_BEFORE, datetime.now(UTC)),
        is_timed=False,
        event_id=pl.format("shown {} {}", "request_id", "position"),
    )
    explored = {s.request_id: s.ranked for s, _ in pairs if s.ranked}
    if explored:  # before the events, whose propensities need it
        workspace.store().add_explored_slates(explored, datetime.now(UTC))
    return int(record_events(frame, workspace.store(), source="served").accepted)
