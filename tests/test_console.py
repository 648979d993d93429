"""The console: its pages in both languages, who may see and do what, and what other sites and hostile texts cannot."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import os
import re
import shutil
import time
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import service_world
from console_world import HOSTILE, SHOP_ID, Page
from fastapi.testclient import TestClient
from PIL import Image
from service_world import HERE, LAST_DAY, PEOPLE, counts, make_key
from shop_world import load_lines
from sqlalchemy import text as sql
from test_artifacts import lineage
from waiting import until

from recllm.base.errors import UnknownIdError, UsageError
from recllm.base.schema import Purpose, Table
from recllm.base.words.sentences import LANGUAGES
from recllm.base.words.words import Words
from recllm.doors.console import app as console_app
from recllm.doors.console import models, people
from recllm.doors.console.app import SECTIONS
from recllm.doors.console.data import UPLOADS, find_upload, receive_upload, sweep_uploads
from recllm.doors.console.pages import HISTORY_FILE, local_path
from recllm.doors.console.session import session_cookie, session_visitor
from recllm.doors.console.tables import day_chart
from recllm.doors.privacy.erasure import erase_people
from recllm.doors.privacy.registry import export_person
from recllm.market.propensity.predict import predict_workspace
from recllm.market.propensity.prediction import PredictionKind, PredictionRequest
from recllm.recommend.recommender.lineage import GateComparison, GateReason, GateReport, GateVerdict
from recllm.recommend.recommender.registry import current, publish, versions
from recllm.recommend.recommender.shop_recommender import open_recommender
from recllm.shop.ingest.suggest import preview_file, proposed_columns
from recllm.shop.store.connections import writing
from recllm.shop.store.readers import StoreReader
from recllm.shop.workspace.audit import AuditAction, read_audit
from recllm.shop.workspace.console_sessions import begin_session, find_session
from recllm.shop.workspace.keys import Scope, key_in_force, revoke_key
from recllm.shop.workspace.privacy import PolicyGate
from recllm.shop.workspace.workspace import Workspace
from recllm.text.items import item_texts

ROOT = Path(__file__).resolve().parents[1]
CONSOLE = ROOT / "recllm" / "doors" / "console"


@pytest.fixture
def folder(console_shop: Path, tmp_path: Path) -> Path:
    """A shop of the test's own."""
    return Path(shutil.copytree(console_shop, tmp_path / "shop"))


serving = partial(service_world.serving, console=True)


@pytest.fixture(scope="module")
def trained(console_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop that is only looked at."""
    return Path(shutil.copytree(console_shop, tmp_path_factory.mktemp("console") / "shop"))


@pytest.fixture(scope="module")
def looking(trained: Path) -> Iterator[TestClient]:
    with serving(trained) as client:
        yield client


def send(client: TestClient, path: str, **fields: Any) -> Any:
    """What a form of the console sends."""
    return client.post(path, data=fields, follow_redirects=False)


def find_person(client: TestClient, shop_id: str = SHOP_ID) -> str:
    """The address of a person's page."""
    answer = send(client, "/people/search", user_id=shop_id)
    assert answer.status_code == 303, answer.text
    return str(answer.headers["location"])


def assert_harmless(text: str) -> Page:
    """Nothing runs in a page but the console's own scripts, and nothing is styled inline."""
    page = Page(text)
    scripts = page.of("script")
    sources = [str(script["src"]).split("?")[0] for script in scripts]
    assert sources[:2] == ["/static/htmx.min.js", "/static/hx-csp.min.js"]
    assert sources[2:] == (["/static/session.js"] if 'action="/sign-out"' in text else [])
    nonces = {s["nonce"] for s in scripts}
    assert len(nonces) == 1 and all(nonces)
    for tag, attributes in page.elements:
        assert tag not in {"style", "iframe", "object", "embed", "base", "math"}
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)
        assert not str(attributes.get("href") or "").lower().startswith(("javascript:", "data:", "//", "http"))
        assert str(attributes.get("action") or "/").startswith("/")
        if any(name.startswith(("hx-", "data-hx-")) for name in attributes):
            assert attributes["hx-nonce"] in nonces
    return page


PATHS = ("/", "/people", "/items", "/items?q=green", "/items/item/tea-1", "/campaigns", "/results")
PATHS += ("/models", "/experiments", "/data", "/privacy", "/settings", "/sign-in")


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("path", PATHS)
def test_every_page_in_every_language(looking: TestClient, path: str, language: str) -> None:
    looking.cookies.set("recllm-language", language)
    answer = looking.get(path)
    looking.cookies.delete("recllm-language")
    assert answer.status_code == 200, answer.text
    page = assert_harmless(answer.text)
    assert page.of("html")[0]["lang"] == {"en": "en", "zh": "zh-Hans"}[language]
    assert len(page.of("main")) == 1 and len(page.of("h1")) == 1
    assert page.of("a")[0] == {"class": "skip", "href": "#content"}
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert not [name for name in ids if ids.count(name) > 1 and not str(name).startswith("p")]
    labels = {attributes.get("for") for attributes in page.of("label")}
    fields = [f for tag in ("input", "select") for f in page.of(tag) if f.get("type") not in ("hidden", "checkbox")]
    assert all(field["id"] in labels for field in fields)


def rows_of(client: TestClient, address: str, headers: dict[str, str] | None = None) -> list[dict[str, str]]:
    """A table of a page, as its file has it."""
    answer = client.get(address, headers=headers)
    assert answer.status_code == 200 and answer.headers["content-type"] == "text/csv; charset=utf-8", answer.text
    assert answer.headers["content-disposition"].startswith("attachment; filename=")
    return list(csv.DictReader(io.StringIO(answer.text.removeprefix("\ufeff"))))


def test_every_table_is_a_file_too(looking: TestClient) -> None:
    """Whatever table a page has, a link to it stands below, and the file says the same in every language."""
    n_tables = 0
    for path in (*PATHS[:-1], find_person(looking), "/people/list/replenish"):
        page = assert_harmless(until_counted(looking, path))
        links = [str(a["href"]) for a in page.of("a") if "download" in a and "csv=" in str(a["href"])]
        assert len(links) == len(page.of("table")), path
        for link in links:
            rows, translated = rows_of(looking, link), rows_of(looking, link, {"cookie": "recllm-language=zh"})
            assert [list(row) for row in rows] == [list(row) for row in translated], link
            numbers = [value for row in rows for name, value in row.items() if re.search("share|price|people", name)]
            assert all(value == "" or float(value) >= 0 for value in numbers), (link, numbers)
            n_tables += 1
    assert n_tables >= 15
    assert looking.get("/items?csv=nothing").status_code == 404


