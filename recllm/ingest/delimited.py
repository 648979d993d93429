"""CSV and its kin: the delimiter, the header, and blocks of lines into columns of text.

Lines without a quote are split by a fast columnar parser; a record that begins on a line with a quote goes through
the `csv` module in strict mode. After a quote that never closes properly only that one line is lost: reading goes on
with the next line.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.errors import IngestError
from recllm.ingest.blocks import Block
from recllm.ingest.chunk import Broken, Chunk, Place, Reader, shorten
from recllm.ingest.options import MAX_COLUMNS, MAX_RECORD_LINES
from recllm.policy import Policy

DELIMITERS = (",", ";", "\t", "|")
_QUOTE, _RETURN = ord('"'), ord("\r")
_SAMPLE = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Delimiter, header and the number of lines that the header ends on."""

    delimiter: str
    columns: tuple[str, ...]
    lines: int
    policy: Policy


def open_delimited(
    blocks: Callable[[], Iterator[Block]], name: str, delimiter: str | None, warnings: dict[str, int], policy: Policy
) -> Reader:
    """Settle the layout from the first block. Raises `IngestError` for the file stage's codes."""
    first = next((b for b in blocks() if b.text.strip()), None)
    if first is None:
        raise IngestError("E_EMPTY", f"{name} holds nothing but blank lines")
    layout = _layout(first, name, delimiter, policy)
    return Reader(columns=layout.columns, chunks=lambda: _chunks(blocks(), layout, name), warnings=warnings)


