"""Marks that are put in at every door of a shop, and a look at every byte for them, in every form that bytes take."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import lzma
import re
import sqlite3
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import polars as pl

MARK = "zzcanary"
"""What every canary begins with; no other text of a shop has it."""

_MEMBER = re.compile(rb"\x1f\x8b\x08|\x78[\x01\x5e\x9c\xda]|BZh[1-9]|\xfd7zXZ\x00")
_OPENERS = {b"\x1f": gzip.decompress, b"x": zlib.decompress, b"B": bz2.decompress, b"\xfd": lzma.decompress}


def canary(name: str) -> str:
    return f"{MARK}_{name}"


def forms(text: str) -> dict[str, bytes]:
    """A text as bytes: plain, UTF-16, UTF-32, hex in both cases, percent-encoded whole, and base64 at each of its three
    offsets."""
    plain = text.encode()
    shifted = {}
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + plain)
        first = -(-offset * 8 // 6) if offset else 0  # the first sextet that holds nothing of what stood before
        shifted[f"base64+{offset}"] = encoded[first : (offset + len(plain)) * 8 // 6]
    return {
        "plain": plain,
        "utf-16-le": text.encode("utf-16-le"),
        "utf-16-be": text.encode("utf-16-be"),
        "utf-32-le": text.encode("utf-32-le"),
        "percent": "".join(f"%{byte:02X}" for byte in plain).encode(),
        "hex": plain.hex().encode(),
        "HEX": plain.hex().upper().encode(),
        **shifted,
    }


def hits(folder: Path, *texts: str) -> list[str]:
    """Path and form of every occurrence of the texts (default: of any mark) in the files below a folder, whatever they
    are called; hidden ones too."""
    texts = texts or (MARK,)
    wanted = [pair for text in texts for pair in forms(text).items()]
    found = []
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found += [f"{name}: its name" for text in texts if text in path.name]
        if path.is_file() and not path.is_symlink():
            for layer, content in (*_layers(path.read_bytes()), *_cells(path)):
                found += [f"{name}: {layer}{form}" for form, needle in wanted if needle in content]
    return found


def _cells(path: Path) -> Iterator[tuple[str, bytes]]:
    """The values of a database, of which a long one lies on several pages."""
    with path.open("rb") as file:
        if file.read(16) != b"SQLite format 3\0":
            return
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in connection.execute(f'SELECT * FROM "{table}"'):  # noqa: S608
                yield "a row, ", b"\0".join(v if isinstance(v, bytes) else str(v).encode() for v in row)


def _layers(content: bytes) -> Iterator[tuple[str, bytes]]:
    """The bytes of a file, and what is packed in them."""
    yield "", content
    if content[:4] == b"PAR1":
        yield "unpacked ", pl.read_parquet(io.BytesIO(content)).write_json().encode()
    if content[:4] == b"PK\x03\x04" and zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.namelist():
                yield "unpacked ", archive.read(member)
    for match in _MEMBER.finditer(content):
        try:
            opener = _OPENERS[match.group()[:1]]
            yield "unpacked ", _unpacked(opener, content[match.start() :])
        except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError):
            continue


def _unpacked(opener: object, content: bytes) -> bytes:
    if opener is zlib.decompress:
        return zlib.decompressobj().decompress(content, 1 << 26)
    if opener is gzip.decompress:
        return zlib.decompressobj(31).decompress(content, 1 << 26)
    if opener is bz2.decompress:
        return bz2.BZ2Decompressor().decompress(content, 1 << 26)
    return lzma.LZMADecompressor().decompress(content, 1 << 26)
