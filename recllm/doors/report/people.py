"""The page of a prediction, and pictures of how good it is.

A prediction's charts are reliability, lift and gain of people who were held out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recllm.base.charts import Line, LineChart, svg
from recllm.base.words.sentences import section
from recllm.doors.report.page import picture, render
from recllm.market.propensity.prediction import Prediction, PredictionQuality, prediction_document

LISTED = 100
"""People on the page of a prediction."""


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
