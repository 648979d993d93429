"""What a column map can say about files of another shape: parents, lines in cells, footers, paths, equal cells."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from store_view import view
from tables import table

from recllm.base.errors import IngestError
from recllm.base.schema import IngestReport
from recllm.shop.ingest.options import IngestOptions, JoinedColumns, WrittenPath, parse_map
from recllm.shop.ingest.sources import recognise_file
from recllm.shop.ingest.workspace_load import load_export, load_file
from recllm.shop.workspace.workspace import Workspace


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.create(tmp_path / "shop", consent_default=True, currency="EUR", timezone="UTC") as opened:
        yield opened


def load(shop: Workspace, text: str, table: str, mapping: str, **options: Any) -> IngestReport:
    file = shop.root.parent / "file.csv"
    file.write_text(text, "utf-8")
    return load_file(shop, file, table, mapping=parse_map(mapping, "m"), **options)


def items(shop: Workspace) -> dict[str, dict[str, Any]]:
    return {row["item_id"]: row for row in view(shop.store()).items().iter_rows(named=True)}


NAMED = """
[parents]
named_by = "of"
keys = { sku = "", id = "id:" }
columns = ["text"]
name = "group"
[columns]
item_id = "sku"
title = "name"
description = "text"
[attributes]
group = "group"
"""


def test_a_variant_has_what_its_product_says_wherever_that_stands(shop: Workspace) -> None:
    rows = (
        "id,sku,name,text,of\n2,a,A,,P\n3,b,B,own,P\n4,c,C,,id:9\n5,d,D,,gone\n1,P,Product,shared,\n9,,Other,other,\n"
    )
    shop.policy = shop.policy.model_copy(update={"reject_limit": 0.5})
    report = load(shop, rows, "items", NAMED, block_bytes=64)
    assert report.codes == {"E_NO_ITEM": 1}
    found = {name: (row["description"], row["attributes"]) for name, row in items(shop).items()}
    assert found == {
        "a": ("shared", '{"group": "P"}'),
        "b": ("own", '{"group": "P"}'),
        "c": ("other", '{"group": "id:9"}'),
        "d": (None, '{"group": "gone"}'),
        "P": ("shared", "{}"),
    }


def test_a_product_may_list_its_variants(shop: Workspace) -> None:
    mapping = NAMED.replace('named_by = "of"', 'lists = "of"\nmatches = "sku=(\\\\w+)"').replace(', id = "id:"', "")
    load(
        shop,
        "sku,name,text,of\na,A,,\nb,B,,\nP,Product,shared,sku=a,x=1|sku=c\n".replace("a,x", "a;x"),
        "items",
        mapping,
    )
    found = {name: (row["description"], row["attributes"]) for name, row in items(shop).items()}
    assert found == {"a": ("shared", '{"group": "P"}'), "b": (None, "{}"), "P": ("shared", "{}")}


@pytest.mark.parametrize("text", table("rearranged_files", "wrong parts of a map"))
def test_wrong_parts_of_a_map_are_told(text: str) -> None:
    with pytest.raises(IngestError, match=r"takes one of|has to have one group|is not a pattern"):
        parse_map(text, "m")


LINES = """
[lines]
columns = "^line \\\\d$"
separator = "|"
names = { name = "line name", n = "pieces" }
[columns]
user_id = "who"
item_id = "line name"
timestamp = "when"
quantity = "pieces"
[[reject]]
column = "line name"
empty = true
reason = "nothing ordered"
"""


def test_each_cell_with_a_line_of_an_order_is_a_row(shop: Workspace) -> None:
    rows = "who,when,line 1,line 2,variable\nann,2024-05-01,name:a: b|n:2,name:c,x\nbob,2024-05-02,,,x\n"
    rows += "eve,2024-05-03,n:1|name:,name:d|n:9,x\n"
    report = load(shop, rows, "events", LINES)
    assert (report.read, report.accepted, report.codes) == (5, 3, {"E_MAP_REJECT": 2})
    events = view(shop.store()).events()
    assert sorted(events.select("item_id", "quantity").rows()) == [("a: b", 2.0), ("c", 1.0), ("d", 9.0)]
    with pytest.raises(IngestError, match="no column whose name is matched by"):
        load(shop, "who,when,line\nann,2024-05-01,x\n", "events", LINES)


def test_a_footer_is_no_mistake_and_other_short_lines_are(shop: Workspace) -> None:
    shop.policy = shop.policy.model_copy(update={"reject_limit": 0.5})
    rows = "Customer ID,SKU,Date\n" + "".join(f"u,i{n},2024-05-0{n}\n" for n in range(1, 9))
    report = load(shop, rows + "8 rows\nseller,x\n", "events", 'footer = "^\\\\d+ rows"', dry_run=True)
    assert report.accepted == 8 and report.codes == {"E_MAP_REJECT": 1, "E_FIELD_COUNT": 1}


def test_of_several_written_paths_the_longest_counts() -> None:
    path = WrittenPath(column="c", levels=">", several=",", without=("All",))
    assert path.names("All, All > Tops > Knits\\, wool, Sale > May") == ["Tops", "Knits, wool"]
    assert path.names("Sale, New") == ["Sale"] and path.names("") == []


def test_equal_cells_are_equal_numbers_too(shop: Workspace) -> None:
    mapping = '[[returns]]\ncolumn = "Back"\nequals = "Qty"'
    rows = "Customer ID,SKU,Date,Qty,Back\nu,a,2024-05-01,2.0000,2\nu,b,2024-05-01,2,1\nu,c,2024-05-01,2,\n"
    assert load(shop, rows, "events", mapping).accepted == 3
    events = view(shop.store()).events().sort("item_id")
    assert events["event"].to_list() == ["return", "purchase", "purchase"]


def test_what_stands_instead_of_a_joined_text(shop: Workspace) -> None:
    join = JoinedColumns(columns=("number", "size"), separator="-", instead=("sku",))
    mapping = f"[joins]\nitem_id = {{ columns = {list(join.columns)}, separator = '-', instead = ['sku'] }}"
    load(shop, "number,size,sku,title\n1,S,,A\n1,M,x,B\n2,,,C\n", "items", mapping)
    assert set(items(shop)) == {"1-S", "x", "2"}


def test_quotes_that_quote_nothing(shop: Workspace) -> None:
    rows = 'item_id\ttitle\n1\t"Best" mug\n2\t27" screen\n3\t"open\n'
    report = load(shop, rows, "items", '[read]\nquotes = "off"\ndelimiter = "\\t"')
    assert report.accepted == 3 and items(shop)["3"]["title"] == '"open'


def test_an_encoding_that_a_source_says_is_tried_for_its_files_alone(shop: Workspace, tmp_path: Path) -> None:
    file = tmp_path / "report.txt"
    head = "amazon-order-id\torder-status\titem-status\tpurchase-date\tasin\tsku\tproduct-name\n"
    file.write_bytes((head + "1\tShipped\tShipped\t2024-05-01T00:00:00Z\tB0\tS\tCafé\n").encode("cp1252"))
    assert recognise_file(file, IngestOptions()).source.name == "amazon-all-orders"
    load_export(shop, file)
    assert items(shop)["S"]["title"] == "Café"
    file.write_bytes("user_id,item_id,note\nann,1,Café\n".encode("cp1252"))
    with pytest.raises(IngestError) as refused:
        recognise_file(file, IngestOptions())
    assert refused.value.code == "E_ENCODING"


@pytest.mark.parametrize(
    ("text", "day"), [("May-01-24", "2024-05-01"), ("1 September 2024", "2024-09-01"), ("Dec 31, 2023", "2023-12-31")]
)
def test_months_by_name(shop: Workspace, text: str, day: str) -> None:
    load(shop, f'Customer ID,SKU,Date\nu,a,"{text}"\nu,b,Jan-02-24 13:00\n', "events", "[read]\n")
    times = view(shop.store()).events().filter(pl.col("item_id") == "a")["timestamp"]
    assert times[0].date().isoformat() == day


def test_a_month_without_a_day_is_no_time(shop: Workspace) -> None:
    with pytest.raises(IngestError, match="E_TIMESTAMP 2"):
        load(shop, "Customer ID,SKU,Date\nu,a,May 2024\nu,b,1 May 2 2024\nu,c,1 May 2024\n", "events", "[read]\n")


def test_a_name_of_another_column_is_not_given_again(shop: Workspace) -> None:
    column_map = """
[renames]
Name = "title"
Titel = "title"
Nummer = "item_id"
"""
    assert load(shop, "Nummer,Name,Titel\n1,Mug,Becher\n", "items", column_map).accepted == 1
    assert items(shop)["1"]["title"] == "Mug"


COMPOSED = r"""
[composed.at]
columns = ["day", "clock"]
[composed.code]
columns = ["text"]
matches = '^(.+) x(\d+)$'
text = "${1}/${2}"
[columns]
timestamp = "at"
item_id = "code"
"""


def test_composed_columns(shop: Workspace) -> None:
    rows = [f"{person},2024-05-01,12:00:00,mug x2" for person in "ab"]
    report = load(shop, "\n".join(["user_id,day,clock,text", *rows, ""]), "events", COMPOSED)
    assert report.accepted == 2 and report.ignored_columns == (), "what a column is composed of is read"
    events = view(shop.store()).events()
    assert [time.hour for time in events["timestamp"]] == [12, 12]
    assert set(events["item_id"]) == {"mug/2"}
