"""A file's first reading: its kind, hash and encoding, without parsing.

The compressed size bounds what a `.gz` may unpack to, and every reading is streamed in pieces.

Encodings in order: byte order mark, strict UTF-8, the declared one, strict GB18030, else refused. GBK also decodes as
Big5, so GB18030 needs a header with known names, and common Han for 90 % of the non-ASCII characters.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, cast

from recllm.base.errors import IngestError
from recllm.base.files import check_plain
from recllm.shop.ingest.column_names import known_count
from recllm.shop.ingest.options import ColumnMap, IngestOptions

MAX_CELL_BYTES = 64 * 1024
MAX_ROW_BYTES = 1024 * 1024
MAX_FILE_BYTES = 64 * 1024**3  # unpacked: the size of a disk, not of a shop's log
MAX_GZIP_RATIO = 200  # unpacked to packed size; real logs reach 30

DELIMITERS = (",", ";", "\t", "|")
RATIO_FLOOR = 1 << 20
"""The ratio is checked above this size: a few kilobytes of zeros are harmless."""
HEADER_ROWS = 20
"""Rows that are searched for a header: titles, filters or dates may be above it."""
_PIECE_BYTES = 1 << 20
_HEAD_BYTES = 64 << 10

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"PAR1", "a Parquet file"),
    (b"\x1f\x8b", "gzip data"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word document"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"%PDF-", "a PDF document"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ", "xz data"),
    (b"\x28\xb5\x2f\xfd", "zstd data"),
)


def unpacked_limit(path: Path) -> int:
    """Bytes that a packed file may hold."""
    return min(max(RATIO_FLOOR, MAX_GZIP_RATIO * path.stat().st_size), MAX_FILE_BYTES)


class FileKind(StrEnum):
    DELIMITED = "delimited"
    PARQUET = "parquet"
    WORKBOOK = "workbook"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """A file that was read once, to its end."""

    path: Path
    sha256: str
    """Of the file as it is, compressed or not."""
    head: bytes
    """The first 64 KiB of text, undecoded."""
    gzipped: bool
    kind: FileKind = FileKind.DELIMITED
    first_bad: int | None = None
    """Offset of the first byte that is not UTF-8."""
    first_nul: int | None = None

    def pieces(self, n_bytes: int) -> Iterator[bytes]:
        """The text, at most `n_bytes` at a time; `IngestError` E_BOMB beyond the limits."""
        limit, total = unpacked_limit(self.path) if self.gzipped else MAX_FILE_BYTES, 0
        with cast(BinaryIO, gzip.open(self.path, "rb")) if self.gzipped else self.path.open("rb") as stream:
            while piece := stream.read(n_bytes):
                total += len(piece)
                if total > limit:
                    raise IngestError(
                        "E_BOMB", f"{self.path.name} holds more than {limit:,} bytes of text; split the file"
                    )
                yield piece


def probe(path: str | Path) -> SourceFile:
    """Reads the whole file once. Raises `IngestError` for no readable table."""
    path = Path(path)
    try:
        if path.is_dir():
            raise IngestError("E_FILE", f"{path} is a folder; name one file")
        check_plain(path)
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            stream.seek(0)
            magic = stream.read(4096)
        if not magic:
            raise IngestError("E_EMPTY", f"{path.name} has no bytes")
        suffix = path.suffix.lower()
        is_parquet = magic.startswith(b"PAR1") and suffix in {".parquet", ""}
        if suffix == ".parquet" and not is_parquet:
            content = content_name(magic) or "something else"
            raise IngestError("E_NOT_TEXT", f"{path.name} is named .parquet and is {content}")
        gzipped = magic.startswith(b"\x1f\x8b") and suffix == ".gz"
        source = SourceFile(path=path, sha256=sha256, head=magic, gzipped=gzipped)
        if is_parquet:
            return replace(source, kind=FileKind.PARQUET)
        if suffix == ".xlsx" and magic.startswith(b"PK\x03\x04"):
            return replace(source, kind=FileKind.WORKBOOK)
        if suffix == ".xlsx" and magic.startswith(b"\xd0\xcf\x11\xe0"):
            raise IngestError(
                "E_NOT_TEXT", f"{path.name} is locked with a password, or an old workbook: save it as .xlsx without one"
            )
        if not gzipped:
            refuse_binary(path, magic)
        return probe_text(source)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise IngestError("E_NOT_TEXT", f"{path.name}: the gzip data are damaged or end early ({error})") from error
    except OSError as error:
        raise IngestError("E_FILE", f"{path}: {error.strerror or error}") from error


def probe_text(source: SourceFile) -> SourceFile:
    head, size, first_bad, first_nul = b"", 0, None, None
    decoder = codecs.getincrementaldecoder("utf-8")()
    for piece in source.pieces(_PIECE_BYTES):
        head += piece[: _HEAD_BYTES - len(head)]
        if first_nul is None and (at := piece.find(b"\0")) >= 0:
            first_nul = size + at
        if first_bad is None:
            first_bad = undecodable_at(decoder, piece, size)
        size += len(piece)
    if first_bad is None:
        first_bad = undecodable_at(decoder, b"", size, final=True)
    if not size:
        raise IngestError("E_EMPTY", f"{source.path.name} unpacks to no bytes")
    if source.gzipped:
        refuse_binary(source.path, head)
    if re.match(rb"[\xef\xbb\xbf\s]*(\{\s*[\"}]|\[\s*[\[{])", head):
        raise IngestError(
            "E_NOT_TEXT", f"{source.path.name} is JSON; write its rows as CSV or Parquet, e.g. with polars.read_ndjson"
        )
    return replace(source, head=head, first_bad=first_bad, first_nul=first_nul)


def undecodable_at(decoder: codecs.IncrementalDecoder, piece: bytes, offset: int, *, final: bool = False) -> int | None:
    """File offset of the first byte of `piece`, at `offset`, that cannot be decoded; None where all can. A character
    that its start cuts counts from where it began."""
    pending = len(decoder.getstate()[0])
    try:
        decoder.decode(piece, final)
    except UnicodeDecodeError as error:
        return max(0, offset - pending + error.start)
    return None


def content_name(magic: bytes) -> str | None:
    for prefix, name in _MAGIC:
        if magic.startswith(prefix):
            workbook = prefix == b"PK\x03\x04" and (b"xl/" in magic or b"[Content_Types].xml" in magic)
            return "an Excel workbook (.xlsx)" if workbook else name
    return None


def refuse_binary(path: Path, magic: bytes) -> None:
    content = content_name(magic)
    if content is None:
        return
    if content == "a zip archive":
        raise IngestError("E_BOMB", f"{path.name} is a zip archive, which is not opened here; unpack it, or use .gz")
    remedy = {"a Parquet file": "name it .parquet", "gzip data": "name it .csv.gz"}
    raise IngestError(
        "E_NOT_TEXT", f"{path.name} is {content}; {remedy.get(content, 'export it as CSV (UTF-8) or Parquet')}"
    )


_BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_GB_FAMILY = {"gb2312", "gbk", "cp936", "gb18030", "euc_cn", "hz"}
_LATIN = "[À-ÖØ-öø-ÿŒœŠšŽžŸ]"
_TYPOGRAPHIC = "–—‘’“”…•€£™®©°²³¼½¾«»¿¡·×±§ºª´\u00a0"
_NOT_WESTERN = r"[šžŠŽþðýÞÐÝ]|õ(?!e)|[ìùò](?=[a-z])|[A-Za-z][¹³¼¾¿£¥¶±][a-z]"
"""Letters of the east of Europe, as cp1252 reads them."""
_SUGGESTED = ("gb18030", "cp1252", "latin-1", "big5", "shift_jis")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How bytes become text."""

    encoding: str
    skip: int = 0
    """Bytes of the byte order mark."""
    warnings: dict[str, int] = field(default_factory=dict)


