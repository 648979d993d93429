"""What nobody should send: each is a typed error, nothing is changed half-way, and the service goes on."""

from __future__ import annotations

import json
import re
import shutil
import socket
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
import requests
import service_world
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from service_world import app_of, counts, listening, make_key, serving
from starlette.exceptions import HTTPException
from tables import table
from waiting import at_once, until

from recllm.base.service_settings import ServiceSettings
from recllm.doors.console.app import OPERATION_NAMES
from recllm.doors.console.data import UPLOADS
from recllm.doors.service.requests import MAX_DEPTH, MAX_DIGITS, read_json
from recllm.shop.workspace.keys import Scope

JSON = {"Content-Type": "application/json"}
DEEP = 100_000
CAMPAIGN = service_world.CAMPAIGN | {"target": {"items": ["tea-1"]}}
EVENT = {"user_id": "u00", "item_id": "tea-1", "event": "view"}


@pytest.fixture(scope="module")
def trained(service_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop that is served to all tests of this module."""
    return Path(shutil.copytree(service_shop, tmp_path_factory.mktemp("inputs") / "shop"))


@pytest.fixture(scope="module")
def client(trained: Path) -> Iterator[TestClient]:
    """A service that every test leaves as it was."""
    with serving(trained, settings=ServiceSettings(max_body_mib=1), console=True) as client:
        before = counts(trained)
        yield client
        assert counts(trained) == before, "what was refused has left something"


def refused(answer: Any, *statuses: int) -> str:
    """The message of a typed error of one of these statuses, which repeats nothing of this machine's."""
    assert answer.status_code in statuses, (answer.status_code, answer.text[:500])
    error = answer.json()["error"]
    assert set(error) == {"type", "message", "request_id"} and re.fullmatch(r"[0-9a-f]{32}", error["request_id"])
    assert "Traceback" not in answer.text and 'File "' not in answer.text
    return str(error["message"])


OPERATIONS = "recommend explain search events items users consent sessions/join copy copy/check audience predict"
POSTS = [f"/v1/{name}" for name in f"{OPERATIONS} experiments campaigns campaigns/tea/plan".split()]

BODIES: dict[str, bytes] = {
    "nothing": b"",
    "half": b'{"user_id": "u0',
    "lists": b"[" * DEEP,
    "objects": b'{"a":' * DEEP,
    "deep in a field": b'{"texts": [{"id": ' + b"[" * DEEP + b"]" * DEEP + b"}]}",
    "deeper than is asked": b'{"campaign": {"id": ' + b'{"a":' * 400 + b"1" + b"}" * 400 + b"}}",
    "NaN": b'{"k": NaN}',
    "Infinity": b'{"k": -Infinity}',
    "a number without end": b'{"k": 1e999}',
    "a huge integer": b'{"k": ' + b"9" * 5_000 + b"}",
    "an integer that is no float": b'{"k": ' + b"9" * 400 + b"}",
    "two fields of one name": b'{"user_id": "u00", "user_id": "u01"}',
    "two of one name inside": b'{"campaign": {"limits": {"size": 1, "size": 2}}}',
    "no UTF-8": b'{"user_id": "\xff\xfe"}',
    "UTF-16": '{"user_id": "u00"}'.encode("utf-16"),
    "a list": b"[1, 2]",
    "a number": b"17",
    "null": b"null",
    "half a sign": b'{"user_id": "\\ud800", "query": "\\udfff", "texts": [{"text": "\\ud800"}]}',
}


def test_what_has_no_meaning_or_two_is_refused_everywhere(client: TestClient) -> None:
    for content in BODIES.values():
        for path in POSTS:
            refused(client.post(path, content=content, headers=JSON), 400, 422)
    assert client.post("/v1/recommend", json={"user_id": "u00", "k": 1}).status_code == 200


def test_a_body_has_one_meaning() -> None:
    assert read_json(b'{"a": [1, 2.5, "x", null, true], "b": {"a": 1}}') == {
        "a": [1, 2.5, "x", None, True],
        "b": {"a": 1},
    }
    assert read_json(b"\xef\xbb\xbf{}") == {}
    assert read_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    assert read_json(b"9" * 300) == int("9" * 300)
    assert read_json(b'[{"a": 1}, {"a": 2}]') == [{"a": 1}, {"a": 2}]  # two objects
    for body, message in (
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "levels"),
        (b"[" * DEEP, "too deeply"),
        (b"9" * (MAX_DIGITS + 1), "digits"),
        (b'{"ann": 1, "ann": 2}', "two fields"),
        (b"NaN", "no number"),
        (b"1e400", "larger"),
        (b"\xff", "UTF-8"),
    ):
        with pytest.raises(HTTPException) as refusal:
            read_json(body)
        assert refusal.value.status_code == 400 and message in refusal.value.detail
        assert "ann" not in refusal.value.detail


