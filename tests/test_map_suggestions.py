"""Maps for files of no known kind: what names and values tell, what they do not, and that the map loads the file."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from conftest import Command
from store_view import view
from tables import table

from recllm.base.errors import NothingToDo
from recllm.base.schema import Table
from recllm.shop.ingest.options import IngestOptions, load_map, parse_map
from recllm.shop.ingest.suggest import suggest_map
from recllm.shop.ingest.workspace_load import load_file
from recllm.shop.workspace.workspace import Workspace

GOODS = [(f"X{n}-{n * n}", f"Pot of {n} litres, blue", f"{3 + n}.95") for n in range(1, 13)]


def orders(header: str, *, n: int = 60, seed: int = 1) -> str:
    """Lines of an order, a person, a time, a product, its name, pieces, its price and the sum, under these names."""
    rng, lines = random.Random(seed), [header]
    for order in range(n):
        at, person = datetime(2024, 5, 1, tzinfo=UTC) + timedelta(hours=7 * order), f"K{rng.randrange(15):03d}"
        for code, title, price in rng.sample(GOODS, rng.randint(1, 3)):
            pieces = rng.choice([1, 1, 1, 2, 4])
            total = f"{float(price) * pieces:.2f}"
            cells = [f"B{order:05d}", person, f"{at:%Y-%m-%d %H:%M:%S}", code, f'"{title}"', str(pieces), price, total]
            lines.append(",".join(cells))
    return "\n".join(lines) + "\n"


def written(folder: Path, text: str) -> Path:
    file = folder / "file.csv"
    file.write_text(text, encoding="utf-8")
    return file


def test_values_tell_the_columns_of_a_log_that_names_do_not(tmp_path: Path) -> None:
    rng = random.Random(3)
    rows = [
        f"K{rng.randrange(9)}@example.com,X{rng.randrange(9)},2024-05-01 10:{n:02d}:00,{rng.choice([1, 1, 2])},{n}.95"
        for n in range(60)
    ]
    file = written(tmp_path, "ostaja,tuote,hetki,kpl,hinta\n" + "\n".join(rows) + "\n")
    suggestion = suggest_map(file)
    assert suggestion.table is Table.EVENTS
    fills = {"user_id": "ostaja", "item_id": "tuote", "timestamp": "hetki", "quantity": "kpl", "price": "hinta"}
    assert suggestion.columns == fills
    assert suggestion.reasons["timestamp"] == "its values are times"
    assert suggestion.reasons["item_id"] == "it is the only other column of ids"
    assert suggestion == suggest_map(file), "equal files give equal maps"
    with Workspace.create(tmp_path / "shop", currency="EUR") as shop:
        report = load_file(shop, file, "events", mapping=parse_map(suggestion.toml(), "suggested"), tz="UTC")
    assert report.accepted == report.read == 60


def test_columns_that_nothing_tells_apart_are_left_open(tmp_path: Path) -> None:
    rng = random.Random(2)
    rows = [f"a{rng.randrange(9)},b{rng.randrange(9)},2024-05-01 10:{n:02d}:00" for n in range(60)]
    with pytest.raises(NothingToDo, match="which of aa, bb is the person and which the product"):
        suggest_map(written(tmp_path, "aa,bb,cc\n" + "\n".join(rows)), table=Table.EVENTS)


def test_an_orders_file_with_names_that_are_nearly_known(tmp_path: Path) -> None:
    header = "OrderNumber,Customers_ID,Order Date,product_codes,Product Name,Qty,Unit Price,Line Sum"
    file = written(tmp_path, orders(header))
    suggestion = suggest_map(file, IngestOptions(tz="Europe/Paris"))
    assert suggestion.columns["user_id"] == "Customers_ID" and "nearly" in suggestion.reasons["user_id"]
    assert suggestion.columns["item_id"] == "product_codes" and suggestion.columns["price"] == "Unit Price"
    assert "no column says what was done: every row counts as a purchase" in suggestion.notes
    assert parse_map(suggestion.toml(), "suggested").read.tz == "Europe/Paris"
    lines = [line.rsplit(",", 2) for line in orders(f"{header},").replace("Line Sum,", "Paid").splitlines()]
    file = written(tmp_path, "\n".join(f"{head},{total}" for head, _, total in lines))
    suggestion = suggest_map(file, IngestOptions(tz="Europe/Paris"))
    assert parse_map(suggestion.toml(), "suggested").totals["price"].total == "Paid"
    assert suggestion.column_map().reject == parse_map(suggestion.toml(), "suggested").reject


def test_names_are_not_believed_against_the_values(tmp_path: Path) -> None:
    rows = [f"u{n % 7},i{n % 5},soon,2024-05-{1 + n % 28:02d}T10:00:00Z,kauf" for n in range(40)]
    suggestion = suggest_map(written(tmp_path, "user_id,item_id,date,x,event\n" + "\n".join(rows)))
    assert suggestion.columns["timestamp"] == "x"
    assert "date is called like timestamp, but does not hold times" in suggestion.notes
    assert (
        suggestion.translations == ("kauf",) and '# "kauf" = "purchase"' not in suggestion.toml().split("[columns]")[0]
    )
    assert "# kauf = " in suggestion.toml()


def test_an_items_file(tmp_path: Path) -> None:
    text = "Nummer;Ware;Text;Preis\n" + "".join(
        f"{code};{title};{'A pot of steel for every stove, with a lid of glass and two handles. ' * 2};{price}\n"
        for code, title, price in GOODS
    )
    file = written(tmp_path, text)
    suggestion = suggest_map(file)
    assert (suggestion.table, suggestion.columns) == (
        Table.ITEMS,
        {"item_id": "Nummer", "title": "Ware", "description": "Text", "price": "Preis"},
    )


def test_packs_are_products_and_sizes_to_wear_are_none(tmp_path: Path) -> None:
    rows = "1,西湖龙井,50g,128\n2,西湖龙井,125g礼盒,298\n3,拖鞋,40-41码,25.9\n4,拖鞋,36-37码,25.9\n5,矿泉水 6L,6L,9\n"
    file = written(tmp_path, f"商品编号,商品名称,规格,价格\n{rows}")
    suggestion = suggest_map(file)
    assert suggestion.columns["variant"] == "规格" and "规格" not in " ".join(suggestion.notes)
    with Workspace.create(tmp_path / "shop", currency="CNY") as shop:
        load_file(shop, file, "items", mapping=suggestion.column_map())
        titles = ["西湖龙井 50g", "西湖龙井 125g礼盒", "拖鞋", "矿泉水 6L"]
        assert shop.gate().catalogue()["title"].to_list() == titles
        load_file(shop, written(tmp_path, "user_id,item_id,timestamp\na,4,2025-01-01\n"), "events", tz="UTC")
        assert view(shop.store()).events()["item_id"].to_list() == ["3"]


@pytest.mark.parametrize(("states", "taken", "n_items"), [("在售停售", "状态", 5), ("新品旧款", None, 11)])
def test_status_and_stock_say_what_is_on_offer(states: str, taken: str | None, n_items: int, tmp_path: Path) -> None:
    rows = [f"{code},茶 {n},{n},{states[n % 4 // 2 * 2 :][:2]},茶叶,红茶" for n, (code, *_) in enumerate(GOODS)]
    file = written(tmp_path, "\n".join(["商品编码,商品名称,库存,状态,一级类目,二级类目", *rows]))
    suggestion = suggest_map(file)
    assert (suggestion.columns.get("available"), suggestion.columns["stock"]) == (taken, "库存")
    for mapping in (None, parse_map(suggestion.toml(), "suggested")):
        with Workspace.create(tmp_path / f"{mapping is None}") as shop:
            load_file(shop, file, "items", mapping=mapping)
            items = view(shop.store()).items()
        assert items["category"].to_list() == [["茶叶", "红茶"]] * 12
    assert items["available"].sum() == n_items


def test_people_and_consent(tmp_path: Path) -> None:
    people = "kontakt,Kiez,city,religion\n" + "".join(f"p{n}@example.com,x,Ulm,none\n" for n in range(9))
    suggestion = suggest_map(written(tmp_path, people))
    assert (suggestion.table, suggestion.columns) == (Table.USERS, {"user_id": "kontakt"})
    assert suggestion.basics == {"city": "city"}
    assert any("left out, since the law protects them specially: religion" in remark for remark in suggestion.notes)
    assert "religion" not in suggestion.column_map().model_dump_json()
    consent = "wer,was,ja,seit\n" + "".join(f"p{n}@example.com,email,yes,2024-05-01T00:00:00Z\n" for n in range(9))
    suggestion = suggest_map(written(tmp_path, consent))
    assert suggestion.table is Table.CONSENT
    assert suggestion.columns == {"user_id": "wer", "purpose": "was", "granted": "ja", "timestamp": "seit"}


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("customer_id,name,city", "0000{n},Ann Smith {n},Ulm"),
        ("手机号,昵称,储值余额", "1351000000{n}\t,铲屎官 {n},{n}.50"),
    ],
)
def test_a_list_of_people_is_no_catalogue(header: str, row: str, tmp_path: Path) -> None:
    suggestion = suggest_map(written(tmp_path, "\n".join([header, *(row.format(n=n) for n in range(9))])))
    assert (suggestion.table, suggestion.columns) == (Table.USERS, {"user_id": header.split(",")[0]})


@pytest.mark.parametrize("language", table("map_suggestions", "tills"))
def test_names_that_tills_use(language: str, tmp_path: Path) -> None:
    for header, row, fills in table("map_suggestions", "tills")[language]:
        rows = [row.format(n=n, day=f"2025-03-{n:02d} 10:00", pieces=n % 3 + 1) for n in range(10, 28)]
        suggestion = suggest_map(written(tmp_path, "\n".join([header, *rows])))
        assert {field: suggestion.columns.get(field) for field in fills} == fills, header


@pytest.mark.parametrize("column", table("map_suggestions", "states"))
def test_states_of_orders_that_are_no_purchases(column: str, tmp_path: Path) -> None:
    states = table("map_suggestions", "states")[column]
    text = [state for of_kind in states.values() for state in of_kind]
    rows = [f"K{n % 7},X{n % 5},2024-05-01 10:{n:02d}:00,{text[n % len(text)]}" for n in range(48)]
    file = written(tmp_path, "\n".join([f"customer_id,item_id,date,{column}", *rows]))
    suggestion = suggest_map(file)
    assert suggestion.states == {column: {n: sorted(states[n]) for n in ("returned", "left_out", "unclear")}}
    assert "event" not in suggestion.columns and len(suggestion.notes) == 3
    n_of = {kind: sum(row.rsplit(",", 1)[1] in of_kind for row in rows) for kind, of_kind in states.items()}
    for mapping in (None, parse_map(suggestion.toml(), "suggested")):
        with Workspace.create(tmp_path / f"{mapping is None}", currency="EUR") as shop:
            report = load_file(shop, file, "events", mapping=mapping, tz="UTC")
            counts = dict(view(shop.store()).events()["event"].value_counts().iter_rows())
        assert counts == {"return": n_of["returned"], "purchase": n_of["bought"] + n_of["unclear"]}
        assert report.left_out == {"was cancelled or not paid": n_of["left_out"]}


def test_a_file_that_nothing_can_be_said_of(tmp_path: Path) -> None:
    file = written(tmp_path, "a,b\n" + "".join(f"{n * 7},blue\n" for n in range(30)))
    with pytest.raises(NothingToDo, match="unclear which table it is") as refused:
        suggest_map(file)
    assert "a: 100% numbers" in str(refused.value) and "30 different" in str(refused.value)
    with pytest.raises(NothingToDo, match="no rows"):
        suggest_map(written(tmp_path, "a,b\n"))


def test_from_the_command_line(run: Command, tmp_path: Path) -> None:
    file = written(tmp_path, orders("tilaus,customer_id,hetki,item_id,nimike,kpl,price,summa"))
    code, out, _ = run("ingest", str(file), "--suggest", "--map", "my.toml")
    assert code == 0 and "timestamp: hetki" in out and "its values are times" in out and "[columns]" not in out
    assert load_map(tmp_path / "my.toml").columns["user_id"] == ("customer_id",)
    assert run("ingest", str(file), "--suggest", "--map", "my.toml")[0] == 2, "what is there is not written over"
    code, out, _ = run("ingest", "--suggest", str(file), "--read", "tz=UTC", "--json")
    document = json.loads(out)
    assert code == 0 and document["table"] == "events"
    assert 'tz = "UTC"' in document["map"]
    (tmp_path / "profiles.csv").write_text("Email,Klaviyo ID,Date Added\na@b.c,1,2024-01-01\n")
    code, out, _ = run("ingest", "--suggest", "profiles.csv")
    assert code == 0 and "takes it without a map" in out
    assert run("ingest", "--suggest", str(file), "--table", "things")[0] == 2
