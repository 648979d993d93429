"""The service: answers are those of the library, events and items count at once, keys and limits hold."""

from __future__ import annotations

import logging
import re
import shutil
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from fastapi.testclient import TestClient
from service_world import FAST, LAST_DAY, counts, make_key, publish_again, server_process, serving, stopped
from shop_world import load_lines, loaded
from typer.testing import CliRunner
from waiting import until

from recllm.base.documents import plain
from recllm.base.errors import PolicyError, StoreError, UsageError
from recllm.base.schema import Objective
from recllm.base.service_settings import ServiceSettings
from recllm.doors.cli.main import app as command_line
from recllm.doors.service.callers import Capacity
from recllm.doors.service.refusals import OverloadError
from recllm.recommend.recommender import shop_recommender
from recllm.recommend.recommender.recommender import Recommender
from recllm.recommend.recommender.shop_recommender import open_recommender
from recllm.shop.workspace.keys import ApiKey, Scope, authenticate, create_key, list_keys, revoke_key
from recllm.shop.workspace.workspace import Workspace


def shown(client: TestClient, user: str | None = "u00", headers: Any = None, **body: Any) -> list[str]:
    answer = client.post("/v1/recommend", json={"user_id": user, "k": 20, **body}, headers=headers)
    assert answer.status_code == 200, answer.text
    return [item["item_id"] for item in answer.json()["items"]]


def test_an_objective_reaches_the_slate(folder: Path, client: TestClient) -> None:
    users = [f"u{n:02}" for n in range(12)]
    with Workspace.open(folder) as shop:
        slates = open_recommender(shop).recommend(users, k=20, objective=Objective.LIFT)
    by_lift = [shown(client, user, objective="lift") for user in users]
    assert by_lift == [[item.item_id for item in slate.items] for slate in slates]
    assert by_lift != [shown(client, user, objective="probability") for user in users]
    refused = client.post("/v1/recommend", json={"user_id": "u00", "objective": "margin"})
    assert refused.status_code == 422 and "attribute margin" in refused.json()["error"]["message"]


def test_a_slate_is_the_librarys(folder: Path, client: TestClient) -> None:
    answer = client.post("/v1/recommend", json={"user_id": "u00", "k": 4, "explain": True}).json()
    with Workspace.open(folder) as shop:
        (slate,) = open_recommender(shop).recommend("u00", k=4)
    assert answer == plain(slate) | {"request_id": answer["request_id"]}
    assert answer["status"] == "personal" and answer["model_version"] and answer["items"][0]["reasons"]
    assert answer["horizon_days"] > 0
    assert all(item["item_id"].startswith("tea") for item in answer["items"])


def test_filters_reach_the_slate(client: TestClient) -> None:
    cheap = {f"{kind}-{n}" for kind in ("tea", "tools") for n in range(3)}
    assert set(shown(client, where="price < 5", repeats=True)) <= cheap
    again, new = set(shown(client, intent="remind")), set(shown(client, intent="discover"))
    assert again and new and not again & new
    first = shown(client)[0]
    assert first not in shown(client, exclude=[first])
    assert set(shown(client, allow=["tools-1", "tea-1"], k=2)) == {"tea-1", "tools-1"}


def test_explain_names_what_moves_the_score(client: TestClient) -> None:
    item = shown(client)[0]
    answer = client.post("/v1/explain", json={"user_id": "u00", "item_id": item}).json()
    assert answer["place"] == 1 and answer["reasons"][0]["evidence_id"].startswith("B:tea")
    stranger = client.post("/v1/explain", json={"user_id": "nobody", "item_id": item})
    assert stranger.status_code == 404 and "nothing is known" in stranger.json()["error"]["message"]


def test_an_anonymous_visitor_is_served_by_the_cart(client: TestClient) -> None:
    assert shown(client, None, basket=["tools-1"], k=3, repeats=False)[0].startswith("tools")
    answer = client.post("/v1/recommend", json={"k": 3}).json()
    assert answer["status"] == "unknown_user" and answer["items"]


def test_similar_items_are_of_the_same_kind(client: TestClient) -> None:
    answer = client.get("/v1/items/tea-1/similar", params={"k": 5}).json()
    assert len(answer["items"]) == 5 and all(i["item_id"].startswith("tea") for i in answer["items"])
    cosines = [item["cosine"] for item in answer["items"]]
    assert cosines == sorted(cosines, reverse=True) and "tea-1" not in {i["item_id"] for i in answer["items"]}
    assert client.get("/v1/items/nothing/similar").status_code == 404


