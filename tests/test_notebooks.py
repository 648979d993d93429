"""What objects look like in a notebook: tables whose texts stay texts."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime

import polars as pl

from recllm import Dataset, Recommender, ToyEncoder
from recllm.base.documents import html_table
from recllm.base.schema import Action
from recllm.market.audiences.audience import Audience, AudienceMember
from recllm.market.propensity.prediction import Prediction, PredictionKind, PredictionQuality, UserPrediction
from recllm.recommend.evaluation.report import Report

NOW = datetime(2025, 6, 1, tzinfo=UTC)


def test_hostile_texts_stay_texts() -> None:
    items = pl.DataFrame({"item_id": ["a", "b"], "title": ["Tea <script>alert(1)</script>", "Mug & more"]})
    visits = pl.DataFrame({"user_id": ["<b>ann"], "item_id": ["a"], "timestamp": [1_700_000_000]})
    shop = Dataset.construct(visits, items=items)
    drawn = Recommender(shop, ToyEncoder()).recommend("<b>ann", k=2)[0]._repr_html_()
    assert "<script>" not in drawn and "<b>" not in drawn
    assert "&lt;b&gt;ann" in drawn and "Mug &amp; more" in drawn and "no trained model" in drawn
    assert "1 purchase" not in shop._repr_html_() and ">people<" in shop._repr_html_()


def test_tables_of_people_are_short_and_say_how_many_there_are() -> None:
    people = tuple(AudienceMember(user_id=f"u{n}", probability=0.125, score=1.0, item_id="a") for n in range(25))
    audience = Audience(
        campaign_id="spring",
        as_of=NOW,
        horizon_days=28,
        model_version="v",
        items=("a",),
        people=people,
        holdout=("x", "y"),
        excluded={},
        group=(),
        expected_conversions=3.125,
    )
    drawn = audience._repr_html_()
    assert drawn.count("<tr>") == 11 and "12.5 %" in drawn
    assert "spring: 25 people, 2 held out; 3.1 expected to buy within 28 days" in drawn
    assert "spring: 1 person, 2 held out" in replace(audience, people=people[:1])._repr_html_()
    assert "expected to convert" in replace(audience, converts=(Action.VIEW,))._repr_html_()


def test_predictions_show_what_their_kind_tells() -> None:
    quality = PredictionQuality(
        n=10, base_rate=0.1, ece=0.01, auc=None, lift_at_10=None, bins=(), fractions=(), gains=(), lifts=()
    )
    orders = tuple(UserPrediction(user_id=f"u{n}", probability=0.5, date=date(2025, 6, 3 + n)) for n in range(2))
    common = {"horizon_days": 28, "as_of": NOW, "quality": quality, "checked": "May"}
    drawn = Prediction(kind=PredictionKind.NEXT_ORDER, meaning="when", people=orders, **common)._repr_html_()
    assert "2025-06-04" in drawn and "when (May)" in drawn
    assert "50.0 %" in Prediction(kind=PredictionKind.BUY, meaning="who", people=orders, **common)._repr_html_()


def test_a_report_has_a_table_for_each_slice_with_the_best_first() -> None:
    systems = {"plain": {"ALL": {"ndcg@10": 0.1}}, "ours": {"ALL": {"ndcg@10": 0.25}, "NEW": {"ndcg@10": 0.5}}}
    report = Report(protocol="p", commit=None, data_hash="h", seed=0, seconds=1.0, systems=systems, differences=())
    drawn = report._repr_html_()
    assert drawn.count("<table>") == 2 and drawn.index("ours") < drawn.index("plain") and ">0.25<" in drawn


def test_numbers_stand_to_the_right() -> None:
    assert html_table(("n",), [(1234,), ("x",)]) == (
        '<table><thead><tr><th style="text-align:left">n</th></tr></thead><tbody>'
        '<tr><td style="text-align:right">1,234</td></tr><tr><td style="text-align:left">x</td></tr></tbody></table>'
    )
