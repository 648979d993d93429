"""Exports of shop systems are recognised, and what they say is in the store."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from conftest import Command
from exports import (
    Export,
    amazon,
    analytics,
    china,
    ebay,
    lists,
    magento,
    people,
    prestashop,
    shopify,
    taobao,
    woocommerce,
    workbook_of,
)
from store_view import view

from recllm.errors import IngestError, UsageError
from recllm.ingest.options import IngestOptions
from recllm.ingest.sources import known_sources, recognise, recognise_file
from recllm.jobs.load import load_export
from recllm.policy import Policy
from recllm.schema import Table
from recllm.workspace.workspace import Workspace

SYSTEMS = (shopify, woocommerce, magento, prestashop, amazon, ebay, taobao, china, analytics, people, lists)
EXPORTS = [export for system in SYSTEMS for export in system.exports(random.Random(1))]


@pytest.mark.parametrize("export", EXPORTS, ids=lambda export: f"{export.source}-{export.file_name}")
def test_an_export_is_known_and_what_it_says_is_in_the_store(export: Export, tmp_path: Path) -> None:
    file = tmp_path / export.file_name
    file.write_bytes(export.content)
    with Workspace.create(tmp_path / "shop", consent_default=False, currency="USD", timezone="UTC") as shop:
        recognised, reports = load_export(shop, file, consent_from=export.consent_from, **export.options)
        assert recognised.source.name == export.source
        accepted: dict[Table, int] = {}
        for report in reports:
            accepted[report.table] = accepted.get(report.table, 0) + report.accepted
            assert set(report.codes) <= {"E_MAP_REJECT"}, report.codes
        assert accepted == export.accepted
        names, stored = shop.pseudonymiser(), view(shop.store())
        events = stored.events()
        found = sorted(
            (row["user_id"], row["item_id"], row["event"], row["timestamp"].isoformat(), row["quantity"], row["price"])
            for row in events.iter_rows(named=True)
        )
        assert found == sorted(
            (names.one(e.user_id), e.item_id, e.event, e.at, e.quantity, e.price) for e in export.events
        )
        items = {row["item_id"]: row for row in stored.items().iter_rows(named=True)}
        for item_id, values in export.items.items():
            for name, value in values.items():
                assert items[item_id][name] == value, (item_id, name)
        basics = {row["user_id"]: json.loads(row["basics"]) for row in stored.users().iter_rows(named=True)}
        for user_id, told in export.basics.items():
            assert told.items() <= basics[names.one(user_id)].items()
        with shop.store().read() as reader:
            decisions = reader.consent()
        decided = {(row["user_id"], row["purpose"]): row["granted"] for row in decisions.iter_rows(named=True)}
        assert decided == {(names.one(user), purpose): yes for (user, purpose), yes in export.consent.items()}
        _, again = load_export(shop, file, consent_from=export.consent_from, **export.options)
        assert not any(report.accepted for report in again if report.table is Table.EVENTS), "sent twice it counts once"


def test_every_source_has_an_export_and_says_what_it_cannot() -> None:
    kinds = {name: source for name, source in known_sources().items() if source.gives_nothing is None}
    assert {export.source for export in EXPORTS} == set(kinds)
    assert all(source.caveats and source.maps for source in kinds.values())


def test_signatures_tell_systems_apart(tmp_path: Path) -> None:
    for export in EXPORTS:
        file = tmp_path / export.file_name
        file.write_bytes(export.content)
        recognised = recognise_file(file, Policy(), IngestOptions())
        assert (recognised.source.name, recognised.alternatives) == (export.source, ())


def test_the_same_columns_in_another_language_are_the_same_kind() -> None:
    for source in known_sources().values():
        for language, names in source.languages.items():
            columns = [names.get(entry[0], entry)[0] for entry in source.signature]
            assert len(set(columns)) == len(columns), (source.name, language)
            assert recognise(columns, "a.csv").source.name == source.name, (source.name, language)


def test_a_list_of_orders_without_people_and_products_is_refused_with_what_to_load(tmp_path: Path) -> None:
    file = tmp_path / "commandes.csv"
    head = "ID;Référence;Nouveau client;Livraison;Client;Total;Paiement;État;Date"
    file.write_bytes(f"{head}\r\n3360;IAMEBUBNN;0;France;B. FAÇON;34,50 €;PayPal;Livré;24/11/2026 15:19:38".encode())
    with pytest.raises(IngestError, match=r"prestashop-orders\.toml") as refused:
        recognise_file(file, Policy(), IngestOptions())
    assert refused.value.code == "E_SOURCE"


def test_an_encoding_is_not_guessed_from_the_header_alone(tmp_path: Path) -> None:
    export = next(export for export in EXPORTS if export.source == "amazon-listings")
    file, text = tmp_path / export.file_name, export.content.decode("cp1252")
    for word, encoding in (
        ("Сковорода чугунная", "cp1251"),
        ("СКОВОРОДА ЛИТАЯ", "cp1251"),
        ("Pánvička žíhaná čšřž", "cp1250"),
        ("鋳鉄フライパン", "cp932"),
    ):
        file.write_bytes(text.replace("Café press", word).replace("–", "-").encode(encoding))
        if encoding == "cp932":  # which Amazon's reports in Japan are
            assert recognise_file(file, Policy(), IngestOptions()).encoding == encoding
            continue
        with pytest.raises(IngestError) as refused:
            recognise_file(file, Policy(), IngestOptions())
        assert refused.value.code == "E_ENCODING"


def test_of_columns_of_one_name_the_first_counts_where_the_kind_is_known(tmp_path: Path) -> None:
    export = next(export for export in EXPORTS if export.source == "youzan-order-list")
    header, *lines = export.content.decode("utf-8-sig").splitlines()
    rows = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
    for name, content in (("orders.csv", export.content), ("orders.xlsx", workbook_of(header, rows))):
        (tmp_path / name).write_bytes(content)
        with Workspace.create(tmp_path / f"shop of {name}", currency="CNY") as shop:
            _, reports = load_export(shop, tmp_path / name)
        assert {report.table: report.accepted for report in reports} == export.accepted
        assert all(report.warnings["W_DUP_COLUMN"] == 1 for report in reports)
    (tmp_path / "other.csv").write_text("user_id,item_id,timestamp,note,note\na,i,2024-05-01T00:00:00Z,x,y\n")
    with pytest.raises(IngestError) as refused:
        recognise_file(tmp_path / "other.csv", Policy(), IngestOptions())
    assert refused.value.code == "E_SOURCE", "of no known kind"


def test_a_zone_that_the_system_is_known_for_stands_in_where_nothing_says_one(tmp_path: Path) -> None:
    export = next(export for export in EXPORTS if export.source == "ebay-orders")
    (tmp_path / export.file_name).write_bytes(export.content)
    starts = {}
    for zone in (None, "Europe/Berlin"):
        with Workspace.create(tmp_path / f"shop{zone is None}", currency="USD", timezone=zone) as shop:
            load_export(shop, tmp_path / export.file_name)
            starts[zone] = view(shop.store()).events()["timestamp"].min()
    assert (starts[None] - starts["Europe/Berlin"]).total_seconds() == 9 * 3600


def test_ids_that_are_formulas_without_quotes_around_them_are_read_too(tmp_path: Path) -> None:
    export = next(export for export in EXPORTS if export.source == "taobao-order-lines")
    file = tmp_path / export.file_name
    text = re.sub(r'"=""(\d+)"""', r'="\1"', export.content.decode("gb18030"))
    assert '="2' in text
    file.write_bytes(text.encode("gb18030"))
    with Workspace.create(tmp_path / "shop", currency="CNY") as shop:
        reports = load_export(shop, file)[1]
        assert {report.table: report.accepted for report in reports} == export.accepted
        baskets = view(shop.store()).events()["basket_id"].unique().to_list()
    assert set(baskets) == {event.basket_id for event in export.events}


