"""What is wrong in a TOML file, in words: every fault that pydantic finds, with file, line and key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from recllm.errors import DataError, RecllmError

T = TypeVar("T")

EXPECTED = {
    "missing": "is missing",
    "string_type": "is a text, not {input!r}",
    "string_pattern_mismatch": "is a text, not {input!r}",
    "tuple_type": "is a list of texts, not {input!r}",
    "bool_type": "is true or false, not {input!r}",
    "int_type": "is a whole number, not {input}",
    "float_type": "is a number, not {input!r}",
    "finite_number": "is a number, not {input}",
    "greater_than": "is a number above {gt}, not {input}",
    "greater_than_equal": "is a number of {ge} or more, not {input}",
    "model_type": "is a table; write [{key}]",
    "mapping_type": "is a table; write [{key}]",
    "is_instance_of": "is the name of a file, not {input!r}",
}
"""pydantic's kinds of errors in the words of these files."""


def fail(message: str, key: str = "") -> NoReturn:
    """In a validator: raises the error of its field, or of the field `key` below its section."""
    raise PydanticCustomError("in_words", "{message}", {"message": message, "key": key})


def checked(read: Callable[[], T], key: str = "") -> T:
    """In a validator: what `read` gives; its error as that of the field."""
    try:
        return read()
    except RecllmError as error:
        fail(f"is wrong: {error}", key)


def data_error(file: Path, source: str, error: ValidationError, sections: Mapping[str, Sequence[str]]) -> DataError:
    """source: the file's text. sections: the keys of each table of it."""
    faults = [_fault(source, details, sections) for details in error.errors(include_url=False)]
    return DataError("\n".join(dict.fromkeys(f"{file}{fault}" for fault in faults)))


def unknown_key(source: str, section: str, key: str, sections: Mapping[str, Sequence[str]]) -> str:
    nearest = difflib.get_close_matches(key, sections.get(section, ()), n=1)
    remedy = f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(sections.get(section, ()))}"
    return _with_line(source, [section, key], f"is unknown; {remedy}")


def _fault(source: str, error: ErrorDetails, sections: Mapping[str, Sequence[str]]) -> str:
    context = error.get("ctx", {})
    path = [str(part) for part in (*error["loc"], context.get("key")) if isinstance(part, str) and part]
    if error["type"] == "extra_forbidden":
        return unknown_key(source, ".".join(path[:-1]), path[-1], sections)
    if error["type"] == "in_words":
        return _with_line(source, path, context["message"])
    expected = EXPECTED.get(error["type"], f"is wrong: {error['msg']}, not {{input!r}}")
    return _with_line(source, path, expected.format(**{**context, "input": error["input"], "key": ".".join(path)}))


def _with_line(source: str, path: Sequence[str], message: str) -> str:
    section, key = ".".join(path[:-1]), path[-1]
    line = _line(source, section, key)
    return f"{f', line {line}' if line else ''}: {f'{section}.{key}'.lstrip('.')} {message}"


def _line(source: str, section: str, key: str) -> int | None:
    """The line on which `key` of `section` is set, from 1; for a missing key that of its section's head."""
    inside, head, name = not section, None, re.compile(rf"\s*\"?{re.escape(key)}\"?\s*=")
    for number, line in enumerate(source.splitlines(), start=1):
        if match := re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]", line):
            inside = match[1] == section
            head = number if inside else head
            if match[1] == (f"{section}.{key}" if section else key):
                return number
        elif inside and name.match(line):
            return number
    return head
