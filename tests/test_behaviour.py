"""Predictions: nothing from the future, answers that are obvious, reasons that are true, errors that help."""

from __future__ import annotations

import csv
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from behaviour_world import DAYS, START, coupons, shop
from hypothesis import given, settings
from hypothesis import strategies as st
from shop_world import with_event

from recllm.base.errors import DataError, NothingToDo, PolicyError, UsageError
from recllm.base.policy import Policy
from recllm.base.schema import Action
from recllm.base.stats.probabilities import auc
from recllm.doors.cli.options import write_people
from recllm.market.propensity.coupons import Coupons, coupon_features
from recllm.market.propensity.examples import Cohort, Examples, cuts, past_examples
from recllm.market.propensity.features import FeatureTable, person_features, target_features
from recllm.market.propensity.model import OrderDates, calibrate, covered, fit_propensity, normal_scores, people_folds
from recllm.market.propensity.predict import group_deltas, mailings, predict, reasons_of, redeem_examples
from recllm.market.propensity.prediction import (
    Prediction,
    PredictionKind,
    PredictionRequest,
    lift,
    prediction_document,
    quality,
    reliability,
)
from recllm.shop.data.dataset import DAY, Dataset
from recllm.shop.data.rhythm import ShoppingDays

CUT = START + 120 * DAY
TEA_IS_SENSITIVE = Policy(sensitive_categories=["tea"])


@pytest.fixture(scope="module")
def data() -> Dataset:
    return shop()


@pytest.fixture(scope="module")
def answers(data: Dataset) -> dict[PredictionKind, Prediction]:
    kinds = (PredictionKind.BUY, PredictionKind.LEAVE, PredictionKind.NEXT_ORDER, PredictionKind.VALUE)
    redeem = ask(PredictionKind.REDEEM, data, coupons=coupons(data))
    return {kind: ask(kind, data) for kind in kinds} | {PredictionKind.REDEEM: redeem}


def ask(kind: PredictionKind, learn: Dataset, asked: Dataset | None = None, **request: Any) -> Prediction:
    """The prediction of everybody of `asked`, of the people learned from when None."""
    policy = request.pop("policy", None)
    return predict(PredictionRequest(kind=kind, **request), learn, asked or learn, policy=policy)


def person(*rows: tuple[float, str, float]) -> Dataset:
    """One person's events: (day, action, price)."""
    events = pl.DataFrame(
        [("a", f"i{n}", START + int(day * DAY), action, price) for n, (day, action, price) in enumerate(rows)],
        schema=["user_id", "item_id", "timestamp", "event", "price"],
        orient="row",
    )
    return Dataset.construct(events, as_of=START + 100 * DAY)


