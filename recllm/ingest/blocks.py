"""A text file as blocks of whole lines in UTF-8, each line with its number and its offset in the original bytes.

Lines that cannot become text, or that are longer than a row may be, are set aside here, so memory is bounded whatever
the file holds. Cutting at the newline byte is safe: no accepted encoding uses it inside another character.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recllm.errors import IngestError
from recllm.ingest.chunk import RAW_BYTES, Broken, Place, shorten
from recllm.ingest.encoding import Decoding
from recllm.ingest.source import Source

_NEWLINE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """`text` is UTF-8, every line ending in a newline byte. The arrays have one entry per line of `text`."""

    text: bytes
    line_no: NDArray[np.int64]
    offset: NDArray[np.int64]
    broken: tuple[Broken, ...] = ()
    """Lines set aside; their `record_no` is not known yet and is 0."""

    @property
    def n_lines(self) -> int:
        return len(self.line_no)

    def ends(self) -> NDArray[np.int64]:
        """Position of each line's newline in `text`."""
        return np.flatnonzero(np.frombuffer(self.text, np.uint8) == _NEWLINE)

    def split(self, lines: int) -> tuple[Block, Block]:
        """The first lines, with everything set aside, and the rest."""
        cut = int(self.ends()[lines - 1]) + 1 if lines else 0
        first = replace(self, text=self.text[:cut], line_no=self.line_no[:lines], offset=self.offset[:lines])
        rest = replace(self, text=self.text[cut:], line_no=self.line_no[lines:], offset=self.offset[lines:], broken=())
        return first, rest

    def follow(self, carried: Block | None) -> Block:
        """This block behind lines carried over from the one before."""
        if carried is None:
            return self
        return Block(
            text=carried.text + self.text,
            line_no=np.concatenate([carried.line_no, self.line_no]),
            offset=np.concatenate([carried.offset, self.offset]),
            broken=carried.broken + self.broken,
        )


