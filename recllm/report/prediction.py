"""The page about a prediction: how good such predictions were, and the first people with their reasons.

Its charts are reliability, lift and gain of people who were held out; for an uplift, the Qini curve.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recllm.charts import Line, LineChart, svg, write_png
from recllm.errors import UsageError
from recllm.propensity.prediction import Prediction, prediction_document
from recllm.propensity.quality import PredictionQuality
from recllm.propensity.uplift.qini import QiniCurve
from recllm.report.page import picture, render, words

LISTED = 100
"""People on the page."""


def prediction_page(prediction: Prediction, ids: Mapping[str, str] | None = None, *, locale: str = "en") -> str:
    """A self-contained page. ids: pseudonym -> the shop's own id, where it is known."""
    content = prediction_document(prediction, ids)
    people = content["people"]
    return render(
        "prediction.html.j2",
        content=content,
        locale=locale,
        labels=words("prediction", locale),
        people=people[:LISTED],
        unlisted=len(people) - LISTED,
        columns=[name for name in people[0] if name != "reasons"] if people else [],
        figures=[(name, value) for name, value in content["calibration"].items() if isinstance(value, float)],
        pictures=[picture(svg(chart)) for chart in quality_charts(prediction.quality, locale)],
        cell=_cell,
    )


def write_prediction_png(prediction: Prediction, path: Path, *, locale: str = "en") -> str | None:
    """Reliability, lift and gain as a PNG; a remark when a character has no font."""
    return write_png(quality_charts(prediction.quality, locale), path)


def quality_charts(quality: PredictionQuality, locale: str = "en") -> tuple[LineChart, ...]:
    """Reliability, lift and gain of held-out people; without both outcomes only the first."""
    labels = words("charts", locale)
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


def qini_chart(curves: Mapping[str, QiniCurve], locale: str = "en") -> LineChart:
    """One line per name, and what treating people by lot would bring. Raises `UsageError` for no curve."""
    if not curves:
        raise UsageError("a Qini chart needs at least one curve")
    labels = words("charts", locale)
    effect = next(iter(curves.values())).effect
    lines = [Line(name=labels["chance"], points=[(0, 0), (1, effect)], dashed=True)]
    lines += [Line(name=n, points=list(zip(c.shares, c.gains, strict=True))) for n, c in curves.items()]
    return LineChart(title=labels["qini"], x=labels["treated"], y=labels["extra"], lines=tuple(lines), percent="x")


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "–"
    if name == "probability":
        return f"{100 * value:.1f} %"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
