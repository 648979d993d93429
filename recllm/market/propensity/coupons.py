"""Coupon campaigns as tables of their own: who was mailed what and when, for which items, and who redeemed.

    mailings      user_id, campaign_id, timestamp, and where known kind (text) and end (the last moment to redeem)
    products      campaign_id, item_id, and where known coupon_id
    redemptions   user_id, campaign_id, timestamp
    uses          user_id, timestamp, and where known amount: coupons used at the till, of any origin; may be left out

Times are aware datetimes, ISO texts or epoch seconds. Rows of people who are not in a dataset, because they did not
agree to its purpose or are unknown, are dropped when the tables meet the dataset.

Features: what a person did with coupons, and with a campaign's products, before the campaign reached them.

coupons    campaigns mailed and redeemed before, in all and of the same kind; coupons used at the till.
affinity   purchases of the campaign's own items, and in their categories; how many of its coupons they could use.
campaign   its kind. Counts of its items and of its people would tell a dozen campaigns apart and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recllm.base.errors import DataError, UsageError
from recllm.base.schema import Action
from recllm.market.propensity.features import Column, Columns, FeatureTable, category_codes, count, money
from recllm.shop.data.dataset import DAY, Dataset
from recllm.shop.data.interactions import visits

NEEDED = {
    "mailings": ("user_id", "campaign_id", "timestamp"),
    "products": ("campaign_id", "item_id"),
    "redemptions": ("user_id", "campaign_id", "timestamp"),
    "uses": ("user_id", "timestamp"),
}


USE_COLUMNS = (
    *("coupon_uses", "coupon_uses_91", "coupon_uses_28", "coupon_trips", "coupon_trips_91", "coupon_amount"),
    *("coupon_trip_share", "coupon_line_share", "days_since_coupon"),
)
INCREASING = (
    *("redeemed_campaigns", "redeemed", "redeem_rate", "redeemed_alike"),
    *USE_COLUMNS[:-1],
    *("own_lines", "own_lines_91", "own_spend", "own_spend_91", "own_share", "own_share_91", "own_items"),
    *("coupons_fitting", "coupons_fitting_share"),
)
"""With these a probability to redeem may only rise, other things equal."""
DECREASING = ("days_since_redeemed", "days_since_coupon")

PRIOR_RATE, PRIOR_MAILINGS = 0.12, 1.0
"""A person's rate of redeeming starts from the rate of a typical campaign, as if after one mailing."""


@dataclass(frozen=True, eq=False)
class Coupons:
    """The four tables, checked; times as int64 epoch seconds `at`, `end` null where unknown."""

    mailings: pl.DataFrame
    products: pl.DataFrame
    redemptions: pl.DataFrame
    uses: pl.DataFrame

    @classmethod
    def construct(
        cls, mailings: pl.DataFrame, products: pl.DataFrame, redemptions: pl.DataFrame, uses: pl.DataFrame | None = None
    ) -> Coupons:
        """The one door. Raises `DataError` for a missing column, an empty mailing list or a time that is none."""
        if uses is None:
            uses = pl.DataFrame(schema={"user_id": pl.String, "timestamp": pl.Int64})
        frames = {"mailings": mailings, "products": products, "redemptions": redemptions, "uses": uses}
        tables = {name: _checked(name, frame) for name, frame in frames.items()}
        if not tables["mailings"].height:
            raise DataError("the mailings are empty: nothing can be learned from campaigns without recipients")
        return cls(**tables)

    @classmethod
    def read(cls, folder: Path, pseudonyms: Callable[[Sequence[str]], list[str]] | None = None) -> Coupons:
        """From mailings.csv, products.csv, redemptions.csv and, where it is there, uses.csv of a folder.

        Times without a zone are read as UTC. pseudonyms: the shop's own ids to those of the dataset. Raises
        `UsageError` for a missing file, `DataError` for one that cannot be read.
        """
        frames: dict[str, pl.DataFrame] = {}
        for name in NEEDED:
            file = folder / f"{name}.csv"
            if not file.is_file():
                if name == "uses":
                    continue
                tables = "; ".join(f"{table}.csv ({', '.join(NEEDED[table])})" for table in list(NEEDED)[:3])
                raise UsageError(f"no coupon table {file}; redeem needs a folder with {tables}")
            try:
                frame = pl.read_csv(file, infer_schema=False, encoding="utf8")
            except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
                raise DataError(f"{file}: cannot be read as CSV in UTF-8: {error}") from error
            if pseudonyms is not None and "user_id" in frame.columns:
                shop_ids = frame["user_id"].drop_nulls().unique().to_list()
                names = dict(zip(shop_ids, pseudonyms(shop_ids), strict=True))
                frame = frame.with_columns(pl.col("user_id").replace_strict(names, default=None))
            frames[name] = frame
        return cls.construct(**frames)

    def starts(self) -> dict[str, int]:
        """The first mailing of each campaign, epoch seconds, earliest first."""
        first = self.mailings.group_by("campaign_id").agg(pl.col("at").min()).sort("at", "campaign_id")
        return dict(first.iter_rows())

    def before(self, at: int) -> Coupons:
        """Only what was known before `at`: mailings, redemptions and uses of earlier times."""
        past = pl.col("at") < at
        return Coupons(self.mailings.filter(past), self.products, self.redemptions.filter(past), self.uses.filter(past))


