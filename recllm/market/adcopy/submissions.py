"""Files of one JSON object a line: texts that anyone wrote, with what the checks say about each; opening lines that the
shop approved, with what a generator learns from them; A/B tests of texts, and texts to be ranked by what these taught.

    {"id": "a1", "text": "...", "channel": "push", "locale": "en", "item": {"title": "...", "price": "2.49", ...},
     "offer": {"type": "percent", "value": 20, "start": "...", "end": "..."}, "packs": ["us_ftc"],
     "known_brands": ["Acme"], "evidence": {"award": "..."}}

`id`, `text`, `channel`, `locale` and `item.title` are needed; without `packs`, all of them are applied.

    {"item": {"id": "b", "title": "Sandwich buns", ...}, "locale": "en", "reason": "together", "hook": "Soft buns ..."}

`hook` is the opening line that a person wrote, `reason` a `ReasonKind`, "general" where it is left out. A line that may
not be said is not learned: the model would be stopped for what it was taught.

    {"test": "spring", "a": "Soft buns.", "b": "Buns.", "wins_a": 31, "shown_a": 900, "wins_b": 20, "shown_b": 880,
     "reason": "together", "channel": "push", "fold": 0}

`a` and `b` were shown by lot in one test, `wins` are the showings with an answer; `reason`, `channel` and `fold` may be
left out. Ranked are lines of `id`, `text` and, where there are several, `group`, with `reason` and `channel` again.
"""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from recllm.base.documents import plain
from recllm.base.errors import DataError, RecllmError
from recllm.base.schema import CopyVerdict, Item, ReasonKind
from recllm.market.adcopy.lexicon import fold, limit
from recllm.market.adcopy.opening_line import line_prompt
from recllm.market.adcopy.packs import FilledText, Pack, pack_named, pack_names, parse
from recllm.market.adcopy.quantities import LARGEST
from recllm.market.adcopy.request import CopyRequest, FactSheet, Offer, OfferType, Voice, checked_locale
from recllm.market.adcopy.verify.grounding import UngroundedWord
from recllm.market.adcopy.verify.guarantees import Review, review
from recllm.market.adcopy.write import is_sayable, sayable_facts
from recllm.text.domains import SHOP, in_domain

if TYPE_CHECKING:  # checking texts does without arrays
    from recllm.learn.models.effect import RankedText, TextPair

_NEXT_WORD = re.compile(r" [A-Za-z]+(?:['’][A-Za-z]+)?")
_LAST_WORD = re.compile(r"(?<![A-Za-z])[A-Za-z]+(?:['’][A-Za-z]+)? $")


def _number(value: object) -> object:
    """Numbers as JSON or text; true and false are none."""
    return "" if isinstance(value, bool) else value


def _text_of(value: object) -> str:
    if value is None or isinstance(value, dict | list):
        raise ValueError("is a text")
    return str(value)


