"""Files to store: formats, maps, limits, identity, quarantine, crashes, and one real shop's log end to end."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sqlite3
import stat
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path

import polars as pl
import pytest
from conftest import Command
from dirty_inputs import csv, item_rows, row
from store_view import refused_rows, view
from tables import table

from recllm.base.errors import DataError, IngestError, StoreError, UsageError
from recllm.base.policy import Policy
from recllm.base.schema import IngestReport
from recllm.shop.ingest.describe import describe
from recllm.shop.ingest.load import ingest_file
from recllm.shop.ingest.options import ColumnMap, IngestOptions, load_map, parse_map, shipped_maps
from recllm.shop.ingest.parse.batch import MostCommon
from recllm.shop.ingest.record import record_events
from recllm.shop.store.database import Store
from recllm.shop.workspace.privacy import Pseudonymiser

KEY = Pseudonymiser(b"0123456789abcdef")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
DATA = Path(__file__).parent.parent.parent / "shared" / "data"


class Shop:
    """Writes a file and loads it."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder, self.store = folder, store
        self.quarantine = folder / "quarantine"

    def load(
        self,
        data: bytes | str | Path,
        table: str = "events",
        *,
        file: str = "shop.csv",
        mapping: str | ColumnMap | None = None,
        policy: Policy | None = None,
        dry_run: bool = False,
        **options: object,
    ) -> IngestReport:
        path = data if isinstance(data, Path) else self.folder / file
        if not isinstance(data, Path):
            path.write_bytes(data.encode() if isinstance(data, str) else data)
        report = ingest_file(
            path,
            table,
            store=self.store,
            pseudonymiser=KEY,
            policy=policy or Policy(),
            mapping=load_map(mapping) if isinstance(mapping, str) else mapping,
            options=IngestOptions(**({"now": NOW} | options)),  # type: ignore[arg-type]
            quarantine_dir=self.quarantine,
            dry_run=dry_run,
        )
        assert report.read == report.accepted + report.duplicates + report.quarantined
        return report

    def bad_lines(self, report: IngestReport) -> dict[int, str]:
        return {r["line_no"]: r["code"] for r in refused_rows(report)}


@pytest.fixture
def shop(tmp_path: Path, store: Store) -> Shop:
    return Shop(tmp_path, store)


def test_a_row_arrives_whole(shop: Shop, store: Store) -> None:
    header = "event_id,user_id,item_id,event,timestamp,quantity,price,basket_id,value,request_id,position,model_version"
    shop.load(header + "\ne1,ann,pan,rating,2025-03-01T12:00:00+02:00,2,9.5,b1,4.5,r1,3,m1\n")
    (event,) = view(store).events().to_dicts()
    assert [{name: value for name, value in event.items() if value is not None}] == [
        {
            "user_id": KEY.one("ann"),
            "item_id": "pan",
            "event": "rating",
            "timestamp": datetime(2025, 3, 1, 10, tzinfo=UTC),
            "quantity": 2.0,
            "price": 9.5,
            "basket_id": "b1",
            "value": 4.5,
            "request_id": "r1",
            "position": 3,
            "model_version": "m1",
        }
    ]


def test_purchase_of_one_is_meant_where_nothing_is_said(shop: Shop, store: Store) -> None:
    shop.load("user_id,item_id,timestamp\nann,pan,2025-03-01T12:00:00Z\n")
    event = view(store).events().to_dicts()[0]
    assert (event["event"], event["quantity"], event["price"]) == ("purchase", 1.0, None)


def test_zero_quantity_is_bad_for_a_purchase_only(shop: Shop) -> None:
    report = shop.load(csv(row(1, quantity="0"), row(2, event="view", quantity="0")))
    assert shop.bad_lines(report) == {42: "E_ZERO_QTY"}


