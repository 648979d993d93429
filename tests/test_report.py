from __future__ import annotations

import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import pytest

from recllm.base.charts import NEGATIVE, PLAIN, STRONG, Bar, BarChart, bar_chart, svg
from recllm.base.schema import Recommendation, Slate, SlateStatus
from recllm.doors.report.page import render_page
from recllm.doors.start.demo import offers_apart

EVIL = "<script>alert(1)</script>"


def record() -> dict[str, Any]:
    item = {
        "rank": 1, "item_id": "i1", "title": EVIL, "score": 1.5, "cosine": 0.4, "logit": 1.5, "mlp": 1.1,
        "probability": 0.25, "served_by": ["own_history"],
        "reasons": [{"evidence_id": "B:i1", "delta": 0.7, "text": "You bought it."}],
    }  # fmt: skip
    slate = {"user_id": "u", "request_id": "r", "items": [item], "degraded_reason": None, "notes": []}
    checks = [{"guarantee": "G1", "passed": True, "message": "", "span": ""}]
    copy = {
        "text": "Buy tea.\nNow.", "channel": "email", "locale": "en", "generator": "template", "checks": checks,
    }  # fmt: skip
    proposal = {
        "line": "Tea sings.", "generator": "small", "verdict": "person", "ungrounded": ["sings"],
        "rejected": [{"text": "Cures all", "failed": ["G3"]}],
    }  # fmt: skip
    values = {"ndcg@20": 0.3, "recall@20": 0.2, "hr@20": 0.8}
    evaluation = {
        "protocol": "cj-next28",
        "systems": {"recllm": {"ALL": values, "NEW": values}, "popular": {"ALL": values}},
        "differences": [
            {"peer": "popular", "slice": "ALL", "metric": "ndcg@20", "mean": 0.1, "low": 0.05, "high": 0.15}
        ],
    }
    return {
        "made_on": "2025-01-01", "data_note": "simulated", "guarantees": {"G1": "numbers"},
        "protocol_note": "28 days", "horizon_days": 28, "rows": 1234,
        "seconds": 12.3, "shop": {"users": 2, "items": 3, "events": 4},
        "loads": [
            {"table": "events", "file": "log.csv", "read": 3, "accepted": 1, "duplicates": 1, "quarantined": 1,
             "codes": {"E_NO_USER": 1}, "warnings": {}, "rows_per_second": 1000}
        ],
        "rejects": [{"file": "log.csv", "record_no": 2, "column": "user_id", "code": "E_NO_USER", "message": "nobody"}],
        "profile": {
            "label": "A", "user_id": "u1", "as_of": "2025-01-01", "basics": "", "purchases": "tea", "browsing": "",
            "favourite_categories": [{"name": "tea", "share": 0.5}], "n_baskets": 3, "basket_interval_days": "7.0",
            "days_since_last_purchase": "1.0", "price_band": "1 / 2 / 3",
        },
        "people": [{"label": "A", "user_id": "u", "about": "x", "slate": slate, "copy": copy, "proposal": proposal,
                    "offer": {"title": "Mint tea", "part_text": "new for you",
                              "reasons": [{"text": "You bought tea."}]},
                    }],
        "title": EVIL, "command": "recllm start --demo",
        "feedback": {"story": "gone", "rows": [{"rank": 1, "before": "a", "after": "b"}]},
        "evaluation": evaluation, "timings": [{"step": "read", "seconds": 1.0}], "provenance": {"seed": "0"},
    }  # fmt: skip


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_page_is_self_contained_and_escapes_everything() -> None:
    page = render_page(record())
    parsed = _Page()
    parsed.feed(page)
    assert "script" not in parsed.tags and not parsed.sources
    assert EVIL not in page and "&lt;script&gt;" in page
    assert "http" not in re.sub(r'http-equiv="', "", page)


def test_a_page_leaves_out_what_could_not_be_done() -> None:
    nothing = {"profile": None, "people": [], "feedback": None, "evaluation": None, "data_note": None}
    page = render_page(record() | nothing)
    assert "Measured against baselines" not in page and "their slates" not in page and "1. What was read" in page


