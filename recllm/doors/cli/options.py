"""Options that commands share, what a command answers, and how a Python function becomes a command."""

from __future__ import annotations

import functools
import inspect
import itertools
import re
import sys
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel, Field
from pydantic_core import PydanticUndefined

from recllm.base.documents import Question, allows_none, guarded, json_text, plain, write_csv
from recllm.base.errors import UsageError
from recllm.base.settings import merged, sections

WorkspaceDir = Annotated[Path, typer.Option("-w", "--workspace", help="The workspace folder.")]
if TYPE_CHECKING:
    from recllm.shop.workspace.workspace import Workspace

    Shop = Workspace
else:
    Shop = WorkspaceDir
    """The opened workspace of the option -w."""
AnyWorkspace = Annotated[Path | None, typer.Option("-w", "--workspace", help="The workspace folder, if there is one.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Seed = Annotated[int, typer.Option(help="Random seed.")]
Csv = Annotated[Path | None, typer.Option(help="Also write the people to this CSV.")]
Ids = Annotated[Path | None, typer.Option(help="A file of your ids, which replace their pseudonyms.")]
User = Annotated[str, typer.Option("--user", "-u", help="The person's id.")]
Users = Annotated[
    list[str] | None,
    typer.Option("--user", "-u", help="A person's id, or @FILE with one id per line; may be repeated."),
]
SetOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.FIELD=VALUE",
        help="A setting for this call, e.g. scorer.epochs=5; see recllm settings.",
    ),
]

DEFAULT_WORKSPACE = Path("shop")
DEFAULTS: Mapping[Any, Any] = {WorkspaceDir: DEFAULT_WORKSPACE, Json: False, Seed: 0}
"""Defaults of shared options. Any other option that may be None is None by default."""

_KEYWORD = inspect.Parameter.KEYWORD_ONLY


class Answering(Question):
    """By which model, and in which language."""

    locale: str | None = None
    """Language of the reasons and texts: en or zh."""
    model: str | None = None
    """Another published version than the current one."""


class Batching(Question):
    """How the shards of --everybody are worked on."""

    shards: Annotated[int, Field(ge=1)] = 16
    """Parts that people or items are divided into; memory is that of one."""
    workers: Annotated[int, Field(ge=1)] = 1
    """Processes at once; with 1 the command's own."""
    seed: int = 0
    """Random seed."""


def stated_options(question: Question) -> dict[str, Any]:
    """The fields that were given, but for the model and how shards are worked on."""
    return {name: getattr(question, name) for name in question.model_fields_set - {"model", *Batching.model_fields}}


def open_shop(workspace: Path) -> Workspace:
    """The workspace of `-w`; a stopped rotation of its key is finished first.
    Imports here keep help instant."""
    from recllm.shop.workspace.workspace import Workspace, is_being_rotated

    if is_being_rotated(workspace):
        from recllm.doors.privacy.rotation import resume_rotation

        return resume_rotation(workspace)
    return Workspace.open(workspace)


def write_audit(shop: Workspace, action: str, /, *, subject: str | None = None, **details: Any) -> None:
    """Notes in the workspace's audit log what the user of this command line did. action: an `AuditAction`."""
    from recllm.shop.workspace.audit import AuditAction, audit, command_line_actor

    audit(shop, command_line_actor(), AuditAction(action), subject=subject, **details)


def read_ids(file: Path | None) -> list[str]:
    """One id per line, in UTF-8; blank lines are skipped.
    Raises `UsageError` for an unreadable file."""
    if file is None:
        return []
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: cannot be read as a list of ids, one per line: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def read_user_ids(user: list[str] | None) -> list[str]:
    """The ids of `--user`, those of its files too; raises `UsageError` when there are none."""
    lists = [read_ids(Path(name[1:])) if name.startswith("@") else [name] for name in user or ()]
    user_ids = list(itertools.chain.from_iterable(lists))
    if not user_ids:
        raise UsageError("no user is named; give --user ID, or --user @FILE with one id per line")
    return user_ids


def ids_by_pseudonym(shop: Workspace, file: Path | None) -> dict[str, str]:
    """Pseudonym -> the id of `--ids` that replaces it in an answer."""
    user_ids = read_ids(file)
    return dict(zip(shop.pseudonymiser().many(user_ids), user_ids, strict=True))


@dataclass(frozen=True)
class Options:
    """The fields of a question that are options of their own; the others are given by --with."""

    names: tuple[str, ...]
    others: bool = True
    """Whether there is --with."""


FLAGS: Mapping[str, tuple[str, ...]] = {
    "k": ("--k", "-k"),
    "items": ("--item", "-i"),
    "item_id": ("--item", "-i"),
    "horizon_days": ("--horizon",),
    "user": ("--user", "-u"),
}
"""Options with another name than their field."""