def until_counted(client: TestClient, path: str) -> str:
    """A page whose figures are there."""
    waits = ("being counted", "being looked for")
    until(lambda: not any(words in client.get(address).text for words in waits for address in ("/", path)))
    return client.get(path).text


def test_a_file_has_all_rows_and_nothing_that_runs(looking: TestClient) -> None:
    rows = rows_of(looking, "/items?csv=items&page=2")
    assert len(rows) == 20 + len(HOSTILE)
    titles = {row["item_id"]: row["title"] for row in rows}
    assert titles["bad-39"] == '\'=HYPERLINK("http://evil.example","x")'
    assert {row["item_id"]: row["price"] for row in rows}["tea-1"] == "3.0"
    assert rows_of(looking, "/items?q=green&csv=items") == [row for row in rows if row["title"].startswith("Green")]
    assert looking.get("/items?csv=items", headers={"hx-request": "true"}).status_code == 200


LIST_COLUMNS = ["days_since_last", "usual_days_between", "chance_in_7_days"]


def test_ids_leave_only_for_who_may_export_them(folder: Path) -> None:
    look_only = make_key(folder, Scope.CONSOLE)
    marketing = make_key(folder, Scope.CONSOLE, Scope.MARKETING, Scope.PEOPLE, name="Ben")
    for key, columns in ((look_only, ["item_id", *LIST_COLUMNS]), (marketing, ["pseudonym", "item_id", *LIST_COLUMNS])):
        with serving(folder) as client:
            assert send(client, "/sign-in", key=key).status_code == 303
            until_counted(client, "/people/list/replenish")
            rows = rows_of(client, "/people/list/replenish?csv=people-replenish")
            assert len(rows) > 3 and list(rows[0]) == columns
    acts = [json.loads(line) for line in (folder / HISTORY_FILE).read_text("utf-8").splitlines()]
    assert [(act["by"], act["file"]) for act in acts if act["act"] == "download" and act["by"]] == [
        ("Ben", "people-replenish")
    ]


def test_headers_keep_everything_else_out(looking: TestClient) -> None:
    for path in ("/", "/nothing", "/static/htmx.min.js", "/sign-in"):
        headers = looking.get(path).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert {policy[name] for name in ("default-src", "frame-ancestors", "base-uri")} == {"'none'"}
        assert {policy[name] for name in ("style-src", "form-action", "connect-src")} == {"'self'"}
        assert re.fullmatch(r"'self' 'nonce-[\w-]{22}'", policy["script-src"])
        assert policy["img-src"] == "'self' data:" and "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "same-origin"
    assert looking.get("/").headers["cache-control"] == "no-store"
    assert len({looking.get("/").headers["content-security-policy"] for _ in range(3)}) == 3, "a nonce for each"


def test_the_api_stands_beside_the_pages(looking: TestClient) -> None:
    assert looking.get("/livez").json()["status"] == "ok"
    answer = looking.post("/v1/recommend", json={"user_id": "u02", "k": 2})
    assert answer.status_code == 200 and len(answer.json()["items"]) == 2
    assert looking.get("/", headers={"host": "evil.example"}).status_code == 400


def test_hostile_titles_stay_text(looking: TestClient) -> None:
    for page in range(1, 5):
        assert_harmless(looking.get("/items", params={"page": page}).text)
    person = assert_harmless(looking.get(find_person(looking)).text)
    assert "<b>Bern</b>" in person.text
    for n, title in enumerate(HOSTILE):
        answer = looking.get(f"/items/item/bad-{n}")
        assert answer.status_code == 200
        shown = assert_harmless(answer.text).text
        assert title.replace("\u202e", "").strip() in shown.replace("\u202e", ""), title
    assert "49" not in Page(looking.get("/items", params={"q": "7 * 7"}).text).text.split("Green")[0].split("€")[0]
    for text in ("<script>alert(1)</script>", "{{ 7*7 }}", "\u202e", "'\"><svg onload=alert(1)>"):
        for path in ("/items", "/people/list/replenish", "/sign-in"):
            assert_harmless(looking.get(path, params={"q": text, "after": text, "notice": text}).text)
        answer = send(looking, "/people/search", user_id=text)
        typed = [field.get("value") for field in assert_harmless(answer.text).of("input")]
        assert answer.status_code == 404 and text.strip() in typed


FROM_ELSEWHERE = (
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "http://evil.example", "sec-fetch-site": "same-origin"},
)


def test_a_request_that_other_sites_could_send_changes_nothing(client: TestClient, folder: Path) -> None:
    address = find_person(client)
    fields = {"purpose": "email", "granted": "no"}
    for headers in FROM_ELSEWHERE:
        assert client.post(f"{address}/consent", data=fields, headers=headers).status_code == 403, headers
    del client.headers["origin"]
    assert client.post(f"{address}/consent", data=fields).status_code == 403  # of no stated origin
    with Workspace.open(folder) as shop:
        assert not shop.gate().decisions(address.rsplit("/", 1)[1])
    for headers in ({"sec-fetch-site": "same-origin"}, HERE):
        good = client.post(f"{address}/consent", data=fields, headers=headers)
        assert good.status_code == 200 and "Written down: they refused" in good.text


def test_every_form_path_asks_where_a_form_comes_from(looking: TestClient) -> None:
    """Whatever route takes a POST, one from elsewhere is refused before it does anything."""
    paths = [
        re.sub(r"{(\w+)(:path)?}", "x", route.path)
        for section in (*SECTIONS,)
        for route in section.router.routes
        if "POST" in route.methods  # type: ignore[attr-defined]
    ]
    assert len(paths) >= 8
    for path in (*paths, "/sign-in", "/sign-out", "/shop", "/search"):
        for headers in FROM_ELSEWHERE:
            assert looking.post(path, headers=headers).status_code == 403, (path, headers)


def load_more_people(folder: Path) -> None:
    """80 people, some of whom shop every week and some seldom: enough to learn from."""
    rng, lines = np.random.default_rng(5), ["user_id,item_id,event,timestamp,price"]
    for user in range(80):
        for day in range(120):
            if rng.random() < (0.02, 0.01, 0.4)[user % 3]:
                at = LAST_DAY - timedelta(days=day, hours=1)
                lines.append(f"p{user},tea-{user % 10},purchase,{at.isoformat()},3.0")
    with Workspace.open(folder) as shop:
        load_lines(shop, "events", lines)


