"""What is laid down for texts besides the facts: rule packs, and the words that a shop's people approved.

A rule pack is what a law says about advertisements, as data with a citation for every rule. A rule finds phrases; it
is met when its `evidence` is there. An error keeps a text back, a warning asks for a person's eyes. The packs help a
reviewer; they are not legal advice. The shipped ones lie in `data/packs/`, a shop's own can be read from any TOML file
of the same form, with the fields of `Rule`.

The words beyond the facts that may stand in texts are a file of the workspace that only grows. Each addition is a
version of it, with who approved the words and when:

    add_words(workspace.root, ["toasty", "外脆里嫩"], by="Ana", at=datetime.now(UTC))
    approved_words(workspace.root)     # frozenset({"toasty", "外脆里嫩"})
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache, cached_property
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from recllm.base.documents import NOT_EMPTY, fault_in_words, json_value, plain, toml_table
from recllm.base.errors import DataError, UsageError
from recllm.base.files import lock_file, write_whole
from recllm.market.adcopy.lexicon import Family, fold, folded_pattern, phrase_pattern, phrase_patterns, read

T = TypeVar("T")
_LONGEST_EXCERPT = 200  # characters of a wrong value

FilledText = Annotated[str, StringConstraints(pattern=NOT_EMPTY)]
"""A text that is more than white space."""
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def parse(model: type[T], values: Any, *, owner: str, prefix: str = "") -> T:
    """`values` as `model`, a pydantic class.

    owner: what the outermost object is called in messages. Raises `DataError` that begins with `prefix` for the first
    fault, unknown and missing fields before others.
    """
    try:
        return TypeAdapter(model).validate_python(values)
    except ValidationError as error:
        faults, first = error.errors(include_url=False), (*_UNKNOWN, "missing")
        fault = min(faults, key=lambda f: first.index(f["type"]) if f["type"] in first else len(first))
        raise DataError(prefix + _in_words(fault, model, owner)) from None


def _in_words(fault: ErrorDetails, model: Any, owner: str) -> str:
    steps, value = [str(step)[:_LONGEST_EXCERPT] for step in fault["loc"]], fault["input"]
    path = ".".join(steps)
    if fault["type"] in _UNKNOWN:
        fields = model.__pydantic_fields__
        for step in steps[:-1]:
            annotation = fields[step].annotation if step in fields else None
            nested = (annotation, *get_args(annotation))
            fields = next((a.__pydantic_fields__ for a in nested if hasattr(a, "__pydantic_fields__")), {})
        names = ", ".join(sorted(fields))
        return f"{'.'.join(steps[:-1]) or owner} has no field {steps[-1]!r}; known: {names}"
    if fault["type"] == "missing" or (steps and value is None):
        return f"{path} is missing"
    if fault["type"] == "value_error":
        return f"{path} {fault['ctx']['error']}".strip()
    return f"{path or owner} {fault_in_words(fault, quoted=False)}, not {repr(value)[:_LONGEST_EXCERPT]}"


_UNBOUNDED = re.compile(r"(?<!\\)(?:\\\\)*[*+](?!\])|\{\d+,\}")


class Rule(BaseModel):
    """One rule of a pack, as it stands in a file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: FilledText
    guarantee: str
    """The guarantee that a text breaks which breaks this rule."""
    severity: Literal["error", "warning"]
    citation: FilledText
    evidence: FilledText
    """What allows the phrases: a key of the caller's evidence, "list_price" (the item has one), "offer.end" (an offer
    with an end runs), or "never"."""
    reviewed: date
    message: FilledText
    demands: FilledText = ""
    """A statement that meets the rule when it stands in the text; empty where there is none."""
    languages: Annotated[tuple[Literal["en", "zh"], ...], Field(min_length=1)]
    countries: tuple[FilledText, ...] = ()
    """Two capitals each: where the law holds, for a rule that asks nothing elsewhere; empty for everywhere."""
    phrases: tuple[FilledText, ...] = ()
    patterns: tuple[FilledText, ...] = ()
    exceptions: tuple[FilledText, ...] = Field((), alias="not")
    hit: tuple[FilledText, ...]
    miss: tuple[FilledText, ...]

    @model_validator(mode="after")
    def _makes_sense(self) -> Rule:
        if not re.fullmatch("G(?:[1-9]|1[0-8])", self.guarantee):
            raise ValueError(f"guarantee is one of G1 to G18, not {self.guarantee[:_LONGEST_EXCERPT]!r}")
        if not (self.phrases or self.patterns):
            raise ValueError("has neither phrases nor patterns")
        if not (self.hit and self.miss):
            raise ValueError("needs a text that hits and one that misses")
        for text in self.patterns:
            if _UNBOUNDED.search(text):  # can take a text's length squared
                raise ValueError(f"the pattern {text!r} repeats without bound; write {{0,20}} instead of * or +")
            try:
                re.compile(text)
            except re.error as error:
                raise ValueError(f"the pattern {text!r} does not compile: {error}") from None
        return self

    @cached_property
    def family(self) -> Family:
        """The rule's phrases and patterns, as they are matched."""
        shapes = (*phrase_patterns(self.phrases), *map(folded_pattern, self.patterns))
        return Family(id=self.id, shapes=shapes, exceptions=phrase_pattern(self.exceptions))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    name: str
    rules: tuple[Rule, ...]

    def in_countries(self, countries: Collection[str]) -> Pack:
        """The pack for a shop of these countries; all its rules where none is known."""
        rules = (rule for rule in self.rules if not (rule.countries and countries) or {*rule.countries} & {*countries})
        return Pack(name=self.name, rules=tuple(rules))


