"""Charts as data, drawn by matplotlib as SVG for pages.

    svg(BarChart(title="share", bars=[Bar("tea", 0.4), Bar("coffee", 0.6, strong=True)]))

An SVG stands inside a page: its text stays text in any script, it refers to nothing outside, says in words what it
shows, and is the same for equal data. Space for text is counted from its characters and not measured, so that a host
without a Chinese font draws the same picture.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape, unescape
from io import StringIO
from typing import Any

COLOURS = ("#1769aa", "#e08a1e", "#2e8b57", "#b5467a", "#7a5fb5", "#4aa3b5", "#a0703c", "#8a9a2b")
INK, SOFT, GRID = "#1c2430", "#5b6675", "#dfe4ea"
PLAIN, NEGATIVE, STRONG, STRONG_PALE = "#b9c6d3", "#d9a39c", "#1769aa", "#7fb0d8"
COMPARED = "#9aa5b1"

FONT_SIZE = 12
CHARACTER = 6.6
"""Width of a narrow character, in units of the SVG; a Chinese one takes two."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of a bar chart."""

    label: str
    value: float
    text: str = ""
    """Text at its end; the value when empty."""
    strong: bool = False
    """Whether the chart is about this row."""
    low: float | None = None
    """Limits of an interval around the value."""
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BarChart:
    """Horizontal bars from zero, one below the other."""

    title: str
    bars: Sequence[Bar]
    width: int = 640


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    name: str
    points: Sequence[tuple[float, float]]
    intervals: Sequence[tuple[float, float]] = ()
    """(low, high) around each point's y."""
    dashed: bool = False
    """A line to compare with."""
    marked: bool = False
    """Whether each point is a dot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineChart:
    title: str
    x: str
    y: str
    lines: tuple[Line, ...]
    percent: str = "xy"
    """Axes whose values are shares."""
    width: int = 330

    def colour(self, number: int) -> str:
        """Grey for what is compared with, and the house's colours for the other lines in order."""
        if self.lines[number].dashed:
            return COMPARED
        return COLOURS[sum(not line.dashed for line in self.lines[:number]) % len(COLOURS)]


Chart = BarChart | LineChart


def bar_chart(bars: Sequence[Bar], *, title: str, width: int = 640) -> str:
    """Bars as an SVG element, see `svg`."""
    return svg(BarChart(title=title, bars=bars, width=width))


def svg(chart: Chart) -> str:
    """An SVG element whose texts are escaped; "" for bars without any."""
    if isinstance(chart, BarChart) and not chart.bars:
        return ""
    from matplotlib.figure import Figure

    height = _height(chart)
    with _style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the reader's browser has them
        figure = Figure(figsize=(chart.width / 72, height / 72), dpi=72)
        _draw(chart, figure, height)
        drawn = StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _as_element(drawn.getvalue(), _in_words(chart))


def without_styles(element: str) -> str:
    """The same SVG element with attributes in place of styles, for pages whose content policy forbids inline styles;
    a style sheet can change them."""

    def attributes(match: re.Match[str]) -> str:
        pairs = (declaration.split(":", 1) for declaration in unescape(match[1]).split(";") if declaration.strip())
        return "".join(f' {name.strip()}="{escape(value.strip())}"' for name, value in pairs)

    return re.sub(r' style="([^"]*)"', attributes, element)


_ROW, _TITLE, _CURVE_HEIGHT, _LEGEND_ROW = 28, 30, 280, 18


def _height(chart: Chart) -> int:
    if isinstance(chart, BarChart):
        return _ROW * len(chart.bars) + 4
    return _CURVE_HEIGHT + _TITLE + _LEGEND_ROW * len(chart.lines) + 12


def _draw(chart: Chart, figure: Any, height: float) -> None:
    if isinstance(chart, BarChart):
        _draw_bars(chart, figure, height)
    else:
        _draw_lines(chart, figure, height)


def _draw_bars(chart: BarChart, figure: Any, height: float) -> None:
    texts = [bar.text or f"{bar.value:.3f}" for bar in chart.bars]
    left = min(max(_width(bar.label) for bar in chart.bars) + 16, chart.width / 2)
    right = max(map(_width, texts)) + 14
    axes = _axes(figure, chart.width, height, (left, 0, right, 0))
    limits = [v for bar in chart.bars for v in (0.0, bar.value, bar.low, bar.high) if v is not None]
    low, high = min(limits), max(limits)
    rows = range(len(chart.bars))
    pale = any(bar.low is not None for bar in chart.bars)  # the interval is drawn over the bar
    colours = [
        (STRONG_PALE if pale else STRONG) if bar.strong else NEGATIVE if bar.value < 0 and not pale else PLAIN
        for bar in chart.bars
    ]
    axes.barh(rows, [bar.value for bar in chart.bars], height=0.68, color=colours)
    for row, bar, text in zip(rows, chart.bars, texts, strict=True):
        end = max(bar.value, bar.high if bar.high is not None else 0.0, 0.0)
        if bar.low is not None and bar.high is not None:
            for xs, ys in (
                ((bar.low, bar.high), (row, row)),
                ((bar.low, bar.low), (row - 0.2, row + 0.2)),
                ((bar.high, bar.high), (row - 0.2, row + 0.2)),
            ):
                axes.plot(xs, ys, color=INK, linewidth=1.4, clip_on=False)
        axes.annotate(text, (end, row), xytext=(6, 0), textcoords="offset points", va="center", color=SOFT)
    if low < 0:
        axes.axvline(0, color=SOFT, linewidth=0.8)
    axes.set(xlim=(low, high if high > low else low + 1), ylim=(len(chart.bars) - 0.5, -0.5), xticks=[])
    axes.set_yticks(rows, [_fitting(bar.label, left - 16) for bar in chart.bars])
    axes.spines[:].set_visible(False)