def test_the_page_shows_what_the_record_holds() -> None:
    page = render_page(record())
    for words in (
        "1,234",
        "E_NO_USER",
        "You bought it.",
        "Buy tea.",
        "Cures all",
        "small proposed: “Tea sings.” (person: sings)",
        "Offered: Mint tea, new for you. You bought tea.",
        "gone",
        "cj-next28",
        "0.3000",
        "25.0 %",
    ):
        assert words in page, words


def spans(chart: str) -> dict[str, list[tuple[float, float]]]:
    """Colour -> (left, right) of the bars in it."""
    found: dict[str, list[tuple[float, float]]] = {}
    for corners, colour in re.findall(r'<path d="([^"]*z)\s*" clip-path="[^"]*" style="fill: (#\w+)"', chart):
        xs = [float(x) for x in re.findall(r"[ML] ([\d.]+) ", corners)]
        found.setdefault(colour, []).append((min(xs), max(xs)))
    return found


def test_bars_are_as_long_as_their_values_and_the_strong_one_is_marked() -> None:
    chart = bar_chart([Bar("a", 1.0), Bar("b", 0.5, strong=True), Bar("c<", 0.25)], title="t", width=480)
    bars = spans(chart)
    ((left, right),) = bars[STRONG]
    assert [round((b - a) / (right - left), 3) for a, b in bars[PLAIN]] == [2.0, 0.5]
    assert {a for a, _ in bars[PLAIN]} == {left} and max(b for _, b in bars[PLAIN]) > 400, (
        "the longest has all the room"
    )
    assert "c&lt;" in chart and "c<" not in chart


def test_negative_bars_point_the_other_way() -> None:
    bars = spans(bar_chart([Bar("up", 2.0), Bar("down", -1.0)], title="t", width=480))
    ((zero, up),), ((down, end),) = bars[PLAIN], bars[NEGATIVE]
    assert down < end == zero < up and up - zero == pytest.approx(2 * (end - down), rel=1e-4)


def test_a_chart_with_intervals_escapes_and_fits() -> None:
    bars = [Bar("<b>", 0.2, "20 %", low=-0.1, high=0.4), Bar("none", 0.0, low=0.0, high=0.0)]
    chart = svg(BarChart(title='"x"', bars=bars, width=760))
    assert "<b>" not in chart and "&lt;b&gt;" in chart and len(spans(chart)[PLAIN]) == 2
    assert all(0 <= float(x) <= 760 for x in re.findall(r"[ML] ([-\d.]+) ", chart))


def test_a_chart_is_the_same_again_stands_alone_and_can_be_read_aloud() -> None:
    chart = bar_chart([Bar("a $5 and $6 mug", 1.0, "1 of 2"), Bar("手机", 0.5)], title="what sells")
    assert chart == bar_chart([Bar("a $5 and $6 mug", 1.0, "1 of 2"), Bar("手机", 0.5)], title="what sells")
    assert not [word for word in ("http", "href", "<style", "<metadata", 'g id="') if word in chart]
    assert 'role="img"' in chart and 'aria-label="what sells: a $5 and $6 mug 1 of 2; 手机 0.500"' in chart
    assert ">a $5 and $6 mug</text>" in chart and ">手机</text>" in chart
    assert bar_chart([], title="nothing") == ""


def slate_of(user_id: str, *item_ids: str, status: SlateStatus = SlateStatus.PERSONAL) -> Slate:
    items = tuple(
        Recommendation(rank=i + 1, item_id=name, title=name, score=-i, cosine=None, logit=None, probability=None)
        for i, name in enumerate(item_ids)
    )
    as_of = datetime(2025, 1, 1, tzinfo=UTC)
    return Slate(user_id=user_id, request_id="r", as_of=as_of, model_version="m", items=items, status=status)


def test_people_of_the_page_are_offered_different_things_first() -> None:
    stranger = slate_of("stranger", "a", "d", status=SlateStatus.UNKNOWN_USER)
    slates = offers_apart([slate_of("heavy", "a", "b", "c"), slate_of("light", "b", "c"), stranger, slate_of("u", "c")])
    assert [[item.item_id for item in slate.items] for slate in slates] == [
        ["b", "a", "c"],
        ["c", "b"],
        ["a", "d"],  # chooses first: nothing else is known to suit
        ["c"],  # nothing else is left
    ]
