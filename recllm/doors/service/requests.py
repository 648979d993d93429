"""Requests to the service: how a body is read, and its fields with their ranges, units and examples as pydantic models.

A body is JSON with one meaning (RFC 8259, and I-JSON of RFC 7493 where it leaves things open). Python's reader takes
more: of two fields of one name the last, NaN and Infinity, other encodings than UTF-8. These are refused with 400, and
so is what is nested more deeply than any body is, before recursive code meets it.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Coroutine
from datetime import datetime
from decimal import Decimal
from http import HTTPStatus
from typing import Annotated, Any, Literal, NoReturn, Self, TypeVar

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator
from starlette.exceptions import HTTPException

from recllm.base.questions import AdQuestion, ItemsQuestion, RecommendRequest, SlateQuestion
from recllm.base.schema import Action, Item, Purpose
from recllm.market.experiments.slates import Metric
from recllm.shop.data.catalogue import MAX_CONDITION
from recllm.shop.ingest.parse.batch import MISSING_IDS
from recllm.text.injection import UNSEEN_LETTERS

MAX_DEPTH = 50
"""Objects and lists within each other; a campaign, the deepest body, has five."""
MAX_DIGITS = 400
"""Of an integer: a few more than the largest float has."""


def read_json(body: bytes) -> Any:
    """The JSON of a body. Raises `HTTPException` (400) for an unclear meaning, `JSONDecodeError` for no JSON."""
    try:
        document = json.loads(
            body.decode("utf-8-sig"),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_int=_integer,
            parse_float=_float,
        )
    except UnicodeDecodeError:
        raise _refusal("the body is not UTF-8") from None
    except RecursionError:
        raise _refusal("the body is nested too deeply") from None
    level, depth = [document], 0
    while containers := [value for value in level if isinstance(value, dict | list)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise _refusal(f"the body is nested more than {MAX_DEPTH} levels deep")
        level = [inner for value in containers for inner in (value.values() if isinstance(value, dict) else value)]
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        # the name is not repeated: it may hold a customer's id
        raise _refusal("an object of the body has two fields of one name")
    return fields


def _constant(name: str) -> NoReturn:
    raise _refusal(f"{name} is no number")


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:  # Python takes long for very many
        raise _refusal(f"a number of the body has more than {MAX_DIGITS} digits")
    return int(digits)


def _float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise _refusal("a number of the body is larger than any that can be kept")
    return number


def _refusal(message: str) -> HTTPException:
    return HTTPException(HTTPStatus.BAD_REQUEST, message)


class JsonRequest(Request):
    """A request whose `json` is `read_json` of its body."""

    async def json(self) -> Any:
        return read_json(await self.body())


class JsonRoute(APIRoute):
    """An operation that reads its body by `read_json`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(JsonRequest(request.scope, request.receive))

        return handle


Body = TypeVar("Body", bound=BaseModel)

MAX_ROWS = 1_000
"""Events, items, users or decisions in one request."""
MAX_ID_BYTES = 256
MAX_QUANTITY = 1e6
MAX_PRICE = 1e7