def test_texts_that_anyone_wrote_are_checked(client: TestClient) -> None:
    item = {"id": "tea-3", "title": "Green tea 3", "price": "5.00", "currency": "EUR"}
    line = {"channel": "push", "locale": "en", "item": item, "packs": []}
    texts = [line | {"id": f"{price}", "text": f"Green tea 3, €{price}.00."} for price in (5, 4)]
    answer = client.post("/v1/copy/check", json={"texts": texts}).json()
    assert [r["verdict"] for r in answer["results"]] == ["pass", "blocked"]
    assert (answer["held"], answer["blocked"], answer["unreadable"]) == (0, 1, [])
    crispy = {**texts[0], "id": "c", "text": f"Crispy {texts[0]['text']}"}
    (held,) = client.post("/v1/copy/check", json={"texts": [crispy]}).json()["results"]
    assert (held["verdict"], held["ungrounded"]) == ("person", [{"word": "Crispy", "span": [0, 6]}])
    assert answer["checked"] == 2 and [r["verified"] for r in answer["results"]] == [True, False]
    assert client.post("/v1/copy/check", json={"texts": [{"id": "a"}]}).status_code == 422


def test_people_and_their_consent_come_in(client: TestClient) -> None:
    person = {"user_id": "told", "basics": {"age": "35-44", "城市": "上海"}}
    assert client.post("/v1/users", json={"users": [person]}).json()["accepted"] == 1
    known = client.post("/v1/users/profile", json={"user_id": "told"}).json()
    assert known["basics"] == person["basics"] and known["user_id"] == "told" and "35-44" in known["texts"]["basics"]
    assert client.post("/v1/users/profile", json={"user_id": "stranger"}).status_code == 404
    refusal = {"user_id": "told", "purpose": "personalisation", "granted": False}
    assert client.post("/v1/consent", json={"consent": [refusal]}).json()["accepted"] == 1
    assert client.post("/v1/users/profile", json={"user_id": "told"}).status_code == 403
    assert client.post("/v1/recommend", json={"user_id": "told"}).json()["status"] == "no_consent"
    again = refusal | {"granted": True}
    tomorrow = (datetime.now(UTC) + timedelta(hours=23)).isoformat()
    assert client.post("/v1/consent", json={"consent": [again | {"timestamp": tomorrow}]}).status_code == 422
    assert client.post("/v1/consent", json={"consent": [again | {"user_id": "told.0"}]}).json()["accepted"] == 1
    assert client.post("/v1/users/profile", json={"user_id": "told"}).status_code == 403  # told.0 is somebody else
    assert client.post("/v1/consent", json={"consent": [again]}).json()["accepted"] == 1
    assert client.post("/v1/users/profile", json={"user_id": "told"}).status_code == 200
    assert client.post("/v1/consent", json={"consent": [refusal | {"purpose": "everything"}]}).status_code == 422
    ahead = again | {"timestamp": (datetime.now(UTC) + timedelta(seconds=250)).isoformat()}
    for together in ([ahead, refusal], [refusal, ahead]):
        assert client.post("/v1/consent", json={"consent": together}).json()["accepted"] == 2
        assert client.post("/v1/recommend", json={"user_id": "told"}).json()["status"] == "no_consent"


def test_an_event_counts_in_the_next_answer(client: TestClient) -> None:
    gone = shown(client)[0]
    event = {"event_id": "d-1", "user_id": "u00", "item_id": gone, "event": "dismiss"}
    assert client.post("/v1/events", json={"events": [event]}).json()["accepted"] == 1
    assert gone not in shown(client)
    assert client.post("/v1/recommend", json={"user_id": "visitor", "k": 3}).json()["status"] == "unknown_user"
    bought = {"event_id": "p-1", "user_id": "visitor", "item_id": "tools-3", "event": "purchase", "price": 5}
    client.post("/v1/events", json={"events": [bought]})
    answer = client.post("/v1/recommend", json={"user_id": "visitor", "k": 3}).json()
    assert answer["status"] == "personal" and answer["items"][0]["item_id"].startswith("tools")


