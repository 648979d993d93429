"""What crosses the rim: a document from outside, read or refused; a table from it as a frozen, validated object; any
result as JSON or CSV.

`FrozenModel` is the base of every settings class. A wrong key or value raises `UsageError` that names the section, the
field, the value and what would be right.
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import json
import logging
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar, get_args, get_type_hints

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    Strict,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from recllm.base.errors import DataError, UsageError

# types of fields: without `Strict` a field would take "3" for 3, and True for 1
Flag = Annotated[bool, Strict()]
Text = Annotated[str, Strict()]
Count = Annotated[int, Strict(), Field(ge=1)]
CountOrZero = Annotated[int, Strict(), Field(ge=0)]
Positive = Annotated[float, Strict(), Field(gt=0)]
Weight = Annotated[float, Strict(), Field(ge=0)]
Share = Annotated[float, Strict(), Field(ge=0, le=1)]


RETIRED_FILE = Path(__file__).with_name("retired_settings.toml")
logger = logging.getLogger(__name__)


EXPECTED: Mapping[str, str] = tomllib.loads(Path(__file__).with_name("faults.toml").read_text("utf-8"))
"""pydantic's kinds of errors in words."""
NOT_EMPTY = r"\S"
FilledText = Annotated[str, StringConstraints(pattern=NOT_EMPTY)]
"""A text that is more than white space."""
T = TypeVar("T")
_LONGEST_EXCERPT = 200  # characters of a wrong value


def fault_in_words(fault: ErrorDetails, *, quoted: bool = True) -> str:
    """What is wrong with a field's value, such as "must be a number, not 'x'". quoted: with the value."""
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "value_error":
        return f"is wrong: {context['error']}"
    bounds = {name: int(v) if isinstance(v, float) and v.is_integer() else v for name, v in context.items()}
    kind = "too_short" if bounds.get("pattern") == NOT_EMPTY else kind
    words = EXPECTED[kind].format(**bounds) if kind in EXPECTED else f"is wrong: {fault['msg']}"
    return f"{words}, not {fault['input']!r}" if quoted and kind not in ("missing", "extra_forbidden") else words


def parsed(model: type[T], values: Any, *, owner: str, prefix: str = "") -> T:
    """`values` as `model`, a pydantic class.

    owner: what the outermost object is called in messages. Raises `DataError` that begins with `prefix` for the first
    fault, unknown and missing fields before others.
    """
    try:
        return TypeAdapter(model).validate_python(values)
    except ValidationError as error:
        raise DataError(prefix + first_fault(error, model, owner)) from None


def first_fault(error: ValidationError, model: Any = None, owner: str = "it", *, quoted: bool = True) -> str:
    """Where a document is wrong: "item.price must be a number, not 'cheap'". model: names the known fields.
    quoted: with the value, which may be about a customer."""
    first = ("extra_forbidden", "unexpected_keyword_argument", "missing")
    faults = error.errors(include_url=False)
    fault = min(faults, key=lambda f: first.index(f["type"]) if f["type"] in first else len(first))
    steps, value = [str(step)[:_LONGEST_EXCERPT] for step in fault["loc"]], fault["input"]
    path = ".".join(steps) or owner
    if fault["type"] in first[:2]:
        for step in steps[:-1]:
            model = fields_of(model).get(step, model)
        names = ", ".join(sorted(fields_of(model)))
        return f"{'.'.join(steps[:-1]) or owner} has no field {steps[-1]!r}{names and f'; known: {names}'}"
    if fault["type"] == "missing" or (steps and value is None):
        return f"{path} is missing"
    if fault["type"] == "value_error":
        return f"{path} {fault['ctx']['error']}"
    excerpt = f", not {repr(value)[:_LONGEST_EXCERPT]}" if quoted else ""
    return f"{path} {fault_in_words(fault, quoted=False)}{excerpt}"


def fields_of(annotation: Any) -> dict[str, Any]:
    """Field -> its type, of the first class of data in a type; empty where there is none."""
    if hasattr(annotation, "__pydantic_fields__"):
        fields = annotation.__pydantic_fields__.items()
        return {field.alias or name: field.annotation for name, field in fields}
    if dataclasses.is_dataclass(annotation):
        return get_type_hints(annotation)
    return next(filter(None, map(fields_of, get_args(annotation))), {})


