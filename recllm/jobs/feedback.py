"""What became of what was shown.

A served slate is events: one `shown` per position, with the request's id and the model's version. A later action of the
same person on the same item belongs to one showing: to the one whose `request_id` it carries, or without an id to the
latest one within `window_days` before it. So a purchase counts once, in however many slates the item stood. That is
attribution, not effect: what people would have bought anyway is counted too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import timedelta

import polars as pl

from recllm.schema import Action, Slate

SHOWN_KEY = ("user_id", "item_id", "request_id")
FEEDBACK_SCHEMA: dict[str, type[pl.DataType] | pl.DataType] = {
    "user_id": pl.String,
    "item_id": pl.String,
    "event": pl.String,
    "timestamp": pl.Datetime("us", "UTC"),
    "request_id": pl.String,
    "position": pl.Int32,
    "model_version": pl.String,
}
COUNTS = {"clicked": Action.CLICK, "bought": Action.PURCHASE, "dismissed": Action.DISMISS}


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownOutcome:
    """Counts over the shown (person, item, request) triples of one model version."""

    model_version: str
    """Or "none", for lists that no model made."""
    showings: int
    clicked: int
    """Showings with at least one click, and so on."""
    bought: int
    dismissed: int
    ctr: float
    """clicked / showings, in [0, 1]."""
    conversion: float
    """bought / showings, in [0, 1]."""

    def document(self) -> dict[str, str | int | float]:
        """As JSON has it."""
        return {"shown" if name == "showings" else name: value for name, value in asdict(self).items()}


def shown_events(slates: Iterable[Slate]) -> pl.DataFrame:
    """One `shown` event per recommendation, `FEEDBACK_SCHEMA`; people's ids are those of the slates."""
    rows = [
        (s.user_id, r.item_id, Action.SHOWN.value, s.as_of, s.request_id, r.rank, s.model_version)
        for s in slates
        for r in s.items
    ]
    return pl.DataFrame(rows, schema=FEEDBACK_SCHEMA, orient="row")


def shown_outcomes(events: pl.DataFrame, *, window_days: float = 7.0) -> tuple[ShownOutcome, ...]:
    """Per model version, sorted by it, what followed what was shown. events: `FEEDBACK_SCHEMA` over all actions."""
    showings = events.filter(pl.col("event") == Action.SHOWN).sort("timestamp", maintain_order=True)
    showings = showings.unique(SHOWN_KEY, keep="first", maintain_order=True)
    showings = showings.select(*SHOWN_KEY, "model_version", shown_at="timestamp").with_row_index("showing")
    marked = showings.with_columns(
        pl.col("showing")
        .is_in(_answered(showings, events.filter(pl.col("event") == action), window_days).implode())
        .alias(name)
        for name, action in COUNTS.items()
    )
    counts = marked.group_by(pl.col("model_version").fill_null("none")).agg(pl.len().alias("showings"), pl.sum(*COUNTS))
    return tuple(
        ShownOutcome(**row, ctr=row["clicked"] / row["showings"], conversion=row["bought"] / row["showings"])
        for row in counts.sort("model_version").to_dicts()
    )


def _answered(showings: pl.DataFrame, answers: pl.DataFrame, window_days: float) -> pl.Series:
    """The showings that an answer belongs to: each answer belongs to one at most, and never to a later one."""
    showings = showings.select("showing", *SHOWN_KEY, "shown_at").sort("shown_at")
    answers = answers.select(*SHOWN_KEY, "timestamp").sort("timestamp")
    by_request = answers.filter(pl.col("request_id").is_not_null()).join_asof(
        showings, left_on="timestamp", right_on="shown_at", by=list(SHOWN_KEY), check_sortedness=False
    )
    by_person = answers.filter(pl.col("request_id").is_null()).join_asof(
        showings,
        left_on="timestamp",
        right_on="shown_at",
        by=["user_id", "item_id"],
        tolerance=timedelta(days=window_days),
        check_sortedness=False,
    )
    return pl.concat([by_request["showing"], by_person["showing"]]).drop_nulls().unique()
