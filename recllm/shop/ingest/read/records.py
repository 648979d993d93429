"""The result of every reader: columns of text, and the position of each row in its file.

A text file comes as blocks of numbered whole lines. Overlong ones are set aside here, which bounds the memory. Cutting
at the newline byte is safe: no accepted encoding uses it inside another character.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count

import numpy as np
import polars as pl

from recllm.base.arrays import Ints, Mask, Rows
from recllm.base.errors import IngestError
from recllm.shop.ingest.parse.numbers import Decimal
from recllm.shop.ingest.read.source import MAX_CELL_BYTES, MAX_ROW_BYTES, Decoding, SourceFile

MAX_COLUMNS = 1000
RAW_BYTES = 2048
LINES = {"line_no": pl.Int64, "text": pl.String}


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that cannot be used, and why."""

    line_no: int
    """Line on which it begins, a header on 1. In Parquet the number of the row."""
    column: str | None
    code: str
    message: str
    raw: str
    fields: Mapping[str, str | None] | None = None
    """Its cells by column name, where each column had one; None where `raw` has names."""
    user: str | None = None
    """The raw id of the record's person, where its cell could be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Consecutive records: `frame`, arrays with one entry per row of it, and the bad ones."""

    frame: pl.DataFrame
    """One text column per header name, null where empty."""
    line_no: Ints
    raw: Callable[[int], str]
    """The text of one row, at most `RAW_BYTES`."""
    bad: tuple[BadRecord, ...] = ()
    blank_lines: int = 0
    keeps_fields: bool = False
    """Whether a bad row is kept with its cells by column name, which its text lacks."""

    @property
    def n_records(self) -> int:
        return self.frame.height + len(self.bad)

    def with_rows(self, rows: Rows, frame: pl.DataFrame) -> Chunk:
        """With the rows of `frame`, each made from the row of this chunk in `rows`, (n,)."""
        return replace(self, frame=frame, line_no=self.line_no[rows], raw=lambda row: self.raw(int(rows[row])))

    def bad_row(self, row: int, column: str | None, code: str, message: str) -> BadRecord:
        fields = None
        if self.keeps_fields:
            cells = self.frame.row(row, named=True)
            fields = {name: cell if cell is None else cell[:RAW_BYTES] for name, cell in cells.items()}
        return BadRecord(int(self.line_no[row]), column, code, message, self.raw(row), fields)

    def positions(self, line_no: Ints) -> Ints:
        """Number of the record of the chunk, from 0, that begins on each of these lines."""
        first_lines = np.sort([*self.line_no, *(record.line_no for record in self.bad)])
        return np.searchsorted(first_lines, line_no)


def chunk_of_table(
    frame: pl.DataFrame,
    rows: pl.DataFrame,
    line_no: Ints,
    good: Mask,
    long: Mask,
    *,
    blank_lines: int = 0,
) -> Chunk:
    """Rows of a file without lines of text. rows: the `good` rows of `frame`, as text. long: rows with a text that is
    too long. Arrays: (frame.height,)."""
    message = f"a cell is longer than {MAX_CELL_BYTES:,} bytes, or the row than {MAX_ROW_BYTES:,}"
    return Chunk(
        frame=rows,
        line_no=line_no[good],
        raw=partial(row_text, rows),
        bad=tuple(
            BadRecord(int(line_no[row]), None, "E_TOO_LONG", message, row_text(frame, row))
            for row in np.flatnonzero(long).tolist()
        ),
        blank_lines=blank_lines,
    )


def row_text(frame: pl.DataFrame, row: int) -> str:
    cells = {name: cell if cell is None else str(cell)[:RAW_BYTES] for name, cell in frame.row(row, named=True).items()}
    return json.dumps(cells, ensure_ascii=False)[:RAW_BYTES]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordReader:
    """A file with known encoding and columns. `chunks()` starts from the top each time."""

    columns: tuple[str, ...]
    chunks: Callable[[], Iterator[Chunk]]
    warnings: Mapping[str, int] = field(default_factory=dict)
    decimal: Decimal | None = None
    """The decimal separator where the format fixes it (Parquet, workbooks)."""
    header_records: int = 0
    """Records before the first row: they count in the numbers of the quarantine."""
    n_rows: int | None = None
    """Where the format says it (Parquet, workbooks)."""

    def mapped(self, function: Callable[[Chunk], Chunk], columns: Sequence[str] | None = None) -> RecordReader:
        """With another form of each chunk. columns: of the new chunks, where they differ."""
        names = self.columns if columns is None else tuple(columns)
        return replace(self, columns=names, chunks=lambda: map(function, self.chunks()))

    def with_frames(self, function: Callable[[pl.DataFrame], pl.DataFrame], columns: Sequence[str]) -> RecordReader:
        """With another form of each frame, of as many rows. columns: of the new frames."""
        return self.mapped(lambda chunk: replace(chunk, frame=function(chunk.frame)), columns)