class Question(BaseModel):
    """A request, declared once: bodies of HTTP, options of commands, tables of files and the JSON of batches
    are made of its fields. The string under a field is its documentation. In Python a wrong value raises `UsageError`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, arbitrary_types_allowed=True)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            raise UsageError(f"{'.'.join(map(str, fault['loc']))} {fault_in_words(fault)}") from None

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined] # other doors report their own errors

    def part(self, kind: type[Asked], /, **fields: Any) -> Asked:
        """The fields that another question has too, as that question, with `fields` besides."""
        names = kind.model_fields.keys() & type(self).model_fields.keys() - fields.keys()
        return kind(**{name: getattr(self, name) for name in names}, **fields)


Asked = TypeVar("Asked", bound=Question)


class FrozenModel(BaseModel):
    """A frozen pydantic model whose errors are `UsageError`; the string under a field is its documentation."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    section: ClassVar[str] = ""
    """Where it stands in a file; errors begin with it."""

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(values, Mapping):
            values = without_retired(cls.section, values, warn=True)
            if unknown := [str(name) for name in values if name not in cls.model_fields]:
                raise UsageError(unknown_name(f"{cls.section}.{unknown[0]}".lstrip("."), unknown[0], cls.model_fields))
            # TOML and the command line have no null: "none" stands for it where None is allowed
            values = {
                name: None if value == "none" and allows_none(cls.model_fields[name].annotation) else value
                for name, value in values.items()
            }
        try:
            model = handler(values)
            model.check()
            return model
        except ValueError as error:
            if not isinstance(error, ValidationError):
                raise UsageError(f"setting {cls.section or cls.__name__}: {error}") from None
            first = error.errors(include_url=False)[0]
            path = ".".join(str(part) for part in (cls.section, *first["loc"][:1]) if part != "")
            if first["type"] == "value_error":
                raise UsageError(f"setting {path or cls.__name__}: {first['ctx']['error']}") from None
            expected = cls.expected(str(first["loc"][0])) if first["loc"] else "a table of settings"
            value = values.get(first["loc"][0]) if first["loc"] and isinstance(values, Mapping) else first["input"]
            raise UsageError(f"setting {path or cls.__name__}: {value!r} is not {expected}") from None

    def check(self) -> None:
        """Raises `ValueError` where values do not fit each other."""

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """The same with other values, which are validated."""
        return type(self).model_validate({**self.explicit(), **(update or {})})

    @classmethod
    def layered(cls, *layers: FrozenModel | None) -> Self:
        """With the explicit fields of all layers; of one that several set, the last counts."""
        return cls(**{name: value for layer in layers if layer for name, value in layer.explicit().items()})

    def explicit(self) -> dict[str, Any]:
        """The fields that were given and did not just keep their default, with their values."""
        return {name: value for name, value in self if name in self.model_fields_set}

    @classmethod
    def expected(cls, name: str) -> str:
        """What a field takes, in words, e.g. "a whole number at least 1"."""
        schema = _json_schema(cls)
        return _expected(schema["properties"][name], schema.get("$defs", {}))


@cache
def retired_settings() -> Mapping[str, Mapping[str, Any]]:
    """Section -> name -> last default, or "any", of what is no longer a setting."""
    return tomllib.loads(RETIRED_FILE.read_text("utf-8"))


def without_retired(section: str, table: Mapping[str, Any], *, warn: bool = False) -> dict[str, Any]:
    """A section's table without settings that are none any longer; with `warn` each is logged once.

    Raises `UsageError` where the table states another value than the last default, unless it may be "any".
    """
    fixed = retired_settings().get(section, {})
    for name in sorted(table.keys() & fixed.keys()):
        value = "none" if table[name] is None else plain(table[name])
        if fixed[name] not in (value, "any"):
            raise UsageError(
                f"setting {section}.{name}: it is no longer a setting, and a file may only state its last default, "
                f"{json.dumps(fixed[name])}, not {json.dumps(value)}; remove it"
            )
        if warn:
            note_retired(f"{section}.{name}")
    return {name: value for name, value in table.items() if name not in fixed}


@cache
def note_retired(name: str) -> None:
    logger.warning("setting %s: it is no longer a setting; remove it", name)


@cache
def _json_schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


def allows_none(annotation: Any) -> bool:
    """Whether a field of this type may be None."""
    return type(None) in getattr(annotation, "__args__", ())


def unknown_name(path: str, name: str, choices: Iterable[str]) -> str:
    """A message for a name that does not exist: the nearest one where there is one, and else all."""
    names = sorted(choices)
    nearest = difflib.get_close_matches(name, names, n=1)
    return f"unknown setting {path}; " + (f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(names)}")


