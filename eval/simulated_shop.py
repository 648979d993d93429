"""A shop whose customers are simulated, for measuring the closed loop: what they really want is known.

Days of Complete Journey are replayed: a household comes when it really came, sees a slate of the service, answers it,
and then buys what it really bought. How it answers follows a response model that the service does not know:

    P(click at position j) = wish / j ** DECAY          P(purchase | click) = BUYS_CLICKED
    wish = NEEDED       the household really buys the item within the next `NEED_DAYS` days
           HIDDEN       the item is of a hidden taste: one of `TASTES` product types, each drawn for the household, that
                        it had never bought before the replay
           RELATED      it is of a product type that the household bought in its log
           OTHERWISE    else
    A shown item that was bought of a slate is not wished for again for `SATED_DAYS` days.
    P(dismissal of what was not clicked) = DISMISSES / j ** DECAY for items of no wish

The purchase log cannot know a hidden taste; answers to slates tell of it. So a service whose models learn from feedback
has something to learn that one without does not, and how much is known: the expected clicks of a slate are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl

from recllm.doors.start.demo import data_folder

DECAY = 0.5
NEEDED, HIDDEN, RELATED, OTHERWISE = 0.30, 0.35, 0.04, 0.01
NEED_DAYS, SATED_DAYS = 14, 14
TASTES = 3
BUYS_CLICKED = 0.5
DISMISSES = 0.02


class Service(Protocol):
    """What answers requests: a client of httpx, or a test client."""

    def post(self, url: str, *, json: Any) -> Any: ...

    def get(self, url: str) -> Any: ...


@dataclass(frozen=True, eq=False)
class ShopLog:
    """Some households' log and the items that they bought: the input files, and the days that are replayed."""

    households: tuple[str, ...]
    products: pl.DataFrame
    """product_id (text) and the package's columns."""
    transactions: pl.DataFrame
    """The package's columns, ids as text, in the order of time."""
    start: datetime
    """The replay begins here; what was before is the log that the shop begins with."""

    @classmethod
    def read(cls, n_households: int, start: datetime, rng: np.random.Generator, *, min_sales: int = 2) -> ShopLog:
        """n_households, drawn by rng, with the items that they bought at least min_sales times in the year."""
        folder = data_folder()
        log = pl.read_parquet(folder / "transactions.parquet").with_columns(
            pl.col("household_id", "product_id", "basket_id").cast(pl.String)
        )
        ids = log["household_id"].unique().sort()
        drawn = ids.gather(np.sort(rng.choice(len(ids), n_households, replace=False)))
        log = log.filter(pl.col("household_id").is_in(drawn.implode()))
        products = pl.read_parquet(folder / "products.parquet").with_columns(pl.col("product_id").cast(pl.String))
        products = products.filter(pl.col("product_type").is_not_null(), pl.col("department") != "FUEL")
        sales = log.group_by("product_id").len().filter(pl.col("len") >= min_sales)
        products = products.join(sales, on="product_id", how="semi").sort("product_id")
        log = log.join(products, on="product_id", how="semi").sort(
            "transaction_timestamp", "household_id", "product_id"
        )
        return cls(tuple(drawn), products, log, start)

    def write(self, folder: Path) -> tuple[Path, Path]:
        """The catalogue and the log before the start, as files of the package's form."""
        before = self.transactions.filter(pl.col("transaction_timestamp") < self.start)
        paths = folder / "products.parquet", folder / "transactions.parquet"
        self.products.write_parquet(paths[0])
        before.write_parquet(paths[1])
        return paths


