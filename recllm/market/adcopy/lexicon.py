"""How the checks read a text, and the word lists and patterns in `data/` that they match against it.

A text is folded for matching only; what is shown stays as it was written. Full-width, circled and fancy letters become
plain ones, accents go, look-alike letters of other scripts become Latin, invisible characters go, Chinese loses its
spaces: so a forbidden word is found however it is dressed up. Every list, pattern and limit that decides a verdict is
data.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import Any

from recllm.text.plurals import stem
from recllm.text.templates import Prompts

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""The range of Chinese characters, as it stands inside the brackets of a pattern."""
HAN_RUN = re.compile(f"[{HAN}]+")

_UNSEEN_CATEGORIES = frozenset({"Cf", "Cc", "Co", "Cn", "Mn"})
_SHORT = {code: nfkd[0] for code in range(0xFDF0, 0xFE00) if len(nfkd := unicodedata.normalize("NFKD", chr(code))) > 4}
"""Arabic characters that stand for up to 18 letters are read as the first, so that no text grows while it is read."""
_WORD = re.compile(rf"[a-z0-9]+(?:'[a-z]+)?|[{HAN}]")
_SPACE = re.compile(r"\s+")


@cache
def table(file: str) -> Mapping[str, Any]:
    """One file of `data/`."""
    return tomllib.loads((resources.files("recllm.market.adcopy") / "data" / file).read_text(encoding="utf-8"))


@cache
def word_class(name: str) -> tuple[str, ...]:
    """One of the closed word classes of `data/words.toml`, in its order."""
    return tuple(str(table("words.toml")[name]).split())


@cache
def neutral_words() -> frozenset[str]:
    """Words of both languages that claim nothing about a product, folded."""
    tables = (table(name) for name in ("neutral.en.toml", "neutral.zh.toml"))
    return frozenset(w for entry in tables for text in entry.values() if isinstance(text, str) for w in text.split())


@lru_cache(maxsize=1 << 14)
def is_known(word: str) -> bool:
    """True for a word that people know."""
    return len(word) > 1 and not bases(word).isdisjoint(_known_words())


@cache
def _known_words() -> frozenset[str]:
    words = set(neutral_words())
    for text in table("surroundings.en.toml").values():
        words.update(str(text).split())
    names = table("names.toml")
    listed = [entry for shelf in table("shelves.toml")["shelf"] for entry in shelf["words"]]
    listed += [*table("shelves.toml")["loose"], *names["words"]["after_noun"], *table("goods.toml")["finish"]]
    listed += Prompts.load().short_forms.values()
    listed += [names["till"]["known"], *names["till"]["flavours"]]
    words.update(word for entry in listed for word in entry.lower().split())
    return frozenset(word for word in words | set(map(stem, words)) if word.isascii())


def limit(name: str) -> Any:
    """One of the limits of `data/limits.toml`."""
    return table("limits.toml")[name]


@lru_cache(maxsize=256)
def pattern(name: str, **parts: str) -> re.Pattern[str]:
    """The pattern TABLE.NAME of `data/patterns.toml`; `parts` are put in place of {PART}."""
    group, _, key = name.partition(".")
    text = re.sub(r"\n *", "", table("patterns.toml")[group][key])
    for mark, value in {"HAN": HAN, **parts}.items():
        text = text.replace(f"{{{mark}}}", value)
    return re.compile(text)


@cache
def folded_pattern(text: str) -> re.Pattern[str]:
    """A pattern for folded text. Only Latin letters and digits make words: 立减CHF has a word's edge before CHF."""
    return re.compile(text, re.ASCII)


WEARERS = ("women", "men", "children")


@lru_cache(maxsize=1 << 14)
def wearer_of(names: tuple[str, ...]) -> str:
    """Which of `WEARERS` a thing of this title and these categories is made for; "" for all, for several and none."""
    named = {match.lastgroup or "" for match in pattern("naming.wearers").finditer(" > ".join(names).lower())}
    return named.pop() if len(named) == 1 and named <= set(WEARERS) else ""


def any_of(texts: Iterable[str]) -> str:
    """One pattern for all texts, the longest first."""
    return "|".join(map(re.escape, sorted(set(texts), key=lambda text: (-len(text), text))))


def translation(name: str) -> dict[int, str]:
    """A character map of `data/patterns.toml`: two strings, from and to."""
    group, _, key = name.partition(".")
    source, target = table("patterns.toml")[group][key]
    return {ord(a): b for a, b in zip(source, target, strict=True)}