def test_a_persons_page_says_what_they_will_do(client: TestClient, folder: Path) -> None:
    load_more_people(folder)
    address = find_person(client, "p2")
    page = assert_harmless(client.get(address).text)
    assert "No predictions yet" in page.text and "of 100" not in page.text.split("will likely do")[1][:100]
    ordered = send(client, f"{address}/predictions")
    assert ordered.status_code == 303 and ordered.headers["location"] == f"{address}#predictions"
    assert "Being computed" in client.get(address).text  # and nobody waits for it
    part = {"hx-request": "true"}
    until(lambda: "Being computed" not in client.get(f"{address}/predictions", headers=part).text, seconds=300)
    with Workspace.open(folder) as shop:
        name = address.rsplit("/", 1)[1]
        people = predict_workspace(shop, PredictionRequest(kind=PredictionKind.BUY)).people
        probability = {person.user_id: person.probability for person in people}[name]
    text = assert_harmless(client.get(address).text).text
    told = "more than 99 of 100" if probability > 0.995 else f"{100 * probability:.0f} of 100"
    words = " ".join(text.split())
    assert f"Order within 28 days{told}" in words and "All customers: " in words
    assert "Spend in 28 days€" in words and "Next order, looking 28 days ahead" in words
    assert send(client, f"{address}/consent", purpose="personalisation", granted="no").status_code == 303
    withdrawn = Page(client.get(address).text).text
    assert "Without their agreement nothing is read" in withdrawn and told not in withdrawn