def find_decoding(source: SourceFile, options: IngestOptions, column_map: ColumnMap) -> Decoding:
    """The first encoding that fits. The map's encoding is only a hint, tried last."""
    file, head = source.path.name, source.head
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        raise IngestError("E_ENCODING", f"{file} is UTF-32; save it as UTF-8")
    mark, marked = next(((m, name) for m, name in _BOMS if head.startswith(m)), (b"", "utf-8"))
    if marked == "utf-8" and source.first_nul is not None:
        why = "it is binary, or UTF-16 without a byte order mark; export it as CSV in UTF-8"
        raise IngestError("E_NOT_TEXT", f"{file}: a zero byte at offset {source.first_nul:,}: {why}")
    if mark:
        if (bad := _first_bad(source, marked, len(mark))) is not None:
            raise IngestError("E_ENCODING", f"{file} is marked as {marked} and is not, first at byte offset {bad:,}")
        return Decoding(encoding=marked, skip=len(mark), warnings={"W_BOM": 1})
    declared = canonical_name(options.encoding) if options.encoding else None
    if source.first_bad is None:
        return Decoding(encoding="utf-8")
    if declared and declared != "utf-8":
        if (bad := _first_bad(source, declared)) is not None:
            raise IngestError("E_ENCODING", f"{file} is not {declared}, first at byte offset {bad:,}")
        return Decoding(encoding=declared, warnings={"W_ENCODING": 1})
    if _first_bad(source, "gb18030") is None:
        text = codecs.getincrementaldecoder("gb18030")().decode(head)
        if common_han_share(text) > 0.9 and header_is_known(text, column_map):
            return Decoding(encoding="gb18030", warnings={"W_ENCODING": 1})
    hint = canonical_name(column_map.read.encoding) if column_map.read.encoding else None
    is_hinted = hint is not None and header_is_known(head.decode(hint, errors="replace"), column_map)
    if hint is not None and is_hinted and _first_bad(source, hint) is None:
        return Decoding(encoding=hint, warnings={"W_ENCODING": 1})
    able = [name for name in _SUGGESTED if undecodable_at(codecs.getincrementaldecoder(name)(), head, 0) is None]
    raise IngestError(
        "E_ENCODING",
        f"{file} is not UTF-8: first bad byte at offset {source.first_bad:,}. Say which encoding it has "
        f"(--read encoding={' | '.join(able) or 'NAME'} would decode its beginning)",
    )


