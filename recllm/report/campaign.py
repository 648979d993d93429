"""The pages of a campaign: its preview before anything leaves, and its report afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from recllm.campaigns.effect import Interval
from recllm.campaigns.measures import Arm, Outcome, Row
from recllm.report.campaign_words import words
from recllm.report.intervals import Whisker, interval_chart

MOST_ROWS = 12
"""Segments of one kind that a page draws."""


def preview_page(document: Mapping[str, Any]) -> str:
    """The page for `recllm.campaigns.overview.preview_document`. Every value is escaped."""
    said = words(document["locale"])
    return (
        _environment()
        .get_template("campaign_preview.html.j2")
        .render(**document, said=said, group_chart=_group_chart(document["group"], said))
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
            locale=locale,
            currency=currency,
            arms_chart=_arms_chart(found, said),
            ways=[(by, rows := _rows(found, by), _segment_chart(rows, said)) for by in ways],
            effect_chart=_effect_chart(found, said),
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
    return f"{at:%Y-%m-%d %H:%M} (UTC{at:%z})"


def _group_chart(group: Sequence[Mapping[str, Any]], said: Mapping[str, str]) -> Markup:
    rows = [
        Whisker(d["name"][:34], d["lift"], d["low"], d["high"], f"×{d['lift']:.2f} ({d['low']:.2f}–{d['high']:.2f})")
        for d in group
    ]
    return Markup(interval_chart(rows, title=said["apart"]))  # noqa: S704 - labels are escaped in intervals


def _arms_chart(found: Outcome, said: Mapping[str, str]) -> Markup:
    arms = ((said["reached"], found.reached), (said["held"], found.held), (said["rest"], found.rest))
    rows = [_arm_row(name, arm, strong=arm is found.reached) for name, arm in arms if arm is not None]
    return Markup(interval_chart(rows, title=said["converted"]))  # noqa: S704


def _arm_row(name: str, arm: Arm, *, strong: bool = False) -> Whisker:
    r = arm.rate
    told = f"{100 * r.value:.1f} % ({100 * r.low:.1f}–{100 * r.high:.1f})"
    return Whisker(name[:34], r.value, r.low, r.high, told, strong)


def _effect_chart(found: Outcome, said: Mapping[str, str]) -> Markup:
    rows = [_effect_row(said["all"], found.effect, strong=True)] if found.effect else []
    rows += [_effect_row(f"{said.get(r.by, r.by)}: {_named(r, said)}", r.effect) for r in found.segments if r.effect]
    return Markup(interval_chart(rows[: MOST_ROWS * 2], title=said["effect"]) if rows else "")  # noqa: S704


def _effect_row(name: str, effect: Interval, *, strong: bool = False) -> Whisker:
    told = f"{100 * effect.value:+.1f} ({100 * effect.low:+.1f} – {100 * effect.high:+.1f})"
    return Whisker(name[:34], effect.value, effect.low, effect.high, told, strong)


def _segment_chart(rows: Sequence[Row], said: Mapping[str, str]) -> Markup:
    return Markup(interval_chart([_arm_row(_named(r, said), r.reached) for r in rows], title=said["converted"]))  # noqa: S704


def _rows(found: Outcome, by: str) -> list[Row]:
    return [row for row in found.segments if row.by == by][:MOST_ROWS]


def _named(row: Row, said: Mapping[str, str]) -> str:
    return said.get(row.name, row.name)
