"""A shop's own pages: `recllm.js` in a browser, and what a publishable key opens; what it does not: hostile_callers."""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from conftest import Command
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from fastapi.testclient import TestClient
from hostile_callers import SITE
from service_world import PEOPLE, app_of, listening, make_key
from waiting import until

from recllm.base.errors import UsageError
from recllm.base.schema import Item, Purpose, Table
from recllm.doors.service import pages
from recllm.doors.service.api import join_session
from recllm.shop.ingest.workspace_load import add_consent, add_items
from recllm.shop.workspace.workspace import Workspace

ANN, BOB = (f"pv_{uuid.UUID(int=n)}" for n in range(2))
HOSTILE = '<img src=x onerror="window.hacked = 1"> & \'</script>'


@pytest.fixture
def folder(folder: Path) -> Path:
    """A shop of customers who agreed, where others have to be asked first."""
    with Workspace.open(folder) as shop:
        add_consent(shop, [(f"u{n:02}", Purpose.PERSONALISATION, True, None) for n in range(PEOPLE)], source="test")
    settings = folder / "workspace.toml"
    settings.write_text(settings.read_text("utf-8").replace("consent_default = true", "consent_default = false"))
    return folder


def stored(folder: Path, visitor: str) -> tuple[set[tuple[str, str, float | None]], set[bool], int]:
    """A visitor's events, what was decided, and the last load of consent."""
    with Workspace.open(folder) as shop, shop.store().read() as reader:
        name = shop.session_pseudonymiser().one(visitor)
        decisions = {granted for granted, _ in shop.gate().decisions(name).values()}
        events = reader.events(user_ids=[name]).select("item_id", "event", "price")
        return set(events.iter_rows()), decisions, reader.marks().load_no[Table.CONSENT]


def test_a_visitor_agrees_acts_and_is_forgotten(folder: Path, client: TestClient) -> None:
    headers, before = {"X-API-Key": make_key(folder, SITE), "Origin": SITE}, stored(folder, ANN)

    def page(what: str, visitor: str, status: int = 200, **body: Any) -> Any:
        answer = client.post(f"/v1/page/{what}", json={"visitor": visitor, **body}, headers=headers)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, SITE), answer.text
        return answer.json()

    event: dict[str, Any] = {"event_id": str(uuid.uuid4()), "event": "purchase", "item_id": "tools-2"}
    events = [event, {"event_id": str(uuid.uuid4()), "event": "view", "item_id": "no-such-thing"}]
    for refusal in (page("list", ANN, 403), page("events", ANN, 403, events=events)):
        assert "has not agreed" in refusal["error"]["message"] and stored(folder, ANN) == (set(), set(), before[2])
    assert page("consent", ANN, granted=True) == {"granted": True} == page("consent", BOB, granted=True)
    assert stored(folder, ANN) == (set(), {True}, before[2])  # no load of consent: nothing is opened again
    popular = page("list", ANN)["items"]
    account = {"accepted": 1, "duplicates": 0, "conflicts": [], "rejected": [1]}
    assert page("events", ANN, events=events) == account
    assert page("events", ANN, events=events) == account | {"accepted": 0, "duplicates": 1}
    assert stored(folder, ANN)[0] > {("tools-2", "purchase", 4.0)}  # at the catalogue's price; others were shown
    assert page("list", ANN)["items"] != popular == page("list", BOB)["items"]
    for fields in ({"price": 0.01}, {"user_id": "u01"}, {"event": "shown"}, {"quantity": 1e6}, {"event_id": "shop-1"}):
        page("events", ANN, 422, events=[event | fields])
    for stranger in ("u01", "v-1", "pv_1", ANN.upper(), ANN + "\n"):
        page("list", stranger, 422)
    with Workspace.open(folder) as shop:
        join_session(shop, BOB, "u01")
    assert page("list", BOB)["items"][0]["item_id"].startswith("tools")
    assert page("consent", BOB, granted=False) == {"granted": True}  # the customer decides elsewhere
    assert [page("consent", ANN, granted=granted)["granted"] for granted in (False, True)] == [False] * 2  # for good
    after = stored(folder, ANN)
    assert after[:2] == (set(), {False}) and after[2] > before[2]


