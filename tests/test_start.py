"""The page of `recllm start` and its lines: in both languages, of every domain, for whoever sells."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import xlsxwriter
from conftest import Command
from exports import first_export
from tables import table

from recllm.base.errors import UsageError
from recllm.base.schema import Purpose, Table
from recllm.base.words.sentences import sentences
from recllm.doors.start.files import Answers, answers_of, columns_of_consent, read_files, shop_settings
from recllm.doors.start.shop import reachable, run_start, start_page, start_shop, terminal_lines, verdict, words_of
from recllm.market.adcopy.channels import Sender
from recllm.market.audiences.contacts import CHANNEL_PURPOSE
from recllm.shop.ingest.read.source import likely_encoding, probe
from recllm.shop.ingest.workspace_load import load_export, load_file
from recllm.shop.workspace.workspace import Workspace

EVIL = "<script>alert(1)</script>"
LOCALES = ("en", "zh")


def record(locale: str = "en") -> dict[str, Any]:
    return table("start", "record") | {"locale": locale}


@pytest.mark.parametrize("locale", LOCALES)
def test_the_page_is_whole_and_escapes_everything(locale: str) -> None:
    page = start_page(record(locale))
    assert EVIL not in page and "&lt;script&gt;" in page
    assert "http" not in page.replace('http-equiv="', "") and "src=" not in page
    for text in ("1,234", "€9.50", "25%", "Buy tea.", "recllm serve", "cp1252", "0.300", "+0.100"):
        assert text in page, text
    assert page.count('class="bar"') == 2 and 'style="width: 100.0%"' in page, "the best fills the row"


def test_the_page_speaks_the_language_of_the_locale() -> None:
    english, chinese = start_page(record("en")), start_page(record("zh"))
    assert 'lang="en"' in english and 'lang="zh-Hans"' in chinese
    assert "22 texts for 45 customers passed every check" in english and "22 条文案通过全部检查" in chinese
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


ANSWERS = ("--basis", "interest", "--contact", "all", "--sender", "茶叶铺; 杭州 1 号; stop@example.com")


def test_the_command_speaks_chinese_and_keeps_it(
    run: Command, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    export = first_export("taobao-order-lines")
    title = export.events[0].item_id
    content = export.content.decode("gb18030").replace(title, f"{title} 电话13800138000")
    (tmp_path / export.file_name).write_bytes(content.encode("gb18030"))
    options = ("--encoder", "toy", "-w", "shop")
    code, out, errors = run("start", export.file_name, *options)
    assert code == 2 and "有几个问题" in errors and "--basis" in errors and "--sender" in errors, "prices are in yuan"
    code, out, errors = run("start", export.file_name, *options, *ANSWERS)
    assert code == 0, errors
    assert "是 淘宝和天猫：宝贝订单明细（含买家）" in out and "尚不能" in out and "请打开 shop/report.html" in out
    assert "读取" in errors and "学习" in errors, "its steps too"
    page = Path("shop/report.html").read_text("utf-8")
    assert "您自己的文件说明了什么" in page and "顾客以会员名区分" in page and "小鱼" not in page
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING], "no line of the log"
    code, out, _ = run("start", export.file_name, *options, "--json")
    told = json.loads(out)
    assert code == 0 and told["locale"] == "zh" and told["currency"] == "CNY", "what was answered and found stays"
    code, out, _ = run("start", export.file_name, *options, "--json", "--locale", "en")
    told = json.loads(out)
    assert code == 0 and told["locale"] == "en" and told["files"][0]["title"].startswith("Taobao")
    assert terminal_lines(told)[-1].endswith("open shop/report.html")
    code, _, errors = run("start", export.file_name, *options, "--domain", "media")
    assert code == 2 and "domain = 'shop'" in errors
    code, _, errors = run("start", export.file_name, *options, "--basis", "interest", "--contact", "none")
    assert code == 2 and "other answers" in errors


def test_the_questions_are_asked_once_in_the_shops_words(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = iter(["9", "2", "1", "Tea House; Riga 1; stop@tea.example"])
    monkeypatch.setattr("typer.prompt", lambda *_, **__: next(typed))
    columns, english = ["Accepts Marketing"], words_of("en")
    asked = answers_of({}, None, columns, english, at_terminal=True)
    assert (asked.basis, asked.contact) == ("Accepts Marketing", ("Accepts Marketing",))
    assert asked.sender is not None and asked.sender.opt_out == "mailto:stop@tea.example"
    again = answers_of({}, json.loads(json.dumps(asdict(asked))), columns, english, at_terminal=True)
    assert again == asked, "no question twice"
    with pytest.raises(UsageError, match=r"(?s)“Accepts Marketing”.*--contact COLUMN.*--sender") as refused:
        answers_of({"basis": "interest"}, None, columns, english, at_terminal=False)
    assert "--basis" not in str(refused.value)
    with pytest.raises(UsageError, match="NAME; POSTAL ADDRESS"):
        answers_of({"basis": "interest", "contact": ["all"], "sender": "Ann"}, None, [], english, at_terminal=False)
    silent = answers_of({"basis": "interest", "contact": ["none"]}, None, [], english, at_terminal=False)
    assert silent.sender is None


@pytest.mark.parametrize(
    ("basis", "contact", "used", "reached"),
    [
        ("interest", ("agrees",), {"yes", "no", "silent"}, {"yes"}),
        ("interest", ("all",), {"yes", "no", "silent"}, {"yes", "silent"}),
        ("agrees", ("agrees",), {"yes"}, {"yes"}),
        ("agrees", ("all",), {"yes"}, {"yes"}),
        ("interest", ("none",), {"yes", "no", "silent"}, set()),
    ],
)
def test_answers_decide_who_is_used_and_who_is_reached(
    basis: str, contact: tuple[str, ...], used: set[str], reached: set[str], tmp_path: Path
) -> None:
    answers = Answers(basis=basis, contact=contact)
    (tmp_path / "orders.csv").write_text(
        "customer_id,sku,order_date,newsletter_old,agrees\n"
        "yes,tea,2025-01-01 10:00,yes,yes\nno,tea,2025-01-02 10:00,no,no\nsilent,tea,2025-01-03 10:00,,\n"
    )
    (file,) = read_files([tmp_path / "orders.csv"], words_of("en"))
    settings = answers.settings(Purpose.EMAIL) | {"timezone": "UTC"}
    with Workspace.create(tmp_path / "shop", **settings) as shop:
        file.with_columns(answers.contact).load(shop, answers)
        names = dict(zip(shop.pseudonymiser().many(["yes", "no", "silent"]), ["yes", "no", "silent"], strict=True))
        for purpose in (Purpose.PERSONALISATION, Purpose.MODEL_TRAINING, Purpose.ANALYTICS):
            assert {names[name] for name in shop.gate().permitted_users(purpose)} == used, purpose
        assert {names[name] for name in reachable(shop, "email")} == reached


BOUGHT = """date,customer,sku,title,pcs,sum paid
2025-01-01 10:00,{},tea,Green tea,2,8.50
2025-01-02 10:00,{},tea,Green tea,2,8.50
2025-01-03 10:00,{},tea,Green tea,2,8.50
2025-01-04 10:00,{},tea,Green tea,-1,-4.25
"""


@pytest.mark.parametrize(
    ("ids", "people", "encoding", "reached", "refusal"), table("start", "agreement counts for those who bought")
)
def test_agreement_counts_for_those_who_bought(
    ids: list[str], people: str, encoding: str, reached: str, refusal: str, tmp_path: Path
) -> None:
    texts = {"log": BOUGHT.format(*ids), "people": people, "items": "sku,title,newsletter text\ntea,Green tea,Hot!\n"}
    paths = [tmp_path / f"{name}.csv" for name in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        path.write_text(text, encoding=encoding)
    if refusal:
        with pytest.raises(UsageError, match=refusal) as error:
            start_shop(tmp_path / "shop", paths, {}, {}, generator="template", at_terminal=False)
        assert "--" not in str(error.value), "no option that the command lacks"
        return
    files = read_files(paths, words_of("en"))
    answers = Answers(basis="interest", contact=tuple(columns_of_consent(files)))
    channel = answers.channel(files)
    assert channel == ("email" if "@" in reached else "sms_gsm"), "agreement to one is none to the other"
    with Workspace.create(tmp_path / "shop", **answers.settings(CHANNEL_PURPOSE[channel]), timezone="UTC") as shop:
        for file in files:
            file.load(shop, answers)
        assert reachable(shop, channel) == {shop.pseudonymiser().one(reached)}
        with shop.store().read() as reader:
            events = reader.events(("price",))
        assert set(events["price"]) == {4.25} and set(events["event"]) == {"purchase", "return"}


def test_agreement_counts_with_an_address_and_a_refusal_without(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text(
        "member_no,E-mail,Handy,newsletter,SMS ads\nK1,k1@a.eu,,yes,yes\nK2,,0171 2345678,Yes,YES\n"
        "K3,,,no,No\nK4,,0171 9876543,Unsubscribed,OPT-OUT\nK5, ,,,\n"
    )
    (file,) = read_files([tmp_path / "people.csv"], words_of("en"))
    answers = Answers(basis="interest", contact=("newsletter", "SMS ads"))
    with Workspace.create(tmp_path / "shop", **answers.settings(Purpose.EMAIL), timezone="UTC") as shop:
        file.with_columns(answers.contact).load(shop, answers)
        names = shop.pseudonymiser()
        for channel, user in (("email", "K1"), ("sms_gsm", "K2")):
            assert reachable(shop, channel) == {names.one(user)}
        with shop.store().read() as reader:
            denied = reader.consent().filter(~pl.col("granted"))
        assert sorted(denied["user_id"]) == sorted(names.many(["K3", "K3", "K4", "K4"]))


@pytest.mark.parametrize(("text", "encoding", "likely"), table("start", "encodings"))
def test_an_encoding_is_taken_where_it_is_plain(text: str, encoding: str, likely: str | None, tmp_path: Path) -> None:
    (tmp_path / "file.csv").write_text(text * 5, encoding)
    assert likely_encoding(probe(tmp_path / "file.csv")) == likely


def test_a_remedy_is_no_option_of_another_command(tmp_path: Path) -> None:
    orders = "customer_id,sku,order_date\nann,tea,{}\nbob,tea,{}\n"
    answers = {"basis": "interest", "contact": ["none"]}
    for locale, remedy in (
        ("en", "write the dates in the file as 2025-04-03"),
        ("zh", "请把文件里的日期写成 2025-04-03"),
    ):
        (tmp_path / "orders.csv").write_text(orders.format("03/04/2025", "04/05/2025"))
        with pytest.raises(UsageError, match=f"dates like.*{remedy}") as error:
            settings = {"locale": locale, "encoder": "toy"}
            start_shop(
                tmp_path / locale, [tmp_path / "orders.csv"], answers, settings, generator="template", at_terminal=False
            )
        assert "--" not in str(error.value)
    codes = [name.removeprefix("start.remedy.") for name in sentences("en") if name.startswith("start.remedy.")]
    assert len(codes) == 6 and all(words_of("zh").has(f"start.remedy.{code}") for code in codes)


CATALOGUE = "SKU,Art.No,Name,Price\nw-1,1004,Dog food,10.00\nw-2,1007,Cat food,12.00\nw-3,1010,Hay,5.00\n"


@pytest.mark.parametrize(("log", "ids"), table("start", "ids of products and orders"))
def test_products_and_orders_go_together_by_the_ids_that_both_have(
    log: str, ids: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "products.csv").write_text(CATALOGUE)
    (tmp_path / "orders.csv").write_text(log)
    products, orders = read_files([tmp_path / "products.csv", tmp_path / "orders.csv"], words_of("en"))
    maps = products.source.maps[Table.ITEMS], orders.source.maps[Table.EVENTS]
    assert [column_map.columns.get("item_id", ("",)) for column_map in maps] == [(name,) for name in ids]
    if "items" in orders.source.maps:
        assert orders.source.maps[Table.ITEMS].columns.get("item_id", ()) == ((ids[1],) if ids[1] else ())


def test_tests_are_no_purchases(tmp_path: Path) -> None:
    marks = table("start", "tests")
    rows = [f'ann,tea,Green tea,2025-01-{n:02d} 10:00,"{cell}"' for n, cell in enumerate(marks, 1)]
    (tmp_path / "orders.csv").write_text("\n".join(["customer_id,sku,title,order_date,remark", *rows]))
    (orders,) = read_files([tmp_path / "orders.csv"], words_of("en"))
    with Workspace.create(tmp_path / "shop", timezone="UTC") as shop:
        reports = orders.load(shop, Answers(basis="interest", contact=("none",)))
    (events,) = (report for report in reports if report.table is Table.EVENTS)
    n_tests = sum(marks.values())
    assert (events.accepted, events.left_out) == (len(marks) - n_tests, {"a test": n_tests})


def test_a_workbook_of_a_chinese_shop_and_its_text_messages(tmp_path: Path) -> None:
    orders = [[f"会员{n % 9}", f"2025-01-{n:02d} 10:00", f"A{n % 2 + 1}"] for n in range(1, 28)]
    goods = [["A1", "龙井", "在售"], ["A2", "礼盒包装费", "在售"], ["A3", "金骏眉", "停售"]]
    tables = {
        "会员": [["会员号", "是否接收短信"], *([f"会员{n}", "是"] for n in range(9))],
        "商品": [["商品编码", "商品名称", "状态"], *goods],
        "消费": [["会员号", "消费时间", "商品编码"], *orders],
    }
    with xlsxwriter.Workbook(tmp_path / "shop.xlsx") as book:
        for name, rows in tables.items():
            sheet = book.add_worksheet(name)
            for n, row in enumerate(rows):
                sheet.write_row(n, 0, row)
    files = read_files([tmp_path / "shop.xlsx"], words_of("en"))
    settings = {**shop_settings(files), "encoder": "toy"}
    assert settings["locale"] == "zh" and not settings["timezone"].endswith("UTC")
    answers = Answers(
        basis="interest", contact=("是否接收短信",), sender=Sender(name="茶", address="1", opt_out="a@b.cn")
    )
    page = run_start(tmp_path / "shop", files, answers, **settings)
    assert (page["contact"], page["campaign"]) == (9, None)
    assert (
        "运营商" in start_page(page)
        and "【店名】商品名" in start_page(page)
        and settings["timezone"] in start_page(page)
    )
    assert (page["files"][0]["title"], page["files"][0]["file"]) == ("普通文件：顾客资料", "shop.xlsx, 会员")
    (tmp_path / "later.csv").write_text("会员号,消费时间,商品编码\n会员1,2025-02-01 10:00,A1\n", "utf-8")
    with Workspace.open(tmp_path / "shop") as shop:
        assert load_export(shop, tmp_path / "later.csv")[1][0].accepted == 1, "as the start understood it"
        assert load_file(shop, tmp_path / "later.csv", "events").duplicates == 1
    assert "数据截至2025年1月27日" in terminal_lines(page)[-2]
    assert {item["title"] for slate in page["slates"] for item in slate["items"]} == {"龙井"}, "no bag"


def test_plain_files_are_read_by_a_suggested_map(tmp_path: Path) -> None:
    (tmp_path / "orders.csv").write_text(
        "order_no,order_date,customer_email,sku,product_name,qty,unit_price,currency\n"
        "1,2025-01-01 10:00,ann@example.com,tea,Green tea,1,4.50,EUR\n"
        "2,2025-01-02 10:00,bob@example.com,mug,Tea mug,2,9.00,EUR\n"
    )
    (tmp_path / "customers.csv").write_text(
        "email,city,newsletter,vip\nann@example.com,Riga,yes,no\nbob@example.com,Riga,no,yes\n"
    )
    english = words_of("en")
    customers, orders = read_files([tmp_path / "orders.csv", tmp_path / "customers.csv"], english)
    assert orders.source.caveats[:2] == ("Person's number: customer_email", "Item's number: sku")
    assert set(orders.source.maps) == {Table.ITEMS, Table.EVENTS}, "a log that names its products gives the catalogue"
    assert columns_of_consent([customers, orders]) == ["newsletter"], "what says no more than yes or no is no consent"
    channels = {"SMS ads": Purpose.SMS, "愿意接收公众号消息": Purpose.PUSH, "newsletter": Purpose.EMAIL}
    for column, purpose in channels.items():
        consent = replace(customers, columns=(*customers.columns, column)).with_columns([column]).source.consent
        assert consent and consent.columns[column] is purpose, "agreement to one channel is none to another"
    assert shop_settings([customers, orders])["currency"] == "EUR"
    answers = Answers(basis="interest", contact=("newsletter",))
    with Workspace.create(tmp_path / "shop", **answers.settings(Purpose.EMAIL), timezone="UTC", currency="EUR") as shop:
        for file in (customers, orders):
            file.load(shop, answers)
        items = shop.gate().catalogue()
        assert dict(zip(items["item_id"], items["title"], strict=True)) == {"tea": "Green tea", "mug": "Tea mug"}
        assert reachable(shop, "email") == {shop.pseudonymiser().one("ann@example.com")}
    (tmp_path / "products.csv").write_text("sku,name,price,stock\ntea,Green tea,4.50,0\nmug,Tea mug,9.00,12\n")
    (products,) = read_files([tmp_path / "products.csv"], english)
    with Workspace.open(tmp_path / "shop") as shop:
        products.load(shop, answers)
        items = shop.gate().catalogue()
        assert dict(zip(items["item_id"], items["available"], strict=True)) == {"tea": False, "mug": True}
    with pytest.raises(UsageError, match="--contact 'Nothing'"):
        run_start(tmp_path / "shop", [customers], Answers(basis="interest", contact=("Nothing",)))
    (tmp_path / "words.csv").write_text("a,b\nx,y\n")
    with pytest.raises(UsageError, match="its columns do not say what it is"):
        read_files([tmp_path / "words.csv"], english)