def test_the_numbers_of_one_person() -> None:
    rows = [(0.5, "purchase", 4.0), (10.5, "purchase", 6.0), (30.5, "purchase", 2.0), (31, "view", 0.0)]
    table = person_features(person(*rows), START + 40 * DAY)
    expected = {
        "days_since": 9.5, "trips": 3, "trips_14": 1, "trips_28": 1, "trips_56": 3, "tenure": 39.5,
        "spend": 12, "spend_28": 2, "last_trip_spend": 2, "gap_mean": 15, "gap_median": 15, "gap_max": 20,
        "gap_last": 20, "since_over_median": 9.5 / 15, "browsed_28": 1, "days_since_browsing": 9,
        "items_91": 3, "repeats_91": 0, "trend_trips": np.log(2) - np.log(3),
    }  # fmt: skip
    assert {name: table.column(name)[0] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_who_did_nothing_has_no_times_and_zero_counts() -> None:
    table = person_features(person((50, "purchase", 4.0)), START + 40 * DAY)
    assert np.isnan(table.column("days_since")[0]) and np.isnan(table.column("gap_mean")[0])
    assert table.column("trips")[0] == 0 and table.column("spend")[0] == 0


@settings(max_examples=15)
@given(days=st.lists(st.integers(0, 79), min_size=1, max_size=8), action=st.sampled_from(list(Action)))
def test_no_event_at_or_after_the_cut_changes_a_row(data: Dataset, days: list[int], action: Action) -> None:
    later = data
    for day in days:
        later = with_event(later, day % 20, day % 8, CUT + day * DAY, action)
    wanted = np.arange(data.n_items) < 3
    for made in (person_features, lambda d, at: target_features(d, at, wanted)):
        assert np.array_equal(made(data, CUT).values, made(later, CUT).values, equal_nan=True)


def test_an_event_before_the_cut_does_change_it(data: Dataset) -> None:
    earlier = with_event(data, 0, 0, CUT - 1, Action.PURCHASE)
    assert not np.array_equal(person_features(data, CUT).values, person_features(earlier, CUT).values, equal_nan=True)


def test_later_redemptions_mailings_and_uses_change_no_coupon_feature(data: Dataset) -> None:
    every, at = coupons(data), START + 106 * DAY  # the third campaign's mailing
    used = every.redemptions.select("user_id", "at").with_columns(amount=1.0)
    every = replace(every, uses=used)
    whole = coupon_features(data, every, "c2", at)
    past = pl.col("at") < at
    cut = Coupons(
        every.mailings.filter(past | (pl.col("campaign_id") == "c2")),
        every.products,
        every.redemptions.filter(past),
        used.filter(past),
    )
    assert np.array_equal(whole.values, coupon_features(data, cut, "c2", at).values, equal_nan=True)
    assert whole.column("mailed_before").max() == 2 and whole.column("coupon_trips").max() == 2


def test_target_features_count_the_target_alone(data: Dataset) -> None:
    tea = np.array([c == ["food", "tea"] for c in data.items["category"].to_list()])
    share = target_features(data, CUT, tea).column("target_share")
    group = np.array([int(name[1:]) % 4 // 2 for name in data.users["user_id"]])
    assert np.nanmax(share[group == 1]) == 0 and np.nanmin(share[group == 0]) == 1


def test_windows_lie_before_the_end_and_do_not_overlap(data: Dataset) -> None:
    times = cuts(data, 28)
    assert all(b - a == -28 * DAY for a, b in pairwise(times)) and len(times) >= 5
    assert times[0] + 28 * DAY <= data.as_of and times[-1] - 28 * DAY >= data.events.at.min()


def test_labels_from_the_future_are_refused(data: Dataset) -> None:
    cohort = Cohort(data)
    made = past_examples(cohort, cuts(data, 28), 28, Cohort.bought, Cohort.with_history)
    with pytest.raises(DataError, match="leakage"):
        fit_propensity(made, int(made.known_at.max()) - 1)
    with pytest.raises(DataError, match="leakage"):
        past_examples(cohort, [data.as_of - 27 * DAY], 28, Cohort.bought, Cohort.with_history)


def test_a_redemption_after_the_horizon_is_no_label(data: Dataset) -> None:
    every = coupons(data)
    short, long = (redeem_examples(Cohort(data), every, mailings(every, days)[:2]) for days in (2, 7))
    assert short.label.sum() == 0 and long.label.sum() > 40


def test_normal_scores_keep_the_order_and_the_middle_is_zero() -> None:
    values = np.array([[1.0], [2.0], [3.0], [np.nan]], np.float32)
    scores = normal_scores(values, np.quantile([1.0, 2.0, 3.0], np.linspace(0, 1, 101))[:, None])[:, 0]
    assert scores[0] < scores[1] < scores[2] and scores[1] == pytest.approx(0, abs=1e-9) and scores[3] == 0


def test_stacking_takes_the_part_that_knows_and_calibrates() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=4_000)
    label = (rng.random(4_000) < 1 / (1 + np.exp(-truth))).astype(float)
    a, b, c = calibrate(np.stack([3 * truth, rng.normal(size=4_000)], axis=1), label)
    assert a == pytest.approx(1 / 3, abs=0.05) and b < 0.1 and abs(c) < 0.1


def test_people_stay_together() -> None:
    person = np.array([3, 3, 1, 1, 2, 3])
    masks = np.stack(people_folds(person, 2))
    folds = masks.argmax(axis=0)
    assert masks.sum(axis=0).tolist() == [1] * len(person), "every row is in one fold"
    assert len(set(folds[person == 3])) == 1 and len(set(folds[person == 1])) == 1 and set(folds) == {0, 1}


def test_the_order_of_ids_breaks_no_tie(data: Dataset) -> None:
    order = Cohort(data).descending(np.arange(60), np.zeros(60))
    assert sorted(order) == list(range(60)) and np.abs(np.corrcoef(order, np.arange(60))[0, 1]) < 0.5


def odd(user_id: str) -> bool:
    return int(user_id[1:]) % 2 == 1


def test_who_shops_often_is_likelier_to_buy(answers: dict[PredictionKind, Prediction]) -> None:
    found = answers[PredictionKind.BUY]
    first = found.people[:40]
    assert sum(odd(one.user_id) for one in first) == 0 and min(one.probability for one in first) > 0.9
    assert found.people[-1].probability < 0.2 and odd(found.people[-1].user_id)
    assert found.quality.auc is not None and found.quality.auc > 0.9 and found.quality.ece < 0.08


def test_leaving_is_the_complement_among_the_active(answers: dict[PredictionKind, Prediction], data: Dataset) -> None:
    found = answers[PredictionKind.LEAVE]
    assert found.people[0].probability > 0.3 and odd(found.people[0].user_id)
    assert len(found.people) + sum(found.left_out.values()) == data.n_users and found.left_out["not_away"] > 0
    assert "91" in found.meaning
    short = ask(PredictionKind.LEAVE, data, horizon_days=7, explain=False)
    bought = data.events.of(Action.PURCHASE)
    past = ShoppingDays.of(bought.user, bought.at, data.n_users, data.as_of)
    listed = data.user_rows([one.user_id for one in short.people])
    assert (past.since + 7 >= 2 * past.usual_gap)[listed].all(), "who is not due cannot be late"
    assert 60 < len(listed) < len(found.people) and any(odd(one.user_id) for one in short.people)


def test_the_next_order_comes_sooner_to_who_orders_often(answers: dict[PredictionKind, Prediction]) -> None:
    people = {one.user_id: one for one in answers[PredictionKind.NEXT_ORDER].people}
    soon = [one for name, one in people.items() if not odd(name)]
    assert all(one.date and (one.date - answers[PredictionKind.NEXT_ORDER].as_of.date()).days <= 6 for one in soon)
    assert all(one.earliest <= one.date <= (one.latest or one.date) for one in soon if one.earliest and one.date)
    assert all((one.date is not None) == (one.probability >= 0.5) for one in people.values())
    assert all(one.date is None for name, one in people.items() if odd(name) and one.probability < 0.2)
    figures = answers[PredictionKind.NEXT_ORDER].figures
    assert figures["mae_days"] < 3.5 and 0.6 < figures["within_80"] <= 1


def test_the_value_is_what_people_spend(answers: dict[PredictionKind, Prediction]) -> None:
    found = answers[PredictionKind.VALUE]
    often = [one.value for one in found.people if not odd(one.user_id) and one.value is not None]
    assert np.mean(often) == pytest.approx(5 * 28 / 3, rel=0.15)
    assert found.people[-1].value is not None and found.people[-1].value < 10
    assert 0.8 < found.figures["expected_over_spent"] < 1.25
    assert found.figures["mae"] < 1.2 * found.figures["mae_of_last_28_days"]


def test_who_redeemed_before_redeems_again(answers: dict[PredictionKind, Prediction]) -> None:
    found = answers[PredictionKind.REDEEM]
    assert found.notes[0].startswith("campaign c4") and len(found.people) == 120
    assert all(int(one.user_id[1:]) % 4 == 0 for one in found.people[:25]) and found.people[0].probability > 0.6
    assert any(reason.evidence_id == "coupons" and reason.delta > 0 for reason in found.people[0].reasons)


def test_a_target_is_what_counts(data: Dataset) -> None:
    found = ask(PredictionKind.BUY, data, category="food > tea")
    first, last = found.people[:20], found.people[-20:]
    assert all(int(one.user_id[1:]) % 4 < 2 for one in first) and last[0].probability < 0.1
    assert any(r.evidence_id == "target" and "food > tea" in r.text for r in last[0].reasons)


def test_the_same_question_has_the_same_answer(data: Dataset, answers: dict[PredictionKind, Prediction]) -> None:
    """With rows in another order and other ids, the same people get the same chances, but for what draws by row."""
    assert ask(PredictionKind.BUY, data) == answers[PredictionKind.BUY]
    turned = data.n_users - 1 - np.arange(data.n_users)
    names = pl.Series("user_id", [f"z{n:03}" for n in range(data.n_users)])
    users = data.users[turned.tolist()].with_columns(names)
    other = replace(data, users=users, events=data.events.rows(turned))
    found = {one.user_id: one.probability for one in ask(PredictionKind.BUY, other).people}
    mine = {one.user_id: one.probability for one in answers[PredictionKind.BUY].people}
    gap = [abs(found[f"z{n:03}"] - mine[f"u{data.n_users - 1 - n:03}"]) for n in range(data.n_users)]
    assert np.mean(gap) < 0.03


def test_a_delta_is_what_the_score_loses() -> None:
    names = ("days_since", "trips_28", "weekend_share")
    table = FeatureTable(names, ("recency", "frequency", "calendar"), np.array([[1, 9, 0], [3, 2, 0]], np.float32))
    groups, deltas = group_deltas(lambda v: v[:, 0] * 1.0 + 2 * v[:, 1], table, np.array([[2, 4, 7]], np.float32))
    assert groups == ("recency", "frequency", "calendar")
    assert deltas.tolist() == [[-1, 10, 0], [1, -4, 0]]


def test_reasons_are_told_in_both_languages(data: Dataset, answers: dict[PredictionKind, Prediction]) -> None:
    assert any("lowers the chance." in r.text for one in answers[PredictionKind.BUY].people for r in one.reasons)
    names, groups = ("trips_28", "trips_182", "items_91", "areas"), ("frequency", "frequency", "breadth", "breadth")
    one, others = (FeatureTable(names, groups, np.array([row], np.float32)) for row in ([0, 3, 0, 4], [0, 0, 0, 0]))
    texts = {"en": "3 purchases in the last 182 days: raises the chance.", "zh": "近182天购买3次：提高可能性。"}
    for locale, text in texts.items():  # and no "0 products: raises the chance"
        request = PredictionRequest(kind=PredictionKind.BUY, locale=locale)
        (reasons,) = reasons_of(request, data, lambda values: values[:, 1] + values[:, 3], one, others, one)
        assert [reason.text for reason in reasons] == [text]


def test_auc_and_lift_of_a_case_to_count() -> None:
    score, label = np.array([4.0, 3, 2, 1]), np.array([1.0, 0, 1, 0])
    assert auc(score, label) == 0.75 and lift(score, label, 0.5) == 1 and lift(score, label, 0.25) == 2
    assert auc(np.ones(4), label) == 0.5 and lift(np.ones(4), label, 0.25) == 1


@settings(max_examples=25)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=60))
def test_curves_keep_their_bounds(rows: list[tuple[float, bool]]) -> None:
    p, label = np.array([r[0] for r in rows]), np.array([float(r[1]) for r in rows])
    found = quality(p, label)
    assert 0 <= found.ece <= 1 and sum(b.n for b in found.bins) == len(rows)
    assert all(b.low <= b.observed + 1e-9 and b.observed <= b.high + 1e-9 for b in reliability(p, label))
    if found.auc is not None:
        assert 0 <= found.auc <= 1 and lift(p, label, 1.0) == pytest.approx(1)


