"""CSV and its kin: the delimiter, the header, and blocks of lines into columns of text.

A fast columnar parser splits lines without a quote; a record that begins on a line with one goes through `csv` in
strict mode. A quote that is not closed properly loses only its line. Titles may be above the header.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from recllm.base.arrays import Ints
from recllm.base.errors import IngestError
from recllm.shop.ingest.column_names import known_count
from recllm.shop.ingest.read.records import (
    LINES,
    MAX_COLUMNS,
    Blocks,
    Chunk,
    LineBlock,
    RecordReader,
    bad_line,
    shorten,
    unique_columns,
)
from recllm.shop.ingest.read.source import DELIMITERS, HEADER_ROWS, MAX_CELL_BYTES, MAX_ROW_BYTES, SourceFile

_SAMPLE_BYTES = 64 << 10
_MAX_RECORD_LINES = 1000
_WIDE = 12
"""With more columns than this no line of a text has as many delimiters as a row."""
_FOOTER_LINES = 3
"""Odd lines at the end, such as a total, that are ignored for the delimiter."""

_Problem = tuple[str, str]
"""Code and message of a record that cannot be used."""
_OPEN: _Problem = ("E_QUOTE", "a quote is opened and not closed")


@dataclass(frozen=True, slots=True, kw_only=True)
class _CsvFormat:
    source: SourceFile
    delimiter: str
    columns: tuple[str, ...]
    header_lines: int
    """Lines down to the end of the header, those above it included."""
    has_quotes: bool = True
    """False where a quote is a character like any other."""


def open_delimited(
    blocks: Blocks,
    source: SourceFile,
    delimiter: str | None,
    *,
    has_quotes: bool = True,
    keeps_first: bool = False,
) -> RecordReader:
    """Settles delimiter and header from the first block. With `keeps_first` further columns of one name are numbered,
    "name (2)", and counted. Raises `IngestError`."""
    file = source.path.name
    first = next((block.lines["text"] for block in blocks() if block.has_text), None)
    if first is None:
        raise IngestError("E_EMPTY", f"{file} holds nothing but blank lines")
    if delimiter is not None and (len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n'):
        raise IngestError("E_DELIMITER", f"the delimiter must be one ASCII character and no quote, not {delimiter!r}")
    n_lines = int(((first.str.len_bytes() + 1).cum_sum() <= _SAMPLE_BYTES).sum())
    sample = "".join(f"{line}\n" for line in first.head(max(1, n_lines)))
    delimiter = delimiter or sniff_delimiter(sample, file)
    text = io.StringIO(sample)  # a line ends with "\n": a lone carriage return is part of a cell
    reader = csv.reader(text, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if has_quotes else csv.QUOTE_NONE)
    top: list[tuple[list[str], int]] = []
    """The first records and the number of lines down to the end of each."""
    try:
        while len(top) < HEADER_ROWS:
            record = next(reader)
            if any(cell.strip() for cell in record):
                top.append((record, reader.line_num))
    except (csv.Error, StopIteration) as error:
        if not top:
            raise IngestError("E_HEADER", f"{file}: the first line is not a header: {error}") from error
    n_above = header_row([record for record, _ in top])
    header, header_lines = top[n_above]
    if len(header) > MAX_COLUMNS:
        raise IngestError("E_HEADER", f"{file}: {len(header):,} columns; at most {MAX_COLUMNS:,} are read")
    columns = tuple(cell.strip() or f"(column {number} without a name)" for number, cell in enumerate(header, 1))
    columns, warnings = unique_columns(columns, file, keeps_first=keeps_first)
    form = _CsvFormat(
        source=source, delimiter=delimiter, columns=columns, header_lines=header_lines, has_quotes=has_quotes
    )
    return RecordReader(
        columns=columns, chunks=lambda: _chunks(blocks(), form), header_records=n_above + 1, warnings=warnings
    )


def header_row(top: Sequence[Sequence[str]]) -> int:
    """Row of the header: the first, unless a later one has two known names, more than the first has, and more cells
    than any above it."""
    n_cells = [sum(bool(cell.strip()) for cell in record) for record in top]
    n_known = [known_count(record) for record in top]
    best = max(range(len(top)), key=lambda row: (n_known[row], -row))
    is_below = n_known[best] >= max(2, n_known[0] + 1) and n_cells[best] > max(n_cells[:best], default=0)
    return best if is_below else 0


def sniff_delimiter(sample: str, file: str) -> str:
    """The one that gives nearly every line the header's number of fields; "," for one column."""
    candidates = []
    for delimiter in DELIMITERS:
        try:
            rows = [row for row in csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter) if any(row)]
        except csv.Error:
            continue
        widths = [len(row) for row in rows[header_row(rows[:HEADER_ROWS]) if rows else 0 :]]
        for _ in range(_FOOTER_LINES):
            if len(widths) > 1 and widths[-1] < widths[0]:
                widths.pop()
        if widths and widths[0] > 1:
            # one odd line in a small file is a bad row, not a format
            odd = sum(width != widths[0] for width in widths)
            candidates.append((widths[0], 1.0 if odd <= 1 else 1 - odd / len(widths), delimiter))
    if not candidates:
        return ","
    regular = [c for c in candidates if c[1] >= 0.95]
    if not regular:
        raise IngestError(
            "E_DELIMITER",
            f"{file}: no delimiter of , ; tab | splits at least 95 % of the lines into as many fields as the header; "
            "say --read delimiter=",
        )
    return max(regular)[2]


