"""What is laid down for texts besides the facts: rule packs, and the words that a shop's people approved.

A rule pack is what a law says about advertisements, as data with a citation for every rule. A rule finds phrases; it
is met when its `evidence` is there. An error keeps a text back, a warning asks for a person's eyes. The packs help a
reviewer; they are not legal advice. The shipped ones lie in `data/packs/`, a shop's own can be read from any TOML file
of the same form, with the fields of `Rule`.

The words beyond the facts that may stand in texts are a file of the workspace that only grows. Each addition is a
version of it, with who approved the words and when:

    add_words(vocabulary_file(workspace.root), ["toasty", "外脆里嫩"], by="Ana", at=datetime.now(UTC))
    approved_words(vocabulary_file(workspace.root))     # frozenset({"toasty", "外脆里嫩"})
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache, cached_property
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from recllm.base.documents import json_value, plain, toml_table
from recllm.base.errors import DataError, UsageError
from recllm.base.files import lock_file, write_whole
from recllm.market.adcopy.lexicon import Family, Reading, fold, folded_pattern, phrase_pattern, phrase_patterns, read

T = TypeVar("T")
_LONGEST_EXCERPT = 200  # characters of a wrong value


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
    name = ".".join(str(step)[:_LONGEST_EXCERPT] for step in location)
    if unknown:
        return f"{'.'.join(path) or owner} has no field {location[-1]!r}; known: {', '.join(sorted(fields))}"
    if missing or (location and fault["input"] is None):
        return f"{name} is missing"
    if kind == "value_error" and not any(isinstance(step, int) for step in location[len(path) :]):
        return f"{name} {fault['ctx']['error']}".strip()
    excerpt = repr(value)[:_LONGEST_EXCERPT]
    return f"{'.'.join(path) or owner} is {described.description if described else 'an object'}, not {excerpt}"


_UNBOUNDED = re.compile(r"(?<!\\)(?:\\\\)*[*+](?!\])|\{\d+,\}")


_Text = Annotated[str, StringConstraints(pattern=r"\S"), Field(description="a text")]
_Texts = Annotated[tuple[Annotated[str, StringConstraints(min_length=1)], ...], Field(description="a list of texts")]


class Rule(BaseModel):
    """One rule of a pack, as it stands in a file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: _Text
    guarantee: Annotated[str, Field(pattern=r"^G(?:[1-9]|1[0-8])$", description="one of G1 to G18")]
    """The guarantee that a text breaks which breaks this rule."""
    severity: Annotated[Literal["error", "warning"], Field(description="error or warning")]
    citation: _Text
    evidence: _Text
    """What allows the phrases: a key of the caller's evidence, "list_price" (the item has one), "offer.end" (an offer
    with an end runs), or "never"."""
    reviewed: Annotated[date, Field(description="a day such as 2025-11-25")]
    message: _Text
    demands: _Text = ""
    """A statement that meets the rule when it stands in the text; empty where there is none."""
    languages: Annotated[tuple[Literal["en", "zh"], ...], Field(min_length=1, description="a list of en and zh")]
    phrases: _Texts = ()
    patterns: _Texts = ()
    exceptions: _Texts = Field((), alias="not")
    hit: _Texts
    miss: _Texts

    @model_validator(mode="after")
    def _makes_sense(self) -> Rule:
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

    def find(self, reading: Reading) -> list[str]:
        """The phrases that the rule is about, as they stand in the folded text, each once."""
        return self.family.find(reading)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    name: str
    rules: tuple[Rule, ...]


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
            if not rule.find(read(text)):
                raise DataError(f"{label}its own hit {text!r} is not found; change the phrases, or the example")
        for text in rule.miss:
            if phrases := rule.find(read(text)):
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

    word: FilledText = Field(description="a word")
    by: FilledText = Field(description="a name")
    at: AwareDatetime = Field(description="a time with its zone")
    version: int = Field(ge=1, description="a number from 1 on")


class Vocabulary(BaseModel):
    """All approved words, in the order in which they came."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = Field(default=0, ge=0, description="a number from 0 on")
    """Of the last addition; 0 before the first."""
    words: tuple[ApprovedWord, ...] = Field(default=(), description="a list of words")


def vocabulary_file(workspace_root: Path) -> Path:
    return workspace_root / VOCABULARY


def read_vocabulary(file: Path) -> Vocabulary:
    """Empty where there is no file. Raises `DataError` that names the file and what in it is wrong."""
    try:
        values = json_value(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Vocabulary()
    except ValueError as error:
        raise DataError(f"{file}: no vocabulary, since it is not JSON: {error}; put back an earlier copy") from error
    if not isinstance(values, dict):
        raise DataError(f"{file}: a vocabulary is an object with version and words")
    return parse(Vocabulary, values, owner="a vocabulary", prefix=f"{file}: ")


def approved_words(file: Path) -> frozenset[str]:
    """The approved words alone, as a request takes them. Raises `DataError` as `read_vocabulary` does."""
    return frozenset(word.word for word in read_vocabulary(file).words)


def add_words(file: Path, words: Iterable[str], *, by: str, at: datetime) -> tuple[str, ...]:
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
    with lock_file(file.with_name(f".{VOCABULARY}.lock")):
        before = read_vocabulary(file)
        approved = {fold(word.word) for word in before.words}
        new = {fold(word): word for word in cleaned if fold(word) not in approved}
        if new:
            version = before.version + 1
            added = (ApprovedWord(word=word, by=by.strip(), at=at, version=version) for word in new.values())
            grown = Vocabulary(version=version, words=(*before.words, *added))
            write_whole(file, json.dumps(plain(grown), ensure_ascii=False, indent=1) + "\n")
    return tuple(new.values())
