"""Small horizontal bar charts as inline SVG: text stays text, so the page can be searched and read aloud."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

BAR_HEIGHT = 20
ROW = 28
LABEL_WIDTH = 190
VALUE_WIDTH = 90


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of a chart. `strong` marks the row that the chart is about."""

    label: str
    value: float
    text: str = ""
    strong: bool = False


def bar_chart(bars: Sequence[Bar], *, title: str, width: int = 640, label_width: int = LABEL_WIDTH) -> str:
    """An SVG element with one bar per row, longest value at full width; negative values point left of the axis."""
    largest = max((abs(b.value) for b in bars), default=0.0) or 1.0
    negative = any(b.value < 0 for b in bars)
    span = width - label_width - VALUE_WIDTH
    zero = label_width + (span / 2 if negative else 0)
    scale = span / (2 if negative else 1) / largest
    rows = [_row(bar, number, zero, scale, label_width) for number, bar in enumerate(bars)]
    height = ROW * len(bars) + 4
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(title)}">{"".join(rows)}</svg>'
    )


def _row(bar: Bar, number: int, zero: float, scale: float, label_width: int) -> str:
    y = number * ROW + 2
    length = max(abs(bar.value) * scale, 1.0)
    x = zero if bar.value >= 0 else zero - length
    end = (zero + length if bar.value >= 0 else zero) + 6
    kind = "strong" if bar.strong else ("minus" if bar.value < 0 else "plain")
    middle = y + BAR_HEIGHT / 2 + 4
    return (
        f'<text x="{label_width - 8}" y="{middle}" text-anchor="end">{escape(bar.label)}</text>'
        f'<rect class="{kind}" x="{x:.1f}" y="{y}" width="{length:.1f}" height="{BAR_HEIGHT}" rx="3"></rect>'
        f'<text class="value" x="{end:.1f}" y="{middle}">{escape(bar.text or f"{bar.value:.3f}")}</text>'
    )
