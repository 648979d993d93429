"""The voice of a brand: words it never uses, words it always uses, how it addresses people.

banned = ["cheap", "guys"]
required = []                 # each must stand in every text
address = "您"                # 您 or 你 in Chinese texts; leave out for either
emoji = false
exclamation = false
lines = ["Slow mornings start here."]   # opening lines in the brand's own words, taken before the shop's general ones
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from recllm.errors import DataError

_LISTS = ("banned", "required", "lines")
_FLAGS = ("emoji", "exclamation")


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """How a brand speaks; the defaults bind nobody."""

    banned: tuple[str, ...] = ()
    """Whole words in Latin script, anywhere in Chinese; "*" stands for up to 20 letters."""
    required: tuple[str, ...] = ()
    address: str | None = None
    """您 or 你: the other one is not used."""
    emoji: bool = True
    exclamation: bool = True
    lines: tuple[str, ...] = ()
    """Opening lines for texts whose line no model writes. Each is checked as any other; with `required` words, some
    should hold them."""


def load_voice(file: Path) -> Voice:
    """Reads a voice from TOML. Raises `DataError` with the file and the field that is wrong."""
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: no brand voice, since it is not TOML: {error}") from error
    if unknown := sorted(set(table) - {*_LISTS, *_FLAGS, "address"}):
        raise DataError(
            f"{file}: a voice has no field {unknown[0]!r}; known: {', '.join((*_LISTS, 'address', *_FLAGS))}"
        )
    for name in _LISTS:
        value = table.get(name, [])
        if not isinstance(value, list) or not all(isinstance(word, str) and word.strip() for word in value):
            raise DataError(f"{file}: {name} is a list of words, not {value!r}")
    for name in _FLAGS:
        if not isinstance(table.get(name, True), bool):
            raise DataError(f"{file}: {name} is true or false, not {table[name]!r}")
    if table.get("address") not in (None, "您", "你"):
        raise DataError(f"{file}: address is 您 or 你, not {table['address']!r}")
    return Voice(
        banned=tuple(table.get("banned", ())),
        required=tuple(table.get("required", ())),
        address=table.get("address"),
        emoji=table.get("emoji", True),
        exclamation=table.get("exclamation", True),
        lines=tuple(table.get("lines", ())),
    )
