"""Finds, checks and renders the files of `prompts/`: the only place that reads them.

A file `NAME.LOCALE.txt` holds one or more templates. Each begins with a header, which is a Jinja comment:

    {#
    template: item
    version: 1
    variables: title, category
    note: anything for the next reader
    #}
    {{ title }} ({{ category | join(", ") }})

The template's name is the file's NAME, or NAME.PART for one of several. The header lists the variables that the body
uses, and `render` must be given exactly those: None or an empty list says "not known", leaving one out is an error.
Templates can neither include files nor call into Python; values are data and are never read as a template.

Every template may also use `domain.WORD`, the words of the domain that speaks ("bought" in a shop, "watched" in a media
service), and a domain may reword a whole template: see `recllm.text.domains`.

`short_forms.LOCALE.txt` is the other kind of file: lines "FRZN = frozen", by which titles are read.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from recllm.base.errors import PromptError
from recllm.base.words.sentences import language
from recllm.text.domains import FOLDER, SHOP, Domain, domain_of, read_domain
from recllm.text.injection import neutralise

VALUE_CHARS = 2_000
"""The longest string inside a value given to `Prompts.render`; longer ones are cut at a word."""

_DOMAIN_WORD = re.compile(r"\bdomain\.(\w+)")
_HEADER = re.compile(r"^\{#\s*\n(?=template:)(.*?)\n\s*#\}[ \t]*\n", re.MULTILINE | re.DOTALL)
_DOMAIN = "domain"
"""What templates call the words of the domain that speaks."""
_FORBIDDEN = (jinja2.nodes.Include, jinja2.nodes.Import, jinja2.nodes.FromImport, jinja2.nodes.Extends)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Templates read what they are given and calculate a little: no helper is there that counts without end or leads
    elsewhere, and nothing is multiplied to a text as large as the memory."""

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.globals.clear()
        for name in ("center", "attr"):
            del self.filters[name]

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or not all(isinstance(value, int | float) for value in (left, right)):
            raise jinja2.TemplateRuntimeError(f"{operator} is for numbers, and no power")
        return super().call_binop(context, operator, left, right)


_ENVIRONMENT = _Sandbox(
    undefined=jinja2.StrictUndefined,
    autoescape=False,  # the output is plain text; a page that shows it escapes it
    trim_blocks=True,
    lstrip_blocks=True,
)


_COMMA = re.compile("[,，、;；]")


def quoted(title: str, marks: str) -> str:
    """A title between its domain's two quotation marks, or without any; Chinese ones inside of the same kind become
    single ones. One that holds a comma never stands without: "Cap, blue" might suit you."""
    if not marks and not _COMMA.search(title):
        return title
    if not marks:  # plain ones where they can be: a text message takes no others
        marks = '""' if title.isascii() and '"' not in title else "“”"
    if marks == "《》":
        title = title.removeprefix("《").removesuffix("》") if re.fullmatch("《[^《》]*》", title) else title
        title = title.replace("《", "〈").replace("》", "〉")
    return f"{marks[0]}{title}{marks[1]}"


_ENVIRONMENT.filters["quoted"] = quoted