def _draw_lines(chart: LineChart, figure: Any, height: float) -> None:
    from matplotlib.ticker import MaxNLocator

    legend = _LEGEND_ROW * len(chart.lines)
    axes = _axes(figure, chart.width, height, (74, _TITLE, 26, legend + 52))
    for number, line in enumerate(chart.lines):
        xs, ys = zip(*line.points, strict=True)
        colour, dash = chart.colour(number), "--" if line.dashed else "-"
        axes.plot(xs, ys, color=colour, linestyle=dash, linewidth=2, label=line.name)
        if line.marked:
            axes.plot(xs, ys, color=colour, linestyle="", marker="o", markersize=6)
        for x, interval in zip(xs, line.intervals, strict=False):
            axes.plot((x, x), interval, color=colour, linewidth=1)
    values = [
        v for line in chart.lines for v in [y for _, y in line.points] + [y for pair in line.intervals for y in pair]
    ]
    axes.set(xlabel=chart.x, ylabel=chart.y, xlim=(0, None), ylim=(min(0.0, *values), None))
    axes.set_title(chart.title, loc="left", fontweight="bold")
    for axis, name in ((axes.xaxis, "x"), (axes.yaxis, "y")):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        if name in chart.percent:
            axis.set_major_formatter(lambda share, _: f"{100 * share:.3g} %")
    axes.grid(color=GRID)
    axes.spines[["top", "right"]].set_visible(False)
    below = -46 / (height - legend - 52 - _TITLE)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, below), borderaxespad=0)


def _axes(figure: Any, width: float, height: float, margins: tuple[float, float, float, float]) -> Any:
    """Axes with margins (left, top, right, bottom), in units of the SVG."""
    left, top, right, bottom = margins
    size = ((width - left - right) / width, (height - top - bottom) / height)
    axes = figure.add_axes((left / width, bottom / height, *size))
    axes.tick_params(bottom=False, left=False, labelcolor=SOFT)
    return axes


def _style() -> Any:
    import matplotlib

    return matplotlib.rc_context(
        {
            "font.family": "DejaVu Sans",
            "font.size": FONT_SIZE,
            "text.parse_math": False,  # a dollar sign is money
            "text.color": INK,
            "axes.edgecolor": COMPARED,
            "axes.labelcolor": SOFT,
            "svg.fonttype": "none",
            "svg.hashsalt": "recllm",
        }
    )


def _width(text: str) -> float:
    return CHARACTER * sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _fitting(text: str, room: float) -> str:
    if _width(text) > room:
        while text and _width(f"{text}…") > room:
            text = text[:-1]
        text = f"{text}…"
    return text


def _in_words(chart: Chart) -> str:
    """What is read aloud: the title, and every text with its figure."""
    if isinstance(chart, BarChart):
        parts = [f"{bar.label} {bar.text or f'{bar.value:.3f}'}" for bar in chart.bars]
    else:
        parts = [f"{chart.y} / {chart.x}", *(line.name for line in chart.lines)]
    return f"{chart.title}: {'; '.join(parts)}"


def _as_element(document: str, words: str) -> str:
    """matplotlib's document as an element of a page: without its head, addresses, ids and references."""
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", document, flags=re.DOTALL)
    shapes = dict(re.findall(r'<path id="(m[0-9a-f]+)" (d="[^"]*")', body))
    body = re.sub(
        r'<use xlink:href="#(m[0-9a-f]+)" x="([^"]*)" y="([^"]*)" style="([^"]*)"/>',
        lambda m: f'<path {shapes[m[1]]} transform="translate({m[2]} {m[3]})" style="{m[4]}"/>',
        body,
    )
    body = re.sub(r'<defs>\s*<path id="m[0-9a-f]+"[^>]*/>\s*</defs>', "", body)
    body = re.sub(r'(?<=<g) id="[^"]*"| transform="rotate\(-0 [^"]*"|\n(?=L)', "", body)
    body = body.replace("'DejaVu Sans'", "system-ui, 'Noto Sans', 'Noto Sans CJK SC', 'Microsoft YaHei', sans-serif")
    size, inside = re.search(r'<svg[^>]*viewBox="0 0 ([^"]*)"[^>]*>(.*)</svg>', body, flags=re.DOTALL).groups()  # type: ignore[union-attr]
    width, height = size.split()
    head = f'<svg viewBox="0 0 {size}" width="{width}" height="{height}" role="img" aria-label="{escape(words)}">'
    return head + re.sub(r">\s+<", "><", inside).strip() + "</svg>"