def test_another_kind_of_content_is_no_body(client: TestClient) -> None:
    body = json.dumps({"user_id": "u00"}).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/xml", ""):
        refused(client.post("/v1/recommend", content=body, headers={"Content-Type": kind}), 422)


def test_too_much_is_refused_before_it_is_read(client: TestClient) -> None:
    for path in POSTS:
        assert "larger" in refused(client.post(path, content=b" " * (2**20 + 1), headers=JSON), 413)
    many = [EVENT] * 1_001
    assert "at most 1000" in refused(client.post("/v1/events", json={"events": many}), 422)


def test_a_message_about_many_faults_is_short(client: TestClient) -> None:
    wrong = {"users": [{"user_id": f"person-{n}", "basics": {"1 wrong name" * 20: "x"}} for n in range(900)]}
    answer = client.post("/v1/users", json=wrong)
    message = refused(answer, 422)
    assert len(answer.content) < 10_000 and "more" in message


WRONG: tuple[tuple[str, Any], ...] = table("service_inputs", "wrong")


def test_what_is_no_value_is_refused_and_nothing_of_its_request_is_taken(client: TestClient) -> None:
    for path, body in WRONG:
        refused(client.post(path, content=json.dumps(body), headers=JSON), 400, 422)


def test_paths_and_queries_hold_nothing_odd(client: TestClient) -> None:
    long = ("/v1/items/" + "x" * 300 + "/similar", "/v1/items/tea-1/similar?k=" + "9" * 5_000)
    for path in (*table("service_inputs", "odd paths"), *long):
        refused(client.get(path), 422)
    for path in ("/v1/items/..%2f..%2fkey/similar", "/v1/items/%2e%2e/similar", "/v1/campaigns/tea", "/v1/jobs/x"):
        refused(client.get(path), 404)
    for path in ("/v1/items/%ff/similar", "/v1/items/%ed%a0%80/similar"):  # no UTF-8
        refused(client.get(path), 404, 422)


def test_a_wrong_path_or_verb_of_an_operation_is_told_and_led_nowhere(client: TestClient) -> None:
    """Though the console has a page for whatever else is asked."""
    paths = client.get("/openapi.json").json()["paths"]
    assert {path.split("/")[1] for path in paths} | {"openapi.json"} == OPERATION_NAMES
    for path in ("/v1", "/v1/", "/v1/nothing", "/webhooks/shop", "/livez/x"):
        refused(client.post(path, json={}, follow_redirects=False), 404)
    for verb, path in (("GET", "/v1/recommend"), ("PUT", "/v1/events"), ("POST", "/readyz"), ("TRACE", "/metrics")):
        answer = client.request(verb, path, follow_redirects=False)
        refused(answer, 405)
        assert answer.headers["Allow"]
    assert client.get("/", follow_redirects=False).headers["Content-Type"].startswith("text/html")


def test_what_is_another_shops_is_not_there(folder: Path, tmp_path: Path) -> None:
    """Keys, scopes and models of two shops: test_service."""
    shutil.copytree(folder, tmp_path / "other")
    with serving(folder, tmp_path / "other") as client:
        own, other = ({"X-Shop": name} for name in ("shop", "other"))
        visit = {"session_id": "v-1", "item_id": "tools-1", "event": "cart"}
        person = {"user_id": "only-here", "item_id": "tools-1", "event": "purchase"}
        assert client.post("/v1/events", json={"events": [visit, person]}, headers=own).json()["accepted"] == 2
        for who in ({"user_id": "only-here"}, {"session_id": "v-1"}):
            answers = [client.post("/v1/recommend", json=who, headers=headers).json() for headers in (own, other)]
            assert [answer["status"] for answer in answers] == ["personal", "unknown_user"]
        for path in ("/v1/users/export", "/v1/users/erase"):
            refused(client.post(path, json={"user_id": "only-here"}, headers=other), 404)
        refused(client.delete("/v1/items/only-here", headers=other), 404)
        refused(client.post("/v1/recommend", json={}, headers={"X-Shop": "third"}), 404)
        draft = client.post("/v1/campaigns", json={"campaign": CAMPAIGN}, headers=own).json()
        assert client.get("/v1/campaigns", headers=other).json() == {"campaigns": []}
        job = client.post("/v1/campaigns/tea/plan", json={"revision": draft["revision"]}, headers=own).json()
        refused(client.get(f"/v1/jobs/{job['job_id']}", headers=other), 404)
        refused(client.post(f"/v1/jobs/{job['job_id']}/cancel", headers=other), 404)
        key = make_key(folder, "recommend")
        wrong: tuple[dict[str, Any], ...] = (
            {"X-API-Key": key[:-1]},
            {"X-API-Key": ""},
            {"X-API-Key": "ключ".encode()},
            own,
        )
        for headers in wrong:
            refused(client.post("/v1/recommend", json={}, headers=headers), 401)