def _expected(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """A field's JSON schema in words."""
    if "expected" in schema:
        return str(schema["expected"])
    if "$ref" in schema:
        return _expected(definitions[schema["$ref"].rsplit("/", 1)[-1]], definitions)
    if "anyOf" in schema:
        return " or ".join(_expected(choice, definitions) for choice in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return "one of " + ", ".join(str(v) for v in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type")
    if kind == "array":
        items: Mapping[str, Any] = schema.get("items") or schema.get("prefixItems", [{}])[0]
        return f"a list, each {_expected(items, definitions)}"
    if kind in ("integer", "number"):
        lowest, above = schema.get("minimum"), schema.get("exclusiveMinimum")
        highest, below = schema.get("maximum"), schema.get("exclusiveMaximum")
        bounds = [f"at least {lowest:g}"] if lowest is not None else [f"above {above:g}"] if above is not None else []
        bounds += [f"at most {highest:g}"] if highest is not None else [f"below {below:g}"] if below is not None else []
        return f"a {'whole ' * (kind == 'integer')}number {' and '.join(bounds)}".rstrip()
    words = {"string": "a text", "boolean": "true or false", "null": "none", "object": "a table"}
    return words.get(str(kind), "a value of its kind")


MAX_NESTING = 100
"""Tables, objects and lists within each other, of a document that is read."""
MAX_TOML_CHARACTERS = 2 << 20
"""Of a TOML file: its reader takes time and memory for what is longer."""

_LONG_NAME = re.compile(
    r"""(?:^|[{,\[])[ \t]*+(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+)""" + f"{{{MAX_NESTING}}}",
    re.ASCII | re.MULTILINE,
)
"""A name of very many parts, "a.b.c. ...": Python's reader takes memory by the square of their number."""


def json_value(text: str | bytes, **options: Any) -> Any:
    """What a JSON text holds; `options` are those of `json.loads`. Raises `ValueError` for what is none, and also for
    what is nested too deeply for its reader, which raises something else."""
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def toml_table(text: str, *, parse_float: Callable[[str], Any] = float) -> dict[str, Any]:
    """The table of a TOML text. Raises `ValueError` for what is none, and for what is so long, so deep, or has numbers
    or names so long that reading it would take memory without end."""
    if len(text) > MAX_TOML_CHARACTERS:
        raise ValueError(f"it has more than {MAX_TOML_CHARACTERS:,} characters")
    if _LONG_NAME.search(text):
        raise ValueError(f"a name has more than {MAX_NESTING} parts")
    try:
        table = tomllib.loads(text, parse_float=parse_float)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level: list[Any] = [table]
    for _ in range(MAX_NESTING):
        level = [inner for value in level for inner in (value.values() if isinstance(value, dict) else value)]
        level = [value for value in level if isinstance(value, dict | list)]
        if not level:
            return table
    raise ValueError(f"it is nested more than {MAX_NESTING} levels deep")


def json_text(value: Any, *, indent: int | None = None) -> str:
    """A result as one JSON document with a line break at its end; letters stay as they are, NaN becomes null."""
    return json.dumps(plain(value), ensure_ascii=False, allow_nan=False, indent=indent) + "\n"


def plain(value: Any) -> Any:
    """Dataclasses, models, arrays, times, decimals, enums and sets as JSON knows them; NaN and infinity become null.

    A dataclass field with the metadata "json" stands under that name, where the documents called it so before.
    """
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:  # most of a document
        return value
    if dataclasses.is_dataclass(kind):
        return {name: plain(getattr(value, field)) for name, field in _json_names(kind)}
    if isinstance(value, BaseModel):
        return {name: plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {str(plain(k)): plain(v) for k, v in value.items()}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, date):  # or a datetime
        return value.isoformat()
    if isinstance(value, Decimal | Path):
        return str(value)
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, str):
        return value
    if isinstance(value, set | frozenset):
        return sorted(plain(v) for v in value)
    if isinstance(value, Sequence):
        return [plain(v) for v in value]
    return plain(value.tolist()) if hasattr(value, "tolist") else value


@cache
def _json_names(kind: type[Any]) -> tuple[tuple[str, str], ...]:
    """Name in the document and name of the field, of each field of a dataclass."""
    return tuple((f.metadata.get("json", f.name), f.name) for f in dataclasses.fields(kind))


_FORMULA = re.compile(r"[\t\r\n]|[\s\u200b\ufeff]*[=+\-@＝＋－＠]")
"""The last four stand for the first in Chinese and Japanese spreadsheets."""


def guarded(cell: str | None) -> str:
    """Text that no spreadsheet takes for a formula: a quote stands before = + - @, full-width or behind spaces as well,
    and before a tab or a line break."""
    text = cell or ""
    return f"'{text}" if _FORMULA.match(text) else text


def write_csv(file: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A header and one line per row, in UTF-8.
    The caller passes text from outside through `guarded`."""
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def count_text(n: int, noun: str, plural: str = "") -> str:
    """A number with its noun, whose plural has an s where none is given: "1 person", "2,000 people", "0 texts"."""
    return f"{n:,} {noun if n == 1 else plural or f'{noun}s'}"