def _layout(first: Block, name: str, delimiter: str | None, policy: Policy) -> Layout:
    sample = first.text[:_SAMPLE]
    cut = sample.rfind(b"\n") + 1
    text = (sample[:cut] if cut else first.text[: first.text.index(b"\n") + 1]).decode("utf-8")
    if delimiter is not None and (len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n'):
        raise IngestError("E_DELIMITER", f"the delimiter must be one ASCII character and no quote, not {delimiter!r}")
    delimiter = delimiter or sniff(text, name)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        header = next(row for row in reader if any(cell.strip() for cell in row))
    except (csv.Error, StopIteration) as error:
        raise IngestError("E_HEADER", f"{name}: the first line is not a header: {error}") from error
    return Layout(delimiter=delimiter, columns=_names(header, name), lines=reader.line_num, policy=policy)


def _names(header: list[str], name: str) -> tuple[str, ...]:
    if len(header) > MAX_COLUMNS:
        raise IngestError("E_HEADER", f"{name}: {len(header):,} columns; at most {MAX_COLUMNS:,} are read")
    names = [cell.strip() or f"(column {number} without a name)" for number, cell in enumerate(header, 1)]
    twice = [n for n, count in Counter(names).items() if count > 1]
    if twice:
        raise IngestError("E_DUP_COLUMN", f"{name}: the header names {', '.join(map(repr, twice))} more than once")
    return tuple(names)


def sniff(text: str, name: str) -> str:
    """The delimiter that gives (nearly) every line the header's number of fields; "," where there is one column."""
    found = [(width, share, d) for d in DELIMITERS for width, share in [_regularity(text, d)] if width > 1]
    if not found:
        return ","
    regular = [f for f in found if f[1] >= 0.95]
    if not regular:
        raise IngestError(
            "E_DELIMITER",
            f"{name}: no delimiter of , ; tab | splits at least 95 % of the lines into as many fields as the header; "
            "say --delimiter",
        )
    return max(regular)[2]


def _regularity(text: str, delimiter: str) -> tuple[int, float]:
    """(fields in the header, share of lines with as many). One odd line in a small file is a bad row, not a layout."""
    try:
        widths = [len(row) for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row]
    except csv.Error:
        return 0, 0.0
    if not widths:
        return 0, 0.0
    odd = sum(w != widths[0] for w in widths)
    return widths[0], 1.0 if odd <= 1 else 1 - odd / len(widths)


def _chunks(blocks: Iterator[Block], layout: Layout, name: str) -> Iterator[Chunk]:
    """Cut the header off, and carry a record that a block's end cuts over to the next block."""
    header_lines, record_no = layout.lines, 1
    carried: Block | None = None
    for block, last in _with_last(blocks):
        current = block.follow(carried)
        if header_lines and current.text.strip():
            current = _below(current, header_lines)
            header_lines = 0
        parsed = _parse(current, layout, name, last)
        current, carried = current.split(parsed.n_lines) if parsed.n_lines < current.n_lines else (current, None)
        chunk = _numbered(current, parsed, record_no)
        record_no += chunk.n_records
        yield chunk


def _with_last(blocks: Iterator[Block]) -> Iterator[tuple[Block, bool]]:
    before: Block | None = None
    for block in blocks:
        if before is not None:
            yield before, False
        before = block
    if before is not None:
        yield before, True


def _below(block: Block, lines: int) -> Block:
    header, rest = block.split(lines)
    return replace(rest, broken=header.broken)


@dataclass(frozen=True, slots=True)
class _Bad:
    line: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class _Parsed:
    """`frame` and, per row of it, the line that it begins on and the number of lines that it takes."""

    frame: pl.DataFrame
    line: NDArray[np.int64]
    used: NDArray[np.int64]
    bad: list[_Bad]
    n_lines: int
    """Lines dealt with; the rest begin a record that the next block ends."""
    blank: int


class _Lines:
    """Random access to the lines of a block."""

    def __init__(self, block: Block) -> None:
        self.text = block.text
        self.number = block.line_no
        self.ends = block.ends()
        self.starts = np.concatenate([[0], self.ends[:-1] + 1]).astype(np.int64) if len(self.ends) else self.ends
        self.bytes = np.frombuffer(block.text, np.uint8)

    def __len__(self) -> int:
        return len(self.ends)

    def raw(self, line: int, used: int = 1) -> bytes:
        return self.text[self.starts[line] : self.ends[line + used - 1] + 1]

    def count(self, byte: int) -> NDArray[np.int64]:
        """How often each line holds this byte."""
        found = np.searchsorted(self.ends, np.flatnonzero(self.bytes == byte))
        return np.bincount(found, minlength=len(self))

    def blank(self) -> NDArray[np.bool_]:
        length = self.ends - self.starts
        only_return = (length == 1) & (self.bytes[self.starts] == _RETURN) if len(self) else length == 1
        found: NDArray[np.bool_] = (length == 0) | only_return
        return found


@dataclass(frozen=True, slots=True)
class _Quoted:
    """Records that begin on a line with a quote."""

    rows: list[list[str | None]]
    line: list[int]
    used: list[int]
    taken: NDArray[np.bool_]
    bad: list[_Bad]
    open_from: int


def _parse(block: Block, layout: Layout, name: str, last: bool) -> _Parsed:
    lines = _Lines(block)
    quoted = _quoted_records(lines, layout, name, last)
    blank = lines.blank() & ~quoted.taken
    width = lines.count(_byte(layout.delimiter)) + 1
    plain = ~quoted.taken & ~blank
    plain[quoted.open_from :] = False
    fast = plain & (width == len(layout.columns))
    bad = quoted.bad + [_Bad(int(i), *_field_count(int(width[i]), layout)) for i in np.flatnonzero(plain & ~fast)]
    frame = pl.concat([_fast_frame(lines, fast, layout), _slow_frame(quoted.rows, layout)])
    line = np.concatenate([np.flatnonzero(fast), np.array(quoted.line, np.int64)])
    used = np.concatenate([np.ones(int(fast.sum()), np.int64), np.array(quoted.used, np.int64)])
    if quoted.rows:
        order = np.argsort(line, kind="stable")
        frame, line, used = frame[order], line[order], used[order]
    wrong = _repeated_headers(frame, layout) | _long_cells(frame, lines, line, used, layout.policy)
    if wrong:
        bad += [_Bad(int(line[row]), *why) for row, why in wrong.items()]
        keep = np.ones(len(line), bool)
        keep[list(wrong)] = False
        frame, line, used = frame.filter(pl.Series(keep)), line[keep], used[keep]
    return _Parsed(frame, line, used, bad, quoted.open_from, int(blank[: quoted.open_from].sum()))


def _byte(delimiter: str) -> int:
    return delimiter.encode("utf-8")[0]


def _field_count(found: int, layout: Layout) -> tuple[str, str]:
    return "E_FIELD_COUNT", f"{found} fields where the header has {len(layout.columns)}"


def _quoted_records(lines: _Lines, layout: Layout, name: str, last: bool) -> _Quoted:
    found = _Quoted([], [], [], np.zeros(len(lines), bool), [], len(lines))
    quoted = (lines.count(_QUOTE) > 0).tolist()
    done = 0
    for start in np.flatnonzero(quoted).tolist():
        if start < done:
            continue
        done = _run_of_records(lines, start, quoted, found, layout, name)
        if not last and found.bad and found.bad[-1] == _Bad(done - 1, *_OPEN):
            found.bad.pop()
            found.taken[done - 1] = False
            return replace(found, open_from=done - 1)
    return found


_OPEN = ("E_QUOTE", "a quote is opened and not closed")


def _run_of_records(lines: _Lines, start: int, quoted: list[bool], found: _Quoted, layout: Layout, name: str) -> int:
    """Read records as long as each begins on a line with a quote. Returns the first line that was not dealt with.

    A bad record ends the run and takes only its first line: what it swallowed is read again.
    """
    text = (lines.raw(i).decode("utf-8") for i in range(start, len(lines)))
    reader = csv.reader(text, delimiter=layout.delimiter, strict=True)
    at = start
    while at < len(lines) and quoted[at]:
        fields: list[str] = []
        problem = ""
        try:
            fields = next(reader)
        except csv.Error as error:
            problem = str(error)
        used = start + reader.line_num - at
        if used > MAX_RECORD_LINES:
            raise _never_closed(lines, at, name)
        why = _judge(lines, at, fields, used, problem, layout)
        if why:
            found.bad.append(_Bad(at, *why))
            found.taken[at] = True
            return at + 1
        found.rows.append([cell or None for cell in fields])
        found.line.append(at)
        found.used.append(used)
        found.taken[at : at + used] = True
        at += used
    return at


def _never_closed(lines: _Lines, at: int, name: str) -> IngestError:
    return IngestError(
        "E_QUOTE",
        f"{name}: the quote opened on line {lines.number[at]} is still open {MAX_RECORD_LINES:,} lines later; "
        "close it, or double it inside a text",
    )


def _judge(
    lines: _Lines, start: int, fields: list[str], used: int, problem: str, layout: Layout
) -> tuple[str, str] | None:
    """Why a quoted record is bad, None when it is good."""
    if "field larger" in problem:
        return "E_TOO_LONG", f"a cell is longer than {layout.policy.max_cell_bytes:,} bytes"
    if "unexpected end" in problem:
        return _OPEN
    if problem:
        return "E_QUOTE", "something other than a delimiter follows a closing quote"
    if len(fields) != len(layout.columns):
        if used > 1:
            return "E_QUOTE", f"a quote swallowed {used - 1} further lines"
        return _field_count(len(fields), layout)
    if used > 1 and _swallowed_rows(lines, start, used, layout):
        return "E_QUOTE", "a quote seems to have swallowed whole rows"
    return None


def _swallowed_rows(lines: _Lines, start: int, used: int, layout: Layout) -> bool:
    """A text cell hardly ever holds lines with exactly a row's delimiters; below four columns it may by chance."""
    wanted = len(layout.columns) - 1
    if wanted < 3:
        return False
    delimiter = layout.delimiter.encode("utf-8")
    return any(lines.raw(i).count(delimiter) == wanted for i in range(start + 1, start + used))


def _fast_frame(lines: _Lines, fast: NDArray[np.bool_], layout: Layout) -> pl.DataFrame:
    schema = dict.fromkeys(layout.columns, pl.String)
    if not fast.any():
        return pl.DataFrame(schema=schema)
    text = lines.text
    if not fast.all():
        text = lines.bytes[np.repeat(fast, lines.ends + 1 - lines.starts)].tobytes()
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n")
    return pl.read_csv(
        text, has_header=False, separator=layout.delimiter, quote_char=None, infer_schema=False, schema=schema
    )


def _slow_frame(rows: list[list[str | None]], layout: Layout) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=dict.fromkeys(layout.columns, pl.String), orient="row")


