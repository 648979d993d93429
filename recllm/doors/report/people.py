"""Pages and pictures about people: how good a prediction is and for whom, and how a person's interests moved.

A prediction's charts are reliability, lift and gain of people who were held out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recllm.base.charts import AreaChart, Line, LineChart, svg
from recllm.base.words.sentences import section
from recllm.doors.report.page import picture, render
from recllm.learn.profiles.evolution import UNKNOWN, WITHHELD, Evolution, Period
from recllm.market.propensity.prediction import Prediction, prediction_document
from recllm.market.propensity.quality import PredictionQuality

LISTED = 100
"""People on the page of a prediction."""

MOST_BANDS = 8
"""Interests that a picture names."""


def prediction_page(prediction: Prediction, ids: Mapping[str, str] | None = None, *, locale: str = "en") -> str:
    """A self-contained page. ids: pseudonym -> the shop's own id, where it is known."""
    content = prediction_document(prediction, ids)
    people = content["people"]
    return render(
        "prediction.html.j2",
        content=content,
        locale=locale,
        labels=section("page.prediction", locale),
        people=people[:LISTED],
        unlisted=len(people) - LISTED,
        columns=[name for name in people[0] if name != "reasons"] if people else [],
        figures=[(name, value) for name, value in content["calibration"].items() if isinstance(value, float)],
        pictures=[picture(svg(chart)) for chart in quality_charts(prediction.quality, locale)],
        cell=_cell,
    )


def quality_charts(quality: PredictionQuality, locale: str = "en") -> tuple[LineChart, ...]:
    """Reliability, lift and gain of held-out people; without both outcomes only the first."""
    labels = section("page.charts", locale)
    top = max([b.high for b in quality.bins] + [b.expected for b in quality.bins], default=1.0)
    happened = Line(
        name=labels["happened"],
        points=[(b.expected, b.observed) for b in quality.bins],
        intervals=[(b.low, b.high) for b in quality.bins],
        marked=True,
    )
    perfect = Line(name=labels["perfect"], points=[(0, 0), (top, top)], dashed=True)
    reliability = LineChart(
        title=labels["reliability"], x=labels["expected"], y=labels["happened"], lines=(perfect, happened)
    )
    if quality.auc is None:
        return (reliability,)
    people, model, chance = labels["people"], labels["model"], labels["chance"]
    lift = Line(name=model, points=list(zip(quality.fractions, quality.lifts, strict=True)))
    flat = Line(name=chance, points=[(0, 1), (1, 1)], dashed=True)
    gain = Line(name=model, points=[(0, 0), *zip(quality.fractions, quality.gains, strict=True)])
    even = Line(name=chance, points=[(0, 0), (1, 1)], dashed=True)
    return (
        reliability,
        LineChart(title=labels["lift"], x=people, y=labels["times"], lines=(flat, lift), percent="x"),
        LineChart(title=labels["gain"], x=people, y=labels["outcome_share"], lines=(even, gain)),
    )


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "–"
    if name == "probability":
        return f"{100 * value:.1f} %"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def evolution_chart(evolution: Evolution, locale: str = "en") -> AreaChart:
    """The heaviest interests of the periods as bands, largest at the bottom, the others together on top."""
    labels, periods = section("page.evolution", locale), evolution.periods
    weight = {n: sum(p.shares.get(n, 0.0) for p in periods) for n in evolution.interests}
    interests = [n for n in sorted(weight, key=lambda n: -weight[n]) if weight[n] > 0]
    top = interests if len(interests) <= MOST_BANDS + 1 else interests[:MOST_BANDS]
    bands = [(_interest(n, labels), [p.shares.get(n, 0.0) for p in periods]) for n in top]
    if len(top) < len(interests):
        small = interests[len(top) :]
        bands.append((labels["others"], [sum(p.shares.get(n, 0.0) for n in small) for p in periods]))
    return AreaChart(
        title=labels["title"],
        axis=f"{labels[evolution.what]}, {labels[evolution.by]}",
        columns=[period_name(p, evolution.by) for p in periods],
        bands=bands,
        others=labels["others"],
        line_name=labels["drift"],
        line=[p.drift for p in periods],
        dashed_name=labels["chance"],
        dashed=[p.drift_by_chance for p in periods],
    )


def period_name(period: Period, by: str) -> str:
    start = period.start
    if by == "quarter":
        return f"{start.year} Q{(start.month + 2) // 3}"
    return f"{start:%Y-%m}" if by == "month" else f"{start:%Y-%m-%d}"


def evolution_rows(evolution: Evolution, locale: str = "en") -> tuple[list[str], list[list[object]]]:
    """Header and one row per period."""
    labels = section("page.evolution", locale)
    columns = ("period", "count", "drift", "chance", "novelty", evolution.what, "entered", "left")
    rows: list[list[object]] = []
    for p in evolution.periods:
        names = [", ".join(_interest(n, labels) for n in group) for group in (p.entered, p.left)]
        numbers = [None if v is None else f"{v:.3f}" for v in (p.drift, p.drift_by_chance, p.novelty)]
        largest = ", ".join(f"{_interest(n, labels)} {share:.0%}" for n, share in list(p.shares.items())[:3])
        rows.append([period_name(p, evolution.by), p.purchases, *numbers, largest, *names])
    return [labels[column] for column in columns], rows


def _interest(name: str, labels: Mapping[str, str]) -> str:
    return labels[name] if name in (WITHHELD, UNKNOWN) else name
