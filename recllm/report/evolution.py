"""How a person's interests moved: as a page, a PNG, or rows for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from recllm.charts import AreaChart, svg, write_png
from recllm.errors import UsageError
from recllm.profiles.evolution import UNKNOWN, WITHHELD, Evolution, Period
from recllm.report.page import picture, render, words

MOST_BANDS = 8


def evolution_chart(evolution: Evolution, locale: str = "en", *, name: str = "") -> AreaChart:
    """The heaviest interests of the periods as bands, largest at the bottom, the others together on top.

    name: what the person is called in the title.
    """
    labels, periods = words("evolution", locale), evolution.periods
    weight = {n: sum(p.shares.get(n, 0.0) for p in periods) for n in evolution.interests}
    interests = [n for n in sorted(weight, key=lambda n: -weight[n]) if weight[n] > 0]
    top = interests if len(interests) <= MOST_BANDS + 1 else interests[:MOST_BANDS]
    bands = [(_interest(n, labels), [p.shares.get(n, 0.0) for p in periods]) for n in top]
    if len(top) < len(interests):
        small = interests[len(top) :]
        bands.append((labels["others"], [sum(p.shares.get(n, 0.0) for n in small) for p in periods]))
    return AreaChart(
        title=f"{labels['title']}: {name}" if name else labels["title"],
        axis=f"{labels[evolution.what]}, {labels[evolution.by]}",
        columns=[period_name(p, evolution.by) for p in periods],
        bands=bands,
        others=labels["others"],
        line_name=labels["drift"],
        line=[p.drift for p in periods],
        dashed_name=labels["chance"],
        dashed=[p.drift_by_chance for p in periods],
    )


def period_name(period: Period, by: str) -> str:
    start = period.start
    if by == "quarter":
        return f"{start.year} Q{(start.month + 2) // 3}"
    return f"{start:%Y-%m}" if by == "month" else f"{start:%Y-%m-%d}"


def evolution_page(evolution: Evolution, *, name: str, locale: str = "en") -> str:
    """A self-contained page; `name` is what the person is called on it."""
    labels = words("evolution", locale)
    return render(
        "evolution.html.j2",
        evolution=evolution,
        name=name,
        labels=labels,
        locale=locale,
        interest=lambda n: _interest(n, labels),
        period_name=period_name,
        chart=picture(svg(evolution_chart(evolution, locale))) if evolution.periods else "",
    )


def evolution_rows(evolution: Evolution, locale: str = "en") -> tuple[list[str], list[list[object]]]:
    """Header and one row per period, for a terminal."""
    labels = words("evolution", locale)
    columns = ("period", "count", "drift", "chance", "novelty", evolution.what, "entered", "left")
    rows: list[list[object]] = []
    for p in evolution.periods:
        names = [", ".join(_interest(n, labels) for n in group) for group in (p.entered, p.left)]
        numbers = [None if v is None else f"{v:.3f}" for v in (p.drift, p.drift_by_chance, p.novelty)]
        largest = ", ".join(f"{_interest(n, labels)} {share:.0%}" for n, share in list(p.shares.items())[:3])
        rows.append([period_name(p, evolution.by), p.purchases, *numbers, largest, *names])
    return [labels[column] for column in columns], rows


def write_evolution_png(evolution: Evolution, path: Path, *, name: str, locale: str = "en") -> str | None:
    """Draws to a PNG file; a remark when no installed font has the picture's characters.

    Raises `UsageError` when there is nothing to draw.
    """
    if not evolution.periods:
        raise UsageError("there are no purchases and nothing was browsed, so there is nothing to draw")
    return write_png([evolution_chart(evolution, locale, name=name)], path)


def _interest(name: str, labels: Mapping[str, str]) -> str:
    """Names from the catalogue stay as they are; our own are said in the language."""
    return labels[name] if name in (WITHHELD, UNKNOWN) else name
