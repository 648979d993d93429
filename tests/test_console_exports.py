"""Exports of shop systems in the console: told what they are and why, taken in without columns, consent when chosen."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from exports import Export, first_export
from fastapi.testclient import TestClient
from service_world import counts, serving
from tables import table
from waiting import until

from recllm.base.errors import IngestError
from recllm.base.schema import Purpose, Table
from recllm.base.words.sentences import LANGUAGES, sentences
from recllm.doors.console import data
from recllm.doors.console.data import UPLOADS
from recllm.shop.ingest.column_names import FIELDS
from recllm.shop.workspace.workspace import Workspace


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop where nothing is loaded."""
    with Workspace.create(
        tmp_path_factory.mktemp("console") / "shop", currency="USD", timezone="UTC", encoder="toy"
    ) as shop:
        return shop.root


@pytest.fixture(scope="module")
def service(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with serving(Path(shutil.copytree(made, tmp_path_factory.mktemp("looked at") / "shop")), console=True) as client:
        yield client


@pytest.fixture
def looking(service: TestClient) -> TestClient:
    service.cookies.delete("recllm-language")
    return service


def send(client: TestClient, path: str, files: Any = None, **fields: Any) -> Any:
    return client.post(path, data=fields, files=files, follow_redirects=False)


def upload(client: TestClient, name: str, content: bytes) -> str:
    """The address of the page that says what the file is."""
    answer = send(client, "/data/upload", {"file": (name, content, "text/csv")}, table="")
    assert answer.status_code == 303, answer.text
    return str(answer.headers["location"])


def upload_export(client: TestClient, source: str) -> tuple[str, Export]:
    export = first_export(source)
    return upload(client, export.file_name, export.content), export


def account(client: TestClient, answer: Any) -> str:
    """The page of a load that is over."""
    assert answer.status_code == 303, answer.text
    address = answer.headers["location"]
    until(lambda: "<progress" not in client.get(address).text)
    return client.get(address).text


def stored(folder: Path) -> dict[str, int]:
    return {name: n for name, n in counts(folder).items() if name in ("events", "consent", "users")}


def refusers(folder: Path, purpose: str) -> set[str]:
    """Of the people of the exports, those who refused a purpose."""
    people = [f"person{n}@example.com" for n in range(12)]
    with Workspace.open(folder) as shop:
        decisions = [shop.gate().decisions(name) for name in shop.pseudonymiser().many(people)]
    refusals = [by_purpose.get(Purpose(purpose), (True, None))[0] is False for by_purpose in decisions]
    return {person for person, is_refused in zip(people, refusals, strict=True) if is_refused}


ORDERS_TOLD = table("console_exports", "orders told")


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_console_says_what_a_file_is_and_why(looking: TestClient, language: str) -> None:
    address, _ = upload_export(looking, "shopify-orders")
    looking.cookies.set("recllm-language", language)
    page = looking.get(address).text
    assert not [sentence[language] for sentence in ORDERS_TOLD if sentence[language] not in page]
    assert 'name="consent" value="Accepts Marketing"' in page and "checked" not in page
    assert "field_user_id" not in page, "nobody has to choose columns"
    assert "person1@example.com" in page, "its first rows"


def test_an_export_goes_into_every_table_that_it_gives_with_refusals_alone(client: TestClient, folder: Path) -> None:
    address, export = upload_export(client, "shopify-orders")
    checked = account(client, send(client, f"{address}/export", act="check"))
    assert "Checked; nothing was written" in checked and stored(folder)["events"] == 0
    assert f'href="{address}"' in checked, "back to what the file is"
    page = account(client, send(client, f"{address}/export", act="load"))
    assert page.count("Rows read") == 4
    assert stored(folder) | {"consent": 0} == {"events": export.accepted[Table.EVENTS], "users": 12, "consent": 0}
    assert refusers(folder, "email") == {f"person{n}@example.com" for n in range(1, 12, 2)}
    assert not list((folder / UPLOADS).iterdir())


def test_consent_is_taken_out_of_the_columns_that_were_chosen(client: TestClient, folder: Path) -> None:
    address, _ = upload_export(client, "shopify-customers")
    refused = send(client, f"{address}/export", act="load", consent=["Email"])
    assert refused.status_code == 422 and "has no such column of consent" in refused.text
    page = account(client, send(client, f"{address}/export", act="load", consent=["Accepts Email Marketing"]))
    assert page.count("Rows read") == 3
    with Workspace.open(folder) as shop:
        decisions = shop.gate().decisions(shop.pseudonymiser().one("person1@example.com"))
        assert {purpose.value: granted for purpose, (granted, _) in decisions.items()} == {"email": True, "sms": False}
    assert refusers(folder, "sms") == {f"person{n}@example.com" for n in range(1, 6)}, "whatever was chosen"


def test_an_export_that_is_not_utf_8_is_read_as_it_was_written(client: TestClient, folder: Path) -> None:
    address, export = upload_export(client, "taobao-order-lines")
    page = client.get(address).text
    assert "Taobao and Tmall: order lines with buyers" in page and "小鱼_" in page
    account(client, send(client, f"{address}/export", act="load", tz="Asia/Shanghai"))
    assert stored(folder)["events"] == export.accepted[Table.EVENTS]


def test_somebody_may_know_better_and_come_back(looking: TestClient) -> None:
    address, _ = upload_export(looking, "shopify-orders")
    page = looking.get(f"{address}?table=events").text
    assert "field_user_id" in page and "By its columns this is Shopify: orders." in page and f'href="{address}"' in page


@pytest.mark.parametrize(
    ("language", "unknown", "nothing"),
    [
        ("en", "Shopify: products: missing Vendor, Variant Price", "Nothing of it can be taken in: it has one line"),
        ("zh", "Shopify：商品：缺少 Vendor, Variant Price", "其中没有可载入的内容：每个订单一行"),
    ],
)
def test_an_unknown_file_tells_the_nearest_kinds(
    looking: TestClient, language: str, unknown: str, nothing: str
) -> None:
    looking.cookies.set("recllm-language", language)
    page = looking.get(upload(looking, "a.csv", b"Handle,Title,Body (HTML),Variant SKU\nmug,Mug,x,M-1\n")).text
    assert unknown in page and "field_item_id" in page
    head = "ID,Référence,Nouveau client,Livraison,Client,Total,Paiement,État,Date"
    page = looking.get(upload(looking, "commandes.csv", f"{head}\n1,A,0,FR,B,3,P,L,2026-11-24\n".encode())).text
    assert nothing in page
    page = looking.get(upload(looking, "log.csv", b"user_id,item_id,timestamp\na,b,2025-01-01T00:00:00Z\n")).text
    assert "field_user_id" in page and "<details><summary>It is no export" not in page, "its own columns say enough"


def test_every_field_that_a_file_can_fill_has_a_name() -> None:
    fields = {f"field.{field}" for table in FIELDS.values() for field in table}
    assert all(fields <= set(sentences(language)) for language in LANGUAGES)


def test_what_went_in_before_a_refusal_stays(client: TestClient, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_file = data.load_file

    def refusing(*arguments: Any, **options: Any) -> Any:
        if arguments[2] is Table.EVENTS:
            raise IngestError("E_REJECT_LIMIT", "too many rows are bad")
        return load_file(*arguments, **options)

    monkeypatch.setattr(data, "load_file", refusing)
    address, _ = upload_export(client, "shopify-orders")
    page = account(client, send(client, f"{address}/export", act="load"))
    assert "This file was not loaded" in page and "What is listed here was taken in and stays" in page
    assert page.count("Rows read") == 3 and stored(folder)["events"] == 0 and stored(folder)["users"] == 12
    assert len(refusers(folder, "email")) == 6, "refusals come before what people did"
    monkeypatch.undo()
    account(client, send(client, f"{address}/export", act="load"))
    assert stored(folder)["events"] and stored(folder)["users"] == 12, "the same file again adds what is missing"
