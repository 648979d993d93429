"""Reliability, lift, gain and Qini as pictures: one description, drawn as inline SVG or by matplotlib as PNG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from recllm.errors import MissingExtraError, UsageError
from recllm.propensity.curves import Quality
from recllm.propensity.uplift.qini import QiniCurve
from recllm.report.areas import COLOURS

SOFT = "#9aa5b1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """points: (x, y). whiskers: (low, high) around each point's y. dashed: a line to compare with."""

    name: str
    points: Sequence[tuple[float, float]]
    whiskers: Sequence[tuple[float, float]] = ()
    dashed: bool = False
    marked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """percent: which axes are told as shares."""

    title: str
    x: str
    y: str
    lines: tuple[Line, ...]
    percent: str = "xy"

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """left, right, bottom, top of everything drawn, from 0 at the latest."""
        xs = [x for line in self.lines for x, _ in line.points]
        ys = [y for line in self.lines for _, y in line.points]
        ys += [y for line in self.lines for pair in line.whiskers for y in pair]
        return min(0.0, *xs), max(xs), min(0.0, *ys), max(ys) or 1.0


WORDS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "reliability": "Reliability",
        "lift": "Lift",
        "gain": "Gain",
        "qini": "Qini",
        "expected": "predicted chance",
        "seen": "really happened",
        "people": "share of people, highest chance first",
        "times": "times the average",
        "found": "share of all outcomes",
        "model": "predicted",
        "perfect": "perfectly calibrated",
        "chance": "by chance",
        "treated": "share treated, highest uplift first",
        "extra": "extra outcomes per person",
    },
    "zh": {
        "reliability": "可靠性",
        "lift": "提升度",
        "gain": "累计增益",
        "qini": "Qini 曲线",
        "expected": "预测概率",
        "seen": "实际发生",
        "people": "人群比例（按概率由高到低）",
        "times": "相对平均的倍数",
        "found": "占全部结果的比例",
        "model": "预测",
        "perfect": "完全校准",
        "chance": "随机",
        "treated": "受干预比例（按增量由高到低）",
        "extra": "人均新增结果",
    },
}


def words(locale: str) -> Mapping[str, str]:
    """The words of a language; English where there are none."""
    return WORDS.get(locale.split("-")[0].split("_")[0], WORDS["en"])


def quality_charts(quality: Quality, locale: str = "en") -> tuple[Chart, ...]:
    """Reliability, lift and gain of held-out people; without both outcomes only the first."""
    said = words(locale)
    top = max([b.high for b in quality.bins] + [b.expected for b in quality.bins], default=1.0)
    seen = Line(
        name=said["seen"],
        points=[(b.expected, b.seen) for b in quality.bins],
        whiskers=[(b.low, b.high) for b in quality.bins],
        marked=True,
    )
    perfect = Line(name=said["perfect"], points=[(0, 0), (top, top)], dashed=True)
    charts = [Chart(title=said["reliability"], x=said["expected"], y=said["seen"], lines=(perfect, seen))]
    if quality.auc is None:
        return tuple(charts)
    lift = Line(name=said["model"], points=list(zip(quality.fractions, quality.lifts, strict=True)))
    flat = Line(name=said["chance"], points=[(0, 1), (1, 1)], dashed=True)
    gain = Line(name=said["model"], points=[(0, 0), *zip(quality.fractions, quality.gains, strict=True)])
    even = Line(name=said["chance"], points=[(0, 0), (1, 1)], dashed=True)
    charts.append(Chart(title=said["lift"], x=said["people"], y=said["times"], lines=(flat, lift), percent="x"))
    charts.append(Chart(title=said["gain"], x=said["people"], y=said["found"], lines=(even, gain)))
    return tuple(charts)


def qini_chart(curves: Mapping[str, QiniCurve], locale: str = "en") -> Chart:
    """One line per name, and what treating people by lot would bring. Raises `UsageError` for no curve."""
    if not curves:
        raise UsageError("a Qini chart needs at least one curve")
    said = words(locale)
    effect = next(iter(curves.values())).effect
    lines = [Line(name=said["chance"], points=[(0, 0), (1, effect)], dashed=True)]
    lines += [Line(name=n, points=list(zip(c.shares, c.gains, strict=True))) for n, c in curves.items()]
    return Chart(title=said["qini"], x=said["treated"], y=said["extra"], lines=tuple(lines), percent="x")


# --- SVG -------------------------------------------------------------------------------------------------------------

_WIDTH, _HEIGHT = 420, 340
_LEFT, _RIGHT, _TOP, _FOOT, _ROW = 62, 28, 34, 66, 18


def chart_svg(chart: Chart) -> str:
    """An SVG element; everything that is not a number is escaped."""
    legend, below = _legend(chart)
    inside = "".join([*_frame(chart), *(_drawn(chart, n) for n in range(len(chart.lines))), *legend])
    height = _HEIGHT + below
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
        f'height="{height}" role="img" aria-label="{escape(chart.title)}">{inside}</svg>'
    )


