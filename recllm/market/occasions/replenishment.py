"""Who buys which item again within the next week: boosted trees on what is known of a person and an item that they
bought on several days: when, how often, on how many of their trips.

A purchase day is (person, item, day): lines of one day count once. Days are counted back from the time asked about, so
a day is any 24 hours before it.

For each of the latest weeks of the log the pairs as of its start are examples, and the label is whether the person
bought the item in that week.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.documents import plain
from recllm.base.errors import DataError, ModelError
from recllm.base.schema import Action
from recllm.base.stats.probabilities import sigmoid
from recllm.learn.models.trees import BoostedTrees, BoostingSettings, grow_trees
from recllm.market.propensity.examples import past_starts, span_days
from recllm.market.propensity.features import category_codes
from recllm.shop.data.dataset import DAY, Dataset, utc

HORIZON_DAYS = 7
"""Days ahead that a repurchase is asked about."""
MIN_DAYS = 2
"""Purchase days of a pair from which on a gap is known."""
WINDOWS = (7, 14, 28, 56, 91, 182)
"""Days within which purchases are counted."""
PRIOR_DAYS = 60
"""Days of one person with an item that everybody's knowledge of it counts as."""
_WIDTH = 1 << 20
"""More than there are days in any log: two numbers in one, the second of them a day or a gap."""
PAIR = ("user", "item")
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def bought_again(dataset: Dataset, pairs: pl.DataFrame, start: int) -> Floats:
    """1 for each pair whose item the person buys within `HORIZON_DAYS` from the start on, else 0; (n,)."""
    bought = dataset.between(start, start + HORIZON_DAYS * DAY)
    keys = np.unique(bought.user.astype(np.int64) * dataset.n_items + bought.item)
    return np.isin((pairs["user"] * dataset.n_items + pairs["item"]).to_numpy(), keys).astype(np.float64)


def repurchase_pairs(dataset: Dataset, as_of: int) -> pl.DataFrame:
    """Pairs of a person and an item bought on at least two days, by person, then item: their rows in the dataset, and
    features as float32, NaN where unknown, of purchases before `as_of` (epoch seconds) alone. A day ends at this time.
    """
    days = purchase_days(dataset, as_of)
    age = pl.col("age")
    once = days.group_by(PAIR).agg(days=pl.len(), since=age.min(), tenure=age.max())
    repeated = once.filter(pl.col("days") >= MIN_DAYS)
    pairs = days.join(repeated, on=PAIR, how="semi", maintain_order="left")
    pairs = pairs.group_by(PAIR, maintain_order=True).agg(**figures_of_pair())
    pairs = pairs.with_columns(
        since_over_mean=pl.col("since") / at_least("gap_mean", 1),
        since_over_median=pl.col("since") / at_least("gap_median", 1),
        per_28=pl.col("days") * 28 / at_least("tenure", 28),
        last_units_over_mean=pl.col("last_units") * pl.col("days") / pl.col("units"),
        # days that the last purchase lasts, at the units that the person used a day until then
        since_over_lasting=pl.col("since")
        / pl.max_horizontal(
            pl.col("last_units") * pl.col("tenure") / (pl.col("units") - pl.col("last_units")).clip(1e-9), 0.5
        ),
        trips_since_over_mean=pl.col("trips_since") / at_least("trip_gap_mean", 1),
    )
    pairs = pairs.join(figures_of_person(days, repeated), on="user", maintain_order="left")
    pairs = pairs.join(figures_of_item(days, once), on="item", maintain_order="left")
    pairs = pairs.with_columns(
        trip_share_91=pl.col("days_91") / at_least("trips_91", 1),
        trip_share_28=pl.col("days_28") / at_least("trips_28", 1),
        last_price=pl.col("last_price") / pl.col("usual_price"),
    )
    codes = (name_codes(dataset.items), category_codes(dataset.items, -1), category_codes(dataset.items, 1))
    kinds = dict(zip(("name", "type", "category"), codes, strict=True))
    pairs = pairs.with_columns(hazards_of(days, once, pairs, {"item": np.arange(dataset.n_items), **kinds}))
    pairs = pairs.with_columns(
        column for name, code in kinds.items() for column in figures_among(days, pairs, code, name)
    )
    pairs = pairs.with_columns(
        # the pair's own gaps, as if three of them had been seen at the item's rate
        own_hazard=(pl.col("ended") + 3 * pl.col("item_hazard")) / (pl.col("longer") + 1 + 3),
        # a Poisson rate with a gamma prior around the item's
        poisson_gamma=1
        - (
            -(HORIZON_DAYS * (pl.col("days") - 1) + pl.col("item_hazard") * PRIOR_DAYS)
            / (pl.col("tenure") + PRIOR_DAYS)
        ).exp(),
    )
    features = pl.exclude(PAIR).cast(pl.Float32).fill_null(np.nan)
    return pairs.drop("units", "ended", "longer").select(*PAIR, features)


