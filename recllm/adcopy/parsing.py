"""Parsed JSON and TOML as checked objects, with errors that name the field and say what it takes."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, TypeAdapter, ValidationError

from recllm.errors import DataError

T = TypeVar("T")


def _filled(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return text


FilledText = Annotated[str, AfterValidator(_filled)]
"""A text that is more than white space."""


def parse(model: type[T], values: Any, *, owner: str, prefix: str = "") -> T:
    """`values` as `model`, a pydantic class whose fields carry a description of what they take, such as "a number".

    owner: what the outermost object is called in messages. Raises `DataError` that begins with `prefix` for the first
    fault: a field that is missing, unknown or of another kind.
    """
    try:
        return TypeAdapter(model).validate_python(values)
    except ValidationError as error:
        raise DataError(prefix + _message(model, values, owner, error)) from None


def _message(model: Any, values: Any, owner: str, error: ValidationError) -> str:
    """The first fault in words, unknown and missing fields before others. Inside a list the list is named, inside an
    object the entry."""
    faults = error.errors(include_url=False)
    unknown = [f for f in faults if f["type"] in ("extra_forbidden", "unexpected_keyword_argument")]
    missing = sorted((f for f in faults if f["type"].startswith("missing")), key=lambda f: f["loc"])
    fault = [*unknown, *missing, *faults][0]
    location, kind = fault["loc"], fault["type"]
    fields, path, described, value = model.__pydantic_fields__, [], None, values
    for step in location:  # down to the last step that names a field
        if step not in fields or step not in value:
            break
        path.append(str(step))
        described, value = fields[step], value[step]
        nested = (described.annotation, *get_args(described.annotation))
        fields = next((a.__pydantic_fields__ for a in nested if hasattr(a, "__pydantic_fields__")), {})
    name = ".".join(str(step) for step in location)
    if unknown:
        return f"{'.'.join(path) or owner} has no field {location[-1]!r}; known: {', '.join(sorted(fields))}"
    if missing or (location and fault["input"] is None):
        return f"{name} is missing"
    if kind == "value_error" and not any(isinstance(step, int) for step in location[len(path) :]):
        return f"{name} {fault['ctx']['error']}".strip()
    return f"{'.'.join(path) or owner} is {described.description if described else 'an object'}, not {value!r}"
