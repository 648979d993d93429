"""Options that several commands share, and how a Python function becomes a command."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from recllm.documents import allows_none
from recllm.errors import UsageError
from recllm.settings import merged, sections

WorkspaceDir = Annotated[Path, typer.Option("-w", "--workspace", help="The workspace folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Seed = Annotated[int, typer.Option(help="Seed of everything that is drawn.")]
SetOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.FIELD=VALUE",
        help="A setting for this call, e.g. scorer.epochs=5; see recllm settings.",
    ),
]
DEFAULT_WORKSPACE = Path("shop")

_KEYWORD = inspect.Parameter.KEYWORD_ONLY


class GroupedCommand(TyperCommand):
    """A command whose help lists its options under the headings of their `rich_help_panel`."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
                groups.setdefault(getattr(parameter, "rich_help_panel", None) or kind, []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def as_command(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as typer is to see it: a parameter that is a dataclass becomes one option per field, and a command
    that opens a workspace takes --set as well."""
    signature = inspect.signature(function, eval_str=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    for parameter in signature.parameters.values():
        if dataclasses.is_dataclass(parameter.annotation):
            groups[parameter.name] = parameter.annotation
            parameters += inspect.signature(groups[parameter.name], eval_str=True).parameters.values()
        else:
            parameters.append(parameter)
    takes_set = "workspace" in signature.parameters and "options" not in signature.parameters
    if takes_set:
        parameters.append(inspect.Parameter("options", _KEYWORD, default=None, annotation=SetOptions))

    @functools.wraps(function)
    def command(*, options: Sequence[str] | None = None, **values: Any) -> Any:
        if not takes_set:
            values |= {"options": options} if "options" in signature.parameters else {}
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in dataclasses.fields(group)})
        if not options or not takes_set:
            return function(**values)
        from recllm.workspace.workspace import overridden

        with overridden(read_settings(options)):
            return function(**values)

    keyword_only = [p.replace(kind=_KEYWORD) for p in parameters]
    command.__signature__ = signature.replace(parameters=keyword_only)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in keyword_only}
    return command


def read_settings(options: Sequence[str]) -> dict[str, Any]:
    """Options such as "scorer.epochs=5" and "currency=EUR" as the table that `workspace.toml` would hold.

    A value is read as TOML; a text needs no quotes, and a list may be written with commas alone. Raises `UsageError`
    for what is no option; names and values are checked where the settings are made.
    """
    table: dict[str, Any] = {}
    for option in options:
        path, equals, text = option.partition("=")
        section, dot, name = path.strip().rpartition(".")
        if not equals or not name:
            raise UsageError(f"--set takes section.field=value, such as scorer.epochs=5, not {option!r}")
        model = sections().get(section)
        field = model.model_fields.get(name) if model else None
        value = _read_value(field.annotation if field else None, text.strip())
        table = merged(table, {section: {name: value}} if dot else {name: value})
    return table


def _read_value(annotation: Any, text: str) -> Any:
    if text == "none" and allows_none(annotation):
        return None
    kind = str(annotation)
    if kind.startswith(("tuple[", "frozenset[")) and not text.startswith("["):
        return [_read_one(kind, part.strip()) for part in text.split(",") if part.strip()]
    return _read_one(kind, text)


def _read_one(kind: str, text: str) -> Any:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    is_text = re.search(r"\bstr\b", kind) is not None  # "123" may be a tenant
    return text if is_text and not isinstance(value, str | list) else value


def register_commands(app: typer.Typer) -> None:
    """Turn every registered function of an app, and of the apps below it, into its command."""
    for info in app.registered_commands:
        if info.callback is not None:
            info.callback, info.cls = as_command(info.callback), GroupedCommand
    for group in app.registered_groups:
        if group.typer_instance is not None:
            register_commands(group.typer_instance)
