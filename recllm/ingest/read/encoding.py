"""The encoding ladder: byte order mark, strict UTF-8, the declared encoding, strict GB18030, else refuse.

No detector is asked: GBK text decodes as Big5 without an error and means nothing. GB18030 is only believed when more
than 90 % of the non-ASCII characters are common Han or their punctuation and the header has names that we know.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from dataclasses import dataclass, field

from recllm.errors import IngestError
from recllm.ingest.options import IngestOptions
from recllm.ingest.read.source import SourceFile, undecodable_at

_BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_GB_FAMILY = {"gb2312", "gbk", "cp936", "gb18030", "euc_cn", "hz"}
_SUGGESTED = ("gb18030", "cp1252", "latin-1", "big5", "shift_jis", "utf-16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How bytes become text."""

    encoding: str
    skip: int = 0
    """Bytes of the byte order mark."""
    tolerant: bool = False
    """Lines that do not decode are bad rows instead of a refused file."""
    warnings: dict[str, int] = field(default_factory=dict)

    @property
    def unit(self) -> int:
        """Bytes of the newline character."""
        return 2 if self.encoding.startswith("utf-16") else 1


def find_decoding(
    source: SourceFile, options: IngestOptions, hint: str | None, header_is_known: Callable[[str], bool]
) -> Decoding:
    """Climb the ladder. `hint` is the map's encoding, tried last; `header_is_known` judges a decoded first line."""
    file, head, tolerant = source.path.name, source.head, options.on_bad_bytes == "quarantine"
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        raise IngestError("E_ENCODING", f"{file} is UTF-32; save it as UTF-8")
    for mark, encoding in _BOMS:
        if head.startswith(mark):
            return _marked(source, encoding, len(mark), tolerant=tolerant)
    declared = canonical_name(options.encoding) if options.encoding else None
    if source.first_nul is not None:
        return _wide(source, declared)
    if source.first_bad is None:
        return Decoding(encoding="utf-8")
    if declared and declared != "utf-8":
        bad = _first_bad(source, declared)
        if bad is None or tolerant:
            return Decoding(encoding=declared, tolerant=bad is not None, warnings={"W_ENCODING": 1})
        raise IngestError("E_ENCODING", f"{file} is not {declared}, first at byte offset {bad:,}")
    if tolerant:
        return Decoding(encoding="utf-8", tolerant=True)
    if _first_bad(source, "gb18030") is None:
        text = codecs.getincrementaldecoder("gb18030")().decode(head)
        if common_han_share(text) > 0.9 and header_is_known(text.lstrip().split("\n", 1)[0]):
            return Decoding(encoding="gb18030", warnings={"W_ENCODING": 1})
    if hint and _first_bad(source, canonical_name(hint)) is None:
        first_line = head.split(b"\n", 1)[0].decode(canonical_name(hint), errors="replace")
        if header_is_known(first_line):
            return Decoding(encoding=canonical_name(hint), warnings={"W_ENCODING": 1})
    able = [name for name in _SUGGESTED[:-1] if undecodable_at(codecs.getincrementaldecoder(name)(), head, 0) is None]
    raise IngestError(
        "E_ENCODING",
        f"{file} is not UTF-8: first bad byte at offset {source.first_bad:,}. Say which encoding it has "
        f"(--encoding {' | '.join(able) or 'NAME'} would decode its beginning), or --on-bad-bytes quarantine",
    )


def canonical_name(name: str) -> str:
    """Python's name of a text encoding that keeps line ends findable; `IngestError` for any other."""
    try:
        codec = codecs.lookup(name)
        usable = codec.name.startswith("utf-16") or "a,\n".encode(codec.name) == b"a,\n"
    except (LookupError, ValueError, TypeError):
        usable = False
    if not usable:
        raise IngestError("E_ENCODING", f"unknown encoding {name!r}; for example: utf-8, {', '.join(_SUGGESTED)}")
    if codec.name in _GB_FAMILY:
        return "gb18030"
    return {"utf-16": "utf-16-le", "utf-8-sig": "utf-8"}.get(codec.name, codec.name)


def _marked(source: SourceFile, encoding: str, skip: int, *, tolerant: bool) -> Decoding:
    if encoding == "utf-8" and source.first_nul is not None:
        raise IngestError("E_NOT_TEXT", f"{source.path.name}: a zero byte at offset {source.first_nul:,}")
    bad = source.first_bad if encoding == "utf-8" else _first_bad(source, encoding, skip)
    if bad is not None and not tolerant:
        raise IngestError(
            "E_ENCODING", f"{source.path.name} is marked as {encoding} and is not, first at byte offset {bad:,}"
        )
    return Decoding(encoding=encoding, skip=skip, tolerant=bad is not None, warnings={"W_BOM": 1})


def _wide(source: SourceFile, declared: str | None) -> Decoding:
    """A file with zero bytes and no mark: UTF-16 as declared, or none."""
    if declared and declared.startswith("utf-16") and _first_bad(source, declared) is None:
        return Decoding(encoding=declared)
    head = source.head[: len(source.head) // 2 * 2]
    # UTF-16 text has its zero bytes all in odd (or all in even) positions, next to each line end
    for guess, zeros, texts in (("utf-16-le", head[1::2], head[::2]), ("utf-16-be", head[::2], head[1::2])):
        if zeros.count(0) > len(zeros) // 20 and not texts.count(0):
            raise IngestError(
                "E_ENCODING",
                f"{source.path.name} looks like UTF-16 without a byte order mark; say --encoding {guess}, or save as "
                "UTF-8",
            )
    raise IngestError(
        "E_NOT_TEXT", f"{source.path.name} is binary: a zero byte at offset {source.first_nul:,}; export it as CSV"
    )


def _first_bad(source: SourceFile, encoding: str, skip: int = 0) -> int | None:
    """Offset of the first byte that `encoding` cannot read, in one streamed pass; None when all can be read."""
    decoder = codecs.getincrementaldecoder(encoding)()
    offset = 0
    for piece in source.pieces(1 << 20):
        text, start = (piece[skip:], skip) if not offset else (piece, offset)
        bad = undecodable_at(decoder, text, start)
        if bad is not None:
            return bad
        offset += len(piece)
    return offset if undecodable_at(decoder, b"", offset, final=True) is not None else None


def common_han_share(text: str) -> float:
    """Share of the non-ASCII characters, in [0, 1], that are level-1 Han of GB 2312 or its punctuation; 0 for none."""
    wide = "".join(c for c in text if ord(c) > 127)
    if not wide:
        return 0.0
    pairs = wide.encode("gb2312", errors="ignore")
    return sum(0xB0 <= lead <= 0xD7 or 0xA1 <= lead <= 0xA3 for lead in pairs[::2]) / len(wide)
