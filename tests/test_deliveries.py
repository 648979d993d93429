"""What Shopify and WooCommerce post: signed, once, as their exports say it, and refusals at once."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import Command
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from service_world import serving
from store_view import view
from test_webhooks import JSON

from recllm.base.errors import IngestError, StoreError
from recllm.base.schema import Purpose
from recllm.shop.ingest.deliveries import exported_rows
from recllm.shop.ingest.query import cell_text
from recllm.shop.ingest.sources import known_sources
from recllm.shop.store.database import Store
from recllm.shop.workspace.webhooks import WebhookScheme, add_source
from recllm.shop.workspace.workspace import Workspace

RECORDED = Path(__file__).parent / "data" / "webhooks"
SECRET = "of-the-shop-system-0123456789"
HEADERS = {"shopify": "X-Shopify-Hmac-Sha256", "woocommerce": "X-WC-Webhook-Signature"}


@dataclass(frozen=True)
class Door:
    client: TestClient
    shop: Workspace

    def post(self, name: str, *, source: str = "", answered: int = 200, **changes: Any) -> dict[str, int]:
        """The answer to a recorded document with other values, signed."""
        system = name.partition("-")[0]
        body = json.dumps(json.loads((RECORDED / f"{name}.json").read_text()) | changes).encode()
        headers = {HEADERS[system]: signature(body)}
        answer = self.client.post(f"/webhooks/shop/{source or system}", content=body, headers=headers)
        assert answer.status_code == answered, answer.text
        return {outcome: n for outcome, n in answer.json().items() if n} if answered == 200 else {}

    def item(self, item_id: str) -> dict[str, Any]:
        return view(self.shop.store()).items().row(by_predicate=pl.col("item_id") == item_id, named=True)

    def permits(self, purpose: Purpose) -> bool:
        return self.shop.gate().permits(self.shop.pseudonymiser().one("ann@example.com"), purpose)


def signature(body: bytes, secret: str = SECRET) -> str:
    return base64.b64encode(hmac.new(secret.encode(), body, hashlib.sha256).digest()).decode()


@pytest.fixture
def door(shop: Path) -> Iterator[Door]:
    with Workspace.open(shop) as workspace:
        kinds = {"asked": WebhookScheme.SHOPIFY_CONSENT, **{kind: WebhookScheme(kind) for kind in HEADERS}}
        for name, kind in kinds.items():
            add_source(workspace, name, kind, SECRET)
    with serving(shop) as client, Workspace.open(shop) as workspace:
        yield Door(client, workspace)


@given(part=st.sampled_from(sorted(RECORDED.glob("*.json"))), values=st.lists(JSON, min_size=1), data=st.data())
def test_any_json_is_rows_or_a_refusal(part: Path, values: list[Any], data: st.DataObject) -> None:
    document = json.loads(part.read_text())
    for value in values:
        document[data.draw(st.sampled_from(sorted(document)))] = value
    for kind in known_sources().values():
        if kind.posted.fits(document):
            cells = [cell for row in exported_rows(kind, document) for cell in row.items()]
            with suppress(IngestError):  # lists within a cell
                assert all((cell_text(cell, name) or "").encode() is not None for name, cell in cells)


@pytest.mark.parametrize("system", HEADERS)
def test_an_order_counts_once_by_whatever_way(
    door: Door, system: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_before = view(door.shop.store()).counts()["events"]
    with monkeypatch.context() as patch:  # the process ends when the order is loaded and not counted yet

        def failing(*_: Any) -> None:
            raise StoreError("the end")

        patch.setattr(Store, "keep_delivery", failing)
        door.post(f"{system}-order", answered=503)
    assert door.post(f"{system}-order") == {"accepted": 1}
    assert door.post(f"{system}-order") == {"duplicates": 1}
    code, out, err = command(
        "ingest", str(RECORDED / f"{system}-order.csv"), "-w", "shop", "--json", "--read", "tz=UTC"
    )
    assert code == 0, err
    events = next(report for report in json.loads(out)["reports"] if report["table"] == "events")
    assert (events["accepted"], events["duplicates"]) == (0, 2)
    assert view(door.shop.store()).counts()["events"] == n_before + 2


def test_what_the_shop_did_not_sign_changes_nothing(door: Door) -> None:
    before = view(door.shop.store()).counts()
    body = (RECORDED / "shopify-order.json").read_bytes()
    genuine = {"X-Shopify-Hmac-Sha256": signature(body)}
    forged = {"X-Shopify-Hmac-Sha256": signature(body, "another secret of the system")}
    for path, content, headers in (
        ("shopify", body, forged),
        ("shopify", body, {}),
        ("shopify", body + b" ", genuine),
        ("woocommerce", body, genuine),
        ("nobody", body, genuine),
    ):
        assert door.client.post(f"/webhooks/shop/{path}", content=content, headers=headers).status_code == 401
    assert view(door.shop.store()).counts() == before
    # WooCommerce tries an address before it uses it
    ping = door.client.post("/webhooks/shop/woocommerce", data={"webhook_id": "12"})
    assert ping.status_code == 200 and set(ping.json().values()) == {0}
    for name, changes in (
        ("shopify-order", {"financial_status": None, "line_items": None}),
        ("shopify-order", {"email": ""}),
        ("woocommerce-product", {"type": "variable"}),
        ("woocommerce-order", {"status": "trash"}),
    ):
        assert door.post(name, **changes) == {"ignored": 1}
    assert view(door.shop.store()).counts() == before


def test_a_refusal_is_in_force_at_once_and_an_older_answer_ends_none(door: Door) -> None:
    said = {"email_marketing_consent": {"state": "subscribed", "consent_updated_at": "2026-03-02T03:41:00-05:00"}}
    assert door.permits(Purpose.EMAIL) and door.permits(Purpose.SMS)
    assert door.post("shopify-email-consent", source="asked") == {"accepted": 1}
    assert not door.permits(Purpose.EMAIL) and door.permits(Purpose.SMS)
    # delivered late: what was said a day before; the text messages of that day were refused, too
    assert door.post("shopify-customer", source="asked") == {"accepted": 1}
    assert not door.permits(Purpose.EMAIL) and not door.permits(Purpose.SMS)
    said["email_marketing_consent"]["consent_updated_at"] = "2026-03-04T09:00:00-05:00"
    assert door.post("shopify-email-consent", **said) == {"accepted": 1}
    assert not door.permits(Purpose.EMAIL), "an agreement counts where it was asked for alone"
    assert door.post("shopify-email-consent", source="asked", **said) == {"accepted": 1}
    assert door.permits(Purpose.EMAIL)
    basics = view(door.shop.store()).users()["basics"].to_list()
    assert '{"city": "Boston", "country": "US"}' in basics


def test_a_product_has_its_newest_state(door: Door) -> None:
    assert door.post("shopify-product") == {"accepted": 1}
    shirt = door.item("linen-shirt")
    assert (shirt["title"], shirt["price"], shirt["available"], shirt["brand"]) == (
        "Linen shirt",
        "49.00",
        True,
        "Leaf",
    )
    changes = {"status": "draft", "title": "Half a sign \ud83d", "updated_at": "2026-03-02T10:00:00-05:00"}
    assert door.post("shopify-product", **changes) == {"accepted": 1}
    assert not door.item("linen-shirt")["available"]
    assert door.post("shopify-product", updated_at="2026-03-01T11:00:00-05:00") == {"ignored": 1}
    assert not door.item("linen-shirt")["available"]
    assert door.post("shopify-order") == {"accepted": 1}
    unknown = view(door.shop.store()).items().filter(pl.col("title").is_null())["item_id"].to_list()
    assert "Mug" in unknown and "LS-S" not in unknown, "a line names the variant of a known product"
    assert door.post("woocommerce-product") == {"accepted": 1}
    tea = door.item("T-GR")
    assert (tea["price"], tea["category"], tea["brand"]) == ("5.90", ["Tea & coffee"], "Leaf")


def test_a_bad_line_is_set_aside_and_the_others_count(door: Door) -> None:
    lines = json.loads((RECORDED / "shopify-order.json").read_text())["line_items"]
    lines += [lines[0] | {"sku": "", "name": ""}] * 3
    before = set(door.shop.quarantine_dir.glob("*"))
    assert door.post("shopify-order", line_items=lines) == {"accepted": 1}
    (new,) = set(door.shop.quarantine_dir.glob("*")) - before
    assert {json.loads(row)["code"] for row in new.read_text().splitlines()} == {"E_NO_ITEM"}
    with Workspace.open(door.shop.root) as shop:
        assert view(shop.store()).counts()["items"] == 6
