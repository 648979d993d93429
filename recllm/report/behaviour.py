"""The page about a prediction: how good such predictions were, and the first people with their reasons."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from recllm.propensity.export import document
from recllm.propensity.prediction import Prediction
from recllm.report.curves import chart_svg, quality_charts, write_charts_png

WORDS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "quality": "How good it was",
        "people": "People",
        "checked": "Checked on",
        "asked": "people as of",
        "ahead": "days ahead",
        "left_out": "left out",
        "reasons": "reasons",
        "more": "more",
        "no_past": "nothing known",
        "no_consent": "no consent",
        "not_known": "not known",
    },
    "zh": {
        "quality": "预测质量",
        "people": "人员",
        "checked": "检验于",
        "asked": "人，截至",
        "ahead": "天内",
        "left_out": "未预测",
        "reasons": "原因",
        "more": "人未列出",
        "no_past": "没有记录",
        "no_consent": "未同意",
        "not_known": "未知",
    },
}

SHOWN = 100
"""People on the page."""


def prediction_page(found: Prediction, ids: Mapping[str, str] | None = None, *, locale: str = "en") -> str:
    """A self-contained page. ids: pseudonym -> the shop's own id, where it is known."""
    loader = PackageLoader("recllm.report", "")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    whole = document(found, ids)
    people = whole["people"]
    pictures = [chart_svg(chart) for chart in quality_charts(found.quality, locale)]
    return environment.get_template("behaviour.html.j2").render(
        whole=whole,
        lang=locale,
        said=WORDS.get(locale.split("-")[0].split("_")[0], WORDS["en"]),
        people=people[:SHOWN],
        rest=len(people) - SHOWN,
        columns=[name for name in people[0] if name != "reasons"] if people else [],
        figures=[(name, value) for name, value in whole["calibration"].items() if isinstance(value, float)],
        pictures=[Markup(picture) for picture in pictures],  # noqa: S704 - labels are escaped in curves
        told=_told,
    )


def _told(name: str, value: Any) -> str:
    if value is None:
        return "–"
    if name == "probability":
        return f"{100 * value:.1f} %"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def write_prediction_png(found: Prediction, path: Path, *, locale: str = "en") -> str | None:
    """Reliability, lift and gain as a PNG; a remark when a character has no font. Needs the extra plots."""
    return write_charts_png(quality_charts(found.quality, locale), path)
