from __future__ import annotations

import re
from xml.etree import ElementTree

from recllm.base.charts import Line, LineChart, line_chart


def curves_of(*names: str) -> LineChart:
    lines = [Line(name=name, points=[(n / 10, n / 10) for n in range(11)]) for name in names]
    return LineChart(title="t", x="share", y="gain", lines=tuple(lines), percent="x")


def test_a_chart_is_the_same_again_stands_alone_and_can_be_read_aloud() -> None:
    chart = line_chart(curves_of("a $5 and $6 mug", "手机"))
    assert chart == line_chart(curves_of("a $5 and $6 mug", "手机"))
    assert not [word for word in ("http", "href", "<style", "<metadata", 'g id="') if word in chart]
    assert 'role="img"' in chart and 'aria-label="t: gain / share; a $5 and $6 mug; 手机"' in chart
    assert ">a $5 and $6 mug</text>" in chart and ">手机</text>" in chart


def test_the_svg_is_whole_and_escaped() -> None:
    drawn = line_chart(curves_of("<b>x</b> & y", "random", "chance"))
    root = ElementTree.fromstring(drawn)  # noqa: S314 - our own
    curves = [p for p in root.iter("path") if "stroke-width: 2" in p.attrib["style"] and "clip-path" in p.attrib]
    assert len(curves) == 3 and "<b>" not in drawn and "&lt;b&gt;" in drawn
    for curve in curves:
        coordinates = [float(v) for v in re.findall(r"[\d.]+", curve.attrib["d"])]
        assert min(coordinates) >= 0 and max(coordinates) <= float(root.attrib["width"])


def test_a_long_legend_has_rows_and_ticks_are_round() -> None:
    root = ElementTree.fromstring(line_chart(curves_of(*(f"learner {n}" for n in range(9)))))  # noqa: S314
    texts = list(root.iter("text"))
    assert max(float(t.attrib["y"]) for t in texts) <= float(root.attrib["height"])
    assert {"0 %", "20 %", "100 %"} <= {t.text for t in texts}
