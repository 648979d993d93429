"""The guarantees: one function each. What fails one of them never leaves as a verified text.

    checks = verify(text, facts, channel="push", locale="en", now=now)
    all(check.passed for check in checks)

The word lists and limits are data, in `recllm/adcopy/data/`. They help a reviewer; they are not legal advice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

from recllm.adcopy.channels import channel as channel_named
from recllm.adcopy.facts import FactSheet
from recllm.adcopy.packs import Pack
from recllm.adcopy.verify import claims, form, naming, people, rules
from recllm.adcopy.verify import style as manner
from recllm.adcopy.verify.case import Case, Fault
from recllm.adcopy.verify.rules import Warned
from recllm.adcopy.voice import Voice
from recllm.errors import UsageError
from recllm.schema import Check
from recllm.text.templates import LOCALES

MAX_TEXT = 4_000
"""Longer texts are refused unread: no channel takes them."""

Guarantee = Callable[[Case], Iterator[Fault]]

GUARANTEES: Mapping[str, Guarantee] = {
    "G1": claims.numbers,
    "G2": claims.offers,
    "G3": claims.proofs,
    "G4": naming.foreign_names,
    "G5": naming.product_named,
    "G6": form.fits_channel,
    "G7": manner.mandatory_parts,
    "G8": people.personal_data,
    "G9": people.clean_language,
    "G10": people.leaks,
    "G11": form.right_language,
    "G12": form.well_formed,
    "G14": manner.in_voice,
    "G17": claims.currency_format,
}


def verify(
    text: str,
    facts: FactSheet,
    *,
    channel: str,
    locale: str,
    now: datetime,
    known_brands: Iterable[str] = (),
    evidence: Mapping[str, str] | None = None,
    prompt: str = "",
    packs: Iterable[Pack] = (),
    voice: Voice | None = None,
) -> tuple[Check, ...]:
    """Checks one text against the facts of its item. Each guarantee gives one passed check, or one per fault.

    `evidence` holds the proofs that the shop has, by the key of the claim's family in data/claims.toml or of the rule,
    for instance {"certification": "EU 2018/848, no. 123"}. `known_brands` are the catalogue's. `prompt` is what the
    model was told besides the facts. `now` decides whether the offer runs. `packs` are the laws that hold where the
    text goes, `voice` the brand's. Raises `UsageError` for an unknown channel or locale.
    """
    case = Case(
        text=text,
        facts=facts,
        channel=channel_named(channel),
        locale=known_locale(locale),
        now=now,
        known_brands=known_brands if isinstance(known_brands, frozenset) else frozenset(known_brands),
        evidence=evidence or {},
        prompt=prompt,
        packs=tuple(packs),
        voice=voice or Voice(),
    )
    return review(case).checks


@dataclass(frozen=True, slots=True)
class Review:
    """All that is said about one text."""

    checks: tuple[Check, ...]
    warnings: tuple[Warned, ...] = ()
    """What the rule packs ask a person to look at; none of it keeps the text back."""


def review(case: Case) -> Review:
    """`verify` for a case that is already put together, with the warnings of its rule packs."""
    if len(case.text) > MAX_TEXT:
        return Review((_too_long(case.text),))
    found = rules.broken(case)
    checks = [_checks(n, chain(check(case), rules.faults(found, n))) for n, check in GUARANTEES.items()]
    return Review(tuple(chain.from_iterable(checks)), rules.warnings(found))


def passed(checks: Iterable[Check]) -> bool:
    return all(check.passed for check in checks)


def known_locale(locale: str) -> str:
    """The locale, when texts can be written in its language; raises `UsageError` otherwise."""
    if locale.replace("_", "-").split("-")[0].lower() not in LOCALES:
        raise UsageError(f"unknown locale {locale!r}; texts are written in: {', '.join(LOCALES)}")
    return locale


def _checks(name: str, faults: Iterable[Fault]) -> tuple[Check, ...]:
    found = tuple(Check(guarantee=name, passed=False, message=f.message, span=f.span) for f in faults)
    return found or (Check(guarantee=name, passed=True),)


def _too_long(text: str) -> Check:
    message = f"the text has {len(text)} characters; no channel takes more than {MAX_TEXT}"
    return Check(guarantee="G6", passed=False, message=message)