def _id(text: str) -> str:
    text = unicodedata.normalize("NFC", text).strip()
    is_control = any(unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp", "Cs") for letter in text)
    if is_control or re.search(f"[{UNSEEN_LETTERS}]", text):
        raise ValueError("an id has no invisible or control characters")
    if len(text.encode()) > MAX_ID_BYTES:
        raise ValueError(f"an id has at most {MAX_ID_BYTES} bytes")
    return text


def _user_id(text: str) -> str:
    if text.lower() in MISSING_IDS:
        raise ValueError(f"{text!r} is no id of a person")
    return text


Id = Annotated[str, StringConstraints(max_length=MAX_ID_BYTES, pattern=r"\S"), AfterValidator(_id)]
"""Opaque: Unicode becomes NFC, blanks around it are taken off, and it is otherwise exactly what was sent."""
UserId = Annotated[Id, AfterValidator(_user_id)]
"""The shop's own id of a person."""
SessionId = Annotated[Id, AfterValidator(_user_id)]
"""The shop's own id of a visit by an unknown person."""
Ids = Annotated[tuple[Id, ...], Field(max_length=1_000)]
BasicName = Annotated[str, StringConstraints(pattern=r"^[^\W\d]\w{0,63}$")]
Text = Annotated[str, StringConstraints(max_length=1_000, pattern=r"\S")]
Condition = Annotated[str, StringConstraints(min_length=1, max_length=MAX_CONDITION)]
"""An SQL condition on item_id, title, category, brand, price and currency."""


Locale = Annotated[Literal["en", "zh"] | None, Field(description="Language; the shop's own when left out.")]


class ServiceRequest(BaseModel):
    """A body of a request: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _true_is_no_number(cls, values: Any) -> Any:
        """pydantic would take it for 1."""
        for name, field in cls.model_fields.items() if isinstance(values, dict) else ():
            if isinstance(values.get(name), bool) and "bool" not in str(field.annotation):
                raise ValueError(f"{name}: true and false are no numbers")
        return values


def one_of(body: Body, *names: str, needed: bool = True) -> Body:
    """The body, when it has one of these fields, or where none is `needed` at most one; in a validator."""
    n = sum(getattr(body, name) is not None for name in names)
    if n > 1 or (needed and n == 0):
        raise ValueError(f"give {'one' if needed else 'at most one'} of {', '.join(names)}")
    return body


class VisitorRequest(ServiceRequest, ItemsQuestion):
    """Items for a person, or for a visitor who is not known."""

    user_id: UserId | None = None
    """The shop's own id; without one the visitor is anonymous, and `basket` is all that counts."""
    session_id: SessionId | None = None
    """Instead of it: an anonymous visitor, of whom the events with this id are the history."""
    k: Annotated[int, Field(ge=1, le=100, examples=[5])] = 10
    """Items at most."""
    basket: Ids = ()
    """Items in the cart now; they count as the latest of the person's history."""
    where: Condition | None = None
    """A condition on the catalogue, e.g. "price < 50 AND brand = 'Acme'"."""
    exclude: Ids = ()
    """Never these items."""
    explain: bool = False
    """Whether each item of a personal answer gets its reasons."""

    @model_validator(mode="after")
    def _one_visitor(self) -> Self:
        return one_of(self, "user_id", "session_id", needed=False)


class SlateRequest(
    VisitorRequest, SlateQuestion, json_schema_extra={"examples": [{"user_id": "4711", "k": 5, "explain": True}]}
):
    """Items for a person, or for a visitor who is not known."""

    allow: Ids | None = None
    """Only these items."""
    record: bool = False
    """Whether the slate of a person counts as shown, because the caller shows it whole."""

    def request(self, visitor: str) -> RecommendRequest:
        """What the library is asked, of a visitor's id; the fields were checked when the body was read."""
        fields = {name: getattr(self, name) for name in SlateQuestion.model_fields}
        return RecommendRequest.model_construct(users=(visitor,), **fields)


class ExplanationRequest(ServiceRequest, json_schema_extra={"examples": [{"user_id": "4711", "item_id": "tea-3"}]}):
    """One item for one person."""

    user_id: UserId
    item_id: Id
    k: Annotated[int, Field(ge=1, le=100)] = 10
    """Length of the list that the item would leave."""


class EventIn(ServiceRequest):
    """One thing that a person did, or was shown."""

    event_id: Id | None = None
    """Makes sending twice harmless: one id is one event. Without it an event is known again by all that it says, its
    `timestamp` included."""
    user_id: UserId | None = None
    session_id: SessionId | None = None
    """Instead of `user_id`: of an anonymous visitor.
    Once the session was joined to a person it is theirs."""
    item_id: Id
    event: Action
    timestamp: AwareDatetime | None = None
    """With its time zone; the shop's present when left out."""
    quantity: Annotated[float, Field(gt=0, le=MAX_QUANTITY)] = 1.0
    price: Annotated[float, Field(ge=0, le=MAX_PRICE)] | None = None
    """Per unit."""
    value: Annotated[float, Field(ge=-1_000, le=1_000)] | None = None
    """Stars of a rating, which has to have them."""
    basket_id: Id | None = None
    """Order number."""
    request_id: Id | None = None
    """Of the slate that showed the item."""
    position: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Rank on that slate."""
    model_version: Id | None = None
    """Of that slate."""

    @model_validator(mode="after")
    def _rated(self) -> Self:
        if (self.event is Action.RATING) != (self.value is not None):
            raise ValueError("a rating has a value, and nothing else has one")
        return one_of(self, "user_id", "session_id")

    def row(self, present: datetime) -> dict[str, Any]:
        """As a row of events to record."""
        timed = {"timestamp": self.timestamp or present, "is_timed": self.timestamp is not None}
        return self.model_dump() | {"event": self.event.value} | timed


EXAMPLE_EVENT = {"event_id": "c-1", "user_id": "4711", "item_id": "tea-3", "event": "click"}


class EventsRequest(ServiceRequest, json_schema_extra={"examples": [{"events": [EXAMPLE_EVENT]}]}):
    """A batch of events."""

    events: Annotated[list[EventIn], Field(min_length=1, max_length=MAX_ROWS)]


class ItemIn(ServiceRequest):
    """One item of the catalogue, in the fields of a catalogue file."""

    item_id: Id
    title: Text
    category: Text | None = None
    """A path from the widest name, "food > tea"."""
    brand: Text | None = None
    description: Annotated[str, StringConstraints(max_length=20_000)] | None = None
    price: Annotated[Decimal, Field(ge=0, le=MAX_PRICE, max_digits=20)] | None = None
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")] | None = None
    """The shop's own when left out."""
    available: bool = True
    """False takes it off sale."""
    available_until: AwareDatetime | None = None
    """From then on it is off sale, with its time zone; null for no end."""
    attributes: Annotated[dict[Text, Text], Field(max_length=100)] = {}

    def item(self) -> Item:
        """As the library knows it."""
        names = tuple(name.strip() for name in (self.category or "").split(">") if name.strip())
        is_stated = "available" in self.model_fields_set
        return Item(**self.model_dump(exclude={"category"}), category=names, stock_stated=is_stated)


class UserIn(ServiceRequest):
    """Basics that a person stated."""

    user_id: UserId
    basics: Annotated[dict[BasicName, Text], Field(max_length=50)] = {}
    """Such as {"age": "35-44"}; they replace what was known."""


class UsersRequest(
    ServiceRequest, json_schema_extra={"examples": [{"users": [{"user_id": "4711", "basics": {"age": "35-44"}}]}]}
):
    """People, new or changed."""

    users: Annotated[list[UserIn], Field(min_length=1, max_length=MAX_ROWS)]


class ConsentIn(ServiceRequest):
    """One decision of a person; the latest of a purpose counts, and of one instant the refusal."""

    user_id: UserId
    purpose: Purpose
    granted: bool
    timestamp: AwareDatetime | None = None
    """When it was made, with its time zone; now when left out."""


EXAMPLE_DECISION = {"user_id": "4711", "purpose": "email", "granted": False}


class ConsentRequest(ServiceRequest, json_schema_extra={"examples": [{"consent": [EXAMPLE_DECISION]}]}):
    """Decisions of people."""

    consent: Annotated[list[ConsentIn], Field(min_length=1, max_length=MAX_ROWS)]


EXAMPLE_TEXT: dict[str, Any] = {
    "id": "a1",
    "text": "Green tea. Now €3.50.",
    "channel": "push",
    "locale": "en",
    "item": {"id": "tea-3", "title": "Green tea", "price": "3.50", "currency": "EUR"},
}


class TextsRequest(ServiceRequest, json_schema_extra={"examples": [{"texts": [EXAMPLE_TEXT]}]}):
    """Ad texts that anyone wrote, each with what it is about; the fields of a line of `recllm copy check`."""

    texts: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=100)]
    at: AwareDatetime | None = None
    """The moment that offers are judged by; now when left out."""


