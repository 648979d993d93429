"""From a request to ad texts that are checked: what may be said of the item, the frames that hold, their slots filled,
and the check of each text.

    for copy in write_copy(CopyRequest(item=item, channel="push", now=now)): ...
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any

from recllm.base.errors import GenerationError
from recllm.base.schema import AdCopy, Check, CopyVerdict, Generator
from recllm.market.adcopy.channels import CALL_TO_ACTION, Channel, channel_written_for
from recllm.market.adcopy.frames import Frame, Parts, Situation, frame_file, frames_for, texts_of, wording_of
from recllm.market.adcopy.lexicon import HAN, fold, pattern, table, word_class
from recllm.market.adcopy.naming import is_size, name_and_size, written_out
from recllm.market.adcopy.quantities import QuantityKind
from recllm.market.adcopy.request import CopyRequest, FactSheet
from recllm.market.adcopy.situation import situation_of
from recllm.market.adcopy.verify import claims, form
from recllm.market.adcopy.verify.case import Case, Violation
from recllm.market.adcopy.verify.guarantees import review
from recllm.text.domains import without_domain
from recllm.text.templates import Prompts

TEMPLATE = "template"
"""What `AdCopy.generator` says of texts from frames."""
_MOST_TRIED = 8
"""Texts that are checked for one that passes."""
_REJECTED_SHOWN = 8
"""Texts that were stopped, of those that an `AdCopy` names."""
_EXAMPLES = _ANSWERS = 3
"""Texts that a generator is shown, and those that it is asked for."""
_MAX_ROUNDS = 12
_LETTER = re.compile(rf"[^\W\d_]|[{HAN}]")
_JOINED_BEFORE = re.compile(r"(?:[A-Za-z0-9]*[-/&])+\Z")
_JOINED_BEHIND = re.compile(r"\A(?:[-/&][A-Za-z0-9]*)+")
"""The rest of a compound: Grain-Free, sinus/allergy."""
_HANGING = pattern("titles.hanging", DANGLING="|".join(word_class("dangling")))
_SAID = [
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
]
"""Slots that a model reads as facts, in this order."""
_LINE = re.compile(r"^\W*(?P<name>[a-z_ ]{3,20}?)\W*[:：]\s*(?P<text>.+)$", re.IGNORECASE)

Rejected = tuple[str, tuple[Check, ...]]
"""A text that was stopped, and the checks that it failed."""


def write_copy(
    request: CopyRequest,
    *,
    generator: Generator | None = None,
    facts: FactSheet | None = None,
    used: Counter[str] | None = None,
) -> tuple[AdCopy, ...]:
    """Up to `request.variants` texts that differ; none where no frame holds, as nothing is better than a silly text.

    The same arguments give the same texts. A text that passes is preferred to one that a person must judge; where all
    fail, the first of them is returned with what is wrong, such as an offer that a law forbids. A generator
    writes first, where it may: its texts that pass come before those of frames. `AdCopy.rejected` holds what was
    stopped and why. facts: `sayable_facts` of the request, for several texts of one item.
    used: as `texts_of`; these are added.

    Raises `UsageError` for a channel that takes no text for a customer.
    """
    channel_written_for(request.channel)
    facts, used = facts or sayable_facts(request), Counter() if used is None else used
    situation = situation_of(request, facts)
    frames = frames_for(situation, request.channel, request.language)
    if not frames:
        return ()
    copies, rejected = ([], []) if generator is None else _generated(request, facts, situation, frames[0], generator)
    waiting: list[AdCopy] = []
    for counts in (used, Counter[str]()) if used else (used,):  # unused words may be forbidden ones
        n_most = len(copies) + len(waiting) + _MOST_TRIED + request.variants
        for frame, parts in candidate_texts(frames, situation, request, counts):
            if len(copies) >= request.variants or len(copies) + len(waiting) >= n_most:
                break
            copy = checked_copy(request.limits.joined(parts), frame, facts, request, situation)
            if all(copy.text != written.text for written in copies):
                (copies if copy.verified else waiting).append(copy)
        if copies:
            break
    rejected += [(copy.text, _failures(copy)) for copy in waiting]
    copies = copies[: request.variants] or sorted(waiting, key=lambda copy: copy.verdict is CopyVerdict.BLOCKED)[:1]
    texts = {text for copy in (*copies, *waiting) for text in copy.parts.values()}
    used.update([*texts, *(wording_of(text, situation) for text in texts)])
    return tuple(replace(copy, rejected=tuple(rejected[:_REJECTED_SHOWN])) for copy in copies)


def candidate_texts(
    frames: Sequence[Frame],
    situation: Situation,
    request: CopyRequest,
    used: Counter[str],
) -> Iterator[tuple[Frame, Parts]]:
    """Texts of the strongest frames first, one of each in turn, from a start drawn by the seed."""
    draw = int.from_bytes(
        sha256(f"{request.seed}:{request.item.item_id}:{request.channel}".encode()).digest()[:4], "big"
    )
    for _, group in groupby(frames, key=lambda frame: (frame.reason, frame.rank)):
        of_group = list(group)
        start = draw % len(of_group)
        frames_in_turn = (*of_group[start:], *of_group[:start])
        sources = [(f, texts_of(f, situation, request.limits, draw // len(of_group), used)) for f in frames_in_turn]
        while sources:
            for frame, texts in tuple(sources):
                if (parts := next(texts, None)) is not None:
                    yield frame, parts
                else:
                    sources.remove((frame, texts))


def checked_copy(
    text: str,
    frame: Frame | None,
    facts: FactSheet,
    request: CopyRequest,
    situation: Situation,
    by: str = TEMPLATE,
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
        item_id=request.item.item_id,
        parts=request.limits.parts(text),
    )


def _failures(copy: AdCopy) -> tuple[Check, ...]:
    return tuple(check for check in copy.checks if not check.passed)


def sayable_facts(request: CopyRequest) -> FactSheet:
    """The facts of a request under a title that may be shown.

    Promises and claims that sellers write into titles ("SALE", 包邮, "best") are cut out of it. A title that carries
    instructions, personal data or foul language is not used at all: the narrowest category that may be said stands in
    for it.
    """
    facts = FactSheet.of(request.item)
    bare = replace(request, evidence={})  # a proof of the shop's is no proof of a seller's words
    categories = [cleaned_name(name, facts, bare) for name in facts.category]
    sheet = replace(
        facts,
        brand=facts.brand if facts.brand and unsayable_pieces(facts.brand, facts, bare) == [] else None,
        category=tuple(filter(None, categories)),
        attributes={k: v for k, v in facts.attributes.items() if unsayable_pieces(f"{k}: {v}", facts, bare) == []},
    )
    title = cleaned_name(facts.title, facts, bare)
    name, size = name_and_size(title)
    qualities = table("names.toml")["words"]["qualities"]
    if request.domain.titles == "goods" and fold(name) in qualities:
        # "premium 56 oz" of the category ice cream -> "premium ice cream 56 oz"
        things = (category for category in reversed(sheet.category) if fold(category) != fold(name))
        thing = pattern("titles.first_alternative").split(next(things, ""))[0].strip()
        title = " ".join(filter(None, (name, thing, size)))
    if title:
        return replace(sheet, title=title)
    return replace(sheet, title=sheet.category[-1] if sheet.category else "", attributes={}, has_title=False)


def cleaned_name(name: str, facts: FactSheet, request: CopyRequest) -> str:
    """`name` as running text without unproven words; "" if it is hostile or would name another thing."""
    if request.domain.titles != "goods":  # a name with a piece cut out is no name
        return name if unsayable_pieces(name, facts, request) == [] else ""
    for _ in range(_MAX_ROUNDS):
        name = written_out(name)
        spans = unsayable_pieces(name, facts, request)
        if spans is None:
            return ""
        if not spans:
            return tidy(name) if _LETTER.search(name) and not is_size(name) else ""
        before = name
        for span in sorted(spans, key=len, reverse=True):
            shape = re.compile(re.escape(span.strip()), re.IGNORECASE)
            # a disguised span is cut out of the folded form; one in neither form went with a longer one
            form = next((text for text in (name, fold(name)) if shape.search(text)), None)
            if span.strip() == "free" and (denial := pattern("titles.free_of").search(name)):
                name = f"{name[: denial.start()]} {name[denial.end() :]}"
            elif form:
                name = _without(form, *shape.search(form).span())  # type: ignore[union-attr]
        name = "" if name == before else tidy(name)
    return ""


def _without(name: str, start: int, end: int) -> str:
    """A name without a piece and its compound, "Grain-Free"; "" for one of two names: "cold and flu"."""
    left, right = _JOINED_BEFORE.sub("", name[:start]), _JOINED_BEHIND.sub("", name[end:])
    is_one_of_two = pattern("titles.joined").search(left.rstrip()) is not None
    return "" if is_one_of_two else f"{left} {right}"


def unsayable_pieces(name: str, facts: FactSheet, request: CopyRequest) -> list[str] | None:
    """What a seller's words promise or claim, and prices; None for words that are not used at all: personal data, foul
    language, leaks."""
    case = Case(text=name, facts=facts, request=request)
    if any(any(check(case)) for check in (form.personal_data, form.clean_language, form.leaks)):
        return None
    violations = [] if request.domain.titles == "works" else [*claims.offers(case), *claims.proofs(case)]
    if request.domain.titles == "names":  # what a person may let pass is no matter in a name
        violations = [violation for violation in violations if not violation.holds]
    spans = [violation.span for violation in violations]
    return spans + [q.span for q in case.quantities if q.kind in (QuantityKind.MONEY, QuantityKind.DISCOUNT)]


def tidy(name: str) -> str:
    """No empty brackets, exclamation marks, doubled spaces, or ends left hanging."""
    name = pattern("titles.empty_brackets").sub(" ", pattern("titles.shouts").sub(" ", name))
    return _HANGING.sub("", " ".join(name.split())).lstrip(" ,;:/&+-|，；：、")


def _generated(
    request: CopyRequest,
    facts: FactSheet,
    situation: Situation,
    frame: Frame,
    generator: Generator,
) -> tuple[list[AdCopy], list[Rejected]]:
    """(texts of the generator that pass, what was stopped and why), in two tries. None of sensitive or hostile items,
    of titles, and of medicines and the like."""
    is_of_facts_alone = not request.domain.generated_lines or request.limits.title_only
    if is_of_facts_alone or request.is_sensitive or request.is_hostile or "sober" in situation.goods:
        return [], []
    languages = getattr(generator, "languages", None)
    if languages is not None and request.language not in languages:
        message = f"{generator.name} writes {', '.join(sorted(languages))} only"
        return [], [("", (Check(guarantee="G11", passed=False, message=message),))]
    prompt = brief(request, situation, frame, tuned=getattr(generator, "tuned", False))
    copies: list[AdCopy] = []
    rejected: list[Rejected] = []
    for n in (_ANSWERS, 1):
        if rejected:
            prompt = second_brief(prompt, *rejected[0], locale=request.locale)
        try:
            answers = generator.generate(prompt, n=n, max_tokens=400, seed=request.seed)
        except GenerationError as error:
            failure = Check(guarantee="G16", passed=False, message=str(error))
            return [], rejected or [("", (failure,))]  # the first answers say more
        for answer in dict.fromkeys(answers):
            copy, faults = _judged(answer, request, facts, situation, generator.name)
            if copy is not None and copy.verified and not faults:
                copies.append(copy)
            else:
                rejected.append((answer if copy is None else copy.text, faults))
        if copies or not rejected:
            break
    return copies, rejected


def _judged(
    answer: str,
    request: CopyRequest,
    facts: FactSheet,
    situation: Situation,
    by: str,
) -> tuple[AdCopy | None, tuple[Check, ...]]:
    """(the text of an answer, None where a part is missing; why it is not taken)."""
    parts = parts_of_answer(answer, request.limits)
    if parts is None:
        return None, (Check(guarantee="G6", passed=False, message="the answer lacks parts of the channel"),)
    copy = checked_copy(request.limits.joined(parts), None, facts, request, situation, by)
    if situation.slots.get("offer.short", situation.slots.get("offer", "")) not in copy.text:
        return copy, (Check(guarantee="G2", passed=False, message="the text does not state the offer"),)
    ungrounded = (
        Check(guarantee="G5", passed=False, message=f"no fact speaks of {word!r}", span=word)
        for word in copy.ungrounded
    )
    return copy, (*_failures(copy), *ungrounded)


def brief(request: CopyRequest, situation: Situation, frame: Frame | None, *, tuned: bool = False) -> str:
    """The prompt of one text: facts, parts with their limits, a frame's words as its meaning, examples. A model that is
    tuned on the shop's texts gets facts and parts alone."""
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
    """The parts of the copybook's texts nearest to a frame, by its occasion and reason."""

    def distance(entry: Mapping[str, Any]) -> int:
        return int(entry["occasion"] not in frame.occasion) + int(entry["reason"] != frame.reason)

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


def approvable(
    checks: Iterable[Check],
    *,
    warnings: int,
    by: str | None,
    auto: bool = False,
) -> Iterator[Violation]:
    """G18: a text is approved by a person, or by a campaign's `auto` when it passes; a blocked one never."""
    if failed := next((c for c in checks if not (c.passed or c.holds)), None):
        yield Violation(f"fails {failed.guarantee}: {failed.message}", failed.span)
    if not (by or "").strip():
        if not auto:
            yield Violation("it needs an approval")
        elif warnings:
            yield Violation(f"{warnings} findings need a person; auto approves what passes")