_FOLDER = resources.files("recllm.market.adcopy") / "data" / "packs"


def pack_names() -> tuple[str, ...]:
    """The packs that come with the package, sorted."""
    return tuple(sorted(p.name.removesuffix(".toml") for p in _FOLDER.iterdir() if p.name.endswith(".toml")))


@cache
def pack_named(name: str) -> Pack:
    """A shipped pack. Raises `UsageError` with the known names."""
    if name not in pack_names():
        raise UsageError(f"unknown rule pack {name!r}; known: {', '.join(pack_names())}")
    return load_pack(_FOLDER / f"{name}.toml", name=f"{name}.toml")


def load_pack(file: Path | Traversable, *, name: str = "") -> Pack:
    """A shop's own pack, after each rule was tried on its own examples. Raises `DataError` with file and rule for
    whatever is wrong with it.

    name: what the file is called in messages, when not by its path.
    """
    where = name or str(file)
    try:
        values = toml_table(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{where}: not a rule pack, since it is not TOML: {error}") from error
    title, entries = values.get("name"), values.get("rule")
    if not isinstance(title, str) or not isinstance(entries, list) or set(values) - {"name", "rule"}:
        raise DataError(f"{where}: a rule pack has a name and [[rule]] tables, and nothing else")
    rules: dict[str, Rule] = {}
    for number, entry in enumerate(entries, start=1):
        rule_id = entry.get("id") if isinstance(entry, dict) else None
        label = f"{where}, rule {rule_id if isinstance(rule_id, str) and rule_id else f'number {number}'}: "
        rule = parse(Rule, entry, owner="a rule", prefix=label)
        if rule.id in rules:
            raise DataError(f"{label}the id occurs twice")
        for text in rule.hit:
            if not rule.family.find(read(text)):
                raise DataError(f"{label}its own hit {text!r} is not found; change the phrases, or the example")
        for text in rule.miss:
            if phrases := rule.family.find(read(text)):
                raise DataError(f"{label}its own miss {text!r} is found, by {phrases[0]!r}; add that to not")
        rules[rule.id] = rule
    return Pack(name=title, rules=tuple(rules.values()))


VOCABULARY = "vocabulary.json"
"""In a workspace's folder."""
_LONGEST_WORD = 60
_READABLE = re.compile(r"[^\W_]")


class ApprovedWord(BaseModel):
    """One word or phrase that texts may hold, and who said so."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    word: FilledText
    by: FilledText
    at: AwareDatetime
    version: int = Field(ge=1)


class Vocabulary(BaseModel):
    """All approved words, in the order in which they came."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = Field(default=0, ge=0)
    """Of the last addition; 0 before the first."""
    words: tuple[ApprovedWord, ...] = ()


def read_vocabulary(workspace: Path) -> Vocabulary:
    """Empty where there is no file. Raises `DataError` that names the file and what in it is wrong."""
    file = workspace / VOCABULARY
    try:
        values = json_value(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Vocabulary()
    except ValueError as error:
        raise DataError(f"{file}: no vocabulary, since it is not JSON: {error}; put back an earlier copy") from error
    if not isinstance(values, dict):
        raise DataError(f"{file}: a vocabulary is an object with version and words")
    return parse(Vocabulary, values, owner="a vocabulary", prefix=f"{file}: ")


def approved_words(workspace: Path) -> frozenset[str]:
    """The approved words alone, as a request takes them.
    Raises `DataError` as `read_vocabulary` does."""
    return frozenset(word.word for word in read_vocabulary(workspace).words)


def add_words(workspace: Path, words: Iterable[str], *, by: str, at: datetime) -> tuple[str, ...]:
    """Approves words, and returns those that are new; others stay with the name that approved them first.

    Raises `UsageError` for a word that is none and for an empty name, `DataError` for a damaged file.
    """
    if not by.strip():
        raise UsageError("say who approves the words: --by NAME")
    cleaned = [" ".join(word.split()) for word in words]
    for word in cleaned:
        if not _READABLE.search(fold(word)) or len(word) > _LONGEST_WORD or not word.isprintable():
            raise UsageError(
                f"{word!r} is no word of a text; give words or phrases of up to {_LONGEST_WORD} characters"
            )
    with lock_file(workspace / f".{VOCABULARY}.lock"):
        before = read_vocabulary(workspace)
        approved = {fold(word.word) for word in before.words}
        new = {fold(word): word for word in cleaned if fold(word) not in approved}
        if new:
            version = before.version + 1
            added = (ApprovedWord(word=word, by=by.strip(), at=at, version=version) for word in new.values())
            grown = Vocabulary(version=version, words=(*before.words, *added))
            write_whole(workspace / VOCABULARY, json.dumps(plain(grown), ensure_ascii=False, indent=1) + "\n")
    return tuple(new.values())