_LOOKALIKES = translation("reading.signs") | translation("reading.lookalikes")
_INVISIBLE = pattern("reading.invisible")
_GAPS = dict.fromkeys(map(ord, " -_*·|/"))
"""What may stand between the letters of a phrase."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One text in the forms that checks match against."""

    folded: str
    """Lower case, one line, without decorations inside Chinese words; see the module."""
    squashed: str
    """`folded` with spelled-out words ("f.r.e.e") joined."""
    words: tuple[str, ...]
    """Latin words and single Chinese characters of `squashed`."""


@lru_cache(maxsize=4096)
def read(text: str) -> Reading:
    folded = fold(text)
    squashed = pattern("reading.spelled_out").sub(lambda m: pattern("reading.separator").sub("", m[0]), folded)
    return Reading(folded, squashed, tuple(_WORD.findall(squashed)))


@lru_cache(maxsize=8192)
def fold(text: str) -> str:
    text = unicodedata.normalize("NFKD", text.translate(_SHORT))
    text = "".join(c for c in text if c.isspace() or unicodedata.category(c) not in _UNSEEN_CATEGORIES)
    text = unicodedata.normalize("NFC", text)
    text = _INVISIBLE.sub("", text).casefold().translate(_LOOKALIKES)
    text = pattern("reading.han_space").sub("", _SPACE.sub(" ", text)).strip()
    return pattern("reading.decoration").sub("", text)


@dataclass(frozen=True, slots=True)
class Letters:
    """A text folded letter by letter, so that each folded letter still has its place in the text."""

    folded: str
    offsets: tuple[int, ...]
    """For each letter of `folded`, where it stands in the text."""
    squeezed: str
    """`folded` without spaces and decorations."""

    def occurrences(self, phrase: str) -> Iterator[tuple[int, int]]:
        """[start, end) in `folded` wherever a folded phrase stands, however spaced; Latin words as whole words."""
        letters_of_phrase = phrase.translate(_GAPS)
        if letters_of_phrase and letters_of_phrase in self.squeezed:
            yield from (match.span() for match in _spaced(letters_of_phrase).finditer(self.folded))


@lru_cache(maxsize=4096)
def letters(text: str) -> Letters:
    """The text letter by letter, so that a position in it can be named."""
    folded = [" " if character.isspace() else _letter(character) for character in text]
    offsets = tuple(offset for offset, letter in enumerate(folded) for _ in letter)
    return Letters("".join(folded), offsets, "".join(folded).translate(_GAPS))


@lru_cache(maxsize=4096)
def _spaced(phrase: str) -> re.Pattern[str]:
    """A phrase with any gaps between its letters, and no Latin letter or digit next to one at its ends."""
    inner = f"[{re.escape(''.join(map(chr, _GAPS)))}]*".join(map(re.escape, phrase))
    return re.compile(f"(?<![a-z0-9](?=[a-z0-9])){inner}(?!(?<=[a-z0-9])[a-z0-9])")


@lru_cache(maxsize=8192)
def _letter(character: str) -> str:
    """One character as `fold` has it, without its neighbours."""
    decomposed = unicodedata.normalize("NFKD", character.translate(_SHORT))
    visible = "".join(c for c in decomposed if unicodedata.category(c) not in _UNSEEN_CATEGORIES)
    return _INVISIBLE.sub("", visible).casefold().translate(_LOOKALIKES)


def words(text: str) -> tuple[str, ...]:
    """The words of `text`, folded; Chinese by the character."""
    return read(text).words


def stems(words_of_text: Iterable[str]) -> frozenset[str]:
    return frozenset(stem(word) for word in words_of_text)


_VOWELS = "aeiou"


@lru_cache(maxsize=8192)
def bases(word: str) -> frozenset[str]:
    """The words that `word` may be an inflection of, itself among them: "baking" -> "bake"."""
    candidates = {word, stem(word)}
    if not (word.isascii() and word.isalpha()):
        return frozenset(candidates)
    for ending in ("s", "es", "ed", "d", "ing"):
        if word.endswith(ending) and len(word) - len(ending) >= 2:
            base = word[: -len(ending)]
            guesses = {base, base + "e", base[:-1] + "y" if base.endswith("i") else base}
            if len(base) > 3 and base[-1] == base[-2]:
                guesses.add(base[:-1])
            candidates |= {guess for guess in guesses if word in _inflections(guess)}
    return frozenset(candidates)