def test_events_are_idempotent_and_each_is_accounted_for(client: TestClient) -> None:
    first = {"event_id": "e-1", "user_id": "u01", "item_id": "tools-1", "event": "click"}
    second = first | {"event_id": "e-2", "item_id": "tools-2"}
    at = {"timestamp": LAST_DAY.isoformat()}
    account = client.post("/v1/events", json={"events": [first | at, second | at, first | at]}).json()
    assert account == {"accepted": 2, "duplicates": 1, "conflicts": [], "rejected": []}
    assert client.post("/v1/events", json={"events": [first | at, second | at]}).json()["duplicates"] == 2
    assert client.post("/v1/events", json={"events": [first | {"event_id": "e-3"}]}).json()["accepted"] == 1
    retried = client.post("/v1/events", json={"events": [first | {"event_id": "e-3"}]}).json()  # a moment later
    assert retried == {"accepted": 0, "duplicates": 1, "conflicts": [], "rejected": []}
    old = {"timestamp": "0001-01-01T00:00:00+14:00", "event_id": "e-4"}
    assert client.post("/v1/events", json={"events": [first | old]}).json()["rejected"] == [0]
    future = {"timestamp": (datetime.now(UTC) + timedelta(days=1)).isoformat()}
    other = second | at | {"event": "purchase"}
    account = client.post("/v1/events", json={"events": [second | future, other, first | at]}).json()
    assert account == {"accepted": 0, "duplicates": 1, "conflicts": [1], "rejected": [0]}


def test_an_unknown_id_is_answered_and_makes_nobody_unless_it_is_recorded(folder: Path, client: TestClient) -> None:
    def rows() -> dict[str, int]:
        return {name: n for name, n in counts(folder).items() if name in ("users", "events", "consent")}

    before, person = rows(), {"user_id": "nobody123"}
    visitors: list[dict[str, Any]] = [person, {"session_id": "nobody123"}, {}]
    looks = [("recommend", visitor | {"k": 2}) for visitor in visitors]
    looks += [("search", visitor | {"query": "tea"}) for visitor in visitors]
    looks += [("explain", person | {"item_id": "tea-1"}), ("users/profile", person), ("users/export", person)]
    looks += [("copy", person | {"channel": "push"})]
    looks += [("audience", {"items": ["tea-1"], "suppressed": ["nobody123"]})]
    for path, body in looks:
        answer = client.post(f"/v1/{path}", json=body)
        assert answer.status_code in (200, 403, 404), (path, body, answer.text)
        assert rows() == before, (path, body)
    assert client.post("/v1/recommend", json=person).json()["status"] == "unknown_user"
    for visitor in visitors[:2]:  # the shop's own site says so of whoever sees it
        assert client.post("/v1/recommend", json=visitor | {"k": 2, "record": True}).status_code == 200
    assert rows() == before | {"users": before["users"] + 1, "events": before["events"] + 4}


def test_a_new_item_and_a_change_of_the_offer_are_served_within_moments(client: TestClient) -> None:
    new = {"item_id": "tea-new", "title": "Green tea 99", "category": "food > tea", "price": 4.5}
    bad = {"item_id": "tea-bad", "title": " "}
    assert client.post("/v1/items", json={"items": [new]}).json()["accepted"] == 1
    assert "tea-new" in shown(client)
    refused = client.post("/v1/items", json={"items": [new | {"item_id": "tea-other"}, bad]})
    assert refused.status_code == 422 and "items.1.title" in refused.json()["error"]["message"]
    assert "tea-other" not in shown(client)  # all or none
    client.post("/v1/items", json={"items": [new | {"available": False}]})
    assert "tea-new" not in shown(client)
    client.post("/v1/items", json={"items": [new | {"price": 8.25}]})
    assert "tea-new" in shown(client, where="price > 8") and "tea-new" not in shown(client, where="price < 8")
    text = client.post("/v1/copy", json={"user_id": "u00", "item_id": "tea-new"}).json()["text"]
    assert "8.25" in text and "4.5" not in text


def test_a_withdrawal_acts_in_the_next_answer(folder: Path, client: TestClient) -> None:
    assert client.post("/v1/recommend", json={"user_id": "u04", "k": 3}).json()["status"] == "personal"
    with Workspace.open(folder) as shop:
        refusal = "u04,personalisation,false,2025-06-01T12:00:00Z"
        load_lines(shop, "consent", ["user_id,purpose,granted,timestamp", refusal])
    answer = client.post("/v1/recommend", json={"user_id": "u04", "k": 3, "explain": True}).json()
    assert answer["status"] == "no_consent"
    assert {reason["evidence_id"] for item in answer["items"] for reason in item["reasons"]} == {"general"}
    refused = client.post("/v1/explain", json={"user_id": "u04", "item_id": "tea-1"})
    assert refused.status_code == 403 and refused.json()["error"]["type"] == "PolicyError"
    assert client.post("/v1/copy", json={"user_id": "u04"}).status_code == 403


