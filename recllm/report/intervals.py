"""Horizontal bars with their intervals as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

ROW, HEIGHT, LABEL, VALUE = 34, 18, 210, 150


@dataclass(frozen=True, slots=True)
class Whisker:
    """One row: a value between its limits. `strong` marks the row that the chart is about."""

    label: str
    value: float
    low: float
    high: float
    text: str = ""
    strong: bool = False


def interval_chart(rows: Sequence[Whisker], *, title: str, width: int = 760) -> str:
    """An SVG element; zero is marked by a line, and lies inside where a limit is negative."""
    least = min((0.0, *(r.low for r in rows)))
    most = max((0.0, *(r.high for r in rows))) or 1e-9
    scale = (width - LABEL - VALUE) / (most - least)
    zero = LABEL - least * scale
    height = ROW * len(rows) + 6
    drawn = "".join(_row(row, number, zero, scale) for number, row in enumerate(rows))
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return (
        f'<svg {size} role="img" aria-label="{escape(title)}">'
        f'<line class="zero" x1="{zero:.1f}" x2="{zero:.1f}" y1="0" y2="{height}"></line>{drawn}</svg>'
    )


def _row(row: Whisker, number: int, zero: float, scale: float) -> str:
    y = number * ROW + 6
    middle = y + HEIGHT / 2
    x, end = sorted((zero, zero + row.value * scale))
    low, high = zero + row.low * scale, zero + row.high * scale
    kind = "strong" if row.strong else "plain"
    ends = "".join(f"M{at:.1f} {y + 3}v{HEIGHT - 6}" for at in (low, high))
    return (
        f'<text x="{LABEL - 10}" y="{middle + 4}" text-anchor="end">{escape(row.label)}</text>'
        f'<rect class="{kind}" x="{x:.1f}" y="{y}" width="{max(end - x, 1):.1f}" height="{HEIGHT}" rx="3"></rect>'
        f'<path class="whisker" d="M{low:.1f} {middle}H{high:.1f}{ends}"></path>'
        f'<text class="value" x="{max(high, end) + 8:.1f}" y="{middle + 4}">{escape(row.text)}</text>'
    )
