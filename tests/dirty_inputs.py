"""Inputs that shops really send, and what becomes of each: data for one test and one document; see data/inputs.toml.

`python tests/dirty_inputs.py` writes the table to recllm/shop/ingest/INPUTS.md.
"""

from __future__ import annotations

import gzip
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recllm.shop.ingest.options import IngestOptions

DATA = Path(__file__).parent / "data"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
HEADER = "user_id,item_id,event,timestamp,quantity,price"
N = 40


@dataclass(frozen=True, kw_only=True)
class Case:
    """One file and what becomes of it."""

    name: str
    data: str
    """Name of the file that has its content."""
    file: str = "shop.csv"
    """Name under which it is sent."""
    table: str = "events"
    options: Mapping[str, Any] = field(default_factory=dict)
    fails: str | None = None
    says: str = ""
    """Part of the message of a refusal."""
    quarantined: Mapping[str, str] = field(default_factory=dict)
    """Line number -> code."""
    warns: Mapping[str, int] = field(default_factory=dict)
    accepted: int | None = None
    duplicates: int = 0

    def content(self) -> bytes:
        content = (DATA / "inputs" / self.data).read_bytes()
        is_packed_here = self.data.endswith(".gz") and not self.file.endswith(".gz")
        return gzip.decompress(content) if is_packed_here else content

    def ingest_options(self) -> IngestOptions:
        return IngestOptions(**({"now": NOW} | dict(self.options)))


TABLES: dict[str, Any] = tomllib.loads((DATA / "inputs.toml").read_text("utf-8"))
INPUTS = [(entry, [Case(**case) for case in entry["case"]]) for entry in TABLES["input"]]
"""Each kind of input, and its cases."""
CODES: dict[str, dict[str, str]] = TABLES["codes"]
"""Every code of ingest and its meaning: `E_` fails a file or quarantines a row, `W_` is counted on an accepted row."""


def row(i: int, **changed: str) -> str:
    """Line `i` of a clean file; `changed` replaces single cells as written."""
    cells = {
        "user_id": f"u{i % 7}",
        "item_id": f"i{i % 11}",
        "event": "purchase",
        "timestamp": f"2025-0{1 + i % 8}-{10 + i % 18}T0{i % 10}:30:00Z",
        "quantity": str(1 + i % 3),
        "price": f"{1 + i % 9}.{10 + i}",
    }
    return ",".join((cells | changed).values())


def lines(*extra: str, header: str = HEADER, n: int = N, clean: Callable[[int], str] = row) -> str:
    """A header, clean rows and then `extra` lines; the first of these is line n + 2."""
    return "\n".join([header, *(clean(i) for i in range(n)), *extra]) + "\n"


def csv(*extra: str, **how: Any) -> bytes:
    return lines(*extra, **how).encode()


def item_rows(*extra: str, header: str = "item_id,title,category,brand,price", n: int = N) -> bytes:
    clean = [f"i{i},Steel pan {i},Home > Kitchen,Acme,{10 + i}.50" for i in range(n)]
    return ("\n".join([header, *clean, *extra]) + "\n").encode()


def outcome(case: Case) -> str:
    """What happens, in codes."""
    if case.fails:
        return f"refused: `{case.fails}`"
    parts = [f"quarantined: `{code}`" for code in dict.fromkeys(case.quarantined.values())]
    parts += [f"counted: `{code}`" for code in case.warns]
    parts += ["duplicates counted"] if case.duplicates else []
    return "; ".join(parts) or "accepted"


def rendered() -> str:
    """The document: a row per kind of input, and the cases that the test runs for it."""
    out = [
        "# What becomes of bad input",
        "",
        "<!-- Written by `python tests/dirty_inputs.py` from the table that the tests run. Do not edit. -->",
        "",
        "F = the file is refused and nothing is kept, Q = the row goes to the quarantine file, N = repaired without "
        "loss and counted, A = accepted as it is.",
        "",
        "| # | Input | Behaviour | Tested cases |",
        "|---|---|---|---|",
    ]
    for entry, cases in INPUTS:
        told = "<br>".join(f"{case.name}: {outcome(case)}" for case in cases)
        out.append(f"| {entry['no']} | {entry['name'].replace('|', chr(92) + '|')} | {entry['behaviour']} | {told} |")
    titles = {"refused": "Refused files", "quarantined": "Quarantined rows", "counted": "Counted on accepted rows"}
    for kind, title in titles.items():
        out += ["", f"## {title}", "", "| Code | Meaning |", "|---|---|"]
        out += [f"| `{code}` | {meaning} |" for code, meaning in CODES[kind].items()]
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    target = Path(__file__).parent.parent / "recllm" / "shop" / "ingest" / "INPUTS.md"
    target.write_text(rendered(), "utf-8")