def test_all_formats_give_the_same_events(shop: Shop) -> None:
    assert shop.load(csv()).accepted == 40
    frame = pl.read_csv(csv(), schema_overrides={"user_id": pl.String}).with_columns(
        pl.col("timestamp").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC")
    )
    frame.write_parquet(shop.folder / "shop.parquet")
    assert shop.load(shop.folder / "shop.parquet").duplicates == 40


def test_integer_and_float_columns_of_parquet_are_ids_too(shop: Shop, store: Store) -> None:
    frame = pl.DataFrame(
        {"user_id": [17850.0, 2.0], "item_id": [9007199254740993, 5], "timestamp": [1740000000, 1740000001]}
    )
    frame.write_parquet(shop.folder / "shop.parquet")
    report = shop.load(shop.folder / "shop.parquet")
    assert set(view(store).events()["user_id"]) == {KEY.one("17850"), KEY.one("2")}
    assert "9007199254740993" in view(store).events()["item_id"].to_list()
    assert report.warnings["W_FLOAT_ID"] == 2


def test_two_equal_lines_count_twice_across_blocks(shop: Shop, store: Store) -> None:
    body = "\n".join([row(1)] * 50)
    text = f"user_id,item_id,event,timestamp,quantity,price\n{body}\n"
    assert shop.load(text, block_bytes=512).accepted == 50
    assert shop.load(text).duplicates == 50
    assert shop.load(text + row(1) + "\n").accepted == 1


def test_times_keep_their_offset(shop: Shop) -> None:
    shop.load(csv(row(1, timestamp="2025-03-01T12:00:00+05:30")))
    with contextlib.closing(sqlite3.connect(shop.folder / "store.sqlite")) as database:
        offsets = {r[0] for r in database.execute("select tz_offset_minutes from events")}
    assert offsets == {0, 330}


@pytest.mark.parametrize(
    ("ts_format", "written", "expected"),
    [
        ("%d.%m.%y %H:%M", "01.03.25 10:30", datetime(2025, 3, 1, 9, 30, tzinfo=UTC)),
        ("%d.%m.%Y", "01.03.2025", datetime(2025, 2, 28, 23, tzinfo=UTC)),
        ("%I:%M %p %m/%d/%Y", "10:30 PM 03/01/2025", datetime(2025, 3, 1, 21, 30, tzinfo=UTC)),
        ("%Y-%m-%dT%H:%M:%S%z", "2025-03-01T10:30:00+0200", datetime(2025, 3, 1, 8, 30, tzinfo=UTC)),
    ],
)
def test_times_in_a_declared_pattern(
    shop: Shop, store: Store, ts_format: str, written: str, expected: datetime
) -> None:
    text = "user_id,item_id,timestamp\n" + "".join(f"u{n},pan,{written}\n" for n in range(30)) + "u,pan,soon\n"
    report = shop.load(text, ts_format=ts_format, tz="Europe/Berlin")
    assert shop.bad_lines(report) == {32: "E_TIMESTAMP"}
    assert set(view(store).events()["timestamp"]) == {expected}


def test_the_shop_fills_what_neither_option_nor_map_says(shop: Shop, store: Store) -> None:
    text = "CustomerID,StockCode,InvoiceDate,Quantity,UnitPrice,InvoiceNo\n1,a,2010-07-01 08:26,6,2.55,536365\n"
    shop.load(text, mapping="online-retail-events", shop_tz="Asia/Shanghai")
    shop.load(text.replace("536365", "2"), shop_tz="Asia/Shanghai")
    shop.load(text.replace("536365", "3"), mapping="online-retail-events", tz="UTC")
    assert sorted(t.hour for t in view(store).events()["timestamp"]) == [0, 7, 8]


