"""What the recipes learn from, as files of one JSON object a line: texts that a shop approved, and A/B tests.

    {"item": {"id": "b", "title": "Sandwich buns", ...}, "locale": "en", "channel": "push",
     "parts": {"title": "Sandwich buns for lunch", "body": "In stock today, at $2.49."}}

`parts` are those of the channel. A text that the checks forbid is not learned.

    {"test": "spring", "a": "Soft buns.", "b": "Buns.", "wins_a": 31, "shown_a": 900, "wins_b": 20, "shown_b": 880,
     "reason": "together", "channel": "push", "fold": 0}

`a` and `b` were shown at random in one test, `wins` are the showings with an answer; `reason`, `channel` and `fold` may
be left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from recllm.base.errors import DataError, RecllmError
from recllm.learn.models.effect import TextPair, in_context
from recllm.market.adcopy.brief import brief
from recllm.market.adcopy.channels import channel_named
from recllm.market.adcopy.packs import FilledText, parse
from recllm.market.adcopy.request import CopyRequest, checked_locale
from recllm.market.adcopy.sayable import sayable_facts
from recllm.market.adcopy.situation import situation_of
from recllm.market.adcopy.submissions import StrictLine, SubmittedItem, filled_lines, json_object
from recllm.market.adcopy.verify.guarantees import review


def read_json_lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and line for messages, object) of each line that is not blank. Raises `DataError` for the first that is no
    object."""
    for number, line in filled_lines(file):
        where = f"{file}, line {number}"
        try:
            yield where, json_object(line)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error


# --- texts that the shop approved, for a generator to learn from ----------------------------------------------------

_NOW = datetime(2000, 1, 1, tzinfo=UTC)
"""These texts hold no offer, so that the moment decides nothing."""


class ApprovedText(StrictLine):
    """One text that the shop approved, and what it is for."""

    item: SubmittedItem = Field(description="an object")
    parts: dict[str, str] = Field(description="an object of texts")
    channel: str = Field("email", description="a text")
    locale: str = Field("en", description="a text")


@dataclass(frozen=True, slots=True)
class Pair:
    prompt: str
    answer: str
    """The parts of the text, one a line."""


def read_approved(file: Path) -> Iterator[ApprovedText]:
    """The texts of a file in UTF-8; blank lines are skipped. Raises `DataError` with file and line for a faulty one."""
    for where, values in read_json_lines(file):
        try:
            entry = parse(ApprovedText, values, owner="an approved text")
            checked_locale(entry.locale)
            channel_named(entry.channel)
        except RecllmError as error:
            raise DataError(f"{where}: no approved text: {error}") from error
        yield entry


def pairs(approved: Iterable[ApprovedText]) -> list[tuple[Pair, str]]:
    """(pair, item id) of each text that may be sent, with the short prompt of a tuned model; each pair once."""
    item_ids: dict[Pair, str] = {}
    for entry in approved:
        item = entry.item.item()
        request = CopyRequest(item=item, channel=entry.channel, now=_NOW, locale=entry.locale)
        missing = [slot.name for slot in request.limits.slots if not entry.parts.get(slot.name, "").strip()]
        if missing or not review(request.limits.joined(entry.parts), request).verified:
            continue
        prompt = brief(request, situation_of(request, sayable_facts(request)), None, tuned=True)
        answer = "\n".join(f"{name}: {text.strip()}" for name, text in entry.parts.items())
        item_ids[Pair(prompt, answer)] = item.item_id
    return list(item_ids.items())


def split(pairs_of_items: Iterable[tuple[Pair, str]], *, share: float = 0.1) -> tuple[list[Pair], list[Pair]]:
    """(to learn from, to judge by): by the hash of the item, so that no item is in both."""
    parts: tuple[list[Pair], list[Pair]] = ([], [])
    for pair, item_id in pairs_of_items:
        parts[is_held_back(item_id, share)].append(pair)
    return parts


def is_held_back(item_id: str, share: float) -> bool:
    return int.from_bytes(sha256(item_id.encode()).digest()[:4]) < share * 2**32


# --- A/B tests --------------------------------------------------------------------------------------------------------


def _not_boolean(value: object) -> object:
    return "" if isinstance(value, bool) else value


WholeNumber = Annotated[int, Field(ge=0), BeforeValidator(_not_boolean)]


class _PairLine(StrictLine):
    test: FilledText = Field(description="a string")
    a: FilledText = Field(description="a text")
    b: FilledText = Field(description="a text")
    wins_a: WholeNumber = Field(description="a whole number at least 0")
    shown_a: WholeNumber = Field(description="a whole number above 0")
    wins_b: WholeNumber = Field(description="a whole number at least 0")
    shown_b: WholeNumber = Field(description="a whole number above 0")
    reason: str | None = Field(None, description="a string")
    channel: str | None = Field(None, description="a string")
    fold: WholeNumber | None = Field(None, description="a whole number at least 0")


def read_pairs(file: Path) -> list[TextPair]:
    """The pairs of a file in UTF-8; blank lines are skipped. Raises `DataError` with file and line for a faulty one,
    for a test in two folds, for a fold given to some lines only, and for a pair that stands twice in its test."""
    pairs: list[TextPair] = []
    folds: dict[str, tuple[int | None, str]] = {}
    line_of_pair: dict[tuple[str, frozenset[str]], str] = {}
    for where, values in read_json_lines(file):
        try:
            line = parse(_PairLine, values, owner="a pair")
            pair = TextPair(**dict(line))
        except DataError as error:
            raise DataError(f"{where}: no pair: {error}") from error
        fold, first = folds.setdefault(pair.test, (pair.fold, where))
        if fold != pair.fold:
            raise DataError(
                f"{where}: the test {pair.test!r} is in the fold {pair.fold}, and in {fold} at {first}; a test belongs "
                "to one fold whole, or a model is judged by what it learned from"
            )
        if pairs and (pairs[0].fold is None) != (pair.fold is None):
            raise DataError(f"{where}: some lines have a fold and some have none; give one to all, or to none")
        key = pair.test, frozenset(in_context(text, pair.reason, pair.channel) for text in (pair.a, pair.b))
        if key in line_of_pair:
            raise DataError(
                f"{where}: the test {pair.test!r} has these two texts at {line_of_pair[key]} already; add them up"
            )
        line_of_pair[key] = where
        pairs.append(pair)
    if not pairs:
        raise DataError(f"{file} has no pair; give one JSON object a line")
    return pairs
