"""The answers to what was shown.

A served slate is events: one `shown` per position, with the request's id, the model's version, how likely the showing
was and what it was for. A later action of the same person on the same item belongs to one showing: to the one whose
`request_id` it carries, or without an id to the latest one within `window_days` before it. That is attribution: what
people would have bought anyway is counted too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from recllm.base.questions import ReportBy
from recllm.base.schema import Action, Purpose
from recllm.base.stats.intervals import ConfidenceInterval, share
from recllm.shop.data.dataset import utc
from recllm.shop.ingest.workspace_load import FEEDBACK_SCHEMA
from recllm.shop.workspace.figures import FigureGate
from recllm.shop.workspace.workspace import Workspace, present

SHOWN_KEY = ("user_id", "item_id", "request_id")
ANSWERS = {
    "clicked": Action.CLICK,
    "bought": Action.PURCHASE,
    "dismissed": Action.DISMISS,
    "rated": Action.RATING,
}
RETURN_DAYS = 28.0
"""A person who buys anything this soon after the first showing has returned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownOutcome:
    """The answers to the shown (person, item, request) triples of one group.
    Intervals allow for people who were shown many items: the person is what varies."""

    name: str
    """The model's version, the campaign's id, "experiment: variant", the template or the day; "none" where the showing
    says nothing of it."""
    showings: int = field(metadata={"json": "shown"})
    requests: int
    people: int
    clicked: int
    """Showings with at least one click, and so on."""
    bought: int
    dismissed: int
    rated: int
    ctr: ConfidenceInterval
    """clicked / showings, in [0, 1]."""
    conversion: ConfidenceInterval
    """bought / showings, in [0, 1]."""
    revenue: float
    """Paid in the purchases that belong to the showings, in the shop's currency."""
    items: int
    """Different items among the showings."""
    coverage: float | None
    """items / items on offer; None where that is unknown."""
    returned: ConfidenceInterval | None
    """Share of the people who bought anything within `RETURN_DAYS` after their first showing, of those for whom that
    time has passed; None without any."""


def showings_with_answers(events: pl.DataFrame, *, window_days: float = 7.0) -> pl.DataFrame:
    """One row per showing, oldest first: the columns of `FEEDBACK_SCHEMA` but `event`; and clicked, bought, dismissed,
    rated (whether an answer of the kind belongs to it), clicked_at and so on (when the first of them came, or null),
    revenue (paid in its purchases).

    events: `FEEDBACK_SCHEMA` with quantity and price where known, over all actions.
    """
    lacking = [name for name in ("quantity", "price") if name not in events.columns]
    events = events.with_columns(pl.lit(None, dtype=pl.Float64).alias(name) for name in lacking)
    showings = events.filter(pl.col("event") == Action.SHOWN).sort("timestamp", maintain_order=True)
    showings = showings.unique(SHOWN_KEY, keep="first", maintain_order=True).select(
        name for name in FEEDBACK_SCHEMA if name != "event"
    )
    showings = showings.with_row_index("showing")
    for name, action in ANSWERS.items():
        answers = _answers(showings, events.filter(pl.col("event") == action), window_days)
        columns = {name: pl.lit(True), f"{name}_at": pl.col("timestamp").min()}
        if name == "bought":
            columns["revenue"] = (pl.col("price") * pl.col("quantity").fill_null(1.0)).fill_null(0.0).sum()
        answered = answers.group_by("showing").agg(**columns)
        showings = showings.join(answered, on="showing", how="left", maintain_order="left")
    return showings.drop("showing").with_columns(pl.col(*ANSWERS).fill_null(False), pl.col("revenue").fill_null(0.0))


def shown_outcomes(
    events: pl.DataFrame,
    *,
    by: ReportBy = ReportBy.MODEL,
    window_days: float = 7.0,
    until: datetime | None = None,
    n_on_offer: int | None = None,
    timezone: str = "UTC",
) -> tuple[ShownOutcome, ...]:
    """The answers to what was shown, per group of `by`, sorted by its name.

    events: as for `showings_with_answers`. until: the end of what is known, the last event's time when None.
    n_on_offer: items that could be shown. timezone: of the days.
    """
    showings = showings_with_answers(events, window_days=window_days)
    if showings.is_empty():
        return ()
    columns = {ReportBy.MODEL: "model_version", ReportBy.CAMPAIGN: "campaign_id", ReportBy.TEMPLATE: "template"}
    match by:
        case ReportBy.VARIANT:
            name = pl.col("experiment") + ": " + pl.col("variant")
        case ReportBy.DAY:
            name = pl.col("timestamp").dt.convert_time_zone(timezone).dt.date().cast(pl.String)
        case _:
            name = pl.col(columns[by])
    showings = showings.with_columns(name=name.fill_null("none"))
    until = until or events["timestamp"].max()  # type: ignore[assignment]
    purchases = events.filter(pl.col("event") == Action.PURCHASE).select("user_id", bought_at="timestamp")
    outcomes = []
    for (group,), rows in showings.sort("name", maintain_order=True).group_by("name", maintain_order=True):
        items = rows["item_id"].n_unique()
        outcomes.append(
            ShownOutcome(
                name=str(group),
                showings=rows.height,
                requests=rows["request_id"].n_unique(),
                people=rows["user_id"].n_unique(),
                **{answer: int(rows[answer].sum()) for answer in ANSWERS},
                ctr=_rate(rows, "clicked"),
                conversion=_rate(rows, "bought"),
                revenue=float(rows["revenue"].sum()),
                items=items,
                coverage=None if not n_on_offer else items / n_on_offer,
                returned=_returned(rows, purchases, until),
            )
        )
    return tuple(outcomes)


