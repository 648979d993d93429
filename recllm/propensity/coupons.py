"""Coupon campaigns as tables of their own: who was mailed what and when, for which items, and who redeemed.

    mailings      user_id, campaign_id, timestamp, and where known kind (text) and end (the last moment to redeem)
    products      campaign_id, item_id, and where known coupon_id
    redemptions   user_id, campaign_id, timestamp
    uses          user_id, timestamp, and where known amount: coupons used at the till, of any origin; may be left out

Times are aware datetimes, or epoch seconds. The tables hold ids; rows of people who are not in a dataset, because they
did not agree to its purpose or are unknown, are dropped when the tables meet the dataset.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from recllm.errors import DataError, UsageError

NEEDED = {
    "mailings": ("user_id", "campaign_id", "timestamp"),
    "products": ("campaign_id", "item_id"),
    "redemptions": ("user_id", "campaign_id", "timestamp"),
    "uses": ("user_id", "timestamp"),
}


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
            raise DataError("the mailings are empty: nothing can be learned of campaigns that nobody got")
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
            if file.is_file():
                frames[name] = _read(file, pseudonyms)
            elif name != "uses":
                raise UsageError(
                    f"no coupon table {file}; redeem needs a folder with mailings.csv (user_id, campaign_id, "
                    "timestamp), products.csv (campaign_id, item_id) and redemptions.csv (user_id, campaign_id, "
                    "timestamp)"
                )
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
    if isinstance(column.dtype, pl.Datetime):
        if column.dtype.time_zone is None:
            raise DataError(
                f"{name}.{column.name}: times without a zone; give each one, e.g. dt.replace_time_zone('UTC')"
            )
        return column.dt.epoch("s")
    if column.dtype.is_integer():
        return column.cast(pl.Int64)
    raise DataError(f"{name}.{column.name}: {column.dtype} is neither an aware datetime nor integer epoch seconds")


def _read(file: Path, pseudonyms: Callable[[Sequence[str]], list[str]] | None) -> pl.DataFrame:
    try:
        frame = pl.read_csv(file, infer_schema=False, encoding="utf8")
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as CSV in UTF-8: {error}") from error
    frame = frame.with_columns(_utc(file, frame[name]) for name in ("timestamp", "end") if name in frame.columns)
    if pseudonyms is None or "user_id" not in frame.columns:
        return frame
    shop_ids = frame["user_id"].drop_nulls().unique().to_list()
    names = dict(zip(shop_ids, pseudonyms(shop_ids), strict=True))
    return frame.with_columns(pl.col("user_id").replace_strict(names, default=None))


def _utc(file: Path, column: pl.Series) -> pl.Series:
    """ISO dates and times to UTC; a zone in the text counts, none means UTC."""
    text = column.str.strip_chars().str.replace("Z$", "+00:00").str.replace(" ", "T")
    has_zone, has_time = text.str.contains(r"T.*[+-]\d\d:?\d\d$"), text.str.contains("T")
    with_zone = pl.when(has_zone).then(text).when(has_time).then(text + "+00:00").otherwise(text + "T00:00:00+00:00")
    complete = pl.select(with_zone.alias(column.name))[column.name]
    times = complete.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%:z", strict=False, time_zone="UTC")
    wrong = times.is_null() & column.is_not_null() & (text != "")
    if wrong.any():
        raise DataError(f"{file}: {column.name} {column.filter(wrong)[0]!r} is no time such as 2024-05-01T10:00:00Z")
    return times
