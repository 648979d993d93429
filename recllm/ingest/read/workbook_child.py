"""Reads one workbook in a process of its own, whose memory is bounded; `recllm.ingest.read.workbook` starts it.

    python -I workbook_child.py FILE SHEET MAX_BYTES

Prints a line of JSON, {"sheets": [those that hold anything], "error": why it cannot be read or null}. Where SHEET is
one of them, or is empty and there is one, its cells follow as text: for each 65,536 rows a length in 8 bytes, and so
many bytes of an Arrow stream. It imports nothing of the package, and starts at once.
"""

from __future__ import annotations

import io
import json
import sys
from contextlib import suppress

import fastexcel
import polars as pl

CHUNK_ROWS = 1 << 16
NO_MEMORY = 3
"""How it exits where the bound was too low, or is ended by a signal."""


def main(file: str, sheet: str, max_bytes: str) -> None:
    with suppress(ImportError):  # elsewhere than on POSIX there is no such bound
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (int(max_bytes), int(max_bytes)))
    error, names = None, []
    chunks: list[pl.DataFrame] = []
    try:
        book = fastexcel.read_excel(file)
        for name in book.sheet_names:
            if book.load_sheet(name, header_row=None, n_rows=1, dtypes="string").height:
                names.append(name)
        if sheet in names or (not sheet and len(names) == 1):
            cells = book.load_sheet(sheet or names[0], header_row=None, dtypes="string").to_polars()
            chunks = list(cells.iter_slices(CHUNK_ROWS))
    except MemoryError:
        sys.exit(NO_MEMORY)
    except Exception as problem:  # whatever it is, the parent says that the file cannot be read
        error = str(problem)
    sys.stdout.buffer.write(json.dumps({"sheets": names, "error": error}).encode() + b"\n")
    for chunk in chunks:
        stream = io.BytesIO()
        chunk.write_ipc_stream(stream)
        sys.stdout.buffer.write(stream.tell().to_bytes(8, "big") + stream.getbuffer())


if __name__ == "__main__":
    main(*sys.argv[1:])
