"""From a request to ad texts that are checked: the frames that hold, their slots filled, and the check of each text.

    for copy in write_copy(CopyRequest(item=item, channel="push", now=now)): ...

A text model, where one is set up, writes the same parts from the same facts; the frame's text stands where it fails.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any

from recllm.base.errors import GenerationError
from recllm.base.schema import AdCopy, Check, CopyVerdict, Generator
from recllm.market.adcopy.channels import CALL_TO_ACTION, Channel, channel_written_for
from recllm.market.adcopy.frames import Frame, Parts, Situation, frame_file, frames_for, texts_of
from recllm.market.adcopy.request import CopyRequest, FactSheet
from recllm.market.adcopy.sayable import sayable_facts
from recllm.market.adcopy.situation import situation_of
from recllm.market.adcopy.verify.guarantees import review
from recllm.text.domains import without_domain
from recllm.text.templates import Prompts

TEMPLATE = "template"
"""What `AdCopy.generator` says of texts from frames."""
_MOST_TRIED = 24
"""Texts that are checked for one that passes."""
_REJECTED_SHOWN = 8
"""Texts that were stopped, of those that an `AdCopy` names."""
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

Rejected = tuple[str, tuple[Check, ...]]
"""A text that was stopped, and the checks that it failed."""


def write_copy(request: CopyRequest, *, generator: Generator | None = None) -> tuple[AdCopy, ...]:
    """Up to `request.variants` texts that differ; none where no frame holds, as nothing is better than a silly text.

    The same arguments give the same texts. A text that passes is preferred to one that a person must judge; where all
    fail, the first of them is returned with what is wrong, such as an offer that a law forbids. A generator
    writes first, where it may: its texts that pass come before those of frames. `AdCopy.rejected` holds what was
    stopped and why.

    Raises `UsageError` for a channel that takes no text for a customer.
    """
    channel_written_for(request.channel)
    facts = sayable_facts(request)
    situation = situation_of(request, facts)
    frames = frames_for(situation, request.channel, request.language)
    if not frames:
        return ()
    rejected: list[Rejected] = []
    copies: list[AdCopy] = []
    if generator is not None and _may_be_modelled(facts, request):
        copies, rejected = _generated(request, facts, situation, frames[0], generator)
    waiting: list[AdCopy] = []
    n_tried = 0
    for frame, parts in _candidates(frames, situation, request):
        if len(copies) >= request.variants or n_tried >= _MOST_TRIED + request.variants:
            break
        copy = _checked(request.limits.joined(parts), frame, facts, request, situation)
        if any(copy.text == written.text for written in copies):
            continue
        n_tried += 1
        if copy.verified:
            copies.append(copy)
        else:
            waiting.append(copy)
            rejected.append((copy.text, _failures(copy)))
    if not copies and waiting:
        by_verdict = [CopyVerdict.PERSON, CopyVerdict.BLOCKED]
        copies = [min(waiting, key=lambda copy: by_verdict.index(copy.verdict))]
    return tuple(replace(copy, rejected=tuple(rejected[:_REJECTED_SHOWN])) for copy in copies[: request.variants])


def _candidates(frames: Sequence[Frame], situation: Situation, request: CopyRequest) -> Iterator[tuple[Frame, Parts]]:
    """Texts of the strongest frames first, one of each in turn; where each begins is drawn by the request's seed."""
    draw = int.from_bytes(
        sha256(f"{request.seed}:{request.item.item_id}:{request.channel}".encode()).digest()[:4], "big"
    )
    for _, group in groupby(frames, key=lambda frame: (frame.reason, frame.rank)):
        of_group = list(group)
        start = draw % len(of_group)
        sources = [
            (f, texts_of(f, situation, request.limits, draw // len(of_group)))
            for f in (*of_group[start:], *of_group[:start])
        ]
        while sources:
            still = []
            for frame, texts in sources:
                if (parts := next(texts, None)) is not None:
                    yield frame, parts
                    still.append((frame, texts))
            sources = still


def _checked(
    text: str, frame: Frame | None, facts: FactSheet, request: CopyRequest, situation: Situation, by: str = TEMPLATE
) -> AdCopy:
    answer = review(text, request, facts=facts, situation=situation)
    values = {"title": facts.title, "brand": facts.brand}
    if (offer := request.running_offer) is not None:
        values["offer"] = f"{offer.type} {'' if offer.value is None else offer.value}".strip()
    return AdCopy(
        text=text,
        channel=request.channel,
        locale=without_domain(request.locale),
        generator=by,
        verified=answer.verdict is CopyVerdict.PASS,
        verdict=answer.verdict,
        ungrounded=tuple(dict.fromkeys(w.word for w in answer.ungrounded)),
        checks=answer.checks,
        facts_used={name: value for name, value in values.items() if value},
        template_version=f"{frame_file(request.language).version}:{frame.id}" if frame else "",
        item_id=facts.item_id,
        parts=request.limits.parts(text),
    )


def _failures(copy: AdCopy) -> tuple[Check, ...]:
    return tuple(check for check in copy.checks if not check.passed)


# --- texts of a model ------------------------------------------------------------------------------------------------


def _may_be_modelled(facts: FactSheet, request: CopyRequest) -> bool:
    """False for sensitive or hostile items, for titles, and for medicines and the like."""
    if not request.domain.generated_lines or request.limits.title_only:
        return False
    return not (request.is_sensitive or request.is_hostile or facts.is_sober)


def _generated(
    request: CopyRequest, facts: FactSheet, situation: Situation, frame: Frame, generator: Generator
) -> tuple[list[AdCopy], list[Rejected]]:
    """(texts of the generator that pass, what was stopped and why). It gets one more try, with what was wrong."""
    languages = getattr(generator, "languages", None)
    if languages is not None and request.language not in languages:
        message = f"{generator.name} writes {', '.join(sorted(languages))} only"
        return [], [("", (Check(guarantee="G11", passed=False, message=message),))]
    prompt = brief(request, situation, frame, tuned=getattr(generator, "tuned", False))
    try:
        answers = generator.generate(prompt, n=request.n_candidates, max_tokens=400, seed=request.seed)
    except GenerationError as error:
        return [], [("", (Check(guarantee="G16", passed=False, message=str(error)),))]
    copies, rejected = _judged(answers, request, facts, situation, generator.name)
    if not copies and rejected:
        with suppress(GenerationError):  # the first answers are there
            second_prompt = second_brief(prompt, *rejected[0], locale=request.locale)
            answers = generator.generate(second_prompt, n=1, max_tokens=400, seed=request.seed)
            copies, refused = _judged(answers, request, facts, situation, generator.name)
            rejected += refused
    return copies, rejected


def _judged(
    answers: Sequence[str], request: CopyRequest, facts: FactSheet, situation: Situation, by: str
) -> tuple[list[AdCopy], list[Rejected]]:
    copies: list[AdCopy] = []
    rejected: list[Rejected] = []
    for answer in dict.fromkeys(answers):
        parts = parts_of_answer(answer, request.limits)
        if parts is None:
            fault = Check(guarantee="G6", passed=False, message="the answer lacks parts of the channel")
            rejected.append((answer, (fault,)))
            continue
        copy = _checked(request.limits.joined(parts), None, facts, request, situation, by)
        is_offered = not situation.offer or situation.slots["offer.short"] in copy.text
        if copy.verified and is_offered:
            copies.append(copy)
        else:
            fault = Check(guarantee="G2", passed=False, message="the text does not state the offer")
            ungrounded = [
                Check(guarantee="G5", passed=False, message=f"no fact speaks of {word!r}", span=word)
                for word in copy.ungrounded
            ]
            rejected.append((copy.text, (*_failures(copy), *ungrounded) if is_offered else (fault,)))
    return copies, rejected


# --- what a model is asked, and how its answer is read ---------------------------------------------------------------


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
