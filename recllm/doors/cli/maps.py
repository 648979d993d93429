"""What `recllm ingest --suggest` shows: how one shop's files say what a table means."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recllm.base.documents import plain
from recllm.base.errors import IngestError, UsageError
from recllm.doors.cli.options import open_shop
from recllm.doors.cli.output import note, show, table

CELL_CHARS = 24
"""So much of a cell is shown."""


def show_suggestion(
    file: Path, reading: Mapping[str, str], table: str | None, write: Path | None, workspace: Path, json: bool
) -> None:
    """Propose a map for a file of no known kind: which table it is and which column fills which field, and why.

    write: the file of the map, which must not be there yet. workspace: its domain names the events, where it is there.
    """
    from recllm.base.schema import Table
    from recllm.shop.ingest.options import IngestOptions
    from recllm.shop.ingest.sources import recognise_file
    from recllm.shop.ingest.suggest import mapped_rows, suggest_map
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
            show({"source": source.name}, lines, json=json)
            return
    suggestion = suggest_map(file, options, table=None if table is None else Table(table))
    first_rows = mapped_rows(file, options, suggestion)
    text = suggestion.toml()
    if write is not None:
        try:
            with write.open("x", encoding="utf-8") as stream:
                stream.write(text)
        except FileExistsError:
            raise UsageError(f"{write} is there already; name another file, or remove it") from None
    lines = [f"{file.name} looks like {suggestion.table}:"]
    lines += [f"  {name} = {column}, because {suggestion.reasons[name]}" for name, column in suggestion.columns.items()]
    lines += [f"  basics: {name} = {column}, because it is called so" for name, column in suggestion.basics.items()]
    lines += [f"  {remark}" for remark in suggestion.notes]
    lines += ["", f"its first {len(first_rows.rows)} rows as the store would take them, people by your ids:"]
    lines += _row_table(first_rows.rows)
    lines += [f"  {problem}" for problem in first_rows.problems]
    if write is None:
        lines += ["", text.rstrip()]
    document = {
        "table": suggestion.table,
        "columns": suggestion.columns,
        "basics": suggestion.basics,
        "reasons": suggestion.reasons,
        "notes": suggestion.notes,
        "rows": plain(first_rows.rows),
        "problems": first_rows.problems,
        "map": text,
    }
    show(document, lines, json=json)
    if write is not None:
        note(f"wrote {write}; load with: recllm ingest {file.name} --table {suggestion.table} --map {write}")


def _row_table(rows: Any) -> list[str]:
    """Fields that are empty in all rows are left out."""
    names = [name for name in (rows[0] if rows else ()) if any(row[name] not in (None, "{}") for row in rows)]

    def cell(value: Any) -> str:
        text = "" if value is None else " > ".join(value) if isinstance(value, list) else f"{value}"
        return text if len(text) <= CELL_CHARS else f"{text[: CELL_CHARS - 1]}…"

    return (
        [f"  {line}" for line in table([[cell(row[name]) for name in names] for row in rows], names)] if names else []
    )