def test_a_key_is_for_pages_of_its_origins_and_has_a_rate(folder: Path, client: TestClient) -> None:
    key = make_key(folder, SITE)
    for scopes in ("https://a.b/", "http://a.b", "https://a.b:443", "https://*.a.b", "*", f"{SITE} recommend"):
        with pytest.raises(UsageError, match=r"an origin like https://shop\.example|or origins alone"):
            make_key(folder, *scopes.split())

    def allowed(verb: str, path: str, origin: str = SITE, address: str = "192.0.2.1") -> tuple[int, bool]:
        there = TestClient(client.app, base_url="http://localhost", client=(address, 50_000))
        headers = {"X-API-Key": key, "Origin": origin, "Access-Control-Request-Method": "POST"}
        answer = there.request(verb, f"/v1/{path}", headers=headers, json={"visitor": ANN, "granted": True})
        return answer.status_code, answer.headers.get("access-control-allow-origin") == origin

    for origin in ("", "null", f"{SITE}.evil.example", "http://www.shop.example"):
        assert allowed("POST", "page/consent", origin) == (403, False)
        assert allowed("OPTIONS", "page/consent", origin) == (204, False)
    assert not any(allowed(verb, path)[1] for verb in ("POST", "OPTIONS") for path in ("items", "recommend"))
    assert stored(folder, ANN)[:2] == (set(), set())
    for network, last in (("::ffff:192.0.2.", (204, True)), ("2001:db8::", (429, False))):
        answers = [allowed("OPTIONS", "page/consent", SITE, f"{network}{n}") for n in range(121)]
        assert answers == [(204, True)] * 120 + [last]
    assert [allowed("POST", "page/consent", SITE, f"2001:db8:{n}::1") for n in (0, 1)] == [(429, True), (200, True)]


def test_a_page_shows_a_list_that_follows_a_purchase(folder: Path, browser: Any, command: Command) -> None:
    site, document = FastAPI(), (Path(__file__).parent / "data" / "shop_page.html").read_text("utf-8")

    def done(script: str = "") -> list[Any]:
        """What a script resolves to; the list's texts, the visitor's id, and how much the browser keeps."""
        texts = "Array.from(document.querySelectorAll('p, li span'), (element) => element.textContent)"
        result = f"[answer, {texts}, recllm.visitor(), localStorage.length]"
        return list(browser.execute_async_script(f"Promise.resolve({script}).then((answer) => arguments[0]({result}))"))

    with listening(site) as (host, port), listening(app := app_of(folder)) as (_, service_port):
        address, service = f"http://{host}:{port}", f"http://{host}:{service_port}"
        element = command("keys", "--create", "pages", "--scope", address, "-w", str(folder))[1]
        page = document.replace("SCRIPT", element.replace("https://SERVICE", service)).replace("SERVICE", service)
        site.get("/{path:path}")(lambda path: HTMLResponse(page))
        until(lambda: app.state.service.shops[folder.name].ready)
        urls = {"tools-2": f"{address}/a.jpg,{address}/b.jpg", "tools-3": "javascript:alert(1)"}
        with Workspace.open(folder) as shop:
            add_items(
                shop, [Item(item_id=n, title=HOSTILE + n, attributes={"image": urls[n]}) for n in urls], source="x"
            )
        browser.get_log("browser")
        browser.get(address)
        assert done("recllm.view('tea-1')") == [False, ["New"], "", 0]
        assert browser.execute_script("return performance.getEntriesByType('resource').length") == 1  # the script alone
        _, before, visitor, _ = done("recllm.consent(true)")
        assert len(before) == 8 and re.fullmatch(f"pv_{pages.UUID}", visitor)
        assert done("recllm.purchase([{item_id: 'tools-2', quantity: 2}, 'tools-3'])")[0] is True
        assert {f"{HOSTILE}tools-2", f"{HOSTILE}tools-3"} <= set(done("recllm.list()")[1])  # as text
        images = browser.execute_script("return [typeof hacked, ...Array.from(document.images, (image) => image.src)]")
        assert images == ["undefined", f"{address}/a.jpg"]
        browser.find_element("css selector", "[data-recllm-list] a[href$='/item/tools-2']").click()
        until(lambda: "/item/" in browser.current_url and len(done()[1]) == 8)  # the visitor is known on each page
        until(lambda: "click" in {kind for _, kind, _ in stored(folder, visitor)[0]})
        assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert done("recllm.consent(false)")[1:] == [["New"], "", 0]
        assert stored(folder, visitor)[:2] == (set(), {False})
        assert len(done("recllm.consent(true)")[1]) == 8 and done()[2] not in ("", visitor)
        browser.get(address.replace(host, "localhost"))  # another origin
        assert done("recllm.consent(true)")[1:] == [["New"], "", 0]
        assert "blocked by CORS policy" in str(browser.get_log("browser"))
