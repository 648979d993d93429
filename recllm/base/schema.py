"""The nouns of `recllm`, in the order in which data flows, and the protocols between rooms.

Instants are timezone-aware UTC datetimes at the rim and epoch seconds (int64) inside arrays. Every interval is
half open: *as of* t means events strictly before t. Money is in the shop's currency; an item's own price is a
`Decimal`, amounts in arrays are float.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from numbers import Real
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from recllm.base.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


# --- what goes in --------------------------------------------------------------------------------------------------


class Table(StrEnum):
    """The four tables a shop can hand over."""

    USERS = "users"
    ITEMS = "items"
    EVENTS = "events"
    CONSENT = "consent"


class Action(StrEnum):
    """What a person did with an item, or what was done to them (`shown`)."""

    PURCHASE = "purchase"
    VIEW = "view"
    CART = "cart"
    FAVOURITE = "favourite"
    RETURN = "return"
    SHOWN = "shown"
    CLICK = "click"
    DISMISS = "dismiss"
    RATING = "rating"


ACTIONS: tuple[Action, ...] = tuple(Action)
"""Position in this tuple is the code stored in `Events.action` and in the database. Append only."""

ACTION_CODE: Mapping[Action, int] = {action: code for code, action in enumerate(ACTIONS)}

BROWSING: frozenset[Action] = frozenset({Action.VIEW, Action.CART, Action.FAVOURITE, Action.CLICK})
"""The actions that make up H, the browsing part of a profile."""


class Purpose(StrEnum):
    """What a person may or may not have agreed to."""

    ANALYTICS = "analytics"
    PERSONALISATION = "personalisation"
    MODEL_TRAINING = "model_training"
    EMAIL = "email"
    SMS = "sms"
    PUSH = "push"
    LLM_LOCAL = "llm_local"
    LLM_THIRD_PARTY = "llm_third_party"


SESSION_PREFIX = "s1_"
"""Pseudonyms of anonymous sessions begin so; those of people begin otherwise, so that none of one is ever one of the
other."""


def exact_amount(value: object, owner: str) -> Decimal | None:
    """A number, or a number as text, as a `Decimal` of at least 0; a float as it is printed. None stays None.

    Raises `DataError`, which names the `owner`, for anything else.
    """
    if value is None:
        return None
    with suppress(InvalidOperation):
        if isinstance(value, Real | Decimal | str) and not isinstance(value, bool):
            amount = Decimal(str(value))
            if amount.is_finite() and amount >= 0:
                return amount
    raise DataError(f"{owner} is {value!r}; give a number of at least 0, such as 4.90")


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One product. `category` runs from the widest to the narrowest name; `attributes` are free name-value pairs.

    A price may be given as any number, a single category as a text, and values of attributes as what `str` takes.
    Raises `DataError` for a price that is no number or below 0, and for an id or title that is no text.
    """

    item_id: str
    title: str
    category: tuple[str, ...] = ()
    brand: str | None = None
    description: str | None = None
    price: Decimal | None = None
    currency: str | None = None
    available: bool = True
    available_until: datetime | None = None
    """From then on it is off sale, whatever `available` says; None for no end."""
    stock_stated: bool = True
    """False where the shop gave no stock: texts do not call it in stock."""
    attributes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("item_id", "title"):
            if not isinstance(getattr(self, name), str):
                raise DataError(f"the item's {name} is {getattr(self, name)!r}; give a text")
        category = (self.category,) if isinstance(self.category, str) else tuple(self.category)
        object.__setattr__(self, "category", category)
        object.__setattr__(self, "price", exact_amount(self.price, f"the price of item {self.item_id!r}"))
        object.__setattr__(self, "attributes", {name: str(value) for name, value in self.attributes.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestReport:
    """The account of one load. Always `read == accepted + duplicates + quarantined`."""

    load_id: str
    table: Table
    read: int
    accepted: int
    duplicates: int
    quarantined: int
    warnings: Mapping[str, int] = field(default_factory=dict)
    quarantine_file: str | None = None
    read_columns: tuple[str, ...] = ()
    ignored_columns: tuple[str, ...] = ()
    codes: Mapping[str, int] = field(default_factory=dict)
    """Quarantined rows per code."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Reason of a map -> the rows that it left out; E_MAP_REJECT is their sum."""
    personal_data: Mapping[str, int] = field(default_factory=dict)
    """Accepted texts that hold personal data, per column of the file; W_PERSONAL_DATA is their sum."""
    committed: bool = True
    """False for `validate`, which writes nothing."""


# --- profiles ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryLine:
    """All of one person's dealings of one kind with one item, as of the profile's time.

    `weight` is the decayed count (half-life in the profile's settings). `interval_days` is the person's own median
    time between purchases of the item, None below two purchases. `days_since` counts from the last event.
    Both are None where the log knows only an order.
    """

    item_id: str
    count: int
    quantity: float
    spent: float
    weight: float
    days_since: float | None
    interval_days: float | None
    action: Action


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One favourite: a category or brand and the share, in [0, 1], of the person's decayed purchases."""

    name: str
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """User = (I, B, H) as of a time. Each part may be empty, and all of them together: a valid cold start."""

    user_id: str
    as_of: datetime
    basics: Mapping[str, str]
    """I: what the customer said to the shop, e.g. {"age": "35-44"}."""
    purchases: tuple[HistoryLine, ...]
    """B: one line per bought item, heaviest decayed weight first."""
    browsing: tuple[HistoryLine, ...]
    """H: one line per (item, action) seen, carted, favourited or clicked, heaviest first."""
    favourite_categories: tuple[Share, ...] = ()
    favourite_brands: tuple[Share, ...] = ()
    price_band: tuple[float, float, float] | None = None
    """25th, 50th and 75th percentile of the unit prices paid; None without a priced purchase."""
    n_baskets: int = 0
    basket_interval_days: float | None = None
    days_since_last_purchase: float | None = None


# --- questions -----------------------------------------------------------------------------------------------------


class Intent(StrEnum):
    """What a slate is for."""

    MIXED = "mixed"
    """Whatever the user is likely to buy."""
    DISCOVER = "discover"
    """What the user never bought."""
    REMIND = "remind"
    """What the user bought before."""
    CROSS_SELL = "cross_sell"
    """What goes with something that the user bought lately, or has in the cart, and did not buy in that time."""
    WIN_BACK = "win_back"
    """What the user bought again and again, and has stopped buying."""


MARGIN_NAMES = ("margin", "毛利", "利润")
COST_NAMES = ("cost", "cost_price", "purchase_price", "成本", "成本价", "进价")
"""Attributes of an item that say what the shop earns by it, or pays for it: amounts for one."""
IMAGE = "image"
"""Attribute with the address or the file name of an item's picture."""
VARIANT_IDS, VARIANT_NAMES, VARIANT_PRICES = "variant_ids", "variant_names", "variant_prices"
"""Attributes with the names of a product's variants in orders, and with their prices, one a line."""


def is_confidential(attribute: str) -> bool:
    """Whether an attribute of an item is in no text: what the shop earns, its picture, or names of its variants."""
    name = attribute.strip().lower()
    return name in (*MARGIN_NAMES, *COST_NAMES, IMAGE, "parent") or name.startswith("variant")


class Objective(StrEnum):
    """What the order of a slate is by."""

    PROBABILITY = "probability"
    """The chance that the user buys an item."""
    LIFT = "lift"
    """What is left of it without the chance that people in general buy the item: who buys anyway needs no
    advertisement. Of what is new to the user alone: the chance that the user buys it and another would not."""
    MARGIN = "margin"
    """The chance times what the shop earns by the item: its attribute `margin`, or its price less its attribute
    `cost`."""
    UPLIFT = "uplift"
    """Effect of a treatment on the user, estimated from a trial; for audiences and campaigns, not for slates."""


class Occasion(StrEnum):
    """Why a customer should hear from the shop on a day."""

    REPLENISH = "replenish"
    """Something that they buy again and again is due."""
    ABANDONED = "abandoned"
    """They left something in the cart, or looked at it more than once, and did not buy it."""
    PRICE_DROP = "price_drop"
    """Something that they bought or looked at costs less than before."""
    BACK_IN_STOCK = "back_in_stock"
    """Something that they bought or looked at is for sale again."""
    NEW_ARRIVAL = "new_arrival"
    """Something new of a kind that they buy."""
    WIN_BACK = "win_back"
    """They have stayed away for longer than they use to."""
    WELCOME = "welcome"
    """They have just bought for the first time."""


# --- answers -------------------------------------------------------------------------------------------------------


class ReasonKind(StrEnum):
    """Why an item was chosen, said so that nothing about a person can be read from it."""

    KNOWN = "known"
    """The person bought this very item."""
    TOGETHER = "together"
    """The person bought other items that speak for it."""
    INTEREST = "interest"
    """The person looked at something that speaks for it."""
    PICKED = "picked"
    """The customer said something to the shop that speaks for it."""
    GENERAL = "general"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One piece of evidence and what it is worth: the logit falls by `delta` when the evidence is taken away."""

    evidence_id: str
    """"B:<item_id>", "H:<item_id>" or "I:<name>"; "general" when no single piece stands out, "withheld" when
    the one that does is sensitive."""
    delta: float
    text: str
    kind: ReasonKind = ReasonKind.GENERAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """One shown item. `score` orders the slate and equals `logit`, except on a fallback, where it is a popularity."""

    rank: int
    item_id: str
    title: str
    score: float
    cosine: float | None
    """cos(User, Item) in [-1, 1]; None where nothing personal was scored."""
    logit: float | None
    probability: float | None
    """Calibrated probability in [0, 1] that the person buys the item within `Slate.horizon_days`."""
    mlp: float | None = None
    """logit - a * cosine: the part that the MLP adds."""
    propensity: float = 1.0
    """Probability in (0, 1] with which the item came to its place; below 1 where the slate explores."""
    served_by: tuple[str, ...] = ()
    """Candidate sources that proposed the item, e.g. ("own_history", "neighbours"), or one fallback name."""
    reasons: tuple[Reason, ...] = ()
    part: Intent | None = None
    """What the item is to the person: bought before, new, goes with a purchase, or no longer bought; None where nothing
    personal was scored, and for a customer without purchases."""
    part_text: str = ""
    """The same as the heading of a part of the slate, such as "new for you"."""


class SlateStatus(StrEnum):
    """What a slate was made from."""

    PERSONAL = "personal"
    """The trained score."""
    TEXT_ONLY = "text_only"
    """No model was trained: what the user bought, what sells and texts that are alike."""
    UNKNOWN_USER = "unknown_user"
    """Nothing is known of this user: what is popular now."""
    NO_CONSENT = "no_consent"
    """The user has not agreed to personalisation: what is popular now."""
    HOLDOUT = "holdout"
    """The user is one of those with whom the others are compared: what is popular now."""


class ServedBy(StrEnum):
    """What put the items of a slate into their order: the steps of the ladder, best first."""

    SCORER = "scorer"
    COSINE = "cosine"
    POPULAR = "popular"


class NoteKind(StrEnum):
    """What else is to be said of a slate."""

    SHORT = "short"
    """Fewer items than asked pass the filters: `shown` of `k`."""
    BY_LIFT = "by_lift"
    """Items that everybody buys were moved down, so probabilities do not fall with the rank."""
    BY_MARGIN = "by_margin"
    """Items stand in the order of what they are likely to earn."""
    NO_RECENT_PURCHASE = "no_recent_purchase"
    """Nothing was bought in the last `days` that an offer could go with."""
    NOTHING_GOES_WITH = "nothing_goes_with"
    """Nothing goes with what was bought in the last `days`."""
    NOTHING_TO_WIN_BACK = "nothing_to_win_back"
    """Nothing that was bought repeatedly is missing for `days`."""
    STILL_BUYS = "still_buys"
    """The person has stopped buying these items and not all: the latest purchase is `days` ago."""
    FEW_FIT = "few_fit"
    """Fewer items than asked fit a query: `shown` of `k`."""
    WORDS_ONLY = "words_only"
    """A query was answered by its words alone: the text encoder is not loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One note with its numbers."""

    kind: NoteKind
    numbers: Mapping[str, float] = field(default_factory=dict)
    text: str = ""
    """The note in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slate:
    user_id: str
    request_id: str
    as_of: datetime
    model_version: str | None
    items: tuple[Recommendation, ...]
    horizon_days: int | None = None
    status: SlateStatus = SlateStatus.PERSONAL
    served_by: ServedBy = ServedBy.SCORER
    experiment: str | None = None
    """The experiment that the user took part in with this slate."""
    variant: str | None = None
    """The user's variant in it."""
    propensity: float = 1.0
    """Probability in (0, 1] of this slate, among those that exploration could make of the ranking."""
    ranked: tuple[str, ...] = ()
    """Where the slate explores: the items that it drew from, best first."""
    notes: tuple[Note, ...] = ()
    degraded_reason: str | None = None
    """In words why the slate is not personal, or is shorter than asked; None when it is neither.
    Code asks `status` and `notes`."""


class CopyVerdict(StrEnum):
    """What becomes of an ad text."""

    PASS = "pass"  # noqa: S105 - a verdict, not a secret
    """It may leave."""
    PERSON = "person"
    """It is held until a person says yes: nothing in it is wrong as far as is known, and not all of it is known."""
    BLOCKED = "blocked"
    """It contradicts a fact, is hostile or personal, or a law forbids it: it cannot be approved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One guarantee that was checked on a text. `span` is the offending piece of it."""

    guarantee: str
    passed: bool
    message: str = ""
    span: str = ""
    holds: bool = False
    """True where a failure leaves the text to a person; any other failure blocks it."""
    needs: str = ""
    """The evidence that a rule asks for; empty where none would help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdCopy:
    text: str
    channel: str
    locale: str
    generator: str
    """What wrote the words: "template", which is a frame, or the name of a text model."""
    verified: bool
    """Its verdict is `pass`."""
    checks: tuple[Check, ...]
    facts_used: Mapping[str, str]
    template_version: str
    item_id: str
    user_id: str | None = None
    verdict: CopyVerdict = CopyVerdict.PASS
    ungrounded: tuple[str, ...] = ()
    """Words of the text that nothing known about the item or its shop grounds."""
    rejected: tuple[tuple[str, tuple[Check, ...]], ...] = ()
    """Texts of the generator that were stopped, with the failed checks of each."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """`text` by the parts of its channel, such as subject, preheader, body and call_to_action."""


# --- protocols between rooms ---------------------------------------------------------------------------------------

TextKind = Literal["query", "document"]

Progress = Callable[[str], None]
"""Gets a line for a step of a long task."""


@runtime_checkable
class Encoder(Protocol):
    """Texts to unit vectors."""

    name: str
    """What was loaded, for people: a hub id or a folder's name."""
    fingerprint: str
    """Hash over weights, tokenizer and pooling: equal fingerprints give equal vectors."""
    dim: int

    def encode(self, texts: Sequence[str], *, kind: TextKind = "document") -> NDArray[np.float32]:
        """Unit rows, shape (len(texts), dim), float32; shape (0, dim) for no texts."""
        ...


@runtime_checkable
class Generator(Protocol):
    """A prompt to text."""

    name: str
    purpose: Purpose
    """What people must have agreed to before it is asked for a text for them: `LLM_LOCAL` where nothing leaves the
    shop's machines, `LLM_THIRD_PARTY` otherwise. A generator around another one passes on the other's."""

    def generate(self, prompt: str, *, n: int = 1, max_tokens: int = 48, seed: int = 0) -> list[str]:
        """`n` continuations, each stripped; raises `GenerationError` when the model cannot answer."""
        ...
