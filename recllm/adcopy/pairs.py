"""What a shop's approved copy teaches a generator: pairs of what it is asked and the opening line that a person wrote.

    {"item": {"id": "b", "title": "Sandwich buns", ...}, "locale": "en", "reason": "together", "hook": "Soft buns ..."}

One JSON object a line; `hook` is the opening line, `reason` a `ReasonKind`, "general" where it is left out, and `item`
has the fields of a submission's. A line that may not be said is not learned: the model would be stopped for what it was
taught.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from recllm.adcopy.opening_line import line_prompt
from recllm.adcopy.parsing import parse
from recllm.adcopy.request import CopyRequest, FactSheet, checked_locale
from recllm.adcopy.submissions import SubmittedItem, read_json_lines
from recllm.adcopy.write import is_sayable, sayable_facts
from recllm.errors import DataError, RecllmError
from recllm.schema import Item, ReasonKind

_NOW = datetime(2000, 1, 1, tzinfo=UTC)
"""An opening line holds no offer, so that the moment decides nothing."""


class _ApprovedEntry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    item: SubmittedItem = Field(description="an object")
    hook: str = Field(description="a text")
    locale: str = Field("en", description="a text")
    reason: ReasonKind = Field(ReasonKind.GENERAL, description=f"one of {', '.join(ReasonKind)}")


@dataclass(frozen=True, kw_only=True)
class ApprovedLine:
    """One opening line that the shop approved, and what it is for."""

    item: Item
    line: str
    locale: str = "en"
    reason_kind: ReasonKind = ReasonKind.GENERAL


@dataclass(frozen=True, slots=True)
class Pair:
    prompt: str
    hook: str
    """The opening line."""


def read_approved(file: Path) -> Iterator[ApprovedLine]:
    """The lines of a file in UTF-8; blank ones are skipped. Raises `DataError` with file and line for a faulty one."""
    for where, values in read_json_lines(file):
        try:
            entry = parse(_ApprovedEntry, values, owner="an approved line")
            yield ApprovedLine(
                item=entry.item.item(),
                line=entry.hook.strip(),
                locale=checked_locale(entry.locale),
                reason_kind=entry.reason,
            )
        except RecllmError as error:
            raise DataError(f"{where}: no approved line: {error}") from error


def pairs(approved: Iterable[ApprovedLine]) -> list[tuple[Pair, str]]:
    """(pair, item id) of each line that may be said, as the short prompt of a tuned model; each pair once."""
    sheets: dict[tuple[str, str], tuple[CopyRequest, FactSheet]] = {}
    item_ids: dict[Pair, str] = {}
    for entry in approved:
        key = entry.item.item_id, entry.locale
        if key not in sheets:  # a title is made sayable once, however many lines the item has
            request = CopyRequest(item=entry.item, channel="email", now=_NOW, locale=entry.locale)
            sheets[key] = request, sayable_facts(request)
        request, facts = sheets[key]
        if is_sayable(entry.line, facts, request):
            prompt = line_prompt(facts, entry.reason_kind, entry.locale, examples=False)
            item_ids[Pair(prompt, entry.line)] = entry.item.item_id
    return list(item_ids.items())


def split(pairs_of_items: Iterable[tuple[Pair, str]], *, share: float = 0.1) -> tuple[list[Pair], list[Pair]]:
    """(to learn from, to judge by): by the hash of the item, so that no item is in both."""
    parts: tuple[list[Pair], list[Pair]] = ([], [])
    for pair, item_id in pairs_of_items:
        parts[is_held_back(item_id, share)].append(pair)
    return parts


def is_held_back(item_id: str, share: float) -> bool:
    return int.from_bytes(sha256(item_id.encode()).digest()[:4]) < share * 2**32
