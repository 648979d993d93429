"""What a shop's approved copy teaches a generator: pairs of what it is asked and the opening line that a person wrote.

    {"item": {"id": "b", "title": "Sandwich buns", ...}, "locale": "en", "reason": "together", "hook": "Soft buns ..."}

One JSON object a line; `reason` is a `ReasonKind`, "general" where it is left out, and `item` has the fields of a
submission's. A line that may not be said is not learned: the model would be stopped for what it was taught.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from recllm.adcopy.job import Job, open_job
from recllm.adcopy.opening_line import hook_faults, hook_prompt
from recllm.adcopy.submissions import item_of
from recllm.adcopy.verify import known_locale
from recllm.errors import DataError, RecllmError
from recllm.schema import Item, ReasonKind
from recllm.text.templates import Prompts

_NOW = datetime(2000, 1, 1, tzinfo=UTC)
"""A hook holds no offer, so that the moment decides nothing."""
_KEYS = frozenset({"item", "locale", "reason", "hook"})


@dataclass(frozen=True, kw_only=True)
class Approved:
    """One opening line that the shop approved, and what it is for."""

    item: Item
    hook: str
    locale: str = "en"
    reason: ReasonKind = ReasonKind.GENERAL


@dataclass(frozen=True, slots=True)
class Pair:
    prompt: str
    hook: str


def read_approved(file: Path) -> Iterator[Approved]:
    """The lines of a file in UTF-8; blank ones are skipped. Raises `DataError` with file and line for a faulty one."""
    with file.open(encoding="utf-8-sig") as opened:
        for number, line in enumerate(opened, start=1):
            if line.strip():
                try:
                    yield _approved(json.loads(line))
                except (ValueError, RecllmError) as error:
                    raise DataError(f"{file}, line {number}: no approved line: {error}") from error


def pairs(approved: Iterable[Approved], *, prompts: Prompts | None = None) -> list[tuple[Pair, str]]:
    """(pair, item id) of each line that may be said, as the short prompt of a tuned model; each pair once."""
    known = prompts or Prompts.load()
    jobs: dict[tuple[str, str], Job] = {}
    found = {}
    for line in approved:
        key = line.item.item_id, line.locale
        if key not in jobs:  # a title is made sayable once, however many lines the item has
            jobs[key], _ = open_job(line.item, channel="email", now=_NOW, locale=line.locale, prompts=known)
        if sayable(line.hook, jobs[key]):
            prompt = hook_prompt(jobs[key].facts, line.reason, line.locale, known, examples=False)
            found[Pair(prompt, line.hook)] = line.item.item_id
    return list(found.items())


def sayable(hook: str, job: Job) -> bool:
    """True when a message with the line passes every check."""
    if not job.askable or hook_faults(hook, job.facts, job.frame.locale):
        return False
    return not job.faults(job.draft(hook).text)


def split(found: Iterable[tuple[Pair, str]], *, share: float = 0.1) -> tuple[list[Pair], list[Pair]]:
    """(to learn from, to judge by): by the hash of the item, so that no item is in both."""
    parts: tuple[list[Pair], list[Pair]] = ([], [])
    for pair, item_id in found:
        parts[held_back(item_id, share)].append(pair)
    return parts


def held_back(item_id: str, share: float) -> bool:
    return int.from_bytes(sha256(item_id.encode()).digest()[:4]) < share * 2**32


def _approved(values: Any) -> Approved:
    if not isinstance(values, dict) or set(values) - _KEYS or not {"item", "hook"} <= set(values):
        raise DataError(f"each line is an object with item and hook, and perhaps {', '.join(sorted(_KEYS))}")
    if not isinstance(values["hook"], str) or not isinstance(values["item"], dict):
        raise DataError("hook is a text and item an object")
    try:
        reason = ReasonKind(values.get("reason", "general"))
    except ValueError as error:
        raise DataError(f"reason is one of {', '.join(ReasonKind)}, not {values['reason']!r}") from error
    locale = known_locale(str(values.get("locale", "en")))
    return Approved(item=item_of(values["item"]), hook=values["hook"].strip(), locale=locale, reason=reason)