def test_a_shop_without_a_model_answers_by_texts(tmp_path: Path) -> None:
    items = ["item_id,title", "a,Green tea", "b,Black tea", "c,Hammer"]
    events = ["user_id,item_id,timestamp", "ann,a,2025-05-01T00:00:00Z"]
    with serving(loaded(tmp_path, {"items": items, "events": events}, service=FAST)) as client:
        answer = client.post("/v1/recommend", json={"user_id": "ann", "k": 1, "repeats": False}).json()
        assert answer["status"] == "text_only" and answer["items"][0]["item_id"] == "b"
        client.post("/v1/events", json={"events": [{"user_id": "bob", "item_id": "c", "event": "purchase"}]})
        until(lambda: client.post("/v1/recommend", json={"user_id": "bob"}).json()["status"] == "text_only")


def test_once_there_is_a_key_nothing_is_answered_without_one(folder: Path, client: TestClient) -> None:
    body = {"user_id": "u00", "k": 1}
    assert client.post("/v1/recommend", json=body).status_code == 200
    key = make_key(folder, "recommend")
    assert client.post("/v1/recommend", json=body).status_code == 401
    headers = {"X-API-Key": key}
    assert client.post("/v1/recommend", json=body, headers=headers).status_code == 200
    assert client.post("/v1/recommend", json=body, headers={"X-API-Key": key[:-1] + "x"}).status_code == 401
    recorded = client.post("/v1/recommend", json=body | {"record": True}, headers=headers)
    assert recorded.status_code == 403  # recording writes
    event = {"events": [{"user_id": "u00", "item_id": "tea-1", "event": "view"}]}
    assert client.post("/v1/events", json=event, headers=headers).status_code == 403
    assert client.get("/metrics", headers=headers).status_code == 403
    with Workspace.open(folder) as shop:
        revoke_key(shop, list_keys(shop)[0].key_id)
    assert client.post("/v1/recommend", json=body, headers=headers).status_code == 401
    assert client.post("/v1/recommend", json=body).status_code == 401  # a revoked key does not open the door again
    assert client.get("/livez").status_code == 200


def test_others_do_not_learn_which_shops_there_are(folder: Path) -> None:
    with serving(folder, loopback_only=False) as client:
        assert client.get("/readyz", headers={"Host": "api.example"}).json() == {"ready": True}