def test_consent_has_the_time_at_which_it_was_given_or_that_of_the_load(tmp_path: Path) -> None:
    export = next(export for export in EXPORTS if export.source == "klaviyo-profiles")
    file = tmp_path / export.file_name
    file.write_bytes(export.content)
    with Workspace.create(tmp_path / "shop", currency="USD") as shop:
        load_export(shop, file, consent_from=["SMS Marketing Consent", "email marketing consent"])
        names = shop.pseudonymiser()
        with shop.store().read() as reader:
            times = {(row["user_id"], row["purpose"]): row["at"] for row in reader.consent().to_dicts()}
    assert times[names.one("person4@example.com"), "email"].isoformat() == "2024-02-05T10:00:00+00:00"
    assert times[names.one("person2@example.com"), "sms"].isoformat() == "2024-03-01T10:00:00+00:00"
    assert times[names.one("person1@example.com"), "sms"].year > 2025, "without a time it counts from the load"


def test_consent_is_taken_in_only_when_told_so(tmp_path: Path) -> None:
    export = next(export for export in EXPORTS if export.source == "shopify-orders")
    file = tmp_path / export.file_name
    file.write_bytes(export.content)
    with Workspace.create(tmp_path / "shop", currency="USD") as shop:
        load_export(shop, file)
        with shop.store().read() as reader:
            assert not len(reader.consent())
        with pytest.raises(UsageError, match="it has Accepts Marketing"):
            load_export(shop, file, consent_from=["Email"])


