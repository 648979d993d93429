from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from recllm.jobs.feedback import FEEDBACK_SCHEMA, shown_events, shown_outcomes
from recllm.schema import Recommendation, Slate

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)


def slate(user: str, request: str, items: str, version: str | None = "v1", days: float = 0) -> Slate:
    shown = tuple(
        Recommendation(rank=n, item_id=i, title=i, score=1.0, cosine=None, logit=None, probability=None)
        for n, i in enumerate(items, 1)
    )
    as_of = NOON + timedelta(days=days)
    return Slate(user_id=user, request_id=request, as_of=as_of, model_version=version, items=shown)


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
    (one,) = shown_outcomes(log)
    assert (one.model_version, one.showings, one.clicked, one.bought, one.dismissed) == ("v1", 4, 1, 1, 1)
    assert one.ctr == pytest.approx(1 / 4)


def test_a_purchase_without_request_counts_only_in_its_window_and_for_its_person() -> None:
    base = shown_events([slate("ann", "r1", "ab")])
    assert shown_outcomes(pl.concat([base, later("ann", "a", "purchase", 6.9)]))[0].bought == 1
    assert shown_outcomes(pl.concat([base, later("ann", "a", "purchase", 7.1)]))[0].bought == 0
    assert shown_outcomes(pl.concat([base, later("ann", "a", "purchase", -1)]))[0].bought == 0
    assert shown_outcomes(pl.concat([base, later("bob", "a", "purchase", 1)]))[0].bought == 0


def test_versions_are_apart_and_a_reshown_request_counts_once() -> None:
    log = pl.concat([shown_events([slate("ann", "r1", "ab"), slate("ann", "r2", "a", None)])] * 2)
    assert [(o.model_version, o.showings) for o in shown_outcomes(log)] == [("none", 1), ("v1", 2)]


def test_nothing_shown_gives_nothing() -> None:
    assert shown_outcomes(later("ann", "a", "click", 1)) == ()


def test_a_purchase_after_five_slates_counts_once_and_for_the_latest() -> None:
    slates = [slate("ann", f"r{n}", "ab", f"v{n}", days=n) for n in range(5)]
    log = pl.concat([shown_events(slates), later("ann", "a", "purchase", 3.5), later("ann", "a", "click", 3.5)])
    counted = {o.model_version: (o.showings, o.clicked, o.bought) for o in shown_outcomes(log)}
    assert counted == {"v0": (2, 0, 0), "v1": (2, 0, 0), "v2": (2, 0, 0), "v3": (2, 1, 1), "v4": (2, 0, 0)}
    same = shown_outcomes(log.with_columns(model_version=pl.lit("v1")))
    assert [(o.bought, o.conversion) for o in same] == [(1, pytest.approx(1 / 10))]


def test_a_request_id_counts_for_its_own_person_and_after_it_was_shown() -> None:
    log = shown_events([slate("ann", "r1", "a")])
    for user, days in (("bob", 1), ("ann", -9)):
        (stray,) = shown_outcomes(pl.concat([log, later(user, "a", "click", days, "r1")]))
        assert (stray.clicked, stray.ctr) == (0, 0.0)


def test_two_purchases_of_one_showing_are_one_conversion_and_the_order_of_the_log_does_not_matter() -> None:
    rows = [shown_events([slate("ann", "r1", "a"), slate("ann", "r2", "a", days=2)])]
    rows += [later("ann", "a", "purchase", day) for day in (1.0, 1.5, 3.0)]
    for log in (pl.concat(rows), pl.concat(rows[::-1])):
        assert [(o.showings, o.bought) for o in shown_outcomes(log)] == [(2, 2)]