def _chunks(blocks: Iterator[LineBlock], form: _CsvFormat) -> Iterator[Chunk]:
    """Without the header; a record that a block's end cuts goes to the next block."""
    in_header = True
    following = next(blocks, None)
    carried = pl.DataFrame(schema=LINES)
    while following is not None:
        block, following = following, next(blocks, None)
        lines = pl.concat([carried, block.lines])
        if in_header and block.has_text:
            lines, in_header = lines[form.header_lines :], False
        chunk, n_lines = _parse(lines, form, last=following is None)
        carried = lines[n_lines:]
        yield replace(chunk, bad=chunk.bad + block.bad)


def _parse(lines: pl.DataFrame, form: _CsvFormat, *, last: bool) -> tuple[Chunk, int]:
    """(the records of some lines, the number of lines that they take)."""
    line_no, text = lines["line_no"].to_numpy(), lines["text"]
    quoted, problems, end = quoted_records(text, line_no, form, last=last)
    covered = np.zeros(len(text), bool)
    covered[list(problems)] = True
    for start, n, _ in quoted:
        covered[start : start + n] = True
    bare = text.str.strip_suffix("\r")
    width = text.str.count_matches(form.delimiter, literal=True).to_numpy() + 1
    blank = (bare.str.strip_chars(form.delimiter) == "").to_numpy() & ~covered
    unquoted = ~covered & ~blank
    unquoted[end:] = False
    fast = unquoted & (width == len(form.columns))
    problems |= {int(i): field_count(int(width[i]), form) for i in np.flatnonzero(unquoted & ~fast)}

    schema = dict.fromkeys(form.columns, pl.String)
    frame = pl.DataFrame([cells for _, _, cells in quoted], schema=schema, orient="row")
    if fast.any():
        joined = bare.filter(pl.Series(fast)).str.join("\n")[0]
        plain = pl.read_csv(
            joined.encode(),
            has_header=False,
            separator=form.delimiter,
            quote_char=None,
            infer_schema=False,
            schema=schema,
        )
        frame = pl.concat([plain, frame])
    starts, counts = (np.array([record[column] for record in quoted], np.int64) for column in (0, 1))
    line = np.concatenate([np.flatnonzero(fast), starts])
    n_lines = np.concatenate([np.ones(int(fast.sum()), np.int64), counts])
    if quoted:
        order = np.argsort(line, kind="stable")
        frame, line, n_lines = frame[order], line[order], n_lines[order]
    starts = np.concatenate([[0], (text.str.len_bytes() + 1).cum_sum()])
    bad_rows = rows_to_refuse(frame, starts[line + n_lines] - starts[line] - 1, form)
    if bad_rows:
        problems |= {int(line[row]): problem for row, problem in bad_rows.items()}
        good = np.ones(len(line), bool)
        good[list(bad_rows)] = False
        frame, line, n_lines = frame.filter(pl.Series(good)), line[good], n_lines[good]
    chunk = Chunk(
        frame=frame,
        line_no=line_no[line],
        raw=lambda row: shorten("\n".join(text[int(line[row]) : int(line[row] + n_lines[row])]).encode()),
        bad=tuple(bad_line(int(line_no[i]), text[i], *problem) for i, problem in problems.items()),
        blank_lines=int(blank[:end].sum()),
        keeps_fields=True,
    )
    return chunk, end