@dataclass(frozen=True)
class Answer:
    """What a command answers."""

    document: Any
    """With --json, as one JSON document."""
    lines: Iterable[str] = ()
    """Without --json, for people; empty for the lines of the document."""
    notes: Iterable[str] = ()
    """Behind the lines, on standard error."""
    problem: Exception | None = None
    """How the command ends after all, behind its answer."""


def as_command(function: Callable[..., Answer | None]) -> Callable[..., None]:
    """A function as typer sees it: fields of `Options` as options, `DEFAULTS`, an opened workspace for `shop`, and
    --set for workspaces. What returns an `Answer` has --json."""
    signature = inspect.signature(function, eval_str=True)
    parameters: list[inspect.Parameter] = []
    questions: dict[str, tuple[type[BaseModel], Options]] = {}
    for parameter in signature.parameters.values():
        metadata = getattr(parameter.annotation, "__metadata__", ())
        if metadata and isinstance(metadata[0], Options):
            questions[parameter.name] = parameter.annotation.__origin__, metadata[0]
            parameters += question_options(*questions[parameter.name], signature.parameters.keys())
        else:
            parameters.append(parameter.replace(name="workspace") if parameter.name == "shop" else parameter)
    takes_set = "workspace" in {p.name for p in parameters} and "options" not in signature.parameters
    if takes_set:
        parameters.append(inspect.Parameter("options", _KEYWORD, annotation=SetOptions))
    answers = "Answer" in str(signature.return_annotation)
    if answers and "json" not in signature.parameters:
        parameters.append(inspect.Parameter("json", _KEYWORD, annotation=Json))

    @functools.wraps(function)
    def command(**values: Any) -> None:
        json = bool(values["json"] if "json" in signature.parameters else values.pop("json", False))
        for question_name, (question, fields) in questions.items():
            given_options = {name: values.pop(name) for name in fields.names}
            stated = {name: value for name, value in given_options.items() if value not in (None, [])}
            for name, text in read_pairs(values.pop("others", None), "--with").items():
                stated[name] = field_value(question, name, text, signature.parameters.keys())
            values[question_name] = question(**stated)
        with ExitStack() as stack:
            if takes_set and (options := values.pop("options")):
                from recllm.shop.workspace.workspace import overridden

                stack.enter_context(overridden(read_settings(options)))
            if "shop" in signature.parameters:
                values["shop"] = stack.enter_context(open_shop(values.pop("workspace")))
            answer = function(**values)
        if answer is not None:
            show(answer, json=json)

    keyword_only = [_with_default(parameter).replace(kind=_KEYWORD) for parameter in parameters]
    command.__signature__ = signature.replace(parameters=keyword_only, return_annotation=None)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in keyword_only}
    return command


def question_options(question: type[BaseModel], fields: Options, excluded: Collection[str]) -> list[inspect.Parameter]:
    """A parameter for each named field, and one for all others but those that are `excluded`."""
    parameters = []
    for name in fields.names:
        field = question.model_fields[name]
        text = " ".join((field.description or "").split())
        if field.default not in (None, (), PydanticUndefined):
            default = ("" if field.default else "no-") + name if isinstance(field.default, bool) else field.default
            text += f" [default: {default}]"
        option = typer.Option(*FLAGS.get(name, ()), help=text)
        annotation: Any = Annotated[option_type(field.annotation), option]
        parameters.append(inspect.Parameter(name, _KEYWORD, annotation=annotation, default=None))
    if not fields.others:
        return parameters
    others = sorted(question.model_fields.keys() - {*fields.names, *excluded})
    with_option = typer.Option(
        "--with",
        metavar="NAME=VALUE",
        help=f"More rarely asked: {', '.join(others)}. Ids with commas, or @FILE. May be repeated.",
    )
    annotation = Annotated[list[str] | None, with_option]
    return [*parameters, inspect.Parameter("others", _KEYWORD, annotation=annotation, default=None)]


def option_type(annotation: Any) -> Any:
    """How typer reads a field of this type: ids may be repeated, and all may be left out."""
    if any("tuple[str" in str(kind) for kind in (annotation, *getattr(annotation, "__args__", ()))):
        return list[str] | None
    kinds = [kind for kind in getattr(annotation, "__args__", (annotation,)) if kind is not type(None)]
    kind = getattr(kinds[0], "__origin__", kinds[0])
    return (kind if isinstance(kind, type) else str) | None


