"""Rule packs: what a law says about advertisements, as data with a citation for every rule.

A rule finds phrases; it is met when its `evidence` is there. An error keeps a text back, a warning asks for a person's
eyes. The packs help a reviewer; they are not legal advice. The shipped ones lie in `data/packs/`, a shop's own can be
read from any TOML file of the same form:

    name = "us_ftc"
    [[rule]]
    id = "made-in-usa"
    guarantee = "G3"
    severity = "error"                      # or "warning"
    citation = "16 CFR 323"
    evidence = "made_in_usa"                # a key of the caller's evidence, "never", "list_price" or "offer.end"
    reviewed = "2025-11-25"
    languages = ["en"]
    message = "is a claim of origin"
    phrases = ["made in the usa"]           # whole words, "*" up to 20 letters; Chinese matches anywhere
    patterns = []                           # regular expressions on folded text, bounded repeats only
    not = []                                # phrases that hold such a word and claim nothing
    hit = ["Proudly made in the USA"]       # the rule's own test
    miss = ["Made for sunny days"]
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import date
from functools import cache, cached_property
from hashlib import sha256
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from recllm.base.documents import toml_table
from recllm.base.errors import DataError, UsageError
from recllm.base.words.sentences import LANGUAGES
from recllm.market.adcopy.lexicon import Family, Reading, folded_pattern, phrase_pattern, phrase_patterns, read

# --- parsed JSON and TOML as checked objects, with errors that name the field and say what it takes ------------------

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


# --- rules -----------------------------------------------------------------------------------------------------------

_UNBOUNDED = re.compile(r"(?<!\\)(?:\\\\)*[*+](?!\])|\{\d+,\}")


def _day(text: str) -> str:
    try:
        date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"is a day such as 2025-11-25, not {text!r}") from None
    return text


def _known_languages(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names or set(names) - set(LANGUAGES):
        raise ValueError(f"are of {', '.join(LANGUAGES)}, not {list(names)!r}")
    return names


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
    reviewed: Annotated[_Text, AfterValidator(_day)]
    message: _Text
    demands: _Text = ""
    """A statement that meets the rule when it stands in the text; empty where there is none."""
    languages: Annotated[tuple[str, ...], Field(description="a list of texts"), AfterValidator(_known_languages)]
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
    def families(self) -> tuple[Family, Family]:
        """The rule's phrases, and its patterns, as they are matched."""
        exceptions = phrase_pattern(self.exceptions)
        patterns = tuple(folded_pattern(text) for text in self.patterns)
        by_phrases = Family(id=self.id, shapes=phrase_patterns(self.phrases), exceptions=exceptions)
        return by_phrases, replace(by_phrases, shapes=patterns)

    def find(self, reading: Reading) -> list[str]:
        """The phrases that the rule is about, as they stand in the folded text, each once."""
        return list(dict.fromkeys(phrase for family in self.families for phrase in family.find(reading)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    name: str
    rules: tuple[Rule, ...]
    sha256: str = ""
    """Of the file that the pack was read from."""


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
        content = file.read_bytes()
        values = toml_table(content.decode())
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
    return Pack(name=title, rules=tuple(rules.values()), sha256=sha256(content).hexdigest())