EXAMPLE_ITEM = {"item_id": "tea-9", "title": "Mint tea", "category": "food > tea", "price": 4.5}


class ItemsRequest(ServiceRequest, json_schema_extra={"examples": [{"items": [EXAMPLE_ITEM]}]}):
    """Items of the catalogue, new or changed: what is sent replaces what is known of an item."""

    items: Annotated[list[ItemIn], Field(min_length=1, max_length=MAX_ROWS)]


class PersonRequest(ServiceRequest, json_schema_extra={"examples": [{"user_id": "4711"}]}):
    """One person. The id is in the body, not in the address, which proxies and browsers log."""

    user_id: UserId


class ProfileRequest(PersonRequest):
    """What is known of a person."""

    locale: Locale = None


class CopyTextRequest(
    ServiceRequest, AdQuestion, json_schema_extra={"examples": [{"user_id": "4711", "channel": "push"}]}
):
    """An ad text for a person."""

    user_id: UserId
    item_id: Id | None = None
    """Without one the best item for the person, of the `intent` by `objective`."""
    channel: Annotated[str, StringConstraints(max_length=40)] = "email"
    """email, push, sms_gsm, ..."""
    locale: Locale = None


class VariantIn(ServiceRequest):
    """One way to make slates."""

    name: Annotated[Id, StringConstraints(max_length=100)]
    weight: Annotated[float, Field(gt=0, le=1)]
    """Share of people; those of all variants add up to 1."""
    treatment: Annotated[dict[str, bool | float | Text], Field(max_length=10)] = {}
    """What differs: model (a version), personal (false: what is popular), popularity_weight, explore_share."""


