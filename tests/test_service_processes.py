"""Real servers, killed and in pairs: what was answered is kept, and two processes on one PostgreSQL store agree."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import httpx2
import pytest
from postgres_server import PostgresServer
from service_world import build_shop, server_process, serving
from waiting import until

from recllm.doors.service.live import LiveShop, SlateProcesses
from recllm.doors.service.requests import SlateRequest
from recllm.recommend.recommender.registry import current
from recllm.shop.workspace.keys import create_key, revoke_key
from recllm.shop.workspace.workspace import Workspace


def slate(client: httpx2.Client, user: str = "u00", **body: object) -> list[str]:
    answer = client.post("/v1/recommend", json={"user_id": user, "k": 30, **body}).raise_for_status().json()
    return [item["item_id"] for item in answer["items"]]


def children(pid: int) -> list[int]:
    """Processes that compute slates; the helper of the standard library beside them is none."""
    pids = [child for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]
    return [int(pid) for pid in pids if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]


def slate_processes(client: httpx2.Client) -> int:
    return int(client.get("/readyz").json()["slate_processes"])


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are found in /proc")
def test_slates_in_processes_of_their_own(folder: Path) -> None:
    with serving(folder) as client:
        here, refused = slate(client), client.post("/v1/recommend", json={"where": "colour = 1"})
        assert slate_processes(client) == 0
    with server_process(folder, "service.processes=2") as (client, server):
        until(lambda: slate_processes(client) == 2)
        first, second = children(server.pid)
        for pid in (first, second):  # each alone answers as one process does
            os.kill(pid, signal.SIGSTOP)
            with ThreadPoolExecutor(2) as pool:  # one of two requests goes to each
                both = [pool.submit(slate, client) for _ in range(2)]
                assert next(as_completed(both)).result() == here
                os.kill(pid, signal.SIGCONT)
                assert [answer.result() for answer in both] == [here, here]
        answer = client.post("/v1/recommend", json={"where": "colour = 1"})
        assert (answer.status_code, answer.json()["error"]["message"]) == (422, refused.json()["error"]["message"])
        hidden = here[0]  # whatever was acknowledged is in force in both
        dismissal = {"event_id": f"d-{os.getpid()}", "user_id": "u00", "item_id": hidden, "event": "dismiss"}
        assert client.post("/v1/events", json={"events": [dismissal]}).json()["accepted"] == 1
        assert all(hidden not in slate(client) for _ in range(4))
        new = {"item_id": "tea-new", "title": "Green tea 99", "category": "food > tea"}
        assert client.post("/v1/items", json={"items": [new]}).json()["accepted"] == 1
        assert all(slate(client, allow=["tea-new"]) == ["tea-new"] for _ in range(4))
        os.kill(first, signal.SIGKILL)
        assert all(hidden not in slate(client) for _ in range(4)), "somebody goes on answering"
        until(lambda: slate_processes(client) == 2 and len(children(server.pid)) == 2)
        assert first not in children(server.pid) and second in children(server.pid)
        pids = children(server.pid)
        os.kill(server.pid, signal.SIGKILL)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_a_process_without_a_model_is_not_asked(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recllm.doors.service.live.RESTART_SECONDS", 0.0)
    version = str(current(folder / "models"))
    scorer = folder / "models" / "versions" / version / "scorer.safetensors"
    slates, body = SlateProcesses({"shop": folder}, 1), SlateRequest(user_id="u00", k=5)
    shop = LiveShop(Workspace.open(folder), "shop", slates.update)
    try:
        shop.update()
        until(lambda: slates.n_ready == 1)
        here = [item.item_id for item in shop.slate(body).items]
        aside = scorer.rename(tmp_path / "aside")
        slates._processes[0].end()  # type: ignore[union-attr]
        until(lambda: not shop.update() and slates._processes[0].is_ready)  # type: ignore[union-attr]
        assert slates.n_ready == 0
        for _ in range(3):  # by this process, whose model is in memory
            _, document = slates.answer(shop, body)
            assert [item["item_id"] for item in json.loads(document)["items"]] == here
        aside.rename(scorer)
        shop.update()
        assert slates.n_ready == 1
    finally:
        slates.close()
        shop.close()


def test_two_processes_share_state(postgres_server: PostgresServer, tmp_path: Path) -> None:
    """On SQLite one process serves a shop."""
    folder = build_shop(tmp_path, store=postgres_server.url(), n_models=1)
    with server_process(folder) as (first, _), server_process(folder) as (second, other_server):
        gone = slate(first)[0]
        event = {"event_id": "only-once", "user_id": "u00", "item_id": gone, "event": "dismiss"}
        assert first.post("/v1/events", json={"events": [event]}).json()["accepted"] == 1
        assert gone not in slate(second), "an event of one process counts in the other's next answer"
        assert second.post("/v1/events", json={"events": [event]}).json()["duplicates"] == 1

        decision = {"user_id": "u02", "purpose": "personalisation", "granted": False}
        first.post("/v1/consent", json={"consent": [decision]}).raise_for_status()
        assert second.post("/v1/recommend", json={"user_id": "u02"}).json()["status"] == "no_consent"

        item = {"item_id": "tea-new", "title": "Green tea of another garden", "category": "food > tea", "price": 4.0}
        second.post("/v1/items", json={"items": [item]}).raise_for_status()

        def shows_it() -> bool:
            body = {"user_id": "u00", "allow": ["tea-new"]}
            answers = [first.post("/v1/recommend", json=body) for _ in range(4)]  # of each of its own processes
            return all(answer.status_code == 200 for answer in answers)

        until(shows_it)
        assert slate(first, allow=["tea-new"]) == ["tea-new"]

        variants = [{"name": "a", "weight": 0.5}, {"name": "b", "weight": 0.5, "treatment": {"personal": False}}]
        first.post("/v1/experiments", json={"name": "shared", "variants": variants}).raise_for_status()
        until(lambda: second.post("/v1/recommend", json={"user_id": "u00"}).json()["experiment"] == "shared")
        sides = [client.post("/v1/recommend", json={"user_id": "u00"}).json()["variant"] for client in (first, second)]
        assert sides[0] == sides[1]

        os.kill(other_server.pid, signal.SIGKILL)
        other_server.wait(60)
        assert slate(first), "one goes on without the other"
        with Workspace.open(folder) as shop:
            key, text = create_key(shop, "site", ["recommend"])
            refused = first.post("/v1/recommend", json={"user_id": "u00"})
            granted = first.post("/v1/recommend", json={"user_id": "u00"}, headers={"X-API-Key": text})
            assert (refused.status_code, granted.status_code) == (401, 200)
            revoke_key(shop, key.key_id)
        assert first.post("/v1/recommend", json={}, headers={"X-API-Key": text}).status_code == 401