def field_value(question: type[BaseModel], name: str, text: str, excluded: Collection[str]) -> Any:
    """The value of --with. Raises `UsageError` for a name that the question does not have."""
    names = question.model_fields.keys() - excluded
    if name not in names:
        raise UsageError(f"--with {name}: no such field; known: {', '.join(sorted(names))}")
    if option_type(question.model_fields[name].annotation) != list[str] | None:
        return text
    return read_ids(Path(text[1:])) if text.startswith("@") else text.split(",")


def _with_default(parameter: inspect.Parameter) -> inspect.Parameter:
    if parameter.default is not parameter.empty or parameter.annotation is typer.Context:
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
    """Options such as "tz=UTC" by name, several with commas.
    Raises `UsageError` for one without a name or a value."""
    texts = [text for option in options or () for text in re.split(r",(?=\w+=)", option)]
    pairs = dict(text.partition("=")[::2] for text in texts)
    if "" in pairs or "" in pairs.values():
        raise UsageError(f"{flag} takes NAME=VALUE, not {' '.join(options or ())!r}")
    return pairs


def _read_value(annotation: Any, text: str) -> Any:
    if text == "none" and allows_none(annotation):
        return None
    kind = str(annotation)
    if kind.startswith(("tuple[", "frozenset[")) and not text.startswith("["):
        return [_read_one(kind, entry.strip()) for entry in text.split(",") if entry.strip()]
    return _read_one(kind, text)


def _read_one(kind: str, text: str) -> Any:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    is_text = re.search(r"\bstr\b", kind) is not None  # "123" may be a tenant
    return text if is_text and not isinstance(value, str | list) else value


def show(answer: Answer, *, json: bool) -> None:
    """Prints an answer: one JSON document, or lines for people, on standard output; remarks on standard error.

    Raises its problem afterwards.
    """
    if json:
        sys.stdout.write(json_text(answer.document))
    else:
        for line in answer.lines or document_lines(plain(answer.document)):
            sys.stdout.write(f"{line}\n")
        for line in answer.notes:
            note(line)
    if answer.problem is not None:
        raise answer.problem


def note(line: str) -> None:
    """A remark on standard error."""
    sys.stderr.write(f"{line}\n")


MAX_LISTED = 20
"""People on a screen; a file or --json holds all."""


def document_lines(document: Any) -> Iterator[str]:
    """A JSON document for the eye: names with their values, and lists of records as tables; `MAX_LISTED` people."""
    if isinstance(document, list):
        yield from itertools.chain.from_iterable(map(document_lines, document))
        return
    for name, value in document.items():
        label = name.replace("_", " ")
        if isinstance(value, list) and value and isinstance(value[0], dict):
            listed = value[:MAX_LISTED] if name == "people" else value
            header = list(dict.fromkeys(itertools.chain.from_iterable(listed)))
            rows = (map(entry.get, header) for entry in listed)
            yield label
            yield from (f"  {line}" for line in table(rows, header))
            if n_more := len(value) - len(listed):
                yield f"  ... and {n_more:,} more; --csv FILE or --json gives all"
        elif isinstance(value, dict) and value and "low" not in value:
            yield label
            yield from (f"  {line}" for line in document_lines(value))
        elif value not in (None, "", [], {}):
            if name == "rate" and isinstance(value, dict):
                value = {end: f"{100 * share:.1f}%" for end, share in value.items()}
            yield f"{label}: {_cell(value)}"


def table(rows: Iterable[Iterable[Any]], header: Sequence[str]) -> list[str]:
    """Aligned text columns; numbers to the right. No line where there are no rows."""
    entries = [list(row) for row in rows]
    if not entries:
        return []
    lines = [list(header), *([_cell(value) for value in row] for row in entries)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    formats = [
        f"{{:{'>' if all(isinstance(value, int | float) for value in column) else '<'}{width}}}"
        for column, width in zip(zip(*entries, strict=True), widths, strict=True)
    ]
    aligned = "  ".join(formats)
    return [aligned.format(*row).rstrip() for row in lines]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1_000 else f"{value:,.2f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list):
        return "; ".join(map(_cell, value))
    if isinstance(value, dict) and value.keys() == {"value", "low", "high"}:
        return f"{_cell(value['value'])} ({_cell(value['low'])} to {_cell(value['high'])})"
    if isinstance(value, dict) and "text" in value:
        return str(value["text"])
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(inner)}" for name, inner in value.items())
    return "-" if value is None else str(value)


def write_people(file: Path | None, people: Sequence[Mapping[str, Any]]) -> None:
    """The people of a document as the CSV of --csv: a column for each field, reasons as their texts."""
    if file is None:
        return

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.6f}"
        if isinstance(value, list):
            value = " | ".join(map(_cell, value))
        return guarded("" if value is None else str(value))

    write_csv(file, list(people[0]) if people else [], ([cell(v) for v in person.values()] for person in people))