@dataclass(frozen=True, eq=False)
class Template:
    """One template: what its header says, and its text, which is checked when it is first used."""

    name: str
    locale: str
    path: Path
    version: str
    """"NAME.LOCALE-vN-HASH", the hash over header and text: what to store with a text of this template."""
    variables: frozenset[str]
    source: str = field(repr=False)
    words: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The words of the domain that speaks."""

    @property
    def file(self) -> str:
        return self.path.name

    @cached_property
    def compiled(self) -> jinja2.Template:
        """Raises `PromptError` for a text that is no template, reaches beyond it, or uses what its header lacks."""
        try:
            tree = _ENVIRONMENT.parse(self.source)
            compiled = _ENVIRONMENT.from_string(self.source)
        except RecursionError as error:
            raise PromptError(f"{self.path}: {self.name} is nested too deeply") from error
        except jinja2.TemplateSyntaxError as error:
            raise PromptError(f"{self.path}: {self.name}, line {error.lineno} of its text: {error.message}") from error
        if next(tree.find_all(_FORBIDDEN), None) is not None:
            raise PromptError(f"{self.path}: {self.name} must not include, import or extend other files")
        used = jinja2.meta.find_undeclared_variables(tree) - {_DOMAIN}
        faults = []
        if unknown := sorted(domain_words(tree) - set(self.words)):
            faults.append(f"uses domain.{unknown[0]}, a word that no domain has")
        if used - self.variables:
            faults.append(f"uses {', '.join(sorted(used - self.variables))} without listing it")
        if faults:
            raise PromptError(f"{self.path}: {self.name} {' and '.join(faults)}; correct the text, or its header")
        return compiled

    def render(self, values: Mapping[str, Any]) -> str:
        """The text for values that are already harmless; stripped of surrounding white space."""
        missing, unknown = sorted(self.variables - set(values)), sorted(set(values) - self.variables)
        if missing:
            raise PromptError(f"{self.file}: {self.name} needs the variable {', '.join(missing)}; give None if unknown")
        if unknown:
            declared = ", ".join(sorted(self.variables)) or "none"
            raise PromptError(f"{self.file}: {self.name} has no variable {', '.join(unknown)}; it has: {declared}")
        try:
            return self.compiled.render({**values, _DOMAIN: self.words}).strip()
        except (
            jinja2.TemplateError,
            TypeError,
            ValueError,
            ArithmeticError,
            AttributeError,
            LookupError,
            MemoryError,
        ) as error:
            raise PromptError(f"{self.file}: {self.name} cannot be rendered: {error}") from error


@dataclass(frozen=True)
class Prompts:
    """All templates. Build it with `load`."""

    folder: str
    templates: Mapping[tuple[str, str], Template] = field(repr=False)
    short_forms: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Capital word -> what it stands for, of every language: catalogues mix them."""
    _reworded: dict[str, Mapping[tuple[str, str], Template]] = field(default_factory=dict, repr=False, compare=False)
    """The templates of each domain that spoke already."""

    @staticmethod
    @cache
    def load() -> Prompts:
        """The prompts that came with the package. They are checked when they are used, which spares a command .2 s; the
        tests check them all."""
        installed = resources.files("recllm") / "prompts"
        checkout = Path(__file__).resolve().parents[2] / "prompts"  # also of an editable install
        for folder in (installed, checkout):
            if folder.is_dir():
                return read_folder(Path(str(folder)))
        raise PromptError(f"the prompts are missing: neither {installed} nor {checkout} is a folder; reinstall recllm")

    def template(self, name: str, locale: str) -> Template:
        """The template called `name` in the language of `locale` ("zh", "zh-CN" and "zh_TW" are all Chinese)."""
        key = (name, language(locale))
        templates = self.of_domain(domain_of(locale))
        if key in templates:
            return templates[key]
        names = sorted(prompt for prompt, of_language in self.templates if of_language == key[1])
        if names:
            raise PromptError(f"no prompt {name} for locale {locale} in {self.folder}; there are: {', '.join(names)}")
        locales = ", ".join(sorted({of_language for _, of_language in self.templates}))
        raise PromptError(f"unknown locale {locale!r}; there are: {locales or 'none'}")

    def of_domain(self, domain: str) -> Mapping[tuple[str, str], Template]:
        """All templates as a domain words them.
        Raises `PromptError` for an unknown domain, or a fault in its file."""
        if domain == SHOP:
            return self.templates
        if domain not in self._reworded:
            self._reworded[domain] = self._as_worded_by(self.domain(domain))
        return self._reworded[domain]

    def domain(self, name: str) -> Domain:
        """One that came with these prompts, or that a workspace brought; raises `PromptError` where there is none."""
        if name in _BROUGHT:
            return _BROUGHT[name]
        return shipped_domain(self.folder, name)

    def _as_worded_by(self, domain: Domain) -> Mapping[tuple[str, str], Template]:
        reworded = {}
        for (name, locale), template in self.templates.items():
            path, body = domain.bodies[locale].get(name, (template.path, template.source))
            words = domain.words[locale]
            version = template.version.partition("-v")[2].partition("-")[0]
            reworded[name, locale] = replace(
                template,
                path=path,
                version=f"{name}.{locale}@{domain.name}-v{version}-{_digest(body, words)}",
                source=body,
                words=words,
            )
        for locale, bodies in domain.bodies.items():
            if unknown := sorted(name for name in bodies if (name, locale) not in reworded):
                raise PromptError(f"{domain.file}: [{locale}.templates] {unknown[0]} is the name of no template")
        return reworded

    def render(self, name: str, locale: str, /, **values: Any) -> str:
        """Fills one template; every string inside `values` is neutralised first and so stays on one line.

        Values are strings, numbers, booleans, None, and lists or mappings of these. Raises `PromptError` for an
        unknown template, a missing or unknown variable, or a value of another kind.
        """
        template = self.template(name, locale)
        return template.render({key: harmless_value(value, template, key) for key, value in values.items()})


