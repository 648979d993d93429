from __future__ import annotations

import re

from recllm.base.charts import PLAIN, STRONG, Bar, bar_chart


def spans(chart: str) -> dict[str, list[tuple[float, float]]]:
    """Colour -> (left, right) of the bars in it."""
    found: dict[str, list[tuple[float, float]]] = {}
    for corners, colour in re.findall(r'<path d="([^"]*z)\s*" clip-path="[^"]*" style="fill: (#\w+)"', chart):
        xs = [float(x) for x in re.findall(r"[ML] ([\d.]+) ", corners)]
        found.setdefault(colour, []).append((min(xs), max(xs)))
    return found


def test_bars_are_as_long_as_their_values_and_the_strong_one_is_marked() -> None:
    chart = bar_chart([Bar("a", 1.0), Bar("b", 0.5, strong=True), Bar("c<", 0.25)], title="t", width=480)
    bars = spans(chart)
    ((left, right),) = bars[STRONG]
    assert [round((b - a) / (right - left), 3) for a, b in bars[PLAIN]] == [2.0, 0.5]
    assert {a for a, _ in bars[PLAIN]} == {left} and max(b for _, b in bars[PLAIN]) > 400, (
        "the longest has all the room"
    )
    assert "c&lt;" in chart and "c<" not in chart


def test_a_chart_escapes_and_fits() -> None:
    chart = bar_chart([Bar("<b>", 0.2, "20 %"), Bar("none", 0.0)], title='"x"', width=760)
    assert "<b>" not in chart and "&lt;b&gt;" in chart and len(spans(chart)[PLAIN]) == 2
    assert all(0 <= float(x) <= 760 for x in re.findall(r"[ML] ([-\d.]+) ", chart))


def test_a_chart_is_the_same_again_stands_alone_and_can_be_read_aloud() -> None:
    chart = bar_chart([Bar("a $5 and $6 mug", 1.0, "1 of 2"), Bar("手机", 0.5)], title="what sells")
    assert chart == bar_chart([Bar("a $5 and $6 mug", 1.0, "1 of 2"), Bar("手机", 0.5)], title="what sells")
    assert not [word for word in ("http", "href", "<style", "<metadata", 'g id="') if word in chart]
    assert 'role="img"' in chart and 'aria-label="what sells: a $5 and $6 mug 1 of 2; 手机 0.500"' in chart
    assert ">a $5 and $6 mug</text>" in chart and ">手机</text>" in chart
    assert bar_chart([], title="nothing") == ""
