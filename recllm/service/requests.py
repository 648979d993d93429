"""What the service is asked, as pydantic models: ranges, units and examples of every field."""

from __future__ import annotations

import unicodedata
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from recllm.schema import Action, Purpose


def _trimmed(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


_PRINTED = r"[^\x00-\x1f\x7f-\x9f]"
Id = Annotated[
    str,
    StringConstraints(max_length=256, pattern=rf"^{_PRINTED}*[^\s\x00-\x1f\x7f-\x9f]{_PRINTED}*$"),
    AfterValidator(_trimmed),
]
"""At least one character that is no blank, and no control characters. As in a file, Unicode becomes NFC, and blanks
around it are taken off."""
Ids = Annotated[list[Id], Field(max_length=1_000)]
BasicName = Annotated[str, StringConstraints(pattern=r"^[^\W\d]\w{0,63}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=1_000)]
Condition = Annotated[str, StringConstraints(min_length=1, max_length=2_000)]
"""An SQL condition on item_id, title, category, brand, price and currency."""


Locale = Annotated[Literal["en", "zh"] | None, Field(description="Language; the shop's own when left out.")]


class ServiceRequest(BaseModel):
    """A body of a request: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class SlateRequest(ServiceRequest):
    """Items for a person, or for a visitor who is not known."""

    user_id: Id | None = None
    """The shop's own id; without one the visitor is anonymous, and `basket` is all that counts."""
    k: Annotated[int, Field(ge=1, le=100, examples=[5])] = 10
    """Items at most."""
    basket: Ids = []
    """Items in the cart now; they count as the latest of the person's history."""
    where: Condition | None = None
    """A condition on the catalogue, e.g. "price < 50 AND brand = 'Acme'"."""
    allow: Ids | None = None
    """Only these items."""
    exclude: Ids = []
    """Never these items."""
    repeats: bool = True
    """Whether items that the person bought before may be shown."""
    explain: bool = False
    """Whether each item gets its reasons."""
    record: bool = False
    """Whether the slate of a person counts as shown, because the caller shows it whole."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"user_id": "4711", "k": 5, "explain": True}]})


class ExplanationRequest(ServiceRequest):
    """One item for one person."""

    user_id: Id
    item_id: Id
    k: Annotated[int, Field(ge=1, le=100)] = 10
    """Length of the list that the item would leave."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"user_id": "4711", "item_id": "tea-3"}]})


class EventIn(ServiceRequest):
    """One thing that a person did, or was shown."""

    event_id: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None
    """Makes sending twice harmless: one id is one event. Without it an event is known again by all that it says, its
    `timestamp` included."""
    user_id: Id
    item_id: Id
    event: Action
    timestamp: AwareDatetime | None = None
    """With its time zone; the shop's present when left out."""
    quantity: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    price: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Per unit."""
    value: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Stars of a rating."""
    basket_id: Id | None = None
    """Order number."""
    request_id: Id | None = None
    """Of the slate that showed the item."""
    position: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Rank on that slate."""
    model_version: Id | None = None
    """Of that slate."""

    def row(self, present: datetime) -> dict[str, Any]:
        """As a row of events to record."""
        return self.model_dump() | {"event": self.event.value, "timestamp": self.timestamp or present}


class EventsRequest(ServiceRequest):
    """A batch of events."""

    events: Annotated[list[EventIn], Field(min_length=1)]

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"events": [{"event_id": "c-1", "user_id": "4711", "item_id": "tea-3", "event": "click"}]},
            ]
        }
    )


class ItemIn(ServiceRequest):
    """One item of the catalogue, in the fields of a catalogue file."""

    item_id: Id
    title: Text
    category: Text | None = None
    """A path from the widest name, "food > tea"."""
    brand: Text | None = None
    description: Annotated[str, StringConstraints(max_length=20_000)] | None = None
    price: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")] | None = None
    """The shop's own when left out."""
    available: bool = True
    """False takes it off sale."""
    attributes: dict[str, str] = {}


class UserIn(ServiceRequest):
    """What a person told of themselves."""

    user_id: Id
    basics: Annotated[dict[BasicName, Text], Field(max_length=50)] = {}
    """Such as {"age": "35-44"}; they replace what was known."""


class UsersRequest(ServiceRequest):
    """People, new or changed."""

    users: Annotated[list[UserIn], Field(min_length=1)]

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"users": [{"user_id": "4711", "basics": {"age": "35-44"}}]}]}
    )


class ConsentIn(ServiceRequest):
    """One decision of a person; the latest of a purpose counts, and of one instant the refusal."""

    user_id: Id
    purpose: Purpose
    granted: bool
    timestamp: AwareDatetime | None = None
    """When it was made, with its time zone; now when left out."""


class ConsentRequest(ServiceRequest):
    """Decisions of people."""

    consent: Annotated[list[ConsentIn], Field(min_length=1)]

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"consent": [{"user_id": "4711", "purpose": "email", "granted": False}]}]}
    )


class TextsRequest(ServiceRequest):
    """Ad texts that anyone wrote, each with what it is about; the fields of a line of `recllm copy check`."""

    texts: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=100)]
    at: AwareDatetime | None = None
    """The moment that offers are judged by; now when left out."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "texts": [
                        {
                            "id": "a1",
                            "text": "Green tea. Now €3.50.",
                            "channel": "push",
                            "locale": "en",
                            "item": {"id": "tea-3", "title": "Green tea", "price": "3.50", "currency": "EUR"},
                        }
                    ]
                }
            ]
        }
    )


class ItemsRequest(ServiceRequest):
    """Items of the catalogue, new or changed: what is sent replaces what is known of an item."""

    items: Annotated[list[ItemIn], Field(min_length=1)]

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"items": [{"item_id": "tea-9", "title": "Mint tea", "category": "food > tea", "price": 4.5}]},
            ]
        }
    )


class CopyTextRequest(ServiceRequest):
    """An ad text for a person."""

    user_id: Id
    item_id: Id | None = None
    """Without one the best item for the person."""
    channel: Annotated[str, StringConstraints(max_length=40)] = "email"
    """email, push, sms_gsm, ..."""
    locale: Locale = None

    model_config = ConfigDict(json_schema_extra={"examples": [{"user_id": "4711", "channel": "push"}]})


# --- answers that are no result of the library -----------------------------------------------------------------------


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
    """Positions of events that lie in the future."""


class LoadAnswer(BaseModel):
    """Account of the rows of a request: read == accepted + duplicates + quarantined."""

    read: int
    accepted: int
    duplicates: int
    quarantined: int
    codes: dict[str, int]
    """Refused rows by the code of their fault."""
