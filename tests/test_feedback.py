from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from recllm.base.questions import ReportBy
from recllm.base.schema import Recommendation, Slate
from recllm.market.experiments.feedback import shown_outcomes
from recllm.shop.ingest.workspace_load import FEEDBACK_SCHEMA, shown_events

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)


def slate(user: str, request: str, items: str, version: str | None = "v1", days: float = 0) -> Slate:
    shown = tuple(
        Recommendation(rank=n, item_id=i, title=i, score=1.0, cosine=None, logit=None, probability=None)
        for n, i in enumerate(items, 1)
    )
    as_of = NOON + timedelta(days=days)
    return Slate(user_id=user, request_id=request, as_of=as_of, model_version=version, items=shown)


def later(user: str, item: str, event: str, days: float, request: str | None = None) -> pl.DataFrame:
    row = {"user_id": user, "item_id": item, "event": event, "timestamp": NOON + timedelta(days=days)}
    return pl.DataFrame([row | {"request_id": request}], schema=FEEDBACK_SCHEMA)


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
    assert (one.name, one.showings, one.clicked, one.bought, one.dismissed) == ("v1", 4, 1, 1, 1)
    assert one.ctr.value == pytest.approx(1 / 4)


def test_a_purchase_without_request_counts_only_in_its_window_and_for_its_person() -> None:
    base = shown_events([slate("ann", "r1", "ab")])
    assert shown_outcomes(pl.concat([base, later("ann", "a", "purchase", 6.9)]))[0].bought == 1
    assert shown_outcomes(pl.concat([base, later("ann", "a", "purchase", 7.1)]))[0].bought == 0
    assert shown_outcomes(pl.concat([base, later("ann", "a", "purchase", -1)]))[0].bought == 0
    assert shown_outcomes(pl.concat([base, later("bob", "a", "purchase", 1)]))[0].bought == 0


def test_versions_are_apart_and_a_reshown_request_counts_once() -> None:
    log = pl.concat([shown_events([slate("ann", "r1", "ab"), slate("ann", "r2", "a", None)])] * 2)
    assert [(o.name, o.showings) for o in shown_outcomes(log)] == [("none", 1), ("v1", 2)]


def test_nothing_shown_gives_nothing() -> None:
    assert shown_outcomes(later("ann", "a", "click", 1)) == ()


def test_a_purchase_after_five_slates_counts_once_and_for_the_latest() -> None:
    slates = [slate("ann", f"r{n}", "ab", f"v{n}", days=n) for n in range(5)]
    log = pl.concat([shown_events(slates), later("ann", "a", "purchase", 3.5), later("ann", "a", "click", 3.5)])
    counted = {o.name: (o.showings, o.clicked, o.bought) for o in shown_outcomes(log)}
    assert counted == {"v0": (2, 0, 0), "v1": (2, 0, 0), "v2": (2, 0, 0), "v3": (2, 1, 1), "v4": (2, 0, 0)}
    same = shown_outcomes(log.with_columns(model_version=pl.lit("v1")))
    assert [(o.bought, o.conversion.value) for o in same] == [(1, pytest.approx(1 / 10))]


def test_a_request_id_counts_for_its_own_person_and_after_it_was_shown() -> None:
    log = shown_events([slate("ann", "r1", "a")])
    for user, days in (("bob", 1), ("ann", -9)):
        (stray,) = shown_outcomes(pl.concat([log, later(user, "a", "click", days, "r1")]))
        assert (stray.clicked, stray.ctr.value) == (0, 0.0)


def test_two_purchases_of_one_showing_are_one_conversion_and_the_order_of_the_log_does_not_matter() -> None:
    rows = [shown_events([slate("ann", "r1", "a"), slate("ann", "r2", "a", days=2)])]
    rows += [later("ann", "a", "purchase", day) for day in (1.0, 1.5, 3.0)]
    for log in (pl.concat(rows), pl.concat(rows[::-1])):
        assert [(o.showings, o.bought) for o in shown_outcomes(log)] == [(2, 2)]


def test_revenue_belongs_to_the_showing_that_it_followed() -> None:
    shown = shown_events([slate("ann", "r1", "ab"), slate("bob", "r2", "a", "v2")])
    paid = [
        later("ann", "a", "purchase", 1).with_columns(price=pl.lit(2.5), quantity=pl.lit(2.0)),
        later("ann", "c", "purchase", 1).with_columns(price=pl.lit(99.0), quantity=pl.lit(1.0)),  # was not shown
        later("bob", "a", "purchase", 9).with_columns(price=pl.lit(7.0), quantity=pl.lit(1.0)),  # too late
    ]
    first, second = shown_outcomes(pl.concat([shown, *paid], how="diagonal"), n_on_offer=4)
    assert (first.revenue, second.revenue) == (5.0, 0.0)
    assert (first.items, first.coverage, second.coverage) == (2, 0.5, 0.25)


def test_the_groups_of_a_report() -> None:
    slates = [
        replace(slate("ann", "r1", "a"), experiment="order", variant="new"),
        replace(slate("bob", "r2", "a", days=1), experiment="order", variant="old"),
        slate("cat", "r3", "a", days=1),
    ]
    log = pl.concat([shown_events(slates), later("ann", "a", "click", 0.1, "r1")])
    for by, names in {
        ReportBy.VARIANT: ["none", "order: new", "order: old"],
        ReportBy.DAY: ["2025-06-01", "2025-06-02"],
        ReportBy.CAMPAIGN: ["none"],
    }.items():
        outcomes = shown_outcomes(log, by=by)
        assert [outcome.name for outcome in outcomes] == names
        assert sum(outcome.clicked for outcome in outcomes) == 1
        assert sum(outcome.showings for outcome in outcomes) == 3


def test_who_came_back_is_asked_only_of_those_for_whom_the_time_is_over() -> None:
    log = [shown_events([slate("ann", "r1", "a"), slate("bob", "r2", "a"), slate("cat", "r3", "a", days=20)])]
    log.append(later("ann", "z", "purchase", 27))
    until = NOON + timedelta(days=30)
    (outcome,) = shown_outcomes(pl.concat(log), until=until)
    assert outcome.returned is not None and outcome.returned.value == 0.5  # cat's 28 days are not over
    (outcome,) = shown_outcomes(pl.concat(log), until=NOON + timedelta(days=27))
    assert outcome.returned is None


def test_many_showings_of_one_person_do_not_narrow_the_interval_like_many_people() -> None:
    everything = "abcdefghij"
    people = [slate(f"u{n}", f"r{n}", everything) for n in range(20)]
    heavy = [later(f"u{n}", i, "click", 0.1, f"r{n}") for n in range(4) for i in everything]
    spread = [later(f"u{n}", i, "click", 0.1, f"r{n}") for n in range(20) for i in "ab"]
    (clustered,) = shown_outcomes(pl.concat([shown_events(people), *heavy]))
    (even,) = shown_outcomes(pl.concat([shown_events(people), *spread]))
    assert clustered.ctr.value == even.ctr.value == pytest.approx(0.2)
    assert clustered.ctr.high - clustered.ctr.low > 2 * (even.ctr.high - even.ctr.low)
