"""Questions, each declared once: HTTP bodies, options of commands and batches are made of them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from recllm.base.documents import Question
from recllm.base.errors import UsageError
from recllm.base.schema import Intent, Objective


def _as_ids(ids: Any) -> Any:
    return (ids,) if isinstance(ids, str) else ids if ids is None else tuple(ids)


Ids = Annotated[tuple[str, ...], BeforeValidator(_as_ids)]
"""Ids of the caller: one, or any number of them."""


class ItemsQuestion(Question):
    """How many items, out of which."""

    k: Annotated[int, Field(ge=1)] = 10
    """Items at most."""
    basket: Ids = ()
    """Items in the cart now; a list begins with what completes it and leaves these out."""
    where: str | None = None
    """A condition on item_id, title, category ("a > b > c"), brand, price and currency, e.g. "price < 50 AND brand =
    'Acme'"."""
    exclude: Ids = ()
    """Never these items."""
    explain: bool = True
    """Whether each item gets its reasons."""


class SlateQuestion(ItemsQuestion):
    """Items for a person. Raises `UsageError` for a value out of its range."""

    allow: Ids | None = None
    """Only these items, also those that never sold."""
    intent: Intent = Intent.MIXED
    """What the slate is for: what is likely, what is new to the person, what they bought before, what goes with a late
    purchase or the basket, or what they have stopped buying."""
    objective: Objective = Objective.PROBABILITY
    """What the order is by: the chance, what it is above that of people in general, or what an item likely earns."""
    repeats: bool = True
    """Whether items that the person bought before may be shown; many shops live from buying again."""

    @model_validator(mode="after")
    def _slate_fits(self) -> Self:
        if self.intent in (Intent.REMIND, Intent.WIN_BACK) and not self.repeats:
            raise UsageError(
                f"intent is {self.intent}, of what was bought before, and repeats is false: give one of them"
            )
        if self.objective is Objective.UPLIFT:
            raise UsageError(
                "objective is uplift, which orders people and not items: cut an audience or a campaign by it, and "
                f"order slates by {', '.join(o for o in Objective if o is not Objective.UPLIFT)}"
            )
        return self


class RecommendRequest(SlateQuestion):
    """Whom to recommend to, how many items, and which.
    Raises `UsageError` for a value out of its range."""

    users: Ids
    """The caller's ids, one slate each."""
    same_names: bool = False
    """Whether several items of one name may be shown; otherwise only the best of them."""
    popularity_weight: Annotated[float, Field(ge=0, le=1)] | None = None
    """0 ranks by score alone, 1 relative to popularity; None takes the policy's.
    Of the objective probability."""
    personal: bool = True
    """False shows what is popular now, whatever is known of the user: for comparison."""
    explore_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the positions that show something from further down, so that the log can say what another ranking would
    have brought."""
    explore_pool: Annotated[int, Field(ge=0)] = 20
    """From this many ranks after the first `k`."""


class AdQuestion(Question):
    """An ad text for a person."""

    intent: Intent = Intent.MIXED
    """What the best item is for, where none is named: see the intent of a slate."""
    objective: Objective = Objective.LIFT
    """What the best item is best by."""
    channel: str = "email"
    """email, push, sms_gsm, google_rsa, ..."""
    locale: str | None = None
    """Language: en or zh; the shop's own when left out."""


class ReportBy(StrEnum):
    """What the showings are divided by."""

    MODEL = "model"
    CAMPAIGN = "campaign"
    VARIANT = "variant"
    TEMPLATE = "template"
    DAY = "day"


class SearchRequest(ItemsQuestion):
    """What a visitor looks for. Raises `UsageError` for an empty query or a value out of its range."""

    query: str
    """What to look for."""
    user: str | None = None
    """The caller's id; None for a visitor who is not known."""
    same_names: bool = False
    explain: bool = False
    """Whether each item of a personal answer gets its reasons."""

    @model_validator(mode="after")
    def _has_words(self) -> Self:
        if not self.query.strip():
            raise UsageError("the query is empty; give words to look for")
        return self


class PredictionKind(StrEnum):
    """What can be predicted of a person."""

    BUY = "buy"
    LEAVE = "leave"
    REDEEM = "redeem"
    NEXT_ORDER = "next-order"
    VALUE = "value"


class PredictionQuestion(Question):
    """What people will do within a horizon."""

    kind: PredictionKind
    """buy, leave, redeem, next-order or value."""
    horizon_days: Annotated[int, Field(ge=1)] = 28
    """Days to look ahead."""
    items: Ids = ()
    """Only purchases of these item ids count; all when empty."""
    category: str | None = None
    """Only purchases of this category count: a name, or a path "a > b"."""
    active_days: Annotated[int, Field(ge=1)] | None = None
    """leave: who bought within this many days is active; 91 when left out."""
    explain: bool = True
    """Whether each person gets the reasons."""