def test_the_next_order_comes_by_the_usual_gap_and_its_interval_holds_four_fifths() -> None:
    rng, n, known = np.random.default_rng(0), 2_000, 20
    usual = rng.integers(2, 12, n)
    gaps = np.maximum(np.round(usual[:, None] * rng.lognormal(0, 0.4, (n, known + 1))), 1)
    days = np.cumsum(gaps, axis=1).astype(np.int64)
    now = days[:, known - 1] + rng.integers(0, 2, n) + 1  # each as of a day or two after an order
    ago = now.max() - now
    user, at = np.repeat(np.arange(n), known), (days[:, :known] + ago[:, None]).ravel() * DAY
    past = ShoppingDays.of(user, at, n, int(now.max()) * DAY)
    ahead = (days[:, known] - now) + 0.5
    label, cut = np.where((ahead > 0) & (ahead <= 28), ahead, np.inf), np.full(n, 1_700_006_400)
    features = FeatureTable.of({"none": {"none": np.zeros(n)}}, n)
    people = Examples(features, label, np.arange(n), np.zeros(n, np.int64), cut, cut + 28 * DAY)
    dates = OrderDates.learn(past).days(past, np.arange(n), np.ones(n), 28)
    assert (dates[0] <= dates[1]).all() and (dates[1] <= dates[2]).all()
    assert 0.72 < covered(dates, people, 28)[ahead > 0].mean() < 0.88
    assert np.abs(dates[1] - label)[np.isfinite(label) & np.isfinite(dates[1])].mean() < 2.5