def purchase_days(dataset: Dataset, as_of: int) -> pl.DataFrame:
    """One row per person, item and day, by person, then item, oldest first.

    user, item; age, whole days before `as_of`, 0 for the last 24 hours; quantity; price, the lowest of a unit on that
    day, null where unknown; gap to the pair's day before, null for its first; later, the person's shopping days since;
    cheap, below the item's usual price.
    """
    bought = dataset.before(as_of).events.of(Action.PURCHASE)
    frame = pl.DataFrame(
        {
            "user": bought.user.astype(np.int64),
            "item": bought.item.astype(np.int64),
            "age": (as_of - 1 - bought.at) // DAY,
            "quantity": bought.quantity.astype(np.float64),
            "price": bought.price.astype(np.float64),
        }
    ).filter(pl.col("quantity") > 0)
    lowest = pl.col("price").filter(pl.col("price") > 0).fill_nan(None).min()
    days = frame.group_by(*PAIR, "age").agg(pl.col("quantity").sum(), lowest)
    days = days.sort(*PAIR, "age", descending=[False, False, True])
    follows = (pl.col("user") == pl.col("user").shift(1)) & (pl.col("item") == pl.col("item").shift(1))
    return days.with_columns(
        gap=pl.when(follows).then(pl.col("age").shift(1) - pl.col("age")),
        later=pl.col("age").rank("dense").over("user").cast(pl.Int64) - 1,
        cheap=pl.col("price") < 0.9 * pl.col("price").median().over("item"),
    )


def name_codes(items: pl.DataFrame) -> Ints:
    """A number for the title of each item, -1 without one; (n_items,)."""
    return items["title"].rank("dense").cast(pl.Int64).fill_null(0).to_numpy() - 1


def at_least(column: str, value: float) -> pl.Expr:
    return pl.max_horizontal(pl.col(column), pl.lit(value))


def within_days(days: int) -> pl.Expr:
    return (pl.col("age") < days).sum()


def figures_of_pair() -> dict[str, pl.Expr]:
    """The days of one pair, oldest first, and the gaps between them, in days and in shopping days."""
    age, gap, later, since = pl.col("age"), pl.col("gap"), pl.col("later"), pl.col("age").min()
    trip_gap = later.shift(1) - later
    return {
        "days": pl.len(),
        "since": since,
        "tenure": age.max(),
        "gap_mean": gap.mean(),
        "gap_median": gap.median(),
        "gap_std": gap.std(ddof=0),
        "gap_last": gap.last(),
        "gaps_outlasted": (gap <= since).mean(),
        **{f"days_{window}": within_days(window) for window in WINDOWS},
        **{f"decayed_{half}": (-age / half * np.log(2)).exp().sum() for half in (10, 28, 91, 182)},
        "units": pl.col("quantity").sum(),
        "last_units": pl.col("quantity").last(),
        "ended": ((gap > since) & (gap <= since + HORIZON_DAYS)).sum(),
        "longer": (gap > since).sum(),
        "trips_since": later.last(),
        "trip_share": pl.len() / (later.first() + 1),
        "trip_gap_mean": trip_gap.mean(),
        "trip_gap_last": trip_gap.last(),
        **{f"trips_decayed_{half}": (-later / half * np.log(2)).exp().sum() for half in (2, 5, 12)},
        **{f"among_last_{n}": (later < n).sum() for n in (1, 2, 3, 5, 8)},
        "last_price": pl.col("price").last(),
        "cheap_share": pl.col("cheap").sum() / pl.len(),
    }


