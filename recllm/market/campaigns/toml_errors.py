"""What is wrong in a TOML file, in words: every fault that pydantic finds, with file, line and key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from recllm.base.documents import whole_numbers
from recllm.base.errors import DataError, RecllmError

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
    "less_than": "is a number below {lt}, not {input}",
    "less_than_equal": "is {le} at most",
    "model_type": "is a table; write [{key}]",
    "mapping_type": "is a table; write [{key}]",
    "is_instance_of": "is the name of a file, not {input!r}",
}
"""pydantic's kinds of errors in the words of these files."""


def fail(message: str, key: str = "") -> NoReturn:
    """In a validator: raises the error of its field, or of the field `key` below its section."""
    raise PydanticCustomError("in_words", "{message}", {"message": message, "key": key})


@contextmanager
def in_words(key: str = "") -> Iterator[None]:
    """In a validator: an error of the block becomes that of the field."""
    try:
        yield
    except RecllmError as error:
        fail(f"is wrong: {error}", key)


def data_error(file: Path, source: str, error: ValidationError, sections: Mapping[str, Sequence[str]]) -> DataError:
    """source: the file's text. sections: the keys of each table of it."""
    faults = []
    for fault in error.errors(include_url=False):
        context = whole_numbers(fault.get("ctx", {}))
        path = [step for step in fault["loc"] if isinstance(step, str)] + [key for key in [context.get("key")] if key]
        if fault["type"] == "extra_forbidden":
            words = unknown_key(source, ".".join(path[:-1]), path[-1], sections)
        elif fault["type"] == "in_words":
            words = _with_line(source, path, context["message"])
        else:
            expected = EXPECTED.get(fault["type"], "is wrong: {message}, not {input!r}")
            facts = {**context, "input": fault["input"], "key": ".".join(path), "message": fault["msg"]}
            words = _with_line(source, path, expected.format(**facts))
        faults.append(f"{file}{words}")
    return DataError("\n".join(dict.fromkeys(faults)))


def unknown_key(source: str, section: str, key: str, sections: Mapping[str, Sequence[str]]) -> str:
    nearest = difflib.get_close_matches(key, sections.get(section, ()), n=1)
    remedy = f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(sections.get(section, ()))}"
    return _with_line(source, [section, key], f"is unknown; {remedy}")


def _with_line(source: str, path: Sequence[str], message: str) -> str:
    """`message` with the line on which the key is set, from 1; for a missing key that of its section's head."""
    section, key, whole_key = ".".join(path[:-1]), path[-1], ".".join(path).lstrip(".")
    inside, line = not section, None
    for number, text in enumerate(source.splitlines(), start=1):
        head = re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]", text)
        if head[1] == whole_key if head else inside and re.match(rf"\s*\"?{re.escape(key)}\"?\s*=", text):
            line = number
            break
        if head:
            inside = head[1] == section
            line = number if inside else line
    return f"{f', line {line}' if line else ''}: {whole_key} {message}"