def read_blocks(source: Source, decoding: Decoding, size: int) -> Iterator[Block]:
    """All lines of the text, in blocks of about `size` bytes. Raises `IngestError` E_ENCODING."""
    newline = _newline(source, decoding)
    size = max(size // 2 * 2, 64)
    line_no = 1
    for span in _spans(_without_mark(source, decoding.skip, size), decoding.skip, newline, source.policy.max_row_bytes):
        block = _long_line(span, line_no, source) if span.long else _decoded(span, line_no, newline, decoding, source)
        line_no += block.n_lines + len(block.broken)
        yield block


@dataclass(frozen=True, slots=True)
class _Span:
    offset: int
    data: bytes
    long: bool = False
    """`data` is only the beginning of one line that is too long to hold."""


def _newline(source: Source, decoding: Decoding) -> bytes:
    """The newline of the file; a lone carriage return where old Mac software wrote it."""
    if decoding.unit == 2:
        return "\n".encode(decoding.encoding)
    return b"\r" if b"\n" not in source.head and b"\r" in source.head[:-1] else b"\n"


def _without_mark(source: Source, skip: int, size: int) -> Iterator[bytes]:
    for number, piece in enumerate(source.pieces(size)):
        yield piece if number else piece[skip:]


def _spans(pieces: Iterator[bytes], offset: int, newline: bytes, max_row: int) -> Iterator[_Span]:
    """Cut into whole lines. Pieces come in even sizes, so two-byte characters are never halved between them."""
    rest, long_line = b"", None
    for piece in pieces:
        data = rest + piece
        if long_line is not None:
            start = _after(data, newline, last=False)
            if not start:
                offset, rest = offset + len(data), b""
                continue
            yield long_line
            offset, data, long_line = offset + start, data[start:], None
        cut = _after(data, newline, last=True)
        if cut:
            yield _Span(offset, data[:cut])
        offset, rest = offset + cut, data[cut:]
        if len(rest) > max_row:
            long_line = _Span(offset, rest[:RAW_BYTES], long=True)
            offset, rest = offset + len(rest), b""
    if long_line is not None:
        yield long_line
    elif rest:
        yield _Span(offset, rest + newline)


def _after(data: bytes, newline: bytes, *, last: bool) -> int:
    """Position behind the first or last newline on a character's border; 0 when there is none."""
    at = data.rfind(newline) if last else data.find(newline)
    while at >= 0 and at % len(newline):
        at = data.rfind(newline, 0, at + len(newline) - 1) if last else data.find(newline, at + 1)
    return at + len(newline) if at >= 0 else 0


def _long_line(span: _Span, line_no: int, source: Source) -> Block:
    place = Place(line_no=line_no, record_no=0, byte_offset=span.offset)
    message = f"the line is longer than {source.policy.max_row_bytes:,} bytes; is a quote or a line end missing?"
    none = np.empty(0, np.int64)
    broken = Broken(place=place, code="E_TOO_LONG", message=message, raw=shorten(span.data))
    return Block(text=b"", line_no=none, offset=none, broken=(broken,))


def _decoded(span: _Span, line_no: int, newline: bytes, decoding: Decoding, source: Source) -> Block:
    offsets = span.offset + _line_starts(span.data, newline)
    numbers = line_no + np.arange(len(offsets), dtype=np.int64)
    try:
        text = _utf8(span.data, decoding, source)
    except UnicodeDecodeError as error:
        if not decoding.tolerant:
            at = span.offset + error.start
            raise IngestError("E_ENCODING", f"{source.path.name}: bad byte at offset {at:,}") from error
        return _line_by_line(span, numbers, offsets, newline, decoding, source)
    if newline == b"\r":
        text = text.replace(b"\r", b"\n")
    return _without_long(Block(text=text, line_no=numbers, offset=offsets), source)


def _utf8(data: bytes, decoding: Decoding, source: Source) -> bytes:
    if decoding.encoding == "utf-8" and source.first_bad is None:
        return data  # the probe has read it all strictly
    text = data.decode(decoding.encoding)
    return data if decoding.encoding == "utf-8" else text.encode("utf-8")


def _line_starts(data: bytes, newline: bytes) -> NDArray[np.int64]:
    dtype = {b"\n\0": "<u2", b"\0\n": ">u2"}.get(newline, "u1")
    whole = len(data) // len(newline) * len(newline)
    code = ord(newline.replace(b"\0", b""))
    ends = np.flatnonzero(np.frombuffer(data[:whole], dtype) == code) * len(newline)
    return np.concatenate([[0], ends[:-1] + len(newline)]).astype(np.int64)


def _line_by_line(
    span: _Span,
    numbers: NDArray[np.int64],
    offsets: NDArray[np.int64],
    newline: bytes,
    decoding: Decoding,
    source: Source,
) -> Block:
    """Decode each line alone and set aside those that fail."""
    bounds = np.append(offsets - span.offset, len(span.data))
    good, broken, texts = [], [], []
    for row in range(len(numbers)):
        raw = span.data[bounds[row] : bounds[row + 1]]
        try:
            texts.append(raw.decode(decoding.encoding).encode("utf-8"))
            good.append(row)
        except UnicodeDecodeError as error:
            place = Place(line_no=int(numbers[row]), record_no=0, byte_offset=int(offsets[row]))
            message = f"not {decoding.encoding} at byte {error.start + 1} of the line"
            broken.append(Broken(place=place, code="E_BAD_BYTES", message=message, raw=shorten(raw)))
    text = b"".join(texts).replace(b"\r", b"\n") if newline == b"\r" else b"".join(texts)
    return _without_long(Block(text=text, line_no=numbers[good], offset=offsets[good], broken=tuple(broken)), source)


def _without_long(block: Block, source: Source) -> Block:
    """Set aside lines above the row limit that came whole within one block."""
    if len(block.text) <= source.policy.max_row_bytes:
        return block
    bounds = np.concatenate([[0], block.ends() + 1])
    long = np.diff(bounds) > source.policy.max_row_bytes
    if not long.any():
        return block
    broken: list[Broken] = []
    for row in np.flatnonzero(long):
        head = block.text[bounds[row] : bounds[row] + RAW_BYTES]
        broken += _long_line(_Span(int(block.offset[row]), head), int(block.line_no[row]), source).broken
    text = b"".join(block.text[bounds[r] : bounds[r + 1]] for r in np.flatnonzero(~long))
    return Block(
        text=text, line_no=block.line_no[~long], offset=block.offset[~long], broken=block.broken + tuple(broken)
    )