def test_the_store_holds_no_secret(folder: Path) -> None:
    key = make_key(folder, "recommend", "events")
    secret = key.split("_", 2)[2].encode()
    with Workspace.open(folder) as shop:
        (stored,) = list_keys(shop)
        assert stored.scopes == {Scope.RECOMMEND, Scope.EVENTS} and authenticate(shop, key) == stored
        assert authenticate(shop, "rk_" + "0" * 12 + "_" + "A" * 43) is None and authenticate(shop, "x") is None
        with pytest.raises(UsageError, match="scopes are"):
            create_key(shop, "test", ["everything"])
        with pytest.raises(UsageError, match="no key"):
            revoke_key(shop, "000000000000")
    assert not any(secret in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_two_shops_in_one_process_are_apart(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(folder, tmp_path / "other")
    with Workspace.open(tmp_path / "other") as shop:
        load_lines(shop, "items", ["item_id,title,price", "only-here,Green tea 50,3"])
    with serving(folder, tmp_path / "other") as client:
        assert client.post("/v1/recommend", json={"user_id": "u00"}).status_code == 400
        of_other = {"X-Shop": "other"}
        similar = client.get("/v1/items/tea-1/similar?k=20", headers=of_other).json()
        assert "only-here" in [item["item_id"] for item in similar["items"]]
        assert client.get("/v1/items/only-here/similar", headers={"X-Shop": "shop"}).status_code == 404
        key = {"X-API-Key": make_key(folder, "recommend", "events")}
        gone = shown(client, headers=key)[0]
        event = {"user_id": "u00", "item_id": gone, "event": "dismiss"}
        assert client.post("/v1/events", json={"events": [event]}, headers=key).status_code == 200
        assert gone not in shown(client, headers=key)
        for headers in (key | of_other, of_other):
            assert client.post("/v1/recommend", json={}, headers=headers).status_code == 401
        key_of_other = {"X-API-Key": make_key(tmp_path / "other", "recommend", "metrics")}
        assert gone in shown(client, headers=key_of_other)
        assert "recllm_slates" in client.get("/metrics", headers=key_of_other).text
        assert 'operation="events"' not in client.get("/metrics", headers=key_of_other).text  # only the first shop's

        def broken(workspace: Workspace, text: str) -> ApiKey | None:
            if workspace.root == folder:
                raise StoreError("the store is damaged")
            return authenticate(workspace, text)

        monkeypatch.setattr("recllm.doors.service.callers.authenticate", broken)  # one shop's trouble is no other's
        for headers, status in ((key, 503), (key | of_other, 401)):
            assert client.post("/v1/recommend", json={}, headers=headers).status_code == status
        assert shown(client, headers=key_of_other)


def test_a_wrong_request_is_told_what_is_wrong(client: TestClient) -> None:
    """All the others: test_service_inputs."""
    for body, message in (
        ({"k": 101}, "less than or equal to 100"),
        ({"wher": "price < 3"}, "wher"),
        ({"where": "password = 'x'"}, "cannot be read"),
        ({"exclude": ["no such item"]}, "no item"),
        ({"user_id": "a\u200bb"}, "invisible or control"),
        ({"user_id": "NULL"}, "is no id of a person"),
        ({"user_id": "字" * 100}, "at most 256 bytes"),
        ({"where": "item_id IN (SELECT x FROM read_csv('/etc/passwd'))"}, "is not accepted; columns: item_id"),
    ):
        answer = client.post("/v1/recommend", json={"user_id": "u00", **body})
        assert answer.status_code == (404 if "exclude" in body else 422), body
        error = answer.json()["error"]
        assert message in error["message"] and re.fullmatch(r"[0-9a-f]{32}", error["request_id"])


def test_another_sites_page_is_not_answered(client: TestClient) -> None:
    assert client.get("/livez", headers={"Host": "evil.example"}).status_code == 400
    assert client.get("/livez", headers={"Host": "127.0.0.1:8080"}).status_code == 200


def test_what_nobody_foresaw_is_a_plain_500(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(Recommender, "recommend", fail)
    answer = client.post("/v1/recommend", json={"user_id": "u00"})
    assert answer.status_code == 500 and answer.json()["error"]["type"] == "internal"
    assert "secret" not in answer.text and "Traceback" not in answer.text


def test_the_public_description_names_no_class_of_the_code(client: TestClient) -> None:
    sources = "".join(path.read_text("utf-8") for path in Path(shop_recommender.__file__).parents[2].rglob("*.py"))
    classes = set(re.findall(r"^class (\w*[a-z][A-Z]\w*)", sources, re.MULTILINE))
    assert len(classes) > 100
    operations = [o for path in client.get("/openapi.json").json()["paths"].values() for o in path.values()]
    texts = [text for o in operations for text in (o.get("summary", ""), o.get("description", ""))]
    assert len(texts) > 50
    assert [text for text in texts if classes.intersection(re.findall(r"\w+", text))] == []


def test_no_id_of_a_person_is_in_logs_or_metrics(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client.post("/v1/recommend", json={"user_id": "secret-person", "k": 0})
    event = {"user_id": "secret-person", "item_id": "tea-1", "event": "view"}
    client.post("/v1/events", json={"events": [event]})
    client.post("/v1/explain", json={"user_id": "secret-person", "item_id": "tea-1"})
    client.post("/v1/users/profile", json={"user_id": "secret-person"})
    logged = "".join(f"{r.getMessage()}{vars(r)}" for r in caplog.records if not r.name.startswith("httpx2"))
    assert "secret-person" not in logged + client.get("/metrics").text


def test_the_queue_is_bounded_and_has_a_deadline() -> None:
    async def overload() -> list[str]:
        capacity = Capacity(ServiceSettings(workers=1, waiting=1, deadline_seconds=0.2))
        busy, outcomes = threading.Event(), []

        async def ask(answer: Callable[[], object]) -> None:
            try:
                outcomes.append(str(await capacity.run(answer)))
            except OverloadError as error:
                outcomes.append(f"{error.status} {error.retry_seconds}")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, lambda: busy.wait(30))
            while capacity.n_waiting or not capacity._workers.borrowed_tokens:
                await anyio.sleep(0.01)
            tasks.start_soon(ask, lambda: "late")  # waits, until its deadline
            while not capacity.n_waiting:
                await anyio.sleep(0.01)
            await ask(lambda: "refused at once")
            while capacity.n_waiting:
                await anyio.sleep(0.01)
            busy.set()
        outcomes.append(str(await capacity.run(lambda: "free again")))
        return outcomes

    assert anyio.run(overload) == ["429 1", "503 1", "True", "free again"]


def test_whoever_has_no_valid_key_is_one_caller(folder: Path) -> None:
    key = make_key(folder, "recommend")
    with serving(folder, settings=ServiceSettings(requests_per_minute=5, watch_seconds=0.05)) as client:
        guesses = [{"X-API-Key": f"rk_{n:012}_{'a' * 43}"} for n in range(7)]
        statuses = [client.post("/v1/recommend", json={}, headers=guess).status_code for guess in guesses]
        assert statuses == [401] * 5 + [429] * 2
        assert client.post("/v1/recommend", json={}, headers={"X-API-Key": key}).status_code == 200


def test_the_description_of_the_interface_is_complete(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    operations = [(path, verb, op) for path, verbs in document["paths"].items() for verb, op in verbs.items()]
    assert len(operations) >= 9
    for path, verb, operation in operations:
        assert operation.get("description") and operation["operationId"], f"{verb} {path} has no description"
        if "requestBody" in operation and not path.startswith("/webhooks/"):  # there the body is a provider's
            name = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[-1]
            schema = document["components"]["schemas"][name]
            assert schema["examples"], f"{name} has no example"
            example = client.request(verb, path.replace("{campaign_id}", "spring"), json=schema["examples"][0])
            assert example.status_code != 500


def test_a_door_that_others_reach_needs_a_key(folder: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(command_line, ["serve", "-w", str(folder), "--host", "0.0.0.0"])  # noqa: S104
    assert isinstance(result.exception, PolicyError) and "recllm keys --create" in str(result.exception)
    shutil.copytree(folder, tmp_path / "again" / "shop")
    twice = CliRunner().invoke(command_line, ["serve", "-w", str(folder), "-w", str(tmp_path / "again" / "shop")])
    assert isinstance(twice.exception, UsageError) and "called 'shop'" in str(twice.exception)


def test_a_taken_port_is_told_before_anything_is_opened(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        result = CliRunner().invoke(command_line, ["serve", "-w", str(tmp_path / "none"), "--port", port])
    assert isinstance(result.exception, UsageError) and not result.output
    assert "Address already in use; give another --port" in str(result.exception)


def test_keys_by_command(folder: Path) -> None:
    def run(*words: str) -> str:
        result = CliRunner().invoke(command_line, ["keys", *words, "-w", str(folder)])
        assert result.exit_code == 0, result.output
        return result.stdout

    text = run("--create", "web shop", "--scope", "recommend", "--scope", "events").strip()
    key_id = text.split("_")[1]
    assert key_id in run() and text not in run()
    run("--revoke", key_id)
    with Workspace.open(folder) as shop:
        assert authenticate(shop, text) is None


def test_a_real_server_answers_and_stops_when_told(folder: Path) -> None:
    with server_process(folder) as (client, server):
        answer = client.post("/v1/recommend", json={"user_id": "u01", "k": 2})
        assert answer.status_code == 200 and answer.json()["items"][0]["item_id"].startswith("tools")
        assert client.post("/v1/users/profile", json={"user_id": "u01"}).status_code == 200
        assert "server" not in answer.headers
        said = stopped(server)
    assert "no shop has a key" in said and "u01" not in said and "Traceback" not in said


def test_the_encoder_of_a_model_is_opened_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str | None] = []
    real = shop_recommender.model_encoder

    def counting(workspace: Workspace, model: Any) -> Any:
        opened.append(model and model.version)
        return real(workspace, model)

    monkeypatch.setattr(shop_recommender, "model_encoder", counting)
    with serving(folder) as client:
        for n in range(3):
            item = {"item_id": f"new-{n}", "title": f"Green tea of another year {n}", "category": "food > tea"}
            client.post("/v1/items", json={"items": [item]}).raise_for_status()
            assert shown(client, allow=[f"new-{n}"]) == [f"new-{n}"]
        assert len(opened) == 1
        with Workspace.open(folder) as shop:
            newer = publish_again(shop)
        until(lambda: client.get("/readyz").json()["shops"]["shop"]["model_version"] == newer)
        assert opened[-1] == newer, "another model may have another encoder"