def test_prices_with_the_sign_of_another_currency_are_not_prices(shop: Shop, store: Store) -> None:
    text = csv(header="user_id,item_id,timestamp,price", clean=lambda i: f"u{i},i{i},2025-01-01T00:00:00Z,£{i + 1}.50")
    assert shop.load(text, shop_currency="USD").warnings["W_FOREIGN_PRICE"] > 0
    assert view(store).events()["price"].null_count() == view(store).events().height
    said = shop.load(text.replace(b"2025-01-01", b"2025-01-02"), shop_currency="USD", currency="USD")
    assert "W_FOREIGN_PRICE" not in said.warnings, "who says what the prices are in is believed"


def test_of_equally_common_currencies_the_first_by_name_is_the_files(shop: Shop, store: Store) -> None:
    codes = [f"{letter}UR" for letter in "ZYXWVUTSRQPONMLKJIHGFEDCBA"]
    header = "user_id,item_id,event,timestamp,quantity,price,currency"
    shop.load(csv(n=len(codes), header=header, clean=lambda i: f"{row(i, item_id=codes[i])},{codes[i]}"))
    assert view(store).events().filter(pl.col("price").is_not_null())["item_id"].to_list() == ["AUR"]


def test_an_item_without_a_currency_keeps_none_where_the_shop_names_none(shop: Shop, store: Store) -> None:
    text = "item_id,title,price,currency\ni1,Tea,1.00,EUR\ni2,Pot,2.00,\n"
    shop.load(text, "items")
    assert view(store).items()["currency"].to_list() == ["EUR", None]
    shop.load(text, "items", shop_currency="GBP")
    assert view(store).items()["currency"].to_list() == ["EUR", "GBP"]


def test_single_events_are_recorded_once(store: Store) -> None:
    at = datetime(2025, 3, 1, 10, tzinfo=UTC)
    events = pl.DataFrame(
        {"user_id": ["u1_a"] * 2, "item_id": ["i", "j"], "event": ["click", "shown"], "timestamp": [at] * 2}
    )
    assert record_events(events, store, source="feedback").accepted == 2
    assert record_events(events, store, source="feedback").duplicates == 2
    assert view(store).events()["quantity"].to_list() == [1.0, 1.0]
    for wrong in (
        events.drop("event"),
        events.with_columns(event=pl.lit("stare")),
        events.with_columns(pl.col("timestamp").dt.replace_time_zone(None)),
        events.with_columns(user_id=pl.lit(None, pl.String)),
    ):
        with pytest.raises(DataError):
            record_events(wrong, store, source="feedback")


def test_above_the_limit_nothing_is_kept_and_the_quarantine_is_named(shop: Shop, store: Store) -> None:
    with pytest.raises(IngestError) as refusal:
        shop.load(csv(row(1, quantity="x"), row(2, quantity="x"), row(3, price="y")))
    files = list(shop.quarantine.iterdir())
    assert refusal.value.code == "E_REJECT_LIMIT" and "E_NUMBER 3: not a number" in refusal.value.message
    assert [str(f) for f in files] == [refusal.value.message.rsplit("see ", 1)[1]]
    assert len(files[0].read_text().splitlines()) == 3
    assert view(store).counts()["events"] == 0
    assert view(store).loads() == []
    assert shop.load(csv(row(1, quantity="x"), row(2, quantity="x"), n=38)).quarantined == 2, "exactly the limit"


def test_a_contradiction_late_in_the_file_leaves_nothing(shop: Shop, store: Store) -> None:
    clean = [row(i) for i in range(2000)]
    text = "\n".join(
        [
            "user_id,item_id,event,timestamp,quantity,price",
            *clean,
            row(1, quantity="x"),
            row(2, timestamp="2025-01-01 10:00:00"),
        ]
    )
    with pytest.raises(IngestError, match="E_NAIVE_TZ"):
        shop.load(text, block_bytes=4096)
    assert view(store).counts()["events"] == 0
    assert list(shop.quarantine.iterdir()) == []


