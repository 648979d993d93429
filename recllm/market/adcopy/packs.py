"""Rule packs: what a law says about advertisements, as data with a citation for every rule.

A rule finds phrases; it is met when its `evidence` is there. An error keeps a text back, a warning asks for a person's
eyes. The packs help a reviewer; they are not legal advice. The shipped ones lie in `data/packs/`, a shop's own can be
read from any TOML file of the same form, with the fields of `Rule`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from functools import cache, cached_property
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from recllm.base.documents import FilledText, parsed, toml_table
from recllm.base.errors import DataError, UsageError
from recllm.market.adcopy.lexicon import Family, folded_pattern, phrase_pattern, phrase_patterns, read

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
            raise ValueError(f"guarantee is one of G1 to G18, not {self.guarantee[:200]!r}")
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
        rule = parsed(Rule, entry, owner="a rule", prefix=label)
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