def test_who_never_ordered_or_has_likely_left_has_no_date() -> None:
    past, rows = ShoppingDays.of(np.array([0, 0, 0]), np.array([1, 4, 7]) * DAY, 2, 8 * DAY), np.arange(2)
    ordered, once = OrderDates.learn(past), ShoppingDays.of(np.array([0]), np.array([DAY]), 2, 8 * DAY)
    dates = ordered.days(past, rows, np.ones(2), 28)
    assert dates[:, 0].tolist() == [2.5, 2.5, 2.5] and np.isinf(dates[:, 1]).all()
    assert np.isinf(OrderDates.learn(once).days(past, rows, np.ones(2), 28)).all()
    assert np.isfinite(ordered.days(past, rows, np.full(2, 0.3), 28)[:, 0]).tolist() == [True, False, False]


def test_a_small_shop_is_answered_by_counting() -> None:
    small = shop(people=40)
    for kind in (PredictionKind.BUY, PredictionKind.LEAVE, PredictionKind.NEXT_ORDER, PredictionKind.VALUE):
        found = ask(kind, small)
        assert found.notes[0].startswith("Counted") and found.people[0].reasons[0].text
        assert found.quality.ece < 0.12 and (found.quality.auc or 1) > 0.7
    tea = ask(PredictionKind.BUY, small, category="food > tea").people
    assert all(int(one.user_id[1:]) % 4 < 2 for one in tea[:8]) and tea[-1].probability < 0.1
    assert tea[-1].reasons[0].evidence_id == "target"