def _inflections(word: str) -> set[str]:
    """Plural, third person, past and present participle of an English word, by the rules of spelling."""
    if word.endswith("y") and word[-2] not in _VOWELS:
        return {word[:-1] + "ies", word[:-1] + "ied", word + "ing"}
    if word.endswith("e"):
        return {word + "s", word + "d", word[:-1] + "ing"}
    plural = word + ("es" if word.endswith(("s", "x", "z", "ch", "sh", "o")) else "s")
    doubled = len(word) > 2 and word[-1] not in _VOWELS + "wxy" and word[-2] in _VOWELS and word[-3] not in _VOWELS
    forms = {plural, word + "s" if word.endswith("o") else plural}
    if doubled:
        forms |= {word + word[-1] + "ing", word + word[-1] + "ed"}
    if not doubled or len(word) > 4:  # "offering" of "offer", "planning" of "plan"
        forms |= {word + "ing", word + "ed"}
    return forms


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Phrases that are treated alike, with their exceptions."""

    id: str
    shapes: tuple[re.Pattern[str], ...]
    exceptions: re.Pattern[str] | None
    """What holds a phrase and means something else: not looked at."""
    guarantee: str = ""
    message: str = ""
    evidence: str = ""
    """What proves the phrases: a key of the caller's evidence, "offer.end" or "never"."""
    offers: frozenset[str] = frozenset()
    """Types of running offers that allow the phrases."""
    goods: frozenset[str] = frozenset()
    """Phrases, folded, that are no promise where the item is what they name."""
    holds: bool = False
    """True where a person may decide about a phrase that otherwise blocks."""
    from_facts: bool = False
    """True when the phrases are allowed where the item's facts hold them."""

    def find(self, reading: Reading) -> list[str]:
        """The phrases of this family in a text, each once, as folded."""
        phrases: dict[str, None] = {}
        for form in dict.fromkeys((reading.folded, reading.squashed)):
            if not any(shape.search(form) for shape in self.shapes):
                continue  # most texts hold none, and need no exceptions cut out
            text = self.exceptions.sub(lambda m: "\x00" * len(m[0]), form) if self.exceptions else form
            for shape in self.shapes:
                for match in shape.finditer(text):
                    phrases[match[0]] = None
        return list(phrases)


@cache
def families(file: str) -> tuple[Family, ...]:
    """The families of one file in `data/`."""
    optional = ("guarantee", "message", "evidence", "from_facts", "holds")
    return tuple(
        Family(
            id=values["id"],
            shapes=tuple(filter(None, (latin_pattern(values["en"]), chinese_pattern(values["zh"])))),
            exceptions=phrase_pattern(values["not"]),
            offers=frozenset(values.get("offers", ())),
            goods=frozenset(map(fold, values.get("goods", ()))),
            **{key: values[key] for key in optional if key in values},
        )
        for values in table(file)["family"]
    )


def latin_pattern(phrases: Iterable[str]) -> re.Pattern[str] | None:
    """Whole words; a space in a phrase also matches a hyphen, and "*" up to 20 letters."""
    longest_first = sorted({fold(p) for p in phrases}, key=len, reverse=True)
    if not longest_first:
        return None
    escaped = (re.escape(p).replace(r"\ ", "[ -]").replace(r"\*", "[a-z]{0,20}") for p in longest_first)
    return re.compile(rf"(?<![a-z0-9])(?:{'|'.join(escaped)})(?![a-z0-9])")


def chinese_pattern(phrases: Iterable[str]) -> re.Pattern[str] | None:
    """Phrases that match anywhere. What begins with a digit begins the number: 0元 is no part of 90元."""
    longest_first = sorted({fold(p) for p in phrases}, key=len, reverse=True)
    escaped = ((r"(?<![\d.])" if p[0].isdigit() else "") + re.escape(p) for p in longest_first)
    return re.compile("|".join(escaped)) if longest_first else None


def phrase_pattern(phrases: Iterable[str]) -> re.Pattern[str] | None:
    """Latin phrases as whole words, Chinese ones anywhere."""
    shapes = phrase_patterns(phrases)
    return re.compile("|".join(shape.pattern for shape in shapes)) if shapes else None


def phrase_patterns(phrases: Iterable[str]) -> tuple[re.Pattern[str], ...]:
    """That of the Latin phrases before that of the Chinese ones."""
    both = list(phrases)
    shapes = (latin_pattern(p for p in both if p.isascii()), chinese_pattern(p for p in both if not p.isascii()))
    return tuple(filter(None, shapes))
