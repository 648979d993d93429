"""A text file as blocks of whole lines in UTF-8, each line with its number and its offset in the original bytes.

Lines that cannot become text, or that are longer than a row may be, are set aside here, so memory is bounded whatever
the file holds. Cutting at the newline byte is safe: no accepted encoding uses it inside another character.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recllm.errors import IngestError
from recllm.ingest.read.encoding import Decoding
from recllm.ingest.read.records import RAW_BYTES, BadRecord, shorten
from recllm.ingest.read.source import SourceFile

_NEWLINE = 10


@dataclass(frozen=True, kw_only=True)
class LineBlock:
    """`text` is UTF-8, every line ending in a newline byte. The arrays have one entry per line of `text`."""

    text: bytes
    line_no: NDArray[np.int64]
    byte_offset: NDArray[np.int64]
    bad: tuple[BadRecord, ...] = ()
    """Lines set aside."""

    @property
    def n_lines(self) -> int:
        return len(self.line_no)

    @cached_property
    def codes(self) -> NDArray[np.uint8]:
        return np.frombuffer(self.text, np.uint8)

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """Position of each line's newline in `text`."""
        return np.flatnonzero(self.codes == _NEWLINE)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Position of each line's first byte in `text`."""
        return np.concatenate([[0], self.ends[:-1] + 1]).astype(np.int64) if self.n_lines else self.ends

    def raw(self, line: int, n_lines: int = 1) -> bytes:
        """One line or several, with their newlines."""
        return self.text[self.starts[line] : self.ends[line + n_lines - 1] + 1]

    def count(self, byte: int) -> NDArray[np.int64]:
        """How often each line holds this byte."""
        lines = np.searchsorted(self.ends, np.flatnonzero(self.codes == byte))
        return np.bincount(lines, minlength=self.n_lines)

    def split(self, n_lines: int) -> tuple[LineBlock, LineBlock]:
        """The first lines, with everything that was set aside, and those that follow."""
        cut = int(self.ends[n_lines - 1]) + 1 if n_lines else 0
        line_no, offset = self.line_no, self.byte_offset
        head = replace(self, text=self.text[:cut], line_no=line_no[:n_lines], byte_offset=offset[:n_lines])
        return head, LineBlock(text=self.text[cut:], line_no=line_no[n_lines:], byte_offset=offset[n_lines:])

    def after(self, before: LineBlock | None) -> LineBlock:
        """This block behind the lines of another one."""
        if before is None:
            return self
        return LineBlock(
            text=before.text + self.text,
            line_no=np.concatenate([before.line_no, self.line_no]),
            byte_offset=np.concatenate([before.byte_offset, self.byte_offset]),
            bad=before.bad + self.bad,
        )


