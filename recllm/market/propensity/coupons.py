"""Coupon campaigns as tables of their own: who was mailed what and when, for which items, and who redeemed.

    mailings      user_id, campaign_id, timestamp, and where known kind (text) and end (the last moment to redeem)
    products      campaign_id, item_id, and where known coupon_id
    redemptions   user_id, campaign_id, timestamp
    uses          user_id, timestamp, and where known amount: coupons used at the till, of any origin; may be left out

Times are aware datetimes, ISO texts or epoch seconds. Rows of people who are not in a dataset, because they did not
agree to its purpose or are unknown, are dropped when the tables meet the dataset.

Features: what a person did with coupons, and with a campaign's products, before the campaign reached them, and
its kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

from recllm.base.errors import DataError, UsageError
from recllm.base.schema import Action
from recllm.market.propensity.features import Columns, FeatureTable, category_codes, of_each, rows_of, within
from recllm.shop.data.dataset import DAY, Dataset

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

        Times without a zone are read as UTC. pseudonyms: as in `read_texts`. Raises `UsageError` for a file that is
        missing or cannot be read.
        """
        frames: dict[str, pl.DataFrame] = {}
        for name in NEEDED:
            file = folder / f"{name}.csv"
            if file.is_file():
                frames[name] = read_texts(file, pseudonyms)
            elif name != "uses":
                tables = "; ".join(f"{table}.csv ({', '.join(NEEDED[table])})" for table in list(NEEDED)[:3])
                raise UsageError(f"no coupon table {file}; redeem needs a folder with {tables}")
        return cls.construct(**frames)

    def starts(self) -> dict[str, int]:
        """The first mailing of each campaign, epoch seconds, earliest first."""
        first = self.mailings.group_by("campaign_id").agg(pl.col("at").min()).sort("at", "campaign_id")
        return dict(first.iter_rows())

    def before(self, at: int) -> Coupons:
        """Only what was known before `at`: mailings, redemptions and uses of earlier times."""
        past = pl.col("at") < at
        return Coupons(self.mailings.filter(past), self.products, self.redemptions.filter(past), self.uses.filter(past))


def read_texts(
    file: Path,
    pseudonyms: Callable[[Sequence[str]], list[str]] | None = None,
) -> pl.DataFrame:
    """A CSV (UTF-8), every column as text. pseudonyms: the shop's own ids of users to those of the dataset.
    Raises `UsageError` for a file that cannot be read."""
    try:
        table = pl.read_csv(file, infer_schema=False, encoding="utf8")
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException, UnicodeDecodeError) as error:
        reason = str(error).split("\n", 1)[0]
        raise UsageError(f"{file}: cannot be read as CSV (UTF-8, first line names the columns): {reason}") from error
    if pseudonyms is None or "user_id" not in table.columns:
        return table
    ids = table["user_id"].drop_nulls().unique().to_list()
    names = dict(zip(ids, pseudonyms(ids), strict=True))
    return table.with_columns(pl.col("user_id").replace_strict(names, default=None, return_dtype=pl.String))


def _checked(name: str, frame: pl.DataFrame) -> pl.DataFrame:
    missing = [column for column in NEEDED[name] if column not in frame.columns]
    if missing:
        raise DataError(f"{name}: missing column {', '.join(missing)}; found {', '.join(frame.columns)}")
    ids = {"user_id", "campaign_id", "item_id", "coupon_id", "kind"} & set(frame.columns)
    frame = frame.with_columns(pl.col(sorted(ids)).cast(pl.String))
    if "timestamp" in NEEDED[name]:
        frame = frame.with_columns(epoch_seconds(name, frame["timestamp"]).alias("at"))
    if name == "mailings":
        if "kind" not in frame.columns:
            frame = frame.with_columns(kind=pl.lit(None, pl.String))
        end = epoch_seconds(name, frame["end"]) if "end" in frame.columns else pl.lit(None, pl.Int64)
        frame = frame.with_columns(end.alias("end"))
    if name == "uses":
        amount = pl.col("amount").cast(pl.Float64) if "amount" in frame.columns else pl.lit(1.0)
        frame = frame.with_columns(amount.alias("amount"))
    return frame


def epoch_seconds(name: str, column: pl.Series) -> pl.Series:
    """Epoch seconds of aware times, whole numbers as they are, and ISO texts, where no zone means UTC."""
    if column.dtype.is_integer():
        return column.cast(pl.Int64)
    if column.dtype == pl.String:
        moments = {}
        for text in column.drop_nulls().unique():
            try:
                moment = datetime.fromisoformat(text.strip()) if text.strip() else None
            except ValueError:
                raise DataError(f"{name}.{column.name}: {text!r} is no time such as 2024-05-01T10:00:00Z") from None
            moments[text] = moment and int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
        return column.replace_strict(moments, default=None, return_dtype=pl.Int64)
    if not isinstance(column.dtype, pl.Datetime) or column.dtype.time_zone is None:
        raise DataError(
            f"{name}.{column.name}: {column.dtype} is no time with a zone; give aware datetimes, e.g. "
            "dt.replace_time_zone('UTC'), ISO texts or epoch seconds"
        )
    return column.dt.epoch("s")


