"""The pictures and pages of predictions: the data they draw, and that a page holds nothing it should not."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from behaviour_world import shop

from recllm.base.charts import Line, LineChart, svg
from recllm.doors.report.people import prediction_page, quality_charts
from recllm.market.propensity.predict import predict
from recllm.market.propensity.prediction import Prediction, PredictionKind, PredictionRequest, quality


@pytest.fixture(scope="module")
def found() -> Prediction:
    data = shop()
    return predict(PredictionRequest(kind=PredictionKind.BUY), data, data)


def random_quality() -> object:
    rng = np.random.default_rng(0)
    p = rng.random(500)
    return quality(p, (rng.random(500) < p).astype(float))


def test_the_three_charts_hold_the_quality() -> None:
    q = random_quality()
    reliability, lift, gain = quality_charts(q)  # type: ignore[arg-type]
    perfect, seen = reliability.lines
    assert perfect.dashed and len(seen.points) == len(seen.intervals) == len(q.bins)  # type: ignore[attr-defined]
    assert lift.lines[1].points[-1] == (1.0, pytest.approx(1.0))
    assert gain.lines[1].points[0] == (0, 0) and gain.lines[1].points[-1] == (1.0, pytest.approx(1.0))


def test_one_class_has_reliability_alone() -> None:
    assert len(quality_charts(quality(np.full(40, 0.1), np.zeros(40)))) == 1


def curves_of(*names: str) -> LineChart:
    lines = [Line(name=name, points=[(n / 10, n / 10) for n in range(11)]) for name in names]
    return LineChart(title="t", x="share", y="gain", lines=tuple(lines), percent="x")


def test_the_svg_is_whole_and_escaped() -> None:
    drawn = svg(curves_of("<b>x</b> & y", "random", "chance"))
    root = ElementTree.fromstring(drawn)  # noqa: S314 - our own
    curves = [p for p in root.iter("path") if "stroke-width: 2" in p.attrib["style"] and "clip-path" in p.attrib]
    assert len(curves) == 3 and "<b>" not in drawn and "&lt;b&gt;" in drawn
    for curve in curves:
        coordinates = [float(v) for v in re.findall(r"[\d.]+", curve.attrib["d"])]
        assert min(coordinates) >= 0 and max(coordinates) <= float(root.attrib["width"])


def test_a_long_legend_has_rows_and_ticks_are_round() -> None:
    root = ElementTree.fromstring(svg(curves_of(*(f"learner {n}" for n in range(9)))))  # noqa: S314
    texts = list(root.iter("text"))
    assert max(float(t.attrib["y"]) for t in texts) <= float(root.attrib["height"])
    assert {"0 %", "20 %", "100 %"} <= {t.text for t in texts}


def test_the_page_stands_alone_and_names_its_people(found: Prediction) -> None:
    first = found.people[0].user_id
    page = prediction_page(found, {first: "<script>alert(1)</script>"})
    assert page.count("<svg") == 3 and "&lt;script&gt;" in page and "<script" not in page
    assert not re.search(r"(src|href)=", page) and "default-src 'none'" in page
    assert "raises the chance" in page and f"{100 * found.people[0].probability:.1f} %" in page