def _checked(name: str, frame: pl.DataFrame) -> pl.DataFrame:
    missing = [column for column in NEEDED[name] if column not in frame.columns]
    if missing:
        raise DataError(f"{name}: missing column {', '.join(missing)}; found {', '.join(frame.columns)}")
    ids = {"user_id", "campaign_id", "item_id", "coupon_id", "kind"} & set(frame.columns)
    frame = frame.with_columns(pl.col(sorted(ids)).cast(pl.String))
    if "timestamp" in NEEDED[name]:
        frame = frame.with_columns(_seconds(name, frame["timestamp"]).alias("at"))
    if name == "mailings":
        if "kind" not in frame.columns:
            frame = frame.with_columns(kind=pl.lit(None, pl.String))
        end = _seconds(name, frame["end"]) if "end" in frame.columns else pl.lit(None, pl.Int64)
        frame = frame.with_columns(end.alias("end"))
    if name == "uses":
        amount = pl.col("amount").cast(pl.Float64) if "amount" in frame.columns else pl.lit(1.0)
        frame = frame.with_columns(amount.alias("amount"))
    return frame


def _seconds(name: str, column: pl.Series) -> pl.Series:
    """Epoch seconds of aware times, of whole numbers as they are, and of ISO dates and times as text: a zone in the
    text counts, none means UTC."""
    if column.dtype.is_integer():
        return column.cast(pl.Int64)
    if column.dtype == pl.String:
        seconds = {text: epoch_seconds(name, column.name, text) for text in column.drop_nulls().unique()}
        return column.replace_strict(seconds, default=None, return_dtype=pl.Int64)
    if not isinstance(column.dtype, pl.Datetime) or column.dtype.time_zone is None:
        raise DataError(
            f"{name}.{column.name}: {column.dtype} is no time with a zone; give aware datetimes, e.g. "
            "dt.replace_time_zone('UTC'), ISO texts or epoch seconds"
        )
    return column.dt.epoch("s")


def epoch_seconds(table: str, column: str, text: str) -> int | None:
    if not text.strip():
        return None
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise DataError(f"{table}.{column}: {text!r} is no time such as 2024-05-01T10:00:00Z") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def coupon_features(dataset: Dataset, coupons: Coupons, campaign: str, at: int) -> FeatureTable:
    """One row per person of `dataset.users`, from what happened before `at` (epoch seconds) alone."""
    past, earlier = dataset.before(at), coupons.before(at)
    kinds = dict(coupons.mailings.select("campaign_id", "kind").unique("campaign_id").iter_rows())
    of_kind = {f"kind={kind}": float(kinds.get(campaign) == kind) for kind in sorted({k for k in kinds.values() if k})}
    alike = [name for name, kind in kinds.items() if kind == kinds.get(campaign)]
    groups: dict[str, Columns | dict[str, float]] = {
        "coupons": {**_redemptions(past, earlier, alike), **_uses(past, earlier)},
        "affinity": _affinity(past, coupons, campaign),
        "campaign": of_kind,
    }
    return FeatureTable.of(groups, dataset.n_users)


def _of_people(frame: pl.DataFrame, dataset: Dataset) -> pl.DataFrame:
    """A coupon table's rows that belong to people of a dataset, with `user`, the row of each person."""
    return frame.with_columns(user=pl.Series(dataset.user_rows(frame["user_id"]))).filter(pl.col("user") >= 0)


def _counts(rows: pl.DataFrame, dataset: Dataset, weight: NDArray[np.generic] | None = None) -> Column:
    return count(rows["user"].to_numpy(), dataset.n_users, weight)


