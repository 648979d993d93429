"""Exports of shop systems are recognised, and what they say is in the store."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from conftest import Command
from exports import EXPORTS, Export, first_export, workbook_of
from store_view import refused_rows, view
from tables import table

from recllm.base.errors import IngestError, UsageError
from recllm.base.schema import Purpose, Table
from recllm.shop.ingest.options import IngestOptions
from recllm.shop.ingest.sources import known_sources, recognise, recognise_file
from recllm.shop.ingest.workspace_load import load_export
from recllm.shop.workspace.workspace import Workspace


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
        assert decided(shop) == {(names.one(user), purpose): yes for (user, purpose), yes in export.consent.items()}
        _, again = load_export(shop, file, consent_from=export.consent_from, **export.options)
        assert not any(report.accepted for report in again if report.table is Table.EVENTS), "sent twice it counts once"


def test_every_source_has_an_export_and_says_what_it_cannot() -> None:
    kinds = {name: source for name, source in known_sources().items() if source.gives_nothing is None}
    assert {export.source for export in EXPORTS} == set(kinds)
    assert all(source.caveats and source.maps for source in kinds.values())


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
        recognise_file(file, IngestOptions())
    assert refused.value.code == "E_SOURCE"


def test_an_encoding_is_not_guessed_from_the_header_alone(tmp_path: Path) -> None:
    export = first_export("amazon-listings")
    file, text = tmp_path / export.file_name, export.content.decode("cp1252")
    for word, encoding in (
        ("Сковорода чугунная", "cp1251"),
        ("СКОВОРОДА ЛИТАЯ", "cp1251"),
        ("Pánvička žíhaná čšřž", "cp1250"),
        ("鋳鉄フライパン", "cp932"),
    ):
        file.write_bytes(text.replace("Café press", word).replace("–", "-").encode(encoding))
        if encoding == "cp932":  # which Amazon's reports in Japan are
            assert recognise_file(file, IngestOptions()).encoding == encoding
            continue
        with pytest.raises(IngestError) as refused:
            recognise_file(file, IngestOptions())
        assert refused.value.code == "E_ENCODING"


def test_of_columns_of_one_name_the_first_counts_where_the_kind_is_known(tmp_path: Path) -> None:
    export = first_export("youzan-order-list")
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
        recognise_file(tmp_path / "other.csv", IngestOptions())
    assert refused.value.code == "E_SOURCE", "of no known kind"


def test_a_zone_that_the_system_is_known_for_stands_in_where_nothing_says_one(tmp_path: Path) -> None:
    export = first_export("ebay-orders")
    (tmp_path / export.file_name).write_bytes(export.content)
    starts = {}
    for zone in (None, "Europe/Berlin"):
        with Workspace.create(tmp_path / f"shop{zone is None}", currency="USD", timezone=zone) as shop:
            load_export(shop, tmp_path / export.file_name)
            starts[zone] = view(shop.store()).events()["timestamp"].min()
    assert (starts[None] - starts["Europe/Berlin"]).total_seconds() == 9 * 3600


def test_ids_that_are_formulas_without_quotes_around_them_are_read_too(tmp_path: Path) -> None:
    export = first_export("taobao-order-lines")
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
    export = first_export("klaviyo-profiles")
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


def decided(shop: Workspace) -> dict[tuple[str, str], bool]:
    """(pseudonym, purpose) -> the last decision."""
    with shop.store().read() as reader:
        return {(row["user_id"], row["purpose"]): row["granted"] for row in reader.consent().iter_rows(named=True)}


@pytest.mark.parametrize("default", [True, False])
def test_refusals_are_always_taken_in_and_agreements_only_when_said_so(default: bool, tmp_path: Path) -> None:
    wrong = {}
    for number, export in enumerate(export for export in EXPORTS if export.consent):
        file = tmp_path / export.file_name
        file.write_bytes(export.content)
        kind = known_sources()[export.source].consent
        assert kind is not None
        # agreements where the shop's default is no: in the test of every export
        choices = ((), export.consent_from[:1], export.consent_from) if default else ((),)
        for chosen in dict.fromkeys(choices):
            folder = tmp_path / f"shop{number}-{len(chosen)}"
            settings = {"currency": "USD", "timezone": "UTC", "consent_default": default}
            with Workspace.create(folder, **settings) as shop:
                _, reports = load_export(shop, file, consent_from=chosen)
                assert not any(report.codes.keys() - {"E_MAP_REJECT"} for report in reports), export.file_name
                purposes = {kind.columns.get(column, "email") for column in chosen}
                names = shop.pseudonymiser()
                expected = {
                    (names.one(user), purpose): said
                    for (user, purpose), said in export.consent.items()
                    if not said or purpose in purposes
                }
                stored = decided(shop)
                if stored != expected:
                    wrong[export.file_name, chosen] = set(stored.items()) ^ set(expected.items())
                for purpose in (Purpose.EMAIL, Purpose.SMS):
                    refused = [user for (user, of), said in expected.items() if of == purpose and not said]
                    assert not any(shop.gate().permits_each(refused, purpose))
    assert not wrong


NO, NOT_SAID = table("sources", "no"), table("sources", "not said")


def test_what_a_refusal_is_in_the_words_of_a_system(tmp_path: Path) -> None:
    """Also in a file of the years before a column was renamed, and beside a column that the file lacks."""
    for column in ("Accepts Email Marketing", "Accepts Marketing"):
        rows = [f"{n},p{n}@example.com,{said},1.00,1" for n, said in enumerate((*NO, *NOT_SAID))]
        file = tmp_path / "customers.csv"
        file.write_text("\n".join([f"Customer ID,Email,{column},Total Spent,Total Orders", *rows]))
        with Workspace.create(tmp_path / column.replace(" ", ""), currency="USD", consent_default=True) as shop:
            load_export(shop, file)
            names = [shop.pseudonymiser().one(f"p{n}@example.com") for n in range(len(rows))]
            assert decided(shop) == {(name, "email"): False for name in names[: len(NO)]}
            assert shop.gate().permits_each(names, Purpose.EMAIL) == [False] * len(NO) + [True] * len(NOT_SAID)
            with pytest.raises(UsageError, match=f"it has {column}$"):
                load_export(shop, file, consent_from=["Accepts SMS Marketing"])


def test_an_answer_that_means_nothing_is_set_aside_and_counts_as_neither(tmp_path: Path) -> None:
    rows = [f"{n},p{n}@example.com,{said},1.00,1" for n, said in enumerate(["no"] * 40 + ["yes", "perhaps"])]
    (tmp_path / "customers.csv").write_text(
        "\n".join(["Customer ID,Email,Accepts Email Marketing,Total Spent,Total Orders", *rows])
    )
    with Workspace.create(tmp_path / "shop", currency="USD", consent_default=True) as shop:
        users, consent = load_export(shop, tmp_path / "customers.csv")[1]
        assert (users.accepted, consent.read, consent.accepted, consent.codes) == (42, 41, 40, {"E_GRANTED": 1})
        (line,) = refused_rows(consent)
        assert (line["line_no"], "p41@example.com" in line["raw"]) == (43, True)


def test_a_file_of_no_known_kind_is_told_what_is_nearest() -> None:
    with pytest.raises(IngestError, match=r"Shopify: products \(missing: Vendor, Variant Price\)") as refused:
        recognise(["Handle", "Title", "Body (HTML)", "Variant SKU"], "a.csv")
    assert refused.value.code == "E_SOURCE" and "--table" in str(refused.value)


def test_a_shops_own_files_become_its_page_in_one_command(run: Command, tmp_path: Path) -> None:
    """As README prints it."""
    readme = (Path(__file__).parents[1] / "README.md").read_text("utf-8").replace("\\\n", "")
    printed = shlex.split(next(line for line in readme.splitlines() if line.startswith("recllm start products")))[1:]
    files = [word for word in printed if word.endswith(".csv")]
    for name in files:
        export = first_export(f"shopify-{name.removesuffix('_export.csv')}")
        (tmp_path / name).write_bytes(export.content)
    options, sender = ("--encoder", "toy"), printed[printed.index("--sender") :]
    code, out, _ = run(*printed, *options, "--json")
    assert code == 0
    record = json.loads(out)
    assert [file["title"] for file in record["files"]] == ["Shopify: products", "Shopify: customers", "Shopify: orders"]
    assert {load["table"] for load in record["loads"]} == {"items", "users", "consent", "events"}
    assert record["currency"] == "USD", "as the orders say"
    assert record["people"] and all(slate["items"] for slate in record["slates"])
    assert record["contact"] == 3 and record["problems"].keys() >= {"model", "evaluation"}
    page = Path(record["report"]).read_text("utf-8")
    assert "one who ordered with two addresses is two people" in page and "recllm serve" in page
    assert "example.com" not in page, "people are told by pseudonym"
    code, _, errors = run("start", *files, *options, "--contact", "Nothing", "-w", "shop")
    assert code == 2 and "Accepts Marketing" in errors
    refused = ("--basis", "Accepts SMS Marketing", "--contact", "Accepts SMS Marketing", *sender, "-w", "refused")
    code, out, _ = run("start", *files, *options, *refused)
    assert code == 0 and "No customers may be written to yet" in out and "--contact COLUMN" in out


def test_from_the_command_line(run: Command, tmp_path: Path) -> None:
    for export in EXPORTS[:2]:
        (tmp_path / export.file_name).write_bytes(export.content)
    assert run("init", "-w", "shop", "--currency", "USD")[0] == 0
    code, out, _ = run("ingest", str(tmp_path / "orders_export_1.csv"), "-w", "shop")
    assert code == 0 and "Shopify: orders" in out and "two addresses" in out
    assert 'refusals are always taken in; for agreements, too: --consent-from "Accepts Marketing"' in out
    export = str(tmp_path / "orders_export_1.csv")
    taken = ("--consent-from", "Accepts Marketing")
    assert "--consent-from" not in run("ingest", "--dry-run", export, "-w", "shop", *taken)[1]
    code, out, _ = run("ingest", "--dry-run", str(tmp_path / "products_export_1.csv"), "-w", "shop", "--json")
    assert code == 0 and json.loads(out)["source"] == "shopify-products"
    assert run("ingest", str(tmp_path / "orders_export_1.csv"), "--map", "x", "-w", "shop")[0] == 2
    words = known_sources()["shopify-orders"].zh
    assert words is not None
    assert run("init", "-w", "chinese", "--currency", "USD", "--locale", "zh-CN")[0] == 0
    for command in (("ingest", "--dry-run"), ("ingest",)):
        _, out, _ = run(*command, str(tmp_path / "orders_export_1.csv"), "-w", "chinese")
        assert all(sentence in out for sentence in (words.title, *words.caveats)) and "Shopify: " not in out


def test_orders_change_nothing_that_the_catalogue_says(tmp_path: Path) -> None:
    with Workspace.create(tmp_path / "shop", currency="USD") as shop:
        for source in ("shopify-products", "shopify-customers", "shopify-orders"):
            export = first_export(source)
            (tmp_path / export.file_name).write_bytes(export.content)
            load_export(shop, tmp_path / export.file_name)
        items = {row["item_id"]: row for row in view(shop.store()).items().iter_rows(named=True)}
        shirt = items["linen-shirt"]
        assert (shirt["title"], shirt["category"]) == ("Linen shirt", ["Apparel", "Tops"])
        assert items.keys() == {"linen-shirt", "mug", "card", "old"}, "variants in orders are those of their product"
        assert set(view(shop.store()).events()["item_id"]) == {"linen-shirt", "mug"}


@pytest.mark.parametrize(
    ("system", "unsold", "title"),
    [
        ("shopify", {"card", "old"}, ("LS-S", "Linen shirt - S")),
        ("woocommerce", {"0030", "D", "H", "P", "id:20"}, ("S-LI", "Linen shirt")),
        ("youzan", {"MH", "PE", "XY-50"}, ("LJ-250", "明前龙井茶叶礼盒 250克")),
    ],
)
def test_products_after_orders_join_the_items_of_the_orders(
    system: str, unsold: set[str], title: tuple[str, str], tmp_path: Path
) -> None:
    with Workspace.create(tmp_path / "shop", currency="USD", timezone="Asia/Shanghai") as shop:
        for source in ("orders", "products", "products"):
            export = first_export(f"{system}-{source}")
            (tmp_path / export.file_name).write_bytes(export.content)
            _, reports = load_export(shop, tmp_path / export.file_name)
        assert sum(report.accepted for report in reports) == 0, "a second time it is the same"
        items = view(shop.store()).items()
        sold = set(view(shop.store()).events()["item_id"])
        assert set(items["item_id"]) == sold | unsold and not items["pending"].any()
        assert title in set(items.select("item_id", "title").rows())
        assert items.filter(items["item_id"].is_in(list(sold)))["category"].null_count() == 0
