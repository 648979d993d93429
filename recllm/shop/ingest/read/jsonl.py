"""JSONL: one object a line. Numbers stay text, so that ids keep all digits."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, NoReturn

import polars as pl

from recllm.base.errors import IngestError
from recllm.shop.ingest.read.records import MAX_COLUMNS, Blocks, Chunk, LineBlock, RecordReader, shorten
from recllm.shop.ingest.read.source import MAX_CELL_BYTES, SourceFile

MAX_DEPTH = 20


class _BadObjectError(ValueError):
    """`args` are the column, or None, the code and the message."""


def open_jsonl(blocks: Blocks, source: SourceFile) -> RecordReader:
    """The columns are the keys of all objects, in the order of their first use."""
    keys: dict[str, None] = {}
    file, empty = source.path.name, True
    for block in blocks():
        empty = empty and not block.bad and not block.text.strip()
        for line in block.text.split(b"\n"):
            if line.strip():
                try:
                    keys.update(dict.fromkeys(_decode(line)))
                except _BadObjectError:
                    continue  # its line is a bad record when the rows are read
        if len(keys) > MAX_COLUMNS:
            raise IngestError(
                "E_HEADER", f"{file}: more than {MAX_COLUMNS:,} different keys; at most that many are read"
            )
    if empty:
        raise IngestError("E_EMPTY", f"{file} holds nothing but blank lines")
    if not keys:
        raise IngestError("E_NOT_TEXT", f"{file}: no line is a JSON object; write one object a line, not one array")
    columns = tuple(keys)
    return RecordReader(columns=columns, chunks=lambda: (_chunk(block, columns) for block in blocks()), decimal=".")


def _chunk(block: LineBlock, columns: tuple[str, ...]) -> Chunk:
    lines = block.text.split(b"\n")[:-1]
    objects: list[dict[str, str | None]] = []
    object_lines: list[int] = []
    bad = list(block.bad)
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            objects.append(_texts(line))
            object_lines.append(number)
        except _BadObjectError as error:
            bad.append(block.bad_line(number, *error.args))
    return Chunk(
        frame=pl.DataFrame({c: pl.Series([o.get(c) for o in objects], dtype=pl.String) for c in columns}),
        line_no=block.line_no[object_lines],
        raw=lambda row: shorten(lines[object_lines[row]]),
        bad=tuple(bad),
        blank_lines=sum(not line.strip() for line in lines),
    )


def _decode(line: bytes) -> dict[str, Any]:
    try:
        value = _DECODER.decode(line.decode("utf-8"))
    except RecursionError:
        raise _BadObjectError(None, "E_JSON_NESTING", f"nested deeper than {MAX_DEPTH} levels") from None
    except json.JSONDecodeError as error:
        raise _BadObjectError(None, "E_JSON", f"not JSON: {error.msg} at character {error.pos + 1}") from None
    if not isinstance(value, dict):
        raise _BadObjectError(None, "E_JSON", "not an object: each line is {...}")
    return value


def _texts(line: bytes) -> dict[str, str | None]:
    """An object's values as text: true and false as words, lists and objects as JSON, null for empty."""
    texts: dict[str, str | None] = {}
    for key, value in _decode(line).items():
        if isinstance(value, bool):
            value = "true" if value else "false"
        elif value is not None and not isinstance(value, str):
            _check_depth(value, key)
            value = json.dumps(value, ensure_ascii=False)
        if value and not value.isascii():
            try:
                (key + value).encode("utf-8")
            except UnicodeEncodeError:
                column = key if key.isascii() else None
                raise _BadObjectError(column, "E_SURROGATE", "half of a surrogate pair") from None
        texts[key] = value or None
    if len(line) > MAX_CELL_BYTES:
        for key, value in texts.items():
            if value and len(value.encode()) > MAX_CELL_BYTES:
                raise _BadObjectError(key, "E_TOO_LONG", f"a value is longer than {MAX_CELL_BYTES:,} bytes")
    return texts


def _check_depth(value: Any, key: str, depth: int = 2) -> None:
    if depth > MAX_DEPTH:
        raise _BadObjectError(key, "E_JSON_NESTING", f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            _check_depth(inner, key, depth + 1)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise _BadObjectError(None, "E_JSON_DUP_KEY", f"the key {twice!r} occurs twice")
    return unique


def _no_constant(name: str) -> NoReturn:
    raise _BadObjectError(None, "E_JSON", f"{name} is not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=str, parse_float=str, strict=True
)
