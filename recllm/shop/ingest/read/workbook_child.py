"""Reads one workbook in a process of its own with bounded memory, for `recllm.shop.ingest.read.workbook`.

    python -P workbook_child.py FILE SHEET MAX_BYTES

Prints a JSON list of the sheets that hold anything. Where SHEET is one of them, or is empty and there is one, its cells
follow as text, an Arrow stream. It imports nothing of the package, and starts at once.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress

import fastexcel
import polars  # noqa: F401 - what fastexcel would import below the bound


def main(file: str, sheet: str, max_bytes: str) -> None:
    with suppress(ImportError):  # elsewhere than on POSIX there is no such bound
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (int(max_bytes), int(max_bytes)))
    book = fastexcel.read_excel(file)
    names = [n for n in book.sheet_names if book.load_sheet(n, header_row=None, n_rows=1, dtypes="string").height]
    sys.stdout.buffer.write(json.dumps(names).encode() + b"\n")
    if sheet in names or (not sheet and len(names) == 1):
        cells = book.load_sheet(sheet or names[0], header_row=None, dtypes="string")
        cells.to_polars().write_ipc_stream(sys.stdout.buffer)


if __name__ == "__main__":
    main(*sys.argv[1:])