def field_count(width: int, form: _CsvFormat) -> _Problem:
    return "E_FIELD_COUNT", f"{width} fields where the header has {len(form.columns)}"


def quoted_records(
    text: pl.Series, line_no: Ints, form: _CsvFormat, *, last: bool
) -> tuple[list[tuple[int, int, list[str | None]]], dict[int, _Problem], int]:
    """Records that begin on a line with a quote, each as (its first line, its number of lines, its cells).

    Also the bad ones by their first line, and the first line that has to wait for the next block.
    """
    records: list[tuple[int, int, list[str | None]]] = []
    problems: dict[int, _Problem] = {}
    has_quote = (text.str.contains('"', literal=True) & form.has_quotes).to_list()
    texts, line = text.to_list() if any(has_quote) else [], 0
    for start in np.flatnonzero(has_quote).tolist():
        if start < line:
            continue
        # one reader goes on as long as records are good and begin on a line with a quote
        following = (f"{texts[i]}\n" for i in range(start, len(texts)))
        reader = csv.reader(following, delimiter=form.delimiter, strict=True)
        line, problem = start, None
        while problem is None and line < len(texts) and has_quote[line]:
            cells: list[str] = []
            error = ""
            try:
                cells = next(reader)
            except csv.Error as csv_error:
                error = str(csv_error)
            n_lines = start + reader.line_num - line
            if n_lines > _MAX_RECORD_LINES:
                raise IngestError(
                    "E_QUOTE",
                    f"{form.source.path.name}: the quote opened on line {line_no[line]} is still open "
                    f"{_MAX_RECORD_LINES:,} lines later; close it, or double it inside a text",
                )
            problem = record_problem(texts[line : line + n_lines], cells, error, form)
            if problem == _OPEN and not last:
                return records, problems, line
            if problem is None:
                records.append((line, n_lines, [cell or None for cell in cells]))
                line += n_lines
            else:
                problems[line] = problem
                line += 1  # what a bad record swallowed is read again
    return records, problems, len(text)


def record_problem(texts: list[str], cells: list[str], error: str, form: _CsvFormat) -> _Problem | None:
    """texts: the lines that the record takes."""
    if "field larger" in error:
        return "E_TOO_LONG", f"a cell is longer than {MAX_CELL_BYTES:,} bytes"
    if "unexpected end" in error:
        return _OPEN
    if error:
        return "E_QUOTE", "something other than a delimiter follows a closing quote"
    if len(cells) != len(form.columns):
        if len(texts) > 1:
            return "E_QUOTE", f"a quote swallowed {len(texts) - 1} further lines"
        return field_count(len(cells), form)
    if len(texts) > 1 and len(form.columns) > 3 and swallows_rows(texts, form):
        return "E_QUOTE", "a quote seems to have swallowed whole rows"
    return None


def swallows_rows(texts: list[str], form: _CsvFormat) -> bool:
    """Whether the lines of a quoted record are rows and no text: the first and another one have a row's number of cells
    if the open quote is a plain character. In a wide table the delimiters of one line inside are enough."""
    width, delimiter = len(form.columns), form.delimiter
    lines = [text.rstrip("\r").replace("\r", " ") for text in texts]
    *closed, open_cell = next(csv.reader(lines[:1], delimiter=delimiter))
    if len(closed) + 1 + open_cell.count(delimiter) == width:
        return any(len(next(csv.reader([text], delimiter=delimiter), ())) == width for text in lines[1:])
    return width > _WIDE and any(text.count(delimiter) == width - 1 for text in lines[1:-1])


def rows_to_refuse(frame: pl.DataFrame, record_bytes: Ints, form: _CsvFormat) -> dict[int, _Problem]:
    """Rows that repeat the header, or are too long; record_bytes: (n,)."""
    problems = {}
    for row in (frame[form.columns[0]] == form.columns[0]).arg_true().to_list():
        if tuple(cell and cell.strip() for cell in frame.row(row)) == form.columns:
            problems[row] = ("E_REPEATED_HEADER", "the header occurs again")
    max_cell, max_row = MAX_CELL_BYTES, MAX_ROW_BYTES
    for row in np.flatnonzero(record_bytes > max_cell).tolist():
        if record_bytes[row] > max_row:
            problems[row] = ("E_TOO_LONG", f"the row is longer than {max_row:,} bytes")
        elif any(cell and len(cell.encode()) > max_cell for cell in frame.row(row)):
            problems[row] = ("E_TOO_LONG", f"a cell is longer than {max_cell:,} bytes")
    return problems