def test_what_cannot_be_predicted_says_why(data: Dataset) -> None:
    every, few = coupons(data), shop(people=15)
    empty = replace(data, events=data.events.select(np.zeros(len(data.events), bool)))
    loyal = replace(data, events=data.events.select(data.events.user % 2 == 0))
    unpriced = replace(data, events=replace(data.events, price=np.full(len(data.events), np.nan, np.float32)))
    cases: list[tuple[PredictionKind, Dataset, dict[str, Any], type[Exception], str]] = [
        (PredictionKind.BUY, data, {"horizon_days": 0}, UsageError, "horizon_days must be 1 or more"),
        (PredictionKind.BUY, data, {"horizon_days": DAYS}, DataError, "spans"),
        (PredictionKind.BUY, few, {}, DataError, "people with a past"),
        (PredictionKind.BUY, shop(people=28), {"horizon_days": 80}, DataError, "28 people are too few"),
        (PredictionKind.BUY, loyal, {}, DataError, "at least 5 of each"),
        (PredictionKind.BUY, data, {"asked": empty}, NothingToDo, "no one to predict"),
        (PredictionKind.BUY, empty, {"asked": data}, DataError, "empty"),
        (PredictionKind.VALUE, unpriced, {}, DataError, "no prices"),
        (PredictionKind.REDEEM, data, {}, UsageError, "coupon tables"),
        (PredictionKind.REDEEM, data, {"coupons": every, "campaign": "c9"}, UsageError, "no mailing"),
        (PredictionKind.REDEEM, data, {"coupons": every, "campaign": "c0"}, DataError, "no campaign was over"),
        (PredictionKind.BUY, data, {"category": "food > tea", "policy": TEA_IS_SENSITIVE}, PolicyError, "sensitive"),
    ]
    for kind, learn, options, error, words in cases:
        with pytest.raises(error, match=words):
            ask(kind, learn, **options)


