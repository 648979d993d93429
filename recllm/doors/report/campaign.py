"""The pages of a campaign: its preview before anything leaves, and its report afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from recllm.base.charts import Bar, BarChart, svg
from recllm.base.stats.intervals import ConfidenceInterval
from recllm.base.words.sentences import section
from recllm.doors.report.page import picture, render
from recllm.market.audiences.audience import aim
from recllm.market.campaigns.outcome import CampaignOutcome, GroupFigures, SegmentFigures
from recllm.shop.data.catalogue import CATEGORY_SEPARATOR

LABEL = 30
"""Characters of a row's name that a chart has room for."""

WIDTH = 760

RATE = "{:.1f} % ({:.1f}–{:.1f})"
POINTS = "{:+.1f} ({:+.1f} – {:+.1f})"
"""Value and limits of a share, and of a difference, at the end of its bar."""

MOST_ROWS = 12
"""Segments of one kind that a page draws."""


def preview_page(document: Mapping[str, Any]) -> str:
    """The page for `recllm.market.campaigns.open_campaign.preview_document`."""
    labels = _labels(document["locale"])
    chart = _group_chart(document["group"], labels)
    return render("campaign_preview.html.j2", **document, aim=aim, labels=labels, group_chart=picture(svg(chart)))


def report_page(outcome: CampaignOutcome, *, currency: str = "", locale: str = "en") -> str:
    """The page of a campaign's outcome."""
    labels = _labels(locale)
    segments = [(by, rows, picture(svg(chart))) for by, rows, chart in _segments(outcome, labels)]
    return render(
        "campaign_report.html.j2",
        outcome=outcome,
        aim=aim,
        labels=labels,
        segment_name=lambda segment: _segment_name(segment, labels),
        locale=locale,
        currency=currency,
        groups=_groups(outcome, labels),
        groups_chart=picture(svg(_groups_chart(outcome, labels))),
        segments=segments,
        effect_chart=picture(svg(_effect_chart(outcome, labels))),
    )


def _labels(locale: str) -> Mapping[str, str]:
    return {**section("page.campaign", locale), **section("left_out", locale)}


def _group_chart(group: Sequence[Mapping[str, Any]], labels: Mapping[str, str]) -> BarChart:
    bars = [
        Bar(
            d["name"].split(CATEGORY_SEPARATOR)[-1][:LABEL],
            d["lift"],
            f"×{d['lift']:.2f} ({d['low']:.2f}–{d['high']:.2f})",
            low=d["low"],
            high=d["high"],
        )
        for d in group
    ]
    return BarChart(title=labels["apart"], bars=bars, width=WIDTH)


def _groups(outcome: CampaignOutcome, labels: Mapping[str, str]) -> list[tuple[str, GroupFigures]]:
    groups = (
        (labels["reached"], outcome.reached),
        (labels["sent"], outcome.sent if outcome.not_delivered else None),
        (labels["held_out_people"], outcome.held_out),
        (labels["other_people"], outcome.other_people),
    )
    return [(name, figures) for name, figures in groups if figures is not None]


def _groups_chart(outcome: CampaignOutcome, labels: Mapping[str, str]) -> BarChart:
    bars = [_bar(name, f.rate, RATE, strong=f is outcome.reached) for name, f in _groups(outcome, labels)]
    return BarChart(title=labels[f"converted_{aim(outcome.converts)}"], bars=bars, width=WIDTH)


def _segments(
    outcome: CampaignOutcome, labels: Mapping[str, str]
) -> Iterator[tuple[str, list[SegmentFigures], BarChart]]:
    for by in dict.fromkeys(segment.by for segment in outcome.segments):
        rows = [segment for segment in outcome.segments if segment.by == by][:MOST_ROWS]
        bars = [_bar(_segment_name(row, labels), row.reached.rate, RATE) for row in rows]
        converted = labels[f"converted_{aim(outcome.converts)}"]
        yield by, rows, BarChart(title=f"{labels.get(by, by)}: {converted}", bars=bars, width=WIDTH)


def _effect_chart(outcome: CampaignOutcome, labels: Mapping[str, str]) -> BarChart:
    bars = [_bar(labels["all"], outcome.effect, POINTS, strong=True)] if outcome.effect else []
    for segment in outcome.segments:
        if segment.effect:
            name = f"{labels.get(segment.by, segment.by)}: {_segment_name(segment, labels)}"
            bars.append(_bar(name, segment.effect, POINTS))
    return BarChart(title=labels["effect"], bars=bars[: MOST_ROWS * 2], width=WIDTH)


def _bar(name: str, interval: ConfidenceInterval, form: str, *, strong: bool = False) -> Bar:
    text = form.format(100 * interval.value, 100 * interval.low, 100 * interval.high)
    return Bar(name[:LABEL], interval.value, text, strong, interval.low, interval.high)


def _segment_name(segment: SegmentFigures, labels: Mapping[str, str]) -> str:
    if segment.by == "variant":
        return labels["variant_no"].format(n=segment.name)
    return labels.get(segment.name, segment.name)