def test_a_log_that_is_too_small_is_said_to_be(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    address = find_person(client)
    with monkeypatch.context() as larger:
        larger.setattr("recllm.doors.console.people.TO_COUNT", (30, 5))
        until(lambda: client.get("/") and "does not allow it" in client.get(address).text)
        too_few = assert_harmless(client.get(address).text).text
    send(client, f"{address}/predictions")
    until(lambda: "Being computed" not in client.get(f"{address}/predictions", headers={"hx-request": "true"}).text)
    for text, reason in ((too_few, "at least 30"), (assert_harmless(client.get(address).text).text, "at least 5")):
        assert text.count("This log does not allow it") == 1 and reason in text
        assert "Compute the predictions" not in text


def test_no_own_id_in_addresses_and_logs(looking: TestClient, trained: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    address = find_person(looking)
    with Workspace.open(trained) as shop:
        assert address == f"/people/{shop.pseudonymiser().one(SHOP_ID)}"
    page = looking.get(address)
    assert f"Customer {SHOP_ID}" in Page(page.text).text
    unknown = send(looking, "/people/search", user_id="nobody-0815")
    assert unknown.status_code == 404 and 'value="nobody-0815"' in unknown.text
    assert "We don't know this customer yet" in Page(unknown.text).text
    with Workspace.open(trained) as shop:
        name = shop.pseudonymiser().one("nobody-0815")
        for path in ("", "/erase", "/export.json"):
            assert looking.get(f"/people/{name}{path}").status_code == 404
        assert send(looking, f"/people/{name}/feedback", act="dismiss", item_id="tea-1").status_code == 404
        assert not shop.gate().knows_each([name])[0], "looking for somebody makes nobody"
    links = [str(attributes.get("href")) for attributes in Page(page.text).of("a")]
    logged = " ".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    for secret in (SHOP_ID, "nobody-0815"):
        assert secret not in address and not any(secret in link for link in links)
        assert secret not in re.sub(r"Set-Cookie.*|set-cookie.*", "", logged)
    history = trained / HISTORY_FILE
    assert not history.exists() or SHOP_ID not in history.read_text("utf-8")


def test_the_id_is_told_only_to_the_session_that_typed_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = make_key(folder, Scope.CONSOLE)
    with serving(folder) as client:
        send(client, "/sign-in", key=key)
        answer = send(client, "/people/search", user_id=SHOP_ID)
        address = answer.headers["location"]
        assert "set-cookie" not in answer.headers  # no browser keeps it
        assert SHOP_ID in client.get(address).text
        cookies = dict(client.cookies)
        client.cookies.clear()
        send(client, "/sign-in", key=key)
        assert SHOP_ID not in client.get(address).text
        client.cookies.clear()
        client.cookies.update(cookies)
        assert SHOP_ID in client.get(address).text
        monkeypatch.setattr("recllm.doors.console.memory.monotonic", lambda: time.monotonic() + 3_601)
        assert SHOP_ID not in client.get(address).text


def test_a_person_with_reasons(looking: TestClient, trained: Path) -> None:
    address = find_person(looking, "u02")
    page = Page(looking.get(address).text)
    with Workspace.open(trained) as shop:
        recommender = open_recommender(shop)
        (slate,) = recommender.recommend("u02", k=20)
        bought = {line.item_id for line in recommender.person("u02").profile(recommender.dataset).purchases}
    assert "To buy again" in page.text and "New for this customer" in page.text
    listed = [str(a["href"]).rsplit("/", 1)[1] for a in page.of("a") if str(a["href"]).startswith("/items/item/")]
    again = [item.item_id for item in slate.items if item.item_id in bought]
    assert listed[: min(4, len(again))] == again[:4]
    assert slate.items[0].reasons[0].text in page.text
    for word in ("Consent", "History", "of 100", "What if this had not happened?"):
        assert word in page.text
    chinese = Page(looking.get(address, headers={"cookie": "recllm-language=zh"}).text).text
    assert "可以复购" in chinese and "您" in chinese


def test_what_if_is_the_library_without_the_evidence(looking: TestClient, trained: Path) -> None:
    address = find_person(looking, "u02")
    with Workspace.open(trained) as shop:
        recommender = open_recommender(shop)
        profile = recommender.person("u02").profile(recommender.dataset)
        evidence = [f"B:{line.item_id}" for line in profile.purchases]
        (without,) = recommender.lacking("u02", evidence).recommend("u02", k=6, repeats=False)
        (with_all,) = recommender.recommend("u02", k=6, repeats=False)
    assert [i.item_id for i in without.items] != [i.item_id for i in with_all.items]
    page = looking.get(address, params={"without": evidence[:2]})
    assert "As if 2 things had never happened." in Page(page.text).text
    part = looking.get(address, params={"without": evidence[:2]}, headers={"hx-request": "true"}).text
    assert part.lstrip().startswith("<section") and "<html" not in part
    bad = looking.get(address, params={"without": "nonsense"})
    assert bad.status_code == 422 and "evidence is B:" in Page(bad.text).text
    assert looking.get(address).text.count("As if") == 0


def test_consent_acts_at_once(client: TestClient, folder: Path) -> None:
    address = find_person(client)
    assert send(client, f"{address}/consent", purpose="personalisation", granted="no").status_code == 303
    page = Page(client.get(address).text).text
    assert "They have not agreed to personal recommendations" in page and "Popular now" in page
    assert "35-44" not in page and "Nothing is known of what they did" not in page  # nothing of them is read
    with Workspace.open(folder) as shop:
        decisions = shop.gate().decisions(address.rsplit("/", 1)[1])
        assert decisions[Purpose.PERSONALISATION][0] is False
    send(client, f"{address}/consent", purpose="personalisation", granted="yes")
    assert "To buy again" in Page(client.get(address).text).text
    acts = (folder / HISTORY_FILE).read_text("utf-8")
    assert '"act": "consent"' in acts and SHOP_ID not in acts and "u1_" not in acts


def test_feedback_counts_in_the_next_list(client: TestClient, folder: Path) -> None:
    address = find_person(client, "u02")
    links = [str(a["href"]) for a in Page(client.get(address).text).of("a")]
    first = next(link for link in links if link.startswith("/items/item/")).rsplit("/", 1)[1]
    answer = send(client, f"{address}/feedback", act="dismiss", item_id=first)
    assert answer.headers["location"].endswith("?notice=dismissed")
    page = client.get(answer.headers["location"])
    head, _, _ = page.text.partition('id="who"')
    assert "Written down: not for them." in Page(page.text).text and f"/items/item/{first}" not in head
    assert send(client, f"{address}/feedback", act="dismiss", item_id="no-such").status_code == 404
    assert send(client, f"{address}/feedback", act="erase", item_id=first).status_code == 404


def test_a_person_is_exported_and_erased(client: TestClient, folder: Path) -> None:
    address = find_person(client)
    document = client.get(f"{address}/export.json")
    assert document.json()["user_id"] == SHOP_ID and document.json()["basics"]["age"] == "35-44"
    n_events = len(document.json()["events"])
    page = Page(client.get(f"{address}/erase").text).text
    assert f"{n_events} entries of what they did" in page and "cannot be taken back" in page
    assert client.get(address).status_code == 200  # looking deletes nothing
    assert client.post(f"{address}/erase", headers=FROM_ELSEWHERE[0]).status_code == 403
    assert client.get(address).status_code == 200
    erased = send(client, f"{address}/erase")
    assert "nothing of them is stored" in erased.text and "<code>erasure-" in erased.text
    for path in (address, f"{address}/erase", f"{address}/export.json"):
        assert client.get(path).status_code == 404
    acts = (folder / HISTORY_FILE).read_text("utf-8")
    assert '"act": "erase"' in acts and "u1_" not in acts


def test_a_stranger_of_another_shop(folder: Path, tmp_path: Path) -> None:
    with Workspace.create(tmp_path / "other", consent_default=True, encoder="toy") as shop:
        load_lines(shop, "events", ["user_id,item_id,timestamp", "ann,mug,2025-03-01T10:00:00Z"])
        ann = shop.pseudonymiser().one("ann")
    with serving(folder, tmp_path / "other") as client:
        assert client.get(f"/people/{ann}").status_code == 404
        assert client.get("/people/u1_short").status_code == 404
        assert client.get("/people/..%2f..%2fkey").status_code == 404
        assert send(client, "/shop", shop="nowhere").status_code == 404
        assert send(client, "/shop", shop="other").status_code == 303
        assert client.get(f"/people/{ann}").status_code == 200
        with Workspace.open(folder) as shop:
            assert client.get(f"/people/{shop.pseudonymiser().one(SHOP_ID)}").status_code == 404


def test_with_keys_everybody_signs_in(folder: Path) -> None:
    with serving(folder, loopback_only=False) as client:  # others reach it: never open, with keys or without
        assert client.get("/", follow_redirects=False).status_code == 303
    text, without_scope = make_key(folder, Scope.CONSOLE), make_key(folder, Scope.RECOMMEND)
    with serving(folder) as client:
        for path in ("/", "/people", "/settings", "/nothing"):
            answer = client.get(path, follow_redirects=False)
            assert answer.status_code == 303 and answer.headers["location"].startswith("/sign-in?after=/")
        page = client.get("/sign-in").text
        assert "Type the key" in page and "oidc" not in page  # no directory is set
        assert client.get("/static/console.css").status_code == 200
        assert send(client, "/sign-in", key="rk_wrong").status_code == 401
        assert send(client, "/sign-in", key=without_scope).status_code == 403
        answer = send(client, "/sign-in", key=f" {text} ", after="/people")
        assert answer.status_code == 303 and answer.headers["location"] == "/people"
        cookies = answer.headers.get_list("set-cookie")
        session = next(cookie for cookie in cookies if cookie.startswith("recllm-session-"))
        assert all("HttpOnly" in c and "SameSite=strict" in c and "Secure" not in c for c in cookies)
        assert text[-32:] not in session and "Max-Age=43200" in session
        assert client.get("/people").status_code == 200 and "Anna" in client.get("/people").text
        assert send(client, "/sign-out").status_code == 303
        assert client.get("/people", follow_redirects=False).status_code == 303
        send(client, "/sign-in", key=text)
        assert client.get("/people", follow_redirects=False).status_code == 200
        with Workspace.open(folder) as shop:
            revoke_key(shop, text.split("_")[1])
        assert client.get("/people", follow_redirects=False).status_code == 303


def test_a_cookie_is_secure_over_https(folder: Path) -> None:
    text = make_key(folder, Scope.CONSOLE)
    with serving(folder, base="https://localhost") as client:
        answer = send(client, "/sign-in", key=text)
        cookies = answer.headers.get_list("set-cookie")
        cookies += client.get("/language/zh", follow_redirects=False).headers.get_list("set-cookie")
        assert len(cookies) == 3 and all(re.match(r"__Host-recllm-[\w-]+=", cookie) for cookie in cookies)
        assert all("Secure" in c and "; Path=/;" in f"{c};" and "Domain" not in c for c in cookies)
        assert client.get("/people", follow_redirects=False).status_code == 200
        # what somebody else set without the prefix is not read
        value = client.cookies[f"__Host-{session_cookie(folder.name)}"]
        client.cookies.clear()
        client.cookies.set(session_cookie(folder.name), value)
        assert client.get("/people", follow_redirects=False).status_code == 303


def test_a_session_cannot_be_made_or_changed(folder: Path, tmp_path: Path) -> None:
    key_id = make_key(folder, Scope.CONSOLE).split("_")[1]
    with Workspace.open(folder) as shop, Workspace.create(tmp_path / "other", encoder="toy") as other:
        key = key_in_force(shop, key_id)
        session, token = begin_session(shop, key_id=key_id)
        found = find_session(shop, token, is_used=False)
        assert len(token) == 43 and found == replace(session, used_at=found.used_at)
        assert session_visitor(shop, session) == key
        shutil.copytree(shop.root / "console-sessions", other.root / "console-sessions")
        assert find_session(other, token, is_used=True) is None  # no token fits a file under another workspace's key
        for forged in (session.session_id, f"{token[:-1]}{'AB'[token.endswith('A')]}", f"{token}0", "../key", "ü", ""):
            assert find_session(shop, forged, is_used=True) is None
        path = shop.root / "console-sessions" / session.session_id
        content = json.loads(path.read_bytes())
        assert token not in path.read_text("utf-8") and path.stat().st_mode & 0o777 == 0o600
        changes = ({"end": "soon"}, {"scopes": ["admin"]}, {"end": time.time() - 1})
        for wrong in ("", "[]", "{}", *(json.dumps(content | change) for change in changes)):
            path.write_text(wrong, "utf-8")
            assert find_session(shop, token, is_used=True) is None and not path.exists()
        assert session_cookie("a") != session_cookie("b")


def test_a_key_does_what_its_scopes_say(folder: Path) -> None:
    text = make_key(folder, Scope.CONSOLE)
    with Workspace.open(folder) as shop:
        address = f"/people/{shop.pseudonymiser().one(SHOP_ID)}"
        version = versions(shop.models_dir)[0].version
    with serving(folder) as client:
        send(client, "/sign-in", key=text)
        page = client.get(address).text
        assert "Not for them" not in page and "Withdraw consent" not in page
        assert 'action="/data/upload"' not in client.get("/data").text
        assert "Your key lacks the scope marketing" in Page(page).text
        of_person = [f"{address}/{act}" for act in ("consent", "feedback", "erase", "predictions")]
        for path in (*of_person, "/data/upload", "/settings/keys", f"/models/version/{version}/promote"):
            answer = send(client, path, purpose="email", granted="no", act="dismiss", item_id="tea-1", name="x")
            assert answer.status_code == 403 and "lacks the scope" in Page(answer.text).text, path
        assert client.get("/").status_code == 200
        for path in ("/data/quarantine/events-x", "/privacy"):
            assert client.get(path).status_code == 403, path


def test_a_broken_shop_keeps_nobody_from_another(folder: Path, tmp_path: Path) -> None:
    text = make_key(folder, Scope.CONSOLE)
    with Workspace.create(tmp_path / "broken", encoder="toy"):
        pass
    (tmp_path / "broken" / "store.sqlite").write_bytes(b"no database" * 100)
    with serving(tmp_path / "broken", folder, waits=False) as client:
        assert client.get("/", follow_redirects=False).status_code == 303  # nobody knows whether it has keys
        assert send(client, "/sign-in", key=text).status_code == 303
        until(lambda: client.get("/people", follow_redirects=False).status_code == 200)
        assert "broken" not in client.get("/people").text  # whoever has no key there does not learn of it
    with serving(tmp_path / "broken", waits=False) as client:
        page = client.get("/")
        assert page.status_code == 503 and "This did not work" in page.text and str(tmp_path) not in page.text


def test_paths_after_sign_in_stay_here() -> None:
    assert local_path("/people?x=1") == "/people?x=1"
    for path in ("//evil.example", "https://evil.example", "/\\evil.example", "people", "", "/a\nb"):
        assert local_path(path) == "/"


ORDERS = """Kunde,Artikel,Datum,Menge
c1,tea-1,2025-05-01 10:00,1
c2,tea-2,2025-05-02 11:00,2
c3,tools-1,2025-05-03 12:00,1
"""
COLUMNS = {"field_user_id": "Kunde", "field_item_id": "Artikel", "field_timestamp": "Datum", "field_quantity": "Menge"}


def upload(client: TestClient, text: str, name: str = "orders.csv", table: str = "events") -> str:
    """The address of the page with the columns."""
    files = {"file": (name, text.encode(), "text/csv")}
    answer = client.post("/data/upload", data={"table": table}, files=files, follow_redirects=False)
    assert answer.status_code == 303, answer.text
    return str(answer.headers["location"])


def finished(client: TestClient, address: str) -> Page:
    until(lambda: "progress" not in client.get(address).text)
    return Page(client.get(address).text)


def test_a_file_goes_in_by_forms_alone(client: TestClient, folder: Path) -> None:
    address = upload(client, ORDERS)
    page = Page(client.get(address).text)
    assert "Kunde" in page.text and "2025-05-02 11:00" in page.text
    path = address.split("?")[0]
    missing = send(client, f"{path}/load", table="events", act="load", field_user_id="Kunde")
    assert missing.status_code == 422 and "choose a column for item_id, timestamp" in Page(missing.text).text
    assert '<option value="Kunde" selected' in missing.text  # what was chosen is kept
    checked = send(client, f"{path}/load", table="events", act="check", tz="UTC", **COLUMNS)
    assert "Checked; nothing was written" in finished(client, checked.headers["location"]).text
    before = counts(folder)["events"]
    loaded = send(client, f"{path}/load", table="events", act="load", tz="UTC", **COLUMNS)
    assert "Rows read3" in finished(client, loaded.headers["location"]).text.replace("\n", "")
    assert counts(folder)["events"] == before + 3
    with Workspace.open(folder) as shop, shop.store().read() as reader:
        assert reader.loads(1).row(0, named=True)["source"] == "orders.csv"
    assert not list((folder / UPLOADS).iterdir())
    assert client.get(path).status_code == 404
    assert "orders.csv" in client.get("/data").text


def test_a_refused_file_says_why_and_keeps_nothing(client: TestClient, folder: Path) -> None:
    bad = ORDERS + ",tea-1,2025-05-04 12:00,1\n" + "=2+5,,2025-05-04 12:00,1\n"
    path = upload(client, bad).split("?")[0]
    answer = send(client, f"{path}/load", table="events", act="load", tz="UTC", **COLUMNS)
    page = finished(client, answer.headers["location"])
    assert "This file was not loaded" in page.text and "too many rows are bad" in page.text
    assert str(folder) not in page.text  # no path of this machine
    (listed,) = [str(a["href"]) for a in page.of("a") if "/quarantine/" in str(a["href"])]
    rows = Page(client.get(listed).text).text
    assert "no number of a customer" in rows and "no item's number" in rows
    (link,) = {str(a["href"]) for a in Page(client.get(listed).text).of("a") if "csv=" in str(a["href"])}
    table = client.get(link)
    assert table.headers["content-type"].startswith("text/csv") and "attachment" in table.headers["content-disposition"]
    assert "'=2+5" in table.text and not re.search(r"(^|,)=2", table.text, re.MULTILINE)
    assert client.get(path).status_code == 200  # the upload is still here, to choose other columns
    assert send(client, f"{path}/discard").headers["location"] == "/data?notice=discarded"
    assert client.get(path).status_code == 404


def test_a_row_that_was_set_aside_has_a_column_for_each_field(client: TestClient, folder: Path) -> None:
    names = ("line_no", "column", "code", "message", "raw", "fields")
    rows = [(2, "a", "E_X", "+why", json.dumps({"user": "@sum", "n": None}))]
    rows += [(3, None, "E_NO_USER", "", "x,-1", {"user": None, "n": "-1"}), (4, None, "E_FIELD_COUNT", "", "=a,b,c")]
    lines = [dict(zip(names, row, strict=False)) for row in rows]
    name = "events-20250601T120000-0a"
    (folder / "quarantine").mkdir(exist_ok=True)
    (folder / "quarantine" / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = assert_harmless(client.get(f"/data/quarantine/{name}").text)
    assert [cell.get("scope") for cell in page.of("th")].count("col") == 6
    assert "no number of a customer" in page.text and "@sum" in page.text
    text = client.get(f"/data/quarantine/{name}?csv={name}").text
    assert text.removeprefix("\ufeff").splitlines() == [
        "line,column,code,reason,user,n,row",
        "2,a,E_X,'+why,'@sum,,",
        "3,,E_NO_USER,,,'-1,",
        '4,,E_FIELD_COUNT,,,,"\'=a,b,c"',
    ]


def test_an_upload_that_breaks_off_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_app, "MAX_UPLOAD_BYTES", 1 << 19)
    with serving(folder) as client:
        for content, status, words in ((b"a" * 2_000_000, 413, "too large"), (b"", 422, "")):
            answer = client.post("/data/upload", files={"file": ("big.csv", content, "text/csv")})
            assert answer.status_code == status and words in Page(answer.text).text
    assert not list((folder / UPLOADS).glob("*"))

    class Broken:
        def read(self, _: int) -> bytes:
            raise OSError("the browser went away")

    with Workspace.open(folder) as shop:
        with pytest.raises(OSError, match="went away"):
            receive_upload(shop, Broken(), "../../etc/订单 11月.csv")  # type: ignore[arg-type]
        assert not list((folder / UPLOADS).glob("*"))
        file = receive_upload(shop, io.BytesIO(b"user_id\nann\n"), "../../etc/订单 11月.csv")
        assert file.name == "订单_11月.csv" and file.parent.parent == folder / UPLOADS
        assert file.stat().st_mode & 0o077 == 0
        with pytest.raises(UsageError):
            receive_upload(shop, io.BytesIO(b""), "x.csv")
        os.utime(file.parent, (0, 0))
        sweep_uploads(shop)
        for gone in (file.parent.name, "../../shop"):
            with pytest.raises(UnknownIdError):
                find_upload(shop, gone)


def test_a_cancelled_load_keeps_nothing(client: TestClient, folder: Path) -> None:
    rows = "".join(f"c{n},tea-{n % 10},2025-05-01 10:{n % 60:02},1\n" for n in range(50_000))
    path = upload(client, "Kunde,Artikel,Datum,Menge\n" + rows).split("?")[0]
    before = counts(folder)["events"]
    started = send(client, f"{path}/load", table="events", act="load", tz="UTC", **COLUMNS).headers["location"]
    second = send(client, f"{path}/load", table="events", act="load", tz="UTC", **COLUMNS)
    cancelled = send(client, f"{started}/cancel")
    assert cancelled.status_code == 303
    page = finished(client, started)
    assert "Cancelled" in page.text or "Loaded" in page.text  # it may have been done already
    assert counts(folder)["events"] == before + (0 if "Cancelled" in page.text else 50_000)
    assert second.status_code in (422, 303, 404)


def test_a_file_is_taken_for_what_its_columns_say(tmp_path: Path) -> None:
    heads = {
        "user_id,item_id,timestamp,price": Table.EVENTS,
        "Customer,Product,When,How many,Paid": Table.EVENTS,
        "item_id,title,price": Table.ITEMS,
        "商品编号,商品名称,价格": Table.ITEMS,
        "user_id,age": Table.USERS,
        "user_id,purpose,granted,timestamp": Table.CONSENT,
    }
    for n, (head, table) in enumerate(heads.items()):
        file = tmp_path / f"{n}.csv"
        file.write_text(head + "\n" + ",".join("1" for _ in head.split(",")) + "\n", "utf-8")
        assert preview_file(file).likely_table() is table
    assert proposed_columns(["Order", "basket"], Table.EVENTS)["basket_id"] is None  # both could be it
    assert proposed_columns(["order", "basket_id"], Table.EVENTS)["basket_id"] == "basket_id"


def test_another_model_serves_after_a_confirmation(client: TestClient, folder: Path) -> None:
    with Workspace.open(folder) as shop:
        older, newer = (manifest.version for manifest in versions(shop.models_dir))
        assert current(shop.models_dir) == newer
    page = Page(client.get(f"/models/version/{older}").text)
    assert f"for {PEOPLE} people" in page.text and current(folder / "models") == newer
    assert send(client, f"/models/version/{older}/promote").status_code == 303
    assert current(folder / "models") == older
    listed = Page(client.get("/models").text).text
    assert "let another model serve" in listed and "Model history" in listed and older in listed
    assert client.get("/models/version/nothing").status_code == 404
    assert send(client, "/models/version/nothing/promote").status_code == 404
    weights = next((folder / "models" / "versions" / newer).glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    refused = send(client, f"/models/version/{newer}/promote")
    assert refused.status_code == 503 and "was changed after publication" in Page(refused.text).text
    assert current(folder / "models") == older


def test_what_the_gate_refused_serves_only_after_a_further_tick(client: TestClient, folder: Path) -> None:
    gate = GateReport(
        verdict=GateVerdict.REFUSED,
        reasons=(GateReason.WORSE, GateReason.NARROW),
        window_start="2025-05-01T00:00:00+00:00",
        window_end="2025-06-01T00:00:00+00:00",
        comparisons=(
            GateComparison(
                slice="ALL", metric="ndcg@20", people=20, challenger=0.1, serving=0.2,
                difference=-0.1, low=-0.15, high=-0.05, margin=0.01,
            ),
        ),
        serving_seen_days=0.0,
    )  # fmt: skip
    models_dir = folder / "models"
    now_serving = current(models_dir)
    refused_by = lineage(now_serving).model_copy(update={"gate": gate})

    def write(draft: Path) -> None:
        source, without = models_dir / "versions" / str(now_serving), shutil.ignore_patterns("manifest.json")
        shutil.copytree(source, draft, ignore=without, dirs_exist_ok=True)

    refused = publish(models_dir, write, lineage=refused_by)
    page = Page(client.get("/models").text).text
    assert "refused by the gate" in page and "it is worse, its lists show much less of the catalogue" in page
    assert "-0.1000-0.1500 – -0.0500" in page and current(models_dir) == now_serving
    assert "Let it serve all the same" in Page(client.get(f"/models/version/{refused}").text).text
    assert send(client, f"/models/version/{refused}/promote").status_code == 422
    assert current(models_dir) == now_serving
    assert send(client, f"/models/version/{refused}/promote", force="yes").status_code == 303
    assert current(models_dir) == refused


def test_why_a_model_is_not_served(client: TestClient, folder: Path) -> None:
    (folder / "models" / "CURRENT").write_text("gone\n")
    until(lambda: "A newer state cannot be served" in client.get("/models").text)
    assert "not with the newest state" in Page(client.get("/").text).text
    assert client.get(find_person(client)).status_code == 200  # the old one goes on


def test_a_key_is_shown_once(client: TestClient, folder: Path) -> None:
    first = send(client, "/settings/keys", name="Anna", scope=["recommend"])
    assert first.status_code == 422 and "the first key needs console and admin" in Page(first.text).text
    made = send(client, "/settings/keys", name="Anna", scope=["console", "admin"])
    match = re.search(r"rk_[0-9a-f]{12}_[\w-]{43}", made.text)
    assert match and client.get("/settings", follow_redirects=False).status_code == 303
    send(client, "/sign-in", key=match[0])
    page = client.get("/settings").text
    assert match[0] not in page and "Anna" in page and match[0] not in (folder / HISTORY_FILE).read_text("utf-8")
    key_id = match[0].split("_")[1]
    assert send(client, f"/settings/keys/{key_id}/revoke").status_code == 403  # one's own
    client.cookies.set("recllm-language", "zh")
    nameless = Page(send(client, "/settings/keys", name="", scope=["console"]).text).text
    client.cookies.delete("recllm-language")
    assert "请检查输入或选择的内容：a key needs a name" in nameless  # what kind of thing it is, in words that they read
    other = send(client, "/settings/keys", name="Ben", scope=["console"]).text
    other_id = re.search(r"rk_([0-9a-f]{12})_", other)[1]  # type: ignore[index]
    assert send(client, f"/settings/keys/{other_id}/revoke").status_code == 303
    assert "revoked" in Page(client.get("/settings").text).text


def test_today_suggests_what_could_go_out(looking: TestClient) -> None:
    page = Page(until_counted(looking, "/"))
    text = " ".join(page.text.split())
    assert f"Customers known{PEOPLE}" in text.replace(" ", "").replace("Customersknown", "Customers known")
    assert "Due again" in text and f"{PEOPLE} customers are about to run out" in text
    assert "Nothing was recorded as shown" in text and "Draft it: Due again" in {
        b for f in page.forms for b in f.buttons
    }
    listed = Page(looking.get("/people/list/replenish").text)
    assert f"Make a campaign of these {PEOPLE}" in {words for form in listed.forms for words in form.buttons}
    assert looking.get("/people/list/other").status_code == 404


def test_search_forgives_a_typo_and_knows_what_is_meant(looking: TestClient) -> None:
    for query, shown in (("gren tee", "Green tea"), ("green tea for christmas", "Green tea"), ("tea-3", "Green tea 3")):
        assert shown in Page(looking.get("/items", params={"q": query}).text).text, query
    assert "No product has" in Page(looking.get("/items", params={"q": "qqqq"}).text).text
    for words, where in ((SHOP_ID, "/people/u1_"), ("tools-1", "/items/item/tools-1")):
        answer = send(looking, "/search", find=words)
        assert answer.status_code == 303 and answer.headers["location"].startswith(where)
    found = send(looking, "/search", find="steel hamer")
    assert "Steel hammer" in assert_harmless(found.text).text and "hamer" not in str(found.url)
    assert "Nothing matches “qqqq”" in Page(send(looking, "/search", find="qqqq").text).text


def test_a_small_group_is_not_told(folder: Path) -> None:
    text = (folder / "workspace.toml").read_text("utf-8").replace("group_floor = 3", "group_floor = 1000")
    (folder / "workspace.toml").write_text(text, "utf-8")
    with serving(folder) as client:
        home = until_counted(client, "/")
        assert "/people/list/" not in home and "Draft it" not in home and "fewer than 1,000" in Page(home).text
        assert "u1_" not in client.get("/people/list/replenish").text
        assert "fewer than 1,000" in Page(client.get("/items/item/tea-1").text).text
        assert "fewer than 1,000" in Page(client.get("/items").text).text


def test_pages_without_people_read_none(looking: TestClient, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Workspace.open(folder) as shop:
        name = shop.pseudonymiser().one("u01")
        held = export_person(shop, "u01")

    until_counted(looking, "/")  # figures of Today are kept
    everything_read = []
    for owner, method in ((PolicyGate, "permitted_users"), (StoreReader, "counts"), (people, "export_person")):
        monkeypatch.setattr(owner, method, lambda *_, method=method, **__: everything_read.append(method))
    consent = StoreReader.consent

    def consent_of(reader: StoreReader, *purpose: Any, user_ids: Any = None) -> pl.DataFrame:
        if user_ids is None:
            everything_read.append("consent")
        return consent(reader, *purpose, user_ids=user_ids)

    monkeypatch.setattr(StoreReader, "consent", consent_of)
    assert 'name="user_id"' in looking.get("/people").text
    erasure = Page(looking.get(f"/people/{name}/erase").text).text
    assert held["events"] and f"{len(held['events'])} " in erasure
    assert everything_read == []


def test_pictures_of_products_come_from_a_folder_and_are_drawn_anew(folder: Path) -> None:
    (folder / "images").mkdir()
    Image.new("RGB", (900, 300), "red").save(folder / "images" / "tea-1.png")
    Image.new("RGB", (30, 30), "blue").save(folder / "images" / "cup one.jpg")
    (folder / "images" / "tea-3.png").write_text("<script>alert(1)</script>")
    (folder / "images" / "tea-4.png").symlink_to(folder / "images" / "tea-1.png")
    rows = ["tea-2,Tea,food > tea,https://a.example/a/cup%20one.jpg?v=2", "tea-5,Tea,food > tea,../workspace.toml"]
    rows.append("tools-3,Saw,tools,https://[x/a.png")
    with Workspace.open(folder) as shop:
        load_lines(shop, "items", ["item_id,title,category,image", *rows])
        assert "cup" not in item_texts(shop.gate().catalogue(["tea-2"]))[0]
    with serving(folder) as client:
        for name, size in (("tea-1", (480, 160)), ("tea-2", (30, 30))):
            answer = client.get(f"/items/picture/{name}")
            assert answer.headers["content-type"] == "image/webp", name
            assert Image.open(io.BytesIO(answer.content)).size == size
        for name in ("tea-3", "tea-4", "tea-5", "tools-1", "tools-3"):
            drawn = client.get(f"/items/picture/{name}")
            assert drawn.headers["content-type"] == "image/svg+xml" and drawn.text.startswith("<svg xmlns="), name
        for name in ("none", "../tea-1", "tea-1.png"):
            assert client.get(f"/items/picture/{name}").status_code == 404
        for path in ("/items?q=tea-1", "/items/item/tea-1"):
            page = assert_harmless(client.get(path).text)
            assert "/items/picture/tea-1" in {image["src"] for image in page.of("img")}, path
        shutil.rmtree(folder / "images")
        assert not Page(client.get("/items").text).of("img")  # the drawings stand in the page


def test_a_chart_by_day_has_round_steps() -> None:
    words, days = Words("en", "EUR", "UTC"), [LAST_DAY - timedelta(days=n) for n in (2, 1, 0)]
    table: Any = SimpleNamespace(title="t", rows=list(zip(days, (0, 1, 2), strict=True)))
    counts = day_chart(words, table)
    assert counts["y"] == ["3", "2", "1", "0"] and len(counts["x"]) == 3
    assert counts["line"] == "M0.0 190.0L280.0 126.7L560.0 63.3"
    assert counts["area"] == f"{counts['line']}V190H0Z"


def test_an_empty_shop_says_what_to_do(tmp_path: Path) -> None:
    with Workspace.create(tmp_path / "new", encoder="toy", locale="zh-CN"):
        pass
    with serving(tmp_path / "new", waits=False) as client:
        for path in ("/", "/people", "/data", "/models", "/settings"):
            answer = client.get(path)
            assert answer.status_code == 200, path
            assert Page(answer.text).of("html")[0]["lang"] == "zh-Hans"
        opening = client.get("/items")
        if opening.status_code == 503:
            assert "店铺正在打开" in opening.text and "being opened" not in opening.text
        assert "载入文件" in client.get("/").text and "载入" in client.get("/people").text
        assert "还没有训练模型" in client.get("/models").text
        english = client.get("/language/en", params={"after": "/people"})
        assert english.url.path == "/people" and "No customers are known yet" in Page(english.text).text
        assert client.get("/language/xx").status_code == 404


def test_a_page_that_fails(
    looking: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("secret of this machine")

    monkeypatch.setattr(models, "model_lines", fail)
    answer = looking.get("/models")
    page = assert_harmless(answer.text)
    assert answer.status_code == 500 and "This did not work" in page.text and "secret" not in answer.text
    assert answer.headers["content-security-policy"] and "a page failed" in caplog.text
    missing = looking.get("/nothing/here")
    assert missing.status_code == 404 and "There is no such page" in Page(missing.text).text


def test_what_others_wrote_is_what_they_published() -> None:
    for folder in (CONSOLE / "static", ROOT / "tests" / "vendor"):
        table = tomllib.loads((folder / "vendored.toml").read_text("utf-8"))
        for name, entry in table.items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == entry["sha256"], name
            assert entry["licence"] in ("0BSD", "MIT", "MPL-2.0") and entry["version"]
    ours = {"console.css", "icon.svg", "session.js", "vendored.toml", "LICENSES.txt"}
    listed = tomllib.loads((CONSOLE / "static" / "vendored.toml").read_text("utf-8"))
    assert {path.name for path in (CONSOLE / "static").iterdir()} == ours | set(listed)
    licences = (CONSOLE / "static" / "LICENSES.txt").read_text("utf-8")
    assert all(name in licences for name in listed) and "Zero-Clause BSD" in licences


def test_templates_escape_whatever_they_are_given() -> None:
    for file in (CONSOLE / "templates").glob("*.j2"):
        text = file.read_text("utf-8")
        assert "|safe" not in text.replace(" ", "") and "autoescape" not in text, file.name
        assert not re.search(r"\sstyle=|\son\w+=|<script(?![^>]*nonce)", text), file.name


def test_the_navigation_is_the_list_of_sections(looking: TestClient) -> None:
    links = [a["href"] for a in Page(looking.get("/people").text).of("a") if a.get("aria-current") == "page"]
    assert links == ["/people"] and SECTIONS[0].path == "/"


def test_settings_tell_value_and_origin(looking: TestClient) -> None:
    page = Page(looking.get("/settings").text).text
    assert "consent_default" in page and "workspace.toml" in page and "group_floor" in page and "default: 50" in page


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_tells_what_is_held_and_what_has_to_go(client: TestClient, folder: Path, language: str) -> None:
    client.cookies.set("recllm-language", language)
    with Workspace.open(folder) as shop:
        erase_people(shop, ["u02"], actor="key:1")
        pseudonym = shop.pseudonymiser().one("u02")
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
        erase_people(shop, ["u02"], actor="key:1")
        with writing(shop.store()._engine) as connection:
            connection.execute(sql("DELETE FROM audit WHERE entry_no = 1"))
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
