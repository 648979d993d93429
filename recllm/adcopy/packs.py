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
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from hashlib import sha256
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from recllm.adcopy.lexicon import Family, chinese_pattern, exceptions_pattern, latin_pattern
from recllm.adcopy.reading import Reading, pattern
from recllm.errors import DataError, UsageError

SEVERITIES = ("error", "warning")
LANGUAGES = ("en", "zh")
_TEXTS = ("id", "guarantee", "severity", "citation", "evidence", "reviewed", "message")
_LISTS = ("languages", "phrases", "patterns", "not", "hit", "miss")
_OPTIONAL = frozenset({"phrases", "patterns", "not", "demands"})
_UNBOUNDED = re.compile(r"(?<!\\)(?:\\\\)*[*+](?!\])|\{\d+,\}")
_GUARANTEE = re.compile(r"G(?:[1-9]|1[0-8])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule of a pack."""

    id: str
    pack: str
    guarantee: str
    """The guarantee that a text breaks which breaks this rule."""
    severity: str
    citation: str
    evidence: str
    """What allows the phrases: a key of the caller's evidence, "list_price" (the item has one), "offer.end" (an offer
    with an end runs), or "never"."""
    reviewed: str
    languages: frozenset[str]
    message: str
    demands: str
    """A statement that meets the rule when it stands in the text; empty where there is none."""
    family: Family
    patterns: tuple[re.Pattern[str], ...]

    def find(self, reading: Reading) -> list[str]:
        """The phrases that the rule is about, as they stand in the folded text, each once."""
        found = dict.fromkeys(self.family.find(reading))
        for form in dict.fromkeys((reading.folded, reading.squashed)):
            text = self.family.without_exceptions(form)
            found |= {match[0]: None for shape in self.patterns for match in shape.finditer(text)}
        return list(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    name: str
    rules: tuple[Rule, ...]
    sha256: str = ""
    """Of the file that the pack was read from."""


def pack_names() -> tuple[str, ...]:
    """The packs that come with the package, sorted."""
    return tuple(sorted(p.name.removesuffix(".toml") for p in _folder().iterdir() if p.name.endswith(".toml")))


@cache
def pack(name: str) -> Pack:
    """A shipped pack. Raises `UsageError` with the known names."""
    if name not in pack_names():
        raise UsageError(f"unknown rule pack {name!r}; known: {', '.join(pack_names())}")
    return _pack(_folder() / f"{name}.toml", f"{name}.toml")


def load_pack(file: Path) -> Pack:
    """A shop's own pack. Raises `DataError` with file and rule for whatever is wrong with it."""
    return _pack(file, str(file))


def packs(names: Iterable[str]) -> tuple[Pack, ...]:
    """Shipped packs by name, each once."""
    return tuple(pack(name) for name in dict.fromkeys(names))


def _folder() -> Traversable:
    return resources.files("recllm.adcopy") / "data" / "packs"


def _pack(source: Path | Traversable, shown: str) -> Pack:
    try:
        content = source.read_bytes()
        data = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{shown}: not a rule pack, since it is not TOML: {error}") from error
    name, rules = data.get("name"), data.get("rule")
    if not isinstance(name, str) or not isinstance(rules, list) or set(data) - {"name", "rule"}:
        raise DataError(f"{shown}: a rule pack has a name and [[rule]] tables, and nothing else")
    read = tuple(_rule(table, name, f"{shown}, rule {_called(table, n)}") for n, table in enumerate(rules, start=1))
    if twice := next((r.id for i, r in enumerate(read) if r.id in {other.id for other in read[:i]}), None):
        raise DataError(f"{shown}, rule {twice}: the id occurs twice")
    return Pack(name=name, rules=read, sha256=sha256(content).hexdigest())


def _called(table: Any, number: int) -> str:
    name = table.get("id") if isinstance(table, dict) else None
    return name if isinstance(name, str) and name else f"number {number}"


def _rule(table: Any, name: str, where: str) -> Rule:
    if not isinstance(table, dict):
        raise DataError(f"{where}: is no table")
    for problem in _problems(table):
        raise DataError(f"{where}: {problem}")
    phrases, exceptions = table.get("phrases", []), table.get("not", [])
    family = Family(
        id=table["id"],
        latin=latin_pattern([p for p in phrases if p.isascii()]),
        chinese=chinese_pattern([p for p in phrases if not p.isascii()]),
        exceptions=exceptions_pattern(exceptions),
        hit=tuple(table["hit"]),
        miss=tuple(table["miss"]),
    )
    return Rule(
        **{key: table[key] for key in _TEXTS},
        pack=name,
        demands=table.get("demands", ""),
        languages=frozenset(table["languages"]),
        family=family,
        patterns=tuple(pattern(p) for p in table.get("patterns", ())),
    )


def _problems(table: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a rule, the first thing first."""
    known = {*_TEXTS, *_LISTS, "demands"}
    yield from (f"has no field {key!r}; known: {', '.join(sorted(known))}" for key in sorted(set(table) - known))
    yield from (f"{key} is missing" for key in sorted(known - _OPTIONAL - set(table)))
    for key in (*_TEXTS, "demands"):
        if key in table and (not isinstance(table[key], str) or not table[key].strip()):
            yield f"{key} is a text, not {table[key]!r}"
    for key in _LISTS:
        value = table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(entry, str) and entry for entry in value):
            yield f"{key} is a list of texts, not {value!r}"
    yield from _value_problems(table)


def _value_problems(table: Mapping[str, Any]) -> Iterator[str]:
    if table["severity"] not in SEVERITIES:
        yield f"severity is {' or '.join(SEVERITIES)}, not {table['severity']!r}"
    if not _GUARANTEE.fullmatch(table["guarantee"]):
        yield f"guarantee is one of G1 to G18, not {table['guarantee']!r}"
    if not table["languages"] or set(table["languages"]) - set(LANGUAGES):
        yield f"languages are of {', '.join(LANGUAGES)}, not {table['languages']!r}"
    if not (table.get("phrases") or table.get("patterns")):
        yield "has neither phrases nor patterns"
    if not (table["hit"] and table["miss"]):
        yield "needs a text that hits and one that misses"
    try:
        date.fromisoformat(table["reviewed"])
    except ValueError:
        yield f"reviewed is a day such as 2025-11-25, not {table['reviewed']!r}"
    for text in table.get("patterns", ()):
        yield from _pattern_problems(text)


def _pattern_problems(text: str) -> Iterator[str]:
    """A pattern that repeats without bound can take a text's length squared; it must say how often."""
    if _UNBOUNDED.search(text):
        yield f"the pattern {text!r} repeats without bound; write {{0,20}} instead of * or +"
    try:
        re.compile(text)
    except re.error as error:
        yield f"the pattern {text!r} does not compile: {error}"
