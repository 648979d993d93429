"""What somebody hostile hands to a shop is refused with a word about it, or read as plain data, and leaves no mark.

Each artefact goes through the door that would read it in earnest, while a watch looks at files, processes, sockets,
unpickling and memory. How long each takes is measured by `eval/attack.py`.
"""

from __future__ import annotations

import os
import pickle
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from half_requests import HALF_HEAD, HalfRequests
from hostile_artefacts import ARTEFACTS, SECRET, SLOW, World, look_at
from hostile_callers import ROUTES, ask_everything
from hostile_requests import fault_of, odd_requests
from hostile_texts import PLAIN, doors, processor_seconds
from hostile_watch import NEVER_ENDS, look
from service_world import listening, serving
from waiting import until

from recllm.base.documents import MAX_NESTING, guarded, json_value, toml_table
from recllm.base.errors import ModelError, UsageError
from recllm.doors.service import transport
from recllm.shop.workspace.workspace import Workspace

IN_TESTS = [name for name in ARTEFACTS if name not in SLOW]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, service_shop: Path) -> World:
    return World(tmp_path_factory.mktemp("world"), service_shop)


@pytest.mark.parametrize("name", IN_TESTS)
def test_an_artefact_leaves_no_mark(name: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)  # nothing may be fetched, whether or not it could
    outcome = look_at(ARTEFACTS[name], tmp_path / "around", world)
    assert outcome.effects == (), (outcome.effects, outcome.refusal)
    assert outcome.refusal or ARTEFACTS[name].inert
    said = outcome.refusal.partition(": ")[2]
    assert not outcome.refusal or len(said) > 15, "a refusal says what is wrong"


def test_there_are_many_of_them() -> None:
    assert len(ARTEFACTS) >= 350
    kinds = {name.partition(":")[0] for name in ARTEFACTS}
    assert {"encoder", "adapter", "generator", "gguf", "version", "effects", "table", "campaign"} <= kinds


def _write(path: Path) -> object:
    path.write_text("evil")
    return "written"