def test_a_file_of_no_known_kind_is_told_what_is_nearest() -> None:
    with pytest.raises(IngestError, match=r"Shopify: products \(missing: Vendor, Variant Price\)") as refused:
        recognise(["Handle", "Title", "Body (HTML)", "Variant SKU"], "a.csv")
    assert refused.value.code == "E_SOURCE" and "--table" in str(refused.value)


def test_a_shops_own_files_become_its_page_in_one_command(run: Command, tmp_path: Path) -> None:
    files = []
    for export in EXPORTS:
        if export.source.startswith("shopify"):
            files.append(str(tmp_path / export.file_name))
            (tmp_path / export.file_name).write_bytes(export.content)
    options = ("--encoder", "toy", "--generator", "template", "--currency", "USD", "-w", "mine")
    code, out, _ = run("start", *files, *options, "--consent-default", "granted", "--json")
    assert code == 0
    record = json.loads(out)
    assert [file["title"] for file in record["files"]] == ["Shopify: orders", "Shopify: products", "Shopify: customers"]
    assert {load["table"] for load in record["loads"]} == {"items", "users", "events"}
    assert len(record["people"]) == 3 and all(slate["items"] for slate in record["slates"])
    assert "--consent-from" in record["next"][0]["command"]
    page = Path(record["report"]).read_text("utf-8")
    assert "one who ordered with two addresses is two people" in page and "recllm serve" in page
    assert "example.com" not in page, "people are told by pseudonym"
    code, _, errors = run("start", *files, *options, "--consent-from", "Nothing")
    assert code == 2 and "Accepts Marketing" in errors
    code, out, _ = run("start", *files, "--encoder", "toy", "--generator", "template", "-w", "denied", "--json")
    assert code == 0 and "model" in json.loads(out)["problems"], "without consent nothing is learned, and it is said"
    assert any("has not agreed to be learned from" in step["text"] for step in json.loads(out)["next"])
    code, _, errors = run("start", *files, "--consent-default", "granted", "-w", "denied")
    assert code == 2 and "consent_default = False" in errors


def test_from_the_command_line(run: Command, tmp_path: Path) -> None:
    for export in EXPORTS[:2]:
        (tmp_path / export.file_name).write_bytes(export.content)
    assert run("init", "-w", "shop", "--currency", "USD")[0] == 0
    code, out, _ = run("ingest", str(tmp_path / "orders_export_1.csv"), "-w", "shop")
    assert code == 0 and "Shopify: orders" in out and "two addresses" in out and "--consent-from" in out
    assert "who said no" not in out
    assert run("init", "-w", "open", "--currency", "USD", "--consent-default", "granted")[0] == 0
    export = str(tmp_path / "orders_export_1.csv")
    assert "until then who said no there counts as agreed" in run("validate", export, "-w", "open")[1]
    told = run("validate", export, "-w", "open", "--consent-from", "Accepts Marketing")[1]
    assert "who said no" not in told
    code, out, _ = run("validate", str(tmp_path / "products_export_1.csv"), "-w", "shop", "--json")
    assert code == 0 and json.loads(out)["source"] == "shopify-products"
    assert run("ingest", str(tmp_path / "orders_export_1.csv"), "--map", "x", "-w", "shop")[0] == 2
    words = known_sources()["shopify-orders"].zh
    assert words is not None
    assert run("init", "-w", "chinese", "--currency", "USD", "--locale", "zh-CN")[0] == 0
    for command in ("validate", "ingest"):
        _, out, _ = run(command, str(tmp_path / "orders_export_1.csv"), "-w", "chinese")
        assert all(sentence in out for sentence in (words.title, *words.caveats)) and "Shopify: " not in out


def test_orders_change_nothing_that_the_catalogue_says(tmp_path: Path) -> None:
    with Workspace.create(tmp_path / "shop", currency="USD") as shop:
        for source in ("shopify-products", "shopify-customers", "shopify-orders"):
            export = next(export for export in EXPORTS if export.source == source)
            (tmp_path / export.file_name).write_bytes(export.content)
            load_export(shop, tmp_path / export.file_name)
        items = {row["item_id"]: row for row in view(shop.store()).items().iter_rows(named=True)}
        assert items["LS-M"]["title"] == "Linen shirt M" and items["LS-M"]["category"] == ["Apparel", "Tops"]
        assert json.loads(items["Mug"]["attributes"]) == {"parent": "mug"}
