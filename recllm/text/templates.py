"""Finds, checks and renders the files of `prompts/`: the only place that reads them.

A file `NAME.LOCALE.txt` holds one or more templates. Each begins with a header, which is a Jinja comment:

    {#
    template: item
    version: 1
    variables: title, category
    note: anything for the next reader
    #}
    {{ title }} ({{ category | join(", ") }})

The template's name is the file's NAME, or NAME.PART for one of several. The header must list exactly the variables
that the body uses, and `render` must be given exactly those: None or an empty list says "not known", leaving one out
is an error. Templates can neither include files nor call into Python; values are data and are never read as a template.

`short_forms.LOCALE.txt` is the one other kind of file: lines "FRZN = frozen", and comments after "#".
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from recllm.errors import PromptError
from recllm.text.injection import neutralise

LOCALES = ("en", "zh")

VALUE_CHARS = 2_000
"""The longest string inside a value given to `Prompts.render`; longer ones are cut at a word."""

SHORT_FORMS = "short_forms."

_HEADER = re.compile(r"^\{#\s*\n(?=template:)(.*?)\n\s*#\}[ \t]*\n", re.MULTILINE | re.DOTALL)
_KEYS = {"template", "version", "variables", "note"}
_FORBIDDEN = (jinja2.nodes.Include, jinja2.nodes.Import, jinja2.nodes.FromImport, jinja2.nodes.Extends)


@dataclass(frozen=True, eq=False)
class Template:
    """One checked template. `version` is "NAME.LOCALE-vN-HASH", the hash over its header and body."""

    name: str
    locale: str
    file: str
    version: str
    variables: frozenset[str]
    body: str = field(repr=False)
    environment: jinja2.Environment = field(repr=False)

    @cached_property
    def compiled(self) -> jinja2.Template:
        """The body, checked and compiled when it is first used: an answer needs few of all templates.

        Raises `PromptError` for a faulty body.
        """
        try:
            tree = self.environment.parse(self.body)
            if next(tree.find_all(_FORBIDDEN), None) is not None:
                raise PromptError(f"{self.file}: {self.name} must not include, import or extend other files")
            _check_variables(self.file, self.name, self.variables, jinja2.meta.find_undeclared_variables(tree))
            return self.environment.from_string(tree)
        except jinja2.TemplateSyntaxError as error:
            line = f"line {error.lineno} of its text"
            raise PromptError(f"{self.file}: {self.name}, {line}: {error.message}") from error

    def render(self, values: Mapping[str, Any]) -> str:
        """The text for values that are already harmless; stripped of surrounding white space."""
        self._require(values)
        try:
            return self.compiled.render(values).strip()
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
            raise PromptError(f"{self.file}: {self.name} cannot be rendered: {error}") from error

    def _require(self, values: Iterable[str]) -> None:
        given = set(values)
        missing, unknown = sorted(self.variables - given), sorted(given - self.variables)
        if missing:
            raise PromptError(f"{self.file}: {self.name} needs the variable {', '.join(missing)}; give None if unknown")
        if unknown:
            declared = ", ".join(sorted(self.variables)) or "none"
            raise PromptError(f"{self.file}: {self.name} has no variable {', '.join(unknown)}; it has: {declared}")


@dataclass(frozen=True)
class Prompts:
    """All templates of one folder, checked. Build it with `load`."""

    folder: str
    templates: Mapping[tuple[str, str], Template] = field(repr=False)
    words: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)
    """Short forms per language."""

    @classmethod
    def load(cls, folder: str | Path | None = None) -> Prompts:
        """Reads `folder`, or else the prompts that came with the package.

        Raises `PromptError` on a faulty file of a folder; the package's own are checked as they are used.
        """
        if folder is None:
            return _load_own()
        prompts = _load(Path(folder))
        for template in prompts.templates.values():
            _ = template.compiled
        return prompts

    def template(self, name: str, locale: str) -> Template:
        """The template called `name` in the language of `locale` ("zh", "zh-CN" and "zh_TW" are all Chinese)."""
        key = (name, language(locale))
        if key in self.templates:
            return self.templates[key]
        known = ", ".join(sorted({f"{n}.{lang}" for n, lang in self.templates}))
        raise PromptError(f"no prompt {name} for locale {locale} in {self.folder}; there are: {known or 'none'}")

    def render(self, name: str, locale: str, /, **values: Any) -> str:
        """Fills one template; every string inside `values` is neutralised first and so stays on one line.

        Values are strings, numbers, booleans, None, and lists or mappings of these. Raises `PromptError` for an
        unknown template, a missing or unknown variable, or a value of another kind.
        """
        template = self.template(name, locale)
        return template.render({key: _harmless(value, template, key) for key, value in values.items()})

    def version(self, name: str, locale: str) -> str:
        """What to store beside a text made with this template: it changes whenever the template does."""
        return self.template(name, locale).version

    def short_forms(self) -> dict[str, str]:
        """Capital word -> what it stands for, of every language: catalogues mix them."""
        return {short: long for language in self.words.values() for short, long in language.items()}

    def names(self) -> tuple[str, ...]:
        """All template names, sorted."""
        return tuple(sorted({name for name, _ in self.templates}))


def language(locale: str) -> str:
    """ "zh-Hans-CN" -> "zh"."""
    return re.split(r"[-_]", locale.strip(), maxsplit=1)[0].lower()


@cache
def _load_own() -> Prompts:
    installed = resources.files("recllm") / "prompts"
    beside = Path(__file__).resolve().parents[2] / "prompts"  # a checkout, or an editable install
    for place in (installed, beside):
        if place.is_dir():
            return _load(Path(str(place)))
    raise PromptError(f"the prompts are missing: neither {installed} nor {beside} is a folder; reinstall recllm")


def _load(folder: Path) -> Prompts:
    if not folder.is_dir():
        raise PromptError(f"{folder}: no such folder of prompts")
    environment = _environment()
    found: dict[tuple[str, str], Template] = {}
    words: dict[str, Mapping[str, str]] = {}
    for file in sorted(folder.glob("*.txt")):
        if file.name.startswith(SHORT_FORMS):
            words[_split(file)[1]] = _short_forms(file)
            continue
        for template in _parse(file, environment):
            key = (template.name, template.locale)
            if key in found:
                raise PromptError(f"{file}: {template.name} is already defined in {found[key].file}")
            found[key] = template
    return Prompts(str(folder), found, words)


def _environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # the output is plain text; whoever shows it in a page escapes it there
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"{file}: cannot be read as UTF-8: {error}") from error


def _split(file: Path) -> tuple[str, str]:
    """NAME.LOCALE.txt -> (NAME, LOCALE)."""
    name, _, locale = file.stem.rpartition(".")
    if not name:
        raise PromptError(f"{file}: a prompt is called NAME.LOCALE.txt, such as item.en.txt")
    return name, locale


def _short_forms(file: Path) -> dict[str, str]:
    found = {}
    for number, line in enumerate(_read(file).splitlines(), 1):
        entry = line.partition("#")[0].strip()
        short, equals, long = (part.strip() for part in entry.partition("="))
        if entry and not (short and equals and long):
            raise PromptError(f"{file}, line {number}: {line!r} is not of the form FRZN = frozen")
        if entry:
            found[short.upper()] = long
    return found


def _parse(file: Path, environment: jinja2.Environment) -> Iterator[Template]:
    text, (stem, locale) = _read(file), _split(file)
    headers = list(_HEADER.finditer(text))
    if not headers or text[: headers[0].start()].strip():
        raise PromptError(
            f"{file}: must begin with a header: {{#, then lines template:, version:, variables:, then #}}"
        )
    ends = [h.start() for h in headers[1:]] + [len(text)]
    for header, end in zip(headers, ends, strict=True):
        yield _compile(file, stem, locale, header[1], text[header.end() : end].strip("\n"), environment)


def _compile(file: Path, stem: str, locale: str, header: str, body: str, environment: jinja2.Environment) -> Template:
    fields = _fields(file, header)
    name = fields["template"]
    if name != stem and not name.startswith(stem + "."):
        raise PromptError(f"{file}: template {name} must be called {stem} or {stem}.PART")
    declared = frozenset(v.strip() for v in fields["variables"].split(",") if v.strip())
    digest = hashlib.sha256(f"{header}\n{body}".encode()).hexdigest()[:8]
    version = f"{name}.{locale}-v{fields['version']}-{digest}"
    return Template(name, locale, file.name, version, declared, body, environment)


def _fields(file: Path, header: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in header.splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() in _KEYS:
            fields[key.strip()] = value.strip()
        elif "note" not in fields:  # a note may run over several lines
            raise PromptError(f"{file}: header line {line.strip()!r}; known keys: {', '.join(sorted(_KEYS))}")
    missing = _KEYS - {"note"} - fields.keys()
    if missing:
        raise PromptError(f"{file}: the header lacks {', '.join(sorted(missing))}")
    return fields


def _check_variables(file: str, name: str, declared: frozenset[str], used: set[str]) -> None:
    if declared == used:
        return
    only_used, only_declared = sorted(used - declared), sorted(declared - used)
    detail = f"uses {', '.join(only_used)} without listing it" if only_used else ""
    if only_declared:
        detail += (" and " if detail else "") + f"lists {', '.join(only_declared)} without using it"
    raise PromptError(f"{file}: {name} {detail}; correct the header's variables")


def _harmless(value: Any, template: Template, variable: str) -> Any:
    if isinstance(value, str):
        return neutralise(value, max_chars=VALUE_CHARS)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {_harmless(k, template, variable): _harmless(v, template, variable) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_harmless(v, template, variable) for v in value]
    kind = type(value).__name__
    raise PromptError(f"{template.file}: {variable} is a {kind}; give text, numbers, lists or mappings of these")