def read_blocks(source: SourceFile, decoding: Decoding, block_bytes: int) -> Iterator[LineBlock]:
    """All lines of the text, in blocks of about `block_bytes`. Raises `IngestError` E_ENCODING."""
    newline = b"\n"
    if decoding.unit == 2:
        newline = "\n".encode(decoding.encoding)
    elif b"\n" not in source.head and b"\r" in source.head[:-1]:
        newline = b"\r"  # as old Mac software wrote it
    block_bytes = max(block_bytes // 2 * 2, 64)  # even: a piece never ends inside a two-byte character
    line_no = 1
    for span in _spans(source, decoding.skip, newline, block_bytes):
        block = _block(span, line_no, newline, decoding, source)
        line_no += block.n_lines + len(block.bad)
        yield block


@dataclass(frozen=True, slots=True)
class _Span:
    """Whole lines of the file, undecoded."""

    offset: int
    data: bytes
    too_long: bool = False
    """`data` is only the beginning of one line that is too long to hold."""


def _spans(source: SourceFile, skip: int, newline: bytes, block_bytes: int) -> Iterator[_Span]:
    offset, tail = skip, b""
    long_line: _Span | None = None
    for number, piece in enumerate(source.pieces(block_bytes)):
        data = tail + (piece if number else piece[skip:])
        if long_line is not None:
            end = _behind_newline(data, newline, last=False)
            if not end:
                offset, tail = offset + len(data), b""
                continue
            yield long_line
            offset, data, long_line = offset + end, data[end:], None
        cut = _behind_newline(data, newline, last=True)
        if cut:
            yield _Span(offset, data[:cut])
        offset, tail = offset + cut, data[cut:]
        if len(tail) > source.policy.max_row_bytes:
            long_line = _Span(offset, tail[:RAW_BYTES], too_long=True)
            offset, tail = offset + len(tail), b""
    if long_line is not None:
        yield long_line
    elif tail:
        yield _Span(offset, tail + newline)


def _behind_newline(data: bytes, newline: bytes, *, last: bool) -> int:
    """Position behind the first or last newline on a character's border; 0 when there is none."""
    at = data.rfind(newline) if last else data.find(newline)
    while at >= 0 and at % len(newline):
        at = data.rfind(newline, 0, at + len(newline) - 1) if last else data.find(newline, at + 1)
    return at + len(newline) if at >= 0 else 0


def _block(span: _Span, line_no: int, newline: bytes, decoding: Decoding, source: SourceFile) -> LineBlock:
    if span.too_long:
        nothing = np.empty(0, np.int64)
        bad_line = _too_long(line_no, span.offset, span.data, source)
        return LineBlock(text=b"", line_no=nothing, byte_offset=nothing, bad=(bad_line,))
    starts = _line_starts(span.data, newline)
    offsets, numbers = span.offset + starts, line_no + np.arange(len(starts), dtype=np.int64)
    readable = np.ones(len(starts), bool)
    bad: list[BadRecord] = []
    try:
        text = span.data
        if decoding.encoding != "utf-8":
            text = text.decode(decoding.encoding).encode("utf-8")
        elif source.first_bad is not None:  # else the probe has read it all strictly
            text.decode("utf-8")
    except UnicodeDecodeError as error:
        if not decoding.tolerant:
            at = span.offset + error.start
            raise IngestError("E_ENCODING", f"{source.path.name}: bad byte at offset {at:,}") from error
        bounds = np.append(starts, len(span.data))
        lines = []
        for row in range(len(starts)):
            raw = span.data[bounds[row] : bounds[row + 1]]
            try:
                lines.append(raw.decode(decoding.encoding).encode("utf-8"))
            except UnicodeDecodeError as line_error:
                readable[row] = False
                message = f"not {decoding.encoding} at byte {line_error.start + 1} of the line"
                bad.append(_bad_line(int(numbers[row]), int(offsets[row]), "E_BAD_BYTES", message, raw))
        text = b"".join(lines)
    if newline == b"\r":
        text = text.replace(b"\r", b"\n")
    block = LineBlock(text=text, line_no=numbers[readable], byte_offset=offsets[readable], bad=tuple(bad))
    return _without_long_lines(block, source)


def _line_starts(data: bytes, newline: bytes) -> NDArray[np.int64]:
    """Offset of each line in `data`, which ends with a newline."""
    dtype = {b"\n\0": "<u2", b"\0\n": ">u2"}.get(newline, "u1")
    even = len(data) // len(newline) * len(newline)
    code = ord(newline.replace(b"\0", b""))
    ends = np.flatnonzero(np.frombuffer(data[:even], dtype) == code) * len(newline)
    return np.concatenate([[0], ends[:-1] + len(newline)]).astype(np.int64)


def _without_long_lines(block: LineBlock, source: SourceFile) -> LineBlock:
    """Sets aside lines above the row limit that came complete within one block."""
    if len(block.text) <= source.policy.max_row_bytes:
        return block
    too_long = block.ends + 1 - block.starts > source.policy.max_row_bytes
    if not too_long.any():
        return block
    bad = tuple(
        _too_long(int(block.line_no[line]), int(block.byte_offset[line]), block.raw(line), source)
        for line in np.flatnonzero(too_long).tolist()
    )
    return LineBlock(
        text=b"".join(block.raw(line) for line in np.flatnonzero(~too_long).tolist()),
        line_no=block.line_no[~too_long],
        byte_offset=block.byte_offset[~too_long],
        bad=block.bad + bad,
    )


def _too_long(line_no: int, byte_offset: int, raw: bytes, source: SourceFile) -> BadRecord:
    message = f"the line is longer than {source.policy.max_row_bytes:,} bytes; is a quote or a line end missing?"
    return _bad_line(line_no, byte_offset, "E_TOO_LONG", message, raw)


def _bad_line(line_no: int, byte_offset: int, code: str, message: str, raw: bytes) -> BadRecord:
    return BadRecord(line_no=line_no, byte_offset=byte_offset, code=code, message=message, raw=shorten(raw))
