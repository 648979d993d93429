"""Texts that anyone wrote, one JSON object a line, and what the checks say about each.

    {"id": "a1", "text": "...", "channel": "push", "locale": "en", "item": {"title": "...", "price": "2.49", ...},
     "offer": {"type": "percent", "value": 20, "start": "...", "end": "..."}, "packs": ["us_ftc"],
     "known_brands": ["Acme"], "evidence": {"award": "..."}}

`id`, `text`, `channel`, `locale` and `item.title` are needed; without `packs`, all of them are applied.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from recllm.adcopy.channels import channel as channel_named
from recllm.adcopy.facts import FactSheet, Offer, OfferType
from recllm.adcopy.packs import Pack, pack_names
from recllm.adcopy.packs import packs as packs_named
from recllm.adcopy.verify import known_locale, passed, review
from recllm.adcopy.verify.case import Case
from recllm.adcopy.verify.rules import Warned
from recllm.adcopy.voice import Voice
from recllm.errors import DataError, RecllmError
from recllm.schema import Check, Item

_KEYS = frozenset({"id", "text", "channel", "locale", "item", "offer", "packs", "known_brands", "evidence"})
_ITEM_KEYS = frozenset({"id", "title", "brand", "category", "price", "list_price", "currency", "attributes"})
_OFFER_KEYS = frozenset({"type", "value", "start", "end"})


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One text with everything that decides about it."""

    id: str
    text: str
    channel: str
    locale: str
    facts: FactSheet
    packs: tuple[Pack, ...]
    known_brands: frozenset[str]
    evidence: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the checks say about one submission."""

    id: str
    verified: bool
    failures: tuple[Check, ...]
    warnings: tuple[Warned, ...]


def read_submissions(file: Path) -> Iterator[Submission]:
    """The submissions of a file in UTF-8; blank lines are skipped.

    Raises `DataError` with file and line for a line that is no submission, and for an id that occurs twice.
    """
    seen: set[str] = set()
    for number, line in enumerate(_lines(file), start=1):
        if line.strip():
            try:
                found = submission(_object(line))
                _new(found.id, seen)
            except RecllmError as error:
                raise DataError(f"{file}, line {number}: {error}") from error
            yield found


def judge(asked: Submission, *, now: datetime, packs: tuple[Pack, ...] = (), voice: Voice | None = None) -> Verdict:
    """Every guarantee on one text, with its rule packs and those of `packs`; `now` decides whether its offer runs."""
    case = Case(
        text=asked.text,
        facts=asked.facts,
        channel=channel_named(asked.channel),
        locale=asked.locale,
        now=now,
        known_brands=asked.known_brands,
        evidence=asked.evidence,
        packs=(*asked.packs, *packs),
        voice=voice or Voice(),
    )
    found = review(case)
    failures = tuple(check for check in found.checks if not check.passed)
    return Verdict(id=asked.id, verified=passed(found.checks), failures=failures, warnings=found.warnings)


def submission(values: Mapping[str, Any]) -> Submission:
    """One parsed line as a submission. Raises `DataError` or `UsageError` that names the field."""
    _known_keys(values, _KEYS, "the line")
    channel, locale = _text(values, "channel"), _text(values, "locale")
    return Submission(
        id=_text(values, "id"),
        text=_any_text(values, "text"),
        channel=channel_named(channel).name,
        locale=known_locale(locale),
        facts=_facts(_table(values, "item"), _offer(values.get("offer"))),
        packs=packs_named(_names(values, "packs") if values.get("packs") is not None else pack_names()),
        known_brands=frozenset(_names(values, "known_brands")),
        evidence=_texts(_table(values, "evidence", optional=True), "evidence"),
    )


def _lines(file: Path) -> Iterator[str]:
    try:
        with file.open(encoding="utf-8-sig") as opened:
            yield from opened
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 at byte {error.start}; save it as UTF-8") from error


def _object(line: str) -> Mapping[str, Any]:
    try:
        found = json.loads(line, parse_float=Decimal)
    except ValueError as error:
        raise DataError(f"not JSON: {error}") from error
    except RecursionError as error:
        raise DataError("nested too deeply to be a submission") from error
    if not isinstance(found, dict):
        raise DataError("each line is one JSON object")
    return found


def _new(name: str, seen: set[str]) -> None:
    if name in seen:
        raise DataError(f"the id {name!r} occurs twice; each text needs its own")
    seen.add(name)


def _facts(item: Mapping[str, Any], offer: Offer | None) -> FactSheet:
    return FactSheet.of(item_of(item), offer=offer, list_price=_number(item.get("list_price"), "item.list_price"))


def item_of(item: Mapping[str, Any]) -> Item:
    """The item of a parsed line. Raises `DataError` that names the field."""
    _known_keys(item, _ITEM_KEYS, "item")
    return Item(
        item_id=_any_text(item, "id", optional=True),
        title=_text(item, "title"),
        brand=_any_text(item, "brand", optional=True) or None,
        category=_category(item.get("category")),
        price=_number(item.get("price"), "item.price"),
        currency=_any_text(item, "currency", optional=True) or None,
        attributes=_texts(_table(item, "attributes", optional=True), "item.attributes"),
    )


def _category(value: object) -> tuple[str, ...]:
    """A list from the widest to the narrowest name, or one string with ">" between the names."""
    if value is None:
        return ()
    names = value.split(">") if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError('item.category is a list of names or a string such as "food > tea"')
    return tuple(name.strip() for name in names if name.strip())


def _offer(values: object) -> Offer | None:
    if values is None:
        return None
    if not isinstance(values, dict):
        raise DataError("offer is an object with a type, or null")
    _known_keys(values, _OFFER_KEYS, "offer")
    try:
        kind = OfferType(_text(values, "type"))
    except ValueError as error:
        raise DataError(f"offer.type is one of {', '.join(OfferType)}, not {values['type']!r}") from error
    start, end = (_moment(values.get(name), f"offer.{name}") for name in ("start", "end"))
    return Offer(type=kind, value=_number(values.get("value"), "offer.value"), start=start, end=end)


def _moment(value: object, name: str) -> datetime | None:
    if value is None:
        return None
    try:
        return datetime.fromisoformat(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} is a time such as 2025-11-10T00:00:00+08:00, not {value!r}") from error


def _number(value: object, name: str) -> Decimal | None:
    if value is None:
        return None
    if isinstance(value, str | int | Decimal) and not isinstance(value, bool):
        try:
            number = Decimal(value)
        except InvalidOperation:
            number = Decimal("nan")
        if number.is_finite():
            return number
    raise DataError(f"{name} is a number, not {value!r}")


def _text(values: Mapping[str, Any], name: str) -> str:
    found = _any_text(values, name)
    if not found.strip():
        raise DataError(f"{name} is empty")
    return found


def _any_text(values: Mapping[str, Any], name: str, *, optional: bool = False) -> str:
    value = values.get(name)
    if value is None and optional:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{name} is missing" if value is None else f"{name} is a string, not {value!r}")
    return value


def _table(values: Mapping[str, Any], name: str, *, optional: bool = False) -> Mapping[str, Any]:
    value = values.get(name)
    if value is None and optional:
        return {}
    if not isinstance(value, dict):
        raise DataError(f"{name} is missing" if value is None else f"{name} is an object, not {value!r}")
    return value


def _texts(values: Mapping[str, Any], name: str) -> dict[str, str]:
    if wrong := next((key for key, value in values.items() if isinstance(value, dict | list) or value is None), None):
        raise DataError(f"{name}.{wrong} is a text")
    return {key: str(value) for key, value in values.items()}


def _names(values: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = values.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise DataError(f"{name} is a list of names, not {value!r}")
    return tuple(value)


def _known_keys(values: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    if unknown := sorted(set(values) - set(known)):
        raise DataError(f"{where} has no field {unknown[0]!r}; known: {', '.join(sorted(known))}")
