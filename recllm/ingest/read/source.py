"""A file's first reading: what it is, its hash, and whether it is UTF-8. Nothing is parsed here.

The compressed size bounds what a `.gz` may unpack to, and every reading is streamed in pieces.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, cast

from recllm.errors import IngestError
from recllm.policy import Policy

RATIO_FLOOR = 1 << 20
"""A few kilobytes of zeros compress well and are harmless: the ratio is judged above this size."""
_PIECE_BYTES = 1 << 20
_HEAD_BYTES = 64 << 10

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"PAR1", "a Parquet file"),
    (b"\x1f\x8b", "gzip data"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word document"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"ARROW1", "an Arrow file"),
    (b"ORC", "an ORC file"),
    (b"Obj\x01", "an Avro file"),
    (b"%PDF-", "a PDF document"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ", "xz data"),
    (b"\x28\xb5\x2f\xfd", "zstd data"),
)


class FileKind(StrEnum):
    DELIMITED = "delimited"
    JSONL = "jsonl"
    PARQUET = "parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """A file that was read once, down to its end."""

    path: Path
    kind: FileKind
    sha256: str
    """Of the file as it lies there, compressed or not."""
    size: int
    """Bytes of text after decompression."""
    head: bytes
    """The first 64 KiB of text, undecoded."""
    policy: Policy
    gzipped: bool = False
    first_bad: int | None = None
    """Offset of the first byte that is not UTF-8."""
    first_nul: int | None = None

    def pieces(self, n_bytes: int) -> Iterator[bytes]:
        """The text's bytes, at most `n_bytes` at a time; `IngestError` E_BOMB beyond the limits."""
        return _pieces(self.path, self.gzipped, n_bytes, self.policy)


def probe(path: str | Path, policy: Policy) -> SourceFile:
    """Read the whole file once. Raises `IngestError` for what is not a readable table of a known kind."""
    path = Path(path)
    try:
        return _probe(path, policy)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise IngestError("E_NOT_TEXT", f"{path.name}: the gzip data are damaged or end early ({error})") from error
    except OSError as error:
        raise IngestError("E_FILE", f"{path}: {error.strerror or error}") from error


def _probe(path: Path, policy: Policy) -> SourceFile:
    if path.is_dir():
        raise IngestError("E_FILE", f"{path} is a folder; name one file")
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        stream.seek(0)
        magic = stream.read(4096)
    if not magic:
        raise IngestError("E_EMPTY", f"{path.name} has no bytes")
    suffix = path.suffix.lower()
    if suffix == ".parquet" or (magic.startswith(b"PAR1") and not suffix):
        if not magic.startswith(b"PAR1"):
            content = _content_name(magic) or "something else"
            raise IngestError("E_NOT_TEXT", f"{path.name} is named .parquet and is {content}")
        size = path.stat().st_size
        return SourceFile(path=path, kind=FileKind.PARQUET, sha256=sha256, size=size, head=magic, policy=policy)
    gzipped = magic.startswith(b"\x1f\x8b") and suffix == ".gz"
    if not gzipped:
        _refuse_binary(path, magic)
    return _probe_text(path, sha256, gzipped, policy)


def _probe_text(path: Path, sha256: str, gzipped: bool, policy: Policy) -> SourceFile:
    head, size, first_bad, first_nul = b"", 0, None, None
    decoder = codecs.getincrementaldecoder("utf-8")()
    for piece in _pieces(path, gzipped, _PIECE_BYTES, policy):
        head += piece[: _HEAD_BYTES - len(head)]
        if first_nul is None and (at := piece.find(b"\0")) >= 0:
            first_nul = size + at
        if first_bad is None:
            first_bad = undecodable_at(decoder, piece, size)
        size += len(piece)
    if first_bad is None:
        first_bad = undecodable_at(decoder, b"", size, final=True)
    if not size:
        raise IngestError("E_EMPTY", f"{path.name} unpacks to no bytes")
    if gzipped:
        _refuse_binary(path, head)
    return SourceFile(
        path=path,
        kind=_text_kind(path, head),
        gzipped=gzipped,
        sha256=sha256,
        size=size,
        head=head,
        first_bad=first_bad,
        first_nul=first_nul,
        policy=policy,
    )


def undecodable_at(decoder: codecs.IncrementalDecoder, piece: bytes, offset: int, *, final: bool = False) -> int | None:
    """File offset of the first byte of `piece` that cannot be decoded, None where all can.

    `offset` is that of the piece; a character that its start cuts counts from where it began.
    """
    pending = len(decoder.getstate()[0])
    try:
        decoder.decode(piece, final)
    except UnicodeDecodeError as error:
        return max(0, offset - pending + error.start)
    return None


def _content_name(magic: bytes) -> str | None:
    """A phrase for what the first bytes say, None when they say nothing."""
    for prefix, name in _MAGIC:
        if magic.startswith(prefix):
            workbook = prefix == b"PK\x03\x04" and (b"xl/" in magic or b"[Content_Types].xml" in magic)
            return "an Excel workbook (.xlsx)" if workbook else name
    return None


def _refuse_binary(path: Path, magic: bytes) -> None:
    content = _content_name(magic)
    if content is None:
        return
    if content == "a zip archive":
        raise IngestError("E_BOMB", f"{path.name} is a zip archive, which is not opened here; unpack it, or use .gz")
    remedy = {"a Parquet file": "name it .parquet", "gzip data": "name it .csv.gz or .jsonl.gz"}
    raise IngestError(
        "E_NOT_TEXT", f"{path.name} is {content}; {remedy.get(content, 'export it as CSV (UTF-8), JSONL or Parquet')}"
    )


def _text_kind(path: Path, head: bytes) -> FileKind:
    suffixes = [s.lower() for s in path.suffixes if s.lower() != ".gz"]
    suffix = suffixes[-1] if suffixes else ""
    if suffix in {".jsonl", ".ndjson", ".json"}:
        return FileKind.JSONL
    if suffix in {".csv", ".tsv", ".txt", ".tab", ".psv"}:
        return FileKind.DELIMITED
    return FileKind.JSONL if head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{") else FileKind.DELIMITED


def _pieces(path: Path, gzipped: bool, n_bytes: int, policy: Policy) -> Iterator[bytes]:
    limit, why = policy.max_file_bytes, "raise the policy's max_file_bytes"
    if gzipped:
        by_ratio = max(RATIO_FLOOR, policy.max_gzip_ratio * path.stat().st_size)
        if by_ratio < limit:
            limit, why = by_ratio, f"that is {policy.max_gzip_ratio} times its compressed size"
    total = 0
    with cast(BinaryIO, gzip.open(path, "rb")) if gzipped else path.open("rb") as stream:
        while piece := stream.read(n_bytes):
            total += len(piece)
            if total > limit:
                raise IngestError(
                    "E_BOMB", f"{path.name} holds more than {limit:,} bytes of text ({why}); split the file"
                )
            yield piece
