"""What became of what was shown.

A served slate is events: one `shown` per position, with the request's id and the model's version. Later actions carry
the same `request_id`; those in a shop's own log usually carry none, and then count when the same person acts on the
shown item within `window_days` after it was shown. That is attribution, not effect: what people would have bought
anyway is counted too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Counts over shown (person, item, request) triples of one model version; rates are in [0, 1]."""

    model_version: str
    shown: int
    clicked: int
    bought: int
    dismissed: int
    ctr: float
    conversion: float


def shown_events(slates: Iterable[Slate]) -> pl.DataFrame:
    """One `shown` event per recommendation, `FEEDBACK_SCHEMA`; people's ids are those of the slates."""
    rows = [
        (s.user_id, r.item_id, Action.SHOWN.value, s.as_of, s.request_id, r.rank, s.model_version)
        for s in slates
        for r in s.items
    ]
    return pl.DataFrame(rows, schema=FEEDBACK_SCHEMA, orient="row")


def outcomes(events: pl.DataFrame, *, window_days: float = 7.0) -> tuple[Outcome, ...]:
    """Per model version, what followed what was shown.

    events: `FEEDBACK_SCHEMA` columns over all actions. Sorted by model version; "none" is a list that no model made.
    """
    shown = events.filter(pl.col("event") == Action.SHOWN).unique(SHOWN_KEY, keep="first", maintain_order=True)
    shown = shown.select(*SHOWN_KEY, "model_version", at="timestamp")
    window = pl.duration(microseconds=round(window_days * 86_400_000_000))
    marked = shown.with_columns(
        clicked=_followed(shown, events, Action.CLICK, window),
        dismissed=_followed(shown, events, Action.DISMISS, window),
        bought=_followed(shown, events, Action.PURCHASE, window),
    )
    grouped = marked.group_by(pl.col("model_version").fill_null("none")).agg(
        shown=pl.len(), clicked=pl.sum("clicked"), bought=pl.sum("bought"), dismissed=pl.sum("dismissed")
    )
    return tuple(
        Outcome(**row, ctr=row["clicked"] / row["shown"], conversion=row["bought"] / row["shown"])
        for row in grouped.sort("model_version").to_dicts()
    )


def _followed(shown: pl.DataFrame, events: pl.DataFrame, action: Action, window: pl.Expr) -> pl.Series:
    """Whether each shown item was answered: by its request's id, or without one by the same person in time."""
    answers = events.filter(pl.col("event") == action)
    named = answers.filter(pl.col("request_id").is_not_null()).select("item_id", "request_id").unique()
    by_request = shown.join(
        named.with_columns(hit=True), on=["item_id", "request_id"], how="left", maintain_order="left"
    )
    numbered = shown.with_row_index("row")
    unnamed = answers.filter(pl.col("request_id").is_null()).select("user_id", "item_id", answered="timestamp")
    later = numbered.join(unnamed, on=["user_id", "item_id"]).filter(
        (pl.col("answered") >= pl.col("at")) & (pl.col("answered") <= pl.col("at") + window)
    )
    return by_request["hit"].fill_null(False) | numbered["row"].is_in(later["row"].unique().implode())