_BROUGHT: dict[str, Domain] = {}
"""The domains that workspaces brought, by a name that only their words have: two shops may call theirs the same."""


def bring_domain(file: Path) -> str:
    """Makes a workspace's own domain known to this process; returns its name in locales. Raises `PromptError` for a
    faulty file: all that it rewords is checked at once."""
    prompts = Prompts.load()
    domain = read_domain(file, prompts.domain)
    name = f"{domain.name}-{domain.digest}"
    if name not in _BROUGHT:
        for template in prompts._as_worded_by(domain).values():
            if template.path == file:
                _ = template.compiled
        _BROUGHT[name] = domain
    return name


def domain_names() -> tuple[str, ...]:
    """The domains that come with the package."""
    return domains_in(Prompts.load().folder)


@cache
def domains_in(folder: str) -> tuple[str, ...]:
    return tuple(sorted(file.stem for file in (Path(folder) / FOLDER).glob("*.toml")))


@cache
def shipped_domain(folder: str, name: str) -> Domain:
    file, names = Path(folder) / FOLDER / f"{name}.toml", domains_in(folder)
    if name not in names:
        raise PromptError(f"there is no domain {name!r} in {file.parent}; there are: {', '.join(names) or 'none'}")
    return read_domain(file, lambda base: shipped_domain(folder, base))


def read_folder(folder: Path) -> Prompts:
    templates: dict[tuple[str, str], Template] = {}
    short_forms: dict[str, str] = {}
    words = shipped_domain(str(folder), SHOP).words
    for file in sorted(folder.glob("*.txt")):
        text, locale = file.read_text(encoding="utf-8"), file.stem.rpartition(".")[2]
        if file.stem.startswith("short_forms."):
            lines = (line.partition("#")[0].partition("=") for line in text.splitlines())
            short_forms |= {short.strip().upper(): long.strip() for short, equals, long in lines if equals}
        else:
            of_file = templates_of_file(file, locale, text, words[locale])
            templates |= {(template.name, locale): template for template in of_file}
    return Prompts(str(folder), templates, short_forms)


def templates_of_file(file: Path, locale: str, text: str, words: Mapping[str, str]) -> Iterator[Template]:
    headers = list(_HEADER.finditer(text))
    ends = [header.start() for header in headers[1:]] + [len(text)]
    for match, end in zip(headers, ends, strict=True):
        header, body = match[1], text[match.end() : end].strip("\n")
        fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in header.splitlines())}
        name, digest = fields["template"], _digest(f"{header}\n{body}", words)
        version = f"{name}.{locale}-v{fields['version']}-{digest}"
        variables = frozenset(v.strip() for v in fields["variables"].split(",") if v.strip())
        yield Template(name, locale, file, version, variables, body, words)


