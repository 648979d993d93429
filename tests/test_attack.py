"""The parts of `eval/attack.py` that take little time, on a tiny shop and on a sample of their cases; and that each of
them sees what it looks for."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path

import pytest
from half_requests import HALF_HEAD, HalfRequests
from hostile_callers import ROUTES, ask_everything
from hostile_requests import fault_of, odd_requests
from hostile_texts import PLAIN, doors, processor_seconds
from service_world import serving

from recllm.base.errors import UsageError
from recllm.shop.workspace.workspace import Workspace


def test_who_may_what_at_every_route(folder: Path) -> None:
    verdicts = ask_everything(folder, every=31)
    assert verdicts.failures == () and verdicts.cases > 300 and verdicts.routes > 100


def test_a_route_that_is_in_no_line_or_may_be_asked_by_others_is_seen(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten = ROUTES.replace("/v1/users/erase ", "").replace(
        "metrics    GET     /metrics", "admin      GET     /metrics"
    )
    monkeypatch.setattr("hostile_callers.ROUTES", forgotten)
    failures = ask_everything(folder, paths="^/metrics$").failures
    assert "POST /v1/users/erase is in no line of ROUTES" in failures
    assert "GET /metrics with a key of metrics: in and not 403" in failures


def test_requests_without_a_meaning_are_refused_and_do_no_harm(folder: Path) -> None:
    with serving(folder, console=True) as client:
        faults = []
        for number, (route, address, sent) in enumerate(odd_requests(client.app)):
            if number % 97 == 0 and (fault := fault_of(client.request(route.verb, address, **sent))):
                faults.append(f"{route.verb} {address} {sent}: {fault}")
    assert faults == [] and number > 5_000


def test_every_door_for_texts_answers_and_a_slow_one_is_seen(folder: Path, tmp_path: Path) -> None:
    with Workspace.open(folder) as shop:
        for name, door in doors(shop, tmp_path).items():
            assert door(PLAIN.format(1)) is not None, name
            assert processor_seconds(door, PLAIN.format(2)) < 1.5, name
    assert 0.2 <= processor_seconds(_endless, "", give_up=0.3) < 1.5
    assert processor_seconds(_short_and_slow, "x" * 20_000, give_up=0.3) >= 0.2, "what a door refuses is cut"


def _endless(_: str) -> object:
    while True:
        pass


def _short_and_slow(text: str) -> object:
    if len(text) > 1_000:
        raise UsageError("the text is too long; send at most 1,000 characters")
    return _endless(text)


def test_half_requests_that_are_ended_are_seen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with closing(HalfRequests(address)) as half:
            assert half.begin(4, HALF_HEAD) == 4
            taken = [listener.accept()[0] for _ in range(4)]
            assert half.look() == 0 and half.n_dripping == 2
            assert [line.recv(1 << 16) for line in taken] == [HALF_HEAD + b"y", HALF_HEAD] * 2
            taken[0].close()
            taken[1].sendall(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
            taken[1].close()
            assert half.look() == 2 and (half.n_open, half.n_dripping) == (2, 1)
            for line in taken[2:]:
                line.close()
