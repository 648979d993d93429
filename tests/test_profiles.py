"""Profiles: hand-made people with obvious answers, and the promise that the future cannot be seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import table

from recllm.base.errors import DataError
from recllm.base.schema import Action, HistoryLine, Profile
from recllm.learn.profiles.profile import build_profile
from recllm.shop.data.dataset import DAY, Dataset

NOW = 100 * DAY
ITEMS = pl.DataFrame(table("profiles", "items"))
FIELDS = ("user_id", "item_id", "timestamp", "event", "quantity", "price", "basket_id")


def event(item: str, day: float, action: str = "purchase", **more: Any) -> dict[str, Any]:
    row = {"user_id": "ann", "item_id": item, "timestamp": int(day * DAY), "event": action, "quantity": 1.0}
    return {"price": None, "basket_id": None, **row, **more}


def world(events: list[dict[str, Any]], users: dict[str, list[Any]] | None = None) -> Dataset:
    schema = dict(
        zip(FIELDS, [pl.String, pl.String, pl.Int64, pl.String, pl.Float64, pl.Float64, pl.String], strict=True)
    )
    frame = pl.DataFrame(events, schema=schema)
    return Dataset.construct(frame, pl.DataFrame(users or {"user_id": ["ann"]}), ITEMS, as_of=NOW)


def profile_of(events: list[dict[str, Any]]) -> Profile:
    return build_profile(world(events), 0)


def line_of(profile: Profile, item: str) -> HistoryLine:
    return next(line for line in (*profile.purchases, *profile.browsing) if line.item_id == item)


def test_a_line_counts_weighs_and_dates_the_purchases_of_an_item() -> None:
    profile = profile_of(
        [event("tea", 70, price=3.0), event("tea", 80, quantity=2.0, price=4.0), event("tea", 94), event("cup", 99)]
    )
    tea = line_of(profile, "tea")
    assert (tea.count, tea.quantity, tea.spent) == (3, 4.0, 3.0 + 2 * 4.0)
    assert tea.weight == pytest.approx(sum(2 ** (-days / 120) for days in (30, 20, 6)))
    assert tea.days_since == 6.0
    assert tea.interval_days == 12.0  # the median of 10 and 14
    assert tea.action is Action.PURCHASE
    cup = line_of(profile, "cup")
    assert (cup.count, cup.interval_days, cup.weight) == (1, None, pytest.approx(2 ** (-1 / 120)))
    assert [line.item_id for line in profile.purchases] == ["tea", "cup"]  # three purchases against one


def test_two_lines_of_one_basket_are_one_occasion_and_one_day_has_no_interval() -> None:
    profile = profile_of([event("tea", 90), event("tea", 90, quantity=3.0), event("tea", 90.2)])
    tea = line_of(profile, "tea")
    assert (tea.count, tea.quantity, tea.interval_days) == (2, 5.0, None)


def test_returns_take_back_their_share_and_a_full_return_the_whole_line() -> None:
    profile = profile_of(
        [
            event("tea", 80, quantity=2.0, price=5.0),
            event("tea", 90, quantity=2.0, price=5.0),
            event("tea", 95, "return", quantity=1.0),
            event("cup", 80),
            event("cup", 81, "return"),
            event("rug", 85, "return"),  # never bought here: nothing to take back
        ]
    )
    assert [line.item_id for line in profile.purchases] == ["tea"]
    tea = profile.purchases[0]
    assert (tea.count, tea.quantity, tea.spent) == (2, 3.0, 15.0)
    assert tea.weight == pytest.approx(0.75 * (2 ** (-20 / 120) + 2 ** (-10 / 120)))
    assert [share.name for share in profile.favourite_categories] == ["tea"]


def test_favourites_are_shares_of_the_weight_by_narrowest_category_and_brand() -> None:
    profile = profile_of([event("tea", 99), event("cup", 99), event("pan", 99), event("rug", 99)])
    shares = {share.name: share.share for share in profile.favourite_categories}
    assert shares == pytest.approx({"kitchen": 0.5, "home": 0.25, "tea": 0.25})
    assert [share.name for share in profile.favourite_categories] == ["kitchen", "home", "tea"]  # ties by name
    assert {s.name: s.share for s in profile.favourite_brands} == pytest.approx({"Clay": 0.25, "Leaf": 0.25})


def test_price_band_is_the_quartiles_of_prices_paid_without_gifts() -> None:
    priced = [event("tea", 90 + i, price=float(p)) for i, p in enumerate((1, 2, 3, 4, 5))]
    assert profile_of([*priced, event("cup", 99, price=0.0), event("pan", 99)]).price_band == (2.0, 3.0, 4.0)
    assert profile_of([event("tea", 90)]).price_band is None


def test_visits_count_baskets_or_else_days() -> None:
    profile = profile_of(
        [
            event("tea", 50, basket_id="a"),
            event("cup", 50, basket_id="a"),
            event("tea", 50.5, basket_id="b"),
            event("tea", 60),
            event("cup", 60.3),
            event("cup", 96),
        ]
    )
    assert profile.n_baskets == 4
    assert profile.basket_interval_days == 23.0  # the median of 10 and 36
    assert profile.days_since_last_purchase == 4.0


def test_browsing_has_one_line_per_item_and_action_and_no_dismissals() -> None:
    acted = ["view", "view", "cart", "favourite", "click", "dismiss", "shown", "rating"]
    profile = profile_of([event("tea", 99 - i / 10, action) for i, action in enumerate(acted)])
    assert {(line.item_id, line.action.value, line.count) for line in profile.browsing} == {
        ("tea", "view", 2),
        ("tea", "cart", 1),
        ("tea", "favourite", 1),
        ("tea", "click", 1),
    }
    assert profile.browsing[0].action is Action.VIEW
    assert profile.purchases == () and profile.n_baskets == 0 and profile.days_since_last_purchase is None


def build_profiles(dataset: Dataset, rows: Iterable[int]) -> list[Profile]:
    return [build_profile(dataset, row) for row in rows]


def test_others_and_blank_basics_are_no_part_of_a_profile() -> None:
    users = {"user_id": ["ann", "bob", "cy"], "age": ["35-44", None, " "]}
    dataset = world([event("tea", 90), event("cup", 95, user_id="bob"), event("pan", 96, "view", user_id="bob")], users)
    ann, bob, cy = build_profiles(dataset, range(3))
    assert [[line.item_id for line in p.purchases + p.browsing] for p in (ann, bob, cy)] == [
        ["tea"],
        ["cup", "pan"],
        [],
    ]
    assert (ann.user_id, ann.basics, cy.basics) == ("ann", {"age": "35-44"}, {})


def test_wrong_use_is_named() -> None:
    with pytest.raises(DataError, match="no user row 7"):
        build_profile(world([]), 7)


EVENTS = st.lists(
    st.builds(
        event,
        st.sampled_from(["tea", "cup", "pan", "rug"]),
        st.integers(0, 40).map(lambda halves: halves / 2),
        st.sampled_from([a.value for a in Action]),
        user_id=st.sampled_from(["ann", "bob"]),
        quantity=st.sampled_from([0.0, 1.0, 2.0]),
        price=st.sampled_from([None, 0.0, 1.5, 20.0]),
        basket_id=st.sampled_from([None, "a", "b", "c"]),
    ),
    max_size=25,
)
PEOPLE = {"user_id": ["ann", "bob"], "age": ["35-44", None]}


@settings(max_examples=40, deadline=None)
@given(events=EVENTS, halves=st.integers(0, 42))
def test_nothing_at_or_after_the_time_changes_a_profile(events: list[dict[str, Any]], halves: int) -> None:
    limit = halves * DAY // 2
    past = [e for e in events if e["timestamp"] < limit]
    with_future = replace(world(events, PEOPLE), as_of=limit)
    assert build_profiles(with_future, [0, 1]) == build_profiles(replace(world(past, PEOPLE), as_of=limit), [0, 1])


@settings(max_examples=40, deadline=None)
@given(events=EVENTS)
def test_a_profile_is_well_formed_whatever_the_order_of_the_log(events: list[dict[str, Any]]) -> None:
    for profile in build_profiles(world(events, PEOPLE), [0, 1]):
        for lines in (profile.purchases, profile.browsing):
            weights = [line.weight for line in lines]
            assert weights == sorted(weights, reverse=True)
            assert all(0 < line.weight <= line.count and line.days_since > 0 for line in lines)
        for shares in (profile.favourite_categories, profile.favourite_brands):
            assert sum(share.share for share in shares) <= 1 + 1e-9
            assert [s.share for s in shares] == sorted((s.share for s in shares), reverse=True)
        if profile.price_band is not None:
            assert 0 < profile.price_band[0] <= profile.price_band[1] <= profile.price_band[2]
        assert profile.n_baskets <= sum(e["event"] == "purchase" for e in events)


def alone(dataset: Dataset, row: int) -> Dataset:
    """One person and the items of their history, and nothing else."""
    events = dataset.events.rows(np.array([row]))
    items = np.unique(events.item)
    events = replace(events, item=np.searchsorted(items, events.item).astype(np.int32))
    return replace(dataset, users=dataset.users[[row]], items=dataset.items[items], events=events)


def test_profiles_of_a_large_random_world_agree_with_plain_counting() -> None:
    rng = np.random.default_rng(5)
    n = 3_000
    log = [
        event(["tea", "cup", "pan", "rug"][i], float(d), user_id=f"u{u}", price=1.0)
        for i, d, u in zip(rng.integers(0, 4, n), rng.integers(0, 100, n), rng.integers(0, 30, n), strict=True)
    ]
    dataset = world(log, {"user_id": [f"u{i}" for i in range(30)]})
    for row, profile in enumerate(build_profiles(dataset, range(30))):
        assert profile == build_profile(dataset, row) == build_profile(alone(dataset, row), 0), "to the last bit"
        mine = [e for e in log if e["user_id"] == f"u{row}"]
        for line in profile.purchases:
            days = sorted({e["timestamp"] // DAY for e in mine if e["item_id"] == line.item_id})
            assert line.count == len(days)
            assert line.weight == pytest.approx(sum(2 ** (-(100 - d) / 120) for d in days))
            assert line.interval_days == (np.median(np.diff(days)) if len(days) > 1 else None)
