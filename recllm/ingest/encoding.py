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
from recllm.ingest.source import Source

_BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_GB_FAMILY = {"gb2312", "gbk", "cp936", "gb18030", "euc_cn", "hz"}
_CANDIDATES = ("gb18030", "cp1252", "latin-1", "big5", "shift_jis", "utf-16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How bytes become text."""

    encoding: str
    skip: int = 0
    """Bytes of the byte order mark."""
    tolerant: bool = False
    """Lines that do not decode are broken rows instead of a refused file."""
    warnings: dict[str, int] = field(default_factory=dict)

    @property
    def unit(self) -> int:
        """Bytes of the newline character."""
        return 2 if self.encoding.startswith("utf-16") else 1


def decide(source: Source, options: IngestOptions, hint: str | None, header_known: Callable[[str], bool]) -> Decoding:
    """Climb the ladder. `hint` is the map's encoding, tried last; `header_known` judges a decoded first line."""
    if source.head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        raise IngestError("E_ENCODING", f"{source.path.name} is UTF-32; save it as UTF-8")
    for mark, encoding in _BOMS:
        if source.head.startswith(mark):
            return _marked(source, options, encoding, len(mark))
    declared = canonical(options.encoding) if options.encoding else None
    if source.first_nul is not None:
        return _wide(source, declared)
    if source.first_bad is None:
        return Decoding(encoding="utf-8")
    if declared and declared != "utf-8":
        return _declared(source, declared, options)
    if options.on_bad_bytes == "quarantine":
        return Decoding(encoding="utf-8", tolerant=True)
    if _is_chinese(source, header_known):
        return Decoding(encoding="gb18030", warnings={"W_ENCODING": 1})
    if hint and _fails_at(source, canonical(hint), 0) is None and header_known(_first_line(source, canonical(hint))):
        return Decoding(encoding=canonical(hint), warnings={"W_ENCODING": 1})
    raise IngestError("E_ENCODING", _refusal(source))


def canonical(name: str) -> str:
    """Python's name of a text encoding that keeps line ends findable; `IngestError` for any other."""
    try:
        codec = codecs.lookup(name)
        plain = codec.name.startswith("utf-16") or "a,\n".encode(codec.name) == b"a,\n"
    except (LookupError, ValueError, TypeError):
        plain = False
    if not plain:
        raise IngestError("E_ENCODING", f"unknown encoding {name!r}; for example: utf-8, {', '.join(_CANDIDATES)}")
    if codec.name in _GB_FAMILY:
        return "gb18030"
    return {"utf-16": "utf-16-le", "utf-8-sig": "utf-8"}.get(codec.name, codec.name)


def _marked(source: Source, options: IngestOptions, encoding: str, skip: int) -> Decoding:
    found = Decoding(encoding=encoding, skip=skip, warnings={"W_BOM": 1})
    if encoding == "utf-8" and source.first_nul is not None:
        raise IngestError("E_NOT_TEXT", f"{source.path.name}: a zero byte at offset {source.first_nul:,}")
    bad = source.first_bad if encoding == "utf-8" else _fails_at(source, encoding, skip)
    if bad is None:
        return found
    if options.on_bad_bytes == "quarantine":
        return Decoding(encoding=encoding, skip=skip, tolerant=True, warnings=found.warnings)
    raise IngestError(
        "E_ENCODING", f"{source.path.name} is marked as {encoding} and is not, first at byte offset {bad:,}"
    )


def _wide(source: Source, declared: str | None) -> Decoding:
    if declared and declared.startswith("utf-16") and _fails_at(source, declared, 0) is None:
        return Decoding(encoding=declared)
    if guess := _looks_wide(source.head):
        raise IngestError(
            "E_ENCODING",
            f"{source.path.name} looks like UTF-16 without a byte order mark; say --encoding {guess}, or save as UTF-8",
        )
    raise IngestError(
        "E_NOT_TEXT", f"{source.path.name} is binary: a zero byte at offset {source.first_nul:,}; export it as CSV"
    )


def _looks_wide(head: bytes) -> str | None:
    """UTF-16 text has its zero bytes all in odd (or all in even) places, next to each line end."""
    head = head[: len(head) // 2 * 2]
    for encoding, zeros, other in (("utf-16-le", head[1::2], head[::2]), ("utf-16-be", head[::2], head[1::2])):
        if zeros.count(0) > len(zeros) // 20 and not other.count(0):
            return encoding
    return None


def _declared(source: Source, declared: str, options: IngestOptions) -> Decoding:
    bad = _fails_at(source, declared, 0)
    if bad is None or options.on_bad_bytes == "quarantine":
        return Decoding(encoding=declared, tolerant=bad is not None, warnings={"W_ENCODING": 1})
    raise IngestError("E_ENCODING", f"{source.path.name} is not {declared}, first at byte offset {bad:,}")


def _fails_at(source: Source, encoding: str, skip: int) -> int | None:
    """Offset of the first byte that `encoding` cannot read, in one streamed pass; None when all can be read."""
    decoder = codecs.getincrementaldecoder(encoding)()
    offset = 0
    for piece in source.pieces(1 << 20):
        body, start = (piece[skip:], skip) if not offset else (piece, offset)
        pending = len(decoder.getstate()[0])
        try:
            decoder.decode(body)
        except UnicodeDecodeError as error:
            return max(0, start - pending + error.start)
        offset += len(piece)
    try:
        decoder.decode(b"", True)
    except UnicodeDecodeError:
        return offset
    return None


def _is_chinese(source: Source, header_known: Callable[[str], bool]) -> bool:
    if _fails_at(source, "gb18030", 0) is not None:
        return False
    text = codecs.getincrementaldecoder("gb18030")().decode(source.head)
    return common_han_share(text) > 0.9 and header_known(text.lstrip().split("\n", 1)[0])


def common_han_share(text: str) -> float:
    """Share of the non-ASCII characters, in [0, 1], that are level-1 Han of GB 2312 or its punctuation; 0 for none."""
    wide = "".join(c for c in text if ord(c) > 127)
    if not wide:
        return 0.0
    pairs = wide.encode("gb2312", errors="ignore")
    return sum(0xB0 <= lead <= 0xD7 or 0xA1 <= lead <= 0xA3 for lead in pairs[::2]) / len(wide)


def _first_line(source: Source, encoding: str) -> str:
    return source.head.split(b"\n", 1)[0].decode(encoding, errors="replace")


def _refusal(source: Source) -> str:
    able = []
    for encoding in _CANDIDATES[:-1]:
        try:
            codecs.getincrementaldecoder(encoding)().decode(source.head)
            able.append(encoding)
        except UnicodeDecodeError:
            continue
    return (
        f"{source.path.name} is not UTF-8: first bad byte at offset {source.first_bad:,}. Say which encoding it has "
        f"(--encoding {' | '.join(able) or 'NAME'} would decode its beginning), or --on-bad-bytes quarantine"
    )
