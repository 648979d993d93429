"""Horizontal bars with their intervals, as inline SVG or as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from recllm.errors import MissingExtraError, UsageError

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


Chart = tuple[str, Sequence[Whisker]]
"""A title and its rows."""


def write_intervals_png(charts: Sequence[Chart], path: Path) -> str | None:
    """The charts below each other as a PNG; a remark when no installed font has all characters.

    Needs the extra plots. Raises `UsageError` when there is nothing to draw.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plots") from error
    drawn = [(title, list(rows)) for title, rows in charts if rows]
    if not drawn:
        raise UsageError("there is nothing to draw")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from recllm.report.evolution import font_for

    font, remark = font_for("".join(f"{title}{''.join(r.label + r.text for r in rows)}" for title, rows in drawn))
    heights = [len(rows) + 1.2 for _, rows in drawn]
    with matplotlib.rc_context({"font.family": [*font, "DejaVu Sans"], "font.size": 10}):
        figure = Figure(figsize=(9.6, 0.42 * sum(heights)), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        parts = figure.subplots(len(drawn), 1, height_ratios=heights, squeeze=False)[:, 0]
        for axes, (title, rows) in zip(parts, drawn, strict=True):
            _draw(axes, title, rows)
        figure.savefig(path, format="png")
    return remark


def _draw(axes: Any, title: str, rows: Sequence[Whisker]) -> None:
    places = range(len(rows))
    axes.barh(places, [r.value for r in rows], 0.55, color=["#7fb0d8" if r.strong else "#b9c6d3" for r in rows])
    for place, row in zip(places, rows, strict=True):
        axes.plot([row.low, row.high], [place, place], color="#1c2430", linewidth=1.4, marker="|", markersize=8)
        at = (max(row.high, row.value), place)
        axes.annotate(row.text, at, xytext=(8, -4), textcoords="offset points", color="#5b6675")
    axes.axvline(0, color="#5b6675", linewidth=0.8)
    axes.set_yticks(places, [r.label for r in rows])
    axes.invert_yaxis()
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_xticks([])
    axes.margins(x=0.25)
    axes.spines[["top", "right", "bottom", "left"]].set_visible(False)
