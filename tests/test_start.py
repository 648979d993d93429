"""The page of `recllm start` and its lines: in both languages, of every domain, for whoever sells."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import Command
from exports import first_export

from recllm.base.errors import UsageError
from recllm.doors.start.page import start_page, terminal_lines, verdict, words_of
from recllm.doors.start.shop import run_start

EVIL = "<script>alert(1)</script>"
LOCALES = ("en", "zh")


def record(locale: str = "en") -> dict[str, Any]:
    item = {"rank": 1, "title": EVIL, "price": 9.5, "probability": 0.25, "reasons": [{"text": "You bought it."}]}
    slate = {"items": [item], "degraded_reason": EVIL, "notes": [{"text": "a note"}]}
    copy = {
        "text": "Buy tea.\nNow.",
        "generator": "template",
        "checks": [{"guarantee": "G1", "passed": True}, {"guarantee": "G2", "passed": True}],
    }
    person = {"label": "A", "about": "x", "slate": slate, "copy": copy, "offer": item}
    values = {"ndcg@20": 0.3, "recall@20": 0.2, "hr@20": 0.8}
    gap = {"peer": "popular", "slice": "ALL", "metric": "ndcg@20", "mean": 0.1, "low": 0.05, "high": 0.15}
    return {
        "note": EVIL, "locale": locale, "currency": "EUR", "timezone": "Europe/Berlin", "command": "recllm start",
        "workspace": "shop", "report": "shop/report.html", "seconds": 12.4, "made_at": "2025-03-01T10:00:00+00:00",
        "horizon_days": 28, "problems": {"copy": EVIL},
        "shop": {"users": 1234, "items": 30, "events": 4, "days": 20,
                 "first": "2025-01-01T00:00:00+00:00", "last": "2025-01-20T00:00:00+00:00"},
        "files": [{"file": EVIL, "title": EVIL, "caveats": [EVIL], "gives_nothing": None, "encoding": "cp1252"}],
        "loads": [{"table": "events", "file": "log.csv", "read": 3, "accepted": 1, "duplicates": 1, "quarantined": 1,
                   "codes": {"E_NO_USER": 1}}],
        "rejects": [{"file": "log.csv", "record_no": 2, "column": "user_id", "code": "E_NO_USER", "message": EVIL}],
        "profile": {"purchases": "tea", "basics": "", "browsing": "", "n_baskets": 3, "price_band": "1 / 2 / 3",
                    "favourite_categories": [{"name": "tea", "share": 0.5}], "basket_interval_days": "7.0",
                    "days_since_last_purchase": "1.0"},
        "people": [person],
        "evaluation": {
            "slices": {"ALL": {"users": 44}, "NEW": {"users": 3}},
            "systems": {"recllm": {"ALL": values, "NEW": values}, "popular": {"ALL": {"ndcg@20": 0.2}}},
            "differences": [gap],
        },
        "next": [{"text": EVIL, "command": "recllm serve -w shop"}],
        "timings": [{"step": "read", "seconds": 1.0}],
        "provenance": {"model": None, "encoder": "toy", "generator": None, "seed": "0"},
    }  # fmt: skip


@pytest.mark.parametrize("locale", LOCALES)
def test_the_page_is_whole_and_escapes_everything(locale: str) -> None:
    page = start_page(record(locale))
    assert EVIL not in page and "&lt;script&gt;" in page
    assert "http" not in page.replace('http-equiv="', "") and "src=" not in page
    for text in ("1,234", "€9.50", "25%", "Buy tea.", "recllm serve", "cp1252", "0.300", "+0.100"):
        assert text in page, text
    assert page.count("<svg") == 3, "of three people who took something new no chart is drawn"


def test_the_page_speaks_the_language_of_the_locale() -> None:
    english, chinese = start_page(record("en")), start_page(record("zh"))
    assert 'lang="en"' in english and 'lang="zh-Hans"' in chinese
    assert "All 2 checks passed" in english and "2 项检查全部通过" in chinese
    assert "No id of a person" not in chinese and "没有顾客编号" in chinese and "订单与浏览" in chinese
    assert "20 Jan 2025" in english and "2025年1月20日" in chinese
    sentences = re.sub(r"<(style|svg|code)\b.*?</\1>|<[^>]*>|&lt;.*/script&gt;", " ", chinese, flags=re.DOTALL)
    of_record = {"bought", "note", "user", "recall", "ndcg", "recllm", "start"}
    assert set(re.findall(r"[A-Za-z]{4,}", sentences)) <= of_record


def test_a_domain_speaks_its_own_words() -> None:
    assert "7 purchases" in words_of("en").say("start.about", n=7)
    assert "7 viewings" in words_of("en@media").say("start.about", n=7)
    chinese, of_media = words_of("zh").say("start.about", n=7), words_of("zh@media").say("start.about", n=7)
    assert "购买" in chinese and "购买" not in of_media


@pytest.mark.parametrize(
    ("low", "high", "sentence"),
    [
        (0.01, 0.2, "higher than the best simple method"),
        (-0.1, 0.2, "too few to show a difference"),
        (-0.2, -0.1, "The simple method"),
    ],
)
def test_better_is_said_only_where_it_is_shown(low: float, high: float, sentence: str) -> None:
    evaluation = record()["evaluation"]
    evaluation["differences"][0] |= {"low": low, "high": high}
    assert sentence in verdict(evaluation, words_of("en"))
    assert "most popular" in verdict(evaluation, words_of("en"))
    assert verdict({"systems": {}, "differences": []}, words_of("en")) == ""


def test_the_command_speaks_chinese_and_keeps_it(
    run: Command, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    export = first_export("taobao-order-lines")
    title = export.events[0].item_id
    content = export.content.decode("gb18030").replace(title, f"{title} 电话13800138000")
    (tmp_path / export.file_name).write_bytes(content.encode("gb18030"))
    options = ("--encoder", "toy", "--generator", "template", "-w", "shop")
    code, out, errors = run("start", export.file_name, *options, "--currency", "CNY", "--locale", "zh")
    assert code == 0, errors
    assert "是 淘宝和天猫：宝贝订单明细（含买家）" in out and "尚不能" in out and "请打开 shop/report.html" in out
    assert "读取" in errors and "学习" in errors, "its steps too"
    page = Path("shop/report.html").read_text("utf-8")
    assert "您自己的文件说明了什么" in page and "顾客以会员名区分" in page and "小鱼" not in page
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING], "no line of the log"
    code, out, _ = run("start", export.file_name, *options, "--json")
    assert code == 0 and json.loads(out)["locale"] == "zh", "the workspace's locale speaks on"
    code, out, _ = run("start", export.file_name, *options, "--json", "--locale", "en")
    told = json.loads(out)
    assert code == 0 and told["locale"] == "en" and told["files"][0]["title"].startswith("Taobao")
    assert terminal_lines(told)[-1].endswith("open shop/report.html")
    with pytest.raises(UsageError, match="domain = 'shop'"):
        run_start(Path("shop"), [tmp_path / export.file_name], domain="media")