def _repeated_headers(frame: pl.DataFrame, layout: Layout) -> dict[int, tuple[str, str]]:
    first = layout.columns[0]
    hits = (frame[first] == first).arg_true().to_list()
    why = ("E_REPEATED_HEADER", "the header occurs again")
    return {row: why for row in hits if tuple(c and c.strip() for c in frame.row(row)) == layout.columns}


def _long_cells(
    frame: pl.DataFrame, lines: _Lines, line: NDArray[np.int64], used: NDArray[np.int64], policy: Policy
) -> dict[int, tuple[str, str]]:
    if not len(line):
        return {}
    length = lines.ends[line + used - 1] - lines.starts[line]
    found = {}
    for row in np.flatnonzero(length > policy.max_cell_bytes).tolist():
        if length[row] > policy.max_row_bytes:
            found[row] = ("E_TOO_LONG", f"the row is longer than {policy.max_row_bytes:,} bytes")
        elif any(cell and len(cell.encode()) > policy.max_cell_bytes for cell in frame.row(row)):
            found[row] = ("E_TOO_LONG", f"a cell is longer than {policy.max_cell_bytes:,} bytes")
    return found


def _numbered(block: Block, parsed: _Parsed, before: int) -> Chunk:
    """Give rows, bad records and lines set aside their record numbers, in the order of their lines."""
    lines = _Lines(block)
    row_line = block.line_no[parsed.line]
    bad_line = np.array([block.line_no[b.line] for b in parsed.bad] + [b.place.line_no for b in block.broken], np.int64)
    begins = np.sort(np.concatenate([row_line, bad_line]))
    bad_no = before + 1 + np.searchsorted(begins, bad_line)
    broken = [
        Broken(
            place=Place(line_no=int(block.line_no[b.line]), record_no=int(n), byte_offset=int(block.offset[b.line])),
            code=b.code,
            message=b.message,
            raw=shorten(lines.raw(b.line)),
        )
        for b, n in zip(parsed.bad, bad_no, strict=False)
    ]
    aside = zip(block.broken, bad_no[len(parsed.bad) :], strict=True)
    broken += [replace(b, place=replace(b.place, record_no=int(n))) for b, n in aside]
    return Chunk(
        frame=parsed.frame,
        line_no=row_line,
        record_no=before + 1 + np.searchsorted(begins, row_line),
        byte_offset=block.offset[parsed.line],
        raw=lambda row: shorten(lines.raw(int(parsed.line[row]), int(parsed.used[row]))),
        broken=tuple(broken),
        notes={"W_BLANK_LINE": parsed.blank} if parsed.blank else {},
    )
