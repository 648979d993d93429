"""Charts as data, drawn by matplotlib as SVG for pages.

    line_chart(LineChart(title="day by day", x="day", y="share", lines=(Line(name="tea", points=[(0, 0.1)]),)))

An SVG stands inside a page: its text stays text in any script, it refers to nothing outside, says in words what it
shows, and is the same for equal data.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape, unescape
from io import StringIO
from typing import Any

COLOURS = ("#1769aa", "#e08a1e", "#2e8b57", "#b5467a", "#7a5fb5", "#4aa3b5", "#a0703c", "#8a9a2b")
INK, SOFT, GRID = "#1c2430", "#5b6675", "#dfe4ea"
COMPARED = "#9aa5b1"

FONT_SIZE = 12


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


_TITLE, _CURVE_HEIGHT, _LEGEND_ROW = 30, 280, 18


def line_chart(chart: LineChart) -> str:
    """Lines from zero as an SVG element whose texts are escaped."""
    height = _CURVE_HEIGHT + _TITLE + _LEGEND_ROW * len(chart.lines) + 12
    with _figure(chart.width, height) as figure:
        _draw_lines(chart, figure, height)
        aloud = (f"{chart.y} / {chart.x}", *(line.name for line in chart.lines))
        return _as_element(figure, f"{chart.title}: {'; '.join(aloud)}")


def without_styles(element: str) -> str:
    """The same SVG element with attributes in place of styles, for pages whose content policy forbids inline styles;
    a style sheet can change them."""

    def attributes(match: re.Match[str]) -> str:
        pairs = (declaration.split(":", 1) for declaration in unescape(match[1]).split(";") if declaration.strip())
        return "".join(f' {name.strip()}="{escape(value.strip())}"' for name, value in pairs)

    return re.sub(r' style="([^"]*)"', attributes, element)


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


@contextmanager
def _figure(width: float, height: float) -> Iterator[Any]:
    import matplotlib
    from matplotlib.figure import Figure

    style = {
        "font.family": "DejaVu Sans",
        "font.size": FONT_SIZE,
        "text.parse_math": False,  # a dollar sign is money
        "text.color": INK,
        "axes.edgecolor": COMPARED,
        "axes.labelcolor": SOFT,
        "svg.fonttype": "none",
        "svg.hashsalt": "recllm",
    }
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the reader's browser has them
        yield Figure(figsize=(width / 72, height / 72), dpi=72)


def _as_element(figure: Any, words: str) -> str:
    """matplotlib's document as an element of a page: without its head, addresses, ids and references. words: what is
    read aloud, the title and every text with its figure."""
    drawn = StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", drawn.getvalue(), flags=re.DOTALL)
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