def _place(chart: Chart, x: float, y: float) -> tuple[float, float]:
    left, right, bottom, top = chart.bounds
    across = (x - left) / ((right - left) or 1)
    up = (y - bottom) / ((top - bottom) or 1)
    return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _FOOT - up * (_HEIGHT - _TOP - _FOOT)


def _frame(chart: Chart) -> list[str]:
    left, right, bottom, top = chart.bounds
    parts = [f'<text x="{_LEFT}" y="16" font-weight="600">{escape(chart.title)}</text>']
    for y in _ticks(bottom, top):
        up, edge = _place(chart, left, y)[1], _WIDTH - _RIGHT
        parts.append(f'<line x1="{_LEFT}" x2="{edge}" y1="{up:.1f}" y2="{up:.1f}" stroke="#dfe4ea"></line>')
        parts.append(_text(_LEFT - 6, up + 4, _number(y, "y" in chart.percent), "end"))
    for x in _ticks(left, right):
        across = _place(chart, x, bottom)[0]
        parts.append(_text(across, _HEIGHT - _FOOT + 16, _number(x, "x" in chart.percent), "middle"))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - _FOOT + 34, chart.x, "middle"))
    parts.append(_text(_WIDTH - _RIGHT, 16, chart.y, "end"))
    return parts


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from low to high, about five."""
    rough = max((high - low) / 5, 1e-9)
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _legend(chart: Chart) -> tuple[list[str], int]:
    """The lines' names in as many rows as they need, and the height of the rows after the first."""
    parts, x, y = [], float(_LEFT), _HEIGHT - 14
    for number, line in enumerate(chart.lines):
        wide = 44 + sum(13 if ord(letter) > 255 else 7 for letter in line.name)
        if x > _LEFT and x + wide > _WIDTH:
            x, y = float(_LEFT), y + _ROW
        parts.append(f'<line x1="{x:.1f}" x2="{x + 18:.1f}" y1="{y}" y2="{y}" {_stroke(chart, number)}></line>')
        parts.append(_text(x + 24, y + 4, line.name, "start"))
        x += wide
    return parts, y - (_HEIGHT - 14)


def _drawn(chart: Chart, number: int) -> str:
    line = chart.lines[number]
    placed = [_place(chart, x, y) for x, y in line.points]
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    out = f'<polyline points="{joined}" fill="none" {_stroke(chart, number)}></polyline>'
    fill = colour(chart, number)
    for (x, _), (low, high) in zip(line.points, line.whiskers, strict=False):
        (across, down), (_, up) = _place(chart, x, low), _place(chart, x, high)
        out += f'<line x1="{across:.1f}" x2="{across:.1f}" y1="{down:.1f}" y2="{up:.1f}" stroke="{fill}"></line>'
    dots = placed if line.marked else []
    return out + "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{fill}"></circle>' for x, y in dots)


def _stroke(chart: Chart, number: int) -> str:
    dashes = ' stroke-dasharray="5 4"' if chart.lines[number].dashed else ""
    return f'stroke="{colour(chart, number)}" stroke-width="2"{dashes}'


def colour(chart: Chart, number: int) -> str:
    """Grey for what is compared with, and the house's colours for the others in order."""
    if chart.lines[number].dashed:
        return SOFT
    return COLOURS[sum(not line.dashed for line in chart.lines[:number]) % len(COLOURS)]


def _number(value: float, percent: bool) -> str:
    return f"{100 * value:.0f} %" if percent else f"{value:.3g}"


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class="value" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


# --- PNG -------------------------------------------------------------------------------------------------------------


def write_charts_png(charts: Sequence[Chart], path: Path) -> str | None:
    """All charts beside each other in one PNG; a remark when no installed font has its characters.

    Needs the extra plots. Raises `UsageError` for no chart.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plots") from error
    if not charts:
        raise UsageError("there is nothing to draw")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from recllm.report.evolution import font_for

    font, remark = font_for("".join(f"{c.title}{c.x}{c.y}{''.join(line.name for line in c.lines)}" for c in charts))
    with matplotlib.rc_context({"font.family": [*font, "DejaVu Sans"], "font.size": 10}):
        figure = Figure(figsize=(5.2 * len(charts), 4.4), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        for chart, axes in zip(charts, figure.subplots(1, len(charts), squeeze=False)[0], strict=True):
            _plot(axes, chart)
        figure.savefig(path, format="png")
    return remark


def _plot(axes: Any, chart: Chart) -> None:
    from matplotlib.ticker import PercentFormatter

    for number, line in enumerate(chart.lines):
        xs, ys = zip(*line.points, strict=True)
        style = {"color": colour(chart, number), "linestyle": "--" if line.dashed else "-", "label": line.name}
        axes.plot(xs, ys, marker="o" if line.marked else "", **style)
        if line.whiskers:
            low, high = zip(*line.whiskers, strict=True)
            axes.vlines(xs, low, high, color=colour(chart, number), linewidth=1)
    axes.set(title=chart.title, xlabel=chart.x, ylabel=chart.y)
    for axis, name in ((axes.xaxis, "x"), (axes.yaxis, "y")):
        if name in chart.percent:
            axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(color="#dfe4ea", linewidth=0.6)
    axes.legend(frameon=False)
