"""What people do with items where nothing is bought in a shop: films are watched, articles read, courses taken.

A domain is one file, `prompts/domains/NAME.toml`. It holds the words that templates name as `words.NAME`, whole texts
in place of the shop's, and what its logs call the usual actions. The shop is a domain like any other, and the one that
all others begin with: what a file leaves out is as in the domain that it is `based_on`. A workspace may bring a file of
its own, `domains/NAME.toml` in its folder.

A locale says which domain speaks: "en" is the shop's English, "zh@media" the Chinese of a media service, as POSIX
writes a variant of a language.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from recllm.documents import FrozenModel, Text, toml_table
from recllm.errors import PromptError, UsageError
from recllm.schema import Action
from recllm.text.injection import neutralise

SHOP = "shop"
"""The domain of a locale that names none."""
FOLDER = "domains"
"""Of the domains, in `prompts/` and in a workspace."""
WORD_CHARS = 80
EVENT_NAMES = 200
"""Names of events that a domain may know, for each action."""

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")
Names = Annotated[tuple[Text, ...], Field(max_length=EVENT_NAMES)]


class DomainLanguage(FrozenModel):
    """What a domain says in one language."""

    words: Mapping[Text, Annotated[Text, StringConstraints(max_length=WORD_CHARS)]] = {}
    """Name -> word, as templates use them: `words.bought`. Text, never a template."""
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
    """The domain that says what this one leaves out."""
    titles: Literal["goods", "names", "works"] | None = None
    """What titles are. "goods" end in a size ("Ice cream 56 oz"), stand on a shelf that has sentences of its own, and
    lose what promises something ("SALE"). "names" have neither size nor shelf. Those of "works" also stay as they are,
    as long as they state no price: Free Willy. None is as in `based_on`, and so below."""
    offers: tuple[Literal["percent", "amount", "free_shipping", "gift", "bogo", "coupon"], ...] | None = None
    """The kinds of offers that texts tell; of another kind there is nothing to say here."""
    events: Mapping[Action, Names] = {}
    """Action -> what logs of this domain call it, besides the usual names."""
    en: DomainLanguage = DomainLanguage()
    zh: DomainLanguage = DomainLanguage()


class Domain:
    """A domain with all that it takes over from the one that it is based on. Build it with `read_domain`."""

    def __init__(self, name: str, file: Path, content: DomainFile, base: Domain | None, digest: str) -> None:
        self.name, self.file, self.digest = name, file, digest
        self.titles: str = content.titles or (base.titles if base else "goods")
        self.offers: tuple[str, ...] = base.offers if base and content.offers is None else content.offers or ()
        earlier = base.events if base is not None else {}
        self.events: dict[str, Action] = {
            **earlier,
            **{_event_name(n): a for a, ns in content.events.items() for n in ns},
        }
        self.words: dict[str, dict[str, str]] = {}
        """Language -> name -> word."""
        self.bodies: dict[str, dict[str, tuple[str, str]]] = {}
        """Language -> template -> (the domain that words it, its text)."""
        self.never: dict[str, tuple[str, ...]] = {}
        self.neutral: dict[str, tuple[str, ...]] = {}
        for language in ("en", "zh"):
            part: DomainLanguage = getattr(content, language)
            words = {key: neutralise(word, max_chars=WORD_CHARS) for key, word in part.words.items()}
            if base is not None and (unknown := sorted(set(words) - set(base.words[language]))):
                known = ", ".join(sorted(base.words[language]))
                raise PromptError(f"{file}: [{language}.words] {unknown[0]} is used by no template; there are: {known}")
            if base is not None and (
                wrong := [w for w in words if _holes(words[w]) != _holes(base.words[language][w])]
            ):
                usual = base.words[language][wrong[0]]
                raise PromptError(
                    f"{file}: [{language}.words] {wrong[0]} takes the place of {usual!r}: as many %s, no other %"
                )
            bodies = {key: (name, body.strip("\n")) for key, body in part.templates.items()}
            self.words[language] = {**(base.words[language] if base else {}), **words}
            self.bodies[language] = {**(base.bodies[language] if base else {}), **bodies}
            self.never[language] = part.never or (base.never[language] if base else ())
            self.neutral[language] = (*(base.neutral[language] if base else ()), *part.neutral)


def read_domain(file: Path, base_of: Any) -> Domain:
    """Reads a file. base_of: name -> `Domain`. Raises `PromptError` that names the file and what is wrong in it."""
    try:
        text = file.read_text(encoding="utf-8")
        content = DomainFile(**toml_table(text))
    except (OSError, ValueError, UsageError) as error:
        raise PromptError(f"{file} is no domain: {error}; correct the file") from error
    name = checked_domain(file.stem)
    base = None if name == SHOP or content.based_on is None else base_of(content.based_on)
    digest = hashlib.sha256((text + (base.digest if base is not None else "")).encode()).hexdigest()[:8]
    return Domain(name, file, content, base, digest)


def checked_domain(name: str) -> str:
    """The name, when a file may be called so; raises `UsageError` otherwise."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name of a domain: give small letters and digits, such as media")
    return name


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


def _event_name(name: str) -> str:
    return re.sub(r"[\s\-]+", "_", name.strip().casefold())
