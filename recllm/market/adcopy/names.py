"""How an item is called in a text: a till's title written out, and a title as a name and a size.

written_out("GRAPES WHITE 18 LB")          # "white grapes 18 lb"
name_and_size("white grapes 18 lb")        # ("white grapes", "18 lb")
shelf(("Loose leaf green tea", "Food"))    # "drink"
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache, lru_cache

from recllm.market.adcopy.lexicon import fold, pattern, table, word_class, words
from recllm.text.plurals import stem
from recllm.text.templates import Prompts, natural

OTHER_SHELF = "other"
"""The shelf of an item that no list knows."""
_BRACKET = re.compile(r"(?<!\s)\s*\([^()]*\)")
_WORD = re.compile(r"[^\W\d_]+")
_FIRST_PART = re.compile(r" ?: ?| -+ ?|, ")
_LEAST_LETTERS = 3
"""Of a first part that names something: "ppk" does, "sv" does not."""


@lru_cache(maxsize=1 << 14)
def written_out(title: str) -> str:
    """A title as running text. One in capitals loses brackets, what follows a dash or a colon, and words that only sort
    the catalogue, and has its adjectives before the noun; its size stays. Any other is left as `natural` has it."""
    text = natural(title, Prompts.load().short_forms)
    if text == title or any(c.islower() for c in title) or not text.isascii():
        return text
    forms = table("names.toml")["forms"]
    expanded = " ".join(_WORD.sub(lambda m: forms.get(m[0], m[0]), _BRACKET.sub(" ", text)).split()) or text
    name, size = name_and_size(expanded)
    name = pattern("titles.with").sub("", name).strip() or name
    parts = [phrase for phrase in map(without_sorting_words, _FIRST_PART.split(name)) if phrase]
    if len(parts) > 1 and parts[0] in table("names.toml")["words"]["adjectives"]:
        parts[:2] = [" ".join(parts[:2])]
    named = [phrase for phrase in parts if len("".join(_WORD.findall(phrase))) >= _LEAST_LETTERS]
    if not named:
        return text
    name, tokens = named[0], named[0].split()
    for n in (1, 2):  # "peppers red bell" -> "red bell peppers"
        tail = " ".join(tokens[-n:])
        if len(tokens) > n and tail in table("names.toml")["words"]["after_noun"]:
            name = " ".join((tail, *tokens[:-n]))
    # "waffles/french toast" -> "waffles and french toast", "sandwiches&handhelds" -> "sandwiches & handhelds"
    things = pattern("titles.joined_by_and").sub(" & ", name).split("/")
    are_listed = len(things) > 1 and all(pattern("titles.thing").fullmatch(thing) for thing in things)
    name = f"{', '.join(things[:-1])} and {things[-1]}" if are_listed else "/".join(things)
    return f"{name} {size}" if size else name


def without_sorting_words(name: str) -> str:
    """A name without the first and the last word that only sort the catalogue; "" where it is no more than one."""
    leading, trailing = (table("names.toml")["words"][list_name] for list_name in ("leading", "trailing"))
    name = pattern("titles.left_over").sub("", name).rstrip()
    name = name.removeprefix(next((f"{word} " for word in leading if name.startswith(f"{word} ")), ""))
    name = name.removesuffix(next((f" {word}" for word in trailing if name.endswith(f" {word}")), ""))
    return "" if name in (*leading, *trailing) else name.rstrip(" &/-")


@lru_cache(maxsize=1 << 14)
def name_and_size(title: str) -> tuple[str, str]:
    """A title without the size at its end, and that size; "" where it has none or is nothing else."""
    if match := _HAN_SIZE.search(title) or pattern("titles.count").search(title):
        size = match[0].strip(" ()")
        return (title[: match.start()].rstrip(), "" if size.isdigit() else size) if match.start() else (title, "")
    tokens = title.split()
    start = len(tokens)
    while start > 0 and _is_of_size(tokens[start - 1]):
        start -= 1
    while start < len(tokens) and not tokens[start].removeprefix(".")[:1].isdigit():
        start += 1
    numbered = table("names.toml")["words"]["numbered"]
    if 0 < start < len(tokens) and fold(tokens[start - 1]).rstrip(".") in numbered:
        start += 1  # SPF 15 50 ml
    end = start
    while end > 0 and fold(tokens[end - 1]) in (*word_class("dangling"), "including"):  # "bottles including 2 l"
        end -= 1
    while any(token.endswith(",") for token in tokens[start:-1]):  # sun cream SPF 50, 100 ml
        start = end = start + 1
    name, size = " ".join(tokens[:end]).rstrip(" ,-"), " ".join(tokens[start:])
    has_unit = any(word in _size_words() for word in _WORD.findall(fold(size)))
    return (name, size) if size and has_unit and any(c.isalpha() for c in name) else (title, "")


def is_size(name: str) -> bool:
    """True for a size without a name."""
    return all(map(_is_of_size, name.split()))


def _is_of_size(token: str) -> bool:
    """True for a number, a unit, or both in one: 18, oz, 12oz, 10/6.75, x8.2."""
    parts = [token_part for token_part in re.split(r"[\d.,/x×-]+", fold(token).strip(".,")) if token_part]
    return all(token_part in _size_words() for token_part in parts)


@cache
def _size_words() -> frozenset[str]:
    spellings = (s for forms in table("numbers.toml")["units"].values() for s in forms)
    return frozenset(s for s in spellings if s.isascii() and s.isalpha()) | frozenset(
        table("names.toml")["words"]["of_size"]
    )


_HAN_UNITS = {s for forms in table("numbers.toml")["units"].values() for s in forms if not s.isascii()}
_LONGEST_FIRST = sorted(map(re.escape, _HAN_UNITS), key=len, reverse=True)
_HAN_SIZE = pattern("titles.han_size", UNITS="|".join(_LONGEST_FIRST))


@lru_cache(maxsize=1 << 14)
def shelf(names: tuple[str, ...]) -> str:
    """The shelf of `data/shelves.toml` that the first of the names with a listed word belongs on."""
    shelves, loose, first = _shelf_words()
    for name in names:
        phrases = pattern("titles.part_of_name").split(name)
        parts = [words_in for phrase in phrases if (words_in := _listed_in(phrase))]
        of_first = [shelves[word] for words_in in parts for word in words_in if shelves[word] in first]
        if of_first:
            return of_first[0]
        if parts:
            return shelves[([word for word in parts[0] if word not in loose] or parts[0])[-1]]
    return OTHER_SHELF


def _listed_in(phrase: str) -> list[tuple[str, ...]]:
    """The words of shelves in a phrase of a name, in their order; a longer one hides those in it."""
    shelves, _, _ = _shelf_words()
    tokens, longest = _singular(phrase), max(map(len, shelves))
    listed, start = [], 0
    while start < len(tokens):
        candidates = (tokens[start : start + length] for length in range(longest, 0, -1))
        word = next((candidate for candidate in candidates if candidate in shelves), tokens[start : start + 1])
        listed += [word] if shelves.get(word) else []
        start += len(word)
    return listed


@cache
def _shelf_words() -> tuple[Mapping[tuple[str, ...], str], frozenset[tuple[str, ...]], frozenset[str]]:
    """Word -> its shelf, empty for what only hides others; the loose words; the shelves that come first."""
    data = table("shelves.toml")
    shelves = {_singular(word): "" for word in data["nothing"]}
    for entry in data["shelf"]:
        for word in entry["words"]:
            shelves.setdefault(_singular(word), entry["name"])
    first = frozenset(entry["name"] for entry in data["shelf"] if entry.get("first"))
    return shelves, frozenset(map(_singular, data["loose"])), first


def _singular(text: str) -> tuple[str, ...]:
    """The words of a text without their plural: ("wine", "glass") of "wine glasses"; Chinese by the character."""
    return tuple(map(stem, words(text)))