WINDOWS = (1.0, 3.0, 7.0, 14.0, 28.0, 90.0, 365.0)
"""Days that a caller without exact figures may choose: between two near windows lie the purchases of few customers."""


def reported_outcomes(outcomes: Iterable[ShownOutcome], figures: FigureGate) -> tuple[ShownOutcome, ...]:
    """The groups with the figures that a caller gets; only the owner of the machine gets groups below the floor."""
    floor = 0 if figures.caller is None else figures.part_floor
    return tuple(_reported(o, figures) for o in outcomes if o.people >= floor)


def _reported(outcome: ShownOutcome, figures: FigureGate) -> ShownOutcome:
    name, items = outcome.name, figures.count(outcome.items, "items", outcome.name)
    counts: dict[str, Any] = {
        column: figures.count(getattr(outcome, column), column, name) for column in ("showings", "requests", *ANSWERS)
    }
    return replace(
        outcome,
        people=figures.people(outcome.people, name) or 0,
        ctr=figures.share(outcome.ctr, "ctr", name),
        conversion=figures.share(outcome.conversion, "conversion", name),
        returned=outcome.returned and figures.share(outcome.returned, "returned", name),
        revenue=figures.amount(outcome.revenue, outcome.revenue / max(1, outcome.bought) ** 0.5, name),
        items=items,
        coverage=outcome.coverage and outcome.coverage * items / max(1, outcome.items),
        **counts,
    )


def _rate(showings: pl.DataFrame, answer: str) -> ConfidenceInterval:
    """Share of the showings with the answer; the variance between people decides how much the showings count."""
    people = showings.group_by("user_id").agg(pl.len().alias("n"), pl.sum(answer).cast(pl.Float64).alias("hits"))
    n, hits = showings.height, float(people["hits"].sum())
    rate = hits / n
    if 0 < hits < n and people.height > 1:
        clustered = ((people["hits"] - rate * people["n"]) ** 2).sum() * people.height / (people.height - 1)
        design_effect = max(1.0, float(clustered) / (n * rate * (1 - rate)))
    else:  # nothing varies: each person counts once
        design_effect = n / people.height
    return share(hits, n, design_effect=design_effect)


def _returned(showings: pl.DataFrame, purchases: pl.DataFrame, until: datetime | None) -> ConfidenceInterval | None:
    limit = timedelta(days=RETURN_DAYS)
    first = showings.group_by("user_id").agg(shown_at=pl.col("timestamp").min())
    first = first.filter(pl.col("shown_at") + limit <= until)
    if first.is_empty():
        return None
    later = first.join(purchases, on="user_id").filter(
        (pl.col("bought_at") > pl.col("shown_at")) & (pl.col("bought_at") <= pl.col("shown_at") + limit)
    )
    return share(later["user_id"].n_unique(), first.height)


def _answers(showings: pl.DataFrame, answers: pl.DataFrame, window_days: float) -> pl.DataFrame:
    """The answers with the `showing` that each belongs to: one at most, and never a later one."""
    showings = showings.select("showing", *SHOWN_KEY, shown_at="timestamp").sort("shown_at", maintain_order=True)
    answers = answers.select(*SHOWN_KEY, "timestamp", "quantity", "price").sort("timestamp")
    by_request = answers.filter(pl.col("request_id").is_not_null()).join_asof(
        showings, left_on="timestamp", right_on="shown_at", by=list(SHOWN_KEY), check_sortedness=False
    )
    by_person = answers.filter(pl.col("request_id").is_null()).join_asof(
        showings.drop("request_id"),
        left_on="timestamp",
        right_on="shown_at",
        by=["user_id", "item_id"],
        tolerance=timedelta(days=window_days),
        check_sortedness=False,
    )
    joined = [table.select("showing", "timestamp", "quantity", "price") for table in (by_request, by_person)]
    return pl.concat(joined).drop_nulls("showing")


def feedback_report(
    workspace: Workspace, *, by: ReportBy = ReportBy.MODEL, window_days: float = 7.0
) -> tuple[ShownOutcome, ...]:
    """`shown_outcomes` over the customers who agreed to analytics."""
    with workspace.store().read() as reader:
        first_shown, n_on_offer = reader.first_shown(), reader.n_available_items()
    if first_shown is None:
        return ()
    return shown_outcomes(
        workspace.gate().events(Purpose.ANALYTICS, since=first_shown),  # earlier events answer no showing
        by=by,
        window_days=window_days,
        until=utc(present(workspace)),
        n_on_offer=n_on_offer,
        timezone=workspace.settings.timezone or "UTC",
    )
