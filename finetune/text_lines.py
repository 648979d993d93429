"""What a recipe learns from, as a file of one JSON object a line: texts that a shop approved.

    {"item": {"id": "b", "title": "Sandwich buns", ...}, "locale": "en", "channel": "push",
     "parts": {"title": "Sandwich buns for lunch", "body": "In stock today, at $2.49."}}

`parts` are those of the channel. A text that the checks forbid is not learned.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from recllm.base.documents import parsed
from recllm.base.errors import DataError, RecllmError
from recllm.market.adcopy.channels import channel_named
from recllm.market.adcopy.request import CopyRequest, checked_locale
from recllm.market.adcopy.situation import situation_of
from recllm.market.adcopy.submissions import StrictLine, SubmittedItem, filled_lines, json_object
from recllm.market.adcopy.verify.guarantees import review
from recllm.market.adcopy.write import brief, sayable_facts


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

    item: SubmittedItem
    parts: dict[str, str]
    channel: str = "email"
    locale: str = "en"


@dataclass(frozen=True, slots=True)
class Pair:
    prompt: str
    answer: str
    """The parts of the text, one a line."""


def read_approved(file: Path) -> Iterator[ApprovedText]:
    """The texts of a file in UTF-8; blank lines are skipped. Raises `DataError` with file and line for a faulty one."""
    for where, values in read_json_lines(file):
        try:
            entry = parsed(ApprovedText, values, owner="an approved text")
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
