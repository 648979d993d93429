"""From a request to ad texts that are checked: the frames that hold, their slots filled, and the check of each text.

    for copy in write_copy(CopyRequest(item=item, channel="push", now=now)): ...

A text model, where one is set up, writes the same parts from the same facts; the frame's text stands where it fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from itertools import groupby

from recllm.base.errors import GenerationError
from recllm.base.schema import AdCopy, Check, CopyVerdict, Generator
from recllm.market.adcopy.brief import brief, parts_of_answer, second_brief
from recllm.market.adcopy.channels import channel_written_for
from recllm.market.adcopy.frames import Frame, Parts, Situation, frame_file, frames_for, texts_of
from recllm.market.adcopy.request import CopyRequest, FactSheet
from recllm.market.adcopy.sayable import sayable_facts
from recllm.market.adcopy.situation import situation_of
from recllm.market.adcopy.verify.guarantees import review
from recllm.text.domains import without_domain

TEMPLATE = "template"
"""What `AdCopy.generator` says of texts from frames."""
_MOST_TRIED = 24
"""Texts that are checked for one that passes."""
_REJECTED_SHOWN = 8
"""Texts that were stopped, of those that an `AdCopy` names."""

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
