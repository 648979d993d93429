from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from recllm.jobs.feedback import FEEDBACK_SCHEMA, outcomes, shown_events
from recllm.schema import Recommendation, Slate

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)


def slate(user: str, request: str, items: str, version: str | None = "v1") -> Slate:
    shown = tuple(
        Recommendation(rank=n, item_id=i, title=i, score=1.0, cosine=None, logit=None, probability=None)
        for n, i in enumerate(items, 1)
    )
    return Slate(user_id=user, request_id=request, as_of=NOON, model_version=version, items=shown)


def later(user: str, item: str, event: str, days: float, request: str | None = None) -> pl.DataFrame:
    row = (user, item, event, NOON + timedelta(days=days), request, None, None)
    return pl.DataFrame([row], schema=FEEDBACK_SCHEMA, orient="row")


def test_clicks_and_purchases_are_joined_by_request() -> None:
    log = pl.concat(
        [
            shown_events([slate("ann", "r1", "abcd")]),
            later("ann", "a", "click", 0.1, "r1"),
            later("ann", "a", "purchase", 30, "r1"),
            later("ann", "b", "dismiss", 0.1, "r1"),
            later("ann", "c", "click", 0.1, "another request"),
        ]
    )
    (one,) = outcomes(log)
    assert (one.model_version, one.shown, one.clicked, one.bought, one.dismissed) == ("v1", 4, 1, 1, 1)
    assert one.ctr == pytest.approx(1 / 4)


def test_a_purchase_without_request_counts_only_in_its_window_and_for_its_person() -> None:
    base = shown_events([slate("ann", "r1", "ab")])
    assert outcomes(pl.concat([base, later("ann", "a", "purchase", 6.9)]))[0].bought == 1
    assert outcomes(pl.concat([base, later("ann", "a", "purchase", 7.1)]))[0].bought == 0
    assert outcomes(pl.concat([base, later("ann", "a", "purchase", -1)]))[0].bought == 0
    assert outcomes(pl.concat([base, later("bob", "a", "purchase", 1)]))[0].bought == 0


def test_versions_are_apart_and_a_reshown_request_counts_once() -> None:
    log = pl.concat([shown_events([slate("ann", "r1", "ab"), slate("ann", "r2", "a", None)])] * 2)
    assert [(o.model_version, o.shown) for o in outcomes(log)] == [("none", 1), ("v1", 2)]


def test_nothing_shown_gives_nothing() -> None:
    assert outcomes(later("ann", "a", "click", 1)) == ()