@dataclass(eq=False)
class Customers:
    """What the households wish for, and how they answer; rng draws the answers."""

    log: ShopLog
    rng: np.random.Generator
    tastes: Mapping[str, frozenset[str]] = field(init=False)
    """Household -> product types of its hidden tastes."""
    sated_until: dict[tuple[str, str], datetime] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._type = dict(self.log.products.select("product_id", "product_type").iter_rows())
        typed = self.log.transactions.join(self.log.products, on="product_id").select(
            "household_id", "product_id", "product_type", at="transaction_timestamp"
        )
        past = typed.filter(pl.col("at") < self.log.start)
        self._past_types = {key[0]: set(rows["product_type"]) for key, rows in past.group_by("household_id")}
        self._needs = {
            key[0]: rows.sort("at")
            for key, rows in typed.filter(pl.col("at") >= self.log.start).group_by("household_id")
        }
        sizes = self.log.products.group_by("product_type").len().sort("product_type")
        rich = sizes.filter(pl.col("len") >= 5)["product_type"].to_list()  # a taste has some items to show
        self.tastes = {
            household: frozenset(
                self.rng.choice(
                    sorted(set(rich) - self._past_types.get(household, set())), TASTES, replace=False
                ).tolist()
            )
            for household in self.log.households
        }

    def wishes(self, household: str, item_ids: Sequence[str], at: datetime) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Of each item in [0, 1]: the probability of a click at the first position; (n,)."""
        needs = self._needs.get(household)
        soon: set[str] = set()
        if needs is not None:
            window = needs.filter(pl.col("at") >= at, pl.col("at") < at + timedelta(days=NEED_DAYS))
            soon = set(window["product_id"])
        past_types, values = self._past_types.get(household, set()), []
        for item_id in item_ids:
            product_type = self._type.get(item_id)
            if self.sated_until.get((household, item_id), at) > at:
                values.append(OTHERWISE)
            elif item_id in soon:
                values.append(NEEDED)
            elif product_type in self.tastes[household]:
                values.append(HIDDEN)
            else:
                values.append(RELATED if product_type in past_types else OTHERWISE)
        return np.array(values)

    def expected_clicks(self, household: str, item_ids: Sequence[str], at: datetime) -> float:
        """Per item of a slate, exactly."""
        wishes = self.wishes(household, item_ids, at)
        return float((wishes / np.arange(1, len(wishes) + 1) ** DECAY).mean()) if len(wishes) else 0.0

    def answers(self, household: str, slate: Mapping[str, Any], at: datetime) -> Iterator[dict[str, Any]]:
        """What the household does with a slate, as events of the service."""
        item_ids = [item["item_id"] for item in slate["items"]]
        wishes = self.wishes(household, item_ids, at)
        draws = self.rng.random((len(item_ids), 3))
        for position, (item_id, wish) in enumerate(zip(item_ids, wishes, strict=True), 1):
            looked = 1 / position**DECAY
            event = {"user_id": household, "item_id": item_id, "request_id": slate["request_id"]}
            event |= {"timestamp": _zoned(at).isoformat(), "position": position}
            if draws[position - 1, 0] < wish * looked:
                yield {**event, "event": "click"}
                if draws[position - 1, 1] < BUYS_CLICKED:
                    self.sated_until[household, item_id] = at + timedelta(days=SATED_DAYS)
                    yield {**event, "event": "purchase", "price": 2.0}
            elif wish == OTHERWISE and draws[position - 1, 2] < DISMISSES * looked:
                yield {**event, "event": "dismiss"}


@dataclass(frozen=True, kw_only=True)
class ServedSlate:
    """One slate of the replay, with its known worth."""

    day: int
    """From the start, 0 the first."""
    household: str
    status: str
    expected_clicks: float
    """Per item."""
    clicks: int


def replay(
    service: Service,
    customers: Customers,
    days: Iterable[int],
    *,
    k: int = 10,
    at_visit: Callable[[str, datetime], None] | None = None,
) -> Iterator[ServedSlate]:
    """Let the households come on these days of the replay, day after day; their slates count as shown.

    at_visit: called with household and time before each slate, when the service knows all that went before.
    """
    log = customers.log
    for day in days:
        begin = log.start + timedelta(days=day)
        of_day = log.transactions.filter(
            pl.col("transaction_timestamp") >= begin, pl.col("transaction_timestamp") < begin + timedelta(days=1)
        )
        for (household, basket), rows in of_day.group_by("household_id", "basket_id", maintain_order=True):
            at = rows["transaction_timestamp"][0]
            if at_visit is not None:
                at_visit(str(household), at)
            body = {"user_id": household, "k": k, "record": True, "explain": False}
            slate = service.post("/v1/recommend", json=body).raise_for_status().json()
            shown = [item["item_id"] for item in slate["items"]]
            expected = customers.expected_clicks(str(household), shown, at)
            answers = list(customers.answers(str(household), slate, at))
            bought = [
                {
                    "event_id": f"{basket}-{n}",
                    "user_id": household,
                    "item_id": item_id,
                    "event": "purchase",
                    "timestamp": _zoned(at + timedelta(seconds=60)).isoformat(),
                    "quantity": max(1, quantity),
                    "price": max(0.0, value) / max(1, quantity),
                    "basket_id": basket,
                }
                for n, (item_id, quantity, value) in enumerate(
                    rows.select("product_id", "quantity", "sales_value").iter_rows()
                )
            ]
            service.post("/v1/events", json={"events": [*answers, *bought]}).raise_for_status()
            yield ServedSlate(
                day=day,
                household=str(household),
                status=slate["status"],
                expected_clicks=expected,
                clicks=sum(answer["event"] == "click" for answer in answers),
            )


def _zoned(at: datetime) -> datetime:
    return at.replace(tzinfo=UTC)