def repeated_lately(pairs: pl.DataFrame, by: str) -> pl.DataFrame:
    """Of pairs with a gap, by user or item: how many there are (repeated), and how many were bought within the last
    days (repeated_7 and so on)."""
    counts = {f"repeated_{window}": (pl.col("since") < window).sum() for window in (7, 14, 28)}
    return pairs.group_by(by).agg(repeated=pl.len(), **counts)


def figures_of_person(days: pl.DataFrame, repeated: pl.DataFrame) -> pl.DataFrame:
    age, lines = pl.col("age"), pl.col("lines")
    week = (pl.col("age") // 7).filter(pl.col("age") < 77).unique()
    people = days.group_by("user", "age").agg(lines=pl.len()).group_by("user")
    table = people.agg(
        **{f"trips_{window}": within_days(window) for window in (7, 14, 28, 91)},
        days_since_trip=age.min(),
        trip_gap=(age.max() - age.min()) / pl.max_horizontal(pl.len() - 1, pl.lit(1)),
        lines_per_trip=lines.mean(),
        lines_28=lines.filter(age < 28).sum(),
        weeks=week.len(),
        weeks_decayed=(week * np.log(0.7)).exp().sum(),
    )
    table = table.join(repeated_lately(repeated, "user"), on="user", how="left")
    shares = {f"repeated_lately_{n}": pl.col(f"repeated_{n}") / at_least("repeated", 1) for n in (7, 14, 28)}
    table = table.with_columns(repeated_items=pl.col("repeated"), **shares)
    return table.drop("repeated", "repeated_7", "repeated_14", "repeated_28")


def figures_of_item(days: pl.DataFrame, once: pl.DataFrame) -> pl.DataFrame:
    age, price = pl.col("age"), pl.col("price")
    prices = {"3": age < 3, "7": age < 7, "14": (age >= 7) & (age < 14), "28": age < 28}
    table = days.group_by("item").agg(
        **{f"n_{window}": within_days(window) for window in (2, 3, 7, 28, 91)},
        usual_price=price.median(),
        **{f"price_{name}": price.filter(mask).median() / price.median() for name, mask in prices.items()},
    )
    repeated = once.filter(pl.col("days") >= MIN_DAYS)
    n_gaps = int((once["days"] - 1).sum())
    mean_gap = (once["tenure"] - once["since"]).sum() / n_gaps if n_gaps else None
    rates = {n: (repeated["since"] < n).sum() / max(repeated.height, 1) for n in (7, 14, 28)}
    bought = once.group_by("item").agg(
        buyers=pl.len(), again=pl.col("days").sum() - pl.len(), gap_days=(pl.col("tenure") - pl.col("since")).sum()
    )
    table = table.join(bought, on="item").join(repeated_lately(repeated, "item"), on="item", how="left")
    table = table.with_columns(pl.col("^repeated.*$").fill_null(0))
    return table.select(
        "item",
        "usual_price",
        *(f"price_{name}" for name in prices),
        *(pl.col(f"n_{n}").log1p().alias(f"sold_{n}") for n in (7, 28)),
        *(((pl.col(f"n_{n}") + 1) / (pl.col("n_28") * n / 28 + 1)).alias(f"trend_{n}") for n in (2, 3, 7)),
        trend_28=(pl.col("n_28") + 1) / (pl.col("n_91") * 28 / 91 + 1),
        repeat_share=(pl.col("again") + 1) / (pl.col("again") + pl.col("buyers") + 3),
        item_gap=(pl.col("gap_days") + 30 * pl.lit(mean_gap, pl.Float64)) / (pl.col("again") + 30),
        repeaters=pl.col("repeated").log1p(),
        **{
            f"repeaters_lately_{n}": (pl.col(f"repeated_{n}") + 10 * rate) / (pl.col("repeated") + 10)
            for n, rate in rates.items()
        },
    )


def hazards_of(
    days: pl.DataFrame, once: pl.DataFrame, pairs: pl.DataFrame, codes: Mapping[str, Ints]
) -> list[pl.Series]:
    """Of all gaps and open spells longer than each pair's, the share that ends within the horizon: of everything, and
    of the items of the same code, as if ten of them had been seen at the rate of everything. codes: by name for each
    item, (n_items,), -1 for none. once: also the pairs without a gap."""
    gaps = days.select("item", "gap").drop_nulls("gap")
    gap, gap_item = gaps["gap"].to_numpy(), gaps["item"].to_numpy()
    since, item = pairs["since"].to_numpy(), pairs["item"].to_numpy()
    spell, spell_item = once["since"].to_numpy(), once["item"].to_numpy()
    n_gaps, spells = np.sort(gap), np.sort(spell)
    passed = np.searchsorted(n_gaps, since, "right")
    ended = np.searchsorted(n_gaps, since + HORIZON_DAYS, "right")
    lasting = len(spells) - np.searchsorted(spells, since, "right")
    everything = (ended - passed) / np.maximum(len(gap) - passed + lasting, 1)
    columns = [pl.Series("hazard", everything)]
    for name, code in codes.items():
        of_gap, of_pair, of_spell = code[gap_item], code[item], code[spell_item]
        n_gaps = np.sort((of_gap * _WIDTH + gap)[of_gap >= 0])
        spells = np.sort((of_spell * _WIDTH + spell)[of_spell >= 0])
        edges = [of_pair * _WIDTH + day for day in (since, since + HORIZON_DAYS, _WIDTH - 1)]
        passed, ended, every = (np.searchsorted(n_gaps, edge, "right") for edge in edges)
        lasting = np.searchsorted(spells, edges[2], "right") - np.searchsorted(spells, edges[0], "right")
        hazard = (ended - passed + 10 * everything) / (every - passed + lasting + 10)
        columns.append(pl.Series(f"{name}_hazard", np.where(of_pair >= 0, hazard, np.nan)))
    return columns


def figures_among(days: pl.DataFrame, pairs: pl.DataFrame, code: Ints, name: str) -> list[pl.Series]:
    """The person's purchases among the items of the same code as the pair's; NaN without a code."""
    user, item, age = (days[column].to_numpy() for column in (*PAIR, "age"))
    of_row, of_pair, width = code[item], code[pairs["item"].to_numpy()], int(code.max(initial=0)) + 1
    coded, since = of_row >= 0, pairs["since"].to_numpy()
    keys = np.sort(((user * width + of_row) * _WIDTH + age)[coded])
    group = (pairs["user"].to_numpy() * width + of_pair) * _WIDTH
    start = np.searchsorted(keys, group)

    def younger(than: Ints | int) -> Ints:
        """Purchases among them in the last days."""
        return np.asarray(np.searchsorted(keys, group + than) - start, np.int64)

    total, latest = younger(_WIDTH - 1), np.append(keys, 0)[start] - group
    sold = {window: np.bincount(of_row[coded & (age < window)], minlength=width)[of_pair] for window in (7, 28, 91)}
    columns = {
        "after": younger(since),
        "since": latest,
        "since_over_gap": latest * total / np.maximum(pairs["tenure"].to_numpy(), total),
        "share": pairs["days"].to_numpy() / np.maximum(total, 1),
        "share_91": pairs["days_91"].to_numpy() / np.maximum(younger(91), 1),
        "days_28": younger(28),
        "days_91": younger(91),
        "trend_7": (sold[7] + 1) / (sold[28] / 4 + 1),
        "trend_28": (sold[28] + 1) / (sold[91] * 28 / 91 + 1),
    }
    return [pl.Series(f"{name}_{key}", np.where(of_pair >= 0, column, np.nan)) for key, column in columns.items()]


TREES = BoostingSettings(rounds=150, learning_rate=0.06, leaves=40, min_leaf_rows=200, l2=10.0)
COLUMN_SHARE = 0.35
"""Share of the columns that a split may choose from."""
WEEKS = 8
"""Past weeks learned from."""
MAX_ROWS = 600_000
"""Pairs of a person and an item in all these weeks at most, drawn at random."""
MIN_REPURCHASES = 100
"""Fewer of them in all weeks teach nothing that could be checked."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, kw_only=True)
class ReplenishmentModel:
    """Trees, and what they were learned from."""

    trees: BoostedTrees
    as_of: int
    """Nothing from then on was learned from, epoch seconds."""
    record: Mapping[str, Any]
    """Data hash, weeks, pairs and settings."""

    @classmethod
    def read(cls, file: Path) -> ReplenishmentModel:
        """Reads what `save` wrote. Raises `ModelError` for any other file."""
        trees, record = BoostedTrees.read(file)
        try:
            return cls(trees=trees, as_of=int(record["as_of"]), record=record)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{file}: no replenishment model ({error}); remove it to learn one again") from error

    def save(self, file: Path) -> None:
        """Writes it whole."""
        self.trees.save(file, self.record)

    def probability(self, pairs: pl.DataFrame) -> Floats:
        """That the item is bought within `HORIZON_DAYS` days, in (0, 1), (n,). Raises `ModelError` for other features
        than those learned from."""
        if missing := set(self.trees.names) - set(pairs.columns):
            raise ModelError(f"the replenishment model reads {min(missing)}, which is not known; learn it again")
        return sigmoid(self.trees.score(pairs.select(self.trees.names).to_numpy()))


def learn_replenishment(
    dataset: Dataset,
    trees: BoostingSettings = TREES,
    *,
    weeks: int = WEEKS,
    progress: Callable[[str], None] | None = None,
) -> ReplenishmentModel:
    """From everything in `dataset`, the people who may be learned from, in their latest `weeks`.

    progress: gets each step in words. Raises `DataError` for a log without two weeks that can be learned from, or with
    too few repurchases.
    """
    tell, rng = progress or (lambda _: None), np.random.default_rng(trees.seed)
    starts = past_starts(dataset, HORIZON_DAYS, weeks, history_days=4 * HORIZON_DAYS)
    if len(starts) < 2:
        raise DataError(f"the log spans {span_days(dataset):.0f} days; to learn when something is due takes six weeks")
    tables, labels = [], []
    for number, start in enumerate(starts, 1):
        tell(f"reading week {number} of {len(starts)}, from {utc(start):%Y-%m-%d}")
        pairs = repurchase_pairs(dataset, start)
        label, limit = bought_again(dataset, pairs, start), MAX_ROWS // len(starts)
        rows = np.sort(rng.permutation(len(pairs))[:limit])
        tables.append(pairs[rows].drop(PAIR))
        labels.append(label[rows])
    n_positive = sum(int(label.sum()) for label in labels)
    if n_positive < MIN_REPURCHASES:
        raise DataError(
            f"in the last {len(starts)} weeks {n_positive:,} items were bought again after purchases on two days; "
            f"at least {MIN_REPURCHASES} are needed to learn when something is due"
        )

    end = int(dataset.events.at.max()) + 1
    record = {
        "as_of": end,
        "data_hash": dataset.data_hash(),
        "weeks": len(starts),
        "pairs": sum(map(len, labels)),
        "bought_again": n_positive,
        "settings": plain(trees),
    }
    tell("learning from all weeks")
    table, label = pl.concat(tables), np.concatenate(labels)
    grown = grow_trees(table.to_numpy(), label, trees, names=table.columns, column_share=COLUMN_SHARE)
    logger.info("replenishment: %d pairs of %d weeks", record["pairs"], len(starts))
    return ReplenishmentModel(trees=grown, as_of=end, record=record)
