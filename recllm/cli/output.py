"""How results leave: one JSON document, or lines for people."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

from recllm.documents import json_text


def emit_json(document: Any) -> None:
    """Exactly one JSON document on standard output."""
    sys.stdout.write(json_text(document))


def say(*lines: str) -> None:
    """Lines for people on standard output."""
    sys.stdout.writelines(f"{line}\n" for line in lines)


def note(line: str) -> None:
    """A remark on standard error."""
    sys.stderr.write(f"{line}\n")


def table(rows: Sequence[Sequence[object]], header: Sequence[str]) -> list[str]:
    """Aligned text columns; numbers to the right."""
    cells = [[_cell(v) for v in row] for row in rows]
    widths = [max(len(h), *(len(r[i]) for r in cells)) if cells else len(h) for i, h in enumerate(header)]
    right = [all(isinstance(row[i], int | float) for row in rows) for i in range(len(header))]
    lines = [_line(header, widths, right)]
    return lines + [_line(row, widths, right) for row in cells]


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "" if value is None else str(value)


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    parts = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True)]
    return "  ".join(parts).rstrip()


class LogFormatter(logging.Formatter):
    """A line of the log with its structured fields behind it, as name=value."""

    _standard = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        fields = {name: value for name, value in record.__dict__.items() if name not in self._standard}
        return super().format(record) + "".join(f" {name}={value}" for name, value in fields.items())