def filled(column: str) -> pl.Expr:
    """The text of each cell without outer spaces; null where nothing is left."""
    text = pl.col(column).str.strip_chars()
    return pl.when(text != "").then(text)


def unique_columns(
    columns: Sequence[str], file: str, *, keeps_first: bool
) -> tuple[tuple[str, ...], Mapping[str, int]]:
    """(the names, warnings). keeps_first: numbers repeated names, else E_DUP_COLUMN is raised."""
    repeated = sorted({name for name in columns if columns.count(name) > 1})
    if repeated and not keeps_first:
        raise IngestError("E_DUP_COLUMN", f"{file}: the header names {', '.join(map(repr, repeated))} more than once")
    names: dict[str, None] = {}
    for column in columns:
        free = (name for number in count(2) if (name := f"{column} ({number})") not in columns and name not in names)
        names[next(free) if column in names else column] = None
    return tuple(names), {"W_DUP_COLUMN": len(repeated)} if repeated else {}


def shorten(raw: bytes) -> str:
    """The first `RAW_BYTES` as text; bytes that are not UTF-8 show as \\x.. escapes."""
    return raw[:RAW_BYTES].rstrip(b"\r\n").decode("utf-8", errors="backslashreplace")


@dataclass(frozen=True, slots=True, kw_only=True)
class LineBlock:
    """Consecutive lines of a file, and those that were set aside."""

    lines: pl.DataFrame
    """`LINES`, the text without its newline."""
    bad: tuple[BadRecord, ...] = ()

    @property
    def has_text(self) -> bool:
        """Whether one of the lines is not blank."""
        return (self.lines["text"].str.strip_chars(" \t\r\v\f") != "").any()


def bad_line(line_no: int, text: str, code: str, message: str) -> BadRecord:
    return BadRecord(line_no, None, code, message, shorten(text.encode()))


Blocks = Callable[[], Iterator[LineBlock]]
"""All lines of a file, from the top at each call."""


def read_blocks(source: SourceFile, decoding: Decoding, block_bytes: int) -> Iterator[LineBlock]:
    """All lines, in blocks of about `block_bytes`. Raises `IngestError` E_ENCODING."""
    newline = "\n".encode(decoding.encoding)
    if newline == b"\n" and b"\n" not in source.head and b"\r" in source.head[:-1]:
        newline = b"\r"  # as old Mac software wrote it
    block_bytes = max(block_bytes // 2 * 2, 64)  # even: a piece never ends inside a two-byte character
    too_long = f"the line is longer than {MAX_ROW_BYTES:,} bytes; is a quote or a line end missing?"
    line_no = 1
    for data, whole_lines in _spans(source, decoding.skip, newline, block_bytes):
        if not whole_lines:
            record = BadRecord(line_no, None, "E_TOO_LONG", too_long, shorten(data))
            yield LineBlock(lines=pl.DataFrame(schema=LINES), bad=(record,))
            line_no += 1
            continue
        try:
            text = data.decode(decoding.encoding)
        except UnicodeDecodeError as error:  # the file was changed since the probe read it
            raise IngestError("E_ENCODING", f"{source.path.name}: a bad byte behind line {line_no:,}") from error
        text = text.replace("\r", "\n") if newline == b"\r" else text
        texts = pl.Series([text.removesuffix("\n")]).str.split("\n").explode().alias("text")
        lines = texts.to_frame().with_row_index("line_no", line_no).cast({"line_no": pl.Int64})
        line_no += lines.height
        is_long = texts.str.len_bytes() >= MAX_ROW_BYTES
        long_lines = lines.filter(is_long).iter_rows()
        bad = tuple(bad_line(number, line, "E_TOO_LONG", too_long) for number, line in long_lines)
        yield LineBlock(lines=lines.filter(~is_long), bad=bad)


def _spans(source: SourceFile, skip: int, newline: bytes, block_bytes: int) -> Iterator[tuple[bytes, bool]]:
    """(undecoded bytes, True) for whole lines; (its first bytes, False) for a line too long."""
    tail, long_line = b"", b""
    for number, piece in enumerate(source.pieces(block_bytes)):
        data = tail + (piece if number else piece[skip:])
        if long_line:
            end = behind_newline(data, newline, last=False)
            if not end:
                tail = b""
                continue
            yield long_line, False
            data, long_line = data[end:], b""
        cut = behind_newline(data, newline, last=True)
        if cut:
            yield data[:cut], True
        tail = data[cut:]
        if len(tail) > MAX_ROW_BYTES:
            tail, long_line = b"", tail[:RAW_BYTES]
    if long_line:
        yield long_line, False
    elif tail:
        yield tail + newline, True


def behind_newline(data: bytes, newline: bytes, *, last: bool) -> int:
    """Position behind the first or last newline on a character's border; 0 for none."""
    at = data.rfind(newline) if last else data.find(newline)
    while at >= 0 and at % len(newline):
        at = data.rfind(newline, 0, at + len(newline) - 1) if last else data.find(newline, at + 1)
    return at + len(newline) if at >= 0 else 0
