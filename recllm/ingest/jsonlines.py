"""JSONL: one object a line. Numbers stay the text that they were, so no digit of an id is lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import polars as pl

from recllm.errors import IngestError
from recllm.ingest.blocks import Block
from recllm.ingest.chunk import Broken, Chunk, Place, Reader, shorten
from recllm.ingest.options import MAX_COLUMNS
from recllm.policy import Policy

MAX_DEPTH = 20


class _BadObjectError(ValueError):
    def __init__(self, code: str, message: str, column: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.column = code, message, column


def open_jsonl(blocks: Callable[[], Iterator[Block]], name: str, warnings: dict[str, int], policy: Policy) -> Reader:
    """The columns are the keys of all objects, in the order of their first use."""
    keys: dict[str, None] = {}
    seen = False
    for block in blocks():
        seen = seen or bool(block.broken) or bool(block.text.strip())
        for line in block.text.split(b"\n"):
            keys.update(dict.fromkeys(_keys(line)))
        if len(keys) > MAX_COLUMNS:
            raise IngestError(
                "E_HEADER", f"{name}: more than {MAX_COLUMNS:,} different keys; at most that many are read"
            )
    if not seen:
        raise IngestError("E_EMPTY", f"{name} holds nothing but blank lines")
    if not keys:
        raise IngestError("E_NOT_TEXT", f"{name}: no line is a JSON object; write one object a line, not one array")
    columns = tuple(keys)
    return Reader(columns=columns, chunks=lambda: _chunks(blocks(), columns, policy), warnings=warnings, decimal=".")


def _keys(line: bytes) -> list[str]:
    try:
        return list(_decode(line)) if line.strip() else []
    except _BadObjectError:
        return []


def _chunks(blocks: Iterator[Block], columns: tuple[str, ...], policy: Policy) -> Iterator[Chunk]:
    record_no = 0
    for block in blocks:
        chunk = _chunk(block, columns, record_no, policy)
        record_no += chunk.n_records
        yield chunk


def _chunk(block: Block, columns: tuple[str, ...], before: int, policy: Policy) -> Chunk:
    lines = block.text.split(b"\n")[:-1]
    objects: list[dict[str, str | None]] = []
    good: list[int] = []
    broken = list(block.broken)
    blank = 0
    for row, line in enumerate(lines):
        if not line.strip():
            blank += 1
            continue
        try:
            objects.append(_short(_parse_object(line), len(line), policy))
            good.append(row)
        except _BadObjectError as error:
            place = Place(line_no=int(block.line_no[row]), record_no=0, byte_offset=int(block.offset[row]))
            broken.append(
                Broken(place=place, code=error.code, message=error.message, raw=shorten(line), column=error.column)
            )
    frame = pl.DataFrame(
        {c: pl.Series([o.get(c) for o in objects], dtype=pl.String) for c in columns},
        schema=dict.fromkeys(columns, pl.String),
    )
    line_no = block.line_no[good]
    begins = np.sort(np.concatenate([line_no, np.array([b.place.line_no for b in broken], np.int64)]))
    return Chunk(
        frame=frame,
        line_no=line_no,
        record_no=before + 1 + np.searchsorted(begins, line_no),
        byte_offset=block.offset[good],
        raw=lambda row: shorten(lines[good[row]]),
        broken=tuple(_with_record_no(b, before, begins) for b in broken),
        notes={"W_BLANK_LINE": blank} if blank else {},
    )


def _with_record_no(broken: Broken, before: int, begins: Any) -> Broken:
    record_no = before + 1 + int(np.searchsorted(begins, broken.place.line_no))
    return replace(broken, place=replace(broken.place, record_no=record_no))


def _parse_object(line: bytes) -> dict[str, str | None]:
    return {key: _plain(key, value) for key, value in _decode(line).items()}


def _decode(line: bytes) -> dict[str, Any]:
    try:
        found = _DECODER.decode(line.decode("utf-8"))
    except RecursionError:
        raise _BadObjectError("E_JSON_NESTING", f"nested deeper than {MAX_DEPTH} levels") from None
    except json.JSONDecodeError as error:
        raise _BadObjectError("E_JSON", f"not JSON: {error.msg} at character {error.pos + 1}") from None
    if not isinstance(found, dict):
        raise _BadObjectError("E_JSON", "not an object: each line is {...}")
    return found


def _short(found: dict[str, str | None], n_bytes: int, policy: Policy) -> dict[str, str | None]:
    if n_bytes > policy.max_cell_bytes:
        for key, value in found.items():
            if value and len(value.encode()) > policy.max_cell_bytes:
                raise _BadObjectError("E_TOO_LONG", f"a value is longer than {policy.max_cell_bytes:,} bytes", key)
    return found


def _plain(key: str, value: Any) -> str | None:
    """Text as it is, true and false as words, lists and objects as JSON again."""
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        value = "true" if value else "false"
    elif not isinstance(value, str):
        _check_depth(value, key)
        value = json.dumps(value, ensure_ascii=False)
    if not value.isascii():
        _check_characters(key, value)
    return value  # type: ignore[no-any-return]


def _check_characters(key: str, value: str) -> None:
    try:
        (key + value).encode("utf-8")
    except UnicodeEncodeError:
        raise _BadObjectError("E_SURROGATE", "half of a surrogate pair", key if key.isascii() else None) from None


def _check_depth(value: Any, key: str, depth: int = 2) -> None:
    if depth > MAX_DEPTH:
        raise _BadObjectError("E_JSON_NESTING", f"nested deeper than {MAX_DEPTH} levels", key)
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            _check_depth(inner, key, depth + 1)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in names if names.count(key) > 1)
        raise _BadObjectError("E_JSON_DUP_KEY", f"the key {twice!r} occurs twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise _BadObjectError("E_JSON", f"{name} is not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=str, parse_float=str, strict=True
)
