"""Shares over time as stacked areas with a line below, as inline SVG: text stays text, in any script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#1769aa", "#e08a1e", "#2e8b57", "#b5467a", "#7a5fb5", "#4aa3b5", "#a0703c", "#8a9a2b")
REST = "#d5dbe2"

_LEFT, _RIGHT, _TOP = 52, 250, 10
_AREA, _GAP, _LINE, _FOOT = 280, 34, 96, 26
_SAME = 15.0
"""Least distance between two labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Areas:
    """columns: one name per time. bands: name and one share per time, lowest first; each time's sum to 1 or are all 0.

    line, dashed: one value per time, None where there is none; `line_name` and `dashed_name` say what they are.
    """

    title: str
    columns: Sequence[str]
    bands: Sequence[tuple[str, Sequence[float]]]
    rest: str
    line_name: str
    line: Sequence[float | None]
    dashed_name: str
    dashed: Sequence[float | None]


def colour(areas: Areas, number: int) -> str:
    return REST if areas.bands[number][0] == areas.rest else COLOURS[number % len(COLOURS)]


def stacked(areas: Areas, *, width: int = 920) -> str:
    """An SVG element; everything that is not a number is escaped."""
    height = _TOP + _AREA + _GAP + _LINE + _FOOT
    xs = _places(len(areas.columns), width)
    parts = [*_areas(areas, xs), *_line(areas, xs), *_foot(areas, xs, height)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(areas.title)}">{"".join(parts)}</svg>'
    )


def _places(n: int, width: int) -> list[float]:
    span = width - _LEFT - _RIGHT
    return [_LEFT + (span * i / (n - 1) if n > 1 else span / 2) for i in range(n)]


def _areas(areas: Areas, xs: Sequence[float]) -> list[str]:
    parts = [
        _text(_LEFT - 8, _TOP + _AREA * (1 - share) + 4, f"{share:.0%}", anchor="end", soft=True)
        + f'<line x1="{_LEFT}" x2="{xs[-1]:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dfe4ea"></line>'
        for share in (0, 0.25, 0.5, 0.75, 1)
        for y in [_TOP + _AREA * (1 - share)]
    ]
    floor = [0.0] * len(xs)
    middles = []
    for number, (_, shares) in enumerate(areas.bands):
        ceiling = [a + b for a, b in zip(floor, shares, strict=True)]
        upper = [f"{x:.1f},{_TOP + _AREA * (1 - y):.1f}" for x, y in zip(xs, ceiling, strict=True)]
        lower = [f"{x:.1f},{_TOP + _AREA * (1 - y):.1f}" for x, y in zip(xs, floor, strict=True)]
        fill = colour(areas, number)
        parts.append(f'<polygon points="{" ".join(upper + lower[::-1])}" fill="{fill}" fill-opacity=".85"></polygon>')
        middles.append(_TOP + _AREA * (1 - (floor[-1] + ceiling[-1]) / 2))
        floor = ceiling
    return parts + _labels(areas, middles, xs[-1])


def _labels(areas: Areas, middles: Sequence[float], x: float) -> list[str]:
    """Each band's name beside its last height, moved apart where they would touch."""
    parts = []
    for number, y in enumerate(apart(middles, _SAME, _TOP + 6, _TOP + _AREA)):
        name, shares = areas.bands[number]
        fill = colour(areas, number)
        parts.append(
            f'<line x1="{x:.1f}" y1="{middles[number]:.1f}" x2="{x + 16:.1f}" y2="{y:.1f}" stroke="#9aa5b1"></line>'
            f'<rect x="{x + 18:.1f}" y="{y - 5:.1f}" width="10" height="10" rx="2" fill="{fill}"></rect>'
            + _text(x + 33, y + 4, f"{short(name)} {shares[-1]:.0%}")
        )
    return parts


def apart(places: Sequence[float], least: float, low: float, high: float) -> list[float]:
    """The places, in their order from high to low, moved by little so that neighbours are `least` apart."""
    out = list(places)
    for i in range(1, len(out)):  # bands are listed from the bottom, so y falls
        out[i] = min(out[i], out[i - 1] - least)
    if out and out[-1] < low:
        out[-1] = low
        for i in range(len(out) - 2, -1, -1):
            out[i] = min(high, max(out[i], out[i + 1] + least))
    return out


def _line(areas: Areas, xs: Sequence[float]) -> list[str]:
    top = _TOP + _AREA + _GAP
    known = [v for v in (*areas.line, *areas.dashed) if v is not None]
    most = max(known, default=0.0) * 1.1 or 1.0
    parts = [
        f'<line x1="{_LEFT}" x2="{xs[-1]:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dfe4ea"></line>'
        + _text(_LEFT - 8, y + 4, f"{value:.2f}", anchor="end", soft=True)
        for value in (0.0, most / 2, most)
        for y in [top + _LINE * (1 - value / most)]
    ]
    for values, look, radius in (
        (areas.dashed, 'stroke="#9aa5b1" stroke-width="1.5" stroke-dasharray="5 4"', 0),
        (areas.line, 'stroke="#b3261e" stroke-width="2"', 3),
    ):
        points = [(x, top + _LINE * (1 - v / most)) for x, v in zip(xs, values, strict=True) if v is not None]
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{joined}" fill="none" {look}></polyline>')
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="#b3261e"></circle>' for x, y in points if radius
        ]
    x = xs[-1] + 18
    parts.append(
        f'<line x1="{x}" x2="{x + 20}" y1="{top + 30}" y2="{top + 30}" stroke="#b3261e" stroke-width="2"></line>'
    )
    parts.append(_text(x + 26, top + 34, areas.line_name))
    parts.append(
        f'<line x1="{x}" x2="{x + 20}" y1="{top + 52}" y2="{top + 52}" stroke="#9aa5b1" stroke-width="1.5" '
        'stroke-dasharray="5 4"></line>'
    )
    return [*parts, _text(x + 26, top + 56, areas.dashed_name)]


def _foot(areas: Areas, xs: Sequence[float], height: int) -> list[str]:
    room = (xs[1] - xs[0]) if len(xs) > 1 else 100.0
    longest = max((len(c) for c in areas.columns), default=1)
    step = max(1, -(-int(longest * 7 + 10) // max(int(room), 1)))
    last = len(xs) - 1
    shown = [i for i in range(len(xs)) if (last - i) % step == 0]
    return [_text(xs[i], height - 8, areas.columns[i], anchor="middle", soft=True) for i in shown]


def short(name: str) -> str:
    """A name cut to what stands beside a picture."""
    return name if len(name) <= 24 else name[:23] + "…"


def _text(x: float, y: float, text: str, *, anchor: str = "start", soft: bool = False) -> str:
    kind = ' class="value"' if soft else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{escape(text)}</text>'
