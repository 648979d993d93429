"""Files of one JSON object a line: texts that anyone wrote, with what the checks say about each.

    {"id": "a1", "text": "...", "channel": "push", "locale": "en", "item": {"title": "...", "price": "2.49", ...},
     "offer": {"type": "percent", "value": 20, "start": "...", "end": "...", "code": "TEA20"},
     "person": {"times_bought": 3, "last": 15}, "day": {"name": "Christmas", "on": "2025-12-25"},
     "shop": "Leaf & Iron", "link": "leaf.example/t", "packs": ["us_ftc"], "known_brands": ["Acme"],
     "evidence": {"award": "..."}}

`id`, `text`, `channel`, `locale` and `item.title` are needed; without `packs`, those of the shop's country
are applied. `person` has the fields of `PersonFacts`, its times in days ago.
"""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from recllm.base.documents import FilledText, json_value, parsed, plain
from recllm.base.errors import DataError, RecllmError
from recllm.base.schema import CopyVerdict, Item
from recllm.base.words.sentences import LANGUAGES
from recllm.market.adcopy.packs import Pack, pack_named, pack_names
from recllm.market.adcopy.quantities import LARGEST
from recllm.market.adcopy.request import Ago, CopyRequest, FestiveDay, Offer, OfferType, PersonFacts, Voice
from recllm.market.adcopy.verify.guarantees import Review, review
from recllm.text.domains import SHOP, in_domain


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


_MOST = Field(max_length=1_000)

Number = Annotated[Decimal, BeforeValidator(_number), Field(ge=-LARGEST, le=LARGEST, max_digits=20)]
Time = Annotated[datetime, BeforeValidator(_time)]
Days = Annotated[float, Field(ge=0, le=36_500)]
Names = Annotated[tuple[str, ...], _MOST]
Texts = Annotated[dict[str, Annotated[str, BeforeValidator(_text_of)]], _MOST]


class StrictLine(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_max_length=1_000)


class SubmittedItem(StrictLine):
    """The item of a line."""

    id: str | None = None
    title: FilledText
    description: str | None = Field(None, max_length=20_000)
    brand: str | None = None
    category: Annotated[Names, BeforeValidator(_category)] | None = None
    price: Number | None = None
    list_price: Number | None = None
    currency: str | None = None
    attributes: Texts | None = None

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


class _SubmittedOffer(StrictLine):
    type: OfferType
    value: Number | None = None
    start: Time | None = None
    end: Time | None = None
    count: int = 2
    code: str | None = None
    min_spend: Number | None = None
    gift: str | None = None
    scope: str | None = None
    excluded: str | None = None


class _SubmittedDay(StrictLine):
    name: FilledText
    on: date


class _SubmittedTimes(StrictLine):
    every_days: Days | None = None
    last: Days | None = None
    with_last: Days | None = None
    away: Days | None = None


class _SubmittedLine(StrictLine):
    id: FilledText
    text: str = Field(max_length=1_000_000)
    channel: FilledText
    locale: FilledText
    item: SubmittedItem
    offer: _SubmittedOffer | None = None
    person: PersonFacts = PersonFacts()
    day: _SubmittedDay | None = None
    order_by: date | None = None
    shop: str = ""
    link: str = ""
    packs: Names | None = None
    known_brands: Names | None = None
    evidence: Texts | None = None


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


def read_submissions(file: Path, **conditions: Any) -> Iterator[Submission | UnreadableLine]:
    """The submissions of a file in UTF-8, and the lines that are none; blank lines are skipped. An id that occurs twice
    is read the first time only. conditions: as `submission_of` takes them."""
    ids: set[str] = set()
    for number, line in filled_lines(file):
        try:
            submission = submission_of(json_object(line), **conditions)
            if submission.id in ids:
                raise DataError(f"the id {submission.id!r} occurs twice; each text needs its own")
        except RecllmError as error:
            yield UnreadableLine(line_no=number, message=str(error))
            continue
        ids.add(submission.id)
        yield submission


def filled_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """(number from 1, bytes) of each line that is not blank."""
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if line.strip():
                yield number, line


def json_object(line: bytes) -> dict[str, Any]:
    """Raises `DataError` for a line that is none."""
    try:
        values = json_value(line.decode("utf-8"), parse_float=Decimal)
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 at byte {error.start} of the line; save the file as UTF-8") from error
    except ValueError as error:
        raise DataError(f"not JSON: {error}") from error
    if not isinstance(values, dict):
        raise DataError("each line is one JSON object")
    return values


def submission_of(
    values: Mapping[str, Any],
    *,
    now: datetime,
    packs: tuple[Pack, ...] = (),
    voice: Voice | None = None,
    domain: str = SHOP,
    countries: Collection[str] = (),
) -> Submission:
    """One parsed line as a submission. Raises `DataError` or `UsageError` that names the field.

    now: decides which offers run. packs: applied to every text, besides those that its line names. domain: of
    lines that name none. countries: whose laws hold for lines without packs; all by default.
    """
    today = now.date()
    line = parsed(_SubmittedLine, {**values, **_with_times(values.get("person"), today)}, owner="the line")
    laws = [pack_named(name) for name in dict.fromkeys(pack_names() if line.packs is None else line.packs)]
    laws = [pack.in_countries(countries) for pack in laws] if line.packs is None else laws
    day = None
    if line.day is not None:
        called = dict.fromkeys(LANGUAGES, line.day.name)
        day = FestiveDay(key="any", names=called, on=line.day.on, days_left=(line.day.on - today).days)
    request = CopyRequest(
        item=line.item.item(),
        channel=line.channel,
        now=now,
        locale=line.locale if "@" in line.locale else in_domain(line.locale, domain),
        known_brands=frozenset(line.known_brands or ()),
        person=line.person,
        day=day,
        order_by=line.order_by,
        shop=line.shop,
        link=line.link,
        offer=None if line.offer is None else Offer(**dict(line.offer)),
        list_price=line.item.list_price,
        evidence=line.evidence or {},
        packs=(*laws, *packs),
        voice=voice or Voice(),
    )
    return Submission(id=line.id, text=line.text, request=request)


def _with_times(person: object, today: date) -> dict[str, Any]:
    """The line's facts of the customer, with times as `PersonFacts` has them."""
    if not isinstance(person, dict):
        return {}
    stated = {name: value for name, value in person.items() if name in _SubmittedTimes.model_fields}
    times = parsed(_SubmittedTimes, stated, owner="person", prefix="person.")
    last, every = times.last, times.every_days
    ago = {name: Ago.of(days, today) for name, days in times if days is not None and name != "every_days"}
    return {"person": {**person, **ago, "waited": last / every if last and every else None}}


def judge(submission: Submission) -> Review:
    """Every guarantee on one text, with its rule packs."""
    return review(submission.text, submission.request)


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