def coupon_features(dataset: Dataset, coupons: Coupons, campaign: str, at: int) -> FeatureTable:
    """One row per person of `dataset.users`, from what happened before `at` (epoch seconds) alone."""
    past, earlier = dataset.before(at), coupons.before(at)
    kinds = dict(coupons.mailings.select("campaign_id", "kind").unique("campaign_id").iter_rows())
    of_kind = {f"kind={kind}": float(kinds.get(campaign) == kind) for kind in sorted({k for k in kinds.values() if k})}
    alike = [name for name, kind in kinds.items() if kind == kinds.get(campaign)]
    bought = rows_of(past.events.of(Action.PURCHASE), at)
    groups: dict[str, Columns | dict[str, float]] = {
        "coupons": {**_redemptions(past, earlier, alike), **_uses(past, earlier, bought)},
        "affinity": _affinity(past, coupons.products.filter(pl.col("campaign_id") == campaign), bought),
        "campaign": of_kind,
    }
    return FeatureTable.of(groups, dataset.n_users)


def _of_people(frame: pl.DataFrame, past: Dataset) -> pl.DataFrame:
    """A coupon table's rows of people of a dataset, with `user`, their row, and `age` in days."""
    users = pl.Series(past.user_rows(frame["user_id"]))
    return frame.with_columns(user=users, age=(past.as_of - pl.col("at")) / DAY).filter(pl.col("user") >= 0)


def _redemptions(past: Dataset, earlier: Coupons, alike: list[str]) -> Columns:
    """Campaigns mailed and redeemed, in all and of the kinds that are alike."""
    campaign, is_alike = pl.col("campaign_id"), pl.col("campaign_id").is_in(alike)
    columns = of_each(
        _of_people(earlier.mailings, past),
        past.n_users,
        mailed_before=pl.len(),
        mailed_alike=is_alike.sum(),
        running=(pl.col("end") > past.as_of).sum(),
    ) | of_each(
        _of_people(earlier.redemptions, past),
        past.n_users,
        redeemed_campaigns=campaign.n_unique(),
        redeemed=pl.len(),
        redeemed_alike=campaign.filter(is_alike).n_unique(),
        days_since_redeemed=pl.col("age").min(),
    )
    hits = columns["redeemed_campaigns"] + PRIOR_RATE * PRIOR_MAILINGS
    rate = hits / (columns["mailed_before"] + PRIOR_MAILINGS)
    days = columns.pop("days_since_redeemed")
    return columns | {"redeem_rate": rate, "days_since_redeemed": days}


def _uses(past: Dataset, earlier: Coupons, bought: pl.DataFrame) -> Columns:
    """Coupons used at the till; NaN where the shop has no table of them."""
    if not earlier.uses.height:
        return {name: np.full(past.n_users, np.nan) for name in USE_COLUMNS}
    columns = of_each(
        _of_people(earlier.uses, past),
        past.n_users,
        coupon_uses=pl.len(),
        coupon_uses_91=within(91),
        coupon_uses_28=within(28),
        coupon_trips=pl.col("at").n_unique(),
        coupon_trips_91=pl.col("at").filter(pl.col("age") <= 91).n_unique(),
        coupon_amount=pl.col("amount").sum(),
        days_since_coupon=pl.col("age").min(),
    )
    of_all = of_each(bought, past.n_users, trips=pl.col("at").n_unique(), lines=pl.len())
    columns["coupon_trip_share"] = columns["coupon_trips"] / np.maximum(of_all["trips"], 1)
    columns["coupon_line_share"] = columns["coupon_uses"] / np.maximum(of_all["lines"], 1)
    return {name: columns[name] for name in USE_COLUMNS}


def _affinity(past: Dataset, offered: pl.DataFrame, bought: pl.DataFrame) -> Columns:
    """Purchases of the campaign's items and in their categories, and coupons for something that the person bought."""
    rows, items = past.item_rows(offered["item_id"]), bought["item"].to_numpy()
    on_offer = np.zeros(past.n_items, bool)
    on_offer[rows[rows >= 0]] = True
    is_inside = {"offers": on_offer}
    for level in (1, 2):  # the second and third name of the path
        code = category_codes(past.items, level)
        is_inside[f"category_{level}"] = np.isin(code, code[on_offer & (code >= 0)])
    bought = bought.with_columns(pl.Series(name, mask[items]) for name, mask in is_inside.items())
    offers, spend, item = pl.col("offers"), pl.col("spend"), pl.col("item")
    figures = dict[str, pl.Expr]()
    for suffix, lately in (("", pl.lit(True)), ("_91", pl.col("age") <= 91)):
        lines = (offers & lately).sum()
        figures[f"own_lines{suffix}"] = lines
        figures[f"own_spend{suffix}"] = spend.filter(offers & lately).sum()
        figures[f"own_share{suffix}"] = lines / pl.max_horizontal(lately.sum() if suffix else pl.len(), 1)
    figures["own_items"] = item.filter(offers).n_unique()
    for level in (1, 2):
        lines = pl.col(f"category_{level}").sum()
        figures[f"category_lines_{level}"] = lines
        figures[f"category_share_{level}"] = lines / pl.max_horizontal(pl.len(), 1)
    columns = of_each(bought, past.n_users, **figures)
    if "coupon_id" not in offered.columns or not offered.height:  # without ids of coupons
        return columns | dict.fromkeys(("coupons_fitting", "coupons_fitting_share"), np.full(past.n_users, np.nan))
    coupons = pl.DataFrame({"item": rows, "coupon": offered["coupon_id"]})
    usable = bought.filter(offers).select("user", "item").unique().join(coupons, on="item")
    columns |= of_each(usable, past.n_users, coupons_fitting=pl.col("coupon").n_unique())
    return columns | {"coupons_fitting_share": columns["coupons_fitting"] / offered["coupon_id"].n_unique()}