def test_a_store_that_fails_takes_the_quarantine_with_it(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr("recllm.shop.store.writers.Load.counts", full)
    with pytest.raises(StoreError, match="full"):
        shop.load(csv(row(1, quantity="x")))
    assert list(shop.quarantine.iterdir()) == []


@pytest.mark.parametrize(("options", "code"), table("ingest", "wrong options"))
def test_wrong_options_have_their_line(shop: Shop, options: dict[str, str], code: str) -> None:
    text = csv(row(1, item_id="é")).replace("é".encode(), b"\xe9") if code == "E_ENCODING" else csv()
    with pytest.raises(IngestError) as refusal:
        shop.load(text, **options)
    assert refusal.value.code == code


def test_missing_files_and_folders(shop: Shop) -> None:
    for path in (shop.folder / "nothing.csv", shop.folder):
        with pytest.raises(IngestError, match="E_FILE"):
            shop.load(path)


def test_quarantine_says_where_what_and_why(shop: Shop) -> None:
    report = shop.load(item_rows('"j1","two\nlines",Home,Acme,1.00', "j2,,Home,Acme,2.00"), "items")
    path = Path(report.quarantine_file or "")
    line = json.loads(path.read_text("utf-8"))
    assert line == {
        "file": "shop.csv",
        "sha256": line["sha256"],
        "line_no": 44,
        "record_no": 43,
        "column": "title",
        "code": "E_NO_TITLE",
        "message": "an item needs a title",
        "raw": "j2,,Home,Acme,2.00",
        "fields": line["fields"],
        "user": None,
    }
    assert [line["fields"][name] for name in ("item_id", "title", "price")] == ["j2", None, "2.00"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stem == report.load_id


def test_lines_are_those_of_the_original_file(shop: Shop) -> None:
    for encoding in ("utf-16", "gb18030"):
        text = (
            "用户ID,商品ID,时间\n"
            + "".join(f"用户{i},商品{i},2025-03-01T10:00:00Z\n" for i in range(30))
            + "用户,商品,坏\n"
        )
        report = shop.load(text.encode(encoding))
        (line,) = refused_rows(report)
        assert (line["line_no"], line["raw"]) == (32, "用户,商品,坏")
    report = shop.load(csv(row(1, item_id="z" * 9000)))
    assert [len(row["raw"]) for row in refused_rows(report)] == [2048]


def test_a_load_is_logged_in_fields_and_without_a_person(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "recllm")
    report = shop.load(csv(row(1, user_id="canary", quantity="x"), clean=lambda i: row(i, user_id=f"canary-{i}")))
    with pytest.raises(IngestError):
        shop.load(csv(row(1, user_id="canary", quantity="x"), n=2))
    done, refused = caplog.records
    assert (done.name, done.levelno, refused.levelno) == ("recllm.shop.ingest.load", logging.INFO, logging.WARNING)
    counts = {name: getattr(done, name) for name in ("load_id", "table", "read", "accepted", "quarantined")}
    assert counts == {"load_id": report.load_id, "table": "events", "read": 41, "accepted": 40, "quarantined": 1}
    assert done.seconds >= 0
    assert refused.code == "E_REJECT_LIMIT"
    for record in caplog.records:
        assert "canary" not in str(vars(record))
        assert KEY.one("canary") not in str(vars(record))


def test_validate_counts_alike_and_writes_nothing(tmp_path: Path, store: Store) -> None:
    text = csv(
        "e1," + row(1),
        "e1," + row(1),
        "e1," + row(2),
        "," + row(3),
        header="event_id,user_id,item_id,event,timestamp,quantity,price",
        clean=lambda i: f"c{i}," + row(i),
    )
    dry = Shop(tmp_path, store).load(text, dry_run=True)
    assert not dry.committed
    assert view(store).counts()["events"] == 0
    assert view(store).loads() == []
    real = Shop(tmp_path, store).load(text)
    same = ("read", "accepted", "duplicates", "quarantined", "codes", "warnings", "ignored_columns")
    assert [getattr(dry, n) for n in same] == [getattr(real, n) for n in same]
    report = Shop(tmp_path, store).load("item_id,title\na,A\na,A\na,B\na,A\nb,B\n", "items", dry_run=True)
    assert (report.accepted, report.duplicates) == (4, 1)


def test_items_keep_exact_prices_paths_and_attributes(shop: Shop, store: Store) -> None:
    text = (
        "item_id;title;category;price;currency;available;attributes\n"
        'a;Pan;Home > Kitchen;1.299,50;eur;yes;{"size": 5, "red": true}\n'
        'b;Pot;["Home","Pots"];0,10;;no;\n'
        "c;Lid;Home;;;;\n"
    ).replace('{"size": 5, "red": true}', '"{""size"": 5, ""red"": true}"')
    shop.load(text.replace('["Home","Pots"]', '"[""Home"",""Pots""]"'), "items", currency="EUR")
    rows = view(store).items().to_dicts()
    assert [r["price"] for r in rows] == ["1299.50", "0.10", None]
    assert [r["category"] for r in rows] == [["Home", "Kitchen"], ["Home", "Pots"], ["Home"]]
    assert [r["available"] for r in rows] == [True, False, True]
    assert [r["currency"] for r in rows] == ["EUR", "EUR", "EUR"]
    assert json.loads(rows[0]["attributes"]) == {"size": "5", "red": "true"}


@pytest.mark.parametrize(
    ("ids", "titles", "is_kept"),
    [("pppppp", "abcdef", False), ("ppapp", "abcde", True), ("pppp", "abcd", True), ("ppppp", "abxyz", True)],
)
def test_a_catalogue_under_other_ids_is_refused(shop: Shop, store: Store, ids: str, titles: str, is_kept: bool) -> None:
    shop.load("item_id,title\n" + "".join(f"a-{t},Tea {t}\n" for t in "abcdefgh"), "items")
    text = "item_id,title\n" + "".join(f"{i}-{t},Tea {t}\n" for i, t in zip(ids, titles, strict=True))
    if is_kept:
        shop.load(text, "items")
    else:
        with pytest.raises(IngestError, match=r"E_OTHER_IDS: .*under other ids \('Tea a': a-a, here p-a\)"):
            shop.load(text, "items")
        assert view(store).items().height == 8
        shop.load(text, "items", namespace="two")


def test_an_empty_line_inside_a_text_is_no_blank_line(shop: Shop, store: Store) -> None:
    report = shop.load(item_rows('"j1","two\n\nlines",Home,Acme,1.00', ""), "items")
    assert report.warnings == {"W_BLANK_LINE": 1}
    assert "two\n\nlines" in view(store).items()["title"].to_list()


def test_users_keep_known_basics_only(shop: Shop, store: Store) -> None:
    report = shop.load("user_id,Age Group,email,性别,city\nann,35-44,a@b.c,f,\n", "users")
    users = view(store).users().to_dicts()
    assert users == [{"user_id": KEY.one("ann"), "basics": '{"age": "35-44", "gender": "f"}'}]
    assert report.ignored_columns == ("email",)


def test_special_categories_have_to_be_declared(shop: Shop, store: Store) -> None:
    for column in ("民族", "Konfession", "santé", "embarazo", "geloof"):
        with pytest.raises(IngestError, match="E_SPECIAL_CATEGORY"):
            shop.load(f"user_id,{column}\nann,x\n", "users")
    shop.load("user_id,Health\nann,good\n", "users", mapping=parse_map('special = ["health"]', "m"))
    assert json.loads(view(store).users()["basics"][0]) == {"health": "good"}


def test_consent(shop: Shop, store: Store) -> None:
    good = [f"u{i},email,{said},2025-03-01T10:00:00Z" for i, said in enumerate(["yes", "0", "granted", "拒绝"] * 10)]
    text = "\n".join(["user_id,purpose,granted,timestamp", *good, "u,spam,yes,2025-03-01", "u,email,maybe,2025-03-01"])
    report = shop.load(text, "consent", tz="UTC")
    assert shop.bad_lines(report) == {42: "E_PURPOSE", 43: "E_GRANTED"}
    assert view(store).consent()["granted"].sum() == 20
    assert shop.load(text, "consent", tz="UTC").duplicates == 40


def test_a_refusal_of_the_days_to_come_holds_today_and_an_agreement_of_them_is_set_aside(
    shop: Shop, store: Store
) -> None:
    now = datetime.now(UTC)
    in_time, far = ((now + timedelta(hours=hours)).isoformat() for hours in (5, 100))
    rows = [
        f"ann,email,no,{far}",
        f"bob,email,yes,{far}",
        f"eve,email,yes,{in_time}",
        f"eve,email,no,{now.isoformat()}",
    ]
    text = "\n".join(["user_id,purpose,granted,timestamp", *rows])
    report = shop.load(text, "consent", now=now, policy=Policy(reject_limit=0.5))
    assert shop.bad_lines(report) == {3: "E_FUTURE"}
    decisions = view(store).consent()
    assert sorted(decisions["granted"]) == [False, False, True] and (decisions["at"] <= datetime.now(UTC)).all()


def test_most_common_takes_the_first_of_equals() -> None:
    merged = MostCommon("id")
    merged.add(pl.DataFrame({"id": ["a", "a", "b"], "title": ["X", "Y", None]}))
    merged.add(pl.DataFrame({"id": ["a", "b"], "title": ["Y", "Z"]}))
    merged.add(pl.DataFrame({"id": ["a"], "title": ["X"]}))
    assert merged.rows().to_dicts() == [{"id": "a", "title": "X"}, {"id": "b", "title": "Z"}]


def test_every_shipped_map_loads() -> None:
    names = shipped_maps()
    assert {"complete-journey-transactions", "online-retail-events", "tmall-items"} <= set(names)
    assert all(load_map(name).table for name in names)
    example = load_map(resources.files("recllm.shop.ingest") / "column_map.toml")
    shown = example.model_fields_set | {"table", "keep", "only_new"}  # these exclude others
    assert shown == ColumnMap.model_fields.keys(), "the example has every part"


@pytest.mark.parametrize("text", table("ingest", "a wrong map is refused"))
def test_a_wrong_map_is_refused(text: str) -> None:
    with pytest.raises(IngestError, match="E_MAP"):
        parse_map(text, "m")


@pytest.mark.parametrize(("text", "words"), table("ingest", "what a wrong map says"))
def test_a_wrong_map_says_where_and_what_is_known(text: str, words: str) -> None:
    with pytest.raises(IngestError, match=re.escape(words)):
        parse_map(text, "m")


def test_an_unknown_map_lists_the_shipped_ones() -> None:
    with pytest.raises(IngestError, match="complete-journey-products"):
        load_map("complete-journy")


def test_a_map_for_another_table(shop: Shop) -> None:
    with pytest.raises(IngestError, match="E_MAP"):
        shop.load(csv(), "items", mapping="online-retail-events")


def test_a_map_takes_marks_of_texts_off_and_says_what_an_empty_cell_means(shop: Shop, store: Store) -> None:
    column_map = parse_map(
        'text_marks = true\noptional = true\n[defaults]\nevent = "view"\ntimestamp = "2025-01-01T00:00:00Z"\n'
        '[columns]\ntimestamp = "when"\n'
        '[[reject]]\ncolumn = "event"\nnot_in = ["", "purchase"]\n'
        '[[returns]]\ncolumn = "state"\nin = ["closed"]\nunless = ["kept"]\n',
        "of a test",
    )
    rows = ('="007",\tb,purchase,closed,', "'42,b,purchase,closed,yes", 'it\'s,="b",,,', "x,b,search,,")
    report = shop.load("user_id,item_id,event,state,kept\n" + "\n".join(rows) + "\n", mapping=column_map)
    assert (report.accepted, report.codes) == (3, {"E_MAP_REJECT": 1})
    found = {row["user_id"]: row for row in view(store).events().to_dicts()}
    assert {found[KEY.one(user)]["event"] for user in ("007",)} == {"return"}
    assert [found[KEY.one(user)]["event"] for user in ("42", "it's")] == ["purchase", "view"]
    assert {(row["item_id"], row["timestamp"].isoformat()) for row in found.values()} == {
        ("b", "2025-01-01T00:00:00+00:00")
    }


def test_a_map_file_by_path(shop: Shop, store: Store) -> None:
    path = shop.folder / "my.toml"
    path.write_text(
        "table = 'items'\n[columns]\nitem_id = 'sku'\n[joins]\n"
        "title = {columns = ['kind', 'size'], separator = ', ', otherwise = ['sub']}\n"
        "[paths]\ncategory = ['kind', 'sub', 'size']\n[attributes]\nsize = 'size'\n"
    )
    shop.load("SKU,kind,sub,size\n1,Pan,Iron,XL\n2,Pot,,\n3,Lid,,S\n4,,Ring,\n", "items", mapping=load_map(path))
    rows = view(store).items().to_dicts()
    assert [r["title"] for r in rows] == ["Pan, XL", "Pot", "Lid, S", "Ring"]
    assert [r["category"] for r in rows] == [["Pan", "Iron", "XL"], ["Pot"], ["Lid"], None], (
        "a path ends at its first gap"
    )
    assert [r["attributes"] for r in rows] == ['{"size": "XL"}', "{}", '{"size": "S"}', "{}"]


RETAIL = """InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country
536365,85123A,WHITE HEART,6,12/1/2010 8:26,2.55,17850.0,United Kingdom
536365,71053,WHITE LANTERN,6,12/13/2010 8:26,3.39,17850.0,United Kingdom
536366,71053,white lantern,2,12/13/2010 8:28,3.39,13047.0,France
536366,71053,WHITE LANTERN,2,12/13/2010 8:28,3.00,13047.0,Spain
536366,POST,POSTAGE,1,12/13/2010 8:28,18,13047.0,France
C536379,85123A,WHITE HEART,-1,12/14/2010 9:41,2.55,17850.0,United Kingdom
536400,85123A,"damaged, £ wet",-3,12/14/2010 9:41,0,,United Kingdom
"""


def test_online_retail_raw(shop: Shop, store: Store) -> None:
    data = RETAIL.encode("cp1252")
    report = shop.load(data, mapping="online-retail-events")
    assert (report.accepted, report.codes) == (5, {"E_MAP_REJECT": 2})
    events = view(store).events()
    assert events.filter(pl.col("event") == "return")["quantity"].to_list() == [1.0]
    assert set(events["user_id"]) == {KEY.one("17850"), KEY.one("13047")}
    assert events["timestamp"].min() == datetime(2010, 12, 1, 8, 26, tzinfo=UTC)
    report = shop.load(data, "items", mapping="online-retail-items")
    assert (report.accepted, report.duplicates, report.quarantined) == (2, 3, 2)
    known_items = view(store).items().filter(~pl.col("pending"))
    assert known_items.select("title", "price", "currency").rows() == [
        ("WHITE LANTERN", "3.39", "GBP"),
        ("WHITE HEART", "2.55", "GBP"),
    ]
    report = shop.load(data, "users", mapping="online-retail-users")
    assert report.accepted == 2
    assert sorted(view(store).users()["basics"]) == ['{"country": "France"}', '{"country": "United Kingdom"}']


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data sets are not here")
def test_tmall_logs(shop: Shop, store: Store) -> None:
    folder = DATA / "tmall_sample"
    items = pl.read_parquet(folder / "items.parquet").select("item_id", "title_joined", "brand", "category")
    items.write_csv(shop.folder / "items.csv")
    report = shop.load(shop.folder / "items.csv", "items", mapping="tmall-items")
    assert (report.read, report.accepted) == (562, 562)
    log = pl.read_parquet(folder / "interactions.parquet").select("user_id", "item_id", "event", "timestamp")
    log.write_csv(shop.folder / "log.csv")
    report = shop.load(shop.folder / "log.csv", mapping="tmall-events")
    assert report.read == report.accepted == 7556
    kinds = dict(view(store).events()["event"].value_counts().iter_rows())
    assert kinds == {"view": 4474, "purchase": 2719, "cart": 358, "favourite": 5}


def test_describe_a_store(shop: Shop, store: Store) -> None:
    found = describe(store)
    assert (found["events"]["rows"], found["events"]["first"]) == (0, None)
    shop.load(item_rows(), "items")
    shop.load(csv(row(1, item_id="only seen")))
    shop.load("user_id,age\nu1,30\n", "users")
    found = describe(store)
    assert found["events"]["rows"] == 41
    assert found["events"]["kinds"] == {"purchase": 41}
    assert found["items"]["only_in_events"] == 1
    assert found["items"]["top_categories"] == {"Home": 40}
    assert found["users"]["basics"] == {"age": 1}
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("wrong", [{"bogus": 1}, {"decimal": ";"}, {"block_bytes": "many"}])
def test_a_wrong_option_is_named(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(wrong))}'?(;| must)"):
        IngestOptions(**wrong)


@pytest.mark.parametrize("header", table("ingest", "headers of other languages"))
def test_headers_of_other_languages_are_known(header: str, shop: Shop, store: Store) -> None:
    lines_of = [f"k{n};a{n};{n + 13}.03.2025 10:00;2;3,50;b{n}" for n in range(15)]
    report = shop.load("\n".join([header, *lines_of]).encode(), tz="UTC")
    assert report.accepted == 15 and report.ignored_columns == ()
    events = view(store).events()
    assert events["quantity"].unique().to_list() == [2.0] and events["price"].unique().to_list() == [3.5]
    assert set(events["basket_id"]) == {f"b{n}" for n in range(15)}


def test_two_shops_that_count_alike_are_kept_apart(run: Command, tmp_path: Path) -> None:
    """The same numbers in another shop are other people and other things."""
    run("init", "-w", "shop", "--consent-default", "granted")
    for name, what in (("a", "Tea"), ("b", "Hammer")):
        rows = [f"{n},{what} {what.lower()}-{n}" for n in range(8)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["item_id,title", *rows]) + "\n")
        events = [f"7,{n},2025-01-0{n + 1}T10:00:00Z,e{n},b{n}" for n in range(8)]
        lines = ["user_id,item_id,timestamp,event_id,basket_id", *events]
        (tmp_path / f"{name}-events.csv").write_text("\n".join(lines) + "\n")
    load = ("ingest", "-w", "shop", "--json", "--table")
    assert json.loads(run(*load, "items", "a.csv")[1])["accepted"] == 8
    for name, options in (("a", ()), ("b", ("--read", "namespace=second"))):
        if options:
            assert json.loads(run(*load, "items", f"{name}.csv", *options)[1])["accepted"] == 8
        assert json.loads(run(*load, "events", f"{name}-events.csv", *options)[1])["accepted"] == 8
    counts = json.loads(run("explain", "-w", "shop", "--json")[1])
    assert [counts[table]["rows"] for table in ("items", "users", "events")] == [16, 2, 16]
    code, out, _ = run("explain", "-u", "second:7", "-w", "shop")
    assert code == 0 and "Hammer" in out and "Tea" not in out
    code, _, err = run(*load, "events", "a-events.csv", "--read", "namespace=a b")
    assert code == 2 and "namespace" in err