def test_the_watch_sees_what_it_looks_for(tmp_path: Path) -> None:
    """A look that sees nothing would find all artefacts harmless."""
    inside, outside = tmp_path / "case", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "kept.txt").write_text("as it was")
    marked = pickle.dumps(socket.socketpair)

    def effects(door: object) -> str:
        outcome = look("a", inside, SECRET, door, inert=True)  # type: ignore[arg-type]
        assert outcome.effects, door
        return " ".join(outcome.effects)

    assert "mark" in effects(lambda: _write(outside / "mark"))
    assert not (outside / "mark").exists()
    assert "kept.txt" in effects(lambda: (outside / "kept.txt").unlink())
    assert (outside / "kept.txt").read_text() == "as it was"
    assert "subprocess" in effects(lambda: subprocess.run([sys.executable, "-c", ""], check=False))
    assert "os.system" in effects(lambda: os.system("true"))  # noqa: S605
    assert "pickle" in effects(lambda: pickle.loads(marked))  # noqa: S301
    assert "getaddrinfo" in effects(lambda: socket.getaddrinfo("localhost", 80))
    with socket.socket() as line:
        assert "connect" in effects(lambda: line.connect(("127.0.0.1", 9)))
    assert "ZeroDivisionError" in effects(lambda: 1 // 0)
    assert "outside" in effects(Mock(side_effect=ModelError(f"it says {SECRET}")))
    assert "MiB" in effects(lambda: bytearray(700 << 20)[-1:])
    assert look("a", inside, SECRET, lambda: _write(inside / "own"), inert=True).effects == ()
    assert look("a", inside, SECRET, lambda: "read", inert=False).effects == ("it was accepted: read",)


Asked = list[dict[str, Any]]


@contextmanager
def counting() -> Iterator[tuple[Any, Asked]]:
    """(address, what was asked) of an app that reads a request to its end and answers 204."""
    asked: Asked = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        asked.append(scope)
        while (message := await receive()).get("more_body"):
            pass
        if message["type"] == "http.request":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    with listening(app, http=transport.BoundedRequests, lifespan="off", timeout_keep_alive=60) as address:
        yield address, asked


def answered(line: socket.socket, request: bytes = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n") -> bytes:
    line.settimeout(NEVER_ENDS)
    line.sendall(request)
    return line.recv(100)


def has_ended(line: socket.socket) -> bool:
    line.settimeout(NEVER_ENDS)
    with suppress(ConnectionError):
        while line.recv(1_000):
            pass
    return True


def test_headers_without_end_are_cut_off() -> None:
    """What an app is given later can no longer be bounded."""
    with counting() as (address, asked):
        with socket.create_connection(address) as line:
            line.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
            sent = 0
            with suppress(OSError):  # it hangs up in the middle
                while sent < 64 << 20:
                    line.sendall(b"y" * (1 << 16))
                    sent += 1 << 16
        assert sent < 64 << 20 and not asked
        with socket.create_connection(address) as line:
            usual = b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 30_000 + b"\r\n\r\n"
            assert answered(line, usual).startswith(b"HTTP/1.1 204"), "usual headers are read"


HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000\r\n\r\n"


def test_half_sent_requests_end_and_leave_room_for_a_new_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    n_files = 4_096 if limits[1] == resource.RLIM_INFINITY else min(4_096, limits[1])
    if n_files < 3_000:
        pytest.skip(f"both sides of 1,300 connections need more than the {n_files} files that may be open here")
    monkeypatch.setattr(transport, "HEADER_SECONDS", 2.0)
    with counting() as (address, asked), ExitStack() as lines:
        lines.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        resource.setrlimit(resource.RLIMIT_NOFILE, (n_files, limits[1]))
        half = [lines.enter_context(socket.create_connection(address)) for _ in range(1_300)]
        for line in half:
            with suppress(OSError):  # the first ones are closed by now
                line.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
        until(lambda: len(transport.BoundedRequests.waiting) <= transport.MAX_WAITING)
        with socket.create_connection(address) as line:
            assert answered(line).startswith(b"HTTP/1.1 204")
            assert answered(line).startswith(b"HTTP/1.1 204"), "on the same connection, too"
        assert all(map(has_ended, half))
        assert len(asked) == 2


def test_what_waits_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection without a request, one that sends blank lines for ever, and a slow body; but no large body."""
    monkeypatch.setattr(transport, "HEADER_SECONDS", 0.5)
    monkeypatch.setattr(transport, "BODY_SECONDS", 0.5)
    with counting() as (address, _), ExitStack() as lines:
        silent, blank, slow, stopped = (lines.enter_context(socket.create_connection(address)) for _ in range(4))
        slow.sendall(HEAD + b"x")
        stopped.sendall(HEAD + b"x" * 20_000)
        began = time.monotonic()
        with suppress(OSError):
            while time.monotonic() - began < NEVER_ENDS:
                blank.sendall(b"\r\n")
                slow.sendall(b"x")
                time.sleep(0.05)
        assert all(map(has_ended, (silent, blank, slow, stopped)))
        with socket.create_connection(address) as line:
            line.sendall(HEAD)
            for _ in range(5):
                line.sendall(b"x" * 18_000)
                time.sleep(0.3)
            assert line.recv(100).startswith(b"HTTP/1.1 204"), "as long as it goes on"


def test_a_table_that_would_take_time_or_memory_is_refused() -> None:
    for text, message in (
        ("x = " + "[" * (MAX_NESTING + 1) + "]" * (MAX_NESTING + 1), "deep"),
        ("x = " + "[" * 50_000, "deep"),
        ("a." * MAX_NESTING + "a = 1", "parts"),
        ("[" + "'a' . " * MAX_NESTING + "a]", "parts"),
        ("x = " + "9" * 5_000, "digits"),
        ("#" * (3 << 20), "characters"),
        ("x = 1\nx = 2", "overwrite"),
    ):
        with pytest.raises(ValueError, match=message):
            toml_table(text)


def test_a_table_as_shops_write_it_is_read() -> None:
    deep = "x = " + "[" * (MAX_NESTING - 1) + "1" + "]" * (MAX_NESTING - 1)
    assert toml_table(deep)
    words = "one. two. three. " * 500
    assert toml_table(f'note = "{words}"\nsites = ["a.b.c.example"]\n[a.b.c.d]\ne.f = 1.5\n')["note"] == words


def test_json_that_is_too_deep_is_a_value_error() -> None:
    assert json_value('{"a": [1]}') == {"a": [1]}
    for text in ("[" * 100_000, '{"a":' * 100_000, "9" * 100_000):
        with pytest.raises(ValueError):
            json_value(text)


FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "\u3000=1", "\u200b=1", "\ufeff=1", "＝1+1")
FORMULAS += ("＋1", "－1", "＠SUM(A1)")


def test_no_cell_is_taken_for_a_formula_and_other_cells_stay() -> None:
    assert [guarded(cell) for cell in FORMULAS] == [f"'{cell}" for cell in FORMULAS]
    others = ["tea", "1 = 1", "a-b", "", "’t", "茶＝叶"]
    assert [guarded(cell) for cell in others] == others and guarded(None) == ""


def test_who_may_what_at_every_route(folder: Path) -> None:
    verdicts = ask_everything(folder, every=31)
    assert verdicts.failures == () and verdicts.cases > 300 and verdicts.routes > 100


def test_a_route_in_no_line_or_open_to_others_is_seen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