def _days_since(rows: pl.DataFrame, dataset: Dataset) -> Column:
    """Days since the last row of each person, NaN without one."""
    last = np.full(dataset.n_users, np.nan)
    np.fmax.at(last, rows["user"].to_numpy(), rows["at"].to_numpy().astype(np.float64))
    return np.asarray((dataset.as_of - last) / DAY)


def _redemptions(past: Dataset, earlier: Coupons, alike: list[str]) -> Columns:
    """Campaigns mailed and redeemed, in all and of the kinds that are alike."""
    mailed, redeemed = _of_people(earlier.mailings, past), _of_people(earlier.redemptions, past)
    once, is_alike = redeemed.unique(["user", "campaign_id"]), pl.col("campaign_id").is_in(alike)
    mailings, campaigns = _counts(mailed, past), _counts(once, past)
    return {
        "mailed_before": mailings,
        "mailed_alike": _counts(mailed.filter(is_alike), past),
        "running": _counts(mailed.filter(pl.col("end") > past.as_of), past),
        "redeemed_campaigns": campaigns,
        "redeemed": _counts(redeemed, past),
        "redeemed_alike": _counts(once.filter(is_alike), past),
        "redeem_rate": (campaigns + PRIOR_RATE * PRIOR_MAILINGS) / (mailings + PRIOR_MAILINGS),
        "days_since_redeemed": _days_since(redeemed, past),
    }


def _uses(past: Dataset, earlier: Coupons) -> Columns:
    """Coupons used at the till; NaN where the shop has no table of them."""
    if not earlier.uses.height:
        return {name: np.full(past.n_users, np.nan) for name in USE_COLUMNS}
    used, bought = _of_people(earlier.uses, past), past.events.of(Action.PURCHASE)
    once, age = used.unique(["user", "at"]), (past.as_of - pl.col("at")) / DAY
    uses, trips = _counts(used, past), _counts(once, past)
    columns = (
        uses,
        *(_counts(used.filter(age <= days), past) for days in (91, 28)),
        trips,
        _counts(once.filter(age <= 91), past),
        _counts(used, past, used["amount"].to_numpy()),
        trips / np.maximum(visits(bought)[1], 1),
        uses / np.maximum(count(bought.user, past.n_users), 1),
        _days_since(used, past),
    )
    return dict(zip(USE_COLUMNS, columns, strict=True))


def _affinity(past: Dataset, coupons: Coupons, campaign: str) -> Columns:
    """Purchases of the campaign's items and in their categories, and coupons for something that the person bought."""
    offered = coupons.products.filter(pl.col("campaign_id") == campaign)
    rows, n = past.item_rows(offered["item_id"]), past.n_users
    on_offer = np.zeros(past.n_items, bool)
    on_offer[rows[rows >= 0]] = True
    bought = past.events.of(Action.PURCHASE)
    columns: Columns = {}
    for suffix, events in (("", bought), ("_91", bought.select(bought.at >= past.as_of - 91 * DAY))):
        offered_lines = events.select(on_offer[events.item])
        columns[f"own_lines{suffix}"] = count(offered_lines.user, n)
        columns[f"own_spend{suffix}"] = count(offered_lines.user, n, money(offered_lines))
        columns[f"own_share{suffix}"] = count(offered_lines.user, n) / np.maximum(count(events.user, n), 1)
    pairs = np.unique(np.stack([bought.user, bought.item])[:, on_offer[bought.item]], axis=1)
    columns["own_items"] = count(pairs[0], n)
    for level in (1, 2):  # the second and third name of the path
        code = category_codes(past.items, level)
        inside = np.isin(code, code[on_offer & (code >= 0)])
        lines = count(bought.user[inside[bought.item]], n)
        columns[f"category_lines_{level}"] = lines
        columns[f"category_share_{level}"] = lines / np.maximum(count(bought.user, n), 1)
    if "coupon_id" not in offered.columns or not offered.height:  # without ids of coupons
        return columns | {name: np.full(n, np.nan) for name in ("coupons_fitting", "coupons_fitting_share")}
    items = pl.DataFrame({"item": past.item_rows(offered["item_id"]), "coupon": offered["coupon_id"]})
    purchases = pl.DataFrame({"user": pairs[0].astype(np.int64), "item": pairs[1].astype(np.int64)})
    usable = purchases.join(items, on="item").select("user", "coupon").unique()
    fitting = count(usable["user"].to_numpy(), n)
    return columns | {"coupons_fitting": fitting, "coupons_fitting_share": fitting / offered["coupon_id"].n_unique()}
