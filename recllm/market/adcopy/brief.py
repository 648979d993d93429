"""What a text model is asked: the facts as frames have them, the idea of a frame, and texts of the copybook. And how
its answer is read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from recllm.base.schema import Check
from recllm.market.adcopy.channels import CALL_TO_ACTION, Channel
from recllm.market.adcopy.frames import Frame, Parts, Situation
from recllm.market.adcopy.request import CopyRequest
from recllm.text.templates import Prompts

_EXAMPLES = 3
_SAID = (
    "item",
    "short",
    "category",
    "brand",
    "price",
    "pack",
    "words",
    "rhythm",
    "last",
    "with_item",
    "first_item",
    "lapsed",
    "offer.line",
    "offer",
    "until",
    "occasion",
    "day",
    "old_price",
    "shop",
)
_LINE = re.compile(r"^\W*(?P<name>[a-z_ ]{3,20}?)\W*[:：]\s*(?P<text>.+)$", re.IGNORECASE)


def brief(request: CopyRequest, situation: Situation, frame: Frame | None, *, tuned: bool = False) -> str:
    """The prompt of one text: its facts, the parts and their limits, a frame's words as its meaning, and examples. A
    model that is tuned on the shop's texts gets the facts and the parts alone."""
    facts = {name: situation.slots[name] for name in _SAID if name in situation.slots}
    parts = {} if frame is None else {name: texts[0] for name, texts in frame.channels[request.channel].items()}
    voice = request.voice
    return Prompts.load().render(
        "ad_brief",
        request.locale,
        facts=list(facts.items()),
        meaning=[] if tuned else [[name, text] for name, text in parts.items()],
        parts=[[slot.name, slot.max] for slot in request.limits.slots],
        button="button" in parts,
        examples=[] if tuned or frame is None else examples(request.language, request.channel, frame),
        address=voice.address,
        banned=list(voice.banned),
        required=list(voice.required),
        exclamation=voice.exclamation,
    )


def second_brief(first: str, text: str, faults: Sequence[Check], *, locale: str) -> str:
    """`first` with a text that was refused and why, and the request for another one."""
    messages = list(dict.fromkeys(check.message for check in faults))[:5]
    correction = Prompts.load().render("ad_brief.again", locale, text=text.replace("\n", " / "), faults=messages)
    return f"{first}\n{correction}"


def examples(language: str, channel: str, frame: Frame) -> list[list[list[str]]]:
    """The parts of the texts of the copybook nearest to a frame: of its occasion and reason before others."""

    def distance(entry: Mapping[str, Any]) -> int:
        return int(entry["occasion"] not in frame.occasions) + int(entry["reason"] != frame.reason)

    usable = [entry for entry in _copybook(language) if entry["channel"] == channel]
    return [
        [[name, text] for name, text in entry["text"].items()] for entry in sorted(usable, key=distance)[:_EXAMPLES]
    ]


@cache
def _copybook(language: str) -> list[dict[str, Any]]:
    file = Path(Prompts.load().folder) / f"copybook.{language}.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def parts_of_answer(answer: str, channel: Channel) -> Parts | None:
    """The parts of an answer that is a JSON object or lines "subject: ..."; None where one is missing."""
    named: dict[str, str] = {}
    start, end = answer.find("{"), answer.rfind("}")
    if 0 <= start < end:
        try:
            values = json.loads(answer[start : end + 1])
        except ValueError:
            values = None
        if isinstance(values, dict):
            named = {
                str(k).strip().lower(): str(v).strip() for k, v in values.items() if isinstance(v, str) and v.strip()
            }
    if not named:
        for line in answer.splitlines():
            if match := _LINE.match(line.strip()):
                named.setdefault(match["name"].strip().lower(), match["text"].strip(" \"'"))
    parts = {slot.name: named.get(slot.name, "") for slot in channel.slots}
    if len(channel.slots) == 1 and not parts[channel.slots[0].name] and not named and answer.strip():
        parts = {channel.slots[0].name: answer.strip()}
    if "button" in named:
        parts["button"] = named["button"]
    elif CALL_TO_ACTION in named:
        parts["button"] = named[CALL_TO_ACTION]
    return parts if all(parts.values()) else None
