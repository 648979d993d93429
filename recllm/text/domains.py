"""What people do with items where nothing is bought in a shop: films are watched, articles read, courses taken.

A domain is one file, `prompts/domains/NAME.toml`. It holds the words that templates name as `domain.NAME`, whole texts
in place of the shop's, and what its logs call the usual actions. The shop is a domain like any other, and the one that
all others begin with: what a file leaves out is as in the domain that it is `based_on`. A workspace may bring a file of
its own, `domains/NAME.toml` in its folder.

A locale says which domain speaks: "en" is the shop's English, "zh@media" the Chinese of a media service, as POSIX
writes a variant of a language.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from recllm.base.documents import Flag, FrozenModel, Text, toml_table
from recllm.base.errors import PromptError, UsageError
from recllm.base.schema import Action
from recllm.base.words.sentences import LANGUAGES
from recllm.text.injection import neutralise

SHOP = "shop"
"""The domain of a locale that names none."""
FOLDER = "domains"
"""Of the domains, in `prompts/` and in a workspace."""
WORD_CHARS = 80
MAX_BYTES = 1 << 20
MOST_NAMES = 200
"""Of the names of an action, and of the words that are never said, or claim nothing."""

Names = Annotated[tuple[Text, ...], Field(max_length=MOST_NAMES)]


class DomainLanguage(FrozenModel):
    """What a domain says in one language."""

    words: Mapping[Text, Annotated[Text, StringConstraints(max_length=WORD_CHARS)]] = {}
    """Name -> word, as templates use them: `domain.bought`. Text, never a template."""
    templates: Mapping[Text, Text] = {}
    """Template -> its text here, with the variables that it has for a shop, or fewer."""
    never: Names = ()
    """Words of other domains, which ad text of this one never holds."""
    neutral: Names = ()
    """Words of this domain that claim nothing of an item."""


class DomainFile(FrozenModel):
    """A file of a domain as it is written."""

    section: ClassVar[str] = "domain"

    based_on: Text | None = SHOP
    """The domain that says what this one leaves out; None for the shop alone."""
    titles: Literal["goods", "names", "works"] | None = None
    """What titles are. "goods" end in a size ("Ice cream 56 oz"), stand on a shelf that has sentences of its own, and
    lose what promises something ("SALE"). "names" have neither size nor shelf, and are said whole or, where they state
    a price, an offer or a cure, not at all. Those of "works" may promise what they like, but a price: Free Willy. None
    is as in `based_on`, and so below."""
    offers: tuple[Literal["percent", "amount", "free_shipping", "gift", "bogo", "coupon"], ...] | None = None
    """The kinds of offers that texts tell; of another kind there is nothing to say here."""
    generated_lines: Flag | None = None
    """Whether a text model may write lines: not where one word more is another piece of news."""
    events: Mapping[Action, Names] = {}
    """Action -> what logs of this domain call it, besides the usual names."""
    en: DomainLanguage = DomainLanguage()
    zh: DomainLanguage = DomainLanguage()


class Domain:
    """A domain with all that it takes over from the one that it is based on.
    Build it with `read_domain`."""

    def __init__(self, file: Path, content: DomainFile, base: Domain | None, digest: str) -> None:
        self.name, self.file, self.digest = file.stem, file, digest
        self.titles: str = content.titles or (base.titles if base else "goods")
        self.offers: tuple[str, ...] = base.offers if base and content.offers is None else content.offers or ()
        inherited = base.generated_lines if base else True
        self.generated_lines: bool = inherited if content.generated_lines is None else content.generated_lines
        own_events = {
            re.sub(r"[\s\-]+", "_", name.strip().casefold()): action
            for action, names in content.events.items()
            for name in names
        }
        self.events: Mapping[str, Action] = {**(base.events if base else {}), **own_events}
        self.words: dict[str, dict[str, str]] = {}
        """Language -> name -> word."""
        self.bodies: dict[str, dict[str, tuple[Path, str]]] = {}
        """Language -> template -> (file, text), where the shop's own text does not do."""
        self.never: dict[str, tuple[str, ...]] = {}
        self.neutral: dict[str, tuple[str, ...]] = {}
        for language in LANGUAGES:
            of_language: DomainLanguage = getattr(content, language)
            words = {key: neutralise(word, max_chars=WORD_CHARS) for key, word in of_language.words.items()}
            if base:
                _check_words(words, base.words[language], f"{file}: [{language}.words]")
            bodies = {key: (file, body.strip("\n")) for key, body in of_language.templates.items()}
            self.words[language] = {**(base.words[language] if base else {}), **words}
            self.bodies[language] = {**(base.bodies[language] if base else {}), **bodies}
            self.never[language] = of_language.never or (base.never[language] if base else ())
            self.neutral[language] = (*(base.neutral[language] if base else ()), *of_language.neutral)


def _check_words(words: Mapping[str, str], usual: Mapping[str, str], where: str) -> None:
    for name, word in words.items():
        if name not in usual:
            raise PromptError(f"{where} {name} is a word of no template; there are: {', '.join(sorted(usual))}")
        if _holes(word) != _holes(usual[name]):
            raise PromptError(f"{where} {name} = {word!r} must hold as many %s as {usual[name]!r}, and no other %")
        if name.endswith("quotes") and len(word) != 2 and word != usual[name]:
            raise PromptError(f"{where} {name} = {word!r} must be two marks")


def read_domain(file: Path, base_of: Callable[[str], Domain]) -> Domain:
    """Reads a file. base_of: name -> `Domain`.
    Raises `PromptError` that names the file and what is wrong in it."""
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
        text = file.read_text(encoding="utf-8")
        content = DomainFile(**toml_table(text))
    except (OSError, ValueError, UsageError) as error:
        raise PromptError(f"{file} is no domain: {error}; correct the file") from error
    base = base_of(content.based_on) if content.based_on is not None else None
    digest = hashlib.sha256((text + (base.digest if base is not None else "")).encode()).hexdigest()[:16]
    return Domain(file, content, base, digest)


def domain_of(locale: str) -> str:
    """ "zh@media" -> "media", "zh" -> "shop"."""
    return locale.partition("@")[2] or SHOP


def without_domain(locale: str) -> str:
    """ "zh@media" -> "zh"."""
    return locale.partition("@")[0]


def in_domain(locale: str, domain: str) -> str:
    """The locale as `domain` speaks it: "en", "media" -> "en@media"."""
    plain = without_domain(locale)
    return plain if domain == SHOP else f"{plain}@{domain}"


def _holes(word: str) -> int:
    """The number of %s in a word; -1 where another % stands in it."""
    return -1 if "%" in word.replace("%s", "") else word.count("%s")
