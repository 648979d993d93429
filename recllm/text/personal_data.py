"""Finds personal data in free text: e-mail, phones, numbers of cards and accounts, addresses, names.

    find_personal_data("Call Ann on +49 30 1234567")   # (Finding(kind=PHONE, start=12, end=26),)
    scrub("Call Ann on +49 30 1234567")                # ("Call Ann on [phone]", (Finding(...),))

E-mail, cards, IBAN and numbers with a check digit are found wherever they stand; other digits need a word next to them,
and the nearest such word decides: "order 4155550132" is none, "call 4155550132" is one. Names need a salutation, a
label or a phone next to them, addresses a street and a number, or a postcode and a town. It is a net and no proof.

What finds a kind is in `recllm.text.finders`, patterns and word lists in `data/personal_data.toml`. Time is linear.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, lru_cache

from recllm.text.finders.addresses import addresses
from recllm.text.finders.names import names
from recllm.text.finders.numbers import cards, ibans, phones, resident_ids
from recllm.text.finders.online import emails, handles, ip_addresses, links
from recllm.text.finders.patterns import Span, entry, plain_text


class PersonalDataKind(StrEnum):
    """What a finding is."""

    EMAIL = "email"
    HANDLE = "handle"
    """A name in a network, or a link that names a person or carries credentials."""
    IBAN = "iban"
    RESIDENT_ID = "resident_id"
    """The Chinese identity number, 18 characters."""
    CARD = "card"
    IP = "ip"
    PHONE = "phone"
    ADDRESS = "address"
    """Street and number, and what stands with them."""
    NAME = "name"


EXACT_KINDS = frozenset(PersonalDataKind) - {PersonalDataKind.ADDRESS, PersonalDataKind.NAME}
"""Those with a check digit or a shape of their own."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One piece of personal data: `text[start:end]`."""

    kind: PersonalDataKind
    start: int
    end: int


def find_personal_data(text: str, kinds: frozenset[PersonalDataKind] | None = None) -> tuple[Finding, ...]:
    """All findings in order, or those of the kinds; no two overlap."""
    plain, offsets = plain_text(text)
    is_taken = bytearray(len(plain))
    findings: list[Finding] = []
    last = max((n for n, (kind, _) in enumerate(_FINDERS) if kinds is None or kind in kinds), default=-1)
    for kind, spans_of in _FINDERS[: last + 1]:
        for start, end in spans_of(plain):
            if start < end and not any(is_taken[start:end]):
                is_taken[start:end] = b"\1" * (end - start)
                first, last = (start, end - 1) if offsets is None else (offsets[start], offsets[end - 1])
                findings.append(Finding(kind, first, last + 1))
    of_kinds = (finding for finding in findings if kinds is None or finding.kind in kinds)
    return tuple(sorted(of_kinds, key=lambda finding: finding.start))


def scrub(text: str, kinds: frozenset[PersonalDataKind] | None = None) -> tuple[str, tuple[Finding, ...]]:
    """(the text with `[email]`, `[phone]` and so on in place of findings, the findings). Idempotent.

    kinds: those that are replaced; all by default.
    """
    return _replaced(text, kinds, lambda finding: f"[{finding.kind}]")


@lru_cache(maxsize=1 << 12)  # the same products are shown again and again
def without_personal_data(text: str, kinds: frozenset[PersonalDataKind] | None = None) -> str:
    """The text with the findings cut out, for readers to whom a placeholder would mean something else."""
    cut, findings = _replaced(text, kinds, lambda finding: " ")
    return " ".join(_HOLLOW.sub(" ", cut).split()) if findings else text


@cache
def personal_data_hints() -> tuple[str, ...]:
    """Patterns without look around, for engines that search a whole column at once: a text that none of them matches
    holds nothing that `find_personal_data` finds. Together in one they would be several times as slow."""
    lines = (line.strip(" |") for line in entry("hint.texts").splitlines())
    return tuple(f"(?i){line}" for line in lines if line)


def _replaced(
    text: str, kinds: frozenset[PersonalDataKind] | None, words: Callable[[Finding], str]
) -> tuple[str, tuple[Finding, ...]]:
    findings = find_personal_data(text, kinds)
    pieces: list[str] = []
    end = 0
    for finding in findings:
        pieces += (text[end : finding.start], words(finding))
        end = finding.end
    return "".join([*pieces, text[end:]]), findings


_HOLLOW = re.compile(r"[(\[（【<][\s,;:：，；/-]{0,8}[)\]）】>]")

_FINDERS: tuple[tuple[PersonalDataKind, Callable[[str], Iterator[Span]]], ...] = (
    (PersonalDataKind.HANDLE, links),
    (PersonalDataKind.EMAIL, emails),
    (PersonalDataKind.HANDLE, handles),
    (PersonalDataKind.IBAN, ibans),
    (PersonalDataKind.RESIDENT_ID, resident_ids),
    (PersonalDataKind.CARD, cards),
    (PersonalDataKind.IP, ip_addresses),
    (PersonalDataKind.PHONE, phones),
    (PersonalDataKind.ADDRESS, addresses),
    (PersonalDataKind.NAME, names),
)
"""Where two would overlap, the first stands."""
