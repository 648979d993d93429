"""Reading a TOML table strictly: every value has its type, no key is left over, and an error names file and line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NoReturn

from recllm.errors import DataError


def read_toml(file: Path) -> TomlTable:
    """The file as a table. Raises `DataError` when it cannot be read, with line and column where it is no TOML."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    try:
        return TomlTable(tomllib.loads(text, parse_float=Decimal), str(file), text)
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{file}: no TOML: {error}") from error


class TomlTable:
    """A table whose values are taken one by one; `done` refuses what nobody took."""

    def __init__(self, values: Mapping[str, Any], file: str, source: str, section: str = "") -> None:
        self._values = dict(values)
        self._file, self._source, self._section = file, source, section

    def fail(self, key: str, message: str) -> NoReturn:
        """Raises `DataError` with the file, the key's line and the message."""
        at = _line(self._source, self._section, key)
        name = f"{self._section}.{key}" if self._section else key
        raise DataError(f"{self._file}{f', line {at}' if at else ''}: {name} {message}")

    def text(self, key: str, default: str | None = None) -> str:
        value = self._take(key, default)
        if isinstance(value, str) and (value.strip() or value == default):
            return value
        return self._wrong(key, value, "a text")

    def texts(self, key: str, default: tuple[str, ...] | None = ()) -> tuple[str, ...]:
        value = self._take(key, default)
        fit = isinstance(value, list | tuple) and all(isinstance(v, str) and v.strip() for v in value)
        return tuple(value) if fit else self._wrong(key, value, "a list of texts")

    def flag(self, key: str, default: bool) -> bool:
        value = self._take(key, default)
        return value if isinstance(value, bool) else self._wrong(key, value, "true or false")

    def whole(self, key: str, default: int | None, *, least: int = 0) -> int | None:
        value = self._take(key, default)
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= least):
            return value
        return self._wrong(key, value, f"a whole number of {least} or more")

    def number(self, key: str, default: float | None, *, above: float = -1e-300) -> float | None:
        value = self._take(key, default)
        fit = isinstance(value, int | float | Decimal) and not isinstance(value, bool) and above < value < float("inf")
        return value if value is None else float(value) if fit else self._wrong(key, value, "a number of 0 or more")

    def money(self, key: str) -> Decimal | None:
        """An exact amount: a number, or a number as text."""
        value = self._take(key, None)
        if value is None:
            return None
        try:
            amount = Decimal(value) if isinstance(value, int | str | Decimal) and not isinstance(value, bool) else None
        except InvalidOperation:
            amount = None
        fit = amount is not None and amount.is_finite() and amount > 0
        return amount if fit else self._wrong(key, value, "an amount above 0")

    def moment(self, key: str) -> datetime | None:
        value = self._take(key, None)
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value)
            except ValueError:
                self._wrong(key, value, "a time such as 2025-11-01T00:00:00+08:00")
        if value is None or (isinstance(value, datetime) and value.tzinfo is not None):
            return value
        return self._wrong(key, value, "a time with its zone, such as 2025-11-01T00:00:00+08:00")

    def table(self, key: str) -> TomlTable | None:
        """The table below this one; None where there is none."""
        value = self._take(key, None)
        if value is not None and not isinstance(value, dict):
            self._wrong(key, value, f"a table; write [{key}]")
        section = f"{self._section}.{key}" if self._section else key
        return None if value is None else TomlTable(value, self._file, self._source, section)

    def table_if(self, key: str) -> TomlTable | None:
        """The table below this one, when the value is one."""
        return self.table(key) if isinstance(self._values.get(key), dict) else None

    def each(self, read: Callable[[TomlTable, str], Any]) -> dict[str, Any]:
        """Every key that is left, read by `read`."""
        return {key: read(self, key) for key in list(self._values)}

    def done(self, known: str) -> None:
        """Raises `DataError` for a key that nobody took. known: what could stand here."""
        for key in self._values:
            self.fail(key, f"is unknown; known: {known}")

    def _take(self, key: str, default: Any) -> Any:
        return self._values.pop(key, default)

    def _wrong(self, key: str, value: Any, wanted: str) -> NoReturn:
        self.fail(key, "is missing" if value is None else f"is {wanted}, not {value!r}")


def _line(source: str, section: str, key: str) -> int | None:
    """The line on which `key` of `section` is set, from 1; for a missing key that of its section's head."""
    inside, head, name = not section, None, re.compile(rf"\s*\"?{re.escape(key)}\"?\s*=")
    for number, line in enumerate(source.splitlines(), start=1):
        if found := re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]", line):
            inside = found[1] == section
            head = number if inside else head
            if found[1] == (f"{section}.{key}" if section else key):
                return number
        elif inside and name.match(line):
            return number
    return head