def test_coupon_tables_are_checked() -> None:
    good = pl.DataFrame({"user_id": ["a"], "campaign_id": ["c"], "timestamp": [START]})
    products = pl.DataFrame({"campaign_id": ["c"], "item_id": ["i"]})
    for mailed, words in (
        (good.drop("timestamp"), "missing column timestamp"),
        (good.with_columns(timestamp=pl.lit("soon")), "no time such as"),
        (good.with_columns(timestamp=pl.lit(1.5)), "no time with a zone"),
        (good.head(0), "empty"),
    ):
        with pytest.raises(DataError, match=words):
            Coupons.construct(mailed, products, good)


def test_coupon_tables_are_read_from_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no coupon table .*mailings\.csv"):
        Coupons.read(tmp_path)
    lines = "user_id,campaign_id,timestamp\na,c,2024-01-02\nb,c,2024-01-02T01:00:00+01:00\n"
    (tmp_path / "mailings.csv").write_text(lines)
    (tmp_path / "redemptions.csv").write_text("user_id,campaign_id,timestamp\na,c,2024-01-03 10:00:00\n")
    (tmp_path / "products.csv").write_text("campaign_id,item_id\nc,i\n")
    found = Coupons.read(tmp_path, lambda ids: [f"p-{name}" for name in ids])
    assert sorted(found.mailings["user_id"]) == ["p-a", "p-b"] and found.mailings["at"].n_unique() == 1
    assert found.redemptions["at"][0] - found.mailings["at"][0] == 34 * 3600
    (tmp_path / "redemptions.csv").write_text("user_id,campaign_id,timestamp\na,c,03/01/24\n")
    with pytest.raises(DataError, match="no time"):
        Coupons.read(tmp_path)


def test_the_contract_and_a_csv_without_traps(answers: dict[PredictionKind, Prediction], tmp_path: Path) -> None:
    extras = {PredictionKind.BUY: set(), PredictionKind.VALUE: {"value"}}
    for kind, extra in (extras | {PredictionKind.NEXT_ORDER: {"date", "earliest", "latest"}}).items():
        whole = prediction_document(answers[kind])
        assert {"kind", "horizon_days", "as_of", "people", "calibration"} <= set(whole) and whole["kind"] == kind
        assert set(whole["people"][0]) == {"user_id", "probability", "reasons"} | extra
        assert 0 <= whole["calibration"]["ece"] < 1 and whole["people"][0]["reasons"][0]["text"]
    name = answers[PredictionKind.VALUE].people[0].user_id
    write_people(tmp_path / "out.csv", prediction_document(answers[PredictionKind.VALUE], {name: "=cmd()"})["people"])
    rows = list(csv.DictReader((tmp_path / "out.csv").open(encoding="utf-8")))
    assert rows[0]["user_id"] == "'=cmd()" and float(rows[0]["value"]) > 0 and len(rows) == 120