def likely_encoding(source: SourceFile) -> str | None:
    """gb18030 or cp1252, for a file plainly of China or Western Europe; else None."""
    for encoding in ("gb18030", "cp1252"):
        text = source.head.decode(encoding, errors="ignore")
        if encoding == "gb18030":  # Korean has the bytes of the first half of these Han alone
            n_late = sum(sign.encode("gb2312", errors="ignore") > b"\xc8\xff" for sign in text)
            is_plain = common_han_share(text) > 0.9 and 5 * n_late > sum(sign > "\x7f" for sign in text)
        else:
            is_plain = not text.isascii() and reads_as(text, encoding) and not re.search(_NOT_WESTERN, text)
        if is_plain and _first_bad(source, encoding) is None:
            return encoding
    return None


def header_is_known(head: str, column_map: ColumnMap) -> bool:
    """Whether one of the first lines has at least two known names."""
    mapped = {name.casefold() for names in column_map.columns.values() for name in names}
    for line in head.lstrip().split("\n", HEADER_ROWS)[:HEADER_ROWS]:
        for delimiter in DELIMITERS:
            cells = [cell.strip().strip('"') for cell in line.split(delimiter)]
            if known_count(cells) + sum(cell.casefold() in mapped for cell in cells) >= 2:
                return True
    return False


def canonical_name(name: str) -> str:
    """Python's name of an encoding that keeps line ends findable; `IngestError` for others."""
    try:
        codec = codecs.lookup(name)
        usable = "a,\n".encode(codec.name) == b"a,\n"
    except (LookupError, ValueError, TypeError):
        usable = False
    if not usable:
        raise IngestError("E_ENCODING", f"unknown encoding {name!r}; for example: utf-8, {', '.join(_SUGGESTED)}")
    if codec.name in _GB_FAMILY:
        return "gb18030"
    return "utf-8" if codec.name == "utf-8-sig" else codec.name


def _first_bad(source: SourceFile, encoding: str, skip: int = 0) -> int | None:
    """Offset of the first byte that `encoding` cannot read, in one pass; None where there is none."""
    decoder = codecs.getincrementaldecoder(encoding)()
    offset = 0
    for piece in source.pieces(1 << 20):
        text, start = (piece[skip:], skip) if not offset else (piece, offset)
        bad = undecodable_at(decoder, text, start)
        if bad is not None:
            return bad
        offset += len(piece)
    return offset if undecodable_at(decoder, b"", offset, final=True) is not None else None


def reads_as(text: str, encoding: str) -> bool:
    """Whether the non-ASCII signs of a decoded text are plausible.

    cp1252: single letters between ASCII ones, and typographic signs; text in another alphabet would have whole words of
    such letters, or rare signs. cp932: kana among non-ASCII signs. gb18030: common Han.
    """
    beyond = [sign for sign in text if ord(sign) > 127]
    if encoding == "cp1252":
        alone = re.findall(rf"(?<!{_LATIN}){_LATIN}(?!{_LATIN})", text)
        return len(alone) + sum(sign in _TYPOGRAPHIC for sign in beyond) >= 0.5 * len(beyond)
    if encoding == "cp932":
        return sum("\u3041" <= sign <= "\u30fe" for sign in beyond) >= 0.2 * len(beyond)
    return encoding != "gb18030" or common_han_share(text) > 0.5


def common_han_share(text: str) -> float:
    """Share of level-1 Han of GB 2312 and its punctuation among non-ASCII characters, in [0, 1]."""
    wide = "".join(c for c in text if ord(c) > 127)
    if not wide:
        return 0.0
    pairs = wide.encode("gb2312", errors="ignore")
    return sum(0xB0 <= lead <= 0xD7 or 0xA1 <= lead <= 0xA3 for lead in pairs[::2]) / len(wide)
