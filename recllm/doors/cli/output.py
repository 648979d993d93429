"""How results leave: one JSON document, or lines for people."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from recllm.base.documents import json_text


def emit_json(document: Any) -> None:
    """Exactly one JSON document on standard output."""
    sys.stdout.write(json_text(document))


def show(document: Any, lines: Iterable[str], *, json: bool) -> None:
    """A command's answer: one JSON document with --json, else lines for people."""
    if json:
        emit_json(document)
    else:
        say(*lines)


def say(*lines: str) -> None:
    """Lines for people on standard output."""
    sys.stdout.writelines(f"{line}\n" for line in lines)


def note(line: str) -> None:
    """A remark on standard error."""
    sys.stderr.write(f"{line}\n")


def table(rows: Sequence[Sequence[object]], header: Sequence[str]) -> list[str]:
    """Aligned text columns; numbers to the right."""
    cells = [[_cell(v) for v in row] for row in rows]
    columns = range(len(header))
    widths = [max(len(line[column]) for line in (header, *cells)) for column in columns]
    right = [all(isinstance(row[column], int | float) for row in rows) for column in columns]
    lines = []
    for line in (header, *cells):
        parts = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)]
        lines.append("  ".join(parts).rstrip())
    return lines


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "" if value is None else str(value)