def _digest(text: str, words: Mapping[str, str]) -> str:
    """Of a template and of the domain's words in it."""
    used = "".join(f"\n{key}={words[key]}" for key in sorted(set(_DOMAIN_WORD.findall(text))) if key in words)
    return hashlib.sha256(f"{text}{used}".encode()).hexdigest()[:8]


def domain_words(tree: jinja2.nodes.Template) -> set[str]:
    """The words of a domain that a template uses; "" for any other use of them than by name."""
    by_name = [n for n in tree.find_all(jinja2.nodes.Getattr) if _is_domain(n.node)]
    others = sum(map(_is_domain, tree.find_all(jinja2.nodes.Name))) - len(by_name)
    return {node.attr for node in by_name} | ({""} if others else set())


def _is_domain(node: jinja2.nodes.Node) -> bool:
    return isinstance(node, jinja2.nodes.Name) and node.name == _DOMAIN


def harmless_value(value: Any, template: Template, variable: str) -> Any:
    if isinstance(value, str):
        return neutralise(value, max_chars=VALUE_CHARS)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {harmless_value(k, template, variable): harmless_value(v, template, variable) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [harmless_value(v, template, variable) for v in value]
    kind = type(value).__name__
    raise PromptError(f"{template.file}: {variable} is a {kind}; give text, numbers, lists or mappings of these")


_SMALL = re.compile(r"[a-zà-öø-ÿ]")
_SHOUTED_WORD = re.compile(r"[A-ZÀ-ÖØ-Þ]{4}")
_SHOUTED_AMOUNT = re.compile(r"\d\s?[A-Z]")
_WORD = re.compile(r"[A-Z]+")
_CJK = "\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uff60"
_CHINESE = re.compile(f"[{_CJK}]")
_CUT_WORDS = re.compile(rf"(?<=[{_CJK}])\s+(?=[{_CJK}0-9])|(?<=[0-9])\s+(?=[{_CJK}])")


@lru_cache(maxsize=1 << 16)  # catalogues repeat their categories and attributes
def clean(text: str, max_chars: int) -> str:
    return natural(neutralise(text, max_chars=max_chars), Prompts.load().short_forms)


def name_as_told(name: str, max_chars: int, locale: str) -> str:
    """The harmless name of an item or category: of goods as running text, of films and the like as it is written, since
    IMAX is no shouting."""
    is_of_goods = Prompts.load().domain(domain_of(locale)).titles == "goods"
    return clean(name, max_chars) if is_of_goods else neutralise(name, max_chars=max_chars)


def natural(text: str, short_forms: Mapping[str, str]) -> str:
    """`text` as running text. Idempotent. `short_forms`: capital word -> what it stands for.

    Decided without a measurement:

    * A text without a single small letter and without Chinese is put in small letters when it holds a word of four
      letters or more, or an amount ("22 LB"). Short codes such as "XL" or "TV" stay as they are. Only such texts have
      short forms written out.
    * A bracket that was opened and cut off by a field's length ("CANDY (INCLUDING") is dropped.
    * Chinese and Japanese texts that were cut into words are joined again: a space goes when both its neighbours are
      such characters, or one is and the other is a digit. Spaces next to Latin words stay ("Nike 男鞋").

    Brand names are never changed.
    """
    cut = text.find("(", text.rfind(")") + 1)
    text = (text[:cut].rstrip() or text) if cut >= 0 else text
    if not text.isascii():
        text = _CUT_WORDS.sub("", text)
    if (
        not _CHINESE.search(text)
        and not _SMALL.search(text)
        and (_SHOUTED_WORD.search(text) or _SHOUTED_AMOUNT.search(text))
    ):
        text = _WORD.sub(lambda m: short_forms.get(m[0], m[0]), text).lower()
    return text