def _time(value: object) -> datetime:
    try:
        return datetime.fromisoformat(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise ValueError(f"is a time such as 2025-11-10T00:00:00+08:00, not {value!r}") from error


def _category(value: object) -> object:
    return value.split(">") if isinstance(value, str) else value


_SHORT, _NAMES = "a string of up to 1000 characters", "a list of up to 1000 names of up to 1000 characters"
_BOUND = Field(max_length=1_000)

Number = Annotated[Decimal, BeforeValidator(_number), Field(ge=-LARGEST, le=LARGEST, max_digits=20)]
Time = Annotated[datetime, BeforeValidator(_time)]
Short = Annotated[str, _BOUND]
Name = Annotated[FilledText, _BOUND]
Names = Annotated[tuple[Short, ...], _BOUND]
Texts = Annotated[dict[Short, Annotated[Short, BeforeValidator(_text_of)]], _BOUND]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SubmittedItem(_Strict):
    """The item of a line."""

    id: Short | None = Field(None, description=_SHORT)
    title: Name = Field(description=_SHORT)
    description: str | None = Field(None, max_length=20_000, description="a string of up to 20000 characters")
    brand: Short | None = Field(None, description=_SHORT)
    category: Annotated[tuple[Short, ...], BeforeValidator(_category)] | None = Field(
        None, description=f'{_NAMES}, or a string such as "food > tea"'
    )
    price: Number | None = Field(None, description="a number")
    list_price: Number | None = Field(None, description="a number")
    currency: Short | None = Field(None, description=_SHORT)
    attributes: Texts | None = Field(None, description="an object of short texts")

    def item(self) -> Item:
        return Item(
            item_id=self.id or "",
            title=self.title,
            description=self.description,
            brand=self.brand or None,
            category=tuple(name.strip() for name in self.category or () if name.strip()),
            price=self.price,
            currency=self.currency or None,
            attributes=self.attributes or {},
        )


class _SubmittedOffer(_Strict):
    type: OfferType = Field(description=f"one of {', '.join(OfferType)}")
    value: Number | None = Field(None, description="a number")
    start: Time | None = None
    end: Time | None = None


class _SubmittedLine(_Strict):
    id: Name = Field(description=_SHORT)
    text: str = Field(description="a string")
    channel: Name = Field(description=_SHORT)
    locale: Name = Field(description=_SHORT)
    item: SubmittedItem = Field(description="an object")
    offer: _SubmittedOffer | None = Field(None, description="an object with a type, or null")
    packs: Names | None = Field(None, description=_NAMES)
    known_brands: Names | None = Field(None, description=_NAMES)
    evidence: Texts | None = Field(None, description="an object of short texts")


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One text with everything that decides about it."""

    id: str
    text: str
    request: CopyRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableLine:
    """A line of a file that is no submission."""

    line_no: int
    """From 1."""
    message: str


def read_submissions(
    file: Path,
    *,
    now: datetime,
    packs: tuple[Pack, ...] = (),
    voice: Voice | None = None,
    vocabulary: frozenset[str] = frozenset(),
    domain: str = SHOP,
) -> Iterator[Submission | UnreadableLine]:
    """The submissions of a file in UTF-8, and the lines that are none; blank lines are skipped. An id that occurs twice
    is read the first time only. now: decides which offers run. packs: applied to every text, beside those that its line
    names. vocabulary: what the shop's people approved. domain: what the texts of lines that name none are about."""
    ids: set[str] = set()
    for number, line in _filled_lines(file):
        try:
            values = _json_object(line)
            submission = submission_of(values, now=now, packs=packs, voice=voice, vocabulary=vocabulary, domain=domain)
            if submission.id in ids:
                raise DataError(f"the id {submission.id!r} occurs twice; each text needs its own")
        except RecllmError as error:
            yield UnreadableLine(line_no=number, message=str(error))
            continue
        ids.add(submission.id)
        yield submission


def read_json_lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and line for messages, object) of each line that is not blank. Raises `DataError` for the first that is no
    object."""
    for number, line in _filled_lines(file):
        where = f"{file}, line {number}"
        try:
            yield where, _json_object(line)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error


def _filled_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """(number from 1, bytes) of each line that is not blank."""
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if line.strip():
                yield number, line


def _json_object(line: bytes) -> dict[str, Any]:
    """Raises `DataError` for a line that is none."""
    try:
        values = json.loads(line.decode("utf-8"), parse_float=Decimal)
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 at byte {error.start} of the line; save the file as UTF-8") from error
    except ValueError as error:
        raise DataError(f"not JSON: {error}") from error
    except RecursionError as error:
        raise DataError("nested too deeply to be read") from error
    if not isinstance(values, dict):
        raise DataError("each line is one JSON object")
    return values


def submission_of(
    values: Mapping[str, Any],
    *,
    now: datetime,
    packs: tuple[Pack, ...] = (),
    voice: Voice | None = None,
    vocabulary: frozenset[str] = frozenset(),
    domain: str = SHOP,
) -> Submission:
    """One parsed line as a submission. Raises `DataError` or `UsageError` that names the field."""
    line = parse(_SubmittedLine, values, owner="the line")
    names = pack_names() if line.packs is None else line.packs
    request = CopyRequest(
        item=line.item.item(),
        channel=line.channel,
        now=now,
        locale=line.locale if "@" in line.locale else in_domain(line.locale, domain),
        known_brands=frozenset(line.known_brands or ()),
        offer=None if line.offer is None else Offer(**dict(line.offer)),
        list_price=line.item.list_price,
        evidence=line.evidence or {},
        packs=(*(pack_named(name) for name in dict.fromkeys(names)), *packs),
        voice=voice or Voice(),
        vocabulary=vocabulary,
    )
    return Submission(id=line.id, text=line.text, request=request)


def judge(submission: Submission) -> Review:
    """Every guarantee on one text, with its rule packs."""
    return review(submission.text, submission.request)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedPhrase:
    """A phrase of approved texts that nothing grounds so far."""

    phrase: str
    texts: int
    """Approved texts that hold it."""


def phrases_of_approved(submissions: Iterable[Submission]) -> tuple[LearnedPhrase, ...]:
    """What a vocabulary can learn from texts that people approved, in most texts first: each word that nothing grounds
    with its neighbour, so that "soft inside" is learned and "soft" is not; in Chinese the piece alone. The word alone
    is added where it stands beside `learn_alone_from` different neighbours or more. A text that contradicts a fact, or
    is hostile or personal, teaches nothing."""
    of_phrase: Counter[str] = Counter()
    neighbours: dict[str, set[str]] = {}
    for submission in submissions:
        answer = judge(submission)
        if answer.verdict is CopyVerdict.BLOCKED:
            continue
        word_of_phrase = {_with_neighbour(submission.text, word): fold(word.word) for word in answer.ungrounded}
        of_phrase.update(list(word_of_phrase))
        for phrase, word in word_of_phrase.items():
            neighbours.setdefault(word, set()).add(phrase)
    for word, phrases in neighbours.items():
        if len(phrases) >= limit("learn_alone_from"):
            of_phrase[word] = sum(of_phrase[phrase] for phrase in phrases)
    return tuple(LearnedPhrase(phrase=phrase, texts=n) for phrase, n in of_phrase.most_common())


def _with_neighbour(text: str, word: UngroundedWord) -> str:
    """A Latin word and the one after it in its sentence, or else the one before it."""
    start, end = word.span
    if not word.word.isascii():
        return word.word
    after, before = _NEXT_WORD.match(text, end), _LAST_WORD.search(text[:start])
    if after:
        return fold(text[start : after.end()])
    return fold(text[before.start() : end]) if before else fold(word.word)


def reviews_document(
    reviews: Sequence[tuple[str, Review]], unreadable: Sequence[UnreadableLine] = ()
) -> dict[str, Any]:
    """Reviews by the id of their text, and the lines that could not be read, as JSON has them."""
    results = [
        {
            "id": text_id,
            "verdict": answer.verdict.value,
            "verified": answer.verified,
            "failures": [{"guarantee": c.guarantee, "span": c.span, "message": c.message} for c in answer.failures],
            "warnings": plain(answer.warnings),
            "ungrounded": plain(answer.ungrounded),
        }
        for text_id, answer in reviews
    ]
    verdicts = Counter(answer.verdict for _, answer in reviews)
    return {
        "checked": len(results),
        "passed": verdicts[CopyVerdict.PASS],
        "held": verdicts[CopyVerdict.PERSON],
        "blocked": verdicts[CopyVerdict.BLOCKED],
        "results": results,
        "unreadable": plain(unreadable),
    }


# --- lines that the shop approved, for a generator to learn from ----------------------------------------------------

_NOW = datetime(2000, 1, 1, tzinfo=UTC)
"""An opening line holds no offer, so that the moment decides nothing."""


class ApprovedLine(_Strict):
    """One opening line that the shop approved, and what it is for."""

    item: SubmittedItem = Field(description="an object")
    hook: str = Field(description="a text")
    locale: str = Field("en", description="a text")
    reason: ReasonKind = Field(ReasonKind.GENERAL, description=f"one of {', '.join(ReasonKind)}")


@dataclass(frozen=True, slots=True)
class Pair:
    prompt: str
    hook: str
    """The opening line."""


def read_approved(file: Path) -> Iterator[ApprovedLine]:
    """The lines of a file in UTF-8; blank ones are skipped. Raises `DataError` with file and line for a faulty one."""
    for where, values in read_json_lines(file):
        try:
            entry = parse(ApprovedLine, values, owner="an approved line")
            checked_locale(entry.locale)
        except RecllmError as error:
            raise DataError(f"{where}: no approved line: {error}") from error
        yield entry


def pairs(approved: Iterable[ApprovedLine]) -> list[tuple[Pair, str]]:
    """(pair, item id) of each line that may be said, as the short prompt of a tuned model; each pair once."""
    sheets: dict[tuple[str, str], tuple[CopyRequest, FactSheet]] = {}
    item_ids: dict[Pair, str] = {}
    for entry in approved:
        item, line = entry.item.item(), entry.hook.strip()
        key = item.item_id, entry.locale
        if key not in sheets:  # a title is made sayable once, however many lines the item has
            request = CopyRequest(item=item, channel="email", now=_NOW, locale=entry.locale)
            sheets[key] = request, sayable_facts(request)
        request, facts = sheets[key]
        if is_sayable(line, facts, request):
            prompt = line_prompt(facts, entry.reason, entry.locale, examples=False)
            item_ids[Pair(prompt, line)] = item.item_id
    return list(item_ids.items())


def split(pairs_of_items: Iterable[tuple[Pair, str]], *, share: float = 0.1) -> tuple[list[Pair], list[Pair]]:
    """(to learn from, to judge by): by the hash of the item, so that no item is in both."""
    parts: tuple[list[Pair], list[Pair]] = ([], [])
    for pair, item_id in pairs_of_items:
        parts[is_held_back(item_id, share)].append(pair)
    return parts


def is_held_back(item_id: str, share: float) -> bool:
    return int.from_bytes(sha256(item_id.encode()).digest()[:4]) < share * 2**32


# --- A/B tests of texts, and texts to rank by what they taught ------------------------------------------------------

WholeNumber = Annotated[int, Field(ge=0), BeforeValidator(_number)]


class _PairLine(_Strict):
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


class TextToRank(_Strict):
    """A line of a file of texts to be ranked."""

    id: FilledText = Field(description="a string")
    text: FilledText = Field(description="a text")
    group: str | None = Field(None, description="a string")
    """Texts are compared within it."""
    reason: str | None = Field(None, description="a string")
    channel: str | None = Field(None, description="a string")

    @property
    def in_context(self) -> str:
        from recllm.learn.models.effect import in_context

        return in_context(self.text, self.reason, self.channel)


def read_pairs(file: Path) -> list[TextPair]:
    """The pairs of a file in UTF-8; blank lines are skipped. Raises `DataError` with file and line for a faulty one,
    for a test in two folds, for a fold given to some lines only, and for a pair that stands twice in its test."""
    from recllm.learn.models.effect import TextPair, in_context

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


def read_texts_to_rank(file: Path) -> Iterator[TextToRank | UnreadableLine]:
    """The texts of a file in UTF-8, and the lines that are none, such as one whose text is empty; blank lines are
    skipped. An id that occurs twice is read the first time only."""
    ids: set[str] = set()
    for number, content in _filled_lines(file):
        try:
            line = parse(TextToRank, _json_object(content), owner="the line")
            if line.id in ids:
                raise DataError(f"the id {line.id!r} occurs twice; each text needs its own")
        except RecllmError as error:
            yield UnreadableLine(line_no=number, message=str(error))
            continue
        ids.add(line.id)
        yield line


def ranking_document(
    model: str,
    texts: Sequence[TextToRank],
    ranked: Sequence[RankedText],
    unreadable: Sequence[UnreadableLine] = (),
) -> dict[str, Any]:
    """Ranked texts in the order of the file, and the lines that could not be read, as JSON has them."""
    results = [{"id": text.id, **plain(ranked_text)} for text, ranked_text in zip(texts, ranked, strict=True)]
    return {"model": model, "results": results, "unreadable": plain(unreadable)}