EXAMPLE_EXPERIMENT: dict[str, Any] = {
    "name": "less of what everybody buys",
    "variants": [
        {"name": "as before", "weight": 0.5},
        {"name": "by lift", "weight": 0.5, "treatment": {"popularity_weight": 0.5}},
    ],
}


class ExperimentRequest(ServiceRequest, json_schema_extra={"examples": [EXAMPLE_EXPERIMENT]}):
    """Variants of slates, compared on random groups of people."""

    name: Annotated[Id, StringConstraints(max_length=100)]
    """New in the shop: it draws who gets which variant."""
    variants: Annotated[list[VariantIn], Field(min_length=2, max_length=10)]
    """The first is the control."""
    metric: Metric = Metric.CLICKS
    """What they are compared on."""
    guard: Metric | None = Metric.DISMISSALS
    """What no variant may raise."""


class StopRequest(ServiceRequest, json_schema_extra={"examples": [{"revision": 1}]}):
    """Ends an experiment."""

    revision: int | None = None
    """The state that the caller saw; None ends it in any state."""


class ErrorDetail(BaseModel):
    """What was wrong, in one line, and the number under which the log has it."""

    type: str
    message: str
    request_id: str


class ErrorAnswer(BaseModel):
    """Every answer that is no success."""

    error: ErrorDetail


class SimilarItem(BaseModel):
    """One neighbour of an item."""

    item_id: str
    title: str
    cosine: float


class SimilarItems(BaseModel):
    """Items whose texts are nearest, nearest first."""

    item_id: str
    items: list[SimilarItem]


class EventsAnswer(BaseModel):
    """Account of a batch: accepted + duplicates + conflicts + rejected are its events."""

    accepted: int
    duplicates: int
    conflicts: list[int]
    """Positions of events whose id is known with another content."""
    rejected: list[int]
    """Positions of events that lie ahead of the clock or before the policy's `earliest_year`, or are of people who were
    erased."""


class LoadAnswer(BaseModel):
    """Account of the rows of a request: accepted + duplicates + erased."""

    accepted: int
    duplicates: int
    """Rows that said nothing new."""
    erased: int
    """Rows of people who were erased: nothing of them was kept."""