def test_of_edits_at_once_one_counts_and_the_others_are_told(folder: Path) -> None:
    with serving(folder) as client:
        draft = client.post("/v1/campaigns", json={"campaign": CAMPAIGN}).json()

        def edit(number: int) -> Any:
            body = {"revision": draft["revision"], "campaign": CAMPAIGN | {"goal": f"goal {number}"}}
            return client.put("/v1/campaigns/tea", json=body)

        answers = at_once(*(partial(edit, number) for number in range(6)))
        assert Counter(answer.status_code for answer in answers) == {200: 1, 409: 5}
        ((number, done),) = [(number, answer) for number, answer in enumerate(answers) if answer.status_code == 200]
        now = client.get("/v1/campaigns/tea").json()
        assert now["goal"] == f"goal {number}" and now["revision"] == done.json()["revision"]
        assert [line["action"] for line in now["history"]] == ["created", "changed"]


def test_an_upload_of_which_half_comes_leaves_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The browser goes away in the middle of a file."""
    file = '--frontier\r\nContent-Disposition: form-data; name="file"; filename="log.csv"\r\n\r\n'
    file += "user_id,item_id,timestamp\nann,tea-1,2025-05-0"
    with listening(app_of(folder, console=True)) as address:
        client = httpx2.Client(base_url="http://{}:{}".format(*address), trust_env=False)
        until(lambda: client.get("/readyz").status_code == 200)
        before = counts(folder)
        for path, body, kind in (
            ("/data/upload", file, "multipart/form-data; boundary=frontier"),
            ("/v1/events", '{"events": [{"user_id": "u00", ', "application/json"),
        ):
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nContent-Length: 999999\r\n"
            with socket.create_connection(address) as line:
                line.sendall(f"{head}Content-Type: {kind}\r\n\r\n{body}".encode())
                line.shutdown(socket.SHUT_WR)
                assert b"HTTP/1.1 5" not in line.recv(1_000)
        assert not list((folder / UPLOADS).glob("*")) and counts(folder) == before
        assert client.post("/v1/recommend", json={"user_id": "u00"}).status_code == 200
        client.close()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


EXAMPLES = 2
"""Of each operation, of what fits and of what does not."""


@pytest.fixture(scope="module")
def server(service_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """Address of a real server with the console beside the operations, and the headers of a key that may do all."""
    folder = Path(shutil.copytree(service_shop, tmp_path_factory.mktemp("schema") / "shop"))
    key = make_key(folder, *Scope)
    with listening(app_of(folder, console=True)) as (host, port), session() as client:
        address = f"http://{host}:{port}"
        until(lambda: client.get(f"{address}/readyz").status_code == 200)
        yield address, {"X-API-Key": key}


def session() -> requests.Session:
    """One that asks no proxy of the environment."""
    client = requests.Session()
    client.trust_env = False
    return client


@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE"])
def test_every_operation_answers_as_it_is_described(server: tuple[str, dict[str, str]], mode: str) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="run: pip install 'recllm[dev]'")
    address, headers = server
    with session() as client:
        document = client.get(f"{address}/openapi.json").json()
        schema = schemathesis.openapi.from_dict(document)
        schema.config.update(base_url=address)
        # what a description cannot say, such as that one of two fields is needed, is refused with 422
        exempt = [schemathesis.checks.positive_data_acceptance]
        n_operations = n_answered = 0
        for result in schema.get_all_operations():
            operation = result.ok()
            generation_mode = schemathesis.GenerationMode[mode]

            @settings(
                max_examples=EXAMPLES,
                derandomize=True,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=generation_mode))
            def check(case: Any) -> None:
                case.call_and_validate(session=client, headers=dict(headers), excluded_checks=exempt)

            try:
                check()
                n_answered += 1
            except Unsatisfiable:  # of what takes anything, nothing is wrong
                assert mode == "NEGATIVE", operation.label
            n_operations += 1
        assert n_operations == sum(len(verbs) for verbs in document["paths"].values())
        assert n_answered >= 0.6 * n_operations
        assert client.get(f"{address}/readyz").status_code == 200
