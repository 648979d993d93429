"""The console's page about people's data: what is held, models that have to go, the audit log, restriction."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from service_world import serving
from sqlalchemy import text

from recllm.base.schema import Purpose
from recllm.doors.privacy.erasure import erase_people
from recllm.shop.store.connections import writing
from recllm.shop.workspace.audit import AuditAction, read_audit
from recllm.shop.workspace.keys import create_key
from recllm.shop.workspace.workspace import Workspace


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_tells_what_is_held_and_what_has_to_go(client: TestClient, folder: Path, language: str) -> None:
    client.cookies.set("recllm-language", language)
    with Workspace.open(folder) as shop:
        erase_people(shop, ["u00"], actor="key:1")
        pseudonym = shop.pseudonymiser().one("u00")
    page = client.get("/privacy")
    assert page.status_code == 200 and "key:1" in page.text and pseudonym in page.text
    words = {
        "en": ("What the shop holds of people", "Models that have to go", "erased"),
        "zh": ("已发布的模型", "删除"),
    }
    if f'lang="{language}' in page.text:
        assert all(line in page.text for line in words[language])
    stored, log, tainted = (client.get(f"/privacy?csv={table}").text for table in ("stored", "audit", "tainted"))
    assert "tombstones,1," in stored and "people,23," in stored
    assert "erased" in log and tainted.count("\n") >= 2


def test_a_log_that_was_changed_is_told(client: TestClient, folder: Path) -> None:
    with Workspace.open(folder) as shop:
        erase_people(shop, ["u00"], actor="key:1")
        with writing(shop.store()._engine) as connection:
            connection.execute(text("DELETE FROM audit WHERE entry_no = 1"))
    assert "entry 1 is missing" in client.get("/privacy").text


def test_a_person_is_restricted_on_their_page(client: TestClient, folder: Path) -> None:
    with Workspace.open(folder) as shop:
        name = shop.pseudonymiser().one("u01")
        for act, is_permitted in (("yes", False), ("no", True)):
            client.get(f"/people/{name}")
            answer = client.post(f"/people/{name}/restrict", data={"restricted": act}, follow_redirects=False)
            assert answer.status_code == 303
            assert shop.gate().permits(name, Purpose.PERSONALISATION) is is_permitted
        actions = [entry.action for entry in read_audit(shop, subjects=frozenset({name}))]
        shown = AuditAction.PERSON_SHOWN
        assert actions == [shown, AuditAction.RESTRICTED, shown, AuditAction.RESTRICTION_LIFTED]


def test_the_page_is_for_who_may_see_people(folder: Path) -> None:
    with Workspace.open(folder) as shop:
        key = create_key(shop, "looker", ["console"])[1]
    with serving(folder, console=True) as client:
        client.post("/sign-in", data={"key": key})
        assert client.get("/").status_code == 200
        assert client.get("/privacy").status_code == 403
