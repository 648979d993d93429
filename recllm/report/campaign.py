"""The pages of a campaign: its preview before anything leaves, and its report afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from recllm.audiences.targets import PATH
from recllm.campaigns.effect import Interval
from recllm.campaigns.measures import Arm, Outcome, Row
from recllm.report.campaign_words import words
from recllm.report.intervals import Whisker, interval_chart, write_intervals_png

LABEL = 30
"""Characters of a row's name that a chart has room for."""

MOST_ROWS = 12
"""Segments of one kind that a page draws."""


def preview_page(document: Mapping[str, Any]) -> str:
    """The page for `recllm.campaigns.overview.preview_document`. Every value is escaped."""
    said = words(document["locale"])
    return (
        _environment()
        .get_template("campaign_preview.html.j2")
        .render(**document, said=said, group_chart=_chart(_group_rows(document["group"]), said["apart"]))
    )


def report_page(found: Outcome, *, currency: str = "", locale: str = "en") -> str:
    """The page of a campaign's outcome."""
    said = words(locale)
    ways = list(dict.fromkeys(row.by for row in found.segments))
    return (
        _environment()
        .get_template("campaign_report.html.j2")
        .render(
            found=found,
            said=said,
            named=lambda row: _named(row, said),
            locale=locale,
            currency=currency,
            arms_chart=_chart(_arm_rows(found, said), said["converted"]),
            ways=[(by, rows := _rows(found, by), _segment_chart(rows, said)) for by in ways],
            effect_chart=_chart(_effect_rows(found, said), said["effect"]),
        )
    )


def write_preview(document: Mapping[str, Any], path: Path) -> None:
    """Writes the page whole or not at all."""
    _write(preview_page(document), path)


def write_report(found: Outcome, path: Path, *, currency: str = "", locale: str = "en") -> None:
    _write(report_page(found, currency=currency, locale=locale), path)


def _write(page: str, path: Path) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("recllm.report", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    made.filters["count"] = lambda n: f"{n:,}"
    made.filters["percent"] = lambda share: f"{100 * share:.1f} %"
    made.filters["moment"] = _moment
    return made


def _moment(when: str | datetime) -> str:
    """Minutes are enough for people; the zone is told."""
    at = datetime.fromisoformat(when) if isinstance(when, str) else when
    shift = at.utcoffset()
    zone = f"UTC{at.isoformat()[-6:]}" if shift else "UTC"
    return f"{at:%Y-%m-%d %H:%M} ({zone})"


def preview_png(document: Mapping[str, Any], path: Path) -> str | None:
    """What sets the audience apart from the rest, as a PNG; a remark where a character has no font."""
    said = words(document["locale"])
    return write_intervals_png([(said["apart"], _group_rows(document["group"]))], path)


def report_png(found: Outcome, path: Path, *, locale: str = "en") -> str | None:
    """Who converted among those reached, held out and the rest, the effect, and the segments, as a PNG."""
    said = words(locale)
    charts = [(said["converted"], _arm_rows(found, said)), (said["effect_png"], _effect_rows(found, said))]
    for by in dict.fromkeys(row.by for row in found.segments):
        rows = [_arm_row(_named(row, said), row.reached) for row in _rows(found, by)]
        charts.append((said.get(by, by), rows))
    return write_intervals_png(charts, path)


def _group_rows(group: Sequence[Mapping[str, Any]]) -> list[Whisker]:
    return [
        Whisker(
            d["name"].split(PATH)[-1][:LABEL],
            d["lift"],
            d["low"],
            d["high"],
            f"×{d['lift']:.2f} ({d['low']:.2f}–{d['high']:.2f})",
        )
        for d in group
    ]


def _arm_rows(found: Outcome, said: Mapping[str, str]) -> list[Whisker]:
    arms = ((said["reached"], found.reached), (said["held"], found.held), (said["rest"], found.rest))
    return [_arm_row(name, arm, strong=arm is found.reached) for name, arm in arms if arm is not None]


def _arm_row(name: str, arm: Arm, *, strong: bool = False) -> Whisker:
    r = arm.rate
    told = f"{100 * r.value:.1f} % ({100 * r.low:.1f}–{100 * r.high:.1f})"
    return Whisker(name[:LABEL], r.value, r.low, r.high, told, strong)


def _effect_rows(found: Outcome, said: Mapping[str, str]) -> list[Whisker]:
    rows = [_effect_row(said["all"], found.effect, strong=True)] if found.effect else []
    rows += [_effect_row(f"{said.get(r.by, r.by)}: {_named(r, said)}", r.effect) for r in found.segments if r.effect]
    return rows[: MOST_ROWS * 2]


def _effect_row(name: str, effect: Interval, *, strong: bool = False) -> Whisker:
    told = f"{100 * effect.value:+.1f} ({100 * effect.low:+.1f} – {100 * effect.high:+.1f})"
    return Whisker(name[:LABEL], effect.value, effect.low, effect.high, told, strong)


def _chart(rows: Sequence[Whisker], title: str) -> Markup:
    return Markup(interval_chart(rows, title=title) if rows else "")  # noqa: S704 - labels are escaped in intervals


def _segment_chart(rows: Sequence[Row], said: Mapping[str, str]) -> Markup:
    return _chart([_arm_row(_named(r, said), r.reached) for r in rows], said["converted"])


def _rows(found: Outcome, by: str) -> list[Row]:
    return [row for row in found.segments if row.by == by][:MOST_ROWS]


def _named(row: Row, said: Mapping[str, str]) -> str:
    return said["variant_no"].format(n=row.name) if row.by == "variant" else said.get(row.name, row.name)
