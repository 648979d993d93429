"""Options that several commands share, and how a Python function becomes a command."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from recllm.documents import allows_none
from recllm.errors import UsageError
from recllm.settings import merged, sections

if TYPE_CHECKING:
    from recllm.workspace.audit import AuditAction
    from recllm.workspace.workspace import Workspace

WorkspaceDir = Annotated[Path, typer.Option("-w", "--workspace", help="The workspace folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Seed = Annotated[int, typer.Option(help="Seed of everything that is drawn.")]
Explain = Annotated[bool, typer.Option(help="Give reasons.")]
Csv = Annotated[Path | None, typer.Option(help="Also write the people to this CSV.")]
Ids = Annotated[Path | None, typer.Option(help="A file of your ids; they stand for their pseudonyms.")]
Model = Annotated[str | None, typer.Option(help="Another published version than the current one.")]
ReasonLocale = Annotated[str | None, typer.Option(help="Language of the reasons: en or zh.")]
User = Annotated[str, typer.Option("--user", "-u", help="The person's id.")]
Users = Annotated[list[str] | None, typer.Option("--user", "-u", help="A person's id; may be repeated.")]
UserFile = Annotated[Path | None, typer.Option("--users", help="A file with one id per line.")]
SetOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.FIELD=VALUE",
        help="A setting for this call, e.g. scorer.epochs=5; see recllm settings.",
    ),
]

DEFAULT_WORKSPACE = Path("shop")
DEFAULTS: Mapping[Any, Any] = {WorkspaceDir: DEFAULT_WORKSPACE, Json: False, Seed: 0, Explain: True}
"""What shared options hold unless given. Any other option that may be None is None where its command says nothing."""

_KEYWORD = inspect.Parameter.KEYWORD_ONLY


def open_shop(workspace: Path) -> Workspace:
    """The workspace of `-w`, a stopped rotation of its key finished first. What it needs is imported only here, so that
    help is instant."""
    from recllm.workspace.workspace import Workspace, is_being_rotated

    if is_being_rotated(workspace):
        from recllm.privacy.rotation import resume_rotation

        return resume_rotation(workspace)
    return Workspace.open(workspace)


def write_audit(shop: Workspace, action: AuditAction, /, *, subject: str | None = None, **details: Any) -> None:
    """Notes in the workspace's audit log what the person at this command line did."""
    from recllm.workspace.audit import audit, command_line_actor

    audit(shop, command_line_actor(), action, subject=subject, **details)


def read_ids(file: Path | None) -> list[str]:
    """One id per line, in UTF-8; blank lines are skipped, and no file has none.

    Raises `UsageError` when the file cannot be read.
    """
    if file is None:
        return []
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: cannot be read as a list of ids, one per line: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def read_user_ids(user: list[str] | None, users: Path | None) -> list[str]:
    """The ids of `--user` and `--users`; raises `UsageError` when there are none."""
    user_ids = [*(user or []), *read_ids(users)]
    if not user_ids:
        raise UsageError("nobody was asked for: give --user ID, or --users FILE with one id per line")
    return user_ids


def ids_by_pseudonym(shop: Workspace, file: Path | None) -> dict[str, str]:
    """What stands for its pseudonym in an answer: the ids of `--ids`."""
    user_ids = read_ids(file)
    return dict(zip(shop.pseudonymiser().many(user_ids), user_ids, strict=True))


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


def add_command(app: typer.Typer, function: Callable[..., Any], name: str | None = None) -> None:
    """Add a function as typer is to see it: a parameter that is a dataclass becomes one option per field, options have
    their `DEFAULTS`, and a command that opens a workspace takes --set as well."""
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
        parameters.append(inspect.Parameter("options", _KEYWORD, annotation=SetOptions))

    @functools.wraps(function)
    def command(**values: Any) -> Any:
        for group_name, group in groups.items():
            values[group_name] = group(**{field.name: values.pop(field.name) for field in dataclasses.fields(group)})
        options = values.pop("options") if takes_set else None
        if not options:
            return function(**values)
        from recllm.workspace.workspace import overridden

        with overridden(read_settings(options)):
            return function(**values)

    keyword_only = [_with_default(parameter).replace(kind=_KEYWORD) for parameter in parameters]
    command.__signature__ = signature.replace(parameters=keyword_only)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in keyword_only}
    app.command(name, cls=GroupedCommand)(command)


def _with_default(parameter: inspect.Parameter) -> inspect.Parameter:
    if parameter.default is not parameter.empty:
        return parameter
    if parameter.annotation in DEFAULTS:
        return parameter.replace(default=DEFAULTS[parameter.annotation])
    return parameter.replace(default=None) if allows_none(parameter.annotation.__origin__) else parameter


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


def read_pairs(options: Sequence[str] | None, flag: str) -> dict[str, str]:
    """Options such as "tz=UTC" by name. Raises `UsageError` for one without a name or a value."""
    pairs = dict(option.partition("=")[::2] for option in options or ())
    if "" in pairs or "" in pairs.values():
        raise UsageError(f"{flag} takes NAME=VALUE, not {' '.join(options or ())!r}")
    return pairs


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
