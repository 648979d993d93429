"""Charts as data, drawn by matplotlib as SVG for pages.

    bar_chart([Bar("tea", 0.4), Bar("coffee", 0.6, strong=True)], title="share")

An SVG stands inside a page: its text stays text in any script, it refers to nothing outside, says in words what it
shows, and is the same for equal data. Space for text is counted from its characters and not measured, so that a host
without a Chinese font draws the same picture.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from io import StringIO
from typing import Any

INK, SOFT = "#1c2430", "#5b6675"
PLAIN, STRONG = "#b9c6d3", "#1769aa"
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


_ROW = 28


def bar_chart(bars: Sequence[Bar], *, title: str, width: int = 640) -> str:
    """Horizontal bars from zero, one below the other, as an SVG element whose texts are escaped; "" for none."""
    if not bars:
        return ""
    height = _ROW * len(bars) + 4
    with _figure(width, height) as figure:
        texts = _draw_bars(bars, figure, width, height)
        aloud = (f"{bar.label} {text}" for bar, text in zip(bars, texts, strict=True))
        return _as_element(figure, f"{title}: {'; '.join(aloud)}")


def _draw_bars(bars: Sequence[Bar], figure: Any, width: float, height: float) -> list[str]:
    """The texts at the ends of the bars, whose values are 0 or more."""
    texts = [bar.text or f"{bar.value:.3f}" for bar in bars]
    left = min(max(_width(bar.label) for bar in bars) + 16, width / 2)
    axes = figure.add_axes((left / width, 0, (width - left - max(map(_width, texts)) - 14) / width, 1))
    axes.tick_params(bottom=False, left=False, labelcolor=SOFT)
    rows, values = range(len(bars)), [bar.value for bar in bars]
    axes.barh(rows, values, height=0.68, color=[STRONG if bar.strong else PLAIN for bar in bars])
    for row, value, text in zip(rows, values, texts, strict=True):
        axes.annotate(text, (value, row), xytext=(6, 0), textcoords="offset points", va="center", color=SOFT)
    axes.set(xlim=(0, max(values) or 1), ylim=(len(bars) - 0.5, -0.5), xticks=[])
    axes.set_yticks(rows, [_fitting(bar.label, left - 16) for bar in bars])
    axes.spines[:].set_visible(False)
    return texts


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


def _width(text: str) -> float:
    return CHARACTER * sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _fitting(text: str, room: float) -> str:
    if _width(text) > room:
        while text and _width(f"{text}…") > room:
            text = text[:-1]
        text = f"{text}…"
    return text


def _as_element(figure: Any, words: str) -> str:
    """matplotlib's document as an element of a page: without its head, addresses, ids and references. words: what is
    read aloud, the title and every text with its figure."""
    drawn = StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", drawn.getvalue(), flags=re.DOTALL)
    body = re.sub(r'(?<=<g) id="[^"]*"| transform="rotate\(-0 [^"]*"|\n(?=L)', "", body)
    body = body.replace("'DejaVu Sans'", "system-ui, 'Noto Sans', 'Noto Sans CJK SC', 'Microsoft YaHei', sans-serif")
    size, inside = re.search(r'<svg[^>]*viewBox="0 0 ([^"]*)"[^>]*>(.*)</svg>', body, flags=re.DOTALL).groups()  # type: ignore[union-attr]
    width, height = size.split()
    head = f'<svg viewBox="0 0 {size}" width="{width}" height="{height}" role="img" aria-label="{escape(words)}">'
    return head + re.sub(r">\s+<", "><", inside).strip() + "</svg>"
